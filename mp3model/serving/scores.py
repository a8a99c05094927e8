"""A file of sampled paths or of observed curves in, its popularity metrics out."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd

from mp3model.evaluation.popularity import RankCurve, popularity_table, summarise_table
from mp3model.files import InputError
from mp3model.serving.observed import parsed_date, read_table
from mp3model.tables.curves import PERIOD_DAYS, period_index

_NAMES = ["track_id", "region", "sample"]


def metrics_of(
    path: str | os.PathLike[str] | pd.DataFrame,
    observed: int | None = None,
    zero_filled: bool = False,
    model: str | os.PathLike[str] | None = None,
) -> pd.DataFrame:
    """Metrics of each curve of a table, or their distribution where it holds sampled paths.

    Args:
        path: CSV or parquet, or a frame: `streams` and `week` (`day`) or `date`; of `track_id, region, rank, sample`
            what there is. Dates less than a week apart make it daily.
        observed: Periods known when the forecast was made, which adds `remaining`.
        zero_filled: See `popularity_metrics`.
        model: Folder whose `config.json` tells debut ranks where the table has none.

    Raises:
        InputError: Names the file and what is wrong with it.
    """
    frame, name = read_table(path, "table")
    if "date" in frame and not {"week", "day"} & set(frame):
        frame = _with_periods(frame, name)
    if "streams" in frame:
        numbers = pd.to_numeric(frame["streams"], errors="coerce")
        wrong = (numbers.isna() & frame["streams"].notna()).to_numpy()
        if wrong.any():
            row = int(wrong.argmax())
            raise InputError(f"{name}: row {row}: streams {frame['streams'][row]!r} is no number")
        frame = frame.assign(streams=numbers)
    if model is not None and "rank" not in frame and {"region", "streams"} <= set(frame):
        frame = frame.assign(rank=_ranks(frame, _rank_curves(model)))
    try:
        table = popularity_table(frame, "zero-filled" if zero_filled else "observed", observed=observed)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    return summarise_table(table) if "sample" in table else table


def _with_periods(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    days = np.array([parsed_date(day, f"{name}: row {row}: date") for row, day in enumerate(frame["date"])])
    keys = [column for column in _NAMES if column in frame]
    groups = pd.Series(days).groupby([frame[key] for key in keys] if keys else np.zeros(len(frame)))
    gaps = groups.apply(lambda own: pd.Series(own.unique()).sort_values().diff().min())
    frequency = "D" if gaps.min() < pd.Timedelta(days=PERIOD_DAYS["W"]) else "W"
    first = groups.transform("min").to_numpy().astype("datetime64[D]")
    try:
        return frame.assign(week=period_index(days, first, frequency))
    except InputError as error:
        raise InputError(f"{name}: {error}") from error


def _ranks(frame: pd.DataFrame, curves: dict[str, RankCurve]) -> np.ndarray:
    """Rank that each row's streams had on its region's chart, as forecasts say it; NaN without a chart, or off it."""
    ranks = np.full(len(frame), np.nan)
    for region, curve in curves.items():
        rows = (frame["region"] == region).to_numpy() & (frame["streams"] > 0).to_numpy()
        ranks[rows] = curve.rank_of(frame["streams"].to_numpy(dtype=float)[rows], below="next")
    return ranks


def _rank_curves(model: str | os.PathLike[str]) -> dict[str, RankCurve]:
    path = Path(model) / "config.json"
    try:
        stored = json.loads(path.read_text()).get("rank_curves") or {}
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"model {path}: cannot be read ({error})") from error
    return {region: RankCurve.from_dict(content) for region, content in stored.items()}
