"""The report of a run: its numbers are those of the measures, its table fits a screen."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mp3model.evaluation.accuracy import QUANTILES, CurveForecasts, CurveTruth
from mp3model.evaluation.calibration import quantiles_of_rows, with_quantiles
from mp3model.evaluation.curve_report import (
    add_scores,
    add_skill,
    calibration_of,
    curve_table,
    target_name,
)
from mp3model.evaluation.curve_scores import score_curves
from mp3model.files import write_json
from mp3model.tables.curves import log_streams

N, PERIODS = 160, 5
REPLICATES = 20


def truth(seed: int = 0) -> CurveTruth:
    generator = np.random.default_rng(seed)
    streams = (
        generator.lognormal(8, 1, (N, 1))
        * np.exp(-0.3 * np.arange(PERIODS))
        * generator.lognormal(0, 0.3, (N, PERIODS))
    )
    streams[streams < 500] = 0
    region = np.repeat(["US", "GB"], N // 2)
    artist = np.array([f"artist-{number % 30}" for number in range(N)])
    return CurveTruth(streams, np.full(N, 600.0), region, artist, generator.uniform(1, 200, N))


def forecasts(noise: float, observed: int = 0, seed: int = 1) -> CurveForecasts:
    generator = np.random.default_rng(seed)
    true = truth().streams
    factor = generator.lognormal(0, noise, (N, 1))
    total = true[:, observed:].sum(axis=1, keepdims=True) * factor
    quantiles = total * np.exp(noise * np.linspace(-1.3, 1.3, 9))
    return CurveForecasts(true * factor, quantiles, length=(true[:, observed:] > 0).sum(axis=1).astype(float))


def report(rivals: dict[str, CurveForecasts | None] | None = None) -> dict[str, Any]:
    filled: dict[str, Any] = {}
    for observed in (0, 2):
        others = {"last_week": forecasts(0.9, observed, 2)} if rivals is None else rivals
        add_scores(filled, "test", observed, truth(), forecasts(0.3, observed), others, 0, REPLICATES)
    return filled


def test_targets_are_named_by_what_was_observed():
    assert [target_name(k) for k in (0, 1, 4)] == ["total", "remaining_1", "remaining_4"]


def assert_same_scores(found: dict[str, Any], told: dict[str, Any]) -> None:
    """The same to the last digits: sums by artist add up in another order than sums over rows."""
    assert set(told) <= set(found)
    for name, value in told.items():
        assert found[name] == pytest.approx(value, abs=1e-9), name


def test_scores_are_those_of_the_measures_and_nested_by_split_and_target():
    filled = report()
    assert list(filled["test"]) == ["total", "remaining_2"]
    for observed in (0, 2):
        target = target_name(observed)
        told = score_curves(truth(), forecasts(0.3, observed), observed, 0, REPLICATES)
        assert_same_scores(filled["test"][target], told)
        rival = forecasts(0.9, observed, 2)
        told = score_curves(truth(), rival, observed, 0, REPLICATES)
        assert_same_scores(filled["baselines"]["last_week"]["test"][target], told)
        differences = filled["differences"]["test"][target]["last_week"]
        for measure, difference in differences.items():
            values = [filled["test"][target][measure], filled["baselines"]["last_week"]["test"][target][measure]]
            less = None if None in values else pytest.approx(values[0] - values[1], abs=1e-9)
            assert difference["value"] == less, measure
        # The better one has the lower error: the system less the rival is negative, its interval too.
        assert differences["wape"]["high"] < 0 > differences["crps_logfloor"]["high"]


def test_a_rival_that_cannot_forecast_here_is_left_out(tmp_path):
    filled = report({"nobody": None, "last_week": forecasts(0.9, 2, 2)})
    assert list(filled["baselines"]) == ["last_week"]
    assert "nobody" not in curve_table(filled, "test", "MP3")
    alone = report({"nobody": None})
    assert "baselines" not in alone
    assert curve_table(alone, "test", "MP3").count("\n\n") == 1
    write_json(tmp_path / "report.json", filled)
    assert json.loads((tmp_path / "report.json").read_text())["test"].keys() == filled["test"].keys()


def test_the_table_shows_the_reports_numbers_and_fits_a_screen():
    filled = report()
    true = truth().streams.sum(axis=1)
    paths = forecasts(0.3).quantiles
    filled["test"]["total"]["calibration"] = calibration_of(paths, true, truth().region, truth().artist)
    table = curve_table(filled, "test", "MP3")
    first, second = table.split("\n\n")
    assert first.startswith(f"total on the test split: {N} debuts, 30 artists")
    assert second.startswith("streams after 2 observed period(s) on the test split")
    scores = filled["test"]["total"]
    row = next(line for line in first.splitlines() if line.startswith("MP3 "))
    low, high = scores["crps_logfloor_ci"]
    assert f"{scores['crps_logfloor']:.3f} [{low:.3f} {high:.3f}]" in row
    assert f"{scores['wape']:.1f} [" in row
    assert f"{scores['spearman']:.3f} [" in row
    assert any(line.startswith("last week ") for line in first.splitlines())
    assert any(line.startswith("MP3 less last week: CRPS -") for line in first.splitlines())
    assert f"80 % intervals cover {100 * scores['calibration']['cov80']:.1f} %" in first
    assert re.search(r"80 % intervals, tenth of which .+ of 2 regions from 75 to 85 %", first)
    assert max(len(line) for line in table.splitlines()) <= 160
    # Columns stand below each other.
    head, *rows = first.splitlines()[1:4]
    assert {len(line) for line in rows} == {len(head)}


def test_a_measure_without_a_value_or_interval_is_printed_as_such():
    filled = report()
    filled["test"]["total"] |= {"spearman": 0.5, "spearman_ci": None}
    filled["baselines"]["last_week"]["test"]["total"] |= {"spearman": None, "spearman_ci": None}
    row, rival = curve_table(filled, "test", "MP3").splitlines()[2:4]
    assert " 0.500  " in row
    assert "undefined" in rival


def test_a_split_without_debuts_is_said_to_have_none():
    assert curve_table({}, "test", "MP3") == "No debut in the test split."
    assert curve_table(report(), "validation", "MP3") == "No debut in the validation split."


def skill_of(system: str) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "song_id": [f"song-{number}" for number in range(N)],
            "artist": [f"artist-{number % 30}" for number in range(N)],
            "region": np.repeat(["US", "GB"], N // 2),
            "true": log_streams(truth().streams.sum(axis=1)),
        }
    )
    train = pd.DataFrame({"region": np.repeat(["US", "GB"], 60), "true": generator.normal(4.2, 0.6, 120)})
    steps = 0.1 * np.linspace(-1.3, 1.3, 9)
    middle = frame["true"].to_numpy()[:, None] + 0.1 * generator.normal(size=(N, 1))
    oracle = frame.assign(**dict(zip(QUANTILES, np.maximum(middle + steps, 0).T, strict=True)))
    climatology = with_quantiles(frame, quantiles_of_rows(train), 0.0)
    chosen = {"oracle": oracle, "climatology": climatology}
    values = (
        chosen[system][list(QUANTILES)].to_numpy()
        if system in chosen
        else 0.5 * sum(chosen[name][list(QUANTILES)].to_numpy() for name in chosen)
    )
    filled = report()
    add_skill(filled, "test", 0, frame, 10.0**values - 1, train, {"oracle": oracle, "oracle_audio": oracle})
    assert "skill, with 1 the oracle:" in curve_table(filled, "test", "MP3")
    return filled["skill"]["test"]["total"]


def test_climatology_has_skill_zero_the_oracle_one_and_what_lies_between_between():
    assert skill_of("climatology")["oracle"]["skill"] == pytest.approx(0, abs=1e-6)
    assert skill_of("oracle")["oracle"]["skill"] == pytest.approx(1, abs=1e-6)
    between = skill_of("between")["oracle_audio"]
    assert 0.05 < between["skill"] < 0.95
    assert between["crps_oracle"] < between["crps"] < between["crps_climatology"]


def test_a_forecast_that_draws_the_truth_is_calibrated_and_one_too_narrow_is_not():
    generator = np.random.default_rng(3)
    n, regions, artists = 3000, np.repeat(["US", "GB", "BR"], 1000), np.arange(3000)
    middle = generator.normal(size=n)
    true = np.exp(middle + generator.normal(size=n))
    good = np.exp(middle[:, None] + generator.normal(size=(n, 99)))
    narrow = np.exp(middle[:, None] + 0.4 * generator.normal(size=(n, 99)))
    found = calibration_of(good, true, regions, artists)
    assert found["pit_deviation"] < found["pit_luck"] < 0.02
    assert found["cov80"] == pytest.approx(0.8, abs=0.03)
    assert set(found["cov80_regions"]) == {"US", "GB", "BR"}
    # Of those that had most, a right forecast covers few; of those of which most was foretold, as many as of others.
    assert found["cov80_top"] < 0.6
    assert found["cov80_top_if_right"] == pytest.approx(found["cov80_top"], abs=0.06)
    assert found["cov80_foretold"] == pytest.approx(0.8, abs=0.05)
    worse = calibration_of(narrow, true, regions, artists)
    assert worse["pit_deviation"] > 0.1 > worse["pit_luck"]
    assert worse["cov80"] < 0.5
    assert worse["cov80_top_if_right"] > worse["cov80_top"] + 0.1
    # Much of the mass at zero is no fault.
    zeros = calibration_of(np.where(good < 1, 0, good), np.where(true < 1, 0, true), regions, artists)
    assert zeros["pit_deviation"] < 0.02
    assert zeros["cov80_if_right"] == pytest.approx(zeros["cov80"], abs=0.02)
    assert zeros["cov80_if_right"] > found["cov80_if_right"] + 0.02
    assert found["cov80_if_right"] == worse["cov80_if_right"] == pytest.approx(0.8, abs=0.02)


def test_rows_without_a_truth_are_left_out_of_the_calibration():
    generator = np.random.default_rng(0)
    totals, true = generator.random((100, 50)), generator.random(100)
    regions, artists = np.repeat("US", 100), np.arange(100) % 7
    told = calibration_of(totals[:60], true[:60], regions[:60], artists[:60])
    true[60:] = np.nan
    assert calibration_of(totals, true, regions, artists) == told
    assert calibration_of(totals[:10], true[:10], regions[:10], artists[:10])["cov80_regions"] == {}
