"""Measures in shared draws of artists: the same numbers as the slow scoring, row by row, gives."""

from __future__ import annotations

import numpy as np
import pytest

from mp3model.evaluation.accuracy import CurveForecasts, CurveTruth, Interval, score_curves
from mp3model.evaluation.bootstrap import Draws, curve_draws, interval_of_draws, known_draws
from mp3model.evaluation.ranking import bootstrap_weights, top_replicates
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


@pytest.mark.parametrize("observed", [0, 1])
def test_every_measure_and_bound_is_that_of_the_slow_scoring(observed):
    slow = score_curves(truth(), forecasts(), observed, seed=4, replicates=25)
    samples, counts = curve_draws(truth(), forecasts(), observed, seed=4, replicates=25)
    assert set(samples) - {"recall_100", "ndcg_100"} == {name for name in slow if f"{name}_ci" in slow}
    for name, values in samples.items():
        if name in slow:
            found = interval_of_draws(values)
            assert found.value == pytest.approx(slow[name], abs=1e-9), name
            assert [found.low, found.high] == pytest.approx(slow[f"{name}_ci"], abs=1e-9), name
    assert counts == {name: slow[name] for name in ("n_rows", "n_artists", "n_regions")}


def test_the_top_hundred_counts_regions_of_two_hundred_rows_only():
    given = truth(unknown=False)
    samples, _ = curve_draws(given, forecasts(), 0, replicates=3)
    parts = [
        top_replicates(given.streams[at].sum(axis=1), forecasts().score[at], np.ones((1, len(at))), 100 / len(at))
        for at in (np.flatnonzero(given.region == region) for region in ("US", "GB"))
    ]
    assert samples["recall_100"][0] == pytest.approx(np.mean([part[0, 0] for part in parts]))
    assert samples["ndcg_100"][0] == pytest.approx(np.mean([part[1, 0] for part in parts]))
    few = CurveTruth(*(values[:150] for values in (given.streams, given.floor, given.region, given.artist)))
    small = CurveForecasts(forecasts().curve[:150])
    assert np.isnan(curve_draws(few, small, 0, replicates=3)[0]["recall_100"]).all()


def test_systems_that_share_draws_are_drawn_alike():
    draws = known_draws(truth(), 0, seed=2, replicates=10)
    shared = curve_draws(truth(), forecasts(), 0, draws=draws)[0]
    alone = curve_draws(truth(), forecasts(), 0, seed=2, replicates=10)[0]
    assert all(np.array_equal(shared[name], alone[name], equal_nan=True) for name in alone)


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
