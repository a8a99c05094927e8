"""A market's own forecasts beside others': the same rows, log10 totals, and skill between climatology and oracle."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mp3model.evaluation.accuracy import QUANTILES
from mp3model.evaluation.oracle import (
    oracle_curve_forecasts,
    oracle_curve_scores,
    oracle_curves,
    oracle_frames,
    oracle_skill,
    true_streams,
)
from mp3model.evaluation.report import closing_table, scalar_report
from mp3model.files import InputError
from mp3model.tables.folder import DatasetFolder


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


HORIZON = 4
DATES = pd.date_range("2021-01-07", periods=10, freq="7D").as_unit("s")


@pytest.fixture
def curve_market(tmp_path):
    """Three songs of one region, of which the oracle knows the curve; the last has two versions."""
    streams = {"s0": [400, 300, 0, 0], "s1": [200, 0, 500, 0], "s2": [900, 800, 700, 600]}
    truth, shown, told, totals = [], [], [], []
    for song, curve in streams.items():
        for week, charted in enumerate(curve):
            truth.append((f"{song}a", "US", DATES[3 + week], float(charted or 50)))
            if charted:
                shown.append((f"{song}a", "US", DATES[3 + week], float(charted), 1))
            for inputs, error in (("audio+history", 0.0), ("audio", 100.0)):
                spread = [max(charted + error + 0.1 * (level - 4), 0.0) for level in range(9)]
                told.append((song, "US", inputs, week, 40, charted + error, *spread))
        for target, value in (("total", sum(curve)), ("debut_rank", 1), ("length", sum(x > 0 for x in curve))):
            totals += [(song, "US", target, inputs, *[value] * 9) for inputs in ("audio+history", "audio")]
    truth += [
        ("s2a", "US", DATES[2], 70.0),
        ("s2b", "US", DATES[4], 30.0),
        ("s2b", "US", DATES[8], 30.0),
        ("s2a", "GB", DATES[4], 99.0),
    ]
    (tmp_path / "truth").mkdir()
    columns = ["song_id", "region", "inputs", "week", "runs", "mean", *QUANTILES]
    pd.DataFrame(told, columns=columns).sample(frac=1, random_state=0).to_parquet(
        tmp_path / "truth" / "oracle_curves.parquet"
    )
    columns = ["song_id", "region", "target", "inputs", *QUANTILES]
    pd.DataFrame(totals, columns=columns).to_parquet(tmp_path / "truth" / "oracle.parquet")
    keys = ["track_id", "region", "date", "streams"]
    pd.DataFrame(truth, columns=keys).to_parquet(tmp_path / "truth" / "curves.parquet")
    tracks = pd.DataFrame({"track_id": ["s0a", "s1a", "s2a", "s2b"], "song_id": ["s0", "s1", "s2", "s2"]})
    curves = pd.DataFrame(shown, columns=[*keys, "rank"]).astype({"rank": "Int32"})
    charts = pd.DataFrame({"region": "US", "date": DATES, "floor": 100.0, "lowest": 100.0, "size": 3})
    splits = pd.DataFrame({"track_id": ["s2a", "s0a", "s1a"], "region": "US", "debut": DATES[3], "split": "test"})
    tracks = tracks.assign(artist=["x", "y", "z", "z"], title="t", isrc=None, release_date=DATES[3])
    info = {"frequency": "W", "horizon": HORIZON}
    return DatasetFolder(tmp_path, info, tracks=tracks, curves=curves, charts=charts, splits=splits)


def test_curves_come_in_the_order_of_the_rows_asked_for(curve_market):
    rows = pd.DataFrame({"song_id": ["s2", "s0"], "region": "US"})
    curves = oracle_curves(curve_market.path, rows)
    assert curves.mean.tolist() == [[900, 800, 700, 600], [400, 300, 0, 0]]
    assert curves.quantiles.shape == (2, HORIZON, 9)
    assert curves.quantiles[0, 1] == pytest.approx(800 + 0.1 * np.arange(-4, 5))
    assert curves.runs.tolist() == [40, 40]
    assert oracle_curves(curve_market.path, rows, "oracle_audio").mean[1].tolist() == [500, 400, 100, 100]


def test_the_median_curve_and_the_totals_are_forecasts_like_any_other(curve_market):
    forecasts = oracle_curve_forecasts(curve_market.path, pd.DataFrame({"song_id": ["s1"], "region": ["US"]}))
    assert forecasts.curve.tolist() == [[200, 0, 500, 0]]
    assert forecasts.total.tolist() == [700]
    assert forecasts.quantiles.shape == (1, 9)
    assert forecasts.length.tolist() == [2]


def test_the_error_of_the_oracles_curve_is_that_of_its_median(curve_market):
    knowing = oracle_curve_scores(curve_market, replicates=20)
    assert knowing["wape"] == 0
    assert knowing["n_rows"] == 3
    deaf = oracle_curve_scores(curve_market, oracle="oracle_audio", replicates=20)
    # Off by 100 in each of 12 cells, of 4,400 streams in all.
    assert deaf["wape"] == pytest.approx(100 * 1200 / 4400)
    assert 0 < knowing["crps_periods_logfloor"] < deaf["crps_periods_logfloor"]
    assert knowing["crps_periods"] < deaf["crps_periods"]


def test_an_oracle_asked_of_what_it_cannot_know_says_so(curve_market, tmp_path):
    rows = pd.DataFrame({"song_id": ["s9"], "region": ["US"]})
    with pytest.raises(InputError, match="s9"):
        oracle_curves(curve_market.path, rows)
    with pytest.raises(InputError, match="prophet"):
        oracle_curves(curve_market.path, rows, "prophet")
    with pytest.raises(InputError, match="validation"):
        oracle_curve_scores(curve_market, "validation")
    with pytest.raises(InputError, match="no such file"):
        oracle_curves(tmp_path / "elsewhere", rows)
    with pytest.raises(InputError, match="no such file"):
        true_streams(tmp_path / "elsewhere", curve_market.tracks, rows, HORIZON)


def test_true_streams_go_below_the_chart_and_add_up_versions(curve_market):
    streams = true_streams(curve_market.path, curve_market.tracks, curve_market.splits, HORIZON)
    assert streams.tolist() == [[900, 830, 700, 600], [400, 300, 50, 50], [200, 50, 500, 50]]
    # A song that came a week earlier changes nothing for the others.
    rows = curve_market.splits.assign(debut=[DATES[3], DATES[2], DATES[3]])
    streams = true_streams(curve_market.path, curve_market.tracks, rows, HORIZON)
    assert streams.tolist() == [[900, 830, 700, 600], [0, 400, 300, 50], [200, 50, 500, 50]]
