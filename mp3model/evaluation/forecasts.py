"""Sample paths of curves in; tables of curves, popularity and paths, and what the scores read, out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mp3model.evaluation.accuracy import LEVELS, QUANTILES, CurveForecasts, CurveTruth, path_quantiles
from mp3model.evaluation.popularity import RankCurve, popularity_metrics, summarise_paths
from mp3model.tables.curves import CurveArrays, period_dates
from mp3model.tables.folder import DatasetFolder

PERIOD_NAMES = {"W": "week", "D": "day"}


@dataclass(frozen=True)
class CurvePaths:
    """Paths of n rows, one curve a path.

    Attributes:
        rows: (n) `track_id, region, debut, observed` and whatever else a table should carry along.
        streams: (n, paths, periods), 0 off the chart; observed periods as they were in every path.
        frequency: `W` or `D`.
        debut_rank: (n, paths) NaN where unknown.
    """

    rows: pd.DataFrame
    streams: np.ndarray
    frequency: str
    debut_rank: np.ndarray

    def curves(self) -> pd.DataFrame:
        """`track_id, region, week` (`day`), `date, mean, 0.1 … 0.9`: a row a period."""
        n, _, horizon = self.streams.shape
        quantiles = path_quantiles(self.streams, axis=1).transpose(1, 2, 0)
        table = self._periods(horizon).assign(mean=self.streams.mean(axis=1).ravel())
        return table.assign(**dict(zip(QUANTILES, quantiles.reshape(n * horizon, len(LEVELS)).T, strict=True)))

    def popularity(self) -> pd.DataFrame:
        """`track_id, region, metric, mean, 0.1 … 0.9`: each metric of a path at a time, then over paths."""
        parts = []
        known = self.rows["observed"].to_numpy()
        for observed in np.unique(known):
            at = np.flatnonzero(known == observed)
            metrics = popularity_metrics(self.streams[at], observed=int(observed), debut_rank=self.debut_rank[at])
            names = self.rows.iloc[at][["track_id", "region"]]
            parts.append(summarise_paths(metrics, axis=1, index=names).assign(row=np.repeat(at, len(metrics))))
        if not parts:
            return pd.DataFrame(columns=["track_id", "region", "metric", "mean", *QUANTILES])
        return pd.concat(parts).sort_values("row", kind="stable").drop(columns="row").reset_index(drop=True)

    def paths(self) -> pd.DataFrame:
        """`track_id, region, week` (`day`), `sample, streams`: a row a period and path."""
        _, samples, horizon = self.streams.shape
        table = self._periods(horizon).drop(columns="date")
        table = table.iloc[np.repeat(np.arange(len(table)), samples)].reset_index(drop=True)
        return table.assign(
            sample=np.tile(np.arange(samples), len(self.rows) * horizon),
            streams=self.streams.transpose(0, 2, 1).ravel(),
        )

    def forecasts(self) -> CurveForecasts:
        """What `score_curves` reads of rows with equally many observed periods.

        The point forecast of a period is its median, which WAPE asks for. Rows are ranked by the interquartile mean of
        the log total: the median of many is 0, and the mean tells apart rows that will almost surely all have 0.
        """
        observed = int(self.rows["observed"].iloc[0]) if len(self.rows) else 0
        later = self.streams[:, :, observed:]
        total = later.sum(axis=2)
        known = np.isfinite(self.debut_rank).all()
        return CurveForecasts(
            curve=np.median(self.streams, axis=1),
            quantiles=path_quantiles(total).T,
            score=_interquartile_mean(np.log10(1 + total)),
            rank0=np.median(self.debut_rank, axis=1) if known and observed == 0 else None,
            length=np.median((later > 0).sum(axis=2), axis=1),
        )

    def _periods(self, horizon: int) -> pd.DataFrame:
        dates = period_dates(self.rows["debut"], horizon, self.frequency)
        return pd.DataFrame(
            {
                "track_id": np.repeat(self.rows["track_id"].to_numpy(), horizon),
                "region": np.repeat(self.rows["region"].to_numpy(), horizon),
                PERIOD_NAMES[self.frequency]: np.tile(np.arange(horizon), len(self.rows)),
                "date": dates.ravel(),
            }
        )


def _interquartile_mean(values: np.ndarray) -> np.ndarray:
    """Mean of the middle half of each row: (n, paths) → (n,)."""
    paths = values.shape[1]
    cut = paths // 4
    return np.sort(values, axis=1)[:, cut : paths - cut].mean(axis=1)


class RankCurves:
    """Which rank an amount of streams had on the region's last chart before a day.

    Args:
        charts: Region → `region, date, rank, streams` of its charts, by date.
        stored: Region → its one chart, where there is no dataset.
    """

    def __init__(
        self, charts: Mapping[str, pd.DataFrame] | None = None, stored: Mapping[str, RankCurve] | None = None
    ) -> None:
        self._charts, self._stored = dict(charts or {}), dict(stored or {})
        self._dates = {region: np.unique(rows["date"].to_numpy()) for region, rows in self._charts.items()}
        self._fitted: dict[tuple[str, Any], RankCurve] = {}

    @classmethod
    def of(cls, dataset: DatasetFolder) -> RankCurves:
        """All charts of a dataset; regions without ranks have none."""
        if dataset.curves is None:
            return cls()
        rows = dataset.curves[["region", "date", "rank", "streams"]]
        rows = rows[rows["rank"].notna() & (rows["streams"] > 0)].sort_values("date", kind="stable")
        return cls({str(region): part for region, part in rows.groupby("region", sort=True)})

    @classmethod
    def from_last(cls, stored: Mapping[str, Any]) -> RankCurves:
        """The inverse of `last`."""
        return cls(stored={region: RankCurve.from_dict(content) for region, content in stored.items()})

    def last(self, regions: Iterable[str]) -> dict[str, Any]:
        """Each region's latest chart as JSON values."""
        found = {region: self.at(region, None) for region in regions}
        return {region: curve.to_dict() for region, curve in found.items() if curve is not None}

    def at(self, region: str, day: Any) -> RankCurve | None:
        """The region's last chart on or before a day, or its last of all; None if it has none."""
        if region not in self._charts:
            return self._stored.get(region)
        dates = self._dates[region]
        place = len(dates) if day is None else int(np.searchsorted(dates, np.datetime64(day, "s"), side="right"))
        if not place:
            return None
        key = (region, dates[place - 1])
        if key not in self._fitted:
            rows = self._charts[region]
            first, last = (np.searchsorted(rows["date"].to_numpy(), key[1], side) for side in ("left", "right"))
            self._fitted[key] = RankCurve.fit(rows.iloc[first:last])
        return self._fitted[key]


