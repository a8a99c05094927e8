"""Whether released songs chart at all: the label by hand, on which side it counts, and MP2 that learns it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from heard_charts import SILENT, heard_charts
from hypothesis import given, settings
from hypothesis import strategies as st
from test_mp2_recipe import QUICK, run

from mp3model import MP2Model
from mp3model.tables.charting import with_charted
from mp3model.tables.curves import popularity_targets
from mp3model.tables.folder import SCHEMAS, DatasetFolder, write_dataset
from mp3model.tables.schema import validate

FIRST = pd.Timestamp("2020-01-02")  # a Thursday, as chart weeks end
WEEKS = 60
VALIDATION, TEST = 30, 45


def week(number: float) -> pd.Timestamp:
    return FIRST + pd.Timedelta(days=round(7 * number))


def market(
    songs: dict[str, tuple[float | None, dict[str, int]]],
    splits: dict[str, str] | None = None,
    without: tuple[int, ...] = (),
    silent: tuple[str, ...] = (),
) -> DatasetFolder:
    """Song → (week of its release, region → week of its first row); charts of US and GB but those `without`."""
    tracks = pd.DataFrame(
        [(f"{song}-1", song, None, song, None, None if at is None else week(at)) for song, (at, _) in songs.items()],
        columns=["track_id", "song_id", "title", "artist", "isrc", "release_date"],
    )
    tracks["release_date"] = tracks["release_date"].astype("datetime64[s]")
    rows = [
        (f"{song}-1", region, week(first + more), 100.0, 5)
        for song, (_, debuts) in songs.items()
        for region, first in debuts.items()
        for more in range(3)
        if first + more not in without
    ]
    charts = [
        (region, week(number), 50.0, 40.0, 200)
        for region in ("US", "GB")
        for number in range(WEEKS)
        if number not in without
    ]
    debuts = [
        (f"{song}-1", region, week(first), (splits or {}).get(song, by_week(first)))
        for song, (_, debuts) in songs.items()
        for region, first in debuts.items()
    ]
    # Two songs that say where validation and test begin.
    for name, number, split in (("v", VALIDATION, "validation"), ("t", TEST, "test")):
        tracks.loc[len(tracks)] = [name, name, None, name, None, pd.NaT]
        rows += [(name, region, week(number + more), 100.0, 9) for region in ("US", "GB") for more in range(3)]
        debuts.append((name, "US", week(number), split))
    previews = [(name, 0, 0, 0, 9, "0") for name in tracks["track_id"] if name.removesuffix("-1") not in silent]
    frames = {
        "tracks": tracks,
        "curves": pd.DataFrame(rows, columns=["track_id", "region", "date", "streams", "rank"]),
        "charts": pd.DataFrame(charts, columns=["region", "date", "floor", "lowest", "size"]),
        "splits": pd.DataFrame(debuts, columns=["track_id", "region", "debut", "split"]),
        "previews": pd.DataFrame(previews, columns=["track_id", "preview", "shard", "offset", "samples", "sha256"]),
    }
    tables = {name: validate(frame, SCHEMAS[name], Path(name)) for name, frame in frames.items()}
    return DatasetFolder(path=Path("made-up"), info={"frequency": "W", "horizon": 3}, **tables)


def by_week(number: float) -> str:
    return "test" if number >= TEST else "validation" if number >= VALIDATION else "train"


def labels(dataset: DatasetFolder) -> dict[tuple[str, str], tuple[str, float]]:
    """(song, region) → (split, charted) of those that have a label."""
    table = with_charted(popularity_targets(dataset), dataset)
    known = table[table["charted"].notna()]
    assert not known.duplicated(["song_id", "region"]).any()
    return {
        (song, region): (split, charted)
        for song, region, split, charted in known[["song_id", "region", "split", "charted"]].itertuples(index=False)
    }


@pytest.mark.parametrize(("debut", "expected"), [(6, 1.0), (9, 1.0), (10, 0.0), (None, 0.0), (5, None)])
def test_a_song_charts_if_it_does_so_within_28_days_of_its_release(debut: int | None, expected: float | None):
    # Released on the day after week 5 ended; its 28 days hold the charts of weeks 6 to 9.
    found = labels(market({"a": (5 + 1 / 7, {} if debut is None else {"US": debut})}))
    assert found.get(("a", "US"), (None, None))[1] == expected
    assert found["a", "GB"] == ("train", 0.0)


def test_what_is_not_on_record_has_no_label():
    songs: dict = {"a": (5.5, {"US": 6})}
    assert set(labels(market(songs))) == {("a", "US"), ("a", "GB")}
    assert not labels(market(songs, without=(8,))), "a chart of its 28 days is missing"
    assert not labels(market(songs, silent=("a",))), "nobody has heard it"
    assert not labels(market({"a": (None, {"US": 6})})), "no release date"
    assert not labels(market({"a": (-3.0, {"US": 6})})), "released before the first chart"
    dataset = market(songs)
    for absent in ("charts", "splits", "previews"):
        part = replace(dataset, **{absent: None})
        told = popularity_targets(part, dataset.splits)
        assert with_charted(told, part)["charted"].isna().all()


@pytest.mark.parametrize(
    ("released", "side"),
    [
        (10, "train"),
        (VALIDATION - 0.2, "train"),
        (VALIDATION, "validation"),
        (TEST - 4.2, "validation"),
        (TEST - 3.9, None),
        (TEST, "test"),
        (WEEKS - 6, "test"),
        (WEEKS - 3, None),
    ],
)
def test_a_song_that_never_charts_counts_where_its_release_lies(released: float, side: str | None):
    found = labels(market({"a": (released, {})}))
    assert {split for split, _ in found.values()} == ({side} if side else set())


def test_a_song_keeps_the_side_of_its_debut():
    # Of its debut elsewhere too, though it came out while others validated.
    found = labels(market({"a": (VALIDATION + 0.5, {"US": VALIDATION + 1})}, splits={"a": "train"}))
    assert found == {("a", "US"): ("train", 1.0), ("a", "GB"): ("train", 0.0)}
    # A debut that is on no side leaves the song to its release, and keeps its own row without a label.
    dataset = market({"a": (VALIDATION + 0.5, {"US": VALIDATION + 1})}, splits={"a": "none"})
    table = with_charted(popularity_targets(dataset), dataset)
    rows = table[(table["song_id"] == "a") & (table["region"] == "US")].set_index("split")["charted"]
    assert np.isnan(rows["none"])
    assert rows["validation"] == 1.0


def test_the_rows_of_debuts_stay_as_they_were():
    dataset = market({"b": (5.5, {"US": 6, "GB": 20}), "a": (5.5, {"US": 7}), "c": (8.2, {})})
    before = popularity_targets(dataset)
    after = with_charted(before, dataset)
    pd.testing.assert_frame_equal(after[list(before.columns)].iloc[: len(before)], before, check_dtype=False)
    more = after.iloc[len(before) :]
    assert more[["total", "debut_rank", "debut", "track_id"]].isna().all(axis=None)
    assert set(more["song_id"] + more["region"]) == {"aGB", "cUS", "cGB"}
    # First there in week 20, long after its release: a debut, but no song that charts when it comes out.
    assert after.loc[(after["song_id"] == "b") & (after["region"] == "GB"), "charted"].tolist() == [0.0]


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 58), st.integers(0, 8)), min_size=1, max_size=12), st.integers(0, 1000))
def test_nothing_from_the_test_window_moves_a_label_that_is_learnt_from(songs: list[tuple[int, int]], seed: int):
    described = {
        f"s{number}": (released + 0.3, {"US": min(released + 1 + later, 56)} if later < 7 else {})
        for number, (released, later) in enumerate(songs)
    }
    before = labels(market(described))
    draw = np.random.default_rng(seed)
    moved = {
        name: (
            (draw.uniform(TEST + 0.1, WEEKS), {})
            if released >= TEST
            else (released, {r: int(draw.integers(TEST, 56)) if at >= TEST else at for r, at in debuts.items()})
        )
        for name, (released, debuts) in described.items()
    }
    # Sides are the splits' own affair and stay.
    sides = {name: by_week(debuts["US"]) for name, (_, debuts) in described.items() if debuts}
    after = labels(market(moved, splits=sides))
    learnt = {place for place, (split, _) in before.items() if split in ("train", "validation")}
    assert {place: before[place] for place in learnt} == {
        place: found for place, found in after.items() if found[0] in ("train", "validation")
    }


@pytest.mark.slow
def test_mp2_learns_it_beside_its_targets_and_says_how_well(tmp_path):
    dataset = heard_charts(tmp_path / "data")
    tables = {name: getattr(dataset, name) for name in ("tracks", "curves", "charts", "splits")}
    # As if every third track had never charted.
    gone = dataset.tracks["track_id"][::3]
    tables |= {name: tables[name][~tables[name]["track_id"].isin(gone)] for name in ("curves", "splits")}
    dataset = replace(dataset, **tables)
    write_dataset(tmp_path / "data", **tables, info={"frequency": "W", "horizon": dataset.horizon, "sources": ["made"]})
    words = ["--data", str(tmp_path / "data"), "--epochs", "1", "--folds", "0", *QUICK]
    run(*words, "--output_dir", str(tmp_path / "with"))
    run(*words, "--output_dir", str(tmp_path / "without"), "--charted", "false")
    model = MP2Model.from_pretrained(tmp_path / "with" / "model")
    assert model.config.targets == ("total", "debut_rank", "charted")
    reports = {name: json.loads((tmp_path / name / "report.json").read_text()) for name in ("with", "without")}
    assert list(reports["with"]["test"]) == ["total", "debut_rank", "charted"]
    assert list(reports["without"]["test"]) == ["total", "debut_rank"]
    told = with_charted(popularity_targets(dataset), dataset)
    asked = told[(told["split"] == "test") & told["charted"].notna()]
    asked = asked[asked["song_id"].str.removeprefix("song-").astype(int) % SILENT != 0]
    assert reports["with"]["test"]["charted"]["n_rows"] == len(asked)
    assert asked["charted"].nunique() == 2
    # Songs that never chart say nothing of totals: those are scored on the same rows as without them.
    for target in ("total", "debut_rank"):
        assert len({reports[name]["test"][target]["n_rows"] for name in reports}) == 1
    assert "charted on the test split" in (tmp_path / "with" / "table.txt").read_text()
