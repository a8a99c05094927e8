"""Forecasts on a processor go through other kernels than training: the same numbers, in float32 and in bfloat16."""

from __future__ import annotations

import pytest
import torch
from tiny_model import write_model
from torch.nn.functional import scaled_dot_product_attention

from mp3model.files import InputError
from mp3model.model.encoder import AST
from mp3model.model.products import attend
from mp3model.serving.forecaster import Forecaster


def relative(given: torch.Tensor, expected: torch.Tensor) -> float:
    return float((given.float() - expected).square().mean().sqrt() / expected.square().mean().sqrt())


def encoder() -> AST:
    torch.manual_seed(0)
    made = AST(width=64, depth=3, heads=2, frames=512, regions=3).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(0.1 * torch.randn_like(parameter))
    return made


def test_forecasting_gives_the_states_that_training_gives():
    made, mel = encoder(), torch.randn(2, 512, 128)
    expected = [part.detach() for part in made(mel)]
    with torch.inference_mode():
        given = made(mel)
    for one, other in zip(given, expected, strict=True):
        assert relative(one, other) <= 1e-5


@pytest.mark.parametrize("keys", [200, 700])
def test_attention_by_head_rounds_no_more_than_the_fused_kernel(keys, monkeypatch):
    # Several blocks of rows a head, the last one shorter.
    monkeypatch.setattr("mp3model.model.products._SCORES_AT_ONCE", 64 * keys)
    generator = torch.Generator().manual_seed(0)
    query, key, value = (1.5 * torch.randn(2, 3, n, 16, generator=generator) for n in (250, keys, keys))
    rounded = [part.bfloat16() for part in (query, key, value)]
    expected = scaled_dot_product_attention(*(part.float() for part in rounded))
    with torch.inference_mode():
        given, fused = attend(*rounded), scaled_dot_product_attention(*rounded)
    assert given.dtype == torch.bfloat16
    assert relative(given, expected) <= 1.5 * relative(fused, expected)


def test_the_switch_of_precision_is_as_it_was():
    before = torch.backends.mkldnn.matmul.fp32_precision
    with torch.inference_mode():
        attend(*(torch.randn(1, 1, 256, 8).bfloat16() for _ in range(3)))
    assert torch.backends.mkldnn.matmul.fp32_precision == before


def test_bfloat16_hears_nearly_the_same_and_gradients_take_the_usual_way():
    made, mel = encoder(), torch.randn(2, 512, 128)
    with torch.inference_mode():
        expected = made(mel)
    made.compute_in(torch.bfloat16)
    with torch.inference_mode():
        given = made(mel)
    for one, other in zip(given, expected, strict=True):
        assert one.dtype == torch.float32
        assert 0 < relative(one, other) <= 0.05
    made(mel)[1].sum().backward()
    assert all(parameter.grad is not None for parameter in made.parameters())


def test_a_forecaster_in_bfloat16_moves_totals_by_little(tmp_path):
    folder = write_model(tmp_path / "model")
    clip = (0.1 * torch.randn(40_000, generator=torch.Generator().manual_seed(0))).numpy()
    totals = []
    for precision in ("fp32", "bf16"):
        forecaster = Forecaster.from_pretrained(folder, "cpu", precision)
        paths = forecaster.forecast((clip, 16_000), release="2026-12-04", samples=64).paths
        totals.append(paths.groupby("region")["streams"].sum())
    assert ((totals[1] / totals[0]) - 1).abs().max() <= 0.02
    with pytest.raises(InputError, match="fp8"):
        Forecaster.from_pretrained(folder, "cpu", "fp8")
