"""The command as a whole: which source counts, what gaps mean, what is refused, and that nothing is lost."""

from __future__ import annotations

import gzip
import importlib.util
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from chart_files import long_csv, new_csv, old_csv, rows, track_id
from make_big_chart import write_big_chart

from data_prep.charts import NULLS, Settings, convert, main
from mp3model.files import InputError, sha256_of
from mp3model.tables.curves import curve_arrays
from mp3model.tables.folder import read_dataset

FIRST = pd.Timestamp("2018-01-04")  # a Thursday
SHARED = Path(__file__).resolve().parent.parent.parent / "shared"


def week(number: int) -> str:
    return str((FIRST + pd.Timedelta(days=7 * number)).date())


def run(inputs: Path | list[Path], out: Path, **settings: Any) -> dict[str, Any]:
    return convert(inputs if isinstance(inputs, list) else [inputs], out, Settings(**settings))


def weeks(
    count: int = 20, size: int = 5, region: str = "us", **entries: tuple[int, int]
) -> dict[tuple[str, str], list]:
    """Charts of the same songs every week; an entry `s9=(5, 8)` puts track 9 on rank 1 in weeks 5 to 8."""
    charts = {}
    for number in range(count):
        chart = rows(size)
        for name, (start, end) in entries.items():
            if start <= number <= end:
                track = int(name[1:])
                chart[0] = (1, f"Song {track}", f"Artist {track}", 10_000 + number, track_id(track))
        charts[(region, week(number))] = chart
    return charts


@pytest.fixture
def weekly(tmp_path: Path) -> Path:
    path = tmp_path / "weekly.csv"
    path.write_text(long_csv(weeks(s90=(5, 7))))
    return path


def test_the_folder_is_a_dataset_with_curves_charts_tracks_and_splits(weekly: Path, tmp_path: Path):
    report = run(weekly, tmp_path / "out")
    data = read_dataset(tmp_path / "out")
    assert (data.frequency, data.horizon, data.regions) == ("W", 12, ["US"])
    assert data.charts is not None
    assert data.curves is not None
    assert data.splits is not None
    assert len(data.charts) == 20
    assert data.charts["lowest"].tolist() == [8500.0] * 20
    assert data.charts["floor"].tolist() == [8500.0] * 20
    assert data.splits[["track_id", "debut"]].to_numpy().tolist() == [[track_id(90), pd.Timestamp(week(5))]]
    assert report["rows"] == {"read": 100, "kept": 100, "merged": 0, "rejected": 0, "left_out": 0}
    assert report["reconciled"]
    assert report["files"][0]["sha256"] == sha256_of(weekly)
    for name in ("report.md", "report.json", "coverage.png", "dataset.json"):
        assert (tmp_path / "out" / name).stat().st_size > 100
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == report


def test_the_floor_is_the_mean_of_ranks_195_to_200(tmp_path: Path):
    path = tmp_path / "regional-us-weekly-2020-01-02.csv"
    path.write_text(new_csv(rows(200, top=30_000)))
    run(path, tmp_path / "out")
    charts = read_dataset(tmp_path / "out").charts
    assert charts is not None
    assert charts[["floor", "lowest", "size"]].to_numpy().tolist() == [[10_250, 10_000, 200]]


