"""What a user knows of a song and its artist, as files or frames, in; rows on the regions' grid, and a history, out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mp3model.files import InputError
from mp3model.tables.curves import BELOW, OBSERVED, PERIOD_DAYS, UNKNOWN, CurveArrays, period_end
from mp3model.tables.folder import DatasetFolder
from mp3model.tables.history import STATE_FEATURES, RegionStates
from mp3model.tables.schema import EARLIEST_DATE, LATEST_DATE

Source = pd.DataFrame | str | os.PathLike[str]
PERIOD_COLUMN = {"W": "week", "D": "day"}
# More than all that was ever streamed; beyond it single precision would overflow unseen.
MOST_STREAMS = 1e15
_ROW_COLUMNS = ["track_id", "region", "date", "streams", "rank"]


def read_table(source: Source, what: str) -> tuple[pd.DataFrame, str]:
    """A frame, or a CSV or parquet file by its suffix, and what errors call it.

    Raises:
        InputError: If the file is missing, of another kind or unreadable, or has no row.
    """
    if isinstance(source, pd.DataFrame):
        frame, name = source.reset_index(drop=True), what
    else:
        path, name = Path(source), f"{what} {source}"
        if not path.is_file():
            raise InputError(f"{name}: {'is a folder, not a table' if path.is_dir() else 'no such file'}")
        if path.suffix not in (".csv", ".parquet"):
            raise InputError(
                f"{name}: a table is read from .csv or .parquet, not {path.suffix or 'a name without one'}"
            )
        try:
            # Names such as NA (Namibia) are text; only an empty cell is missing.
            csv = path.suffix == ".csv"
            frame = pd.read_csv(path, keep_default_na=False, na_values=[""]) if csv else pd.read_parquet(path)
        except (OSError, ValueError) as error:
            raise InputError(f"{name}: not a readable table ({' '.join(str(error).split())})") from error
    if not len(frame):
        raise InputError(f"{name}: has no row")
    return frame, name


def shown(value: Any) -> str:
    """A value as an error shows it: text in quotes, a number as a number."""
    return repr(value) if isinstance(value, str) else str(value)


def parsed_date(value: Any, name: str) -> np.datetime64:
    """A day between 1900 and 2099.

    Args:
        value: `YYYY-MM-DD`, a date or a timestamp.
        name: What errors call it.

    Raises:
        InputError: If it is none.
    """
    # The format keeps 4/12/2026, which means two days, and bare numbers out.
    given = str(value) if isinstance(value, str | date | np.datetime64) else ""
    day = pd.to_datetime(given.removesuffix(" 00:00:00").removesuffix("T00:00:00"), format="%Y-%m-%d", errors="coerce")
    if pd.isna(day) or not EARLIEST_DATE <= day < LATEST_DATE:
        raise InputError(f"{name} {value}: no date from 1900 to 2099; write YYYY-MM-DD")
    return np.datetime64(day.date(), "D")


@dataclass(frozen=True)
class Calendar:
    """Where a region's periods end.

    Attributes:
        frequency: `W` or `D`.
        ends: Region → a day on which one of its periods ended; others end on Thursdays.
    """

    frequency: str
    ends: Mapping[str, np.datetime64]

    @property
    def days(self) -> int:
        """Of a period."""
        return PERIOD_DAYS[self.frequency]

    def period_of(self, day: Any, region: str) -> np.datetime64:
        """Last day of the period that holds a day."""
        return np.datetime64(str(period_end(day, self.ends.get(region), self.frequency))[:10], "D")


def observed_rows(
    source: Source, tracks: Sequence[str], regions: Sequence[str], releases: Sequence[Any], calendar: Calendar
) -> pd.DataFrame:
    """Observed periods of songs: `track_id, region, date, streams, rank`.

    Args:
        source: `region` and `streams`, a row a period, named by `date` (its last day) or by `week` (`day`) since the
            period that holds the release; `track_id` where several songs are asked about; `rank` if known. `region`
            may be left out where one region is asked about. 0 streams are a period below the chart; a missing number,
            or a period without a row, is unknown.
        tracks: Songs asked about.
        regions: Regions asked about.
        releases: Of each track, None where unknown.
        calendar: Of the regions.

    Raises:
        InputError: Names the file, row and value of the first fault.
    """
    frame, name = read_table(source, "observed")
    period = PERIOD_COLUMN[calendar.frequency]
    present = ", ".join(map(str, frame))
    if "streams" not in frame:
        raise InputError(f"{name}: no column streams; present are {present}")
    if "date" not in frame and period not in frame:
        raise InputError(f"{name}: no column date or {period}; present are {present}")
    frame = _with_default(frame, "track_id", tracks, name, "song")
    frame = _with_default(frame, "region", regions, name, "region")
    stray = ~frame["track_id"].isin(list(tracks))
    if stray.any():
        raise InputError(
            f"{name}: row {int(stray.argmax())}: track_id {frame['track_id'][stray.argmax()]!r} is not asked about"
        )
    if "date" not in frame:
        frame = frame.assign(
            date=_dates_of_periods(frame, period, name, dict(zip(tracks, releases, strict=True)), calendar)
        )
    return _settled(frame, name, calendar)


def history_rows(source: Source, tracks: pd.DataFrame, calendar: Calendar) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Earlier songs of the artists: their tracks (`track_id, song_id, title, artist`), and rows as `observed_rows`.

    Args:
        source: `track_id, region, date, streams`, a row a charted period; `rank` and `song_id` if known, `artist` where
            songs of several artists are asked about.
        tracks: `track_id, artist` asked about.
        calendar: Of the regions.

    Raises:
        InputError: Names the file, row and value of the first fault.
    """
    frame, name = read_table(source, "history")
    for column in ("track_id", "region", "date", "streams"):
        if column not in frame:
            raise InputError(f"{name}: no column {column}; present are {', '.join(map(str, frame))}")
    if len(tracks) == 1:
        frame = frame.assign(artist=tracks["artist"].iloc[0])
    frame = _with_default(frame, "artist", tracks["artist"].unique().tolist(), name, "artist")
    rows = _settled(frame, name, calendar)
    own = rows["track_id"].isin(tracks["track_id"])
    if own.any():
        raise InputError(
            f"{name}: row {int(own.argmax())}: track_id {rows['track_id'][own.argmax()]!r} is the song asked about; "
            "its own periods go with observed"
        )
    songs = frame["song_id"] if "song_id" in frame else frame["track_id"]
    about = pd.DataFrame({"track_id": rows["track_id"], "song_id": songs.astype("str"), "artist": frame["artist"]})
    return about.drop_duplicates("track_id").assign(title=None).reset_index(drop=True), rows


