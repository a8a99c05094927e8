"""Autoen-chorder: its frames, packed sequences, weights and layers, that it learns, and from training rows only."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from mp3model.audio.frontend import LogMel
from mp3model.baselines.autoenchorder import (
    Autoenchorder,
    SequenceAutoencoder,
    frame_statistics,
    make_feed_forward,
    outlier_weights,
    rebuilding_error,
)
from mp3model.baselines.hitmusicnet import ByRegion
from mp3model.files import InputError


def songs(count: int = 120, seed: int = 0) -> tuple[tuple[np.ndarray, list[np.ndarray]], np.ndarray]:
    """Half of the popularity shows in the descriptors, half in the frames; clips of 3 to 6 frames."""
    rng = np.random.default_rng(seed)
    one, two = rng.normal(size=(2, count))
    descriptors = one[:, None] + 0.2 * rng.normal(size=(count, 30))
    frames = [(level + 0.2 * rng.normal(size=(rng.integers(3, 7), 128))).astype(np.float32) for level in two]
    return (descriptors, frames), 0.36 + 0.1 * (one + two)


def test_frames_are_means_and_deviations_of_64_bands_over_960_ms():
    samples = np.random.default_rng(0).normal(0, 3000, 3 * 16_000).astype(np.int16)
    frames = frame_statistics(samples)
    assert frames.shape == (3, 128)
    mel = LogMel(num_mel_bins=64)(torch.from_numpy(samples)[None])[0].numpy()
    np.testing.assert_allclose(frames[1, :64], mel[96:192].mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(frames[1, 64:], mel[96:192].std(axis=0), atol=1e-5)
    np.testing.assert_allclose(frames, frame_statistics(samples / 32768.0), atol=1e-5)
    assert frame_statistics(np.zeros(480_000, np.int16)).shape == (31, 128)


def test_a_clip_shorter_than_one_block_is_refused():
    assert frame_statistics(np.zeros(15_600, np.int16)).shape == (1, 128)
    with pytest.raises(InputError, match=r"0\.975 s"):
        frame_statistics(np.zeros(15_599, np.int16))


def test_weights_are_one_at_the_mean_and_grow_with_the_square():
    weights = outlier_weights(np.array([0.36, 0.46, 0.26, 0.56]), mean=0.36, deviation=0.1)
    assert weights.numpy() == pytest.approx([1.0, math.exp(1 / 8), math.exp(1 / 8), math.exp(1 / 2)])
    assert outlier_weights(np.array([3.0]), 0.0, 1.0, alpha=1.0, beta=3.0).numpy() == pytest.approx([math.exp(3)])


@pytest.mark.parametrize("layers", range(7, 13))
def test_feed_forward_of_7_to_12_layers(layers):
    network = make_feed_forward(layers)
    dense = [layer for layer in network if isinstance(layer, nn.Linear)]
    assert len(dense) == layers
    assert network(torch.rand(3, 40)).shape == (3, 1)
    for layer in dense:
        assert (layer.bias == 0.1).all()
        bound = math.sqrt(6 / (layer.in_features + layer.out_features))
        assert 0.8 * bound < layer.weight.abs().max() <= bound


@pytest.mark.parametrize("layers", [6, 13])
def test_other_numbers_of_layers_are_refused(layers):
    with pytest.raises(InputError, match=f"{layers} layers"):
        make_feed_forward(layers)
    with pytest.raises(InputError, match=f"{layers} layers"):
        Autoenchorder(layers)


def test_padding_reaches_neither_code_nor_loss():
    torch.manual_seed(0)
    network = SequenceAutoencoder()
    frames, lengths = torch.randn(3, 6, 128), torch.tensor([6, 2, 4])
    code, rebuilt = network.code(frames, lengths), network(frames, lengths)
    assert code.shape == (3, 20)
    assert rebuilt.shape == (3, 6, 128)
    assert (rebuilt[1, 2:] == 0).all()
    alone = network.code(frames[1:2, :2], torch.tensor([2]))
    torch.testing.assert_close(code[1:2], alone)
    spoilt = frames.clone()
    spoilt[1, 2:] = 1e3
    torch.testing.assert_close(network.code(spoilt, lengths), code)
    loss = rebuilding_error(network, frames, lengths)
    torch.testing.assert_close(rebuilding_error(network, spoilt, lengths), loss)
    by_hand = [(rebuilt[song, : lengths[song]] - frames[song, : lengths[song]]).square() for song in range(3)]
    torch.testing.assert_close(loss, torch.cat(by_hand).mean())


def test_it_learns_from_both_halves():
    inputs, values = songs()
    others, true = songs(60, seed=1)
    model = Autoenchorder(epochs=60, sequence_epochs=30).fit(inputs, values)
    predicted = model.predict(others)
    assert np.corrcoef(predicted, true)[0, 1] > 0.85
    shuffled = (others[0], others[1][::-1])
    assert np.corrcoef(model.predict(shuffled), true)[0, 1] < 0.85
    assert model.codes(others).shape == (60, 40)


def test_a_fit_begins_anew_and_follows_its_seed_only():
    inputs, values = songs(20)
    model = Autoenchorder(epochs=2, sequence_epochs=2)
    first = model.fit(inputs, values).predict(inputs)
    torch.manual_seed(99)
    np.testing.assert_array_equal(model.fit(inputs, values).predict(inputs), first)
    other = Autoenchorder(epochs=2, sequence_epochs=2, seed=1).fit(inputs, values).predict(inputs)
    assert not np.array_equal(first, other)


def test_weighting_changes_the_fit_and_none_weighs_alike():
    inputs, values = songs(20)
    weighted = Autoenchorder(epochs=2, sequence_epochs=1).fit(inputs, values).predict(inputs)
    plain = Autoenchorder(alpha=None, epochs=2, sequence_epochs=1).fit(inputs, values).predict(inputs)
    nearly = Autoenchorder(alpha=1e6, epochs=2, sequence_epochs=1).fit(inputs, values).predict(inputs)
    assert not np.allclose(weighted, plain, atol=1e-7)
    np.testing.assert_allclose(nearly, plain, atol=1e-6)


def test_songs_outside_training_change_no_weight():
    inputs, values = songs(20)
    ids = [f"s{place}" for place in range(20)]
    train = pd.DataFrame({"song_id": ids[:15], "region": "US", "true": values[:15]})
    spoilt = (
        np.where(np.arange(20)[:, None] < 15, inputs[0], 1e9),
        [*inputs[1][:15], *(np.full((9, 128), 1e6, np.float32) for _ in range(5))],
    )
    make = lambda: Autoenchorder(epochs=1, sequence_epochs=1)  # noqa: E731
    one, two = (ByRegion(make, ids, rows).fit(train).systems["US"] for rows in (inputs, spoilt))
    for part in ("autoencoder", "sequences", "network"):
        for a, b in zip(getattr(one, part).parameters(), getattr(two, part).parameters(), strict=True):
            assert torch.equal(a, b)
    for part in ("frame_mean", "frame_deviation", "target_mean", "target_deviation"):
        assert torch.equal(getattr(one, part), getattr(two, part))
    every = np.concatenate(inputs[1][:15])
    np.testing.assert_allclose(one.frame_mean.numpy(), every.mean(axis=0), atol=1e-5)


def test_validation_moves_no_scale():
    inputs, values = songs(20)
    wild = ((1e6 * np.ones((3, 30)), [np.full((4, 128), 50.0)] * 3), np.ones(3))
    plain = Autoenchorder(epochs=1, sequence_epochs=1).fit(inputs, values)
    watched = Autoenchorder(epochs=1, sequence_epochs=1).fit(inputs, values, wild)
    for part in ("frame_mean", "frame_deviation", "target_mean"):
        assert torch.equal(getattr(plain, part), getattr(watched, part))
    assert torch.equal(plain.scale.span, watched.scale.span)


def test_bad_inputs_are_refused():
    (descriptors, frames), values = songs(6)
    model = Autoenchorder(epochs=1, sequence_epochs=1)
    with pytest.raises(InputError, match="5 songs have frames"):
        model.fit((descriptors, frames[:5]), values)
    with pytest.raises(InputError, match="row 2 have 100"):
        model.fit((descriptors, [*frames[:2], frames[2][:, :100], *frames[3:]]), values)
    with pytest.raises(InputError, match="row 0"):
        model.fit((descriptors, [np.zeros((0, 128)), *frames[1:]]), values)
    fitted = model.fit((descriptors, frames), values)
    with pytest.raises(InputError, match="29 columns"):
        fitted.predict((descriptors[:, 1:], frames))
