"""MP2, music popularity prediction: learn total streams and debut rank a region from sound.

    accelerate launch recipes/mp2.py                                   # the simulated market, nothing else needed
    accelerate launch recipes/mp2.py [FILE.yaml] --data DIR --output_dir RUN [--resume]

Reads a dataset folder (or makes the simulated market), trains an Audio Spectrogram Transformer, and writes
RUN/model, RUN/metrics.jsonl, RUN/report.json, RUN/predicted_against_true.png and a closing table on the test split.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

from mp3model.files import InputError, errors_in_one_line, folder_written_whole, written_whole
from mp3model.training.arguments import arguments_as_dict, parse_arguments

# A loader's worker that is spawned, as on macOS, reads this file again under the second name.
if __name__ not in ("__main__", "__mp_main__"):
    raise ImportError("recipes/mp2.py is a script: run it with `accelerate launch recipes/mp2.py`")


@dataclass
class DataArguments:
    """What is learnt from."""

    data: str | None = field(default=None, metadata={"help": "Dataset folder; none is the simulated market."})
    songs: int = field(default=2000, metadata={"help": "Songs of the simulated market."})
    market_seed: int = field(default=0, metadata={"help": "Seed of the simulated market."})
    regions: list[str] | None = field(default=None, metadata={"help": "Regions to learn; none is all in the data."})
    folds: int | None = field(
        default=None,
        metadata={"help": "Cross-validate by artist in so many folds; none is 5 if the test split is small, else 0."},
    )
    shuffle_targets: bool = field(
        default=False, metadata={"help": "Shuffle targets among the songs of a split: a check that must find nothing."}
    )
    loader_workers: int = field(default=2, metadata={"help": "Processes that read the bank."})
    bank: str = field(
        default="loader",
        metadata={"help": "loader reads clips as they are needed; resident keeps all training clips on the device."},
    )


@dataclass
class ModelArguments:
    """What learns."""

    size: str = field(default="nano", metadata={"help": "nano, micro, tiny, small or base, for a start from scratch."})
    encoder: str = field(
        default="scratch",
        metadata={"help": "scratch, an AST checkpoint's folder or hub name, or timm:NAME for an image transformer."},
    )
    encoder_weights: str | None = field(default=None, metadata={"help": "Safetensors file for timm:NAME, offline."})
    region_mode: str = field(default="token", metadata={"help": "token, embedding or none."})
    position_mode: str = field(default="sum", metadata={"help": "sum or concat."})
    criterion: str = field(default="both", metadata={"help": "streams, rank or both."})
    charted: bool = field(
        default=True,
        metadata={"help": "Learn beside it whether a released song charts at all, where some with audio do not."},
    )
    frames: int = field(default=1024, metadata={"help": "Frames of 10 ms a clip."})
    patch_size: list[int] | None = field(
        default=None, metadata={"help": "Mel bands and frames of a patch from scratch; none is 16 16."}
    )
    patch_stride: list[int] | None = field(
        default=None, metadata={"help": "Mel bands and frames between patches; none is side by side, 10 10 for timm."}
    )
    stem_overlap: int | None = field(
        default=None, metadata={"help": "Looks a patch along frequency; 1 is AST's projection. None is 4 from scratch."}
    )
    stem_blocks: int | None = field(
        default=None, metadata={"help": "Convolutions before the blocks; 0 is AST. None is 2 from scratch."}
    )
    pooling: str | None = field(
        default=None, metadata={"help": "tokens (AST) or statistics of the patches too. None is these from scratch."}
    )
    dropout: float | None = field(default=None, metadata={"help": "Dropout. None is 0.1 from scratch, else 0."})
    head_dropout: float | None = field(
        default=None, metadata={"help": "Dropout before the head. None is 0.3 from scratch, else that of --dropout."}
    )
    drop_path: float = field(default=0.0, metadata={"help": "Stochastic depth of the last block."})
    patch_drop: float | None = field(
        default=None,
        metadata={"help": "Share of patches left out at each training step. None is 0.75 from scratch, else 0."},
    )


@dataclass
class TrainArguments:
    """How it learns."""

    output_dir: str = field(default="runs/mp2", metadata={"help": "Run folder."})
    resume: bool = field(default=False, metadata={"help": "Go on from the run folder's newest checkpoint."})
    seed: int = field(default=0, metadata={"help": "Weights, order, augmentation and dropout follow from it."})
    epochs: int = field(default=20, metadata={"help": "Passes over the training songs at most."})
    batch_size: int = field(default=16, metadata={"help": "Songs a process and part."})
    accumulation: int = field(default=1, metadata={"help": "Parts a step of the optimizer."})
    region_correlation: float = field(
        default=0.0,
        metadata={"help": "Correlation in the loss of what is missed of a song between regions; 0 is plain MSE."},
    )
    contrast: float = field(
        default=0.0,
        metadata={"help": "Weight of telling a song's two clips from the batch's other songs, labels unseen."},
    )
    learning_rate: float = field(default=1.5e-3, metadata={"help": "Peak rate."})
    weight_decay: float = field(default=0.1, metadata={"help": "Decoupled decay."})
    layer_decay: float = field(default=1.0, metadata={"help": "Rate of a layer over that of the next one up."})
    warmup: float = field(default=0.1, metadata={"help": "Share of the steps in which the rate rises."})
    gradient_clip: float = field(default=1.0, metadata={"help": "Largest norm of the gradient."})
    precision: str | None = field(default=None, metadata={"help": "no, bf16 or fp16; none is the launcher's choice."})
    gradient_checkpointing: bool = field(
        default=False, metadata={"help": "Compute the blocks again for their gradients: slower, in far less memory."}
    )
    ema: float = field(default=0.0, metadata={"help": "Decay of an average of the weights; 0 is none."})
    patience: int = field(default=12, metadata={"help": "Epochs without a better validation loss before it stops."})
    keep: str = field(
        default="best", metadata={"help": "Weights kept: best on validation, or last, where a schedule ends low."}
    )
    evaluate_every: int = field(default=2, metadata={"help": "Epochs between validations (and checkpoints)."})
    windows: int = field(default=3, metadata={"help": "Windows a preview in evaluation."})
    refit: bool = field(
        default=False,
        metadata={"help": "Learn once more, from training and validation songs, into RUN/refit/model."},
    )
    gain: float = field(default=6.0, metadata={"help": "Random gain up to so many dB either way."})
    roll: float = field(default=1.0, metadata={"help": "Random roll up to this share of the clip."})
    alternate: bool = field(default=True, metadata={"help": "Draw among a song's previews."})
    frequency_mask: int = field(default=24, metadata={"help": "SpecAugment: widest frequency mask in mel bands."})
    time_mask: int = field(default=48, metadata={"help": "SpecAugment: widest time mask in frames."})
    shift: int = field(default=0, metadata={"help": "Random shift up to so many mel bands either way."})
    transpose: float = field(default=0.0, metadata={"help": "Random transposition up to so many semitones either way."})
    mixup: float = field(default=0.0, metadata={"help": "Share of samples mixed with another."})
    timbre: list[str] = field(
        default_factory=list, metadata={"help": "Of pitch, equaliser, low_pass, high_pass, on the CPU."}
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
from accelerate import Accelerator  # noqa: E402
from accelerate.utils import ProjectConfiguration, set_seed  # noqa: E402
from sklearn.model_selection import GroupKFold  # noqa: E402
from timm.utils import ModelEmaV3  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402
from tqdm import tqdm  # noqa: E402
from transformers.utils import logging as transformers_logging  # noqa: E402

from mp3model.audio.augment import BandShift, Mixup, SpecAugment, TimbreAugment, Transpose, WaveformAugment, generator  # noqa: E402
from mp3model.audio.bank import AudioBank  # noqa: E402
from mp3model.audio.frontend import LogMel  # noqa: E402
from mp3model.baselines.floors import RegionMean, RidgeOnMeanLogMel  # noqa: E402
from mp3model.config import CHARTED, CRITERIA, SIZES, MP3Config  # noqa: E402
from mp3model.evaluation.oracle import oracle_frames, oracle_skill  # noqa: E402
from mp3model.evaluation.report import (  # noqa: E402
    closing_table,
    predicted_against_true,
    scalar_report,
    write_report,
)
from mp3model.model.encoder import AST  # noqa: E402
from mp3model.model.heads import ProjectionHead  # noqa: E402
from mp3model.model.losses import contrastive_loss, masked_squared_error, mean_over_targets  # noqa: E402
from mp3model.model.modeling import MP2Model, encoder_arguments, mp2_from_encoder  # noqa: E402
from mp3model.tables.charting import with_charted  # noqa: E402
from mp3model.tables.curves import popularity_targets  # noqa: E402
from mp3model.tables.folder import DatasetFolder  # noqa: E402
from mp3model.tables.splits import make_splits  # noqa: E402
from mp3model.training import loop  # noqa: E402
from mp3model.training.batches import (  # noqa: E402
    ClipSet,
    EpochBatches,
    ResidentBatches,
    Songs,
    TrainingSet,
    mel_statistics,
    songs_of_split,
    target_statistics,
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

# Beyond this the test split speaks for itself; below it every song is tested on, by artist.
SMALL_TEST = 30
# With fewer songs an interval spans most of what could be true.
FEW_SONGS = 200
# What is not asked for. A few thousand songs teach a plain AST little but their mean spectrum (the log in
# recipes/README.md): convolutions and statistics are what it lacks, most patches are not needed, and all of it
# overfits. A checkpoint has an architecture already.
SCRATCH = {
    "patch_size": [16, 16],
    "stem_overlap": 4,
    "stem_blocks": 2,
    "pooling": "statistics",
    "dropout": 0.1,
    "head_dropout": 0.3,
    "patch_drop": 0.75,
}
CHECKPOINT = {
    "patch_size": [16, 16],
    "stem_overlap": 1,
    "stem_blocks": 0,
    "pooling": "tokens",
    "dropout": 0.0,
    "patch_drop": 0.0,
}
# What a run that goes on may do otherwise than before: none of it moves a weight.
MAY_CHANGE = {"output_dir", "resume", "loader_workers", "bank", "log_every", "tracker", "most_skipped"}
TABLE, PICTURE = "table.txt", "predicted_against_true.png"


def check_arguments() -> None:
    """Refuses numbers that no run can use before anything is made."""
    whole = (
        "epochs",
        "batch_size",
        "accumulation",
        "evaluate_every",
        "windows",
        "log_every",
        "patience",
        "most_skipped",
    )
    check_bounds(
        train_arguments,
        dict.fromkeys(whole, (1, None))
        | {"learning_rate": (0, None), "warmup": (0, 1), "ema": (0, 0.99999), "mixup": (0, 1)}
        | dict.fromkeys(("gain", "shift", "contrast"), (0, None))
        | {"transpose": (0, 12), "region_correlation": (0, 0.95)},
    )
    if train_arguments.contrast and train_arguments.mixup:
        raise InputError("--contrast and --mixup exclude each other: a mixture is no clip of one song")
    if train_arguments.shift and train_arguments.transpose:
        raise InputError("--shift and --transpose exclude each other: both move the pitch; give one of them as 0")
    if train_arguments.contrast and train_arguments.batch_size < 2:
        raise InputError("--contrast needs a --batch_size of at least 2: there is no other song in a batch of 1")
    check_bounds(data_arguments, {"loader_workers": (0, None)})
    check_bounds(
        model_arguments,
        dict.fromkeys(("dropout", "head_dropout", "drop_path", "patch_drop"), (0, 0.9))
        | {"stem_overlap": (1, None), "stem_blocks": (0, None)},
    )
    if data_arguments.bank not in ("loader", "resident"):
        raise InputError(f"--bank {data_arguments.bank} is none of loader, resident")
    if train_arguments.keep not in ("best", "last"):
        raise InputError(f"--keep {train_arguments.keep} is none of best, last")
    if train_arguments.precision not in (None, "no", "bf16", "fp16"):
        raise InputError(f"--precision {train_arguments.precision} is none of no, bf16, fp16")


def main() -> None:
    """Data, model, loop, report, in that order."""
    folder = Path(train_arguments.output_dir)
    with errors_in_one_line():
        check_arguments()
    accelerator = begin_run(
        mixed_precision=train_arguments.precision,
        log_with=train_arguments.tracker,
        project_config=ProjectConfiguration(project_dir=str(folder), logging_dir=str(folder / "tracker")),
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
            if dataset.previews is None:
                raise InputError(
                    f"{dataset.path}: no previews.parquet, so no audio; build it with python -m data_prep.build_bank"
                )
            accelerator.init_trackers("mp2")
            run(dataset, AudioBank(dataset.path), folder, accelerator)
    end_run(accelerator)


def run(dataset: DatasetFolder, bank: AudioBank, folder: Path, accelerator: Accelerator) -> None:
    """Trains the model on the folder's splits, and others for cross-validation where the test split is small."""
    if dataset.splits is None:
        accelerator.print(f"{dataset.path} has no splits.parquet: split by time, or by artist where there are no dates")
        dataset = replace(dataset, splits=make_splits(dataset, seed=train_arguments.seed))
    absent = sorted(set(data_arguments.regions or []) - set(dataset.regions))
    if absent:
        raise InputError(f"--regions {' '.join(absent)}: {dataset.path} has {', '.join(dataset.regions)}")
    targets = popularity_targets(dataset)
    config = MP3Config(**config_arguments(data_arguments.regions or dataset.regions))
    regressed = CRITERIA[config.criterion]
    known = [name for name in regressed if targets[name].notna().any()]
    if not known:
        raise InputError(f"{dataset.path}: neither curves nor targets give {' or '.join(regressed)}")
    if len(known) < len(regressed):
        accelerator.print(f"{dataset.path} has no {', '.join(set(regressed) - set(known))}: left out")
        config.criterion = {"total": "streams", "debut_rank": "rank"}[known[0]]
    if config.charted:
        targets = with_charted(targets, dataset)
        config.charted = tells_charted(targets, config.regions)
        if not config.charted:
            accelerator.print(
                f"{dataset.path} has not in every region songs that chart and others that never do: charted left out"
            )

    def gather(*splits: str) -> Songs:
        songs = songs_of_split(targets, dataset.tracks, bank, splits, config.regions, config.targets)
        return shuffled(songs) if data_arguments.shuffle_targets else songs

    train, validation, test = gather("train"), gather("validation"), gather("test")
    folds = data_arguments.folds
    if folds is None:
        folds = 5 if len(test) < SMALL_TEST else 0
    accelerator.print(
        f"{len(train)} training, {len(validation)} validation and {len(test)} test songs in "
        f"{', '.join(config.regions)}; {accelerator.num_processes} process(es), {accelerator.device.type}"
    )
    everyone = gather("train", "validation", "test")
    artists = len(set(everyone.artists))
    if folds and artists < max(folds, 3):
        raise InputError(f"{folds} folds by artist need as many artists, at least 3; the data have {artists}")
    give_memory_back()
    features = mean_log_mel(everyone, bank, config, accelerator)
    model, epochs, skipped = fit(config, train, validation, bank, folder, accelerator)
    save(model, folder / "model", accelerator)
    frames = {"validation": predict(model, train, validation, features, bank, accelerator)} if validation else {}
    if train_arguments.refit:
        train = gather("train", "validation")
        accelerator.print(f"once more from {len(train)} songs, {epochs} epoch(s)")
        # The configuration holds the first fit's statistics: either model's weights fit the other's.
        model, _, more = fit(
            model.config, train, train.taken(np.arange(0)), bank, folder / "refit", accelerator, epochs
        )
        skipped += more
        save(model, folder / "refit" / "model", accelerator)
    if folds:
        frames["test"], more = cross_validate(config, everyone, features, bank, folder, folds, accelerator)
        skipped += more
    else:
        frames["test"] = predict(model, train, test, features, bank, accelerator)
    if accelerator.is_main_process:
        close(dataset, frames, train, folder, folds, len(everyone), skipped)
    accelerator.wait_for_everyone()


