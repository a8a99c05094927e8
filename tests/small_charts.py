"""A seed in, a small dataset with charts, built in memory, out; and the same with everything after a day changed."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from mp3model.tables.folder import SCHEMAS, DatasetFolder
from mp3model.tables.schema import validate
from mp3model.tables.splits import first_rows, make_splits
from mp3model.tables.tracks import artist_keys, guest_keys

REGIONS = ("GB", "GLOBAL", "US")
FIRST = np.datetime64("2020-01-02", "D")  # a Thursday
WEEKS, SONGS, ARTISTS, SIZE, HORIZON = 60, 90, 15, 10, 8
DESCRIPTORS = ("x_loudness", "x_tempo")
# One chart is missing, so that there are gaps to fall into.
MISSING = ("GB", 30)


def week(number: int) -> np.datetime64:
    return FIRST + 7 * number


def settled(name: str, frame: pd.DataFrame) -> pd.DataFrame:
    return validate(frame, SCHEMAS[name], name)


@lru_cache(maxsize=2)
def small_charts(seed: int = 0) -> DatasetFolder:
    """90 songs by 15 artists on weekly charts of 10 ranks; guests, lags between regions, re-entries, versions, gap."""
    generator = np.random.default_rng(seed)
    start = generator.integers(-10, WEEKS - 3, SONGS)
    quality = generator.normal(size=SONGS) * 0.7
    artist = generator.integers(0, ARTISTS, SONGS)
    tracks, rows = [], []
    for song in range(SONGS):
        versions = [f"track-{song:02d}"] + ([f"track-{song:02d}-live"] if song % 9 == 0 else [])
        for number, track in enumerate(versions):
            tracks.append(
                {
                    "track_id": track,
                    "song_id": f"song-{song:02d}",
                    # A later version names someone more.
                    "title": f"Song {song}" + f" (feat. Artist {song % 11})" * (song % 6 == 2 or number == 1),
                    "artist": None if artist[song] == 0 else credit(artist[song], song),
                    "isrc": None,
                    "release_date": pd.Timestamp(week(int(start[song])) - int(generator.integers(0, 7))),
                    **{name: np.nan if song % 5 == 0 else generator.normal() for name in DESCRIPTORS},
                }
            )
            for place, region in enumerate(REGIONS):
                lag = int(generator.integers(0, 4)) * (place > 0)
                local = quality[song] + 0.5 * generator.normal() + place
                for age in range(WEEKS - int(start[song]) - lag):
                    # Every seventh song comes back after a while; a second version joins in the third week.
                    comeback = 4.0 * (song % 7 == 3 and 12 <= age < 15)
                    level = 9 + local - 0.35 * age + comeback + 0.6 * generator.normal() - number
                    if age >= 3 * number:
                        rows.append((track, region, int(start[song]) + lag + age, np.floor(np.exp(level))))
    frame = pd.DataFrame(rows, columns=["track_id", "region", "week", "streams"])
    frame = frame[frame["week"] >= 0]
    frame = frame.sort_values(["region", "week", "streams", "track_id"], ascending=[True, True, False, True])
    frame["rank"] = frame.groupby(["region", "week"]).cumcount() + 1
    frame = frame[(frame["rank"] <= SIZE) & ~((frame["region"] == MISSING[0]) & (frame["week"] == MISSING[1]))]
    frame["date"] = FIRST + 7 * frame["week"].to_numpy()
    charts = frame.groupby(["region", "date"], as_index=False).agg(
        floor=("streams", lambda streams: streams.nsmallest(3).mean()), lowest=("streams", "min"), size=("rank", "max")
    )
    dataset = DatasetFolder(
        Path("small-charts"),
        {"frequency": "W", "horizon": HORIZON},
        tracks=settled("tracks", pd.DataFrame(tracks)),
        curves=settled("curves", frame[["track_id", "region", "date", "streams", "rank"]]),
        charts=settled("charts", charts),
    )
    return replace(dataset, splits=make_splits(dataset))


def credit(artist: int, song: int) -> str:
    """Every fourth song is by two."""
    return f"Artist {artist}" + f", Artist {(artist + 3) % ARTISTS}" * (song % 4 == 1)


def without_charts(dataset: DatasetFolder) -> DatasetFolder:
    """The same rows where nobody knows which charts are on hand."""
    return replace(dataset, charts=None)


def rows_known_on(dataset: DatasetFolder, day: np.datetime64, horizon: int = HORIZON) -> pd.DataFrame:
    """Every life that runs on a day or begins a week later, as rows whose cut-off is that day."""
    rows = first_rows(dataset)
    songs = dataset.tracks.assign(artist=artist_keys(dataset.tracks)).groupby("song_id")["artist"].first()
    weeks = (day - rows["debut"].to_numpy().astype("datetime64[D]")).astype(int) / 7 + 1
    kept = (weeks >= 0) & (weeks <= horizon) & (weeks % 1 == 0)
    rows = rows[kept].sort_values(["song_id", "region"]).reset_index(drop=True)
    return rows.assign(
        artist=rows["song_id"].map(songs),
        guests=rows["track_id"].map(pd.Series(guest_keys(dataset.tracks).to_numpy(), dataset.tracks["track_id"])),
        observed=(day - rows["debut"].to_numpy().astype("datetime64[D]")).astype(int) // 7 + 1,
        cutoff=day.astype("datetime64[s]"),
        release_date=rows["debut"] - pd.Timedelta(days=3),
    )


def future_deleted(dataset: DatasetFolder, day: np.datetime64) -> DatasetFolder:
    """Only rows dated on or before the day, and only songs that have one."""
    assert dataset.curves is not None
    curves = dataset.curves[dataset.curves["date"] <= pd.Timestamp(day)].reset_index(drop=True)
    charts = dataset.charts
    if charts is not None:
        charts = charts[charts["date"] <= pd.Timestamp(day)].reset_index(drop=True)
    known = dataset.tracks["track_id"].isin(curves["track_id"])
    return replace(dataset, tracks=dataset.tracks[known].reset_index(drop=True), curves=curves, charts=charts)


def future_changed(dataset: DatasetFolder, day: np.datetime64, seed: int) -> DatasetFolder:
    """After the day other streams and ranks, rows gone, new songs of old artists, a new region; tables reordered."""
    assert dataset.curves is not None
    generator = np.random.default_rng(seed)
    later = (dataset.curves["date"] > pd.Timestamp(day)).to_numpy()
    future = dataset.curves[later & (generator.random(len(later)) < 0.7)].copy()
    future["streams"] = np.floor(generator.lognormal(9, 2, len(future)))
    future["rank"] = pd.array(generator.integers(1, SIZE + 1, len(future)), dtype="Int32")
    names = [f"{letter}-{number}" for letter in ("aaa", "zzz") for number in range(6)]
    new = pd.DataFrame(
        [
            (name, region, day + 7 * int(generator.integers(1, 4)), 5e4, int(generator.integers(1, SIZE)))
            for name in names
            for region in ("AD", *REGIONS)
        ],
        columns=["track_id", "region", "date", "streams", "rank"],
    )
    artists = dataset.tracks["artist"].dropna().unique()
    tracks = pd.DataFrame(
        {
            "track_id": names,
            "song_id": names,
            "title": "New (feat. Artist 4 & Artist 7)",
            "artist": generator.choice(artists, len(names)),
            "isrc": None,
            "release_date": pd.NaT,
        }
    )
    charts = dataset.charts
    if charts is not None:
        moved = (charts["date"] > pd.Timestamp(day)).to_numpy()
        kept = charts[~moved | (generator.random(len(moved)) < 0.8)].copy()
        factor = np.where(kept["date"] > pd.Timestamp(day), generator.lognormal(0, 2, len(kept)), 1.0)
        kept[["floor", "lowest"]] = kept[["floor", "lowest"]].mul(factor, axis=0)
        elsewhere = new[new["region"] == "AD"][["region", "date"]].drop_duplicates()
        charts = settled("charts", pd.concat([elsewhere.assign(floor=50.0, lowest=40.0, size=3), kept]))
    curves = pd.concat([new, future, dataset.curves[~later]])
    return replace(
        dataset,
        tracks=settled("tracks", pd.concat([tracks, dataset.tracks]).sample(frac=1, random_state=seed)),
        curves=settled("curves", curves.sample(frac=1, random_state=seed)),
        charts=charts,
    )
