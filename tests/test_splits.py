"""Debuts and splits: each rule by hand, all against a plain twin, and the counts on real charts if on hand."""

from __future__ import annotations

import datetime
import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mp3model.files import InputError
from mp3model.tables.folder import SCHEMAS, DatasetFolder, read_dataset, write_dataset
from mp3model.tables.schema import validate
from mp3model.tables.splits import find_debuts, make_splits
from mp3model.tables.tracks import release_window

FIRST = pd.Timestamp("2018-01-04")  # a Thursday
SHARED = Path(__file__).resolve().parent.parent.parent / "shared"


def week(number: float) -> pd.Timestamp:
    return FIRST + pd.Timedelta(days=round(7 * number))


def dataset(frequency: str = "W", horizon: int = 3, **frames: pd.DataFrame) -> DatasetFolder:
    tables = {name: validate(frame, SCHEMAS[name], name) for name, frame in frames.items()}
    return DatasetFolder(path=Path("made-up"), info={"frequency": frequency, "horizon": horizon}, **tables)


def tracks(rows: list[tuple]) -> pd.DataFrame:
    """(track, song, release date, latest release)"""
    frame = pd.DataFrame(rows, columns=["track_id", "song_id", "release_date", "release_latest"])
    return frame.assign(title=None, artist=None, isrc=None)


def charts(dates: dict[str, list[pd.Timestamp]]) -> pd.DataFrame:
    rows = [(region, date, 50.0, 40.0, 200) for region, days in dates.items() for date in days]
    return pd.DataFrame(rows, columns=["region", "date", "floor", "lowest", "size"])


def curves(rows: list[tuple]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["track_id", "region", "date", "rank"])
    return frame.assign(streams=1000.0 - frame["rank"]).astype({"rank": "Int32"})


def one_song(
    debut: pd.Timestamp, chart_dates: list[pd.Timestamp], release=None, latest=None, **kwargs
) -> DatasetFolder:
    return dataset(
        tracks=tracks([("a", "A", release, latest)]),
        curves=curves([("a", "US", debut, 5)]),
        charts=charts({"US": chart_dates}),
        **kwargs,
    )


def kept(data: DatasetFolder) -> bool:
    return len(find_debuts(data)) == 1


def test_a_debut_lies_fifteen_days_after_the_start_of_a_run():
    run = [week(i) for i in range(10)]
    assert not kept(one_song(week(2), run))  # 14 days
    assert kept(one_song(week(3), run))
    found = find_debuts(one_song(week(3), run))
    assert found.to_numpy().tolist() == [["A", "a", "US", week(3)]]


def test_a_gap_of_more_than_fourteen_days_starts_a_new_run():
    # Weeks 0-3, then 5 (a gap of 14 days): still one run, so week 7 is far from its start.
    assert kept(one_song(week(7), [week(i) for i in (0, 1, 2, 3, 5, 6, 7, 8, 9)]))
    # Weeks 0-3, then 6 (21 days): week 8 is 14 days after the start of the new run, week 9 is 21.
    after_gap = [week(i) for i in (0, 1, 2, 3, 6, 7, 8, 9, 10, 11)]
    assert not kept(one_song(week(8), after_gap))
    assert kept(one_song(week(9), after_gap))


def test_days_allow_gaps_of_three():
    def day(number: int) -> pd.Timestamp:
        return FIRST + pd.Timedelta(days=number)

    three = [day(i) for i in range(40) if i not in (10, 11)]
    four = [day(i) for i in range(40) if i not in (10, 11, 12)]
    assert kept(one_song(day(20), three, frequency="D"))
    assert not kept(one_song(day(20), four, frequency="D"))
    assert not kept(one_song(day(27), four, frequency="D"))  # 14 days after day 13
    assert kept(one_song(day(28), four, frequency="D"))


def test_the_chart_before_and_all_charts_of_the_horizon_must_be_on_hand():
    run = list(range(10))
    for missing, counts in ((3, True), (4, False), (6, False), (7, False), (8, True)):
        data = one_song(week(5), [week(i) for i in run if i != missing])
        assert kept(data) == counts, missing


