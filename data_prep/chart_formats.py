"""Chart exports as they come (files, folders, zip, gz) in, coded chart rows with every rejected row counted out.

A file is known by its content: by what its header names, not by its own name. Only the old and new chart sites write
date and region into the file's name alone; there the name is read. Formats:

  spotifycharts.com CSV     Position, Track Name, Artist, Streams, URL; weekly files `A--B` end on B − 1
  charts.spotify.com CSV    rank, uri, artist_names, track_name, …, streams; the date is the week's last day
  chart table               the same columns with Date and Region, in any order and under several names
  full chart table          title, rank, date, artist, url, region, chart, trend, streams: daily; no viral50
  country table             Song, Artist, Date, Song ID, Streams, Rank: weekly, the date is the week's first day
  kworb CSV, kworb pages    see `data_prep.kworb`
  saved chart page          `table.chart-table` of the old site
  distributor or label export   date, ISRC, territory, quantity: full streams, no chart
  track table               track_id with title, artist, release_date, isrc or audio descriptors
"""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date as Date
from datetime import timedelta
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep.regions import region_code, region_in_name
from mp3model.files import InputError

EPOCH = np.datetime64("1980-01-01", "D")
EXAMPLES = 3
BLOCK_BYTES = 16 << 20
PARQUET_ROWS = 1 << 18
THURSDAY, FRIDAY = 3, 4
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

_ROLE_NAMES = {
    "rank": "position rank pos chartposition",
    "title": "trackname title song songname track tracktitle songtitle",
    "artist": "artist artistnames artists artistname performer",
    "streams": "streams streamcount quantity units plays netquantity",
    "id": "trackid songid spotifyid spotifytrackid id",
    "url": "url uri trackuri trackurl spotifyuri spotifyurl link",
    "end": "enddate weekend weekending periodend",
    "start": "weekstart startdate periodstart",
    "date": "date chartdate reportdate salesdate salesday streamdate reportingdate activitydate week",
    "year": "year",
    "month": "month",
    "day": "day",
    "region": "region country territory market countrycode countryname territorycode storefront countryofsale",
    "chart": "chart",
    "isrc": "isrc isrccode",
    "release": "releasedate albumreleasedate",
}
_ROLES = {name: role for role, names in _ROLE_NAMES.items() for name in names.split()}
AUDIO_DESCRIPTORS = [
    "danceability",
    "energy",
    "key",
    "loudness",
    "mode",
    "speechiness",
    "acousticness",
    "instrumentalness",
    "liveness",
    "valence",
    "tempo",
    "duration_ms",
    "time_signature",
    "explicit",
]
# The headers a damaged one is compared with, to name the column it lacks.
_KNOWN_HEADERS = {
    "spotifycharts.com CSV": "Position,Track Name,Artist,Streams,URL",
    "charts.spotify.com CSV": "rank,uri,artist_names,track_name,source,peak_rank,previous_rank,weeks_on_chart,streams",
    "chart table": "Position,Track Name,Artist,Streams,URL,Date,Region",
    "full chart table": "title,rank,date,artist,url,region,chart,trend,streams",
    "country table": "Song,Artist,Date,Song ID,Streams,Rank",
    "long table": "region,date,track_id,rank,streams",
    "distributor or label export": "date,isrc,territory,quantity",
}
_NOTE = re.compile(r'^[,;\t]*"?Note that these figures')
_TRACK_ID = re.compile(r"(?:^|track[:/])([0-9A-Za-z]{22})(?:$|[?/#\s])")
_PLAIN_ID = re.compile(r"^\S{1,80}$")
_DATE = re.compile(r"^\s*(\d{4})([-/.]?)(\d{2})\2(\d{2})(?:[T ].*)?\s*$")
_DATE_IN_NAME = re.compile(r"(?<!\d)(\d{4}-\d{2}-\d{2})(?:--(\d{4}-\d{2}-\d{2}))?(?!\d)")
_ISRC = re.compile(r"^[A-Z]{2}[A-Z0-9]{3}\d{7}$")
KWORB_CSV_HEADER = [
    "date",
    "pos",
    "p+",
    "artist-title",
    "days",
    "pk",
    "x",
    "streams",
    "streams+",
    "7day",
    "7day+",
    "total",
]


@dataclass(frozen=True)
class Options:
    """What the user says about files that do not say it themselves.

    Attributes:
        columns: role → column name, for exports with names of their own.
        region: of files that name none.
        periods: pattern in a file's name → `day`, `week-start` or `week-end`.
        today: the last day a chart can have.
    """

    columns: dict[str, str] = field(default_factory=dict)
    region: str | None = None
    periods: dict[str, str] = field(default_factory=dict)
    today: Date = field(default_factory=Date.today)


@dataclass(frozen=True)
class Source:
    """One file, or one member of a zip: `name` as reports show it, `named` if the user gave it by name."""

    name: str
    path: Path
    member: str | None = None
    named: bool = False

    @contextmanager
    def opened(self, raw: bool = False) -> Iterator[IO[bytes]]:
        """The bytes; gz content decompressed unless `raw`.

        Raises:
            InputError: the file cannot be read.
        """
        try:
            if self.member is None:
                with open(self.path, "rb") as stream:
                    yield self._decompressed(stream, raw)
            else:
                with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as stream:
                    yield self._decompressed(stream, raw)
        except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
            raise InputError(f"{self.name}: damaged or cut short ({error}); copy it again") from error

    @staticmethod
    def _decompressed(stream: IO[bytes], raw: bool) -> IO[bytes]:
        head = stream.read(2)
        stream.seek(0)
        return gzip.open(stream) if head == b"\x1f\x8b" and not raw else stream  # type: ignore[return-value]

    def sha256(self) -> str:
        with self.opened(raw=True) as stream:
            digest = hashlib.sha256()
            while block := stream.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()


