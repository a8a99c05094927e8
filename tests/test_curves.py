"""The period grid and what is known on it, against hand-computed values and a plain twin that loops over rows."""

from __future__ import annotations

import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mp3model.files import InputError
from mp3model.tables.curves import (
    BELOW,
    OBSERVED,
    PERIOD_DAYS,
    UNKNOWN,
    curve_arrays,
    floors,
    log_streams,
    period_dates,
    period_end,
    period_index,
    popularity_targets,
    streams_from_log,
    taken,
)
from mp3model.tables.folder import SCHEMAS, DatasetFolder
from mp3model.tables.schema import validate

FIRST = pd.Timestamp("2020-01-02")
days = st.dates(datetime.date(1990, 1, 1), datetime.date(2090, 1, 1)).map(np.datetime64)
frequencies = st.sampled_from(["W", "D"])


def weeks(*numbers: int) -> list[pd.Timestamp]:
    return [FIRST + pd.Timedelta(days=7 * number) for number in numbers]


def dataset(frequency: str = "W", horizon: int = 4, **frames: pd.DataFrame) -> DatasetFolder:
    tables = {name: validate(frame, SCHEMAS[name], name) for name, frame in frames.items()}
    return DatasetFolder(path=Path("made-up"), info={"frequency": frequency, "horizon": horizon}, **tables)


def tracks(**songs: str) -> pd.DataFrame:
    """Track ids and the song of each."""
    empty = {name: [None] * len(songs) for name in ("title", "artist", "isrc", "release_date")}
    return pd.DataFrame({"track_id": list(songs), "song_id": list(songs.values()), **empty})


def curves(*rows: tuple) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["track_id", "region", "date", "streams", "rank"])
    return frame.astype({"streams": float, "rank": "Int32"})


def charts(region: str, *dates: pd.Timestamp, floor: float = 50.0, lowest: float = 40.0) -> pd.DataFrame:
    return pd.DataFrame({"region": region, "date": list(dates), "floor": floor, "lowest": lowest, "size": 200})


def test_periods_count_from_the_debut():
    dates = weeks(0, 1, 3, -2)
    assert period_index(dates, FIRST, "W").tolist() == [0, 1, 3, -2]
    assert period_index(dates, FIRST, "D").tolist() == [0, 7, 21, -14]
    assert (
        period_index([weeks(1, 2), weeks(5, 6)], np.array(weeks(1, 5), "M8[D]")[:, None], "W").tolist() == [[0, 1]] * 2
    )


def test_a_date_off_the_grid_is_named():
    with pytest.raises(InputError, match="date 2020-01-10 lies 8 days from debut 2020-01-02"):
        period_index(["2020-01-09", "2020-01-10"], FIRST, "W")
    with pytest.raises(InputError, match="1 of 2 dates or debuts are missing"):
        period_index(["2020-01-09", "NaT"], FIRST, "W")


@given(st.lists(days, min_size=1, max_size=5), st.integers(1, 100), frequencies)
def test_the_index_of_the_dates_of_a_curve_is_0_1_2_and_so_on(debut: list, horizon: int, frequency: str):
    dates = period_dates(np.array(debut), horizon, frequency)
    assert dates.dtype == "datetime64[s]"
    assert dates.shape == (len(debut), horizon)
    assert np.array_equal(dates[:, 0], np.array(debut))
    index = period_index(dates, np.array(debut)[:, None], frequency)
    assert np.array_equal(index, np.tile(np.arange(horizon), (len(debut), 1)))


def test_a_chart_week_runs_from_friday_to_thursday():
    found = period_end(np.arange("2020-01-01", "2020-01-11", dtype="M8[D]"), None, "W")
    thursdays = ["2020-01-02"] * 2 + ["2020-01-09"] * 7 + ["2020-01-16"]
    assert found.astype("M8[D]").astype(str).tolist() == thursdays
    assert str(period_end("2020-01-04", "2019-06-02", "W")) == "2020-01-05T00:00:00"
    assert str(period_end("2020-01-04", None, "D")) == "2020-01-04T00:00:00"
    assert str(period_end("2020-01-04")) == "2020-01-09T00:00:00"