@pytest.mark.parametrize(
    ("release", "latest", "counts"),
    [
        (-28, None, True),
        (-29, None, False),
        (0, None, True),
        (None, None, True),
        (+30, None, True),  # a re-release proves nothing
        (None, -28, True),  # known to the month only
        (None, -29, False),
        (None, +100, True),
    ],
)
def test_a_song_released_more_than_28_days_before_is_old(release: int | None, latest: int | None, counts: bool):
    days = [None if d is None else week(5) + pd.Timedelta(days=d) for d in (release, latest)]
    assert kept(one_song(week(5), [week(i) for i in range(10)], *days)) == counts


def test_the_earliest_release_of_any_version_decides():
    run = [week(i) for i in range(10)]
    old, new = week(5) - pd.Timedelta(days=400), week(5) - pd.Timedelta(days=3)
    for release, counts in ((old, False), (new, True)):
        data = dataset(
            tracks=tracks([("a", "A", new, None), ("a2", "A", release, None)]),
            curves=curves([("a", "US", week(5), 5)]),
            charts=charts({"US": run}),
        )
        assert kept(data) == counts


def test_a_full_date_up_to_the_debut_is_believed_over_another_versions_year():
    old = week(5) - pd.Timedelta(days=400)
    for ago, counts in ((0, True), (28, True), (-1, False)):
        release = week(5) - pd.Timedelta(days=ago)
        data = dataset(
            tracks=tracks([("a", "A", release, None), ("a2", "A", None, old)]),
            curves=curves([("a", "US", week(5), 5)]),
            charts=charts({"US": [week(i) for i in range(10)]}),
        )
        assert kept(data) == counts


def test_a_song_that_charted_elsewhere_more_than_28_days_before_is_old():
    run = [week(i) for i in range(20)]
    data = dataset(
        tracks=tracks([("a", "A", None, None), ("a2", "A", None, None)]),
        curves=curves([("a2", "GB", week(5), 5), ("a", "US", week(9), 5), ("a", "BR", week(10), 5)]),
        charts=charts({"US": run, "GB": run, "BR": run}),
    )
    assert find_debuts(data)["region"].tolist() == ["GB", "US"]


def test_versions_are_one_song_and_the_first_to_chart_names_it():
    run = [week(i) for i in range(20)]
    data = dataset(
        tracks=tracks(
            [("a1", "A", None, None), ("a2", "A", None, None), ("b1", "B", None, None), ("b2", "B", None, None)]
        ),
        curves=curves(
            [("a1", "US", week(6), 1), ("a2", "US", week(5), 90), ("b1", "US", week(5), 20), ("b2", "US", week(5), 10)]
        ),
        charts=charts({"US": run}),
    )
    found = find_debuts(data)
    assert found[["song_id", "track_id"]].to_numpy().tolist() == [["A", "a2"], ["B", "b2"]]
    assert (found["debut"] == week(5)).all()


def test_rows_that_show_no_chart_do_not_start_a_curve():
    rows = pd.DataFrame(
        {
            "track_id": "a",
            "region": "US",
            "date": [week(4), week(5), week(6)],
            "streams": [10.0, np.nan, 100.0],
            "rank": pd.array([pd.NA] * 3, "Int32"),
        }
    )
    data = dataset(
        tracks=tracks([("a", "A", None, None)]), curves=rows, charts=charts({"US": [week(i) for i in range(12)]})
    )
    assert find_debuts(data)["debut"].tolist() == [week(6)]


def test_of_two_versions_without_a_rank_the_more_streamed_names_the_song():
    rows = pd.DataFrame({"track_id": ["a", "b", "c"], "region": "US", "date": week(5), "streams": [50.0, 100.0, 60.0]})
    data = dataset(
        tracks=tracks([(name, "A", None, None) for name in "abc"]),
        curves=rows.assign(rank=pd.array([pd.NA] * 3, "Int32")),
        charts=charts({"US": [week(i) for i in range(12)]}),
    )
    assert find_debuts(data)["track_id"].tolist() == ["b"]


def test_a_dataset_whose_rows_show_no_chart_has_no_debuts():
    rows = pd.DataFrame({"track_id": ["a"], "region": "US", "date": week(5), "streams": 10.0})
    data = dataset(
        tracks=tracks([("a", "A", None, None)]),
        curves=rows.assign(rank=pd.array([pd.NA], "Int32")),
        charts=charts({"US": [week(i) for i in range(12)]}),
    )
    found = find_debuts(data)
    assert found.columns.tolist() == ["song_id", "track_id", "region", "debut"]
    assert len(found) == 0


