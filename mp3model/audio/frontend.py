"""Waveforms at 16 kHz in, normalised log-mel spectrograms out: Kaldi's filterbank, batched, on any device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

SAMPLE_RATE = 16_000
FRAME_LENGTH = 400  # 25 ms
FRAME_SHIFT = 160  # 10 ms
_FFT_SIZE = 512  # Kaldi rounds the frame up to a power of two
_PREEMPHASIS = 0.97
_LOWEST_FREQUENCY = 20.0  # Hz, Kaldi's default
_INT16_SCALE = 1.0 / 32768.0

# AudioSet's statistics, from the AST paper's recipe (arXiv 2104.01778).
AUDIOSET_MEAN = -4.2677393
AUDIOSET_STD = 4.5689974


def mel(frequency: Tensor) -> Tensor:
    """Hertz → Kaldi's mel scale, 1127 ln(1 + f / 700)."""
    return 1127.0 * torch.log(1.0 + frequency / 700.0)


def hertz(mels: Tensor) -> Tensor:
    """The inverse of `mel`."""
    return 700.0 * torch.expm1(mels / 1127.0)


def mel_corners(num_mel_bins: int) -> Tensor:
    """(num_mel_bins + 2,) mels: band b rises from corner b to corner b + 1, its centre, and falls to corner b + 2."""
    # On the CPU whatever the default device: transformers builds a model to be loaded on the meta device, where tensors
    # have no values.
    ends = torch.tensor([_LOWEST_FREQUENCY, SAMPLE_RATE / 2], dtype=torch.float64, device="cpu")
    low, high = mel(ends).tolist()
    return low + (high - low) / (num_mel_bins + 1) * torch.arange(num_mel_bins + 2)


def mel_filters(num_mel_bins: int) -> Tensor:
    """Kaldi's triangular filters: (num_mel_bins, 257) weights on the power spectrum's bins up to 8 kHz.

    Corners are equally spaced on the mel scale between 20 Hz and 8 kHz and the triangles are linear on that scale,
    without area normalisation (kaldi/src/feat/mel-computations.cc).
    """
    corners = mel_corners(num_mel_bins)
    left, centre, right = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    bins = mel(torch.arange(_FFT_SIZE // 2) * (SAMPLE_RATE / _FFT_SIZE))[None]
    rising = (bins - left) / (centre - left)
    falling = (right - bins) / (right - centre)
    filters = torch.minimum(rising, falling).clamp(min=0.0)
    # Kaldi leaves the Nyquist bin out of every filter.
    return torch.cat([filters, filters.new_zeros(num_mel_bins, 1)], dim=1)


class LogMel(nn.Module):
    """Log-mel filterbank energies, equal to `(torchaudio.compliance.kaldi.fbank - mean) / (2 * std)`.

    The filterbank is that of AST: Hann window of 25 ms every 10 ms, no dither, the mean of each frame (not of the
    clip) removed, pre-emphasis 0.97, power spectrum, natural logarithm. Arithmetic stays in float32 under autocast:
    the logarithm of a small power is where half precision would show.

    Args:
        mean: Mean of the log-mel values over a corpus, or one a band.
        std: Their standard deviation, or one a band; values are divided by twice this, as AST does.
        num_mel_bins: Mel bands.
        frames: If given, every spectrogram is cut to, or padded on the right to, this many frames; padding is a raw
            log-mel of 0 before normalisation, as transformers' `ASTFeatureExtractor` pads.
    """

    window: Tensor
    filters: Tensor
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: float | Sequence[float] = AUDIOSET_MEAN,
        std: float | Sequence[float] = AUDIOSET_STD,
        num_mel_bins: int = 128,
        frames: int | None = None,
    ) -> None:
        super().__init__()
        self.frames = frames
        # Persistent: from_pretrained leaves non-persistent buffers uninitialised.
        self.register_buffer("window", torch.hann_window(FRAME_LENGTH, periodic=False))
        self.register_buffer("filters", mel_filters(num_mel_bins))
        for name, value in (("mean", mean), ("std", std)):
            values = [float(number) for number in value] if isinstance(value, Sequence) else [float(value)]
            if len(values) not in (1, num_mel_bins):
                raise ValueError(
                    f"{name} has {len(values)} values; one is needed, or one for each of {num_mel_bins} bands"
                )
            if name == "std" and not min(values) > 0:
                raise ValueError(f"std is {min(values)}; it must be positive")
            self.register_buffer(name, torch.tensor(values))

    def forward(self, waveforms: Tensor) -> Tensor:
        """(batch, samples) in [-1, 1], or int16 → (batch, frames, mels).

        Raises:
            ValueError: If the input is not two-dimensional, or shorter than one frame of 400 samples while `frames`
                was not given.
        """
        if waveforms.ndim != 2:
            raise ValueError(f"waveforms have shape {tuple(waveforms.shape)}; (batch, samples) is needed")
        if waveforms.shape[1] < FRAME_LENGTH and self.frames is None:
            raise ValueError(f"waveforms of {waveforms.shape[1]} samples are shorter than one frame of {FRAME_LENGTH}")
        scale = _INT16_SCALE if waveforms.dtype == torch.int16 else 1.0
        with torch.autocast(waveforms.device.type, enabled=False):
            raw = self._log_mel(waveforms.float() * scale)
            if self.frames is not None:
                raw = nn.functional.pad(raw[:, : self.frames], (0, 0, 0, max(0, self.frames - raw.shape[1])))
            return (raw - self.mean) / (2.0 * self.std)

    def _log_mel(self, waveforms: Tensor) -> Tensor:
        """(batch, samples) → (batch, frames, mels), natural logarithm of the filters' energies."""
        if waveforms.shape[1] < FRAME_LENGTH:
            return waveforms.new_zeros(len(waveforms), 0, self.filters.shape[0])
        frames = waveforms.unfold(1, FRAME_LENGTH, FRAME_SHIFT)
        frames = frames - frames.mean(dim=2, keepdim=True)
        # Kaldi repeats the first sample, so that pre-emphasis keeps the frame's length.
        previous = torch.cat([frames[..., :1], frames[..., :-1]], dim=2)
        frames = (frames - _PREEMPHASIS * previous) * self.window
        spectrum = torch.fft.rfft(frames, n=_FFT_SIZE)
        power = spectrum.abs().square()
        return torch.log((power @ self.filters.T).clamp(min=torch.finfo(torch.float32).eps))
