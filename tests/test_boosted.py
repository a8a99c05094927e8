"""Boosted trees: whole forecasts, the same every time, blind to the future; features and shapes by hand."""

from __future__ import annotations

import builtins
import gzip
import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from baseline_checks import (
    all_debuts,
    assert_forecasts_are_whole,
    assert_test_songs_teach_nothing,
    assert_the_future_moves_nothing,
    covariates_of,
    fitted,
    same,
)
from small_charts import HORIZON, small_charts

from mp3model.baselines.boosted import (
    AveragedBoosted,
    Boosted,
    WeeklyShape,
    _growth,
    _Table,
    _Trees,
    features_of,
)
from mp3model.baselines.curve_floors import known_of
from mp3model.files import InputError
from mp3model.tables.curves import taken

pytest.importorskip("lightgbm")


def small(**options: Any) -> Boosted:
    return Boosted(**({"rounds": 15, "observed": (0, 2)} | options))


@pytest.mark.parametrize("form", ["weeks", "shape"])
def test_forecasts_are_whole(form: str):
    baseline, test = fitted(small(form=form, calendar=True, refit=True)), all_debuts().of_split("test")
    for observed in (0, 2):
        assert_forecasts_are_whole(baseline.forecast(test, observed), test, observed)
    assert baseline.forecast(test, 1) is None


def test_the_same_data_give_the_same_forecasts():
    test = all_debuts().of_split("test")
    one, other = (fitted(small(observed=(2,))).forecast(test, 2) for _ in range(2))
    assert same(one, other, 2)


@pytest.mark.parametrize("observed", [0, 2])
def test_nothing_after_the_cut_off_moves_boosted_forecasts(observed: int):
    assert_the_future_moves_nothing(lambda dataset: small(observed=(observed,), form="shape"), observed)


@pytest.mark.parametrize("refit", [False, True])
def test_boosted_trees_learn_nothing_from_test_songs(refit: bool):
    assert_test_songs_teach_nothing(lambda dataset: small(observed=(1,), form="shape", refit=refit), 1)


def test_what_is_not_yet_observed_is_not_read():
    debuts = all_debuts()
    hidden = taken(debuts.curves, np.arange(len(debuts.rows)))
    for values in (hidden.streams, hidden.rank, hidden.lowest):
        values[:, 2:] = 7.0
    hidden.state[:, 2:] = 0
    hidden.charted[:, 2:] = True
    covariates = covariates_of(small_charts())
    seen = features_of(debuts, covariates, 2, calendar=True)
    np.testing.assert_array_equal(seen, features_of(replace(debuts, curves=hidden), covariates, 2, calendar=True))
    assert not np.array_equal(seen, features_of(replace(debuts, curves=hidden), covariates, 3)[:, : seen.shape[1]])


def test_when_a_song_was_released_is_no_feature():
    debuts = all_debuts()
    moved = replace(debuts, rows=debuts.rows.assign(release_date=np.datetime64("NaT", "s"), track_id="x"))
    baseline = fitted(small(observed=(2,), form="shape"))
    assert same(baseline.forecast(debuts, 2), baseline.forecast(moved, 2), 2)


def test_seen_weeks_tell_trees_more():
    debuts = all_debuts()
    known = np.isfinite(debuts.curves.chart_observed()).all(axis=1)
    test = debuts.chosen(known & debuts.rows["split"].eq("test").to_numpy())
    baseline = fitted(small(observed=(0, 4), rounds=60))
    true = np.log1p(test.curves.chart_observed()[:, 4:])
    errors = [np.abs(np.log1p(baseline.forecast(test, observed).curve[:, 4:]) - true).mean() for observed in (0, 4)]
    assert errors[1] < 0.75 * errors[0]


