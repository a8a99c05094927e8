"""A frame and the schema of its table in, the same frame with settled types out, or one line that says what is wrong.

The checks are our own and few because the errors matter more than the number of rules: each names the file, the row
(0-based position in the file, with the values of its key), the column, the value, and what to do about it.
"""

from __future__ import annotations

import datetime
import decimal
import numbers
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
import pandas as pd

from mp3model.files import InputError

Key = tuple[str, ...]
RefuseRows = Callable[[np.ndarray, str, str], None]
Kind = Literal["text", "region", "date", "number", "integer", "long"]

# NaN as the missing mark in text too: the same type as pandas 3 infers by itself, spelled so that pandas 2.3 gives it.
TEXT = pd.StringDtype("pyarrow", na_value=np.nan)
DATE_UNIT = np.dtype("datetime64[s]")
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
        kind: `text`, `region`, `date` (whole days, no time zone), `number` (float64), `integer` (nullable
            Int32) or `long` (nullable Int64).
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
    key: Key
    prefixes: tuple[str, ...] = field(default=())


def refuse(
    file: str | Path,
    reason: str,
    mend: str,
    *,
    frame: pd.DataFrame | None = None,
    key: Key = (),
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
    place = f"{file}:"
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
    if isinstance(value, datetime.date):
        return str(value).removesuffix(" 00:00:00")
    if isinstance(value, np.generic):
        value = value.item()
    return repr(value)


def validate(frame: pd.DataFrame, schema: Schema, file: str | Path) -> pd.DataFrame:
    """Checks a table by itself and settles its types.

    Args:
        frame: the table, any integer or float width, any datetime unit; row order is kept.
        schema: what it should hold.
        file: the file that errors name.

    Returns:
        A new frame, columns in the schema's order (extra prefixed ones after), index 0 … n − 1; text as
        strings with NaN for missing, dates as `datetime64[s]` at midnight, numbers as float64, integers as Int32.

    Raises:
        InputError: names file, row, column, value and mend of the first fault.
    """
    names = _present_columns(frame, schema, file)
    frame = frame.reset_index(drop=True)
    settled: dict[str, pd.Series] = {}
    for name in names:
        column = schema.columns.get(name, Column("number", nullable=True))

        def refuse_rows(bad: np.ndarray, reason: str, mend: str, name: str = name) -> None:
            if bad.any():
                refuse(file, reason, mend, frame=frame, key=schema.key, bad=bad, column=name)

        settled[name] = _settle(frame[name], column, refuse_rows)
        _check_values(settled[name], column, refuse_rows)
    result = pd.DataFrame(settled, index=frame.index)
    if not _rises(result, schema.key):
        repeated = result.duplicated(list(schema.key)).to_numpy()
        if repeated.any():
            mend = f"keep one row for each {', '.join(schema.key)}"
            refuse(file, "the row repeats the key of an earlier one", mend, frame=frame, key=schema.key, bad=repeated)
    return result


def places(wanted: Any, known: Any) -> np.ndarray:
    """Where in `known` each text of `wanted` stands, −1 where nowhere; a missing text stands nowhere.

    Arrow looks its own texts up; an Index of pandas makes a Python object of each first, which a table of millions of
    rows feels.

    Args:
        wanted: (n,) texts, as a series, an index, an array or a list.
        known: (m,) texts; of one that stands there twice, the first.

    Returns:
        (n,) int64.
    """
    import pyarrow
    import pyarrow.compute

    asked, among = (_arrow_texts(texts) for texts in (wanted, known))
    if isinstance(among, pyarrow.ChunkedArray):
        among = among.combine_chunks()
    found = pyarrow.compute.index_in(asked, value_set=among, skip_nulls=True)
    return found.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)


def _arrow_texts(texts: Any) -> Any:
    import pyarrow

    return pyarrow.array(texts, type=pyarrow.large_string(), from_pandas=True)


def _rises(frame: pd.DataFrame, key: Key) -> bool:
    """Whether each row's key is above the one before, as in tables that were written here: then none repeats."""
    rises = np.zeros(max(len(frame) - 1, 0), bool)
    for name in reversed(key):
        values = frame[name].array
        above = np.asarray(values[1:] > values[:-1], dtype=bool)
        equal = np.asarray(values[1:] == values[:-1], dtype=bool)
        rises = above | (equal & rises)
    return bool(rises.all())


def _present_columns(frame: pd.DataFrame, schema: Schema, file: str | Path) -> list[str]:
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


