"""A folder of parquet tables in, validated frames out, and the way back: what `data_prep` writes and all else reads."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mp3model.audio.bank import checked_shard, samples_needed, shard_name
from mp3model.files import (
    InputError,
    exchanged,
    flush,
    folder_beside,
    link_rest,
    put_in_place,
    refusals_named,
    sha256_of,
    write_json,
    written_whole,
)
from mp3model.tables.schema import Column, Schema, places, refuse, validate

SPLITS = ("train", "validation", "test", "none")
TRACK_KINDS = ("studio", "live", "remix", "cover", "instrumental", "sped-up")
DEFAULT_HORIZON = {"W": 12, "D": 84}
# What `write_dataset` writes, or removes where it is given no such table.
OWN_FILES = ("tracks.parquet", "curves.parquet", "charts.parquet", "targets.parquet", "splits.parquet", "dataset.json")

_STREAMS_MEND = "streams are counts: correct the row, or leave the value missing if it is unknown"
SCHEMAS: dict[str, Schema] = {
    "tracks": Schema(
        {
            "track_id": Column("text"),
            "song_id": Column("text"),
            "title": Column("text", nullable=True),
            "artist": Column("text", nullable=True),
            "isrc": Column("text", nullable=True),
            "release_date": Column("date", nullable=True),
            # The last day on which a track can have appeared whose release is known to the month or year only.
            "release_latest": Column("date", required=False, nullable=True),
            "kind": Column("text", required=False, nullable=True, choices=TRACK_KINDS),
        },
        key=("track_id",),
        prefixes=("x_",),
    ),
    "curves": Schema(
        {
            "track_id": Column("text"),
            "region": Column("region"),
            "date": Column("date", past=True),
            "streams": Column("number", nullable=True, minimum=0, mend=_STREAMS_MEND),
            "rank": Column("integer", nullable=True, minimum=1, mend="ranks count from 1, missing means unknown"),
        },
        key=("track_id", "region", "date"),
    ),
    "charts": Schema(
        {
            "region": Column("region"),
            "date": Column("date", past=True),
            "floor": Column("number", above=0, mend="give the streams at the chart's end: they are the unit of scale"),
            "lowest": Column("number", minimum=0, mend=_STREAMS_MEND),
            "size": Column("integer", minimum=1, mend="leave out charts that hold no row"),
        },
        key=("region", "date"),
    ),
    "targets": Schema(
        {
            "track_id": Column("text"),
            "region": Column("region"),
            "total": Column("number", nullable=True, minimum=0, mend=_STREAMS_MEND),
            "debut_rank": Column("number", nullable=True, minimum=1, mend="ranks count from 1, missing means unknown"),
        },
        key=("track_id", "region"),
        prefixes=("y_",),
    ),
    "splits": Schema(
        {
            "track_id": Column("text"),
            "region": Column("region"),
            "debut": Column("date", nullable=True),
            "split": Column("text", choices=SPLITS),
        },
        key=("track_id", "region"),
    ),
    "previews": Schema(
        {
            "track_id": Column("text"),
            "preview": Column("integer", minimum=0),
            "shard": Column("integer", minimum=0),
            "offset": Column("long", minimum=0),
            "samples": Column("long", minimum=1),
            "sha256": Column("text"),
            "source": Column("text", required=False, nullable=True),
            "date": Column("date", required=False, nullable=True),
        },
        key=("track_id", "preview"),
    ),
}


@dataclass(frozen=True)
class DatasetFolder:
    """The tables of one dataset; those it does not have are None.

    Attributes:
        path: the folder.
        info: content of `dataset.json`.
        tracks: one row a recording.
        curves: one row a charted period of a track in a region; `date` is the period's last day.
        charts: which charts are on hand.
        targets: totals and debut ranks without dates.
        splits: every kept debut and its split.
        previews: index of the audio bank.
    """

    path: Path
    info: dict[str, Any]
    tracks: pd.DataFrame
    curves: pd.DataFrame | None = None
    charts: pd.DataFrame | None = None
    targets: pd.DataFrame | None = None
    splits: pd.DataFrame | None = None
    previews: pd.DataFrame | None = None

    @property
    def frequency(self) -> str:
        """`W` for weeks, `D` for days."""
        return str(self.info.get("frequency", "W"))

    @property
    def horizon(self) -> int:
        """How many periods are forecast: 12 weeks or 84 days unless `dataset.json` says otherwise."""
        return int(self.info.get("horizon") or DEFAULT_HORIZON[self.frequency])

    @property
    def regions(self) -> list[str]:
        """Sorted regions of the curves and targets."""
        tables = [table for table in (self.curves, self.targets) if table is not None]
        return sorted({str(region) for table in tables for region in table["region"].unique()})


def read_dataset(path: str | os.PathLike[str]) -> DatasetFolder:
    """Reads and validates a dataset folder.

    Args:
        path: folder with `dataset.json`, `tracks.parquet` and at least one of `curves.parquet`, `targets.parquet`.

    Returns:
        The tables with settled types (see `validate`).

    Raises:
        InputError: names the file, row, column, value and mend of the first fault.
    """
    path = Path(path)
    info = _read_info(path)
    tables = {name: validate(frame, SCHEMAS[name], path / f"{name}.parquet") for name, frame in _read_tables(path)}
    if "tracks" not in tables:
        raise InputError(f"{path / 'tracks.parquet'}: no such file; every dataset folder needs its tracks")
    if "curves" not in tables and "targets" not in tables:
        raise InputError(f"{path}: neither curves.parquet nor targets.parquet is there; a dataset needs one of them")
    dataset = DatasetFolder(path=path, info=info, **tables)
    check_together(dataset)
    check_shards(dataset)
    return dataset


def write_dataset(
    path: str | os.PathLike[str],
    *,
    tracks: pd.DataFrame,
    curves: pd.DataFrame | Iterable[pd.DataFrame] | None = None,
    charts: pd.DataFrame | None = None,
    targets: pd.DataFrame | None = None,
    splits: pd.DataFrame | None = None,
    info: dict[str, Any],
) -> None:
    """Validates the tables and writes the folder, each file whole, rows sorted by key, `dataset.json` last.

    Another dataset in the folder is replaced once the new one is whole, in one step. It loses the tables that are not
    given, but for the audio bank and `splits.parquet`: a split the user made is kept and must fit the new tables.

    Args:
        path: the folder, made if absent.
        tracks, curves, charts, targets, splits: the tables; one of `curves`, `targets` is needed. Curves too many for
            memory come as frames in the order of their tracks, no track in two of them.
        info: `frequency` (`W`, `D`), `horizon`, `sources` and anything else; `counts` and `hashes` (SHA-256 a file) are
            added.

    Raises:
        InputError: names the table, row, column, value and mend of the first fault; nothing has been written then.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise InputError(f"{path}: is a file; give the dataset another folder")
    given = {"tracks": tracks, "curves": curves, "charts": charts, "targets": targets, "splits": splits}
    tables = {
        name: validate(frame, SCHEMAS[name], path / f"{name}.parquet")
        for name, frame in given.items()
        if isinstance(frame, pd.DataFrame)
    }
    if curves is None and targets is None:
        raise InputError(f"{path}: neither curves nor targets were given; a dataset needs one of them")
    info = _checked_info(dict(info), path / "dataset.json")
    for kept in ("splits", "previews"):
        if kept not in tables and (path / f"{kept}.parquet").exists():
            tables[kept] = validate(_read_parquet(path / f"{kept}.parquet"), SCHEMAS[kept], path / f"{kept}.parquet")
    dataset = DatasetFolder(path=path, info=info, **tables)
    check_together(dataset)

    new = {name: tables[name] for name in given if isinstance(given[name], pd.DataFrame)}
    blocks = None if isinstance(curves, pd.DataFrame) else curves
    if not (path / "dataset.json").exists():
        _write_tables(path, path, dataset, new, blocks)
        return
    with folder_beside(path) as beside:
        _write_tables(beside, path, dataset, new, blocks)
        replace_dataset(beside, path, [name for name in OWN_FILES if name != "splits.parquet" or "splits" in new])


