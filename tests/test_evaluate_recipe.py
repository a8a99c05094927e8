"""recipes/evaluate.py end to end, by the command lines that a user types."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_charts import HORIZON, REGIONS, small_charts
from tiny_model import write_model

from mp3model.files import write_json
from mp3model.tables.debuts import debut_rows, debuts_of
from mp3model.tables.folder import read_dataset, write_dataset
from mp3model.training.forecasting import forecaster_of

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
PATHS = 16


def run(*words: object) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "recipes" / "evaluate.py"), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False, timeout=120)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder, made = tmp_path_factory.mktemp("charts") / "data", small_charts()
    info = {**made.info, "sources": ["made"]}
    write_dataset(folder, tracks=made.tracks, curves=made.curves, charts=made.charts, splits=made.splits, info=info)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    scales = dict.fromkeys(REGIONS, 50.0)
    return write_model(
        tmp_path_factory.mktemp("models") / "model",
        regions=list(REGIONS),
        horizon=HORIZON,
        encoder="none",
        scales=scales,
        region_states=None,
        rank_curves=None,
    )


@pytest.fixture(scope="module")
def tables(data, model, tmp_path_factory) -> Path:
    """What recipes/forecast.py writes of the test split with two periods observed."""
    dataset = read_dataset(data)
    asked = debuts_of(dataset, debut_rows(dataset), HORIZON).of_split("test")
    paths = forecaster_of(model, dataset, PATHS).paths(asked, 2)
    folder = tmp_path_factory.mktemp("forecasts")
    paths.curves().to_parquet(folder / "forecasts.parquet")
    paths.popularity().to_parquet(folder / "popularity.parquet")
    write_json(folder / "arguments.json", {"observed": 2})
    return folder


def test_a_model_is_scored_beside_tables_and_floors_with_slices_pictures_and_an_audit(data, model, tables, tmp_path):
    folder = tmp_path / "r"
    words = ["--observed", 0, 2, "--paths", PATHS, "--audit", "--audit_days", 2, "--audit_each", 1]
    words += ["--bench", folder / "table.parquet"]
    done = run("--data", data, "--model", model, "--forecasts", tables, "--output_dir", folder, *words)
    assert done.returncode == 0, done.stderr[-3000:]
    content = json.loads((folder / "report.json").read_text())
    assert content["leader"] == "MP3"
    for target in ("total", "remaining_2"):
        low, high = content["test"][target]["crps_logfloor_ci"]
        assert low <= content["test"][target]["crps_logfloor"] <= high
        assert "region median" in content["differences"]["test"][target]
        slices = content["slices"]["test"][target]
        assert set(slices) == {"region", "decile", "forecast", "month", "kind"}
        assert sum(values["n"] for values in slices["region"].values()) <= content["test"][target]["n_rows"]
        worth = content["inputs"]["test"][target]
        assert {"artist", "regions"} <= set(worth)
        later = slices["kind"].get("open later", {"n": 0})["n"]
        assert worth.get("regions where open", {"n": 0})["n"] == later
        assert sum(content["reliability"]["test"][target]["MP3"]["pit"]) == pytest.approx(1)
    # Nothing can be carried forward before anything was seen.
    assert set(content["baselines"]["carry-forward"]["test"]) == {"remaining_2"}
    # The tables are the same model's, so they score the same.
    ours, theirs = content["test"]["remaining_2"], content["baselines"]["tables"]["test"]
    assert set(theirs) == {"remaining_2"}
    for measure in ("crps_logfloor", "wape", "cov80", "mae_length", "n_rows"):
        assert np.isclose(theirs["remaining_2"][measure], ours[measure]), measure
    assert content["audit"]["largest_difference"] == content["audit"]["moved"] == 0
    assert len(content["audit"]["rows"]) + len(content["audit"]["not_reached"]) >= 2 * len(REGIONS)
    assert "no forecast" in done.stdout
    assert {"leaderboard.png", "error_by_observed.png", "reliability.png", "inputs.png"} <= set(content["pictures"])
    assert (folder / "table.txt").read_text().startswith("total on the test split")
    for observed in (0, 2):
        table = pd.read_parquet(folder / f"table.{observed}.parquet")
        assert len(table) == content["test"]["total"]["n_rows"]
        assert {"row_id", "y0", "q10", "q90", "score", "length"} <= set(table.columns)
    text = (folder / "report.md").read_text()
    for name in content["pictures"]:
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
        assert f"({name})" in text


@pytest.mark.slow
def test_tables_alone_are_scored_at_their_own_observed_periods(data, tables, tmp_path):
    done = run("--data", data, "--forecasts", tables, "--baselines", "region median", "--output_dir", tmp_path / "r")
    assert done.returncode == 0, done.stderr[-3000:]
    content = json.loads((tmp_path / "r" / "report.json").read_text())
    assert set(content["test"]) == {"remaining_2"}
    assert set(content["baselines"]) == {"region median"}


LEAK = """
import runpy, sys
from mp3model.model.covariates import Covariates
honest = Covariates.gather
def leaky(self, rows, curves=None):
    batch = honest(self, rows, curves)
    return batch | {"floor": batch["floor"] * (1 + 1e-6 * len(self.history.lives.debut))}
Covariates.gather = leaky
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""


@pytest.mark.slow
def test_a_model_whose_inputs_look_ahead_fails_the_audit(data, model, tmp_path):
    words = ["--data", data, "--model", model, "--observed", 0, "--paths", 8, "--baselines", "none", "--audit"]
    words += ["--audit_days", 1]
    recipe = ROOT / "recipes" / "evaluate.py"
    command = [sys.executable, "-c", LEAK, *map(str, [recipe, *words, "--output_dir", tmp_path / "r"])]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False, timeout=120)
    assert done.returncode == 1, done.stderr[-3000:]
    assert done.stderr.splitlines()[-1].startswith("error: All after the cut-off changed: ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--model"),
        (["--forecasts", "nowhere"], "nowhere"),
        (["--model", "nowhere"], "model nowhere: no config.json in it"),
        (["--baselines", "region median", "--bench", "table.csv"], "table.csv"),
        pytest.param(["--model", "MODEL", "--observed", "99"], "99", marks=pytest.mark.slow),
        pytest.param(["--model", "MODEL", "--baselines", "tea leaves"], "tea leaves", marks=pytest.mark.slow),
    ],
)
def test_wrong_input_is_answered_in_one_line_and_leaves_nothing(words, message, data, model, tmp_path):
    given = [model if word == "MODEL" else word for word in words]
    done = run("--data", data, *given, "--output_dir", tmp_path / "r")
    assert done.returncode == 2
    assert message in done.stderr.splitlines()[-1]
    assert not (tmp_path / "r").exists()
