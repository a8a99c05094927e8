"""A song's sound and what a forecast rests on in; flags, a code and a plain reason each, that say when not to trust it.

Speech is told from music by three properties of a clip, all of them independent of its level, and all must agree:

* *modulation*: how far the bands' amplitudes swing 2.5 to 6.5 times a second, over their means. Syllables come about
  four times a second (Houtgast and Steeneken 1985; as a speech/music cue: Scheirer and Slaney 1997).
* *pauses*: the share of 10 ms frames with less than half the mean amplitude of the second around them (the "low-energy
  frames" of Scheirer and Slaney, by a running mean).
* *stability*: the correlation of the fine structure of two spectra 0.19 s apart. Notes are held; the pitch of a
  speaking voice glides.

Thresholds lie between what 49 clips of music and 2 of read speech gave: modulation at most .54 in music and at least
.94 in speech, pauses .28 and .37, stability down to .19 and up to .08. Of windows of 5 s, 8 of 9 of speech are found
and none of 590 of music. Rap over drums comes closest. Speech over music, or in a hall, is not found.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd

from mp3model.audio.bank import SAMPLE_RATE

FLAG_COLUMNS = ("track_id", "region", "code", "reason")

SILENT_DECIBELS = -60.0  # of full scale; a quiet room recorded at concert level
SILENT_SHARE = 0.5
FULL_SCALE, CLIPPED_RUN, CLIPPED_SHARE = 32_700, 3, 0.01
SPEECH_MODULATION, SPEECH_PAUSES, SPEECH_STABILITY = 0.58, 0.2, 0.15
STALE_DAYS = 91

_LEVEL_FRAME = 320  # 20 ms
_SPEECH_SECONDS = 60  # the middle of a song tells as much as all of it
_SHORT_WINDOW, _SHORT_HOP = 512, 160
_LONG_WINDOW, _LONG_HOP, _LONG_LAG = 2048, 1024, 3


@dataclass(frozen=True)
class Flag:
    """One reason not to trust a forecast.

    Attributes:
        code: A fixed word for programs.
        reason: A sentence for people.
        region: Where it applies; empty is everywhere.
    """

    code: str
    reason: str
    region: str = ""


def flag_table(flags: list[tuple[str, Flag]]) -> pd.DataFrame:
    """(track_id, flag) pairs → `track_id, region, code, reason`, without repeats."""
    rows = [(track, flag.region, flag.code, flag.reason) for track, flag in flags]
    return pd.DataFrame(list(dict.fromkeys(rows)), columns=list(FLAG_COLUMNS)).astype("str")


def sound_flags(clip: np.ndarray, heard_samples: int) -> list[Flag]:
    """What is odd about a song's sound.

    Args:
        clip: (samples,) int16 at 16 kHz.
        heard_samples: Length of the clips that the model learnt from.
    """
    flags = []
    seconds, learnt = len(clip) / SAMPLE_RATE, heard_samples / SAMPLE_RATE
    # A file that was cut to the model's length may lack a few samples of it.
    if seconds < 0.98 * learnt:
        flags.append(
            Flag("short_audio", f"the audio lasts {seconds:.1f} s; the model learnt from clips of {learnt:.1f} s")
        )
    silent = silent_share(clip)
    if silent > SILENT_SHARE:
        flags.append(
            Flag("silence", f"{silent:.0%} of the audio is silent (below {SILENT_DECIBELS:g} dB of full scale)")
        )
    clipped = clipped_share(clip)
    if clipped > CLIPPED_SHARE:
        flags.append(Flag("clipping", f"{clipped:.1%} of the samples are clipped at full scale"))
    if silent < 1 and is_speech(clip):
        flags.append(Flag("speech", "the audio sounds like speech, not music"))
    return flags


def silent_share(clip: np.ndarray) -> float:
    """Share of 20 ms frames whose level is below `SILENT_DECIBELS`; a clip shorter than a frame is one frame."""
    whole = clip[: max(1, len(clip) // _LEVEL_FRAME) * _LEVEL_FRAME].astype(np.float32) / 32768.0
    frames = whole.reshape(-1, min(_LEVEL_FRAME, len(whole)))
    return float((np.square(frames).mean(axis=1) < 10 ** (SILENT_DECIBELS / 10)).mean())


def clipped_share(clip: np.ndarray) -> float:
    """Share of samples in runs of `CLIPPED_RUN` or more at full scale: a lone peak is no clipping."""
    at_limit = np.abs(clip.astype(np.int32)) >= FULL_SCALE
    edges = np.flatnonzero(np.diff(np.concatenate([[0], at_limit.astype(np.int8), [0]])))
    runs = edges[1::2] - edges[::2]
    return float(runs[runs >= CLIPPED_RUN].sum() / len(clip))


def is_speech(clip: np.ndarray) -> bool:
    """Whether a clip (samples,) int16 sounds like a speaking voice; never, for less than 3 s."""
    if len(clip) < 3 * SAMPLE_RATE:
        return False
    modulation, pauses, stability = speech_features(clip)
    return modulation > SPEECH_MODULATION and pauses > SPEECH_PAUSES and stability < SPEECH_STABILITY


def speech_features(clip: np.ndarray) -> tuple[float, float, float]:
    """Modulation, pauses and stability of the middle minute of a clip (samples,) int16, as the module defines them."""
    length = _SPEECH_SECONDS * SAMPLE_RATE
    start = max(0, (len(clip) - length) // 2)
    waveform = clip[start : start + length].astype(np.float32) / 32768.0
    # In units of its own level, so that no constant below depends on how loud the clip is.
    waveform = waveform / max(float(np.sqrt(np.square(waveform).mean())), 1e-6)
    power = _power(waveform, _SHORT_WINDOW, _SHORT_HOP)
    return _modulation(power), _pauses(power), _stability(waveform)


def _power(waveform: np.ndarray, window: int, hop: int) -> np.ndarray:
    frames = np.lib.stride_tricks.sliding_window_view(waveform, window)[::hop]
    return np.square(np.abs(np.fft.rfft(frames * np.hanning(window).astype(np.float32), axis=1)))


def _modulation(power: np.ndarray) -> float:
    """Median over stretches of 2 s of the bands' swing at 2.5 to 6.5 Hz: twice its power over the mean squared."""
    frequency = np.arange(power.shape[1]) * SAMPLE_RATE / _SHORT_WINDOW
    edges = np.geomspace(100, 6000, 21)
    inside = [(frequency >= low) & (frequency < high) for low, high in pairwise(edges)]
    bands = np.sqrt(np.stack([power[:, band].sum(axis=1) for band in inside if band.any()], axis=1))
    length = 2 * SAMPLE_RATE // _SHORT_HOP
    stretches = bands[: len(bands) // length * length].reshape(-1, length, bands.shape[1])
    mean = stretches.mean(axis=1, keepdims=True)
    spectrum = np.square(np.abs(np.fft.rfft((stretches - mean) * np.hanning(length)[:, None], axis=1)))
    rate = np.arange(spectrum.shape[1]) / 2.0
    swing = spectrum[:, (rate >= 2.5) & (rate <= 6.5)].sum(axis=(1, 2))
    total = np.maximum(np.square(mean).sum(axis=(1, 2)), 1e-12)
    return float(np.median(8 * swing / total / length**2))


def _pauses(power: np.ndarray) -> float:
    level = np.sqrt(power.sum(axis=1))
    half = SAMPLE_RATE // _SHORT_HOP // 2
    running = np.concatenate([[0.0], level.cumsum(dtype=np.float64)])
    frame = np.arange(len(level))
    low, high = np.maximum(frame - half, 0), np.minimum(frame + half, len(level))
    return float((level < 0.5 * (running[high] - running[low]) / (high - low)).mean())


def _stability(waveform: np.ndarray) -> float:
    power = _power(waveform, _LONG_WINDOW, _LONG_HOP)[:, 13:320]  # 100 Hz to 2.5 kHz
    level = np.log(power + 1e-4)
    # Less its own moving mean over 195 Hz, a spectrum shows its harmonics and not its colour.
    around = np.apply_along_axis(np.convolve, 1, level, np.ones(25) / 25, mode="same")
    fine = level - around
    fine = fine - fine.mean(axis=1, keepdims=True)
    size = np.sqrt(np.square(fine).sum(axis=1))
    product = (fine[:-_LONG_LAG] * fine[_LONG_LAG:]).sum(axis=1)
    return float((product / np.maximum(size[:-_LONG_LAG] * size[_LONG_LAG:], 1e-9)).mean())
