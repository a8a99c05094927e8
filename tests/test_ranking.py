"""Recall and nDCG of the top, and several measures from one count of pairs: against scikit-learn and random orders."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st

from mp3model.evaluation import ranking
from mp3model.evaluation.bootstrap import bootstrap_weights
from mp3model.evaluation.ranking import (
    kendall_replicates,
    ndcg_of_top,
    pair_order_replicates,
    recall_of_top,
    somers_d_replicates,
    top_replicates,
)
from mp3model.files import InputError

with_ties = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=30)


def of_one_order(true: np.ndarray, predicted: np.ndarray, taken: int, generator: np.random.Generator) -> list[float]:
    """Recall and nDCG with ties broken by one throw of the dice, written out."""

    def top(values: np.ndarray) -> list[int]:
        luck = generator.random(len(values))
        return sorted(range(len(values)), key=lambda row: (-values[row], luck[row]))[:taken]

    best, picked = top(true), top(predicted)
    gain = sum(true[row] / np.log2(place + 2) for place, row in enumerate(picked))
    ideal = sum(true[row] / np.log2(place + 2) for place, row in enumerate(best))
    return [len(set(best) & set(picked)) / taken, gain / ideal if ideal else 0.0]


def test_hand_made_tops():
    true, predicted = np.arange(20.0), np.arange(20.0)
    assert recall_of_top(true, predicted) == ndcg_of_top(true, predicted) == 1
    assert recall_of_top(true, -predicted) == 0
    # The first place goes to the second best, the second to the third best of 20.
    predicted[19] = -1
    assert recall_of_top(true, predicted) == 0.5
    assert ndcg_of_top(true, predicted) == pytest.approx((18 + 17 / np.log2(3)) / (19 + 18 / np.log2(3)))
    # A tenth of 21 rows is three, of 30 rows still three, and of 5 rows one.
    assert recall_of_top(np.arange(21.0), np.append(np.arange(20.0), -1)) == pytest.approx(2 / 3)
    assert recall_of_top(np.arange(30.0), np.append(np.arange(29.0), -1)) == pytest.approx(2 / 3)
    assert recall_of_top(np.arange(5.0), np.arange(5.0)) == 1
    # In floating point 0.07 times 100 is more than 7; the eighth row is no part of the top.
    eighth_right = np.append(np.arange(93.0), -1 - np.arange(7.0))
    assert recall_of_top(np.arange(100.0), eighth_right, share=0.07) == 0


def test_a_constant_prediction_finds_the_share_of_the_top_and_a_truth_of_zeros_has_no_gain():
    assert recall_of_top(np.arange(50.0), np.ones(50)) == pytest.approx(0.1)
    assert recall_of_top(np.arange(50.0), np.ones(50), share=0.3) == pytest.approx(0.3)
    assert recall_of_top(np.zeros(50), np.arange(50.0)) == pytest.approx(0.1)
    assert ndcg_of_top(np.zeros(50), np.arange(50.0)) == 0


@pytest.mark.parametrize("share", [0.1, 0.4])
def test_with_ties_the_result_is_the_mean_over_random_orders(share: float):
    generator = np.random.default_rng(0)
    true, predicted = generator.integers(0, 6, 25).astype(float), generator.integers(0, 4, 25).astype(float)
    taken = {0.1: 3, 0.4: 10}[share]
    orders = [of_one_order(true, predicted, taken, generator) for _ in range(8000)]
    found = [recall_of_top(true, predicted, share), ndcg_of_top(true, predicted, share)]
    error = 4 * np.std(orders, axis=0) / np.sqrt(len(orders))
    assert (np.abs(np.mean(orders, axis=0) - found) < error).all()


@given(pairs=with_ties)
def test_ndcg_equals_scikit_learn_with_ties(pairs: list[tuple[int, int]]):
    true, predicted = np.array(pairs, float).T
    for share in (0.1, 0.5, 1.0):
        taken = max(1, int(np.ceil(share * len(true))))
        expected = sklearn.metrics.ndcg_score([true], [predicted], k=taken)
        assert ndcg_of_top(true, predicted, share) == pytest.approx(expected, abs=1e-9)


@given(pairs=with_ties, seed=st.integers(0, 1000))
def test_the_top_depends_on_the_order_of_the_prediction_alone(pairs: list[tuple[int, int]], seed: int):
    true, predicted = np.array(pairs, float).T
    mixed = np.random.default_rng(seed).permutation(len(true))
    for measure in (recall_of_top, ndcg_of_top):
        value = measure(true, predicted)
        assert 0 <= value <= 1
        assert measure(true[mixed], np.exp(predicted)[mixed]) == pytest.approx(value, abs=1e-12)


def test_replicates_count_a_row_drawn_twice_as_two_rows(monkeypatch: pytest.MonkeyPatch):
    generator = np.random.default_rng(3)
    true = generator.permutation(120).astype(float)
    predicted = true + generator.normal(0, 20, 120)
    predicted[::17] = np.nan
    weights = bootstrap_weights(generator.integers(0, 25, 120), 15, seed=1)
    monkeypatch.setattr(ranking, "_BLOCK", 500)
    found = top_replicates(true, predicted, weights)
    for replicate, drawn in enumerate(weights):
        rows = np.repeat(np.arange(120), np.where(np.isnan(predicted), 0, drawn))
        taken = int(np.ceil(len(rows) / 10 - 1e-9))
        best = rows[np.argsort(-true[rows], kind="stable")][:taken]
        picked = rows[np.argsort(-predicted[rows], kind="stable")][:taken]
        both = np.minimum(np.bincount(best, minlength=120), np.bincount(picked, minlength=120)).sum()
        discount = 1 / np.log2(np.arange(2, taken + 2))
        expected = [both / taken, (true[picked] * discount).sum() / (true[best] * discount).sum()]
        np.testing.assert_allclose(found[:, replicate], expected, atol=1e-12)
    # A perfect order stays perfect however often the row at the edge of the top is drawn.
    np.testing.assert_allclose(top_replicates(true, true, weights), 1)


def test_one_count_of_pairs_gives_both_measures():
    generator = np.random.default_rng(0)
    true, predicted = generator.integers(0, 9, (2, 60)).astype(float)
    weights = bootstrap_weights(np.arange(60) // 3, 20, seed=0)
    both = pair_order_replicates(true, predicted, weights)
    np.testing.assert_array_equal(both[0], kendall_replicates(true, predicted, weights))
    np.testing.assert_array_equal(both[1], somers_d_replicates(true, predicted, weights))
    assert (both[0] != both[1]).any()


def test_too_few_rows_have_no_top():
    assert recall_of_top([], []) == ndcg_of_top([1, 2], [1, 2]) == 0
    assert np.isnan(top_replicates([], [], np.ones((4, 0)))).all()
    drawn = top_replicates([1, 2, 3], [1, 2, 3], np.array([[1, 1, 0], [1, 1, 1]]))
    assert np.isnan(drawn[:, 0]).all()
    assert drawn[:, 1].tolist() == [1, 1]
    with pytest.raises(InputError, match="gains of -1 are negative"):
        recall_of_top([-1.0, 2, 3], [1, 2, 3])
    with pytest.raises(InputError, match="share 0 of the rows"):
        recall_of_top([1.0, 2, 3], [1, 2, 3], share=0)
