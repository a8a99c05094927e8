"""Decoder states in, a censored distribution of the curve out: its likelihood, and sample paths from uniform numbers.

All values are log10(streams / floor). A period on the chart has a density; a period below the chart is known only to
have less than the chart's lowest, so it counts with the distribution function there (left-censoring, Tobit); an unknown
period counts nothing. The first period of a debut is known to be on the chart, so its distribution is the one above the
lowest; of a song that has a past and is asked about from some day on, nobody knows that.
Both heads map uniform numbers to values by inverting distribution functions, so that equal numbers give equal paths:
a redrawn forecast moves only as far as the forecast did, and regions can share their luck.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mp3model.tables.curves import BELOW, OBSERVED

_LOG_SCALE_BOUNDS = (-4.5, 1.0)
_BISECTIONS = 24
# Normals around last year's value.
_REPEATING = 2


def normal_log_density(value: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Log density of a normal distribution, broadcast."""
    standard = (value - mean) * torch.exp(-log_scale)
    return -0.5 * standard.square() - log_scale - 0.5 * math.log(2 * math.pi)


def normal_log_cdf(value: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Log of the normal distribution function, exact far into the lower tail."""
    return torch.special.log_ndtr((value - mean) * torch.exp(-log_scale))


def log_survival(log_cdf: Tensor) -> Tensor:
    """log(1 − exp(log_cdf)), of a log distribution function bounded away from certainty."""
    return torch.log(-torch.expm1(log_cdf.clamp(max=-1e-6)))


def censored_log_likelihood(log_density: Tensor, log_cdf: Tensor, state: Tensor) -> Tensor:
    """Per period: the density where observed, the distribution function at the lowest where below, else 0.

    Args:
        log_density: At the observed value.
        log_cdf: At the chart's lowest.
        state: OBSERVED, BELOW or UNKNOWN, broadcast against both.
    """
    return torch.where(state == OBSERVED, log_density, torch.where(state == BELOW, log_cdf, 0.0))


def begins_on_chart(batch: dict[str, Tensor]) -> Tensor:
    """Which rows are debuts, known to be on the chart in their first period: (n,) bool; without `running` all are."""
    if "running" in batch:
        return ~batch["running"]
    some = next(iter(batch.values()))
    return torch.ones(len(some), dtype=torch.bool, device=some.device)


class AutoregressiveHead(nn.Module):
    """A mixture of normals for each period given the periods before it: (…, width) states → log weights, means, scales.

    Means are measured from the last value on the curve, which is what a period is most like. A song that charted in the
    same period last year has normals of its own around its value then, moved by how far the last period was from its
    own last year: it goes on, or does as it did, and the weights say how likely each is.

    Args:
        width: Of the decoder's states.
        components: Normals a mixture.
        repeats: Whether last year is told.
    """

    joint = False

    def __init__(self, width: int, components: int, repeats: bool = False) -> None:
        super().__init__()
        self.components = components
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, 3 * components + 1)
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)
        with torch.no_grad():
            # Components start apart, or they would all learn the same.
            self.project.bias[components : 2 * components] = torch.linspace(-0.6, 0.6, components)
            self.project.bias[2 * components : 3 * components] = -1.0
            # Nearly all of the last value is kept: curves have no level of their own to fall back to.
            self.project.bias[-1] = 4.0
        self.repeat = nn.Linear(width, 3 * _REPEATING) if repeats else None
        if self.repeat is not None:
            nn.init.zeros_(self.repeat.weight)
            with torch.no_grad():
                # Untrained, a song of last year mostly repeats it: one Christmas may be all there is to learn from.
                self.repeat.bias.copy_(torch.tensor([3.0, 0.0, -1.0]).repeat_interleave(_REPEATING))
                self.repeat.bias[-1] = 0.0

    def forward(
        self, states: Tensor, anchor: Tensor, last_year: tuple[Tensor, Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(…, width), (…) last value → log weights, means and log scales (…, components, and those that repeat).

        `last_year` is of the same period: its value, whether it was charted, and the last value less its own last year
        (0 where either is not known), each (…).
        """
        states = self.norm(states)
        raw, keep = self.project(states).split([3 * self.components, 1], dim=-1)
        keep = torch.sigmoid(keep)
        weight, mean, scale = raw.chunk(3, dim=-1)
        mean = mean + keep * anchor[..., None]
        if self.repeat is not None and last_year is not None:
            value, charted, moved = (part[..., None] for part in last_year)
            again, offset, spread = self.repeat(states).chunk(3, dim=-1)
            weight = torch.cat([weight, again.masked_fill(charted == 0, -math.inf)], dim=-1)
            mean = torch.cat([mean, offset + value + keep * moved], dim=-1)
            scale = torch.cat([scale, spread], dim=-1)
        return weight.log_softmax(-1), mean, scale.clamp(*_LOG_SCALE_BOUNDS)

    def log_likelihood(self, parameters: tuple[Tensor, Tensor, Tensor], batch: dict[str, Tensor]) -> Tensor:
        """(n, periods, components) parameters → log likelihood of each period given the ones before: (n, periods)."""
        weight, mean, scale = parameters
        value, threshold = batch["value"][..., None], batch["threshold"][..., None]
        density = torch.logsumexp(weight + normal_log_density(value, mean, scale), dim=-1)
        below = torch.logsumexp(weight + normal_log_cdf(threshold, mean, scale), dim=-1).clamp(max=0)
        result = censored_log_likelihood(density, below, batch["state"])
        # The first period of a debut is on the chart: everything here is given that.
        given = (batch["state"][:, 0] == OBSERVED) & begins_on_chart(batch)
        first = torch.where(given, log_survival(below[:, 0]), 0.0)
        return torch.cat([result[:, :1] - first[:, None], result[:, 1:]], dim=1)

    def place(self, parameters: tuple[Tensor, Tensor, Tensor], batch: dict[str, Tensor], uniform: Tensor) -> Tensor:
        """Where each period lies in its distribution, (n, periods); at random within what is below a chart."""

        def cdf(value: Tensor) -> Tensor:
            weight, mean, scale = parameters
            return torch.logsumexp(weight + normal_log_cdf(value[..., None], mean, scale), dim=-1).exp()

        return _placed(cdf(batch["value"]), cdf(batch["threshold"]), batch, uniform)

    def draw(
        self, parameters: tuple[Tensor, Tensor, Tensor], uniform: Tensor, threshold: Tensor, first: bool | Tensor
    ) -> Tensor:
        """Values at which the mixture's distribution function is `uniform`: any shape (…).

        Args:
            parameters: (…, components).
            uniform: (…) in (0, 1).
            threshold: (…) the chart's lowest.
            first: Draw given that the value is above the threshold: all, or where a mask (broadcast) says so.
        """
        weight, mean, scale = parameters
        if first is False:
            return mixture_quantile(weight, mean, scale, uniform)
        given = torch.as_tensor(first, device=uniform.device)
        below = torch.logsumexp(weight + normal_log_cdf(threshold[..., None], mean, scale), dim=-1).exp()
        uniform = torch.where(given, below + uniform * (1 - below), uniform)
        value = mixture_quantile(weight, mean, scale, uniform)
        return torch.where(given, torch.maximum(value, threshold), value)


def mixture_quantile(log_weight: Tensor, mean: Tensor, log_scale: Tensor, uniform: Tensor) -> Tensor:
    """Inverse of a normal mixture's distribution function by bisection: (…, components), (…) → (…).

    The quantile of a mixture lies between the smallest and the largest of its components' quantiles.
    """
    weight, deviation = log_weight.exp(), log_scale.exp()
    uniform = uniform.clamp(1e-6, 1 - 1e-6)
    each = mean + deviation * torch.special.ndtri(uniform)[..., None]
    low, high = each.amin(-1), each.amax(-1)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        reached = (weight * torch.special.ndtr((middle[..., None] - mean) / deviation)).sum(-1) >= uniform
        low, high = torch.where(reached, low, middle), torch.where(reached, middle, high)
    return (low + high) / 2


class JointHead(nn.Module):
    """A mixture of whole curves: given its component a curve's periods are independent normals, so the likelihood of
    any set of observed, censored and unknown periods is closed-form, and a path takes one pass of the decoder.

    Args:
        width: Of the decoder's states.
        components: Curves a mixture.
        repeats: Not used: a curve of the mixture is whole, and reads last year from the decoder's states.
    """

    joint = True

    def __init__(self, width: int, components: int, repeats: bool = False) -> None:
        super().__init__()
        self.components = components
        self.norm = nn.LayerNorm(width)
        self.weight = nn.Linear(width, components)
        self.project = nn.Linear(width, 2 * components)
        for layer in (self.weight, self.project):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        with torch.no_grad():
            self.project.bias[:components] = torch.linspace(-1.5, 1.5, components)
            self.project.bias[components:] = -1.0

    def forward(
        self, states: Tensor, anchor: Tensor, last_year: tuple[Tensor, Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(n, periods, width) → log weights (n, components), means and log scales (n, periods, components)."""
        states = self.norm(states)
        mean, scale = self.project(states).chunk(2, dim=-1)
        return self.weight(states.mean(dim=1)).log_softmax(-1), mean, scale.clamp(*_LOG_SCALE_BOUNDS)

    def log_likelihood(self, parameters: tuple[Tensor, Tensor, Tensor], batch: dict[str, Tensor]) -> Tensor:
        """Log likelihood of the periods after the observed ones, together, in the first of them: (n, periods)."""
        weight, mean, scale = parameters
        periods = torch.arange(mean.shape[1], device=mean.device)
        later = periods >= batch["observed"][:, None]
        below = normal_log_cdf(batch["threshold"][..., None], mean, scale)
        each = censored_log_likelihood(
            normal_log_density(batch["value"][..., None], mean, scale), below, batch["state"][..., None]
        )
        together = torch.logsumexp(weight + (each * later[..., None]).sum(1), dim=-1)
        unseen = (batch["observed"] == 0) & (batch["state"][:, 0] == OBSERVED) & begins_on_chart(batch)
        on_chart = torch.logsumexp(weight + log_survival(below[:, 0]), dim=-1)
        together = together - torch.where(unseen, on_chart, 0.0)
        return torch.where(periods == batch["observed"][:, None], together[:, None], 0.0)

    def place(self, parameters: tuple[Tensor, Tensor, Tensor], batch: dict[str, Tensor], uniform: Tensor) -> Tensor:
        """As of `AutoregressiveHead`, in each period's own distribution."""
        weight, mean, scale = parameters
        below = normal_log_cdf(batch["threshold"][:, :1, None], mean[:, :1], scale[:, :1])
        # A song that debuts is on the chart, which makes curves that start high more likely in later periods too.
        given = (weight[:, None] + log_survival(below)).log_softmax(-1)
        unseen = ((batch["observed"] == 0) & begins_on_chart(batch))[:, None, None]
        later = torch.arange(mean.shape[1], device=mean.device)[:, None] > 0
        weights = torch.where(unseen & later, given, weight[:, None])

        def cdf(value: Tensor) -> Tensor:
            return torch.logsumexp(weights + normal_log_cdf(value[..., None], mean, scale), dim=-1).exp()

        return _placed(cdf(batch["value"]), cdf(batch["threshold"]), batch, uniform)

    def draw(
        self,
        parameters: tuple[Tensor, Tensor, Tensor],
        uniform: Tensor,
        component: Tensor,
        batch: dict[str, Tensor],
        threshold: Tensor,
    ) -> Tensor:
        """Paths (n, paths, periods) from uniform numbers of that shape and one a path for its component (n, paths).

        `threshold` (n, paths) is the chart's lowest in the first period.
        """
        weight, mean, scale = parameters
        below = normal_log_cdf(threshold[..., None], mean[:, None, 0], scale[:, None, 0])
        unseen = ((batch["observed"] == 0) & begins_on_chart(batch))[:, None]
        weight = weight[:, None].expand_as(below)
        weight = torch.where(unseen[..., None], (weight + log_survival(below)).log_softmax(-1), weight)
        # From low curves to high, so that a larger number is a better path.
        order = mean.mean(dim=1).argsort(dim=-1)
        reached = weight.exp().gather(-1, order[:, None].expand_as(weight)).cumsum(-1)
        chosen = torch.searchsorted(reached.contiguous(), component[..., None].contiguous()).squeeze(-1)
        chosen = order.gather(-1, chosen.clamp(max=self.components - 1))
        take = chosen[:, :, None].expand(-1, -1, mean.shape[1])
        mean, scale = (part.transpose(1, 2).gather(1, take) for part in (mean, scale))
        first = below.exp().gather(-1, chosen[..., None]).squeeze(-1)
        start = torch.where(unseen, first + uniform[..., 0] * (1 - first), uniform[..., 0])
        uniform = torch.cat([start[..., None], uniform[..., 1:]], dim=-1).clamp(1e-6, 1 - 1e-6)
        paths = mean + scale.exp() * torch.special.ndtri(uniform)
        first_period = torch.where(unseen, torch.maximum(paths[..., 0], threshold), paths[..., 0])
        return torch.cat([first_period[..., None], paths[..., 1:]], dim=-1)


def _placed(at_value: Tensor, at_threshold: Tensor, batch: dict[str, Tensor], uniform: Tensor) -> Tensor:
    """PIT from the distribution function at the value and at the chart's lowest; a debut's first period is above it."""
    place = torch.where(batch["state"] == OBSERVED, at_value, uniform * at_threshold)
    first = (at_value[:, 0] - at_threshold[:, 0]) / (1 - at_threshold[:, 0]).clamp(min=1e-6)
    start = torch.where((batch["state"][:, 0] == OBSERVED) & begins_on_chart(batch), first, place[:, 0])
    return torch.cat([start[:, None], place[:, 1:]], dim=1).clamp(1e-6, 1 - 1e-6)


HEADS: dict[str, type[AutoregressiveHead] | type[JointHead]] = {
    "autoregressive": AutoregressiveHead,
    "joint": JointHead,
}
