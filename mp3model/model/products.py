"""Tokens and weights in, a linear layer's or attention's result out, by the fastest of PyTorch's kernels.

Training, a GPU and what is traced take PyTorch's usual way; forecasts on a processor have faster ones.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

# Below so many the fused kernel is the faster one; four megabytes of scores stay in a cache.
_FEWEST_KEYS = 192
_SCORES_AT_ONCE = 2**20
_PRECISION = threading.Lock()
# Its stub does not know the switch.
_ONEDNN: Any = torch.backends.mkldnn


@contextmanager
def _products_of_bfloat16() -> Iterator[None]:
    """Lets a processor multiply float32 matrices as bfloat16, with the sums in float32.

    Of numbers that are bfloat16 already the products are exact. The switch is the process's; one thread at a time
    turns it, and what others multiply meanwhile in float32 may lose digits as if under autocast.
    """
    with _PRECISION:
        before = _ONEDNN.matmul.fp32_precision
        _ONEDNN.matmul.fp32_precision = "bf16"
        try:
            yield
        finally:
            _ONEDNN.matmul.fp32_precision = before


def forecasts_on_processor(tensor: Tensor) -> bool:
    """Whether this is on a processor with oneDNN, and neither learnt from nor traced: kernels without a gradient serve.

    PyTorch multiplies float32 matrices by MKL, which on processors of other makers than its own leaves half of the
    arithmetic unused.
    """
    return (
        tensor.device.type == "cpu"
        and tensor.dtype in (torch.float32, torch.bfloat16)
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and _has_fused_linear()
    )


@cache
def _has_fused_linear() -> bool:
    """Whether this build of PyTorch has oneDNN and its linear layer, which is no public name and may move."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def multiplied(tokens: Tensor, layer: nn.Linear, activation: str = "none") -> Tensor:
    """(…, in) → (…, out) of a linear layer, followed by `gelu` or by nothing."""
    if not forecasts_on_processor(tokens) or torch.is_autocast_enabled("cpu") or tokens.dtype != layer.weight.dtype:
        return functional.gelu(layer(tokens)) if activation == "gelu" else layer(tokens)
    # "none" is the exact GELU, not that of a hyperbolic tangent.
    return torch.ops.mkldnn._linear_pointwise(tokens, layer.weight, layer.bias, activation, [], "none")


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention without a mask, each (batch, heads, tokens, width / heads) → the shape of `query`.

    PyTorch's fused attention, but for bfloat16 forecasts on a processor, where that kernel runs at a fifth of the
    rate of matrix products: there by matrix products, a head at a time, so that its scores stay in the cache.
    """
    if key.shape[2] < _FEWEST_KEYS or query.dtype != torch.bfloat16 or not forecasts_on_processor(query):
        return functional.scaled_dot_product_attention(query, key, value)
    return _attend_by_head(query, key, value)


def _attend_by_head(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The same in bfloat16 with scores and softmax in float32, as in the fused kernel."""
    batch, heads, tokens, width = query.shape
    # Equal pieces: a last one of a few rows costs nearly as much as a whole one.
    rows = -(-tokens // -(-tokens * key.shape[2] // _SCORES_AT_ONCE))
    scores = query.new_empty(rows, key.shape[2], dtype=torch.float32)
    weights = torch.empty_like(scores, dtype=query.dtype)
    mixed = query.new_empty(batch, heads, tokens, width)
    # Autocast would round the scores to bfloat16, which costs more digits than all the rest of the layer.
    with torch.autocast("cpu", enabled=False), _products_of_bfloat16():
        for item in range(batch * heads):
            place = divmod(item, heads)
            scaled = query[place].float().mul_(width**-0.5)
            turned, content = key[place].float().T, value[place].contiguous()
            for start in range(0, tokens, rows):
                part = slice(start, min(start + rows, tokens))
                score, weight = scores[: part.stop - start], weights[: part.stop - start]
                torch.mm(scaled[part], turned, out=score)
                weight.copy_(torch.softmax(score, dim=-1, out=score))
                torch.mm(weight, content, out=mixed[place][part])
    return mixed
