"""A nested report of scores in, the closing table, `report.json` and a picture of predicted against true out."""

from __future__ import annotations

import math
import os
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from mp3model.evaluation.scalar_scores import paired_difference, score_scalar
from mp3model.files import write_json, written_whole

WIDTH = 110
_MEASURES = ("spearman", "kendall", "r2", "mae")
_HEADINGS = {
    "total": ("Spearman", "Kendall", "R²", "MAE log10", "songs"),
    "debut_rank": ("Spearman", "Kendall", "R²", "MAE ranks", "songs"),
    "charted": ("Spearman", "Kendall", "R²", "MAE chance", "songs"),
}
_AXES = {"total": "total over the horizon (log10(1 + streams))", "debut_rank": "debut rank"}


def scalar_report(
    frames: dict[str, dict[str, dict[str, pd.DataFrame]]],
    oracles: dict[str, dict[str, dict[str, pd.DataFrame]]],
    model: str,
    seed: int = 0,
) -> dict[str, Any]:
    """Scores of every system on every split and target, nested as `closing_table` reads them.

    Args:
        frames: split → target → system → rows as `score_scalar` takes them.
        oracles: The same nesting, of a market's own forecasts; empty where there are none.
        model: Which system is the model; the others are its baselines, each with its paired difference from the model.
        seed: Of the bootstrap by artist.
    """
    report: dict[str, Any] = {"baselines": {}, "differences": {}}
    for split, targets in frames.items():
        for target, systems in targets.items():
            for name, frame in systems.items():
                place = report if name == model else report["baselines"].setdefault(name, {})
                place.setdefault(split, {})[target] = score_scalar(frame, target, seed=seed)
                if name != model:
                    place = report["differences"].setdefault(split, {}).setdefault(target, {})
                    place[name] = {
                        metric: asdict(paired_difference(systems[model], frame, metric, seed=seed))
                        for metric in ("spearman", "mae")
                    }
            for name, frame in oracles.get(split, {}).get(target, {}).items():
                report.setdefault(name, {}).setdefault(split, {})[target] = score_scalar(frame, target, seed=seed)
    return report


def closing_table(report: dict[str, Any], split: str = "test", system: str = "MP2") -> str:
    """The table a run ends with, plain text of at most 110 columns.

    Args:
        report: `{split: {target: scores}}` of the model, and in the same nesting `baselines: {name: …}`, optionally
            `oracle`, `oracle_audio`, and `differences: {split: {target: {name: {metric: {value, low, high}}}}}` (model
            less baseline), and `skill: {split: {target: {name: {skill, skill_ci}}}}`.
            Scores are those of `mp3model.evaluation.scalar_scores.score_scalar`.
        split: which split to print.
        system: the model's name.

    Returns:
        For each target, a row a system with values and their 95 % intervals by artist, the model pooled over regions,
        the differences, then the model's rows by region.
    """
    if not report.get(split):
        return f"No scores of the {split} split."
    return "\n\n".join(_target_section(report, split, target, system) for target in report[split])


def _target_section(report: dict[str, Any], split: str, target: str, system: str) -> str:
    scores = report[split][target]
    rivals = {name.replace("_", " "): value for name, value in report.get("baselines", {}).items()}
    rivals |= {name.replace("_", " "): report[name] for name in ("oracle_audio", "oracle") if report.get(name)}
    systems = {system: scores} | {name: value.get(split, {}).get(target) for name, value in rivals.items()}
    rows = [_row(name, value, value["n_songs"]) for name, value in systems.items() if value]
    pooled = scores | {f"{m}{end}": scores.get(f"{m}_pooled{end}") for m in _MEASURES[:3] for end in ("", "_ci")}
    rows.insert(1, _row(f"{system}, pooled", pooled, scores["n_songs"]))
    rows += [_row(f"  {region}", value, value["n"]) for region, value in scores.get("regions", {}).items()]
    headings = _HEADINGS.get(target, ("Spearman", "Kendall", "R²", f"MAE {scores.get('unit', '')}".strip(), "songs"))
    title = (
        f"{target} on the {split} split: "
        f"{scores['n_songs']} songs, {scores['n_rows']} rows, {scores['n_artists']} artists\n"
        f"Spearman, Kendall: mean over {scores['n_regions']} regions; R² within regions; [95 % intervals by artist]"
    )
    lines = [title, *_aligned([("", *headings), *rows])]
    lines += _difference_lines(report, split, target, system)
    return "\n".join(lines + _skill_lines(report, split, target, system))


