"""Forecasts and what they missed on held-out songs in, calibrated distributions out: of points, and of paths."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from mp3model.evaluation.accuracy import LEVELS, QUANTILES, crps_from_quantiles, path_quantiles

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
    paths in that period: order among paths stays, and with it their dependence over weeks; only a debut's first period
    may be held up by the chart that its path lives with. There is a map for each of some numbers of observed periods. A
    region's two numbers are drawn towards those of all regions together, by `PRIOR_ROWS` imaginary rows of the latter,
    and all towards no change: (shift / `SHIFT`)² + (log spread / `STRETCH`)² is added to the CRPS, summed over rows.
    The three numbers were chosen by fitting on half of the validation songs and scoring on the other. What a few
    hundred songs say is mostly chance even so and does harm: a map is only taken where it helps artists from whom it
    was not learnt, by `CERTAINTY` standard errors.

    Attributes:
        observed: Numbers of observed periods that have a map, rising.
        shift, spread: region → one number for each of `observed`; the entry "" serves regions not listed.
    """

    observed: tuple[int, ...]
    shift: dict[str, tuple[float, ...]]
    spread: dict[str, tuple[float, ...]]

    PRIOR_ROWS: ClassVar[int] = 20
    SHIFT: ClassVar[float] = 0.06
    STRETCH: ClassVar[float] = 0.4
    FOLDS: ClassVar[int] = 10
    CERTAINTY: ClassVar[float] = 2.0
    SHIFTS: ClassVar[np.ndarray] = np.linspace(-0.12, 0.12, 9)
    SPREADS: ClassVar[np.ndarray] = np.linspace(0.7, 1.45, 11)

    @classmethod
    def fit(cls, sets: Sequence[CalibrationSet]) -> PathCalibration:
        """Chooses the maps with the lowest CRPS of log10(1 + remaining streams / floor) on held-out songs.

        Args:
            sets: Paths and truth at several numbers of observed periods, of songs that neither trained the model nor
                stopped its training.
        """
        sets = sorted((each for each in sets if len(each.remaining)), key=lambda each: each.observed)
        grid = [(float(a), float(b)) for a in cls.SHIFTS for b in cls.SPREADS]
        regions = ["", *sorted({str(name) for one in sets for name in one.regions})]
        chosen: dict[str, list[tuple[float, float]]] = {region: [] for region in regions}
        for each in sets:
            scores = each.scores(grid)
            maps = cls._best(scores, each.regions, grid) if cls._helps(scores, each, grid) else {"": (0.0, 1.0)}
            for region in regions:
                chosen[region].append(maps.get(region, maps[""]))
        return cls(
            tuple(each.observed for each in sets),
            {region: tuple(shift for shift, _ in pairs) for region, pairs in chosen.items()},
            {region: tuple(spread for _, spread in pairs) for region, pairs in chosen.items()},
        )

    @classmethod
    def _best(
        cls, scores: np.ndarray, regions: np.ndarray, grid: Sequence[tuple[float, float]]
    ) -> dict[str, tuple[float, float]]:
        """Region → the map that rows of these CRPS, (n, grid), speak for; "" is that of all together."""
        change = np.array([(a / cls.SHIFT) ** 2 + (np.log(b) / cls.STRETCH) ** 2 for a, b in grid])
        maps = {"": grid[int((scores.sum(axis=0) + change).argmin())]}
        shared = cls.PRIOR_ROWS * scores.mean(axis=0)
        for region in sorted({str(name) for name in regions}):
            maps[region] = grid[int((scores[regions == region].sum(axis=0) + shared + change).argmin())]
        return maps

    @classmethod
    def _helps(cls, scores: np.ndarray, rows: CalibrationSet, grid: Sequence[tuple[float, float]]) -> bool:
        """Whether maps learnt from nine tenths of the artists lower the CRPS of the tenth, for certain."""
        artists, codes = np.unique(np.asarray(rows.artists, dtype=str), return_inverse=True)
        fold = np.array([zlib.crc32(name.encode()) % cls.FOLDS for name in artists])[codes]
        places = {pair: place for place, pair in enumerate(grid)}
        unchanged = scores[:, int(np.argmin([abs(shift) + abs(spread - 1) for shift, spread in grid]))]
        gain = np.zeros(len(scores))
        for number in np.unique(fold):
            out = fold == number
            if out.all():
                return False
            maps = cls._best(scores[~out], rows.regions[~out], grid)
            taken = [places[maps.get(str(region), maps[""])] for region in rows.regions[out]]
            gain[out] = unchanged[out] - scores[out, taken]
        by_artist = np.bincount(codes, gain - gain.mean())
        return bool(gain.sum() > cls.CERTAINTY * np.sqrt((by_artist**2).sum()))

    def place(self, observed: int) -> int | None:
        """Which map serves so many observed periods: the last that is not for more, or else the first that is.

        That of forecasts at debut serves these alone, and no other serves them; None leaves paths as they are.
        """
        alike = [place for place, own in enumerate(self.observed) if (own > 0) == (observed > 0)]
        return max((place for place in alike if self.observed[place] <= observed), default=alike[0] if alike else None)

    def apply(
        self, paths: np.ndarray, threshold: np.ndarray, regions: Sequence[str], observed: np.ndarray
    ) -> np.ndarray:
        """(n, paths, periods) in log10 of floor units → the same; observed periods stay, a first one on the chart too.

        Args:
            paths: Before calibration.
            threshold: The chart's lowest, broadcast against `paths`.
            regions: (n,) names.
            observed: (n,) periods.
        """
        threshold = np.broadcast_to(threshold, paths.shape)
        shift, spread = np.zeros(len(paths)), np.ones(len(paths))
        for row, (region, count) in enumerate(zip(regions, observed, strict=True)):
            place = self.place(int(count))
            if place is not None:
                shift[row] = self.shift.get(str(region), self.shift[""])[place]
                spread[row] = self.spread.get(str(region), self.spread[""])[place]
        moved = _stretched(paths, shift, spread)
        # A song that debuts is on the chart in its first period, however the map would move it.
        moved[:, :, 0] = np.maximum(moved[:, :, 0], threshold[:, :, 0])
        seen = np.arange(paths.shape[2]) < observed[:, None]
        return np.where(seen[:, None], paths, moved)

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "observed": list(self.observed),
            "shift": {region: list(values) for region, values in self.shift.items()},
            "spread": {region: list(values) for region, values in self.spread.items()},
        }

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> PathCalibration:
        """The inverse of `to_dict`; a map without `observed` has two numbers a region: at debut, and later."""
        shift, spread = (
            {region: tuple(values) for region, values in content[name].items()} for name in ("shift", "spread")
        )
        return cls(tuple(content.get("observed", (0, 1))), shift, spread)


