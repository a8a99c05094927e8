"""Predictions and targets in, sums and counts out, the same for every batch size and process count; and a contrast."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def masked_squared_error(predictions: Tensor, targets: Tensor, correlation: float = 0.0) -> tuple[Tensor, Tensor]:
    """Sum of squared errors and number of known targets, one of each a target: (…, targets) twice → (targets,) twice.

    A NaN target is missing and counts nowhere; nor does it reach the gradient. Divide by the counts of the *whole*
    batch, over processes and accumulated parts: the mean of parts' means is another number where targets are missing.

    What nobody can hear of a song moves it in every region at once. With a `correlation` of what is missed, the sum is
    generalised least squares (Aitken 1935): e′ C⁻¹ e over a song's known regions, where C has ones on its diagonal and
    the correlation elsewhere. What a song does in one region beyond what it does in the others then counts for more
    than what it does in all of them, since luck hides less of it. Alone, a region counts as without a correlation.

    Args:
        predictions: (…, regions, targets).
        targets: The same shape, standardised.
        correlation: In [0, 1); 0 is the plain sum of squares, which needs no axis of regions.
    """
    known = ~targets.isnan()
    error = predictions - targets.where(known, predictions.detach())
    sums, counts = (part.sum(dim=tuple(range(targets.ndim - 1))) for part in (error.square(), known))
    if correlation == 0:
        return sums, counts
    # C's inverse in closed form (Sherman and Morrison 1950). A missing region's error is 0, but its gradient is not.
    together = (error * known).sum(dim=-2).square() * correlation
    together = together / (1 - correlation + known.sum(dim=-2) * correlation)
    return (sums - together.sum(dim=tuple(range(together.ndim - 1)))) / (1 - correlation), counts


def mean_over_targets(sums: Tensor, counts: Tensor) -> Tensor:
    """Mean squared error of each target, averaged over targets: (targets,) twice → scalar; 0 where nothing is known."""
    return (sums / counts.clamp(min=1)).mean()


def contrastive_loss(first: Tensor, second: Tensor, temperature: float = 0.2) -> Tensor:
    """How badly each clip finds the other of its song among all others: (songs, width) twice → scalar.

    NT-Xent (Chen et al. 2020, arXiv 2002.05709, eq. 1): the cross-entropy of naming, of the other 2 · songs − 1 clips,
    the one of the same song by the cosines between them, averaged over clips. 0 where there is one song.

    Args:
        first: A vector of length 1 for a clip of each song.
        second: The same for another clip of the same songs, in the same order.
        temperature: What cosines are divided by; the lower, the more the nearest of other songs count.
    """
    both = torch.cat([first, second])
    # A clip is not asked about itself.
    likeness = (both @ both.T / temperature).fill_diagonal_(float("-inf"))
    return functional.cross_entropy(likeness, torch.arange(len(both), device=both.device).roll(len(first)))
