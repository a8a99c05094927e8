"""Period ends in, calendar features out: the season seen from Christmas, the region's holidays, weekdays."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from mp3model.tables.curves import PERIOD_DAYS

_DAY = "datetime64[D]"
HARMONICS = 3
# Days from 25 December on which songs of the season rise, culminate and vanish; a bump of this width at each.
CHRISTMAS_BUMPS = (-42, -28, -21, -14, -7, 0, 7, 14)
_BUMP_WIDTH = 5.0
CALENDAR_FEATURES = 2 * HARMONICS + len(CHRISTMAS_BUMPS) + 1 + 7


def days_from_christmas(dates: Any) -> np.ndarray:
    """Days from the nearest 25 December, negative before it: any shape → int64 in −183 … 183."""
    dates = np.asarray(dates, dtype=_DAY)
    year = dates.astype("datetime64[Y]")
    distances = np.stack([(dates - _christmas(year + offset)).astype(np.int64) for offset in (-1, 0, 1)])
    nearest = np.abs(distances).argmin(axis=0)
    return np.take_along_axis(distances, nearest[None], axis=0)[0]


def _christmas(year: np.ndarray) -> np.ndarray:
    return (year.astype("datetime64[M]") + 11).astype(_DAY) + 24


def calendar_features(dates: Any, regions: Any, frequency: str) -> np.ndarray:
    """Features of each period.

    Args:
        dates: (n, periods) last day of each.
        regions: (n,) ISO 3166 alpha-2; a region that has no public holidays on record (GLOBAL among them) has none.
        frequency: `W` or `D`.

    Returns:
        (n, periods, CALENDAR_FEATURES) float32: harmonics of the year and bumps around 25 December, taken at the
        middle of the period; public holidays in it over 3; for days the weekday.
    """
    ends = np.asarray(dates, dtype=_DAY)
    days = PERIOD_DAYS[frequency]
    offset = days_from_christmas(ends - np.timedelta64(days // 2, "D"))
    angle = 2 * np.pi * offset[..., None] / 365.25 * np.arange(1, HARMONICS + 1)
    bumps = np.exp(-(((offset[..., None] - np.array(CHRISTMAS_BUMPS)) / _BUMP_WIDTH) ** 2))
    weekday = np.zeros((*ends.shape, 7))
    if frequency == "D":
        # 1970-01-01 was a Thursday; Monday is 0.
        np.put_along_axis(weekday, ((ends.astype(np.int64) + 3) % 7)[..., None], 1.0, axis=-1)
    parts = [np.sin(angle), np.cos(angle), bumps, _holidays(ends, regions, days)[..., None] / 3, weekday]
    return np.concatenate(parts, axis=-1).astype(np.float32)


def _holidays(ends: np.ndarray, regions: Any, days: int) -> np.ndarray:
    """Public holidays within each period: (n, periods)."""
    counts = np.zeros(ends.shape)
    regions = np.asarray(regions, dtype=object)
    if not ends.size:
        return counts
    first, last = ends.min() - days, ends.max()
    years = tuple(range(int(str(first)[:4]), int(str(last)[:4]) + 1))
    for region in dict.fromkeys(regions):
        rows = np.flatnonzero(regions == region)
        known = np.concatenate([np.empty(0, _DAY), *(_of_year(str(region), year) for year in years)])
        counts[rows] = np.searchsorted(known, ends[rows], side="right") - np.searchsorted(
            known, ends[rows] - days, side="right"
        )
    return counts


@lru_cache(maxsize=4096)
def _of_year(region: str, year: int) -> np.ndarray:
    import holidays

    try:
        found = holidays.country_holidays(region, years=year)
    except NotImplementedError:
        # How the package says that it knows no such country: a region without known holidays has none.
        return np.empty(0, _DAY)
    return np.array(sorted(found), dtype=_DAY)