def save(model: MP2Model, folder: Path, accelerator: Accelerator) -> None:
    """Writes the model, whole or not at all, readable by all."""
    if accelerator.is_main_process:
        with folder_written_whole(folder) as part:
            model.save_pretrained(part)
            loop.share(part)


def tells_charted(targets: pd.DataFrame, regions: Sequence[str]) -> bool:
    """Whether every region has training songs that charted after their release and others that did not."""
    train = targets[targets["split"] == "train"]
    return all(train.loc[train["region"] == region, CHARTED].nunique() == 2 for region in regions)


def config_arguments(regions: list[str]) -> dict[str, object]:
    """What the command line says of the model, as the configuration's fields."""
    if model_arguments.size not in SIZES:
        raise InputError(f"--size {model_arguments.size} is none of {', '.join(SIZES)}")
    width, depth, heads = SIZES[model_arguments.size]
    fields = arguments_as_dict(model_arguments)
    for name in ("size", "encoder", "encoder_weights"):
        fields.pop(name)
    fields |= {"hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads, "regions": regions}
    scratch = model_arguments.encoder == "scratch"
    defaults = SCRATCH if scratch else CHECKPOINT
    fields |= {name: value for name, value in defaults.items() if fields[name] is None}
    if fields["patch_stride"] is None:
        fields["patch_stride"] = fields["patch_size"] if scratch else [10, 10]
    return fields


def start(config: MP3Config) -> MP2Model:
    """A model from scratch, or around the encoder that was asked for."""
    set_seed(train_arguments.seed)
    if model_arguments.encoder == "scratch":
        return MP2Model(config)
    arguments = encoder_arguments(config)
    options = {name: arguments[name] for name in ("regions", "frames", "dropout", "drop_path", "patch_drop")}
    for name, of_checkpoints in (
        ("position_mode", "sum"),
        ("stem_overlap", 1),
        ("stem_blocks", 0),
        ("pooling", "tokens"),
    ):
        if getattr(config, name) != of_checkpoints:
            raise InputError(
                f"--{name} {getattr(config, name)} needs a start from scratch: checkpoints have {name} {of_checkpoints}"
            )
    kind, _, name = model_arguments.encoder.partition(":")
    if kind == "timm":
        encoder = AST.from_timm(name, model_arguments.encoder_weights, stride=config.patch_stride, **options)
    else:
        encoder = AST.from_pretrained(model_arguments.encoder, **options)
    return mp2_from_encoder(encoder, config)


def shuffled(songs: Songs) -> Songs:
    """The same songs with each other's targets."""
    order = generator(train_arguments.seed, 0, "shuffled targets").permutation(len(songs))
    return replace(songs, targets=songs.targets[order])


def fit(
    config: MP3Config,
    train: Songs,
    validation: Songs,
    bank: AudioBank,
    folder: Path,
    accelerator: Accelerator,
    last_epoch: int | None = None,
) -> tuple[MP2Model, int, int]:
    """Trains one model in `folder`; gives it with the weights that `--keep` chooses, their epoch and skipped steps.

    Without validation songs it trains for `last_epoch` epochs of the schedule, and gives the last weights. Statistics
    that the configuration holds already are kept.
    """
    arguments, device = train_arguments, accelerator.device
    config = copy.deepcopy(config)
    if config.target_statistics is None:
        config.target_statistics = target_statistics(train)
        if model_arguments.encoder == "scratch":
            # A checkpoint expects the normalisation it was trained with, AudioSet's or the like.
            config.mel_mean, config.mel_std = mel_statistics(train, bank, config.num_mel_bins)
    model = start(config)
    if arguments.contrast:
        model.projection = ProjectionHead(config.hidden_size)
    model.to(device)
    model.encoder.set_grad_checkpointing(arguments.gradient_checkpointing)
    training_set = TrainingSet(
        train,
        bank,
        train.standardised(config.target_statistics),
        config.samples,
        arguments.seed,
        mixup=arguments.mixup > 0,
        second=arguments.contrast > 0,
        timbre=TimbreAugment(arguments.timbre) if arguments.timbre else None,
    )
    batches = EpochBatches(
        len(train),
        arguments.batch_size,
        arguments.seed,
        arguments.accumulation,
        accelerator.num_processes,
        accelerator.process_index,
    )
    loader = (
        ResidentBatches(training_set, batches, device)
        if data_arguments.bank == "resident"
        else DataLoader(
            training_set,
            batch_sampler=batches,
            num_workers=data_arguments.loader_workers,
            persistent_workers=data_arguments.loader_workers > 0,
            pin_memory=device.type == "cuda",
        )
    )
    augment = WaveformAugment(arguments.gain, arguments.roll, arguments.alternate)
    mask, shift = SpecAugment(arguments.frequency_mask, arguments.time_mask), BandShift(arguments.shift)
    transpose = Transpose(arguments.transpose)
    mix = Mixup(probability=arguments.mixup).to(device)

    def prepare(batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """A loader's batch → augmented log-mels and their targets, on the device; second clips after all first ones."""
        batch = {key: value.to(device, non_blocking=True) for key, value in batch.items()}
        waveforms, targets = augment(batch["previews"], batch["count"], batch["draws"]), batch["targets"]
        if arguments.mixup:
            partners = augment(batch["partner_previews"], batch["partner_count"], batch["partner_draws"])
            waveforms, targets = mix(waveforms, targets, partners, batch["partner_targets"], batch["draws"])
        draws = batch["draws"]
        if arguments.contrast:
            again = augment(batch["second_previews"], batch["second_count"], batch["second_draws"])
            waveforms, draws = torch.cat([waveforms, again]), torch.cat([draws, batch["second_draws"]])
            targets = torch.cat([targets, batch["second_targets"]])
        return mask(shift(transpose(loop.log_mels(model.frontend, waveforms), draws), draws), draws), targets

    steps, epochs = batches.steps * arguments.epochs, last_epoch or arguments.epochs
    optimizer = loop.make_optimizer(
        model, arguments.learning_rate, arguments.weight_decay, arguments.layer_decay, fused=device.type == "cuda"
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
    guard = StepGuard(
        accelerator,
        optimizer,
        arguments.most_skipped,
        lambda step: [train.song_ids[song] for song in batches.songs_at(step)],
        folder,
        progress.close,
    )
    guard.load(state)
    for epoch in range(first_epoch, epochs):
        if epoch - best_epoch >= arguments.patience and validation:
            break
        batches.start(epoch)
        learner.train()
        began, losses, contrasts = time.perf_counter(), [], []
        for number, group in enumerate(loop.in_groups(loader, arguments.accumulation)):
            step = epoch * batches.steps + number
            schedule.step_update(step)
            loop.seed_step(arguments.seed, step, accelerator.process_index)
            parts = [prepare(batch) for batch in group]
            # Known targets of the whole step, over parts and processes: see masked_squared_error.
            counts = accelerator.reduce(sum(masked_squared_error(y, y)[1] for _, y in parts), "sum")
            loss = torch.zeros((), device=device)
            for part, (mel, targets) in enumerate(parts):
                with nullcontext() if part + 1 == len(parts) else accelerator.no_sync(learner):
                    output = learner(mel=mel)
                    predictions = output.predictions.float()
                    sums, _ = masked_squared_error(predictions, targets, arguments.region_correlation)
                    share = mean_over_targets(sums, counts)
                    loss += share.detach()
                    # Processes average their gradients; the counts already span them, so the average is undone.
                    share = share * accelerator.num_processes
                    if arguments.contrast:
                        told_apart = contrastive_loss(*output.projections.float().chunk(2)) / len(parts)
                        contrasts.append(told_apart.detach())
                        share = share + arguments.contrast * told_apart
                    accelerator.backward(share)
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
                if contrasts:
                    told_apart = accelerator.reduce(torch.stack(contrasts).sum(), "mean")
                    values["contrastive_loss"] = float(told_apart) / len(losses)
                log.write(step + 1, values)
                progress.set_postfix(loss=f"{values['loss']:.3f}", validation=f"{best:.3f}")
                guard.check()
                began, losses, contrasts = time.perf_counter(), [], []
        guard.check()
        done = epoch + 1
        if done % arguments.evaluate_every and done < epochs:
            continue
        if validation:
            error = validation_error(judged, validation, bank, accelerator)
            log.write(done * batches.steps, {"validation_loss": error, "epoch": done})
            if error < best or arguments.keep == "last":
                best, best_epoch = error, done
                best_weights = {name: value.clone() for name, value in judged.state_dict().items()}
        else:
            best_weights, best_epoch = judged.state_dict(), done
        if accelerator.is_main_process:
            loop.save_checkpoint(
                folder,
                done * batches.steps,
                {"model": model.state_dict(), "judged": judged.state_dict(), "best": best_weights},
                optimizer,
                {"epoch": done, "best": best, "best_epoch": best_epoch, **guard.state()},
            )
    progress.close()
    if validation:
        refuse_without_validation(best, folder)
    accelerator.print(
        f"validation loss {best:.4f} after epoch {best_epoch}, whose weights are kept"
        if validation
        else f"no song to validate on: the weights after epoch {best_epoch} are kept"
    )
    model.load_state_dict(best_weights)
    # No forecast reads it.
    model.projection = None
    accelerator.free_memory(learner, optimizer)
    return model.eval(), best_epoch, guard.skipped


def validation_error(model: MP2Model, songs: Songs, bank: AudioBank, accelerator: Accelerator) -> float:
    """Mean squared error of the standardised targets, each song's clips averaged first."""
    model.eval()
    clips = ClipSet(songs, bank, model.config.samples, windows=1)
    predicted = loop.predict_songs(
        lambda waveforms: model(mel=loop.log_mels(model.frontend, waveforms)).predictions,
        clips,
        len(songs),
        accelerator,
        32,
    )
    known = torch.from_numpy(songs.standardised(model.config.target_statistics))
    sums, counts = masked_squared_error(torch.from_numpy(predicted), known)
    return float(mean_over_targets(sums, counts))


# target → system → its predictions, one row a (song, region).
Frames = dict[str, dict[str, pd.DataFrame]]


def mean_log_mel(songs: Songs, bank: AudioBank, config: MP3Config, accelerator: Accelerator) -> pd.DataFrame:
    """The mean over time of each song's log-mel spectrogram: what a clip sounds like when its order is forgotten."""
    frontend = LogMel(config.mel_mean, config.mel_std, config.num_mel_bins).to(accelerator.device)
    clips = ClipSet(songs, bank, config.samples, train_arguments.windows)
    values = loop.predict_songs(
        lambda waveforms: loop.log_mels(frontend, waveforms).mean(1), clips, len(songs), accelerator, 32
    )
    return pd.DataFrame(values, index=songs.song_ids)


def predict(
    model: MP2Model, train: Songs, asked: Songs, features: pd.DataFrame, bank: AudioBank, accelerator: Accelerator
) -> Frames:
    """MP2's predictions, each song's averaged over all windows of all previews, and the baselines' beside them."""
    clips = ClipSet(asked, bank, model.config.samples, train_arguments.windows)
    predicted = loop.predict_songs(
        lambda waveforms: model.natural_units(model(mel=loop.log_mels(model.frontend, waveforms)).predictions),
        clips,
        len(asked),
        accelerator,
        32,
    )
    frames: Frames = {}
    for column, target in enumerate(asked.names):
        frame, learnt = asked.frame(target, predicted[..., column]), train.frame(target)
        baselines: dict[str, RegionMean | RidgeOnMeanLogMel] = {
            "region_mean": RegionMean(),
            "ridge_mean_log_mel": RidgeOnMeanLogMel(features),
        }
        frames[target] = {"mp2": frame} | {
            name: frame.assign(predicted=baseline.fit(learnt).predict(frame)) for name, baseline in baselines.items()
        }
    return frames


def cross_validate(
    config: MP3Config,
    songs: Songs,
    features: pd.DataFrame,
    bank: AudioBank,
    folder: Path,
    folds: int,
    accelerator: Accelerator,
) -> tuple[Frames, int]:
    """Predictions for every song by a model that saw none of its artist's, and the steps that were skipped.

    Another fold stops the training early.
    """
    fold = np.empty(len(songs), dtype=int)
    splitter = GroupKFold(folds, shuffle=True, random_state=train_arguments.seed)
    for number, (_, held_out) in enumerate(splitter.split(fold, groups=songs.artists)):
        fold[held_out] = number
    parts: list[Frames] = []
    skipped = 0
    for number in range(folds):
        accelerator.print(f"fold {number + 1} of {folds}")
        test, validation = fold == number, fold == (number + 1) % folds
        train = songs.taken(np.flatnonzero(~test & ~validation))
        model, _, more = fit(
            config,
            train,
            songs.taken(np.flatnonzero(validation)),
            bank,
            folder / f"fold-{number + 1}",
            accelerator,
        )
        skipped += more
        part = predict(model, train, songs.taken(np.flatnonzero(test)), features, bank, accelerator)
        parts.append({target: less_training_mean(systems, train.frame(target)) for target, systems in part.items()})
    frames = {
        target: {name: pd.concat([part[target][name] for part in parts]) for name in parts[0][target]}
        for target in songs.names
    }
    return frames, skipped


def less_training_mean(systems: dict[str, pd.DataFrame], learnt: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Adds what is ranked across folds: the prediction less the mean of the training rows of its region.

    A fold's training mean is low where its held-out songs are high, which would rank the folds the wrong way round.
    """
    means = learnt.groupby("region")["true"].mean()
    return {
        name: frame.assign(score=frame["predicted"] - frame["region"].map(means)) for name, frame in systems.items()
    }


def close(
    dataset: DatasetFolder,
    frames: dict[str, Frames],
    train: Songs,
    folder: Path,
    folds: int,
    songs: int,
    skipped: int,
) -> None:
    """Scores, the closing table, report.json and the picture."""
    seed = train_arguments.seed
    oracles = {split: oracle_frames(dataset.path, targets) for split, targets in frames.items()}
    report = scalar_report(frames, oracles, "mp2", seed)
    # Across folds no songs are left over to learn a spread from.
    if oracles["test"] and not folds and "validation" in frames:
        report["skill"] = {
            "test": {
                target: oracle_skill(
                    frames["test"][target], frames["validation"][target], oracle, train.frame(target), seed
                )
                for target, oracle in oracles["test"].items()
            }
        }
    report |= {"data": str(dataset.path), "songs": songs, "folds": folds, "skipped_steps": skipped}
    notes = []
    if skipped:
        notes.append(f"{skipped} training step(s) had no finite loss and gradient and were skipped.")
    if folds:
        notes.append(f"The test figures are cross-validated by artist in {folds} folds over all {songs} songs.")
    if songs < FEW_SONGS:
        notes.append(f"{songs} songs are too few: whatever the table says, nothing can be concluded from it.")
    if data_arguments.shuffle_targets:
        notes.append("Targets were shuffled among songs: anything found here is found by chance.")
    table = "\n".join([closing_table(report), *notes])
    if "total" in frames["test"]:
        predicted_against_true(frames["test"]["total"]["mp2"], folder / PICTURE)
    with written_whole(folder / TABLE) as path:
        path.write_text(table + "\n")
    write_report(folder / "report.json", report | {"notes": notes})
    print(f"\n{table}\n\nmodel: {folder / 'model'}   report: {folder / 'report.json'}   picture: {folder / PICTURE}")


if __name__ == "__main__":
    main()
