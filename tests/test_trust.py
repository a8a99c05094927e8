"""Flags on sound made here and on real clips: each must rise where it should, and stay down on music."""

from __future__ import annotations

import numpy as np
import pytest

from mp3model.audio.decode import decode
from mp3model.serving.trust import (
    Flag,
    clipped_share,
    flag_table,
    is_speech,
    silent_share,
    sound_flags,
    speech_features,
)

RATE = 16_000


def tone(seconds: float, level: float = 0.3) -> np.ndarray:
    time = np.arange(int(seconds * RATE)) / RATE
    chord = sum(np.sin(2 * np.pi * pitch * time) for pitch in (220, 277, 330)) / 3
    return (32768 * level * chord).astype(np.int16)


def babble(seconds: float) -> np.ndarray:
    """Gliding harmonics in four bursts a second with pauses between: what a talking voice is to the detector."""
    time = np.arange(int(seconds * RATE)) / RATE
    pitch = 130 * 2 ** (0.5 * np.sin(2 * np.pi * 1.3 * time) + 0.2 * np.sin(2 * np.pi * 0.7 * time))
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    voice = sum(np.sin(number * phase) / number for number in range(1, 20))
    bursts = np.clip(np.sin(2 * np.pi * 4 * time), 0, None) ** 2
    return (4000 * voice * bursts).astype(np.int16)


def codes(clip: np.ndarray, heard: int = 5 * RATE) -> list[str]:
    return [flag.code for flag in sound_flags(clip, heard)]


def test_a_plain_chord_raises_no_flag_at_any_level():
    assert codes(tone(10)) == []
    assert codes(tone(10, 0.01)) == []


def test_audio_shorter_than_the_model_heard_is_flagged_with_both_lengths():
    (flag,) = sound_flags(tone(2), 5 * RATE)
    assert flag.code == "short_audio"
    assert "2.0 s" in flag.reason
    assert "5.0 s" in flag.reason
    assert codes(tone(4.95)) == []


def test_silence_is_flagged_where_it_is_most_of_the_clip():
    quiet = np.zeros(6 * RATE, np.int16)
    assert codes(quiet) == ["silence"]
    assert silent_share(np.concatenate([quiet, tone(2)])) == pytest.approx(0.75, abs=0.01)
    assert "silence" in codes(np.concatenate([quiet, tone(2)]))
    assert "silence" not in codes(np.concatenate([quiet, tone(7)]))
    hum = (10 * np.sin(np.arange(6 * RATE))).astype(np.int16)
    assert codes(hum) == ["silence"]


def test_clipping_counts_runs_at_full_scale_and_not_single_peaks():
    clip = np.zeros(100, np.int16)
    clip[[3, 10, 11, 20, 21, 22, 23]] = 32767
    clip[30:33] = -32768
    assert clipped_share(clip) == pytest.approx(7 / 100)
    loud = np.clip(tone(6).astype(int) * 6, -32768, 32767).astype(np.int16)
    assert codes(loud) == ["clipping"]


def test_what_talks_is_told_from_what_plays_whatever_its_level():
    assert is_speech(babble(8))
    assert is_speech((babble(8) // 8).astype(np.int16))
    assert not is_speech(babble(2))
    for features, expected in ((speech_features(babble(8)), True), (speech_features(tone(8)), False)):
        assert (features[0] > 0.58) == expected


def test_a_long_song_is_judged_by_its_middle_minute():
    song = np.concatenate([babble(30), tone(90), babble(30)])
    assert not is_speech(song)
    assert np.allclose(speech_features(song), speech_features(tone(60)), atol=1e-6)


@pytest.mark.parametrize("length", [1, 100, 320, 2047, RATE])
def test_clips_of_any_length_are_judged_without_an_error(length):
    assert codes(tone(60)[:length]) in (["short_audio"], ["short_audio", "silence"])


def test_flags_become_rows_without_repeats():
    flag = Flag("speech", "the audio sounds like speech, not music")
    table = flag_table([("a", flag), ("a", flag), ("b", Flag("floors_old", "from 2020", "US"))])
    assert table.to_numpy().tolist() == [
        ["a", "", "speech", "the audio sounds like speech, not music"],
        ["b", "US", "floors_old", "from 2020"],
    ]
    assert list(flag_table([])) == ["track_id", "region", "code", "reason"]


def test_real_speech_is_flagged_and_real_music_is_not(shared_audio):
    speech = sorted((shared_audio / "not_music").glob("*.ogg"))
    music = sorted((shared_audio / "cc").glob("*.ogg")) + sorted((shared_audio / "fma").glob("*.mp3"))[::6]
    assert speech
    assert [path.name for path in speech if "speech" not in codes(decode(path))] == []
    assert [path.name for path in music if codes(decode(path))] == []
