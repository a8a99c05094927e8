"""Likelihoods against SciPy, draws against the distribution functions they invert."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest, norm

from mp3model.model.curve_heads import (
    HEADS,
    AutoregressiveHead,
    JointHead,
    censored_log_likelihood,
    log_survival,
    mixture_quantile,
    normal_log_cdf,
    normal_log_density,
)
from mp3model.tables.curves import BELOW, OBSERVED, UNKNOWN

COMPONENTS, WIDTH, HORIZON = 3, 8, 5


def mixture(shape: tuple[int, ...], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log weights, means and log scales (*shape, COMPONENTS)."""
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randn(3, *shape, COMPONENTS, generator=generator)
    return raw[0].log_softmax(-1), raw[1], 0.5 * raw[2] - 1.0


def curves(n: int = 6, seed: int = 0, first: int = OBSERVED) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    threshold = 0.3 * torch.randn(n, HORIZON, generator=generator) - 0.5
    state = torch.randint(0, 3, (n, HORIZON), generator=generator)
    state[:, 0] = first
    value = threshold + torch.rand(n, HORIZON, generator=generator)
    observed = torch.arange(n) % 3
    return {
        "value": torch.where(state == OBSERVED, value, 0.0),
        "state": state,
        "threshold": threshold,
        "last_threshold": threshold[:, 0].clone(),
        "observed": observed,
    }


