"""The nested report of an evaluation of curves in; PNG files out, colour-blind safe, marks told apart in grey too."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

from mp3model.files import written_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's palette without its yellow, which is too pale for lines; each colour has a mark of its own.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#6E6E6E", "#000000")
MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")
ERROR = "CRPS, log10(1 + streams / floor)"
# More lines than this cannot be told apart where slices lie close together.
MOST_LINES = 4
# Of lines that spread over a panel, as many as there are colours.
MOST_SYSTEMS = len(COLOURS)
PANEL = (5.2, 3.3)
# System → colour and mark, the same in every picture of a report.
Styles = Mapping[str, Mapping[str, Any]]
# Slices without an order are sorted by error where there are more than this.
FEW_SLICES = 8


def write_pictures(report: Mapping[str, Any], folder: Path) -> list[str]:
    """Draws every picture that the report has figures for.

    Args:
        report: From `mp3model.evaluation.full_report.full_report`.
        folder: Where the PNG files go.

    Returns:
        File names, in the order in which a reader wants them.
    """
    split = report["split"]
    slices, leader = report["slices"][split], report["leader"]
    styles = styles_of([leader, *report.get("baselines", {})])
    drawn = {
        "leaderboard": leaderboard_picture(report, styles),
        "error_by_observed": observed_picture(report, styles),
        "error_by_region": slice_picture(slices, "region", "region", leader, styles, ordered=False),
        "error_by_decile": slice_picture(slices, "decile", "decile of streams within the region", leader, styles),
        "error_by_month": slice_picture(slices, "month", "month of debut", leader, styles),
        "slices": slice_picture(slices, "kind", "", leader, styles, ordered=False),
        "reliability": reliability_picture(report["reliability"][split], leader, styles, _scores(report)),
        "inputs": inputs_picture(report.get("inputs", {}).get(split, {})),
    }
    names = []
    for name, figure in drawn.items():
        if figure is not None:
            for axes in figure.axes:
                # Only now: whoever sets a title sets its size anew.
                axes.title.set_fontsize(9)
            with written_whole(folder / f"{name}.png") as path:
                figure.savefig(path, format="png", dpi=130)
            names.append(f"{name}.png")
    return names


def title_of(target: str) -> str:
    """`total` or `remaining_2` → what stands above a panel."""
    return "nothing observed" if target == "total" else f"{target.removeprefix('remaining_')} observed"


def styles_of(systems: list[str]) -> dict[str, dict[str, Any]]:
    """System → colour and mark."""
    return {
        # A second round of colours has other marks than the first.
        name: {"color": COLOURS[place % len(COLOURS)], "marker": MARKS[(place + place // len(COLOURS)) % len(MARKS)]}
        for place, name in enumerate(systems)
    }


def leaderboard_picture(report: Mapping[str, Any], styles: Styles) -> Figure | None:
    """A panel for each number of observed periods: systems by CRPS, with their intervals."""
    targets = _scores(report)
    if not targets:
        return None
    rows = max(len(found) for found in targets.values())
    figure, panels = _figure(len(targets), (PANEL[0], 1.1 + 0.32 * rows))
    for axes, (target, found) in zip(panels, targets.items(), strict=True):
        ordered = sorted(found, key=lambda name: -found[name][0])
        for place, name in enumerate(ordered):
            _dot(axes, found[name], place, styles[name], horizontal=True)
        axes.set_yticks(range(len(ordered)), ordered, fontsize=8)
        axes.set_ylim(-0.6, len(ordered) - 0.4)
        axes.set(title=title_of(target), xlabel=ERROR)
        axes.grid(axis="x", color="#E4E4E4", linewidth=0.6)
    return figure


def observed_picture(report: Mapping[str, Any], styles: Styles) -> Figure | None:
    """Error by number of observed periods, a line a system; nothing to draw for a single number.

    Of many systems only the leader and those that come nearest to the best at some number are drawn.
    """
    targets = _scores(report)
    if len(targets) < 2:
        return None
    figure, (axes,) = _figure(1, (6.4, 4.0))
    counts = [0 if target == "total" else int(target.removeprefix("remaining_")) for target in targets]
    systems = _foremost(targets, report["leader"])
    for place, name in enumerate(systems):
        style = styles[name]
        known = [(k, found[name]) for k, found in zip(counts, targets.values(), strict=True) if name in found]
        # Beside each other, since intervals that lie on one another cannot be read.
        shift = 0.12 * (place / max(1, len(systems) - 1) - 0.5)
        axes.plot([k + shift for k, _ in known], [values[0] for _, values in known], label=name, linewidth=1.4, **style)
        for k, values in known:
            _dot(axes, values, k + shift, style)
    axes.set(xlabel="observed periods", ylabel=ERROR, xticks=counts)
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", color="#E4E4E4", linewidth=0.6)
    _legend(figure, axes)
    return figure


def slice_picture(
    slices: Mapping[str, Any], grouping: str, label: str, leader: str, styles: Styles, ordered: bool = True
) -> Figure | None:
    """Error by slice, a panel for each number of observed periods: the leader and the systems nearest to it.

    Args:
        slices: Target → grouping → slice → what `sliced_errors` gives.
        grouping: Which of them.
        label: Of the axis of slices.
        leader: Whose intervals are drawn.
        styles: Of every system.
        ordered: Slices follow one another, so lines join them; else each stands alone, with how many debuts it has
            where there is room.
    """
    found = {target: values[grouping] for target, values in slices.items() if values.get(grouping)}
    if not found:
        return None
    widest = max(len(values) for values in found.values())
    figure, panels = _figure(len(found), (max(PANEL[0], 1.2 + 0.16 * widest), PANEL[1] + 0.4))
    for axes, (target, values) in zip(panels, found.items(), strict=True):
        names, few = list(values), len(values) <= FEW_SLICES
        if not ordered and not few:
            names.sort(key=lambda name: values[name]["systems"][leader]["value"])
        near = _nearest(values, leader)
        for place, system in enumerate(near):
            given = [values[name]["systems"][system] for name in names]
            shift = 0.0 if ordered or not few else 0.16 * (place - (len(near) - 1) / 2)
            x, y = np.arange(len(names)) + shift, [one["value"] for one in given]
            joined = {"linewidth": 1.4 if system == leader else 0.9} if ordered else {"linestyle": "none"}
            axes.plot(x, y, label=system, markersize=4, **styles[system], **joined)
            if system == leader or (few and not ordered):
                for at, one in zip(x, given, strict=True):
                    _dot(axes, (one["value"], one["low"], one["high"]), at, styles[system])
        alone = few and not ordered
        ticks = [fill(f"{name} ({values[name]['n']})", 10) for name in names] if alone else names
        rotation = 0 if alone or sum(map(len, names)) < 50 else 90
        axes.set_xticks(range(len(names)), ticks, rotation=rotation, fontsize=7)
        axes.set_ylim(bottom=0)
        axes.set(title=title_of(target), xlabel=label, ylabel=ERROR)
        axes.grid(axis="y", color="#E4E4E4", linewidth=0.6)
    _legend(figure, *panels)
    return figure


def reliability_picture(
    reliability: Mapping[str, Any], leader: str, styles: Styles, scores: Mapping[str, Mapping[str, Any]]
) -> Figure | None:
    """Coverage against what intervals claim, of the foremost systems by their scores; below, the leader's PIT."""
    found = {target: systems for target, systems in reliability.items() if leader in systems}
    if not found:
        return None
    figure, panels = _figure(2 * len(found), (3.5, 3.1), columns=len(found))
    above, below = panels[: len(found)], panels[len(found) :]
    for axes, (target, systems) in zip(above, found.items(), strict=True):
        axes.plot([0, 1], [0, 1], color="#B0B0B0", linewidth=1, linestyle=(0, (4, 2)))
        for name in _foremost({target: scores[target]}, leader):
            values = systems[name]
            nominal = [float(level) for level in values["coverage"]]
            width = 1.6 if name == leader else 0.8
            coverage = list(values["coverage"].values())
            axes.plot(nominal, coverage, label=name, markersize=4, linewidth=width, **styles[name])
        axes.set(title=title_of(target), xlabel="nominal", ylabel="share of truths inside", xlim=(0, 1), ylim=(0, 1))
        axes.set_aspect("equal")
    for axes, (target, systems) in zip(below, found.items(), strict=True):
        shares = systems[leader]["pit"]
        axes.bar(np.arange(10) / 10 + 0.05, shares, width=0.092, color=styles[leader]["color"])
        axes.axhline(0.1, color="#6E6E6E", linewidth=1, linestyle=(0, (4, 2)))
        axes.set(title=f"{leader}, {title_of(target)}", xlabel="PIT", ylabel="share", xlim=(0, 1))
        axes.set_ylim(0, max(0.2, 1.1 * max(shares)))
    _legend(figure, *above)
    return figure


