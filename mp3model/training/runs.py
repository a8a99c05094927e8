"""How a recipe's run begins and ends: its processes, its folder, a dataset folder read or the simulated market made."""

from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mp3model.files import InputError, write_json
from mp3model.tables.folder import DatasetFolder, read_dataset

if TYPE_CHECKING:
    from accelerate import Accelerator


def begin_run(**settings: Any) -> Accelerator:
    """The accelerator of a recipe; `end_run` is its end.

    Args:
        settings: Of `accelerate.Accelerator`, without `cpu`.
    """
    import torch

    # Its functions' defaults keep the group of processes that there is when it is imported, as others do late, and with
    # the group its threads.
    import torch.distributed.nn
    from accelerate import Accelerator

    # Of several processes on a machine without a GPU Accelerate otherwise takes each for the only one.
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return Accelerator(cpu=several and not torch.cuda.is_available(), **settings)


def end_run(accelerator: Accelerator) -> None:
    """Ends the trackers and the group of processes with its threads, by which one that exits earlier may be aborted.

    Args:
        accelerator: Of `begin_run`. Nothing may hold what it prepared any more.
    """
    # A learner of several processes keeps the group; Accelerate keeps the learner, which is part of cycles.
    accelerator.free_memory()
    gc.collect()
    accelerator.end_training()


def check_bounds(arguments: Any, bounds: Mapping[str, tuple[float, float | None]]) -> None:
    """Refuses numbers that no run can use before anything is made.

    Args:
        arguments: A dataclass of options.
        bounds: Option → smallest and largest value, None for no largest. An option that was not given is passed over.

    Raises:
        InputError: Names the option, its value and the bounds.
    """
    for name, (lowest, highest) in bounds.items():
        value = getattr(arguments, name)
        if value is None:
            continue
        if not value >= lowest or (highest is not None and value > highest):
            most = f" and at most {highest}" if highest is not None else ""
            raise InputError(f"--{name} {value}: it must be at least {lowest}{most}")


@contextmanager
def claimed_folder(
    folder: Path, now: dict[str, Any], may_change: set[str], resume: bool, accelerator: Any
) -> Iterator[None]:
    """Records the run's arguments; never writes over another run, nor goes on with other arguments than at first.

    Input that is refused before the run has written anything leaves no folder behind.

    Args:
        folder: The run folder.
        now: This run's arguments.
        may_change: Those that move no weight, so that a resumed run may be given others.
        resume: Whether going on was asked for.
        accelerator: Of Accelerate.

    Raises:
        InputError: If the folder holds another run, or was begun with other arguments.
    """
    record = folder / "arguments.json"
    used = (folder / "report.json").exists() or any(folder.glob("**/checkpoint-*"))
    begun = record.is_file()
    before = json.loads(record.read_text()) if begun else now
    accelerator.wait_for_everyone()
    if used and not resume:
        raise InputError(f"{folder} holds another run; go on with --resume, or name another --output_dir")
    changed = [name for name in now if now[name] != before.get(name) and name not in may_change]
    if used and changed:
        name = changed[0]
        raise InputError(f"--{name} {now[name]}: {folder} was begun with {before.get(name)}; resume with the same")
    if accelerator.is_main_process:
        write_json(record, now)
    try:
        yield
    except InputError:
        if accelerator.is_main_process and not begun and list(folder.iterdir()) == [record]:
            record.unlink()
            folder.rmdir()
        raise


def give_memory_back() -> None:
    """Hands the system what reading and joining tables has left unused with Arrow's allocator.

    For a hundred thousand tracks that is more than the tables themselves take, and training would carry it along.
    """
    import pyarrow

    pyarrow.default_memory_pool().release_unused()


def read_or_make(data: str | None, songs: int, seed: int, folder: Path, accelerator: Any) -> DatasetFolder:
    """The dataset folder named, or the simulated market, made once beside the run folder.

    Args:
        data: A dataset folder, or None.
        songs, seed: Of the market.
        folder: The run folder.
        accelerator: Of Accelerate; its main process makes the market.

    Raises:
        InputError: If the folder is not sound, or no market came about.
    """
    if data is not None:
        return read_dataset(data)
    path = folder.parent / f"market-{songs}-{seed}"
    if accelerator.is_main_process and not path.exists():
        print(f"simulated market: {songs} songs, rendered into {path}", flush=True)
        # Rendered beside its place: a market that was interrupted is never taken for a whole one.
        part = Path(f"{path}.part")
        shutil.rmtree(part, ignore_errors=True)
        # In a process of its own: its workers would otherwise start by reading the recipe's file.
        words = ["--songs", str(songs), "--seed", str(seed)]
        made = subprocess.run([sys.executable, "-m", "data_prep.market", "--out", str(part), *words], check=False)
        if made.returncode:
            raise InputError(f"no simulated market: python -m data_prep.market {' '.join(words)} failed, see above")
        part.rename(path)
    accelerator.wait_for_everyone()
    return read_dataset(path)
