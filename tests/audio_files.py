"""A waveform in; a small audio file in any of the formats that the project reads out."""

from __future__ import annotations

import struct
from pathlib import Path

import av
import numpy as np
import soundfile

SHARED_AUDIO = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "audio"


def tone(seconds: float, rate: int, channels: int = 1, frequency: float = 1000.0, level: float = 0.5) -> np.ndarray:
    """A sine of the given peak level, the same in every channel: (samples, channels) float32."""
    time = np.arange(round(seconds * rate)) / rate
    sine = level * np.sin(2 * np.pi * frequency * time)
    return np.repeat(sine[:, None], channels, axis=1).astype(np.float32)


def write_audio(path: Path, waveform: np.ndarray, rate: int) -> Path:
    """Writes (samples, channels) float32 in the format of the suffix and returns the path; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = path.suffix.lower()
    if suffix in (".m4a", ".aac"):
        _write_aac(path, waveform, rate, {".m4a": "ipod", ".aac": "adts"}[suffix])
        return path
    container, coding = {
        ".wav": ("WAV", "PCM_16"),
        ".flac": ("FLAC", "PCM_16"),
        ".aiff": ("AIFF", "PCM_16"),
        ".aif": ("AIFF", "PCM_24"),
        ".ogg": ("OGG", "VORBIS"),
        ".opus": ("OGG", "OPUS"),
        ".mp3": ("MP3", "MPEG_LAYER_III"),
    }[suffix]
    soundfile.write(path, waveform, rate, format=container, subtype=coding)
    return path


def _write_aac(path: Path, waveform: np.ndarray, rate: int, container: str) -> None:
    channels = waveform.shape[1]
    with av.open(str(path), "w", format=container, options={"movflags": "faststart"}) as output:
        stream = output.add_stream("aac", rate=rate, bit_rate=64_000 * channels)
        layout = {1: "mono", 2: "stereo", 6: "5.1"}[channels]
        stream.layout = layout
        for start in range(0, len(waveform), 1024):
            block = np.ascontiguousarray(waveform[start : start + 1024].T, dtype=np.float32)
            frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=layout)
            frame.sample_rate = rate
            frame.pts = start
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


def riff(samples: np.ndarray, rate: int, channels: int = 1, declared_bytes: int | None = None) -> bytes:
    """A 16-bit wav by hand, whose header may claim any rate, channel count and length."""
    data = np.asarray(samples, dtype="<i2").tobytes()
    declared = len(data) if declared_bytes is None else declared_bytes
    frame = 2 * channels
    coding = struct.pack("<HHIIHH", 1, channels, rate, (rate * frame) & 0xFFFFFFFF, frame, 16)
    chunks = b"fmt " + struct.pack("<I", len(coding)) + coding
    chunks += b"data" + struct.pack("<I", declared)
    return b"RIFF" + struct.pack("<I", (len(chunks) + declared + 4) & 0xFFFFFFFF) + b"WAVE" + chunks + data


def without_first_mp3_frame(mp3: bytes) -> bytes:
    """An MPEG-1 layer III file (no ID3 tag) less its first frame, which holds the Xing or Info header."""
    kbits = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)[mp3[2] >> 4]
    rate = (44_100, 48_000, 32_000)[mp3[2] >> 2 & 3]
    return mp3[144_000 * kbits // rate + (mp3[2] >> 1 & 1) :]
