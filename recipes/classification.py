"""Low, middle or high from sound alone: Stanford's networks and HitMusicNet beside the majority class.

    python recipes/classification.py --data DIR --output_dir RUN [--folds 5] [--repeats 3] [--search]

For data with targets but without dates, such as clips of the Free Music Archive with their listens: what has no curve
cannot be in recipes/baselines.py. Every song is predicted by systems that saw none of its artist's: folds by artist,
another fold chooses the epoch, and the classes part at the .168 and .635 quantiles of each fold's training songs, as
Stanford's did. --repeats deals the artists anew and starts from other weights. Writes RUN/report.json and table.txt.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from mp3model.files import InputError, errors_in_one_line, write_json, written_whole
from mp3model.training.arguments import parse_arguments

# A loader's worker that is spawned, as on macOS, reads this file again under the second name.
if __name__ not in ("__main__", "__mp_main__"):
    raise ImportError("recipes/classification.py is a script: run it with `python recipes/classification.py`")


@dataclass
class ClassificationArguments:
    """What is classified, and by what."""

    data: str = field(metadata={"help": "Dataset folder with an audio bank and targets."})
    region: str | None = field(default=None, metadata={"help": "Whose totals; none is the region with most songs."})
    folds: int = field(default=5, metadata={"help": "Folds by artist."})
    repeats: int = field(default=3, metadata={"help": "Times that artists are dealt to folds and networks start anew."})
    search: bool = field(default=False, metadata={"help": "Stanford's rate, batch and dropout chosen on validation."})
    epochs: int = field(default=100, metadata={"help": "Of the networks, at most."})
    patience: int = field(default=5, metadata={"help": "Stanford's stop after so many epochs without a better loss."})
    seed: int = field(default=0, metadata={"help": "Of folds, weights and the bootstrap."})
    output_dir: str = field(default="runs/classification", metadata={"help": "Run folder."})


def check_arguments(arguments: ClassificationArguments) -> None:
    """Refuses what cannot be done before anything is read."""
    from mp3model.training.runs import check_bounds

    check_bounds(arguments, {"folds": (3, None), "repeats": (1, None), "epochs": (1, None), "patience": (1, None)})
    if (Path(arguments.output_dir) / "report.json").exists():
        raise InputError(f"{arguments.output_dir} holds another report; name another --output_dir")


with errors_in_one_line():
    (arguments,) = parse_arguments((ClassificationArguments,), sys.argv[1:], __doc__.splitlines()[0])
    check_arguments(arguments)

# Only now: `--help` and a wrong option answer without waiting for torch.
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
from sklearn.model_selection import GroupKFold  # noqa: E402

from mp3model.baselines.hitmusicnet import HitMusicNet, classes_of  # noqa: E402
from mp3model.baselines.song_sounds import SongSounds  # noqa: E402
from mp3model.baselines.spectrogram_cnn import CONVOLUTIONS, QUANTILES, SpectrogramCNN, search  # noqa: E402
from mp3model.evaluation.bootstrap import Draws  # noqa: E402
from mp3model.evaluation.classes import class_draws, class_report, class_table  # noqa: E402
from mp3model.tables.folder import DatasetFolder, read_dataset  # noqa: E402
from mp3model.tables.tracks import artist_keys  # noqa: E402

MAJORITY = "majority class"
# (images, values) or (descriptors, values) of the songs of a fold.
Part = tuple[np.ndarray, np.ndarray]


def main() -> None:
    """Hear, predict fold by fold, score, in that order."""
    folder = Path(arguments.output_dir)
    with errors_in_one_line():
        dataset = read_dataset(arguments.data)
        songs = songs_of(dataset)
        if songs["artist"].nunique() < arguments.folds:
            raise InputError(
                f"--folds {arguments.folds}: {dataset.path} has songs of {songs['artist'].nunique()} artists only"
            )
        sounds = SongSounds(dataset)
        place = pd.Index(sounds.songs).get_indexer(pd.Index(songs["song_id"]))
        images, rows = sounds.stacked("image")[place], sounds.stacked("descriptors")[place]
        parts = [
            repeat(songs, images, rows, arguments.seed + number, f"repeat {number + 1} of {arguments.repeats}")
            for number in range(arguments.repeats)
        ]
        close(songs, parts, dataset, folder)


def songs_of(dataset: DatasetFolder) -> pd.DataFrame:
    """`song_id, artist, value` of every song of the region with audio and a total; the mean of several tracks'."""
    if dataset.targets is None or dataset.previews is None:
        raise InputError(
            f"{dataset.path}: needs targets.parquet and an audio bank, as data_prep.open_datasets makes them"
        )
    targets = dataset.targets[dataset.targets["total"].notna()]
    tracks = dataset.tracks.assign(artist=artist_keys(dataset.tracks))
    targets = targets.merge(tracks[["track_id", "song_id", "artist"]], on="track_id")
    targets = targets[targets["song_id"].isin(SongSounds(dataset).songs)]
    if not len(targets):
        raise InputError(f"{dataset.path}: no song has both a clip and a total")
    region = arguments.region or targets["region"].value_counts().index[0]
    targets = targets[targets["region"] == region]
    if not len(targets):
        raise InputError(f"--region {region}: no song of {dataset.path} has a clip and a total there")
    songs = targets.groupby("song_id", as_index=False).agg(artist=("artist", "first"), value=("total", "mean"))
    return songs.sort_values("song_id", ignore_index=True)


