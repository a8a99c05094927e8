"""recipes/baselines.py by its command lines: one report, what cannot be had, a failure, a kill and going on."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_charts import small_charts

from mp3model.baselines.registry import baseline_names, register, unavailable, unregister
from mp3model.evaluation.accuracy import CurveForecasts
from mp3model.tables.folder import read_dataset, write_dataset

RECIPE = str(Path(__file__).resolve().parent.parent / "recipes" / "baselines.py")
FITTED: list[str] = []


class LastSeen:
    """A new baseline is a class with these three: every week as the last one seen, or the training mean."""

    name = "last seen"

    def fit(self, train: Any, validation: Any, covariates: Any) -> LastSeen:
        FITTED.append(self.name)
        self.mean = float(np.nanmean(train.curves.chart_observed()))
        return self

    def forecast(self, debuts: Any, observed: int) -> CurveForecasts | None:
        shape = debuts.curves.streams.shape
        last = debuts.curves.chart_observed()[:, observed - 1] if observed else np.full(shape[0], self.mean)
        return CurveForecasts(np.broadcast_to(np.nan_to_num(last)[:, None], shape))


class Broken(LastSeen):
    """Fails until it is mended."""

    name = "broken"
    raises: BaseException | None = None

    def fit(self, train: Any, validation: Any, covariates: Any) -> LastSeen:
        if self.raises is not None:
            raise self.raises
        return super().fit(train, validation, covariates)


class NoneANumber(LastSeen):
    """Its forecasts cannot be scored."""

    name = "none a number"

    def forecast(self, debuts: Any, observed: int) -> CurveForecasts | None:
        return CurveForecasts(np.full(debuts.curves.streams.shape, np.nan))


class Before(LastSeen):
    """Forecasts before the debut only, as systems that hear do."""

    name = "before"

    def forecast(self, debuts: Any, observed: int) -> CurveForecasts | None:
        return None if observed else super().forecast(debuts, observed)


@pytest.fixture(autouse=True)
def added(monkeypatch) -> Iterator[None]:
    monkeypatch.setattr(Broken, "raises", None)
    FITTED.clear()
    made = {kind.name: kind for kind in (LastSeen, Broken, NoneANumber, Before)}
    for name, kind in made.items():
        register(name, lambda dataset, kind=kind: kind())
    yield
    for name in made:
        unregister(name)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder, made = tmp_path_factory.mktemp("charts") / "data", small_charts()
    info = {**made.info, "sources": ["made"]}
    write_dataset(folder, tracks=made.tracks, curves=made.curves, charts=made.charts, splits=made.splits, info=info)
    return folder


@pytest.fixture
def run(data, monkeypatch, capsys):
    """Runs the recipe here: words → exit status, standard output, standard error."""

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [RECIPE, "--data", str(data), *map(str, words)])
        try:
            runpy.run_path(RECIPE, run_name="__main__")
            status = 0
        except SystemExit as stop:
            status = int(stop.code or 0)
        told = capsys.readouterr()
        return status, told.out, told.err

    return call


ONLY = ("--only", "region median", "broken", "last seen", "--observed", 1)


def test_a_killed_run_goes_on_and_ends_with_the_same_report(run, tmp_path, monkeypatch):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    status, out, _ = run(*ONLY, "--output_dir", whole)
    assert status == 0
    assert (whole / "table.txt").read_text().strip() in out
    monkeypatch.setattr(Broken, "raises", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        run(*ONLY, "--output_dir", killed)
    assert not (killed / "report.json").exists()
    assert [path.name for path in (killed / "baselines").iterdir()] == ["region median.npz"]
    monkeypatch.setattr(Broken, "raises", None)
    assert run(*ONLY, "--output_dir", killed)[0] == 2
    status, _, errors = run(*ONLY, "--seed", 1, "--output_dir", killed, "--resume")
    assert status == 2
    assert "--seed 1" in errors
    status, out, _ = run(*ONLY, "--output_dir", killed, "--resume")
    assert status == 0
    assert "region median: read from" in out
    for name in ("report.json", "report.md", "table.txt"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
    # A finished run is told again, and none of it is done again.
    FITTED.clear()
    status, out, _ = run(*ONLY, "--output_dir", killed, "--resume")
    assert (status, FITTED) == (0, [])
    assert "is finished" in out


def test_where_none_of_the_systems_forecasts_the_report_leaves_out_so_many_observed_periods(run, tmp_path):
    status, out, _ = run("--only", "before", "--observed", 0, 1, "--output_dir", tmp_path)
    assert status == 0
    assert "without 1 observed period(s): none of these systems" in out
    assert set(json.loads((tmp_path / "report.json").read_text())["test"]) == {"total"}


def test_a_failing_baseline_is_named_and_one_of_a_few_lines_is_in_every_part_of_the_report(run, tmp_path, monkeypatch):
    monkeypatch.setattr(Broken, "raises", RuntimeError("no memory left"))
    names = ("region median", "broken", "none a number", "last seen")
    status, _, errors = run("--only", *names, "--observed", 1, "--output_dir", tmp_path)
    assert status == 1
    # Forecasts that cannot be scored are a failure too.
    first, second = errors.splitlines()[-2:]
    assert first.startswith("error: baseline 'broken' failed: RuntimeError: no memory left")
    assert second.startswith("error: baseline 'none a number' failed: curve of ")
    assert sorted(path.stem for path in (tmp_path / "baselines").iterdir()) == ["last seen", "region median"]
    content = json.loads((tmp_path / "report.json").read_text())
    assert set(content["failed"]) == {"broken", "none a number"}
    assert content["leader"] == "region median"
    assert set(content["test"]) == {"remaining_1"}
    assert set(content["baselines"]) == {"last seen"}
    scores = content["baselines"]["last seen"]["test"]["remaining_1"]
    low, high = scores["wape_ci"]
    assert low < scores["wape"] < high
    assert "last seen" in content["leaderboard"]["test"]["remaining_1"]["less_best_floor"]
    assert "last seen" in content["slices"]["test"]["remaining_1"]["kind"]["Christmas"]["systems"]
    assert "| last seen |" in (tmp_path / "report.md").read_text()
    assert (tmp_path / "leaderboard.png").is_file()


def test_what_the_data_do_not_allow_is_named_with_its_reason(run, data, tmp_path, monkeypatch):
    dataset = read_dataset(data)
    without = [name for name in baseline_names() if unavailable(name, dataset) is not None]
    assert "stanford 4" in without
    status, _, errors = run("--only", "region median", "stanford 4", "--output_dir", tmp_path / "r")
    assert status == 2
    assert errors.startswith("error: --only 'stanford 4': ")
    assert len(errors.splitlines()) == 1
    assert not (tmp_path / "r").exists()
    # Of all, whatever can be had is fitted and the rest is told, a line each; here all are few, for the sake of time.
    few = ["stanford 4", "last seen", "kkbox M1"]
    monkeypatch.setattr("mp3model.baselines.registry.baseline_names", lambda: few)
    status, out, _ = run("--observed", 0, "--output_dir", tmp_path / "r")
    assert status == 0
    lines = [line for line in out.splitlines() if line.startswith("without ")]
    assert [line.split(":")[0] for line in lines] == ["without stanford 4", "without kkbox M1"]
    content = json.loads((tmp_path / "r" / "report.json").read_text())
    assert set(content["left_out"]) == {"stanford 4", "kkbox M1"}
    assert content["leader"] == "last seen"


def test_stored_forecasts_stand_beside_baselines_and_lead_them(run, tmp_path):
    run("--only", "last seen", "--observed", 0, 1, "--output_dir", tmp_path / "before")
    file = tmp_path / "before" / "baselines" / "last seen.npz"
    words = ("--only", "last seen", "region median", "--observed", 1, "--output_dir", tmp_path / "r", "--forecasts")
    status, _, _ = run(*words, f"one={file}", f"two={file}")
    assert status == 0
    content = json.loads((tmp_path / "r" / "report.json").read_text())
    assert content["leader"] == "one"
    assert set(content["baselines"]) == {"two", "last seen", "region median"}
    assert content["baselines"]["two"] == content["baselines"]["last seen"]
    assert content["differences"]["test"]["remaining_1"]["two"]["wape"]["value"] == 0


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("test.npz", "'test.npz' is no NAME=FILE"),
        ("region median={file}", "region median is the name of another system"),
        ("one=nowhere.npz", "nowhere.npz is no file"),
        ("one={file}", "--observed 2: "),
    ],
)
def test_forecasts_that_cannot_stand_beside_are_refused_in_one_line(word, message, run, tmp_path):
    run("--only", "last seen", "--observed", 0, 1, "--output_dir", tmp_path / "before")
    word = word.format(file=tmp_path / "before" / "baselines" / "last seen.npz")
    words = ("--only", "region median", "--observed", 0, 2, "--output_dir", tmp_path / "r", "--forecasts", word)
    status, _, errors = run(*words)
    assert status == 2
    assert message in errors.splitlines()[-1]
    assert not (tmp_path / "r").exists()
    # Of another split they are forecasts of other debuts.
    if word.startswith("one=") and "nowhere" not in word:
        status, _, errors = run(*words, "--split", "validation")
        assert status == 2
        assert "holds forecasts of other debuts" in errors.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--only", "tea leaves"], "tea leaves"),
        (["--only", "region median", "--observed", "99"], "99"),
        (["--only", "region median", "--split", "nowhere"], "nowhere"),
    ],
)
def test_wrong_input_is_answered_in_one_line_and_leaves_nothing(words, message, run, tmp_path):
    status, _, errors = run(*words, "--output_dir", tmp_path / "r")
    assert status == 2
    assert message in errors.splitlines()[-1]
    assert not (tmp_path / "r").exists()
