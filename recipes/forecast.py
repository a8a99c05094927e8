"""Forecasts of many songs with one MP3 model: a dataset's debuts, its running songs on a day, or a folder of files.

    accelerate launch recipes/forecast.py --data DIR --model RUN/model --split test --observed 0 --output_dir RUN
    accelerate launch recipes/forecast.py --data DIR --model RUN/model --origin 2026-10-29 --output_dir RUN
    accelerate launch recipes/forecast.py --audio FOLDER --region US --region GB --release 2026-12-04 --model RUN/model

Writes RUN/forecasts.parquet, RUN/popularity.parquet and RUN/paths.parquet; of files also RUN/chances.parquet,
RUN/comparables.parquet, RUN/flags.parquet (why not to trust a forecast) and RUN/rejected.parquet (files without usable
sound, and why). Songs go in shards over the processes; a run that was interrupted goes on with --resume from the shards
that are whole, to the same tables. Two processes on a machine without a GPU:

    torchrun --standalone --nproc_per_node 2 recipes/forecast.py ...
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mp3model.files import InputError, errors_in_one_line, folder_written_whole, sha256_of, write_json, written_whole
from mp3model.training.arguments import arguments_as_dict, parse_arguments

# A loader's worker that is spawned, as on macOS, reads this file again under the second name.
if __name__ not in ("__main__", "__mp_main__"):
    raise ImportError("recipes/forecast.py is a script: run it with `accelerate launch recipes/forecast.py`")


@dataclass
class ForecastArguments:
    """What is forecast, with what, and where it goes."""

    model: str = field(metadata={"help": "Folder of a trained MP3 model."})
    data: str | None = field(default=None, metadata={"help": "Dataset folder."})
    audio: str | None = field(default=None, metadata={"help": "Folder of audio files, instead of a dataset's songs."})
    split: str = field(default="test", metadata={"help": "train, validation, test or all."})
    observed: int = field(default=0, metadata={"help": "Periods of each debut that are known."})
    origin: str | None = field(
        default=None, metadata={"help": "Forecast every song running on this day, from what was known then."}
    )
    returning: bool = field(
        default=False,
        metadata={"help": "With --origin, also songs off the charts that were on them in the weeks of a year ago."},
    )
    region: list[str] | None = field(
        default=None,
        # Repeated, as in `mp3model forecast`, the regions add up; without it the last would silently win.
        metadata={"help": "Regions, in one option or several; none is all that the model knows.", "action": "extend"},
    )
    release: str | None = field(default=None, metadata={"help": "Release date of the files in --audio."})
    samples: int = field(default=256, metadata={"help": "Paths a forecast."})
    seed: int = field(default=0, metadata={"help": "Of the paths."})
    windows: int = field(default=3, metadata={"help": "Windows a preview."})
    full: bool = field(default=False, metadata={"help": "Keep what lies below the chart instead of 0."})
    shard: int = field(default=32, metadata={"help": "Songs or files a shard."})
    output_dir: str = field(default="runs/forecast", metadata={"help": "Run folder."})
    resume: bool = field(default=False, metadata={"help": "Go on from the shards that are whole."})


with errors_in_one_line():
    (arguments,) = parse_arguments((ForecastArguments,), sys.argv[1:], __doc__.splitlines()[0])

# Only now: `--help` and a wrong option answer without waiting for torch.
import json  # noqa: E402
import shutil  # noqa: E402
from collections.abc import Callable  # noqa: E402

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
from accelerate import Accelerator  # noqa: E402
from tqdm import tqdm  # noqa: E402
from transformers.utils import logging as transformers_logging  # noqa: E402

from mp3model.audio.bank import SAMPLE_RATE  # noqa: E402
from mp3model.audio.decode import SUFFIXES, decode  # noqa: E402
from mp3model.model.products import multiply_alike_everywhere  # noqa: E402
from mp3model.serving.forecaster import Forecaster  # noqa: E402
from mp3model.tables.curves import PERIOD_DAYS  # noqa: E402
from mp3model.tables.debuts import debut_rows, debuts_of, running_rows  # noqa: E402
from mp3model.tables.folder import read_dataset  # noqa: E402
from mp3model.tables.splits import first_rows  # noqa: E402
from mp3model.training.curves import descriptor_table  # noqa: E402
from mp3model.training.forecasting import forecaster_of  # noqa: E402
from mp3model.training.runs import begin_run, check_bounds, end_run  # noqa: E402

TABLES = ("forecasts", "popularity", "paths")
# Shards of which the tables are written.
JOINED = ".shards"
# A resumed run may not change what the tables hold.
MAY_CHANGE = {"output_dir", "resume"}
# Units in, their tables by name out.
Shard = Callable[[list[str]], dict[str, pd.DataFrame]]


def main() -> None:
    """Units in shards, each written whole; then the shards joined in order."""
    folder = Path(arguments.output_dir)
    multiply_alike_everywhere()
    accelerator = begin_run()
    transformers_logging.disable_progress_bar()
    with errors_in_one_line(speak=accelerator.is_main_process):
        check_bounds(arguments, {"samples": (1, None), "observed": (0, None), "shard": (1, None), "windows": (1, None)})
        if (arguments.data is None) == (arguments.audio is None):
            raise InputError("give either --data, a dataset folder, or --audio, a folder of files")
        # Shards are there until every table is: those of files are more than three.
        if all((folder / f"{name}.parquet").is_file() for name in TABLES) and not (folder / "shards").exists():
            if not arguments.resume:
                raise InputError(f"{folder} holds other forecasts; name another --output_dir")
            if accelerator.is_main_process:
                shutil.rmtree(folder / JOINED, ignore_errors=True)
            accelerator.print(f"{folder} is finished")
            end_run(accelerator)
            return
        record = folder / "arguments.json"
        if (folder / "shards").exists() and not arguments.resume:
            raise InputError(f"{folder} holds part of a run; go on with --resume, or name another --output_dir")
        if record.is_file():
            before = json.loads(record.read_text())
            for name, value in arguments_as_dict(arguments).items():
                if value != before.get(name) and name not in MAY_CHANGE:
                    raise InputError(
                        f"--{name} {value}: {folder} was begun with {before.get(name)}; resume with the same"
                    )
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            write_json(record, arguments_as_dict(arguments))
        units, shard = of_files(accelerator) if arguments.audio else of_dataset()
        if not units:
            raise InputError("nothing to forecast: no song or file fits what was asked")
        # What is wrong with a song is said by the process that has it.
        with errors_in_one_line():
            write_shards(units, shard, folder, accelerator)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            written = join_shards(folder, -(-len(units) // arguments.shard))
            print(f"{len(units)} song(s): {', '.join(map(str, written))}")
            say_rejected(folder, len(units))
    end_run(accelerator)


def of_dataset() -> tuple[list[str], Shard]:
    """The dataset's songs that are asked about, and how to forecast some of them."""
    dataset = read_dataset(arguments.data)
    # Every process hears its own songs, so none may wait for the others.
    forecaster = forecaster_of(
        arguments.model, dataset, arguments.samples, arguments.seed, arguments.windows, arguments.full
    )
    config = forecaster.model.config
    regions = asked_regions(config.regions)
    if arguments.origin is None:
        rows = debut_rows(dataset)
        if arguments.split != "all":
            rows = rows[rows["split"] == arguments.split]
        days = ((arguments.observed - 1) * PERIOD_DAYS[config.frequency]) * np.timedelta64(1, "D")
        cutoff = rows["debut"].to_numpy() + days
        rows = rows.assign(observed=arguments.observed, cutoff=cutoff)
    else:
        rows = songs_running(dataset, config)
    if arguments.observed >= config.horizon:
        raise InputError(f"--observed {arguments.observed}: the model's curves have {config.horizon} periods")
    rows = rows[rows["region"].isin(regions)].sort_values(["song_id", "region"], kind="stable").reset_index(drop=True)
    by_song = rows.groupby("song_id", sort=True).indices

    def shard(songs: list[str]) -> dict[str, pd.DataFrame]:
        part = rows.iloc[np.concatenate([by_song[song] for song in songs])].reset_index(drop=True)
        descriptors = None
        if config.descriptors:
            descriptors, _ = descriptor_table(dataset, part, config.descriptors, config.descriptor_statistics)
        debuts = debuts_of(dataset, part, config.horizon, descriptors)
        paths = forecaster.of_rows(debuts, part)
        return {"forecasts": paths.curves(), "popularity": paths.popularity(), "paths": paths.paths()}

    return [str(song) for song in by_song], shard


