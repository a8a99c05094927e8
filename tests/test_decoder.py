"""The transformer over periods: causal, the same period by period as at once, deaf to what is masked."""

from __future__ import annotations

import pytest
import torch

from mp3model.model.decoder import CurveDecoder, period_positions

WIDTH, CALENDAR, HORIZON, TOKENS, N = 16, 5, 9, 6, 4
MODES = ("sum", "concat")


def decoder(mode: str = "sum", causal: bool = True, layers: int = 2) -> CurveDecoder:
    torch.manual_seed(0)
    made = CurveDecoder(WIDTH, layers, 2, CALENDAR, mode, causal).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


def inputs(horizon: int = HORIZON, seed: int = 1) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "value": torch.randn(N, horizon, generator=generator),
        "step": torch.randn(N, horizon, generator=generator),
        "flag": torch.randint(0, 4, (N, horizon), generator=generator),
        "calendar": torch.randn(N, horizon, CALENDAR, generator=generator),
        "summary": torch.randn(N, 1, WIDTH, generator=generator),
        "context": torch.randn(N, TOKENS, WIDTH, generator=generator),
        "known": torch.cat([torch.ones(N, 1), torch.rand(N, TOKENS - 1, generator=generator) < 0.6], dim=1).bool(),
    }


def states_of(model: CurveDecoder, given: dict[str, torch.Tensor]) -> torch.Tensor:
    periods = torch.arange(given["value"].shape[1])
    stream = model.embed(given["value"], given["step"], given["flag"], given["calendar"], periods, given["summary"])
    return model(stream, given["context"], given["known"])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("place", [1, 4, HORIZON - 1])
@torch.no_grad()
def test_a_later_input_changes_no_earlier_state(mode, place):
    model, given = decoder(mode), inputs()
    before = states_of(model, given)
    other = {name: values.clone() for name, values in given.items()}
    other["value"][:, place:] += 5.0
    other["flag"][:, place:] = 0
    other["calendar"][:, place:] -= 3.0
    after = states_of(model, other)
    assert torch.equal(before[:, :place], after[:, :place])
    assert ((before - after)[:, place:].abs().amax(dim=-1) > 1e-3).all()
    changed = (states_of(decoder(mode, causal=False), other) - states_of(decoder(mode, causal=False), given)).abs()
    assert changed[:, 0].max() > 1e-4


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shared", [0, 1, 4, HORIZON])
@torch.no_grad()
def test_period_by_period_gives_the_states_of_one_pass(mode, shared):
    # Paths agree on the first periods, which one cache serves, and differ after them.
    model, paths = decoder(mode), 3
    several = [inputs(seed=seed) for seed in range(paths)]
    for given in several[1:]:
        for name in ("calendar", "summary", "context", "known"):
            given[name] = several[0][name]
        for name in ("value", "step", "flag"):
            given[name][:, :shared] = several[0][name][:, :shared]
    told = torch.stack([states_of(model, given) for given in several], dim=1)
    cache = model.begin(several[0]["context"], several[0]["known"], HORIZON)
    for period in range(HORIZON):
        width = 1 if period < shared else paths
        outcome = (
            torch.stack([given[name][:, period] for given in several[:width]], dim=1)
            for name in ("value", "step", "flag")
        )
        calendar = several[0]["calendar"][:, period : period + 1].expand(-1, width, -1)
        token = model.embed(*outcome, calendar, torch.tensor([period]), several[0]["summary"])
        state = model.step(token, cache)
        torch.testing.assert_close(state, told[:, :width, period], rtol=0, atol=1e-5)
    assert cache.period == HORIZON


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_a_masked_context_token_is_not_seen(mode):
    model, given = decoder(mode), inputs()
    before = states_of(model, given)
    hidden = {**given, "context": torch.where(given["known"][..., None], given["context"], 100.0)}
    torch.testing.assert_close(states_of(model, hidden), before, rtol=0, atol=1e-6)
    seen = {**given, "context": given["context"].clone()}
    seen["context"][:, 0] += 1.0
    assert ((states_of(model, seen) - before).abs().amax(dim=(1, 2)) > 1e-3).all()


@torch.no_grad()
def test_more_masked_tokens_change_nothing():
    model, given = decoder(), inputs()
    longer = {
        **given,
        "context": torch.cat([given["context"], torch.randn(N, 5, WIDTH)], dim=1),
        "known": torch.cat([given["known"], torch.zeros(N, 5, dtype=torch.bool)], dim=1),
    }
    torch.testing.assert_close(states_of(model, longer), states_of(model, given), rtol=0, atol=1e-6)


@torch.no_grad()
def test_the_order_of_context_tokens_changes_nothing():
    model, given = decoder(), inputs()
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    mixed = {**given, "context": given["context"][:, order], "known": given["known"][:, order]}
    torch.testing.assert_close(states_of(model, mixed), states_of(model, given), rtol=0, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_a_curve_longer_than_any_before_has_finite_states(mode):
    states = states_of(decoder(mode), inputs(horizon=400))
    assert states.shape == (N, 400, WIDTH)
    assert states.isfinite().all()


def test_every_period_has_a_position_of_its_own():
    positions = period_positions(torch.arange(400))
    assert positions.abs().max() <= 1
    apart = torch.cdist(positions, positions) + 10 * torch.eye(400)
    assert apart.min() > 1e-3
    # Early weeks lie farther apart than late ones.
    step = (positions[1:] - positions[:-1]).norm(dim=1)
    assert step[0] > 10 * step[300]


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_positions_take_their_own_channels_when_joined(mode):
    model, given, told = decoder(mode), inputs(), ("value", "step", "flag", "calendar")
    near, far = (
        model.embed(*(given[name] for name in told), torch.arange(HORIZON) + start, given["summary"])
        for start in (0, 50)
    )
    moved = (near - far).abs().amax(dim=(0, 1)) > 1e-6
    assert moved.sum() == (WIDTH // 4 if mode == "concat" else WIDTH)


@pytest.mark.parametrize("mode", MODES)
def test_every_weight_of_the_decoder_learns(mode):
    model = decoder(mode)
    states_of(model, inputs()).square().sum().backward()
    lazy = [name for name, parameter in model.named_parameters() if not parameter.grad.abs().sum() > 0]
    assert lazy == []


def test_dropout_works_in_training_alone():
    model = CurveDecoder(WIDTH, 2, 2, CALENDAR, dropout=0.5)
    assert torch.equal(states_of(model.eval(), inputs()), states_of(model.eval(), inputs()))
    model.train()
    assert not torch.equal(states_of(model, inputs()), states_of(model, inputs()))


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_a_hit_beyond_all_that_was_learnt_from_is_told_as_other_hits_are(mode):
    """1,000 floors look like 10,000, one like neither ten nor itself on the way down."""
    model, given = decoder(mode), inputs()

    def token(level: float, step: float) -> torch.Tensor:
        value, moved = (torch.full((N, HORIZON), number) for number in (level, step))
        flag = torch.ones(N, HORIZON, dtype=torch.int64)
        return model.embed(value, moved, flag, given["calendar"], torch.arange(HORIZON), given["summary"])

    def apart(one: torch.Tensor, other: torch.Tensor) -> float:
        return float((one - other).abs().mean())

    usual = apart(token(0.0, 0.0), token(1.0, 0.0))
    assert apart(token(3.0, 0.0), token(4.0, 0.0)) < 0.2 * usual
    assert apart(token(0.0, 0.0), token(0.0, -0.5)) > 0.2 * usual
