"""All that defines the weights of a model: keyword arguments or `config.json` in, a checked `MP3Config` out."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig

from mp3model.files import InputError

# width, depth, heads. micro trains from scratch on a laptop's processor; tiny, small and base are DeiT's and AST's.
SIZES: dict[str, tuple[int, int, int]] = {
    "micro": (128, 4, 4),
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
}
REGION_MODES = ("token", "embedding", "none")
POSITION_MODES = ("sum", "concat")
CRITERIA = {"both": ("total", "debut_rank"), "streams": ("total",), "rank": ("debut_rank",)}

# What transformers itself puts beside a model's own fields when it writes or reads a configuration.
_TRANSFORMERS_KEYS = {
    "_commit_hash",
    "_name_or_path",
    "attn_implementation",
    "experts_implementation",
    "model_type",
    "name_or_path",
    "num_labels",
    "output_attentions",
    "torch_dtype",
    "use_return_dict",
}


class MP3Config(PreTrainedConfig):
    """Front end, encoder, regions and targets of an MP2 or MP3 model.

    Args:
        num_mel_bins: Mel bands of the Kaldi filterbank at 16 kHz.
        frames: Log-mel frames (10 ms each) of one input; positions are resampled for other lengths.
        mel_mean: Mean of the log-mel values, or one a band, subtracted (AudioSet's by default, from the AST paper).
        mel_std: Standard deviation of the log-mel values, or one a band; the difference is divided by twice this.
        hidden_size: Width of a token.
        num_hidden_layers: Transformer blocks.
        num_attention_heads: Heads a block; must divide `hidden_size`.
        mlp_ratio: Width of a block's inner layer over `hidden_size`.
        layer_norm_eps: Epsilon of every layer norm: 1e-12 in AST, 1e-6 in timm's vision transformers.
        qkv_bias: Whether the query, key and value projection has a bias.
        patch_size: (frequency, time) of a patch, in mel bands and frames.
        patch_stride: (frequency, time) between patches; below `patch_size` they overlap.
        position_mode: `sum` adds positions to patches; `concat` gives them `position_width` channels of their own.
        position_width: Channels of a position in `concat` mode; None is a quarter of `hidden_size`.
        region_mode: `token` (a class token a region), `embedding` (added to the pooled state) or `none`.
        regions: What the model knows, in the order of its outputs: ISO 3166 alpha-2 upper case, or GLOBAL.
        criterion: What is regressed: `streams` (the total), `rank` (the debut rank) or `both`.
        target_statistics: target → region → (mean, standard deviation) over the training split; totals in
            log10(1 + streams), debut ranks in ranks.
        dropout: Dropout after the positions, in attention's projection, in the inner layer and before the head.
        drop_path: Stochastic depth of the last block; earlier blocks less, linearly.
        patch_drop: Share of the patches left out at each training step.

    Raises:
        InputError: For an unknown key, an unknown mode or sizes that do not fit; the message names the value.
    """

    model_type = "mp3model"

    num_mel_bins: int = 128
    frames: int = 1024
    mel_mean: float | list[float] = -4.2677393
    mel_std: float | list[float] = 4.5689974
    hidden_size: int = 128
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    mlp_ratio: float = 4.0
    layer_norm_eps: float = 1e-12
    qkv_bias: bool = True
    patch_size: list[int] | tuple[int, int] = (16, 16)
    patch_stride: list[int] | tuple[int, int] = (10, 10)
    position_mode: str = "sum"
    position_width: int | None = None
    region_mode: str = "token"
    regions: list[str] | tuple[str, ...] = ()
    criterion: str = "both"
    target_statistics: dict[str, dict[str, list[float]]] | None = None
    dropout: float = 0.0
    drop_path: float = 0.0
    patch_drop: float = 0.0

    def __post_init__(self, **kwargs: Any) -> None:
        unknown = sorted(set(kwargs) - _TRANSFORMERS_KEYS)
        if unknown:
            known = ", ".join(name for name in type(self).__annotations__ if not name.startswith("_"))
            raise InputError(f"MP3Config does not know {', '.join(unknown)}; it knows {known}")
        super().__post_init__(**kwargs)
        self.patch_size = [int(size) for size in self.patch_size]
        self.patch_stride = [int(step) for step in self.patch_stride]
        self.regions = list(self.regions)
        _one_of("position_mode", self.position_mode, POSITION_MODES)
        _one_of("region_mode", self.region_mode, REGION_MODES)
        _one_of("criterion", self.criterion, tuple(CRITERIA))
        if self.hidden_size % self.num_attention_heads:
            raise InputError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}"
            )
        for axis, patch, stride, extent in zip(
            ("frequency", "time"),
            self.patch_size,
            self.patch_stride,
            (self.num_mel_bins, self.frames),
            strict=True,
        ):
            if not 1 <= patch <= extent or stride < 1:
                raise InputError(f"{axis}: a patch of {patch} at stride {stride} does not fit {extent} values")
        if len(set(self.regions)) != len(self.regions):
            raise InputError(f"regions {self.regions} name one region twice")

    @property
    def targets(self) -> tuple[str, ...]:
        """The names of what is regressed, in the order of the head's outputs."""
        return CRITERIA[self.criterion]

    @property
    def samples(self) -> int:
        """Samples at 16 kHz that give exactly `frames` frames of 25 ms every 10 ms."""
        return 400 + 160 * (self.frames - 1)


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"{name} is {value!r}; it must be one of {', '.join(choices)}")