def _write_tables(
    place: Path,
    path: Path,
    dataset: DatasetFolder,
    given: dict[str, pd.DataFrame],
    blocks: Iterable[pd.DataFrame] | None,
) -> None:
    """Writes the tables that were given into `place`, which is to be `path`; others of the dataset lie there."""
    counts = {name: len(getattr(dataset, name)) for name in SCHEMAS if getattr(dataset, name) is not None}
    if blocks is not None:
        counts["curves"] = _write_curve_blocks(blocks, dataset, place / "curves.parquet")
    for name in ("curves", "charts", "targets"):
        if name not in counts:
            (place / f"{name}.parquet").unlink(missing_ok=True)
    for name, table in given.items():
        _write_parquet(table, SCHEMAS[name].key, place / f"{name}.parquet")
    info = dict(dataset.info)
    info["counts"] = {name: counts[name] for name in SCHEMAS if name in counts}
    written = {*given, *(() if blocks is None else ("curves",))}
    info["hashes"] = {
        f"{name}.parquet": sha256_of((place if name in written else path) / f"{name}.parquet")
        for name in info["counts"]
    }
    write_json(place / "dataset.json", info)


def replace_dataset(beside: Path, path: Path, own: Collection[str]) -> None:
    """Puts a dataset folder that is whole in the place of another, with all else that the other holds.

    In one step where the file system can swap folders and give files a second name; file by file elsewhere, during
    which the folder is refused as unfinished.

    Args:
        beside: The new one.
        path: Where it belongs; what lies there need not be a dataset yet.
        own: Files that the new one replaces; those that it does not have are removed.

    Raises:
        InputError: The place cannot be written.
    """
    with refusals_named(path, every=True):
        if not path.exists():
            put_in_place(beside, path)
            return
        if (path / "dataset.json").exists() and link_rest(path, beside, own):
            flush(beside)
            if exchanged(beside, path.resolve()):
                flush(path.resolve().parent)
                return
        # Without dataset.json the folder is refused: half a move cannot pass for a dataset.
        (path / "dataset.json").unlink(missing_ok=True)
        for name in sorted(own, key="dataset.json".__eq__):
            if (beside / name).exists():
                (beside / name).replace(path / name)
            else:
                (path / name).unlink(missing_ok=True)
        flush(path)


