"""A row of numbers a song in, popularity or one of three classes out: HitMusicNet, without its leaks.

Source: Martín-Gutiérrez, Hernández Peñaloza, Belmonte-Hernández and Álvarez García, IEEE Access 8 (2020): 228 inputs
scaled to 0..1, an autoencoder 228-114-76-45-76-114-228 (ReLU, sigmoid out, Adam, squared error, ≤ 50 epochs, patience
2) and a net 45-45-22-15-1 (dropout .25, Adadelta, batches of 256, ≤ 100 epochs, sigmoid out) or three classes. Not
stated, so ours: ReLU within the net, the rates, the best epoch's weights kept. Here the scaler and the autoencoder see
training rows only, and every fit starts from new weights. `ByRegion` and `train_network` serve the other networks too.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

from mp3model.files import InputError

THRESHOLDS = (25.0, 65.0)  # of a popularity from 0 to 100: low below the first, high from the second on
AUTOENCODER_EPOCHS, AUTOENCODER_PATIENCE, AUTOENCODER_RATE = 50, 2, 1e-3
EPOCHS, BATCH, DROPOUT = 100, 256, 0.25
_AT_ONCE = 256


@dataclass(frozen=True)
class UnitScale:
    """Lowest value and range of each column of the training rows, which become 0..1; a constant column becomes 0.

    Other rows are cut to 0..1: what lies outside was never learnt, and the autoencoder could not answer it.
    """

    lowest: Tensor
    span: Tensor

    @classmethod
    def of(cls, rows: Tensor) -> UnitScale:
        lowest = rows.amin(dim=0)
        span = rows.amax(dim=0) - lowest
        return cls(lowest, torch.where(span > 0, span, 1.0))

    def __call__(self, rows: Tensor) -> Tensor:
        return ((rows - self.lowest) / self.span).clamp(0.0, 1.0)

    def back(self, rows: Tensor) -> Tensor:
        return rows * self.span + self.lowest


class Autoencoder(nn.Module):
    """Dense layers down to a code and back, ReLU throughout and a sigmoid at the end.

    Args:
        sizes: from the inputs to the code, for instance (228, 114, 76, 45).
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.encoder = _dense(sizes)
        self.decoder = _dense(sizes[::-1])[:-1].append(nn.Sigmoid())

    def forward(self, rows: Tensor) -> Tensor:
        """(batch, inputs) in 0..1 → the same, rebuilt."""
        return self.decoder(self.encoder(rows))


def _dense(sizes: Sequence[int], dropout: float = 0.0) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
        if dropout:
            layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers)


def autoencoder_sizes(inputs: int) -> tuple[int, int, int, int]:
    """The paper's form for any number of inputs: a half, a third and a fifth; 228 → (228, 114, 76, 45)."""
    if inputs < 5:
        raise InputError(f"{inputs} inputs leave no code for the autoencoder; give at least 5 columns")
    return inputs, inputs // 2, inputs // 3, inputs // 5


