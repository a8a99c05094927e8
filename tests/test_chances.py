"""What people ask beyond metrics, of paths that are counted by hand: milestones, top ranks, place in a catalogue."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mp3model.evaluation.accuracy import LEVELS, QUANTILES
from mp3model.evaluation.forecasts import CurvePaths, RankCurves, best_ranks
from mp3model.files import InputError
from mp3model.serving.result import Forecast
from mp3model.serving.trust import flag_table

CHART = {"region": "US", "date": "2026-11-19", "size": 100, "rank": [1.0, 10.0, 100.0], "streams": [1000, 100, 10]}


def forecast_of(streams: np.ndarray, percentiles: pd.DataFrame | None = None, observed: int = 0) -> Forecast:
    """One song in US, which has a chart, and, for a second row, in SE, which has none."""
    regions = ["US", "SE"][: len(streams)]
    rows = pd.DataFrame(
        {
            "track_id": "song",
            "region": regions,
            "debut": pd.Timestamp("2026-12-10"),
            "observed": observed,
            "cutoff": pd.Timestamp("2026-12-03"),
        }
    )
    sampled = CurvePaths(rows, streams, "W", np.full(streams.shape[:2], np.nan))
    best = best_ranks(rows, streams, RankCurves.from_last({"US": CHART}))
    floors = np.ones(len(regions))
    empty = pd.DataFrame(columns=["track_id", "region", "place", "song_id", "title", "artist", "streams"])
    places = pd.DataFrame(columns=["0.5"]) if percentiles is None else percentiles
    return Forecast(sampled, flag_table([]), empty, places, floors, floors, best)


def answer(table: pd.DataFrame, question: str, amount: float | None = None, region: str = "US") -> pd.Series:
    rows = table[(table["question"] == question) & (table["region"] == region)]
    return (rows if amount is None else rows[rows["amount"] == amount]).squeeze()


def test_milestones_are_counted_path_by_path_and_those_never_reached_stay_open():
    # Sums 6, 40, 40 and 0; 30 is reached in period 1 and 2.
    streams = np.array([[[3, 3, 0], [20, 10, 10], [10, 10, 20], [0, 0, 0.0]]])
    table = forecast_of(streams).chances(milestones=[30, 40], tops=[])
    assert answer(table, "sum_above", 30)["probability"] == 0.5
    assert answer(table, "sum_above", 40)["probability"] == 0  # more than, not at least
    there = answer(table, "weeks_to", 30)
    assert there["probability"] == 0.5
    # A quarter of the paths are there by the end of period 1, half by that of period 2, the others never.
    expected = [1, 1, 2, 2, 2, np.nan, np.nan, np.nan, np.nan]
    assert there[list(QUANTILES)].tolist() == pytest.approx(expected, nan_ok=True)
    assert answer(table, "weeks_to", 40)["probability"] == 0.5


def test_the_chance_of_a_top_rank_is_by_the_best_period_and_unknown_without_a_chart():
    path = [[50, 200, 0], [99, 9, 0], [5, 0, 0], [0, 0, 5000.0]]
    table = forecast_of(np.array([path, path])).chances(milestones=[], tops=[1, 10, 100])
    shares = [answer(table, "top", top)["probability"] for top in (1, 10, 100)]
    assert shares == [0.25, 0.5, 0.75]
    assert all(np.isnan(answer(table, "top", top, "SE")["probability"]) for top in (1, 10, 100))


def test_ranks_that_were_observed_stand_whatever_the_chart_would_say():
    streams = np.array([[[50, 60, 20.0], [50, 60, 500]]])
    rows = forecast_of(streams).sampled.rows.assign(observed=2)
    curves = RankCurves.from_last({"US": CHART})
    seen = np.array([[7, np.nan, 3.0]])
    found = best_ranks(rows, streams, curves, seen)
    assert found[0, 0] == 7
    assert 1 < found[0, 1] < 7
    assert best_ranks(rows, np.zeros_like(streams), curves).tolist() == [[np.inf, np.inf]]


def test_the_place_in_the_catalogue_is_told_where_there_is_one():
    places = pd.DataFrame({"track_id": ["song"], "region": ["US"], "mean": [50.0]})
    places = places.assign(**dict(zip(QUANTILES, 100 * np.array(LEVELS), strict=True)))
    table = forecast_of(np.ones((1, 4, 3)), places).chances()
    assert answer(table, "percentile")[list(QUANTILES)].tolist() == pytest.approx(list(100 * np.array(LEVELS)))
    assert "percentile" not in set(forecast_of(np.ones((1, 4, 3))).chances()["question"])


@settings(max_examples=30)
@given(st.integers(0, 999), st.floats(1, 500))
def test_chances_fall_as_the_amount_grows_and_time_rises(seed: int, amount: float):
    generator = np.random.default_rng(seed)
    streams = np.where(generator.random((1, 40, 6)) < 0.3, 0, generator.gamma(1, 60, (1, 40, 6)))
    table = forecast_of(streams).chances([amount, 2 * amount], [5, 50])
    once, twice = answer(table, "sum_above", amount), answer(table, "sum_above", 2 * amount)
    assert once["probability"] >= twice["probability"]
    early = answer(table, "weeks_to", amount)[list(QUANTILES)].astype(float).fillna(np.inf)
    late = answer(table, "weeks_to", 2 * amount)[list(QUANTILES)].astype(float).fillna(np.inf)
    assert (early <= late).all()
    assert answer(table, "top", 5)["probability"] <= answer(table, "top", 50)["probability"]


@pytest.mark.parametrize(("milestones", "tops"), [([0], []), ([np.nan], []), ([-5], []), ([], [0])])
def test_amounts_that_are_none_are_refused(milestones, tops):
    with pytest.raises(InputError, match="milestone or top of"):
        forecast_of(np.ones((1, 2, 3))).chances(milestones, tops)