@given(days, days, frequencies)
def test_a_period_end_is_on_the_grid_of_its_anchor_and_less_than_a_period_away(day, anchor, frequency: str):
    end = period_end(day, anchor, frequency)
    assert 0 <= (end - day).astype("m8[D]").astype(int) < PERIOD_DAYS[frequency]
    period_index(end, anchor, frequency)
    assert period_end(end, anchor, frequency) == end


def test_log_streams_are_log10_of_one_more():
    assert log_streams([0, 9, 999_999]).tolist() == pytest.approx([0, 1, 6], abs=1e-15)
    assert np.isnan(log_streams([np.nan])[0])
    assert streams_from_log([0, 1, 6]).tolist() == pytest.approx([0, 9, 999_999], rel=1e-14)
    assert streams_from_log([-3.0, -1e-9]).tolist() == [0, 0]
    assert np.isnan(streams_from_log([np.nan])[0])
    with pytest.raises(InputError, match="-4 are negative"):
        log_streams([1, -4, np.nan])


def test_an_unknown_value_may_be_written_as_none():
    assert log_streams([9, None]).tolist() == pytest.approx([1, np.nan], nan_ok=True)
    assert streams_from_log([1, None]).tolist() == pytest.approx([9, np.nan], nan_ok=True)


@given(st.floats(0, 1e15))
def test_logs_go_there_and_back(streams: float):
    assert float(streams_from_log(log_streams(streams))) == pytest.approx(streams, rel=1e-12, abs=1e-12)


def test_floors_are_looked_up_by_region_and_date():
    table = pd.concat(
        [charts("US", *weeks(0, 1), floor=5, lowest=4), charts("GB", *weeks(1), floor=3, lowest=2)]
    ).sample(frac=1, random_state=0)
    lookup = floors(validate(table, SCHEMAS["charts"], "charts"))
    regions = pd.Series(["GB", "US", "GB", "JP"])
    dates = np.array([weeks(0, 1), weeks(0, 1), weeks(1, 2), weeks(0, 1)], "M8[s]")
    np.testing.assert_array_equal(lookup.floor(regions, dates), [[np.nan, 3], [5, 5], [3, np.nan], [np.nan, np.nan]])
    np.testing.assert_array_equal(lookup.lowest(regions, dates[:, 1]), [2, 4, np.nan, np.nan])
    np.testing.assert_array_equal(lookup.on_hand(regions, dates[:, 0]), [False, True, True, False])
    assert not floors(None).on_hand(regions, dates).any()
    assert np.isnan(floors(None).floor(regions, dates)).all()


def test_each_period_is_observed_below_or_unknown():
    data = dataset(
        tracks=tracks(a="A"),
        curves=curves(
            ("a", "US", weeks(1)[0], 100, 7), ("a", "US", weeks(3)[0], np.nan, 9), ("a", "US", weeks(5)[0], 60, 3)
        ),
        charts=pd.concat([charts("US", *weeks(0), floor=70), charts("US", *weeks(1, 2, 3, 5))]),
    )
    found = curve_arrays(data, pd.DataFrame({"track_id": ["a"], "region": ["US"], "debut": weeks(1)}), horizon=5)
    assert found.state.tolist() == [[OBSERVED, BELOW, UNKNOWN, UNKNOWN, OBSERVED]]
    np.testing.assert_array_equal(found.streams, [[100, np.nan, np.nan, np.nan, 60]])
    np.testing.assert_array_equal(found.rank, [[7, np.nan, 9, np.nan, 3]])
    np.testing.assert_array_equal(found.lowest, [[40, 40, 40, np.nan, 40]])
    np.testing.assert_array_equal(found.chart_observed(), [[100, 0, np.nan, np.nan, 60]])
    assert found.floor.tolist() == [70]
    assert found.state.dtype == np.int8


