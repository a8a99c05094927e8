"""A label's thirty songs and its distributor's export become a fine-tuned model and a forecast, as a user does it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from layout_samples import own_songs

from data_prep.charts import main as charts
from data_prep.previews import main as previews
from mp3model.audio.bank import AudioBank
from mp3model.tables.folder import read_dataset

ROOT = Path(__file__).resolve().parent.parent
TINY = "--size nano --frames 128 --epochs 1 --windows 1 --batch_size 8 --folds 0 --loader_workers 0"
SMALL = (
    "--covariates state --width 16 --layers 1 --heads 2 --epochs 2 --batch_size 8 --windows 1 --paths 16 --observed 0 "
    "--loader_workers 0"
)


def run(*arguments: object) -> str:
    """Output of a command in the repository's root."""
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=290, cwd=ROOT)
    assert done.returncode == 0, f"{arguments}: {done.stderr[-3000:]}"
    return done.stdout


def prepared(folder: Path) -> tuple[Path, Path]:
    """The dataset folder of an export and masters, made by the two commands; the masters."""
    export, masters = own_songs(folder)
    data = folder / "data"
    columns = "date=Sale Date,isrc=ISRC,title=Track Title,artist=Artist,region=Territory,streams=Quantity"
    assert charts([str(export), "--out", str(data), "--columns", columns]) == 0
    assert previews([str(data), "--provider", "local", "--files", str(masters), "--out", str(data)]) == 0
    return data, masters


def test_an_export_and_masters_named_by_isrc_become_one_folder(tmp_path: Path):
    folder, _ = prepared(tmp_path)
    data = read_dataset(folder)
    assert data.charts is None
    assert (data.frequency, data.regions) == ("D", ["GB", "US"])
    assert data.splits is not None
    assert data.splits["track_id"].nunique() == 30
    assert set(data.splits["split"]) >= {"train", "validation", "test"}
    bank = AudioBank(folder)
    assert set(bank.index["track_id"]) == set(data.tracks["track_id"]) - {"isrc:QZ1AB2399999"}
    assert pd.read_csv(folder / "matches.csv")["how"].unique().tolist() == ["isrc"]
    assert pd.read_csv(folder / "unmatched.csv")["track_id"].tolist() == ["isrc:QZ1AB2399999"]


@pytest.mark.slow
def test_thirty_own_songs_fine_tune_an_existing_models_ears_and_are_forecast(small_dataset: Path, tmp_path: Path):
    # The existing model: ears that another catalogue trained.
    ears = tmp_path / "ears"
    run("recipes/mp2.py", "--data", small_dataset, "--output_dir", ears, *TINY.split())

    data, masters = prepared(tmp_path)
    tuned = tmp_path / "tuned"
    run("recipes/mp3.py", "--data", data, "--mp2", ears / "model", "--output_dir", tuned, *SMALL.split())
    report = json.loads((tuned / "report.json").read_text())
    assert "test" in report

    song = next(masters.glob("*.wav"))
    out = tmp_path / "song.csv"
    run(
        *("-m", "mp3model.cli", "forecast", song, "--model", tuned / "model", "--data", data),
        *("--region", "US", "--release", "2025-03-14", "--samples", 32, "-o", out),
    )
    curve = pd.read_csv(out)
    assert curve["region"].unique().tolist() == ["US"]
    assert len(curve) == 84
    assert np.isfinite(curve["mean"]).all()
