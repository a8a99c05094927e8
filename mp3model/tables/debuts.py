"""Kept debuts, or songs that have a past on a day, in; their rows, cut-offs and curves, a song's together, out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pandas as pd

from mp3model.files import InputError
from mp3model.tables.curves import PERIOD_DAYS, CurveArrays, charted_rows, curve_arrays, period_dates, taken, with_songs
from mp3model.tables.folder import DatasetFolder
from mp3model.tables.history import same_period_last_year
from mp3model.tables.splits import first_rows
from mp3model.tables.tracks import artist_keys, guest_keys

# How often rows of running songs are learnt from. Most songs that left the charts never return, so one of them counts
# half of one on the chart; but in October and November, before the songs of Christmas come back, four times.
OFF_THE_CHART, BEFORE_CHRISTMAS = 0.5, 4.0
_GOLDEN = (5**0.5 - 1) / 2


def debut_rows(dataset: DatasetFolder, splits: pd.DataFrame | None = None) -> pd.DataFrame:
    """The kept debuts with all that asking for their forecast takes.

    Args:
        dataset: With curves and tracks.
        splits: `track_id, region, debut, split`; None takes the dataset's.

    Returns:
        `song_id, track_id, artist` (its key), `guests` (keys of whom else the track credits), `region, debut,
        release_date, split`, sorted by song, region and debut. The release is the earliest of the song's versions, no
        later than the debut.
    """
    splits = dataset.splits if splits is None else splits
    if splits is None:
        raise InputError(f"{dataset.path}: has no splits.parquet; make one by mp3model.tables.splits.make_splits")
    rows = splits.merge(dataset.tracks[["track_id", "song_id"]], on="track_id", how="left").join(
        _about_songs(dataset.tracks), on="song_id"
    )
    rows = _with_guests(rows, dataset.tracks)
    rows = rows[["song_id", "track_id", "artist", "guests", "region", "debut", "release_date", "split"]]
    return rows.sort_values(["song_id", "region", "debut"], kind="stable").reset_index(drop=True)


def _about_songs(tracks: pd.DataFrame) -> pd.DataFrame:
    """Each song's `artist` (its key) and earliest `release_date`."""
    tracks = tracks.assign(key=artist_keys(tracks))
    return tracks.groupby("song_id").agg(artist=("key", "first"), release_date=("release_date", "min"))


def _with_guests(rows: pd.DataFrame, tracks: pd.DataFrame) -> pd.DataFrame:
    """Rows with `guests` of their own track: another version may name people who joined the song later."""
    return rows.assign(guests=rows["track_id"].map(pd.Series(guest_keys(tracks).to_numpy(), tracks["track_id"])))


@dataclass(frozen=True)
class _Candidates:
    """Songs with a past on some days: (n,) codes of songs and regions, days since 1970, and whether they chart then."""

    song: np.ndarray
    region: np.ndarray
    origin: np.ndarray
    on_chart: np.ndarray
    songs: pd.Index
    regions: pd.Index

    def chosen(self, kept: np.ndarray) -> _Candidates:
        return replace(
            self,
            song=self.song[kept],
            region=self.region[kept],
            origin=self.origin[kept],
            on_chart=self.on_chart[kept],
        )


def running_rows(
    dataset: DatasetFolder,
    origins: Any,
    horizon: int | None = None,
    regions: Sequence[str] | None = None,
    returning: bool = True,
) -> pd.DataFrame:
    """The songs that have a past in a region on a day, to be forecast from the period after it.

    They are those on the region's chart that day and, with `returning`, those that charted there in the periods of a
    year ago that the horizon will meet (the same days before or after 25 December): songs of Christmas are among them.
    Songs still within the horizon of their debut are too. Nothing dated after the day decides who is.

    Args:
        dataset: With curves and tracks.
        origins: Days; a region without a chart on one of them has no rows of it.
        horizon: Periods to forecast; None takes the dataset's.
        regions: Names; None takes all.
        returning: Whether songs that are off the chart count.

    Returns:
        `song_id, track_id, artist, guests, region, debut, release_date, split, observed, cutoff, on_chart`, sorted by
        song, region and debut: `debut` is the period after the origin, `cutoff` the origin, `observed` 0, `split`
        `none`.

    Raises:
        InputError: If no region has a chart on any of the days.
    """
    horizon = dataset.horizon if horizon is None else horizon
    found = _candidates(dataset, np.unique(_days(np.atleast_1d(origins))), horizon, regions, returning)
    return _rows_of(dataset, found)


