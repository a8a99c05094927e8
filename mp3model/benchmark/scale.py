"""Numbers of tracks in, start-up, step time and memory of training out."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import psutil
import torch

from mp3model.audio.bank import AudioBank
from mp3model.benchmark.encoders import FRAMES
from mp3model.benchmark.measuring import Bench, Row, said
from mp3model.benchmark.steps import endless, recipe_parts, recipe_step
from mp3model.files import written_whole
from mp3model.tables.folder import read_dataset


def scale(bench: Bench, device: torch.device) -> list[Row]:
    """Start-up, step time and memory of training on 1,000, 10,000 and 100,000 tracks, each in a process of its own."""
    from data_prep.tiled import write_tiled

    rows = []
    counts = (1_000, 10_000) if bench.quick else (1_000, 10_000, 100_000)
    with bench.scratch() as folder:
        for tracks in counts:
            write_tiled(folder / str(tracks), tracks)
            row: Row = {"case": f"{tracks:,} tracks", "tracks": tracks, **scale_apart(bench, folder / str(tracks))}
            rows.append(said("scale", row))
            shutil.rmtree(folder / str(tracks))
    return rows


def scale_apart(bench: Bench, folder: Path) -> Row:
    """`scale_of` in a process of its own, whose memory nothing else has touched."""
    asked = json.dumps([str(folder), torch.get_num_threads(), bench.quick, bench.clock])
    code = (
        "import json, sys; from pathlib import Path; from mp3model.benchmark.measuring import Bench; "
        "from mp3model.benchmark.scale import scale_of; folder, threads, quick, clock = json.loads(sys.argv[1]); "
        "bench = Bench(Path(folder), quick, clock=clock); print(json.dumps(scale_of(bench, Path(folder), threads)))"
    )
    done = subprocess.run([sys.executable, "-c", code, asked], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def scale_of(bench: Bench, folder: Path, threads: int) -> Row:
    """One dataset, in this process: seconds to open it, to gather its songs, and a step takes, and its memory.

    `starts_s` counts from the process's birth to the end of the first step, `memory_after_mb` after all steps.
    """
    torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    began = bench.now(torch.device("cpu"))
    dataset, bank = read_dataset(folder), AudioBank(folder)
    opened = bench.now(torch.device("cpu")) - began
    data, batches, model = recipe_parts(dataset, bank, "nano", FRAMES[10.24])
    ready = bench.now(torch.device("cpu")) - began - opened
    model.to(device).train()
    source = endless(batches, torch.utils.data.DataLoader(data, batch_sampler=batches, num_workers=0))
    step, process, memory, seconds = recipe_step(bench, model, device), psutil.Process(), [], []
    step(source, None)
    started = time.process_time() if bench.clock == "processor" else time.time() - process.create_time()
    for _ in range(4 + (16 if bench.quick else 60)):
        at = bench.now(device)
        step(source, None)
        seconds.append(bench.now(device) - at)
        # Pages of libraries that processes share are not what a dataset takes.
        memory.append((process.memory_info().rss - process.memory_info().shared) / 1e6)
    return {
        "opens_s": opened,
        "gathers_s": ready,
        "starts_s": started,
        "step_s": statistics.median(seconds[4:]),
        "memory_mb": round(memory[4]),
        "memory_after_mb": round(memory[-1]),
    }


def scale_picture(rows: list[Row], path: Path) -> None:
    """Start-up, step and memory by tracks."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    tracks = [row["tracks"] for row in rows]
    for axis, names, title in zip(
        axes,
        (("starts_s", "opens_s", "gathers_s"), ("step_s",), ("memory_mb", "memory_after_mb")),
        ("start-up to the first step, seconds", "a training step, seconds", "memory without page cache, MB"),
        strict=True,
    ):
        for name in names:
            axis.plot(tracks, [row[name] for row in rows], marker="o", label=name.rsplit("_", 1)[0].replace("_", " "))
        axis.set(xscale="log", xlabel="tracks", title=title)
        axis.set_ylim(0, 1.15 * axis.get_ylim()[1])
        axis.legend()
    with written_whole(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    plt.close(figure)