def test_a_second_run_writes_the_same_bytes_and_does_not_read_its_own_output(weekly: Path, tmp_path: Path):
    for name in ("data", "again"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weekly.csv").write_bytes(weekly.read_bytes())
    run(tmp_path / "data", tmp_path / "data" / "out")
    first = {p.name: p.read_bytes() for p in (tmp_path / "data" / "out").iterdir()}
    run(tmp_path / "data", tmp_path / "data" / "out")
    assert {p.name: p.read_bytes() for p in (tmp_path / "data" / "out").iterdir()} == first
    assert len(first) == 8


def test_the_more_complete_source_gives_the_whole_chart_and_the_other_is_compared(tmp_path: Path):
    full = rows(5)
    part = [full[0], (2, "Song 2", "Artist 2", 1, track_id(2)), (3, "Song 77", "Artist 77", 8650, track_id(77))]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "regional-us-weekly-2020-01-02.csv").write_text(new_csv(full))
    (tmp_path / "in" / "regional-us-weekly-2020-01-02 (1).csv").write_text(new_csv(full))
    (tmp_path / "in" / "regional-us-weekly-2019-12-27--2020-01-03.csv").write_text(old_csv(part))
    report = run(tmp_path / "in", tmp_path / "out")
    curves = read_dataset(tmp_path / "out").curves
    assert curves is not None
    assert curves["streams"].tolist() == [8900, 8800, 8700, 8600, 8500]
    merged = {f["name"].split("/")[1]: f["merged"] for f in report["files"]}
    assert merged["regional-us-weekly-2019-12-27--2020-01-03.csv"] == {
        "agrees with the chosen source": 1,
        "differs from it": 1,
        "absent from it": 1,
    }
    assert report["rows"] == {"read": 13, "kept": 5, "merged": 8, "rejected": 0, "left_out": 0}
    assert sum(pair["agree"] for pair in report["agreements"]) == 6
    assert "rank 2, 1 streams" in report["examples"]["differs from it"][0]


def test_a_file_with_a_chart_twice_is_not_more_complete(tmp_path: Path):
    (tmp_path / "a.csv").write_text(long_csv({("us", week(0)): rows(3, top=500), ("us", week(1)): rows(3)}) * 1)
    doubled = long_csv({("us", week(0)): rows(2) + rows(2), ("us", week(1)): rows(2)})
    (tmp_path / "b.csv").write_text(doubled)
    report = run([tmp_path / "a.csv", tmp_path / "b.csv"], tmp_path / "out")
    charts = read_dataset(tmp_path / "out").charts
    assert charts is not None
    assert charts["size"].tolist() == [3, 3]
    # Both copies of a row of the source that was not chosen differ from the one that was.
    assert report["files"][1]["merged"] == {"agrees with the chosen source": 2, "differs from it": 4}


def test_rows_repeated_in_one_file_keep_the_better_rank(tmp_path: Path):
    chart = [*rows(3), (4, "Song 1", "Artist 1", 100, track_id(1))]
    (tmp_path / "a.csv").write_text(long_csv({("us", week(0)): chart, ("us", week(1)): rows(3)}))
    report = run(tmp_path / "a.csv", tmp_path / "out")
    assert report["files"][0]["merged"] == {"repeated in the file": 1}
    charts = read_dataset(tmp_path / "out").charts
    assert charts is not None
    assert charts["size"].tolist() == [3, 3]


def test_daily_and_weekly_never_mix(tmp_path: Path):
    (tmp_path / "w.csv").write_text(long_csv(weeks(3)))
    (tmp_path / "d.csv").write_text(long_csv({("us", "2018-01-05"): rows(), ("us", "2018-01-06"): rows()}))
    both = [tmp_path / "w.csv", tmp_path / "d.csv"]
    report = run(both, tmp_path / "out")
    assert (report["frequency"], report["rows"]["kept"], report["rows"]["left_out"]) == ("W", 15, 6)
    report = run(both, tmp_path / "out", frequency="D")
    assert (report["frequency"], report["rows"]["kept"], report["rows"]["left_out"]) == ("D", 6, 15)
    assert read_dataset(tmp_path / "out").frequency == "D"
    with pytest.raises(InputError, match=r"--frequency D: no daily rows among w.csv"):
        run(tmp_path / "w.csv", tmp_path / "out", frequency="D")


