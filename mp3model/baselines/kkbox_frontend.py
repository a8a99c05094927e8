"""Sound in; the inputs of the KKBOX models out: power mel spectrograms (128, 323 or 646), and JYnet's six scales.

The values are those of librosa 0.6, which the published models were trained with: periodic Hann window, centred frames
with reflected ends, power, Slaney's mel scale with unit area, from 0 Hz to half the rate.
"""

from __future__ import annotations

import io
import math
import os
from functools import lru_cache
from typing import Any

import numpy as np

from mp3model.audio.decode import HIGHEST_RATE, LOWEST_RATE, decode
from mp3model.baselines.waveforms import waveform_of
from mp3model.files import InputError

RATE = 22_050
MEL_BANDS = 128
WINDOW = 4096
# (hop in samples, frames of 30 s) of the public code and of arXiv 1704.01280. The paper does not state its window:
# both forms take the public code's.
FORMS = {"published": (2048, 323), "paper": (1024, 646)}

TAGGER_RATE = 16_000
TAGGER_WINDOWS = (512, 1024, 2048, 4096, 8192, 16_384)
TAGGER_HOP = 512
TAGGER_FRAMES = 911  # 29.15 s
_COMPRESSION = 10_000.0
_SECONDS_APART = 0.1
# resampy 0.2's kaiser_best.
_TABLE_ZEROS, _TABLE_STEPS = 64, 512
_ROLL_OFF, _KAISER_BETA = 0.9475937167399596, 14.769656459379492


def read_waveform(source: str | os.PathLike[str] | bytes) -> tuple[np.ndarray, int]:
    """(samples,) float32 mono in ±1 of a file or of its content, and its own rate in Hz.

    `decode` gives 16 kHz only; the published front end needs what lies between 8 and 11 kHz. Files are first put
    through `decode`, so that both refuse the same ones with the same words.

    Raises:
        AudioError: the file is missing, no audio, damaged or too long.
        InputError: FFmpeg reads another length than `decode`.
    """
    import av

    expected = len(decode(source)) / TAGGER_RATE
    blocks: list[np.ndarray] = []
    with av.open(io.BytesIO(source) if isinstance(source, bytes) else os.fspath(source)) as container:
        stream = container.streams.audio[0]
        rate = int(stream.rate)
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:
                continue  # decode has judged how many bad packets are too many
            blocks.extend(_mono(frame) for frame in frames)
    waveform = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
    if abs(len(waveform) / rate - expected) > _SECONDS_APART:
        name = "the given bytes" if isinstance(source, bytes) else os.fspath(source)
        raise InputError(f"{name}: lasts {expected:.2f} s or {len(waveform) / rate:.2f} s by the decoder; save it anew")
    return waveform, rate


def _mono(frame: Any) -> np.ndarray:
    values = frame.to_ndarray()
    by_channel = values if frame.format.is_planar else values.reshape(-1, frame.layout.nb_channels).T
    mono = by_channel.mean(axis=0, dtype=np.float64)
    if values.dtype.kind == "f":
        return mono.astype(np.float32)
    if values.dtype == np.uint8:
        mono = mono - 128.0
    return (mono / 2.0 ** (8 * values.dtype.itemsize - 1)).astype(np.float32)


def resampled(samples: np.ndarray, rate: int, to: int) -> np.ndarray:
    """(samples,) float32 at `to` Hz, ⌈samples · to / rate⌉ of them, as resampy 0.2's `kaiser_best` makes them.

    A sinc windowed by Kaiser's function, read from a table by linear interpolation. Its steps through the table are cut
    to whole numbers, which bends the filter a little where the rates have no simple ratio: the published tags contain
    that, and a better resampler moves them by up to 0.013.

    Args:
        samples: (samples,) int16, or float in ±1.
        rate: of `samples`, in Hz.
        to: wanted rate in Hz.

    Raises:
        InputError: not a non-empty one-dimensional array of finite values, or a rate outside 1 kHz to 768 kHz.
    """
    waveform = waveform_of(samples)
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise InputError(f"rate is {rate} Hz; {LOWEST_RATE} to {HIGHEST_RATE} Hz are read, give the samples' own rate")
    if rate == to:
        return waveform
    up, down = to // math.gcd(rate, to), rate // math.gcd(rate, to)
    scale = min(1.0, up / down)
    reach = _TABLE_ZEROS * _TABLE_STEPS // int(scale * _TABLE_STEPS) + 1
    around = np.lib.stride_tricks.sliding_window_view(np.pad(waveform, (reach - 1, reach + down)), 2 * reach)
    out = np.zeros(math.ceil(len(waveform) * to / rate), dtype=np.float32)
    for phase in range(min(up, len(out))):
        before, share = divmod(phase * down, up)
        position = scale * share / up
        kernel = np.concatenate([_wing(position, scale, reach)[::-1], _wing(scale - position, scale, reach)])
        wanted = out[phase::up]
        wanted[:] = around[before::down][: len(wanted)] @ kernel
    return out


