"""MP3, music popularity period prediction: learn to write the stream-time curve, region by region.

    accelerate launch recipes/mp3.py                                    # the simulated market and what is known of it
    accelerate launch recipes/mp3.py [FILE.yaml] --data DIR --mp2 RUN/model --output_dir RUN [--resume]

Reads a dataset folder (or makes the simulated market) and an MP2 model, trains the curve decoder with it, calibrates
its paths on songs that training never used, and writes RUN/model, RUN/metrics.jsonl, RUN/report.json, a closing table
on the test split, and what it forecast there, RUN/test.npz, for recipes/baselines.py to put beside other systems.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mp3model.files import InputError, errors_in_one_line, folder_written_whole, write_json, written_whole
from mp3model.training.arguments import arguments_as_dict, parse_arguments

# A loader's worker that is spawned, as on macOS, reads this file again under the second name.
if __name__ not in ("__main__", "__mp_main__"):
    raise ImportError("recipes/mp3.py is a script: run it with `accelerate launch recipes/mp3.py`")


@dataclass
class DataArguments:
    """What is learnt from."""

    data: str | None = field(default=None, metadata={"help": "Dataset folder; none is the simulated market."})
    songs: int = field(default=2000, metadata={"help": "Songs of the simulated market."})
    market_seed: int = field(default=0, metadata={"help": "Seed of the simulated market."})
    regions: list[str] | None = field(default=None, metadata={"help": "Regions to learn; none is all in the data."})
    held_out_regions: list[str] = field(
        default_factory=list,
        metadata={"help": "Regions not learnt from; their test debuts are scored apart, as of markets that are new."},
    )
    horizon: int | None = field(default=None, metadata={"help": "Periods of a curve; none is the dataset's."})
    loader_workers: int = field(default=1, metadata={"help": "Processes that gather batches."})


@dataclass
class ModelArguments:
    """What learns."""

    mp2: str | None = field(default=None, metadata={"help": "Folder of a trained MP2 model, which then hears."})
    mp2_refit: str | None = field(
        default=None,
        metadata={"help": "Folder of the same learnt once more, by mp2.py --refit; it hears in the second fit."},
    )
    encoder: str | None = field(
        default=None, metadata={"help": "ast, descriptors, both or none; none given is ast with --mp2, else none."}
    )
    audio: str = field(
        default="finetune",
        metadata={"help": "finetune, frozen, or stored: frozen, and each song heard once before training."},
    )
    audio_context: str = field(
        default="tokens",
        metadata={
            "help": "What the decoder hears: prediction, what MP2 says of the region; state, also its state; tokens, "
            "also the song's stretches of time."
        },
    )
    audio_segments: int = field(default=8, metadata={"help": "Stretches of time that the decoder hears apart."})
    descriptors: list[str] = field(
        default_factory=list, metadata={"help": "x_* columns to read; none is all there are."}
    )
    covariates: list[str] | None = field(
        default=None,
        metadata={
            "help": "Of state, artist, regions, release, past. None is the first three, and release where every song "
            "has a date: which songs have none may tell the outcome."
        },
    )
    likelihood: str = field(default="autoregressive", metadata={"help": "autoregressive or joint."})
    components: int = field(default=4, metadata={"help": "Normals a mixture, or curves with joint (24 is good)."})
    nulls: str = field(
        default="censored", metadata={"help": "What a period below the chart is to the loss: censored, masked or zero."}
    )
    members: int = field(
        default=1, metadata={"help": "Decoders in the model, of which each writes its share of the paths."}
    )
    width: int = field(default=64, metadata={"help": "Width of the decoder."})
    layers: int = field(default=2, metadata={"help": "Blocks of the decoder."})
    heads: int = field(default=4, metadata={"help": "Heads of its attentions."})
    position_mode: str = field(default="sum", metadata={"help": "sum or concat."})
    region_mode: str = field(default="token", metadata={"help": "token, embedding or none."})
    dropout: float = field(default=0.05, metadata={"help": "Dropout in the decoder."})
    covariate_drop: float = field(default=0.1, metadata={"help": "How often a group of inputs is absent in training."})
    region_drop: float = field(default=0.05, metadata={"help": "How often the region is unknown in training."})


@dataclass
class TrainArguments:
    """How it learns, and what it is asked in the end."""

    output_dir: str = field(default="runs/mp3", metadata={"help": "Run folder."})
    resume: bool = field(default=False, metadata={"help": "Go on from the run folder's newest checkpoint."})
    seed: int = field(default=0, metadata={"help": "Weights, order, augmentation and dropout follow from it."})
    epochs: int = field(default=12, metadata={"help": "Passes over the training songs at most."})
    batch_size: int = field(default=96, metadata={"help": "Songs a process and part."})
    accumulation: int = field(default=1, metadata={"help": "Parts a step of the optimizer."})
    learning_rate: float = field(default=2e-3, metadata={"help": "Peak rate of the decoder."})
    audio_rate: float = field(default=0.1, metadata={"help": "Rate of the audio encoder's top over the decoder's."})
    weight_decay: float = field(default=0.02, metadata={"help": "Decoupled decay."})
    layer_decay: float = field(
        default=0.8, metadata={"help": "Rate of an encoder's layer over that of the next one up."}
    )
    warmup: float = field(default=0.1, metadata={"help": "Share of the steps in which the rate rises."})
    gradient_clip: float = field(default=1.0, metadata={"help": "Largest norm of the gradient."})
    precision: str | None = field(default=None, metadata={"help": "no, bf16 or fp16; none is the launcher's choice."})
    ema: float = field(default=0.995, metadata={"help": "Decay of an average of the weights; 0 is none."})
    patience: int = field(default=4, metadata={"help": "Validations without a better loss before it stops."})
    windows: int = field(default=3, metadata={"help": "Windows a preview where a song is heard for good."})
    gain: float = field(default=6.0, metadata={"help": "Random gain up to so many dB either way."})
    roll: float = field(default=1.0, metadata={"help": "Random roll up to this share of the clip."})
    alternate: bool = field(default=True, metadata={"help": "Draw among a song's previews."})
    frequency_mask: int = field(default=24, metadata={"help": "SpecAugment: widest frequency mask in mel bands."})
    time_mask: int = field(default=48, metadata={"help": "SpecAugment: widest time mask in frames."})
    observed: list[int] = field(default_factory=lambda: [0, 1, 2, 4], metadata={"help": "Observed periods to score."})
    paths: int = field(default=128, metadata={"help": "Paths a forecast in calibration and scoring."})
    calibrate: bool = field(default=True, metadata={"help": "Map paths so that their intervals cover what they say."})
    boosted: bool = field(
        default=False,
        metadata={"help": "Pool the paths with boosted trees, by weights that songs held out choose; needs lightgbm."},
    )
    refit: bool = field(
        default=False,
        metadata={"help": "After validation has chosen epochs and map, learn again from training and validation."},
    )
    first_period: float = field(
        default=1.0,
        metadata={
            "help": "How often a debut's first period to forecast counts in training beside a later one: what is known "
            "of a song before it speaks there; later ones hang on the one before."
        },
    )
    running: float = field(
        default=0.0,
        metadata={
            "help": "Rows an epoch, over debuts, of songs that run or may return after some day; needs past among "
            "--covariates; 0 is none."
        },
    )
    most_skipped: int = field(
        default=3,
        metadata={"help": "Steps in a row without a finite loss or gradient, skipped, that stop the run."},
    )
    log_every: int = field(default=10, metadata={"help": "Steps between lines in metrics.jsonl."})
    tracker: str | None = field(default=None, metadata={"help": "tensorboard, wandb, … or all that are installed."})


with errors_in_one_line():
    data_arguments, model_arguments, train_arguments = parse_arguments(
        (DataArguments, ModelArguments, TrainArguments), sys.argv[1:], __doc__.splitlines()[0]
    )

# Only now: `--help` and a wrong option answer without waiting for torch.
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402
from accelerate import Accelerator, DistributedDataParallelKwargs  # noqa: E402
from accelerate.utils import ProjectConfiguration, set_seed  # noqa: E402
from timm.utils import ModelEmaV3  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402
from tqdm import tqdm  # noqa: E402
from transformers.utils import logging as transformers_logging  # noqa: E402

from mp3model.audio.augment import SpecAugment, WaveformAugment  # noqa: E402
from mp3model.audio.bank import AudioBank  # noqa: E402
from mp3model.baselines.boosted import Boosted  # noqa: E402
from mp3model.baselines.interface import CurveBaseline  # noqa: E402
from mp3model.baselines.registry import make_baseline  # noqa: E402
from mp3model.config import MP3Config  # noqa: E402
from mp3model.evaluation.accuracy import CurveForecasts  # noqa: E402
from mp3model.evaluation.curve_report import (  # noqa: E402
    add_scores,
    add_skill,
    calibration_of,
    curve_table,
    target_name,
)
from mp3model.evaluation.forecasts import RankCurves, truth_of  # noqa: E402
from mp3model.evaluation.oracle import oracle_frames  # noqa: E402
from mp3model.evaluation.stored_forecasts import write_forecasts  # noqa: E402
from mp3model.model.covariates import Covariates  # noqa: E402
from mp3model.model.modeling import MP2Model  # noqa: E402
from mp3model.model.modeling_mp3 import Audio, MP3Model, period_weights  # noqa: E402
from mp3model.serving.comparables import embedding_of, write_catalogue  # noqa: E402
from mp3model.tables.curves import PERIOD_DAYS, log_streams  # noqa: E402
from mp3model.tables.debuts import (  # noqa: E402
    Debuts,
    debut_rows,
    debuts_of,
    joined,
    seen_in_epoch,
    training_rows_of_running_songs,
)
from mp3model.tables.folder import DatasetFolder  # noqa: E402
from mp3model.tables.splits import make_splits  # noqa: E402
from mp3model.tables.walks import lowest_walks  # noqa: E402
from mp3model.training import loop  # noqa: E402
from mp3model.training.batches import EpochBatches, TrainingSet  # noqa: E402
from mp3model.training.curves import (  # noqa: E402
    CurveTrainingSet,
    Hearing,
    covariate_statistics,
    covariates_of,
    descriptor_table,
    halves,
    whole_curve_batches,
)
from mp3model.training.forecasting import (  # noqa: E402
    BOOSTED,
    PathForecaster,
    fit_calibration,
    pool_weights,
    remember,
    shared_luck,
)
from mp3model.training.guards import StepGuard, refuse_without_validation  # noqa: E402
from mp3model.training.runs import (  # noqa: E402
    begin_run,
    check_bounds,
    claimed_folder,
    end_run,
    give_memory_back,
    read_or_make,
)

# What a run that goes on may do otherwise than before: none of it moves a weight.
MAY_CHANGE = {"output_dir", "resume", "loader_workers", "log_every", "tracker", "observed", "paths", "most_skipped"}
TABLE, FORECASTS = "table.txt", "test.npz"
NEW_MARKETS = "new-markets"
# Debuts that tell after each epoch whether to go on.
STOPPING_ROWS = 4000
# Bytes of paths of songs held out that calibration, pooling and scoring share.
KEPT_PATHS = 2**30
# What a figure must be read beside; recipes/baselines.py has the rest.
FLOORS = ("region median", "artist previous release", "carry-forward", "geometric decay", "mean ratio")


def check_arguments() -> None:
    """Refuses what no run can use before anything is made."""
    check_bounds(
        train_arguments,
        dict.fromkeys(
            ("epochs", "batch_size", "accumulation", "patience", "windows", "log_every", "most_skipped"), (1, None)
        )
        | {
            "paths": (10, None),
            "learning_rate": (0, None),
            "warmup": (0, 1),
            "ema": (0, 0.99999),
            "audio_rate": (0, None),
            "running": (0, None),
            "first_period": (0, None),
        },
    )
    if train_arguments.running and "past" not in (model_arguments.covariates or ()):
        raise InputError(f"--running {train_arguments.running}: such songs have a past; add past to --covariates")
    check_bounds(
        model_arguments,
        {"members": (1, None), "dropout": (0, 0.9), "covariate_drop": (0, 0.9), "region_drop": (0, 0.9)},
    )
    check_bounds(data_arguments, {"loader_workers": (0, None)})
    for arguments, name, choices in (
        (model_arguments, "audio", ("finetune", "frozen", "stored")),
        (train_arguments, "precision", (None, "no", "bf16", "fp16")),
    ):
        if getattr(arguments, name) not in choices:
            raise InputError(f"--{name} {getattr(arguments, name)} is none of {', '.join(map(str, choices))}")
    if model_arguments.encoder in ("ast", "both") and model_arguments.mp2 is None:
        raise InputError(f"--encoder {model_arguments.encoder} hears with an MP2 model: name its folder with --mp2")
    if model_arguments.mp2_refit is not None and not (train_arguments.refit and model_arguments.mp2):
        raise InputError(
            f"--mp2_refit {model_arguments.mp2_refit} hears in a second fit: give --mp2 and --refit true too"
        )


def main() -> None:
    """Data, model, loop, calibration, report, in that order."""
    folder = Path(train_arguments.output_dir)
    with errors_in_one_line():
        check_arguments()
    accelerator = begin_run(
        mixed_precision=train_arguments.precision,
        log_with=train_arguments.tracker,
        project_config=ProjectConfiguration(project_dir=str(folder), logging_dir=str(folder / "tracker")),
        # A batch without audio, or a row without artist, leaves weights without a gradient.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    transformers_logging.disable_progress_bar()
    with errors_in_one_line(speak=accelerator.is_main_process):
        if train_arguments.resume and (folder / "report.json").is_file():
            accelerator.print(f"{folder} is finished:\n\n{(folder / TABLE).read_text()}")
            end_run(accelerator)
            return
        arguments = arguments_as_dict(data_arguments, model_arguments, train_arguments)
        with claimed_folder(folder, arguments, MAY_CHANGE, train_arguments.resume, accelerator):
            dataset = read_or_make(
                data_arguments.data, data_arguments.songs, data_arguments.market_seed, folder, accelerator
            )
            accelerator.init_trackers("mp3")
            run(dataset, folder, accelerator)
    end_run(accelerator)


def run(dataset: DatasetFolder, folder: Path, accelerator: Accelerator) -> None:
    """Trains on the folder's splits, calibrates on half of validation, scores on test."""
    if dataset.curves is None:
        raise InputError(f"{dataset.path}: has no curves.parquet; MP3 learns curves, MP2 totals without dates")
    if dataset.splits is None:
        accelerator.print(f"{dataset.path} has no splits.parquet: split by time")
        dataset = replace(dataset, splits=make_splits(dataset, seed=train_arguments.seed))
    config = configuration(dataset)
    debuts = debuts_in(dataset, config, config.regions)
    train, validation, test = (debuts.of_split(split) for split in ("train", "validation", "test"))
    if not len(train) or not len(validation):
        raise InputError(
            f"{dataset.path}: {len(train.rows)} training and {len(validation.rows)} validation debuts; both are needed"
        )
    until = train.rows["debut"].max() + np.timedelta64(PERIOD_DAYS[dataset.frequency] * config.horizon, "D")
    covariates = covariates_of(dataset, list(config.regions), config.covariates, config.horizon, until)
    stopping = halves(validation.songs, train_arguments.seed)
    accelerator.print(
        f"{len(train)} training songs ({len(train.rows)} debuts), {len(validation)} validation "
        f"({len(validation.rows)}), {len(test)} test ({len(test.rows)}) in {len(config.regions)} regions; "
        f"encoder {config.encoder}; covariates {' '.join(config.covariates)}; {accelerator.num_processes} process(es), "
        f"{accelerator.device.type}"
    )
    give_memory_back()
    set_seed(train_arguments.seed)
    walks = lowest_walks(dataset, config.regions, config.horizon, until)
    config.lowest_walks = walks.shape[1]
    model = MP3Model(config)
    hearing = None
    if model.mp2 is not None:
        if dataset.previews is None:
            raise InputError(
                f"{dataset.path}: no previews.parquet, so no audio; build it with python -m data_prep.build_bank"
            )
        model.mp2.load_state_dict(MP2Model.from_pretrained(model_arguments.mp2).state_dict())
        hearing = Hearing(dataset, AudioBank(dataset.path), config.samples, train_arguments.windows)
    running = running_songs(dataset, config) if train_arguments.running else None
    taught = train if running is None else joined(train, running.of_split("train"))
    statistics = covariate_statistics(
        covariates, train, config.frequency, None if running is None else seen_first(running.of_split("train"))
    )
    with torch.no_grad():
        if model.lowest_walks is not None:
            model.lowest_walks.copy_(torch.from_numpy(walks))
        for member in model.members:
            member.context.mean.copy_(torch.tensor(statistics["mean"]))
            member.context.std.copy_(torch.tensor(statistics["std"]))
    start = {name: value.clone() for name, value in model.state_dict().items()}
    model, epochs, skipped = fit(
        model,
        taught,
        validation.of_kept_songs(stopping).evenly(STOPPING_ROWS),
        covariates,
        hearing,
        folder,
        accelerator,
        running=None if running is None else seen_first(running.of_split("validation")),
    )
    forecaster = PathForecaster(
        model,
        covariates,
        hearing,
        accelerator,
        train_arguments.paths,
        train_arguments.seed,
        rank_curves=RankCurves.of(dataset),
        keep=KEPT_PATHS,
    )
    remember(model, dataset, covariates)
    held_out = validation.of_kept_songs(~stopping)
    model.config.shared_luck = shared_luck(forecaster, held_out)
    if train_arguments.calibrate:
        model.config.calibration = fit_calibration(forecaster, held_out, train_arguments.observed).to_dict()
    if train_arguments.boosted:
        asked = (train, validation.of_kept_songs(stopping), covariates)
        trees = trees_of(config, *asked, False, folder / "trees.json.gz", accelerator)
        model.config.pool = pool_weights(forecaster, trees, held_out, train_arguments.observed)
        accelerator.print(f"weight of the boosted trees by observed periods: {model.config.pool}")
        forecaster = replace(forecaster, companion=trees)
    report: dict[str, Any] = {}
    add_split(report, "validation", dataset, forecaster, held_out, accelerator)
    if train_arguments.refit:
        # The map and the shared luck stay those that songs held out have given.
        model.load_state_dict(start)
        if model.mp2 is not None and model_arguments.mp2_refit is not None:
            model.mp2.load_state_dict(MP2Model.from_pretrained(model_arguments.mp2_refit).state_dict())
        both = debuts.of_split("train", "validation")
        accelerator.print(f"once more from {len(both)} songs ({len(both.rows)} debuts), {epochs} epoch(s)")
        both = both if running is None else joined(both, running)
        model, _, more = fit(model, both, None, covariates, hearing, folder / "refit", accelerator, epochs)
        skipped += more
    # Songs held out are not asked about again.
    forecaster = replace(forecaster.with_model(model), keep=0)
    if train_arguments.boosted:
        kept_in = folder / ("trees-refit.json.gz" if train_arguments.refit else "trees-whole.json.gz")
        trees = trees_of(config, train, validation, covariates, train_arguments.refit, kept_in, accelerator)
        forecaster = replace(forecaster, companion=trees)
    embeddings = hear_for_catalogue(model, dataset, hearing, train.songs, held_out.songs, accelerator)
    if accelerator.is_main_process:
        with folder_written_whole(folder / "model") as part:
            model.save_pretrained(part)
            loop.share(part)
            remember_songs(part, dataset, train, *embeddings)
            if train_arguments.boosted:
                trees.save(part / BOOSTED)
    floors = [make_baseline(name, dataset).fit(train, validation, covariates) for name in FLOORS]
    found = add_split(report, "test", dataset, forecaster, test, accelerator, floors, train)
    if found:
        write_forecasts(folder / FORECASTS, test, found)
    if data_arguments.held_out_regions:
        if train_arguments.boosted:
            rival = "boosted refit" if train_arguments.refit else "boosted"
            floors.append(make_baseline(rival, dataset).fit(train, validation, covariates))
        new = debuts_in(dataset, config, data_arguments.held_out_regions).of_split("test")
        add_split(report, NEW_MARKETS, dataset, forecaster, new, accelerator, floors)
    report["skipped_steps"] = skipped
    close(report, dataset, model, folder, accelerator)


