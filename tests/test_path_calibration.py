"""The map of paths: nothing where nothing is wrong, wider where too narrow, order and observed periods kept."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mp3model.evaluation.accuracy import crps_from_quantiles, path_quantiles
from mp3model.evaluation.calibration import CalibrationSet, PathCalibration

PERIODS, PATHS = 4, 41
SHIFT_STEP = float(np.diff(PathCalibration.SHIFTS)[0])
SPREAD_STEP = float(np.diff(PathCalibration.SPREADS)[0])


def calibration_set(
    regions: list[str], width: float = 1.0, bias: float = 0.0, observed: int = 0, seed: int = 0, levels: float = 1.0
) -> CalibrationSet:
    """Rows whose truth lies around their median by .4; the forecast says `width` times that, and `bias` too little."""
    generator = np.random.default_rng(seed)
    n = len(regions)
    middle = levels + 0.5 * generator.normal(size=(n, 1, 1))
    shape = -0.1 * np.arange(PERIODS)
    paths = middle + 0.4 * width * generator.normal(size=(n, PATHS, 1)) + shape
    true = middle[:, :, 0] + bias + 0.4 * generator.normal(size=(n, 1)) + shape
    remaining = (10.0 ** true[:, observed:]).sum(axis=1)
    return CalibrationSet(
        paths.astype(np.float32), np.full((n, 1, 1), -9.0), np.array(regions), np.arange(n) // 2, observed, remaining
    )


def both(*arguments, **options) -> list[CalibrationSet]:
    return [calibration_set(*arguments, observed=observed, seed=observed, **options) for observed in (0, 2)]


def test_a_calibrated_forecast_stays_as_it_is_within_the_grid():
    found = PathCalibration.fit(both(["US"] * 400 + ["GB"] * 400))
    for region in ("", "US", "GB"):
        assert np.abs(found.shift[region]).max() <= SHIFT_STEP + 1e-9
        assert np.abs(np.array(found.spread[region]) - 1).max() <= SPREAD_STEP + 1e-9
    assert 0 in PathCalibration.SHIFTS
    assert np.isclose(PathCalibration.SPREADS, 1).any()


@pytest.mark.parametrize("width", [0.75, 1.3])
def test_intervals_are_made_as_wide_as_what_happens(width):
    found = PathCalibration.fit(both(["US"] * 2000, width=width))
    np.testing.assert_allclose(np.array(found.spread["US"]) * width, 1, atol=0.11)
    other = calibration_set(["US"] * 700, width=width, seed=9)
    mapped = found.apply(other.paths, other.threshold, ["US"] * 700, np.zeros(700, int))

    def inside(paths: np.ndarray) -> float:
        low, high = path_quantiles((10.0**paths).sum(axis=2), (0.1, 0.9))
        return float(((other.remaining >= low) & (other.remaining <= high)).mean())

    assert abs(inside(mapped) - 0.8) < 0.05 < abs(inside(other.paths) - 0.8)


def test_a_forecast_that_is_always_too_low_is_raised():
    found = PathCalibration.fit(both(["US"] * 2000, bias=0.09))
    np.testing.assert_allclose(found.shift["US"], 0.09, atol=SHIFT_STEP + 1e-9)


def test_forecasts_at_debut_and_later_are_mapped_apart():
    sets = [calibration_set(["US"] * 500, width=0.75), calibration_set(["US"] * 500, observed=2, seed=1)]
    found = PathCalibration.fit(sets)
    assert found.spread["US"][0] > 1.15
    assert abs(found.spread["US"][1] - 1) <= SPREAD_STEP + 1e-9
    paths = sets[0].paths[:2]
    moved = found.apply(paths, np.full((2, 1, 1), -9.0), ["US", "US"], np.array([0, 1]))
    spread = np.ptp(moved, axis=1) / np.ptp(paths, axis=1)
    np.testing.assert_allclose(spread[0], found.spread["US"][0], rtol=1e-4)
    np.testing.assert_allclose(spread[1, 1:], found.spread["US"][1], rtol=1e-4)
    only = PathCalibration.fit(sets[:1])
    alone = only.apply(paths, np.full((2, 1, 1), -9.0), ["US", "US"], np.array([0, 1]))
    np.testing.assert_array_equal(alone[0], moved[0])
    np.testing.assert_allclose(alone[1], paths[1], atol=1e-6)


def test_each_number_of_observed_periods_takes_the_last_map_that_is_not_for_more():
    calibration = PathCalibration((0, 2, 4), {"": (0.0, 0.06, -0.06)}, {"": (1.0, 1.0, 1.0)})
    paths = np.zeros((6, 5, 12), np.float32)
    moved = calibration.apply(paths, np.full((6, 1, 1), -9.0), ["US"] * 6, np.array([0, 1, 2, 3, 4, 9]))
    np.testing.assert_allclose(moved[:, 0, -1], [0.0, 0.06, 0.06, 0.06, -0.06, -0.06], atol=1e-6)


@pytest.mark.parametrize("songs", [1, 16, 150])
def test_a_map_of_chance_is_not_taken_from_a_few_songs(songs):
    taken = 0
    for seed in range(20):
        found = PathCalibration.fit([calibration_set(["US", "GB"] * songs, observed=1, seed=seed)])
        taken += any(values != (0.0,) for values in found.shift.values())
        taken += any(values != (1.0,) for values in found.spread.values())
    assert taken <= 2


def test_a_map_is_not_taken_for_what_one_artist_shows():
    held = calibration_set(["US"] * 1000, bias=0.12)
    assert PathCalibration.fit([held]).shift["US"][0] > 0
    held.artists = np.repeat("one", 1000)
    assert PathCalibration.fit([held]).shift["US"] == (0.0,)


def test_a_map_of_two_numbers_a_region_is_still_read():
    calibration = PathCalibration.from_dict({"shift": {"": [0.0, 0.03]}, "spread": {"": [1.0, 1.2]}})
    assert calibration == PathCalibration((0, 1), {"": (0.0, 0.03)}, {"": (1.0, 1.2)})


def test_a_region_with_few_rows_hardly_moves_and_one_with_many_has_its_own():
    many = calibration_set(["MANY"] * 1200, bias=0.09)
    other = calibration_set(["OTHER"] * 1200, bias=-0.09, seed=1)
    few = calibration_set(["FEW"] * 4, bias=-0.12, seed=2)

    def joined(*sets: CalibrationSet) -> CalibrationSet:
        parts = {
            name: np.concatenate([getattr(each, name) for each in sets])
            for name in ("paths", "threshold", "regions", "artists", "remaining")
        }
        return CalibrationSet(observed=0, **parts)

    found = PathCalibration.fit([joined(many, few)])
    assert abs(found.shift["FEW"][0]) <= SHIFT_STEP + 1e-9
    assert found.shift[""][0] > 0.05
    found = PathCalibration.fit([joined(many, other)])
    assert found.shift["MANY"][0] > 0.05
    assert found.shift["OTHER"][0] < -0.05
    assert abs(found.shift[""][0]) <= SHIFT_STEP + 1e-9


@given(
    seed=st.integers(0, 99),
    shift=st.sampled_from([-0.12, 0.0, 0.06]),
    spread=st.sampled_from([0.7, 1.0, 1.45]),
    observed=st.lists(st.integers(0, PERIODS), min_size=3, max_size=3),
)
@settings(max_examples=40)
def test_order_among_paths_observed_periods_and_the_first_week_on_the_chart_are_kept(seed, shift, spread, observed):
    generator = np.random.default_rng(seed)
    threshold = generator.normal(size=(3, PATHS, PERIODS))
    paths = generator.normal(size=(3, PATHS, PERIODS)).astype(np.float32)
    observed = np.array(observed)
    fresh = observed == 0
    paths[fresh, :, 0] = np.maximum(paths[fresh, :, 0], threshold[fresh, :, 0])
    calibration = PathCalibration((0, 1), {"": (shift, shift)}, {"": (spread, spread)})
    moved = calibration.apply(paths, threshold, ["US", "GB", "BR"], observed)
    assert moved.dtype == paths.dtype
    order = np.argsort(paths, axis=1)
    rises = np.diff(np.take_along_axis(moved, order, axis=1), axis=1) >= -1e-6
    # But in the first week, which each path's own chart holds up.
    rises[fresh, :, 0] = True
    assert rises.all()
    seen = np.broadcast_to((np.arange(PERIODS) < observed[:, None])[:, None], paths.shape)
    assert (moved[seen] == paths[seen]).all()
    # No path of a song that debuts leaves the chart in its first week, by no rounding either.
    assert (moved[fresh, :, 0] >= threshold[fresh, :, 0].astype(np.float32)).all()
    later = ~seen
    later[fresh, :, 0] = False
    told = np.median(paths, axis=1, keepdims=True)
    told = told + shift + spread * (paths - told)
    np.testing.assert_allclose(moved[later], told[later], atol=1e-5)


def test_a_region_that_was_not_fitted_takes_what_serves_all():
    calibration = PathCalibration((0,), {"": (0.1,), "US": (0.0,)}, {"": (1.0,), "US": (1.0,)})
    paths = np.zeros((2, 5, 2), np.float32)
    moved = calibration.apply(paths, np.full((2, 1, 1), -9.0), ["US", "FR"], np.zeros(2, int))
    np.testing.assert_allclose(moved[:, 0, 0], [0.0, 0.1], atol=1e-6)


def test_the_map_travels_as_json():
    found = PathCalibration.fit(both(["US"] * 60 + ["GB"] * 40, width=0.8))
    again = PathCalibration.from_dict(json.loads(json.dumps(found.to_dict())))
    assert again == found


@pytest.mark.parametrize("observed", [0, 2])
def test_a_score_is_the_crps_of_the_log_of_the_streams_that_follow(observed):
    held = calibration_set(["US"] * 20, observed=observed, levels=0.0)
    # As a model gives it: a float32 in float64, so that what lies on it is not below.
    held.threshold[:] = np.float32(-0.4)
    found = held.scores([(0.0, 1.0), (0.05, 1.3)])
    assert found.shape == (20, 2)
    paths = held.paths.copy()
    if observed == 0:
        paths[:, :, 0] = np.maximum(paths[:, :, 0], -0.4)
    streams = np.where(paths < -0.4, 0, 10.0**paths)[:, :, observed:]
    assert (streams == 0).any()
    quantiles = path_quantiles(np.log10(1 + streams.sum(axis=2))).T
    np.testing.assert_allclose(found[:, 0], crps_from_quantiles(np.log10(1 + held.remaining), quantiles), atol=1e-6)


def test_no_held_out_song_leaves_every_path_as_it_is():
    found = PathCalibration.fit([])
    paths = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
    moved = found.apply(paths, np.full((2, 1, 1), -9.0), ["US", "GB"], np.array([0, 1]))
    np.testing.assert_allclose(moved, paths, atol=1e-6)
