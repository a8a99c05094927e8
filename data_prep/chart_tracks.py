"""What chart files and track tables say of tracks in; one row a track with its song, and their contradictions, out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data_prep.chart_formats.coded import EXAMPLES, Codes, SourceRows
from data_prep.chart_merge import CodedCurves
from data_prep.versions import assign_songs
from mp3model.files import InputError
from mp3model.tables.tracks import artist_key, release_window


@dataclass
class TrackTable:
    """Texts and descriptors of tracks, indexed by track code, and where sources contradict each other."""

    frame: pd.DataFrame
    conflicts: dict[str, dict[str, Any]]


def track_table(sources: Sequence[SourceRows], tracks: Codes) -> TrackTable:
    """One title, artist, ISRC, release date and set of descriptors for each track.

    Track tables come before chart rows, the larger table first, each field from the first that has it. Of chart rows,
    the spelling that most files have counts, of equally frequent ones the longest (chart files often name the main
    artist only), then the first in the alphabet.

    Returns:
        Columns `title, artist, isrc, release` (text) and `x_*` (float); the tracks of the sources, by code.
    """
    tables = sorted((s for s in sources if s.kind == "tracks"), key=lambda s: (-len(s.info), s.name))
    details = [s.info for s in sources if s.kind in ("chart", "export") and s.info is not None]
    spelled = _spellings(sources)
    frames = [t.info for t in tables] + [_most_frequent(spelled)] + details
    conflicts = _text_conflicts(spelled, tables, tracks)
    frame = pd.DataFrame(index=pd.Index([], dtype=np.int64))
    for number, other in enumerate(frames):
        other = other.set_axis(other.index.astype(np.int64))
        for column in [c for c in other if str(c).startswith("x_") and c in frame]:
            _count_differences(frame[column], other[column], str(column), conflicts, tracks)
        frame = other if number == 0 else frame.combine_first(other)
    texts = ["title", "artist", "isrc", "release"]
    numbers = [c for c in frame if str(c).startswith("x_")]
    return TrackTable(frame.reindex(columns=[*texts, *numbers]).sort_index(), conflicts)


def with_songs(
    details: pd.DataFrame,
    curves: CodedCurves,
    used: Sequence[SourceRows],
    tracks: Codes,
    merge_kinds: Sequence[str],
    songs_file: Path | None,
) -> pd.DataFrame:
    """The tracks table: every track of the curves, of totals pages and of the track tables, with its song.

    Args:
        details: from `track_table`.
        curves: of all charts.
        used: the sources.
        tracks: what their codes stand for.
        merge_kinds: kinds of versions that are one song, for `assign_songs`.
        songs_file: songs of the user's own, for `read_songs`; a track that it does not name keeps what its title says.
    """
    listed = [curves.track_ids[np.unique(curves.track)]]
    listed += [np.array(tracks.texts, dtype=object)[np.unique(s.info.index)] for s in used if s.kind == "tracks"]
    listed += [np.array(tracks.texts, dtype=object)[s.info["track"].unique()] for s in used if s.kind == "totals"]
    ids = np.unique(np.concatenate(listed).astype(object))
    frame = details.set_axis([tracks.texts[int(code)] for code in details.index]).reindex(ids)
    window = release_window(frame.pop("release"))
    full = window["earliest"] == window["latest"]
    table = pd.DataFrame(
        {
            "track_id": ids,
            "title": frame.pop("title").to_numpy(),
            "artist": frame.pop("artist").to_numpy(),
            "isrc": frame.pop("isrc").to_numpy(),
            "release_date": window["earliest"].where(full).to_numpy(),
            "release_latest": window["latest"].where(~full).to_numpy(),
        }
    )
    for name in ("title", "artist", "isrc"):
        table[name] = table[name].where(table[name].notna(), None)
    texts = table[["track_id", "title", "artist", "isrc"]]
    songs = assign_songs(texts, merge=merge_kinds).set_index("track_id").loc[ids]
    table.insert(1, "song_id", songs["song_id"].to_numpy())
    if songs_file is not None:
        table["song_id"] = read_songs(songs_file).reindex(ids).fillna(songs["song_id"]).to_numpy()
    table["kind"] = songs["kind"].to_numpy()
    return pd.concat([table, frame.astype(float).reset_index(drop=True)], axis=1)


def read_songs(path: Path) -> pd.Series:
    """The user's own songs: `track_id, song_id` in parquet or CSV → song ids by track id.

    Raises:
        InputError: no table, a column is missing, or a track is there twice.
    """
    try:
        table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, dtype=str)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: cannot be read as a table ({reason}); give parquet or CSV") from error
    for name in ("track_id", "song_id"):
        if name not in table:
            raise InputError(f"{path}: column {name!r} is missing; give track_id and song_id")
    twice = table["track_id"][table["track_id"].duplicated()]
    if len(twice):
        raise InputError(f"{path}: track {twice.iloc[0]!r} is there twice; keep one row")
    return table.set_index("track_id")["song_id"]


def _spellings(sources: Sequence[SourceRows]) -> pd.DataFrame:
    parts = [
        pd.DataFrame({"track": codes, "title": titles, "artist": artists, "isrc": isrcs}, dtype=object)
        for source in sources
        for codes, titles, artists, isrcs in source.texts
    ]
    empty = pd.DataFrame({"track": [], "title": [], "artist": [], "isrc": []}, dtype=object)
    return pd.concat([empty, *parts]).astype({"track": np.int64})


def _most_frequent(spelled: pd.DataFrame) -> pd.DataFrame:
    columns = {}
    for name in ("title", "artist", "isrc"):
        counted = spelled.dropna(subset=[name]).groupby(["track", name]).size().rename("count").reset_index()
        counted["length"] = counted[name].str.len()
        best = counted.sort_values(["track", "count", "length", name], ascending=[True, False, False, True])
        columns[name] = best.drop_duplicates("track").set_index("track")[name]
    index = pd.Index(np.unique(spelled["track"].to_numpy()), name="track")
    return pd.DataFrame(columns).reindex(index).astype(object)


def _text_conflicts(spelled: pd.DataFrame, tables: Sequence[SourceRows], tracks: Codes) -> dict[str, dict[str, Any]]:
    """Tracks whose sources give titles, main artists or ISRCs that differ by more than case and punctuation."""
    conflicts: dict[str, dict[str, Any]] = {}
    for name in ("title", "artist", "isrc"):
        given = [spelled[["track", name]]]
        given += [t.info[[name]].rename_axis("track").reset_index() for t in tables if name in t.info]
        pairs = pd.concat(given).dropna().drop_duplicates()
        pairs = pairs[pairs.duplicated("track", keep=False)]
        plain = {text: artist_key(text) for text in pairs[name].unique()} if name != "isrc" else {}
        pairs = pairs.assign(plain=pairs[name].map(lambda text, plain=plain: plain.get(text, text)))
        kinds = pairs.drop_duplicates(["track", "plain"])
        kinds = kinds[kinds.duplicated("track", keep=False)].sort_values(["track", "plain"], kind="stable")
        if len(kinds):
            shown = kinds.groupby("track")[name].agg(" | ".join).head(EXAMPLES)
            conflicts[name] = {
                "tracks": int(kinds["track"].nunique()),
                "examples": [f"{tracks.texts[c]}: {t}" for c, t in zip(shown.index.tolist(), shown, strict=True)],
            }
    return conflicts


def _count_differences(
    kept: pd.Series, other: pd.Series, column: str, conflicts: dict[str, dict[str, Any]], tracks: Codes
) -> None:
    both = kept.dropna().index.intersection(other.dropna().index)
    differ = both[~np.isclose(kept.loc[both], other.loc[both], rtol=1e-2, atol=1e-3)]
    if len(differ):
        found = conflicts.setdefault(column, {"tracks": 0, "examples": []})
        found["tracks"] += len(differ)
        room = EXAMPLES - len(found["examples"])
        found["examples"] += [
            f"{tracks.texts[int(c)]}: {kept.loc[c]:g} kept, {other.loc[c]:g} elsewhere" for c in differ[:room]
        ]
