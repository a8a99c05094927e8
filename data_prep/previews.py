"""Tracks (ISRC, title, artist) in; their previews in an audio bank, with source, date and how each was matched, out.

    python -m data_prep.previews TRACKS --provider deezer|apple --out DIR
    python -m data_prep.previews TRACKS --provider local --files FOLDER --out DIR
    python -m data_prep.previews EXPORT --provider spotify-export --out DIR

TRACKS is a dataset folder, or a table (CSV or parquet) with `track_id` and any of `isrc, title, artist`. Providers:

  deezer          by ISRC, then by title and artist
  apple           by title and artist, in one country's shop (--country)
  local           your own masters or previews in FOLDER: named by track id, by ISRC, or "Artist - Title"; NAME__1.mp3
                  and so on are further clips of NAME
  spotify-export  no sound: EXPORT is your own streaming history as Spotify sends it on request (a folder, a zip or a
                  .json); DIR gets tracks.csv, a table of what you played to use as TRACKS

DIR gets previews.parquet (with `source` and `date`) and audio-*.npy, matches.csv (how each preview was found), and
unmatched.csv (which track has none, and why). Several providers may fill one DIR: a track then has several previews.
Each version of a song has previews of its own; training draws among those of all versions (the same `song_id`).

A run may be stopped at any moment: what was fetched lies in DIR/.previews, a file a track, and is not fetched again.
Tracks that were not found are asked for again with --again; those whose store did not answer are by every run.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mp3model.files import InputError, errors_in_one_line, write_json, written_whole

if TYPE_CHECKING:
    import pandas as pd

    from data_prep.build_bank import SourceClip
    from data_prep.preview_stores import Found, Limits, Store, Wanted

PROVIDERS = ("local", "deezer", "apple", "spotify-export")
BASE_URLS = {"deezer": "https://api.deezer.com", "apple": "https://itunes.apple.com"}
# Requests in any so many seconds that a client may make, downloads counted in.
CALLS = {"deezer": (50, 5.0), "apple": (20, 60.0)}
SUFFIXES = {"deezer": ".mp3", "apple": ".m4a"}
TERMS = {
    "local": "Your own files: you need the rights to use them.",
    "deezer": (
        "Deezer: no key; at most 50 requests in any 5 s a client; links to previews expire and are never stored. What "
        "previews may be used for is in Deezer's terms of use: read them first."
    ),
    "apple": (
        "Apple's search: no key; about 20 calls a minute; previews are for promotional use. Whether that covers what "
        "you do is for you to settle with Apple's terms: read them first."
    ),
    "spotify-export": (
        "Spotify: your own export is read and nothing is fetched. Spotify's policy forbids training models on its "
        "content, and new apps get neither previews nor audio features."
    ),
}
# In seconds; shorter clips are rarely a preview, and longer ones are cut by no store.
SHORTEST = 20.0
# Stores that do not answer for so many tracks in a row will not for the next one.
PATIENCE = 5


@dataclass(frozen=True)
class Summary:
    """What a run left behind: tracks asked for, those with a preview, previews in all, tracks to be tried again."""

    tracks: int
    matched: int
    previews: int
    failed: int


def read_tracks(source: Path) -> list[Wanted]:
    """Tracks of a dataset folder or of a table, in the order of their ids.

    Raises:
        InputError: no such table, no `track_id`, a track without id or there twice, or nothing to match tracks by.
    """
    from data_prep.preview_stores import Wanted, plain_isrc

    path = source / "tracks.parquet" if source.is_dir() else source
    table = _text_table(path)
    if "track_id" not in table:
        raise InputError(f"{path}: no column 'track_id' (found {', '.join(table.columns)}); add it")
    if not {"isrc", "title", "artist"} & set(table.columns):
        raise InputError(f"{path}: none of isrc, title, artist is there; add what previews are to be matched by")
    ids = table["track_id"]
    for bad, reason in (
        (ids.isna(), "has no track_id; fill it in"),
        (ids.duplicated(), "repeats a track_id; keep one"),
    ):
        if bad.any():
            raise InputError(f"{path}: data row {int(bad.to_numpy().argmax()) + 1} {reason}")
    table = table.reindex(columns=["track_id", "isrc", "title", "artist"]).sort_values("track_id")
    rows = table.astype(object).where(table.notna(), None).itertuples(index=False)
    # Distributors' exports give tracks no other id than their ISRC.
    return [
        Wanted(track, plain_isrc(isrc) or plain_isrc(track.removeprefix("isrc:")), title, artist)
        for track, isrc, title, artist in rows
    ]


def _text_table(path: Path) -> pd.DataFrame:
    import pandas as pd
    import pyarrow

    from data_prep.build_bank import read_text_csv

    if path.suffix == ".parquet":
        try:
            table = pd.read_parquet(path)
        except (OSError, pyarrow.ArrowException) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"{path}: cannot be read as parquet ({reason}); give a folder or a table") from error
        columns = {str(name): table[name] for name in table.columns}
        return pd.DataFrame({name: values.where(values.isna(), values.astype(str)) for name, values in columns.items()})
    table = read_text_csv(path)
    return table.mask(table.apply(lambda column: column.str.strip() == ""))


def fetch_previews(
    tracks: Sequence[Wanted], store: Store, out: Path, suffix: str, shortest: float = SHORTEST, again: bool = False
) -> Summary:
    """Fetches the previews of tracks from a store and writes the bank, going on where an earlier run was stopped.

    Args:
        tracks: what is wanted.
        store: from `data_prep.preview_stores`.
        out: the bank's folder.
        suffix: of the files kept below `out/.previews`.
        shortest: seconds that a preview lasts at least, or the whole track where that is shorter.
        again: ask once more for tracks that the store did not have.

    Raises:
        InputError: `out` holds a bank that was made otherwise, or the store stopped answering.
    """
    from tqdm import tqdm

    from data_prep.preview_stores import StoreError

    place = _own_place(out)
    in_a_row = 0
    for wanted in tqdm(tracks, desc=store.name, unit="track", file=sys.stderr, disable=None):
        note = _record_path(place, store.name, wanted.track_id)
        earlier = _read_record(note)
        if earlier is not None and earlier.get("asked") == _asked(wanted):
            finished = earlier["state"] == "found" and (place / earlier["file"]).is_file()
            if finished or (earlier["state"] == "none" and not again):
                continue
        try:
            record = _fetch_one(wanted, store, place, suffix, shortest)
            in_a_row = 0
        except StoreError as error:
            record = {"state": "failed", "reason": str(error)}
            in_a_row += 1
        write_json(note, {"track_id": wanted.track_id, "asked": _asked(wanted), **record})
        if in_a_row >= PATIENCE:
            raise InputError(
                f"{store.name} failed for {PATIENCE} tracks in a row, the last one because {record['reason']}; "
                "run the same command again later: it goes on where it was"
            )
    return write_bank(tracks, out)


def _fetch_one(wanted: Wanted, store: Store, place: Path, suffix: str, shortest: float) -> dict[str, Any]:
    from data_prep.preview_stores import NoPreviewError

    def check(content: bytes, found: Found) -> str | None:
        return _fault(content, found.seconds, shortest)

    try:
        found = store.find(wanted)
        file = _file_of(store.name, found.store_id, suffix)
        # Two versions may be one track at the store, or a run was stopped between a file and its record.
        if not (place / file).is_file() or check((place / file).read_bytes(), found):
            found, content = store.fetch(wanted, found, check)
            file = _file_of(store.name, found.store_id, suffix)
            with written_whole(place / file) as temporary:
                temporary.write_bytes(content)
    except NoPreviewError as error:
        return {"state": "none", "reason": str(error)}
    return {
        "state": "found",
        "file": file,
        "how": found.how,
        "store_id": found.store_id,
        "title": found.title,
        "artist": found.artist,
        "date": datetime.now(UTC).date().isoformat(),
    }


def _fault(content: bytes, whole: float | None, shortest: float) -> str | None:
    """What is wrong with a preview's bytes, None for nothing; a song of `whole` seconds may have a shorter preview."""
    from mp3model.audio.bank import SAMPLE_RATE
    from mp3model.audio.decode import AudioError, decode

    try:
        sound = decode(content, name="the preview")
    except AudioError as error:
        return f"the preview {error.reason}"
    seconds = len(sound) / SAMPLE_RATE
    least = shortest if whole is None else min(shortest, max(whole - 1.0, 0.0))
    if seconds < least:
        return f"the preview lasts {seconds:.1f} s where {least:.1f} s or more were expected"
    return None if sound.any() else "the preview is silent"