def debut_ranks(
    rows: pd.DataFrame, streams: np.ndarray, rank_curves: RankCurves, observed_rank: np.ndarray | None = None
) -> np.ndarray:
    """Rank of each path's first period by the region's last chart before the cut-off: (n, paths), NaN without one.

    Args:
        rows: `region, cutoff, observed`.
        streams: (n, paths, periods).
        rank_curves: Of the dataset, or as stored with a model.
        observed_rank: (n,) rank of the first period where that was observed, which then stands in every path.
    """
    ranks = np.full(streams.shape[:2], np.nan)
    region, cutoff = rows["region"].to_numpy(dtype=object), rows["cutoff"].to_numpy()
    for row in range(len(rows)):
        curve = rank_curves.at(str(region[row]), cutoff[row])
        if curve is not None:
            ranks[row] = curve.rank_of(streams[row, :, 0], below="next")
    if observed_rank is not None:
        seen = (rows["observed"].to_numpy() > 0) & np.isfinite(observed_rank)
        ranks = np.where(seen[:, None], observed_rank[:, None], ranks)
    return ranks


def best_ranks(
    rows: pd.DataFrame, streams: np.ndarray, rank_curves: RankCurves, observed_rank: np.ndarray | None = None
) -> np.ndarray:
    """The best rank that each path ever has by the region's last chart before the cut-off: (n, paths).

    Args:
        rows, streams, rank_curves: As in `debut_ranks`.
        observed_rank: (n, periods) ranks of observed periods, NaN where unknown; they stand in every path.

    Returns:
        Infinity for a path that is never on the chart; NaN for a row without a chart.
    """
    best = np.full(streams.shape[:2], np.nan)
    period = np.arange(streams.shape[2])
    for row, (region, cutoff, observed) in enumerate(rows[["region", "cutoff", "observed"]].itertuples(index=False)):
        curve = rank_curves.at(str(region), cutoff)
        if curve is None:
            continue
        ranks = curve.rank_of(streams[row])
        if observed_rank is not None:
            seen = (period < observed) & np.isfinite(observed_rank[row])
            ranks[:, seen] = observed_rank[row, seen]
        best[row] = np.where(np.isnan(ranks), np.inf, ranks).min(axis=1)
    return best


def truth_of(rows: pd.DataFrame, curves: CurveArrays) -> CurveTruth:
    """What happened, as `score_curves` reads it: rows with `region, artist` and their curves."""
    return CurveTruth(
        streams=curves.chart_observed(),
        floor=curves.floor,
        region=rows["region"].to_numpy(dtype=object),
        artist=rows["artist"].to_numpy(dtype=object),
        rank0=curves.rank[:, 0],
    )
