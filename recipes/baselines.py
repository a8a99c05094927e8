"""Every baseline of curves that the data allow, fitted on the training split and scored on another, in one report.

    python recipes/baselines.py --data DIR --output_dir RUN [--only NAMES] [--search] [--resume]
    python recipes/baselines.py --data DIR --output_dir RUN --model RUN/model          # an MP3 model beside them
    python recipes/baselines.py --data DIR --output_dir RUN --forecasts MP3=RUN/test.npz other=OTHER/test.npz

Writes RUN/report.md, RUN/report.json, RUN/table.txt and pictures. Each baseline's forecasts stay in RUN/baselines, so
that a killed run goes on with --resume where it was; one that fails is named, the others are scored, and the exit
status is 1. Differences are those of the model, or of the first forecasts given (recipes/mp3.py stores those of its
test split), or of the first baseline that can always forecast, from each other.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from mp3model.files import InputError, errors_in_one_line, write_json
from mp3model.training.arguments import parse_arguments

# A loader's worker that is spawned, as on macOS, reads this file again under the second name.
if __name__ not in ("__main__", "__mp_main__"):
    raise ImportError("recipes/baselines.py is a script: run it with `python recipes/baselines.py`")


@dataclass
class BaselineArguments:
    """What is fitted, and on what it is scored."""

    data: str = field(metadata={"help": "Dataset folder with curves."})
    only: list[str] | None = field(
        default=None, metadata={"help": "Baselines by name; none is all that the data allow."}
    )
    search: bool = field(default=False, metadata={"help": "Choose settings on validation, where a baseline can."})
    kkbox: str | None = field(default=None, metadata={"help": "Folder of KKBOX's published weights."})
    model: str | None = field(default=None, metadata={"help": "Folder of an MP3 model to put beside them."})
    forecasts: list[str] | None = field(
        default=None,
        metadata={
            "help": "NAME=FILE of stored forecasts of the same debuts to put beside them: RUN/test.npz of mp3.py."
        },
    )
    split: str = field(default="test", metadata={"help": "Split that is scored."})
    observed: list[int] = field(default_factory=lambda: [0, 1, 2, 4], metadata={"help": "Observed periods."})
    worth: bool = field(
        default=True, metadata={"help": "Also ask the model without each group of its inputs: four times the work."}
    )
    paths: int = field(default=128, metadata={"help": "Paths a forecast of the model."})
    windows: int = field(default=3, metadata={"help": "Windows a preview where the model hears."})
    seed: int = field(default=0, metadata={"help": "Of the bootstrap and the model's paths."})
    output_dir: str = field(default="runs/baselines", metadata={"help": "Run folder."})
    resume: bool = field(default=False, metadata={"help": "Go on with what the run folder holds."})


with errors_in_one_line():
    (arguments,) = parse_arguments((BaselineArguments,), sys.argv[1:], __doc__.splitlines()[0])

# Only now: `--help` and a wrong option answer without waiting for torch.
import json  # noqa: E402
import re  # noqa: E402

import numpy as np  # noqa: E402

from mp3model.baselines.registry import baseline_names, make_baseline, unavailable  # noqa: E402
from mp3model.evaluation.accuracy import CurveForecasts, curve_row_scores  # noqa: E402
from mp3model.evaluation.forecasts import truth_of  # noqa: E402
from mp3model.evaluation.full_report import full_report, leader_of, write_full_report  # noqa: E402
from mp3model.evaluation.slices import forecasts_without  # noqa: E402
from mp3model.evaluation.stored_forecasts import read_forecasts, write_forecasts  # noqa: E402
from mp3model.model.covariates import Covariates  # noqa: E402
from mp3model.tables.curves import PERIOD_DAYS  # noqa: E402
from mp3model.tables.debuts import Debuts, debut_rows, debuts_of  # noqa: E402
from mp3model.tables.folder import DatasetFolder, read_dataset  # noqa: E402
from mp3model.tables.splits import make_splits  # noqa: E402
from mp3model.training.curves import covariates_of  # noqa: E402

GROUPS = ("state", "artist", "regions")
MODEL = "MP3"
Found = dict[int, CurveForecasts | None]


def main() -> None:
    """Fit, forecast, score, in that order; what was fitted before a run was killed is read back."""
    folder = Path(arguments.output_dir)
    with errors_in_one_line():
        dataset = read_dataset(arguments.data)
        if dataset.splits is None:
            dataset = replace(dataset, splits=make_splits(dataset))
        names, left_out = chosen(dataset)
        debuts = debuts_of(dataset, debut_rows(dataset), dataset.horizon)
        train, validation, asked = (debuts.of_split(name) for name in ("train", "validation", arguments.split))
        if not len(train) or not len(asked):
            raise InputError(
                f"{dataset.path}: {len(train.rows)} training and {len(asked.rows)} {arguments.split} debuts"
            )
        if max(arguments.observed) >= dataset.horizon or min(arguments.observed) < 0:
            raise InputError(f"--observed {arguments.observed}: curves have {dataset.horizon} periods")
        stored = given_forecasts(asked, names)
        if claim(folder):
            print(f"{folder} is finished:\n\n{(folder / 'table.txt').read_text()}")
            return
        for name, reason in left_out.items():
            print(f"without {name}: {reason}", flush=True)
        forecasts: dict[str, Found] = {}
        without: dict[int, tuple[CurveForecasts, dict[str, CurveForecasts]]] = {}
        if arguments.model is not None:
            forecasts[MODEL], without = of_model(dataset, asked, folder)
        forecasts |= stored
        until = train.rows["debut"].max() + np.timedelta64(PERIOD_DAYS[dataset.frequency] * dataset.horizon, "D")
        covariates = covariates_of(dataset, dataset.regions, GROUPS, dataset.horizon, until)
        fitted, failed = all_fitted(names, dataset, (train, validation, asked), covariates, folder)
        forecasts |= fitted
        if forecasts:
            # Systems that only listen forecast before the debut: the rest of the question has no answer then.
            observed = [k for k in arguments.observed if any(found[k] is not None for found in forecasts.values())]
            for k in sorted(set(arguments.observed) - set(observed)):
                print(f"without {k} observed period(s): none of these systems forecasts with so many", flush=True)
            leader = leader_of(forecasts, observed)
            report = full_report(forecasts, asked, dataset, arguments.split, observed, leader, without, arguments.seed)
            table = write_full_report(report | {"left_out": left_out, "failed": failed}, folder)
            print(f"\n{table}\n\nreport: {folder / 'report.md'}")
    for name, reason in failed.items():
        print(f"error: baseline {name!r} failed: {reason}; mend it and go on with --resume", file=sys.stderr)
    if failed:
        raise SystemExit(1)


def chosen(dataset: DatasetFolder) -> tuple[list[str], dict[str, str]]:
    """Baselines to fit, and why those that were not asked for by name cannot be."""
    names = baseline_names() if arguments.only is None else list(dict.fromkeys(arguments.only))
    reasons = {name: unavailable(name, dataset, arguments.kkbox) for name in names}
    left_out = {name: reason for name, reason in reasons.items() if reason is not None}
    if arguments.only is not None and left_out:
        name, reason = next(iter(left_out.items()))
        raise InputError(f"--only {name!r}: {reason}")
    return [name for name in names if name not in left_out], left_out


def given_forecasts(asked: Debuts, names: list[str]) -> dict[str, Found]:
    """The forecasts that --forecasts names, at the observed periods asked for."""
    found: dict[str, Found] = {}
    taken = {*names, *([MODEL] if arguments.model is not None else [])}
    for word in arguments.forecasts or []:
        name, equals, path = word.partition("=")
        if not (name and equals and path):
            raise InputError(f"--forecasts {word!r} is no NAME=FILE, such as MP3=RUN/test.npz")
        if name in taken | set(found):
            raise InputError(f"--forecasts {word!r}: {name} is the name of another system here; give it one of its own")
        if not Path(path).is_file():
            raise InputError(f"--forecasts {word!r}: {path} is no file; recipes/mp3.py writes RUN/test.npz")
        stored = read_forecasts(Path(path), asked)
        absent = [k for k in arguments.observed if stored.get(k) is None]
        if absent:
            told = ", ".join(map(str, stored))
            raise InputError(
                f"--observed {absent[0]}: {path} holds forecasts with {told} observed periods; ask for those"
            )
        found[name] = {k: stored[k] for k in arguments.observed}
    return found


def claim(folder: Path) -> bool:
    """Records the run's arguments; refuses another run's folder. True if there is nothing left to do."""
    record, done = folder / "arguments.json", folder / "report.json"
    now = {name: value for name, value in asdict(arguments).items() if name not in ("output_dir", "resume")}
    used = done.exists() or any(folder.glob("baselines/*.npz"))
    if used and not arguments.resume:
        raise InputError(f"{folder} holds another run; go on with --resume, or name another --output_dir")
    before = json.loads(record.read_text()) if record.is_file() else now
    changed = [name for name in now if now[name] != before.get(name)]
    if used and changed:
        name = changed[0]
        raise InputError(f"--{name} {now[name]}: {folder} was begun with {before.get(name)}; resume with the same")
    write_json(record, now)
    return done.exists() and not json.loads(done.read_text())["failed"]


def all_fitted(
    names: list[str],
    dataset: DatasetFolder,
    parts: tuple[Debuts, Debuts, Debuts],
    covariates: Covariates,
    folder: Path,
) -> tuple[dict[str, Found], dict[str, str]]:
    """Forecasts of each baseline that could be fitted, and what was wrong with each other one."""
    train, validation, asked = parts
    forecasts, failed = {}, {}

    def fitted(name: str) -> Found:
        baseline = make_baseline(name, dataset, search=arguments.search, kkbox=arguments.kkbox)
        baseline = baseline.fit(train, validation, covariates)
        return {observed: baseline.forecast(asked, observed) for observed in arguments.observed}

    for name in names:
        # Whatever one baseline does, hours of the others must not be lost.
        try:
            forecasts[name] = kept(name, asked, folder, lambda name=name: fitted(name))  # type: ignore[misc]
        except Exception as error:
            if not isinstance(error, InputError):
                traceback.print_exc()
            failed[name] = f"{type(error).__name__}: {error}".removeprefix("InputError: ")
            print(f"{name}: failed: {failed[name]}", file=sys.stderr, flush=True)
    return forecasts, failed


def kept(name: str, asked: Debuts, folder: Path, make: Callable[[], Found]) -> Found:
    """A system's forecasts by observed periods: from the run folder if they are there, else made and put there."""
    path = folder / "baselines" / (re.sub(r"[^-+.× \w]", "-", name) + ".npz")
    if path.is_file():
        print(f"{name}: read from {path}", flush=True)
        return read_forecasts(path, asked)
    began = time.perf_counter()
    found = make()
    truth = truth_of(asked.rows, asked.curves)
    for observed, given in found.items():
        if given is not None:
            # What cannot be scored is not worth keeping: raises what is wrong.
            curve_row_scores(truth, given, observed)
    write_forecasts(path, asked, found)
    print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)
    return found


def of_model(
    dataset: DatasetFolder, asked: Debuts, folder: Path
) -> tuple[Found, dict[int, tuple[CurveForecasts, dict[str, CurveForecasts]]]]:
    """An MP3 model's forecasts of the same debuts, and what `forecasts_without` gives of it."""
    from mp3model.training.forecasting import forecaster_of

    forecaster = forecaster_of(arguments.model, dataset, arguments.paths, arguments.seed, arguments.windows)
    found = kept(MODEL, asked, folder, lambda: {k: forecaster.paths(asked, k).forecasts() for k in arguments.observed})
    return found, {k: forecasts_without(forecaster, asked, k) for k in arguments.observed if arguments.worth}


if __name__ == "__main__":
    main()
