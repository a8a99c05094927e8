"""Debuts and several systems' forecasts of them in; errors by slice, reliability and report.md's text out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from mp3model.evaluation.accuracy import (
    CurveForecasts,
    CurveTruth,
    covered,
    curve_row_scores,
    interval_of,
    paired_row_difference,
    pit_deciles,
    randomised_pit,
)
from mp3model.tables.curves import PERIOD_DAYS, period_dates

# Central intervals whose ends are among the nine quantiles.
NOMINAL = (0.2, 0.4, 0.6, 0.8)
# A mean over fewer debuts says more of them than of the slice.
MINIMUM_SLICE = 5
CHRISTMAS_FROM, CHRISTMAS_TO = (11, 15), (1, 6)
_GROUPINGS = {
    "region": "By region",
    "decile": "By popularity decile (of the streams over the horizon, within the region; 10 is the top)",
    "month": "By month of debut",
    "kind": "Slices",
}
_MEASURES = {"crps_logfloor": "CRPS", "wape": "WAPE %", "spearman": "Spearman", "cov80": "80 % covers"}


def row_errors(truth: CurveTruth, forecasts: CurveForecasts, observed: int) -> np.ndarray:
    """(n,) error of the streams still to come, in log10(1 + streams / floor): CRPS, of a forecast without quantiles
    the absolute error, which is the same score of a point; NaN where the truth or the floor is unknown.
    """
    scores = curve_row_scores(truth, forecasts, observed)
    return scores.get("crps_logfloor", scores["mae_logfloor"])


def region_labels(rows: pd.DataFrame) -> np.ndarray:
    """Each row's region: (n,) objects."""
    return rows["region"].to_numpy(dtype=object)


def decile_labels(truth: CurveTruth) -> np.ndarray:
    """Each row's tenth by streams over the horizon within its region: (n,) `01` … `10`, None if they are unknown.

    A slice by outcome is easier for systems that err on its side; it tells where errors lie, not who is better.
    """
    total = pd.Series(np.asarray(truth.streams, dtype=float).sum(axis=1))
    groups = total.groupby(np.asarray(truth.region, dtype=object))
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
) -> dict[str, Any]:
    """Mean error of each system in each slice, and of the first less each other one, with 95 % intervals by artist.

    Args:
        errors: System → (n,) from `row_errors`; the first is the one that others are compared with.
        artist: (n,) whose rows are drawn together.
        labels: Slice → (n,) bool.
        seed, replicates: Of the bootstrap.

    Returns:
        Slice → `n`, `systems` (name → value, low, high) and `differences`; slices of fewer than five scored rows are
        left out.
    """
    artist = np.asarray(artist, dtype=object)
    known = np.all([np.isfinite(values) for values in errors.values()], axis=0)
    leader = next(iter(errors))
    found: dict[str, Any] = {}
    for label, mask in labels.items():
        at = np.flatnonzero(np.asarray(mask, dtype=bool) & known)
        if len(at) < MINIMUM_SLICE:
            continue

        def mean(values: np.ndarray, at: np.ndarray = at) -> dict[str, float | None]:
            nothing = np.zeros(len(at))
            return asdict(paired_row_difference(values[at], nothing, artist[at], seed=seed, replicates=replicates))

        found[label] = {
            "n": len(at),
            "systems": {name: mean(values) for name, values in errors.items()},
            "differences": {name: mean(errors[leader] - values) for name, values in errors.items() if name != leader},
        }
    return found


def masks_of(labels: np.ndarray) -> dict[str, np.ndarray]:
    """(n,) labels → label → (n,) bool, in order; rows with None belong nowhere."""
    return {str(label): labels == label for label in sorted({value for value in labels if value is not None})}


