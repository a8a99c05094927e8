"""The benchmark's sections run and report ratios; what cannot be measured is said to be unmeasured."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT

from data_prep.tiled import write_tiled
from mp3model.audio.bank import AudioBank
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