def repeat(songs: pd.DataFrame, images: np.ndarray, rows: np.ndarray, seed: int, told: str) -> pd.DataFrame:
    """Every song's true class and what each system says, all from folds without its artist."""
    fold = np.empty(len(songs), dtype=int)
    splitter = GroupKFold(arguments.folds, shuffle=True, random_state=seed)
    for number, (_, held_out) in enumerate(splitter.split(fold, groups=songs["artist"])):
        fold[held_out] = number
    values = songs["value"].to_numpy(dtype=float)
    answers = []
    for number in range(arguments.folds):
        began = time.perf_counter()
        test, validation = fold == number, fold == (number + 1) % arguments.folds
        train = ~test & ~validation
        thresholds = np.quantile(values[train], QUANTILES)
        if not thresholds[0] < thresholds[1]:
            raise InputError(f"the totals of {train.sum()} training songs do not part into three classes")
        learnt = classes_of(values[train], thresholds)
        answer = songs[["song_id", "artist"]][test].assign(true=classes_of(values[test], thresholds))
        answer[MAJORITY] = int(np.bincount(learnt).argmax())
        for count in CONVOLUTIONS:
            network = stanford(count, (images[train], values[train]), (images[validation], values[validation]), seed)
            answer[f"stanford {count}"] = network.predict(images[test])
        net = HitMusicNet((float(thresholds[0]), float(thresholds[1])), epochs=arguments.epochs, seed=seed)
        net.fit(rows[train], values[train], (rows[validation], values[validation]))
        answers.append(answer.assign(hitmusicnet=net.predict(rows[test])))
        print(f"{told}, fold {number + 1} of {arguments.folds}: {time.perf_counter() - began:.0f} s", flush=True)
    return pd.concat(answers, ignore_index=True)


def stanford(convolutions: int, train: Part, validation: Part, seed: int) -> SpectrogramCNN:
    """One of Stanford's networks, with the settings of the paper or those that validation chooses."""
    options = {"epochs": arguments.epochs, "patience": arguments.patience, "seed": seed}
    if arguments.search:
        return search(train, validation, convolutions, **options)[0]
    return SpectrogramCNN(convolutions, **options).fit(*train, validation)


def close(songs: pd.DataFrame, parts: list[pd.DataFrame], dataset: DatasetFolder, folder: Path) -> None:
    """Scores, the table and report.json."""
    answers = pd.concat(parts, ignore_index=True)
    systems = [str(name) for name in answers if name not in ("song_id", "artist", "true")]
    predicted = {name: answers[name].to_numpy() for name in systems}
    report = class_report(
        answers["true"].to_numpy(), predicted, answers["artist"], systems[1], MAJORITY, arguments.seed
    )
    each = {
        name: [
            float(class_draws(part["true"].to_numpy(), part[name].to_numpy(), Draws(part["artist"], 0))["accuracy"][0])
            for part in parts
        ]
        for name in systems
    }
    shares = np.bincount(answers["true"], minlength=3) / len(answers)
    report |= {
        "data": str(dataset.path),
        "counts": {"songs": len(songs), "artists": int(songs["artist"].nunique()), "classes": shares.tolist()},
        "folds": arguments.folds,
        "accuracy_of_repeats": each,
    }
    dealt = f"{arguments.folds} folds by artist dealt {arguments.repeats} times"
    lines = [
        f"three classes of {len(songs)} songs by {songs['artist'].nunique()} artists, {dealt}; [95 % by artist]",
        f"shares of low, middle and high: {', '.join(f'{share:.3f}' for share in shares)}",
        class_table(report),
        "accuracy of each repeat:",
        *(f"  {name}: {', '.join(f'{value:.3f}' for value in values)}" for name, values in each.items()),
    ]
    with written_whole(folder / "table.txt") as path:
        path.write_text("\n".join(lines) + "\n")
    write_json(folder / "report.json", report)
    print("\n" + "\n".join(lines) + f"\n\nreport: {folder / 'report.json'}")


if __name__ == "__main__":
    main()