def find_sources(inputs: Sequence[Path]) -> list[Source]:
    """Every file below the inputs, folders and zips opened, in an order that depends on names alone.

    Raises:
        InputError: an input does not exist, or a zip is damaged.
    """
    found: list[Source] = []
    for given in inputs:
        if given.is_dir():
            files = sorted(p for p in given.rglob("*") if p.is_file() and not p.name.startswith("."))
            for path in files:
                found += _unzipped(path, str(path.relative_to(given.parent)), named=False)
        elif given.is_file():
            found += _unzipped(given, given.name, named=True)
        else:
            raise InputError(f"{given}: no such file or folder; give chart exports")
    seen: dict[str, Source] = {}
    for source in found:
        name = source.name
        if name in seen and seen[name].path.resolve() == source.path.resolve():
            continue
        while name in seen:
            name += " (other folder)"
        seen[name] = Source(name, source.path, source.member, source.named)
    return list(seen.values())


def _unzipped(path: Path, name: str, named: bool) -> list[Source]:
    if not zipfile.is_zipfile(path):
        return [Source(name, path, None, named)]
    try:
        with zipfile.ZipFile(path) as archive:
            members = sorted(i.filename for i in archive.infolist() if not i.is_dir())
    except zipfile.BadZipFile as error:
        raise InputError(f"{path}: damaged zip ({error}); copy it again") from error
    hidden = re.compile(r"(^|/)(\.|__MACOSX)")
    return [Source(f"{name}/{member}", path, member) for member in members if not hidden.search(member)]


