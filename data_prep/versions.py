"""Tracks with title, artist and ISRC in; the song each belongs to and the kind of version it is out.

    python -m data_prep.versions TRACKS.parquet --out songs.parquet [--merge live remix] [--pairs 150 --seed 1]

Two tracks are one song when they have the same ISRC, or the same main artist and the same title once both are put in
plain form, or the same plain title and main artists that credit each other, or, for one artist, titles that differ by
a spelling mistake. Plain form leaves out guests, edition marks (remaster, radio edit, explicit, bonus track), language
marks, the film a song is from, case, accents of European scripts and punctuation; other scripts keep every letter.
Artists who cover a song never share it with its first artist, whatever is merged.

Kinds, told by marks in the title in several languages:
  studio         everything without a mark below
  live           live, ao vivo, en vivo, unplugged, recorded sessions
  remix          remixes and the song in another arrangement: acoustic, extended, salsa version, a second recording
  cover          marked as a cover, a tribute, or a talent show's performance
  instrumental   instrumental, karaoke
  sped-up        sped up, nightcore, slowed

Only the studio versions of a song are merged unless `--merge` names further kinds: a remix or a live recording has a
debut of its own, often years later, and on charts it is counted apart. To keep everything derived from one work on
one side of a split, merge all kinds. A version that is not merged shares a song with its own re-releases only.

`--pairs N` also writes N random pairs of tracks of one song beside OUT, for judging by hand.
"""

from __future__ import annotations

import argparse
import itertools
import re
import sys
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mp3model.files import InputError, errors_in_one_line, written_whole

if TYPE_CHECKING:
    import pandas as pd

# In order of precedence: a slowed remix is sped-up, a live remix is a remix.
KINDS = ("sped-up", "instrumental", "remix", "cover", "live", "studio")
DEFAULT_MERGE = ("studio",)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Letters that no Unicode decomposition takes apart.
_LETTERS = str.maketrans(
    {
        "ø": "o",
        "ł": "l",
        "đ": "d",
        "ð": "d",
        "ı": "i",
        "æ": "ae",
        "œ": "oe",
        "þ": "th",
        "ё": "е",
        "$": "s",
        "&": " and ",
    }
)
_ACCENTED_SCRIPTS = ("LATIN", "GREEK")
# Vowel points that writers leave out at will.
_OPTIONAL_MARKS = ("ARABIC", "HEBREW")

_BRACKETS = re.compile(r"[(\[（【{]([^()\[\]（）【】{}]*)[)\]）】}]")
_YEAR = re.compile(r"(?:19|20)\d\d")
_DASH = re.compile(r"\s+[-–—‐]+\s*|(?<=\w)[-–—]+\s+")
_OPEN_GUESTS = re.compile(r"[\s(\[（]+(?:feat|ft|featuring)\b[.:]?\s*(?P<names>.+)$", re.IGNORECASE)
_END_KIND = re.compile(
    r"^(?P<base>.*\w\W*)\s(?P<mark>(?:official )?remix|rmx|ao vivo|en vivo|en directo|instrumental|karaoke|nightcore"
    r"|sped up)(?P<more>\s*(?:[(\[].*)?)$",
    re.IGNORECASE,
)
_NAME_BREAK = re.compile(
    r",|;|&|\+|/|\bx\b|\bund\b|\band\b|\by\b|\be\b|\bet\b|\bog\b|\bvs\b|\bfeat\b|\bft\b", re.IGNORECASE
)

