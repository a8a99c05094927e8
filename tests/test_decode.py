"""Decoding: the right sound out of every format, and a named reason for whatever is not whole."""

from __future__ import annotations

import pickle
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from audio_files import SHARED_AUDIO, riff, tone, without_first_mp3_frame, write_audio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mp3model.audio.decode import AudioError, decode

# What lossy coders may add in front or behind.
MOST_EXTRA_SECONDS = 0.08


def dominant_frequency(clip: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(clip * np.hanning(len(clip))))
    return float(np.argmax(spectrum) * 16_000 / len(clip))


def rms(clip: np.ndarray) -> float:
    return float(np.sqrt(np.mean((clip / 32768.0) ** 2)))


def refusal(source: Path | bytes, **options) -> str:
    with pytest.raises(AudioError) as caught:
        decode(source, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert message == f"{source if isinstance(source, Path) else 'the given bytes'}: {caught.value.reason}"
    return caught.value.reason


@pytest.mark.parametrize(
    ("suffix", "rate", "channels"),
    [
        (".wav", 44_100, 2),
        (".wav", 16_000, 1),
        (".wav", 8_000, 1),
        (".wav", 96_000, 6),
        (".flac", 48_000, 2),
        (".flac", 192_000, 1),
        (".aiff", 44_100, 1),
        (".aif", 22_050, 2),
        (".ogg", 44_100, 2),
        (".ogg", 8_000, 1),
        (".opus", 48_000, 2),
        (".mp3", 44_100, 2),
        (".mp3", 22_050, 1),
        (".mp3", 8_000, 1),
        (".m4a", 44_100, 2),
        (".m4a", 48_000, 6),
        (".m4a", 16_000, 1),
        (".aac", 44_100, 2),
    ],
)
def test_a_tone_keeps_pitch_length_and_level_in_every_format(tmp_path: Path, suffix: str, rate: int, channels: int):
    path = write_audio(tmp_path / f"tone{suffix}", tone(2.0, rate, channels), rate)
    clip = decode(path)
    assert clip.dtype == np.int16
    assert clip.ndim == 1
    assert 2.0 - 0.002 <= len(clip) / 16_000 <= 2.0 + MOST_EXTRA_SECONDS
    middle = clip[8_000:24_000]
    assert dominant_frequency(middle) == pytest.approx(1000, abs=1.5)
    # The sixth channel of 5.1 carries bass only: its coder takes the tone out.
    level = 0.5 * (5 / 6 if (suffix, channels) == (".m4a", 6) else 1)
    assert rms(middle) == pytest.approx(level / np.sqrt(2), rel=0.02)


def test_sixteen_bit_audio_at_16_khz_comes_through_bit_for_bit(tmp_path: Path):
    samples = np.random.default_rng(0).integers(-32768, 32768, 100_000).astype(np.int16)
    for name in ("a.wav", "a.flac"):
        soundfile.write(tmp_path / name, samples, 16_000)
        np.testing.assert_array_equal(decode(tmp_path / name), samples)


def test_channels_are_averaged():
    frames = np.array([[1000, 3000], [-1000, 1000], [32767, 32767], [-32768, -32768], [5, 6]])
    # 5.5 rounds to the even neighbour.
    assert decode(riff(frames.ravel(), 16_000, channels=2)).tolist() == [2000, 0, 32767, -32768, 6]


def test_block_by_block_resampling_equals_resampling_in_one_piece(tmp_path: Path):
    noise = np.random.default_rng(1).uniform(-0.9, 0.9, 300_000).astype(np.float32)
    soundfile.write(tmp_path / "noise.wav", noise, 44_100, subtype="FLOAT")
    whole = soxr.resample(noise, 44_100, 16_000, quality="HQ")
    clip = decode(tmp_path / "noise.wav")
    assert len(clip) == len(whole)
    assert np.abs(clip - np.clip(whole * 32768.0, -32768, 32767)).max() <= 1


def test_sound_above_8_khz_is_filtered_out_and_not_folded_down(tmp_path: Path):
    clip = decode(write_audio(tmp_path / "high.wav", tone(1.0, 44_100, frequency=11_000), 44_100))
    assert rms(clip[4_000:12_000]) < 1e-4


def test_overshoot_is_clipped_and_does_not_wrap(tmp_path: Path):
    soundfile.write(tmp_path / "hot.wav", np.full(1600, 1.5, np.float32), 16_000, subtype="FLOAT")
    assert (decode(tmp_path / "hot.wav") == 32767).all()


def test_bytes_give_what_the_path_gives(tmp_path: Path):
    for suffix in (".wav", ".mp3", ".m4a", ".ogg"):
        path = write_audio(tmp_path / f"tone{suffix}", tone(0.5, 44_100, 2), 44_100)
        np.testing.assert_array_equal(decode(path.read_bytes()), decode(str(path)))


@pytest.mark.parametrize("wrong_name", ["song.mp3", "song.raw", "song", "http:song.txt"])
def test_the_content_decides_and_not_the_name(tmp_path: Path, wrong_name: str):
    path = write_audio(tmp_path / "song.wav", tone(0.5, 16_000), 16_000)
    right = decode(path)
    np.testing.assert_array_equal(decode(path.rename(tmp_path / wrong_name)), right)


def test_an_mp3_behind_tags_in_another_encoding_and_a_large_picture_is_read(tmp_path: Path):
    mp3 = write_audio(tmp_path / "a.mp3", tone(1.0, 44_100), 44_100).read_bytes()

    def frame(name: bytes, content: bytes) -> bytes:
        return name + struct.pack(">I", len(content)) + b"\0\0" + content

    tag = frame(b"TIT2", b"\0Bj\xf6rk \xff\xfb\x90d") + frame(b"APIC", b"\0image/png\0\3\0" + b"\xff\xfb" * 50_000)
    size = bytes(len(tag) >> shift & 0x7F for shift in (21, 14, 7, 0))
    tagged = b"ID3\3\0\0" + size + tag + mp3 + b"TAG" + b"\xe9" * 125
    np.testing.assert_array_equal(decode(tagged), decode(mp3))


def test_a_variable_rate_mp3_without_a_length_is_read_to_its_end(tmp_path: Path):
    # Loud first: a length guessed from the first frames' bit rate falls far short.
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 44_100 * 3)
    waveform = np.concatenate([noise, np.zeros(44_100 * 9)])
    soundfile.write(tmp_path / "a.mp3", waveform, 44_100, bitrate_mode="VARIABLE", compression_level=0.1, format="MP3")
    bare = without_first_mp3_frame((tmp_path / "a.mp3").read_bytes())
    assert b"Xing" not in bare
    assert len(decode(bare)) / 16_000 == pytest.approx(12, abs=0.1)