def _days(dates: Any) -> np.ndarray:
    return np.asarray(dates, dtype="datetime64[D]").astype(np.int64)


def _candidates(
    dataset: DatasetFolder, origins: np.ndarray, horizon: int, regions: Sequence[str] | None, returning: bool
) -> _Candidates:
    if dataset.curves is None:
        raise InputError(f"{dataset.path}: has no curves.parquet; running songs need dated rows")
    rows = with_songs(dataset.curves[["track_id", "region", "date"]][charted_rows(dataset)], dataset.tracks)
    charts = rows if dataset.charts is None else dataset.charts
    # By name, so that the tables' order moves nothing.
    song, songs = pd.factorize(rows["song_id"], sort=True)
    region, names = pd.factorize(rows["region"], sort=True)
    day = _days(rows["date"])
    parts: list[tuple[np.ndarray, int, int, bool]] = []
    for place, name in enumerate(names):
        if regions is not None and name not in regions:
            continue
        own = np.flatnonzero(region == place)
        own = own[np.argsort(day[own], kind="stable")]
        days, ids = day[own], song[own]
        for origin in np.intersect1d(origins, _days(charts.loc[charts["region"] == name, "date"])):

            def between(first: int, last: int, days: np.ndarray = days, ids: np.ndarray = ids) -> np.ndarray:
                return np.unique(ids[np.searchsorted(days, first) : np.searchsorted(days, last, side="right")])

            here = between(origin, origin)
            parts.append((here, place, origin, True))
            if returning:
                met = _met_last_year(int(origin), horizon, dataset.frequency)
                parts.append((np.setdiff1d(between(met[0], min(met[1], int(origin))), here), place, origin, False))
    if not parts:
        shown = ", ".join(str(np.datetime64(int(origin), "D")) for origin in origins[:3])
        raise InputError(f"{dataset.path}: no region asked for has a chart on {shown}; name a day on which charts end")
    sizes = [len(part[0]) for part in parts]
    region_of, origin_of, here = (np.repeat([part[column] for part in parts], sizes) for column in (1, 2, 3))
    return _Candidates(
        np.concatenate([part[0] for part in parts]), region_of, origin_of, here, pd.Index(songs), pd.Index(names)
    )


def _met_last_year(origin: int, horizon: int, frequency: str) -> tuple[int, int]:
    """First and last day of the periods of a year ago that the horizon after a day will meet."""
    begin = np.datetime64(origin + PERIOD_DAYS[frequency], "D")
    met = _days(same_period_last_year(period_dates(begin, horizon, frequency), frequency))
    return int(met.min()), int(met.max())


def _rows_of(dataset: DatasetFolder, found: _Candidates, **more: Any) -> pd.DataFrame:
    pairs = first_rows(dataset)
    places = (found.songs.get_indexer(pd.Index(pairs["song_id"])), found.regions.get_indexer(pd.Index(pairs["region"])))
    key = _pair(*places, found)
    track = pd.Series(pairs["track_id"].to_numpy(), index=key)
    rows = pd.DataFrame(
        {
            "song_id": found.songs[found.song],
            "track_id": track.reindex(_pair(found.song, found.region, found)).to_numpy(),
            "region": found.regions[found.region],
            "cutoff": found.origin.astype("datetime64[D]").astype("datetime64[s]"),
            "on_chart": found.on_chart.astype(bool),
        }
    ).join(_about_songs(dataset.tracks), on="song_id")
    period = np.timedelta64(PERIOD_DAYS[dataset.frequency], "D")
    rows = _with_guests(rows, dataset.tracks).assign(debut=rows["cutoff"] + period, split="none", observed=0)
    columns = ["song_id", "track_id", "artist", "guests", "region", "debut", "release_date", "split", "observed"]
    rows = rows[[*columns, "cutoff", "on_chart"]].assign(**more)
    return rows.sort_values(["song_id", "region", "debut"], kind="stable").reset_index(drop=True)


