"""A saved web page in, the rows of its charts out: kworb track, chart and totals pages, pages of the old chart site.

kworb's tables are read by the names in their header, in whatever order they come. Track page: title `Artist - Title
Spotify Chart History`, two tables `Date, Global, US, …`, weekly first, cells `12 (1,234,567)`, `--` = not charted.
Chart page: `Pos, P+, Artist and Title, Days|Wks, …, Streams, …`. Totals page: `Artist and Title, Wks, …, Total`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date as Date
from datetime import timedelta
from html.parser import HTMLParser

from data_prep.chart_formats.ids import hashed_id
from data_prep.regions import region_code, region_in_name
from mp3model.files import InputError

_HISTORY = re.compile(r"^(?P<credit>.+?)\s*(?:[-|–]\s*)?Spotify Chart History", re.IGNORECASE)
_CELL = re.compile(r"^(\d+)\s*(?:\(\s*([\d,]+)\s*\))?(?:\s*[=+-]\S*)?$")
_PAGE_DATE = re.compile(r"(\d{4})[/-](\d{2})[/-](\d{2})")
_TRACK_LINK = re.compile(r"track/([0-9A-Za-z]{22})")
_OLD_PAGE = re.compile(r"regional/(\w+)/(daily|weekly)/(\d{4}-\d{2}-\d{2})(?:--(\d{4}-\d{2}-\d{2}))?")
_NOT_CHARTED = ("", "--", "-")


@dataclass
class Cell:
    text: str = ""
    links: list[str] = field(default_factory=list)
    css: str = ""
    parts: dict[str, str] = field(default_factory=dict)


@dataclass
class HtmlTable:
    css: str
    rows: list[list[Cell]] = field(default_factory=list)

    @property
    def header(self) -> list[str]:
        return [cell.text for cell in self.rows[0]] if self.rows else []


@dataclass
class Page:
    """Rows of one chart or track: text columns of equal length, `rank, streams, date, region, id, title, artist`.

    Attributes:
        kind: `chart`, `page` (one track) or `totals`.
        region, date: where no column gives them.
        rejected: reason → the cells at fault.
    """

    format: str
    kind: str
    columns: dict[str, list]
    frequency: str | None = None
    date_means: str = "day"
    region: str | None = None
    date: Date | None = None
    rejected: dict[str, list[str]] = field(default_factory=dict)


class _Reader(HTMLParser):
    """Collects the page's title, headings and tables."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.title = ""
        self.tables: list[HtmlTable] = []
        self.links: list[str] = []
        self._open: list[str] = []
        self._cell: Cell | None = None
        self._in_title = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.links += [given[name] for name in ("href", "data-url") if name in given]
        if tag == "title":
            self._in_title = True
        elif tag == "table":
            self.tables.append(HtmlTable(given.get("class", "")))
        elif tag == "tr" and self.tables:
            self.tables[-1].rows.append([])
        elif tag in ("td", "th") and self.tables:
            if not self.tables[-1].rows:
                self.tables[-1].rows.append([])
            self._cell = Cell(css=given.get("class", ""))
            self._open = []
            self.tables[-1].rows[-1].append(self._cell)
        elif self._cell is not None:
            if tag == "a":
                self._cell.links.append(given.get("href", ""))
            if tag in ("strong", "span"):
                self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag == "title":
            self._in_title = False
        elif tag in ("td", "th", "tr", "table"):
            if self._cell is not None:
                self._cell.text = re.sub(r"\s+", " ", self._cell.text).strip()
            self._cell = None
        elif self._open and tag == self._open[-1]:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.title += data
        elif self._cell is not None:
            self._cell.text += data
            if self._open:
                tag = self._open[-1]
                self._cell.parts[tag] = self._cell.parts.get(tag, "") + data


