"""Songs and charts as files in, seconds until they are forecasts, banks and tables out."""

from __future__ import annotations

import contextlib
import shutil
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from mp3model.audio.bank import SAMPLE_RATE, AudioBank
from mp3model.audio.frontend import FRAME_SHIFT, LogMel
from mp3model.benchmark.encoders import DTYPES, FRAMES, extractor, pair_of_encoders
from mp3model.benchmark.measuring import Bench, Row, compared, peak_memory, said
from mp3model.config import SIZES, MP3Config
from mp3model.model.encoder import AST


def write_song(path: Path, seconds: float, rate: int = 44_100) -> Path:
    """A made-up stereo song as an mp3, or whatever the name says."""
    import soundfile

    generator = np.random.default_rng(0)
    at = np.arange(int(seconds * rate)) / rate
    mono = 0.3 * np.sin(2 * np.pi * 220 * at) * (0.6 + 0.4 * np.sin(2 * np.pi * 2 * at)) + 0.02 * generator.normal(
        size=len(at)
    )
    soundfile.write(path, np.stack([mono, mono], axis=1), rate)
    return path


def curve_model(folder: Path, size: str, regions: int) -> list[str]:
    """Writes an untrained MP3 model that knows so many regions; their names."""
    from mp3model.model.modeling_mp3 import MP3Model
    from mp3model.tables.history import STATE_FEATURES

    letters = "ABCDEFGHIJ"
    names = [a + b for a in letters for b in letters][:regions]
    width, depth, heads = SIZES[size]
    values = {"log_floor": 5.0, "log_size": 2.3, "mean_total": 0.9, "spread_total": 0.8, "mean_length": 0.4}
    state = {"date": "2026-11-19", "floor": 1e5, "values": [values.get(name, 0.0) for name in STATE_FEATURES]}
    ranks = {"date": "2026-11-19", "size": 200, "rank": [1.0, 50.0, 200.0], "streams": [3e6, 3e5, 1e5]}
    torch.manual_seed(0)
    config = MP3Config(
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        regions=names,
        region_states=dict.fromkeys(names, state),
        scales=dict.fromkeys(names, 1e5),
        rank_curves={name: {"region": name, **ranks} for name in names},
        target_statistics={target: {name: [5.0, 1.0] for name in names} for target in ("total", "debut_rank")},
    )
    MP3Model(config).save_pretrained(folder)
    return names


def file_to_curves(bench: Bench, device: torch.device) -> list[Row]:
    """An mp3 of 30 s → curves by region, 256 paths each; and → all regions' totals, against stock asked one by one."""
    from mp3model.serving.forecaster import Forecaster

    rows = []
    with bench.scratch() as folder:
        song = write_song(folder / "song.mp3", 30.0)
        for size, precision in (
            [("small", name) for name in DTYPES]
            if bench.quick
            else [(size, name) for size in ("tiny", "small", "base") for name in DTYPES]
        ):
            names = curve_model(folder / size, size, 60)
            forecaster = Forecaster.from_pretrained(folder / size, device, precision)

            def ask(count: int, names: list[str] = names, forecaster: Any = forecaster) -> Any:
                return forecaster.forecast(song, names[:count], "2026-12-04", samples=256)

            row: Row = {"case": f"{size} {precision} file to curves, 256 paths"}
            assert forecaster.model.mp2 is not None
            encoder, asked = forecaster.model.mp2.encoder, torch.tensor([0], device=device)
            mel = torch.randn(1, FRAMES[10.24], 128, device=device)
            with torch.inference_mode():
                taken = bench.in_turns(
                    device,
                    one=partial(ask, 1),
                    all=partial(ask, 60),
                    heard_one=partial(encoder, mel, asked),
                    heard_all=partial(encoder, mel),
                )
            with peak_memory(device, row, "memory_mb"):
                ask(60)
            row |= {
                "warm_1_region_s": statistics.median(taken["one"]),
                "warm_60_regions_s": statistics.median(taken["all"]),
                "encoder_1_region_s": statistics.median(taken["heard_one"]),
                "encoder_60_regions_s": statistics.median(taken["heard_all"]),
            }
            row["peer_60_regions_s"] = 60 * row["warm_1_region_s"]
            row["ratio"] = row["peer_60_regions_s"] / row["warm_60_regions_s"]
            if size == "small" and precision == "fp32":
                row["cold_60_regions_s"] = cold(folder / size, song, names)
            rows.append(said("file", row))
        rows += file_to_totals(bench, device, song)
    return rows


def cold(model: Path, song: Path, names: list[str]) -> float:
    """Seconds of the wall from nothing to written tables, in a process of its own."""
    words = [
        sys.executable,
        "-m",
        "mp3model.cli",
        "forecast",
        str(song),
        "--model",
        str(model),
        "--release",
        "2026-12-04",
    ]
    words += [word for name in names for word in ("--region", name)]
    began = time.perf_counter()
    subprocess.run([*words, "-o", str(song.with_suffix(".csv"))], check=True, capture_output=True)
    return time.perf_counter() - began


