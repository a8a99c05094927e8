"""What a client sent, as form fields or as JSON, in; a checked question to the forecaster, or a refusal, out."""

from __future__ import annotations

import io
import json
import math
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from mp3model.audio.decode import MAX_SECONDS, AudioError
from mp3model.files import InputError
from mp3model.serving.observed import parsed_date
from mp3model.serving.result import MILESTONES, TOPS

MEGABYTE = 2**20
USUAL_SAMPLES = 256
_TEXT_COLUMNS = ("track_id", "song_id", "artist", "region", "date")
_NUMBER_COLUMNS = ("streams", "rank", "week", "day")
_LONGEST_HEADER, _LONGEST_MESSAGE, _LONGEST_NAME = 4_000, 600, 100
_REPEATED = ("regions", "release_date", "milestones", "tops")
_TABLES = ("history", "observed")
FORECAST_FIELDS = (
    *("regions", "release_date", "artist", "history", "observed", "descriptors"),
    *("horizon", "samples", "milestones", "tops", "seed"),
)
ATTRIBUTION_FIELDS = ("regions", "release_date", "samples", "seed")


@dataclass(frozen=True)
class Limits:
    """What one client, and all together, may ask.

    Attributes:
        body_bytes: Of a request with files.
        file_bytes: Of one file.
        json_bytes: Of a request without files.
        field_bytes: Of one form field that is no file.
        files: Of one request.
        regions: Named in one request.
        dates: Release dates of one request.
        samples: Paths a region and date.
        paths: Regions × dates × samples.
        amounts: Milestones, and top ranks.
        rows: Of observed periods, and of a history.
        audio_seconds: Of one song.
        attribution_seconds: Of a song whose seconds are asked about.
        waiting: Requests that may be at work or wait; the next one is told to come back.
        connections: Requests of any kind at once.
        request_seconds: Until an answer must be there.
        idle_seconds: Without a byte of an announced body.
        upload_seconds: For a whole body.
        jobs: Kept, done or not.
        job_bytes: Of results kept.
        jobs_at_once: At work.
        decoders: Processes that decode audio.
        decode_seconds: For one file.
        decode_megabytes: For one process.
    """

    body_bytes: int = 256 * MEGABYTE
    file_bytes: int = 64 * MEGABYTE
    json_bytes: int = 4 * MEGABYTE
    field_bytes: int = 2 * MEGABYTE
    files: int = 100
    regions: int = 300
    dates: int = 60
    samples: int = 4096
    paths: int = 250_000
    amounts: int = 32
    rows: int = 20_000
    audio_seconds: float = MAX_SECONDS
    attribution_seconds: float = 300.0
    waiting: int = 64
    connections: int = 512
    request_seconds: float = 120.0
    idle_seconds: float = 20.0
    upload_seconds: float = 600.0
    jobs: int = 200
    job_bytes: int = 256 * MEGABYTE
    jobs_at_once: int = 2
    decoders: int = 2
    decode_seconds: float = 30.0
    decode_megabytes: int = 1024


