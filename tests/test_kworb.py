"""kworb pages by their header names, in any order; a page without one names it."""

from __future__ import annotations

import datetime
from pathlib import Path

import numpy as np
import pytest
from chart_files import read_one, track_id

from data_prep.chart_formats.ids import hashed_id
from data_prep.kworb import read_page
from mp3model.files import InputError

ID = "7qiZfU4dY1lWllzX7mPBI3"


def table(header: list[str], rows: list[list[str]]) -> str:
    head = "<tr>" + "".join(f"<th class='text'>{name}</th>" for name in header) + "</tr>"
    body = "".join("<tr class='d1'>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table class='addpos sortable'><thead>{head}</thead><tbody>{body}</tbody></table>"


def cell(rank: int, streams: int) -> str:
    parts = f'<span class="p">{rank}</span><span class="b"> (</span><span class="s">{streams:,}</span>'
    return parts + '<span class="b">)</span>'


def track_page(header: list[str] | None = None, weekly_cell: str = cell(12, 1_234_567)) -> str:
    header = header or ["Date", "Global", "US"]
    weekly = [
        ["Total", "9", "9"],
        ["Peak", "9", "9"],
        ["2017/01/12", weekly_cell, "--"],
        ["2017/01/19", cell(3, 5), cell(9, 77)],
    ]
    daily = [
        ["Total", "9", "9"],
        ["Peak", "9", "9"],
        ["2017/01/06", "--", cell(1, 40)],
        ["2017/01/07", "", cell(2, 30)],
    ]
    title = "<title>Ed Sheeran - Shape of You Spotify Chart History</title>"
    return f"<!DOCTYPE html><html><head>{title}</head><body>{table(header, weekly)}{table(header, daily)}</body></html>"


def test_a_track_page_gives_weeks_and_days_apart(tmp_path: Path):
    path = tmp_path / f"{ID}.html"
    path.write_text(track_page())
    sources, found = read_one(path)
    assert [(s.frequency, s.kind) for s in sources] == [("W", "page"), ("D", "page")]
    assert found == [
        (ID, "GLOBAL", "2017-01-12", 12, 1_234_567.0),
        (ID, "GLOBAL", "2017-01-19", 3, 5.0),
        (ID, "US", "2017-01-19", 9, 77.0),
        (ID, "US", "2017-01-06", 1, 40.0),
        (ID, "US", "2017-01-07", 2, 30.0),
    ]
    assert sources[0].texts[0][1:3] == (["Shape of You"], ["Ed Sheeran"])


def test_a_cell_that_cannot_be_read_is_rejected_and_one_without_streams_kept(tmp_path: Path):
    path = tmp_path / f"{ID}.html"
    path.write_text(track_page(weekly_cell="twelve"))
    [weekly, _], _ = read_one(path)
    assert weekly.rejected["cell is not written as 12 (1,234,567)"].examples == ["2017/01/12 GLOBAL: twelve"]
    assert weekly.read == 3
    path.write_text(track_page(weekly_cell="12"))
    assert np.isnan(read_one(path)[1][0][4])


@pytest.mark.parametrize(
    ("header", "message"),
    [(["Day", "Global", "US"], "header 'Date' is missing"), (["Date", "Global", "Oz"], "header 'Oz' is no country")],
)
def test_a_renamed_header_of_a_track_page_is_named(header: list[str], message: str):
    with pytest.raises(InputError, match=message):
        read_page(track_page(header), f"{ID}.html")


def test_a_track_page_needs_its_id_in_the_name():
    with pytest.raises(InputError, match="gives no track id"):
        read_page(track_page(), "page.html")


CHART = ["Pos", "P+", "Artist and Title", "Wks", "Pk", "(x?)", "Streams", "Streams+", "7Day", "7Day+", "Total"]


def chart_row(rank: int, moved: str, credit: str, streams: int) -> list[str]:
    return [str(rank), moved, credit, "4", "1", "(x2)", f"{streams:,}", "+3", "1", "-1", "99,999"]


def chart_page(header: list[str] = CHART, title: str = "Spotify Weekly Chart - United States - 2020/01/02") -> str:
    linked = f'<div><a href="../artist/x.html">Some One</a> - <a href="../track/{track_id(7)}.html">A - B</a></div>'
    rows = [chart_row(1, "=", linked, 9000), chart_row(2, "NEW", "Other &amp; Co - C (feat. D)", 800)]
    order = [CHART.index(name) if name in CHART else 0 for name in header]
    return f"<html><title>{title}</title>{table(header, [[row[i] for i in order] for row in rows])}</html>"


@pytest.mark.parametrize("header", [CHART, CHART[::-1]])
def test_a_chart_page_is_read_by_header_names_in_any_order(tmp_path: Path, header: list[str]):
    path = tmp_path / "us_weekly.html"
    path.write_text(chart_page(header))
    [source], found = read_one(path)
    assert source.frequency == "W"
    assert found == [
        (track_id(7), "US", "2020-01-02", 1, 9000.0),
        (hashed_id("C (feat. D)", "Other & Co"), "US", "2020-01-02", 2, 800.0),
    ]
    assert source.texts[0][1] == ["A - B", "C (feat. D)"] or source.texts[0][2] == ["Some One", "Other & Co"]


@pytest.mark.parametrize("missing", ["Pos", "Artist and Title", "Streams", "Wks"])
def test_a_header_missing_on_a_chart_page_is_named(missing: str):
    header = [name if name != missing else "Renamed" for name in CHART]
    with pytest.raises(InputError, match=f"header '{missing}'|header 'Days' \\(or 'Wks'\\)"):
        read_page(chart_page(header), "us_weekly.html")


def test_days_make_a_daily_chart_and_the_title_names_the_country():
    header = [name.replace("Wks", "Days") for name in CHART]
    [page] = read_page(chart_page(header, "Spotify Daily Chart - South Korea - 2020/01/03"), "saved.html")
    assert (page.frequency, page.region, page.date) == ("D", "KR", datetime.date(2020, 1, 3))


def test_a_chart_page_without_a_date_is_refused():
    with pytest.raises(InputError, match="gives the date"):
        read_page(chart_page(title="Spotify Weekly Chart"), "us_weekly.html")


def test_a_totals_page_gives_totals_without_dates(tmp_path: Path):
    header = ["Artist and Title", "Wks", "T10", "Pk", "(x?)", "PkStreams", "Total"]
    rows = [["One - A", "3", "1", "1", "", "5", "1,000"], ["Two - B", "3", "", "9", "", "5", "none"]]
    path = tmp_path / "se_weekly_totals.html"
    path.write_text(f"<html><title>Totals</title>{table(header, rows)}</html>")
    [source], found = read_one(path)
    assert (source.kind, source.read, found) == ("totals", 2, [])
    assert source.info[["region", "total"]].to_numpy().tolist() == [["SE", 1000.0]]
    assert source.rejected["total is no number"].count == 1
    with pytest.raises(InputError, match="header 'Total' is missing"):
        read_page(path.read_text().replace(">Total<", ">Sum<"), path.name)


def test_other_pages_are_no_charts():
    assert read_page("<html><table><tr><td>Menu</td></tr></table></html>", "x.html") == []
