"""Spectrogram images in, one of three classes of listens out: the Stanford networks of 2, 4 and 6 convolutions.

Source: the Stanford course project on fma_small: images of 102×159 of a random 10 s, networks of convolutions (ReLU,
batch norm, max-pool), a dense layer of 512 with dropout .4 and a softmax; Adam at 5e-4, batches of 16, ≤ 100 epochs, a
grid search over rate, batch and dropout. Its classes hold 16.8, 46.7 and 36.5 % of the songs by thresholds not stated:
ours are the .168 and .635 quantiles of the training targets. Not stated either, so ours: the axes of the image, the
channels, and that the best epoch on the validation songs is kept. The majority class alone gave 46.7 % there, so the
scores put it beside.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mp3model.baselines.hitmusicnet import checked_rows, checked_targets, classes_of, train_network
from mp3model.baselines.waveforms import waveform_of
from mp3model.files import InputError

RATE = 16_000
SECONDS = 10
HEIGHT, WIDTH = 102, 159
QUANTILES = (0.168, 0.635)
CONVOLUTIONS = (2, 4, 6)
CHANNELS = (16, 32, 64, 64, 128, 128)
EPOCHS, BATCH, LEARNING_RATE, DENSE, DROPOUT = 100, 16, 5e-4, 512, 0.4
# 1,020 bins beside that at 0 Hz: ten a row of the image.
_WINDOW = 2040
_HOP = (SECONDS * RATE - _WINDOW) // (WIDTH - 1)
_RANGE = 80.0  # dB below the loudest point that are drawn
_QUIETEST = 1e-10
_AT_ONCE = 64
# At torch's 0.1, six norms in a row still carry their first values after the few dozen steps that small sets give.
_NORM_MOMENTUM = 0.3


def spectrogram_image(
    samples: np.ndarray, colour: bool = False, generator: np.random.Generator | None = None
) -> np.ndarray:
    """(1, 102, 159) or, in colour, (3, 102, 159) float32 in 0..1 of 10 s of a clip; row 0 holds the highest tones.

    Power on a linear scale of frequency to 8 kHz, in dB from 80 below the loudest point (0) up to it (1); silence is 0.
    The colours are matplotlib's viridis: three functions of the one value, which add nothing that was heard.

    Args:
        samples: (samples,) mono at 16 kHz, int16 or float in ±1; shorter than 10 s, it ends in zeros.
        colour: Three channels for one.
        generator: Chooses the 10 s; None takes the middle.

    Raises:
        InputError: not a non-empty one-dimensional array of finite values.
    """
    waveform = _ten_seconds(samples, generator)
    frames = np.lib.stride_tricks.sliding_window_view(waveform, _WINDOW)[::_HOP][:WIDTH]
    hann = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_WINDOW) / _WINDOW)).astype(np.float32)
    power = np.abs(np.fft.rfft(frames * hann, axis=1)[:, 1:]) ** 2
    image = power.reshape(WIDTH, HEIGHT, -1).mean(axis=2).T[::-1]
    level = 10.0 * np.log10(np.maximum(image, _QUIETEST))
    floor = max(level.max() - _RANGE, 10.0 * np.log10(_QUIETEST))
    shade = ((level - floor) / _RANGE).clip(0.0, 1.0).astype(np.float32)
    if not colour:
        return shade[None]
    from matplotlib import colormaps

    return np.moveaxis(colormaps["viridis"](shade)[..., :3], 2, 0).astype(np.float32)


def _ten_seconds(samples: np.ndarray, generator: np.random.Generator | None) -> np.ndarray:
    waveform = waveform_of(samples)
    spare = max(0, len(waveform) - SECONDS * RATE)
    first = spare // 2 if generator is None else int(generator.integers(spare + 1))
    waveform = waveform[first : first + SECONDS * RATE]
    return np.pad(waveform, (0, SECONDS * RATE - len(waveform)))


class SpectrogramNetwork(nn.Module):
    """2, 4 or 6 convolutions of 3×3, each with ReLU, batch norm and pooling by 2, then 512 dense units and classes.

    Args:
        convolutions: one of `CONVOLUTIONS`.
        colours: channels of the image, 1 or 3.
        dropout: after the dense layer.
    """

    def __init__(self, convolutions: int, colours: int = 1, dropout: float = DROPOUT) -> None:
        super().__init__()
        if convolutions not in CONVOLUTIONS:
            raise InputError(f"{convolutions} convolutions are not among the networks; choose from {CONVOLUTIONS}")
        layers: list[nn.Module] = []
        height, width, before = HEIGHT, WIDTH, colours
        for channels in CHANNELS[:convolutions]:
            layers += [
                nn.Conv2d(before, channels, 3, padding=1),
                nn.ReLU(),
                nn.BatchNorm2d(channels, momentum=_NORM_MOMENTUM),
                nn.MaxPool2d(2),
            ]
            height, width, before = height // 2, width // 2, channels
        self.convolutions = nn.Sequential(*layers)
        self.dense = nn.Linear(before * height * width, DENSE)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(DENSE, len(QUANTILES) + 1)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, colours, 102, 159) → (batch, 3) logits."""
        state = self.convolutions(images).flatten(1)
        return self.out(self.dropout(functional.relu(self.dense(state))))


