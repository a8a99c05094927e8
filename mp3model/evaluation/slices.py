"""Debuts and several systems' forecasts of them in; errors by slice, reliability and what inputs are worth out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pandas as pd

from mp3model.evaluation.accuracy import CurveForecasts, CurveTruth, curve_row_scores
from mp3model.evaluation.bootstrap import Draws, interval_of_draws, paired_row_difference
from mp3model.evaluation.coverage import covered, interval_of, pit_deciles, pit_deviation, pit_luck, pit_tenths
from mp3model.tables.curves import PERIOD_DAYS, period_dates
from mp3model.tables.debuts import Debuts
from mp3model.tables.folder import DatasetFolder
from mp3model.tables.splits import first_rows
from mp3model.tables.tracks import artist_keys

# Central intervals whose ends are among the nine quantiles.
NOMINAL = (0.2, 0.4, 0.6, 0.8)
# Groups of inputs whose worth is asked; a model without its regions' state knows no scale to speak in.
WORTH = ("artist", "regions", "audio")
# A mean over fewer debuts says more of them than of the slice.
MINIMUM_SLICE = 5
CHRISTMAS_FROM, CHRISTMAS_TO = (11, 15), (1, 6)


def row_errors(truth: CurveTruth, forecasts: CurveForecasts, observed: int) -> np.ndarray:
    """(n,) error of the streams still to come, in log10(1 + streams / floor): CRPS, of a forecast without quantiles
    the absolute error, which is the same score of a point; NaN where the truth or the floor is unknown.
    """
    scores = curve_row_scores(truth, forecasts, observed)
    return scores.get("crps_logfloor", scores["mae_logfloor"])


def held_rows(truth: CurveTruth, forecasts: CurveForecasts, observed: int) -> np.ndarray | None:
    """(n,) whether each row's 80 % interval holds the streams still to come; None of a forecast without quantiles."""
    return curve_row_scores(truth, forecasts, observed).get("cov80")


def region_labels(rows: pd.DataFrame) -> np.ndarray:
    """Each row's region: (n,) objects."""
    return rows["region"].to_numpy(dtype=object)


def decile_labels(truth: CurveTruth) -> np.ndarray:
    """Each row's tenth by streams over the horizon within its region: (n,) `01` … `10`, None if they are unknown.

    A slice by outcome is easier for systems that err on its side; it tells where errors lie, not who is better. Of
    intervals it tells nothing: those who rose above all expectation are in the last tenth because they did.
    """
    return tenths(np.asarray(truth.streams, dtype=float).sum(axis=1), truth.region)


def tenths(values: np.ndarray, region: Any) -> np.ndarray:
    """Each row's tenth within its region: (n,) values → (n,) `01` … `10`, None where the value is NaN."""
    groups = pd.Series(values).groupby(np.asarray(region, dtype=object))
    # The middle of a row's rank interval, so that ties share a tenth and a single row lies in the middle.
    place = ((groups.rank() - 0.5) / groups.transform("count")).to_numpy()
    return np.array([None if np.isnan(value) else f"{int(value * 10) + 1:02d}" for value in place], dtype=object)


def month_labels(rows: pd.DataFrame) -> np.ndarray:
    """Each row's calendar month of debut: (n,) `2026-01`, …"""
    return rows["debut"].dt.strftime("%Y-%m").to_numpy(dtype=object)


def new_artists(rows: pd.DataFrame, lives: pd.DataFrame) -> np.ndarray:
    """Which rows are by an artist none of whose other songs had charted anywhere by the cut-off: (n,) bool.

    A row without a known artist is not counted as new: nobody knows.

    Args:
        rows: `song_id, artist, cutoff`; the key of a song without artist is `song:` and its name.
        lives: `song_id, artist, debut` of every song in every region, with the same keys.
    """
    earliest = _earliest_other(lives, "artist", "song_id", rows)
    named = ~rows["artist"].str.startswith("song:").fillna(True).to_numpy(dtype=bool)
    return named & ~(earliest <= rows["cutoff"].to_numpy())


def opens_later(rows: pd.DataFrame, lives: pd.DataFrame) -> np.ndarray:
    """Which rows' song had charted in another region by the cut-off: (n,) bool.

    Args:
        rows: `song_id, region, cutoff`.
        lives: `song_id, region, debut`.
    """
    return _earliest_other(lives, "song_id", "region", rows) <= rows["cutoff"].to_numpy()


