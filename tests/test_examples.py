"""The examples run as their first lines say, with a tiny model."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from tiny_model import write_model

EXAMPLES = sorted((ROOT / "recipes" / "examples").glob("*.py"))


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A model and a folder of two songs."""
    import soundfile

    folder = tmp_path_factory.mktemp("examples")
    write_model(folder / "run" / "model")
    (folder / "songs").mkdir()
    for name, pitch in (("one", 220), ("two", 330)):
        waveform = 0.2 * np.sin(2 * np.pi * pitch * np.arange(3 * 16_000) / 16_000)
        soundfile.write(folder / "songs" / f"{name}.wav", waveform, 16_000)
    return folder


def run(name, *words, cwd) -> subprocess.CompletedProcess:
    path = ROOT / "recipes" / "examples" / f"{name}.py"
    return subprocess.run(
        [sys.executable, str(path), *map(str, words)], capture_output=True, text=True, check=False, cwd=cwd, timeout=280
    )


def test_examples_say_how_they_are_run_and_are_never_imported():
    assert len(EXAMPLES) >= 4
    for path in EXAMPLES:
        text = path.read_text()
        launch = re.search(r"^ *python (recipes/examples/\S+\.py)(.*)$", text, re.M)
        assert launch, path
        assert ROOT / launch[1] == path
        for option in re.findall(r"--[a-z_]+", launch[2]):
            assert f'"{option}"' in text, f"{path.name} has no {option}"
        assert f"{path.name} is a script" in text


@pytest.mark.slow
def test_one_song_is_forecast_before_and_after_two_weeks(desk, tmp_path):
    words = [desk / "songs" / "one.wav", "--model", desk / "run" / "model", "--region", "US"]
    done = run("forecast_a_song", *words, "--release", "2026-12-04", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "before release: " in done.stdout
    assert "after two weeks: " in done.stdout
    assert "more than 1 M streams: " in done.stdout
    assert (tmp_path / "song.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.slow
def test_a_folder_of_songs_becomes_one_ranked_table(desk, tmp_path):
    words = [desk / "songs", "--model", desk / "run" / "model", "--region", "US", "--region", "GB"]
    done = run("catalogue_to_csv", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "songs.csv")
    assert table[["track_id", "region"]].drop_duplicates().shape[0] == len(table) == 4
    for _, rows in table.groupby("region"):
        assert rows["sum"].is_monotonic_decreasing
    assert (table["low"] <= table["sum"]).all()
    assert (table["sum"] <= table["high"]).all()
    assert table["chance of the top 50"].between(0, 1).all()
    (tmp_path / "empty").mkdir()
    refused = run("catalogue_to_csv", tmp_path / "empty", "--model", desk / "run" / "model", cwd=tmp_path)
    assert refused.returncode == 2
    assert refused.stderr.strip().splitlines()[-1].startswith("error: ")


@pytest.mark.slow
def test_release_dates_stand_under_one_another(desk, tmp_path):
    words = [desk / "songs" / "one.wav", "--model", desk / "run" / "model", "--from", "2026-12-04", "--weeks", "3"]
    done = run("what_if_release_dates", *words, "--region", "US", "--region", "GB", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines() if line.startswith("2026-")] == [
        *("2026-12-04", "2026-12-11", "2026-12-18")
    ]
    assert "US: most on 2026-12-" in done.stdout
