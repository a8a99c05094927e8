"""Sizes and places of encoders in, ours and transformers' of the same weights out, with what they compute.

FLOP of a forward pass, a multiplication with its addition counted as two: for N tokens of width W with an inner layer
of 4 W, each block 24 N W² + 4 N² W; and 2 · 256 · W a patch of 16 × 16. A training step takes three times that of the
tokens it keeps. MFU is FLOP over seconds over the rate of matrix products, which is measured between the trials. That
rate is PyTorch's own (`linear` in the shape of a block's largest product); kernels that are faster bring MFU above 1.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mp3model.audio.bank import SAMPLE_RATE
from mp3model.audio.frontend import LogMel
from mp3model.benchmark.measuring import Bench, Row, compared, peak_memory, said, share_of_products
from mp3model.config import SIZES
from mp3model.model.encoder import AST, grid_of

FRAMES = {10.24: 1024, 30.0: 2998}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
EVERYWHERE = tuple(itertools.product(FRAMES, (10, 16)))


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


def forward_cases(bench: Bench, device: torch.device) -> list[Case]:
    """On a processor compiled only in one size, as a compilation takes it half a minute and more."""
    if device.type == "cuda" or bench.full:
        return both_modes(combinations(("tiny", "small", "base"), EVERYWHERE))
    compiled = [replace(case, compiled=True) for case in combinations(("nano",), ((10.24, 16),))]
    if bench.quick:
        return combinations(("tiny", "base"), ((10.24, 10),)) + compiled[:1]
    larger = combinations(("small", "base"), ((10.24, 10), (10.24, 16), (30.0, 16)))
    return [*combinations(("tiny",), EVERYWHERE), *larger, *compiled]


def forward(bench: Bench, device: torch.device) -> list[Row]:
    """Log-mels → tokens, and waveforms → tokens, ours and stock's on the same clips."""
    return [said("forward", forward_row(bench, case, device)) for case in forward_cases(bench, device)]


def forward_row(bench: Bench, case: Case, device: torch.device) -> Row:
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
        taken = bench.in_turns(
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


def matrix_products(bench: Bench, device: torch.device) -> list[Row]:
    """The machine's rate, in the shape of AST-base's largest product and as a large square."""
    rows = []
    for precision in DTYPES:
        block, flop = product(device, precision, 1214 if device.type == "cpu" else 32 * 1214, 768)
        side = 2048 if device.type == "cpu" else 8192
        square = torch.randn(side, side, device=device, dtype=DTYPES[precision])
        taken = bench.in_turns(device, ours=block, peer=partial(torch.matmul, square, square))
        row = {"case": precision, "gflops": flop / statistics.median(taken["ours"]) / 1e9}
        row["square_gflops"] = 2 * side**3 / statistics.median(taken["peer"]) / 1e9
        rows.append(said("product", row))
    return rows
