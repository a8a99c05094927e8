"""Debuts and forecasts of them in, the flat table by which an independent scorer can check our figures out.

A row a debut: `row_id` (region in lower case, date of debut and track: `us|20200102|TRACK`), `y0` … the point forecast
of each period in streams (periods that were observed as they were), `q10` … `q90` quantiles of the streams still to
come, and as far as forecast `total` (their point forecast), `score` (any number whose order is the forecast), `rank0`
(debut rank) and `length` (periods on the chart among those still to come).
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd

from mp3model.evaluation.accuracy import LEVELS, CurveForecasts
from mp3model.files import InputError, written_whole
from mp3model.tables.debuts import Debuts


def prediction_table(asked: Debuts, forecasts: CurveForecasts, observed: int) -> pd.DataFrame:
    """The table of one system at one number of observed periods, in the order of the debuts."""
    rows = asked.rows
    row_id = rows["region"].str.lower() + "|" + rows["debut"].dt.strftime("%Y%m%d") + "|" + rows["track_id"]
    curve = np.array(forecasts.curve, dtype=float)
    curve[:, :observed] = asked.curves.chart_observed()[:, :observed]
    table = {"row_id": row_id.to_numpy(dtype=object)} | {f"y{period}": column for period, column in enumerate(curve.T)}
    if forecasts.quantiles is not None:
        table |= {f"q{round(100 * level)}": column for level, column in zip(LEVELS, forecasts.quantiles.T, strict=True)}
    for name in ("total", "score", "rank0", "length"):
        values = getattr(forecasts, name)
        if values is not None:
            table[name] = np.asarray(values, dtype=float)
    return pd.DataFrame(table)


def table_path(path: str | os.PathLike[str], observed: int) -> Path:
    """`FILE.parquet` → `FILE.2.parquet`, the table with two observed periods.

    Raises:
        InputError: the name does not end in `.parquet`.
    """
    given = Path(path)
    if given.suffix != ".parquet":
        raise InputError(f"{given}: prediction tables are parquet; end the name in .parquet")
    return given.with_name(f"{given.stem}.{observed}.parquet")


def write_prediction_table(
    path: str | os.PathLike[str], asked: Debuts, forecasts: CurveForecasts, observed: int
) -> Path:
    """Writes the table whole, and gives the name it has by `table_path`."""
    place = table_path(path, observed)
    with written_whole(place) as temporary:
        prediction_table(asked, forecasts, observed).to_parquet(temporary, index=False)
    return place
