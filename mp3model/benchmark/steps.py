"""Encoders and banks in, seconds of a training step and of its parts out, beside stock's."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from mp3model.audio.augment import SpecAugment, WaveformAugment
from mp3model.audio.bank import SAMPLE_RATE, AudioBank
from mp3model.benchmark.encoders import (
    EVERYWHERE,
    FRAMES,
    Case,
    both_modes,
    clips_of,
    combinations,
    extractor,
    pair_of_encoders,
)
from mp3model.benchmark.measuring import Bench, Row, compared, peak_memory, said, share_of_products, waits
from mp3model.config import SIZES, MP3Config
from mp3model.model.modeling import MP2Model
from mp3model.tables.curves import popularity_targets
from mp3model.tables.folder import DatasetFolder, read_dataset
from mp3model.training import loop
from mp3model.training.batches import (
    EpochBatches,
    ResidentBatches,
    Songs,
    TrainingSet,
    songs_of_split,
    target_statistics,
)
from mp3model.training.runs import give_memory_back

NAMES = ("total", "debut_rank")
Batch = TypeVar("Batch")


def step_cases(bench: Bench, device: torch.device) -> list[Case]:
    """On a processor `base` at one stride, and compiled only in one size."""
    drops = (0.0, 0.5)
    checkpointed = [Case("tiny", 10.24, 16, "fp32", 0.5, checkpointed=True)]
    compiled = [replace(case, compiled=True) for case in combinations(("nano",), ((10.24, 16),), (0.5,))]
    if device.type == "cuda" or bench.full:
        cases = both_modes(combinations(("tiny", "small", "base"), EVERYWHERE, drops))
        return [*cases, Case("base", 30.0, 16, "bf16", 0.5, checkpointed=True), *checkpointed]
    if bench.quick:
        return [*combinations(("tiny",), ((10.24, 16),), drops), *checkpointed]
    tiny = combinations(("tiny",), ((10.24, 10), (10.24, 16), (30.0, 16)), drops)
    larger = combinations(("small",), ((10.24, 16),), (0.5,)) + combinations(("base",), ((10.24, 16),), drops)
    return [*tiny, *larger, *checkpointed, *compiled]


def stepper(encoder: nn.Module, head: nn.Module, mel: Tensor, target: Tensor, precision: str) -> Callable[[], None]:
    """One step of AdamW on the mean of the class and distillation tokens; bf16 is autocast."""
    device = mel.device
    parameters = [*encoder.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            tokens = encoder(mel)
            tokens = tokens if isinstance(tokens, Tensor) else getattr(tokens, "last_hidden_state", tokens[0])
            loss = (head(tokens[:, :2].mean(dim=1)).float() - target).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def training_step(bench: Bench, device: torch.device) -> list[Row]:
    """Forward, backward and optimizer on log-mels at hand; stock's at all tokens, as it cannot drop any."""
    return [said("step", step_row(bench, case, device)) for case in step_cases(bench, device)]


def step_row(bench: Bench, case: Case, device: torch.device) -> Row:
    """One case; with gradient checkpointing stock has it too."""
    batch = 32 if device.type == "cuda" else 2 if case.seconds < 20 else 1
    ours, stock = pair_of_encoders(case.size, case.seconds, case.stride, case.drop or 0.0)
    ours.to(device).train()
    stock.to(device)
    if case.checkpointed:
        ours.set_grad_checkpointing()
        stock.gradient_checkpointing_enable()
    width = SIZES[case.size][0]
    mel = torch.randn(batch, FRAMES[case.seconds], 128, device=device)
    target = torch.randn(batch, 8, device=device)
    ceiling, ceiling_flop = case.ceiling(device, batch)
    encoders: list[Any] = [ours, stock]
    if case.compiled:
        encoders = [torch.compile(ours, fullgraph=True), torch.compile(stock)]
    steps = [stepper(encoder, nn.Linear(width, 8).to(device), mel, target, case.precision) for encoder in encoders]
    row: Row = {"case": str(case), "batch": batch, "tokens": case.kept, "peer_tokens": case.patches + 2}
    taken = bench.in_turns(device, ours=steps[0], peer=steps[1], product=ceiling)
    for memory, step in (("memory_mb", steps[0]), ("peer_memory_mb", steps[1])):
        with peak_memory(device, row, memory):
            step()
    compared(row, taken)
    row["product_gflops"] = ceiling_flop / statistics.median(taken["product"]) / 1e9
    # What checkpointing computes again is no useful work.
    row["mfu"] = share_of_products(3 * case.flop(batch), taken, ceiling_flop)
    row["clips_a_second"] = batch / row["seconds"]
    if device.type == "cuda":
        row["waits_for_the_device"] = waits(steps[0])
    torch.compiler.reset()
    return row


def songs_of(dataset: DatasetFolder, bank: AudioBank, split: str) -> Songs:
    """The songs of one split of a dataset, with both of MP2's targets."""
    return songs_of_split(popularity_targets(dataset), dataset.tracks, bank, [split], dataset.regions, NAMES)


