"""The parts behind the HTTP service: decoding under limits, hearing in company, and which seconds move a forecast."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import threading

import numpy as np
import pytest
import soundfile
import torch
from tiny_model import write_model

from mp3model import Forecaster
from mp3model.audio.decode import AudioError, decode
from mp3model.files import InputError
from mp3model.serving.asked import Heard
from mp3model.serving.attribution import attributions
from mp3model.serving.decoding import Decoders
from mp3model.serving.work import Busy, Desk, Ears, listened

DATE = "2026-12-04"


@pytest.fixture(scope="module")
def forecaster(tmp_path_factory):
    return Forecaster.from_pretrained(write_model(tmp_path_factory.mktemp("parts") / "model"), "cpu")


def clip(seconds: float, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=int(seconds * 16_000)) * 3000).astype(np.int16)


def as_wav(samples: np.ndarray) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, samples, 16_000, format="WAV")
    return stream.getvalue()


def test_a_decoder_gives_what_decoding_here_gives_and_passes_refusals_on():
    decoders = Decoders(1)
    try:
        content = as_wav(clip(1.0))
        assert np.array_equal(decoders.decode(content, 60.0, "x"), decode(content))
        with pytest.raises(AudioError, match="nosong: is not an mp3") as refused:
            decoders.decode(b"no song at all" * 99, 60.0, "nosong")
        assert refused.value.reason.startswith("is not an mp3")
        with pytest.raises(AudioError, match=r"lasts 1.0 s or more; the limit is 0.5 s"):
            decoders.decode(content, 0.5, "x")
        (process,) = decoders._all
        assert np.array_equal(decoders.decode(content, 60.0, "x"), decode(content))
        assert decoders._all == {process}
    finally:
        decoders.close()
    assert process.poll() is not None


@pytest.mark.slow
def test_a_decoder_over_its_memory_or_time_is_stopped_and_the_next_file_is_decoded():
    small = as_wav(clip(1.0))
    decoders = Decoders(1, memory_megabytes=40)
    try:
        with pytest.raises(AudioError, match="memory"):
            decoders.decode(as_wav(np.zeros(16_000 * 1100, np.int16)), 1200.0, "long")
        assert len(decoders.decode(small, 60.0, "x")) == 16_000
        # A killed process is one that another takes the place of.
        (process,) = decoders._all
        process.kill()
        process.wait()
        assert len(decoders.decode(small, 60.0, "x")) == 16_000
    finally:
        decoders.close()
    decoders = Decoders(1, seconds=0.02)
    try:
        with pytest.raises(AudioError, match=r"took longer than 0.02 s"):
            decoders.decode(small, 60.0, "x")
        assert decoders._all == set()
    finally:
        decoders.close()


def test_a_decoder_answers_in_its_protocol_and_ends_when_its_server_does():
    def asked(content: bytes) -> bytes:
        return struct.pack("<BQ", 0, len(content)) + struct.pack("<d", 60.0) + content

    sound, noise = as_wav(clip(0.5)), b"no song at all" * 99
    command = [sys.executable, "-m", "mp3model.serving.decoding", "512", "60"]
    done = subprocess.run(command, input=asked(sound) + asked(noise), capture_output=True, check=True, timeout=100)
    answers, at = [], 0
    while at < len(done.stdout):
        kind, size = struct.unpack_from("<BQ", done.stdout, at)
        answers.append((kind, done.stdout[at + 9 : at + 9 + size]))
        at += 9 + size
    (first, samples), (second, reason) = answers
    assert (first, second) == (0, 1)
    assert np.array_equal(np.frombuffer(samples, "<i2"), decode(sound))
    assert reason.decode().startswith("is not an mp3")


def test_songs_are_heard_in_company_as_alone(forecaster):
    model = forecaster.model
    clips = [clip(seconds, seed) for seed, seconds in enumerate((0.5, 2.0, 3.7, 2.0))]
    for together in (1, 4):
        alone = [listened(model, [one], together)[0] for one in clips]
        company = listened(model, clips, together)
        for one, other in zip(alone, company, strict=True):
            # In a group of several a product's last bit may hang on a row's place, as processors tile it differently.
            bound = 0 if together == 1 else 1e-6
            torch.testing.assert_close(one.tokens, other.tokens, rtol=0, atol=bound)
            torch.testing.assert_close(one.states, other.states, rtol=0, atol=bound)
    expected = forecaster._listen(clips[2])
    np.testing.assert_allclose(company[2].tokens.numpy(), expected.tokens.numpy(), atol=1e-5)


def test_ears_remember_the_last_clips_only(forecaster, monkeypatch):
    ears, heard = Ears(forecaster.model, remembered=2), []
    monkeypatch.setattr(
        "mp3model.serving.work.listened", lambda model, clips, n: heard.extend(clips) or listened(model, clips, n)
    )
    first, second, third = (clip(0.5, seed) for seed in range(3))
    both = ears.hear([first, second, first])
    assert len(heard) == 2
    assert both[0].audio is both[2].audio
    assert ears.hear([second.copy()])[0].audio is both[1].audio
    ears.hear([third])
    assert len(heard) == 3
    ears.hear([first])
    assert len(heard) == 4


def test_a_desk_refuses_what_has_no_room_passes_over_what_was_cancelled_and_survives_faults(forecaster):
    desk = Desk(Ears(forecaster.model), room=2)
    held, release = threading.Event(), threading.Event()

    def hold(_):
        held.set()
        release.wait(20)

    first = desk.submit(None, hold)
    held.wait(5)
    done = []
    cancelled, failing = desk.submit(None, done.append), desk.submit(clip(0.5), lambda heard: 1 / 0)
    with pytest.raises(Busy):
        desk.submit(None, done.append)
    assert cancelled.cancel()
    release.set()
    assert first.result(5) is None
    with pytest.raises(ZeroDivisionError):
        failing.result(5)
    deaf = desk.submit("no clip", lambda heard: heard)
    with pytest.raises(AttributeError):
        deaf.result(5)
    assert isinstance(desk.submit(clip(0.5), lambda heard: heard).result(5), Heard)
    assert done == []
    desk.close()
    assert not desk.alive


def test_an_effect_is_what_the_log_total_loses_when_the_second_is_silent(forecaster):
    song = clip(3.4)
    song[16_000:32_000] = 0
    table = attributions(forecaster, (song, 16_000), ["US", "GB"], DATE, samples=8)
    assert list(table) == ["region", "second", "effect"]
    assert table["region"].tolist() == ["US"] * 4 + ["GB"] * 4
    assert table["second"].tolist() == [0, 1, 2, 3] * 2
    quiet = song.copy()
    quiet[48_000:] = 0

    def log_totals(samples):
        found = forecaster.forecast((samples, 16_000), ["US", "GB"], DATE, samples=8)
        return np.log10(found.sampled.streams.sum(axis=2)).mean(axis=1)

    effect = table[table["second"] == 3]["effect"].to_numpy()
    np.testing.assert_allclose(effect, log_totals(song) - log_totals(quiet), atol=1e-4)
    assert (table.loc[table["second"] == 1, "effect"].abs() < 1e-6).all()
    assert (table.loc[table["second"] != 1, "effect"].abs() > 1e-6).any()


def test_songs_whose_seconds_cannot_be_told_apart_are_refused(forecaster, tmp_path):
    with pytest.raises(InputError, match="601 s: effects are found of 600 s"):
        attributions(forecaster, (np.zeros(16_000 * 601, np.int16), 16_000), ["US"], DATE)
    deaf = Forecaster.from_pretrained(write_model(tmp_path / "deaf", encoder="none"), "cpu")
    with pytest.raises(InputError, match="does not hear"):
        attributions(deaf, (clip(1.0), 16_000), ["US"], DATE)


def test_a_shorter_horizon_cuts_the_curve_and_all_that_is_made_of_it(forecaster):
    whole = forecaster.forecast(None, ["US"], DATE, samples=32)
    short = forecaster.forecast(None, ["US"], DATE, samples=32, horizon=4)
    assert np.array_equal(short.sampled.streams, whole.sampled.streams[:, :, :4])
    assert (short.best_rank >= whole.best_rank).all()
    assert short.curves["week"].max() == 3
    for wrong in (0, 13):
        with pytest.raises(InputError, match=f"horizon {wrong}: give from 1 to 12"):
            forecaster.forecast(None, ["US"], DATE, horizon=wrong)
