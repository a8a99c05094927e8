"""Batches from a dataset folder: who is in them, in which order, and that workers and processes change nothing."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from mp3model.audio.augment import Draw, TimbreAugment, draw_numbers
from mp3model.audio.bank import AudioBank
from mp3model.audio.frontend import LogMel
from mp3model.files import InputError
from mp3model.tables.curves import popularity_targets
from mp3model.tables.folder import read_dataset
from mp3model.training.batches import (
    ClipSet,
    EpochBatches,
    Songs,
    TrainingSet,
    mel_statistics,
    songs_of_split,
    target_statistics,
)

REGIONS, NAMES = ["US", "GB"], ["total", "debut_rank"]


@pytest.fixture(scope="module")
def songs(small_dataset) -> Songs:
    dataset = read_dataset(small_dataset)
    targets = popularity_targets(dataset)
    return songs_of_split(targets, dataset.tracks, AudioBank(small_dataset), ["train"], REGIONS, NAMES)


def training_set(songs: Songs, folder, **options) -> TrainingSet:
    values = songs.standardised(target_statistics(songs))
    return TrainingSet(songs, AudioBank(folder), values, samples=16_000, seed=3, **options)


def epoch_of(dataset: TrainingSet, workers: int, epoch: int = 1, batch_size: int = 4, **sampler) -> list[dict]:
    batches = EpochBatches(len(dataset), batch_size, seed=3, **sampler)
    batches.start(epoch)
    return list(DataLoader(dataset, batch_sampler=batches, num_workers=workers))


def test_a_split_has_its_songs_with_their_targets_and_no_others(small_dataset, songs):
    dataset = read_dataset(small_dataset)
    rows = popularity_targets(dataset)
    rows = rows[rows["split"] == "train"]
    assert songs.song_ids == sorted(rows["song_id"].unique())
    one = rows[(rows["song_id"] == songs.song_ids[0]) & (rows["region"] == "GB")].iloc[0]
    assert songs.targets[0, 1, 0] == pytest.approx(np.log10(1 + one["total"]))
    assert songs.targets[0, 1, 1] == one["debut_rank"]


def test_a_missing_target_is_nan_and_stays_out_of_the_frame(small_dataset):
    dataset = read_dataset(small_dataset)
    everyone = songs_of_split(
        popularity_targets(dataset),
        dataset.tracks,
        AudioBank(small_dataset),
        ["train", "validation", "test"],
        REGIONS,
        NAMES,
    )
    place = everyone.song_ids.index("song-07")
    assert np.isnan(everyone.targets[place, 1]).all()
    assert np.isnan(everyone.targets[everyone.song_ids.index("song-05"), :, 1]).all()
    frame = everyone.frame("total", np.zeros((48, 2)))
    assert len(frame) == 95
    assert not ((frame["song_id"] == "song-07") & (frame["region"] == "GB")).any()


def test_versions_of_a_song_lend_it_their_previews(small_dataset):
    dataset = read_dataset(small_dataset)
    tracks = dataset.tracks.assign(song_id=dataset.tracks["song_id"].replace({"song-01": "song-00"}))
    rows = popularity_targets(dataset)
    songs = songs_of_split(
        rows[rows["song_id"] != "song-01"], tracks, AudioBank(small_dataset), ["train"], REGIONS, NAMES
    )
    if "song-00" in songs.song_ids:
        assert len(songs.clips[songs.song_ids.index("song-00")]) == 1 + 2
    else:
        assert "song-01" not in songs.song_ids


def test_statistics_are_those_of_the_songs_given_and_standardise_them(songs):
    statistics = target_statistics(songs)
    values = songs.targets[:, 0, 0]
    assert statistics["total"]["US"] == [pytest.approx(np.nanmean(values)), pytest.approx(np.nanstd(values))]
    standardised = songs.standardised(statistics)
    assert np.allclose(np.nanmean(standardised, axis=0), 0, atol=1e-5)
    assert np.allclose(np.nanstd(standardised, axis=0), 1, atol=1e-5)


def test_the_normalisation_is_that_of_the_clips_given(songs, small_dataset):
    mean, std = mel_statistics(songs, AudioBank(small_dataset), clips=len(songs))
    clips = [AudioBank(small_dataset).read(int(previews[0])) for previews in songs.clips]
    mel = LogMel(mean, std)(torch.from_numpy(np.stack(clips))).flatten(0, 1)
    assert mel.mean(0).abs().max() < 1e-3
    moving = np.array(std) > 0.5
    assert moving.sum() > 100
    assert torch.allclose(mel.std(0)[torch.from_numpy(moving)], torch.tensor(0.5), atol=1e-3)


def test_a_region_with_one_song_is_refused_by_name(songs):
    alone = songs.taken(np.array([0]))
    with pytest.raises(InputError, match="region US has 1 training song"):
        target_statistics(alone)


@pytest.mark.parametrize("options", [{}, {"mixup": True}, {"second": True}, {"timbre": TimbreAugment(["low_pass"])}])
def test_batches_are_the_same_for_no_and_two_workers(songs, small_dataset, options):
    alone, helped = (epoch_of(training_set(songs, small_dataset, **options), workers) for workers in (0, 2))
    assert len(alone) == len(helped) > 2
    for first, second in zip(alone, helped, strict=True):
        assert first.keys() == second.keys()
        for key in first:
            torch.testing.assert_close(first[key], second[key], rtol=0, atol=0, equal_nan=True)


def test_two_processes_and_two_parts_see_the_songs_of_one_process(songs, small_dataset):
    dataset = training_set(songs, small_dataset)
    whole = epoch_of(dataset, 0, batch_size=8)
    shares = [epoch_of(dataset, 0, batch_size=4, processes=2, rank=rank) for rank in (0, 1)]
    parts = epoch_of(dataset, 0, batch_size=4, accumulation=2)
    assert len(whole) == len(shares[0]) == len(shares[1]) == len(parts) // 2
    for step, batch in enumerate(whole):
        for first, second in (
            (shares[0][step], shares[1][step]),
            (parts[2 * step], parts[2 * step + 1]),
        ):
            for key in ("previews", "draws", "count"):
                assert torch.equal(batch[key], torch.cat([first[key], second[key]]))


def test_an_item_is_what_its_numbers_say(songs, small_dataset):
    dataset, bank = training_set(songs, small_dataset), AudioBank(small_dataset)
    item = dataset[(5, 2)]
    draws = draw_numbers(3, 5, songs.song_ids[2])
    assert np.array_equal(item["draws"].numpy(), draws)
    assert item["count"] == len(songs.clips[2])
    start = int(draws[Draw.CROP] * (40_000 - 16_000 + 1))
    for row, position in enumerate(songs.clips[2]):
        assert np.array_equal(item["previews"][row].numpy(), bank.read(int(position))[start : start + 16_000])
    assert not item["previews"][len(songs.clips[2]) :].any()


def test_a_partner_comes_from_the_whole_split_and_by_the_same_numbers(songs, small_dataset):
    dataset = training_set(songs, small_dataset, mixup=True)
    partners = {tuple(dataset[(epoch, 0)]["partner_targets"].flatten().tolist()) for epoch in range(30)}
    assert len(partners) > 10
    again = dataset[(4, 0)]
    assert torch.equal(again["partner_previews"], dataset[(4, 0)]["partner_previews"])


def test_a_second_clip_is_of_the_same_song_at_another_place_and_leaves_the_first_as_it_was(songs, small_dataset):
    plain, dataset = training_set(songs, small_dataset), training_set(songs, small_dataset, second=True)
    for epoch in range(3):
        item, alone = dataset[(epoch, 2)], plain[(epoch, 2)]
        assert all(torch.equal(item[name], alone[name]) for name in alone)
        assert item["second_count"] == item["count"]
        assert torch.equal(item["second_targets"].nan_to_num(), item["targets"].nan_to_num())
        draws = draw_numbers(3, epoch, f"second of {songs.song_ids[2]}")
        assert np.array_equal(item["second_draws"].numpy(), draws)
        start = int(draws[Draw.CROP] * (40_000 - 16_000 + 1))
        whole = AudioBank(small_dataset).read(int(songs.clips[2][0]))
        assert np.array_equal(item["second_previews"][0].numpy(), whole[start : start + 16_000])
        assert not torch.equal(item["second_previews"][0], item["previews"][0])


@given(
    songs=st.integers(1, 60),
    batch_size=st.integers(1, 9),
    processes=st.integers(1, 3),
    accumulation=st.integers(1, 3),
    epoch=st.integers(0, 5),
)
def test_an_epoch_shows_no_song_twice_and_every_process_the_same_number_of_batches(
    songs, batch_size, processes, accumulation, epoch
):
    seen, lengths = [], set()
    for rank in range(processes):
        batches = EpochBatches(songs, batch_size, 0, accumulation, processes, rank)
        batches.start(epoch)
        listed = list(batches)
        lengths.add((len(listed), len(batches), batches.steps * accumulation))
        seen += [song for batch in listed for _, song in batch]
        assert all(len(batch) == batch_size for batch in listed)
    assert len(lengths) == 1
    together = batch_size * processes * accumulation
    if songs >= together:
        assert len(seen) == len(set(seen)) == songs // together * together
    else:
        assert len(seen) == together
        assert set(seen) == set(range(songs))


def test_an_epoch_that_starts_in_the_middle_goes_on_as_the_whole_one_would():
    whole, rest = EpochBatches(40, 4, 0, 2), EpochBatches(40, 4, 0, 2)
    whole.start(7)
    rest.start(7, first_step=3)
    assert list(whole)[6:] == list(rest)


def test_epochs_differ_in_order_and_numbers(songs, small_dataset):
    dataset = training_set(songs, small_dataset)
    first, second = epoch_of(dataset, 0, epoch=0), epoch_of(dataset, 0, epoch=1)
    assert not torch.equal(first[0]["draws"], second[0]["draws"])
    assert not torch.equal(dataset[(0, 0)]["draws"], dataset[(1, 0)]["draws"])


def test_no_training_song_is_an_error():
    with pytest.raises(InputError, match="no training song"):
        EpochBatches(0, 4, 0)


def test_evaluation_covers_every_preview_in_even_windows(songs, small_dataset):
    clips = ClipSet(songs, AudioBank(small_dataset), samples=16_000, windows=3)
    starts = {}
    for song, position, start in clips.items:
        starts.setdefault((song, position), []).append(start)
    assert set(starts) == {(song, int(p)) for song, previews in enumerate(songs.clips) for p in previews}
    assert all(found == [0, 12_000, 24_000] for found in starts.values())
    assert ClipSet(songs, AudioBank(small_dataset), samples=40_000, windows=3).items[0][2] == 0


def test_a_clip_longer_than_its_preview_is_padded(songs, small_dataset):
    clip = ClipSet(songs, AudioBank(small_dataset), samples=50_000, windows=2)[0]["waveform"]
    assert clip.shape == (50_000,)
    assert not clip[40_000:].any()
    assert clip[:40_000].any()


def test_a_training_set_travels_to_a_worker_without_its_audio(songs, small_dataset):
    dataset = training_set(songs, small_dataset)
    dataset[(0, 0)]
    assert len(pickle.dumps(dataset)) < 200_000
