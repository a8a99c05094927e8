"""Tables made of paths: their columns and order, quantiles a path at a time, ranks by the chart that was last."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from small_charts import REGIONS, SIZE, small_charts, week, without_charts

from mp3model.evaluation.accuracy import LEVELS, QUANTILES
from mp3model.evaluation.curve_scores import score_curves
from mp3model.evaluation.forecasts import CurvePaths, RankCurves, debut_ranks, truth_of
from mp3model.evaluation.popularity import popularity_metrics
from mp3model.tables.debuts import debut_rows, debuts_of, with_cutoff

METRICS = {
    "debut",
    "max",
    "mean",
    "std",
    "length",
    "sum",
    "skewness",
    "kurtosis",
    "peak_week",
    "half_life",
    "debut_rank",
    "remaining",
}
N, PATHS, HORIZON = 4, 50, 6


def curve_paths(observed: list[int] | None = None, frequency: str = "W", seed: int = 0) -> CurvePaths:
    generator = np.random.default_rng(seed)
    streams = np.floor(generator.lognormal(6, 1.5, (N, PATHS, HORIZON)))
    streams[streams < 200] = 0
    observed = [0, 2, 0, 1] if observed is None else observed
    for row, known in enumerate(observed):
        streams[row, :, :known] = streams[row, :1, :known] + 300
    rows = pd.DataFrame(
        {
            "track_id": [f"track-{row}" for row in range(N)],
            "region": ["US", "US", "GB", "GLOBAL"],
            "debut": pd.to_datetime(["2020-01-02", "2020-01-09", "2020-01-02", "2020-02-06"]),
            "observed": observed,
        }
    )
    return CurvePaths(rows, streams, frequency, generator.uniform(1, 200, (N, PATHS)))


def test_the_curve_has_a_row_a_period_with_mean_and_nine_quantiles():
    paths = curve_paths()
    table = paths.curves()
    assert list(table) == ["track_id", "region", "week", "date", "mean", *QUANTILES]
    assert len(table) == N * HORIZON
    assert table["track_id"].tolist() == np.repeat([f"track-{row}" for row in range(N)], HORIZON).tolist()
    assert table["week"].tolist() == list(range(HORIZON)) * N
    assert table["date"].iloc[HORIZON + 2] == pd.Timestamp("2020-01-23")
    for row in range(N):
        for period in range(HORIZON):
            told = table.iloc[row * HORIZON + period]
            assert told["mean"] == pytest.approx(paths.streams[row, :, period].mean())
            assert told[list(QUANTILES)].tolist() == pytest.approx(
                np.quantile(paths.streams[row, :, period], LEVELS, method="median_unbiased")
            )
    assert (np.diff(table[list(QUANTILES)].to_numpy(float), axis=1) >= 0).all()


def test_observed_periods_are_themselves_in_every_quantile():
    paths = curve_paths()
    table = paths.curves()
    seen = (table["track_id"] == "track-1") & (table["week"] < 2)
    told = table.loc[seen, ["mean", *QUANTILES]].to_numpy(float)
    np.testing.assert_allclose(told, np.repeat(paths.streams[1, 0, :2, None], 10, axis=1))


def test_days_are_called_days():
    table = curve_paths(frequency="D").curves()
    assert list(table)[2:4] == ["day", "date"]
    assert table["date"].iloc[3] == pd.Timestamp("2020-01-05")
    assert list(curve_paths(frequency="D").paths()) == ["track_id", "region", "day", "sample", "streams"]


def test_popularity_has_every_metric_of_each_row_in_order():
    paths = curve_paths()
    table = paths.popularity()
    assert list(table) == ["track_id", "region", "metric", "mean", *QUANTILES]
    assert set(table["metric"]) == METRICS
    assert len(table) == N * len(METRICS)
    assert table["track_id"].tolist() == np.repeat([f"track-{row}" for row in range(N)], len(METRICS)).tolist()
    assert table["region"].drop_duplicates().tolist() == ["US", "GB", "GLOBAL"]


def test_metrics_are_of_each_path_and_not_of_the_mean_curve():
    paths = curve_paths()
    table = paths.popularity().set_index(["track_id", "metric"])
    for row in range(N):
        name, known = f"track-{row}", int(paths.rows["observed"][row])
        told = table.loc[name, "sum"]
        sums = paths.streams[row].sum(axis=1)
        assert told[list(QUANTILES)].tolist() == pytest.approx(np.quantile(sums, LEVELS, method="median_unbiased"))
        assert told["mean"] == pytest.approx(sums.mean())
        tops = paths.streams[row].max(axis=1)
        assert table.loc[name, "max"]["0.5"].item() == pytest.approx(np.median(tops))
        assert table.loc[name, "max"]["mean"].item() > paths.streams[row].mean(axis=0).max()
        later = paths.streams[row, :, known:].sum(axis=1)
        assert table.loc[name, "remaining"]["mean"].item() == pytest.approx(later.mean())
        assert table.loc[name, "debut"]["mean"].item() == pytest.approx(paths.streams[row, :, 0].mean())
        assert table.loc[name, "debut_rank"]["0.9"].item() == pytest.approx(
            np.quantile(paths.debut_rank[row], 0.9, method="median_unbiased")
        )
        alone = popularity_metrics(paths.streams[row], observed=known)
        for metric in ("length", "std", "half_life", "peak_week"):
            assert table.loc[name, metric]["mean"].item() == pytest.approx(np.nanmean(alone[metric]))


def test_paths_have_a_row_a_period_and_sample():
    paths = curve_paths()
    table = paths.paths()
    assert list(table) == ["track_id", "region", "week", "sample", "streams"]
    assert len(table) == paths.streams.size
    found = table.set_index(["track_id", "region", "week", "sample"])["streams"]
    assert found.index.is_unique
    for row, path, period in ((0, 0, 0), (1, 49, 3), (3, 17, 5)):
        key = (f"track-{row}", paths.rows["region"][row], period, path)
        assert found[key] == paths.streams[row, path, period]
    # What is written is what the other two tables say.
    sums = table.groupby(["track_id", "sample"])["streams"].sum().loc["track-2"]
    told = paths.popularity().query("track_id == 'track-2' and metric == 'sum'")["0.7"].item()
    assert told == pytest.approx(np.quantile(sums, 0.7, method="median_unbiased"))


def test_no_row_gives_empty_tables():
    paths = curve_paths()
    none = CurvePaths(paths.rows.iloc[:0], paths.streams[:0], "W", paths.debut_rank[:0])
    assert list(none.curves()) == list(paths.curves())
    assert list(none.popularity()) == list(paths.popularity())
    assert list(none.paths()) == list(paths.paths())
    assert len(none.curves()) == len(none.popularity()) == len(none.paths()) == 0


def test_what_is_scored_are_medians_and_the_quantiles_of_the_streams_that_follow():
    paths = curve_paths([2] * N)
    found = paths.forecasts()
    later = paths.streams[:, :, 2:]
    np.testing.assert_allclose(found.curve, np.median(paths.streams, axis=1))
    np.testing.assert_allclose(
        found.quantiles, np.quantile(later.sum(axis=2), LEVELS, axis=1, method="median_unbiased").T
    )
    np.testing.assert_allclose(found.length, np.median((later > 0).sum(axis=2), axis=1))
    assert found.rank0 is None
    fresh = curve_paths([0] * N)
    np.testing.assert_allclose(fresh.forecasts().rank0, np.median(fresh.debut_rank, axis=1))
    fresh.debut_rank[1] = np.nan
    assert fresh.forecasts().rank0 is None


def test_rows_are_ranked_where_most_paths_never_chart_again():
    paths = curve_paths([1] * N)
    several = int(0.6 * PATHS)
    paths.streams[:, :several, 1:] = 0
    paths.streams[1, several:, 1:] = 10_000
    assert (np.median(paths.streams[:, :, 1:].sum(axis=2), axis=1) == 0).all()
    assert paths.forecasts().score.argmax() == 1
    # Of rows that will almost surely never chart again none is first: they tie, as the truth will.
    paths.streams[:, : int(0.8 * PATHS), 1:] = 0
    assert (paths.forecasts().score == 0).all()


def test_the_chart_on_a_day_or_the_last_before_it_gives_the_ranks():
    ranks = RankCurves.of(small_charts())
    # The chart of week 30 is not on hand in GB.
    for day, told in ((week(30), 29), (week(31), 31), (week(31) + 6, 31), (week(32) - 1, 31), (None, 59)):
        curve = ranks.at("GB", day)
        assert curve.date == str(week(told))
        assert (curve.region, curve.size) == ("GB", SIZE)
    assert ranks.at("GB", pd.Timestamp(week(31))).date == str(week(31))
    assert ranks.at("GB", week(0) - 1) is None
    assert ranks.at("FR", week(9)) is None


def test_a_rank_curve_gives_each_song_its_own_rank_and_never_sees_a_later_chart():
    dataset = small_charts()
    chart = dataset.curves[(dataset.curves["region"] == "US") & (dataset.curves["date"] == pd.Timestamp(week(20)))]
    found = RankCurves.of(dataset).at("US", week(20)).rank_of(chart["streams"])
    np.testing.assert_allclose(found, chart["rank"].to_numpy(float))
    cut = replace(dataset, curves=dataset.curves[dataset.curves["date"] <= pd.Timestamp(week(20))])
    assert RankCurves.of(cut).at("US", week(23)) == RankCurves.of(dataset).at("US", week(20))
    assert RankCurves.of(without_charts(dataset)).at("US", week(20)) == RankCurves.of(dataset).at("US", week(20))


def test_stored_rank_curves_are_the_last_ones():
    ranks = RankCurves.of(small_charts())
    stored = RankCurves.from_last(ranks.last([*REGIONS, "FR"]))
    for region in REGIONS:
        assert stored.at(region, "2031-01-02") == ranks.at(region, None)
    assert stored.at("FR", None) is None


def test_a_debut_rank_comes_from_the_last_chart_before_debut_or_as_observed():
    dataset = small_charts()
    debuts = debuts_of(dataset, debut_rows(dataset), HORIZON)
    ranks, at = RankCurves.of(dataset), [3, 40, 90]
    rows = with_cutoff(debuts.rows.iloc[at], np.array([0, 1, 0]), "W").reset_index(drop=True)
    streams = np.random.default_rng(0).lognormal(8, 2, (3, PATHS, HORIZON))
    streams[0, 0] = 0.0
    found = debut_ranks(rows, streams, ranks, np.array([7.0, 5.0, np.nan]))
    assert (found[1] == 5).all()
    for row in (0, 2):
        curve = ranks.at(rows["region"][row], rows["debut"][row] - pd.Timedelta(days=7))
        np.testing.assert_array_equal(found[row], curve.rank_of(streams[row, :, 0], below="next"))
    assert found[0, 0] == SIZE + 1
    assert found.min() >= 1
    elsewhere = debut_ranks(rows.assign(region="FR"), streams, ranks)
    assert np.isnan(elsewhere).all()


def test_the_truth_is_what_charts_showed():
    dataset = small_charts()
    debuts = debuts_of(dataset, debut_rows(dataset), HORIZON)
    truth = truth_of(debuts.rows, debuts.curves)
    np.testing.assert_array_equal(truth.streams, debuts.curves.chart_observed())
    np.testing.assert_array_equal(truth.rank0, debuts.curves.rank[:, 0])
    assert (truth.artist == debuts.rows["artist"]).all()
    # A forecast that knows it all misses nothing.
    n = len(debuts.rows)
    perfect = CurvePaths(
        debuts.rows.assign(observed=0),
        np.repeat(truth.streams[:, None], 11, axis=1),
        "W",
        np.repeat(truth.rank0[:, None], 11, axis=1),
    )
    scores = score_curves(truth, perfect.forecasts(), 0, replicates=0)
    assert scores["n_rows"] == n
    for measure in ("mae_log", "crps", "crps_logfloor", "wape", "mae_rank0", "mae_length"):
        assert scores[measure] == pytest.approx(0, abs=1e-9), measure
    assert scores["spearman"] == pytest.approx(1)