def test_without_charts_the_dates_of_a_region_stand_for_them():
    background = [("z", "US", week(i), 50) for i in range(12)]
    data = dataset(
        tracks=tracks([("z", "Z", None, None), ("a", "A", None, None), ("b", "B", None, None)]),
        curves=curves([*background, ("a", "US", week(5), 5), ("b", "US", week(11), 5)]),
    )
    # Z is there from the first date on: when it came out is unknown. B's horizon is not over.
    assert find_debuts(data)["song_id"].tolist() == ["A"]


def twin(data: DatasetFolder) -> set[tuple]:
    """The definition, debut by debut, in plain loops."""
    assert data.curves is not None
    assert data.charts is not None
    step = pd.Timedelta(days=7 if data.frequency == "W" else 1)
    allowed = pd.Timedelta(days=14 if data.frequency == "W" else 3)
    song_of = dict(zip(data.tracks["track_id"], data.tracks["song_id"], strict=True))
    rows = [(song_of[r.track_id], r.region, r.date, r.rank, r.track_id) for r in data.curves.itertuples()]
    found = set()
    for song, region in {(r[0], r[1]) for r in rows}:
        _, _, debut, _, track = min((r for r in rows if r[:2] == (song, region)), key=lambda r: (r[2], r[3]))
        calendar = sorted(c.date for c in data.charts.itertuples() if c.region == region)
        start = debut
        for date in reversed([c for c in calendar if c < debut]):
            if start - date > allowed:
                break
            start = date
        versions = [t for t in data.tracks.itertuples() if t.song_id == song]
        full = [t.release_date for t in versions if t.release_date is not pd.NaT]
        latest = [t.release_date if t.release_date is not pd.NaT else t.release_latest for t in versions]
        latest = [d for d in latest if d is not pd.NaT]
        limit = debut - pd.Timedelta(days=28)
        known = bool(full) and min(full) <= debut
        old = (full and min(full) < limit) or (not known and latest and min(latest) < limit)
        old = old or min(r[2] for r in rows if r[0] == song) < limit
        horizon = [debut + i * step for i in range(-1, data.horizon)]
        if all(d in calendar for d in horizon) and (debut - start).days >= 15 and not old:
            found.add((song, track, region, debut))
    return found


def random_market(seed: int, frequency: str = "W") -> DatasetFolder:
    """Songs of one or two versions that enter three regions at scattered dates; holes in the charts."""
    rng = np.random.default_rng(seed)
    step = 7 if frequency == "W" else 1
    periods = 60
    # Regions may end their weeks on different days.
    start = {"US": FIRST, "GB": FIRST, "BR": FIRST + pd.Timedelta(days=2)}
    dates = {
        r: [s + pd.Timedelta(days=step * i) for i in range(periods) if rng.random() < 0.93] for r, s in start.items()
    }
    names, rows = [], []
    for song in range(60):
        came = rng.integers(0, periods)
        for version in range(rng.integers(1, 3)):
            track = f"t{song}-{version}"
            release = FIRST + pd.Timedelta(days=int(step * came + rng.integers(-40, 10)))
            known = rng.random()
            names.append((track, f"s{song}", release if known < 0.4 else None, release if known > 0.7 else None))
            for region, on_hand in dates.items():
                entry = came + rng.integers(0, 3) * rng.integers(0, 4)
                rows += [
                    (track, region, date, rng.integers(1, 200))
                    for date in on_hand
                    if 0 <= (date - start[region]).days / step - entry < 4 and rng.random() < 0.8
                ]
    return dataset(frequency, tracks=tracks(names), curves=curves(rows), charts=charts(dates))


@pytest.mark.parametrize("frequency", ["W", "D"])
@pytest.mark.parametrize("seed", range(3))
def test_debuts_equal_those_of_a_plain_twin(seed: int, frequency: str):
    data = random_market(seed, frequency)
    found = find_debuts(data)
    assert set(found.itertuples(index=False, name=None)) == twin(data)
    assert len(found) == len(set(zip(found["song_id"], found["region"], strict=True)))
    # Some are kept, and each kind of rule drops some.
    assert 20 < len(found) < 150


def test_the_order_of_rows_changes_nothing():
    data = random_market(1)
    shuffled = dataset(**{n: getattr(data, n).sample(frac=1, random_state=5) for n in ("tracks", "curves", "charts")})
    pd.testing.assert_frame_equal(make_splits(data), make_splits(shuffled))


