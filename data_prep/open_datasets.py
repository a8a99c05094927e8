"""An open music dataset as its makers publish it in; a dataset folder with its audio bank out.

    python -m data_prep.open_datasets fma CLIPS --labels CSV --out DIR [--features CSV] [--echonest CSV]
    python -m data_prep.open_datasets spotgentrack FOLDER --out DIR [--clips CLIPS]
    python -m data_prep.open_datasets music4all FOLDER --out DIR
    python -m data_prep.open_datasets counts CSV --out DIR [--clips CLIPS]
    python -m data_prep.open_datasets lastfm FOLDER --out DIR
    python -m data_prep.open_datasets listenbrainz FOLDER --out DIR [--users CSV]
    python -m data_prep.open_datasets listens FILE... --out DIR [--users CSV] [--header NAMES]

`fma` reads the Free Music Archive (Defferrard et al., "FMA: A Dataset for Music Analysis", ISMIR 2017). CLIPS is the
folder of its clips, with or without the sub-folders 000 to 155; a clip is known by the number in its name. CSV is
FMA's own `tracks.csv`, or a table with the columns `track_id, track_listens` and optionally `file, title, artist,
artist_id, release_date, track_favorites, interest`. The target is the listens on the archive's site: region GLOBAL, no
dates and no debut rank. Clips with the same sound get one `song_id`. The split is by artist; where the labels name
none, tracks whose ids agree in id // 50 count as one artist, for ids run in the order of albums. `features.csv` and the
audio features of `echonest.csv` become descriptors (`x_*`); Echo Nest's social features are measures of popularity, and
are not read.

`spotgentrack`, `music4all` and `counts` are tables: see `data_prep.open_tables`. The last three are logs of listens,
counted by region and week: see `data_prep.listen_readers` and `data_prep.listen_logs`. They hold no sound;
`python -m data_prep.previews` adds it.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.build_bank import (
    BankReport,
    SourceClip,
    audio_files,
    build_bank,
    make_folder,
    positive,
    read_text_csv,
    summary_line,
)
from mp3model.files import InputError

if TYPE_CHECKING:
    import pandas as pd

    from data_prep.listen_logs import Listens

FMA_SOURCE = "Free Music Archive (Defferrard et al. 2017), listens on freemusicarchive.org; a licence a track"
FMA_ALBUM_BLOCK = 50
# Our column: the columns of FMA's tracks.csv (two header rows), and those of a plain table.
_FMA_COLUMNS = {
    "listens": (("track", "listens"), ("track_listens", "listens")),
    "favorites": (("track", "favorites"), ("track_favorites", "favorites")),
    "interest": (("track", "interest"), ("interest",)),
    "title": (("track", "title"), ("title",)),
    "artist": (("artist", "name"), ("artist", "artist_name")),
    "artist_id": (("artist", "id"), ("artist_id",)),
    "release_date": (("album", "date_released"), ("release_date",)),
}


def convert_fma(
    clips: Path,
    labels: Path,
    out: Path,
    workers: int | None = None,
    seed: int = 0,
    descriptors: Sequence[Path] = (),
) -> tuple[dict[str, int], BankReport]:
    """Writes the dataset folder of Free Music Archive clips and their listens.

    Args:
        clips: folder of audio files, named by track number.
        labels: `tracks.csv`, or a plain table (see the module's docstring).
        out: the dataset folder.
        workers: decoding processes; None takes one for each core.
        seed: of the split by artist.
        descriptors: `features.csv`, `echonest.csv` or both.

    Returns:
        Counts of clips and labels, as `dataset.json` has them under `clips`; the bank's report.

    Raises:
        InputError: the labels cannot be read or fit no clip, or every clip was rejected.
    """
    from mp3model.tables.folder import DatasetFolder, write_dataset
    from mp3model.tables.splits import make_splits

    table = read_fma_labels(labels)
    clips_by_id, nameless = _fma_clips(clips, table)
    labelled = table[table["listens"].notna()]
    chosen = [
        SourceClip(_fma_track_id(number), 0, file) for number, file in clips_by_id.items() if number in labelled.index
    ]
    if not chosen:
        raise InputError(
            f"{labels}: none of its {len(labelled)} labels belongs to one of the {len(clips_by_id)} clips in {clips}; "
            "clips are matched by the number in their name, e.g. 000002.mp3"
        )
    described = [read_fma_descriptors(path, set(clips_by_id)) for path in descriptors]
    make_folder(out)
    # Without dataset.json the folder is refused, so a stopped run cannot pass for a dataset.
    (out / "dataset.json").unlink(missing_ok=True)
    report = build_bank(clips, chosen, out, workers)
    counts = {
        "taken": len(report.index),
        "rejected": len(report.rejected),
        "clips_without_label": len(clips_by_id) - len(chosen) + nameless,
        "labels_without_clip": len(labelled) - len(chosen),
        "labels_without_listens": len(table) - len(labelled),
        "sharing_sound": len(report.duplicates),
    }
    tracks, targets = _fma_tables(labelled, report)
    numbers = tracks["track_id"].str.removeprefix("fma-").astype("int64")
    for table in described:
        tracks = tracks.join(table.reindex(numbers).reset_index(drop=True))
    info: dict[str, Any] = {"frequency": "W", "sources": [FMA_SOURCE], "clips": counts}
    dataset = DatasetFolder(path=out, info=info, tracks=tracks, targets=targets)
    write_dataset(out, tracks=tracks, targets=targets, splits=make_splits(dataset, seed=seed), info=info)
    return counts, report


def read_fma_labels(path: Path) -> pd.DataFrame:
    """Labels of the Free Music Archive, in either form.

    Returns:
        Index: track number. Columns: `file` (text), `listens, favorites, interest` (float), `title, artist, artist_id,
        release_date` (text); missing where unknown or where the table has no such column.

    Raises:
        InputError: no CSV, a column is missing, a value is no count, or a track is there twice.
    """
    import pandas as pd

    from mp3model.tables.schema import TEXT

    head = read_text_csv(path, header=None, nrows=4)  # the longest header and one row
    positions, header_lines = _fma_positions(head)
    for name, theirs in (("track_id", "track_id"), ("listens", "track_listens")):
        if name not in positions:
            raise InputError(
                f"{path}: no column {theirs!r}; give FMA's tracks.csv or a table with track_id, track_listens"
            )
    if len(head) <= header_lines:
        raise InputError(f"{path}: no line below the header; give a table with a line a track")
    rows = read_text_csv(path, header=None, skiprows=header_lines, usecols=sorted(positions.values()))
    table = pd.DataFrame({name: rows[position] for name, position in positions.items()})
    table = table.reindex(columns=["track_id", "file", *_FMA_COLUMNS]).astype(TEXT)
    table = table.mask(table == "")
    for name in ("track_id", "listens", "favorites", "interest"):
        table[name] = _counts(table[name], name, path)
    for bad, reason in (
        (table["track_id"].isna(), "has no track_id; fill it in or drop the row"),
        (table["track_id"].duplicated(), "names a track that is there before; keep one row"),
    ):
        if bad.any():
            raise InputError(f"{path}: data row {1 + int(bad.argmax())} {reason}")
    return table.set_index(table.pop("track_id").astype("int64"))


def read_fma_descriptors(path: Path, numbers: set[int]) -> pd.DataFrame:
    """Descriptors of some tracks, from `features.csv` or the audio features of `echonest.csv`.

    Both begin with three lines that name a column together, then a line with the name of the index alone. Read in
    pieces: `features.csv` has 518 columns and 106,574 rows.

    Args:
        path: the file.
        numbers: of the tracks wanted.

    Returns:
        Index: track number. Columns: `x_` and the three names, `x_mfcc_mean_01`, or the last one, `x_tempo`.

    Raises:
        InputError: no such header, or a value is no number.
    """
    import pandas as pd

    head = read_text_csv(path, header=None, nrows=4)
    if len(head) < 4 or head.iloc[3, 0] != "track_id":
        raise InputError(f"{path}: not FMA's features.csv or echonest.csv: their fourth line begins with track_id")
    triples = list(zip(*(head.iloc[line, 1:] for line in range(3)), strict=True))
    echonest = any(triple[0] == "echonest" for triple in triples)
    chosen = {
        place: "x_" + (triple[2] if echonest else "_".join(triple))
        for place, triple in enumerate(triples, start=1)
        if not echonest or triple[1] == "audio_features"
    }
    if not chosen:
        raise InputError(f"{path}: no column of audio_features; give FMA's own echonest.csv")
    # With a chunk size, pandas gives an iterator of tables.
    pieces: Any = read_text_csv(path, header=None, skiprows=4, usecols=[0, *chosen], chunksize=2000)
    try:
        kept = [piece[pd.to_numeric(piece[0]).isin(numbers)] for piece in pieces]
        table = pd.concat(kept).set_index(0).replace("", "nan").astype(float)
    except ValueError as error:
        raise InputError(f"{path}: holds something that is no number ({error}); copy it again") from error
    return table.set_axis(table.index.astype("int64"), axis=0).rename(columns=chosen)


def _fma_positions(head: pd.DataFrame) -> tuple[dict[str, int], int]:
    """Position of each of our columns in a table of labels, and how many lines its header has."""
    # tracks.csv: groups, then names, then the name of the index alone.
    if len(head) > 2 and head.iloc[2, 0] == "track_id":
        pairs = list(zip(head.iloc[0], head.iloc[1], strict=True))
        archive = {ours: pairs.index(pair) for ours, (pair, _) in _FMA_COLUMNS.items() if pair in pairs}
        return {"track_id": 0, **archive}, 3
    plain = list(head.iloc[0])
    accepted = {"track_id": ("track_id",), "file": ("file",)} | {k: v for k, (_, v) in _FMA_COLUMNS.items()}
    found = {ours: [name for name in theirs if name in plain] for ours, theirs in accepted.items()}
    return {ours: plain.index(names[0]) for ours, names in found.items() if names}, 1


def _counts(text: pd.Series, name: str, path: Path) -> pd.Series:
    import numpy as np
    import pandas as pd

    values = pd.to_numeric(text, errors="coerce").astype(float)
    bad = (text.notna() & ~np.isfinite(values)) | (values < 0)
    if name == "track_id":
        bad |= values != values.round()
        bad &= text.notna()
    if bad.any():
        row = int(bad.argmax())
        raise InputError(
            f"{path}: data row {row + 1}: {name} {text.iloc[row]!r} is no count; correct it or leave it empty"
        )
    return values


def _fma_clips(clips: Path, table: pd.DataFrame) -> tuple[dict[int, str], int]:
    """File of each track number, by the table's `file` column or the number in its name; how many fit neither."""
    if not clips.is_dir():
        raise InputError(f"{clips}: no such folder; give the folder that holds the clips")
    with_file = table["file"].dropna()
    listed = dict(zip(with_file, with_file.index.tolist(), strict=True))
    files: dict[int, str] = {}
    nameless = 0
    for file in audio_files(clips):
        name = Path(file).stem
        number = listed.get(file, int(name) if re.fullmatch(r"[0-9]{1,9}", name) else None)
        if number is None:
            nameless += 1
        elif number in files:
            raise InputError(f"{clips}: {files[number]!r} and {file!r} are both track {number}; remove one")
        else:
            files[number] = file
    return files, nameless


def _fma_track_id(number: int) -> str:
    return f"fma-{number:06d}"


def _fma_tables(labels: pd.DataFrame, report: BankReport) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tracks and targets of the clips that are in the bank."""
    import pandas as pd

    from mp3model.tables.tracks import release_window

    index = report.index.sort_values("track_id")
    numbers = index["track_id"].str.removeprefix("fma-").astype("int64")
    known = labels.loc[numbers].reset_index(names="number")
    artist_ids = ("artist " + known["artist_id"]).where(known["artist_id"].notna())
    blocks = "album block " + (known["number"] // FMA_ALBUM_BLOCK).astype(str)
    window = release_window(known["release_date"])
    tracks = pd.DataFrame(
        {
            "track_id": index["track_id"].to_numpy(),
            "song_id": index.groupby("sha256")["track_id"].transform("min").to_numpy(),
            "title": known["title"],
            "artist": known["artist"].fillna(artist_ids).fillna(blocks),
            "isrc": None,
            "release_date": window["earliest"].where(window["earliest"] == window["latest"]),
        }
    )
    targets = pd.DataFrame(
        {"track_id": tracks["track_id"], "region": "GLOBAL", "total": known["listens"], "debut_rank": float("nan")}
    )
    for name in ("favorites", "interest"):
        if known[name].notna().any():
            targets[f"y_{name}"] = known[name]
    return tracks, targets


def _run_fma(options: argparse.Namespace) -> None:
    descriptors = [path for path in (options.features, options.echonest) if path is not None]
    counts, report = convert_fma(options.clips, options.labels, options.out, options.workers, options.seed, descriptors)
    print(summary_line(report, options.out))
    _print_counts(counts)


def _run_tables(options: argparse.Namespace) -> None:
    from data_prep import open_tables

    common = {"workers": options.workers, "seed": options.seed}
    if options.dataset == "music4all":
        counts = open_tables.convert_music4all(options.source, options.out, **common)
    else:
        convert = {"spotgentrack": open_tables.convert_spotgentrack, "counts": open_tables.convert_counts}
        counts = convert[options.dataset](options.source, options.out, options.clips, **common)
    _print_counts(counts)


def _run_listens(options: argparse.Namespace) -> None:
    from data_prep import listen_readers
    from data_prep.listen_logs import convert_listens
    from data_prep.regions import region_code

    users = listen_readers.read_users(options.users) if options.users else None
    region = region_code(options.region) if options.region else None
    if options.region and region is None:
        raise InputError(f"--region {options.region!r} is no country that is known; use a code such as US")
    if options.dataset == "lastfm":
        blocks, source = listen_readers.lastfm_listens(options.source[0]), "Last.fm 1K users (Celma 2010)"
    elif options.dataset == "listenbrainz":
        blocks = listen_readers.listenbrainz_listens(options.source[0], users, region or "GLOBAL")
        source = "ListenBrainz, a dump of listens"
    else:
        layout = listen_readers.Layout(header=tuple(options.header.split(",")) if options.header else ())
        blocks = listen_readers.table_listens(options.source, layout, users, region)
        source = f"listens of {', '.join(sorted(path.name for path in options.source))}"
    tally = convert_listens(
        _shown(blocks),
        options.out,
        source=source,
        frequency=options.frequency,
        least=options.least,
        top=options.top if options.top > 0 else None,
        world=options.world,
    )
    _print_counts(vars(tally))


def _shown(blocks: Iterable[Listens]) -> Iterator[Listens]:
    from tqdm import tqdm

    with tqdm(unit=" listens", unit_scale=True, file=sys.stderr, disable=None) as progress:
        for block in blocks:
            yield block
            progress.update(len(block.day))


def _print_counts(counts: Mapping[str, int]) -> None:
    print(", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items()))


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.open_datasets",
        description=(__doc__ or "").split("\n\n", 1)[1],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    datasets = parser.add_subparsers(required=True, metavar="DATASET", dest="dataset")
    fma = datasets.add_parser("fma", help="Free Music Archive: clips and listen counts")
    fma.add_argument("clips", type=Path, metavar="CLIPS", help="folder of the clips")
    fma.add_argument("--labels", type=Path, required=True, metavar="CSV", help="tracks.csv or a plain table")
    fma.add_argument("--features", type=Path, metavar="CSV", help="FMA's features.csv, as descriptors")
    fma.add_argument("--echonest", type=Path, metavar="CSV", help="FMA's echonest.csv, as descriptors")
    fma.set_defaults(run=_run_fma)
    for name, told in (
        ("spotgentrack", "SpotGenTrack: descriptors and popularity"),
        ("music4all", "Music4All: clips, descriptors and popularity"),
        ("counts", "a table of plays and listeners a track"),
    ):
        table = datasets.add_parser(name, help=told)
        table.add_argument("source", type=Path, metavar="CSV" if name == "counts" else "FOLDER", help="as published")
        if name != "music4all":
            table.add_argument("--clips", type=Path, metavar="CLIPS", help="audio files named by track id")
        table.set_defaults(run=_run_tables)
    for name, told in (
        ("lastfm", "Last.fm 1K: listens of users with a country"),
        ("listenbrainz", "ListenBrainz: the listens of a dump"),
        ("listens", "tables of user, time, recording and country"),
    ):
        _add_log(datasets.add_parser(name, help=told), name)
    for parsed in datasets.choices.values():
        parsed.add_argument("--out", type=Path, required=True, metavar="DIR", help="the dataset folder")
        if parsed.get_default("run") is not _run_listens:
            parsed.add_argument("--workers", type=positive, help="decoding processes (default: one for each core)")
            parsed.add_argument("--seed", type=int, default=0, help="of the split by artist (0)")
    return parser.parse_args(arguments)


def _add_log(log: argparse.ArgumentParser, name: str) -> None:
    several = "+" if name == "listens" else 1
    log.add_argument("source", type=Path, nargs=several, metavar="FILE" if name == "listens" else "FOLDER")
    log.add_argument("--users", type=Path, metavar="CSV", help="user and country, for logs without countries")
    log.add_argument("--header", metavar="NAMES", help="columns of a file without a header, e.g. user,time,recording")
    log.add_argument("--region", help="region of listens whose country nothing tells")
    log.add_argument("--frequency", choices=("W", "D"), default="W", help="weeks or days (W)")
    log.add_argument("--least", type=positive, default=20, metavar="N", help="fewest listens of a recording (20)")
    log.add_argument(
        "--top", type=int, default=200, metavar="N", help="longest chart (200); 0 keeps all that was heard"
    )
    log.add_argument("--world", action="store_true", help="count every listen in GLOBAL too")
    log.set_defaults(run=_run_listens)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; 0 on success, 2 when the input is wrong."""
    options = _arguments(arguments)
    try:
        options.run(options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
