"""ISRC, title and artist of a track in; a store's preview of it out, matched with care and within the store's limits.

A store is asked by ISRC where it can be, then by title and artist. A candidate found by text counts only if its title
is the same in plain form, of the same kind of version (see `data_prep.versions`), and its main artist is the track's:
a wrong preview does more harm than none. Addresses of previews are signed and expire, so none is ever written down or
shown; one that has expired is asked for again.
"""

from __future__ import annotations

import email.utils
import os
import random
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mp3model.files import InputError

if TYPE_CHECKING:
    import httpx

LARGEST_BYTES = 32 << 20
# Links that a track's preview is asked for, before it counts as failed: a link may expire or lead to no sound.
LINKS = 3
_AUDIO_TYPES = ("audio/", "application/octet-stream", "binary/octet-stream", "video/mp4", "application/mp4")
_DEEZER_TRY_AGAIN = (4, 700)  # quota exceeded, service busy; both come with status 200


@dataclass(frozen=True)
class Limits:
    """How a store is called.

    Attributes:
        calls: at most so many requests, downloads and redirects included, ...
        seconds: ... begin in any stretch of so many seconds.
        attempts: tries of one request.
        first_wait: seconds before the second try, doubled with each one after, less up to a half at random.
        longest_wait: a store that asks for more seconds than this ends the run, to be gone on with later.
        timeout: seconds without a byte before a try counts as failed.
    """

    calls: int
    seconds: float
    attempts: int = 6
    first_wait: float = 0.5
    longest_wait: float = 300.0
    timeout: float = 30.0


@dataclass(frozen=True)
class Wanted:
    """A track whose preview is wanted; what is unknown is None."""

    track_id: str
    isrc: str | None
    title: str | None
    artist: str | None


@dataclass(frozen=True)
class Found:
    """A store's preview of a track.

    Attributes:
        store_id: the store's own id of the track.
        url: where the preview is now; expires, and is never stored.
        title: as the store has it.
        artist: as the store has it.
        seconds: length of the whole track, where the store says it.
        how: `isrc` or `title and artist`.
    """

    store_id: str
    url: str
    title: str
    artist: str
    seconds: float | None
    how: str


class NoPreviewError(Exception):
    """The store has no preview of the track that could be taken; the message is the reason."""


class StoreError(Exception):
    """The store could not be asked to an end, or gave nothing usable; a later run tries again."""


class _Again(Exception):
    """A try failed in a way that another may not; `after` seconds if the store said so."""

    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


class _Stale(Exception):
    """A link leads nowhere (any more)."""


class RollingWindow:
    """Lets no more than `calls` requests begin in any `seconds`, as counted where they arrive.

    A request is held to have arrived when it was answered, the latest that it can have been. The time of the last one
    is the date of the file `note`, so that a run that follows another at once does not exceed the limit with it.
    """

    def __init__(self, calls: int, seconds: float, note: Path) -> None:
        self.seconds = seconds
        self._note = note
        self._answered: deque[float] = deque(maxlen=calls)
        age = time.time() - note.stat().st_mtime if note.exists() else seconds
        self._not_before = time.monotonic() + min(max(seconds - age, 0.0), seconds)

    def enter(self) -> None:
        """Waits until a request may begin."""
        full = len(self._answered) == self._answered.maxlen
        free = self._answered[0] + self.seconds if full else self._not_before
        time.sleep(max(0.0, max(free, self._not_before) - time.monotonic()))
        self._answered.append(time.monotonic())
        self._touch()

    def leave(self) -> None:
        """Notes that the latest request was answered, or given up."""
        if self._answered:
            self._answered[-1] = time.monotonic()
            self._touch()

    def _touch(self) -> None:
        self._note.touch()
        os.utime(self._note)


