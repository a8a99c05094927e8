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


def randomised_pit(true: Any, samples: Any, seed: int = 0) -> np.ndarray:
    """Probability integral transform of the truth in a sampled forecast: (...), (..., m) → (...) from 0 to 1.

    (samples below + U · (samples equal + 1)) / (m + 1) with U uniform. If the truth is one more draw from the forecast
    this is uniform exactly, for any m and with any mass points (weeks off the chart are exactly 0): ties are broken at
    random (Czado, Gneiting and Held 2009).

    Args:
        true: (...) values.
        samples: (..., m). The nine quantiles do as well: the result then tells which tenth the truth fell into.
        seed: of U.
    """
    true, samples = np.asarray(true, dtype=float), np.asarray(samples, dtype=float)
    below = (samples < true[..., None]).sum(axis=-1)
    equal = (samples == true[..., None]).sum(axis=-1)
    uniform = np.random.default_rng(seed).random(true.shape)
    pit = (below + uniform * (equal + 1)) / (samples.shape[-1] + 1)
    return np.where(np.isnan(true) | np.isnan(samples).any(axis=-1), np.nan, pit)


def pit_deciles(pit: Any) -> np.ndarray:
    """Share of the transforms in each tenth of 0 to 1: any shape → (10,), each .1 if calibrated; NaN are left out."""
    pit = np.ravel(np.asarray(pit, dtype=float))
    pit = pit[~np.isnan(pit)]
    counts = np.bincount(np.minimum(pit * 10, 9).astype(int), minlength=10)
    return counts / len(pit) if len(pit) else np.full(10, np.nan)


def pit_deviation(pit: Any) -> float:
    """Largest distance of a decile's share from .1: 0 if calibrated, .9 if all transforms fall into one tenth."""
    return float(np.abs(pit_deciles(pit) - 0.1).max())


def pit_luck(pit: Any, artist: Any, seed: int = 0) -> float | None:
    """How large a `pit_deviation` luck alone would explain: exceeded by 1 in 20 calibrated forecasts of such songs.

    Bootstrap by artist of the deciles' shares, each less the share of the sample itself: songs of one artist, and one
    song's regions, fall into the same tenths together, so that fewer rows than there are tell something new.

    Args:
        pit: (n,) transforms; NaN are left out.
        artist: (n,) whose rows are drawn together; a missing one is drawn alone.
        seed: Of the draws.

    Returns:
        The .95 quantile; None with fewer than two artists, of whom nothing can be drawn.
    """
    pit = np.asarray(pit, dtype=float)
    known = ~np.isnan(pit)
    draws = Draws(np.asarray(artist, dtype=object)[known], seed=seed)
    if draws.artists() < 2:
        return None
    inside = np.minimum(pit[known] * 10, 9).astype(int)[:, None] == np.arange(10)
    shares = draws.ratios(inside.astype(float), np.ones(inside.shape))
    return float(np.quantile(np.abs(shares[1:] - shares[0]).max(axis=1), 0.95))
