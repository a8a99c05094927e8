"""Audio bank: what is written comes back, in any worker, and damage is named."""

from __future__ import annotations

import hashlib
import os
import pickle
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mp3model.audio.bank import AudioBank, shard_layout, to_int16, write_index, write_shard
from mp3model.files import InputError


def ramp(length: int, start: int = 0) -> np.ndarray:
    return (np.arange(length) + start).astype(np.int16)


@pytest.fixture
def bank(tmp_path: Path) -> AudioBank:
    first = write_shard(tmp_path, 0, [("b", 0, ramp(50)), ("a", 1, ramp(30, 100))])
    second = write_shard(tmp_path, 1, iter([("a", 0, ramp(70, 200))]))
    write_index(tmp_path, pd.concat([first, second]))
    return AudioBank(tmp_path)


def test_the_index_says_where_each_clip_lies(bank: AudioBank):
    columns = ["track_id", "preview", "shard", "offset", "samples"]
    assert bank.index[columns].values.tolist() == [["a", 0, 1, 0, 70], ["a", 1, 0, 50, 30], ["b", 0, 0, 0, 50]]
    assert bank.index["sha256"][2] == hashlib.sha256(np.arange(50).astype("<i2").tobytes()).hexdigest()


def test_a_shard_is_one_flat_array_that_numpy_reads(bank: AudioBank):
    shard = np.load(bank.path / "audio-00000.npy")
    assert shard.dtype == np.dtype("<i2")
    np.testing.assert_array_equal(shard, np.concatenate([ramp(50), ramp(30, 100)]))


def test_a_stretch_past_the_end_is_filled_with_zeros_not_with_the_next_clip(bank: AudioBank):
    np.testing.assert_array_equal(bank.read(2, start=48, samples=4), [48, 49, 0, 0])
    np.testing.assert_array_equal(bank.read(2, start=60, samples=3), [0, 0, 0])
    np.testing.assert_array_equal(bank.read(2, start=47), [47, 48, 49])
    assert bank.read(2, start=60).shape == (0,)
    assert bank.read(2, samples=0).shape == (0,)


def test_what_is_read_may_be_changed_without_touching_the_bank(bank: AudioBank):
    bank.read(0)[:] = -1
    np.testing.assert_array_equal(bank.read(0), ramp(70, 200))


def test_a_row_that_is_not_there_and_a_negative_start_are_errors(bank: AudioBank):
    with pytest.raises(IndexError, match="row 3"):
        bank.read(3)
    with pytest.raises(IndexError, match="row -1"):
        bank.read(-1)
    with pytest.raises(ValueError, match="negative"):
        bank.read(0, start=-1)


def test_previews_of_a_track_come_in_order_and_an_unknown_track_has_none(bank: AudioBank):
    assert bank.previews_of("a").tolist() == [0, 1]
    assert bank.previews_of("b").tolist() == [2]
    assert bank.previews_of("c").tolist() == []


@settings(max_examples=40)
@given(
    st.lists(hnp.arrays(np.int16, st.integers(1, 300), elements=st.integers(-32768, 32767)), min_size=1, max_size=8),
    st.integers(0, 320),
    st.integers(0, 320),
)
def test_whatever_is_written_is_read_back(clips: list[np.ndarray], start: int, samples: int):
    with tempfile.TemporaryDirectory() as folder:
        half = len(clips) // 2
        numbered = [(f"t{i % 3}", i, clip) for i, clip in enumerate(clips)]
        rows = [write_shard(folder, shard, part) for shard, part in ((0, numbered[:half]), (1, numbered[half:]))]
        write_index(folder, pd.concat(rows))
        bank = AudioBank(folder)
        bank.verify()
        for position, row in bank.index.iterrows():
            clip = clips[row["preview"]]
            np.testing.assert_array_equal(bank.read(position), clip)
            padded = np.concatenate([clip, np.zeros(700, np.int16)])[start : start + samples]
            np.testing.assert_array_equal(bank.read(position, start, samples), padded)


