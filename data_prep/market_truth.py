"""Regions, songs and dates in; the whole hidden life of a market out: appeal, weekly streams, charts, debuts.

The law of the market, in log10 streams of track i of song s in region r, `age` weeks after its launch there:

    size_r + growth_r·week + season_r(week)                    the region's scale
  + audible_rs + summer_r(week)·warmth_s + Christmas(week)     what a listener of the audio and a calendar can know
  + fame_a + fame_ra + song_s + song_rs                        what nobody can hear
  + burst·fade^age + stay·hold^age                             the curve's shape (also unheard)
  + luck                                                       heavy-tailed, and fed by the position on last week's chart

The last term is the cumulative advantage of Salganik, Dodds and Watts (Science 311, 2006): a position on the chart
multiplies next week's streams, so that equal songs end far apart and a re-run of the market has other winners.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from data_prep.synth import RHYTHMS, TEMPO_RANGE, draw_attributes

DEFAULT_REGIONS = ("US", "GB", "BR", "JP")
FIRST_WEEK_END = np.datetime64("2019-01-03", "D")  # a Thursday, as chart weeks end
WEEKS = 209  # chart weeks on hand: four years
TEST_FROM = "2022-02-10"
HORIZON = 12
WARM_UP = 52  # weeks simulated before the first chart, so that it opens with a living catalogue
FIRST_RELEASE, LAST_RELEASE = 3, 192  # weeks of releases; the last leave room for three weeks of lag and the horizon
LIFE = 60  # weeks after which a song without sleigh bells has left the market for good
DEBUT_WITHIN = 28  # days after release, or after the first chart elsewhere, that a debut may come

# log10 of the weekly streams of a song of average appeal, and log10 growth a year (real floors: 9-12 % a year).
SIZES = {"US": (6.1, 0.040), "GB": (5.4, 0.035), "BR": (5.6, 0.055), "JP": (4.5, 0.045)}
# How strongly each region feels an attribute, before scaling by SHARES; a negative number turns the taste around.
TASTES = {
    "US": {"tempo": 112, "mode": 1.0, "contrast": 1.0, "brightness": 1.0, "percussion": 1.0, "vocals": 1.0},
    "GB": {"tempo": 122, "mode": 0.8, "contrast": 1.1, "brightness": 0.9, "percussion": 1.1, "vocals": 1.1},
    "BR": {"tempo": 104, "mode": 1.2, "contrast": 0.7, "brightness": 0.4, "percussion": 1.4, "vocals": 0.9},
    "JP": {"tempo": 134, "mode": -0.5, "contrast": 1.1, "brightness": 1.4, "percussion": 0.5, "vocals": -0.4},
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
    "tempo": 0.22, "mode": 0.14, "rhythm": 0.18, "contrast": 0.10,
    "brightness": 0.12, "percussion": 0.12, "vocals": 0.12,
}  # fmt: skip
HIDDEN_FROM_MEAN = ("tempo", "mode", "rhythm", "contrast")
TEMPO_BAND = 0.38  # octaves: standard deviation of a region's preference around its tempo

# Standard deviations in log10 streams.
AUDIBLE = 0.42
FAME, FAME_REGION = 0.19, 0.12
SONG, SONG_REGION = 0.22, 0.16
SUMMER = 0.05
CHRISTMAS_PEAK, CHRISTMAS_OFF = 1.5, -0.7
LUCK_START, LUCK_WEEK, LUCK_HOLD = 0.06, 0.045, 0.90
JUMP_RATE, JUMP_SIZE = 0.006, 0.30
ADVANTAGE = 0.035  # log10 a week for the top of the chart, falling to 0 at its end


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
    perennial: int = field(default=0)  # how many tracks at the front never leave the market

    @property
    def song_of(self) -> np.ndarray:
        return self.tracks["song"].to_numpy()

    @property
    def artists(self) -> int:
        return int(self.songs["artist"].max()) + 1


def week_of(days: np.ndarray) -> np.ndarray:
    """Number of the chart week that holds each date (datetime64[D]); week 0 ends on FIRST_WEEK_END."""
    return -((FIRST_WEEK_END - days).astype(int) // 7)


def week_end(weeks: np.ndarray) -> np.ndarray:
    return FIRST_WEEK_END + 7 * np.asarray(weeks).astype("timedelta64[D]")


def taste_of(region: str) -> tuple[dict[str, float], np.ndarray]:
    """A region's taste; one that the tables above do not know gets its own from its code alone, near the others'."""
    if region in TASTES:
        return TASTES[region], np.array(RHYTHM_TASTES[region])
    random = random_for(0, "taste", region)
    taste = {name: 0.8 + 0.5 * random.standard_normal() for name in TASTES["US"]}
    taste["tempo"] = float(random.uniform(100, 136))
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
    grid = np.linspace(*np.log2(TEMPO_RANGE), 400)

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
    return int(np.clip(round(songs / 26), 5, 200))


def draw_market(songs: int, seed: int, regions: Sequence[str] = DEFAULT_REGIONS) -> Market:
    """Draws what is fixed: songs, attributes, artists, versions, release plans, missing charts.

    Args:
        songs: how many songs with audio; about a fifth as many again are older and have left no recording.
        seed: of everything.
        regions: ISO 3166 codes; any will do.
    """
    old = round(songs * (FIRST_RELEASE + 45) / (LAST_RELEASE - FIRST_RELEASE + 1))
    count = songs + old
    random = random_for(seed, "songs")
    table = draw_attributes(count, random_for(seed, "attributes"))
    table["catalogue"] = np.arange(count) >= songs
    table.insert(0, "song_id", [f"song-{number:05d}" for number in range(count)])
    artists = max(songs // 5, 1)
    weight = 1 / (np.arange(artists) + 3.0) ** 0.8
    table["artist"] = random.choice(artists, count, p=weight / weight.sum())
    week = np.where(
        table["catalogue"],
        random.integers(FIRST_RELEASE - 48, FIRST_RELEASE, count),
        np.sort(random.integers(FIRST_RELEASE, LAST_RELEASE + 1, count)),
    )
    # Songs with sleigh bells come out from mid-October to mid-December.
    days = week_end(week)
    year = days.astype("datetime64[Y]")
    autumn = year.astype("datetime64[D]") + np.timedelta64(288, "D") + random.integers(0, 56, count)
    late = week_of(autumn) > LAST_RELEASE
    autumn = np.where(late, (year - 1).astype("datetime64[D]") + (autumn - year.astype("datetime64[D]")), autumn)
    week = np.where(table["sleigh"] == 1, week_of(autumn), week)
    # A chart week runs from Friday to Thursday: most songs come out on its first day, some later in it.
    weekday = np.where(random.random(count) < 0.72, 0, random.integers(1, 7, count))
    release = week_end(week) - 6 + weekday
    tracks = _versions(table, release, random_for(seed, "versions"))
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
    )


VERSIONS = ("live", "instrumental", "sped up", "remaster")
_VERSION_DELAY = {"live": (60, 300), "instrumental": (14, 120), "sped up": (14, 70), "remaster": (150, 400)}  # days


def _versions(songs: pd.DataFrame, release: np.ndarray, random: np.random.Generator) -> pd.DataFrame:
    """One row for every song, and a second one for the 15 % that come out again."""
    main = pd.DataFrame({"song": np.arange(len(songs)), "version": "", "release_day": release, "share": 0.0})
    second = main[(random.random(len(songs)) < 0.15) & ~songs["catalogue"].to_numpy()].copy()
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
    regions, tracks, songs = len(market.regions), len(market.tracks), len(market.songs)
    normal = lambda *shape: random.standard_normal(shape, dtype=np.float32)  # noqa: E731
    fame = FAME * normal(runs, market.artists)
    fame_region = FAME_REGION * normal(runs, regions, market.artists)
    # Student's t with 4 degrees of freedom: standard deviation sqrt(2).
    heavy = lambda *shape: random.standard_t(4, shape).astype(np.float32) / np.sqrt(np.float32(2))  # noqa: E731
    per_song = SONG * normal(runs, 1, songs) + SONG_REGION * heavy(runs, regions, songs)
    kind = random.choice(3, (runs, 1, songs), p=[0.62, 0.28, 0.10])[:, :, market.song_of]
    shape = (runs, 1, tracks)
    burst = np.choose(kind, [random.uniform(0.05, 0.6, shape), random.uniform(-1.0, -0.2, shape), 0.1])
    bloom_age = np.where(kind == 2, random.integers(2, 20, shape), -1)
    christmas_song = market.songs["sleigh"].to_numpy()[market.song_of] == 1
    hold = np.choose(kind, [random.uniform(0.93, 0.985, shape), random.uniform(0.97, 0.99, shape), 0.975])
    return Unheard(
        fame=fame,
        fame_region=fame_region,
        base=per_song[:, :, market.song_of]
        + LUCK_START * heavy(runs, regions, tracks)
        + market.tracks["share"].to_numpy(np.float32),
        burst=(burst + 0.08 * normal(runs, regions, tracks)).astype(np.float32),
        fade=np.choose(kind, [random.uniform(0.3, 0.7, shape), random.uniform(0.7, 0.88, shape), 0.5]).astype(
            np.float32
        ),
        # A Christmas song comes back year after year; all others sink for good.
        stay=np.where(christmas_song, 0.3, random.uniform(1.6, 2.4, shape)).astype(np.float32),
        hold=hold.astype(np.float32),
        bloom_age=bloom_age.astype(np.int16),
        bloom=random.uniform(0.4, 1.2, shape).astype(np.float32),
    )


@dataclass(frozen=True)
class Week:
    """One week of every re-run."""

    week: int
    columns: np.ndarray  # (alive,) rows of market.tracks
    streams: np.ndarray  # (runs, regions, alive) log10, -inf before the launch
    top: np.ndarray  # (runs, regions, chart size) positions in `columns`, best first
    charted: np.ndarray  # (runs, regions, chart size) False where fewer tracks are alive than the chart has places


def simulate(
    market: Market, unheard: Unheard, random: np.random.Generator, appeal: np.ndarray
) -> Iterator[Week]:
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
    burst, stay, luck = unheard.burst.copy(), unheard.stay.copy(), np.zeros_like(appeal)
    places = np.arange(market.chart_size)
    bonus = (ADVANTAGE * (1 - np.log1p(places) / np.log1p(market.chart_size))).astype(np.float32)
    for step, week in enumerate(weeks):
        low, high = market.perennial + np.searchsorted(
            released[market.perennial :], [week - LIFE, week + 1]
        )
        columns = np.r_[0 : market.perennial, low:high]
        blocks = [slice(0, market.perennial), slice(low, high)]
        age = week - market.launch[:, columns]
        fixed = scale[:, step, None] + market.summer[:, step, None] * warmth[columns]
        fixed = fixed + holiday[step] * bells[columns] + np.where(age == 0, first_fraction[columns], 0)
        fixed = np.where(age >= 0, fixed, -np.inf).astype(np.float32)
        streams = np.concatenate(
            [appeal[..., b] + burst[..., b] + stay[..., b] + luck[..., b] for b in blocks], axis=-1
        )
        streams += fixed
        top = np.argsort(-streams, axis=-1)[..., : market.chart_size]
        charted = np.take_along_axis(streams, top, -1) > -np.inf
        yield Week(int(week), columns, streams, top, charted)
        gain = np.zeros_like(streams)
        np.put_along_axis(gain, top, np.broadcast_to(bonus[: top.shape[-1]], top.shape), -1)
        gain += LUCK_WEEK * random.standard_normal(gain.shape, dtype=np.float32)
        jumps = random.integers(0, gain.size, random.poisson(JUMP_RATE * gain.size))
        gain.reshape(-1)[jumps] += random.exponential(JUMP_SIZE, len(jumps)).astype(np.float32)
        gain *= age >= 0
        start = 0
        for b in blocks:
            stop = start + b.stop - b.start
            out = age[:, start:stop] >= 0
            luck[..., b] = LUCK_HOLD * luck[..., b] + gain[..., start:stop]
            burst[..., b] *= np.where(out, unheard.fade[..., b], 1)
            breaks = unheard.bloom_age[..., b] == age[:, start:stop]
            burst[..., b] += breaks * unheard.bloom[..., b]
            # `stay` is shared by the regions: it sinks from the release on, which lag delays by three weeks at most.
            stay[..., b] *= np.where(released[b] <= week, unheard.hold[..., b], 1)
            start = stop


def _warmth(songs: pd.DataFrame) -> np.ndarray:
    """Quick songs in major suit the summer."""
    tempo = np.log2(songs["tempo"].to_numpy() / 110) / 0.37
    return 0.7 * tempo + 0.7 * (2 * songs["mode"].to_numpy() - 1)


def lasting_appeal(
    market: Market, unheard: Unheard, fame: np.ndarray | None = None
) -> np.ndarray:
    """(runs, regions, tracks) of all that lasts; `fame` (runs, regions, songs) replaces the one drawn."""
    if fame is None:
        artist = market.songs["artist"].to_numpy()
        fame = unheard.fame[:, None, artist] + unheard.fame_region[:, :, artist]
    return ((market.audible + fame)[:, :, market.song_of] + unheard.base).astype(np.float32)
