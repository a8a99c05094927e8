"""A market in; what the best possible forecaster of it would say out, from re-runs with all that is unheard redrawn."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd
from scipy.special import ndtri

from data_prep.market_truth import (
    DEBUT_WITHIN,
    FAME,
    FAME_REGION,
    HORIZON,
    WEEKS,
    Market,
    Unheard,
    draw_unheard,
    lasting_appeal,
    random_for,
    simulate,
    week_end,
)

QUANTILES = np.arange(1, 10) / 10
QUANTILE_NAMES = [f"{quantile:.1f}" for quantile in QUANTILES]
TARGETS = ("total", "debut_rank", "length")
MIN_RUNS = 8
_ABSENT = -1.0
RUNS_AT_ONCE = 32  # a block of re-runs shares its arrays; the block's number keys its random draws


@dataclass
class Outcomes:
    """What each re-run's charts say of each song; arrays are (runs, regions, songs)."""

    total: np.ndarray  # float32, chart-observed streams of the horizon
    debut_rank: np.ndarray  # int16
    length: np.ndarray  # int16, charted weeks of the horizon
    first: np.ndarray  # int16, week of the debut; -1 for never, before the first chart is as early as -WARM_UP
    charted: np.ndarray  # bool: came to the chart while it was new and its horizon is on hand: the row counts
    missed: np.ndarray  # bool: never on a chart within the horizon from its release on
    floor: np.ndarray  # (runs, regions, weeks) float32, log10 of the smallest streams on each chart


NEVER = -999


def outcomes(market: Market, unheard: Unheard, random: np.random.Generator, appeal: np.ndarray) -> Outcomes:
    """Runs the market and keeps of it what the project's definition of a debut keeps."""
    runs, regions, songs = len(appeal), len(market.regions), len(market.songs)
    shape = (runs, regions, songs)
    first = np.full(shape, NEVER, np.int16)
    rank = np.zeros(shape, np.int16)
    total = np.zeros(shape, np.float32)
    bits = np.zeros(shape, np.int32)
    floor = np.full((runs, regions, WEEKS), np.nan, np.float32)
    offset = (np.arange(runs * regions) * songs).reshape(runs, regions, 1)
    for week in simulate(market, unheard, random, appeal):
        if week.week < 0:
            continue
        cells = (market.song_of[week.columns][week.top] + offset)[week.charted]
        streams = np.take_along_axis(week.streams, week.top, -1)
        floor[:, :, week.week] = np.where(week.charted, streams, np.inf).min(-1)
        place = np.broadcast_to(np.arange(1, week.top.shape[-1] + 1), week.top.shape)[week.charted]
        # Several versions may enter together: the last to be written is the best placed.
        new = np.flatnonzero(first.reshape(-1)[cells] == NEVER)[::-1]
        first.reshape(-1)[cells[new]] = week.week
        rank.reshape(-1)[cells[new]] = place[new]
        age = week.week - first.reshape(-1)[cells]
        counts = age < HORIZON
        np.add.at(total.reshape(-1), cells[counts], 10 ** streams[week.charted][counts])
        np.bitwise_or.at(bits.reshape(-1), cells[counts], 1 << age[counts].astype(np.int32))
    return Outcomes(total, rank, np.bitwise_count(bits).astype(np.int16), first, *_kept(market, first), floor)


