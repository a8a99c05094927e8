"""KKBOX: the published model against stored references and slow twins, its front end, and the forms that train."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from audio_files import tone, write_audio
from scipy.signal import convolve2d

from mp3model.baselines.jynet import Tagger, load_tagger, tagger_shapes
from mp3model.baselines.kkbox import (
    MIXES,
    NAMES,
    RETENTION_POINTS,
    TREND_POINTS,
    Joint,
    MelCNN,
    load_published,
    make_model,
    retention,
)
from mp3model.baselines.kkbox_frontend import (
    RATE,
    kkbox_mel,
    mel_filters,
    power_mel,
    read_waveform,
    resampled,
    tagger_input,
)
from mp3model.baselines.kkbox_training import (
    KKBOXBaseline,
    Scale,
    fit,
    hit_score,
    ranking_loss,
    siamese_loss,
    squared_error,
)
from mp3model.evaluation.ranking import kendall, ndcg_of_top, recall_of_top, spearman
from mp3model.files import InputError

SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
PUBLISHED_SHAPES = {
    "conv1_kernel": (128, 4, 1, 32),
    "conv2_kernel": (1, 4, 32, 64),
    "conv3_kernel": (1, 1, 64, 256),
    "conv4_kernel": (1, 1, 256, 256),
    "conv5_kernel": (1, 1, 256, 1),
    "tag_dense1_kernel": (50, 100),
    "tag_dense2_kernel": (100, 100),
    "tag_dense3_kernel": (100, 30),
    "tag_out_kernel": (30, 1),
}
# samples → sum and largest value of the mel, frames of silence at the end; from librosa 0.6.3 and the original code.
CHIRPS = {
    1_042_964: (793_791.4620, 3293.65055, 0),
    661_500: (988_048.6726, 3321.84777, 0),
    661_720: (986_311.2464, 3321.84777, 0),
    441_000: (754_816.3244, 3321.84777, 107),
}


def chirp(samples: int) -> np.ndarray:
    """int16: a chirp, a square-gated tone of 3 kHz and a tone of 9 kHz, at 22,050 Hz."""
    t = np.arange(samples) / RATE
    gated = 3000 * np.sin(2 * np.pi * 3000 * t) * (np.floor(2 * t) % 2)
    wave = 8000 * np.sin(2 * np.pi * (200 * t + 30 * t**2)) + gated + 500 * np.sin(2 * np.pi * 9000 * t)
    return np.round(wave).astype(np.int16)


def published_arrays(seed: int = 0) -> dict[str, Any]:
    """Weights of the published model's shapes whose layers neither vanish nor explode, with biases that matter."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for name, shape in PUBLISHED_SHAPES.items():
        arrays[name] = rng.normal(size=shape) / np.sqrt(np.prod(shape[:-1]))
        arrays[name.replace("kernel", "bias")] = 0.3 * rng.normal(size=shape[-1:])
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def tagger_arrays(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    arrays = {
        name: rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]) if len(shape) > 1 else 4.0)
        for name, shape in tagger_shapes().items()
    }
    arrays["gauss_logstd"] = rng.uniform(0.0, 2.0, 188)
    return {name: array.astype(np.float32) for name, array in arrays.items()}


@pytest.fixture(scope="module")
def made_weights(tmp_path_factory) -> Path:
    """A folder in the published form with weights of our own."""
    folder = tmp_path_factory.mktemp("weights")
    np.savez(folder / "weights_kkbox.npz", **published_arrays())
    np.savez(folder / "weights_jynet.npz", **tagger_arrays())
    write_tags(folder)
    return folder


def write_tags(folder: Path, chosen: int = 50) -> None:
    tags = {"tags188": [f"tag {place}" for place in range(188)], "index50_in_188": list(range(10, 10 + chosen))}
    (folder / "tags.json").write_text(json.dumps(tags))


def leaky(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0) - 0.1 * np.maximum(-x, 0)


def slow_cnn(mel: np.ndarray, arrays: dict[str, np.ndarray]) -> float:
    """The published CNN as its layer table reads: (height, width, channels), one output column at a time."""
    state = mel[:, :, None].astype(float)
    for layer, pooled in (("conv1", True), ("conv2", True), ("conv3", False), ("conv4", False), ("conv5", False)):
        kernel, bias = arrays[f"{layer}_kernel"].astype(float), arrays[f"{layer}_bias"]
        width = kernel.shape[1]
        columns = [
            np.tensordot(state[:, at : at + width], kernel, axes=3) + bias for at in range(state.shape[1] - width + 1)
        ]
        state = leaky(np.stack(columns)[None])
        if pooled:
            state = np.stack([state[:, at : at + 2].max(axis=1) for at in range(0, state.shape[1] - 1, 2)], axis=1)
    return float(state.mean())