class Store:
    """Asks one store; see `deezer` and `apple`.

    Args:
        name: of the store, for messages.
        limits: how it may be called.
        base_url: where it answers.
        lookups: ask by ISRC and by text, in this order; each gives candidates, `how` filled in.
        note: file that keeps the time of the last request.
    """

    def __init__(
        self, name: str, limits: Limits, base_url: str, lookups: tuple[Callable[..., Iterator[Found]], ...], note: Path
    ) -> None:
        import httpx

        self.name, self.limits = name, limits
        self._lookups = lookups
        self._secure = base_url.startswith("https://")
        window = RollingWindow(limits.calls, limits.seconds, note)
        self._window = window
        self._client = httpx.Client(
            base_url=base_url,
            follow_redirects=True,
            max_redirects=5,
            timeout=limits.timeout,
            headers={"User-Agent": "mp3model"},
            event_hooks={"request": [lambda request: window.enter()], "response": [lambda response: window.leave()]},
        )

    def close(self) -> None:
        """Ends the connections."""
        self._client.close()

    def find(self, wanted: Wanted) -> Found:
        """The store's preview of a track.

        Raises:
            NoPreviewError: there is none that is surely the track's.
            StoreError: the store did not answer.
        """
        reason = "has neither an ISRC nor a title and artist to ask by"
        for lookup in self._lookups:
            for found in lookup(self.json, wanted):
                if found.url:
                    return found
                reason = "is known there without a preview"
            if (wanted.isrc or (wanted.title and wanted.artist)) and "without" not in reason:
                reason = "is not found there"
        raise NoPreviewError(reason)

    def fetch(self, wanted: Wanted, found: Found, check: Callable[[bytes, Found], str | None]) -> tuple[Found, bytes]:
        """Downloads a preview.

        Args:
            wanted: asked for again where the link has expired or leads to something else.
            found: from `find`.
            check: what is wrong with these bytes, None for nothing.

        Returns:
            What was fetched in the end, and its bytes.

        Raises:
            StoreError: no link led to a whole preview.
        """
        reason = ""
        for attempt in range(LINKS):
            if attempt:
                found = self.find(wanted)
            try:
                content = self._retried(partial(self._download, found.url))
            except _Stale as stale:
                reason = str(stale)
                continue
            reason = check(content, found) or ""
            if not reason:
                return found, content
        raise StoreError(reason)

    def json(self, path: str, **parameters: str) -> Mapping[str, Any] | None:
        """The store's answer; None where it knows nothing of the kind.

        Raises:
            StoreError: no try was answered.
        """
        return self._retried(partial(self._json, path, parameters))

    def _retried(self, call: Callable[[], Any]) -> Any:
        from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt

        def wait(state: RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            after = error.after if isinstance(error, _Again) else None
            backoff = self.limits.first_wait * 2 ** (state.attempt_number - 1) * random.uniform(0.5, 1.0)
            return min(backoff, self.limits.longest_wait) if after is None else after

        try:
            return Retrying(
                stop=stop_after_attempt(self.limits.attempts),
                wait=wait,
                retry=retry_if_exception_type(_Again),
                reraise=True,
            )(call)
        except _Again as error:
            raise StoreError(f"{error} ({self.limits.attempts} tries)") from error

    def _json(self, path: str, parameters: dict[str, str]) -> Mapping[str, Any] | None:
        with self._asked(), self._client.stream("GET", path, params=parameters) as response:
            if response.status_code in (400, 404):
                return None
            # Apple refuses with 403 where others say 429.
            self._refuse_failures(response)
            try:
                response.read()
                answer = response.json()
            except ValueError as error:
                raise _Again("answered with something else than JSON") from error
        if not isinstance(answer, dict):
            raise _Again("answered with a list where an object was expected")
        error_code = answer["error"].get("code") if isinstance(answer.get("error"), dict) else None
        if error_code in _DEEZER_TRY_AGAIN:
            raise _Again("quota exceeded or busy")
        return None if "error" in answer else answer

    def _download(self, url: str) -> bytes:
        if self._secure and not url.startswith("https://"):
            raise _Stale("the link to the preview is no https link")
        with self._asked(), self._client.stream("GET", url) as response:
            if response.status_code in (401, 403, 404, 410):
                raise _Stale(f"the link to the preview was refused with status {response.status_code}")
            self._refuse_failures(response)
            kind = response.headers.get("content-type", "").partition(";")[0].strip().casefold()
            if kind and not kind.startswith(_AUDIO_TYPES):
                raise _Stale(f"the link to the preview leads to {kind}")
            content = bytearray()
            for block in response.iter_bytes(1 << 16):
                content += block
                if len(content) > LARGEST_BYTES:
                    raise _Stale(f"the preview is larger than {LARGEST_BYTES >> 20} MB")
        return bytes(content)

    @contextmanager
    def _asked(self) -> Iterator[None]:
        import httpx

        try:
            yield
        except (httpx.TransportError, httpx.TooManyRedirects, httpx.DecodingError) as error:
            # The text of such an error may hold the link.
            raise _Again(f"{type(error).__name__} while it was asked") from None
        except (httpx.InvalidURL, httpx.UnsupportedProtocol):
            raise _Stale("the link to the preview is none") from None
        finally:
            self._window.leave()

    def _refuse_failures(self, response: httpx.Response) -> None:
        status = response.status_code
        if status == 200:
            return
        after = seconds_to_wait(response.headers.get("retry-after"))
        if after is not None and after > self.limits.longest_wait:
            raise InputError(
                f"{self.name} asks to wait {after:.0f} s; run the same command again then: it goes on where it was"
            )
        raise _Again(f"answered with status {status}", after)


def seconds_to_wait(retry_after: str | None) -> float | None:
    """Seconds that a Retry-After header names in either form (RFC 9110, section 10.2.3); None without one."""
    if retry_after is None:
        return None
    if retry_after.strip().isdigit():
        return float(retry_after)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


Ask = Callable[..., Mapping[str, Any] | None]


def deezer(limits: Limits, base_url: str, note: Path) -> Store:
    """Deezer's catalogue: by ISRC, then by title and artist."""
    return Store("deezer", limits, base_url, (_deezer_by_isrc, _deezer_by_text), note)


def apple(limits: Limits, base_url: str, note: Path, country: str = "US") -> Store:
    """Apple's search, which documents no lookup by ISRC: by title and artist only, in the shop of one country."""

    def by_text(ask: Ask, wanted: Wanted) -> Iterator[Found]:
        return _apple_by_text(ask, wanted, country)

    return Store("apple", limits, base_url, (by_text,), note)


def _deezer_by_isrc(ask: Ask, wanted: Wanted) -> Iterator[Found]:
    if not wanted.isrc:
        return
    answer = ask(f"/track/isrc:{wanted.isrc}")
    # Some answers are of another track: an ISRC that is there has to be the one asked for.
    if answer is not None and plain_isrc(answer.get("isrc")) in (None, wanted.isrc) and answer.get("id"):
        yield replace(_deezer_found(answer), how="isrc")


def _deezer_by_text(ask: Ask, wanted: Wanted) -> Iterator[Found]:
    if not (wanted.title and wanted.artist):
        return
    title, artist = (re.sub(r'["\s]+', " ", text).strip() for text in (wanted.title, first_artist(wanted.artist)))
    answer = ask("/search", q=f'artist:"{artist}" track:"{title}"', limit="25") or {}
    for item in _items(answer, "data"):
        found = _deezer_found(item)
        if plain_isrc(item.get("isrc")) in (None, wanted.isrc) or not wanted.isrc:
            yield from _if_same(wanted, found)


def _deezer_found(item: Mapping[str, Any]) -> Found:
    artist = item.get("artist")
    name = artist.get("name") if isinstance(artist, dict) else None
    return Found(
        store_id=str(item.get("id") or ""),
        url=str(item.get("preview") or ""),
        title=str(item.get("title") or ""),
        artist=str(name or ""),
        seconds=_seconds(item.get("duration")),
        how="title and artist",
    )


def _apple_by_text(ask: Ask, wanted: Wanted, country: str) -> Iterator[Found]:
    if not (wanted.title and wanted.artist):
        return
    term = f"{first_artist(wanted.artist)} {wanted.title}"
    answer = ask("/search", term=term, media="music", entity="song", limit="25", country=country) or {}
    for item in _items(answer, "results"):
        milliseconds = _seconds(item.get("trackTimeMillis"))
        found = Found(
            store_id=str(item.get("trackId") or ""),
            url=str(item.get("previewUrl") or ""),
            title=str(item.get("trackName") or ""),
            artist=str(item.get("artistName") or ""),
            seconds=None if milliseconds is None else milliseconds / 1000,
            how="title and artist",
        )
        yield from _if_same(wanted, found)


def _items(answer: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    items = answer.get(name)
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def _seconds(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and value > 0 else None


def _if_same(wanted: Wanted, found: Found) -> Iterator[Found]:
    if found.store_id and same_recording(str(wanted.title), str(wanted.artist), found.title, found.artist):
        yield found


def same_recording(title: str, artist: str, other_title: str, other_artist: str) -> bool:
    """Whether two credits name one recording: same plain title, same kind of version, same main artist."""
    from mp3model.tables.titles import parse_title
    from mp3model.tables.tracks import artist_key

    one, other = parse_title(title), parse_title(other_title)
    same_title = (one.name, one.kind, one.detail) == (other.name, other.kind, other.detail)
    keys = artist_key(artist), artist_key(other_artist)
    # "A & B" is one name in one place and two in another; the plain keys of whole credits settle those.
    return bool(one.name) and same_title and bool(keys[0]) and keys[0] == keys[1]


def first_artist(credit: str) -> str:
    """The first name of a credit, as a search wants it."""
    return re.split(r"[,;]|\s(?:feat|ft|featuring)\b", credit, maxsplit=1, flags=re.IGNORECASE)[0].strip() or credit


def plain_isrc(text: Any) -> str | None:
    """An ISRC without hyphens and spaces, upper case; None for anything else (ISO 3901)."""
    plain = re.sub(r"[\s\-.]", "", text).upper() if isinstance(text, str) else ""
    return plain if re.fullmatch(r"[A-Z]{2}[A-Z0-9]{3}[0-9]{7}", plain) else None
