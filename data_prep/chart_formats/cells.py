"""Columns of cells (text, numbers, dates) in; masks, codes, numbers and days out."""

from __future__ import annotations

import re
from datetime import date as Date
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep.chart_formats.coded import DAY_BITS, EPOCH

DATE = re.compile(r"^\s*(\d{4})([-/.]?)(\d{2})\2(\d{2})(?:[T ].*)?\s*$")


def mask(values: Any) -> np.ndarray:
    """bool of a boolean column, False where it has no value."""
    return np.asarray(
        pc.fill_null(values, False).to_numpy(zero_copy_only=False)
        if isinstance(values, pa.Array)
        else pc.fill_null(values, False).to_numpy(),
        bool,
    )


def is_text(column: pa.ChunkedArray) -> bool:
    """Whether a column holds texts."""
    return bool(pa.types.is_string(column.type) or pa.types.is_large_string(column.type))


def trimmed(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Texts without white space around them."""
    return pc.utf8_trim_whitespace(column)


def distinct(column: pa.ChunkedArray) -> tuple[np.ndarray, list]:
    """Codes (n,) into the distinct values, −1 for a missing one, and those values."""
    encoded = column.combine_chunks()
    encoded = encoded if pa.types.is_dictionary(encoded.type) else encoded.dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    return pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False), encoded.dictionary.to_pylist()


def to_numbers(column: pa.ChunkedArray) -> np.ndarray:
    """float64 of a column; text may have thousands separators and quotes, what cannot be read is NaN."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not is_text(column):
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


def day_number(text: str) -> int:
    """Days since EPOCH; −1 for what is no date, or lies before; the last day that fits for what lies after it."""
    parts = DATE.match(text)
    if parts is None:
        return -1
    try:
        day = Date(int(parts[1]), int(parts[3]), int(parts[4]))
    except ValueError:
        return -1
    number = int((np.datetime64(day, "D") - EPOCH).astype(int))
    return min(number, (1 << DAY_BITS) - 1) if number >= 0 else -1


def plain_text(value: Any) -> str | None:
    """A cell as text without white space around it; None where nothing is left, or it is NaN."""
    text = "" if value is None or value != value else str(value).strip()
    return text or None
