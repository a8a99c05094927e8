"""Forecasts and what they missed on held-out songs in, calibrated distributions out: of points, and of paths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from mp3model.evaluation.accuracy import LEVELS, QUANTILES, crps_from_quantiles

# Below this a region's own quantiles of .1 and .9 would hang on two or three songs.
MINIMUM_ROWS = 20


def quantiles_of_rows(frame: pd.DataFrame, column: str = "true") -> dict[str, np.ndarray]:
    """Region → the nine quantiles of a column over its rows, or over all rows where the region has few.

    Args:
        frame: `region` and the column; rows without a value are left out.
        column: What is described.
    """
    known = frame[frame[column].notna()]
    pooled = np.quantile(known[column], LEVELS)
    return {
        str(region): np.quantile(rows[column], LEVELS) if len(rows) >= MINIMUM_ROWS else pooled
        for region, rows in known.groupby("region")
    } | {"": pooled}


def with_residual_quantiles(frame: pd.DataFrame, held_out: pd.DataFrame) -> pd.DataFrame:
    """Adds `0.1` … `0.9`: each prediction plus the quantiles of what the system missed on songs it did not learn from.

    Args:
        frame: `region, predicted`.
        held_out: `region, true, predicted` of the same system on other songs, neither learnt from nor asked about.
    """
    missed = quantiles_of_rows(held_out.assign(missed=held_out["true"] - held_out["predicted"]), "missed")
    return with_quantiles(frame, missed, frame["predicted"].to_numpy(dtype=float))


def with_quantiles(frame: pd.DataFrame, quantiles: dict[str, np.ndarray], centre: np.ndarray | float) -> pd.DataFrame:
    """Adds `0.1` … `0.9`: the quantiles of each row's region around `centre`."""
    rows = np.stack([quantiles.get(str(region), quantiles[""]) for region in frame["region"]])
    rows = rows + np.reshape(centre, (-1, 1))
    return frame.assign(**{name: rows[:, place] for place, name in enumerate(QUANTILES)})


@dataclass
class PathCalibration:
    """A monotone map a region, applied to whole paths, so that every table and picture comes from one calibrated set.

    In log10 of floor units a path's value v becomes m + shift + spread · (v − m), where m is the median of the row's
    paths in that period: order among paths stays, and with it their dependence over weeks. Each region's two numbers
    are drawn towards those of all regions together by `PRIOR_ROWS` imaginary rows of the latter. Shift and spread
    differ between forecasts at debut and later ones.

    Attributes:
        shift, spread: region → (at debut, later); the entry "" serves regions not listed.
    """

    shift: dict[str, tuple[float, float]]
    spread: dict[str, tuple[float, float]]

    PRIOR_ROWS: ClassVar[int] = 200
    SHIFTS: ClassVar[np.ndarray] = np.linspace(-0.12, 0.12, 9)
    SPREADS: ClassVar[np.ndarray] = np.linspace(0.7, 1.45, 11)

    @classmethod
    def fit(cls, sets: Sequence[CalibrationSet]) -> PathCalibration:
        """Chooses the map with the lowest CRPS of log10(1 + remaining streams / floor) on held-out songs.

        Args:
            sets: Paths and truth at several numbers of observed periods, of songs that neither trained the model nor
                stopped its training.
        """
        shift: dict[str, list[float]] = {}
        spread: dict[str, list[float]] = {}
        regions = sorted({str(region) for each in sets for region in each.regions})
        grid = [(float(a), float(b)) for a in cls.SHIFTS for b in cls.SPREADS]
        for later in (False, True):
            chosen = [each for each in sets if (each.observed > 0) == later]
            scores = np.concatenate([each.scores(grid) for each in chosen]) if chosen else np.zeros((1, len(grid)))
            names = np.concatenate([each.regions for each in chosen]) if chosen else np.array([""])
            pooled = scores.mean(axis=0)
            for region in ["", *regions]:
                own = scores[names == region] if region else scores
                penalised = own.sum(axis=0) + cls.PRIOR_ROWS * pooled
                best = grid[int(penalised.argmin())] if chosen else (0.0, 1.0)
                shift.setdefault(region, []).append(best[0])
                spread.setdefault(region, []).append(best[1])
        return cls(
            {region: (pair[0], pair[1]) for region, pair in shift.items()},
            {region: (pair[0], pair[1]) for region, pair in spread.items()},
        )

    def apply(
        self, paths: np.ndarray, threshold: np.ndarray, regions: Sequence[str], observed: np.ndarray
    ) -> np.ndarray:
        """(n, paths, periods) in log10 of floor units → the same; observed periods stay, a first one on the chart too.

        Args:
            paths: Before calibration.
            threshold: (n,) the chart's lowest.
            regions: (n,) names.
            observed: (n,) periods.
        """
        later = (observed > 0).astype(int)
        shift, spread = (
            np.array([table.get(str(region), table[""])[kind] for region, kind in zip(regions, later, strict=True)])
            for table in (self.shift, self.spread)
        )
        return _stretched(paths, shift, spread, threshold, observed)

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "shift": {k: list(v) for k, v in self.shift.items()},
            "spread": {k: list(v) for k, v in self.spread.items()},
        }

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> PathCalibration:
        """The inverse of `to_dict`."""
        return cls(
            *({region: (pair[0], pair[1]) for region, pair in content[name].items()} for name in ("shift", "spread"))
        )


@dataclass
class CalibrationSet:
    """Paths of n held-out rows in log10 of floor units, and what happened.

    Attributes:
        paths: (n, paths, periods) uncalibrated.
        threshold: (n,) the chart's lowest.
        regions: (n,) names.
        observed: Periods observed, the same for all rows.
        remaining: (n,) true streams after the observed periods, in floor units.
    """

    paths: np.ndarray
    threshold: np.ndarray
    regions: np.ndarray
    observed: int
    remaining: np.ndarray

    def scores(self, grid: Sequence[tuple[float, float]]) -> np.ndarray:
        """CRPS of each row under each (shift, spread): (n, grid)."""
        true = np.log10(1 + self.remaining)
        observed = np.full(len(true), self.observed)
        columns = []
        for shift, spread in grid:
            paths = _stretched(
                self.paths, np.full(len(true), shift), np.full(len(true), spread), self.threshold, observed
            )[:, :, self.observed :]
            streams = np.where(paths < self.threshold[:, None, None], 0, 10.0**paths)
            total = np.log10(1 + streams.sum(axis=2))
            columns.append(crps_from_quantiles(true, np.quantile(total, LEVELS, axis=1).T))
        return np.column_stack(columns)


def _stretched(
    paths: np.ndarray, shift: np.ndarray, spread: np.ndarray, threshold: np.ndarray, observed: np.ndarray
) -> np.ndarray:
    middle = np.median(paths, axis=1, keepdims=True)
    moved = middle + shift[:, None, None] + spread[:, None, None] * (paths - middle)
    # A song that debuts is on the chart in its first period, however the map would move it.
    moved[:, :, 0] = np.maximum(moved[:, :, 0], threshold[:, None])
    seen = np.arange(paths.shape[2]) < observed[:, None]
    return np.where(seen[:, None], paths, moved).astype(paths.dtype)
