"""A number of kills in; a table out of what they left behind: states that can be loaded, and results that are equal.

    python tests/kills.py --kills 200 --seed 0 --folder DIR [--only NAME...]

Torch and the repository are imported once; every run is a fork of this process that does what the command does, and is
killed before a change of a file, at some instant, or in the middle of a file. What it left is looked at by another
fork; then the command goes on, perhaps to be killed again, to its end. The result is compared byte by byte with that of
a run that was left alone.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import runpy
import shutil
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

# Before torch is imported: thread counts change sums, and a fork of threads may hang.
os.environ |= {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}

ROOT = Path(__file__).resolve().parent.parent
WAYS = ("file", "clock", "half")
LONGEST = 240.0
MP2 = ["--frames", "64", "--patch_size", "32", "16", "--patch_stride", "32", "16", "--folds", "0", "--windows", "1"]
MP2 += ["--epochs", "3", "--evaluate_every", "1", "--batch_size", "8", "--log_every", "1", "--ema", "0.9"]
MP3 = ["--width", "16", "--layers", "1", "--heads", "2", "--paths", "10", "--audio_segments", "2", "--windows", "1"]
MP3 += ["--epochs", "3", "--batch_size", "8", "--log_every", "1", "--ema", "0.9", "--observed", "0"]
# Reports and lines that say how long something took.
TIMINGS = ("songs_per_second",)


@dataclass
class Job:
    """One command: how it is run, what it finds before, and what may be said of what a kill leaves.

    Attributes:
        name: A line of the table.
        run: Output folder → does it, or goes on with it.
        check: Output folder and what was there before → raises where the state cannot be loaded.
        before: Folder that is there at the start, or None.
        processes: How many do it together.
        ways: How it can be killed.
        weight: How often it comes up.
        whole: Files and their bytes of the run that was left alone.
        events: Changes of files in that run.
        seconds: How long it took.
        largest: Bytes of its largest file.
    """

    name: str
    run: Callable[[Path], Any]
    check: Callable[[Path, dict[str, bytes]], None]
    before: Path | None = None
    processes: int = 1
    ways: tuple[str, ...] = WAYS
    weight: int = 1
    whole: dict[str, bytes] = field(default_factory=dict)
    events: int = 0
    seconds: float = 0.0
    largest: int = 0
    kills: dict[str, int] = field(default_factory=lambda: dict.fromkeys(WAYS, 0))
    lost: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)
    trials: int = 0


@dataclass(frozen=True)
class Kill:
    """When a process dies: before change `at` of a file, after `at` seconds, or when a file has `at` bytes.

    Of several processes the first does, which alone writes, and the others at once after it.
    """

    way: str
    at: float


# ------------------------------------------------------------------------------------------------- a fork and its death
def forked(work: Callable[[], Any], log: Path | None, kill: Kill | None = None, count: Path | None = None) -> int:
    """Starts `work` in a fork that ends with status 0 if it came to its end; its process id."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        output = os.open(log or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        seen = watch(kill.at if kill is not None and kill.way == "file" else None)
        if kill is not None and kill.way == "half":
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(kill.at), int(kill.at)))
            # Python ignores the signal; left alone, it kills in the middle of the write.
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        work()
        if count is not None:
            count.write_text(str(seen[0]))
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def watch(last: float | None) -> list[int]:
    """Counts what changes files from now on, and dies before change number `last`."""
    seen, process = [0], os.getpid()
    written = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

    def hook(event: str, told: tuple[Any, ...]) -> None:
        # A loader's worker has the hook too, and would die in its place.
        if os.getpid() != process:
            return
        if event == "open":
            if isinstance(told[0], int) or not (told[2] or 0) & written or str(told[0]).startswith("/dev"):
                return
        elif event not in ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.chmod", "shutil.rmtree"):
            return
        seen[0] += 1
        if last is not None and seen[0] > last:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    return seen


