"""Forecast curves, the truth and artists drawn at random in; every measure of them, in every draw, out.

`score_curves` scores one system. Several on tens of thousands of debuts share one set of draws (`known_draws`), so that
their differences need no second scoring; whatever is a sum over rows is summed by artist first, so that a draw costs a
product with artists and not with rows.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from mp3model.evaluation.accuracy import (
    MINIMUM_CURVES,
    CurveForecasts,
    CurveTruth,
    crps_from_quantiles,
    curve_row_scores,
)
from mp3model.evaluation.bootstrap import (
    REPLICATES,
    Draws,
    interval_of_draws,
    mean_over_regions,
    rows_by_region,
    with_interval,
)
from mp3model.evaluation.ranking import pair_order_replicates, spearman_replicates, top_replicates
from mp3model.files import InputError

# Pooled over regions, order is mostly the size of the markets: intervals of it need fewer draws than they cost.
POOLED_REPLICATES = 200
# The top of the published hit rankings; in a region of fewer rows than twice that, the top is most of what there is.
TOP, MINIMUM_TOP = 100, 200
# Measure → its value in every draw, and how many rows, artists and regions there were: what `curve_draws` gives.
Drawn = tuple[dict[str, np.ndarray], dict[str, int]]


def score_curves(
    truth: CurveTruth,
    forecasts: CurveForecasts,
    observed: int = 0,
    seed: int = 0,
    replicates: int = 200,
    minimum_rows: int = MINIMUM_CURVES,
) -> dict[str, Any]:
    """Scores forecast curves on the periods that were not yet observed, each `m` with `m_ci`, its 95 % interval.

    Of the streams summed over those periods:
      * `mae_log`, `crps`: absolute error of the point forecast and nine-quantile CRPS, of log10(1 + streams);
        `mae_logfloor`, `crps_logfloor`: of log10(1 + streams / floor), which makes regions comparable,
      * `cov80`, `width80`: share of truths within the .1 and .9 quantiles, and their mean distance in log10 streams
        (`width80_logfloor`: in floor units),
      * `wql`: `weighted_quantile_loss`, in streams,
      * `spearman, kendall, somers_d, recall10, ndcg10`: mean over the regions with at least `minimum_rows` rows;
        `_pooled` over all rows, where the size of the markets alone gives high values,
      * `recall_100`, `ndcg_100`: of the hundred rows with most streams in a region, mean over those of the regions with
        at least 200 rows.
    Of the curve: `wape` in per cent over all rows and periods, `wape_macro` its mean over those regions. Beside them
    `mae_rank0` (nothing observed) and `mae_length`. What was not forecast is left out of the result.

    Intervals are percentiles over bootstrap samples of artists, with ranks taken anew in each.

    Args:
        truth, forecasts: row by row the same songs and regions.
        observed: periods known when the forecast was made.
        seed, replicates: of the bootstrap; 0 replicates give no intervals, `m_ci` is None. Pooled measures of order
            take 200 replicates at most.
        minimum_rows: of a region that counts in the means over regions.

    Returns:
        The measures, `n_rows` scored, `n_artists`, `n_regions` in the means; None where a measure is undefined.

    Raises:
        InputError: as in `curve_row_scores`, or no row whose truth is known.
    """
    draws = known_draws(truth, observed, seed, replicates)
    return scores_of(curve_draws(truth, forecasts, observed, draws, minimum_rows))


def curve_draws(
    truth: CurveTruth,
    forecasts: CurveForecasts,
    observed: int,
    draws: Draws,
    minimum_rows: int = MINIMUM_CURVES,
) -> Drawn:
    """Every measure of `score_curves` in every draw.

    Args:
        truth, forecasts, observed, minimum_rows: As for `score_curves`.
        draws: Of the rows whose truth is known, from `known_draws`.

    Returns:
        Measure → (1 + replicates,), the sample's own value first; `_pooled` ones with at most 200 replicates. And
        `n_rows`, `n_artists`, `n_regions`.

    Raises:
        InputError: As in `curve_row_scores`.
    """
    rows = curve_row_scores(truth, forecasts, observed)
    scored = np.flatnonzero(~np.isnan(rows["true_streams"]))
    rows = {name: values[scored] for name, values in rows.items()}
    true, error = rows.pop("true_streams"), rows.pop("absolute_error")
    region = pd.factorize(np.asarray(truth.region, dtype=object)[scored])[0]
    members = rows_by_region(region, minimum_rows)

    values = np.column_stack(list(rows.values()))
    known = ~np.isnan(values)
    samples = dict(zip(rows, draws.ratios(np.where(known, values, 0.0), known.astype(float)).T, strict=True))
    samples["wape"] = 100 * draws.ratios(error[:, None], true[:, None])[:, 0]
    parts = [100 * draws.ratios(error[at, None], true[at, None], at)[:, 0] for at in members]
    samples["wape_macro"] = mean_over_regions(parts, len(draws.counts))
    if forecasts.quantiles is not None:
        loss = crps_from_quantiles(true, np.maximum(np.asarray(forecasts.quantiles, dtype=float)[scored], 0))
        samples["wql"] = draws.ratios(loss[:, None], true[:, None])[:, 0]
    samples |= _orders(true, order_of(forecasts, observed)[scored], members, draws)
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


def scores_of(drawn: Drawn) -> dict[str, Any]:
    """Each measure `m`, `m_ci` beside it, and the counts, in the form of `score_curves`."""
    samples, counts = drawn
    scores: dict[str, Any] = {}
    for measure, values in samples.items():
        scores |= with_interval(measure, values, counts["n_artists"] > 1)
    return scores | counts


def differences_of(one: Drawn, other: Drawn) -> dict[str, dict[str, float | None]]:
    """Measure → value, low, high of one system less another in the same draws, of the measures that both have."""
    of_one, counts = one
    several = counts["n_artists"] > 1
    return {
        measure: asdict(interval_of_draws(values - other[0][measure], several))
        for measure, values in of_one.items()
        if measure in other[0]
    }


def order_of(forecasts: CurveForecasts, observed: int) -> np.ndarray:
    """The numbers (n,) by whose order rows are ranked: the score, else the total, its median or the curve's sum."""
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
    pooled = _order(true, score, draws.weights(replicates=most))
    found: dict[str, np.ndarray] = {}
    for name, values in pooled.items():
        found |= {name: mean_over_regions(parts.get(name, []), len(draws.counts)), f"{name}_pooled": values}
    return found | {name: mean_over_regions(parts[name], len(draws.counts)) for name in ("recall_100", "ndcg_100")}


def _order(true: np.ndarray, score: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    kendall, somers_d = pair_order_replicates(true, score, weights)
    recall, ndcg = top_replicates(true, score, weights)
    spearman = spearman_replicates(true, score, weights)
    return {"spearman": spearman, "kendall": kendall, "somers_d": somers_d, "recall10": recall, "ndcg10": ndcg}