def market_of_debuts(debuts: list[tuple[str, str, float]]) -> DatasetFolder:
    """(song, region, week): charts without a hole over four years."""
    run = [week(i) for i in range(210)]
    regions = sorted({region for _, region, _ in debuts})
    return dataset(
        tracks=tracks([(s.lower(), s, None, None) for s in sorted({s for s, _, _ in debuts})]),
        curves=curves([(song.lower(), region, week(w), 5) for song, region, w in debuts]),
        charts=charts(dict.fromkeys(regions, run)),
    )


def sides(data: DatasetFolder, **kwargs: object) -> dict[tuple[str, str], str]:
    found = make_splits(data, **kwargs)
    return dict(zip(zip(found["track_id"], found["region"], strict=True), found["split"], strict=True))


def test_time_decides_the_split():
    # Horizon 3: week 97 + 2 ends before week 100, week 98 does not. Six months before week 97 is between 70 and 71.
    weeks = {"A": 10, "B": 70, "C": 72, "D": 97, "E": 98, "F": 99, "G": 100, "H": 110, "I": 111}
    data = market_of_debuts([(song, "US", w) for song, w in weeks.items()])
    found = sides(data, test_from=week(100), test_to=week(110))
    assert [found[song.lower(), "US"] for song in weeks] == [
        "train", "train", "validation", "validation", "none", "none", "test", "test", "none",
    ]  # fmt: skip


def test_no_song_is_on_two_sides():
    # Six months before week 97 falls between weeks 70 and 71; week 97 is the last that ends before the cut at 100.
    data = market_of_debuts(
        [
            ("A", "US", 70), ("A", "GB", 73),  # train, then validation by time: joins train
            ("B", "US", 97), ("B", "GB", 100),  # validation, then test by time: the later row is of no use
            ("C", "US", 99), ("C", "GB", 101),  # straddles the cut, then test: nothing was trained on
            ("D", "US", 100), ("D", "GB", 103),
            ("E", "US", 96), ("E", "GB", 98),  # validation, then straddles
            ("F", "US", 40),  # train spans more than a year
        ]
    )  # fmt: skip
    found = sides(data, test_from=week(100), test_to=week(110))
    assert (found["a", "US"], found["a", "GB"]) == ("train", "train")
    assert (found["b", "US"], found["b", "GB"]) == ("validation", "none")
    assert (found["c", "US"], found["c", "GB"]) == ("none", "test")
    assert (found["d", "US"], found["d", "GB"]) == ("test", "test")
    assert (found["e", "US"], found["e", "GB"]) == ("validation", "none")


def test_a_song_that_trains_is_not_tested_on():
    # Train runs from week 93 to 96; its last quarter begins after week 95.
    data = market_of_debuts([("A", "US", 93), ("B", "US", 95), ("B", "GB", 99), ("C", "US", 96), ("D", "US", 99)])
    found = sides(data, test_from=week(99))
    assert [found[key] for key in (("a", "US"), ("b", "US"), ("b", "GB"), ("c", "US"), ("d", "US"))] == [
        "train", "train", "none", "validation", "test",
    ]  # fmt: skip


def test_a_short_history_keeps_most_of_its_debuts_for_training():
    data = market_of_debuts([(f"S{i}", "US", 5 + i) for i in range(40)])
    found = pd.Series(sides(data, test_from=week(40)))
    assert (found == "train").sum() > 2 * (found == "validation").sum() > 0


@pytest.mark.parametrize(("span", "start"), [(364, 364 - 91), (365, 365 - 180), (400, 400 - 180)])
def test_validation_is_the_last_quarter_of_less_than_a_year_and_the_last_six_months_of_more(span: int, start: int):
    # Six months before 2019-07-31 is 2019-01-31; the day after it, 180 days before, is the first to validate.
    last = pd.Timestamp("2019-07-31")
    days = {"first": span, "before": span - start + 1, "at": span - start, "last": 0, "test": -10}
    data = dataset(
        "D",
        tracks=tracks([(name, name, None, None) for name in days]),
        curves=curves([(name, "US", last - pd.Timedelta(days=ago), 5) for name, ago in days.items()]),
        charts=charts({"US": list(pd.date_range(last - pd.Timedelta(days=440), last + pd.Timedelta(days=20)))}),
    )
    found = sides(data, test_from=last + pd.Timedelta(days=10))
    assert [found[name, "US"] for name in days] == ["train", "train", "validation", "validation", "test"]


