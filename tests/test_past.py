"""What a song did before: weeks aligned to Christmas, below and unknown, no look past the cut-off, who is running."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_charts import HORIZON, REGIONS, future_changed, future_deleted, settled, small_charts, week

from mp3model.config import MP3Config
from mp3model.files import InputError
from mp3model.model.covariates import GROUPS, PAST_PERIODS, Covariates, only_observed
from mp3model.model.modeling_mp3 import MP3Model
from mp3model.model.sampling import sample_paths, tensors
from mp3model.tables.curves import BELOW, OBSERVED, UNKNOWN, curve_arrays
from mp3model.tables.debuts import (
    debut_rows,
    debuts_of,
    joined,
    running_rows,
    seen_in_epoch,
    training_rows_of_running_songs,
    with_cutoff,
)
from mp3model.tables.folder import DatasetFolder
from mp3model.tables.history import History, same_period_last_year
from mp3model.training.curves import CurveTrainingSet, covariate_statistics

ORIGIN = "2019-10-31"
FLOOR = {2017: 100.0, 2018: 100.0, 2019: 200.0, 2020: 200.0}
# Song → region → week's last day → streams.
LIVES: dict[str, dict[str, dict[str, float | None]]] = {
    "bells": {
        "US": {"2017-12-28": 400.0, "2018-12-20": 1000.0, "2018-12-27": 2000.0, "2019-12-26": 9999.0},
        "GB": {"2018-12-27": None},
    },
    "evergreen": {
        "US": {
            str(day): 300.0 for day in np.arange("2017-01-05", "2020-02-07", 7, dtype="datetime64[D]").astype(object)
        }
    },
    "summer": {"US": {"2018-07-05": 500.0}},
    "young": {"US": {"2019-10-24": 700.0, "2019-10-31": 600.0, "2019-11-07": 500.0}},
    "debutant": {"US": {"2019-11-07": 800.0}},
}


@lru_cache(maxsize=1)
def three_years() -> DatasetFolder:
    """Two regions; the chart of GB in the last week of 2018 is missing, and one streams there is unknown."""
    rows = [
        (song, region, pd.Timestamp(day), streams, 10)
        for song, regions in LIVES.items()
        for region, weeks in regions.items()
        for day, streams in weeks.items()
    ]
    curves = pd.DataFrame(rows, columns=["track_id", "region", "date", "streams", "rank"])
    days = pd.date_range("2017-01-05", "2020-02-06", freq="7D")
    charts = pd.DataFrame([(region, day) for region in ("GB", "US") for day in days], columns=["region", "date"])
    charts = charts[~((charts["region"] == "GB") & (charts["date"] == "2018-12-20"))]
    charts = charts.assign(floor=charts["date"].dt.year.map(FLOOR).astype(float), lowest=50.0, size=200)
    tracks = pd.DataFrame({"track_id": list(LIVES), "song_id": list(LIVES)})
    tracks = tracks.assign(title=None, artist=tracks["song_id"] + " artist", isrc=None, release_date=pd.NaT)
    return DatasetFolder(
        Path("three-years"),
        {"frequency": "W", "horizon": 12},
        tracks=settled("tracks", tracks),
        curves=settled("curves", curves),
        charts=settled("charts", charts),
    )


def told(dataset: DatasetFolder, rows: pd.DataFrame, horizon: int = 12) -> dict[str, np.ndarray]:
    history = History(dataset, {})
    return Covariates(["GB", "US"], "W", horizon, ("state", "past"), history.states, history).gather(rows)


def row(rows: pd.DataFrame, song: str, region: str = "US") -> int:
    return int(np.flatnonzero((rows["song_id"] == song) & (rows["region"] == region))[0])


def test_a_week_of_last_year_lies_as_far_from_christmas():
    weeks = ["2018-12-27", "2019-12-26", "2020-12-24", "2020-12-31", "2021-01-07", "2020-07-02"]
    before = ["2017-12-28", "2018-12-27", "2019-12-26", "2020-01-02", "2020-01-09", "2019-07-04"]
    np.testing.assert_array_equal(same_period_last_year(weeks, "W"), np.array(before, "datetime64[D]"))
    days = ["2020-12-25", "2021-01-01", "2020-03-01", "2020-02-28", "2019-12-24"]
    before = ["2019-12-25", "2020-01-01", "2019-03-02", "2019-02-28", "2018-12-24"]
    # In a leap year the days up to 1 July are counted from the Christmas before them.
    assert same_period_last_year(days[:2], "D").astype(str).tolist() == before[:2]
    assert same_period_last_year(days[4], "D").astype(str) == before[4]


def test_last_year_is_told_in_floor_units_of_the_cut_off():
    rows = running_rows(three_years(), ORIGIN)
    batch = told(three_years(), rows)
    at = row(rows, "bells")
    # Weeks end on 7 November, …: the seventh on 19 December, the eighth on the 26th.
    expected = np.zeros((12, 3))
    expected[:, 2] = 1
    expected[6:8] = [[np.log10(1000 / 200), 1, 0], [np.log10(2000 / 200), 1, 0]]
    np.testing.assert_allclose(batch["last_year"][at][:, :3], expected, atol=1e-6)
    np.testing.assert_allclose(batch["before"][at], [[0, 0, 1]])
    assert batch["floor"][at] == 200
    evergreen = row(rows, "evergreen")
    np.testing.assert_allclose(batch["last_year"][evergreen][:, :2], np.tile([np.log10(1.5), 1], (12, 1)), atol=1e-6)


def test_a_gap_of_the_charts_and_unknown_streams_are_unknown():
    rows = running_rows(three_years(), ORIGIN)
    batch = told(three_years(), rows)
    at = row(rows, "bells", "GB")
    told_last_year = batch["last_year"][at][:, :3]
    # 20 December has no chart, on the 27th the song charted with unknown streams.
    assert told_last_year[6].tolist() == [0, 0, 0]
    assert told_last_year[7].tolist() == [0, 0, 0]
    assert told_last_year[5].tolist() == [0, 0, 1]
    assert batch["running"][at]


def test_in_which_share_of_the_regions_with_a_chart_a_song_came_back_is_told_of_two_years():
    rows = running_rows(three_years(), ORIGIN)
    batch = told(three_years(), rows)
    expected = np.zeros((12, 2))
    # On 20 December 2018 the one region with a chart had the bells, a week later both had; the year before one of two.
    expected[6:8] = [[1, 0], [1, 0.5]]
    for region in ("US", "GB"):
        np.testing.assert_allclose(batch["last_year"][row(rows, "bells", region)][:, 3:], expected)
    shares = np.full((12, 2), 0.5)
    shares[6, 0] = 1
    np.testing.assert_allclose(batch["last_year"][row(rows, "evergreen")][:, 3:], shares)
    # Known only once it is past: of two years ahead the first lies after the cut-off.
    later = told(three_years(), rows, 60)["last_year"][row(rows, "evergreen")]
    assert later[51, 3:].tolist() == [0.5, 0.5]
    assert later[52, 3:].tolist() == [0, 0.5]


def test_rows_of_a_region_without_a_chart_make_no_share_above_one():
    dataset = three_years()
    rows = running_rows(dataset, ORIGIN)
    # The charts of GB begin in 2019; without any chart the regions are those that chart something.
    late = dataset.charts[(dataset.charts["region"] == "US") | (dataset.charts["date"] >= "2019-01-01")]
    for charts in (late, None):
        other = replace(dataset, charts=charts)
        history = History(other, {"GB": 100.0, "US": 100.0})
        batch = Covariates(["GB", "US"], "W", 12, ("state", "past"), history.states, history).gather(rows)
        np.testing.assert_allclose(batch["last_year"][row(rows, "bells")][6:8, 3:], [[1, 0], [1, 1]])


def test_static_features_are_the_last_periods_and_sums_of_all():
    rows = running_rows(three_years(), ORIGIN)
    batch = told(three_years(), rows)
    young, width = row(rows, "young"), 3 * PAST_PERIODS
    past = batch["static"][young][-(width + 6) :]
    recent, totals = past[:width].reshape(PAST_PERIODS, 3), past[width:]
    expected = np.tile([0.0, 1.0, 0.0], (PAST_PERIODS, 1))
    expected[:2] = [[np.log10(3), 0, 0], [np.log10(3.5), 0, 0]]
    np.testing.assert_allclose(recent, expected, atol=1e-6)
    # Peak, number, total, age in weeks, on the chart, and the floor has doubled in a year.
    peak = np.log10(3.5 + 1e-3)
    np.testing.assert_allclose(totals, [peak, np.log1p(2), np.log10(1 + 6.5), np.log1p(1), 1, np.log10(2)], atol=1e-6)
    bells = batch["static"][row(rows, "bells")][-6:]
    age = (pd.Timestamp(ORIGIN) - pd.Timestamp("2017-12-28")).days / 7
    expected_sums = [np.log10(10 + 1e-3), np.log1p(3), np.log10(1 + 17), np.log1p(age), 0, np.log10(2)]
    np.testing.assert_allclose(bells, expected_sums, atol=1e-5)


def test_running_rows_are_the_songs_on_the_chart_and_those_of_the_weeks_a_year_ago():
    rows = running_rows(three_years(), ORIGIN)
    found = set(zip(rows["song_id"], rows["region"], rows["on_chart"], strict=True))
    assert found == {
        ("bells", "US", False),
        ("bells", "GB", False),
        ("evergreen", "US", True),
        ("young", "US", True),
    }
    assert (rows["debut"] == pd.Timestamp("2019-11-07")).all()
    assert (rows["cutoff"] == pd.Timestamp(ORIGIN)).all()
    assert (rows["observed"] == 0).all()
    still = running_rows(three_years(), ORIGIN, returning=False)
    assert still["song_id"].tolist() == ["evergreen", "young"]
    # Four weeks from the end of October meet no week in which the bells rang.
    assert "bells" not in set(running_rows(three_years(), ORIGIN, horizon=4)["song_id"])
    assert set(running_rows(three_years(), ORIGIN, regions=["GB"])["region"]) == {"GB"}
    with pytest.raises(InputError, match="2019-11-01"):
        running_rows(three_years(), "2019-11-01")


def test_a_debut_has_no_past_at_any_k():
    dataset, rows = small_charts(), debut_rows(small_charts())
    history = History(dataset, dict.fromkeys(REGIONS, 1000.0))
    covariates = Covariates(list(REGIONS), "W", HORIZON, GROUPS, history.states, history)
    for observed in (0, 1, 5):
        batch = covariates.gather(with_cutoff(rows, observed, "W"))
        assert not batch["static"][:, covariates.columns("past")].any()
        assert not batch["last_year"].any()
        assert not batch["before"].any()
        assert not batch["running"].any()


def test_what_is_looked_up_is_what_curves_say():
    dataset = small_charts()
    history = History(dataset, dict.fromkeys(REGIONS, 1000.0))
    rows = debut_rows(dataset)
    curves = curve_arrays(dataset, rows, HORIZON)
    codes = history.weeks.codes(rows["song_id"], rows["region"])
    first = rows["debut"].to_numpy().astype("datetime64[D]").astype(int)
    streams, state = history.weeks.at(codes, first[:, None] + 7 * np.arange(HORIZON))
    np.testing.assert_array_equal(state, curves.state)
    np.testing.assert_allclose(streams, curves.streams, rtol=1e-6)
    past = history.weeks.until(codes, first + 7 * (HORIZON - 1))
    np.testing.assert_array_equal(past.charted, curves.charted.sum(axis=1))
    np.testing.assert_allclose(past.total, np.nansum(curves.streams, axis=1))
    np.testing.assert_allclose(past.peak, np.nanmax(curves.streams, axis=1), rtol=1e-6)
    assert (past.first == first).all()
    streams, state = history.weeks.at(history.weeks.codes(["nobody", "song-01"], ["US", "FR"]), np.full((2, 2), 18300))
    assert np.isnan(streams).all()
    assert (state == UNKNOWN).all()
    assert {BELOW, OBSERVED} <= set(np.unique(curves.state))


@pytest.mark.parametrize("make", [future_deleted, lambda data, day: future_changed(data, day, 3)])
def test_nothing_after_the_day_moves_who_runs_or_what_is_forecast(make):
    day = week(54)
    torch.manual_seed(0)
    config = MP3Config(
        regions=list(REGIONS), encoder="none", horizon=HORIZON, decoder_width=16, decoder_layers=1, decoder_heads=2,
        covariates=["state", "past"],
    )  # fmt: skip
    model = MP3Model(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    told_paths, told_rows = [], []
    for dataset in (small_charts(), make(small_charts(), day)):
        rows = running_rows(dataset, day)
        history = History(dataset, dict.fromkeys(REGIONS, 1000.0))
        covariates = Covariates(list(REGIONS), "W", HORIZON, ("state", "past"), history.states, history)
        told_rows.append(rows)
        told_paths.append(sample_paths(model, covariates, rows, curve_arrays(dataset, rows, HORIZON), 8)[0])
    assert len(told_rows[0]) > 20
    assert not told_rows[0]["on_chart"].all()
    pd.testing.assert_frame_equal(*(rows.drop(columns=["artist", "release_date"]) for rows in told_rows))
    np.testing.assert_array_equal(*told_paths)


def test_a_song_that_runs_may_be_below_the_chart_in_its_first_period():
    dataset, day = small_charts(), week(54)
    rows = running_rows(dataset, day)
    history = History(dataset, dict.fromkeys(REGIONS, 1000.0))
    config = MP3Config(
        regions=list(REGIONS), encoder="none", horizon=HORIZON, decoder_width=16, decoder_layers=1, decoder_heads=2,
        covariates=["state", "past"],
    )  # fmt: skip
    torch.manual_seed(0)
    model = MP3Model(config).eval()
    covariates = Covariates(list(REGIONS), "W", HORIZON, ("state", "past"), history.states, history)
    paths, scale = sample_paths(model, covariates, rows, None, 64)
    below = paths[:, :, 0] < scale["threshold"][:, :, 0]
    assert 0.02 < below.mean() < 0.98
    debuts = with_cutoff(debut_rows(dataset), 0, "W")
    paths, scale = sample_paths(model, covariates, debuts, None, 64)
    assert (paths[:, :, 0] >= scale["threshold"][:, :, 0]).all()


@pytest.mark.parametrize("likelihood", ["autoregressive", "joint"])
def test_the_likelihood_of_a_first_period_is_that_of_what_is_drawn(likelihood):
    # Of a running song the chances of being below and at every value add up to one.
    rows = running_rows(small_charts(), week(54)).iloc[:3]
    history = History(small_charts(), dict.fromkeys(REGIONS, 1000.0))
    covariates = Covariates(list(REGIONS), "W", 1, ("state", "past"), history.states, history)
    config = MP3Config(
        regions=list(REGIONS), encoder="none", horizon=1, decoder_width=16, decoder_layers=1, decoder_heads=2,
        covariates=["state", "past"], likelihood=likelihood,
    )  # fmt: skip
    torch.manual_seed(0)
    model = MP3Model(config).eval()
    batch = tensors(only_observed(covariates.gather(rows)), torch.device("cpu"))
    grid = torch.linspace(-6, 8, 2801)
    threshold = batch["last_threshold"][:, None]

    def mass(state: int, values: torch.Tensor) -> torch.Tensor:
        repeated = {name: part.repeat(len(values), *[1] * (part.ndim - 1)) for name, part in batch.items()}
        given = {"state": torch.full((3 * len(values), 1), state), "value": values.repeat_interleave(3)[:, None]}
        given["threshold"] = threshold.repeat(len(values), 1)
        return model(repeated | given).log_likelihood[:, 0].exp().detach().reshape(-1, 3)

    above = mass(OBSERVED, grid) * (grid[:, None] >= threshold[:, 0])
    total = above.sum(dim=0) * (grid[1] - grid[0]) + mass(BELOW, torch.zeros(1))[0]
    torch.testing.assert_close(total, torch.ones(3), atol=0.02, rtol=0)


def test_untrained_a_song_of_last_year_repeats_it():
    torch.manual_seed(0)
    config = MP3Config(
        regions=["GB", "US"], encoder="none", horizon=12, decoder_width=16, decoder_layers=1, decoder_heads=2,
        covariates=["state", "past"],
    )  # fmt: skip
    model = MP3Model(config).eval()
    rows = running_rows(three_years(), ORIGIN)
    history = History(three_years(), {})
    covariates = Covariates(["GB", "US"], "W", 12, ("state", "past"), history.states, history)
    paths, _ = sample_paths(model, covariates, rows, None, 256)
    middle = np.median(paths[row(rows, "bells")], axis=0)
    assert middle[7] - middle[5] == pytest.approx(np.log10(2000 / 200), abs=0.25)


def test_a_model_without_past_has_no_weights_for_it():
    def names(*covariates: str) -> set[str]:
        config = MP3Config(regions=["US"], encoder="none", covariates=list(covariates), decoder_width=16)
        return set(MP3Model(config).state_dict())

    more = names("state", "past") - names("state")
    assert more == {
        f"writers.0.{name}" for name in ("decoder.last_year.weight", "head.repeat.weight", "head.repeat.bias")
    }


def test_absent_the_past_is_not_seen():
    torch.manual_seed(0)
    config = MP3Config(
        regions=list(REGIONS), encoder="none", horizon=HORIZON, decoder_width=16, decoder_layers=1, decoder_heads=2,
        covariates=["state", "past"],
    )  # fmt: skip
    model = MP3Model(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    rows = running_rows(small_charts(), week(54))
    history = History(small_charts(), dict.fromkeys(REGIONS, 1000.0))
    covariates = Covariates(list(REGIONS), "W", HORIZON, ("state", "past"), history.states, history)
    batch = tensors(only_observed(covariates.gather(rows)), torch.device("cpu"))
    other = dict(batch)
    for name in ("before", "last_year"):
        other[name] = 1 - batch[name]
    other["static"] = batch["static"].clone()
    other["static"][:, covariates.columns("past")] += 1
    numbers = torch.rand(len(rows), 4, HORIZON + 1)
    torch.testing.assert_close(
        model.sample(batch, numbers, absent=("past",)), model.sample(other, numbers, absent=("past",))
    )
    assert (model.sample(batch, numbers) - model.sample(other, numbers)).abs().max() > 0.1


@lru_cache(maxsize=1)
def split_charts() -> DatasetFolder:
    """The small charts with a split whose cuts leave room for whole horizons."""
    dataset = small_charts()
    splits = dataset.splits.copy()
    splits["split"] = np.select(
        [splits["debut"] <= pd.Timestamp(week(24)), splits["debut"] <= pd.Timestamp(week(44))],
        ["train", "validation"],
        "test",
    )
    return replace(dataset, splits=splits)


@pytest.fixture(scope="module")
def sampled() -> pd.DataFrame:
    return training_rows_of_running_songs(split_charts(), 1.0, 5)


def test_training_rows_end_before_validation_begins_and_validation_rows_before_test(sampled):
    splits = split_charts().splits
    first = splits.groupby("split")["debut"].min()
    end = sampled["debut"] + pd.Timedelta(days=7 * (HORIZON - 1))
    of = sampled["split"]
    assert (end[of == "train"] < first["validation"]).all()
    assert (sampled["debut"][of == "validation"] >= first["validation"]).all()
    assert (end[of == "validation"] < first["test"]).all()
    assert set(of) == {"train", "validation"}
    sides = splits.merge(split_charts().tracks[["track_id", "song_id"]])
    songs = sides.groupby("split")["song_id"].agg(set)
    assert not set(sampled["song_id"][of == "train"]) & (songs["validation"] | songs["test"])
    assert not set(sampled["song_id"][of == "validation"]) & songs["test"]
    trained = sides[sides["split"] == "train"].groupby("song_id")["debut"].max()
    until = sampled["song_id"].map(trained) + pd.Timedelta(days=7 * HORIZON)
    assert (until.isna() | (until <= sampled["debut"]) | (of == "train")).all()


def test_the_sample_follows_from_names_and_days_alone(sampled):
    pd.testing.assert_frame_equal(sampled, training_rows_of_running_songs(split_charts(), 1.0, 5))
    shuffled = replace(split_charts(), curves=split_charts().curves.sample(frac=1, random_state=1))
    pd.testing.assert_frame_equal(sampled, training_rows_of_running_songs(shuffled, 1.0, 5))
    other = training_rows_of_running_songs(split_charts(), 1.0, 5, seed=1)
    assert set(map(tuple, sampled[["song_id", "debut", "luck"]].to_numpy())) != set(
        map(tuple, other[["song_id", "debut", "luck"]].to_numpy())
    )


def test_an_epoch_sees_about_the_share_asked_for(sampled):
    train = sampled[sampled["split"] == "train"]
    debuts = (split_charts().splits["split"] == "train").sum()
    seen = [seen_in_epoch(train["luck"].to_numpy(), train["chance"].to_numpy(), epoch).sum() for epoch in range(5)]
    assert np.mean(seen) == pytest.approx(debuts, rel=0.3)
    assert train.groupby(["song_id", "region", "debut"]).size().max() == 1


@given(chance=st.floats(0.01, 1.0), luck=st.floats(0, 0.999999))
@settings(max_examples=50)
def test_over_many_epochs_a_row_is_seen_as_often_as_its_chance(chance, luck):
    seen = [bool(seen_in_epoch(np.array([luck]), np.array([chance]), epoch)[0]) for epoch in range(400)]
    assert np.mean(seen) == pytest.approx(chance, abs=0.02)


def test_a_training_batch_holds_debuts_and_the_epochs_running_rows(sampled):
    dataset = split_charts()
    train = debuts_of(dataset, debut_rows(dataset), HORIZON).of_split("train")
    running = debuts_of(dataset, sampled, HORIZON).of_split("train")
    taught = joined(train, running)
    assert len(taught.rows) == len(train.rows) + len(running.rows)
    assert (np.diff(taught.starts) > 0).all()
    assert taught.rows["song_id"].is_monotonic_increasing
    history = History(dataset, dict.fromkeys(REGIONS, 1000.0))
    covariates = Covariates(list(REGIONS), "W", HORIZON, ("state", "past"), history.states, history)
    songs = list(range(len(taught)))
    both = CurveTrainingSet(taught, covariates, 0, HORIZON)
    alone = CurveTrainingSet(train, covariates, 0, HORIZON)
    for epoch in (0, 1):
        rows = both[[(epoch, song) for song in songs]]["rows"]
        seen = seen_in_epoch(running.rows["luck"].to_numpy(), running.rows["chance"].to_numpy(), epoch)
        assert int(rows["running"].sum()) == seen.sum() > 0
        assert not rows["observed"][rows["running"]].any()
        own = alone[[(epoch, song) for song in range(len(train))]]["rows"]
        torch.testing.assert_close(rows["value"][~rows["running"]], own["value"])
        torch.testing.assert_close(rows["observed"][~rows["running"]], own["observed"])
    # The curves are those of the rows, wherever joining has moved them.
    asked = with_cutoff(taught.rows, 0, "W")
    np.testing.assert_array_equal(curve_arrays(dataset, asked, HORIZON).streams, taught.curves.streams)
    statistics = covariate_statistics(covariates, train, "W", running)
    place = covariates.columns("past")
    assert np.abs(statistics["mean"][place]).max() > 0.1
    assert not np.abs(covariate_statistics(covariates, train, "W")["mean"][place]).any()