def inputs_picture(inputs: Mapping[str, Any]) -> Figure | None:
    """By how much the error grows without each group of inputs, a panel for each number of observed periods."""
    found = {target: worth for target, worth in inputs.items() if worth}
    if not found:
        return None
    figure, panels = _figure(len(found), (PANEL[0] * 0.8, 2.0))
    for axes, (target, worth) in zip(panels, found.items(), strict=True):
        names = list(worth)[::-1]
        for place, name in enumerate(names):
            value = worth[name]
            style = {"color": COLOURS[0], "marker": MARKS[0]}
            _dot(axes, (value["value"], value["low"], value["high"]), place, style, horizontal=True)
        axes.axvline(0, color="#6E6E6E", linewidth=1, linestyle=(0, (4, 2)))
        axes.set_yticks(range(len(names)), [f"without {name}" for name in names], fontsize=8)
        axes.set_ylim(-0.6, len(names) - 0.4)
        axes.set(title=title_of(target), xlabel=f"more {ERROR}")
    return figure


def _scores(report: Mapping[str, Any]) -> dict[str, dict[str, tuple[float, float | None, float | None]]]:
    """Target → system → CRPS and its interval, the leader first; systems without quantiles have none."""
    split = report["split"]
    found: dict[str, dict[str, tuple[float, float | None, float | None]]] = {}
    for target, scores in report[split].items():
        systems = {report["leader"]: scores}
        for name, splits in report.get("baselines", {}).items():
            if target in splits.get(split, {}):
                systems[name] = splits[split][target]
        found[target] = {
            name: (values["crps_logfloor"], *(values.get("crps_logfloor_ci") or (None, None)))
            for name, values in systems.items()
            if values.get("crps_logfloor") is not None
        }
    return {target: systems for target, systems in found.items() if systems}


