"""Region states in, what is forecast out: one linear layer a target."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class ScalarHead(nn.Module):
    """MP2's head: one standardised number a target, shared by all regions, whose states differ.

    Args:
        width: Width of a region's state.
        targets: How many numbers.
        dropout: Before the layer.
    """

    def __init__(self, width: int, targets: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.drop = nn.Dropout(dropout)
        self.fc = nn.Linear(width, targets)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Small weights and no bias, so that training starts at each region's mean."""
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)

    def forward(self, states: Tensor) -> Tensor:
        """(batch, regions, width) → (batch, regions, targets)."""
        return self.fc(self.drop(states))


class ProjectionHead(nn.Module):
    """What songs are told apart by while MP2 learns: a layer more than is kept (Chen et al. 2020, arXiv 2002.05709).

    It ends in a batch norm: with what all clips share in their vectors, cosines tell nothing apart for hundreds of
    steps. It is that of the batch at hand, so the head is of no use outside training.

    Args:
        width: Width of a region's state.
        channels: Of the vector.
    """

    def __init__(self, width: int, channels: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, width),
            nn.GELU(),
            nn.Linear(width, channels),
            nn.BatchNorm1d(channels, affine=False, track_running_stats=False),
        )

    def forward(self, states: Tensor) -> Tensor:
        """(batch, regions, width) → (batch, channels) of length 1, from the mean of the regions."""
        return functional.normalize(self.layers(states.mean(dim=1)), dim=1)
