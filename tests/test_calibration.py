"""From what a system missed to the distribution it should have given."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mp3model.evaluation.accuracy import LEVELS, QUANTILES
from mp3model.evaluation.calibration import MINIMUM_ROWS, quantiles_of_rows, with_residual_quantiles


def rows(region: str, missed: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame({"region": region, "true": 5.0 + missed, "predicted": 5.0})


def test_a_prediction_gets_the_spread_of_what_its_region_missed():
    held_out = pd.concat([rows("US", np.linspace(-1, 1, 101)), rows("GB", np.linspace(-4, 4, 101))])
    asked = pd.DataFrame({"region": ["US", "GB"], "predicted": [10.0, 20.0]})
    given = with_residual_quantiles(asked, held_out)[list(QUANTILES)].to_numpy()
    assert given[0] == pytest.approx(10 + np.linspace(-0.8, 0.8, 9))
    assert given[1] == pytest.approx(20 + np.linspace(-3.2, 3.2, 9))


def test_a_region_with_few_or_no_rows_takes_those_of_all():
    few = rows("JP", np.full(MINIMUM_ROWS - 1, 9.0))
    many = rows("US", np.linspace(-1, 1, 401))
    quantiles = quantiles_of_rows(pd.concat([few, many]))
    assert np.array_equal(quantiles["JP"], quantiles[""])
    assert not np.array_equal(quantiles["US"], quantiles[""])
    asked = pd.DataFrame({"region": ["BR"], "predicted": [0.0]})
    assert np.isfinite(with_residual_quantiles(asked, many)[list(QUANTILES)].to_numpy()).all()


def test_intervals_cover_what_they_say_on_new_songs():
    random = np.random.default_rng(0)
    held_out, fresh = rows("US", random.standard_t(4, 2000)), rows("US", random.standard_t(4, 4000))
    given = with_residual_quantiles(fresh, held_out)
    for level, name in zip(LEVELS, QUANTILES, strict=True):
        assert (given["true"] <= given[name]).mean() == pytest.approx(level, abs=0.03)
