"""MP2 and MP3 trained with one choice changed at a time, over several seeds; one table of differences with intervals.

    python recipes/ablations.py --output_dir RUN [--songs 1500] [--market_seed 11] [--seeds 0 1 2] [--only NAMES]

Every arm is recipes/mp2.py and recipes/mp3.py with options, a process each. Arms with the same options share a run,
RUN/runs/NAME with its log.txt; the same command again goes on where it was stopped. All arms are scored on the test
split of a simulated market. Writes RUN/report.json, RUN/table.txt and RUN/ablations.md after each seed.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mp3model.files import InputError, errors_in_one_line, write_json, written_whole
from mp3model.training.arguments import parse_arguments

# A loader's worker that is spawned, as on macOS, reads this file again under the second name.
if __name__ not in ("__main__", "__mp_main__"):
    raise ImportError("recipes/ablations.py is a script: run it with `python recipes/ablations.py`")


@dataclass
class AblationArguments:
    """What is compared, on what, and how large each run is."""

    output_dir: str = field(default="runs/ablations", metadata={"help": "Run folder."})
    data: str | None = field(default=None, metadata={"help": "A simulated market made already; none makes one."})
    songs: int = field(default=1500, metadata={"help": "Songs of the simulated market."})
    market_seed: int = field(default=11, metadata={"help": "Seed of the simulated market."})
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "Seeds of every arm."})
    only: list[str] | None = field(default=None, metadata={"help": "Ablations by name; none is all of them."})
    jobs: int = field(default=1, metadata={"help": "Runs at once, each with one thread."})
    frames: int = field(default=512, metadata={"help": "Frames of 10 ms a clip."})
    epochs: int = field(default=14, metadata={"help": "Epochs of MP2."})
    curve_epochs: int = field(default=16, metadata={"help": "Epochs of MP3, its ears frozen or absent."})
    tuning_epochs: int = field(default=6, metadata={"help": "Epochs of MP3 that goes on training MP2's ears."})
    paths: int = field(default=128, metadata={"help": "Paths a forecast."})


@dataclass(frozen=True)
class Arm:
    """One choice: what it changes of the base options of MP2 and of MP3.

    Attributes:
        curve: Options of MP3.
        ears: Options of MP2; None is an MP3 model without audio.
        whole: Whether live and instrumental versions are among the clips of training songs.
    """

    curve: dict[str, Any] = field(default_factory=dict)
    ears: dict[str, Any] | None = field(default_factory=dict)
    whole: bool = True


@dataclass(frozen=True)
class Ablation:
    """Arms that differ in one choice; the first is what the others are compared with.

    Attributes:
        question: What is asked.
        arms: Name → arm.
        observed: Observed periods that are scored.
        truths: `chart` for what charts show, `all` for all streams, which a simulated market knows.
    """

    question: str
    arms: dict[str, Arm]
    observed: tuple[int, ...] = (0,)
    truths: tuple[str, ...] = ("chart",)


@dataclass(frozen=True)
class Run:
    """One run of a recipe; runs that are equal are one.

    Attributes:
        recipe: mp2 or mp3.
        options: (name, value) by name.
        market: What is learnt from: songs, seed, regions.
        whole: As for `Arm`.
        ears: The MP2 run that MP3 hears with.
    """

    recipe: str
    options: tuple[tuple[str, Any], ...]
    market: str
    whole: bool = True
    ears: Run | None = None

    @property
    def kind(self) -> str:
        """What its time depends on: mp2, or what MP3 does with audio."""
        options = dict(self.options)
        return "mp2" if self.recipe == "mp2" else str(options["audio"] if self.ears else "none")

    @property
    def name(self) -> str:
        """Its folder's name: recipe, seed, and a hash of all that decides it."""
        said = json.dumps([self.recipe, self.options, self.market, self.whole, self.ears and self.ears.name])
        digest = hashlib.sha256(said.encode()).hexdigest()[:10]
        return f"{self.recipe}-seed{dict(self.options)['seed']}-{digest}"

    def words(self) -> list[str]:
        """Its options as a command line."""
        return [
            word
            for name, value in self.options
            for word in (f"--{name}", *map(str, value if isinstance(value, tuple) else (value,)))
        ]