_GUESTS = re.compile(
    r"^(?:feat|ft|featuring|fet|with|w|con|mit|avec|med|met|com|participacao|participacion|prod|produced|vs|starring)\b"
    # "Part. Anitta" is a guest, "Part. II" is not.
    r"|^part (?!\d|[ivx]+\b|one\b|two\b)"
)
_MADE_BY = re.compile(r"^(?:prod|produced)\b")
_KIND_MARKS = {
    "sped-up": re.compile(
        r"\b(?:sped up|speed up|spedup|nightcore|daycore|slowed|chopped|screwed|acelerad[ao])\b"
        r"|\b(?:fast|slow) version\b|ускорен|замедлен"
    ),
    "instrumental": re.compile(
        r"\b(?:instrumentals?|instrumentale|karaoke|off vocal|inst|minus one|backing track)\b"
        r"|伴奏|カラオケ|インスト|노래방|караоке"
    ),
    "remix": re.compile(
        r"\b(?:remix|remixe[sd]|remixed|rmx|rework|reworked|refix|bootleg|mash ?up|megamix|vip mix|acoustic|acoustique"
        r"|ac[uo]stic[ao]|akustik|akustisch|akustisk|akustinen|akoestisch|stripped|a cappella|acappella|acapella|demo"
        r"|orchestral|symphonic|piano (?:version|ver|solo|mix)|re recorded|rerecorded|lo ?fi)\b"
        r"|^(?:extended|club|dub)$|リミックス|리믹스|ремикс|어쿠스틱|アコースティック"
    ),
    "cover": re.compile(
        r"\b(?:cover|covers|tribute to|originally performed|made famous|in the style of|operacion triunfo|the voice"
        r"|uit liefde voor muziek|sing meinen song|beste zangers|hver gang vi motes|sa mycket battre)\b"
        r"|\btoppen af poppen\b|커버|カバー|翻唱|кавер"
    ),
    "live": re.compile(
        r"^live$|^live (?:at|from|in|on|i|fra|uit|pa|version|session|sessions|performance|lounge|acoustic|aid|\d+)\b"
        r"|\blive (?:version|session|sessions|performance|at|from|lounge|\d{4})\b"
        r"|\b(?:ao vivo|en vivo|dal vivo|en directo|en direct|na zywo|uzivo|canli performans|unplugged|spotify singles"
        r"|recorded at|recorded live|livestream|tiny desk|in concert|en concierto|en concert|sessions?)\b"
        r"|ライブ|ライヴ|라이브|現場|现场|концерт|вживую"
    ),
}
_FILM = re.compile(
    r"^(?:from|music from|theme from|inspired by|inspirado en|dal film|aus dem film|tema de|original song from|из)\b"
    r"|soundtrack|\b(?:ost|banda sonora|de la pelicula|de la serie|film muzigi|theme song)\b"
    r"|主題曲|片尾曲|片頭曲|插曲|主题曲|電影|劇集"
)
_EDITION = re.compile(r"remaster|rimasteriz|remastret")
_EDITION_WORDS = _words(
    "radio edit single album original version ver versao versie versjon vers mix explicit clean censored uncensored "
    "dirty mono stereo main bonus track bonustrack spor deluxe edition digital the official video audio music lyric "
    "lyrics lp movie film tv size eurovision esc anniversary reissue song cut"
)
# Words that say something by themselves; `version`, a year or `the` do not.
_TELLING_WORDS = _words(
    "radio edit single album original explicit clean censored uncensored dirty mono stereo main bonus bonustrack "
    "deluxe official movie film tv eurovision video audio"
)
_LANGUAGES = _words(
    "english spanish french german italian portuguese dutch swedish norwegian danish finnish icelandic polish czech "
    "turkish greek russian ukrainian hebrew arabic hindi tamil telugu malayalam kannada punjabi bengali marathi urdu "
    "korean japanese chinese mandarin cantonese thai vietnamese indonesian malay tagalog filipino "
    "espanol espanola castellano ingles frances aleman italiano italiana portugues deutsch deutsche englisch englische "
    "francais anglais espagnol svenska engelsk engelska dansk norsk suomi turkce"
)
_LANGUAGE_CODES = _words("kr kor jp jpn cn chn eng esp")
_LANGUAGE_SCRIPTS = re.compile(
    r"^(?:國語?|粵語?|国语|粤语|中文|日本語|英語|한국어)版?$|^(?:중국어|일본어|영어)\s?(?:버전|ver)?$"
)
_VERSION_WORDS = _words("version ver versions versao versie versjon vers edit mix edition")
_SMALL_WORDS = _words("the a in en em auf of by feat")
# One artist has many of these, each another piece.
_UNTITLED = _words(
    "intro outro interlude interludio skit prelude preludio intermission epilogue prologue introduction freestyle "
    "untitled interlud introduccion prolog epilog"
)
_NOBODY = _words("variousartists variosartistas variosinterpretes unknownartist unknown verschiedeneinterpreten")
_PARTS = _words("part parte pt")
_ROMAN = {
    "i": "1",
    "ii": "2",
    "iii": "3",
    "iv": "4",
    "v": "5",
    "vi": "6",
    "vii": "7",
    "viii": "8",
    "ix": "9",
    "x": "10",
}
_ARTICLES = _words("the a an el la los las un una le les une il lo i o os as um uma der die das ein eine")
_VOWELS = frozenset("aeiouy")
# Shorter titles and words are too often real words one letter apart: "Bad Love" and "Mad Love", "Solo" and "Solos".
_SHORTEST_TITLE, _SHORTEST_WORD = 9, 5


