"""Arrays and tables in, PNG files out; colour-blind safe, units on every axis."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch

from mp3model.audio.augment import (
    Draw,
    RandomGain,
    RandomRoll,
    SpecAugment,
    TimbreAugment,
    draw_numbers,
)
from mp3model.audio.bank import SAMPLE_RATE
from mp3model.audio.frontend import LogMel
from mp3model.files import written_whole


def augmentation_stages(waveform: np.ndarray, seed: int = 0) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """One clip before and after each augmentation alone: name → (waveform (samples,), log-mel (frames, mels)).

    Each effect is drawn to be seen: a gain of −12 dB, a roll by a third, and the largest masks of AST's recipe.

    Args:
        waveform: (samples,) int16 at 16 kHz.
        seed: Of the pitch and timbre effects.
    """
    floats = torch.from_numpy(waveform.astype(np.float32) / 32768.0)[None]
    draws = torch.from_numpy(draw_numbers(seed, 0, "augmentation picture"))[None]
    draws[:, [Draw.GAIN_APPLIES, Draw.ROLL_APPLIES]] = 0.0
    draws[:, Draw.ROLL] = 1 / 3
    draws[:, [Draw.FREQUENCY_MASKS, Draw.TIME_MASKS]] = 0.999
    draws[:, [Draw.FREQUENCY_MASKS + 1, Draw.TIME_MASKS + 1]] = 0.4
    timbre = TimbreAugment(TimbreAugment.NAMES, probability=1.0)
    frontend = LogMel()
    waveforms = {
        "as it is": floats,
        "gain, −12 dB": RandomGain(-12.0, -12.0).train()(floats, draws),
        "roll by a third": RandomRoll(1.0).train()(floats, draws),
        "pitch and timbre": torch.from_numpy(timbre(floats[0].numpy(), seed))[None],
    }
    stages = {name: (wave[0].numpy(), frontend(wave)[0].numpy()) for name, wave in waveforms.items()}
    masked = SpecAugment().train()(frontend(floats), draws)
    return stages | {"SpecAugment": (floats[0].numpy(), masked[0].numpy())}


def augmentation_picture(waveforms: dict[str, np.ndarray], path: str | os.PathLike[str], seed: int = 0) -> None:
    """Draws one clip before and after each augmentation: its waveform above its log-mel spectrogram.

    Args:
        waveforms: Name → (samples,) int16 at 16 kHz; the first is augmented, all are shown (alternate previews).
        path: PNG to write.
        seed: Of the pitch and timbre effects.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    first, *others = waveforms.items()
    stages = augmentation_stages(first[1], seed)
    frontend = LogMel()
    for name, waveform in others:
        stages[f"alternate preview: {name}"] = (
            waveform.astype(np.float32) / 32768.0,
            frontend(torch.from_numpy(waveform)[None])[0].numpy(),
        )
    columns = min(3, len(stages))
    rows = -(-len(stages) // columns)
    figure = Figure(figsize=(4.4 * columns, 3.1 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    grids = figure.add_gridspec(2 * rows, columns, height_ratios=[1, 2.4] * rows)
    values = stages["as it is"][1]
    low, high = (float(bound) for bound in np.percentile(values, (2, 99.8)))
    image: Any = None
    panels = []
    for number, (name, (waveform, mel)) in enumerate(stages.items()):
        row, column = divmod(number, columns)
        wave = figure.add_subplot(grids[2 * row, column])
        seconds = np.arange(len(waveform)) / SAMPLE_RATE
        wave.plot(seconds, waveform, linewidth=0.3, color="#0072B2")
        wave.set(title=name, ylim=(-1, 1), xlim=(0, seconds[-1]), xticks=[])
        wave.set_yticks([-1, 0, 1])
        panel = figure.add_subplot(grids[2 * row + 1, column])
        image = panel.imshow(
            mel.T,
            origin="lower",
            aspect="auto",
            vmin=low,
            vmax=high,
            cmap="viridis",
            extent=(0, len(mel) / 100, 0, mel.shape[1]),
            interpolation="nearest",
        )
        panel.set(xlabel="seconds", ylabel="mel band" if column == 0 else "")
        panels.append(panel)
    figure.colorbar(image, ax=panels, label="normalised log-mel", shrink=0.6)
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
