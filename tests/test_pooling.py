"""Pooling of paths with another system's quantiles: what it averages, what it leaves alone."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from small_charts import HORIZON, small_charts

from mp3model.evaluation.accuracy import LEVELS
from mp3model.evaluation.pooling import WEIGHTS, best_weight, pooled_paths
from mp3model.files import InputError
from mp3model.tables.debuts import debut_rows, debuts_of, with_cutoff
from mp3model.training.forecasting import companion_of, pooled_rows, scaled_as

FLOOR = np.array([10.0])
TINY = np.array([[[1e-6]]])


def paths_of(logs: np.ndarray, periods: int = 3) -> np.ndarray:
    """(1, paths, 1 + periods): a first period of 7 and totals of 10**logs − 1 floors, shared out evenly."""
    total = FLOOR * (10.0 ** np.asarray(logs) - 1)
    later = np.repeat(total[:, None] / periods, periods, axis=1)
    return np.concatenate([np.full((len(later), 1), 7.0), later], axis=1)[None]


def logs_of(paths: np.ndarray) -> np.ndarray:
    return np.log10(1 + paths[:, :, 1:].sum(axis=2) / FLOOR[:, None])


def own_quantiles(paths: int) -> np.ndarray:
    """Logs whose quantiles at the nine levels are the levels themselves."""
    return (np.arange(paths) + 0.5) / paths


def test_quantiles_move_by_the_weight_and_observed_periods_stay():
    paths = paths_of(own_quantiles(100))
    other = np.array([LEVELS]) + 1.0
    for weight in (0.0, 0.3, 1.0):
        pooled = pooled_paths(paths, 1, other, weight, FLOOR, TINY)
        np.testing.assert_allclose(logs_of(pooled), logs_of(paths) + weight, atol=1e-9)
        np.testing.assert_array_equal(pooled[:, :, 0], 7.0)
        shares = pooled[0, :, 1:] / pooled[0, :, 1:].sum(axis=1, keepdims=True)
        np.testing.assert_allclose(shares, 1 / 3)


def test_a_spread_is_averaged_and_tails_shift_as_the_outermost_quantiles():
    paths = paths_of(1 + own_quantiles(100))
    other = 1 + 0.5 + 3 * (np.array([LEVELS]) - 0.5)
    moved = logs_of(pooled_paths(paths, 1, other, 0.5, FLOOR, TINY))[0]
    inner = slice(10, 90)
    np.testing.assert_allclose(moved[inner], 1.5 + 2 * (own_quantiles(100)[inner] - 0.5), atol=1e-9)
    np.testing.assert_allclose(moved[95:] - own_quantiles(100)[95:] - 1, 0.4, atol=1e-9)


def test_what_falls_below_half_the_lowest_leaves_the_chart_and_the_rest_keeps_to_it():
    paths = np.array([[[0.0, 20.0], [0.0, 40.0], [0.0, 80.0]]])
    lowest = np.array([[[20.0]]])
    down = pooled_paths(paths, 1, np.zeros((1, 9)), 0.75, FLOOR, lowest)[0, :, 1]
    assert down[0] == 0.0
    assert ((down == 0) | (down >= 20)).all()
    np.testing.assert_array_equal(pooled_paths(paths, 1, np.zeros((1, 9)), 1.0, FLOOR, lowest)[0, :, 1], 0.0)


def test_paths_with_nothing_left_begin_at_once_where_the_other_expects_more():
    paths = np.zeros((1, 4, 3))
    pooled = pooled_paths(paths, 1, np.full((1, 9), 1.0), 1.0, FLOOR, np.array([[[5.0]]]))
    np.testing.assert_allclose(pooled[0], [[0.0, 90.0, 0.0]] * 4)


@settings(max_examples=40)
@given(
    st.lists(st.floats(0, 1e6), min_size=2, max_size=30),
    st.lists(st.floats(0, 5), min_size=9, max_size=9),
    st.sampled_from(WEIGHTS),
)
def test_pooled_paths_are_finite_and_keep_their_order(totals, other, weight):
    # Half of the chart's lowest is a tie, which rounding decides.
    assume(not np.isclose(totals, 1.5).any())
    paths = np.zeros((1, len(totals), 2))
    paths[0, :, 1] = totals
    pooled = pooled_paths(paths, 1, np.sort(other)[None], weight, FLOOR, np.array([[[3.0]]]))
    assert np.isfinite(pooled).all()
    assert (pooled >= 0).all()
    if weight == 0:
        np.testing.assert_allclose(
            pooled[0, :, 1], np.where(paths[0, :, 1] < 1.5, 0, np.maximum(paths[0, :, 1], 3)), rtol=1e-6, atol=1e-9
        )


def test_the_weight_goes_to_who_is_right():
    random = np.random.default_rng(0)
    truth_logs = random.normal(2, 0.5, 400)
    floor, lowest = np.full(400, 10.0), np.full((400, 1, 1), 1e-6)
    truth = np.concatenate([paths_of([log])[0] for log in truth_logs])
    right = truth_logs[:, None] + 0.1 * np.linspace(-1, 1, 9)
    wrong = np.concatenate([paths_of(2 + random.normal(0, 0.5, 50)) for _ in range(400)])
    assert best_weight(wrong, 1, right, floor, lowest, truth) == max(WEIGHTS)
    known = np.concatenate([paths_of(log + 0.1 * random.normal(size=50)) for log in truth_logs])
    far = np.zeros((400, 9)) + 4.0
    assert best_weight(known, 1, far, floor, lowest, truth) == 0.0
    truth[::2, -1] = np.nan
    assert best_weight(wrong, 1, right, floor, lowest, truth) == max(WEIGHTS)


def test_a_companion_who_is_right_of_most_songs_but_not_of_the_largest_is_not_followed_far():
    random = np.random.default_rng(0)
    floor, lowest = np.full(300, 10.0), np.full((300, 1, 1), 1e-6)
    large = np.arange(300) < 5
    truth_logs = np.where(large, 5.0, random.normal(2, 0.3, 300))
    truth = np.concatenate([paths_of([log])[0] for log in truth_logs])
    spread = 0.1 * own_quantiles(50) - 0.05
    paths = np.concatenate([paths_of(log + (0 if log == 5 else 0.4) + spread) for log in truth_logs])
    others = truth_logs[:, None] + 0.1 * np.linspace(-0.4, 0.4, 9) - 0.5 * large[:, None]

    def chosen(some: np.ndarray) -> float:
        return best_weight(paths[some], 1, others[some], floor[some], lowest[some], truth[some])

    assert chosen(~large) == max(WEIGHTS)
    assert chosen(np.full(300, True)) < 0.3


def test_uncensored_paths_follow_what_the_chart_shows_of_them():
    full = np.array([[[5.0, 4.0, 1.0], [5.0, 1.0, 1.0]]])
    charted = np.array([[[5.0, 4.0, 0.0], [5.0, 0.0, 0.0]]])
    pooled = np.array([[[5.0, 8.0, 0.0], [5.0, 6.0, 0.0]]])
    scaled = scaled_as(full, charted, pooled, np.array([1]))
    np.testing.assert_allclose(scaled, [[[5.0, 8.0, 2.0], [5.0, 1.0, 1.0]]])


class Constant:
    """A companion that foretells one total, in streams, for every row it is asked about."""

    def __init__(self, total: float | None):
        self.total = total
        self.asked: list[tuple[int, int]] = []

    def forecast(self, debuts, observed):
        self.asked.append((len(debuts.rows), observed))
        quantiles = None if self.total is None else np.full((len(debuts.rows), len(LEVELS)), self.total)
        return SimpleNamespace(quantiles=quantiles)


def test_each_row_is_pooled_by_the_weight_of_its_observed_periods():
    dataset = small_charts()
    debuts = debuts_of(dataset, debut_rows(dataset).iloc[:5], HORIZON)
    rows = with_cutoff(debuts.rows, np.array([0, 1, 2, 1, 4]), "W")
    streams = np.random.default_rng(0).gamma(2.0, 50.0, (5, 20, HORIZON))
    floor, threshold = np.full(5, 10.0), np.full((5, 1, 1), -9.0)
    weights = {"0": 0.5, "1": 1.0, "2": 0.0, "3": 1.0}
    companion = Constant(400.0)
    pooled = pooled_rows(streams, rows, debuts, companion, weights, floor, threshold)
    # Nobody has three observed periods, and at two the companion has no weight; for four it has none either.
    assert companion.asked == [(1, 0), (2, 1)]
    np.testing.assert_array_equal(pooled[[2, 4]], streams[[2, 4]])
    for row, (observed, weight) in {0: (0, 0.5), 1: (1, 1.0), 3: (1, 1.0)}.items():
        told = np.full((1, len(LEVELS)), np.log10(1 + 400 / 10))
        alone = pooled_paths(streams[[row]], observed, told, weight, FLOOR, FLOOR[:, None, None] * 1e-9)
        np.testing.assert_allclose(pooled[row], alone[0])
        assert (pooled[row] != streams[row]).any()
    silent = pooled_rows(streams, rows, debuts, Constant(None), weights, floor, threshold)
    np.testing.assert_array_equal(silent, streams)


def test_a_model_whose_trees_are_gone_is_refused_by_name(tmp_path):
    assert companion_of(tmp_path, None, None) is None
    assert companion_of(tmp_path, {"0": 0.0}, None) is None
    with pytest.raises(InputError, match=r"missing, though the model is pooled with boosted trees; copy the whole"):
        companion_of(tmp_path, {"0": 0.5}, None)


@pytest.mark.parametrize("paths", [1, 2, 7, 100])
def test_any_number_of_paths_is_pooled(paths):
    pooled = pooled_paths(paths_of(own_quantiles(paths)), 1, np.array([LEVELS]), 0.5, FLOOR, TINY)
    assert pooled.shape == (1, paths, 4)
    assert np.isfinite(pooled).all()
