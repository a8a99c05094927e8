"""What every recipe's loop needs and must do alike: optimizer, schedule, checkpoints, metrics, prediction."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mp3model.files import folder_written_whole, refusals_named, sha256_of, write_json, written_whole
from mp3model.training.batches import ClipSet

Item = TypeVar("Item")
# One more than is needed to go on, for the day on which the newest turns out to be damaged.
KEPT_CHECKPOINTS = 2


def make_optimizer(model: nn.Module, rate: float, weight_decay: float, layer_decay: float, fused: bool) -> Any:
    """AdamW through timm: no decay for biases, norms, positions and tokens; lower layers learn more slowly.

    Args:
        model: With timm's `group_matcher` and `no_weight_decay`.
        rate: Learning rate of the head; layer l below it learns at `layer_decay ** l` of that.
        weight_decay: Decoupled decay.
        layer_decay: 1 is the same rate everywhere.
        fused: One kernel for all parameters (CUDA).
    """
    from timm.optim import create_optimizer_v2

    return create_optimizer_v2(
        model,
        opt="adamw",
        lr=rate,
        weight_decay=weight_decay,
        layer_decay=layer_decay if layer_decay < 1 else None,
        betas=(0.9, 0.98),
        fused=fused,
    )


def make_curve_optimizer(
    model: Any, rate: float, audio_rate: float, weight_decay: float, layer_decay: float, fused: bool = False
) -> Any:
    """AdamW for an MP3 model: the audio encoder learns at `audio_rate` of the decoder's rate, its lower layers slower.

    Args:
        model: An `MP3Model`; weights that need no gradient are left out.
        rate: Of the decoder.
        audio_rate: Factor of the audio encoder's top.
        weight_decay: Decoupled decay; none for biases, norms, positions and tokens.
        layer_decay: Each layer of the audio encoder learns at so much of the rate of the next one up.
        fused: One kernel for all parameters (CUDA).
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    free = model.no_weight_decay()
    matcher = {name: re.compile(pattern) for name, pattern in model.group_matcher().items()}
    depth = model.config.num_hidden_layers
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        scale = 1.0
        if name.startswith("mp2."):
            block = matcher["blocks"].match(name)
            below = depth if matcher["stem"].match(name) else depth - 1 - int(block[1]) if block else 0
            scale = audio_rate * layer_decay**below
        decay = 0.0 if parameter.ndim <= 1 or name in free else weight_decay
        groups.setdefault((scale, decay), []).append(parameter)
    return torch.optim.AdamW(
        [
            # timm's schedules multiply each group's rate by its scale.
            {"params": parameters, "weight_decay": decay, "lr_scale": scale}
            for (scale, decay), parameters in sorted(groups.items(), key=lambda item: item[0], reverse=True)
        ],
        lr=rate,
        betas=(0.9, 0.98),
        fused=fused or None,
    )


def make_schedule(optimizer: Any, steps: int, warmup: int) -> Any:
    """timm's linear warm-up and cosine to 1 % of the rate, a pure function of the step (`step_update(step)`)."""
    from timm.scheduler import CosineLRScheduler

    rate = max(group["lr"] for group in optimizer.param_groups)
    return CosineLRScheduler(
        optimizer,
        t_initial=max(1, steps),
        lr_min=0.01 * rate,
        warmup_t=warmup,
        warmup_lr_init=rate / max(1, warmup),
        t_in_epochs=False,
    )


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seeds torch's generators for one step of one process: dropout and drop path follow from these three alone."""
    digest = hashlib.blake2b(f"{seed}\0{step}\0{rank}".encode(), digest_size=8).digest()
    torch.manual_seed(int.from_bytes(digest, "big") >> 1)


