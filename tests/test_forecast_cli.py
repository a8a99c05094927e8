"""`mp3model forecast` and `mp3model metrics` as typed: files, what is printed, and one line for what is wrong."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import soundfile
from tiny_model import write_model

from mp3model.cli import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, two songs and a table of observed weeks."""
    folder = tmp_path_factory.mktemp("desk")
    write_model(folder / "run" / "model")
    for name, pitch in (("one", 220), ("two", 330)):
        waveform = 0.2 * np.sin(2 * np.pi * pitch * np.arange(4 * 16_000) / 16_000)
        soundfile.write(folder / f"{name}.wav", waveform, 16_000)
    observed = pd.DataFrame({"region": ["US", "US"], "week": [0, 1], "streams": [3_000_001.0, 2_000_002.0]})
    observed.to_csv(folder / "observed.csv", index=False)
    observed.assign(track_id="one").to_parquet(folder / "observed.parquet", index=False)
    return folder


def asked(folder, *more: str, audio=("one.wav",)) -> list[str]:
    files = [str(folder / name) for name in audio]
    model = ["--model", str(folder / "run" / "model"), "--device", "cpu", "--samples", "16"]
    return ["forecast", *files, *model, "--release", "2026-12-04", *more]


def refused(capsys, words: list[str]) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: ")
    assert len(said.splitlines()) == 1
    return said


def test_a_song_gets_three_tables_its_flags_and_a_picture(folder, tmp_path):
    words = asked(folder, "--region", "US", "--region", "GB", "-o", str(tmp_path / "song.csv"))
    words += ["--observed", str(folder / "observed.csv"), "--plot", str(tmp_path / "song.png")]
    done = subprocess.run(
        [sys.executable, "-m", "mp3model.cli", *words], capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("song.chances.csv", "song.csv", "song.flags.csv", "song.paths.parquet", "song.png", "song.popularity.csv")
    ]
    curves = pd.read_csv(tmp_path / "song.csv")
    levels = [f"0.{level}" for level in range(1, 10)]
    assert list(curves) == ["track_id", "region", "week", "date", "mean", *levels]
    assert curves["track_id"].unique().tolist() == ["one"]
    assert (curves.loc[:1, levels].to_numpy() == np.array([[3_000_001.0], [2_000_002.0]])).all()
    assert curves["date"][0] == "2026-12-10"
    assert list(pd.read_csv(tmp_path / "song.popularity.csv"))[:4] == ["track_id", "region", "metric", "mean"]
    paths = pd.read_parquet(tmp_path / "song.paths.parquet")
    assert list(paths) == ["track_id", "region", "week", "sample", "streams"]
    assert len(paths) == 2 * 12 * 16
    assert "US  2026-12-10 to 2027-02-25, first 2 observed:" in done.stdout
    assert "80 %:" in done.stdout
    assert done.stderr == ""


def test_several_songs_share_tables_and_get_a_picture_each(folder, tmp_path, capsys):
    output = tmp_path / "songs.parquet"
    words = asked(
        folder, "--region", "US", "-o", str(output), "--plot", str(tmp_path / "p.png"), audio=("one.wav", "two.wav")
    )
    assert main([*words, "--observed", str(folder / "observed.parquet")]) == 0
    curves = pd.read_parquet(output)
    assert curves["track_id"].drop_duplicates().tolist() == ["one", "two"]
    assert (tmp_path / "p-one.png").exists()
    assert (tmp_path / "p-two.png").exists()
    assert (tmp_path / "songs.popularity.parquet").exists()
    said = capsys.readouterr()
    assert "one\n" in said.out
    assert "listening" in said.err
    # The other song's weeks do not open its own market.
    assert pd.Timestamp(curves["date"][12]) == pd.Timestamp("2026-12-10")


