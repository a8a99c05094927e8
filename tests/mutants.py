"""A seed and a number in; a damaged or hostile audio file out, always the same one; or what decoding many of them does.

`python mutants.py FOLDER SEED FIRST LAST` decodes the mutants of the files in FOLDER in one process of bounded memory
and tells of each; `Hunt` starts such processes, watches them and starts another where one died or hangs.
"""

from __future__ import annotations

import json
import os
import random
import resource
import struct
import subprocess
import sys
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import soundfile
from audio_files import tone, write_audio

from mp3model.audio.decode import MAX_SECONDS, AudioError, decode

MEMORY_MEGABYTES = 512
SECONDS = 5.0
_WORD = struct.Struct("<I")
_EXTREME = (0, 1, 2, 3, 7, 8, 255, 1000, 2**15 - 1, 2**16 - 1, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63, -1)


class Field(NamedTuple):
    """Bits of a file that mean a number: where they begin, how many they are, and whether their bytes are swapped."""

    bit: int
    bits: int
    little: bool = False


# --- The whole files that mutants are made of. ---


def write_seeds(folder: Path) -> Path:
    """Writes short clips in every format, with several settings of several encoders each; the same bytes each time."""
    noisy = np.random.default_rng(0)

    def sound(seconds: float, rate: int, channels: int = 1) -> np.ndarray:
        return tone(seconds, rate, channels) + noisy.normal(0, 0.05, (round(seconds * rate), channels)).astype("f4")

    def put(name: str, content: bytes) -> None:
        (folder / name).write_bytes(content)

    folder.mkdir(parents=True, exist_ok=True)
    for rate, channels in ((8_000, 1), (22_050, 2), (44_100, 2), (48_000, 1)):
        write_audio(folder / f"constant-{rate}.mp3", sound(0.4, rate, channels), rate)
    variable = {"format": "MP3", "bitrate_mode": "VARIABLE", "compression_level": 0.2}
    soundfile.write(folder / "variable.mp3", sound(0.5, 44_100, 2), 44_100, **variable)
    picture = b"\x89PNG\r\n\x1a\n" + noisy.bytes(2_000)
    put("tagged.mp3", _id3(picture) + (folder / "constant-44100.mp3").read_bytes() + b"TAG" + b"\xe9" * 125)
    for rate, channels in ((8_000, 1), (16_000, 2), (44_100, 2), (48_000, 6)):
        write_audio(folder / f"aac-{rate}.m4a", sound(0.4, rate, channels), rate)
    put("lossless.m4a", _by_ffmpeg(sound(0.3, 44_100, 2), 44_100, "alac", "ipod", "s16p"))
    put("mp3-inside.m4a", _by_ffmpeg(sound(0.3, 44_100, 2), 44_100, "libmp3lame", "mp4", "fltp"))
    put(
        "fragmented.m4a",
        _by_ffmpeg(sound(0.4, 44_100, 2), 44_100, "aac", "mp4", "fltp", movflags="empty_moov+frag_keyframe"),
    )
    for rate, channels in ((8_000, 1), (44_100, 2), (48_000, 6), (96_000, 1)):
        path = write_audio(folder / f"vorbis-{rate}.ogg", sound(0.3, rate, channels), rate)
        path.write_bytes(with_page_sums(path.read_bytes(), serial=1))
    for rate, channels in ((16_000, 1), (48_000, 2)):
        path = write_audio(folder / f"opus-{rate}.opus", sound(0.3, rate, channels), rate)
        path.write_bytes(with_page_sums(path.read_bytes(), serial=2))
    put("flac-inside.ogg", with_page_sums(_by_ffmpeg(sound(0.2, 44_100, 1), 44_100, "flac", "ogg", "s16"), serial=3))
    for rate, channels, coding in (
        (8_000, 1, "PCM_16"),
        (44_100, 2, "PCM_16"),
        (96_000, 1, "PCM_24"),
        (48_000, 6, "PCM_S8"),
    ):
        soundfile.write(folder / f"pcm-{rate}.flac", sound(0.2, rate, channels), rate, subtype=coding, format="FLAC")
    put("tagged.flac", _id3(picture) + (folder / "pcm-8000.flac").read_bytes())
    put("silent.flac", silent_flac(8_000, blocks=4, block=4_096))
    wavs = (
        ("PCM_16", 44_100, 2),
        ("PCM_U8", 8_000, 1),
        ("PCM_24", 96_000, 6),
        ("FLOAT", 48_000, 2),
        ("DOUBLE", 16_000, 1),
    )
    compressed = (("ULAW", 8_000, 1), ("IMA_ADPCM", 22_050, 2), ("MS_ADPCM", 22_050, 1), ("GSM610", 8_000, 1))
    for coding, rate, channels in (*wavs, *compressed):
        soundfile.write(folder / f"{coding.lower()}.wav", sound(0.1, rate, channels), rate, subtype=coding)
    for name in ("float", "double"):
        content = (folder / f"{name}.wav").read_bytes()
        at = content.index(b"PEAK") + 12  # the time of writing
        put(f"{name}.wav", content[:at] + bytes(4) + content[at + 4 :])
    soundfile.write(folder / "64-bit.wav", sound(0.2, 16_000), 16_000, format="RF64")
    soundfile.write(folder / "extensible.wav", sound(0.2, 16_000, 2), 16_000, format="WAVEX")
    for name, rate, channels in (
        ("a.aiff", 44_100, 2),
        ("b.aif", 8_000, 1),
        ("a.aac", 44_100, 2),
        ("b.aac", 16_000, 1),
    ):
        write_audio(folder / name, sound(0.3, rate, channels), rate)
    return folder