def _with_default(frame: pd.DataFrame, column: str, asked: Sequence[Any], name: str, noun: str) -> pd.DataFrame:
    if column in frame:
        return frame
    if len(asked) != 1:
        raise InputError(f"{name}: no column {column}, but {len(asked)} {noun}s are asked about")
    return frame.assign(**{column: asked[0]})


def _dates_of_periods(
    frame: pd.DataFrame, period: str, name: str, releases: Mapping[str, Any], calendar: Calendar
) -> list[np.datetime64]:
    numbers = pd.to_numeric(frame[period], errors="coerce").to_numpy(dtype=float)
    wrong = ~((numbers >= 0) & (numbers == np.floor(numbers)) & (numbers < 5000))
    if wrong.any():
        row = int(wrong.argmax())
        raise InputError(f"{name}: row {row}: {period} {shown(frame[period][row])} is no period; count from 0")
    dates = []
    for track, region, number in zip(frame["track_id"], frame["region"], numbers.astype(int), strict=True):
        if releases[track] is None:
            raise InputError(f"{name}: {period} counts from the release, which is not given; give it, or a column date")
        dates.append(
            calendar.period_of(releases[track], str(region)) + np.timedelta64(int(number) * calendar.days, "D")
        )
    return dates


def _settled(frame: pd.DataFrame, name: str, calendar: Calendar) -> pd.DataFrame:
    for column in ("track_id", "region"):
        if frame[column].isna().any():
            raise InputError(f"{name}: row {int(frame[column].isna().argmax())}: no {column}")
    rank = frame["rank"] if "rank" in frame else pd.Series(np.nan, frame.index)
    rows = pd.DataFrame(
        {
            "track_id": frame["track_id"].astype("str"),
            "region": frame["region"].astype("str").str.strip().str.upper(),
            "date": [parsed_date(value, f"{name}: row {row}: date") for row, value in enumerate(frame["date"])],
            "streams": _numbers(frame["streams"], name, 0, MOST_STREAMS),
            "rank": _numbers(rank, name, 1, np.inf),
        }
    )
    rows["date"] = rows["date"].astype("datetime64[s]")
    for row, (region, day) in enumerate(zip(rows["region"], rows["date"], strict=True)):
        if calendar.period_of(day, region) != np.datetime64(day, "D"):
            right = pd.Timestamp(calendar.period_of(day, region))
            raise InputError(
                f"{name}: row {row}: date {day.date()} is a {day.day_name()}, but weeks of {region} end on "
                f"{right.day_name()}s; the week that holds it is dated {right.date()}"
            )
    twice = rows.duplicated(["track_id", "region", "date"])
    if twice.any():
        track, region, day, *_ = rows.iloc[int(twice.argmax())]
        raise InputError(f"{name}: row {int(twice.argmax())}: {track} in {region} on {day.date()} is there twice")
    return rows


def _numbers(values: pd.Series, name: str, least: int, most: float) -> np.ndarray:
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(dtype=float)
    wrong = (np.isnan(numbers) & values.notna().to_numpy()) | (numbers < least) | np.isinf(numbers) | (numbers > most)
    if wrong.any():
        row = int(wrong.argmax())
        raise InputError(
            f"{name}: row {row}: {values.name} {shown(values.iloc[row])} is no number from {least} on"
            f"{'' if np.isinf(most) else f' and at most {most:g}'}; "
            "if it is unknown, leave it empty"
        )
    return numbers


