"""Forecast curves, the truth and artists drawn at random in; every measure of them in every draw out.

The same numbers as `mp3model.evaluation.accuracy.score_curves`, from the same draws, fast enough for a dozen systems on
tens of thousands of debuts: whatever is a sum over rows is summed by artist first, so that a draw costs a product with
artists and not with rows, and systems share one set of draws, so that their differences need no second scoring.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from mp3model.evaluation.accuracy import (
    MINIMUM_CURVES,
    CurveForecasts,
    CurveTruth,
    Interval,
    crps_from_quantiles,
    curve_row_scores,
)
from mp3model.evaluation.ranking import (
    bootstrap_weights,
    pair_order_replicates,
    spearman_replicates,
    top_replicates,
)
from mp3model.files import InputError

REPLICATES = 1000
# Pooled over regions, order is mostly the size of the markets: intervals of it need fewer draws than they cost.
POOLED_REPLICATES = 200
# The top of the published hit rankings; in a region of fewer rows than twice that, the top is most of what there is.
TOP, MINIMUM_TOP = 100, 200


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

    def weights(self, rows: np.ndarray, replicates: int | None = None) -> np.ndarray:
        """How often each of some rows is drawn: (1 + replicates, rows), None for all replicates."""
        most = len(self.counts) if replicates is None else 1 + replicates
        return self.counts[:most, self.codes[rows]]

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
        sums, total = np.split(counts @ both, 2, axis=1)
        return np.divide(sums, total, out=np.full_like(sums, np.nan), where=total > 0)

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
    low, high = np.percentile(drawn, (2.5, 97.5)) if several and len(drawn) else (None, None)
    return Interval(float(value), None if low is None else float(low), None if high is None else float(high))


def curve_draws(
    truth: CurveTruth,
    forecasts: CurveForecasts,
    observed: int = 0,
    seed: int = 0,
    replicates: int = REPLICATES,
    draws: Draws | None = None,
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Every measure of `score_curves` in every draw, and beside them `recall_100` and `ndcg_100`.

    Those two are of the hundred rows with most streams in a region, mean over the regions with at least 200 rows.

    Args:
        truth, forecasts, observed, seed, replicates: As for `score_curves`.
        draws: Of the rows whose truth is known, from `known_draws`; None makes them.

    Returns:
        Measure → (1 + replicates,), the sample's own value first; `_pooled` ones with at most 200 replicates. And
        `n_rows`, `n_artists`, `n_regions`.

    Raises:
        InputError: As in `curve_row_scores`, or no row whose truth is known.
    """
    rows = curve_row_scores(truth, forecasts, observed)
    scored = np.flatnonzero(~np.isnan(rows["true_streams"]))
    draws = known_draws(truth, observed, seed, replicates) if draws is None else draws
    rows = {name: values[scored] for name, values in rows.items()}
    true, error = rows.pop("true_streams"), rows.pop("absolute_error")
    region = pd.factorize(np.asarray(truth.region, dtype=object)[scored])[0]
    members = [np.flatnonzero(region == code) for code in range(region.max(initial=-1) + 1)]
    members = [at for at in members if len(at) >= MINIMUM_CURVES]

    values = np.column_stack(list(rows.values()))
    known = ~np.isnan(values)
    samples = dict(zip(rows, draws.ratios(np.where(known, values, 0.0), known.astype(float)).T, strict=True))
    samples["wape"] = 100 * draws.ratios(error[:, None], true[:, None])[:, 0]
    parts = [100 * draws.ratios(error[at, None], true[at, None], at)[:, 0] for at in members]
    samples["wape_macro"] = _mean(parts, len(draws.counts))
    if forecasts.quantiles is not None:
        loss = crps_from_quantiles(true, np.maximum(np.asarray(forecasts.quantiles, dtype=float)[scored], 0))
        samples["wql"] = draws.ratios(loss[:, None], true[:, None])[:, 0]
    samples |= _orders(true, _score_of(forecasts, observed)[scored], members, draws)
    return samples, {"n_rows": len(scored), "n_artists": draws.artists(), "n_regions": len(members)}


def known_draws(truth: CurveTruth, observed: int, seed: int = 0, replicates: int = REPLICATES) -> Draws:
    """Draws of the artists of the rows whose streams to come are known.

    Raises:
        InputError: There is no such row.
    """
    known = np.isfinite(np.asarray(truth.streams, dtype=float)[:, observed:].sum(axis=1))
    if not known.any():
        raise InputError(f"none of {len(known)} rows has a known truth; nothing can be scored")
    return Draws(np.asarray(truth.artist, dtype=object)[known], replicates, seed)


def _score_of(forecasts: CurveForecasts, observed: int) -> np.ndarray:
    """Whatever ranks the rows: (n,)."""
    for values in (forecasts.score, forecasts.total):
        if values is not None:
            return np.asarray(values, dtype=float)
    if forecasts.quantiles is not None:
        return np.asarray(forecasts.quantiles, dtype=float)[:, 4]
    return np.asarray(forecasts.curve, dtype=float)[:, observed:].sum(axis=1)


def _orders(true: np.ndarray, score: np.ndarray, members: list[np.ndarray], draws: Draws) -> dict[str, np.ndarray]:
    """Measures of order, mean over regions and pooled, in each draw."""
    parts: dict[str, list[np.ndarray]] = {name: [] for name in ("recall_100", "ndcg_100")}
    for at in members:
        weights = draws.weights(at)
        for name, values in _order(true[at], score[at], weights).items():
            parts.setdefault(name, []).append(values)
        if len(at) >= MINIMUM_TOP:
            recall, gain = top_replicates(true[at], score[at], weights, TOP / len(at))
            parts["recall_100"].append(recall)
            parts["ndcg_100"].append(gain)
    most = min(POOLED_REPLICATES, len(draws.counts) - 1)
    pooled = _order(true, score, draws.weights(np.arange(len(true)), most))
    found: dict[str, np.ndarray] = {}
    for name, values in pooled.items():
        found |= {name: _mean(parts.get(name, []), len(draws.counts)), f"{name}_pooled": values}
    return found | {name: _mean(parts[name], len(draws.counts)) for name in ("recall_100", "ndcg_100")}


def _order(true: np.ndarray, score: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    kendall, somers_d = pair_order_replicates(true, score, weights)
    recall, ndcg = top_replicates(true, score, weights)
    spearman = spearman_replicates(true, score, weights)
    return {"spearman": spearman, "kendall": kendall, "somers_d": somers_d, "recall10": recall, "ndcg10": ndcg}


def _mean(parts: list[np.ndarray], samples: int) -> np.ndarray:
    """(samples,) mean over regions, those in which a draw leaves the measure undefined left out of it."""
    if not parts:
        return np.full(samples, np.nan)
    each = np.stack(parts)
    present = ~np.isnan(each)
    counted = present.sum(axis=0)
    total = np.where(present, each, 0.0).sum(axis=0)
    return np.divide(total, counted, out=np.full(samples, np.nan), where=counted > 0)