def read_page(text: str, name: str) -> list[Page]:
    """The charts of a saved page; empty where it is no page that is known.

    Args:
        text: the page.
        name: its file, for errors; country and track id are read from it where the page does not give them.

    Raises:
        InputError: a known page lacks a header (which is named), its date or its country.
    """
    reader = _Reader()
    reader.feed(text)
    reader.close()
    title = re.sub(r"\s+", " ", reader.title).strip()
    if any("chart-table" in table.css.split() for table in reader.tables):
        return [_old_site_page(reader, name)]
    tables = [HtmlTable(table.css, [row for row in table.rows if row]) for table in reader.tables]
    tables = [table for table in tables if table.rows]
    if _HISTORY.match(title):
        return _track_page(title, tables, name)
    for table in tables:
        header = table.header
        known = {
            "Pos",
            "P+",
            "Artist and Title",
            "Streams",
            "Streams+",
            "7Day",
            "Total",
            "Wks",
            "T10",
            "Pk",
            "PkStreams",
        }
        if len(known & set(header)) >= 3:
            totals = "totals" in name.casefold() or bool({"PkStreams", "T10"} & set(header))
            return [_totals_page(table, title, name) if totals else _chart_page(table, title, name)]
    return []


def _positions(header: Sequence[str], wanted: Sequence[str], name: str, page: str) -> list[int]:
    for column in wanted:
        if column not in header:
            raise InputError(
                f"{name}: header {column!r} is missing on this {page}; it has {', '.join(header)}: "
                "rename the header in the saved page"
            )
    return [list(header).index(column) for column in wanted]


def _track_page(title: str, tables: list[HtmlTable], name: str) -> list[Page]:
    """Weekly table first, then daily; a page that holds one only is told by the spacing of its dates."""
    found = _HISTORY.match(title)
    assert found is not None
    artist, separator, song = found["credit"].partition(" - ")
    track = re.search(r"(?<![0-9A-Za-z])([0-9A-Za-z]{22})(?![0-9A-Za-z])", name)
    if track is None:
        raise InputError(f"{name}: the name gives no track id; save a track page as <22 characters>.html")
    if not tables:
        raise InputError(f"{name}: a track page without a table; save the whole page")
    pages = []
    for table in tables:
        page = _history(table, name)
        count = len(page.columns["rank"])
        page.columns |= {
            "id": [track[1]] * count,
            "title": [song if separator else artist] * count,
            "artist": [artist if separator else None] * count,
        }
        pages.append(page)
    return pages


def _history(table: HtmlTable, name: str) -> Page:
    [at] = _positions(table.header, ["Date"], name, "track page")
    regions: dict[int, str] = {}
    for column, text in enumerate(table.header):
        if column == at:
            continue
        region = region_code(text)
        if region is None:
            raise InputError(f"{name}: header {text!r} is no country that is known; correct it in the saved page")
        regions[column] = region
    columns: dict[str, list] = {"date": [], "region": [], "rank": [], "streams": []}
    rejected: dict[str, list[str]] = {}
    days: list[Date] = []
    for row in table.rows[1:]:
        first = row[at].text if at < len(row) else ""
        if first in ("Total", "Peak"):
            continue
        day = _day(first)
        if day is None:
            rejected.setdefault("date cannot be read as YYYY/MM/DD", []).append(first)
            continue
        days.append(day)
        for column, region in regions.items():
            text = row[column].text if column < len(row) else ""
            if text in _NOT_CHARTED:
                continue
            cell = _CELL.match(text)
            if cell is None:
                rejected.setdefault("cell is not written as 12 (1,234,567)", []).append(f"{first} {region}: {text}")
                continue
            for key, value in zip(columns, (day.isoformat(), region, cell[1], cell[2] or ""), strict=True):
                columns[key].append(value)
    weekly = len(days) > 0 and len({day.weekday() for day in days}) == 1 and (len(days) > 1 or days[0].weekday() == 3)
    frequency, means = ("W", "week-end") if weekly else ("D", "day")
    return Page("kworb track page", "page", columns, frequency, means, rejected=rejected)


def _day(text: str) -> Date | None:
    found = _PAGE_DATE.fullmatch(text)
    try:
        return Date(int(found[1]), int(found[2]), int(found[3])) if found else None
    except ValueError:
        return None