class Refusal(Exception):
    """A request that is not answered as asked.

    Attributes:
        status: Of HTTP.
        code: A fixed word for programs.
        message: A line for people.
        retry_after: Seconds after which to come again, or None.
    """

    def __init__(self, status: int, code: str, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.retry_after = status, code, retry_after
        self.message = printable(message)[:_LONGEST_MESSAGE]

    def body(self) -> dict[str, Any]:
        """As every error is told."""
        return {"error": {"code": self.code, "message": self.message}}


def refusal_of(error: InputError) -> Refusal:
    """How a fault that the forecaster or a decoder found in the input is told."""
    if not isinstance(error, AudioError):
        return Refusal(422, "invalid_input", str(error))
    if error.reason.startswith("is not an mp3"):
        return Refusal(415, "unsupported_audio", str(error))
    if error.reason.startswith("lasts "):
        return Refusal(413, "audio_too_long", str(error))
    return Refusal(422, "bad_audio", str(error))


def printable(text: str) -> str:
    """Text in one line without control characters and half characters, which JSON readers choke on."""
    kept = "".join(" " if unicodedata.category(letter)[0] == "C" else letter for letter in text)
    return " ".join(kept.split())


def label_of(filename: str | None) -> str:
    """What answers call a file: the last part of its name, without suffix; it is never used as a path."""
    name = printable(re.split(r"[\\/]", filename or "")[-1])[: 2 * _LONGEST_NAME]
    stem = name.rpartition(".")[0] or name
    return stem.strip(". ")[:_LONGEST_NAME] or "song"


def labels_of(filenames: Sequence[str | None]) -> list[str]:
    """Labels of several files, each its own."""
    labels: list[str] = []
    for filename in filenames:
        label, number = label_of(filename), 2
        stem = label
        while label in labels:
            label, number = f"{stem} ({number})", number + 1
        labels.append(label)
    return labels


@dataclass(frozen=True)
class Asked:
    """A checked question.

    Attributes:
        regions: All of them known, or None for all that are.
        dates: `YYYY-MM-DD`, or one None.
        artist: Or None.
        history: Frame of the artist's earlier songs, or None.
        observed: Frame of observed periods, or None.
        descriptors: Name → number, or None.
        horizon: Periods, or None for the model's.
        samples: Paths.
        milestones: Streams.
        tops: Ranks.
        seed: Of the luck.
    """

    regions: list[str] | None
    dates: list[str | None]
    artist: str | None
    history: pd.DataFrame | None
    observed: pd.DataFrame | None
    descriptors: dict[str, float] | None
    horizon: int | None
    samples: int
    milestones: tuple[float, ...]
    tops: tuple[int, ...]
    seed: int

    def observed_of(self, label: str, labels: Sequence[str]) -> pd.DataFrame | None:
        """The observed periods of one of several songs.

        Raises:
            Refusal: If they do not say whose they are, or are of a song that is not asked about.
        """
        if self.observed is None:
            return None
        if "track_id" not in self.observed:
            if len(labels) > 1:
                raise Refusal(422, "invalid_input", f"observed: no column track_id, but {len(labels)} files are asked")
            return self.observed
        tracks = self.observed["track_id"]
        stray = ~tracks.isin(list(labels))
        if stray.any():
            names = ", ".join(labels[:6])
            told = f"observed: track_id {tracks[stray].iloc[0]!r} is not asked about; asked about are {names}"
            raise Refusal(422, "invalid_input", told)
        own = self.observed[tracks == label].drop(columns="track_id").reset_index(drop=True)
        return own if len(own) else None


def fields_of_form(pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Form fields as JSON would have them; an empty field is one that was not given.

    Raises:
        Refusal: If a field that goes once is there twice, or a JSON text is none.
    """
    found: dict[str, Any] = {}
    for name, value in pairs:
        if not value.strip() and name != "regions":
            continue
        if name in _REPEATED:
            found.setdefault(name, []).append(value)
            continue
        if name in found:
            raise Refusal(422, "repeated_field", f"{name}: is there twice; give it once")
        found[name] = json_of(value, name) if name == "descriptors" else value
    return found


def json_of(text: str | bytes, name: str) -> Any:
    """A JSON value.

    Raises:
        Refusal: If the text is none, or holds NaN or an infinity.
    """

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON number")

    try:
        return json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise Refusal(422, "bad_json", f"{name}: is no JSON ({str(error)[:200] or 'nested too deep'})") from error


def asked_of(
    fields: Mapping[str, Any], known: Sequence[str], limits: Limits, allowed: Sequence[str] = FORECAST_FIELDS
) -> Asked:
    """Checks all that can be checked without the model.

    Args:
        fields: Of `fields_of_form`, or a JSON object.
        known: Regions.
        limits: Of the service.
        allowed: Names of fields.

    Raises:
        Refusal: Names the first fault.
    """
    strange = [name for name in fields if name not in allowed]
    if strange:
        raise Refusal(422, "unknown_field", f"{strange[0]}: is no field of this request; it has {', '.join(allowed)}")
    regions = _regions(_listed(fields.get("regions"), "regions", limits.regions), known)
    dates = _dates(_listed(fields.get("release_date"), "release_date", limits.dates))
    usual = min(USUAL_SAMPLES, limits.samples)
    samples = _integer(fields.get("samples", usual), "samples", 1, limits.samples)
    paths = samples * len(dates) * len(known if regions is None else regions)
    if paths > limits.paths:
        told = f"regions, release dates and samples: {paths} paths in all; ask for {limits.paths} at most"
        raise Refusal(413, "too_many_paths", told)
    milestones = _listed(fields.get("milestones"), "milestones", limits.amounts)
    tops = _listed(fields.get("tops"), "tops", limits.amounts)
    horizon = fields.get("horizon")
    history, observed = (_table(fields.get(name), name, limits.rows) for name in _TABLES)
    return Asked(
        regions=regions,
        dates=dates,
        artist=_text(fields.get("artist"), "artist"),
        history=history,
        observed=observed,
        descriptors=_descriptors(fields.get("descriptors")),
        horizon=None if horizon is None else _integer(horizon, "horizon", 1, 10_000),
        samples=samples,
        milestones=tuple(_number(one, "milestones", 1.0, 1e15) for one in milestones) if milestones else MILESTONES,
        tops=tuple(_integer(one, "tops", 1, 1_000_000) for one in tops) if tops else TOPS,
        seed=_integer(fields.get("seed", 0), "seed", 0, 2**63 - 1),
    )


def _wrong(name: str, value: Any, wanted: str) -> Refusal:
    return Refusal(422, "invalid_field", f"{name} {_shown(value)}: give {wanted}")


def _shown(value: Any) -> str:
    # A long number takes long to write, and a nested value may have no end in sight.
    if isinstance(value, int) and abs(value) > 10**30:
        return "of that size"
    return repr(value)[:80] if isinstance(value, str | int | float | bool | None) else f"of kind {type(value).__name__}"


def _listed(value: Any, name: str, most: int) -> list[Any]:
    if value is None:
        return []
    values = value if isinstance(value, list) else [value]
    if len(values) > most:
        raise Refusal(413, "too_many_values", f"{name}: {len(values)} of them; give {most} at most")
    return values


def _regions(values: list[Any], known: Sequence[str]) -> list[str] | None:
    for region in values:
        if not isinstance(region, str):
            raise _wrong("regions", region, "names of regions")
        if region not in known:
            near = region.strip().upper()
            hint = f"; do you mean {near}?" if near in known else ""
            told = f"region {_shown(region)} is not known; known are {', '.join(known)}{hint}"
            raise Refusal(422, "unknown_region", told)
    if len(set(values)) < len(values):
        raise Refusal(422, "invalid_field", f"regions {', '.join(values)}: name each region once")
    return values or None


def _dates(values: list[Any]) -> list[str | None]:
    for value in values:
        if not isinstance(value, str):
            raise _wrong("release_date", value, "YYYY-MM-DD")
        try:
            parsed_date(value, "release_date")
        except InputError as error:
            raise Refusal(422, "invalid_field", str(error)) from error
    return [*values] or [None]


def _text(value: Any, name: str) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not printable(value) or len(value) > 2 * _LONGEST_NAME:
        raise _wrong(name, value, f"a name of at most {2 * _LONGEST_NAME} letters")
    return printable(value)


def _number(value: Any, name: str, low: float, high: float) -> float:
    try:
        number = math.nan if isinstance(value, bool) or not isinstance(value, str | int | float) else float(value)
    except (ValueError, OverflowError):
        number = math.nan
    if not low <= number <= high:
        raise _wrong(name, value, f"a number from {low:g} to {high:g}")
    return number


def _integer(value: Any, name: str, low: int, high: int) -> int:
    whole = value if isinstance(value, int) and not isinstance(value, bool) else None
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,20}", value.strip()):
        whole = int(value)
    # JSON has one kind of number: 64.0 is 64.
    if isinstance(value, float) and value.is_integer():
        whole = int(value)
    if whole is None or not low <= whole <= high:
        raise _wrong(name, value, f"a whole number from {low} to {high}")
    return whole


def _descriptors(value: Any) -> dict[str, float] | None:
    if value is None:
        return None
    if not isinstance(value, dict) or not value:
        raise _wrong("descriptors", value, "a JSON object of names and numbers")
    return {name: _number(one, f"descriptors {_shown(name)}", -1e30, 1e30) for name, one in value.items()}


def _table(value: Any, name: str, most: int) -> pd.DataFrame | None:
    """CSV text, JSON text or a list of rows → a frame of the columns that mean something; None of None."""
    if value is None:
        return None
    if isinstance(value, str):
        text = value.removeprefix("\ufeff").strip()
        if not text.startswith(("[", "{")):
            return _checked(_csv(text, name, most), name, most)
        value = json_of(text, name)
    if not isinstance(value, list) or not value or not all(isinstance(row, dict) for row in value):
        raise Refusal(422, "invalid_table", f"{name}: give rows, as CSV or as a JSON list of objects")
    if len(value) > most:
        raise Refusal(413, "too_many_rows", f"{name}: {len(value)} rows; give {most} at most")
    names = [column for column in (*_TEXT_COLUMNS, *_NUMBER_COLUMNS) if any(column in row for row in value)]
    columns = {column: [_cell(row.get(column), column, name, at) for at, row in enumerate(value)] for column in names}
    # As text for text, so that a column of nothing but missing values is one of text too.
    kinds: dict[str, Any] = {column: "str" if column in _TEXT_COLUMNS else float for column in names}
    return _checked(pd.DataFrame(columns, columns=names).astype(kinds), name, most)


def _cell(value: Any, column: str, name: str, row: int) -> str | float | None:
    if value is None:
        return None
    if column in _TEXT_COLUMNS:
        if isinstance(value, str):
            return value[:_LONGEST_MESSAGE]
        raise _wrong(f"{name}: row {row}: {column}", value, "text")
    return _number(value, f"{name}: row {row}: {column}", -1e30, 1e30)


def _csv(text: str, name: str, most: int) -> pd.DataFrame:
    header = text[: _LONGEST_HEADER + 1].splitlines()[:1]
    if header and len(header[0]) > _LONGEST_HEADER:
        raise Refusal(422, "invalid_table", f"{name}: its first line is longer than {_LONGEST_HEADER} letters")
    wanted = {*_TEXT_COLUMNS, *_NUMBER_COLUMNS}
    is_wanted: Callable[[Any], bool] = wanted.__contains__
    try:
        return pd.read_csv(
            io.StringIO(text),
            keep_default_na=False,
            na_values=[""],
            nrows=most + 1,
            index_col=False,
            usecols=is_wanted,
            dtype=dict.fromkeys(_TEXT_COLUMNS, "str"),
        )
    except (ValueError, OverflowError) as error:
        told = f"{name}: not a readable table ({' '.join(str(error).split())[:200]})"
        raise Refusal(422, "invalid_table", told) from error


def _checked(frame: pd.DataFrame, name: str, most: int) -> pd.DataFrame:
    if not len(frame):
        raise Refusal(422, "invalid_table", f"{name}: has no row")
    if len(frame) > most:
        raise Refusal(413, "too_many_rows", f"{name}: more than {most} rows")
    return frame
