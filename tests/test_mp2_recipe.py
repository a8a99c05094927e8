"""recipes/mp2.py end to end, by the command line that a user types."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mp3model import MP2Model

ROOT = Path(__file__).resolve().parent.parent
RECIPE = ROOT / "recipes" / "mp2.py"
QUICK = ["--frames", "120", "--loader_workers", "0", "--windows", "2", "--patch_size", "32", "16"]
QUICK += ["--patch_stride", "32", "16"]

# Enough to learn what the small dataset holds; gain and masks would hide part of it on so few songs.
LONGER = ["--epochs", "24", "--batch_size", "6", "--folds", "0", "--log_every", "1", "--learning_rate", "3e-3"]
LONGER += ["--frequency_mask", "0", "--gain", "0"]


def run(*words: str, processes: int = 1, check: bool = True) -> subprocess.CompletedProcess:
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*launcher, str(RECIPE), *words], capture_output=True, text=True, env=environment, check=False, timeout=250
    )
    if check:
        assert done.returncode == 0, done.stderr[-3000:]
    return done


def losses(folder: Path, name: str = "loss") -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


@pytest.fixture(scope="module")
def finished(small_dataset, tmp_path_factory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("runs") / "mp2"
    done = run("--data", str(small_dataset), "--output_dir", str(folder), *QUICK, *LONGER)
    return folder, done.stdout


def test_a_run_leaves_a_model_metrics_a_report_and_a_picture(finished, small_dataset):
    folder, printed = finished
    assert {path.name for path in (folder / "model").iterdir()} == {"config.json", "model.safetensors"}
    assert (folder / "predicted_against_true.png").read_bytes()[:4] == b"\x89PNG"
    report = json.loads((folder / "report.json").read_text())
    for target in ("total", "debut_rank"):
        for scores in (
            report["test"][target],
            report["validation"][target],
            report["baselines"]["region_mean"]["test"][target],
            report["baselines"]["ridge_mean_log_mel"]["test"][target],
        ):
            low, high = scores["mae_ci"]
            assert low <= scores["mae"] <= high
        for metric in ("spearman", "kendall", "r2"):
            low, high = report["test"][target][f"{metric}_ci"]
            assert low <= report["test"][target][metric] <= high
        assert set(report["test"][target]["regions"]) == {"US", "GB"}
    assert "nothing can be concluded" in printed
    assert "region mean" in printed


def test_the_saved_model_gives_the_reported_predictions(finished, small_dataset):
    folder, _ = finished
    model = MP2Model.from_pretrained(folder / "model").eval()
    assert set(model.config.target_statistics["total"]) == {"US", "GB"}
    with torch.inference_mode():
        natural = model.natural_units(model(torch.zeros(1, model.config.samples)).predictions)
    assert natural.isfinite().all()


def test_a_signal_that_is_there_is_learnt(finished):
    values = losses(finished[0])
    assert np.mean(values[-10:]) < 0.5 * np.mean(values[:10])
    report = json.loads((finished[0] / "report.json").read_text())
    assert report["test"]["total"]["spearman"] > 0.8
    assert report["differences"]["test"]["total"]["region_mean"]["mae"]["high"] < 0


def test_resuming_a_finished_run_prints_its_table_again(finished, small_dataset):
    folder, _ = finished
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    done = run("--data", str(small_dataset), "--output_dir", str(folder), *QUICK, "--resume")
    assert (folder / "table.txt").read_text().strip() in done.stdout
    assert "total on the test split" in done.stdout
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_another_run_is_never_written_over(finished, small_dataset):
    done = run("--data", str(small_dataset), "--output_dir", str(finished[0]), *QUICK, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"error: {finished[0]} holds another run")


@pytest.mark.slow
def test_one_process_two_processes_and_two_parts_learn_the_same(small_dataset, tmp_path):
    words = ["--data", str(small_dataset), *QUICK, "--epochs", "2", "--log_every", "1", "--folds", "0"]
    # What each process draws for itself.
    words += ["--patch_drop", "0", "--dropout", "0", "--head_dropout", "0", "--region_correlation", "0.3"]
    run(*words, "--batch_size", "8", "--output_dir", str(tmp_path / "one"))
    run(*words, "--batch_size", "4", "--accumulation", "2", "--output_dir", str(tmp_path / "parts"))
    run(*words, "--batch_size", "4", "--output_dir", str(tmp_path / "two"), "--loader_workers", "2", processes=2)
    one, two, parts = (losses(tmp_path / name) for name in ("one", "two", "parts"))
    assert len(one) == len(two) == len(parts) >= 6
    assert np.allclose(one, two, atol=1e-5)
    assert np.allclose(one, parts, atol=1e-5)


@pytest.mark.slow
def test_two_processes_and_two_parts_tell_the_same_songs_apart(small_dataset, tmp_path):
    words = ["--data", str(small_dataset), *QUICK, "--epochs", "2", "--log_every", "1", "--folds", "0"]
    words += ["--patch_drop", "0", "--dropout", "0", "--head_dropout", "0", "--contrast", "0.3", "--layer_decay", "0.7"]
    run(*words, "--batch_size", "4", "--accumulation", "2", "--output_dir", str(tmp_path / "parts"))
    run(*words, "--batch_size", "4", "--output_dir", str(tmp_path / "two"), processes=2)
    for name in ("loss", "contrastive_loss"):
        two, parts = (losses(tmp_path / folder, name) for folder in ("two", "parts"))
        assert len(two) == len(parts) >= 6
        assert np.allclose(two, parts, atol=1e-4)


@pytest.mark.slow
def test_a_run_that_stopped_goes_on_to_the_same_weights(small_dataset, tmp_path):
    words = ["--data", str(small_dataset), *QUICK, "--folds", "0", "--evaluate_every", "1", "--dropout", "0.1"]
    words += ["--contrast", "0.3", "--ema", "0.5", "--log_every", "1"]
    run(*words, "--epochs", "4", "--output_dir", str(tmp_path / "whole"))
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    stopped = tmp_path / "stopped"
    process = subprocess.Popen(
        [sys.executable, str(RECIPE), *words, "--epochs", "4", "--output_dir", str(stopped)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
    )
    while process.poll() is None and not list(stopped.glob("checkpoint-*")):
        pass
    process.kill()
    process.wait()
    assert not (stopped / "report.json").exists()
    other = run(*words, "--epochs", "4", "--output_dir", str(stopped), "--resume", "--size", "tiny", check=False)
    assert other.returncode == 2
    assert "--size tiny" in other.stderr.splitlines()[-1]
    resumed = run(*words, "--epochs", "4", "--output_dir", str(stopped), "--resume")
    assert "going on from" in resumed.stdout
    whole, again = (load_file(path / "model" / "model.safetensors") for path in (tmp_path / "whole", stopped))
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert losses(tmp_path / "whole") == losses(stopped)
    assert len(losses(stopped)) == 4
    # What songs are told apart by is of use in training alone.
    assert not [name for name in whole if "projection" in name]
    assert len(losses(stopped, "contrastive_loss")) == 4


@pytest.mark.slow
def test_resume_without_a_checkpoint_starts_from_the_beginning(small_dataset, tmp_path):
    words = ["--data", str(small_dataset), *QUICK, "--epochs", "1", "--folds", "0", "--output_dir", str(tmp_path / "r")]
    run(*words, "--resume")
    assert (tmp_path / "r" / "report.json").exists()


@pytest.mark.slow
def test_every_option_of_the_model_and_augmentation_runs(small_dataset, tmp_path):
    run(
        *["--data", str(small_dataset), *QUICK, "--epochs", "2", "--output_dir", str(tmp_path / "r")],
        *["--region_mode", "embedding", "--position_mode", "concat", "--criterion", "streams", "--mixup", "0.5"],
        *["--timbre", "pitch", "equaliser", "low_pass", "high_pass", "--ema", "0.9", "--drop_path", "0.1"],
        *["--transpose", "2"],
        *["--layer_decay", "0.7", "--precision", "bf16", "--folds", "3", "--shuffle_targets", "--regions", "GB"],
    )
    report = json.loads((tmp_path / "r" / "report.json").read_text())
    assert set(report["test"]) == {"total"}
    assert set(report["test"]["total"]["regions"]) == {"GB"}
    assert report["test"]["total"]["n_songs"] == 47
    assert any("shuffled" in note for note in report["notes"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "nowhere"], "nowhere"),
        (["nowhere.yaml"], "nowhere.yaml: no such file"),
        (["--regions", "FR"], "FR"),
        # Each starts a process and imports torch: one of a kind is enough in a quick run.
        *(
            pytest.param(words, message, marks=pytest.mark.slow)
            for words, message in [
                (["--size", "huge"], "huge is none of nano, micro, tiny, small, base"),
                (["--encoder", "no/such"], "no/such"),
                (["--encoder", "timm:no_such"], "no_such"),
                (["--folds", "40"], "40 folds"),
                (["--region_mode", "tokens"], "'tokens'"),
                (["--pooling", "mean"], "'mean'"),
                (["--stem_overlap", "5"], "stem_overlap 5 does not divide"),
                (["--head_dropout", "1"], "--head_dropout 1.0"),
                (["--batch_size", "0"], "--batch_size 0"),
                (["--region_correlation", "1"], "--region_correlation 1.0"),
                (["--contrast", "-1"], "--contrast -1.0"),
                (["--shift", "4", "--transpose", "2"], "--shift and --transpose exclude each other"),
                (["--transpose", "-1"], "transpose"),
                (["--contrast", "1", "--mixup", "0.5"], "--contrast and --mixup exclude each other"),
                (["--contrast", "1", "--batch_size", "1"], "--batch_size of at least 2"),
                (["--roll", "2"], "2.0"),
            ]
        ),
    ],
)
def test_wrong_input_ends_with_one_line_that_names_it(small_dataset, tmp_path, words, message):
    given = [] if "--data" in words else ["--data", str(small_dataset)]
    done = run(*words, *given, *QUICK, "--epochs", "1", "--output_dir", str(tmp_path / "r"), check=False)
    assert done.returncode == 2
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("error: ")
    assert message in line
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "r").exists()


def test_help_is_quick_and_needs_no_torch():
    code = (
        "import sys, runpy; sys.argv = ['mp2.py', '--help']; sys.modules['torch'] = None; "
        f"runpy.run_path({str(RECIPE)!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "--patch_drop" in done.stdout, done.stderr


def test_a_simulated_market_is_scored_beside_its_oracle(tmp_path):
    words = ["--songs", "60", "--output_dir", str(tmp_path / "runs" / "r"), *QUICK, "--epochs", "1", "--folds", "3"]
    first = run(*words)
    assert "simulated market: 60 songs" in first.stdout
    assert (tmp_path / "runs" / "market-60-0" / "dataset.json").is_file()
    report = json.loads((tmp_path / "runs" / "r" / "report.json").read_text())
    assert report["oracle"]["test"]["total"]["spearman"] > 0.3
    assert report["oracle_audio"]["test"]["total"]["n_rows"] == report["test"]["total"]["n_rows"]
    again = run(*words[:2], "--output_dir", str(tmp_path / "runs" / "s"), *words[4:])
    assert "rendered into" not in again.stdout
