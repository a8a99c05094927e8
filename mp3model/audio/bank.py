"""Clips of sound in; a folder of flat int16 shards and an index out, and any stretch of any clip back.

A bank is `previews.parquet` beside `audio-00000.npy`, `audio-00001.npy`, ... A shard is one flat
little-endian int16 array: its clips one after the other, mono at 16 kHz. The index has one row a clip, sorted by
(track_id, preview):

| column   | unit                                                         |
|----------|--------------------------------------------------------------|
| track_id | the recording                                                |
| preview  | which clip of the recording, an integer that counts from 0   |
| shard    | number of the shard file                                     |
| offset   | first sample within the shard, in samples                    |
| samples  | length of the clip, in samples (16,000 are one second)       |
| sha256   | hex digest of the clip's little-endian int16 bytes           |
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mp3model.files import InputError, written_whole

SAMPLE_RATE = 16_000
INDEX_NAME = "previews.parquet"
INDEX_COLUMNS = ("track_id", "preview", "shard", "offset", "samples", "sha256")
_WHOLE_NUMBERS = ("preview", "shard", "offset", "samples")
_SAMPLE = np.dtype("<i2")
# What NumPy writes before a flat little-endian int16 array; the rest of the header is padding.
_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00(..)\{'descr': '<i2', 'fortran_order': False, 'shape': \((\d{1,15}),\), \} *\n", re.DOTALL
)


def shard_name(shard: int) -> str:
    """File name of a shard within its bank."""
    return f"audio-{shard:05d}.npy"


def shard_layout(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    """Bytes before the first sample of a sound shard and how many samples it has, from its first bytes and its size.

    Many times as fast as to map the array, which counts where a bank has thousands of shards.

    Returns:
        None where `np.load` has to look closer.

    Raises:
        OSError: it cannot be opened.
    """
    with open(path, "rb", buffering=0) as stream:
        header = _HEADER.match(stream.read(256))
        if header is None or header.end() != 10 + int.from_bytes(header[1], "little"):
            return None
        samples = int(header[2])
        whole = os.fstat(stream.fileno()).st_size >= header.end() + samples * _SAMPLE.itemsize
        return (header.end(), samples) if whole else None


def checked_shard(path: str | os.PathLike[str]) -> tuple[int, int]:
    """As `shard_layout`, of any flat int16 array that NumPy reads.

    Raises:
        InputError: it is missing, damaged or holds something else.
    """
    mend = "copy it again, or build the bank again"
    try:
        layout = shard_layout(path)
        if layout is not None:
            return layout
        shard = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file, but {INDEX_NAME} names it; {mend}") from error
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: damaged or cut short ({_one_line(error)}); {mend}") from error
    if not isinstance(shard, np.memmap) or shard.dtype != _SAMPLE or shard.ndim != 1:
        found = f"{shard.ndim}-dimensional {shard.dtype}" if isinstance(shard, np.ndarray) else type(shard).__name__
        raise InputError(f"{path}: holds {found} instead of flat int16 samples; {mend}")
    return shard.offset, len(shard)


def to_int16(waveform: np.ndarray) -> np.ndarray:
    """Rounds and clips samples within ±1 to int16; `int16 / 32768` is the way back.

    The factor is 32768, so that 16-bit audio read as float comes back bit for bit; +1.0 is clipped to 32767.

    Raises:
        InputError: a sample is NaN or infinite, which has no place in int16.
    """
    waveform = np.asarray(waveform)
    if not np.isfinite(waveform).all():
        raise InputError("the waveform holds NaN or infinite samples; repair or drop the clip")
    return np.clip(np.rint(waveform * 32768.0), -32768, 32767).astype(np.int16)


def clip_digest(clip: np.ndarray) -> str:
    """Hex sha256 of a clip's samples as little-endian int16 bytes, the same on every machine."""
    return hashlib.sha256(np.ascontiguousarray(clip, dtype=_SAMPLE).data).hexdigest()