def check_together(dataset: DatasetFolder) -> None:
    """Checks what no column can tell by itself: unknown tracks, the period grid, floors, charts against curves.

    Raises:
        InputError: names the file, row, column, value and mend of the first fault.
    """
    for name in ("curves", "targets", "splits", "previews"):
        table = getattr(dataset, name)
        if table is None:
            continue
        unknown = places(table["track_id"], dataset.tracks["track_id"]) < 0
        if unknown.any():
            _refuse(dataset, name, unknown, "track_id", "is not in tracks.parquet", "add it or drop the row")
    if dataset.frequency == "W":
        _check_weekdays(dataset)
    if dataset.charts is not None:
        # The floor is a mean over the chart's last ranks, or its lowest: it cannot lie below that.
        above = (dataset.charts["lowest"] > dataset.charts["floor"] * (1 + 1e-6)).to_numpy(dtype=bool)
        if above.any():
            floor = dataset.charts["floor"].to_numpy()[int(np.flatnonzero(above)[0])]
            mend = "correct one of them: the floor is the mean of the chart's last ranks"
            _refuse(dataset, "charts", above, "lowest", f"is above the chart's floor ({floor:g})", mend)
    if dataset.curves is not None and dataset.charts is not None:
        _check_against_charts(dataset)


def _refuse(dataset: DatasetFolder, name: str, bad: np.ndarray, column: str, reason: str, mend: str) -> None:
    file = dataset.path / f"{name}.parquet"
    refuse(file, reason, mend, frame=getattr(dataset, name), key=SCHEMAS[name].key, bad=bad, column=column)