@pytest.mark.parametrize("observed", [0, 4])
def test_recent_debuts_count_more(observed: int):
    """Of two halves of training that say the opposite, with the same features, the later one is believed."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(400, 3)).astype(np.float32)
    features[:, 0] = 0
    days = np.datetime64("2018-01-04") + np.arange(2) * np.timedelta64(730, "D")
    table = _Table(np.concatenate([features, features]), np.repeat(days, 400))
    target = np.repeat([0.0, 1.0], 400)
    parameters = {"objective": "quantile", "verbose": -1, "min_data_in_leaf": 20, "num_threads": 1}
    trees = _Trees(table, _Table(features, days[[1]].repeat(400)), parameters, 30, _growth(observed), refit=False)
    booster = trees.fit(target, np.ones(400), 0.5)
    assert booster.predict(features).mean() > 0.9


def test_groups_that_are_left_out_change_what_is_known():
    debuts, covariates = all_debuts(), covariates_of(small_charts())
    widths = [
        features_of(debuts, replace(covariates, groups=groups), 0).shape[1]
        for groups in (("state",), ("state", "artist"), ("state", "artist", "regions"))
    ]
    assert widths == [2 + 13, 2 + 13 + 80, 2 + 13 + 80 + 12]
    assert fitted(small(observed=(), groups=("state",))).covariates.groups == ("state",)


def test_a_weekly_shape_depends_on_the_total_and_sums_to_one():
    short, long = np.tile([1.0, 0.0, 0.0, 0.0], (60, 1)), np.tile([40.0, 30.0, 20.0, 10.0], (60, 1))
    shape = WeeklyShape(np.concatenate([short, long, np.zeros((9, 4))]))
    found = shape(np.log10(1 + np.array([1.0, 100.0, 10.0])))
    np.testing.assert_allclose(found[0], [1, 0, 0, 0], atol=1e-9)
    np.testing.assert_allclose(found[1], [0.4, 0.3, 0.2, 0.1], atol=1e-9)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert 0.4 < found[2, 0] < 1
    np.testing.assert_allclose(WeeklyShape(np.zeros((3, HORIZON)))(np.zeros(1)), 1 / HORIZON)


def test_a_missing_lightgbm_is_named(monkeypatch: pytest.MonkeyPatch):
    real = builtins.__import__

    def without(name: str, *rest: Any, **named: Any) -> Any:
        if name == "lightgbm":
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"pip install 'mp3model\[boosted\]'"):
        fitted(Boosted())


def test_an_unknown_form_is_refused():
    with pytest.raises(InputError, match="'tree' is not known"):
        Boosted(form="tree")


@pytest.mark.parametrize("form", ["weeks", "shape"])
def test_trees_that_were_saved_forecast_the_same(form: str, tmp_path):
    baseline, test = fitted(small(form=form)), all_debuts().of_split("test")
    path = tmp_path / "boosted.json.gz"
    baseline.save(path)
    before = path.read_bytes()
    again = Boosted.load(path, covariates_of(small_charts()))
    for observed in (0, 2):
        assert same(baseline.forecast(test, observed), again.forecast(test, observed), observed)
    again.save(path)
    assert path.read_bytes() == before


def test_two_fits_are_averaged_in_log():
    options = {"observed": (0, 2), "rounds": 15}
    alone = [fitted(Boosted("shape", refit=refit, **options)) for refit in (False, True)]
    both = fitted(AveragedBoosted([Boosted("shape", refit=refit, **options) for refit in (False, True)]))
    test = all_debuts().of_split("test")
    for observed in (0, 2):
        parts, told = [each.forecast(test, observed) for each in alone], both.forecast(test, observed)
        assert_forecasts_are_whole(told, test, observed)
        assert not np.array_equal(parts[0].quantiles, parts[1].quantiles)
        floor = known_of(test, alone[0].covariates, observed).floor[:, None]
        logs = [np.log10(1 + part.quantiles / floor) for part in parts]
        np.testing.assert_allclose(np.log10(1 + told.quantiles / floor), (logs[0] + logs[1]) / 2, atol=1e-9)
        np.testing.assert_allclose(told.length, (parts[0].length + parts[1].length) / 2)
    assert both.forecast(test, 1) is None


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: b"\x80\x04pickle", lambda data: b""]
)
def test_damaged_trees_are_refused_by_name(damage, tmp_path):
    path = tmp_path / "boosted.json.gz"
    fitted(small(observed=(0,), form="shape", rounds=2)).save(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=r"boosted\.json\.gz: no whole boosted model"):
        Boosted.load(path, covariates_of(small_charts()))


def test_trees_packed_to_fill_the_memory_are_refused_before_they_do(tmp_path, monkeypatch):
    monkeypatch.setattr("mp3model.baselines.boosted._MOST_BYTES", 10_000)
    path = tmp_path / "boosted.json.gz"
    path.write_bytes(gzip.compress(b" " * 10_000_000))
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=r"boosted\.json\.gz: no whole boosted model .*once unpacked"):
            Boosted.load(path, covariates_of(small_charts()))
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()
