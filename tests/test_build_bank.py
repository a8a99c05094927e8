"""A folder of audio becomes a bank: the same with any number of workers, and after any interruption."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from audio_files import SHARED_AUDIO, tone, write_audio

from data_prep.build_bank import SourceClip, build_bank, find_clips, main
from mp3model.audio.bank import AudioBank
from mp3model.audio.decode import decode
from mp3model.files import InputError


def short(path: Path, frequency: float = 440.0, seconds: float = 0.1) -> Path:
    return write_audio(path, tone(seconds, 16_000, frequency=frequency), 16_000)


def contents(bank: Path) -> dict[str, bytes]:
    """The bank proper, without its bookkeeping."""
    return {path.name: path.read_bytes() for path in sorted(bank.iterdir()) if path.is_file()}


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=120)


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "data_prep.build_bank", *map(str, arguments)]


@pytest.fixture(scope="session")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """130 mp3 files of 5 s, five shards; links to three recordings keep the making short."""
    folder = tmp_path_factory.mktemp("album")
    recordings = [
        write_audio(folder / f".recording-{i}.mp3", tone(5, 44_100, 2, frequency=300.0 + 100 * i), 44_100)
        for i in range(3)
    ]
    for number in range(130):
        os.link(recordings[number % 3], folder / f"song-{number:03d}.mp3")
    return folder


@pytest.fixture(scope="session")
def album_bank(album: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("album_bank")
    build_bank(album, find_clips(album), out, workers=1)
    return out


def test_tracks_are_named_by_path_and_previews_by_number(tmp_path: Path):
    for name in ("b/song.mp3", "b/song__2.ogg", "b/so__ng.FLAC", "a__1.wav", "a__0.aif", "2__3__4.wav"):
        short(tmp_path / name)
    for hidden in ("b/._song.mp3", ".trash/x.wav", "notes.txt"):
        (tmp_path / hidden).parent.mkdir(exist_ok=True)
        (tmp_path / hidden).write_bytes(b"x")
    assert find_clips(tmp_path) == [
        SourceClip("2__3", 4, "2__3__4.wav"),
        SourceClip("a", 0, "a__0.aif"),
        SourceClip("a", 1, "a__1.wav"),
        SourceClip("b/so__ng", 0, "b/so__ng.FLAC"),
        SourceClip("b/song", 0, "b/song.mp3"),
        SourceClip("b/song", 2, "b/song__2.ogg"),
    ]


def test_a_pattern_picks_files_by_their_path(tmp_path: Path):
    for name in ("a/one.mp3", "a/two.wav", "three.mp3"):
        short(tmp_path / name)
    assert [clip.file for clip in find_clips(tmp_path, "*.mp3")] == ["a/one.mp3", "three.mp3"]
    assert [clip.file for clip in find_clips(tmp_path, "a/*")] == ["a/one.mp3", "a/two.wav"]
    with pytest.raises(InputError, match=r"no audio files matching '\*\.m4a'"):
        find_clips(tmp_path, "*.m4a")


def test_a_table_names_the_tracks_and_what_it_leaves_out_is_left_out(tmp_path: Path):
    for name in ("x.wav", "y.wav", "z.wav"):
        short(tmp_path / name)
    table = tmp_path / "names.csv"
    table.write_text("file,track_id\ny.wav,None\nx.wav,None\n")
    assert find_clips(tmp_path, table=table) == [SourceClip("None", 0, "y.wav"), SourceClip("None", 1, "x.wav")]
    table.write_text("\ufefftrack_id,preview,file\nT,5,z.wav\nT,4,gone.wav\n")
    result = run(tmp_path, "--table", table, "--out", tmp_path / "bank", "--workers", 1)
    assert "2 files taken" in result.stderr
    assert "2 others left out" in result.stderr
    assert result.stdout.startswith("1 clips of 1 tracks, 0.00 hours, 1 rejected")
    assert AudioBank(tmp_path / "bank").index[["track_id", "preview"]].values.tolist() == [["T", 5]]
    assert (tmp_path / "bank" / "rejected.csv").read_text() == "file,reason\ngone.wav,no such file\n"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("name,track_id\nx.wav,T\n", "no column 'file'"),
        ("file,track\nx.wav,T\n", "no column 'track_id'"),
        ("file,track_id\nx.wav,\n", "line 2: track_id is empty"),
        ("file,track_id,preview\nx.wav,T,one\n", "line 2: preview 'one' is no whole number"),
        ("file,track_id,preview\nx.wav,T,0\ny.wav,T,0\n", "'x.wav' and 'y.wav' are both preview 0 of track 'T'"),
        ("", "cannot be read as CSV"),
        ("file,track_id\na,b,c\nd,e,f,g\n", "cannot be read as CSV"),
    ],
)
def test_a_wrong_table_is_refused_with_the_line(tmp_path: Path, text: str, reason: str):
    table = tmp_path / "names.csv"
    table.write_text(text)
    with pytest.raises(InputError, match=reason) as caught:
        find_clips(tmp_path, table=table)
    assert "\n" not in str(caught.value)


def test_two_files_for_one_preview_are_refused_before_anything_is_decoded(tmp_path: Path):
    short(tmp_path / "in" / "song.mp3")
    short(tmp_path / "in" / "song.wav")
    result = run(tmp_path / "in", "--out", tmp_path / "bank")
    assert result.returncode == 2
    assert "'song.mp3' and 'song.wav' are both preview 0 of track 'song'; rename one" in result.stderr
    assert not (tmp_path / "bank").exists()


def test_every_format_lands_in_the_bank_as_decoded(tmp_path: Path):
    for number, suffix in enumerate((".mp3", ".m4a", ".ogg", ".opus", ".flac", ".wav", ".aiff", ".aif", ".MP3")):
        path = tmp_path / "in" / f"track-{number}{suffix.lower()}"
        write_audio(path, tone(0.5, 48_000, 2, frequency=300 + 50 * number), 48_000)
        path.rename(path.with_suffix(suffix))
    report = build_bank(tmp_path / "in", find_clips(tmp_path / "in"), tmp_path / "bank", workers=1)
    bank = AudioBank(tmp_path / "bank")
    bank.verify()
    assert len(bank) == len(report.index) == 9
    for clip in find_clips(tmp_path / "in"):
        (position,) = bank.previews_of(clip.track_id)
        np.testing.assert_array_equal(bank.read(position), decode(tmp_path / "in" / clip.file))


def test_damaged_files_are_listed_with_their_reason_and_the_rest_goes_on(tmp_path: Path):
    folder = tmp_path / "in"
    for name in ("good-1.wav", "good-2.flac"):
        short(folder / name, seconds=1)
    whole = short(tmp_path / "whole.wav", seconds=2).read_bytes()
    (folder / "cut.wav").write_bytes(whole[:30_000])
    (folder / "empty.mp3").touch()
    (folder / "lyrics, all.mp3").write_text("la la la\n" * 300)
    short(folder / "long.wav", seconds=5)
    result = run(folder, "--out", tmp_path / "bank", "--seconds", 4, "--workers", 1)
    assert result.returncode == 0
    assert result.stdout == (
        f"2 clips of 2 tracks, 0.00 hours, 4 rejected (see {tmp_path / 'bank' / 'rejected.csv'})\n"
    )
    rejected = pd.read_csv(tmp_path / "bank" / "rejected.csv").set_index("file")["reason"]
    assert rejected.to_dict() == {
        "cut.wav": "is cut short or damaged: ends after 0.9 s of the declared 2.0 s",
        "empty.mp3": "is empty",
        "long.wav": "lasts 5.0 s or more; the limit is 4 s",
        "lyrics, all.mp3": "is not an mp3, m4a, aac, ogg, flac, wav or aiff file by its content",
    }
    assert AudioBank(tmp_path / "bank").index["track_id"].tolist() == ["good-1", "good-2"]


def test_when_every_file_is_rejected_the_list_is_written_and_the_command_fails(tmp_path: Path):
    short(tmp_path / "in" / "a.wav")
    bank = tmp_path / "bank"
    assert main([str(tmp_path / "in"), "--out", str(bank)]) == 0
    (tmp_path / "in" / "a.wav").write_bytes(b"")
    result = run(tmp_path / "in", "--out", bank)
    assert result.returncode == 2
    assert "all 1 files were rejected, the first one, 'a.wav', because it is empty" in result.stderr
    assert (bank / "rejected.csv").read_text() == "file,reason\na.wav,is empty\n"
    # The bank of the file that was good before is gone with it.
    assert not list(bank.glob("*.parquet"))
    assert not list(bank.glob("*.npy"))


def test_wrong_places_are_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    short(tmp_path / "in" / "a.wav")
    (tmp_path / "file").touch()
    (tmp_path / "silent").mkdir()
    for folder, out, reason in (
        ("nowhere", "bank", "no such folder"),
        ("silent", "bank", "no audio files; files are taken that end in .mp3"),
        ("in", "file", "is a file; give --out a folder"),
    ):
        assert main([str(tmp_path / folder), "--out", str(tmp_path / out)]) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("error: ")
        assert reason in error


def test_without_rejections_the_lists_hold_their_header_only(tmp_path: Path):
    short(tmp_path / "in" / "a.wav")
    assert main([str(tmp_path / "in"), "--out", str(tmp_path / "bank")]) == 0
    assert (tmp_path / "bank" / "rejected.csv").read_text() == "file,reason\n"
    assert (tmp_path / "bank" / "duplicates.csv").read_text() == "sha256,track_id,preview,file\n"


def test_the_same_sound_under_two_tracks_is_reported_and_within_one_track_is_not(tmp_path: Path):
    for name in ("a.wav", "b/other.wav", "c__0.wav", "c__1.wav"):
        short(tmp_path / "in" / name, frequency=900 if name.startswith("c") else 440)
    report = build_bank(tmp_path / "in", find_clips(tmp_path / "in"), tmp_path / "bank", workers=1)
    duplicates = pd.read_csv(tmp_path / "bank" / "duplicates.csv")
    assert duplicates[["track_id", "preview", "file"]].values.tolist() == [
        ["a", 0, "a.wav"],
        ["b/other", 0, "b/other.wav"],
    ]
    assert duplicates["sha256"].nunique() == 1
    assert len(report.duplicates) == 2


def test_a_file_name_in_another_encoding_is_no_obstacle(tmp_path: Path):
    folder = tmp_path / "in"
    short(folder / "a.wav")
    try:
        os.rename(os.fsencode(folder / "a.wav"), os.fsencode(folder) + b"/Bj\xf6rk.wav")
        (folder / os.fsdecode(b"S\xf8ren.wav")).touch()
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    result = run(folder, "--out", tmp_path / "bank")
    assert result.returncode == 0
    assert AudioBank(tmp_path / "bank").index["track_id"].tolist() == ["Bj\\xf6rk"]
    assert (tmp_path / "bank" / "rejected.csv").read_text() == "file,reason\nS\\xf8ren.wav,is empty\n"


def test_one_and_two_workers_write_the_same_bytes(album: Path, album_bank: Path, tmp_path: Path):
    result = run(album, "--out", tmp_path / "bank", "--workers", 2)
    assert result.returncode == 0
    assert len(list(tmp_path.glob("bank/audio-*.npy"))) == 5
    assert contents(tmp_path / "bank") == contents(album_bank)


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


def workers_of(process: subprocess.Popen[bytes]) -> list[int]:
    """Decoding processes that the command has started (Linux)."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks into /proc")
