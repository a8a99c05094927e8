"""An audio file in, as a path or as bytes; its sound as int16 samples, mono at 16 kHz, out.

The kind of a file is read from its content, never from its name. wav, aiff and flac go through libsndfile, which
reports damage in them most strictly. mp3, ogg, m4a and aac go through FFmpeg: libsndfile cuts a variable-rate mp3
without a Xing header at a length it estimates from the first frame, fills holes in a damaged ogg with plausible
sound, and lets mpg123 write to stderr. FFmpeg is always told the container: its own guess takes a wav with a
damaged header for console ADPCM and text for terminal animation.

A file that ends early is refused where its length can be known: wav and aiff by the size of the data chunk (libsndfile
silently corrects it), flac and m4a by their headers, ogg by a last page that is cut, mp3 by the frame count of a
Xing, Info or VBRI header. An mp3 without one, or raw aac, declares nothing and is taken as it is.
"""

from __future__ import annotations

import io
import os
import re
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from mp3model.audio.bank import SAMPLE_RATE, to_int16
from mp3model.files import InputError

MAX_SECONDS = 1200.0
MAX_CHANNELS = 64
LOWEST_RATE, HIGHEST_RATE = 1_000, 768_000
SUFFIXES = (".mp3", ".m4a", ".mp4", ".aac", ".ogg", ".oga", ".opus", ".flac", ".wav", ".aiff", ".aif", ".aifc")

_BLOCK = 65_536  # frames held at once
_PORTION = 2**20  # bytes read at once
# The header of an ID3v2 tag (id3.org, ID3v2.4 structure, section 3.1), or what begins a compressed movie header.
_PACKED = re.compile(rb"ID3[\2-\4][^\xff][\0-\xff][\0-\x7f]{4}|dcomzlib")
_LONGEST_PACKED = 10
_MOST_TAGS, _MOST_CHUNKS = 100, 10_000  # each is a step of a reader, and a file can hold millions
_TOO_MANY_PLANES = 8
_MISSING_SHARE, _MISSING_SECONDS = 0.01, 0.1  # encoder delay and rounding stay below both; a cut file does not
_LARGEST_SAMPLE = 64.0  # a hot mp3 overshoots full scale by a few dB; this is 36 dB, integers stored as floats
_FFMPEG_FORMAT = {
    "wav": "wav",
    "aiff": "aiff",
    "flac": "flac",
    "ogg": "ogg",
    "mp3": "mp3",
    "m4a": "mp4",
    "aac": "aac",
}


class AudioError(InputError):
    """A file that holds no usable sound.

    Attributes:
        name: the file, as the caller named it.
        reason: what is wrong with it, one line without the name.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


class _Refused(Exception):
    """The reason, on its way to `decode`, which knows the file's name."""


def decode(
    source: str | os.PathLike[str] | bytes, max_seconds: float = MAX_SECONDS, name: str | None = None
) -> np.ndarray:
    """int16 samples (samples,), mono at 16 kHz, of an mp3, m4a, aac, ogg, flac, wav or aiff file.

    Channels are averaged, the rate is converted by soxr at high quality, samples are rounded and clipped. The file is
    read in blocks: beside the result, memory stays bounded whatever the file claims.

    Args:
        source: a path, or a file's content.
        max_seconds: the longest duration taken.
        name: what errors call the file; a path names itself.

    Raises:
        AudioError: the file is missing, empty, no audio, damaged or cut short, longer than `max_seconds`, has more than
            64 channels or a rate outside 1 kHz to 768 kHz, or holds NaN or infinite samples.
    """
    label = name or ("the given bytes" if isinstance(source, bytes) else os.fspath(source))
    try:
        with _opened(source) as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(0)
            if not size:
                raise _Refused("is empty")
            return _decoded(stream, size, max_seconds)
    except _Refused as refusal:
        raise AudioError(label, str(refusal)) from refusal.__cause__
    except OSError as error:
        raise AudioError(label, f"cannot be read ({error.strerror or error})") from error


