"""Forecasts and the truth a row in (a number, quantiles, samples, a curve); a score a row out, for any average.

Quantiles of sampled paths are taken here, for scores, tables and pictures alike. Scores of whole samples with their
intervals are those of `mp3model.evaluation.scalar_scores` and `curve_scores`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from mp3model.evaluation.bootstrap import divided, mean_over_regions, rows_by_region
from mp3model.evaluation.coverage import covered, interval_of
from mp3model.files import InputError
from mp3model.tables.curves import log_streams

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
QUANTILES = tuple(f"{level:.1f}" for level in LEVELS)
# Of a region, for means over regions of curves' scores: the top tenth of fewer rows is one or two songs.
MINIMUM_CURVES = 30


def path_quantiles(paths: Any, levels: Sequence[float] = LEVELS, axis: int = -1) -> np.ndarray:
    """Quantiles of the distribution that paths are a sample of: (levels, …), NaN left out, all NaN where there is none.

    Median-unbiased, the eighth kind of Hyndman and Fan (1996). NumPy's own kind takes the sample's smallest and largest
    for the distribution's, so that its 80 % interval of 100 paths held 78.9 % of a decoder's other paths, this one's
    80.0 % (recipes/README.md, 2026-11-24).

    Args:
        paths: Numbers of any shape, one a path along `axis`.
        levels: Between 0 and 1.
        axis: Of the paths.
    """
    rows = np.moveaxis(np.asarray(paths), axis, -1)
    # NaN are sorted to the end, so the first `count` of each row are what is known; where none is, −1 picks a NaN.
    ordered = np.sort(rows.astype(float) if rows.dtype.kind != "f" else rows, axis=-1)
    count = (~np.isnan(ordered)).sum(axis=-1)[..., None]
    place = np.minimum(np.maximum(np.asarray(levels) * (count + 1 / 3) - 2 / 3, 0), count - 1)
    lower = np.floor(place).astype(int)
    low, high = (np.take_along_axis(ordered, at, axis=-1) for at in (lower, np.minimum(lower + 1, count - 1)))
    return np.moveaxis(np.minimum(low + (place - lower) * (high - low), high), -1, 0)


def absolute_log_error(true: Any, predicted: Any, floor: Any = 1.0) -> np.ndarray:
    """|log10(1 + predicted / floor) − log10(1 + true / floor)| a row, any shape; a prediction below 0 counts as 0.

    Args:
        true, predicted: streams.
        floor: The region's unit of scale, in streams; 1 gives the error in log10 streams. NaN gives NaN.
    """
    return np.abs(_in_log(predicted, floor) - _in_log(true, floor))


def crps_from_samples(true: Any, samples: Any, estimator: Literal["fair", "plain"] = "fair") -> np.ndarray:
    """Continuous ranked probability score of sampled forecasts: (...), (..., m) → (...), in the unit of `true`.

    Mean |x − true| − half the mean |x − x'| over the pairs of samples (Gneiting and Raftery 2007, equation 21).

    Args:
        true: (...) values.
        samples: (..., m), each row's samples on the last axis. A NaN gives NaN.
        estimator: "fair" takes the m · (m − 1) pairs of different samples: its expected value is the score of the
            distribution that was sampled, whatever m is (Ferro 2014). "plain" takes all m² pairs: the score of the m
            samples as a distribution of their own, so that few samples look worse than many.

    Raises:
        InputError: an unknown estimator, or fewer samples than it needs (2 and 1).
    """
    if estimator not in ("fair", "plain"):
        raise InputError(f"estimator {estimator!r} is not known; use 'fair' or 'plain'")
    true, samples = np.asarray(true, dtype=float), np.asarray(samples, dtype=float)
    count = samples.shape[-1]
    least = 2 if estimator == "fair" else 1
    if count < least:
        raise InputError(f"{count} samples a row, where the {estimator} score needs at least {least}")
    # Sorted, the sample in place i is above i others and below the rest: all pairs in one sum.
    place = 2 * np.arange(count) - (count - 1)
    # Distances do not change with the origin; near the samples the sum loses no digits.
    ordered = np.sort(samples - true[..., None], axis=-1)
    half_spread = (ordered * place).sum(axis=-1) / (count * (count - 1 if estimator == "fair" else count))
    return np.abs(ordered).mean(axis=-1) - half_spread


def crps_from_quantiles(true: np.ndarray, quantiles: np.ndarray) -> np.ndarray:
    """Continuous ranked probability score from nine quantiles: (n,), (n, 9) → (n,), in the unit of `true`.

    Twice the mean over the levels .1 to .9 of the quantile (pinball) loss; crossing quantiles are sorted first. The
    score is twice the integral of that loss over all levels (Laio and Tamea 2007); nine stand in for it here. Of a
    point forecast it is the absolute error.
    """
    error = true[:, None] - np.sort(quantiles, axis=1)
    levels = np.array(LEVELS)
    return 2 * np.maximum(levels * error, (levels - 1) * error).mean(axis=1)


def weighted_quantile_loss(true: Any, quantiles: Any) -> float:
    """Quantile loss in units of what there was to forecast: (n,), (n, 9) → the sum over rows of `crps_from_quantiles`
    divided by the sum of |true|; rows with a NaN are left out, NaN if nothing remains but zeros.
    """
    true, quantiles = np.asarray(true, dtype=float), np.asarray(quantiles, dtype=float)
    loss = crps_from_quantiles(true, quantiles)
    known = ~np.isnan(loss)
    total = np.abs(true[known]).sum()
    return float(loss[known].sum() / total) if total > 0 else float("nan")


def wape(true: Any, predicted: Any, region: Any = None, minimum_rows: int = MINIMUM_CURVES) -> float:
    """Weighted absolute percentage error: 100 · Σ |predicted − true| / Σ |true|, in per cent.

    Args:
        true, predicted: (n,) or (n, periods) streams; cells with a NaN are left out.
        region: (n,) the mean over regions with at least `minimum_rows` rows; None pools all rows.
        minimum_rows: of a region. One whose true streams are all 0 is left out.

    Returns:
        Per cent, may exceed 100; NaN where there is nothing to forecast.
    """
    error = np.abs(np.asarray(predicted, dtype=float) - np.asarray(true, dtype=float))
    known = ~np.isnan(error)
    flat = (len(error), -1)
    errors = np.where(known, error, 0.0).reshape(flat).sum(axis=1)
    size = np.where(known, np.abs(true), 0.0).reshape(flat).sum(axis=1)
    if region is None:
        return float(_percentage(errors, size)[0])
    members = rows_by_region(pd.factorize(np.asarray(region))[0], minimum_rows)
    return float(mean_over_regions([_percentage(errors[i], size[i]) for i in members], 1)[0])


def _percentage(error: np.ndarray, size: np.ndarray) -> np.ndarray:
    """100 · Σ error / Σ size: (n,), (n,) → (1,); NaN where that is 0."""
    alone = np.ones((1, len(error)))
    return 100 * divided(alone @ error, alone @ size)


@dataclass(frozen=True)
class CurveTruth:
    """What happened to n songs in their regions over H periods.

    Attributes:
        streams: (n, H) chart-observed, 0 where off the chart; a row with a NaN in a forecast period is not scored.
        floor: (n,) the region's unit of scale in the period before debut, streams; NaN where unknown.
        region: (n,) names.
        artist: (n,) whose rows are drawn together; a missing one is drawn alone.
        rank0: (n,) debut rank; NaN where unknown.
    """

    streams: np.ndarray
    floor: np.ndarray
    region: np.ndarray
    artist: np.ndarray
    rank0: np.ndarray | None = None


@dataclass(frozen=True)
class CurveForecasts:
    """What was forecast for the same rows with the first `observed` periods known.

    Attributes:
        curve: (n, H) point forecast, streams; the observed periods are not read.
        quantiles: (n, 9) at .1 … .9 of the streams summed over the periods not yet observed.
        total: (n,) point forecast of that sum; None takes the median, else the sum of the curve.
        score: (n,) any number whose order is the forecast, for the ranking measures; None takes `total`.
        rank0: (n,) debut rank, scored where nothing was observed.
        length: (n,) periods on the chart among those not yet observed.
    """

    curve: np.ndarray
    quantiles: np.ndarray | None = None
    total: np.ndarray | None = None
    score: np.ndarray | None = None
    rank0: np.ndarray | None = None
    length: np.ndarray | None = None


def curve_row_scores(truth: CurveTruth, forecasts: CurveForecasts, observed: int = 0) -> dict[str, np.ndarray]:
    """Scores of each row, whose means `score_curves` gives under the same names, for paired differences.

    Returns:
        Score → (n,): `mae_log, mae_logfloor, crps, crps_logfloor, cov80, width80, width80_logfloor, mae_rank0,
        mae_length` as far as forecast, and `absolute_error` and `true_streams`, whose sums make WAPE. NaN where the
        truth is unknown.

    Raises:
        InputError: `observed` outside the horizon, shapes that differ, rows without a forecast.
    """
    streams, curve = _future(truth, forecasts, observed)
    true = streams.sum(axis=1)
    floor = np.asarray(truth.floor, dtype=float)
    total = _point_total(curve, forecasts)
    scores = {"mae_log": absolute_log_error(true, total), "mae_logfloor": absolute_log_error(true, total, floor)}
    if forecasts.quantiles is not None:
        ordered = np.sort(np.asarray(forecasts.quantiles, dtype=float), axis=1)
        for ending, unit in (("", np.ones(len(true))), ("_logfloor", floor)):
            log_true, log_quantiles = _in_log(true, unit), _in_log(ordered, unit[:, None])
            low, high = interval_of(log_quantiles)
            scores[f"crps{ending}"] = crps_from_quantiles(log_true, log_quantiles)
            scores[f"width80{ending}"] = high - low
            if not ending:
                scores["cov80"] = covered(log_true, low, high)
    if observed == 0 and forecasts.rank0 is not None and truth.rank0 is not None:
        scores["mae_rank0"] = np.abs(np.asarray(forecasts.rank0, float) - np.asarray(truth.rank0, float))
    if forecasts.length is not None:
        scores["mae_length"] = np.abs(np.asarray(forecasts.length, float) - (streams > 0).sum(axis=1))
    scores |= {"absolute_error": np.abs(streams - curve).sum(axis=1), "true_streams": true}
    return {name: np.where(np.isnan(true), np.nan, values) for name, values in scores.items()}


def _in_log(streams: Any, unit: Any) -> np.ndarray:
    return log_streams(np.maximum(np.asarray(streams, dtype=float), 0) / unit)


def _future(truth: CurveTruth, forecasts: CurveForecasts, observed: int) -> tuple[np.ndarray, np.ndarray]:
    """True and forecast streams of the periods not yet observed: (n, H − observed) each."""
    streams, curve = np.asarray(truth.streams, dtype=float), np.asarray(forecasts.curve, dtype=float)
    if streams.shape != curve.shape or streams.ndim != 2:
        raise InputError(f"curves of shapes {streams.shape} and {curve.shape}; give (rows, periods) of the same rows")
    rows, horizon = streams.shape
    if not 0 <= observed < horizon:
        raise InputError(f"observed {observed} leaves nothing to score of {horizon} periods")
    for name, values in (*vars(truth).items(), *vars(forecasts).items()):
        if values is not None and len(values) != rows:
            raise InputError(f"{name} has {len(values)} rows, the curves have {rows}; give one for each")
    read = ["quantiles", "total", "score", "length", *(["rank0"] if observed == 0 else [])]
    forecast = {name: getattr(forecasts, name) for name in read if getattr(forecasts, name) is not None}
    forecast["curve"] = curve[:, observed:]
    for name, values in forecast.items():
        missing = ~np.isfinite(np.asarray(values, dtype=float).reshape(rows, -1)).all(axis=1)
        if missing.any():
            raise InputError(f"{name} of {missing.sum()} rows, the first row {missing.argmax()}, is not a number")
    return streams[:, observed:], curve[:, observed:]


def _point_total(curve: np.ndarray, forecasts: CurveForecasts) -> np.ndarray:
    if forecasts.total is not None:
        return np.asarray(forecasts.total, dtype=float)
    return curve.sum(axis=1) if forecasts.quantiles is None else np.asarray(forecasts.quantiles, dtype=float)[:, 4]
