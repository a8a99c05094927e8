"""A simulated market in, seconds until ours and stock have learnt it equally well out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mp3model.audio.bank import SAMPLE_RATE, AudioBank
from mp3model.audio.frontend import LogMel
from mp3model.benchmark.encoders import FRAMES, Case, extractor, pair_of_encoders
from mp3model.benchmark.measuring import Bench, Row, said
from mp3model.benchmark.steps import endless, songs_of
from mp3model.config import SIZES
from mp3model.model.losses import masked_squared_error, mean_over_targets
from mp3model.tables.folder import read_dataset
from mp3model.training import loop
from mp3model.training.batches import EpochBatches, ResidentBatches, TrainingSet, target_statistics


class Plain(nn.Module):
    """An encoder, and a linear head on the mean of its class and distillation tokens."""

    def __init__(self, encoder: nn.Module, width: int, shape: tuple[int, int]) -> None:
        super().__init__()
        self.encoder, self.shape = encoder, shape
        self.head = nn.Linear(width, shape[0] * shape[1])

    def forward(self, mel: Tensor) -> Tensor:
        """(batch, frames, mels) → (batch, regions, targets)."""
        tokens = self.encoder(mel)
        tokens = tokens[0] if isinstance(tokens, tuple) else tokens.last_hidden_state
        return self.head(tokens[:, :2].mean(dim=1)).unflatten(1, self.shape)


@dataclass
class Race:
    """What both learn from: a simulated market, in one order.

    Attributes:
        case: Size and place; both start from the same weights.
        train: Training songs.
        validation: (songs, frames, mels) log-mels of the first preview, and (songs, regions, targets).
        batch: Songs a step.
        epochs: Of stock.
        device: Where both learn.
    """

    case: Case
    train: TrainingSet
    validation: tuple[Tensor, Tensor]
    batch: int
    epochs: int
    device: torch.device

    def order(self) -> EpochBatches:
        """The songs of each step: the same for both."""
        return EpochBatches(len(self.train), self.batch, seed=0)

    def error(self, model: nn.Module) -> float:
        """Mean squared error on validation."""
        mels, targets = self.validation
        model.eval()
        with torch.inference_mode(), self.precision():
            predicted = torch.cat([model(part).float() for part in mels.split(self.batch)])
        model.train()
        return float(mean_over_targets(*masked_squared_error(predicted, targets)))

    def precision(self) -> Any:
        """Autocast in bfloat16, on a GPU."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.case.precision == "bf16")


def race(bench: Bench, folder: Path, device: torch.device) -> Race:
    """Makes the market. On a processor it is a rehearsal: a small model, few songs."""
    from data_prep.market import make_market

    case, songs, epochs, batch = Case("base", 30.0, 16, "bf16", 0.5), 2000, 12, 32
    if device.type == "cpu":
        case, songs, epochs, batch = (
            Case("micro", 10.24, 16, "fp32", 0.5),
            48 if bench.quick else 200,
            1 if bench.quick else 4,
            8,
        )
    make_market(folder, songs, progress=False, oracle_runs=0)
    bank, frames = AudioBank(folder), FRAMES[case.seconds]
    dataset = read_dataset(folder)
    train, validation = (songs_of(dataset, bank, split) for split in ("train", "validation"))
    statistics_of_train, samples = target_statistics(train), int(case.seconds * SAMPLE_RATE)
    data = TrainingSet(train, bank, train.standardised(statistics_of_train), samples, seed=0)
    frontend = LogMel(frames=frames).to(device)
    heard = [frontend(torch.from_numpy(bank.read(int(c[0]), 0, samples)).to(device)[None]) for c in validation.clips]
    known = torch.from_numpy(validation.standardised(statistics_of_train)).to(device)
    return Race(case, data, (torch.cat(heard), known), batch, epochs, device)