@dataclass(frozen=True)
class Title:
    """A title in plain form.

    Attributes:
        words: of the title without its marks.
        kind: one of `KINDS`.
        detail: what tells this version from others of its kind (the remixer, the concert), without spaces.
        guests: artist keys of the featured names.
    """

    words: tuple[str, ...]
    kind: str = "studio"
    detail: str = ""
    guests: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        return "".join(self.words)


def plain_words(text: str) -> list[str]:
    """Words without case, punctuation and the accents of European scripts; every other letter stays."""
    letters = []
    for letter in unicodedata.normalize("NFKC", text).casefold().replace("'", "").replace("’", ""):
        if letter.isascii():
            letters.append(letter)
            continue
        name = unicodedata.name(letter, "")
        if name.startswith(_ACCENTED_SCRIPTS):
            letter = unicodedata.normalize("NFKD", letter)
            letters += [part for part in letter if not unicodedata.combining(part)]
        elif unicodedata.category(letter).startswith("M"):
            if not name.startswith(("COMBINING", *_OPTIONAL_MARKS)):
                letters.append(letter)
        else:
            letters.append(letter)
    spaced = "".join(letters).translate(_LETTERS)
    return "".join(c if c.isalnum() or unicodedata.category(c).startswith("M") else " " for c in spaced).split()


def parse_title(title: str) -> Title:
    """Takes a title apart into its name, the kind of version, and its guests."""
    text = unicodedata.normalize("NFKC", title)
    marks: list[str] = []

    def take(mark: str) -> bool:
        if _mark_class(mark) is not None:
            marks.append(mark)
            return True
        return False

    rest = _BRACKETS.sub(lambda found: " " if take(found[1]) else found[0], text)
    first, *segments = _DASH.split(rest)
    kept = [segment for segment in segments if not take(segment)]
    # "Home - 2019 - Remaster"; a year alone may be part of the name.
    if any(_mark_class(mark) == "edition" for mark in marks):
        kept = [segment for segment in kept if not _YEAR.fullmatch(segment.strip())]
    rest = " ".join([first, *kept])
    if found := _OPEN_GUESTS.search(rest):
        marks.append("feat " + found["names"])
        rest = rest[: found.start()]
    if found := _END_KIND.match(rest):
        marks.append(found["mark"])
        rest = found["base"] + found["more"]
    words = _numbered_parts(plain_words(rest))
    if not words:
        # "(Live)" or "?" alone is a name.
        return Title(tuple(plain_words(text)) or ("".join(text.casefold().split()),))
    return _with_marks(tuple(words), marks)