def test_by_default_about_a_fifth_of_the_debuts_is_test():
    data = market_of_debuts([(f"S{i}", "US", 5 + i % 150) for i in range(300)])
    found = make_splits(data)
    assert (found["split"] == "test").mean() == pytest.approx(0.2, abs=0.01)
    assert found.loc[found["split"] == "test", "debut"].max() == week(154)
    until = make_splits(data, test_to=week(103))
    assert (until["split"] == "test").sum() == pytest.approx(0.2 * (until["debut"] <= week(103)).sum(), abs=2)


def test_the_default_cut_is_where_the_share_of_test_comes_closest_to_a_fifth():
    weeks = [10] * 8 + [11, 12]
    data = market_of_debuts([(f"S{i}", "US", w) for i, w in enumerate(weeks)])
    found = make_splits(data)
    assert (found["split"] == "test").tolist() == (found["debut"] >= week(11)).tolist()


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.integers(20, 55), st.integers(1, 40))
def test_splits_never_cross_a_cut_nor_part_a_song(seed: int, first_week: int, length: int):
    data = random_market(seed)
    cut, end = week(first_week), week(first_week + length)
    debuts = find_debuts(data)
    if not ((debuts["debut"] >= cut) & (debuts["debut"] <= end)).any():
        return
    found = make_splits(data, cut, end).merge(data.tracks[["track_id", "song_id"]], on="track_id")
    assert len(found) == len(debuts)
    used = found[found["split"] != "none"]
    assert (used.groupby("song_id")["split"].nunique() == 1).all()
    learned = found["split"].isin(["train", "validation"])
    assert (found.loc[learned, "debut"] + pd.Timedelta(days=14) < cut).all()
    test = found["split"] == "test"
    assert found.loc[test, "debut"].between(cut, end).all()
    # Only rows that the rules name are left out.
    straddles = (found["debut"] + pd.Timedelta(days=14) >= cut) & (found["debut"] < cut) | (found["debut"] > end)
    elsewhere = found["song_id"].isin(found.loc[learned, "song_id"])
    assert (straddles | elsewhere)[found["split"] == "none"].all()


def test_the_last_six_months_of_train_validate():
    data = market_of_debuts([(f"S{i}", "US", 5 + i) for i in range(150)])
    found = make_splits(data, week(130))
    last = found.loc[found["split"].isin(["train", "validation"]), "debut"].max()
    start = last - pd.DateOffset(months=6)
    assert (found.loc[found["split"] == "validation", "debut"] > start).all()
    assert (found.loc[found["split"] == "train", "debut"] <= start).all()


def test_wrong_windows_are_refused():
    data = market_of_debuts([("A", "US", 10), ("B", "US", 20)])
    with pytest.raises(InputError, match=r"^test_from 'soon' is no date; write it as 2020-01-31$"):
        make_splits(data, "soon")
    with pytest.raises(InputError, match=r"^test_to 'later' is no date"):
        make_splits(data, "2018-04-01", "later")
    with pytest.raises(
        InputError, match=r"no debut lies in the test window 2030-01-01 to .*; the 2 debuts run from 2018-03-15"
    ):
        make_splits(data, datetime.date(2030, 1, 1), "2031-01-01")
    with pytest.raises(
        InputError, match=r"no debut lies in the test window 2018-01-01 to 2018-01-01; the 2 debuts run from 2018-03-15"
    ):
        make_splits(data, test_to="2018-01-01")
    with pytest.raises(InputError, match=r"no curves\.parquet"):
        find_debuts(dataset(tracks=data.tracks))


def test_a_dataset_without_debuts_has_empty_splits(tmp_path: Path):
    data = one_song(week(1), [week(0), week(1)])
    found = make_splits(data)
    assert len(found) == 0
    write_dataset(tmp_path, tracks=data.tracks, curves=data.curves, charts=data.charts, splits=found, info=data.info)
    assert len(read_dataset(tmp_path).splits) == 0


