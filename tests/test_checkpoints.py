"""What is damaged is passed over by name, what a full disk or a wrong place refuses is said, and the last one stays."""

from __future__ import annotations

import json
import math
import os
import random
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn

from data_prep.build_bank import build_bank, find_clips
from mp3model import files
from mp3model.audio.bank import AudioBank, write_shard
from mp3model.files import InputError, folder_written_whole, write_json, written_whole
from mp3model.tables.folder import read_dataset, write_dataset
from mp3model.training import loop


def trained(seed: int, width: int = 8) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A model after one step, and its optimizer."""
    torch.manual_seed(seed)
    model = nn.Linear(width, width)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(2, width)).square().sum().backward()
    optimizer.step()
    return model, optimizer


def save(folder: Path, step: int, width: int = 8) -> Path:
    model, optimizer = trained(step, width)
    loop.save_checkpoint(folder, step, {"model": model.state_dict()}, optimizer, {"epoch": step, "best": 0.5 + step})
    return folder / f"checkpoint-{step}"


def state_of(path: Path) -> tuple[dict[str, torch.Tensor], dict]:
    tensors, state = loop.load_checkpoint(path, trained(99)[1], torch.device("cpu"))
    return tensors["model"], state


@contextmanager
def full_after(size: int) -> Iterator[None]:
    """No file may grow beyond so many bytes, as on a disk that is full by then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def listing(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def flipped(path: Path, place: int = -3) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: flipped(path / "model.safetensors"),
        lambda path: flipped(path / "optimizer.safetensors"),
        lambda path: flipped(path / "state.json", (path / "state.json").read_text().index("9.5")),
        lambda path: (path / "optimizer.safetensors").unlink(),
        lambda path: (path / "state.json").unlink(),
        lambda path: (path / "state.json").write_text("[]"),
        lambda path: os.truncate(path / "model.safetensors", 40),
        lambda path: os.truncate(path / "state.json", 40),
        lambda path: os.truncate(path / "state.json", 0),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(tmp_path, capsys, damage: Callable[[Path], None]):
    save(tmp_path, 8)
    newest = save(tmp_path, 9)
    assert loop.newest_checkpoint(tmp_path) == newest
    damage(newest)
    assert loop.newest_checkpoint(tmp_path) == tmp_path / "checkpoint-8"
    assert capsys.readouterr().out == f"{newest}: damaged, passed over\n"


def test_whichever_byte_of_a_manifest_is_changed_it_is_refused_or_says_the_same(tmp_path):
    older, newest = save(tmp_path, 8), save(tmp_path, 9)
    whole, expected = (newest / "state.json").read_bytes(), state_of(newest)[1]
    chance = random.Random(0)
    taken = {older: 0, newest: 0}
    for place in range(len(whole)):
        content = bytearray(whole)
        content[place] ^= 1 << chance.randrange(7)
        (newest / "state.json").write_bytes(content)
        found = loop.newest_checkpoint(tmp_path)
        taken[found] += 1
        if found == newest:
            state = state_of(newest)[1]
            assert {name: state[name] for name in expected} == expected
    # A space may become another, and the name of the digest may be lost.
    assert taken[newest] < 60 < taken[older]


def test_a_number_that_is_not_finite_comes_back_as_infinity(tmp_path):
    model, optimizer = trained(0)
    loop.save_checkpoint(tmp_path, 3, {"model": model.state_dict()}, optimizer, {"best": math.inf, "epoch": 1})
    assert state_of(tmp_path / "checkpoint-3")[1]["best"] == math.inf


def test_a_processor_with_a_number_can_load_a_checkpoint(tmp_path):
    # What Accelerate calls the device of each of several processes on a CPU.
    path = save(tmp_path, 3)
    tensors, _ = loop.load_checkpoint(path, trained(99)[1], torch.device("cpu", 0))
    assert torch.equal(tensors["model"]["weight"], trained(3)[0].state_dict()["weight"])


def test_files_of_other_names_are_no_checkpoints_and_stay(tmp_path):
    for name in ("checkpoint-final", "my-checkpoint-1"):
        (tmp_path / name).mkdir()
    (tmp_path / ".checkpoint-7.part").mkdir()
    for step in (1, 2, 3):
        save(tmp_path, step)
    assert {path.name for path in tmp_path.iterdir()} == {
        "checkpoint-final",
        "my-checkpoint-1",
        "checkpoint-2",
        "checkpoint-3",
    }
    assert loop.newest_checkpoint(tmp_path) == tmp_path / "checkpoint-3"


@pytest.mark.parametrize("step", [5, 6], ids=["the same step", "the next step"])
@pytest.mark.parametrize("size", [100, 5000, 100_000])
def test_a_full_disk_is_said_in_one_line_and_the_last_checkpoint_stays(tmp_path, step, size):
    last = save(tmp_path, 5, width=200)
    before = listing(tmp_path)
    with full_after(size), pytest.raises(InputError) as error:
        save(tmp_path, step, width=200)
    assert str(error.value).startswith(f"{tmp_path}/checkpoint-{step}")
    assert "cannot be written (File too large); make room there" in str(error.value)
    assert "\n" not in str(error.value)
    assert listing(tmp_path) == before
    assert loop.newest_checkpoint(tmp_path) == last


def test_a_run_folder_below_a_file_is_refused_in_one_line(tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(InputError, match=r"taken/run/checkpoint-1: cannot be written \(.*\); name a place that you"):
        save(tmp_path / "taken" / "run", 1)
    with pytest.raises(InputError, match=r"taken/run/report\.json: cannot be written"):
        write_json(tmp_path / "taken" / "run" / "report.json", {})


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_keeps_its_checkpoint(tmp_path):
    last = save(tmp_path, 5)
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(InputError, match=r"checkpoint-6: cannot be written \(Permission denied\)"):
            save(tmp_path, 6)
    finally:
        tmp_path.chmod(0o700)
    assert loop.newest_checkpoint(tmp_path) == last


def test_an_error_in_between_leaves_file_and_folder_as_they_were(tmp_path):
    write_json(tmp_path / "a.json", 1)
    with folder_written_whole(tmp_path / "model") as part:
        (part / "weights").write_text("old")
    before = listing(tmp_path)
    for writing, name in ((written_whole, "a.json"), (folder_written_whole, "model")):
        with pytest.raises(KeyError), writing(tmp_path / name) as path:
            raise KeyError((path / "weights" if path.is_dir() else path).write_text("half"))
    assert listing(tmp_path) == before


@pytest.mark.parametrize("swaps", [True, False])
def test_a_folder_is_replaced_with_and_without_a_file_system_that_swaps(tmp_path, monkeypatch, swaps):
    if not swaps:
        monkeypatch.setattr(files, "exchanged", lambda one, other: False)
    for text in ("old", "new"):
        with folder_written_whole(tmp_path / "model") as part:
            (part / text).write_text(text)
    assert listing(tmp_path) == {"model/new": b"new"}


def test_a_kill_between_two_renames_loses_nothing(tmp_path):
    # Where folders cannot be swapped: the old one has been moved aside, the new one is not there yet.
    (tmp_path / ".model.before").mkdir()
    (tmp_path / ".model.before" / "weights").write_text("old")
    (tmp_path / ".model.part").mkdir()
    with pytest.raises(KeyError), folder_written_whole(tmp_path / "model"):
        raise KeyError
    assert listing(tmp_path) == {"model/weights": b"old"}


def test_lines_of_a_run_without_a_checkpoint_are_dropped_when_it_begins_again(tmp_path):
    log = loop.MetricsLog(tmp_path / "metrics.jsonl", Accelerator(cpu=True))
    log.write(1, {"loss": 1.0})
    log.keep_until(0)
    log.write(1, {"loss": 2.0})
    assert [json.loads(line)["loss"] for line in log.path.read_text().splitlines()] == [2.0]
    with full_after(10), pytest.raises(InputError, match=r"metrics\.jsonl: cannot be written \(File too large\)"):
        log.write(2, {"loss": 2.0})


def test_a_full_disk_leaves_the_tables_that_were_there(small_dataset, tmp_path):
    dataset = read_dataset(small_dataset)
    given = {"tracks": dataset.tracks, "targets": dataset.targets, "info": {"frequency": "W", "sources": ["made"]}}
    folder = tmp_path / "data"
    write_dataset(folder, **given)
    before = listing(tmp_path)
    # The tracks, which are written before, are others too: half a rewrite would be seen.
    wider = dataset.targets.assign(
        **{f"y_{n}": np.random.default_rng(n).random(len(dataset.targets)) for n in range(30)}
    )
    other = given | {"tracks": dataset.tracks.assign(title="other"), "targets": wider}
    with (
        full_after(20_000),
        pytest.raises(InputError, match=rf"^{folder}/targets\.parquet: cannot be written \(File t"),
    ):
        write_dataset(folder, **other)
    assert listing(tmp_path) == before
    read_dataset(folder)


def test_a_full_disk_leaves_the_bank_that_was_there(tmp_path):
    import soundfile

    sounds, bank = tmp_path / "sounds", tmp_path / "bank"
    sounds.mkdir()
    for number in range(3):
        soundfile.write(sounds / f"{number}.wav", 0.1 * np.sin(0.1 * (number + 1) * np.arange(4000)), 16_000)
    build_bank(sounds, find_clips(sounds), bank, workers=1)
    before = {name: content for name, content in listing(bank).items() if not name.startswith(".build")}
    soundfile.write(sounds / "1.wav", 0.1 * np.sin(0.5 * np.arange(5000)), 16_000)
    with full_after(10_000), pytest.raises(InputError, match=r"audio-00000\.npy: cannot be written \(File too large\)"):
        build_bank(sounds, find_clips(sounds), bank, workers=1)
    assert {name: content for name, content in listing(bank).items() if not name.startswith(".build")} == before
    AudioBank(bank).verify()
    build_bank(sounds, find_clips(sounds), bank, workers=1)
    found = AudioBank(bank)
    found.verify()
    assert found.lengths.tolist() == [4000, 5000, 4000]


def test_an_error_of_reading_is_not_taken_for_one_of_writing(tmp_path):
    def clips() -> Iterator[tuple[str, int, np.ndarray]]:
        yield "a", 0, np.zeros(3, np.int16)
        (tmp_path / "no such file").read_bytes()

    with pytest.raises(FileNotFoundError):
        write_shard(tmp_path, 0, clips())