with errors_in_one_line():
    (arguments,) = parse_arguments((AblationArguments,), sys.argv[1:], __doc__.splitlines()[0])

# How loud, where, which clip, what is hidden: nothing of it. What remains is the place of the clip in its preview.
PLAIN = {"gain": 0.0, "roll": 0.0, "alternate": False, "frequency_mask": 0, "time_mask": 0, "shift": 0}
# What training from MP2's ears adds to the base of MP3; from scratch the ears learn as fast as the decoder.
TUNED = {"audio": "finetune", "epochs": arguments.tuning_epochs, "batch_size": 16}
SCRATCH = TUNED | {"epochs": arguments.epochs, "audio_rate": 1.0, "layer_decay": 1.0}
# A rate of 0 leaves the weights as they were drawn, with the normalisation that any start needs.
UNTRAINED = {"learning_rate": 0.0, "epochs": 1}
# Charts, artists and other regions without audio: a minute a run, and enough to learn from.
TABLES = {"covariates": ("state", "artist", "regions"), "batch_size": 96}
ALONE = ("gain", "roll", "alternate", "shift")


def everything() -> dict[str, Any]:
    """MP2's options of the base, with every augmentation."""
    return {
        "frames": arguments.frames,
        "epochs": arguments.epochs,
        "batch_size": 8,
        "ema": 0.99,
        "patience": arguments.epochs,
        "evaluate_every": 4,
        "folds": 0,
        "windows": 1,
        "loader_workers": 0,
        "gain": 6.0,
        "roll": 1.0,
        "alternate": True,
        "frequency_mask": 16,
        "time_mask": 48,
        "shift": 4,
    }


def by_sound() -> dict[str, Any]:
    """MP3's options of the base: what MP2 hears and the state of the region's charts, each song heard once."""
    return {
        "audio": "stored",
        "covariates": ("state",),
        "epochs": arguments.curve_epochs,
        "patience": arguments.curve_epochs,
        "batch_size": 32,
        "dropout": 0.1,
        "weight_decay": 0.05,
        "ema": 0.99,
        "observed": (0, 1, 2),
        "windows": 1,
        "paths": 64,
        "loader_workers": 0,
    }


def ablations() -> dict[str, Ablation]:
    """All of them by name."""
    every = everything()
    alone = {name: Arm(ears=PLAIN | {name: every[name]}) for name in ALONE}
    masks = {name: every[name] for name in ("frequency_mask", "time_mask")}
    both = {"region_mode": "embedding"}, {"region_mode": "none"}
    concat = {"position_mode": "concat"}
    return {
        "pretraining": Ablation(
            "Does MP3 hear better with ears that MP2 trained?",
            {
                "MP2, then trained on": Arm(TUNED),
                "MP2, frozen": Arm(),
                "from scratch": Arm(SCRATCH, UNTRAINED),
                "untrained, frozen": Arm(ears=UNTRAINED),
                "no audio": Arm(ears=None),
            },
        ),
        "charted": Ablation(
            "Is it worth learning which released songs chart at all?",
            {"learnt": Arm(), "left out": Arm(ears={"charted": False})},
        ),
        "region": Ablation(
            "How is a model told the region?",
            {
                "token": Arm(),
                "embedding": Arm(both[0], both[0]),
                "none": Arm(both[1], both[1]),
                "embedding, decoder alone": Arm(both[0]),
                "none, decoder alone": Arm(both[1]),
            },
        ),
        "position": Ablation(
            "Are positions added, or given channels of their own?",
            {
                "sum": Arm(),
                "concat": Arm(concat, concat),
                "concat, encoder alone": Arm(ears=concat),
                "concat, decoder alone": Arm(concat),
            },
            observed=(0, 1, 2),
        ),
        "augmentation": Ablation(
            "What is each augmentation of MP2 worth?",
            {"none": Arm(ears=PLAIN), **alone, "SpecAugment": Arm(ears=PLAIN | masks), "all": Arm()},
        ),
        "nulls": Ablation(
            "What is a week below the chart to the loss? (true: of all streams, also those that no chart shows)",
            {
                "censored": Arm(TABLES, None),
                "masked": Arm(TABLES | {"nulls": "masked"}, None),
                "zero": Arm(TABLES | {"nulls": "zero"}, None),
            },
            observed=(0, 1, 2),
            truths=("all", "chart"),
        ),
        "likelihood": Ablation(
            "Week by week, or whole curves at once?",
            {
                "autoregressive": Arm(TABLES, None),
                "joint": Arm(TABLES | {"likelihood": "joint", "components": 24}, None),
            },
            observed=(0, 1, 2),
        ),
        "versions": Ablation(
            "Are live and instrumental versions good alternates in training?",
            {"included": Arm(), "left out": Arm(whole=False)},
        ),
    }


