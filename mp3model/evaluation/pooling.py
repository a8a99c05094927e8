"""Paths of one system and quantiles of another in; paths whose remaining totals lie between the two, out."""

from __future__ import annotations

import numpy as np

from mp3model.evaluation.accuracy import LEVELS, crps_from_quantiles

# A period is 0 or no less than the chart's lowest: what falls below this share of it counts as off the chart.
_LEAST_SHARE = 0.5
# Less than this share of the floor has no shape that could be scaled.
_NOTHING = 1e-9
WEIGHTS = (0.0, 0.15, 0.3, 0.4, 0.5, 0.6, 0.7)


def pooled_paths(
    streams: np.ndarray,
    observed: int,
    quantiles: np.ndarray,
    weight: float,
    floor: np.ndarray,
    lowest: np.ndarray,
) -> np.ndarray:
    """Averages two forecasts of what remains, quantile by quantile (Vincent 1912), and moves the paths there.

    The p-quantile of log10(1 + remaining / floor) becomes (1 − weight) times the paths' own plus weight times the
    other system's; each path keeps its rank, and with it the regions' dependence, and its shape. Beyond the outermost
    quantiles the shift is that of the outermost.

    Args:
        streams: (n, paths, periods) chart-observed, 0 off the chart.
        observed: Periods known, which stay as they are.
        quantiles: (n, 9) the other system's, in log10(1 + remaining / floor).
        weight: Of the other system, 0 to 1.
        floor: (n,) streams, the unit of scale.
        lowest: Streams of the chart's lowest, broadcast against `streams`.

    Returns:
        (n, paths, periods).
    """
    remaining = streams[:, :, observed:]
    total = remaining.sum(axis=2)
    logs = np.log10(1 + total / floor[:, None])
    order = np.argsort(logs, axis=1, kind="stable")
    ordered = np.take_along_axis(logs, order, axis=1)
    share = _shares(logs.shape[1])
    own = np.stack([np.interp(LEVELS, (np.arange(logs.shape[1]) + 0.5) / logs.shape[1], row) for row in ordered])
    moved = np.empty_like(logs)
    np.put_along_axis(moved, order, ordered + weight * (quantiles - own) @ share.T, axis=1)
    wanted = floor[:, None] * (10.0 ** np.maximum(moved, 0) - 1)
    something = total > _NOTHING * floor[:, None]
    factor = np.divide(wanted, total, out=np.zeros_like(total), where=something)
    later = remaining * factor[:, :, None]
    # A path that had nothing left begins at once.
    later[:, :, 0] = np.where(something, later[:, :, 0], wanted)
    least = np.broadcast_to(lowest, streams.shape)[:, :, observed:]
    later = np.where(later < _LEAST_SHARE * least, 0.0, np.maximum(later, least))
    return np.concatenate([streams[:, :, :observed], later], axis=2)


def _shares(paths: int) -> np.ndarray:
    """How much of each quantile's shift a path of each rank takes: (paths, 9), rows sum to 1."""
    place = (np.arange(paths) + 0.5) / paths
    return np.stack([np.interp(place, LEVELS, row) for row in np.eye(len(LEVELS))], axis=1)


def best_weight(
    streams: np.ndarray,
    observed: int,
    quantiles: np.ndarray,
    floor: np.ndarray,
    lowest: np.ndarray,
    truth: np.ndarray,
) -> float:
    """The weight of the other system that does best on songs that neither has learnt from.

    Best is the lowest sum of CRPS and WAPE, each over what it is without the other system: quantiles of totals alone
    may be served by a weight that spoils the weeks, whose shares of a total the other system knows nothing of.

    Args:
        streams, observed, quantiles, floor, lowest: As for `pooled_paths`.
        truth: (n, periods) streams; rows with an unknown period after the observed ones are left out.

    Returns:
        One of `WEIGHTS`.
    """
    later = truth[:, observed:]
    known = np.isfinite(later).all(axis=1)
    later, scale = later[known], floor[known]
    target = np.log10(1 + later.sum(axis=1) / scale)
    scores = []
    for weight in WEIGHTS:
        pooled = pooled_paths(streams[known], observed, quantiles[known], weight, scale, lowest[known])[:, :, observed:]
        logs = np.log10(1 + pooled.sum(axis=2) / scale[:, None])
        crps = crps_from_quantiles(target, np.quantile(logs, LEVELS, axis=1).T).mean()
        scores.append((crps, np.abs(later - np.median(pooled, axis=1)).sum()))
    relative = np.array(scores) / np.maximum(scores[0], _NOTHING)
    return WEIGHTS[int(relative.sum(axis=1).argmin())]
