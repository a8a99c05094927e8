"""Open datasets in their own layouts become dataset folders that read back, with every loss counted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from audio_files import SHARED_AUDIO, tone, write_audio
from layout_samples import SAMPLES, SONGS, artist, title

from data_prep.open_datasets import convert_fma, main, read_fma_descriptors, read_fma_labels
from data_prep.previews import main as previews
from mp3model.audio.bank import AudioBank
from mp3model.files import InputError
from mp3model.tables.folder import DatasetFolder, read_dataset

TRACKS_CSV = """\
,album,album,artist,artist,track,track,track,track
,date_released,listens,id,name,favorites,interest,listens,title
track_id,,,,,,,,
2,2009-01-05 00:00:00,6073,1,AWOL,2,4656,1293,NA
3,2009-01-05 00:00:00,6073,1,AWOL,1,1470,514,Food
140,2008,6073,7,None,4,1593,1299,"Queen
of the Wires"
141,,6073,54,,0,839,725,
777,,10,9,Nobody,0,10,,Uncounted
999,,10,9,Nobody,0,10,5,Elsewhere
"""


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Four labelled clips in FMA's sub-folders, one damaged, one without label, one without a number."""
    folder = tmp_path / "fma_small"
    for number in (2, 3, 140, 141, 500):
        path = folder / f"{number // 1000:03d}" / f"{number:06d}.mp3"
        write_audio(path, tone(0.3, 44_100, frequency=300.0 + number), 44_100)
    (folder / "000" / "000003.mp3").write_bytes(b"")
    write_audio(folder / "demo.mp3", tone(0.1, 44_100), 44_100)
    (folder / "checksums").write_text("no audio")
    return folder


@pytest.fixture
def tracks_csv(tmp_path: Path) -> Path:
    path = tmp_path / "tracks.csv"
    path.write_text(TRACKS_CSV)
    return path


def manifest(path: Path, rows: list[str], header: str = "file,track_id,track_listens") -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def converted(clips: Path, labels: Path, out: Path) -> DatasetFolder:
    convert_fma(clips, labels, out, workers=1)
    return read_dataset(out)


def test_the_archives_own_table_becomes_a_dataset(clips: Path, tracks_csv: Path, tmp_path: Path):
    dataset = converted(clips, tracks_csv, tmp_path / "data")
    tracks = dataset.tracks.set_index("track_id")
    assert tracks.index.tolist() == ["fma-000002", "fma-000140", "fma-000141"]
    # There are an artist called None and a song called NA; only the empty field is unknown.
    assert tracks["artist"].tolist() == ["AWOL", "None", "artist 54"]
    assert tracks["title"].tolist()[:2] == ["NA", "Queen\nof the Wires"]
    assert tracks["title"].isna().tolist() == [False, False, True]
    assert tracks["release_date"].isna().tolist() == [False, True, True]
    assert tracks["release_date"]["fma-000002"] == pd.Timestamp("2009-01-05")
    assert dataset.targets is not None
    assert dataset.targets["region"].unique().tolist() == ["GLOBAL"]
    assert dataset.targets["total"].tolist() == [1293, 1299, 725]
    assert dataset.targets["debut_rank"].isna().all()
    assert dataset.targets["y_favorites"].tolist() == [2, 4, 0]
    assert dataset.targets["y_interest"].tolist() == [4656, 1593, 839]
    assert dataset.frequency == "W"


