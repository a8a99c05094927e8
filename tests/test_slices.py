"""Slices of debuts, errors in them and reliability, on cases small enough to count by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from small_charts import small_charts

from mp3model.evaluation.accuracy import LEVELS, CurveForecasts, CurveTruth
from mp3model.evaluation.curve_scores import score_curves
from mp3model.evaluation.slices import (
    christmas,
    decile_labels,
    groupings,
    held_rows,
    input_worth,
    lives_of,
    masks_of,
    month_labels,
    new_artists,
    opens_later,
    reliability,
    row_errors,
    sliced_errors,
)


def rows_of(*rows: tuple[str, str, str, str, str]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["song_id", "artist", "region", "debut", "cutoff"])
    return frame.assign(debut=pd.to_datetime(frame["debut"]), cutoff=pd.to_datetime(frame["cutoff"]))


LIVES = rows_of(
    ("old", "ann", "US", "2020-01-02", ""),
    ("old", "ann", "GB", "2020-02-06", ""),
    ("new", "ann", "US", "2020-03-05", ""),
    ("only", "bob", "US", "2020-03-05", ""),
    ("only", "bob", "GB", "2020-03-12", ""),
    ("nobody", "song:nobody", "US", "2020-03-05", ""),
).drop(columns="cutoff")


def market(n: int = 400, seed: int = 0) -> tuple[CurveTruth, np.ndarray]:
    """Truths over 3 periods in two regions, and the expected log total that made them."""
    generator = np.random.default_rng(seed)
    level = generator.normal(1.5, 0.5, n)
    streams = 10 ** (level[:, None] + generator.normal(0, 0.2, (n, 3)))
    region = np.where(np.arange(n) % 2, "US", "GB").astype(object)
    artist = np.array([f"artist {number // 3}" for number in range(n)], dtype=object)
    return CurveTruth(streams, np.full(n, 10.0), region, artist), level


def forecasts(level: np.ndarray, spread: float, shift: float = 0.0) -> CurveForecasts:
    from scipy.special import ndtri

    middle = level + np.log10(3) + shift
    quantiles = 10 ** (middle[:, None] + spread * ndtri(np.array(LEVELS)))
    return CurveForecasts(curve=np.repeat(quantiles[:, 4:5] / 3, 3, axis=1), quantiles=quantiles)


def test_an_artist_is_new_until_another_song_of_theirs_has_charted_anywhere():
    asked = rows_of(
        ("old", "ann", "US", "2020-01-02", "2019-12-26"),
        ("old", "ann", "GB", "2020-02-06", "2020-01-30"),  # only the same song, elsewhere
        ("new", "ann", "US", "2020-03-05", "2020-02-27"),
        ("old", "ann", "US", "2020-01-02", "2020-03-05"),  # the later song is known as of this cut-off
        ("only", "bob", "GB", "2020-03-12", "2020-03-05"),
        ("nobody", "song:nobody", "US", "2020-03-05", "2020-02-27"),  # nobody knows by whom
    )
    assert new_artists(asked, LIVES).tolist() == [True, True, False, False, True, False]


def test_a_market_opens_later_if_the_song_had_charted_elsewhere_by_the_cutoff():
    asked = rows_of(
        ("old", "ann", "US", "2020-01-02", "2019-12-26"),
        ("old", "ann", "GB", "2020-02-06", "2020-01-30"),
        ("only", "bob", "GB", "2020-03-12", "2020-03-05"),  # charted in US on the very day of the cut-off
        ("only", "bob", "GB", "2020-03-12", "2020-03-04"),
        ("new", "ann", "US", "2020-03-05", "2020-03-05"),  # itself does not count
    )
    assert opens_later(asked, LIVES).tolist() == [False, True, True, False, False]


@pytest.mark.parametrize(
    ("debut", "streams", "expected"),
    [
        ("2020-11-12", [5, 5, 5], False),  # a debut before the window, no coming back
        ("2020-11-15", [5, 0, 0], True),
        ("2020-11-14", [5, 0, 0], False),
        ("2020-11-14", [5, 0, 5], True),  # comes back on 28 November
        ("2020-11-14", [5, np.nan, 5], False),  # what was between is unknown
        ("2021-01-12", [5, 0, 5], True),  # a week from 6 to 12 January
        ("2021-01-13", [5, 0, 5], False),
        ("2020-12-24", [5, 5, 5], True),
    ],
)
def test_christmas_is_a_debut_or_a_return_in_a_week_of_the_window(debut, streams, expected):
    rows = rows_of(("s", "a", "US", debut, ""))
    assert christmas(rows, np.array([streams], dtype=float), "W").tolist() == [expected]


def test_christmas_by_days_is_the_day_itself():
    rows = rows_of(*[("s", "a", "US", day, "") for day in ("2020-11-14", "2020-11-15", "2021-01-06", "2021-01-07")])
    assert christmas(rows, np.full((4, 1), 5.0), "D").tolist() == [False, True, True, False]


def test_deciles_are_within_the_region_and_unknown_totals_have_none():
    streams = np.concatenate([np.arange(1, 21), 1000 * np.arange(1, 11), [np.nan]])[:, None].astype(float)
    region = np.array(["US"] * 20 + ["GB"] * 10 + ["GB"], dtype=object)
    labels = decile_labels(CurveTruth(streams, np.ones(31), region, region))
    assert labels[:4].tolist() == ["01", "01", "02", "02"]
    assert labels[20:30].tolist() == [f"{number:02d}" for number in range(1, 11)]
    assert labels[30] is None
    assert list(masks_of(labels)) == [f"{number:02d}" for number in range(1, 11)]
    assert not any(mask[30] for mask in masks_of(labels).values())


def test_the_mean_over_slices_that_share_out_the_rows_is_the_score_of_all():
    truth, level = market()
    errors = {"good": row_errors(truth, forecasts(level, 0.15), 0), "bad": row_errors(truth, forecasts(level, 0.5), 0)}
    found = sliced_errors(errors, truth.artist, masks_of(truth.region))
    counts = [values["n"] for values in found.values()]
    for name, spread in (("good", 0.15), ("bad", 0.5)):
        whole = score_curves(truth, forecasts(level, spread), 0, replicates=0)["crps_logfloor"]
        parts = [values["systems"][name]["value"] for values in found.values()]
        assert np.average(parts, weights=counts) == pytest.approx(whole)
    assert sum(counts) == 400
    for values in found.values():
        apart = values["differences"]["bad"]
        assert apart["value"] == pytest.approx(values["systems"]["good"]["value"] - values["systems"]["bad"]["value"])
        assert apart["low"] < apart["value"] < apart["high"] < 0
        assert set(values["differences"]) == {"bad"}


def test_rows_that_a_system_cannot_be_scored_on_count_for_none_and_small_slices_are_left_out():
    one, other = np.arange(12.0), np.arange(12.0) + 1
    other[0] = np.nan
    masks = {"all": np.ones(12, bool), "four": np.arange(12) < 5, "five": np.arange(12) > 6}
    found = sliced_errors({"one": one, "other": other}, np.arange(12), masks)
    assert list(found) == ["all", "five"]
    assert found["all"]["n"] == 11
    assert found["all"]["systems"]["one"]["value"] == pytest.approx(6.0)
    assert found["all"]["differences"]["other"] == {"value": -1.0, "low": -1.0, "high": -1.0}


def test_a_point_forecast_is_scored_by_its_absolute_error():
    truth, level = market(10)
    point = CurveForecasts(curve=np.repeat(10 ** level[:, None], 3, axis=1))
    expected = np.abs(np.log10(1 + point.curve.sum(axis=1) / 10) - np.log10(1 + truth.streams.sum(axis=1) / 10))
    assert np.allclose(row_errors(truth, point, 0), expected)
    assert reliability(truth, point, 0) is None


def test_a_calibrated_forecast_is_reliable_and_one_too_sure_is_not():
    generator = np.random.default_rng(1)
    level = generator.normal(4, 0.3, 6000)
    total = 10 ** (level + np.log10(3) + 0.3 * generator.normal(size=6000))
    region = np.full(6000, "US", dtype=object)
    artist = np.arange(6000).astype(object)
    truth = CurveTruth(np.repeat(total[:, None] / 3, 3, axis=1), np.ones(6000), region, artist)
    fine, sure, low = (reliability(truth, forecasts(level, *given), 0) for given in ((0.3,), (0.1,), (0.3, -0.6)))
    assert fine is not None
    assert sure is not None
    assert low is not None
    assert fine["pit_deviation"] < fine["pit_luck"] < 0.02
    assert all(abs(share - float(nominal)) < 0.03 for nominal, share in fine["coverage"].items())
    assert sum(fine["pit"]) == pytest.approx(1)
    assert sure["coverage"]["0.8"] < 0.4
    assert sure["pit"][0] > 0.3 < sure["pit"][9]
    assert low["pit"][9] > 0.6


def test_only_what_is_still_to_come_is_scored():
    truth, level = market(50)
    given = forecasts(level, 0.2)
    later = CurveTruth(truth.streams * [100.0, 1.0, 1.0], truth.floor, truth.region, truth.artist)
    assert np.array_equal(row_errors(truth, given, 1), row_errors(later, given, 1))
    assert reliability(truth, given, 1) == reliability(later, given, 1)
    assert not np.array_equal(row_errors(truth, given, 0), row_errors(later, given, 0))


def test_each_slice_tells_how_many_intervals_held():
    truth, level = market()
    wide, narrow = forecasts(level, 0.3), forecasts(level, 0.01)
    errors = {"wide": row_errors(truth, wide, 0), "narrow": row_errors(truth, narrow, 0)}
    held = {"wide": held_rows(truth, wide, 0), "narrow": held_rows(truth, narrow, 0)}
    found = sliced_errors(errors, truth.artist, masks_of(truth.region), held=held)
    for place, region in enumerate(("GB", "US")):
        coverage = found[region]["coverage"]
        assert coverage["wide"] == pytest.approx(held["wide"][place::2].mean())
        assert coverage["wide"] > 0.8 > coverage["narrow"]
    assert held_rows(truth, CurveForecasts(curve=np.ones((400, 3))), 0) is None


def test_an_input_is_worth_what_the_error_grows_by_without_it():
    truth, level = market()
    without = {"artist": forecasts(np.full_like(level, 1.5), 0.5), "regions": forecasts(level, 0.2)}
    worth = input_worth(truth, forecasts(level, 0.2), without, 0)
    assert worth["artist"]["low"] > 0.05
    assert worth["regions"] == {"value": 0.0, "low": 0.0, "high": 0.0, "n": 400}


def test_other_regions_are_also_weighed_among_songs_that_are_open_there_alone():
    truth, level = market()
    later = np.arange(400) < 100
    # Without other regions only the songs that are open elsewhere are forecast worse.
    without = {"regions": forecasts(np.where(later, 1.5, level), 0.2)}
    worth = input_worth(truth, forecasts(level, 0.2), without, 0, opens_later=later)
    assert worth["regions where open"]["n"] == 100
    assert worth["regions where open"]["value"] == pytest.approx(4 * worth["regions"]["value"])
    assert "regions where open" not in input_worth(truth, forecasts(level, 0.2), {}, 0, opens_later=later)


def test_every_grouping_is_there():
    truth, _ = market(60)
    songs = [f"song-{number}" for number in range(60)]
    debut = pd.Timestamp("2020-11-05") + pd.to_timedelta(np.arange(60) // 2 * 7, unit="D")
    rows = pd.DataFrame({"song_id": songs, "artist": truth.artist, "region": truth.region, "debut": debut})
    rows = rows.assign(cutoff=rows["debut"] - pd.Timedelta(days=7))
    groups = groupings(rows, truth, rows, "W", score=np.arange(60.0))
    assert set(groups) == {"region", "decile", "forecast", "month", "kind"}
    assert groupings(rows, truth, rows, "W")["forecast"] == {}
    # 30 rows a region in the order of their score.
    assert np.flatnonzero(groups["forecast"]["10"]).tolist() == list(range(54, 60))
    kind = groups["kind"]
    assert (kind["Christmas"] ^ kind["rest of the year"]).all()
    assert kind["new artists"].any()
    assert kind["other artists"].any()
    assert list(groups["month"]) == sorted(set(month_labels(rows)))


def test_when_songs_first_charted_is_told_of_every_song_and_region():
    lives = lives_of(small_charts())
    assert set(lives.columns) >= {"song_id", "artist", "region", "debut"}
    assert not lives.duplicated(["song_id", "region"]).any()
    named = small_charts().tracks.set_index("song_id")["artist"].dropna()
    assert not lives.loc[lives["song_id"].isin(named.index), "artist"].str.startswith("song:").any()
