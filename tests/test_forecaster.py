"""The forecaster, from a tiny untrained model: what its tables hold, what may move them and what may not."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import soundfile
from tiny_model import FLOORS, LAST_CHART, REGIONS, charts_dataset, write_model

from mp3model import Forecaster
from mp3model.evaluation.accuracy import QUANTILES
from mp3model.files import InputError
from mp3model.serving.asked import windows_of

RELEASE = "2026-12-04"
RATE = 16_000


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("run") / "model")


@pytest.fixture(scope="module")
def forecaster(model_folder):
    return Forecaster.from_pretrained(model_folder, "cpu")


@pytest.fixture(scope="module")
def song(tmp_path_factory):
    seconds = np.arange(4 * RATE) / RATE
    waveform = 0.2 * np.sin(2 * np.pi * 220 * seconds) + 0.1 * np.sin(2 * np.pi * 330 * seconds)
    path = tmp_path_factory.mktemp("audio") / "blue hour.wav"
    soundfile.write(path, waveform, RATE)
    return path


def weeks(**streams) -> pd.DataFrame:
    return pd.DataFrame(
        [(region, week, value) for region, values in streams.items() for week, value in enumerate(values)],
        columns=["region", "week", "streams"],
    )


def same(one: pd.DataFrame, other: pd.DataFrame, columns=("mean", *QUANTILES)) -> bool:
    return np.allclose(one[list(columns)].astype(float), other[list(columns)].astype(float), rtol=1e-3, equal_nan=True)


def test_the_three_tables_have_the_columns_and_rows_they_promise(forecaster, song):
    found = forecaster.forecast(song, ["US", "GB"], RELEASE, samples=32)
    assert list(found.curves) == ["track_id", "region", "week", "date", "mean", *QUANTILES]
    assert list(found.popularity) == ["track_id", "region", "metric", "mean", *QUANTILES]
    assert list(found.paths) == ["track_id", "region", "week", "sample", "streams"]
    assert (len(found.curves), len(found.popularity), len(found.paths)) == (2 * 12, 2 * 12, 2 * 12 * 32)
    assert set(found.curves["track_id"]) == {"blue hour"}
    assert found.popularity["metric"].tolist()[:12] == [
        *("debut", "max", "mean", "std", "length", "sum", "skewness", "kurtosis", "peak_week", "half_life"),
        *("debut_rank", "remaining"),
    ]
    levels = found.curves[list(QUANTILES)].to_numpy()
    assert (np.diff(levels, axis=1) >= 0).all()
    assert (levels >= 0).all()


def test_period_0_holds_the_release_date_and_weeks_end_as_the_charts_did(forecaster, tmp_path):
    first = forecaster.forecast(None, ["US"], RELEASE, samples=8).curves
    assert str(first["date"][0])[:10] == "2026-12-10"
    assert str(forecaster.forecast(None, ["US"], "2026-12-10", samples=8).curves["date"][0])[:10] == "2026-12-10"
    from tiny_model import region_state

    state = {"US": region_state("2026-11-22", 5e5, 4e5)}  # a Sunday
    sundays = Forecaster.from_pretrained(write_model(tmp_path, region_states=state), "cpu")
    assert str(sundays.forecast(None, ["US"], RELEASE, samples=8).curves["date"][0])[:10] == "2026-12-06"


def test_the_first_period_is_on_the_chart_and_full_paths_go_below_it(forecaster):
    charted = forecaster.forecast(None, None, RELEASE, samples=64)
    full = forecaster.forecast(None, None, RELEASE, samples=64, full=True)
    lowest = np.array([0.97 * FLOORS[region] for region in REGIONS])[:, None]
    assert (charted.sampled.streams[:, :, 0] >= lowest * 0.999).all()
    off = charted.sampled.streams == 0
    assert off.any()
    assert (full.sampled.streams[off] > 0).all()
    assert np.array_equal(full.sampled.streams[~off], charted.sampled.streams[~off])


def test_one_region_alone_or_with_others_in_any_order_gives_the_same_marginals(forecaster, song):
    together = forecaster.forecast(song, ["US", "GB", "DE"], RELEASE, samples=32)
    turned = forecaster.forecast(song, ["DE", "US", "GB"], RELEASE, samples=32)
    for region in REGIONS:
        alone = forecaster.forecast(song, [region], RELEASE, samples=32)
        for table in ("curves", "popularity"):
            tables = [getattr(each, table) for each in (alone, together, turned)]
            rows = [each[each["region"] == region] for each in tables]
            assert same(rows[0], rows[1])
            assert same(rows[0], rows[2])
    assert turned.curves["region"].drop_duplicates().tolist() == ["DE", "US", "GB"]


def test_songs_of_a_catalogue_are_forecast_as_they_are_alone(forecaster, song):
    tracks = pd.DataFrame(
        {
            "path": [str(song), None, None],
            "track_id": ["a", "b", "c"],
            "release_date": [RELEASE, pd.Timestamp("2026-12-18"), None],
            "artist": ["X", "Y", None],
        }
    )
    found = forecaster.forecast(tracks, ["US", "GB"], "2026-12-25", samples=16)
    assert found.curves["track_id"].drop_duplicates().tolist() == ["a", "b", "c"]
    assert [str(day)[:10] for day in found.sampled.rows["debut"]] == [
        *("2026-12-10", "2026-12-10", "2026-12-24", "2026-12-24", "2026-12-31", "2026-12-31")
    ]
    alone = forecaster.forecast(song, ["GB"], RELEASE, samples=16, track_id="a")
    assert same(alone.curves, found.curves.query("track_id == 'a' and region == 'GB'"))
    backwards = forecaster.forecast(tracks[::-1], ["US", "GB"], "2026-12-25", samples=16)
    assert same(backwards.curves.query("track_id == 'b'"), found.curves.query("track_id == 'b'"))


def test_a_path_bytes_and_an_array_with_its_rate_sound_the_same(forecaster, song):
    waveform, rate = soundfile.read(song)
    stereo = np.stack([waveform, waveform], axis=1)
    given = [song, str(song), song.read_bytes(), (waveform, rate), (stereo, rate), (stereo.T, rate)]
    found = [forecaster.forecast(each, ["US"], RELEASE, samples=16, track_id="same") for each in given]
    assert all(same(each.curves, found[0].curves) for each in found)
    silent = forecaster.forecast(None, ["US"], RELEASE, samples=16, track_id="same")
    assert not same(silent.curves, found[0].curves)


def test_an_array_at_another_rate_is_resampled(forecaster, song):
    import soxr

    waveform, rate = soundfile.read(song)
    faster = soxr.resample(waveform, rate, 44_100)
    one = forecaster.forecast((faster, 44_100), ["US"], RELEASE, samples=16)
    other = forecaster.forecast((waveform, rate), ["US"], RELEASE, samples=16)
    assert np.allclose(one.curves["mean"], other.curves["mean"], rtol=0.05)


def test_a_whole_song_is_heard_in_half_overlapping_windows_once_for_all_regions(forecaster, monkeypatch):
    heard = []
    listen = type(forecaster.model).listen
    monkeypatch.setattr(
        type(forecaster.model),
        "listen",
        lambda self, waveforms: heard.append(len(waveforms)) or listen(self, waveforms),
    )
    length = forecaster.model.config.samples
    forecaster.forecast((np.full(3 * length, 0.1), RATE), None, RELEASE, samples=8)
    assert sum(heard) == 5
    assert windows_of(np.arange(10), 4).tolist() == [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7], [6, 7, 8, 9]]
    assert windows_of(np.arange(2), 4).tolist() == [[0, 1, 0, 0]]
    assert len(windows_of(np.zeros(10_000), 10)) == 24


def test_observed_periods_come_back_exactly_whatever_they_are(forecaster):
    given = [3_123_457.0, np.nan, 12.5, 0.0]
    found = forecaster.forecast(None, ["US", "GB"], RELEASE, weeks(US=given, GB=[333_333.0]), samples=16)
    us = found.sampled.streams[0]
    assert (us[:, 0] == given[0]).all()
    assert np.ptp(us[:, 1]) > 0
    assert (us[:, 2] == given[2]).all()
    assert (us[:, 3] == 0).all()
    assert found.sampled.rows["observed"].tolist() == [4, 1]
    table = found.curves.query("region == 'US' and week == 0")[["mean", *QUANTILES]].to_numpy()
    assert (table == given[0]).all()
    later = found.popularity.query("metric == 'remaining'").set_index("region")["mean"]
    assert later["US"] == pytest.approx(us[:, 4:].sum(axis=1).mean())


def test_weeks_and_dates_name_the_same_periods_and_a_file_reads_as_a_frame(forecaster, tmp_path):
    by_week = weeks(US=[3e6, 2e6])
    by_date = by_week.drop(columns="week").assign(date=["2026-12-10", "2026-12-17"])
    by_week.to_csv(tmp_path / "weeks.csv", index=False)
    by_date.assign(date=pd.to_datetime(by_date["date"])).to_parquet(tmp_path / "dates.parquet", index=False)
    given = [by_week, by_date, tmp_path / "weeks.csv", str(tmp_path / "dates.parquet")]
    found = [forecaster.forecast(None, ["US"], RELEASE, each, samples=16) for each in given]
    assert all(np.array_equal(each.sampled.streams, found[0].sampled.streams) for each in found)
    unreleased = forecaster.forecast(None, ["US"], None, by_date, samples=16)
    assert np.array_equal(unreleased.curves["date"], found[0].curves["date"])


def test_a_region_that_opened_informs_one_that_has_not_and_its_debut_comes_next(forecaster):
    hit = forecaster.forecast(None, ["GB"], RELEASE, weeks(US=[9e7, 9e7], DE=[9e6, 9e6]), samples=64)
    flop = forecaster.forecast(None, ["GB"], RELEASE, weeks(US=[8e5, 8e5], DE=[2e5, 2e5]), samples=64)
    assert str(hit.curves["date"][0])[:10] == "2026-12-24"
    assert not same(hit.curves, flop.curves)
    nothing = forecaster.forecast(None, ["GB"], RELEASE, weeks(US=[9e7, 9e7], GB=[0.0, 0.0]), samples=8)
    assert str(nothing.curves["date"][0])[:10] == "2026-12-24"
    assert nothing.sampled.rows["observed"].tolist() == [0]


def test_what_was_seen_elsewhere_later_than_the_cutoff_moves_nothing(forecaster):
    """US knows two weeks, so its forecast is as of the second; the third week of GB is not in it."""
    two = forecaster.forecast(None, ["US"], RELEASE, weeks(US=[3e6, 2e6], GB=[4e5, 3e5]), samples=16)
    three = forecaster.forecast(None, ["US"], RELEASE, weeks(US=[3e6, 2e6], GB=[4e5, 3e5, 9e8]), samples=16)
    other = forecaster.forecast(None, ["US"], RELEASE, weeks(US=[3e6, 2e6], GB=[4e6, 3e6]), samples=16)
    assert np.array_equal(two.sampled.streams, three.sampled.streams)
    assert not np.array_equal(two.sampled.streams, other.sampled.streams)


def test_the_artists_earlier_songs_count_up_to_the_cutoff(forecaster):
    earlier = pd.DataFrame(
        {"track_id": "old", "region": "US", "date": ["2026-09-03", "2026-09-10"], "streams": [8e7, 7e7]}
    )
    later = pd.concat([earlier, earlier.assign(track_id="new", date=["2026-12-10", "2026-12-17"], streams=9e9)])
    none = forecaster.forecast(None, ["US"], RELEASE, samples=16)
    known = forecaster.forecast(None, ["US"], RELEASE, samples=16, history=earlier)
    named = forecaster.forecast(None, ["US"], RELEASE, samples=16, history=earlier, artist="Ada")
    with_later = forecaster.forecast(None, ["US"], RELEASE, samples=16, history=later)
    assert not same(none.curves, known.curves)
    assert np.array_equal(known.sampled.streams, named.sampled.streams)
    assert np.array_equal(known.sampled.streams, with_later.sampled.streams)


def test_nothing_dated_after_the_cutoff_in_a_dataset_moves_a_forecast(forecaster, tmp_path):
    dates = pd.date_range("2024-07-04", periods=6, freq="7D")
    wild = pd.DataFrame(
        [(f"track-{song}", region, day, 1e9, None) for song in (0, 3, 33) for region in ("US", "GB") for day in dates],
        columns=["track_id", "region", "date", "streams", "rank"],
    )
    plain, later = charts_dataset(tmp_path / "plain"), charts_dataset(tmp_path / "later", more=wild)
    tracks = pd.DataFrame({"track_id": ["new", "track-19"], "artist": ["Artist 3", None]})
    release = "2024-06-28"
    first, second = (forecaster.forecast(tracks, None, release, samples=16, data=each) for each in (plain, later))
    assert first.sampled.rows["cutoff"].unique() == np.datetime64("2024-06-27")
    assert np.array_equal(first.sampled.streams, second.sampled.streams)
    assert first.popularity.equals(second.popularity)
    week_later = forecaster.forecast(tracks, None, "2024-07-05", samples=16, data=later)
    assert not same(first.curves, week_later.curves)


@pytest.mark.parametrize("observed", [0, 3])
def test_a_dataset_gives_the_forecasts_that_scoring_gives(forecaster, tmp_path, observed):
    """The same songs by the road that recipes score: known periods from the dataset, all songs in one batch."""
    from mp3model.evaluation.forecasts import RankCurves
    from mp3model.tables.debuts import debut_rows, debuts_of
    from mp3model.tables.folder import read_dataset
    from mp3model.tables.splits import first_rows
    from mp3model.training.curves import covariates_of
    from mp3model.training.forecasting import PathForecaster

    dataset = read_dataset(charts_dataset(tmp_path))
    first = first_rows(dataset)
    first = first[first["track_id"].isin(["track-08", "track-13"])].drop(columns="song_id").assign(split="test")
    debuts = debuts_of(dataset, debut_rows(dataset, first), 12)
    config = forecaster.model.config
    known = covariates_of(dataset, config.regions, config.covariates, 12, None)
    scored = PathForecaster(forecaster.model, known, None, None, 16, rank_curves=RankCurves.of(dataset))
    expected = scored.paths(debuts, observed).streams
    for row, about in enumerate(debuts.rows.itertuples(index=False)):
        own = dataset.curves[(dataset.curves["track_id"] == about.track_id)].sort_values("date")
        last = pd.Timestamp(about.debut) + pd.Timedelta(days=7 * (observed - 1))
        found = forecaster.forecast(
            None,
            [about.region],
            about.debut,
            own[own["date"] <= last] if observed else None,
            samples=16,
            data=tmp_path,
            track_id=about.track_id,
        )
        assert np.allclose(found.sampled.streams[0], expected[row], rtol=1e-3)
    assert len(debuts.rows) == 4


def test_a_dataset_tells_the_artist_and_the_floors_of_the_day(forecaster, tmp_path):
    data = charts_dataset(tmp_path)
    asked = {"regions": ["US"], "release": "2024-06-28", "samples": 16, "data": data}
    unknown, known = forecaster.forecast(None, **asked), forecaster.forecast(None, **asked, artist="ARTIST 3!")
    assert not same(unknown.curves, known.curves)
    assert forecaster.forecast(None, **asked).flags["code"].tolist() == ["no_audio"]
    seen = forecaster.forecast(None, **asked, observed=weeks(US=[5e6], GB=[4e5]))
    assert (seen.sampled.streams[0, :, 0] == 5e6).all()


def test_the_seed_decides_the_luck_and_nothing_else_does(forecaster):
    one = forecaster.forecast(None, ["US"], RELEASE, samples=16)
    assert np.array_equal(one.sampled.streams, forecaster.forecast(None, ["US"], RELEASE, samples=16).sampled.streams)
    other = forecaster.forecast(None, ["US"], RELEASE, samples=16, seed=1)
    assert not np.array_equal(one.sampled.streams, other.sampled.streams)


def test_descriptors_are_standardised_and_their_absence_is_flagged(tmp_path):
    folder = write_model(
        tmp_path,
        encoder="descriptors",
        descriptors=["x_a", "x_b"],
        descriptor_statistics={"x_a": [5, 2], "x_b": [0, 1]},
    )
    forecaster = Forecaster.from_pretrained(folder, "cpu")
    table = pd.DataFrame({"x_b": [0.5], "x_a": [9.0], "x_c": [1.0]})
    with_them = forecaster.forecast(None, ["US"], RELEASE, samples=16, features=table)
    without = forecaster.forecast(None, ["US"], RELEASE, samples=16)
    assert not same(with_them.curves, without.curves)
    assert "no_features" in without.flags["code"].tolist()
    assert len(with_them.flags) == 0
    tracks = pd.DataFrame({"track_id": ["song", "t"], "x_a": [9.0, np.nan], "x_b": [0.5, 1.0]})
    several = forecaster.forecast(tracks.assign(song_id=["file song", "t"]), ["US"], RELEASE, samples=16)
    assert same(several.curves.query("track_id == 'song'"), with_them.curves)
    assert several.flags["track_id"].tolist() == ["t"]
    with pytest.raises(InputError, match="no column x_a"):
        forecaster.forecast(None, ["US"], RELEASE, features=table[["x_b"]])


def test_old_floors_and_floors_of_later_are_flagged_with_their_date(forecaster):
    fresh = forecaster.forecast(None, ["US"], RELEASE, samples=8).flags
    assert "floors_old" not in fresh["code"].tolist()
    old = forecaster.forecast(None, ["US"], "2027-12-03", samples=8).flags.set_index("code")
    assert LAST_CHART in old.loc["floors_old", "reason"]
    early = forecaster.forecast(None, ["US"], "2020-01-03", samples=8).flags.set_index("code")
    assert LAST_CHART in early.loc["floors_later", "reason"]
    assert early.loc["floors_later", "region"] == "US"


def test_a_curve_that_is_observed_to_its_end_is_said_to_leave_nothing_and_refused_where_all_are(forecaster):
    whole = weeks(US=[5e6] * 14)
    found = forecaster.forecast(None, ["US", "GB"], RELEASE, whole, samples=8)
    flags = found.flags[found.flags["code"] == "nothing_left"]
    assert flags["region"].tolist() == ["US"]
    assert (found.curves.query("region == 'US'")[list(QUANTILES)] == 5e6).all(axis=None)
    with pytest.raises(InputError, match="nothing is left to forecast"):
        forecaster.forecast(None, ["US"], RELEASE, whole, samples=8)


def test_an_artist_of_whom_the_dataset_holds_nothing_is_flagged(forecaster, tmp_path):
    data = charts_dataset(tmp_path / "data")
    asked = {"regions": ["US"], "release": "2024-07-05", "samples": 4, "data": data}
    assert "artist_unknown" in set(forecaster.forecast(None, **asked, artist="Nobody").flags["code"])
    assert "artist_unknown" not in set(forecaster.forecast(None, **asked, artist="artist 3").flags["code"])


def test_observed_periods_of_a_region_without_scale_are_left_out_and_said_so(forecaster):
    found = forecaster.forecast(None, ["US"], RELEASE, weeks(US=[3e6], SE=[5e5]), samples=8)
    assert found.flags.set_index("code").loc["rows_left_out", "reason"].count("SE") == 1


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"regions": ["US", "XX"]}, "XX is not known; known are US, GB, DE"),
        ({"regions": ["US", "US"]}, "each region once"),
        ({"release": "4/12/2026"}, "4/12/2026: no date"),
        ({"release": None}, "not given"),
        ({"release": 2026}, "2026: no date"),
        ({"samples": 0}, "samples 0"),
        ({"audio": "nowhere.mp3"}, "nowhere.mp3"),
        ({"audio": b"no sound"}, "by its content"),
        ({"audio": (np.array([0.1, np.nan]), RATE)}, "NaN"),
        ({"audio": (np.zeros((2, 2, 2)), RATE)}, "give \\(samples,\\)"),
        ({"observed": "nowhere.csv"}, "nowhere.csv: no such file"),
        ({"observed": pd.DataFrame({"region": ["US"], "week": [0]})}, "no column streams"),
        ({"observed": pd.DataFrame({"region": ["US"], "week": [0], "streams": [-1]})}, "-1"),
        ({"observed": pd.DataFrame({"region": ["US"], "week": [0], "streams": ["many"]})}, "many"),
        ({"observed": pd.DataFrame({"region": ["US"], "week": [0.5], "streams": [1]})}, "no period"),
        ({"observed": pd.DataFrame({"region": ["US"], "date": ["2026-12-09"], "streams": [1]})}, "dated 2026-12-10"),
        (
            {"observed": pd.DataFrame({"region": ["US"], "date": ["2026-12-03"], "streams": [1e6]})},
            "before its release",
        ),
        ({"observed": pd.DataFrame({"region": ["US"] * 2, "week": [0, 0], "streams": [1, 1]})}, "twice"),
        ({"history": pd.DataFrame({"region": ["US"], "date": ["2026-01-01"], "streams": [1]})}, "no column track_id"),
        ({"features": pd.DataFrame({"x_a": [1.0]})}, "reads no descriptors"),
        ({"data": "nowhere"}, "nowhere"),
        ({"audio": pd.DataFrame({"track_id": ["a", "a"]})}, "'a' is there twice"),
        ({"audio": pd.DataFrame({"title": ["a"]})}, "track_id or path"),
        ({"audio": pd.DataFrame({"track_id": ["a"], "path": ["nowhere.ogg"]})}, "nowhere.ogg: no such file"),
    ],
)
def test_wrong_input_is_refused_by_name(forecaster, asked, message):
    with pytest.raises(InputError, match=message):
        forecaster.forecast(**({"regions": ["US"], "release": RELEASE, "samples": 8} | asked))


def test_a_folder_that_holds_no_model_is_refused_by_name(model_folder, tmp_path):
    with pytest.raises(InputError, match="do you mean"):
        Forecaster.from_pretrained(model_folder.parent)
    with pytest.raises(InputError, match=r"no config\.json"):
        Forecaster.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        Forecaster.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"architectures": ["MP2Model"]}')
    with pytest.raises(InputError, match="MP2Model"):
        Forecaster.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_bytes((model_folder / "config.json").read_bytes())
    whole = (model_folder / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="no whole safetensors file"):
        Forecaster.from_pretrained(tmp_path)


def test_lives_that_the_user_tells_are_measured_in_their_regions_floor():
    from tiny_model import region_state

    from mp3model.serving.observed import dataset_with
    from mp3model.tables.history import History, RegionStates

    states = RegionStates.from_last({"US": region_state(LAST_CHART, 800.0, 700.0)})
    tracks = pd.DataFrame({"track_id": ["t"], "song_id": ["t"], "title": None, "artist": ["A"]})
    dates = pd.to_datetime(["2025-01-02", "2025-01-09", "2025-01-23"])
    rows = pd.DataFrame(
        {"track_id": "t", "region": "US", "date": dates, "streams": [500.0, 8000.0, 80.0], "rank": np.nan}
    )
    history = History(dataset_with(None, tracks, rows, states, "W", 12), {"US": 1.0})
    assert history.lives.floor.tolist() == [800.0]
    level = history.lives.features[0, :5, 1]
    assert level[[0, 1, 3]] == pytest.approx(np.log10([500 / 800, 10, 0.1]), abs=1e-4)


def test_a_daily_model_counts_days_and_its_joint_head_serves_too(tmp_path):
    folder = write_model(tmp_path, frequency="D", horizon=21, likelihood="joint")
    forecaster = Forecaster.from_pretrained(folder, "cpu")
    observed = pd.DataFrame({"region": "US", "day": [0, 1], "streams": [9e5, 9.5e5]})
    found = forecaster.forecast(None, ["US", "GB"], RELEASE, observed, samples=16)
    assert list(found.curves)[2] == "day"
    assert len(found.curves) == 42
    dates = found.curves["date"].astype(str).str[:10].tolist()
    assert [dates[0], dates[20], dates[21]] == ["2026-12-04", "2026-12-24", "2026-12-06"]
    assert (found.sampled.streams[0, :, :2] == [9e5, 9.5e5]).all()
    found.plot(tmp_path / "days.png")


def test_a_region_that_only_the_dataset_knows_is_answered_and_flagged(tmp_path):
    from tiny_model import region_state

    folder = write_model(tmp_path / "model", regions=["GB"], region_states={"GB": region_state(LAST_CHART, 1e5, 9e4)})
    forecaster = Forecaster.from_pretrained(folder, "cpu")
    assert forecaster.regions == ["GB"]
    with pytest.raises(InputError, match="US is not known; known are GB"):
        forecaster.forecast(None, ["US"], RELEASE)
    data = charts_dataset(tmp_path / "data")
    flags = forecaster.forecast(None, ["US", "GB"], "2024-06-28", samples=8, data=data).flags
    assert flags[flags["code"] == "region_untrained"]["region"].tolist() == ["US"]
