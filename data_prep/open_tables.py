"""Tables of an open dataset (titles, descriptors, popularity or plays), and clips if any, in; a dataset folder out.

  SpotGenTrack  `Data Sources/spotify_{tracks,artists,albums}.csv` and `Features Extracted/low_level_audio_features.csv`
                (Martín-Gutiérrez et al. 2020); the target is the tracks' popularity, 0 to 100
  Music4All     tab-separated `id_information.csv`, `id_metadata.csv`, `audios/ID.mp3` and, where present,
                `listening_history.csv` (Santana et al. 2020); the target is popularity, 0 to 100
  counts        one table with track_id, play counts and numbers of listeners, as KKBOX's was; the target is the plays

None has dates of listens: the split is by artist. An artist's popularity is left out where a table has it: it was taken
on the day of the target.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mp3model.files import InputError

if TYPE_CHECKING:
    import pandas as pd

SPOTGENTRACK_SOURCE = "SpotGenTrack (Martín-Gutiérrez et al. 2020), popularity on the day it was collected"
MUSIC4ALL_SOURCE = "Music4All (Santana et al. 2020), popularity on the day it was collected"
COUNTS_SOURCE = "a table of play and listener counts"
_SPOTIFY_DESCRIPTORS = [
    "acousticness",
    "danceability",
    "duration_ms",
    "energy",
    "instrumentalness",
    "key",
    "liveness",
    "loudness",
    "mode",
    "speechiness",
    "tempo",
    "time_signature",
    "valence",
]
_MUSIC4ALL_DESCRIPTORS = ["danceability", "energy", "key", "mode", "valence", "tempo", "duration_ms"]
_COUNT_NAMES = {
    "track_id": "trackid songid id",
    "total": "plays playcount streams listens",
    "y_listeners": "listeners listenercount users usercount numberoflisteners",
    "region": "region country market territory",
    "title": "title trackname songname name",
    "artist": "artist artistname",
    "isrc": "isrc",
    "release_date": "releasedate",
}


def convert_spotgentrack(
    folder: Path, out: Path, clips: Path | None = None, workers: int | None = None, seed: int = 0
) -> dict[str, int]:
    """Writes the dataset folder of SpotGenTrack's tables; the tables hold no sound, `clips` are the user's own.

    Args:
        folder: with the tables, anywhere below it.
        out: the dataset folder.
        clips: audio files named by track id, taken into the bank.
        workers: decoding processes.
        seed: of the split by artist.

    Returns:
        Counts of rows and clips.

    Raises:
        InputError: a table or a column is missing, or a value is no number.
    """
    import pandas as pd

    path = _below(folder, "spotify_tracks.csv")
    rows = _table(path, ("id", "name", "popularity"), ("album_id", "artists_id", *_SPOTIFY_DESCRIPTORS))
    artists = _table(_below(folder, "spotify_artists.csv"), ("id", "name"))
    names = artists.drop_duplicates("id").set_index("id")["name"]
    albums = _table(_below(folder, "spotify_albums.csv"), ("id", "release_date")).drop_duplicates("id")
    repeated = rows["id"].duplicated()
    rows = rows[~repeated].reset_index(drop=True)
    table = pd.DataFrame({"track_id": rows["id"], "title": rows["name"], "artist": _credits(rows, names)})
    album = rows["album_id"] if "album_id" in rows else pd.Series(index=rows.index, dtype=object)
    table["release_date"] = album.map(albums.set_index("id")["release_date"])
    described = {name: _numbers(rows[name], path) for name in _SPOTIFY_DESCRIPTORS if name in rows}
    table = pd.concat([table, pd.DataFrame(described).add_prefix("x_")], axis=1)
    low = next(iter(sorted(folder.rglob("low_level_audio_features.csv"))), None)
    if low is not None:
        table = table.join(_descriptors(low, "track_id"), on="track_id")
    targets = pd.DataFrame({"track_id": rows["id"], "total": _numbers(rows["popularity"], path)})
    counts = _write(out, table, targets, SPOTGENTRACK_SOURCE, clips, workers, seed)
    return counts | {"rows_repeated": int(repeated.sum())}


def _credits(rows: pd.DataFrame, names: pd.Series) -> list[str | None]:
    """Names of the artists whose ids a cell lists, e.g. "['3mx…', '4ab…']"."""
    credits: list[str | None] = []
    for cell in rows["artists_id"] if "artists_id" in rows else [None] * len(rows):
        try:
            ids = ast.literal_eval(cell) if isinstance(cell, str) else []
        except (ValueError, SyntaxError):
            ids = []
        known = [str(names[i]) for i in ids if i in names.index] if isinstance(ids, list) else []
        credits.append(", ".join(known) or None)
    return credits


def convert_music4all(folder: Path, out: Path, workers: int | None = None, seed: int = 0) -> dict[str, int]:
    """Writes the dataset folder of Music4All; see `convert_spotgentrack` for what is returned and raised."""
    import pandas as pd

    path = _below(folder, "id_metadata.csv")
    about = _table(_below(folder, "id_information.csv"), ("id", "artist", "song"), delimiter="\t")
    rows = _table(path, ("id", "popularity"), ("release", *_MUSIC4ALL_DESCRIPTORS), "\t")
    repeated = rows["id"].duplicated()
    rows = rows[~repeated].merge(about.drop_duplicates("id"), on="id", how="left")
    table = pd.DataFrame({"track_id": rows["id"], "title": rows["song"], "artist": rows["artist"]})
    table["release_date"] = rows.get("release")
    described = {f"x_{name}": _numbers(rows[name], path) for name in _MUSIC4ALL_DESCRIPTORS if name in rows}
    table = pd.concat([table, pd.DataFrame(described)], axis=1)
    targets = pd.DataFrame({"track_id": rows["id"], "total": _numbers(rows["popularity"], path)})
    history = next(iter(sorted(folder.rglob("listening_history.csv*"))), None)
    if history is not None:
        targets["y_listens"] = targets["track_id"].map(_listens_by_recording(history)).fillna(0.0)
    audio = folder / "audios"
    counts = _write(out, table, targets, MUSIC4ALL_SOURCE, audio if audio.is_dir() else None, workers, seed)
    return counts | {"rows_repeated": int(repeated.sum())}


def _listens_by_recording(history: Path) -> Mapping[str, float]:
    from collections import Counter

    from data_prep.listen_readers import Layout, role_tables

    listens: Counter[str] = Counter()
    for block in role_tables(history, Layout(quoted=False), ("recording",), ()):
        counts = block.column("recording").value_counts()
        listens.update({entry["values"]: float(entry["counts"]) for entry in counts.to_pylist()})
    return listens


def convert_counts(
    path: Path, out: Path, clips: Path | None = None, workers: int | None = None, seed: int = 0
) -> dict[str, int]:
    """Writes the dataset folder of a table of plays and listeners a track (and region, else GLOBAL).

    The targets are `total` (plays), `y_listeners` and, where both are 1 or more, `y_hit_score`: log10 of the plays
    times log10 of the listeners (arXiv 1704.01280, which does not state the base). See `convert_spotgentrack`.
    """
    import numpy as np
    import pandas as pd

    from data_prep.regions import region_code

    rows = _renamed(path)
    for name in ("total", "y_listeners"):
        rows[name] = _numbers(rows[name], path)
        if (rows[name] < 0).any():
            raise InputError(f"{path}: data row {1 + int((rows[name] < 0).argmax())}: a count is negative; correct it")
    if "region" in rows:
        codes = rows["region"].map({text: region_code(text) for text in rows["region"].dropna().unique()})
        if codes.isna().any():
            row = int(codes.isna().to_numpy().argmax())
            raise InputError(
                f"{path}: data row {row + 1}: region {rows['region'].iloc[row]!r} is no country that is known; use a "
                "code such as US"
            )
        rows["region"] = codes
    targets = rows[[name for name in ("track_id", "region", "total", "y_listeners") if name in rows]].copy()
    heard = (rows["total"] >= 1) & (rows["y_listeners"] >= 1)
    logs = [np.log10(rows[name].where(heard, 1.0)) for name in ("total", "y_listeners")]
    targets["y_hit_score"] = (logs[0] * logs[1]).where(heard)
    texts = [name for name in ("title", "artist", "isrc", "release_date") if name in rows]
    table = rows[["track_id", *texts]].groupby("track_id", as_index=False, sort=False).first()
    return _write(out, pd.DataFrame(table), targets, COUNTS_SOURCE, clips, workers, seed)


def _renamed(path: Path) -> pd.DataFrame:
    rows = _table(path, (), None, _delimiter(path))
    plain = {re.sub(r"[\W_]+", "", name).casefold(): name for name in reversed(rows.columns)}
    found = {
        plain[alias]: ours
        for ours, names in _COUNT_NAMES.items()
        if (alias := next((name for name in names.split() if name in plain), None))
    }
    for ours, theirs in (("track_id", "track_id"), ("total", "plays"), ("y_listeners", "listeners")):
        if ours not in found.values():
            raise InputError(f"{path}: no column {theirs!r} (found {', '.join(rows.columns)}); add it")
    rows = rows[list(found)].rename(columns=found)
    if rows["track_id"].isna().any():
        raise InputError(f"{path}: data row {1 + int(rows['track_id'].isna().to_numpy().argmax())} has no track_id")
    return rows


def _delimiter(path: Path) -> str:
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a table of counts")
    with open(path, encoding="utf-8-sig", errors="replace") as stream:
        first = stream.readline(1 << 20)
    return next((mark for mark in "\t;" if mark in first), ",")


def _below(folder: Path, name: str) -> Path:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the dataset's")
    found = sorted(folder.rglob(name))
    if not found:
        raise InputError(f"{folder}: no {name} in it or below; give the folder of the unpacked dataset")
    return found[0]


def _table(path: Path, needed: Sequence[str], useful: Sequence[str] | None = (), delimiter: str = ",") -> pd.DataFrame:
    """Columns of a CSV as text, missing where empty; `useful` None takes all."""
    from data_prep.build_bank import read_text_csv

    options: dict[str, Any] = {"sep": delimiter}
    if useful is not None:
        wanted = {*needed, *useful}
        options["usecols"] = lambda name: name in wanted
    rows = read_text_csv(path, **options)
    for name in needed:
        if name not in rows:
            raise InputError(f"{path}: no column {name!r} (found {', '.join(rows.columns) or 'none'}); add it")
    return rows.mask(rows.apply(lambda column: column.str.strip() == ""))


def _numbers(text: pd.Series, path: Path) -> pd.Series:
    import pandas as pd

    values = pd.to_numeric(text, errors="coerce").astype(float)
    bad = (values.isna() & text.notna()) | values.abs().eq(float("inf"))
    if bad.any():
        row = int(bad.to_numpy().argmax())
        raise InputError(
            f"{path}: data row {row + 1}: {text.name} {text.iloc[row]!r} is no number; correct or empty it"
        )
    return values


def _descriptors(path: Path, key: str) -> pd.DataFrame:
    """All columns of numbers of a table as `x_*`, by its key; the running number that pandas wrote is none."""
    import pandas as pd

    rows = _table(path, (key,), None).drop_duplicates(key).set_index(key)
    columns = {
        "x_" + re.sub(r"\W+", "_", name).strip("_").casefold(): _numbers(rows[name], path)
        for name in rows.columns
        if name and not name.startswith("Unnamed")
    }
    return pd.DataFrame(columns, index=rows.index)


def _last(track_id: str) -> str:
    return track_id.rsplit("/", 1)[-1]


def _write(
    out: Path,
    table: pd.DataFrame,
    targets: pd.DataFrame,
    source: str,
    clips: Path | None,
    workers: int | None,
    seed: int,
) -> dict[str, int]:
    """The dataset folder of tracks (title, artist, release as text) and targets, with a bank of the clips that fit."""
    from data_prep.build_bank import build_bank, find_clips, make_folder
    from data_prep.versions import assign_songs
    from mp3model.tables.folder import DatasetFolder, write_dataset
    from mp3model.tables.schema import TEXT
    from mp3model.tables.splits import make_splits
    from mp3model.tables.tracks import release_window

    make_folder(out)
    # Without dataset.json the folder is refused, so a stopped run cannot pass for a dataset.
    (out / "dataset.json").unlink(missing_ok=True)
    described = [name for name in table if str(name).startswith("x_")]
    tracks = table.reindex(columns=["track_id", "title", "artist", "isrc", "release_date", *described])
    texts = ["title", "artist", "isrc", "release_date"]
    tracks[texts] = tracks[texts].astype(TEXT)
    window = release_window(tracks["release_date"])
    full = window["earliest"] == window["latest"]
    tracks["release_date"] = window["earliest"].where(full)
    tracks.insert(5, "release_latest", window["latest"].where(~full))
    songs = assign_songs(tracks[["track_id", "title", "artist", "isrc"]])
    tracks.insert(1, "song_id", songs["song_id"].to_numpy())
    targets = targets.assign(debut_rank=float("nan"))
    if "region" not in targets:
        targets["region"] = "GLOBAL"
    counts = {"tracks": len(tracks), "targets": len(targets)}
    if clips is not None:
        known = set(tracks["track_id"])
        found = find_clips(clips)
        # Folders that clips are sorted into are no part of an id, unless they are.
        named = [clip if clip.track_id in known else replace(clip, track_id=_last(clip.track_id)) for clip in found]
        mine = [clip for clip in named if clip.track_id in known]
        if not mine:
            raise InputError(
                f"{clips}: none of its {len(found)} files is named by a track id, the first one is {found[0].file!r}"
            )
        report = build_bank(clips, mine, out, workers)
        counts |= {"clips": len(report.index), "rejected": len(report.rejected), "strangers": len(found) - len(mine)}
    info = {"frequency": "W", "sources": [source], "rows": counts}
    dataset = DatasetFolder(path=out, info=dict(info), tracks=tracks, targets=targets)
    write_dataset(out, tracks=tracks, targets=targets, splits=make_splits(dataset, seed=seed), info=info)
    return counts
