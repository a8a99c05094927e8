"""A dataset folder on disk, damaged in one way at a time: reading it names file, row and column in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mp3model.files import InputError
from mp3model.tables.folder import TRACK_KINDS, read_dataset, write_dataset

WEEKS = pd.date_range("2021-01-07", periods=20, freq="7D")  # Thursdays
TOMORROW = pd.Timestamp.today().normalize() + pd.Timedelta(days=1)
Damage = Callable[[Path], object]


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    """30 songs in two regions, twenty weeks, two shards of audio."""
    folder = tmp_path_factory.mktemp("good")
    names = [f"t{number:02d}" for number in range(30)]
    tracks = pd.DataFrame(
        {
            "track_id": names,
            "song_id": names,
            "title": [f"Song {name}" for name in names],
            "artist": "Ann",
            "isrc": None,
            "release_date": WEEKS[0],
            "kind": [TRACK_KINDS[number % 6] if number else None for number in range(30)],
            "x_energy": np.linspace(0, 1, 30),
        }
    )
    grid = pd.MultiIndex.from_product([names, ["US", "GB"], WEEKS], names=["track_id", "region", "date"])
    curves = grid.to_frame(index=False).sort_values(["track_id", "region", "date"])
    curves["streams"] = np.linspace(1000.0, 5000.0, len(curves))
    curves["rank"] = 1 + np.arange(len(curves)) % 200
    charts = curves[["region", "date"]].drop_duplicates().assign(floor=900.0, lowest=800.0, size=30)
    targets = pd.DataFrame({"track_id": names, "region": "GLOBAL", "total": 10.0, "debut_rank": 5.0, "y_likes": 1.0})
    splits = pd.DataFrame({"track_id": names, "region": "US", "debut": WEEKS[2], "split": ["train", "test"] * 15})
    previews = pd.DataFrame(
        {"track_id": names, "preview": 0, "shard": [0] * 15 + [1] * 15, "offset": list(range(0, 150, 10)) * 2}
    ).assign(samples=10, sha256="0" * 64)
    previews.to_parquet(folder / "previews.parquet")
    for shard in range(2):
        np.save(folder / f"audio-{shard:05d}.npy", np.zeros(150, np.int16))
    info = {"frequency": "W", "horizon": 12, "sources": ["made up"]}
    write_dataset(folder, tracks=tracks, curves=curves, charts=charts, targets=targets, splits=splits, info=info)
    read_dataset(folder)
    return folder


def changed(table: str, change: Callable[[pd.DataFrame], pd.DataFrame]) -> Damage:
    """Rewrites a table as another program would."""

    def damage(folder: Path) -> None:
        file = folder / f"{table}.parquet"
        change(pd.read_parquet(file)).to_parquet(file)

    return damage


def with_value(table: str, row: int, column: str, value: object) -> Damage:
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        values = frame[column].astype(object).tolist()
        values[row] = value
        return frame.assign(**{column: values})

    return changed(table, change)


def cut(name: str, share: float) -> Damage:
    def damage(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * share)])

    return damage


def one_bit_flipped(name: str, place: int) -> Damage:
    def damage(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[place] ^= 1
        (folder / name).write_bytes(content)

    return damage


def with_info(**values: object) -> Damage:
    def damage(folder: Path) -> None:
        info = json.loads((folder / "dataset.json").read_text())
        (folder / "dataset.json").write_text(json.dumps({**info, **values}))

    return damage


def gone(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def shard_of(samples: np.ndarray) -> Damage:
    return lambda folder: np.save(folder / "audio-00001.npy", samples)


# What is done, the file at fault, and what else the message must say: row, column, reason, mend.
DAMAGES: dict[str, tuple[Damage, str, tuple[str, ...]]] = {
    "a missing column": (
        changed("curves", lambda f: f.drop(columns="streams")), "curves.parquet", ("'streams'", "missing", "add it"),
    ),
    "a column of the wrong type": (
        changed("curves", lambda f: f.assign(streams=f["streams"].astype(str))),
        "curves.parquet", ("row 0 (track_id 't00'", "'streams' = '1000.0'", "not a number"),
    ),
    "a column too many": (
        changed("targets", lambda f: f.assign(plays=1)), "targets.parquet", ("'plays'", "no such column", "y_"),
    ),
    "a duplicated key": (
        changed("curves", lambda f: pd.concat([f, f.iloc[[7]]])),
        "curves.parquet", ("row 1200 (track_id 't00', region 'GB', date 2021-02-25)", "repeats the key", "keep one"),
    ),
    "a duplicated track": (
        changed("tracks", lambda f: pd.concat([f, f.iloc[[3]]])), "tracks.parquet", ("row 30 (track_id 't03')",),
    ),
    "a missing key": (
        with_value("curves", 5, "track_id", None), "curves.parquet", ("row 5", "'track_id' = missing", "fill it in"),
    ),
    "a region that is NaN": (
        with_value("charts", 4, "region", None), "charts.parquet", ("row 4", "'region' = missing"),
    ),
    "a date in the future": (
        with_value("curves", 9, "date", TOMORROW), "curves.parquet", ("row 9", "'date'", "in the future"),
    ),
    "a chart in the future": (
        with_value("charts", 2, "date", TOMORROW), "charts.parquet", ("row 2", "'date'", "in the future"),
    ),
    "dates that are text": (
        changed("splits", lambda f: f.assign(debut=f["debut"].astype(str))),
        "splits.parquet", ("row 0", "'debut' = '2021-01-21'", "not a date"),
    ),
    "a release before recording": (
        with_value("tracks", 6, "release_date", pd.Timestamp("1066-10-14")),
        "tracks.parquet", ("row 6 (track_id 't06')", "'release_date'", "before 1900"),
    ),
    "negative streams": (
        with_value("curves", 11, "streams", -1.0), "curves.parquet", ("row 11", "'streams' = -1.0", "below 0"),
    ),
    "endless streams": (
        with_value("curves", 11, "streams", np.inf), "curves.parquet", ("row 11", "'streams' = inf", "infinite"),
    ),
    "rank zero": (with_value("curves", 8, "rank", 0), "curves.parquet", ("row 8", "'rank' = 0", "count from 1")),
    "an unknown region": (
        with_value("targets", 3, "region", "Atlantis"), "targets.parquet", ("row 3", "'region' = 'Atlantis'", "'US'"),
    ),
    "a region in small letters": (
        changed("splits", lambda f: f.assign(region="us")), "splits.parquet", ("row 0", "use 'US'", "29 more such row"),
    ),
    "an unknown kind": (
        with_value("tracks", 2, "kind", "bootleg"), "tracks.parquet", ("row 2", "'kind' = 'bootleg'", "studio, live"),
    ),
    "an unknown split": (
        with_value("splits", 4, "split", "holdout"), "splits.parquet", ("row 4", "'split' = 'holdout'", "validation"),
    ),
    "a split of an unknown track": (
        with_value("splits", 1, "track_id", "zz"), "splits.parquet", ("row 1", "'track_id' = 'zz'", "tracks.parquet"),
    ),
    "a track in two splits of one region": (
        changed("splits", lambda f: pd.concat([f, f.iloc[[0]].assign(split="test")])),
        "splits.parquet", ("row 30 (track_id 't00', region 'US')", "repeats the key"),
    ),
    "a debut off the grid": (
        with_value("splits", 7, "debut", WEEKS[2] + pd.Timedelta(days=1)),
        "splits.parquet", ("row 7", "'debut' = 2021-01-22", "Thursday"),
    ),
    "a curve row off the grid": (
        with_value("curves", 60, "date", WEEKS[0] - pd.Timedelta(days=1)),
        "curves.parquet", ("row 60 (track_id 't01'", "'date' = 2021-01-06", "weekly grid"),
    ),
    "a rank where no chart is": (
        changed("charts", lambda f: f.drop(index=0)),
        "curves.parquet", ("row 0 (track_id 't00', region 'GB', date 2021-01-07)", "'rank' = 1", "no such chart"),
    ),
    "streams below the chart": (
        with_value("curves", 3, "streams", 5.0), "curves.parquet", ("row 3", "'streams' = 5.0", "smallest streams"),
    ),
    "a chart whose lowest lies above its floor": (
        with_value("charts", 5, "lowest", 950.0), "charts.parquet", ("row 5", "'lowest' = 950.0", "floor (900)"),
    ),
    "a floor of zero": (with_value("charts", 5, "floor", 0.0), "charts.parquet", ("row 5", "'floor' = 0.0")),
    "a tracks table without rows": (
        changed("tracks", lambda f: f.iloc[:0]), "curves.parquet", ("row 0", "'track_id' = 't00'", "tracks.parquet"),
    ),
    "a parquet cut short": (cut("curves.parquet", 0.7), "curves.parquet", ("cut short", "copy it again")),
    "a parquet of no bytes": (cut("charts.parquet", 0.0), "charts.parquet", ("cut short",)),
    "one bit of a parquet flipped": (one_bit_flipped("curves.parquet", 300), "curves.parquet", ("damaged", "CRC")),
    "no tracks": (gone("tracks.parquet"), "tracks.parquet", ("no such file",)),
    "a dataset.json cut short": (cut("dataset.json", 0.5), "dataset.json", ("JSON", "prepare the folder again")),
    "no dataset.json": (gone("dataset.json"), "dataset.json", ("no such file",)),
    "an unknown frequency": (with_info(frequency="monthly"), "dataset.json", ("frequency 'monthly'", "'W'")),
    "a horizon that is text": (with_info(horizon="12"), "dataset.json", ("horizon '12'", "whole number")),
    "a missing shard": (
        gone("audio-00001.npy"), "previews.parquet", ("row 15 (track_id 't15', preview 0)", "'shard' = 1", "audio-00"),
    ),
    "a shard cut short": (cut("audio-00001.npy", 0.8), "audio-00001.npy", ("cut short",)),
    "a shard with too few samples": (
        shard_of(np.zeros(145, np.int16)), "previews.parquet", ("row 29 (track_id 't29'", "'samples' = 10", "at 145"),
    ),
    "a shard of floats": (shard_of(np.zeros(150, np.float32)), "audio-00001.npy", ("float32", "int16")),
    "a clip beyond its shard": (
        with_value("previews", 4, "offset", 10_000), "previews.parquet", ("row 4", "ends at sample 10010", "at 150"),
    ),
    "a clip of an unknown track": (
        with_value("previews", 2, "track_id", "zz"), "previews.parquet", ("row 2", "'track_id' = 'zz'"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGES)
def test_a_damaged_folder_is_refused_with_file_row_and_column(case: str, good: Path, tmp_path: Path):
    damage, file, fragments = DAMAGES[case]
    folder = tmp_path / "folder"
    shutil.copytree(good, folder)
    damage(folder)
    with pytest.raises(InputError) as caught:
        read_dataset(folder)
    message = str(caught.value)
    assert message.startswith(f"{folder / file}:")
    assert [fragment for fragment in fragments if fragment not in message] == [], message
    assert "\n" not in message


def test_a_flipped_bit_anywhere_in_the_data_is_noticed(good: Path, tmp_path: Path):
    content = (good / "curves.parquet").read_bytes()
    footer = int.from_bytes(content[-8:-4], "little") + 8
    folder = tmp_path / "folder"
    shutil.copytree(good, folder)
    places = np.random.default_rng(0).choice(np.arange(4, len(content) - footer), 40, replace=False)
    noticed = 0
    for place in places.tolist():
        (folder / "curves.parquet").write_bytes(content)
        one_bit_flipped("curves.parquet", place)(folder)
        try:
            read = read_dataset(folder)
        except InputError as error:
            noticed += "curves.parquet" in str(error)
        else:
            # Page headers hold hints beside the data, which may change without harm.
            pd.testing.assert_frame_equal(read.curves, read_dataset(good).curves)
    assert noticed > 20


def test_a_table_that_the_user_replaced_by_another_good_one_is_taken(good: Path, tmp_path: Path):
    folder = tmp_path / "folder"
    shutil.copytree(good, folder)
    changed("splits", lambda frame: frame.assign(split="train"))(folder)
    assert set(read_dataset(folder).splits["split"]) == {"train"}


def test_the_kind_of_a_track_may_be_missing_or_left_out(good: Path, tmp_path: Path):
    folder = tmp_path / "folder"
    shutil.copytree(good, folder)
    assert read_dataset(folder).tracks["kind"].isna().sum() == 1
    changed("tracks", lambda frame: frame.drop(columns="kind"))(folder)
    assert "kind" not in read_dataset(folder).tracks