def _foremost(targets: Mapping[str, Mapping[str, Any]], leader: str) -> list[str]:
    """The leader, and the systems whose error comes nearest to the least one at some number of observed periods."""
    ratio: dict[str, float] = {}
    for found in targets.values():
        least = min(values[0] for values in found.values())
        for name, values in found.items():
            ratio[name] = min(ratio.get(name, np.inf), values[0] / least if least > 0 else 1.0)
    others = sorted((name for name in ratio if name != leader), key=lambda name: ratio[name])
    return [*([leader] if leader in ratio else []), *others[: MOST_SYSTEMS - 1]]


def _nearest(values: Mapping[str, Any], leader: str) -> list[str]:
    """The leader, and the systems with the least error over all slices, weighed by their debuts."""
    weight = np.array([found["n"] for found in values.values()], dtype=float)
    names = list(next(iter(values.values()))["systems"])
    mean = {
        name: float(np.average([found["systems"][name]["value"] for found in values.values()], weights=weight))
        for name in names
    }
    others = sorted((name for name in names if name != leader), key=lambda name: mean[name])
    return [leader, *others[: MOST_LINES - 1]]


def _dot(axes: Any, value: tuple[Any, Any, Any], at: float, style: Mapping[str, Any], horizontal: bool = False) -> None:
    middle, low, high = value
    if low is not None:
        along, across = ([low, high], [at, at]) if horizontal else ([at, at], [low, high])
        axes.plot(along, across, color=style["color"], linewidth=1.2)
    axes.plot([middle if horizontal else at], [at if horizontal else middle], markersize=5, linestyle="none", **style)


def _figure(count: int, panel: tuple[float, float], columns: int | None = None) -> tuple[Figure, list[Any]]:
    """A figure with so many panels of a size in inches, those left over hidden."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(2, count) if columns is None else columns
    rows = -(-count // columns)
    figure = Figure(figsize=(panel[0] * columns, panel[1] * rows), layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(rows, columns, squeeze=False).ravel())
    for axes in panels:
        axes.tick_params(labelsize=8)
        axes.xaxis.label.set_fontsize(8)
        axes.yaxis.label.set_fontsize(8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
    for axes in panels[count:]:
        axes.set_axis_off()
    return figure, panels[:count]


def _legend(figure: Figure, *panels: Any) -> None:
    """One legend below all panels, every system once."""
    handles: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(
        handles.values(),
        list(handles),
        loc="outside lower center",
        ncols=min(4, len(handles)),
        fontsize=8,
        frameon=False,
    )
