"""The audit: what it changes and what it leaves, and that it sees a forecaster look ahead wherever one could."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from small_charts import HORIZON, REGIONS, small_charts, week

from mp3model.evaluation.audit import audit_forecasts, changed_after, sample_of
from mp3model.files import InputError
from mp3model.model.covariates import Covariates
from mp3model.tables.curves import floors
from mp3model.tables.debuts import debut_rows, debuts_of
from mp3model.tables.folder import DatasetFolder
from mp3model.tables.history import History
from mp3model.tables.tracks import artist_keys

DAY = pd.Timestamp(week(40))
KEY = ["track_id", "region", "date"]


def curves_of(dataset: DatasetFolder) -> pd.DataFrame:
    assert dataset.curves is not None
    return dataset.curves


def sample(observed: tuple[int, ...] = (0, 2), **options: int) -> pd.DataFrame:
    return sample_of(debut_rows(small_charts()), observed, "W", **options)


def known(dataset: DatasetFolder, rows: pd.DataFrame) -> np.ndarray:
    """All that a model may read as of the cut-offs, and the observed periods."""
    history = History(dataset, dict.fromkeys(REGIONS, 50.0))
    covariates = Covariates(list(REGIONS), "W", HORIZON, ("state", "artist", "regions"), history.states, history)
    seen = debuts_of(dataset, rows, HORIZON).curves.chart_observed()
    seen[np.arange(HORIZON) >= rows["observed"].to_numpy()[:, None]] = np.nan
    given = covariates.gather(rows)
    return np.concatenate([given["static"], given["floor"][:, None], seen], axis=1)


def test_everything_up_to_the_day_stays_and_everything_after_it_changes():
    before, after = small_charts(), changed_after(small_charts(), DAY, seed=3)
    for name in ("curves", "charts"):
        one, other = getattr(before, name), getattr(after, name)
        keys = [key for key in KEY if key in one]
        early, late = (frame[frame["date"] <= DAY].sort_values(keys) for frame in (one, other))
        pd.testing.assert_frame_equal(early.reset_index(drop=True), late.reset_index(drop=True))
    one, other = (curves_of(frame)[curves_of(frame)["date"] > DAY].set_index(KEY) for frame in (before, after))
    shared = one.index.intersection(other.index)
    assert 0.5 * len(one) < len(shared) < 0.9 * len(one)
    assert (one.loc[shared, "streams"].to_numpy() != other.loc[shared, "streams"].to_numpy()).mean() > 0.95
    assert len(other.index.difference(one.index)) > 12
    assert set(after.regions) - set(before.regions) == {"AQ"}
    weeks = [week(41 + number) for number in range(10)]
    one_lowest, other_lowest = (floors(dataset.charts).lowest(["US"] * 10, weeks) for dataset in (before, after))
    assert not np.isclose(one_lowest, other_lowest).any()


def test_new_songs_of_known_artists_and_later_versions_of_known_songs_arrive_on_the_grid():
    before, after = small_charts(), changed_after(small_charts(), DAY)
    new = after.tracks[~after.tracks["track_id"].isin(before.tracks["track_id"])]
    assert set(new["artist"].dropna()) <= set(before.tracks["artist"].dropna())
    assert 0 < new["song_id"].isin(before.tracks["song_id"]).sum() < len(new)
    rows = curves_of(after)[curves_of(after)["track_id"].isin(new["track_id"])]
    assert (rows["date"] > DAY).all()
    assert ((rows["date"] - pd.Timestamp(week(0))).dt.days % 7 == 0).all()
    assert set(rows["region"]) == {*REGIONS, "AQ"}
    # Still a dataset that curves can be read of.
    assert np.isfinite(debuts_of(after, debut_rows(before), HORIZON).curves.floor[:1]).all()


def test_two_seeds_change_in_two_ways_and_one_in_one():
    one, again, other = (curves_of(changed_after(small_charts(), DAY, seed)) for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(one, again)
    assert not one.equals(other)


def test_the_sample_reaches_every_region_and_number_of_observed_periods():
    found = sample((0, 1, 4), days=12, each=2)
    assert {*zip(found["observed"], found["region"], strict=True)} == {(k, r) for k in (0, 1, 4) for r in REGIONS}
    assert found["cutoff"].nunique() <= 12
    assert found.groupby(["cutoff", "observed", "region"]).size().max() <= 2
    assert sample((0, 1, 4), days=1)["cutoff"].nunique() == 1


def test_what_is_known_as_of_the_cutoff_does_not_move():
    asked = sample()
    table = audit_forecasts(known, small_charts(), asked)
    assert (table["difference"] == 0).all()
    assert table["debuts"].sum() == len(asked)
    assert set(table["region"]) == set(REGIONS)


def next_week(dataset: DatasetFolder, rows: pd.DataFrame) -> np.ndarray:
    curves = debuts_of(dataset, rows, HORIZON).curves.chart_observed()
    return curves[np.arange(len(rows)), rows["observed"]]


def next_floor(dataset: DatasetFolder, rows: pd.DataFrame) -> np.ndarray:
    return floors(dataset.charts).floor(rows["region"], rows["cutoff"].to_numpy() + np.timedelta64(7, "D"))


def songs_ever(dataset: DatasetFolder, rows: pd.DataFrame) -> np.ndarray:
    return rows["artist"].map(artist_keys(dataset.tracks).value_counts()).to_numpy(dtype=float)


def rows_of_region(dataset: DatasetFolder, rows: pd.DataFrame) -> np.ndarray:
    return rows["region"].map(curves_of(dataset)["region"].value_counts()).to_numpy(dtype=float)


def number_of_regions(dataset: DatasetFolder, rows: pd.DataFrame) -> np.ndarray:
    return np.full(len(rows), len(dataset.regions))


@pytest.mark.parametrize("peek", [next_week, next_floor, songs_ever, rows_of_region, number_of_regions])
def test_a_forecaster_that_looks_ahead_is_seen(peek):
    def forecast(dataset: DatasetFolder, rows: pd.DataFrame) -> np.ndarray:
        return np.column_stack([np.ones(len(rows)), peek(dataset, rows)])

    table = audit_forecasts(forecast, small_charts(), sample(days=3))
    assert (table["difference"] > 0).mean() > 0.6


def test_a_number_that_becomes_none_has_moved():
    def forecast(dataset: DatasetFolder, rows: pd.DataFrame) -> np.ndarray:
        changed = "AQ" in dataset.regions
        return np.where((rows["region"] == "US") & changed, np.nan, 1.0)

    table = audit_forecasts(forecast, small_charts(), sample()).set_index("region")["difference"]
    assert np.isinf(table["US"]).all()
    assert (table["GB"] == 0).all()


def test_nothing_to_audit_is_said_so():
    with pytest.raises(InputError, match="no debut to audit"):
        audit_forecasts(known, small_charts(), sample().iloc[:0])
