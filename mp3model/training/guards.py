"""A step's loss and gradient norm in; the step taken, or skipped and counted, and a run that cannot go on stopped.

A skipped step is one in which the weights stand still, in every process alike. The optimizer's moments and its count of
updates stay as they were. The schedule goes on, since it follows from the number of the step, and so do the order of
the songs and the random numbers of a step. An average of the weights counts the unchanged weights once more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mp3model.files import InputError, write_json

RECORD = "skipped_steps.json"
_NAMES_SHOWN = 12


class StepGuard:
    """Takes the steps of an optimizer whose loss and gradient are finite, and counts the others.

    On the processor the numbers are at hand, and a step is decided on as they are read. On a GPU reading them would
    make it wait at every step: there a fused optimizer, which is told on the device to leave a step out (as
    `torch.amp.GradScaler` tells it), decides by itself, and counts are read when a line is logged anyway. Once as many
    steps in a row as are borne were skipped, all that follow are, so that it does not matter how late that is read.
    With float16 the gradient scaler decides: it is looking for its scale where only the gradient overflows, and that
    is not counted while the scale is above 1.

    Args:
        accelerator: Of Accelerate.
        optimizer: As `accelerator.prepare` gave it.
        limit: Skipped steps in a row after which the run stops.
        names_at: Step, counted from 0 → what its batches hold, over all processes and parts.
        folder: The run folder, for the names of a run that stops.
        before_stop: Called before it does, to end a progress bar, lest the error stand in its line.
    """

    def __init__(
        self,
        accelerator: Any,
        optimizer: Any,
        limit: int,
        names_at: Callable[[int], Sequence[str]],
        folder: Path,
        before_stop: Callable[[], None] = lambda: None,
    ) -> None:
        self.accelerator, self.optimizer, self.limit = accelerator, optimizer, limit
        self.names_at, self.folder, self.before_stop = names_at, folder, before_stop
        # Accelerate's wrapper passes no attributes on to the optimizer in it.
        self._inner = getattr(optimizer, "optimizer", optimizer)
        self._fused = all(group.get("fused") for group in self._inner.param_groups)
        self._skipped = torch.zeros((), dtype=torch.int64, device=accelerator.device)
        self._in_a_row = torch.zeros_like(self._skipped)
        self._logged = 0
        self._last: tuple[int, Tensor, Tensor] | None = None

    def step(self, step: int, loss: Tensor, norm: Tensor) -> Tensor:
        """Takes or skips one step.

        Args:
            step: Its number, from 0.
            loss: () this process's share of the loss.
            norm: () norm of the gradient, which is of all processes.

        Returns:
            The loss, NaN in every process if the step is skipped.

        Raises:
            InputError: If it is one too many in a row, where that is known at once; see `check`.
        """
        scaler = self.accelerator.scaler
        finite = torch.isfinite(loss)
        if scaler is None or scaler.get_scale() <= 1:
            finite = finite & torch.isfinite(norm)
        # Gradients are of all processes, a loss is one's own: all have to decide alike.
        bad = self.accelerator.reduce((~finite).float(), "sum") > 0
        bad = bad | (self._in_a_row >= self.limit)
        self._skipped += bad
        self._in_a_row = torch.where(bad, self._in_a_row + 1, 0)
        self._last = step, loss, norm
        if scaler is not None:
            self.optimizer.step()
        elif self._fused:
            self._inner.found_inf = bad.float()
            self.optimizer.step()
        elif not bad:
            self.optimizer.step()
        if scaler is None and not self._fused:
            self.check()
        return torch.where(bad, torch.nan, loss)

    @property
    def skipped(self) -> int:
        """Skipped steps of the whole run."""
        return int(self._skipped)

    def mean_loss(self, losses: Sequence[Tensor]) -> float:
        """Mean over processes' sums of the steps since the last call, of those that were not skipped; NaN if all were.

        Args:
            losses: What `step` gave back.
        """
        together = torch.stack(list(losses))
        if self.skipped > self._logged:
            together = together[~together.isnan()]
        self._logged = self.skipped
        return self.accelerator.reduce(together.mean(), "sum").item()

    def check(self) -> None:
        """Stops a run that skips one step after the other; the last checkpoint stays as it is.

        Raises:
            InputError: Names the step, what was not finite, and the first of the batch's names; the names of all those
                steps go into `skipped_steps.json`.
        """
        in_a_row = int(self._in_a_row)
        if in_a_row < self.limit or self._last is None:
            return
        now, loss, norm = self._last
        first = now - in_a_row + 1
        # Counted as in metrics.jsonl, by the steps that are done.
        batches = {step + 1: list(self.names_at(step)) for step in range(max(first, 0), first + self.limit)}
        last = first + self.limit
        if self.accelerator.is_main_process:
            write_json(self.folder / RECORD, {"in_a_row": self.limit, "batches": batches})
        self.before_stop()
        names = batches[last]
        rest = len(names) - _NAMES_SHOWN
        raise InputError(
            f"step {last}: loss {float(loss):g}, gradient norm {float(norm):g}, step {self.limit} in a row that "
            f"is not finite and was skipped; its batch: {', '.join(names[:_NAMES_SHOWN])}"
            f"{f' and {rest} more' if rest > 0 else ''} (all of them in {self.folder / RECORD}); mend what is wrong "
            "with their rows and go on with --resume from the last checkpoint, or begin anew with a lower "
            "--learning_rate"
        )

    def state(self) -> dict[str, int]:
        """What a checkpoint keeps."""
        return {"skipped_steps": self.skipped, "skipped_in_a_row": int(self._in_a_row)}

    def load(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `state` gave; a checkpoint of before there were guards has skipped nothing."""
        self._skipped.fill_(state.get("skipped_steps", 0))
        self._in_a_row.fill_(state.get("skipped_in_a_row", 0))
        self._logged = self.skipped


def refuse_without_validation(best: float, folder: Path) -> None:
    """Refuses to pass off the weights of the start as the best ones.

    Args:
        best: The lowest validation loss; infinity if none was finite.
        folder: The run folder.

    Raises:
        InputError: If it is not finite.
    """
    if not math.isfinite(best):
        raise InputError(
            f"{folder}: no validation loss was finite, so no weights are the best; look at the rows of the validation "
            "split, lower --learning_rate, or give more --patience than epochs between validations"
        )