def match_local(tracks: Sequence[Wanted], files: Path, out: Path) -> Summary:
    """Matches the user's own files to tracks, by track id, ISRC, or artist and title in their names; writes the bank.

    Raises:
        InputError: no such folder, no audio in it, no file that belongs to a track, or two files for one clip.
    """
    from data_prep.build_bank import find_clips

    place = _own_place(out)
    by_name = _names_of(tracks)
    taken: dict[str, list[dict[str, Any]]] = {}
    strangers = []
    for clip in find_clips(files):
        match = next((found for key in _keys_of_file(clip.track_id) if (found := by_name.get(key))), None)
        if match is None:
            strangers.append(clip.file)
            continue
        track_id, how = match
        path = (files / clip.file).resolve()
        taken.setdefault(track_id, []).append(
            {
                "state": "found",
                "file": str(path),
                "how": how,
                "store_id": clip.file,
                "date": datetime.fromtimestamp(path.stat().st_mtime, UTC).date().isoformat(),
            }
        )
    if not taken:
        raise InputError(
            f"{files}: none of its files belongs to one of the {len(tracks)} tracks, the first one, "
            f"{strangers[0]!r}, neither; name files by track id, by ISRC or 'Artist - Title'"
        )
    for wanted in tracks:
        note = _record_path(place, "local", wanted.track_id)
        clips = taken.get(wanted.track_id)
        record = {"state": "found", "clips": clips} if clips else {"state": "none", "reason": "no file has its name"}
        write_json(note, {"track_id": wanted.track_id, "asked": _asked(wanted), **record})
    if strangers:
        print(f"{len(strangers)} files belong to no track, e.g. {strangers[0]!r}", file=sys.stderr)
    return write_bank(tracks, out)


