"""recipes/forecast.py over a folder of files, as typed: two processes, a kill in the middle, files without sound."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from tiny_model import write_model

from mp3model.audio.decode import decode

ROOT = Path(__file__).resolve().parent.parent
FILES, SHARD = 24, 3
# Nothing tells Accelerate to use the CPU: the launch line alone must be enough.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("ACCELERATE")} | {
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
}
TABLES = ("forecasts", "popularity", "paths", "chances", "flags")


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Path:
    """A model, and a folder of 24 files of two seconds, one text that is called a song, and a picture."""
    folder = tmp_path_factory.mktemp("desk")
    write_model(folder / "model")
    (folder / "songs" / "more").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for number in range(FILES - 1):
        tone = 0.2 * np.sin(generator.uniform(0.05, 0.3) * np.arange(32_000)) + 0.02 * generator.normal(size=32_000)
        place = folder / "songs" / ("more" if number % 2 else ".") / f"song {number:02d}.wav"
        soundfile.write(place, tone, 16_000)
    (folder / "songs" / "text.mp3").write_text("no sound here\n" * 100)
    (folder / "songs" / "cover.jpg").write_bytes(b"no song at all")
    return folder


def command(desk: Path, output: Path, *more: str, processes: int = 1) -> list[str]:
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    words = ["--audio", desk / "songs", "--model", desk / "model", "--release", "2026-12-04", "--region", "US"]
    words += ["--region", "GB"]
    words += ["--samples", "8", "--shard", SHARD, "--output_dir", output, *more]
    return [*launcher, str(ROOT / "recipes" / "forecast.py"), *map(str, words)]


def run(*words, **more) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(*words, **more), capture_output=True, text=True, env=ENVIRONMENT, check=False, timeout=280
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.parquet"))}


@pytest.fixture(scope="module")
def undisturbed(desk, tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess]:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    done = run(desk, folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, done


@pytest.mark.slow
def test_every_file_is_in_the_tables_once_and_what_is_no_sound_is_listed(undisturbed):
    folder, done = undisturbed
    curves = pd.read_parquet(folder / "forecasts.parquet")
    assert curves["track_id"].nunique() == FILES - 1
    assert not curves.duplicated(["track_id", "region", "week"]).any()
    assert len(curves) == (FILES - 1) * 2 * 12
    rejected = pd.read_parquet(folder / "rejected.parquet")
    assert rejected["file"].tolist() == ["text.mp3"]
    assert "text.mp3" in rejected["reason"][0]
    assert f"1 of {FILES} file(s) left out" in done.stderr
    flags = pd.read_parquet(folder / "flags.parquet")
    assert flags["track_id"].nunique() in (0, FILES - 1)
    assert {path.stem for path in folder.glob("*.parquet")} >= {*TABLES, "rejected"}
    assert not (folder / "shards").exists()


@pytest.mark.slow
def test_a_file_is_forecast_as_it_is_alone(desk, undisturbed):
    from mp3model import Forecaster

    name = "song 02.wav"
    alone = Forecaster.from_pretrained(desk / "model", "cpu").forecast(
        (decode(desk / "songs" / name), 16_000), ["US", "GB"], "2026-12-04", samples=8, track_id=name
    )
    curves = pd.read_parquet(undisturbed[0] / "forecasts.parquet")
    own = curves[curves["track_id"] == name].reset_index(drop=True)
    pd.testing.assert_frame_equal(own, alone.curves, check_dtype=False, rtol=1e-3)


@pytest.mark.slow
def test_two_processes_killed_in_the_middle_and_resumed_write_the_same_bytes(desk, undisturbed, tmp_path):
    folder = tmp_path / "again"
    process = subprocess.Popen(
        command(desk, folder, processes=2),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=ENVIRONMENT,
        start_new_session=True,
    )
    deadline = time.monotonic() + 200
    while len(list(folder.glob("shards/0*"))) < 2 and time.monotonic() < deadline:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    children = children_of(process.pid)
    os.killpg(process.pid, signal.SIGKILL)
    for child in children:
        try:
            os.kill(child, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()
    whole = len(list(folder.glob("shards/0*")))
    assert 2 <= whole < -(-FILES // SHARD)
    assert not list(folder.glob("*.parquet"))
    refused = run(desk, folder)
    assert refused.returncode == 2
    assert "--resume" in refused.stderr.splitlines()[-1]
    done = run(desk, folder, "--resume", processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    assert contents(folder) == contents(undisturbed[0])


def children_of(process: int) -> list[int]:
    """The processes that torchrun started, which are in sessions of their own."""
    listed = subprocess.run(["ps", "-eo", "pid,ppid"], capture_output=True, text=True, check=True).stdout.split()[2:]
    return [int(pid) for pid, parent in zip(listed[::2], listed[1::2], strict=True) if int(parent) == process]


@pytest.mark.slow
def test_a_folder_without_usable_sound_is_refused_in_one_line(desk, tmp_path):
    empty = tmp_path / "desk"
    (empty / "songs").mkdir(parents=True)
    (empty / "model").symlink_to(desk / "model")
    said = run(empty, tmp_path / "out")
    assert said.returncode == 2
    assert "no audio files" in said.stderr.splitlines()[-1]
    (empty / "songs" / "text.mp3").write_text("no sound here\n" * 100)
    said = run(empty, tmp_path / "other")
    assert said.returncode == 2
    assert "text.mp3" in said.stderr.splitlines()[-1]