def recipe_parts(
    dataset: DatasetFolder, bank: AudioBank, size: str, frames: int
) -> tuple[TrainingSet, EpochBatches, MP2Model]:
    """What recipes/mp2.py trains with, on a dataset."""
    songs = songs_of(dataset, bank, "train")
    give_memory_back()
    width, depth, heads = SIZES[size]
    config = MP3Config(
        regions=songs.regions,
        frames=frames,
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        patch_stride=[16, 16],
        patch_drop=0.5,
    )
    data = TrainingSet(songs, bank, songs.standardised(target_statistics(songs)), config.samples, seed=0)
    torch.manual_seed(0)
    return data, EpochBatches(len(songs), 4, seed=0), MP2Model(config)


def endless(batches: EpochBatches, source: Iterable[Batch]) -> Iterator[Batch]:
    """Batches of one epoch after the other."""
    for epoch in itertools.count():
        batches.start(epoch)
        yield from source


def recipe_step(
    bench: Bench, model: MP2Model, device: torch.device
) -> Callable[[Iterator[dict[str, Tensor]], dict[str, float] | None], None]:
    """A step of recipes/mp2.py that adds the seconds of its parts to a dictionary, or runs through without one."""
    augment, mask = WaveformAugment(6.0, 1.0, True).train(), SpecAugment(24, 48).train()
    optimizer = loop.make_optimizer(model, 1e-3, 0.1, 1.0, fused=device.type == "cuda")
    bf16 = device.type == "cuda"

    def step(batches: Iterator[dict[str, Tensor]], spent: dict[str, float] | None) -> None:
        at: list[float] = []

        def mark() -> None:
            # The clock waits for the device, which a step does not.
            if spent is not None:
                at.append(bench.now(device))

        mark()
        batch = {key: value.to(device, non_blocking=True) for key, value in next(batches).items()}
        mark()
        waveforms = augment(batch["previews"], batch["count"], batch["draws"])
        mark()
        mel = loop.log_mels(model.frontend, waveforms)
        mark()
        mel = mask(mel, batch["draws"])
        mark()
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss = model(mel=mel, targets=batch["targets"]).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        mark()
        if spent is not None:
            names = ("data wait", "augmentation", "front end", "augmentation", "model")
            for name, one, other in zip(names, at, at[1:], strict=False):
                spent[name] = spent.get(name, 0.0) + other - one

    return step


def shares(bench: Bench, device: torch.device) -> list[Row]:
    """A step of the recipe from the bank on, and where it spends its time: with the loader, and with the bank resident.

    The peer is stock from waveforms at hand: its feature extractor on the processor, then its model.
    """
    from data_prep.tiled import write_tiled

    on_processor = device.type == "cpu"
    case = Case("tiny" if on_processor else "base", 10.24 if on_processor else 30.0, 16, "fp32", 0.5)
    case = replace(case, precision="fp32" if on_processor else "bf16")
    with bench.scratch() as folder:
        write_tiled(folder / "bank", 128)
        return [
            said("shares", shares_row(bench, case, device, folder / "bank", bank)) for bank in ("loader", "resident")
        ]


def shares_row(bench: Bench, case: Case, device: torch.device, folder: Path, bank: str) -> Row:
    """One way to the bank."""
    data, batches, model = recipe_parts(read_dataset(folder), AudioBank(folder), case.size, FRAMES[case.seconds])
    model.to(device).train()
    batches.batch_size, together = (4, 1) if device.type == "cpu" else (32, 8)
    loader: Any = ResidentBatches(data, batches, device)
    if bank == "loader":
        pinned = device.type == "cuda"
        loader = torch.utils.data.DataLoader(data, batch_sampler=batches, num_workers=2, pin_memory=pinned)
    source, step = endless(batches, loader), recipe_step(bench, model, device)
    stock_step = stock_from_waveforms(case, device, batches.batch_size)
    ceiling, ceiling_flop = case.ceiling(device, batches.batch_size)
    # Several steps a trial: what overlaps from one to the next is to count.
    taken = bench.in_turns(
        device,
        ours=lambda: [step(source, None) for _ in range(together)],
        peer=lambda: [stock_step() for _ in range(together)],
        product=ceiling,
    )
    row = compared({"case": f"{case}, {bank}", "batch": batches.batch_size, "steps": together}, taken)
    row["mfu"] = share_of_products(3 * together * case.flop(batches.batch_size), taken, ceiling_flop)
    spent: dict[str, float] = {}
    for _ in range(4 if bench.quick else 12):
        step(source, spent)
    row |= {name: value / sum(spent.values()) for name, value in spent.items()}
    if device.type == "cuda":
        row["waits_for_the_device"] = waits(partial(step, source, None))
    return row


def stock_from_waveforms(case: Case, device: torch.device, batch: int) -> Callable[[], None]:
    """A step of stock: its feature extractor on the processor, clip by clip, then its model at all tokens."""
    stock = pair_of_encoders(case.size, case.seconds, case.stride)[1].to(device)
    extract, waves = extractor(case.seconds), clips_of(batch, case.seconds)
    mel = torch.empty(batch, FRAMES[case.seconds], 128, device=device)
    head = nn.Linear(SIZES[case.size][0], 8).to(device)
    learn = stepper(stock, head, mel, torch.zeros(batch, 8, device=device), case.precision)

    def step() -> None:
        mel.copy_(extract(list(waves), sampling_rate=SAMPLE_RATE, return_tensors="pt")["input_values"])
        learn()

    return step
