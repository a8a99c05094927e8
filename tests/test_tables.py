"""The dataset folder: what is written comes back the same, and what is damaged is refused by file, row and column."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mp3model.files import InputError, sha256_of
from mp3model.tables.folder import SCHEMAS, read_dataset, write_dataset
from mp3model.tables.schema import REGIONS, Column, Schema, places, validate
from mp3model.tables.tracks import artist_key, artist_keys, guest_keys, release_window

WEEKS = pd.date_range("2020-01-02", periods=4, freq="7D")  # Thursdays


def tables() -> dict[str, pd.DataFrame]:
    """Two songs (one with two versions) in two regions, four weeks."""
    tracks = pd.DataFrame(
        {
            "track_id": ["a1", "a2", "b1"],
            "song_id": ["a", "a", "b"],
            "title": ["Alpha", "Alpha (Remaster)", None],
            "artist": ["Ann", "Ann", "Ben, Cleo"],
            "isrc": [None, None, "QZAAA2000001"],
            "release_date": pd.to_datetime(["2020-01-01", None, "2019-12-27"]),
            "x_energy": [0.5, np.nan, 1.0],
        }
    )
    curves = pd.DataFrame(
        {
            "track_id": ["a1", "a1", "a2", "b1", "b1"],
            "region": ["US", "GB", "US", "US", "GB"],
            "date": [WEEKS[1], WEEKS[1], WEEKS[2], WEEKS[2], WEEKS[3]],
            "streams": [1000.0, np.nan, 800.0, 500.0, 300.0],
            "rank": pd.array([1, 2, 2, 3, pd.NA], dtype="Int32"),
        }
    )
    grid = pd.MultiIndex.from_product([["GB", "US"], WEEKS], names=["region", "date"]).to_frame(index=False)
    charts = grid.assign(floor=250.0, lowest=200.0, size=200)
    targets = pd.DataFrame(
        {
            "track_id": ["a1", "b1"],
            "region": "GLOBAL",
            "total": [10.0, 20.0],
            "debut_rank": np.nan,
            "y_likes": [1.0, 2.0],
        }
    )
    splits = pd.DataFrame(
        {"track_id": ["a1", "b1"], "region": ["US", "US"], "debut": [WEEKS[1], WEEKS[2]], "split": ["train", "test"]}
    )
    return {"tracks": tracks, "curves": curves, "charts": charts, "targets": targets, "splits": splits}


def previews() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "track_id": ["a1", "b1"],
            "preview": 0,
            "shard": 0,
            "offset": [0, 100],
            "samples": [100, 50],
            "sha256": "0" * 64,
        }
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A good dataset folder with a bank of 150 samples."""
    previews().to_parquet(tmp_path / "previews.parquet")
    np.save(tmp_path / "audio-00000.npy", np.zeros(150, np.int16))
    write_dataset(tmp_path, **tables(), info={"frequency": "W", "horizon": 3, "sources": ["made up"]})
    return tmp_path


def test_a_folder_comes_back_as_it_was_written(folder: Path):
    dataset = read_dataset(folder)
    for name, written in tables().items():
        table = getattr(dataset, name)
        written = written.sort_values(list(SCHEMAS[name].key)).reset_index(drop=True)
        pd.testing.assert_frame_equal(table, written[table.columns].astype(table.dtypes.to_dict()))
    assert dataset.regions == ["GB", "GLOBAL", "US"]
    assert (dataset.frequency, dataset.horizon) == ("W", 3)
    assert dataset.info["sources"] == ["made up"]


def test_types_are_settled_whatever_was_given(folder: Path):
    dataset = read_dataset(folder)
    assert str(dataset.curves["date"].dtype) == "datetime64[s]"
    assert str(dataset.tracks["release_date"].dtype) == "datetime64[s]"
    assert (str(dataset.curves["rank"].dtype), str(dataset.charts["size"].dtype)) == ("Int32", "Int32")
    assert str(dataset.curves["streams"].dtype) == "float64"
    assert isinstance(dataset.tracks["title"].dtype, pd.StringDtype)
    assert dataset.tracks["title"].isna().tolist() == [False, False, True]


def test_the_horizon_depends_on_the_frequency_unless_given(tmp_path: Path):
    for frequency, horizon in (("W", 12), ("D", 84)):
        write_dataset(tmp_path, tracks=tables()["tracks"], targets=tables()["targets"], info={"frequency": frequency})
        assert read_dataset(tmp_path).horizon == horizon


