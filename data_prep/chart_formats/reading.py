"""Files in; their rows, each read by whichever format its content is of, here or on a cluster, out."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from data_prep.chart_formats.coded import Codes, NotAChartError, Options, SourceRows
from data_prep.chart_formats.headers import KWORB_CSV_HEADER, Plan, is_kworb_row, plan_for
from data_prep.chart_formats.pages import read_pages
from data_prep.chart_formats.periods import settle_period
from data_prep.chart_formats.rows import read_table
from data_prep.chart_formats.sources import Source, find_sources
from data_prep.chart_formats.tables import csv_blocks, encoding_of, opened_parquet
from data_prep.cluster import results_of
from mp3model.files import InputError

_NOTE = re.compile(r'^[,;\t]*"?Note that these figures')


def read_all(
    inputs: Sequence[Path], out: Path, tracks: Codes, regions: Codes, options: Options, scheduler: str | None
) -> tuple[list[SourceRows], list[tuple[str, str]]]:
    """Rows of all files, by name; name and reason of those in folders that are no charts.

    Args:
        inputs: files and folders.
        out: what is below it is left out.
        tracks, regions: get the texts that are new.
        options: what the user says about files that do not say it themselves.
        scheduler: of a cluster that reads them, see `data_prep.cluster`; None reads them here.

    Raises:
        InputError: there is no file, or one cannot be read; `NotAChartError` for one that was given by name.
    """
    from tqdm import tqdm

    # A second run over the folder that holds its own output must not read it.
    files = [s for s in find_sources(inputs) if not s.path.resolve().is_relative_to(out.resolve())]
    if not files:
        raise InputError(f"{', '.join(str(path) for path in inputs)}: holds no file; give chart exports")
    files = sorted(files, key=lambda s: s.name)
    read: Iterator[tuple[list[SourceRows], str | None]] = (
        _read_one(source, tracks, regions, options) for source in files
    )
    if scheduler is not None:
        read = _read_on_cluster(files, tracks, regions, options, scheduler)
    found: list[SourceRows] = []
    unread: list[tuple[str, str]] = []
    for source, (rows, reason) in zip(files, tqdm(read, "files", len(files), disable=None, leave=False), strict=True):
        found += rows
        if reason is not None:
            unread.append((source.name, reason.removeprefix(f"{source.name}: ")))
    return found, unread


def _read_one(source: Source, tracks: Codes, regions: Codes, options: Options) -> tuple[list[SourceRows], str | None]:
    """Rows of one file; or why a file that no one named is none of charts."""
    try:
        return read_source(source, tracks, regions, options), None
    except NotAChartError as error:
        if source.named:
            raise
        return [], str(error)


def _read_on_cluster(
    files: list[Source], tracks: Codes, regions: Codes, options: Options, scheduler: str
) -> Iterator[tuple[list[SourceRows], str | None]]:
    """The same of each file, read on a cluster by codes of its own, which are then put into those of the run."""
    # A worker's current folder is its own.
    there = [replace(source, path=source.path.resolve()) for source in files]
    for source, (rows, reason, *texts) in zip(
        files, results_of(scheduler, partial(_read_apart, options=options), there), strict=True
    ):
        track, region = (codes.numbers(own) for codes, own in zip((tracks, regions), texts, strict=True))
        for part in rows:
            part.source = source
            part.recode(track, region)
        yield rows, reason


def _read_apart(source: Source, options: Options) -> tuple[list[SourceRows], str | None, list[str], list[str]]:
    tracks, regions = Codes(), Codes()
    return *_read_one(source, tracks, regions, options), tracks.texts, regions.texts


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
        found = read_pages(source, tracks, regions, options)
    elif b"\0" in head:
        raise NotAChartError(f"{source.name}: is neither text, parquet, html, zip nor gz; give a chart export")
    else:
        found = [_read_text(source, head, tracks, regions, options)]
    digest = source.sha256()
    for rows in found:
        rows.sha256 = digest
        if rows.frequency is not None:
            settle_period(rows, options)
    return found


def _read_text(source: Source, head: bytes, tracks: Codes, regions: Codes, options: Options) -> SourceRows:
    encoding = encoding_of(source)
    lines = head.decode(encoding, errors="replace").removeprefix("\ufeff").splitlines()
    skip = next((i for i, line in enumerate(lines) if line.strip() and not _NOTE.match(line)), len(lines))
    if skip >= len(lines):
        raise NotAChartError(f"{source.name}: is empty; give a chart export")
    delimiter = max(",;\t", key=lines[skip].count)
    header = [name.strip() for name in next(csv.reader([lines[skip]], delimiter=delimiter))]
    if is_kworb_row(header):
        plan = Plan(source, KWORB_CSV_HEADER, "kworb CSV", kind="chart")
        plan.roles = {"date": "date", "rank": "pos", "credit": "artist-title", "streams": "streams"}
        plan.frequency = "D"
    else:
        plan = plan_for(source, header, options)
        skip += 1
    return read_table(plan, csv_blocks(source, skip, delimiter, encoding, plan.header), tracks, regions, options)


def _read_parquet(source: Source, tracks: Codes, regions: Codes, options: Options) -> SourceRows:
    with opened_parquet(source) as (names, blocks):
        return read_table(plan_for(source, names, options), blocks, tracks, regions, options)
