"""A dataset folder in, batches of debuts out: what is known of each as of a cut-off, its curve, its song's clips.

A sample is a song with all its debuts of the split. How many periods of each are taken as observed, and with them the
cut-off, follows from (seed, epoch, song, region), so workers and processes change nothing. Rows of a song that runs on
some day, or may return after it, are further rows of the song; each epoch sees some of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mp3model.audio.augment import generator
from mp3model.audio.bank import AudioBank
from mp3model.files import InputError
from mp3model.model.covariates import Covariates, training_statistics
from mp3model.model.modeling_mp3 import Audio, MP3Model
from mp3model.model.sampling import tensors
from mp3model.tables.curves import taken
from mp3model.tables.debuts import Debuts, seen_in_epoch, with_cutoff
from mp3model.tables.folder import DatasetFolder
from mp3model.tables.history import History, RegionStates, region_scales
from mp3model.training.batches import ClipSet, Songs, TrainingSet
from mp3model.training.loop import predict_songs

# Periods that may be taken as observed in training, and how often each is; forecasts at other k lie between them.
OBSERVED_CHOICES = (0, 1, 2, 3, 4, 6, 8)
OBSERVED_WEIGHTS = (0.3, 0.2, 0.15, 0.1, 0.1, 0.08, 0.07)


def covariates_of(
    dataset: DatasetFolder, regions: list[str], groups: Sequence[str], horizon: int, train_until: Any
) -> Covariates:
    """What is known of a dataset by day; units of scale without a chart come from rows up to `train_until`."""
    history = History(dataset, region_scales(dataset, train_until))
    return Covariates(regions, dataset.frequency, horizon, tuple(groups), history.states, history)


def stored_covariates(config: Any) -> Covariates:
    """What a model carries of its regions, for a forecast without the dataset."""
    return Covariates(
        list(config.regions),
        config.frequency,
        config.horizon,
        tuple(config.covariates),
        RegionStates.from_last(config.region_states or {}),
    )


def descriptor_table(
    dataset: DatasetFolder, rows: pd.DataFrame, names: Sequence[str], statistics: dict[str, list[float]] | None = None
) -> tuple[np.ndarray, dict[str, list[float]]]:
    """Standardised descriptors of each row's track, NaN where its track has none: (rows, names), and the statistics.

    Args:
        dataset: Whose tracks have the columns.
        rows: With `track_id` and `split`.
        names: `x_*` columns.
        statistics: name → (mean, standard deviation); None takes them from the rows of the training split.

    Raises:
        InputError: If a column is missing.
    """
    missing = [name for name in names if name not in dataset.tracks]
    if missing:
        raise InputError(f"{dataset.path / 'tracks.parquet'}: no column {missing[0]}; leave it out of --descriptors")
    values = dataset.tracks.set_index("track_id")[list(names)].reindex(rows["track_id"]).to_numpy(dtype=float)
    if statistics is None:
        train = values[(rows["split"] == "train").to_numpy()]
        deviation = np.nanstd(train, axis=0)
        statistics = {
            name: [float(mean), float(std) if std > 0 else 1.0]
            for name, mean, std in zip(names, np.nanmean(train, axis=0), deviation, strict=True)
        }
    table = np.array([statistics[name] for name in names])
    return (values - table[:, 0]) / table[:, 1], statistics


def covariate_statistics(
    covariates: Covariates, debuts: Debuts, frequency: str, running: Debuts | None = None
) -> dict[str, list[float]]:
    """Mean and standard deviation of the static features over training rows, at every choice of observed periods.

    Debuts have no past: it is described by the rows of `running`, songs that have one, where there are any.
    """

    def gathered(rows: pd.DataFrame) -> np.ndarray:
        starts = range(0, len(rows), 8192)
        return np.concatenate([covariates.gather(rows.iloc[start : start + 8192])["static"] for start in starts])

    found = training_statistics(
        np.concatenate([gathered(with_cutoff(debuts.rows, k, frequency)) for k in OBSERVED_CHOICES[:5]])
    )
    if running is not None and len(running):
        own = training_statistics(gathered(with_cutoff(running.rows, 0, frequency)))
        place = covariates.columns("past")
        found = {name: [*found[name][: place.start], *own[name][place], *found[name][place.stop :]] for name in found}
    return found


@dataclass
class CurveTrainingSet(Dataset):
    """Batches of songs: a list of (epoch, song) → tensors of all their rows, and of their clips.

    Attributes:
        debuts: The training split; rows of running songs have `luck` and `chance`, see `seen_in_epoch`.
        covariates: What is known as of any day.
        seed: With the epoch, the song and the region decides how many periods are observed.
        horizon: Periods of a curve.
        clips: Clips of the same songs, in their order; None without audio.
        clip_of: (songs,) place of each song in `clips`, −1 where it has no audio.
        stored: (songs,) −1 where a song has no audio, of songs heard once for all; `song` then counts in `debuts`.
    """

    debuts: Debuts
    covariates: Covariates
    seed: int
    horizon: int
    clips: TrainingSet | None = None
    clip_of: np.ndarray | None = None
    stored: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.debuts)

    def __getitem__(self, items: list[tuple[int, int]]) -> dict[str, dict[str, Tensor]]:
        """→ `rows` (tensors of `Covariates.gather`, and `song`) and, with audio, `clips` (of `TrainingSet`)."""
        songs = [song for _, song in items]
        at = self.debuts.of_songs(songs)
        item = np.repeat(np.arange(len(items)), np.diff(self.debuts.starts)[songs])
        observed = self._observed(items, at)
        if "luck" in self.debuts.rows:
            running = self.debuts.rows["luck"].notna().to_numpy()[at]
            seen = self._seen(items[0][0], at)
            at, item, observed = at[seen], item[seen], np.where(running, 0, observed)[seen]
        rows = with_cutoff(self.debuts.rows.iloc[at], observed, self.covariates.frequency)
        batch = self.covariates.gather(rows, taken(self.debuts.curves, at))
        told = tensors(batch, torch.device("cpu"))
        if self.debuts.descriptors is not None:
            told["descriptors"] = torch.from_numpy(self.debuts.descriptors[at].astype(np.float32))
        found: dict[str, dict[str, Tensor]] = {"rows": told}
        heard = np.full(len(items), -1)
        if self.stored is not None:
            heard = np.where(self.stored[songs] >= 0, songs, -1)
        elif self.clips is not None:
            assert self.clip_of is not None
            heard = np.where(self.clip_of[songs] >= 0, np.cumsum(self.clip_of[songs] >= 0) - 1, -1)
            examples = [self.clips[epoch, int(self.clip_of[song])] for epoch, song in items if self.clip_of[song] >= 0]
            if examples:
                found["clips"] = {name: torch.stack([example[name] for example in examples]) for name in examples[0]}
        told["song"] = torch.from_numpy(heard[item])
        return found

    def _seen(self, epoch: int, at: np.ndarray) -> np.ndarray:
        """Which rows the epoch sees: all debuts, some of the rows of running songs."""
        luck, chance = (self.debuts.rows[name].to_numpy()[at] for name in ("luck", "chance"))
        seen = np.isnan(luck) | seen_in_epoch(luck, chance, epoch)
        # A small batch of songs none of whose days comes up has something to learn from all the same.
        return seen if seen.any() else np.ones(len(at), bool)

    def _observed(self, items: list[tuple[int, int]], at: np.ndarray) -> np.ndarray:
        """Observed periods of each row, by the song's numbers of the epoch at the row's region."""
        allowed = [choice < self.horizon for choice in OBSERVED_CHOICES]
        reached = np.cumsum(np.array(OBSERVED_WEIGHTS) * allowed)
        regions = self.debuts.rows["region"].to_numpy()[at]
        places = self.covariates.region_codes(regions)
        draws = np.concatenate(
            [
                generator(self.seed, epoch, f"observed {self.debuts.songs[song]}").random(
                    len(self.covariates.regions) + 1
                )[places[start:end]]
                for (epoch, song), start, end in _spans(items, self.debuts.starts)
            ]
        )
        return np.array(OBSERVED_CHOICES)[np.searchsorted(reached, draws * reached[-1], side="right")]


def _spans(items: list[tuple[int, int]], starts: np.ndarray) -> Any:
    """Each item with where its rows lie in the batch."""
    end = 0
    for item in items:
        start, end = end, end + int(starts[item[1] + 1] - starts[item[1]])
        yield item, start, end


def halves(songs: Sequence[str], seed: int) -> np.ndarray:
    """Which songs stop the training early (True), and which fit the calibration: (songs,) bool, by song alone."""
    return np.array([generator(seed, 0, f"half of {song}").random() < 0.5 for song in songs], dtype=bool)


def whole_curve_batches(
    debuts: Debuts,
    covariates: Covariates,
    observed: int,
    device: torch.device,
    hearing: Hearing | None = None,
    rows_at_once: int = 1024,
) -> Iterator[dict[str, Tensor]]:
    """All debuts with so many periods observed, in order, with their whole curves: batches for a likelihood.

    With `hearing`, `song` counts in `debuts`, as `Hearing.listen` answers; −1 for a song without audio.
    """
    rows = with_cutoff(debuts.rows, observed, covariates.frequency)
    song = audible_rows(debuts, hearing)
    for start in range(0, len(rows), rows_at_once):
        at = np.arange(start, min(start + rows_at_once, len(rows)))
        batch = tensors(covariates.gather(rows.iloc[at], taken(debuts.curves, at)), device)
        batch["song"] = torch.from_numpy(song[at]).to(device)
        if debuts.descriptors is not None:
            batch["descriptors"] = torch.from_numpy(debuts.descriptors[at].astype(np.float32)).to(device)
        yield batch


def audible_rows(debuts: Debuts, hearing: Hearing | None) -> np.ndarray:
    """Each row's song as its place in `debuts`, −1 where it has no audio: (rows,)."""
    places = np.arange(len(debuts))
    heard = np.full(len(debuts), -1) if hearing is None else hearing.places(debuts.songs)
    return np.repeat(np.where(heard >= 0, places, -1), np.diff(debuts.starts))