def test_counts_and_hashes_are_those_of_the_files(folder: Path):
    info = json.loads((folder / "dataset.json").read_text())
    assert info["counts"] == {"tracks": 3, "curves": 5, "charts": 8, "targets": 2, "splits": 2, "previews": 2}
    assert set(info["hashes"]) == {f"{name}.parquet" for name in info["counts"]}
    for file, digest in info["hashes"].items():
        assert sha256_of(folder / file) == digest


def test_the_order_of_the_rows_given_does_not_change_a_byte(tmp_path: Path):
    for name, seed in (("one", 0), ("two", 1)):
        shuffled = {k: v.sample(frac=1, random_state=seed) for k, v in tables().items()}
        write_dataset(tmp_path / name, **shuffled, info={"frequency": "W"})
    for file in sorted((tmp_path / "one").iterdir()):
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes(), file.name


def test_writing_again_drops_tables_that_are_not_given_but_not_the_split_of_the_user(folder: Path):
    write_dataset(folder, tracks=tables()["tracks"], targets=tables()["targets"], info={"frequency": "W"})
    dataset = read_dataset(folder)
    assert dataset.curves is None
    assert dataset.charts is None
    assert dataset.splits is not None
    assert dataset.previews is not None


def test_tables_that_fail_leave_the_old_folder_as_it_was(folder: Path):
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    bad = tables()
    bad["curves"]["streams"] = -1.0
    with pytest.raises(InputError, match="streams"):
        write_dataset(folder, **bad, info={"frequency": "W"})
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_what_else_a_folder_holds_stays_when_its_tables_are_replaced(folder: Path):
    (folder / "notes").mkdir()
    (folder / "notes" / "mine.txt").write_text("kept")
    bank = {file.name: file.read_bytes() for file in folder.iterdir() if file.name.startswith(("audio", "previews"))}
    fewer = tables()
    fewer.pop("targets")
    write_dataset(folder, **fewer, info={"frequency": "W"})
    assert read_dataset(folder).targets is None
    assert (folder / "notes" / "mine.txt").read_text() == "kept"
    assert all((folder / name).read_bytes() == content for name, content in bank.items())
    assert not list(folder.parent.glob(f".{folder.name}*"))


def test_where_folders_cannot_be_swapped_tables_are_replaced_one_by_one(folder: Path, monkeypatch):
    monkeypatch.setattr("mp3model.tables.folder.exchanged", lambda one, other: False)
    fewer = tables()
    fewer.pop("targets")
    write_dataset(folder, **fewer, info={"frequency": "W"})
    assert read_dataset(folder).targets is None
    assert not list(folder.parent.glob(f".{folder.name}*"))


def with_value(table: str, column: str, row: int, value: object):
    def damage(frames: dict[str, pd.DataFrame]) -> None:
        frames[table][column] = frames[table][column].astype(object)
        frames[table].loc[row, column] = value

    return damage


def with_column(table: str, column: str, values: object):
    def damage(frames: dict[str, pd.DataFrame]) -> None:
        frames[table][column] = values

    return damage


def without(table: str, column: str):
    def damage(frames: dict[str, pd.DataFrame]) -> None:
        frames[table] = frames[table].drop(columns=column)

    return damage


def repeated(table: str):
    def damage(frames: dict[str, pd.DataFrame]) -> None:
        frames[table] = pd.concat([frames[table], frames[table].iloc[[0]]])

    return damage


