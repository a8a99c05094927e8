"""Predictions and targets in, sums and counts out: losses that are the same for every batch size and process count."""

from __future__ import annotations

from torch import Tensor


def masked_squared_error(predictions: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of squared errors and number of known targets, one of each a target: (…, targets) twice → (targets,) twice.

    A NaN target is missing and counts nowhere; nor does it reach the gradient. Divide by the counts of the *whole*
    batch, over processes and accumulated parts: the mean of parts' means is another number where targets are missing.
    """
    known = ~targets.isnan()
    error = (predictions - targets.where(known, predictions.detach())).square()
    axes = tuple(range(targets.ndim - 1))
    return error.sum(dim=axes), known.sum(dim=axes)


def mean_over_targets(sums: Tensor, counts: Tensor) -> Tensor:
    """Mean squared error of each target, averaged over targets: (targets,) twice → scalar; 0 where nothing is known."""
    return (sums / counts.clamp(min=1)).mean()