class SpectrogramCNN:
    """Fits images and listens; predicts classes 0 (low), 1 and 2 (high).

    Args:
        convolutions: one of `CONVOLUTIONS`.
        rate: of Adam.
        batch: images a step.
        dropout: of the dense layer.
        epochs: at most, all without validation.
        patience: stop after so many epochs without a better loss; None never stops.
        seed: of the weights, the order of the images and dropout.
        device: where to train and predict.
    """

    def __init__(
        self,
        convolutions: int = 4,
        rate: float = LEARNING_RATE,
        batch: int = BATCH,
        dropout: float = DROPOUT,
        epochs: int = EPOCHS,
        patience: int | None = None,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.convolutions, self.rate, self.batch, self.dropout = convolutions, rate, batch, dropout
        self.epochs, self.patience, self.seed, self.device = epochs, patience, seed, device

    def fit(
        self, inputs: np.ndarray, values: np.ndarray, validation: tuple[np.ndarray, np.ndarray] | None = None
    ) -> SpectrogramCNN:
        """Fits from new weights; the classes' thresholds are quantiles of the training values.

        Args:
            inputs: (n, 1 or 3, 102, 159) images in 0..1, from `spectrogram_image`.
            values: (n,) finite listens, or anything that rises with them.
            validation: images and values of other songs; choose the epoch and are otherwise unseen.

        Raises:
            InputError: shapes that do not fit, or values that are not finite.
        """
        images = _checked_images(inputs)
        targets = checked_targets(values, len(images)).numpy()
        self.thresholds = np.quantile(targets, QUANTILES)
        classes = classes_of(targets, self.thresholds)
        self.majority = int(np.bincount(classes).argmax())
        held = None
        if validation is not None:
            others = _checked_images(validation[0])
            known = checked_targets(validation[1], len(others)).numpy()
            held = [others, torch.from_numpy(classes_of(known, self.thresholds))]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.network = SpectrogramNetwork(self.convolutions, images.shape[1], self.dropout).to(self.device)
        optimizer = torch.optim.Adam(self.network.parameters(), lr=self.rate)
        self.history = train_network(
            self.network,
            [images, torch.from_numpy(classes)],
            _cross_entropy,
            optimizer,
            self.epochs,
            self.batch,
            self.seed,
            self.patience,
            held,
        )
        return self

    def predict(self, inputs: np.ndarray) -> np.ndarray:
        """(n, colours, 102, 159) → (n,) class numbers."""
        return self.probabilities(inputs).argmax(axis=1)

    @torch.no_grad()
    def probabilities(self, inputs: np.ndarray) -> np.ndarray:
        """(n, colours, 102, 159) → (n, 3) probabilities of the classes."""
        images = _checked_images(inputs).split(_AT_ONCE)
        return torch.cat([self.network(part.to(self.device)).softmax(dim=1).cpu() for part in images]).numpy()

    def scores(self, inputs: np.ndarray, values: np.ndarray) -> dict[str, float]:
        """`class_scores` of the images, by the thresholds and the majority class of training."""
        return class_scores(classes_of(values, self.thresholds), self.predict(inputs), self.majority)


def class_scores(true: np.ndarray, predicted: np.ndarray, majority: int) -> dict[str, float]:
    """Accuracy and macro-F1, and both for the answer that is always the training songs' most frequent class.

    Macro-F1 is the plain mean of 2 tp / (2 tp + fp + fn) over the classes that occur in `true` or `predicted`.

    Args:
        true, predicted: (n,) class numbers, n ≥ 1.
        majority: the most frequent class in training.
    """
    true, predicted = np.asarray(true), np.asarray(predicted)
    if true.shape != predicted.shape or not true.size:
        raise InputError(f"{predicted.shape} predictions for {true.shape} true classes; give one each, at least one")
    always = np.full_like(true, majority)
    return {
        "accuracy": float((true == predicted).mean()),
        "macro_f1": _macro_f1(true, predicted),
        "majority_accuracy": float((true == always).mean()),
        "majority_macro_f1": _macro_f1(true, always),
    }


def search(
    train: tuple[np.ndarray, np.ndarray],
    validation: tuple[np.ndarray, np.ndarray],
    convolutions: int = 4,
    rates: Sequence[float] = (1e-4, LEARNING_RATE, 1e-3),
    batches: Sequence[int] = (BATCH, 32),
    dropouts: Sequence[float] = (0.2, DROPOUT, 0.6),
    **options: int | str | None,
) -> tuple[SpectrogramCNN, list[dict[str, float]]]:
    """The network with the best macro-F1 on the validation songs, and a line for each that was tried.

    The validation songs choose both the epoch and the settings, so their scores flatter: report the test songs'.

    Args:
        train, validation: images and values, as in `SpectrogramCNN.fit`.
        convolutions: one of `CONVOLUTIONS`.
        rates, batches, dropouts: the grid; the paper's is not stated.
        options: further arguments of `SpectrogramCNN`: epochs, patience, seed, device.

    Returns:
        The network, the first of equals, and dicts of rate, batch, dropout and `class_scores`.
    """
    best: SpectrogramCNN | None = None
    lines: list[dict[str, float]] = []
    for rate, batch, dropout in itertools.product(rates, batches, dropouts):
        settings: dict = {"rate": rate, "batch": batch, "dropout": dropout}
        tried = SpectrogramCNN(convolutions, **settings, **options).fit(*train, validation)  # type: ignore[arg-type]
        scores = tried.scores(*validation)
        if best is None or scores["macro_f1"] > max(line["macro_f1"] for line in lines):
            best = tried
        lines.append({**settings, **scores})
    if best is None:
        raise InputError("the grid is empty; give at least one rate, one batch and one dropout")
    return best, lines


def _macro_f1(true: np.ndarray, predicted: np.ndarray) -> float:
    scores = []
    for name in np.union1d(true, predicted):
        hits = ((true == name) & (predicted == name)).sum()
        scores.append(2 * hits / ((true == name).sum() + (predicted == name).sum()))
    return float(np.mean(scores))


def _cross_entropy(network: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    return functional.cross_entropy(network(images), classes)


def _checked_images(inputs: np.ndarray) -> Tensor:
    images = checked_rows(inputs, "images", 4)
    if images.shape[1] not in (1, 3) or images.shape[2:] != (HEIGHT, WIDTH):
        raise InputError(f"images have shape {tuple(images.shape)}; (n, 1 or 3, {HEIGHT}, {WIDTH}) is needed")
    return images
