"""Listens become curves by region and week: counted exactly, ranked among all, in memory that does not grow."""

from __future__ import annotations

import bz2
import gzip
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from layout_samples import SAMPLES, SONGS, START, USERS, plays
from make_big_log import write_big_log

from data_prep import listen_readers
from data_prep.listen_logs import Tally, convert_listens
from data_prep.listen_readers import Layout, table_listens
from data_prep.open_datasets import main
from mp3model.files import InputError
from mp3model.tables.folder import DatasetFolder, read_dataset


def log(path: Path, rows: list[tuple], header: str = "user,time,recording,country") -> Path:
    path.write_text(header + "\n" + "".join(",".join(map(str, row)) + "\n" for row in rows))
    return path


def counted(path: Path, out: Path, **options: Any) -> tuple[DatasetFolder, Tally]:
    arguments = {"source": "made", "least": 1, "top": None} | options
    users = arguments.pop("users", None)
    tally = convert_listens(table_listens([path], users=users), out, **arguments)
    return read_dataset(out), tally


def curve_rows(data: DatasetFolder) -> list[tuple]:
    assert data.curves is not None
    frame = data.curves.assign(date=data.curves["date"].dt.strftime("%Y-%m-%d"))
    return [tuple(row) for row in frame[["track_id", "region", "date", "streams", "rank"]].values.tolist()]


def slow_twin(frame: pd.DataFrame, least: int, frequency: str = "W") -> pd.DataFrame:
    """The same curves by pandas, all in memory."""
    day = pd.to_datetime(frame["time"], unit="s").dt.normalize()
    if frequency == "W":
        end = day + pd.to_timedelta((3 - day.dt.dayofweek) % 7, unit="D")
        whole = (end - pd.Timedelta(days=6) >= day.min()) & (end <= day.max())
    else:
        end, whole = day, pd.Series(True, index=day.index)
    kept = frame.assign(date=end)[whole]
    table = kept.groupby(["recording", "country", "date"]).size().rename("streams").reset_index()
    table["rank"] = table.groupby(["country", "date"])["streams"].rank(ascending=False, method="min")
    total = kept.groupby("recording").size()
    table = table[table["recording"].isin(total.index[total >= least])]
    return table.sort_values(["recording", "country", "date"]).reset_index(drop=True)


@pytest.mark.parametrize("frequency", ["W", "D"])
def test_counts_and_ranks_are_those_of_a_plain_group_by(tmp_path: Path, frequency: str):
    path = tmp_path / "log.csv"
    write_big_log(path, 20_000, seed=3, recordings=300, users=50)
    data, tally = counted(path, tmp_path / "out", least=40, frequency=frequency)
    twin = slow_twin(pd.read_csv(path), 40, frequency)
    assert data.curves is not None
    ours = data.curves
    assert ours[["track_id", "region"]].values.tolist() == twin[["recording", "country"]].values.tolist()
    assert (ours["date"].to_numpy() == twin["date"].to_numpy()).all()
    np.testing.assert_array_equal(ours["streams"], twin["streams"])
    np.testing.assert_array_equal(ours["rank"].to_numpy(float), twin["rank"])
    assert tally.read == 20_000 == tally.counted + tally.in_part_periods
    assert 0 < tally.left_out < 300


def test_a_week_ends_on_thursday_and_weeks_in_part_are_left_out(tmp_path: Path):
    # 2021-01-01 was a Friday.
    rows = [("u", f"2021-01-{day:02d} 12:00:00", "a", "SE") for day in (1, 7, 8, 14, 15, 20)]
    rows += [("u", "2020-12-31T23:59:59Z", "a", "SE")]
    data, tally = counted(log(tmp_path / "log.csv", rows), tmp_path / "out")
    assert curve_rows(data) == [("a", "SE", "2021-01-07", 2.0, 1), ("a", "SE", "2021-01-14", 2.0, 1)]
    assert tally.in_part_periods == 3
    assert tally.counted == 4
    data, tally = counted(tmp_path / "log.csv", tmp_path / "daily", frequency="D")
    assert len(curve_rows(data)) == 7
    assert tally.in_part_periods == 0


