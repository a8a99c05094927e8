"""Popularity metrics of hand-written curves against values worked out by hand, and what must hold of any curve."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from mp3model.evaluation.accuracy import LEVELS
from mp3model.evaluation.popularity import (
    METRICS,
    RankCurve,
    chart_weeks,
    charted_streams,
    half_life,
    peak_week,
    percentile,
    popularity_metrics,
    popularity_table,
    probability_of_top,
    probability_of_total,
    rank_scores,
    remaining,
    summarise_paths,
    summarise_table,
    time_to_milestone,
)
from mp3model.files import InputError

nan = np.nan
# debut, max, mean, std, length, sum, skewness, kurtosis, peak_week, half_life
HAND = {
    "flat": ([5, 5, 5, 5], [5, 5, 5, 0, 4, 20, nan, nan, 0, 4]),
    # Deviations −1, −1, −1, 3: m2 = 3, m3 = 6, m4 = 21.
    "spike": ([1, 1, 5, 1], [1, 5, 2, 3**0.5, 4, 8, 6 / 3**1.5, 21 / 9, 2, 1]),
    # Deviations 9, 1, −3, −7: m2 = 35, m3 = 90, m4 = 9044 / 4.
    "decay": ([20, 12, 8, 4], [20, 20, 11, 35**0.5, 4, 44, 90 / 35**1.5, 2261 / 35**2, 0, 2]),
    # Off the chart in periods 1 and 2: deviations 1, −1.
    "gap": ([4, 0, 0, 2], [4, 4, 3, 1, 2, 6, 0, 1, 0, 1]),
    "one week": ([9, 0, 0, 0], [9, 9, 9, 0, 1, 9, nan, nan, 0, 1]),
    "late": ([0, 0, 6, 4], [0, 6, 5, 1, 2, 10, 0, 1, 2, 2]),
    "zeros": ([0, 0, 0, 0], [0, 0, nan, nan, 0, 0, nan, nan, nan, nan]),
    "unknown in it": ([8, nan, 2, nan], [8, 8, 5, 3, 2, 10, 0, 1, 0, 2]),
    "debut unknown": ([nan, 6, 6, 2], [nan, 6, 14 / 3, (32 / 9) ** 0.5, 3, 14, -(0.5**0.5), 1.5, 1, 2]),
    "nothing known": ([nan, nan, nan, nan], [nan] * 10),
    "one period": ([7], [7, 7, 7, 0, 1, 7, nan, nan, 0, 1]),
}
# Under "zero-filled" the mean, standard deviation, skewness and kurtosis alone differ.
ZERO_FILLED = {
    # Deviations 2.5, −1.5, −1.5, .5: m2 = 11/4, m3 = 9/4, m4 = 49.25/4.
    "gap": [1.5, 2.75**0.5, 2.25 / 2.75**1.5, 12.3125 / 2.75**2],
    # As the spike's shape: m2 = 243/16, skewness and kurtosis of one among four.
    "one week": [2.25, (243 / 16) ** 0.5, 6 / 3**1.5, 21 / 9],
    "zeros": [0, 0, nan, nan],
    "decay": [11, 35**0.5, 90 / 35**1.5, 2261 / 35**2],
    "unknown in it": [5, 3, 0, 1],
    "nothing known": [nan] * 4,
}
curves = arrays(
    float,
    array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=7),
    elements=st.one_of(st.just(0.0), st.just(nan), st.integers(1, 10**6).map(float)),
)


@pytest.mark.parametrize("name", HAND)
def test_hand_written_curves_have_the_metrics_worked_out_by_hand(name: str):
    curve, expected = HAND[name]
    found = popularity_metrics(curve)
    assert tuple(found) == METRICS
    assert [float(found[metric]) for metric in METRICS[:10]] == pytest.approx(expected, nan_ok=True)


def test_equal_streams_have_no_skewness_even_where_their_mean_is_rounded():
    for curve in ([0.1] * 3, [0.1] * 6, [1e280] * 3, [1e-300] * 3):
        found = popularity_metrics(curve)
        assert found["std"] == 0
        assert np.isnan(found["skewness"])
        assert np.isnan(found["kurtosis"])
    assert popularity_metrics([1e280, 1e280, 5e280])["skewness"] == pytest.approx(0.5**0.5)


def test_curves_that_are_even_about_their_mean_have_exactly_no_skewness_and_others_keep_theirs():
    # Neither mean is a binary fraction, so that the third moments come out near, not at, zero.
    assert popularity_metrics([[0.1, 0.2, 0.3], [10.1, 10.2, 10.3]])["skewness"].tolist() == [0, 0]
    # However small the differences are beside the streams, or the streams beside those of another curve.
    found = popularity_metrics([[1000, 1000, 1001], [1e200, 1e200, 1.5e200]])
    assert found["skewness"].tolist() == pytest.approx([0.5**0.5] * 2)
    assert found["std"].tolist() == pytest.approx([2**0.5 / 3, 2**0.5 / 6 * 1e200])


@pytest.mark.parametrize("name", ZERO_FILLED)
def test_zero_filled_counts_periods_off_the_chart_in_the_moments_alone(name: str):
    curve, expected = HAND[name][0], ZERO_FILLED[name]
    found, default = popularity_metrics(curve, "zero-filled"), popularity_metrics(curve)
    moments = ("mean", "std", "skewness", "kurtosis")
    assert [float(found[metric]) for metric in moments] == pytest.approx(expected, nan_ok=True)
    for metric in set(METRICS) - set(moments):
        np.testing.assert_equal(found[metric], default[metric])


def test_periods_below_the_lowest_of_the_chart_are_off_it():
    found = popularity_metrics([50.0, 9.0, 10.0, nan], lowest=[10, 10, 10, 10], observed=1)
    off = popularity_metrics([50.0, 0.0, 10.0, nan], observed=1)
    np.testing.assert_equal(found, off)
    assert found["length"] == 2
    # Where no chart is on hand, streams stand as they are.
    assert popularity_metrics([50.0, 9.0], lowest=[10, nan])["length"] == 2
    assert charted_streams([[5.0, 20.0], [5.0, 20.0]], [[1], [30]]).tolist() == [[5, 20], [0, 0]]
    assert charted_streams([5, None, 20], [None, 3, 30]).tolist() == pytest.approx([5, nan, 0], nan_ok=True)
    assert peak_week([50.0, 40.0], lowest=[60, 30]) == 1
    assert half_life([8.0, 6.0, 5.0], lowest=5.5)[0] == 2


def test_curves_of_which_nothing_is_known_divide_nothing_by_nothing():
    with np.errstate(all="raise"):
        found = popularity_metrics([[nan, nan], [4.0, 2.0]])
    assert found["mean"].tolist() == pytest.approx([nan, 3], nan_ok=True)
    assert found["max"].tolist() == pytest.approx([nan, 4], nan_ok=True)
    assert popularity_metrics([[0.5, nan], [0, nan]])["max"].tolist() == [0.5, 0]


def test_remaining_is_the_sum_after_the_observed_periods():
    curve = [8.0, 4.0, nan, 2.0]
    assert "remaining" not in popularity_metrics(curve)
    assert [float(popularity_metrics(curve, observed=k)["remaining"]) for k in range(5)] == [14, 6, 2, 2, 0]
    assert np.isnan(remaining([1.0, nan], 1))
    assert remaining([8.0, 4.0, 2.0, 4.0], 1, lowest=3) == 8


def test_a_half_life_beyond_the_curve_is_the_least_it_can_be_and_says_so():
    value, censored = half_life([[8, 6, 5, 4.1], [8, 6, 5, 4], [1, 8, 5, nan], [0, 0, 0, 0], [2, 8, nan, 1]])
    assert value.tolist() == pytest.approx([4, 3, 2, nan, 2], nan_ok=True)
    assert censored.tolist() == [True, False, True, False, False]


def test_milestones_are_reached_in_the_first_period_whose_sum_is_enough():
    curve = [[10.0, 5.0, 5.0, 1.0], [0.0, nan, 15.0, 5.0], [1.0, 1.0, 1.0, 1.0]]
    assert time_to_milestone(curve, 10).tolist() == pytest.approx([0, 2, nan], nan_ok=True)
    assert time_to_milestone(curve, 20).tolist() == pytest.approx([2, 3, nan], nan_ok=True)
    assert time_to_milestone(curve, 20.5).tolist() == pytest.approx([3, nan, nan], nan_ok=True)
    assert time_to_milestone([0.25, 0.25], 0.5) == 1
    # Songs, then samples, then periods: the sum runs over the last.
    assert time_to_milestone([[[4.0, 6.0], [6.0, 4.0]]], 6).tolist() == [[1, 0]]
    assert time_to_milestone([4.0, 10.0, 5.0], 14, lowest=5) == 2
    with pytest.raises(InputError, match="milestone of 0"):
        time_to_milestone(curve, 0)


def test_the_debut_rank_is_given_once_for_each_curve_or_is_unknown():
    streams = [[[3.0, 1.0], [2.0, 2.0]]]
    assert popularity_metrics(streams, debut_rank=[4, None])["debut_rank"].tolist() == pytest.approx(
        np.array([[4, nan]]), nan_ok=True
    )
    assert np.isnan(popularity_metrics(streams)["debut_rank"]).tolist() == [[True, True]]


def test_probabilities_are_shares_of_paths():
    paths = np.array([[[3.0, 4.0], [0.0, 1.0]], [[5.0, 5.0], [nan, nan]], [[0.0, 7.0], [9.0, nan]]])
    assert probability_of_total(paths, 7).tolist() == pytest.approx([1 / 3, 1 / 2])
    assert probability_of_total(paths.swapaxes(0, 1), 6.9, axis=1).tolist() == pytest.approx([1, 1 / 2])
    assert probability_of_total(paths.swapaxes(0, 1), 6.9, axis=-2).tolist() == pytest.approx([1, 1 / 2])
    assert probability_of_total(paths, 6.9, lowest=4).tolist() == pytest.approx([2 / 3, 1 / 2])
    ranks = np.array([[[11, 9.0]], [[nan, nan]], [[10.0, nan]], [[200, 11.0]]])
    assert probability_of_top(ranks, 10).tolist() == [0.5]
    with pytest.raises(InputError, match="axis 2 holds the periods"):
        probability_of_top(ranks, 10, axis=2)


def test_a_percentile_counts_half_of_the_ties():
    catalogue = [1, 2, 2, 3, nan]
    assert percentile([0, 1, 2, 2.5, 3, 4, nan], catalogue).tolist() == pytest.approx(
        [0, 12.5, 50, 75, 87.5, 100, nan], nan_ok=True
    )
    values = np.random.default_rng(0).integers(0, 20, 60)
    expected = [scipy.stats.percentileofscore(values, value, kind="mean") for value in values]
    np.testing.assert_allclose(percentile(values, values), expected)
    assert percentile([2, None], [1, None, 3]).tolist() == pytest.approx([50, nan], nan_ok=True)
    with pytest.raises(InputError, match=r"^the catalogue holds no number; .* at least one song to compare with$"):
        percentile([1], [nan])


def test_ranks_become_scores_that_grow_with_popularity():
    ranks = [[1, 200, nan, 201], [nan, 50, 100, nan]]
    known = [[True, True, True, True], [False, True, True, True]]
    np.testing.assert_equal(rank_scores(ranks, 200, known), [[200, 1, 0, 0], [nan, 151, 101, 0]])
    np.testing.assert_equal(rank_scores([1, None], 3), [3, 0])
    assert popularity_metrics(rank_scores(ranks, 200))["length"].tolist() == [2, 2]
    with pytest.raises(InputError, match="rank 0 is above the top"):
        rank_scores([0.0], 200)


@given(curves)
def test_metrics_of_many_curves_are_those_of_each(streams: np.ndarray):
    found = popularity_metrics(streams, "zero-filled", observed=1)
    for place in np.ndindex(streams.shape[:-1]):
        alone = popularity_metrics(streams[place], "zero-filled", observed=1)
        for metric, values in found.items():
            assert values.shape == streams.shape[:-1]
            assert float(values[place]) == pytest.approx(float(alone[metric]), nan_ok=True)


@given(curves, st.sampled_from(["observed", "zero-filled"]), st.floats(1e-3, 1e3))
def test_scaled_streams_scale_what_is_in_streams_and_nothing_else(streams: np.ndarray, off_chart, scale: float):
    found = popularity_metrics(streams, off_chart, observed=0)
    # Powers of two leave every comparison with half of the peak exact.
    scale = 2.0 ** np.round(np.log2(scale))
    scaled = popularity_metrics(streams * scale, off_chart, observed=0)
    for metric, values in found.items():
        in_streams = metric in ("debut", "max", "mean", "std", "sum", "remaining")
        np.testing.assert_allclose(scaled[metric], values * (scale if in_streams else 1), rtol=1e-9, atol=1e-9)


@given(curves)
def test_a_period_off_the_chart_before_debut_moves_the_peak_by_one(streams: np.ndarray):
    found = popularity_metrics(streams)
    later = popularity_metrics(np.concatenate([np.zeros((*streams.shape[:-1], 1)), streams], axis=-1))
    known = ~np.isnan(found["max"])
    np.testing.assert_allclose(later["peak_week"], found["peak_week"] + 1)
    for metric in ("max", "mean", "std", "length", "sum", "skewness", "kurtosis", "half_life"):
        np.testing.assert_allclose(later[metric][known], found[metric][known])


@given(st.lists(st.integers(1, 1000), min_size=2, max_size=9), st.integers(1, 1000))
def test_streams_added_to_every_period_shift_the_mean_and_leave_the_shape(values: list[int], more: int):
    found, shifted = popularity_metrics(values), popularity_metrics(np.array(values) + more)
    for metric in ("debut", "max", "mean"):
        assert shifted[metric] == pytest.approx(found[metric] + more)
    for metric in ("std", "skewness", "kurtosis", "peak_week", "length"):
        assert float(shifted[metric]) == pytest.approx(float(found[metric]), abs=1e-6, nan_ok=True)
    assert shifted["skewness"] == pytest.approx(scipy.stats.skew(values) if len(set(values)) > 1 else nan, nan_ok=True)


@given(curves, st.integers(0, 99))
def test_the_order_of_periods_does_not_matter_to_the_moments(streams: np.ndarray, seed: int):
    mixed = np.random.default_rng(seed).permutation(streams, axis=-1)
    found, other = popularity_metrics(streams), popularity_metrics(mixed)
    for metric in ("max", "mean", "std", "length", "sum", "skewness", "kurtosis"):
        np.testing.assert_allclose(other[metric], found[metric], rtol=1e-9, atol=1e-9)


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=9), st.integers(1, 12))
def test_a_path_repeated_has_a_distribution_of_one_point(values: list[int], samples: int):
    found = popularity_metrics(values, observed=0)
    table = summarise_paths(popularity_metrics(np.tile(values, (samples, 1)), observed=0))
    assert table["metric"].tolist() == [*METRICS, "remaining"]
    for row in table.to_dict("records"):
        expected = float(found[row.pop("metric")])
        assert list(row.values()) == pytest.approx([expected] * 10, nan_ok=True)


@given(st.integers(0, 99))
def test_the_order_of_paths_does_not_matter(seed: int):
    generator = np.random.default_rng(seed)
    paths = np.where(generator.random((20, 3, 5)) < 0.3, 0, generator.gamma(1, 100, (20, 3, 5)))
    table = summarise_paths(popularity_metrics(paths))
    again = summarise_paths(popularity_metrics(generator.permutation(paths)))
    pd.testing.assert_frame_equal(table, again)


def test_a_summary_is_the_distribution_of_the_metric_not_the_metric_of_the_mean():
    # Half the paths peak at once, half late: no path is like the mean, which peaks in between.
    paths = np.array([[9, 5, 0, 0], [0, 0, 5, 9.0], [0, 5.1, 5.1, 0]] * 20)[:, None, :]
    table = summarise_paths(popularity_metrics(paths)).set_index("metric")
    assert table.loc["max", "mean"] == pytest.approx((9 + 9 + 5.1) / 3)
    assert popularity_metrics(paths.mean(axis=(0, 1)))["max"] < 6
    assert table.loc["peak_week", ["0.1", "0.5", "0.9"]].tolist() == [0, 1, 3]
    assert table["axis_0"].eq(0).all()


def test_the_quantiles_of_a_few_paths_lie_on_straight_lines_between_them():
    table = summarise_paths({"m": [3, None, 1, 5, 4, 2], "n": [None] * 6})
    assert table.iloc[0, 1:].tolist() == pytest.approx([3, 1, 1.4, 29 / 15, 37 / 15, 3, 53 / 15, 61 / 15, 4.6, 5])
    assert table.iloc[1, 1:].isna().all()
    with pytest.raises(InputError, match=r"^an index of 2 rows for 1 songs; give one row each$"):
        summarise_paths({"m": [3, 1]}, index=table)


def test_a_summary_leaves_out_paths_where_a_metric_is_undefined():
    generator = np.random.default_rng(1)
    values = generator.normal(size=(4, 30, 2))
    values[0, :10, 1] = nan
    values[1, :, 0] = nan
    values[2, :29, 0] = nan
    index = pd.DataFrame({"track_id": list("aabbccdd"), "region": ["US", "GB"] * 4}, index=[3] * 8)
    table = summarise_paths({"m": values, "n": -values}, axis=1, index=index)
    assert table.columns.tolist() == ["track_id", "region", "metric", "mean", *(f"0.{i}" for i in range(1, 10))]
    assert table["track_id"].tolist() == list("aaaabbbbccccdddd")
    assert table["metric"].tolist() == ["m", "n"] * 8
    for row, (song, region) in enumerate(np.ndindex(4, 2)):
        known = values[song, :, region][~np.isnan(values[song, :, region])]
        expected = [known.mean(), *np.quantile(known, LEVELS, method="median_unbiased")] if len(known) else [nan] * 10
        assert table.iloc[2 * row, 3:].tolist() == pytest.approx(expected, nan_ok=True)
    with pytest.raises(InputError, match="index of 7 rows for 8"):
        summarise_paths({"m": values}, axis=1, index=index.iloc[:7])
    with pytest.raises(InputError, match="cannot be summarised"):
        summarise_paths({"m": np.zeros(3), "n": np.zeros(4)})


def chart(streams: list[float], first: int = 1) -> pd.DataFrame:
    ranks = pd.array(range(first, first + len(streams)), dtype="Int64")
    return pd.DataFrame({"region": "US", "date": pd.Timestamp("2026-01-01"), "rank": ranks, "streams": streams})


def test_streams_take_the_rank_that_they_would_have_had_on_the_chart():
    curve = RankCurve.fit(chart([1000, 100, 100, 10]))
    assert (curve.region, curve.date, curve.size) == ("US", "2026-01-01", 4)
    # Halfway in the logarithm between 100 (ranks 2 and 3, so 2.5) and 10 (rank 4).
    halfway = np.sqrt(100 * 10)
    ranks = curve.rank_of([5000, 1000, 100, halfway, 10, 9.9, 0, nan])
    assert ranks.tolist() == pytest.approx([1, 1, 2.5, np.sqrt(10), 4, nan, nan, nan], nan_ok=True)
    assert curve.rank_of([9.9, nan], below="next").tolist() == pytest.approx([5, nan], nan_ok=True)
    assert curve.rank_of(np.full((2, 3), 1000.0)).tolist() == [[1] * 3] * 2
    assert curve.rank_of([1000, None]).tolist() == pytest.approx([1, nan], nan_ok=True)


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=30), st.lists(st.integers(0, 10**7), min_size=2))
def test_ranks_never_rise_with_streams(amounts: list[int], asked: list[int]):
    curve = RankCurve.fit(chart([float(amount) for amount in amounts]).sample(frac=1, random_state=0))
    ranks = curve.rank_of(sorted(asked), below="next")
    assert (np.diff(ranks) <= 1e-9).all()
    assert ranks.min() >= 1 - 1e-9
    assert ranks.max() <= len(amounts) + 1


def test_a_rank_curve_survives_json():
    curve = RankCurve.fit(chart([900.5, 30, 20]))
    assert RankCurve.from_dict(json.loads(json.dumps(curve.to_dict(), allow_nan=False))) == curve
    with pytest.raises(InputError, match="without 'size'"):
        RankCurve.from_dict({"region": "US", "date": "2026-01-01"})


@pytest.mark.parametrize(
    ("rank", "streams"),
    [
        ([1, 2, 3], [1, 2, 3]),
        ([1, 2, 3], [30, 20, 20.5]),
        ([1, 2, 3], [30, 20, 20]),
        ([1, 2], [30, 20, 10]),
        ([], []),
    ],
)
def test_points_that_are_no_chart_are_refused(rank: list[float], streams: list[float]):
    content = RankCurve.fit(chart([900.5, 30, 20])).to_dict() | {"rank": rank, "streams": streams}
    with pytest.raises(InputError, match=f"of US on 2026-01-01 has {len(rank)} ranks and {len(streams)} streams;"):
        RankCurve.from_dict(content)


def test_a_rank_curve_is_of_one_chart_with_numbers_in_it():
    rows = chart([30.0, nan, 10.0])
    assert RankCurve.fit(rows).rank == (1, 3)
    assert RankCurve.fit(rows.assign(streams=pd.array([30, None, 10], "Int64"))).rank == (1, 3)
    assert RankCurve.fit(rows.assign(streams=[30.0, 10.0, 0.0])).size == 2
    with_gap = rows.assign(rank=pd.array([1, None, 3], "Int64"), streams=[30.0, 20.0, 10.0])
    assert RankCurve.fit(with_gap).streams == (30, 10)
    # Of two with one rank the more streamed is the higher.
    tied = RankCurve.fit(rows.assign(rank=[1, 2, 2], streams=[30.0, 10.0, 20.0]))
    assert (tied.rank, tied.streams) == ((1, 2, 2), (30, 20, 10))
    with pytest.raises(InputError, match="2 charts given"):
        RankCurve.fit(pd.concat([rows, rows.assign(region="GB")]))
    with pytest.raises(InputError, match="chart of US on 2026-01-01 has no row"):
        RankCurve.fit(rows.assign(rank=pd.NA))


def test_a_table_of_curves_gives_a_row_a_curve():
    frame = pd.DataFrame(
        {
            "region": ["US", "GB", "US", "GB", "US"],
            "week": [0, 0, 1, 3, 3],
            "streams": [8.0, 5.0, 6.0, 3.0, 2.0],
        }
    )
    table = popularity_table(frame, observed=1)
    assert table.columns.tolist() == ["region", *METRICS, "remaining"]
    assert table["region"].tolist() == ["US", "GB"]
    assert table["remaining"].tolist() == [8, 3]
    assert table["half_life"].tolist() == [3, 4]
    # A week without a row is off the chart only if the caller says so.
    assert popularity_table(frame, gaps="off the chart")["half_life"].tolist() == [2, 1]
    ranked = popularity_table(frame, rank_curves={"US": RankCurve.fit(chart([80.0, 8.0]))})
    assert ranked["debut_rank"].tolist() == pytest.approx([2, nan], nan_ok=True)
    assert popularity_table(frame.assign(rank=[7, 9, 1, 1, 1]))["debut_rank"].tolist() == [7, 9]
    # With weeks and days in one table the weeks count.
    assert popularity_table(frame.assign(day=9 * frame["week"]), observed=1).equals(table)
    days = popularity_table(frame[frame["region"] == "GB"].drop(columns="region").rename(columns={"week": "day"}))
    assert days["sum"].tolist() == [8]


def test_a_week_without_a_row_counts_as_zero_up_to_the_last_of_the_table():
    frame = pd.DataFrame({"region": ["US", "US", "GB"], "week": [0, 3, 0], "streams": [6.0, 2.0, 4.0]})
    table = popularity_table(frame, "zero-filled", gaps="off the chart")
    assert table["mean"].tolist() == [2, 1]
    assert popularity_table(frame, "zero-filled")["mean"].tolist() == [4, 4]


def test_a_missing_number_in_a_nullable_column_is_unknown():
    frame = pd.DataFrame(
        {
            "track_id": ["a", "a", "b"],
            "week": pd.array([0, 1, 0], "Int64"),
            "streams": pd.array([8, None, 5], "Int64"),
            "rank": pd.array([3, None, None], "Int64"),
        }
    )
    table = popularity_table(frame)
    assert table["sum"].tolist() == [8, 5]
    assert table["length"].tolist() == [1, 1]
    assert table["debut_rank"].tolist() == pytest.approx([3, nan], nan_ok=True)
    with pytest.raises(InputError, match=r"^week nan is no period; count whole periods from the debut, 0$"):
        popularity_table(frame.assign(week=pd.array([0, None, 0], "Int64")))


def test_the_debut_rank_is_the_tables_own_or_else_by_the_chart_of_the_region():
    frame = pd.DataFrame({"region": ["US", "GB", "US", "JP"], "sample": [0, 0, 1, 0], "week": 0, "streams": 10.0})
    charts = {"US": RankCurve.fit(chart([80.0, 10.0])), "GB": RankCurve.fit(chart([10.0]))}
    by_chart = popularity_table(frame, rank_curves=charts)["debut_rank"]
    assert by_chart.tolist() == pytest.approx([2, 1, 2, nan], nan_ok=True)
    some = popularity_table(frame.assign(rank=[40, nan, nan, nan]), rank_curves=charts)["debut_rank"]
    assert some.tolist() == pytest.approx([40, 1, 2, nan], nan_ok=True)
    # Without a region no chart is that of the curve.
    alone = popularity_table(frame.iloc[:1].drop(columns="region"), rank_curves=charts)
    assert np.isnan(alone["debut_rank"].item())


def test_one_curve_without_a_name_is_summarised_over_its_samples():
    frame = pd.DataFrame({"sample": [0, 0, 1, 1], "week": [0, 1, 0, 1], "streams": [1.0, 2.0, 3.0, 4.0]})
    table = summarise_table(popularity_table(frame, observed=1))
    assert table.columns[:2].tolist() == ["metric", "mean"]
    assert table["metric"].tolist() == [*METRICS, "remaining"]
    assert table.set_index("metric").loc[["sum", "remaining"], "mean"].tolist() == [5, 3]


def test_a_summary_keeps_the_order_in_which_songs_appear():
    frame = pd.DataFrame({"track_id": list("bbaa"), "sample": [0, 1, 0, 1], "week": 0, "streams": [4.0, 6, 1, 3]})
    table = summarise_table(popularity_table(frame)).query("metric == 'sum'")
    assert table["track_id"].tolist() == ["b", "a"]
    assert table["mean"].tolist() == [5, 2]


def test_a_table_of_paths_is_summarised_song_by_song():
    generator = np.random.default_rng(0)
    places = pd.MultiIndex.from_product([["a", "b"], ["US", "GB"], range(4), range(25)])
    frame = places.to_frame(index=False, name=["track_id", "region", "week", "sample"])
    frame["streams"] = generator.gamma(1, 100, len(frame))
    table = popularity_table(frame.sample(frac=1, random_state=0))
    found = summarise_table(table).set_index(["track_id", "region", "metric"]).sort_index()
    assert len(found) == 4 * len(METRICS)
    paths = frame["streams"].to_numpy().reshape(2, 2, 4, 25).swapaxes(2, 3)
    expected = popularity_metrics(paths)["max"][1, 0]
    quantiles = found.loc[("b", "US", "max")]
    assert quantiles.tolist() == pytest.approx(
        [expected.mean(), *np.quantile(expected, LEVELS, method="median_unbiased")]
    )
    with pytest.raises(InputError, match=r"^a table without the column sample has no distribution .* sampled paths$"):
        summarise_table(table.drop(columns="sample"))
    with pytest.raises(InputError, match="between 24 and 25 samples"):
        summarise_table(table.iloc[1:])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: popularity_metrics([1.0, -2.0]), "streams of -2 are negative"),
        (lambda: popularity_metrics([1.0, np.inf]), "^streams of inf are no number of streams; use NaN for unknown$"),
        (lambda: popularity_metrics(np.zeros((3, 0))), r"shape \(3, 0\) have no periods"),
        (lambda: popularity_metrics(5.0), "have no periods"),
        (lambda: popularity_metrics([1.0], "filled"), "off_chart 'filled' is not known"),
        (lambda: popularity_metrics([1.0, 2.0], observed=3), "observed 3 is outside a curve of 2 periods"),
        (lambda: RankCurve.fit(chart([1.0])).rank_of(2, below="x"), "below 'x'"),
        (lambda: popularity_table(pd.DataFrame({"week": [0]})), "columns week; give rows of week and streams"),
        (lambda: popularity_table(pd.DataFrame({"date": [0], "rank": 1})), "of 1 rows and columns date, rank; give"),
        (lambda: popularity_table(pd.DataFrame({"week": [0, 0], "streams": 1.0})), "^the curve has week 0 twice; give"),
        (
            lambda: popularity_table(pd.DataFrame({"track_id": "a", "sample": 7, "day": [0, 2, 2], "streams": 1.0})),
            "^a 7 has day 2 twice; give one row a period$",
        ),
        (
            lambda: popularity_table(pd.DataFrame({"track_id": ["a"], "region": None, "week": 0, "streams": 1.0})),
            "^row 0 of the table lacks one of track_id, region$",
        ),
        (lambda: popularity_table(pd.DataFrame({"week": [-1], "streams": 1.0})), "week -1 is no period"),
        (lambda: popularity_table(pd.DataFrame({"week": [0], "streams": 1.0}), gaps="x"), "gaps 'x'"),
        (
            lambda: popularity_table(pd.DataFrame({"region": [None], "week": [0], "streams": 1.0})),
            "row 0 of the table lacks one of region",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(call, message: str):
    with pytest.raises(InputError, match=message) as raised:
        call()
    assert "\n" not in str(raised.value)


def test_per_path_functions_take_any_leading_axes():
    paths = np.random.default_rng(0).gamma(1, 100, (4, 3, 2, 6))
    assert chart_weeks(paths, lowest=50).shape == (4, 3, 2)
    assert chart_weeks([[60, 50, 40], [40, 30, 20]], lowest=50).tolist() == [2, 0]
    assert peak_week(paths).shape == time_to_milestone(paths, 200).shape == (4, 3, 2)
    assert probability_of_total(paths, 500, axis=1).shape == (4, 2)


def test_the_metrics_need_neither_pandas_nor_torch():
    code = "import sys; from mp3model import popularity_metrics; print({'pandas', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
