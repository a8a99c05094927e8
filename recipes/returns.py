"""Songs that return each December, forecast on a day of autumn, beside the same weeks of last year.

    python recipes/returns.py --data DIR --model RUN/model --origin 2019-10-31 --output_dir RUN

The model must know `past` among its covariates, and for an honest figure its training split ends before the origin.
Writes RUN/report.json, RUN/table.txt and RUN/returns.png.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

from mp3model.files import InputError, errors_in_one_line, write_json, written_whole
from mp3model.training.arguments import parse_arguments

# A loader's worker that is spawned, as on macOS, reads this file again under the second name.
if __name__ not in ("__main__", "__mp_main__"):
    raise ImportError("recipes/returns.py is a script: run it with `python recipes/returns.py`")


@dataclass
class ReturnsArguments:
    """What is forecast, with what, and where it goes."""

    data: str = field(metadata={"help": "Dataset folder."})
    model: str = field(metadata={"help": "Folder of a trained MP3 model that knows the past of songs."})
    origin: str = field(metadata={"help": "Chart day to forecast from, such as 2019-10-31."})
    region: list[str] | None = field(default=None, metadata={"help": "Regions; none is all that the model knows."})
    samples: int = field(default=256, metadata={"help": "Paths a forecast."})
    seed: int = field(default=0, metadata={"help": "Of the paths and the bootstrap."})
    output_dir: str = field(default="runs/returns", metadata={"help": "Run folder."})


with errors_in_one_line():
    (arguments,) = parse_arguments((ReturnsArguments,), sys.argv[1:], __doc__.splitlines()[0])

# Only now: `--help` and a wrong option answer without waiting for torch.
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
from transformers.utils import logging as transformers_logging  # noqa: E402

from mp3model.evaluation.forecasts import truth_of  # noqa: E402
from mp3model.evaluation.returns import (  # noqa: E402
    LAST_YEAR,
    chosen,
    christmas_returns,
    returns_report,
    returns_table,
    rivals,
    weekly_picture,
    weekly_totals,
)
from mp3model.tables.curves import period_dates  # noqa: E402
from mp3model.tables.debuts import debuts_of  # noqa: E402
from mp3model.tables.folder import read_dataset  # noqa: E402
from mp3model.training.curves import descriptor_table  # noqa: E402
from mp3model.training.forecasting import forecaster_of  # noqa: E402
from mp3model.training.runs import check_bounds  # noqa: E402


def main() -> None:
    """Rows, forecasts, measures, files, in that order."""
    transformers_logging.disable_progress_bar()
    folder = Path(arguments.output_dir)
    check_bounds(arguments, {"samples": (10, None)})
    try:
        origin = pd.Timestamp(arguments.origin).normalize()
    except ValueError as error:
        raise InputError(f"--origin {arguments.origin!r} is no date; write it as 2019-10-31") from error
    dataset = read_dataset(arguments.data)
    forecaster = forecaster_of(arguments.model, dataset, arguments.samples, arguments.seed)
    config = forecaster.model.config
    if "past" not in config.covariates:
        raise InputError(
            f"{arguments.model}: knows {', '.join(config.covariates)} of a song, not its past; train it with past in "
            "--covariates and with --running"
        )
    rows = christmas_returns(dataset, origin.to_datetime64(), config.horizon, list(arguments.region or config.regions))
    descriptors = None
    if config.descriptors:
        descriptors, _ = descriptor_table(dataset, rows, config.descriptors, config.descriptor_statistics)
    asked = debuts_of(dataset, rows, config.horizon, descriptors)
    paths = forecaster.of_rows(asked, asked.rows)
    truth = truth_of(asked.rows, asked.curves)
    others = rivals(dataset, asked.rows, config.horizon)
    systems = {"MP3": paths.forecasts()} | others
    slices = {"all that charted": np.ones(len(rows), bool), "charted both Christmases": rows["again"].to_numpy()}
    report = {
        name: returns_report(
            rows[kept], chosen(truth, kept), {key: chosen(one, kept) for key, one in systems.items()}, arguments.seed
        )
        for name, kept in slices.items()
        if np.isfinite(truth.streams[kept]).all(axis=1).any()
    }
    dates = period_dates(np.array([asked.rows["debut"].iloc[0]]), config.horizon, config.frequency)[0]
    totals = weekly_totals(truth, paths.streams, others[LAST_YEAR])
    table = "\n\n".join(f"{name}: {returns_table(part)}" for name, part in report.items())
    seen = f"songs of Christmas {origin.year - 1}, forecast on {origin.date()}"
    write_json(
        folder / "report.json",
        {"origin": str(origin.date()), "data": str(dataset.path), "model": arguments.model}
        | {"slices": report}
        | {"weekly": totals | {"date": [str(day)[:10] for day in dates]}},
    )
    with written_whole(folder / "table.txt") as path:
        path.write_text(table + "\n")
    with written_whole(folder / "returns.png") as path:
        weekly_picture(totals, dates, seen).savefig(path, format="png", dpi=130)
    print(f"{seen}\n{table}\n\n{folder / 'report.json'}   {folder / 'returns.png'}")


if __name__ == "__main__":
    with errors_in_one_line():
        main()