def _check_weekdays(dataset: DatasetFolder) -> None:
    """A region's weeks all end on one weekday: the one that most of its charts (or rows) have."""
    columns = [("charts", "date"), ("curves", "date"), ("splits", "debut")]
    tables = [(name, column, getattr(dataset, name)) for name, column in columns if getattr(dataset, name) is not None]
    expected: dict[str, int] = {}
    for name, column, table in tables:
        weekday = table[column].dt.dayofweek.to_numpy()
        codes, regions = pd.factorize(table["region"])
        for code, region in enumerate(regions):
            rows = (codes == code) & table[column].notna().to_numpy()
            if region not in expected and rows.any():
                expected[region] = int(np.bincount(weekday[rows].astype(int)).argmax())
        wanted = np.array([expected.get(region, -1) for region in regions])[codes]
        off = table[column].notna().to_numpy() & (weekday != wanted)
        if off.any():
            region = table["region"].iloc[int(np.flatnonzero(off)[0])]
            day = pd.Timestamp("2024-01-01") + pd.Timedelta(days=expected[region])
            reason = f"is off the weekly grid: weeks of {region} end on {day.day_name()}"
            _refuse(dataset, name, off, column, reason, "give the last day of each week, the same weekday throughout")


def _check_against_charts(dataset: DatasetFolder) -> None:
    assert dataset.curves is not None
    assert dataset.charts is not None
    curves, charts = dataset.curves, dataset.charts
    position = chart_positions(charts, curves["region"], curves["date"])
    ranked = curves["rank"].notna().to_numpy()
    alone = ranked & (position < 0)
    if alone.any():
        mend = "add the chart to charts.parquet, or leave the rank missing"
        _refuse(dataset, "curves", alone, "rank", "is a rank, but charts.parquet has no such chart", mend)
    lowest = np.where(position >= 0, charts["lowest"].to_numpy()[position], -np.inf)
    # Streams are counts; the tolerance is for sums that went through float32 on their way.
    below = ranked & (curves["streams"].to_numpy() < lowest * (1 - 1e-6))
    if below.any():
        row = int(np.flatnonzero(below)[0])
        reason = f"is below the smallest streams of its chart ({lowest[row]:g})"
        _refuse(dataset, "curves", below, "streams", reason, "correct the row, or `lowest` in charts.parquet")


def chart_positions(charts: pd.DataFrame, regions: Any, dates: Any) -> np.ndarray:
    """Where in `charts` each (region, date) stands.

    Args:
        charts: columns `region`, `date`, unique together.
        regions: (n,) region codes.
        dates: (n,) or (n, periods) dates.

    Returns:
        Row positions in the shape of `dates`, −1 where no chart is on hand.
    """
    days = np.asarray(dates, dtype="datetime64[D]").astype(np.int64)
    codes, names = pd.factorize(charts["region"])
    wanted_codes, wanted_names = pd.factorize(pd.Series(regions))
    wanted_codes = pd.Index(names).get_indexer(wanted_names)[wanted_codes].astype(np.int64)
    keys = codes.astype(np.int64) * _DAYS + np.asarray(charts["date"], dtype="datetime64[D]").astype(np.int64)
    if not len(keys):
        return np.full(days.shape, -1)
    wanted_codes = wanted_codes.reshape(-1, *[1] * (days.ndim - 1))
    wanted = wanted_codes * _DAYS + days
    order = np.argsort(keys)
    slot = np.minimum(np.searchsorted(keys, wanted, sorter=order), len(keys) - 1)
    position = order[slot]
    return np.where((keys[position] == wanted) & (wanted_codes >= 0), position, -1)


# Further apart than any two dates of a table (1900 to 2099 span 73,049 days): regions cannot run into each other.
_DAYS = 1_000_000


def check_shards(dataset: DatasetFolder) -> None:
    """Checks that every clip of `previews.parquet` lies inside its shard.

    Raises:
        InputError: a shard is missing, damaged, of another type, or too short.
    """
    previews = dataset.previews
    if previews is None:
        return
    shards = previews["shard"].to_numpy(dtype=np.int64)
    ends = previews["offset"].to_numpy(dtype=np.int64) + previews["samples"].to_numpy(dtype=np.int64)
    # One listing and plain text: a bank may have thousands of shards.
    present, folder = set(os.listdir(dataset.path)), os.fspath(dataset.path)
    for shard, needed in samples_needed(shards, ends).items():
        name = shard_name(shard)
        if name not in present:
            mend = "copy it into the folder, or build the bank again"
            _refuse(dataset, "previews", shards == shard, "shard", f"names shard {name}, which is not there", mend)
        length = checked_shard(f"{folder}{os.sep}{name}")[1]
        if needed > length:
            beyond = (shards == shard) & (ends > length)
            end = int(ends[np.flatnonzero(beyond)[0]])
            reason = f"the clip ends at sample {end}, the shard {name} at {length}"
            _refuse(dataset, "previews", beyond, "samples", reason, "copy the shard again, or build the bank again")