def slow_tags(tags: np.ndarray, arrays: dict[str, np.ndarray]) -> float:
    for layer in ("dense1", "dense2", "dense3", "out"):
        tags = leaky(tags.astype(float) @ arrays[f"tag_{layer}_kernel"] + arrays[f"tag_{layer}_bias"])
    return float(tags[0])


def slow_tagger(scales: np.ndarray, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """JYnet by scipy's and numpy's true convolutions, which turn kernels round by themselves."""
    joined = []
    for scale, window in zip(scales, (512, 1024, 2048, 4096, 8192, 16384), strict=True):
        state = scale[None]
        for layer in ("conv1", "conv2"):
            kernel, bias = arrays[f"win{window}_{layer}_kernel"], arrays[f"win{window}_{layer}_bias"]
            padded = np.pad(state, ((0, 0), (4, 3), (0, 0))).astype(float)
            maps = [
                sum(convolve2d(padded[i], kernel[o, i], mode="valid") for i in range(len(padded))) + bias[o]
                for o in range(len(kernel))
            ]
            rectified = np.maximum(np.stack(maps), 0)
            starts = range(0, rectified.shape[1], 4)
            state = np.stack([rectified[:, at : at + 4].max(axis=1) for at in starts], axis=1)
        joined.append(state[:, :, 0])
    state = np.concatenate(joined)
    for layer in ("late1", "late2", "out"):
        state = arrays[f"{layer}_kernel"][:, :, 0, 0].astype(float) @ state + arrays[f"{layer}_bias"][:, None]
        state = 1 / (1 + np.exp(-state)) if layer == "out" else np.maximum(state, 0)
    loadings = []
    for row, log_sigma in zip(state, arrays["gauss_logstd"], strict=True):
        sigma = math.exp(log_sigma)
        bell = [math.exp(-0.5 * (k / sigma) ** 2) / (math.sqrt(2 * math.pi) * sigma) for k in range(-128, 128)]
        loadings.append(np.convolve(np.pad(row, (128, 127)), bell, mode="valid").mean())
    return np.clip(loadings, 1e-6, 1 - 1e-6)


# The published model.


def test_the_cnn_branch_equals_a_slow_twin_that_reads_the_layer_table(made_weights):
    published = load_published(made_weights)
    mels = np.random.default_rng(1).gamma(0.3, 3.0, size=(2, 128, 323)).astype(np.float32)
    expected = [slow_cnn(mel, published_arrays()) for mel in mels]
    assert abs(expected[0] - expected[1]) > 1e-4
    np.testing.assert_allclose(published.cnn_score(mels), expected, rtol=1e-4, atol=1e-5)
    assert published.cnn_score(mels[0]) == pytest.approx(expected[0], rel=1e-4, abs=1e-5)


def test_the_tag_branch_equals_a_slow_twin(made_weights):
    published = load_published(made_weights)
    tags = np.random.default_rng(1).uniform(-3, 3, size=(3, 50)).astype(np.float32)
    expected = [slow_tags(row, published_arrays()) for row in tags]
    assert min(expected) < 0 < max(expected)  # the leak of the last layer is seen
    np.testing.assert_allclose(published.tag_score(tags), expected, rtol=1e-4, atol=1e-5)


def test_the_tagger_equals_a_slow_twin_with_true_convolutions():
    arrays = tagger_arrays()
    scales = np.random.default_rng(2).normal(size=(6, 41, 128)).astype(np.float32)
    tagger = Tagger(arrays, [str(place) for place in range(188)], list(range(50)))
    found = tagger(torch.from_numpy(scales)[None])[0].numpy()
    np.testing.assert_allclose(found, slow_tagger(scales, arrays), rtol=1e-4, atol=1e-6)


def test_a_score_is_the_named_mix_of_its_branches(made_weights, tmp_path):
    published = load_published(made_weights)
    clip = chirp(100_000)
    cnn, tag = published.cnn_score(kkbox_mel(clip, RATE)), published.tag_score(published.tags(clip, RATE))
    assert published.score(clip, RATE, mix="trained") == pytest.approx(0.3 * cnn + 0.7 * tag)
    assert published.score(clip, RATE, mix="half") == pytest.approx(0.5 * cnn + 0.5 * tag)
    assert published.score(clip, RATE) == pytest.approx(cnn + 0.5 * tag)
    assert published.score(clip, RATE, mix=(2.0, -1.0)) == pytest.approx(2 * cnn - tag)
    path = write_audio(tmp_path / "clip.wav", clip[:, None] / np.float32(32768), RATE)
    assert published.score(path) == pytest.approx(cnn + 0.5 * tag, rel=1e-4)
    assert published.score(path.read_bytes()) == published.score(path)
    with pytest.raises(InputError, match="mix 'best' is unknown; choose from trained, inference, half"):
        published.score(clip, RATE, mix="best")


def test_retention_by_hand():
    np.testing.assert_allclose(retention(np.array([1.0, 0.5, 0.0, -1.0])), [0.1, 0.01, 0, 0])


def test_inputs_of_another_shape_are_refused_with_the_mend(made_weights):
    published = load_published(made_weights)
    with pytest.raises(InputError, match=r"mel has shape \(128, 646\), not \(128, 323\) or \(n, 128, 323\); make it"):
        published.cnn_score(np.zeros((128, 646)))
    with pytest.raises(InputError, match=r"tags has shape \(188,\), not \(50\) or"):
        published.tag_score(np.zeros(188))
    with pytest.raises(InputError, match="mel holds NaN"):
        published.cnn_score(np.full((128, 323), np.nan))


def test_a_wrong_weights_folder_is_refused_by_file_and_name(made_weights, tmp_path):
    with pytest.raises(InputError, match=r"weights_kkbox.npz: no such file; give the folder"):
        load_published(tmp_path)
    arrays = published_arrays()
    np.savez(tmp_path / "weights_kkbox.npz", **{name: arrays[name] for name in arrays if name != "conv4_bias"})
    with pytest.raises(InputError, match=r"weights_kkbox.npz: has no array 'conv4_bias'; fetch"):
        load_published(tmp_path)
    np.savez(tmp_path / "weights_kkbox.npz", **arrays | {"conv1_kernel": np.zeros((32, 1, 128, 4), np.float32)})
    with pytest.raises(InputError, match=r"'conv1_kernel' has shape \(32, 1, 128, 4\), not \(128, 4, 1, 32\)"):
        load_published(tmp_path)
    np.savez(tmp_path / "weights_kkbox.npz", **arrays | {"tag_out_bias": np.array([np.nan], np.float32)})
    with pytest.raises(InputError, match="'tag_out_bias' holds float32 values that are no weights"):
        load_published(tmp_path)
    (tmp_path / "weights_kkbox.npz").write_bytes((made_weights / "weights_kkbox.npz").read_bytes()[:5000])
    with pytest.raises(InputError, match=r"weights_kkbox.npz: not a readable npz file"):
        load_published(tmp_path)


def test_a_wrong_tagger_is_refused_by_file_and_name(made_weights, tmp_path):
    np.savez(tmp_path / "weights_jynet.npz", **tagger_arrays())
    with pytest.raises(InputError, match=r"tags.json: no such file"):
        load_tagger(tmp_path)
    (tmp_path / "tags.json").write_text("{}")
    with pytest.raises(InputError, match=r"tags.json: not a list of tags"):
        load_tagger(tmp_path)
    write_tags(tmp_path, chosen=49)
    with pytest.raises(InputError, match=r"tags.json: names 188 tags and chooses 49"):
        load_tagger(tmp_path)
    write_tags(tmp_path)
    assert load_tagger(tmp_path).names == [f"tag {place}" for place in range(10, 60)]


# The front end.


@pytest.mark.parametrize("samples", CHIRPS)
def test_the_published_mel_of_a_chirp_is_librosas(samples):
    total, largest, silent = CHIRPS[samples]
    mel = kkbox_mel(chirp(samples), RATE)
    assert mel.shape == (128, 323)
    assert mel.astype(float).sum() == pytest.approx(total, rel=1e-6)
    assert mel.max() == pytest.approx(largest, rel=1e-6)
    assert (mel.sum(axis=0) == 0).sum() == silent


def test_both_forms_have_their_frames_whatever_the_length():
    for seconds in (0.01, 20, 30, 45.5):
        clip = np.random.default_rng(0).normal(size=int(seconds * RATE)).astype(np.float32) * 0.1
        assert kkbox_mel(clip, RATE).shape == (128, 323)
        assert kkbox_mel(clip, RATE, "paper").shape == (128, 646)
    with pytest.raises(InputError, match="form 'dB' is unknown; choose from published, paper"):
        kkbox_mel(clip, RATE, "dB")


def test_a_long_clip_gives_its_middle():
    quiet = np.zeros(50 * RATE, dtype=np.float32)
    quiet[24 * RATE : 26 * RATE] = 0.5 * np.sin(np.arange(2 * RATE))
    for form, frames in (("published", 323), ("paper", 646)):
        loudness = kkbox_mel(quiet, RATE, form).sum(axis=0)
        assert (loudness * np.arange(frames)).sum() / loudness.sum() == pytest.approx(frames / 2, abs=1)


def test_frames_from_the_middle_are_those_of_the_whole():
    wave = np.random.default_rng(0).normal(size=20_000)
    whole = power_mel(wave, RATE, 1024, 256, 0, 10_000)
    assert whole.shape == (128, 1 + 20_000 // 256)
    np.testing.assert_allclose(power_mel(wave, RATE, 1024, 256, 30, 9), whole[:, 30:39], rtol=1e-5)


def test_a_tone_is_loudest_in_its_band():
    filters = mel_filters(16_000, 2048)
    centres = (filters * np.fft.rfftfreq(2048, 1 / 16_000)).sum(axis=1) / filters.sum(axis=1)
    for hertz in (300, 1000, 5000):
        wave = np.sin(2 * np.pi * hertz * np.arange(8000) / 16_000)
        loudest = power_mel(wave, 16_000, 2048, 512, 5, 1)[:, 0].argmax()
        assert abs(loudest - np.abs(centres - hertz).argmin()) <= 1


def slow_resampled(wave: np.ndarray, rate: int, to: int) -> np.ndarray:
    """resampy 0.2's loop, one output and one tap at a time."""
    size = 64 * 512
    zeros = np.linspace(0, 64, size + 1)
    table = 0.9475937167399596 * np.sinc(0.9475937167399596 * zeros)
    table *= np.i0(14.769656459379492 * np.sqrt(1 - (zeros / 64) ** 2)) / np.i0(14.769656459379492)
    scale = min(1.0, to / rate)
    out = np.zeros(math.ceil(len(wave) * to / rate))
    for place in range(len(out)):
        nearest, rest = divmod(place * rate, to)
        for side, first, move in ((scale * rest / to, nearest, -1), (scale - scale * rest / to, nearest + 1, 1)):
            at, sample = side * 512, first
            while at < size and 0 <= sample < len(wave):
                weight = np.interp(at, [int(at), int(at) + 1], table[int(at) : int(at) + 2])
                out[place] += scale * weight * wave[sample]
                at, sample = at + int(scale * 512), sample + move
    return out


@pytest.mark.parametrize(("rate", "to"), [(44_100, 22_050), (44_100, 16_000), (16_000, 22_050)])
def test_resampling_equals_the_loop_that_made_the_published_inputs(rate, to):
    wave = np.random.default_rng(0).normal(size=701).astype(np.float32)
    np.testing.assert_allclose(resampled(wave, rate, to), slow_resampled(wave, rate, to), atol=2e-6)


def test_a_resampled_tone_is_the_tone():
    wave = tone(0.5, 44_100, frequency=1000)[:, 0]
    found = resampled(wave, 44_100, 22_050)
    expected = tone(0.5, 22_050, frequency=1000)[:, 0]
    assert found.shape == expected.shape
    np.testing.assert_allclose(found[500:-500], expected[500:-500], atol=1e-4)
    integers = np.round(wave * 32768).astype(np.int16)
    np.testing.assert_allclose(resampled(integers, 44_100, 22_050), found, atol=1e-4)


def test_samples_that_are_none_are_refused():
    with pytest.raises(InputError, match=r"samples have shape \(2, 10\); give one channel"):
        resampled(np.zeros((2, 10)), 16_000, 22_050)
    with pytest.raises(InputError, match="at least one sample"):
        kkbox_mel(np.zeros(0))
    with pytest.raises(InputError, match="NaN or infinite"):
        tagger_input(np.array([0.0, np.nan]))
    with pytest.raises(InputError, match="rate is 0 Hz; 1000 to 768000 Hz are read"):
        kkbox_mel(np.zeros(100), 0)


def test_the_taggers_input_is_standardised_by_the_clip_with_its_padding():
    short, silent = tagger_input(chirp(4 * RATE), RATE), tagger_input(np.zeros(16_000))
    assert short.shape == silent.shape == (6, 911, 128)
    np.testing.assert_allclose(short.mean(axis=1), 0, atol=1e-4)
    np.testing.assert_allclose(short.std(axis=1), 1, atol=1e-3)
    assert (short[:, 126:] == short[:, -1:]).all()
    mel = power_mel(resampled(chirp(4 * RATE), RATE, 16_000), 16_000, 2048, 512, 0, 911)
    padded = np.pad(np.log(1 + 10_000 * mel.astype(float)).T, ((0, 911 - mel.shape[1]), (0, 0)))
    np.testing.assert_allclose(short[2], (padded - padded.mean(axis=0)) / padded.std(axis=0), atol=1e-4)
    assert (silent == 0).all()


@pytest.mark.parametrize("name", ["clip.wav", "clip.flac", "clip.mp3", "clip.m4a"])
def test_a_file_is_read_at_its_own_rate_with_its_channels_averaged(tmp_path, name):
    wave = tone(1.5, 44_100, channels=2, frequency=9500)
    wave[:, 1] *= 0.5
    found, rate = read_waveform(write_audio(tmp_path / name, wave, 44_100))
    assert rate == 44_100
    assert len(found) == pytest.approx(1.5 * 44_100, abs=3000)
    assert np.sqrt(np.mean(found[8000:48_000] ** 2)) == pytest.approx(0.375 / math.sqrt(2), rel=0.06)


def test_a_file_without_sound_is_refused_as_elsewhere(tmp_path, made_weights):
    (tmp_path / "note.mp3").write_text("no sound")
    with pytest.raises(InputError, match=r"note.mp3: is not an mp3"):
        load_published(made_weights).score(tmp_path / "note.mp3")


# The forms that train.


def toy(n: int = 40, frames: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Raw power mels, tags and a target that both show: louder bands 20 to 39, one tag."""
    rng = np.random.default_rng(seed)
    target = rng.normal(size=n)
    mels = rng.gamma(1.0, 1.0, size=(n, 128, frames))
    mels[:, 20:40] *= np.exp(target)[:, None, None]
    tags = rng.uniform(size=(n, 50))
    tags[:, 3] = 0.5 + 0.15 * target
    return mels.astype(np.float32), tags.astype(np.float32), target


def inputs_of(model: Any, mels: np.ndarray, tags: np.ndarray) -> list[np.ndarray]:
    return [{"mel": mels, "tags": tags}[name] for name in model.inputs]


@pytest.mark.parametrize("name", NAMES)
def test_every_form_learns_the_toy_and_every_parameter_its_gradient(name):
    mels, tags, target = toy()
    model = make_model(name)
    fitted = fit(model, inputs_of(model, mels, tags), target, epochs=12)
    assert fitted.history[-1]["train"] < 0.6 * fitted.history[0]["train"]
    predicted = fitted.predict(inputs_of(model, mels, tags))
    assert predicted.shape == (40, 1)
    assert spearman(target, predicted[:, 0]) > 0.7
    out = model.train()(*(torch.from_numpy(part) for part in inputs_of(model, mels, tags)))
    out.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


@pytest.mark.parametrize("name", ["M2", "M3", "M5", "M6", "mandopop"])
@pytest.mark.parametrize("frames", [323, 646])
def test_heads_have_their_points_at_both_mel_forms(name, frames):
    model = make_model(name, outputs=TREND_POINTS).eval()
    inputs = inputs_of(model, np.zeros((2, 128, frames), np.float32), np.zeros((2, 50), np.float32))
    assert model(*(torch.from_numpy(part) for part in inputs)).shape == (2, 60)
    assert sum(p.shape[0] == RETENTION_POINTS for p in make_model(name, RETENTION_POINTS).parameters()) >= 2


def test_the_published_steps_are_78_of_323_frames():
    assert MelCNN().by_frame(torch.zeros(1, 128, 323)).shape == (1, 1, 78)
    assert MelCNN().by_frame(torch.zeros(1, 128, 646)).shape == (1, 1, 159)


def test_the_inception_form_joins_three_convolutions_of_one_width():
    model = MelCNN(inception=True)
    kernels = [tuple(layer.weight.shape) for layer in (model.conv1, *model.wider, model.mix)]
    assert kernels == [(32, 1, 128, 4), (16, 1, 132, 8), (16, 1, 140, 16), (32, 64, 1, 1)]
    mel = torch.randn(2, 128, 323)
    widths = [layer(mel[:, None]).shape for layer in (model.conv1, *model.wider)]
    assert [tuple(shape) for shape in widths] == [(2, 32, 1, 320), (2, 16, 1, 320), (2, 16, 1, 320)]
    assert model.first(mel).shape == (2, 32, 1, 320)


def test_a_joint_form_mixes_its_branches_as_named():
    mel, tags = torch.rand(3, 128, 40), torch.rand(3, 50)
    fixed = make_model("M5", outputs=2)
    assert isinstance(fixed, Joint)
    expected = MIXES["trained"][0] * fixed.mel(mel) + MIXES["trained"][1] * fixed.tags(tags)
    torch.testing.assert_close(fixed(mel, tags), expected)
    learnt, averaged = make_model("M6", outputs=2), make_model("mandopop", outputs=2)
    for model in (learnt, averaged):
        assert isinstance(model, Joint)
        torch.testing.assert_close(model(mel, tags), (model.mel(mel) + model.tags(tags)) / 2)
    assert sum(p.numel() for p in learnt.parameters()) == sum(p.numel() for p in averaged.parameters()) + 10


def test_the_seed_alone_decides_and_the_global_generator_is_left_alone():
    mels, _, target = toy(n=24)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    seeds = ((0, 0), (0, 1), (1, 0))
    found = [fit(make_model("M2", seed=own), mels, target, epochs=2, seed=order).predict(mels) for own, order in seeds]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again = fit(make_model("M2"), mels, target, epochs=2).predict(mels)
    np.testing.assert_array_equal(found[0], again)
    assert not np.allclose(found[0], found[1])
    assert not np.allclose(found[0], found[2])


def test_the_first_step_is_tensorflows_adagrad():
    mels, _, target = toy()
    model = make_model("M1")
    fitted = fit(model, mels, target, epochs=1, batch=40)
    scaled = (target - target.mean()) / target.std()
    inputs = fitted.inputs[0](torch.from_numpy(mels)).mean(dim=2).double().numpy()
    gradient = -2 * (inputs * scaled[:, None]).mean(axis=0)
    expected = -5e-3 * gradient / np.sqrt(0.1 + gradient**2)
    np.testing.assert_allclose(model.get_parameter("linear.weight").detach().numpy()[0], expected, rtol=1e-3, atol=1e-7)


def test_targets_come_back_in_their_own_unit():
    _, tags, target = toy()
    plain = fit(make_model("M4"), tags, target, epochs=5).predict(tags)
    moved = fit(make_model("M4"), tags, 1000 * target + 7e4, epochs=5).predict(tags)
    np.testing.assert_allclose(moved, 1000 * plain + 7e4, atol=5)


def test_validation_stops_training_and_keeps_the_best_epoch():
    _, tags, target = toy(n=60)
    noise = np.random.default_rng(3).normal(size=20)  # nothing to learn: the first epochs are the best
    fitted = fit(make_model("M4"), tags[:40], target[:40], (tags[40:], noise))
    losses = [line["validation"] for line in fitted.history]
    assert fitted.best_epoch == 1 + int(np.argmin(losses))
    assert len(fitted.history) == fitted.best_epoch + 20 < 150
    scaled = fitted.target(torch.from_numpy(fitted.predict(tags[40:])))
    again = squared_error(scaled, fitted.target(torch.from_numpy(noise.astype(np.float32))[:, None]))
    assert float(again) == pytest.approx(min(losses), rel=1e-4)
    rates = [line["rate"] for line in fitted.history]
    assert rates[0] == 5e-3
    assert rates[-1] < 0.9 * 5e-3
    assert {round(after / before, 6) for before, after in itertools.pairwise(rates)} == {0.9, 1.0}


def test_scales_see_training_rows_only_and_are_right():
    mels, _, target = toy(n=30)
    quiet = fit(make_model("M1"), mels, target, (mels, target), epochs=2)
    loud = fit(make_model("M1"), mels, target, (mels * 1e6, target * 1e6), epochs=2)
    assert torch.equal(quiet.inputs[0].mean, loud.inputs[0].mean)
    assert torch.equal(quiet.target.deviation, loud.target.deviation)
    logarithm = np.log1p(10_000 * mels.astype(float))
    np.testing.assert_allclose(quiet.inputs[0].mean[:, 0], logarithm.mean(axis=(0, 2)), rtol=1e-5)
    np.testing.assert_allclose(quiet.inputs[0].deviation[:, 0], logarithm.std(axis=(0, 2)), rtol=1e-4)
    scaled = Scale.of(torch.tensor([[1.0, 5.0], [3.0, 5.0], [torch.nan, 5.0]]))
    assert scaled.mean.tolist() == [2, 5]
    assert scaled.deviation.tolist() == [1, 1]  # a constant column is left at its level


def test_unknown_targets_teach_nothing_and_do_no_harm():
    predicted = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    target = torch.tensor([[0.0, torch.nan], [torch.nan, 2.0]])
    loss = siamese_loss(predicted, target)
    assert float(loss.detach()) == pytest.approx((1 + 4) / 2)
    loss.backward()
    assert predicted.grad is not None
    assert predicted.grad.tolist() == [[1, 0], [0, 2]]
    nothing = siamese_loss(predicted, torch.full((2, 2), torch.nan))
    assert float(nothing.detach()) == 0


def test_the_ranking_loss_by_hand():
    target = torch.tensor([[3.0], [1.0], [1.0]])
    # Song 0 should lead both by 0.1: it leads song 1 by 0.05 and trails song 2 by 0.2. Songs 1 and 2 tie: no pair.
    predicted = torch.tensor([[0.0], [-0.05], [0.2]])
    assert float(ranking_loss(predicted, target)) == pytest.approx((0.05 + 0.3) / 2)
    assert float(ranking_loss(predicted, target, margin=0.0)) == pytest.approx(0.2 / 2)
    assert float(siamese_loss(predicted, target, weight=0.0)) == pytest.approx(float(squared_error(predicted, target)))
    assert float(ranking_loss(torch.tensor([[9.0], [1.0], [0.0]]), target)) == 0


def test_the_ranking_loss_alone_orders_pairs():
    mels, _, target = toy(n=60)
    fitted = fit(make_model("M2"), mels[:40], target[:40], loss=ranking_loss, epochs=8)
    held = fitted.predict(mels[40:])[:, 0]
    assert kendall(target[40:], held) > 0.8
    siamese = fit(make_model("M2"), mels[:40], target[:40], loss=siamese_loss, epochs=8)
    assert siamese.history[-1]["train"] < 0.5 * siamese.history[0]["train"]
    assert kendall(target[40:], siamese.predict(mels[40:])[:, 0]) > 0.8


def test_the_hit_score_by_hand_and_its_measures():
    plays, listeners = np.array([1000.0, 100.0, np.nan, 1.0]), np.array([100.0, 10.0, 5.0, 1.0])
    np.testing.assert_allclose(hit_score(plays, listeners), [6, 2, np.nan, 0])
    np.testing.assert_allclose(hit_score(plays, listeners, base=100), [1.5, 0.5, np.nan, 0])
    with pytest.raises(InputError, match="playcount is 0; a hit score needs at least 1"):
        hit_score(np.array([0.0]), np.array([1.0]))
    true = hit_score(np.arange(1.0, 1001), np.arange(1.0, 1001))
    assert recall_of_top(true, true, share=100 / 1000) == ndcg_of_top(true, true, share=100 / 1000) == 1
    half = np.where(np.arange(1000) < 950, np.arange(1000), -np.arange(1000))  # the best fifty are put last
    assert recall_of_top(true, half, share=100 / 1000) == 0.5


@pytest.mark.parametrize(
    ("name", "inputs", "targets", "message"),
    [
        ("M2", np.zeros((4, 100, 40)), np.arange(4.0), r"mel has shape \(4, 100, 40\); \(n, 128, frames\) is needed"),
        ("M4", np.zeros((4, 188)), np.arange(4.0), r"tags has shape \(4, 188\); \(n, 50\) is needed"),
        ("M5", np.zeros((4, 50)), np.arange(4.0), "1 inputs given; Joint takes mel and tags"),
        ("M4", np.full((4, 50), np.nan), np.arange(4.0), "tags of row 0 holds NaN"),
        ("M2", np.full((4, 128, 40), -80.0), np.arange(4.0), "mel holds -80; give raw power"),
        ("M4", np.zeros((4, 50)), np.arange(5.0), r"targets have shape \(5, 1\); \(4, outputs\) is needed"),
        ("M4", np.zeros((4, 50)), np.zeros((4, 2)), "targets have 2 columns and the model 1 outputs"),
        ("M4", np.zeros((4, 50)), np.full(4, np.nan), "targets are infinite, or all unknown"),
    ],
)
def test_what_cannot_be_fitted_is_refused_by_name(name, inputs, targets, message):
    with pytest.raises(InputError, match=message):
        fit(make_model(name), inputs, targets, epochs=1)


def test_unknown_models_are_refused():
    with pytest.raises(InputError, match="model 'M7' is unknown; choose from M1"):
        make_model("M7")
    with pytest.raises(InputError, match="0 outputs"):
        make_model("M1", outputs=0)


# A row of the table.


def market() -> tuple[pd.DataFrame, list[str], np.ndarray, np.ndarray]:
    """60 songs in two regions with opposite tastes, a few unknown."""
    mels, tags, target = toy(n=60)
    songs = [f"s{place}" for place in range(60)]
    parts = [
        pd.DataFrame({"song_id": songs, "region": region, "true": level + sign * target})
        for region, level, sign in (("US", 7.0, 1), ("JP", 4.0, -1))
    ]
    frame = pd.concat(parts, ignore_index=True)
    frame.loc[[3, 70], "true"] = np.nan
    return frame, songs, mels, tags


def test_one_network_learns_the_taste_of_each_region():
    frame, songs, mels, _ = market()
    train, test = frame[frame["song_id"].isin(songs[:45])], frame[frame["song_id"].isin(songs[45:])]
    baseline = KKBOXBaseline("M3", songs, mels, siamese=True, epochs=8).fit(train)
    predicted = baseline.predict(test)
    for region in ("US", "JP"):
        rows = (test["region"] == region).to_numpy()
        assert spearman(test["true"][rows], predicted[rows]) > 0.9
    reordered = test.sample(frac=1, random_state=0)
    expected = pd.Series(predicted, test.index)[reordered.index]
    np.testing.assert_allclose(baseline.predict(reordered), expected, rtol=1e-4)


def test_songs_outside_training_change_nothing():
    frame, songs, mels, tags = market()
    train, test = frame[frame["song_id"].isin(songs[:45])], frame[frame["song_id"].isin(songs[45:])]
    changed = mels.copy()
    changed[50:] *= 1000
    near = test[test["song_id"].isin(songs[45:50])]
    options: dict = {"epochs": 2, "seed": 3}
    before = KKBOXBaseline("M5", songs, [mels, tags], **options).fit(train, validation=near).predict(near)
    after = KKBOXBaseline("M5", songs, [changed, tags], **options).fit(train, validation=near).predict(near)
    np.testing.assert_array_equal(before, after)


def test_songs_and_regions_that_do_not_fit_are_refused():
    frame, songs, _, tags = market()
    with pytest.raises(InputError, match="song 's0' has two rows of inputs"):
        KKBOXBaseline("M4", [*songs[:59], "s0"], tags)
    with pytest.raises(InputError, match="inputs have 60 rows for 59 songs"):
        KKBOXBaseline("M4", songs[:59], tags)
    with pytest.raises(InputError, match="song 's59' has no inputs"):
        KKBOXBaseline("M4", songs[:59], tags[:59], epochs=1).fit(frame)
    with pytest.raises(InputError, match="none of the 120 training rows has a true"):
        KKBOXBaseline("M4", songs, tags, epochs=1).fit(frame.assign(true=np.nan))
    fitted = KKBOXBaseline("M4", songs, tags, epochs=1).fit(frame)
    with pytest.raises(InputError, match="region GB had no training rows: leave its rows out; known are JP, US"):
        fitted.predict(frame.assign(region="GB"))


# Against the original code's outputs, where they are at hand.


@pytest.fixture(scope="module")
def references() -> dict[str, dict]:
    path = SHARED / "kkbox" / "reference.json"
    if not path.is_file():
        pytest.skip("no published weights beside the repository")
    return json.loads(path.read_text())["clips"]


def test_the_published_outputs_come_back_from_stored_mels_and_tags(references):
    published = load_published(SHARED / "kkbox")
    assert len(references) == 12
    for name, clip in references.items():
        stored = np.load(SHARED / "kkbox" / clip["mel"]["npz"])
        cnn, tag = published.cnn_score(stored["mel"]), published.tag_score(stored["tags50"])
        steps = published.cnn.by_frame(torch.from_numpy(stored["mel"].astype(np.float32))[None]).detach()[0, 0]
        np.testing.assert_allclose(steps, stored["conv5_from_float16_mel"], atol=1e-4)
        # float16 mels move the score by up to 1.6e-4; what was computed from them must agree far more closely.
        assert cnn == pytest.approx(clip["cnn_from_stored_float16_mel"], abs=2e-6), name
        assert tag == pytest.approx(clip["tag"], abs=2e-6), name
        score = published.combined(cnn, tag)
        assert score == pytest.approx(clip["combined_script_from_float16_mel"], abs=2e-6), name
        assert retention(score) == pytest.approx(clip["ret30_script_from_float16_mel"], abs=1e-6), name
        for mix, key in (
            ("inference", "combined_script_cnn_plus_0.5tag"),
            ("trained", "combined_published_graph_0.3cnn_0.7tag"),
            ("half", "combined_half_half_0.5cnn_0.5tag"),
        ):
            assert published.combined(cnn, tag, mix) == pytest.approx(clip[key], abs=1e-4), (name, mix)


def test_the_published_example_gives_its_published_retention(references):
    golden = np.load(SHARED / "kkbox" / "published_golden.npz")
    published = load_published(SHARED / "kkbox")
    cnn, tag = published.cnn_score(golden["mel"]), published.tag_score(golden["tags50"])
    assert cnn == pytest.approx(float(golden["tf1_cnn"]), abs=2e-6)
    assert tag == pytest.approx(float(golden["tf1_tag"]), abs=2e-6)
    assert retention(published.combined(cnn, tag)) == pytest.approx(float(golden["ret30"]), rel=1e-4)


def test_synthetic_sound_gives_the_published_scores(references):
    published = load_published(SHARED / "kkbox")
    for clip in json.loads((SHARED / "kkbox" / "synthetic_reference.json").read_text())["clips"].values():
        assert published.cnn_score(kkbox_mel(chirp(clip["samples"]), RATE)) == pytest.approx(clip["cnn"], abs=1e-5)


@pytest.mark.parametrize("clips", [1, pytest.param(7, marks=pytest.mark.slow)])
def test_real_clips_give_the_published_scores_and_tags(references, clips):
    published = load_published(SHARED / "kkbox")
    at_hand = [(name, clip) for name, clip in references.items() if (SHARED / "audio/fma" / clip["file"]).is_file()]
    assert len(at_hand) == 7
    for name, clip in at_hand[:clips]:
        path = SHARED / "audio" / "fma" / clip["file"]
        waveform, rate = read_waveform(path)
        stored = np.load(SHARED / "kkbox" / clip["mel"]["npz"])
        tags = published.tagger.all_loadings(waveform, rate)
        np.testing.assert_allclose(tags, stored["jynet188"], atol=1e-4, err_msg=name)
        np.testing.assert_allclose(tags[published.tagger.chosen], stored["tags50"], atol=1e-4)
        cnn = published.cnn_score(kkbox_mel(waveform, rate))
        assert cnn == pytest.approx(clip["cnn"], abs=1e-4), name
        score = published.combined(cnn, published.tag_score(tags[published.tagger.chosen]))
        assert score == pytest.approx(clip["combined_script_cnn_plus_0.5tag"], abs=1e-4), name