def _settle(values: pd.Series, column: Column, refuse_rows: RefuseRows) -> pd.Series:
    if isinstance(values.dtype, pd.CategoricalDtype):
        values = values.astype(values.cat.categories.dtype)
    if column.kind in ("text", "region"):
        return _settle_text(values, refuse_rows)
    if column.kind == "date":
        return _settle_date(values, refuse_rows)
    return _settle_number(values, column, refuse_rows)


def _settle_text(values: pd.Series, refuse_rows: RefuseRows) -> pd.Series:
    if not isinstance(values.dtype, pd.StringDtype):
        values = values.astype(object)
        refuse_rows(_of_other_type(values, str), "is not text", "write it as text")
        values = values.where(values.notna(), None)
    return values.astype(TEXT)


def _settle_date(values: pd.Series, refuse_rows: RefuseRows) -> pd.Series:
    present = values.notna().to_numpy()
    if isinstance(values.dtype, pd.DatetimeTZDtype):
        refuse_rows(present, f"has a time zone ({values.dtype.tz})", "drop the zone: dates are days of the chart")
        values = values.dt.tz_localize(None)
    if not pd.api.types.is_datetime64_dtype(values.dtype):
        # Parquet's own date type arrives as datetime.date objects.
        values = values.astype(object)
        mend = "write a date type, e.g. by pandas.to_datetime"
        refuse_rows(_of_other_type(values, datetime.date), "is not a date", mend)
        values = pd.Series(pd.to_datetime(values.where(values.notna(), None)), index=values.index)
    timed = present & (values != values.dt.normalize()).to_numpy()
    refuse_rows(timed, "has a time of day", "give whole days (midnight)")
    return values.astype(DATE_UNIT)


def _settle_number(values: pd.Series, column: Column, refuse_rows: RefuseRows) -> pd.Series:
    if not pd.api.types.is_any_real_numeric_dtype(values.dtype):
        values = values.astype(object)
        refuse_rows(
            _of_other_type(values, numbers.Real, decimal.Decimal), "is not a number", "write it as a number type"
        )
        values = values.where(values.notna(), np.nan).astype(float)
    dense = values.to_numpy(dtype=float, na_value=np.nan)
    refuse_rows(np.isinf(dense), "is infinite", "give a finite number, or leave it missing where that is allowed")
    if column.kind == "number":
        return pd.Series(dense, index=values.index)
    missing = np.isnan(dense)
    # Float64 holds whole numbers up to 2**53 exactly.
    largest = 2**53 if column.kind == "long" else np.iinfo(np.int32).max
    broken = ~missing & ((dense != np.round(dense)) | (np.abs(dense) > largest))
    refuse_rows(broken, f"is no whole number up to {largest}", "give whole numbers")
    whole = np.where(missing, 0, dense).astype(np.int64)
    return pd.Series(whole, index=values.index, dtype="Int64" if column.kind == "long" else "Int32").mask(missing)


def _of_other_type(values: pd.Series, *wanted: type) -> np.ndarray:
    """Marks present values that are of none of the wanted Python types; a truth value is no number here."""
    fits = np.array([isinstance(value, wanted) and not isinstance(value, bool) for value in values], bool)
    return ~fits & values.notna().to_numpy()


def _check_values(values: pd.Series, column: Column, refuse_rows: RefuseRows) -> None:
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
        _check_dates(values, column, refuse_rows)
    if column.minimum is not None:
        low = values.lt(column.minimum).to_numpy(dtype=bool, na_value=False)
        refuse_rows(low, f"is below {column.minimum:g}", column.mend or "correct or drop the row")
    if column.above is not None:
        low = values.le(column.above).to_numpy(dtype=bool, na_value=False)
        refuse_rows(low, f"is not above {column.above:g}", column.mend or "correct or drop the row")


def _check_dates(values: pd.Series, column: Column, refuse_rows: RefuseRows) -> None:
    outside = ((values < EARLIEST_DATE) | (values >= LATEST_DATE)).to_numpy()
    refuse_rows(outside, "lies before 1900 or after 2099", "correct the date, or leave it missing if it may be")
    if column.past:
        today = pd.Timestamp.today().normalize()
        mend = f"a table of what was observed ends today ({today.date()}): correct or drop the row"
        refuse_rows((values > today).to_numpy(), "lies in the future", mend)


def _check_regions(values: pd.Series, refuse_rows: RefuseRows) -> None:
    for region in values.dropna().unique():
        if region in REGIONS or _USER_ASSIGNED.fullmatch(region):
            continue
        plain = region.strip().upper()
        plain = _REGION_MENDS.get(plain, plain)
        better = f"use '{plain}'" if plain in REGIONS else "use a code such as 'US', or 'GLOBAL' for the world"
        refuse_rows((values == region).to_numpy(dtype=bool), "is no ISO 3166 alpha-2 code", better)
