"""Who returns at Christmas, what last year says of it, measures and pictures; the recipe from training to table."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_mp3_recipe import ENVIRONMENT, ROOT, SMALL, run
from test_past import ORIGIN, row, three_years

from mp3model.evaluation.accuracy import CurveForecasts
from mp3model.evaluation.forecasts import truth_of
from mp3model.evaluation.returns import (
    LAST_YEAR,
    SCALED,
    chosen,
    christmas_returns,
    growth,
    last_year,
    returns_report,
    returns_table,
    rivals,
    weekly_picture,
    weekly_totals,
)
from mp3model.files import InputError
from mp3model.tables.debuts import debuts_of


def test_songs_that_left_after_christmas_and_are_old_enough_return():
    rows = christmas_returns(three_years(), ORIGIN)
    assert list(zip(rows["song_id"], rows["region"], rows["again"], strict=True)) == [
        ("bells", "GB", False),
        ("bells", "US", True),
    ]
    # By mid-January 2019 the bells of GB, first heard three weeks before, are no old song.
    early = christmas_returns(three_years(), "2019-01-17", horizon=50)
    assert list(zip(early["song_id"], early["region"], strict=True)) == [("bells", "US")]
    with pytest.raises(InputError, match="2017-12-25"):
        christmas_returns(three_years(), "2018-10-04")


def test_nothing_after_the_origin_decides_who_returns():
    dataset = three_years()
    known = dataset.curves[dataset.curves["date"] <= pd.Timestamp(ORIGIN)].reset_index(drop=True)
    charts = dataset.charts[dataset.charts["date"] <= pd.Timestamp(ORIGIN)].reset_index(drop=True)
    cut = replace(dataset, curves=known, charts=charts)
    rows = christmas_returns(cut, ORIGIN)
    pd.testing.assert_frame_equal(rows, christmas_returns(dataset, ORIGIN))
    np.testing.assert_array_equal(last_year(cut, rows, 12), last_year(dataset, rows, 12))
    np.testing.assert_array_equal(growth(cut, rows), growth(dataset, rows))


def test_last_year_repeats_itself_and_grows_with_the_floor():
    rows = christmas_returns(three_years(), ORIGIN)
    told = rivals(three_years(), rows, 12)
    at = row(rows, "bells")
    expected = np.zeros(12)
    expected[6:8] = [1000, 2000]
    np.testing.assert_array_equal(told[LAST_YEAR].curve[at], expected)
    np.testing.assert_array_equal(told[SCALED].curve[at], 2 * expected)
    assert not told[LAST_YEAR].curve[row(rows, "bells", "GB")].any()


def test_measures_differences_and_totals_are_those_of_the_rows():
    dataset = three_years()
    rows = christmas_returns(dataset, ORIGIN)
    asked = debuts_of(dataset, rows, 12)
    truth = truth_of(asked.rows, asked.curves)
    others = rivals(dataset, rows, 12)
    right = CurveForecasts(truth.streams, quantiles=np.repeat(truth.streams.sum(axis=1)[:, None], 9, axis=1))
    report = returns_report(rows, truth, {"MP3": right} | others, replicates=20)
    # The bells rang with 9999 in the eighth week, where last year says 1000 and 2000.
    assert report["systems"]["MP3"]["wape"]["value"] == 0
    assert report["systems"][LAST_YEAR]["wape"]["value"] == pytest.approx(100 * (1000 + 7999) / 9999)
    assert report["differences"][LAST_YEAR]["wape"]["value"] == pytest.approx(-100 * 8999 / 9999)
    error = abs(np.log10(1 + 9999 / 200) - np.log10(1 + 3000 / 200)) / 2
    assert report["systems"][LAST_YEAR]["crps_logfloor"]["value"] == pytest.approx(error)
    assert (report["n_rows"], report["n_songs"], report["n_regions"], report["returned"]) == (2, 1, 2, 0.5)
    assert "89.999" in returns_table(report)
    paths = np.stack([truth.streams * factor for factor in (0.5, 1.0, 2.0)], axis=1)
    totals = weekly_totals(truth, paths, others[LAST_YEAR])
    assert totals["truth"][7] == totals["median"][7] == 9999
    assert totals["low"][7] < 9999 < totals["high"][7]
    assert totals["last_year"][6:8] == [1000, 2000]
    dates = np.arange("2019-11-07", "2020-01-30", 7, dtype="datetime64[D]")
    assert weekly_picture(totals, dates, "Christmas").axes[0].get_legend() is not None
    kept = chosen(truth, np.array([True, False]))
    assert kept.streams.shape == (1, 12)
    assert chosen(right, np.array([False, True])).quantiles.shape == (1, 9)


@pytest.mark.slow
def test_a_model_learns_the_past_and_its_returns_are_scored(tmp_path):
    folder = tmp_path / "market"
    words = ["--songs", "60", "--seed", "3", "--oracle-runs", "16", "--workers", "1", "--out", str(folder)]
    subprocess.run([sys.executable, "-m", "data_prep.market", *words], check=True, capture_output=True, env=ENVIRONMENT)
    words = ["--data", folder, "--output_dir", tmp_path / "run", "--encoder", "none", "--epochs", "2", *SMALL]
    refused = run("mp3", *words, "--running", "0.5", check=False)
    assert refused.returncode == 2
    assert "add past to --covariates" in refused.stderr
    run("mp3", *words, "--covariates", "state", "past", "--running", "0.5")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert sum("validation_loss_running" in line for line in lines) == 2
    dates = pd.read_parquet(folder / "charts.parquet")["date"]
    origin = max(day for day in dates.unique() if day.month == 10 and day.year == 2021)
    words = ["--data", folder, "--model", tmp_path / "run" / "model", "--samples", "20"]
    run("returns", *words, "--origin", str(origin.date()), "--output_dir", tmp_path / "returns")
    report = json.loads((tmp_path / "returns" / "report.json").read_text())
    whole = report["slices"]["all that charted"]
    assert set(whole["systems"]) == {"MP3", LAST_YEAR, SCALED}
    assert (tmp_path / "returns" / "returns.png").stat().st_size > 10_000
    assert "charted both Christmases" in (tmp_path / "returns" / "table.txt").read_text()
    words += ["--origin", str(origin.date())]
    run("forecast", *words, "--output_dir", tmp_path / "running")
    run("forecast", *words, "--returning", "--output_dir", tmp_path / "returning")
    running, returning = (pd.read_parquet(tmp_path / name / "forecasts.parquet") for name in ("running", "returning"))
    keys = [set(zip(table["track_id"], table["region"], strict=True)) for table in (running, returning)]
    assert keys[0] < keys[1]
    assert running["date"].max() > origin


def test_the_recipe_says_what_a_model_lacks():
    done = subprocess.run(
        [sys.executable, str(Path(ROOT) / "recipes" / "returns.py"), "--help"],
        capture_output=True, text=True, check=True, env=ENVIRONMENT,
    )  # fmt: skip
    assert "--origin" in done.stdout