class Codes:
    """Texts ↔ running numbers, the same for all files of one run."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._numbers: dict[str, int] = {}

    def number(self, text: str) -> int:
        found = self._numbers.get(text)
        if found is None:
            found = self._numbers[text] = len(self.texts)
            self.texts.append(text)
        return found

    def numbers(self, texts: Iterable[str | None]) -> np.ndarray:
        """int32 codes, −1 for None."""
        return np.array([-1 if text is None else self.number(text) for text in texts], np.int32)


@dataclass
class Rejected:
    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, count: int, examples: Iterable[str]) -> None:
        self.count += count
        self.examples += [text for text, _ in zip(examples, range(EXAMPLES - len(self.examples)), strict=False)]


@dataclass
class SourceRows:
    """What one file held.

    Attributes:
        kind: `chart` (whole charts), `page` (rows of single tracks), `export` (full streams), `tracks`, `totals`.
        frequency: `W`, `D` or None where it has no dated rows.
        blocks: (track, region, day, rank, streams) arrays; day counts from EPOCH, rank 0 and streams NaN are unknown.
        texts: blocks of (track codes, title, artist, isrc) as the file first gives them.
        info: for a track table, a frame indexed by track code; for a totals page, its rows.
        summed: rows of an export that were added to others.
        coded: rows that came out of the file, also once `blocks` has been taken.
    """

    source: Source
    format: str
    kind: str = "chart"
    frequency: str | None = None
    date_means: str = "day"
    read: int = 0
    rejected: dict[str, Rejected] = field(default_factory=dict)
    blocks: list[tuple[np.ndarray, ...]] = field(default_factory=list)
    texts: list[tuple[np.ndarray, list, list, list]] = field(default_factory=list)
    info: Any = None
    notes: list[str] = field(default_factory=list)
    sha256: str = ""
    summed: int = 0
    coded: int = 0

    @property
    def name(self) -> str:
        return self.source.name

    def recode(self, tracks: np.ndarray, regions: np.ndarray) -> None:
        """Puts other codes in place of those the file was read with: (codes,) new ones by old ones."""
        # Past the end stands the code of no track.
        tracks, regions = (np.append(codes, -1) for codes in (tracks, regions))
        self.blocks = [
            (tracks[track].astype(track.dtype), regions[region].astype(region.dtype), *rest)
            for track, region, *rest in self.blocks
        ]
        self.texts = [(tracks[codes].astype(codes.dtype), *rest) for codes, *rest in self.texts]
        if self.kind == "totals":
            self.info = self.info.assign(track=tracks[self.info["track"]].astype(self.info["track"].dtype))
        elif self.info is not None:
            info = self.info.set_axis(tracks[self.info.index].astype(self.info.index.dtype))
            self.info = info if self.kind == "tracks" else info.sort_index()

    def reject(self, reason: str, count: int, examples: Iterable[str]) -> None:
        if count:
            self.rejected.setdefault(reason, Rejected()).add(count, examples)

    @property
    def rows(self) -> int:
        return sum(len(block[0]) for block in self.blocks)


class NotAChartError(InputError):
    """The file holds nothing of what this command reads; in a folder it is left out, by name it is an error."""


# ------------------------------------------------------------------------------------------------ reading one file
def read_source(source: Source, tracks: Codes, regions: Codes, options: Options) -> list[SourceRows]:
    """Recognises a file by its content and reads it; a kworb page holds two charts, all else one.

    Raises:
        NotAChartError: nothing in the file is known.
        InputError: it is a chart but a column is missing, or its dates, region or frequency cannot be told.
    """
    with source.opened() as stream:
        head = stream.read(1 << 16)
    if head[:4] == b"PAR1":
        found = [_read_parquet(source, tracks, regions, options)]
    elif re.match(rb"\s*(\xef\xbb\xbf)?\s*<", head):
        found = _read_page(source, tracks, regions, options)
    elif b"\0" in head:
        raise NotAChartError(f"{source.name}: is neither text, parquet, html, zip nor gz; give a chart export")
    else:
        found = [_read_text(source, head, tracks, regions, options)]
    digest = source.sha256()
    for rows in found:
        rows.sha256 = digest
        if rows.frequency is not None:
            _settle_period(rows, options)
    return found


def _read_text(source: Source, head: bytes, tracks: Codes, regions: Codes, options: Options) -> SourceRows:
    encoding = _encoding(source)
    lines = head.decode(encoding, errors="replace").removeprefix("\ufeff").splitlines()
    skip = next((i for i, line in enumerate(lines) if line.strip() and not _NOTE.match(line)), len(lines))
    if skip >= len(lines):
        raise NotAChartError(f"{source.name}: is empty; give a chart export")
    import csv

    delimiter = max(",;\t", key=lines[skip].count)
    header = [name.strip() for name in next(csv.reader([lines[skip]], delimiter=delimiter))]
    if _is_kworb_row(header):
        plan = _Plan(source, KWORB_CSV_HEADER, "kworb CSV", kind="chart")
        plan.roles = {"date": "date", "rank": "pos", "credit": "artist-title", "streams": "streams"}
        plan.frequency = "D"
        return plan.read(_csv_blocks(source, skip, delimiter, encoding, KWORB_CSV_HEADER), tracks, regions, options)
    plan = plan_for(source, header, options)
    return plan.read(_csv_blocks(source, skip + 1, delimiter, encoding, header), tracks, regions, options)


def _encoding(source: Source) -> str:
    """UTF-8, or Windows-1252 where a byte of the file is no UTF-8."""
    import codecs

    decoder = codecs.getincrementaldecoder("utf-8")()
    with source.opened() as stream:
        try:
            while block := stream.read(1 << 22):
                decoder.decode(block)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return "cp1252"
    return "utf-8"


def _is_kworb_row(cells: Sequence[str]) -> bool:
    return (
        len(cells) == len(KWORB_CSV_HEADER)
        and _DATE.match(cells[0]) is not None
        and cells[1].isdigit()
        and re.fullmatch(r"=|NEW|RE|[+-]\d+", cells[2]) is not None
    )


@dataclass
class _Block:
    """A table; `first_row` counts from 1 the rows that have the right number of cells."""

    table: pa.Table
    first_row: int
    broken: list[str] = field(default_factory=list)
    broken_count: int = 0


def _csv_blocks(source: Source, skip: int, delimiter: str, encoding: str, header: list[str]) -> Iterator[_Block]:
    """Tables of text columns, about 16 MB of file each; rows with a wrong number of cells come last, as a count."""
    import pyarrow.csv

    # The reader parses ahead in a thread of its own, so broken rows are counted at the end and not with their block.
    broken: list[str] = []
    count = 0

    def on_invalid(row: Any) -> str:
        nonlocal count
        if len(broken) < EXAMPLES:
            broken.append(f"{row.actual_columns} cells instead of {row.expected_columns}: {(row.text or '')[:120]}")
        count += 1
        return "skip"

    names = [f"{i}" for i in range(len(header))]
    read = pyarrow.csv.ReadOptions(block_size=BLOCK_BYTES, skip_rows=skip, column_names=names, encoding=encoding)
    parse = pyarrow.csv.ParseOptions(delimiter=delimiter, invalid_row_handler=on_invalid)
    convert = pyarrow.csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False, quoted_strings_can_be_null=False
    )
    first = 1
    with source.opened() as stream:
        try:
            for batch in _batches(stream, read, parse, convert):
                table = pa.Table.from_batches([batch]).rename_columns(header if _unique(header) else names)
                yield _Block(table, first)
                first += len(table)
        except pa.ArrowInvalid as error:
            raise InputError(f"{source.name}: cannot be read as CSV ({_first_line(error)}); save it again") from error
    if count:
        yield _Block(
            pa.table({name: pa.array([], pa.string()) for name in dict.fromkeys(header)}), first, broken, count
        )


def _batches(stream: IO[bytes], read: Any, parse: Any, convert: Any) -> Iterator[pa.RecordBatch]:
    import pyarrow.csv

    try:
        yield from pyarrow.csv.open_csv(stream, read, parse, convert)
    except pa.ArrowInvalid as error:
        if "mpty CSV" not in str(error):
            raise


def _unique(names: Sequence[str]) -> bool:
    return len(set(names)) == len(names)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


def _read_parquet(source: Source, tracks: Codes, regions: Codes, options: Options) -> SourceRows:
    import pyarrow.parquet

    with source.opened() as stream:
        try:
            file = pyarrow.parquet.ParquetFile(stream if stream.seekable() else io.BytesIO(stream.read()))
            names = [name for name in file.schema_arrow.names if not name.startswith("__index_level_")]
            plan = plan_for(source, names, options)

            def blocks() -> Iterator[_Block]:
                first = 1
                for batch in file.iter_batches(PARQUET_ROWS, columns=names):
                    yield _Block(pa.Table.from_batches([batch]), first)
                    first += len(batch)

            return plan.read(blocks(), tracks, regions, options)
        except (pa.ArrowException, OSError) as error:
            raise InputError(
                f"{source.name}: cut short or no parquet file ({_first_line(error)}); copy it again"
            ) from error


def _read_page(source: Source, tracks: Codes, regions: Codes, options: Options) -> list[SourceRows]:
    from data_prep.kworb import read_page

    with source.opened() as stream:
        text = stream.read().decode("utf-8", errors="replace")
    pages = read_page(text, source.name)
    if not pages:
        raise NotAChartError(f"{source.name}: is no chart page that is known; give chart or kworb pages")
    found = []
    for page in pages:
        plan = _Plan(source, list(page.columns), page.format, kind=page.kind)
        plan.roles = {name: name for name in page.columns}
        plan.frequency, plan.date_means = page.frequency, page.date_means
        plan.fixed_region, plan.fixed_date = page.region, page.date
        if page.kind == "totals":
            found.append(_read_totals(plan, page, tracks, options))
            continue
        table = pa.table({name: pa.array(values, pa.string()) for name, values in page.columns.items()})
        rows = plan.read(iter([_Block(table, 1)]), tracks, regions, options)
        for reason, texts in page.rejected.items():
            rows.read += len(texts)
            rows.reject(reason, len(texts), texts)
        found.append(rows)
    return found


def _read_totals(plan: _Plan, page: Any, tracks: Codes, options: Options) -> SourceRows:
    import pandas as pd

    region = page.region or region_in_name(plan.source.name) or options.region
    if region is None:
        raise InputError(f"{plan.source.name}: names no country; put it into the file's name or give --region")
    titles, artists, ids = (page.columns[name] for name in ("title", "artist", "id"))
    codes = tracks.numbers(ids)
    totals = [
        float(text.replace(",", "")) if text.replace(",", "").isdigit() else np.nan for text in page.columns["total"]
    ]
    rows = SourceRows(plan.source, page.format, "totals", read=len(codes))
    good = np.isfinite(totals)
    rows.reject("total is no number", int((~good).sum()), (page.columns["total"][i] for i in np.flatnonzero(~good)))
    rows.texts.append((codes, titles, artists, [None] * len(codes)))
    rows.info = pd.DataFrame({"track": codes[good], "region": region, "total": np.asarray(totals)[good]})
    return rows


# --------------------------------------------------------------------------------------------- what the header says
def plan_for(source: Source, header: Sequence[str], options: Options) -> _Plan:
    """Roles of a header's columns, and the format they make.

    Raises:
        NotAChartError: the columns are nothing this command reads.
        InputError: they are almost; names the one that is missing.
    """
    names = list(header)
    roles: dict[str, str] = {}
    for name in names:
        role = _ROLES.get(re.sub(r"[\W_]+", "", name).casefold())
        if role is not None and role not in roles:
            roles[role] = name
    asked = {role: column for role, column in options.columns.items() if column in names}
    own_export = bool(options.columns) and len(asked) == len(options.columns)
    if own_export:
        roles |= asked
    has = roles.keys().__contains__
    descriptors = [name for name in names if name.casefold() in AUDIO_DESCRIPTORS]
    dated = has("date") or has("end") or has("start") or (has("year") and has("month") and has("day"))
    named = has("id") or has("url") or (has("title") and has("artist"))
    plain = {re.sub(r"[\W_]+", "", name).casefold() for name in names}
    if has("rank") and has("streams") and named:
        plan = _Plan(source, names, "chart table")
        plan.roles, plan.descriptors = roles, descriptors
        _name_chart(plan, plain, dated)
        return plan
    if has("streams") and has("date") and has("region") and (has("isrc") or (own_export and named)) and not has("rank"):
        plan = _Plan(source, names, "distributor or label export", kind="export")
        plan.roles = roles
        return plan
    chart_like = has("rank") or has("streams") or has("isrc") or (has("chart") and has("date"))
    if (has("id") or has("url")) and not chart_like | (dated and has("region")):
        return _track_plan(source, names, roles)
    if has("id") and has("isrc") and not (has("rank") or has("streams") or dated):
        return _track_plan(source, names, roles)
    raise _missing_column(source, names)


def _name_chart(plan: _Plan, plain: set[str], dated: bool) -> None:
    roles = plan.roles
    if {"trend", "chart"} <= plain and "region" in roles and dated:
        plan.format, plan.frequency = "full chart table", "D"
    elif "weeksonchart" in plain or "daysonchart" in plain:
        plan.format = "charts.spotify.com CSV"
        plan.frequency = "W" if "weeksonchart" in plain else "D"
        plan.date_means = "week-end" if plan.frequency == "W" else "day"
    elif {"song", "songid", "date"} <= plain and "url" not in roles:
        plan.format, plan.frequency, plan.date_means = "country table", "W", "week-start"
    elif not dated:
        plan.format = "spotifycharts.com CSV"
    if "start" in roles and not {"date", "end"} & roles.keys():
        plan.frequency, plan.date_means = "W", "week-start"


def _track_plan(source: Source, names: list[str], roles: dict[str, str]) -> _Plan:
    plan = _Plan(source, names, "track table", kind="tracks")
    plan.roles = dict(roles)
    if "title" not in plan.roles and "name" in names:
        plan.roles["title"] = "name"
    taken = {*plan.roles.values()}
    plan.descriptors = [name for name in names if name not in taken]
    useful = {"title", "artist", "isrc", "release"} & plan.roles.keys()
    if not useful and not any(name.casefold() in AUDIO_DESCRIPTORS for name in names):
        raise _missing_column(source, names)
    return plan


def _missing_column(source: Source, names: list[str]) -> InputError:
    """The error for a header that is no format: the nearest format's first missing column, or "no chart"."""
    plain = {re.sub(r"[\W_]+", "", name).casefold() for name in names}

    def lacks(wanted: str) -> list[str]:
        return [name for name in wanted.split(",") if re.sub(r"[\W_]+", "", name).casefold() not in plain]

    nearest = min(
        _KNOWN_HEADERS, key=lambda form: len(lacks(_KNOWN_HEADERS[form])) / (_KNOWN_HEADERS[form].count(",") + 1)
    )
    missing = lacks(_KNOWN_HEADERS[nearest])
    shown = ", ".join(names[:20])
    if len(missing) * 2 > _KNOWN_HEADERS[nearest].count(",") + 1:
        return NotAChartError(
            f"{source.name}: no chart format has the columns {shown}; give a chart export or --columns"
        )
    return InputError(
        f"{source.name}: column {missing[0]!r} is missing for a {nearest} ({_KNOWN_HEADERS[nearest]}); "
        f"it has {shown}: rename or add the column"
    )


