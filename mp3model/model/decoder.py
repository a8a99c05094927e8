"""Context tokens and the curve so far in, a state for every period out: the transformer that writes stream curves."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

POSITION_FEATURES = 16
# log10 of floor units at which what is told of a level ends; few songs have ever had a hundred floors.
_HIGHEST_LEVEL = 2.0


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
    """What the decoder has computed so far, a block: of the context, and of the periods written.

    Attributes:
        context: Keys (n, heads, width / heads, tokens), scaled, and values (n, heads, tokens, width / heads).
        bias: (n, 1, 1, tokens) 0 for a known token, −inf for another.
        written: Keys and values (n, paths, heads, periods, width / heads), room for all periods.
        period: How many are written.
    """

    context: list[tuple[Tensor, Tensor]]
    bias: Tensor
    written: list[tuple[Tensor, Tensor]]
    period: int


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
        self, stream: Tensor, seen: tuple[Tensor, Tensor], bias: Tensor, written: tuple[Tensor, Tensor], period: int
    ) -> Tensor:
        """One period of every path: (n, paths, width) → the same shape; `written` gets its keys and values in place.

        Args:
            stream: Paths stand where periods stand in `forward`: the context is the same for all of them.
            seen: Keys, transposed and scaled, and values of the context, of `begin`.
            bias: (n, 1, 1, tokens) 0 for a known token, −inf for another.
            written: Keys and values (n, paths, heads, periods, width / heads).
            period: Where this one is written.
        """
        query, key, value = (
            part.unflatten(-1, (self.heads, -1))[..., None, :] for part in self.qkv(self.norm1(stream)).chunk(3, dim=-1)
        )
        written[0][..., period : period + 1, :] = key
        written[1][..., period : period + 1, :] = value
        # One query a path: products of small matrices as they lie, where the fused attention would copy all keys.
        keys, values = (part[..., : period + 1, :].flatten(0, 2) for part in written)
        weight = torch.bmm(query.flatten(0, 2) * query.shape[-1] ** -0.5, keys.transpose(1, 2)).softmax(dim=-1)
        mixed = torch.bmm(weight, values).view(*stream.shape[:2], -1)
        stream = stream + self.mixed(mixed)
        weight = (self._heads(self.query(self.norm2(stream))) @ seen[0]).add_(bias).softmax(dim=-1)
        stream = stream + self.looked((weight @ seen[1]).transpose(1, 2).flatten(2))
        return stream + self.mlp(self.norm3(stream))


class CurveDecoder(nn.Module):
    """A transformer over the periods of a curve.

    What stands at period t is the outcome of period t − 1 and how far it lay from that of t − 2, the calendar and the
    position of t, and the row's summary. Levels are told flattened: a hit lies beyond nearly all that was learnt from,
    and what a network says there is anyone's guess. The last value itself goes to the head, which measures from it.

    Args:
        width: Of a token.
        layers: Blocks.
        heads: Of every attention.
        calendar: Features of a period's calendar.
        position_mode: `sum` adds positions; `concat` gives them a quarter of the width of their own.
        causal: Whether a period may look only at earlier ones.
        dropout: In every block.
        last_year: Features of the same period last year, 0 for none.
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
        last_year: int = 0,
    ) -> None:
        super().__init__()
        self.causal, self.position_mode = causal, position_mode
        own = width // 4 if position_mode == "concat" else width
        self.position = nn.Linear(POSITION_FEATURES, own)
        self.calendar = nn.Linear(calendar, width - own if position_mode == "concat" else width)
        self.outcome = nn.Sequential(
            nn.Linear(2 + self.FLAGS, width),
            nn.GELU(),
            nn.Linear(width, width - own if position_mode == "concat" else width),
        )
        self.blocks = nn.ModuleList(DecoderBlock(width, heads, dropout) for _ in range(layers))
        # Without a bias: a song without a past, whose features are all 0, is as if there were no such input.
        self.last_year = nn.Linear(last_year, self.calendar.out_features, bias=False) if last_year else None

    def _blocks(self) -> list[DecoderBlock]:
        return cast(list[DecoderBlock], list(self.blocks))

    def embed(
        self,
        value: Tensor,
        step: Tensor,
        flag: Tensor,
        calendar: Tensor,
        periods: Tensor,
        summary: Tensor,
        last_year: Tensor | None = None,
    ) -> Tensor:
        """Values, steps, flags and periods (…, t), calendar (…, t, C), summary (…, 1, width) → tokens (…, t, width).

        `last_year` (…, t, L) is read where the decoder was made for it.
        """
        level = _HIGHEST_LEVEL * torch.tanh(value / _HIGHEST_LEVEL)
        numbers = torch.stack([level, step], dim=-1)
        outcome = torch.cat([numbers, functional.one_hot(flag, self.FLAGS).to(value.dtype)], dim=-1)
        content = self.outcome(outcome) + self.calendar(calendar)
        if self.last_year is not None and last_year is not None:
            content = content + self.last_year(last_year)
        position = self.position(period_positions(periods)).expand(*content.shape[:-1], -1)
        merged = torch.cat([content, position], dim=-1) if self.position_mode == "concat" else content + position
        return merged + summary

    def forward(self, stream: Tensor, context: Tensor, known: Tensor) -> Tensor:
        """(n, periods, width), context (n, tokens, width), known (n, tokens) bool → states (n, periods, width)."""
        mask = known[:, None, None, :]
        for block in self._blocks():
            stream = block(stream, block.context(context), mask, self.causal)
        return stream

    @torch.inference_mode()
    def begin(self, context: Tensor, known: Tensor, periods: int) -> Cache:
        """What every path and period reads of the context, computed once, and room for what one path writes."""
        seen = []
        for block in self._blocks():
            key, value = block.context(context)
            seen.append(((key.transpose(2, 3) * key.shape[-1] ** -0.5).contiguous(), value.contiguous()))
        bias = torch.zeros(known.shape, device=context.device, dtype=context.dtype).masked_fill(~known, -math.inf)
        n, heads, width = len(context), seen[0][1].shape[1], seen[0][1].shape[3]
        room = [
            (context.new_empty(n, 1, heads, periods, width), context.new_empty(n, 1, heads, periods, width))
            for _ in seen
        ]
        return Cache(seen, bias[:, None, None, :], room, 0)

    @torch.inference_mode()
    def step(self, stream: Tensor, cache: Cache) -> Tensor:
        """The next period of every path: (n, paths, width) → states (n, paths, width); the cache grows by it.

        A cache that one path has written serves many from then on.
        """
        if cache.written[0][0].shape[1] < stream.shape[1]:
            cache.written = [
                (
                    key.expand(-1, stream.shape[1], -1, -1, -1).contiguous(),
                    value.expand(-1, stream.shape[1], -1, -1, -1).contiguous(),
                )
                for key, value in cache.written
            ]
        for place, block in enumerate(self._blocks()):
            stream = block.step(stream, cache.context[place], cache.bias, cache.written[place], cache.period)
        cache.period += 1
        return stream
