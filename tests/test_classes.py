"""Accuracy and macro-F1 by artist: values by hand, intervals that hold what they should, the table."""

from __future__ import annotations

import numpy as np
import pytest

from mp3model.baselines.spectrogram_cnn import class_scores
from mp3model.evaluation.bootstrap import Draws
from mp3model.evaluation.classes import class_draws, class_report, class_table
from mp3model.files import InputError

TRUE = np.array([0, 0, 1, 1, 1, 2])


def test_the_sample_itself_has_the_scores_of_one_pass():
    predicted = np.array([0, 1, 1, 1, 2, 2])
    found = class_draws(TRUE, predicted, Draws(np.arange(6), 0))
    told = class_scores(TRUE, predicted, 1)
    assert found["accuracy"][0] == pytest.approx(4 / 6)
    assert found["macro_f1"][0] == pytest.approx((2 / 3 + 4 / 6 + 2 / 3) / 3)
    assert found["macro_f1"][0] == pytest.approx(told["macro_f1"])


def test_each_draw_is_scored_as_if_its_rows_were_all_there_is():
    generator = np.random.default_rng(0)
    true, predicted, artist = generator.integers(0, 3, 40), generator.integers(0, 3, 40), np.arange(40) // 5
    draws = Draws(artist, 30, seed=3)
    found = class_draws(true, predicted, draws)
    for place, weights in enumerate(draws.weights(np.arange(40))):
        rows = np.repeat(np.arange(40), weights.astype(int))
        told = class_scores(true[rows], predicted[rows], 0)
        assert found["accuracy"][place] == pytest.approx(told["accuracy"])
        assert found["macro_f1"][place] == pytest.approx(told["macro_f1"])


def test_a_system_that_knows_is_better_than_the_majority_and_one_that_guesses_is_not():
    generator = np.random.default_rng(1)
    true = generator.choice(3, 300, p=[0.2, 0.5, 0.3])
    predicted = {
        "guess": generator.choice(3, 300, p=[0.2, 0.5, 0.3]),
        "majority class": np.ones(300, dtype=int),
        "knows": np.where(generator.random(300) < 0.8, true, 1),
    }
    report = class_report(true, predicted, np.arange(300) // 6, "guess", "majority class")
    apart = report["differences"]["test"]["classes"]
    assert set(apart) == {"guess", "knows"}
    assert apart["knows"]["accuracy"]["low"] > 0
    assert apart["guess"]["accuracy"]["high"] < 0
    assert report["baselines"]["knows"]["test"]["classes"]["n_artists"] == 50
    rows = class_table(report).splitlines()
    assert [row.split("  ")[0] for row in rows[1:]] == ["knows", "majority class", "guess"]
    low, high = report["test"]["classes"]["accuracy_ci"]
    assert f"{report['test']['classes']['accuracy']:.3f} [{low:.3f} {high:.3f}]" in rows[3]


def test_predictions_of_other_rows_are_refused():
    with pytest.raises(InputError, match="give one each"):
        class_draws(TRUE, TRUE[:4], Draws(np.arange(6), 0))