TOMORROW = pd.Timestamp.today().normalize() + pd.Timedelta(days=1)
DAMAGES = {
    "a missing column": (without("curves", "rank"), "curves.parquet", "'rank'", "missing; add it", "track_id, region"),
    "a missing song": (without("tracks", "song_id"), "tracks.parquet", "'song_id'", "missing; add it"),
    "an unknown column": (with_column("curves", "plays", 1), "curves.parquet", "'plays'", "no such column", "remove"),
    "an audio descriptor as text": (
        with_column("tracks", "x_key", ["C", "D", "E"]), "tracks.parquet", "row 0", "'x_key' = 'C'", "not a number",
    ),
    "streams as text": (
        with_column("curves", "streams", list("12345")), "row 0", "track_id 'a1'", "'streams' = '1'", "not a number",
    ),
    "streams as truth values": (with_column("curves", "streams", True), "'streams' = True", "not a number"),
    "ids as numbers": (with_column("tracks", "track_id", [1, 2, 3]), "tracks.parquet", "'track_id' = 1", "not text"),
    "dates as text": (with_column("curves", "date", "2020-01-09"), "'date' = '2020-01-09'", "not a date"),
    "dates with a zone": (
        lambda f: f.update(curves=f["curves"].assign(date=f["curves"]["date"].dt.tz_localize("UTC"))),
        "'date'", "time zone", "drop",
    ),
    "a time of day": (
        with_column("curves", "date", [*[WEEKS[1]] * 4, WEEKS[1] + pd.Timedelta(hours=6)]),
        "row 4", "b1", "'date' = 2020-01-09 06:00:00", "time of day", "whole days",
    ),
    "a repeated track": (repeated("tracks"), "tracks.parquet", "row 3 (track_id 'a1')", "repeats the key", "keep one"),
    "a repeated curve row": (
        repeated("curves"), "curves.parquet", "row 5 (track_id 'a1', region 'US', date 2020-01-09)", "repeats the key",
    ),
    "a repeated chart": (repeated("charts"), "charts.parquet", "region 'GB', date 2020-01-02", "repeats the key"),
    "a repeated target": (repeated("targets"), "targets.parquet", "repeats the key"),
    "a repeated split": (repeated("splits"), "splits.parquet", "repeats the key"),
    "a missing id": (with_value("tracks", "track_id", 1, None), "row 1", "'track_id' = missing", "may not be missing"),
    "an empty id": (with_value("tracks", "song_id", 1, ""), "row 1", "'song_id' = ''", "is empty"),
    "a missing date": (with_value("curves", "date", 2, None), "row 2", "'date' = missing", "may not be missing"),
    "a missing floor": (with_value("charts", "floor", 0, None), "charts.parquet", "'floor' = missing"),
    "negative streams": (with_value("curves", "streams", 3, -5.0), "row 3", "'streams' = -5.0", "below 0", "unknown"),
    "a negative total": (with_value("targets", "total", 1, -1.0), "targets.parquet", "'total' = -1.0", "below 0"),
    "infinite streams": (with_value("curves", "streams", 0, np.inf), "row 0", "'streams' = inf", "is infinite"),
    "an infinite descriptor": (with_value("tracks", "x_energy", 2, -np.inf), "'x_energy' = -inf", "is infinite"),
    "rank zero": (with_value("curves", "rank", 1, 0), "row 1", "'rank' = 0", "below 1", "count from 1"),
    "half a rank": (with_column("curves", "rank", [1, 2, 3, 4.5, 5]), "row 3", "'rank' = 4.5", "no whole number"),
    "debut rank zero": (with_value("targets", "debut_rank", 0, 0.0), "'debut_rank' = 0.0", "below 1"),
    "a floor of zero": (with_value("charts", "floor", 2, 0.0), "row 2", "'floor' = 0.0", "not above 0"),
    "an empty chart": (with_value("charts", "size", 2, 0), "row 2", "'size' = 0", "below 1"),
    "a future row": (
        with_value("curves", "date", 0, TOMORROW), "row 0", f"'date' = {TOMORROW.date()}", "in the future", "drop",
    ),
    "a future chart": (with_value("charts", "date", 0, TOMORROW), "charts.parquet", "row 0", "in the future"),
    "a release in the year 3000": (
        with_value("tracks", "release_date", 0, pd.Timestamp("3000-01-01")), "'release_date' = 3000-01-01", "2099",
    ),
    "a release in 1800": (with_value("tracks", "release_date", 0, pd.Timestamp("1800-01-01")), "before 1900"),
    "a small region": (with_value("curves", "region", 1, "us"), "row 1", "'region' = 'us'", "use 'US'"),
    "a common wrong code": (with_value("curves", "region", 1, "UK"), "'region' = 'UK'", "use 'GB'"),
    "the world in small letters": (with_value("targets", "region", 0, "global"), "'region' = 'global'", "use 'GLOBAL'"),
    "a country by name": (with_value("splits", "region", 1, "Brazil"), "'region' = 'Brazil'", "such as 'US'"),
    "a curve of an unknown track": (
        with_value("curves", "track_id", 4, "zz"), "curves.parquet", "row 4", "'zz'", "not in tracks.parquet",
    ),
    "a target of an unknown track": (with_value("targets", "track_id", 0, "zz"), "targets.parquet", "not in tracks"),
    "a split of an unknown track": (with_value("splits", "track_id", 1, "zz"), "splits.parquet", "not in tracks"),
    "a row off the grid": (
        with_value("curves", "date", 4, WEEKS[3] - pd.Timedelta(days=1)),
        "curves.parquet", "row 4", "weekly grid", "GB", "Thursday",
    ),
    "a chart off the grid": (
        with_value("charts", "date", 7, WEEKS[3] + pd.Timedelta(days=1)), "charts.parquet", "row 7", "US", "Thursday",
    ),
    "a debut off the grid": (
        with_value("splits", "debut", 1, WEEKS[2] + pd.Timedelta(days=2)), "splits.parquet", "row 1", "'debut'", "grid",
    ),
    "a rank without a chart": (
        lambda f: f.update(charts=f["charts"].drop(index=5)),
        "curves.parquet", "row 0 (track_id 'a1', region 'US', date 2020-01-09)", "'rank' = 1", "no such chart",
    ),
    "streams below the chart": (
        with_value("curves", "streams", 3, 150.0), "row 3", "'streams' = 150.0", "smallest streams of its chart (200)",
    ),
    "an unknown split": (with_value("splits", "split", 0, "dev"), "splits.parquet", "'split' = 'dev'", "train, "),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGES)