def _by_ffmpeg(waveform: np.ndarray, rate: int, coding: str, container: str, kind: str, **options: str) -> bytes:
    path = Path(f"/proc/self/fd/{os.memfd_create('seed')}")
    layout = {1: "mono", 2: "stereo"}[waveform.shape[1]]
    with av.open(str(path), "w", format=container, options={"fflags": "+bitexact", **options}) as output:
        stream = output.add_stream(coding, rate=rate)
        stream.layout, stream.format = layout, kind
        values = waveform if kind.startswith("f") else (waveform * 32767).astype(np.int16)
        for start in range(0, len(values), 1024):
            block = values[start : start + 1024]
            block = block.T if kind.endswith("p") else block.reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), format=kind, layout=layout)
            frame.sample_rate, frame.pts = rate, start
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path.read_bytes()


def _id3(picture: bytes) -> bytes:
    def frame(name: bytes, content: bytes) -> bytes:
        return name + struct.pack(">I", len(content)) + b"\0\0" + content

    tag = frame(b"TIT2", b"\0A song") + frame(b"APIC", b"\0image/png\0\3\0" + picture)
    return b"ID3\3\0\0" + bytes(len(tag) >> shift & 0x7F for shift in (21, 14, 7, 0)) + tag


# --- Sums over which decoders check what they read: a mutant that keeps them right gets further. ---

_MIRROR = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def ogg_sum(page: bytes) -> int:
    """The sum of an ogg page whose own sum is zeroed (RFC 3533, section 6): zlib's polynomial, bits in other order."""
    mirrored = zlib.crc32(page.translate(_MIRROR), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)


def _table(polynomial: int, bits: int) -> list[int]:
    top, mask = 1 << (bits - 1), (1 << bits) - 1
    table = []
    for byte in range(256):
        value = byte << (bits - 8)
        for _ in range(8):
            value = (value << 1 ^ (polynomial if value & top else 0)) & mask
        table.append(value)
    return table


_EIGHT, _SIXTEEN = _table(0x07, 8), _table(0x8005, 16)


def flac_header_sum(content: bytes) -> int:
    """CRC-8 of a flac frame's header (RFC 9639, section 9.1.8)."""
    value = 0
    for byte in content:
        value = _EIGHT[value ^ byte]
    return value


def flac_frame_sum(content: bytes) -> int:
    """CRC-16 of a flac frame (RFC 9639, section 9.3)."""
    value = 0
    for byte in content:
        value = (value << 8 ^ _SIXTEEN[value >> 8 ^ byte]) & 0xFFFF
    return value


