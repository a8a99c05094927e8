"""Mels, tags and targets in; a trained KKBOX model with its scales out, alone or as a baseline of one table.

Stated by the public code and kept: mean squared error, Adagrad at 5e-3 (TensorFlow's, whose squares start at 0.1),
rate × 0.9 on a plateau, batches of 10, at most 150 epochs. Not stated, so ours: what a plateau is (`PLATEAU` epochs
without a better validation loss), when to stop (`PATIENCE` epochs unless asked for others), the scaling of inputs and
targets, and the siamese loss's margin, weight and pairs.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from mp3model.baselines.kkbox import make_model
from mp3model.files import InputError

EPOCHS, BATCH, RATE, DECAY = 150, 10, 5e-3, 0.9
PLATEAU, PATIENCE = 3, 20
_FIRST_SQUARES = 0.1
_AT_ONCE = 64
_COMPRESSION = 10_000.0

Loss = Callable[[Tensor, Tensor], Tensor]


def hit_score(playcount: np.ndarray, listeners: np.ndarray, base: float = 10.0) -> np.ndarray:
    """log(playcount) × log(listeners), the target of arXiv 1704.01280, which does not state the base.

    Another base multiplies all scores by one number: no order, no correlation and no standardised target changes.

    Args:
        playcount, listeners: (n,) counts, at least 1; NaN where unknown.
        base: of both logarithms.

    Raises:
        InputError: a count below 1.
    """
    counts = [np.asarray(playcount, dtype=float), np.asarray(listeners, dtype=float)]
    for name, values in zip(("playcount", "listeners"), counts, strict=True):
        if (values < 1).any():
            raise InputError(f"{name} is {values[values < 1][0]:g}; a hit score needs at least 1, leave the song out")
    return np.log(counts[0]) * np.log(counts[1]) / math.log(base) ** 2


def squared_error(predicted: Tensor, target: Tensor) -> Tensor:
    """(batch, outputs) twice → the mean squared error over the targets that are known; 0 where none is."""
    known = ~torch.isnan(target)
    difference = torch.where(known, predicted - torch.where(known, target, 0.0), 0.0)
    return difference.square().sum() / known.sum().clamp(min=1)


def ranking_loss(predicted: Tensor, target: Tensor, margin: float = 0.1) -> Tensor:
    """(batch, outputs) twice → the mean hinge of the pairs of songs whose targets differ; 0 where there is none.

    max(0, margin − (score of the higher − score of the lower)). Every pair within the batch is taken, an output at a
    time: both members went through the same weights, which is what makes the network siamese.
    """
    higher = target[:, None] > target[None]  # false wherever a target is NaN
    hinge = (margin - (predicted[:, None] - predicted[None])).clamp(min=0.0)
    return torch.where(higher, hinge, 0.0).sum() / higher.sum().clamp(min=1)


def siamese_loss(predicted: Tensor, target: Tensor, margin: float = 0.1, weight: float = 0.5) -> Tensor:
    """`squared_error` + weight · `ranking_loss`: the Euclidean and pairwise ranking loss of arXiv 1710.10814.

    Its margin, weight and pairs are not stated; these are ours, the margin in standard deviations of the target.
    """
    return squared_error(predicted, target) + weight * ranking_loss(predicted, target, margin)


@dataclass(frozen=True)
class Scale:
    """Mean and deviation of one input or of the targets, taken from training rows only.

    Mels are first compressed, log(1 + 10,000 · power), as JYnet's are: the raw power that the published network takes
    spans eleven orders of magnitude.
    """

    mean: Tensor
    deviation: Tensor
    compressed: bool

    @classmethod
    def of(cls, rows: Tensor) -> Scale:
        """Of (n, columns), a column at a time and without NaN, or of mels (n, bands, frames), a band at a time."""
        if rows.ndim == 2:
            known = ~torch.isnan(rows)
            count = known.sum(dim=0).clamp(min=1)
            mean = torch.where(known, rows, 0.0).sum(dim=0) / count
            square = torch.where(known, (rows - mean).square(), 0.0).sum(dim=0) / count
            return cls(mean, _above_zero(square.sqrt()), False)
        # Two passes over small blocks: a catalogue's compressed copy would double its memory.
        size = rows.shape[0] * rows.shape[2]
        mean = torch.zeros(rows.shape[1], dtype=torch.float64)
        square = torch.zeros_like(mean)
        for block in rows.split(_AT_ONCE):
            mean += _compress(block).double().sum(dim=(0, 2)) / size
        for block in rows.split(_AT_ONCE):
            square += (_compress(block).double() - mean[:, None]).square().sum(dim=(0, 2)) / size
        return cls(mean.float()[:, None], _above_zero(square.sqrt().float())[:, None], True)

    def to(self, device: str | torch.device) -> Scale:
        return Scale(self.mean.to(device), self.deviation.to(device), self.compressed)

    def __call__(self, rows: Tensor) -> Tensor:
        return ((_compress(rows) if self.compressed else rows) - self.mean) / self.deviation


def _compress(mel: Tensor) -> Tensor:
    return torch.log1p(_COMPRESSION * mel)


def _above_zero(deviation: Tensor) -> Tensor:
    return torch.where(deviation > 0, deviation, 1.0)


@dataclass(frozen=True)
class Fitted:
    """A trained model, the scales of its inputs and targets, and the losses of each epoch.

    Attributes:
        history: one dict an epoch: epoch, rate, train, and validation where there was one; losses of scaled targets.
        best_epoch: whose weights are kept, from 1.
    """

    model: nn.Module
    inputs: list[Scale]
    target: Scale
    history: list[dict[str, float]] = field(repr=False)
    best_epoch: int

    @torch.no_grad()
    def predict(self, inputs: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
        """(n, outputs) predictions in the targets' own unit; inputs as in `fit`."""
        tensors = _tensors(self.model, inputs)
        device = next(self.model.parameters()).device
        scales = [scale.to(device) for scale in self.inputs]
        target = self.target.to(device)
        parts = []
        for rows in torch.arange(len(tensors[0])).split(_AT_ONCE):
            out = self.model(*(scale(part[rows].to(device)) for scale, part in zip(scales, tensors, strict=True)))
            parts.append((out * target.deviation + target.mean).cpu())
        return torch.cat(parts).numpy() if parts else np.zeros((0, len(self.target.mean)), np.float32)


