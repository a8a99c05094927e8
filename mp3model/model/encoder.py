"""Log-mel spectrograms in, tokens and one state a region out: the Audio Spectrogram Transformer with region tokens.

Parameters follow timm's names (`patch_embed.proj`, `blocks.0.attn.qkv`, `norm`, …), so that timm's optimizer groups,
layer-wise decay and checkpoints fit. AST: Gong, Chung, Glass 2021, arXiv 2104.01778.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from timm.layers import DropPath, Mlp, PatchDropout, resample_abs_pos_embed, trunc_normal_
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from mp3model.files import InputError
from mp3model.model.checkpoints import PREFIX_TOKENS, read_ast, read_image_transformer
from mp3model.model.products import attend, multiplied


def grid_of(frames: int, mels: int, patch: Sequence[int], stride: Sequence[int]) -> tuple[int, int]:
    """(frequency, time) patches of a spectrogram; `patch` and `stride` are (frequency, time)."""
    return (mels - patch[0]) // stride[0] + 1, (frames - patch[1]) // stride[1] + 1


def resample_positions(
    positions: Tensor,
    new_grid: tuple[int, int],
    old_grid: tuple[int, int],
    prefix_tokens: int = PREFIX_TOKENS,
    cut: bool = False,
) -> Tensor:
    """Positions of one patch grid for another: (1, prefix + old patches, width) → (1, prefix + new patches, width).

    Args:
        positions: Prefix tokens' positions, then the patches', frequency first.
        new_grid: (frequency, time) patches wanted.
        old_grid: (frequency, time) patches `positions` was learnt on.
        prefix_tokens: Positions at the front that belong to no patch; they stay as they are.
        cut: Along an axis that gets shorter keep the middle positions, as the AST paper does with an image
            transformer's; otherwise every axis is interpolated (bicubic, anti-aliased).
    """
    if new_grid == old_grid:
        return positions
    if cut:
        kept = tuple(min(new, old) for new, old in zip(new_grid, old_grid, strict=True))
        offsets = tuple((old - keep) // 2 for old, keep in zip(old_grid, kept, strict=True))
        prefix, patches = positions[:, :prefix_tokens], positions[:, prefix_tokens:]
        patches = patches.unflatten(1, old_grid)
        patches = patches[:, offsets[0] : offsets[0] + kept[0], offsets[1] : offsets[1] + kept[1]]
        positions, old_grid = torch.cat([prefix, patches.flatten(1, 2)], dim=1), (kept[0], kept[1])
    return resample_abs_pos_embed(
        positions, new_size=list(new_grid), old_size=list(old_grid), num_prefix_tokens=prefix_tokens
    )


def sine_positions(grid: tuple[int, int], width: int) -> Tensor:
    """Where learned positions start: (1, patches, width), sines and cosines of each patch's place (amplitude 0.3).

    Half of the channels speak of time and half of frequency, as in MAE (He et al. 2022); all of time if the patches
    span every band. Places at one distance are then a rotation apart, so that a head can look a beat back from its
    first step instead of learning what "a beat back" is from every place alone.
    """
    axes = []
    for extent, channels in (
        ((grid[0], width // 2), (grid[1], width - width // 2)) if grid[0] > 1 else ((grid[1], width),)
    ):
        pairs = (channels + 1) // 2
        angles = torch.arange(extent)[:, None] * 10_000.0 ** (-torch.arange(pairs) / pairs)
        axes.append(torch.cat([angles.sin(), angles.cos()], dim=1)[:, :channels])
    if grid[0] == 1:
        return 0.3 * axes[0][None]
    rows, columns = axes
    both = [rows[:, None].expand(-1, grid[1], -1), columns[None].expand(grid[0], -1, -1)]
    return 0.3 * torch.cat(both, dim=2).flatten(0, 1)[None]


class PatchEmbed(nn.Module):
    """Cuts a spectrogram into overlapping patches and projects each linearly."""

    def __init__(self, width: int, patch: Sequence[int], stride: Sequence[int]) -> None:
        super().__init__()
        self.proj = nn.Conv2d(1, width, kernel_size=(patch[0], patch[1]), stride=(stride[0], stride[1]))

    def forward(self, mel: Tensor) -> Tensor:
        """(batch, frames, mels) → (batch, width, frequency patches, time patches)."""
        return self.proj(mel.transpose(1, 2).unsqueeze(1))


class OverlappingPatchEmbed(nn.Module):
    """Looks several times a patch along frequency and joins the looks: two convolutions instead of one projection.

    A chord a few bands higher looks the same to the first convolution; side by side, patches would have to learn it
    at every place anew. After Xiao et al. 2021, arXiv 2106.14881, early convolutions.
    """

    def __init__(self, width: int, patch: Sequence[int], stride: Sequence[int], overlap: int) -> None:
        super().__init__()
        looks, step = width // 2, stride[0] // overlap
        # As many looks as `overlap` times the patches a projection would cut; what the padding adds is cut off.
        self.overlap, self.padding = overlap, (patch[0] - step + 1) // 2
        self.proj = nn.Conv2d(1, looks, (patch[0], patch[1]), (step, stride[1]), padding=(self.padding, 0))
        self.norm = nn.GroupNorm(groups_of(looks), looks)
        self.join = nn.Conv2d(looks, width, (overlap, 3), (overlap, 1), padding=(0, 1))

    def forward(self, mel: Tensor) -> Tensor:
        """(batch, frames, mels) → (batch, width, frequency patches, time patches)."""
        # Channels last: a processor's convolutions are then twice as fast.
        looks = self.proj(mel.transpose(1, 2).unsqueeze(1)).contiguous(memory_format=torch.channels_last)
        return self.join(functional.gelu(self.norm(looks)))


class ConvolutionBlock(nn.Module):
    """Residual convolution over a patch and its eight neighbours, for what is the same wherever it happens."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups_of(width), width)
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.drop = nn.Dropout(dropout)
        self.proj = nn.Conv2d(width, width, 1)

    def forward(self, patches: Tensor) -> Tensor:
        """(batch, width, frequency patches, time patches) → the same shape."""
        return patches + self.proj(self.drop(functional.gelu(self.conv(self.norm(patches)))))


