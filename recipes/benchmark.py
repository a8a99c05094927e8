"""What this toolkit costs beside its peers, in one process and run: training, forecasting, preparation, scale.

    python recipes/benchmark.py [--quick | --full] --output_dir RUN
    python recipes/benchmark.py --only forward file --threads 1 --output_dir RUN

Writes RUN/report.json (ratios under `cpu` and `gpu`), RUN/table.txt and RUN/scale.png. A ratio is the peer's time over
ours, so above 1 ours is faster; every figure is the median of trials in which ours and the peer's take turns, after one
that is left out. Seconds are those of the wall, or of the processor with --clock processor, where other work runs too.
Sections: product, forward, step, shares, equal_loss, file, prepare, scale, plan. On a GPU every combination of size,
length, stride, patch drop and precision is measured, eager and compiled; a processor would take hours for that, so that
there --full is asked for it and a part of them stands otherwise.

FLOP of a forward pass, a multiplication with its addition counted as two: for N tokens of width W with an inner layer
of 4 W, each block 24 N W² + 4 N² W; and 2 · 256 · W a patch of 16 × 16. A training step takes three times that of the
tokens it keeps. MFU is FLOP over seconds over the rate of matrix products, which is measured between the trials. That
rate is PyTorch's own (`linear` in the shape of a block's largest product); kernels that are faster bring MFU above 1.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

from mp3model.files import InputError, errors_in_one_line, write_json, written_whole
from mp3model.training.arguments import parse_arguments

# A worker that is spawned reads this file again under the second name.
if __name__ not in ("__main__", "__mp_main__"):
    raise ImportError("recipes/benchmark.py is a script: run it with `python recipes/benchmark.py`")

SECTIONS = ("product", "forward", "step", "shares", "equal_loss", "file", "prepare", "scale", "plan")


@dataclass
class BenchmarkArguments:
    """What is measured, and how."""

    output_dir: str = field(default="runs/benchmark", metadata={"help": "Run folder."})
    quick: bool = field(default=False, metadata={"help": "A few cases of each section: about three minutes."})
    full: bool = field(default=False, metadata={"help": "All combinations on a processor too: hours."})
    only: list[str] | None = field(default=None, metadata={"help": f"Sections, of {', '.join(SECTIONS)}."})
    trials: int | None = field(default=None, metadata={"help": "Trials of each figure. None is 5, or 3 if quick."})
    threads: int | None = field(default=None, metadata={"help": "Of torch; none is its own choice."})
    clock: str = field(default="wall", metadata={"help": "wall, or processor where other work runs beside."})
    dollars_cpu: float = field(default=0.05, metadata={"help": "Price of a processor core for an hour, for the plan."})
    dollars_gpu: float = field(default=4.0, metadata={"help": "Price of a GPU for an hour, for the plan."})
    dollars_store: float = field(default=0.02, metadata={"help": "Price of a gigabyte for a month, for the plan."})


with errors_in_one_line():
    (arguments,) = parse_arguments((BenchmarkArguments,), sys.argv[1:], __doc__.splitlines()[0])
    for section in arguments.only or ():
        if section not in SECTIONS:
            raise InputError(f"--only {section}: is none of {', '.join(SECTIONS)}")
    if arguments.quick and arguments.full:
        raise InputError("--quick and --full exclude each other: leave one out")
    if arguments.clock not in ("wall", "processor"):
        raise InputError(f"--clock {arguments.clock} is none of wall, processor")
    # The workers that make a market read this file too, when the report of this run has begun.
    if __name__ == "__main__" and (Path(arguments.output_dir) / "report.json").exists():
        raise InputError(f"{arguments.output_dir} holds another run; name another --output_dir")

# Only now: `--help` and a wrong option answer without waiting for torch.
import contextlib  # noqa: E402
import ctypes  # noqa: E402
import itertools  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import platform  # noqa: E402
import shutil  # noqa: E402
import statistics  # noqa: E402
import subprocess  # noqa: E402
import tempfile  # noqa: E402
import threading  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Iterable, Iterator, Sequence  # noqa: E402
from functools import partial  # noqa: E402
from typing import Any, TypeVar  # noqa: E402

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import psutil  # noqa: E402
import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from transformers.utils import logging as transformers_logging  # noqa: E402

from mp3model.audio.augment import SpecAugment, WaveformAugment  # noqa: E402
from mp3model.audio.bank import SAMPLE_RATE, AudioBank  # noqa: E402
from mp3model.audio.frontend import FRAME_SHIFT, LogMel  # noqa: E402
from mp3model.config import SIZES, MP3Config  # noqa: E402
from mp3model.model.encoder import AST, grid_of  # noqa: E402
from mp3model.model.losses import masked_squared_error, mean_over_targets  # noqa: E402
from mp3model.model.modeling import MP2Model  # noqa: E402
from mp3model.tables.curves import popularity_targets  # noqa: E402
from mp3model.tables.folder import DatasetFolder, read_dataset  # noqa: E402
from mp3model.training import loop  # noqa: E402
from mp3model.training.batches import (  # noqa: E402
    EpochBatches,
    ResidentBatches,
    Songs,
    TrainingSet,
    songs_of_split,
    target_statistics,
)
from mp3model.training.runs import give_memory_back  # noqa: E402

FRAMES = {10.24: 1024, 30.0: 2998}
QUICK, TRIALS = arguments.quick, arguments.trials or (3 if arguments.quick else 5)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
Row = dict[str, Any]
Batch = TypeVar("Batch")


# --------------------------------------------------------------------------------------------------- measuring


def now(device: torch.device) -> float:
    """Seconds on the chosen clock, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time() if arguments.clock == "processor" else time.perf_counter()


def in_turns(device: torch.device, **run: Callable[[], Any]) -> dict[str, list[float]]:
    """Seconds of each function in each trial; all take turns, and the first round is left out.

    Trials are as many as 10 seconds hold, three at least, or two where a round takes over 5 seconds.
    """
    seconds: dict[str, list[float]] = {name: [] for name in run}
    trials, number = TRIALS, -1
    while number < trials:
        took = 0.0
        for name, function in run.items():
            began = now(device)
            function()
            spent = now(device) - began
            took += spent
            if number >= 0:
                seconds[name].append(spent)
        if number < 0:
            trials = min(TRIALS, max(2 if took > 5 else 3, int(10 / max(took, 1e-9))))
        number += 1
    return seconds