def in_groups(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Consecutive groups of `size`; a shorter rest is left out, since no step of the optimizer may be smaller."""
    group: list[Item] = []
    for item in items:
        group.append(item)
        if len(group) == size:
            yield group
            group = []


class MetricsLog:
    """`metrics.jsonl`: a line a logged step, and whatever tracker Accelerate was given beside it."""

    def __init__(self, path: Path, accelerator: Any) -> None:
        self.path, self.accelerator = path, accelerator
        path.parent.mkdir(parents=True, exist_ok=True)

    def keep_until(self, step: int) -> None:
        """Drops what a run wrote after the checkpoint it now goes on from, 0 for none; a torn last line goes too."""
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_text().splitlines():
            try:
                if json.loads(line)["step"] > step:
                    break
            except (ValueError, KeyError):
                break
            kept.append(line + "\n")
        # Whole or not at all: a kill in the middle would lose lines that no later run writes again.
        with written_whole(self.path) as temporary:
            temporary.write_text("".join(kept))

    def write(self, step: int, values: dict[str, float]) -> None:
        """Appends one line in the main process; a value that is not finite becomes null."""
        if not self.accelerator.is_main_process:
            return
        finite = {key: float(value) if np.isfinite(value) else None for key, value in values.items()}
        with refusals_named(self.path, every=True), self.path.open("a") as stream:
            stream.write(json.dumps({"step": step, **finite}) + "\n")
        self.accelerator.log(values, step=step)


def save_checkpoint(
    folder: Path, step: int, tensors: dict[str, dict[str, Tensor]], optimizer: Any, state: dict[str, Any]
) -> None:
    """Writes `checkpoint-STEP` beside `folder`'s others, whole or not at all, then removes all but the last two.

    Safetensors and JSON only: nothing in a checkpoint can run code when it is read. `state.json` is its manifest: the
    digests of the other files and its own.

    Args:
        folder: The run folder.
        step: Steps of the optimizer that are done.
        tensors: File stem → state dictionary, for instance `model` and `best`.
        optimizer: Its state goes into `optimizer.safetensors`, one entry a (parameter, moment).
        state: Numbers that the loop goes on from; one that is not finite comes back as infinity.

    Raises:
        InputError: The disk is full, or the folder cannot be written; the checkpoints that were there are there still.
    """
    final = folder / f"checkpoint-{step}"
    moments = {
        f"{parameter}.{name}": value.detach().cpu().contiguous()
        for parameter, entry in optimizer.state_dict()["state"].items()
        for name, value in entry.items()
    }
    with folder_written_whole(final) as part:
        for stem, values in {**tensors, "optimizer": moments}.items():
            contiguous = {name: value.detach().cpu().contiguous() for name, value in values.items()}
            save_file(contiguous, part / f"{stem}.safetensors")
        share(part)
        files = {path.name: sha256_of(path) for path in sorted(part.iterdir())}
        finite = {key: value if math.isfinite(value) else None for key, value in state.items()}
        manifest = {"step": step, **finite, "files": files}
        write_json(part / "state.json", manifest | {"sha256": _digest(manifest)})
    older = [path for _, path in _checkpoints(folder) if path != final]
    # What a killed run had begun to write is beside them, with a dot.
    begun = [path for path in folder.glob(".checkpoint-*") if path.is_dir()]
    for path in [*older[KEPT_CHECKPOINTS - 1 :], *begun]:
        shutil.rmtree(path)


def _checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """Steps and folder of each checkpoint, whole or not, the newest first."""
    named = [(re.fullmatch(r"checkpoint-(\d+)", path.name), path) for path in folder.glob("checkpoint-*")]
    return sorted(((int(match[1]), path) for match, path in named if match), reverse=True)


def _digest(manifest: dict[str, Any]) -> str:
    """Hex digest of what a manifest says, however it is spaced."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _manifest(path: Path) -> dict[str, Any]:
    """What `state.json` of a checkpoint says; a ValueError where it is damaged."""
    manifest = json.loads((path / "state.json").read_text())
    own = manifest.pop("sha256", None)
    # Checkpoints of before had no digest of their own.
    if own not in (None, _digest(manifest)):
        raise ValueError(path)
    return manifest


def share(folder: Path) -> None:
    """Lets others read the weights in a folder: safetensors writes files that only their owner may read."""
    for path in folder.glob("*.safetensors"):
        path.chmod(0o644)


def newest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint with the most steps whose files are whole, or None; a damaged one is named and passed over."""
    for _, path in _checkpoints(folder):
        try:
            if all(sha256_of(path / name) == digest for name, digest in _manifest(path)["files"].items()):
                return path
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass
        print(f"{path}: damaged, passed over", flush=True)
    return None


def load_checkpoint(path: Path, optimizer: Any, device: torch.device) -> tuple[dict[str, dict[str, Tensor]], dict]:
    """Reads what `save_checkpoint` wrote: the optimizer in place, the tensors and the state returned."""
    manifest = _manifest(path)
    # Several processes on a CPU have it numbered, which safetensors does not know.
    place = "cpu" if device.type == "cpu" else str(device)
    tensors = {Path(name).stem: load_file(path / name, device=place) for name in manifest["files"]}
    entries: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.pop("optimizer").items():
        parameter, name = key.split(".", 1)
        entries.setdefault(int(parameter), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": entries})
    return tensors, {key: math.inf if value is None else value for key, value in manifest.items()}


def log_mels(frontend: nn.Module, waveforms: Tensor) -> Tensor:
    """The front end a few clips at a time on a processor: the same numbers, three times as fast.

    The frames of a whole batch overlap in memory and outgrow every cache.

    Args:
        frontend: (batch, samples) → (batch, frames, mels), each clip by itself.
        waveforms: (batch, samples).
    """
    if waveforms.device.type != "cpu":
        return frontend(waveforms)
    return torch.cat([frontend(part) for part in waveforms.split(2)])


def predict_songs(
    forward: Callable[[Tensor], Tensor],
    clips: ClipSet,
    songs: int,
    accelerator: Any,
    batch_size: int,
) -> np.ndarray:
    """Mean of a function of the waveform over each song's clips: (songs, …) float64, the same in every process.

    Args:
        forward: (batch, samples) int16 on the device → (batch, …).
        clips: What to average over.
        songs: How many songs `clips` speaks of.
        accelerator: Says which share of the clips this process does.
        batch_size: Clips at once.
    """
    share = range(accelerator.process_index, len(clips), accelerator.num_processes)
    loader = DataLoader(torch.utils.data.Subset(clips, share), batch_size=batch_size)
    rows, values = [], []
    with torch.inference_mode():
        for batch in loader:
            values.append(forward(batch["waveform"].to(accelerator.device)).double().cpu().numpy())
            rows.append(batch["song"].numpy())
    done = [(np.concatenate(rows), np.concatenate(values))] if rows else []
    if accelerator.num_processes > 1:
        from accelerate.utils import gather_object

        done = gather_object(done)
    total = np.zeros((songs, *done[0][1].shape[1:]))
    count = np.zeros(songs)
    for song, value in done:
        np.add.at(total, song, value)
        np.add.at(count, song, 1)
    return total / count.reshape(-1, *[1] * (total.ndim - 1))