def make_net(code: int, outputs: int) -> nn.Sequential:
    """(batch, code) → (batch, outputs): code, a half and a third of it wide; 45 → 45-45-22-15-outputs, no activation.

    The sigmoid of the paper's regression is applied outside, in `HitMusicNet`.
    """
    sizes = (code, code, max(1, code // 2), max(1, code // 3))
    return nn.Sequential(*_dense(sizes, DROPOUT), nn.Linear(sizes[-1], outputs))


def train_network(
    network: nn.Module,
    rows: Sequence[Tensor],
    objective: Callable[..., Tensor],
    optimizer: torch.optim.Optimizer,
    epochs: int,
    batch: int,
    seed: int,
    patience: int | None = None,
    held: Sequence[Tensor] | None = None,
) -> list[float]:
    """Trains in place and keeps the best epoch's weights; returns the watched loss of each epoch.

    Watched is the loss of the held rows, or where there are none that of the training rows as they were passed.

    Args:
        rows: tensors of n rows each, on the processor; batches move to the network's device.
        objective: (network, *rows of a batch) → the batch's mean loss.
        seed: of the order of the rows and of dropout; the global generator is left as it was.
        patience: stop after so many epochs without a better loss; None never stops.
        held: as `rows`, of songs that choose the epoch and teach nothing.

    Raises:
        InputError: the loss is not finite.
    """
    order = torch.Generator().manual_seed(seed)
    history: list[float] = []
    best, best_epoch, kept = math.inf, 0, copy.deepcopy(network.state_dict())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for epoch in range(1, epochs + 1):
            watched = _epoch(network, rows, objective, batch, optimizer, order)
            if held is not None:
                watched = _epoch(network, held, objective, _AT_ONCE)
            if not math.isfinite(watched):
                raise InputError(f"the loss is {watched} in epoch {epoch}; lower the rate, or look for huge inputs")
            history.append(watched)
            if watched < best:
                best, best_epoch, kept = watched, epoch, copy.deepcopy(network.state_dict())
            elif patience is not None and epoch - best_epoch >= patience:
                break
    network.load_state_dict(kept)
    network.eval()
    return history


def _epoch(
    network: nn.Module,
    rows: Sequence[Tensor],
    objective: Callable[..., Tensor],
    batch: int,
    optimizer: torch.optim.Optimizer | None = None,
    order: torch.Generator | None = None,
) -> float:
    """The mean loss a row; one step a batch where there is an optimizer."""
    network.train(optimizer is not None)
    device = next(network.parameters()).device
    places = torch.arange(len(rows[0])) if order is None else torch.randperm(len(rows[0]), generator=order)
    total = 0.0
    with torch.set_grad_enabled(optimizer is not None):
        for chosen in places.split(batch):
            loss = objective(network, *(part[chosen].to(device) for part in rows))
            if optimizer is not None:
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            total += float(loss.detach()) * len(chosen)
    return total / len(places)


def fit_autoencoder(
    rows: Tensor,
    sizes: Sequence[int],
    seed: int,
    batch: int = BATCH,
    held: Tensor | None = None,
    epochs: int = AUTOENCODER_EPOCHS,
) -> Autoencoder:
    """An autoencoder of (n, sizes[0]) rows in 0..1, from new weights, stopped as in the paper."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Autoencoder(sizes)
    optimizer = torch.optim.Adam(network.parameters(), lr=AUTOENCODER_RATE)
    others = None if held is None else [held]
    train_network(network, [rows], _rebuilt, optimizer, epochs, batch, seed, AUTOENCODER_PATIENCE, others)
    return network


def _rebuilt(network: nn.Module, rows: Tensor) -> Tensor:
    return functional.mse_loss(network(rows), rows)


def classes_of(values: np.ndarray, thresholds: Sequence[float]) -> np.ndarray:
    """(n,) whole numbers from 0: how many of the rising thresholds each value reaches."""
    return np.searchsorted(np.asarray(thresholds, dtype=float), np.asarray(values, dtype=float), side="right")


class HitMusicNet:
    """Fits rows of numbers and popularities; predicts popularities, or classes 0, 1 and 2.

    Args:
        thresholds: two rising values in the target's unit, for instance `THRESHOLDS`, for classes; None for
            regression, whose predictions lie within the range of the training targets.
        epochs: of the net, at most.
        batch: rows a step.
        seed: of both networks' weights, the order of the rows and dropout.
        autoencoder_epochs: of the autoencoder, at most.
    """

    def __init__(
        self,
        thresholds: tuple[float, float] | None = None,
        epochs: int = EPOCHS,
        batch: int = BATCH,
        seed: int = 0,
        autoencoder_epochs: int = AUTOENCODER_EPOCHS,
    ) -> None:
        if thresholds is not None and not thresholds[0] < thresholds[1]:
            raise InputError(f"thresholds are {thresholds}; give two rising values")
        self.thresholds, self.epochs, self.batch, self.seed = thresholds, epochs, batch, seed
        self.autoencoder_epochs = autoencoder_epochs

    def fit(
        self,
        inputs: np.ndarray,
        values: np.ndarray,
        validation: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> HitMusicNet:
        """Fits scaler, autoencoder and net from new weights.

        Args:
            inputs: (n, d) finite numbers, d ≥ 5: descriptors, and whatever high-level columns there are.
            values: (n,) finite popularities.
            validation: inputs and values of other songs; they stop the training and are otherwise unseen.

        Raises:
            InputError: no rows, shapes that do not fit, or values that are not finite.
        """
        rows = checked_rows(inputs, "inputs", 2)
        targets = checked_targets(values, len(rows))
        self.scale, self.target_scale = UnitScale.of(rows), UnitScale.of(targets)
        scaled, held = self.scale(rows), None
        if validation is not None:
            others = self.scale(self._checked(validation[0]))
            held = [others, self._targets(checked_targets(validation[1], len(others)))]
        sizes = autoencoder_sizes(rows.shape[1])
        self.autoencoder = fit_autoencoder(
            scaled, sizes, self.seed, self.batch, held[0] if held else None, self.autoencoder_epochs
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.net = make_net(sizes[-1], 1 if self.thresholds is None else len(self.thresholds) + 1)
        with torch.no_grad():
            data = [self.autoencoder.encoder(scaled), self._targets(targets)]
            if held is not None:
                held[0] = self.autoencoder.encoder(held[0])
        # The paper names Adadelta only: its author's rate (Zeiler, 2012).
        optimizer = torch.optim.Adadelta(self.net.parameters(), lr=1.0)
        self.history = train_network(
            self.net, data, self._objective, optimizer, self.epochs, self.batch, self.seed, held=held
        )
        return self

    def predict(self, inputs: np.ndarray) -> np.ndarray:
        """(n, d) → (n,) popularities in the targets' unit, or class numbers."""
        out = self._out(inputs)
        if self.thresholds is not None:
            return out.argmax(dim=1).numpy()
        return self.target_scale.back(torch.sigmoid(out[:, 0])).numpy()

    def probabilities(self, inputs: np.ndarray) -> np.ndarray:
        """(n, d) → (n, 3) probabilities of the classes.

        Raises:
            InputError: the net was made for regression.
        """
        if self.thresholds is None:
            raise InputError("a net for regression has no class probabilities; give thresholds")
        return self._out(inputs).softmax(dim=1).numpy()

    @torch.no_grad()
    def _out(self, inputs: np.ndarray) -> Tensor:
        return self.net(self.autoencoder.encoder(self.scale(self._checked(inputs))))

    def _checked(self, inputs: np.ndarray) -> Tensor:
        rows = checked_rows(inputs, "inputs", 2)
        if rows.shape[1] != len(self.scale.lowest):
            raise InputError(f"inputs have {rows.shape[1]} columns; the net was fitted on {len(self.scale.lowest)}")
        return rows

    def _targets(self, values: Tensor) -> Tensor:
        if self.thresholds is None:
            return self.target_scale(values).float()
        return torch.from_numpy(classes_of(values.numpy(), self.thresholds))

    def _objective(self, network: nn.Module, codes: Tensor, targets: Tensor) -> Tensor:
        out = network(codes)
        if self.thresholds is None:
            return functional.mse_loss(torch.sigmoid(out[:, 0]), targets)
        return functional.cross_entropy(out, targets)


def checked_rows(values: np.ndarray, name: str, sides: int) -> Tensor:
    """The array as float32, once it has the right number of sides, rows and only finite values."""
    array = np.asarray(values)
    if array.ndim != sides or not len(array):
        raise InputError(f"{name} have shape {array.shape}; {sides} axes and at least one row are needed")
    rows = np.ascontiguousarray(array, dtype=np.float32)
    if not np.isfinite(rows).all():
        row = int(np.flatnonzero(~np.isfinite(rows).reshape(len(rows), -1).all(axis=1))[0])
        raise InputError(f"{name} of row {row} hold NaN or infinite values; repair it or leave the song out")
    return torch.from_numpy(rows)


def checked_targets(values: np.ndarray, rows: int) -> Tensor:
    """(rows,) finite targets as float64: classes part at thresholds that float32 would round."""
    targets = np.array(values, dtype=np.float64)  # a copy: torch takes no read-only memory
    if targets.shape != (rows,):
        raise InputError(f"targets have shape {targets.shape} for {rows} rows of inputs; give one a row")
    if not np.isfinite(targets).all():
        row = int(np.flatnonzero(~np.isfinite(targets))[0])
        raise InputError(f"the target of row {row} is {targets[row]}; leave the song out")
    return torch.from_numpy(targets)


class System(Protocol):
    """What `ByRegion` fits: `HitMusicNet`, `SpectrogramCNN` or `Autoenchorder`."""

    def fit(self, inputs: Any, values: np.ndarray, validation: tuple[Any, np.ndarray] | None = None) -> System: ...

    def predict(self, inputs: Any) -> np.ndarray: ...


class ByRegion:
    """A system as a row of the table: one fitted anew a region, on that region's training songs.

    Args:
        make: A new, unfitted system.
        song_ids: (n,) the songs that the inputs describe, a row each.
        inputs: what the system takes, for all n songs: an array, a list, or a tuple of those.

    Raises:
        InputError: a song twice, or inputs of another length.
    """

    def __init__(self, make: Callable[[], System], song_ids: Sequence[str], inputs: Any) -> None:
        self.make, self.songs, self.inputs = make, pd.Index(song_ids), inputs
        if self.songs.has_duplicates:
            song = self.songs[self.songs.duplicated()][0]
            raise InputError(f"song {song!r} has two rows of inputs; give one a song")
        for part in inputs if isinstance(inputs, tuple) else (inputs,):
            if len(part) != len(self.songs):
                raise InputError(f"inputs have {len(part)} rows for {len(self.songs)} songs; give a row a song")

    def fit(self, train: pd.DataFrame, target: str = "true", validation: pd.DataFrame | None = None) -> ByRegion:
        """Fits `target` by `song_id` and `region`; rows with a NaN target are left out, repeated ones averaged.

        Raises:
            InputError: no row is left, or a song has no inputs.
        """
        known = train[train[target].notna()]
        if not len(known):
            raise InputError(f"none of the {len(train)} training rows has a {target}; a network needs at least one")
        held = None if validation is None else validation[validation[target].notna()]
        self.systems: dict[str, System] = {}
        for region, rows in known.groupby("region"):
            others = None if held is None else held[held["region"] == region]
            chosen = None if others is None or not len(others) else self._data(others, target)
            self.systems[str(region)] = self.make().fit(*self._data(rows, target), chosen)
        return self

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        """(n,) predictions for the rows' `song_id` and `region`.

        Raises:
            InputError: a region without training rows, or a song without inputs.
        """
        unknown = sorted(set(frame["region"]) - set(self.systems))
        if unknown:
            known = ", ".join(self.systems)
            raise InputError(f"region {unknown[0]} had no training rows: leave its rows out; known are {known}")
        result = np.zeros(len(frame))
        for region in frame["region"].unique():
            rows = (frame["region"] == region).to_numpy()
            result[rows] = self.systems[region].predict(self._inputs(frame["song_id"][rows]))
        return result

    def _data(self, rows: pd.DataFrame, target: str) -> tuple[Any, np.ndarray]:
        values = rows.groupby("song_id")[target].mean()
        return self._inputs(values.index), values.to_numpy(dtype=float)

    def _inputs(self, song_ids: pd.Index | pd.Series) -> Any:
        places = self.songs.get_indexer(pd.Index(song_ids))
        if (places < 0).any():
            song = pd.Index(song_ids)[places < 0][0]
            raise InputError(f"song {song!r} has no inputs; compute them, or leave its rows out")
        return _taken(self.inputs, places)


def _taken(inputs: Any, places: np.ndarray) -> Any:
    if isinstance(inputs, tuple):
        return tuple(_taken(part, places) for part in inputs)
    return inputs[places] if isinstance(inputs, np.ndarray) else [inputs[place] for place in places]
