"""A frame and the schema of its table in, the same frame with settled types out, or one line that says what is wrong.

The checks are our own and few because the errors matter more than the number of rules: each names the file, the row
(0-based position in the file, with the values of its key), the column, the value, and what to do about it.
"""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

import numpy as np
import pandas as pd

from mp3model.files import InputError

Kind = Literal["text", "region", "date", "number", "integer"]

# NaN as the missing mark in text too: the same type as pandas 3 infers by itself, spelled so that pandas 2.3 gives it.
TEXT = pd.StringDtype("pyarrow", na_value=np.nan)
DATE_UNIT = "datetime64[s]"
EARLIEST_DATE, LATEST_DATE = pd.Timestamp("1900-01-01"), pd.Timestamp("2100-01-01")

# ISO 3166-1 alpha-2, officially assigned.
_ASSIGNED = (
    "AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BV BW BY BZ "
    "CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ FK FM FO "
    "FR GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE "
    "JM JO JP KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO "
    "MP MQ MR MS MT MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW "
    "PY QA RE RO RS RU RW SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF TG TH TJ TK TL TM "
    "TN TO TR TT TV TW TZ UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS YE YT ZA ZM ZW"
)
# The standard leaves these to users: XK is Kosovo in most royalty reports, the others serve made-up markets.
_USER_ASSIGNED = re.compile(r"AA|Q[M-Z]|X[A-Z]|ZZ")
REGIONS = frozenset([*_ASSIGNED.split(), "GLOBAL"])
_REGION_MENDS = {"UK": "GB", "EL": "GR", "WW": "GLOBAL", "WORLD": "GLOBAL", "WORLDWIDE": "GLOBAL"}


@dataclass(frozen=True)
class Column:
    """What one column may hold.

    Attributes:
        kind: `text`, `region`, `date` (whole days, no time zone), `number` (float64) or `integer` (nullable Int32).
        required: the column must be there; otherwise it may be left out.
        nullable: a missing value is allowed.
        minimum: smallest value allowed; `above` excludes the bound itself.
        choices: the only values allowed (text).
        past: the date is that of an observation, which cannot lie after today.
        mend: what to do about a value outside the bounds, for the error message.
    """

    kind: Kind
    required: bool = True
    nullable: bool = False
    minimum: float | None = None
    above: float | None = None
    choices: tuple[str, ...] = ()
    past: bool = False
    mend: str = ""


@dataclass(frozen=True)
class Schema:
    """The columns of a table, the ones that name a row, and prefixes of further float columns (`x_`, `y_`)."""

    columns: Mapping[str, Column]
    key: tuple[str, ...]
    prefixes: tuple[str, ...] = field(default=())


def refuse(
    file: str | os.PathLike[str],
    reason: str,
    mend: str,
    *,
    frame: pd.DataFrame | None = None,
    key: tuple[str, ...] = (),
    bad: np.ndarray | None = None,
    column: str | None = None,
) -> NoReturn:
    """Raises the InputError for the first row that `bad` marks.

    Args:
        file: the table's file.
        reason: what is wrong, without the place.
        mend: what the user should do.
        frame: the table; with `bad`, its first marked row is named by position and by the values of `key`.
        key: columns that name a row.
        bad: boolean mask over the rows.
        column: the column at fault; with a row, its value is printed.

    Raises:
        InputError: always.
    """
    place = f"{os.fspath(file)}:"
    more = ""
    if frame is not None and bad is not None:
        row = int(np.flatnonzero(bad)[0])
        named = ", ".join(f"{name} {_shown(frame[name].iloc[row])}" for name in key if name in frame)
        place += f" row {row}" + (f" ({named})" if named else "")
        others = int(np.count_nonzero(bad)) - 1
        more = f" ({others} more such row{'s' if others > 1 else ''})" if others else ""
    if column is not None:
        place += ("," if bad is not None else "") + f" column '{column}'"
        if frame is not None and bad is not None:
            place += f" = {_shown(frame[column].iloc[int(np.flatnonzero(bad)[0])])}"
    raise InputError(f"{place}: {reason}; {mend}{more}")


def _shown(value: Any) -> str:
    if value is None or value is pd.NaT or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return "missing"
    if isinstance(value, pd.Timestamp):
        return str(value.date()) if value == value.normalize() else str(value)
    if isinstance(value, np.generic):
        value = value.item()
    return repr(value)


