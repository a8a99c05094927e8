"""Track texts in, comparable values out: release dates to the day, month or year, keys for whoever is credited."""

from __future__ import annotations

import re
import unicodedata

import numpy as np
import pandas as pd

from mp3model.tables.schema import DATE_UNIT, EARLIEST_DATE, LATEST_DATE
from mp3model.tables.titles import parse_title

_DATE = r"^\s*(\d{4})(?:-(\d{2}))?(?:-(\d{2}))?(?:[T ].*)?\s*$"
_FURTHER_ARTISTS = re.compile(r"[,;]|\s(?:feat|ft|featuring)\b\.?", re.IGNORECASE)
# Without one of these a title names no guest, and need not be taken apart.
_MAY_NAME_GUESTS = re.compile(r"[(\[（【{]|\s[-–—‐]|\b(?:feat|ft|featuring)\b", re.IGNORECASE)


def release_window(text: pd.Series) -> pd.DataFrame:
    """First and last day on which a track can have appeared.

    Args:
        text: `YYYY`, `YYYY-MM` or `YYYY-MM-DD` (a time of day after it is ignored), missing where unknown.

    Returns:
        Frame with the index of `text`: `earliest` and `latest` (datetime64[s]), the same day where the date is full;
        both missing where the text is missing, is no date, or lies outside 1900 to 2099.
    """
    parts = text.astype("string").str.extract(_DATE).astype("string")
    year, month, day = parts[0], parts[1], parts[2]
    first = year + "-" + month.fillna("01") + "-" + day.fillna("01")
    earliest = pd.to_datetime(first, format="%Y-%m-%d", errors="coerce").astype(DATE_UNIT)
    earliest = earliest.where((earliest >= EARLIEST_DATE) & (earliest < LATEST_DATE))
    latest = earliest.where(day.notna(), earliest + pd.offsets.MonthEnd(0))
    latest = latest.where(month.notna(), earliest + pd.offsets.YearEnd(0))
    return pd.DataFrame({"earliest": earliest, "latest": latest.astype(DATE_UNIT)}, index=text.index)


def artist_key(name: str) -> str:
    """The first artist of a credit, without case, accents, spaces and punctuation.

    A name that is nothing but punctuation keeps it.
    """
    main = _FURTHER_ARTISTS.split(name)[0] or name
    plain = "".join(c for c in unicodedata.normalize("NFKD", main).casefold() if not unicodedata.combining(c))
    return re.sub(r"[\W_]+", "", plain) or plain.strip()


def artist_keys(tracks: pd.DataFrame) -> pd.Series:
    """Artist key of each track, index of `tracks`; a track without artist is its song's own (`song:` + song_id)."""
    artists = tracks["artist"]
    keys = artists.map({name: artist_key(name) for name in artists.dropna().unique()})
    return keys.where(keys.notna() & (keys != ""), "song:" + tracks["song_id"])


def guest_keys(tracks: pd.DataFrame) -> pd.Series:
    """Artist keys of whom each track credits beside its main artist: tuples, index of `tracks`.

    They are the further names of the credit, in its order, then those that the title names as guests, by name.

    Args:
        tracks: `artist` and `title`, either of them missing or not.
    """
    texts = pd.DataFrame({name: tracks[name].astype(object) for name in ("artist", "title")})
    texts = texts.where(texts.notna(), "")
    found = {pair: _guests(*pair) for pair in set(texts.itertuples(index=False, name=None))}
    keys = np.empty(len(texts), dtype=object)
    keys[:] = [found[pair] for pair in texts.itertuples(index=False, name=None)]
    return pd.Series(keys, index=tracks.index)


def _guests(artist: str, title: str) -> tuple[str, ...]:
    main = artist_key(artist)
    named = [artist_key(name) for name in _FURTHER_ARTISTS.split(artist)[1:]]
    if _MAY_NAME_GUESTS.search(title):
        named += sorted(parse_title(title).guests)
    # Each once, in order.
    return tuple(key for key in dict.fromkeys(named) if key not in ("", main))