def _numbered_parts(words: list[str]) -> list[str]:
    """ "Part II" and "pt. 2" alike."""
    plain = ["pt" if word in _PARTS else word for word in words]
    return [_ROMAN.get(w, w) if before == "pt" else w for before, w in zip([None, *plain], plain, strict=False)]


def _with_marks(words: tuple[str, ...], marks: Sequence[str]) -> Title:
    found: dict[str, list[str]] = defaultdict(list)
    for mark in marks:
        found[str(_mark_class(mark))].append(mark)
    kind = next(kind for kind in KINDS if kind in found or kind == "studio")
    details = {_detail(mark, name) for name in KINDS for mark in found.get(name, [])} - {""}
    guests = {guest for mark in found.get("guests", []) for guest in _guest_keys(mark)}
    return Title(words, kind, " ".join(sorted(details)), frozenset(guests))


def _mark_class(mark: str) -> str | None:
    """What a bracket or a part after a dash says: a kind, `guests`, `edition`, or None for a part of the name."""
    words = plain_words(mark)
    plain = " ".join(words)
    if not words:
        return None
    for kind, pattern in _KIND_MARKS.items():
        if pattern.search(plain):
            return kind
    if len(words) > 1 and (_GUESTS.match(plain) or mark.lstrip().startswith("&")):
        return "guests"
    if _EDITION.search(plain) or _FILM.search(plain) or _is_edition(words) or _is_language(words):
        return "edition"
    # "Salsa Version", "Syn Cole Edit", "Versión Urbana": the song in another arrangement.
    arranged = len(words) > 1 and (
        words[-1] in _VERSION_WORDS - {"edition"} or words[0] in _VERSION_WORDS - {"edit", "mix"}
    )
    return "remix" if arranged or plain.endswith("版") else None


def _is_edition(words: list[str]) -> bool:
    years = [word for word in words if _YEAR.fullmatch(word)]
    known = all(word in _EDITION_WORDS or word in years for word in words)
    return known and (bool(_TELLING_WORDS & set(words)) or (bool(years) and len(words) > len(years)))


def _is_language(words: list[str]) -> bool:
    if _LANGUAGE_SCRIPTS.match("".join(words)):
        return True
    named = set(words) & _LANGUAGES
    version = set(words) & _VERSION_WORDS
    coded = set(words) & _LANGUAGE_CODES if version else set()
    return bool(named | coded) and not set(words) - named - coded - version - _SMALL_WORDS


_KIND_WORDS = {
    "sped-up": {"sped", "up", "speed", "spedup"},
    "instrumental": {"inst"},
    "remix": {"remix", "rmx", "remixed", "mix", "edit", "acustica", "acustico", "akustik", "acoustic"},
    "cover": {"cover"},
    "live": {"live", "ao", "en", "vivo"},
}
_SAME_WORDS = {"acustica": "acoustic", "acustico": "acoustic", "akustik": "acoustic", "acoustique": "acoustic"}


def _detail(mark: str, kind: str) -> str:
    """The words of a mark beyond those that every such mark has."""
    common = _VERSION_WORDS | _SMALL_WORDS | {"official"} | _KIND_WORDS.get(kind, set())
    words = [_SAME_WORDS.get(word, word) for word in plain_words(mark)]
    if kind == "remix":
        common = common - {"acoustic"}
    return "".join(word for word in words if word not in common)


def _guest_keys(mark: str) -> Iterable[str]:
    from mp3model.tables.tracks import artist_key

    if _MADE_BY.match(" ".join(plain_words(mark))):
        return []
    names = re.sub(r"^\W*\w+[./:]?\s*", "", mark, count=1)
    return [key for name in _NAME_BREAK.split(names) if (key := artist_key(name))]


