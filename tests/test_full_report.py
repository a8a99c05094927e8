"""One report of every system: its nesting, its leaderboard, its text and files, on the small charts."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from baseline_checks import all_debuts
from small_charts import REGIONS, small_charts

from mp3model.evaluation.accuracy import CurveForecasts
from mp3model.evaluation.curve_scores import curve_draws, known_draws, score_curves
from mp3model.evaluation.forecasts import truth_of
from mp3model.evaluation.full_report import full_report, leader_of, leaderboard, markdown, write_full_report
from mp3model.files import InputError
from mp3model.tables.debuts import Debuts

REPLICATES = 20


def asked() -> Debuts:
    return all_debuts().of_split("train")


def guess(noise: float, observed: int, seed: int = 0, quantiles: bool = True) -> CurveForecasts:
    """The truth times a lognormal error, which its quantiles know of."""
    from scipy.special import ndtri

    true = np.nan_to_num(asked().curves.chart_observed())
    curve = true * np.random.default_rng(seed).lognormal(0, noise, (len(true), 1))
    total = curve[:, observed:].sum(axis=1, keepdims=True)
    spread = total * np.exp(noise * ndtri(np.arange(1, 10) / 10))
    return CurveForecasts(curve, spread if quantiles else None)


@pytest.fixture(scope="module")
def forecasts() -> dict[str, dict[int, CurveForecasts | None]]:
    return {
        "ours": {k: guess(0.4, k) for k in (0, 2)},
        "region median": {k: guess(1.2, k, 1) for k in (0, 2)},
        "carry-forward": {0: None, 2: guess(0.8, 2, 2)},
        "best": {k: guess(0.2, k, 3) for k in (0, 2)},
        "points": {k: guess(2.0, k, 4, quantiles=False) for k in (0, 2)},
    }


@pytest.fixture(scope="module")
def report(forecasts) -> dict[str, Any]:
    without = {k: (forecasts["ours"][k], {"artist": guess(0.9, k, 5)}) for k in (0, 2)}
    return full_report(forecasts, asked(), small_charts(), "train", [0, 2], "ours", without, 0, REPLICATES)


def test_scores_are_nested_by_split_and_target_beside_the_baselines(report, forecasts):
    truth = truth_of(asked().rows, asked().curves)
    for observed, target in ((0, "total"), (2, "remaining_2")):
        scores = report["train"][target]
        told = score_curves(truth, forecasts["ours"][observed], observed, 0, REPLICATES)
        for name, value in told.items():
            assert scores[name] == pytest.approx(value, abs=1e-9), name
        assert scores["n_songs"] <= scores["n_rows"]
        assert report["baselines"]["best"]["train"][target]["crps_logfloor"] < scores["crps_logfloor"]
        assert set(report["slices"]["train"][target]) == {"region", "decile", "forecast", "month", "kind"}
        assert set(report["slices"]["train"][target]["region"]) == set(REGIONS)
        assert report["inputs"]["train"][target]["artist"]["value"] > 0
    assert set(report["baselines"]["carry-forward"]["train"]) == {"remaining_2"}
    assert set(report["reliability"]["train"]["total"]) == {"ours", "region median", "best"}


def test_the_leaderboard_is_by_error_with_differences_from_the_best_and_from_the_best_floor(report):
    board = report["leaderboard"]["train"]["remaining_2"]
    assert board["order"][:2] == ["best", "ours"]
    assert board["order"][-1] == "points"
    assert (board["best"], board["best_floor"]) == ("best", "carry-forward")
    assert report["leaderboard"]["train"]["total"]["best_floor"] == "region median"
    less = board["less_best_floor"]
    assert set(less) == {"best", "ours", "region median", "points"}
    scores = report["train"]["remaining_2"]
    floor = report["baselines"]["carry-forward"]["train"]["remaining_2"]
    assert less["ours"]["error"]["value"] == pytest.approx(scores["crps_logfloor"] - floor["crps_logfloor"])
    assert less["ours"]["wape"]["value"] == pytest.approx(scores["wape"] - floor["wape"])
    assert less["ours"]["error"]["low"] < less["ours"]["error"]["value"] < less["ours"]["error"]["high"] < 0
    assert all(values["error"]["value"] > 0 for values in board["less_best"].values())
    # A point is scored by its absolute error, which is the same score.
    points = report["baselines"]["points"]["train"]["remaining_2"]
    assert "crps_logfloor" not in points
    assert less["points"]["error"]["value"] == pytest.approx(points["mae_logfloor"] - floor["crps_logfloor"])


def test_without_a_floor_there_is_no_difference_from_one(forecasts):
    truth = truth_of(asked().rows, asked().curves)
    draws = known_draws(truth, 0, replicates=5)
    drawn = {name: curve_draws(truth, forecasts[name][0], 0, draws) for name in ("ours", "best")}
    board = leaderboard(drawn)
    assert board["best_floor"] is None
    assert board["less_best_floor"] == {}


def test_the_text_has_a_section_for_each_and_all_is_written(report, tmp_path):
    table = write_full_report(report | {"left_out": {"probe": "no x_* column"}, "failed": {}}, tmp_path)
    text = (tmp_path / "report.md").read_text()
    for words in (
        "# ours and 4 other systems on the train split",
        "Nothing observed",
        "2 observed",
        "By region",
        "decile",
        "By month",
    ):
        assert words in text
    for words in ("Christmas", "open later", "new artists", "Reliability", "worth", "recall@100", "Not here: probe ("):
        assert words in text
    scores = report["train"]["total"]
    assert f"{scores['n_songs']} songs, {scores['n_rows']} debuts, {scores['n_artists']} artists" in text
    board = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| ")]
    assert board.index("| best") < board.index("| ours") < board.index("| region median")
    assert table + "\n" == (tmp_path / "table.txt").read_text()
    content = json.loads((tmp_path / "report.json").read_text())
    assert {"leaderboard.png", "error_by_observed.png", "slices.png", "inputs.png"} <= set(content["pictures"])
    for name in content["pictures"]:
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
        assert f"({name})" in text
    assert "What comes after" in markdown(report | {"audit": {"summary": "nothing moved", "rows": []}})


def test_slices_compare_the_leader_with_the_others_wherever_it_stands_among_them(forecasts):
    found = full_report(forecasts, asked(), small_charts(), "train", [0], "best", replicates=2)
    differences = found["slices"]["train"]["total"]["kind"]["other artists"]["differences"]
    assert set(differences) == {"ours", "region median", "points"} == set(found["differences"]["train"]["total"])
    assert differences["region median"]["value"] < 0
    assert found["inputs"] == {"train": {"total": {}}}


def test_the_leader_is_the_first_that_can_always_forecast(forecasts):
    assert leader_of({name: forecasts[name] for name in ("carry-forward", "best", "ours")}, [0, 2]) == "best"
    assert leader_of({"carry-forward": forecasts["carry-forward"]}, [2]) == "carry-forward"
    with pytest.raises(InputError, match="none of carry-forward"):
        leader_of({"carry-forward": forecasts["carry-forward"]}, [0, 2])
    with pytest.raises(InputError, match="--observed 0: carry-forward"):
        full_report(forecasts, asked(), small_charts(), "train", [0], "carry-forward", replicates=2)
