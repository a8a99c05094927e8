"""True and predicted classes by artist in; accuracy and macro-F1 beside the majority class, with intervals, out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from mp3model.evaluation.bootstrap import REPLICATES, Draws, interval_of_draws, with_interval
from mp3model.files import InputError

MEASURES = {"accuracy": "accuracy", "macro_f1": "macro-F1"}


def class_draws(true: np.ndarray, predicted: np.ndarray, draws: Draws) -> dict[str, np.ndarray]:
    """Accuracy and macro-F1 in each draw of artists: (1 + replicates,) each, the sample itself first.

    Macro-F1 is the plain mean of 2 tp / (2 tp + fp + fn) over the classes that occur in `true` or `predicted`, in each
    draw those that occur in it.

    Args:
        true, predicted: (n,) class numbers.
        draws: Of the same rows.
    """
    true, predicted = np.asarray(true), np.asarray(predicted)
    if true.shape != predicted.shape or not true.size:
        raise InputError(f"{predicted.shape} predictions for {true.shape} true classes; give one each, at least one")
    classes = np.union1d(true, predicted)
    hits = (true == predicted)[:, None]
    is_true, is_predicted = true[:, None] == classes, predicted[:, None] == classes
    accuracy = draws.ratios(hits.astype(float), np.ones((len(true), 1)))[:, 0]
    each = draws.ratios(2.0 * (hits & is_true), is_true.astype(float) + is_predicted)
    there = np.isfinite(each)
    macro = np.where(there, each, 0.0).sum(axis=1) / np.maximum(there.sum(axis=1), 1)
    return {"accuracy": accuracy, "macro_f1": np.where(there.any(axis=1), macro, np.nan)}


def class_report(
    true: np.ndarray,
    predicted: Mapping[str, np.ndarray],
    artist: Any,
    leader: str,
    majority: str,
    seed: int = 0,
    replicates: int = REPLICATES,
) -> dict[str, Any]:
    """Scores of several systems on the same rows, nested as in every report.

    Args:
        true: (n,) class numbers.
        predicted: System → (n,).
        artist: (n,) whose rows are drawn together.
        leader: The system that `test.classes` holds; the others are in `baselines`.
        majority: The system that always answers with the most frequent class of training.
        seed, replicates: Of the bootstrap by artist.

    Returns:
        `test.classes` and `baselines[name].test.classes` with `m`, `m_ci` of each measure, `n_rows`, `n_artists`; and
        `differences.test.classes[name]`: each system less the majority class.
    """
    draws = Draws(artist, replicates, seed)
    several = draws.artists() > 1
    drawn = {name: class_draws(true, values, draws) for name, values in predicted.items()}
    report: dict[str, Any] = {"leader": leader, "majority": majority, "test": {}, "baselines": {}}
    for name, samples in drawn.items():
        scores: dict[str, Any] = {"n_rows": len(true), "n_artists": draws.artists()}
        for measure, values in samples.items():
            scores |= with_interval(measure, values, several)
        place = report if name == leader else report["baselines"].setdefault(name, {"test": {}})
        place["test"]["classes"] = scores
    report["differences"] = {
        "test": {
            "classes": {
                name: {
                    measure: asdict(interval_of_draws(values - drawn[majority][measure], several))
                    for measure, values in samples.items()
                }
                for name, samples in drawn.items()
                if name != majority
            }
        }
    }
    return report


def class_table(report: Mapping[str, Any]) -> str:
    """The report's table: a row a system, by accuracy."""
    systems = {report["leader"]: report["test"]} | {name: found["test"] for name, found in report["baselines"].items()}
    apart = report["differences"]["test"]["classes"]
    rows = [("", *MEASURES.values(), *(f"{heading} less {report['majority']}" for heading in MEASURES.values()))]
    for name, found in sorted(systems.items(), key=lambda item: -item[1]["classes"]["accuracy"]):
        scores = found["classes"]
        cells = [_cell(scores[measure], scores[f"{measure}_ci"]) for measure in MEASURES]
        less = [apart[name][measure] if name in apart else None for measure in MEASURES]
        cells += ["" if value is None else _cell(value["value"], _bounds(value)) for value in less]
        rows.append((name, *cells))
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = []
    for name, *cells in rows:
        right = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        lines.append("  ".join([name.ljust(widths[0]), *right]).rstrip())
    return "\n".join(lines)


def _bounds(value: Mapping[str, Any]) -> list[float] | None:
    return None if value["low"] is None else [value["low"], value["high"]]


def _cell(value: float, interval: list[float] | None) -> str:
    return f"{value:.3f}" + (f" [{interval[0]:.3f} {interval[1]:.3f}]" if interval else "")
