"""A folder of audio files in; an audio bank (int16 mono 16 kHz shards and their index) and what was rejected out.

    python -m data_prep.build_bank FOLDER --out DIR

Which file belongs to which track: the track is named by the file's path below FOLDER without its suffix, so
`abba/waterloo.mp3` is track `abba/waterloo`. Two underscores and a number at the end of the name count the clips of
one track: `waterloo__0.mp3` and `waterloo__1.mp3` are previews 0 and 1 of track `waterloo`. With `--table`, a CSV with
the columns `file, track_id` and optionally `preview`, only the files it lists are taken and named as it says; without
a `preview` column the files of a track are counted in the order of the table.

DIR receives `previews.parquet`, `audio-*.npy`, `rejected.csv` (file, reason) and `duplicates.csv` (clips of different
tracks with the same sound). Its folder `.build` remembers for each shard which files, of what size and date, it was
made of: a run that was stopped goes on where it was, and a later run decodes only the shards whose files have changed.
It keeps new shards until all are there, so that a bank which is in use stays whole as long, and may be deleted once the
bank is complete. The result does not depend on the number of workers, nor on whether they
are processes here or those of a Dask cluster (--scheduler), whose machines must see FOLDER and DIR under those paths.
"""

from __future__ import annotations

import argparse
import fnmatch
import itertools
import json
import os
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.cluster import HELP
from mp3model.files import InputError, flush, refusals_named, written_whole

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

# About 30 MB of half-minute clips: few enough shards for a million clips, enough of them to keep a machine busy.
CLIPS_A_SHARD = 32
# Shards that an older version decoded differently must not be taken for finished ones.
_RECORD_VERSION = 1
_NUMBERED = re.compile(r"(?P<track>.+)__(?P<preview>\d{1,6})")


@dataclass(frozen=True, order=True)
class SourceClip:
    """One audio file: the track and preview that it becomes, and its path below the folder, with slashes."""

    track_id: str
    preview: int
    file: str


@dataclass(frozen=True)
class BankReport:
    """What a build made.

    Attributes:
        index: rows of `previews.parquet` (see `mp3model.audio.bank`).
        rejected: columns file, reason.
        duplicates: columns sha256, track_id, preview, file: clips of different tracks with the same sound.
    """

    index: pd.DataFrame
    rejected: pd.DataFrame
    duplicates: pd.DataFrame