def test_a_chart_is_all_that_was_heard_and_its_floor_lies_at_rank_200(tmp_path: Path):
    rows = [("u", 1_609_459_200 + place, f"t{n:03d}", "SE") for n in range(250) for place in range(250 - n)]
    rows += [("u", 1_609_459_200 + 86_400 * day, "quiet", "NO") for day in (0, 6)]
    data, _ = counted(log(tmp_path / "log.csv", rows), tmp_path / "out")
    assert data.charts is not None
    norway, sweden = data.charts.sort_values("region").to_dict("records")
    # Ranks 195 to 200 of the streams 250, 249, …
    assert (sweden["lowest"], sweden["size"]) == (1, 250)
    assert sweden["floor"] == np.mean([250 - rank + 1 for rank in range(195, 201)])
    assert (norway["floor"], norway["lowest"], norway["size"]) == (2, 2, 1)
    top, _ = counted(tmp_path / "log.csv", tmp_path / "top", top=10)
    assert top.charts is not None
    sweden = top.charts.set_index("region").loc["SE"]
    assert (sweden["lowest"], sweden["size"]) == (241, 10)
    assert sweden["floor"] == np.mean([250 - rank + 1 for rank in range(5, 11)])
    assert len(top.tracks) == 11


def test_recordings_that_share_a_rank_are_on_the_chart_together_or_not_at_all(tmp_path: Path):
    week = 1_609_459_200
    heard = {"a": 5, "b": 4, "c": 3, "d": 3, "e": 1}
    rows = [("u", week + 86_400 * (n % 7), name, "SE") for name, times in heard.items() for n in range(times)]
    rows += [("u", week + 86_400 * 6 * n, name, "NO") for name in "abcde" for n in (0, 1)]
    log(tmp_path / "log.csv", rows)
    for top, names in ((2, "ab"), (3, "ab"), (4, "abcd"), (5, "abcde")):
        data, _ = counted(tmp_path / "log.csv", tmp_path / str(top), top=top)
        sweden = [row for row in curve_rows(data) if row[1] == "SE"]
        assert "".join(row[0] for row in sweden) == names
        assert [row[4] for row in sweden] == [1, 2, 3, 3, 5][: len(names)]
        assert data.charts is not None
        # All five have two listens in Norway: there is a chart once all of them fit.
        assert data.regions == (["NO", "SE"] if top == 5 else ["SE"])
        assert set(data.charts["region"]) == set(data.regions)


def test_recordings_with_few_listens_leave_the_ranks_of_others_as_they_were(tmp_path: Path):
    rows = [("u", 1_609_459_200 + 86_400 * (n % 7), "a", "SE") for n in range(14)]
    rows += [("u", 1_609_459_200 + n, f"once{n}", "SE") for n in range(3)]
    rows += [("u", 1_609_459_200 + 86_400 * 7 + n, "once0", "SE") for n in range(3)]
    rows += [("u", 1_609_459_200 + 86_400 * (7 + n), "a", "SE") for n in (0, 6)]
    data, tally = counted(log(tmp_path / "log.csv", rows), tmp_path / "out", least=10)
    assert [row[3:] for row in curve_rows(data)] == [(14.0, 1), (2.0, 2)]
    assert tally.left_out == 3


def test_every_listen_counts_in_the_world_and_those_of_unknown_country_there_alone(tmp_path: Path):
    days = [1_609_459_200 + 86_400 * day for day in range(7)]
    rows = [("u", t, "a", c) for t, c in zip(days, ["SE", "se", "", "Atlantis", "NO", "", "SE"], strict=True)]
    data, tally = counted(log(tmp_path / "log.csv", rows), tmp_path / "out", world=True, least=7)
    assert [(row[1], row[3]) for row in curve_rows(data)] == [("GLOBAL", 7.0), ("NO", 1.0), ("SE", 3.0)]
    assert (tally.without_region, tally.counted) == (0, 7)
    _, tally = counted(tmp_path / "log.csv", tmp_path / "out2")
    assert (tally.without_region, tally.counted) == (3, 4)


