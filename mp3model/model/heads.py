"""Region states in, what is forecast out: one linear layer a target."""

from __future__ import annotations

from torch import Tensor, nn


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