def test_damaged_tables_are_refused_with_file_row_and_column(case: str, folder: Path, tmp_path: Path):
    damage, *fragments = DAMAGES[case]
    frames = tables()
    damage(frames)
    with pytest.raises(InputError) as caught:
        write_dataset(tmp_path / "other", **frames, info={"frequency": "W"})
    for fragment in fragments:
        assert fragment in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    "case", [name for name in DAMAGES if "repeated" in name or "missing" in name or "rank" in name]
)
def test_the_same_damage_is_found_in_files_that_others_wrote(case: str, folder: Path):
    damage, *fragments = DAMAGES[case]
    frames = tables()
    damage(frames)
    for name, frame in frames.items():
        frame.to_parquet(folder / f"{name}.parquet")
    with pytest.raises(InputError) as caught:
        read_dataset(folder)
    for fragment in fragments:
        assert fragment in str(caught.value)


def test_the_number_of_further_bad_rows_is_told(tmp_path: Path):
    frames = tables()
    frames["curves"]["streams"] = [-1.0, 5.0, -2.0, -3.0, 5.0]
    with pytest.raises(InputError, match=r"row 0 .*\(2 more such rows\)$"):
        write_dataset(tmp_path, **frames, info={"frequency": "W"})


def cut(file: Path, share: float = 0.6) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])