def run_of(arm: Arm, seed: int, market: str) -> Run:
    """The MP3 run of an arm; its MP2 run is `ears`."""
    ears = None
    if arm.ears is not None:
        ears = _run("mp2", everything() | arm.ears | {"seed": seed}, market, arm.whole)
    options = by_sound() | arm.curve | {"seed": seed}
    if ears is None:
        del options["audio"], options["windows"]
        options["encoder"] = "none"
    return _run("mp3", options, market, arm.whole, ears)


def _run(recipe: str, options: Mapping[str, Any], market: str, whole: bool, ears: Run | None = None) -> Run:
    return Run(recipe, tuple(sorted(options.items())), market, whole, ears)


def chosen(only: Sequence[str] | None) -> dict[str, Ablation]:
    """The ablations asked for, in the order of the table.

    Raises:
        InputError: No such ablation.
    """
    known = ablations()
    unknown = [name for name in only or [] if name not in known]
    if unknown:
        raise InputError(f"--only {unknown[0]} is none of {', '.join(known)}")
    return {name: ablation for name, ablation in known.items() if only is None or name in only}


with errors_in_one_line():
    from mp3model.training.runs import check_bounds

    asked = chosen(arguments.only)
    positive = ("jobs", "frames", "epochs", "curve_epochs", "tuning_epochs")
    check_bounds(arguments, dict.fromkeys(positive, (1, None)) | {"paths": (10, None)})
    if not arguments.seeds or len(set(arguments.seeds)) < len(arguments.seeds):
        raise InputError(f"--seeds {' '.join(map(str, arguments.seeds))}: give at least one, each once")

# Only now: `--help` and a wrong option answer without waiting for torch.
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
from transformers.utils import logging as transformers_logging  # noqa: E402

from mp3model.audio.bank import write_index  # noqa: E402
from mp3model.evaluation.accuracy import MINIMUM_CURVES, CurveTruth, curve_row_scores, wape  # noqa: E402
from mp3model.evaluation.bootstrap import bootstrap_weights, paired_row_difference  # noqa: E402
from mp3model.evaluation.curve_report import target_name  # noqa: E402
from mp3model.evaluation.forecasts import truth_of  # noqa: E402
from mp3model.evaluation.oracle import true_streams  # noqa: E402
from mp3model.evaluation.ranking import spearman_replicates  # noqa: E402
from mp3model.tables.debuts import Debuts, debut_rows, debuts_of, with_cutoff  # noqa: E402
from mp3model.tables.folder import DatasetFolder, write_dataset  # noqa: E402
from mp3model.tables.titles import parse_title  # noqa: E402
from mp3model.training.forecasting import PathForecaster, forecaster_of  # noqa: E402
from mp3model.training.runs import read_or_make  # noqa: E402

RECIPES = Path(__file__).resolve().parent
SPLIT, OBSERVED = "test", (0, 1, 2)
REPLICATES = 1000
# Sampling is timed on so many debuts, the best of so many times.
TIMED_ROWS, TIMES = 200, 3
# Seconds of a run of each kind at the defaults on one core, until a run of the kind has told its own.
EXPECTED = {"mp2": 130.0, "stored": 60.0, "finetune": 200.0, "none": 50.0}
LEFT_OUT = ("live", "instrumental")
MEASURES = {"crps": "CRPS", "mae": "MAE log10", "spearman": "Spearman", "wape": "WAPE %"}
running: set[subprocess.Popen] = set()


