"""A batch of what is known of rows in, the tokens that a curve decoder attends to out.

Every group of inputs may be absent in use, so each is dropped now and then in training.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mp3model.model.covariates import STATIC_WIDTHS, TOKEN_FEATURES


class ContextEncoder(nn.Module):
    """Covariates of n rows → one summary vector and context tokens a row.

    Args:
        width: Of every token.
        regions: How many the model knows; one more stands for any other.
        groups: Of `GROUPS`, in the order of the static features.
        descriptors: How many audio descriptors, 0 for none.
        drop: Probability with which each group, and the descriptors, are absent for a row in training.
        region_drop: Probability with which a row's region is unknown in training.
        region_mode: `token` gives the region a context token of its own, `embedding` adds it to the summary, `none`
            leaves it out.
    """

    def __init__(
        self,
        width: int,
        regions: int,
        groups: tuple[str, ...] | list[str],
        descriptors: int = 0,
        drop: float = 0.1,
        region_drop: float = 0.05,
        region_mode: str = "token",
    ) -> None:
        super().__init__()
        self.groups, self.drop, self.region_drop, self.region_mode = tuple(groups), drop, region_drop, region_mode
        self.widths = [STATIC_WIDTHS[group] for group in self.groups]
        self.region = nn.Embedding(regions + 1, width)
        nn.init.normal_(self.region.weight, std=0.02)
        self.token_region = nn.Embedding(regions + 1, width)
        nn.init.normal_(self.token_region.weight, std=0.02)
        self.kind = nn.Embedding(2, width)
        nn.init.normal_(self.kind.weight, std=0.02)
        self.token = nn.Sequential(nn.Linear(TOKEN_FEATURES, width), nn.GELU(), nn.Linear(width, width))
        self.static = nn.Sequential(
            nn.Linear(sum(self.widths) + len(self.groups), 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        self.descriptors = self.taste = None
        if descriptors:
            # One sound is worth more here than there. Where only attention brought region and sound together, a decoder
            # forecast worse than a linear regression in each region does.
            self.taste = nn.Embedding(regions + 1, width) if region_mode != "none" else None
            given = descriptors + (width if self.taste is not None else 0)
            self.descriptors = nn.Sequential(nn.Linear(given, width), nn.GELU(), nn.Linear(width, width))
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(sum(self.widths)))
        self.register_buffer("std", torch.ones(sum(self.widths)))

    def present(self, batch: dict[str, Tensor], absent: tuple[str, ...] = ()) -> Tensor:
        """Which groups each row has, in training some of them dropped at random: (n, groups) bool."""
        n, device = len(batch["region"]), batch["static"].device
        present = torch.tensor([group not in absent for group in self.groups], device=device).expand(n, -1)
        if self.training and self.drop:
            present = present & (torch.rand(n, len(self.groups), device=device) >= self.drop)
        return present

    def forward(
        self, batch: dict[str, Tensor], absent: tuple[str, ...] = (), present: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Batch of n rows → summary (n, width), context (n, tokens, width), known (n, tokens) bool.

        Args:
            batch: Tensors of `Covariates.gather`, and `descriptors` (n, descriptors), NaN for rows without.
            absent: Groups that the user has nothing of.
            present: Of `present`, for who also needs it elsewhere.
        """
        n, device = len(batch["region"]), batch["static"].device
        if present is None:
            present = self.present(batch, absent)
        region = batch["region"]
        if self.training and self.region_drop:
            unknown = torch.rand(n, device=device) < self.region_drop
            region = torch.where(unknown, self.region.num_embeddings - 1, region)
        scaled = ((batch["static"] - self.mean) / self.std).clamp(-6, 6)
        parts = [part * present[:, [place]] for place, part in enumerate(scaled.split(self.widths, dim=1))]
        summary = self.static(torch.cat([*parts, present.to(scaled.dtype)], dim=1))
        own = self.region(region)
        if self.region_mode == "embedding":
            summary = summary + own
        tokens = self.token(batch["tokens"]) + self.token_region(batch["token_region"]) + self.kind(batch["token_kind"])
        known = (
            batch["token_known"]
            & self._token_groups(present)[batch["token_kind"], torch.arange(n, device=device)[:, None]]
        )
        leading = [summary, own] if self.region_mode == "token" else [summary]
        leading_known = torch.ones(n, len(leading), dtype=torch.bool, device=device)
        if self.descriptors is not None:
            given = batch["descriptors"]
            has = ~given.isnan().any(dim=1, keepdim=True)
            if self.training and self.drop:
                has = has & (torch.rand(n, 1, device=device) >= self.drop)
            given = given.nan_to_num(0.0)
            if self.taste is not None:
                given = torch.cat([given, self.taste(region)], dim=1)
            sound = self.descriptors(given)
            summary = summary + sound * has
            leading.append(sound)
            leading_known = torch.cat([leading_known, has], dim=1)
        context = torch.cat([torch.stack(leading, dim=1), tokens], dim=1)
        return summary, context, torch.cat([leading_known, known], dim=1)

    def _token_groups(self, present: Tensor) -> Tensor:
        """Whether each kind of token may be seen: (2, n)."""
        rows = [
            present[:, self.groups.index(group)] if group in self.groups else torch.zeros_like(present[:, 0])
            for group in ("regions", "artist")
        ]
        return torch.stack(rows)
