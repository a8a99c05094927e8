"""Forecast intervals or samples and the truth in; what they cover and probability integral transforms out."""

from __future__ import annotations

from typing import Any

import numpy as np

from mp3model.evaluation.bootstrap import Draws
from mp3model.files import InputError


def covered(true: Any, low: Any, high: Any) -> np.ndarray:
    """Whether each interval holds the truth, its ends included: any shape → 1.0 or 0.0, NaN where one is unknown."""
    true, low, high = (np.asarray(values, dtype=float) for values in (true, low, high))
    # Quantiles of samples are interpolated: a truth equal to them may differ in the last digit.
    slack = 1e-9 * np.maximum(1.0, np.abs(true))
    inside = (true >= low - slack) & (true <= high + slack)
    return np.where(np.isnan(true) | np.isnan(low) | np.isnan(high), np.nan, inside)


def interval_of(quantiles: Any, level: float = 0.8) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the central interval: nine quantiles (..., 9) → (...) and (...).

    Args:
        quantiles: at .1 … .9; crossing ones are sorted first.
        level: .2, .4, .6 or .8, the share of outcomes that the interval should hold.

    Raises:
        InputError: another level, whose ends are not among the nine.
    """
    steps = level * 10 / 2
    if not any(np.isclose(steps, whole) for whole in (1, 2, 3, 4)):
        raise InputError(f"level {level} has no ends among the nine quantiles; use 0.2, 0.4, 0.6 or 0.8")
    ordered = np.sort(np.asarray(quantiles, dtype=float), axis=-1)
    return ordered[..., 4 - round(steps)], ordered[..., 4 + round(steps)]


def pit_tenths(true: Any, samples: Any) -> np.ndarray:
    """Chances that the randomised PIT of each truth lies in each tenth of 0 to 1: (n,), (n, m) → (n, 10).

    The randomised probability integral transform is (samples below + U · (samples equal + 1)) / (m + 1) with U uniform.
    If the truth is one more draw from the forecast it is uniform exactly, for any m and with any mass points: weeks off
    the chart are exactly 0, and ties are broken at random. These are its means over U (the non-randomised PIT of Czado,
    Gneiting and Held 2009), so that no luck of ours is added to that of the songs.

    Args:
        true: (n,) values.
        samples: (n, m). The nine quantiles do as well: they tell which tenth the truth fell into.

    Returns:
        Rows that add up to 1, or are NaN where the truth or a sample is.
    """
    true, samples = np.asarray(true, dtype=float)[:, None], np.asarray(samples, dtype=float)
    start, width = (samples < true).sum(axis=1), (samples == true).sum(axis=1) + 1
    start, end = (each[:, None] / (samples.shape[1] + 1) for each in (start, start + width))
    edges = np.linspace(0, 1, 11)
    shared = np.minimum(end, edges[1:]) - np.maximum(start, edges[:-1])
    unknown = np.isnan(true) | np.isnan(samples).any(axis=1, keepdims=True)
    return np.where(unknown, np.nan, np.maximum(shared, 0) / (end - start))


def pit_deciles(tenths: np.ndarray) -> np.ndarray:
    """Share of the transforms in each tenth of 0 to 1: (n, 10) → (10,), each .1 if calibrated; NaN are left out."""
    tenths = tenths[~np.isnan(tenths).any(axis=1)]
    return tenths.mean(axis=0) if len(tenths) else np.full(10, np.nan)


def pit_deviation(tenths: np.ndarray) -> float:
    """Largest distance of a decile's share from .1: 0 if calibrated, .9 if all transforms fall into one tenth."""
    return float(np.abs(pit_deciles(tenths) - 0.1).max())


def pit_luck(tenths: np.ndarray, artist: Any, seed: int = 0) -> float | None:
    """How large a `pit_deviation` luck alone would explain: exceeded by 1 in 20 calibrated forecasts of such songs.

    Bootstrap by artist of the deciles' shares, each less the share of the sample itself: songs of one artist, and one
    song's regions, fall into the same tenths together, so that fewer rows than there are tell something new.

    Args:
        tenths: (n, 10) of `pit_tenths`; NaN rows are left out.
        artist: (n,) whose rows are drawn together; a missing one is drawn alone.
        seed: Of the draws.

    Returns:
        The .95 quantile; None with fewer than two artists, of whom nothing can be drawn.
    """
    known = ~np.isnan(tenths).any(axis=1)
    draws = Draws(np.asarray(artist, dtype=object)[known], seed=seed)
    if draws.artists() < 2:
        return None
    shares = draws.ratios(tenths[known], np.ones(tenths[known].shape))
    return float(np.quantile(np.abs(shares[1:] - shares[0]).max(axis=1), 0.95))
