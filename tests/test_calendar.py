"""Days from Christmas, its bumps, public holidays and weekdays, by hand."""

from __future__ import annotations

import datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mp3model.tables.calendar import (
    CALENDAR_FEATURES,
    CHRISTMAS_BUMPS,
    HARMONICS,
    calendar_features,
    days_from_christmas,
)

BUMPS = slice(2 * HARMONICS, 2 * HARMONICS + len(CHRISTMAS_BUMPS))
HOLIDAYS = 2 * HARMONICS + len(CHRISTMAS_BUMPS)
WEEKDAYS = slice(HOLIDAYS + 1, None)


@pytest.mark.parametrize(
    ("day", "distance"),
    [
        ("2020-12-25", 0),
        ("2020-12-24", -1),
        ("2021-01-01", 7),
        ("2020-02-29", 66),  # a leap day, still nearer to the Christmas before
        ("2020-03-01", 67),
        ("2021-03-01", 66),
        ("2020-10-30", -56),
        ("2021-06-25", 182),
        ("2021-06-26", -182),
        ("2020-06-24", 182),  # a leap year has one day more until then
        ("2020-06-25", 183),  # 183 days from both: the one before is named
        ("2020-06-26", -182),
    ],
)
def test_days_from_christmas_are_counted_from_the_nearest(day, distance):
    assert days_from_christmas(day) == distance


@given(st.dates(datetime.date(1990, 1, 1), datetime.date(2090, 12, 31)))
def test_a_christmas_lies_as_far_as_it_is_said_and_none_nearer(day):
    distance = int(days_from_christmas(np.datetime64(day)))
    found = day - datetime.timedelta(days=distance)
    assert (found.month, found.day) == (12, 25)
    assert all(abs(distance) <= abs((day - datetime.date(day.year + y, 12, 25)).days) for y in (-1, 0, 1))


def test_arrays_of_any_shape_are_answered():
    days = np.array([["2020-12-25", "2020-12-26"], ["2021-12-20", "2022-01-02"]], dtype="datetime64[s]")
    assert days_from_christmas(days).tolist() == [[0, 1], [-5, 8]]


def test_the_week_of_christmas_lies_in_its_bump():
    # The middle of the chart week that ends on Monday 28 December 2020 is Friday the 25th.
    features = calendar_features([["2020-12-28", "2020-11-16", "2021-01-11", "2020-07-02"]], ["US"], "W")[0, :, BUMPS]
    assert features[0].argmax() == CHRISTMAS_BUMPS.index(0)
    assert features[0].max() == 1
    assert features[1].argmax() == CHRISTMAS_BUMPS.index(-42)
    assert features[2].argmax() == CHRISTMAS_BUMPS.index(14)
    assert features[3].max() < 1e-6


def test_the_same_season_looks_the_same_in_every_year():
    seasons = [[f"{year}-12-10", f"{year}-10-30", f"{year + 1}-02-12"] for year in (2019, 2020, 2021)]
    features = calendar_features(seasons, ["GLOBAL"] * 3, "D")[..., :HOLIDAYS]
    np.testing.assert_allclose(features[1], features[0], atol=1e-6)
    np.testing.assert_allclose(features[2], features[0], atol=1e-6)
    assert np.abs(features[0, 0] - features[0, 1]).max() > 0.5


def test_public_holidays_within_a_period_are_counted():
    # US: Thanksgiving on 26 November 2020, New Year's Day; GB: Christmas Day and Boxing Day (observed on the 28th).
    weeks = [["2020-11-26", "2020-12-03", "2021-01-07", "2020-12-31"]] * 3
    found = calendar_features(weeks, ["US", "GB", "GLOBAL"], "W")[..., HOLIDAYS] * 3
    assert found[0].tolist() == pytest.approx([1, 0, 1, 1])
    assert found[1, 3] >= 2
    assert not found[2].any()
    daily = calendar_features([["2020-11-25", "2020-11-26", "2020-11-27"]], ["US"], "D")[0, :, HOLIDAYS] * 3
    assert daily.tolist() == pytest.approx([0, 1, 0])


def test_a_region_asked_alone_has_the_holidays_it_has_beside_others():
    dates = np.array("2019-01-03", "datetime64[D]") + 7 * np.arange(104)
    together = calendar_features([dates] * 3, ["JP", "US", "JP"], "W")
    for row, region in enumerate(("JP", "US", "JP")):
        np.testing.assert_array_equal(together[row], calendar_features([dates], [region], "W")[0])
    alone = np.concatenate([calendar_features([[day]], ["JP"], "W")[0] for day in dates])
    np.testing.assert_array_equal(together[0], alone)


def test_days_have_their_weekday_and_weeks_have_none():
    # Monday 6 to Sunday 12 January 2020.
    days = np.array("2020-01-06", "datetime64[D]") + np.arange(7)
    np.testing.assert_array_equal(calendar_features([days], ["US"], "D")[0, :, WEEKDAYS], np.eye(7))
    assert not calendar_features([days], ["US"], "W")[0, :, WEEKDAYS].any()


def test_features_are_as_many_as_said_and_bounded():
    dates = np.array("2016-12-29", "datetime64[D]") + 7 * np.arange(300)
    for frequency in ("W", "D"):
        features = calendar_features([dates, dates], ["US", "XX"], frequency)
        assert features.shape == (2, 300, CALENDAR_FEATURES)
        assert features.dtype == np.float32
        assert np.abs(features).max() <= 2
    assert calendar_features(np.empty((0, 4), "datetime64[D]"), [], "W").shape == (0, 4, CALENDAR_FEATURES)
