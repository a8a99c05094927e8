"""Blocks of re-runs of a market in; any songs' outcomes over all of them out, from files: memory stays flat."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from data_prep.market_law import HORIZON

NEVER = -999


@dataclass
class Outcomes:
    """What each re-run's charts say of each song; arrays are (runs, regions, songs)."""

    total: np.ndarray  # float32, chart-observed streams of the horizon
    debut_rank: np.ndarray  # int16
    length: np.ndarray  # int16, charted weeks of the horizon
    first: np.ndarray  # int16, week of the debut, or NEVER; songs may be on a chart before the first that is on hand
    charted: np.ndarray  # bool: came to the chart while it was new and its horizon is on hand: the row counts
    missed: np.ndarray  # bool: never on a chart within the horizon from its release on
    floor: np.ndarray  # (runs, regions, weeks) float32, log10 of the smallest streams on each chart
    curve: np.ndarray  # int32, row of the song's curve in the order in which `Curves` writes them, -1 without debut


class Curves:
    """Chart-observed streams of the horizon after each debut, written out as soon as the horizon has passed.

    Only the debuts of the last HORIZON weeks are in memory.

    Args:
        stream: where curves go, each as HORIZON float32; None drops them.
    """

    def __init__(self, stream: BinaryIO | None) -> None:
        self._stream = stream
        self._open: list[tuple[int, np.ndarray]] = []  # first row, (debuts of a week, HORIZON); the latest week first
        self.rows = 0

    def week(self, debuts: int) -> np.ndarray:
        """Begins a week with so many debuts and returns the rows (debuts,) of their curves."""
        if len(self._open) == HORIZON:
            self._write(self._open.pop()[1])
        self._open.insert(0, (self.rows, np.zeros((debuts, HORIZON), np.float32)))
        self.rows += debuts
        return np.arange(self.rows - debuts, self.rows, dtype=np.int32)

    def add(self, rows: np.ndarray, age: np.ndarray, streams: np.ndarray) -> None:
        """Adds this week's streams to curves of this `age` in weeks; rows (n,) may repeat."""
        for weeks, (first, curves) in enumerate(self._open):
            mine = age == weeks
            np.add.at(curves[:, weeks], rows[mine] - first, streams[mine])

    def close(self) -> None:
        while self._open:
            self._write(self._open.pop()[1])

    def _write(self, curves: np.ndarray) -> None:
        if self._stream is not None:
            self._stream.write(np.ascontiguousarray(curves, dtype="<f4").data)


class RunFiles:
    """Outcomes of all blocks on disk, one file a field: `INPUTS-BLOCK-FIELD.npy`.

    Args:
        folder: for the files; it must exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, inputs: str, block: int, name: str) -> Path:
        return self.folder / f"{inputs}-{block:05d}-{name}.npy"

    def save(self, inputs: str, block: int, outcomes: Outcomes, fame: np.ndarray) -> None:
        """Writes a block; `fame` is (runs, regions, artists)."""
        for field in fields(outcomes):
            np.save(self.path(inputs, block, field.name), getattr(outcomes, field.name))
        np.save(self.path(inputs, block, "fame"), fame)

    def blocks(self, inputs: str) -> list[int]:
        """Numbers of the blocks that are there."""
        return sorted(int(path.name.split("-")[-2]) for path in self.folder.glob(f"{inputs}-*-total.npy"))

    def read(self, inputs: str, name: str, region: int, songs: Any = slice(None)) -> np.ndarray:
        """(runs, songs) of one field over all blocks, as a copy in memory.

        Args:
            inputs: what the re-runs were given.
            name: a field of `Outcomes`, or `fame`, whose last axis are artists.
            region: number of the region.
            songs: a slice or positions.
        """
        paths = [self.path(inputs, block, name) for block in self.blocks(inputs)]
        # A new map each time: pages that have been read stay in a process as long as the map does.
        return np.concatenate([np.load(path, mmap_mode="r")[:, region][:, songs] for path in paths])

    def curve_path(self, inputs: str, block: int) -> Path:
        """Where the curves of a block go, flat float32."""
        return self.folder / f"{inputs}-{block:05d}-curves.f32"

    def curves(self, inputs: str, region: int, songs: Any, weeks: slice = slice(None)) -> np.ndarray:
        """(runs, songs, weeks) float32 chart-observed streams over all blocks; 0 in runs without a debut."""
        parts = []
        for block in self.blocks(inputs):
            row = np.load(self.path(inputs, block, "curve"), mmap_mode="r")[:, region][:, songs]
            stored = np.memmap(self.curve_path(inputs, block), "<f4", "r").reshape(-1, HORIZON)
            parts.append(np.where((row < 0)[..., None], np.float32(0), stored[np.maximum(row, 0), weeks]))
        return np.concatenate(parts)
