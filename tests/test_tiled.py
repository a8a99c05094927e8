"""The command that writes a folder of tiled clips: the dataset it leaves, and the options it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_prep.tiled import CLIPS_A_SHARD, DISTINCT, main
from mp3model.audio.bank import AudioBank
from mp3model.tables.folder import read_dataset


def test_the_command_writes_a_dataset_of_as_many_tracks_as_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    tracks = CLIPS_A_SHARD * DISTINCT + 5
    for _ in range(2):
        assert main(["--out", str(tmp_path / "big"), "--tracks", str(tracks), "--seconds", "0.1"]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{tmp_path / 'big'}: {tracks} tracks of 0.1 s"] * 2
    data, bank = read_dataset(tmp_path / "big"), AudioBank(tmp_path / "big")
    assert len(data.tracks) == tracks
    assert all(len(bank.previews_of(track)) == 1 for track in data.tracks["track_id"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tracks", "0"], "--tracks 0 --seconds 30: both must be above 0"),
        (["--seconds", "-1"], "--tracks 100000 --seconds -1: both must be above 0"),
        ([], "file: is a file; give --out another folder"),
    ],
)
def test_what_cannot_be_written_is_refused_in_one_line(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as stopped:
        main(["--out", str(tmp_path / "file"), *words])
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert error.startswith("error: ")
    assert error.endswith(message + "\n")
