"""True and predicted values in, agreement of their order out: one number, or one a bootstrap replicate.

All measures are exact with ties, and in every replicate a row that was drawn w times counts as w tied rows, whose ranks
are taken anew within the replicate. Recall and nDCG of the top are those expected if ties were broken at random.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mp3model.files import InputError

# Replicates are worked through in blocks of about this many weights: temporaries of 4 MB stay in the cache.
_BLOCK = 500_000


def spearman(true: Any, predicted: Any) -> float:
    """Spearman's rank correlation: Pearson's of midranks.

    Args:
        true, predicted: (n,) values; pairs with a NaN are dropped.

    Returns:
        −1 to 1; 0.0, "no order shown", for fewer than three pairs or where one side is constant.
    """
    return _once(spearman_replicates, true, predicted)


def kendall(true: Any, predicted: Any) -> float:
    """Kendall's tau-b: (concordant − discordant) / √(pairs not tied in true · pairs not tied in predicted).

    Args and special cases as in `spearman`.
    """
    return _once(kendall_replicates, true, predicted)


def somers_d(true: Any, predicted: Any) -> float:
    """Somers' D: (concordant − discordant) / pairs that differ in truth, i.e. P(right order) − P(wrong order).

    Args and special cases as in `spearman`.
    """
    return _once(somers_d_replicates, true, predicted)


def recall_of_top(true: Any, predicted: Any, share: float = 0.1) -> float:
    """How much of the true top the predicted top holds; both are the ⌈share · n⌉ rows of the highest values.

    Ties are broken at random, independently in truth and prediction: the result is the expected value, so a constant
    prediction gets the share itself.

    Args:
        true: (n,) values of at least 0; pairs with a NaN are dropped.
        predicted: (n,) values whose order is the forecast.
        share: of the rows that is the top.

    Returns:
        0 to 1; 0.0 for fewer than three pairs.
    """
    return _once(lambda x, y, w: top_replicates(x, y, w, share)[0], true, predicted)


def ndcg_of_top(true: Any, predicted: Any, share: float = 0.1) -> float:
    """Normalised discounted cumulative gain of the predicted top: gain of a row is its true value, discount
    1 / log2(1 + place), divided by that of the true top (Järvelin and Kekäläinen 2002, linear gain).

    Args and ties as in `recall_of_top`; 0.0 also where all true values are 0.
    """
    return _once(lambda x, y, w: top_replicates(x, y, w, share)[1], true, predicted)


def _once(measure: Callable[..., np.ndarray], true: Any, predicted: Any) -> float:
    value = measure(true, predicted, np.ones((1, np.size(true)), np.int32))[0]
    return 0.0 if np.isnan(value) else float(value)


def spearman_replicates(true: Any, predicted: Any, weights: np.ndarray) -> np.ndarray:
    """`spearman` of every bootstrap replicate.

    Args:
        true, predicted: (n,) values; pairs with a NaN are dropped.
        weights: (replicates, n) counts, from `mp3model.evaluation.bootstrap`.

    Returns:
        (replicates,) values; 0.0 where one side is constant, NaN where fewer than three rows were drawn.
    """

    def block(x: _Ties, y: _Ties, drawn: np.ndarray) -> np.ndarray:
        total = drawn.sum(axis=0)
        # The mean of midranks is known; what is summed is centred already, which keeps full precision.
        rank_x, rank_y = x.midranks(drawn) - (total + 1) / 2, y.midranks(drawn) - (total + 1) / 2
        covariance = (drawn * rank_x * rank_y).sum(axis=0)
        scale = np.sqrt((drawn * rank_x**2).sum(axis=0) * (drawn * rank_y**2).sum(axis=0))
        return _ratio(covariance, scale, total)

    return _by_blocks(block, true, predicted, weights)


def kendall_replicates(true: Any, predicted: Any, weights: np.ndarray) -> np.ndarray:
    """`kendall` of every bootstrap replicate; arguments and result as in `spearman_replicates`."""
    return pair_order_replicates(true, predicted, weights)[0]


def somers_d_replicates(true: Any, predicted: Any, weights: np.ndarray) -> np.ndarray:
    """`somers_d` of every bootstrap replicate; arguments and result as in `spearman_replicates`."""
    return pair_order_replicates(true, predicted, weights)[1]


def pair_order_replicates(true: Any, predicted: Any, weights: np.ndarray) -> np.ndarray:
    """`kendall` and `somers_d` of every bootstrap replicate, from one count of the pairs.

    Args and special cases as in `spearman_replicates`.

    Returns:
        (2, replicates).
    """

    def block(x: _Ties, y: _Ties, drawn: np.ndarray) -> np.ndarray:
        total = drawn.sum(axis=0)
        difference, differ_x, differ_y = _pair_counts(x, y, drawn, total)
        tau = _ratio(difference, np.sqrt(differ_x) * np.sqrt(differ_y), total)
        return np.stack([tau, _ratio(difference, differ_x, total)])

    return _by_blocks(block, true, predicted, weights, measures=2)


def top_replicates(true: Any, predicted: Any, weights: np.ndarray, share: float = 0.1) -> np.ndarray:
    """`recall_of_top` and `ndcg_of_top` of every bootstrap replicate.

    Args:
        true, predicted, share: as in `recall_of_top`.
        weights: (replicates, n) counts, from `mp3model.evaluation.bootstrap`.

    Returns:
        (2, replicates); NaN where fewer than three rows were drawn.
    """
    if np.any(np.asarray(true, dtype=float) < 0):
        raise InputError(f"gains of {float(np.nanmin(true)):g} are negative; give streams, not their logarithm")
    if not 0 < share <= 1:
        raise InputError(f"share {share} of the rows is no top; give more than 0 and at most 1")

    def block(x: _Ties, y: _Ties, drawn: np.ndarray) -> np.ndarray:
        total = drawn.sum(axis=0)
        # 0.07 times 100 is a little more than 7 in floating point.
        taken = np.maximum(1, np.ceil(share * total - 1e-9))
        discounts = np.append(0.0, np.cumsum(1 / np.log2(np.arange(2, int(taken.max(initial=1)) + 2))))
        in_true, true_discount = x.top(drawn, taken, discounts)
        in_predicted, discount = y.top(drawn, taken, discounts)
        # Copies of one row are in the same order on both sides; different rows that tie are ordered independently.
        alone = (np.bincount(x.group)[x.group] == 1) & (np.bincount(y.group)[y.group] == 1)
        mine, theirs = in_predicted[y.group], in_true[x.group]
        shared = np.where(alone[:, None], np.minimum(mine, theirs), mine * theirs)
        recall = _ratio((drawn * shared).sum(axis=0), taken, total)
        gained = (drawn * x.values[x.group][:, None] * (discount / np.maximum(y.sizes(drawn), 1))[y.group]).sum(axis=0)
        return np.stack([recall, _ratio(gained, (x.values[:, None] * true_discount).sum(axis=0), total)])

    return _by_blocks(block, true, predicted, weights, measures=2)


def _ratio(numerator: np.ndarray, denominator: np.ndarray, total: np.ndarray) -> np.ndarray:
    ratio = np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)
    return np.where(total < 3, np.nan, np.clip(ratio, -1, 1))


def _by_blocks(
    block: Callable[[_Ties, _Ties, np.ndarray], np.ndarray],
    true: Any,
    predicted: Any,
    weights: np.ndarray,
    measures: int = 1,
) -> np.ndarray:
    """What `block` gives for each of a few replicates at a time, (replicates,) or (measures, replicates), joined."""
    true, predicted = np.asarray(true, dtype=float), np.asarray(predicted, dtype=float)
    kept = np.flatnonzero(~(np.isnan(true) | np.isnan(predicted)))
    if not len(kept):
        return np.full((measures, len(weights)) if measures > 1 else len(weights), np.nan)
    x, y = _Ties.of(true[kept]), _Ties.of(predicted[kept])
    step = max(1, _BLOCK // len(kept))
    # Rows down, replicates across: every sum and running sum below then runs over contiguous replicates.
    blocks = [weights[i : i + step].T[kept].astype(float) for i in range(0, len(weights), step)]
    return np.concatenate([block(x, y, drawn) for drawn in blocks], axis=-1)


@dataclass(frozen=True)
class _Ties:
    """Rows as groups of equal values: `values` ascending, `group` (n,) of each row, rows sorted by it in `order`."""

    values: np.ndarray
    group: np.ndarray
    order: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> _Ties:
        values, group = np.unique(values, return_inverse=True)
        order = np.argsort(group, kind="stable")
        return cls(values, group, order, np.flatnonzero(np.diff(group[order], prepend=-1)))

    def sizes(self, drawn: np.ndarray) -> np.ndarray:
        """(groups, replicates) rows drawn of each group."""
        return np.add.reduceat(drawn[self.order], self.starts, axis=0)

    def midranks(self, drawn: np.ndarray) -> np.ndarray:
        """(n, replicates) mean rank of each row's group, from 1."""
        sizes = self.sizes(drawn)
        return (np.cumsum(sizes, axis=0) - sizes / 2 + 0.5)[self.group]

    def top(self, drawn: np.ndarray, taken: np.ndarray, discounts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What each group has of the top.

        Args:
            drawn: (n, replicates) counts.
            taken: (replicates,) rows in the top.
            discounts: [j] is the sum of the first j places' discounts.

        Returns:
            The share of the group's rows that are in the top, and the sum of the discounts of their places:
            (groups, replicates) each.
        """
        sizes = self.sizes(drawn)
        start = sizes.sum(axis=0) - np.cumsum(sizes, axis=0)
        first, last = np.minimum(start, taken), np.minimum(start + sizes, taken)
        return (last - first) / np.maximum(sizes, 1), discounts[last.astype(int)] - discounts[first.astype(int)]


def _pair_counts(x: _Ties, y: _Ties, drawn: np.ndarray, total: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Concordant − discordant pairs, pairs that differ in x, pairs that differ in y: (replicates,) each."""
    pairs = _pairs(total)
    differ_x = pairs - _pairs(x.sizes(drawn)).sum(axis=0)
    differ_y = pairs - _pairs(y.sizes(drawn)).sum(axis=0)
    tied_both = _pairs(_Ties.of(x.group * len(y.starts) + y.group).sizes(drawn)).sum(axis=0)
    differ_both = differ_x + differ_y - pairs + tied_both
    return differ_both - 2 * _discordant(x, y, drawn), differ_x, differ_y


def _pairs(count: np.ndarray) -> np.ndarray:
    return count * (count - 1) / 2


def _discordant(x: _Ties, y: _Ties, drawn: np.ndarray) -> np.ndarray:
    """Pairs with x ascending and y descending: (replicates,).

    With the rows sorted by x (then y), these are the inversions of y. They are counted a binary digit of y at a time:
    two rows are told apart by the highest digit in which they differ, and are inverted if the 1 comes first. The order
    in which rows are visited is the same for all replicates, so each step is a few sums over arrays.
    """
    order = np.lexsort((y.group, x.group))
    digits, drawn = y.group[order], drawn[order]
    inverted = np.zeros(drawn.shape[1])
    for place in reversed(range(int(digits.max()).bit_length())):
        ones = (digits >> place & 1)[:, None] * drawn
        before = np.cumsum(ones, axis=0)
        # Rows that agree in all higher digits are neighbours here: they were sorted by those in the rounds before.
        higher = digits >> (place + 1)
        start = np.flatnonzero(np.diff(higher, prepend=-1))
        outside = np.repeat(before[start] - ones[start], np.diff(np.append(start, len(higher))), axis=0)
        inverted += ((drawn - ones) * (before - outside)).sum(axis=0)
        resorted = np.argsort(digits >> place, kind="stable")
        digits, drawn = digits[resorted], drawn[resorted]
    return inverted
