"""Floors of curves against plain twins that loop over rows; what they may not see; the registry of baselines."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from baseline_checks import (
    all_debuts,
    assert_forecasts_are_whole,
    assert_test_songs_teach_nothing,
    assert_the_future_moves_nothing,
    covariates_of,
    fitted,
    same,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from small_charts import HORIZON, small_charts, week

from mp3model.baselines.curve_floors import (
    Groups,
    NearestRows,
    PreviousRelease,
    RegionClimate,
    SameWeeksLastYear,
    SeenWeeks,
    Spread,
    known_of,
    streams_last_year,
)
from mp3model.baselines.registry import baseline_names, make_baseline, register, unregister
from mp3model.evaluation.accuracy import LEVELS
from mp3model.evaluation.curve_scores import score_curves
from mp3model.evaluation.forecasts import truth_of
from mp3model.files import InputError
from mp3model.tables.curves import taken
from mp3model.tables.history import STATE_FEATURES

FLOORS = [
    "region median",
    "region mean",
    "region × month",
    "artist previous release",
    "nearest neighbours",
    "same weeks last year",
    "carry-forward",
    "geometric decay",
    "mean ratio",
]


def make(name: str):
    return lambda dataset: make_baseline(name, dataset)


@pytest.mark.parametrize("observed", [0, 2])
@pytest.mark.parametrize("name", FLOORS)
def test_forecasts_are_whole(name: str, observed: int):
    test = all_debuts().of_split("test")
    forecasts = fitted(make_baseline(name, small_charts())).forecast(test, observed)
    if name in SeenWeeks.forms and observed == 0:
        assert forecasts is None
    else:
        assert_forecasts_are_whole(forecasts, test, observed)


@pytest.mark.parametrize("observed", [0, 2])
@pytest.mark.parametrize("name", FLOORS)
def test_nothing_after_the_cut_off_moves_a_floor(name: str, observed: int):
    assert_the_future_moves_nothing(make(name), observed)


@pytest.mark.parametrize("name", FLOORS)
def test_floors_learn_nothing_from_test_songs(name: str):
    assert_test_songs_teach_nothing(make(name), 1)


@pytest.mark.parametrize("name", FLOORS)
def test_what_is_not_yet_observed_is_not_read(name: str):
    test = all_debuts().of_split("test")
    hidden = taken(test.curves, np.arange(len(test.rows)))
    for values in (hidden.streams, hidden.rank, hidden.lowest):
        values[:, 2:] = 7.0
    hidden.state[:, 2:] = 0
    hidden.charted[:, 2:] = True
    baseline = fitted(make_baseline(name, small_charts()))
    assert same(baseline.forecast(test, 2), baseline.forecast(replace(test, curves=hidden), 2), 2)


@pytest.mark.parametrize("statistic", ["median", "mean"])
def test_a_region_is_answered_by_its_own_training_curves_in_floor_units(statistic: str):
    train, test = all_debuts().of_split("train"), all_debuts().of_split("test")
    forecasts = fitted(RegionClimate(statistic)).forecast(test, 1)
    region = "US"
    curves = []
    for row in range(len(train.rows)):
        curve = train.curves.chart_observed()[row]
        if train.rows["region"][row] == region and np.isfinite(curve).all():
            curves.append(curve / train.curves.floor[row])
    assert len(curves) >= 20
    later = np.array(curves)[:, 1:]
    for row in np.flatnonzero(test.rows["region"] == region):
        floor = test.curves.floor[row]
        expected = getattr(np, statistic)(later, axis=0) * floor
        np.testing.assert_allclose(forecasts.curve[row, 1:], expected, rtol=1e-12)
        logs = np.log10(1 + later.sum(axis=1))
        np.testing.assert_allclose(
            np.log10(1 + forecasts.quantiles[row] / floor), np.quantile(logs, LEVELS), rtol=1e-9, atol=1e-12
        )


def test_quantiles_of_a_region_cover_what_they_were_taken_from():
    train = all_debuts().of_split("train")
    train = train.chosen(np.isfinite(train.curves.chart_observed()).all(axis=1))
    scores = score_curves(truth_of(train.rows, train.curves), fitted(RegionClimate()).forecast(train, 0), replicates=0)
    assert 0.75 <= scores["cov80"] <= 0.9


def test_a_small_group_is_answered_by_the_wider_one():
    values = np.arange(100.0)[:, None]
    narrow, wide = np.repeat([0, 1, 2], [35, 5, 60]), np.repeat([0, 1], [40, 60])
    groups = Groups([narrow, wide], values, lambda part: part.mean())
    asked = groups([np.array([0, 1, 2, 9]), np.array([0, 0, 1, 9])])
    assert asked.tolist() == [17.0, 19.5, 69.5, 49.5]


def test_a_spread_gives_the_quantiles_of_rows_with_the_same_number():
    number = np.repeat([0.0, 5.0], [60, 60])
    outcome = np.concatenate([np.arange(60) / 59, 10 + np.arange(60) / 59])
    found = Spread(number, outcome)(np.array([0.0, 5.0, 2.5, 99.0]))
    np.testing.assert_allclose(found[0], LEVELS, atol=1e-12)
    np.testing.assert_allclose(found[1], 10 + np.array(LEVELS), atol=1e-12)
    np.testing.assert_allclose(found[2], 5 + np.array(LEVELS), atol=1e-12)
    np.testing.assert_array_equal(found[3], found[1])
    # What many share is kept apart from its neighbours.
    number = np.concatenate([np.zeros(50), np.linspace(0.01, 1, 110)])
    outcome = np.concatenate([np.arange(50) / 49, np.full(110, 50.0)])
    np.testing.assert_allclose(Spread(number, outcome)(np.zeros(1))[0], LEVELS, atol=1e-12)
    with pytest.raises(InputError, match="no training row"):
        Spread(np.array([np.nan]), np.array([1.0]))


@settings(max_examples=30)
@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(0, 9)), min_size=1, max_size=200), st.floats(-99, 99))
def test_a_spread_stays_in_order_and_within_what_was_seen(pairs: list, asked: float):
    number, outcome = np.array(pairs).T
    found = Spread(number, outcome)(np.array([asked]))[0]
    assert (np.diff(found) >= -1e-9).all()
    assert outcome.min() - 1e-9 <= found.min()
    assert found.max() <= outcome.max() + 1e-9


def test_the_last_week_is_carried_forward():
    test = all_debuts().of_split("test")
    forecasts = fitted(SeenWeeks("carry-forward")).forecast(test, 3)
    last = test.curves.chart_observed()[:, 2]
    np.testing.assert_allclose(forecasts.curve[:, 3:], np.repeat(last[:, None], HORIZON - 3, axis=1))
    np.testing.assert_allclose(forecasts.total, last * (HORIZON - 3))
    assert (forecasts.length == (HORIZON - 3) * (last > 0)).all()


def test_a_decay_takes_the_songs_own_steps_and_the_regions_and_is_cut_at_the_chart():
    train, test = all_debuts().of_split("train"), all_debuts().of_split("test")
    forecasts = fitted(SeenWeeks("geometric decay")).forecast(test, 3)
    covariates = covariates_of(small_charts())
    known = known_of(test, covariates, 3)
    streams, cut, decays = test.curves.chart_observed(), 0, 0
    whole = train.curves.chart_observed()
    whole = np.where(np.isfinite(whole).all(axis=1, keepdims=True), whole, 0)
    for row in range(len(test.rows)):
        here = (train.rows["region"] == test.rows["region"][row]).to_numpy()
        steps = [np.log10(b / a) for a, b in whole[here][:, 2:4] if a > 0 and b > 0]
        if len(steps) < 20:
            steps = [np.log10(b / a) for a, b in whole[:, 2:4] if a > 0 and b > 0]
        own = [np.log10(b / a) for a, b in zip(streams[row, :2], streams[row, 1:3], strict=True) if a > 0 and b > 0]
        rate = min((sum(own) + np.mean(steps)) / (len(own) + 1), 0)
        state = covariates.states.values[covariates.states.at([test.rows["region"][row]], [known.rows["cutoff"][row]])]
        floor = covariates.states.floor[covariates.states.at([test.rows["region"][row]], [known.rows["cutoff"][row]])]
        lowest = floor * 10 ** state[:, STATE_FEATURES.index("log_lowest")]
        for ahead in range(1, HORIZON - 2):
            expected = streams[row, 2] * 10 ** (rate * ahead)
            cut += 0 < expected < lowest
            decays += expected >= lowest
            expected = expected if expected >= lowest else 0.0
            assert forecasts.curve[row, 2 + ahead] == pytest.approx(expected, rel=1e-9)
    assert cut > 20
    assert decays > 20


def test_mean_ratios_are_those_of_the_regions_sums():
    train, test = all_debuts().of_split("train"), all_debuts().of_split("test")
    forecasts = fitted(SeenWeeks("mean ratio")).forecast(test, 2)
    streams = train.curves.chart_observed() / train.curves.floor[:, None]
    here = (train.rows["region"] == "US").to_numpy() & np.isfinite(streams).all(axis=1)
    assert here.sum() >= 20
    ratio = streams[here][:, 4].sum() / streams[here][:, :2].sum()
    rows = np.flatnonzero((test.rows["region"] == "US") & (forecasts.curve[:, 4] > 0))
    assert len(rows)
    np.testing.assert_allclose(
        forecasts.curve[rows, 4], test.curves.chart_observed()[rows, :2].sum(axis=1) * ratio, rtol=1e-9
    )


def test_an_artists_previous_release_is_the_latest_that_has_run_its_course_here():
    dataset, test = small_charts(), all_debuts().of_split("test")
    forecasts = fitted(PreviousRelease()).forecast(test, 0)
    usual = fitted(RegionClimate()).forecast(test, 0)
    lives = covariates_of(dataset).history.lives
    songs = dataset.tracks.drop_duplicates("song_id").set_index("song_id")["artist"].str.split(",").str[0]
    found, fallen_back = 0, 0
    for row in range(len(test.rows)):
        song, region, artist = (test.rows[name][row] for name in ("song_id", "region", "artist"))
        cutoff = test.rows["debut"][row] - pd.Timedelta(days=7)
        of_artist = [
            (pd.Timestamp(int(lives.debut[i]), unit="D"), i)
            for i in range(len(lives.debut))
            if songs[lives.songs[lives.song[i]]] == artist_name(songs, song)
            and lives.songs[lives.song[i]] != song
            and pd.Timestamp(int(lives.debut[i]), unit="D") + pd.Timedelta(days=7 * (HORIZON - 1)) <= cutoff
        ]
        here = [one for one in of_artist if lives.regions[lives.region[one[1]]] == region]
        if not of_artist or artist is None or pd.isna(songs[song]):
            if not of_artist:
                np.testing.assert_allclose(forecasts.curve[row], usual.curve[row])
                fallen_back += 1
            continue
        if here:
            days = [day for day, _ in here]
            candidates = [i for day, i in here if day == max(days)]
            expected = [_streams(dataset, lives, i) / lives.floor[i] for i in candidates]
            found += 1
            assert any(np.allclose(forecasts.curve[row] / test.curves.floor[row], one, rtol=1e-4) for one in expected)
    assert found >= 5


def artist_name(songs: pd.Series, song: str) -> str:
    return songs[song]


def _streams(dataset, lives, life: int) -> np.ndarray:
    """Chart-observed streams of a life over the horizon."""
    song, region = lives.songs[lives.song[life]], lives.regions[lives.region[life]]
    tracks = dataset.tracks.loc[dataset.tracks["song_id"] == song, "track_id"]
    rows = dataset.curves[dataset.curves["track_id"].isin(tracks) & (dataset.curves["region"] == region)]
    by_date = rows.groupby("date")["streams"].sum()
    start = pd.Timestamp(int(lives.debut[life]), unit="D")
    return np.array([by_date.get(start + pd.Timedelta(days=7 * number), 0.0) for number in range(HORIZON)])


@pytest.mark.parametrize("observed", [0, 2])
def test_neighbours_are_those_nearest_in_what_tells_of_the_total(observed: int):
    debuts, covariates = all_debuts(), covariates_of(small_charts())
    train, test = debuts.of_split("train"), debuts.of_split("test")
    train = train.chosen(np.isfinite(train.curves.chart_observed()).all(axis=1))
    forecasts = fitted(NearestRows(neighbours=7)).forecast(test, observed)
    tables, curves = [], []
    for part in (train, test):
        known = known_of(part, covariates, observed)
        static = covariates.gather(known.rows)["static"]
        tables.append(np.column_stack([static, np.log10(1 + np.nan_to_num(known.seen))]).astype(float))
        curves.append(part.curves.chart_observed() / known.floor[:, None])
    total = np.log10(1 + curves[0][:, observed:].sum(axis=1))
    moving = tables[0].std(axis=0) > 1e-6
    weight = [abs(np.corrcoef(column, total)[0, 1]) for column in tables[0][:, moving].T]
    centre, width = tables[0][:, moving].mean(axis=0), tables[0][:, moving].std(axis=0)
    points, asked = (np.clip((table[:, moving] - centre) / width, -4, 4) * weight for table in tables)
    for row in range(len(test.rows)):
        here = np.flatnonzero(train.rows["region"] == test.rows["region"][row])
        assert len(here) >= 7
        near = here[np.argsort([np.linalg.norm(asked[row] - points[one]) for one in here])[:7]]
        expected = np.median(curves[0][near, observed:], axis=0)
        floor = known_of(test, covariates, observed).floor[row]
        np.testing.assert_allclose(forecasts.curve[row, observed:] / floor, expected, rtol=1e-9)
        logs = np.log10(1 + curves[0][near, observed:].sum(axis=1))
        expected = np.quantile(logs, LEVELS, method="median_unbiased")
        np.testing.assert_allclose(np.log10(1 + forecasts.quantiles[row] / floor), expected, atol=1e-9)


def test_a_region_of_few_debuts_looks_for_neighbours_everywhere():
    test = all_debuts().of_split("test")
    train = all_debuts().of_split("train")
    forecasts = fitted(NearestRows(neighbours=10_000)).forecast(test, 0)
    known = known_of(train, covariates_of(small_charts()), 0)
    whole = np.isfinite(train.curves.chart_observed()).all(axis=1)
    everywhere = np.median(train.curves.chart_observed()[whole] / known.floor[whole, None], axis=0)
    floors = known_of(test, covariates_of(small_charts()), 0).floor
    np.testing.assert_allclose(forecasts.curve / floors[:, None], np.tile(everywhere, (len(test.rows), 1)), rtol=1e-9)
    with pytest.raises(InputError, match="0 neighbours"):
        NearestRows(neighbours=0)


def test_neighbours_answer_only_for_periods_they_were_learnt_for():
    baseline = fitted(NearestRows(observed=(0, 2)))
    test = all_debuts().of_split("test")
    assert baseline.forecast(test, 1) is None
    assert baseline.forecast(test, 2) is not None


def test_the_same_weeks_of_last_year_lie_52_weeks_back_and_none_after_the_cut_off_is_read():
    dataset = small_charts()
    life = dataset.curves[(dataset.curves["region"] == "US") & (dataset.curves["date"] <= pd.Timestamp(week(6)))]
    track = life.groupby("track_id")["date"].nunique().idxmax()
    song = dataset.tracks.set_index("track_id")["song_id"][track]
    tracks = dataset.tracks.loc[dataset.tracks["song_id"] == song, "track_id"]
    rows = pd.DataFrame(
        {
            "song_id": [song] * 2,
            "region": "US",
            "debut": [week(52), week(52)],
            "cutoff": [week(51).astype("datetime64[s]"), week(2).astype("datetime64[s]")],
        }
    )
    found = streams_last_year(dataset, rows, 6)
    rows_of_song = dataset.curves[dataset.curves["track_id"].isin(tracks) & (dataset.curves["region"] == "US")]
    by_date = rows_of_song.groupby("date")["streams"].sum()
    expected = [by_date.get(pd.Timestamp(week(number)), 0.0) for number in range(6)]
    assert sum(expected) > 0
    assert found[0].tolist() == expected
    assert found[1, :3].tolist() == expected[:3]
    assert np.isnan(found[1, 3:]).all()


def test_a_song_that_returns_is_forecast_by_its_last_year():
    dataset, debuts = small_charts(), all_debuts()
    us = dataset.curves[dataset.curves["region"] == "US"]
    early = us[us["date"] <= pd.Timestamp(week(4))]["track_id"].map(dataset.tracks.set_index("track_id")["song_id"])
    rows = debuts.rows.iloc[:1].assign(song_id=early.iloc[0], region="US", debut=pd.Timestamp(week(52)))
    back = replace(debuts.chosen(np.arange(len(debuts.rows)) < 1), rows=rows)
    forecasts = fitted(SameWeeksLastYear(dataset)).forecast(back, 0)
    asked = rows.assign(cutoff=week(51).astype("datetime64[s]"))
    expected = np.nan_to_num(streams_last_year(dataset, asked, HORIZON))
    assert expected.sum() > 0
    np.testing.assert_allclose(forecasts.curve, expected)
    assert forecasts.quantiles[0, 4] == pytest.approx(expected.sum(), rel=1e-9)
    assert forecasts.quantiles[0, 0] < expected.sum() < forecasts.quantiles[0, 8]


def test_an_unknown_form_and_too_many_observed_weeks_are_refused():
    with pytest.raises(InputError, match="'linear' is not known"):
        SeenWeeks("linear")
    with pytest.raises(InputError, match="observed 8 is not within 0 and 7"):
        known_of(all_debuts(), covariates_of(small_charts()), HORIZON)


class Nothing:
    """Forecasts that nobody listens."""

    name = "nothing"

    def fit(self, train, validation, covariates):
        return self

    def forecast(self, debuts, observed):
        from mp3model.evaluation.accuracy import CurveForecasts

        return CurveForecasts(np.zeros((len(debuts.rows), HORIZON)))


def test_a_registered_baseline_is_listed_and_made():
    register("nothing", lambda dataset: Nothing())
    try:
        assert baseline_names()[-1] == "nothing"
        assert fitted(make_baseline("nothing", small_charts())).forecast(all_debuts(), 0).curve.sum() == 0
        with pytest.raises(InputError, match="'nothing' is registered already"):
            register("nothing", lambda dataset: Nothing())
    finally:
        unregister("nothing")
    with pytest.raises(InputError, match="'nothing' is not known; use one of region median"):
        make_baseline("nothing", small_charts())


def test_the_registry_imports_no_baseline_before_it_is_asked_for():
    code = (
        "import sys, mp3model.baselines.registry; "
        "print([n for n in sys.modules if n in ('lightgbm', 'mp3model.baselines.boosted')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
