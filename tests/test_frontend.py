"""LogMel against Kaldi's filterbank and against a plain twin written with loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torchaudio

from mp3model import LogMel
from mp3model.audio.frontend import AUDIOSET_MEAN, AUDIOSET_STD, mel_filters


def kaldi(waveform: torch.Tensor) -> torch.Tensor:
    features = torchaudio.compliance.kaldi.fbank(
        waveform[None],
        htk_compat=True,
        sample_frequency=16_000,
        use_energy=False,
        window_type="hanning",
        num_mel_bins=128,
        dither=0.0,
        frame_shift=10,
    )
    return (features - AUDIOSET_MEAN) / (2 * AUDIOSET_STD)


def test_a_batch_equals_kaldi_clip_by_clip():
    generator = torch.Generator().manual_seed(0)
    time = torch.arange(48_000) / 16_000
    clips = torch.stack(
        [
            0.3 * torch.randn(48_000, generator=generator),
            torch.sin(2 * math.pi * 440 * time) * 0.5 + 0.1,
            torch.zeros(48_000),
        ]
    )
    expected = torch.stack([kaldi(clip) for clip in clips])
    assert (LogMel()(clips) - expected).abs().max() <= 1e-5


def test_real_clips_equal_kaldi(shared_audio):
    import soundfile

    for path in sorted((shared_audio / "fma").glob("*.mp3"))[:3]:
        audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
        clip = torchaudio.functional.resample(torch.from_numpy(audio.mean(1)), rate, 16_000)
        assert (LogMel()(clip[None])[0] - kaldi(clip)).abs().max() <= 1e-5


def test_one_frame_equals_arithmetic_written_out():
    samples = np.random.default_rng(0).normal(size=400) * 0.1
    frame = samples - samples.mean()
    emphasised = [frame[i] - 0.97 * frame[max(i - 1, 0)] for i in range(400)]
    windowed = [value * (0.5 - 0.5 * math.cos(2 * math.pi * i / 399)) for i, value in enumerate(emphasised)]
    power = np.abs(np.fft.rfft(windowed, 512)) ** 2

    def mel(frequency: float) -> float:
        return 1127 * math.log(1 + frequency / 700)

    corners = np.linspace(mel(20), mel(8000), 130)
    expected = []
    for band in range(128):
        left, centre, right = corners[band : band + 3]
        energy = 0.0
        for index in range(256):
            place = mel(index * 16_000 / 512)
            if left < place <= centre:
                energy += power[index] * (place - left) / (centre - left)
            elif centre < place < right:
                energy += power[index] * (right - place) / (right - centre)
        expected.append(math.log(max(energy, np.finfo(np.float32).eps)))
    got = LogMel(mean=0.0, std=0.5)(torch.tensor(samples, dtype=torch.float32)[None])[0, 0]
    assert np.allclose(got.numpy(), expected, atol=2e-4)


def test_filters_are_triangles_of_height_at_most_one_and_leave_out_the_nyquist_bin():
    filters = mel_filters(128)
    assert filters.shape == (128, 257)
    assert filters.min() >= 0
    assert filters.max() <= 1
    assert filters[:, -1].abs().sum() == 0


def test_int16_and_float_give_the_same():
    clip = (torch.randn(1, 16_000, generator=torch.Generator().manual_seed(1)) * 3000).to(torch.int16)
    assert torch.equal(LogMel()(clip), LogMel()(clip.float() / 32768))


def test_mean_and_std_are_applied_as_the_paper_does():
    clip = torch.randn(1, 4_000, generator=torch.Generator().manual_seed(2))
    raw = LogMel(mean=0.0, std=0.5)(clip)
    assert torch.allclose(LogMel(mean=-3.0, std=2.0)(clip), (raw + 3.0) / 4.0, atol=1e-6)


def test_a_mean_and_a_std_for_each_band_are_applied_band_by_band():
    clip = torch.randn(1, 4_000, generator=torch.Generator().manual_seed(2))
    raw = LogMel(mean=0.0, std=0.5)(clip)
    means, stds = torch.linspace(-5, 1, 128), torch.linspace(0.5, 3, 128)
    assert torch.allclose(LogMel(means.tolist(), stds.tolist())(clip), (raw - means) / (2 * stds), atol=1e-5)
    with pytest.raises(ValueError, match="127 values"):
        LogMel(mean=[0.0] * 127)
    with pytest.raises(ValueError, match=r"-1\.0"):
        LogMel(std=-1.0)


def test_padding_and_cutting_agree_with_the_feature_extractor_of_transformers():
    from transformers import ASTFeatureExtractor

    extractor = ASTFeatureExtractor(max_length=150)
    for samples in (16_000, 32_000):
        clip = torch.randn(samples, generator=torch.Generator().manual_seed(samples)) * 0.1
        expected = extractor(clip.numpy(), sampling_rate=16_000, return_tensors="pt")["input_values"]
        assert (LogMel(frames=150)(clip[None]) - expected).abs().max() <= 1e-5


def test_a_clip_shorter_than_a_frame_is_an_error_that_names_its_length():
    with pytest.raises(ValueError, match="399 samples"):
        LogMel()(torch.zeros(1, 399))


def test_one_dimension_is_an_error_that_names_the_shape():
    with pytest.raises(ValueError, match=r"\(400,\)"):
        LogMel()(torch.zeros(400))


def test_buffers_survive_a_state_dict_round_trip():
    first, second = LogMel(), LogMel()
    for buffer in second.buffers():
        buffer.zero_()
    second.load_state_dict(first.state_dict())
    clip = torch.randn(1, 8_000, generator=torch.Generator().manual_seed(3))
    assert set(dict(first.named_buffers())) == {"window", "filters", "mean", "std"}
    assert torch.equal(first(clip), second(clip))


def test_autocast_does_not_lower_the_precision():
    clip = torch.randn(1, 8_000, generator=torch.Generator().manual_seed(4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = LogMel()(clip)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, LogMel()(clip))


def test_it_is_built_on_the_meta_device_as_a_loaded_model_is():
    with torch.device("meta"):
        shapes = {name: buffer.shape for name, buffer in LogMel().named_buffers()}
    assert shapes == {name: buffer.shape for name, buffer in LogMel().named_buffers()}
