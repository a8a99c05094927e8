"""Mel spectrograms and tag loadings in, hit scores out: the published KKBOX model, and the forms M1 to M6 to train.

Sources: Yang, Chou, Liu, Yang and Chen, arXiv 1704.01280 (M1 to M6); Yu, Yang, Hung and Chen, arXiv 1710.10814, whose
public code (HSP_CNN) trained the weights that `load_published` reads. Training is in `kkbox_training`.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mp3model.baselines.jynet import Tagger, load_tagger, read_arrays
from mp3model.baselines.kkbox_frontend import FORMS, MEL_BANDS, TAGGER_RATE, kkbox_mel, read_waveform
from mp3model.files import InputError

NAMES = ("M1", "M2", "M3", "M4", "M5", "M6", "mandopop")
TAG_LOADINGS = 50
TREND_POINTS = 60  # days of the public code's trend head, the ancestor of this project's curves
RETENTION_POINTS = 29  # days of its retention head
# (weight of the CNN, weight of the tags). The published checkpoint was trained with the first; the script published
# beside it adds the branches by the second; the third is that script's default for new training.
MIXES = {"trained": (0.3, 0.7), "inference": (1.0, 0.5), "half": (0.5, 0.5)}
_SLOPE = 0.1
# TensorFlow keeps kernels as (height, width, in, out) and (in, out).
_TO_PUBLISHED = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}


class MeanMelLinear(nn.Module):
    """M1: a linear map of the mel bands' means over time; the paper does not state how it summarises time.

    Args:
        outputs: Values a song, for instance one a region, or `TREND_POINTS`.
    """

    inputs = ("mel",)

    def __init__(self, outputs: int = 1) -> None:
        super().__init__()
        self.linear = nn.Linear(MEL_BANDS, outputs)
        # The bands rise and fall together: from random weights, the slow directions would never be unlearnt.
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, mel: Tensor) -> Tensor:
        """(batch, 128, frames) → (batch, outputs)."""
        return self.linear(mel.mean(dim=2))


class MelCNN(nn.Module):
    """M2, and with `inception` M3: convolutions over all bands, then over time, and the mean over time.

    The public code's form: convolution to 32 channels, pooling by 2, 1×4 to 64, pooling by 2, then 1×1 to 256, 256 and
    `outputs`; leaky ReLU of slope 0.1. Its dropout was never active and is left out.

    Args:
        outputs: Values a song, for instance one a region, `TREND_POINTS` or `RETENTION_POINTS`.
        inception: Three first convolutions side by side, 128×4 to 32 channels, 132×8 and 140×16 to 16 on a spectrogram
            padded by 2 and 6 all round, joined (64) and mixed to 32 by a 1×1 convolution.
        leaky_output: Leaky ReLU on the last layer as well, as published; wrong for standardised targets, half of
            which are negative.
    """

    inputs = ("mel",)

    def __init__(self, outputs: int = 1, inception: bool = False, leaky_output: bool = False) -> None:
        super().__init__()
        self.leaky_output = leaky_output
        self.conv1 = nn.Conv2d(1, 32, (MEL_BANDS, 4))
        self.wider = nn.ModuleList()
        if inception:
            self.wider.append(nn.Conv2d(1, 16, (MEL_BANDS + 4, 8), padding=2))
            self.wider.append(nn.Conv2d(1, 16, (MEL_BANDS + 12, 16), padding=6))
            self.mix = nn.Conv2d(64, 32, 1)
        self.conv2 = nn.Conv2d(32, 64, (1, 4))
        self.conv3 = nn.Conv2d(64, 256, 1)
        self.conv4 = nn.Conv2d(256, 256, 1)
        self.conv5 = nn.Conv2d(256, outputs, 1)

    def first(self, mel: Tensor) -> Tensor:
        """(batch, 128, frames) → (batch, 32, 1, frames − 3)."""
        image = mel[:, None]
        state = functional.leaky_relu(self.conv1(image), _SLOPE)
        if not self.wider:
            return state
        parts = [state, *(functional.leaky_relu(layer(image), _SLOPE) for layer in self.wider)]
        return functional.leaky_relu(self.mix(torch.cat(parts, dim=1)), _SLOPE)

    def by_frame(self, mel: Tensor) -> Tensor:
        """(batch, 128, frames) → (batch, outputs, steps): 78 steps from 323 frames, 159 from 646."""
        state = functional.max_pool2d(self.first(mel), (1, 2))
        state = functional.max_pool2d(functional.leaky_relu(self.conv2(state), _SLOPE), (1, 2))
        state = functional.leaky_relu(self.conv4(functional.leaky_relu(self.conv3(state), _SLOPE)), _SLOPE)
        last = self.conv5(state).squeeze(2)
        return functional.leaky_relu(last, _SLOPE) if self.leaky_output else last

    def forward(self, mel: Tensor) -> Tensor:
        """(batch, 128, frames) → (batch, outputs)."""
        return self.by_frame(mel).mean(dim=2)


class TagNetwork(nn.Module):
    """M4: 50 tag loadings through dense layers of 100, 100 and 30, leaky ReLU; arguments as in `MelCNN`."""

    inputs = ("tags",)

    def __init__(self, outputs: int = 1, leaky_output: bool = False) -> None:
        super().__init__()
        self.leaky_output = leaky_output
        self.dense1 = nn.Linear(TAG_LOADINGS, 100)
        self.dense2 = nn.Linear(100, 100)
        self.dense3 = nn.Linear(100, 30)
        self.out = nn.Linear(30, outputs)

    def forward(self, tags: Tensor) -> Tensor:
        """(batch, 50) → (batch, outputs)."""
        for layer in (self.dense1, self.dense2, self.dense3):
            tags = functional.leaky_relu(layer(tags), _SLOPE)
        last = self.out(tags)
        return functional.leaky_relu(last, _SLOPE) if self.leaky_output else last


class Joint(nn.Module):
    """M5, and with `inception` and `mix=None` M6: both branches, trained together, the same mix in training and use.

    The tagger itself stays frozen: its loadings are an input.

    Args:
        outputs: Values a song.
        inception: As in `MelCNN`.
        mix: (weight of the CNN, weight of the tags); None learns one more layer on top of both, from their mean on.
    """

    inputs = ("mel", "tags")

    def __init__(
        self, outputs: int = 1, inception: bool = False, mix: tuple[float, float] | None = MIXES["trained"]
    ) -> None:
        super().__init__()
        self.mel, self.tags, self.mix = MelCNN(outputs, inception), TagNetwork(outputs), mix
        if mix is None:
            self.top = nn.Linear(2 * outputs, outputs)
            with torch.no_grad():
                self.top.weight.copy_(torch.eye(outputs).repeat(1, 2) / 2)
                self.top.bias.zero_()

    def forward(self, mel: Tensor, tags: Tensor) -> Tensor:
        """(batch, 128, frames), (batch, 50) → (batch, outputs)."""
        from_mel, from_tags = self.mel(mel), self.tags(tags)
        if self.mix is None:
            return self.top(torch.cat([from_mel, from_tags], dim=1))
        return self.mix[0] * from_mel + self.mix[1] * from_tags


def make_model(name: str, outputs: int = 1, seed: int = 0) -> nn.Module:
    """One of M1 to M6, untrained; its attribute `inputs` names what its forward takes, of "mel" and "tags".

    M5 is the plain CNN with the tags at the mix of the published training, M6 the inception CNN with the tags and one
    more layer, "mandopop" the inception CNN averaged with the tags (Irisfee's service, 2020). The siamese CNN is M2 or
    M3 trained with `kkbox_training.siamese_loss`; the trend head is `outputs=TREND_POINTS`, the retention head
    `outputs=RETENTION_POINTS`.

    Weights start as TensorFlow's layers do, Glorot's uniform and biases at 0; those of M1 start at 0.

    Args:
        name: one of `NAMES`.
        outputs: Values a song.
        seed: Of the initial weights; the global generator is left as it was.

    Raises:
        InputError: an unknown name, or no outputs.
    """
    if name not in NAMES:
        raise InputError(f"model {name!r} is unknown; choose from {', '.join(NAMES)}")
    if outputs < 1:
        raise InputError(f"a model with {outputs} outputs has nothing to learn; ask for at least 1")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _untrained(name, outputs)
        for layer_name, layer in model.named_modules():
            if isinstance(layer, nn.Conv2d | nn.Linear) and layer_name not in ("linear", "top"):
                nn.init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
    return model


def _untrained(name: str, outputs: int) -> nn.Module:
    if name == "M1":
        return MeanMelLinear(outputs)
    if name == "M4":
        return TagNetwork(outputs)
    if name in ("M2", "M3"):
        return MelCNN(outputs, inception=name == "M3")
    if name == "M5":
        return Joint(outputs)
    return Joint(outputs, inception=True, mix=None if name == "M6" else MIXES["half"])


class Published:
    """The published model: a score n a song, which `retention` turns into a share of listeners kept.

    Attributes:
        cnn: its CNN branch.
        dense: its tag branch.
        tagger: JYnet, from sound to the tag branch's loadings.
    """

    def __init__(self, cnn: MelCNN, dense: TagNetwork, tagger: Tagger) -> None:
        self.cnn, self.dense, self.tagger = cnn.eval(), dense.eval(), tagger

    @torch.no_grad()
    def cnn_score(self, mel: np.ndarray) -> float | np.ndarray:
        """The CNN branch of raw power mels as `kkbox_mel` makes them: (128, 323) → a number, (n, 128, 323) → (n,).

        Raises:
            InputError: another shape, or values that are not finite.
        """
        shape = (MEL_BANDS, FORMS["published"][1])
        return self._scored(self.cnn, mel, shape, "mel", "make it with kkbox_mel(samples, rate)")

    @torch.no_grad()
    def tag_score(self, tags: np.ndarray) -> float | np.ndarray:
        """The tag branch of loadings as `tags` gives them: (50,) → a number, (n, 50) → (n,).

        Raises:
            InputError: another shape, or values that are not finite.
        """
        return self._scored(self.dense, tags, (TAG_LOADINGS,), "tags", "make them with tags(audio)")

    def tags(self, audio: str | os.PathLike[str] | bytes | np.ndarray, rate: int = TAGGER_RATE) -> np.ndarray:
        """(50,) tag loadings of a clip; arguments as in `score`."""
        return self.tagger.loadings(*_waveform(audio, rate))

    def score(
        self,
        audio: str | os.PathLike[str] | bytes | np.ndarray,
        rate: int = TAGGER_RATE,
        mix: str | tuple[float, float] = "inference",
    ) -> float:
        """The score n of a clip: its middle 30 s through the CNN, its first 29 s through the tagger, mixed.

        Args:
            audio: a path, a file's content, or samples (samples,) mono as int16 or float in ±1.
            rate: of the samples, in Hz; files know theirs.
            mix: a name of `MIXES` or (weight of the CNN, weight of the tags). Levels differ much between mixes, so
                compare scores of one mix only.

        Raises:
            AudioError: the file holds no usable sound.
            InputError: an unknown mix, or samples that are none.
        """
        waveform, rate = _waveform(audio, rate)
        return float(
            self.combined(
                self.cnn_score(kkbox_mel(waveform, rate)), self.tag_score(self.tagger.loadings(waveform, rate)), mix
            )
        )

    @staticmethod
    def combined(
        cnn: float | np.ndarray, tag: float | np.ndarray, mix: str | tuple[float, float] = "inference"
    ) -> float | np.ndarray:
        """The score n from the two branches; arguments as in `score`."""
        if isinstance(mix, str):
            if mix not in MIXES:
                raise InputError(f"mix {mix!r} is unknown; choose from {', '.join(MIXES)}, or give two weights")
            mix = MIXES[mix]
        return mix[0] * cnn + mix[1] * tag

    @staticmethod
    def _scored(
        branch: nn.Module, values: np.ndarray, shape: tuple[int, ...], name: str, mend: str
    ) -> float | np.ndarray:
        # A copy of what may not be written: torch takes no read-only memory.
        values = np.require(values, dtype=np.float32, requirements="W")
        if values.shape[-len(shape) :] != shape or values.ndim - len(shape) not in (0, 1):
            wanted = ", ".join(str(size) for size in shape)
            raise InputError(f"{name} has shape {values.shape}, not ({wanted}) or (n, {wanted}); {mend}")
        if not np.isfinite(values).all():
            raise InputError(f"{name} holds NaN or infinite values; {mend}")
        scores = branch(torch.from_numpy(values.reshape(-1, *shape)))[:, 0].numpy()
        return scores if values.ndim > len(shape) else float(scores[0])


def retention(score: float | np.ndarray) -> np.ndarray:
    """10^(−1/n): the share of listeners kept for 30 days that a score n stands for; 0 for n ≤ 0."""
    n = np.asarray(score, dtype=float)
    return np.where(n > 0, 10.0 ** (-1.0 / np.where(n > 0, n, 1.0)), 0.0)


def load_published(folder: str | os.PathLike[str]) -> Published:
    """The published model from `weights_kkbox.npz`, `weights_jynet.npz` and `tags.json` in a folder.

    Raises:
        InputError: a file or an array is missing, unreadable or misshapen; names it.
    """
    cnn, dense = MelCNN(leaky_output=True), TagNetwork(leaky_output=True)
    shapes: dict[str, tuple[int, ...]] = {}
    for prefix, branch in (("", cnn), ("tag_", dense)):
        for name, parameter in branch.named_parameters():
            layer, kind = name.split(".")
            size = parameter.permute(*_TO_PUBLISHED[parameter.ndim]).shape
            shapes[f"{prefix}{layer}_{'kernel' if kind == 'weight' else 'bias'}"] = tuple(size)
    arrays = read_arrays(Path(folder) / "weights_kkbox.npz", shapes)
    with torch.no_grad():
        parameters = [*cnn.parameters(), *dense.parameters()]
        for parameter, array in zip(parameters, arrays.values(), strict=True):
            parameter.permute(*_TO_PUBLISHED[parameter.ndim]).copy_(torch.from_numpy(array))
    return Published(cnn, dense, load_tagger(folder))


def _waveform(audio: str | os.PathLike[str] | bytes | np.ndarray, rate: int) -> tuple[np.ndarray, int]:
    return (audio, rate) if isinstance(audio, np.ndarray) else read_waveform(audio)