def test_fridays_are_told_from_weeks_by_a_weekly_chart_on_hand(tmp_path: Path):
    (tmp_path / "w.csv").write_text(long_csv(weeks(10)))
    starts = [str((FIRST + pd.Timedelta(days=7 * n - 6)).date()) for n in range(10)]
    for name, factor in (("days", 7), ("weeks", 1)):
        fridays = {("us", day): [(*r[:3], r[3] // factor, r[4]) for r in rows(5)] for day in starts}
        (tmp_path / f"{name}.csv").write_text(long_csv(fridays))
    report = run([tmp_path / "w.csv", tmp_path / "days.csv", tmp_path / "weeks.csv"], tmp_path / "out")
    files = {f["name"]: f for f in report["files"]}
    assert files["days.csv"]["left_out"] == 50
    assert files["weeks.csv"]["merged"] == {"agrees with the chosen source": 50}


def test_kworb_track_pages_add_rows_but_no_chart(tmp_path: Path):
    def cell(rank: int, streams: int) -> str:
        return f"<span>{rank}</span> <span>({streams:,})</span>"

    lines = "".join(
        f"<tr><td>{week(n).replace('-', '/')}</td><td>{cell(3, 700)}</td><td>{cell(9, 20)}</td></tr>" for n in range(3)
    )
    head = "<tr><th>Date</th><th>US</th><th>SE</th></tr>"
    page = tmp_path / f"{track_id(55)}.html"
    page.write_text(f"<title>A - B Spotify Chart History</title><table>{head}{lines}</table>")
    report = run(page, tmp_path / "alone")
    alone = read_dataset(tmp_path / "alone")
    assert alone.charts is None
    assert alone.curves is not None
    assert alone.curves["rank"].tolist() == [9, 9, 9, 3, 3, 3]
    (tmp_path / "w.csv").write_text(long_csv(weeks(3)))
    report = run([page, tmp_path / "w.csv"], tmp_path / "both")
    both = read_dataset(tmp_path / "both")
    assert both.charts is not None
    assert both.curves is not None
    assert set(both.charts["region"]) == {"US"}
    # 700 streams lie below the chart on hand: known, but off the chart.
    assert both.curves.loc[both.curves["track_id"] == track_id(55), "rank"].isna().all()
    assert report["ranks_dropped_without_chart"] == 6
    page.write_text(page.read_text().replace("700", "9,999"))
    report = run([page, tmp_path / "w.csv"], tmp_path / "both")
    assert {f["name"]: f["merged"] for f in report["files"]}[page.name] == {"absent from it": 3}


def test_a_distributors_export_gives_full_streams_without_a_chart(tmp_path: Path):
    days = pd.date_range("2024-01-01", periods=100).strftime("%Y-%m-%d")
    lines = [f"{day},USABC2400001,{land},{n + 1}\n" for n, day in enumerate(days) for land in ("US", "SE", "SE")]
    (tmp_path / "sales.csv").write_text("date,isrc,territory,quantity\n" + "".join(lines))
    report = run(tmp_path / "sales.csv", tmp_path / "out")
    data = read_dataset(tmp_path / "out")
    assert data.charts is None
    assert data.curves is not None
    assert data.frequency == "D"
    assert data.tracks["isrc"].tolist() == ["USABC2400001"]
    sweden = data.curves[data.curves["region"] == "SE"]
    assert sweden["streams"].tolist() == [2.0 * (n + 1) for n in range(100)]
    assert report["rows"] == {"read": 300, "kept": 200, "merged": 100, "rejected": 0, "left_out": 0}


def test_totals_pages_alone_give_targets(tmp_path: Path):
    head = "<tr><th>Artist and Title</th><th>Wks</th><th>T10</th><th>PkStreams</th><th>Total</th></tr>"
    body = "".join(f"<tr><td>A{n} - B{n}</td><td>3</td><td></td><td>5</td><td>{n},000</td></tr>" for n in range(1, 40))
    (tmp_path / "se_weekly_totals.html").write_text(f"<title>Totals</title><table>{head}{body}</table>")
    report = run(tmp_path / "se_weekly_totals.html", tmp_path / "out")
    data = read_dataset(tmp_path / "out")
    assert data.curves is None
    assert data.targets is not None
    assert sorted(data.targets["total"]) == [1000.0 * n for n in range(1, 40)]
    assert report["rows"]["kept"] == 39


# ------------------------------------------------------------------------------------------------------------ nulls
def gapped(tmp_path: Path) -> Path:
    """Song 90 charts in weeks 5, 6, 8 and 12; its second version in week 9."""
    charts = weeks(30)
    for number, streams, track in ((5, 9000, 90), (6, 16_000, 90), (8, 9001, 90), (9, 9100, 91), (12, 9500, 90)):
        charts[("us", week(number))][0] = (1, "Song", "Someone", streams, track_id(track))
    path = tmp_path / "w.csv"
    path.write_text(long_csv(charts))
    (tmp_path / "t.csv").write_text(f"track_id,title,artist\n{track_id(90)},S,A\n{track_id(91)},S,A\n")
    return path


def song_curve(folder: Path) -> tuple[list[float], pd.DataFrame]:
    data = read_dataset(folder)
    assert data.splits is not None
    assert data.curves is not None
    debut = data.splits[data.splits["track_id"] == track_id(90)]
    assert debut["debut"].tolist() == [pd.Timestamp(week(5))]
    return curve_arrays(data, debut).streams[0].tolist(), data.curves


def test_each_way_of_treating_nulls_writes_what_it_says(tmp_path: Path):
    path = gapped(tmp_path)
    inputs = [path, tmp_path / "t.csv"]
    curve, report = {}, {}
    for nulls in NULLS:
        report[nulls] = run(inputs, tmp_path / nulls, nulls=nulls, longest_gap=1)
        curve[nulls], _ = song_curve(tmp_path / nulls)
    unknown = np.nan
    known = [9000, 16_000, unknown, 9001, 9100, unknown, unknown, 9500] + [unknown] * 4
    np.testing.assert_array_equal(curve["censored"], known)
    np.testing.assert_array_equal(curve["unknown"], known)
    assert read_dataset(tmp_path / "censored").charts is not None
    assert read_dataset(tmp_path / "unknown").charts is None
    np.testing.assert_array_equal(curve["zero"], np.nan_to_num(known))
    # On a chart that does not list the song it had less than the lowest, 8500.
    np.testing.assert_array_equal(curve["interpolate"], [9000, 16_000, 8499, *known[3:]])
    assert report["zero"]["null_effects"] == report["censored"]["null_effects"]
    effects = report["censored"]["null_effects"]
    assert effects["censored"]["total_sum"] == 52_601 == effects["zero"]["total_sum"]
    assert effects["censored"]["total_sum_at_most"] == 52_601 + 7 * 8500
    assert effects["interpolate"]["total_sum"] == 52_601 + 8499
    assert effects["unknown"]["with_known_total"] == 0
    assert [effects[n]["length_mean"] for n in ("censored", "zero", "interpolate", "unknown")] == [5, 5, 6, None]
    assert {effects[n]["debuts"] for n in NULLS} == {1}


def test_interpolation_runs_straight_in_the_logarithm_where_no_chart_is_on_hand(tmp_path: Path):
    charts = {k: v for k, v in weeks(30).items() if k[1] not in (week(20), week(21))}
    charts[("us", week(19))][0] = (1, "S", "A", 8000, track_id(90))
    charts[("us", week(22))][0] = (1, "S", "A", 64_000, track_id(90))
    (tmp_path / "w.csv").write_text(long_csv(charts))
    for longest, filled in ((1, []), (2, [16_000, 32_000])):
        run(tmp_path / "w.csv", tmp_path / "out", nulls="interpolate", longest_gap=longest)
        curves = read_dataset(tmp_path / "out").curves
        assert curves is not None
        song = curves[(curves["track_id"] == track_id(90)) & curves["rank"].isna()]
        assert song["streams"].tolist() == pytest.approx(filled)


# ----------------------------------------------------------------------------------------------------------- tracks
def test_track_tables_go_before_chart_rows_and_contradictions_are_reported(weekly: Path, tmp_path: Path):
    table = pd.DataFrame(
        {
            "track_id": [track_id(1), track_id(2), track_id(500)],
            "title": ["The Title", None, "Never charted"],
            "artist": ["X, Y", "Z", "Q"],
            "release_date": ["2017", "2017-05-04", None],
            "energy": [0.5, np.nan, 0.25],
        }
    )
    table.to_parquet(tmp_path / "t.parquet")
    (tmp_path / "regional-us-weekly-2018-01-04.csv").write_text(new_csv(rows(5)))
    inputs = [weekly, tmp_path / "t.parquet", tmp_path / "regional-us-weekly-2018-01-04.csv"]
    report = run(inputs, tmp_path / "out")
    tracks = read_dataset(tmp_path / "out").tracks.set_index("track_id")
    texts = tracks[["title", "artist"]].to_dict("index")
    assert texts[track_id(1)] == {"title": "The Title", "artist": "X, Y"}
    assert texts[track_id(2)] == {"title": "Song 2", "artist": "Z"}
    assert tracks["release_date"].isna()[track_id(1)]
    assert tracks.loc[track_id(1), "release_latest"] == pd.Timestamp("2017-12-31")
    assert tracks.loc[track_id(2), "release_date"] == pd.Timestamp("2017-05-04")
    assert tracks["x_energy"].notna().sum() == 2
    assert track_id(500) in tracks.index
    assert {name: found["tracks"] for name, found in report["conflicts"].items()} == {"title": 1, "artist": 2}


def test_songs_of_ones_own_decide_what_is_merged(weekly: Path, tmp_path: Path):
    (tmp_path / "s.csv").write_text(f"track_id,song_id\n{track_id(90)},mine\n{track_id(1)},mine\n")
    run(weekly, tmp_path / "out", songs=tmp_path / "s.csv")
    data = read_dataset(tmp_path / "out")
    songs = data.tracks.set_index("track_id")["song_id"]
    assert songs[track_id(90)] == songs[track_id(1)] == "mine"
    assert data.splits is not None
    assert len(data.splits) == 0  # its first version was there from the start
    (tmp_path / "s.csv").write_text("track_id,song\na,b\n")
    with pytest.raises(InputError, match=r"s.csv: column 'song_id' is missing"):
        run(weekly, tmp_path / "out", songs=tmp_path / "s.csv")


# -------------------------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("notes.txt", "hello", "no chart format has the columns hello"),
        (
            "regional-us-daily-2020-01-01.csv",
            "Position,Track Name,Artist,Strems,URL\n1,a,b,3,c\n",
            "'Streams' is missing",
        ),
        ("regional-us-weekly-2020-01-04--2020-01-11.csv", old_csv(rows()), "no chart week"),
        ("regional-us-daily-2020-01-01.csv", old_csv([]), "no chart rows were kept"),
        ("empty.csv", "", "is empty"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, text: str, message: str
):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_text(text)
    with pytest.raises(SystemExit) as stopped:
        main([str(tmp_path / "in" / name), "--out", str(tmp_path / "deep" / "out")])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert name in error
    assert list((tmp_path / "deep").iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--columns", "streams"], "'streams': write it as name=value,name=value"),
        (["--columns", "streams=Plays,colour=Red"], "'colour' is no role; use artist, date"),
        (["--period", "export=month"], "'month': use day, week-start, week-end"),
        (["--horizon", "0"], "'0' is no whole number from 1"),
        (["--region", "Narnia"], "--region 'Narnia' is no country that is known; use a code such as US"),
        (["--out", "weekly.csv"], "weekly.csv: is a file; give --out another folder"),
        (["--songs", "notes.parquet"], "notes.parquet: cannot be read as a table ("),
        (["--songs", "twice.csv"], "twice.csv: track 'a' is there twice; keep one row"),
    ],
)
def test_an_option_that_cannot_be_followed_is_named(
    weekly: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.parquet").write_text("no table")
    (tmp_path / "twice.csv").write_text("track_id,song_id\na,b\na,c\n")
    with pytest.raises(SystemExit) as stopped:
        main([weekly.name, "--out", "out", *words])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_file_is_named(tmp_path: Path):
    (tmp_path / "in").mkdir()
    with pytest.raises(InputError, match=r"in: holds no file; give chart exports"):
        run(tmp_path / "in", tmp_path / "out")


def test_a_failed_run_leaves_the_folder_of_the_last_one_as_it_was(weekly: Path, tmp_path: Path):
    out = tmp_path / "out"
    run(weekly, out)
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    with pytest.raises(InputError, match="no debut lies in the test window"):
        run(weekly, out, test_from="2030-01-01")
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_file_that_is_no_chart_is_only_an_error_if_it_was_named(weekly: Path, tmp_path: Path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "README.md").write_text("# Read me\n")
    (folder / "w.csv").write_bytes(weekly.read_bytes())
    with zipfile.ZipFile(folder / "more.zip", "w") as archive:
        archive.writestr("regional-us-weekly-2019-01-03.csv", new_csv(rows()))
    (folder / "regional-se-weekly-2019-01-03.csv.gz").write_bytes(gzip.compress(new_csv(rows()).encode()))
    report = run(folder, tmp_path / "out")
    assert [f["name"] for f in report["files_not_read"]] == ["folder/README.md"]
    assert report["rows"]["kept"] == 106
    with pytest.raises(InputError, match=r"README.md: no chart format"):
        run([weekly, folder / "README.md"], tmp_path / "out")
    with pytest.raises(InputError, match="no such file or folder"):
        run(tmp_path / "absent", tmp_path / "out")


def test_help_is_quick_and_imports_nothing_heavy():
    code = (
        "import sys\nfrom data_prep.charts import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
        "print([n for n in ('pandas', 'pyarrow', 'numpy', 'matplotlib', 'torch') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_gap_in_the_charts_is_listed_and_starts_a_new_run(tmp_path: Path):
    charts = {k: v for k, v in weeks(30).items() if k[1] not in {week(n) for n in (4, 10, 11, 12)}}
    (tmp_path / "w.csv").write_text(long_csv(charts))
    report = run(tmp_path / "w.csv", tmp_path / "out")
    assert [(g["after"], g["missing"], g["new_run"]) for g in report["gaps"]] == [
        (week(3), 1, False),
        (week(9), 3, True),
    ]
    assert (report["coverage"][0]["on_hand"], report["coverage"][0]["expected"]) == (26, 30)


# ------------------------------------------------------------------------------------------------------------ scale
def test_curves_in_several_blocks_are_one_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "w.csv").write_text(long_csv(weeks(30, s90=(5, 7))))
    run(tmp_path / "w.csv", tmp_path / "one")
    monkeypatch.setattr("data_prep.chart_merge.BLOCK_ROWS", 40)
    run(tmp_path / "w.csv", tmp_path / "many")
    one, many = (pd.read_parquet(tmp_path / name / "curves.parquet") for name in ("one", "many"))
    pd.testing.assert_frame_equal(one, many)


def test_a_table_in_the_shape_of_the_full_one_is_read_whole(tmp_path: Path):
    good = write_big_chart(tmp_path / "big.csv", 60_000, tracks=3000)
    report = run(tmp_path / "big.csv", tmp_path / "out")
    assert report["rows"]["kept"] == good
    assert report["reconciled"]
    data = read_dataset(tmp_path / "out")
    assert data.curves is not None
    assert data.curves.groupby("region", observed=True)["rank"].max().min() > 180


# ------------------------------------------------------------------------------------------------------- real charts
@pytest.mark.slow
def test_the_real_charts_give_the_benchmarks_debuts_and_splits(tmp_path: Path):
    folder, keys = SHARED / "data" / "charts", SHARED / "bench" / "bench.py"
    if not folder.is_dir() or not keys.is_file():
        pytest.skip("no real charts beside the repository")
    spec = importlib.util.spec_from_file_location("bench_song_keys", keys)
    assert spec is not None
    assert spec.loader is not None
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    songs = bench.song_table(pd.read_parquet(folder / "tracks.parquet"))[["track_id", "song"]]
    songs.rename(columns={"song": "song_id"}).to_parquet(tmp_path / "songs.parquet")
    window = {"test_from": "2020-01-01", "test_to": "2020-10-08"}
    report = run(folder, tmp_path / "out", songs=tmp_path / "songs.parquet", **window)
    counts = report["splits"]
    assert sum(counts.values()) == 88_856
    assert counts["train"] + counts["validation"] == 62_758
    assert (counts["test"], counts["none"]) == (20_785, 5_313)
    assert report["reconciled"]
    assert sum(pair["differ"] for pair in report["agreements"]) == 0
    assert set(report["leaks"]["leaky"]) >= {"x_energy", "x_tempo", "release_date"}