def main() -> None:
    """A market, then seed by seed the runs of all arms, their scores and the tables so far."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    transformers_logging.disable_progress_bar()
    folder = Path(arguments.output_dir)
    with errors_in_one_line():
        dataset, market = development_market(folder)
        progress = Progress([run for seed in arguments.seeds for run in runs_of(seed, market)], folder)
        failed: list[str] = []
        for seed in arguments.seeds:
            runs = runs_of(seed, market)
            for recipe in ("mp2", "mp3"):
                failed += all_finished([run for run in runs if run.recipe == recipe], dataset, folder, progress)
            score_all(seed, market, dataset, folder)
            write_all(dataset, market, folder)
        print(f"\n{(folder / 'table.txt').read_text()}\nreport: {folder / 'report.json'}")
        if failed:
            raise InputError(f"{len(failed)} run(s) failed, the first {failed[0]}: see its log.txt, and start again")


def development_market(folder: Path) -> tuple[DatasetFolder, str]:
    """The simulated market, and what names it in the runs.

    Raises:
        InputError: The dataset is no simulated market, or has no audio.
    """
    alone = SimpleNamespace(is_main_process=True, wait_for_everyone=lambda: None)
    dataset = read_or_make(arguments.data, arguments.songs, arguments.market_seed, folder, alone)
    if "market" not in dataset.info or dataset.previews is None or dataset.splits is None:
        raise InputError(f"{dataset.path}: give a simulated market with audio, as python -m data_prep.market makes it")
    return dataset, json.dumps(dataset.info["market"], sort_keys=True)


def runs_of(seed: int, market: str) -> list[Run]:
    """Every run that a seed's arms need, each once, MP2 first."""
    curves = [run_of(arm, seed, market) for ablation in asked.values() for arm in ablation.arms.values()]
    return list(dict.fromkeys([run.ears for run in curves if run.ears is not None] + curves))


class Progress:
    """What is done and about how long the rest takes, a line a finished run.

    Args:
        runs: All runs.
        folder: Those with a report in it are done already.
    """

    def __init__(self, runs: Sequence[Run], folder: Path) -> None:
        self.waiting = [run for run in runs if not is_finished(run, folder)]
        self.total = len(runs)
        self.seconds: dict[str, list[float]] = {}
        print(f"{self.total} runs, {self.total - len(self.waiting)} finished already; {self.remaining()}", flush=True)

    def remaining(self) -> str:
        """The estimate, from runs of the same kind as far as there are any."""
        known = {kind: float(np.mean(values)) for kind, values in self.seconds.items()}
        # A kind that has not run yet is as much slower or faster than expected as the others were.
        pace = np.mean([value / EXPECTED[kind] for kind, value in known.items()]) if known else 1.0
        seconds = sum(known.get(run.kind, EXPECTED[run.kind] * pace) for run in self.waiting) / arguments.jobs
        return f"about {seconds / 60:.0f} minutes remain"

    def done(self, run: Run, seconds: float | None) -> None:
        """One more is finished, or, with None, has failed."""
        self.waiting.remove(run)
        if seconds:
            self.seconds.setdefault(run.kind, []).append(seconds)
        told = "failed" if seconds is None else f"{seconds:.0f} s"
        print(f"{self.total - len(self.waiting)}/{self.total} {run.name}: {told}; {self.remaining()}", flush=True)


def folder_of(run: Run, folder: Path) -> Path:
    return folder / "runs" / run.name


def is_finished(run: Run, folder: Path) -> bool:
    """Whether a run has its report and, with it, its model."""
    return (folder_of(run, folder) / "report.json").is_file()


def all_finished(runs: Iterable[Run], dataset: DatasetFolder, folder: Path, progress: Progress) -> list[str]:
    """Does the runs that are not finished; names of those that failed."""
    reduced = dataset.path
    if any(not run.whole for run in runs):
        reduced = without_versions(dataset, folder / "without-versions")

    def one(run: Run) -> str | None:
        if run not in progress.waiting:
            return None
        if run.ears is not None and not is_finished(run.ears, folder):
            seconds = None
        else:
            seconds = finish(run, dataset.path if run.whole else reduced, folder)
        progress.done(run, seconds)
        return run.name if seconds is None else None

    with ThreadPoolExecutor(arguments.jobs) as pool:
        try:
            return [name for name in pool.map(one, runs) if name is not None]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(running):
                process.terminate()
            raise