def _kept(market: Market, first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which debuts count (charts on hand around them, not old), and which songs had their chance and stayed away."""
    hole = np.concatenate([np.zeros((len(market.regions), 1)), np.cumsum(~market.on_hand, 1)], 1)

    def whole(start: np.ndarray, stop: np.ndarray) -> np.ndarray:
        rows = np.arange(len(market.regions))[:, None]
        inside = (start >= 0) & (stop <= WEEKS)
        return inside & (hole[rows, np.clip(stop, 0, WEEKS)] == hole[rows, np.clip(start, 0, WEEKS)])

    release = market.tracks.groupby("song")["release_day"].min().to_numpy().astype("datetime64[D]")
    late = (week_end(first) - release).astype(int) > DEBUT_WITHIN
    earliest = np.where(first == NEVER, np.int16(WEEKS), first).min(1, keepdims=True)
    late |= 7 * (first - earliest) > DEBUT_WITHIN
    # Week 0 opens the gap-free run; a debut counts from 15 days after it, which are three weeks.
    around = whole(first - 1, first + HORIZON) & (first >= 3)
    start = _first_launch(market)
    absent = (first == NEVER) & whole(start, start + HORIZON)
    return (first != NEVER) & around & ~late, absent


@dataclass(frozen=True)
class Fame:
    """What is known of the fame that each song has in each region: normal, arrays (regions, songs) in log10 streams."""

    mean: np.ndarray
    deviation: np.ndarray


def rerun(market: Market, inputs: str, block: int, fame: Fame | None = None) -> tuple[Outcomes, np.ndarray]:
    """RUNS_AT_ONCE re-runs; their numbers depend on the market, `inputs` and `block` alone.

    Args:
        fame: what the artists' histories say; None draws fame from the law of the market.

    Returns:
        the outcomes and (runs, regions, artists) the fame drawn from the law.
    """
    random = random_for(market.seed, "oracle", inputs, block)
    unheard = draw_unheard(market, RUNS_AT_ONCE, random)
    known = None
    if fame is not None:
        shared = FAME**2 / (FAME**2 + FAME_REGION**2)
        shape = (RUNS_AT_ONCE, 1, len(market.songs))
        noise = np.sqrt(shared) * random.standard_normal(shape)
        noise = noise + np.sqrt(1 - shared) * random.standard_normal((RUNS_AT_ONCE, *fame.mean.shape))
        known = fame.mean + fame.deviation * noise
    result = outcomes(market, unheard, random, lasting_appeal(market, unheard, known))
    return result, unheard.fame[:, None] + unheard.fame_region


class Oracle:
    """Collects re-runs and turns them into predictive distributions.

    `audio` knows a song's attributes, its region, its release and the calendar. `audio+history` also knows how the
    earlier songs of the artist fared, as far as their horizons had ended by the cut-off of the song (the week before
    its debut in the region). Neither knows the song's own fate in another region. All is given that the song charts.
    """

    def __init__(self, market: Market) -> None:
        self.market = market
        random = random_for(market.seed, "truth")
        unheard = draw_unheard(market, 1, random)
        self.truth = outcomes(market, unheard, random, lasting_appeal(market, unheard))
        self._runs: dict[str, list[Outcomes]] = {}
        self._fame: list[np.ndarray] = []

    def add(self, inputs: str, result: tuple[Outcomes, np.ndarray]) -> None:
        self._runs.setdefault(inputs, []).append(result[0])
        if inputs == "audio":
            self._fame.append(result[1].astype(np.float32))

    def _collected(self, inputs: str, name: str, region: int) -> np.ndarray:
        """(runs, songs)"""
        return np.concatenate([getattr(run, name)[:, region] for run in self._runs[inputs]])

    def fame_from_history(self) -> Fame:
        """Normal posterior of every song's fame given what the charts had shown of its artist by its cut-off.

        An earlier song's outcome enters as a normal score z among its own audio-only re-runs (songs that stayed off the
        chart share the lowest scores). Under the law of the market z is close to linear in fame, so that the moments of
        (z, fame), taken from the re-runs, are all that a normal posterior needs.
        """
        market, truth = self.market, self.truth
        artist = market.songs["artist"].to_numpy()
        scores, score = self._scores()
        same, other, twin = _moments(scores, np.concatenate(self._fame), artist)
        slope_all, slope_region = other / FAME**2, (same - other) / FAME_REGION**2
        between_all, between_region = slope_all**2 * FAME**2, slope_region**2 * FAME_REGION**2
        known_from = np.where(truth.charted[0], truth.first[0].astype(int), _first_launch(market)) + HORIZON - 1
        region, song = np.nonzero(np.isfinite(score))
        mean = np.zeros(score.shape)
        variance = np.full(score.shape, FAME**2 + FAME_REGION**2)
        by_artist = {number: np.flatnonzero(artist[song] == number) for number in np.unique(artist[song])}
        for here, this in zip(*np.nonzero(truth.charted[0]), strict=True):
            past = by_artist.get(artist[this], np.empty(0, int))
            past = past[(known_from[region[past], song[past]] < truth.first[0, here, this]) & (song[past] != this)]
            if not len(past):
                continue
            alike = region[past][:, None] == region[past]
            one_song = song[past][:, None] == song[past]
            covariance = between_all + between_region * alike
            covariance = np.where(one_song, twin, covariance)
            np.fill_diagonal(covariance, 1.0)
            with_fame = np.where(region[past] == here, same, other)
            weights = np.linalg.solve(covariance, with_fame)
            mean[here, this] = weights @ score[region[past], song[past]]
            variance[here, this] -= weights @ with_fame
        return Fame(mean, np.sqrt(np.maximum(variance, 1e-6)))

    def _scores(self) -> tuple[np.ndarray, np.ndarray]:
        """Normal scores of each outcome among the audio-only re-runs at unit variance; NaN where it does not count.

        Returns:
            (runs, regions, songs) of the re-runs and (regions, songs) of what happened; region by region, to keep the
            memory small.
        """
        runs, actual = [], []
        for region in range(len(self.market.regions)):
            names = ("total", "charted", "missed")
            drawn = _one_number(*(self._collected("audio", name, region) for name in names))
            happened = _one_number(*(getattr(self.truth, name)[0, region] for name in names))
            known = np.isfinite(drawn)
            count, absent = known.sum(0), drawn == _ABSENT
            order = np.argsort(np.argsort(drawn, axis=0), axis=0) + 1.0
            order = np.where(absent, (absent.sum(0) + 1) / 2, order)
            score = np.where(known, ndtri((np.minimum(order, count) - 0.5) / np.maximum(count, 1)), np.nan)
            mean = np.where(known, score, 0).sum(0) / np.maximum(count, 1)
            spread = np.sqrt(np.where(known, (score - mean) ** 2, 0).sum(0) / np.maximum(count, 1))
            # Songs whose fate the audio settles tell nothing of anything else.
            spread = np.where((count >= 16) & (spread > 0.3), spread, np.nan)
            below = (known & (drawn < happened)).sum(0) + 0.5 * (known & (drawn == happened)).sum(0)
            runs.append((score / spread).astype(np.float32))
            actual.append(np.where(np.isfinite(happened), ndtri((below + 0.5) / (count + 1.0)) / spread, np.nan))
        return np.stack(runs, axis=1), np.stack(actual)

    def table(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Predictive distributions.

        Args:
            rows: `track_id, region` of the debuts to answer.

        Returns:
            `song_id, region, target, inputs, runs, mean, 0.1 … 0.9`, three targets and every kind of inputs a row;
            `runs` is in how many re-runs the song charted. Where fewer than MIN_RUNS did, the distribution is that of
            all songs which charted in the region.
        """
        market = self.market
        song = pd.Series(market.song_of, market.tracks["track_id"]).loc[rows["track_id"]].to_numpy()
        region = pd.Index(market.regions).get_indexer(pd.Index(rows["region"]))
        tables = []
        for inputs, target, here in product(self._runs, TARGETS, range(len(market.regions))):
            charted = self._collected(inputs, "charted", here)
            values = np.where(charted, self._collected(inputs, target, here), np.float32(np.nan))
            answers = _answers(values, song[region == here])
            answers["song_id"] = market.songs["song_id"].to_numpy()[song[region == here]]
            tables.append(answers.assign(region=market.regions[here], target=target, inputs=inputs))
        columns = ["song_id", "region", "target", "inputs", "runs", "mean", *QUANTILE_NAMES]
        return pd.concat(tables, ignore_index=True)[columns]