def test_versions_are_merged_within_a_region_only():
    data = dataset(
        tracks=tracks(a1="A", a2="A", b="B"),
        curves=curves(
            ("a1", "US", weeks(1)[0], 100, 7),
            ("a2", "US", weeks(1)[0], 50, 3),
            ("a2", "US", weeks(2)[0], 80, 5),
            ("a2", "GB", weeks(1)[0], 1000, 1),
            ("a1", "US", weeks(3)[0], 10, 6),
            ("a2", "US", weeks(3)[0], np.nan, 8),
            ("b", "US", weeks(1)[0], 7, 9),
        ),
    )
    found = curve_arrays(data, pd.DataFrame({"track_id": ["a1"], "region": ["US"], "debut": weeks(1)}))
    np.testing.assert_array_equal(found.streams, [[150, 80, np.nan, np.nan]])
    np.testing.assert_array_equal(found.rank, [[3, 5, 6, np.nan]])
    # Without charts on hand nobody knows what a gap means; nor is a sum with an unknown part known.
    assert found.state.tolist() == [[OBSERVED, OBSERVED, UNKNOWN, UNKNOWN]]
    assert np.isnan(found.floor).all()


def test_streams_too_small_for_the_chart_count_as_observed_but_not_as_charted():
    streams = [100, 30, 40]  # above the lowest of the chart, below it, at it
    data = dataset(
        tracks=tracks(a="A"),
        curves=curves(*[("a", "US", week, value, None) for week, value in zip(weeks(1, 2, 3), streams, strict=True)]),
        charts=charts("US", *weeks(0, 1, 2, 3, 4)),
    )
    found = curve_arrays(data, pd.DataFrame({"track_id": ["a"], "region": ["US"], "debut": weeks(1)}))
    np.testing.assert_array_equal(found.streams, [[100, 30, 40, np.nan]])
    assert found.state.tolist() == [[OBSERVED, OBSERVED, OBSERVED, BELOW]]
    assert found.charted.tolist() == [[True, False, True, False]]
    assert found.chart_observed().tolist() == [[100, 0, 40, 0]]


def test_without_a_chart_a_row_counts_as_charted_if_it_streamed_at_all():
    rows = [("a", "US", week, value, None) for week, value in zip(weeks(1, 2, 3), (1, 0, 0.5), strict=True)]
    data = dataset(tracks=tracks(a="A"), curves=curves(*rows))
    found = curve_arrays(data, pd.DataFrame({"track_id": ["a"], "region": ["US"], "debut": weeks(1)}))
    assert found.charted.tolist() == [[True, False, True, False]]
    np.testing.assert_array_equal(found.chart_observed(), [[1, 0, 0.5, np.nan]])


def random_market(seed: int, frequency: str) -> tuple[DatasetFolder, pd.DataFrame]:
    """Tracks with versions, holes in the charts, unknown streams and ranks; debuts with repeats, in any order."""
    rng = np.random.default_rng(seed)
    songs = {f"t{i}": f"s{i // 2}" for i in range(10)}
    dates = [FIRST + pd.Timedelta(days=PERIOD_DAYS[frequency] * i) for i in range(12)]
    grid = [(r, d) for r in ("US", "GB", "GLOBAL") for d in dates]
    on_hand = pd.concat(
        [charts(r, d, floor=rng.integers(50, 60), lowest=rng.integers(1, 50)) for r, d in grid if rng.random() < 0.8]
    )
    lowest = {(r, d): low for r, d, low in zip(on_hand["region"], on_hand["date"], on_hand["lowest"], strict=True)}
    rows = []
    for track in songs:
        for region, date in grid:
            if rng.random() < 0.3:
                ranked = (region, date) in lowest and rng.random() < 0.8
                streams = rng.integers(lowest[region, date] if ranked else 0, 100)
                rows.append(
                    (
                        track,
                        region,
                        date,
                        np.nan if rng.random() < 0.1 else streams,
                        rng.integers(1, 200) if ranked else None,
                    )
                )
    debuts = pd.DataFrame(
        {
            "track_id": rng.choice(list(songs), 30),
            "region": rng.choice(["US", "GB", "GLOBAL", "JP"], 30),
            "debut": [dates[i] for i in rng.integers(0, 12, 30)],
        }
    )
    return dataset(frequency, 5, tracks=tracks(**songs), curves=curves(*rows), charts=on_hand), debuts