@contextmanager
def _opened(source: str | os.PathLike[str] | bytes) -> Iterator[io.FileIO]:
    if isinstance(source, bytes):
        # soundfile's callbacks into a Python object print a traceback when a damaged header makes libsndfile seek
        # before the beginning; a real file has no callbacks.
        with tempfile.TemporaryFile(buffering=0) as stream:
            stream.write(source)
            yield stream
        return
    path = Path(source)
    if not path.exists():
        raise _Refused("no such file")
    if not path.is_file():
        raise _Refused("is not a regular file")
    # Unbuffered, so that libsndfile and Python agree on the position of the descriptor they share.
    with open(path, "rb", buffering=0) as stream:
        yield stream


def _decoded(stream: io.FileIO, size: int, max_seconds: float) -> np.ndarray:
    kind, audio_start = _kind(stream)
    fraction = _fraction_present(stream, size, kind) if kind in ("wav", "aiff") else 1.0
    if kind == "ogg":
        _check_last_ogg_page(stream, size)
    sound = _Mono16k(max_seconds)
    by_soundfile = kind in ("wav", "aiff", "flac") and _read_with_soundfile(stream, fraction, sound)
    if not by_soundfile:
        mp3_seconds = _mp3_seconds(stream, audio_start) if kind == "mp3" else None
        _read_with_ffmpeg(stream, kind, audio_start, fraction, mp3_seconds, sound)
    return sound.finished()


