"""What every table, bank and run folder shares on disk: a path in, a file written whole or not at all out."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
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


@contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path beside `path`, which takes its place once the block has ended without an error.

    The content is flushed to disk before the rename, so that neither a crash nor a full disk leaves half a file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # mkstemp makes private files; the rename would hand that mode on to a table others are meant to read.
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        descriptor = os.open(temporary, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.chmod(0o644)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes JSON two spaces deep and without NaN: a missing number is `null`, as every JSON reader expects."""
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Hex digest of a file's content, read in bounded memory."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
