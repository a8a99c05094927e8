"""Each augmentation against its slow plain twin, on arrays short enough to read."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, kstest

from mp3model.audio.augment import (
    AlternatePreview,
    BandShift,
    Draw,
    Mixup,
    RandomGain,
    RandomRoll,
    SpecAugment,
    TimbreAugment,
    Transpose,
    WaveformAugment,
    draw_numbers,
    generator,
    scaled_draw,
)
from mp3model.audio.frontend import LogMel
from mp3model.files import InputError


def draws_of(batch: int, **columns: float | list[float]) -> torch.Tensor:
    draws = torch.zeros(batch, Draw.COUNT)
    for name, value in columns.items():
        draws[:, Draw[name]] = torch.tensor(value)
    return draws


def random_draws(batch: int) -> torch.Tensor:
    return torch.from_numpy(np.stack([draw_numbers(0, 0, f"song {row}") for row in range(batch)]))


def test_the_numbers_of_a_sample_depend_on_seed_epoch_and_name_alone():
    assert np.array_equal(draw_numbers(1, 2, "a"), draw_numbers(1, 2, "a"))
    others = [draw_numbers(1, 2, "b"), draw_numbers(1, 3, "a"), draw_numbers(2, 2, "a"), draw_numbers(12, 2, "a")]
    assert all(not np.array_equal(draw_numbers(1, 2, "a"), other) for other in others)


def test_the_numbers_of_a_sample_are_these_on_every_machine():
    golden = [0.30221277, 0.4991544, 0.11467141]
    assert np.allclose(draw_numbers(0, 0, "song")[:3], golden, atol=1e-7)


def test_the_numbers_are_uniform_and_below_one():
    numbers = np.concatenate([draw_numbers(0, 0, str(name)) for name in range(400)])
    assert numbers.dtype == np.float32
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert kstest(numbers, "uniform").pvalue > 0.01


@given(st.integers(0, 2**24 - 1), st.integers(1, 2**24 - 1))
def test_a_scaled_draw_stays_below_its_count(numerator, count):
    draw = np.float32(numerator / 2**24)
    assert 0 <= int(scaled_draw(torch.tensor(draw), count)) < count
    assert int(scaled_draw(draw, np.float32(count))) == int(scaled_draw(torch.tensor(draw), count))


def test_alternate_preview_takes_the_one_drawn_among_the_real_ones():
    previews = torch.tensor([[[10, 11], [20, 21], [30, 31]]] * 4)
    counts = torch.tensor([3, 3, 3, 1])
    chosen = AlternatePreview().train()(previews, counts, draws_of(4, PREVIEW=[0.0, 0.34, 0.99, 0.99]))
    assert chosen.tolist() == [[10, 11], [20, 21], [30, 31], [10, 11]]


def test_alternate_preview_takes_the_first_in_evaluation():
    previews = torch.tensor([[[10], [20]]])
    assert AlternatePreview().eval()(previews, torch.tensor([2]), draws_of(1, PREVIEW=0.9)).tolist() == [[10]]


def test_gain_multiplies_by_decibels():
    waveforms = torch.tensor([[0.1, -0.2], [0.1, -0.2], [0.1, -0.2]])
    gain = RandomGain(-20.0, 20.0, probability=0.5).train()
    louder = gain(waveforms, draws_of(3, GAIN=[0.0, 1.0, 1.0], GAIN_APPLIES=[0.0, 0.0, 0.5]))
    assert torch.allclose(louder, torch.tensor([[0.01, -0.02], [1.0, -2.0], [0.1, -0.2]]))


def test_roll_equals_numpy_roll_sample_by_sample():
    waveforms = torch.arange(15.0).view(3, 5)
    draws = draws_of(3, ROLL=[0.0, 0.5, 0.999])
    rolled = RandomRoll(1.0).train()(waveforms, draws)
    expected = [np.roll(row, int(draw * 5)) for row, draw in zip(waveforms.numpy(), [0.0, 0.5, 0.999], strict=True)]
    assert np.array_equal(rolled.numpy(), np.stack(expected))
    assert rolled[1].tolist() == [8.0, 9.0, 5.0, 6.0, 7.0]


def test_roll_leaves_alone_what_is_not_drawn():
    waveforms = torch.arange(5.0)[None]
    rolled = RandomRoll(1.0, probability=0.3).train()(waveforms, draws_of(1, ROLL=0.5, ROLL_APPLIES=0.3))
    assert torch.equal(rolled, waveforms)


def slow_spec_augment(spectrogram, draws, frequency_width, time_width, frequency_masks, time_masks):
    out = spectrogram.copy()
    frames, mels = spectrogram.shape
    for mask in range(time_masks):
        width = int(np.float32(draws[Draw.TIME_MASKS + 2 * mask]) * (min(time_width, frames) + 1))
        start = int(np.float32(draws[Draw.TIME_MASKS + 2 * mask + 1]) * np.float32(frames - width + 1))
        for frame in range(start, start + width):
            out[frame] = 0
    for mask in range(frequency_masks):
        width = int(np.float32(draws[Draw.FREQUENCY_MASKS + 2 * mask]) * (min(frequency_width, mels) + 1))
        start = int(np.float32(draws[Draw.FREQUENCY_MASKS + 2 * mask + 1]) * np.float32(mels - width + 1))
        for band in range(start, start + width):
            out[:, band] = 0
    return out


@pytest.mark.parametrize(("frequency_masks", "time_masks"), [(0, 0), (1, 1), (2, 3)])
def test_spec_augment_equals_its_slow_twin(frequency_masks, time_masks):
    spectrograms = torch.arange(1.0, 1.0 + 6 * 12 * 9).view(6, 12, 9)
    draws = random_draws(6)
    masked = SpecAugment(4, 5, frequency_masks, time_masks).train()(spectrograms, draws)
    for row in range(6):
        expected = slow_spec_augment(spectrograms[row].numpy(), draws[row].numpy(), 4, 5, frequency_masks, time_masks)
        assert np.array_equal(masked[row].numpy(), expected)


def test_spec_augment_masks_two_bands_and_three_frames_as_drawn():
    draws = draws_of(1)
    draws[0, Draw.FREQUENCY_MASKS : Draw.FREQUENCY_MASKS + 2] = torch.tensor([0.5, 0.0])  # width 2 of 0..4, at 0
    draws[0, Draw.TIME_MASKS : Draw.TIME_MASKS + 2] = torch.tensor([0.5, 0.999])  # width 3 of 0..5, at the end
    masked = SpecAugment(4, 5).train()(torch.ones(1, 6, 5), draws)[0]
    expected = torch.ones(6, 5)
    expected[:, :2] = 0
    expected[3:] = 0
    assert torch.equal(masked, expected)


def test_spec_augment_draws_a_mask_for_each_sample():
    masked = SpecAugment(20, 20).train()(torch.ones(16, 40, 40), random_draws(16))
    assert len({tuple(row.flatten().tolist()) for row in masked}) > 10


def test_mixup_mixes_waveforms_and_targets_with_one_weight():
    waveforms, partners = torch.tensor([[1.0, -1.0]] * 3), torch.tensor([[0.5, -0.5]] * 3)
    targets = torch.tensor([[2.0, 4.0]] * 3)
    partner_targets = torch.tensor([[0.0, float("nan")]] * 3)
    mix = Mixup(alpha=1.0, probability=0.5).train()  # Beta(1, 1) is uniform: the weight is the draw itself
    draws = draws_of(3, MIXUP_WEIGHT=[0.25, 0.75, 0.75], MIXUP_APPLIES=[0.0, 0.0, 0.5])
    mixed, mixed_targets = mix(waveforms, targets, partners, partner_targets, draws)
    assert torch.allclose(mixed, torch.tensor([[0.625, -0.625], [0.875, -0.875], [1.0, -1.0]]))
    assert torch.allclose(mixed_targets[:, 0], torch.tensor([0.5, 1.5, 2.0]))
    assert mixed_targets[:, 1].isnan().tolist() == [True, True, False]


def test_mixup_weights_follow_the_beta_distribution():
    draws = random_draws(4000)
    draws[:, Draw.MIXUP_APPLIES] = 0
    ones, zeros = torch.ones(4000, 1), torch.zeros(4000, 1)
    _, weights = Mixup(alpha=10.0).train()(ones, ones, zeros, zeros, draws)
    assert kstest(weights[:, 0].numpy(), beta(10, 10).cdf).pvalue > 0.01


def test_evaluation_changes_nothing_but_the_scale_of_int16():
    previews = (torch.randn(2, 3, 50, generator=torch.Generator().manual_seed(0)) * 1000).to(torch.int16)
    augment = WaveformAugment().eval()
    waveforms = augment(previews, torch.tensor([3, 2]), random_draws(2))
    assert torch.equal(waveforms, previews[:, 0].float() / 32768)
    assert torch.equal(SpecAugment().eval()(waveforms[None], random_draws(1)), waveforms[None])


def test_a_sample_is_augmented_alike_whatever_stands_beside_it():
    previews = (torch.randn(6, 2, 400, generator=torch.Generator().manual_seed(0)) * 1000).to(torch.int16)
    counts, draws = torch.full((6,), 2), random_draws(6)
    augment = WaveformAugment().train()
    together = augment(previews, counts, draws)
    alone = torch.cat([augment(previews[[row]], counts[[row]], draws[[row]]) for row in range(6)])
    assert torch.equal(together, alone)


def test_wrong_settings_are_refused_with_their_value():
    for make, value in [
        (lambda: RandomGain(3.0, -3.0), "-3.0"),
        (lambda: RandomRoll(1.5), "1.5"),
        (lambda: SpecAugment(time_masks=9), "9"),
        (lambda: Mixup(alpha=0.0), "0.0"),
        (lambda: TimbreAugment(["reverb"]), "reverb"),
    ]:
        with pytest.raises(ValueError, match=value):
            make()


def tone(frequency: float) -> np.ndarray:
    return (np.sin(2 * np.pi * frequency * np.arange(16_000) / 16_000) * 8000).astype(np.int16)


def test_timbre_follows_from_its_seed_and_leaves_the_global_generators_alone():
    timbre = TimbreAugment(["equaliser", "low_pass"], probability=1.0)
    np.random.seed(5)  # noqa: NPY002
    expected = np.random.random()  # noqa: NPY002
    np.random.seed(5)  # noqa: NPY002
    first, again, other = timbre(tone(440), 3), timbre(tone(440), 3), timbre(tone(440), 4)
    assert np.random.random() == expected  # noqa: NPY002
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.dtype == np.int16


def test_pitch_shift_moves_the_tone_and_low_pass_dulls_the_noise():
    def peak(waveform):
        return np.abs(np.fft.rfft(waveform.astype(float))).argmax()

    shifted = [peak(TimbreAugment(["pitch"], probability=1.0)(tone(440), seed)) for seed in range(4)]
    assert any(abs(frequency - 440) > 5 for frequency in shifted)
    assert all(440 / 1.13 <= frequency <= 440 * 1.13 for frequency in shifted)
    noise = (np.random.default_rng(0).normal(size=16_000) * 3000).astype(np.int16)
    dulled = TimbreAugment(["low_pass"], probability=1.0)(noise, 1)
    assert np.abs(np.diff(dulled.astype(float))).mean() < np.abs(np.diff(noise.astype(float))).mean()


def test_a_generator_has_its_own_stream_for_each_name():
    assert generator(0, 0, "order").random() != generator(0, 0, "partner").random()


def test_a_band_shift_moves_bands_by_whole_steps_and_fills_with_the_mean():
    mel = torch.arange(1.0, 7.0).expand(3, 2, 6).clone()
    draws = torch.zeros(3, Draw.COUNT)
    # Seven shifts from −3 to 3 share [0, 1) evenly.
    draws[:, Draw.SHIFT] = torch.tensor([0.0, 3.5 / 7, 6.5 / 7])
    moved = BandShift(3)(mel, draws)
    assert moved[0, 0].tolist() == [4.0, 5.0, 6.0, 0.0, 0.0, 0.0]
    assert torch.equal(moved[1], mel[1])
    assert moved[2, 1].tolist() == [0.0, 0.0, 0.0, 1.0, 2.0, 3.0]
    assert torch.equal(BandShift(3).eval()(mel, draws), mel)
    with pytest.raises(InputError, match="-1"):
        BandShift(-1)


def chord(root: float, semitones: tuple[int, ...]) -> torch.Tensor:
    """(16000,) a second of tones of eight partials each, `semitones` above `root` in Hz."""
    seconds = torch.arange(16_000) / 16_000
    tones = [root * 2 ** (semitone / 12) for semitone in semitones]
    return 0.1 * sum(torch.sin(2 * torch.pi * tone * part * seconds) / part for tone in tones for part in range(1, 9))


@pytest.mark.parametrize("up", [-2, 2, 3])
def test_a_transposed_chord_is_the_chord_played_in_the_other_key_and_not_another_chord(up: int):
    frontend, major, minor = LogMel(), (0, 4, 7), (0, 3, 7)
    heard = frontend(chord(220.0, major)[None])
    draws = draws_of(1, SHIFT=(up / 3 + 1) / 2)
    moved = Transpose(3.0)(heard, draws).mean(1)[0, 8:-12]
    same, other = (frontend(chord(220.0 * 2 ** (up / 12), kind)[None]).mean(1)[0, 8:-12] for kind in (major, minor))
    assert (moved - same).abs().mean() < 0.75 * (moved - other).abs().mean()
    by_bands = [(heard.mean(1)[0].roll(bands)[8:-12] - same).abs().mean() for bands in range(-6, 7)]
    assert (moved - same).abs().mean() < 0.75 * min(by_bands)


def test_a_transposition_by_nothing_changes_nothing_and_what_comes_from_outside_is_the_mean():
    mel = torch.randn(3, 5, 128) + 10.0
    draws = draws_of(3, SHIFT=[0.5, 0.0, 1.0])
    moved = Transpose(12.0)(mel, draws)
    torch.testing.assert_close(moved[0], mel[0], atol=1e-3, rtol=0)
    # An octave down leaves what was above 4 kHz, an octave up what was below 40 Hz, without a source.
    assert not moved[1, :, -20:].any()
    assert moved[1, :, :90].all()
    assert not moved[2, :, 0].any()
    assert moved[2, :, 4:].all()
    assert torch.equal(Transpose(12.0).eval()(mel, draws), mel)
    assert torch.equal(Transpose(0.0)(mel, draws), mel)
    with pytest.raises(InputError, match="-1"):
        Transpose(-1)


def test_a_transposition_treats_each_sample_by_its_own_number():
    mel, draws = torch.randn(4, 6, 64), random_draws(4)
    together = Transpose(3.0)(mel, draws)
    for row in range(4):
        torch.testing.assert_close(Transpose(3.0)(mel[row : row + 1], draws[row : row + 1])[0], together[row])
