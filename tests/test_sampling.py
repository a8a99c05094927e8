"""Uniform numbers by name, and paths that depend on nothing but what was known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtri
from scipy.stats import kstest
from small_charts import HORIZON, REGIONS, future_changed, rows_known_on, small_charts, week

from mp3model import MP3Config, MP3Model
from mp3model.evaluation.accuracy import path_quantiles
from mp3model.model.covariates import GROUPS, Covariates
from mp3model.model.sampling import chart_observed, sample_paths, uniform_numbers
from mp3model.tables.curves import BELOW, UNKNOWN, CurveArrays, curve_arrays, taken
from mp3model.tables.history import History

SCALES = dict.fromkeys(REGIONS, 1000.0)
LUCK = (0.4, 0.2)
WALKS = 5


def model_of(likelihood: str = "autoregressive", **changes) -> MP3Model:
    torch.manual_seed(0)
    config = MP3Config(
        **{
            "regions": list(REGIONS),
            "encoder": "none",
            "horizon": HORIZON,
            "likelihood": likelihood,
            "components": 3,
            "decoder_width": 16,
            "decoder_layers": 1,
            "decoder_heads": 2,
            "covariates": list(GROUPS),
            "lowest_walks": WALKS,
            **changes,
        }
    )
    model = MP3Model(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        if model.lowest_walks is not None:
            model.lowest_walks.copy_(0.1 * torch.randn_like(model.lowest_walks).cumsum(dim=-1))
    return model


def covariates_of(dataset) -> Covariates:
    history = History(dataset, SCALES)
    return Covariates(list(REGIONS), "W", HORIZON, GROUPS, history.states, history)


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return rows_known_on(small_charts(), week(41))


@pytest.fixture(scope="module")
def curves(rows) -> CurveArrays:
    return curve_arrays(small_charts(), rows, HORIZON)


@pytest.fixture(scope="module")
def covariates() -> Covariates:
    return covariates_of(small_charts())


def names(n: int, region: str = "US") -> tuple[list[str], list[str]]:
    return [f"song-{number}" for number in range(n)], [region] * n


@pytest.mark.parametrize("luck", [(0.0, 0.0), (0.6, 0.3), (0.95, 0.95)])
@pytest.mark.parametrize(("paths", "members"), [(64, 1), (100, 1), (100, 3)])
def test_every_period_of_every_row_has_uniform_numbers(luck, paths, members):
    numbers = uniform_numbers(*names(60), paths, HORIZON, luck, 3, members)
    assert numbers.shape == (60, paths, HORIZON + 1)
    assert numbers.min() > 0
    assert numbers.max() < 1
    assert all(kstest(numbers[:, :, place].ravel(), "uniform").pvalue > 1e-3 for place in range(HORIZON + 1))
    # One path of many songs is uniform too: the shift is as random as the points are even.
    assert kstest(uniform_numbers(*names(400), 2, 1, luck, 3)[:, 0, 0], "uniform").pvalue > 1e-3


def test_paths_of_one_row_are_spread_evenly():
    # Of 64 even points each 64th of the line holds about one: means are far closer to one half than at random.
    means = uniform_numbers(*names(60), 64, HORIZON, (0, 0), 3).mean(axis=1)
    assert np.abs(means - 0.5).max() < 0.01


def test_paths_of_each_member_are_spread_evenly_and_are_others_than_its_neighbours():
    numbers = uniform_numbers(*names(60), 192, HORIZON, (0, 0), 3, 3)
    parts = [numbers[:, turn::3] for turn in range(3)]
    assert max(np.abs(part.mean(axis=1) - 0.5).max() for part in parts) < 0.01
    np.testing.assert_array_equal(parts[0], uniform_numbers(*names(60), 64, HORIZON, (0, 0), 3))
    assert all(np.abs(np.corrcoef(parts[0].ravel(), part.ravel())[0, 1]) < 0.02 for part in parts[1:])


def test_numbers_follow_from_the_name_whoever_else_is_asked():
    songs, regions = ["a", "b", "a"], ["US", "US", "GB"]
    together = uniform_numbers(songs, regions, 32, HORIZON, LUCK, 1)
    for row in range(3):
        alone = uniform_numbers([songs[row]], [regions[row]], 32, HORIZON, LUCK, 1)
        np.testing.assert_array_equal(alone[0], together[row])
    np.testing.assert_array_equal(uniform_numbers(songs[::-1], regions[::-1], 32, HORIZON, LUCK, 1), together[::-1])
    assert np.abs(uniform_numbers(songs, regions, 32, HORIZON, LUCK, 2) - together).max() > 0.1


@pytest.mark.parametrize("luck", [(0.0, 0.0), (0.5, 0.2), (0.9, 0.7)])
def test_regions_of_one_song_share_their_luck_and_songs_share_none(luck):
    n, paths = 40, 256
    here, there = (
        ndtri(uniform_numbers(*names(n, region), paths, 3, luck, 0).astype(float)) for region in ("US", "GB")
    )
    between = np.array([[np.corrcoef(here[i, :, p], there[i, :, p])[0, 1] for p in range(4)] for i in range(n)])
    # The last number chooses a curve of the joint likelihood, as the first period does.
    np.testing.assert_allclose(between.mean(axis=0), [luck[0], luck[1], luck[1], luck[0]], atol=0.05)
    # In each song by itself, not in the mean of songs alone: what regions sum to hangs on it.
    assert between.std(axis=0).max() < 0.12
    across = [np.corrcoef(here[i, :, p], here[i + 1, :, p])[0, 1] for i in range(n - 1) for p in range(4)]
    assert abs(np.mean(across)) < 0.03
    assert np.std(across) < 0.12


def test_periods_of_one_row_are_independent():
    normal = ndtri(uniform_numbers(*names(60), 256, 11, LUCK, 0).astype(float))
    correlation = np.mean([np.corrcoef(row.T) for row in normal], axis=0) - np.eye(12)
    assert np.abs(correlation).max() < 0.05


@pytest.mark.parametrize("likelihood", ["autoregressive", "joint"])
@given(number=st.integers(9, 50), seed=st.integers(0, 99))
@settings(max_examples=6)
def test_nothing_dated_after_the_cutoff_moves_a_path(likelihood, number, seed):
    day, model = week(number), model_of(likelihood)
    dataset = small_charts()
    asked = rows_known_on(dataset, day, HORIZON - 1)
    found = []
    for data in (dataset, future_changed(dataset, day, seed)):
        known = curve_arrays(data, asked, HORIZON)
        paths, scale = sample_paths(model, covariates_of(data), asked, known, 16, luck=LUCK)
        found.append(chart_observed(paths, scale["floor"], scale["threshold"], asked, known, False))
    assert asked["observed"].nunique() > 3
    # Floats of the same inputs in the same order: the same streams.
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4)


@pytest.mark.parametrize("likelihood", ["autoregressive", "joint"])
def test_the_order_of_rows_and_who_else_is_asked_change_no_path(rows, curves, covariates, likelihood):
    model = model_of(likelihood)

    def paths(at: np.ndarray, rows_at_once: int = 256) -> np.ndarray:
        return sample_paths(
            model, covariates, rows.iloc[at], taken(curves, at), 16, luck=LUCK, rows_at_once=rows_at_once
        )[0]

    whole = paths(np.arange(len(rows)))
    order = np.random.default_rng(0).permutation(len(rows))
    np.testing.assert_allclose(paths(order), whole[order], atol=2e-4)
    np.testing.assert_allclose(paths(np.arange(len(rows)), 7), whole, atol=2e-4)
    for region in REGIONS:
        at = np.flatnonzero(rows["region"] == region)
        np.testing.assert_allclose(paths(at), whole[at], atol=2e-4)
    for row in (0, 5, len(rows) - 1):
        np.testing.assert_allclose(paths(np.array([row]))[0], whole[row], atol=2e-4)


@pytest.mark.parametrize("likelihood", ["autoregressive", "joint"])
def test_a_gap_among_the_observed_periods_is_drawn_the_same_beside_any_rows(rows, curves, covariates, likelihood):
    model = model_of(likelihood)
    at = np.flatnonzero(rows["observed"] >= 4)[:3]
    some = taken(curves, at)
    some.streams[:, 2], some.state[:, 2], some.lowest[:, 2], some.charted[:, 2] = np.nan, UNKNOWN, np.nan, False
    asked = rows.iloc[at]
    alone, scale = sample_paths(model, covariates, asked, some, 16)
    fresh = np.flatnonzero(rows["observed"] == 0)[:2]
    both = pd.concat([asked, rows.iloc[fresh]])
    other = taken(curves, fresh)
    joined = CurveArrays(
        *(np.concatenate([getattr(some, name), getattr(other, name)]) for name in CurveArrays.__dataclass_fields__)
    )
    beside, _ = sample_paths(model, covariates, both, joined, 16)
    np.testing.assert_allclose(beside[: len(at)], alone, atol=2e-4)
    # Paths differ in the gap and in nothing else that was observed.
    assert (alone[:, :, 2].std(axis=1) > 0.01).all()
    streams = chart_observed(alone, scale["floor"], scale["threshold"], asked, some, False)
    assert (streams[:, :, [0, 1, 3]] == some.chart_observed()[:, None, [0, 1, 3]]).all()


@pytest.mark.parametrize("nulls", ["censored", "masked", "zero"])
@pytest.mark.parametrize("likelihood", ["autoregressive", "joint"])
def test_streams_are_observed_ones_exactly_then_never_negative_and_quantiles_never_cross(
    rows, curves, covariates, likelihood, nulls
):
    paths, scale = sample_paths(model_of(likelihood, nulls=nulls), covariates, rows, curves, 64, luck=LUCK)
    assert np.isfinite(paths).all()
    given = np.arange(HORIZON) < rows["observed"].to_numpy()[:, None]
    assert (curves.state[given] == BELOW).any()
    for full in (False, True):
        streams = chart_observed(paths, scale["floor"], scale["threshold"], rows, curves, full)
        assert (streams >= 0).all()
        told, seen = (np.broadcast_to(each[:, None], streams.shape) for each in (curves.chart_observed(), given))
        np.testing.assert_array_equal(streams[seen], told[seen])
        quantiles = path_quantiles(streams, axis=1)
        assert (np.diff(quantiles, axis=0) >= 0).all()
        unseen = (rows["observed"] == 0).to_numpy()
        lowest = scale["floor"][:, None] * 10 ** scale["threshold"][:, :, 0]
        assert (streams[unseen, :, 0] >= 0.9999 * lowest[unseen]).all()
        assert (streams[~seen] == 0).any() != full
    np.testing.assert_array_equal(scale["floor"], covariates.gather(rows, curves)["floor"])


@pytest.mark.parametrize("likelihood", ["autoregressive", "joint"])
def test_a_path_lives_with_one_walk_of_the_charts_lowest_in_every_region(rows, curves, covariates, likelihood):
    model = model_of(likelihood)
    _, scale = sample_paths(model, covariates, rows, curves, 2 * WALKS)
    batch, walks = covariates.gather(rows, curves), model.lowest_walks.numpy()
    for row, (region, observed) in enumerate(zip(batch["region"], rows["observed"], strict=True)):
        for path in range(2 * WALKS):
            moved = scale["threshold"][row, path] - batch["last_threshold"][row]
            np.testing.assert_allclose(moved[:observed], 0, atol=1e-6)
            told = walks[region, path % WALKS, : HORIZON - observed]
            np.testing.assert_allclose(moved[observed:], told, atol=1e-6)


def test_a_lowest_that_rises_out_of_reach_empties_the_next_week_and_one_that_falls_fills_it(rows, covariates):
    model = model_of()
    fresh = rows[rows["observed"] == 0].reset_index(drop=True)
    # The first week is as it was: a debut is on the chart.
    steps = torch.arange(HORIZON) > 0
    shares = []
    for moved in (-9.0, 0.0, 9.0):
        model.lowest_walks.copy_(moved * steps.expand_as(model.lowest_walks))
        paths, scale = sample_paths(model, covariates, fresh, None, 32)
        streams = chart_observed(paths, scale["floor"], scale["threshold"], fresh, None, False)
        shares.append((streams[:, :, 1] > 0).mean())
    assert shares[0] == 1
    assert 0.05 < shares[1] < 0.99
    assert shares[2] == 0


def test_a_model_without_walks_leaves_the_lowest_where_it_is(rows, curves, covariates):
    _, scale = sample_paths(model_of(lowest_walks=0), covariates, rows, curves, 4)
    last = covariates.gather(rows, curves)["last_threshold"]
    np.testing.assert_array_equal(scale["threshold"], np.broadcast_to(last[:, None, None], scale["threshold"].shape))


def test_walks_are_saved_and_read_with_the_weights(tmp_path, rows, curves, covariates):
    model = model_of()
    model.save_pretrained(tmp_path)
    again = MP3Model.from_pretrained(tmp_path).eval()
    for one, other in zip(*(sample_paths(each, covariates, rows, curves, 8) for each in (model, again)), strict=True):
        if isinstance(one, dict):
            one, other = one["threshold"], other["threshold"]
        np.testing.assert_array_equal(one, other)


def test_the_same_seed_gives_the_same_paths_and_another_others(rows, curves, covariates):
    model = model_of()
    first, again, other = (sample_paths(model, covariates, rows, curves, 8, seed)[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    later = (rows["observed"] < HORIZON).to_numpy()
    assert np.abs(first - other)[later].max() > 0.1


def test_a_charts_lowest_is_on_it_and_a_hair_less_is_not():
    threshold = np.array([[[np.float32(-0.3)]]])
    paths = np.array([[[0.0, -0.3, -0.30001]]], np.float32)
    rows = pd.DataFrame({"observed": [0]})
    streams = chart_observed(paths, np.array([1000.0]), threshold, rows, None, False)
    assert streams[0, 0].tolist() == pytest.approx([1000.0, 501.187, 0.0], rel=1e-4)
    assert chart_observed(paths, np.array([1000.0]), threshold, rows, None, True)[0, 0, 2] > 500