def finish(run: Run, data: Path, folder: Path) -> float | None:
    """Starts a run, or goes on with it, and waits; the seconds that took, None if it failed.

    A lock that the recipe inherits keeps two processes out of one run, even if the first was killed and its recipe
    still works: the second then waits and finds it finished.
    """
    import fcntl

    place = folder_of(run, folder)
    place.mkdir(parents=True, exist_ok=True)
    words = ["--data", str(data), "--output_dir", str(place), "--resume", *run.words()]
    if run.ears is not None:
        words += ["--mp2", str(folder_of(run.ears, folder) / "model")]
    # One thread a run, or jobs fight over the processor; a line of progress a minute keeps logs short.
    environment = {"OMP_NUM_THREADS": "1", "TQDM_MININTERVAL": "60", **os.environ}
    with open(place / "lock", "w") as lock, open(place / "log.txt", "a") as log:
        fcntl.flock(lock, fcntl.LOCK_EX)
        began = time.perf_counter()
        if is_finished(run, folder):
            return 0.0
        process = subprocess.Popen(
            [sys.executable, str(RECIPES / f"{run.recipe}.py"), *words],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            pass_fds=[lock.fileno()],
        )
        running.add(process)
        # The processor's seconds stay the same on a busy machine.
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        running.discard(process)
        with open(place / "seconds.jsonl", "a") as seconds:
            seconds.write(f"{usage.ru_utime + usage.ru_stime}\n")
    return None if process.returncode else time.perf_counter() - began


def without_versions(dataset: DatasetFolder, folder: Path) -> Path:
    """The same market, in which training songs have no live or instrumental clips; its folder, made once."""
    if (folder / "dataset.json").is_file():
        return folder
    assert dataset.previews is not None
    assert dataset.splits is not None
    tracks = dataset.tracks
    kinds = tracks["kind"] if "kind" in tracks else tracks["title"].map(lambda title: parse_title(title).kind)
    taught = dataset.splits.loc[dataset.splits["split"] == "train", "track_id"]
    songs = tracks.loc[tracks["track_id"].isin(taught), "song_id"]
    dropped = tracks.loc[tracks["song_id"].isin(songs) & kinds.isin(LEFT_OUT), "track_id"]
    folder.mkdir(parents=True, exist_ok=True)
    for shard in dataset.path.glob("audio-*.npy"):
        (folder / shard.name).unlink(missing_ok=True)
        (folder / shard.name).symlink_to(shard.resolve())
    write_index(folder, dataset.previews[~dataset.previews["track_id"].isin(dropped)])
    info = {name: value for name, value in dataset.info.items() if name not in ("counts", "hashes")}
    write_dataset(folder, tracks=tracks, curves=dataset.curves, charts=dataset.charts, splits=dataset.splits, info=info)
    return folder


def score_all(seed: int, market: str, dataset: DatasetFolder, folder: Path) -> None:
    """Writes each finished run's errors, unless they are written already."""
    debuts = None
    for ablation in asked.values():
        for arm in ablation.arms.values():
            run = run_of(arm, seed, market)
            for truth in ablation.truths:
                path = folder_of(run, folder) / f"errors-{truth}.parquet"
                if not is_finished(run, folder) or path.is_file():
                    continue
                if debuts is None:
                    debuts = debuts_of(dataset, debut_rows(dataset), dataset.horizon).of_split(SPLIT)
                model = folder_of(run, folder) / "model"
                forecaster = forecaster_of(model, dataset, arguments.paths, seed, windows=1, full=truth == "all")
                forecaster.rank_curves = None
                if truth == "chart":
                    write_json(path.with_name("sampling.json"), sampling_seconds(forecaster, debuts))
                errors = row_table(forecaster, dataset, debuts)
                with written_whole(path) as temporary:
                    errors.to_parquet(temporary, index=False)


def sampling_seconds(forecaster: PathForecaster, debuts: Debuts) -> float:
    """Seconds for 1,000 paths of whole curves, audio heard before; the processor's own where nothing else works."""
    kept = np.arange(len(debuts.rows)) < TIMED_ROWS
    some = debuts.chosen(kept)
    rows = with_cutoff(some.rows, 0, forecaster.covariates.frequency)
    forecaster.audio(some.songs)
    clock = time.process_time if forecaster.model.device.type == "cpu" else time.perf_counter
    seconds = []
    for _ in range(TIMES):
        began = clock()
        forecaster.raw(some, rows)
        seconds.append(clock() - began)
    return 1000 * min(seconds) / (len(rows) * forecaster.samples)


