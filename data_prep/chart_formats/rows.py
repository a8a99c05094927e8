"""A file's tables and what their columns are in; coded rows out, each rejected one with its reason."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from data_prep.chart_formats.cells import day_number, distinct, is_text, mask, plain_text, to_numbers, trimmed
from data_prep.chart_formats.coded import EXAMPLES, Codes, Options, SourceRows
from data_prep.chart_formats.headers import Plan
from data_prep.chart_formats.ids import any_id, clean_isrc, hashed_id, isrc_id, site_id
from data_prep.chart_formats.tables import Block
from data_prep.regions import region_code
from mp3model.files import InputError


def read_table(plan: Plan, blocks: Iterator[Block], tracks: Codes, regions: Codes, options: Options) -> SourceRows:
    """Codes all rows of a file.

    Args:
        plan: what its columns are.
        blocks: its cells.
        tracks, regions: get the texts that are new.
        options: what the user says about files that do not say it themselves.

    Raises:
        InputError: a column is there twice, or neither columns nor the file's name give date and region.
    """
    twice = next((name for name in plan.header if plan.header.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{plan.source.name}: column {twice!r} is there twice; keep one")
    if plan.kind == "tracks":
        return _read_track_table(plan, blocks, tracks)
    plan.place(options)
    rows = SourceRows(plan.source, plan.format, plan.kind, plan.frequency or "?", plan.date_means)
    known: set[int] = set()
    details: list[pd.DataFrame] = []
    for block in blocks:
        rows.read += len(block.table) + block.broken_count
        rows.reject("wrong number of cells in the row", block.broken_count, block.broken)
        if len(block.table):
            _Converter(plan, block, rows, tracks, regions, options).run(known, details)
    if details:
        rows.info = pd.concat(details).groupby(level=0, sort=True).first()
    return rows


class _Converter:
    """One block of a file's rows to coded arrays; the first reason that fits rejects a row."""

    def __init__(
        self, plan: Plan, block: Block, rows: SourceRows, tracks: Codes, regions: Codes, options: Options
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

    def run(self, known: set[int], details: list[pd.DataFrame]) -> None:
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
            self.reject(mask(pc.equal(rank, rank_name)), "header line repeated among the rows")
        chart = self.column("chart")
        if chart is not None:
            self.reject(mask(pc.equal(chart, "viral50")), "viral50 row: that chart has no streams")
            self.reject(~mask(pc.equal(chart, "top200")), "chart is neither top200 nor viral50: cells out of place")

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
        codes, texts = distinct(column)
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
            days = np.array([day_number(str(value)) for value in uniques], np.int32)[codes]
        elif role is None:
            assert self.plan.fixed_date is not None
            days = np.full(len(self.alive), day_number(self.plan.fixed_date.isoformat()), np.int32)
        else:
            codes, texts = distinct(self.block.table.column(self.plan.roles[role]))
            days = np.append([day_number(str(text)) for text in texts], -1).astype(np.int32)[codes]
        self.reject(days < 0, "date cannot be read as YYYY-MM-DD")
        self.reject(days > day_number(self.options.today.isoformat()), "date lies in the future")
        return days

    def _track_codes(self) -> np.ndarray:
        url, plain, isrc = self.column("url"), self.column("id"), self.column("isrc")
        result = np.full(len(self.alive), -1, np.int32)
        for column, read in ((plain, any_id), (url, site_id), (isrc, isrc_id)):
            if column is None or (result >= 0).all():
                continue
            codes, texts = distinct(column)
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
            mask(pc.is_in(trimmed(column), pa.array(["", "--", "None", "nan"]))) if is_text(column) else np.isnan(value)
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
        titles, artists = ([None] * len(at) if c is None else [plain_text(v) for v in c] for c in taken)
        return titles, artists

    def _keep_texts(self, codes: np.ndarray, at: np.ndarray) -> None:
        titles, artists = self._titles(at)
        isrc = self.column("isrc")
        isrcs = [None] * len(at) if isrc is None else [clean_isrc(v) for v in isrc.take(pa.array(at)).to_pylist()]
        if len(codes) and any(v is not None for v in (*titles, *artists, *isrcs)):
            self.rows.texts.append((codes, titles, artists, isrcs))


def _descriptor_frame(table: pa.Table, names: Sequence[str], at: np.ndarray, codes: np.ndarray) -> pd.DataFrame:
    taken = table.select(list(names)).take(pa.array(at))
    return pd.DataFrame({f"x_{name.casefold()}": _descriptor(taken.column(name)) for name in names}, index=codes)


def _descriptor(column: pa.ChunkedArray) -> np.ndarray:
    if pa.types.is_boolean(column.type):
        return np.array([np.nan if v is None else float(v) for v in column.to_pylist()])
    if is_text(column):
        truth = {"true": "1", "false": "0"}
        column = pa.chunked_array(
            [pa.array([truth.get(str(v).casefold(), v) for v in column.to_pylist()], pa.string())]
        )
    values = to_numbers(column)
    return np.where(np.isfinite(values), values, np.nan)


def _read_track_table(plan: Plan, blocks: Iterator[Block], tracks: Codes) -> SourceRows:
    rows = SourceRows(plan.source, plan.format, "tracks")
    frames = []
    for block in blocks:
        table = block.table
        rows.read += len(table) + block.broken_count
        rows.reject("wrong number of cells in the row", block.broken_count, block.broken)
        ids = table.column(plan.roles.get("id") or plan.roles["url"]).to_pylist()
        read: Callable[[str], str | None] = any_id if "id" in plan.roles else site_id
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
    if not is_text(column):
        return False
    values = _descriptor(column)
    return bool(np.isfinite(values).sum() * 2 > sum(v not in (None, "") for v in column.to_pylist()))


def _detail(role: str, value: Any) -> str | None:
    text = plain_text(value)
    if text is None:
        return None
    if role == "isrc":
        return clean_isrc(text)
    if role == "artist" and re.fullmatch(r"\[.*\]", text):  # a Python list that was written as text
        return ", ".join(single or double for single, double in re.findall(r"'([^']*)'|\"([^\"]*)\"", text)) or None
    return text[:10] if role == "release" else text