def groupings(
    rows: pd.DataFrame, truth: CurveTruth, lives: pd.DataFrame, frequency: str
) -> dict[str, dict[str, np.ndarray]]:
    """Every way in which a report slices debuts: grouping → label → (n,) bool.

    Songs without a known artist are among the `other artists`.

    Args:
        rows: `song_id, artist, region, debut, cutoff`, as `with_cutoff` gives them.
        truth: Of the same rows.
        lives: `song_id, artist, region, debut` of the whole dataset, asked only as of each cut-off.
        frequency: `W` or `D`.
    """
    new = new_artists(rows, lives)
    later = opens_later(rows, lives)
    festive = christmas(rows, np.asarray(truth.streams, dtype=float), frequency)
    return {
        "region": masks_of(region_labels(rows)),
        "decile": masks_of(decile_labels(truth)),
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
        seed: Breaks ties: many sums are exactly 0, and so are quantiles.

    Returns:
        `n`, `coverage` (nominal level → share), `pit` (ten shares, each .1 if calibrated) and `pit_deviation`, the
        largest distance of one from .1.
    """
    if forecasts.quantiles is None:
        return None
    true = np.asarray(truth.streams, dtype=float)[:, observed:].sum(axis=1)
    known = np.isfinite(true)
    true, quantiles = true[known], np.sort(np.asarray(forecasts.quantiles, dtype=float)[known], axis=1)
    if not len(true):
        return None
    deciles = pit_deciles(randomised_pit(true, quantiles, seed))
    return {
        "n": len(true),
        "coverage": {f"{level:.1f}": float(covered(true, *interval_of(quantiles, level)).mean()) for level in NOMINAL},
        "pit": [float(share) for share in deciles],
        "pit_deviation": float(np.abs(deciles - 0.1).max()),
    }


def input_worth(
    truth: CurveTruth,
    whole: CurveForecasts,
    without: Mapping[str, CurveForecasts],
    observed: int,
    seed: int = 0,
    replicates: int = 200,
) -> dict[str, Any]:
    """By how much the error grows when the same model goes without a group of inputs: group → value, low, high, n."""
    errors = row_errors(truth, whole, observed)
    found = {}
    for group, forecasts in without.items():
        lacking = row_errors(truth, forecasts, observed)
        difference = paired_row_difference(lacking, errors, truth.artist, seed=seed, replicates=replicates)
        found[group] = asdict(difference) | {"n": int(np.isfinite(lacking - errors).sum())}
    return found


def markdown(report: dict[str, Any]) -> str:
    """report.json's content → report.md's text.

    Args:
        report: With `leader, split, data, slices, reliability` and the nesting of `add_scores`; `inputs`, `audit` and
            `pictures` if there.
    """
    split, leader = report["split"], report["leader"]
    parts = [
        f"# {leader} on the {split} split of {report['data']}",
        "Errors are CRPS of the streams still to come, in log10(1 + streams / floor of the region); square brackets "
        "are 95 % intervals, drawn by artist. Differences are paired: less than 0 means that "
        f"{leader} is better. Slices of fewer than {MINIMUM_SLICE} debuts are left out.",
    ]
    for target in report[split]:
        parts += [f"## {_heading(target)}", *_leaderboard(report, split, target), *_worth(report, split, target)]
        parts += _reliability(report["reliability"][split][target])
        for grouping, title in _GROUPINGS.items():
            parts += _slices(report["slices"][split][target][grouping], title)
    if "audit" in report:
        parts += ["## What comes after the cut-off", report["audit"]["summary"], _table(*_audit_rows(report["audit"]))]
    parts += [f"![{name.removesuffix('.png').replace('_', ' ')}]({name})" for name in report.get("pictures", [])]
    return "\n\n".join(parts) + "\n"


def _heading(target: str) -> str:
    return "Nothing observed" if target == "total" else f"{target.removeprefix('remaining_')} observed period(s)"


def _leaderboard(report: dict[str, Any], split: str, target: str) -> list[str]:
    scores = report[split][target]
    systems = {report["leader"]: scores}
    systems |= {
        name: splits[split][target]
        for name, splits in report.get("baselines", {}).items()
        if target in splits.get(split, {})
    }
    differences = report.get("differences", {}).get(split, {}).get(target, {})
    rows = []
    for name, values in sorted(systems.items(), key=lambda item: item[1].get("crps_logfloor") or np.inf):
        cells = [_cell(values.get(measure), values.get(f"{measure}_ci"), measure) for measure in _MEASURES]
        apart = differences.get(name, {}).get("crps_logfloor")
        rows.append([name, *cells, _interval(apart) if apart else ""])
    counted = f"{scores['n_rows']} debuts of {scores['n_artists']} artists."
    return [counted, _table(["system", *_MEASURES.values(), f"{report['leader']} less this, CRPS"], rows)]


def _worth(report: dict[str, Any], split: str, target: str) -> list[str]:
    worth = report.get("inputs", {}).get(split, {}).get(target)
    if not worth:
        return []
    rows = [[group, _interval(value), str(value["n"])] for group, value in worth.items()]
    return [
        "### What each group of inputs is worth",
        _table(["left out", "error grows by", "debuts"], rows),
    ]


def _reliability(systems: Mapping[str, Any]) -> list[str]:
    if not systems:
        return []
    rows = [
        [name, *(f"{100 * share:.1f}" for share in values["coverage"].values()), f"{values['pit_deviation']:.3f}"]
        for name, values in systems.items()
    ]
    head = ["system", *(f"{100 * level:.0f} % covers" for level in NOMINAL), "worst PIT tenth from .1"]
    return ["### Reliability", _table(head, rows)]


def _slices(found: Mapping[str, Any], title: str) -> list[str]:
    if not found:
        return []
    names = list(dict.fromkeys(name for values in found.values() for name in values["systems"]))
    rows = [
        [label, str(values["n"]), *(_interval(values["systems"].get(name)) for name in names)]
        for label, values in found.items()
    ]
    return [f"### {title}", _table(["", "debuts", *names], rows)]


def _audit_rows(audit: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    head = ["observed", "region", "cut-off", "debuts", "largest change in streams"]
    keys = ("observed", "region", "cutoff", "debuts", "difference")
    return head, [[str(row[key]) for key in keys] for row in audit["rows"]]


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _interval(value: Mapping[str, Any] | None) -> str:
    if value is None:
        return ""
    return _cell(value["value"], None if value["low"] is None else (value["low"], value["high"]), "crps_logfloor")


def _cell(value: float | None, interval: Any, measure: str) -> str:
    if value is None:
        return ""
    digits = 1 if measure == "wape" else 3
    bounds = f" [{interval[0]:.{digits}f} {interval[1]:.{digits}f}]" if interval else ""
    return f"{value:.{digits}f}{bounds}"
