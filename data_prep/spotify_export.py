"""A user's own streaming history, as Spotify sends it on request, in; a table of the tracks that were played out.

Two layouts are known: the extended history (`Streaming_History_Audio_*.json`, in older exports `endsong_*.json`) has
`ts, ms_played, conn_country, master_metadata_track_name, master_metadata_album_artist_name, spotify_track_uri` and so
names tracks; the account data (`StreamingHistory*.json`) has `endTime, artistName, trackName, msPlayed` and does not.

Such an export has no ISRC, no sound, and no streams of anyone else: it says which tracks to look for, and nothing of
how they stream. It gives no curves.
"""

from __future__ import annotations

import csv
import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mp3model.files import InputError, written_whole

_HISTORY = re.compile(r"(?:^|/)(?:Streaming_?History|endsong)[^/]*\.json$", re.IGNORECASE)
COLUMNS = ("track_id", "isrc", "title", "artist", "plays")
# What Spotify itself counts as a stream, in milliseconds.
PLAYED = 30_000


def write_played_tracks(export: Path, out: Path) -> str:
    """Writes OUT/tracks.csv (`track_id, isrc, title, artist, plays`), most played first; returns a line about it.

    Raises:
        InputError: no history is in the export, or a file of it is no JSON list.
    """
    from data_prep.chart_formats.ids import hashed_id

    plays: dict[tuple[str, str, str], int] = {}
    for name, entries in _histories(export):
        for entry in entries:
            title = entry.get("master_metadata_track_name", entry.get("trackName"))
            artist = entry.get("master_metadata_album_artist_name", entry.get("artistName"))
            milliseconds = entry.get("ms_played", entry.get("msPlayed"))
            if not isinstance(milliseconds, int | float):
                raise InputError(f"{export}: {name}: an entry has no ms_played or msPlayed; give the whole export")
            # Podcasts and videos have no track name.
            if title and artist:
                uri = str(entry.get("spotify_track_uri") or "")
                track_id = uri.rpartition(":")[2] if uri.startswith("spotify:track:") else hashed_id(title, artist)
                key = (track_id, title, artist)
                plays[key] = plays.get(key, 0) + int(milliseconds >= PLAYED)
    rows = sorted(_one_a_track(plays), key=lambda row: (-row[1], row[0]))
    with written_whole(out / "tracks.csv") as temporary, open(temporary, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows((track, "", title, artist, count) for (track, title, artist), count in rows)
    return (
        f"{out / 'tracks.csv'}: {len(rows)} tracks that you played; no sound, no ISRC and no streams of others are in "
        "such an export"
    )


def _one_a_track(plays: dict[tuple[str, str, str], int]) -> Iterator[tuple[tuple[str, str, str], int]]:
    """The plays of a track under all its spellings, with the spelling that was played most."""
    total: dict[str, int] = {}
    for (track, _, _), count in plays.items():
        total[track] = total.get(track, 0) + count
    seen = set()
    for key, _ in sorted(plays.items(), key=lambda item: (-item[1], item[0])):
        if key[0] not in seen:
            seen.add(key[0])
            yield key, total[key[0]]


def _histories(export: Path) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Name and entries of each history file of a folder, a zip, or of one file."""
    found = False
    for name, content in _files(export):
        found = True
        try:
            entries = json.loads(content)
        except ValueError as error:
            raise InputError(f"{export}: {name} is no JSON ({error}); give the export as it was sent") from error
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise InputError(f"{export}: {name} holds no list of plays; give the export as it was sent")
        yield name, entries
    if not found:
        raise InputError(
            f"{export}: no Streaming_History_Audio_*.json, endsong_*.json or StreamingHistory*.json; give the folder "
            "or zip that Spotify sent"
        )


def _files(export: Path) -> Iterator[tuple[str, bytes]]:
    if export.is_dir():
        for path in sorted(export.rglob("*.json")):
            if _HISTORY.search(path.relative_to(export).as_posix()):
                yield path.name, path.read_bytes()
    elif export.suffix == ".json" and export.is_file():
        yield export.name, export.read_bytes()
    elif export.is_file() and zipfile.is_zipfile(export):
        with zipfile.ZipFile(io.BytesIO(export.read_bytes())) as archive:
            for name in sorted(archive.namelist()):
                if _HISTORY.search(name):
                    yield name, archive.read(name)
    elif not export.exists():
        raise InputError(f"{export}: no such folder or file; give the export that Spotify sent")
