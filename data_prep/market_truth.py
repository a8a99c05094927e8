"""Regions, songs and dates in; the whole hidden life of a market out: appeal, weekly streams, charts, debuts.

The law of the market, in log10 streams of track i of song s in region r, `age` weeks after its launch there:

    size_r + growth_r·week + season_r(week)                    the region's scale
  + audible_rs + summer_r(week)·warmth_s + Christmas(week)     what a listener of the audio and a calendar can know
  + fame_a + fame_ra + song_s + song_rs                        what nobody can hear
  + burst·fade^age + stay·hold^age                             the curve's shape (also unheard)
  + luck                                                       heavy-tailed, fed by the position on last week's chart

The last term is the cumulative advantage of Salganik, Dodds and Watts (Science 311, 2006): a position on the chart
multiplies next week's streams, so that equal songs end far apart and a re-run of the market has other winners.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from data_prep.synth import RHYTHMS, TEMPO_RANGE, draw_attributes

DEFAULT_REGIONS = ("US", "GB", "BR", "JP")
FIRST_WEEK_END = np.datetime64("2019-01-03", "D")  # a Thursday, as chart weeks end
WEEKS = 209  # chart weeks on hand: four years
TEST_FROM = "2022-02-10"
HORIZON = 12
WARM_UP = 52  # weeks simulated before the first chart, so that it opens with a living catalogue
# Weeks in which songs with a recording come out. Songs before and after them keep the charts full, but none of those
# can have a debut that counts: too early, or with its horizon cut off.
FIRST_RELEASE, LAST_RELEASE = -2, 197
TILED_ABOVE = 4000  # songs, from which on recordings are shared
RENDERED = 2000  # how many recordings there are then (and as many of a second version)
LIFE = 60  # weeks after which a song without sleigh bells has left the market for good
FRIDAY = 0.75  # chance that a song comes out on the first day of a chart week
DEBUT_WITHIN = 28  # days after release, or after the first chart elsewhere, that a debut may come

# log10 of the weekly streams of a song of average appeal, and log10 growth a year (real floors: 9-12 % a year).
SIZES = {"US": (4.7, 0.040), "GB": (4.0, 0.035), "BR": (4.2, 0.055), "JP": (3.1, 0.045)}
# How strongly each region feels an attribute, before scaling by SHARES; a negative number turns the taste around.
TASTES = {
    "US": {"tempo": 126, "mode": 1.0, "contrast": 1.0, "brightness": 1.0, "percussion": 1.0, "vocals": 1.0},
    "GB": {"tempo": 136, "mode": 0.8, "contrast": 1.1, "brightness": 0.9, "percussion": 1.1, "vocals": 1.1},
    "BR": {"tempo": 120, "mode": 1.2, "contrast": 0.8, "brightness": -0.3, "percussion": 1.3, "vocals": 0.9},
    "JP": {"tempo": 146, "mode": -0.4, "contrast": 1.1, "brightness": 1.2, "percussion": 0.8, "vocals": 0.7},
}
# Order of RHYTHMS: four-on-the-floor, backbeat, syncopated, half-time, triplet swing.
RHYTHM_TASTES = {
    "US": (0.5, 0.6, 1.0, -0.7, -1.4),
    "GB": (1.3, 0.5, 0.2, -0.8, -1.2),
    "BR": (0.6, -0.1, 1.5, -1.0, -1.0),
    "JP": (1.0, 1.0, 0.0, -1.3, -0.7),
}
# Share of each attribute in the variance of audible appeal. A clip's mean spectrum does not show the first four.
SHARES = {
    "tempo": 0.30, "mode": 0.26, "rhythm": 0.05, "contrast": 0.05,
    "brightness": 0.08, "percussion": 0.10, "vocals": 0.16,
}  # fmt: skip
HIDDEN_FROM_MEAN = ("tempo", "mode", "rhythm", "contrast")
TEMPO_BAND = 0.42  # octaves: standard deviation of a region's preference around its tempo

# Standard deviations in log10 streams.
AUDIBLE = 0.375
FAME, FAME_REGION = 0.165, 0.095
SONG, SONG_REGION = 0.225, 0.09
LUCK_START, LUCK_WEEK = 0.055, 0.035
BURST_REGION = 0.05
# Log10: the swing of the seasons for one unit of warmth, sleigh bells at Christmas and otherwise.
SUMMER = 0.04
CHRISTMAS_PEAK, CHRISTMAS_OFF = 1.3, -0.6
LUCK_HOLD = 0.90  # what is left of a week's luck a week later
JUMP_RATE, JUMP_SIZE = 0.004, 0.25  # chance a week, and mean log10, of sudden luck
ADVANTAGE = 0.03  # log10 a week for the top of the chart, falling to 0 at its end
# Curve shapes: chance, then ranges of the burst at launch (log10), what is left of it a week later, and what is left
# a week later of the stay (log10 above nothing).
KINDS = {
    "decay": (0.48, (0.3, 0.6), (0.03, 0.15), (0.75, 0.95)),
    "growth": (0.45, (-0.6, -0.07), (0.80, 0.94), (0.96, 0.995)),
    "bloom": (0.07, (-0.08, 0.08), (0.4, 0.6), (0.97, 0.98)),
}
STAY = (1.57, 1.83)
BLOOM_AGE, BLOOM_SIZE = (2, 20), (0.34, 1.0)  # weeks, log10


def random_for(seed: int, *keys: int | str) -> np.random.Generator:
    """A generator of its own for every (seed, purpose, …): the order in which work is done changes no number."""
    words = [zlib.crc32(key.encode()) if isinstance(key, str) else int(key) for key in keys]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([int(seed), *words])))


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
        return int(self.waveform_of.max()) + 1

    @property
    def song_of(self) -> np.ndarray:
        return self.tracks["song"].to_numpy()

    @property
    def artists(self) -> int:
        return int(self.songs["artist"].max()) + 1


def week_of(days: np.ndarray) -> np.ndarray:
    """Number of the chart week that holds each date (datetime64[D]); week 0 ends on FIRST_WEEK_END."""
    return -((FIRST_WEEK_END - days).astype(int) // 7)


def week_end(weeks: Any) -> Any:
    """Last day (datetime64[D]) of each chart week."""
    return FIRST_WEEK_END + 7 * np.asarray(weeks).astype("timedelta64[D]")


def taste_of(region: str) -> tuple[dict[str, float], np.ndarray]:
    """A region's taste; one that the tables above do not know gets its own from its code alone, near the others'."""
    if region in TASTES:
        return TASTES[region], np.array(RHYTHM_TASTES[region])
    random = random_for(0, "taste", region)
    taste = {name: 0.8 + 0.5 * random.standard_normal() for name in TASTES["US"]}
    taste["tempo"] = float(random.uniform(116, 150))
    rhythm = np.mean(list(RHYTHM_TASTES.values()), 0) + 0.5 * random.standard_normal(len(RHYTHMS))
    return taste, rhythm


def size_of(region: str) -> tuple[float, float]:
    if region in SIZES:
        return SIZES[region]
    random = random_for(0, "size", region)
    return float(random.uniform(4.3, 5.8)), float(random.uniform(0.03, 0.06))


def audible_parts(songs: pd.DataFrame, region: str) -> dict[str, np.ndarray]:
    """log10 appeal in a region by attribute, each centred and scaled by the law the attributes are drawn from."""
    taste, rhythm = taste_of(region)
    grid = np.linspace(np.log2(TEMPO_RANGE[0]), np.log2(TEMPO_RANGE[1]), 400)

    def band(log_tempo: np.ndarray) -> np.ndarray:
        return np.exp(-0.5 * ((log_tempo - np.log2(taste["tempo"])) / TEMPO_BAND) ** 2)

    def uniform(name: str) -> np.ndarray:
        return taste[name] * (songs[name].to_numpy() - 0.5) * np.sqrt(12)

    def coin(name: str, chance: float) -> np.ndarray:
        return taste[name] * (songs[name].to_numpy() - chance) / np.sqrt(chance * (1 - chance))

    parts = {
        "tempo": (band(np.log2(songs["tempo"].to_numpy())) - band(grid).mean()) / band(grid).std(),
        "mode": coin("mode", 0.5),
        "rhythm": ((rhythm - rhythm.mean()) / rhythm.std())[songs["rhythm"].to_numpy()],
        "contrast": uniform("contrast"),
        "brightness": uniform("brightness"),
        "percussion": uniform("percussion"),
        "vocals": coin("vocals", 0.6),
    }
    # Tastes are relative: every region feels audio as strongly as the next.
    strength = {name: abs(taste[name]) if name in taste and name != "tempo" else 1.0 for name in parts}
    scale = AUDIBLE / np.sqrt(sum(SHARES[name] * strength[name] ** 2 for name in parts))
    return {name: scale * np.sqrt(SHARES[name]) * part for name, part in parts.items()}


def christmas(weeks: np.ndarray) -> np.ndarray:
    """Log10 of what the calendar does to a song with sleigh bells: nothing to be had but from mid-November on."""
    days = week_end(weeks)
    since = (days - days.astype("datetime64[Y]").astype("datetime64[D]")).astype(int) - 318  # 15 November
    rise = np.clip(since / 35, 0, 1)
    return CHRISTMAS_OFF + (CHRISTMAS_PEAK - CHRISTMAS_OFF) * np.where(since <= 46, rise, 0.0)


def season(weeks: np.ndarray) -> np.ndarray:
    """Log10 of how much is streamed at all: more before Christmas, less in the holidays. It moves floors, not ranks."""
    days = week_end(weeks)
    year = (days - days.astype("datetime64[Y]").astype("datetime64[D]")).astype(int) / 365.25
    return 0.02 * np.cos(2 * np.pi * (year - 0.93)) - 0.015 * np.exp(-(((year - 0.6) / 0.04) ** 2))


def chart_size_for(songs: int) -> int:
    return int(np.clip(round(3 + songs / 32), 5, 200))


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


VERSIONS = ("live", "instrumental", "sped up", "remaster")
_VERSION_DELAY = {"live": (60, 300), "instrumental": (14, 120), "sped up": (14, 70), "remaster": (150, 400)}  # days


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


@dataclass(frozen=True)
class Week:
    """One week of every re-run."""

    week: int
    columns: np.ndarray  # (alive,) rows of market.tracks
    streams: np.ndarray  # (runs, regions, alive) log10, -inf before the launch
    top: np.ndarray  # (runs, regions, chart size) positions in `columns`, best first
    charted: np.ndarray  # (runs, regions, chart size) False where fewer tracks are alive than the chart has places


def simulate(market: Market, unheard: Unheard, random: np.random.Generator, appeal: np.ndarray) -> Iterator[Week]:
    """Runs the market week by week from WARM_UP weeks before the first chart.

    Args:
        appeal: (runs, regions, tracks) float32, all that lasts: audible, fame and `unheard.base`.
    """
    weeks = np.arange(-WARM_UP, WEEKS)
    warmth = _warmth(market.songs)[market.song_of].astype(np.float32)
    bells = (market.songs["sleigh"].to_numpy() == 1)[market.song_of].astype(np.float32)
    first_fraction = np.log10(market.first_fraction).astype(np.float32)
    scale = np.array([size for size, _ in map(size_of, market.regions)])[:, None] + np.outer(
        [growth for _, growth in map(size_of, market.regions)], weeks / 52.18
    )
    scale, holiday = scale + season(weeks), christmas(weeks).astype(np.float32)
    released = week_of(market.tracks["release_day"].to_numpy().astype("datetime64[D]"))
    first_fade = unheard.fade ** market.first_fraction.astype(np.float32)
    # What changes from week to week is kept for the tracks alive alone, which are few of a large catalogue.
    edges = slice(0, 0)
    burst, stay = unheard.burst[..., : market.perennial], unheard.stay[..., : market.perennial]
    luck = np.zeros_like(burst)
    places = np.arange(market.chart_size)
    bonus = (ADVANTAGE * (1 - np.log1p(places) / np.log1p(market.chart_size))).astype(np.float32)
    for step, week in enumerate(weeks):
        low, high = market.perennial + np.searchsorted(released[market.perennial :], [week - LIFE, week + 1])
        columns = np.r_[0 : market.perennial, low:high]
        alive = [slice(0, market.perennial), slice(low, high)]
        burst, stay, luck = (
            _moved(now, market.perennial, edges, alive[1], start)
            for now, start in ((burst, unheard.burst), (stay, unheard.stay), (luck, None))
        )
        edges = alive[1]
        age = week - market.launch[:, columns]
        fixed = scale[:, step, None] + market.summer[:, step, None] * warmth[columns]
        fixed = fixed + holiday[step] * bells[columns] + np.where(age == 0, first_fraction[columns], 0)
        fixed = np.where(age >= 0, fixed, -np.inf).astype(np.float32)
        streams = np.concatenate([appeal[..., tracks] for tracks in alive], axis=-1)
        for part in (burst, stay, luck, fixed):
            streams += part
        top = np.argsort(-streams, axis=-1)[..., : market.chart_size]
        charted = np.take_along_axis(streams, top, -1) > -np.inf
        yield Week(int(week), columns, streams, top, charted)
        gain = np.zeros_like(streams)
        np.put_along_axis(gain, top, np.broadcast_to(bonus[: top.shape[-1]], top.shape), -1)
        gain += LUCK_WEEK * random.standard_normal(gain.shape, dtype=np.float32)
        jumps = random.integers(0, gain.size, random.poisson(JUMP_RATE * gain.size))
        gain.reshape(-1)[jumps] += random.exponential(JUMP_SIZE, len(jumps)).astype(np.float32)
        gain *= age >= 0
        luck *= np.float32(LUCK_HOLD)
        luck += gain
        start = 0
        for tracks in alive:
            here = slice(start, start + tracks.stop - tracks.start)
            start = here.stop
            now = age[:, here]
            # A burst fades by the day: after one day in the launch week most of it is still to come.
            fade = np.where(now == 0, first_fade[..., tracks], unheard.fade[..., tracks])
            burst[..., here] *= np.where(now >= 0, fade, 1)
            breaks = unheard.bloom_age[..., tracks] == now
            burst[..., here] += breaks * unheard.bloom[..., tracks]
            # `stay` is shared by the regions: it sinks from the release on, which lag delays by three weeks at most.
            stay[..., here] *= np.where(released[tracks] <= week, unheard.hold[..., tracks], 1)


def _moved(now: np.ndarray, fixed: int, old: slice, new: slice, start: np.ndarray | None) -> np.ndarray:
    """State (runs, …, fixed + alive) of the tracks `old`, carried on to the tracks `new`; `start` None begins at 0."""
    stays = now[..., fixed + new.start - old.start :] if new.start < old.stop else now[..., :0]
    first = max(old.stop, new.start)
    empty = (*now.shape[:-1], new.stop - first)
    fresh = np.zeros(empty, now.dtype) if start is None else start[..., first : new.stop]
    return np.concatenate([now[..., :fixed], stays, fresh], axis=-1)


def _warmth(songs: pd.DataFrame) -> np.ndarray:
    """Quick songs in major suit the summer."""
    tempo = np.log2(songs["tempo"].to_numpy() / 110) / 0.37
    return 0.7 * tempo + 0.7 * (2 * songs["mode"].to_numpy() - 1)


def lasting_appeal(market: Market, unheard: Unheard, fame: np.ndarray | None = None) -> np.ndarray:
    """(runs, regions, tracks) of all that lasts; `fame` (runs, regions, songs) replaces the one drawn."""
    artist = market.songs["artist"].to_numpy()
    appeal = np.empty(unheard.base.shape, np.float32)
    # Run by run, to keep the memory small.
    for run in range(len(appeal)):
        known = unheard.fame[run][artist] + unheard.fame_region[run][:, artist] if fame is None else fame[run]
        appeal[run] = (market.audible + known)[:, market.song_of] + unheard.base[run]
    return appeal


class Lives:
    """Every stream of the run that happened, by track and region, in an array a track's life wide."""

    def __init__(self, market: Market) -> None:
        self._market = market
        self._released = week_of(market.tracks["release_day"].to_numpy().astype("datetime64[D]"))
        self._by_name = np.argsort(market.tracks["track_id"].to_numpy(), kind="stable")
        shape = (len(market.regions), len(market.tracks) - market.perennial, LIFE + 1)
        self._passing = np.zeros(shape)
        self._perennial = np.zeros((len(market.regions), market.perennial, WEEKS))

    def add(self, region: int, week: int, columns: np.ndarray, streams: np.ndarray) -> None:
        """Streams (columns,) of the tracks `columns` in a week."""
        passing = columns >= self._market.perennial
        self._perennial[region, columns[~passing], week] = streams[~passing]
        tracks = columns[passing]
        self._passing[region, tracks - self._market.perennial, week - self._released[tracks]] = streams[passing]

    def tables(self, rows: int) -> Iterator[pd.DataFrame]:
        """All weeks with streams, `track_id, region, date, streams` sorted by the first three, `rows` at a time."""
        count = np.empty(len(self._market.tracks), np.int64)
        count[: self._market.perennial] = np.count_nonzero(self._perennial, axis=(0, 2))
        count[self._market.perennial :] = np.count_nonzero(self._passing, axis=(0, 2))
        ends = np.cumsum(count[self._by_name])
        for start in range(0, int(ends[-1]), rows):
            stop = min(start + rows, int(ends[-1]))
            first, last = np.searchsorted(ends, [start, stop - 1], side="right")
            before = int(ends[first] - count[self._by_name[first]])
            found = np.zeros(int(ends[last]) - before, _ROW)
            for track, end in zip(self._by_name[first : last + 1], ends[first : last + 1] - before, strict=True):
                self._fill(found[end - count[track] : end], track)
            yield _table(self._market, found[start - before : stop - before])

    def _fill(self, found: np.ndarray, track: int) -> None:
        """Writes the weeks of one track with streams into `found`, by region code and week."""
        perennial = track < self._market.perennial
        weeks = self._perennial[:, track] if perennial else self._passing[:, track - self._market.perennial]
        order = np.argsort(self._market.regions)
        place, week = np.nonzero(weeks[order])
        region = order[place]
        found["track"], found["region"], found["streams"] = track, region, weeks[region, week]
        found["week"] = week if perennial else week + self._released[track]


