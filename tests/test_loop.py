"""The loop's parts: arguments, schedule, checkpoints, metrics and prediction, each against what it promises."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn

from mp3model.audio.bank import AudioBank
from mp3model.audio.frontend import LogMel
from mp3model.files import InputError
from mp3model.tables.curves import popularity_targets
from mp3model.tables.folder import read_dataset
from mp3model.training import loop
from mp3model.training.arguments import arguments_as_dict, parse_arguments
from mp3model.training.batches import ClipSet, songs_of_split


@dataclass
class Some:
    rate: float = 0.5
    names: list[str] = field(default_factory=list)
    resume: bool = False
    maybe: int | None = None


def parsed(*argv: str) -> Some:
    return parse_arguments((Some,), argv, "a test")[0]


def test_a_yaml_file_is_read_and_the_command_line_overrides_it(tmp_path):
    (tmp_path / "a.yaml").write_text("rate: 0.25\nnames: [US, GB]\nresume: true\nmaybe:\n")
    assert parsed(str(tmp_path / "a.yaml")) == Some(0.25, ["US", "GB"], True, None)
    assert parsed(str(tmp_path / "a.yaml"), "--rate", "1", "--names", "BR") == Some(1.0, ["BR"], True, None)
    assert arguments_as_dict(parsed()) == {"rate": 0.5, "names": [], "resume": False, "maybe": None}


@pytest.mark.parametrize(
    ("text", "message"),
    [("rates: 1", "rates is no option"), ("- 1", "flat list"), ("a: [", "not YAML"), (None, "no such file")],
)
def test_a_wrong_yaml_file_is_named_with_its_fault(tmp_path, text, message):
    path = tmp_path / "a.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=rf"a\.yaml: .*{message}"):
        parsed(str(path))


def test_a_value_of_the_wrong_type_ends_the_command(tmp_path, capsys):
    (tmp_path / "a.yaml").write_text("rate: fast")
    with pytest.raises(SystemExit) as stop:
        parsed(str(tmp_path / "a.yaml"))
    assert stop.value.code == 2
    assert "fast" in capsys.readouterr().err


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))
        self.head = nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x).relu()
        return self.head(x)

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        return {"stem": r"^stem", "blocks": r"^blocks\.(\d+)"}


def make_optimizer(model: nn.Module):
    return loop.make_optimizer(model, rate=0.1, weight_decay=0.01, layer_decay=0.5, fused=False)


def test_the_rate_rises_then_falls_and_depends_on_the_step_alone():
    optimizer = make_optimizer(Layers())
    schedule = loop.make_schedule(optimizer, steps=100, warmup=10)

    def rate_at(step: int) -> float:
        schedule.step_update(step)
        return max(group["lr"] for group in optimizer.param_groups)

    rates = [rate_at(step) for step in range(100)]
    assert np.diff(rates[:11]).min() > 0
    assert rates[10] == pytest.approx(0.1, rel=0.05)
    assert np.diff(rates[11:]).max() < 0
    assert rates[99] < 0.002
    assert rate_at(37) == rates[37]
    lowest = min(group["lr"] for group in optimizer.param_groups)
    assert lowest == pytest.approx(rates[37] / 4)


def test_dropout_follows_from_seed_step_and_rank():
    def mask(*key: int) -> list[float]:
        loop.seed_step(*key)
        return nn.functional.dropout(torch.ones(64)).tolist()

    assert mask(0, 5, 0) == mask(0, 5, 0)
    assert len({tuple(mask(*key)) for key in [(0, 5, 0), (1, 5, 0), (0, 6, 0), (0, 5, 1)]}) == 4


def test_groups_leave_out_a_shorter_rest():
    assert list(loop.in_groups(range(7), 3)) == [[0, 1, 2], [3, 4, 5]]


def train(model: nn.Module, optimizer, steps: range) -> None:
    for step in steps:
        torch.manual_seed(step)
        optimizer.zero_grad()
        model(torch.randn(3, 4)).square().sum().backward()
        optimizer.step()


def test_training_goes_on_from_a_checkpoint_bit_by_bit(tmp_path):
    torch.manual_seed(0)
    model = Layers()
    start = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = make_optimizer(model)
    train(model, optimizer, range(3))
    loop.save_checkpoint(tmp_path, 3, {"model": model.state_dict()}, optimizer, {"best": 1.5})
    train(model, optimizer, range(3, 6))

    resumed = Layers()
    resumed.load_state_dict(start)
    other = make_optimizer(resumed)
    tensors, state = loop.load_checkpoint(loop.newest_checkpoint(tmp_path), other, torch.device("cpu"))
    resumed.load_state_dict(tensors["model"])
    train(resumed, other, range(3, 6))
    assert state["best"] == 1.5
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in model.state_dict().items())
    assert not any(path.suffix in {".pt", ".pkl", ".bin"} for path in tmp_path.rglob("*"))


def test_the_newest_whole_checkpoint_is_found_and_a_damaged_one_named(tmp_path, capsys):
    model = Layers()
    optimizer = make_optimizer(model)
    assert loop.newest_checkpoint(tmp_path) is None
    loop.save_checkpoint(tmp_path, 9, {"model": model.state_dict()}, optimizer, {})
    (tmp_path / "checkpoint-9").rename(tmp_path / "kept")
    loop.save_checkpoint(tmp_path, 10, {"model": model.state_dict()}, optimizer, {})
    (tmp_path / "kept").rename(tmp_path / "checkpoint-9")
    assert loop.newest_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    damaged = tmp_path / "checkpoint-10" / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-5])
    assert loop.newest_checkpoint(tmp_path) == tmp_path / "checkpoint-9"
    assert "checkpoint-10: damaged" in capsys.readouterr().out


def test_all_but_the_last_two_checkpoints_go_once_a_newer_one_is_whole(tmp_path):
    model = Layers()
    for step in (1, 2, 12):
        loop.save_checkpoint(tmp_path, step, {"model": model.state_dict()}, make_optimizer(model), {})
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-2", "checkpoint-12"}


def test_metrics_after_the_checkpoint_are_dropped_and_written_again(tmp_path):
    log = loop.MetricsLog(tmp_path / "metrics.jsonl", Accelerator(cpu=True))
    for step in range(1, 6):
        log.write(step, {"loss": 1.0 / step})
    log.path.write_text(log.path.read_text() + '{"step": 6, "lo')
    log.keep_until(3)
    log.write(4, {"loss": float("nan")})
    lines = [json.loads(line) for line in log.path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert lines[3]["loss"] is None


def test_a_song_is_predicted_by_the_mean_over_its_clips(small_dataset):
    dataset, bank = read_dataset(small_dataset), AudioBank(small_dataset)
    songs = songs_of_split(popularity_targets(dataset), dataset.tracks, bank, ["validation"], ["US"], ["total"])
    clips = ClipSet(songs, bank, 16_000, windows=2)
    accelerator = Accelerator(cpu=True)
    means = loop.predict_songs(
        lambda waveforms: waveforms.float().mean(1, keepdim=True), clips, len(songs), accelerator, 5
    )
    expected = np.zeros((len(songs), 1))
    for song in range(len(songs)):
        values = [clips[i]["waveform"].float().mean() for i, item in enumerate(clips.items) if item[0] == song]
        expected[song] = np.mean(values)
    assert means == pytest.approx(expected, abs=1e-4)


def test_log_mels_of_a_few_clips_at_a_time_are_those_of_all_at_once():
    frontend = LogMel()
    waveforms = torch.randn(5, 4000, generator=torch.Generator().manual_seed(0)) * 0.1
    assert torch.equal(loop.log_mels(frontend, waveforms), frontend(waveforms))
