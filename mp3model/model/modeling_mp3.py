"""Rows of songs in regions, with audio and what else is known, in; the likelihood of their curves, or paths, out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from mp3model.config import MP3Config
from mp3model.files import InputError
from mp3model.model.modeling import MP2Model, strictly_loaded
from mp3model.model.writer import Audio, Batch, CurveWriter, as_learnt, known_periods, later_periods
from mp3model.tables.curves import UNKNOWN


@dataclass
class MP3Output(ModelOutput):
    """What `MP3Model` gives back.

    Attributes:
        loss: Mean negative log likelihood of a known period after the observed ones, in nats.
        log_likelihood: (n, periods), 0 where unknown or observed before; the mean over members.
        count: Periods that the mean is over.
    """

    loss: Tensor | None = None
    log_likelihood: Tensor | None = None
    count: Tensor | None = None


class MP3Model(PreTrainedModel):
    """MP3, music popularity period prediction: an MP2 model and decoders that write the stream-time curve.

    Curves are in log10 of the region's floor. A forecast with k observed periods, of any region, with or without
    audio, artist history or the song's life elsewhere, comes from the same weights.

    Its members (`config.members`) hear through one encoder and differ in where their learning began: a deep ensemble
    (Lakshminarayanan et al. 2017), of which each writes an equal share of the paths. What the members disagree on is
    then part of what a forecast calls uncertain.

    Args:
        config: All that defines the weights. With `encoder` `descriptors` or `none` there is no audio encoder.
    """

    config_class = MP3Config
    config: MP3Config
    base_model_prefix = "mp3"
    main_input_name = "waveforms"
    supports_gradient_checkpointing = False
    _supports_sdpa = True

    def __init__(self, config: MP3Config) -> None:
        super().__init__(config)
        if config.audio_segments and config.patch_drop:
            raise InputError(
                f"patch_drop {config.patch_drop} leaves holes in time: train with audio_segments 0, not "
                f"{config.audio_segments}"
            )
        self.mp2 = MP2Model(config) if config.encoder in ("ast", "both") else None
        self.writers = nn.ModuleList(CurveWriter(config) for _ in range(config.members))
        self.post_init()

    @property
    def members(self) -> list[CurveWriter]:
        """The decoders, in the order of their turns."""
        return cast(list[CurveWriter], list(self.writers))

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: every part draws its own weights when it is built, and a checkpoint must hold all of them."""

    def listen(self, waveforms: Tensor | None = None, mel: Tensor | None = None) -> Audio:
        """(songs, samples) at 16 kHz, or normalised log-mels (songs, frames, mels) → `Audio`.

        Raises:
            ValueError: If the model has no audio encoder.
        """
        if self.mp2 is None:
            raise ValueError(f"this model's encoder is {self.config.encoder!r}: it does not hear")
        output = self.mp2(waveforms=waveforms, mel=mel)
        prefix, patches = output.tokens[:, :2], output.tokens[:, 2:]
        segments = [prefix, patches.mean(dim=1, keepdim=True)]
        if self.config.audio_segments:
            grid = patches.unflatten(1, (self.mp2.encoder.grid[0], -1)).mean(dim=1)
            segments.append(
                functional.adaptive_avg_pool1d(grid.transpose(1, 2), self.config.audio_segments).transpose(1, 2)
            )
        states = torch.cat([output.states, output.predictions.to(output.states.dtype)], dim=-1)
        return Audio(torch.cat(segments, dim=1), states)

    def forward(
        self,
        batch: Batch,
        waveforms: Tensor | None = None,
        mel: Tensor | None = None,
        audio: Audio | None = None,
        absent: tuple[str, ...] = (),
    ) -> MP3Output:
        """Rows with their whole curves → the likelihood of what follows the observed periods.

        Args:
            batch: Tensors of `Covariates.gather`, (n, …); with audio also `song` (n,), each row's place among the
                songs heard, −1 where it has no audio.
            waveforms: (songs, samples), or
            mel: (songs, frames, mels), or
            audio: Of `listen`, for songs heard before.
            absent: Groups of inputs to leave out, `audio` among them.
        """
        if audio is None and (waveforms is not None or mel is not None):
            audio = self.listen(waveforms, mel)
        batch = as_learnt(batch, self.config.nulls)
        likelihood = torch.stack([member(batch, audio, absent) for member in self.members]).mean(dim=0)
        count = known_periods(batch)
        return MP3Output(-likelihood.sum() / count.clamp(min=1), likelihood, count)

    @torch.inference_mode()
    def probability_transform(
        self, batch: Batch, uniform: Tensor, audio: Audio | None = None, absent: tuple[str, ...] = ()
    ) -> Tensor:
        """Randomised PIT of each period after the observed ones, given those before it: (n, periods), NaN elsewhere.

        Uniform and independent over periods where the model is right; a period below the chart is given a place at
        random in what lies below. With the joint likelihood the distributions are those at the forecast's date.

        Args:
            batch: As for `forward`.
            uniform: (n, periods) numbers in (0, 1).
            audio, absent: As for `forward`.
        """
        batch = as_learnt(batch, self.config.nulls)
        told = [member.place(batch, uniform, audio, absent) for member in self.members]
        place, likelihood = (torch.stack(parts) for parts in zip(*told, strict=True))
        weight = torch.zeros_like(likelihood)
        if self.config.likelihood == "autoregressive":
            # Given the periods before, the members that foresaw them count more.
            weight = likelihood.cumsum(dim=-1) - likelihood
        place = (weight.softmax(dim=0) * place).sum(dim=0)
        return torch.where(later_periods(batch) & (batch["state"] != UNKNOWN), place, torch.nan)

    @torch.inference_mode()
    def sample(self, batch: Batch, uniform: Tensor, audio: Audio | None = None, absent: tuple[str, ...] = ()) -> Tensor:
        """Paths of the curve in log10 of floor units: (n, paths, periods).

        A value below `last_threshold` means a period below the chart. Observed periods come back as they are; a gap
        among them is filled by a draw that nothing later sees. The members take turns: path i is of member i modulo
        their number.

        Args:
            batch: As for `forward`; whatever follows the observed periods is not read.
            uniform: (n, paths, periods + 1) numbers in (0, 1); the last is used by the joint likelihood alone.
            audio: Of `listen`.
            absent: As for `forward`.
        """
        n, paths, numbers = uniform.shape
        written = uniform.new_empty(n, paths, numbers - 1)
        for turn, member in enumerate(self.members[:paths]):
            own = slice(turn, None, len(self.members))
            written[:, own] = member.sample(batch, uniform[:, own], audio, absent)
        return written

    @classmethod
    def from_pretrained(cls, *arguments: Any, **options: Any) -> Any:
        """transformers' `from_pretrained`, strict: safetensors only, and every weight must be there and fit.

        Raises:
            InputError: If a weight is missing, unknown or of another shape.
        """
        return strictly_loaded(super().from_pretrained, *arguments, **options)

    def no_weight_decay(self) -> set[str]:
        """Parameters that weight decay leaves alone, as timm's optimizer factory asks."""
        inner = {f"mp2.{name}" for name in self.mp2.no_weight_decay()} if self.mp2 is not None else set()
        return inner | {
            f"writers.{place}.context.{name}.weight"
            for place, member in enumerate(self.members)
            for name in ("region", "token_region", "kind", "taste")
            if getattr(member.context, name) is not None
        }

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """timm's layer groups: the audio encoder's stem and blocks; the decoder learns at the full rate."""
        inner = self.mp2.group_matcher(coarse) if self.mp2 is not None else {}
        return {name: pattern.replace("^", r"^mp2\.", 1) for name, pattern in inner.items()}
