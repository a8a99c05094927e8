"""Nothing in; the shapes of all requests and answers of the HTTP API, with examples, out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from mp3model.evaluation.accuracy import QUANTILES
from mp3model.serving.requests import USUAL_SAMPLES, Limits

CODES = {
    400: "The body cannot be read as what it says it is.",
    401: "An API key is needed and none, or another, was given.",
    403: "Asked for by another site's page.",
    404: "No such thing.",
    408: "The body came too slowly.",
    413: "Too large, too long or too many.",
    415: "A kind of body, or of audio, that is not read.",
    422: "Something asked is wrong; the message names it.",
    500: "A defect of the server.",
    503: "As much waits as may wait, or it took too long; `Retry-After` says when to come again.",
}


class Strict(BaseModel):
    """Nothing beside what is named."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)


class Fault(Strict):
    """What went wrong: a fixed word and a line for people."""

    code: str = Field(examples=["unknown_region"])
    message: str = Field(examples=["region 'UK' is not known; known are GB, US"])


class Refused(Strict):
    """The body of every error."""

    error: Fault


_QUANTILES: dict[str, Any] = {
    f"quantile_{level.replace('.', '_')}": (float | None, Field(alias=level)) for level in QUANTILES
}
_Quantiles: Any = create_model("Quantiles", __base__=Strict, **_QUANTILES)


class CurveRow(_Quantiles):
    """Streams of one period; `week` or `day` counts from the debut."""

    track_id: str
    region: str
    week: int | None = None
    day: int | None = None
    date: str = Field(description="the period's last day", examples=["2026-12-10"])
    mean: float | None


class PopularityRow(_Quantiles):
    """One metric over the paths."""

    track_id: str
    region: str
    metric: str = Field(examples=["sum"])
    mean: float | None


class ChanceRow(_Quantiles):
    """`sum_above`, `weeks_to` (`days_to`), `top` or `percentile`; null where it is unknown or never."""

    track_id: str
    region: str
    question: Literal["sum_above", "weeks_to", "days_to", "top", "percentile"]
    amount: float | None
    probability: float | None


class ComparableRow(Strict):
    """One period of a song that sounds alike, as it was."""

    track_id: str
    region: str
    place: int
    song_id: str
    title: str | None
    artist: str | None
    distance: float
    week: int | None = None
    day: int | None = None
    date: str
    streams: float | None


class FlagRow(Strict):
    """A reason not to trust a forecast; an empty region is everywhere."""

    track_id: str
    region: str
    code: str
    reason: str


class ModelIdentity(Strict):
    """Which program and which weights answered."""

    version: str
    hash: str


class ForecastAnswer(Strict):
    """One song and release date; every number is given that the song charts."""

    track_id: str
    release_date: str | None
    curves: list[CurveRow]
    popularity: list[PopularityRow]
    chances: list[ChanceRow]
    comparables: list[ComparableRow]
    flags: list[FlagRow]
    model: ModelIdentity


class ForecastAnswers(Strict):
    """One song, several release dates, in their order."""

    forecasts: list[ForecastAnswer]


class Progress(Strict):
    """Files."""

    done: int
    total: int


class JobHead(Strict):
    """How far a job is."""

    id: str
    state: Literal["waiting", "running", "done"]
    progress: Progress


class JobResult(Strict):
    """One file's forecasts, one a release date, or why there are none."""

    track_id: str
    forecasts: list[ForecastAnswer] | None = None
    error: Fault | None = None


class JobAnswer(JobHead):
    """A job with what is done of it, in the order of the files."""

    results: list[JobResult]


class RegionRow(Strict):
    """A region that can be asked about."""

    region: str
    trained: bool = Field(description="whether the model learnt from it")
    last_chart: str | None = Field(description="the last chart that the model remembers")
    floor: float | None = Field(description="streams, the unit of scale there")


class RegionsAnswer(Strict):
    """All regions that can be asked about."""

    regions: list[RegionRow]


class ModelAnswer(ModelIdentity):
    """What answers here, and what may be asked of it."""

    parameters: int
    frequency: Literal["W", "D"]
    horizon: int
    hears: bool
    heard_seconds: float | None = Field(description="length of the clips that it learnt from")
    covariates: list[str]
    descriptors: list[str]
    catalogue_songs: int
    dataset: bool
    limits: dict[str, float]


class EffectRow(Strict):
    """What the mean log10 total loses when one second is silent."""

    region: str
    second: int
    effect: float


class AttributionAnswer(Strict):
    """Every second of a song."""

    track_id: str
    seconds: int
    effects: list[EffectRow]
    model: ModelIdentity


class Health(Strict):
    """Whether it lives, or can work."""

    status: Literal["ok", "busy"]


