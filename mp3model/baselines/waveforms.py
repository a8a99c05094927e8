"""A clip's samples in, whole numbers or float; a checked float waveform in ±1 out."""

from __future__ import annotations

import numpy as np

from mp3model.files import InputError


def waveform_of(samples: np.ndarray) -> np.ndarray:
    """A clip as float32: (samples,) → (samples,).

    Args:
        samples: (samples,) one channel, int16 or float in ±1.

    Raises:
        InputError: not a non-empty one-dimensional array of finite values.
    """
    samples = np.asarray(samples)
    if samples.ndim != 1 or not len(samples):
        raise InputError(f"samples have shape {samples.shape}; give one channel (samples,) with at least one sample")
    waveform = samples.astype(np.float32) / np.float32(32768.0 if samples.dtype == np.int16 else 1.0)
    if not np.isfinite(waveform).all():
        raise InputError("the samples hold NaN or infinite values; repair or drop the clip")
    return waveform
