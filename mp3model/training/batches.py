"""A dataset folder in, batches out: previews as int16, a few random numbers a sample, standardised targets.

A sample is a song, with the previews of every version of it that has audio and the targets of every region. Order,
crop, partner and all augmentation follow from (seed, epoch, song), so workers and processes change nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from mp3model.audio.augment import Draw, TimbreAugment, draw_numbers, generator, scaled_draw
from mp3model.audio.bank import AudioBank, in_pieces
from mp3model.audio.frontend import FRAME_LENGTH, LogMel
from mp3model.files import InputError
from mp3model.tables.curves import log_streams
from mp3model.tables.schema import places

Statistics = dict[str, dict[str, list[float]]]


@dataclass
class Songs:
    """The songs of one split: who they are, where their clips lie in the bank, and what is known of them.

    Attributes:
        song_ids: Sorted names.
        artists: One a song, for intervals that resample artists.
        clips: Positions in the bank of each song's previews.
        targets: (songs, regions, targets) in log10(1 + streams) and ranks, NaN where missing.
        regions: Names of the second axis.
        names: Names of the third axis.
    """

    song_ids: list[str]
    artists: list[str]
    clips: list[np.ndarray]
    targets: np.ndarray
    regions: list[str]
    names: list[str]

    def __len__(self) -> int:
        return len(self.song_ids)

    def taken(self, rows: np.ndarray) -> Songs:
        """The songs at these positions."""
        return Songs(
            [self.song_ids[row] for row in rows],
            [self.artists[row] for row in rows],
            [self.clips[row] for row in rows],
            self.targets[rows],
            self.regions,
            self.names,
        )

    def standardised(self, statistics: Statistics) -> np.ndarray:
        """Targets as (value − mean) / standard deviation of their region: (songs, regions, targets) float32."""
        table = np.array([[statistics[name][region] for name in self.names] for region in self.regions])
        return ((self.targets - table[..., 0]) / table[..., 1]).astype(np.float32)

    def frame(self, target: str, predicted: np.ndarray | None = None) -> pd.DataFrame:
        """One row a known (song, region): song_id, artist, region, true, and predicted where it was given.

        Args:
            target: One of `names`.
            predicted: (songs, regions) in the target's own units.
        """
        column = self.names.index(target)
        song, region = np.nonzero(~np.isnan(self.targets[:, :, column]))
        frame = pd.DataFrame(
            {
                "song_id": np.asarray(self.song_ids, dtype=object)[song],
                "artist": np.asarray(self.artists, dtype=object)[song],
                "region": np.asarray(self.regions, dtype=object)[region],
                "true": self.targets[song, region, column],
            }
        )
        return frame if predicted is None else frame.assign(predicted=predicted[song, region])


def songs_of_split(
    targets: pd.DataFrame,
    tracks: pd.DataFrame,
    bank: AudioBank,
    splits: Sequence[str],
    regions: Sequence[str],
    names: Sequence[str],
) -> Songs:
    """Gathers the songs of some splits that have both audio and a target.

    Args:
        targets: From `popularity_targets`: song_id, region, split, total, debut_rank.
        tracks: The dataset's tracks, which say what versions a song has and who its artist is.
        bank: The audio.
        splits: Any of train, validation and test.
        regions: Regions wanted, in the order of the model's.
        names: `total`, `debut_rank` or both.
    """
    rows = targets[targets["split"].isin(list(splits)) & targets["region"].isin(list(regions))]
    song_ids, clips = _clips_of_songs(rows["song_id"], tracks, bank)
    values = np.full((len(song_ids), len(regions), len(names)), np.nan)
    song = places(rows["song_id"], song_ids)
    rows, song = rows[song >= 0], song[song >= 0]
    region = places(rows["region"], regions)
    for column, name in enumerate(names):
        numbers = rows[name].astype("float64").to_numpy()
        values[song, region, column] = log_streams(numbers) if name == "total" else numbers
    known = ~np.isnan(values).all(axis=(1, 2))
    artists = tracks["artist"].take(places(song_ids, tracks["song_id"]))
    artist_of = np.where(artists.isna(), song_ids, artists).tolist()
    return Songs(song_ids, artist_of, clips, values, list(regions), list(names)).taken(np.flatnonzero(known))


def _clips_of_songs(wanted: pd.Series, tracks: pd.DataFrame, bank: AudioBank) -> tuple[list[str], list[np.ndarray]]:
    """Sorted ids of the wanted songs with audio, and the positions of their clips, by track and preview.

    Whole columns at a time: song by song, a hundred thousand of them take seconds.
    """
    own = tracks.loc[places(tracks["song_id"], wanted.unique()) >= 0, ["song_id", "track_id"]]
    song_of_row, song_ids = pd.factorize(own["song_id"], sort=True)
    row = places(bank.index["track_id"], own["track_id"])
    position = np.flatnonzero(row >= 0)
    row = row[position]
    song = song_of_row[row]
    order = np.lexsort((bank.index["preview"].to_numpy()[position], row, song))
    position, song = position[order], song[order]
    found, first = np.unique(song, return_index=True)
    return song_ids[found].tolist(), in_pieces(position, first)


def target_statistics(songs: Songs) -> Statistics:
    """Mean and standard deviation of each target in each region, over these songs: those of the training split.

    Raises:
        InputError: If a region has fewer than two songs, or all of one value: nothing can be standardised by it.
    """
    statistics: Statistics = {name: {} for name in songs.names}
    for column, name in enumerate(songs.names):
        for row, region in enumerate(songs.regions):
            values = songs.targets[:, row, column]
            values = values[~np.isnan(values)]
            if len(values) < 2 or values.std() == 0:
                raise InputError(
                    f"region {region} has {len(values)} training song(s) with audio and a {name} that differs; "
                    "at least two are needed: leave the region out with --regions, or give more data"
                )
            statistics[name][region] = [float(values.mean()), float(values.std())]
    return statistics


def mel_statistics(
    songs: Songs, bank: AudioBank, num_mel_bins: int = 128, clips: int = 256
) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each log-mel band over a sample of the songs: those of the training split.

    A band that hardly moves (the lowest hold no bin of the spectrum) is divided by at least 0.5, lest it be blown up.

    Args:
        songs: Of the training split.
        bank: Its audio.
        num_mel_bins: Bands.
        clips: How many previews to look at, evenly among the songs.
    """
    frontend = LogMel(mean=0.0, std=0.5, num_mel_bins=num_mel_bins)
    first, second, count = torch.zeros(num_mel_bins).double(), torch.zeros(num_mel_bins).double(), 0
    for row in np.unique(np.linspace(0, len(songs) - 1, min(clips, len(songs))).astype(int)):
        waveform = bank.read(int(songs.clips[row][0]))
        if len(waveform) < FRAME_LENGTH:
            continue
        with torch.inference_mode():
            mel = frontend(torch.from_numpy(np.array(waveform))[None])[0].double()
        first, second, count = first + mel.sum(0), second + mel.square().sum(0), count + len(mel)
    if not count:
        raise InputError("every clip of the training songs is shorter than 25 ms: there is no sound to learn from")
    mean = first / count
    deviation = (second / count - mean.square()).clamp(min=0).sqrt().clamp(min=0.5)
    return mean.float().tolist(), deviation.float().tolist()


