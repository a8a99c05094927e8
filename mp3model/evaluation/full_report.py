"""Every system's forecasts of the same debuts in; one nested report, report.md, table.txt and pictures out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mp3model.evaluation.accuracy import CurveForecasts
from mp3model.evaluation.bootstrap import REPLICATES
from mp3model.evaluation.curve_pictures import write_pictures
from mp3model.evaluation.curve_report import add_drawn_scores, curve_table, pit_cell, target_name
from mp3model.evaluation.curve_scores import (
    MINIMUM_TOP,
    POOLED_REPLICATES,
    TOP,
    Drawn,
    curve_draws,
    differences_of,
    known_draws,
)
from mp3model.evaluation.forecasts import truth_of
from mp3model.evaluation.slices import (
    MINIMUM_SLICE,
    NOMINAL,
    groupings,
    held_rows,
    input_worth,
    lives_of,
    reliability,
    row_errors,
    sliced_errors,
)
from mp3model.files import InputError, write_json, written_whole
from mp3model.tables.debuts import Debuts, with_cutoff
from mp3model.tables.folder import DatasetFolder

# System → observed periods → its forecasts of the debuts that are scored; None, or no entry, where it cannot forecast.
Forecasts = Mapping[str, Mapping[int, CurveForecasts | None]]
# What forecasts without learning to speak of, by the names in reports: the best of them is what others must beat.
FLOORS = (
    "region median",
    "region mean",
    "region × month",
    "artist previous release",
    "nearest neighbours",
    "same weeks last year",
    "carry-forward",
    "geometric decay",
    "mean ratio",
)
# Measure → its heading on the leaderboard.
MEASURES = {
    "crps_logfloor": "CRPS",
    "spearman": "Spearman",
    "kendall": "Kendall",
    "wape": "WAPE %",
    "mae_logfloor": "MAE log10",
    "cov80": "80 % covers",
    "mae_length": "MAE length",
    "recall_100": "recall@100",
    "ndcg_100": "nDCG@100",
}
GROUPINGS = {
    "region": "By region",
    "decile": "By popularity decile (of the streams over the horizon, within the region; 10 is the top)",
    "forecast": "By tenth of the forecast (by the first system's order within the region; 10 is the top)",
    "month": "By month of debut",
    "kind": "Slices",
}
_KINDS = (
    "New artists had no other song charted anywhere by the cut-off. Christmas is a debut, or a return, from 15 "
    "November to 6 January. A debut opens later if its song had charted in another region by the cut-off."
)
# More columns than this do not fit a page: the leader and the systems nearest to it; report.json has all.
MOST_SYSTEMS = 6


def leader_of(forecasts: Forecasts, observed: Sequence[int]) -> str:
    """The first system that can forecast at each of the numbers of observed periods.

    Raises:
        InputError: None can.
    """
    for name, by_observed in forecasts.items():
        if all(by_observed.get(k) is not None for k in observed):
            return name
    names = ", ".join(forecasts)
    raise InputError(f"none of {names} forecasts with each of {list(observed)} observed periods; ask for fewer of them")


def full_report(
    forecasts: Forecasts,
    asked: Debuts,
    dataset: DatasetFolder,
    split: str,
    observed: Sequence[int],
    leader: str,
    without: Mapping[int, tuple[CurveForecasts, Mapping[str, CurveForecasts]]] | None = None,
    seed: int = 0,
    replicates: int = REPLICATES,
) -> dict[str, Any]:
    """All that report.json holds of some systems' forecasts.

    Args:
        forecasts: By system and observed periods, each of the debuts in their order.
        asked: The debuts.
        dataset: They are of; asked for what had charted by each cut-off.
        split: Name of theirs.
        observed: Numbers of observed periods.
        leader: The system that `[split][target]` holds, with which `differences` and slices compare the others.
        without: Observed periods → what `forecasts_without` gives of the leader.
        seed, replicates: Of the bootstrap by artist.

    Returns:
        `[split][target]` and `baselines[name][split][target]` as `add_scores` nests them, `differences`; beside them,
        `leaderboard`, `slices`, `reliability` and `inputs`, each by split and target, and what they are of.

    Raises:
        InputError: The leader has no forecast at one of the numbers of observed periods.
    """
    truth = truth_of(asked.rows, asked.curves)
    lives = lives_of(dataset)
    report: dict[str, Any] = {"data": str(dataset.path), "split": split, "leader": leader}
    report["replicates"] = {"all": replicates, "pooled": min(replicates, POOLED_REPLICATES)}
    places: dict[str, dict[str, Any]] = {
        name: {target_name(k): {} for k in observed} for name in ("leaderboard", "slices", "reliability", "inputs")
    }
    for k in observed:
        target = target_name(k)
        found = {name: given for name, by_k in forecasts.items() if (given := by_k.get(k)) is not None}
        if leader not in found:
            raise InputError(f"--observed {k}: {leader} has no forecast with so many; leave it out")
        found = {leader: found[leader], **found}
        draws = known_draws(truth, k, seed, replicates)
        drawn = {name: _counted(curve_draws(truth, given, k, draws=draws), asked, k) for name, given in found.items()}
        add_drawn_scores(report, split, target, drawn[leader], {n: d for n, d in drawn.items() if n != leader})
        places["leaderboard"][target] = leaderboard(drawn)
        errors = {name: row_errors(truth, given, k) for name, given in found.items()}
        rows = with_cutoff(asked.rows, k, dataset.frequency)
        held = {name: inside for name, given in found.items() if (inside := held_rows(truth, given, k)) is not None}
        score = found[leader].score if found[leader].score is not None else found[leader].total
        slices = groupings(rows, truth, lives, dataset.frequency, score)
        for grouping, masks in slices.items():
            found_slices = sliced_errors(errors, truth.artist, masks, seed, replicates, held)
            places["slices"][target][grouping] = found_slices
        told = {name: reliability(truth, given, k, seed) for name, given in found.items()}
        places["reliability"][target] = {name: values for name, values in told.items() if values is not None}
        if without:
            later = slices["kind"]["open later"]
            places["inputs"][target] = input_worth(truth, *without[k], k, seed, replicates, later)
    return report | {name: {split: by_target} for name, by_target in places.items()}


def _counted(drawn: Drawn, asked: Debuts, observed: int) -> Drawn:
    """With the number of songs among the counts."""
    samples, counts = drawn
    known = np.isfinite(asked.curves.chart_observed()[:, observed:]).all(axis=1)
    return samples, counts | {"n_songs": int(asked.rows["song_id"][known].nunique())}


def error_of(samples: Mapping[str, Any]) -> Any:
    """CRPS in log10(1 + streams / floor); of a forecast without quantiles its absolute error, the same of a point."""
    found = samples.get("crps_logfloor")
    return samples["mae_logfloor"] if found is None else found


def leaderboard(drawn: Mapping[str, Drawn]) -> dict[str, Any]:
    """Systems by their error, each with its paired differences from the best of all and from the best floor.

    Args:
        drawn: System → its measures in the same draws.

    Returns:
        `order` (names, the least error first), `best`, `best_floor` (None without one) and `less_best`,
        `less_best_floor`: name → measure → value, low, high of that system less the best one.
    """
    order = sorted(drawn, key=lambda name: error_of(drawn[name][0])[0])
    floor = next((name for name in order if name in FLOORS), None)
    found: dict[str, Any] = {"order": order, "best": order[0], "best_floor": floor}
    for key, rival in (("less_best", order[0]), ("less_best_floor", floor)):
        found[key] = {
            name: _told(differences_of(_with_error(drawn[name]), _with_error(drawn[rival])))
            for name in order
            if rival is not None and name != rival
        }
    return found


def _with_error(drawn: Drawn) -> Drawn:
    return drawn[0] | {"error": error_of(drawn[0])}, drawn[1]


def _told(differences: dict[str, Any]) -> dict[str, Any]:
    return {name: differences[name] for name in ("error", *MEASURES) if name in differences}


def write_full_report(report: dict[str, Any], folder: Path) -> str:
    """Writes pictures, report.md, table.txt and, last, report.json; gives the table back.

    Args:
        report: From `full_report`, and whatever else report.json should hold: `audit` has a section of its own.
        folder: The run folder.
    """
    report["pictures"] = write_pictures(report, folder)
    table = curve_table(report, report["split"], report["leader"])
    for name, text in (("table.txt", table + "\n"), ("report.md", markdown(report))):
        with written_whole(folder / name) as path:
            path.write_text(text, encoding="utf-8")
    write_json(folder / "report.json", report)
    return table


def markdown(report: Mapping[str, Any]) -> str:
    """report.json's content → report.md's text."""
    split, leader = report["split"], report["leader"]
    others = len(report.get("baselines", {}))
    beside = f" and {others} other system{'s' if others > 1 else ''}" if others else ""
    parts = [
        f"# {leader}{beside} on the {split} split of {report['data']}",
        "Errors are CRPS of the streams still to come, in log10(1 + streams / floor of the region); square brackets "
        f"are 95 % intervals from {report['replicates']['all']} draws of artists. Differences are paired: of two "
        "systems, the first is better where it is less than 0. Spearman, Kendall, recall and nDCG are means over "
        f"regions, recall and nDCG at {TOP} over those with at least {MINIMUM_TOP} debuts. Slices of fewer than "
        f"{MINIMUM_SLICE} debuts are left out.",
    ]
    absent: dict[str, list[str]] = {}
    for name, reason in report.get("left_out", {}).items():
        absent.setdefault(reason, []).append(name)
    parts += [f"Not here: {', '.join(names)} ({reason})." for reason, names in absent.items()]
    for target in report[split]:
        parts += [f"## {_heading(target)}", *_leaderboard_text(report, target), *_worth(report, target)]
        parts += _reliability(report["reliability"][split][target])
        shown = report["leaderboard"][split][target]["order"]
        shown = [leader, *(name for name in shown if name != leader)][:MOST_SYSTEMS]
        for grouping, title in GROUPINGS.items():
            parts += _slices(report["slices"][split][target][grouping], title, shown)
    if "audit" in report:
        parts += ["## What comes after the cut-off", report["audit"]["summary"], _table(*_audit_rows(report["audit"]))]
    parts += [f"![{name.removesuffix('.png').replace('_', ' ')}]({name})" for name in report.get("pictures", [])]
    return "\n\n".join(parts) + "\n"


def _heading(target: str) -> str:
    return "Nothing observed" if target == "total" else f"{target.removeprefix('remaining_')} observed period(s)"


def _leaderboard_text(report: Mapping[str, Any], target: str) -> list[str]:
    split, board = report["split"], report["leaderboard"][report["split"]][target]
    scores = report[split][target]
    systems = {report["leader"]: scores}
    systems |= {
        name: splits[split][target]
        for name, splits in report.get("baselines", {}).items()
        if target in splits.get(split, {})
    }
    head = ["system", *MEASURES.values(), f"CRPS less that of {board['best']}"]
    less = ["less_best"]
    if board["best_floor"] not in (None, board["best"]):
        head.append(f"CRPS less that of {board['best_floor']}")
        less.append("less_best_floor")
    rows = []
    for name in board["order"]:
        values = dict(systems[name])
        values.setdefault("crps_logfloor", values["mae_logfloor"])
        cells = [_cell(values.get(measure), values.get(f"{measure}_ci"), measure) for measure in MEASURES]
        rows.append([name, *cells, *(_interval(board[key].get(name, {}).get("error")) for key in less)])
    counted = (
        f"{scores['n_songs']} songs, {scores['n_rows']} debuts, {scores['n_artists']} artists, "
        f"{scores['n_regions']} regions in the means over regions."
    )
    floor = f" Best floor: {board['best_floor']}." if board["best_floor"] else ""
    return [counted + floor, _table(head, rows)]


def _worth(report: Mapping[str, Any], target: str) -> list[str]:
    worth = report.get("inputs", {}).get(report["split"], {}).get(target)
    if not worth:
        return []
    rows = [[group, _interval(value), str(value["n"])] for group, value in worth.items()]
    words = (
        "Of the network alone, without trees that it may be pooled with. Where open: songs that had charted in another "
        "region by the cut-off."
    )
    return ["### What each group of inputs is worth", words, _table(["left out", "error grows by", "debuts"], rows)]


def _reliability(systems: Mapping[str, Any]) -> list[str]:
    if not systems:
        return []
    rows = [
        [name, *(f"{100 * share:.1f}" for share in values["coverage"].values()), pit_cell(values)]
        for name, values in systems.items()
    ]
    head = ["system", *(f"{100 * level:.0f} % covers" for level in NOMINAL), "worst PIT tenth from .1"]
    return ["### Reliability", _table(head, rows)]


def _slices(found: Mapping[str, Any], title: str, shown: Sequence[str]) -> list[str]:
    if not found:
        return []
    rows = [
        [
            label,
            str(values["n"]),
            *(_interval(values["systems"].get(name)) for name in shown),
            f"{100 * values['coverage'][shown[0]]:.1f}" if shown[0] in values["coverage"] else "",
        ]
        for label, values in found.items()
    ]
    words = [_KINDS] if title == GROUPINGS["kind"] else []
    return [f"### {title}", *words, _table(["", "debuts", *shown, f"80 % of {shown[0]} covers"], rows)]


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
