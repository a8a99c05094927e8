"""Walks of the charts' lowest: what charts did, on the same dates everywhere, and nothing dated later."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from small_charts import small_charts, without_charts

from mp3model.tables.folder import DatasetFolder
from mp3model.tables.walks import LEAST_WALKS, MOST_WALKS, lowest_walks

FIRST = np.datetime64("2024-01-04")
LATER = "2030-01-01"


def charts_of(lowest: dict[str, list[float]], frequency: str = "W") -> DatasetFolder:
    """A dataset with one chart a period from `FIRST` on; NaN is no chart."""
    step = {"W": 7, "D": 1}[frequency]
    charts = pd.concat(
        pd.DataFrame({"region": region, "date": FIRST + step * np.arange(len(values)), "lowest": values})
        for region, values in lowest.items()
    )
    charts = charts.dropna().assign(floor=lambda frame: 1.2 * frame["lowest"], size=200)
    charts = charts.assign(date=charts["date"].astype("datetime64[s]")).reset_index(drop=True)
    return replace(small_charts(), charts=charts, info={"frequency": frequency, "horizon": 3})


def logs(periods: int, seed: int = 0) -> np.ndarray:
    return 5 + 0.05 * np.random.default_rng(seed).normal(size=periods).cumsum()


@pytest.mark.parametrize("frequency", ["W", "D"])
def test_a_walk_is_what_the_lowest_did_after_a_date(frequency):
    level = logs(40)
    walks = lowest_walks(charts_of({"US": list(10**level)}, frequency), ["US"], 3, LATER)
    assert walks.shape == (2, 37, 3)
    told = np.stack([level[date + 1 : date + 4] - level[date] for date in range(37)])
    for place in range(2):
        found = walks[place][np.lexsort(walks[place].T)]
        np.testing.assert_allclose(found, told[np.lexsort(told.astype(np.float32).T)], atol=1e-5)


def test_regions_walk_on_the_same_dates():
    level = logs(60)
    data = charts_of({"US": list(10**level), "GB": list(10 ** (2 * level - 7))})
    us, gb, unknown = lowest_walks(data, ["US", "GB"], 3, LATER)
    np.testing.assert_allclose(gb, 2 * us, atol=1e-5)
    # A region unknown takes turns among those that are known.
    own = [np.isclose(unknown, each, atol=1e-6).all(axis=1) for each in (us, gb)]
    assert (own[0] | own[1]).all()
    assert min(each.mean() for each in own) > 0.3


def test_dates_that_a_region_lacks_are_filled_by_its_own_others_or_where_it_is_new_by_other_regions():
    level, other = logs(80), logs(80, seed=1)
    gap = other.copy()
    gap[30:34] = np.nan
    new = np.full(80, np.nan)
    new[70:] = 6.0
    data = charts_of({"US": list(10**level), "GB": list(10**gap), "BG": list(10**new)})
    us, gb, bg, _ = lowest_walks(data, ["US", "GB", "BG"], 3, LATER)
    whole = lowest_walks(charts_of({"US": list(10**level), "GB": list(10**other)}), ["US", "GB"], 3, LATER)
    np.testing.assert_allclose(us, whole[0], atol=1e-6)
    kept = np.isclose(gb, whole[1], atol=1e-6).all(axis=1)
    # A walk of three weeks from any of 27 to 33 would need a chart that is missing.
    assert (~kept).sum() == 7
    known = {tuple(np.round(walk, 4)) for walk in gb[kept]}
    assert all(tuple(np.round(walk, 4)) in known for walk in gb[~kept])
    assert np.isfinite(bg).all()
    anyone = {tuple(np.round(walk, 4)) for walk in [*us, *gb, np.zeros(3)]}
    assert all(tuple(np.round(walk, 4)) in anyone for walk in bg)
    assert np.abs(bg).max() > 0


def test_nothing_after_the_last_day_moves_a_walk():
    level = logs(80)
    until = FIRST + 7 * 49
    early = lowest_walks(charts_of({"US": list(10 ** level[:50])}), ["US"], 3, LATER)
    level[50:] += 3
    np.testing.assert_array_equal(lowest_walks(charts_of({"US": list(10**level)}), ["US"], 3, until), early)


def test_regions_not_asked_for_count_nothing():
    both = charts_of({"US": list(10 ** logs(50)), "GB": list(10 ** logs(70, seed=1))})
    np.testing.assert_array_equal(
        lowest_walks(both, ["US"], 3, LATER), lowest_walks(charts_of({"US": list(10 ** logs(50))}), ["US"], 3, LATER)
    )


@pytest.mark.parametrize("dates", [20, 100, 900])
def test_the_first_few_walks_lie_evenly_over_time(dates):
    # A lowest that rises ever faster tells each walk's date.
    level = 1e-7 * np.arange(dates + 3.0) ** 2
    walks = lowest_walks(charts_of({"US": list(10**level)}, "D"), ["US"], 3, LATER)
    if dates < LEAST_WALKS:
        assert walks.shape == (2, 0, 3)
        return
    assert walks.shape[1] == min(dates, MOST_WALKS)
    first = np.sort(walks[0, :12, 0])
    when = (first / 1e-7 - 1) / 2
    assert np.diff(when).min() > dates / 40
    assert np.diff(when).max() < dates / 5


def test_without_charts_or_their_lowest_there_are_no_walks():
    assert lowest_walks(without_charts(small_charts()), ["US"], 3, LATER).shape == (2, 0, 3)
    data = charts_of({"US": list(10 ** logs(50))})
    assert lowest_walks(data, ["GB"], 3, LATER).shape == (2, 0, 3)
    assert lowest_walks(replace(data, charts=data.charts.assign(lowest=np.nan)), ["US"], 3, LATER).shape == (2, 0, 3)
    assert lowest_walks(data, ["US"], 60, LATER).shape == (2, 0, 60)