@contextlib.contextmanager
def peak_memory(device: torch.device, row: Row, name: str) -> Iterator[None]:
    """Puts into the row by how many MB memory grew at most: of the GPU, or of this process (looked at every 5 ms)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield
        row[name] = round((torch.cuda.max_memory_allocated(device) - before) / 1e6)
        return
    process, done = psutil.Process(), threading.Event()
    # What earlier work has freed but not given back would hide what this takes.
    getattr(ctypes.CDLL(None), "malloc_trim", int)(0)
    before = highest = process.memory_info().rss

    def look() -> None:
        nonlocal highest
        while not done.wait(0.005):
            highest = max(highest, process.memory_info().rss)

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
    row[name] = round((highest - before) / 1e6)


def compared(row: Row, seconds: dict[str, list[float]], ours: str = "ours", peer: str = "peer") -> Row:
    """Adds medians, and the median of the trials' ratios."""
    row["seconds"], row["peer_seconds"] = statistics.median(seconds[ours]), statistics.median(seconds[peer])
    row["ratio"] = statistics.median(b / a for a, b in zip(seconds[ours], seconds[peer], strict=True))
    row["trials"] = len(seconds[ours])
    return row


def product(device: torch.device, precision: str, tokens: int, width: int) -> tuple[Callable[[], Any], float]:
    """The largest matrix product of an encoder's block, and its FLOP: the ceiling of that run."""
    a = torch.randn(tokens, width, device=device, dtype=DTYPES[precision])
    b = torch.randn(4 * width, width, device=device, dtype=DTYPES[precision])
    repeats = max(1, int((2e10 if device.type == "cpu" else 4e12) / (8 * tokens * width**2)))

    def run() -> None:
        with torch.inference_mode():
            for _ in range(repeats):
                nn.functional.linear(a, b)

    return run, repeats * 8.0 * tokens * width**2


def forward_flop(tokens: int, patches: int, width: int, depth: int) -> float:
    """See the head of this file."""
    return depth * (24.0 * tokens * width**2 + 4.0 * tokens**2 * width) + 512.0 * patches * width


# ------------------------------------------------------------------------------------------------- the encoders


