"""A dataset folder and cut-off days in, what was known on those days out: regions' state, lives of related songs.

A *life* is one song in one region from its first charted period on. Everything asked here takes a cut-off and answers
from rows dated on or before it, whichever region they lie in; nothing later can move an answer, not even a count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mp3model.files import InputError
from mp3model.tables.calendar import days_from_christmas
from mp3model.tables.curves import (
    BELOW,
    OBSERVED,
    PERIOD_DAYS,
    UNKNOWN,
    charted_rows,
    curve_arrays,
    floors,
    with_songs,
)
from mp3model.tables.folder import DatasetFolder
from mp3model.tables.splits import first_rows
from mp3model.tables.tracks import artist_keys, guest_keys

# A life's age beyond this many periods is told by its age alone.
LIFE_PERIODS = 26
# What a song streams below the chart is unknown; half of the chart's lowest stands in where a number is needed.
BELOW_SHARE = 0.5
# Periods of settled lives that a region's climate is averaged over, and of debuts.
CLIMATE_PERIODS, ARRIVAL_PERIODS = 26, 8
# Age in periods at which the lives of `ARRIVAL_PERIODS` are asked what became of them: gone at once, and so far.
FIRST_AGE, EARLY_AGE = 1, 3

STATE_FEATURES = (
    "log_floor",
    "log_lowest",
    "log_size",
    "log_growth",
    "mean_total",
    "spread_total",
    "mean_length",
    "share_of_one",
    "mean_debut",
    "arrivals",
    "recent_gone",
    "recent_length",
    "recent_total",
)
LIFE_FEATURES = ("debut", "last", "before", "peak", "total", "length", "on_chart", "log_age")


def _days(dates: Any) -> np.ndarray:
    return np.asarray(dates, dtype="datetime64[D]").astype(np.int64)


@dataclass(frozen=True)
class RegionStates:
    """What a region's charts looked like, by region and day.

    Attributes:
        regions: Names.
        place: (states,) position of each state's region in `regions`, ascending.
        day: (states,) chart date in days since 1970, ascending within a region.
        floor: (states,) unit of scale in streams, never NaN.
        values: (states, features) in the order of `STATE_FEATURES`.
    """

    regions: tuple[str, ...]
    place: np.ndarray
    day: np.ndarray
    floor: np.ndarray
    values: np.ndarray

    def at(self, regions: Any, cutoff: Any) -> np.ndarray:
        """Position of the last state on or before each cut-off, −1 where there is none: (n,) int64."""
        index = pd.Index(self.regions).get_indexer(pd.Index(np.asarray(regions, dtype=object)))
        day = _days(cutoff)
        # One ascending key for (region, day), so that a single search answers all rows.
        origin = int(min(self.day.min(initial=0), day.min(initial=0)))
        width = int(max(self.day.max(initial=0), day.max(initial=0))) - origin + 2
        key = self.place * width + (self.day - origin)
        found = np.searchsorted(key, index * width + (day - origin), side="right") - 1
        known = (found >= 0) & (index >= 0)
        known[known] = self.place[found[known]] == index[known]
        return np.where(known, found, -1)

    def positions(self, rows: pd.DataFrame) -> np.ndarray:
        """`at` for rows with `region` and `cutoff`, each of which must have a state: (n,) int64.

        Raises:
            InputError: If a region has no state on or before its cut-off, so that its scale is unknown.
        """
        position = self.at(rows["region"], rows["cutoff"])
        if (position < 0).any():
            row = rows.iloc[int(np.flatnonzero(position < 0)[0])]
            raise InputError(
                f"region {row['region']} has no chart or streams on or before {pd.Timestamp(row['cutoff']).date()}, so "
                f"its scale is unknown; known regions are {', '.join(self.regions) or 'none'}"
            )
        return position

    def last(self) -> dict[str, dict[str, Any]]:
        """The latest state of each region as JSON values, for a model that forecasts without the dataset."""
        ends = np.flatnonzero(np.diff(self.place, append=-1))
        return {
            self.regions[self.place[end]]: {
                "date": str(np.datetime64(int(self.day[end]), "D")),
                "floor": float(self.floor[end]),
                "values": [float(value) for value in self.values[end]],
            }
            for end in ends
        }

    @classmethod
    def from_last(cls, states: dict[str, dict[str, Any]]) -> RegionStates:
        """The inverse of `last`.

        Raises:
            InputError: If another version remembered other figures.
        """
        for region, state in states.items():
            if len(state["values"]) != len(STATE_FEATURES):
                raise InputError(
                    f"the model remembers {len(state['values'])} figures of region {region}, this version reads "
                    f"{len(STATE_FEATURES)}; train it again"
                )
        regions = tuple(sorted(states))
        values = np.array([states[region]["values"] for region in regions], dtype=float)
        return cls(
            regions,
            np.arange(len(regions)),
            _days([states[region]["date"] for region in regions]),
            np.array([states[region]["floor"] for region in regions], dtype=float),
            values.reshape(len(regions), len(STATE_FEATURES)),
        )


def same_period_last_year(dates: Any, frequency: str) -> np.ndarray:
    """The period a year earlier that lies as far from 25 December, or nearest to as far: any shape → datetime64[D].

    Chart weeks end on one weekday, so the week of last year is always 52 weeks earlier, a day or two nearer to or
    further from Christmas; a day's is the same date but for leap years.

    Args:
        dates: Last days of periods.
        frequency: `W` or `D`.
    """
    dates = np.asarray(dates, dtype="datetime64[D]")
    christmas = dates - days_from_christmas(dates)
    previous = ((christmas.astype("datetime64[Y]") - 1).astype("datetime64[M]") + 11).astype("datetime64[D]") + 24
    days = PERIOD_DAYS[frequency]
    back = np.rint((christmas - previous).astype(np.int64) / days).astype(np.int64) * days
    return dates - back


@dataclass(frozen=True)
class Lives:
    """n lives over at most `LIFE_PERIODS` periods.

    Attributes:
        song, artist, region: (n,) codes into the names below.
        debut: (n,) last day of the first charted period, days since 1970.
        floor: (n,) streams, the unit of scale of the life's values.
        features: (n, periods, features) as of each age, `LIFE_FEATURES` in log10 of floor units.
        guest_life, guest: (m,) the lives whose track credits someone beside its main artist, and whom: a code.
        songs, artists, regions: Names.
    """

    song: np.ndarray
    artist: np.ndarray
    region: np.ndarray
    debut: np.ndarray
    floor: np.ndarray
    features: np.ndarray
    guest_life: np.ndarray
    guest: np.ndarray
    songs: pd.Index
    artists: pd.Index
    regions: pd.Index


class Related:
    """Lives sorted by a group and by debut: the most recent ones of a group on a day, in one search.

    Args:
        group: (n,) code of each life's group.
        debut: (n,) days since 1970.
    """

    def __init__(self, group: np.ndarray, debut: np.ndarray) -> None:
        # Stable, so that lives of one day keep their order, which does not depend on later rows.
        self.order = np.lexsort((debut, group))
        self.first_day = int(debut.min(initial=0))
        self.width = int(debut.max(initial=0)) - self.first_day + 2
        self.group = group[self.order]
        self.key = self.group * self.width + (debut[self.order] - self.first_day)

    def recent(self, group: np.ndarray, day: np.ndarray, most: int) -> np.ndarray:
        """Lives of each group with debut on or before each day, latest first: (rows, most), −1 where there are fewer.

        A negative group has none.
        """
        offset = np.clip(day - self.first_day, -1, self.width - 1)
        end = np.searchsorted(self.key, group * self.width + offset, side="right")
        position = end[:, None] - 1 - np.arange(most)
        inside = (position >= 0) & (group >= 0)[:, None]
        inside[inside] = self.group[position[inside]] == np.broadcast_to(group[:, None], position.shape)[inside]
        return np.where(inside, self.order[np.where(inside, position, 0)] if len(self.order) else -1, -1)


@dataclass(frozen=True)
class Past:
    """What each song did in each region up to a day.

    Attributes:
        charted: (n,) periods on a chart, 0 for a song without a past; the others count only where it is above 0.
        first: (n,) last day of the first period with a row, days since 1970.
        peak: (n,) most streams of a period, NaN where no streams are known.
        total: (n,) streams of all periods together.
    """

    charted: np.ndarray
    first: np.ndarray
    peak: np.ndarray
    total: np.ndarray


class Weeks:
    """Every period of every song in every region, versions merged, sorted by (song, region, day).

    A row takes 28 bytes, so that millions fit beside a training run.

    Args:
        dataset: With curves.
        songs, regions: Names, whose places are the codes below.
    """

    def __init__(self, dataset: DatasetFolder, songs: pd.Index, regions: pd.Index) -> None:
        assert dataset.curves is not None
        curves = with_songs(dataset.curves, dataset.tracks)
        self.songs, self.regions = songs, regions
        day = _days(curves["date"])
        self.first_day = int(day.min(initial=0))
        # A place before the first day and one after the last, which hold no row, answer all other days.
        self.width = int(day.max(initial=0)) - self.first_day + 3
        song, region = _places(songs, curves["song_id"]), _places(regions, curves["region"])
        streams = curves["streams"].to_numpy(dtype=float)
        charted = charted_rows(dataset)
        # A period known to hold nothing is as one below the chart.
        kept = np.flatnonzero((song >= 0) & (region >= 0) & (charted | np.isnan(streams) | (streams > 0)))
        key = (song[kept] * len(regions) + region[kept]) * self.width + (day[kept] - self.first_day + 1)
        self.key, version_of = np.unique(key, return_inverse=True)
        # Versions are added up; NaN in any of them makes the sum NaN.
        self.streams = np.bincount(version_of, streams[kept], len(self.key)).astype(np.float32)
        on_chart = np.bincount(version_of, charted[kept], len(self.key)) > 0
        self._sum(on_chart)
        # Songs and days, and in how many regions a song charted that day: it matters of songs that come back.
        pair, offset = np.divmod(self.key[on_chart], self.width)
        song_day = pair // max(len(regions), 1) * self.width + offset
        self.spread_key, self.spread = np.unique(song_day, return_counts=True)
        self.charts: np.ndarray | None = None
        if dataset.charts is not None:
            place, dates = _places(regions, dataset.charts["region"]), _days(dataset.charts["date"])
            inside = (place >= 0) & (dates >= self.first_day) & (dates - self.first_day < self.width - 2)
            self.charts = np.sort(place[inside] * self.width + (dates[inside] - self.first_day + 1))
        with_chart = (
            np.unique(pair % max(len(regions), 1) * self.width + offset) if self.charts is None else self.charts
        )
        self.regions_on = np.bincount(with_chart % self.width, minlength=self.width)

    def _sum(self, on_chart: np.ndarray) -> None:
        """Peak, total and number of charted periods of each song and region up to and with each row."""
        pair = self.key // self.width
        head = np.append(True, pair[1:] != pair[:-1])[: len(pair)]
        begin = np.maximum.accumulate(np.where(head, np.arange(len(pair)), 0))
        known = np.nan_to_num(self.streams.astype(float))

        def running(values: np.ndarray) -> np.ndarray:
            summed = np.append(0.0, values.cumsum())
            return summed[1:] - summed[begin]

        self.total = running(known)
        self.charted = running(on_chart).astype(np.int32)
        # Each pair lifted above all before it, so that one running maximum serves them all.
        lift = 2.0 * max(float(known.max(initial=0)), 1.0) * np.cumsum(head)
        self.peak = (np.maximum.accumulate(known + lift) - lift).astype(np.float32)

    def codes(self, songs: Any, regions: Any) -> np.ndarray:
        """One code a (song, region), −1 where either is unknown: (n,) int64."""
        song, region = _places(self.songs, songs), _places(self.regions, regions)
        return np.where((song >= 0) & (region >= 0), song * len(self.regions) + region, -1)

    def _offset(self, day: np.ndarray) -> np.ndarray:
        return np.clip(day - self.first_day + 1, 0, self.width - 1)

    def at(self, codes: np.ndarray, day: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Streams and states (`OBSERVED`, `BELOW`, `UNKNOWN`) on days: (n,), (n, periods) → twice (n, periods).

        Streams are NaN unless observed. Whoever asks sees to it that no day lies after the cut-off.
        """
        codes = np.broadcast_to(codes[:, None], day.shape)
        wanted = codes * self.width + self._offset(day)
        place = _place(self.key, np.where(codes >= 0, wanted, -1))
        found = place >= 0
        streams = np.append(self.streams, np.float32(np.nan))[place]
        on_hand = np.zeros(day.shape, bool)
        if self.charts is not None:
            chart = codes % max(len(self.regions), 1) * self.width + self._offset(day)
            on_hand = _place(self.charts, np.where(codes >= 0, chart, -1)) >= 0
        empty = np.where(on_hand, BELOW, UNKNOWN)
        return streams, np.where(found, np.where(np.isnan(streams), UNKNOWN, OBSERVED), empty).astype(np.int8)

    def spread_at(self, codes: np.ndarray, day: np.ndarray) -> np.ndarray:
        """Share of the regions with a chart on each day that charted the song: (n,), (n, periods) → (n, periods).

        0 where no region has a chart. Whoever asks sees to it that no day lies after the cut-off.
        """
        codes = np.broadcast_to(codes[:, None], day.shape)
        offset = self._offset(day)
        place = _place(
            self.spread_key, np.where(codes >= 0, codes // max(len(self.regions), 1) * self.width + offset, -1)
        )
        # Rows of a region without a chart that day may add to the count.
        return np.minimum(np.append(self.spread, 0)[place] / np.maximum(self.regions_on[offset], 1), 1.0)

    def until(self, codes: np.ndarray, day: np.ndarray) -> Past:
        """What was known at the end of each day: (n,) codes, (n,) days."""
        base = codes * self.width
        last = np.searchsorted(self.key, base + self._offset(day), side="right") - 1
        first = np.searchsorted(self.key, base, side="left")
        known = (codes >= 0) & (last >= first)
        place, begin = np.where(known, last, 0), np.where(known, first, 0)
        if not len(self.key):
            empty = np.zeros(len(codes))
            return Past(empty.astype(np.int32), empty.astype(np.int64), empty + np.nan, empty)
        peak = np.where(known, self.peak[place], 0).astype(float)
        return Past(
            np.where(known, self.charted[place], 0),
            np.where(known, self.key[begin] % self.width - 1 + self.first_day, 0),
            np.where(peak > 0, peak, np.nan),
            np.where(known, self.total[place], 0.0),
        )


def _places(index: pd.Index, values: Any) -> np.ndarray:
    """Places of names in an index, −1 where they are not in it: (n,) int64."""
    codes, names = pd.factorize(pd.Series(values))
    return np.append(index.get_indexer(pd.Index(names)), -1)[codes].astype(np.int64)


def _place(keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where each key stands among ascending ones, −1 where it does not: any shape."""
    if not len(keys):
        return np.full(wanted.shape, -1)
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, place, -1)


class History:
    """All lives of a dataset, what each song did by week, and the state of its regions, asked as of a cut-off.

    Args:
        dataset: With curves.
        scales: Unit of scale in streams of regions without a chart on hand; None takes the 5 % quantile of the
            region's streams, which is right only for data that nothing is held out of.

    Raises:
        InputError: If the dataset has no curves.
    """

    def __init__(self, dataset: DatasetFolder, scales: dict[str, float] | None = None) -> None:
        if dataset.curves is None:
            raise InputError(f"{dataset.path}: has no curves.parquet; a history needs dated rows")
        self.frequency, self.horizon = dataset.frequency, dataset.horizon
        self.days = PERIOD_DAYS[dataset.frequency]
        self.scales = scales if scales is not None else region_scales(dataset)
        self.lives = _lives(dataset, self.scales)
        self.states = _states(dataset, self.lives, self.scales)
        lives = self.lives
        self.weeks = Weeks(dataset, lives.songs, lives.regions)
        regions = len(lives.regions)
        self._by_song = Related(lives.song, lives.debut)
        self._by_artist_here = Related(lives.artist * regions + lives.region, lives.debut)
        self._by_artist = Related(lives.artist, lives.debut)
        # Who is credited for which life: main artists, then guests.
        life = self._credit_life = np.append(np.arange(len(lives.debut)), lives.guest_life)
        credited = np.append(lives.artist, lives.guest)
        self._by_credit_here = Related(credited * regions + lives.region[life], lives.debut[life])
        self._by_credit = Related(credited, lives.debut[life])

    def life_features(self, lives: np.ndarray, cutoff: np.ndarray) -> np.ndarray:
        """(rows, most) lives and (rows,) cut-off days → (rows, most, features) as of them; 0 where there is no life."""
        known = lives >= 0
        chosen = np.where(known, lives, 0)
        if not len(self.lives.debut):
            return np.zeros((*lives.shape, len(LIFE_FEATURES)), np.float32)
        age = (cutoff[:, None] - self.lives.debut[chosen]) // self.days
        at = np.clip(age, 0, self.lives.features.shape[1] - 1)
        features = self.lives.features[chosen, at]
        features[..., -1] = np.log1p(np.maximum(age, 0))
        return np.where(known[..., None], features, 0).astype(np.float32)

    def other_regions(self, songs: Any, regions: Any, cutoff: np.ndarray, most: int) -> np.ndarray:
        """Lives of the same song in other regions that began by the cut-off: (rows, most)."""
        lives = self._by_song.recent(self.lives.songs.get_indexer(songs), cutoff, most + 1)
        here = self.lives.regions.get_indexer(regions)
        return _packed(lives, (lives >= 0) & (_codes(self.lives.region, lives) != here[:, None]), most)

    def artist_here(self, artists: Any, songs: Any, regions: Any, cutoff: np.ndarray, most: int) -> np.ndarray:
        """Lives of the artist's other songs in the same region: (rows, most), latest first."""
        artist, here = self.lives.artists.get_indexer(artists), self.lives.regions.get_indexer(regions)
        group = np.where((artist >= 0) & (here >= 0), artist * len(self.lives.regions) + here, -1)
        lives = self._by_artist_here.recent(group, cutoff, most + 1)
        song = self.lives.songs.get_indexer(songs)
        return _packed(lives, (lives >= 0) & (_codes(self.lives.song, lives) != song[:, None]), most)

    def artist_elsewhere(self, artists: Any, songs: Any, regions: Any, cutoff: np.ndarray, most: int) -> np.ndarray:
        """Lives of the artist's other songs in other regions: (rows, at most `most`), latest first."""
        lives = self._by_artist.recent(self.lives.artists.get_indexer(artists), cutoff, most)
        song, here = self.lives.songs.get_indexer(songs), self.lives.regions.get_indexer(regions)
        other = (_codes(self.lives.song, lives) != song[:, None]) & (_codes(self.lives.region, lives) != here[:, None])
        return _packed(lives, (lives >= 0) & other, most)

    def credited(
        self, artists: Any, songs: Any, regions: Any, cutoff: np.ndarray, most: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Lives of other songs that credit each row's artist, as main artist or as guest: here, in other regions.

        Each (rows, at most `most`), latest first.
        """
        lives = self.lives
        artist, here = lives.artists.get_indexer(artists), lives.regions.get_indexer(regions)
        song = lives.songs.get_indexer(songs)[:, None]
        group = np.where((artist >= 0) & (here >= 0), artist * len(lives.regions) + here, -1)
        near = _codes(self._credit_life, self._by_credit_here.recent(group, cutoff, most))
        all_over = _codes(self._credit_life, self._by_credit.recent(artist, cutoff, most))
        far = _codes(lives.region, all_over) != here[:, None]
        return (
            _packed(near, (near >= 0) & (_codes(lives.song, near) != song), most),
            _packed(all_over, (all_over >= 0) & (_codes(lives.song, all_over) != song) & far, most),
        )


def _codes(codes: np.ndarray, lives: np.ndarray) -> np.ndarray:
    """The code of each life, −1 where there is no life."""
    return np.append(codes, -1)[lives]


def _packed(lives: np.ndarray, kept: np.ndarray, most: int) -> np.ndarray:
    """Moves what is kept to the front, in order, and drops the rest."""
    order = np.argsort(~kept, axis=1, kind="stable")
    return np.take_along_axis(np.where(kept, lives, -1), order, axis=1)[:, :most]


def region_scales(dataset: DatasetFolder, until: Any = None) -> dict[str, float]:
    """Unit of scale a region where no chart gives a floor: the 5 % quantile of its positive streams, in streams.

    Args:
        dataset: With curves.
        until: Last day whose rows count, the end of the training split; None takes all.
    """
    assert dataset.curves is not None
    rows = dataset.curves
    if until is not None:
        rows = rows[rows["date"] <= pd.Timestamp(until)]
    rows = rows[rows["streams"] > 0]
    return {str(region): float(value) for region, value in rows.groupby("region")["streams"].quantile(0.05).items()}


def _lives(dataset: DatasetFolder, scales: dict[str, float]) -> Lives:
    # By name: the order of the tables' rows, which later rows can change, must not order lives that began on one day.
    first = first_rows(dataset).sort_values(["song_id", "region"], kind="stable").reset_index(drop=True)
    periods = min(LIFE_PERIODS, 2 * dataset.horizon)
    arrays = curve_arrays(dataset, first, periods)
    day = _days(first["debut"])
    floor = life_floors(dataset, first, arrays.floor, scales)
    # Without a chart, and off it, one stream is the least there is.
    lowest = np.where(np.isnan(arrays.lowest), 1.0, arrays.lowest)
    on_chart = arrays.state == OBSERVED
    streams = np.where(on_chart, arrays.streams, 0.0) / floor[:, None]
    level = np.log10(np.maximum(np.where(on_chart, arrays.streams, BELOW_SHARE * lowest) / floor[:, None], 1e-6))
    total = np.log10(1 + streams.cumsum(axis=1))
    features = np.stack(
        [
            np.broadcast_to(level[:, :1], level.shape),
            level,
            np.concatenate([level[:, :1], level[:, :-1]], axis=1),
            np.maximum.accumulate(level, axis=1),
            total,
            np.log1p(on_chart.cumsum(axis=1)),
            on_chart,
            np.zeros_like(level),
        ],
        axis=-1,
    ).astype(np.float32)
    keys = artist_keys(dataset.tracks)
    by_song = pd.Series(keys.to_numpy(), index=dataset.tracks["song_id"]).groupby(level=0).first()
    song, songs = pd.factorize(first["song_id"])
    # Of the track that the life began with: a later version may name people who joined the song then.
    by_track = pd.Series(guest_keys(dataset.tracks).to_numpy(), dataset.tracks["track_id"])
    named = first["track_id"].map(by_track).explode().dropna()
    main = first["song_id"].map(by_song)
    artist, artists = pd.factorize(pd.concat([main, named]))
    artist, guest = artist[: len(main)], artist[len(main) :]
    guest_life = named.index.to_numpy(dtype=np.int64)
    # Versions of a song may differ in whom they name first.
    other = guest != artist[guest_life]
    region, regions = pd.factorize(first["region"], sort=True)
    return Lives(
        song,
        artist,
        region,
        day,
        floor,
        features,
        guest_life[other],
        guest[other],
        pd.Index(songs),
        pd.Index(artists),
        pd.Index(regions),
    )


def life_floors(dataset: DatasetFolder, rows: pd.DataFrame, before: np.ndarray, scales: dict[str, float]) -> np.ndarray:
    """Unit of scale of each row: the floor before its debut, else at it, else the region's scale: (n,) streams.

    Args:
        dataset: With curves.
        rows: `region, debut`.
        before: (n,) floor of the chart before debut, NaN where none is on hand.
        scales: Fallback a region; 1 stream where even that is missing.
    """
    floor = before.copy()
    if dataset.charts is not None:
        floor = np.where(np.isnan(floor), floors(dataset.charts).floor(rows["region"], rows["debut"]), floor)
    usual = rows["region"].map(scales).to_numpy(dtype=float)
    return np.nan_to_num(np.where(np.isnan(floor), usual, floor), nan=1.0)


def _states(dataset: DatasetFolder, lives: Lives, scales: dict[str, float]) -> RegionStates:
    assert dataset.curves is not None
    if dataset.charts is not None:
        charts = dataset.charts[["region", "date", "floor", "lowest", "size"]]
    else:
        charts = dataset.curves[["region", "date"]].drop_duplicates().assign(lowest=1.0, size=1)
        # A region that opened after the scales were taken has none, and so no state.
        charts = charts.assign(floor=charts["region"].map(scales).astype(float)).dropna(subset="floor")
    charts = charts.sort_values(["region", "date"], kind="stable").reset_index(drop=True)
    place, regions = pd.factorize(charts["region"], sort=True)
    day, floor = _days(charts["date"]), charts["floor"].to_numpy(dtype=float)
    period = PERIOD_DAYS[dataset.frequency]
    states = RegionStates(tuple(map(str, regions)), place, day, floor, np.zeros((len(charts), len(STATE_FEATURES))))
    earlier = states.at(charts["region"], charts["date"].to_numpy() - np.timedelta64(CLIMATE_PERIODS * period, "D"))
    climate = _Climate(lives, dataset.horizon, period)
    code = lives.regions.get_indexer(regions)[place] if len(charts) else np.empty(0, np.int64)
    settled_until = day - (dataset.horizon - 1) * period
    mean_total, spread, length, one = climate.settled(code, settled_until)
    mean_debut, arrivals = climate.arrivals(code, day)
    gone, early_length, early_total = climate.recent(code, day)
    lowest = charts["lowest"].to_numpy(dtype=float)
    columns = [
        np.log10(floor),
        np.log10(np.maximum(lowest, 1.0) / floor),
        np.log10(charts["size"].to_numpy(dtype=float)),
        np.where(earlier >= 0, np.log10(floor / floor[earlier]), 0.0),
        mean_total,
        spread,
        length,
        one,
        mean_debut,
        arrivals,
        gone,
        early_length,
        early_total,
    ]
    states.values[:] = np.column_stack(columns)
    return states


class _Climate:
    """Running sums over a region's lives in the order of their debuts."""

    def __init__(self, lives: Lives, horizon: int, period: int) -> None:
        self.period = period
        self.related = Related(lives.region, lives.debut)
        last = min(horizon, lives.features.shape[1]) - 1
        self.first, self.early = min(FIRST_AGE, last), min(EARLY_AGE, last)

        def at(age: int, name: str) -> np.ndarray:
            return lives.features[self.related.order, age, LIFE_FEATURES.index(name)].astype(float)

        total, weeks = at(last, "total"), np.expm1(at(last, "length"))
        early = np.expm1(at(self.early, "length")) / (self.early + 1)
        gone = at(self.first, "on_chart") < 0.5
        columns = np.column_stack(
            [total, total**2, weeks / horizon, weeks <= 1.5, at(0, "debut"), gone, early, at(self.early, "total")]
        )
        self.sums = np.vstack([np.zeros(columns.shape[1]), columns.cumsum(axis=0)])

    def _between(self, region: np.ndarray, first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sums and counts over lives with debut after `first` and on or before `last`."""

        def end(day: np.ndarray) -> np.ndarray:
            offset = np.clip(day - self.related.first_day, -1, self.related.width - 1)
            return np.searchsorted(self.related.key, region * self.related.width + offset, side="right")

        low, high = end(first), end(last)
        return self.sums[high] - self.sums[low], np.maximum(high - low, 0)

    def settled(self, region: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, ...]:
        """Of lives whose horizon ended by then: mean and spread of log totals, mean share of periods, share of one."""
        sums, count = self._between(region, last - CLIMATE_PERIODS * self.period, last)
        # A few imaginary average lives keep a young region's figures from jumping.
        prior = np.array([0.8, 1.0, 0.4, 0.3])
        total, square, length, one = ((sums[:, :4] + 5 * prior) / (count[:, None] + 5)).T
        return total, np.sqrt(np.maximum(square - total**2, 0.01)), length, one

    def arrivals(self, region: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of lives that began in the last periods: mean of the first value, log of how many a period."""
        sums, count = self._between(region, last - ARRIVAL_PERIODS * self.period, last)
        return (sums[:, 4] + 5 * 0.1) / (count + 5), np.log1p(count / ARRIVAL_PERIODS)

    def recent(self, region: np.ndarray, day: np.ndarray) -> tuple[np.ndarray, ...]:
        """Of the latest lives old enough: share gone after a period; of the first four, share charted and log total.

        Settled lives are half a year old in the mean; these tell within weeks that lives get shorter.
        """
        told = []
        for age, columns, prior in ((self.first, [5], [0.3]), (self.early, [6, 7], [0.6, 0.65])):
            until = day - age * self.period
            sums, count = self._between(region, until - ARRIVAL_PERIODS * self.period, until)
            told.append((sums[:, columns] + 5 * np.array(prior)) / (count[:, None] + 5))
        return tuple(np.concatenate(told, axis=1).T)
