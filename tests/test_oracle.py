"""A market's own forecasts beside others': the same rows, log10 totals, and skill between climatology and oracle."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mp3model.evaluation.accuracy import QUANTILES
from mp3model.evaluation.oracle import oracle_frames, oracle_skill
from mp3model.evaluation.report import closing_table, scalar_report


@pytest.fixture
def market(tmp_path):
    """60 songs whose oracle knows the total up to a factor, written as a market writes it."""
    random = np.random.default_rng(0)
    heard = random.normal(6.0, 0.5, 60)
    rows = pd.DataFrame(
        {
            "song_id": [f"s{number}" for number in range(60)],
            "artist": [f"a{number // 2}" for number in range(60)],
            "region": "US",
            "true": heard + random.normal(0, 0.2, 60),
        }
    )
    told = pd.DataFrame({"song_id": rows["song_id"], "region": "US", "target": "total"})
    for place, name in enumerate(QUANTILES):
        told[name] = 10 ** (heard + 0.07 * (place - 4)) - 1
    both = pd.concat([told.assign(inputs="audio"), told.assign(inputs="audio+history")])
    (tmp_path / "truth").mkdir()
    both.sample(frac=1, random_state=0).to_parquet(tmp_path / "truth" / "oracle.parquet")
    return tmp_path, rows, heard


def test_a_dataset_without_hidden_truth_has_no_oracle(tmp_path):
    assert oracle_frames(tmp_path, {"total": {}}) == {}


def test_the_oracle_speaks_of_the_same_rows_in_log10(market):
    folder, rows, heard = market
    frames = oracle_frames(folder, {"total": {"mp2": rows.assign(predicted=0.0)}})
    assert set(frames["total"]) == {"oracle", "oracle_audio"}
    frame = frames["total"]["oracle"]
    assert list(frame["song_id"]) == list(rows["song_id"])
    assert frame["predicted"].to_numpy() == pytest.approx(heard)


def test_a_report_has_scores_differences_and_the_oracle_in_one_nesting(market):
    folder, rows, heard = market
    systems = {"mp2": rows.assign(predicted=heard), "region_mean": rows.assign(predicted=6.0)}
    frames = {"test": {"total": systems}}
    report = scalar_report(frames, {"test": oracle_frames(folder, frames["test"])}, "mp2")
    assert report["test"]["total"]["spearman"] == pytest.approx(report["oracle"]["test"]["total"]["spearman"])
    assert report["baselines"]["region_mean"]["test"]["total"]["spearman"] == 0
    difference = report["differences"]["test"]["total"]["region_mean"]["spearman"]
    assert difference["low"] > 0.8
    table = closing_table(report)
    assert "oracle audio" in table
    assert "MP2 less region mean, mae" in table


def test_one_who_hears_half_lies_between_the_climatology_and_the_oracle(market):
    folder, rows, heard = market
    systems = {
        "mp2": rows.assign(predicted=6.0 + 0.5 * (heard - 6.0)),
        "perfect": rows.assign(predicted=heard),
        "region_mean": rows.assign(predicted=6.0),
    }
    skill = oracle_skill(systems, systems, oracle_frames(folder, {"total": systems})["total"], rows)
    assert skill["climatology"]["skill"] == 0
    assert skill["oracle"]["skill"] == 1
    assert 0.2 < skill["mp2"]["skill"] < skill["perfect"]["skill"]
    assert skill["perfect"]["skill"] == pytest.approx(1, abs=0.15)
    assert "region_mean" not in skill