def test_flags_are_printed_and_written_with_their_reasons(folder, tmp_path, capsys):
    soundfile.write(tmp_path / "hush.wav", np.zeros(8000), 16_000)
    late = ["--region", "US", "--release", "2028-01-07", "-o", str(tmp_path / "x.csv")]
    assert main(asked(folder, *late, audio=(str(tmp_path / "hush.wav"),))) == 0
    flags = pd.read_csv(tmp_path / "x.flags.csv")
    assert flags["code"].tolist() == ["short_audio", "silence", "floors_old"]
    said = capsys.readouterr().out
    for code, reason in flags[["code", "reason"]].to_numpy():
        assert code in said
        assert reason in said


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--region", "UK"], "UK is not known; known are US, GB, DE"),
        (["--release", "soon"], "soon"),
        (["-o", "song.xlsx"], "song.xlsx"),
        (["--plot", "song.jpg"], "song.jpg"),
        (["--observed", "nowhere.csv"], "nowhere.csv"),
        (["--observed", "{folder}/one.wav"], "one.wav"),
        (["--history", "nowhere.parquet"], "nowhere.parquet"),
        (["--features", "nowhere.csv"], "nowhere.csv"),
        (["--data", "{folder}"], "dataset.json"),
        (["--model", "{folder}/run"], "do you mean"),
        (["--samples", "0"], "samples 0"),
        (["--samples", "-3"], "samples -3"),
        (["--samples", "10000000000"], "to 100000 paths"),
        (["--region", "gb"], "do you mean GB?"),
        (["--region", ""], "region '' is not known"),
        (["--release", "2026-13-04"], "2026-13-04"),
        (["--device", "foo"], "device foo"),
        (["--artist", "Somebody"], "add --data DIR"),
        (["--milestone", "0"], "milestone or top of 0"),
        (["--top", "-1"], "milestone or top of -1"),
        (["--observed", "{folder}"], "is a folder"),
        (["--observed", "{folder}/columns.csv"], "present are country, plays"),
        (["--observed", "{folder}/negative.csv"], "streams -5 is no number from 0 on"),
        (["--observed", "{folder}/infinite.csv"], "streams inf is no number"),
        (["--observed", "{folder}/whole.csv"], "nothing is left to forecast"),
        (["--observed", "{folder}/observed.csv", "-o", "{folder}/observed.csv"], "over what it is made from"),
        (["-o", "{folder}"], "ends in .csv or .parquet"),
        (["-o", "{folder}/folder.csv"], "is a folder"),
        (["-o", "{folder}/one.wav/song.csv"], "cannot be written"),
    ],
)
def test_what_is_wrong_is_named_in_one_line_and_nothing_is_written(folder, tmp_path, capsys, more, message):
    (folder / "folder.csv").mkdir(exist_ok=True)
    (folder / "columns.csv").write_text("country,plays\nUS,3\n")
    (folder / "negative.csv").write_text("week,streams\n0,-5\n")
    (folder / "infinite.csv").write_text("week,streams\n0,inf\n")
    (folder / "whole.csv").write_text("week,streams\n" + "".join(f"{week},4000000\n" for week in range(15)))
    if "--region" not in more:
        more = [*more, "--region", "US"]
    before = sorted(folder.iterdir())
    words = asked(folder, "-o", str(tmp_path / "song.csv"), *[word.format(folder=folder) for word in more])
    assert message in refused(capsys, words)
    assert list(tmp_path.iterdir()) == []
    assert sorted(folder.iterdir()) == before


def test_what_is_asked_of_milestones_and_ranks_is_printed_and_written(folder, tmp_path, capsys):
    words = asked(folder, "--region", "US", "--milestone", "5e6", "--top", "10", "-o", str(tmp_path / "song.csv"))
    assert main([*words, "--observed", str(folder / "observed.csv")]) == 0
    chances = pd.read_csv(tmp_path / "song.chances.csv").set_index("question")
    assert chances["amount"].to_dict() == {"sum_above": 5e6, "weeks_to": 5e6, "top": 10}
    # 3,000,001 and 2,000,002 streams are observed.
    assert chances.loc["sum_above", "probability"] == 1
    assert chances.loc["weeks_to", ["0.1", "0.9"]].tolist() == [1, 1]
    said = capsys.readouterr().out
    assert "more than 5 M streams: 100 %" in said
    assert "reaches 5 M streams: week 1 (80 %: week 1 to week 1)" in said
    assert f"enters the top 10: {100 * chances.loc['top', 'probability']:.0f} %" in said


def test_files_of_one_name_and_folders_are_refused(folder, tmp_path, capsys):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "one.wav").write_bytes((folder / "one.wav").read_bytes())
    again = str(tmp_path / "other" / "one.wav")
    said = refused(capsys, asked(folder, "-o", str(tmp_path / "song.csv"), audio=("one.wav", again)))
    assert str(folder / "one.wav") in said
    assert again in said
    assert "is a folder" in refused(capsys, asked(folder, audio=(str(tmp_path / "other"),)))


@pytest.mark.slow
def test_real_speech_and_silence_are_flagged_through_the_command_line_and_music_is_not(
    folder, shared_audio, tmp_path, capsys
):
    speech = sorted((shared_audio / "not_music").glob("*.ogg"))
    music = sorted((shared_audio / "cc").glob("*.ogg"))
    soundfile.write(tmp_path / "hush.wav", np.zeros(160_000), 16_000)
    files = [*map(str, speech), *map(str, music), str(tmp_path / "hush.wav")]
    assert main(asked(folder, "--region", "US", "-o", str(tmp_path / "all.csv"), audio=files)) == 0
    flags = pd.read_csv(tmp_path / "all.flags.csv")
    flagged = flags[flags["code"].isin(["speech", "silence"])]
    assert dict(zip(flagged["track_id"], flagged["code"], strict=True)) == {
        **{path.stem: "speech" for path in speech},
        "hush": "silence",
    }
    assert capsys.readouterr().out.count("! speech: ") == len(speech)


