"""Kept debuts with their rows, cut-offs and curves, a song's together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from small_charts import HORIZON, small_charts, week

from mp3model.files import InputError
from mp3model.tables.curves import curve_arrays
from mp3model.tables.debuts import debut_rows, debuts_of, recency, with_cutoff
from mp3model.tables.folder import DatasetFolder


@pytest.fixture(scope="module")
def debuts():
    dataset = small_charts()
    rows = debut_rows(dataset)
    return debuts_of(dataset, rows, HORIZON, np.arange(2.0 * len(rows)).reshape(-1, 2))


def test_every_kept_debut_has_one_row_with_its_song_artist_and_release():
    dataset = small_charts()
    rows = debut_rows(dataset)
    assert list(rows) == ["song_id", "track_id", "artist", "guests", "region", "debut", "release_date", "split"]
    assert len(rows) == len(dataset.splits)
    tracks = dataset.tracks.set_index("track_id")
    for row in rows.itertuples():
        assert tracks.loc[row.track_id, "song_id"] == row.song_id
        versions = dataset.tracks[dataset.tracks["song_id"] == row.song_id]
        assert row.release_date == versions["release_date"].min()
        name = versions["artist"].iloc[0]
        names = [] if pd.isna(name) else name.lower().replace(" ", "").split(",")
        assert row.artist == (names[0] if names else f"song:{row.song_id}")
        assert set(row.guests) >= set(names[1:]) - {row.artist}
        assert ("feat." in tracks.loc[row.track_id, "title"]) <= (len({row.artist, *row.guests}) > 1)
    assert rows[["song_id", "region"]].equals(rows[["song_id", "region"]].sort_values(["song_id", "region"]))


def test_the_cutoff_is_the_last_day_before_debut_or_of_the_last_observed_period():
    rows = pd.DataFrame({"debut": [pd.Timestamp("2020-03-05")] * 3})
    told = with_cutoff(rows, np.array([0, 1, 4]), "W")
    assert told["cutoff"].dt.date.astype(str).tolist() == ["2020-02-27", "2020-03-05", "2020-03-26"]
    assert told["observed"].tolist() == [0, 1, 4]
    daily = with_cutoff(rows, 3, "D")
    assert daily["cutoff"].dt.date.astype(str).tolist() == ["2020-03-07"] * 3
    assert "observed" not in rows


def test_a_songs_rows_lie_together(debuts):
    assert len(debuts) == debuts.rows["song_id"].nunique() == len(debuts.starts) - 1
    for song, name in enumerate(debuts.songs):
        rows = debuts.rows.iloc[debuts.starts[song] : debuts.starts[song + 1]]
        assert set(rows["song_id"]) == {name}
    assert debuts.of_songs([2, 0]).tolist() == [
        *range(debuts.starts[2], debuts.starts[3]),
        *range(debuts.starts[0], debuts.starts[1]),
    ]


def test_chosen_rows_keep_their_curves_and_descriptors(debuts):
    splits = {split: debuts.of_split(split) for split in ("train", "validation", "test", "none")}
    assert sum(len(part.rows) for part in splits.values()) == len(debuts.rows)
    for split, part in splits.items():
        assert set(part.rows["split"]) == {split}
        told = curve_arrays(small_charts(), part.rows, HORIZON)
        np.testing.assert_array_equal(part.curves.streams, told.streams)
        np.testing.assert_array_equal(part.curves.floor, told.floor)
        at = np.flatnonzero(debuts.rows["split"] == split)
        np.testing.assert_array_equal(part.descriptors, debuts.descriptors[at])
        assert part.starts[-1] == len(part.rows)
    both = debuts.of_split("train", "test")
    assert set(both.rows["split"]) == {"train", "test"}


def test_songs_are_kept_by_a_mask_over_songs(debuts):
    kept = np.arange(len(debuts)) % 3 == 0
    part = debuts.of_kept_songs(kept)
    assert part.songs == [song for song, keep in zip(debuts.songs, kept, strict=True) if keep]


def test_rows_taken_evenly_span_all_of_them_and_are_no_more_than_asked(debuts):
    few = debuts.evenly(10)
    assert len(few.rows) == 10
    assert few.rows.iloc[[0, -1]].equals(debuts.rows.iloc[[0, -1]].set_axis([0, 9]))
    assert debuts.evenly(10**6).rows.equals(debuts.rows)


def test_the_last_debut_counts_one_and_one_a_half_life_before_half():
    days = np.array(["2018-01-01", "2019-01-01", "2020-01-01"], dtype="datetime64[D]")
    np.testing.assert_allclose(recency(days, 1.0), [0.25, 0.5, 1.0])
    np.testing.assert_allclose(recency(days, 0.5), [1 / 16, 0.25, 1.0])
    assert recency(days[:0], 1.0).shape == (0,)


def test_no_debut_is_an_empty_set_of_them(debuts):
    none = debuts.chosen(np.zeros(len(debuts.rows), bool))
    assert len(none) == 0
    assert none.starts.tolist() == [0]
    assert none.curves.streams.shape == (0, HORIZON)


def test_a_dataset_without_splits_is_refused_by_name():
    with pytest.raises(InputError, match=r"small-charts: has no splits.parquet"):
        debut_rows(replace(small_charts(), splits=None))


def test_splits_given_apart_are_taken_instead():
    dataset: DatasetFolder = small_charts()
    some = dataset.splits.iloc[:5].assign(split="test")
    rows = debut_rows(dataset, some)
    assert len(rows) == 5
    assert set(rows["split"]) == {"test"}
    assert week(0) < rows["debut"].min().to_datetime64()
