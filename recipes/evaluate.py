"""An MP3 model, or any forecast tables, scored beside baselines: a report, pictures, and proof that nothing leaks.

    python recipes/evaluate.py --data DIR --split test --observed 0 1 2 4 --model RUN/model --output_dir RUN [--audit]
    python recipes/evaluate.py --data DIR --forecasts RUN0 RUN2 --output_dir RUN [--baselines boosted "region median"]

Forecast tables are a folder as recipes/forecast.py writes it; without its arguments.json name the one --observed they
were made with. Writes RUN/report.md, RUN/report.json, RUN/table.txt and pictures. With --audit all after the cut-offs
is changed and no forecast may move: the exit status is 1 if one does. With --bench FILE.parquet the forecasts of the
first system (model, tables or else the first baseline) are written as FILE.0.parquet, FILE.1.parquet, …, a row a debut,
for any independent scorer; the columns are described in mp3model/evaluation/prediction_tables.py.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mp3model.files import InputError, errors_in_one_line
from mp3model.training.arguments import parse_arguments

# A loader's worker that is spawned, as on macOS, reads this file again under the second name.
if __name__ not in ("__main__", "__mp_main__"):
    raise ImportError("recipes/evaluate.py is a script: run it with `python recipes/evaluate.py`")

# What a figure must be read beside, as in recipes/mp3.py.
FLOORS = ("region median", "artist previous release", "carry-forward", "geometric decay", "mean ratio")


@dataclass
class EvaluateArguments:
    """What is scored, beside what, and where the report goes."""

    data: str = field(metadata={"help": "Dataset folder with curves."})
    model: str | None = field(default=None, metadata={"help": "Folder of an MP3 model."})
    forecasts: list[str] = field(
        default_factory=list, metadata={"help": "Folders of forecast tables, one for each number of observed periods."}
    )
    baselines: list[str] | None = field(
        default=None, metadata={"help": "Baselines by name; none given is five floors, `none` is no baseline."}
    )
    split: str = field(default="test", metadata={"help": "Split that is scored."})
    observed: list[int] | None = field(
        default=None, metadata={"help": "Observed periods; none given is 0 1 2 4, or those of the tables."}
    )
    audit: bool = field(default=False, metadata={"help": "Change all after the cut-offs: no forecast may move."})
    audit_days: int = field(default=4, metadata={"help": "Cut-offs that the audit looks at."})
    audit_each: int = field(default=3, metadata={"help": "Debuts it takes a day, region and observed periods."})
    bench: str | None = field(
        default=None, metadata={"help": "FILE.parquet: also the first system's forecasts, as FILE.K.parquet."}
    )
    worth: bool = field(
        default=True, metadata={"help": "Also ask the model without each group of its inputs: four times the work."}
    )
    paths: int = field(default=128, metadata={"help": "Paths a forecast of the model."})
    windows: int = field(default=3, metadata={"help": "Windows a preview where the model hears."})
    seed: int = field(default=0, metadata={"help": "Of the bootstrap, the model's paths and the audit."})
    output_dir: str = field(default="runs/evaluate", metadata={"help": "Run folder."})


def check_arguments(arguments: EvaluateArguments) -> None:
    """Refuses what cannot be done before anything is read."""
    from mp3model.training.runs import check_bounds

    check_bounds(arguments, dict.fromkeys(("paths", "windows", "audit_days", "audit_each"), (1, None)))
    if (Path(arguments.output_dir) / "report.json").exists():
        raise InputError(f"{arguments.output_dir} holds another report; name another --output_dir")
    if arguments.model is None and not arguments.forecasts and arguments.baselines in (None, ["none"]):
        raise InputError("nothing to score: give --model, a folder, --forecasts, folders of tables, or --baselines")
    if arguments.bench is not None:
        from mp3model.evaluation.prediction_tables import table_path

        table_path(arguments.bench, 0)
    if arguments.audit and arguments.model is None:
        raise InputError("--audit asks the model again: give --model; tables cannot be asked")
    for folder in arguments.forecasts:
        for name in ("forecasts", "popularity"):
            if not (Path(folder) / f"{name}.parquet").is_file():
                raise InputError(f"--forecasts {folder}: no {name}.parquet; make the tables with recipes/forecast.py")


with errors_in_one_line():
    (arguments,) = parse_arguments((EvaluateArguments,), sys.argv[1:], __doc__.splitlines()[0])
    check_arguments(arguments)

# Only now: `--help` and a wrong option answer without waiting for torch.
import json  # noqa: E402

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
from transformers.utils import logging as transformers_logging  # noqa: E402

from mp3model.baselines.registry import make_baseline  # noqa: E402
from mp3model.evaluation.accuracy import QUANTILES, CurveForecasts  # noqa: E402
from mp3model.evaluation.audit import audit_forecasts, sample_of  # noqa: E402
from mp3model.evaluation.forecasts import PERIOD_NAMES, RankCurves  # noqa: E402
from mp3model.evaluation.full_report import full_report, leader_of, write_full_report  # noqa: E402
from mp3model.evaluation.prediction_tables import write_prediction_table  # noqa: E402
from mp3model.evaluation.slices import forecasts_without  # noqa: E402
from mp3model.model.covariates import Covariates  # noqa: E402
from mp3model.tables.curves import PERIOD_DAYS  # noqa: E402
from mp3model.tables.debuts import Debuts, debut_rows, debuts_of  # noqa: E402
from mp3model.tables.folder import DatasetFolder, read_dataset  # noqa: E402
from mp3model.tables.history import History  # noqa: E402
from mp3model.tables.splits import make_splits  # noqa: E402
from mp3model.training.curves import covariates_of, descriptor_table  # noqa: E402
from mp3model.training.forecasting import PathForecaster, forecaster_of  # noqa: E402

GROUPS = ("state", "artist", "regions")
# System → observed periods → its forecasts of the debuts that are scored; None where it cannot forecast.
Forecasts = dict[str, dict[int, CurveForecasts | None]]


def main() -> None:
    """Forecast, score, audit, write, in that order."""
    folder = Path(arguments.output_dir)
    transformers_logging.disable_progress_bar()
    with errors_in_one_line():
        dataset = read_dataset(arguments.data)
        if dataset.splits is None:
            dataset = replace(dataset, splits=make_splits(dataset))
        forecaster = None
        if arguments.model is not None:
            forecaster = forecaster_of(arguments.model, dataset, arguments.paths, arguments.seed, arguments.windows)
        tables = folders_of_tables()
        debuts = all_debuts(dataset, forecaster)
        asked = debuts.of_split(arguments.split)
        if not len(asked):
            raise InputError(f"{dataset.path}: no debut in the {arguments.split} split that the model knows")
        asked_for = arguments.observed or ([0, 1, 2, 4] if forecaster or not tables else sorted(tables))
        if max(asked_for) >= asked.curves.streams.shape[1] or min(asked_for) < 0:
            raise InputError(f"--observed {asked_for}: curves have {asked.curves.streams.shape[1]} periods")
        forecasts: Forecasts = {}
        without: dict[int, tuple[CurveForecasts, dict[str, CurveForecasts]]] = {}
        if forecaster is not None:
            forecasts["MP3"] = {k: forecaster.paths(asked, k).forecasts() for k in asked_for}
            without = {k: forecasts_without(forecaster, asked, k) for k in asked_for if arguments.worth}
        if tables:
            forecasts["tables"] = {k: of_tables(tables[k], asked, k, dataset) for k in asked_for if k in tables}
        forecasts |= of_baselines(dataset, debuts, asked, asked_for)
        leader = next(iter(forecasts)) if forecaster or tables else leader_of(forecasts, asked_for)
        report = full_report(forecasts, asked, dataset, arguments.split, asked_for, leader, without, arguments.seed)
        if arguments.audit and forecaster is not None:
            report["audit"] = audited(forecaster, dataset, asked, asked_for)
        if arguments.bench is not None:
            for k in asked_for:
                if (given := forecasts[leader][k]) is not None:
                    print(write_prediction_table(arguments.bench, asked, given, k))
        write_full_report(report, folder)
    print(f"{folder / 'report.md'}\n{report.get('audit', {}).get('summary', '')}".strip())
    if report.get("audit", {}).get("moved"):
        print(f"error: {report['audit']['summary']}", file=sys.stderr)
        raise SystemExit(1)


def all_debuts(dataset: DatasetFolder, forecaster: PathForecaster | None) -> Debuts:
    """Every kept debut that the model, if there is one, knows the region and has the inputs of."""
    rows = debut_rows(dataset)
    if forecaster is None:
        return debuts_of(dataset, rows, dataset.horizon)
    config = forecaster.model.config
    rows = rows[rows["region"].isin(config.regions)].reset_index(drop=True)
    found = described(forecaster, dataset, rows)
    if config.encoder == "descriptors":
        # As in training: which rows have descriptors may tell the outcome, so only those that do are asked.
        assert found.descriptors is not None
        return found.chosen(np.isfinite(found.descriptors).all(axis=1))
    return found


def described(forecaster: PathForecaster, dataset: DatasetFolder, rows: pd.DataFrame) -> Debuts:
    """Rows with their curves and whatever descriptors the model reads."""
    config, descriptors = forecaster.model.config, None
    if config.encoder in ("descriptors", "both"):
        descriptors, _ = descriptor_table(dataset, rows, config.descriptors, config.descriptor_statistics)
    return debuts_of(dataset, rows, config.horizon, descriptors)


def folders_of_tables() -> dict[int, Path]:
    """Observed periods → the folder with the tables made with so many."""
    tables: dict[int, Path] = {}
    for name in arguments.forecasts:
        observed = observed_of(Path(name))
        if observed in tables:
            raise InputError(
                f"--forecasts {name}: {tables[observed]} has tables with {observed} observed periods too; give one"
            )
        tables[observed] = Path(name)
    return tables


def observed_of(folder: Path) -> int:
    """With how many observed periods a folder's tables were made."""
    record = folder / "arguments.json"
    if record.is_file():
        return int(json.loads(record.read_text())["observed"])
    if arguments.observed is None or len(arguments.observed) != 1:
        raise InputError(f"--forecasts {folder}: no arguments.json; name the one --observed the tables were made with")
    return int(arguments.observed[0])


