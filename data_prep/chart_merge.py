"""Coded rows of many chart files in; one chart for each region and date, curves and floors out.

Where several files hold one chart, the most complete is taken whole (most rows, then the larger file, then by name):
ranks of two files do not mix. The rows of the others are compared with it and counted as agreeing or differing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from data_prep.chart_formats.coded import DAY_BITS, EPOCH, EXAMPLES, REGION_BITS, Codes, SourceRows
from mp3model.files import InputError

# With a day and a region they fit into one 64-bit number, by which rows are sorted.
TRACK_BITS, RANK_BITS, ROLE_BITS = 25, 9, 2
CHOSEN, SINGLE, OTHER = 0, 1, 2
STATUSES = ("kept", "repeated in the file", "agrees with the chosen source", "differs from it", "absent from it")
KEPT, REPEATED, AGREES, DIFFERS, ABSENT = range(5)
BLOCK_ROWS = 1 << 20


@dataclass
class CodedCurves:
    """Curve rows, sorted by track, region and day; codes count in the alphabetical order of the texts.

    Attributes:
        track (int32), region (int16), day (int32, from EPOCH), rank (int16, 0 unknown), streams (float64)
        track_ids, region_names: what the codes stand for.
    """

    track: np.ndarray
    region: np.ndarray
    day: np.ndarray
    rank: np.ndarray
    streams: np.ndarray
    track_ids: np.ndarray
    region_names: np.ndarray

    def __len__(self) -> int:
        return len(self.track)

    def frame(self, rows: Any) -> pd.DataFrame:
        """The rows as a curves table."""
        rank = pd.Series(self.rank[rows].astype(np.int32), dtype="Int32")
        return pd.DataFrame(
            {
                "track_id": self.track_ids[self.track[rows]],
                "region": self.region_names[self.region[rows]],
                "date": dates_of(self.day[rows]),
                "streams": self.streams[rows],
                "rank": rank.mask(rank == 0),
            }
        )

    def blocks(self) -> Iterator[pd.DataFrame]:
        """Frames of about a million rows, cut between tracks."""
        start = 0
        while start < len(self) or start == 0:
            end = min(start + BLOCK_ROWS, len(self))
            if end < len(self):
                end = int(np.searchsorted(self.track, self.track[end - 1], side="right"))
            yield self.frame(slice(start, end))
            start = max(end, 1)

    def chart_key(self) -> np.ndarray:
        """(n,) one number for each row's region and day."""
        return (self.region.astype(np.int32) << DAY_BITS) + self.day


@dataclass
class Merged:
    """Curves and charts of one frequency, and what became of every row.

    Attributes:
        statuses: (sources, statuses) counts.
        pairs: columns `source, chosen, agree, differ`: sources with rows of the same chart.
        examples: status → texts.
        lowest: smallest streams of each chart by its key (see `chart_key`), NaN where none is on hand.
        holes: charts in which a rank above the last one is missing.
        unranked: rows whose rank was dropped since the chart they stand in is not on hand.
    """

    curves: CodedCurves
    charts: pd.DataFrame | None
    statuses: np.ndarray
    pairs: pd.DataFrame
    examples: dict[str, list[str]]
    lowest: np.ndarray
    holes: int
    unranked: int
    notes: list[str] = field(default_factory=list)


def dates_of(days: np.ndarray) -> np.ndarray:
    """Days from EPOCH as dates, in seconds as tables have them."""
    return (EPOCH + days.astype(np.int64)).astype("datetime64[s]")


def merge(sources: Sequence[SourceRows], tracks: Codes, regions: Codes) -> Merged:
    """Chooses one source for every chart and puts all rows in order.

    Args:
        sources: of one frequency; their blocks are taken out of them, so that no row is in memory twice.
        tracks, regions: what the sources' codes stand for.

    Raises:
        InputError: more tracks or regions than the keys hold.
    """
    if len(tracks.texts) >= 1 << TRACK_BITS or len(regions.texts) >= 1 << REGION_BITS:
        raise InputError(f"{len(tracks.texts)} tracks in {len(regions.texts)} regions are too many; give fewer files")
    track_order, track_ids = _alphabetical(tracks.texts)
    region_order, region_names = _alphabetical(regions.texts)
    for source in sources:
        if source.kind == "export":
            _sum_repeats(source)
    chosen = _choose(sources, len(regions.texts))
    key, source_of, streams = _packed(sources, chosen, track_order, region_order)
    order = np.argsort(key)
    key = key[order]
    source_of, streams = source_of[order], streams[order]
    del order
    low = RANK_BITS + ROLE_BITS
    first = np.append(True, (key[1:] >> low) != (key[:-1] >> low)) if len(key) else np.zeros(0, bool)
    curves = CodedCurves(
        (key >> (low + DAY_BITS + REGION_BITS)).astype(np.int32),
        ((key >> (low + DAY_BITS)) & ((1 << REGION_BITS) - 1)).astype(np.int16),
        ((key >> low) & ((1 << DAY_BITS) - 1)).astype(np.int32),
        (key & ((1 << RANK_BITS) - 1)).astype(np.int16),
        streams,
        track_ids,
        region_names,
    )
    role = ((key >> RANK_BITS) & ((1 << ROLE_BITS) - 1)).astype(np.int8)
    del key, streams
    return _finish(sources, curves, source_of, role, first)


