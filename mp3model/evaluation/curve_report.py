"""Forecast curves of several systems and what happened in; nested scores, the closing table of MP3 out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from mp3model.evaluation.accuracy import MINIMUM_CURVES, QUANTILES, CurveForecasts, CurveTruth, path_quantiles
from mp3model.evaluation.calibration import quantiles_of_rows, with_quantiles
from mp3model.evaluation.coverage import covered, pit_deviation, pit_luck, pit_tenths
from mp3model.evaluation.curve_scores import Drawn, curve_draws, differences_of, known_draws, scores_of
from mp3model.evaluation.scalar_scores import skill_scores
from mp3model.tables.curves import log_streams

_COLUMNS = {
    "spearman": "Spearman",
    "crps_logfloor": "CRPS",
    "mae_logfloor": "MAE log10",
    "wape": "WAPE %",
    "cov80": "80 % covers",
    "mae_length": "MAE length",
}


def target_name(observed: int) -> str:
    """What a report calls the streams after so many observed periods: `total`, `remaining_1`, …"""
    return "total" if observed == 0 else f"remaining_{observed}"


def add_scores(
    report: dict[str, Any],
    split: str,
    observed: int,
    truth: CurveTruth,
    forecasts: CurveForecasts,
    rivals: Mapping[str, CurveForecasts | None],
    seed: int = 0,
    replicates: int = 200,
) -> None:
    """Scores a system and its rivals on one split at one number of observed periods, in place.

    Args:
        report: Gets `[split][target]`, `baselines[name][split][target]` and
            `differences[split][target][name][measure]` (the system less the rival, over artists).
        split: Its name.
        observed: Periods known.
        truth: What happened.
        forecasts: Of the system.
        rivals: Name → forecasts of the same rows, None of one that cannot forecast here.
        seed, replicates: Of the bootstrap by artist.
    """
    draws = known_draws(truth, observed, seed, replicates)
    given = {name: other for name, other in rivals.items() if other is not None}
    drawn = {name: curve_draws(truth, other, observed, draws=draws) for name, other in given.items()}
    add_drawn_scores(report, split, target_name(observed), curve_draws(truth, forecasts, observed, draws=draws), drawn)


def add_drawn_scores(
    report: dict[str, Any], split: str, target: str, leader: Drawn, rivals: Mapping[str, Drawn]
) -> None:
    """As `add_scores`, of systems whose measures were drawn already, all in the same draws.

    Args:
        report, split: As for `add_scores`.
        target: From `target_name`.
        leader: Of the system, from `curve_draws`.
        rivals: Name → the same of each rival.
    """
    report.setdefault(split, {})[target] = scores_of(leader)
    for name, drawn in rivals.items():
        place = report.setdefault("baselines", {}).setdefault(name, {}).setdefault(split, {})
        place[target] = scores_of(drawn)
        place = report.setdefault("differences", {}).setdefault(split, {}).setdefault(target, {})
        place[name] = differences_of(leader, drawn)


def calibration_of(
    totals: np.ndarray, true: np.ndarray, regions: np.ndarray, artists: np.ndarray, seed: int = 0
) -> dict[str, Any]:
    """How well sampled totals cover the truth.

    Args:
        totals: (n, paths) sampled streams of the periods after the observed ones.
        true: (n,) what happened; NaN rows are left out, and one at least is known.
        regions: (n,) names.
        artists: (n,) whose rows luck moves together.
        seed: Of the draws that tell what luck would do, and what would be covered were the forecasts right.

    Returns:
        `pit_deviation` (largest distance of a decile from uniform), `pit_luck` (what luck alone would explain of it),
        `cov80` over all, `cov80_if_right` what it would be if what happens were a draw from these very forecasts (more
        than .8 where many paths have nothing left, for an interval that reaches down to 0 holds them all),
        `cov80_regions` a region with at least 30 rows, `cov80_foretold` of the tenth of the rows in their region of
        which most was foretold (the median), `cov80_top` of the tenth that had most. Who looks at those that had most
        looks at surprises: `cov80_top_if_right` is what a right forecast that knows no more would have.
    """
    known = np.isfinite(true)
    totals, true, regions, artists = totals[known], true[known], regions[known], artists[known]
    low, median, high = path_quantiles(totals, (0.1, 0.5, 0.9))
    inside = covered(true, low, high)
    by_region = {}
    for region in sorted(set(regions)):
        at = np.flatnonzero(regions == region)
        if len(at) >= MINIMUM_CURVES:
            by_region[str(region)] = float(inside[at].mean())
    tenths = pit_tenths(true, totals)
    return {
        "pit_deviation": pit_deviation(tenths),
        "pit_luck": pit_luck(tenths, artists, seed),
        "cov80": float(inside.mean()),
        "cov80_if_right": float(covered(totals, low[:, None], high[:, None]).mean()),
        "cov80_regions": by_region,
        "cov80_foretold": float(inside[_top_tenth(median, regions)].mean()),
        "cov80_top": float(inside[_top_tenth(true, regions)].mean()),
        "cov80_top_if_right": _top_if_right(totals, low, high, regions, seed),
    }


def _top_tenth(values: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """Which rows are among the largest tenth of their region: (n,) booleans."""
    top = np.zeros(len(values), bool)
    for region in set(regions):
        at = np.flatnonzero(regions == region)
        top[at[values[at] >= np.quantile(values[at], 0.9)]] = True
    return top


def _top_if_right(totals: np.ndarray, low: np.ndarray, high: np.ndarray, regions: np.ndarray, seed: int) -> float:
    """What is covered of the top tenth, the mean over twenty worlds in which one path of each row comes true."""
    drawn = np.random.default_rng(seed).integers(totals.shape[1], size=(20, len(totals)))
    worlds = [totals[np.arange(len(totals)), paths] for paths in drawn]
    return float(np.mean([covered(world, low, high)[_top_tenth(world, regions)].mean() for world in worlds]))


def add_skill(
    report: dict[str, Any],
    split: str,
    observed: int,
    frame: pd.DataFrame,
    quantiles: np.ndarray,
    train: pd.DataFrame,
    oracles: dict[str, pd.DataFrame],
    seed: int = 0,
) -> None:
    """Adds where totals stand between the region's climatology (0) and each oracle (1), in place.

    Args:
        report: Gets `skill[split][target]["… of ORACLE"]`.
        split, observed: As for `add_scores`.
        frame: `song_id, artist, region, true` in log10(1 + streams).
        quantiles: (n, 9) of the system, in streams.
        train: `region, true` of the training split, whose quantiles are the climatology.
        oracles: Name → the rows with `0.1` … `0.9`, in log10(1 + streams).
        seed: Of the bootstrap by artist.
    """
    ours = frame.assign(**dict(zip(QUANTILES, log_streams(quantiles).T, strict=True)))
    climatology = with_quantiles(frame, quantiles_of_rows(train), 0.0)
    place = report.setdefault("skill", {}).setdefault(split, {}).setdefault(target_name(observed), {})
    for name, oracle in oracles.items():
        systems = {"model": ours, "climatology": climatology, name: oracle}
        found = skill_scores(systems, "climatology", name, seed=seed)
        place[name] = found["model"] | {
            "crps_climatology": found["climatology"]["crps"],
            "crps_oracle": found[name]["crps"],
        }


def curve_table(report: dict[str, Any], split: str, system: str) -> str:
    """The table an MP3 run ends with: a section for each number of observed periods, a row a system.

    Args:
        report: Filled by `add_scores`.
        split: Which one to print.
        system: The model's name.
    """
    if not report.get(split):
        return f"No debut in the {split} split."
    return "\n\n".join(_section(report, split, target, system) for target in report[split])


def _section(report: dict[str, Any], split: str, target: str, system: str) -> str:
    scores = report[split][target]
    rivals = {
        name: splits[split][target]
        for name, splits in report.get("baselines", {}).items()
        if target in splits.get(split, {})
    }
    differences = report.get("differences", {}).get(split, {}).get(target, {})
    known = [name for name in _COLUMNS if scores.get(name) is not None]
    rows = [("", *(_COLUMNS[name] for name in known))]
    rows += [
        (
            name.replace("_", " "),
            *(_cell(values.get(measure), values.get(f"{measure}_ci"), measure) for measure in known),
        )
        for name, values in {system: scores, **rivals}.items()
    ]
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = [
        f"{_title(target)} on the {split} split: {scores['n_rows']} debuts, {scores['n_artists']} artists; "
        f"Spearman mean over {scores['n_regions']} regions; [95 % by artist]"
    ]
    lines += [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    for name, measures in differences.items():
        shown = [
            f"{_COLUMNS[m]} {_cell(measures[m]['value'], (measures[m]['low'], measures[m]['high']), m)}"
            for m in ("crps_logfloor", "wape")
            if m in measures
        ]
        lines.append(f"{system} less {name.replace('_', ' ')}: {', '.join(shown)}")
    for name, skill in report.get("skill", {}).get(split, {}).get(target, {}).items():
        lines.append(
            f"skill, with 1 the {name.replace('_', ' ')}: {_cell(skill['skill'], skill.get('skill_ci'), 'skill')}"
        )
    calibration = scores.get("calibration")
    if calibration:
        lines.append(
            f"largest distance of a PIT decile from uniform {pit_cell(calibration)}; 80 % intervals cover "
            f"{100 * calibration['cov80']:.1f} %, if forecasts were right {100 * calibration['cov80_if_right']:.1f} %"
        )
        lines.append(f"80 % intervals, {_parts_covered(calibration, by_region=target == 'total')}")
    return "\n".join(lines)


def _parts_covered(calibration: Mapping[str, Any], by_region: bool) -> str:
    """Where 80 % intervals hold and where not: among what was foretold to be large, what was large, and by region.

    Not by region once weeks are seen: where half of the songs are gone for good, intervals that are right hold more.
    """
    shares = [calibration[name] for name in ("cov80_foretold", "cov80_top", "cov80_top_if_right")]
    foretold, top, right = (f"{100 * share:.0f} %" for share in shares)
    line = f"tenth of which most was foretold {foretold}; tenth that had most {top}, if forecasts were right {right}"
    regions = calibration["cov80_regions"].values() if by_region else []
    near = sum(abs(share - 0.8) <= 0.05 for share in regions)
    return line + (f"; {near} of {len(regions)} regions from 75 to 85 %" if regions else "")


def pit_cell(calibration: Mapping[str, Any]) -> str:
    """The largest distance of a decile from uniform, and what luck alone would explain of it where that is known."""
    luck = calibration.get("pit_luck")
    return f"{calibration['pit_deviation']:.3f}" + (f" (luck alone: up to {luck:.3f})" if luck is not None else "")


def _title(target: str) -> str:
    return "total" if target == "total" else f"streams after {target.removeprefix('remaining_')} observed period(s)"


def _cell(value: float | None, interval: Any, measure: str) -> str:
    if value is None:
        return "undefined"
    digits = 1 if measure == "wape" else 3
    bounds = f" [{interval[0]:.{digits}f} {interval[1]:.{digits}f}]" if interval and interval[0] is not None else ""
    return f"{value:.{digits}f}{bounds}"
