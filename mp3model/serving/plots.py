"""Arrays and tables in, PNG files out; colour-blind safe, units on every axis."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from mp3model.audio.augment import (
    Draw,
    RandomGain,
    RandomRoll,
    SpecAugment,
    TimbreAugment,
    Transpose,
    draw_numbers,
)
from mp3model.audio.bank import SAMPLE_RATE
from mp3model.audio.frontend import LogMel
from mp3model.evaluation.accuracy import path_quantiles
from mp3model.files import InputError, written_whole
from mp3model.serving.result import notes_of, readable, songs_alike

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from mp3model.serving.result import Forecast

# Okabe and Ito's palette, told apart by every kind of colour vision and in grey.
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#6E6E6E"
# The bands stay apart in print: the inner is drawn over the outer.
OUTER, INNER = "#BBD8EA", "#7FB5D8"
PANEL_COLUMNS, MANY_PANELS = 3, 12
# Songs most alike that are drawn and named.
ALIKE = 3


def augmentation_stages(waveform: np.ndarray, seed: int = 0) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """One clip before and after each augmentation alone: name → (waveform (samples,), log-mel (frames, mels)).

    Each effect is drawn to be seen: a gain of −12 dB, a roll by a third, three semitones up, and the largest masks
    of AST's recipe.

    Args:
        waveform: (samples,) int16 at 16 kHz.
        seed: Of the pitch and timbre effects.
    """
    floats = torch.from_numpy(waveform.astype(np.float32) / 32768.0)[None]
    draws = torch.from_numpy(draw_numbers(seed, 0, "augmentation picture"))[None]
    draws[:, [Draw.GAIN_APPLIES, Draw.ROLL_APPLIES]] = 0.0
    draws[:, Draw.ROLL] = 1 / 3
    draws[:, Draw.SHIFT] = 1.0
    draws[:, [Draw.FREQUENCY_MASKS, Draw.TIME_MASKS]] = 0.999
    draws[:, [Draw.FREQUENCY_MASKS + 1, Draw.TIME_MASKS + 1]] = 0.4
    timbre = TimbreAugment(TimbreAugment.NAMES, probability=1.0)
    frontend = LogMel()
    waveforms = {
        "as it is": floats,
        "gain, −12 dB": RandomGain(-12.0, -12.0).train()(floats, draws),
        "roll by a third": RandomRoll(1.0).train()(floats, draws),
        "pitch and timbre": torch.from_numpy(timbre(floats[0].numpy(), seed))[None],
    }
    stages = {name: (wave[0].numpy(), frontend(wave)[0].numpy()) for name, wave in waveforms.items()}
    for name, effect in (("three semitones up", Transpose(3.0)), ("SpecAugment", SpecAugment())):
        stages[name] = floats[0].numpy(), effect.train()(frontend(floats), draws)[0].numpy()
    return stages


def augmentation_picture(waveforms: dict[str, np.ndarray], path: str | os.PathLike[str], seed: int = 0) -> None:
    """Draws one clip before and after each augmentation: its waveform above its log-mel spectrogram.

    Args:
        waveforms: Name → (samples,) int16 at 16 kHz; the first is augmented, all are shown (alternate previews).
        path: PNG to write.
        seed: Of the pitch and timbre effects.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    first, *others = waveforms.items()
    stages = augmentation_stages(first[1], seed)
    frontend = LogMel()
    for name, waveform in others:
        stages[f"alternate preview: {name}"] = (
            waveform.astype(np.float32) / 32768.0,
            frontend(torch.from_numpy(waveform)[None])[0].numpy(),
        )
    columns = min(3, len(stages))
    rows = -(-len(stages) // columns)
    figure = Figure(figsize=(4.4 * columns, 3.1 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    grids = figure.add_gridspec(2 * rows, columns, height_ratios=[1, 2.4] * rows)
    values = stages["as it is"][1]
    low, high = (float(bound) for bound in np.percentile(values, (2, 99.8)))
    image: Any = None
    panels = []
    for number, (name, (waveform, mel)) in enumerate(stages.items()):
        row, column = divmod(number, columns)
        wave = figure.add_subplot(grids[2 * row, column])
        seconds = np.arange(len(waveform)) / SAMPLE_RATE
        wave.plot(seconds, waveform, linewidth=0.3, color="#0072B2")
        wave.set(title=name, ylim=(-1, 1), xlim=(0, seconds[-1]), xticks=[])
        wave.set_yticks([-1, 0, 1])
        panel = figure.add_subplot(grids[2 * row + 1, column])
        image = panel.imshow(
            mel.T,
            origin="lower",
            aspect="auto",
            vmin=low,
            vmax=high,
            cmap="viridis",
            extent=(0, len(mel) / 100, 0, mel.shape[1]),
            interpolation="nearest",
        )
        panel.set(xlabel="seconds", ylabel="mel band" if column == 0 else "")
        panels.append(panel)
    figure.colorbar(image, ax=panels, label="normalised log-mel", shrink=0.6)
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def fan_charts(forecast: Forecast, track_id: str) -> Figure:
    """One track's forecast, a panel a region: median, 50 % and 80 % bands by date, what was observed, the floor.

    The true curves of the three most similar songs of the training data are laid under it where there is a catalogue,
    from the same first date, and every flag is written below.

    Args:
        forecast: From `Forecaster.forecast`.
        track_id: One of its tracks.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = np.flatnonzero((forecast.sampled.rows["track_id"] == track_id).to_numpy())
    most = PANEL_COLUMNS if len(rows) <= MANY_PANELS else 2 * PANEL_COLUMNS
    # Four stand in a square, not three and one.
    columns = 2 if len(rows) == 4 else min(most, len(rows))
    lines = -(-len(rows) // columns)
    flags = forecast.flags[forecast.flags["track_id"] == track_id]
    width = max(4.6, 3.5 * columns)
    alike = songs_alike(forecast.comparables[forecast.comparables["track_id"] == track_id], ALIKE)
    notes = [(f"songs most alike: {alike}", GREY)] if alike else []
    notes += [(f"! {note}", ORANGE) for note in notes_of(flags)]
    footnote = [
        (part, colour)
        for note, colour in notes
        for part in textwrap.wrap(note, int(width * 17), subsequent_indent="   ")
    ]
    below = 0.42 + 0.17 * len(footnote)
    height = 0.45 + 2.75 * lines + below
    figure = Figure(figsize=(width, height), dpi=160)
    FigureCanvasAgg(figure)
    parts: Any = figure.subfigures(3, 1, height_ratios=[height - below, 0.36, below - 0.35], hspace=0.0)
    panels, legend, notes_at = parts
    title = f": streams a {_period(forecast)}, given that it charts"
    room = int(12 * width) - len(title)
    name = track_id if len(track_id) <= room else f"{track_id[: room - 1]}…"
    panels.suptitle(f"{name}{title}", fontsize=10, y=1 - 0.12 / (height - below), va="top")
    grid = panels.subplots(lines, columns, squeeze=False)
    panels.subplots_adjust(
        left=0.62 / width, right=1 - 0.2 / width, top=1 - 0.62 / (height - below), bottom=0.42 / (height - below),
        wspace=0.26, hspace=0.52,
    )  # fmt: skip
    handles: dict[str, Any] = {}
    for place, axes in enumerate(grid.ravel()):
        if place < len(rows):
            handles |= _fan(axes, forecast, int(rows[place]))
        else:
            axes.set_axis_off()
    legend.legend(
        handles.values(), handles, loc="center", ncols=3 if columns == 1 else len(handles), fontsize=7, frameon=False
    )
    for number, (line, colour) in enumerate(footnote):
        notes_at.text(
            0.14 / width, 1 - (number + 0.1) / max(1, len(footnote)), line, fontsize=7, va="top", color=colour
        )
    return figure


def _period(forecast: Forecast) -> str:
    return {"W": "week", "D": "day"}[forecast.sampled.frequency]


def _date_labels(dates: pd.DatetimeIndex) -> list[str]:
    """Day and month, and the year where it begins."""
    new = np.append(True, dates.year[1:] != dates.year[:-1])
    return [
        f"{date.day} {date.strftime('%b')}" + (f"\n{date.year}" if first else "")
        for date, first in zip(dates, new, strict=True)
    ]


def _fan(axes: Any, forecast: Forecast, row: int) -> dict[str, Any]:
    """Draws one region; label → what the legend shows for it."""
    from matplotlib.ticker import FuncFormatter

    about = forecast.sampled.rows.iloc[row]
    track, region, observed = about["track_id"], about["region"], int(about["observed"])
    paths, period = forecast.sampled.streams[row], _period(forecast)
    curve = forecast.curves
    dates = pd.to_datetime(curve[(curve["track_id"] == track) & (curve["region"] == region)]["date"]).to_numpy()
    low, lower, middle, upper, high = path_quantiles(paths, (0.1, 0.25, 0.5, 0.75, 0.9), axis=0)
    # The fan opens at the last observed period, where there is no doubt.
    ahead = slice(max(observed - 1, 0), None)
    handles = {
        "80 % of paths": axes.fill_between(dates[ahead], low[ahead], high[ahead], color=OUTER, linewidth=0, zorder=1),
        "50 % of paths": axes.fill_between(
            dates[ahead], lower[ahead], upper[ahead], color=INNER, linewidth=0, zorder=1.5
        ),
        "median": axes.plot(dates[ahead], middle[ahead], color=BLUE, linewidth=1.6, zorder=3)[0],
    }
    floor = float(forecast.floors[row])
    handles["chart's floor"] = axes.axhline(floor, color=ORANGE, linewidth=1, linestyle=(0, (4, 2)), zorder=2.5)
    # A gap among the observed periods was filled by draws, which differ from path to path.
    known = np.flatnonzero(np.ptp(paths[:, :observed], axis=0) == 0)
    seen = paths[0, known]
    if len(seen):
        handles["observed"] = axes.plot(
            dates[known], seen, "o", color="black", markersize=3.6, zorder=4, linestyle="none"
        )[0]
    top = max(float(high.max()), floor, float(seen.max(initial=0)))
    alike = forecast.comparables
    alike = alike[(alike["track_id"] == track) & (alike["region"] == region) & (alike["place"] <= ALIKE)]
    # A hit among them may not press the forecast flat, so what is far above it leaves the picture.
    top = max(top, min(float(alike["streams"].max()), 1.6 * top)) if len(alike) else top
    for _, song in alike.groupby(["place", "song_id"]):
        line = song["streams"].to_numpy(dtype=float)[: len(dates)]
        handles["songs most alike"] = axes.plot(
            dates[: len(line)], line, color=GREY, linewidth=0.8, linestyle=(0, (1, 1)), zorder=2
        )[0]
    axes.set_ylim(0, 1.06 * top if top > 0 else 1)
    margin = (dates[-1] - dates[0]) * 0.03 if len(dates) > 1 else np.timedelta64(1, "D")
    axes.set_xlim(dates[0] - margin, dates[-1] + margin)
    marked = np.unique(np.linspace(0, len(dates) - 1, min(5, len(dates))).astype(int))
    axes.set_xticks(dates[marked], _date_labels(pd.DatetimeIndex(dates[marked])))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: readable(value)))
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#E4E4E4", linewidth=0.6)
    axes.set_axisbelow(True)
    total = path_quantiles(paths.sum(axis=1), (0.1, 0.5, 0.9))
    axes.set_title(
        f"{region}: {readable(total[1])} in {len(dates)} {period}s ({readable(total[0])} to {readable(total[2])})",
        fontsize=8,
        loc="left",
    )
    return handles


def region_comparison(forecast: Forecast, track_id: str | None = None) -> Figure:
    """One track's totals in all its regions on one axis of powers of ten: median, 60 % and 80 % intervals.

    Args:
        forecast: From `Forecaster.forecast`.
        track_id: One of its tracks; None where it has one.

    Raises:
        InputError: If there are several tracks and none is named, or the one named is not there.
    """
    from matplotlib.ticker import FuncFormatter, NullFormatter

    totals = forecast.popularity[forecast.popularity["metric"] == "sum"]
    tracks = totals["track_id"].unique().tolist()
    chosen = tracks[0] if track_id is None and len(tracks) == 1 else track_id
    if chosen not in tracks:
        raise InputError(f"track {chosen!r}: a picture is of one track; name one of {', '.join(tracks[:6])}")
    totals = totals[totals["track_id"] == chosen].sort_values("0.5").reset_index(drop=True)
    # A total of 0 has no place on this axis; a single stream is as good as none.
    values = {level: totals[level].to_numpy(dtype=float).clip(min=1.0) for level in ("0.1", "0.2", "0.5", "0.8", "0.9")}
    figure = _bare_figure((6.4, 1.0 + 0.34 * len(totals)))
    axes = figure.add_subplot()
    places = np.arange(len(totals))
    bar: dict[str, Any] = {"linewidth": 0, "zorder": 2}
    axes.barh(places, values["0.9"] - values["0.1"], 0.5, values["0.1"], color=OUTER, label="80 % of paths", **bar)
    axes.barh(places, values["0.8"] - values["0.2"], 0.5, values["0.2"], color=INNER, label="60 % of paths", **bar)
    axes.plot(values["0.5"], places, "o", color=BLUE, markersize=6, label="median", zorder=3)
    axes.set_xscale("log")
    axes.set_xlim(values["0.1"].min() / 1.4, values["0.9"].max() * 1.4)
    axes.set_yticks(places, totals["region"])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: readable(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    periods = forecast.sampled.streams.shape[2]
    axes.set(xlabel=f"streams in {periods} {_period(forecast)}s, given that it charts", title=chosen)
    _plain_axes(axes, "x")
    figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure


def attribution_picture(waveform: np.ndarray, effects: pd.DataFrame) -> Figure:
    """Which seconds of a song move its forecast: a panel a region of bars above the song's log-mel spectrogram.

    Args:
        waveform: (samples,) int16 at 16 kHz.
        effects: `region, second, effect` of `mp3model.serving.attribution.attributions`: log10 of the total.

    Raises:
        InputError: If there are no effects, or they reach beyond the end of the song.
    """
    regions = effects["region"].drop_duplicates().tolist()
    length = len(waveform) / SAMPLE_RATE
    if not regions or effects["second"].max() >= length:
        raise InputError(f"effects of {len(effects)} seconds for {length:.1f} s of sound: give those of this song")
    figure = _bare_figure((7.2, 2.0 + 1.0 * len(regions)))
    panels = figure.subplots(
        len(regions) + 1, 1, sharex=True, height_ratios=[*[1.0] * len(regions), 2.0], squeeze=False
    )
    # In percent, which says more than a logarithm; one scale for all regions.
    percent = 100 * (10 ** effects["effect"].to_numpy(dtype=float) - 1)
    reach = 1.15 * max(float(np.abs(percent).max()), 1e-6)
    for axes, region in zip(panels[:, 0], regions, strict=False):
        own = (effects["region"] == region).to_numpy()
        second, values = effects["second"].to_numpy(dtype=float)[own], percent[own]
        # Up and down differ in place as well as in colour.
        colours = np.where(values >= 0, BLUE, ORANGE)
        axes.bar(second, values, np.minimum(1.0, length - second) * 0.92, align="edge", color=colours)
        axes.axhline(0, color=GREY, linewidth=0.8)
        axes.set(ylim=(-reach, reach), ylabel=f"{region}, %")
        _plain_axes(axes, "y")
    mel = LogMel()(torch.from_numpy(waveform)[None])[0].numpy()
    low, high = (float(bound) for bound in np.percentile(mel, (2, 99.8)))
    below = panels[-1, 0]
    below.imshow(
        mel.T,
        origin="lower",
        aspect="auto",
        cmap="viridis",
        vmin=low,
        vmax=high,
        extent=(0, len(mel) / 100, 0, mel.shape[1]),
    )
    below.set(xlabel="seconds", ylabel="mel band", xlim=(0, length))
    _plain_axes(below, None)
    panels[0, 0].set_title("by how much each second raises or lowers the total, by silencing it", fontsize=9)
    return figure


def calibration_picture(report: Mapping[str, Any]) -> Figure:
    """Coverage against what intervals claim, and the leader's PIT, of a report.json of recipes/evaluate.py.

    Raises:
        InputError: If the report has no reliability.
    """
    from mp3model.evaluation.curve_pictures import reliability_picture, styles_of

    split = report.get("split", "")
    reliability = report.get("reliability", {}).get(split, {})
    figure = None
    if reliability:
        rivals = report.get("baselines", {})
        systems = {report["leader"]: report[split]} | {name: found.get(split, {}) for name, found in rivals.items()}
        errors = {
            target: {
                name: (found[target]["crps_logfloor"], None, None)
                for name, found in systems.items()
                if found.get(target, {}).get("crps_logfloor") is not None
            }
            for target in reliability
        }
        figure = reliability_picture(reliability, report["leader"], styles_of(list(systems)), errors)
    if figure is None:
        raise InputError("the report has no reliability; give the report.json of recipes/evaluate.py")
    for axes in figure.axes:
        axes.title.set_fontsize(9)
    return figure


def error_by_observed_picture(report: Mapping[str, Any]) -> Figure:
    """Error by number of observed periods, a line a system, of a report.json of recipes/mp3.py or recipes/evaluate.py.

    Raises:
        InputError: If the report has fewer than two numbers of observed periods.
    """
    from mp3model.evaluation.curve_pictures import observed_picture, styles_of

    whole = {"split": "test", "leader": "MP3", **report}
    figure = None
    if whole["split"] in whole:
        figure = observed_picture(whole, styles_of([whole["leader"], *whole.get("baselines", {})]))
    if figure is None:
        raise InputError("the report has not two numbers of observed periods; score more of them")
    return figure


def save(figure: Figure, path: str | os.PathLike[str], dpi: int = 130) -> None:
    """Writes a figure as PNG, whole or not at all."""
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi=dpi)


def _bare_figure(inches: tuple[float, float]) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=inches, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _plain_axes(axes: Any, grid: str | None) -> None:
    axes.tick_params(labelsize=8)
    axes.xaxis.label.set_fontsize(8)
    axes.yaxis.label.set_fontsize(8)
    axes.title.set_fontsize(9)
    axes.spines[["top", "right"]].set_visible(False)
    if grid is not None:
        axes.grid(axis=grid, color="#E4E4E4", linewidth=0.6)
    axes.set_axisbelow(True)
