"""Waveforms or log-mels and region names in, popularity out: the models, built from an MP3Config.

The one place that reads `config.x`; every other module takes plain arguments.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.utils import ModelOutput

from mp3model.audio.frontend import LogMel
from mp3model.config import MP3Config
from mp3model.files import InputError
from mp3model.model.encoder import AST, Block
from mp3model.model.heads import ProjectionHead, ScalarHead
from mp3model.model.losses import masked_squared_error, mean_over_targets


@dataclass
class MP2Output(ModelOutput):
    """What MP2 gives for a batch.

    Attributes:
        loss: Mean squared error over the known targets, if targets were given.
        predictions: (batch, regions, targets), standardised; `MP2Model.natural_units` turns them back.
        states: (batch, regions, width), what the head read.
        tokens: (batch, 2 + patches, width), the encoder's stream: class, distillation, patches.
        projections: (batch, channels) of length 1, in training with a projection head.
    """

    loss: Tensor | None = None
    predictions: Tensor | None = None
    states: Tensor | None = None
    tokens: Tensor | None = None
    projections: Tensor | None = None


class MP2Model(PreTrainedModel):
    """Music popularity prediction: an AST that regresses total streams and debut rank a region.

    One pass answers every region. Region modes: `token`, a learned class token a region inside the encoder;
    `embedding`, a learned vector a region added to the pooled state; `none`, the same answer everywhere.
    """

    config_class = MP3Config
    base_model_prefix = "mp2"
    main_input_name = "waveforms"
    supports_gradient_checkpointing = False
    _supports_sdpa = True

    def __init__(self, config: MP3Config) -> None:
        super().__init__(config)
        regions = len(config.regions)
        if config.region_mode != "none" and regions == 0:
            raise ValueError(f"region_mode is {config.region_mode!r}, but the configuration names no region")
        self.frontend = LogMel(config.mel_mean, config.mel_std, config.num_mel_bins)
        self.encoder = AST(**encoder_arguments(config))
        self.region_embed = (
            nn.Parameter(torch.randn(1, regions, config.hidden_size) * 0.02)
            if config.region_mode == "embedding"
            else None
        )
        self.head = ScalarHead(config.hidden_size, len(config.targets), head_dropout(config))
        # Of use in training alone: a recipe that tells songs apart sets it, and takes it away before the model is kept.
        self.projection: ProjectionHead | None = None
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: every part draws its own weights when it is built, and a checkpoint must hold all of them."""

    def forward(
        self,
        waveforms: Tensor | None = None,
        mel: Tensor | None = None,
        regions: Sequence[str] | None = None,
        targets: Tensor | None = None,
    ) -> MP2Output:
        """(batch, samples) at 16 kHz, or normalised log-mels (batch, frames, mels) → `MP2Output`.

        Args:
            waveforms: int16, or floats in [-1, 1].
            mel: What the front end gives, when something was done between it and the encoder (SpecAugment).
            regions: Regions wanted, in this order; None is all that the model knows.
            targets: (batch, regions, targets) standardised, NaN where missing.

        Raises:
            InputError: For an unknown region; the message lists the known ones.
        """
        if (waveforms is None) == (mel is None):
            raise ValueError("give either waveforms or mel")
        if mel is None:
            mel = self.frontend(waveforms)
        asked = None if regions is None else self.region_indices(regions).to(mel.device)
        tokens, states = self.encoder(mel, asked)
        if self.encoder.region_tokens is None:
            # AST pools its class and distillation tokens; with statistics the encoder has done so.
            pooled = states if self.encoder.pool is not None else tokens[:, :2].mean(dim=1, keepdim=True)
            if self.region_embed is not None:
                states = pooled + (self.region_embed if asked is None else self.region_embed[:, asked])
            else:
                states = pooled.expand(-1, len(self.config.regions) if asked is None else len(asked), -1)
        predictions = self.head(states)
        loss = None
        if targets is not None:
            loss = mean_over_targets(*masked_squared_error(predictions, targets))
        projections = self.projection(states) if self.projection is not None and self.training else None
        return MP2Output(loss=loss, predictions=predictions, states=states, tokens=tokens, projections=projections)

    def region_indices(self, regions: Sequence[str]) -> Tensor:
        """Names → their indices (asked,).

        Raises:
            InputError: For an unknown region; the message lists the known ones.
        """
        known = {region: index for index, region in enumerate(self.config.regions)}
        unknown = [region for region in regions if region not in known]
        if unknown:
            raise InputError(
                f"region {', '.join(map(repr, unknown))} is unknown to this model; it knows {', '.join(known)}"
            )
        return torch.tensor([known[region] for region in regions])

    def add_regions(self, new: Sequence[str]) -> None:
        """Adds regions that start from the mean of those already known: their token or vector, and their statistics.

        Raises:
            InputError: If one is already known.
        """
        twice = [region for region in new if region in self.config.regions]
        if twice:
            raise InputError(f"region {', '.join(twice)} is already known to this model")
        holders: list[tuple[Any, str]] = [
            (self.encoder, "region_tokens"),
            (self.encoder.pool, "region_gains"),
            (self, "region_embed"),
        ]
        for holder, name in holders:
            learned = getattr(holder, name, None)
            if learned is not None:
                with torch.no_grad():
                    added = learned.mean(dim=1, keepdim=True).expand(-1, len(new), -1)
                    setattr(holder, name, nn.Parameter(torch.cat([learned, added], dim=1)))
        for statistics in (self.config.target_statistics or {}).values():
            mean = np.mean(list(statistics.values()), axis=0).tolist()
            statistics.update({region: list(mean) for region in new})
        self.config.regions = [*self.config.regions, *new]

    def statistics(self) -> Tensor:
        """(regions, targets, 2): mean and standard deviation of each target over the training split.

        Raises:
            ValueError: If the configuration holds none.
        """
        if self.config.target_statistics is None:
            raise ValueError("this model's configuration has no target_statistics: it was never trained")
        return torch.tensor(
            [
                [self.config.target_statistics[target][region] for target in self.config.targets]
                for region in self.config.regions
            ],
            dtype=torch.float64,
        )

    def natural_units(self, predictions: Tensor, regions: Sequence[str] | None = None) -> Tensor:
        """Standardised (batch, regions, targets) → the same shape in log10(1 + streams) and in ranks."""
        statistics = self.statistics()
        if regions is not None:
            statistics = statistics[self.region_indices(regions)]
        statistics = statistics.to(predictions.device, predictions.dtype)
        return predictions * statistics[..., 1] + statistics[..., 0]

    def no_weight_decay(self) -> set[str]:
        """Parameters that weight decay leaves alone, as timm's optimizer factory asks."""
        return {f"encoder.{name}" for name in self.encoder.no_weight_decay()} | {"region_embed"}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """timm's layer groups for layer-wise decay: the stem, a group a block, and last what matches neither."""
        return {
            "stem": r"^encoder\.(?:cls_token|dist_token|pos_embed|region_tokens|frequency_embed|patch_embed|stem)",
            "blocks": r"^encoder\.blocks\.(\d+)",
        }

    @classmethod
    def from_pretrained(cls, *arguments: Any, **options: Any) -> Any:
        """transformers' `from_pretrained`, strict: safetensors only, and every weight must be there and fit.

        Raises:
            InputError: If a weight is missing, unknown or of another shape.
        """
        return strictly_loaded(super().from_pretrained, *arguments, **options)


