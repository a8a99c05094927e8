"""The Stanford networks: images of known sounds, shapes, scores by hand, and that they learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from mp3model.baselines.hitmusicnet import ByRegion
from mp3model.baselines.spectrogram_cnn import (
    CONVOLUTIONS,
    HEIGHT,
    QUANTILES,
    RATE,
    WIDTH,
    SpectrogramCNN,
    SpectrogramNetwork,
    class_scores,
    search,
    spectrogram_image,
)
from mp3model.files import InputError


def tone(frequency: float, seconds: float = 10.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(int(seconds * RATE)) / RATE)).astype(np.float32)


def striped(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images whose bright third tells the listens' class."""
    rng = np.random.default_rng(seed)
    listens = rng.permutation(np.linspace(1, 1000, count))
    images = rng.uniform(0, 0.3, (count, 1, HEIGHT, WIDTH)).astype(np.float32)
    for image, place in zip(images, np.searchsorted(np.quantile(listens, QUANTILES), listens), strict=True):
        image[0, 34 * place : 34 * (place + 1)] += 0.7
    return images, listens


def test_a_tone_is_one_bright_row_at_its_height():
    image = spectrogram_image(tone(2000.0))
    assert image.shape == (1, HEIGHT, WIDTH)
    assert image.dtype == np.float32
    # 78.4 Hz a row; row 0 is the highest.
    assert set(image[0].argmax(axis=0)) == {HEIGHT - 1 - int(2000 / (8000 / HEIGHT))}
    assert image.max() == 1.0
    assert image[0, :50].max() < 0.3


def test_the_second_half_silent_is_dark():
    clip = np.concatenate([tone(2000.0, 5.0), np.zeros(5 * RATE, np.float32)])
    image = spectrogram_image(clip)[0]
    assert image[:, :78].max() > 0.99
    assert image[:, 82:].max() == 0.0
    assert spectrogram_image(np.zeros(RATE, np.int16)).max() == 0.0


def test_twice_as_quiet_looks_the_same_and_colours_are_of_viridis():
    loud, quiet = spectrogram_image(tone(500.0)), spectrogram_image(tone(500.0) / 2)
    np.testing.assert_allclose(loud, quiet, atol=1e-5)
    colour = spectrogram_image(np.concatenate([tone(500.0, 5.0), np.zeros(5 * RATE, np.float32)]), colour=True)
    assert colour.shape == (3, HEIGHT, WIDTH)
    np.testing.assert_allclose(colour[:, 0, -1], (0.267004, 0.004874, 0.329415), atol=1e-5)  # viridis at 0
    row = HEIGHT - 1 - int(500 / (8000 / HEIGHT))
    np.testing.assert_allclose(colour[:, row, 20], (0.993248, 0.906157, 0.143936), atol=0.02)  # and at 1


