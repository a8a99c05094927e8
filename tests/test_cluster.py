"""Banks and charts prepared on a Dask cluster of two processes: the same bytes as prepared here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from audio_files import tone, write_audio
from chart_files import long_csv, new_csv, old_csv, read_one, rows

from data_prep.chart_formats.coded import Codes
from data_prep.charts import main
from data_prep.cluster import results_of
from mp3model.files import InputError

DAYS = ("2020-01-02", "2020-01-09", "2020-01-16")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder but the notes of a build, which hold no data."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".build" not in path.parts
    }


def charts_of_three_kinds(folder: Path) -> Path:
    """Charts that share tracks and regions in another order in each file, and a file that is no chart."""
    folder.mkdir()
    for week, day in enumerate(DAYS):
        (folder / f"regional-us-weekly-{day}.csv").write_text(old_csv(rows(8, first=week)))
        (folder / f"regional-gb-weekly-{day}.csv").write_text(new_csv(rows(6, first=4 - week)))
    charts = {(region, day): rows(5, first=9) for day in DAYS for region in ("DE", "US", "AT")}
    (folder / "long.csv").write_text(long_csv(charts))
    lines = [f"{track},Song,Artist,{0.1 * rank}\n" for rank, _, _, _, track in reversed(rows(9))]
    (folder / "features.csv").write_text("track_id,title,artist,energy\n" + "".join(lines))
    (folder / "notes.txt").write_text("nothing to see\n")
    return folder


def test_recoded_rows_are_those_read_with_the_runs_own_codes(tmp_path):
    path = tmp_path / "regional-us-weekly-2020-01-02.csv"
    path.write_text(old_csv(rows(5)))
    (source,), expected = read_one(path)
    shift = 3
    source.recode(*(codes + shift for codes in (Codes().numbers([str(n) for n in range(5)]), Codes().numbers(["US"]))))
    (block,) = source.blocks
    assert [(int(track) - shift, int(region) - shift) for track, region in zip(*block[:2], strict=True)] == [
        (number, 0) for number in range(len(expected))
    ]
    assert [int(code) - shift for codes, *_ in source.texts for code in codes] == list(range(5))


@pytest.mark.parametrize("scheduler", ["local", "local:0", "local:two"])
def test_a_local_cluster_needs_a_number_of_processes(scheduler):
    pytest.importorskip("distributed")
    with pytest.raises(InputError, match="local:2"):
        list(results_of(scheduler, str, [1]))


@pytest.mark.slow
def test_a_cluster_that_does_not_answer_is_named():
    pytest.importorskip("distributed")
    with pytest.raises(InputError, match=r"127\.0\.0\.1:9"):
        list(results_of("tcp://127.0.0.1:9", str, [1]))


@pytest.mark.slow
def test_charts_read_by_two_workers_are_the_same_bytes(tmp_path):
    pytest.importorskip("distributed")
    folder = charts_of_three_kinds(tmp_path / "in")
    for out, words in (("here", []), ("there", ["--scheduler", "local:2"])):
        assert main([str(folder), "--out", str(tmp_path / out / "data"), *words]) == 0
    assert contents(tmp_path / "here") == contents(tmp_path / "there")
    assert b"energy" in (tmp_path / "here" / "data" / "tracks.parquet").read_bytes()


@pytest.mark.slow
def test_a_bank_built_by_two_workers_is_the_same_bytes(tmp_path):
    pytest.importorskip("distributed")
    for number in range(70):
        name = f"artist{number % 3}/song{number // 2}__{number % 2}.wav"
        write_audio(tmp_path / "in" / name, tone(1.5, 22_050, frequency=200 + 10 * (number // 4)), 22_050)
    (tmp_path / "in" / "damaged.mp3").write_bytes(b"no sound")
    for out, words in (("here", ["--workers", "1"]), ("there", ["--scheduler", "local:2"])):
        command = [sys.executable, "-m", "data_prep.build_bank", "in", "--out", out, *words]
        subprocess.run(command, check=True, cwd=tmp_path, capture_output=True)
    assert contents(tmp_path / "here") == contents(tmp_path / "there")
    assert len(list((tmp_path / "there").glob("audio-*.npy"))) == 3
