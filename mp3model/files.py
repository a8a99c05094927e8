"""What every table, bank and run folder shares on disk: a path in, a file or folder written whole or not at all out."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class InputError(ValueError):
    """Something the user gave is wrong; the message is one line that names the value, the file and the mend.

    Commands catch it, print the line and exit with a non-zero status; everything else that is raised is a defect of
    ours and keeps its traceback.
    """


@contextmanager
def errors_in_one_line(speak: bool = True) -> Iterator[None]:
    """Turns an `InputError` into one line on standard error and exit status 2, for the outermost call of a command.

    Args:
        speak: Whether this process prints the line; of several processes of one run, only the first should.
    """
    try:
        yield
    except InputError as error:
        if speak:
            print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(2) from None


# These say that a disk takes no more, whoever raises them: it is full, beyond a quota or a limit, or read-only.
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}


@contextmanager
def refusals_named(path: str | os.PathLike[str], every: bool = False) -> Iterator[None]:
    """Turns a disk's refusal to take what is written into an `InputError` that names the path and the mend.

    Args:
        path: What is being written.
        every: Whether any `OSError` of the block is such a refusal; otherwise the block reads files too, and only a
            full or read-only disk is.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        # safetensors gives the number in its text alone.
        told = re.search(r"\(os error (\d+)\)", str(error))
        number = getattr(error, "errno", None) or (int(told[1]) if told else None)
        if number not in _NO_ROOM and not (every and number is not None):
            raise
        mend = "make room there" if number in _NO_ROOM else "name a place that you may write to"
        raise InputError(
            f"{path}: cannot be written ({os.strerror(int(number))}); {mend}, then run it again: nothing was replaced"
        ) from error


@contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path beside `path`, which takes its place once the block has ended without an error.

    The content is flushed to disk before the rename, and the rename after it, so that neither a crash nor a full disk
    leaves half a file.

    Raises:
        InputError: The disk is full, or the place cannot be written; what was there before is there still.
    """
    path = Path(path)
    with refusals_named(path, every=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        # mkstemp makes private files; the rename would hand that mode on to a table others are meant to read.
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
        os.close(handle)
    temporary = Path(name)
    try:
        with refusals_named(path):
            yield temporary
        with refusals_named(path, every=True):
            flush(temporary)
            temporary.chmod(0o644)
            os.replace(temporary, path)
            flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def folder_written_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields an empty folder beside `path`, which takes its place once the block has ended without an error.

    Its files are flushed to disk before; what it replaces goes only afterwards. What a killed process had begun to
    write is removed by the next one that writes the same folder.

    Raises:
        InputError: The disk is full, or the place cannot be written; what was there before is there still.
    """
    path = Path(path)
    with folder_beside(path) as part:
        yield part
        with refusals_named(path, every=True):
            for file in part.rglob("*"):
                flush(file)
            flush(part)
            put_in_place(part, path)


@contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """Yields an empty folder beside `path`; whatever has its name at the end is removed.

    Raises:
        InputError: As the block raises it, but of `path`; or the disk is full, or no folder can be made there.
    """
    given, path = path, path.resolve()
    part, before = (path.with_name(f".{path.name}.{word}") for word in ("part", "before"))
    with refusals_named(given, every=True):
        if before.exists() and not path.exists():
            # Killed between the two renames of a file system that cannot exchange.
            before.rename(path)
        for left in (part, before):
            if left.exists():
                shutil.rmtree(left)
        part.mkdir(parents=True)
    try:
        with refusals_named(given):
            yield part
    except InputError as error:
        raise InputError(str(error).replace(str(part), str(given))) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def put_in_place(part: Path, path: Path) -> None:
    """Renames a folder that is whole to `path`; what was there gets the name of `part`, or is removed."""
    path = path.resolve()
    if not path.exists():
        part.rename(path)
    elif not exchanged(part, path):
        before = path.with_name(f".{path.name}.before")
        path.rename(before)
        part.rename(path)
        shutil.rmtree(before)
    flush(path.parent)


def link_rest(path: Path, part: Path, without: Collection[str]) -> bool:
    """Gives `part` what else `path` holds, as further names of the same files; False where a disk has no such names.

    Args:
        path: A folder.
        part: A folder beside it.
        without: What `part` is not to have of it, beside what it has already.
    """
    try:
        for one in path.iterdir():
            other = part / one.name
            if one.name in without or other.exists():
                continue
            if one.is_dir() and not one.is_symlink():
                shutil.copytree(one, other, symlinks=True, copy_function=os.link)
            else:
                os.link(one, other, follow_symlinks=False)
    except OSError:
        return False
    return True


def exchanged(one: Path, other: Path) -> bool:
    """Swaps the names of two folders in one step, which Python cannot; False where the system cannot either."""
    library = ctypes.CDLL(None, use_errno=True)
    places = (os.fsencode(one), os.fsencode(other))
    exchange = 2
    if hasattr(library, "renameat2"):
        # -100 is the current folder, from which relative paths are read.
        return library.renameat2(-100, places[0], -100, places[1], exchange) == 0
    return hasattr(library, "renamex_np") and library.renamex_np(*places, exchange) == 0


def flush(path: Path) -> None:
    """Waits until a file's content, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes JSON two spaces deep and without NaN: a missing number is `null`, as every JSON reader expects."""
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Hex digest of a file's content, read in bounded memory."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