def debuts_in(dataset: DatasetFolder, config: MP3Config, regions: Sequence[str]) -> Debuts:
    """Every kept debut in these regions that has what the model reads; sets its descriptors' statistics if not set."""
    rows = debut_rows(dataset)
    rows = rows[rows["region"].isin(regions)].reset_index(drop=True)
    if "release" in config.covariates and rows["release_date"].isna().any():
        raise InputError(
            f"{dataset.path / 'tracks.parquet'}: {int(rows['release_date'].isna().sum())} debuts have no release_date, "
            "and which do may tell the outcome: leave release out of --covariates"
        )
    if config.encoder not in ("descriptors", "both"):
        return debuts_of(dataset, rows, config.horizon)
    statistics = config.descriptor_statistics
    descriptors, config.descriptor_statistics = descriptor_table(dataset, rows, config.descriptors, statistics)
    debuts = debuts_of(dataset, rows, config.horizon, descriptors)
    # Scored apart: which rows have descriptors may tell the outcome, so only those that do are learnt and asked.
    return debuts.chosen(np.isfinite(descriptors).all(axis=1)) if config.encoder == "descriptors" else debuts


def trees_of(
    config: MP3Config,
    train: Debuts,
    stopping: Debuts,
    covariates: Covariates,
    refit: bool,
    path: Path,
    accelerator: Accelerator,
) -> Boosted:
    """Boosted trees on what the decoder is told, a total at a time; which weeks it comes in the paths know.

    The first process fits them into `path`, where the others, and a run that goes on, read them.
    """
    observed = tuple(k for k in train_arguments.observed if k < config.horizon)
    # A run that goes on may ask for other numbers of observed periods than before.
    if accelerator.is_main_process and not (
        path.is_file() and set(observed) <= set(Boosted.load(path, covariates).models)
    ):
        trees = Boosted("shape", tuple(config.covariates), refit=refit, observed=observed, seed=train_arguments.seed)
        trees.fit(train, stopping, covariates).save(path)
    accelerator.wait_for_everyone()
    return Boosted.load(path, covariates)