def fit(
    model: nn.Module,
    inputs: np.ndarray | Sequence[np.ndarray],
    targets: np.ndarray,
    validation: tuple[np.ndarray | Sequence[np.ndarray], np.ndarray] | None = None,
    loss: Loss = squared_error,
    epochs: int = EPOCHS,
    batch: int = BATCH,
    rate: float = RATE,
    seed: int = 0,
    device: str = "cpu",
    patience: int = PATIENCE,
) -> Fitted:
    """Trains one of M1 to M6 in place; the same arguments give the same weights on the same processor.

    The best epoch by validation loss is kept, by training loss where there is no validation.

    Args:
        model: from `make_model`.
        inputs: what the model takes, in the order of its `inputs`: raw power mels (n, 128, frames), tag loadings
            (n, 50), or both; one array may stand alone.
        targets: (n,) or (n, outputs), any unit; NaN where unknown.
        validation: inputs and targets of other songs; choose songs of other artists.
        loss: of standardised predictions and targets: `squared_error` or `siamese_loss`.
        epochs: at most.
        batch: songs a step.
        rate: first learning rate of Adagrad.
        seed: of the order of the songs.
        device: where to train.
        patience: epochs without a better loss after which training stops.

    Raises:
        InputError: shapes that do not fit, a mel or tag that is not finite, no known target, or a loss that is none.
    """
    rows, known = _prepared(model, inputs, targets)
    scales, target = [Scale.of(part) for part in rows], Scale.of(known)
    train = ([*rows], target(known))
    held = None
    if validation is not None:
        held_rows, held_targets = _prepared(model, *validation)
        held = (held_rows, target(held_targets))
    model.to(device)
    scales = [scale.to(device) for scale in scales]
    _check_outputs(model, scales, train, device)
    if held is not None:
        _check_outputs(model, scales, held, device)
    optimizer = torch.optim.Adagrad(model.parameters(), lr=rate, initial_accumulator_value=_FIRST_SQUARES)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=DECAY, patience=PLATEAU)
    order = torch.Generator().manual_seed(seed)
    history: list[dict[str, float]] = []
    best, best_epoch, kept = math.inf, 0, copy.deepcopy(model.state_dict())
    for epoch in range(1, epochs + 1):
        line = {"epoch": epoch, "rate": optimizer.param_groups[0]["lr"]}
        line["train"] = _epoch(model, scales, train, loss, batch, device, optimizer, order)
        if held is not None:
            line["validation"] = _epoch(model, scales, held, loss, _AT_ONCE, device)
        history.append(line)
        watched = line["train" if held is None else "validation"]
        if not math.isfinite(watched):
            raise InputError(f"the loss is {watched} in epoch {epoch}; lower the rate of {rate:g} or scale the targets")
        schedule.step(watched)
        if watched < best:
            best, best_epoch, kept = watched, epoch, copy.deepcopy(model.state_dict())
        elif epoch - best_epoch >= patience:
            break
    model.load_state_dict(kept)
    return Fitted(model.eval(), [scale.to("cpu") for scale in scales], target, history, best_epoch)


