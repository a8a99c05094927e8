"""All that defines the weights of a model: keyword arguments or `config.json` in, a checked `MP3Config` out."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig

from mp3model.files import InputError

# width, depth, heads. nano and micro train from scratch on a laptop's processor; tiny, small and base are DeiT's and
# AST's.
SIZES: dict[str, tuple[int, int, int]] = {
    "nano": (96, 1, 4),
    "micro": (128, 4, 4),
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
}
REGION_MODES = ("token", "embedding", "none")
POSITION_MODES = ("sum", "concat")
POOLINGS = ("tokens", "statistics")
ENCODERS = ("ast", "descriptors", "both", "none")
AUDIO_CONTEXTS = ("prediction", "state", "tokens")
LIKELIHOODS = ("autoregressive", "joint")
NULLS = ("censored", "masked", "zero")
COVARIATES = ("state", "artist", "regions", "release", "past")
CRITERIA = {"both": ("total", "debut_rank"), "streams": ("total",), "rank": ("debut_rank",)}
CHARTED = "charted"

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
        charted: Whether MP2 learns beside it if a released song charts at all, so that it hears songs that do not.
        target_statistics: target → region → (mean, standard deviation) over the training split; totals in
            log10(1 + streams), debut ranks in ranks.
        dropout: Dropout after the positions, in attention's projection, in the inner layer and before the head.
        drop_path: Stochastic depth of the last block; earlier blocks less, linearly.
        patch_drop: Share of the patches left out at each training step.
        encoder: What an MP3 model hears: `ast` (audio), `descriptors` (the `x_*` columns named), `both` or `none`.
        descriptors: Names of the `x_*` columns, standardised with `descriptor_statistics`.
        descriptor_statistics: name → (mean, standard deviation) over the training split.
        frequency: Periods of a curve: `W` weeks or `D` days.
        horizon: Periods of a curve from debut on.
        likelihood: `autoregressive` (a mixture of normals a period, given those before) or `joint` (of whole curves).
        components: Normals of the mixture, or curves.
        nulls: What a period below the chart is in the likelihood: `censored` (less than the lowest), `masked`
            (unknown) or `zero` (a tenth of the lowest, since zero has no logarithm).
        members: Decoders that an MP3 model keeps, each writing its share of the paths.
        decoder_width: Width of the curve decoder's tokens.
        decoder_layers: Its blocks.
        decoder_heads: Heads of each attention; must divide `decoder_width`.
        decoder_position_mode: `sum` or `concat`, as `position_mode`.
        decoder_dropout: Dropout in its blocks.
        decoder_region_mode: `token`, `embedding` or `none`: how the decoder is told the region.
        audio_context: What a decoder hears: `prediction`, what MP2 says of the row's region; `state`, also the
            encoder's state of that region; `tokens`, also all class tokens and stretches of time, to attend to. The
            more it hears, the more songs it takes to keep it from learning them by heart.
        audio_segments: Stretches of time whose mean patch token `listen` gives, beside the class tokens.
        covariates: Groups of inputs besides audio, of state, artist, regions, release, past (what the song did in
            the region before its first period asked for, for songs that run or return).
        covariate_drop: Probability with which each group, and the audio, is absent for a row in training.
        region_drop: Probability with which a row's region is unknown in training.
        region_states: region → date, floor and values of its last charts in the data (`RegionStates.last`).
        scales: region → unit of scale in streams where no chart gives a floor.
        rank_curves: region → streams by rank on its last chart.
        lowest_walks: Ways that the charts' lowest may go, which the model keeps beside its weights; a path takes one.
        shared_luck: Correlation between regions of what is left to chance, in the first and in later periods.
        calibration: The map applied to paths (`PathCalibration.to_dict`), or None.
        pool: Observed periods → weight of the boosted trees that are stored with the model, or None without them.
        stem_overlap: Looks a patch along frequency before they are joined; 1 is AST's projection.
        stem_blocks: Residual convolutions over the grid of patches before the transformer's blocks; 0 is AST.
        pooling: `tokens` (region tokens alone) or `statistics` (with the patches' mean and deviation).
        head_dropout: Dropout before the head; None is `dropout`.

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
    charted: bool = False
    target_statistics: dict[str, dict[str, list[float]]] | None = None
    dropout: float = 0.0
    drop_path: float = 0.0
    patch_drop: float = 0.0
    stem_overlap: int = 1
    stem_blocks: int = 0
    pooling: str = "tokens"
    head_dropout: float | None = None

    encoder: str = "ast"
    descriptors: list[str] | tuple[str, ...] = ()
    descriptor_statistics: dict[str, list[float]] | None = None
    frequency: str = "W"
    horizon: int = 12
    likelihood: str = "autoregressive"
    components: int = 4
    nulls: str = "censored"
    members: int = 1
    decoder_width: int = 64
    decoder_layers: int = 2
    decoder_heads: int = 4
    decoder_position_mode: str = "sum"
    decoder_dropout: float = 0.0
    decoder_region_mode: str = "token"
    audio_context: str = "tokens"
    audio_segments: int = 8
    covariates: list[str] | tuple[str, ...] = ("state", "artist", "regions")
    covariate_drop: float = 0.1
    region_drop: float = 0.05
    region_states: dict[str, Any] | None = None
    scales: dict[str, float] | None = None
    rank_curves: dict[str, Any] | None = None
    lowest_walks: int = 0
    shared_luck: list[float] | tuple[float, float] = (0.0, 0.0)
    calibration: dict[str, Any] | None = None
    pool: dict[str, float] | None = None

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
        _one_of("pooling", self.pooling, POOLINGS)
        _one_of("criterion", self.criterion, tuple(CRITERIA))
        _one_of("encoder", self.encoder, ENCODERS)
        _one_of("audio_context", self.audio_context, AUDIO_CONTEXTS)
        _one_of("frequency", self.frequency, ("W", "D"))
        _one_of("nulls", self.nulls, NULLS)
        _one_of("likelihood", self.likelihood, LIKELIHOODS)
        _one_of("decoder_position_mode", self.decoder_position_mode, POSITION_MODES)
        _one_of("decoder_region_mode", self.decoder_region_mode, REGION_MODES)
        self.descriptors, self.covariates = list(self.descriptors), list(self.covariates)
        self.shared_luck = list(self.shared_luck)
        for group in self.covariates:
            _one_of("covariates", group, COVARIATES)
        if self.members < 1:
            raise InputError(f"members is {self.members}; it must be 1 or more")
        if self.decoder_width % (4 * self.decoder_heads):
            raise InputError(
                f"decoder_width {self.decoder_width} is not a multiple of 4 · decoder_heads {self.decoder_heads}"
            )
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
        if self.stem_blocks < 0:
            raise InputError(f"stem_blocks is {self.stem_blocks}; it must not be negative")
        if self.stem_overlap < 1 or self.patch_stride[0] % self.stem_overlap:
            raise InputError(
                f"stem_overlap {self.stem_overlap} does not divide a stride of {self.patch_stride[0]} bands"
            )
        if self.stem_overlap > 1 and self.patch_size != self.patch_stride:
            raise InputError(
                f"stem_overlap {self.stem_overlap} needs patches side by side; "
                f"patch_size is {self.patch_size} and patch_stride {self.patch_stride}"
            )
        if len(set(self.regions)) != len(self.regions):
            raise InputError(f"regions {self.regions} name one region twice")

    @classmethod
    def fields(cls) -> set[str]:
        """Names of what defines a model, without what transformers keeps beside it."""
        return {name for name in cls.__annotations__ if not name.startswith("_")} - {"model_type"}

    @property
    def targets(self) -> tuple[str, ...]:
        """The names of what is regressed, in the order of the head's outputs."""
        return CRITERIA[self.criterion] + ((CHARTED,) if self.charted else ())

    @property
    def samples(self) -> int:
        """Samples at 16 kHz that give exactly `frames` frames of 25 ms every 10 ms."""
        return 400 + 160 * (self.frames - 1)


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"{name} is {value!r}; it must be one of {', '.join(choices)}")
