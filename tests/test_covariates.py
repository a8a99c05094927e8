"""What a batch holds of its rows: shapes, scales, unknown regions, what is left out, and that padding tells nothing."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from small_charts import HORIZON, REGIONS, rows_known_on, small_charts, week

from mp3model.files import InputError
from mp3model.model.context import ContextEncoder
from mp3model.model.covariates import (
    DAYS_BEFORE,
    GROUPS,
    LAST_YEAR_FEATURES,
    PERIOD_FEATURES,
    RECORD_FEATURES,
    TOKEN_FEATURES,
    Covariates,
    _record,
    only_observed,
    static_width,
    training_statistics,
)
from mp3model.model.sampling import tensors
from mp3model.tables.calendar import CALENDAR_FEATURES
from mp3model.tables.curves import BELOW, OBSERVED, UNKNOWN, taken
from mp3model.tables.debuts import debut_rows, debuts_of, with_cutoff
from mp3model.tables.history import LIFE_FEATURES, STATE_FEATURES, History, RegionStates

SCALES = dict.fromkeys(REGIONS, 1000.0)


@pytest.fixture(scope="module")
def history() -> History:
    return History(small_charts(), SCALES)


@pytest.fixture(scope="module")
def debuts():
    return debuts_of(small_charts(), debut_rows(small_charts()), HORIZON)


def covariates_of(history: History, groups: tuple[str, ...] = GROUPS, regions: tuple[str, ...] = REGIONS) -> Covariates:
    return Covariates(list(regions), "W", HORIZON, groups, history.states, history)


def test_arrays_have_the_shapes_that_are_promised(history, debuts):
    rows = with_cutoff(debuts.rows, 2, "W")
    batch = covariates_of(history).gather(rows, debuts.curves)
    n, tokens = len(rows), batch["tokens"].shape[1]
    shapes = {
        "region": (n,),
        "observed": (n,),
        "floor": (n,),
        "last_threshold": (n,),
        "calendar": (n, HORIZON, CALENDAR_FEATURES),
        "static": (n, static_width(GROUPS)),
        "tokens": (n, tokens, TOKEN_FEATURES),
        "token_kind": (n, tokens),
        "token_region": (n, tokens),
        "token_known": (n, tokens),
        "value": (n, HORIZON),
        "state": (n, HORIZON),
        "threshold": (n, HORIZON),
        "before": (n, 1, PERIOD_FEATURES),
        "last_year": (n, HORIZON, LAST_YEAR_FEATURES),
        "running": (n,),
    }
    assert {name: values.shape for name, values in batch.items()} == shapes
    assert all(np.isfinite(values).all() for values in batch.values())


def test_the_scale_is_the_floor_of_the_week_before_debut_at_every_k(history, debuts):
    for observed in (0, 1, 4):
        batch = covariates_of(history).gather(with_cutoff(debuts.rows, observed, "W"), debuts.curves)
        np.testing.assert_array_equal(batch["floor"], debuts.curves.floor)


def test_a_curve_is_in_log_floor_units_and_nothing_on_the_chart_lies_below_it(history, debuts):
    curves = debuts.curves
    batch = covariates_of(history).gather(with_cutoff(debuts.rows, 0, "W"), curves)
    on_chart = batch["state"] == OBSERVED
    assert (batch["state"] == curves.state).all()
    assert (batch["state"] == BELOW).sum() > 50
    told = np.log10(curves.streams / curves.floor[:, None])
    np.testing.assert_allclose(batch["value"][on_chart], told[on_chart], atol=1e-5)
    assert not batch["value"][~on_chart].any()
    told = np.log10(curves.lowest / curves.floor[:, None])
    np.testing.assert_allclose(batch["threshold"], told, atol=1e-5)
    assert (batch["value"] >= batch["threshold"])[on_chart].all()
    assert (batch["value"] == batch["threshold"])[on_chart].any()


def test_zero_streams_without_a_chart_are_less_than_one_stream(history, debuts):
    curves = taken(debuts.curves, np.arange(3))
    curves.streams[:, 2], curves.state[:, 2], curves.lowest[:] = 0.0, OBSERVED, np.nan
    batch = covariates_of(history).gather(with_cutoff(debuts.rows.iloc[:3], 0, "W"), curves)
    assert (batch["state"][:, 2] == BELOW).all()
    np.testing.assert_allclose(batch["threshold"][:, 2], -np.log10(curves.floor), atol=1e-5)


def test_the_threshold_of_what_is_to_come_is_the_last_chart_on_hand(history, debuts):
    rows = with_cutoff(debuts.rows, 3, "W")
    batch = covariates_of(history).gather(rows, debuts.curves)
    np.testing.assert_allclose(
        batch["last_threshold"], np.log10(debuts.curves.lowest[:, 2] / debuts.curves.floor), atol=1e-5
    )
    held = only_observed(batch)
    assert (held["threshold"][:, 3:] == batch["last_threshold"][:, None]).all()
    assert (held["threshold"][:, :3] == batch["threshold"][:, :3]).all()


def test_only_the_observed_periods_are_held(history, debuts):
    rows = with_cutoff(debuts.rows, np.arange(len(debuts.rows)) % 5, "W")
    batch = covariates_of(history).gather(rows, debuts.curves)
    changed = taken(debuts.curves, np.arange(len(rows)))
    later = np.arange(HORIZON) >= rows["observed"].to_numpy()[:, None]
    changed.streams[later] = 1e9
    changed.state[later] = OBSERVED
    changed.lowest[later] = 1.0
    held, other = only_observed(batch), only_observed(covariates_of(history).gather(rows, changed))
    for name, values in held.items():
        np.testing.assert_array_equal(values, other[name], err_msg=name)
    assert (held["state"][later] == UNKNOWN).all()
    assert not held["value"][later].any()
    assert (held["state"][~later] == batch["state"][~later]).all()
    assert (held["value"][~later] == batch["value"][~later]).all()


def test_nothing_observed_needs_no_curves(history, debuts):
    rows = with_cutoff(debuts.rows, 0, "W")
    without = only_observed(covariates_of(history).gather(rows))
    for name, values in only_observed(covariates_of(history).gather(rows, debuts.curves)).items():
        np.testing.assert_array_equal(values, without[name], err_msg=name)


def test_regions_are_places_in_the_models_order_and_others_the_last(history, debuts):
    covariates = covariates_of(history, regions=("US", "BR"))
    assert covariates.region_codes(["US", "GB", "BR", "GLOBAL"]).tolist() == [0, 2, 1, 2]
    rows = with_cutoff(debuts.rows, 2, "W")
    batch = covariates.gather(rows, debuts.curves)
    assert (batch["region"] == np.where(rows["region"] == "US", 0, 2)).all()
    assert set(batch["token_region"][batch["token_known"]].tolist()) == {0, 2}


def test_a_region_without_a_chart_by_then_is_refused_by_name(history, debuts):
    rows = with_cutoff(debuts.rows.iloc[:1], 0, "W").assign(cutoff=pd.Timestamp("2019-05-02"))
    with pytest.raises(InputError, match=r"region \w+ has no chart or streams on or before 2019-05-02.*GB, GLOBAL, US"):
        covariates_of(history).gather(rows)
    with pytest.raises(InputError, match=r"region FR has no chart"):
        covariates_of(history).gather(with_cutoff(debuts.rows.iloc[:1], 0, "W").assign(region="FR"))


@pytest.mark.parametrize("groups", [("state",), ("artist",), ("state", "regions"), ("release", "artist")])
def test_a_group_that_is_left_out_leaves_nothing(history, debuts, groups):
    rows = with_cutoff(debuts.rows, 2, "W")
    batch, whole = (covariates_of(history, some).gather(rows, debuts.curves) for some in (groups, GROUPS))
    assert batch["static"].shape == (len(rows), static_width(groups))
    kinds = set(batch["token_kind"][batch["token_known"]].tolist())
    assert kinds == {kind for kind, group in enumerate(("regions", "artist")) if group in groups}
    widths = [static_width([group]) for group in GROUPS]
    parts = dict(zip(GROUPS, np.split(whole["static"], np.cumsum(widths)[:-1], axis=1), strict=True))
    np.testing.assert_array_equal(batch["static"], np.concatenate([parts[group] for group in groups], axis=1))


def test_the_release_tells_how_long_a_song_was_out_in_its_first_week_and_before_and_its_weekday(history, debuts):
    rows = with_cutoff(debuts.rows.iloc[:6], 0, "W")
    days = (0, 3, 6, 30, -5)
    released = [rows["debut"].iloc[i] - pd.Timedelta(days=count) for i, count in enumerate(days)]
    # Nobody knows of the last one: it is taken to have come out on the week's first day.
    rows["release_date"] = [*released, pd.NaT]
    told = covariates_of(history, ("release",)).gather(rows)["static"]
    within, before, weekday = np.split(told, [8, 8 + len(DAYS_BEFORE)], axis=1)
    assert within.argmax(axis=1).tolist() == [1, 4, 7, 7, 0, 7]
    assert DAYS_BEFORE[before.argmax(axis=1)].tolist() == [0, 0, 0, 21, 0, 0]
    assert (within.sum(axis=1) == 1).all()
    assert (before.sum(axis=1) == 1).all()
    assert weekday.argmax(axis=1).tolist() == [date.dayofweek for date in [*released, released[2]]]
    assert (weekday.sum(axis=1) == 1).all()


def test_a_debut_in_the_second_week_is_told_from_one_in_the_first(history, debuts):
    rows = with_cutoff(debuts.rows.iloc[:1], 0, "W")
    told = {
        days: covariates_of(history, ("release",)).gather(
            rows.assign(release_date=rows["debut"] - pd.Timedelta(days=days))
        )["static"]
        for days in (6, 7, 12, 13, 20, 27)
    }
    assert len({values.tobytes() for values in told.values()}) == len(told)


def test_stored_states_serve_where_there_is_no_dataset(history):
    rows = rows_known_on(small_charts(), week(59)).assign(observed=0)
    stored = Covariates(list(REGIONS), "W", HORIZON, GROUPS, RegionStates.from_last(history.states.last()))
    batch, whole = stored.gather(rows), covariates_of(history).gather(rows)
    assert not batch["token_known"].any()
    np.testing.assert_allclose(
        batch["static"][:, : len(STATE_FEATURES)], whole["static"][:, : len(STATE_FEATURES)], atol=1e-6
    )
    assert np.isfinite(batch["static"]).all()


def test_a_row_asked_alone_is_the_row_in_a_batch(history, debuts):
    rows = with_cutoff(debuts.rows, np.arange(len(debuts.rows)) % 4, "W")
    covariates = covariates_of(history)
    whole = covariates.gather(rows, debuts.curves)
    torch.manual_seed(0)
    encoder = ContextEncoder(16, len(REGIONS), GROUPS).eval()
    batch = tensors(whole, torch.device("cpu"))
    with torch.no_grad():
        encoder.std.copy_(torch.tensor(training_statistics(whole["static"])["std"]))
        summary, context, known = encoder(batch)
        for row in (0, 17, 60, len(rows) - 1):
            alone = tensors(
                covariates.gather(rows.iloc[[row]], taken(debuts.curves, np.array([row]))), torch.device("cpu")
            )
            own_summary, own_context, own_known = encoder(alone)
            assert own_known.sum() == known[row].sum()
            torch.testing.assert_close(own_summary[0], summary[row], rtol=0, atol=1e-5)
            torch.testing.assert_close(own_context[0][own_known[0]], context[row][known[row]], rtol=0, atol=1e-5)


@pytest.mark.parametrize("absent", [("artist",), ("regions",), ("state", "release"), GROUPS])
def test_what_is_absent_is_not_seen(history, debuts, absent):
    rows = with_cutoff(debuts.rows, 2, "W")
    batch = tensors(covariates_of(history).gather(rows, debuts.curves), torch.device("cpu"))
    torch.manual_seed(0)
    encoder = ContextEncoder(16, len(REGIONS), GROUPS).eval()
    changed = dict(batch)
    changed["static"] = batch["static"].clone()
    start = 0
    for group in GROUPS:
        if group in absent:
            changed["static"][:, start : start + static_width([group])] += 3.0
        start += static_width([group])
    hidden = torch.zeros_like(batch["token_known"])
    for kind, group in enumerate(("regions", "artist")):
        if group in absent:
            hidden |= batch["token_kind"] == kind
    with torch.no_grad():
        summary, _, known = encoder(batch, absent)
        other, _, _ = encoder(changed, absent)
        present, _, _ = encoder(batch)
    assert torch.equal(summary, other)
    assert not torch.equal(summary, present)
    tokens = known[:, -batch["tokens"].shape[1] :]
    assert torch.equal(tokens, batch["token_known"] & ~hidden)


def test_groups_and_the_region_are_dropped_as_often_as_asked_and_only_in_training(history, debuts):
    rows = with_cutoff(debuts.rows, 2, "W")
    batch = tensors(covariates_of(history).gather(rows, debuts.curves), torch.device("cpu"))
    torch.manual_seed(0)
    encoder = ContextEncoder(8, len(REGIONS), GROUPS, drop=0.3, region_drop=0.2).train()
    kept, unknown = [], []
    for _ in range(40):
        _, context, known = encoder(batch)
        tokens = batch["token_known"]
        kept.append((known[:, 2:] & tokens).sum() / tokens.sum())
        unknown.append((context[:, 1] == encoder.region.weight[-1]).all(dim=1).float().mean())
    assert torch.stack(kept).mean() == pytest.approx(0.7, abs=0.03)
    assert torch.stack(unknown).mean() == pytest.approx(0.2, abs=0.03)
    encoder.eval()
    assert torch.equal(encoder(batch)[0], encoder(batch)[0])


@pytest.mark.parametrize(("mode", "leading"), [("token", 2), ("embedding", 1), ("none", 1)])
def test_the_region_is_told_as_configured(history, debuts, mode, leading):
    rows = with_cutoff(debuts.rows.iloc[:6], 0, "W")
    batch = tensors(covariates_of(history, ("state",)).gather(rows), torch.device("cpu"))
    other = batch | {"region": (batch["region"] + 1) % 3}
    torch.manual_seed(0)
    encoder = ContextEncoder(8, len(REGIONS), ("state",), region_mode=mode).eval()
    summary, context, known = encoder(batch)
    moved_summary, moved_context, _ = encoder(other)
    assert context.shape[1] == leading + batch["tokens"].shape[1]
    assert known[:, :leading].all()
    assert torch.equal(summary, moved_summary) == (mode != "embedding")
    assert torch.equal(context, moved_context) == (mode == "none")


def test_descriptors_are_seen_where_a_row_has_all_of_them(history, debuts):
    rows = with_cutoff(debuts.rows.iloc[:4], 0, "W")
    batch = tensors(covariates_of(history).gather(rows), torch.device("cpu"))
    batch["descriptors"] = torch.tensor([[1.0, 2.0], [torch.nan, 1.0], [torch.nan, torch.nan], [0.0, 0.0]])
    encoder = ContextEncoder(8, len(REGIONS), GROUPS, descriptors=2).eval()
    summary, context, known = encoder(batch)
    assert known[:, 2].tolist() == [True, False, False, True]
    assert context.isfinite().all()
    assert summary.isfinite().all()
    unheard = encoder(batch | {"descriptors": torch.full((4, 2), torch.nan)})[0]
    assert (summary != unheard).any(dim=1).tolist() == [True, False, False, True]


def test_in_training_descriptors_are_absent_now_and_then(history, debuts):
    rows = with_cutoff(debuts.rows.iloc[[0] * 400], 0, "W")
    batch = tensors(covariates_of(history).gather(rows), torch.device("cpu"))
    batch["descriptors"] = torch.ones(400, 2)
    torch.manual_seed(0)
    encoder = ContextEncoder(8, len(REGIONS), GROUPS, descriptors=2, drop=0.2).train()
    known = encoder(batch)[2]
    assert 0.7 < known[:, 2].float().mean() < 0.9
    assert encoder.eval()(batch)[2][:, 2].all()


@pytest.mark.parametrize("mode", ["token", "embedding", "none"])
def test_what_a_sound_is_worth_depends_on_the_region_unless_regions_are_left_out(history, debuts, mode):
    rows = with_cutoff(debuts.rows.iloc[[0, 0]], 0, "W")
    batch = tensors(covariates_of(history).gather(rows), torch.device("cpu"))
    batch["descriptors"] = torch.ones(2, 2)
    batch["region"] = torch.tensor([0, 1])
    batch["token_known"] = torch.zeros_like(batch["token_known"])
    torch.manual_seed(0)
    encoder = ContextEncoder(8, len(REGIONS), GROUPS, descriptors=2, region_mode=mode).eval()
    sound = encoder(batch)[1][:, 2 if mode == "token" else 1]
    assert torch.equal(sound[0], sound[1]) == (mode == "none")


def test_statistics_leave_a_feature_that_never_varies_alone():
    statistics = training_statistics(np.array([[1.0, 5.0], [3.0, 5.0]]))
    assert statistics == {"mean": [2.0, 5.0], "std": [1.0, 1.0]}


def test_a_record_counts_what_was_known_of_other_songs():
    place = {name: number for number, name in enumerate(LIFE_FEATURES)}
    lives = np.zeros((2, 3, len(LIFE_FEATURES)), np.float32)
    # A song that has run its course, one that is charting since three weeks, and a slot with nobody in it.
    lives[0, 0, [place["total"], place["debut"], place["last"], place["on_chart"], place["log_age"]]] = [
        0.9,
        0.2,
        0.5,
        1.0,
        np.log1p(3),
    ]
    lives[0, 1, [place["total"], place["debut"], place["peak"], place["length"], place["log_age"]]] = [
        1.5,
        0.4,
        0.8,
        np.log1p(7),
        np.log1p(20),
    ]
    known = np.array([[True, True, False], [False, False, False]])
    record = _record(lives, known, 8)
    charting = np.log10(1 + 10**0.5)
    expected = [np.log(3), np.log(2), 1.5, 1.5, 1.5, 0.3, 0.8, np.log(2), charting, np.log(4), 7, 1.5, 0.2]
    np.testing.assert_allclose(record[0], expected, rtol=1e-5)
    assert not record[1].any()


def test_a_song_is_told_what_its_guests_came_to_and_not_how_many_they_are(history, debuts):
    rows = with_cutoff(debuts.rows, 1, "W")
    covariates = covariates_of(history, ("artist",))
    told = covariates.gather(rows)["static"]
    alone = covariates.gather(rows.assign(guests=[()] * len(rows)))["static"]
    strangers = covariates.gather(rows.assign(guests=[("nobody", "noone")] * len(rows)))["static"]
    named = np.array([len(guests) > 0 for guests in rows["guests"]])
    guests = slice(told.shape[1] - 1 - 2 * RECORD_FEATURES, None)
    assert 0.2 < named.mean() < 0.8
    assert not alone[:, guests].any()
    np.testing.assert_array_equal(strangers, alone)
    np.testing.assert_array_equal(told[:, : guests.start], alone[:, : guests.start])
    assert (told[named, guests] != 0).any(axis=1).mean() > 0.8
    # A guest's record is that of the same person's songs, here asked for as the main artist of another song.
    place = int(np.flatnonzero([guests == ("artist5",) for guests in rows["guests"]])[0])
    row = rows.iloc[[place]]
    own = covariates.gather(row)["static"][0, guests]
    lives = history.credited(
        ["artist5"], row["song_id"], row["region"], row["cutoff"].to_numpy().astype("M8[D]").astype(int), 400
    )
    counts = own[1], own[1 + RECORD_FEATURES]
    np.testing.assert_allclose(counts, [np.log1p((found >= 0).sum()) for found in lives], rtol=1e-6)