def find_clips(
    folder: str | os.PathLike[str], pattern: str | None = None, table: str | os.PathLike[str] | None = None
) -> list[SourceClip]:
    """Lists the audio files of a folder and names their tracks by the rule in the module's docstring.

    Args:
        folder: searched with its sub-folders; hidden files and folders are left out.
        pattern: shell pattern that a path below the folder must match; `*` matches slashes too.
        table: CSV with `file, track_id[, preview]` instead of the rule.

    Returns:
        Clips sorted by (track_id, preview).

    Raises:
        InputError: no such folder, no audio in it, a damaged table, or two files for one preview.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the folder that holds the audio files")
    clips = _clips_of_table(Path(table)) if table else [_named_clip(file) for file in audio_files(folder)]
    clips = sorted(clip for clip in clips if pattern is None or fnmatch.fnmatchcase(clip.file, pattern))
    if not clips:
        from mp3model.audio.decode import SUFFIXES

        matching = f" matching {pattern!r}" if pattern else ""
        raise InputError(
            f"{table or folder}: no audio files{matching}; files are taken that end in {', '.join(SUFFIXES)}"
        )
    for one, other in itertools.pairwise(clips):
        if (one.track_id, one.preview) == (other.track_id, other.preview):
            raise InputError(
                f"{folder}: {one.file!r} and {other.file!r} are both preview {one.preview} of track "
                f"{one.track_id!r}; rename one (NAME__1.mp3 is preview 1) or name them by --table"
            )
    return clips


def build_bank(
    folder: str | os.PathLike[str],
    clips: Sequence[SourceClip],
    out: str | os.PathLike[str],
    workers: int | None = None,
    max_seconds: float | None = None,
    scheduler: str | None = None,
) -> BankReport:
    """Decodes files into a bank, in parallel, going on where an earlier run was stopped.

    With more than one worker the calling script needs the `if __name__ == "__main__"` guard of multiprocessing.

    Args:
        folder: where the files of `clips` lie.
        clips: what to decode; which clip goes to which shard depends on this list alone.
        out: the bank's folder.
        workers: processes; None takes one for each core at hand.
        max_seconds: longest clip taken; None takes the limit of `mp3model.audio.decode`.
        scheduler: of a Dask cluster instead of `workers`, see `data_prep.cluster`.

    Raises:
        InputError: every file was rejected (`rejected.csv` is written before), or a worker process died.
    """
    from mp3model.audio.decode import MAX_SECONDS

    folder, out = Path(folder), Path(out)
    make_folder(out / ".build")
    jobs = _jobs(folder, sorted(clips), MAX_SECONDS if max_seconds is None else max_seconds)
    records = {job["shard"]: record for job in jobs if (record := _finished_record(out, job))}
    missing = [job for job in jobs if job["shard"] not in records]
    done = sum(len(job["sources"]) for job in jobs if job["shard"] in records)
    with _progress(len(clips), done) as progress:
        for record in _build_shards(folder, out, missing, workers or _cores(), scheduler):
            records[record["shard"]] = record
            progress.update(len(record["sources"]))
    return _finish(out, [records[job["shard"]] for job in jobs])


def make_folder(path: Path) -> None:
    """Makes a folder for output with its parents; an InputError says where that is impossible."""
    for parent in (path, *path.parents):
        if parent.exists() and not parent.is_dir():
            raise InputError(f"{parent}: is a file; give --out a folder")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be made ({error.strerror}); give --out another folder") from error


def audio_files(folder: Path) -> Iterator[str]:
    """Paths below a folder, with slashes, of the files whose names end like audio; hidden ones are left out."""
    from mp3model.audio.decode import SUFFIXES

    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            # Names with a leading dot hold no sound: macOS leaves ._song.mp3 beside song.mp3 on foreign disks.
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                yield (Path(place) / name).relative_to(folder).as_posix()


def _named_clip(file: str) -> SourceClip:
    # Old archives hold names in other encodings; a track id has to be text that a table can store.
    name = _shown(file.rsplit(".", 1)[0])
    numbered = _NUMBERED.fullmatch(name)
    if numbered:
        return SourceClip(numbered["track"], int(numbered["preview"]), file)
    return SourceClip(name, 0, file)


def _clips_of_table(table: Path) -> list[SourceClip]:
    rows = read_text_csv(table)
    for name in ("file", "track_id"):
        if name not in rows:
            raise InputError(f"{table}: no column {name!r} (found {', '.join(map(str, rows.columns))}); add it")
    counted = rows.groupby("track_id").cumcount().astype(str)
    clips = []
    columns = (rows["file"], rows["track_id"], rows.get("preview", counted))
    for line, (file, track_id, preview) in enumerate(zip(*columns, strict=True), start=2):
        for name, value in (("file", file), ("track_id", track_id)):
            if not value.strip():
                raise InputError(f"{table}: line {line}: {name} is empty; fill it in or drop the line")
        if not re.fullmatch(r"\d{1,6}", preview):
            raise InputError(f"{table}: line {line}: preview {preview!r} is no whole number from 0")
        clips.append(SourceClip(track_id, int(preview), file))
    return clips


def read_text_csv(path: Path, **options: Any) -> pd.DataFrame:
    """A CSV as text, nothing taken for missing: there are songs called "None" and "NA".

    Raises:
        InputError: the file is missing, empty or no UTF-8 CSV.
    """
    import pandas as pd

    if not path.is_file():
        raise InputError(f"{path}: no such file; give a CSV")
    try:
        return pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", **options)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: cannot be read as CSV ({reason}); save it as UTF-8 CSV") from error


def _jobs(folder: Path, clips: list[SourceClip], max_seconds: float) -> list[dict[str, Any]]:
    """What each shard is made of; a shard whose record says the same is finished."""
    return [
        {
            "version": _RECORD_VERSION,
            "shard": shard,
            "max_seconds": max_seconds,
            "sources": [
                [clip.track_id, clip.preview, clip.file, *_size_and_date(folder / clip.file)]
                for clip in clips[first : first + CLIPS_A_SHARD]
            ],
        }
        for shard, first in enumerate(range(0, len(clips), CLIPS_A_SHARD))
    ]


def _size_and_date(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:  # the decoder gives the reason
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _finished_record(out: Path, job: dict[str, Any]) -> dict[str, Any] | None:
    from mp3model.audio.bank import shard_name

    try:
        record = json.loads(_record_path(out, job["shard"]).read_text())
    except (OSError, ValueError):
        return None
    new, old = (place / shard_name(job["shard"]) for place in (out / ".build", out))
    shard_bytes = _size_and_date(new if new.exists() else old)[0]
    same = isinstance(record, dict) and all(record.get(name) == value for name, value in job.items())
    return record if same and record.get("shard_bytes") == shard_bytes else None


def _build_shards(
    folder: Path, out: Path, jobs: list[dict[str, Any]], workers: int, scheduler: str | None
) -> Iterator[dict[str, Any]]:
    if scheduler is not None and jobs:
        from data_prep.cluster import results_of

        # A worker's current folder is its own.
        yield from results_of(scheduler, partial(_build_shard, folder.resolve(), out.resolve()), jobs)
        return
    if workers == 1 or len(jobs) <= 1:
        yield from (_build_shard(folder, out, job) for job in jobs)
        return
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from concurrent.futures.process import BrokenProcessPool

    # Forking a process that has started threads (pyarrow does) can deadlock.
    pool = ProcessPoolExecutor(
        min(workers, len(jobs)), multiprocessing.get_context("spawn"), initializer=_end_with_parent
    )
    try:
        for future in as_completed([pool.submit(_build_shard, folder, out, job) for job in jobs]):
            yield future.result()
    except BrokenProcessPool as error:
        reading = [path.read_text() for path in sorted((out / ".build").glob("*.reading"))]
        raise InputError(
            f"{out}: a worker process died while reading {' or '.join(reading) or 'its first file'} (out of memory, "
            "or a file that crashes the decoder); move such a file away or use fewer --workers, then run again: "
            "finished shards are kept"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """Ends this worker when the main process is killed: it would wait for work for ever."""
    import multiprocessing

    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _build_shard(folder: Path, out: Path, job: dict[str, Any]) -> dict[str, Any]:
    """Writes one shard, to be moved by `_finish`, and, once it is whole, its record; returns the record."""
    from mp3model.audio.bank import shard_name, write_shard

    shard = job["shard"]
    place = out / ".build"
    note = place / f"{shard:05d}.reading"
    # It tells of the shard that is about to be replaced.
    _record_path(out, shard).unlink(missing_ok=True)
    rejected: list[list[str]] = []
    clips = _decoded_clips(folder, job, note, rejected)
    first = next(clips, None)
    if first is None:
        (place / shard_name(shard)).unlink(missing_ok=True)
        rows = []
    else:
        rows = write_shard(place, shard, itertools.chain([first], clips)).to_dict("records")
    shard_bytes = _size_and_date(place / shard_name(shard))[0]
    record = {**job, "shard_bytes": shard_bytes, "rows": rows, "rejected": rejected}
    with written_whole(_record_path(out, shard)) as temporary:
        # ASCII only, so that a file name in another encoding survives.
        temporary.write_text(json.dumps(record))
    note.unlink(missing_ok=True)
    return record


def _decoded_clips(
    folder: Path, job: dict[str, Any], note: Path, rejected: list[list[str]]
) -> Iterator[tuple[str, int, np.ndarray]]:
    from mp3model.audio.decode import AudioError, decode

    for track_id, preview, file, *_ in job["sources"]:
        with refusals_named(note, every=True):
            note.write_text(_shown(file))
        try:
            yield track_id, preview, decode(folder / file, job["max_seconds"])
        except AudioError as error:
            rejected.append([_shown(file), error.reason])


def _finish(out: Path, records: list[dict[str, Any]]) -> BankReport:
    import pandas as pd

    from mp3model.audio.bank import INDEX_COLUMNS, INDEX_NAME, write_index

    rejections = sorted(row for record in records for row in record["rejected"])
    rejected = pd.DataFrame(rejections, columns=["file", "reason"])
    _write_csv(out / "rejected.csv", rejected)
    index = pd.DataFrame([row for record in records for row in record["rows"]], columns=list(INDEX_COLUMNS))
    duplicates = _duplicates(index, [source for record in records for source in record["sources"]])
    _write_csv(out / "duplicates.csv", duplicates)
    _put_shards_in_place(out, records)
    if index.empty:
        (out / INDEX_NAME).unlink(missing_ok=True)
        raise InputError(
            f"{out / 'rejected.csv'}: all {len(rejected)} files were rejected, the first one, {rejections[0][0]!r}, "
            f"because it {rejections[0][1]}; see there for the others"
        )
    write_index(out, index)
    _remove_leftovers(out, len(records))
    return BankReport(index, rejected, duplicates)


def _put_shards_in_place(out: Path, records: list[dict[str, Any]]) -> None:
    """Moves new shards under their names, and removes those of which every file is rejected by now."""
    from mp3model.audio.bank import INDEX_NAME, shard_name

    names = {shard_name(record["shard"]): bool(record["rows"]) for record in records}
    new = [name for name, kept in names.items() if kept and (out / ".build" / name).exists()]
    gone = [name for name, kept in names.items() if not kept and (out / name).exists()]
    if not new and not gone:
        return
    with refusals_named(out, every=True):
        # Shards may not change under an index.
        (out / INDEX_NAME).unlink(missing_ok=True)
        flush(out)
        for name in new:
            (out / ".build" / name).replace(out / name)
        for name in gone:
            (out / name).unlink()
        flush(out)


def _duplicates(index: pd.DataFrame, sources: list[list[Any]]) -> pd.DataFrame:
    files = {(track_id, preview): _shown(file) for track_id, preview, file, *_ in sources}
    shared = index[index.groupby("sha256")["track_id"].transform("nunique") > 1]
    shared = shared.sort_values(["sha256", "track_id", "preview"])[["sha256", "track_id", "preview"]]
    names = [files[key] for key in zip(shared["track_id"], shared["preview"], strict=True)]
    return shared.assign(file=names).reset_index(drop=True)


def _remove_leftovers(out: Path, shards: int) -> None:
    """Removes the shards of a larger bank that was here before, and what a killed run had begun to write."""
    for path in [*out.glob("audio-*.npy"), *(out / ".build").glob("*.json"), *(out / ".build").glob("audio-*.npy")]:
        number = path.stem.removeprefix("audio-")
        if number.isdigit() and int(number) >= shards:
            path.unlink()
    names = ("audio-*.npy", "previews.parquet", "rejected.csv", "duplicates.csv")
    begun = [*(f".{name}.*" for name in names), ".build/.*.json.*", ".build/.audio-*", ".build/*.reading"]
    for path in itertools.chain.from_iterable(out.glob(pattern) for pattern in begun):
        path.unlink()


def _write_csv(path: Path, table: pd.DataFrame) -> None:
    with written_whole(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")


def _record_path(out: Path, shard: int) -> Path:
    return out / ".build" / f"{shard:05d}.json"


def _shown(file: str) -> str:
    """A file name as text that every encoding of a report can hold."""
    return file.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _progress(total: int, done: int) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, initial=done, unit="file", desc="decoding", file=sys.stderr)


def summary_line(report: BankReport, out: Path) -> str:
    """What a build made, in one line."""
    from mp3model.audio.bank import SAMPLE_RATE

    hours = report.index["samples"].sum() / SAMPLE_RATE / 3600
    line = (
        f"{len(report.index)} clips of {report.index['track_id'].nunique()} tracks, {hours:.2f} hours, "
        f"{len(report.rejected)} rejected (see {out / 'rejected.csv'})"
    )
    if len(report.duplicates):
        line += f", {len(report.duplicates)} with the sound of another track (see {out / 'duplicates.csv'})"
    return line


def positive(text: str) -> int:
    """A command-line argument that is a whole number from 1."""
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1")
    return int(text)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.build_bank",
        description=(__doc__ or "").split("\n\n", 1)[1],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="searched with its sub-folders")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the bank")
    parser.add_argument("--workers", type=positive, help="processes (default: one for each core)")
    parser.add_argument("--scheduler", metavar="ADDRESS", help=f"instead of --workers, {HELP}")
    parser.add_argument("--pattern", help="shell pattern that a path below FOLDER must match, e.g. '*.mp3'")
    parser.add_argument("--seconds", type=positive, help="longest clip taken; longer ones are rejected (1200)")
    parser.add_argument("--table", type=Path, metavar="CSV", help="columns file, track_id[, preview]")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; 0 on success, 2 when the input is wrong."""
    options = _arguments(arguments)
    try:
        clips = find_clips(options.folder, options.pattern, options.table)
        if options.table:
            listed = {clip.file for clip in clips}
            left_out = sum(file not in listed for file in audio_files(options.folder))
            print(f"{len(clips)} files taken by {options.table}, {left_out} others left out", file=sys.stderr)
        report = build_bank(options.folder, clips, options.out, options.workers, options.seconds, options.scheduler)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(summary_line(report, options.out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
