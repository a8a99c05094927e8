"""recipes/classification.py by its command lines: the table of three classes, and what it refuses."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
from audio_files import tone, write_audio
from small_charts import small_charts

from data_prep.open_datasets import convert_fma
from mp3model.tables.folder import write_dataset

RECIPE = str(Path(__file__).resolve().parent.parent / "recipes" / "classification.py")
SONGS, ARTISTS = 18, 6


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the recipe here: words → exit status, standard output, standard error."""

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [RECIPE, *map(str, words)])
        try:
            runpy.run_path(RECIPE, run_name="__main__")
            status = 0
        except SystemExit as stop:
            status = int(stop.code or 0)
        told = capsys.readouterr()
        return status, told.out, told.err

    return call


@pytest.mark.slow
def test_every_song_is_classified_by_systems_that_never_heard_its_artist(run, tmp_path):
    rows = ["file,track_id,artist,track_listens"]
    for song in range(SONGS):
        write_audio(tmp_path / "clips" / f"{song + 1}.wav", tone(1.0, 16_000, frequency=200.0 * (song + 1)), 16_000)
        rows.append(f"{song + 1}.wav,{song + 1},artist {song % ARTISTS},{100 * (song + 1)}")
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    convert_fma(tmp_path / "clips", tmp_path / "labels.csv", tmp_path / "data", workers=1)
    words = ["--data", tmp_path / "data", "--folds", 3, "--repeats", 2, "--epochs", 1]
    status, out, errors = run(*words, "--output_dir", tmp_path / "r")
    assert status == 0, errors
    content = json.loads((tmp_path / "r" / "report.json").read_text())
    systems = {content["leader"], *content["baselines"]}
    assert systems == {"majority class", "stanford 2", "stanford 4", "stanford 6", "hitmusicnet"}
    assert content["counts"]["songs"] == SONGS
    assert content["counts"]["artists"] == ARTISTS
    assert sum(content["counts"]["classes"]) == pytest.approx(1)
    scores = content["test"]["classes"]
    assert scores["n_rows"] == 2 * SONGS
    assert scores["accuracy_ci"][0] <= scores["accuracy"] <= scores["accuracy_ci"][1]
    assert set(content["differences"]["test"]["classes"]) == systems - {"majority class"}
    assert all(len(values) == 2 for values in content["accuracy_of_repeats"].values())
    assert (tmp_path / "r" / "table.txt").read_text().strip() in out
    status, _, errors = run(*words, "--output_dir", tmp_path / "r")
    assert (status, "holds another report" in errors) == (2, True)
    status, _, errors = run(*words, "--folds", 7, "--output_dir", tmp_path / "s")
    assert (status, "6 artists only" in errors) == (2, True)


def test_data_without_targets_and_too_few_folds_are_refused_in_one_line(run, tmp_path):
    made = small_charts()
    info = {**made.info, "sources": ["made"]}
    write_dataset(tmp_path / "data", tracks=made.tracks, curves=made.curves, splits=made.splits, info=info)
    for words, message in ((["--folds", 2], "--folds 2"), ([], "targets.parquet")):
        status, _, errors = run("--data", tmp_path / "data", *words, "--output_dir", tmp_path / "r")
        assert status == 2
        assert len(errors.splitlines()) == 1
        assert message in errors
        assert not (tmp_path / "r").exists()