def _check_outputs(model: nn.Module, scales: list[Scale], data: tuple[list[Tensor], Tensor], device: str) -> None:
    # Torch would stretch one output over many targets without a word.
    rows, targets = data
    with torch.no_grad():
        out = model(*(scale(part[:1].to(device)) for scale, part in zip(scales, rows, strict=True)))
    if out.shape[1] != targets.shape[1]:
        raise InputError(
            f"targets have {targets.shape[1]} columns and the model {out.shape[1]} outputs; make them equal"
        )


def _epoch(
    model: nn.Module,
    scales: list[Scale],
    data: tuple[list[Tensor], Tensor],
    loss: Loss,
    batch: int,
    device: str,
    optimizer: torch.optim.Optimizer | None = None,
    order: torch.Generator | None = None,
) -> float:
    """The mean loss a song; one step a batch where there is an optimizer, in the order that the generator gives."""
    rows, targets = data
    model.train(optimizer is not None)
    places = torch.arange(len(targets)) if order is None else torch.randperm(len(targets), generator=order)
    total = 0.0
    with torch.set_grad_enabled(optimizer is not None):
        for chosen in places.split(batch):
            out = model(*(scale(part[chosen].to(device)) for scale, part in zip(scales, rows, strict=True)))
            value = loss(out, targets[chosen].to(device))
            if optimizer is not None:
                optimizer.zero_grad()
                value.backward()
                optimizer.step()
            total += float(value.detach()) * len(chosen)
    return total / len(targets)


def _tensors(model: nn.Module, inputs: np.ndarray | Sequence[np.ndarray]) -> list[Tensor]:
    arrays = [inputs] if isinstance(inputs, np.ndarray) else list(inputs)
    names: tuple[str, ...] = model.inputs  # type: ignore[assignment]
    if len(arrays) != len(names):
        raise InputError(f"{len(arrays)} inputs given; {type(model).__name__} takes {' and '.join(names)}")
    wanted = {"mel": (3, "(n, 128, frames)"), "tags": (2, "(n, 50)")}
    tensors = []
    for name, array in zip(names, arrays, strict=True):
        sides, shape = wanted[name]
        if array.ndim != sides or array.shape[1] != (128 if name == "mel" else 50) or len(array) != len(arrays[0]):
            raise InputError(f"{name} has shape {array.shape}; {shape} is needed, a row a song in each input")
        if name == "mel" and (array < 0).any():
            raise InputError(f"mel holds {array[array < 0][0]:g}; give raw power, without a logarithm or decibels")
        if not np.isfinite(array).all():
            row = int(np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))[0])
            raise InputError(f"{name} of row {row} holds NaN or infinite values; repair it or leave the song out")
        tensors.append(torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)))
    return tensors


