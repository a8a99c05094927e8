"""Regions, weeks and songs' attributes in; the law of the market out: sizes, tastes, seasons, and its constants.

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
from typing import Any

import numpy as np
import pandas as pd

from data_prep.synth import RHYTHMS, TEMPO_RANGE

DEFAULT_REGIONS = ("US", "GB", "BR", "JP")
FIRST_WEEK_END = np.datetime64("2019-01-03", "D")  # a Thursday, as chart weeks end
WEEKS = 209  # chart weeks on hand: four years
TEST_FROM = "2022-02-10"
HORIZON = 12
WARM_UP = 52  # weeks simulated before the first chart, so that it opens with a living catalogue
# Weeks in which songs with a recording come out. Songs before and after them keep the charts full, but none of those
# can have a debut that counts: too early, or with its horizon cut off.
FIRST_RELEASE, LAST_RELEASE = -2, 197
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
    """log10 of the weekly streams of a song of average appeal there, and log10 growth a year."""
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
