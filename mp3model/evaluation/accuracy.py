"""Forecasts and the truth a row in (a number, quantiles, samples, a curve), measures with 95 % intervals by artist out.

`score_scalar` is for one predicted number a row (total, debut rank), `score_curves` for forecast curves with the
quantiles of their total; the functions before them give a score a row, for any other average.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from mp3model.evaluation.ranking import (
    bootstrap_weights,
    kendall_replicates,
    pair_order_replicates,
    spearman_replicates,
    top_replicates,
)
from mp3model.files import InputError
from mp3model.tables.curves import log_streams

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
QUANTILES = tuple(f"{level:.1f}" for level in LEVELS)
METRICS = ("spearman", "spearman_pooled", "kendall", "kendall_pooled", "r2", "r2_pooled", "mae")
UNITS = {"total": "log10 streams", "debut_rank": "ranks"}
# A rank correlation of fewer rows is noise that would weigh as much in the mean as a region of hundreds.
MINIMUM_ROWS = 10
# Of a region, for the means over regions in `score_curves`: the top tenth of fewer rows is one or two songs.
MINIMUM_CURVES = 30
_PERCENTILES = (2.5, 97.5)


@dataclass(frozen=True)
class Interval:
    """A value and the bounds of its 95 % interval; None where undefined."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class _Rows:
    """Rows with a truth and a prediction; `region` (n,) indexes `regions`, `artist` (n,) are codes."""

    true: np.ndarray
    predicted: np.ndarray
    score: np.ndarray
    region: np.ndarray
    regions: list[str]
    artist: np.ndarray

    @classmethod
    def of(cls, frame: pd.DataFrame) -> _Rows:
        region, regions = pd.factorize(frame["region"], sort=True)
        true, predicted = frame["true"].to_numpy(dtype=float), frame["predicted"].to_numpy(dtype=float)
        # Songs without a known artist are drawn one by one.
        artist = frame["artist"].where(frame["artist"].notna(), "song:" + frame["song_id"].astype(str))
        score = _with_score(frame)["score"].to_numpy(dtype=float)
        return cls(true, predicted, score, region, [str(name) for name in regions], pd.factorize(artist)[0])

    @property
    def n_artists(self) -> int:
        return len(np.unique(self.artist))

    def of_region(self, code: int) -> np.ndarray:
        return np.flatnonzero(self.region == code)


