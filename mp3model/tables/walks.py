"""Charts in, how far each region's lowest moved in the periods after each date, out: what a chart's end may do next.

A forecast knows the chart's lowest on its cut-off, but whether a song is on the chart later hangs on the lowest of
then. Its past moves, drawn whole and of all regions on the same dates, say how it may go on (a bootstrap of blocks).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from mp3model.tables.curves import PERIOD_DAYS
from mp3model.tables.folder import DatasetFolder

# Dates that walks begin on: with fewer a lowest is taken to stay, more are not kept.
LEAST_WALKS, MOST_WALKS = 26, 256
_GOLDEN = (5**0.5 - 1) / 2


def lowest_walks(dataset: DatasetFolder, regions: Sequence[str], horizon: int, until: Any) -> np.ndarray:
    """log10 of the chart's lowest h + 1 periods after a date over that on the date: (regions + 1, walks, horizon).

    A walk's place names its date, the same in every region, so that regions move together as they did; any first few
    walks are spread evenly over time. Where a region had no charts then, another of its walks stands in, or, if it has
    fewer than `LEAST_WALKS`, that of another region on that date. So they do for the last place, a region unknown.

    Args:
        dataset: Without charts there are no walks; charts without a lowest count as missing.
        regions: Names, in the order of the result.
        horizon: Periods.
        until: The last day that is read.

    Returns:
        float32; no walks where the charts have fewer than `LEAST_WALKS` dates to begin on.
    """
    nothing = np.zeros((len(regions) + 1, 0, horizon), np.float32)
    if dataset.charts is None:
        return nothing
    charts = dataset.charts
    charts = charts[(charts["date"] <= until) & charts["region"].isin(list(regions)) & (charts["lowest"] > 0)]
    if charts.empty:
        return nothing
    days = charts["date"].to_numpy().astype("datetime64[D]").astype(np.int64)
    period = days // PERIOD_DAYS[dataset.frequency]
    period -= period.min()
    lowest = np.full((len(regions), period.max() + 1), np.nan)
    codes = pd.Index(regions).get_indexer(charts["region"])
    lowest[codes, period] = np.log10(charts["lowest"].to_numpy(dtype=float))
    starts = max(0, lowest.shape[1] - horizon)
    moves = np.stack([lowest[:, 1 + h : 1 + h + starts] - lowest[:, :starts] for h in range(horizon)], axis=-1)
    known = np.isfinite(moves).all(axis=-1)
    dates = np.flatnonzero(known.any(axis=0))
    if len(dates) < LEAST_WALKS:
        return nothing
    dates = _spread(dates)[:MOST_WALKS]
    moves, known = moves[:, dates], known[:, dates]
    place = np.arange(len(dates))
    # Regions with charts on a date take turns at standing in for those without.
    turn = (known.cumsum(axis=0) == place % known.sum(axis=0) + 1).argmax(axis=0)
    walks = np.repeat(moves[turn, place][None], len(regions) + 1, axis=0)
    for region, own in enumerate(known):
        if own.sum() >= LEAST_WALKS:
            taken = place.copy()
            taken[~own] = np.resize(np.flatnonzero(own), (~own).sum())
            walks[region] = moves[region, taken]
    return walks.astype(np.float32)


def _spread(dates: np.ndarray) -> np.ndarray:
    """The dates in an order in which any first few lie evenly among them (multiples of the golden ratio, modulo 1)."""
    fractions = np.arange(len(dates)) * _GOLDEN % 1.0
    return dates[fractions.argsort().argsort()]
