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


@pytest.mark.parametrize("keys", [300, 700])
def test_attention_by_head_rounds_hardly_more_than_the_fused_kernel(keys, monkeypatch):
    # Several blocks of rows a head, the last one shorter.
    monkeypatch.setattr("mp3model.model.products._WEIGHTS_AT_ONCE", 64 * keys)
    generator = torch.Generator().manual_seed(0)
    query, key, value = (1.5 * torch.randn(2, 3, n, 16, generator=generator) for n in (250, keys, keys))
    rounded = [part.bfloat16() for part in (query, key, value)]
    expected = scaled_dot_product_attention(*(part.float() for part in rounded))
    with torch.inference_mode():
        given, fused = attend(*rounded), scaled_dot_product_attention(*rounded)
    assert given.dtype == torch.bfloat16
    assert relative(given, expected) <= 1.5 * relative(fused, expected)


@pytest.mark.parametrize("strength", [0.01, 1.0, 3.0, 6.0, 30.0])
def test_attention_by_head_is_right_however_far_scores_lie_apart(strength):
    """From nearly uniform weights to one key a row, heads that the bound cannot vouch for among them."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 4, 300, 64, generator=generator) for _ in range(3))
    # One head is far louder than the others, and all keys of another have much in common.
    query[:, 1] *= 20
    key[:, 2] += 10
    rounded = [part.bfloat16() for part in (strength * query, key, value)]
    expected = scaled_dot_product_attention(*(part.float() for part in rounded))
    with torch.inference_mode():
        given, fused = attend(*rounded), scaled_dot_product_attention(*rounded)
    assert given.isfinite().all()
    for head in range(4):
        assert relative(given[:, head], expected[:, head]) <= 1.5 * relative(fused[:, head], expected[:, head]) + 1e-3


def test_a_value_that_is_no_number_stays_with_its_head():
    query, key, value = (torch.randn(1, 2, 300, 64).bfloat16() for _ in range(3))
    key[0, 1, 7] = torch.nan
    with torch.inference_mode():
        given = attend(query, key, value)
    assert given[:, 0].isfinite().all()
    assert given[:, 1].isnan().all()


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


def test_a_processor_without_bfloat16_kernels_takes_the_usual_way(monkeypatch):
    """What a processor without AVX-512 says of itself, and what oneDNN would answer there."""

    def refuse(*arguments):
        raise RuntimeError("could not create a primitive descriptor")

    monkeypatch.setattr("mp3model.model.products._multiplies_bfloat16", lambda: False)
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", refuse)
    made, mel = encoder(), torch.randn(1, 512, 128)
    made.compute_in(torch.bfloat16)
    with torch.inference_mode():
        assert all(part.isfinite().all() for part in made(mel))


def test_a_forecaster_in_bfloat16_moves_totals_by_little(tmp_path):
    folder = write_model(tmp_path / "model")
    clip = (0.1 * torch.randn(40_000, generator=torch.Generator().manual_seed(0))).numpy()
    totals = []
    for precision in ("fp32", "bf16"):
        forecaster = Forecaster.from_pretrained(folder, "cpu", precision)
        paths = forecaster.forecast((clip, 16_000), release="2026-12-04", samples=64).paths
        totals.append(paths.groupby("region")["streams"].sum())
    # Sums of the heavy tails of a model that has learnt nothing: usual totals move less.
    assert ((totals[1] / totals[0]) - 1).abs().max() <= 0.03
    with pytest.raises(InputError, match="fp8"):
        Forecaster.from_pretrained(folder, "cpu", "fp8")
