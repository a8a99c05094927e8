"""Cells that name a track (Spotify ids and links, ISRCs, title and artist) in; one track id out, or None."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from typing import Any

_TRACK_ID = re.compile(r"(?:^|track[:/])([0-9A-Za-z]{22})(?:$|[?/#\s])")
_PLAIN_ID = re.compile(r"^\S{1,80}$")
_ISRC = re.compile(r"^[A-Z]{2}[A-Z0-9]{3}\d{7}$")


def any_id(text: str) -> str | None:
    """A Spotify id, also within a link; else the text itself where it is one word of at most 80 characters."""
    return site_id(text) or (text.strip() if _PLAIN_ID.match(text.strip()) else None)


def site_id(text: str) -> str | None:
    """The 22 characters of a Spotify id, alone or in a link or URI."""
    found = _TRACK_ID.search(text.strip() + " ")
    return found[1] if found else None


def isrc_id(text: str) -> str | None:
    """`isrc:` and the code, for recordings that only that names."""
    isrc = clean_isrc(text)
    return None if isrc is None else f"isrc:{isrc}"


def clean_isrc(text: Any) -> str | None:
    """An ISRC without hyphens and spaces, upper case; None for anything else (ISO 3901)."""
    plain = re.sub(r"[\s-]", "", str(text or "")).upper()
    return plain if _ISRC.match(plain) else None


def hashed_id(title: str, artist: str) -> str:
    """Stands in for a track id where a file gives title and artist only: `ta_` and 19 hex digits, 22 characters.

    Title and first artist, lower case, without what is no ASCII: the way in which most `ta_` ids in use were made.
    """
    parts = []
    for text in (title, artist.split(",")[0]):
        plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower().strip()
        # A title in another script would vanish, and all of them would share one id.
        parts.append(plain if re.search(r"\w", plain) else text.strip().lower())
    return "ta_" + hashlib.md5("|".join(parts).encode(), usedforsecurity=False).hexdigest()[:19]
