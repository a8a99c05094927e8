"""HitMusicNet: the paper's shapes, that it learns, and that nothing but training rows teaches it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from mp3model.baselines.hitmusicnet import (
    THRESHOLDS,
    Autoencoder,
    ByRegion,
    HitMusicNet,
    UnitScale,
    autoencoder_sizes,
    classes_of,
    make_net,
    train_network,
)
from mp3model.files import InputError


def songs(count: int = 300, columns: int = 100, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows whose common level is the popularity in 0..100."""
    rng = np.random.default_rng(seed)
    level = rng.uniform(0, 1, count)
    return level[:, None] + 0.1 * rng.normal(size=(count, columns)), 100 * level


def widths(network: nn.Module) -> list[int]:
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
    return [layers[0].in_features, *(layer.out_features for layer in layers)]


def test_228_inputs_give_the_papers_layers():
    sizes = autoencoder_sizes(228)
    assert sizes == (228, 114, 76, 45)
    autoencoder = Autoencoder(sizes)
    assert widths(autoencoder) == [228, 114, 76, 45, 76, 114, 228]
    assert isinstance(autoencoder.decoder[-1], nn.Sigmoid)
    assert autoencoder(torch.rand(3, 228)).shape == (3, 228)
    assert autoencoder.encoder(torch.rand(3, 228)).shape == (3, 45)
    assert widths(make_net(45, 1)) == [45, 45, 22, 15, 1]
    assert widths(make_net(45, 3)) == [45, 45, 22, 15, 3]
    assert [layer.p for layer in make_net(45, 1) if isinstance(layer, nn.Dropout)] == [0.25] * 3


def test_other_numbers_of_inputs_keep_the_form():
    assert autoencoder_sizes(207) == (207, 103, 69, 41)
    with pytest.raises(InputError, match="4 inputs"):
        autoencoder_sizes(4)


def test_the_scale_is_that_of_its_rows_and_cuts_others():
    scale = UnitScale.of(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
    assert scale(torch.tensor([[2.0, 5.0], [9.0, 9.0], [-9.0, 5.0]])).tolist() == [[0.5, 0.0], [1.0, 1.0], [0.0, 0.0]]
    assert scale.back(torch.tensor([[0.5, 0.0]])).tolist() == [[2.0, 5.0]]


def test_classes_begin_at_their_thresholds():
    assert classes_of(np.array([0, 24.999999999, 25, 64.999999999, 65, 100]), THRESHOLDS).tolist() == [0, 0, 1, 1, 2, 2]


def test_regression_learns():
    x, y = songs()
    other_x, other_y = songs(100, seed=1)
    predicted = HitMusicNet(epochs=60, batch=32).fit(x, y).predict(other_x)
    assert np.abs(predicted - other_y).mean() < 0.4 * np.abs(y.mean() - other_y).mean()
    assert np.corrcoef(predicted, other_y)[0, 1] > 0.8
    assert predicted.min() >= y.min()
    assert predicted.max() <= y.max()


def test_classes_learn():
    x, y = songs()
    other_x, other_y = songs(100, seed=1)
    model = HitMusicNet(THRESHOLDS, epochs=40, batch=32).fit(x, y)
    predicted, true = model.predict(other_x), classes_of(other_y, THRESHOLDS)
    assert (predicted == true).mean() > max(np.bincount(true)) / 100 + 0.15
    shares = model.probabilities(other_x)
    assert shares.shape == (100, 3)
    assert shares.sum(axis=1) == pytest.approx(1.0, abs=1e-5)
    assert (shares.argmax(axis=1) == predicted).all()


def test_a_fit_begins_anew_and_follows_its_seed_only():
    x, y = songs(60)
    model = HitMusicNet(epochs=3)
    first = model.fit(x, y).predict(x)
    torch.manual_seed(99)
    state = torch.get_rng_state()
    again = model.fit(x, y).predict(x)  # a second fold on the same object
    assert torch.equal(state, torch.get_rng_state())
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, HitMusicNet(epochs=3, seed=1).fit(x, y).predict(x))


def test_validation_songs_move_neither_scale_nor_thresholds():
    x, y = songs(60)
    wild = (1e6 * np.ones((5, 100)), 1e6 * np.ones(5))
    plain, watched = HitMusicNet(epochs=2).fit(x, y), HitMusicNet(epochs=2).fit(x, y, wild)
    assert torch.equal(plain.scale.lowest, watched.scale.lowest)
    assert torch.equal(plain.scale.span, watched.scale.span)
    assert torch.equal(plain.target_scale.span, watched.target_scale.span)
    assert plain.scale.span.numpy() == pytest.approx(np.ptp(x, axis=0), rel=1e-5)


def frame(song_ids: list[str], values: np.ndarray, region: str = "US") -> pd.DataFrame:
    return pd.DataFrame({"song_id": song_ids, "region": region, "true": values})