def row_table(forecaster: PathForecaster, dataset: DatasetFolder, debuts: Debuts) -> pd.DataFrame:
    """Errors of a model a debut and number of observed periods, of all streams where the forecaster gives them.

    Returns:
        `song_id, region, artist, observed, crps, mae` (of log10(1 + streams / floor), streams still to come),
        `absolute_error, true` (of the curve, streams), `score` (what ranks).
    """
    seen = truth_of(debuts.rows, debuts.curves)
    truth = seen
    if forecaster.full:
        streams = true_streams(dataset.path, dataset.tracks, debuts.rows, dataset.horizon)
        truth = CurveTruth(streams, seen.floor, seen.region, seen.artist)
    parts = []
    for observed in OBSERVED:
        forecasts = forecaster.paths(debuts, observed).forecasts()
        scores = curve_row_scores(truth, forecasts, observed)
        columns = {"crps": "crps_logfloor", "mae": "mae_logfloor", "absolute_error": "absolute_error"}
        columns["true"] = "true_streams"
        part = debuts.rows[["song_id", "region", "artist"]].assign(observed=observed, score=forecasts.score)
        parts.append(part.assign(**{name: scores[score] for name, score in columns.items()}))
    return pd.concat(parts, ignore_index=True)


def measured(rows: pd.DataFrame) -> dict[str, float | None]:
    """CRPS, MAE, macro Spearman and WAPE of one run: a table of `row_table` at one number of observed periods."""
    weights = np.ones((1, len(rows)))
    values = {
        "crps": float(rows["crps"].mean()),
        "mae": float(rows["mae"].mean()),
        "spearman": float(macro_spearman([rows], weights)[0]),
        "wape": wape(rows["true"], rows["true"] + rows["absolute_error"]),
    }
    return {name: value if np.isfinite(value) else None for name, value in values.items()}


def macro_spearman(frames: Sequence[pd.DataFrame], weights: np.ndarray) -> np.ndarray:
    """Rank correlation, mean over seeds and over regions large enough, in each bootstrap sample: (samples,)."""
    region = frames[0]["region"].to_numpy()
    names, counts = np.unique(region, return_counts=True)
    places = [np.flatnonzero(region == name) for name in names[counts >= MINIMUM_CURVES]]
    values = [
        spearman_replicates(frame["true"].to_numpy()[at], frame["score"].to_numpy()[at], weights[:, at])
        for frame in frames
        for at in places
    ]
    return np.mean(values, axis=0) if values else np.full(len(weights), np.nan)


def differences(arm: Sequence[pd.DataFrame], reference: Sequence[pd.DataFrame]) -> dict[str, Any]:
    """An arm less the reference, each row's errors averaged over seeds first: measure → value, low, high.

    The 95 % intervals are over artists of the test split. They say nothing of other seeds: see their spread.

    Args:
        arm, reference: A table of the same rows a seed.
    """
    first = arm[0]
    artist = first["artist"].to_numpy()

    def mean(frames: Sequence[pd.DataFrame], column: str) -> np.ndarray:
        return np.mean([frame[column].to_numpy(dtype=float) for frame in frames], axis=0)

    found = {}
    for name, column, unit, scale in (
        ("crps", "crps", 1, None),
        ("mae", "mae", 1, None),
        ("wape", "absolute_error", 100, first["true"].to_numpy(dtype=float)),
    ):
        pair = unit * mean(arm, column), unit * mean(reference, column)
        found[name] = asdict(paired_row_difference(*pair, artist, scale, replicates=REPLICATES))
    weights = np.vstack([np.ones((1, len(first))), bootstrap_weights(artist, REPLICATES, seed=0)])
    samples = macro_spearman(arm, weights) - macro_spearman(reference, weights)
    drawn = samples[1:][np.isfinite(samples[1:])]
    if np.isfinite(samples[0]) and len(drawn) and len(np.unique(artist)) > 1:
        low, high = np.percentile(drawn, [2.5, 97.5])
        found["spearman"] = {"value": float(samples[0]), "low": float(low), "high": float(high)}
    return found