class StatisticsPooling(nn.Module):
    """Mean and standard deviation of every channel over the patches, weighed by each region in its own way.

    How much of something there is and how much it changes: attention's average holds the first alone. It reads the
    patches before positions, dropped patches and blocks, so that what convolutions alone can learn is learnt as such.

    Args:
        channels: Channels of a patch.
        width: Width of a state.
        regions: Region tokens beside it; with none, one state that stands for all.
    """

    def __init__(self, channels: int, width: int, regions: int) -> None:
        super().__init__()
        self.fc = nn.Linear(2 * channels, width)
        self.region_gains = nn.Parameter(torch.empty(1, regions, width)) if regions else None

    def forward(self, patches: Tensor, regions: Tensor | None = None) -> Tensor:
        """(batch, channels, frequency, time) → (batch, regions, width); `regions` are the indices asked for."""
        deviation = (patches.var(dim=(2, 3), correction=0) + 1e-5).sqrt()
        state = self.fc(torch.cat([patches.mean(dim=(2, 3)), deviation], dim=1))[:, None]
        if self.region_gains is None:
            return state
        return state * (self.region_gains if regions is None else self.region_gains[:, regions])


def groups_of(width: int) -> int:
    """Groups of a group norm: eight, or fewer where the width does not divide by that."""
    return math.gcd(8, width)


