"""A table's header in; what each of its columns is, and the format that they make, out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date as Date
from datetime import timedelta
from pathlib import Path

from data_prep.chart_formats.cells import DATE
from data_prep.chart_formats.coded import NotAChartError, Options
from data_prep.chart_formats.periods import FRIDAY
from data_prep.chart_formats.sources import Source
from data_prep.regions import region_in_name
from mp3model.files import InputError

_ROLE_NAMES = {
    "rank": "position rank pos chartposition",
    "title": "trackname title song songname track tracktitle songtitle",
    "artist": "artist artistnames artists artistname performer",
    "streams": "streams streamcount quantity units plays netquantity",
    "id": "trackid songid spotifyid spotifytrackid id",
    "url": "url uri trackuri trackurl spotifyuri spotifyurl link",
    "end": "enddate weekend weekending periodend",
    "start": "weekstart startdate periodstart",
    "date": "date chartdate reportdate salesdate salesday streamdate reportingdate activitydate week",
    "year": "year",
    "month": "month",
    "day": "day",
    "region": "region country territory market countrycode countryname territorycode storefront countryofsale",
    "chart": "chart",
    "isrc": "isrc isrccode",
    "release": "releasedate albumreleasedate",
}
_ROLES = {name: role for role, names in _ROLE_NAMES.items() for name in names.split()}
AUDIO_DESCRIPTORS = [
    "danceability",
    "energy",
    "key",
    "loudness",
    "mode",
    "speechiness",
    "acousticness",
    "instrumentalness",
    "liveness",
    "valence",
    "tempo",
    "duration_ms",
    "time_signature",
    "explicit",
]
# The headers a damaged one is compared with, to name the column it lacks.
_KNOWN_HEADERS = {
    "spotifycharts.com CSV": "Position,Track Name,Artist,Streams,URL",
    "charts.spotify.com CSV": "rank,uri,artist_names,track_name,source,peak_rank,previous_rank,weeks_on_chart,streams",
    "chart table": "Position,Track Name,Artist,Streams,URL,Date,Region",
    "full chart table": "title,rank,date,artist,url,region,chart,trend,streams",
    "country table": "Song,Artist,Date,Song ID,Streams,Rank",
    "long table": "region,date,track_id,rank,streams",
    "distributor or label export": "date,isrc,territory,quantity",
}
KWORB_CSV_HEADER = [
    "date",
    "pos",
    "p+",
    "artist-title",
    "days",
    "pk",
    "x",
    "streams",
    "streams+",
    "7day",
    "7day+",
    "total",
]
_DATE_IN_NAME = re.compile(r"(?<!\d)(\d{4}-\d{2}-\d{2})(?:--(\d{4}-\d{2}-\d{2}))?(?!\d)")


@dataclass
class Plan:
    """How the columns of one file are read.

    Attributes:
        header: its columns.
        format, kind: as in `SourceRows`.
        roles: role (`rank, title, artist, streams, …`) → column; `credit` is `artist - title` in one.
        descriptors: columns with audio descriptors.
        frequency, date_means: as in `SourceRows`, None where nothing has told yet.
        fixed_region, fixed_date: of all rows, where no column gives them.
    """

    source: Source
    header: list[str]
    format: str
    kind: str = "chart"
    roles: dict[str, str] = field(default_factory=dict)
    descriptors: list[str] = field(default_factory=list)
    frequency: str | None = None
    date_means: str = "day"
    fixed_region: str | None = None
    fixed_date: Date | None = None

    def place(self, options: Options) -> None:
        """Fills in date, region and frequency that no column gives, from the file's name.

        Raises:
            InputError: the name does not give them either.
        """
        name = self.source.name
        dated = {"date", "end", "start"} & self.roles.keys() or {"year", "month", "day"} <= self.roles.keys()
        span = _DATE_IN_NAME.search(Path(name).name)
        if self.frequency is None:
            told = re.search(r"daily|weekly", Path(name).name, re.IGNORECASE)
            if told:
                self.frequency = "D" if told[0].lower() == "daily" else "W"
                if self.frequency == "W" and self.date_means == "day":
                    self.date_means = "week-end"
        if not dated and self.fixed_date is None:
            if span is None:
                raise InputError(f"{name}: neither a column nor the file's name gives the date; name it as 2020-01-31")
            self.fixed_date = _named_day(span[1], name)
            if span[2]:
                self.fixed_date = _week_of_span(span[1], span[2], name)
                self.frequency, self.date_means = "W", "week-end"
        if "region" not in self.roles and self.fixed_region is None:
            self.fixed_region = region_in_name(name) or options.region
            if self.fixed_region is None:
                raise InputError(
                    f"{name}: neither a column nor the file's name gives one region; give --region CODE, or name the "
                    "file as regional-us-weekly-…"
                )


def plan_for(source: Source, header: Sequence[str], options: Options) -> Plan:
    """Roles of a header's columns, and the format they make.

    Raises:
        NotAChartError: the columns are nothing this command reads.
        InputError: they are almost; names the one that is missing.
    """
    names = list(header)
    roles: dict[str, str] = {}
    for name in names:
        role = _ROLES.get(_plain(name))
        if role is not None and role not in roles:
            roles[role] = name
    asked = {role: column for role, column in options.columns.items() if column in names}
    own_export = bool(options.columns) and len(asked) == len(options.columns)
    if own_export:
        roles |= asked
    has = roles.keys().__contains__
    descriptors = [name for name in names if name.casefold() in AUDIO_DESCRIPTORS]
    dated = has("date") or has("end") or has("start") or (has("year") and has("month") and has("day"))
    named = has("id") or has("url") or (has("title") and has("artist"))
    plain = {_plain(name) for name in names}
    if has("rank") and has("streams") and named:
        plan = Plan(source, names, "chart table")
        plan.roles, plan.descriptors = roles, descriptors
        _name_chart(plan, plain, dated)
        return plan
    if has("streams") and has("date") and has("region") and (has("isrc") or (own_export and named)) and not has("rank"):
        plan = Plan(source, names, "distributor or label export", kind="export")
        plan.roles = roles
        return plan
    chart_like = has("rank") or has("streams") or has("isrc") or (has("chart") and has("date"))
    if (has("id") or has("url")) and not chart_like | (dated and has("region")):
        return _track_plan(source, names, roles)
    if has("id") and has("isrc") and not (has("rank") or has("streams") or dated):
        return _track_plan(source, names, roles)
    raise _missing_column(source, names)


def _plain(name: str) -> str:
    """A column's name without case, spaces and punctuation."""
    return re.sub(r"[\W_]+", "", name).casefold()