def running_songs(dataset: DatasetFolder, config: MP3Config) -> Debuts:
    """Songs with a past on days of training and of validation, with what became of them."""
    rows = training_rows_of_running_songs(
        dataset, train_arguments.running, train_arguments.epochs, config.horizon, config.regions, train_arguments.seed
    )
    if "release" in config.covariates:
        rows = rows[rows["release_date"].notna()].reset_index(drop=True)
    descriptors = None
    if config.encoder in ("descriptors", "both"):
        descriptors, _ = descriptor_table(dataset, rows, config.descriptors, config.descriptor_statistics)
    running = debuts_of(dataset, rows, config.horizon, descriptors)
    if config.encoder == "descriptors" and descriptors is not None:
        running = running.chosen(np.isfinite(descriptors).all(axis=1))
    return running


def seen_first(running: Debuts) -> Debuts:
    """The rows of running songs that the first epoch sees."""
    return running.chosen(seen_in_epoch(running.rows["luck"].to_numpy(), running.rows["chance"].to_numpy(), 0))


def configuration(dataset: DatasetFolder) -> MP3Config:
    """What the command line, the MP2 model and the data say of the model."""
    held_out = data_arguments.held_out_regions
    regions = data_arguments.regions or [region for region in dataset.regions if region not in held_out]
    for option, named in (("regions", regions), ("held_out_regions", held_out)):
        absent = sorted(set(named) - set(dataset.regions))
        if absent:
            raise InputError(f"--{option} {' '.join(absent)}: {dataset.path} has {', '.join(dataset.regions)}")
    encoder = model_arguments.encoder or ("ast" if model_arguments.mp2 else "none")
    inherited = {}
    if encoder in ("ast", "both"):
        heard = MP3Config.from_pretrained(model_arguments.mp2)
        if data_arguments.regions is None:
            regions = list(heard.regions)
        if list(regions) != list(heard.regions):
            raise InputError(
                f"--regions {' '.join(regions)}: {model_arguments.mp2} knows {', '.join(heard.regions)}; "
                "train MP2 on the same"
            )
        inherited = {name: value for name, value in heard.to_diff_dict().items() if name in MP3Config.fields()}
        if model_arguments.mp2_refit is not None:
            refuse_other_ears(heard, MP3Config.from_pretrained(model_arguments.mp2_refit))
        inherited["patch_drop"] = 0.0
    columns = model_arguments.descriptors or [name for name in dataset.tracks.columns if name.startswith("x_")]
    if encoder in ("descriptors", "both") and not columns:
        raise InputError(f"{dataset.path / 'tracks.parquet'}: has no x_* column for --encoder {encoder}")
    learnt = sorted(set(held_out) & set(regions))
    if learnt:
        source = "--regions" if data_arguments.regions else model_arguments.mp2
        raise InputError(f"--held_out_regions {' '.join(learnt)}: {source} names them too; leave them out there")
    return MP3Config(
        **{
            **inherited,
            "regions": list(regions),
            "encoder": encoder,
            "descriptors": columns if encoder in ("descriptors", "both") else [],
            "frequency": dataset.frequency,
            "horizon": data_arguments.horizon or dataset.horizon,
            "likelihood": model_arguments.likelihood,
            "components": model_arguments.components,
            "nulls": model_arguments.nulls,
            "members": model_arguments.members,
            "decoder_width": model_arguments.width,
            "decoder_layers": model_arguments.layers,
            "decoder_heads": model_arguments.heads,
            "decoder_position_mode": model_arguments.position_mode,
            "decoder_dropout": model_arguments.dropout,
            "decoder_region_mode": model_arguments.region_mode,
            "audio_context": model_arguments.audio_context,
            "audio_segments": model_arguments.audio_segments,
            "covariates": covariate_groups(dataset),
            "covariate_drop": model_arguments.covariate_drop,
            "region_drop": model_arguments.region_drop,
        }
    )


