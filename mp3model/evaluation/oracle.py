"""A simulated market's hidden truth in, its own forecasts of the same songs and the skill of others between out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from mp3model.evaluation.accuracy import QUANTILES, skill_scores
from mp3model.evaluation.calibration import quantiles_of_rows, with_quantiles, with_residual_quantiles
from mp3model.tables.curves import log_streams

# Name in a report → what the market's re-runs were given.
ORACLES = {"oracle_audio": "audio", "oracle": "audio+history"}


def oracle_frames(folder: Path, targets: dict[str, dict[str, pd.DataFrame]]) -> dict[str, dict[str, pd.DataFrame]]:
    """The market's own forecasts of the same rows: the best that anyone can do who is given as much.

    `oracle` knows what can be heard, the calendar and the artist's history; `oracle_audio` no history, like MP2.

    Args:
        folder: A dataset folder; one without `truth/oracle.parquet` has no oracle.
        targets: target → system → rows of `song_id, region, artist, true`; any system's will do, all have the same.

    Returns:
        target → oracle → the rows with `predicted` (its median) and `0.1` … `0.9`; nothing without an oracle.
    """
    path = folder / "truth" / "oracle.parquet"
    if not path.is_file():
        return {}
    known = pd.read_parquet(path)
    frames: dict[str, dict[str, pd.DataFrame]] = {}
    for target, systems in targets.items():
        rows = next(iter(systems.values())).drop(columns=["predicted", "score"], errors="ignore")
        places = pd.MultiIndex.from_frame(rows[["song_id", "region"]])
        frames[target] = {}
        for name, inputs in ORACLES.items():
            told = known[(known["target"] == target) & (known["inputs"] == inputs)].set_index(["song_id", "region"])
            told = told[list(QUANTILES)].reindex(places)
            values = log_streams(told.to_numpy()) if target == "total" else told.to_numpy()
            frame = rows.assign(**dict(zip(QUANTILES, values.T, strict=True)))
            frames[target][name] = frame.assign(predicted=frame["0.5"])
    return frames


def oracle_skill(
    systems: dict[str, pd.DataFrame],
    held_out: dict[str, pd.DataFrame],
    oracles: dict[str, pd.DataFrame],
    train: pd.DataFrame,
    seed: int = 0,
) -> dict[str, Any]:
    """Skill of point forecasts, each given the spread of what it missed on held-out songs.

    Args:
        systems: Name → rows with `predicted`; `region_mean` is left out, the region's climatology takes its place.
        held_out: The same systems on songs neither learnt from nor asked about.
        oracles: From `oracle_frames`, of the same rows.
        train: Training rows, whose quantiles a region are the climatology.
        seed: Of the bootstrap by artist.
    """
    forecasts = {
        name: with_residual_quantiles(frame, held_out[name]) for name, frame in systems.items() if name != "region_mean"
    }
    anyone = next(iter(systems.values()))
    forecasts["climatology"] = with_quantiles(anyone, quantiles_of_rows(train), 0.0)
    return skill_scores(forecasts | oracles, "climatology", "oracle", seed=seed)
