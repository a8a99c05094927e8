"""What this toolkit costs beside its peers, in one process and run: training, forecasting, preparation, scale.

    python recipes/benchmark.py [--quick | --full] --output_dir RUN
    python recipes/benchmark.py --only forward file --threads 1 --output_dir RUN

Writes RUN/report.json (ratios under `cpu` and `gpu`), RUN/table.txt and RUN/scale.png. A ratio is the peer's time over
ours, so above 1 ours is faster; every figure is the median of trials in which ours and the peer's take turns, after one
that is left out. Seconds are those of the wall, or of the processor with --clock processor, where other work runs too.
Sections: product, forward, step, shares, equal_loss, file, prepare, scale, plan. On a GPU every combination of size,
length, stride, patch drop and precision is measured, eager and compiled; a processor would take hours for that, so that
there --full is asked for it and a part of them stands otherwise. MFU is the share of the machine's rate
of matrix products that is reached (mp3model/benchmark/encoders.py).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
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
import os  # noqa: E402
import platform  # noqa: E402
import time  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402
from transformers.utils import logging as transformers_logging  # noqa: E402

from mp3model.benchmark.encoders import forward, matrix_products  # noqa: E402
from mp3model.benchmark.files import file_to_curves, prepare  # noqa: E402
from mp3model.benchmark.measuring import Bench, line_of  # noqa: E402
from mp3model.benchmark.plan import Prices, plan  # noqa: E402
from mp3model.benchmark.race import equal_loss  # noqa: E402
from mp3model.benchmark.scale import scale, scale_picture  # noqa: E402
from mp3model.benchmark.steps import shares, training_step  # noqa: E402


def main() -> None:
    """Section by section, on the processor and on a GPU if there is one."""
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    folder = Path(arguments.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    trials = arguments.trials or (3 if arguments.quick else 5)
    bench = Bench(folder, arguments.quick, arguments.full, trials, arguments.clock)
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
    report: dict[str, Any] = {"machine": machine() | {"minutes_of": {}}, "quick": arguments.quick, "cpu": {}, "gpu": {}}
    devices = [torch.device("cpu")] + ([torch.device("cuda")] if torch.cuda.is_available() else [])
    began = time.perf_counter()
    for device in devices:
        place = report["gpu" if device.type == "cuda" else "cpu"]
        for name, measure in measured.items():
            # Files and charts are prepared by processors, whatever trains.
            if name in chosen and not (device.type == "cuda" and name == "prepare"):
                at = time.perf_counter()
                place[name] = measure(bench, device)
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
        prices = Prices(arguments.dollars_cpu, arguments.dollars_gpu, arguments.dollars_store)
        report["plan"] = plan(report, prices)
    report["machine"] |= {"load_after": list(os.getloadavg()), "minutes": round((time.perf_counter() - began) / 60, 1)}
    report["machine"]["peak_memory_mb"] = round(peak_of_process())
    table = table_of(report)
    with written_whole(folder / "table.txt") as path:
        path.write_text(table + "\n")
    write_json(folder / "report.json", report)
    print(f"\n{table}\n\nreport: {folder / 'report.json'}")


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