class _Mono16k:
    """Takes blocks (frames, channels) of one rate, holds int16 mono at 16 kHz, refuses what breaks a limit."""

    def __init__(self, max_seconds: float) -> None:
        self.max_seconds = max_seconds
        self.rate = 0
        self.frames = 0
        self.declared: float | None = None
        self._blocks: list[np.ndarray] = []
        self._resampler: Any = None

    def begin(self, rate: int, channels: int, declared: float | None) -> None:
        """Takes what the header says, `declared` in seconds, before a sample is decoded."""
        if not LOWEST_RATE <= rate <= HIGHEST_RATE:
            raise _Refused(f"has a rate of {rate} Hz; {LOWEST_RATE} to {HIGHEST_RATE} Hz are read")
        if not 1 <= channels <= MAX_CHANNELS:
            raise _Refused(f"has {channels} channels; 1 to {MAX_CHANNELS} are read")
        self.rate, self.declared = rate, declared
        self._check_length(declared or 0.0)

    def add(self, block: np.ndarray) -> None:
        self.frames += len(block)
        self._check_length(self.seconds)
        # Infinite samples, and several of 1e38, have no mean: they are refused below, and not warned about here.
        with np.errstate(over="ignore", invalid="ignore"):
            mono = block[:, 0] if block.shape[1] == 1 else block.mean(axis=1)
        loudest = float(np.abs(mono).max(initial=0.0))
        if not np.isfinite(loudest):
            raise _Refused("holds NaN or infinite samples")
        if loudest > _LARGEST_SAMPLE:
            raise _Refused(f"reaches {loudest:.4g} where full scale is 1; divide its samples by their integer range")
        self._blocks.append(to_int16(self._resampled(mono)))

    def finished(self) -> np.ndarray:
        if not self.frames:
            raise _Refused("holds no samples")
        missing = (self.declared or 0.0) - self.seconds
        if self.declared and missing > max(_MISSING_SECONDS, _MISSING_SHARE * self.declared):
            raise _Refused(
                f"is cut short or damaged: ends after {self.seconds:.1f} s of the declared {self.declared:.1f} s"
            )
        self._blocks.append(to_int16(self._resampled(np.empty(0, dtype=np.float32), last=True)))
        clip = np.concatenate(self._blocks)
        if not len(clip):
            raise _Refused("holds no samples")
        return clip

    @property
    def seconds(self) -> float:
        return self.frames / self.rate

    def _check_length(self, seconds: float) -> None:
        if seconds > self.max_seconds:
            raise _Refused(f"lasts {seconds:.1f} s or more; the limit is {self.max_seconds:g} s")

    def _resampled(self, mono: np.ndarray, last: bool = False) -> np.ndarray:
        mono = np.ascontiguousarray(mono, dtype=np.float32)
        if self.rate == SAMPLE_RATE:
            return mono
        if self._resampler is None:
            import soxr

            self._resampler = soxr.ResampleStream(self.rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
        return self._resampler.resample_chunk(mono, last=last)


def _read_with_soundfile(stream: io.FileIO, fraction: float, sound: _Mono16k) -> bool:
    """Reads the whole file into `sound`; False, with nothing read, where libsndfile does not know the coding.

    Args:
        fraction: the share of the declared data that is in the file; libsndfile reports only what is there.
    """
    import soundfile

    stream.seek(0)
    try:
        # A descriptor has no name, from whose suffix soundfile would take a wav called .raw for headerless samples.
        file = soundfile.SoundFile(stream.fileno(), closefd=False)
    except soundfile.LibsndfileError:
        return False
    with file:
        if file.frames <= 0 or file.frames >= 2**62:  # a flac written to a pipe declares no length
            return file.frames == 0
        sound.begin(file.samplerate, file.channels, file.frames / file.samplerate / fraction)
        while True:
            try:
                block = file.read(_BLOCK, dtype="float32", always_2d=True)
            except soundfile.LibsndfileError as error:
                raise _Refused(f"is damaged after {sound.seconds:.1f} s ({error.error_string})") from error
            if not len(block):
                return True
            sound.add(block)


def _read_with_ffmpeg(
    stream: io.FileIO, kind: str, start: int, fraction: float, mp3_seconds: float | None, sound: _Mono16k
) -> None:
    import av

    try:
        # Latin-1 titles are common in old mp3 files and are nobody's damage.
        with av.open(_Shown(stream, start), format=_FFMPEG_FORMAT[kind], metadata_errors="replace") as container:
            if not container.streams.audio:
                raise _Refused("holds no audio stream")
            audio = container.streams.audio[0]
            if audio.codec_context is None:
                raise _Refused("is coded in a way that no decoder at hand knows")
            declared = mp3_seconds
            # FFmpeg's length of an mp3 or raw aac is an estimate from the bit rate.
            if kind not in ("mp3", "aac") and audio.duration:
                declared = float(audio.duration * audio.time_base) / fraction
            sound.begin(audio.rate or 0, audio.channels or 0, declared)
            _read_packets(container, audio, sound)
    except av.error.FFmpegError as error:
        raise _Refused(f"is no {kind} file that can be decoded ({error.strerror})") from error


class _Shown:
    """What FFmpeg is shown of a file: all from `start` on, in portions, without what it would unpack.

    FFmpeg asks for as many bytes as a header claims, and Python takes memory for all of them before it reads the first.
    ID3v2 tags and QuickTime's compressed headers may be packed a thousandfold; neither is needed for the sound.
    """

    def __init__(self, stream: io.FileIO, start: int) -> None:
        self._stream, self._start = stream, start
        stream.seek(start)

    def read(self, size: int) -> bytes:
        at = self._stream.tell()
        before = min(_LONGEST_PACKED, at - self._start)
        self._stream.seek(at - before)
        around = self._stream.read(before + min(size, _PORTION) + _LONGEST_PACKED)
        shown = _PACKED.sub(lambda found: bytes(len(found[0])), around)[before : before + size][:_PORTION]
        self._stream.seek(at + len(shown))
        return shown

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._stream.seek(offset + (self._start if whence == os.SEEK_SET else 0), whence) - self._start

    def tell(self) -> int:
        return self._stream.tell() - self._start


def _packets(container: Any, audio: Any) -> Iterator[Any]:
    """All packets of a stream, the empty last one that asks a decoder for what it holds back included."""
    # Where an ogg begins another stream midway, PyAV may look for that one among those of the start, after all of ours.
    with suppress(IndexError):
        yield from container.demux(audio)


def _read_packets(container: Any, audio: Any, sound: _Mono16k) -> None:
    """Decodes an audio stream into `sound`; a bad packet at a ragged end is passed over, more than that is damage."""
    import av

    packed = _Packed()
    packets = bad = held = 0
    blocks: list[np.ndarray] = []
    for packet in _packets(container, audio):
        packets += 1
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:
            bad += 1
            frames = []
        for frame in frames:
            if frame.sample_rate != sound.rate:
                if sound.frames or blocks:
                    raise _Refused(f"changes its rate from {sound.rate} to {frame.sample_rate} Hz midway")
                sound.begin(frame.sample_rate, frame.layout.nb_channels, sound.declared)
            blocks += [_mono(part) for part in packed.frames(frame)]
            held += frame.samples
        if held >= _BLOCK:
            sound.add(np.concatenate(blocks)[:, None])
            blocks, held = [], 0
    if blocks:
        sound.add(np.concatenate(blocks)[:, None])
    if bad > max(1, packets // 100):
        raise _Refused(f"is damaged: {bad} of {packets} packets cannot be decoded")


class _Packed:
    """FFmpeg frames in, the same in a form that PyAV can give as an array out.

    PyAV counts the planes of a frame up to a null pointer. FFmpeg keeps one behind seven planes and fewer; behind more,
    PyAV reads on, and a file of eight channels ends the process.
    """

    def __init__(self) -> None:
        self._kind: tuple[str, str] | None = None
        self._resampler: Any = None

    def frames(self, frame: Any) -> list[Any]:
        channels = frame.layout.nb_channels
        if not 1 <= channels <= MAX_CHANNELS:
            raise _Refused(f"has {channels} channels; 1 to {MAX_CHANNELS} are read")
        if not frame.format.is_planar or channels < _TOO_MANY_PLANES:
            return [frame]
        import av

        kind = (frame.format.name, frame.layout.name)
        if kind != self._kind:
            self._kind, self._resampler = kind, av.AudioResampler(format=frame.format.packed)
        return list(self._resampler.resample(frame))


def _mono(frame: Any) -> np.ndarray:
    """Mean over the channels of an FFmpeg frame (samples,) float32, full scale 1."""
    channels = frame.layout.nb_channels
    try:
        values = frame.to_ndarray()
    except ValueError as error:  # 64-bit integers have no place in PyAV
        raise _Refused(f"has samples of the kind {frame.format.name}, which are not read") from error
    by_channel = values if frame.format.is_planar else values.reshape(-1, channels).T
    scale = 1.0 if values.dtype.kind == "f" else 2.0 ** (8 * values.dtype.itemsize - 1)
    # What no float32 holds becomes infinite, and is refused as such.
    with np.errstate(over="ignore", invalid="ignore"):
        mono = by_channel[0] if channels == 1 else np.add.reduce(by_channel, axis=0) / channels
        if values.dtype == np.uint8:
            mono = mono - 128.0
        return np.asarray(mono / scale, dtype=np.float32)


def _kind(stream: io.FileIO) -> tuple[str, int]:
    """Kind of the file and where its audio begins, past ID3 tags."""
    stream.seek(0)
    head = stream.read(12)
    if head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE":
        return "wav", 0
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return "aiff", 0
    if head[4:8] == b"ftyp":
        return "m4a", 0
    for magic, kind in ((b"fLaC", "flac"), (b"OggS", "ogg")):
        if head.startswith(magic):
            return kind, 0
    start = _after_id3(stream)
    stream.seek(start)
    window = stream.read(65_536)
    if window.startswith(b"fLaC"):
        return "flac", start
    if _frames_follow(window, 0, _adts_frame_bytes):
        return "aac", start
    at = window.find(b"\xff")
    while at >= 0:
        if _frames_follow(window, at, _mp3_frame_bytes):
            return "mp3", start + at
        at = window.find(b"\xff", at + 1)
    raise _Refused("is not an mp3, m4a, aac, ogg, flac, wav or aiff file by its content")


def _after_id3(stream: io.FileIO) -> int:
    """Offset of the first byte after the ID3v2 tags (id3.org, ID3v2.4 structure, section 3.1)."""
    start = 0
    for _ in range(_MOST_TAGS):
        stream.seek(start)
        head = stream.read(10)
        if len(head) < 10 or head[:3] != b"ID3":
            return start
        size = sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
        start += 10 + size + (10 if head[5] & 0x10 else 0)
    raise _Refused(f"begins with more than {_MOST_TAGS} tags")


def _frames_follow(window: bytes, at: int, frame_bytes: Callable[[bytes], int]) -> bool:
    """Whether three frames in a row, or as many as the file still holds, begin at `at`.

    One header is eleven set bits and proves nothing; random bytes pass for three in a row once in about 10^10 tries.
    """
    found = 0
    while found < 3 and at < len(window):
        length = frame_bytes(window[at : at + 6])
        if not length:
            return False
        found += 1
        at += length
    return found == 3 or (found > 0 and at == len(window))


def _adts_frame_bytes(header: bytes) -> int:
    """Length of a raw aac frame (ISO 13818-7, section 6.2), 0 where the header is none."""
    if len(header) < 6 or header[0] != 0xFF or header[1] & 0xF6 != 0xF0:
        return 0
    length = (header[3] & 0x03) << 11 | header[4] << 3 | header[5] >> 5
    return length if length > 7 else 0


_MP3_KBITS_MPEG1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0)
_MP3_KBITS_MPEG2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0)
_MP3_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}


