"""Measures in shared draws of artists: the same numbers as draws written out, row by row, give."""

from __future__ import annotations

import numpy as np
import pytest

from mp3model.evaluation.accuracy import CurveForecasts, CurveTruth, crps_from_quantiles, curve_row_scores
from mp3model.evaluation.bootstrap import Draws, Interval, bootstrap_weights, interval_of_draws
from mp3model.evaluation.curve_scores import curve_draws, known_draws, score_curves
from mp3model.evaluation.ranking import kendall, somers_d, spearman, top_replicates
from mp3model.files import InputError

N, PERIODS = 700, 4


def truth(seed: int = 0, unknown: bool = True) -> CurveTruth:
    """Three regions, of which one is too small for a rank correlation; some truths, floors and artists unknown."""
    generator = np.random.default_rng(seed)
    streams = generator.lognormal(6, 1, (N, PERIODS))
    streams[streams < 200] = 0
    artist = np.array([f"artist {number // 4}" for number in range(N)], dtype=object)
    artist[:5] = None
    floor = np.full(N, 150.0)
    region = np.array(["US"] * 420 + ["GB"] * 270 + ["IS"] * 10, dtype=object)
    if unknown:
        streams[3, 2] = np.nan
        floor[7] = np.nan
    return CurveTruth(streams, floor, region, artist, generator.uniform(1, 200, N))


def forecasts(seed: int = 1) -> CurveForecasts:
    generator = np.random.default_rng(seed)
    guess = np.nan_to_num(truth().streams, nan=300.0) * generator.lognormal(0, 0.8, (N, 1))
    total = guess.sum(axis=1, keepdims=True)
    return CurveForecasts(
        curve=guess,
        quantiles=total * np.exp(np.linspace(-1, 1, 9)),
        total=np.round(total[:, 0], -2),
        score=np.round(np.log10(1 + total[:, 0]), 1),
        rank0=generator.uniform(1, 200, N),
        length=(guess > 250).sum(axis=1).astype(float),
    )


def written_out(observed: int, seed: int, replicates: int) -> list[dict[str, float]]:
    """Every measure of the sample and of each draw, with a row that was drawn twice standing there twice."""
    given, made = truth(), forecasts()
    scores = curve_row_scores(given, made, observed)
    known = np.flatnonzero(np.isfinite(scores["true_streams"]))
    scores = {name: values[known] for name, values in scores.items()}
    true, error = scores.pop("true_streams"), scores.pop("absolute_error")
    loss, score, region = crps_from_quantiles(true, made.quantiles[known]), made.score[known], given.region[known]
    artist = [name or f"alone {place}" for place, name in zip(known, given.artist[known], strict=True)]
    large = [np.flatnonzero(region == name) for name in ("US", "GB")]
    draws = []
    for drawn in [np.ones(len(known), int), *bootstrap_weights(np.array(artist), replicates, seed)]:

        def order(at: np.ndarray, drawn: np.ndarray = drawn) -> dict[str, float]:
            rows = np.repeat(at, drawn[at])
            recall, ndcg = top_replicates(true[at], score[at], drawn[None, at])[:, 0]
            found = {"recall10": recall, "ndcg10": ndcg}
            for measure in (spearman, kendall, somers_d):
                found[measure.__name__] = measure(true[rows], score[rows])
            return found | {"wape_macro": 100 * error[rows].sum() / true[rows].sum()}

        rows = np.repeat(np.arange(len(known)), drawn)
        pooled, parts = order(np.arange(len(known))), [order(at) for at in large]
        found = {name: np.nanmean(values[rows]) for name, values in scores.items()}
        found |= {"wape": pooled.pop("wape_macro"), "wql": loss[rows].sum() / true[rows].sum()}
        found |= {f"{name}_pooled": value for name, value in pooled.items()}
        draws.append(found | {name: np.mean([part[name] for part in parts]) for name in parts[0]})
    return draws