def ogg_pages(content: bytes) -> Iterator[tuple[int, int]]:
    """Where each ogg page begins and ends, by its own lacing."""
    at = content.find(b"OggS")
    while at >= 0 and at + 27 <= len(content):
        lacing = content[at + 27 : at + 27 + content[at + 26]]
        end = at + 27 + len(lacing) + sum(lacing)
        yield at, min(end, len(content))
        at = content.find(b"OggS", end)


def with_page_sums(content: bytes, serial: int | None = None) -> bytes:
    """An ogg with right sums on every page, and with a serial number that is the same each time, if given."""
    fixed = bytearray(content)
    for start, end in ogg_pages(content):
        if serial is not None:
            fixed[start + 14 : start + 18] = _WORD.pack(serial)
        fixed[start + 22 : start + 26] = bytes(4)
        fixed[start + 22 : start + 26] = _WORD.pack(ogg_sum(bytes(fixed[start:end])))
    return bytes(fixed)


def silent_flac(rate: int, blocks: int, block: int = 65_535, declared: int | None = None) -> bytes:
    """A flac of digital silence, a dozen bytes a block, that declares `declared` samples; None is the truth.

    Args:
        rate: in Hz, a multiple of 1000 below 256 kHz or any that fits 16 bits.
        blocks: of as many samples as `block`.
    """
    total = blocks * block if declared is None else declared
    about = struct.pack(">HH", block, block) + bytes(6) + (rate << 44 | 15 << 36 | total).to_bytes(8, "big") + bytes(16)
    frames = [b"fLaC\x80" + len(about).to_bytes(3, "big") + about]
    for number in range(blocks):
        # Block size and rate follow in 16 bits each; one channel of 16 bits.
        head = b"\xff\xf8\x7d\x08" + _long_utf8(number) + struct.pack(">HH", block - 1, rate)
        frame = head + bytes([flac_header_sum(head)]) + b"\0\0\0"  # a constant subframe, and its value
        frames.append(frame + flac_frame_sum(frame).to_bytes(2, "big"))
    return b"".join(frames)


def _long_utf8(number: int) -> bytes:
    return chr(number).encode("utf-8", "surrogatepass")


# --- Where the numbers are. ---


def fields_of(content: bytes) -> list[Field]:
    """Numbers in a file's structure that a decoder believes: lengths, rates, counts, sums."""
    if content[:4] in (b"RIFF", b"RF64"):
        return _riff_fields(content)
    if content[:4] == b"OggS":
        return _ogg_fields(content)
    if content[4:8] == b"ftyp":
        return list(_mp4_fields(content, 0, len(content)))
    at = content.find(b"fLaC")
    return _flac_fields(content, at) if at >= 0 else _mp3_fields(content)


def _bytes(at: int, count: int, little: bool = False) -> Field:
    return Field(8 * at, 8 * count, little)


def _riff_fields(content: bytes) -> list[Field]:
    found, at = [_bytes(0, 4), _bytes(4, 4, True)], 12
    while at + 8 <= len(content):
        name, size = content[at : at + 4], _WORD.unpack(content[at + 4 : at + 8])[0]
        found += [_bytes(at, 4), _bytes(at + 4, 4, True)]
        shape = {b"fmt ": (2, 2, 4, 4, 2, 2, 2, 2, 4), b"fact": (4,), b"ds64": (8, 8, 8, 4)}.get(name, ())
        start = at + 8
        for width in shape:
            found.append(_bytes(start, width, True))
            start += width
        at += 8 + size + size % 2
    return found


def _ogg_fields(content: bytes) -> list[Field]:
    found = []
    for start, end in ogg_pages(content):
        place = start + 4
        for width in (1, 1, 8, 4, 4, 4, 1):
            found.append(_bytes(place, width, True))
            place += width
        count = content[start + 26]
        found += [_bytes(place + number, 1) for number in range(min(count, 4))]
        body = place + count
        # The numbers of the first packet: version, channels, rate, bit rates, block sizes.
        found += [
            _bytes(body + 7 + number, width, True)
            for number, width in ((0, 4), (4, 1), (5, 4), (9, 4), (21, 1))
            if start == 0
        ]
        found += [_bytes(min(body + number, end), 1) for number in range(4)]
    return found


