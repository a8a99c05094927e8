"""Curve rows, charts and debuts in, arrays on the period grid out: streams, ranks, what is known of each period."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mp3model.files import InputError
from mp3model.tables.folder import DatasetFolder, chart_positions
from mp3model.tables.schema import DATE_UNIT, places

PERIOD_DAYS = {"W": 7, "D": 1}
OBSERVED, BELOW, UNKNOWN = 0, 1, 2

_DAY = "datetime64[D]"
# 1970-01-01 was a Thursday, the last day of a chart week (Friday to Thursday).
_THURSDAY = np.datetime64("1970-01-01", "D")


def _days(dates: Any) -> np.ndarray:
    return np.asarray(dates, dtype=_DAY)


def period_index(dates: Any, debut: Any, frequency: str) -> np.ndarray:
    """Whole periods from debut to each date.

    Args:
        dates: period ends, any shape.
        debut: end of the debut period, broadcast against `dates`.
        frequency: `W` or `D`.

    Returns:
        int64 array in the broadcast shape, 0 at debut, negative before it.

    Raises:
        InputError: a date is missing or does not lie a whole number of periods from its debut.
    """
    dates, debut = np.broadcast_arrays(_days(dates), _days(debut))
    missing = np.isnat(dates) | np.isnat(debut)
    if missing.any():
        raise InputError(
            f"{int(missing.sum())} of {dates.size} dates or debuts are missing; drop them before counting periods"
        )
    elapsed = (dates - debut).astype(np.int64)
    index, rest = np.divmod(elapsed, PERIOD_DAYS[frequency])
    if np.any(rest):
        where = tuple(np.argwhere(rest)[0])
        raise InputError(
            f"date {dates[where]} lies {elapsed[where]} days from debut {debut[where]}, no whole number of "
            f"{PERIOD_DAYS[frequency]}-day periods; give the last day of each period"
        )
    return index


def period_dates(debut: Any, horizon: int, frequency: str) -> np.ndarray:
    """Period ends from debut on: (n,) → (n, horizon) datetime64[s]."""
    steps = np.arange(horizon) * np.timedelta64(PERIOD_DAYS[frequency], "D")
    return (_days(debut)[..., None] + steps).astype("datetime64[s]")


def period_end(date: Any, anchor: Any = None, frequency: str = "W") -> np.ndarray:
    """Last day of the period that holds each date.

    Args:
        date: days, any shape.
        anchor: any known period end, which fixes the weekday on which weeks end; None is Thursday, as on charts.
        frequency: `W` or `D`.

    Returns:
        datetime64[s] in the shape of `date`, never before it and less than a period after.
    """
    day = _days(date)
    anchor = _THURSDAY if anchor is None else _days(anchor)
    behind = (anchor - day) % np.timedelta64(PERIOD_DAYS[frequency], "D")
    return (day + behind).astype("datetime64[s]")


def log_streams(streams: Any) -> np.ndarray:
    """log10(1 + streams), any shape; NaN stays NaN.

    Raises:
        InputError: a value is negative.
    """
    streams = np.asarray(streams, dtype=float)
    if np.any(streams < 0):
        raise InputError(f"streams of {float(np.nanmin(streams)):g} are negative; use NaN for unknown")
    return np.log1p(streams) / np.log(10)


def streams_from_log(x: Any) -> np.ndarray:
    """10^x − 1, the inverse of `log_streams`; nothing streams less than 0, so x below 0 gives 0."""
    return np.maximum(np.expm1(np.asarray(x, dtype=float) * np.log(10)), 0.0)


@dataclass(frozen=True)
class ChartLookup:
    """Floor and lowest streams of charts by region and date; made by `floors`."""

    charts: pd.DataFrame

    def on_hand(self, regions: Any, dates: Any) -> np.ndarray:
        """Is there a chart? regions (n,), dates (n,) or (n, periods) → bool in the shape of dates."""
        return chart_positions(self.charts, regions, dates) >= 0

    def floor(self, regions: Any, dates: Any) -> np.ndarray:
        """The region's unit of scale, in streams; NaN where no chart is on hand."""
        return self._column("floor", regions, dates)

    def lowest(self, regions: Any, dates: Any) -> np.ndarray:
        """Smallest streams on the chart; NaN where no chart is on hand."""
        return self._column("lowest", regions, dates)

    def _column(self, name: str, regions: Any, dates: Any) -> np.ndarray:
        position = chart_positions(self.charts, regions, dates)
        # A missing chart is −1, which picks the NaN at the end.
        return np.append(self.charts[name].to_numpy(dtype=float), np.nan)[position]


def floors(charts: pd.DataFrame | None) -> ChartLookup:
    """Lookup into `charts.parquet`; None (no charts) answers "not on hand" everywhere."""
    return ChartLookup(_NO_CHARTS if charts is None else charts)


