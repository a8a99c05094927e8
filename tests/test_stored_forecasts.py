"""Forecasts on disk and the table for independent scorers: what comes back, what is refused, what the columns say."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from baseline_checks import all_debuts
from small_charts import HORIZON

from mp3model.evaluation.accuracy import CurveForecasts
from mp3model.evaluation.prediction_tables import prediction_table, table_path, write_prediction_table
from mp3model.evaluation.stored_forecasts import read_forecasts, write_forecasts
from mp3model.files import InputError


def made(n: int, seed: int = 0) -> CurveForecasts:
    generator = np.random.default_rng(seed)
    quantiles = np.sort(generator.random((n, 9)), axis=1)
    return CurveForecasts(
        generator.random((n, HORIZON)), quantiles, score=generator.random(n), rank0=np.arange(n) + 1.0
    )


def test_forecasts_come_back_to_the_last_bit(tmp_path):
    asked = all_debuts().of_split("test")
    given = {0: made(len(asked.rows)), 1: None, 4: CurveForecasts(np.ones((len(asked.rows), HORIZON)))}
    write_forecasts(tmp_path / "region × month.npz", asked, given)
    found = read_forecasts(tmp_path / "region × month.npz", asked)
    assert list(found) == [0, 1, 4]
    assert found[1] is None
    for observed in (0, 4):
        for name, values in vars(given[observed]).items():
            other = getattr(found[observed], name)
            assert other is None if values is None else np.array_equal(values, other), name


def test_forecasts_of_other_debuts_or_half_a_file_are_refused_by_name(tmp_path):
    asked, path = all_debuts().of_split("test"), tmp_path / "gamma.npz"
    write_forecasts(path, asked, {0: made(len(asked.rows))})
    with pytest.raises(InputError, match=r"gamma\.npz: holds forecasts of other debuts"):
        read_forecasts(path, all_debuts().of_split("validation"))
    changed = all_debuts().of_split("test")
    changed.curves.streams[:] *= 2
    with pytest.raises(InputError, match="other debuts"):
        read_forecasts(path, changed)
    whole = path.read_bytes()
    for half in (whole[: len(whole) // 2], b"", b"no archive"):
        path.write_bytes(half)
        with pytest.raises(InputError, match=r"gamma\.npz: cannot be read"):
            read_forecasts(path, asked)


def test_the_prediction_table_has_a_row_a_debut_and_only_what_was_forecast(tmp_path):
    asked = all_debuts().of_split("test")
    given = made(len(asked.rows))
    path = write_prediction_table(tmp_path / "preds.parquet", asked, given, 2)
    assert path == tmp_path / "preds.2.parquet"
    table = pd.read_parquet(path)
    row = asked.rows.iloc[0]
    assert table["row_id"].iloc[0] == f"{row['region'].lower()}|{row['debut']:%Y%m%d}|{row['track_id']}"
    assert table["row_id"].is_unique
    assert np.array_equal(table["y2"], given.curve[:, 2])
    assert np.array_equal(table["y1"], asked.curves.chart_observed()[:, 1], equal_nan=True)
    assert np.array_equal(table["q10"], given.quantiles[:, 0])
    assert np.array_equal(table["q90"], given.quantiles[:, 8])
    assert list(table.columns[-2:]) == ["score", "rank0"]
    assert not any(name.startswith("q") for name in prediction_table(asked, CurveForecasts(given.curve), 0))
    with pytest.raises(InputError, match=r"preds\.csv.*\.parquet"):
        table_path("preds.csv", 0)