_ROW = np.dtype([("track", "i4"), ("region", "i1"), ("week", "i2"), ("rank", "i2"), ("streams", "f8")])


def truth(market: Market) -> tuple[Lives, pd.DataFrame, pd.DataFrame]:
    """The one run that happened.

    Returns:
        every stream, also of tracks that no chart shows, the curves that the charts show (track_id, region, date,
        streams, rank) and the charts on hand (region, date, floor, lowest, size).
    """
    random = random_for(market.seed, "truth")
    unheard = draw_unheard(market, 1, random)
    lives = Lives(market)
    shown, charts = [], []
    for week in simulate(market, unheard, random, lasting_appeal(market, unheard)):
        if week.week < 0:
            continue
        for row, region in enumerate(market.regions):
            streams = np.round(10.0 ** week.streams[0, row].astype(float))
            lives.add(row, week.week, week.columns, streams)
            if not market.on_hand[row, week.week]:
                continue
            # Rounding may tie neighbours, which keep their order.
            best = week.top[0, row][week.charted[0, row]]
            found = np.zeros(len(best), _ROW)
            found["track"], found["streams"] = week.columns[best], streams[best]
            found["region"], found["week"], found["rank"] = row, week.week, np.arange(1, len(best) + 1)
            shown.append(found)
            # The project's floor: ranks 195 to 200, or the lowest of a shorter chart.
            tail = streams[best][194:200] if len(best) >= 195 else streams[best][-1:]
            date = week_end(week.week).astype("datetime64[s]")
            charts.append((region, date, tail.mean(), streams[best][-1], len(best)))
    columns = ["region", "date", "floor", "lowest", "size"]
    curves = _table(market, _by_track(market, np.concatenate(shown)), ranked=True)
    return lives, curves, pd.DataFrame(charts, columns=columns)


def _by_track(market: Market, rows: np.ndarray) -> np.ndarray:
    name_order = market.tracks["track_id"].rank().to_numpy()
    region_order = np.argsort(np.argsort(market.regions))
    return rows[np.lexsort((rows["week"], region_order[rows["region"]], name_order[rows["track"]]))]


def _table(market: Market, rows: np.ndarray, ranked: bool = False) -> pd.DataFrame:
    table = {
        "track_id": pd.array(market.tracks["track_id"].to_numpy(), dtype="str").take(rows["track"]),
        "region": pd.array(np.array(market.regions), dtype="str").take(rows["region"]),
        "date": week_end(rows["week"]).astype("datetime64[s]"),
        "streams": rows["streams"].copy(),
    }
    return pd.DataFrame(table | ({"rank": pd.array(rows["rank"].astype(np.int32), dtype="Int32")} if ranked else {}))
