"""A dataset, a way to forecast and debuts in; how far any forecast moves when all after its cut-off is changed, out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from mp3model.files import InputError
from mp3model.tables.curves import PERIOD_DAYS
from mp3model.tables.debuts import with_cutoff
from mp3model.tables.folder import SCHEMAS, DatasetFolder
from mp3model.tables.schema import validate

# Rows with `observed` and `cutoff`, and what a forecaster may look into → (rows, …) numbers, NaN where it has none.
Forecast = Callable[[DatasetFolder, pd.DataFrame], np.ndarray]
KEPT_ROWS, KEPT_CHARTS, NEW_SONGS = 0.7, 0.8, 12
# Regions in which no chart is kept: one that the data do not have opens after the cut-off.
_UNINHABITED = ("AQ", "BV", "HM")


def changed_after(dataset: DatasetFolder, day: object, seed: int = 0) -> DatasetFolder:
    """The dataset with everything dated after a day changed, nothing dated on or before it.

    Later rows: three of ten are gone, the rest have other streams and ranks. Later charts: two of ten are gone, the
    rest have another floor and lowest. New songs by known artists, later versions of known songs and one new region
    appear after the day, in every region; the rows of curves are in another order. Tracks that are known keep what is
    said of them, and splits and audio stay as they are.

    Args:
        dataset: With curves.
        day: The last one that stays as it is.
        seed: Of the changes.
    """
    curves, charts = dataset.curves, dataset.charts
    if curves is None:
        raise InputError(f"{dataset.path}: has no curves.parquet; without dates nothing comes after a cut-off")
    day = pd.Timestamp(day)  # type: ignore[arg-type]
    generator = np.random.default_rng(seed)
    later = (curves["date"] > day).to_numpy()
    future = curves[later & (generator.random(len(curves)) < KEPT_ROWS)].copy()
    scale = float(np.log(max(curves["streams"].median(), 1.0)))
    future["streams"] = np.floor(generator.lognormal(scale, 2, len(future)))
    future["rank"] = pd.array(generator.integers(1, 201, len(future)), dtype="Int32")
    tracks, arrivals = _arrivals(dataset, day, np.exp(scale), generator)
    if charts is not None:
        moved = (charts["date"] > day).to_numpy()
        kept = charts[~moved | (generator.random(len(moved)) < KEPT_CHARTS)].copy()
        factor = np.where(kept["date"] > day, generator.lognormal(0, 2, len(kept)), 1.0)
        kept[["floor", "lowest"]] = kept[["floor", "lowest"]].mul(factor, axis=0)
        opened = arrivals[~arrivals["region"].isin(dataset.regions)][["region", "date"]].drop_duplicates()
        charts = _settled("charts", pd.concat([opened.assign(floor=50.0, lowest=40.0, size=3), kept]))
    rows = pd.concat([arrivals, future, curves[~later]]).sample(frac=1, random_state=seed)
    return replace(dataset, tracks=tracks, curves=_settled("curves", rows), charts=charts)


def _arrivals(
    dataset: DatasetFolder, day: pd.Timestamp, size: float, generator: np.random.Generator
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tracks with new songs and versions, and their rows: a date after the day on each region's own grid."""
    assert dataset.curves is not None
    known = dataset.tracks.iloc[generator.integers(0, len(dataset.tracks), NEW_SONGS)]
    # Names at both ends of the alphabet, so that every order and code that counts them would shift.
    names = [f"{'aaa' if number % 2 else 'zzz'}-after-{day.date()}-{number}" for number in range(NEW_SONGS)]
    # Every third is a later version of a song that is known.
    is_version = np.arange(NEW_SONGS) % 3 == 0
    songs = np.where(is_version, known["song_id"].to_numpy(dtype=object), np.array(names, dtype=object))
    new = pd.DataFrame({"track_id": names, "song_id": songs, "title": None, "artist": known["artist"].to_numpy()})
    new[["isrc", "release_date"]] = None, pd.NaT
    tracks = _settled("tracks", pd.concat([dataset.tracks, new]))
    period = pd.Timedelta(days=PERIOD_DAYS[dataset.frequency])
    last = dataset.curves.groupby("region")["date"].max()
    regions = [*dataset.regions, next(name for name in _UNINHABITED if name not in dataset.regions)]
    # A whole number of periods from the region's last row is on its grid.
    first = {region: last.get(region, last.max()) for region in regions}
    first = {region: date + period * ((day - date) // period + 1) for region, date in first.items()}
    rows = [
        (name, region, first[region] + period * int(generator.integers(0, 4)), 5 * size, int(generator.integers(1, 4)))
        for name in names
        for region in regions
    ]
    return tracks, pd.DataFrame(rows, columns=["track_id", "region", "date", "streams", "rank"])


def _settled(name: str, frame: pd.DataFrame) -> pd.DataFrame:
    return validate(frame, SCHEMAS[name], name)


def sample_of(
    rows: pd.DataFrame, observed: Sequence[int], frequency: str, days: int = 4, each: int = 3
) -> pd.DataFrame:
    """Debuts to audit: few days, chosen to reach as many pairs of observed periods and region as they can.

    Args:
        rows: From `debut_rows`.
        observed: Numbers of observed periods.
        frequency: `W` or `D`.
        days: Cut-offs at most; each asks for a changed dataset of its own.
        each: Debuts a pair and day.

    Returns:
        Rows with `observed` and `cutoff`, sorted by cut-off.
    """
    every = pd.concat([with_cutoff(rows, k, frequency) for k in observed], ignore_index=True)
    pair = every["observed"].astype(str) + " " + every["region"]
    reached: set[str] = set()
    chosen: list[object] = []
    of_day = {day: set(names) for day, names in pair.groupby(every["cutoff"], sort=True)}
    while of_day and len(chosen) < days:
        # Pairs not yet reached first; then days that ask about many at once.
        best = max(of_day, key=lambda day: (len(of_day[day] - reached), len(of_day[day])))
        chosen.append(best)
        reached |= of_day.pop(best)
    found = every[every["cutoff"].isin(chosen)].groupby(["cutoff", "observed", "region"], sort=True).head(each)
    return found.sort_values(["cutoff", "song_id", "region", "observed"], kind="stable").reset_index(drop=True)


def audit_forecasts(
    forecast: Forecast, dataset: DatasetFolder, sample: pd.DataFrame, seeds: Sequence[int] = (0, 1)
) -> pd.DataFrame:
    """How far forecasts move when everything after their cut-off changes, each row's own cut-off to the day.

    Args:
        forecast: Asked with the dataset as it is and with changed ones, for the same rows.
        dataset: As it is.
        sample: Rows with `observed` and `cutoff`, from `sample_of`.
        seeds: One changed dataset a day and seed.

    Returns:
        `observed, region, cutoff, debuts, difference`: the largest absolute difference, inf where a number became none.

    Raises:
        InputError: There is nothing to audit.
    """
    if not len(sample):
        raise InputError(f"{dataset.path}: no debut to audit")
    moved = np.zeros(len(sample))
    for day, at in sample.groupby("cutoff", sort=True).indices.items():
        asked = sample.iloc[at].reset_index(drop=True)
        before = np.asarray(forecast(dataset, asked), dtype=float).reshape(len(asked), -1)
        for seed in seeds:
            after = np.asarray(forecast(changed_after(dataset, day, seed), asked), dtype=float)
            moved[at] = np.maximum(moved[at], _distance(before, after.reshape(len(asked), -1)))
    table = sample.assign(difference=moved).groupby(["observed", "region", "cutoff"], sort=True)
    return table["difference"].agg(debuts="size", difference="max").reset_index()


def _distance(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(n, numbers) twice → (n,) largest absolute difference; two NaN are the same, one is infinitely far."""
    apart = np.where(np.isnan(one) & np.isnan(other), 0.0, np.abs(one - other))
    return np.where(np.isnan(apart), np.inf, apart).max(axis=1, initial=0.0)
