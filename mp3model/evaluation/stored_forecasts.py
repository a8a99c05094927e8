"""One system's forecasts in, a file that outlives a killed run out; and back, if they are of the same debuts."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd

from mp3model.evaluation.accuracy import CurveForecasts
from mp3model.files import InputError, written_whole
from mp3model.tables.debuts import Debuts

_FIELDS = tuple(field.name for field in fields(CurveForecasts))


def write_forecasts(path: Path, asked: Debuts, forecasts: Mapping[int, CurveForecasts | None]) -> None:
    """Stores forecasts by observed periods as NPZ, whole or not at all; numbers to the last bit."""
    arrays = {
        f"{observed} {name}": np.asarray(values)
        for observed, given in forecasts.items()
        for name in _FIELDS
        if (values := getattr(given, name, None)) is not None
    }
    told = {"debuts": digest_of(asked), "observed": list(forecasts)}
    with written_whole(path) as temporary, open(temporary, "wb") as stream:
        np.savez(stream, about=np.frombuffer(json.dumps(told).encode(), dtype=np.uint8), **arrays)  # type: ignore[arg-type]


def read_forecasts(path: Path, asked: Debuts) -> dict[int, CurveForecasts | None]:
    """The inverse of `write_forecasts`.

    Raises:
        InputError: The file is damaged, or of other debuts.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        told = json.loads(arrays.pop("about").tobytes())
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: cannot be read ({error}); delete it, and what made it makes it again") from error
    if told["debuts"] != digest_of(asked):
        raise InputError(
            f"{path}: holds forecasts of other debuts than these {len(asked.rows)}; name the data and split that it is "
            "of, or another file or folder"
        )
    found: dict[int, CurveForecasts | None] = dict.fromkeys(told["observed"])
    for observed in found:
        parts = {name: arrays.get(f"{observed} {name}") for name in _FIELDS}
        if parts["curve"] is not None:
            found[observed] = CurveForecasts(**parts)  # type: ignore[arg-type]
    return found


def digest_of(asked: Debuts) -> str:
    """Of which debuts with which curves: another dataset or split has another one."""
    keys = pd.util.hash_pandas_object(asked.rows[["track_id", "region", "debut"]], index=False).to_numpy()
    curves = np.ascontiguousarray(asked.curves.chart_observed())
    return hashlib.sha256(keys.tobytes() + curves.tobytes()).hexdigest()