@pytest.mark.parametrize("frequency", ["W", "D"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_curve_arrays_equal_a_twin_that_loops_over_rows(seed: int, frequency: str):
    data, debuts = random_market(seed, frequency)
    assert data.curves is not None
    assert data.charts is not None
    song_of = dict(zip(data.tracks["track_id"], data.tracks["song_id"], strict=True))
    chart = {(c.region, c.date): c for c in data.charts.itertuples()}
    found = curve_arrays(data, debuts)
    observed = found.chart_observed()
    period = pd.Timedelta(days=PERIOD_DAYS[frequency])
    for i, row in enumerate(debuts.itertuples()):
        before = chart.get((row.region, row.debut - period))
        np.testing.assert_array_equal(found.floor[i], before.floor if before else np.nan)
        for w in range(5):
            date = row.debut + w * period
            rows = [
                r
                for r in data.curves.itertuples()
                if song_of[r.track_id] == song_of[row.track_id] and r.region == row.region and r.date == date
            ]
            here = chart.get((row.region, date))
            total = sum(r.streams for r in rows) if rows else np.nan
            ranks = [r.rank for r in rows if r.rank is not pd.NA]
            state = OBSERVED if rows and total == total else BELOW if not rows and here else UNKNOWN
            shown = any(r.rank is not pd.NA or (r.streams >= here.lowest if here else r.streams > 0) for r in rows)
            assert found.state[i, w] == state
            np.testing.assert_array_equal(found.streams[i, w], total)
            np.testing.assert_array_equal(found.rank[i, w], min(ranks) if ranks else np.nan)
            np.testing.assert_array_equal(found.lowest[i, w], here.lowest if here else np.nan)
            expected = {BELOW: 0.0, UNKNOWN: np.nan}.get(state, total if shown or not here else 0.0)
            np.testing.assert_array_equal(observed[i, w], expected)
    assert set(np.unique(found.state)) == {OBSERVED, BELOW, UNKNOWN}


def test_a_region_that_nobody_asked_for_lends_no_rows():
    rows = [
        (track, region, weeks(1)[0], 10 + place, 5)
        for place, (track, region) in enumerate([("a", "US"), ("b", "US"), ("a", "GB"), ("b", "GB")])
    ]
    data = dataset(tracks=tracks(a="A", b="B"), curves=curves(*rows))
    found = curve_arrays(data, pd.DataFrame({"track_id": ["a", "b"], "region": "US", "debut": weeks(1, 1)}), horizon=1)
    assert found.streams.tolist() == [[10], [11]]


def test_debuts_may_be_named_by_their_song_alone():
    data, debuts = random_market(0, "W")
    song_of = data.tracks.set_index("track_id")["song_id"]
    songs = debuts.assign(song_id=debuts["track_id"].map(song_of)).drop(columns="track_id")
    np.testing.assert_array_equal(curve_arrays(data, songs).streams, curve_arrays(data, debuts).streams)


def test_curves_without_debuts_are_empty_arrays():
    data, debuts = random_market(0, "W")
    found = curve_arrays(data, debuts.iloc[:0])
    assert found.streams.shape == found.rank.shape == found.state.shape == found.lowest.shape == (0, 5)
    assert found.floor.shape == (0,)


def test_the_curves_at_chosen_positions_keep_all_that_is_known_of_them():
    data, debuts = random_market(0, "W")
    chosen = np.array([7, 2, 2])
    found, expected = taken(curve_arrays(data, debuts), chosen), curve_arrays(data, debuts.iloc[chosen])
    for name, values in vars(expected).items():
        np.testing.assert_array_equal(getattr(found, name), values, err_msg=name)


def test_wrong_debuts_are_refused():
    data, debuts = random_market(0, "W")
    with pytest.raises(InputError, match="row 1 of the debuts has no debut date"):
        curve_arrays(data, debuts.assign(debut=[FIRST, pd.NaT, *[FIRST] * 28]))
    with pytest.raises(InputError, match="'zz' is not among the 10 tracks"):
        curve_arrays(data, debuts.assign(track_id="zz"))
    with pytest.raises(InputError, match=r"debut 2020-01-03 of song .* off that region's grid"):
        curve_arrays(data, debuts.assign(debut=FIRST + pd.Timedelta(days=1)))
    # Of several only the one that is wrong is named.
    with pytest.raises(InputError, match="'zz' is not among the 10 tracks; add it to"):
        curve_arrays(data, debuts.iloc[:2].assign(track_id=[data.tracks["track_id"][0], "zz"]))
    rows = curves(("a", "US", weeks(2)[0], 9, 1), ("b", "US", weeks(2)[0], 9, 2))
    off = pd.DataFrame({"track_id": ["a", "b"], "region": "US", "debut": [*weeks(1), FIRST + pd.Timedelta(days=8)]})
    with pytest.raises(InputError, match="debut 2020-01-10 of song 'B' in US is off that region's grid of 7-day"):
        curve_arrays(dataset(tracks=tracks(a="A", b="B"), curves=rows), off)
    with pytest.raises(InputError, match=r"no curves\.parquet"):
        curve_arrays(dataset(tracks=tracks(a="A")), debuts)


def test_targets_are_chart_observed_totals_and_debut_ranks():
    data = dataset(
        horizon=3,
        tracks=tracks(a="A", b="B"),
        curves=curves(
            ("a", "US", weeks(1)[0], 100, 7), ("a", "US", weeks(3)[0], 60, 9), ("b", "US", weeks(3)[0], 50, 8)
        ),
        charts=charts("US", *weeks(0, 1, 2, 3, 4)),
        splits=pd.DataFrame({"track_id": ["a", "b"], "region": "US", "debut": weeks(1, 3), "split": ["train", "test"]}),
    )
    found = popularity_targets(data)
    assert found.columns.tolist() == ["song_id", "track_id", "region", "debut", "split", "total", "debut_rank"]
    assert found["song_id"].tolist() == ["A", "B"]
    assert found["split"].tolist() == ["train", "test"]
    np.testing.assert_array_equal(found["total"], [160, np.nan])  # B's last week has no chart on hand
    assert found["debut_rank"].tolist() == [7, 8]
    again = popularity_targets(data, found[["track_id", "region", "debut"]].iloc[::-1])
    assert again["split"].tolist() == ["test", "train"]
    np.testing.assert_array_equal(again["total"], [np.nan, 160])


def test_targets_without_dates_are_read_as_they_are():
    targets = pd.DataFrame(
        {"track_id": ["b", "a"], "region": "GLOBAL", "total": [5.0, 3.0], "debut_rank": np.nan, "y_likes": [1.0, 2.0]}
    )
    data = dataset(tracks=tracks(a="A", b="B"), targets=targets)
    found = popularity_targets(data)
    assert found["total"].tolist() == [5, 3]
    assert found["y_likes"].tolist() == [1, 2]
    assert found["split"].tolist() == ["none", "none"]
    assert found["debut"].isna().all()
    assert found["debut"].dtype == "datetime64[s]"
    assert found["debut_rank"].isna().all()
    only_a = popularity_targets(data, pd.DataFrame({"track_id": ["a"], "region": ["GLOBAL"], "split": ["test"]}))
    assert only_a[["song_id", "total", "split"]].to_numpy().tolist() == [["A", 3.0, "test"]]


def test_rows_that_neither_targets_nor_splits_name_are_kept_without_both():
    targets = pd.DataFrame({"track_id": ["a"], "region": "US", "total": [5.0], "debut_rank": 2.0})
    splits = pd.DataFrame({"track_id": ["a"], "region": "US", "debut": weeks(1), "split": "train"})
    data = dataset(tracks=tracks(a="A", b="B"), targets=targets, splits=splits)
    asked = pd.DataFrame({"track_id": ["b", "a"], "region": "US"}, index=[5, 5])
    found = popularity_targets(data, asked)
    assert found["split"].tolist() == ["none", "train"]
    np.testing.assert_array_equal(found["total"], [np.nan, 5])


def test_dated_targets_need_debuts():
    data = dataset(tracks=tracks(a="A"), curves=curves(("a", "US", FIRST, 100, 7)))
    with pytest.raises(InputError, match=r"no splits\.parquet"):
        popularity_targets(data)
