"""Forecasts, models and effects in; the JSON that clients get, without NaN and without paths of the server, out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mp3model import __version__
from mp3model.files import sha256_of
from mp3model.serving.result import Forecast


def as_json(value: Any) -> bytes:
    """Plain values as JSON in ASCII, the same bytes for the same values."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """A row an object: days as YYYY-MM-DD, and null for what is missing, NaN or infinite."""
    columns = []
    for name in table:
        values = table[name]
        if values.dtype.kind == "M":
            columns.append([None if pd.isna(day) else str(day)[:10] for day in values])
        elif values.dtype.kind == "f":
            columns.append([value if np.isfinite(value) else None for value in values.tolist()])
        elif values.dtype.kind in "iu":
            columns.append(values.tolist())
        else:
            columns.append([None if pd.isna(value) else str(value) for value in values])
    names = [str(name) for name in table]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def forecast_answer(
    found: Forecast,
    label: str,
    release: str | None,
    milestones: Sequence[float],
    tops: Sequence[int],
    model: dict[str, str],
    more_flags: Sequence[tuple[str, str]] = (),
    hidden: str | None = None,
) -> dict[str, Any]:
    """All that is told of one song and release date.

    Args:
        found: Of one song.
        label: What the song is called in the answer.
        release: As asked.
        milestones, tops: Of `Forecast.chances`.
        model: `version, hash`.
        more_flags: Codes and reasons that the forecaster does not know of.
        hidden: A path of the server that reasons may name.
    """
    tables = {
        "curves": found.curves,
        "popularity": found.popularity,
        "chances": found.chances(milestones, tops),
        "comparables": found.comparables,
        "flags": found.flags,
    }
    answer: dict[str, Any] = {"track_id": label, "release_date": release}
    for name, table in tables.items():
        answer[name] = [row | {"track_id": label} for row in records(table)]
    for flag in answer["flags"]:
        flag["region"] = flag["region"] or ""
        if hidden is not None:
            flag["reason"] = flag["reason"].replace(hidden, "the dataset")
    answer["flags"] += [{"track_id": label, "region": "", "code": code, "reason": why} for code, why in more_flags]
    return answer | {"model": model}


def model_identity(folder: Path) -> dict[str, str]:
    """`version` of the program and `hash` of the model's files, its card left out."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "README.md"):
        digest.update(f"{path.relative_to(folder)}\0{sha256_of(path)}\n".encode())
    return {"version": __version__, "hash": digest.hexdigest()}