@dataclass
class CalibrationSet:
    """Paths of n held-out rows in log10 of floor units, and what happened.

    Attributes:
        paths: (n, paths, periods) uncalibrated.
        threshold: The chart's lowest, broadcast against `paths`.
        regions, artists: (n,) names; an artist's rows are surprised together.
        observed: Periods observed, the same for all rows.
        remaining: (n,) true streams after the observed periods, in floor units.
    """

    paths: np.ndarray
    threshold: np.ndarray
    regions: np.ndarray
    artists: np.ndarray
    observed: int
    remaining: np.ndarray

    def scores(self, grid: Sequence[tuple[float, float]]) -> np.ndarray:
        """CRPS of each row under each (shift, spread): (n, grid)."""
        true = np.log10(1 + self.remaining)
        threshold = np.broadcast_to(self.threshold, self.paths.shape)[:, :, self.observed :].astype(self.paths.dtype)
        scores = np.empty((len(true), len(grid)))
        for spread in sorted({spread for _, spread in grid}):
            moved = _stretched(self.paths, np.zeros(len(true)), np.full(len(true), spread))[:, :, self.observed :]
            # A shift in log10 is a factor of streams: one power serves all shifts.
            streams = 10.0**moved
            for place, (shift, of) in enumerate(grid):
                if of != spread:
                    continue
                later = np.where(moved + shift < threshold, 0, streams)
                if self.observed == 0:
                    later[:, :, 0] = np.maximum(streams[:, :, 0], 10.0 ** (threshold[:, :, 0] - shift))
                total = np.log10(1 + 10.0**shift * later.sum(axis=2))
                scores[:, place] = crps_from_quantiles(true, path_quantiles(total).T)
        return scores


def _stretched(paths: np.ndarray, shift: np.ndarray, spread: np.ndarray) -> np.ndarray:
    middle = np.median(paths, axis=1, keepdims=True)
    shift, spread = (each.astype(paths.dtype)[:, None, None] for each in (shift, spread))
    return middle + shift + spread * (paths - middle)