_NESTED = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"udta", b"moof", b"traf", b"mvex", b"dinf", b"edts")


def _mp4_fields(content: bytes, start: int, end: int) -> Iterator[Field]:
    while start + 8 <= end:
        size, name = struct.unpack(">I", content[start : start + 4])[0], content[start + 4 : start + 8]
        yield _bytes(start, 4)
        yield _bytes(start + 4, 4)
        stop = start + size if 8 <= size <= end - start else end
        if name in _NESTED:
            yield from _mp4_fields(content, start + 8, stop)
        elif name != b"mdat":
            # Every word of the small tables: counts, sizes, offsets, time scales, durations.
            for at in range(start + 8, min(stop, start + 8 + 96), 4):
                yield _bytes(at, 4)
            for at in range(start + 8, min(stop, start + 8 + 96), 2):
                yield _bytes(at, 2)
        start = stop


def _flac_fields(content: bytes, at: int) -> list[Field]:
    about = 8 * (at + 8)
    widths, found = (16, 16, 24, 24, 20, 3, 5, 36, 128), []
    for width in widths:
        found.append(Field(about, width))
        about += width
    place = at + 4
    while place + 4 <= len(content):
        found += [Field(8 * place, 1), Field(8 * place + 1, 7), _bytes(place + 1, 3)]
        last, size = content[place] >> 7, int.from_bytes(content[place + 1 : place + 4], "big")
        found += [_bytes(place + 4, 4), _bytes(place + 4, 4, True), _bytes(place + 12, 4)]
        place += 4 + size
        if last:
            break
    frame = 8 * place  # of the first frame: block size, rate, channels, sample size, number
    return found + [
        Field(frame + bit, width) for bit, width in ((0, 16), (16, 4), (20, 4), (24, 4), (28, 3), (32, 8), (40, 8))
    ]


def _mp3_fields(content: bytes) -> list[Field]:
    found = []
    at = 0
    if content[:3] == b"ID3":
        found += [_bytes(3, 1), _bytes(5, 1), _bytes(6, 4), _bytes(14, 4)]
        at = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(content[6:10], (21, 14, 7, 0), strict=True))
    head = 8 * at
    found += [
        Field(head + bit, width)
        for bit, width in ((11, 2), (13, 2), (15, 1), (16, 4), (20, 2), (22, 1), (24, 2), (26, 2))
    ]
    found += [_bytes(at + place, 4) for place in (4, 8)]
    for name in (b"Xing", b"Info", b"VBRI", b"LAME"):
        where = content.find(name, at, at + 200)
        if where >= 0:
            found += [_bytes(where + place, 4) for place in (4, 8, 12)] + [_bytes(where + 141, 3)]
    return found


def put_number(content: bytearray, place: Field, value: int) -> None:
    """Sets a field, cut to its width."""
    first, last = place.bit // 8, (place.bit + place.bits + 7) // 8
    if last > len(content):
        return
    value &= (1 << place.bits) - 1
    if place.little:
        content[first:last] = value.to_bytes(last - first, "little")
        return
    after = 8 * last - place.bit - place.bits
    whole = int.from_bytes(content[first:last], "big") & ~(((1 << place.bits) - 1) << after)
    content[first:last] = (whole | value << after).to_bytes(last - first, "big")


# --- What is done to them. ---

Operator = Callable[[bytearray, random.Random, list[bytes]], None]


def _span(content: bytearray, luck: random.Random) -> tuple[int, int]:
    start = luck.randrange(len(content) + 1)
    return start, min(len(content), start + int(2 ** luck.uniform(0, 13)))


def flip_bits(content: bytearray, luck: random.Random, _: list[bytes]) -> None:
    for _turn in range(luck.choice((1, 1, 2, 5, 20, 100))):
        if content:
            content[luck.randrange(len(content))] ^= 1 << luck.randrange(8)


def set_bytes(content: bytearray, luck: random.Random, _: list[bytes]) -> None:
    near = min(len(content), luck.choice((64, 400, 2**20)))
    for _turn in range(luck.randint(1, 12) if near else 0):
        content[luck.randrange(near)] = luck.randrange(256)


def cut_off(content: bytearray, luck: random.Random, _: list[bytes]) -> None:
    del content[luck.randrange(len(content) + 1) :]