@pytest.mark.parametrize("name", ["nowhere.mp3", "text.mp3", "empty.wav"])
def test_a_file_without_sound_is_named_even_among_good_ones(folder, tmp_path, capsys, name):
    (folder / "text.mp3").write_text("no sound here\n" * 100)
    (folder / "empty.wav").write_bytes(b"")
    words = asked(folder, "-o", str(tmp_path / "song.csv"), audio=("one.wav", name))
    with pytest.raises(SystemExit):
        main(words)
    assert name in capsys.readouterr().err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_a_picture_that_cannot_be_written_leaves_no_table(folder, tmp_path, capsys):
    words = asked(folder, "-o", str(tmp_path / "song.csv"), "--plot", str(folder / "one.wav" / "song.png"))
    refused(capsys, words)
    assert list(tmp_path.iterdir()) == []


def test_metrics_of_written_paths_are_the_popularity_that_was_written(folder, tmp_path, capsys):
    main(asked(folder, "--region", "US", "--region", "DE", "-o", str(tmp_path / "song.csv")))
    model = str(folder / "run" / "model")
    words = ["metrics", str(tmp_path / "song.paths.parquet"), "--model", model, "--observed", "0"]
    assert main([*words, "-o", str(tmp_path / "again.csv")]) == 0
    again, first = pd.read_csv(tmp_path / "again.csv"), pd.read_csv(tmp_path / "song.popularity.csv")
    assert again[["track_id", "region", "metric"]].equals(first[["track_id", "region", "metric"]])
    assert np.allclose(again.iloc[:, 3:], first.iloc[:, 3:], equal_nan=True)
    assert "half_life" in capsys.readouterr().out


@pytest.mark.parametrize("column", ["week", "date"])
def test_metrics_of_an_observed_curve_are_those_computed_by_hand(tmp_path, capsys, column):
    periods = [0, 1, 3] if column == "week" else ["2026-01-01", "2026-01-08", "2026-01-22"]
    path = tmp_path / "curve.csv"
    pd.DataFrame({column: periods, "streams": [100, 300, 50], "rank": [7, 2, 9]}).to_csv(path, index=False)
    assert main(["metrics", str(path), "-o", str(tmp_path / "m.parquet"), "--observed", "1"]) == 0
    found = pd.read_parquet(tmp_path / "m.parquet").iloc[0]
    expected = {"debut": 100, "max": 300, "sum": 450, "mean": 150, "length": 3, "peak_week": 1, "half_life": 2}
    assert {name: found[name] for name in expected} == expected
    assert found["debut_rank"] == 7
    assert found["remaining"] == 350
    assert "half_life" in capsys.readouterr().out


def test_a_models_charts_tell_the_debut_rank_down_to_the_place_below_them(folder, tmp_path):
    path = tmp_path / "curve.csv"
    pd.DataFrame({"region": ["US", "GB", "SE"], "week": 0, "streams": [2.4e7, 1000, 1000]}).to_csv(path, index=False)
    assert main(["metrics", str(path), "--model", str(folder / "run" / "model"), "-o", str(tmp_path / "m.csv")]) == 0
    ranks = pd.read_csv(tmp_path / "m.csv")["debut_rank"]
    assert ranks.tolist()[:2] == [1, 201]
    assert np.isnan(ranks[2])


def test_days_are_told_from_weeks_by_their_distance(tmp_path):
    path = tmp_path / "curve.csv"
    pd.DataFrame({"date": ["2026-01-01", "2026-01-02", "2026-01-04"], "streams": [9, 4, 1]}).to_csv(path, index=False)
    assert main(["metrics", str(path), "-o", str(tmp_path / "m.csv")]) == 0
    assert pd.read_csv(tmp_path / "m.csv")["half_life"][0] == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("week\n0\n", "streams"),
        ("streams\n5\n", "week"),
        ("week,streams\n0,-5\n", "negative"),
        ("week,streams\n0,many\n", "many"),
        ("week,streams\n0,5\n0,6\n", "twice"),
        ("date,streams\nyesterday,5\n", "yesterday"),
        ("week,streams\n", "no row"),
    ],
)
def test_a_table_without_curves_is_refused_by_name(tmp_path, capsys, content, message):
    path = tmp_path / "curve.csv"
    path.write_text(content)
    said = refused(capsys, ["metrics", str(path)])
    assert message in said
    assert "curve.csv" in said