def _alphabetical(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Place of each code in the alphabet, and the sorted texts."""
    array = np.array(texts, dtype=object)
    order = np.argsort(array, kind="stable")
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    return place, array[order]


def _sum_repeats(source: SourceRows) -> None:
    """A distributor writes a row for each shop or product: quantities of one track, territory and day are summed."""
    if not source.blocks:
        return
    track, region, day, rank, streams = (np.concatenate(parts) for parts in zip(*source.blocks, strict=True))
    key = (((track.astype(np.int64) << REGION_BITS) + region) << DAY_BITS) + day
    _, at, inverse = np.unique(key, return_index=True, return_inverse=True)
    total = np.bincount(inverse, weights=streams, minlength=len(at))
    merged = len(key) - len(at)
    if merged:
        source.notes.append(f"{merged} rows of one track, territory and date were summed into others")
    source.summed = merged
    good = total >= 0
    source.reject(
        "quantities of the day sum to less than 0",
        int((~good).sum()),
        (f"day {EPOCH + int(day[i])}: {total[j]:g}" for j, i in enumerate(at) if not good[j]),
    )
    source.blocks = [(track[at][good], region[at][good], day[at][good], rank[at][good], total[good])]


def _choose(sources: Sequence[SourceRows], regions: int) -> np.ndarray:
    """Chosen source of every (region, day), −1 where none: (regions << DAY_BITS,) in the files' own region codes."""
    found = []
    for number, source in enumerate(sources):
        if source.kind != "chart" or not source.rows:
            continue
        keys, counts, deepest = [], [], []
        for _, region, day, rank, _ in source.blocks:
            key, inverse, count = np.unique(
                (region.astype(np.int64) << DAY_BITS) + day, return_inverse=True, return_counts=True
            )
            deep = np.zeros(len(key), np.int64)
            np.maximum.at(deep, inverse, rank.astype(np.int64))
            keys.append(key)
            counts.append(count)
            deepest.append(deep)
        key, inverse = np.unique(np.concatenate(keys), return_inverse=True)
        count = np.bincount(inverse, weights=np.concatenate(counts)).astype(np.int64)
        deep = np.zeros(len(key), np.int64)
        np.maximum.at(deep, inverse, np.concatenate(deepest))
        # A file that holds a chart twice is not twice as complete.
        found.append((key, np.full(len(key), number), np.minimum(count, deep), np.full(len(key), source.rows)))
    chosen = np.full(max(regions, 1) << DAY_BITS, -1, np.int32)
    if found:
        keys_of, numbers, counts_of, sizes = (np.concatenate(parts) for parts in zip(*found, strict=True))
        worst_first = np.lexsort((-numbers, sizes, counts_of))
        chosen[keys_of[worst_first]] = numbers[worst_first]
    return chosen


def _packed(
    sources: Sequence[SourceRows], chosen: np.ndarray, track_order: np.ndarray, region_order: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sort key (track, region, day, role, rank), source number and streams of all rows."""
    size = sum(source.rows for source in sources)
    key, source_of, streams = np.empty(size, np.int64), np.empty(size, np.int32), np.empty(size)
    at = 0
    for number, source in enumerate(sources):
        blocks, source.blocks = source.blocks, []
        source.coded = sum(len(block[0]) for block in blocks)
        while blocks:
            track, region, day, rank, value = blocks.pop(0)
            role: Any = SINGLE
            if source.kind == "chart":
                role = np.where(chosen[(region.astype(np.int64) << DAY_BITS) + day] == number, CHOSEN, OTHER)
            packed = (track_order[track] << REGION_BITS) + region_order[region]
            packed = (((packed << DAY_BITS) + day) << ROLE_BITS) + role
            to = at + len(track)
            key[at:to] = (packed << RANK_BITS) + np.minimum(rank, (1 << RANK_BITS) - 1)
            source_of[at:to], streams[at:to] = number, value
            at = to
    return key, source_of, streams


def _finish(
    sources: Sequence[SourceRows], curves: CodedCurves, source_of: np.ndarray, role: np.ndarray, first: np.ndarray
) -> Merged:
    status = np.where(first, KEPT, REPEATED).astype(np.int8)
    status[first & (role == OTHER)] = ABSENT
    in_chart = first & (role == CHOSEN)
    charts, lowest, holes, empty = _charts(curves, in_chart)
    key = curves.chart_key()
    single = np.flatnonzero(first & (role == SINGLE))
    pages = np.array([source.kind == "page" for source in sources] or [False])[source_of[single]]
    # A page that shows a track on a chart on hand that does not list it names another version of it.
    contradicted = pages & (curves.streams[single] >= lowest[key[single]])
    status[single[contradicted]] = ABSENT
    pairs, examples = _compare(curves, source_of, first, status, sources)
    if empty.any():
        status[in_chart & empty[key]] = ABSENT
    unranked = 0
    if charts is not None:
        drop = single[curves.rank[single] > 0]
        unranked = len(drop)
        curves.rank[drop] = 0
    statuses = np.bincount(source_of * len(STATUSES) + status, minlength=len(sources) * len(STATUSES))
    keep = status == KEPT
    if not keep.all():
        for name in ("track", "region", "day", "rank", "streams"):
            setattr(curves, name, getattr(curves, name)[keep])
    return Merged(
        curves, charts, statuses.reshape(len(sources), len(STATUSES)), pairs, examples, lowest, holes, unranked
    )


def _charts(curves: CodedCurves, used: np.ndarray) -> tuple[pd.DataFrame | None, np.ndarray, int, np.ndarray]:
    """Charts table; lowest streams by chart key; charts with a missing rank; keys of charts without any streams."""
    keys = len(curves.region_names) << DAY_BITS
    lowest, empty = np.full(keys, np.nan), np.zeros(keys, bool)
    if not used.any():
        return None, lowest, 0, empty
    key = curves.chart_key()[used]
    streams, rank = curves.streams[used], curves.rank[used]
    size = np.bincount(key, minlength=keys)
    np.fmin.at(lowest, key, streams)
    end = (rank >= 195) & (rank <= 200) & np.isfinite(streams)
    count = np.bincount(key[end], minlength=keys)
    with np.errstate(invalid="ignore", divide="ignore"):
        floor = np.bincount(key[end], weights=streams[end], minlength=keys) / count
    floor = np.where(count > 0, floor, lowest)
    deepest = np.zeros(keys, np.int32)
    np.maximum.at(deepest, key, rank.astype(np.int32))
    empty = (size > 0) & np.isnan(lowest)
    at = np.flatnonzero((size > 0) & ~empty)
    charts = pd.DataFrame(
        {
            "region": curves.region_names[at >> DAY_BITS],
            "date": dates_of(at & ((1 << DAY_BITS) - 1)),
            "floor": floor[at],
            "lowest": lowest[at],
            "size": pd.array(size[at], dtype="Int32"),
        }
    )
    return charts, lowest, int((deepest[at] > size[at]).sum()), empty


def _compare(
    curves: CodedCurves, source_of: np.ndarray, first: np.ndarray, status: np.ndarray, sources: Sequence[SourceRows]
) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """Sets the status of rows whose key an earlier one has; agreement by pair of sources, examples of each status."""
    later = np.flatnonzero(~first)
    starts = np.flatnonzero(first)
    head = starts[np.searchsorted(starts, later, side="right") - 1] if len(later) else later
    same = source_of[later] == source_of[head]
    ranks_fit = (curves.rank[later] == curves.rank[head]) | (curves.rank[later] == 0) | (curves.rank[head] == 0)
    streams_fit = (curves.streams[later] == curves.streams[head]) | np.isnan(curves.streams[later])
    other = np.where(status[head] == ABSENT, ABSENT, np.where(ranks_fit & streams_fit, AGREES, DIFFERS))
    status[later] = np.where(same, REPEATED, other)
    pairs = (
        pd.DataFrame(
            {
                "source": source_of[later][~same],
                "chosen": source_of[head][~same],
                "agree": other[~same] == AGREES,
                "differ": other[~same] == DIFFERS,
            }
        )
        .groupby(["source", "chosen"], as_index=False)
        .sum()
    )
    for name in ("source", "chosen"):
        pairs[name] = [sources[number].name for number in pairs[name]]

    def shown(row: int, by: int | None) -> str:
        def values(at: int) -> str:
            return f"rank {curves.rank[at]}, {curves.streams[at]:,.0f} streams in {sources[source_of[at]].name}"

        region, date = curves.region_names[curves.region[row]], EPOCH + int(curves.day[row])
        place = f"{curves.track_ids[curves.track[row]]} {region} {date}"
        return f"{place}: {values(row)}" + ("" if by is None else f"; {values(by)}")

    examples: dict[str, list[str]] = {}
    for code in (REPEATED, DIFFERS):
        at = np.flatnonzero(status[later] == code)[:EXAMPLES]
        if len(at):
            examples[STATUSES[code]] = [shown(int(later[i]), int(head[i])) for i in at]
    absent = np.flatnonzero(status == ABSENT)[:EXAMPLES]
    if len(absent):
        examples[STATUSES[ABSENT]] = [shown(int(row), None) for row in absent]
    return pairs, examples
