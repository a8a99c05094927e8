"""A forecast in; HTML for a notebook out: totals a region in a table, fans as inline SVG, and why not to trust it."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mp3model.evaluation.accuracy import path_quantiles
from mp3model.evaluation.forecasts import PERIOD_NAMES
from mp3model.serving.result import notes_of, readable

if TYPE_CHECKING:
    from mp3model.serving.result import Forecast

# More than this is a table to look into, not a thing to look at.
MOST_TRACKS, MOST_REGIONS = 3, 6
_WIDTH, _HEIGHT, _LEFT, _BELOW = 250, 130, 40, 18
# As in the pictures of mp3model.serving.plots, on a page of their own so that a dark notebook changes nothing.
_OUTER, _INNER, _MEDIAN, _SEEN, _QUIET, _WARN = "#BBD8EA", "#7FB5D8", "#0072B2", "#15181D", "#4D5663", "#8F3D00"


def forecast_html(forecast: Forecast) -> str:
    """What a notebook shows: each track's table, its fans and its flags; of many tracks and regions the first ones.

    It holds no script and nothing that is fetched, and text of the user's is escaped.
    """
    tracks = forecast.sampled.rows["track_id"].drop_duplicates().tolist()
    parts = [_track_html(forecast, track) for track in tracks[:MOST_TRACKS]]
    if len(tracks) > MOST_TRACKS:
        parts.append(
            f"<p>and {len(tracks) - MOST_TRACKS} more; see <code>.popularity</code> and <code>.curves</code></p>"
        )
    style = "background:#fff;color:#15181d;font:13px sans-serif;padding:8px;max-width:820px"
    return f'<div style="{style}">{"".join(parts)}</div>'


def _track_html(forecast: Forecast, track: str) -> str:
    rows = np.flatnonzero((forecast.sampled.rows["track_id"] == track).to_numpy())
    shown = rows[:MOST_REGIONS]
    fans = "".join(_fan_svg(forecast, int(row)) for row in shown)
    more = f"<p>and {len(rows) - len(shown)} more regions</p>" if len(rows) > len(shown) else ""
    notes = notes_of(forecast.flags[forecast.flags["track_id"] == track])
    flags = "".join(f'<li style="color:{_WARN}">{escape(note)}</li>' for note in notes)
    listed = f'<ul style="margin:4px 0">{flags}</ul>' if flags else ""
    return (
        f"<div><b>{escape(str(track))}</b>, given that it charts{_table_html(forecast, track)}"
        f"<div>{fans}</div>{more}{listed}</div>"
    )


def _table_html(forecast: Forecast, track: str) -> str:
    period = PERIOD_NAMES[forecast.sampled.frequency]
    own = forecast.popularity[forecast.popularity["track_id"] == track]
    asked = {
        "sum": "streams in all",
        "debut": f"first {period}",
        "peak_week": f"peak {period}",
        "length": f"{period}s",
    }
    asked |= {"debut_rank": "debut rank"}
    kept = {name: heading for name, heading in asked.items() if (own["metric"] == name).any()}
    cell = "padding:2px 10px 2px 0;text-align:left"
    heads = "".join(f'<th style="{cell}">{heading}</th>' for heading in ("region", *kept.values()))
    lines = []
    for region in own["region"].drop_duplicates().tolist()[:MOST_REGIONS]:
        of_region = own[own["region"] == region].set_index("metric")
        cells = "".join(f'<td style="{cell}">{_interval(of_region.loc[name])}</td>' for name in kept)
        lines.append(f'<tr><th style="{cell}">{escape(str(region))}</th>{cells}</tr>')
    return f'<table style="border-collapse:collapse;margin:4px 0"><tr>{heads}</tr>{"".join(lines)}</table>'


def _interval(row: pd.Series) -> str:
    if pd.isna(row["0.5"]):
        return "unknown"
    if row["0.1"] == row["0.9"]:
        return readable(row["0.5"])
    high = "off the chart" if not np.isfinite(row["0.9"]) else readable(row["0.9"])
    return f"{readable(row['0.5'])} ({readable(row['0.1'])} to {high})"


def _fan_svg(forecast: Forecast, row: int) -> str:
    """One region's fan: 80 % and 60 % bands, the median, and what was observed as points."""
    about, paths = forecast.sampled.rows.iloc[row], forecast.sampled.streams[row]
    low, lower, middle, upper, high = path_quantiles(paths, (0.1, 0.2, 0.5, 0.8, 0.9), axis=0)
    observed, last = int(about["observed"]), paths.shape[1] - 1
    top = max(float(high.max()), 1.0)

    def x(period: float) -> float:
        return _LEFT + period * (_WIDTH - _LEFT - 8) / max(1, last)

    def y(streams: float) -> float:
        return 8 + (1 - streams / top) * (_HEIGHT - 8 - _BELOW)

    ahead = range(max(observed - 1, 0), last + 1)

    def band(under: np.ndarray, over: np.ndarray, colour: str) -> str:
        edge = [(at, over[at]) for at in ahead] + [(at, under[at]) for at in reversed(ahead)]
        return f'<polygon points="{" ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in edge)}" fill="{colour}"/>'

    line = " ".join(f"{x(at):.1f},{y(middle[at]):.1f}" for at in ahead)
    # A gap among the observed periods was filled by draws, which differ from path to path.
    known = np.flatnonzero(np.ptp(paths[:, :observed], axis=0) == 0)
    points = "".join(f'<circle cx="{x(int(at)):.1f}" cy="{y(paths[0, at]):.1f}" r="3" fill="{_SEEN}"/>' for at in known)
    label = f'font-size="10" fill="{_QUIET}" font-family="sans-serif"'
    region = escape(str(about["region"]))
    return (
        f'<svg role="img" aria-label="fan of {region}" width="{_WIDTH}" height="{_HEIGHT}" '
        f'viewBox="0 0 {_WIDTH} {_HEIGHT}">{band(low, high, _OUTER)}{band(lower, upper, _INNER)}'
        f'<polyline points="{line}" fill="none" stroke="{_MEDIAN}" stroke-width="2"/>{points}'
        f'<line x1="{_LEFT}" x2="{_WIDTH - 8}" y1="{y(0):.1f}" y2="{y(0):.1f}" stroke="{_QUIET}"/>'
        f'<text x="{_LEFT - 4}" y="16" text-anchor="end" {label}>{readable(top)}</text>'
        f'<text x="{_LEFT}" y="{_HEIGHT - 5}" {label}>{region}, {PERIOD_NAMES[forecast.sampled.frequency]} 0</text>'
        f'<text x="{_WIDTH - 8}" y="{_HEIGHT - 5}" text-anchor="end" {label}>{last}</text></svg>'
    )