def _names_of(tracks: Sequence[Wanted]) -> dict[tuple[str, str], tuple[str, str]]:
    """What a file may be called → the one track that it then belongs to, and by what."""
    found: dict[tuple[str, str], set[str]] = {}
    for wanted in tracks:
        keys = [("track id", wanted.track_id.casefold())]
        keys += [("isrc", wanted.isrc)] if wanted.isrc else []
        if wanted.title and wanted.artist:
            keys.append(("title and artist", _credit_key(wanted.title, wanted.artist)))
        for key in keys:
            found.setdefault(key, set()).add(wanted.track_id)
    # A name that fits two tracks says nothing.
    return {key: (next(iter(ids)), key[0]) for key, ids in found.items() if len(ids) == 1}


def _keys_of_file(name: str) -> Iterable[tuple[str, str]]:
    """What a file's name (without suffix and clip number, with its folders) may say, the surest first."""
    import re

    from data_prep.preview_stores import plain_isrc

    yield "track id", name.casefold()
    last = name.rsplit("/", 1)[-1]
    yield "track id", last.casefold()
    for word in re.findall(r"[A-Za-z]{2}-?[A-Za-z0-9]{3}-?[0-9]{2}-?[0-9]{5}(?![0-9A-Za-z])", last):
        if isrc := plain_isrc(word):
            yield "isrc", isrc
    artist, dash, title = re.sub(r"^\d{1,3}[\s._-]+", "", last).partition(" - ")
    if dash:
        yield "title and artist", _credit_key(title, artist)