def learnt(
    bench: Bench, course: Race, model: nn.Module, source: Iterator[tuple[Tensor, Tensor]], until: float = -1.0
) -> list[tuple[float, float]]:
    """Trains; (seconds of training so far, validation loss) after every half epoch, until that loss or the end.

    Args:
        bench: Its clock.
        course: Songs, order and number of epochs.
        model: (batch, frames, mels) → (batch, regions, targets).
        source: Log-mels and targets of one step after the other, without end.
        until: A loss that is low enough.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4 if course.case.size == "base" else 1e-3, fused=True)
    steps = course.order().steps
    every, trace, spent = max(1, steps // 2), [], 0.0
    mel, targets = next(source)
    # Left out of the time: kernels that are chosen or read at their first use, and workers that start.
    with course.precision():
        masked_squared_error(model(mel).float(), targets)[0].sum().backward()
    optimizer.zero_grad()
    began = bench.now(course.device)
    for number in range(1, course.epochs * steps + 1):
        with course.precision():
            predicted = model(mel).float()
        mean_over_targets(*masked_squared_error(predicted, targets)).backward()
        optimizer.step()
        optimizer.zero_grad()
        mel, targets = next(source)
        if number % every == 0:
            spent += bench.now(course.device) - began
            trace.append((spent, course.error(model)))
            if trace[-1][1] <= until:
                break
            began = bench.now(course.device)
    return trace


def our_mels(course: Race) -> Iterator[tuple[Tensor, Tensor]]:
    """From the bank on the device through our front end, without end."""
    order, frontend = course.order(), LogMel(frames=FRAMES[course.case.seconds]).to(course.device)
    for batch in endless(order, ResidentBatches(course.train, order, course.device)):
        waves, targets = (batch[name].to(course.device, non_blocking=True) for name in ("previews", "targets"))
        yield loop.log_mels(frontend, waves[:, 0]), targets


def stock_mels(course: Race) -> Iterator[tuple[Tensor, Tensor]]:
    """From a loader whose workers (on a processor it has none) run the feature extractor, without end."""
    order, extract, on_gpu = course.order(), extractor(course.case.seconds), course.device.type == "cuda"

    def collated(items: list[dict[str, Tensor]]) -> tuple[Tensor, Tensor]:
        waves = [item["previews"][0].numpy() / np.float32(32768) for item in items]
        read = extract(waves, sampling_rate=SAMPLE_RATE, return_tensors="pt")["input_values"]
        return read, torch.stack([item["targets"] for item in items])

    loader: Any = torch.utils.data.DataLoader(
        course.train,
        batch_sampler=order,
        num_workers=2 if on_gpu else 0,
        persistent_workers=on_gpu,
        pin_memory=on_gpu,
        collate_fn=collated,
    )
    for parts in endless(order, loader):
        mel, targets = parts
        yield mel.to(course.device, non_blocking=True), targets.to(course.device, non_blocking=True)


def equal_loss(bench: Bench, device: torch.device) -> list[Row]:
    """Seconds of training until validation is as low as the lowest that stock reaches within its epochs.

    Both start from the same weights and see the same songs in the same order under the same optimizer, head and
    precision, without augmentation. Stock is fed by its feature extractor in two workers (none on a processor), ours
    from the bank on the device by its own front end, with half of the patches dropped.
    """
    with bench.scratch() as folder:
        course = race(bench, folder / "market", device)
        case, shape = course.case, course.train.values.shape[1:]
        models = []
        for encoder in pair_of_encoders(case.size, case.seconds, case.stride, case.drop or 0.0):
            torch.manual_seed(0)
            models.append(Plain(encoder, SIZES[case.size][0], (shape[0], shape[1])).to(device).train())
        theirs = learnt(bench, course, models[1], stock_mels(course))
        their_seconds, goal = min(theirs, key=lambda at: (at[1], at[0]))
        mine = learnt(bench, course, models[0], our_mels(course), goal)
    reached = mine[-1][1] <= goal
    row: Row = {"case": f"{case}, {len(course.train)} songs", "validation_loss": goal, "peer_seconds": their_seconds}
    row |= {"our_validation_loss": min(loss for _, loss in mine), "seconds": mine[-1][0], "reached": reached}
    row["ratio_of_an_epoch"] = theirs[-1][0] / len(theirs) / (mine[-1][0] / len(mine))
    if reached:
        row["ratio"] = their_seconds / mine[-1][0]
    return [said("equal_loss", row)]