# ------------------------------------------------------------------------------------------------- rows from tables
@dataclass
class _Plan:
    """How the columns of one file are read."""

    source: Source
    header: list[str]
    format: str
    kind: str = "chart"
    roles: dict[str, str] = field(default_factory=dict)
    descriptors: list[str] = field(default_factory=list)
    frequency: str | None = None
    date_means: str = "day"
    fixed_region: str | None = None
    fixed_date: Date | None = None

    def read(self, blocks: Iterator[_Block], tracks: Codes, regions: Codes, options: Options) -> SourceRows:
        if not _unique(self.header):
            twice = next(name for name in self.header if self.header.count(name) > 1)
            raise InputError(f"{self.source.name}: column {twice!r} is there twice; keep one")
        if self.kind == "tracks":
            return _read_track_table(self, blocks, tracks)
        self._place(options)
        rows = SourceRows(self.source, self.format, self.kind, self.frequency or "?", self.date_means)
        known: set[int] = set()
        details: list[Any] = []
        for block in blocks:
            rows.read += len(block.table) + block.broken_count
            rows.reject("wrong number of cells in the row", block.broken_count, block.broken)
            if len(block.table):
                _Converter(self, block, rows, tracks, regions, options).run(known, details)
        if details:
            import pandas as pd

            rows.info = pd.concat(details).groupby(level=0, sort=True).first()
        return rows

    def _place(self, options: Options) -> None:
        """Date, region and frequency that no column gives, from the file's name."""
        name = self.source.name
        dated = {"date", "end", "start"} & self.roles.keys() or {"year", "month", "day"} <= self.roles.keys()
        span = _DATE_IN_NAME.search(Path(name).name)
        if self.frequency is None:
            told = re.search(r"daily|weekly", Path(name).name, re.IGNORECASE)
            if told:
                self.frequency = "D" if told[0].lower() == "daily" else "W"
                if self.frequency == "W" and self.date_means == "day":
                    self.date_means = "week-end"
        if not dated and self.fixed_date is None:
            if span is None:
                raise InputError(f"{name}: neither a column nor the file's name gives the date; name it as 2020-01-31")
            self.fixed_date = _named_day(span[1], name)
            if span[2]:
                self.fixed_date = _week_of_span(span[1], span[2], name)
                self.frequency, self.date_means = "W", "week-end"
        if "region" not in self.roles and self.fixed_region is None:
            self.fixed_region = region_in_name(name) or options.region
            if self.fixed_region is None:
                raise InputError(
                    f"{name}: neither a column nor the file's name gives one region; give --region CODE, or name the "
                    "file as regional-us-weekly-…"
                )


