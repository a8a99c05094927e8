"""Frame embeddings and 207 descriptors of each song in, its popularity out: Autoen-chorder.

Source: Autoen-chorder (2023): VGGish embeddings, 128 numbers per 0.96 s, through an LSTM autoencoder on packed
sequences (code of 20), beside an autoencoder on HitMusicNet's descriptors (code of 20); the joined 40 through 7 to 12
dense layers, Xavier's uniform weights, biases .1; songs weighted by exp(((t − mean) / (α · sd))² / β), α = β = 2.
VGGish's weights are not here: any extractor of 128 numbers a frame stands in; ours is `frame_statistics`, means and
deviations of 64 log-mel bands per 0.96 s. Not stated, so ours: the layers' width (40), ReLU, Adam and its rates,
standardised targets, the descriptor autoencoder's inner layers, and the decoder, which sees the code at every frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

from mp3model.audio.frontend import SAMPLE_RATE, LogMel
from mp3model.baselines.hitmusicnet import (
    Autoencoder,
    UnitScale,
    checked_rows,
    checked_targets,
    fit_autoencoder,
    train_network,
)
from mp3model.files import InputError

EMBEDDING = 128
FRAMES_PER_EMBEDDING = 96  # of 10 ms, as VGGish's 0.96 s
CODE = 20
LAYERS = range(7, 13)
ALPHA = BETA = 2.0
SEQUENCE_EPOCHS, SEQUENCE_PATIENCE, SEQUENCE_BATCH = 50, 5, 32
EPOCHS, PATIENCE, BATCH, RATE = 100, 10, 64, 1e-3

# (descriptors (n, 207), a (frames, 128) array a song)
Inputs = tuple[np.ndarray, Sequence[np.ndarray]]


def frame_statistics(samples: np.ndarray) -> np.ndarray:
    """(samples,) → (blocks, 128) float32: means, then deviations, of 64 log-mel bands over each whole 0.96 s.

    Args:
        samples: (samples,) mono at 16 kHz, int16 or float in ±1.

    Raises:
        InputError: a clip shorter than one block, or none.
    """
    samples = np.asarray(samples)
    shortest = 400 + (FRAMES_PER_EMBEDDING - 1) * 160
    if samples.ndim != 1 or len(samples) < shortest:
        raise InputError(
            f"samples have shape {samples.shape}; one channel of {shortest / SAMPLE_RATE:.3f} s or more is needed"
        )
    # A copy: banks hand out read-only memory, which torch does not take.
    waveform = torch.from_numpy(np.array(samples, dtype=np.int16 if samples.dtype == np.int16 else np.float32))
    with torch.no_grad():
        mel = _log_mel()(waveform[None])[0]
    blocks = mel[: len(mel) // FRAMES_PER_EMBEDDING * FRAMES_PER_EMBEDDING].unflatten(0, (-1, FRAMES_PER_EMBEDDING))
    return torch.cat([blocks.mean(dim=1), blocks.std(dim=1, correction=0)], dim=1).numpy()


@lru_cache(maxsize=1)
def _log_mel() -> LogMel:
    return LogMel(num_mel_bins=EMBEDDING // 2)


def outlier_weights(
    targets: np.ndarray | Tensor, mean: float, deviation: float, alpha: float = ALPHA, beta: float = BETA
) -> Tensor:
    """(n,) exp(((t − mean) / (α · sd))² / β): 1 at the mean, 1.133 one deviation from it, 1.649 two (α = β = 2)."""
    spread = torch.as_tensor(targets) - mean
    return torch.exp((spread / (alpha * deviation)).square() / beta)


class SequenceAutoencoder(nn.Module):
    """An LSTM to a code, its last state, and an LSTM back, which sees the code at every frame."""

    def __init__(self, embedding: int = EMBEDDING, code: int = CODE) -> None:
        super().__init__()
        self.encoder = nn.LSTM(embedding, code, batch_first=True)
        self.decoder = nn.LSTM(code, embedding, batch_first=True)
        self.out = nn.Linear(embedding, embedding)

    def code(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """(batch, frames, 128), (batch,) → (batch, 20); what lies past a song's length is never read."""
        packed = pack_padded_sequence(frames, lengths.cpu(), batch_first=True, enforce_sorted=False)
        _, (state, _) = self.encoder(packed)
        return state[-1]

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """(batch, frames, 128), (batch,) → the same, rebuilt; 0 past a song's length."""
        repeated = self.code(frames, lengths)[:, None].expand(-1, frames.shape[1], -1)
        packed = pack_padded_sequence(repeated, lengths.cpu(), batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.decoder(packed)[0], batch_first=True, total_length=frames.shape[1])
        return self.out(states) * _present(frames, lengths)[..., None]