def compared(arms: Mapping[str, Sequence[pd.DataFrame]]) -> dict[str, dict[str, Any]]:
    """Arms with a table a seed, the first the reference → arm → its figures.

    Returns:
        Arm → `mean` and `deviation` over seeds (None for a single one) and `seeds` of each measure, and, but for the
        reference, `difference`.

    Raises:
        InputError: Two tables are not of the same debuts.
    """
    reference = next(iter(arms))
    keys = ["song_id", "region"]
    whole = {
        name: [frame.sort_values(keys).reset_index(drop=True) for frame in frames] for name, frames in arms.items()
    }
    first = whole[reference][0]
    for name, frames in whole.items():
        if not all(frame[keys].equals(first[keys]) for frame in frames):
            raise InputError(
                f"{name} and {reference} forecast other debuts: remove their errors-*.parquet and start again"
            )
    found: dict[str, dict[str, Any]] = {}
    for name, frames in whole.items():
        each = [measured(frame) for frame in frames]
        by_measure = {measure: [one[measure] for one in each] for measure in MEASURES}
        known = {measure: [v for v in values if v is not None] for measure, values in by_measure.items()}
        found[name] = {
            "mean": {measure: float(np.mean(values)) if values else None for measure, values in known.items()},
            "deviation": {
                measure: float(np.std(values, ddof=1)) if len(values) > 1 else None for measure, values in known.items()
            },
            "seeds": by_measure,
        }
        if name != reference:
            found[name]["difference"] = differences(frames, whole[reference])
    return found


def write_all(dataset: DatasetFolder, market: str, folder: Path) -> None:
    """report.json, table.txt and ablations.md of all that is finished so far."""
    told = {name: reported(ablation, market, folder) for name, ablation in asked.items()}
    report = {
        "data": str(dataset.path),
        "market": dataset.info["market"],
        "split": SPLIT,
        "arguments": asdict(arguments),
        "ablations": {name: values for name, values in told.items() if values is not None},
    }
    write_json(folder / "report.json", report)
    for name, text in (("table.txt", plain_text(report)), ("ablations.md", markdown(report))):
        with written_whole(folder / name) as path:
            path.write_text(text, encoding="utf-8")


def reported(ablation: Ablation, market: str, folder: Path) -> dict[str, Any] | None:
    """One ablation over the seeds that are finished for all its arms; None where there is no such seed."""

    def errors(arm: Arm, seed: int, truth: str) -> Path:
        return folder_of(run_of(arm, seed, market), folder) / f"errors-{truth}.parquet"

    seeds = [
        seed
        for seed in arguments.seeds
        if all(errors(arm, seed, truth).is_file() for arm in ablation.arms.values() for truth in ablation.truths)
    ]
    if not seeds:
        return None
    targets: dict[str, Any] = {}
    for truth in ablation.truths:
        tables = {
            name: [pd.read_parquet(errors(arm, seed, truth)) for seed in seeds] for name, arm in ablation.arms.items()
        }
        for observed in ablation.observed:
            name = target_name(observed) if truth == "chart" else f"true_{target_name(observed)}"
            targets[name] = compared(
                {arm: [rows[rows["observed"] == observed] for rows in frames] for arm, frames in tables.items()}
            )
    some = next(iter(tables.values()))[0]
    return {
        "question": ablation.question,
        "reference": next(iter(ablation.arms)),
        "seeds": seeds,
        "debuts": int((some["observed"] == 0).sum()),
        "artists": int(some["artist"].nunique()),
        "arms": {
            name: cost([run_of(arm, seed, market) for seed in seeds], folder) for name, arm in ablation.arms.items()
        },
        "targets": targets,
    }