def validate(frame: pd.DataFrame, schema: Schema, file: str | os.PathLike[str]) -> pd.DataFrame:
    """Checks a table by itself and settles its types.

    Args:
        frame: the table, any integer or float width, any datetime unit; row order is kept.
        schema: what it should hold.
        file: the file that errors name.

    Returns:
        A new frame, columns in the schema's order (extra prefixed ones after), index 0 … n − 1; text as strings with NaN
        for missing, dates as `datetime64[s]` at midnight, numbers as float64, integers as Int32.

    Raises:
        InputError: names file, row, column, value and mend of the first fault.
    """
    known = _present_columns(frame, schema, file)
    frame = frame.reset_index(drop=True)
    settled: dict[str, pd.Series] = {}
    for name in known:
        column = schema.columns.get(name, Column("number", nullable=True))
        values = _settle(frame, name, column, schema.key, file)
        _check_values(frame, values, name, column, schema.key, file)
        settled[name] = values
    result = pd.DataFrame(settled, index=frame.index)
    _check_key(result, schema.key, file)
    return result


def _present_columns(frame: pd.DataFrame, schema: Schema, file: str | os.PathLike[str]) -> list[str]:
    present = [str(name) for name in frame.columns]
    for name, column in schema.columns.items():
        if column.required and name not in present:
            refuse(file, "the column is missing", f"add it; present are {', '.join(present) or 'none'}", column=name)
    for name in present:
        if present.count(name) > 1:
            refuse(file, "the column is there twice", "keep one", column=name)
        if name not in schema.columns and not name.startswith(schema.prefixes or ("\0",)):
            extra = f" (further float columns start with {' or '.join(schema.prefixes)})" if schema.prefixes else ""
            mend = f"remove or rename it: the table has {', '.join(schema.columns)}{extra}"
            refuse(file, "this table has no such column", mend, column=name)
    return [name for name in schema.columns if name in present] + [n for n in present if n not in schema.columns]


def _settle(
    frame: pd.DataFrame, name: str, column: Column, key: tuple[str, ...], file: str | os.PathLike[str]
) -> pd.Series:
    values = frame[name]
    if isinstance(values.dtype, pd.CategoricalDtype):
        values = values.astype(values.cat.categories.dtype)
    if column.kind in ("text", "region"):
        return _settle_text(frame, values, name, key, file)
    if column.kind == "date":
        return _settle_date(frame, values, name, key, file)
    return _settle_number(frame, values, name, column, key, file)


def _settle_text(
    frame: pd.DataFrame, values: pd.Series, name: str, key: tuple[str, ...], file: str | os.PathLike[str]
) -> pd.Series:
    if values.dtype == object:
        wrong = np.array([not isinstance(v, str) for v in values], bool) & values.notna().to_numpy()
        if wrong.any():
            refuse(file, "is not text", "write it as text", frame=frame, key=key, bad=wrong, column=name)
    elif not isinstance(values.dtype, pd.StringDtype) and values.notna().any():
        refuse(file, f"holds {values.dtype} instead of text", "write it as text", column=name)
    elif not isinstance(values.dtype, pd.StringDtype):
        values = values.astype(object).where(values.notna(), None)
    return values.astype(TEXT)


def _settle_date(
    frame: pd.DataFrame, values: pd.Series, name: str, key: tuple[str, ...], file: str | os.PathLike[str]
) -> pd.Series:
    if values.dtype == object and values.notna().any():
        # Parquet's own date type arrives as datetime.date objects.
        dates = np.array([isinstance(v, datetime.date) for v in values], bool)
        wrong = ~dates & values.notna().to_numpy()
        if wrong.any():
            mend = "write a date type, e.g. by pandas.to_datetime"
            refuse(file, "is not a date", mend, frame=frame, key=key, bad=wrong, column=name)
        values = pd.to_datetime(values)
    elif not values.notna().any():
        values = pd.Series(pd.NaT, index=values.index, dtype=DATE_UNIT)
    if isinstance(values.dtype, pd.DatetimeTZDtype):
        refuse(file, f"holds dates with a time zone ({values.dtype.tz})", "drop the zone", column=name)
    if not pd.api.types.is_datetime64_dtype(values.dtype):
        mend = "write a date type, e.g. by pandas.to_datetime"
        refuse(file, f"holds {values.dtype} instead of dates", mend, column=name)
    timed = (values.notna() & (values != values.dt.normalize())).to_numpy()
    if timed.any():
        refuse(file, "has a time of day", "give whole days (midnight)", frame=frame, key=key, bad=timed, column=name)
    return values.astype(DATE_UNIT)


