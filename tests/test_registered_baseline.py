"""A baseline of a few lines, registered by its author, is fitted and shown by the recipe beside the others."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from small_charts import small_charts

from mp3model.baselines.curve_floors import complete_debuts, known_of, whole_curves
from mp3model.baselines.registry import register, unregister
from mp3model.evaluation.accuracy import CurveForecasts
from mp3model.tables.folder import write_dataset

RECIPE = Path(__file__).resolve().parent.parent / "recipes" / "baselines.py"


class HalfOfTheMean:
    """Every debut gets half of the mean curve of all training debuts, in floor units."""

    name = "half of the mean"

    def fit(self, train, validation, covariates):
        self.covariates, train = covariates, complete_debuts(train)
        self.mean = whole_curves(train, known_of(train, covariates, 0)).mean(axis=0)
        return self

    def forecast(self, debuts, observed):
        known = known_of(debuts, self.covariates, observed)
        curve = 0.5 * self.mean * known.floor[:, None]
        total = curve[:, observed:].sum(axis=1)
        return CurveForecasts(curve, total[:, None] * np.linspace(0.2, 1.8, 9))


def test_a_baseline_of_under_forty_lines_appears_in_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    dataset = small_charts()
    write_dataset(
        tmp_path / "data",
        tracks=dataset.tracks,
        curves=dataset.curves,
        charts=dataset.charts,
        splits=dataset.splits,
        info=dataset.info,
    )
    register("half of the mean", lambda dataset: HalfOfTheMean())
    try:
        told = ["--data", str(tmp_path / "data"), "--output_dir", str(tmp_path / "run")]
        told += ["--only", "region median", "half of the mean", "--observed", "0", "2"]
        monkeypatch.setattr(sys, "argv", [str(RECIPE), *told])
        runpy.run_path(str(RECIPE), run_name="__main__")
    finally:
        unregister("half of the mean")
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    scores = report["baselines"]["half of the mean"]["test"]
    assert {"total", "remaining_2"} <= set(scores)
    assert scores["total"]["crps_logfloor"] > 0
    texts = [path.read_text() for path in (tmp_path / "run").iterdir() if path.suffix in (".txt", ".md")]
    assert any("half of the mean" in text for text in texts)