def assign_songs(tracks: pd.DataFrame, merge: Sequence[str] = DEFAULT_MERGE) -> pd.DataFrame:
    """Finds the song and the kind of version of each track.

    Args:
        tracks: `track_id` (unique), `title` and `artist` (comma-joined, the main one first; either may be missing),
            and optionally `isrc`.
        merge: kinds that share the song of the studio version.

    Returns:
        `track_id, song_id, kind` in the order and with the index of `tracks`. The ids depend neither on that order nor
        on anything outside `tracks`. A track without title or artist, or by nobody in particular, is a song of its own
        unless an ISRC joins it to others.

    Raises:
        InputError: a column is missing, a track is there twice, or a kind is not known.
    """
    import pandas as pd

    _check(tracks, merge)
    pairs = [
        (title, artist) if isinstance(title, str) and isinstance(artist, str) else None
        for title, artist in zip(tracks["title"], tracks["artist"], strict=True)
    ]
    versions = {pair: _Version.of(*pair) for pair in sorted({pair for pair in pairs if pair is not None})}
    names = _names(versions, frozenset(merge))
    named = [names.get(pair) if pair else None for pair in pairs]
    own = [name or f"track:{track}" for name, track in zip(named, tracks["track_id"], strict=True)]
    same = _Joined()
    for one, other in itertools.chain(_credited_to_each_other(versions, names), _misspelt(versions, names)):
        same.join(one, other)
    if "isrc" in tracks:
        first: dict[str, str] = {}
        for name, isrc in zip(own, tracks["isrc"], strict=True):
            code = re.sub(r"[\W_]", "", isrc).upper() if isinstance(isrc, str) else ""
            if code:
                same.join(name, first.setdefault(code, name))
    kinds = [versions[pair].title.kind if pair else "studio" for pair in pairs]
    songs = [same.smallest(name) for name in own]
    return pd.DataFrame({"track_id": tracks["track_id"], "song_id": songs, "kind": kinds})


def _check(tracks: pd.DataFrame, merge: Sequence[str]) -> None:
    for column in ("track_id", "title", "artist"):
        if column not in tracks:
            present = ", ".join(map(str, tracks.columns))
            raise InputError(f"tracks have no column {column!r}; add it; present are {present or 'none'}")
    repeated = tracks["track_id"].duplicated().to_numpy()
    if repeated.any():
        row = int(repeated.argmax())
        raise InputError(f"row {row} repeats track_id {tracks['track_id'].iloc[row]!r}; keep one row for each track")
    for kind in merge:
        if kind not in KINDS:
            raise InputError(f"kind {kind!r} is not known; merge some of {', '.join(KINDS)}")


@dataclass(frozen=True)
class _Version:
    """A title by an artist: the title in plain form, the main artist's key, the keys of all who are credited."""

    title: Title
    artist: str
    others: frozenset[str]

    @classmethod
    def of(cls, title: str, artist: str) -> _Version:
        from mp3model.tables.tracks import artist_key

        parsed = parse_title(title)
        main = artist_key(artist)
        credited = {artist_key(name) for name in re.split(r"[,;]", artist)} - {""}
        return cls(parsed, main, (frozenset(credited) | parsed.guests) - {main})


def _names(versions: dict[tuple[str, str], _Version], merge: frozenset[str]) -> dict[tuple[str, str], str]:
    """A name for each version; versions of one name are one song. Those that nothing can be said about have none."""
    names = {}
    guests: dict[str, list[frozenset[str]]] = defaultdict(list)
    for pair, version in versions.items():
        title = version.title
        if not version.artist or version.artist in _NOBODY or title.name in _UNTITLED:
            continue
        names[pair] = f"{title.name}|{version.artist}"
        if title.kind != "studio" and title.kind not in merge:
            names[pair] += f"|{title.kind}" + (f" {title.detail}" if title.detail else "")
            if title.kind == "remix" and not title.detail:
                guests[names[pair]].append(version.others)
    # Nothing but its guests tells "Song (feat. A) - Remix" from "Song (feat. B) - Remix".
    for pair, name in names.items():
        sides = _sides(guests.get(name, []))
        if len(sides) > 1:
            with_guests = [side for side in sides if side & versions[pair].others]
            names[pair] = f"{name} {min(with_guests[0])}" if with_guests else name
    return names