def of_tables(folder: Path, asked: Debuts, observed: int, dataset: DatasetFolder) -> CurveForecasts:
    """Forecast tables as scores read them: medians a period, quantiles of the streams still to come."""
    period = PERIOD_NAMES[dataset.frequency]
    keys = pd.MultiIndex.from_frame(asked.rows[["track_id", "region"]])
    curves = pd.read_parquet(folder / "forecasts.parquet")
    medians = curves.pivot(index=["track_id", "region"], columns=period, values="0.5").reindex(keys)
    first = curves[curves[period] == 0].set_index(["track_id", "region"])["date"]
    begins = pd.to_datetime(first).reindex(keys).to_numpy()
    named = asked.rows["track_id"] + " in " + asked.rows["region"]
    wrong = np.flatnonzero(begins != asked.rows["debut"].to_numpy())
    if len(wrong):
        raise InputError(
            f"{folder / 'forecasts.parquet'}: {len(wrong)} debuts of the {arguments.split} split of {dataset.path} are "
            f"not in it, or with another first date, the first {named.iloc[wrong[0]]} on "
            f"{asked.rows['debut'].iloc[wrong[0]].date()}; forecast them with recipes/forecast.py"
        )
    metrics = pd.read_parquet(folder / "popularity.parquet").set_index(["metric", "track_id", "region"])
    remaining = metrics.loc["remaining"].reindex(keys)[list(QUANTILES)].to_numpy(dtype=float)
    seen = (asked.curves.chart_observed()[:, :observed] > 0).sum(axis=1)
    length = metrics.loc["length"].reindex(keys)["0.5"].to_numpy(dtype=float) - seen
    rank = metrics.loc["debut_rank"].reindex(keys)["0.5"].to_numpy(dtype=float)
    return CurveForecasts(
        curve=medians.reindex(columns=range(asked.curves.streams.shape[1])).to_numpy(dtype=float),
        quantiles=remaining,
        score=np.log10(1 + remaining).mean(axis=1),
        rank0=rank if observed == 0 and np.isfinite(rank).all() else None,
        length=np.maximum(length, 0),
    )


