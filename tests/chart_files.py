"""A made-up chart in, the text of a file in one of the formats in which charts come out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_prep.chart_formats.coded import Codes, Options, SourceRows
from data_prep.chart_formats.reading import read_source
from data_prep.chart_formats.sources import find_sources

NOTE = ',,,"Note that these figures are generated using a formula that protects against any artificial inflation."\n'


def track_id(number: int) -> str:
    return f"{number:022d}"


def rows(size: int = 3, first: int = 0, top: int = 9000) -> list[tuple[int, str, str, int, str]]:
    """(rank, title, artist, streams, track id), streams falling by 100 a rank."""
    return [
        (rank, f"Song {first + rank}", f"Artist {first + rank}", top - 100 * rank, track_id(first + rank))
        for rank in range(1, size + 1)
    ]


def old_csv(chart: list[tuple], note: bool = True) -> str:
    lines = [
        f'{rank},"{title}","{artist}",{streams},https://open.spotify.com/track/{track}\n'
        for rank, title, artist, streams, track in chart
    ]
    return (NOTE if note else "") + 'Position,"Track Name",Artist,Streams,URL\n' + "".join(lines)


def new_csv(chart: list[tuple], period: str = "weeks") -> str:
    head = f"rank,uri,artist_names,track_name,source,peak_rank,previous_rank,{period}_on_chart,streams\n"
    lines = [
        f'{rank},"spotify:track:{track}","{artist}, Guest","{title}","Label, Inc.",1,-1,4,"{streams}"\n'
        for rank, title, artist, streams, track in chart
    ]
    return "\ufeff" + head + "".join(lines)


def long_csv(charts: dict[tuple[str, str], list[tuple]]) -> str:
    """(region, date) → chart."""
    lines = [
        f"{region},{date},{track},{rank},{streams}\n"
        for (region, date), chart in charts.items()
        for rank, _, _, streams, track in chart
    ]
    return "region,date,track_id,rank,streams\n" + "".join(lines)


def read_one(path: Path, **options: Any) -> tuple[list[SourceRows], list[tuple[str, str, str, int, float]]]:
    """The sources of a path, and all their rows as (track id, region, date, rank, streams) in order."""
    from data_prep.chart_formats.coded import EPOCH

    tracks, regions = Codes(), Codes()
    sources = [s for file in find_sources([path]) for s in read_source(file, tracks, regions, Options(**options))]
    found = [
        (tracks.texts[track], regions.texts[region], str(EPOCH + int(day)), int(rank), float(streams))
        for source in sources
        for block in source.blocks
        for track, region, day, rank, streams in zip(*block, strict=True)
    ]
    return sources, found