def _mp3_frame_bytes(header: bytes) -> int:
    """Length of an MPEG layer III frame (ISO 11172-3, section 2.4.2.3), 0 where the header is none."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:
        return 0
    version, rate_index = header[1] >> 3 & 3, header[2] >> 2 & 3
    if version == 1 or rate_index == 3:
        return 0
    kbits = (_MP3_KBITS_MPEG1 if version == 3 else _MP3_KBITS_MPEG2)[header[2] >> 4]
    slots = 144_000 if version == 3 else 72_000
    return slots * kbits // _MP3_RATES[version][rate_index] + (header[2] >> 1 & 1) if kbits else 0


def _mp3_seconds(stream: io.FileIO, start: int) -> float | None:
    """Seconds that the first frame's Xing, Info or VBRI header declares, less what players trim; None without one."""
    stream.seek(start)
    frame = stream.read(64)
    version, mono = frame[1] >> 3 & 3, frame[3] >> 6 == 3
    side_bytes = (17 if mono else 32) if version == 3 else (9 if mono else 17)
    xing = frame[4 + side_bytes :]
    count = 0
    if xing[:4] in (b"Xing", b"Info") and xing[7] & 1:
        count = struct.unpack(">I", xing[8:12])[0]
    elif frame[36:40] == b"VBRI":
        count = struct.unpack(">I", frame[50:54])[0]
    # Encoder delay and padding, at most 529 + 576 + 1152 samples, are counted in and trimmed on decoding.
    samples = count * (1152 if version == 3 else 576) - 2257
    return samples / _MP3_RATES[version][frame[2] >> 2 & 3] if samples > 0 else None


