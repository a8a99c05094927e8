"""What a file's rows are coded into: running numbers for texts, arrays of rows, and what was rejected and why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date as Date
from typing import Any

import numpy as np

from data_prep.chart_formats.sources import Source
from mp3model.files import InputError

EPOCH = np.datetime64("1980-01-01", "D")
# A day from EPOCH and a region's code fit into as many bits.
DAY_BITS, REGION_BITS = 15, 9
EXAMPLES = 3


@dataclass(frozen=True)
class Options:
    """What the user says about files that do not say it themselves.

    Attributes:
        columns: role → column name, for exports with names of their own.
        region: of files that name none.
        periods: pattern in a file's name → `day`, `week-start` or `week-end`.
        today: the last day a chart can have.
    """

    columns: dict[str, str] = field(default_factory=dict)
    region: str | None = None
    periods: dict[str, str] = field(default_factory=dict)
    today: Date = field(default_factory=Date.today)


class Codes:
    """Texts ↔ running numbers, the same for all files of one run."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._numbers: dict[str, int] = {}

    def number(self, text: str) -> int:
        """Its code, a new one if it has none yet."""
        found = self._numbers.get(text)
        if found is None:
            found = self._numbers[text] = len(self.texts)
            self.texts.append(text)
        return found

    def numbers(self, texts: Iterable[str | None]) -> np.ndarray:
        """int32 codes, −1 for None."""
        return np.array([-1 if text is None else self.number(text) for text in texts], np.int32)


@dataclass
class Rejected:
    """How many rows were left out for one reason, and the first three of them as text."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, count: int, examples: Iterable[str]) -> None:
        self.count += count
        self.examples += [text for text, _ in zip(examples, range(EXAMPLES - len(self.examples)), strict=False)]


@dataclass
class SourceRows:
    """What one file held.

    Attributes:
        kind: `chart` (whole charts), `page` (rows of single tracks), `export` (full streams), `tracks`, `totals`.
        frequency: `W`, `D` or None where it has no dated rows.
        blocks: (track, region, day, rank, streams) arrays; day counts from EPOCH, rank 0 and streams NaN are unknown.
        texts: blocks of (track codes, title, artist, isrc) as the file first gives them.
        info: for a track table, a frame indexed by track code; for a totals page, its rows.
        summed: rows of an export that were added to others.
        coded: rows that came out of the file, also once `blocks` has been taken.
    """

    source: Source
    format: str
    kind: str = "chart"
    frequency: str | None = None
    date_means: str = "day"
    read: int = 0
    rejected: dict[str, Rejected] = field(default_factory=dict)
    blocks: list[tuple[np.ndarray, ...]] = field(default_factory=list)
    texts: list[tuple[np.ndarray, list, list, list]] = field(default_factory=list)
    info: Any = None
    notes: list[str] = field(default_factory=list)
    sha256: str = ""
    summed: int = 0
    coded: int = 0

    @property
    def name(self) -> str:
        return self.source.name

    def recode(self, tracks: np.ndarray, regions: np.ndarray) -> None:
        """Puts other codes in place of those the file was read with: (codes,) new ones by old ones."""
        # Past the end stands the code of no track.
        tracks, regions = (np.append(codes, -1) for codes in (tracks, regions))
        self.blocks = [
            (tracks[track].astype(track.dtype), regions[region].astype(region.dtype), *rest)
            for track, region, *rest in self.blocks
        ]
        self.texts = [(tracks[codes].astype(codes.dtype), *rest) for codes, *rest in self.texts]
        if self.kind == "totals":
            self.info = self.info.assign(track=tracks[self.info["track"]].astype(self.info["track"].dtype))
        elif self.info is not None:
            info = self.info.set_axis(tracks[self.info.index].astype(self.info.index.dtype))
            self.info = info if self.kind == "tracks" else info.sort_index()

    def reject(self, reason: str, count: int, examples: Iterable[str]) -> None:
        """Counts rows out."""
        if count:
            self.rejected.setdefault(reason, Rejected()).add(count, examples)

    @property
    def rows(self) -> int:
        """How many the blocks hold."""
        return sum(len(block[0]) for block in self.blocks)


class NotAChartError(InputError):
    """The file holds nothing of what this command reads; in a folder it is left out, by name it is an error."""