def _credit_key(title: str, artist: str) -> str:
    from mp3model.tables.titles import parse_title
    from mp3model.tables.tracks import artist_key

    parsed = parse_title(title)
    return "|".join((artist_key(artist), parsed.name, parsed.kind, parsed.detail))


def write_bank(tracks: Sequence[Wanted], out: Path) -> Summary:
    """Makes the bank of everything at hand for these tracks, and the lists of what was matched and what was not."""
    from data_prep.build_bank import build_bank
    from mp3model.audio.bank import SAMPLE_RATE, write_index

    clips, found, missing = _at_hand(tracks, out / ".previews")
    _write_rows(out / "unmatched.csv", ("track_id", "source", "state", "reason"), missing)
    failed = sum(row["state"] == "failed" for row in missing)
    if not clips:
        raise InputError(f"{out / 'unmatched.csv'}: none of the {len(tracks)} tracks has a preview; see there for why")
    index = build_bank(out / ".previews", clips, out).index
    samples = {(track, preview): count for track, preview, count in index[_SIZES].itertuples(index=False)}
    # What could not be decoded is in rejected.csv.
    found = [row for row in found if (row["track_id"], row["preview"]) in samples]
    for row in found:
        row["seconds"] = round(samples[row["track_id"], row["preview"]] / SAMPLE_RATE, 2)
    _write_rows(out / "matches.csv", MATCHED, found)
    write_index(out, _with_source(index, found))
    return Summary(len(tracks), index["track_id"].nunique(), len(index), failed)


_KEY = ["track_id", "preview"]
_SIZES = [*_KEY, "samples"]
MATCHED = ("track_id", "preview", "source", "how", "store_id", "title", "artist", "seconds", "date")


def _at_hand(
    tracks: Sequence[Wanted], place: Path
) -> tuple[list[SourceClip], list[dict[str, Any]], list[dict[str, Any]]]:
    """Clips of the tracks over all providers, counted a track; a row for each; a row for each track that has none."""
    from data_prep.build_bank import SourceClip

    clips, found, missing = [], [], []
    providers = [name for name in PROVIDERS if (place / name).is_dir()]
    for wanted in tracks:
        number = 0
        for provider in providers:
            record = _read_record(_record_path(place, provider, wanted.track_id))
            if record is None:
                continue
            entries = record.get("clips") or ([record] if record["state"] == "found" else [])
            for entry in entries:
                clips.append(SourceClip(wanted.track_id, number, entry["file"]))
                row = {"track_id": wanted.track_id, "preview": number, "source": provider}
                found.append(row | {name: entry.get(name, "") for name in MATCHED if name not in row})
                number += 1
            if not entries:
                missing.append({"track_id": wanted.track_id, "source": provider, **_only(record, "state", "reason")})
    return clips, found, missing


