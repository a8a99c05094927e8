"""A report's rates in, storage, hours and cost of ten million tracks out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from mp3model.audio.bank import SAMPLE_RATE
from mp3model.benchmark.measuring import Row


@dataclass(frozen=True)
class Prices:
    """In dollars.

    Attributes:
        cpu: Of a processor core for an hour.
        gpu: Of a GPU for an hour.
        store: Of a gigabyte for a month.
    """

    cpu: float
    gpu: float
    store: float


def plan(report: dict[str, Any], prices: Prices) -> list[str]:
    """Storage, hours and cost of 10 million tracks in 60 regions, from the rates of this run."""
    tracks, regions, weeks, previews = 10_000_000, 60, 12, 1
    rates = rates_of(report, prices)
    audio = tracks * previews * 30 * SAMPLE_RATE * 2 / 1e12
    rows = tracks * regions * 8
    lines = [
        f"{tracks:,} tracks × {regions} regions, one preview of 30 s each, about 8 charted weeks a debut; rates of "
        f"this run, per processor core (${prices.cpu:g} an hour) or GPU (${prices.gpu:g}).",
        f"- Audio bank: {tracks:,} × 30 s × 16,000 × 2 bytes = {audio:.1f} TB, "
        f"${audio * 1000 * prices.store:,.0f} a month; 32 clips a shard are {tracks // 32:,} shards. "
        f"mp3s at 128 kbit/s before: {tracks * 30 * 16_000 / 1e12:.1f} TB.",
        f"- Tables: {rows:,} rows of curves × about 12 bytes = {rows * 12 / 1e9:.0f} GB of parquet.",
    ]
    stages = [
        ("bank", tracks * previews, "clips", rates.get("bank"), prices.cpu),
        ("charts", rows, "rows", rates.get("charts"), prices.cpu),
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


def rates_of(report: dict[str, Any], prices: Prices) -> dict[str, float]:
    """A second's worth of each stage, by the GPU where it was measured, else by one core."""
    gpu = "forward" in report["gpu"]
    place = report["gpu"] if gpu else report["cpu"]
    cores = 1 if report["machine"]["clock"] == "processor" else torch.get_num_threads()
    rates: dict[str, float] = {"price": prices.gpu if gpu else prices.cpu}
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