def of_baselines(dataset: DatasetFolder, debuts: Debuts, asked: Debuts, asked_for: list[int]) -> Forecasts:
    """Each baseline fitted on the training split, and its forecasts."""
    given = FLOORS if arguments.baselines is None else arguments.baselines
    names = [name for name in given if name != "none"]
    waiting = [make_baseline(name, dataset) for name in names]
    if not waiting:
        return {}
    train, validation = debuts.of_split("train"), debuts.of_split("validation")
    if not len(train):
        raise InputError(f"{dataset.path}: no training debut to fit baselines on; --baselines none leaves them out")
    horizon = debuts.curves.streams.shape[1]
    until = train.rows["debut"].max() + np.timedelta64(PERIOD_DAYS[dataset.frequency] * horizon, "D")
    covariates = covariates_of(dataset, dataset.regions, GROUPS, horizon, until)
    fitted = [baseline.fit(train, validation, covariates) for baseline in waiting]
    return {
        name: {k: baseline.forecast(asked, k) for k in asked_for} for name, baseline in zip(names, fitted, strict=True)
    }


def audited(forecaster: PathForecaster, dataset: DatasetFolder, asked: Debuts, asked_for: list[int]) -> dict[str, Any]:
    """The model asked again with all after the cut-offs changed: what moved, as report.json holds it."""
    config = forecaster.model.config

    def forecast(given: DatasetFolder, rows: pd.DataFrame) -> np.ndarray:
        if given is dataset:
            return numbers(forecaster, given, rows)
        history = History(given, config.scales)
        covariates = Covariates(
            list(config.regions), config.frequency, config.horizon, tuple(config.covariates), history.states, history
        )
        # What was heard has no date, so the hearing and its memory stay.
        again = replace(forecaster, covariates=covariates, rank_curves=RankCurves.of(given))
        return numbers(again, given, rows)

    def numbers(asking: PathForecaster, given: DatasetFolder, rows: pd.DataFrame) -> np.ndarray:
        paths = asking.of_rows(described(asking, given, rows), rows)
        return np.concatenate([paths.streams.reshape(len(rows), -1), paths.debut_rank], axis=1)

    sample = sample_of(asked.rows, asked_for, dataset.frequency, arguments.audit_days, arguments.audit_each)
    table = audit_forecasts(forecast, dataset, sample, (arguments.seed, arguments.seed + 1))
    moved = table[table["difference"] > 0]
    days = ", ".join(str(day.date()) for day in sorted(table["cutoff"].unique()))
    over = f"{len(sample)} forecasts in {table['region'].nunique()} regions with {asked_for} observed periods"
    regions = sorted(set(asked.rows["region"]))
    left = [f"{k} {name}" for k in asked_for for name in regions if not reached(table, k, name)]
    summary = f"All after {days} changed: no forecast of {over} moved."
    if len(moved):
        worst = moved.sort_values("difference").iloc[-1]
        summary = (
            f"All after the cut-off changed: {len(moved)} of {len(table)} groups of {over} moved, most in "
            f"{worst['region']} with {worst['observed']} observed periods as of {worst['cutoff'].date()}, by "
            f"{worst['difference']:g} streams"
        )
    if left:
        summary += f" (--audit_days {arguments.audit_days} left out {len(left)} pairs of observed periods and region)"
    # JSON has no infinity: null stands for a number that became none.
    rows = table.assign(cutoff=table["cutoff"].dt.strftime("%Y-%m-%d"))
    return {
        "summary": summary,
        "moved": len(moved),
        "largest_difference": float(min(table["difference"].max(), sys.float_info.max)),
        "not_reached": left,
        "rows": json.loads(rows.to_json(orient="records")),
    }


def reached(table: pd.DataFrame, observed: int, region: str) -> bool:
    """Whether the audit asked for a debut of this region with so many observed periods."""
    return bool(((table["observed"] == observed) & (table["region"] == region)).any())


if __name__ == "__main__":
    main()