def _fraction_present(stream: io.FileIO, size: int, kind: str) -> float:
    """Share of a wav's or aiff's declared sound data that the file holds; 1 where no length is declared."""
    order, wanted = ("<", b"data") if kind == "wav" else (">", b"SSND")
    at = 12
    for _ in range(_MOST_CHUNKS):
        stream.seek(at)
        head = stream.read(8)
        if len(head) < 8:
            return 1.0
        declared = struct.unpack(f"{order}I", head[4:])[0]
        if head[:4] == wanted:
            present = size - at - 8
            # Writers that cannot seek back leave a length near 2 or 4 GiB; 64-bit files keep theirs elsewhere.
            unknown = declared >= 0x7FFF0000 or declared == 0
            return 1.0 if unknown or present >= declared else max(present, 1) / declared
        at += 8 + declared + declared % 2
    raise _Refused(f"has more than {_MOST_CHUNKS} chunks before its sound")


def _check_last_ogg_page(stream: io.FileIO, size: int) -> None:
    """Refuses an ogg whose last page runs past the end of the file (RFC 3533, section 6: 27 bytes, then lacing)."""
    largest_page = 27 + 255 + 255 * 255
    stream.seek(max(0, size - largest_page))
    tail = stream.read(largest_page)
    at = tail.rfind(b"OggS\0")
    lacing = tail[at + 27 : at + 27 + tail[at + 26]] if at >= 0 and len(tail) >= at + 27 else b""
    whole = at >= 0 and len(lacing) > 0 and len(lacing) == tail[at + 26]
    if not whole or at + 27 + len(lacing) + sum(lacing) > len(tail):
        raise _Refused("is cut short: the file ends inside its last ogg page")
