"""What no one meant to ask: numbers, dates and horizons at their ends give finite, ordered forecasts, or one line."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from tiny_model import LAST_CHART, REGIONS, charts_dataset, region_state, write_model

from mp3model import Forecaster, popularity_metrics
from mp3model.evaluation.accuracy import QUANTILES
from mp3model.evaluation.popularity import half_life, peak_week, remaining, summarise_paths, time_to_milestone
from mp3model.files import InputError
from mp3model.serving.result import Forecast

# An overflow or a division by zero is a defect even where its result is thrown away.
pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")
RELEASE = "2026-12-04"
# Not defined where the counted periods do not differ, as the docstring of `popularity_metrics` says.
SHAPES = {"skewness", "kurtosis"}


@pytest.fixture(scope="module")
def forecaster(tmp_path_factory) -> Forecaster:
    return Forecaster.from_pretrained(write_model(tmp_path_factory.mktemp("run") / "model"), "cpu")


@pytest.fixture(scope="module")
def charts(tmp_path_factory):
    return charts_dataset(tmp_path_factory.mktemp("charts"))


def weeks(streams: list[float], region: str = "US") -> pd.DataFrame:
    return pd.DataFrame({"region": region, "week": range(len(streams)), "streams": streams})


def is_sound(found: Forecast, undefined: frozenset[str] | set[str] = frozenset()) -> bool:
    """Curves finite, at least 0 and in order; metrics finite but for those that are not defined; the rest answers."""
    levels = found.curves[list(QUANTILES)].to_numpy(float)
    assert np.isfinite(found.curves["mean"]).all()
    assert np.isfinite(levels).all()
    assert (levels >= 0).all()
    # Quantiles are interpolated: equal samples may differ in the last digit.
    assert (np.diff(levels, axis=1) >= -1e-12 * levels[:, 1:]).all()
    numbers = found.popularity[["mean", *QUANTILES]].to_numpy(float)
    assert set(found.popularity["metric"][~np.isfinite(numbers).all(axis=1)]) <= undefined
    assert not np.isinf(numbers).any()
    assert not np.isinf(found.chances()[["probability", *QUANTILES]].to_numpy(float)).any()
    assert np.isfinite(found.sampled.streams).all()
    assert len(found.summary()) > 0
    return True


@pytest.mark.parametrize("streams", [[1e12] * 4, [1e15, 0, 0], [1, 1e-3, 2], [0, 0], [float("nan"), 5e6], [5e-324]])
def test_curves_of_nothing_and_of_more_than_was_ever_streamed(forecaster, streams):
    for full in (False, True):
        assert is_sound(forecaster.forecast(None, ["US"], RELEASE, weeks(streams), samples=8, full=full))
    days = pd.to_datetime("2026-10-01") + pd.to_timedelta(7 * np.arange(len(streams)), "D")
    history = pd.DataFrame({"track_id": "before", "region": "GB", "date": days, "streams": streams})
    assert is_sound(forecaster.forecast(None, ["US", "GB"], RELEASE, None, 8, history))


@pytest.mark.parametrize("streams", [float("inf"), 1e16, 1.7e308])
def test_what_is_no_number_of_streams_is_refused_by_row(forecaster, streams):
    with pytest.raises(InputError, match=r"row 1: streams .* is no number from 0 on and at most 1e\+15"):
        forecaster.forecast(None, ["US"], RELEASE, weeks([1e6, streams]), samples=8)


@pytest.mark.parametrize("floor", [1e-6, 1.0, 1e12])
def test_regions_where_a_stream_is_all_and_where_a_billion_is_nothing(tmp_path, floor):
    states = {region: region_state(LAST_CHART, floor, floor) for region in REGIONS}
    folder = write_model(tmp_path, region_states=states, scales=dict.fromkeys(REGIONS, floor))
    model = Forecaster.from_pretrained(folder, "cpu")
    assert is_sound(model.forecast(None, None, RELEASE, samples=8))
    assert is_sound(model.forecast(None, None, RELEASE, weeks([0, 1e12, 1]), samples=8))


@pytest.mark.parametrize(
    ("release", "first"),
    [
        ("2020-02-29", "2020-03-05"),  # a leap day
        ("2020-12-31", "2020-12-31"),  # the last day of a year and of week 53
        ("2021-01-01", "2021-01-07"),  # the first of a year, in week 53 still
        ("2026-12-31", "2026-12-31"),
        ("1999-12-31", "2000-01-06"),
        ("2099-12-31", "2099-12-31"),
        ("1900-01-01", "1900-01-04"),
    ],
)
def test_dates_at_the_ends_of_years_and_of_the_calendar(forecaster, charts, release, first):
    found = forecaster.forecast(None, None, release, samples=8)
    assert is_sound(found)
    assert str(found.curves["date"].min())[:10] == first
    assert is_sound(forecaster.forecast(None, None, release, weeks([2e6]), samples=8))
    if release > "2025":
        # A dataset long past; its charts have no ranks.
        assert is_sound(forecaster.forecast(None, None, release, samples=8, data=charts), {"debut_rank"})


@pytest.mark.parametrize("release", ["2100-01-01", "1899-12-31", "2021-02-29", "2020-W53-1"])
def test_days_that_no_calendar_here_has_are_refused_by_name(forecaster, release):
    with pytest.raises(InputError, match=f"release {release}: no date from 1900 to 2099"):
        forecaster.forecast(None, None, release, samples=8)


@pytest.mark.parametrize(
    ("horizon", "frequency"), [(1, "W"), (2, "W"), (520, "W"), (1, "D"), pytest.param(520, "D", marks=pytest.mark.slow)]
)
def test_horizons_of_one_period_and_of_ten_years(tmp_path, horizon, frequency):
    folder = write_model(tmp_path, horizon=horizon, frequency=frequency, calibration=None)
    model = Forecaster.from_pretrained(folder, "cpu")
    undefined = SHAPES if horizon == 1 else set()
    found = model.forecast(None, ["US"], "2099-12-31", samples=32)
    assert len(found.curves) == horizon
    assert is_sound(found, undefined)


def test_a_horizon_of_one_period_of_a_longer_model(forecaster):
    assert is_sound(forecaster.forecast(None, None, RELEASE, samples=8, horizon=1), SHAPES)


def test_a_model_of_one_region_and_one_of_none(tmp_path):
    state = {"US": region_state(LAST_CHART, 8e5, 7e5)}
    one = write_model(tmp_path / "one", regions=["US"], region_states=state, scales={"US": 8e5})
    assert is_sound(Forecaster.from_pretrained(one, "cpu").forecast(None, None, RELEASE, samples=8))
    none = Forecaster.from_pretrained(write_model(tmp_path / "none", region_states={}), "cpu")
    with pytest.raises(InputError, match="remembers no region"):
        none.forecast(None, ["US"], RELEASE, samples=8)


def test_an_artist_of_whom_nothing_is_known(forecaster, charts):
    for artist in ("Nobody", "", None):
        found = forecaster.forecast(None, None, "2024-03-01", samples=8, data=charts, artist=artist)
        assert is_sound(found, {"debut_rank"})


def test_a_forecast_from_before_all_data_is_refused_by_region_and_day(forecaster, charts):
    with pytest.raises(InputError, match=r"region US has no chart or streams on or before 1999-12-30"):
        forecaster.forecast(None, ["US"], "1999-12-31", samples=8, data=charts)


@pytest.mark.parametrize(
    ("curve", "undefined"),
    [
        ([0.0], {"mean", "std", "skewness", "kurtosis", "peak_week", "half_life", "debut_rank"}),
        ([0.0] * 520, {"mean", "std", "skewness", "kurtosis", "peak_week", "half_life", "debut_rank"}),
        ([1e12] * 520, {"skewness", "kurtosis", "debut_rank"}),
        ([1e290] * 520, {"skewness", "kurtosis", "debut_rank"}),
        ([1e290, 1.0, 5e-324], {"debut_rank"}),
        ([5e-324], {"skewness", "kurtosis", "debut_rank"}),
        ([1e12, 0.0, 1e-12], {"debut_rank"}),
        ([float("nan")] * 3, {"debut", "max", "mean", "std", "length", "sum"}),
    ],
)
def test_metrics_of_any_curve_are_finite_but_for_those_said_to_be_undefined(curve, undefined):
    found = popularity_metrics(np.array([curve, curve]), observed=0)
    if np.isnan(curve).all():
        undefined = set(found)
    assert {name for name, values in found.items() if np.isnan(values).any()} == undefined
    assert not any(np.isinf(values).any() for values in found.values())
    zeros = popularity_metrics(np.array(curve), off_chart="zero-filled")
    assert not any(np.isinf(values).any() for values in zeros.values())
    table = summarise_paths(found)
    assert not np.isinf(table[["mean", *QUANTILES]].to_numpy(float)).any()


@pytest.mark.parametrize("metric", [popularity_metrics, peak_week, half_life, lambda curves: remaining(curves, 0)])
@pytest.mark.parametrize("streams", [float("inf"), 1.7e308])
def test_infinite_streams_are_refused_by_every_metric(metric, streams):
    with pytest.raises(InputError, match="are no number of streams"):
        metric([1.0, streams])
    with pytest.raises(InputError, match="are no number of streams"):
        time_to_milestone([1.0, streams], 10)
