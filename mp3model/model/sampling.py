"""A model, rows with what is known of them and a seed in; sample paths in streams out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pandas as pd
import torch
from scipy.special import ndtr, ndtri
from scipy.stats import qmc

from mp3model.model.covariates import Covariates, only_observed
from mp3model.model.modeling_mp3 import Audio, MP3Model
from mp3model.tables.curves import CurveArrays, taken

ROWS_AT_ONCE = 256


def uniform_numbers(
    songs: Sequence[str],
    regions: Sequence[str],
    paths: int,
    periods: int,
    luck: Sequence[float],
    seed: int,
    members: int = 1,
) -> np.ndarray:
    """Quasi-random numbers in (0, 1), of which regions of one song share a part: (rows, paths, periods + 1) float32.

    Every row's numbers are uniform whoever else is asked about: they follow from (seed, song, region) and, for what
    regions share, from (seed, song). A Sobol sequence turned by a random shift a row (Cranley and Patterson 1976)
    spreads the paths evenly, in a random order, so that one row's paths tell nothing of another's. The shared part is
    a normal variate a path and period, whose correlation between regions is `luck` (a Gaussian copula).

    Args:
        songs, regions: (rows,) names.
        paths: Paths a row.
        periods: Of the curve.
        luck: Correlation between regions in the first period, and in each later one.
        seed: Decides all.
        members: Path i is of member i modulo their number; each member's paths are spread evenly by themselves.
    """
    correlation = np.full(periods + 1, luck[1])
    correlation[[0, -1]] = luck[0]
    numbers = np.empty((len(songs), paths, periods + 1), np.float32)
    for row, (song, region) in enumerate(zip(songs, regions, strict=True)):
        for member in range(min(members, paths)):
            own, shared = _sobol(len(range(member, paths, members)), 2 * (periods + 1))
            turned = _turned(own, seed, song, region, member)
            if correlation.any():
                together = _turned(shared, seed, song, "", member)
                turned = ndtr(np.sqrt(correlation) * ndtri(together) + np.sqrt(1 - correlation) * ndtri(turned))
            numbers[row, member::members] = turned
    return numbers.clip(1e-6, 1 - 1e-6)


@lru_cache(maxsize=8)
def _sobol(paths: int, dimensions: int) -> tuple[np.ndarray, np.ndarray]:
    points = qmc.Sobol(dimensions, scramble=False).random_base2(max(1, (paths - 1).bit_length()))[:paths]
    return points[:, : dimensions // 2], points[:, dimensions // 2 :]


def _turned(points: np.ndarray, seed: int, song: str, region: str, member: int) -> np.ndarray:
    """The points (paths, dimensions) shifted and put in an order, both by name."""
    name = f"{seed}\0{song}\0{region}" + (f"\0{member}" if member else "")
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    generator = np.random.Generator(np.random.Philox(int.from_bytes(digest, "big")))
    turned = (points + generator.random(points.shape[1])) % 1.0
    return np.clip(turned[generator.permutation(len(points))], 1e-6, 1 - 1e-6)


def tensors(batch: dict[str, np.ndarray], device: torch.device) -> dict[str, torch.Tensor]:
    """A gathered batch on the model's device; floors stay behind, as streams are made of paths in numpy."""
    return {name: torch.tensor(values, device=device) for name, values in batch.items() if name != "floor"}


def sample_paths(
    model: MP3Model,
    covariates: Covariates,
    rows: pd.DataFrame,
    curves: CurveArrays | None,
    paths: int = 256,
    seed: int = 0,
    luck: Sequence[float] = (0.0, 0.0),
    audio: Audio | None = None,
    song: np.ndarray | None = None,
    descriptors: np.ndarray | None = None,
    absent: tuple[str, ...] = (),
    rows_at_once: int = ROWS_AT_ONCE,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Paths of rows in log10 of floor units, before calibration.

    Args:
        model: In evaluation mode.
        covariates: What is known as of the rows' cut-offs.
        rows: (n,) as for `Covariates.gather`.
        curves: Observed periods, or None.
        paths: Paths a row.
        seed: Of the luck.
        luck: Correlation of luck between regions, see `uniform_numbers`.
        audio: What was heard of some songs.
        song: (n,) place of each row's song in `audio`, −1 for none.
        descriptors: (n, descriptors) standardised.
        absent: Groups of inputs to leave out.
        rows_at_once: Bounds memory; does not change results beyond rounding.

    Returns:
        (n, paths, periods) float32, and beside it `floor` (n,) in streams and `threshold` (n, paths, periods), what a
        period must have to be on the chart.
    """
    horizon, device = covariates.horizon, model.device
    result = np.empty((len(rows), paths, horizon), np.float32)
    floor, threshold = np.empty(len(rows)), np.empty_like(result)
    # Rows with equally many observed periods go together: their prefix is read once for all paths.
    order = np.argsort(rows["observed"].to_numpy(), kind="stable")
    for start in range(0, len(rows), rows_at_once):
        at = order[start : start + rows_at_once]
        part = rows.iloc[at]
        batch = only_observed(covariates.gather(part, None if curves is None else taken(curves, at)))
        floor[at] = batch["floor"]
        device_batch = tensors(batch, device)
        device_batch["song"] = torch.from_numpy(np.full(len(at), -1) if song is None else song[at]).to(device)
        if descriptors is not None:
            device_batch["descriptors"] = torch.from_numpy(descriptors[at].astype(np.float32)).to(device)
        names = (part["song_id"].tolist(), part["region"].tolist())
        numbers = uniform_numbers(*names, paths, horizon, luck, seed, len(model.members))
        drawn = model.sample(device_batch, torch.from_numpy(numbers).to(device), audio, absent)
        result[at], threshold[at] = (each.cpu().numpy() for each in (drawn, model.thresholds(device_batch, paths)))
    return result, {"floor": floor, "threshold": threshold}


def chart_observed(
    paths: np.ndarray,
    floor: np.ndarray,
    threshold: np.ndarray,
    rows: pd.DataFrame,
    curves: CurveArrays | None,
    full: bool,
) -> np.ndarray:
    """Paths in log10 of floor units → streams (n, paths, periods), observed periods exactly as they were.

    Args:
        paths: (n, paths, periods).
        floor: (n,) streams.
        threshold: Log10 of floor units, below which a period is not on the chart; broadcast against `paths`.
        rows: With `observed`.
        curves: Of the rows, where anything was observed.
        full: Keep what lies below the chart instead of 0.
    """
    streams = floor[:, None, None] * 10.0 ** paths.astype(np.float64)
    if not full:
        streams = np.where(paths < threshold, 0.0, streams)
    if curves is not None:
        known = curves.chart_observed()
        given = (np.arange(paths.shape[2]) < rows["observed"].to_numpy()[:, None]) & ~np.isnan(known)
        streams = np.where(given[:, None], known[:, None], streams)
    return streams