@dataclass
class Hearing:
    """The audio of a dataset's songs, by name.

    Attributes:
        dataset: With tracks.
        bank: Its previews.
        samples: Length of a clip at 16 kHz.
        windows: Windows a preview where a song is heard for good.
        previews: Previews a song at most.
    """

    dataset: DatasetFolder
    bank: AudioBank
    samples: int
    windows: int
    previews: int = 8
    _clips: dict[str, np.ndarray] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        versions = self.dataset.tracks.groupby("song_id", sort=True)["track_id"].apply(list)
        found = {song: np.concatenate([self.bank.previews_of(t) for t in tracks]) for song, tracks in versions.items()}
        self._clips = {str(song): clips for song, clips in found.items() if len(clips)}

    def places(self, songs: Sequence[str]) -> np.ndarray:
        """Each song's place among those with audio, −1 for one without: (songs,)."""
        heard = np.array([song in self._clips for song in songs], dtype=bool)
        return np.where(heard, np.cumsum(heard) - 1, -1)

    def songs_of(self, songs: Sequence[str]) -> Songs:
        """The songs that have audio, as `TrainingSet` and `ClipSet` read them; they carry no targets."""
        kept = [song for song in songs if song in self._clips]
        return Songs(kept, kept, [self._clips[song] for song in kept], np.zeros((len(kept), 0, 0)), [], [])

    def listen(self, model: MP3Model, songs: Sequence[str], accelerator: Any, batch_size: int = 16) -> Audio | None:
        """What the model hears of each song, the mean over windows of its previews, in the order of `songs`.

        A song without audio has zeros, which rows with `song` −1 never read. None if no song has audio.
        """
        heard = self.songs_of(songs)
        if not len(heard):
            return None
        shapes: list[torch.Size] = []

        def flat(waveforms: Tensor) -> Tensor:
            audio = model.listen(waveforms=waveforms)
            shapes[:] = [audio.tokens.shape[1:], audio.states.shape[1:]]
            return torch.cat([audio.tokens.flatten(1), audio.states.flatten(1)], dim=1)

        values = predict_songs(
            flat,
            ClipSet(heard, self.bank, self.samples, self.windows, self.previews),
            len(heard),
            accelerator,
            batch_size,
        )
        if not shapes:
            audio = model.listen(waveforms=torch.zeros(1, self.samples, device=accelerator.device))
            shapes[:] = [audio.tokens.shape[1:], audio.states.shape[1:]]
        places = self.places(songs)
        rows = np.zeros((len(songs), values.shape[1]), np.float32)
        rows[places >= 0] = values
        whole = torch.from_numpy(rows).to(accelerator.device)
        tokens, states = whole.split([shapes[0].numel(), shapes[1].numel()], dim=1)
        return Audio(tokens.unflatten(1, shapes[0]), states.unflatten(1, shapes[1]))