FILES = {
    "a truncated parquet": (lambda p: cut(p / "curves.parquet"), "curves.parquet", "cut short"),
    "an empty parquet": (lambda p: (p / "tracks.parquet").write_bytes(b""), "tracks.parquet", "cut short"),
    "a table that is text": (lambda p: (p / "charts.parquet").write_text("a,b\n1,2\n"), "charts.parquet", "no parquet"),
    "no tracks": (lambda p: (p / "tracks.parquet").unlink(), "tracks.parquet", "no such file"),
    "neither curves nor targets": (
        lambda p: [(p / f"{n}.parquet").unlink() for n in ("curves", "targets")], "curves.parquet nor targets.parquet",
    ),
    "no dataset.json": (lambda p: (p / "dataset.json").unlink(), "dataset.json", "not written to its end"),
    "a broken dataset.json": (lambda p: cut(p / "dataset.json", 0.5), "dataset.json", "JSON"),
    "a list as dataset.json": (lambda p: (p / "dataset.json").write_text("[]"), "dataset.json", "list"),
    "monthly data": (
        lambda p: (p / "dataset.json").write_text('{"frequency": "M"}'), "dataset.json", "'M'", "'W' (weeks)",
    ),
    "a horizon of zero": (lambda p: (p / "dataset.json").write_text('{"horizon": 0}'), "horizon 0", "from 1"),
    "a missing shard": (
        lambda p: (p / "audio-00000.npy").unlink(), "previews.parquet", "row 0", "'shard'", "audio-00000.npy, which",
    ),
    "a shard too short": (
        lambda p: np.save(p / "audio-00000.npy", np.zeros(149, np.int16)),
        "previews.parquet", "row 1 (track_id 'b1', preview 0)", "'samples' = 50", "ends at sample 150", "at 149",
    ),
    "a truncated shard": (lambda p: cut(p / "audio-00000.npy"), "audio-00000.npy", "cut short"),
    "a shard of floats": (
        lambda p: np.save(p / "audio-00000.npy", np.zeros(150, np.float32)), "audio-00000.npy", "float32", "int16",
    ),
    "a shard of two channels": (
        lambda p: np.save(p / "audio-00000.npy", np.zeros((2, 150), np.int16)), "audio-00000.npy", "2-dimensional",
    ),
    "a clip of no samples": (
        lambda p: previews().assign(samples=0).to_parquet(p / "previews.parquet"), "'samples' = 0", "below 1",
    ),
    "a clip of an unknown track": (
        lambda p: previews().assign(track_id=["a1", "zz"]).to_parquet(p / "previews.parquet"), "row 1", "not in tracks",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
def test_damaged_files_are_refused_by_name(case: str, folder: Path):
    damage, *fragments = FILES[case]
    damage(folder)
    with pytest.raises(InputError) as caught:
        read_dataset(folder)
    for fragment in fragments:
        assert fragment in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="no such folder"):
        read_dataset(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file"):
        write_dataset(tmp_path / "file", tracks=tables()["tracks"], targets=tables()["targets"], info={})


def test_a_chart_of_today_and_a_release_to_come_are_fine(tmp_path: Path):
    frames = tables()
    today = pd.Timestamp.today().normalize()
    frames["charts"] = pd.concat([frames["charts"], frames["charts"].iloc[[0]].assign(date=today)])
    frames["tracks"].loc[0, "release_date"] = today + pd.Timedelta(days=90)
    write_dataset(tmp_path, **frames, info={"frequency": "D"})
    assert read_dataset(tmp_path).charts["date"].max() == today


def test_weeks_may_end_on_different_days_in_different_regions(tmp_path: Path):
    frames = tables()
    for name in ("curves", "charts"):
        british = frames[name]["region"] == "GB"
        frames[name].loc[british, "date"] += pd.Timedelta(days=3)
    write_dataset(tmp_path, **frames, info={"frequency": "W"})
    assert set(read_dataset(tmp_path).charts["date"].dt.day_name()) == {"Thursday", "Sunday"}


def test_a_row_without_rank_may_lie_below_the_chart(tmp_path: Path):
    frames = tables()
    frames["curves"].loc[4, "streams"] = 3.0
    write_dataset(tmp_path, **frames, info={"frequency": "W"})
    assert 3.0 in read_dataset(tmp_path).curves["streams"].to_numpy()


def test_common_types_of_other_writers_are_taken(folder: Path):
    curves = tables()["curves"]
    curves["date"] = [value.date() for value in curves["date"]]
    curves["region"] = curves["region"].astype("category")
    curves["streams"] = [None if np.isnan(v) else Decimal(int(v)) for v in curves["streams"]]
    curves["rank"] = curves["rank"].astype(float)
    curves.index = pd.Index([9, 8, 7, 6, 5])
    assert isinstance(curves["date"].iloc[0], datetime.date)
    curves.to_parquet(folder / "curves.parquet")
    read = read_dataset(folder).curves
    assert read["streams"].sum() == 2600
    assert read["rank"].isna().sum() == 1
    assert str(read["date"].dtype) == "datetime64[s]"


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "ba", "é"]), st.integers(0, 3)), max_size=8), st.booleans())
def test_a_key_is_refused_when_it_repeats_whatever_the_order_of_rows(keys: list[tuple[str, int]], in_order: bool):
    keys = sorted(keys) if in_order else keys
    frame = pd.DataFrame(keys, columns=["song", "period"]).astype({"song": "str", "period": "int64"})
    schema = Schema({"song": Column("text"), "period": Column("integer")}, key=("song", "period"))
    if len(set(keys)) == len(keys):
        assert len(validate(frame, schema, "table")) == len(keys)
    else:
        with pytest.raises(InputError, match="repeats the key"):
            validate(frame, schema, "table")


@given(st.lists(st.text(max_size=2), max_size=6), st.lists(st.text(max_size=2), unique=True, max_size=6))
def test_texts_are_found_where_pandas_finds_them(wanted: list[str], known: list[str]):
    wanted, known = ([text.encode(errors="ignore").decode() for text in texts] for texts in (wanted, known))
    known = list(dict.fromkeys(known))
    expected = pd.Index(known, dtype=object).get_indexer(pd.Index(wanted, dtype=object))
    for given_as in (list, lambda texts: pd.Series(texts, dtype="str"), lambda texts: pd.Index(texts, dtype=object)):
        np.testing.assert_array_equal(places(given_as(wanted), given_as(known)), expected)
    assert places(["b", "c"], ["a", "b", "a", "b"]).tolist() == [1, -1]
    missing = pd.Series(["a", None], dtype="str")
    assert places(missing, ["a"]).tolist() == places(missing, missing).tolist() == [0, -1]