def cost(runs: Sequence[Run], folder: Path) -> dict[str, Any]:
    """Processor seconds of its recipes, mean over seeds, MP2's where there is one, and of 1,000 paths."""

    def seconds(run: Run) -> float:
        # A line an attempt; one that was killed together with this process has none.
        path = folder_of(run, folder) / "seconds.jsonl"
        return sum(map(float, path.read_text().split())) if path.is_file() else 0.0

    sampling = [folder_of(run, folder) / "sampling.json" for run in runs]
    times = [json.loads(path.read_text()) for path in sampling if path.is_file()]
    return {
        "runs": [run.name for run in runs],
        "mp2_seconds": float(np.mean([seconds(run.ears) for run in runs if run.ears])) if runs[0].ears else None,
        "mp3_seconds": float(np.mean([seconds(run) for run in runs])),
        "seconds_1000_paths": float(np.mean(times)) if times else None,
    }


def tables_of(report: Mapping[str, Any]) -> list[tuple[str, list[list[str]]]]:
    """A title and rows of cells, the head first, an ablation and target."""
    found = []
    for name, told in report["ablations"].items():
        for target, arms in told["targets"].items():
            head = ["arm", "seeds", *MEASURES.values(), "CRPS over seeds ±", f"CRPS less {told['reference']}"]
            head += [f"{MEASURES[measure]} less {told['reference']}" for measure in ("spearman", "wape")]
            head += ["s MP2", "s MP3", "s for 1,000 paths"]
            rows = [head]
            for arm, values in arms.items():
                costs = told["arms"][arm]
                cells = [arm, str(len(told["seeds"]))]
                cells += [number(values["mean"][measure], measure) for measure in MEASURES]
                cells += [number(values["deviation"]["crps"], "crps")]
                cells += [interval(values, measure) for measure in ("crps", "spearman", "wape")]
                cells += [number(costs[key], "seconds") for key in ("mp2_seconds", "mp3_seconds")]
                rows.append([*cells, number(costs["seconds_1000_paths"], "crps")])
            found.append((f"{name}, {heading(target)}", rows))
    return found


def heading(target: str) -> str:
    """`true_remaining_1` as a reader says it."""
    kind = "all streams" if target.startswith("true_") else "chart-observed streams"
    observed = target.removeprefix("true_").removeprefix("remaining_")
    return f"{kind}, nothing observed" if observed == "total" else f"{kind} after {observed} observed week(s)"


def number(value: float | None, measure: str) -> str:
    """A figure with its measure's digits; a dash where there is none."""
    digits = {"wape": 1, "seconds": 0}.get(measure, 3)
    return "–" if value is None else f"{value:.{digits}f}"


def interval(values: Mapping[str, Any], measure: str) -> str:
    """A difference with its bounds; nothing in the reference's own row."""
    if "difference" not in values:
        return ""
    found = values["difference"].get(measure)
    if found is None:
        return "–"
    bounds = f" [{number(found['low'], measure)} {number(found['high'], measure)}]" if found["low"] is not None else ""
    return f"{number(found['value'], measure)}{bounds}"


def introduction(report: Mapping[str, Any]) -> str:
    """What the figures are."""
    market = report["market"]
    where = f"{market['songs']} songs, seed {market['seed']}, {report['split']} split"
    return (
        f"Simulated market of {where}. CRPS and MAE are of log10(1 + streams / floor) of the streams still to come; "
        "Spearman is the mean over regions; all are means over seeds. Differences are from the first arm, each "
        "debut's error averaged over seeds first, with 95 % intervals by artist (1,000 bootstrap samples): they hold "
        "for these seeds, whose standard deviation stands beside them. Seconds are those of the processor for one run; "
        "arms share MP2 runs."
    )


def plain_text(report: Mapping[str, Any]) -> str:
    """report.json's content → table.txt."""
    lines = [introduction(report)]
    for title, rows in tables_of(report):
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines += ["", title]
        for row in rows:
            cells = [
                row[0].ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
            ]
            lines.append("  ".join(cells).rstrip())
    return "\n".join(lines) + "\n"


def markdown(report: Mapping[str, Any]) -> str:
    """report.json's content → ablations.md."""
    parts = ["# Ablations", introduction(report)]
    asked_before = ""
    for title, rows in tables_of(report):
        told = report["ablations"][title.split(",")[0]]
        if told["question"] != asked_before:
            parts += [
                f"## {title.split(',')[0]}",
                f"{told['question']} {told['debuts']} debuts, {told['artists']} artists.",
            ]
            asked_before = told["question"]
        lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
        parts += [title, "\n".join("| " + " | ".join(row) + " |" for row in lines)]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    main()
