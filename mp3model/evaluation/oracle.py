"""A simulated market's hidden truth in, its own forecasts of the same songs and the skill of others between out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mp3model.evaluation.accuracy import QUANTILES, CurveForecasts, CurveTruth, crps_from_quantiles
from mp3model.evaluation.calibration import quantiles_of_rows, with_quantiles, with_residual_quantiles
from mp3model.evaluation.curve_scores import score_curves
from mp3model.evaluation.scalar_scores import skill_scores
from mp3model.files import InputError
from mp3model.tables.curves import curve_arrays, log_streams, period_dates, period_index, with_songs
from mp3model.tables.folder import DatasetFolder
from mp3model.tables.tracks import artist_keys

# Name in a report → what the market's re-runs were given.
ORACLES = {"oracle_audio": "audio", "oracle": "audio+history"}


def oracle_frames(folder: Path, targets: dict[str, dict[str, pd.DataFrame]]) -> dict[str, dict[str, pd.DataFrame]]:
    """The market's own forecasts of the same rows: the best that anyone can do who is given as much.

    `oracle` knows what can be heard, the calendar and the artist's history; `oracle_audio` no history, like MP2.

    Args:
        folder: A dataset folder; one without `truth/oracle.parquet` has no oracle.
        targets: target → system → rows of `song_id, region, artist, true`; any system's will do, all have the same.

    Returns:
        target → oracle → the rows with `predicted` (its median) and `0.1` … `0.9`; nothing without an oracle, or for a
        target that it does not forecast.
    """
    path = folder / "truth" / "oracle.parquet"
    if not path.is_file():
        return {}
    known = pd.read_parquet(path)
    frames: dict[str, dict[str, pd.DataFrame]] = {}
    for target, systems in targets.items():
        if not (known["target"] == target).any():
            continue
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


@dataclass(frozen=True)
class OracleCurves:
    """What the market's re-runs say of each period's chart-observed streams, given that the song charts.

    Attributes:
        mean: (n, H) streams.
        quantiles: (n, H, 9) at .1 … .9, streams; each period by itself.
        runs: (n,) in how many re-runs the song charted.
    """

    mean: np.ndarray
    quantiles: np.ndarray
    runs: np.ndarray


def oracle_curves(folder: Path, rows: pd.DataFrame, oracle: str = "oracle") -> OracleCurves:
    """The market's own forecast of whole curves.

    Args:
        folder: A simulated market.
        rows: (n rows) `song_id, region` of debuts in its splits.
        oracle: A name of `ORACLES`.

    Raises:
        InputError: No such oracle, no curves of it in the folder, or a song it says nothing of.
    """
    inputs = _inputs_of(oracle)
    path = folder / "truth" / "oracle_curves.parquet"
    if not path.is_file():
        raise InputError(f"{path}: no such file; make the market again by python -m data_prep.market")
    told = pd.read_parquet(path, filters=[("inputs", "==", inputs)]).sort_values(["song_id", "region", "week"])
    horizon = int(told["week"].max()) + 1
    known = pd.MultiIndex.from_frame(told[["song_id", "region"]].iloc[::horizon])
    position = _found(known, rows, path)

    def cells(columns: list[str]) -> np.ndarray:
        values = told[columns].to_numpy(dtype=float)
        return values.reshape(len(known), horizon, len(columns))[position]

    return OracleCurves(cells(["mean"])[..., 0], cells(list(QUANTILES)), cells(["runs"])[:, 0, 0].astype(int))


def oracle_curve_forecasts(folder: Path, rows: pd.DataFrame, oracle: str = "oracle") -> CurveForecasts:
    """The oracle's medians as forecasts of the rows, for `score_curves` and paired differences at its side.

    The curve holds each period's median, which no other forecast from the same knowledge beats in absolute error.

    Args:
        folder, rows, oracle: As for `oracle_curves`.
    """
    curves = oracle_curves(folder, rows, oracle)
    path = folder / "truth" / "oracle.parquet"
    told = pd.read_parquet(path, filters=[("inputs", "==", _inputs_of(oracle))])

    def of(target: str) -> np.ndarray:
        one = told[told["target"] == target]
        known = pd.MultiIndex.from_frame(one[["song_id", "region"]])
        return one[list(QUANTILES)].to_numpy(dtype=float)[_found(known, rows, path)]

    totals = of("total")
    return CurveForecasts(
        curve=curves.quantiles[:, :, 4],
        quantiles=totals,
        total=totals[:, 4],
        rank0=of("debut_rank")[:, 4],
        length=of("length")[:, 4],
    )


def oracle_curve_scores(
    dataset: DatasetFolder, split: str = "test", oracle: str = "oracle", seed: int = 0, replicates: int = 200
) -> dict[str, Any]:
    """Error of the oracle's curves on a split: the least that can be had from what a model is given.

    Args:
        dataset: A simulated market with splits.
        split: Which rows.
        oracle: A name of `ORACLES`.
        seed, replicates: Of the bootstrap by artist.

    Returns:
        What `score_curves` returns, and `crps_periods`, `crps_periods_logfloor`: nine-quantile CRPS of log10(1 +
        streams), or of log10(1 + streams / floor), mean over rows and periods.

    Raises:
        InputError: No such oracle, or no rows in the split.
    """
    rows = dataset.splits[dataset.splits["split"] == split] if dataset.splits is not None else None
    if rows is None or not len(rows):
        raise InputError(f"{dataset.path}: no rows in the {split} split; give a simulated market and one of its splits")
    rows = with_songs(rows.reset_index(drop=True), dataset.tracks)
    arrays = curve_arrays(dataset, rows)
    artists = pd.Series(artist_keys(dataset.tracks).to_numpy(), dataset.tracks["track_id"])
    truth = CurveTruth(
        streams=arrays.chart_observed(),
        floor=arrays.floor,
        region=rows["region"].to_numpy(),
        artist=rows["track_id"].map(artists).to_numpy(),
        rank0=arrays.rank[:, 0],
    )
    forecasts = oracle_curve_forecasts(dataset.path, rows, oracle)
    scores = score_curves(truth, forecasts, seed=seed, replicates=replicates)
    quantiles = oracle_curves(dataset.path, rows, oracle).quantiles
    for name, unit in (("crps_periods", np.ones(len(rows))), ("crps_periods_logfloor", arrays.floor)):
        true = log_streams(truth.streams / unit[:, None])
        told = log_streams(quantiles / unit[:, None, None])
        scores[name] = float(crps_from_quantiles(true.reshape(-1), told.reshape(-1, len(QUANTILES))).mean())
    return scores


def true_streams(folder: Path, tracks: pd.DataFrame, rows: pd.DataFrame, horizon: int) -> np.ndarray:
    """All streams of a market's songs, also where no chart shows them, from debut on: (n, horizon).

    Versions of a song are summed; 0 where nobody played it.

    Args:
        folder: A simulated market.
        tracks: Its tracks.
        rows: (n rows) `track_id` or `song_id`, `region`, `debut`.
        horizon: Weeks.

    Raises:
        InputError: The folder has no such truth.
    """
    path = folder / "truth" / "curves.parquet"
    if not path.is_file():
        raise InputError(f"{path}: no such file; only a simulated market knows the streams below its charts")
    wanted = with_songs(rows, tracks)[["song_id", "region", "debut"]].assign(row=np.arange(len(rows)))
    versions = tracks.loc[tracks["song_id"].isin(wanted["song_id"]), ["track_id", "song_id"]]
    ends = period_dates(wanted["debut"], horizon, "W")
    window = [("date", ">=", pd.Timestamp(ends.min())), ("date", "<=", pd.Timestamp(ends.max()))]
    streams = pd.read_parquet(path, filters=[("region", "in", wanted["region"].unique().tolist()), *window])
    joined = streams.merge(versions, on="track_id").merge(wanted, on=["song_id", "region"])
    period = period_index(joined["date"], joined["debut"], "W")
    inside = (period >= 0) & (period < horizon)
    found = np.zeros((len(rows), horizon))
    np.add.at(found, (joined["row"].to_numpy()[inside], period[inside]), joined["streams"].to_numpy()[inside])
    return found


def _inputs_of(oracle: str) -> str:
    if oracle not in ORACLES:
        raise InputError(f"oracle {oracle!r} is not known; use one of {', '.join(ORACLES)}")
    return ORACLES[oracle]


def _found(known: pd.MultiIndex, rows: pd.DataFrame, path: Path) -> np.ndarray:
    position = known.get_indexer(pd.MultiIndex.from_frame(rows[["song_id", "region"]]))
    if (position < 0).any():
        song, region = rows[["song_id", "region"]].iloc[int((position < 0).argmax())]
        raise InputError(f"{path}: says nothing of song {song!r} in {region}; ask about debuts of the market's splits")
    return position