def ended(job: Job, out: Path, log: Path, kill: Kill | None = None, count: Path | None = None) -> tuple[bool, bool]:
    """Runs a job once; whether it was killed, and whether it came to its end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def one(rank: int) -> None:
        if job.processes > 1:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(job.processes)}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        job.run(out)

    began = time.monotonic()
    # What is written to the log must not count as a file that grows too long.
    place = None if kill is not None and kill.way == "half" else log
    running = {
        forked(partial(one, rank), place, None if rank else kill, None if rank else count): rank
        for rank in range(job.processes)
    }
    clock = kill.at if kill is not None and kill.way == "clock" else LONGEST
    killed = sent = False
    well = True
    while running:
        process, status = os.waitpid(-1, os.WNOHANG)
        if process:
            rank = running.pop(process)
            well = well and status == 0
            killed = killed or (rank == 0 and not sent and os.WIFSIGNALED(status))
            late = False
        else:
            late = time.monotonic() - began > clock
            killed = killed or (late and clock < LONGEST)
            time.sleep(0.002)
        if (late or not well) and not sent:
            # As their launcher does: when one of several is gone, so are the others.
            sent, well = True, False
            for other in running:
                os.kill(other, signal.SIGKILL)
    return killed, well


def succeeds(work: Callable[[], Any], log: Path) -> bool:
    """Whether some work comes to its end in a fork."""
    return os.waitpid(forked(work, log), 0)[1] == 0


# ----------------------------------------------------------------------------------------------------------- the trials
def contents(out: Path) -> dict[str, bytes]:
    """Every file of a result, less the time it took."""
    found = {}
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if path.is_dir() or any(part.startswith(".") for part in name.split("/")) or name == "arguments.json":
            continue
        found[name] = path.read_bytes()
        if path.suffix == ".jsonl":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            kept = [{key: value for key, value in line.items() if key not in TIMINGS} for line in lines]
            found[name] = json.dumps(kept).encode()
    return found


def differences(whole: dict[str, bytes], found: dict[str, bytes]) -> list[str]:
    """Names of files that are missing, differ or are too many; a checkpoint that is older than need be is none."""
    wrong = [name for name, content in whole.items() if found.get(name) != content]
    return wrong + [name for name in found if name not in whole and not name.startswith("checkpoint-")]


def begin(job: Job, out: Path) -> None:
    """Makes the state in which a job starts."""
    shutil.rmtree(out.parent, ignore_errors=True)
    out.parent.mkdir(parents=True)
    if job.before is not None:
        shutil.copytree(job.before, out)


def leave_alone(job: Job, out: Path, log: Path) -> None:
    """Runs a job to its end and remembers what it made."""
    begin(job, out)
    count = log.with_name("count")
    began = time.monotonic()
    killed, well = ended(job, out, log, count=count)
    if killed or not well:
        raise SystemExit(f"{job.name} does not run:\n{log.read_text()[-3000:]}")
    job.seconds, job.events, job.whole = time.monotonic() - began, int(count.read_text()), contents(out)
    job.largest = max(len(content) for content in job.whole.values())


def some_kill(job: Job, chance: random.Random) -> Kill:
    """When and how the next one dies."""
    way = chance.choice(job.ways)
    if way == "file":
        return Kill(way, chance.randrange(job.events))
    if way == "clock":
        return Kill(way, chance.uniform(0.0, job.seconds))
    # A tenth of its files are large; all of them should be cut somewhere.
    return Kill(way, int(job.largest ** chance.uniform(0.3, 1.0)))


def trial(job: Job, out: Path, log: Path, chance: random.Random, most: int) -> int:
    """Kills a job up to three times and lets it go on to its end; how many kills there were."""
    log.write_text("")
    begin(job, out)
    job.trials += 1
    done = 0
    before = contents(out) if out.exists() else {}
    for _ in range(min(most, chance.choice((1, 2, 3)))):
        kill = some_kill(job, chance)
        killed, well = ended(job, out, log, kill)
        if well or not killed:
            if not well:
                job.lost.append(f"{kill}: ended by itself, see the log\n{log.read_text()[-1500:]}")
            break
        done += 1
        job.kills[kill.way] += 1
        if not succeeds(lambda: job.check(out, before), log):
            job.lost.append(f"{kill}:\n{log.read_text()[-1500:]}")
    if not ended(job, out, log)[1]:
        job.lost.append(f"does not go on:\n{log.read_text()[-1500:]}")
        return done
    wrong = differences(job.whole, contents(out))
    if wrong:
        job.different.append(f"after {done} kills, the last one {kill}: {', '.join(wrong)}")
    return done


# ------------------------------------------------------------------------------------------------------------- the jobs
def recipe(name: str, out: Path, *words: Any) -> None:
    """Does in this process what `python recipes/NAME.py ... --resume` does."""
    path = str(ROOT / "recipes" / f"{name}.py")
    sys.argv = [path, *map(str, words), "--output_dir", str(out), "--resume"]
    runpy.run_path(path, run_name="__main__")


def check_run(out: Path, before: dict[str, bytes]) -> None:
    """Checkpoints, the model, the metrics and the report of a run are whole where they are there at all."""
    import torch
    from safetensors.torch import load_file

    from mp3model.training.loop import load_checkpoint, newest_checkpoint

    found = [path for path in out.glob("checkpoint-*") if path.is_dir()]
    if found:
        newest = newest_checkpoint(out)
        if newest is None or newest != max(found, key=lambda path: int(path.name.split("-")[1])):
            raise ValueError(f"{found}: only {newest} is whole")
        weight = torch.nn.Parameter(torch.zeros(1))
        tensors, state = load_checkpoint(newest, Loaded(weight), torch.device("cpu"))
        if not {"model", "judged", "best"} <= set(tensors) or "epoch" not in state:
            raise ValueError(f"{newest}: {list(tensors)}, {state}")
    if (out / "model").exists():
        json.loads((out / "model" / "config.json").read_text())
        load_file(out / "model" / "model.safetensors")
    for name in ("report.json", "arguments.json"):
        if (out / name).exists():
            json.loads((out / name).read_text())


class Loaded:
    """Takes the state of an optimizer for any model."""

    def __init__(self, weight: Any) -> None:
        self.weight = weight

    def state_dict(self) -> dict[str, Any]:
        return {"state": {}, "param_groups": []}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if not state["state"]:
            raise ValueError("no moments")


def check_forecasts(out: Path, before: dict[str, bytes]) -> None:
    """Every table and every shard that has its name is whole."""
    import pyarrow.parquet

    for path in [*out.glob("*.parquet"), *out.glob("shards/0*/*.parquet")]:
        # What has no name yet is not there for anyone.
        if not path.name.startswith("."):
            pyarrow.parquet.read_table(path)


def check_bank(out: Path, before: dict[str, bytes]) -> None:
    """The bank that was there is whole, or the new one is; or none has its index, which is said in one line."""
    from mp3model.audio.bank import INDEX_NAME, AudioBank
    from mp3model.files import InputError

    try:
        AudioBank(out).verify()
    except InputError:
        shards_moving = not (out / INDEX_NAME).exists() and (not before or list((out / ".build").glob("0*.json")))
        if not shards_moving:
            raise


def check_dataset(out: Path, before: dict[str, bytes]) -> None:
    """The dataset that was there opens as it was, or the new one does; at first there may be none."""
    from mp3model.files import sha256_of
    from mp3model.tables.folder import read_dataset

    if not before and not (out / "dataset.json").exists():
        return
    info = read_dataset(out).info
    for name, digest in info["hashes"].items():
        if sha256_of(out / name) != digest:
            raise ValueError(f"{out / name}: not what dataset.json says")


def write_sounds(folder: Path, changed: bool) -> None:
    """40 short files; later a few of them sound otherwise, and one is no sound."""
    import numpy as np
    import soundfile

    folder.mkdir()
    for number in range(40):
        pitch = 0.05 + 0.002 * number + (0.1 if changed and number % 5 == 0 else 0.0)
        soundfile.write(folder / f"{number:02d}.wav", 0.3 * np.sin(pitch * np.arange(1600)), 16_000)
        os.utime(folder / f"{number:02d}.wav", (changed, changed))
    if changed:
        (folder / "39.wav").write_bytes(b"no sound")


def write_charts(path: Path, weeks: int) -> None:
    """Weekly charts of ten songs in two regions."""
    import datetime

    text = "region,date,track_id,rank,streams\n"
    for week in range(weeks):
        date = datetime.date(2024, 1, 4) + datetime.timedelta(weeks=week)
        for region in ("GB", "US"):
            for rank in range(1, 11):
                text += f"{region},{date},{rank + week // 3:022d},{rank},{100_000 - 1000 * rank - week}\n"
    path.write_text(text)


def build(sounds: Path, out: Path) -> None:
    """Does what `python -m data_prep.build_bank` does."""
    from data_prep.build_bank import main as build_main

    if build_main([str(sounds), "--out", str(out), "--workers", "1"]):
        raise ValueError("no bank")


def convert(charts: Path, out: Path) -> None:
    """Does what `python -m data_prep.charts` does."""
    from data_prep.charts import main as convert_main

    convert_main([str(charts), "--out", str(out), "--horizon", "4"])


def make_jobs(folder: Path) -> list[Job]:
    """Makes what the jobs read, and gives them."""
    from data_prep.market import main as make_market

    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log.txt"
    market, mp2, mp3 = folder / "market", folder / "mp2", folder / "mp3"
    words = ["--songs", "40", "--seed", "3", "--oracle-runs", "0", "--workers", "1", "--out", str(market)]
    data = ["--data", market]

    def must(work: Callable[[], Any]) -> None:
        if not succeeds(work, log):
            raise SystemExit(log.read_text()[-3000:])

    must(lambda: make_market(words))
    must(lambda: recipe("mp2", mp2, *data, *MP2, "--loader_workers", 0))
    must(lambda: recipe("mp3", mp3, *data, *MP3, "--loader_workers", 0, "--mp2", mp2 / "model"))
    for name, changed, weeks in (("old", False, 30), ("new", True, 40)):
        must(lambda name=name, changed=changed: write_sounds(folder / f"sounds-{name}", changed))
        write_charts(folder / f"charts-{name}.csv", weeks)
    must(lambda: build(folder / "sounds-old", folder / "bank"))
    must(lambda: convert(folder / "charts-old.csv", folder / "tables"))

    def training(name: str, *more: Any) -> Callable[[Path], None]:
        given = {"mp2": MP2, "mp3": [*MP3, "--mp2", mp2 / "model"]}[name]
        return lambda out: recipe(name, out, *data, *given, *more)

    together = ("file", "clock")
    forecasting = ["--model", mp3 / "model", "--samples", 8, "--shard", 2]
    return [
        Job("mp2", training("mp2", "--loader_workers", 0), check_run, weight=3),
        Job("mp2, 2 loader workers", training("mp2", "--loader_workers", 2), check_run, ways=together),
        Job("mp2, 2 processes", training("mp2", "--loader_workers", 0), check_run, processes=2, ways=together),
        Job("mp3", training("mp3", "--loader_workers", 0), check_run, weight=3),
        Job("mp3, 2 loader workers", training("mp3", "--loader_workers", 2, "--refit"), check_run, ways=together),
        Job("mp3, 2 processes", training("mp3", "--loader_workers", 0), check_run, processes=2, ways=together),
        Job("forecast", lambda out: recipe("forecast", out, *data, *forecasting), check_forecasts, weight=3),
        Job("bank", lambda out: build(folder / "sounds-new", out), check_bank, weight=2),
        Job("bank over another", lambda out: build(folder / "sounds-new", out), check_bank, folder / "bank", weight=2),
        Job("tables", lambda out: convert(folder / "charts-new.csv", out), check_dataset, weight=2),
        Job(
            "tables over others", lambda out: convert(folder / "charts-new.csv", out), check_dataset,
            folder / "tables", weight=2,
        ),
    ]  # fmt: skip


def warm() -> None:
    """Imports once what every fork needs."""
    import accelerate  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import scipy.stats  # noqa: F401
    import sklearn.linear_model
    import sklearn.model_selection  # noqa: F401
    import soundfile  # noqa: F401
    import timm.optim
    import timm.scheduler
    import timm.utils  # noqa: F401
    import torch

    import mp3model.baselines.registry
    import mp3model.evaluation.curve_report
    import mp3model.evaluation.oracle
    import mp3model.evaluation.report
    import mp3model.model.modeling_mp3
    import mp3model.serving.forecaster
    import mp3model.training.forecasting
    import mp3model.training.loop  # noqa: F401

    torch.set_num_threads(1)


def table(jobs: list[Job]) -> str:
    """What was killed, how, and what came of it."""
    names = [f"{name:>{width}}" for name, width in (("kills", 30), ("file", 5), ("clock", 5), ("half", 5))]
    lines = [f"{names[0]} = {' + '.join(names[1:])}{'runs':>7}{'not loaded':>12}{'different':>11}"]
    for name, some in [*((job.name, [job]) for job in jobs), ("all", jobs)]:
        ways = [sum(job.kills[way] for job in some) for way in WAYS]
        rest = [
            sum(count) for count in zip(*((job.trials, len(job.lost), len(job.different)) for job in some), strict=True)
        ]
        lines.append(
            f"{name:24}{sum(ways):6} = {ways[0]:5} + {ways[1]:5} + {ways[2]:5}{rest[0]:7}{rest[1]:12}{rest[2]:11}"
        )
    return "\n".join(lines)


def main() -> int:
    """Kills until there were enough; 1 if a state could not be loaded or a result differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="jobs by name")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    warm()
    folder = options.folder.resolve()
    jobs = [job for job in make_jobs(folder) if options.only is None or job.name in options.only]
    out, log, chance = folder / "trial" / "run", folder / "log.txt", random.Random(options.seed)
    turns = [job for job in jobs for _ in range(job.weight)]
    chance.shuffle(turns)
    done, turn = 0, 0
    while done < options.kills:
        job = turns[turn % len(turns)]
        if not job.whole:
            leave_alone(job, out, log)
        done += trial(job, out, log, chance, options.kills - done)
        turn += 1
        print(f"{done} of {options.kills}: {job.name}", file=sys.stderr, flush=True)
    used = [job for job in jobs if job.trials]
    for job in used:
        for text in (*job.lost, *job.different):
            print(f"{job.name}: {text}\n", flush=True)
    print(table(used))
    return int(any(job.lost or job.different for job in used))


if __name__ == "__main__":
    sys.exit(main())
