"""A model and a song in; how much each second of its sound moves the forecast, by region, out.

Occlusion (Zeiler and Fergus 2014): one second after the other is silenced, the song is forecast again with the same
luck, and what the log total loses is that second's effect. Effects need not add up, and a second that is like its
neighbours has little of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from mp3model.audio.bank import SAMPLE_RATE
from mp3model.files import InputError
from mp3model.model.modeling_mp3 import Audio
from mp3model.serving.asked import Heard, Sound, clip_of, windows_of
from mp3model.serving.forecaster import Forecaster
from mp3model.serving.work import WINDOWS_TOGETHER, heard_windows

MOST_SECONDS = 600
_AT_ONCE = 32  # silenced versions whose paths are sampled together


def attributions(
    forecaster: Forecaster,
    audio: Sound,
    regions: Sequence[str] | None = None,
    release: Any = None,
    samples: int = 64,
    seed: int = 0,
    data: Any = None,
) -> pd.DataFrame:
    """`region, second, effect`: what the mean log10 total loses when that second is silent.

    Second 3 lasts from 3 s to 4 s of the song, the last one to its end. A positive effect says that the second raises
    the forecast. A song of n seconds is forecast n + 1 times; of its windows only those that hold the silenced second
    are heard again.

    Args:
        forecaster: Whose model hears.
        audio: As for `Forecaster.forecast`.
        regions: As for `Forecaster.forecast`.
        release: As for `Forecaster.forecast`.
        samples: Paths of each forecast; the same luck in all of them, so that few suffice.
        seed: Of the luck.
        data: Dataset folder, or None.

    Raises:
        InputError: If the model does not hear, the song is longer than 600 s, or as `Forecaster.forecast`.
    """
    if forecaster.model.mp2 is None:
        raise InputError("this model does not hear: no second of a song moves its forecast; train one with ears")
    clip = clip_of(audio, "audio of song")
    seconds = -(-len(clip) // SAMPLE_RATE)
    if seconds > MOST_SECONDS:
        raise InputError(f"audio of {seconds} s: effects are found of {MOST_SECONDS} s at most; cut the song")
    versions = silenced(forecaster, clip, seconds)
    plain = replace(forecaster, catalogue=None)
    totals = []
    # The whole song goes with each part, as paths depend in their last digits on what is sampled with them.
    for start in range(1, len(versions), _AT_ONCE):
        part = [versions[0], *versions[start : start + _AT_ONCE]]
        tracks = pd.DataFrame({"track_id": [f"version {number}" for number in range(len(part))]})
        tracks = tracks.assign(song_id="file song", path=pd.Series([Heard(None, one) for one in part], dtype=object))
        found = plain.forecast(tracks, regions, release, samples=samples, seed=seed, data=data).sampled
        log_total = np.log10(np.maximum(found.streams.sum(axis=2), 1.0)).mean(axis=1).reshape(len(part), -1)
        totals.append(log_total[:1] - log_total[1:])
        asked = found.rows["region"].to_numpy(dtype=object)[: log_total.shape[1]]
    effects = np.concatenate(totals)
    return pd.DataFrame(
        {
            "region": np.repeat(asked, seconds),
            "second": np.tile(np.arange(seconds), len(asked)),
            "effect": effects.T.ravel(),
        }
    )


def silenced(forecaster: Forecaster, clip: np.ndarray, seconds: int) -> list[Audio]:
    """What is heard in a clip, and in it with each second silent: 1 + seconds."""
    model = forecaster.model
    together = WINDOWS_TOGETHER.get(model.device.type, 8)
    whole = windows_of(clip, model.config.samples)
    heard = heard_windows(model, whole, together)
    versions = [Audio(heard.tokens.mean(dim=0), heard.states.mean(dim=0))]
    for second in range(seconds):
        quiet = clip.copy()
        quiet[second * SAMPLE_RATE : (second + 1) * SAMPLE_RATE] = 0
        windows = windows_of(quiet, model.config.samples)
        at = np.flatnonzero((windows != whole).any(axis=1))
        tokens, states = heard.tokens.clone(), heard.states.clone()
        if len(at):
            again = heard_windows(model, windows[at], together)
            tokens[at], states[at] = again.tokens, again.states
        versions.append(Audio(tokens.mean(dim=0), states.mean(dim=0)))
    return versions