def shaken(head: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return head.eval()


def numbers(parameters: tuple[torch.Tensor, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    weight, mean, scale = (part.double().numpy() for part in parameters)
    return np.exp(weight), mean, np.exp(scale)


def test_density_and_distribution_function_are_scipys():
    value, mean, scale = np.array([-30.0, -2.0, 0.0, 0.4, 3.0]), 0.3, 0.7
    log_scale = torch.tensor(math.log(scale), dtype=torch.float64)
    found = normal_log_density(torch.tensor(value), torch.tensor(mean), log_scale).numpy()
    np.testing.assert_allclose(found, norm.logpdf(value, mean, scale), rtol=1e-6)
    found = normal_log_cdf(torch.tensor(value), torch.tensor(mean), log_scale).numpy()
    np.testing.assert_allclose(found, norm.logcdf(value, mean, scale), rtol=1e-6)
    found = log_survival(torch.tensor(norm.logcdf(value[:-1], mean, scale))).numpy()
    np.testing.assert_allclose(found[1:], norm.logsf(value[1:-1], mean, scale), rtol=1e-4)


def test_each_state_counts_with_what_is_known_of_it():
    density, cdf = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([-1.0, -2.0, -3.0])
    state = torch.tensor([OBSERVED, BELOW, UNKNOWN])
    assert censored_log_likelihood(density, cdf, state).tolist() == [1.0, -2.0, 0.0]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_autoregressive_likelihood_is_that_of_a_plain_twin(seed):
    batch, parameters = curves(seed=seed), mixture((6, HORIZON), seed)
    found = AutoregressiveHead(WIDTH, COMPONENTS).log_likelihood(parameters, batch).numpy()
    weight, mean, scale = numbers(parameters)
    for row in range(6):
        for period in range(HORIZON):
            at = (row, period)
            value, threshold = float(batch["value"][at]), float(batch["threshold"][at])
            below = (weight[at] * norm.cdf(threshold, mean[at], scale[at])).sum()
            density = (weight[at] * norm.pdf(value, mean[at], scale[at])).sum()
            if period == 0:
                # Given that it is on the chart.
                density /= 1 - below
            told = {OBSERVED: np.log(density), BELOW: np.log(below), UNKNOWN: 0.0}[int(batch["state"][at])]
            assert found[at] == pytest.approx(told, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_joint_likelihood_is_the_mixture_of_products(seed):
    batch = curves(seed=seed)
    weight, mean, scale = mixture((6, HORIZON), seed)
    weight = weight[:, 0]
    found = JointHead(WIDTH, COMPONENTS).log_likelihood((weight, mean, scale), batch).numpy()
    weights, means, scales = numbers((weight, mean, scale))
    for row in range(6):
        total, on_chart = np.zeros(COMPONENTS), np.zeros(COMPONENTS)
        observed = int(batch["observed"][row])
        for c in range(COMPONENTS):
            product = weights[row, c]
            on_chart[c] = weights[row, c] * norm.sf(
                float(batch["threshold"][row, 0]), means[row, 0, c], scales[row, 0, c]
            )
            for period in range(observed, HORIZON):
                at = (row, period)
                value, threshold = float(batch["value"][at]), float(batch["threshold"][at])
                product *= {
                    OBSERVED: norm.pdf(value, means[row, period, c], scales[row, period, c]),
                    BELOW: norm.cdf(threshold, means[row, period, c], scales[row, period, c]),
                    UNKNOWN: 1.0,
                }[int(batch["state"][at])]
            total[c] = product
        told = np.log(total.sum()) - (np.log(on_chart.sum()) if observed == 0 else 0.0)
        assert found[row, observed] == pytest.approx(told, rel=1e-4, abs=1e-4)
        assert not np.delete(found[row], observed).any()


def test_the_joint_likelihood_of_all_that_can_happen_is_one():
    # Two periods on a grid: the first on the chart, the second on a value or below the chart.
    grid = torch.linspace(-0.5, 6.0, 651)
    step, threshold = float(grid[1] - grid[0]), -0.5
    weight, mean, scale = mixture((1, 2), 3)
    head = JointHead(WIDTH, COMPONENTS)
    first, second = torch.meshgrid(grid, grid, indexing="ij")
    value = torch.stack([first.ravel(), second.ravel()], dim=1)
    n = len(value)

    def mass(state: torch.Tensor, value: torch.Tensor) -> float:
        batch = {
            "value": value,
            "state": state,
            "threshold": torch.full_like(value, threshold),
            "observed": torch.zeros(len(value), dtype=torch.long),
        }
        parameters = (weight[:, 0].expand(len(value), -1), mean.expand(len(value), -1, -1), scale)
        return head.log_likelihood(parameters, batch).sum(dim=1).double().exp().sum().item()

    both = mass(torch.zeros(n, 2, dtype=torch.long), value) * step**2
    left = torch.tensor([[OBSERVED, BELOW]]).expand(len(grid), -1)
    gone = mass(left, torch.stack([grid, torch.zeros_like(grid)], dim=1)) * step
    assert both + gone == pytest.approx(1.0, abs=0.02)
    assert 0.05 < gone < 0.95


def test_the_autoregressive_first_period_integrates_to_one_above_the_chart():
    grid = torch.linspace(-0.5, 8.0, 4001)
    n = len(grid)
    batch = {
        "value": grid[:, None],
        "state": torch.zeros(n, 1, dtype=torch.long),
        "threshold": torch.full((n, 1), -0.5),
    }
    parameters = tuple(part.expand(n, 1, -1) for part in mixture((1, 1), 5))
    mass = AutoregressiveHead(WIDTH, COMPONENTS).log_likelihood(parameters, batch).exp().sum() * (grid[1] - grid[0])
    assert float(mass) == pytest.approx(1.0, abs=5e-3)


@given(seed=st.integers(0, 500))
@settings(max_examples=30)
def test_the_quantile_inverts_the_distribution_function(seed):
    parameters = mixture((40,), seed)
    uniform = torch.rand(40, generator=torch.Generator().manual_seed(seed)).clamp(1e-4, 1 - 1e-4)
    value = mixture_quantile(*parameters, uniform).double().numpy()
    weight, mean, scale = numbers(parameters)
    np.testing.assert_allclose((weight * norm.cdf(value[:, None], mean, scale)).sum(1), uniform.numpy(), atol=1e-4)


@given(seed=st.integers(0, 500), first=st.booleans())
@settings(max_examples=30)
def test_a_larger_number_never_gives_a_smaller_value(seed, first):
    parameters = tuple(part.expand(200, -1) for part in mixture((1,), seed))
    uniform = torch.linspace(0, 1, 200)
    head = AutoregressiveHead(WIDTH, COMPONENTS)
    drawn = head.draw(parameters, uniform, torch.full((200,), 0.4), first)
    assert (drawn.diff() >= -1e-5).all()
    assert drawn.isfinite().all()
    assert not first or (drawn >= 0.4).all()


def test_draws_follow_the_mixture_and_the_first_the_part_on_the_chart():
    parameters = tuple(part.expand(4000, -1) for part in mixture((1,), 2))
    uniform = torch.rand(4000, generator=torch.Generator().manual_seed(0))
    weight, mean, scale = (part[0] for part in numbers(parameters))
    head, threshold = AutoregressiveHead(WIDTH, COMPONENTS), torch.full((4000,), 0.2)

    def cdf(value: np.ndarray) -> np.ndarray:
        return (weight * norm.cdf(np.asarray(value)[..., None], mean, scale)).sum(-1)

    below = cdf(np.array(0.2))
    assert 0.1 < below < 0.95
    later = head.draw(parameters, uniform, threshold, False).double().numpy()
    assert kstest(later, cdf).pvalue > 0.01
    first = head.draw(parameters, uniform, threshold, True).double().numpy()
    assert kstest(first, lambda value: (cdf(value) - below) / (1 - below)).pvalue > 0.01


def test_a_first_period_that_is_almost_never_on_the_chart_is_still_on_it():
    parameters = (torch.zeros(1, 1), torch.full((1, 1), -50.0), torch.full((1, 1), -1.0))
    drawn = AutoregressiveHead(WIDTH, 1).draw(parameters, torch.tensor([0.5]), torch.tensor([0.0]), True)
    assert drawn.tolist() == [0.0]
    batch = {
        "value": torch.zeros(1, 1),
        "state": torch.full((1, 1), OBSERVED),
        "threshold": torch.zeros(1, 1),
        "observed": torch.zeros(1, dtype=torch.long),
        "last_threshold": torch.zeros(1),
    }
    for name, head in HEADS.items():
        shape = (1, 1, 1)
        weight = torch.zeros(1, 1) if name == "joint" else torch.zeros(shape)
        told = (weight, torch.full(shape, -50.0, requires_grad=True), torch.full(shape, -1.0))
        likelihood = head(WIDTH, 1).log_likelihood(told, batch).sum()
        likelihood.backward()
        assert likelihood.isfinite()
        assert told[1].grad.isfinite().all()


def joint_draws(observed: int, paths: int = 4000) -> tuple[JointHead, tuple, dict[str, torch.Tensor], torch.Tensor]:
    weight, mean, scale = mixture((1, HORIZON), 4)
    batch = {"observed": torch.tensor([observed])}
    generator = torch.Generator().manual_seed(1)
    uniform = torch.rand(1, paths, HORIZON + 1, generator=generator)
    head = JointHead(WIDTH, COMPONENTS)
    drawn = head.draw(
        (weight[:, 0], mean, scale), uniform[..., :-1], uniform[..., -1], batch, torch.full((1, paths), 0.3)
    )
    return head, (weight[:, 0], mean, scale), batch, drawn[0]


@pytest.mark.parametrize("observed", [0, 2])
def test_joint_paths_follow_the_mixture_of_curves(observed):
    _, parameters, _, drawn = joint_draws(observed)
    weight, mean, scale = (part[0] for part in numbers(parameters))
    on_chart = weight * norm.sf(0.3, mean[0], scale[0]) if observed == 0 else weight
    on_chart = on_chart / on_chart.sum()
    later = drawn[:, 2].double().numpy()
    assert (
        kstest(later, lambda v: (on_chart * norm.cdf(np.asarray(v)[:, None], mean[2], scale[2])).sum(-1)).pvalue > 0.01
    )
    first = drawn[:, 0].double().numpy()
    if observed == 0:
        lowest, below = 0.3, norm.cdf(0.3, mean[0], scale[0])

        def cdf(value: np.ndarray) -> np.ndarray:
            each = (norm.cdf(np.asarray(value)[:, None], mean[0], scale[0]) - below) / (1 - below)
            return (on_chart * each).sum(-1)

        assert first.min() >= np.float32(lowest)
        assert kstest(first, cdf).pvalue > 0.01
    # Dependence between weeks: the covariance of the mixture.
    both = np.cov(drawn[:, 2:4].double().numpy().T)[0, 1]
    told = (on_chart * mean[2] * mean[3]).sum() - (on_chart * mean[2]).sum() * (on_chart * mean[3]).sum()
    assert both == pytest.approx(told, abs=0.06)


@pytest.mark.parametrize("observed", [0, 2])
def test_the_joint_heads_own_paths_lie_anywhere_in_its_distributions(observed):
    head, parameters, batch, drawn = joint_draws(observed)
    n = len(drawn)
    state = torch.where(drawn < 0.3, BELOW, OBSERVED)
    told = {
        "value": torch.where(state == OBSERVED, drawn, 0.0),
        "state": state,
        "threshold": torch.full_like(drawn, 0.3),
        "observed": batch["observed"].expand(n),
    }
    expanded = tuple(part.expand(n, *part.shape[1:]) for part in parameters)
    place = head.place(expanded, told, torch.rand(drawn.shape, generator=torch.Generator().manual_seed(9)))
    assert (state[:, 1:] == BELOW).float().mean() > 0.1
    for period in range(0 if observed == 0 else observed, HORIZON):
        assert kstest(place[:, period].numpy(), "uniform").pvalue > 0.005, period


def test_the_autoregressive_heads_own_draws_lie_anywhere_in_its_distributions():
    n = 4000
    weight, mean, scale = (part.expand(n, -1, -1) for part in mixture((1, 2), 6))
    head, threshold = AutoregressiveHead(WIDTH, COMPONENTS), torch.full((n,), 0.1)
    uniform = torch.rand(n, 4, generator=torch.Generator().manual_seed(3))
    drawn = torch.stack(
        [head.draw((weight[:, p], mean[:, p], scale[:, p]), uniform[:, p], threshold, p == 0) for p in (0, 1)], dim=1
    )
    state = torch.where(drawn < 0.1, BELOW, OBSERVED)
    assert (state[:, 1] == BELOW).float().mean() > 0.1
    batch = {
        "value": torch.where(state == OBSERVED, drawn, 0.0),
        "state": state,
        "threshold": torch.full((n, 2), 0.1),
        "observed": torch.zeros(n, dtype=torch.long),
    }
    place = head.place((weight, mean, scale), batch, uniform[:, 2:])
    for period in (0, 1):
        assert kstest(place[:, period].numpy(), "uniform").pvalue > 0.005


@given(observed=st.integers(0, 3), seed=st.integers(0, 50))
@settings(max_examples=20)
def test_joint_paths_rise_with_their_numbers(observed, seed):
    weight, mean, scale = mixture((1, HORIZON), seed)
    batch = {"observed": torch.tensor([observed])}
    uniform = torch.linspace(0.001, 0.999, 50)[None, :, None].expand(1, 50, HORIZON)
    # Within one curve of the mixture: more luck in a week, more streams in it.
    even, lowest = torch.full((1, 50), 0.5), torch.zeros(1, 50)
    drawn = JointHead(WIDTH, COMPONENTS).draw((weight[:, 0], mean, scale), uniform, even, batch, lowest)
    assert (drawn.diff(dim=1) >= -1e-6).all()


def test_what_was_not_charted_last_year_changes_nothing():
    head = shaken(AutoregressiveHead(WIDTH, COMPONENTS, repeats=True))
    states, anchor = torch.randn(6, HORIZON, WIDTH), torch.randn(6, HORIZON)
    nothing = torch.zeros(6, HORIZON)
    batch, uniform = curves(), torch.rand(6, HORIZON)
    with torch.no_grad():
        without, none = head(states, anchor), head(states, anchor, (nothing + 5, nothing, nothing + 3))
        torch.testing.assert_close(head.log_likelihood(none, batch), head.log_likelihood(without, batch))
        drawn = [head.draw(each, uniform, batch["threshold"], False) for each in (none, without)]
    torch.testing.assert_close(*drawn, atol=1e-4, rtol=0)


def test_a_song_of_last_year_does_as_it_did_or_goes_on_and_a_weight_says_how_likely_each_is():
    head = AutoregressiveHead(WIDTH, COMPONENTS, repeats=True)
    states, anchor, value = torch.zeros(1, WIDTH), torch.full((1,), -1.0), torch.full((1,), 2.0)
    threshold, uniform = torch.zeros(1, 999), (torch.arange(1, 1000) / 1000)[None]
    for moved in (0.0, 0.5):
        for weight in (-3.0, 0.0, 3.0):
            with torch.no_grad():
                # Narrow, so that the two do not overlap.
                head.repeat.bias.copy_(torch.tensor([weight, 0.0, -3.0]).repeat_interleave(2))
                parameters = head(states, anchor, (value, torch.ones(1), torch.full((1,), moved)))
                parameters = tuple(part[:, None].expand(-1, 999, -1) for part in parameters)
                drawn = head.draw(parameters, uniform, threshold, False)
            again = drawn > 1
            share = 2 * math.exp(weight) / (2 * math.exp(weight) + COMPONENTS)
            assert float(again.float().mean()) == pytest.approx(share, abs=0.01)
            keep = torch.sigmoid(head.project.bias[-1]).item()
            assert float(drawn[again].median()) == pytest.approx(2 + keep * moved, abs=0.02)


@pytest.mark.parametrize("name", HEADS)
def test_a_fresh_head_has_components_apart_and_every_weight_learns(name):
    torch.manual_seed(0)
    head = shaken(HEADS[name](WIDTH, COMPONENTS))
    states = torch.randn(6, HORIZON, WIDTH)
    batch = curves()
    head.log_likelihood(head(states, torch.randn(6, HORIZON)), batch).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in head.parameters())
    fresh = HEADS[name](WIDTH, COMPONENTS)
    _, mean, scale = fresh(states, torch.zeros(6, HORIZON))
    assert (mean.diff(dim=-1) > 0.1).all()
    assert (scale == -1).all()
    # Means are measured from the value before.
    if name == "autoregressive":
        _, higher, _ = fresh(states, torch.ones(6, HORIZON))
        assert torch.allclose(higher - mean, torch.sigmoid(torch.tensor(4.0)).expand_as(mean), atol=1e-6)


@pytest.mark.parametrize("name", HEADS)
def test_what_is_unknown_and_a_value_where_there_is_none_change_nothing(name):
    batch, head = curves(), HEADS[name](WIDTH, COMPONENTS)
    weight, mean, scale = mixture((6, HORIZON))
    parameters = (weight[:, 0] if name == "joint" else weight, mean, scale)
    other = dict(batch)
    other["value"] = torch.where(batch["state"] == OBSERVED, batch["value"], 77.0)
    # The threshold of a charted week counts in the first period alone.
    unread = (batch["state"] != BELOW) & (torch.arange(HORIZON) > 0)
    other["threshold"] = torch.where(unread, -9.0, batch["threshold"])
    torch.testing.assert_close(head.log_likelihood(parameters, other), head.log_likelihood(parameters, batch))
