"""The benchmark's sections run and report ratios; what cannot be measured is said to be unmeasured."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

from data_prep.tiled import write_tiled
from mp3model.audio.bank import AudioBank
from mp3model.benchmark.encoders import forward_cases
from mp3model.benchmark.measuring import Bench
from mp3model.benchmark.steps import step_cases
from mp3model.tables.folder import read_dataset


def run(*words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "recipes" / "benchmark.py"), *words]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.slow
def test_sections_are_chosen_and_reported_beside_their_peers(tmp_path):
    done = run("--quick", "--trials", "1", "--only", "prepare", "step", "plan", "--output_dir", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert set(report["cpu"]) == {"prepare", "step", "ratios"}
    assert report["gpu"] == {"unmeasured": "no CUDA device"}
    assert all(ratio > 0 for ratio in report["cpu"]["ratios"].values())
    step = report["cpu"]["step"][0]
    assert step["ratio"] == pytest.approx(step["peer_seconds"] / step["seconds"])
    assert any("10,000,000 clips" in line and "hours" in line for line in report["plan"])
    assert any("not measured in this run" in line for line in report["plan"])
    assert not list((tmp_path / "run").glob(".scratch-*"))
    assert (tmp_path / "run" / "table.txt").read_text().strip() in done.stdout


@pytest.mark.slow
def test_time_to_equal_loss_and_the_shares_of_a_step_are_measured_beside_stock(tmp_path):
    done = run("--quick", "--trials", "1", "--only", "equal_loss", "shares", "--output_dir", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "run" / "report.json").read_text())["cpu"]
    (race,) = report["equal_loss"]
    assert race["reached"] == ("ratio" in race) == (race["our_validation_loss"] <= race["validation_loss"])
    assert not race["reached"] or race["ratio"] == pytest.approx(race["peer_seconds"] / race["seconds"])
    assert race["ratio_of_an_epoch"] > 0
    for row in report["shares"]:
        parts = [row[name] for name in ("data wait", "augmentation", "front end", "model")]
        assert sum(parts) == pytest.approx(1)
        assert row["ratio"] > 0 < row["mfu"]


def test_every_combination_is_measured_on_a_gpu_and_each_kind_on_a_processor(tmp_path):
    bench = Bench(tmp_path)
    forward, step, *here = (
        [str(case) for case in cases(bench, torch.device(place))]
        for place in ("cuda", "cpu")
        for cases in (forward_cases, step_cases)
    )
    assert len(set(forward)) == len(forward) == 3 * 2 * 2 * 2 * 2
    assert len(set(step)) == len(step) == 2 * len(forward) + 2
    assert "base 30 s stride 16 drop 0.5 bf16 compiled" in step
    assert "base 30 s stride 16 drop 0.5 bf16 eager checkpointed" in step
    kinds = ("tiny", "small", "base", "10.24 s", "30 s", "stride 10", "stride 16", "fp32", "bf16", "eager", "compiled")
    for cases, more in zip(here, ((), ("drop 0 ", "drop 0.5", "checkpointed")), strict=True):
        assert all(any(kind in case for case in cases) for kind in (*kinds, *more))


def test_workers_that_read_the_recipe_do_not_mind_that_its_report_has_begun(tmp_path):
    (tmp_path / "report.json").write_text("{}")
    words = [str(ROOT / "recipes" / "benchmark.py"), "--output_dir", str(tmp_path)]
    again = f"import runpy, sys; sys.argv = {words!r}; runpy.run_path(sys.argv[0], run_name='__mp_main__')"
    assert subprocess.run([sys.executable, "-c", again], check=False).returncode == 0
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "holds another run" in done.stderr


def test_an_unknown_section_is_refused(tmp_path):
    done = run("--only", "forwards", "--output_dir", str(tmp_path / "run"))
    assert done.returncode == 2
    assert done.stderr.startswith("error: --only forwards")


def test_a_tiled_folder_is_sound_and_shares_its_shards(tmp_path):
    write_tiled(tmp_path / "big", 300, seconds=0.5)
    dataset, bank = read_dataset(tmp_path / "big"), AudioBank(tmp_path / "big")
    assert len(dataset.tracks) == len(bank) == 300
    bank.verify()
    shards = sorted((tmp_path / "big").glob("audio-*.npy"))
    assert len(shards) == 10
    assert len({shard.stat().st_ino for shard in shards}) == 4
    assert set(dataset.splits["split"]) == {"train", "validation", "test"}