def covariate_groups(dataset: DatasetFolder) -> list[str]:
    """The groups asked for, or those that this dataset can tell without telling the outcome."""
    if model_arguments.covariates is not None:
        return model_arguments.covariates
    dated = debut_rows(dataset)["release_date"].notna().all()
    return ["state", "artist", "regions", *(["release"] if dated else [])]


def refuse_other_ears(heard: MP3Config, refitted: MP3Config) -> None:
    """Refuses an MP2 model that is not the first one learnt once more: its weights would mean something else."""
    fields = MP3Config.fields()
    differing = [name for name in sorted(fields) if getattr(heard, name) != getattr(refitted, name)]
    if differing:
        raise InputError(
            f"--mp2_refit {model_arguments.mp2_refit} differs from {model_arguments.mp2} in {', '.join(differing)}; "
            "give refit/model of the same run of mp2.py --refit true"
        )


def fit(
    model: MP3Model,
    train: Debuts,
    stopping: Debuts | None,
    covariates: Covariates,
    hearing: Hearing | None,
    folder: Path,
    accelerator: Accelerator,
    last_epoch: int | None = None,
    running: Debuts | None = None,
) -> tuple[MP3Model, int, int]:
    """Trains the model; gives it with the weights that did best on the songs that stop it, epochs and skipped steps.

    The epochs are those after which it did best.

    With `running` songs to stop it too, the best is the lowest sum of the loss of debuts and theirs.

    Without such songs it trains to the end of `last_epoch`, on the schedule of all epochs, and those weights count.
    """
    arguments, device, config = train_arguments, accelerator.device, model.config
    last_epoch = arguments.epochs if last_epoch is None else last_epoch
    model = model.to(device)
    stored = model_arguments.audio == "stored"
    clips = None
    if hearing is not None and not stored:
        heard_songs = hearing.songs_of(train.songs)
        clips = TrainingSet(
            heard_songs, hearing.bank, heard_songs.targets.astype(np.float32), config.samples, arguments.seed
        )
    places = hearing.places(train.songs) if hearing is not None else None
    training_set = CurveTrainingSet(
        train,
        covariates,
        arguments.seed,
        config.horizon,
        clips,
        places if clips is not None else None,
        places if stored else None,
    )
    if model.mp2 is not None and model_arguments.audio != "finetune":
        model.mp2.requires_grad_(False)
    heard: dict[str, Audio | None] = {}
    if hearing is not None and stored:
        heard["train"] = hearing.listen(model, train.songs, accelerator)
    batches = EpochBatches(
        len(train),
        arguments.batch_size,
        arguments.seed,
        arguments.accumulation,
        accelerator.num_processes,
        accelerator.process_index,
    )
    loader = DataLoader(
        training_set,
        sampler=batches,
        batch_size=None,
        num_workers=data_arguments.loader_workers,
        persistent_workers=data_arguments.loader_workers > 0,
        pin_memory=device.type == "cuda",
    )
    augment = WaveformAugment(arguments.gain, arguments.roll, arguments.alternate)
    mask = SpecAugment(arguments.frequency_mask, arguments.time_mask)

    def prepare(batch: dict[str, Any]) -> dict[str, Any]:
        """A loader's batch → what the model takes, on the device."""
        rows = {name: value.to(device, non_blocking=True) for name, value in batch["rows"].items()}
        given: dict[str, Any] = {"batch": rows}
        if heard.get("train") is not None:
            given["audio"] = heard["train"]
        elif "clips" in batch and model.mp2 is not None:
            clips = {name: value.to(device, non_blocking=True) for name, value in batch["clips"].items()}
            waveforms = augment(clips["previews"], clips["count"], clips["draws"])
            given["mel"] = mask(model.mp2.frontend(waveforms), clips["draws"])
        return given

    steps = batches.steps * arguments.epochs
    optimizer = loop.make_curve_optimizer(
        model,
        arguments.learning_rate,
        arguments.audio_rate,
        arguments.weight_decay,
        arguments.layer_decay,
        fused=device.type == "cuda",
    )
    schedule = loop.make_schedule(optimizer, steps, int(arguments.warmup * steps))
    average = ModelEmaV3(model, decay=arguments.ema, use_warmup=True) if arguments.ema else None
    learner, optimizer = accelerator.prepare(model, optimizer)
    # Read through one name below: the weights that are judged, and in the end given back.
    judged = average.module if average is not None else model
    log = loop.MetricsLog(folder / "metrics.jsonl", accelerator)
    best, best_epoch, first_epoch = float("inf"), 0, 0
    state: dict = {}
    best_weights = {name: value.clone() for name, value in judged.state_dict().items()}
    checkpoint = loop.newest_checkpoint(folder) if arguments.resume else None
    if checkpoint is not None:
        tensors, state = loop.load_checkpoint(checkpoint, optimizer, device)
        model.load_state_dict(tensors["model"])
        judged.load_state_dict(tensors["judged"])
        best_weights = tensors["best"]
        best, best_epoch, first_epoch = state["best"], state["best_epoch"], state["epoch"]
        if accelerator.is_main_process:
            log.keep_until(state["step"])
        accelerator.print(f"going on from {checkpoint}")
    elif accelerator.is_main_process:
        # What a run wrote that was stopped before its first checkpoint.
        log.keep_until(0)
    progress = tqdm(
        total=steps, initial=first_epoch * batches.steps, unit="step", disable=not accelerator.is_main_process
    )

    def names_at(step: int) -> list[str]:
        """The debuts of a step, over all processes."""
        rows = train.rows.iloc[train.of_songs(batches.songs_at(step))]
        return [f"{row.track_id} {row.region} {row.debut:%Y-%m-%d}" for row in rows.itertuples()]

    guard = StepGuard(accelerator, optimizer, arguments.most_skipped, names_at, folder, progress.close)
    guard.load(state)
    for epoch in range(first_epoch, last_epoch):
        if epoch - best_epoch >= arguments.patience and stopping is not None:
            break
        batches.start(epoch)
        learner.train()
        began, losses = time.perf_counter(), []
        for number, group in enumerate(loop.in_groups(loader, arguments.accumulation)):
            step = epoch * batches.steps + number
            schedule.step_update(step)
            loop.seed_step(arguments.seed, step, accelerator.process_index)
            parts = [prepare(batch) for batch in group]
            weights = [period_weights(part["batch"], arguments.first_period) for part in parts]
            # Known periods of the whole step, over parts and processes, so that each counts the same.
            count = accelerator.reduce(sum(weight.sum() for weight in weights), "sum")
            loss = torch.zeros((), device=device)
            for part, (given, weight) in enumerate(zip(parts, weights, strict=True)):
                with nullcontext() if part + 1 == len(parts) else accelerator.no_sync(learner):
                    share = -(weight * learner(**given).log_likelihood.float()).sum() / count.clamp(min=1)
                    # Processes average their gradients; the count already spans them, so the average is undone.
                    accelerator.backward(share * accelerator.num_processes)
                    loss += share.detach()
            norm = accelerator.clip_grad_norm_(learner.parameters(), arguments.gradient_clip)
            losses.append(guard.step(step, loss, norm))
            optimizer.zero_grad()
            if average is not None:
                average.update(model, step=step)
            progress.update()
            if (step + 1) % arguments.log_every == 0:
                values = {
                    "loss": guard.mean_loss(losses),
                    "learning_rate": optimizer.param_groups[-1]["lr"],
                    "gradient_norm": float(norm),
                    "songs_per_second": arguments.batch_size
                    * arguments.accumulation
                    * accelerator.num_processes
                    * len(losses)
                    / (time.perf_counter() - began),
                    "skipped_steps": guard.skipped,
                }
                log.write(step + 1, values)
                progress.set_postfix(loss=f"{values['loss']:.3f}", validation=f"{best:.3f}")
                guard.check()
                began, losses = time.perf_counter(), []
        guard.check()
        done = epoch + 1
        judged.eval()
        error = 0.0
        if stopping is not None:
            if hearing is not None and ("stopping" not in heard or model_arguments.audio == "finetune"):
                heard["stopping"] = hearing.listen(judged, stopping.songs, accelerator)
            errors = {
                observed: validation_loss(judged, stopping, covariates, hearing, heard.get("stopping"), observed)
                for observed in arguments.observed
            }
            error = float(np.mean(list(errors.values())))
            told = {"validation_loss": error, "epoch": done}
            told |= {f"validation_loss_{k}": value for k, value in errors.items()}
            if running is not None:
                if hearing is not None and ("running" not in heard or model_arguments.audio == "finetune"):
                    heard["running"] = hearing.listen(judged, running.songs, accelerator)
                told["validation_loss_running"] = validation_loss(
                    judged, running, covariates, hearing, heard.get("running"), 0
                )
                error += told["validation_loss_running"]
            log.write(done * batches.steps, told)
        if stopping is None or error < best:
            best, best_epoch = error, done
            best_weights = {name: value.clone() for name, value in judged.state_dict().items()}
        if accelerator.is_main_process:
            loop.save_checkpoint(
                folder,
                done * batches.steps,
                {"model": model.state_dict(), "judged": judged.state_dict(), "best": best_weights},
                optimizer,
                {"epoch": done, "best": best, "best_epoch": best_epoch, **guard.state()},
            )
        accelerator.wait_for_everyone()
    progress.close()
    if stopping is not None:
        refuse_without_validation(best, folder)
        accelerator.print(f"best validation loss {best:.4f} after epoch {best_epoch}")
    model.load_state_dict(best_weights)
    accelerator.free_memory(learner, optimizer)
    return model.eval(), best_epoch, guard.skipped