def errors(*statuses: int, answers_json: bool = True) -> dict[int | str, dict[str, Any]]:
    """The errors of a route, for its documentation; 401, 403, 500 and 503 may come from any.

    Args:
        statuses: Of the route's own.
        answers_json: Errors are JSON whatever a route answers else, which must be said where that is not.
    """
    found: dict[int | str, dict[str, Any]] = {}
    told = {"application/json": {"schema": {"$ref": "#/components/schemas/Refused"}}}
    for status in sorted({401, 403, 500, 503, *statuses}):
        found[status] = {"description": CODES[status], **({"model": Refused} if answers_json else {"content": told})}
        if status == 503:
            found[status]["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "seconds"}}
    return found


def _several(one: dict[str, Any], most: int) -> dict[str, Any]:
    return {"type": "array", "items": one, "maxItems": most}


def _fields(known: Sequence[str], limits: Limits, horizon: int) -> dict[str, Any]:
    """Schemas of the fields as they are in JSON."""
    day = {"type": "string", "format": "date", "examples": ["2026-12-04"]}
    region = {"type": "string", "enum": list(known)}
    streams = {"type": ["number", "null"], "minimum": 0, "maximum": 1e15}
    rank = {"type": ["integer", "null"], "minimum": 1}
    period = {"type": "integer", "minimum": 0, "maximum": max(0, horizon - 2), "description": "since the debut"}
    names = {"type": "string", "minLength": 1, "maxLength": 100}
    told = {"region": region, "streams": streams, "rank": rank, "date": day}
    seen: dict[str, Any] = {
        "properties": told | {"week": period, "day": period, "track_id": names},
        "required": ["region", "streams"],
    }
    seen["anyOf"] = [{"required": ["week"]}, {"required": ["day"]}, {"required": ["date"]}]
    past = {
        "properties": told | {"track_id": names, "song_id": names, "artist": names},
        "required": ["track_id", "region", "date", "streams"],
    }
    usual = min(USUAL_SAMPLES, limits.samples)
    rows = {"type": "array", "minItems": 1, "maxItems": limits.rows}
    return {
        "regions": _several(region, limits.regions)
        | {"uniqueItems": True, "description": "none is all that are known"},
        "release_date": {"anyOf": [day, _several(day, limits.dates)], "description": "period 0 holds it"},
        "artist": names | {"description": "whose song it is, guests after a comma; found in dataset or history"},
        "history": rows
        | {"items": {"type": "object"} | past, "description": "the artist's earlier songs; rows, or CSV as text"},
        "observed": rows
        | {"items": {"type": "object"} | seen, "description": "periods known so far; rows, or CSV as text"},
        "descriptors": {"type": "object", "additionalProperties": {"type": "number"}, "minProperties": 1},
        "horizon": {
            "type": "integer",
            "minimum": 1,
            "maximum": 10_000,
            "description": f"periods; more than {horizon} are cut to them, with a flag",
        },
        "samples": {"type": "integer", "minimum": 1, "maximum": limits.samples, "default": usual},
        "milestones": _several({"type": "number", "minimum": 1, "maximum": 1e15}, limits.amounts),
        "tops": _several({"type": "integer", "minimum": 1, "maximum": 1_000_000}, limits.amounts),
        "seed": {"type": "integer", "minimum": 0, "maximum": 2**63 - 1, "default": 0},
    }


def _of_form(fields: dict[str, Any], files: dict[str, Any]) -> dict[str, Any]:
    told = {name: schema for name, schema in fields.items() if name not in ("history", "observed", "descriptors")}
    for name in fields.keys() - told.keys():
        told[name] = {"type": "string", "description": fields[name].get("description", "a JSON object, as text")}
    return {"type": "object", "properties": files | told, "additionalProperties": False}


def forecast_body(
    known: Sequence[str], limits: Limits, horizon: int, reads_descriptors: bool, has_dataset: bool
) -> dict[str, Any]:
    """OpenAPI's request body of a forecast.

    Args:
        known: Regions.
        limits: Of what may be asked.
        horizon: Of the model.
        reads_descriptors: Whether the model does.
        has_dataset: Whether artists can be found without their history.
    """
    fields = _fields(known, limits, horizon)
    if not reads_descriptors:
        del fields["descriptors"]
    needed = {} if has_dataset else {"dependentRequired": {"artist": ["history"]}}
    sound = {"type": "string", "format": "binary", "description": "mp3, m4a, aac, ogg, flac, wav or aiff"}
    first = list(known)[:2]
    example = {
        "regions": first,
        "release_date": "2026-12-04",
        "observed": [{"region": region, "week": 0, "streams": 1_000_000} for region in first[:1]],
        "milestones": [1_000_000],
    }
    form = _of_form(fields, {"file": _several(sound, limits.files)}) | needed
    told = {"type": "object", "properties": fields, "additionalProperties": False} | needed
    return {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": form,
                "examples": {"song": {"value": {"regions": first, "release_date": "2026-12-04"}}},
            },
            "application/json": {"schema": told, "examples": {"without audio": {"value": example}}},
        },
    }


def attribution_body(known: Sequence[str], limits: Limits) -> dict[str, Any]:
    """OpenAPI's request body of attributions."""
    fields = _fields(known, limits, 0)
    kept = {name: fields[name] for name in ("regions", "samples", "seed")}
    kept["release_date"] = fields["release_date"]["anyOf"][0]
    form = _of_form(kept, {"file": {"type": "string", "format": "binary"}}) | {"required": ["file"]}
    return {"required": True, "content": {"multipart/form-data": {"schema": form}}}