def _sides(groups: list[frozenset[str]]) -> list[frozenset[str]]:
    """Unites sets that share a member."""
    sides: list[frozenset[str]] = []
    for group in groups:
        if group:
            touching = [side for side in sides if side & group]
            sides = [side for side in sides if not side & group] + [group.union(*touching)]
    return sides


def _credited_to_each_other(
    versions: dict[tuple[str, str], _Version], names: dict[tuple[str, str], str]
) -> Iterable[tuple[str, str]]:
    """One title by "A, B" and by "B, A"."""
    alike: dict[tuple[str, str, str], list[tuple[str, str]]] = defaultdict(list)
    for pair in names:
        title = versions[pair].title
        alike[title.name, title.kind, title.detail].append(pair)
    for group in alike.values():
        for one, other in itertools.combinations(group, 2):
            a, b = versions[one], versions[other]
            if a.artist != b.artist and a.artist in b.others and b.artist in a.others:
                yield names[one], names[other]


def _misspelt(
    versions: dict[tuple[str, str], _Version], names: dict[tuple[str, str], str]
) -> Iterable[tuple[str, str]]:
    """Titles of one artist that differ by a spelling mistake only."""
    from rapidfuzz.distance import OSA
    from rapidfuzz.process import cdist

    catalogues: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    words: dict[str, tuple[str, ...]] = {}
    for pair, name in names.items():
        version = versions[pair]
        if len(version.title.name) >= _SHORTEST_TITLE and len(version.title.words) > 1:
            catalogues[version.artist, name.split("|", 2)[2] if name.count("|") > 1 else ""][version.title.name] = name
            words[version.title.name] = version.title.words
    for catalogue in catalogues.values():
        titles = sorted(catalogue)
        # In stripes: an artist with 20,000 titles would take gigabytes at once.
        for start in range(0, len(titles), 1000):
            near = cdist(titles[start : start + 1000], titles, scorer=OSA.distance, score_cutoff=_FARTHEST) <= _FARTHEST
            for row, column in zip(*near.nonzero(), strict=True):
                one, other = titles[start + row], titles[column]
                if one < other and _same_but_for_spelling(words[one], words[other]):
                    yield catalogue[one], catalogue[other]


# A leading article.
_FARTHEST = 3


def _same_but_for_spelling(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    one, other = _without_article(one), _without_article(other)
    if one == other:
        return len(one) > 1
    if len(one) != len(other):
        return False
    different = [(a, b) for a, b in zip(one, other, strict=True) if a != b]
    return len(different) == 1 and _misspelt_word(*different[0])


def _without_article(words: tuple[str, ...]) -> tuple[str, ...]:
    return words[1:] if words[0] in _ARTICLES and len(words) > 2 else words


def _misspelt_word(one: str, other: str) -> bool:
    """True for letters swapped or doubled, a vowel inside a long word, and "lovin" for "loving"."""
    one, other = sorted((one, other), key=lambda word: (len(word), word))
    if not (one + other).isalpha():
        return False
    if other == one + "g" and other.endswith("ing"):
        return True
    if len(one) < _SHORTEST_WORD:
        return False
    start = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(one))
    if len(one) < len(other):
        doubled = start > 0 and other[start] == other[start - 1]
        return doubled and one[start:] == other[start + 1 :]
    if one[start + 1 :] == other[start + 1 :]:
        # The last letters are endings in many languages: "amigo" and "amiga", "quiero" and "quiere".
        return {one[start], other[start]} <= _VOWELS and 0 < start < len(one) - 2
    swapped = one[start : start + 2] == other[start : start + 2][::-1]
    return swapped and start > 0 and one[start + 2 :] == other[start + 2 :]