def validation_loss(
    model: MP3Model,
    debuts: Debuts,
    covariates: Covariates,
    hearing: Hearing | None,
    audio: Audio | None,
    observed: int,
) -> float:
    """Mean negative log likelihood of what follows the observed periods, over all debuts; every process does all."""
    total, count = 0.0, 0
    with torch.inference_mode():
        for batch in whole_curve_batches(debuts, covariates, observed, model.device, hearing):
            output = model(batch, audio=audio)
            total -= float(output.log_likelihood.sum())
            count += int(output.count)
    return total / max(count, 1)


def hear_for_catalogue(
    model: MP3Model,
    dataset: DatasetFolder,
    hearing: Hearing | None,
    songs: list[str],
    held_out: list[str],
    accelerator: Accelerator,
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Embeddings of training and held-out songs, one clip of each; NaN for a song without audio, None without any."""
    if hearing is None:
        return None, None
    once = Hearing(dataset, hearing.bank, hearing.samples, windows=1, previews=1)

    def embeddings(names: list[str]) -> np.ndarray | None:
        heard = once.listen(model, names, accelerator)
        if heard is None:
            return None
        values = embedding_of(heard).cpu().numpy()
        return np.where((once.places(names) >= 0)[:, None], values, np.nan)

    return embeddings(songs), embeddings(held_out)


def remember_songs(
    folder: Path, dataset: DatasetFolder, train: Debuts, embeddings: np.ndarray | None, held_out: np.ndarray | None
) -> None:
    """Writes the training songs and their curves beside the model, for comparables and percentiles."""
    tracks = dataset.tracks.drop_duplicates("song_id").set_index("song_id").reindex(train.songs)
    if held_out is not None:
        held_out = held_out[np.isfinite(held_out).all(axis=1)]
    write_catalogue(
        folder,
        train.songs,
        tracks["title"].tolist(),
        tracks["artist"].tolist(),
        embeddings,
        train.rows[["song_id", "region", "debut"]],
        train.curves.chart_observed(),
        held_out,
    )


def add_split(
    report: dict[str, Any],
    split: str,
    dataset: DatasetFolder,
    forecaster: PathForecaster,
    debuts: Debuts,
    accelerator: Accelerator,
    floors: Sequence[CurveBaseline] = (),
    train: Debuts | None = None,
) -> dict[int, CurveForecasts]:
    """Scores of one split at each number of observed periods, beside floors; with `train`, a market's skill too.

    Returns:
        The forecasts by observed periods, in the main process.
    """
    found: dict[int, CurveForecasts] = {}
    for observed in train_arguments.observed if len(debuts) else []:
        if observed >= forecaster.model.config.horizon:
            continue
        paths = forecaster.paths(debuts, observed)
        if not accelerator.is_main_process:
            continue
        rivals = {floor.name: floor.forecast(debuts, observed) for floor in floors}
        truth = truth_of(debuts.rows, debuts.curves)
        found[observed] = forecasts = paths.forecasts()
        add_scores(report, split, observed, truth, forecasts, rivals, train_arguments.seed)
        report[split][target_name(observed)]["calibration"] = calibration_of(
            paths.streams[:, :, observed:].sum(axis=2),
            truth.streams[:, observed:].sum(axis=1),
            truth.region,
            truth.artist,
            train_arguments.seed,
        )
        if observed == 0 and train is not None:
            add_oracle(report, dataset, debuts, forecasts, train)
    return found


def close(
    report: dict[str, Any], dataset: DatasetFolder, model: MP3Model, folder: Path, accelerator: Accelerator
) -> None:
    """The closing table and report.json."""
    if accelerator.is_main_process:
        report |= {"data": str(dataset.path), "shared_luck": model.config.shared_luck}
        splits = ["test", NEW_MARKETS] if data_arguments.held_out_regions else ["test"]
        table = "\n\n".join(curve_table(report, split, "MP3") for split in splits)
        with written_whole(folder / TABLE) as path:
            path.write_text(table + "\n")
        write_json(folder / "report.json", report)
        print(f"\n{table}\n\nmodel: {folder / 'model'}   report: {folder / 'report.json'}")
    accelerator.wait_for_everyone()


def add_oracle(
    report: dict[str, Any], dataset: DatasetFolder, debuts: Debuts, forecasts: CurveForecasts, train: Debuts
) -> None:
    """Skill against a simulated market's own forecasts; nothing where there are none."""

    def frame(some: Debuts) -> pd.DataFrame:
        total = some.curves.chart_observed().sum(axis=1)
        return some.rows[["song_id", "artist", "region"]].assign(true=log_streams(total))

    rows = frame(debuts)
    oracles = oracle_frames(dataset.path, {"total": {"mp3": rows}})
    if oracles and forecasts.quantiles is not None:
        seed = train_arguments.seed
        add_skill(report, "test", 0, rows, forecasts.quantiles, frame(train), oracles["total"], seed)


if __name__ == "__main__":
    main()
