"""A folder in; a small made-up dataset in the layout of a published one, and the commands that convert it, out."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from audio_files import tone, write_audio

SONGS = 30
WORDS = [
    "amber",
    "basalt",
    "cobalt",
    "dune",
    "ember",
    "fjord",
    "garnet",
    "harbor",
    "iris",
    "juniper",
    "kelp",
    "lagoon",
    "maple",
    "nectar",
    "onyx",
]
Commands = list[list[str]]


def title(song: int) -> str:
    """Unlike each other: titles of one artist that are alike are one song."""
    return f"{WORDS[song % 15].title()} {WORDS[(song // 15 + 7) % 15].title()}"


def artist(song: int) -> str:
    return f"Artist {'ABCDEFGHIJKLMNOPQRSTUVWXYZ'[song % 15]}"


def clips(folder: Path, names: list[str], suffix: str = ".wav") -> Path:
    """A clip of 1.5 s a name, each of another pitch."""
    for number, name in enumerate(names):
        write_audio(folder / f"{name}{suffix}", tone(1.5, 22_050, frequency=200.0 + 40 * number), 22_050)
    return folder


def table(path: Path, rows: list[list[object]], delimiter: str = ",") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, delimiter=delimiter, lineterminator="\n").writerows(rows)
    return path


# -------------------------------------------------------------------------------------------------------- with clips
def fma(folder: Path) -> Commands:
    """fma_metadata/{tracks,features,echonest}.csv with headers of several lines; fma_small/000/000002.mp3."""
    numbers = [2 + 53 * song for song in range(SONGS)]
    for song, number in enumerate(numbers):
        place = folder / "fma_small" / f"{number // 1000:03d}" / f"{number:06d}.mp3"
        write_audio(place, tone(1.5, 44_100, frequency=200.0 + 40 * song), 44_100)
    groups = {
        "album": "comments date_created date_released engineer favorites id information listens producer tags title "
        "tracks type",
        "artist": "active_year_begin active_year_end associated_labels bio comments date_created favorites id latitude "
        "location longitude members name related_projects tags website wikipedia_page",
        "set": "split subset",
        "track": "bit_rate comments composer date_created date_recorded duration favorites genre_top genres genres_all "
        "information interest language_code license listens lyricist number publisher tags title",
    }
    pairs = [(group, name) for group, names in groups.items() for name in names.split()]
    rows: list[list[object]] = [["", *(p[0] for p in pairs)], ["", *(p[1] for p in pairs)]]
    rows.append(["track_id", *("" for _ in pairs)])
    for song, number in enumerate(numbers):
        values = {
            ("album", "date_released"): "2009-01-05 00:00:00",
            ("artist", "name"): artist(song),
            ("artist", "id"): song % 15 + 1,
            ("track", "title"): title(song),
            ("track", "listens"): 100 + 37 * song,
            ("track", "favorites"): song,
            ("track", "interest"): 500 + song,
            ("track", "genres"): "[21, 4]",
        }
        rows.append([number, *(values.get(pair, "") for pair in pairs)])
    meta = folder / "fma_metadata"
    table(meta / "tracks.csv", rows)
    triples = [(f, s, f"{n:02d}") for f in ("chroma_cens", "mfcc") for s in ("kurtosis", "mean") for n in (1, 2)]
    lines: list[list[object]] = [
        [name, *(triple[place] for triple in triples)] for place, name in enumerate(("feature", "statistics", "number"))
    ]
    lines.append(["track_id", *("" for _ in triples)])
    lines += [[number, *(round(number / 7 + place, 3) for place in range(8))] for number in [1, *numbers]]
    table(meta / "features.csv", lines)
    told = [("audio_features", n) for n in ("acousticness", "tempo")]
    told += [("metadata", "artist_name"), ("social_features", "song_hotttnesss")]
    lines = [["", *("echonest" for _ in told)], ["", *(t[0] for t in told)], ["", *(t[1] for t in told)]]
    lines.append(["track_id", *("" for _ in told)])
    lines += [[number, 0.25, 120.5, "AWOL", 0.7] for number in numbers[:-1]]
    table(meta / "echonest.csv", lines)
    command = ["data_prep.open_datasets", "fma", f"{folder}/fma_small", "--labels", f"{meta}/tracks.csv"]
    command += ["--features", f"{meta}/features.csv", "--echonest", f"{meta}/echonest.csv", "--out", f"{folder}/data"]
    return [command]


def spotgentrack(folder: Path) -> Commands:
    """`Data Sources` and `Features Extracted`; pandas wrote the running number into a column without a name."""
    ids = [f"{song:02d}abcdefghijklmnopqrst" for song in range(SONGS)]
    place = folder / "SpotGenTrack" / "Data Sources"
    features = ["acousticness", "danceability", "energy", "tempo"]
    head = ["", *features, "album_id", "artists_id", "country", "duration_ms", "id", "lyrics", "name", "playlist"]
    rows: list[list[object]] = [[*head, "popularity", "preview_url"]]
    for song, track in enumerate(ids):
        made = f"['{song % 15:022d}', 'gone']"
        about = [*(0.1 * (song % 7) for _ in features), f"{song:022d}", made, "BE", 200_000.0, track, 'la "la", la\nla']
        rows.append([song, *about, title(song), "x", float(10 + 2 * song), "https://p.scdn.co/x"])
    table(place / "spotify_tracks.csv", [*rows, rows[-1]])
    artists: list[list[object]] = [["", "artist_popularity", "followers", "genres", "id", "name", "track_id"]]
    artists += [[n, 50, 1000.0, "['pop']", f"{n:022d}", artist(n), ids[n]] for n in range(15)]
    table(place / "spotify_artists.csv", artists)
    albums: list[list[object]] = [["", "album_type", "artist_id", "id", "name", "release_date", "track_id"]]
    dates = ["2019-02-08", "2018", "2017-05"]
    albums += [[n, "single", f"{n % 15:022d}", f"{n:022d}", "A", dates[n % 3], ids[n]] for n in range(SONGS)]
    table(place / "spotify_albums.csv", albums)
    low: list[list[object]] = [["", "Chroma_1", "MEL_1", "MFCC_1", "spectral_rollOff_max", "track_id"]]
    low += [[n, 0.4, 2.0 * n, -110.5, 4000.0, track] for n, track in enumerate(ids[:-1])]
    table(place.parent / "Features Extracted" / "low_level_audio_features.csv", low)
    own = clips(folder / "clips", ids)
    source = f"{folder}/SpotGenTrack"
    return [["data_prep.open_datasets", "spotgentrack", source, "--clips", str(own), "--out", f"{folder}/data"]]


def music4all(folder: Path) -> Commands:
    """Tab-separated tables that begin with `id`, clips in `audios`."""
    ids = [f"0009fFIM1eYThaP{'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdef'[song]}" for song in range(SONGS)]
    place = folder / "music4all"
    about: list[list[object]] = [["id", "artist", "song", "album_name"]]
    about += [[i, artist(n), title(n), "Album"] for n, i in enumerate(ids)]
    table(place / "id_information.csv", about, "\t")
    names = ["danceability", "energy", "key", "mode", "valence", "tempo", "duration_ms"]
    meta: list[list[object]] = [["id", "spotify_id", "popularity", "release", *names]]
    meta += [[i, "x" * 22, 5.0 + 3 * n, 1990 + n, 0.5, 0.6, 1.0, 0.0, 0.3, 120.1, 30_000] for n, i in enumerate(ids)]
    table(place / "id_metadata.csv", meta, "\t")
    plays: list[list[object]] = [["user", "song", "timestamp"]]
    plays += [["user_1", i, "2019-02-20 12:28"] for n, i in enumerate(ids) for _ in range(n)]
    table(place / "listening_history.csv", plays, "\t")
    clips(place / "audios", ids, ".mp3")
    return [["data_prep.open_datasets", "music4all", str(place), "--out", f"{folder}/data"]]


def counts(folder: Path) -> Commands:
    """Plays and listeners a track."""
    rows: list[list[object]] = [["song_id", "title", "artist", "country", "play_count", "listeners"]]
    rows += [[f"k{n:02d}", title(n), artist(n), "TW", 10 + n * n, 1 + n] for n in range(SONGS)]
    path = table(folder / "kkbox.csv", rows)
    own = clips(folder / "clips", [f"k{n:02d}" for n in range(SONGS)])
    return [["data_prep.open_datasets", "counts", str(path), "--clips", str(own), "--out", f"{folder}/data"]]


# ------------------------------------------------------------------------------------------------------------ logs
START = datetime(2018, 1, 1, tzinfo=UTC)
WEEKS = 62
USERS = {"user_000001": "Mexico", "user_000002": "United States", "user_000003": "", "user_000004": "Japan"}


def plays() -> Iterator[tuple[int, str, datetime]]:
    """(song, user, time): each song appears in some week and fades; three users have a country."""
    users = list(USERS)
    for song in range(SONGS):
        for week in range(WEEKS):
            age = week - 4 - song * 45 // SONGS
            for user, size in zip(users, (3, 5, 1, 2), strict=True):
                for number in range(max(0, size + song % 4 - age // 3) if age >= 0 else 0):
                    yield song, user, START + timedelta(days=7 * week + number % 7, seconds=song * 60 + number)


def own_clips(folder: Path, data: Path) -> list[str]:
    """The command that brings in clips named "Artist - Title"."""
    own = clips(folder / "clips", [f"{artist(song)} - {title(song)}" for song in range(SONGS)])
    return ["data_prep.previews", str(data), "--provider", "local", "--files", str(own), "--out", str(data)]


def lastfm(folder: Path) -> Commands:
    """Tabs, no quotes, no header; the users' file has one, and countries by name."""
    place = folder / "lastfm-dataset-1K"
    place.mkdir(parents=True, exist_ok=True)
    lines = []
    for song, user, moment in plays():
        # Not every track has an id of MusicBrainz.
        mbid = f"{song:08d}-aaaa-4bbb-8ccc-0123456789ab" if song % 3 else ""
        lines.append(f"{user}\t{moment:%Y-%m-%dT%H:%M:%SZ}\tmbid\t{artist(song)}\t{mbid}\t{title(song)}\n")
    (place / "userid-timestamp-artid-artname-traid-traname.tsv").write_text("".join(lines) + "a line that was cut\n")
    people = [f"{user}\tm\t\t{country}\tApr 27, 2005\n" for user, country in USERS.items()]
    (place / "userid-profile.tsv").write_text("#id\tgender\tage\tcountry\tregistered\n" + "".join(people))
    data = folder / "data"
    command = ["data_prep.open_datasets", "lastfm", str(place), "--least", "5", "--out", str(data)]
    return [command, own_clips(folder, data)]