def strictly_loaded(load: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """transformers' `from_pretrained`, given as `load`, which alone would pass over what is missing.

    Raises:
        InputError: If a weight is missing, unknown or of another shape, or a file of weights is no safetensors.
    """
    _check_parts(Path(str(arguments[0])) / "model.safetensors.index.json")
    wants_info = options.pop("output_loading_info", False)
    # A weight of another shape is then reported below with the rest, instead of as an error that names none.
    strict = {"use_safetensors": True, "output_loading_info": True, "ignore_mismatched_sizes": True}
    try:
        model, info = load(*arguments, **{**options, **strict})
    except SafetensorError as error:
        told = str(error).splitlines()[0]
        raise InputError(f"{arguments[0]}: its weights are no whole safetensors file ({told})") from error
    wrong = sorted(str(key) for name in ("missing_keys", "unexpected_keys", "mismatched_keys") for key in info[name])
    if wrong:
        raise InputError(f"{arguments[0]}: these weights are missing, unknown or do not fit: {', '.join(wrong[:6])}")
    return (model, info) if wants_info else model


def _check_parts(index: Path) -> None:
    """Refuses weights in several files of which one is named as a pickle: transformers would read it as such."""
    if not index.is_file():
        return
    try:
        parts = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{index}: cannot be read as a list of weights; copy the folder again") from error
    for part in parts:
        if not str(part).endswith(".safetensors"):
            raise InputError(f"{index}: names {part!r}, which is no safetensors file; nothing else is read")


def encoder_arguments(config: MP3Config) -> dict[str, Any]:
    """`AST`'s plain arguments from a configuration."""
    return {
        "width": config.hidden_size,
        "depth": config.num_hidden_layers,
        "heads": config.num_attention_heads,
        "mlp_ratio": config.mlp_ratio,
        "mels": config.num_mel_bins,
        "frames": config.frames,
        "patch": config.patch_size,
        "stride": config.patch_stride,
        "regions": len(config.regions) if config.region_mode == "token" else 0,
        "position_mode": config.position_mode,
        "position_width": config.position_width,
        "layer_norm_eps": config.layer_norm_eps,
        "qkv_bias": config.qkv_bias,
        "dropout": config.dropout,
        "drop_path": config.drop_path,
        "patch_drop": config.patch_drop,
        "stem_overlap": config.stem_overlap,
        "stem_blocks": config.stem_blocks,
        "pooling": config.pooling,
    }


def head_dropout(config: MP3Config) -> float:
    """Dropout before a head: its own, or that of all other layers."""
    return config.dropout if config.head_dropout is None else config.head_dropout


def mp2_from_encoder(encoder: AST, config: MP3Config) -> MP2Model:
    """An MP2 model around an encoder that was started elsewhere; `config` takes the encoder's sizes.

    Args:
        encoder: From `AST.from_pretrained` or `AST.from_timm`, with as many region tokens as `config` needs.
        config: Everything but the encoder's sizes.
    """
    block = cast(Block, encoder.blocks[0])
    config.hidden_size, config.num_hidden_layers = encoder.width, len(encoder.blocks)
    config.num_attention_heads = block.attn.heads
    config.mlp_ratio = block.mlp.fc1.out_features / encoder.width
    config.patch_size, config.patch_stride = list(encoder.patch), list(encoder.stride)
    config.num_mel_bins, config.layer_norm_eps = encoder.mels, block.norm1.eps
    config.qkv_bias = block.attn.qkv.bias is not None
    model = MP2Model(config)
    model.encoder.load_state_dict(encoder.state_dict())
    return model


AutoConfig.register(MP3Config.model_type, MP3Config)
AutoModel.register(MP3Config, MP2Model)