def _chart_page(table: HtmlTable, title: str, name: str) -> Page:
    header = table.header
    rank, credit, streams = _positions(header, ["Pos", "Artist and Title", "Streams"], name, "chart page")
    if "Days" in header or "Wks" in header:
        weekly = "Wks" in header
    else:
        raise InputError(f"{name}: header 'Days' (or 'Wks') is missing on this chart page; it has {', '.join(header)}")
    day = _PAGE_DATE.search(title) or _PAGE_DATE.search(name)
    if day is None:
        raise InputError(f"{name}: neither the page's title nor its name gives the date; name it …_2020-01-31.html")
    columns = _credits(table, credit, (rank, streams))
    columns["rank"] = [row[rank].text for row in _full_rows(table, (rank, credit, streams))]
    columns["streams"] = [row[streams].text for row in _full_rows(table, (rank, credit, streams))]
    return Page(
        "kworb chart page",
        "chart",
        columns,
        "W" if weekly else "D",
        "week-end" if weekly else "day",
        _region_of_page(title, name),
        _day(day[0]),
    )


def _totals_page(table: HtmlTable, title: str, name: str) -> Page:
    credit, total = _positions(table.header, ["Artist and Title", "Total"], name, "totals page")
    columns = _credits(table, credit, (total,))
    columns["total"] = [row[total].text for row in _full_rows(table, (credit, total))]
    return Page("kworb totals page", "totals", columns, region=_region_of_page(title, name))


def _full_rows(table: HtmlTable, columns: Sequence[int]) -> list[list[Cell]]:
    return [row for row in table.rows[1:] if len(row) > max(columns)]


def _credits(table: HtmlTable, at: int, others: Sequence[int]) -> dict[str, list]:
    columns: dict[str, list] = {"id": [], "title": [], "artist": []}
    for row in _full_rows(table, (at, *others)):
        artist, separator, song = row[at].text.partition(" - ")
        link = next((found[1] for text in row[at].links if (found := _TRACK_LINK.search(text))), None)
        title, credited = (song.strip(), artist.strip()) if separator else (artist.strip(), "")
        for key, value in zip(columns, (link or hashed_id(title, credited), title, credited), strict=True):
            columns[key].append(value)
    return columns


def _region_of_page(title: str, name: str) -> str | None:
    """kworb's `us_weekly.html`, else a country that the title names."""
    official = re.search(r"(?:^|/)(\w+?)_(?:daily|weekly)", name)
    if official and region_code(official[1]):
        return region_code(official[1])
    parts = [region_code(part) for part in re.split(r"\s[-|–]\s", title)]
    return next((part for part in parts if part), None) or region_in_name(name)


def _old_site_page(reader: _Reader, name: str) -> Page:
    where = next((found for link in reader.links if (found := _OLD_PAGE.search(link)) and "download" in link), None)
    where = where or _OLD_PAGE.search(name)
    table = next(table for table in reader.tables if "chart-table" in table.css.split())
    columns: dict[str, list] = {"rank": [], "title": [], "artist": [], "streams": [], "url": []}
    for row in table.rows:
        cells = {css: cell for cell in row for css in cell.css.split()}
        if "chart-table-position" not in cells or not cells["chart-table-position"].text.isdigit():
            continue
        for css in ("chart-table-track", "chart-table-streams", "chart-table-image"):
            if css not in cells:
                raise InputError(f"{name}: cell {css!r} is missing in a row of this chart page; save the page again")
        track = cells["chart-table-track"]
        columns["rank"].append(cells["chart-table-position"].text)
        columns["title"].append(track.parts.get("strong", "").strip())
        columns["artist"].append(re.sub(r"^by\s+", "", track.parts.get("span", "").strip()))
        columns["streams"].append(cells["chart-table-streams"].text)
        columns["url"].append(next(iter(cells["chart-table-image"].links), ""))
    page = Page("saved chart page", "chart", columns)
    if where is None:
        return page
    page.region = region_code(where[1])
    page.frequency = "D" if where[2] == "daily" else "W"
    page.date = Date.fromisoformat(where[4] or where[3])
    if page.frequency == "W":
        page.date_means = "week-end"
        page.date -= timedelta(days=1 if where[4] else 0)
    return page
