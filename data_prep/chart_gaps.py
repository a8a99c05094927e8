"""Merged curves and charts in; what gaps stand for out: first charted rows, and rows in the place of gaps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from data_prep.chart_formats.coded import DAY_BITS, REGION_BITS
from data_prep.chart_merge import CodedCurves, Merged
from mp3model.tables.curves import PERIOD_DAYS


def first_charted(merged: Merged) -> pd.DataFrame:
    """First charted row of every track in every region as a curves table: all that debuts are found from."""
    curves = merged.curves
    lowest = merged.lowest[curves.chart_key()]
    charted = (curves.rank > 0) | np.where(np.isnan(lowest), curves.streams > 0, curves.streams >= lowest)
    del lowest
    at = np.flatnonzero(charted)
    pair = (curves.track[at].astype(np.int64) << REGION_BITS) + curves.region[at]
    return curves.frame(at[np.append(True, pair[1:] != pair[:-1])] if len(at) else at)


def fill_gaps(
    merged: Merged, song_of_track: np.ndarray, mode: str, frequency: str, horizon: int, longest_gap: int
) -> CodedCurves:
    """Curves with rows for periods without one, by song: a song that switches its track id leaves no gap.

    Args:
        merged: curves and charts.
        song_of_track: song number of each track code.
        mode: `zero`: 0 streams wherever a chart is on hand and does not list the song, between its first and last rows
            and up to the horizon from its first. `interpolate`: gaps of at most `longest_gap` periods between two
            known rows, on a straight line in the logarithm, below the lowest of a chart that does not list the song.
        frequency, horizon: of the dataset.
        longest_gap: in periods.

    Returns:
        New curves, the filled rows without rank, under the track that charted before the gap.
    """
    curves, step = merged.curves, PERIOD_DAYS[frequency]
    pair = (song_of_track[curves.track].astype(np.int64) << REGION_BITS) + curves.region
    order = np.lexsort((curves.track, curves.day, pair))
    pair, day = pair[order], curves.day[order]
    head = np.append(True, (pair[1:] != pair[:-1]) | (day[1:] != day[:-1])) if len(pair) else np.zeros(0, bool)
    streams = np.bincount(np.cumsum(head) - 1, weights=curves.streams[order]) if len(pair) else np.zeros(0)
    at, pair, day = order[head], pair[head], day[head]
    last = np.append(pair[1:] != pair[:-1], True) if len(pair) else np.zeros(0, bool)
    begin = (
        np.maximum.accumulate(np.where(np.append(True, pair[1:] != pair[:-1]), np.arange(len(pair)), 0))
        if len(pair)
        else at
    )
    until = np.where(last, day[begin] + horizon * step, np.append(day[1:], 0))
    missing = np.maximum((until - day) // step - 1, 0)
    if mode == "interpolate":
        known = np.isfinite(streams) & np.isfinite(np.append(streams[1:], np.nan)) & (streams > 0)
        missing = np.where(~last & known & (missing <= longest_gap), missing, 0)
    source = np.repeat(np.arange(len(pair)), missing)
    position = np.arange(len(source)) - np.repeat(np.cumsum(missing) - missing, missing) + 1
    new_day = (day[source] + position * step).astype(np.int32)
    region = curves.region[at[source]]
    lowest = merged.lowest[(region.astype(np.int64) << DAY_BITS) + np.minimum(new_day, (1 << DAY_BITS) - 1)]
    if mode == "zero":
        use = np.isfinite(lowest)
        value = np.zeros(len(source))
    else:
        use = np.ones(len(source), bool)
        share = position / (missing[source] + 1)
        after = np.append(streams[1:], np.nan)[source]
        value = np.exp((1 - share) * np.log(streams[source]) + share * np.log(after))
        value = np.where(np.isfinite(lowest), np.minimum(value, np.ceil(lowest) - 1), value)
    new = [curves.track[at[source]], region, new_day, np.zeros(len(source), np.int16), value]
    names = ("track", "region", "day", "rank", "streams")
    columns = {
        name: np.concatenate([getattr(curves, name), values[use].astype(getattr(curves, name).dtype)])
        for name, values in zip(names, new, strict=True)
    }
    order = np.lexsort((columns["day"], columns["region"], columns["track"]))
    return replace(curves, **{name: values[order] for name, values in columns.items()})