def listenbrainz(folder: Path) -> Commands:
    """listens/YEAR/MONTH.listens, a listen a line."""
    place = folder / "listenbrainz-listens-dump-1-20200101-000000-full"
    files: dict[Path, list[str]] = {}
    for song, user, moment in plays():
        extra = {"recording_mbid": f"{song:08d}-aaaa-4bbb-8ccc-0123456789ab"} if song % 3 else {}
        listen = {
            "user_id": 7,
            "user_name": user,
            "timestamp": int(moment.timestamp()),
            "recording_msid": f"{song:08d}-0000-4000-8000-0123456789ab",
            "track_metadata": {"track_name": title(song), "artist_name": artist(song), "additional_info": extra},
        }
        path = place / "listens" / str(moment.year) / f"{moment.month}.listens"
        files.setdefault(path, []).append(json.dumps(listen) + "\n")
    for path, lines in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(lines))
    data = folder / "data"
    command = ["data_prep.open_datasets", "listenbrainz", str(place), "--least", "5", "--out", str(data)]
    return [command, own_clips(folder, data)]


def listens(folder: Path) -> Commands:
    """A table of user, time, recording, title, artist, country."""
    rows: list[list[object]] = [["user", "time", "recording", "title", "artist", "country"]]
    codes = {"Mexico": "mx", "United States": "US", "": "", "Japan": "JP"}
    for song, user, moment in plays():
        rows.append([user, int(moment.timestamp()), f"r{song}", title(song), artist(song), codes[USERS[user]]])
    path = table(folder / "log.csv", rows)
    data = folder / "data"
    command = ["data_prep.open_datasets", "listens", str(path), "--world", "--least", "5", "--out", str(data)]
    return [command, own_clips(folder, data)]