def test_every_listen_that_is_not_counted_is_told(tmp_path: Path):
    rows = [("u", 1_609_459_200 + 86_400 * day, "a", "SE") for day in range(7)]
    rows += [("u", "soon", "a", "SE"), ("u", "2021-02-30", "a", "SE"), ("u", 1_609_459_200, "", "SE")]
    rows += [("u", 1_609_459_200, "a", ""), ("too", "few"), ("u", 9_999_999_999, "a", "SE")]
    _, tally = counted(log(tmp_path / "log.csv", rows), tmp_path / "out")
    assert vars(tally) == {
        "read": 13,
        "counted": 7,
        "without_time": 3,
        "without_region": 1,
        "without_recording": 1,
        "unread": 1,
        "in_part_periods": 0,
        "left_out": 0,
    }


def test_times_may_be_seconds_milliseconds_or_text(tmp_path: Path):
    days = pd.date_range("2021-01-01", periods=7)
    texts = [str(int(day.timestamp()) * (1000 if n % 2 else 1)) for n, day in enumerate(days[:4])]
    texts += [f"{days[4]:%Y-%m-%d}", f"{days[5]:%Y-%m-%dT%H:%M:%SZ}", f"{days[6].timestamp()}"]
    data, _ = counted(log(tmp_path / "log.csv", [("u", t, "a", "SE") for t in texts]), tmp_path / "out", frequency="D")
    assert [row[2] for row in curve_rows(data)] == [f"{day:%Y-%m-%d}" for day in days]


def test_headers_in_other_words_compressed_files_and_users_with_a_country(tmp_path: Path):
    times = [1_609_459_200 + 86_400 * day for day in range(7)]
    plain = "ts;Track ID;User-Name\n" + "".join(f"{t};r1;u{n % 2}\n" for n, t in enumerate(times))
    for suffix, opened in ((".gz", gzip.open), (".bz2", bz2.open)):
        path = tmp_path / f"log.csv{suffix}"
        with opened(path, "wt") as stream:
            stream.write(plain)
        data, _ = counted(path, tmp_path / f"out{suffix}", users={"u0": "SE", "u1": "NO"})
        assert [(row[1], row[3]) for row in curve_rows(data)] == [("NO", 3.0), ("SE", 4.0)]


def test_a_table_without_header_is_read_by_the_names_that_are_given(tmp_path: Path):
    path = tmp_path / "LEs.txt"
    path.write_text("".join(f"31435741\t2\t4\t4\t{1_609_459_200 + 86_400 * day}\n" for day in range(7)))
    users = tmp_path / "users.txt"
    users.write_text("user_id\tcountry\tage\n31435741\tUS\t30\n1\t\t30\n")
    command = ["listens", str(path), "--header", "user,artist_id,album,recording,time", "--users", str(users)]
    assert main([*command, "--least", "1", "--out", str(tmp_path / "out")]) == 0
    assert curve_rows(read_dataset(tmp_path / "out")) == [("4", "US", "2021-01-07", 7.0, 1)]


def test_recordings_without_an_id_are_told_by_artist_and_title(tmp_path: Path):
    rows = [(1_609_459_200 + 86_400 * day, ("Sun", "Anna") if day % 2 else ("Sun", "Bo")) for day in range(7)]
    lines = [(t, title, artist, "SE") for t, (title, artist) in rows]
    data, _ = counted(log(tmp_path / "log.csv", lines, "time,title,artist,country"), tmp_path / "out")
    assert sorted(data.tracks["artist"]) == ["Anna", "Bo"]
    assert sorted(row[3] for row in curve_rows(data)) == [3.0, 4.0]


# ----------------------------------------------------------------------------------------------- layouts as published
def expected(countries: dict[str, str]) -> Counter:
    """Listens a region of the sample, in whole weeks."""
    moments = list(plays())
    first, last = (pick(m.date() for _, _, m in moments) for pick in (min, max))
    counts: Counter = Counter()
    for song, user, moment in moments:
        end = pd.Timestamp(moment.date()) + pd.Timedelta(days=(3 - moment.weekday()) % 7)
        if end - pd.Timedelta(days=6) >= pd.Timestamp(first) and end <= pd.Timestamp(last):
            counts[song, countries.get(user)] += 1
    return counts