def test_every_clip_and_label_that_is_not_used_is_counted(clips: Path, tracks_csv: Path, tmp_path: Path):
    out = tmp_path / "data"
    result = subprocess.run(
        [sys.executable, "-m", "data_prep.open_datasets", "fma", clips, "--labels", tracks_csv, "--out", out],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0
    assert result.stdout.splitlines() == [
        f"3 clips of 3 tracks, 0.00 hours, 1 rejected (see {out / 'rejected.csv'})",
        "3 taken, 1 rejected, 2 clips without label, 1 labels without clip, 1 labels without listens, 0 sharing sound",
    ]
    info = json.loads((out / "dataset.json").read_text())
    assert info["clips"] == {
        "taken": 3,
        "rejected": 1,
        "clips_without_label": 2,
        "labels_without_clip": 1,
        "labels_without_listens": 1,
        "sharing_sound": 0,
    }
    assert "Free Music Archive" in info["sources"][0]
    assert (out / "rejected.csv").read_text() == "file,reason\n000/000003.mp3,is empty\n"


def test_the_bank_holds_the_clip_of_each_track(clips: Path, tracks_csv: Path, tmp_path: Path):
    dataset = converted(clips, tracks_csv, tmp_path / "data")
    bank = AudioBank(dataset.path)
    bank.verify()
    for number in (2, 140, 141):
        clip = bank.read(bank.previews_of(f"fma-{number:06d}")[0], start=800, samples=3200)
        peak = np.argmax(np.abs(np.fft.rfft(clip * np.hanning(3200)))) * 16_000 / 3200
        assert peak == pytest.approx(300 + number, abs=6)


def test_a_plain_table_matches_by_file_name_or_by_number(clips: Path, tmp_path: Path):
    labels = manifest(tmp_path / "labels.csv", ["demo.mp3,7,50", ",500,60.0", "gone.mp3,8,70"])
    counts, _ = convert_fma(clips, labels, tmp_path / "data", workers=1)
    dataset = read_dataset(tmp_path / "data")
    assert dataset.tracks["track_id"].tolist() == ["fma-000007", "fma-000500"]
    assert counts["labels_without_clip"] == 1
    assert counts["clips_without_label"] == 4
    assert dataset.targets is not None
    assert dataset.targets["total"].tolist() == [50, 60]
    assert [name for name in dataset.targets if name.startswith("y_")] == []


def test_without_artists_neighbours_in_the_order_of_albums_count_as_one(tmp_path: Path):
    numbers = [0, 49, 50, 99, 100, *range(1000, 4000, 50)]
    for number in numbers:
        path = tmp_path / "clips" / f"{number:06d}.wav"
        write_audio(path, tone(0.02, 16_000, frequency=200.0 + number), 16_000)
    labels = manifest(tmp_path / "labels.csv", [f"{n},{n}" for n in numbers], "track_id,listens")
    dataset = converted(tmp_path / "clips", labels, tmp_path / "data")
    assert dataset.tracks["artist"].tolist()[:5] == [f"album block {b}" for b in (0, 0, 1, 1, 2)]
    assert dataset.splits is not None
    splits = dataset.splits.merge(dataset.tracks, on="track_id")
    assert (splits.groupby("artist")["split"].nunique() == 1).all()
    assert set(splits["split"]) == {"train", "validation", "test"}


def test_clips_of_the_same_sound_are_one_song_on_one_side(tmp_path: Path):
    numbers = [50 * n for n in range(40)]
    for number in numbers:
        # Four recordings, each under ten numbers of ten artists.
        path = tmp_path / "clips" / f"{number}.wav"
        write_audio(path, tone(0.05, 16_000, frequency=500.0 + number // 50 % 4 * 100), 16_000)
    labels = manifest(tmp_path / "labels.csv", [f"{n},{n}" for n in numbers], "track_id,listens")
    counts, report = convert_fma(tmp_path / "clips", labels, tmp_path / "data", workers=1)
    dataset = read_dataset(tmp_path / "data")
    assert counts["sharing_sound"] == len(report.duplicates) == 40
    assert sorted(dataset.tracks["song_id"].unique()) == [f"fma-{n:06d}" for n in (0, 50, 100, 150)]
    assert dataset.splits is not None
    sides = dataset.splits.merge(dataset.tracks, on="track_id").groupby("song_id")["split"].nunique()
    assert (sides == 1).all()


def test_the_same_input_gives_the_same_files_and_another_seed_another_split(tmp_path: Path):
    numbers = range(0, 2000, 50)
    for number in numbers:
        write_audio(tmp_path / "clips" / f"{number}.wav", tone(0.02, 16_000, frequency=300.0 + number), 16_000)
    labels = manifest(tmp_path / "labels.csv", [f"{n},{n}" for n in numbers], "track_id,listens")
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        convert_fma(tmp_path / "clips", labels, tmp_path / name, workers=1, seed=seed)
    for path in (tmp_path / "a").iterdir():
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    assert (tmp_path / "a" / "splits.parquet").read_bytes() != (tmp_path / "c" / "splits.parquet").read_bytes()


def test_a_run_that_fails_leaves_no_folder_that_passes_for_a_dataset(clips: Path, tracks_csv: Path, tmp_path: Path):
    out = tmp_path / "data"
    converted(clips, tracks_csv, out)
    for path in clips.rglob("*.mp3"):
        path.write_bytes(b"lost")
    with pytest.raises(InputError, match="all 4 files were rejected"):
        convert_fma(clips, tracks_csv, out, workers=1)
    with pytest.raises(InputError, match=r"dataset\.json"):
        read_dataset(out)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "cannot be read as CSV"),
        ("track_id,track_listens\n", "no line below the header"),
        ("track_id,plays\n2,5\n", "no column 'track_listens'"),
        ("number,track_listens\n2,5\n", "no column 'track_id'"),
        (TRACKS_CSV.replace("listens", "heard"), "no column 'track_listens'"),
        ("track_id,track_listens\n2,5\n3,many\n", "data row 2: listens 'many' is no count"),
        ("track_id,track_listens\n2,-5\n", "data row 1: listens '-5' is no count"),
        ("track_id,track_listens\n2,inf\n", "data row 1: listens 'inf' is no count"),
        ("track_id,track_listens\n2.5,5\n", "data row 1: track_id '2.5' is no count"),
        ("track_id,track_listens\n2,5\n02,6\n", "data row 2 names a track that is there before"),
        ("track_id,track_listens\n2,5\n,6\n", "data row 2 has no track_id"),
        ("track_id,track_listens\n2,5\n3,6,7,8\n", "cannot be read as CSV"),
        ("track_id,track_listens\n7000,5\n", "none of its 1 labels belongs to one of the 5 clips"),
    ],
)
def test_labels_that_are_wrong_are_refused_by_row(clips: Path, tmp_path: Path, text: str, reason: str):
    labels = tmp_path / "labels.csv"
    labels.write_text(text)
    with pytest.raises(InputError, match=reason) as caught:
        convert_fma(clips, labels, tmp_path / "data", workers=1)
    assert str(labels) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "data").exists()


