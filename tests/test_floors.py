"""The simple baselines: means by hand, ridges against a penalty search that leaves out one row at a time."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import Ridge

from mp3model.baselines.floors import PENALTIES, RegionMean, RidgeOnMeanLogMel
from mp3model.files import InputError


def market(n: int = 40, d: int = 6, noise: float = 0.1, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Songs in two regions with opposite tastes; features on very different scales."""
    rng = np.random.default_rng(seed)
    scales = 10.0 ** np.arange(d)
    features = pd.DataFrame(rng.normal(size=(n, d)) * scales + 5, index=[f"s{i}" for i in range(n)])
    taste = rng.normal(size=d)
    parts = [
        pd.DataFrame(
            {"song_id": features.index, "region": region, "true": level + sign * (features.to_numpy() / scales) @ taste}
        )
        for region, level, sign in (("US", 7.0, 1), ("JP", 4.0, -1))
    ]
    frame = pd.concat(parts, ignore_index=True)
    return frame.assign(true=frame["true"] + noise * rng.normal(size=len(frame))), features


def test_the_region_mean_is_the_mean_of_each_regions_training_rows():
    train = pd.DataFrame({"region": ["US", "US", "GB", "GB"], "total": [1.0, 3.0, 10.0, np.nan]})
    floor = RegionMean().fit(train, "total")
    predicted = floor.predict(pd.DataFrame({"region": ["GB", "US", "US"]}))
    assert predicted.tolist() == [10, 2, 2]


def test_the_region_mean_refuses_what_it_has_not_seen():
    floor = RegionMean().fit(pd.DataFrame({"region": ["US", "GB"], "true": [1.0, 2.0]}))
    with pytest.raises(InputError, match="region JP had no training rows: leave its rows out; known are GB, US"):
        floor.predict(pd.DataFrame({"region": ["US", "JP"]}))
    with pytest.raises(InputError, match="none of the 1 training rows has a true"):
        RegionMean().fit(pd.DataFrame({"region": ["US"], "true": [np.nan]}))


def test_a_ridge_finds_the_taste_of_each_region():
    frame, features = market(60)
    train, test = frame[frame["song_id"].isin(features.index[:45])], frame[frame["song_id"].isin(features.index[45:])]
    predicted = RidgeOnMeanLogMel(features).fit(train).predict(test)
    for region in ("US", "JP"):
        rows = (test["region"] == region).to_numpy()
        assert np.corrcoef(predicted[rows], test["true"][rows])[0, 1] > 0.99
        assert np.abs(predicted[rows] - test["true"][rows]).mean() < 0.2


def test_the_penalty_is_the_one_that_leaving_out_one_row_prefers():
    frame, features = market(20, noise=1.5)
    frame = frame[frame["region"] == "US"]
    ridge = RidgeOnMeanLogMel(features).fit(frame)
    x, y = features.to_numpy(), frame["true"].to_numpy()
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    errors = []
    for penalty in PENALTIES:
        left_out = [i != np.arange(20) for i in range(20)]
        errors.append(np.mean([(Ridge(penalty).fit(x[o], y[o]).predict(x[~o])[0] - y[~o][0]) ** 2 for o in left_out]))
    best = PENALTIES[np.argmin(errors)]
    assert 0 < np.argmin(errors) < len(PENALTIES) - 1
    np.testing.assert_allclose(ridge.predict(frame), Ridge(best).fit(x, y).predict(x), rtol=1e-6)


def test_noise_alone_gives_nearly_the_mean():
    frame, features = market(100, noise=0.0)
    frame["true"] = np.random.default_rng(1).normal(size=len(frame))
    predicted = RidgeOnMeanLogMel(features).fit(frame).predict(frame)
    assert predicted.std() < 0.4


def test_songs_outside_training_change_nothing():
    frame, features = market(30)
    train, test = frame[frame["song_id"].isin(features.index[:20])], frame[frame["song_id"].isin(features.index[20:25])]
    before = RidgeOnMeanLogMel(features).fit(train).predict(test)
    changed = features.copy()
    changed.iloc[25:] *= 1000
    np.testing.assert_array_equal(RidgeOnMeanLogMel(changed).fit(train).predict(test), before)
    shuffled = RidgeOnMeanLogMel(features.sample(frac=1, random_state=0)).fit(train)
    np.testing.assert_allclose(shuffled.predict(test), before, rtol=1e-9)


def test_a_constant_feature_does_no_harm():
    frame, features = market(30)
    predicted = RidgeOnMeanLogMel(features.assign(silent=0.0)).fit(frame).predict(frame)
    np.testing.assert_allclose(predicted, RidgeOnMeanLogMel(features).fit(frame).predict(frame))


def test_rows_without_a_target_are_left_out():
    frame, features = market(30)
    missing = frame["song_id"].isin(features.index[:10])
    found = RidgeOnMeanLogMel(features).fit(frame.assign(true=frame["true"].mask(missing))).predict(frame)
    np.testing.assert_array_equal(found, RidgeOnMeanLogMel(features).fit(frame[~missing]).predict(frame))


def test_too_few_rows_are_an_error_not_a_mean():
    frame, features = market(10)
    few = frame[(frame["region"] == "US") | frame["song_id"].isin(features.index[:4])]
    with pytest.raises(InputError, match="region JP has 4 training rows with a true; a ridge needs 5"):
        RidgeOnMeanLogMel(features).fit(few)
    with pytest.raises(InputError, match="region US has 0 training rows with a true"):
        RidgeOnMeanLogMel(features).fit(frame.assign(true=frame["true"].where(frame["region"] == "JP")))


def test_songs_and_features_that_do_not_fit_are_refused():
    frame, features = market(10)
    with pytest.raises(InputError, match="song 's9' has no features"):
        RidgeOnMeanLogMel(features.iloc[:9]).fit(frame)
    ridge = RidgeOnMeanLogMel(features).fit(frame)
    with pytest.raises(InputError, match="song 'new' has no features"):
        ridge.predict(frame.assign(song_id="new"))
    with pytest.raises(InputError, match="region GB had no training rows"):
        ridge.predict(frame.assign(region="GB"))
    with pytest.raises(InputError, match="song 's0' has two rows of features"):
        RidgeOnMeanLogMel(pd.concat([features, features.iloc[[0]]]))
    with pytest.raises(InputError, match="song 's3' has features that are not finite"):
        RidgeOnMeanLogMel(features.assign(silent=np.where(features.index == "s3", np.nan, 1.0)))