def _wing(position: float, scale: float, reach: int) -> np.ndarray:
    """(reach,) weights of the samples on one side, the nearest `position` zero crossings away."""
    table, step = _sinc_table(), int(scale * _TABLE_STEPS)
    start = position * _TABLE_STEPS
    places = int(start) + step * np.arange(reach)
    known = places < len(table) - 1
    low = table[np.where(known, places, 0)]
    high = table[np.where(known, places + 1, 0)]
    return (np.where(known, low + (start - int(start)) * (high - low), 0.0) * scale).astype(np.float32)


@lru_cache(maxsize=1)
def _sinc_table() -> np.ndarray:
    size = _TABLE_ZEROS * _TABLE_STEPS
    sinc = _ROLL_OFF * np.sinc(_ROLL_OFF * np.linspace(0, _TABLE_ZEROS, size + 1))
    return sinc * np.kaiser(2 * size + 1, _KAISER_BETA)[size:]


def kkbox_mel(samples: np.ndarray, rate: int = TAGGER_RATE, form: str = "published") -> np.ndarray:
    """(128, 323) or (128, 646) float32 raw power mel of a clip's middle 30 s; a shorter clip ends in zeros.

    No logarithm and no standardisation: the published network takes powers from 1e-8 to 3e4.

    Args:
        samples: (samples,) mono, int16 or float in ±1. A clip of our 16 kHz bank is converted to 22,050 Hz; its bands
            above 8 kHz are then empty, which a file at its own rate (`read_waveform`) avoids.
        rate: of `samples`, in Hz.
        form: "published" (323 frames, hop 2048) or "paper" (646 frames, hop 1024).

    Raises:
        InputError: an unknown form, or samples that are none.
    """
    if form not in FORMS:
        raise InputError(f"form {form!r} is unknown; choose from {', '.join(FORMS)}")
    hop, frames = FORMS[form]
    waveform = resampled(samples, rate, RATE)
    # The published code cuts the spectrogram, not the sound: the frames at the cut still hear past it.
    first = max(0, (1 + len(waveform) // hop) // 2 - frames // 2)
    mel = power_mel(waveform, RATE, WINDOW, hop, first, frames)
    return np.pad(mel, ((0, 0), (0, frames - mel.shape[1])))


def tagger_input(samples: np.ndarray, rate: int = TAGGER_RATE) -> np.ndarray:
    """(6, 911, 128) float32: log(1 + 10,000 · power mel) of a clip's first 29.15 s at six window lengths.

    Each scale is standardised per band by the clip's own mean and standard deviation, padding included, as the
    published tags were; the mean and deviation files shipped beside JYnet reproduce them less well.

    Args:
        samples: (samples,) mono, int16 or float in ±1.
        rate: of `samples`, in Hz; converted to 16 kHz.
    """
    waveform = resampled(samples, rate, TAGGER_RATE)
    scales = np.zeros((len(TAGGER_WINDOWS), TAGGER_FRAMES, MEL_BANDS))
    for scale, window in zip(scales, TAGGER_WINDOWS, strict=True):
        mel = np.log1p(_COMPRESSION * power_mel(waveform, TAGGER_RATE, window, TAGGER_HOP, 0, TAGGER_FRAMES))
        scale[: mel.shape[1]] = mel.T
        spread = scale.std(axis=0)
        scale[:] = (scale - scale.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    return scales.astype(np.float32)


def power_mel(waveform: np.ndarray, rate: int, window: int, hop: int, first: int, count: int) -> np.ndarray:
    """(128, ≤ count) float32 mel power of the frames from `first` on; frame i is centred on sample i · hop."""
    # numpy's reflection may fold more than once, which clips shorter than half a window need.
    padded = np.pad(np.asarray(waveform, dtype=np.float32), window // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop][first : first + count]
    hann = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)).astype(np.float32)
    spectrum = np.fft.rfft(frames * hann, axis=1)
    return mel_filters(rate, window) @ (spectrum.real**2 + spectrum.imag**2).T.astype(np.float32)


@lru_cache(maxsize=16)
def mel_filters(rate: int, window: int) -> np.ndarray:
    """(128, window // 2 + 1) float32 triangles of unit area, corners equally spaced on Slaney's mel scale.

    Slaney's Auditory Toolbox (1998): linear below 1 kHz with 200/3 Hz a mel, above it 27 mels to a factor of 6.4.
    """
    step, knee, growth = 200.0 / 3.0, 1000.0, math.log(6.4) / 27.0
    top = knee / step + math.log(rate / 2 / knee) / growth
    mels = np.linspace(0.0, top, MEL_BANDS + 2)
    corners = np.where(mels < knee / step, mels * step, knee * np.exp(growth * (mels - knee / step)))
    left, centre, right = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    bins = np.fft.rfftfreq(window, 1 / rate)[None]
    triangles = np.minimum((bins - left) / (centre - left), (right - bins) / (right - centre)).clip(min=0.0)
    return (triangles * 2.0 / (right - left)).astype(np.float32)
