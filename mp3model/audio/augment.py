"""A batch of previews and a few random numbers a sample in, augmented waveforms and spectrograms out.

Nothing here draws. `draw_numbers` makes the numbers from (seed, epoch, sample id) alone, the batch carries them, and
each module is a plain function of the batch and its columns. So the number of loader workers, of processes and the
place of a sample in its batch change nothing, and a GPU and a CPU see the same masks.
"""

from __future__ import annotations

import hashlib
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from mp3model.audio.frontend import hertz, mel, mel_corners
from mp3model.files import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

MASKS = 4  # at most, on each axis


class Draw(IntEnum):
    """Columns of a sample's random numbers, each uniform on [0, 1)."""

    PREVIEW = 0
    CROP = 1
    GAIN_APPLIES = 2
    GAIN = 3
    ROLL_APPLIES = 4
    ROLL = 5
    MIXUP_APPLIES = 6
    MIXUP_WEIGHT = 7
    PARTNER = 8
    TIMBRE = 9
    FREQUENCY_MASKS = 10  # a width and a start for each of MASKS masks
    TIME_MASKS = FREQUENCY_MASKS + 2 * MASKS
    SHIFT = TIME_MASKS + 2 * MASKS
    COUNT = SHIFT + 1


def generator(seed: int, epoch: int, name: str) -> np.random.Generator:
    """A counter-based generator (Philox) keyed by (seed, epoch, name), the same in every process and machine."""
    digest = hashlib.blake2b(f"{seed}\0{epoch}\0{name}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(digest, dtype="<u8")))


def draw_numbers(seed: int, epoch: int, sample_id: str) -> np.ndarray:
    """The (Draw.COUNT,) float32 numbers of one sample in one epoch; 24 bits each, so that none rounds up to 1."""
    return (generator(seed, epoch, sample_id).integers(0, 1 << 24, Draw.COUNT) / float(1 << 24)).astype(np.float32)


def scaled_draw(draw: Any, count: Any) -> Any:
    """[0, 1) → 0 … count − 1, each equally likely; for arrays and tensors alike.

    A draw of 24 bits times a whole number below 2**24 never rounds up to that number in float32.
    """
    scaled = draw * count
    return scaled.long() if isinstance(scaled, Tensor) else np.asarray(scaled).astype(np.int64)


class AlternatePreview(nn.Module):
    """Chooses one preview of a track a sample; in evaluation mode the first."""

    def forward(self, previews: Tensor, counts: Tensor, draws: Tensor) -> Tensor:
        """(batch, previews, samples), (batch,) real previews of each → (batch, samples)."""
        chosen = scaled_draw(draws[:, Draw.PREVIEW], counts) if self.training else torch.zeros_like(counts)
        return previews[torch.arange(len(previews), device=previews.device), chosen]


class RandomGain(nn.Module):
    """Multiplies a waveform by a gain drawn uniformly in decibels.

    Args:
        low: Smallest gain in dB.
        high: Largest gain in dB.
        probability: Share of the samples that are changed.
    """

    def __init__(self, low: float = -6.0, high: float = 6.0, probability: float = 1.0) -> None:
        super().__init__()
        if high < low:
            raise InputError(f"gain from {low} dB to {high} dB: the second must not be smaller")
        self.low, self.high, self.probability = low, high, probability

    def forward(self, waveforms: Tensor, draws: Tensor) -> Tensor:
        """(batch, samples) → (batch, samples)."""
        if not self.training:
            return waveforms
        decibels = self.low + (self.high - self.low) * draws[:, Draw.GAIN]
        decibels = torch.where(draws[:, Draw.GAIN_APPLIES] < self.probability, decibels, 0.0)
        return waveforms * (10.0 ** (decibels / 20.0)).unsqueeze(1)


class RandomRoll(nn.Module):
    """Shifts a waveform in time; what leaves at the end comes back at the start.

    Args:
        largest: Largest shift as a share of the clip.
        probability: Share of the samples that are changed.
    """

    def __init__(self, largest: float = 1.0, probability: float = 1.0) -> None:
        super().__init__()
        if not 0 <= largest <= 1:
            raise InputError(f"the largest roll is {largest}; it is a share of the clip, from 0 to 1")
        self.largest, self.probability = largest, probability

    def forward(self, waveforms: Tensor, draws: Tensor) -> Tensor:
        """(batch, samples) → (batch, samples)."""
        if not self.training:
            return waveforms
        samples = waveforms.shape[1]
        shift = scaled_draw(draws[:, Draw.ROLL], int(self.largest * (samples - 1)) + 1)
        shift = torch.where(draws[:, Draw.ROLL_APPLIES] < self.probability, shift, 0)
        places = torch.arange(samples, device=waveforms.device)[None] - shift[:, None]
        return waveforms.gather(1, places.remainder(samples))


class SpecAugment(nn.Module):
    """Masks bands and stretches of a spectrogram (Park et al. 2019, arXiv 1904.08779, without time warping).

    A mask's width is uniform on 0 … its largest width, its start uniform on the places where it fits. AST's recipe is
    one mask of at most 48 bands and one of at most 192 frames. The mask's value is 0, the corpus mean after
    normalisation.

    Args:
        frequency_width: Largest width of a frequency mask, in mel bands.
        time_width: Largest width of a time mask, in frames.
        frequency_masks: How many frequency masks a sample, at most `MASKS`.
        time_masks: How many time masks a sample, at most `MASKS`.
    """

    def __init__(
        self, frequency_width: int = 48, time_width: int = 192, frequency_masks: int = 1, time_masks: int = 1
    ) -> None:
        super().__init__()
        for name, count in (("frequency_masks", frequency_masks), ("time_masks", time_masks)):
            if not 0 <= count <= MASKS:
                raise InputError(f"{name} is {count}; from 0 to {MASKS} are drawn")
        self.frequency_width, self.time_width = frequency_width, time_width
        self.frequency_masks, self.time_masks = frequency_masks, time_masks

    def forward(self, spectrograms: Tensor, draws: Tensor) -> Tensor:
        """(batch, frames, mels) → (batch, frames, mels)."""
        if not self.training:
            return spectrograms
        _, frames, mels = spectrograms.shape
        in_time = _masked(draws, Draw.TIME_MASKS, self.time_masks, self.time_width, frames)
        in_frequency = _masked(draws, Draw.FREQUENCY_MASKS, self.frequency_masks, self.frequency_width, mels)
        return spectrograms.masked_fill(in_time[:, :, None] | in_frequency[:, None, :], 0.0)


def _masked(draws: Tensor, first: int, masks: int, largest: int, extent: int) -> Tensor:
    """(batch, Draw.COUNT) → (batch, extent), true where any of the masks lies."""
    numbers = draws[:, first : first + 2 * masks].reshape(len(draws), masks, 2, 1)
    width = scaled_draw(numbers[:, :, 0], min(largest, extent) + 1)
    start = scaled_draw(numbers[:, :, 1], extent - width + 1)
    places = torch.arange(extent, device=draws.device)
    return ((places >= start) & (places < start + width)).any(dim=1)


class BandShift(nn.Module):
    """Moves a spectrogram up or down by whole mel bands: roughly the same music, and not quite in another key.

    Args:
        bands: Largest shift either way; each shift up to it is equally likely. What moves in from outside is 0, the
            corpus mean after normalisation.
    """

    def __init__(self, bands: int = 4) -> None:
        super().__init__()
        if bands < 0:
            raise InputError(f"a shift of {bands} bands is none; give 0 or more")
        self.bands = bands

    def forward(self, spectrograms: Tensor, draws: Tensor) -> Tensor:
        """(batch, frames, mels) → (batch, frames, mels)."""
        if not self.training or not self.bands:
            return spectrograms
        _, frames, mels = spectrograms.shape
        shift = scaled_draw(draws[:, Draw.SHIFT], 2 * self.bands + 1) - self.bands
        source = torch.arange(mels, device=spectrograms.device) - shift[:, None]
        inside = (source >= 0) & (source < mels)
        moved = spectrograms.gather(2, source.clamp(0, mels - 1)[:, None].expand(-1, frames, -1))
        return moved.masked_fill(~inside[:, None], 0.0)


class Transpose(nn.Module):
    """Moves a normalised log-mel spectrogram into another key; intervals and tempo stay as they were.

    Well below 1 kHz mel bands are spaced evenly in Hertz, so that a chord moved by whole bands (`BandShift`) is another
    chord. Here each band is read, between the two nearest, where its centre's frequency lay before: a warp of the
    frequency axis, as in vocal tract length perturbation (Jaitly and Hinton 2013), by musical intervals.

    Args:
        semitones: Largest transposition either way; each up to it is equally likely. What moves in from outside is 0,
            the corpus mean after normalisation.
    """

    def __init__(self, semitones: float = 3.0) -> None:
        super().__init__()
        if not semitones >= 0:
            raise InputError(f"a transposition of {semitones} semitones is none; give 0 or more")
        self.semitones = semitones

    def forward(self, spectrograms: Tensor, draws: Tensor) -> Tensor:
        """(batch, frames, mels) → (batch, frames, mels)."""
        if not self.training or not self.semitones:
            return spectrograms
        _, frames, mels = spectrograms.shape
        corners = mel_corners(mels).to(spectrograms.device)
        up = (2.0 * draws[:, Draw.SHIFT] - 1.0) * self.semitones
        source = (mel(hertz(corners[1:-1]) * 2.0 ** (-up[:, None] / 12.0)) - corners[1]) / (corners[1] - corners[0])
        # Half a band beyond the outermost centre still belongs to its band, so that no rounding empties it.
        outside = (source < -0.5) | (source > mels - 0.5)
        source = source.clamp(0, mels - 1)
        below = source.long().clamp(max=mels - 2)
        lower, upper = (spectrograms.gather(2, band[:, None].expand(-1, frames, -1)) for band in (below, below + 1))
        moved = torch.lerp(lower, upper, (source - below)[:, None].to(spectrograms.dtype))
        return moved.masked_fill(outside[:, None], 0.0)


class Mixup(nn.Module):
    """Mixes each waveform and its targets with a partner's (Zhang et al. 2018, arXiv 1710.09412).

    The partner is drawn from the whole training split by the loader, not from the batch, so that the batch's make-up
    changes nothing. The weight follows a symmetric Beta distribution, through a table of its quantiles.

    Args:
        alpha: Both parameters of the Beta distribution.
        probability: Share of the samples that are mixed (.5 in AST).
    """

    quantiles: Tensor

    def __init__(self, alpha: float = 10.0, probability: float = 0.5) -> None:
        super().__init__()
        from scipy.stats import beta

        if not alpha > 0:
            raise InputError(f"mixup's alpha is {alpha}; it must be positive")
        self.probability = probability
        quantiles = beta.ppf(np.linspace(0.0, 1.0, 1025), alpha, alpha)
        self.register_buffer("quantiles", torch.tensor(quantiles, dtype=torch.float32))

    def forward(
        self, waveforms: Tensor, targets: Tensor, partners: Tensor, partner_targets: Tensor, draws: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Twice (batch, samples) and (batch, …) → mixed (batch, samples) and (batch, …).

        A target missing on either side is missing in the mixture; an unmixed sample keeps its own.
        """
        if not self.training:
            return waveforms, targets
        place = draws[:, Draw.MIXUP_WEIGHT] * (len(self.quantiles) - 1)
        below = place.long()
        weight = torch.lerp(self.quantiles[below], self.quantiles[below + 1], place - below)
        mixed = draws[:, Draw.MIXUP_APPLIES] < self.probability
        weight = torch.where(mixed, weight, 1.0)
        per_sample = weight[:, None]
        # AST removes each clip's mean first, so that an offset in one does not shift the other.
        waveforms = torch.where(
            mixed[:, None],
            per_sample * (waveforms - waveforms.mean(1, keepdim=True))
            + (1 - per_sample) * (partners - partners.mean(1, keepdim=True)),
            waveforms,
        )
        shape = (-1,) + (1,) * (targets.ndim - 1)
        per_target = weight.view(shape)
        mixed_targets = per_target * targets + (1 - per_target) * partner_targets
        return waveforms, torch.where(mixed.view(shape), mixed_targets, targets)


class WaveformAugment(nn.Module):
    """Alternate preview, gain and roll in that order: int16 previews in, one float waveform a sample out.

    Args:
        gain: Largest gain in dB, either way; 0 leaves levels alone.
        roll: Largest shift as a share of the clip; 0 leaves time alone.
        alternate: Whether any preview may be chosen, or the first always.
    """

    def __init__(self, gain: float = 6.0, roll: float = 1.0, alternate: bool = True) -> None:
        super().__init__()
        self.alternate = alternate
        self.preview = AlternatePreview()
        self.gain = RandomGain(-gain, gain)
        self.roll = RandomRoll(roll)

    def forward(self, previews: Tensor, counts: Tensor, draws: Tensor) -> Tensor:
        """(batch, previews, samples) int16 or float, (batch,), (batch, Draw.COUNT) → (batch, samples) float32."""
        chosen = self.preview(previews, counts if self.alternate else torch.ones_like(counts), draws)
        waveforms = chosen.float() / 32768.0 if chosen.dtype == torch.int16 else chosen
        return self.roll(self.gain(waveforms, draws), draws)


class TimbreAugment:
    """Pitch shift, seven-band equaliser, low- and high-pass on the CPU, in the loader's workers (audiomentations).

    These change what a listener hears, and with it perhaps what the song is worth; hence off by default.

    Args:
        names: Any of `pitch`, `equaliser`, `low_pass`, `high_pass`.
        probability: With which each named effect is applied to a sample.
        sample_rate: In Hz.

    Raises:
        InputError: For a name that is none of these.
    """

    NAMES = ("pitch", "equaliser", "low_pass", "high_pass")

    def __init__(self, names: Sequence[str], probability: float = 0.5, sample_rate: int = 16_000) -> None:
        unknown = sorted(set(names) - set(self.NAMES))
        if unknown:
            raise InputError(f"timbre augmentation {', '.join(unknown)} is none of {', '.join(self.NAMES)}")
        self.names, self.probability, self.sample_rate = tuple(names), probability, sample_rate
        self._chain: Any = None

    def __call__(self, waveform: np.ndarray, seed: int) -> np.ndarray:
        """(samples,) int16 or float → (samples,) of the same type, changed as the seed alone says."""
        import random

        if self._chain is None:
            self._chain = self._build()
        floats = waveform.astype(np.float32) / 32768.0 if waveform.dtype == np.int16 else waveform
        # audiomentations draws from the global generators: seed them for this sample and give them back as they were.
        states = random.getstate(), np.random.get_state()  # noqa: NPY002
        try:
            random.seed(seed)
            np.random.seed(seed % (1 << 32))  # noqa: NPY002
            changed = self._chain(samples=floats, sample_rate=self.sample_rate)
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002
        if waveform.dtype == np.int16:
            return np.clip(np.rint(changed * 32768.0), -32768, 32767).astype(np.int16)
        return changed.astype(waveform.dtype)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_chain": None}

    def _build(self) -> Any:
        import audiomentations

        effects = {
            "pitch": lambda: audiomentations.PitchShift(-2.0, 2.0, p=self.probability),
            "equaliser": lambda: audiomentations.SevenBandParametricEQ(-6.0, 6.0, p=self.probability),
            "low_pass": lambda: audiomentations.LowPassFilter(2000.0, 7500.0, p=self.probability),
            "high_pass": lambda: audiomentations.HighPassFilter(20.0, 400.0, p=self.probability),
        }
        return audiomentations.Compose([effects[name]() for name in self.NAMES if name in self.names])
