"""Steps without a finite loss or gradient: skipped and counted alike in every process, and so many in a row at most."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from mp3model.files import InputError
from mp3model.training import loop
from mp3model.training.batches import EpochBatches
from mp3model.training.guards import StepGuard, refuse_without_validation

RECIPE = Path(__file__).resolve().parent.parent / "recipes" / "mp2.py"
NAN = float("nan")


class Training:
    """A line fitted by AdamW, whose inputs tell which steps are good; `fused` decides on the device, as on a GPU."""

    def __init__(self, folder: Path, fused: bool = False, limit: int = 3) -> None:
        torch.manual_seed(0)
        self.accelerator = Accelerator(cpu=True)
        self.model = nn.Linear(3, 1)
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.1, weight_decay=0.1, fused=fused or None)
        self.optimizer = self.accelerator.prepare(optimizer)
        self.guard = StepGuard(self.accelerator, self.optimizer, limit, lambda step: [f"song {step}"], folder)

    def step(self, number: int, factor: float = 1.0, loss_too: float = 0.0) -> float:
        inputs = torch.randn(4, 3, generator=torch.Generator().manual_seed(number))
        loss = (self.model(inputs) * factor).square().mean()
        self.accelerator.backward(loss)
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), 1.0)
        told = self.guard.step(number, loss.detach() + loss_too, norm)
        self.optimizer.zero_grad()
        return float(told)

    def everything(self) -> list[torch.Tensor]:
        moments = self.optimizer.state_dict()["state"].values()
        return [
            *(value.clone() for value in self.model.state_dict().values()),
            *(value.clone() for entry in moments for value in entry.values()),
        ]


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("bad", [{"factor": NAN}, {"factor": float("inf")}, {"factor": 1e25}, {"loss_too": NAN}])
def test_a_step_that_is_not_finite_moves_neither_weights_nor_moments(tmp_path, fused, bad):
    training = Training(tmp_path, fused)
    training.step(0)
    before = training.everything()
    told = training.step(1, **bad)
    assert told != told
    assert all(torch.equal(one, other) for one, other in zip(before, training.everything(), strict=True))
    assert training.guard.state() == {"skipped_steps": 1, "skipped_in_a_row": 1}
    # The next good step is that of a run which never saw the bad batch.
    other = Training(tmp_path, fused)
    other.step(0)
    assert training.step(2) == other.step(2)
    assert all(torch.equal(one, two) for one, two in zip(training.everything(), other.everything(), strict=True))
    assert training.guard.state() == {"skipped_steps": 1, "skipped_in_a_row": 0}


@pytest.mark.parametrize("fused", [False, True])
def test_where_all_is_finite_the_guard_changes_no_bit(tmp_path, fused):
    guarded, plain = Training(tmp_path, fused), Training(tmp_path, fused)
    plain.guard.step = lambda step, loss, norm: (plain.optimizer.step(), loss)[1]  # type: ignore[method-assign]
    losses = [guarded.step(number) for number in range(5)]
    assert losses == [plain.step(number) for number in range(5)]
    assert all(torch.equal(one, two) for one, two in zip(guarded.everything(), plain.everything(), strict=True))
    tensors = [torch.tensor(value) for value in losses]
    assert guarded.guard.mean_loss(tensors) == torch.stack(tensors).mean().item()


def test_the_mean_loss_is_of_the_steps_that_were_not_skipped(tmp_path):
    training = Training(tmp_path)
    losses = [training.step(0), training.step(1, NAN), training.step(2)]
    assert training.guard.mean_loss([torch.tensor(value) for value in losses]) == pytest.approx(
        (losses[0] + losses[2]) / 2
    )
    alone = training.step(3, NAN)
    told = training.guard.mean_loss([torch.tensor(alone)])
    assert told != told


def test_the_last_step_that_is_borne_stops_the_run_and_names_step_and_batch(tmp_path):
    training = Training(tmp_path)
    training.step(0)
    training.step(1, NAN)
    training.step(2, NAN)
    training.step(3)
    training.step(4, NAN)
    training.step(5, NAN)
    with pytest.raises(
        InputError, match=r"step 7: loss nan, gradient norm nan, step 3 in a row .* song 6 \(all"
    ) as stop:
        training.step(6, NAN)
    assert "\n" not in str(stop.value)
    record = json.loads((tmp_path / "skipped_steps.json").read_text())
    assert record == {"in_a_row": 3, "batches": {"5": ["song 4"], "6": ["song 5"], "7": ["song 6"]}}


def test_on_a_device_that_is_read_late_nothing_moves_after_the_last_step_that_is_borne(tmp_path):
    training = Training(tmp_path, fused=True)
    training.step(0)
    for number in range(1, 4):
        training.step(number, NAN)
    before = training.everything()
    # Good again, but too late: a run that looks at every step had stopped.
    training.step(4)
    training.step(5)
    assert all(torch.equal(one, two) for one, two in zip(before, training.everything(), strict=True))
    with pytest.raises(InputError, match=r"step 4: .*song 3 "):
        training.guard.check()
    assert list(json.loads((tmp_path / "skipped_steps.json").read_text())["batches"]) == ["2", "3", "4"]


def test_counts_go_on_from_a_checkpoint_and_older_checkpoints_have_none(tmp_path):
    training = Training(tmp_path)
    training.step(0, NAN)
    training.step(1, NAN)
    loop.save_checkpoint(
        tmp_path, 2, {"model": training.model.state_dict()}, training.optimizer, training.guard.state()
    )
    resumed = Training(tmp_path)
    _, state = loop.load_checkpoint(tmp_path / "checkpoint-2", resumed.optimizer, torch.device("cpu"))
    resumed.guard.load(state)
    assert resumed.guard.skipped == 2
    with pytest.raises(InputError, match=r"step 3: .*step 3 in a row"):
        resumed.step(2, NAN)
    # The run that stopped leaves the checkpoint as it was.
    assert loop.newest_checkpoint(tmp_path) == tmp_path / "checkpoint-2"
    older = Training(tmp_path)
    older.guard.load({"epoch": 1})
    assert older.guard.state() == {"skipped_steps": 0, "skipped_in_a_row": 0}


@pytest.mark.parametrize(("processes", "accumulation"), [(1, 1), (2, 1), (1, 2), (2, 3)])
def test_the_songs_of_a_step_are_those_that_all_processes_and_parts_read(processes, accumulation):
    ranks = [EpochBatches(50, 4, 7, accumulation, processes, rank) for rank in range(processes)]
    for epoch in range(2):
        read: list[list[int]] = [[] for _ in range(ranks[0].steps)]
        for batches in ranks:
            batches.start(epoch)
            for number, items in enumerate(batches):
                read[number // accumulation] += [song for _, song in items]
        for number, songs in enumerate(read):
            assert sorted(songs) == sorted(ranks[0].songs_at(epoch * ranks[0].steps + number))


def test_the_weights_of_the_start_are_never_passed_off_as_the_best(tmp_path):
    refuse_without_validation(0.5, tmp_path)
    with pytest.raises(InputError, match="no validation loss was finite"):
        refuse_without_validation(float("inf"), tmp_path)


TWO_PROCESSES = """
import sys
from pathlib import Path
import torch
from torch import nn
from mp3model.training.guards import StepGuard
from mp3model.training.runs import begin_run, end_run