SAMPLES: dict[str, Callable[[Path], Commands]] = {
    made.__name__: made for made in (fma, spotgentrack, music4all, counts, lastfm, listenbrainz, listens)
}


# ------------------------------------------------------------------------------------------------------- a label's own
def own_songs(folder: Path, songs: int = 30, days: int = 420) -> tuple[Path, Path]:
    """A distributor's export (daily, ISRC, territory) and the masters, named by ISRC: (export, masters)."""
    generator = np.random.default_rng(0)
    first = datetime(2024, 1, 5, tzinfo=UTC)
    rows: list[list[object]] = [["Sale Date", "ISRC", "Track Title", "Artist", "Territory", "Quantity"]]
    masters = folder / "masters"
    for song in range(songs):
        isrc = f"QZ1AB24{song:05d}"
        clip = tone(3.0, 22_050, frequency=150.0 * 1.06**song) + 0.01 * generator.normal(size=(66_150, 1))
        write_audio(masters / f"{isrc}.wav", clip.astype(np.float32), 22_050)
        release = 21 + song * (days - 21 - 100) // songs
        for land, size in (("US", 3000), ("GB", 800)):
            for day in range(release, days):
                age = day - release
                units = int(size * (0.3 + song / songs) * np.exp(-age / 40) * generator.lognormal(0, 0.1)) + 1
                date = (first + timedelta(days=day)).date().isoformat()
                rows.append([date, isrc, title(song), artist(song), land, units])
    # Something older that was on sale all the time: the export's days are on hand before the first release.
    for land in ("US", "GB"):
        for day in range(days):
            date = (first + timedelta(days=day)).date().isoformat()
            rows.append([date, "QZ1AB2399999", "Old One", "Artist Z", land, 50 + day % 3])
    return table(folder / "export.csv", rows), masters