def _named_day(text: str, name: str) -> Date:
    try:
        return Date.fromisoformat(text)
    except ValueError as error:
        raise InputError(f"{name}: {text} in the file's name is no day; correct the name") from error


def _week_of_span(first: str, second: str, name: str) -> Date:
    start, after = _named_day(first, name), _named_day(second, name)
    if (after - start).days != 7 or start.weekday() != FRIDAY:
        raise InputError(
            f"{name}: {first}--{second} is no chart week, which runs from a Friday to the next Friday; correct the name"
        )
    return after - timedelta(days=1)


class _Converter:
    """One block of a file's rows to coded arrays; the first reason that fits rejects a row."""

    def __init__(
        self, plan: _Plan, block: _Block, rows: SourceRows, tracks: Codes, regions: Codes, options: Options
    ) -> None:
        self.plan, self.block, self.rows = plan, block, rows
        self.tracks, self.regions, self.options = tracks, regions, options
        self.alive = np.ones(len(block.table), bool)

    def column(self, role: str) -> pa.ChunkedArray | None:
        name = self.plan.roles.get(role)
        return None if name is None else self.block.table.column(name)

    def reject(self, bad: np.ndarray, reason: str) -> None:
        bad = bad & self.alive
        if not bad.any():
            return
        self.alive &= ~bad
        self.rows.reject(reason, int(bad.sum()), (self.shown(i) for i in np.flatnonzero(bad)[:EXAMPLES]))

    def shown(self, row: int) -> str:
        cells = [str(column[row].as_py()) for column in self.block.table.columns]
        return f"row {self.block.first_row + row}: " + ",".join(cells)[:160]

    def run(self, known: set[int], details: list[Any]) -> None:
        self._reject_headers_and_other_charts()
        rank = self._ranks()
        region = self._region_codes()
        day = self._days()
        track = self._track_codes()
        streams = self._streams()
        keep = np.flatnonzero(self.alive)
        self.rows.blocks.append((track[keep], region[keep], day[keep], rank[keep], streams[keep]))
        codes, first = np.unique(track[keep], return_index=True)
        new = np.array([code not in known for code in codes.tolist()], bool)
        known.update(codes[new].tolist())
        self._keep_texts(codes[new], keep[first[new]])
        if self.plan.descriptors and new.any():
            details.append(_descriptor_frame(self.block.table, self.plan.descriptors, keep[first[new]], codes[new]))

    def _reject_headers_and_other_charts(self) -> None:
        rank_name, rank = self.plan.roles.get("rank"), self.column("rank")
        if rank is not None and pa.types.is_string(rank.type):
            self.reject(_mask(pc.equal(rank, rank_name)), "header line repeated among the rows")
        chart = self.column("chart")
        if chart is not None:
            self.reject(_mask(pc.equal(chart, "viral50")), "viral50 row: that chart has no streams")
            self.reject(~_mask(pc.equal(chart, "top200")), "chart is neither top200 nor viral50: cells out of place")

    def _ranks(self) -> np.ndarray:
        column = self.column("rank")
        if column is None:
            return np.zeros(len(self.alive), np.int16)
        value = to_numbers(column)
        whole = np.isfinite(value) & (value == np.round(value)) & (value >= 1) & (value <= 30_000)
        if self.plan.kind == "chart":
            self.reject(~whole, "rank is no whole number from 1")
        return np.where(whole, value, 0).astype(np.int16)

    def _region_codes(self) -> np.ndarray:
        column = self.column("region")
        if column is None:
            return np.full(len(self.alive), self.regions.number(str(self.plan.fixed_region)), np.int16)
        codes, texts = _distinct(column)
        found = self.regions.numbers(region_code(str(text)) if text else None for text in texts)
        region = np.append(found, -1)[codes].astype(np.int16)
        self.reject(region < 0, "region is no country that is known")
        return region

    def _days(self) -> np.ndarray:
        role = next((role for role in ("end", "date", "start") if role in self.plan.roles), None)
        if role is None and "year" in self.plan.roles and self.plan.fixed_date is None:
            parts = [to_numbers(self.block.table.column(self.plan.roles[name])) for name in ("year", "month", "day")]
            packed = np.nan_to_num(parts[0] * 10_000 + parts[1] * 100 + parts[2]).astype(np.int64)
            uniques, codes = np.unique(packed, return_inverse=True)
            days = np.array([_day_number(str(value)) for value in uniques], np.int32)[codes]
        elif role is None:
            assert self.plan.fixed_date is not None
            days = np.full(len(self.alive), _day_number(self.plan.fixed_date.isoformat()), np.int32)
        else:
            codes, texts = _distinct(self.block.table.column(self.plan.roles[role]))
            days = np.append([_day_number(str(text)) for text in texts], -1).astype(np.int32)[codes]
        self.reject(days < 0, "date cannot be read as YYYY-MM-DD")
        self.reject(days > _day_number(self.options.today.isoformat()), "date lies in the future")
        return days

    def _track_codes(self) -> np.ndarray:
        url, plain, isrc = self.column("url"), self.column("id"), self.column("isrc")
        result = np.full(len(self.alive), -1, np.int32)
        for column, read in ((plain, _any_id), (url, _site_id), (isrc, _isrc_id)):
            if column is None or (result >= 0).all():
                continue
            codes, texts = _distinct(column)
            found = np.append(self.tracks.numbers(read(str(text)) if text else None for text in texts), -1)[codes]
            result = np.where(result < 0, found, result).astype(np.int32)
        if url is None and plain is None and isrc is None:
            titles, artists = self._titles(np.arange(len(self.alive)))
            ids = (hashed_id(t, a) if t and a else None for t, a in zip(titles, artists, strict=True))
            result = self.tracks.numbers(ids)
            self.reject(result < 0, "title or artist is missing, and there is no track id")
        self.reject(result < 0, "no track id can be read")
        return result

    def _streams(self) -> np.ndarray:
        column = self.block.table.column(self.plan.roles["streams"])
        value = to_numbers(column)
        empty = (
            _mask(pc.is_in(_texts(column), pa.array(["", "--", "None", "nan"])))
            if _is_text(column)
            else np.isnan(value)
        )
        self.reject(np.isnan(value) & ~empty, "streams are no number")
        if self.plan.kind == "chart":
            self.reject(value <= 0, "streams of a charted track are not above 0")
        if self.plan.kind == "export":
            self.reject(np.isnan(value), "quantity is missing")
        return value

    def _titles(self, at: np.ndarray) -> tuple[list, list]:
        credit = self.column("credit")
        if credit is not None:
            split = [str(text).partition(" - ") for text in credit.take(pa.array(at)).to_pylist()]
            return [s[2].strip() or s[0] for s in split], [s[0].strip() if s[2] else None for s in split]
        title, artist = self.column("title"), self.column("artist")
        taken = [None if c is None else c.take(pa.array(at)).to_pylist() for c in (title, artist)]
        titles, artists = ([None] * len(at) if c is None else [_text(v) for v in c] for c in taken)
        return titles, artists

    def _keep_texts(self, codes: np.ndarray, at: np.ndarray) -> None:
        titles, artists = self._titles(at)
        isrc = self.column("isrc")
        isrcs = [None] * len(at) if isrc is None else [_clean_isrc(v) for v in isrc.take(pa.array(at)).to_pylist()]
        if len(codes) and any(v is not None for v in (*titles, *artists, *isrcs)):
            self.rows.texts.append((codes, titles, artists, isrcs))