class Attention(nn.Module):
    """Self-attention of the stream, read by region tokens that the stream never reads."""

    def __init__(self, width: int, heads: int, qkv_bias: bool, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.proj = nn.Linear(width, width)
        self.proj_drop = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, readers: int = 0) -> Tensor:
        """(batch, stream + readers, width) → the same shape; the last `readers` tokens only read.

        The stream attends to itself with no mask, whatever the readers; each reader attends to the stream and to
        itself, so that its state is the same alone or beside others.
        """
        batch, length, width = tokens.shape
        query, key, value = multiplied(tokens, self.qkv).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if readers == 0:
            mixed = attend(query, key, value)
        else:
            stream = length - readers
            mask = torch.ones(readers, length, dtype=torch.bool, device=tokens.device)
            mask[:, stream:] = torch.eye(readers, dtype=torch.bool, device=tokens.device)
            mixed = torch.cat(
                [
                    attend(query[:, :, :stream], key[:, :, :stream], value[:, :, :stream]),
                    functional.scaled_dot_product_attention(query[:, :, stream:], key, value, attn_mask=mask),
                ],
                dim=2,
            )
        return self.proj_drop(multiplied(mixed.transpose(1, 2).reshape(batch, length, width), self.proj))


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_ratio: float,
        qkv_bias: bool,
        layer_norm_eps: float,
        dropout: float,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=layer_norm_eps)
        self.attn = Attention(width, heads, qkv_bias, dropout)
        self.drop_path1 = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(width, eps=layer_norm_eps)
        self.mlp = Mlp(width, int(width * mlp_ratio), drop=dropout)
        self.drop_path2 = DropPath(drop_path)

    def forward(self, tokens: Tensor, readers: int = 0) -> Tensor:
        """(batch, stream + readers, width) → the same shape."""
        tokens = tokens + self.drop_path1(self.attn(self.norm1(tokens), readers))
        inner = multiplied(self.norm2(tokens), self.mlp.fc1, "gelu")
        return tokens + self.drop_path2(self.mlp.drop2(multiplied(self.mlp.drop1(inner), self.mlp.fc2)))