def test_labels_that_are_no_text_and_folders_that_are_not_there_are_refused(
    clips: Path, tracks_csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    binary = tmp_path / "binary.csv"
    binary.write_bytes(b"\xff\xfe\x00" * 50)
    out = str(tmp_path / "data")
    for folder, labels, reason in (
        (clips, binary, "cannot be read as CSV"),
        (clips, tmp_path / "nowhere.csv", "no such file"),
        (tmp_path / "nowhere", tracks_csv, "no such folder"),
    ):
        assert main(["fma", str(folder), "--labels", str(labels), "--out", out]) == 2
        assert reason in capsys.readouterr().err


def test_a_file_in_the_place_of_the_folder_is_refused(clips: Path, tracks_csv: Path, tmp_path: Path):
    with pytest.raises(InputError, match=r"tracks\.csv: is a file; give --out a folder"):
        convert_fma(clips, tracks_csv, tracks_csv, workers=1)
    assert tracks_csv.read_text() == TRACKS_CSV


def test_two_clips_of_one_number_are_refused(clips: Path, tracks_csv: Path, tmp_path: Path):
    write_audio(clips / "2.wav", tone(0.1, 16_000), 16_000)
    with pytest.raises(InputError, match=r"'2\.wav' and '000/000002\.mp3' are both track 2; remove one"):
        convert_fma(clips, tracks_csv, tmp_path / "data", workers=1)


def test_labels_are_read_alike_from_both_forms(tracks_csv: Path, tmp_path: Path):
    archive = read_fma_labels(tracks_csv)
    plain = tmp_path / "plain.csv"
    archive.rename(columns={"listens": "track_listens"}).drop(columns="file").to_csv(plain)
    pd.testing.assert_frame_equal(read_fma_labels(plain), archive)
    assert archive.index.tolist() == [2, 3, 140, 141, 777, 999]


@pytest.mark.skipif(not SHARED_AUDIO.is_dir(), reason="real clips are not at hand")
def test_the_real_clips_make_a_dataset_with_a_damaged_one_left_out(tmp_path: Path):
    clips = tmp_path / "clips"
    clips.mkdir()
    for path in sorted((SHARED_AUDIO / "fma").glob("*.mp3"))[:6]:
        (clips / path.name).write_bytes(path.read_bytes())
    (clips / "000005.mp3").write_bytes((clips / "000005.mp3").read_bytes()[:200_000])
    dataset = converted(clips, SHARED_AUDIO / "fma" / "manifest.csv", tmp_path / "data")
    assert dataset.targets is not None
    assert dataset.targets.set_index("track_id")["total"]["fma-000002"] == 1293
    assert len(dataset.tracks) == 5
    rejected = pd.read_csv(tmp_path / "data" / "rejected.csv")
    assert rejected["file"].tolist() == ["000005.mp3"]
    assert "of the declared 30.0 s" in rejected["reason"][0]


# ------------------------------------------------------------------------------------------------ layouts as published
COMMANDS = {"data_prep.open_datasets": main, "data_prep.previews": previews}


def made(name: str, folder: Path) -> DatasetFolder:
    """The dataset folder of a sample, made by its commands."""
    for module, *arguments in SAMPLES[name](folder):
        assert COMMANDS[module](arguments) == 0
    return read_dataset(folder / "data")


def test_fma_in_its_own_layout_brings_its_descriptors_and_not_its_measures_of_popularity(tmp_path: Path):
    dataset = made("fma", tmp_path)
    described = [name for name in dataset.tracks if name.startswith("x_")]
    features = [f"x_{f}_{s}_{n}" for f in ("chroma_cens", "mfcc") for s in ("kurtosis", "mean") for n in ("01", "02")]
    assert described == [*features, "x_acousticness", "x_tempo"]
    assert len(dataset.tracks) == SONGS
    second = dataset.tracks.set_index("track_id").loc["fma-000055"]
    assert second["x_mfcc_mean_02"] == pytest.approx(55 / 7 + 7, abs=1e-3)
    # The last track is not in echonest.csv.
    assert dataset.tracks["x_tempo"].isna().tolist() == [False] * (SONGS - 1) + [True]
    assert dataset.tracks["artist"].tolist()[:2] == [artist(0), artist(1)]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("track_id,x\n1,2\n", "their fourth line begins with track_id"),
        (",echonest\n,metadata\n,artist\ntrack_id,\n2,AWOL\n", "no column of audio_features"),
        ("feature,mfcc\nstatistics,mean\nnumber,01\ntrack_id,\n2,loud\n", "holds something that is no number"),
    ],
)
def test_descriptors_that_are_not_fmas_are_refused(tmp_path: Path, text: str, reason: str):
    path = tmp_path / "features.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=reason):
        read_fma_descriptors(path, {2})