def _read_info(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; give a dataset folder that data_prep has written")
    file = path / "dataset.json"
    if not file.exists():
        raise InputError(f"{file}: no such file; the folder was not written to its end, prepare it again")
    try:
        info = json.loads(file.read_text())
    except (ValueError, OSError) as error:
        raise InputError(f"{file}: cannot be read as JSON ({error}); prepare the folder again") from error
    if not isinstance(info, dict):
        raise InputError(f"{file}: holds a {type(info).__name__} instead of an object; prepare the folder again")
    return _checked_info(info, file)


def _checked_info(info: dict[str, Any], file: Path) -> dict[str, Any]:
    info.setdefault("frequency", "W")
    if info["frequency"] not in DEFAULT_HORIZON:
        raise InputError(f"{file}: frequency {info['frequency']!r} is not known; use 'W' (weeks) or 'D' (days)")
    if info.get("horizon") is None:
        info["horizon"] = DEFAULT_HORIZON[info["frequency"]]
    if not isinstance(info["horizon"], int) or isinstance(info["horizon"], bool) or info["horizon"] < 1:
        raise InputError(f"{file}: horizon {info['horizon']!r} is no number of periods; use a whole number from 1")
    return info


def _read_tables(path: Path) -> list[tuple[str, pd.DataFrame]]:
    files = [(name, path / f"{name}.parquet") for name in SCHEMAS]
    return [(name, _read_parquet(file)) for name, file in files if file.exists()]


def _read_parquet(file: Path) -> pd.DataFrame:
    import pyarrow
    import pyarrow.parquet

    try:
        # The index that pandas may have stored is dropped: a filtered frame saved as it was is no fault of the table.
        frame = pyarrow.parquet.read_table(file, page_checksum_verification=True).to_pandas(ignore_metadata=True)
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{file}: cut short, damaged or no parquet file ({reason}); copy it again, or write it again"
        ) from error
    return frame[[name for name in frame.columns if not str(name).startswith("__index_level_")]]


def _write_parquet(frame: pd.DataFrame, key: tuple[str, ...], file: Path) -> None:
    with written_whole(file) as temporary:
        frame.sort_values(list(key), kind="stable").to_parquet(temporary, index=False, write_page_checksum=True)


def _write_curve_blocks(blocks: Iterable[pd.DataFrame], dataset: DatasetFolder, place: Path) -> int:
    """Validates curves frame by frame and writes them to `place`, a row group each; how many rows there were."""
    import pyarrow
    import pyarrow.parquet

    file, key = dataset.path / "curves.parquet", SCHEMAS["curves"].key
    beside = replace(dataset, splits=None, targets=None, previews=None)
    writer, last, count = None, None, 0
    with written_whole(place) as temporary:
        try:
            for frame in blocks:
                block = validate(frame, SCHEMAS["curves"], file).sort_values(list(key), kind="stable")
                check_together(replace(beside, curves=block))
                early = np.zeros(len(block), bool) if last is None else (block["track_id"] <= last).to_numpy(dtype=bool)
                if early.any():
                    reason = f"comes after {last!r} of the frame before"
                    mend = "give frames in the order of their tracks, no track in two of them"
                    refuse(file, reason, mend, frame=block, key=key, bad=early, column="track_id")
                table = pyarrow.Table.from_pandas(block, preserve_index=False)
                if writer is None:
                    writer = pyarrow.parquet.ParquetWriter(temporary, table.schema, write_page_checksum=True)
                writer.write_table(table)
                last, count = (block["track_id"].iloc[-1] if len(block) else last), count + len(block)
        finally:
            if writer is not None:
                writer.close()
        if writer is None:
            raise InputError(f"{file}: no curves were given; give one frame at least, it may be empty")
    return count
