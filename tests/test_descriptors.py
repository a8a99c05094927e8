"""HitMusicNet's 207 descriptors against sounds whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest

from mp3model.baselines.descriptors import NAMES, RATE, descriptor_table, descriptors
from mp3model.files import InputError

PITCHES = ["C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B"]


def tone(frequency: float, seconds: float = 2.0, loudness: float = 0.5) -> np.ndarray:
    return (loudness * np.sin(2 * np.pi * frequency * np.arange(int(seconds * RATE)) / RATE)).astype(np.float32)


def noise(seconds: float = 5.0) -> np.ndarray:
    return (0.1 * np.random.default_rng(0).normal(size=int(seconds * RATE))).astype(np.float32)


def named(samples: np.ndarray) -> dict[str, float]:
    return dict(zip(NAMES, descriptors(samples).astype(float), strict=True))


def group(values: dict[str, float], prefix: str) -> np.ndarray:
    return np.array([value for name, value in values.items() if name.startswith(prefix)])


def test_there_are_207_in_the_papers_groups():
    assert len(NAMES) == len(set(NAMES)) == 207
    sizes = {prefix: sum(name.startswith(prefix + "_") for name in NAMES) for prefix in ("mfcc", "chroma", "mel")}
    assert sizes == {"mfcc": 48, "chroma": 12, "mel": 128}
    assert sum(name.startswith("tonnetz_") for name in NAMES) == 6
    assert sum(name.startswith("contrast_") for name in NAMES) == 7
    assert NAMES[-6:] == (
        "zero_crossing_rate",
        "centroid",
        "roll_off_min",
        "roll_off_max",
        "bandwidth",
        "energy_entropy",
    )


@pytest.mark.parametrize(("frequency", "pitch"), [(440.0, "A"), (261.63, "C"), (1108.73, "C#"), (1975.53, "B")])
def test_a_pure_tone_lights_its_pitch_class(frequency, pitch):
    values = named(tone(frequency))
    chroma = group(values, "chroma")
    assert PITCHES[int(chroma.argmax())] == pitch
    assert chroma.max() == pytest.approx(1.0, abs=1e-4)
    assert np.sort(chroma)[-2] < 0.75
    place = PITCHES.index(pitch)
    assert chroma[(place + 6) % 12] < 0.01


def test_a_pure_tones_centroid_and_roll_offs_are_its_frequency():
    values = named(tone(1000.0))
    assert values["centroid"] == pytest.approx(1000.0, abs=2.0)
    assert values["roll_off_min"] == pytest.approx(1000.0, abs=8.0)
    assert values["roll_off_max"] == pytest.approx(1000.0, abs=30.0)
    assert values["bandwidth"] < 40.0
    assert values["zero_crossing_rate"] == pytest.approx(2 * 1000 / RATE, abs=0.001)
    assert values["energy_entropy"] == pytest.approx(np.log2(10), abs=1e-3)


def test_bandwidth_of_two_equal_tones_is_half_their_distance():
    values = named(tone(1000.0) + tone(3000.0))
    assert values["centroid"] == pytest.approx(2000.0, abs=5.0)
    assert values["bandwidth"] == pytest.approx(1000.0, abs=15.0)


def test_white_noise_is_flat():
    values = named(noise())
    assert values["centroid"] == pytest.approx(4000.0, abs=40.0)
    assert values["bandwidth"] == pytest.approx(8000 / np.sqrt(12), abs=40.0)
    assert values["roll_off_max"] == pytest.approx(7920.0, abs=15.0)
    assert values["roll_off_min"] == pytest.approx(80.0, abs=15.0)
    assert values["zero_crossing_rate"] == pytest.approx(0.5, abs=0.01)
    assert values["energy_entropy"] == pytest.approx(np.log2(10), abs=0.02)
    # The power in a band of unit area is the noise's density, the same in all: the first are one bin wide.
    assert np.ptp(group(values, "mel")[20:]) < 2.0
    assert np.ptp(group(values, "chroma")) < 0.25


def test_silence_gives_finite_values_and_no_harmony():
    values = named(np.zeros(RATE, dtype=np.int16))
    assert group(values, "mel") == pytest.approx(-100.0)
    assert values["mfcc_0"] == pytest.approx(-100.0 * np.sqrt(128), rel=1e-5)
    rest = [value for name, value in values.items() if not name.startswith("mel_") and name != "mfcc_0"]
    assert np.abs(rest).max() < 1e-3


def test_ten_times_louder_adds_20_decibels_and_changes_no_shape():
    quiet, loud = named(noise() / 10), named(noise())
    assert group(loud, "mel") - group(quiet, "mel") == pytest.approx(20.0, abs=1e-3)
    assert loud["mfcc_0"] - quiet["mfcc_0"] == pytest.approx(20 * np.sqrt(128), rel=1e-4)
    for prefix in ("mfcc_1", "chroma", "tonnetz", "contrast", "zero", "centroid", "roll", "bandwidth", "energy"):
        assert group(loud, prefix) == pytest.approx(group(quiet, prefix), rel=1e-3, abs=1e-3)


def test_a_chord_pulls_the_tonnetz_towards_its_intervals():
    # C and G lie 7 semitones apart: neighbours on the circle of fifths, so long vectors on its two axes.
    fifth = group(named(tone(261.63) + tone(392.0)), "tonnetz")
    tritone = group(named(tone(261.63) + tone(369.99)), "tonnetz")
    assert np.hypot(*fifth[:2]) > 0.4
    assert np.hypot(*tritone[:2]) < 0.1
    # G alone, 7 steps of 7π/6: a twelfth of a turn on the circle of fifths, towards the positive sine.
    lone = group(named(tone(783.99)), "tonnetz")
    assert np.arctan2(lone[0], lone[1]) == pytest.approx(np.pi / 6, abs=0.05)
    # C alone: angle 0 on all three circles, radii 1, 1 and 1/2.
    lone = group(named(tone(523.25)), "tonnetz")
    assert lone[[1, 3]].min() > 0.5
    assert np.abs(lone[[0, 2, 4]]).max() < 0.1


def test_a_click_has_less_energy_entropy_than_a_tone():
    click = np.zeros(2048, dtype=np.float32)
    click[100] = 1.0
    assert named(click)["energy_entropy"] == pytest.approx(0.0, abs=1e-6)
    click[1000] = 1.0
    assert named(click)["energy_entropy"] == pytest.approx(1.0, abs=1e-6)


def test_a_tone_has_contrast_in_its_own_octave_band():
    contrast = group(named(tone(1000.0)), "contrast")
    assert contrast[3] > 60.0  # 800–1600 Hz
    assert contrast[3] == contrast.max()
    assert group(named(noise()), "contrast").max() < 35.0


def test_int16_and_float_agree():
    whole = np.round(noise(1.0) * 32768).astype(np.int16)
    np.testing.assert_array_equal(descriptors(whole), descriptors(whole.astype(np.float32) / 32768))


def test_values_equal_an_independent_slow_computation():
    """Centroid, crossings, cepstrum and mel of one frame, straight from their formulas."""
    x = noise(2048 / RATE).astype(float)
    hann = np.sin(np.pi * np.arange(2048) / 2048) ** 2
    turns = np.exp(-2j * np.pi * np.outer(np.arange(1025), np.arange(2048)) / 2048)
    size = np.abs(turns @ (x * hann))
    frequency = np.arange(1025) * RATE / 2048
    values = named(x.astype(np.float32))
    assert values["centroid"] == pytest.approx((frequency * size).sum() / size.sum(), rel=1e-5)
    assert values["zero_crossing_rate"] == pytest.approx(np.mean(x[1:] * x[:-1] < 0), abs=1e-6)
    mel = group(values, "mel")
    cosines = np.cos(np.pi * np.outer(np.arange(48), np.arange(128) + 0.5) / 128) * np.sqrt(2 / 128)
    cosines[0] /= np.sqrt(2)
    assert group(values, "mfcc") == pytest.approx(cosines @ mel, abs=1e-3)


@pytest.mark.parametrize("bad", [np.zeros(0), np.zeros((2, 100)), np.array([0.0, np.nan])])
def test_samples_that_are_none_are_refused(bad):
    with pytest.raises(InputError):
        descriptors(bad)


def test_a_songs_clips_are_averaged_in_the_table():
    table = descriptor_table([("b", tone(440.0)), ("a", noise(1.0)), ("b", tone(880.0))])
    assert list(table.index) == ["b", "a"]
    assert table.index.name == "song_id"
    assert tuple(table.columns) == NAMES
    mean = (descriptors(tone(440.0)) + descriptors(tone(880.0))) / 2
    np.testing.assert_allclose(table.loc["b"], mean, rtol=1e-5)