@pytest.mark.parametrize("observed", [0, 1])
def test_every_measure_is_that_of_the_draws_written_out(observed):
    expected = written_out(observed, seed=4, replicates=12)
    samples, counts = curve_draws(truth(), forecasts(), observed, known_draws(truth(), observed, 4, 12))
    assert set(samples) - {"recall_100", "ndcg_100"} == set(expected[0])
    for name in expected[0]:
        assert samples[name] == pytest.approx([draw[name] for draw in expected], abs=1e-9), name
    assert counts == {"n_rows": N - 1, "n_artists": 178, "n_regions": 2}


def test_scores_are_the_samples_own_values_with_the_bounds_of_the_draws():
    scores = score_curves(truth(), forecasts(), 1, seed=4, replicates=12)
    samples, counts = curve_draws(truth(), forecasts(), 1, known_draws(truth(), 1, 4, 12))
    assert {name: scores.pop(name) for name in counts} == counts
    assert set(scores) == {key for name in samples for key in (name, f"{name}_ci")}
    for name, values in samples.items():
        assert scores[name] == values[0]
        assert scores[f"{name}_ci"] == pytest.approx([np.percentile(values[1:], bound) for bound in (2.5, 97.5)])


def test_the_top_hundred_counts_regions_of_two_hundred_rows_only():
    given = truth(unknown=False)
    samples, _ = curve_draws(given, forecasts(), 0, known_draws(given, 0, replicates=3))
    parts = [
        top_replicates(given.streams[at].sum(axis=1), forecasts().score[at], np.ones((1, len(at))), 100 / len(at))
        for at in (np.flatnonzero(given.region == region) for region in ("US", "GB"))
    ]
    assert samples["recall_100"][0] == pytest.approx(np.mean([part[0, 0] for part in parts]))
    assert samples["ndcg_100"][0] == pytest.approx(np.mean([part[1, 0] for part in parts]))
    few = CurveTruth(*(values[:150] for values in (given.streams, given.floor, given.region, given.artist)))
    small = CurveForecasts(forecasts().curve[:150])
    assert np.isnan(curve_draws(few, small, 0, known_draws(few, 0, replicates=3))[0]["recall_100"]).all()


def test_ratios_are_sums_over_what_is_drawn_and_undefined_where_nothing_is():
    artist = np.array(["a", "b", "a", None, None], dtype=object)
    above, below = np.array([[1.0], [2.0], [3.0], [10.0], [20.0]]), np.ones((5, 1))
    draws = Draws(artist, 40, seed=1)
    assert draws.artists() == 4
    weights = bootstrap_weights([0, 1, 0, 2, 3], 40, 1)
    assert np.array_equal(draws.weights(np.arange(5))[1:], weights)
    found = draws.ratios(above, below)[:, 0]
    assert found[0] == pytest.approx(36 / 5)
    assert found[1:] == pytest.approx(weights @ above[:, 0] / weights.sum(axis=1))
    alone = draws.ratios(above[3:4], below[3:4], np.array([3]))[:, 0]
    assert np.array_equal(np.isnan(alone[1:]), weights[:, 3] == 0)
    assert np.isnan(draws.ratios(above[:0], below[:0], np.arange(0))).all()


def test_one_artist_has_a_value_and_no_interval_and_nothing_has_neither():
    assert interval_of_draws(np.array([2.0, 1.0, 3.0]), several=False) == Interval(2.0, None, None)
    assert interval_of_draws(np.array([np.nan, 1.0, 3.0])) == Interval(None, None, None)
    assert interval_of_draws(np.array([2.0, np.nan, 3.0, 3.0])) == Interval(2.0, 3.0, 3.0)


def test_no_known_truth_is_refused():
    unknown = CurveTruth(np.full((3, 2), np.nan), np.ones(3), np.array(["US"] * 3), np.arange(3))
    with pytest.raises(InputError, match="none of 3 rows"):
        known_draws(unknown, 0)
