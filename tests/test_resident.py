"""A bank that lies on the device gives the loader's batches; gradient checkpointing gives the same gradients."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT
from torch.utils.data import DataLoader

from mp3model.audio.augment import TimbreAugment
from mp3model.audio.bank import AudioBank
from mp3model.files import InputError
from mp3model.model.encoder import AST
from mp3model.tables.curves import popularity_targets
from mp3model.tables.folder import read_dataset
from mp3model.training.batches import EpochBatches, ResidentBatches, TrainingSet, songs_of_split, target_statistics

CPU = torch.device("cpu")


def training_set(folder, samples: int = 30_000, **options) -> TrainingSet:
    dataset = read_dataset(folder)
    bank = AudioBank(folder)
    names = ("total", "debut_rank")
    songs = songs_of_split(popularity_targets(dataset), dataset.tracks, bank, ["train"], ["US", "GB"], names)
    return TrainingSet(songs, bank, songs.standardised(target_statistics(songs)), samples, seed=3, **options)


# 30,000 samples are cut from clips of 40,000, which are shorter than 50,000.
@pytest.mark.parametrize(
    ("samples", "options"), [(30_000, {}), (50_000, {}), (30_000, {"mixup": True}), (30_000, {"second": True})]
)
def test_a_resident_bank_gives_the_loaders_batches_bit_for_bit(small_dataset, samples, options):
    data = training_set(small_dataset, samples, **options)
    batches = EpochBatches(len(data), 4, seed=3)
    resident = ResidentBatches(data, batches, CPU)
    for epoch in (0, 1):
        batches.start(epoch)
        pairs = list(zip(DataLoader(data, batch_sampler=batches), resident, strict=True))
        assert len(pairs) == len(batches) == len(resident)
        for expected, given in pairs:
            assert set(expected) == set(given)
            for key, value in expected.items():
                assert value.dtype == given[key].dtype, key
                assert torch.equal(value.nan_to_num(-9), given[key].nan_to_num(-9)), key


def test_a_bank_that_does_not_fit_is_refused_with_its_size_and_the_devices(small_dataset):
    data = training_set(small_dataset)
    batches = EpochBatches(len(data), 4, seed=3)
    clips = np.unique(np.concatenate(data.songs.clips))
    needed = 2 * int(data.bank.lengths[clips].sum())
    with pytest.raises(InputError, match=rf"{needed / 1e9:.3g} GB, and of .* GB that are free on cpu"):
        ResidentBatches(data, batches, CPU, free=int(needed / ResidentBatches.SHARE) - 1)
    ResidentBatches(data, batches, CPU, free=int(needed / ResidentBatches.SHARE) + 2)


def test_timbre_effects_and_a_resident_bank_exclude_each_other(small_dataset):
    data = training_set(small_dataset, timbre=TimbreAugment(["low_pass"]))
    with pytest.raises(InputError, match="--timbre"):
        ResidentBatches(data, EpochBatches(len(data), 4, seed=3), CPU)


def test_gradient_checkpointing_gives_the_same_gradients_with_dropout_too():
    gradients = []
    for enable in (False, True):
        torch.manual_seed(0)
        encoder = AST(width=32, depth=3, heads=2, frames=96, regions=2, dropout=0.2, drop_path=0.3).train()
        encoder.set_grad_checkpointing(enable)
        torch.manual_seed(1)
        tokens, states = encoder(torch.randn(2, 96, 128))
        (tokens.square().mean() + states.square().mean()).backward()
        gradients.append([parameter.grad.clone() for parameter in encoder.parameters()])
    assert all(torch.allclose(one, other, atol=1e-7) for one, other in zip(*gradients, strict=True))


def test_gradient_checkpointing_keeps_only_what_enters_a_block():
    kept = []
    for enable in (False, True):
        encoder = AST(width=32, depth=3, heads=2, frames=96).train()
        encoder.set_grad_checkpointing(enable)
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: s.append(t.numel()) or t, lambda t: t):
            encoder.forward_features(torch.randn(2, 96, 128))
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 3


@pytest.mark.slow
def test_the_recipe_learns_the_same_from_a_resident_bank(small_dataset, tmp_path):
    losses = []
    for bank in ("loader", "resident"):
        words = ["--data", str(small_dataset), "--output_dir", str(tmp_path / bank), "--bank", bank, "--frames", "96"]
        words += ["--epochs", "2", "--batch_size", "4", "--loader_workers", "0", "--log_every", "1", "--mixup", "0.5"]
        words += ["--folds", "0", "--stem_blocks", "0"]
        subprocess.run([sys.executable, str(ROOT / "recipes" / "mp2.py"), *words], check=True, capture_output=True)
        lines = [json.loads(line) for line in (tmp_path / bank / "metrics.jsonl").read_text().splitlines()]
        losses.append([line[key] for line in lines for key in ("loss", "validation_loss") if key in line])
    assert len(losses[0]) > 8
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