def asked_regions(known: Any) -> list[str]:
    """The regions asked for, all that the model knows if none were."""
    for region in arguments.region or []:
        if region not in known:
            raise InputError(f"--region {region} is unknown to this model; it knows {', '.join(known)}")
    return list(dict.fromkeys(arguments.region or known))


def songs_running(dataset: Any, config: Any) -> pd.DataFrame:
    """Songs within their horizon on the day of --origin, in every region, with what was observed by then.

    A model that knows the past of songs is also asked about those that have run for longer, and with --returning about
    those that may return: from the period after the last chart on.
    """
    if arguments.returning and "past" not in config.covariates:
        raise InputError(
            f"--returning: {arguments.model} knows {', '.join(config.covariates)} of songs, not their past; train with "
            "past in --covariates and with --running"
        )
    try:
        origin = pd.Timestamp(arguments.origin).normalize()
    except ValueError as error:
        raise InputError(f"--origin {arguments.origin!r} is no date; write it as 2026-01-31") from error
    horizon = config.horizon
    first = first_rows(dataset).assign(split="none")
    rows = debut_rows(dataset, first[["track_id", "region", "debut", "split"]])
    period = PERIOD_DAYS[dataset.frequency]
    started = rows[(rows["debut"] <= origin) & (rows["debut"] > origin - pd.Timedelta(days=horizon * period))]
    # Whole periods that ended by the origin; the one under way is still to come.
    elapsed = (origin - started["debut"]).dt.days.to_numpy() // period + 1
    rows = started.assign(observed=elapsed, cutoff=origin.to_datetime64())
    rows = rows[rows["observed"] < horizon]
    if "past" not in config.covariates:
        return rows
    dates = (dataset.curves if dataset.charts is None else dataset.charts)["date"]
    last = dates[dates <= origin].max()
    if pd.isna(last):
        raise InputError(f"--origin {origin.date()}: {dataset.path} has no chart on or before that day")
    longer = running_rows(dataset, last.to_datetime64(), horizon, returning=arguments.returning)
    within = pd.MultiIndex.from_frame(rows[["song_id", "region"]])
    longer = longer[~pd.MultiIndex.from_frame(longer[["song_id", "region"]]).isin(within)]
    return pd.concat([rows, longer.drop(columns="on_chart")], ignore_index=True)


