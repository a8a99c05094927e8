"""A market's size, regions and seed in; what its songs are and when they come out, and what nobody can hear, out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from data_prep.market_law import (
    BLOOM_AGE,
    BLOOM_SIZE,
    BURST_REGION,
    DEFAULT_REGIONS,
    FAME,
    FAME_REGION,
    FIRST_RELEASE,
    FRIDAY,
    KINDS,
    LAST_RELEASE,
    LUCK_START,
    SHARES,
    SONG,
    SONG_REGION,
    STAY,
    SUMMER,
    WARM_UP,
    WEEKS,
    audible_parts,
    random_for,
    week_end,
    week_of,
)
from data_prep.synth import draw_attributes

TILED_ABOVE = 4000  # songs, from which on recordings are shared
RENDERED = 2000  # how many recordings there are then (and as many of a second version)
VERSIONS = ("live", "instrumental", "sped up", "remaster")
_VERSION_DELAY = {"live": (60, 300), "instrumental": (14, 120), "sped up": (14, 70), "remaster": (150, 400)}  # days


@dataclass(frozen=True)
class Market:
    """All that is public or fixed about a market; what a re-run draws anew is in `Unheard`.

    Tracks are ordered with the songs of Christmas first, then by release, so that those alive in a week are two slices.
    """

    seed: int
    regions: tuple[str, ...]
    songs: pd.DataFrame  # one row a song: song_id, artist (number), attributes, catalogue
    tracks: pd.DataFrame  # one row a track: track_id, song (row in songs), version, release_day, share (log10)
    audible: np.ndarray  # (regions, songs) log10
    parts: dict[str, np.ndarray]  # the same, split by attribute
    summer: np.ndarray  # (regions, weeks + WARM_UP) log10 for one unit of warmth
    launch: np.ndarray  # (regions, tracks) week of the first streams
    first_fraction: np.ndarray  # (tracks,) share of the launch week that the track was out
    on_hand: np.ndarray  # (regions, weeks) which charts are on hand
    chart_size: int
    perennial: int  # how many tracks at the front never leave the market
    waveform_of: np.ndarray  # (songs,) number of the recording, -1 for a song without; several may share one

    @property
    def waveforms(self) -> int:
        """How many recordings there are."""
        return int(self.waveform_of.max()) + 1

    @property
    def song_of(self) -> np.ndarray:
        """(tracks,) row in `songs` of each track."""
        return self.tracks["song"].to_numpy()

    @property
    def artists(self) -> int:
        """How many artists there are."""
        return int(self.songs["artist"].max()) + 1


def draw_market(songs: int, seed: int, regions: Sequence[str] = DEFAULT_REGIONS) -> Market:
    """Draws what is fixed: songs, attributes, artists, versions, release plans, missing charts.

    Args:
        songs: how many songs with audio; about a third as many again, older and later ones, have none.
        seed: of everything.
        regions: ISO 3166 codes; any will do.
    """
    rate = songs / (LAST_RELEASE - FIRST_RELEASE + 1)
    before, after = round(rate * 48), round(rate * (WEEKS - 1 - LAST_RELEASE))
    count = songs + before + after
    random = random_for(seed, "songs")
    artists = max(songs // 5, 1)
    weight = (np.arange(artists) + 10.0) ** -0.7
    artist = random.choice(artists, count, p=weight / weight.sum())
    table = draw_attributes(artist, random_for(seed, "attributes"))
    heard = list(table.columns)
    table["recorded"] = np.arange(count) < songs
    table.insert(0, "song_id", [f"song-{number:05d}" for number in range(count)])
    table["artist"] = artist
    waveform_of = np.where(table["recorded"], np.arange(count), -1)
    if songs > TILED_ABOVE:
        # Songs are numbered by date, so that those with one recording come out within days of each other.
        waveform_of[:songs] = np.arange(songs) * RENDERED // songs
        first = np.flatnonzero(np.diff(waveform_of[:songs], prepend=-1))
        source = np.append(first[waveform_of[:songs]], np.arange(songs, count))
        table[heard] = table[heard].take(source).reset_index(drop=True)
    # Evenly spread but for a jitter: with independent dates the floor would wander with the supply.
    spans = [(FIRST_RELEASE, LAST_RELEASE + 1, songs), (FIRST_RELEASE - 48, FIRST_RELEASE, before)]
    spans.append((LAST_RELEASE + 1, WEEKS, after))
    week = np.concatenate(
        [
            first + ((np.arange(n) + random.random(n)) * (end - first) // max(n, 1)).astype(int)
            for first, end, n in spans
        ]
    )
    # Songs with sleigh bells come out from mid-October to mid-December.
    days = week_end(week)
    year = days.astype("datetime64[Y]")
    autumn = year.astype("datetime64[D]") + np.timedelta64(288, "D") + random.integers(0, 56, count)
    autumn = np.where((week_of(autumn) > LAST_RELEASE) & table["recorded"], autumn - 364, autumn)
    autumn = np.where((week_of(autumn) < FIRST_RELEASE) & table["recorded"], autumn + 364, autumn)
    week = np.where(table["sleigh"] == 1, week_of(autumn), week)
    # A chart week runs from Friday to Thursday: most songs come out on its first day, some later in it.
    weekday = np.where(random.random(count) < FRIDAY, 0, random.integers(1, 7, count))
    release = week_end(week) - 6 + weekday
    tracks = _versions(table, release, random_for(seed, "versions"))
    if songs > TILED_ABOVE:
        # One recording has one second version, or five times as many would have to be rendered.
        kind = random_for(seed, "shared versions").choice(VERSIONS, RENDERED)
        tracks["version"] = np.where(tracks["version"] == "", "", kind[waveform_of[tracks["song"]]])
    christmas_song = table["sleigh"].to_numpy()[tracks["song"]] == 1
    order = np.lexsort((tracks["release_day"], ~christmas_song))
    tracks, perennial = tracks.iloc[order].reset_index(drop=True), int(christmas_song.sum())

    release = tracks["release_day"].to_numpy().astype("datetime64[D]")
    launch = np.empty((len(regions), len(tracks)), dtype=np.int32)
    home = random_for(seed, "home").integers(0, len(regions), count)
    on_hand = np.ones((len(regions), WEEKS), dtype=bool)
    for row, region in enumerate(regions):
        lag = random_for(seed, "lag", region).choice(4, count, p=[0.76, 0.12, 0.08, 0.04])
        lag[home == row] = 0
        launch[row] = week_of(release) + lag[tracks["song"]]
        # Each missing chart costs the debuts of 13 weeks, so few are missing, and none where a forecast is tested.
        missing = random_for(seed, "missing", region)
        if row % 2 or missing.random() < 0.3:
            on_hand[row, missing.integers(12, 130)] = False
    parts = [audible_parts(table, region) for region in regions]
    weeks = np.arange(-WARM_UP, WEEKS)
    south = np.array([region in ("BR", "AR", "AU", "NZ", "ZA", "CL") for region in regions])
    year = ((week_end(weeks) - np.datetime64("2019-01-01")).astype(int) / 365.25)[None]
    return Market(
        seed=seed,
        regions=tuple(regions),
        songs=table,
        tracks=tracks,
        audible=np.stack([np.sum(list(part.values()), 0) for part in parts]),
        parts={name: np.stack([part[name] for part in parts]) for name in SHARES},
        summer=SUMMER * np.cos(2 * np.pi * (year - np.where(south, 0.04, 0.54)[:, None])),
        launch=launch,
        first_fraction=((week_end(week_of(release)) - release).astype(int) + 1) / 7,
        on_hand=on_hand,
        chart_size=chart_size_for(songs),
        perennial=perennial,
        waveform_of=waveform_of,
    )


def chart_size_for(songs: int) -> int:
    """Places on the charts of a market of so many songs: from 5 to 200."""
    return int(np.clip(round(3 + songs / 32), 5, 200))


def _versions(songs: pd.DataFrame, release: np.ndarray, random: np.random.Generator) -> pd.DataFrame:
    """One row for every song, and a second one for the 15 % that come out again."""
    main = pd.DataFrame({"song": np.arange(len(songs)), "version": "", "release_day": release, "share": 0.0})
    second = main[(random.random(len(songs)) < 0.15) & songs["recorded"].to_numpy()].copy()
    second["version"] = random.choice(VERSIONS, len(second))
    low, high = np.array([_VERSION_DELAY[kind] for kind in second["version"]]).reshape(-1, 2).T
    second["release_day"] += (random.integers(low, high) // 7 * 7).astype("timedelta64[D]")
    second["share"] = random.normal(-0.45, 0.2, len(second))
    second = second[second["release_day"] < week_end(np.array(WEEKS - 1))]
    both = pd.concat([main, second], ignore_index=True)
    suffix = np.where(both["version"] == "", "a", "b")
    both.insert(0, "track_id", songs["song_id"].to_numpy()[both["song"]] + suffix)
    return both


@dataclass(frozen=True)
class Unheard:
    """What a re-run draws anew for every song; float32 arrays with the re-runs first."""

    fame: np.ndarray  # (runs, artists)
    fame_region: np.ndarray  # (runs, regions, artists)
    base: np.ndarray  # (runs, regions, tracks): all that stays the same over a track's life, fame excluded
    burst: np.ndarray  # (runs, regions, tracks)
    fade: np.ndarray  # (runs, 1, tracks)
    stay: np.ndarray  # (runs, 1, tracks)
    hold: np.ndarray  # (runs, 1, tracks)
    bloom_age: np.ndarray  # (runs, 1, tracks) age of a late break-through, -1 for none
    bloom: np.ndarray  # (runs, 1, tracks)


def draw_unheard(market: Market, runs: int, random: np.random.Generator) -> Unheard:
    """Draws all that nobody can hear, `runs` times."""
    regions, tracks, songs = len(market.regions), len(market.tracks), len(market.songs)

    def normal(*shape: int) -> np.ndarray:
        return random.standard_normal(shape, dtype=np.float32)

    def heavy(*shape: int) -> np.ndarray:
        """Student's t with 4 degrees of freedom at unit variance."""
        drawn = random.standard_t(4, shape)
        drawn /= np.sqrt(2)
        return drawn.astype(np.float32)

    fame, fame_region = FAME * normal(runs, market.artists), FAME_REGION * normal(runs, regions, market.artists)
    per_song = SONG * normal(runs, 1, songs) + SONG_REGION * heavy(runs, regions, songs)
    shape = (runs, 1, tracks)
    chances, *ranges = zip(*KINDS.values(), strict=True)
    kind = random.choice(len(KINDS), (runs, 1, songs), p=chances)[..., market.song_of]

    def between(limits: Sequence[tuple[float, float]]) -> np.ndarray:
        low, high = np.array(limits)[kind].transpose(3, 0, 1, 2)
        return (low + (high - low) * random.random(shape)).astype(np.float32)

    burst, fade, hold = map(between, ranges)
    blooms = kind == list(KINDS).index("bloom")
    bells = market.songs["sleigh"].to_numpy()[market.song_of] == 1
    base = per_song[:, :, market.song_of]
    base += LUCK_START * heavy(runs, regions, tracks)
    base += market.tracks["share"].to_numpy(np.float32)
    return Unheard(
        fame=fame,
        fame_region=fame_region,
        base=base,
        burst=burst + BURST_REGION * normal(runs, regions, tracks),
        fade=fade,
        # A Christmas song comes back year after year; all others sink for good.
        stay=np.where(bells, 0.3, random.uniform(*STAY, shape)).astype(np.float32),
        hold=hold,
        bloom_age=np.where(blooms, random.integers(*BLOOM_AGE, shape), -1).astype(np.int16),
        bloom=random.uniform(*BLOOM_SIZE, shape).astype(np.float32),
    )


def lasting_appeal(market: Market, unheard: Unheard, fame: np.ndarray | None = None) -> np.ndarray:
    """(runs, regions, tracks) of all that lasts; `fame` (runs, regions, songs) replaces the one drawn."""
    artist = market.songs["artist"].to_numpy()
    appeal = np.empty(unheard.base.shape, np.float32)
    # Run by run, to keep the memory small.
    for run in range(len(appeal)):
        known = unheard.fame[run][artist] + unheard.fame_region[run][:, artist] if fame is None else fame[run]
        appeal[run] = (market.audible + known)[:, market.song_of] + unheard.base[run]
    return appeal