def cut_out(content: bytearray, luck: random.Random, _: list[bytes]) -> None:
    start, end = _span(content, luck)
    del content[start:end]


def repeat(content: bytearray, luck: random.Random, _: list[bytes]) -> None:
    start, end = _span(content, luck)
    content[end:end] = content[start:end] * luck.choice((1, 1, 2, 10))


def wipe(content: bytearray, luck: random.Random, _: list[bytes]) -> None:
    start, end = _span(content, luck)
    content[start:end] = bytes([luck.choice((0, 0, 255, luck.randrange(256)))]) * (end - start)


def splice(content: bytearray, luck: random.Random, others: list[bytes]) -> None:
    other = luck.choice(others)
    start, end = _span(content, luck)
    first = luck.randrange(len(other))
    content[start:end] = other[first : first + luck.choice((end - start, 100, len(other)))]


def change_number(content: bytearray, luck: random.Random, _: list[bytes]) -> None:
    places = fields_of(bytes(content))
    for place in luck.choices(places, k=luck.choice((1, 1, 1, 2, 4))) if places else ():
        first = place.bit // 8
        old = int.from_bytes(content[first : first + max(1, place.bits // 8)], "little" if place.little else "big")
        value = luck.choice((luck.choice(_EXTREME), luck.getrandbits(place.bits), old + luck.choice((-1, 1)), 2 * old))
        put_number(content, place, value)


def any_number(content: bytearray, luck: random.Random, _: list[bytes]) -> None:
    width = luck.choice((1, 2, 4, 8))
    at = luck.randrange(max(1, min(len(content), 600)))
    put_number(content, Field(8 * at, 8 * width, luck.random() < 0.5), luck.choice(_EXTREME))


def not_a_number(content: bytearray, luck: random.Random, _: list[bytes]) -> None:
    at = luck.randrange(len(content) + 1)
    bad = struct.pack(*luck.choice((("<f", np.nan), ("<f", np.inf), ("<f", -3e38), ("<d", np.nan), ("<d", 1e308))))
    content[at : at + len(bad) * 4] = bad * 4


OPERATORS: tuple[Operator, ...] = (
    *(flip_bits, set_bytes, cut_off, cut_out, repeat, wipe, splice, any_number, not_a_number),
    *(change_number, change_number, change_number, change_number),
)


def mutant(files: dict[str, bytes], seed: int, number: int) -> tuple[str, bytes]:
    """The name of the file it was made of, and the mutant: one to three changes, the first most often alone."""
    luck = random.Random(f"{seed}:{number}")
    name = luck.choice(sorted(files))
    others = [files[other] for other in sorted(files)]
    content = bytearray(files[name])
    for _ in range(luck.choice((1, 1, 1, 2, 3))):
        luck.choice(OPERATORS)(content, luck, others)
    damaged = bytes(content)
    if damaged[:4] == b"OggS" and luck.random() < 0.7:
        damaged = with_page_sums(damaged)
    return name, damaged


# --- What decoding them does. ---


@dataclass
class Tally:
    """Of one kind of file."""

    decoded: int = 0
    refused: int = 0
    seconds: list[float] = field(default_factory=list)


@dataclass
class Hunt:
    """Mutants decoded so far.

    Attributes:
        failures: what went wrong, with the seed and the number; each one's file is in the folder `kept`.
        kinds: suffix → what came of it.
        peak_megabytes: the most memory that a process held beyond what it began with.
        processes: how many were started.
    """

    seeds: Path
    kept: Path
    seed: int
    failures: list[str] = field(default_factory=list)
    kinds: dict[str, Tally] = field(default_factory=dict)
    peak_megabytes: float = 0.0
    processes: int = 0

    def run(self, first: int, last: int) -> None:
        """Decodes the mutants first to last − 1."""
        while first < last:
            first = self._by_one_process(first, last)

    def _by_one_process(self, first: int, last: int) -> int:
        self.processes += 1
        command = [sys.executable, __file__, str(self.seeds), str(self.seed), str(first), str(last)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stderr is not None
        heard, late = [time.monotonic() + 60.0], threading.Event()  # it has to start first

        def watch() -> None:
            while process.poll() is None:
                if time.monotonic() > heard[0]:
                    late.set()
                    process.kill()
                time.sleep(0.05)

        threading.Thread(target=watch, daemon=True).start()
        for line in process.stdout:
            heard[0] = time.monotonic() + SECONDS
            first = self._told(json.loads(line), first)
        said, status = process.stderr.read(), process.wait()
        if first < last:
            why = f"hangs for {SECONDS:g} s" if late.is_set() else f"ends the process with status {status}"
            self._fail(first, f"{why} {said[-500:]}")
            first += 1
        return first

    def _told(self, told: dict, first: int) -> int:
        if "peak" in told:
            self.peak_megabytes = max(self.peak_megabytes, told["peak"])
            return first
        tally = self.kinds.setdefault(Path(told["name"]).suffix, Tally())
        tally.seconds.append(told["seconds"])
        tally.decoded += told["outcome"] == "decoded"
        tally.refused += told["outcome"] == "refused"
        if told["outcome"] == "failed":
            self._fail(told["number"], told["why"])
        return int(told["number"]) + 1

    def _fail(self, number: int, why: str) -> None:
        name, content = mutant(read_seeds(self.seeds), self.seed, number)
        self.kept.mkdir(parents=True, exist_ok=True)
        path = self.kept / f"{self.seed}-{number}-{name}"
        path.write_bytes(content)
        self.failures.append(f"seed {self.seed} mutant {number} of {name}: {why} (kept as {path})")

    def table(self) -> str:
        """A line a kind: how many, what came of them, how long they took."""
        lines = [f"{'kind':8}{'mutants':>9}{'refused':>9}{'decoded':>9}{'median ms':>11}{'worst ms':>10}"]
        for kind, tally in sorted(self.kinds.items()):
            times = 1000 * np.array(tally.seconds)
            lines.append(
                f"{kind[1:]:8}{len(times):9}{tally.refused:9}{tally.decoded:9}{np.median(times):11.2f}{times.max():10.0f}"
            )
        return "\n".join([*lines, f"peak memory {self.peak_megabytes:.0f} MB, {self.processes} processes"])


def read_seeds(folder: Path) -> dict[str, bytes]:
    """Name → content."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def peak_megabytes() -> float:
    """The most memory that this process has held; `getrusage` would count what its parent held when it was started."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


def _what_came_of(content: bytes) -> dict[str, str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            clip = decode(content)
    except AudioError as error:
        told = str(error)
        one_line = told.isprintable() and told == f"the given bytes: {error.reason}" and len(told) < 500
        return {"outcome": "refused"} if one_line else {"outcome": "failed", "why": f"says {told!r}"}
    except Exception as error:
        return {"outcome": "failed", "why": f"raises {error!r}"}
    if clip.dtype != np.int16 or clip.ndim != 1 or not 0 < len(clip) <= (MAX_SECONDS + 1) * 16_000:
        return {"outcome": "failed", "why": f"gives {clip.dtype} {clip.shape}"}
    return {"outcome": "decoded"}


def main(words: list[str]) -> None:
    """Decodes mutants, and tells of each in a line on standard output."""
    for name in ("av", "soundfile", "soxr"):
        import_module(name)
    files, seed = read_seeds(Path(words[0])), int(words[1])
    with open("/proc/self/statm") as stream:
        space = int(stream.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (space + MEMORY_MEGABYTES * 2**20,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    started_with = peak_megabytes()
    # What a library writes there is told with the mutant that it wrote about.
    errors = os.dup(2)
    os.dup2(os.memfd_create("said"), 2)
    try:
        for number in range(int(words[2]), int(words[3])):
            name, content = mutant(files, seed, number)
            written, began = os.fstat(2).st_size, time.perf_counter()
            told = _what_came_of(content)
            seconds = time.perf_counter() - began
            if os.fstat(2).st_size > written:
                told = {"outcome": "failed", "why": "makes a library write to standard error"}
            print(json.dumps({"number": number, "name": name, "seconds": seconds, **told}), flush=True)
    finally:
        os.dup2(errors, 2)
    print(json.dumps({"peak": peak_megabytes() - started_with}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