class AST(nn.Module):
    """Audio Spectrogram Transformer whose region tokens read the patches and are read by none.

    Args:
        width: Width of a token.
        depth: Blocks.
        heads: Attention heads a block.
        mlp_ratio: Width of a block's inner layer over `width`.
        mels: Mel bands of the input.
        frames: Frames of the input that positions are learnt for; other lengths resample them.
        patch: (frequency, time) of a patch, in bands and frames.
        stride: (frequency, time) between patches.
        regions: How many region tokens.
        position_mode: `sum` or `concat`.
        position_width: Channels of a position in `concat` mode; None is a quarter of `width`.
        layer_norm_eps: Epsilon of the layer norms, 1e-12 in AST.
        qkv_bias: Whether queries, keys and values have a bias.
        dropout: After the positions, in attention's projection and in the inner layer.
        drop_path: Stochastic depth of the last block, linearly less before it.
        patch_drop: Share of the patches left out while training.
        stem_overlap: Looks a patch along frequency, see `OverlappingPatchEmbed`; 1 is AST's projection.
        stem_blocks: Residual convolutions over the grid of patches before the blocks; 0 is AST.
        pooling: `tokens`, or `statistics`: the patches' mean and deviation are added to the regions' states.

    The last three are what a start from scratch on a few thousand songs needs; a checkpoint of AST has none of them.
    """

    def __init__(
        self,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        *,
        mlp_ratio: float = 4.0,
        mels: int = 128,
        frames: int = 1024,
        patch: Sequence[int] = (16, 16),
        stride: Sequence[int] = (10, 10),
        regions: int = 0,
        position_mode: str = "sum",
        position_width: int | None = None,
        layer_norm_eps: float = 1e-12,
        qkv_bias: bool = True,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        patch_drop: float = 0.0,
        stem_overlap: int = 1,
        stem_blocks: int = 0,
        pooling: str = "tokens",
    ) -> None:
        super().__init__()
        if pooling not in ("tokens", "statistics"):
            raise ValueError(f"pooling is {pooling!r}; it must be tokens or statistics")
        if stem_overlap < 1 or stride[0] % stem_overlap or (stem_overlap > 1 and list(patch) != list(stride)):
            raise ValueError(
                f"stem_overlap {stem_overlap} needs patches side by side whose bands it divides; "
                f"the patches are {patch[0]} x {patch[1]} at strides {stride[0]} x {stride[1]}"
            )
        if position_mode not in ("sum", "concat"):
            raise ValueError(f"position_mode is {position_mode!r}; it must be sum or concat")
        self.width, self.position_mode = width, position_mode
        self.patch, self.stride, self.mels = (patch[0], patch[1]), (stride[0], stride[1]), mels
        self.grid = grid_of(frames, mels, patch, stride)
        channels = width if position_mode == "sum" else (position_width or width // 4)
        content = width if position_mode == "sum" else width - channels
        self.patch_embed = (
            PatchEmbed(content, patch, stride)
            if stem_overlap == 1
            else OverlappingPatchEmbed(content, patch, stride, stem_overlap)
        )
        # A convolution cannot tell where it is: what a band means to it needs a mark.
        self.frequency_embed = nn.Parameter(torch.empty(1, content, self.grid[0], 1)) if stem_blocks else None
        self.stem = nn.Sequential(*(ConvolutionBlock(content, dropout) for _ in range(stem_blocks)))
        self.pool = StatisticsPooling(content, width, regions) if pooling == "statistics" else None
        self.cls_token = nn.Parameter(torch.empty(1, 1, content))
        self.dist_token = nn.Parameter(torch.empty(1, 1, content))
        self.pos_embed = nn.Parameter(torch.empty(1, PREFIX_TOKENS + self.grid[0] * self.grid[1], channels))
        self.region_tokens = nn.Parameter(torch.empty(1, regions, width)) if regions else None
        self.pos_drop = nn.Dropout(dropout)
        self.patch_drop = PatchDropout(patch_drop, num_prefix_tokens=PREFIX_TOKENS)
        rates = torch.linspace(0.0, drop_path, depth, device="cpu").tolist()
        self.blocks = nn.ModuleList(
            Block(width, heads, mlp_ratio, qkv_bias, layer_norm_eps, dropout, rate) for rate in rates
        )
        self.norm = nn.LayerNorm(width, eps=layer_norm_eps)
        self.gradient_checkpointing = False
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Truncated normal of standard deviation .02 for weights and tokens, as in ViT and DeiT; biases zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
            elif isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=(3 * module.weight[0].numel()) ** -0.5)
            if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
                nn.init.zeros_(module.bias)
        # A patch of 16 × 16 normalised log-mels has a norm near 8, so .02 a weight starts its token small beside a
        # position; the fan-in rule of the convolution keeps both in proportion for every patch size.
        nn.init.normal_(self.patch_embed.proj.weight, std=(self.patch[0] * self.patch[1]) ** -0.5)
        for parameter in (
            self.cls_token,
            self.dist_token,
            self.pos_embed,
            self.region_tokens,
            self.frequency_embed,
        ):
            if parameter is not None:
                trunc_normal_(parameter, std=0.02)
        with torch.no_grad():
            self.pos_embed[:, PREFIX_TOKENS:] += sine_positions(self.grid, self.pos_embed.shape[2])
        if self.pool is not None:
            nn.init.normal_(self.pool.fc.weight, std=self.pool.fc.in_features**-0.5)
            if self.pool.region_gains is not None:
                # Apart from the start: equal gains would have to part before a region's taste can.
                nn.init.normal_(self.pool.region_gains, mean=1.0, std=0.5)

    def forward(self, mel: Tensor, regions: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(batch, frames, mels) → tokens (batch, 2 + patches, width) and states (batch, regions, width).

        Without region tokens there is no state, or with `statistics` one that stands for all regions.

        Args:
            mel: Normalised log-mel spectrograms.
            regions: (asked,) indices of the regions wanted; None is all of them, in their own order.
        """
        patches = self._patches(mel)
        stream = self._stream(patches)
        readers = 0
        if self.region_tokens is not None:
            asked = self.region_tokens if regions is None else self.region_tokens[:, regions]
            readers = asked.shape[1]
            stream = torch.cat([stream, asked.expand(stream.shape[0], -1, -1).to(stream.dtype)], dim=1)
        stream = self.norm(self._through_blocks(stream, readers))
        split = stream.shape[1] - readers
        tokens, states = stream[:, :split], stream[:, split:]
        if self.pool is not None:
            # Without region tokens the pooled state is AST's, the mean of the class and distillation tokens.
            pooled = states if readers else tokens[:, :PREFIX_TOKENS].mean(dim=1, keepdim=True)
            states = pooled + self.pool(patches, regions)
        return tokens, states

    def forward_features(self, mel: Tensor) -> Tensor:
        """(batch, frames, mels) → (batch, 2 + patches, width) after the final norm, no region tokens.

        The order is that of transformers' `ASTModel`: class, distillation, then patches, all times of the lowest
        frequency first.
        """
        return self.norm(self._through_blocks(self._embed(mel)))

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """timm's switch: keep only what enters each block for the gradients, and compute the rest again.

        A third more arithmetic a step for a fraction of the memory; the gradients are the same, dropout included.
        """
        self.gradient_checkpointing = enable

    def compute_in(self, dtype: torch.dtype) -> None:
        """Keeps and multiplies the weights in another precision; what comes in is rounded, what comes out float32."""
        self.to(dtype)
        self.register_forward_pre_hook(lambda _, given: (given[0].to(dtype), *given[1:]))
        self.register_forward_hook(lambda *call: tuple(part.float() for part in call[2]))

    def _through_blocks(self, stream: Tensor, readers: int = 0) -> Tensor:
        """(batch, tokens, width) → the same shape, before the final norm."""
        for block in self.blocks:
            if self.gradient_checkpointing and self.training:
                stream = checkpoint(block, stream, readers, use_reentrant=False)
            else:
                stream = block(stream, readers)
        return stream

    def _embed(self, mel: Tensor) -> Tensor:
        """(batch, frames, mels) → (batch, 2 + patches, width), with positions."""
        return self._stream(self._patches(mel))

    def _patches(self, mel: Tensor) -> Tensor:
        """(batch, frames, mels) → (batch, channels, frequency patches, time patches), after the convolutions."""
        if mel.ndim != 3 or mel.shape[2] != self.mels or mel.shape[1] < self.patch[1]:
            raise ValueError(
                f"spectrograms have shape {tuple(mel.shape)}; (batch, at least {self.patch[1]} frames, "
                f"{self.mels} mels) is needed"
            )
        patches = self.patch_embed(mel)
        if self.frequency_embed is None:
            return patches
        return self.stem((patches + self.frequency_embed).contiguous(memory_format=torch.channels_last))

    def _stream(self, patches: Tensor) -> Tensor:
        """(batch, channels, frequency patches, time patches) → (batch, 2 + patches, width), with positions."""
        grid = (patches.shape[2], patches.shape[3])
        positions = resample_positions(self.pos_embed, grid, self.grid)
        prefix = torch.cat([self.cls_token, self.dist_token], dim=1).expand(patches.shape[0], -1, -1)
        tokens = torch.cat([prefix.to(patches.dtype), patches.flatten(2).transpose(1, 2)], dim=1)
        if self.position_mode == "sum":
            tokens = tokens + positions
        else:
            tokens = torch.cat([tokens, positions.expand(patches.shape[0], -1, -1).to(tokens.dtype)], dim=2)
        return self.patch_drop(self.pos_drop(tokens))

    def no_weight_decay(self) -> set[str]:
        """Parameters that weight decay leaves alone, as in timm: positions and learned tokens."""
        return {"pos_embed", "cls_token", "dist_token", "region_tokens", "frequency_embed", "pool.region_gains"}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """timm's layer groups: the stem, a group a block, and last the final norm, which matches neither."""
        return {
            "stem": r"^(?:cls_token|dist_token|pos_embed|region_tokens|frequency_embed|patch_embed|stem)",
            "blocks": r"^blocks\.(\d+)",
        }

    @classmethod
    def from_pretrained(cls, name_or_folder: str | Path, **options: Any) -> AST:
        """Loads an AST checkpoint in transformers' format, from a folder or by its name on the hub.

        Sizes, strides and the layer norms' epsilon come from the checkpoint's `config.json`; both the key names of
        transformers 4 and those of transformers 5 are read, with or without a classification head (left out).

        Args:
            name_or_folder: For instance `MIT/ast-finetuned-audioset-10-10-0.4593`.
            **options: What a checkpoint does not fix: `regions`, `frames`, `dropout`, `drop_path`, `patch_drop`.

        Raises:
            InputError: If a file is missing, is no AST, or does not fit; nothing is loaded in part.
        """
        sizes, state = read_ast(name_or_folder)
        frames = options.pop("frames", sizes["frames"])
        encoder = cls(**{**sizes, "frames": frames}, **options)
        learnt = grid_of(sizes["frames"], sizes["mels"], sizes["patch"], sizes["stride"])
        encoder.load_start(state, learnt, str(name_or_folder))
        return encoder

    @classmethod
    def from_timm(
        cls,
        name: str,
        weights: str | Path | None = None,
        *,
        frames: int = 1024,
        mels: int = 128,
        stride: Sequence[int] = (10, 10),
        **options: Any,
    ) -> AST:
        """Starts from an image transformer of timm, as the AST paper does from DeiT.

        Patch weights are summed over RGB; positions are cut where the spectrogram's grid is shorter and interpolated
        where it is longer; a model without a distillation token lends its class token twice.

        Args:
            name: timm's name, for instance `deit_base_distilled_patch16_384`.
            weights: A safetensors file to read instead of timm's download.
            frames: Frames of the spectrograms to come.
            mels: Mel bands of the spectrograms to come.
            stride: (frequency, time) between patches.
            **options: `regions`, `dropout`, `drop_path`, `patch_drop`.

        Raises:
            InputError: If timm does not know the name, cannot load it, or it is no plain vision transformer.
        """
        image, state = read_image_transformer(name, weights)
        kernel = state["patch_embed.proj.weight"].shape[2:]
        encoder = cls(
            width=image.embed_dim,
            depth=len(image.blocks),
            heads=image.blocks[0].attn.num_heads,
            mlp_ratio=state["blocks.0.mlp.fc1.bias"].numel() / image.embed_dim,
            mels=mels,
            frames=frames,
            patch=(int(kernel[0]), int(kernel[1])),
            stride=stride,
            layer_norm_eps=image.norm.eps,
            qkv_bias="blocks.0.attn.qkv.bias" in state,
            **options,
        )
        encoder.load_start(state, tuple(image.patch_embed.grid_size), name, cut=True)
        return encoder

    def load_start(self, state: Mapping[str, Tensor], grid: tuple[int, int], source: str, cut: bool = False) -> None:
        """Takes over another encoder's weights, with positions resampled from `grid`; region tokens start anew.

        A region token starts at the class token with its position, plus noise of standard deviation .02 that lets
        regions part: the class token is what a trained encoder already reads its patches with.

        Raises:
            InputError: If a weight is missing, superfluous or of another shape.
        """
        state = {**state, "pos_embed": resample_positions(state["pos_embed"], self.grid, grid, cut=cut)}
        own = {key: value for key, value in self.state_dict().items() if key != "region_tokens"}
        wrong = sorted(set(own) ^ set(state)) + [
            f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
            for key in sorted(set(own) & set(state))
            if own[key].shape != state[key].shape
        ]
        if wrong:
            raise InputError(f"{source}: these weights are missing, unknown or do not fit: {', '.join(wrong[:6])}")
        self.load_state_dict(dict(state), strict=False)
        if self.region_tokens is not None:
            with torch.no_grad():
                trunc_normal_(self.region_tokens, std=0.02)
                self.region_tokens.add_(self.cls_token + self.pos_embed[:, :1])