def _present(frames: Tensor, lengths: Tensor) -> Tensor:
    return torch.arange(frames.shape[1], device=frames.device)[None] < lengths[:, None]


def rebuilding_error(network: nn.Module, frames: Tensor, lengths: Tensor) -> Tensor:
    """Mean squared error over the frames that are there."""
    wrong = (network(frames, lengths) - frames).square().mean(dim=2)
    present = _present(frames, lengths)
    return (wrong * present).sum() / present.sum()


def make_feed_forward(layers: int, inputs: int = 2 * CODE) -> nn.Sequential:
    """(batch, 40) → (batch, 1): `layers` dense ones, ReLU between them, Xavier's uniform weights, biases .1.

    Raises:
        InputError: not 7 to 12 layers.
    """
    if layers not in LAYERS:
        raise InputError(f"{layers} layers are not among the networks; choose from {LAYERS[0]} to {LAYERS[-1]}")
    modules: list[nn.Module] = []
    for place in range(layers):
        last = place == layers - 1
        dense = nn.Linear(inputs, 1 if last else inputs)
        nn.init.xavier_uniform_(dense.weight)
        nn.init.constant_(dense.bias, 0.1)
        modules += [dense] if last else [dense, nn.ReLU()]
    return nn.Sequential(*modules)


class Autoenchorder:
    """Fits descriptors, frame embeddings and popularities; predicts popularities.

    Args:
        layers: 7 to 12.
        alpha, beta: of `outlier_weights`; alpha None weighs all songs alike.
        epochs: of the feed-forward network, at most.
        sequence_epochs: of the LSTM autoencoder, at most.
        seed: of all weights and the order of the songs.
    """

    def __init__(
        self,
        layers: int = 7,
        alpha: float | None = ALPHA,
        beta: float = BETA,
        epochs: int = EPOCHS,
        sequence_epochs: int = SEQUENCE_EPOCHS,
        seed: int = 0,
    ) -> None:
        if layers not in LAYERS:
            raise InputError(f"{layers} layers are not among the networks; choose from {LAYERS[0]} to {LAYERS[-1]}")
        self.layers, self.alpha, self.beta = layers, alpha, beta
        self.epochs, self.sequence_epochs, self.seed = epochs, sequence_epochs, seed

    def fit(
        self, inputs: Inputs, values: np.ndarray, validation: tuple[Inputs, np.ndarray] | None = None
    ) -> Autoenchorder:
        """Fits scales, both autoencoders and the network from new weights, on these rows only.

        Args:
            inputs: descriptors (n, d) and, a song, an array (frames ≥ 1, 128).
            values: (n,) finite popularities.
            validation: inputs and values of other songs; they stop the training and are otherwise unseen.

        Raises:
            InputError: shapes that do not fit, or values that are not finite.
        """
        descriptors, frames = checked_rows(inputs[0], "descriptors", 2), _checked_frames(inputs)
        targets = checked_targets(values, len(descriptors))
        self.scale, every = UnitScale.of(descriptors), torch.cat(frames)
        self.frame_mean, self.frame_deviation = every.mean(dim=0), _or_one(every.std(dim=0, correction=0))
        self.target_mean, self.target_deviation = targets.mean(), _or_one(targets.std(correction=0))
        held = None if validation is None else self._prepared(validation[0])
        self._fit_autoencoders(self._prepared(inputs), held)
        rows = self._rows(inputs, targets)
        held_rows = None
        if validation is not None:
            held_rows = self._rows(validation[0], checked_targets(validation[1], len(validation[0][0])))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.network = make_feed_forward(self.layers)
        optimizer = torch.optim.Adam(self.network.parameters(), lr=RATE)
        patience = None if held_rows is None else PATIENCE
        self.history = train_network(
            self.network, rows, _weighted_error, optimizer, self.epochs, BATCH, self.seed, patience, held_rows
        )
        return self

    @torch.no_grad()
    def predict(self, inputs: Inputs) -> np.ndarray:
        """(n,) popularities in the targets' unit; inputs as in `fit`."""
        out = self.network(self.codes(inputs))[:, 0]
        return (out * self.target_deviation + self.target_mean).numpy()

    @torch.no_grad()
    def codes(self, inputs: Inputs) -> Tensor:
        """(n, 40): of the frames, then of the descriptors."""
        descriptors, frames, lengths = self._prepared(inputs)
        return torch.cat([self.sequences.code(frames, lengths), self.autoencoder.encoder(descriptors)], dim=1)

    def _fit_autoencoders(self, train: tuple[Tensor, ...], held: tuple[Tensor, ...] | None) -> None:
        size = train[0].shape[1]
        sizes = (size, max(CODE, size // 2), CODE)
        self.autoencoder: Autoencoder = fit_autoencoder(
            train[0], sizes, self.seed, BATCH, None if held is None else held[0]
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.sequences = SequenceAutoencoder()
        optimizer = torch.optim.Adam(self.sequences.parameters(), lr=RATE)
        others = None if held is None else held[1:]
        train_network(
            self.sequences,
            train[1:],
            rebuilding_error,
            optimizer,
            self.sequence_epochs,
            SEQUENCE_BATCH,
            self.seed,
            SEQUENCE_PATIENCE,
            others,
        )

    def _prepared(self, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
        """Scaled descriptors, padded frames and their lengths."""
        descriptors, frames = checked_rows(inputs[0], "descriptors", 2), _checked_frames(inputs)
        if descriptors.shape[1] != len(self.scale.lowest):
            raise InputError(
                f"descriptors have {descriptors.shape[1]} columns; the net was fitted on {len(self.scale.lowest)}"
            )
        padded = pad_sequence([(song - self.frame_mean) / self.frame_deviation for song in frames], batch_first=True)
        return self.scale(descriptors), padded, torch.tensor([len(song) for song in frames])

    def _rows(self, inputs: Inputs, targets: Tensor) -> list[Tensor]:
        """Codes, standardised targets and the songs' weights."""
        weights = torch.ones(len(targets))
        if self.alpha is not None:
            weights = outlier_weights(
                targets, float(self.target_mean), float(self.target_deviation), self.alpha, self.beta
            )
        return [self.codes(inputs), ((targets - self.target_mean) / self.target_deviation).float(), weights.float()]


def _weighted_error(network: nn.Module, codes: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    return (weights * (network(codes)[:, 0] - targets).square()).mean()


def _checked_frames(inputs: Inputs) -> list[Tensor]:
    descriptors, frames = inputs
    if len(frames) != len(descriptors):
        raise InputError(f"{len(frames)} songs have frames and {len(descriptors)} have descriptors; give each both")
    checked = [checked_rows(song, f"frames of row {place}", 2) for place, song in enumerate(frames)]
    for place, song in enumerate(checked):
        if song.shape[1] != EMBEDDING:
            raise InputError(f"frames of row {place} have {song.shape[1]} numbers each; {EMBEDDING} are needed")
    return checked


def _or_one(deviation: Tensor) -> Tensor:
    return torch.where(deviation > 0, deviation, torch.ones_like(deviation))