def test_an_mp3_that_declares_no_length_is_taken_as_far_as_it_goes(tmp_path: Path):
    mp3 = without_first_mp3_frame(write_audio(tmp_path / "a.mp3", tone(4.0, 44_100), 44_100).read_bytes())
    # Cut at both ends in the middle of a frame, as a stream recorder does.
    assert len(decode(mp3[100 : len(mp3) // 2])) / 16_000 == pytest.approx(2, abs=0.15)


@pytest.mark.parametrize("declared", [0xFFFFFFFF, 0x7FFFF000])
def test_a_wav_written_to_a_pipe_is_read_to_its_end(declared: int):
    samples = np.arange(8_000).astype(np.int16)
    np.testing.assert_array_equal(decode(riff(samples, 16_000, declared_bytes=declared)), samples)


@pytest.mark.parametrize("suffix", [".wav", ".aiff", ".flac", ".m4a", ".mp3", ".ogg", ".opus"])
@pytest.mark.parametrize("kept", [0.3, 0.5, 0.9])
def test_a_file_cut_in_the_middle_is_refused(tmp_path: Path, suffix: str, kept: float):
    waveform = tone(5.0, 48_000, 2) + np.random.default_rng(2).normal(0, 0.05, (240_000, 2))
    content = write_audio(tmp_path / f"a{suffix}", waveform, 48_000).read_bytes()
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(content[: int(kept * len(content))])
    assert "cut short" in refusal(path) or "damaged" in refusal(path)


def test_a_cut_file_says_how_much_of_it_is_there():
    samples = np.zeros(32_000, np.int16)
    reason = refusal(riff(samples, 16_000, declared_bytes=160_000))
    assert reason == "is cut short or damaged: ends after 2.0 s of the declared 5.0 s"


def test_a_few_missing_bytes_are_no_truncation():
    assert len(decode(riff(np.zeros(32_000, np.int16), 16_000, declared_bytes=64_200))) == 32_000


@pytest.mark.parametrize("suffix", [".flac", ".m4a", ".mp3", ".ogg"])
def test_damage_in_the_middle_is_refused(tmp_path: Path, suffix: str):
    waveform = tone(8.0, 44_100) + np.random.default_rng(3).normal(0, 0.1, (352_800, 1))
    path = write_audio(tmp_path / f"a{suffix}", waveform, 44_100)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + len(content) // 10] = np.random.default_rng(4).bytes(len(content) // 10)
    path.write_bytes(content)
    assert "damaged" in refusal(path)


@pytest.mark.parametrize("suffix", [".wav", ".aiff", ".flac", ".m4a", ".mp3", ".ogg", ".aac"])
@pytest.mark.parametrize("length", [3, 20, 100])
def test_a_stump_of_a_header_is_refused(tmp_path: Path, suffix: str, length: int):
    content = write_audio(tmp_path / f"a{suffix}", tone(1.0, 44_100, 2), 44_100).read_bytes()
    assert refusal(content[:length])


@pytest.mark.parametrize("suffix", [".wav", ".aiff", ".flac", ".m4a", ".ogg"])
def test_a_file_whose_header_is_wiped_is_refused(tmp_path: Path, suffix: str):
    content = write_audio(tmp_path / f"a{suffix}", tone(1.0, 44_100, 2), 44_100).read_bytes()
    assert "not an mp3, m4a" in refusal(bytes(200) + content[200:])


def test_what_is_no_audio_is_refused_by_name(tmp_path: Path):
    text = tmp_path / "text.mp3"
    text.write_text("these are the lyrics of a song\n" * 500)
    assert "not an mp3, m4a, aac, ogg, flac, wav or aiff file" in refusal(text)
    assert "not an mp3" in refusal("wide text, with ÿûÿû in it".encode("utf-16") * 2000)
    assert "not an mp3" in refusal(np.random.default_rng(0).bytes(300_000))
    assert "not an mp3" in refusal(bytes(300_000))
    (tmp_path / "empty.wav").touch()
    assert refusal(tmp_path / "empty.wav") == "is empty"
    assert refusal(b"") == "is empty"
    assert refusal(tmp_path / "nowhere.mp3") == "no such file"
    assert refusal(tmp_path) == "is not a regular file"


def test_a_film_without_sound_and_a_wav_without_samples_are_refused(tmp_path: Path):
    import av

    with av.open(str(tmp_path / "film.mp4"), "w") as output:
        stream = output.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for _ in range(5):
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            output.mux(stream.encode(frame.reformat(format="yuv420p")))
        output.mux(stream.encode(None))
    assert refusal(tmp_path / "film.mp4") == "holds no audio stream"
    assert refusal(riff(np.zeros(0), 16_000)) == "holds no samples"


def test_sound_in_an_unknown_coding_is_refused():
    wav = bytearray(riff(np.arange(1000), 16_000))
    wav[20:22] = b"\x77\x77"
    assert refusal(bytes(wav)) == "is coded in a way that no decoder at hand knows"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_single_sample_that_is_no_number_is_refused(tmp_path: Path, value: float):
    waveform = tone(0.5, 44_100, 2)
    waveform[12_345, 1] = value
    soundfile.write(tmp_path / "a.wav", waveform, 44_100, subtype="FLOAT")
    assert refusal(tmp_path / "a.wav") == "holds NaN or infinite samples"


def test_integers_stored_as_floats_are_refused_with_the_mend(tmp_path: Path):
    soundfile.write(tmp_path / "a.wav", tone(0.1, 16_000) * 32767, 16_000, subtype="FLOAT")
    assert "where full scale is 1; divide its samples by their integer range" in refusal(tmp_path / "a.wav")


def test_a_declared_length_over_the_limit_is_refused_before_decoding():
    # The header claims 1,300 s and the file holds none of it: decoding would report a cut file.
    content = riff(np.zeros(16_000, np.int16), 16_000)
    assert refusal(content, max_seconds=0.5) == "lasts 1.0 s or more; the limit is 0.5 s"
    claimed = riff(np.zeros(16_000, np.int16), 16_000, declared_bytes=1300 * 32_000)
    assert refusal(claimed) == "lasts 1300.0 s or more; the limit is 1200 s"


def test_a_length_over_the_limit_is_noticed_where_none_is_declared(tmp_path: Path):
    mp3 = write_audio(tmp_path / "a.mp3", tone(10.0, 44_100), 44_100).read_bytes()
    reason = refusal(without_first_mp3_frame(mp3), max_seconds=3)
    assert reason.endswith("the limit is 3 s")
    assert float(reason.split()[1]) < 6


@pytest.mark.parametrize(("rate", "channels"), [(999, 1), (0, 1), (800_000, 1), (44_100, 65), (44_100, 0)])
def test_absurd_rates_and_channel_counts_are_refused(rate: int, channels: int):
    assert refusal(riff(np.zeros(65 * 100, np.int16), rate, channels))


def test_rates_and_channel_counts_at_the_limits_are_read():
    for rate, channels in ((1_000, 1), (16_000, 64), (655_350, 2)):
        samples = np.repeat((tone(0.5, rate, frequency=100) * 32767).astype(np.int16), channels)
        assert dominant_frequency(decode(riff(samples, rate, channels))) == pytest.approx(100, abs=2)
    with pytest.raises(AudioError, match="has a rate of 999 Hz; 1000 to 768000 Hz are read"):
        decode(riff(np.zeros(1000), 999))
    with pytest.raises(AudioError, match="has 65 channels; 1 to 64 are read"):
        decode(riff(np.zeros(6500), 16_000, 65))


def test_a_stream_that_changes_its_rate_is_refused(tmp_path: Path):
    first = write_audio(tmp_path / "a.aac", tone(1.0, 44_100), 44_100).read_bytes()
    second = write_audio(tmp_path / "b.aac", tone(1.0, 22_050), 22_050).read_bytes()
    assert refusal(first + second) == "changes its rate from 44100 to 22050 Hz midway"


def test_errors_call_bytes_by_the_name_given_and_survive_pickling():
    with pytest.raises(AudioError, match=r"^upload\.mp3: is empty$") as caught:
        decode(b"", name="upload.mp3")
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.name, copy.reason) == ("upload.mp3: is empty", "upload.mp3", "is empty")


def test_memory_stays_near_the_size_of_the_result(tmp_path: Path):
    path = tmp_path / "long.flac"
    with soundfile.SoundFile(path, "w", 48_000, 2) as file:
        for _ in range(300):
            file.write(np.zeros((48_000, 2), np.int16))
    decode(path)
    tracemalloc.start()
    try:
        clip = decode(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(clip) == 300 * 16_000
    # As floats in stereo at 48 kHz the file is 115 MB; the result is 9.6 MB, twice while it is joined.
    assert peak < 2 * clip.nbytes + 4e6


def test_nothing_is_written_to_stderr_about_damage(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    content = bytearray(write_audio(tmp_path / "a.mp3", tone(2.0, 44_100), 44_100).read_bytes())
    content[3000:9000] = bytes(6000)
    for source in (bytes(content), bytes(content[:5000]), riff(np.zeros(5), 16_000)[:40], b"FORM\0\0\0\1AIFF"):
        refusal(source)
    assert capfd.readouterr() == ("", "")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_change_of_bytes_gives_sound_or_a_reason(data: st.DataObject, small_files: list[bytes]):
    content = bytearray(data.draw(st.sampled_from(small_files)))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, min(len(content), 400) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(1, len(content)))]
    outcome: np.ndarray | str
    try:
        outcome = decode(bytes(content))
    except AudioError as error:
        outcome = str(error)
    if isinstance(outcome, str):
        assert "\n" not in outcome
    else:
        assert outcome.dtype == np.int16
        assert len(outcome) > 0


@pytest.fixture(scope="session")
def small_files(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("small")
    suffixes = (".wav", ".aiff", ".flac", ".mp3", ".m4a", ".aac", ".ogg")
    return [write_audio(folder / f"a{s}", tone(0.3, 44_100, 2), 44_100).read_bytes() for s in suffixes]


@pytest.mark.skipif(not SHARED_AUDIO.is_dir(), reason="real clips are not at hand")
def test_real_clips_agree_with_an_independent_decoder_and_resampler():
    for path in [
        *sorted((SHARED_AUDIO / "fma").glob("*.mp3"))[:3],
        *sorted((SHARED_AUDIO / "not_music").glob("*.ogg"))[:1],
    ]:
        waveform, rate = soundfile.read(path, always_2d=True)
        expected = soxr.resample(waveform.mean(axis=1), rate, 16_000)
        clip = decode(path) / 32768.0
        assert abs(len(clip) - len(expected)) <= 160
        length = min(len(clip), len(expected))
        # Two mp3 decoders differ by rounding; the peak is what clipping to full scale leaves.
        difference = clip[:length] - np.clip(expected[:length], -1, 1)
        assert np.sqrt(np.mean(difference**2)) < 2e-4