def of_files(accelerator: Accelerator) -> tuple[list[str], Shard]:
    """The audio files of a folder, and how to forecast some of them."""
    if arguments.release is None:
        raise InputError("--audio needs --release, the date on which the songs come out, such as 2026-12-04")
    folder = Path(arguments.audio)
    if not folder.is_dir():
        raise InputError(f"--audio {folder}: no such folder")
    files = sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.name.lower().endswith(SUFFIXES) and not path.name.startswith(".") and path.is_file()
    )
    if not files:
        raise InputError(f"--audio {folder}: no audio files; files are taken that end in {', '.join(SUFFIXES)}")
    forecaster = Forecaster.from_pretrained(arguments.model, device=str(accelerator.device))
    regions = asked_regions(forecaster.regions)

    def shard(names: list[str]) -> dict[str, pd.DataFrame]:
        found, rejected = [], []
        for name in names:
            try:
                clip = decode(folder / name)
            except InputError as error:
                rejected.append((name, str(error)))
                continue
            found.append(
                forecaster.forecast(
                    (clip, SAMPLE_RATE),
                    regions=regions,
                    release=arguments.release,
                    samples=arguments.samples,
                    seed=arguments.seed,
                    full=arguments.full,
                    track_id=name,
                )
            )
        tables = {
            name: pd.concat(parts, ignore_index=True)
            for name, parts in {
                "forecasts": [one.curves for one in found],
                "popularity": [one.popularity for one in found],
                "paths": [one.paths for one in found],
                "chances": [one.chances() for one in found],
                "comparables": [one.comparables for one in found],
                "flags": [one.flags for one in found],
            }.items()
            if parts
        }
        return tables | {"rejected": pd.DataFrame(rejected, columns=["file", "reason"]).astype("str")}

    return files, shard


