"""A CSV or parquet file in; its cells, as tables of a few megabytes each, out."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Any

import pyarrow as pa

from data_prep.chart_formats.coded import EXAMPLES
from data_prep.chart_formats.sources import Source
from mp3model.files import InputError

BLOCK_BYTES = 16 << 20
PARQUET_ROWS = 1 << 18


@dataclass
class Block:
    """A part of a file as a table; `first_row` counts from 1 the rows that have the right number of cells."""

    table: pa.Table
    first_row: int
    broken: list[str] = field(default_factory=list)
    broken_count: int = 0


def encoding_of(source: Source) -> str:
    """UTF-8, or Windows-1252 where a byte of the file is no UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with source.opened() as stream:
        try:
            while block := stream.read(1 << 22):
                decoder.decode(block)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return "cp1252"
    return "utf-8"


def csv_blocks(source: Source, skip: int, delimiter: str, encoding: str, header: list[str]) -> Iterator[Block]:
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
                table = pa.Table.from_batches([batch]).rename_columns(header)
                yield Block(table, first)
                first += len(table)
        except pa.ArrowInvalid as error:
            raise InputError(f"{source.name}: cannot be read as CSV ({_first_line(error)}); save it again") from error
    if count:
        yield Block(pa.table({name: pa.array([], pa.string()) for name in header}), first, broken, count)


def _batches(stream: IO[bytes], read: Any, parse: Any, convert: Any) -> Iterator[pa.RecordBatch]:
    import pyarrow.csv

    try:
        yield from pyarrow.csv.open_csv(stream, read, parse, convert)
    except pa.ArrowInvalid as error:
        if "mpty CSV" not in str(error):
            raise


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


@contextmanager
def opened_parquet(source: Source) -> Iterator[tuple[list[str], Iterator[Block]]]:
    """Names of a parquet file's columns, and its rows in tables of at most `PARQUET_ROWS`.

    Raises:
        InputError: it is damaged, also while its rows are read.
    """
    import pyarrow.parquet

    with source.opened() as stream:
        try:
            file = pyarrow.parquet.ParquetFile(stream if stream.seekable() else io.BytesIO(stream.read()))
            names = [name for name in file.schema_arrow.names if not name.startswith("__index_level_")]

            def blocks() -> Iterator[Block]:
                first = 1
                for batch in file.iter_batches(PARQUET_ROWS, columns=names):
                    yield Block(pa.Table.from_batches([batch]), first)
                    first += len(batch)

            yield names, blocks()
        except (pa.ArrowException, OSError) as error:
            raise InputError(
                f"{source.name}: cut short or no parquet file ({_first_line(error)}); copy it again"
            ) from error
