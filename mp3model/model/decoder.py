"""Context tokens and the curve so far in, a state for every period out: the transformer that writes stream curves."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

POSITION_FEATURES = 16


def period_positions(periods: Tensor, features: int = POSITION_FEATURES) -> Tensor:
    """Release-relative time of each period: (…) → (…, features).

    Sines of log(1 + period): the first weeks lie far apart and late ones close together, and a curve longer than any
    seen in training still has positions of its own.
    """
    angle = torch.log1p(periods.to(torch.float32))[..., None] * torch.exp(
        torch.linspace(0, math.log(12.0), features // 2, device=periods.device)
    )
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


@dataclass
class Cache:
    """What the decoder has computed so far: keys and values of the context, and of the periods written."""

    context: list[tuple[Tensor, Tensor]]
    mask: Tensor
    written: list[tuple[Tensor, Tensor] | None]


class DecoderBlock(nn.Module):
    """Pre-norm block: periods attend to earlier periods, then to the context, then each for itself.

    Args:
        width: Of a token.
        heads: Of both attentions.
        dropout: On what each part adds.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.mixed = nn.Linear(width, width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.looked = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def _heads(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(-1, (self.heads, -1)).transpose(-3, -2)

    def context(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(n, tokens, width) → keys and values (n, heads, tokens, width / heads), the same for every path."""
        key, value = self.key_value(tokens).chunk(2, dim=-1)
        return self._heads(key), self._heads(value)

    def forward(self, stream: Tensor, key_value: tuple[Tensor, Tensor], mask: Tensor, causal: bool) -> Tensor:
        """(n, periods, width), context keys and values, mask (n, 1, 1, tokens) → the shape of `stream`."""
        query, key, value = (self._heads(part) for part in self.qkv(self.norm1(stream)).chunk(3, dim=-1))
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=causal)
        stream = stream + self.dropout(self.mixed(mixed.transpose(1, 2).flatten(2)))
        query = self._heads(self.query(self.norm2(stream)))
        looked = functional.scaled_dot_product_attention(query, *key_value, attn_mask=mask)
        stream = stream + self.dropout(self.looked(looked.transpose(1, 2).flatten(2)))
        return stream + self.dropout(self.mlp(self.norm3(stream)))

    def step(
        self,
        stream: Tensor,
        key_value: tuple[Tensor, Tensor],
        mask: Tensor,
        written: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """One period of every path: (n, paths, width) → the same shape, and keys and values written so far.

        `written` are (n, paths, heads, periods, width / heads); a cache of one path serves many.
        """
        n, paths, _ = stream.shape
        query, key, value = (
            part.unflatten(-1, (self.heads, -1))[..., None, :] for part in self.qkv(self.norm1(stream)).chunk(3, dim=-1)
        )
        if written is not None:
            key = torch.cat([written[0].expand(n, paths, -1, -1, -1), key], dim=3)
            value = torch.cat([written[1].expand(n, paths, -1, -1, -1), value], dim=3)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        stream = stream + self.mixed(mixed.squeeze(3).flatten(2))
        # Paths stand where periods stand in `forward`: the context is the same for all, only the queries differ.
        query = self._heads(self.query(self.norm2(stream)))
        looked = functional.scaled_dot_product_attention(query, *key_value, attn_mask=mask)
        stream = stream + self.looked(looked.transpose(1, 2).flatten(2))
        return stream + self.mlp(self.norm3(stream)), (key, value)


class CurveDecoder(nn.Module):
    """A transformer over the periods of a curve.

    What stands at period t is the outcome of period t − 1, the calendar and the position of t, and the row's summary.

    Args:
        width: Of a token.
        layers: Blocks.
        heads: Of every attention.
        calendar: Features of a period's calendar.
        position_mode: `sum` adds positions; `concat` gives them a quarter of the width of their own.
        causal: Whether a period may look only at earlier ones.
        dropout: In every block.
    """

    # Start, on the chart, below it, unknown.
    FLAGS = 4

    def __init__(
        self,
        width: int,
        layers: int,
        heads: int,
        calendar: int,
        position_mode: str = "sum",
        causal: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.causal, self.position_mode = causal, position_mode
        own = width // 4 if position_mode == "concat" else width
        self.position = nn.Linear(POSITION_FEATURES, own)
        self.calendar = nn.Linear(calendar, width - own if position_mode == "concat" else width)
        self.outcome = nn.Sequential(
            nn.Linear(1 + self.FLAGS, width),
            nn.GELU(),
            nn.Linear(width, width - own if position_mode == "concat" else width),
        )
        self.blocks = nn.ModuleList(DecoderBlock(width, heads, dropout) for _ in range(layers))

    def _blocks(self) -> list[DecoderBlock]:
        return cast(list[DecoderBlock], list(self.blocks))

    def embed(self, value: Tensor, flag: Tensor, calendar: Tensor, periods: Tensor, summary: Tensor) -> Tensor:
        """Values, flags and periods (…, t), calendar (…, t, C), summary (…, 1, width) → tokens (…, t, width)."""
        outcome = torch.cat([value[..., None], functional.one_hot(flag, self.FLAGS).to(value.dtype)], dim=-1)
        content = self.outcome(outcome) + self.calendar(calendar)
        position = self.position(period_positions(periods)).expand(*content.shape[:-1], -1)
        merged = torch.cat([content, position], dim=-1) if self.position_mode == "concat" else content + position
        return merged + summary

    def forward(self, stream: Tensor, context: Tensor, known: Tensor) -> Tensor:
        """(n, periods, width), context (n, tokens, width), known (n, tokens) bool → states (n, periods, width)."""
        mask = known[:, None, None, :]
        for block in self._blocks():
            stream = block(stream, block.context(context), mask, self.causal)
        return stream

    def begin(self, context: Tensor, known: Tensor) -> Cache:
        """Keys and values of the context, computed once for all paths and periods."""
        return Cache(
            [block.context(context) for block in self._blocks()], known[:, None, None, :], [None] * len(self.blocks)
        )

    def step(self, stream: Tensor, cache: Cache) -> Tensor:
        """The next period of every path: (n, paths, width) → states (n, paths, width); the cache grows by it."""
        for place, block in enumerate(self._blocks()):
            stream, cache.written[place] = block.step(stream, cache.context[place], cache.mask, cache.written[place])
        return stream
