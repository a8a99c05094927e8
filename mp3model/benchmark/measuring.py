"""Functions in, medians of alternating trials and peaks of memory out: how every section of the benchmark measures."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

Row = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """How one run of the benchmark measures.

    Attributes:
        folder: Of the run; scratch folders lie in it.
        quick: A few cases of each section.
        full: All combinations on a processor too.
        trials: Of each figure.
        clock: `wall`, or `processor` where other work runs beside.
    """

    folder: Path
    quick: bool = False
    full: bool = False
    trials: int = 5
    clock: str = "wall"

    def now(self, device: torch.device) -> float:
        """Seconds on the chosen clock, once the device has done what it was given."""
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            return time.perf_counter()
        return time.process_time() if self.clock == "processor" else time.perf_counter()

    def in_turns(self, device: torch.device, **run: Callable[[], Any]) -> dict[str, list[float]]:
        """Seconds of each function in each trial; all take turns, and the first round is left out.

        Trials are as many as 10 seconds hold, three at least, or two where a round takes over 5 seconds.
        """
        seconds: dict[str, list[float]] = {name: [] for name in run}
        trials, number = self.trials, -1
        while number < trials:
            took = 0.0
            for name, function in run.items():
                began = self.now(device)
                function()
                spent = self.now(device) - began
                took += spent
                if number >= 0:
                    seconds[name].append(spent)
            if number < 0:
                trials = min(self.trials, max(2 if took > 5 else 3, int(10 / max(took, 1e-9))))
            number += 1
        return seconds

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder beside the report, gone afterwards: hard links and pages are those of the disk that is used."""
        self.folder.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=self.folder, prefix=".scratch-"))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def peak_memory(device: torch.device, row: Row, name: str) -> Iterator[None]:
    """Puts into the row by how many MB memory grew at most: of the GPU, or of this process (looked at every 5 ms)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield
        row[name] = round((torch.cuda.max_memory_allocated(device) - before) / 1e6)
        return
    process, done = psutil.Process(), threading.Event()
    # What earlier work has freed but not given back would hide what this takes.
    getattr(ctypes.CDLL(None), "malloc_trim", int)(0)
    before = highest = process.memory_info().rss

    def look() -> None:
        nonlocal highest
        while not done.wait(0.005):
            highest = max(highest, process.memory_info().rss)

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
    row[name] = round((highest - before) / 1e6)


def compared(row: Row, seconds: dict[str, list[float]], ours: str = "ours", peer: str = "peer") -> Row:
    """Adds medians, and the median of the trials' ratios."""
    row["seconds"], row["peer_seconds"] = statistics.median(seconds[ours]), statistics.median(seconds[peer])
    row["ratio"] = statistics.median(b / a for a, b in zip(seconds[ours], seconds[peer], strict=True))
    row["trials"] = len(seconds[ours])
    return row


def share_of_products(flop: float, taken: dict[str, list[float]], ceiling_flop: float) -> float:
    """FLOP a second of `ours` over those of `product`, the median over the rounds they took turns in."""
    return statistics.median(
        flop / a / (ceiling_flop / c) for a, c in zip(taken["ours"], taken["product"], strict=True)
    )


def waits(step: Callable[[], Any]) -> bool:
    """Whether anything in a step makes the processor wait for the GPU."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    except RuntimeError:
        return True
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return False


def said(section: str, row: Row) -> Row:
    """Prints a row as it comes, with the load of the machine beside it."""
    row["load"] = round(os.getloadavg()[0], 1)
    print(f"{section}: {line_of(row)}", flush=True)
    return row


def line_of(row: Row) -> str:
    """A row in words and numbers."""
    shown = [
        f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in row.items()
        if key != "case"
    ]
    return f"{row['case']}: {', '.join(shown)}"