def test_the_generator_chooses_the_ten_seconds_and_none_takes_the_middle():
    clip = np.concatenate([tone(1000.0), tone(3000.0), tone(5000.0)])
    middle = spectrogram_image(clip)
    np.testing.assert_array_equal(middle, spectrogram_image(tone(3000.0)))
    first, again = (spectrogram_image(clip, generator=np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    others = [spectrogram_image(clip, generator=np.random.default_rng(seed)) for seed in range(4)]
    assert not all(np.array_equal(first, other) for other in others)


@pytest.mark.parametrize("bad", [np.zeros(0), np.zeros((2, 9)), np.array([np.nan])])
def test_samples_that_are_none_are_refused(bad):
    with pytest.raises(InputError):
        spectrogram_image(bad)


@pytest.mark.parametrize("colours", [1, 3])
@pytest.mark.parametrize("convolutions", CONVOLUTIONS)
def test_every_network_has_its_layers_and_every_weight_a_gradient(convolutions, colours):
    network = SpectrogramNetwork(convolutions, colours)
    out = network(torch.rand(2, colours, HEIGHT, WIDTH))
    assert out.shape == (2, 3)
    out.square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    kinds = [type(layer) for layer in network.modules()]
    for kind in (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d):
        assert kinds.count(kind) == convolutions
    assert network.dense.out_features == 512
    assert network.dropout.p == 0.4


def test_three_convolutions_are_refused():
    with pytest.raises(InputError, match="3 convolutions"):
        SpectrogramNetwork(3)


def test_it_learns_and_its_thresholds_are_the_training_quantiles():
    images, listens = striped(36)
    model = SpectrogramCNN(6, rate=1e-3, batch=6, epochs=4).fit(images, listens)
    assert model.thresholds == pytest.approx(np.quantile(listens, QUANTILES))
    assert model.majority == 1
    others, true = striped(24, seed=1)
    scores = model.scores(others, true)
    assert scores["accuracy"] > scores["majority_accuracy"] + 0.2
    assert scores["macro_f1"] > scores["majority_macro_f1"] + 0.2
    assert model.probabilities(others).sum(axis=1) == pytest.approx(1.0, abs=1e-5)


def test_a_fit_follows_its_seed_and_validation_moves_no_threshold():
    images, listens = striped(8)
    other = (striped(4, seed=1)[0], np.full(4, 1e9))
    model = SpectrogramCNN(6, epochs=1, batch=4)
    first = model.fit(images, listens).probabilities(images)
    again = model.fit(images, listens).probabilities(images)
    np.testing.assert_array_equal(first, again)
    watched = SpectrogramCNN(6, epochs=1, batch=4).fit(images, listens, other)
    np.testing.assert_array_equal(watched.thresholds, model.thresholds)
    # One epoch leaves nothing for validation to choose: the same weights, batch statistics included.
    np.testing.assert_array_equal(watched.probabilities(images), first)


def test_scores_are_those_computed_by_hand():
    true, predicted = np.array([0, 0, 1, 1, 1, 2]), np.array([0, 1, 1, 1, 2, 1])
    scores = class_scores(true, predicted, majority=1)
    # F1: class 0 2/3, class 1 4/7, class 2 0.
    assert scores["accuracy"] == pytest.approx(0.5)
    assert scores["macro_f1"] == pytest.approx((2 / 3 + 4 / 7 + 0) / 3)
    assert scores["majority_accuracy"] == pytest.approx(0.5)
    assert scores["majority_macro_f1"] == pytest.approx((2 / 3) / 3)
    with pytest.raises(InputError):
        class_scores(np.zeros(0), np.zeros(0), 0)


def test_the_search_tries_the_grid_and_returns_the_best_on_validation():
    images, listens = striped(12)
    validation = striped(9, seed=1)
    model, lines = search(
        (images, listens), validation, 6, rates=(1e-9, 2e-3), batches=(4,), dropouts=(0.0, 0.4), epochs=4
    )
    assert [(line["rate"], line["dropout"]) for line in lines] == [(1e-9, 0.0), (1e-9, 0.4), (2e-3, 0.0), (2e-3, 0.4)]
    best = max(lines, key=lambda line: line["macro_f1"])
    assert model.scores(*validation)["macro_f1"] == best["macro_f1"]
    assert (model.rate, model.dropout) == (best["rate"], best["dropout"])
    assert model.rate == 2e-3
    with pytest.raises(InputError, match="empty"):
        search((images, listens), validation, rates=())


def test_it_is_a_row_of_the_table():
    import pandas as pd

    images, listens = striped(8)
    ids = [f"s{place}" for place in range(8)]
    table = pd.DataFrame({"song_id": ids, "region": "GLOBAL", "true": listens})
    baseline = ByRegion(lambda: SpectrogramCNN(6, epochs=1, batch=4), ids, images).fit(table)
    assert set(baseline.predict(table)) <= {0.0, 1.0, 2.0}


@pytest.mark.parametrize("shape", [(2, 2, HEIGHT, WIDTH), (2, 1, WIDTH, HEIGHT), (2, HEIGHT, WIDTH)])
def test_images_of_another_shape_are_refused(shape):
    with pytest.raises(InputError, match="images"):
        SpectrogramCNN(epochs=1).fit(np.zeros(shape), np.zeros(2))