def write_shard(
    folder: str | os.PathLike[str], shard: int, clips: Iterable[tuple[str, int, np.ndarray]]
) -> pd.DataFrame:
    """Writes one shard, whole or not at all, holding one clip at a time in memory.

    Args:
        folder: the bank's folder; it is made where it is missing.
        shard: number of the shard.
        clips: (track_id, preview number, int16 samples (n,) mono at 16 kHz); may be a generator.

    Returns:
        The index rows of these clips, in the order given, for `write_index`.

    Raises:
        ValueError: a clip is not a non-empty one-dimensional int16 array.
    """
    rows = []
    offset = 0
    with written_whole(Path(folder) / shard_name(shard)) as temporary, open(temporary, "r+b") as stream:
        header_length = _write_header(stream, 0)
        for track_id, preview, clip in clips:
            if clip.dtype != np.int16 or clip.ndim != 1 or not len(clip):
                raise ValueError(
                    f"clip {preview} of track {track_id!r}: expected int16 samples (n,), n > 0, "
                    f"got {clip.dtype} {clip.shape}"
                )
            samples = np.ascontiguousarray(clip, dtype=_SAMPLE)
            stream.write(samples.data)
            rows.append((track_id, preview, shard, offset, len(samples), clip_digest(samples)))
            offset += len(samples)
        stream.seek(0)
        if _write_header(stream, offset) != header_length:
            raise AssertionError("the shard's header outgrew the room left for it")
    return _typed(pd.DataFrame(rows, columns=list(INDEX_COLUMNS)))


def write_index(folder: str | os.PathLike[str], rows: pd.DataFrame) -> None:
    """Writes `previews.parquet`, sorted by (track_id, preview), whole or not at all.

    Args:
        folder: the bank's folder.
        rows: what the calls of `write_shard` returned, concatenated; other columns are kept.

    Raises:
        InputError: a column is missing, or two rows name the same preview of the same track.
    """
    path = Path(folder) / INDEX_NAME
    missing = [name for name in INDEX_COLUMNS if name not in rows.columns]
    if missing:
        raise InputError(f"{path}: the index has no column {missing[0]!r}; pass the rows that write_shard returned")
    rows = _typed(rows).sort_values(["track_id", "preview"], kind="stable", ignore_index=True)
    twice = rows.duplicated(["track_id", "preview"])
    if twice.any():
        first = rows[twice].iloc[0]
        raise InputError(
            f"{path}: preview {first['preview']} of track {first['track_id']!r} appears twice; number previews apart"
        )
    with written_whole(path) as temporary:
        rows.to_parquet(temporary, index=False)