def mae_replicates(true: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean absolute error: (n,), (n,), (replicates, n) counts → (replicates,); NaN where nothing was drawn."""
    total = weights.sum(axis=1)
    error = weights @ np.abs(true - predicted)
    return np.divide(error, total, out=np.full(len(weights), np.nan), where=total > 0)


def r2_replicates(true: np.ndarray, predicted: np.ndarray, weights: np.ndarray, group: np.ndarray) -> np.ndarray:
    """1 − squared error / squared distance of the truth from the mean of its group.

    Args:
        true, predicted: (n,).
        weights: (replicates, n) counts; group means are those of the replicate.
        group: (n,) codes from 0; all 0 gives the plain R².

    Returns:
        (replicates,); NaN where the truth does not vary within any group.
    """
    # Group means of the whole sample are taken off first, so that the sums of squares below do not cancel.
    count = np.maximum(np.bincount(group), 1)
    centred = true - (np.bincount(group, true) / count)[group]
    inside = (group[:, None] == np.arange(len(count))).astype(float)
    drawn, shift = weights @ inside, weights @ (inside * centred[:, None])
    spread = weights @ centred**2 - (shift**2 / np.maximum(drawn, 1)).sum(axis=1)
    error = weights @ (true - predicted) ** 2
    # Rounding leaves a constant truth with a spread near, not at, zero.
    varies = spread > weights.sum(axis=1) * (1e-10 * np.abs(true).max(initial=0)) ** 2
    return 1 - np.divide(error, spread, out=np.full(len(weights), np.nan), where=varies)


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
    alone = np.ones((1, len(errors)))
    if region is None:
        return float(_wape_replicates(errors, size, alone)[0])
    members = _members(pd.factorize(np.asarray(region))[0], minimum_rows)
    parts = [_wape_replicates(errors[i], size[i], alone[:, i]) for i in members]
    return float(_mean_over_regions(parts, 1)[0])


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


def paired_row_difference(
    scores_a: Any, scores_b: Any, artist: Any, scale: Any = None, seed: int = 0, replicates: int = 1000
) -> Interval:
    """Mean score of system A less that of system B on the same rows, with a 95 % interval by artist.

    Args:
        scores_a, scores_b: (n,) any score a row, e.g. of `curve_row_scores`; rows with a NaN in either are left out.
        artist: (n,) whose rows are drawn together; a missing one is drawn alone.
        scale: (n,) what the sum of differences is divided by the sum of, e.g. true streams for WAPE; None counts rows.
        seed, replicates: of the bootstrap.
    """
    difference = np.asarray(scores_a, dtype=float) - np.asarray(scores_b, dtype=float)
    artist = _artists(artist)
    size = np.ones(len(difference)) if scale is None else np.asarray(scale, dtype=float)
    known = ~(np.isnan(difference) | np.isnan(size))
    weights = _counts(artist[known], seed, replicates)
    several = len(np.unique(artist[known])) > 1
    total = weights @ size[known]
    samples = np.divide(weights @ difference[known], total, out=np.full(len(weights), np.nan), where=total > 0)
    return _interval(samples, several)


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
        `_pooled` over all rows, where the size of the markets alone gives high values.
    Of the curve: `wape` in per cent over all rows and periods, `wape_macro` its mean over those regions. Beside them
    `mae_rank0` (nothing observed) and `mae_length`. What was not forecast is left out of the result.

    Intervals are percentiles over bootstrap samples of artists, with ranks taken anew in each.

    Args:
        truth, forecasts: row by row the same songs and regions.
        observed: periods known when the forecast was made.
        seed, replicates: of the bootstrap; 0 replicates give no intervals, `m_ci` is None.
        minimum_rows: of a region that counts in the means over regions.

    Returns:
        The measures, `n_rows` scored, `n_artists`, `n_regions` in the means; None where a measure is undefined.

    Raises:
        InputError: as in `curve_row_scores`, or no row whose truth is known.
    """
    samples, counts = _curve_samples(truth, forecasts, observed, seed, replicates, minimum_rows)
    scores: dict[str, Any] = {}
    for metric, values in samples.items():
        scores |= _with_interval(metric, values, counts["n_artists"] > 1)
    return scores | counts


def paired_curve_differences(
    truth: CurveTruth,
    a: CurveForecasts,
    b: CurveForecasts,
    observed: int = 0,
    seed: int = 0,
    replicates: int = 200,
    minimum_rows: int = MINIMUM_CURVES,
) -> dict[str, Interval]:
    """Every measure of `score_curves` of system A less that of B, both in the same bootstrap samples.

    Args as in `score_curves`. Measures that only one of them has are left out.
    """
    of_a, counts = _curve_samples(truth, a, observed, seed, replicates, minimum_rows)
    of_b, _ = _curve_samples(truth, b, observed, seed, replicates, minimum_rows)
    several = counts["n_artists"] > 1
    return {metric: _interval(of_a[metric] - of_b[metric], several) for metric in of_a if metric in of_b}


def skill_scores(
    systems: dict[str, pd.DataFrame], climatology: str, oracle: str, seed: int = 0, replicates: int = 1000
) -> dict[str, dict[str, Any]]:
    """Where each system lies between knowing the region alone (0) and knowing all that can be known (1).

    skill = (CRPS of the climatology − CRPS of the system) / (CRPS of the climatology − CRPS of the oracle).

    Args:
        systems: Name → rows of the same songs and regions: `song_id, artist, region, true` and `0.1` … `0.9`.
        climatology: The system whose skill is 0.
        oracle: The system whose skill is 1.
        seed, replicates: Of the bootstrap by artist, as in `score_scalar`.

    Returns:
        Name → `crps`, `skill` and their `_ci`; a skill is None where the oracle is no better than the climatology.
    """
    key = ["song_id", "region"]
    frames = {name: frame.sort_values(key).reset_index(drop=True) for name, frame in systems.items()}
    first = frames[climatology]
    for name, frame in frames.items():
        if not frame[key].equals(first[key]):
            raise InputError(f"{name} and {climatology} forecast other songs; score them on the same rows")
    rows = _Rows.of(first.assign(predicted=first["0.5"]))
    weights = _weights(rows, seed, replicates)
    weights = weights / weights.sum(axis=1, keepdims=True)
    crps = {
        name: weights @ crps_from_quantiles(frame["true"].to_numpy(float), frame[list(QUANTILES)].to_numpy(float))
        for name, frame in frames.items()
    }
    room = crps[climatology] - crps[oracle]
    scores = {}
    for name, values in crps.items():
        skill = np.divide(crps[climatology] - values, room, out=np.full(len(room), np.nan), where=room > 0)
        both = _with_interval("crps", values, rows.n_artists > 1) | _with_interval("skill", skill, rows.n_artists > 1)
        scores[name] = both | {"n_rows": len(first)}
    return scores


def score_scalar(
    frame: pd.DataFrame,
    target: str,
    seed: int = 0,
    replicates: int = 1000,
    minimum_rows: int = MINIMUM_ROWS,
) -> dict[str, Any]:
    """Scores the predictions of one target.

    Measures, each `m` with `m_ci`, its 95 % percentile interval over bootstrap samples of artists:
      * `spearman`, `kendall` (tau-b): mean over the regions with at least `minimum_rows` rows; `_pooled`: over all
        rows, where the size of the markets alone gives a high value,
      * `r2`: pooled within regions: 1 − squared error of all rows / squared distance of all rows from the mean of their
        own region; `r2_pooled`: around the mean of all rows,
      * `mae`: mean absolute error over all rows.
    `regions` holds the same for each region alone, where pooled and macro are one. A region of which a replicate draws
    fewer than three rows is left out of that replicate's mean. With fewer than two artists there is no interval.

    Args:
        frame: `song_id, artist, region, true, predicted`; log10(1 + streams) for `total`, ranks for `debut_rank`. Rows
            with a NaN in `true` or `predicted` are left out. A column `score`, if there, takes the place of `predicted`
            in `spearman` and `kendall`: any number whose order is the forecast.
        target: what is predicted; names the unit.
        seed: of the bootstrap.
        replicates: bootstrap samples, for every measure.
        minimum_rows: rows a region needs to count in the mean over regions.

    Returns:
        The measures, `unit, n_songs, n_rows, n_artists, n_regions` (those in the mean) and `regions`; None where a
        measure is undefined.
    """
    frame = frame[frame["true"].notna() & frame["predicted"].notna()]
    rows = _Rows.of(frame)
    weights = _weights(rows, seed, replicates)
    scores: dict[str, Any] = {"unit": UNITS.get(target, target)}
    for metric in METRICS:
        scores |= _with_interval(metric, _measure(metric, rows, weights, minimum_rows), rows.n_artists > 1)
    counts = np.bincount(rows.region, minlength=len(rows.regions))
    scores |= {
        "n_songs": int(frame["song_id"].nunique()),
        "n_rows": len(frame),
        "n_artists": rows.n_artists,
        "n_regions": int(np.count_nonzero(counts >= minimum_rows)),
        "regions": {name: _score_region(rows, code, weights) for code, name in enumerate(rows.regions)},
    }
    return scores


def paired_difference(
    frame_a: pd.DataFrame,
    frame_b: pd.DataFrame,
    metric: str = "spearman",
    seed: int = 0,
    replicates: int = 1000,
    minimum_rows: int = MINIMUM_ROWS,
) -> Interval:
    """A measure of system A less that of system B on the same rows, with a 95 % interval by artist.

    Both are measured in the same bootstrap samples, so that what is hard for both cancels.

    Args:
        frame_a, frame_b: as for `score_scalar`; rows are matched by song and region, those without a prediction in
            either are left out.
        metric: one of `METRICS`; A is better where the difference is positive, or negative for `mae`.
        seed, replicates, minimum_rows: as in `score_scalar`.

    Raises:
        InputError: an unknown metric, or frames that are not of the same rows.
    """
    if metric not in METRICS:
        raise InputError(f"metric {metric!r} is not known; use one of {', '.join(METRICS)}")
    key = ["song_id", "region"]
    for frame in (frame_a, frame_b):
        if frame.duplicated(key).any():
            song, region = frame.loc[frame.duplicated(key), key].iloc[0]
            raise InputError(f"song {song!r} in {region} has two predictions; give one for each song and region")
    columns = [*key, "true", "predicted", "score"]
    both = _with_score(frame_a).merge(_with_score(frame_b)[columns], on=key, suffixes=("", "_b"))
    if not len(both) == len(frame_a) == len(frame_b):
        raise InputError(
            f"{len(frame_a)} and {len(frame_b)} rows share {len(both)}; predict the same songs and regions"
        )
    differ = ~np.isclose(both["true"], both["true_b"], equal_nan=True)
    if differ.any():
        song, region, one, other = both.loc[differ, [*key, "true", "true_b"]].iloc[0]
        raise InputError(f"song {song!r} in {region} has the truths {one} and {other}; score both against one truth")
    both = both[both[["true", "predicted", "predicted_b"]].notna().all(axis=1)]
    a, b = _Rows.of(both), _Rows.of(both.assign(predicted=both["predicted_b"], score=both["score_b"]))
    weights = _weights(a, seed, replicates)
    difference = _measure(metric, a, weights, minimum_rows) - _measure(metric, b, weights, minimum_rows)
    return _interval(difference, a.n_artists > 1)


def _with_score(frame: pd.DataFrame) -> pd.DataFrame:
    return frame if "score" in frame else frame.assign(score=frame["predicted"])


def _weights(rows: _Rows, seed: int, replicates: int) -> np.ndarray:
    return _counts(rows.artist, seed, replicates)


def _measure(metric: str, rows: _Rows, weights: np.ndarray, minimum_rows: int) -> np.ndarray:
    """One of METRICS in each sample: (1 + replicates,)."""
    name, pooled = metric.removesuffix("_pooled"), metric.endswith("_pooled")
    if not len(rows.true):
        return np.full(len(weights), np.nan)
    if name == "mae":
        return mae_replicates(rows.true, rows.predicted, weights)
    if name == "r2":
        return r2_replicates(rows.true, rows.predicted, weights, np.zeros_like(rows.region) if pooled else rows.region)
    correlation = {"spearman": spearman_replicates, "kendall": kendall_replicates}[name]
    if pooled:
        return correlation(rows.true, rows.score, weights)
    members = [rows.of_region(code) for code in range(len(rows.regions))]
    values = [correlation(rows.true[i], rows.score[i], weights[:, i]) for i in members if len(i) >= minimum_rows]
    return _mean_over_regions(values, len(weights))


def _mean_over_regions(values: list[np.ndarray], samples: int) -> np.ndarray:
    """(samples,) mean of what each region gives, those that are undefined left out."""
    if not values:
        return np.full(samples, np.nan)
    each = np.stack(values)
    present = ~np.isnan(each)
    counted = present.sum(axis=0)
    total = np.where(present, each, 0.0).sum(axis=0)
    return np.divide(total, counted, out=np.full(samples, np.nan), where=counted > 0)


def _score_region(rows: _Rows, code: int, weights: np.ndarray) -> dict[str, Any]:
    i = rows.of_region(code)
    region = np.zeros(len(i), int)
    alone = _Rows(rows.true[i], rows.predicted[i], rows.score[i], region, [rows.regions[code]], rows.artist[i])
    scores: dict[str, Any] = {}
    for metric in ("spearman", "kendall", "r2", "mae"):
        scores |= _with_interval(metric, _measure(metric, alone, weights[:, i], 1), alone.n_artists > 1)
    return scores | {"n": len(i), "n_artists": alone.n_artists}


def _in_log(streams: Any, unit: Any) -> np.ndarray:
    return log_streams(np.maximum(np.asarray(streams, dtype=float), 0) / unit)


def _artists(artist: Any) -> np.ndarray:
    """Codes of the artists; rows without one get a code of their own."""
    codes = pd.factorize(np.asarray(artist))[0]
    return np.where(codes < 0, len(codes) + np.arange(len(codes)), codes)


def _members(region: np.ndarray, minimum_rows: int) -> list[np.ndarray]:
    """Row numbers of each region with enough rows."""
    members = [np.flatnonzero(region == code) for code in range(region.max(initial=-1) + 1)]
    return [rows for rows in members if len(rows) >= minimum_rows]


def _counts(artist: np.ndarray, seed: int, replicates: int) -> np.ndarray:
    """(1 + replicates, n) counts: the sample itself, then its bootstrap samples."""
    sample = np.ones((1, len(artist)))
    return np.vstack([sample, bootstrap_weights(artist, replicates, seed)]) if len(artist) else sample


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


def _curve_samples(
    truth: CurveTruth, forecasts: CurveForecasts, observed: int, seed: int, replicates: int, minimum_rows: int
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Measure → (1 + replicates,) values, the sample's own first; and how many rows, artists, regions."""
    rows = curve_row_scores(truth, forecasts, observed)
    scored = np.flatnonzero(~np.isnan(rows["true_streams"]))
    if not len(scored):
        raise InputError(f"none of {len(rows['true_streams'])} rows has a known truth; nothing can be scored")
    rows = {name: values[scored] for name, values in rows.items()}
    true, error = rows.pop("true_streams"), rows.pop("absolute_error")
    artist = _artists(truth.artist)[scored]
    members = _members(pd.factorize(np.asarray(truth.region)[scored])[0], minimum_rows)
    weights = _counts(artist, seed, replicates)

    samples = {name: _mean_replicates(values, weights) for name, values in rows.items()}
    samples["wape"] = _wape_replicates(error, true, weights)
    parts = [_wape_replicates(error[i], true[i], weights[:, i]) for i in members]
    samples["wape_macro"] = _mean_over_regions(parts, len(weights))
    if forecasts.quantiles is not None:
        loss = crps_from_quantiles(true, np.maximum(np.asarray(forecasts.quantiles, dtype=float)[scored], 0))
        samples["wql"] = _wape_replicates(loss, true, weights) / 100
    total = _point_total(np.asarray(forecasts.curve, dtype=float)[:, observed:], forecasts)
    score = (total if forecasts.score is None else np.asarray(forecasts.score, dtype=float))[scored]
    by_region = [_order_replicates(true[i], score[i], weights[:, i]) for i in members]
    for metric, pooled in _order_replicates(true, score, weights).items():
        samples[metric] = _mean_over_regions([part[metric] for part in by_region], len(weights))
        samples[f"{metric}_pooled"] = pooled
    counts = {"n_rows": len(scored), "n_artists": len(np.unique(artist)), "n_regions": len(members)}
    return samples, counts


def _order_replicates(true: np.ndarray, score: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """The five measures of order in each sample: (1 + replicates,) each."""
    kendall, somers_d = pair_order_replicates(true, score, weights)
    recall, ndcg = top_replicates(true, score, weights)
    return {
        "spearman": spearman_replicates(true, score, weights),
        "kendall": kendall,
        "somers_d": somers_d,
        "recall10": recall,
        "ndcg10": ndcg,
    }


def _mean_replicates(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean over the rows with a value: (n,), (samples, n) counts → (samples,); NaN where none was drawn."""
    known = ~np.isnan(values)
    total = weights @ known.astype(float)
    mean = weights @ np.where(known, values, 0.0)
    return np.divide(mean, total, out=np.full(len(weights), np.nan), where=total > 0)


def _wape_replicates(error: np.ndarray, size: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """100 · error / size in each sample: (n,), (n,), (samples, n) counts → (samples,); NaN where size is 0."""
    total = weights @ size
    return 100 * np.divide(weights @ error, total, out=np.full(len(weights), np.nan), where=total > 0)


def _interval(samples: np.ndarray, with_interval: bool) -> Interval:
    result = _with_interval("value", samples, with_interval)
    low, high = result["value_ci"] or (None, None)
    return Interval(result["value"], low, high)


def _with_interval(metric: str, samples: np.ndarray, with_interval: bool) -> dict[str, Any]:
    value, drawn = samples[0], samples[1:][np.isfinite(samples[1:])]
    if not np.isfinite(value):
        return {metric: None, f"{metric}_ci": None}
    interval = [float(bound) for bound in np.percentile(drawn, _PERCENTILES)] if with_interval and len(drawn) else None
    return {metric: float(value), f"{metric}_ci": interval}
