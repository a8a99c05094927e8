"""A predicted number a song and region, and the truth, in; measures with 95 % intervals by artist out.

`score_scalar` is for one system and one target (total, debut rank), `paired_difference` for two systems on the same
rows, `skill_scores` for where several lie between the climatology and an oracle.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mp3model.evaluation.accuracy import QUANTILES, crps_from_quantiles
from mp3model.evaluation.bootstrap import (
    REPLICATES,
    Draws,
    Interval,
    divided,
    interval_of_draws,
    mean_over_regions,
    with_interval,
)
from mp3model.evaluation.ranking import kendall_replicates, spearman_replicates
from mp3model.files import InputError

METRICS = ("spearman", "spearman_pooled", "kendall", "kendall_pooled", "r2", "r2_pooled", "mae")
UNITS = {"total": "log10 streams", "debut_rank": "ranks", "charted": "chance"}
# A rank correlation of fewer rows is noise that would weigh as much in the mean as a region of hundreds.
MINIMUM_ROWS = 10


def score_scalar(
    frame: pd.DataFrame,
    target: str,
    seed: int = 0,
    replicates: int = REPLICATES,
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
    weights = rows.weights(seed, replicates)
    scores: dict[str, Any] = {"unit": UNITS.get(target, target)}
    for metric in METRICS:
        scores |= with_interval(metric, _measure(metric, rows, weights, minimum_rows), rows.n_artists > 1)
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
    replicates: int = REPLICATES,
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
    weights = a.weights(seed, replicates)
    difference = _measure(metric, a, weights, minimum_rows) - _measure(metric, b, weights, minimum_rows)
    return interval_of_draws(difference, a.n_artists > 1)


def skill_scores(
    systems: dict[str, pd.DataFrame], climatology: str, oracle: str, seed: int = 0, replicates: int = REPLICATES
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
    weights = rows.weights(seed, replicates)
    weights = weights / weights.sum(axis=1, keepdims=True)
    crps = {
        name: weights @ crps_from_quantiles(frame["true"].to_numpy(float), frame[list(QUANTILES)].to_numpy(float))
        for name, frame in frames.items()
    }
    room = crps[climatology] - crps[oracle]
    scores = {}
    for name, values in crps.items():
        skill = divided(crps[climatology] - values, room)
        both = with_interval("crps", values, rows.n_artists > 1) | with_interval("skill", skill, rows.n_artists > 1)
        scores[name] = both | {"n_rows": len(first)}
    return scores


def mae_replicates(true: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean absolute error: (n,), (n,), (replicates, n) counts → (replicates,); NaN where nothing was drawn."""
    return divided(weights @ np.abs(true - predicted), weights.sum(axis=1))


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

    def weights(self, seed: int, replicates: int) -> np.ndarray:
        """(1 + replicates, n) how often each row is drawn."""
        return Draws(self.artist, replicates, seed).weights()

    def of_region(self, code: int) -> np.ndarray:
        return np.flatnonzero(self.region == code)


def _with_score(frame: pd.DataFrame) -> pd.DataFrame:
    return frame if "score" in frame else frame.assign(score=frame["predicted"])


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
    return mean_over_regions(values, len(weights))


def _score_region(rows: _Rows, code: int, weights: np.ndarray) -> dict[str, Any]:
    i = rows.of_region(code)
    region = np.zeros(len(i), int)
    alone = _Rows(rows.true[i], rows.predicted[i], rows.score[i], region, [rows.regions[code]], rows.artist[i])
    scores: dict[str, Any] = {}
    for metric in ("spearman", "kendall", "r2", "mae"):
        scores |= with_interval(metric, _measure(metric, alone, weights[:, i], 1), alone.n_artists > 1)
    return scores | {"n": len(i), "n_artists": alone.n_artists}
