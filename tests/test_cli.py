"""The command line, as typed: what it prints, what it writes, and how it refuses."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import soundfile

from mp3model.serving.plots import augmentation_stages


def command(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "mp3model.cli", *words], capture_output=True, text=True, check=False, timeout=200
    )


def test_doctor_finds_nothing_wrong_where_the_tests_run():
    done = command("doctor")
    assert done.returncode == 0, done.stdout
    assert "forward pass on cpu" in done.stdout
    assert done.stdout.strip().endswith("all is well")


def test_augment_draws_a_file_and_its_other_preview(tmp_path):
    for number in range(2):
        noise = np.random.default_rng(number).normal(size=48_000) * 0.1
        soundfile.write(tmp_path / f"{number}.wav", noise, 16_000)
    picture = tmp_path / "out" / "augment.png"
    done = command("augment", str(tmp_path / "0.wav"), str(tmp_path / "1.wav"), "--plot", str(picture))
    assert done.returncode == 0, done.stderr
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert picture.stat().st_size > 20_000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.mp3"], "nowhere.mp3"),
        (["{folder}/short.wav"], "less than a second"),
        (["{folder}/short.wav", "--plot", "picture.jpg"], "picture.jpg"),
        (["{folder}/text.mp3"], "text.mp3"),
    ],
)
def test_wrong_input_gets_one_line_and_status_2(tmp_path, words, message):
    soundfile.write(tmp_path / "short.wav", np.zeros(4000), 16_000)
    (tmp_path / "text.mp3").write_text("no sound here\n" * 100)
    given = [word.format(folder=tmp_path) for word in words]
    plot = [] if "--plot" in given else ["--plot", str(tmp_path / "a.png")]
    done = command("augment", *given, *plot)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    assert message in done.stderr
    assert not (tmp_path / "a.png").exists()


def test_a_reader_who_has_had_enough_gets_no_traceback(tmp_path):
    curve = tmp_path / "curve.csv"
    curve.write_text("region,week,streams\nUS,0,5000\nUS,1,4000\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "mp3model.cli", "metrics", str(curve)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    told = process.stderr.read().decode()
    assert process.wait(timeout=100) == 141
    assert told == ""


def test_the_picture_shows_each_effect_alone():
    clip = (np.random.default_rng(0).normal(size=32_000) * 2000).astype(np.int16)
    stages = augmentation_stages(clip)
    original, mel = stages["as it is"]
    assert np.allclose(stages["gain, −12 dB"][0], original * 10 ** (-12 / 20), atol=1e-6)
    assert np.allclose(stages["roll by a third"][0], np.roll(original, 32_000 // 3), atol=1e-6)
    assert np.array_equal(stages["three semitones up"][0], original)
    assert np.abs(stages["three semitones up"][1] - mel).mean() > 0.01
    masked = stages["SpecAugment"][1]
    assert (masked == 0).any(axis=1).all() or (masked == 0).all(axis=1).any()
    assert np.array_equal(masked[masked != 0], mel[masked != 0])