_NO_CHARTS = pd.DataFrame({"region": [], "date": np.array([], _DAY), "floor": [], "lowest": []})


@dataclass
class CurveArrays:
    """Curves of n debuts over a horizon of H periods, versions of a song merged within a region.

    Attributes:
        streams: (n, H) float64, NaN unless OBSERVED.
        rank: (n, H) float64, best rank of the versions; NaN where unknown or off the chart.
        state: (n, H) int8: OBSERVED (streams known), BELOW (a chart is on hand and the song is not on it, so its
            streams were less than `lowest`), UNKNOWN.
        lowest: (n, H) float64, smallest streams of the chart; NaN where none is on hand.
        floor: (n,) float64, floor of the chart before debut; NaN where none is on hand.
        charted: (n, H) bool, OBSERVED and on the chart. A dataset may know streams of periods too small for the chart.
    """

    streams: np.ndarray
    rank: np.ndarray
    state: np.ndarray
    lowest: np.ndarray
    floor: np.ndarray
    charted: np.ndarray

    def chart_observed(self) -> np.ndarray:
        """(n, H) streams as charts show them: 0 where the song is not on the chart on hand, NaN if UNKNOWN."""
        return np.where(self.state == UNKNOWN, np.nan, np.where(self.charted, self.streams, 0.0))


def taken(curves: CurveArrays, rows: np.ndarray) -> CurveArrays:
    """The curves at these positions."""
    return CurveArrays(
        curves.streams[rows],
        curves.rank[rows],
        curves.state[rows],
        curves.lowest[rows],
        curves.floor[rows],
        curves.charted[rows],
    )


def charted_rows(dataset: DatasetFolder) -> np.ndarray:
    """Which curve rows show their track on a chart: (rows,) bool.

    A row with a rank does; one without counts by its streams, which must reach the chart's lowest where a chart is on
    hand, and exceed 0 where none is.
    """
    assert dataset.curves is not None
    curves = dataset.curves
    streams = curves["streams"].to_numpy()
    lowest = floors(dataset.charts).lowest(curves["region"], curves["date"])
    enough = np.where(np.isnan(lowest), streams > 0, streams >= lowest)
    return curves["rank"].notna().to_numpy() | enough


def with_songs(frame: pd.DataFrame, tracks: pd.DataFrame) -> pd.DataFrame:
    """Adds `song_id` from the tracks where the frame has none."""
    if "song_id" in frame:
        return frame
    return frame.assign(song_id=_song_ids(frame["track_id"], tracks))


def _song_ids(track_ids: pd.Series, tracks: pd.DataFrame) -> pd.Series:
    position = places(track_ids, tracks["track_id"])
    if (position < 0).any():
        missing = track_ids.iloc[int(np.flatnonzero(position < 0)[0])]
        raise InputError(f"track_id {missing!r} is not among the {len(tracks)} tracks; add it to tracks.parquet")
    return tracks["song_id"].take(position).set_axis(track_ids.index)


def curve_arrays(dataset: DatasetFolder, debuts: pd.DataFrame, horizon: int | None = None) -> CurveArrays:
    """Curves of the given debuts on the period grid.

    Versions of a song are merged within a region: streams summed, best rank. A sum with an unknown part is unknown.

    Args:
        dataset: with curves.
        debuts: (n rows) `track_id` (or `song_id`), `region`, `debut`.
        horizon: periods from debut on; None takes the dataset's.

    Returns:
        Arrays of n rows in the order of `debuts`.

    Raises:
        InputError: no curves, an unknown track, a missing debut, or rows off the debut's grid.
    """
    if dataset.curves is None:
        raise InputError(f"{dataset.path}: has no curves.parquet; curves need dated rows")
    horizon = dataset.horizon if horizon is None else horizon
    days = PERIOD_DAYS[dataset.frequency]
    if debuts["debut"].isna().any():
        row = int(np.flatnonzero(debuts["debut"].isna())[0])
        raise InputError(f"{dataset.path}: row {row} of the debuts has no debut date; drop the rows without one")
    dates = period_dates(debuts["debut"], horizon, dataset.frequency)
    lookup = floors(dataset.charts)
    lowest = lookup.lowest(debuts["region"], dates)
    floor = lookup.floor(debuts["region"], _days(debuts["debut"]) - np.timedelta64(days, "D"))

    rows = _rows_of_debuts(dataset, debuts, horizon)
    cell = (rows["debut_row"].to_numpy(), rows["period"].to_numpy())
    shape = (len(debuts), horizon)
    present, charted = np.zeros(shape, bool), np.zeros(shape, bool)
    streams, rank = np.zeros(shape), np.full(shape, np.inf)
    present[cell] = True
    # NaN in any version makes the sum NaN.
    np.add.at(streams, cell, rows["streams"].to_numpy())
    np.minimum.at(rank, cell, rows["rank"].to_numpy())
    np.logical_or.at(charted, cell, rows["charted"].to_numpy())

    streams[~present] = np.nan
    on_hand = ~np.isnan(lowest)
    state = np.where(np.isfinite(streams), OBSERVED, np.where(~present & on_hand, BELOW, UNKNOWN)).astype(np.int8)
    rank[np.isinf(rank)] = np.nan
    return CurveArrays(streams, rank, state, lowest, floor, charted & (state == OBSERVED))


