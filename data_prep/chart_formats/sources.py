"""Paths (files, folders, zip and gz archives) in; every file below them as a source of bytes out."""

from __future__ import annotations

import gzip
import hashlib
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from mp3model.files import InputError


@dataclass(frozen=True)
class Source:
    """One file, or one member of a zip: `name` as reports show it, `named` if the user gave it by name."""

    name: str
    path: Path
    member: str | None = None
    named: bool = False

    @contextmanager
    def opened(self, raw: bool = False) -> Iterator[IO[bytes]]:
        """The bytes; gz content decompressed unless `raw`.

        Raises:
            InputError: the file cannot be read.
        """
        try:
            if self.member is None:
                with open(self.path, "rb") as stream:
                    yield self._decompressed(stream, raw)
            else:
                with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as stream:
                    yield self._decompressed(stream, raw)
        except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
            raise InputError(f"{self.name}: damaged or cut short ({error}); copy it again") from error

    @staticmethod
    def _decompressed(stream: IO[bytes], raw: bool) -> IO[bytes]:
        head = stream.read(2)
        stream.seek(0)
        return gzip.open(stream) if head == b"\x1f\x8b" and not raw else stream  # type: ignore[return-value]

    def sha256(self) -> str:
        with self.opened(raw=True) as stream:
            digest = hashlib.sha256()
            while block := stream.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()


def find_sources(inputs: Sequence[Path]) -> list[Source]:
    """Every file below the inputs, folders and zips opened, in an order that depends on names alone.

    Raises:
        InputError: an input does not exist, or a zip is damaged.
    """
    found: list[Source] = []
    for given in inputs:
        if given.is_dir():
            files = sorted(p for p in given.rglob("*") if p.is_file() and not p.name.startswith("."))
            for path in files:
                found += _unzipped(path, str(path.relative_to(given.parent)), named=False)
        elif given.is_file():
            found += _unzipped(given, given.name, named=True)
        else:
            raise InputError(f"{given}: no such file or folder; give chart exports")
    seen: dict[str, Source] = {}
    for source in found:
        name = source.name
        if name in seen and seen[name].path.resolve() == source.path.resolve():
            continue
        while name in seen:
            name += " (other folder)"
        seen[name] = Source(name, source.path, source.member, source.named)
    return list(seen.values())


def _unzipped(path: Path, name: str, named: bool) -> list[Source]:
    if not zipfile.is_zipfile(path):
        return [Source(name, path, None, named)]
    try:
        with zipfile.ZipFile(path) as archive:
            members = sorted(i.filename for i in archive.infolist() if not i.is_dir())
    except zipfile.BadZipFile as error:
        raise InputError(f"{path}: damaged zip ({error}); copy it again") from error
    hidden = re.compile(r"(^|/)(\.|__MACOSX)")
    return [Source(f"{name}/{member}", path, member) for member in members if not hidden.search(member)]