class _Joined:
    """Names joined into sets, each known by its smallest member."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def smallest(self, name: str) -> str:
        root = name
        while (parent := self._parent.get(root, root)) != root:
            root = parent
        while (parent := self._parent.get(name, name)) != root:
            self._parent[name], name = root, parent
        return root

    def join(self, one: str, other: str) -> None:
        low, high = sorted((self.smallest(one), self.smallest(other)))
        self._parent[high] = low


def accepted_pairs(tracks: pd.DataFrame, songs: pd.DataFrame, count: int, seed: int) -> pd.DataFrame:
    """Draws pairs of tracks that share a song, each of all such pairs with the same chance.

    Args:
        tracks: what `assign_songs` was given.
        songs: what it returned.
        count: pairs wanted; all of them where there are fewer.
        seed: of the draw.

    Returns:
        `song_id`, then for either track `track_id, title, artist, kind` with the suffixes `_a` and `_b`.
    """
    import numpy as np
    import pandas as pd

    table = songs.assign(title=tracks["title"], artist=tracks["artist"]).sort_values(["song_id", "track_id"])
    sizes = table.groupby("song_id", sort=True)["track_id"].size().to_numpy()
    starts = np.append(0, np.cumsum(sizes)[:-1])
    ends = np.cumsum(sizes * (sizes - 1) // 2)
    total = int(ends[-1]) if len(ends) else 0
    chosen = np.sort(np.random.default_rng(seed).choice(total, min(count, total), replace=False))
    song = np.searchsorted(ends, chosen, side="right")
    within = chosen - np.append(0, ends)[song]
    # Pair number n of a song, counted (1, 0), (2, 0), (2, 1), (3, 0) …
    later = ((1 + np.sqrt(1 + 8 * within)) // 2).astype(int)
    earlier = within - later * (later - 1) // 2
    one, other = (table.iloc[starts[song] + place].reset_index(drop=True) for place in (earlier, later))
    columns = ["track_id", "title", "artist", "kind"]
    both = [one[columns].add_suffix("_a"), other[columns].add_suffix("_b")]
    return pd.concat([one[["song_id"]], *both], axis=1)


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0], prog="python -m data_prep.versions")
    parser.add_argument("tracks", type=Path, help="parquet with track_id, title, artist and optionally isrc")
    parser.add_argument("--out", type=Path, required=True, help="parquet to write: track_id, song_id, kind")
    parser.add_argument(
        "--merge",
        nargs="*",
        default=list(DEFAULT_MERGE),
        choices=KINDS,
        help="kinds that share the studio version's song",
    )
    parser.add_argument("--pairs", type=int, default=0, metavar="N", help="also write N random pairs to OUT.pairs.csv")
    parser.add_argument("--seed", type=int, default=0, help="of the random pairs")
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> None:
    """The command; see the module's docstring."""
    arguments = _arguments(given)
    with errors_in_one_line():
        _run(arguments)


def _run(arguments: argparse.Namespace) -> None:
    import pandas as pd
    import pyarrow

    try:
        tracks = pd.read_parquet(arguments.tracks)
    except (OSError, pyarrow.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{arguments.tracks}: cannot be read as parquet ({reason}); give a table of tracks") from error
    songs = assign_songs(tracks, arguments.merge)
    with written_whole(arguments.out) as temporary:
        songs.to_parquet(temporary, index=False)
    counts = ", ".join(f"{count} {kind}" for kind, count in songs["kind"].value_counts().items())
    print(f"{arguments.out}: {len(songs)} tracks ({counts}) of {songs['song_id'].nunique()} songs", file=sys.stderr)
    if arguments.pairs:
        file = arguments.out.with_suffix(".pairs.csv")
        with written_whole(file) as temporary:
            accepted_pairs(tracks, songs, arguments.pairs, arguments.seed).to_csv(temporary, index=False)
        print(f"{file}: {arguments.pairs} pairs of tracks of one song", file=sys.stderr)


if __name__ == "__main__":
    main()
