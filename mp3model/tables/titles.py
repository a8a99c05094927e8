"""A title as a chart or a shop writes it in; its name in plain form, the kind of version and its guests out.

Plain form leaves out guests, edition marks (remaster, radio edit, explicit, bonus track), language marks, the film a
song is from, case, accents of European scripts and punctuation; other scripts keep every letter.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# In order of precedence: a slowed remix is sped-up, a live remix is a remix.
KINDS = ("sped-up", "instrumental", "remix", "cover", "live", "studio")


def word_set(text: str) -> frozenset[str]:
    """The words of a line."""
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
_EDITION_WORDS = word_set(
    "radio edit single album original version ver versao versie versjon vers mix explicit clean censored uncensored "
    "dirty mono stereo main bonus track bonustrack spor deluxe edition digital the official video audio music lyric "
    "lyrics lp movie film tv size eurovision esc anniversary reissue song cut"
)
# Words that say something by themselves; `version`, a year or `the` do not.
_TELLING_WORDS = word_set(
    "radio edit single album original explicit clean censored uncensored dirty mono stereo main bonus bonustrack "
    "deluxe official movie film tv eurovision video audio"
)
_LANGUAGES = word_set(
    "english spanish french german italian portuguese dutch swedish norwegian danish finnish icelandic polish czech "
    "turkish greek russian ukrainian hebrew arabic hindi tamil telugu malayalam kannada punjabi bengali marathi urdu "
    "korean japanese chinese mandarin cantonese thai vietnamese indonesian malay tagalog filipino "
    "espanol espanola castellano ingles frances aleman italiano italiana portugues deutsch deutsche englisch englische "
    "francais anglais espagnol svenska engelsk engelska dansk norsk suomi turkce"
)
_LANGUAGE_CODES = word_set("kr kor jp jpn cn chn eng esp")
_LANGUAGE_SCRIPTS = re.compile(
    r"^(?:國語?|粵語?|国语|粤语|中文|日本語|英語|한국어)版?$|^(?:중국어|일본어|영어)\s?(?:버전|ver)?$"
)
_VERSION_WORDS = word_set("version ver versions versao versie versjon vers edit mix edition")
_SMALL_WORDS = word_set("the a in en em auf of by feat")
_PARTS = word_set("part parte pt")
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
_KIND_WORDS = {
    "sped-up": {"sped", "up", "speed", "spedup"},
    "instrumental": {"inst"},
    "remix": {"remix", "rmx", "remixed", "mix", "edit", "acustica", "acustico", "akustik", "acoustic"},
    "cover": {"cover"},
    "live": {"live", "ao", "en", "vivo"},
}
_SAME_WORDS = {"acustica": "acoustic", "acustico": "acoustic", "akustik": "acoustic", "acoustique": "acoustic"}


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
        """The words without spaces."""
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


def _detail(mark: str, kind: str) -> str:
    """The words of a mark beyond those that every such mark has."""
    common = _VERSION_WORDS | _SMALL_WORDS | {"official"} | _KIND_WORDS.get(kind, set())
    words = [_SAME_WORDS.get(word, word) for word in plain_words(mark)]
    if kind == "remix":
        common = common - {"acoustic"}
    return "".join(word for word in words if word not in common)


def _guest_keys(mark: str) -> Iterable[str]:
    # Only here: the table's module brings pandas, without which `--help` is quick.
    from mp3model.tables.tracks import artist_key

    if _MADE_BY.match(" ".join(plain_words(mark))):
        return []
    names = re.sub(r"^\W*\w+[./:]?\s*", "", mark, count=1)
    return [key for name in _NAME_BREAK.split(names) if (key := artist_key(name))]