@dataclass
class TrainingSet(Dataset):
    """Items (epoch, song) of a training split; every preview of the song cut to one length at one place.

    Attributes:
        songs: The training split.
        bank: Its audio.
        values: (songs, regions, targets) standardised.
        samples: Length of a clip at 16 kHz.
        seed: Together with the epoch and the song's name, decides everything random.
        largest: Previews carried of one song at most; the padding keeps batches rectangular.
        mixup: Whether each item carries a partner.
        second: Whether each item carries a second clip of its song, cut and augmented by numbers of its own.
        timbre: Pitch and timbre effects on the CPU, or None.
    """

    songs: Songs
    bank: AudioBank
    values: np.ndarray
    samples: int
    seed: int
    largest: int = 8
    mixup: bool = False
    second: bool = False
    timbre: TimbreAugment | None = None
    width: int = field(init=False)

    def __post_init__(self) -> None:
        self.width = min(self.largest, max(map(len, self.songs.clips), default=1))

    def __len__(self) -> int:
        return len(self.songs)

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Tensor]:
        """(epoch, song) → previews (previews, samples) int16, count, draws, targets; a partner's and a second's too."""
        epoch, song = item
        draws = draw_numbers(self.seed, epoch, self.songs.song_ids[song])
        example = self._example(song, draws)
        if self.mixup:
            partner = int(scaled_draw(draws[Draw.PARTNER], len(self.songs)))
            # A partner is cut, chosen, amplified and rolled by numbers of its own.
            partner_draws = self.partner_draws(epoch, song)
            example.update({f"partner_{key}": value for key, value in self._example(partner, partner_draws).items()})
        if self.second:
            again = self._example(song, self.second_draws(epoch, song))
            example.update({f"second_{key}": value for key, value in again.items()})
        return example

    def partner_draws(self, epoch: int, song: int) -> np.ndarray:
        """The numbers by which the partner of a song is cut and augmented."""
        return draw_numbers(self.seed, epoch, f"partner of {self.songs.song_ids[song]}")

    def second_draws(self, epoch: int, song: int) -> np.ndarray:
        """The numbers by which the second clip of a song is cut and augmented."""
        return draw_numbers(self.seed, epoch, f"second of {self.songs.song_ids[song]}")

    def cuts(self, song: int, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions in the bank of a song's previews, and the first sample of each cut: (previews,) both."""
        clips = self.songs.clips[song][: self.width]
        room = self.bank.lengths[clips] - self.samples + 1
        return clips, np.array([int(scaled_draw(draws[Draw.CROP], max(1, count))) for count in room.tolist()])

    def _example(self, song: int, draws: np.ndarray) -> dict[str, Tensor]:
        clips, starts = self.cuts(song, draws)
        previews = np.zeros((self.width, self.samples), dtype=np.int16)
        for row, (position, start) in enumerate(zip(clips.tolist(), starts.tolist(), strict=True)):
            previews[row] = self.bank.read(position, start, self.samples)
        if self.timbre is not None:
            # Only the preview that the device will choose: these effects cost more than everything else together.
            chosen = int(scaled_draw(draws[Draw.PREVIEW], len(clips)))
            previews[chosen] = self.timbre(previews[chosen], int(draws[Draw.TIMBRE] * (1 << 24)))
        return {
            "previews": torch.from_numpy(previews),
            "count": torch.tensor(len(clips)),
            "draws": torch.from_numpy(draws),
            "targets": torch.from_numpy(self.values[song]),
        }


class EpochBatches(Sampler):
    """Batches of (epoch, song) for one process: the whole epoch's order is the same in all of them.

    Batch b of an epoch takes songs b·B·P … (b+1)·B·P of the order over P processes, and process r its r-th part, so
    that one process with batches of 8, two with batches of 4, and one with two accumulated batches of 4 see the same
    songs at every step. What does not fill a step is left to the next epochs' orders; a split smaller than one step
    fills it by going round.

    Args:
        songs: How many there are.
        batch_size: For each process.
        seed: With the epoch, decides the order.
        accumulation: Batches a step of the optimizer.
        processes: How many.
        rank: Which one this is.
    """

    def __init__(
        self, songs: int, batch_size: int, seed: int, accumulation: int = 1, processes: int = 1, rank: int = 0
    ) -> None:
        if songs < 1:
            raise InputError("no training song has both audio and a target")
        self.songs, self.batch_size, self.seed = songs, batch_size, seed
        self.accumulation, self.processes, self.rank = accumulation, processes, rank
        self.epoch, self.first_step = 0, 0

    @property
    def steps(self) -> int:
        """Steps of the optimizer in a whole epoch."""
        return max(1, self.songs // (self.batch_size * self.processes * self.accumulation))

    def __len__(self) -> int:
        """Batches in a whole epoch."""
        return self.steps * self.accumulation

    def start(self, epoch: int, first_step: int = 0) -> None:
        """What the next iteration yields: this epoch, from this step on."""
        self.epoch, self.first_step = epoch, first_step

    def songs_at(self, step: int) -> np.ndarray:
        """The songs of one step of a run, counted from 0 over epochs: those of all processes and parts."""
        epoch, number = divmod(step, self.steps)
        together = self.batch_size * self.processes * self.accumulation
        return self._order(epoch)[number * together : (number + 1) * together]

    def _order(self, epoch: int) -> np.ndarray:
        order = generator(self.seed, epoch, "order").permutation(self.songs)
        return np.resize(order, max(len(order), self.batch_size * self.processes * len(self)))

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = self._order(self.epoch)
        together = self.batch_size * self.processes
        for batch in range(self.first_step * self.accumulation, len(self)):
            first = batch * together + self.rank * self.batch_size
            yield [(self.epoch, int(song)) for song in order[first : first + self.batch_size]]


class ResidentBatches:
    """The batches that a loader makes of a training set, cut on the device out of clips that all lie there.

    Nothing is read, copied or awaited in training but a few numbers a song, and the samples are the loader's, bit for
    bit. Every process holds the clips of the whole training split.

    Args:
        training_set: Without timbre effects, which need the processor.
        batches: Which songs go together, and when.
        device: Where the clips will lie.
        free: Bytes at hand on the device; None asks it.

    Raises:
        InputError: If the clips do not fit, or the training set has timbre effects.
    """

    # The rest of the memory is for training.
    SHARE = 0.6

    def __init__(
        self, training_set: TrainingSet, batches: EpochBatches, device: torch.device, free: int | None = None
    ) -> None:
        if training_set.timbre is not None:
            raise InputError("--bank resident: --timbre works on the processor; leave one of the two out")
        self.set, self.batches, self.device = training_set, batches, device
        bank = training_set.bank
        clips = np.unique(np.concatenate([clips[: training_set.width] for clips in training_set.songs.clips]))
        lengths = bank.lengths[clips]
        free = _free_memory(device) if free is None else free
        needed = 2 * int(lengths.sum())
        if needed > self.SHARE * free:
            raise InputError(
                f"--bank resident: the training clips of {bank.path} take {needed / 1e9:.3g} GB, and of "
                f"{free / 1e9:.3g} GB that are free on {device} they may take {self.SHARE:.0%}; leave --bank out"
            )
        self.samples = torch.empty(int(lengths.sum()), dtype=torch.int16, device=device)
        self.first = np.zeros(len(bank), dtype=np.int64)
        self.first[clips] = np.cumsum(lengths) - lengths
        for position, length in zip(clips.tolist(), lengths.tolist(), strict=True):
            first = int(self.first[position])
            self.samples[first : first + length] = torch.from_numpy(bank.read(position))

    def __len__(self) -> int:
        """Batches in a whole epoch."""
        return len(self.batches)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Batches with the keys, shapes and values of `TrainingSet`'s, on the device."""
        for items in self.batches:
            seed = self.set.seed
            batch = self._batch(
                [(song, draw_numbers(seed, epoch, self.set.songs.song_ids[song])) for epoch, song in items]
            )
            if self.set.mixup:
                partners = [
                    (int(scaled_draw(draws[Draw.PARTNER], len(self.set))), self.set.partner_draws(epoch, song))
                    for (epoch, song), draws in zip(items, batch["draws"].cpu().numpy(), strict=True)
                ]
                batch |= {f"partner_{key}": value for key, value in self._batch(partners).items()}
            if self.set.second:
                again = [(song, self.set.second_draws(epoch, song)) for epoch, song in items]
                batch |= {f"second_{key}": value for key, value in self._batch(again).items()}
            yield batch

    def _batch(self, items: list[tuple[int, np.ndarray]]) -> dict[str, Tensor]:
        shape = (len(items), self.set.width)
        first, known, count = np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.zeros(len(items), np.int64)
        for row, (song, draws) in enumerate(items):
            clips, starts = self.set.cuts(song, draws)
            count[row] = len(clips)
            first[row, : len(clips)] = self.first[clips] + starts
            known[row, : len(clips)] = self.set.bank.lengths[clips] - starts
        numbers = {
            "first": first,
            "known": known,
            "count": count,
            "draws": np.stack([draws for _, draws in items]),
            "targets": self.set.values[[song for song, _ in items]],
        }
        batch = {name: self._moved(values) for name, values in numbers.items()}
        place = torch.arange(self.set.samples, device=self.device)
        inside = place < batch.pop("known")[..., None]
        # A cut that reaches past its clip reads the first sample of all instead, and is silent there.
        chosen = torch.where(inside, batch.pop("first")[..., None] + place, 0)
        return {"previews": self.samples[chosen].masked_fill_(~inside, 0), **batch}

    def _moved(self, values: np.ndarray) -> Tensor:
        numbers = torch.from_numpy(values)
        return numbers.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else numbers


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    import psutil

    return psutil.virtual_memory().available


class ClipSet(Dataset):
    """Clips for evaluation: every preview of every song, in evenly spaced windows; nothing random.

    Args:
        songs: A split.
        bank: Its audio.
        samples: Length of a window at 16 kHz.
        windows: Windows a preview at most; a preview shorter than that many windows has fewer.
        previews: Previews a song at most.
    """

    def __init__(self, songs: Songs, bank: AudioBank, samples: int, windows: int, previews: int = 8) -> None:
        self.bank, self.samples = bank, samples
        lengths = bank.lengths
        self.items: list[tuple[int, int, int]] = []
        for song, clips in enumerate(songs.clips):
            for position in clips[:previews]:
                room = max(0, int(lengths[position]) - samples)
                count = min(windows, 1 + room // (samples // 2))
                starts = [room // 2] if count == 1 else np.linspace(0, room, count).astype(int)
                self.items += [(song, int(position), int(start)) for start in starts]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """→ waveform (samples,) int16 and the song's position in its split."""
        song, position, start = self.items[index]
        waveform = np.array(self.bank.read(position, start, self.samples))
        return {"waveform": torch.from_numpy(waveform), "song": torch.tensor(song)}