def _pair(song: np.ndarray, region: np.ndarray, found: _Candidates) -> np.ndarray:
    return song * (len(found.regions) + 1) + region


def training_rows_of_running_songs(
    dataset: DatasetFolder,
    share: float,
    epochs: int,
    horizon: int | None = None,
    regions: Sequence[str] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Rows of `running_rows` to learn from and to validate on, sampled without a look at what became of them.

    Training rows are those whose whole horizon ends before the first validation debut, validation rows those whose
    first period is no earlier and whose horizon ends before the first test debut. As in the splits, a song that
    validates or tests does not train here, one that tests does not validate, and one that trains validates only after
    its last training period.

    Every chart day of a region is an origin. How often a row is seen follows from whether it is on the chart and from
    the month (`OFF_THE_CHART`, `BEFORE_CHRISTMAS`), and in which epochs from (seed, song, region, origin).

    Args:
        dataset: With curves and splits.
        share: Rows an epoch over debuts, for each split.
        epochs: Of the training.
        horizon, regions: As for `running_rows`.
        seed: Of the sample.

    Returns:
        As of `running_rows`, `split` being `train` or `validation`, with `luck` and `chance`, see `seen_in_epoch`; only
        rows that some epoch sees.
    """
    assert dataset.splits is not None
    assert dataset.curves is not None
    horizon = dataset.horizon if horizon is None else horizon
    splits = dataset.splits if regions is None else dataset.splits[dataset.splits["region"].isin(regions)]
    debut = {name: rows["debut"] for name, rows in splits.groupby("split")}
    if "train" not in debut or "validation" not in debut:
        raise InputError(f"{dataset.path}: running songs are learnt from beside training and validation debuts")
    span = PERIOD_DAYS[dataset.frequency] * horizon
    validation = int(_days(debut["validation"].min()))
    # A split of which nothing tests ends where its debuts do.
    test = int(_days(debut["test"].min())) if "test" in debut else int(_days(debut["validation"].max())) + span
    dates = (dataset.charts if dataset.charts is not None else dataset.curves)["date"]
    days = np.unique(_days(dates))
    sides = dataset.splits.merge(dataset.tracks[["track_id", "song_id"]], on="track_id")
    trained_until = sides[sides["split"] == "train"].groupby("song_id")["debut"].max()
    parts = []
    for split, first, end, barred in (
        ("train", None, validation, ("validation", "test")),
        ("validation", validation, test, ("test",)),
    ):
        begin = days + PERIOD_DAYS[dataset.frequency]
        origins = days[(begin + span - PERIOD_DAYS[dataset.frequency] < end) & ((begin >= first) if first else True)]
        if not len(origins):
            continue
        found = _candidates(dataset, origins, horizon, regions, True)
        kept = ~found.songs.isin(sides.loc[sides["split"].isin(barred), "song_id"])[found.song]
        if split == "validation":
            until = _days(trained_until.reindex(found.songs).fillna(pd.Timestamp(0)).to_numpy()) + span
            kept &= until[found.song] <= found.origin + PERIOD_DAYS[dataset.frequency]
        found = found.chosen(kept)
        luck, chance = _luck(found, seed), _chance(found, share * len(debut[split]))
        kept = np.any([seen_in_epoch(luck, chance, epoch) for epoch in range(epochs)], axis=0)
        parts.append(_rows_of(dataset, found.chosen(kept), split=split, luck=luck[kept], chance=chance[kept]))
    return pd.concat(parts).sort_values(["song_id", "region", "debut"], kind="stable").reset_index(drop=True)


def seen_in_epoch(luck: np.ndarray, chance: np.ndarray, epoch: int) -> np.ndarray:
    """Which rows an epoch sees: (n,) numbers in [0, 1) and how often each is seen → (n,) bool.

    The numbers are turned by the golden ratio every epoch, which spreads a row's turns evenly over the epochs.
    """
    return (luck + epoch * _GOLDEN) % 1.0 < chance


def _chance(found: _Candidates, rows: float) -> np.ndarray:
    """How often each candidate is seen, so that an epoch sees about so many: (n,)."""
    month = found.origin.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64) % 12 + 1
    off = np.where(np.isin(month, (10, 11)), BEFORE_CHRISTMAS, OFF_THE_CHART)
    weight = np.where(found.on_chart, 1.0, off)
    return np.minimum(weight * rows / max(weight.sum(), 1e-9), 1.0)


def _luck(found: _Candidates, seed: int) -> np.ndarray:
    """A number in [0, 1) from (seed, song, region, origin): (n,)."""

    def hashed(names: pd.Index) -> np.ndarray:
        digests = (hashlib.blake2b(f"{seed}\0{name}".encode(), digest_size=8).digest() for name in names)
        return np.fromiter((int.from_bytes(digest, "big") for digest in digests), np.uint64, len(names))

    mixed = hashed(found.songs)[found.song] ^ (hashed(found.regions)[found.region] * np.uint64(0x9E3779B97F4A7C15))
    mixed = mixed + found.origin.astype(np.uint64) * np.uint64(0xD1B54A32D192ED03)
    # The finaliser of splitmix64 (Steele, Lea and Flood 2014): every bit in moves every bit out.
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return (mixed ^ (mixed >> np.uint64(31))).astype(float) / 2.0**64


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

    @classmethod
    def of(cls, rows: pd.DataFrame, curves: CurveArrays, descriptors: np.ndarray | None = None) -> Debuts:
        """Rows, a song's together, with their curves and descriptors."""
        return _debuts(rows, curves, descriptors)

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

    def evenly(self, most: int) -> Debuts:
        """At most so many rows, evenly among them."""
        return self.chosen(evenly(len(self.rows), most))


def evenly(rows: int, most: int) -> np.ndarray:
    """Marks at most so many of some rows, evenly among them: (rows,) bool."""
    kept = np.zeros(rows, bool)
    kept[np.unique(np.linspace(0, rows - 1, min(rows, most)).astype(int))] = True
    return kept


def _debuts(rows: pd.DataFrame, curves: CurveArrays, descriptors: np.ndarray | None) -> Debuts:
    codes, songs = pd.factorize(rows["song_id"])
    starts = np.append(np.flatnonzero(np.append(True, codes[1:] != codes[:-1])) if len(rows) else [], len(rows))
    return Debuts(rows, curves, [str(song) for song in songs], starts.astype(np.int64), descriptors)


def recency(debut: np.ndarray, half_life: float) -> np.ndarray:
    """How much each debut counts if one counts half as much as one so many years later; the last counts 1: (n,)."""
    days = debut.astype("datetime64[D]").astype(np.int64)
    return 0.5 ** ((days.max(initial=0) - days) / (365 * half_life))


def joined(one: Debuts, other: Debuts) -> Debuts:
    """The rows of both, a song's together; what a row of one has no column for is missing there."""
    rows = pd.concat([one.rows, other.rows], ignore_index=True)
    order = np.lexsort([pd.factorize(rows[name], sort=True)[0] for name in ("debut", "region", "song_id")])
    curves = CurveArrays(
        **{
            part.name: np.concatenate([getattr(one.curves, part.name), getattr(other.curves, part.name)])
            for part in fields(CurveArrays)
        }
    )
    descriptors = None
    if one.descriptors is not None and other.descriptors is not None:
        descriptors = np.concatenate([one.descriptors, other.descriptors])[order]
    return _debuts(rows.iloc[order].reset_index(drop=True), taken(curves, order), descriptors)


def debuts_of(
    dataset: DatasetFolder, rows: pd.DataFrame, horizon: int, descriptors: np.ndarray | None = None
) -> Debuts:
    """Gathers the curves of rows from `debut_rows`."""
    return _debuts(rows.reset_index(drop=True), curve_arrays(dataset, rows, horizon), descriptors)