def _settle_number(
    frame: pd.DataFrame,
    values: pd.Series,
    name: str,
    column: Column,
    key: tuple[str, ...],
    file: str | os.PathLike[str],
) -> pd.Series:
    if values.dtype == object and not values.notna().any():
        values = values.astype(float)
    if not pd.api.types.is_numeric_dtype(values.dtype) or pd.api.types.is_bool_dtype(values.dtype):
        kind = "text" if isinstance(values.dtype, pd.StringDtype) else str(values.dtype)
        refuse(file, f"holds {kind} instead of numbers", "write it as a number type", column=name)
    if pd.api.types.is_complex_dtype(values.dtype):
        refuse(file, "holds complex numbers", "write it as a real number type", column=name)
    numbers = values.to_numpy(dtype=float, na_value=np.nan)
    infinite = np.isinf(numbers)
    if infinite.any():
        mend = "give a finite number, or leave it missing where that is allowed"
        refuse(file, "is infinite", mend, frame=frame, key=key, bad=infinite, column=name)
    if column.kind == "number":
        return pd.Series(numbers, index=values.index)
    present = ~np.isnan(numbers)
    broken = present & ((numbers != np.round(numbers)) | (np.abs(numbers) > np.iinfo(np.int64).max / 2))
    if broken.any():
        refuse(file, "is no whole number", "give whole numbers", frame=frame, key=key, bad=broken, column=name)
    # Offsets into a bank shard may pass 2**31; everything else is small.
    width = "Int64" if present.any() and np.abs(numbers[present]).max() > np.iinfo(np.int32).max else "Int32"
    dense = np.where(present, numbers, 0).astype(width.lower())
    return (
        pd.Series(pd.array(dense, dtype=width), index=values.index).mask(~present)
        if not present.all()
        else pd.Series(pd.array(dense, dtype=width), index=values.index)
    )


def _check_values(
    frame: pd.DataFrame,
    values: pd.Series,
    name: str,
    column: Column,
    key: tuple[str, ...],
    file: str | os.PathLike[str],
) -> None:
    def refuse_rows(bad: np.ndarray, reason: str, mend: str) -> None:
        if bad.any():
            refuse(file, reason, mend, frame=frame, key=key, bad=bad, column=name)

    missing = values.isna().to_numpy()
    if not column.nullable:
        refuse_rows(missing, "may not be missing", "fill it in or drop the row")
    if column.kind in ("text", "region") and not column.nullable:
        refuse_rows((values == "").to_numpy(dtype=bool), "is empty", "fill it in or drop the row")
    if column.choices:
        wrong = ~missing & ~values.isin(column.choices).to_numpy()
        refuse_rows(wrong, "is not known", f"use one of {', '.join(column.choices)}")
    if column.kind == "region":
        _check_regions(values, refuse_rows)
    if column.kind == "date":
        outside = ((values < EARLIEST_DATE) | (values >= LATEST_DATE)).to_numpy()
        refuse_rows(outside, "lies before 1900 or after 2099", "correct the date, or leave it missing if it may be")
        if column.past:
            today = pd.Timestamp.today().normalize()
            mend = f"a table of what was observed ends today ({today.date()}): correct or drop the row"
            refuse_rows((values > today).to_numpy(), "lies in the future", mend)
    if column.minimum is not None:
        low = values.lt(column.minimum).to_numpy(dtype=bool, na_value=False)
        refuse_rows(low, f"is below {column.minimum:g}", column.mend or "correct or drop the row")
    if column.above is not None:
        low = values.le(column.above).to_numpy(dtype=bool, na_value=False)
        refuse_rows(low, f"is not above {column.above:g}", column.mend or "correct or drop the row")


def _check_regions(values: pd.Series, refuse_rows: Any) -> None:
    for region in values.dropna().unique():
        if region in REGIONS or _USER_ASSIGNED.fullmatch(region):
            continue
        plain = region.strip().upper()
        plain = _REGION_MENDS.get(plain, plain)
        better = f"use '{plain}'" if plain in REGIONS else "use a code such as 'US', or 'GLOBAL' for the world"
        refuse_rows((values == region).to_numpy(dtype=bool), "is no ISO 3166 alpha-2 code", better)


def _check_key(frame: pd.DataFrame, key: tuple[str, ...], file: str | os.PathLike[str]) -> None:
    repeated = frame.duplicated(list(key)).to_numpy()
    if repeated.any():
        mend = f"keep one row for each {', '.join(key)}"
        refuse(file, "the row repeats the key of an earlier one", mend, frame=frame, key=key, bad=repeated)
