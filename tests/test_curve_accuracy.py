"""Scores of samples, quantiles and forecast curves: against SciPy, scoringrules, closed forms and a bench."""

from __future__ import annotations

import importlib.util
import json
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import sklearn.metrics
from conftest import SHARED
from hypothesis import given
from hypothesis import strategies as st

from mp3model.evaluation.accuracy import (
    LEVELS,
    CurveForecasts,
    CurveTruth,
    absolute_log_error,
    crps_from_quantiles,
    crps_from_samples,
    curve_row_scores,
    wape,
    weighted_quantile_loss,
)
from mp3model.evaluation.bootstrap import paired_row_difference
from mp3model.evaluation.coverage import covered, interval_of, pit_deciles, pit_deviation, pit_luck, pit_tenths
from mp3model.evaluation.curve_scores import curve_draws, differences_of, known_draws, score_curves
from mp3model.files import InputError

HORIZON = 12


@pytest.fixture(scope="module")
def bench():
    path = SHARED / "bench" / "bench.py"
    if not path.is_file():
        pytest.skip("no bench beside the repository")
    spec = importlib.util.spec_from_file_location("bench", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def made(n: int = 2000, regions: int = 20, seed: int = 0, noise: float = 0.5) -> tuple[CurveTruth, CurveForecasts]:
    """Decaying curves that leave the chart, in markets of very different size, some too small to count."""
    generator = np.random.default_rng(seed)
    region = np.minimum(generator.geometric(0.15, n) - 1, regions - 1)
    floor = 10.0 ** (3 + 2 * region / regions)
    size, decay = floor * generator.lognormal(0.5, 1.2, n), np.exp(-generator.gamma(1, 0.2, (n, 1)))
    streams = size[:, None] * decay ** np.arange(HORIZON) * generator.lognormal(0, 0.2, (n, HORIZON))
    streams = np.round(np.where(streams < floor[:, None], 0, streams))
    streams[:, 0] = np.maximum(streams[:, 0], floor + generator.uniform(1, 5, n))
    curve = (size * generator.lognormal(0, noise, n))[:, None] * 0.8 ** np.arange(HORIZON)
    spread = np.exp(0.8 * scipy.stats.norm.ppf(LEVELS))
    # Noise of its own for each quantile lets some of them cross.
    quantiles = curve.sum(axis=1, keepdims=True) * spread * generator.lognormal(0, 0.05, (n, 9))
    truth = CurveTruth(
        streams,
        floor,
        np.array([f"R{code}" for code in region]),
        np.array([f"artist {code}" for code in generator.integers(0, n // 7, n)]),
        generator.integers(1, 201, n).astype(float),
    )
    ranks, lengths = generator.uniform(1, 200, n), generator.uniform(0, 12, n)
    return truth, CurveForecasts(curve, quantiles, rank0=ranks, length=lengths)


def as_tables(truth: CurveTruth, forecasts: CurveForecasts) -> tuple[pd.DataFrame, pd.DataFrame]:
    name = np.arange(len(truth.floor)).astype(str)
    rows = pd.DataFrame({"row_id": name, "region": truth.region, "akey": truth.artist, "floor": truth.floor})
    rows["rank0"] = truth.rank0
    weeks = [f"y{week}" for week in range(HORIZON)]
    rows[weeks] = truth.streams
    predictions = pd.DataFrame({"row_id": name, "rank0": forecasts.rank0, "length": forecasts.length})
    predictions[weeks] = forecasts.curve
    predictions[[f"q{10 * place}" for place in range(1, 10)]] = forecasts.quantiles
    for column in ("total", "score"):
        if getattr(forecasts, column) is not None:
            predictions[column] = getattr(forecasts, column)
    return rows, predictions.sample(frac=1, random_state=0)


SAME = (
    *("mae_log", "mae_logfloor", "crps", "crps_logfloor", "cov80", "width80", "width80_logfloor", "mae_length"),
    *("wape", "wape_macro", "spearman", "kendall", "somers_d", "recall10", "ndcg10"),
    *("spearman_pooled", "kendall_pooled", "recall10_pooled", "ndcg10_pooled"),
)


@pytest.mark.parametrize("observed", [0, 1, 4, 11])
@pytest.mark.parametrize("extra", [False, True])
def test_scores_of_curves_equal_the_independent_bench(bench, observed: int, extra: bool):
    truth, forecasts = made(seed=observed)
    # Of remaining totals many are 0 and tie: a region's top must not be asked for more than it has.
    truth = replace(truth, streams=truth.streams + np.linspace(0.001, 0.9, len(truth.floor))[:, None])
    if extra:
        total = forecasts.curve.sum(axis=1)
        forecasts = replace(forecasts, total=total, score=total / truth.floor + 1e-9 * np.arange(len(total)))
    expected = bench.score(*as_tables(truth, forecasts), k=observed)
    found = score_curves(truth, forecasts, observed, replicates=0)
    for metric in [*SAME, *(["mae_rank0"] if observed == 0 else [])]:
        assert found[metric] == pytest.approx(expected[metric], abs=1e-6), metric
    assert ("mae_rank0" in found) == (observed == 0)
    assert found["n_regions"] == expected["macro_regions"] < expected["regions"]
    assert [found["n_rows"], found["n_artists"]] == [expected["n"], expected["artists"]]


def test_with_ties_all_but_the_top_equals_the_bench(bench):
    truth, forecasts = made(seed=5)
    rounded = replace(forecasts, score=np.round(np.log(forecasts.curve.sum(axis=1)), 1))
    expected = bench.score(*as_tables(truth, rounded), k=6)
    found = score_curves(truth, rounded, 6, replicates=0)
    for metric in SAME:
        # The bench breaks ties at random once; ours is the mean over all ways to break them.
        exact = not metric.startswith(("recall", "ndcg"))
        assert found[metric] == pytest.approx(expected[metric], abs=1e-6 if exact else 0.05), metric


def test_intervals_and_paired_differences_agree_with_the_bench(bench):
    truth, a = made(seed=1)
    b = made(seed=1, noise=0.7)[1]
    # Of crossing quantiles the bench's paired differences take another median than its scores do.
    a, b = (replace(forecasts, quantiles=np.sort(forecasts.quantiles, axis=1)) for forecasts in (a, b))
    tables = as_tables(truth, a)
    expected = bench.score(*tables, k=2, boot=300)
    found = score_curves(truth, a, 2, replicates=300)
    for metric in ("mae_log", "crps", "crps_logfloor", "cov80", "wape"):
        # Not the same 300 samples of artists, so the ends agree to a part of the width.
        width = expected[f"{metric}_ci"][1] - expected[f"{metric}_ci"][0]
        assert found[f"{metric}_ci"] == pytest.approx(expected[f"{metric}_ci"], abs=0.2 * width)
    differences = bench.paired(tables[0], tables[1], as_tables(truth, b)[1], k=2, boot=300)
    rows_a, rows_b = (curve_row_scores(truth, forecasts, 2) for forecasts in (a, b))
    for metric in ("mae_logfloor", "crps_logfloor"):
        one = paired_row_difference(rows_a[metric], rows_b[metric], truth.artist, replicates=300)
        value, low, high = differences[metric]
        assert one.value == pytest.approx(value, abs=1e-6)
        assert [one.low, one.high] == pytest.approx([low, high], abs=0.2 * (high - low))
    names = ("absolute_error", "true_streams")
    (error_a, size), (error_b, _) = ([rows[name] for name in names] for rows in (rows_a, rows_b))
    percent = paired_row_difference(error_a, error_b, truth.artist, scale=size / 100, replicates=300)
    assert percent.value == pytest.approx(differences["wape"][0], abs=1e-6)
    assert percent.low < percent.value < percent.high


def test_scores_of_curves_equal_scipy_and_scikit_learn():
    truth, forecasts = made(220)
    found = score_curves(truth, forecasts, 3, replicates=0, minimum_rows=15)
    future, median = truth.streams[:, 3:], forecasts.quantiles[:, 4]
    total = future.sum(axis=1)
    logs = np.log10(1 + np.c_[total, median])
    assert found["mae_log"] == pytest.approx(sklearn.metrics.mean_absolute_error(*logs.T))
    quantiles = np.log10(1 + np.sort(forecasts.quantiles, axis=1))
    losses = [
        sklearn.metrics.mean_pinball_loss(logs[:, 0], q, alpha=p) for p, q in zip(LEVELS, quantiles.T, strict=True)
    ]
    assert found["crps"] == pytest.approx(2 * np.mean(losses))
    raw = np.sort(forecasts.quantiles, axis=1).T
    losses = [sklearn.metrics.mean_pinball_loss(total, q, alpha=p) for p, q in zip(LEVELS, raw, strict=True)]
    assert found["wql"] == pytest.approx(2 * np.mean(losses) / total.mean())
    frame = pd.DataFrame({"region": truth.region, "true": total, "predicted": median})
    groups = [rows for _, rows in frame.groupby("region") if len(rows) >= 15]
    assert found["n_regions"] == len(groups) > 2
    for metric, reference in (
        ("spearman", scipy.stats.spearmanr),
        ("kendall", scipy.stats.kendalltau),
        ("somers_d", scipy.stats.somersd),
    ):
        each = [reference(rows["true"], rows["predicted"]).statistic for rows in groups]
        assert found[metric] == pytest.approx(np.mean(each))
        assert found[f"{metric}_pooled"] == pytest.approx(reference(total, median).statistic)


def test_a_perfect_forecast_has_perfect_scores():
    truth, _ = made(400, regions=2)
    total = truth.streams[:, 1:].sum(axis=1)
    later = (truth.streams[:, 1:] > 0).sum(axis=1)
    perfect = CurveForecasts(truth.streams, np.repeat(total[:, None], 9, axis=1), length=later)
    found = score_curves(truth, perfect, 1, replicates=10)
    assert [found[m] for m in ("mae_log", "crps", "width80", "wape", "wql", "mae_length")] == [0] * 6
    assert [found[m] for m in ("cov80", "spearman", "kendall", "ndcg10")] == pytest.approx([1, 1, 1, 1])
    json.dumps(found, allow_nan=False)


def test_intervals_hold_the_value_and_need_more_than_one_artist():
    truth, forecasts = made(800)
    found = score_curves(truth, forecasts, 1, replicates=100)
    for metric in [*SAME, "wql", "somers_d_pooled"]:
        low, high = found[f"{metric}_ci"]
        assert low < found[metric] < high, metric
    assert found == score_curves(truth, forecasts, 1, replicates=100)
    assert found["crps_ci"] != score_curves(truth, forecasts, 1, seed=1, replicates=100)["crps_ci"]
    one = score_curves(replace(truth, artist=np.full(800, "x")), forecasts, replicates=10)
    assert one["crps_ci"] is None
    without = score_curves(truth, forecasts, replicates=0)
    assert without["crps_ci"] is None
    # Rows that rise and fall together tell less than as many independent ones.
    twice = np.concatenate([np.arange(800)] * 4)
    repeated = CurveTruth(*(values[twice] for values in vars(truth).values()))
    forecast = CurveForecasts(forecasts.curve[twice], forecasts.quantiles[twice])
    widths = []
    for artist in (np.arange(800)[twice], np.array([None] * 3200, dtype=object)):
        low, high = score_curves(replace(repeated, artist=artist), forecast, replicates=100)["crps_ci"]
        widths.append(high - low)
    assert widths[0] / widths[1] == pytest.approx(2, rel=0.4)


def test_a_difference_in_the_same_samples_is_narrower_than_the_scores():
    truth, a = made(800, seed=2)
    b = made(800, seed=2, noise=0.6)[1]
    draws = known_draws(truth, 1, replicates=100)
    drawn_a, drawn_b = (curve_draws(truth, forecasts, 1, draws) for forecasts in (a, b))
    found = differences_of(drawn_a, drawn_b)
    of_a, of_b = (score_curves(truth, forecasts, 1, replicates=100) for forecasts in (a, b))
    assert set(found) == {metric for metric in of_a if f"{metric}_ci" in of_a}
    # No region has the 200 rows that a top of 100 asks for.
    assert found.pop("recall_100")["value"] is None is found.pop("ndcg_100")["value"]
    for metric, interval in found.items():
        assert interval["value"] == pytest.approx(of_a[metric] - of_b[metric])
        assert interval["low"] <= interval["value"] <= interval["high"]
    assert found["crps"]["high"] - found["crps"]["low"] < of_a["crps_ci"][1] - of_a["crps_ci"][0]
    assert found["crps"]["high"] < 0 < found["spearman"]["low"]
    assert "crps" not in differences_of(drawn_a, curve_draws(truth, CurveForecasts(b.curve), 1, draws))


def test_rows_with_an_unknown_truth_are_not_scored_and_their_gaps_before_are_no_matter():
    truth, forecasts = made(500)
    expected = score_curves(truth, forecasts, 2, replicates=20)
    gaps = truth.streams.copy()
    gaps[:, 1] = np.nan
    assert score_curves(replace(truth, streams=gaps), forecasts, 2, replicates=20) == expected
    gaps[100:, 5] = np.nan
    found = score_curves(replace(truth, streams=gaps), forecasts, 2, replicates=0, minimum_rows=5)
    cut = CurveTruth(*(values[:100] for values in vars(truth).values()))
    few = CurveForecasts(forecasts.curve[:100], forecasts.quantiles[:100], length=forecasts.length[:100])
    assert found == score_curves(cut, few, 2, replicates=0, minimum_rows=5)
    assert found["n_rows"] == 100
    without = score_curves(replace(truth, floor=np.full(500, np.nan)), forecasts, 2, replicates=5)
    assert without["mae_logfloor"] is None
    assert without["mae_log"] == pytest.approx(expected["mae_log"])
    with pytest.raises(InputError, match="none of 500 rows has a known truth"):
        score_curves(replace(truth, streams=gaps * np.nan), forecasts)


def test_forecasts_that_are_missing_or_of_other_rows_are_refused():
    truth, forecasts = made(60)
    holes = forecasts.quantiles.copy()
    holes[[7, 9], 3] = np.nan
    with pytest.raises(InputError, match="quantiles of 2 rows, the first row 7, is not a number"):
        score_curves(truth, replace(forecasts, quantiles=holes))
    with pytest.raises(InputError, match="rank0 of 60 rows"):
        score_curves(truth, replace(forecasts, rank0=np.full(60, np.nan)))
    score_curves(truth, replace(forecasts, rank0=np.full(60, np.nan)), 1, replicates=2)
    with pytest.raises(InputError, match="observed 12 leaves nothing"):
        score_curves(truth, forecasts, 12)
    with pytest.raises(InputError, match="length has 59 rows, the curves have 60"):
        score_curves(truth, replace(forecasts, length=forecasts.length[1:]))
    with pytest.raises(InputError, match=r"shapes \(60, 12\) and \(60, 11\)"):
        score_curves(truth, replace(forecasts, curve=forecasts.curve[:, 1:]))


@pytest.mark.slow
def test_the_real_size_is_scored_in_seconds():
    truth, forecasts = made(20_785, 46)
    for replicates, limit in ((0, 3.0), (200, 20.0)):
        start = time.perf_counter()
        score_curves(truth, forecasts, replicates=replicates)
        assert time.perf_counter() - start < limit


@pytest.mark.parametrize("estimator", ["fair", "plain"])
def test_crps_of_samples_equals_scoringrules_and_all_pairs_written_out(estimator: str):
    import scoringrules

    generator = np.random.default_rng(0)
    true, samples = generator.normal(size=(5, 7)) + 1e3, np.round(generator.normal(size=(5, 7, 31)), 1) + 1e3
    found = crps_from_samples(true, samples, estimator)
    assert found.shape == (5, 7)
    expected = scoringrules.crps_ensemble(true, samples, estimator={"fair": "fair", "plain": "nrg"}[estimator])
    np.testing.assert_allclose(found, expected, atol=1e-9)
    pairs = np.abs(samples[..., None] - samples[..., None, :]).sum(axis=(-1, -2)) / 2
    count = 31 * (30 if estimator == "fair" else 31)
    np.testing.assert_allclose(found, np.abs(samples - true[..., None]).mean(axis=-1) - pairs / count, atol=1e-9)


def test_the_fair_score_does_not_depend_on_the_number_of_samples():
    generator = np.random.default_rng(0)
    true = generator.normal(size=20_000)
    # Of a standard normal forecast and truth (Gneiting and Raftery 2007): 1 / √π.
    for count in (2, 10):
        fair, plain = (crps_from_samples(true, generator.normal(size=(20_000, count)), e) for e in ("fair", "plain"))
        assert fair.mean() == pytest.approx(1 / np.sqrt(np.pi), abs=0.015)
        assert plain.mean() == pytest.approx((1 + 1 / count) / np.sqrt(np.pi), abs=0.015)
    assert np.isnan(crps_from_samples([1.0, np.nan], [[1.0, np.nan], [1.0, 2.0]])).all()
    assert crps_from_samples(3.0, [5.0], "plain") == 2
    with pytest.raises(InputError, match="1 samples a row, where the fair score needs at least 2"):
        crps_from_samples(3.0, [5.0])
    with pytest.raises(InputError, match="estimator 'best'"):
        crps_from_samples(3.0, [5.0, 6.0], "best")


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=20), st.floats(-1e3, 1e3), st.floats(-50, 50))
def test_crps_shifts_scales_and_ignores_the_order_of_samples(samples: list[float], true: float, shift: float):
    value = crps_from_samples(true, samples)
    assert crps_from_samples(true + shift, np.array(samples) + shift) == pytest.approx(value, abs=1e-8)
    assert crps_from_samples(-3 * true, -3 * np.array(samples)) == pytest.approx(3 * value, abs=1e-8)
    assert crps_from_samples(true, samples[::-1]) == pytest.approx(value, abs=1e-8)
    plain = crps_from_samples(true, samples, "plain")
    assert crps_from_samples(true, np.tile(samples, 3), "plain") == pytest.approx(plain, abs=1e-8)
    assert plain >= -1e-9


def test_quantile_scores_equal_scoringrules():
    import scoringrules

    generator = np.random.default_rng(0)
    true, quantiles = generator.normal(size=40), np.sort(generator.normal(size=(40, 9)), axis=1)
    expected = 2 * np.mean(
        [scoringrules.quantile_score(true, quantiles[:, place], level) for place, level in enumerate(LEVELS)], axis=0
    )
    np.testing.assert_allclose(crps_from_quantiles(true, quantiles), expected, atol=1e-12)
    assert weighted_quantile_loss(true, quantiles) == pytest.approx(expected.sum() / np.abs(true).sum())
    gap = np.append(true, np.nan)
    assert weighted_quantile_loss(gap, np.vstack([quantiles, quantiles[:1]])) == weighted_quantile_loss(true, quantiles)
    assert np.isnan(weighted_quantile_loss(np.zeros(2), np.zeros((2, 9))))


def test_wape_weighs_by_size_and_its_mean_over_regions_does_not():
    true, predicted = np.array([[90.0, 0.0], [10, np.nan], [1, 1]]), np.array([[45.0, 0], [20, 7], [1, 3]])
    assert wape(true, predicted) == pytest.approx(100 * (45 + 10 + 2) / 102)
    region = np.array(["US", "US", "GB"])
    assert wape(true, predicted, region, minimum_rows=1) == pytest.approx((55 + 100) / 2)
    assert wape(true, predicted, region, minimum_rows=2) == pytest.approx(55)
    assert np.isnan(wape(true, predicted, region))
    assert wape(np.ones(4), np.zeros(4)) == 100
    assert np.isnan(wape(np.zeros(4), np.ones(4)))


def test_log_errors_are_in_units_of_the_floor():
    assert absolute_log_error([9.0, 99, 0], [99, -5, 0]).tolist() == pytest.approx([1, 2, 0])
    assert absolute_log_error([900.0], [9900], floor=[100.0]).tolist() == pytest.approx([1])
    assert np.isnan(absolute_log_error([1.0], [1.0], floor=[np.nan])).all()


def test_intervals_hold_their_ends():
    low, high = interval_of(np.arange(9.0, 0, -1))
    assert [low, high] == [1, 9]
    assert [float(end) for end in interval_of(np.arange(1.0, 10), 0.2)] == [4, 6]
    assert covered([1, 9, 0.99, 9.01, 5, np.nan], 1, [9, 9, 9, 9, np.nan, 9]).tolist() == pytest.approx(
        [1, 1, 0, 0, np.nan, np.nan], nan_ok=True
    )
    with pytest.raises(InputError, match=r"level 0\.5 has no ends"):
        interval_of(np.arange(9.0), 0.5)


def test_the_transform_of_a_calibrated_forecast_is_uniform_with_mass_points():
    generator = np.random.default_rng(0)
    # Two thirds of all outcomes are exactly 0, as of songs off the chart.
    draws = np.where(generator.random((20_000, 10)) < 0.67, 0.0, generator.gamma(1, 1, (20_000, 10)))
    tenths = pit_tenths(draws[:, 0], draws[:, 1:])
    assert tenths.sum(axis=1) == pytest.approx(np.ones(20_000))
    assert pit_deviation(tenths) < 0.01
    narrow = pit_tenths(generator.normal(size=4000), 0.5 * generator.normal(size=(4000, 30)))
    assert pit_deciles(narrow)[[0, 9]].min() > 0.2


def test_the_tenths_are_what_transforms_with_random_ties_fall_into_in_the_mean():
    generator = np.random.default_rng(0)
    true, samples = generator.poisson(1, 40), generator.poisson(1, (40, 12))
    below, equal = ((samples < true[:, None]).sum(axis=1), (samples == true[:, None]).sum(axis=1))
    randomised = (below + generator.random((20_000, 40)) * (equal + 1)) / 13
    counted = np.stack([(np.floor(randomised * 10) == tenth).mean(axis=0) for tenth in range(10)], axis=1)
    assert pit_tenths(true, samples) == pytest.approx(counted, abs=0.02)


def test_the_transform_says_which_tenth_of_nine_quantiles_holds_the_truth():
    tenths = pit_tenths([0.5, 1.5, 9.5], np.tile(np.arange(1.0, 10), (3, 1)))
    assert tenths == pytest.approx(np.eye(10)[[0, 1, 9]])
    tied = pit_tenths(np.zeros(1), np.array([[0.0] * 4 + [1] * 5]))
    assert tied[0] == pytest.approx([0.2] * 5 + [0] * 5)
    unknown = pit_tenths([np.nan, 1.0], [[1.0, 2], [np.nan, 2]])
    assert np.isnan(unknown).all()
    assert pit_deciles(np.concatenate([tenths, unknown])) == pytest.approx(tenths.mean(axis=0))
    assert pit_deviation(tenths[:1]) == pytest.approx(0.9)
    assert np.isnan(pit_deciles(unknown)).all()


def test_luck_alone_explains_what_calibrated_forecasts_show_and_more_where_songs_go_together():
    generator = np.random.default_rng(0)

    def drawn(n: int) -> np.ndarray:
        return np.eye(10)[generator.integers(10, size=n)]

    alone = pit_luck(drawn(900), np.arange(900))
    # Of 400 calibrated forecasts of 900 songs, one in twenty is further off.
    further = np.mean([pit_deviation(drawn(900)) > alone for _ in range(400)])
    assert 0.01 <= further <= 0.12
    # Nine rows an artist in one tenth tell as much as one does.
    artists = drawn(100)
    together = pit_luck(np.repeat(artists, 9, axis=0), np.repeat(np.arange(100), 9))
    assert together == pytest.approx(pit_luck(artists, np.arange(100)))
    assert together > 2 * alone
    assert pit_luck(np.stack([np.full(10, np.nan), *artists]), ["unheard", *map(str, range(100))]) == pytest.approx(
        together
    )
    assert pit_luck(artists, np.zeros(100)) is None
