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
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mp3model.files import InputError, errors_in_one_line, written_whole
from mp3model.tables.titles import KINDS, Title, parse_title, word_set

if TYPE_CHECKING:
    import pandas as pd

DEFAULT_MERGE = ("studio",)
# One artist has many of these, each another piece.
_UNTITLED = word_set(
    "intro outro interlude interludio skit prelude preludio intermission epilogue prologue introduction freestyle "
    "untitled interlud introduccion prolog epilog"
)
_NOBODY = word_set("variousartists variosartistas variosinterpretes unknownartist unknown verschiedeneinterpreten")
_ARTICLES = word_set("the a an el la los las un una le les une il lo i o os as um uma der die das ein eine")
_VOWELS = frozenset("aeiouy")
# Shorter titles and words are too often real words one letter apart: "Bad Love" and "Mad Love", "Solo" and "Solos".
_SHORTEST_TITLE, _SHORTEST_WORD = 9, 5
# Letters that a leading article takes.
_FARTHEST = 3


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
