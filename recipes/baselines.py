"""Every baseline of curves that the data allow, fitted on the training split and scored on another, in one table.

    python recipes/baselines.py --data DIR --output_dir RUN [--only NAMES]
    python recipes/baselines.py --data DIR --output_dir RUN --model RUN/model          # an MP3 model beside them

Writes RUN/report.json and RUN/table.txt. Differences are those of the model, or of the first baseline, from each other.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mp3model.files import InputError, errors_in_one_line, write_json, written_whole
from mp3model.training.arguments import parse_arguments

# A loader's worker that is spawned, as on macOS, reads this file again under the second name.
if __name__ not in ("__main__", "__mp_main__"):
    raise ImportError("recipes/baselines.py is a script: run it with `python recipes/baselines.py`")


@dataclass
class BaselineArguments:
    """What is fitted, and on what it is scored."""

    data: str = field(metadata={"help": "Dataset folder with curves."})
    only: list[str] | None = field(default=None, metadata={"help": "Baselines by name; none is all of them."})
    model: str | None = field(default=None, metadata={"help": "Folder of an MP3 model to put beside them."})
    split: str = field(default="test", metadata={"help": "Split that is scored."})
    observed: list[int] = field(default_factory=lambda: [0, 1, 2, 4], metadata={"help": "Observed periods."})
    paths: int = field(default=128, metadata={"help": "Paths a forecast of the model."})
    windows: int = field(default=3, metadata={"help": "Windows a preview where the model hears."})
    seed: int = field(default=0, metadata={"help": "Of the bootstrap and the model's paths."})
    output_dir: str = field(default="runs/baselines", metadata={"help": "Run folder."})


with errors_in_one_line():
    (arguments,) = parse_arguments((BaselineArguments,), sys.argv[1:], __doc__.splitlines()[0])

# Only now: `--help` and a wrong option answer without waiting for torch.
import numpy as np  # noqa: E402

from mp3model.baselines.registry import baseline_names, make_baseline  # noqa: E402
from mp3model.evaluation.accuracy import CurveForecasts  # noqa: E402
from mp3model.evaluation.curve_report import add_scores, curve_table  # noqa: E402
from mp3model.evaluation.forecasts import truth_of  # noqa: E402
from mp3model.model.covariates import Covariates  # noqa: E402
from mp3model.tables.curves import PERIOD_DAYS  # noqa: E402
from mp3model.tables.debuts import Debuts, debut_rows, debuts_of  # noqa: E402
from mp3model.tables.folder import DatasetFolder, read_dataset  # noqa: E402
from mp3model.tables.splits import make_splits  # noqa: E402
from mp3model.training.curves import covariates_of  # noqa: E402

GROUPS = ("state", "artist", "regions")


def main() -> None:
    """Fit, forecast, score, in that order."""
    folder = Path(arguments.output_dir)
    with errors_in_one_line():
        if (folder / "report.json").exists():
            raise InputError(f"{folder} holds another run; name another --output_dir")
        names = baseline_names() if arguments.only is None else arguments.only
        dataset = read_dataset(arguments.data)
        if dataset.splits is None:
            dataset = replace(dataset, splits=make_splits(dataset))
        waiting = [(name, make_baseline(name, dataset)) for name in names]
        debuts = debuts_of(dataset, debut_rows(dataset), dataset.horizon)
        train, validation, asked = (debuts.of_split(name) for name in ("train", "validation", arguments.split))
        if not len(train) or not len(asked):
            raise InputError(
                f"{dataset.path}: {len(train.rows)} training and {len(asked.rows)} {arguments.split} debuts"
            )
        until = train.rows["debut"].max() + np.timedelta64(PERIOD_DAYS[dataset.frequency] * dataset.horizon, "D")
        covariates = covariates_of(dataset, dataset.regions, GROUPS, dataset.horizon, until)
        forecasts: dict[str, dict[int, CurveForecasts | None]] = {}
        if arguments.model is not None:
            forecasts["MP3"] = of_model(dataset, asked)
        for name, baseline in waiting:
            forecasts[name] = fitted(name, baseline, train, validation, asked, covariates)
        close(forecasts, asked, folder)


def fitted(
    name: str, baseline: Any, train: Debuts, validation: Debuts, asked: Debuts, covariates: Covariates
) -> dict[int, CurveForecasts | None]:
    """One baseline's forecasts by observed periods."""
    began = time.perf_counter()
    baseline = baseline.fit(train, validation, covariates)
    found = {observed: baseline.forecast(asked, observed) for observed in arguments.observed}
    print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)
    return found


def of_model(dataset: DatasetFolder, asked: Debuts) -> dict[int, CurveForecasts | None]:
    """An MP3 model's forecasts of the same debuts."""
    from mp3model.training.forecasting import forecaster_of

    forecaster = forecaster_of(arguments.model, dataset, arguments.paths, arguments.seed, arguments.windows)
    return {observed: forecaster.paths(asked, observed).forecasts() for observed in arguments.observed}


def close(forecasts: dict[str, dict[int, CurveForecasts | None]], asked: Debuts, folder: Path) -> None:
    """Scores, the table and report.json: the first system that can forecast leads, the others are its rivals."""
    truth = truth_of(asked.rows, asked.curves)
    report: dict[str, Any] = {}
    first = next(iter(forecasts))
    for observed in arguments.observed:
        found = {name: made[observed] for name, made in forecasts.items() if made[observed] is not None}
        leader = found.pop(first, None)
        if leader is None:
            raise InputError(f"{first} cannot forecast with {observed} observed periods; name another first in --only")
        add_scores(report, arguments.split, observed, truth, leader, found, arguments.seed)
    table = curve_table(report, arguments.split, first)
    with written_whole(folder / "table.txt") as path:
        path.write_text(table + "\n")
    write_json(folder / "report.json", report | {"data": arguments.data, "leader": first})
    print(f"\n{table}\n\nreport: {folder / 'report.json'}")


if __name__ == "__main__":
    main()