def _answers(values: np.ndarray, songs: np.ndarray) -> pd.DataFrame:
    """Re-runs, mean and quantiles of the songs asked for; `values` (runs, all songs) are NaN where off the chart."""
    mine = values[:, songs].astype(float)
    runs = np.isfinite(mine).sum(0)
    if (runs < MIN_RUNS).any():
        everyone = np.sort(values[np.isfinite(values)])
        evenly = everyone[np.linspace(0, len(everyone) - 1, len(mine)).astype(int)]
        mine[:, runs < MIN_RUNS] = evenly[:, None]
    quantiles = dict(zip(QUANTILE_NAMES, np.nanquantile(mine, QUANTILES, axis=0), strict=True))
    return pd.DataFrame({"runs": runs, "mean": np.nanmean(mine, 0)} | quantiles)


def _one_number(total: np.ndarray, charted: np.ndarray, missed: np.ndarray) -> np.ndarray:
    """Outcome of a song as one number: its total, less than any if it missed the chart, NaN if it does not count."""
    return np.where(charted, total, np.where(missed, _ABSENT, np.nan))


def _first_launch(market: Market) -> np.ndarray:
    launch = np.full((len(market.regions), len(market.songs)), WEEKS)
    for row in range(len(market.regions)):
        np.minimum.at(launch[row], market.song_of, market.launch[row])
    return launch


def _moments(score: np.ndarray, fame: np.ndarray, artist: np.ndarray) -> tuple[float, float, float]:
    """Mean products of a score with fame in its own region, in another, and with the same song's score in another.

    Args:
        score: (runs, regions, songs).
        fame: (runs, regions, artists).
        artist: (songs,)
    """
    regions = range(score.shape[1])
    same = float(np.mean([np.nanmean(score[:, one] * fame[:, one][:, artist]) for one in regions]))
    pairs = [(one, two) for one, two in product(regions, regions) if one != two]
    if not pairs:
        return same, same * FAME**2 / (FAME**2 + FAME_REGION**2), 0.0
    other = np.mean([np.nanmean(score[:, one] * fame[:, two][:, artist]) for one, two in pairs])
    twin = np.mean([np.nanmean(score[:, one] * score[:, two]) for one, two in pairs])
    return same, float(other), float(twin)