def test_a_killed_run_goes_on_where_it_was_and_ends_with_the_same_bytes(album: Path, album_bank: Path, tmp_path: Path):
    out = tmp_path / "bank"

    def records() -> list[Path]:
        return sorted((out / ".build").glob("[0-9]*.json"))

    process = subprocess.Popen(command(album, "--out", out, "--workers", 2), stderr=subprocess.DEVNULL)
    wait_for(lambda: len(records()) >= 1)
    workers = workers_of(process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(lambda: not any(map(is_running, workers)), 10)
    assert workers
    assert 1 <= len(records()) < 5
    assert not (out / "previews.parquet").exists()
    finished = {f"audio-{json.loads(path.read_text())['shard']:05d}.npy" for path in records()}
    before = {name: (out / ".build" / name).stat().st_mtime_ns for name in finished}

    assert run(album, "--out", out, "--workers", 2).returncode == 0
    assert contents(out) == contents(album_bank)
    assert {name: (out / name).stat().st_mtime_ns for name in finished} == before
    assert len(list((out / ".build").iterdir())) == 5


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks into /proc")
def test_a_dead_worker_is_reported_with_the_file_it_was_reading(album: Path, tmp_path: Path):
    out = tmp_path / "bank"
    process = subprocess.Popen(
        command(album, "--out", out, "--workers", 2), stderr=subprocess.PIPE, stdout=subprocess.PIPE
    )
    wait_for(lambda: any((out / ".build").glob("*.reading")) if out.exists() else False)
    os.kill(workers_of(process)[0], signal.SIGKILL)
    error = process.communicate(timeout=60)[1].decode().splitlines()[-1]
    assert process.returncode == 2
    assert error.startswith("error: ")
    assert "a worker process died while reading song-" in error
    assert "finished shards are kept" in error


def test_a_later_run_decodes_only_the_shards_whose_files_have_changed(tmp_path: Path):
    folder, out = tmp_path / "in", tmp_path / "bank"
    for number in range(70):
        short(folder / f"{number:02d}.wav", frequency=200 + 10 * number, seconds=0.05)
    build_bank(folder, find_clips(folder), out, workers=1)
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    short(folder / "40.wav", frequency=3000, seconds=0.07)
    build_bank(folder, find_clips(folder), out, workers=1)
    after = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert [before[f"audio-0000{i}.npy"] == after[f"audio-0000{i}.npy"] for i in range(3)] == [True, False, True]
    bank = AudioBank(out)
    bank.verify()
    assert len(bank.read(40)) == 1120


def test_a_shard_that_was_cut_since_and_a_damaged_record_are_made_again(tmp_path: Path):
    folder, out = tmp_path / "in", tmp_path / "bank"
    for number in range(40):
        short(folder / f"{number:02d}.wav", frequency=200 + 10 * number)
    build_bank(folder, find_clips(folder), out, workers=1)
    whole = contents(out)
    shard = out / "audio-00000.npy"
    shard.write_bytes(shard.read_bytes()[:-2])
    (out / ".build" / "00001.json").write_text("{half a rec")
    build_bank(folder, find_clips(folder), out, workers=1)
    assert contents(out) == whole


def test_a_smaller_bank_leaves_nothing_of_the_larger_one_behind(tmp_path: Path):
    folder, out = tmp_path / "in", tmp_path / "bank"
    for number in range(40):
        short(folder / f"{number:02d}.wav", frequency=200 + 10 * number)
    build_bank(folder, find_clips(folder), out, workers=1)
    (out / ".audio-00001.npy.k1ll3d.npy").write_bytes(b"begun")
    build_bank(folder, find_clips(folder, "0*"), out, workers=1)
    assert sorted(contents(out)) == ["audio-00000.npy", "duplicates.csv", "previews.parquet", "rejected.csv"]
    assert [path.name for path in (out / ".build").iterdir()] == ["00000.json"]
    assert len(AudioBank(out)) == 10


def test_help_does_not_wait_for_heavy_libraries():
    code = (
        "import sys, data_prep.build_bank as b\n"
        "try: b.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('pandas', 'numpy', 'torch', 'av', 'soundfile') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.splitlines()[-1] == "[]"
    assert "--workers" in shown


@pytest.mark.skipif(not SHARED_AUDIO.is_dir(), reason="real clips are not at hand")
def test_real_recordings_become_a_bank(tmp_path: Path):
    clips = find_clips(SHARED_AUDIO, "*0000*")
    report = build_bank(SHARED_AUDIO, clips, tmp_path, workers=1)
    assert report.rejected.empty
    assert "fma/000002" in set(report.index["track_id"])
    AudioBank(tmp_path).verify()
