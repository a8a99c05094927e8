"""A clip in, the 207 low-level descriptors of HitMusicNet out: spectral shape, harmony and noisiness as clip means.

Source of the list: Martín-Gutiérrez et al., HitMusicNet, IEEE Access 8 (2020). It states no rate, frames or shares
of its roll-offs: ours are 16 kHz, Hann windows of 128 ms every 32 ms that lie within the clip, 1 % and 99 %.
With x a frame, X its spectrum, f the bins' frequencies and a = |X| / Σ|X|, each the mean over the clip's frames:

- `mel_*`: power in 128 Slaney bands of unit area, averaged over the clip, then in dB; the average of the decibels
  would be a linear map of the cepstrum.
- `mfcc_*`: the first 48 of the orthonormal DCT-II of the bands in dB.
- `chroma_*`: power folded on the pitch classes C to B (A = 440 Hz), divided by the frame's largest (Ellis, 2007).
- `tonnetz_*`: sine and cosine on the circles of fifths, minor and major thirds of the chroma's shares (Harte, 2006).
- `contrast_*`: in 0–200, 200–400, …, 6400–8000 Hz, dB between the loudest and the quietest 2 % (Jiang, 2002).
- `zero_crossing_rate`: share of neighbouring samples of unlike sign.
- `centroid`: c = Σ a f; `bandwidth`: √Σ a (f − c)²; `roll_off_min`, `roll_off_max`: least f below which Σ a is at
  least .01 and .99; all in Hz.
- `energy_entropy`: −Σ e log2 e over the energy's shares in ten parts of the frame, 0 to 3.32.

A silent frame has no shares: its chroma, tonnetz, centroid, bandwidth, roll-offs and entropy are 0.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from functools import lru_cache

import numpy as np
import pandas as pd

from mp3model.baselines.kkbox_frontend import mel_filters
from mp3model.baselines.waveforms import waveform_of

RATE = 16_000
WINDOW, HOP = 2048, 512
MFCC, BANDS, PITCHES, PARTS = 48, 128, 12, 10
CONTRAST_EDGES = (0, 200, 400, 800, 1600, 3200, 6400, 8000)  # Hz
ROLL_OFFS = (0.01, 0.99)
NAMES = (
    *(f"mfcc_{place}" for place in range(MFCC)),
    *(f"chroma_{name}" for name in ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")),
    *(f"mel_{place}" for place in range(BANDS)),
    *(f"tonnetz_{place}" for place in range(6)),
    *(f"contrast_{place}" for place in range(len(CONTRAST_EDGES) - 1)),
    "zero_crossing_rate",
    "centroid",
    "roll_off_min",
    "roll_off_max",
    "bandwidth",
    "energy_entropy",
)
_QUIETEST = 1e-10  # -100 dB
_CONTRAST_SHARE = 0.02


def descriptors(samples: np.ndarray) -> np.ndarray:
    """(207,) float32 descriptors of a clip, in the order of `NAMES`.

    Args:
        samples: (samples,) mono at 16 kHz, int16 or float in ±1; shorter than 128 ms, it ends in zeros.

    Raises:
        InputError: not a non-empty one-dimensional array of finite values.
    """
    waveform = waveform_of(samples)
    waveform = np.pad(waveform, (0, max(0, WINDOW - len(waveform))))
    frames = np.lib.stride_tricks.sliding_window_view(waveform, WINDOW)[::HOP]
    magnitude = _magnitude(frames)
    power = magnitude**2
    mel = power @ mel_filters(RATE, WINDOW).T
    chroma = _chroma(power)
    parts = [
        _cepstrum(mel),
        chroma.mean(axis=0),
        _decibels(mel.mean(axis=0)),
        _tonnetz(chroma).mean(axis=0),
        _contrast(magnitude),
        [_crossings(frames)],
        _spread(magnitude),
        [_energy_entropy(frames)],
    ]
    return np.concatenate(parts).astype(np.float32)


def descriptor_table(clips: Iterable[tuple[str, np.ndarray]]) -> pd.DataFrame:
    """A row of `descriptors` a song: index `song_id`, columns `NAMES`; several clips of a song are averaged.

    Args:
        clips: (song_id, samples) of each clip, as in `descriptors`.
    """
    songs, rows = [], []
    for song, samples in clips:
        songs.append(song)
        rows.append(descriptors(samples))
    table = pd.DataFrame(np.reshape(rows, (-1, len(NAMES))), columns=list(NAMES), index=pd.Index(songs, name="song_id"))
    return table.groupby(level="song_id", sort=False).mean()


def _magnitude(frames: np.ndarray) -> np.ndarray:
    """(frames, 2048) → (frames, 1025)."""
    from scipy.fft import rfft  # keeps float32, at half the time

    hann = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)).astype(np.float32)
    return np.abs(rfft(frames * hann, axis=1))


def _decibels(power: np.ndarray) -> np.ndarray:
    return 10.0 * np.log10(np.maximum(power, _QUIETEST))


def _cepstrum(mel: np.ndarray) -> np.ndarray:
    """(frames, 128) → (48,); the transform is linear, so one of the mean serves for the mean of all."""
    from scipy.fft import dct

    return dct(_decibels(mel).mean(axis=0), norm="ortho")[:MFCC]


def _chroma(power: np.ndarray) -> np.ndarray:
    """(frames, 1025) → (frames, 12), the largest of each frame 1."""
    folded = power @ _chroma_filters().T
    return folded / _or_one(folded.max(axis=1, keepdims=True))


@lru_cache(maxsize=1)
def _chroma_filters() -> np.ndarray:
    """(12, 1025): a bell a pitch class, as wide as a bin where bins are wider than a semitone.

    Each bin gives a length of 1 to the classes; bins count most about 500 Hz and less by octaves from there.
    """
    frequency = np.arange(1, WINDOW // 2 + 1) * RATE / WINDOW
    pitch = 12 * np.log2(frequency / 440.0) + 9  # semitones from the C below A = 440 Hz
    wide = np.maximum(12 * np.log2((frequency + RATE / WINDOW) / frequency), 1.0)
    apart = (pitch - np.arange(PITCHES)[:, None] + 6) % 12 - 6
    bells = np.exp(-0.5 * (2 * apart / wide) ** 2)
    bells /= np.linalg.norm(bells, axis=0)
    octaves = np.log2(frequency / 500.0)
    return np.pad(bells * np.exp(-0.5 * (octaves / 2) ** 2), ((0, 0), (1, 0))).astype(np.float32)


def _tonnetz(chroma: np.ndarray) -> np.ndarray:
    """(frames, 12) → (frames, 6)."""
    turns = np.arange(PITCHES) * np.array([[7 / 6], [3 / 2], [2 / 3]]) * np.pi
    radius = np.array([[1.0], [1.0], [0.5]])
    axes = np.stack([radius * np.sin(turns), radius * np.cos(turns)], axis=1).reshape(6, PITCHES)
    return chroma / _or_one(chroma.sum(axis=1, keepdims=True)) @ axes.T


def _contrast(magnitude: np.ndarray) -> np.ndarray:
    """(frames, 1025) → (7,)."""
    frequency = np.fft.rfftfreq(WINDOW, 1 / RATE)
    result = []
    for low, high in itertools.pairwise(CONTRAST_EDGES):
        first, last = np.searchsorted(frequency, [low, high])
        count = max(1, round(_CONTRAST_SHARE * (last - first)))
        band = np.partition(magnitude[:, first:last], [count - 1, last - first - count], axis=1)
        peak, valley = band[:, -count:].mean(axis=1), band[:, :count].mean(axis=1)
        result.append((_decibels(peak**2) - _decibels(valley**2)).mean())
    return np.array(result)


def _crossings(frames: np.ndarray) -> float:
    negative = np.signbit(frames)
    return float((negative[:, 1:] != negative[:, :-1]).mean())


def _spread(magnitude: np.ndarray) -> np.ndarray:
    """(frames, 1025) → (4,): centroid, the two roll-offs and bandwidth in Hz."""
    frequency = np.fft.rfftfreq(WINDOW, 1 / RATE).astype(np.float32)
    shares = magnitude / _or_one(magnitude.sum(axis=1, keepdims=True))
    centroid = shares @ frequency
    # The variance from its raw moments would lose all digits of a pure tone's.
    square = np.einsum("fb,fb->f", shares, (frequency - centroid[:, None]) ** 2)
    below = np.cumsum(shares, axis=1, dtype=np.float64)
    sounds = below[:, -1] > 0.5
    # A frame's shares sum to 1 but for rounding.
    reached = [frequency[(below < share).sum(axis=1).clip(max=WINDOW // 2)] * sounds for share in ROLL_OFFS]
    return np.array([values.mean() for values in (centroid, *reached, np.sqrt(square))])


def _energy_entropy(frames: np.ndarray) -> float:
    length = WINDOW // PARTS
    energy = (frames[:, : PARTS * length].reshape(-1, PARTS, length) ** 2).sum(axis=2)
    shares = energy / _or_one(energy.sum(axis=1, keepdims=True))
    return float(-(shares * np.log2(np.where(shares > 0, shares, 1.0))).sum(axis=1).mean())


def _or_one(values: np.ndarray) -> np.ndarray:
    return np.where(values > 0, values, 1.0).astype(values.dtype)
