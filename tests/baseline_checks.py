"""Baselines in, whether anything after the cut-off, or of the test songs, moves their forecasts out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from small_charts import HORIZON, REGIONS, future_changed, small_charts, week

from mp3model.baselines.interface import CurveBaseline
from mp3model.evaluation.accuracy import CurveForecasts
from mp3model.model.covariates import Covariates
from mp3model.tables.debuts import Debuts, debut_rows, debuts_of
from mp3model.tables.folder import DatasetFolder
from mp3model.tables.history import History

FIELDS = ("curve", "quantiles", "total", "score", "rank0", "length")
GROUPS = ("state", "artist", "regions")
SCALES = dict.fromkeys(REGIONS, 50.0)


def covariates_of(dataset: DatasetFolder) -> Covariates:
    history = History(dataset, SCALES)
    return Covariates(list(REGIONS), "W", HORIZON, GROUPS, history.states, history)


def all_debuts(dataset: DatasetFolder | None = None) -> Debuts:
    """Curves of the small charts' debuts as a dataset, by default the small charts, has them."""
    return debuts_of(dataset or small_charts(), debut_rows(small_charts()), HORIZON)


def fitted(baseline: Any, dataset: DatasetFolder | None = None) -> Any:
    dataset = dataset or small_charts()
    debuts = all_debuts(dataset)
    return baseline.fit(debuts.of_split("train"), debuts.of_split("validation"), covariates_of(dataset))


def same(one: CurveForecasts | None, other: CurveForecasts | None, observed: int) -> bool:
    """Are they the same to the last bit? Observed periods of a curve are read by nobody."""
    if one is None or other is None:
        return one is other
    for field in FIELDS:
        first, second = getattr(one, field), getattr(other, field)
        if (first is None) != (second is None):
            return False
        if first is not None:
            cut = observed if field == "curve" else 0
            first, second = (values if values.ndim == 1 else values[:, cut:] for values in (first, second))
            if not np.array_equal(first, second, equal_nan=True):
                return False
    return True


def assert_the_future_moves_nothing(make: Any, observed: int) -> None:
    """Scrambles all after a day, adds songs, drops rows and charts: forecasts with cut-offs up to it stay."""
    day = week(45)
    changed = future_changed(small_charts(), day, seed=1)
    answers = []
    for dataset in (small_charts(), changed):
        debuts = all_debuts(dataset)
        # Only what was over by the day may be learnt from.
        first = debuts.rows["debut"].to_numpy().astype("datetime64[D]")
        over = first + 7 * (HORIZON - 1) <= day
        early = debuts.rows["split"].isin(["train"]).to_numpy() & over
        baseline = make(dataset)
        baseline.fit(debuts.chosen(early), debuts.chosen(over & ~early), covariates_of(dataset))
        asked = (first + 7 * (observed - 1) <= day) & ~over
        assert asked.sum() >= 5
        answers.append(baseline.forecast(debuts.chosen(asked), observed))
    assert same(answers[0], answers[1], observed)


def assert_test_songs_teach_nothing(make: Any, observed: int) -> None:
    """Fits with and without the test songs in the dataset: forecasts of the validation split stay."""
    dataset = small_charts()
    rows = debut_rows(dataset)
    test = set(rows.loc[rows["split"] == "test", "song_id"])
    assert test
    tracks = dataset.tracks[~dataset.tracks["song_id"].isin(test)].reset_index(drop=True)
    curves = dataset.curves[dataset.curves["track_id"].isin(tracks["track_id"])].reset_index(drop=True)
    splits = dataset.splits[dataset.splits["track_id"].isin(tracks["track_id"])].reset_index(drop=True)
    without = replace(dataset, tracks=tracks, curves=curves, splits=splits)
    answers = []
    for one in (dataset, without):
        debuts = debuts_of(one, debut_rows(one), HORIZON)
        train, validation = debuts.of_split("train"), debuts.of_split("validation")
        baseline: CurveBaseline = make(one)
        baseline.fit(train, validation, covariates_of(one))
        answers.append(baseline.forecast(validation, observed))
    assert same(answers[0], answers[1], observed)


def assert_forecasts_are_whole(forecasts: CurveForecasts, debuts: Debuts, observed: int) -> None:
    """Every field is there, finite, not negative, with quantiles in order."""
    n = len(debuts.rows)
    assert forecasts.curve.shape == (n, HORIZON)
    assert forecasts.quantiles is not None
    assert forecasts.quantiles.shape == (n, 9)
    assert (np.diff(forecasts.quantiles, axis=1) >= 0).all()
    assert (forecasts.rank0 is not None) == (observed == 0)
    for field in FIELDS:
        values = getattr(forecasts, field)
        if values is not None:
            assert len(values) == n
            assert np.isfinite(values).all()
            assert (values >= 0).all()
