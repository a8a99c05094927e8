"""Audio files of strangers as bytes in; their sound, decoded in processes with limits of memory and time, out.

A process is `python -m mp3model.serving.decoding`: it reads requests on standard input and answers on standard output,
holds nothing of the server's, and goes when the server goes, however that ended.
"""

from __future__ import annotations

import os
import queue
import struct
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any, BinaryIO

import numpy as np

from mp3model.audio.decode import AudioError, decode

MEMORY_MEGABYTES = 1024
SECONDS = 30.0

_HEAD = struct.Struct("<BQ")  # kind, bytes that follow
_ASK = struct.Struct("<d")  # longest sound in seconds
_SOUND, _REFUSED = 0, 1
_BROKEN = "took more memory or time than it may, or broke its decoder"


class Decoders:
    """Processes that decode; each call takes one of them, waits for it if none is free, and may be made in any thread.

    Args:
        count: Processes.
        memory_megabytes: What one may take beside what it starts with.
        seconds: What one file may take, in processor time and on the clock.
    """

    def __init__(self, count: int = 2, memory_megabytes: int = MEMORY_MEGABYTES, seconds: float = SECONDS) -> None:
        self._settings = (str(memory_megabytes), str(seconds))
        self._seconds = seconds
        self._lock = threading.Lock()
        self._closed = False
        self._free: queue.SimpleQueue[subprocess.Popen[bytes] | None] = queue.SimpleQueue()
        self._all: set[subprocess.Popen[bytes]] = set()
        for _ in range(count):
            self._free.put(None)

    def decode(self, content: bytes, max_seconds: float, name: str) -> np.ndarray:
        """int16 samples (samples,), mono at 16 kHz.

        Args:
            content: The file.
            max_seconds: The longest sound taken.
            name: What errors call the file.

        Raises:
            AudioError: As `mp3model.audio.decode.decode`, or the file took more memory or time than it may.
        """
        process = self._free.get()
        try:
            if process is None or process.poll() is not None:
                process = self._started()
            kind, answer = self._asked(process, content, max_seconds, name)
        except BaseException:
            self._ended(process)
            process = None
            raise
        finally:
            self._free.put(process)
        if kind == _REFUSED:
            raise AudioError(name, answer.decode())
        return np.frombuffer(answer, dtype="<i2")

    def close(self) -> None:
        """Ends every process; a call that still waits for one fails."""
        with self._lock:
            self._closed = True
            processes = list(self._all)
        for process in processes:
            self._ended(process)

    def _asked(
        self, process: subprocess.Popen[bytes], content: bytes, max_seconds: float, name: str
    ) -> tuple[int, bytes]:
        assert process.stdin is not None
        assert process.stdout is not None
        late = threading.Event()

        def end() -> None:
            late.set()
            process.kill()

        clock = threading.Timer(self._seconds, end)
        clock.start()
        try:
            process.stdin.write(_HEAD.pack(_SOUND, len(content)) + _ASK.pack(max_seconds))
            process.stdin.write(content)
            process.stdin.flush()
            kind, size = _HEAD.unpack(_whole(process.stdout, _HEAD.size))
            return kind, _whole(process.stdout, size)
        except (OSError, EOFError) as error:
            why = f"took longer than {self._seconds:g} s" if late.is_set() else _BROKEN
            raise AudioError(name, f"cannot be decoded here: it {why}") from error
        finally:
            clock.cancel()

    def _started(self) -> subprocess.Popen[bytes]:
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        with self._lock:
            if self._closed:
                raise RuntimeError("the decoders are closed")
            process = subprocess.Popen(
                [sys.executable, "-m", "mp3model.serving.decoding", *self._settings],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=os.environ | threads,
                # An interrupt on the terminal is the server's to answer, in its own order.
                start_new_session=True,
            )
            self._all.add(process)
        return process

    def _ended(self, process: subprocess.Popen[bytes] | None) -> None:
        if process is None:
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            # What was not written yet has no reader any more.
            with suppress(OSError):
                if stream is not None:
                    stream.close()
        with self._lock:
            self._all.discard(process)


def _whole(stream: Any, size: int) -> bytes:
    content = stream.read(size)
    if len(content) < size:
        raise EOFError
    return content


def _limit_memory(megabytes: int) -> None:
    import resource

    used = _address_space()
    if used is not None:
        resource.setrlimit(resource.RLIMIT_AS, (used + megabytes * 2**20,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Sound is small beside it; a decoder that fills a disk is stopped.
    resource.setrlimit(resource.RLIMIT_FSIZE, (megabytes * 2**20,) * 2)


def _address_space() -> int | None:
    """Bytes of this process's address space, None where the system does not say."""
    try:
        with open("/proc/self/statm") as stream:
            return int(stream.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None


def _limit_time(seconds: float) -> None:
    import resource

    usage = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    # Whole seconds is all the system counts in.
    resource.setrlimit(resource.RLIMIT_CPU, (int(usage.ru_utime + usage.ru_stime + seconds) + 1, hard))


def _answer(output: BinaryIO, kind: int, content: bytes) -> None:
    output.write(_HEAD.pack(kind, len(content)))
    output.write(content)
    output.flush()


def main(words: Sequence[str]) -> None:
    """Decodes until its standard input ends."""
    # Loaded before memory is limited: what a file may take is counted from here.
    for name in ("av", "soundfile", "soxr"):
        import_module(name)
    source = os.fdopen(os.dup(0), "rb")
    output = os.fdopen(os.dup(1), "wb")
    # A library that prints must not speak into the answer.
    os.dup2(2, 1)
    _limit_memory(int(words[0]))
    while head := source.read(_HEAD.size):
        _, size = _HEAD.unpack(head)
        (max_seconds,) = _ASK.unpack(_whole(source, _ASK.size))
        content = _whole(source, size)
        _limit_time(float(words[1]))
        try:
            _answer(output, _SOUND, decode(content, max_seconds).astype("<i2").tobytes())
        except AudioError as error:
            _answer(output, _REFUSED, error.reason.encode())
        except MemoryError:
            _answer(output, _REFUSED, b"cannot be decoded here: it took more memory than it may")


if __name__ == "__main__":
    main(sys.argv[1:])