def test_spotgentrack_gives_popularity_descriptors_and_artists_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    dataset = made("spotgentrack", tmp_path)
    assert "1 rows repeated" in capsys.readouterr().out
    tracks = dataset.tracks
    assert tracks["artist"].tolist()[:2] == [artist(0), artist(1)]
    assert tracks["title"].tolist() == [title(song) for song in range(SONGS)]
    assert tracks["release_date"].notna().tolist() == [song % 3 == 0 for song in range(SONGS)]
    assert tracks["release_latest"].tolist()[1:3] == [pd.Timestamp("2018-12-31"), pd.Timestamp("2017-05-31")]
    assert {"x_danceability", "x_mfcc_1", "x_spectral_rolloff_max"} <= set(tracks)
    # The artist's popularity was taken on the day of the target.
    assert not [name for name in tracks if "popularity" in name or "followers" in name]
    assert tracks["x_mel_1"].isna().sum() == 1
    assert dataset.targets is not None
    assert dataset.targets["total"].tolist() == [10.0 + 2 * song for song in range(SONGS)]
    assert len(AudioBank(dataset.path)) == SONGS


def test_music4all_gives_popularity_clips_and_listens(tmp_path: Path):
    dataset = made("music4all", tmp_path)
    assert dataset.targets is not None
    by_track = dataset.targets.set_index("track_id")
    assert by_track["total"].tolist() == [5.0 + 3 * song for song in range(SONGS)]
    assert by_track["y_listens"].tolist() == list(range(SONGS))
    assert dataset.tracks["release_latest"].tolist()[0] == pd.Timestamp("1990-12-31")
    assert len(AudioBank(dataset.path)) == SONGS


def test_counts_give_plays_listeners_and_the_hit_score_of_both(tmp_path: Path):
    dataset = made("counts", tmp_path)
    assert dataset.targets is not None
    assert dataset.regions == ["TW"]
    third = dataset.targets.set_index("track_id").loc["k03"]
    assert third["total"] == 19
    assert third["y_listeners"] == 4
    assert third["y_hit_score"] == pytest.approx(np.log10(19) * np.log10(4))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("track_id,plays\na,5\n", "no column 'listeners'"),
        ("track_id,plays,listeners\na,5,many\n", "y_listeners 'many' is no number"),
        ("track_id,plays,listeners\na,5,1\nb,-5,1\n", "data row 2: a count is negative"),
        ("track_id,plays,listeners,region\na,5,1,Atlantis\n", "region 'Atlantis' is no country"),
        ("track_id,plays,listeners\n,5,1\n", "data row 1 has no track_id"),
    ],
)
def test_counts_that_are_wrong_are_refused_by_row(
    tmp_path: Path, text: str, reason: str, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "counts.csv"
    path.write_text(text)
    assert main(["counts", str(path), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert reason in error
    assert error.startswith(f"error: {path}")


def test_a_dataset_whose_tables_are_not_there_is_refused_by_their_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for name, missing in (("spotgentrack", "spotify_tracks.csv"), ("music4all", "id_metadata.csv")):
        assert main([name, str(tmp_path), "--out", str(tmp_path / "out")]) == 2
        assert f"no {missing} in it or below" in capsys.readouterr().err


TINY = "--size nano --frames 128 --epochs 1 --windows 1 --batch_size 8 --folds 0 --loader_workers 0"


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLES)
def test_every_layout_becomes_a_folder_that_mp2_learns_from(name: str, tmp_path: Path):
    made(name, tmp_path)
    recipe = Path(__file__).resolve().parent.parent / "recipes" / "mp2.py"
    command = [sys.executable, recipe, "--data", tmp_path / "data", "--output_dir", tmp_path / "run", *TINY.split()]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert np.isfinite(report["test"]["total"]["mae"])
