"""Listen logs as their makers publish them in; blocks of listens for `data_prep.listen_logs` out.

  tables        one line a listen, a header that names user, time, recording (or title and artist) and country, in any
                order and under several names; or `header` names them, for files without one
  Last.fm 1K    `userid-timestamp-artid-artname-traid-traname.tsv` (tabs, no header, no quotes) and `userid-profile.tsv`
                with the users' countries by name (Celma 2010)
  ListenBrainz  the dump's `listens/YEAR/MONTH.listens`, a JSON object a line; it has no countries

Times are seconds since 1970 (milliseconds are told by their size) or text that begins YYYY-MM-DD; days are UTC.
"""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from data_prep.listen_logs import WORLD, Listens, Names
from data_prep.regions import region_code
from mp3model.files import InputError

BLOCK_BYTES = 8 << 20
ROLES = {
    "user": "user userid username",
    "time": "time timestamp ts listenedat date unixtime playedat",
    "recording": "recording recordingid recordingmbid trackid track songid song traid itemid",
    "title": "title trackname traname songname recordingname",
    "artist": "artist artistname artname",
    "country": "country region conncountry countrycode",
}
_ROLE_OF = {name: role for role, names in ROLES.items() for name in names.split()}
LASTFM_LISTENS = "userid-timestamp-artid-artname-traid-traname.tsv"
LASTFM_USERS = "userid-profile.tsv"
_LASTFM_HEADER = ("user", "time", "artist_id", "artist", "recording", "title")
_LARGEST_SECONDS = 100_000_000_000
_OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


@dataclass(frozen=True)
class Layout:
    """How a table of listens is written.

    Attributes:
        header: names of the columns where the file has no line of them.
        delimiter: None finds tab, semicolon or comma in the first line.
        quoted: whether a quotation mark can enclose a field.
    """

    header: tuple[str, ...] = ()
    delimiter: str | None = None
    quoted: bool = True


def read_users(path: Path, layout: Layout | None = None) -> dict[str, str]:
    """Region by user, from a table with the columns user and country; users without a known country are left out.

    Raises:
        InputError: no such file, a column is missing, or no country is known.
    """
    regions: dict[str, str] = {}
    for table in role_tables(path, layout or Layout(), ("user", "country"), ()):
        users, countries = (table.column(name).to_pylist() for name in ("user", "country"))
        known = ((user, region_code(str(country))) for user, country in zip(users, countries, strict=True) if country)
        regions |= {user: region for user, region in known if region is not None}
    if not regions:
        raise InputError(f"{path}: no user has a country that is known; give codes such as US or English names")
    return regions


def table_listens(
    paths: Sequence[Path], layout: Layout | None = None, users: dict[str, str] | None = None, region: str | None = None
) -> Iterator[Listens]:
    """Listens of tables.

    Args:
        paths: files, also .gz, .bz2 and .xz.
        layout: how they are written.
        users: region by user, for tables without a country.
        region: of all listens, where neither the table nor `users` knows.

    Raises:
        InputError: a file or a column is missing, or nothing says where listens were.
    """
    for path in paths:
        for table in role_tables(
            path, layout or Layout(), ("time",), ("user", "recording", "title", "artist", "country")
        ):
            names = set(table.column_names)
            if "recording" not in names and not {"title", "artist"} <= names:
                raise InputError(f"{path}: no column for the recording (nor title and artist); name one with --header")
            if "country" not in names and region is None and (users is None or "user" not in names):
                raise InputError(f"{path}: no column 'country'; give --users with user and country, or --region")
            yield _block(table, users, region)


def lastfm_listens(folder: Path) -> Iterator[Listens]:
    """Listens of the Last.fm 1K users' dataset, in its own two files (the first may be compressed)."""
    found = [path for path in sorted(folder.glob(f"{LASTFM_LISTENS}*")) if path.suffix in (".tsv", *_OPENERS)]
    if not found:
        raise InputError(f"{folder}: no {LASTFM_LISTENS}; give the folder of the Last.fm 1K dataset")
    profile = folder / LASTFM_USERS
    # The published file begins with a line of names, which its description does not show; it is no user's.
    users = read_users(profile, Layout(("user", "gender", "age", "country", "signup"), "\t", quoted=False))
    yield from table_listens(found[:1], Layout(_LASTFM_HEADER, "\t", quoted=False), users)