def write_shards(units: list[str], shard: Shard, folder: Path, accelerator: Accelerator) -> None:
    """Each process does every n-th shard; one that is whole already is left as it is."""
    numbers = range(-(-len(units) // arguments.shard))
    mine = [number for number in numbers if number % accelerator.num_processes == accelerator.process_index]
    for number in tqdm(mine, unit="shard", disable=not accelerator.is_main_process):
        place = folder / "shards" / f"{number:06d}"
        own = units[number * arguments.shard : (number + 1) * arguments.shard]
        if is_whole(place, own):
            continue
        tables = shard(own)
        with folder_written_whole(place) as part:
            for name, table in tables.items():
                table.to_parquet(part / f"{name}.parquet", index=False)
            digests = {path.name: sha256_of(path) for path in sorted(part.glob("*.parquet"))}
            write_json(part / "whole.json", {"units": own, "files": digests})


def is_whole(place: Path, units: list[str]) -> bool:
    """Whether a shard's files are all there, byte by byte, and of these songs."""
    try:
        content = json.loads((place / "whole.json").read_text())
        same = all(sha256_of(place / name) == digest for name, digest in content["files"].items())
        return same and content["units"] == units
    except (OSError, ValueError, KeyError, TypeError):
        return False


def join_shards(folder: Path, count: int) -> list[Path]:
    """The shards' tables one after the other, a shard in memory at a time; then the shards go."""
    places = [folder / "shards" / f"{number:06d}" for number in range(count)]
    names = sorted({path.name for place in places for path in place.glob("*.parquet")})
    if not any((place / f"{TABLES[0]}.parquet").is_file() for place in places):
        first = pd.read_parquet(places[0] / "rejected.parquet")["reason"].iloc[0]
        raise InputError(f"--audio {arguments.audio}: no file has usable sound; the first: {first}")
    for name in names:
        # A shard of which every file was rejected has no forecast.
        parts = [place / name for place in places if (place / name).is_file()]
        schema = pa.unify_schemas([pq.read_schema(part) for part in parts], promote_options="permissive")
        with written_whole(folder / name) as path, pq.ParquetWriter(path, schema) as out:
            for part in parts:
                out.write_table(pq.read_table(part).cast(schema))
    # In one step, so that a run of which all shards are there is never taken for one that has to make some again.
    (folder / "shards").rename(folder / JOINED)
    shutil.rmtree(folder / JOINED)
    # Tables that a killed run had begun to write.
    for left in folder.glob(".*.parquet"):
        left.unlink()
    return [folder / name for name in names]


def say_rejected(folder: Path, asked: int) -> None:
    """A line for each file that was left out, on standard error."""
    if (folder / "rejected.parquet").is_file():
        rejected = pd.read_parquet(folder / "rejected.parquet")
        for reason in rejected["reason"]:
            print(f"left out: {reason}", file=sys.stderr)
        if len(rejected):
            print(f"{len(rejected)} of {asked} file(s) left out, see {folder / 'rejected.parquet'}", file=sys.stderr)


if __name__ == "__main__":
    main()