def train(accelerator):
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    learner, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=0.1))
    guard = StepGuard(accelerator, optimizer, 3, lambda step: [], Path(sys.argv[1]))
    told = []
    for step in range(4):
        loss = learner(torch.ones(2, 3) * (accelerator.process_index + 1)).square().mean()
        accelerator.backward(loss)
        norm = accelerator.clip_grad_norm_(learner.parameters(), 1.0)
        # Only the loss of the second process is not finite, and no gradient tells.
        lost = float("nan") if step == 2 and accelerator.process_index else 0.0
        told.append(guard.step(step, loss.detach() + lost, norm))
        optimizer.zero_grad()
    weights = torch.cat([value.flatten() for value in model.state_dict().values()])
    together = accelerator.gather(weights[None])
    assert torch.equal(together[0], together[1]), together
    assert [bool(value.isnan()) for value in told] == [False, False, True, False]
    assert guard.state() == {"skipped_steps": 1, "skipped_in_a_row": 0}
    mean = guard.mean_loss(told)
    assert mean == mean

def threads():
    tasks = Path("/proc/self/task")
    return [name.read_text() for name in tasks.glob("*/comm")] if tasks.is_dir() else []

accelerator = begin_run()
train(accelerator)
end_run(accelerator)
assert not [name for name in threads() if "gloo" in name], threads()
print("alike", flush=True)
"""


def environment() -> dict[str, str]:
    return {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


@pytest.mark.slow
def test_a_loss_that_is_lost_in_one_process_is_skipped_in_both(tmp_path):
    script = tmp_path / "two.py"
    script.write_text(TWO_PROCESSES)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launch, str(script), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("alike") == 2


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_that_blows_up_stops_with_one_line_that_names_step_and_songs(small_dataset, tmp_path, processes):
    launch = [sys.executable]
    if processes > 1:
        launch += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    words = [*launch, str(RECIPE), "--data", str(small_dataset), "--output_dir", str(tmp_path / "run")]
    words += ["--frames", "120", "--loader_workers", "0", "--patch_size", "32", "16", "--patch_stride", "32", "16"]
    words += ["--batch_size", str(8 // processes), "--folds", "0", "--evaluate_every", "1", "--windows", "1"]

    def run(*more: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [*words, *more], capture_output=True, text=True, check=False, timeout=250, env=environment()
        )

    done = run("--learning_rate", "1e30", "--epochs", "2", "--most_skipped", "2")
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr[-3000:]
    assert "step 2 in a row" in lines[0]
    assert "song-" in lines[0]
    # torch's launcher adds a traceback of its own, of a process that failed.
    assert processes > 1 or "Traceback" not in done.stderr
    record = json.loads((tmp_path / "run" / "skipped_steps.json").read_text())
    assert [len(names) for names in record["batches"].values()] == [8, 8]
    assert not (tmp_path / "run" / "report.json").exists()