def _with_source(index: pd.DataFrame, found: list[dict[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    told = pd.DataFrame(found)[[*_KEY, "source", "date"]]
    merged = index.merge(told, on=_KEY, how="left", validate="one_to_one")
    return merged.assign(date=pd.to_datetime(merged["date"]).astype("datetime64[s]"))


def _own_place(out: Path) -> Path:
    """The folder of downloads and records, made; a bank that was made otherwise is not overwritten."""
    from data_prep.build_bank import make_folder

    place = out / ".previews"
    if (out / "previews.parquet").exists() and not place.is_dir():
        raise InputError(
            f"{out}: holds an audio bank of another command; give --out another folder, or bring its files in with "
            "--provider local"
        )
    make_folder(place)
    return place


def _asked(wanted: Wanted) -> list[str | None]:
    """What a track was asked for by: a record of other texts is out of date."""
    return [wanted.isrc, wanted.title, wanted.artist]


def _record_path(place: Path, provider: str, track_id: str) -> Path:
    # Track ids may hold slashes, and be longer than a file name.
    return place / provider / f"{hashlib.sha256(track_id.encode()).hexdigest()[:32]}.json"


def _read_record(path: Path) -> dict[str, Any] | None:
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and "state" in record else None


def _file_of(provider: str, store_id: str, suffix: str) -> str:
    safe = (
        store_id if store_id.isalnum() and len(store_id) <= 40 else hashlib.sha256(store_id.encode()).hexdigest()[:32]
    )
    return f"{provider}/{safe}{suffix}"


def _only(record: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: record[name] for name in names}


def _write_rows(path: Path, names: Sequence[str], rows: Iterable[dict[str, Any]]) -> None:
    with written_whole(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _limits(options: argparse.Namespace) -> Limits:
    from data_prep.preview_stores import Limits

    calls, seconds = CALLS[options.provider]
    if options.calls is not None:
        # Slower than the store allows is a choice, faster is not.
        calls = min(calls, options.calls)
    return Limits(calls, seconds, first_wait=options.first_wait)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    from data_prep.build_bank import positive

    parser = argparse.ArgumentParser(
        prog="python -m data_prep.previews", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("tracks", type=Path, metavar="TRACKS", help="dataset folder, table, or Spotify's export")
    add("--provider", required=True, choices=PROVIDERS)
    add("--out", type=Path, required=True, metavar="DIR", help="folder of the bank; the dataset folder itself is fine")
    add("--files", type=Path, metavar="FOLDER", help="your own audio files, with --provider local")
    add("--country", default="US", help="shop of --provider apple (US)")
    add("--shortest", type=float, default=SHORTEST, metavar="S", help=f"seconds of a preview at least ({SHORTEST:g})")
    add("--calls", type=positive, metavar="N", help="fewer calls in a store's span of time than it allows")
    add("--first-wait", type=float, default=0.5, metavar="S", help="seconds before the second try of a call (0.5)")
    add("--again", action="store_true", help="ask once more for tracks that the store did not have")
    add("--limit", type=positive, metavar="N", help="only the first N tracks")
    add("--base-url", help="another server that answers like the store")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command."""
    options = _arguments(arguments)
    with errors_in_one_line():
        print(TERMS[options.provider], file=sys.stderr)
        if options.provider == "spotify-export":
            from data_prep.spotify_export import write_played_tracks

            print(write_played_tracks(options.tracks, options.out))
            return 0
        summary = _run(options)
    print(
        f"{options.out}: {summary.previews} previews of {summary.matched} of {summary.tracks} tracks; see matches.csv, "
        f"unmatched.csv" + (f"; {summary.failed} to try again" if summary.failed else "")
    )
    return 0


def _run(options: argparse.Namespace) -> Summary:
    from data_prep import preview_stores

    tracks = read_tracks(options.tracks)[: options.limit]
    if (options.provider == "local") != (options.files is not None):
        raise InputError(f"--provider {options.provider}: --files FOLDER goes with --provider local, and only with it")
    if options.provider == "local":
        return match_local(tracks, options.files, options.out)
    import httpx

    note = _own_place(options.out) / options.provider / "last_call"
    note.parent.mkdir(exist_ok=True)
    base_url = options.base_url or BASE_URLS[options.provider]
    if httpx.URL(base_url).scheme not in ("http", "https"):
        raise InputError(f"--base-url {base_url!r} is no http or https address")
    if options.provider == "deezer":
        store = preview_stores.deezer(_limits(options), base_url, note)
    else:
        store = preview_stores.apple(_limits(options), base_url, note, options.country)
    try:
        return fetch_previews(
            tracks, store, options.out, SUFFIXES[options.provider], options.shortest, again=options.again
        )
    finally:
        store.close()


if __name__ == "__main__":
    sys.exit(main())
