"""Weights of JYnet as plain arrays in; a frozen tagger out: a clip's 188 tag loadings, or the 50 that KKBOX uses.

JYnet is the fully convolutional tagger of Liu and Yang (ACM Multimedia 2016), the form
`build_fcn_gaussian_multiscale`, trained on MagnaTagATune.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mp3model.baselines.kkbox_frontend import MEL_BANDS, TAGGER_RATE, TAGGER_WINDOWS, tagger_input
from mp3model.files import InputError

TAGS = 188
_CHANNELS, _LATE = 32, 512
_GAUSS = 256
_LOWEST = 1e-6


def tagger_shapes() -> dict[str, tuple[int, ...]]:
    """Array name → shape of the weights; kernels are (out, in, time, band), turned round as Theano's are."""
    shapes: dict[str, tuple[int, ...]] = {}
    for window in TAGGER_WINDOWS:
        shapes |= {
            f"win{window}_conv1_kernel": (_CHANNELS, 1, 8, MEL_BANDS),
            f"win{window}_conv1_bias": (_CHANNELS,),
            f"win{window}_conv2_kernel": (_CHANNELS, _CHANNELS, 8, 1),
            f"win{window}_conv2_bias": (_CHANNELS,),
        }
    joined = _CHANNELS * len(TAGGER_WINDOWS)
    for name, width, inputs in (("late1", _LATE, joined), ("late2", _LATE, _LATE), ("out", TAGS, _LATE)):
        shapes |= {f"{name}_kernel": (width, inputs, 1, 1), f"{name}_bias": (width,)}
    return shapes | {"gauss_logstd": (TAGS,)}


def read_arrays(path: str | os.PathLike[str], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The named float32 arrays of an npz file.

    Raises:
        InputError: the file is missing or unreadable, or an array is missing, misshapen or not finite.
    """
    path = Path(path)
    mend = "fetch the published weights again"
    if not path.is_file():
        raise InputError(f"{path}: no such file; give the folder that holds the published KKBOX weights")
    try:
        with np.load(path, allow_pickle=False) as archive:
            found = {name: archive[name] for name in shapes if name in archive.files}
    except Exception as error:  # zipfile, zlib and numpy each raise their own kinds
        raise InputError(f"{path}: not a readable npz file ({' '.join(str(error).split())}); {mend}") from error
    for name, shape in shapes.items():
        if name not in found:
            raise InputError(f"{path}: has no array {name!r}; {mend}")
        if found[name].shape != shape:
            raise InputError(f"{path}: array {name!r} has shape {found[name].shape}, not {shape}; {mend}")
        if found[name].dtype.kind != "f" or not np.isfinite(found[name]).all():
            raise InputError(f"{path}: array {name!r} holds {found[name].dtype} values that are no weights; {mend}")
    return {name: array.astype(np.float32) for name, array in found.items()}


class Tagger(nn.Module):
    """Six window lengths, two convolutions each, joined; a loading a tag and frame, smoothed and averaged over time.

    Args:
        arrays: The weights by the names and shapes of `tagger_shapes`.
        tags: All 188 tag names, in the order of the output layer.
        chosen: Positions in `tags` of those that the KKBOX tag branch takes, in its order.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], tags: list[str], chosen: list[int]) -> None:
        super().__init__()
        self.tags, self.chosen = tags, chosen
        self.names = [tags[position] for position in chosen]
        for name, array in arrays.items():
            tensor = torch.tensor(array)
            # Theano's convolution turns the kernel round, torch's does not.
            self.register_buffer(name, tensor.flip(2, 3).contiguous() if name.endswith("kernel") else tensor)
        deviation = self.get_buffer("gauss_logstd").exp()[:, None]
        offsets = torch.arange(_GAUSS) - _GAUSS // 2
        bells = torch.exp(-0.5 * (offsets / deviation) ** 2) / (math.sqrt(2 * math.pi) * deviation)
        self.register_buffer("bells", bells.flip(1)[:, None].contiguous(), persistent=False)

    def forward(self, scales: Tensor) -> Tensor:
        """(batch, 6, frames, 128) → (batch, 188) loadings within (0, 1)."""
        parts = [self._one_scale(scales[:, place, None], window) for place, window in enumerate(TAGGER_WINDOWS)]
        state = torch.cat(parts, dim=1)
        for name in ("late1", "late2"):
            state = self._convolved(state, name).relu()
        by_frame = self._convolved(state, "out").sigmoid().squeeze(3)
        before = _GAUSS // 2
        padded = functional.pad(by_frame, (before, _GAUSS - 1 - before))
        smooth = functional.conv1d(padded, self.get_buffer("bells"), groups=by_frame.shape[1])
        return smooth.mean(dim=2).clamp(_LOWEST, 1.0 - _LOWEST)

    def _one_scale(self, scale: Tensor, window: int) -> Tensor:
        for layer in ("conv1", "conv2"):
            padded = functional.pad(scale, (0, 0, 4, 3))
            convolved = self._convolved(padded, f"win{window}_{layer}").relu()
            scale = functional.max_pool2d(convolved, (4, 1), ceil_mode=True)
        return scale

    def _convolved(self, state: Tensor, name: str) -> Tensor:
        return functional.conv2d(state, self.get_buffer(f"{name}_kernel"), self.get_buffer(f"{name}_bias"))

    @torch.no_grad()
    def loadings(self, samples: np.ndarray, rate: int = TAGGER_RATE) -> np.ndarray:
        """(50,) float32 loadings of a clip's `names`, as the KKBOX tag branch takes them.

        Args:
            samples: (samples,) mono, int16 or float in ±1.
            rate: of `samples`, in Hz; converted to 16 kHz.
        """
        return self.all_loadings(samples, rate)[self.chosen]

    @torch.no_grad()
    def all_loadings(self, samples: np.ndarray, rate: int = TAGGER_RATE) -> np.ndarray:
        """(188,) float32 loadings of a clip's `tags`; arguments as in `loadings`."""
        scales = torch.from_numpy(tagger_input(samples, rate))[None].to(self.get_buffer("bells").device)
        return self(scales)[0].cpu().numpy()


def load_tagger(folder: str | os.PathLike[str]) -> Tagger:
    """The published tagger from `weights_jynet.npz` and `tags.json` in a folder, on the processor.

    Raises:
        InputError: a file or an array is missing, unreadable or misshapen.
    """
    arrays = read_arrays(Path(folder) / "weights_jynet.npz", tagger_shapes())
    path = Path(folder) / "tags.json"
    if not path.is_file():
        raise InputError(f"{path}: no such file; give the folder that holds the published KKBOX weights")
    try:
        listed = json.loads(path.read_text())
        tags, chosen = list(listed["tags188"]), [int(position) for position in listed["index50_in_188"]]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a list of tags ({error!r}); fetch the published weights again") from error
    if len(tags) != TAGS or len(chosen) != 50 or not all(0 <= position < TAGS for position in chosen):
        raise InputError(
            f"{path}: names {len(tags)} tags and chooses {len(chosen)}; 188 and 50 of them are needed, "
            "fetch the published weights again"
        )
    return Tagger(arrays, tags, chosen).eval()