def _mask(values: Any) -> np.ndarray:
    return np.asarray(
        pc.fill_null(values, False).to_numpy(zero_copy_only=False)
        if isinstance(values, pa.Array)
        else pc.fill_null(values, False).to_numpy(),
        bool,
    )


def _is_text(column: pa.ChunkedArray) -> bool:
    return bool(pa.types.is_string(column.type) or pa.types.is_large_string(column.type))


def _texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.utf8_trim_whitespace(column)


def _distinct(column: pa.ChunkedArray) -> tuple[np.ndarray, list]:
    """Codes into the distinct values, −1 for a missing one."""
    encoded = column.combine_chunks()
    encoded = encoded if pa.types.is_dictionary(encoded.type) else encoded.dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    return pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False), encoded.dictionary.to_pylist()


def to_numbers(column: pa.ChunkedArray) -> np.ndarray:
    """float64 of a column; text may have thousands separators and quotes, what cannot be read is NaN."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not _is_text(column):
        try:
            return pc.fill_null(column.cast(pa.float64()), np.nan).to_numpy().astype(float)
        except pa.ArrowInvalid:
            return np.full(len(column), np.nan)
    try:
        return column.cast(pa.int64()).to_numpy().astype(float)
    except pa.ArrowInvalid:
        text = pc.replace_substring(pc.utf8_trim(column, ' \t"'), ",", "")
        readable = pc.match_substring_regex(text, r"^[+-]?\d+(\.\d+)?([eE][+-]?\d+)?$")
        return pc.if_else(readable, text, None).cast(pa.float64()).to_numpy().astype(float)


def _day_number(text: str) -> int:
    """Days since EPOCH; −1 for what is no date, or lies before; the last day that fits for what lies after it."""
    parts = _DATE.match(text)
    if parts is None:
        return -1
    try:
        day = Date(int(parts[1]), int(parts[3]), int(parts[4]))
    except ValueError:
        return -1
    number = int((np.datetime64(day, "D") - EPOCH).astype(int))
    return min(number, (1 << 15) - 1) if number >= 0 else -1


def _any_id(text: str) -> str | None:
    return _site_id(text) or (text.strip() if _PLAIN_ID.match(text.strip()) else None)


def _site_id(text: str) -> str | None:
    found = _TRACK_ID.search(text.strip() + " ")
    return found[1] if found else None


def _isrc_id(text: str) -> str | None:
    isrc = _clean_isrc(text)
    return None if isrc is None else f"isrc:{isrc}"


def _clean_isrc(text: Any) -> str | None:
    plain = re.sub(r"[\s-]", "", str(text or "")).upper()
    return plain if _ISRC.match(plain) else None


def hashed_id(title: str, artist: str) -> str:
    """Stands in for a track id where a file gives title and artist only: `ta_` and 19 hex digits, 22 characters.

    Title and first artist, lower case, without what is no ASCII: the way in which most `ta_` ids in use were made.
    """
    parts = []
    for text in (title, artist.split(",")[0]):
        plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower().strip()
        # A title in another script would vanish, and all of them would share one id.
        parts.append(plain if re.search(r"\w", plain) else text.strip().lower())
    return "ta_" + hashlib.md5("|".join(parts).encode(), usedforsecurity=False).hexdigest()[:19]


def _text(value: Any) -> str | None:
    text = "" if value is None or value != value else str(value).strip()
    return text or None


def _descriptor_frame(table: pa.Table, names: Sequence[str], at: np.ndarray, codes: np.ndarray) -> Any:
    import pandas as pd

    taken = table.select(list(names)).take(pa.array(at))
    return pd.DataFrame({f"x_{name.casefold()}": _descriptor(taken.column(name)) for name in names}, index=codes)


def _descriptor(column: pa.ChunkedArray) -> np.ndarray:
    if pa.types.is_boolean(column.type):
        return np.array([np.nan if v is None else float(v) for v in column.to_pylist()])
    if _is_text(column):
        truth = {"true": "1", "false": "0"}
        column = pa.chunked_array(
            [pa.array([truth.get(str(v).casefold(), v) for v in column.to_pylist()], pa.string())]
        )
    values = to_numbers(column)
    return np.where(np.isfinite(values), values, np.nan)


def _read_track_table(plan: _Plan, blocks: Iterator[_Block], tracks: Codes) -> SourceRows:
    import pandas as pd

    rows = SourceRows(plan.source, plan.format, "tracks")
    frames = []
    for block in blocks:
        table = block.table
        rows.read += len(table) + block.broken_count
        rows.reject("wrong number of cells in the row", block.broken_count, block.broken)
        ids = table.column(plan.roles.get("id") or plan.roles["url"]).to_pylist()
        read: Callable[[str], str | None] = _any_id if "id" in plan.roles else _site_id
        codes = tracks.numbers(read(str(text)) if text else None for text in ids)
        good = np.flatnonzero(codes >= 0)
        bad = np.flatnonzero(codes < 0)
        rows.reject("no track id can be read", len(bad), (f"row {block.first_row + i}: {ids[i]}" for i in bad))
        frame = pd.DataFrame(index=codes[good])
        for role in ("title", "artist", "isrc", "release"):
            if role in plan.roles:
                values = table.column(plan.roles[role]).to_pylist()
                frame[role] = pd.Series([_detail(role, values[i]) for i in good], index=frame.index, dtype=object)
        useful = [name for name in plan.descriptors if _is_numeric(table.column(name))]
        for name, values in _descriptor_frame(table, useful, good, codes[good]).items():
            frame[name] = values.to_numpy()
        frames.append(frame)
    info = pd.concat(frames) if frames else pd.DataFrame()
    repeated = info.index.duplicated()
    rows.reject(
        "track is there before in the table", int(repeated.sum()), (tracks.texts[c] for c in info.index[repeated])
    )
    rows.info = info[~repeated]
    unused = sorted({n for n in plan.descriptors if f"x_{n.casefold()}" not in rows.info})
    if unused:
        rows.notes.append(f"columns without numbers are not used: {', '.join(unused)}")
    return rows


def _is_numeric(column: pa.ChunkedArray) -> bool:
    if pa.types.is_boolean(column.type) or pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        return True
    if not _is_text(column):
        return False
    values = _descriptor(column)
    return bool(np.isfinite(values).sum() * 2 > sum(v not in (None, "") for v in column.to_pylist()))


def _detail(role: str, value: Any) -> str | None:
    text = _text(value)
    if text is None:
        return None
    if role == "isrc":
        return _clean_isrc(text)
    if role == "artist" and re.fullmatch(r"\[.*\]", text):  # a Python list that was written as text
        return ", ".join(single or double for single, double in re.findall(r"'([^']*)'|\"([^\"]*)\"", text)) or None
    return text[:10] if role == "release" else text


# ------------------------------------------------------------------------------------------------- days and weeks
def _settle_period(rows: SourceRows, options: Options) -> None:
    """Settles frequency and the meaning of dates; weekly dates end up on the Thursday that ends their week.

    Raises:
        InputError: weekly dates fall on no known weekday, or nothing tells days from weeks.
    """
    told = next((period for pattern, period in options.periods.items() if pattern in rows.name), None)
    if told is not None:
        rows.frequency, rows.date_means = ("D", "day") if told == "day" else ("W", told)
    days = (
        np.unique(np.concatenate([np.unique(block[2]) for block in rows.blocks])) if rows.blocks else np.array([], int)
    )
    if not len(days):
        rows.frequency = None if rows.frequency == "?" else rows.frequency
        return
    weekdays = np.unique((days + _WEEKDAY_OF_EPOCH) % 7)
    if rows.frequency == "?":
        _guess_period(rows, days, weekdays)
    if rows.frequency == "D":
        if rows.kind == "chart" and len(days) > 2 and len(weekdays) == 1:
            rows.notes.append(f"daily values of {_WEEKDAYS[weekdays[0]]}s only: they are no weekly sums and stay daily")
        return
    shift = _shift_to_thursday(rows, weekdays, told is not None)
    if shift:
        for block in rows.blocks:
            block[2][:] += shift
        rows.notes.append(
            f"dates are the week's first day ({_WEEKDAYS[weekdays[0]]}): "
            f"moved by {shift:+d} days to the Thursday that ends it"
            if rows.date_means == "week-start"
            else f"dates on a {_WEEKDAYS[weekdays[0]]} moved by {shift:+d} days to the Thursday that ends the week"
        )


_WEEKDAY_OF_EPOCH = 1  # 1980-01-01 was a Tuesday


def _guess_period(rows: SourceRows, days: np.ndarray, weekdays: np.ndarray) -> None:
    if len(weekdays) > 1:
        rows.frequency = "D"
    elif len(days) > 1 and weekdays[0] == THURSDAY:
        rows.frequency, rows.date_means = "W", "week-end"
    elif rows.kind != "chart":
        rows.frequency = "D"
    elif len(days) > 1 and weekdays[0] == FRIDAY:
        # Weeks by their first day, or the Fridays of a daily chart: told apart by their size if a chart is at hand.
        rows.frequency, rows.date_means = "D", "fridays"
    else:
        raise InputError(
            f"{rows.name}: its dates ({len(days)}, all on a {_WEEKDAYS[weekdays[0]]}) do not tell whether it is daily "
            f"or weekly; give --period '{Path(rows.name).name}=day' (or =week-end, =week-start)"
        )


def _shift_to_thursday(rows: SourceRows, weekdays: np.ndarray, told: bool) -> int:
    if len(weekdays) > 1:
        names = ", ".join(_WEEKDAYS[day] for day in weekdays)
        raise InputError(
            f"{rows.name}: a weekly file with dates on {names}; weeks end on a Thursday: correct the dates, or give "
            f"--period '{Path(rows.name).name}=day' if its values are daily"
        )
    weekday = int(weekdays[0])
    if rows.date_means == "week-start":
        if weekday == FRIDAY:
            return 6
    elif weekday == THURSDAY:
        return 0
    if told:
        behind = weekday - THURSDAY if rows.date_means == "week-end" else weekday - FRIDAY
        return (6 if rows.date_means == "week-start" else 0) - ((behind + 3) % 7 - 3)
    wanted = "start on a Friday" if rows.date_means == "week-start" else "end on a Thursday"
    raise InputError(
        f"{rows.name}: a weekly file with dates on a {_WEEKDAYS[weekday]}, but weeks {wanted}; correct the dates, or "
        f"give --period '{Path(rows.name).name}=week-end' (or =week-start) to move them to the nearest chart week"
    )
