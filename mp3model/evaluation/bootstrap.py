"""Rows and whose they are in; artists drawn with replacement, and 95 % intervals over the draws, out.

The one bootstrap of all scores: artists are drawn, not rows, because songs of one artist rise and fall together.
Whatever is measured in every draw has the sample's own value first, (1 + replicates,).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

REPLICATES = 1000
_PERCENTILES = (2.5, 97.5)


@dataclass(frozen=True)
class Interval:
    """A value and the bounds of its 95 % interval; None where undefined."""

    value: float | None
    low: float | None
    high: float | None


def bootstrap_weights(groups: Any, replicates: int, seed: int) -> np.ndarray:
    """How often each row is drawn when whole groups (artists) are drawn with replacement.

    Rows of one artist rise and fall together; drawing rows one by one would make intervals too narrow.

    Args:
        groups: (n,) group of each row; the missing ones are one group.
        replicates: Bootstrap samples.
        seed: Of the draws.

    Returns:
        (replicates, n) int32 counts; each replicate draws as many groups as there are.
    """
    codes, names = pd.factorize(np.asarray(groups), use_na_sentinel=False)
    count = len(names)
    if not count:
        return np.zeros((replicates, 0), np.int32)
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=replicates)
    return draws.astype(np.int32)[:, codes]


class Draws:
    """Artists drawn with replacement, all rows of one together: the sample itself, then its bootstrap samples.

    Args:
        artist: (n,) whose rows are drawn together; a missing one is drawn alone.
        replicates: Bootstrap samples.
        seed: Of the draws.

    Attributes:
        codes: (n,) artist of each row, from 0 in the order of the rows.
        counts: (1 + replicates, artists) how often each is drawn, once each in the first.
    """

    def __init__(self, artist: Any, replicates: int = REPLICATES, seed: int = 0) -> None:
        codes = pd.factorize(np.asarray(artist, dtype=object))[0]
        self.codes = pd.factorize(np.where(codes < 0, len(codes) + np.arange(len(codes)), codes))[0]
        artists = int(self.codes.max(initial=-1)) + 1
        drawn = bootstrap_weights(np.arange(artists), replicates, seed)
        self.counts = np.vstack([np.ones((1, artists)), drawn])

    def weights(self, rows: np.ndarray | None = None, replicates: int | None = None) -> np.ndarray:
        """How often each row is drawn: (1 + replicates, rows), None for all rows and for all replicates."""
        most = len(self.counts) if replicates is None else 1 + replicates
        return self.counts[:most, self.codes if rows is None else self.codes[rows]]

    def ratios(self, above: np.ndarray, below: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
        """Σ above / Σ below over what is drawn, a column at a time.

        Args:
            above, below: (n, columns); of a mean, the values and ones.
            rows: (n,) their places; None is all rows.

        Returns:
            (1 + replicates, columns), NaN where nothing is drawn.
        """
        codes = self.codes if rows is None else self.codes[rows]
        if not len(codes):
            return np.full((len(self.counts), above.shape[1]), np.nan)
        order = np.argsort(codes, kind="stable")
        artists, starts = np.unique(codes[order], return_index=True)
        both = np.add.reduceat(np.hstack([above, below])[order], starts, axis=0)
        counts = self.counts if len(artists) == self.counts.shape[1] else self.counts[:, artists]
        return divided(*np.split(counts @ both, 2, axis=1))

    def artists(self, rows: np.ndarray | None = None) -> int:
        """How many artists the rows are by."""
        return len(np.unique(self.codes if rows is None else self.codes[rows]))


def interval_of_draws(samples: np.ndarray, several: bool = True) -> Interval:
    """The sample's own value, which comes first, and the .025 and .975 quantiles of the others as bounds.

    Args:
        samples: (1 + replicates,); draws in which the measure is undefined are left out.
        several: Whether there is more than one artist to draw: of one there is no interval.
    """
    value, drawn = samples[0], samples[1:][np.isfinite(samples[1:])]
    if not np.isfinite(value):
        return Interval(None, None, None)
    low, high = np.percentile(drawn, _PERCENTILES) if several and len(drawn) else (None, None)
    return Interval(float(value), None if low is None else float(low), None if high is None else float(high))


def with_interval(metric: str, samples: np.ndarray, several: bool = True) -> dict[str, Any]:
    """A measure as reports hold it: `metric`, and `metric_ci`, [low, high]; None where undefined.

    Args:
        metric: Its name.
        samples, several: As for `interval_of_draws`.
    """
    found = interval_of_draws(samples, several)
    return {metric: found.value, f"{metric}_ci": None if found.low is None else [found.low, found.high]}


def paired_row_difference(
    scores_a: Any, scores_b: Any, artist: Any, scale: Any = None, seed: int = 0, replicates: int = REPLICATES
) -> Interval:
    """Mean score of system A less that of system B on the same rows, with a 95 % interval by artist.

    Args:
        scores_a, scores_b: (n,) any score a row, e.g. of `curve_row_scores`; rows with a NaN in either are left out.
        artist: (n,) whose rows are drawn together; a missing one is drawn alone.
        scale: (n,) what the sum of differences is divided by the sum of, e.g. true streams for WAPE; None counts rows.
        seed, replicates: of the bootstrap.
    """
    difference = np.asarray(scores_a, dtype=float) - np.asarray(scores_b, dtype=float)
    size = np.ones(len(difference)) if scale is None else np.asarray(scale, dtype=float)
    known = ~(np.isnan(difference) | np.isnan(size))
    draws = Draws(np.asarray(artist, dtype=object)[known], replicates, seed)
    weights = draws.weights()
    samples = divided(weights @ difference[known], weights @ size[known])
    return interval_of_draws(samples, draws.artists() > 1)


def divided(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below where that is above 0, else NaN: (...), (...) → (...)."""
    return np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below > 0)


def rows_by_region(region: np.ndarray, minimum_rows: int) -> list[np.ndarray]:
    """Row numbers of each region with enough rows, in the order of their codes.

    Args:
        region: (n,) codes from 0.
        minimum_rows: Regions with fewer are left out.
    """
    members = [np.flatnonzero(region == code) for code in range(region.max(initial=-1) + 1)]
    return [rows for rows in members if len(rows) >= minimum_rows]


def mean_over_regions(values: Sequence[np.ndarray], samples: int) -> np.ndarray:
    """(samples,) mean of what each region gives in each draw, those that it leaves undefined left out of it."""
    if not values:
        return np.full(samples, np.nan)
    each = np.stack(values)
    present = ~np.isnan(each)
    return divided(np.where(present, each, 0.0).sum(axis=0), present.sum(axis=0))
