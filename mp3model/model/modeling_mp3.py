"""Rows of songs in regions, with audio and what else is known, in; the likelihood of their curves, or paths, out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from mp3model.config import MP3Config
from mp3model.files import InputError
from mp3model.model.context import ContextEncoder
from mp3model.model.covariates import LAST_YEAR_FEATURES
from mp3model.model.curve_heads import HEADS, AutoregressiveHead, JointHead, begins_on_chart
from mp3model.model.decoder import CurveDecoder
from mp3model.model.modeling import MP2Model, strictly_loaded
from mp3model.tables.calendar import CALENDAR_FEATURES
from mp3model.tables.curves import BELOW, OBSERVED, UNKNOWN

Batch = dict[str, Tensor]
# What stands before a period: nothing yet, a value, less than the chart's lowest, or a gap.
_START, _ON_CHART, _BELOW, _GAP = range(4)


class Audio(NamedTuple):
    """What a decoder hears of each song: tokens (songs, tokens, width), states (songs, regions, width + targets)."""

    tokens: Tensor
    states: Tensor


class CurveWriter(nn.Module):
    """A decoder with all that tells it of a row: one member of an MP3 model.

    Batches are tensors of `Covariates.gather`, (n, …); with audio also `song` (n,), each row's place among the songs
    heard, −1 where it has no audio.

    Args:
        config: Of the MP3 model.
    """

    def __init__(self, config: MP3Config) -> None:
        super().__init__()
        self.config = config
        width = config.decoder_width
        self.hears = config.encoder in ("ast", "both")
        if self.hears:
            self.hear = nn.Linear(config.hidden_size, width) if config.audio_context == "tokens" else None
            # A state is followed by its predictions.
            self.heard = len(config.targets) + (0 if config.audio_context == "prediction" else config.hidden_size)
            self.hear_region = nn.Linear(self.heard, width)
        self.context = ContextEncoder(
            width,
            len(config.regions),
            config.covariates,
            len(config.descriptors) if config.encoder in ("descriptors", "both") else 0,
            config.covariate_drop,
            config.region_drop,
            config.decoder_region_mode,
        )
        head = HEADS[config.likelihood]
        self.decoder = CurveDecoder(
            width,
            config.decoder_layers,
            config.decoder_heads,
            CALENDAR_FEATURES,
            config.decoder_position_mode,
            causal=not head.joint,
            dropout=config.decoder_dropout,
            last_year=LAST_YEAR_FEATURES if "past" in config.covariates else 0,
        )
        self.head: AutoregressiveHead | JointHead = head(width, config.components, "past" in config.covariates)

    def forward(self, batch: Batch, audio: Audio | None = None, absent: tuple[str, ...] = ()) -> Tensor:
        """Log likelihood of each period given those before it: (n, periods), 0 where unknown or observed before.

        The batch is told `as_learnt`; so it is for `place`.
        """
        batch, *read = self._context(batch, audio, absent)
        return self.head.log_likelihood(self._distributions(batch, *read), batch) * later_periods(batch)

    def place(
        self, batch: Batch, uniform: Tensor, audio: Audio | None = None, absent: tuple[str, ...] = ()
    ) -> tuple[Tensor, Tensor]:
        """Randomised PIT of each period given those before it, and its log likelihood as of `forward`: (n, periods)."""
        batch, *read = self._context(batch, audio, absent)
        distributions = self._distributions(batch, *read)
        likelihood = self.head.log_likelihood(distributions, batch) * later_periods(batch)
        return self.head.place(distributions, batch, uniform), likelihood

    def sample(
        self,
        batch: Batch,
        uniform: Tensor,
        threshold: Tensor,
        audio: Audio | None = None,
        absent: tuple[str, ...] = (),
    ) -> Tensor:
        """As `MP3Model.sample`, below the `threshold` of each path's periods (n, paths, periods)."""
        given_states = batch["state"]
        batch, summary, context, known = self._context(as_learnt(batch, self.config.nulls), audio, absent)
        horizon = batch["state"].shape[1]
        periods = torch.arange(horizon, device=summary.device)
        if isinstance(self.head, JointHead):
            parameters = self._distributions(batch, summary, context, known)
            paths = self.head.draw(parameters, uniform[..., :-1], uniform[..., -1], batch, threshold[..., 0])
        else:
            paths = self._write(batch, uniform, threshold, summary, context, known)
        given = (periods < batch["observed"][:, None]) & (given_states != UNKNOWN)
        observed = torch.where(given_states == OBSERVED, batch["value"], batch["threshold"] - 1)
        return torch.where(given[:, None], observed[:, None], paths)

    def _distributions(
        self, batch: Batch, summary: Tensor, context: Tensor, known: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The head's parameters of every period given the true ones before it."""
        periods = torch.arange(batch["state"].shape[1], device=summary.device)
        value, flag = self._before(batch)
        step = _step(value, flag, *(functional.pad(part[:, :-1], (1, 0)) for part in (value, flag)))
        last_year = batch.get("last_year")
        stream = self.decoder.embed(value, step, flag, batch["calendar"], periods, summary[:, None], last_year)
        repeated = None
        if last_year is not None:
            repeated = _repeated(last_year, functional.pad(last_year[:, :-1], (0, 0, 1, 0)), value, flag)
        return self.head(self.decoder(stream, context, known), value, repeated)

    def _context(
        self, batch: Batch, audio: Audio | None, absent: tuple[str, ...]
    ) -> tuple[Batch, Tensor, Tensor, Tensor]:
        """The batch without what is absent of its past; summary, context tokens and which of them are known."""
        present = self.context.present(batch, absent)
        if "past" in self.context.groups:
            has = present[:, self.context.groups.index("past")].float()
            batch = batch | {name: batch[name] * has[:, None, None] for name in ("before", "last_year")}
        summary, context, known = self.context(batch, absent, present)
        return batch, *self._heard(batch, audio, absent, summary, context, known)

    def _heard(
        self,
        batch: Batch,
        audio: Audio | None,
        absent: tuple[str, ...],
        summary: Tensor,
        context: Tensor,
        known: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The same with what was heard, its tokens first."""
        if not self.hears or audio is None or "audio" in absent:
            return summary, context, known
        song = batch["song"]
        heard = song >= 0
        if self.training and self.config.covariate_drop:
            heard = heard & (torch.rand(song.shape, device=song.device) >= self.config.covariate_drop)
        chosen = song.clamp(min=0)
        states = torch.cat([audio.states, audio.states.mean(dim=1, keepdim=True)], dim=1)
        own = states[chosen, batch["region"].clamp(max=states.shape[1] - 1)]
        region = self.hear_region(own[:, -self.heard :])
        tokens = region[:, None]
        if self.hear is not None:
            # Projected a song, not a row: all regions of a song share what was heard.
            tokens = torch.cat([tokens, self.hear(audio.tokens)[chosen]], dim=1)
        summary = summary + region * heard[:, None]
        known = torch.cat([heard[:, None].expand(-1, tokens.shape[1]), known], dim=1)
        return summary, torch.cat([tokens, context], dim=1), known

    def _before(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """For each period the outcome of the one before it: values and flags (n, periods)."""
        value, flag = outcome(batch["value"], batch["state"], batch["threshold"])
        start, start_flag = self._start(batch)
        value = torch.cat([start[:, None], value[:, :-1]], dim=1)
        flag = torch.cat([start_flag[:, None], flag[:, :-1]], dim=1)
        if self.head.joint:
            # Nothing after the observed periods may be seen where all periods see each other.
            hidden = torch.arange(value.shape[1], device=value.device) > batch["observed"][:, None]
            value, flag = torch.where(hidden, 0.0, value), torch.where(hidden, _GAP, flag)
        return value, flag

    def _start(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """What stands before the first period: nothing for a debut, else the one before: values and flags (n,)."""
        n, device = len(batch["observed"]), batch["threshold"].device
        value, flag = torch.zeros(n, device=device), torch.full((n,), _START, device=device)
        if "before" not in batch:
            return value, flag
        level, charted, below = batch["before"][:, 0].unbind(dim=-1)
        value = torch.where(charted > 0, level, torch.where(below > 0, batch["last_threshold"], value))
        return value, torch.where(charted > 0, _ON_CHART, torch.where(below > 0, _BELOW, flag))

    def _write(
        self, batch: Batch, uniform: Tensor, threshold: Tensor, summary: Tensor, context: Tensor, known: Tensor
    ) -> Tensor:
        """One period after the other; observed periods are read once for all paths."""
        head = cast(AutoregressiveHead, self.head)
        _, paths, horizon = threshold.shape
        periods = torch.arange(horizon, device=threshold.device)
        cache = self.decoder.begin(context, known, horizon)
        value, flag = (part[:, None] for part in self._start(batch))
        before = torch.zeros_like(value), torch.full_like(flag, _START)
        # A debut is on the chart in its first period.
        debut = begins_on_chart(batch)[:, None]
        last_year = batch.get("last_year")
        shared = int(batch["observed"].min())
        given_value, given_flag = outcome(batch["value"], batch["state"], batch["threshold"])
        written = []
        for period in range(horizon):
            lowest = threshold[:, :, period]
            place = periods[period : period + 1]
            calendar = batch["calendar"][:, period : period + 1].expand(-1, value.shape[1], -1)
            # One token a path: here the second axis holds paths, all at the same period.
            now = repeated = None
            if last_year is not None:
                now = last_year[:, period : period + 1]
                earlier = last_year[:, period - 1 : period] if period else torch.zeros_like(now)
                repeated = _repeated(now, earlier, value, flag)
                now = now.expand(-1, value.shape[1], -1)
            step = _step(value, flag, *before)
            before = value, flag
            token = self.decoder.embed(value, step, flag, calendar, place, summary[:, None], now)
            state = self.decoder.step(token, cache)
            first = debut if period == 0 else False
            observed = (period < batch["observed"])[:, None]
            if period < shared:
                drawn = lowest
                # Only a gap is drawn, and by every path for itself, as it is beside rows with fewer observed periods.
                if (given_flag[:, period] == _GAP).any():
                    weight, mean, scale = (part.expand(-1, paths, -1) for part in head(state, value, repeated))
                    drawn = head.draw((weight, mean, scale), uniform[:, :, period], lowest, first)
                value, flag = given_value[:, period, None], given_flag[:, period, None]
            else:
                parameters = head(state.expand(-1, paths, -1), value.expand(-1, paths), repeated)
                drawn = head.draw(parameters, uniform[:, :, period], lowest, first)
                told, under = drawn, torch.zeros_like(drawn, dtype=torch.bool)
                if self.config.nulls == "censored":
                    told, under = torch.maximum(drawn, lowest), drawn < lowest
                value = torch.where(observed, given_value[:, period, None], told)
                flag = torch.where(observed, given_flag[:, period, None], torch.where(under, _BELOW, _ON_CHART))
            written.append(drawn)
        return torch.stack(written, dim=-1)


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
    lowest_walks: Tensor | None

    def __init__(self, config: MP3Config) -> None:
        super().__init__(config)
        if config.audio_segments and config.patch_drop:
            raise InputError(
                f"patch_drop {config.patch_drop} leaves holes in time: train with audio_segments 0, not "
                f"{config.audio_segments}"
            )
        self.mp2 = MP2Model(config) if config.encoder in ("ast", "both") else None
        self.writers = nn.ModuleList(CurveWriter(config) for _ in range(config.members))
        walks = torch.zeros(len(config.regions) + 1, config.lowest_walks, config.horizon)
        self.register_buffer("lowest_walks", walks if config.lowest_walks else None)
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
        return torch.where(_known_later(batch), place, torch.nan)

    @torch.inference_mode()
    def sample(self, batch: Batch, uniform: Tensor, audio: Audio | None = None, absent: tuple[str, ...] = ()) -> Tensor:
        """Paths of the curve in log10 of floor units: (n, paths, periods).

        A value below `thresholds` means a period below the chart. Observed periods come back as they are; a gap among
        them is filled by a draw that nothing later sees. The members take turns: path i is of member i modulo their
        number.

        Args:
            batch: As for `forward`; whatever follows the observed periods is not read.
            uniform: (n, paths, periods + 1) numbers in (0, 1); the last is used by the joint likelihood alone.
            audio: Of `listen`.
            absent: As for `forward`.
        """
        n, paths, numbers = uniform.shape
        written = uniform.new_empty(n, paths, numbers - 1)
        threshold = self.thresholds(batch, paths)
        for turn, member in enumerate(self.members[:paths]):
            own = slice(turn, None, len(self.members))
            written[:, own] = member.sample(batch, uniform[:, own], threshold[:, own], audio, absent)
        return written

    def thresholds(self, batch: Batch, paths: int) -> Tensor:
        """The chart's lowest in each period of each path, in log10 of floor units: (n, paths, periods).

        It sets out from the last known lowest and goes the way of one of `lowest_walks`, the same for path i of every
        song in every region, as one chart lists them all. Without walks it stays.
        """
        steps = torch.arange(batch["state"].shape[1], device=self.device) - batch["observed"][:, None]
        last = batch["last_threshold"][:, None, None].expand(-1, paths, steps.shape[1])
        if self.lowest_walks is None:
            return last
        turn = torch.arange(paths, device=self.device) % self.config.lowest_walks
        walks = self.lowest_walks[batch["region"]][:, turn]
        moved = walks.gather(2, steps.clamp(min=0)[:, None].expand_as(last))
        return last + torch.where(steps[:, None] >= 0, moved, 0.0)

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


def as_learnt(batch: Batch, nulls: str) -> Batch:
    """The batch with its periods below the chart as `config.nulls` wants them."""
    below = batch["state"] == BELOW
    if nulls == "masked":
        return batch | {"state": torch.where(below, UNKNOWN, batch["state"])}
    if nulls == "zero":
        value = torch.where(below, batch["threshold"] - 1, batch["value"])
        return batch | {"state": torch.where(below, OBSERVED, batch["state"]), "value": value}
    return batch


def later_periods(batch: Batch) -> Tensor:
    """Which periods follow the observed ones: (n, periods) bool."""
    return torch.arange(batch["state"].shape[1], device=batch["state"].device) >= batch["observed"][:, None]


def known_periods(batch: Batch) -> Tensor:
    """How many periods after the observed ones a batch knows."""
    return _known_later(batch).sum()


def _known_later(batch: Batch) -> Tensor:
    return later_periods(batch) & (batch["state"] != UNKNOWN)


def period_weights(batch: Batch, first: float) -> Tensor:
    """How much each known period counts in training: (n, periods), 0 where unknown or observed before.

    Args:
        batch: As for `MP3Model.forward`.
        first: What the first period after the observed ones counts; a later one counts 1, and so does each of a song
            that has a past, whose first period is a week like the others.
    """
    known = _known_later(batch)
    at = torch.arange(known.shape[1], device=known.device)
    begins = (at == batch["observed"][:, None]) & begins_on_chart(batch)[:, None]
    return known * torch.where(begins, first, 1.0)


def _step(value: Tensor, flag: Tensor, before: Tensor, flag_before: Tensor) -> Tensor:
    """The last value less the one before it, 0 where one of them was not on the chart: (n, periods or paths)."""
    return torch.where((flag == _ON_CHART) & (flag_before == _ON_CHART), value - before, 0.0)


def _repeated(now: Tensor, earlier: Tensor, value: Tensor, flag: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What the head is told of last year: the value and whether it was charted, and how far this year is from it.

    Args:
        now, earlier: (n, periods, features) of the same period last year, and of the one before.
        value, flag: (n, periods or paths) outcome of the period before.
    """
    both = (flag == _ON_CHART) & (earlier[..., 1] > 0)
    return now[..., 0], now[..., 1], torch.where(both, value - earlier[..., 0], 0.0)


def outcome(value: Tensor, state: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
    """What the decoder is told of each period: its value, or the chart's lowest where it had less; and a flag."""
    told = torch.where(state == OBSERVED, value, torch.where(state == BELOW, threshold, 0.0))
    flag = torch.where(state == OBSERVED, _ON_CHART, torch.where(state == BELOW, _BELOW, _GAP))
    return told, flag
