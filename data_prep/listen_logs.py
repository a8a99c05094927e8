"""Listens (day, region, recording) in blocks, of any number, in; a dataset folder of curves with ranks out.

Memory does not grow with the number of listens: blocks are counted, and the counts wait on disk, apart by a hash of
the recording; then each part is added up by itself. A week of a region gives a chart of its 200 most heard recordings,
as the stores' charts are: who is not on it had less. Recordings with equally many listens share a rank, and where not
all of them fit, none is on the chart. Recordings that are left out for too few listens keep their ranks. Weeks that the
log covers only in part, its first and its last, are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from data_prep.chart_formats.ids import hashed_id
from mp3model.files import InputError, folder_beside
from mp3model.tables.curves import PERIOD_DAYS

WORLD = "GLOBAL"
# Parts that are added up one after the other; of 100 million listens each has about 25 MB.
PARTS = 64
# Ranks whose mean streams are a chart's floor (see `mp3model.tables.folder`).
FLOOR_RANKS = 6
FULL_CHART = 200
_COUNTED = np.dtype([("recording", "<u8"), ("region", "<i2"), ("period", "<i2"), ("count", "<u4")])
_PLACED = np.dtype([("track", "<u4"), ("region", "<i2"), ("period", "<i2"), ("count", "<u4"), ("rank", "<u4")])
_NAMES = pa.schema([("hash", pa.uint64()), ("track_id", pa.string()), ("title", pa.string()), ("artist", pa.string())])


@dataclass(frozen=True)
class Listens:
    """A block of listens.

    Attributes:
        day: (n,) days since 1970-01-01 (UTC); −1 where unknown.
        region: (n,) places in `regions`; −1 where unknown.
        regions: codes, ISO 3166 or GLOBAL.
        recording: (n,) places in the three lists that follow; −1 where unknown.
        keys: what tells recordings apart, a text each.
        names: track id, title and artist of a place, asked for once a recording.
        unread: lines that could not be read at all.
    """

    day: np.ndarray
    region: np.ndarray
    regions: list[str]
    recording: np.ndarray
    keys: list[str]
    names: Names
    unread: int = 0


@dataclass(frozen=True)
class Names:
    """Track id, title and artist of recordings, empty where unknown."""

    track_ids: list[str]
    titles: list[str]
    artists: list[str]

    def taken(self, places: np.ndarray) -> tuple[list[str], list[str | None], list[str | None]]:
        """Those at these places; an id made of title and artist stands in for one that is not there."""
        ids, titles, artists = (
            [values[place] for place in places] for values in (self.track_ids, self.titles, self.artists)
        )
        named = [track or hashed_id(title, artist) for track, title, artist in zip(ids, titles, artists, strict=True)]
        return named, [text or None for text in titles], [text or None for text in artists]


@dataclass
class Tally:
    """What became of the listens: `read` is the sum of all others but `left_out`, which counts recordings."""

    read: int = 0
    counted: int = 0
    without_time: int = 0
    without_region: int = 0
    without_recording: int = 0
    unread: int = 0
    in_part_periods: int = 0
    left_out: int = 0


@dataclass
class _Counts:
    """The counts on disk, and what is small enough to be held: names seen, days, regions."""

    folder: Path
    frequency: str
    world: bool
    tally: Tally = field(default_factory=Tally)
    regions: list[str] = field(default_factory=list)
    first: int = 1 << 30
    last: int = -1
    known: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))

    def part(self, number: int, stage: str) -> Path:
        return self.folder / f"{stage}-{number:03d}"

    def opened(self, stage: str, files: ExitStack) -> list[Any]:
        return [files.enter_context(open(self.part(number, stage), "wb")) for number in range(PARTS)]


def convert_listens(
    blocks: Iterable[Listens],
    out: Path,
    *,
    source: str,
    frequency: str = "W",
    least: int = 20,
    top: int | None = FULL_CHART,
    world: bool = False,
) -> Tally:
    """Counts listens and writes the dataset folder.

    Args:
        blocks: the listens, in any order.
        out: the dataset folder.
        source: what `dataset.json` says they are.
        frequency: `W` (weeks that end on Thursday) or `D`.
        least: recordings with fewer listens in all regions and periods are left out.
        top: longest chart; None is all that was heard, and memory then grows with recordings times regions.
        world: count every listen in GLOBAL too, those of unknown region there alone.

    Raises:
        InputError: no listen could be counted, or no recording has as many as `least`.
    """
    with folder_beside(out.with_name(f"{out.name}.listens")) as folder:
        counts = _Counts(folder, frequency, world)
        _count(blocks, counts)
        charts = _add_up(counts)
        names = _chosen(counts, charts, least, top)
        _write(counts, charts, names, out, source, top)
    return counts.tally


# ------------------------------------------------------------------------------------------------------ first: count
def _count(blocks: Iterable[Listens], counts: _Counts) -> None:
    with ExitStack() as files:
        parts = counts.opened("counted", files)
        sink = files.enter_context(pa.OSFile(str(counts.folder / "names"), "wb"))
        names = files.enter_context(pa.ipc.new_stream(sink, _NAMES))
        for block in blocks:
            _count_block(block, counts, parts, names)
    if not counts.tally.counted:
        told = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in vars(counts.tally).items() if count)
        raise InputError(f"no listen could be counted ({told or 'there is none'}); see that columns and countries fit")


def _count_block(block: Listens, counts: _Counts, parts: list[Any], names: pa.ipc.RecordBatchStreamWriter) -> None:
    tally = counts.tally
    tally.read += len(block.day) + block.unread
    tally.unread += block.unread
    timed = block.day >= 0
    placed = timed & ((block.region >= 0) | counts.world)
    good = placed & (block.recording >= 0)
    tally.without_time += int((~timed).sum())
    tally.without_region += int((timed & ~placed).sum())
    tally.without_recording += int((placed & ~good).sum())
    tally.counted += int(good.sum())
    if not good.any():
        return
    day, code = block.day[good].astype(np.int64), block.recording[good].astype(np.int64)
    region = _own_codes(block.regions, counts)[block.region[good]]
    counts.first, counts.last = min(counts.first, int(day.min())), max(counts.last, int(day.max()))
    period = (day + PERIOD_DAYS[counts.frequency] - 1) // PERIOD_DAYS[counts.frequency]
    if counts.world:
        own, everywhere = region >= 0, _own_codes([WORLD], counts)[0]
        code, period = np.append(code, code[own]), np.append(period, period[own])
        region = np.append(np.full(len(region), everywhere), region[own])
    packed, number = np.unique(code << 32 | region << 16 | period, return_counts=True)
    hashes = pd.util.hash_array(np.array(block.keys, dtype=object))
    found = np.empty(len(packed), _COUNTED)
    found["recording"] = hashes[packed >> 32]
    found["region"], found["period"], found["count"] = packed >> 16 & 0x7FFF, packed & 0x7FFF, number
    _append_by_part(found, found["recording"] >> np.uint64(58), parts)
    _keep_names(hashes, np.unique(code), block.names, counts, names)


def _own_codes(regions: list[str], counts: _Counts) -> np.ndarray:
    """Codes of the whole run for a block's own; −1 stays −1."""
    counts.regions += [region for region in dict.fromkeys(regions) if region not in counts.regions]
    return np.append([counts.regions.index(region) for region in regions], -1).astype(np.int64)


