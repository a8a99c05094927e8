"""A training step is one graph that is compiled once, and holds nothing that would make a processor wait for a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mp3model import MP2Model, MP3Config
from mp3model.audio.augment import SpecAugment, WaveformAugment, draw_numbers
from mp3model.model.encoder import AST
from mp3model.training import loop

# Their results, or the shapes of their results, have to be known on the processor.
WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "equal")


class Waits(TorchDispatchMode):
    """Collects operations after which a processor would wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        name = function.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_") and any(
            part is not None and part.dtype == torch.bool for part in arguments[1]
        )
        if name in WAITING or by_mask:
            self.found.append(str(function))
        return function(*arguments, **(named or {}))


def model() -> MP2Model:
    torch.manual_seed(0)
    config = MP3Config(
        regions=["US", "GB"], frames=200, num_hidden_layers=2, patch_drop=0.5, drop_path=0.1, dropout=0.1
    )
    return MP2Model(config).train()


def batch(seed: int, songs: int = 4) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randn(songs, 2, 2, generator=generator)
    targets[0, 1] = float("nan")
    return {
        "previews": (3000 * torch.randn(songs, 2, 32_240, generator=generator)).to(torch.int16),
        "count": torch.tensor([1 + number % 2 for number in range(songs)]),
        "draws": torch.from_numpy(np.stack([draw_numbers(seed, 0, f"song {number}") for number in range(songs)])),
        "targets": targets,
    }


def test_a_step_never_asks_for_a_number():
    learner, augment, mask = model(), WaveformAugment().train(), SpecAugment().train()
    optimizer = loop.make_optimizer(learner, 1e-3, 0.1, 1.0, fused=True)
    for number in range(2):
        given = batch(number)
        with Waits() as waits:
            waveforms = augment(given["previews"], given["count"], given["draws"])
            mel = mask(loop.log_mels(learner.frontend, waveforms), given["draws"])
            learner(mel=mel, targets=given["targets"]).loss.backward()
            torch.nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        assert waits.found == []


def test_the_check_sees_numbers_that_are_asked_for():
    values = torch.arange(4.0)
    with Waits() as waits:
        values.sum().item()
        values[values > 1]
        torch.where(values > 1)
    assert [name.split(".")[1] for name in waits.found] == ["_local_scalar_dense", "index", "nonzero"]


@pytest.mark.parametrize("mode", ["training", "checkpointed", "forecasting", "tokens"])
def test_a_model_is_one_graph_that_is_compiled_once(mode):
    from torch._dynamo.testing import CompileCounter

    counter, learner = CompileCounter(), model().train(mode in ("training", "checkpointed"))
    learner.encoder.set_grad_checkpointing(mode == "checkpointed")
    run: Any
    if mode == "tokens":
        encoder = AST(width=32, depth=2, heads=2, frames=96).eval()
        run = torch.compile(encoder.forward_features, backend=counter, fullgraph=True)
    else:
        run = torch.compile(learner, backend=counter, fullgraph=True)
    for number in range(3):
        mel = torch.randn(4, 96 if mode == "tokens" else 200, 128)
        with torch.set_grad_enabled(learner.training):
            given = run(mel) if mode == "tokens" else run(mel=mel, targets=batch(number)["targets"])
        if learner.training:
            given.loss.backward()
    assert counter.frame_count == 1
    torch.compiler.reset()


@pytest.mark.slow
def test_compiled_losses_are_those_of_eager_steps():
    losses = []
    for compiled in (False, True):
        torch.manual_seed(0)
        encoder = AST(width=32, depth=1, heads=2, frames=96).train()
        run = torch.compile(encoder, fullgraph=True) if compiled else encoder
        optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-2, fused=True)
        trace = []
        for number in range(4):
            mel = torch.randn(2, 96, 128, generator=torch.Generator().manual_seed(number))
            loss = (run(mel)[0].mean(dim=1)[:, :4] - 1).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            trace.append(loss.item())
        losses.append(trace)
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[0][3] < losses[0][0]
    torch.compiler.reset()