def _name_chart(plan: Plan, plain: set[str], dated: bool) -> None:
    roles = plan.roles
    if {"trend", "chart"} <= plain and "region" in roles and dated:
        plan.format, plan.frequency = "full chart table", "D"
    elif "weeksonchart" in plain or "daysonchart" in plain:
        plan.format = "charts.spotify.com CSV"
        plan.frequency = "W" if "weeksonchart" in plain else "D"
        plan.date_means = "week-end" if plan.frequency == "W" else "day"
    elif {"song", "songid", "date"} <= plain and "url" not in roles:
        plan.format, plan.frequency, plan.date_means = "country table", "W", "week-start"
    elif not dated:
        plan.format = "spotifycharts.com CSV"
    if "start" in roles and not {"date", "end"} & roles.keys():
        plan.frequency, plan.date_means = "W", "week-start"


def _track_plan(source: Source, names: list[str], roles: dict[str, str]) -> Plan:
    plan = Plan(source, names, "track table", kind="tracks")
    plan.roles = dict(roles)
    if "title" not in plan.roles and "name" in names:
        plan.roles["title"] = "name"
    taken = {*plan.roles.values()}
    plan.descriptors = [name for name in names if name not in taken]
    useful = {"title", "artist", "isrc", "release"} & plan.roles.keys()
    if not useful and not any(name.casefold() in AUDIO_DESCRIPTORS for name in names):
        raise _missing_column(source, names)
    return plan


def _missing_column(source: Source, names: list[str]) -> InputError:
    """The error for a header that is no format: the nearest format's first missing column, or "no chart"."""
    plain = {_plain(name) for name in names}

    def lacks(wanted: str) -> list[str]:
        return [name for name in wanted.split(",") if _plain(name) not in plain]

    nearest = min(
        _KNOWN_HEADERS, key=lambda form: len(lacks(_KNOWN_HEADERS[form])) / (_KNOWN_HEADERS[form].count(",") + 1)
    )
    missing = lacks(_KNOWN_HEADERS[nearest])
    shown = ", ".join(names[:20])
    if len(missing) * 2 > _KNOWN_HEADERS[nearest].count(",") + 1:
        return NotAChartError(
            f"{source.name}: no chart format has the columns {shown}; give a chart export or --columns"
        )
    return InputError(
        f"{source.name}: column {missing[0]!r} is missing for a {nearest} ({_KNOWN_HEADERS[nearest]}); "
        f"it has {shown}: rename or add the column"
    )


def _named_day(text: str, name: str) -> Date:
    try:
        return Date.fromisoformat(text)
    except ValueError as error:
        raise InputError(f"{name}: {text} in the file's name is no day; correct the name") from error


def _week_of_span(first: str, second: str, name: str) -> Date:
    start, after = _named_day(first, name), _named_day(second, name)
    if (after - start).days != 7 or start.weekday() != FRIDAY:
        raise InputError(
            f"{name}: {first}--{second} is no chart week, which runs from a Friday to the next Friday; correct the name"
        )
    return after - timedelta(days=1)


def is_kworb_row(cells: Sequence[str]) -> bool:
    """Whether cells are a row of a kworb CSV, which has no header."""
    return (
        len(cells) == len(KWORB_CSV_HEADER)
        and DATE.match(cells[0]) is not None
        and cells[1].isdigit()
        and re.fullmatch(r"=|NEW|RE|[+-]\d+", cells[2]) is not None
    )