def pair_of_encoders(size: str, seconds: float, stride: int, drop: float = 0.0) -> tuple[AST, Any]:
    """Ours and transformers', of the same sizes and weights, in training mode."""
    from transformers import ASTConfig, ASTModel

    width, depth, heads = SIZES[size]
    torch.manual_seed(0)
    config = ASTConfig(
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        max_length=FRAMES[seconds],
        frequency_stride=stride,
        time_stride=stride,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    with tempfile.TemporaryDirectory() as folder:
        stock = ASTModel(config)
        stock.save_pretrained(folder)
        return AST.from_pretrained(folder, patch_drop=drop), stock.train()


def extractor(seconds: float) -> Any:
    """transformers' front end for clips of that length."""
    from transformers import ASTFeatureExtractor

    return ASTFeatureExtractor(max_length=FRAMES[seconds])


def clips_of(batch: int, seconds: float, seed: int = 0) -> np.ndarray:
    """(batch, samples) float32 noise, as loud as music."""
    return 0.1 * np.random.default_rng(seed).standard_normal((batch, int(seconds * SAMPLE_RATE))).astype(np.float32)


@dataclass(frozen=True)
class Case:
    """One combination of what an encoder is measured at; its text is what tables call it."""

    size: str
    seconds: float
    stride: int
    precision: str
    drop: float | None = None
    compiled: bool = False
    checkpointed: bool = False

    def __str__(self) -> str:
        """For instance `tiny 10.24 s stride 16 drop 0.5 fp32 eager`."""
        dropped = "" if self.drop is None else f" drop {self.drop:g}"
        mode = ("compiled" if self.compiled else "eager") + (" checkpointed" if self.checkpointed else "")
        return f"{self.size} {self.seconds:g} s stride {self.stride}{dropped} {self.precision} {mode}"

    @property
    def patches(self) -> int:
        """Patches of a clip, before any is dropped."""
        return int(np.prod(grid_of(FRAMES[self.seconds], 128, (16, 16), (self.stride, self.stride))))

    @property
    def kept(self) -> int:
        """Tokens that go through the blocks."""
        return 2 + int(self.patches * (1 - (self.drop or 0.0)))

    def flop(self, batch: int) -> float:
        """Of a forward pass."""
        width, depth, _ = SIZES[self.size]
        return batch * forward_flop(self.kept, self.patches, width, depth)

    def ceiling(self, device: torch.device, batch: int) -> tuple[Callable[[], Any], float]:
        """A matrix product in the shape of this case, and its FLOP."""
        return product(device, self.precision, batch * self.kept, SIZES[self.size][0])


def combinations(
    sizes: Sequence[str], places: Sequence[tuple[float, int]], drops: Sequence[float | None] = (None,)
) -> list[Case]:
    """All of these sizes, (seconds, stride) and patch drops, in both precisions, eager."""
    return [
        Case(size, seconds, stride, precision, drop)
        for size, (seconds, stride), drop, precision in itertools.product(sizes, places, drops, DTYPES)
    ]


def both_modes(cases: list[Case]) -> list[Case]:
    """Each case eager, then compiled."""
    return [replace(case, compiled=compiled) for case in cases for compiled in (False, True)]


EVERYWHERE = tuple(itertools.product(FRAMES, (10, 16)))


def forward_cases(device: torch.device) -> list[Case]:
    """On a processor compiled only in one size, as a compilation takes it half a minute and more."""
    if device.type == "cuda" or arguments.full:
        return both_modes(combinations(("tiny", "small", "base"), EVERYWHERE))
    compiled = [replace(case, compiled=True) for case in combinations(("nano",), ((10.24, 16),))]
    if QUICK:
        return combinations(("tiny", "base"), ((10.24, 10),)) + compiled[:1]
    larger = combinations(("small", "base"), ((10.24, 10), (10.24, 16), (30.0, 16)))
    return [*combinations(("tiny",), EVERYWHERE), *larger, *compiled]


def forward(device: torch.device) -> list[Row]:
    """Log-mels → tokens, and waveforms → tokens, ours and stock's on the same clips."""
    return [said("forward", forward_row(case, device)) for case in forward_cases(device)]


def forward_row(case: Case, device: torch.device) -> Row:
    """One case; `pipeline_ratio` is that of front end and encoder together, each timed by itself."""
    batch, dtype = 1 if device.type == "cpu" else 32, DTYPES[case.precision]
    ours, stock = (module.eval().to(device, dtype) for module in pair_of_encoders(case.size, case.seconds, case.stride))
    run_ours: Any = ours.forward_features
    run_stock: Any = stock
    if case.compiled:
        run_ours, run_stock = torch.compile(run_ours, fullgraph=True), torch.compile(run_stock)
    frontend, extract = LogMel(frames=FRAMES[case.seconds]).to(device), extractor(case.seconds)
    waves = clips_of(batch, case.seconds)
    mel = frontend(torch.from_numpy(waves).to(device)).to(dtype)
    ceiling, ceiling_flop = case.ceiling(device, batch)

    def stock_tokens() -> Tensor:
        return run_stock(mel).last_hidden_state

    def extracted() -> Tensor:
        read = extract(list(waves), sampling_rate=SAMPLE_RATE, return_tensors="pt")["input_values"]
        return read.to(device, dtype)

    row: Row = {"case": str(case), "batch": batch, "tokens": case.kept}
    with torch.inference_mode():
        if case.compiled:
            run_ours(mel), run_stock(mel)
        with peak_memory(device, row, "memory_mb"):
            given = run_ours(mel).float()
        with peak_memory(device, row, "peer_memory_mb"):
            expected = stock_tokens().float()
        row["difference"] = float((given - expected).square().mean().sqrt() / expected.square().mean().sqrt())
        taken = in_turns(
            device,
            ours=partial(run_ours, mel),
            peer=stock_tokens,
            product=ceiling,
            frontend=lambda: frontend(torch.from_numpy(waves).to(device)).to(dtype),
            extractor=extracted,
        )
    compared(row, taken)
    rounds = zip(taken["frontend"], taken["ours"], taken["extractor"], taken["peer"], strict=True)
    row["pipeline_ratio"] = statistics.median((c + d) / (a + b) for a, b, c, d in rounds)
    row["product_gflops"] = ceiling_flop / statistics.median(taken["product"]) / 1e9
    row["mfu"] = share_of_products(case.flop(batch), taken, ceiling_flop)
    torch.compiler.reset()
    return row


def share_of_products(flop: float, taken: dict[str, list[float]], ceiling_flop: float) -> float:
    """FLOP a second of `ours` over those of `product`, the median over the rounds they took turns in."""
    return statistics.median(
        flop / a / (ceiling_flop / c) for a, c in zip(taken["ours"], taken["product"], strict=True)
    )


def step_cases(device: torch.device) -> list[Case]:
    """On a processor `base` at one stride, and compiled only in one size."""
    drops = (0.0, 0.5)
    checkpointed = [Case("tiny", 10.24, 16, "fp32", 0.5, checkpointed=True)]
    compiled = [replace(case, compiled=True) for case in combinations(("nano",), ((10.24, 16),), (0.5,))]
    if device.type == "cuda" or arguments.full:
        cases = both_modes(combinations(("tiny", "small", "base"), EVERYWHERE, drops))
        return [*cases, Case("base", 30.0, 16, "bf16", 0.5, checkpointed=True), *checkpointed]
    if QUICK:
        return [*combinations(("tiny",), ((10.24, 16),), drops), *checkpointed]
    tiny = combinations(("tiny",), ((10.24, 10), (10.24, 16), (30.0, 16)), drops)
    larger = combinations(("small",), ((10.24, 16),), (0.5,)) + combinations(("base",), ((10.24, 16),), drops)
    return [*tiny, *larger, *checkpointed, *compiled]


def stepper(encoder: nn.Module, head: nn.Module, mel: Tensor, target: Tensor, precision: str) -> Callable[[], None]:
    """One step of AdamW on the mean of the class and distillation tokens; bf16 is autocast."""
    device = mel.device
    parameters = [*encoder.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            tokens = encoder(mel)
            tokens = tokens if isinstance(tokens, Tensor) else getattr(tokens, "last_hidden_state", tokens[0])
            loss = (head(tokens[:, :2].mean(dim=1)).float() - target).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def training_step(device: torch.device) -> list[Row]:
    """Forward, backward and optimizer on log-mels at hand; stock's at all tokens, as it cannot drop any."""
    return [said("step", step_row(case, device)) for case in step_cases(device)]


def step_row(case: Case, device: torch.device) -> Row:
    """One case; with gradient checkpointing stock has it too."""
    batch = 32 if device.type == "cuda" else 2 if case.seconds < 20 else 1
    ours, stock = pair_of_encoders(case.size, case.seconds, case.stride, case.drop or 0.0)
    ours.to(device).train()
    stock.to(device)
    if case.checkpointed:
        ours.set_grad_checkpointing()
        stock.gradient_checkpointing_enable()
    width = SIZES[case.size][0]
    mel = torch.randn(batch, FRAMES[case.seconds], 128, device=device)
    target = torch.randn(batch, 8, device=device)
    ceiling, ceiling_flop = case.ceiling(device, batch)
    encoders: list[Any] = [ours, stock]
    if case.compiled:
        encoders = [torch.compile(ours, fullgraph=True), torch.compile(stock)]
    steps = [stepper(encoder, nn.Linear(width, 8).to(device), mel, target, case.precision) for encoder in encoders]
    row: Row = {"case": str(case), "batch": batch, "tokens": case.kept, "peer_tokens": case.patches + 2}
    taken = in_turns(device, ours=steps[0], peer=steps[1], product=ceiling)
    for memory, step in (("memory_mb", steps[0]), ("peer_memory_mb", steps[1])):
        with peak_memory(device, row, memory):
            step()
    compared(row, taken)
    row["product_gflops"] = ceiling_flop / statistics.median(taken["product"]) / 1e9
    # What checkpointing computes again is no useful work.
    row["mfu"] = share_of_products(3 * case.flop(batch), taken, ceiling_flop)
    row["clips_a_second"] = batch / row["seconds"]
    if device.type == "cuda":
        row["waits_for_the_device"] = waits(steps[0])
    torch.compiler.reset()
    return row


def waits(step: Callable[[], Any]) -> bool:
    """Whether anything in a step makes the processor wait for the GPU."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    except RuntimeError:
        return True
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return False


def matrix_products(device: torch.device) -> list[Row]:
    """The machine's rate, in the shape of AST-base's largest product and as a large square."""
    rows = []
    for precision in DTYPES:
        block, flop = product(device, precision, 1214 if device.type == "cpu" else 32 * 1214, 768)
        side = 2048 if device.type == "cpu" else 8192
        square = torch.randn(side, side, device=device, dtype=DTYPES[precision])
        taken = in_turns(device, ours=block, peer=partial(torch.matmul, square, square))
        row = {"case": precision, "gflops": flop / statistics.median(taken["ours"]) / 1e9}
        row["square_gflops"] = 2 * side**3 / statistics.median(taken["peer"]) / 1e9
        rows.append(said("product", row))
    return rows


# ------------------------------------------------------------------------------------------- the step's shares


NAMES = ("total", "debut_rank")


def songs_of(dataset: DatasetFolder, bank: AudioBank, split: str) -> Songs:
    """The songs of one split of a dataset, with both of MP2's targets."""
    return songs_of_split(popularity_targets(dataset), dataset.tracks, bank, [split], dataset.regions, NAMES)


def recipe_parts(
    dataset: DatasetFolder, bank: AudioBank, size: str, frames: int
) -> tuple[TrainingSet, EpochBatches, MP2Model]:
    """What recipes/mp2.py trains with, on a dataset."""
    songs = songs_of(dataset, bank, "train")
    give_memory_back()
    width, depth, heads = SIZES[size]
    config = MP3Config(
        regions=songs.regions,
        frames=frames,
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        patch_stride=[16, 16],
        patch_drop=0.5,
    )
    data = TrainingSet(songs, bank, songs.standardised(target_statistics(songs)), config.samples, seed=0)
    torch.manual_seed(0)
    return data, EpochBatches(len(songs), 4, seed=0), MP2Model(config)


def endless(batches: EpochBatches, source: Iterable[Batch]) -> Iterator[Batch]:
    """Batches of one epoch after the other."""
    for epoch in itertools.count():
        batches.start(epoch)
        yield from source


def recipe_step(
    model: MP2Model, device: torch.device
) -> Callable[[Iterator[dict[str, Tensor]], dict[str, float] | None], None]:
    """A step of recipes/mp2.py that adds the seconds of its parts to a dictionary, or runs through without one."""
    augment, mask = WaveformAugment(6.0, 1.0, True).train(), SpecAugment(24, 48).train()
    optimizer = loop.make_optimizer(model, 1e-3, 0.1, 1.0, fused=device.type == "cuda")
    bf16 = device.type == "cuda"

    def step(batches: Iterator[dict[str, Tensor]], spent: dict[str, float] | None) -> None:
        at: list[float] = []

        def mark() -> None:
            # The clock waits for the device, which a step does not.
            if spent is not None:
                at.append(now(device))

        mark()
        batch = {key: value.to(device, non_blocking=True) for key, value in next(batches).items()}
        mark()
        waveforms = augment(batch["previews"], batch["count"], batch["draws"])
        mark()
        mel = loop.log_mels(model.frontend, waveforms)
        mark()
        mel = mask(mel, batch["draws"])
        mark()
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss = model(mel=mel, targets=batch["targets"]).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        mark()
        if spent is not None:
            names = ("data wait", "augmentation", "front end", "augmentation", "model")
            for name, one, other in zip(names, at, at[1:], strict=False):
                spent[name] = spent.get(name, 0.0) + other - one

    return step


def shares(device: torch.device) -> list[Row]:
    """A step of the recipe from the bank on, and where it spends its time: with the loader, and with the bank resident.

    The peer is stock from waveforms at hand: its feature extractor on the processor, then its model.
    """
    from data_prep.tiled import write_tiled

    on_processor = device.type == "cpu"
    case = Case("tiny" if on_processor else "base", 10.24 if on_processor else 30.0, 16, "fp32", 0.5)
    case = replace(case, precision="fp32" if on_processor else "bf16")
    with scratch() as folder:
        write_tiled(folder / "bank", 128)
        return [said("shares", shares_row(case, device, folder / "bank", bank)) for bank in ("loader", "resident")]


def shares_row(case: Case, device: torch.device, folder: Path, bank: str) -> Row:
    """One way to the bank."""
    data, batches, model = recipe_parts(read_dataset(folder), AudioBank(folder), case.size, FRAMES[case.seconds])
    model.to(device).train()
    batches.batch_size, together = (4, 1) if device.type == "cpu" else (32, 8)
    loader: Any = ResidentBatches(data, batches, device)
    if bank == "loader":
        pinned = device.type == "cuda"
        loader = torch.utils.data.DataLoader(data, batch_sampler=batches, num_workers=2, pin_memory=pinned)
    source, step = endless(batches, loader), recipe_step(model, device)
    stock_step = stock_from_waveforms(case, device, batches.batch_size)
    ceiling, ceiling_flop = case.ceiling(device, batches.batch_size)
    # Several steps a trial: what overlaps from one to the next is to count.
    taken = in_turns(
        device,
        ours=lambda: [step(source, None) for _ in range(together)],
        peer=lambda: [stock_step() for _ in range(together)],
        product=ceiling,
    )
    row = compared({"case": f"{case}, {bank}", "batch": batches.batch_size, "steps": together}, taken)
    row["mfu"] = share_of_products(3 * together * case.flop(batches.batch_size), taken, ceiling_flop)
    spent: dict[str, float] = {}
    for _ in range(4 if QUICK else 12):
        step(source, spent)
    row |= {name: value / sum(spent.values()) for name, value in spent.items()}
    if device.type == "cuda":
        row["waits_for_the_device"] = waits(partial(step, source, None))
    return row


def stock_from_waveforms(case: Case, device: torch.device, batch: int) -> Callable[[], None]:
    """A step of stock: its feature extractor on the processor, clip by clip, then its model at all tokens."""
    stock = pair_of_encoders(case.size, case.seconds, case.stride)[1].to(device)
    extract, waves = extractor(case.seconds), clips_of(batch, case.seconds)
    mel = torch.empty(batch, FRAMES[case.seconds], 128, device=device)
    head = nn.Linear(SIZES[case.size][0], 8).to(device)
    learn = stepper(stock, head, mel, torch.zeros(batch, 8, device=device), case.precision)

    def step() -> None:
        mel.copy_(extract(list(waves), sampling_rate=SAMPLE_RATE, return_tensors="pt")["input_values"])
        learn()

    return step


# --------------------------------------------------------------------------------------------- time to equal loss


class Plain(nn.Module):
    """An encoder, and a linear head on the mean of its class and distillation tokens."""

    def __init__(self, encoder: nn.Module, width: int, shape: tuple[int, int]) -> None:
        super().__init__()
        self.encoder, self.shape = encoder, shape
        self.head = nn.Linear(width, shape[0] * shape[1])

    def forward(self, mel: Tensor) -> Tensor:
        """(batch, frames, mels) → (batch, regions, targets)."""
        tokens = self.encoder(mel)
        tokens = tokens[0] if isinstance(tokens, tuple) else tokens.last_hidden_state
        return self.head(tokens[:, :2].mean(dim=1)).unflatten(1, self.shape)


@dataclass
class Race:
    """What both learn from: a simulated market, in one order.

    Attributes:
        case: Size and place; both start from the same weights.
        train: Training songs.
        validation: (songs, frames, mels) log-mels of the first preview, and (songs, regions, targets).
        batch: Songs a step.
        epochs: Of stock.
        device: Where both learn.
    """

    case: Case
    train: TrainingSet
    validation: tuple[Tensor, Tensor]
    batch: int
    epochs: int
    device: torch.device

    def order(self) -> EpochBatches:
        """The songs of each step: the same for both."""
        return EpochBatches(len(self.train), self.batch, seed=0)

    def error(self, model: nn.Module) -> float:
        """Mean squared error on validation."""
        mels, targets = self.validation
        model.eval()
        with torch.inference_mode(), self.precision():
            predicted = torch.cat([model(part).float() for part in mels.split(self.batch)])
        model.train()
        return float(mean_over_targets(*masked_squared_error(predicted, targets)))

    def precision(self) -> Any:
        """Autocast in bfloat16, on a GPU."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.case.precision == "bf16")


def race(folder: Path, device: torch.device) -> Race:
    """Makes the market. On a processor it is a rehearsal: a small model, few songs."""
    from data_prep.market import make_market

    case, songs, epochs, batch = Case("base", 30.0, 16, "bf16", 0.5), 2000, 12, 32
    if device.type == "cpu":
        case, songs, epochs, batch = Case("micro", 10.24, 16, "fp32", 0.5), 48 if QUICK else 200, 1 if QUICK else 4, 8
    make_market(folder, songs, progress=False, oracle_runs=0)
    bank, frames = AudioBank(folder), FRAMES[case.seconds]
    dataset = read_dataset(folder)
    train, validation = (songs_of(dataset, bank, split) for split in ("train", "validation"))
    statistics_of_train, samples = target_statistics(train), int(case.seconds * SAMPLE_RATE)
    data = TrainingSet(train, bank, train.standardised(statistics_of_train), samples, seed=0)
    frontend = LogMel(frames=frames).to(device)
    heard = [frontend(torch.from_numpy(bank.read(int(c[0]), 0, samples)).to(device)[None]) for c in validation.clips]
    known = torch.from_numpy(validation.standardised(statistics_of_train)).to(device)
    return Race(case, data, (torch.cat(heard), known), batch, epochs, device)


def learnt(
    course: Race, model: nn.Module, source: Iterator[tuple[Tensor, Tensor]], until: float = -1.0
) -> list[tuple[float, float]]:
    """Trains; (seconds of training so far, validation loss) after every half epoch, until that loss or the end.

    Args:
        course: Songs, order and number of epochs.
        model: (batch, frames, mels) → (batch, regions, targets).
        source: Log-mels and targets of one step after the other, without end.
        until: A loss that is low enough.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4 if course.case.size == "base" else 1e-3, fused=True)
    steps = course.order().steps
    every, trace, spent = max(1, steps // 2), [], 0.0
    mel, targets = next(source)
    # Left out of the time: kernels that are chosen or read at their first use, and workers that start.
    with course.precision():
        masked_squared_error(model(mel).float(), targets)[0].sum().backward()
    optimizer.zero_grad()
    began = now(course.device)
    for number in range(1, course.epochs * steps + 1):
        with course.precision():
            predicted = model(mel).float()
        mean_over_targets(*masked_squared_error(predicted, targets)).backward()
        optimizer.step()
        optimizer.zero_grad()
        mel, targets = next(source)
        if number % every == 0:
            spent += now(course.device) - began
            trace.append((spent, course.error(model)))
            if trace[-1][1] <= until:
                break
            began = now(course.device)
    return trace


def our_mels(course: Race) -> Iterator[tuple[Tensor, Tensor]]:
    """From the bank on the device through our front end, without end."""
    order, frontend = course.order(), LogMel(frames=FRAMES[course.case.seconds]).to(course.device)
    for batch in endless(order, ResidentBatches(course.train, order, course.device)):
        waves, targets = (batch[name].to(course.device, non_blocking=True) for name in ("previews", "targets"))
        yield loop.log_mels(frontend, waves[:, 0]), targets


def stock_mels(course: Race) -> Iterator[tuple[Tensor, Tensor]]:
    """From a loader whose workers (on a processor it has none) run the feature extractor, without end."""
    order, extract, on_gpu = course.order(), extractor(course.case.seconds), course.device.type == "cuda"

    def collated(items: list[dict[str, Tensor]]) -> tuple[Tensor, Tensor]:
        waves = [item["previews"][0].numpy() / np.float32(32768) for item in items]
        read = extract(waves, sampling_rate=SAMPLE_RATE, return_tensors="pt")["input_values"]
        return read, torch.stack([item["targets"] for item in items])

    loader: Any = torch.utils.data.DataLoader(
        course.train,
        batch_sampler=order,
        num_workers=2 if on_gpu else 0,
        persistent_workers=on_gpu,
        pin_memory=on_gpu,
        collate_fn=collated,
    )
    for parts in endless(order, loader):
        mel, targets = parts
        yield mel.to(course.device, non_blocking=True), targets.to(course.device, non_blocking=True)


def equal_loss(device: torch.device) -> list[Row]:
    """Seconds of training until validation is as low as the lowest that stock reaches within its epochs.

    Both start from the same weights and see the same songs in the same order under the same optimizer, head and
    precision, without augmentation. Stock is fed by its feature extractor in two workers (none on a processor), ours
    from the bank on the device by its own front end, with half of the patches dropped.
    """
    with scratch() as folder:
        course = race(folder / "market", device)
        case, shape = course.case, course.train.values.shape[1:]
        models = []
        for encoder in pair_of_encoders(case.size, case.seconds, case.stride, case.drop or 0.0):
            torch.manual_seed(0)
            models.append(Plain(encoder, SIZES[case.size][0], (shape[0], shape[1])).to(device).train())
        theirs = learnt(course, models[1], stock_mels(course))
        their_seconds, goal = min(theirs, key=lambda at: (at[1], at[0]))
        mine = learnt(course, models[0], our_mels(course), goal)
    reached = mine[-1][1] <= goal
    row: Row = {"case": f"{case}, {len(course.train)} songs", "validation_loss": goal, "peer_seconds": their_seconds}
    row |= {"our_validation_loss": min(loss for _, loss in mine), "seconds": mine[-1][0], "reached": reached}
    row["ratio_of_an_epoch"] = theirs[-1][0] / len(theirs) / (mine[-1][0] / len(mine))
    if reached:
        row["ratio"] = their_seconds / mine[-1][0]
    return [said("equal_loss", row)]


# --------------------------------------------------------------------------------------------- file to forecast


def write_song(path: Path, seconds: float, rate: int = 44_100) -> Path:
    """A made-up stereo song as an mp3, or whatever the name says."""
    import soundfile

    generator = np.random.default_rng(0)
    at = np.arange(int(seconds * rate)) / rate
    mono = 0.3 * np.sin(2 * np.pi * 220 * at) * (0.6 + 0.4 * np.sin(2 * np.pi * 2 * at)) + 0.02 * generator.normal(
        size=len(at)
    )
    soundfile.write(path, np.stack([mono, mono], axis=1), rate)
    return path


def curve_model(folder: Path, size: str, regions: int) -> list[str]:
    """Writes an untrained MP3 model that knows so many regions; their names."""
    from mp3model.model.modeling_mp3 import MP3Model
    from mp3model.tables.history import STATE_FEATURES

    letters = "ABCDEFGHIJ"
    names = [a + b for a in letters for b in letters][:regions]
    width, depth, heads = SIZES[size]
    values = {"log_floor": 5.0, "log_size": 2.3, "mean_total": 0.9, "spread_total": 0.8, "mean_length": 0.4}
    state = {"date": "2026-11-19", "floor": 1e5, "values": [values.get(name, 0.0) for name in STATE_FEATURES]}
    ranks = {"date": "2026-11-19", "size": 200, "rank": [1.0, 50.0, 200.0], "streams": [3e6, 3e5, 1e5]}
    torch.manual_seed(0)
    config = MP3Config(
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        regions=names,
        region_states=dict.fromkeys(names, state),
        scales=dict.fromkeys(names, 1e5),
        rank_curves={name: {"region": name, **ranks} for name in names},
        target_statistics={target: {name: [5.0, 1.0] for name in names} for target in ("total", "debut_rank")},
    )
    MP3Model(config).save_pretrained(folder)
    return names


def file_to_curves(device: torch.device) -> list[Row]:
    """An mp3 of 30 s → curves by region, 256 paths each; and → all regions' totals, against stock asked one by one."""
    from mp3model.serving.forecaster import Forecaster

    rows = []
    with scratch() as folder:
        song = write_song(folder / "song.mp3", 30.0)
        for size, precision in (
            [("small", name) for name in DTYPES]
            if QUICK
            else [(size, name) for size in ("tiny", "small", "base") for name in DTYPES]
        ):
            names = curve_model(folder / size, size, 60)
            forecaster = Forecaster.from_pretrained(folder / size, device, precision)

            def ask(count: int, names: list[str] = names, forecaster: Any = forecaster) -> Any:
                return forecaster.forecast(song, names[:count], "2026-12-04", samples=256)

            row: Row = {"case": f"{size} {precision} file to curves, 256 paths"}
            assert forecaster.model.mp2 is not None
            encoder, asked = forecaster.model.mp2.encoder, torch.tensor([0], device=device)
            mel = torch.randn(1, FRAMES[10.24], 128, device=device)
            with torch.inference_mode():
                taken = in_turns(
                    device,
                    one=partial(ask, 1),
                    all=partial(ask, 60),
                    heard_one=partial(encoder, mel, asked),
                    heard_all=partial(encoder, mel),
                )
            with peak_memory(device, row, "memory_mb"):
                ask(60)
            row |= {
                "warm_1_region_s": statistics.median(taken["one"]),
                "warm_60_regions_s": statistics.median(taken["all"]),
                "encoder_1_region_s": statistics.median(taken["heard_one"]),
                "encoder_60_regions_s": statistics.median(taken["heard_all"]),
            }
            row["peer_60_regions_s"] = 60 * row["warm_1_region_s"]
            row["ratio"] = row["peer_60_regions_s"] / row["warm_60_regions_s"]
            if size == "small" and precision == "fp32":
                row["cold_60_regions_s"] = cold(folder / size, song, names)
            rows.append(said("file", row))
        rows += file_to_totals(device, song)
    return rows


def cold(model: Path, song: Path, names: list[str]) -> float:
    """Seconds of the wall from nothing to written tables, in a process of its own."""
    words = [
        sys.executable,
        "-m",
        "mp3model.cli",
        "forecast",
        str(song),
        "--model",
        str(model),
        "--release",
        "2026-12-04",
    ]
    words += [word for name in names for word in ("--region", name)]
    began = time.perf_counter()
    subprocess.run([*words, "-o", str(song.with_suffix(".csv"))], check=True, capture_output=True)
    return time.perf_counter() - began


def file_to_totals(device: torch.device, song: Path) -> list[Row]:
    """An mp3 → the pooled state that every region's head reads, from the same weights; stock starts anew a region."""
    import soundfile
    import soxr

    from mp3model.audio.decode import decode

    rows = []
    for precision in DTYPES:
        ours, stock = (module.eval().to(device) for module in pair_of_encoders("tiny" if QUICK else "base", 10.24, 10))
        ours.to(DTYPES[precision])
        frontend, extract = LogMel(frames=1024).to(device), extractor(10.24)

        def all_regions(ours: AST = ours, frontend: Any = frontend, precision: str = precision) -> Tensor:
            clip = torch.from_numpy(decode(song)[: 1024 * FRAME_SHIFT]).to(device)
            return ours.forward_features(frontend(clip[None]).to(DTYPES[precision]))[:, :2].float().mean(dim=1)

        def one_region(stock: nn.Module = stock, extract: Any = extract) -> Tensor:
            samples, rate = soundfile.read(song, dtype="float32")
            wave = soxr.resample(samples.mean(axis=1), rate, SAMPLE_RATE)[: 1024 * FRAME_SHIFT]
            read = extract(wave, sampling_rate=SAMPLE_RATE, return_tensors="pt")["input_values"].to(device)
            return stock(read).last_hidden_state[:, :2].mean(dim=1)

        with torch.inference_mode():
            difference = (all_regions() - one_region()).square().mean().sqrt() / one_region().square().mean().sqrt()
            taken = in_turns(device, ours=all_regions, peer=one_region)
        row = compared({"case": f"{'tiny' if QUICK else 'base'} file to totals, {precision} against stock fp32"}, taken)
        row |= {
            "difference": float(difference),
            "ratio_2_regions": 2 * row["ratio"],
            "ratio_60_regions": 60 * row["ratio"],
        }
        rows.append(said("file", row))
    return rows


# -------------------------------------------------------------------------------------------------- preparation


def prepare(device: torch.device) -> list[Row]:
    """Decoding, bank building, bank reading and chart reading, beside the plainest way to do each."""
    import av
    import soundfile

    from mp3model.audio.decode import decode

    cpu = torch.device("cpu")
    rows = []
    with scratch() as folder:
        (folder / "songs").mkdir()
        first = write_song(folder / "songs" / "song0.mp3", 30.0)
        for number in range(1, 8 if QUICK else 32):
            shutil.copyfile(first, first.with_name(f"song{number}.mp3"))
        files = sorted((folder / "songs").iterdir())

        def with_av() -> None:
            with av.open(str(first)) as container:
                resampler = av.AudioResampler("s16", "mono", SAMPLE_RATE)
                np.concatenate(
                    [part.to_ndarray() for frame in container.decode(audio=0) for part in resampler.resample(frame)], 1
                )

        row = compared(
            {"case": "decode an mp3 of 30 s (peer: PyAV)"}, in_turns(cpu, ours=lambda: decode(first), peer=with_av)
        )
        rows.append(said("prepare", row | {"times_real_time": 30.0 / row["seconds"]}))

        from data_prep.build_bank import build_bank, find_clips

        def bank() -> None:
            shutil.rmtree(folder / "bank", ignore_errors=True)
            build_bank(folder / "songs", find_clips(folder / "songs"), folder / "bank", workers=1)

        row = compared(
            {"case": f"bank of {len(files)} files, one worker (peer: decoding alone)"},
            in_turns(cpu, ours=bank, peer=lambda: [decode(file) for file in files]),
        )
        rows.append(said("prepare", row | {"clips_a_second": len(files) / row["seconds"]}))
        read = AudioBank(folder / "bank")
        soundfile.write(folder / "clip.wav", np.zeros(30 * SAMPLE_RATE, np.int16), SAMPLE_RATE)

        def seek() -> None:
            for start in range(100):
                soundfile.read(folder / "clip.wav", 163_840, start, dtype="int16")

        row = compared(
            {"case": "read 10.24 s a hundred times (peer: soundfile, a wav)"},
            in_turns(cpu, ours=lambda: [read.read(0, start, 163_840) for start in range(100)], peer=seek),
        )
        rows.append(said("prepare", row | {"clips_a_second": 100 / row["seconds"]}))
        rows.append(said("prepare", chart_reading(folder)))
    return rows


def chart_reading(folder: Path) -> Row:
    """A CSV of weekly charts → dataset folder, beside pandas reading the same file and nothing more."""
    from data_prep.charts import Settings, convert

    weeks = 26 if QUICK else 260
    dates = pd.date_range(end="2026-11-19", periods=weeks, freq="7D").strftime("%Y-%m-%d")
    chart = [
        (date, region, rank, f"Song {(week * 20 + rank * 7) % 4000}", f"Artist {rank % 97}", int(1e6 / rank**0.7))
        for week, date in enumerate(dates)
        for region in ("us", "gb", "de", "fr", "jp")
        for rank in range(1, 201)
    ]
    table = pd.DataFrame(chart, columns=["date", "region", "rank", "title", "artist", "streams"])
    table.to_csv(folder / "charts.csv", index=False)
    with contextlib.redirect_stdout(sys.stderr):
        taken = in_turns(
            torch.device("cpu"),
            ours=lambda: convert([folder / "charts.csv"], folder / "charts", Settings()),
            peer=lambda: pd.read_csv(folder / "charts.csv"),
        )
    row = compared({"case": f"charts, {len(table):,} rows (peer: pandas.read_csv alone)"}, taken)
    return row | {"rows_a_second": len(table) / row["seconds"]}


# -------------------------------------------------------------------------------------------------------- scale


def scale(device: torch.device) -> list[Row]:
    """Start-up, step time and memory of training on 1,000, 10,000 and 100,000 tracks, each in a process of its own."""
    from data_prep.tiled import write_tiled

    rows = []
    counts = (1_000, 10_000) if QUICK else (1_000, 10_000, 100_000)
    with scratch() as folder:
        for tracks in counts:
            write_tiled(folder / str(tracks), tracks)
            row: Row = {"case": f"{tracks:,} tracks", "tracks": tracks, **scale_apart(folder / str(tracks))}
            rows.append(said("scale", row))
            shutil.rmtree(folder / str(tracks))
    return rows


def scale_apart(folder: Path) -> Row:
    """`scale_of` in a process of its own, whose memory nothing else has touched."""
    words = [__file__, "--output_dir", str(folder / "none"), "--threads", str(torch.get_num_threads())]
    words += ["--clock", arguments.clock, *(["--quick"] if QUICK else [])]
    code = f"import json, runpy, sys; sys.argv = {words!r}; "
    code += f"recipe = runpy.run_path({__file__!r}, run_name='__mp_main__'); "
    code += f"print(json.dumps(recipe['scale_of']({str(folder)!r}, {torch.get_num_threads()})))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def scale_of(folder: str, threads: int) -> Row:
    """One dataset, in this process: seconds to open it, to gather its songs, and a step takes, and its memory.

    `starts_s` counts from the process's birth to the end of the first step, `memory_after_mb` after all steps.
    """
    torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    began = now(torch.device("cpu"))
    dataset, bank = read_dataset(folder), AudioBank(folder)
    opened = now(torch.device("cpu")) - began
    data, batches, model = recipe_parts(dataset, bank, "nano", FRAMES[10.24])
    ready = now(torch.device("cpu")) - began - opened
    model.to(device).train()
    source = endless(batches, torch.utils.data.DataLoader(data, batch_sampler=batches, num_workers=0))
    step, process, memory, seconds = recipe_step(model, device), psutil.Process(), [], []
    step(source, None)
    started = time.process_time() if arguments.clock == "processor" else time.time() - process.create_time()
    for _ in range(4 + (16 if QUICK else 60)):
        at = now(device)
        step(source, None)
        seconds.append(now(device) - at)
        # Pages of libraries that processes share are not what a dataset takes.
        memory.append((process.memory_info().rss - process.memory_info().shared) / 1e6)
    return {
        "opens_s": opened,
        "gathers_s": ready,
        "starts_s": started,
        "step_s": statistics.median(seconds[4:]),
        "memory_mb": round(memory[4]),
        "memory_after_mb": round(memory[-1]),
    }


def scale_picture(rows: list[Row], path: Path) -> None:
    """Start-up, step and memory by tracks."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    tracks = [row["tracks"] for row in rows]
    for axis, names, title in zip(
        axes,
        (("starts_s", "opens_s", "gathers_s"), ("step_s",), ("memory_mb", "memory_after_mb")),
        ("start-up to the first step, seconds", "a training step, seconds", "memory without page cache, MB"),
        strict=True,
    ):
        for name in names:
            axis.plot(tracks, [row[name] for row in rows], marker="o", label=name.rsplit("_", 1)[0].replace("_", " "))
        axis.set(xscale="log", xlabel="tracks", title=title)
        axis.set_ylim(0, 1.15 * axis.get_ylim()[1])
        axis.legend()
    with written_whole(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    plt.close(figure)


# --------------------------------------------------------------------------------------------------------- plan


def plan(report: dict[str, Any]) -> list[str]:
    """Storage, hours and cost of 10 million tracks in 60 regions, from the rates of this run."""
    tracks, regions, weeks, previews = 10_000_000, 60, 12, 1
    rates = rates_of(report)
    audio = tracks * previews * 30 * SAMPLE_RATE * 2 / 1e12
    rows = tracks * regions * 8
    lines = [
        f"{tracks:,} tracks × {regions} regions, one preview of 30 s each, about 8 charted weeks a debut; rates of "
        f"this run, per processor core (${arguments.dollars_cpu:g} an hour) or GPU (${arguments.dollars_gpu:g}).",
        f"- Audio bank: {tracks:,} × 30 s × 16,000 × 2 bytes = {audio:.1f} TB, "
        f"${audio * 1000 * arguments.dollars_store:,.0f} a month; 32 clips a shard are {tracks // 32:,} shards. "
        f"mp3s at 128 kbit/s before: {tracks * 30 * 16_000 / 1e12:.1f} TB.",
        f"- Tables: {rows:,} rows of curves × about 12 bytes = {rows * 12 / 1e9:.0f} GB of parquet.",
    ]
    stages = [
        ("bank", tracks * previews, "clips", rates.get("bank"), arguments.dollars_cpu),
        ("charts", rows, "rows", rates.get("charts"), arguments.dollars_cpu),
        ("MP2 training, tiny, 30 passes", 30 * tracks, "clips", rates.get("step"), rates["price"]),
        ("listening once, small, 5 windows", 5 * tracks, "windows", rates.get("listen"), rates["price"]),
        (f"paths, 256 × {weeks} weeks", tracks * regions, "rows", rates.get("paths"), rates["price"]),
    ]
    for name, amount, unit, rate, price in stages:
        if rate is None:
            lines.append(f"- {name}: {amount:,} {unit}; not measured in this run.")
            continue
        hours = amount / rate / 3600
        lines.append(
            f"- {name}: {amount:,} {unit} ÷ {rate:,.1f} a second = {hours:,.0f} hours × ${price:g} = "
            f"${hours * price:,.0f}; in a day on {max(1, round(hours / 24)):,}."
        )
    lines.append(
        f"- Paths kept: {tracks:,} × {regions} × 256 × {weeks} × 4 bytes = "
        f"{tracks * regions * 256 * weeks * 4 / 1e12:,.0f} TB, so they are not: "
        f"nine quantiles and a mean of {weeks} weeks and 12 metrics take "
        f"{tracks * regions * (weeks + 12) * 10 * 4 / 1e12:.1f} TB."
    )
    return lines


def rates_of(report: dict[str, Any]) -> dict[str, float]:
    """A second's worth of each stage, by the GPU where it was measured, else by one core."""
    gpu = "forward" in report["gpu"]
    place = report["gpu"] if gpu else report["cpu"]
    cores = 1 if arguments.clock == "processor" else torch.get_num_threads()
    rates: dict[str, float] = {"price": arguments.dollars_gpu if gpu else arguments.dollars_cpu}
    share = 1 if gpu else cores

    def rows(section: str, words: tuple[str, ...], where: dict[str, Any] = place) -> list[Row]:
        return [row for row in where.get(section, []) if all(word in row["case"] for word in words)]

    for row in rows("prepare", ("bank of",), report["cpu"]):
        rates["bank"] = row["clips_a_second"]
    for row in rows("prepare", ("charts",), report["cpu"]):
        rates["charts"] = row["rows_a_second"]
    for row in rows("step", (f"tiny 10.24 s stride 16 drop 0.5 {'bf16' if gpu else 'fp32'} eager",))[:1]:
        rates["step"] = row["clips_a_second"] / share
    for row in rows("file", ("small", "bf16" if gpu else "fp32", "file to curves")):
        extra = (row["warm_60_regions_s"] - row["warm_1_region_s"]) / 59
        rates["paths"] = 1 / max(extra, 1e-9) / share
        rates["listen"] = 5 / max(row["warm_1_region_s"] - extra, 1e-9) / share
    return rates


# ------------------------------------------------------------------------------------------------------ the run


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder beside the report, gone afterwards: hard links and pages are those of the disk that is used."""
    Path(arguments.output_dir).mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=arguments.output_dir, prefix=".scratch-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def said(section: str, row: Row) -> Row:
    """Prints a row as it comes, with the load of the machine beside it."""
    row["load"] = round(os.getloadavg()[0], 1)
    print(f"{section}: {line_of(row)}", flush=True)
    return row


def line_of(row: Row) -> str:
    """A row in words and numbers."""
    shown = [
        f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in row.items()
        if key != "case"
    ]
    return f"{row['case']}: {', '.join(shown)}"


def machine() -> dict[str, Any]:
    """What the figures hold for."""
    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "bf16": bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()),
        "gpus": names,
        "torch": torch.__version__,
        "clock": arguments.clock,
        "load_before": list(os.getloadavg()),
    }


def main() -> None:
    """Section by section, on the processor and on a GPU if there is one."""
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    folder = Path(arguments.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    chosen = arguments.only or SECTIONS
    measured = {
        "product": matrix_products,
        "forward": forward,
        "step": training_step,
        "shares": shares,
        "equal_loss": equal_loss,
        "file": file_to_curves,
        "prepare": prepare,
        "scale": scale,
    }
    report: dict[str, Any] = {"machine": machine() | {"minutes_of": {}}, "quick": QUICK, "cpu": {}, "gpu": {}}
    devices = [torch.device("cpu")] + ([torch.device("cuda")] if torch.cuda.is_available() else [])
    began = time.perf_counter()
    for device in devices:
        place = report["gpu" if device.type == "cuda" else "cpu"]
        for name, measure in measured.items():
            # Files and charts are prepared by processors, whatever trains.
            if name in chosen and not (device.type == "cuda" and name == "prepare"):
                at = time.perf_counter()
                place[name] = measure(device)
                report["machine"]["minutes_of"][f"{device.type} {name}"] = round((time.perf_counter() - at) / 60, 2)
                # A run that breaks off keeps what it has measured.
                write_json(folder / "report.json", report)
        place["ratios"] = {
            f"{name}, {row['case']}": row["ratio"] for name in measured for row in place.get(name, []) if "ratio" in row
        }
    if len(devices) == 1:
        report["gpu"] = {"unmeasured": "no CUDA device"}
    if "scale" in report["cpu"]:
        scale_picture(report["cpu"]["scale"], folder / "scale.png")
    if "plan" in chosen:
        report["plan"] = plan(report)
    report["machine"] |= {"load_after": list(os.getloadavg()), "minutes": round((time.perf_counter() - began) / 60, 1)}
    report["machine"]["peak_memory_mb"] = round(peak_of_process())
    table = table_of(report)
    with written_whole(folder / "table.txt") as path:
        path.write_text(table + "\n")
    write_json(folder / "report.json", report)
    print(f"\n{table}\n\nreport: {folder / 'report.json'}")


def peak_of_process() -> float:
    """Most memory this process has held, MB."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3


def table_of(report: dict[str, Any]) -> str:
    """All figures, a line each, ratios first."""
    about = report["machine"]
    lines = [
        f"{about['processor']}, {about['cores']} cores, {about['threads']} thread(s), torch {about['torch']}, "
        f"clock {about['clock']}, load {about['load_before'][0]:.1f} to {about['load_after'][0]:.1f}, "
        f"{about['minutes']} minutes"
    ]
    for place in ("cpu", "gpu"):
        for name, rows in report[place].items():
            if isinstance(rows, list):
                lines += ["", f"{place}, {name}", *(f"  {line_of(row)}" for row in rows)]
        if "unmeasured" in report[place]:
            lines += ["", f"{place}: not measured, {report[place]['unmeasured']}"]
    return "\n".join(lines + (["", "plan", *report["plan"]] if "plan" in report else []))


if __name__ == "__main__":
    main()