def file_to_totals(bench: Bench, device: torch.device, song: Path) -> list[Row]:
    """An mp3 → the pooled state that every region's head reads, from the same weights; stock starts anew a region."""
    import soundfile
    import soxr

    from mp3model.audio.decode import decode

    rows = []
    for precision in DTYPES:
        ours, stock = (
            module.eval().to(device) for module in pair_of_encoders("tiny" if bench.quick else "base", 10.24, 10)
        )
        ours.to(DTYPES[precision])
        frontend, extract = LogMel(frames=1024).to(device), extractor(10.24)

        def all_regions(ours: AST = ours, frontend: Any = frontend, precision: str = precision) -> Tensor:
            clip = torch.from_numpy(decode(song)[: 1024 * FRAME_SHIFT]).to(device)
            return ours.forward_features(frontend(clip[None]).to(DTYPES[precision]))[:, :2].float().mean(dim=1)

        def one_region(stock: nn.Module = stock, extract: Any = extract) -> Tensor:
            samples, rate = soundfile.read(song, dtype="float32")
            wave = soxr.resample(samples.mean(axis=1), rate, SAMPLE_RATE)[: 1024 * FRAME_SHIFT]
            read = extract(wave, sampling_rate=SAMPLE_RATE, return_tensors="pt")["input_values"].to(device)
            return stock(read).last_hidden_state[:, :2].mean(dim=1)

        with torch.inference_mode():
            difference = (all_regions() - one_region()).square().mean().sqrt() / one_region().square().mean().sqrt()
            taken = bench.in_turns(device, ours=all_regions, peer=one_region)
        row = compared(
            {"case": f"{'tiny' if bench.quick else 'base'} file to totals, {precision} against stock fp32"}, taken
        )
        row |= {
            "difference": float(difference),
            "ratio_2_regions": 2 * row["ratio"],
            "ratio_60_regions": 60 * row["ratio"],
        }
        rows.append(said("file", row))
    return rows


def prepare(bench: Bench, device: torch.device) -> list[Row]:
    """Decoding, bank building, bank reading and chart reading, beside the plainest way to do each."""
    import av
    import soundfile

    from mp3model.audio.decode import decode

    cpu = torch.device("cpu")
    rows = []
    with bench.scratch() as folder:
        (folder / "songs").mkdir()
        first = write_song(folder / "songs" / "song0.mp3", 30.0)
        for number in range(1, 8 if bench.quick else 32):
            shutil.copyfile(first, first.with_name(f"song{number}.mp3"))
        files = sorted((folder / "songs").iterdir())

        def with_av() -> None:
            with av.open(str(first)) as container:
                resampler = av.AudioResampler("s16", "mono", SAMPLE_RATE)
                np.concatenate(
                    [part.to_ndarray() for frame in container.decode(audio=0) for part in resampler.resample(frame)], 1
                )

        row = compared(
            {"case": "decode an mp3 of 30 s (peer: PyAV)"},
            bench.in_turns(cpu, ours=lambda: decode(first), peer=with_av),
        )
        rows.append(said("prepare", row | {"times_real_time": 30.0 / row["seconds"]}))

        from data_prep.build_bank import build_bank, find_clips

        def bank() -> None:
            shutil.rmtree(folder / "bank", ignore_errors=True)
            build_bank(folder / "songs", find_clips(folder / "songs"), folder / "bank", workers=1)

        row = compared(
            {"case": f"bank of {len(files)} files, one worker (peer: decoding alone)"},
            bench.in_turns(cpu, ours=bank, peer=lambda: [decode(file) for file in files]),
        )
        rows.append(said("prepare", row | {"clips_a_second": len(files) / row["seconds"]}))
        read = AudioBank(folder / "bank")
        soundfile.write(folder / "clip.wav", np.zeros(30 * SAMPLE_RATE, np.int16), SAMPLE_RATE)

        def seek() -> None:
            for start in range(100):
                soundfile.read(folder / "clip.wav", 163_840, start, dtype="int16")

        row = compared(
            {"case": "read 10.24 s a hundred times (peer: soundfile, a wav)"},
            bench.in_turns(cpu, ours=lambda: [read.read(0, start, 163_840) for start in range(100)], peer=seek),
        )
        rows.append(said("prepare", row | {"clips_a_second": 100 / row["seconds"]}))
        rows.append(said("prepare", chart_reading(bench, folder)))
    return rows


def chart_reading(bench: Bench, folder: Path) -> Row:
    """A CSV of weekly charts → dataset folder, beside pandas reading the same file and nothing more."""
    from data_prep.charts import Settings, convert

    weeks = 26 if bench.quick else 260
    dates = pd.date_range(end="2026-11-19", periods=weeks, freq="7D").strftime("%Y-%m-%d")
    chart = [
        (date, region, rank, f"Song {(week * 20 + rank * 7) % 4000}", f"Artist {rank % 97}", int(1e6 / rank**0.7))
        for week, date in enumerate(dates)
        for region in ("us", "gb", "de", "fr", "jp")
        for rank in range(1, 201)
    ]
    table = pd.DataFrame(chart, columns=["date", "region", "rank", "title", "artist", "streams"])
    table.to_csv(folder / "charts.csv", index=False)
    with contextlib.redirect_stdout(sys.stderr):
        taken = bench.in_turns(
            torch.device("cpu"),
            ours=lambda: convert([folder / "charts.csv"], folder / "charts", Settings()),
            peer=lambda: pd.read_csv(folder / "charts.csv"),
        )
    row = compared({"case": f"charts, {len(table):,} rows (peer: pandas.read_csv alone)"}, taken)
    return row | {"rows_a_second": len(table) / row["seconds"]}
