"""The same numbers on a CUDA device as on the processor: front end, augmentation, encoder."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mp3model import LogMel, MP2Model, MP3Config
from mp3model.audio.augment import SpecAugment, WaveformAugment, draw_numbers

pytestmark = pytest.mark.gpu


@pytest.fixture
def device() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    # The comparison is of the arithmetic, not of the matrix units' shorter float32 mode.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    return torch.device("cuda")


def clips(count: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(count, 3, 32_240, generator=generator) * 3000).to(torch.int16)


def draws(count: int = 4) -> torch.Tensor:
    return torch.from_numpy(np.stack([draw_numbers(0, 0, f"song {number}") for number in range(count)]))


def test_augmentation_chooses_rolls_and_masks_alike(device):
    augment, mask, counts = WaveformAugment().train(), SpecAugment().train(), torch.tensor([3, 2, 1, 3])
    expected = augment(clips(), counts, draws())
    got = augment(clips().to(device), counts.to(device), draws().to(device)).cpu()
    assert torch.allclose(got, expected, atol=1e-6)
    ones = torch.ones(4, 200, 128)
    assert torch.equal(mask(ones.to(device), draws().to(device)).cpu(), mask(ones, draws()))


def test_log_mels_agree(device):
    waveforms = clips()[:, 0]
    difference = LogMel().to(device)(waveforms.to(device)).cpu() - LogMel()(waveforms)
    assert difference.abs().max() <= 1e-4


@pytest.mark.parametrize("region_mode", ["token", "embedding", "none"])
def test_predictions_and_gradients_agree(device, region_mode):
    torch.manual_seed(0)
    model = MP2Model(MP3Config(regions=["US", "GB"], frames=200, region_mode=region_mode))
    waveforms, targets = clips()[:, 0], torch.randn(4, 2, 2, generator=torch.Generator().manual_seed(1))
    losses, gradients = [], []
    for place in (torch.device("cpu"), device):
        model.zero_grad()
        model.to(place)
        loss = model(waveforms.to(place), targets=targets.to(place)).loss
        loss.backward()
        losses.append(loss.item())
        gradients.append(model.encoder.blocks[0].attn.qkv.weight.grad.cpu().clone())
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert (gradients[0] - gradients[1]).norm() <= 1e-3 * gradients[0].norm()