def christmas(rows: pd.DataFrame, streams: np.ndarray, frequency: str) -> np.ndarray:
    """Which rows debut, or come back after periods off the chart, in a period with a day from 15 November to 6 January.

    Args:
        rows: `debut`.
        streams: (n, H) chart-observed, 0 off the chart, NaN unknown.
        frequency: `W` or `D`.

    Returns:
        (n,) bool.
    """
    last = period_dates(rows["debut"], streams.shape[1], frequency).astype("datetime64[D]")
    # The window is longer than a period, so a period with a day in it has its first or its last day in it.
    inside = _in_window(last) | _in_window(last - (PERIOD_DAYS[frequency] - 1))
    charted = streams > 0
    begins = np.zeros(streams.shape, bool)
    begins[:, 0] = True
    begins[:, 1:] = charted[:, 1:] & (streams[:, :-1] == 0)
    return (inside & begins).any(axis=1)


def _in_window(days: np.ndarray) -> np.ndarray:
    month = days.astype("datetime64[M]")
    number = month.astype(int) % 12 + 1
    day = (days - month).astype(int) + 1
    starts = (number == CHRISTMAS_FROM[0]) & (day >= CHRISTMAS_FROM[1])
    ends = (number == CHRISTMAS_TO[0]) & (day <= CHRISTMAS_TO[1])
    return starts | (number == 12) | ends


def _earliest_other(lives: pd.DataFrame, group: str, member: str, rows: pd.DataFrame) -> np.ndarray:
    """(n,) first debut in each row's group among members other than the row's own; NaT where there is none."""
    first = lives.groupby([group, member], sort=False)["debut"].min().reset_index()
    first = first.sort_values("debut", kind="stable")
    best = first.drop_duplicates(group)
    second = first.drop(best.index).drop_duplicates(group)
    found = rows[[group, member]].merge(best, on=group, how="left", suffixes=("", "_first"))
    found = found.merge(second[[group, "debut"]], on=group, how="left", suffixes=("", "_second"))
    own = (found[member] == found[f"{member}_first"]).to_numpy()
    return np.where(own, found["debut_second"].to_numpy(), found["debut"].to_numpy())


def sliced_errors(
    errors: Mapping[str, np.ndarray],
    artist: Any,
    labels: Mapping[str, np.ndarray],
    seed: int = 0,
    replicates: int = 200,
    held: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Any]:
    """Mean error of each system in each slice, and of the first less each other one, with 95 % intervals by artist.

    Artists are drawn once from all rows, for every system and slice; a draw without an artist of a slice is left out
    of that slice's interval.

    Args:
        errors: System → (n,) from `row_errors`; the first is the one that others are compared with.
        artist: (n,) whose rows are drawn together.
        labels: Slice → (n,) bool.
        seed, replicates: Of the bootstrap.
        held: System → (n,) whether its 80 % interval held the truth, where it has one.

    Returns:
        Slice → `n`, `systems` (name → value, low, high), `differences` and `coverage` (name → share of 80 % intervals
        that held the truth); slices of fewer than five scored rows are left out.
    """
    rows = np.flatnonzero(np.all([np.isfinite(values) for values in errors.values()], axis=0))
    draws = Draws(np.asarray(artist, dtype=object)[rows], replicates, seed)
    each = np.column_stack([values[rows] for values in errors.values()])
    both = np.hstack([each, each[:, :1] - each[:, 1:]])
    names = list(errors)
    found: dict[str, Any] = {}
    for label, mask in labels.items():
        at = np.flatnonzero(np.asarray(mask, dtype=bool)[rows])
        if len(at) < MINIMUM_SLICE:
            continue
        samples = draws.ratios(both[at], np.ones((len(at), both.shape[1])), at).T
        several = draws.artists(at) > 1
        told = [asdict(interval_of_draws(values, several)) for values in samples]
        found[label] = {
            "n": len(at),
            "systems": dict(zip(names, told[: len(names)], strict=True)),
            "differences": dict(zip(names[1:], told[len(names) :], strict=True)),
            "coverage": {name: float(inside[rows[at]].mean()) for name, inside in (held or {}).items()},
        }
    return found


def masks_of(labels: np.ndarray) -> dict[str, np.ndarray]:
    """(n,) labels → label → (n,) bool, in order; rows with None belong nowhere."""
    return {str(label): labels == label for label in sorted({value for value in labels if value is not None})}


def lives_of(dataset: DatasetFolder) -> pd.DataFrame:
    """When every song first charted in every region, as far as the dataset tells: `song_id, artist, region, debut`."""
    tracks = dataset.tracks.assign(artist=artist_keys(dataset.tracks)).drop_duplicates("song_id")
    return first_rows(dataset).merge(tracks[["song_id", "artist"]], on="song_id")


