"""Each chart format and each quirk of it on small made-up files; broken rows, wrong columns and dates refused."""

from __future__ import annotations

import datetime
import gzip
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from chart_files import long_csv, new_csv, old_csv, read_one, rows, track_id

from data_prep.chart_formats.coded import NotAChartError
from data_prep.chart_formats.ids import hashed_id
from data_prep.regions import region_code, region_in_name
from mp3model.files import InputError
from mp3model.tables.schema import REGIONS

SHARED = Path(__file__).resolve().parent.parent.parent / "shared"


def save(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def expected(region: str, date: str, chart: list[tuple]) -> list[tuple]:
    return [(track, region, date, rank, float(streams)) for rank, _, _, streams, track in chart]


@pytest.mark.parametrize("note", [True, False])
def test_an_old_weekly_file_ends_on_the_thursday_before_its_second_date(tmp_path: Path, note: bool):
    path = save(tmp_path, "regional-us-weekly-2020-01-03--2020-01-10.csv", old_csv(rows(), note))
    [source], found = read_one(path)
    assert found == expected("US", "2020-01-09", rows())
    assert (source.format, source.frequency, source.read) == ("spotifycharts.com CSV", "W", 3)


def test_an_old_daily_file_has_the_date_of_its_name(tmp_path: Path):
    [source], found = read_one(save(tmp_path, "regional-global-daily-2020-01-01.csv", old_csv(rows())))
    assert found == expected("GLOBAL", "2020-01-01", rows())
    assert source.frequency == "D"


def test_a_new_file_has_a_byte_order_mark_quoted_numbers_and_all_artists(tmp_path: Path):
    [source], found = read_one(save(tmp_path, "regional-au-weekly-2024-02-15 (1).csv", new_csv(rows())))
    assert found == expected("AU", "2024-02-15", rows())
    assert (source.format, source.frequency) == ("charts.spotify.com CSV", "W")
    [(codes, titles, artists, _)] = source.texts
    assert (len(codes), titles[0], artists[0]) == (3, "Song 1", "Artist 1, Guest")


def test_a_file_is_known_by_its_content_whatever_its_ending(tmp_path: Path):
    _, found = read_one(save(tmp_path, "regional-au-daily-2024-02-17.txt", new_csv(rows(), "days")))
    assert found == expected("AU", "2024-02-17", rows())


def test_a_country_table_gives_the_weeks_first_day(tmp_path: Path):
    text = "Song,Artist,Date,Song ID,Streams,Rank\n" + "".join(
        f'{title},"{artist}, Other",2017-01-06,{track},"{streams:,}",{rank}\n'
        for rank, title, artist, streams, track in rows()
    )
    [source], found = read_one(save(tmp_path, "my_iceland_table.csv", text))
    assert found == expected("IS", "2017-01-12", rows())
    assert source.frequency == "W"
    assert "first day (Friday)" in source.notes[0]


def test_the_full_table_gives_up_viral_rows_and_rows_out_of_place_with_their_reason(tmp_path: Path):
    good = "".join(
        f"{title},{rank},2017-01-02,{artist},https://open.spotify.com/track/{track},United Kingdom,top200,NEW_ENTRY,"
        f"{streams}\n"
        for rank, title, artist, streams, track in rows()
    )
    url = f"https://open.spotify.com/track/{track_id(9)}"
    bad = (
        f"Viral,1,2017-01-02,Someone,{url},Peru,viral50,MOVE_UP,\n"
        f'Shifted,7,2017-01-02,"One ""Two""", Three, Four",{url},Peru,\n'
        "Short,7,2017-01-02,One\n"
        f"No country,7,2017-01-02,One,{url},Atlantis,top200,MOVE_UP,5\n"
        f"No day,7,2017-02-30,One,{url},Peru,top200,MOVE_UP,5\n"
        f"No rank,x,2017-01-02,One,{url},Peru,top200,MOVE_UP,5\n"
        "No id,7,2017-01-02,One,https://open.spotify.com/track/12,Peru,top200,MOVE_UP,5\n"
        f"No number,7,2017-01-02,One,{url},Peru,top200,MOVE_UP,many\n"
        f"Not above 0,7,2017-01-02,One,{url},Peru,top200,MOVE_UP,0\n"
        f"Tomorrow,7,2999-01-01,One,{url},Peru,top200,MOVE_UP,5\n"
    )
    text = "title,rank,date,artist,url,region,chart,trend,streams\n" + good + bad
    [source], found = read_one(save(tmp_path, "any.csv", text))
    assert found == expected("GB", "2017-01-02", rows())
    assert source.frequency == "D"
    counts = {reason: rejected.count for reason, rejected in source.rejected.items()}
    assert source.read == 13 == len(found) + sum(counts.values())
    assert counts == {
        "viral50 row: that chart has no streams": 1,
        "chart is neither top200 nor viral50: cells out of place": 1,
        "wrong number of cells in the row": 1,
        "region is no country that is known": 1,
        "date cannot be read as YYYY-MM-DD": 1,
        "rank is no whole number from 1": 1,
        "no track id can be read": 1,
        "streams are no number": 1,
        "streams of a charted track are not above 0": 1,
        "date lies in the future": 1,
    }
    assert "Atlantis" in source.rejected["region is no country that is known"].examples[0]


def test_an_older_table_has_date_and_region_and_may_repeat_its_header(tmp_path: Path):
    head = "Position,Track Name,Artist,Streams,URL,Date,Region\n"
    lines = [
        f"{rank},{title},{artist},{streams},https://open.spotify.com/track/{track},{date},ec\n"
        for date in ("2017-01-01", "2017-01-02")
        for rank, title, artist, streams, track in rows()
    ]
    [source], found = read_one(save(tmp_path, "data.csv", head + "".join(lines) + head))
    assert found == expected("EC", "2017-01-01", rows()) + expected("EC", "2017-01-02", rows())
    assert source.frequency == "D"
    assert source.rejected["header line repeated among the rows"].count == 1


def test_year_month_and_day_make_a_date_and_descriptors_become_columns(tmp_path: Path):
    lines = [
        f"{rank},{title},{artist},{streams},https://open.spotify.com/track/{track},2019,1,{day},us,0.5,\n"
        for day in (1, 2)
        for rank, title, artist, streams, track in rows()
    ]
    text = "Position,Track Name,Artist,Streams,URL,Year,Month,Day,Region,energy,tempo\n" + "".join(lines)
    [source], found = read_one(save(tmp_path, "us.csv", text))
    assert [row[2] for row in found] == ["2019-01-01"] * 3 + ["2019-01-02"] * 3
    assert list(source.info.columns) == ["x_energy", "x_tempo"]
    assert source.info["x_energy"].tolist() == [0.5] * 3
    assert source.info["x_tempo"].isna().all()


def test_long_tables_on_thursdays_are_weekly_and_on_all_days_daily(tmp_path: Path):
    weekly = long_csv({("global", "2020-01-02"): rows(), ("us", "2020-01-09"): rows()})
    [source], found = read_one(save(tmp_path, "w.csv", weekly))
    assert (source.frequency, found[0][1:3]) == ("W", ("GLOBAL", "2020-01-02"))
    daily = long_csv({("us", "2020-01-02"): rows(), ("us", "2020-01-03"): rows()})
    assert read_one(save(tmp_path, "d.csv", daily))[0][0].frequency == "D"


def test_fridays_alone_are_not_taken_for_weeks(tmp_path: Path):
    text = long_csv({("us", "2017-01-06"): rows(), ("us", "2017-01-13"): rows(), ("us", "2017-01-20"): rows()})
    [source], found = read_one(save(tmp_path, "f.csv", text))
    assert (source.frequency, found[0][2]) == ("D", "2017-01-06")
    assert "Fridays only" in source.notes[0]
    [source], found = read_one(tmp_path / "f.csv", periods={"f.csv": "week-start"})
    assert (source.frequency, found[0][2]) == ("W", "2017-01-12")


def test_dates_that_do_not_tell_days_from_weeks_are_refused_unless_told(tmp_path: Path):
    path = save(tmp_path, "one.csv", long_csv({("us", "2017-01-05"): rows()}))
    with pytest.raises(InputError, match=r"one.csv: .*daily or weekly; give --period 'one.csv=day'"):
        read_one(path)
    assert read_one(path, periods={"one.csv": "week-end"})[1][0][2] == "2017-01-05"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("regional-us-weekly-2020-01-04--2020-01-11.csv", old_csv(rows()), "from a Friday to the next Friday"),
        ("regional-us-weekly-2020-01-03--2020-01-17.csv", old_csv(rows()), "from a Friday to the next Friday"),
        ("regional-us-weekly-2024-02-17.csv", new_csv(rows()), "dates on a Saturday, but weeks end on a Thursday"),
        ("regional-us-daily-2020-02-31.csv", old_csv(rows()), "2020-02-31 in the file's name is no day"),
        ("regional-us-daily.csv", old_csv(rows()), "neither a column nor the file's name gives the date"),
        ("top-daily-2020-01-01.csv", old_csv(rows()), "give --region CODE"),
    ],
)
def test_a_name_that_breaks_the_rule_is_refused(tmp_path: Path, name: str, text: str, message: str):
    with pytest.raises(InputError, match=message) as raised:
        read_one(save(tmp_path, name, text))
    assert name in str(raised.value)
    assert "\n" not in str(raised.value)


