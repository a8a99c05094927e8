"""Coded rows of many chart files in; one chart for each region and date, curves and floors out.

Where several files hold one chart, the most complete is taken whole (most rows, then the larger file, then by name):
ranks of two files do not mix. The rows of the others are compared with it and counted as agreeing or differing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from data_prep.chart_formats import EPOCH, EXAMPLES, Codes, SourceRows
from mp3model.files import InputError
from mp3model.tables.curves import PERIOD_DAYS
from mp3model.tables.tracks import artist_key

DAY_BITS, REGION_BITS, TRACK_BITS, RANK_BITS, ROLE_BITS = 15, 9, 25, 9, 2
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
    return (EPOCH + days.astype(np.int64)).astype("datetime64[s]")


def resolve_fridays(sources: Sequence[SourceRows]) -> None:
    """Tells Fridays of a daily chart from weeks by their first day, where a weekly chart of the same region is on hand.

    A week sums to about seven days: the ratio to the weekly chart's streams tells. Sources without one stay daily.
    """
    for source in sources:
        if source.date_means != "fridays":
            continue
        ratios = [_ratio(source, other) for other in sources if other.frequency == "W" and other.kind == "chart"]
        known = np.concatenate([*ratios, np.zeros(0)])
        if len(known) >= 20 and np.median(known) > 0.5:
            source.frequency, source.date_means = "W", "week-start"
            for block in source.blocks:
                block[2][:] += 6
            source.notes[:] = [
                f"dates on Fridays taken for the first days of weeks: streams are {np.median(known):.2f} of a weekly "
                "chart on hand; moved by +6 days to the Thursday that ends the week"
            ]
        elif len(known) >= 20:
            source.notes.append(f"streams are {np.median(known):.2f} of a weekly chart on hand, as single days are")


def _ratio(source: SourceRows, weekly: SourceRows) -> np.ndarray:
    """Streams of the source over those of the weekly chart whose first day is the source's."""

    def rows(of: SourceRows, shift: int) -> tuple[np.ndarray, np.ndarray]:
        regions = {int(r) for block in source.blocks for r in np.unique(block[1])}
        keys, streams = [], []
        for track, region, day, _, value in of.blocks:
            used = np.isin(region, list(regions))
            key = (track[used].astype(np.int64) << REGION_BITS) + region[used]
            keys.append((key << DAY_BITS) + day[used] + shift)
            streams.append(value[used])
        return np.concatenate(keys), np.concatenate(streams)

    own, reference = rows(source, 6), rows(weekly, 0)
    _, mine, theirs = np.intersect1d(own[0], reference[0], return_indices=True)
    return own[1][mine] / reference[1][theirs]


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


# ------------------------------------------------------------------------------------------------------------- gaps
def first_charted(merged: Merged) -> pd.DataFrame:
    """First charted row of every track in every region as a curves table: all that debuts are found from."""
    curves = merged.curves
    lowest = merged.lowest[curves.chart_key()]
    charted = (curves.rank > 0) | np.where(np.isnan(lowest), curves.streams > 0, curves.streams >= lowest)
    del lowest
    at = np.flatnonzero(charted)
    pair = (curves.track[at].astype(np.int64) << REGION_BITS) + curves.region[at]
    return curves.frame(at[np.append(True, pair[1:] != pair[:-1])] if len(at) else at)


