"""In the top N next month: the question, its features and scores against slow twins on a small chart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_charts import HORIZON, SIZE, future_changed, small_charts, week

from mp3model.baselines.araujo import TopQuestion, _auc, _scores, top_next_month
from mp3model.evaluation.forecasts import CurvePaths
from mp3model.files import InputError
from mp3model.tables.curves import taken
from mp3model.tables.debuts import debut_rows, debuts_of

TOP = 4
QUESTION = TopQuestion(TOP, 4, 4)


def debuts(dataset=None):
    return debuts_of(dataset or small_charts(), debut_rows(small_charts()), HORIZON)


def paths_of(noise: float, observed: int = 4, split: str = "test") -> CurvePaths:
    """Paths that are the truth times noise; the observed periods as they were."""
    part = debuts().of_split(split)
    generator = np.random.default_rng(0)
    streams = np.nan_to_num(part.curves.chart_observed())[:, None] * generator.lognormal(
        0, noise, (len(part.rows), 40, 1)
    )
    return CurvePaths(part.rows.assign(observed=observed), streams, "W", np.full((len(part.rows), 40), np.nan))


def test_a_song_is_in_the_top_if_any_of_the_next_four_charts_says_so():
    part = debuts()
    inside, known = QUESTION.answers(part.curves)
    assert 0.05 < inside[known].mean() < 0.8
    for row in range(len(part.rows)):
        ranks = part.curves.rank[row, 4:8]
        if known[row]:
            assert inside[row] == any(rank <= TOP for rank in ranks if np.isfinite(rank))
        else:
            assert np.isnan(part.curves.chart_observed()[row]).any()


def test_a_song_on_the_chart_with_an_unknown_rank_is_unknown():
    part = debuts().of_split("test")
    hidden = taken(part.curves, np.arange(len(part.rows)))
    row = int(np.flatnonzero(np.isfinite(hidden.rank[:, 5]) & QUESTION.answers(hidden)[1])[0])
    hidden.rank[row, 5] = np.nan
    assert not QUESTION.answers(hidden)[1][row]


def test_features_read_the_observed_periods_alone():
    part = debuts().of_split("test")
    later = taken(part.curves, np.arange(len(part.rows)))
    for values in (later.streams, later.rank, later.lowest):
        values[:, 4:] = 3.0
    later.charted[:, 4:], later.state[:, 4:] = True, 0
    regions = ["GB", "US"]
    features = QUESTION.features(part, regions)
    np.testing.assert_array_equal(features, QUESTION.features(replace(part, curves=later), regions))
    assert np.isfinite(features).all()
    assert features.shape[1] == 4 + 4 + 4 + 2
    on_top = np.flatnonzero(part.curves.rank[:, 0] == 1)
    assert (features[on_top, 4] == np.log2(TOP)).all()
    assert (features[np.isnan(part.curves.rank[:, 0]), 4] == -4).all()


def test_true_paths_answer_right_and_the_svm_beats_the_majority():
    found = top_next_month(small_charts(), paths_of(0.0), top=TOP, replicates=50)
    assert found["question"] == {"top": TOP, "observed": 4, "month": 4}
    part = debuts().of_split("test")
    inside, known = QUESTION.answers(part.curves)
    assert found["n_rows"] == known.sum()
    assert found["share_in_top"] == pytest.approx(inside[known].mean())
    assert found["majority"]["auc"] == 0.5
    assert found["majority"]["accuracy"] == pytest.approx(max(inside[known].mean(), 1 - inside[known].mean()))
    # Ranks are read from the chart before the cut-off, not from that of the day: even the truth is wrong at times.
    assert found["paths"]["accuracy"] > found["majority"]["accuracy"]
    assert found["svm"]["auc"] > 0.6
    assert found["svm"]["accuracy"] >= found["majority"]["accuracy"]
    for system in ("majority", "svm", "paths"):
        for measure in ("accuracy", "auc", "f1"):
            low, high = found[system][f"{measure}_ci"]
            assert low <= high
    assert found["svm"]["accuracy_ci"][0] < found["svm"]["accuracy"] < found["svm"]["accuracy_ci"][1]


def test_paths_of_other_songs_tell_less():
    true = paths_of(0.3)
    turned = CurvePaths(true.rows, np.roll(true.streams, 7, axis=0), "W", true.debut_rank)
    right, wrong = (top_next_month(small_charts(), paths, top=TOP, replicates=0)["paths"] for paths in (true, turned))
    assert right["auc"] > 0.7 > wrong["auc"]
    assert right["accuracy"] > wrong["accuracy"]
    assert right["accuracy_ci"] is None


def test_more_streams_than_the_rank_had_on_the_last_chart_are_in_the_top():
    part = debuts().of_split("test")
    curves = small_charts().curves
    assert curves is not None
    for factor, expected in ((1.001, True), (0.5, False)):
        streams = np.zeros((len(part.rows), 3, HORIZON))
        for row in range(len(part.rows)):
            day = part.rows["debut"][row] + pd.Timedelta(weeks=3)
            chart = curves[(curves["region"] == part.rows["region"][row]) & (curves["date"] <= day)]
            chart = chart[(chart["date"] == chart["date"].max()) & (chart["rank"] == TOP)]
            streams[row, :, 6] = factor * chart["streams"].iloc[0]
        paths = CurvePaths(part.rows.assign(observed=4), streams, "W", streams[:, :, 0])
        inside, known = QUESTION.answers(part.curves)
        found = top_next_month(small_charts(), paths, top=TOP, replicates=0)["paths"]
        always = inside[known].mean()
        if expected:
            assert found["accuracy"] == pytest.approx(always)
        else:
            assert found["accuracy"] > 1 - always - 0.2


def test_what_comes_after_the_last_asked_period_changes_nothing():
    day = week(45)
    answers = []
    for dataset in (small_charts(), future_changed(small_charts(), day, 1)):
        rows = debut_rows(small_charts())
        over = rows["debut"] + pd.Timedelta(weeks=HORIZON - 1) <= pd.Timestamp(day)
        early = rows[over].assign(split=np.where(np.arange(over.sum()) % 3, "train", "test"))
        splits = early[["track_id", "region", "debut", "split"]]
        answers.append(top_next_month(replace(dataset, splits=splits), top=TOP, replicates=5)["svm"])
    assert answers[0] == answers[1]


def test_rows_without_paths_are_left_out_of_every_score():
    whole = paths_of(0.0)
    kept = np.arange(len(whole.rows)) % 2 == 0
    half = CurvePaths(whole.rows[kept], whole.streams[kept], "W", whole.debut_rank[kept])
    found = top_next_month(small_charts(), half, top=TOP, replicates=0)
    known = QUESTION.answers(debuts().of_split("test").curves)[1]
    assert found["n_rows"] == (known & kept).sum()


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=25),
)
def test_the_auc_is_that_of_all_weighted_pairs(rows: list):
    true, margin, weight = (np.array(column) for column in zip(*rows, strict=True))
    right = pairs = 0.0
    for t, m, w in rows:
        for other, n, v in rows:
            if t and not other:
                pairs += w * v
                right += w * v * (1.0 if m > n else 0.5 if m == n else 0.0)
    found = _auc(true.astype(bool), margin, weight)
    if pairs == 0:
        assert np.isnan(found)
    else:
        assert found == pytest.approx(right / pairs)


def test_scores_by_hand():
    true = np.array([True, True, False, False, True])
    margin = np.array([1.0, -1.0, 2.0, -2.0, 3.0])
    found = _scores(true, margin, np.ones((1, 5)))
    assert found["accuracy"] == pytest.approx(3 / 5)
    assert found["f1"] == pytest.approx(2 * 2 / (3 + 3))
    assert found["auc"] == pytest.approx(4 / 6)


def test_what_cannot_be_asked_is_refused():
    with pytest.raises(InputError, match="6 observed periods and 4 asked for are not within the horizon of 8"):
        top_next_month(small_charts(), observed=6)
    with pytest.raises(InputError, match="paths have 3 observed periods, the question 4"):
        top_next_month(small_charts(), paths_of(0.0, observed=3), top=TOP)
    with pytest.raises(InputError, match="no known test row has a path"):
        top_next_month(small_charts(), paths_of(0.0, split="validation"), top=TOP)
    with pytest.raises(InputError, match="training rows are in the top 0"):
        top_next_month(small_charts(), top=0)
    assert SIZE > TOP