def _rows_of_debuts(dataset: DatasetFolder, debuts: pd.DataFrame, horizon: int) -> pd.DataFrame:
    """Curve rows inside the horizon of a debut: debut_row, period, streams, rank (inf where missing), charted."""
    assert dataset.curves is not None
    curves = dataset.curves
    wanted = with_songs(debuts, dataset.tracks)
    songs = pd.Index(wanted["song_id"].unique())
    regions = pd.Index(wanted["region"].unique())

    def key(frame: pd.DataFrame, song_ids: pd.Series) -> np.ndarray:
        song, region = places(song_ids, songs), places(frame["region"], regions)
        return np.where((song >= 0) & (region >= 0), song * len(regions) + region, -1)

    curve_key = key(curves, _song_ids(curves["track_id"], dataset.tracks))
    used = np.flatnonzero(curve_key >= 0)
    rows = pd.DataFrame(
        {
            "key": curve_key[used],
            "day": _days(curves["date"])[used].astype(np.int64),
            "streams": curves["streams"].to_numpy()[used],
            "rank": curves["rank"].to_numpy(dtype=float, na_value=np.inf)[used],
            "charted": charted_rows(dataset)[used],
        }
    )
    starts = pd.DataFrame(
        {
            "key": key(wanted, wanted["song_id"]),
            "start": _days(wanted["debut"]).astype(np.int64),
            "debut_row": np.arange(len(wanted)),
        }
    )
    rows = rows.merge(starts, on="key", how="inner")
    elapsed = rows["day"].to_numpy() - rows["start"].to_numpy()
    days = PERIOD_DAYS[dataset.frequency]
    inside = (elapsed >= 0) & (elapsed < horizon * days)
    rows, elapsed = rows[inside], elapsed[inside]
    if np.any(elapsed % days):
        row = wanted.iloc[int(rows["debut_row"].to_numpy()[np.flatnonzero(elapsed % days)[0]])]
        raise InputError(
            f"{dataset.path}: debut {pd.Timestamp(row['debut']).date()} of song {row['song_id']!r} in {row['region']} "
            f"is off that region's grid of {days}-day periods; give the last day of its first period"
        )
    return rows.assign(period=elapsed // days)


def popularity_targets(dataset: DatasetFolder, debuts: pd.DataFrame | None = None) -> pd.DataFrame:
    """What MP2 learns: total and debut rank of each song in each region.

    Read from `targets.parquet` where the dataset has one. Else from the curves: `total` is the chart-observed sum over
    the horizon, in streams (0 for periods below the chart, NaN if any period is unknown), `debut_rank` the rank of
    period 0.

    Args:
        dataset: with curves or targets.
        debuts: rows to answer: `track_id`, `region`, with curves also `debut`; `split` and `song_id` are taken along.
            None takes the dataset's splits, or without any all rows of `targets.parquet`.

    Returns:
        `song_id, track_id, region, debut, split, total, debut_rank` and the `y_*` of `targets.parquet`, one row each in
        the order of `debuts`; `split` is `none` where unknown.

    Raises:
        InputError: neither debuts nor splits are there for dated data; see also `curve_arrays`.
    """
    if debuts is None:
        debuts = dataset.splits if dataset.splits is not None else dataset.targets
    if debuts is None:
        raise InputError(f"{dataset.path}: has no splits.parquet; make one by mp3model.tables.splits.make_splits")
    rows = with_songs(debuts.reset_index(drop=True), dataset.tracks)
    if "debut" not in rows:
        rows = rows.assign(debut=pd.Series(pd.NaT, index=rows.index, dtype=DATE_UNIT))
    if "split" not in rows:
        rows = _with_split(rows, dataset.splits)
    rows = rows[["song_id", "track_id", "region", "debut", "split"]]
    if dataset.targets is not None:
        return rows.merge(dataset.targets, on=["track_id", "region"], how="left")
    arrays = curve_arrays(dataset, rows)
    return rows.assign(total=arrays.chart_observed().sum(axis=1), debut_rank=arrays.rank[:, 0])


def _with_split(rows: pd.DataFrame, splits: pd.DataFrame | None) -> pd.DataFrame:
    if splits is None:
        return rows.assign(split="none")
    merged = rows.merge(splits[["track_id", "region", "split"]], on=["track_id", "region"], how="left")
    return merged.assign(split=merged["split"].fillna("none"))