def test_songs_outside_training_change_no_weight():
    """The test songs' inputs, replaced by huge ones, leave every weight of scaler, autoencoder and net as it was."""
    x, y = songs(60)
    ids = [f"s{place}" for place in range(60)]
    train = frame(ids[:40], y[:40])
    spoilt = np.where(np.arange(60)[:, None] < 40, x, 1e9)
    fitted = [ByRegion(lambda: HitMusicNet(epochs=2), ids, rows).fit(train) for rows in (x, spoilt)]
    one, two = (baseline.systems["US"] for baseline in fitted)
    for a, b in zip(
        [*one.autoencoder.parameters(), *one.net.parameters(), one.scale.span],
        [*two.autoencoder.parameters(), *two.net.parameters(), two.scale.span],
        strict=True,
    ):
        assert torch.equal(a, b)


def test_by_region_fits_each_region_on_its_own_songs():
    x, y = songs(80)
    ids = [f"s{place}" for place in range(80)]
    train = pd.concat([frame(ids[:60], y[:60]), frame(ids[:60], 100 - y[:60], "GB")])
    train.loc[train["song_id"] == "s0", "true"] = np.nan
    make = lambda: HitMusicNet(epochs=30, batch=16)  # noqa: E731
    baseline = ByRegion(make, ids, x).fit(train, validation=train.iloc[:20])
    wanted = pd.concat([frame(ids[60:], y[60:], "GB"), frame(ids[60:], y[60:])])
    predicted = baseline.predict(wanted)
    assert np.corrcoef(predicted[:20], y[60:])[0, 1] < -0.5
    assert np.corrcoef(predicted[20:], y[60:])[0, 1] > 0.5
    np.testing.assert_allclose(baseline.predict(wanted.iloc[::-1]), predicted[::-1], rtol=1e-5)
    with pytest.raises(InputError, match="FR"):
        baseline.predict(frame(ids[:1], y[:1], "FR"))
    with pytest.raises(InputError, match="'unknown'"):
        baseline.predict(frame(["unknown"], y[:1]))
    with pytest.raises(InputError, match="none of the 1"):
        baseline.fit(frame(["s0"], np.array([np.nan])))


class Remembering:
    """A system that keeps what it was given."""

    def fit(self, inputs, values, validation=None):
        self.given = (inputs, values, validation)
        return self

    def predict(self, inputs):
        return np.zeros(len(inputs))


def test_by_region_gives_each_system_its_own_regions_validation_songs():
    train = pd.concat([frame(["a", "b"], np.array([1.0, 2.0])), frame(["a"], np.array([3.0]), "GB")])
    held = pd.concat([frame(["c", "d"], np.array([4.0, np.nan])), frame(["a"], np.array([9.0]), "FR")])
    baseline = ByRegion(Remembering, ["d", "c", "b", "a"], np.array([[0], [1], [2], [3]])).fit(train, validation=held)
    inputs, values, validation = baseline.systems["US"].given
    assert (inputs.tolist(), values.tolist()) == ([[3], [2]], [1.0, 2.0])
    assert [part.tolist() for part in validation] == [[[1]], [4.0]]
    assert baseline.systems["GB"].given[2] is None


def test_by_region_refuses_songs_twice_and_rows_missing():
    with pytest.raises(InputError, match="'a' has two"):
        ByRegion(HitMusicNet, ["a", "a"], np.zeros((2, 5)))
    with pytest.raises(InputError, match="3 rows for 2"):
        ByRegion(HitMusicNet, ["a", "b"], np.zeros((3, 5)))


def test_the_best_epoch_is_kept_and_patience_ends():
    network = nn.Linear(1, 1)
    rows = [torch.ones(4, 1), torch.ones(4, 1)]
    held = [torch.ones(4, 1), -torch.ones(4, 1)]  # every step towards +1 makes these worse
    nn.init.zeros_(network.weight)
    nn.init.zeros_(network.bias)
    error = lambda net, x, y: (net(x) - y).square().mean()  # noqa: E731
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    history = train_network(network, rows, error, optimizer, 50, 4, 0, patience=2, held=held)
    assert len(history) == 3
    assert history[0] == min(history)
    assert float(error(network, *held).detach()) == pytest.approx(history[0])


@pytest.mark.parametrize(
    ("x", "y", "word"),
    [
        (np.full((3, 5), np.nan), np.zeros(3), "row 0"),
        (np.zeros((3, 5)), np.zeros(2), "targets"),
        (np.zeros((3, 5)), np.array([0, np.inf, 1]), "row 1"),
        (np.zeros((0, 5)), np.zeros(0), "inputs"),
    ],
)
def test_bad_inputs_are_refused(x, y, word):
    with pytest.raises(InputError, match=word):
        HitMusicNet(epochs=1).fit(x, y)


def test_a_wrong_use_is_refused():
    with pytest.raises(InputError, match="rising"):
        HitMusicNet((65.0, 25.0))
    x, y = songs(20)
    model = HitMusicNet(epochs=1).fit(x, y)
    with pytest.raises(InputError, match="99 columns"):
        model.predict(x[:, 1:])
    with pytest.raises(InputError, match="regression"):
        model.probabilities(x)