def listenbrainz_listens(folder: Path, users: dict[str, str] | None = None, region: str = WORLD) -> Iterator[Listens]:
    """Listens of a ListenBrainz dump; without the users' regions all are `region`'s.

    Raises:
        InputError: no such folder, or no `.listens` file in it.
    """
    paths = sorted(path for path in folder.rglob("*.listens*") if path.is_file())
    if not paths:
        raise InputError(f"{folder}: no .listens file; give the unpacked folder of a listens dump")
    for path in paths:
        with _opened(path) as stream:
            while lines := stream.readlines(BLOCK_BYTES):
                yield from _listenbrainz_block(lines, users, region)


def _listenbrainz_block(lines: list[bytes], users: dict[str, str] | None, region: str) -> Iterator[Listens]:
    columns: dict[str, list[Any]] = {name: [] for name in ("time", "user", "recording", "title", "artist")}
    unread = 0
    for line in lines:
        try:
            listen = json.loads(line)
            about = listen["track_metadata"]
            extra = about.get("additional_info") or {}
            mapped = about.get("mbid_mapping") or {}
            recording = mapped.get("recording_mbid") or extra.get("recording_mbid") or listen.get("recording_msid")
            row = (
                listen.get("listened_at", listen.get("timestamp")),
                listen.get("user_name", listen.get("user_id")),
                recording or extra.get("recording_msid"),
                about.get("track_name"),
                about.get("artist_name"),
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            unread += bool(line.strip())
            continue
        for column, value in zip(columns.values(), row, strict=True):
            column.append(None if value is None else str(value))
    table = pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
    yield _block(table, users, None if users else region, unread)


def _opened(path: Path) -> IO[bytes]:
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a log of listens")
    return _OPENERS.get(path.suffix, open)(path, "rb")


def role_tables(path: Path, layout: Layout, needed: Sequence[str], useful: Sequence[str]) -> Iterator[pa.Table]:
    """A table's blocks, columns named by their roles, all text; lines of another width are counted and left out."""
    first = _first_line(path)
    delimiter = layout.delimiter or next((mark for mark in "\t;," if mark in first), ",")
    names = list(layout.header) or [name.strip().strip('"') for name in first.split(delimiter)]
    roles: dict[str, str] = {}
    for name in names:
        role = _ROLE_OF.get(re.sub(r"[\W_]+", "", name).casefold())
        if role in (*needed, *useful) and role not in roles:
            roles[role] = name
    for role in needed:
        if role not in roles:
            raise InputError(f"{path}: no column for {role!r} (found {', '.join(names)}); name one with --header")
    if layout.header and _is_header(first, delimiter, layout):
        names, skip = list(layout.header), 1
    else:
        skip = 0 if layout.header else 1
    unread = 0

    def pass_over(row: Any) -> str:
        nonlocal unread
        unread += 1
        return "skip"

    read = pa.csv.ReadOptions(column_names=names, skip_rows=skip, block_size=BLOCK_BYTES)
    parse = pa.csv.ParseOptions(
        delimiter=delimiter, quote_char='"' if layout.quoted else False, invalid_row_handler=pass_over
    )
    convert = pa.csv.ConvertOptions(
        include_columns=list(roles.values()), column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
    )
    try:
        with _opened(path) as stream, pa.csv.open_csv(stream, read, parse, convert) as batches:
            for batch in batches:
                table = pa.Table.from_batches([batch]).rename_columns(list(roles))
                yield table.replace_schema_metadata({"unread": str(unread)})
                unread = 0
        if unread:
            empty = pa.table({role: pa.array([], pa.string()) for role in roles})
            yield empty.replace_schema_metadata({"unread": str(unread)})
    except (pa.ArrowException, EOFError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: cannot be read to its end ({reason}); copy it again") from error


def _first_line(path: Path) -> str:
    with _opened(path) as stream:
        line = stream.readline(1 << 20)
    text = line.decode("utf-8-sig", "replace").rstrip("\r\n")
    if not text:
        raise InputError(f"{path}: is empty; give a log of listens")
    return text


def _is_header(first: str, delimiter: str, layout: Layout) -> bool:
    """Whether the first line of a file that should have none is one all the same."""
    cells = [re.sub(r"[\W_]+", "", cell).casefold() for cell in first.split(delimiter)]
    return first.startswith("#") or sum(cell in _ROLE_OF for cell in cells) >= max(2, len(layout.header) // 2)


def _block(table: pa.Table, users: dict[str, str] | None, region: str | None, unread: int = 0) -> Listens:
    unread += int((table.schema.metadata or {}).get(b"unread", 0))
    region_of, regions = _regions(table, users, region)
    recording, keys, names = _recordings(table)
    return Listens(_days(table.column("time")), region_of, regions, recording, keys, names, unread)


def _encoded(column: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    encoded = column.combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = pa.concat_arrays(encoded.chunks) if encoded.num_chunks else pa.array([], pa.string())
    encoded = encoded.dictionary_encode()
    return pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False), encoded.dictionary.to_pylist()


def _days(times: pa.ChunkedArray) -> np.ndarray:
    """Days since 1970-01-01 of texts; −1 where one cannot be read."""
    seconds = pc.match_substring_regex(times, r"^[0-9]{1,15}(\.[0-9]+)?$")
    number = pc.if_else(seconds, times, None).cast(pa.float64()).to_numpy(zero_copy_only=False)
    number = np.where(number > _LARGEST_SECONDS, number / 1000, number)
    with np.errstate(invalid="ignore"):
        days = np.where(np.isnan(number), -1, number // 86_400)
    if np.isnan(number).any():
        codes, texts = _encoded(pc.utf8_slice_codeunits(times, 0, 10))
        dated = np.append([_day(text) for text in texts], -1)[codes]
        days = np.where(np.isnan(number), dated, days)
    # 2050 and later are errors of a clock.
    return np.where((days >= 0) & (days < 29_220), days, -1).astype(np.int32)


def _day(text: str) -> int:
    try:
        return int(np.datetime64(text, "D").astype(int)) if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text) else -1
    except ValueError:
        return -1


def _regions(table: pa.Table, users: dict[str, str] | None, region: str | None) -> tuple[np.ndarray, list[str]]:
    if "country" in table.column_names:
        codes, texts = _encoded(table.column("country"))
        found = [region_code(text) if text else None for text in texts]
    elif users is not None:
        codes, texts = _encoded(table.column("user"))
        found = [users.get(text) for text in texts]
    else:
        codes, found = np.zeros(len(table), np.int32), [region]
    regions = sorted({code for code in found if code is not None})
    place = np.array([*(-1 if code is None else regions.index(code) for code in found), -1], np.int32)
    return place[codes], regions


def _recordings(table: pa.Table) -> tuple[np.ndarray, list[str], Names]:
    """Recordings by their id, or by artist and title where a line has none."""
    empty = pa.array([""] * len(table), pa.string())
    texts = {
        name: pc.fill_null(table.column(name), "") if name in table.column_names else pa.chunked_array([empty])
        for name in ("recording", "title", "artist")
    }
    credit = pc.binary_join_element_wise(texts["artist"], texts["title"], "\t")
    nameless = pc.or_(pc.equal(texts["artist"], ""), pc.equal(texts["title"], ""))
    key = pc.if_else(pc.not_equal(texts["recording"], ""), texts["recording"], pc.if_else(nameless, None, credit))
    codes, keys = _encoded(key)
    first = np.full(len(keys), -1, np.int64)
    backward = np.arange(len(codes) - 1, -1, -1)
    first[codes[backward][codes[backward] >= 0]] = backward[codes[backward] >= 0]
    taken = {name: column.take(pa.array(first)).to_pylist() for name, column in texts.items()}
    return codes, keys, Names(taken["recording"], taken["title"], taken["artist"])
