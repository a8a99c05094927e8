"""Families of curves against their textbook forms; fits that find what made a curve, weeks below the chart included."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from baseline_checks import (
    all_debuts,
    assert_forecasts_are_whole,
    assert_test_songs_teach_nothing,
    assert_the_future_moves_nothing,
    fitted,
    same,
)
from small_charts import HORIZON

from mp3model.baselines.parametric import (
    SHAPES,
    ParametricCurve,
    Prior,
    Weeks,
    bass_shape,
    curve_levels,
    fit_parameters,
    gamma_shape,
    log_normal_shape,
    sir_shape,
)
from mp3model.files import InputError
from mp3model.tables.curves import taken

TIME = np.arange(12) + 0.5
# Level, first, second: what songs of each family look like.
TRUE = {
    "gamma": [[1.0, 0.4, -1.0], [0.3, -0.3, -2.0]],
    "log-normal": [[1.0, 0.8, -0.2], [0.5, -0.5, 0.4]],
    "bass": [[1.0, -2.5, -0.5], [0.5, -1.0, -3.0]],
    "sir": [[1.0, 0.3, -1.0], [0.5, -0.3, -1.5]],
}


def seen(values: np.ndarray, threshold: float = -9.0) -> Weeks:
    """Weeks of curves of which all above the threshold are charted."""
    return Weeks(values, np.full(values.shape, threshold), values >= threshold, values < threshold)


def wide(mean: np.ndarray, noise: float = 1e-4) -> Prior:
    return Prior(mean, np.eye(3) * 1e-4, noise)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_fit_finds_the_curve_that_made_the_weeks(shape: str):
    true = np.array(TRUE[shape])
    weeks = seen(curve_levels(shape, true, 12))
    found = fit_parameters(shape, weeks, wide(true + np.array([0.5, 0.3, -0.3])))
    np.testing.assert_allclose(curve_levels(shape, found, 12), weeks.value, atol=0.01)


@pytest.mark.parametrize("shape", SHAPES)
def test_weeks_below_the_chart_pull_a_curve_down_but_no_further_than_the_chart(shape: str):
    true = np.array(TRUE[shape])
    levels = curve_levels(shape, true, 12)
    lowest = np.broadcast_to(np.median(levels, axis=1, keepdims=True), levels.shape)
    cut = Weeks(levels, lowest, levels > lowest, levels <= lowest)
    found = curve_levels(shape, fit_parameters(shape, cut, wide(true)), 12)
    np.testing.assert_allclose(found, levels, atol=0.01)
    # A curve that is expected to be high, and of which nothing was seen, ends at the chart's lowest.
    none = np.zeros(levels.shape, bool)
    high = fit_parameters(shape, Weeks(levels, lowest, none, ~none), wide(true + np.array([2.0, 0, 0])))
    assert (curve_levels(shape, high, 12) < lowest + 0.05).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_without_weeks_the_prior_stands(shape: str):
    mean = np.array(TRUE[shape])
    none = np.zeros((2, 12), bool)
    found = fit_parameters(shape, Weeks(np.full((2, 12), 9.0), np.zeros((2, 12)), none, none), wide(mean))
    np.testing.assert_allclose(found, mean, atol=1e-9)


def test_one_week_moves_the_level_as_far_as_prior_and_noise_say():
    mean, value = np.array([[1.0, 0.4, -1.0]]), np.zeros((1, 12))
    value[0, 0] = 2.0
    first = np.arange(12)[None] < 1
    prior = Prior(mean, np.diag([4.0, 1.0, 1.0]), 0.5)
    found = fit_parameters("gamma", Weeks(value, np.zeros((1, 12)), first, np.zeros((1, 12), bool)), prior)
    # Precisions 4 of the prior and 1 / 0.5 of the week.
    np.testing.assert_allclose(found[0], [1 + 2 / (4 + 2), 0.4, -1.0], atol=1e-6)


def test_gamma_and_log_normal_are_the_densities_of_scipy():
    from scipy import stats

    def away(found: np.ndarray, density: np.ndarray) -> float:
        return float(np.ptp(found - np.log10(density)))

    gamma = gamma_shape(TIME, np.array([0.7]), np.array([np.log(0.4)]))[0]
    assert away(gamma, stats.gamma.pdf(TIME, 1.7, scale=1 / 0.4)) < 1e-12
    normal = log_normal_shape(TIME, np.array([0.6]), np.array([np.log(0.8)]))[0]
    assert away(normal, stats.lognorm.pdf(TIME, 0.8, scale=np.exp(0.6))) < 1e-12


def test_bass_is_the_slope_of_its_adoption_curve():
    innovation, imitation = 0.05, 0.6

    def adopted(time: np.ndarray) -> np.ndarray:
        decay = np.exp(-(innovation + imitation) * time)
        return (1 - decay) / (1 + imitation / innovation * decay)

    slope = (adopted(TIME + 1e-5) - adopted(TIME - 1e-5)) / 2e-5
    found = bass_shape(TIME, np.log([innovation]), np.log([imitation]))[0]
    assert np.ptp(found - np.log10(slope)) < 1e-6


def test_sir_follows_its_differential_equations():
    from scipy.integrate import solve_ivp

    infection, recovery = 1.2, 0.4

    def rates(_: float, state: np.ndarray) -> list[float]:
        return [-infection * state[0] * state[1], infection * state[0] * state[1] - recovery * state[1]]

    exact = solve_ivp(rates, (0, 12), [0.98, 0.02], t_eval=TIME, rtol=1e-9).y[1]
    found = sir_shape(TIME, np.log([infection]), np.log([recovery]))[0]
    # Six steps a week, not infinitely many.
    np.testing.assert_allclose(found, np.log10(exact), atol=0.06)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("extreme", [-50.0, 50.0])
def test_no_parameters_make_a_curve_that_is_not_finite(shape: str, extreme: float):
    corners = np.array([[0, extreme, 0], [0, 0, extreme], [0, extreme, extreme], [0, extreme, -extreme]])
    assert np.isfinite(curve_levels(shape, corners, 26)).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_forecasts_are_whole(shape: str):
    baseline, test = fitted(ParametricCurve(shape, observed=(0, 2))), all_debuts().of_split("test")
    for observed in (0, 2):
        assert_forecasts_are_whole(baseline.forecast(test, observed), test, observed)
    assert baseline.forecast(test, 3) is None


def test_seen_weeks_bring_the_curve_nearer():
    baseline, test = fitted(ParametricCurve("gamma", observed=(0, 3))), all_debuts().of_split("test")
    true = test.curves.chart_observed()[:, 3:]
    known = np.isfinite(true).all(axis=1)
    errors = [
        np.abs(np.log1p(baseline.forecast(test, observed).curve[:, 3:]) - np.log1p(true))[known].mean()
        for observed in (0, 3)
    ]
    assert errors[1] < 0.85 * errors[0]


@pytest.mark.parametrize("observed", [0, 2])
def test_nothing_after_the_cut_off_moves_a_fitted_curve(observed: int):
    assert_the_future_moves_nothing(lambda dataset: ParametricCurve("gamma", observed=(0, 2)), observed)


def test_fitted_curves_learn_nothing_from_test_songs():
    assert_test_songs_teach_nothing(lambda dataset: ParametricCurve("gamma", observed=(1,)), 1)


def test_what_is_not_yet_observed_is_not_read():
    test = all_debuts().of_split("test")
    hidden = taken(test.curves, np.arange(len(test.rows)))
    for values in (hidden.streams, hidden.rank, hidden.lowest):
        values[:, 2:] = 7.0
    hidden.state[:, 2:] = 0
    hidden.charted[:, 2:] = True
    baseline = fitted(ParametricCurve("gamma", observed=(0, 2)))
    assert same(baseline.forecast(test, 2), baseline.forecast(replace(test, curves=hidden), 2), 2)
    assert HORIZON > 2


def test_an_unknown_shape_is_refused():
    with pytest.raises(InputError, match="'weibull' is not known; use one of gamma"):
        ParametricCurve("weibull")