def _row(name: str, scores: dict[str, Any], count: int) -> tuple[str, ...]:
    return (name, *(_cell(scores.get(m), scores.get(f"{m}_ci")) for m in _MEASURES), str(count))


def _cell(value: float | None, interval: list[float] | None, digits: int = 2) -> str:
    if value is None:
        return "undefined"
    bounds = f" [{_short(interval[0], digits)} {_short(interval[1], digits)}]" if interval else ""
    return _short(value, 3) + bounds


def _short(value: float, digits: int) -> str:
    """Gives up a decimal for each further digit before the point, so that columns keep their width."""
    digits = max(0, digits - max(0, math.floor(math.log10(abs(value)))) if abs(value) >= 10 else digits)
    # Adding zero turns a rounded −0 into 0.
    return f"{round(value, digits) + 0.0:.{digits}f}"


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    between = "  " if sum(widths) + 2 * (len(widths) - 1) <= WIDTH else " "
    return [
        between.join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]


def _difference_lines(report: dict[str, Any], split: str, target: str, system: str) -> list[str]:
    differences = report.get("differences", {}).get(split, {}).get(target, {})
    lines = []
    for name, metrics in differences.items():
        for metric, d in metrics.items():
            bounds = [d["low"], d["high"]] if d.get("low") is not None else None
            # A third digit, since the question is whether the interval reaches 0.
            lines.append(f"{system} less {name.replace('_', ' ')}, {metric}: {_cell(d['value'], bounds, 3)}")
    return lines


def _skill_lines(report: dict[str, Any], split: str, target: str, system: str) -> list[str]:
    scores = report.get("skill", {}).get(split, {}).get(target, {})
    return [
        f"skill of {system if name == 'mp2' else name.replace('_', ' ')}: {_cell(value['skill'], value['skill_ci'])}"
        + (" (CRPS; 0 is the region's climatology, 1 the oracle)" if name == "mp2" else "")
        for name, value in scores.items()
        if name not in ("climatology", "oracle")
    ]


def write_report(path: str | os.PathLike[str], report: dict[str, Any]) -> None:
    """Writes `report.json`, whole or not at all; NumPy numbers become plain ones, NaN and infinity become null."""
    write_json(path, _plain(report))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def predicted_against_true(frame: pd.DataFrame, path: str | os.PathLike[str], target: str = "total") -> None:
    """Scatter of predicted against true, a panel a region, as PNG.

    Args:
        frame: `region, true, predicted`; log10(1 + streams) for `total`, ranks for `debut_rank`.
        path: file to write.
        target: names the axes.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    frame = frame[frame["true"].notna() & frame["predicted"].notna()]
    regions = sorted(frame["region"].astype(str).unique())
    columns = min(4, max(1, len(regions)))
    rows = max(1, math.ceil(len(regions) / columns))
    figure = Figure(figsize=(3 * columns + 0.6, 3 * rows + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    limits = _limits(frame)
    for panel, region in zip(panels, regions, strict=False):
        part = frame[frame["region"] == region]
        # Blue and vermilion of Okabe and Ito (2008), told apart by all common kinds of colour vision.
        panel.scatter(part["true"], part["predicted"], s=12, alpha=0.5, color="#0072B2", linewidths=0)
        panel.plot(limits, limits, color="#D55E00", linewidth=1, linestyle="--", label="predicted = true")
        panel.set(title=f"{region} (n = {len(part)})", xlim=limits, ylim=limits, aspect="equal")
    for panel in panels[len(regions) :]:
        panel.set_axis_off()
    for panel in panels[max(0, len(regions) - columns) : len(regions)]:
        # Shared axes label the bottom row only, which may be empty below a panel.
        panel.tick_params(labelbottom=True)
    if regions:
        panels[0].legend(loc="upper left", fontsize="small", frameon=False)
    name = _AXES.get(target, target)
    figure.supxlabel(f"true {name}", fontsize="medium")
    figure.supylabel(f"predicted {name}".replace(" (", "\n("), fontsize="medium")
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _limits(frame: pd.DataFrame) -> tuple[float, float]:
    values = frame[["true", "predicted"]].to_numpy(dtype=float)
    if not values.size:
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    margin = 0.05 * (high - low) or 0.5
    return low - margin, high + margin