def test_weekly_dates_off_the_rule_move_to_the_nearest_week_when_told(tmp_path: Path):
    path = save(tmp_path, "regional-us-weekly-2024-02-16.csv", new_csv(rows()))
    [source], found = read_one(path, periods={"weekly-2024": "week-end"})
    assert found[0][2] == "2024-02-15"
    assert "Friday moved by -1 days" in source.notes[0]


@pytest.mark.parametrize(
    ("header", "missing"),
    [
        ("Positon,Track Name,Artist,Streams,URL", "Position"),
        ("Position,Track Name,Artist,Strems,URL", "Streams"),
        ("rank,artist_names,track_nam,source,peak_rank,previous_rank,weeks_on_chart,streams", "uri"),
        ("title,place,date,artist,url,region,chart,trend,streams", "rank"),
        ("region,date,song,rank,streams", "track_id"),
        ("Song,Artist,Date,Song ID,Streams,Place", "Rank"),
        ("date,isrc,territory,amount", "quantity"),
        ("date,isrc,shop,quantity", "territory"),
    ],
)
def test_a_missing_or_renamed_column_is_named(tmp_path: Path, header: str, missing: str):
    path = save(tmp_path, "regional-us-daily-2020-01-01.csv", header + "\n" + ",".join("1" * len(header.split(","))))
    with pytest.raises(InputError, match=f"column '{missing}' is missing") as raised:
        read_one(path)
    assert not isinstance(raised.value, NotAChartError)


