"""recipes/mp3.py and recipes/forecast.py end to end, by the command lines that a user types."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from mp3model.evaluation.accuracy import QUANTILES
from mp3model.evaluation.curve_scores import score_curves
from mp3model.evaluation.forecasts import truth_of
from mp3model.files import InputError
from mp3model.serving.forecaster import Forecaster
from mp3model.tables.debuts import debut_rows, debuts_of
from mp3model.tables.folder import read_dataset
from mp3model.tables.walks import LEAST_WALKS, lowest_walks
from mp3model.training.forecasting import forecaster_of

ROOT = Path(__file__).resolve().parent.parent
SMALL = ["--width", "16", "--layers", "1", "--heads", "2", "--paths", "20", "--loader_workers", "0", "--log_every", "1"]
SMALL += ["--batch_size", "16", "--windows", "1", "--audio_segments", "2", "--observed", "0", "2", "--ema", "0.9"]
ENVIRONMENT = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def command(recipe: str, *words: str, processes: int = 1) -> list[str]:
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    return [*launcher, str(ROOT / "recipes" / f"{recipe}.py"), *map(str, words)]


def run(recipe: str, *words: str, processes: int = 1, check: bool = True) -> subprocess.CompletedProcess:
    done = subprocess.run(
        command(recipe, *words, processes=processes),
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        check=False,
        timeout=280,
    )
    if check:
        assert done.returncode == 0, done.stderr[-3000:]
    return done


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.fixture(scope="module")
def market(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("markets") / "market"
    words = ["--songs", "60", "--seed", "3", "--oracle-runs", "16", "--workers", "1", "--out", str(folder)]
    subprocess.run([sys.executable, "-m", "data_prep.market", *words], check=True, capture_output=True, env=ENVIRONMENT)
    return folder


@pytest.fixture(scope="module")
def mp2(market, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "mp2"
    words = ["--frames", "120", "--patch_size", "32", "16", "--patch_stride", "32", "16", "--folds", "0"]
    run("mp2", "--data", market, "--output_dir", folder, *words, "--epochs", "1", "--windows", "1", "--size", "micro")
    return folder / "model"


@pytest.fixture(scope="module")
def finished(market, mp2, tmp_path_factory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("runs") / "mp3"
    done = run("mp3", "--data", market, "--mp2", mp2, "--output_dir", folder, *SMALL, "--epochs", "2")
    return folder, done.stdout


def test_a_run_leaves_a_model_that_knows_its_regions_and_a_report_with_floors_and_skill(finished):
    folder, printed = finished
    config = json.loads((folder / "model" / "config.json").read_text())
    assert set(config["region_states"]) == set(config["regions"]) == set(config["rank_curves"])
    assert config["calibration"]["spread"][""][0] > 0
    # Every song of a market has a date, so the release is told without being asked for.
    assert config["covariates"] == ["state", "artist", "regions", "release"]
    assert "covariates state artist regions release;" in printed
    report = json.loads((folder / "report.json").read_text())
    for target in ("total", "remaining_2"):
        assert report["validation"][target]["crps"] > 0
        low, high = report["test"][target]["crps_logfloor_ci"]
        assert low <= report["test"][target]["crps_logfloor"] <= high
        assert len(report["differences"]["test"][target]) >= 2
        assert report["baselines"]["region median"]["test"][target]["wape"] > 0
    # Nothing can be carried forward before anything was seen.
    assert set(report["baselines"]["carry-forward"]["test"]) == {"remaining_2"}
    assert set(report["skill"]["test"]["total"]) == {"oracle_audio", "oracle"}
    assert (folder / "table.txt").read_text().strip() in printed


def test_the_model_keeps_walks_of_the_charts_that_training_has_seen(finished, market):
    folder, _ = finished
    dataset, config = read_dataset(market), json.loads((folder / "model" / "config.json").read_text())
    rows = debut_rows(dataset)
    until = rows.loc[rows["split"] == "train", "debut"].max() + pd.Timedelta(weeks=config["horizon"])
    early = replace(dataset, charts=dataset.charts[dataset.charts["date"] <= until])
    assert len(early.charts) < len(dataset.charts)
    kept = load_file(folder / "model" / "model.safetensors")["lowest_walks"].numpy()
    assert kept.shape == (len(config["regions"]) + 1, config["lowest_walks"], config["horizon"])
    assert kept.shape[1] >= LEAST_WALKS
    np.testing.assert_array_equal(kept, lowest_walks(early, config["regions"], config["horizon"], "2100-01-01"))


def test_resuming_a_finished_run_prints_its_table_again_and_another_run_is_never_written_over(finished, market, mp2):
    folder, _ = finished
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    words = ["--data", market, "--mp2", mp2, "--output_dir", folder, *SMALL, "--epochs", "2"]
    assert "total on the test split" in run("mp3", *words, "--resume").stdout
    refused = run("mp3", *words, check=False)
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].startswith(f"error: {folder} holds another run")
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_a_run_forecast_of_the_test_split_stands_beside_baselines_with_the_same_scores(finished, market, tmp_path):
    folder, _ = finished
    words = ["--only", "region median", "--observed", "0", "2", "--forecasts", f"ours={folder / 'test.npz'}"]
    run("baselines", "--data", market, *words, "--output_dir", tmp_path / "r")
    own, beside = (json.loads((place / "report.json").read_text()) for place in (folder, tmp_path / "r"))
    assert beside["leader"] == "ours"
    for target in ("total", "remaining_2"):
        for measure in ("crps", "wape", "cov80"):
            assert beside["test"][target][measure] == pytest.approx(own["test"][target][measure]), (target, measure)


@pytest.mark.slow
@pytest.mark.parametrize(("options", "place"), [([], "."), (["--refit", "--members", "2"], "refit")])
def test_a_killed_run_goes_on_to_the_same_weights(options, place, market, tmp_path):
    words = ["--data", market, *SMALL, "--epochs", "4", *options]
    run("mp3", *words, "--output_dir", tmp_path / "whole")
    stopped = tmp_path / "stopped"
    process = subprocess.Popen(
        command("mp3", *words, "--output_dir", stopped),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=ENVIRONMENT,
    )
    deadline = time.monotonic() + 120
    while not any((stopped / place).glob("checkpoint-*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (stopped / "report.json").exists()
    assert "going on from" in run("mp3", *words, "--output_dir", stopped, "--resume").stdout
    whole, again = (load_file(path / "model" / "model.safetensors") for path in (tmp_path / "whole", stopped))
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert losses(tmp_path / "whole" / place) == losses(stopped / place)


@pytest.mark.slow
def test_a_refit_learns_from_validation_too_and_keeps_the_map_of_songs_held_out(market, tmp_path):
    words = ["--data", market, *SMALL, "--epochs", "2"]
    once = run("mp3", *words, "--output_dir", tmp_path / "once").stdout
    twice = run("mp3", *words, "--output_dir", tmp_path / "twice", "--refit").stdout
    assert "once more from" in twice
    assert "once more from" not in once
    configs = [json.loads((tmp_path / name / "model" / "config.json").read_text()) for name in ("once", "twice")]
    assert configs[0]["calibration"] == configs[1]["calibration"]
    weights = [load_file(tmp_path / name / "model" / "model.safetensors") for name in ("once", "twice")]
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    reports = [json.loads((tmp_path / name / "report.json").read_text()) for name in ("once", "twice")]
    # Validation is scored before it is learnt from.
    assert reports[0]["validation"] == reports[1]["validation"]
    assert reports[0]["test"]["total"]["crps"] != reports[1]["test"]["total"]["crps"]


@pytest.mark.slow
def test_ears_learnt_once_more_hear_in_the_second_fit_alone(market, mp2, tmp_path):
    words = ["--data", market, "--frames", "120", "--patch_size", "32", "16", "--windows", "1", "--folds", "0"]
    printed = run("mp2", *words, "--epochs", "2", "--refit", "--output_dir", tmp_path / "mp2").stdout
    assert "once more from" in printed
    first, again = (tmp_path / "mp2" / place / "model" for place in (".", "refit"))
    assert (first / "config.json").read_bytes() == (again / "config.json").read_bytes()
    ears = [load_file(folder / "model.safetensors") for folder in (first, again)]
    assert any(not torch.equal(ears[0][name], ears[1][name]) for name in ears[0])
    words = ["--data", market, "--mp2", first, *SMALL, "--epochs", "1", "--audio", "frozen", "--refit", "true"]
    run("mp3", *words, "--output_dir", tmp_path / "once")
    run("mp3", *words, "--output_dir", tmp_path / "twice", "--mp2_refit", again)
    models = [load_file(tmp_path / name / "model" / "model.safetensors") for name in ("once", "twice")]
    for expected, weights in zip(ears, models, strict=True):
        assert all(torch.equal(weights[f"mp2.{name}"], value) for name, value in expected.items())
    reports = [json.loads((tmp_path / name / "report.json").read_text()) for name in ("once", "twice")]
    assert reports[0]["validation"] == reports[1]["validation"]
    assert reports[0]["test"]["total"]["crps"] != reports[1]["test"]["total"]["crps"]
    other = run("mp3", *words, "--output_dir", tmp_path / "other", "--mp2_refit", mp2, check=False)
    assert other.returncode == 2
    assert "differs from" in other.stderr.splitlines()[-1]


@pytest.mark.slow
def test_one_process_two_processes_and_two_parts_learn_the_same(market, tmp_path):
    words = ["--data", market, *SMALL, "--epochs", "2"]
    # What each process draws for itself.
    words += ["--covariate_drop", "0", "--region_drop", "0", "--dropout", "0"]
    run("mp3", *words, "--output_dir", tmp_path / "one")
    run("mp3", *words, "--batch_size", "8", "--accumulation", "2", "--output_dir", tmp_path / "parts")
    run("mp3", *words, "--batch_size", "8", "--loader_workers", "1", "--output_dir", tmp_path / "two", processes=2)
    one, two, parts = (losses(tmp_path / name) for name in ("one", "two", "parts"))
    assert len(one) == len(two) == len(parts) >= 4
    assert np.allclose(one, two, atol=1e-4)
    assert np.allclose(one, parts, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["--audio", "stored", "--likelihood", "joint", "--components", "6", "--position_mode", "concat"],
        ["--audio", "finetune", "--members", "3", "--refit", "--audio_context", "state"],
        ["--audio", "frozen", "--region_mode", "embedding", "--nulls", "masked", "--covariates", "state", "release"],
        ["--audio", "stored", "--audio_context", "prediction", "--covariates", "release"],
        ["--region_mode", "none", "--nulls", "zero", "--calibrate", "false", "--dropout", "0.1", "--horizon", "8"],
    ],
)
def test_every_option_of_the_model_runs(words, market, mp2, tmp_path):
    run("mp3", "--data", market, "--mp2", mp2, "--output_dir", tmp_path / "r", *SMALL, "--epochs", "1", *words)
    report = json.loads((tmp_path / "r" / "report.json").read_text())
    assert np.isfinite(report["test"]["total"]["crps"])


@pytest.mark.slow
def test_where_one_song_has_no_date_the_release_is_told_of_none(market, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(market, data)
    tracks = pd.read_parquet(data / "tracks.parquet")
    song = read_dataset(data).splits.query("split == 'test'")["track_id"].iloc[0]
    tracks.loc[tracks["song_id"] == tracks.loc[tracks["track_id"] == song, "song_id"].iloc[0], "release_date"] = pd.NaT
    tracks.to_parquet(data / "tracks.parquet", index=False)
    run("mp3", "--data", data, "--output_dir", tmp_path / "r", *SMALL, "--epochs", "1")
    config = json.loads((tmp_path / "r" / "model" / "config.json").read_text())
    assert config["covariates"] == ["state", "artist", "regions"]
    asked = run("mp3", "--data", data, "--output_dir", tmp_path / "s", *SMALL, "--covariates", "release", check=False)
    assert asked.returncode == 2
    assert "have no release_date" in asked.stderr.splitlines()[-1]


@pytest.mark.slow
def test_a_model_pooled_with_boosted_trees_is_one_folder_with_one_forecast(market, tmp_path):
    pytest.importorskip("lightgbm")
    words = ["--data", market, *SMALL, "--epochs", "1", "--boosted", "--refit"]
    printed = run("mp3", *words, "--output_dir", tmp_path / "run").stdout
    model = tmp_path / "run" / "model"
    pool = json.loads((model / "config.json").read_text())["pool"]
    assert set(pool) == {"0", "2"}
    assert f"weight of the boosted trees by observed periods: {pool}" in printed
    assert (model / "boosted.json.gz").is_file()
    dataset = read_dataset(market)
    debuts = debuts_of(dataset, debut_rows(dataset), dataset.horizon).of_split("test")
    pooled = forecaster_of(model, dataset, samples=20)
    # An untrained decoder leaves room for the trees, so that the pool is not the decoder alone.
    assert max(pool.values()) > 0
    for observed in (0, 2):
        weight = pool[str(observed)]
        moved, alone = (each.paths(debuts, observed).streams for each in (pooled, replace(pooled, companion=None)))
        np.testing.assert_array_equal(moved[:, :, :observed], alone[:, :, :observed])
        assert np.array_equal(moved, alone) == (weight == 0)
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    truth = truth_of(debuts.rows, debuts.curves)
    again = score_curves(truth, pooled.paths(debuts, 2).forecasts(), 2, replicates=0)
    assert again["crps"] == pytest.approx(report["test"]["remaining_2"]["crps"], rel=1e-6)
    row = debuts.rows.iloc[0]
    forecaster = Forecaster.from_pretrained(model)
    forecaster.model.config.pool = {"0": 0.5}
    asked = {"track_id": row["track_id"], "regions": [row["region"]], "release": row["debut"], "samples": 20}
    sums = [
        each.forecast(data=data, **asked).popularity.query("metric == 'sum'")["0.5"].item()
        for each in (forecaster, replace(forecaster, trees=None))
        for data in (market, None)
    ]
    # Without the artist's history trees would take a song for one by a new artist, so the decoder speaks alone.
    assert sums[0] != sums[2]
    assert sums[1] == sums[3]
    (model / "boosted.json.gz").unlink()
    with pytest.raises(InputError, match=r"boosted\.json\.gz: missing"):
        forecaster_of(model, dataset)


@pytest.mark.slow
def test_regions_held_out_are_not_learnt_and_scored_apart_beside_the_same_floors(market, tmp_path):
    dataset = read_dataset(market)
    held_out = dataset.regions[0]
    words = ["--data", market, *SMALL, "--epochs", "1", "--held_out_regions", held_out]
    printed = run("mp3", *words, "--output_dir", tmp_path / "run").stdout
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert held_out not in json.loads((tmp_path / "run" / "model" / "config.json").read_text())["regions"]
    debuts = debuts_of(dataset, debut_rows(dataset), dataset.horizon).of_split("test")
    new = (debuts.rows["region"] == held_out).to_numpy()
    for split, count in (("test", (~new).sum()), ("new-markets", new.sum())):
        assert report[split]["total"]["n_rows"] == count
        assert report["baselines"]["region median"][split]["total"]["n_rows"] == count
    assert "total on the new-markets split" in printed
    # Whatever happened there, nothing of it is learnt: without its debuts the weights are the same.
    assert dataset.splits is not None
    without = dataset.splits[dataset.splits["region"] != held_out].reset_index(drop=True)
    shutil.copytree(market, tmp_path / "less")
    without.to_parquet(tmp_path / "less" / "splits.parquet")
    words = ["--data", tmp_path / "less", *SMALL, "--epochs", "1", "--regions", *dataset.regions[1:]]
    run("mp3", *words, "--output_dir", tmp_path / "again")
    one, other = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("run", "again"))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "nowhere"], "nowhere"),
        (["--encoder", "ast"], "--mp2"),
        # Each starts a process and imports torch: one of a kind is enough in a quick run.
        *(
            pytest.param(words, message, marks=pytest.mark.slow)
            for words, message in [
                (["--held_out_regions", "QQ"], "QQ"),
                (["--regions", "US", "--held_out_regions", "US"], "--regions names them too"),
                (["--covariates", "weather"], "weather"),
                (["--members", "0"], "--members 0: it must be at least 1"),
                (["--regions", "QQ"], "QQ"),
                (["--mp2_refit", "runs/mp2/refit/model"], "give --mp2 and --refit true too"),
            ]
        ),
    ],
)
def test_wrong_input_is_answered_in_one_line_and_leaves_nothing(words, message, market, tmp_path):
    given = words if "--data" in words else ["--data", market, *words]
    done = run("mp3", *given, "--output_dir", tmp_path / "r", check=False)
    assert done.returncode == 2
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "r").exists()


@pytest.fixture(scope="module")
def forecasts(finished, market, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "forecast"
    run("forecast", *forecast_words(finished, market), "--output_dir", folder)
    return folder


def forecast_words(finished, market) -> list:
    return ["--data", market, "--model", finished[0] / "model", "--observed", 2, "--samples", 16, "--shard", 3]


def test_the_forecast_recipe_writes_three_tables_of_every_debut(forecasts, market):
    curves, popularity, paths = (
        pd.read_parquet(forecasts / f"{name}.parquet") for name in ("forecasts", "popularity", "paths")
    )
    splits = pd.read_parquet(market / "splits.parquet").query("split == 'test'")
    assert list(curves.columns) == ["track_id", "region", "week", "date", "mean", *QUANTILES]
    assert list(popularity.columns) == ["track_id", "region", "metric", "mean", *QUANTILES]
    assert list(paths.columns) == ["track_id", "region", "week", "sample", "streams"]
    asked = set(zip(splits["track_id"], splits["region"], strict=True))
    assert set(zip(curves["track_id"], curves["region"], strict=True)) == asked
    assert len(curves) == 12 * len(asked)
    assert len(paths) == 12 * 16 * len(asked)
    assert {"sum", "remaining", "debut_rank"} <= set(popularity["metric"])
    assert (np.diff(curves[list(QUANTILES)].to_numpy(), axis=1) >= 0).all()
    assert (paths["streams"] >= 0).all()


def test_observed_periods_come_back_exactly(forecasts, market):
    curves = pd.read_parquet(forecasts / "forecasts.parquet")
    known = pd.read_parquet(market / "curves.parquet")[["track_id", "region", "date", "streams"]]
    seen = curves[curves["week"] < 2].merge(known, on=["track_id", "region", "date"], how="left")
    songs = pd.read_parquet(market / "tracks.parquet").groupby("song_id")["track_id"].transform("size")
    assert songs.notna().all()
    charted = seen[seen["streams"].notna() & (seen["mean"] > 0)]
    assert len(charted) > 10
    same = np.isclose(charted["0.5"], charted["streams"], rtol=1e-9)
    # Another version of the song may add to what the first one streamed.
    assert (same | (charted["0.5"] > charted["streams"])).all()
    assert same.mean() > 0.5
    assert (seen["0.1"] == seen["0.9"]).all()


@pytest.mark.slow
def test_two_processes_killed_and_resumed_give_the_same_tables(forecasts, finished, market, tmp_path):
    folder = tmp_path / "again"
    process = subprocess.Popen(
        command("forecast", *forecast_words(finished, market), "--output_dir", folder, processes=2),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=ENVIRONMENT,
    )
    deadline = time.monotonic() + 120
    while not any(folder.glob("shards/0*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.terminate()
    process.wait()
    refused = run("forecast", *forecast_words(finished, market), "--output_dir", folder, check=False)
    assert refused.returncode == 2
    assert "--resume" in refused.stderr.splitlines()[-1]
    run("forecast", *forecast_words(finished, market), "--output_dir", folder, "--resume", processes=2)
    for name in ("forecasts", "popularity", "paths"):
        one, two = (pd.read_parquet(place / f"{name}.parquet") for place in (forecasts, folder))
        pd.testing.assert_frame_equal(one, two)
    assert not (folder / "shards").exists()


@pytest.mark.slow
def test_running_songs_are_forecast_from_any_day(finished, market, tmp_path):
    origin = pd.read_parquet(market / "charts.parquet")["date"].sort_values().iloc[-40]
    words = ["--data", market, "--model", finished[0] / "model", "--samples", 8, "--output_dir", tmp_path / "r"]
    run("forecast", *words, "--origin", origin.date())
    curves = pd.read_parquet(tmp_path / "r" / "forecasts.parquet")
    first = curves[curves["week"] == 0]["date"]
    assert first.max() <= origin
    assert first.min() > origin - pd.Timedelta(days=12 * 7)
    running = curves[curves["date"] <= origin]
    assert (running["0.1"] == running["0.9"]).all()