def _prepared(
    model: nn.Module, inputs: np.ndarray | Sequence[np.ndarray], targets: np.ndarray
) -> tuple[list[Tensor], Tensor]:
    rows = _tensors(model, inputs)
    values = np.asarray(targets, dtype=np.float32)
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim != 2 or len(values) != len(rows[0]):
        raise InputError(f"targets have shape {values.shape}; ({len(rows[0])}, outputs) is needed, a row a song")
    if np.isinf(values).any() or np.isnan(values).all():
        raise InputError("targets are infinite, or all unknown; give finite targets, and NaN where one is unknown")
    return rows, torch.from_numpy(values)


class KKBOXBaseline:
    """One of M1 to M6 as a row of the table: one network for all regions, an output a region.

    Args:
        name: "M1" to "M6".
        song_ids: (n,) the songs that the inputs describe, a row each.
        inputs: as in `fit`, for all n songs.
        siamese: Train with `siamese_loss`.
        options: further arguments of `fit`: epochs, batch, rate, seed, device, patience.

    Raises:
        InputError: a song twice, or inputs of another length.
    """

    def __init__(
        self,
        name: str,
        song_ids: Sequence[str],
        inputs: np.ndarray | Sequence[np.ndarray],
        siamese: bool = False,
        **options: int | float | str,
    ) -> None:
        self.name, self.songs, self.options = name, pd.Index(song_ids), options
        self.inputs = [inputs] if isinstance(inputs, np.ndarray) else list(inputs)
        self.loss: Loss = siamese_loss if siamese else squared_error
        if self.songs.has_duplicates:
            song = self.songs[self.songs.duplicated()][0]
            raise InputError(f"song {song!r} has two rows of inputs; give one a song")
        for array in self.inputs:
            if len(array) != len(self.songs):
                raise InputError(f"inputs have {len(array)} rows for {len(self.songs)} songs; give a row a song")

    def fit(self, train: pd.DataFrame, target: str = "true", validation: pd.DataFrame | None = None) -> KKBOXBaseline:
        """Fits `target` by `song_id` and `region`; rows with a NaN target are left out, repeated ones averaged.

        Raises:
            InputError: no row is left, a song has no inputs, or validation has a region that training has not.
        """
        self.regions = sorted(train[train[target].notna()]["region"].unique())
        if not self.regions:
            raise InputError(f"none of the {len(train)} training rows has a {target}; a network needs at least one")
        seed = int(self.options.get("seed", 0))
        held = None
        if validation is not None:
            self._check_regions(validation)
            held = self._rows(validation, target)
        options: dict = dict(self.options)
        model = make_model(self.name, len(self.regions), seed)
        self.fitted = fit(model, *self._rows(train, target), validation=held, loss=self.loss, **options)
        return self

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        """(n,) predictions for the rows' `song_id` and `region`.

        Raises:
            InputError: a region without training rows, or a song without inputs.
        """
        self._check_regions(frame)
        songs = pd.Index(frame["song_id"].unique())
        places = self._places(songs)
        values = self.fitted.predict([array[places] for array in self.inputs])
        columns = pd.Index(self.regions).get_indexer(frame["region"])
        return values[songs.get_indexer(frame["song_id"]), columns].astype(float)

    def _rows(self, frame: pd.DataFrame, target: str) -> tuple[list[np.ndarray], np.ndarray]:
        table = frame[frame[target].notna()].pivot_table(index="song_id", columns="region", values=target)
        places = self._places(table.index)
        return [array[places] for array in self.inputs], table.reindex(columns=self.regions).to_numpy(dtype=float)

    def _places(self, songs: pd.Index) -> np.ndarray:
        places = self.songs.get_indexer(songs)
        if (places < 0).any():
            raise InputError(f"song {songs[places < 0][0]!r} has no inputs; compute them, or leave its rows out")
        return places

    def _check_regions(self, frame: pd.DataFrame) -> None:
        unknown = sorted(set(frame["region"]) - set(self.regions))
        if unknown:
            known = ", ".join(self.regions)
            raise InputError(f"region {unknown[0]} had no training rows: leave its rows out; known are {known}")