def _append_by_part(rows: np.ndarray, part: np.ndarray, parts: list[Any]) -> None:
    part = part.astype(np.int64)
    order = np.argsort(part, kind="stable")
    edges = np.searchsorted(part[order], np.arange(PARTS + 1))
    rows = rows[order]
    for number in np.flatnonzero(np.diff(edges)):
        rows[edges[number] : edges[number + 1]].tofile(parts[number])


def _keep_names(
    hashes: np.ndarray, heard: np.ndarray, names: Names, counts: _Counts, stream: pa.ipc.RecordBatchStreamWriter
) -> None:
    place = np.searchsorted(counts.known, hashes[heard])
    there = place < len(counts.known)
    there[there] = counts.known[place[there]] == hashes[heard][there]
    new = heard[~there]
    if not len(new):
        return
    columns = [pa.array(hashes[new]), *(pa.array(values, pa.string()) for values in names.taken(new))]
    stream.write_batch(pa.record_batch(columns, schema=_NAMES))
    counts.known = np.union1d(counts.known, hashes[new])


# --------------------------------------------------------------------------------------------- second: add up and rank
@dataclass(frozen=True)
class _Charts:
    """How many recordings had how many listens: keys (region, period, count) packed, sorted; `rank` of each."""

    key: np.ndarray
    number: np.ndarray
    rank: np.ndarray
    start: np.ndarray

    def on_chart(self, top: int | None) -> np.ndarray:
        """Which keys are on the chart, with all their recordings: (keys,) bool."""
        worst = self.rank + self.number - 1
        return np.ones(len(self.key), bool) if top is None else worst <= top

    def places(self, region: np.ndarray, period: np.ndarray, count: np.ndarray) -> np.ndarray:
        """Which key each count is: positions."""
        return np.searchsorted(self.key, _key(region, period, count))

    def ranks(self, region: np.ndarray, period: np.ndarray, count: np.ndarray) -> np.ndarray:
        """Ranks of recordings with so many listens, from 1."""
        return self.rank[self.places(region, period, count)]


