"""Tokens and weights in, a linear layer's or attention's result out, by the fastest of PyTorch's kernels.

Training, a GPU and what is traced take PyTorch's usual way; forecasts on a processor have faster ones.
"""

from __future__ import annotations

import math
import os
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional

# Below so many the fused kernel is the faster one; two megabytes of weights stay in a cache.
_FEWEST_KEYS = 256
_WEIGHTS_AT_ONCE = 2**20
# A logistic function this far below zero is an exponential but for a three-thousandth, less than bfloat16 resolves.
_BELOW_ZERO = 8.0
# Its numbers end at e^-87: as far as a row's largest weight may lie below its bound, with room for the smaller ones.
_FARTHEST = 64.0


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
        and (tensor.dtype == torch.float32 or _multiplies_bfloat16())
    )


@cache
def _has_fused_linear() -> bool:
    """Whether this build of PyTorch has oneDNN and its linear layer, which is no public name and may move."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@cache
def _multiplies_bfloat16() -> bool:
    """Whether oneDNN has bfloat16 kernels for this processor: without AVX-512 it has none and says so by an error."""
    told = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return told is not None and bool(told())


def multiply_alike_everywhere() -> None:
    """Has MKL multiply alike wherever in memory matrices lie, so that every process comes to the same bytes.

    Left alone it chooses kernels by how its operands are aligned, which is another thing in another process. To be
    called before the first product, when MKL reads its environment; what is set there already stays.
    """
    level = torch.backends.cpu.get_cpu_capability()
    # Of the modes that overlook alignment, that of the processor's own instructions.
    os.environ.setdefault("MKL_CBWR", f"{level},STRICT" if level in ("AVX2", "AVX512") else "COMPATIBLE")


def multiplied(tokens: Tensor, layer: nn.Linear, activation: str = "none") -> Tensor:
    """(…, in) → (…, out) of a linear layer, followed by `gelu` or by nothing."""
    if not forecasts_on_processor(tokens) or torch.is_autocast_enabled("cpu") or tokens.dtype != layer.weight.dtype:
        return functional.gelu(layer(tokens)) if activation == "gelu" else layer(tokens)
    # "none" is the exact GELU, not that of a hyperbolic tangent.
    return torch.ops.mkldnn._linear_pointwise(tokens, layer.weight, layer.bias, activation, [], "none")


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention without a mask, each (batch, heads, tokens, width / heads) → the shape of `query`.

    PyTorch's fused attention, but for bfloat16 forecasts on a processor, where that kernel runs at a fifth of the
    rate of matrix products: there by matrix products, a head at a time, so that its weights stay in the cache. Queries
    of 64, as AST's are, are divided by 8 without rounding; where a width's root is no power of two the kernel stays.
    """
    exact = math.frexp(query.shape[3] ** -0.5)[0] == 0.5
    few = key.shape[2] < _FEWEST_KEYS
    if few or not exact or query.dtype != torch.bfloat16 or not forecasts_on_processor(query):
        return functional.scaled_dot_product_attention(query, key, value)
    return _attend_by_head(query, key, value)


def _attend_by_head(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The same in bfloat16 with a quarter more rounding: as in the fused kernel, scores are float32 until exponentials.

    The product of queries and keys ends in oneDNN's logistic function, so that no score is ever stored. Softmax does
    not change when all scores of a row are lowered alike; lowered far enough, logistic and exponential are one. How
    far is known beforehand: a score differs from the mean of its row by at most |query| · |key − mean key|
    (Cauchy and Schwarz). A head in which that says too little is left to the fused kernel.
    """
    batch, heads, tokens, width = query.shape
    keys = key.shape[2]
    centre = key.mean(2, keepdim=True)
    radius = torch.linalg.vector_norm(key - centre, dim=-1, dtype=torch.float32).amax(-1, keepdim=True)
    # One more column lowers the scores of a row; its rounding is the same for the whole row.
    asking = query.new_empty(batch, heads, tokens, width + 1)
    scaled = torch.mul(query, width**-0.5, out=asking[..., :width])
    spread = torch.linalg.vector_norm(scaled, dim=-1, dtype=torch.float32) * radius
    asking[..., width] = -(scaled @ centre.transpose(2, 3)).squeeze(-1) - spread - _BELOW_ZERO
    told = torch.cat([key, key.new_ones(batch, heads, keys, 1)], dim=-1)
    content = value.contiguous()
    mixed = query.new_empty(batch, heads, tokens, width)
    totals = query.new_ones(batch, heads, tokens, 1, dtype=torch.float32)
    # Equal pieces: a last one of a few rows costs nearly as much as a whole one.
    pieces = -(-tokens * keys // _WEIGHTS_AT_ONCE)
    for item, near in enumerate((spread.amax(-1) < _FARTHEST).tolist()):
        for head in range(heads):
            place = item, head
            if not near[head]:
                asked, known, held = (whole[place][None, None] for whole in (query, key, value))
                mixed[place] = functional.scaled_dot_product_attention(asked, known, held)[0, 0]
                continue
            for rows, total, result in zip(
                *(whole[place].chunk(pieces) for whole in (asking, totals, mixed)), strict=True
            ):
                weights = torch.ops.mkldnn._linear_pointwise(rows, told[place], None, "sigmoid", [], "")
                torch.sum(weights, dim=-1, keepdim=True, dtype=torch.float32, out=total)
                torch.mm(weights, content[place], out=result)
    return mixed.div_(totals)