class AudioBank:
    """Random access to the clips of a bank; cheap to make, to copy and to hand to worker processes.

    A shard is checked when first read and opened for each clip. Nothing stays open: mapped shards would each hold a
    file descriptor, of which a process has a thousand, and cost a fault a page. A pickled bank is its path.

    Args:
        folder: holds `previews.parquet` and the shards.

    Attributes:
        path: the folder.
        index: (clips,) rows, columns as in the module's table.
        lengths: (clips,) samples of each row's clip.

    Raises:
        InputError: the index is missing, unreadable or lacks a column.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.path = Path(folder)
        self.index = _read_index(self.path / INDEX_NAME)
        self._shard, self._offset, self.lengths = (
            self.index[name].to_numpy() for name in ("shard", "offset", "samples")
        )
        self._first_byte: dict[int, int] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"])  # type: ignore[misc]

    def __len__(self) -> int:
        return len(self.index)

    def __repr__(self) -> str:
        return f"AudioBank({str(self.path)!r}, {len(self)} clips)"

    def previews_of(self, track_id: str) -> np.ndarray:
        """Rows of `index` (previews,) that are clips of a track, by preview number; none for an unknown track."""
        return self._rows_by_track.get(track_id, np.empty(0, dtype=np.intp))

    def read(self, position: int, start: int = 0, samples: int | None = None) -> np.ndarray:
        """int16 samples (samples,) at 16 kHz of the clip in row `position`, as a copy the caller owns.

        Args:
            position: row of `index`.
            start: first sample, counted from the clip's beginning.
            samples: how many; None reads to the clip's end. Past the end of the clip there are zeros.

        Raises:
            IndexError: no such row.
            ValueError: `start` or `samples` is negative.
            InputError: the clip's shard is missing, damaged or too short.
        """
        if not 0 <= position < len(self):
            raise IndexError(f"row {position} of {self.path / INDEX_NAME}, which has {len(self)}")
        length = int(self.lengths[position])
        wanted = max(length - start, 0) if samples is None else samples
        if start < 0 or wanted < 0:
            raise ValueError(f"start {start} and samples {samples} must not be negative")
        available = min(max(length - start, 0), wanted)
        first = int(self._offset[position]) + start
        clip = np.zeros(wanted, dtype=np.int16)
        if available:
            self._fill(clip[:available], int(self._shard[position]), first)
        return clip

    def verify(self) -> None:
        """Compares every clip with the digest in the index.

        Raises:
            InputError: a shard is missing, damaged or too short, or a clip is not what the index says; names it.
        """
        for position in np.lexsort((self._offset, self._shard)):
            row = self.index.iloc[position]
            if clip_digest(self.read(int(position))) != row["sha256"]:
                raise InputError(
                    f"{self.path / shard_name(row['shard'])}: preview {row['preview']} of track "
                    f"{row['track_id']!r} does not match its sha256 in {INDEX_NAME}; build the bank again"
                )

    @cached_property
    def _rows_by_track(self) -> dict[str, np.ndarray]:
        codes, tracks = pd.factorize(self.index["track_id"])
        order = np.lexsort((self.index["preview"].to_numpy(), codes))
        first = np.searchsorted(codes[order], np.arange(len(tracks)))
        return dict(zip(tracks.tolist(), in_pieces(order, first), strict=True))

    @cached_property
    def _needed(self) -> dict[int, int]:
        """Samples that the index asks of each shard."""
        return samples_needed(self._shard, self._offset + self.lengths)

    def _fill(self, clip: np.ndarray, shard: int, first: int) -> None:
        """Reads a shard's samples from `first` on into an int16 array."""
        path = self.path / shard_name(shard)
        if shard not in self._first_byte:
            first_byte, samples = checked_shard(path)
            if samples < (needed := self._needed[shard]):
                raise InputError(f"{path}: has {samples} samples, {INDEX_NAME} needs {needed}; build the bank again")
            self._first_byte[shard] = first_byte
        try:
            with open(path, "rb", buffering=0) as stream:
                stream.seek(self._first_byte[shard] + first * _SAMPLE.itemsize)
                read = stream.readinto(clip.view(np.uint8).data)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({_one_line(error)}); see that it is there and may be") from error
        if read != clip.nbytes:
            raise InputError(f"{path}: was cut short while it was in use; copy it again, or build the bank again")
        if not _SAMPLE.isnative:
            clip.byteswap(inplace=True)


def samples_needed(shards: np.ndarray, ends: np.ndarray) -> dict[int, int]:
    """Shard → samples it must have, for clips (n,) that lie in these shards and end at these samples."""
    numbers, codes = np.unique(shards, return_inverse=True)
    needed = np.zeros(len(numbers), np.int64)
    np.maximum.at(needed, codes, ends)
    return dict(zip(numbers.tolist(), needed.tolist(), strict=True))


def in_pieces(values: np.ndarray, starts: np.ndarray) -> list[np.ndarray]:
    """Views of `values` (n,) from each of `starts` (pieces,) to the next; `np.split` takes eight times as long."""
    return [values[one:other] for one, other in pairwise([*starts.tolist(), len(values)])]


def _write_header(stream: Any, length: int) -> int:
    """Writes the header of a flat array, which numpy pads to the same size whatever `length` is."""
    np.lib.format.write_array_header_1_0(stream, {"descr": _SAMPLE.str, "fortran_order": False, "shape": (length,)})
    return stream.tell()


def _typed(rows: pd.DataFrame) -> pd.DataFrame:
    types = dict.fromkeys(_WHOLE_NUMBERS, "int64") | {"track_id": "str", "sha256": "str"}
    return rows.astype(types)


def _read_index(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise InputError(
            f"{path}: no such file; make a bank with `python -m data_prep.build_bank FOLDER --out {path.parent}`"
        )
    try:
        index = pd.read_parquet(path)
    except (OSError, ValueError) as error:  # pyarrow's own errors derive from these two
        raise InputError(f"{path}: not a readable parquet file ({_one_line(error)}); build the bank again") from error
    missing = [name for name in INDEX_COLUMNS if name not in index.columns]
    if missing:
        raise InputError(f"{path}: no column {missing[0]!r}; build the bank again")
    for name in _WHOLE_NUMBERS:
        if index[name].dtype.kind not in "iu" or (len(index) and index[name].min() < 0):
            raise InputError(f"{path}: column {name!r} must hold whole numbers from 0; build the bank again")
    return index


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