def test_a_pickled_bank_carries_its_path_and_no_audio(tmp_path: Path):
    rows = write_shard(tmp_path, 0, [(f"track-{i}", 0, ramp(16_000)) for i in range(50)])
    write_index(tmp_path, rows)
    bank = AudioBank(tmp_path)
    bank.read(0)
    pickled = pickle.dumps(bank)
    assert len(pickled) < 500
    np.testing.assert_array_equal(pickle.loads(pickled).read(7), ramp(16_000))


def test_a_bank_opens_without_its_shards_until_one_is_read(bank: AudioBank):
    (bank.path / "audio-00001.npy").unlink()
    fresh = AudioBank(bank.path)
    np.testing.assert_array_equal(fresh.read(2), ramp(50))
    with pytest.raises(InputError, match=r"audio-00001\.npy: no such file"):
        fresh.read(0)


def test_verify_names_the_clip_whose_audio_has_changed(bank: AudioBank):
    path = bank.path / "audio-00000.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"audio-00000\.npy: preview 1 of track 'a' does not match"):
        AudioBank(bank.path).verify()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-20]), "damaged or cut short"),
        (lambda path: path.write_bytes(b""), "damaged or cut short"),
        (lambda path: path.write_bytes(b"not an array"), "damaged or cut short"),
        (lambda path: np.save(path, np.zeros(10, np.int16)), "has 10 samples, previews.parquet needs 80"),
        (lambda path: np.save(path, np.zeros(100, np.float32)), "holds 1-dimensional float32"),
        (lambda path: np.save(path, np.zeros((100, 2), np.int16)), "holds 2-dimensional int16"),
        (lambda path: path.unlink(), "no such file"),
    ],
)
def test_a_damaged_shard_is_named_with_what_is_wrong(bank: AudioBank, damage, reason: str):
    damage(bank.path / "audio-00000.npy")
    with pytest.raises(InputError, match=r"audio-00000\.npy: .*" + reason) as caught:
        AudioBank(bank.path).read(1)
    assert "\n" not in str(caught.value)


def test_a_shard_that_is_cut_or_taken_away_while_it_is_read_is_named(bank: AudioBank):
    bank.read(1)
    shard = bank.path / "audio-00000.npy"
    shard.write_bytes(shard.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"audio-00000\.npy: was cut short while it was in use"):
        bank.read(1)
    shard.unlink()
    with pytest.raises(InputError, match=r"audio-00000\.npy: cannot be read"):
        bank.read(1)


def test_a_bank_of_more_shards_than_files_may_be_open_is_read_and_leaves_none_open(tmp_path: Path):
    resource = pytest.importorskip("resource")
    rows = [write_shard(tmp_path, number, [(f"t{number:03d}", 0, ramp(50 + number))]) for number in range(120)]
    write_index(tmp_path, pd.concat(rows))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(name) for name in os.listdir("/dev/fd")) + 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 20, hard))
    try:
        opened = AudioBank(tmp_path)
        for position in range(len(opened)):
            np.testing.assert_array_equal(opened.read(position), ramp(50 + position))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_missing_or_damaged_index_is_named(bank: AudioBank, tmp_path: Path):
    with pytest.raises(InputError, match="no such file; make a bank with"):
        AudioBank(tmp_path / "nowhere")
    index = tmp_path / "previews.parquet"
    bank.index.drop(columns="offset").to_parquet(index)
    with pytest.raises(InputError, match="no column 'offset'"):
        AudioBank(tmp_path)
    bank.index.assign(offset=-1).to_parquet(index)
    with pytest.raises(InputError, match="column 'offset' must hold whole numbers"):
        AudioBank(tmp_path)
    index.write_bytes(index.read_bytes()[:100])
    with pytest.raises(InputError, match=r"previews\.parquet: not a readable parquet file"):
        AudioBank(tmp_path)


