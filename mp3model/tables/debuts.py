"""Kept debuts in; their rows, cut-offs and curves, a song's together, out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mp3model.files import InputError
from mp3model.tables.curves import PERIOD_DAYS, CurveArrays, curve_arrays, taken
from mp3model.tables.folder import DatasetFolder
from mp3model.tables.tracks import artist_keys


def debut_rows(dataset: DatasetFolder, splits: pd.DataFrame | None = None) -> pd.DataFrame:
    """The kept debuts with all that asking for their forecast takes.

    Args:
        dataset: With curves and tracks.
        splits: `track_id, region, debut, split`; None takes the dataset's.

    Returns:
        `song_id, track_id, artist` (its key), `region, debut, release_date, split`, sorted by song, region and debut.
        The release is the earliest of the song's versions, no later than the debut.
    """
    splits = dataset.splits if splits is None else splits
    if splits is None:
        raise InputError(f"{dataset.path}: has no splits.parquet; make one by mp3model.tables.splits.make_splits")
    tracks = dataset.tracks.assign(key=artist_keys(dataset.tracks))
    songs = tracks.groupby("song_id").agg(artist=("key", "first"), release_date=("release_date", "min"))
    rows = splits.merge(tracks[["track_id", "song_id"]], on="track_id", how="left")
    rows = rows.join(songs, on="song_id")
    rows = rows[["song_id", "track_id", "artist", "region", "debut", "release_date", "split"]]
    return rows.sort_values(["song_id", "region", "debut"], kind="stable").reset_index(drop=True)


def with_cutoff(rows: pd.DataFrame, observed: np.ndarray | int, frequency: str) -> pd.DataFrame:
    """Adds `observed` and `cutoff`: the last day of the period before debut, or of the last observed period."""
    observed = np.broadcast_to(np.asarray(observed, dtype=np.int64), len(rows))
    days = ((observed - 1) * PERIOD_DAYS[frequency]).astype("timedelta64[D]")
    return rows.assign(observed=observed, cutoff=rows["debut"].to_numpy().astype("datetime64[D]") + days)


@dataclass
class Debuts:
    """Debuts of some songs: rows, their curves, and where each song's rows lie.

    Attributes:
        rows: From `debut_rows`, a song's rows together.
        curves: Their curves over the horizon, in the same order.
        songs: Names, in the order of the rows.
        starts: (songs + 1,) position of each song's first row.
        descriptors: (rows, descriptors) standardised, NaN for rows without; None where the model takes none.
    """

    rows: pd.DataFrame
    curves: CurveArrays
    songs: list[str]
    starts: np.ndarray
    descriptors: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.songs)

    def of_songs(self, songs: Sequence[int] | np.ndarray) -> np.ndarray:
        """Positions of the rows of these songs, in their order."""
        return np.concatenate([np.arange(self.starts[song], self.starts[song + 1]) for song in songs])

    def of_split(self, *splits: str) -> Debuts:
        """The debuts of some splits."""
        return self.chosen(self.rows["split"].isin(splits).to_numpy())

    def of_kept_songs(self, kept: np.ndarray) -> Debuts:
        """The debuts of the songs that a mask over songs marks."""
        return self.chosen(np.repeat(kept, np.diff(self.starts)))

    def chosen(self, kept: np.ndarray) -> Debuts:
        """Only the rows that a mask marks."""
        rows = np.flatnonzero(kept)
        descriptors = None if self.descriptors is None else self.descriptors[rows]
        return _debuts(self.rows.iloc[rows].reset_index(drop=True), taken(self.curves, rows), descriptors)


def _debuts(rows: pd.DataFrame, curves: CurveArrays, descriptors: np.ndarray | None) -> Debuts:
    codes, songs = pd.factorize(rows["song_id"])
    starts = np.append(np.flatnonzero(np.append(True, codes[1:] != codes[:-1])) if len(rows) else [], len(rows))
    return Debuts(rows, curves, [str(song) for song in songs], starts.astype(np.int64), descriptors)


def debuts_of(
    dataset: DatasetFolder, rows: pd.DataFrame, horizon: int, descriptors: np.ndarray | None = None
) -> Debuts:
    """Gathers the curves of rows from `debut_rows`."""
    return _debuts(rows.reset_index(drop=True), curve_arrays(dataset, rows, horizon), descriptors)