def fill_gaps(
    merged: Merged, song_of_track: np.ndarray, mode: str, frequency: str, horizon: int, longest_gap: int
) -> CodedCurves:
    """Curves with rows for periods without one, by song: a song that switches its track id leaves no gap.

    Args:
        merged: curves and charts.
        song_of_track: song number of each track code.
        mode: `zero`: 0 streams wherever a chart is on hand and does not list the song, between its first and last rows
            and up to the horizon from its first. `interpolate`: gaps of at most `longest_gap` periods between two
            known rows, on a straight line in the logarithm, below the lowest of a chart that does not list the song.
        frequency, horizon: of the dataset.
        longest_gap: in periods.

    Returns:
        New curves, the filled rows without rank, under the track that charted before the gap.
    """
    curves, step = merged.curves, PERIOD_DAYS[frequency]
    pair = (song_of_track[curves.track].astype(np.int64) << REGION_BITS) + curves.region
    order = np.lexsort((curves.track, curves.day, pair))
    pair, day = pair[order], curves.day[order]
    head = np.append(True, (pair[1:] != pair[:-1]) | (day[1:] != day[:-1])) if len(pair) else np.zeros(0, bool)
    streams = np.bincount(np.cumsum(head) - 1, weights=curves.streams[order]) if len(pair) else np.zeros(0)
    at, pair, day = order[head], pair[head], day[head]
    last = np.append(pair[1:] != pair[:-1], True) if len(pair) else np.zeros(0, bool)
    begin = (
        np.maximum.accumulate(np.where(np.append(True, pair[1:] != pair[:-1]), np.arange(len(pair)), 0))
        if len(pair)
        else at
    )
    until = np.where(last, day[begin] + horizon * step, np.append(day[1:], 0))
    missing = np.maximum((until - day) // step - 1, 0)
    if mode == "interpolate":
        known = np.isfinite(streams) & np.isfinite(np.append(streams[1:], np.nan)) & (streams > 0)
        missing = np.where(~last & known & (missing <= longest_gap), missing, 0)
    source = np.repeat(np.arange(len(pair)), missing)
    position = np.arange(len(source)) - np.repeat(np.cumsum(missing) - missing, missing) + 1
    new_day = (day[source] + position * step).astype(np.int32)
    region = curves.region[at[source]]
    lowest = merged.lowest[(region.astype(np.int64) << DAY_BITS) + np.minimum(new_day, (1 << DAY_BITS) - 1)]
    if mode == "zero":
        use = np.isfinite(lowest)
        value = np.zeros(len(source))
    else:
        use = np.ones(len(source), bool)
        share = position / (missing[source] + 1)
        after = np.append(streams[1:], np.nan)[source]
        value = np.exp((1 - share) * np.log(streams[source]) + share * np.log(after))
        value = np.where(np.isfinite(lowest), np.minimum(value, np.ceil(lowest) - 1), value)
    new = [curves.track[at[source]], region, new_day, np.zeros(len(source), np.int16), value]
    names = ("track", "region", "day", "rank", "streams")
    columns = {
        name: np.concatenate([getattr(curves, name), values[use].astype(getattr(curves, name).dtype)])
        for name, values in zip(names, new, strict=True)
    }
    order = np.lexsort((columns["day"], columns["region"], columns["track"]))
    return replace(curves, **{name: values[order] for name, values in columns.items()})


# ----------------------------------------------------------------------------------------------------------- tracks
@dataclass
class TrackTable:
    """Texts and descriptors of tracks, indexed by track code, and where sources contradict each other."""

    frame: pd.DataFrame
    conflicts: dict[str, dict[str, Any]]


def track_table(sources: Sequence[SourceRows], tracks: Codes) -> TrackTable:
    """One title, artist, ISRC, release date and set of descriptors for each track.

    Track tables come before chart rows, the larger table first, each field from the first that has it. Of chart rows,
    the spelling that most files have counts, of equally frequent ones the longest (chart files often name the main
    artist only), then the first in the alphabet.

    Returns:
        Columns `title, artist, isrc, release` (text) and `x_*` (float); the tracks of the sources, by code.
    """
    tables = sorted((s for s in sources if s.kind == "tracks"), key=lambda s: (-len(s.info), s.name))
    details = [s.info for s in sources if s.kind in ("chart", "export") and s.info is not None]
    spelled = _spellings(sources)
    frames = [t.info for t in tables] + [_most_frequent(spelled)] + details
    conflicts = _text_conflicts(spelled, tables, tracks)
    frame = pd.DataFrame(index=pd.Index([], dtype=np.int64))
    for number, other in enumerate(frames):
        other = other.set_axis(other.index.astype(np.int64))
        for column in [c for c in other if str(c).startswith("x_") and c in frame]:
            _count_differences(frame[column], other[column], str(column), conflicts, tracks)
        frame = other if number == 0 else frame.combine_first(other)
    texts = ["title", "artist", "isrc", "release"]
    numbers = [c for c in frame if str(c).startswith("x_")]
    return TrackTable(frame.reindex(columns=[*texts, *numbers]).sort_index(), conflicts)


def _spellings(sources: Sequence[SourceRows]) -> pd.DataFrame:
    parts = [
        pd.DataFrame({"track": codes, "title": titles, "artist": artists, "isrc": isrcs}, dtype=object)
        for source in sources
        for codes, titles, artists, isrcs in source.texts
    ]
    empty = pd.DataFrame({"track": [], "title": [], "artist": [], "isrc": []}, dtype=object)
    return pd.concat([empty, *parts]).astype({"track": np.int64})


def _most_frequent(spelled: pd.DataFrame) -> pd.DataFrame:
    columns = {}
    for name in ("title", "artist", "isrc"):
        counted = spelled.dropna(subset=[name]).groupby(["track", name]).size().rename("count").reset_index()
        counted["length"] = counted[name].str.len()
        best = counted.sort_values(["track", "count", "length", name], ascending=[True, False, False, True])
        columns[name] = best.drop_duplicates("track").set_index("track")[name]
    index = pd.Index(np.unique(spelled["track"].to_numpy()), name="track")
    return pd.DataFrame(columns).reindex(index).astype(object)


def _text_conflicts(spelled: pd.DataFrame, tables: Sequence[SourceRows], tracks: Codes) -> dict[str, dict[str, Any]]:
    """Tracks whose sources give titles, main artists or ISRCs that differ by more than case and punctuation."""
    conflicts: dict[str, dict[str, Any]] = {}
    for name in ("title", "artist", "isrc"):
        given = [spelled[["track", name]]]
        given += [t.info[[name]].rename_axis("track").reset_index() for t in tables if name in t.info]
        pairs = pd.concat(given).dropna().drop_duplicates()
        pairs = pairs[pairs.duplicated("track", keep=False)]
        plain = {text: artist_key(text) for text in pairs[name].unique()} if name != "isrc" else {}
        pairs = pairs.assign(plain=pairs[name].map(lambda text, plain=plain: plain.get(text, text)))
        kinds = pairs.drop_duplicates(["track", "plain"])
        kinds = kinds[kinds.duplicated("track", keep=False)].sort_values(["track", "plain"], kind="stable")
        if len(kinds):
            shown = kinds.groupby("track")[name].agg(" | ".join).head(EXAMPLES)
            conflicts[name] = {
                "tracks": int(kinds["track"].nunique()),
                "examples": [f"{tracks.texts[c]}: {t}" for c, t in zip(shown.index.tolist(), shown, strict=True)],
            }
    return conflicts


def _count_differences(
    kept: pd.Series, other: pd.Series, column: str, conflicts: dict[str, dict[str, Any]], tracks: Codes
) -> None:
    both = kept.dropna().index.intersection(other.dropna().index)
    differ = both[~np.isclose(kept.loc[both], other.loc[both], rtol=1e-2, atol=1e-3)]
    if len(differ):
        found = conflicts.setdefault(column, {"tracks": 0, "examples": []})
        found["tracks"] += len(differ)
        room = EXAMPLES - len(found["examples"])
        found["examples"] += [
            f"{tracks.texts[int(c)]}: {kept.loc[c]:g} kept, {other.loc[c]:g} elsewhere" for c in differ[:room]
        ]