def test_what_is_no_chart_is_told_apart_from_a_broken_chart(tmp_path: Path):
    for text in ("# Notes\nabout, charts", "a,b,c\n1,2,3", b"\x00\x01\x02", ""):
        with pytest.raises(NotAChartError):
            read_one(save(tmp_path, "notes", text))


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path):
    path = save(
        tmp_path, "regional-us-daily-2020-01-01.csv", "Position,Track Name,Artist,Streams,URL,URL\n1,a,b,3,x,y\n"
    )
    with pytest.raises(InputError, match="'URL' is there twice"):
        read_one(path)


def test_zip_gz_and_folders_hold_the_same_rows_as_the_file(tmp_path: Path):
    name = "regional-us-weekly-2020-01-03--2020-01-10.csv"
    path = save(tmp_path / "plain", name, old_csv(rows()))
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.write(path, f"sub/{name}")
        archive.writestr("__MACOSX/._x", b"\0")
    packed = save(tmp_path, f"{name}.gz", gzip.compress(path.read_bytes()))
    plain = read_one(path)[1]
    assert len(plain) == 3
    for given in (tmp_path / "all.zip", packed, tmp_path / "plain"):
        assert read_one(given)[1] == plain


def test_a_damaged_gz_zip_or_parquet_is_refused_by_name(tmp_path: Path):
    packed = gzip.compress(old_csv(rows(200)).encode())
    frame = pd.DataFrame({"region": ["us"], "date": ["2020-01-02"], "track_id": ["a"], "rank": [1], "streams": [5]})
    frame.to_parquet(tmp_path / "t.parquet")
    with zipfile.ZipFile(tmp_path / "whole.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("regional-us-daily-2020-01-01.csv", old_csv(rows(200)))
    whole = bytearray((tmp_path / "whole.zip").read_bytes())
    whole[80:200] = bytes(120)
    cut = (tmp_path / "t.parquet").read_bytes()[:200]
    for name, content in (
        ("regional-us-daily-2020-01-01.csv.gz", packed[: len(packed) // 2]),
        ("b.zip", bytes(whole)),
        ("t.parquet", cut),
    ):
        path = save(tmp_path / "bad", name, content)
        with pytest.raises(InputError, match=name):
            read_one(path)


def test_a_windows_1252_file_keeps_its_accents(tmp_path: Path):
    chart = [(1, "Café", "Tiësto", 900, track_id(1))]
    path = save(tmp_path, "regional-us-daily-2020-01-01.csv", old_csv(chart, note=False).encode("cp1252"))
    [source], _ = read_one(path)
    assert source.texts[0][1:3] == (["Café"], ["Tiësto"])


def test_a_kworb_csv_without_header_gets_ids_of_title_and_artist(tmp_path: Path):
    text = (
        '\ufeff2026-08-22,1,=,Some One - A Song,283,1,(x170),"587,661","-12,886","4,255,703","-32,901","231,525,732"\n'
        '2026-08-22,2,+1,Other - B - C,3,1,,"476,466","-15,568","3,502,075","-27,131","136,513,330"\n'
    )
    [source], found = read_one(save(tmp_path, "ph_daily.csv", text), today=datetime.date(2026, 9, 1))
    assert found == [
        (hashed_id("A Song", "Some One"), "PH", "2026-08-22", 1, 587661.0),
        (hashed_id("B - C", "Other"), "PH", "2026-08-22", 2, 476466.0),
    ]
    assert (source.format, source.frequency) == ("kworb CSV", "D")


def test_hashed_ids_look_like_track_ids_and_tell_other_scripts_apart():
    assert hashed_id("Koy", "Khontkar") == "ta_0214fecb079202b4e1f" == hashed_id(" koy", "KHONTKAR, Guest")
    assert hashed_id("心", "周") != hashed_id("愛", "周")
    assert len(hashed_id("心", "周")) == 22


def test_a_saved_page_of_the_old_site_is_read(tmp_path: Path):
    body = "".join(
        f'<tr><td class="chart-table-image"><a href="https://open.spotify.com/track/{track}"><img></a></td>'
        f'<td class="chart-table-position">{rank}</td><td class="chart-table-trend"></td>'
        f'<td class="chart-table-track"><strong>{title}</strong> <span>by {artist}</span></td>'
        f'<td class="chart-table-streams">{streams:,}</td></tr>'
        for rank, title, artist, streams, track in rows()
    )
    page = (
        '<html><a data-url="/regional/za/weekly/2021-02-12--2021-02-19/download">csv</a><table class="chart-table">'
        f"<tr><th class='chart-table-track'>Track</th></tr>{body}</table></html>"
    )
    [source], found = read_one(save(tmp_path, "saved.html", page))
    assert found == expected("ZA", "2021-02-18", rows())
    assert source.texts[0][1:3] == (["Song 1", "Song 2", "Song 3"], ["Artist 1", "Artist 2", "Artist 3"])
    with pytest.raises(InputError, match=r"saved.html: cell 'chart-table-streams' is missing"):
        read_one(save(tmp_path, "saved.html", page.replace("chart-table-streams", "streams")))


def test_a_distributors_export_is_full_streams_and_its_columns_can_be_named(tmp_path: Path):
    text = "Date;ISRC;Territory;Quantity\n2024-01-01;US-ABC-24-00001;United States;5\n2024-01-02;USABC2400001;USA;7\n"
    [source], found = read_one(save(tmp_path, "sales.csv", text))
    assert (source.kind, source.frequency) == ("export", "D")
    assert found == [
        ("isrc:USABC2400001", "US", "2024-01-01", 0, 5.0),
        ("isrc:USABC2400001", "US", "2024-01-02", 0, 7.0),
    ]
    renamed = (
        text.replace("Date", "Tag").replace("Territory", "Land").replace("Quantity", "Zahl").replace("ISRC", "Code")
    )
    path = save(tmp_path, "verkauf.csv", renamed)
    with pytest.raises(InputError):
        read_one(path)
    columns = {"date": "Tag", "isrc": "Code", "region": "Land", "streams": "Zahl"}
    assert read_one(path, columns=columns)[1] == found


def test_parquet_tables_of_charts_and_tracks(tmp_path: Path):
    chart = pd.DataFrame(
        {
            "region": pd.Categorical(["us", "us", "global"]),
            "date": pd.to_datetime(["2020-01-02", "2020-01-09", "2020-01-09"]),
            "track_id": ["a", "b", "ta_0214fecb079202b4e1f"],
            "rank": np.array([1, 2, 3], np.int16),
            "streams": [5, 6, 7],
        }
    )
    chart.to_parquet(tmp_path / "w.parquet")
    [source], found = read_one(tmp_path / "w.parquet")
    assert source.frequency == "W"
    assert found[2] == ("ta_0214fecb079202b4e1f", "GLOBAL", "2020-01-09", 3, 7.0)
    tracks = pd.DataFrame(
        {
            "track_id": ["a", "b", "b"],
            "title": ["A", None, "again"],
            "artist": ["X, Y", "['P', 'Q']", "Z"],
            "release_date": ["2019", "2019-12-31", None],
            "energy": np.array([0.5, np.nan, 1], np.float32),
            "explicit": pd.array([True, None, False], "boolean"),
            "genre": ["pop", "rock", "pop"],
        }
    )
    tracks.to_parquet(tmp_path / "t.parquet")
    [source], _ = read_one(tmp_path / "t.parquet")
    assert source.kind == "tracks"
    assert source.rejected["track is there before in the table"].count == 1
    assert source.info["artist"].tolist() == ["X, Y", "P, Q"]
    assert source.info["release"].tolist() == ["2019", "2019-12-31"]
    assert source.info["x_explicit"].tolist()[0] == 1
    assert source.info[["x_energy", "x_explicit"]].isna().sum().tolist() == [1, 1]
    assert "genre" in source.notes[0]


def test_countries_are_known_by_code_name_and_in_file_names():
    assert {region_code(region) for region in REGIONS} == REGIONS
    names = [
        "us",
        "USA",
        "United States",
        "uk",
        "Türkiye",
        "Korea, Republic of",
        "Viet Nam",
        "global",
        "Czech Republic",
    ]
    assert [region_code(n) for n in names] == ["US", "US", "US", "GB", "TR", "KR", "VN", "GLOBAL", "CZ"]
    assert region_code("Atlantis") is None
    assert region_in_name("data/regional-in-weekly-2020.csv") == "IN"
    assert region_in_name("South Africa/2020.csv") == "ZA"
    assert region_in_name("us_vs_gb.csv") is None
    assert region_in_name("charts_2020.csv") is None


def test_the_originals_are_read_without_a_row_lost():
    folder = SHARED / "data" / "charts" / "raw"
    if not folder.is_dir():
        pytest.skip("no real charts beside the repository")
    sources, found = read_one(folder)
    assert len(sources) == 13
    assert sum(s.read for s in sources) == len(found) + sum(r.count for s in sources for r in s.rejected.values())
    weekly = {s.name.split("/")[1] for s in sources if s.frequency == "W"}
    assert len(weekly) == 6
    assert not any("fridays" in name for name in weekly)