def test_a_table_without_rows_is_valid_and_keeps_its_types():
    empty = tables()["splits"].iloc[:0].astype(object)
    settled = validate(empty, SCHEMAS["splits"], "splits.parquet")
    assert len(settled) == 0
    assert str(settled["debut"].dtype) == "datetime64[s]"


def test_whole_numbers_beyond_32_bits_keep_their_value():
    schema = Schema({"offset": Column("long"), "small": Column("integer")}, key=("offset",))
    settled = validate(pd.DataFrame({"offset": [2**40 + 1], "small": [7]}), schema, "t")
    assert settled["offset"].iloc[0] == 2**40 + 1
    with pytest.raises(InputError, match="'small' = 3000000000: is no whole number up to 2147483647"):
        validate(pd.DataFrame({"offset": [1], "small": [3_000_000_000]}), schema, "t")


def test_all_assigned_country_codes_are_known():
    assert len(REGIONS) == 249 + 1
    assert {"US", "GB", "BR", "JP", "SS", "GLOBAL"} <= REGIONS
    assert not {"UK", "AN", "SU", "EU"} & REGIONS


def test_release_texts_give_the_first_and_last_possible_day():
    texts = ["2020", "2020-02", "2019-02", "2020-02-29", "2020-12-31T00:00:00Z", "0000", "2020-13", "soon", "", None]
    window = release_window(pd.Series(texts, index=range(5, 15)))
    shown = [[None if pd.isna(v) else str(v.date()) for v in row] for row in window.itertuples(index=False)]
    assert shown[:5] == [
        ["2020-01-01", "2020-12-31"],
        ["2020-02-01", "2020-02-29"],
        ["2019-02-01", "2019-02-28"],
        ["2020-02-29", "2020-02-29"],
        ["2020-12-31", "2020-12-31"],
    ]
    assert shown[5:] == [[None, None]] * 5
    assert window.index.tolist() == list(range(5, 15))
    assert set(map(str, window.dtypes)) == {"datetime64[s]"}


@given(st.dates(datetime.date(1900, 1, 1), datetime.date(2099, 12, 31)))
def test_a_full_date_lies_in_the_window_of_its_month_and_its_year(day: datetime.date):
    window = release_window(pd.Series([f"{day:%Y-%m-%d}", f"{day:%Y-%m}", f"{day:%Y}"]))
    assert window.loc[0, "earliest"] == window.loc[0, "latest"] == pd.Timestamp(day)
    assert (window["earliest"] <= pd.Timestamp(day)).all()
    assert (window["latest"] >= pd.Timestamp(day)).all()
    assert window["earliest"].is_monotonic_decreasing
    assert window["latest"].is_monotonic_increasing


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("Beyoncé", "beyonce"),
        ("BEYONCE, Jay-Z", "beyonce"),
        ("Drake feat. Rihanna", "drake"),
        ("Drake ft Rihanna", "drake"),
        ("Daft Punk; Pharrell", "daftpunk"),
        ("Simon & Garfunkel", "simongarfunkel"),
        ("Sigur Rós", "sigurros"),
        ("宇多田ヒカル", "宇多田ヒカル"),
        ("!!!", "!!!"),
        ("Featherweight", "featherweight"),
    ],
)
def test_artist_keys_ignore_guests_case_and_accents(name: str, key: str):
    assert artist_key(name) == key


def test_a_track_without_artist_is_its_songs_own():
    tracks = pd.DataFrame({"song_id": ["a", "b", "b"], "artist": ["Ann", None, " "]}, index=[3, 4, 5])
    assert artist_keys(tracks).to_dict() == {3: "ann", 4: "song:b", 5: "song:b"}


@pytest.mark.parametrize(
    ("artist", "title", "keys"),
    [
        ("Ann", "Song", ()),
        ("Ann, Bob; Cy", "Song", ("bob", "cy")),
        ("Ann feat. Bob", "Song", ("bob",)),
        ("Ann", "Song (feat. Dan & Bob) [Radio Edit]", ("bob", "dan")),
        ("Ann, Bob", "Song (with Bob and Ann)", ("bob",)),
        ("Ann & The Bobs", "Song - Live with Strings", ()),
        (None, "Song ft. Bob", ("bob",)),
        ("Ann", None, ()),
    ],
)
def test_guests_are_whom_credit_or_title_name_beside_the_main_artist(artist, title, keys):
    tracks = pd.DataFrame({"artist": [artist], "title": [title]}, index=[7])
    assert guest_keys(tracks).to_dict() == {7: keys}