def test_lastfms_files_give_curves_by_the_users_countries(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    command = SAMPLES["lastfm"](tmp_path)[0]
    assert main(command[1:]) == 0
    shown = capsys.readouterr().out
    data = read_dataset(tmp_path / "data")
    counts = expected({"user_000001": "MX", "user_000002": "US", "user_000004": "JP"})
    assert data.regions == ["JP", "MX", "US"]
    assert data.curves is not None
    totals = data.curves.groupby("region")["streams"].sum().to_dict()
    assert totals == {c: float(sum(n for (_, r), n in counts.items() if r == c)) for c in data.regions}
    assert "1 unread" in shown
    assert len(data.tracks) == SONGS == data.tracks["song_id"].nunique()
    assert set(data.tracks["track_id"].str.len()) == {22, 36}
    assert data.splits is not None
    assert set(data.splits["split"]) >= {"train", "validation", "test"}
    assert str(START.date()) < str(data.splits["debut"].min().date())


def test_listenbrainz_files_are_the_world_unless_users_have_a_country(tmp_path: Path):
    command = SAMPLES["listenbrainz"](tmp_path)[0]
    dump = Path(command[2]) / "listens" / "2018" / "5.listens"
    dump.write_text(dump.read_text() + "{not json\n[]\n\n")
    assert main(command[1:]) == 0
    data = read_dataset(tmp_path / "data")
    assert data.regions == ["GLOBAL"]
    assert data.info["listens"]["unread"] == 2
    assert data.curves is not None
    assert data.curves["streams"].sum() == sum(expected({}).values())
    users = tmp_path / "users.csv"
    users.write_text("user,country\n" + "".join(f"{user},{country}\n" for user, country in USERS.items()))
    assert main([*command[1:-1], str(tmp_path / "own"), "--users", str(users)]) == 0
    assert read_dataset(tmp_path / "own").regions == ["JP", "MX", "US"]


# ------------------------------------------------------------------------------------------------------------ refusals
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is empty"),
        ("user,recording,country\nu,a,SE\n", "no column for 'time'"),
        ("user,time,country\nu,1609459200,SE\n", "no column for the recording"),
        ("user,time,recording\nu,1609459200,a\n", "no column 'country'; give --users"),
        ("time,recording,country\nsoon,a,SE\n", "no listen could be counted"),
        ("time,recording,country\n1609459200,a,SE\n", "no whole week"),
    ],
)
def test_logs_that_cannot_be_counted_are_refused_in_one_line(
    tmp_path: Path, text: str, reason: str, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "log.csv"
    path.write_text(text)
    assert main(["listens", str(path), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert reason in error
    # Nothing is left behind.
    assert [place.name for place in tmp_path.iterdir()] == ["log.csv"]


def test_too_few_listens_and_places_that_are_none_are_refused(tmp_path: Path):
    path = log(tmp_path / "log.csv", [("u", 1_609_459_200 + 86_400 * day, "a", "SE") for day in range(7)])
    with pytest.raises(InputError, match=r"no recording has 8 listens or more and a place on a chart \(1 have fewer\)"):
        counted(path, tmp_path / "out", least=8)
    with pytest.raises(InputError, match=r"no userid-timestamp"):
        list(listen_readers.lastfm_listens(tmp_path))
    with pytest.raises(InputError, match=r"no \.listens file"):
        list(listen_readers.listenbrainz_listens(tmp_path))
    with pytest.raises(InputError, match=r"no user has a country that is known"):
        listen_readers.read_users(log(tmp_path / "users.csv", [("u", "Atlantis")], "user,country"))
    cut = tmp_path / "log.csv.gz"
    with gzip.open(cut, "wb") as stream:
        stream.write(path.read_bytes() * 500)
    cut.write_bytes(cut.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"cannot be read to its end"):
        list(table_listens([cut], Layout()))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the peak of a process alone is told by /proc")
def test_three_million_listens_take_no_more_memory_than_their_recordings(tmp_path: Path):
    # Not ru_maxrss: a child begins with the peak of the process that started it.
    code = (
        "from data_prep.open_datasets import main\n"
        f"main(['listens', {str(tmp_path / 'log.csv')!r}, '--out', {str(tmp_path / 'out')!r}])\n"
        "status = open('/proc/self/status').read()\n"
        "print('peak', status.split('VmHWM:')[1].split()[0])"
    )
    peaks = []
    for rows in (300_000, 3_000_000):
        write_big_log(tmp_path / "log.csv", rows, recordings=20_000)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=280)
        peaks.append(int(done.stdout.split()[-1]) * 1024)
    assert peaks[1] < peaks[0] + 400e6, peaks
    assert peaks[1] < 1e9