def undated(artists: list[str | None], songs: list[str] | None = None) -> DatasetFolder:
    ids = [f"t{i}" for i in range(len(artists))]
    frame = pd.DataFrame({"track_id": ids, "song_id": songs or ids, "artist": artists})
    targets = pd.DataFrame({"track_id": ids, "region": "GLOBAL", "total": 1.0, "debut_rank": np.nan})
    return dataset(tracks=frame.assign(title=None, isrc=None, release_date=pd.NaT), targets=targets)


def test_data_without_dates_are_split_by_artist():
    rng = np.random.default_rng(0)
    artists = [f"Artist {i}" for i in rng.integers(0, 2000, 6000)]
    data = undated(artists)
    found = make_splits(data)
    assert found["debut"].isna().all()
    by_artist = found.merge(data.tracks, on="track_id").groupby("artist")["split"]
    assert (by_artist.nunique() == 1).all()
    shares = by_artist.first().value_counts(normalize=True)
    assert shares["train"] == pytest.approx(0.70, abs=0.03)
    assert shares["validation"] == pytest.approx(0.15, abs=0.03)
    assert shares["test"] == pytest.approx(0.15, abs=0.03)
    pd.testing.assert_frame_equal(found, make_splits(data))
    assert (make_splits(data, seed=1)["split"] != found["split"]).mean() > 0.3


def test_adding_tracks_moves_no_artist():
    artists = [f"Artist {i}" for i in range(50)]
    before = make_splits(undated(artists)).set_index("track_id")["split"]
    after = make_splits(undated([*artists, "New One", "Artist 3"])).set_index("track_id")["split"]
    assert after[before.index].equals(before)
    assert after["t51"] == after["t3"]


@pytest.mark.parametrize(
    ("seed", "sides"),
    [(0, ["train", "train", "validation", "test"]), (1, ["train", "test", "validation", "train"])],
)
def test_the_side_of_an_artist_is_the_same_in_every_version(seed: int, sides: list[str]):
    artists = ["Queen", "Madonna", "Pulp", "Beyoncé"]
    assert make_splits(undated(artists), seed=seed)["split"].tolist() == sides
    assert make_splits(undated(artists))["split"].tolist() == ["train", "train", "validation", "test"]


def test_artists_who_share_a_song_stay_together():
    # A chain: Ann and Ben share song x, Ben and Cleo song y; Dora is alone.
    artists = ["Ann", "Ann", "Ben", "Ben", "Cleo, Ann", None]
    songs = ["v", "x", "x", "y", "y", "w"]
    for seed in range(20):
        found = make_splits(undated(artists, songs), seed=seed)
        assert found["split"][:5].nunique() == 1
    assert len({make_splits(undated(artists, songs), seed=s)["split"].iloc[5] for s in range(20)}) > 1


def real_charts() -> DatasetFolder:
    folder = SHARED / "data" / "charts"
    keys = SHARED / "bench" / "bench.py"
    if not folder.is_dir() or not keys.is_file():
        pytest.skip("no real charts beside the repository")
    spec = importlib.util.spec_from_file_location("bench_song_keys", keys)
    assert spec is not None
    assert spec.loader is not None
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    info = pd.read_parquet(folder / "tracks.parquet")
    window = release_window(info["release_date"])
    full = window["earliest"] == window["latest"]
    songs = pd.DataFrame(
        {
            "track_id": info["track_id"],
            "song_id": bench.song_table(info)["song"],
            "title": info["title"],
            "artist": info["artist"],
            "isrc": None,
            "release_date": window["earliest"].where(full),
            "release_latest": window["latest"].where(~full),
        }
    )
    rows = pd.read_parquet(folder / "weekly.parquet").assign(region=lambda f: f["region"].str.upper())
    by_chart = rows.groupby(["region", "date"])["streams"]
    end = rows[rows["rank"].between(195, 200)].groupby(["region", "date"])["streams"].mean()
    on_hand = pd.DataFrame({"lowest": by_chart.min(), "size": by_chart.size(), "floor": end})
    on_hand["floor"] = on_hand["floor"].fillna(on_hand["lowest"])
    return dataset(horizon=12, tracks=songs, curves=rows, charts=on_hand.reset_index())


def test_debuts_and_splits_of_the_real_charts_are_those_of_the_benchmark():
    data = real_charts()
    found = make_splits(data, "2020-01-01", "2020-10-08")
    counts = found["split"].value_counts()
    assert len(found) == 88_856
    assert counts["train"] + counts["validation"] == 62_758
    assert counts["test"] == 20_785
    assert counts["none"] == 5_313