def _key(region: np.ndarray, period: np.ndarray, count: np.ndarray) -> np.ndarray:
    return (
        region.astype(np.uint64) << np.uint64(48) | period.astype(np.uint64) << np.uint64(32) | count.astype(np.uint64)
    )


def _add_up(counts: _Counts) -> _Charts:
    """Adds up the counts of each part, in its file, without those of periods that the log covers in part."""
    days = PERIOD_DAYS[counts.frequency]
    # Period p ends on day p * days; its first day is days - 1 earlier.
    whole_first, whole_last = -(-(counts.first + days - 1) // days), counts.last // days
    key, number = np.empty(0, np.uint64), np.empty(0, np.int64)
    for part in range(PARTS):
        rows = _summed(np.fromfile(counts.part(part, "counted"), _COUNTED))
        whole = (rows["period"] >= whole_first) & (rows["period"] <= whole_last)
        home = counts.regions.index(WORLD) if counts.world else None
        lost = rows[~whole] if home is None else rows[~whole & (rows["region"] == home)]
        counts.tally.in_part_periods += int(lost["count"].sum())
        rows = rows[whole]
        rows.tofile(counts.part(part, "counted"))
        mine, times = np.unique(_key(rows["region"], rows["period"], rows["count"]), return_counts=True)
        key, number = _merged(key, number, mine, times)
    counts.tally.counted -= counts.tally.in_part_periods
    if not len(key):
        raise InputError(
            f"the log runs from {_date(counts.first)} to {_date(counts.last)}: no whole week (Friday to Thursday) is "
            "in it; use --frequency D"
        )
    group = key >> np.uint64(32)
    start = np.flatnonzero(np.append(True, group[1:] != group[:-1]))
    upward = np.cumsum(number)
    ends = np.append(start[1:], len(key))
    # Recordings with more listens: those of the chart less those up to this count.
    better = np.repeat(upward[ends - 1], ends - start) - upward
    return _Charts(key, number, better + 1, start)


def _date(day: int) -> str:
    return str(np.datetime64(day, "D"))


def _summed(rows: np.ndarray) -> np.ndarray:
    if not len(rows):
        return rows
    rows = rows[np.lexsort((rows["period"], rows["region"], rows["recording"]))]
    place = rows[["recording", "region", "period"]]
    first = np.flatnonzero(np.append(True, place[1:] != place[:-1]))
    summed = rows[first]
    summed["count"] = np.add.reduceat(rows["count"].astype(np.int64), first)
    return summed


def _merged(key: np.ndarray, number: np.ndarray, other: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    keys, places = np.unique(np.append(key, other), return_inverse=True)
    return keys, np.bincount(places, np.append(number, times), len(keys)).astype(np.int64)


def _chosen(counts: _Counts, charts: _Charts, least: int, top: int | None) -> pd.DataFrame:
    """Recordings with enough listens and, with `top`, a place on a chart; their rows stay in the files of their parts.

    Returns:
        Index: hash, sorted. Columns: track_id, title, artist.
    """
    kept = []
    on_chart = charts.on_chart(top)
    for part in range(PARTS):
        rows = np.fromfile(counts.part(part, "counted"), _COUNTED)
        hashes, places = np.unique(rows["recording"], return_inverse=True)
        enough = np.bincount(places, rows["count"], len(hashes)) >= least
        if counts.world:
            # Each listen is counted twice there.
            home = rows["region"] == counts.regions.index(WORLD)
            enough = np.bincount(places, rows["count"] * home, len(hashes)) >= least
        good = enough[places]
        if top is not None:
            good &= on_chart[charts.places(rows["region"], rows["period"], rows["count"])]
        rows = rows[good]
        rows.tofile(counts.part(part, "counted"))
        kept.append(np.unique(rows["recording"]))
        counts.tally.left_out += int((~enough).sum())
    wanted = np.sort(np.concatenate(kept))
    if not len(wanted):
        raise InputError(
            f"no recording has {least} listens or more and a place on a chart ({counts.tally.left_out} have fewer); "
            "lower --least, or ask for longer charts with --top"
        )
    return _read_names(counts.folder / "names", wanted)


def _read_names(path: Path, wanted: np.ndarray) -> pd.DataFrame:
    found = []
    with pa.OSFile(str(path)) as source, pa.ipc.open_stream(source) as stream:
        for batch in stream:
            hashes = batch.column(0).to_numpy()
            place = np.minimum(np.searchsorted(wanted, hashes), len(wanted) - 1)
            mine = wanted[place] == hashes
            if mine.any():
                found.append(pa.table([column.filter(pa.array(mine)) for column in batch.columns], schema=_NAMES))
    names = pa.concat_tables(found).to_pandas().set_index("hash")
    # A block names a recording once, and two blocks that were counted apart may both have named it.
    return names[~names.index.duplicated()].loc[wanted]


# ------------------------------------------------------------------------------------------------------ third: write
def _write(counts: _Counts, charts: _Charts, names: pd.DataFrame, out: Path, source: str, top: int | None) -> None:
    from data_prep.versions import assign_songs
    from mp3model.tables.folder import SCHEMAS, DatasetFolder, write_dataset
    from mp3model.tables.schema import validate
    from mp3model.tables.splits import make_splits

    twice = names["track_id"].duplicated()
    if twice.any():
        raise InputError(f"recording {names['track_id'][twice].iloc[0]!r} has two names; give recordings an id each")
    order = np.argsort(names["track_id"].to_numpy(dtype=object), kind="stable")
    ids = names["track_id"].to_numpy(dtype=object)[order]
    _place(counts, charts, names.index.to_numpy(np.uint64), np.argsort(order))
    tracks = names.iloc[order].reset_index(drop=True)
    songs = assign_songs(tracks)
    tracks = pd.DataFrame(
        {
            "track_id": ids,
            "song_id": songs["song_id"].to_numpy(),
            "title": tracks["title"],
            "artist": tracks["artist"],
            "isrc": None,
            "release_date": pd.NaT,
            "kind": songs["kind"].to_numpy(),
        }
    )
    info: dict[str, Any] = {"frequency": counts.frequency, "horizon": None, "sources": [source]}
    info["listens"] = vars(counts.tally)
    tables = {"tracks": tracks, "charts": _chart_table(charts, counts, top)}
    # A debut is a track's first row in a region: no other row can change which debuts there are.
    firsts = pd.concat([_frame(_first_rows(rows), ids, counts) for rows in _placed(counts)], ignore_index=True)
    settled = {name: validate(table, SCHEMAS[name], out / f"{name}.parquet") for name, table in tables.items()}
    settled["curves"] = validate(firsts, SCHEMAS["curves"], out / "curves.parquet")
    splits = make_splits(DatasetFolder(path=out, info=dict(info), **settled))
    del settled, firsts
    blocks = (_frame(rows, ids, counts) for rows in _placed(counts))
    write_dataset(out, curves=blocks, splits=splits, info=info, **tables)


def _place(counts: _Counts, charts: _Charts, hashes: np.ndarray, track: np.ndarray) -> None:
    """Files the rows anew, by the order of their track ids, with their ranks."""
    with ExitStack() as files:
        parts = counts.opened("placed", files)
        for part in range(PARTS):
            rows = np.fromfile(counts.part(part, "counted"), _COUNTED)
            placed = np.empty(len(rows), _PLACED)
            for name in ("region", "period", "count"):
                placed[name] = rows[name]
            placed["track"] = track[np.searchsorted(hashes, rows["recording"])]
            placed["rank"] = charts.ranks(rows["region"], rows["period"], rows["count"])
            _append_by_part(placed, placed["track"].astype(np.int64) * PARTS // len(track), parts)
            counts.part(part, "counted").unlink()


def _placed(counts: _Counts) -> Iterator[np.ndarray]:
    for part in range(PARTS):
        rows = np.fromfile(counts.part(part, "placed"), _PLACED)
        if len(rows):
            yield rows[np.lexsort((rows["period"], rows["region"], rows["track"]))]


def _first_rows(rows: np.ndarray) -> np.ndarray:
    place = rows[["track", "region"]]
    return rows[np.append(True, place[1:] != place[:-1])]


def _frame(rows: np.ndarray, ids: np.ndarray, counts: _Counts) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "track_id": pd.Series(ids[rows["track"]], dtype="str"),
            "region": pd.Series(np.array(counts.regions, dtype=object)[rows["region"]], dtype="str"),
            "date": _ends(rows["period"], counts),
            "streams": rows["count"].astype(float),
            "rank": rows["rank"].astype(np.int32),
        }
    )


def _ends(period: np.ndarray, counts: _Counts) -> np.ndarray:
    return (period.astype(np.int64) * PERIOD_DAYS[counts.frequency]).astype("datetime64[D]").astype("datetime64[s]")


def _chart_table(charts: _Charts, counts: _Counts, top: int | None) -> pd.DataFrame:
    """Floor, lowest and size of each chart that holds anyone; see `mp3model.tables.folder`."""
    start = charts.start
    streams = (charts.key & np.uint64(0xFFFFFFFF)).astype(float)
    listed = charts.on_chart(top)
    total = np.add.reduceat(charts.number, start)
    size = np.add.reduceat(charts.number * listed, start)
    lowest = np.minimum.reduceat(np.where(listed, streams, np.inf), start)
    length = min(FULL_CHART, top or FULL_CHART)
    # Keys of a chart rise with their streams: rank j is number total - j + 1 from below.
    upward = np.cumsum(charts.number)
    below = upward[start] - charts.number[start]
    ranks = [np.minimum(length - back, total) for back in range(min(FLOOR_RANKS, length))]
    last = np.mean([streams[np.searchsorted(upward, below + total - rank + 1)] for rank in ranks], axis=0)
    key = charts.key[start]
    regions = np.array(counts.regions, dtype=object)[(key >> np.uint64(48)).astype(int)]
    table = pd.DataFrame(
        {
            "region": pd.Series(regions, dtype="str"),
            "date": _ends((key >> np.uint64(32) & np.uint64(0x7FFF)).astype(np.int64), counts),
            "floor": np.where(size >= length, last, lowest),
            "lowest": lowest,
            "size": size,
        }
    )
    return table[size > 0].reset_index(drop=True)
