"""Songs to hear and forecasts to make in, from many requests at once; each one's own answer out, as if it were alone.

One thread asks the model. It takes what has come in within a few milliseconds as one batch, hears the songs of all of
them together and then forecasts for each. An answer never depends on its company: windows go through the encoder in
groups of one fixed size, filled up with silence, and random numbers follow from the seed and the song.
"""

from __future__ import annotations

import hashlib
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from mp3model.model.modeling_mp3 import Audio, MP3Model
from mp3model.serving.asked import Heard, windows_of

# On a processor a window costs as much alone as in company, and filling up costs the full price; on an accelerator
# company is free.
WINDOWS_TOGETHER = {"cpu": 1}
_WINDOWS_ELSEWHERE = 8
REMEMBERED = 256


class Busy(RuntimeError):
    """As much waits as may wait."""


class Ears:
    """What a model hears in clips, remembered for the clips heard last; for one thread.

    Args:
        model: In evaluation mode.
        remembered: Clips whose sound is kept, some 100 kB each.
    """

    def __init__(self, model: MP3Model, remembered: int = REMEMBERED) -> None:
        self._model, self._remembered = model, remembered
        self._together = WINDOWS_TOGETHER.get(model.device.type, _WINDOWS_ELSEWHERE)
        self._heard: OrderedDict[bytes, Audio] = OrderedDict()

    def hear(self, clips: Sequence[np.ndarray]) -> list[Heard]:
        """Each clip (samples,) int16 at 16 kHz with what was heard in it."""
        if self._model.mp2 is None:
            return [Heard(clip) for clip in clips]
        keys = [hashlib.blake2b(clip.tobytes(), digest_size=32).digest() for clip in clips]
        new = {key: clip for key, clip in zip(keys, clips, strict=True) if key not in self._heard}
        found = dict(zip(new, listened(self._model, list(new.values()), self._together), strict=True))
        for key in keys:
            found.setdefault(key, self._heard.get(key) or found[key])
            self._heard[key] = found[key]
            self._heard.move_to_end(key)
        while len(self._heard) > self._remembered:
            self._heard.popitem(last=False)
        return [Heard(clip, found[key]) for key, clip in zip(keys, clips, strict=True)]


def listened(model: MP3Model, clips: Sequence[np.ndarray], together: int) -> list[Audio]:
    """Mean over each clip's windows, all clips' windows heard in groups of `together`."""
    windows = [windows_of(clip, model.config.samples) for clip in clips]
    if not windows:
        return []
    heard = heard_windows(model, np.concatenate(windows), together)
    ends = np.cumsum([len(own) for own in windows])
    spans = [slice(end - len(own), end) for end, own in zip(ends, windows, strict=True)]
    return [Audio(heard.tokens[span].mean(dim=0), heard.states[span].mean(dim=0)) for span in spans]


@torch.inference_mode()
def heard_windows(model: MP3Model, windows: np.ndarray, together: int) -> Audio:
    """What is heard in windows (windows, samples) int16, in groups of exactly `together`."""
    tokens, states = [], []
    for start in range(0, len(windows), together):
        part = windows[start : start + together]
        filled = np.concatenate([part, np.zeros((together - len(part), part.shape[1]), part.dtype)])
        heard = model.listen(waveforms=torch.from_numpy(filled).to(model.device))
        tokens.append(heard.tokens[: len(part)])
        states.append(heard.states[: len(part)])
    return Audio(torch.cat(tokens), torch.cat(states))


@dataclass
class _Task:
    clip: np.ndarray | None
    work: Callable[[Heard | None], Any]
    future: Future[Any] = field(default_factory=Future)


class Desk:
    """A thread that hears and forecasts for all, a few requests at a time.

    Args:
        ears: Of the model.
        room: Tasks that may wait.
        together: Tasks of a batch.
        seconds: How long a batch waits for company.
    """

    def __init__(self, ears: Ears, room: int = 64, together: int = 16, seconds: float = 0.004) -> None:
        self._ears, self._together, self._seconds = ears, together, seconds
        self._waiting: queue.Queue[_Task | None] = queue.Queue(room)
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Tasks in the queue."""
        return self._waiting.qsize()

    @property
    def alive(self) -> bool:
        """Whether it still works."""
        return self._thread.is_alive()

    def submit(self, clip: np.ndarray | None, work: Callable[[Heard | None], Any]) -> Future[Any]:
        """Calls `work` with the clip and what was heard in it, in turn; a cancelled future is passed over.

        Raises:
            Busy: If no more may wait.
        """
        task = _Task(clip, work)
        try:
            self._waiting.put_nowait(task)
        except queue.Full as error:
            raise Busy(f"{self._waiting.maxsize} requests wait already") from error
        return task.future

    def close(self) -> None:
        """Lets what waits be done with, and ends."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        open_ = True
        while open_:
            batch, open_ = self._batch()
            batch = [task for task in batch if task.future.set_running_or_notify_cancel()]
            clips = [task.clip for task in batch if task.clip is not None]
            try:
                heard = iter(self._ears.hear(clips))
            except Exception as error:  # whoever waits is told, and the thread goes on
                for task in batch:
                    task.future.set_exception(error)
                continue
            for task in batch:
                _settle(task, None if task.clip is None else next(heard))

    def _batch(self) -> tuple[list[_Task], bool]:
        """What is there, and what comes within a moment; and whether more may follow."""
        first = self._waiting.get()
        batch: list[_Task] = []
        until = time.monotonic() + self._seconds
        while first is not None:
            batch.append(first)
            if len(batch) == self._together:
                return batch, True
            try:
                first = self._waiting.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                return batch, True
        return batch, False


def _settle(task: _Task, heard: Heard | None) -> None:
    try:
        task.future.set_result(task.work(heard))
    except Exception as error:  # is raised where the answer is waited for
        task.future.set_exception(error)
