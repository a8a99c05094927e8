"""What a user asks about in: songs, sounds, regions, observed periods; rows that the model can be asked about out."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mp3model.audio.bank import SAMPLE_RATE, to_int16
from mp3model.audio.decode import decode
from mp3model.files import InputError
from mp3model.model.modeling_mp3 import Audio
from mp3model.serving.observed import Calendar, parsed_date
from mp3model.tables.debuts import with_cutoff
from mp3model.tables.folder import DatasetFolder
from mp3model.tables.tracks import artist_key, artist_keys, guest_keys


@dataclass(frozen=True)
class Heard:
    """A sound that was decoded before.

    Attributes:
        clip: (samples,) int16 at 16 kHz, which flags are told from; None gives none.
        audio: What the model heard in it, mean over the windows: tokens (tokens, width), states (regions, …); None is
            not heard yet.
    """

    clip: np.ndarray | None
    audio: Audio | None = None


Sound = str | os.PathLike[str] | bytes | tuple[Any, float] | Heard
# Windows of a song that are heard at most, evenly spread; more change the mean by little and cost as much each.
WINDOWS = 24


def windows_of(clip: np.ndarray, length: int, most: int = WINDOWS) -> np.ndarray:
    """Half-overlapping windows of a clip, evenly spread and at most so many: (windows, length); zeros after its end."""
    room = max(0, len(clip) - length)
    count = min(most, 1 + -(-room // max(1, length // 2)))
    starts = np.linspace(0, room, count).astype(int)
    padded = np.pad(clip, (0, max(0, length - len(clip))))
    return np.stack([padded[start : start + length] for start in starts])


def clip_of(sound: Sound, name: str) -> np.ndarray:
    """A path, a file's bytes, an (array, rate) pair or what was decoded before → (samples,) int16 mono at 16 kHz.

    Args:
        sound: An array holds floats within ±1, or int16; (samples,), or (samples, channels) or the other way round.
        name: What errors call it.

    Raises:
        InputError: If it holds no usable sound.
    """
    if isinstance(sound, Heard):
        if sound.clip is None:
            raise InputError(f"{name}: neither a clip nor what was heard of it; give one")
        return sound.clip
    if not isinstance(sound, tuple):
        return decode(sound, name=name if isinstance(sound, bytes) else None)
    values, rate = np.asarray(sound[0]), float(sound[1])
    if values.ndim not in (1, 2) or not values.size or values.dtype.kind not in "fi" or not 1000 <= rate <= 768_000:
        raise InputError(
            f"{name}: an array of {values.dtype} {values.shape} at {rate:g} Hz; give (samples,) or (samples, channels) "
            "floats or int16, and a rate from 1000 to 768000"
        )
    if values.dtype.kind == "i" and values.dtype != np.int16:
        raise InputError(f"{name}: an array of {values.dtype}; give int16, or floats within 1 and -1")
    mono = values / 32768.0 if values.dtype == np.int16 else values.astype(float)
    if mono.ndim == 2:
        mono = mono.mean(axis=int(np.argmin(mono.shape)))
    if not np.isfinite(mono).all():
        raise InputError(f"{name}: holds NaN or infinite samples; repair the audio")
    if rate != SAMPLE_RATE:
        import soxr

        mono = soxr.resample(mono, rate, SAMPLE_RATE, quality="HQ")
    return to_int16(mono)


def songs_of(
    audio: Any, release: Any, artist: str | None, track_id: str | None, base: DatasetFolder | None
) -> tuple[pd.DataFrame, list[Sound | None]]:
    """`track_id, song_id, title, artist, release` of each song asked about, and its sound."""
    if isinstance(audio, pd.DataFrame):
        if artist is not None or track_id is not None:
            raise InputError("a table of tracks names its tracks and artists itself; leave artist and track_id out")
        return _songs_of_frame(audio, release, base)
    is_file = isinstance(audio, str | os.PathLike)
    name = track_id or (Path(audio).stem if is_file else "song")
    # A file that happens to be called as a track of the dataset is not that track.
    song_id = name if track_id else f"file {name}"
    day = None if release is None else parsed_date(release, "release")
    songs = pd.DataFrame({"track_id": [name], "song_id": [song_id], "title": [None], "artist": [artist]})
    songs = _from_dataset(songs, base) if track_id else songs
    return songs.assign(release=pd.Series([day], dtype=object)), [audio]


def _songs_of_frame(
    tracks: pd.DataFrame, release: Any, base: DatasetFolder | None
) -> tuple[pd.DataFrame, list[Sound | None]]:
    tracks = tracks.reset_index(drop=True)
    if not len(tracks) or not {"path", "track_id"} & set(tracks):
        raise InputError(
            f"a table of {len(tracks)} tracks with columns {', '.join(map(str, tracks))}; give rows of track_id or path"
        )
    paths = tracks["path"].tolist() if "path" in tracks else [None] * len(tracks)
    sounds: list[Sound | None] = [None if _missing(path) else path for path in paths]
    named = "track_id" in tracks
    if not named and any(sound is None for sound in sounds):
        raise InputError("a table of tracks without track_id has a row without a path; name the track")
    names = tracks["track_id"].astype("str") if named else pd.Series([Path(str(path)).stem for path in paths])
    if names.duplicated().any() or names.isna().any():
        again = int(names.duplicated().argmax())
        both = f" ({paths[int((names == names[again]).argmax())]} and {paths[again]})" if not named else ""
        raise InputError(
            f"track {names[again]!r} is there twice{both}; give each its own track_id, or each file its own name"
        )
    songs = pd.DataFrame({"track_id": names, "song_id": names if named else "file " + names})
    for column in ("title", "artist"):
        songs[column] = tracks.get(column, None)
    songs = _from_dataset(songs, base) if named else songs
    if "song_id" in tracks:
        songs["song_id"] = tracks["song_id"].astype("str")
    given = tracks["release_date"] if "release_date" in tracks else pd.Series([None] * len(tracks), dtype=object)
    days = [
        None if _missing(day) else parsed_date(day, f"release_date of {name}")
        for day, name in zip(given.fillna(release) if release is not None else given, names, strict=True)
    ]
    for sound in sounds:
        if isinstance(sound, str | os.PathLike) and not Path(sound).is_file():
            raise InputError(f"{sound}: {'is a folder; name its files' if Path(sound).is_dir() else 'no such file'}")
    return songs.assign(release=pd.Series(days, dtype=object)), sounds


def _missing(value: Any) -> bool:
    return value is None or (not isinstance(value, tuple | bytes) and pd.isna(value))


def _from_dataset(songs: pd.DataFrame, base: DatasetFolder | None) -> pd.DataFrame:
    """Song, title and artist of the tracks that a dataset has, where the user names none."""
    if base is None:
        return songs
    columns = ["song_id", "title", "artist"]
    about = base.tracks.set_index("track_id")[columns].reindex(songs["track_id"]).reset_index(drop=True)
    song = about["song_id"].where(about["song_id"].notna(), songs["song_id"])
    texts = {name: songs[name].where(songs[name].notna(), about[name]) for name in ("title", "artist")}
    return songs.assign(song_id=song, **texts)


def with_artist(songs: pd.DataFrame) -> pd.DataFrame:
    """A name for the artist of a song whose history is told without one."""
    if len(songs) > 1 and songs["artist"].isna().any():
        track = songs["track_id"][songs["artist"].isna()].iloc[0]
        raise InputError(f"history: track {track!r} has no artist to which earlier songs could belong; name it")
    return songs.assign(artist=songs["artist"].where(songs["artist"].notna(), "artist of " + songs["song_id"]))


def rows_of(
    songs: pd.DataFrame, regions: list[str], seen: pd.DataFrame, calendar: Calendar, horizon: int
) -> pd.DataFrame:
    """A row a (song, region), as `with_cutoff`, without a split and with `song`, its place among those asked about."""
    known = seen[seen["streams"].notna() | seen["rank"].notna()].sort_values("date", kind="stable")
    parts = []
    keys, guests = artist_keys(songs), guest_keys(songs)
    for song, (track, song_id, release) in enumerate(songs[["track_id", "song_id", "release"]].to_numpy(dtype=object)):
        own = known[known["track_id"] == track]
        for region in regions:
            here = own[own["region"] == region]
            charted = here[(here["streams"] > 0) | here["rank"].notna()]
            earliest = None if release is None else calendar.period_of(release, region)
            if len(charted):
                debut = np.datetime64(charted["date"].iloc[0], "D")
                last = (np.datetime64(here["date"].iloc[-1], "D") - debut) // np.timedelta64(calendar.days, "D")
                if earliest is not None and debut < earliest:
                    raise InputError(f"observed: {track} in {region} on {debut} is before its release on {release}")
                observed = min(int(last) + 1, horizon)
            else:
                next_one = None if own.empty else calendar.period_of(np.datetime64(own["date"].max(), "D") + 1, region)
                ends = [day for day in (earliest, next_one) if day is not None]
                if not ends:
                    raise InputError(f"release of {track}: not given; write YYYY-MM-DD")
                debut, observed = max(ends), 0
            parts.append((song_id, track, keys[song], guests[song], region, debut, release, observed, song))
    names = ["song_id", "track_id", "artist", "guests", "region", "debut", "release_date", "observed", "song"]
    rows = pd.DataFrame(parts, columns=names)
    debuts = rows["debut"].to_numpy().astype("datetime64[D]")
    # Where the release is unknown, a song that charts is taken to have been out for all of its first period.
    released = [debut - np.timedelta64(calendar.days - 1, "D") for debut in debuts]
    release = [day if day is not None else usual for day, usual in zip(rows["release_date"], released, strict=True)]
    rows = rows.assign(debut=debuts.astype("datetime64[s]"), release_date=np.array(release, dtype="datetime64[s]"))
    return with_cutoff(rows, rows["observed"].to_numpy(), calendar.frequency)


def lacking(
    rows: pd.DataFrame,
    songs: pd.DataFrame,
    seen: pd.DataFrame,
    earlier: tuple[pd.DataFrame, pd.DataFrame] | None,
    base: DatasetFolder | None,
) -> list[str]:
    """Groups of inputs that nothing is known of, for each row, as one text."""
    told = set() if earlier is None else set(earlier[0]["artist"].map(artist_key))
    texts = []
    for track, artist in zip(songs["track_id"], songs["artist"], strict=True):
        named = isinstance(artist, str) and (base is not None or artist_key(artist) in told)
        elsewhere = base is not None or (seen["track_id"] == track).any()
        texts.append(" ".join([*([] if named else ["artist"]), *([] if elsewhere else ["regions"])]))
    return [texts[song] for song in rows["song"]]