def groupings(
    rows: pd.DataFrame, truth: CurveTruth, lives: pd.DataFrame, frequency: str, score: np.ndarray | None = None
) -> dict[str, dict[str, np.ndarray]]:
    """Every way in which a report slices debuts: grouping → label → (n,) bool.

    Songs without a known artist are among the `other artists`.

    Args:
        rows: `song_id, artist, region, debut, cutoff`, as `with_cutoff` gives them.
        truth: Of the same rows.
        lives: `song_id, artist, region, debut` of the whole dataset, asked only as of each cut-off.
        frequency: `W` or `D`.
        score: (n,) by whose order the leader ranks the rows; None leaves out tenths by forecast.
    """
    new = new_artists(rows, lives)
    later = opens_later(rows, lives)
    festive = christmas(rows, np.asarray(truth.streams, dtype=float), frequency)
    return {
        "region": masks_of(region_labels(rows)),
        "decile": masks_of(decile_labels(truth)),
        "forecast": masks_of(tenths(score, truth.region)) if score is not None else {},
        "month": masks_of(month_labels(rows)),
        "kind": {
            "new artists": new,
            "other artists": ~new,
            "Christmas": festive,
            "rest of the year": ~festive,
            "open later": later,
            "open first": ~later,
        },
    }


def reliability(truth: CurveTruth, forecasts: CurveForecasts, observed: int, seed: int = 0) -> dict[str, Any] | None:
    """Whether intervals hold what they say, and into which tenth of the forecast the truth fell.

    Args:
        truth: What happened.
        forecasts: With quantiles; without any the answer is None.
        observed: Periods known.
        seed: Of the draws that tell what luck would do.

    Returns:
        `n`, `coverage` (nominal level → share), `pit` (ten shares, each .1 if calibrated), `pit_deviation`, the largest
        distance of one from .1, and `pit_luck`, what luck alone would explain of that.
    """
    if forecasts.quantiles is None:
        return None
    true = np.asarray(truth.streams, dtype=float)[:, observed:].sum(axis=1)
    known = np.isfinite(true)
    true, quantiles = true[known], np.sort(np.asarray(forecasts.quantiles, dtype=float)[known], axis=1)
    if not len(true):
        return None
    tenths = pit_tenths(true, quantiles)
    return {
        "n": len(true),
        "coverage": {f"{level:.1f}": float(covered(true, *interval_of(quantiles, level)).mean()) for level in NOMINAL},
        "pit": [float(share) for share in pit_deciles(tenths)],
        "pit_deviation": pit_deviation(tenths),
        "pit_luck": pit_luck(tenths, np.asarray(truth.artist, dtype=object)[known], seed),
    }


def forecasts_without(
    forecaster: Any, asked: Debuts, observed: int
) -> tuple[CurveForecasts, dict[str, CurveForecasts]]:
    """A model's forecasts with all inputs and without each group that it has: whole, group → forecasts.

    A model that is pooled with trees speaks alone here: trees cannot tell an input that is left out from an empty one.

    Args:
        forecaster: Of an MP3 model, as `mp3model.training.forecasting.forecaster_of` makes it.
        asked: The debuts.
        observed: Periods known.
    """
    has = {*forecaster.covariates.groups, *(["audio"] if forecaster.hearing is not None else [])}
    alone = replace(forecaster, companion=None)
    return alone.paths(asked, observed).forecasts(), {
        group: replace(alone, absent=(group,)).paths(asked, observed).forecasts() for group in WORTH if group in has
    }


def input_worth(
    truth: CurveTruth,
    whole: CurveForecasts,
    without: Mapping[str, CurveForecasts],
    observed: int,
    seed: int = 0,
    replicates: int = 200,
    opens_later: np.ndarray | None = None,
) -> dict[str, Any]:
    """By how much the error grows when the same model goes without a group of inputs: group → value, low, high, n.

    Args:
        truth: What happened.
        whole: Forecasts with all inputs.
        without: Group → forecasts without it.
        observed: Periods known.
        seed, replicates: Of the bootstrap by artist.
        opens_later: (n,) bool: among these rows alone, the worth of other regions once more, as `regions where open`.
    """
    errors = row_errors(truth, whole, observed)
    asked = {group: (group, np.ones(len(errors), bool)) for group in without}
    if opens_later is not None and "regions" in without and opens_later.sum() >= MINIMUM_SLICE:
        asked["regions where open"] = ("regions", opens_later)
    artist = np.asarray(truth.artist, dtype=object)
    found = {}
    for label, (group, kept) in asked.items():
        lacking = row_errors(truth, without[group], observed)[kept]
        difference = paired_row_difference(lacking, errors[kept], artist[kept], seed=seed, replicates=replicates)
        found[label] = asdict(difference) | {"n": int(np.isfinite(lacking - errors[kept]).sum())}
    return found