def curves_of(rows: pd.DataFrame, seen: pd.DataFrame, lowest: np.ndarray, horizon: int, frequency: str) -> CurveArrays:
    """Observed periods on the grid of the songs' debuts, exactly as they were given.

    Args:
        rows: (n) `track_id, region, debut, observed`.
        seen: From `observed_rows`; rows of other songs, regions or dates are passed over.
        lowest: (n,) the charts' lowest, for periods below them.
        horizon: Periods of a curve.
        frequency: `W` or `D`.
    """
    shape = (len(rows), horizon)
    streams, rank = np.full(shape, np.nan), np.full(shape, np.nan)
    place = pd.MultiIndex.from_frame(rows[["track_id", "region"]].astype(object))
    at = place.get_indexer(pd.MultiIndex.from_frame(seen[["track_id", "region"]].astype(object)))
    debut = rows["debut"].to_numpy().astype("datetime64[D]")[at]
    period = (seen["date"].to_numpy().astype("datetime64[D]") - debut).astype(int) // PERIOD_DAYS[frequency]
    known = (at >= 0) & (period >= 0) & (period < rows["observed"].to_numpy()[at])
    streams[at[known], period[known]] = seen["streams"].to_numpy()[known]
    rank[at[known], period[known]] = seen["rank"].to_numpy()[known]
    state = np.where(streams > 0, OBSERVED, np.where(streams == 0, BELOW, UNKNOWN)).astype(np.int8)
    levels = np.broadcast_to(lowest[:, None], shape)
    # What the user saw stays as it is, even below what was the lowest when the model learnt.
    return CurveArrays(
        np.where(streams > 0, streams, np.nan), rank, state, levels, np.full(len(rows), np.nan), state == OBSERVED
    )


def dataset_with(
    base: DatasetFolder | None,
    tracks: pd.DataFrame,
    rows: pd.DataFrame,
    states: RegionStates,
    frequency: str,
    horizon: int,
) -> DatasetFolder:
    """A dataset that also holds what the user told, for a `History` of both.

    Where no chart is on hand on a date of these rows, or on the one before, the region's last one stands in, so that
    lives are measured in the unit of scale that the forecast itself uses.

    Args:
        base: A dataset, or None.
        tracks: `track_id, song_id, title, artist` of the rows' tracks.
        rows: As from `observed_rows`.
        states: Of the regions, one of each of the rows' regions at least.
        frequency, horizon: Where there is no dataset.
    """
    given = rows[(rows["streams"] > 0) | rows["rank"].notna()]
    charts = _charts_of(given, states, PERIOD_DAYS[frequency])
    curves = given[_ROW_COLUMNS].assign(rank=given["rank"].astype("Int32"))
    tracks = tracks.assign(isrc=None, release_date=pd.Series(pd.NaT, index=tracks.index, dtype="datetime64[s]"))
    if base is None:
        info = {"frequency": frequency, "horizon": horizon}
        return DatasetFolder(Path("the given rows"), info, tracks, curves, charts)
    assert base.curves is not None
    tracks = tracks[~tracks["track_id"].isin(base.tracks["track_id"])]
    # The user's own numbers of a song that the dataset holds too go before the dataset's.
    curves = pd.concat([curves, base.curves]).drop_duplicates(["track_id", "region", "date"])
    if base.charts is not None:
        charts = pd.concat([base.charts, charts]).drop_duplicates(["region", "date"])
    return replace(
        base,
        tracks=pd.concat([base.tracks, tracks], ignore_index=True),
        curves=curves.reset_index(drop=True),
        charts=charts.reset_index(drop=True) if base.charts is not None else None,
        splits=None,
        targets=None,
        previews=None,
    )


def _charts_of(rows: pd.DataFrame, states: RegionStates, days: int) -> pd.DataFrame:
    cells = pd.concat([rows, rows.assign(date=rows["date"] - pd.Timedelta(days=days), streams=np.inf)])
    # A song that charted with less than the last known lowest shows that the chart now reaches further down.
    least = cells.groupby(["region", "date"], as_index=False)["streams"].min()
    at = states.at(least["region"], least["date"])
    first = pd.Index(states.regions).get_indexer(pd.Index(least["region"]))
    at = np.where(at >= 0, at, np.searchsorted(states.place, first))
    floor, values = states.floor[at], states.values[at]
    lowest = floor * 10 ** values[:, STATE_FEATURES.index("log_lowest")]
    size = 10 ** values[:, STATE_FEATURES.index("log_size")]
    return least[["region", "date"]].assign(
        floor=floor,
        lowest=np.fmin(lowest, least["streams"].to_numpy()),
        size=pd.Series(np.rint(size), index=least.index).astype("Int32"),
    )