def test_an_array_that_numpy_wrote_with_another_header_is_read(bank: AudioBank):
    shard = bank.path / "audio-00000.npy"
    clips = [bank.read(position) for position in range(len(bank))]
    samples = np.load(shard)
    with open(shard, "wb") as stream:
        np.lib.format.write_array(stream, samples, version=(2, 0))
    again = AudioBank(bank.path)
    for position, clip in enumerate(clips):
        np.testing.assert_array_equal(again.read(position), clip)


@pytest.mark.parametrize("length", [0, 1, 999, 123_456])
def test_a_shards_length_is_told_from_its_header_alone(tmp_path: Path, length: int):
    write_shard(tmp_path, 0, [("a", 0, ramp(length))] if length else [])
    np.save(tmp_path / "numpy.npy", ramp(length))
    assert shard_layout(tmp_path / "audio-00000.npy") == shard_layout(tmp_path / "numpy.npy") == (128, length)


def test_a_header_that_needs_a_closer_look_is_not_guessed_at(tmp_path: Path):
    odd = {"swapped": ramp(9).astype(">i2"), "wide": ramp(9).astype("<i4"), "table": ramp(9).reshape(3, 3)}
    for name, values in odd.items():
        np.save(tmp_path / f"{name}.npy", values)
        assert shard_layout(tmp_path / f"{name}.npy") is None, name
    np.save(tmp_path / "whole.npy", ramp(9))
    whole = (tmp_path / "whole.npy").read_bytes()
    for damaged in (b"", whole[:60], whole[:-1], b"\x92" + whole[1:]):
        (tmp_path / "damaged.npy").write_bytes(damaged)
        assert shard_layout(tmp_path / "damaged.npy") is None


def test_a_shard_whose_clips_fail_midway_is_not_written(tmp_path: Path):
    def clips():
        yield "a", 0, ramp(10)
        raise RuntimeError("the disk of the source went away")

    with pytest.raises(RuntimeError, match="went away"):
        write_shard(tmp_path, 0, clips())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("clip", [np.zeros(5, np.float32), np.zeros((5, 2), np.int16), np.zeros(0, np.int16)])
def test_only_flat_int16_clips_are_taken(tmp_path: Path, clip: np.ndarray):
    with pytest.raises(ValueError, match="clip 0 of track 'a': expected int16 samples"):
        write_shard(tmp_path, 0, [("a", 0, clip)])


def test_two_clips_under_one_number_are_refused(tmp_path: Path):
    rows = write_shard(tmp_path, 0, [("a", 0, ramp(5)), ("a", 0, ramp(6))])
    with pytest.raises(InputError, match="preview 0 of track 'a' appears twice"):
        write_index(tmp_path, rows)
    assert not (tmp_path / "previews.parquet").exists()


def test_every_second_sample_of_a_strided_clip_is_kept(tmp_path: Path):
    write_index(tmp_path, write_shard(tmp_path, 0, [("a", 0, ramp(10)[::2])]))
    np.testing.assert_array_equal(AudioBank(tmp_path).read(0), [0, 2, 4, 6, 8])


def test_to_int16_rounds_and_clips():
    waveform = np.array([0.0, 1.0, -1.0, 2.0, -2.0, 1.4 / 32768, 1.6 / 32768, -1.6 / 32768])
    assert to_int16(waveform).tolist() == [0, 32767, -32768, 32767, -32768, 1, 2, -2]
    assert to_int16(waveform).dtype == np.int16


def test_every_int16_value_survives_the_way_through_float():
    values = np.arange(-32768, 32768).astype(np.int16)
    np.testing.assert_array_equal(to_int16(values.astype(np.float32) / 32768), values)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_to_int16_refuses_what_int16_cannot_hold(value: float):
    with pytest.raises(InputError, match="NaN or infinite"):
        to_int16(np.array([0.0, value]))
