"""MP3Model: gradients everywhere, save and load, what it is told in training and in sampling, audio and its absence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_charts import HORIZON, REGIONS, small_charts

from mp3model import MP3Config, MP3Model
from mp3model.files import InputError
from mp3model.model.covariates import GROUPS, Covariates, only_observed
from mp3model.model.modeling_mp3 import Audio, known_periods, period_weights
from mp3model.model.sampling import tensors
from mp3model.tables.curves import BELOW, OBSERVED, UNKNOWN, taken
from mp3model.tables.debuts import debut_rows, debuts_of, with_cutoff
from mp3model.tables.history import History

HEARS = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "frames": 100, "patch_stride": [16, 16]}
STATISTICS = {name: {region: [1.0, 0.5] for region in REGIONS} for name in ("total", "debut_rank")}
LIKELIHOODS = ("autoregressive", "joint")
ROWS = 24


def model_of(seed: int = 0, **changes: Any) -> MP3Model:
    torch.manual_seed(seed)
    config = MP3Config(
        **{
            "regions": list(REGIONS),
            "encoder": "none",
            "horizon": HORIZON,
            "components": 3,
            "decoder_width": 16,
            "decoder_layers": 1,
            "decoder_heads": 2,
            "covariates": list(GROUPS),
            "audio_segments": 2,
            "target_statistics": STATISTICS,
            **HEARS,
            **changes,
        }
    )
    model = MP3Model(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def batch_of(observed: Any = None, held: bool = False) -> dict[str, torch.Tensor]:
    """Debuts of the small dataset with descriptors and, of two songs, audio."""
    dataset = small_charts()
    debuts = debuts_of(dataset, debut_rows(dataset), HORIZON)
    at = np.arange(0, 7 * ROWS, 7)
    observed = np.arange(ROWS) % 4 if observed is None else observed
    rows = with_cutoff(debuts.rows.iloc[at], observed, "W")
    history = History(dataset, dict.fromkeys(REGIONS, 1000.0))
    covariates = Covariates(list(REGIONS), "W", HORIZON, GROUPS, history.states, history)
    gathered = covariates.gather(rows, taken(debuts.curves, at))
    batch = tensors(only_observed(gathered) if held else gathered, torch.device("cpu"))
    batch["song"] = torch.arange(ROWS) % 3 - 1
    # These are debuts; every other one is told something of a year before all the same.
    batch["last_year"][::2] = torch.tensor([0.4, 1.0, 0.0, 0.5, 0.2])
    batch["descriptors"] = torch.randn(ROWS, 2, generator=torch.Generator().manual_seed(5))
    batch["descriptors"][::4] = torch.nan
    return batch


def heard(songs: int = 2) -> dict[str, torch.Tensor]:
    return {"waveforms": 0.1 * torch.randn(songs, 16_240, generator=torch.Generator().manual_seed(2))}


def numbers(paths: int = 12, seed: int = 0) -> torch.Tensor:
    return torch.rand(ROWS, paths, HORIZON + 1, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("encoder", ["ast", "descriptors", "both", "none"])
@pytest.mark.parametrize("mode", ["token", "embedding"])
def test_every_parameter_learns(likelihood, encoder, mode):
    descriptors = ["x_a", "x_b"] if encoder in ("descriptors", "both") else []
    model = model_of(
        encoder=encoder, likelihood=likelihood, descriptors=descriptors, decoder_region_mode=mode, region_drop=0.3
    ).train()
    torch.manual_seed(1)
    batch = batch_of()
    audio = heard() if encoder in ("ast", "both") else {}
    loss = sum(model(batch, **audio).loss for _ in range(3))
    loss.backward()
    learnt = {
        name: parameter.grad is not None and bool(parameter.grad.any()) for name, parameter in model.named_parameters()
    }
    lazy = {name for name, moved in learnt.items() if not moved}
    assert lazy == set()


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_a_saved_model_comes_back_the_same(tmp_path, likelihood):
    model = model_of(likelihood=likelihood, encoder="ast", shared_luck=[0.3, 0.1])
    model.config.calibration = {"shift": {"": [0.0, 0.03]}, "spread": {"": [1.0, 1.2]}}
    with torch.no_grad():
        model.members[0].context.mean.normal_()
        model.members[0].context.std.uniform_(0.5, 2)
    model.save_pretrained(tmp_path)
    again = MP3Model.from_pretrained(tmp_path).eval()
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
    assert again.config.calibration == model.config.calibration
    assert again.config.shared_luck == [0.3, 0.1]
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    batch = batch_of()
    assert torch.equal(model(batch, **heard()).loss, again(batch, **heard()).loss)


@pytest.mark.parametrize("change", ["missing", "unknown", "shape"])
def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path, change):
    model_of().save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    if change == "missing":
        weights.pop("writers.0.head.project.weight")
    elif change == "unknown":
        weights["writers.0.head.more"] = torch.zeros(2)
    else:
        weights["writers.0.head.project.weight"] = torch.zeros(2, 3)
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"writers\.0\.head\."):
        MP3Model.from_pretrained(tmp_path)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@torch.no_grad()
def test_the_loss_is_the_mean_over_known_periods_after_the_observed_ones(likelihood):
    model, batch = model_of(likelihood=likelihood), batch_of()
    output = model(batch)
    later = torch.arange(HORIZON) >= batch["observed"][:, None]
    assert output.count == (later & (batch["state"] != UNKNOWN)).sum() == known_periods(batch)
    assert output.loss == pytest.approx(-float(output.log_likelihood.sum() / output.count), rel=1e-5)
    assert not output.log_likelihood[~later].any()


def test_only_the_first_period_to_forecast_counts_more_in_training():
    batch = batch_of()
    weights, alike = period_weights(batch, 5.0), period_weights(batch, 1.0)
    assert alike.sum() == known_periods(batch)
    for row, observed in enumerate(batch["observed"].tolist()):
        known = (batch["state"][row] != UNKNOWN).float()
        known[:observed] = 0
        assert torch.equal(alike[row], known)
        if observed < HORIZON:
            known[observed] *= 5
        assert torch.equal(weights[row], known)
    # The first week of a song that has a past is a week like the others.
    batch["running"] = torch.arange(ROWS) % 2 == 0
    weights = period_weights(batch, 5.0)
    assert torch.equal(weights[::2], alike[::2])
    assert not torch.equal(weights[1::2], alike[1::2])


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@torch.no_grad()
def test_two_half_batches_add_up_to_the_whole(likelihood):
    model, batch = model_of(likelihood=likelihood), batch_of()
    halves = [{name: value[part] for name, value in batch.items()} for part in (slice(0, 9), slice(9, ROWS))]
    whole, parts = model(batch), [model(half) for half in halves]
    assert int(whole.count) == sum(int(part.count) for part in parts)
    told = torch.cat([part.log_likelihood for part in parts])
    torch.testing.assert_close(told, whole.log_likelihood, rtol=0, atol=2e-5)


@torch.no_grad()
def test_the_likelihood_of_a_period_hangs_on_no_later_one():
    model, batch = model_of(), batch_of(0)
    other = dict(batch)
    other["value"] = torch.where((torch.arange(HORIZON) >= 5) & (batch["state"] == OBSERVED), 3.0, batch["value"])
    before, after = model(batch).log_likelihood, model(other).log_likelihood
    assert torch.equal(before[:, :5], after[:, :5])
    assert not torch.equal(before[:, 5:], after[:, 5:])


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@torch.no_grad()
def test_a_few_steps_of_training_lower_the_loss(likelihood):
    model, batch = model_of(likelihood=likelihood), batch_of()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    with torch.enable_grad():
        for _ in range(25):
            loss = model(batch).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.2


@pytest.mark.parametrize("nulls", ["censored", "masked", "zero"])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_observed_periods_come_back_exactly_and_nothing_after_them_is_read(likelihood, nulls):
    model, batch = model_of(likelihood=likelihood, nulls=nulls), batch_of()
    held = batch_of(held=True)
    paths = model.sample(held, numbers())
    seen = torch.arange(HORIZON) < batch["observed"][:, None]
    told = torch.where(batch["state"] == OBSERVED, batch["value"], batch["threshold"] - 1)
    given = seen & (batch["state"] != UNKNOWN)
    assert given.any()
    for path in range(paths.shape[1]):
        assert torch.equal(paths[:, path][given], told[given])
    # The whole curve in hand, and a wild one, give the same paths.
    assert torch.equal(model.sample(batch, numbers()), paths)
    wild = dict(batch)
    wild["value"] = torch.where(seen, batch["value"], 9.0)
    wild["state"] = torch.where(seen, batch["state"], BELOW)
    wild["threshold"] = torch.where(seen, batch["threshold"], 4.0)
    assert torch.equal(model.sample(wild, numbers()), paths)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_what_was_observed_moves_what_follows(likelihood):
    model, batch = model_of(likelihood=likelihood), batch_of(2, held=True)
    higher = batch | {"value": batch["value"] + 1.0 * (batch["state"] == OBSERVED)}
    moved = model.sample(higher, numbers())[:, :, 2:] - model.sample(batch, numbers())[:, :, 2:]
    assert (moved.abs().amax(dim=(1, 2)) > 1e-3).all()
    if likelihood == "autoregressive":
        # Means are measured from the last value.
        assert moved.mean() > 0


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_rows_in_another_order_are_the_same_rows(likelihood):
    model, batch = model_of(likelihood=likelihood), batch_of(held=True)
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(3))
    mixed = {name: value[order] for name, value in batch.items()}
    told = model.sample(batch, numbers())
    torch.testing.assert_close(model.sample(mixed, numbers()[order]), told[order], rtol=0, atol=1e-4)
    one = {name: value[4:5] for name, value in batch.items()}
    torch.testing.assert_close(model.sample(one, numbers()[4:5]), told[4:5], rtol=0, atol=1e-4)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_a_path_hangs_on_its_own_numbers_alone(likelihood):
    model, batch, uniform = model_of(likelihood=likelihood), batch_of(held=True), numbers()
    told = model.sample(batch, uniform)
    torch.testing.assert_close(model.sample(batch, uniform[:, 3:5]), told[:, 3:5], rtol=0, atol=2e-4)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@torch.no_grad()
def test_each_member_writes_its_share_of_the_paths(likelihood):
    model, batch, uniform = model_of(likelihood=likelihood, members=3), batch_of(held=True), numbers(8)
    told, lowest = model.sample(batch, uniform), model.thresholds(batch, 8)
    for turn, member in enumerate(model.members):
        alone = member.sample(batch, uniform[:, turn::3], lowest[:, turn::3])
        torch.testing.assert_close(alone, told[:, turn::3], rtol=0, atol=2e-4)
    others = model.members[1].sample(batch, uniform[:, ::3], lowest[:, ::3])
    assert (others - told[:, ::3]).abs().max() > 1e-2
    # Fewer paths than members: the first ones write them.
    torch.testing.assert_close(model.sample(batch, uniform[:, :2]), told[:, :2], rtol=0, atol=2e-4)


@torch.no_grad()
def test_members_hear_through_one_encoder_and_their_loss_is_the_mean_of_each():
    model, batch, audio = model_of(members=3, encoder="ast"), batch_of(), heard()
    losses = []
    for member in model.members:
        alone = model_of(encoder="ast")
        alone.mp2.load_state_dict(model.mp2.state_dict())
        alone.members[0].load_state_dict(member.state_dict())
        losses.append(float(alone(batch, **audio).loss))
    assert np.ptp(losses) > 1e-3
    assert float(model(batch, **audio).loss) == pytest.approx(np.mean(losses), rel=1e-5)


def test_a_model_without_members_is_refused():
    with pytest.raises(InputError, match="members is 0; it must be 1 or more"):
        model_of(members=0)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_a_song_of_which_nothing_is_observed_starts_on_the_chart(likelihood):
    model, batch = model_of(likelihood=likelihood), batch_of(0, held=True)
    batch["last_threshold"] = batch["last_threshold"] + 1.0
    paths = model.sample(batch, numbers(200))
    assert (paths[:, :, 0] >= batch["last_threshold"][:, None]).all()
    assert (paths[:, :, 1:] < batch["last_threshold"][:, None, None]).any()


def test_a_path_is_told_its_own_past_as_training_told_it():
    # Sampled with numbers, then scored by `probability_transform`: every period gives its number back.
    model, batch = model_of(3), batch_of(2, held=True)
    uniform = numbers(1)
    path = model.sample(batch, uniform)[:, 0]
    threshold = batch["last_threshold"][:, None]
    later = torch.arange(HORIZON) >= 2
    below = path < threshold
    state = torch.where(later, torch.where(below, BELOW, OBSERVED), batch["state"])
    whole = batch | {
        "value": torch.where(later & ~below, path, batch["value"]),
        "state": state,
        "threshold": torch.where(later, threshold, batch["threshold"]),
    }
    place = model.probability_transform(whole, torch.zeros(ROWS, HORIZON) + 0.5)
    charted = later & (state == OBSERVED)
    assert charted.sum() > 40
    assert (later & (state == BELOW)).sum() > 20
    torch.testing.assert_close(place[charted], uniform[:, 0, :-1][charted], rtol=0, atol=1e-3)
    assert place[:, :2].isnan().all()


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_the_transform_is_uniform_for_the_models_own_paths(likelihood, members):
    from scipy.stats import kstest

    # A model half of whose periods lie below the chart.
    model, paths = model_of(3, likelihood=likelihood, members=members), 150
    with torch.no_grad():
        # Members that hardly overlap: what one has foreseen the others have not.
        for place, member in enumerate(model.members):
            member.head.project.bias[3:6] += 0.8 * (place - (members - 1) / 2)
    batch = batch_of(0, held=True)
    drawn = model.sample(batch, numbers(paths, seed=8)).transpose(0, 1).reshape(paths * ROWS, HORIZON)
    repeated = {name: value.repeat(paths, *[1] * (value.ndim - 1)) for name, value in batch.items()}
    threshold = repeated["last_threshold"][:, None].expand(-1, HORIZON)
    below = drawn < threshold
    repeated |= {
        "state": torch.where(below, BELOW, OBSERVED),
        "value": torch.where(below, 0.0, drawn),
        "threshold": threshold,
    }
    uniform = torch.rand(drawn.shape, generator=torch.Generator().manual_seed(4))
    place = model.probability_transform(repeated, uniform).numpy()
    assert 0.1 < below[:, 1:].float().mean() < 0.9
    for period in range(HORIZON):
        assert kstest(place[:, period], "uniform").pvalue > 1e-3, period
    if likelihood == "autoregressive":
        # Nor does one period tell of the next.
        between = [np.corrcoef(place[:, period], place[:, period + 1])[0, 1] for period in range(HORIZON - 1)]
        assert np.abs(between).max() < 0.07


def test_what_a_period_below_the_chart_is_to_the_loss_is_configured():
    batch = batch_of(0)
    below = batch["state"] == BELOW
    assert below.sum() > 10
    counts, likelihoods = {}, {}
    for nulls in ("censored", "masked", "zero"):
        output = model_of(nulls=nulls)(batch)
        counts[nulls], likelihoods[nulls] = int(output.count), output.log_likelihood.detach()
    assert counts["censored"] == counts["zero"] == counts["masked"] + int(below.sum())
    assert not likelihoods["masked"][below].any()
    assert likelihoods["censored"][below].max() <= 0
    # Zero stands for a tenth of the lowest, in the likelihood as an observed value.
    other = batch | {
        "state": torch.where(below, OBSERVED, batch["state"]),
        "value": torch.where(below, batch["threshold"] - 1, batch["value"]),
    }
    assert torch.equal(model_of(nulls="censored")(other).log_likelihood, likelihoods["zero"])


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_a_row_without_audio_is_one_whose_audio_is_absent(likelihood):
    model, batch = model_of(encoder="ast", likelihood=likelihood), batch_of(held=True)
    audio = model.listen(**heard())
    silent = batch | {"song": torch.full((ROWS,), -1)}
    with_audio = model.sample(batch, numbers(), audio)
    told = model.sample(silent, numbers(), audio)
    torch.testing.assert_close(model.sample(batch, numbers(), audio, absent=("audio",)), told, rtol=0, atol=2e-4)
    torch.testing.assert_close(model.sample(batch, numbers(), None), told, rtol=0, atol=2e-4)
    # What else is absent with it may be named in the same place.
    assert not torch.equal(model.sample(batch, numbers(), audio, absent=("audio", "state")), told)
    mute = batch["song"] < 0
    torch.testing.assert_close(with_audio[mute], told[mute], rtol=0, atol=2e-4)
    moved = (with_audio - told).abs().amax(dim=(1, 2))
    assert (moved[~mute] > 1e-3).all()


def test_audio_heard_before_is_audio_heard_now_and_regions_of_a_song_share_it():
    model, batch = model_of(encoder="ast"), batch_of()
    audio = model.listen(**heard())
    assert audio.tokens.shape == (2, 2 + 1 + 2, HEARS["hidden_size"])
    assert audio.states.shape == (2, len(REGIONS), HEARS["hidden_size"] + 2)
    torch.testing.assert_close(model(batch, audio=audio).loss, model(batch, **heard()).loss)
    swapped = Audio(audio.tokens.flip(0), audio.states.flip(0))
    other = batch | {"song": torch.where(batch["song"] >= 0, 1 - batch["song"], -1)}
    torch.testing.assert_close(model(other, audio=swapped).loss, model(batch, audio=audio).loss)
    changed = model(batch, audio=swapped).log_likelihood - model(batch, audio=audio).log_likelihood
    assert changed.abs().max() > 1e-3


@pytest.mark.parametrize("audio_context", ["state", "prediction"])
def test_without_tokens_a_decoder_hears_of_its_own_region_alone(audio_context):
    model = model_of(encoder="ast", audio_context=audio_context)
    batch, audio = batch_of(held=True), model.listen(**heard())
    told = model.sample(batch, numbers(), audio)
    assert torch.equal(model.sample(batch, numbers(), audio._replace(tokens=audio.tokens + 1)), told)
    other = audio._replace(states=audio.states.clone())
    other.states[:, 0] += 1.0
    moved = (model.sample(batch, numbers(), other) - told).abs().amax(dim=(1, 2)) > 1e-3
    assert torch.equal(moved, (batch["region"] == 0) & (batch["song"] >= 0))
    assert not any(name.startswith("writers.0.hear.") for name in model.state_dict())


def test_a_decoder_of_predictions_hears_no_state():
    model = model_of(encoder="ast", audio_context="prediction")
    batch, audio = batch_of(held=True), model.listen(**heard())
    predictions = len(model.config.targets)
    other = audio._replace(states=audio.states.clone())
    other.states[..., :-predictions] += 1.0
    assert torch.equal(model.sample(batch, numbers(), other), model.sample(batch, numbers(), audio))


def test_a_region_the_model_does_not_know_hears_the_mean_of_all():
    model, batch = model_of(encoder="ast"), batch_of(held=True)
    audio = model.listen(**heard())
    unknown = batch | {"region": torch.full((ROWS,), len(REGIONS)), "song": torch.zeros(ROWS, dtype=torch.long)}
    even = Audio(audio.tokens, audio.states.mean(dim=1, keepdim=True).expand_as(audio.states))
    told = model.sample(unknown, numbers(), audio)
    assert told.isfinite().all()
    torch.testing.assert_close(model.sample(unknown, numbers(), even), told, rtol=0, atol=2e-4)


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_that_is_absent_moves_no_path(group):
    from mp3model.model.covariates import static_width

    model, batch = model_of(), batch_of(held=True)
    place = GROUPS.index(group)
    start = static_width(GROUPS[:place])
    other = batch | {"static": batch["static"].clone()}
    other["static"][:, start : start + static_width([group])] = 1.0
    kind = {"regions": 0, "artist": 1}.get(group, -1)
    other["tokens"] = torch.where((batch["token_kind"] == kind)[..., None], 2.0, batch["tokens"])
    told = model.sample(batch, numbers(), absent=(group,))
    torch.testing.assert_close(model.sample(other, numbers(), absent=(group,)), told, rtol=0, atol=2e-4)
    assert (model.sample(other, numbers()) - model.sample(batch, numbers())).abs().max() > 1e-3


def test_a_model_that_does_not_hear_says_so():
    with pytest.raises(ValueError, match="'none': it does not hear"):
        model_of().listen(**heard())
    with pytest.raises(InputError, match=r"patch_drop 0\.5"):
        model_of(encoder="ast", patch_drop=0.5)


def test_layer_groups_and_undecayed_weights_name_parameters():
    import re

    model = model_of(encoder="ast", members=2)
    names = {name for name, _ in model.named_parameters()}
    kept = {name for name in names if "region.weight" in name or "kind" in name or name.endswith(("_token", "_tokens"))}
    assert {name for name in kept if "hear" not in name} <= model.no_weight_decay()
    assert not {name for name in model.no_weight_decay() if not name.startswith("mp2.")} - names
    groups = model.group_matcher()
    assert any(re.match(groups["stem"], name) for name in names)
    assert any(re.match(groups["blocks"], name) for name in names)
    assert not any(
        re.match(groups["blocks"], name) or re.match(groups["stem"], name) for name in names if "mp2" not in name
    )
