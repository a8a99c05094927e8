"""What was known on a day: against a plain twin, and untouched by whatever is dated later."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_charts import (
    FIRST,
    HORIZON,
    REGIONS,
    WEEKS,
    future_changed,
    future_deleted,
    rows_known_on,
    small_charts,
    week,
    without_charts,
)

from mp3model.files import InputError
from mp3model.model.covariates import GROUPS, Covariates, only_observed
from mp3model.tables.curves import curve_arrays
from mp3model.tables.folder import DatasetFolder
from mp3model.tables.history import (
    LIFE_FEATURES,
    LIFE_PERIODS,
    STATE_FEATURES,
    History,
    RegionStates,
    Related,
    region_scales,
)
from mp3model.tables.splits import first_rows
from mp3model.tables.tracks import artist_keys, guest_keys

SCALES = {"GB": 700.0, "GLOBAL": 1500.0, "US": 4000.0}
days = st.integers(8, WEEKS - 6).map(week)


@pytest.fixture(scope="module")
def history() -> History:
    return History(small_charts(), SCALES)


def song_weeks(dataset: DatasetFolder) -> dict[tuple[str, str], dict[np.datetime64, float]]:
    """(song, region) → day → streams of all versions."""
    song_of = dict(zip(dataset.tracks["track_id"], dataset.tracks["song_id"], strict=True))
    weeks: dict[tuple[str, str], dict[np.datetime64, float]] = {}
    for track, region, date, streams in dataset.curves[["track_id", "region", "date", "streams"]].itertuples(
        index=False
    ):
        day = np.datetime64(date, "D")
        life = weeks.setdefault((song_of[track], region), {})
        life[day] = life.get(day, 0.0) + streams
    return weeks


def chart_of(dataset: DatasetFolder) -> dict[tuple[str, np.datetime64], tuple[float, float]]:
    return {
        (row.region, np.datetime64(row.date, "D")): (row.floor, row.lowest)
        for row in dataset.charts.itertuples(index=False)
    }


def plain_life(weeks: dict, charts: dict, region: str, cutoff: np.datetime64, scale: float) -> dict[str, float]:
    """One life as of a day, straight from the definition."""
    debut = min(weeks)
    floor = charts.get((region, debut - 7), charts.get((region, debut), (scale, 0)))[0]
    age = int((cutoff - debut).astype(int)) // 7
    last = min(age, LIFE_PERIODS - 1, 2 * HORIZON - 1)
    levels, on_chart = [], []
    for period in range(last + 1):
        day = debut + 7 * period
        on_chart.append(day in weeks)
        below = 0.5 * charts.get((region, day), (0, 1.0))[1]
        levels.append(math.log10(weeks.get(day, below) / floor))
    total = sum(weeks[debut + 7 * period] for period in range(last + 1) if on_chart[period])
    return {
        "debut": levels[0],
        "last": levels[-1],
        "before": levels[-2] if last else levels[-1],
        "peak": max(levels),
        "total": math.log10(1 + total / floor),
        "length": math.log1p(sum(on_chart)),
        "on_chart": float(on_chart[-1]),
        "log_age": math.log1p(age),
    }


@pytest.mark.parametrize("with_charts", [True, False])
def test_a_life_as_of_a_day_is_what_a_plain_twin_says(with_charts):
    dataset = small_charts() if with_charts else without_charts(small_charts())
    history = History(dataset, SCALES)
    weeks, charts = song_weeks(dataset), chart_of(dataset) if with_charts else {}
    lives, compared = history.lives, 0
    for life in range(0, len(lives.debut), 3):
        song, region = lives.songs[lives.song[life]], lives.regions[lives.region[life]]
        debut = np.datetime64(int(lives.debut[life]), "D")
        for later in (0, 1, 5, 20, 33):
            cutoff = debut + 7 * later + 3
            found = history.life_features(np.array([[life]]), np.array([cutoff.astype(np.int64)]))[0, 0]
            told = plain_life(weeks[song, region], charts, region, cutoff, SCALES[region])
            np.testing.assert_allclose(found, [told[name] for name in LIFE_FEATURES], atol=1e-5)
            compared += 1
    assert compared > 200


@given(day=days)
@settings(max_examples=15)
def test_recent_lives_are_those_of_a_plain_search(day):
    dataset, history = small_charts(), History(small_charts(), SCALES)
    weeks = song_weeks(dataset)
    keys = dict(zip(dataset.tracks["song_id"], artist_keys(dataset.tracks), strict=True))
    rows = rows_known_on(dataset, day)
    cutoff = np.full(len(rows), day.astype(np.int64))
    lives = history.lives

    def named(found: np.ndarray) -> list[list[tuple[str, str]]]:
        pairs = [[(lives.songs[lives.song[i]], lives.regions[lives.region[i]]) for i in row if i >= 0] for row in found]
        assert all((row[: (row >= 0).sum()] >= 0).all() for row in found)
        return pairs

    first = first_rows(dataset).set_index(["song_id", "region"])["track_id"]
    guests = dict(zip(dataset.tracks["track_id"], guest_keys(dataset.tracks), strict=True))

    def plain(song: str, region: str, kind: str) -> list[tuple[str, str]]:
        wanted = []
        for (other, where), life in weeks.items():
            named = guests[first[other, where]]
            related = {
                "regions": other == song and where != region,
                "here": keys[other] == keys[song] and other != song and where == region,
                "elsewhere": keys[other] == keys[song] and other != song and where != region,
                "credited here": keys[song] in (keys[other], *named) and other != song and where == region,
                "credited elsewhere": keys[song] in (keys[other], *named) and other != song and where != region,
            }[kind]
            if related and min(life) <= day:
                as_guest = kind.startswith("credited") and keys[other] != keys[song]
                wanted.append((min(life), as_guest, other, where))
        # Latest first; of one day songs on which the artist is a guest first, then the last name.
        return [(other, where) for *_, other, where in sorted(wanted, reverse=True)]

    found = {
        "regions": history.other_regions(rows["song_id"], rows["region"], cutoff, 48),
        "here": history.artist_here(rows["artist"], rows["song_id"], rows["region"], cutoff, 48),
        "elsewhere": history.artist_elsewhere(rows["artist"], rows["song_id"], rows["region"], cutoff, 400),
    }
    asked = (rows["artist"], rows["song_id"], rows["region"], cutoff)
    found["credited here"], found["credited elsewhere"] = history.credited(*asked, 400)
    for kind, values in found.items():
        for row, pairs in zip(rows.itertuples(), named(values), strict=True):
            assert pairs == plain(row.song_id, row.region, kind), kind
    few = history.artist_here(rows["artist"], rows["song_id"], rows["region"], cutoff, 2)
    assert few.shape[1] == 2
    np.testing.assert_array_equal(few, found["here"][:, :2])


def plain_state(dataset: DatasetFolder, region: str, day: np.datetime64, weeks: dict, charts: dict) -> dict:
    floor, lowest = charts[region, day]
    size = dataset.charts[(dataset.charts["region"] == region) & (dataset.charts["date"] == pd.Timestamp(day))]
    earlier = [d for r, d in charts if r == region and d <= day - 7 * 26]
    total, length, one, debut = [], [], [], []
    gone, early = [], []
    arrivals = 0
    for (_, where), life in weeks.items():
        began = min(life)
        if where != region:
            continue
        seen = {date: value for date, value in life.items() if date <= day}
        ended = began + 7 * (HORIZON - 1)
        if day - 7 * 26 < ended <= day:
            told = plain_life(seen, charts, region, ended, SCALES[region])
            weeks_on = round(math.expm1(told["length"]))
            total.append(told["total"])
            length.append(weeks_on / HORIZON)
            one.append(weeks_on == 1)
        if day - 7 * 8 < began <= day:
            arrivals += 1
            debut.append(plain_life(seen, charts, region, began, SCALES[region])["debut"])
        if day - 7 * 9 < began <= day - 7:
            gone.append(began + 7 not in seen)
        if day - 7 * 11 < began <= day - 7 * 3:
            early.append(plain_life(seen, charts, region, began + 7 * 3, SCALES[region]))
    n = len(total)
    mean = (sum(total) + 5 * 0.8) / (n + 5)
    square = (sum(value**2 for value in total) + 5 * 1.0) / (n + 5)
    return {
        "log_floor": math.log10(floor),
        "log_lowest": math.log10(lowest / floor),
        "log_size": math.log10(size["size"].iloc[0]),
        "log_growth": math.log10(floor / charts[region, max(earlier)][0]) if earlier else 0.0,
        "mean_total": mean,
        "spread_total": math.sqrt(max(square - mean**2, 0.01)),
        "mean_length": (sum(length) + 5 * 0.4) / (n + 5),
        "share_of_one": (sum(one) + 5 * 0.3) / (n + 5),
        "mean_debut": (sum(debut) + 5 * 0.1) / (arrivals + 5),
        "arrivals": math.log1p(arrivals / 8),
        "recent_gone": (sum(gone) + 5 * 0.3) / (len(gone) + 5),
        "recent_length": (sum(math.expm1(each["length"]) / 4 for each in early) + 5 * 0.6) / (len(early) + 5),
        "recent_total": (sum(each["total"] for each in early) + 5 * 0.65) / (len(early) + 5),
    }


def test_the_state_of_a_region_is_what_a_plain_twin_says(history):
    dataset = small_charts()
    weeks, charts = song_weeks(dataset), chart_of(dataset)
    for region in REGIONS:
        for number in (0, 3, 7, 12, 29, 31, 45, 59):
            day = week(number)
            place = history.states.at([region], [day])[0]
            assert history.states.day[place] == day.astype(np.int64)
            told = plain_state(dataset, region, day, weeks, charts)
            np.testing.assert_allclose(
                history.states.values[place], [told[name] for name in STATE_FEATURES], atol=1e-5, err_msg=f"{day}"
            )


def test_the_last_state_on_or_before_a_day_is_found(history):
    states = history.states
    asked = [week(30), week(30) - 1, week(0) - 1, np.datetime64("2090-01-01"), week(5), week(5)]
    found = states.at(["GB", "GB", "GB", "GB", "FR", "US"], asked)
    told = [np.datetime64(int(states.day[place]), "D") if place >= 0 else None for place in found]
    # The chart of week 30 is not on hand in GB.
    assert told == [week(29), week(29), None, week(59), None, week(5)]
    assert states.regions[states.place[found[0]]] == "GB"


def test_the_last_states_travel_as_json(history):
    states = RegionStates.from_last(json.loads(json.dumps(history.states.last())))
    assert states.regions == REGIONS
    then = history.states.at(REGIONS, [week(WEEKS)] * 3)
    np.testing.assert_array_equal(states.floor, history.states.floor[then])
    np.testing.assert_array_equal(states.values, history.states.values[then])
    np.testing.assert_array_equal(states.day, history.states.day[then])
    assert RegionStates.from_last({}).at(["US"], [week(3)]).tolist() == [-1]


def test_states_that_another_version_remembered_are_refused_by_region(history):
    told = history.states.last()
    told["GB"]["values"].pop()
    with pytest.raises(InputError, match=r"12 figures of region GB, this version reads 13; train it again"):
        RegionStates.from_last(told)


@st.composite
def lives(draw):
    n = draw(st.integers(0, 25))
    group = draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))
    debut = draw(st.lists(st.integers(-50, 50), min_size=n, max_size=n))
    return np.array(group, np.int64), np.array(debut, np.int64)


@given(lives=lives(), group=st.integers(-1, 5), day=st.integers(-80, 80), most=st.integers(1, 6))
def test_a_search_among_related_lives_is_a_plain_one(lives, group, day, most):
    groups, debuts = lives
    found = Related(groups, debuts).recent(np.array([group]), np.array([day]), most)[0]
    told = [life for life in range(len(groups)) if groups[life] == group and debuts[life] <= day]
    told = sorted(told, key=lambda life: (debuts[life], life))[::-1][:most]
    assert found.tolist() == told + [-1] * (most - len(told))


def known(dataset: DatasetFolder, rows: pd.DataFrame) -> dict[str, np.ndarray]:
    """All that a model would be given of the rows."""
    history = History(dataset, SCALES)
    covariates = Covariates(list(REGIONS), "W", HORIZON, GROUPS, history.states, history)
    return only_observed(covariates.gather(rows, curve_arrays(dataset, rows, HORIZON)))


@given(day=days, seed=st.integers(0, 1000), with_charts=st.booleans())
@settings(max_examples=25)
def test_nothing_dated_after_the_cutoff_in_any_region_changes_what_is_known(day, seed, with_charts):
    dataset = small_charts() if with_charts else without_charts(small_charts())
    rows = rows_known_on(dataset, day)
    before = known(dataset, rows)
    assert before["token_known"].any()
    for other in (future_deleted(dataset, day), future_changed(dataset, day, seed)):
        after = known(other, rows)
        assert before.keys() == after.keys()
        for name, values in before.items():
            np.testing.assert_allclose(after[name], values, rtol=0, atol=1e-6, err_msg=name)


@given(day=days, early=st.integers(1, 6))
@settings(max_examples=10)
def test_a_cutoff_long_before_the_debut_knows_as_little(day, early):
    dataset = small_charts()
    rows = rows_known_on(dataset, day)
    rows = rows.assign(debut=rows["debut"] + pd.Timedelta(weeks=int(early) + HORIZON), observed=0)
    before, after = known(dataset, rows), known(future_changed(dataset, day, 5), rows)
    for name, values in before.items():
        np.testing.assert_allclose(after[name], values, rtol=0, atol=1e-6, err_msg=name)


def test_the_order_of_rows_in_the_tables_changes_nothing():
    dataset = small_charts()
    mixed = replace(
        dataset,
        tracks=dataset.tracks.sample(frac=1, random_state=2).reset_index(drop=True),
        curves=dataset.curves.sample(frac=1, random_state=3).reset_index(drop=True),
    )
    rows = rows_known_on(dataset, week(40))
    for (name, values), other in zip(known(dataset, rows).items(), known(mixed, rows).values(), strict=True):
        np.testing.assert_allclose(other, values, rtol=0, atol=1e-6, err_msg=name)


def test_what_is_dated_on_the_cutoff_counts():
    dataset = small_charts()
    rows = rows_known_on(dataset, week(40))
    curves = dataset.curves.copy()
    curves.loc[curves["date"] == pd.Timestamp(week(40)), "streams"] *= 3
    before, after = known(dataset, rows), known(replace(dataset, curves=curves), rows)
    assert np.abs(before["tokens"] - after["tokens"]).max() > 0.1
    assert np.abs(before["static"] - after["static"]).max() > 0.1


def test_a_region_without_charts_takes_the_scale_it_is_given(history):
    dataset = without_charts(small_charts())
    found = History(dataset, SCALES)
    region = found.lives.regions[found.lives.region]
    assert (found.lives.floor == [SCALES[name] for name in region]).all()
    assert (found.states.floor == [SCALES[found.states.regions[place]] for place in found.states.place]).all()
    assert history.lives.debut.tolist() == found.lives.debut.tolist()


def test_scales_come_from_rows_until_a_day():
    dataset = without_charts(small_charts())
    until = week(30)
    cut = replace(dataset, curves=dataset.curves[dataset.curves["date"] <= pd.Timestamp(until)])
    assert region_scales(dataset, until) == region_scales(cut) != region_scales(dataset)
    rows = cut.curves[cut.curves["region"] == "US"]
    assert region_scales(dataset, until)["US"] == pytest.approx(np.quantile(rows["streams"], 0.05))


def test_a_region_that_opens_after_the_scales_were_taken_has_no_state():
    dataset = without_charts(small_charts())
    states = History(dataset, {name: SCALES[name] for name in ("GB", "US")}).states
    assert np.isfinite(states.floor).all()
    assert np.isfinite(states.values).all()
    assert states.at(["GLOBAL", "US"], [week(50)] * 2)[0] == -1
    assert states.at(["GLOBAL", "US"], [week(50)] * 2)[1] >= 0


def test_a_dataset_in_which_nothing_charted_has_no_lives():
    dataset = small_charts()
    empty = replace(dataset, curves=dataset.curves.iloc[:0])
    rows = rows_known_on(dataset, week(40)).assign(observed=0)
    told = known(empty, rows)
    assert not told["token_known"].any()
    assert np.isfinite(told["static"]).all()


def test_the_first_day_is_a_thursday():
    assert (FIRST.astype(int) + 3) % 7 == 3
