"""The same numbers on a CUDA device as on the processor; a step there that is one graph and never waited for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters
from torch.nn.attention import SDPBackend, sdpa_kernel

from mp3model import LogMel, MP2Model, MP3Config
from mp3model.audio.augment import SpecAugment, Transpose, WaveformAugment, draw_numbers
from mp3model.audio.bank import AudioBank
from mp3model.model.encoder import AST
from mp3model.tables.curves import popularity_targets
from mp3model.tables.folder import read_dataset
from mp3model.training import loop
from mp3model.training.batches import EpochBatches, ResidentBatches, TrainingSet, songs_of_split, target_statistics

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
    key, mel = Transpose(3.0).train(), torch.randn(4, 200, 128, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(key(mel.to(device), draws().to(device)).cpu(), key(mel, draws()), atol=1e-3)


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


def test_a_step_with_a_resident_bank_never_waits_for_the_device(device, small_dataset):
    dataset, bank = read_dataset(small_dataset), AudioBank(small_dataset)
    names = ("total", "debut_rank")
    songs = songs_of_split(popularity_targets(dataset), dataset.tracks, bank, ["train"], ["US", "GB"], names)
    config = MP3Config(regions=["US", "GB"], frames=96, patch_drop=0.5)
    data = TrainingSet(songs, bank, songs.standardised(target_statistics(songs)), config.samples, seed=0)
    model = MP2Model(config).to(device).train()
    augment, mask = WaveformAugment().train(), SpecAugment().train()
    optimizer = loop.make_optimizer(model, 1e-3, 0.1, 1.0, fused=True)
    source = iter(ResidentBatches(data, EpochBatches(len(songs), 2, seed=0), device))
    for number in range(3):
        # The first step makes the optimizer's state and chooses kernels.
        torch.cuda.set_sync_debug_mode("default" if number == 0 else "error")
        try:
            batch = {key: value.to(device, non_blocking=True) for key, value in next(source).items()}
            waveforms = augment(batch["previews"], batch["count"], batch["draws"])
            mel = mask(loop.log_mels(model.frontend, waveforms), batch["draws"])
            with torch.autocast("cuda", torch.bfloat16):
                loss = model(mel=mel, targets=batch["targets"]).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_the_stream_goes_through_flash_attention_in_bfloat16(device):
    torch.manual_seed(0)
    encoder = AST(width=128, depth=2, heads=2, frames=512).to(device).eval()
    mel = torch.randn(2, 512, 128, device=device)
    with torch.inference_mode():
        expected = encoder.forward_features(mel)
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION), torch.autocast("cuda", torch.bfloat16):
            given = encoder.forward_features(mel)
    assert (given.float() - expected).norm() <= 0.02 * expected.norm()


def test_compiled_training_is_one_graph_that_is_compiled_once(device):
    torch.manual_seed(0)
    model = (
        MP2Model(MP3Config(regions=["US", "GB"], frames=200, num_hidden_layers=2, patch_drop=0.5)).to(device).train()
    )
    run = torch.compile(model, fullgraph=True)
    counters.clear()
    for _ in range(3):
        with torch.autocast("cuda", torch.bfloat16):
            loss = run(mel=torch.randn(4, 200, 128, device=device), targets=torch.randn(4, 2, 2, device=device)).loss
        loss.backward()
    assert counters["stats"]["unique_graphs"] == 1
    torch.compiler.reset()
