"""A market in; what the best possible forecaster of it would say out, from re-runs with all that is unheard redrawn."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise, product
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd
from scipy.special import ndtri

from data_prep.market_draw import Market, Unheard, draw_unheard, lasting_appeal
from data_prep.market_law import DEBUT_WITHIN, FAME, FAME_REGION, FIRST_WEEK_END, HORIZON, WEEKS, random_for
from data_prep.market_runs import NEVER, Curves, Outcomes, RunFiles
from data_prep.market_truth import simulate

QUANTILES = np.arange(1, 10) / 10
QUANTILE_NAMES = [f"{quantile:.1f}" for quantile in QUANTILES]
TARGETS = ("total", "debut_rank", "length")
MIN_RUNS = 8
_ABSENT = -1.0
RUNS_AT_ONCE = 32  # a block of re-runs shares its arrays; the block's number keys its random draws
SONGS_AT_ONCE = 256  # songs whose re-runs are in memory together


def outcomes(
    market: Market,
    unheard: Unheard,
    random: np.random.Generator,
    appeal: np.ndarray,
    stream: BinaryIO | None = None,
) -> Outcomes:
    """Runs the market and keeps of it what the project's definition of a debut keeps.

    Args:
        market, unheard, random, appeal: as for `simulate`.
        stream: where the curves of all debuts go, see `Curves`.
    """
    runs, regions, songs = len(appeal), len(market.regions), len(market.songs)
    shape = (runs, regions, songs)
    first = np.full(shape, NEVER, np.int16)
    rank = np.zeros(shape, np.int16)
    total = np.zeros(shape, np.float32)
    bits = np.zeros(shape, np.int16)
    row = np.full(shape, -1, np.int32)
    floor = np.full((runs, regions, WEEKS), np.nan, np.float32)
    offset = (np.arange(runs * regions) * songs).reshape(runs, regions, 1)
    curves = Curves(stream)
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
        debuts = np.unique(cells[new])
        row.reshape(-1)[debuts] = curves.week(len(debuts))
        age = week.week - first.reshape(-1)[cells]
        counts = age < HORIZON
        cells, age, linear = cells[counts], age[counts], 10 ** streams[week.charted][counts]
        np.add.at(total.reshape(-1), cells, linear)
        np.bitwise_or.at(bits.reshape(-1), cells, (1 << age).astype(np.int16))
        curves.add(row.reshape(-1)[cells], age, linear)
    curves.close()
    length = np.bitwise_count(bits).astype(np.int16)
    return Outcomes(total, rank, length, first, *_kept(market, first), floor, row)


def _kept(market: Market, first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which debuts count (charts on hand around them, not old), and which songs had their chance and stayed away."""
    hole = np.concatenate([np.zeros((len(market.regions), 1)), np.cumsum(~market.on_hand, 1)], 1)
    rows = np.arange(len(market.regions))[:, None]

    def whole(start: np.ndarray, stop: np.ndarray) -> np.ndarray:
        inside = (start >= 0) & (stop <= WEEKS)
        return inside & (hole[rows, np.clip(stop, 0, WEEKS)] == hole[rows, np.clip(start, 0, WEEKS)])

    release = market.tracks.groupby("song")["release_day"].min().to_numpy().astype("datetime64[D]")
    released = (release - FIRST_WEEK_END).astype(np.int32)
    start = _first_launch(market)
    chance = whole(start, start + HORIZON)
    charted, missed = np.empty(first.shape, bool), np.empty(first.shape, bool)
    # Run by run, to keep the memory small.
    for run, weeks in enumerate(first):
        late = 7 * weeks.astype(np.int32) - released > DEBUT_WITHIN
        earliest = np.where(weeks == NEVER, np.int16(WEEKS), weeks).min(0, keepdims=True)
        late |= 7 * (weeks - earliest) > DEBUT_WITHIN
        # Week 0 opens the gap-free run; a debut counts from 15 days after it, which are three weeks.
        around = whole(weeks - 1, weeks + HORIZON) & (weeks >= 3)
        charted[run] = (weeks != NEVER) & around & ~late
        missed[run] = (weeks == NEVER) & chance
    return charted, missed


@dataclass(frozen=True)
class Fame:
    """What is known of the fame that each song has in each region: normal, arrays (regions, songs) in log10 streams."""

    mean: np.ndarray
    deviation: np.ndarray


def rerun(market: Market, inputs: str, block: int, folder: Path, fame: Fame | None = None) -> None:
    """RUNS_AT_ONCE re-runs into files; their numbers depend on the market, `inputs`, `block` and `fame` alone.

    Args:
        folder: where `RunFiles` finds them.
        fame: what the artists' histories say; None draws fame from the law of the market.
    """
    random = random_for(market.seed, "oracle", inputs, block)
    unheard = draw_unheard(market, RUNS_AT_ONCE, random)
    known = None
    if fame is not None:
        shared = FAME**2 / (FAME**2 + FAME_REGION**2)
        shape = (RUNS_AT_ONCE, 1, len(market.songs))
        known = np.sqrt(shared) * random.standard_normal(shape)
        known = known + np.sqrt(1 - shared) * random.standard_normal((RUNS_AT_ONCE, *fame.mean.shape))
        known *= fame.deviation
        known += fame.mean
    appeal = lasting_appeal(market, unheard, known)
    # Arrays as long as the catalogue are let go as soon as nobody needs them.
    del known
    unheard = replace(unheard, base=appeal)
    files = RunFiles(folder)
    with open(files.curve_path(inputs, block), "wb") as stream:
        result = outcomes(market, unheard, random, appeal, stream)
    files.save(inputs, block, result, unheard.fame[:, None] + unheard.fame_region)


class Oracle:
    """Turns re-runs into predictive distributions.

    `audio` knows a song's attributes, its region, its release and the calendar. `audio+history` also knows how the
    earlier songs of the artist fared, as far as their horizons had ended by the cut-off of the song (the week before
    its debut in the region). Neither knows the song's own fate in another region. All is given that the song charts.

    Args:
        market: the market.
        folder: where `rerun` has put its blocks.
    """

    def __init__(self, market: Market, folder: Path) -> None:
        self.market = market
        self.runs = RunFiles(folder)
        random = random_for(market.seed, "truth")
        unheard = draw_unheard(market, 1, random)
        self.truth = outcomes(market, unheard, random, lasting_appeal(market, unheard))

    def fame_from_history(self) -> Fame:
        """Normal posterior of every song's fame given what the charts had shown of its artist by its cut-off.

        An earlier song's outcome enters as a normal score z among its own audio-only re-runs (songs that stayed off the
        chart share the lowest scores). Under the law of the market z is close to linear in fame, so that the moments of
        (z, fame), taken from the re-runs, are all that a normal posterior needs.
        """
        market, truth = self.market, self.truth
        artist = market.songs["artist"].to_numpy()
        score = self._scores()
        same, other, twin = self._moments(artist)
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

    def _scores(self) -> np.ndarray:
        """Normal scores of each outcome among the audio-only re-runs at unit variance; NaN where it does not count.

        Returns:
            (regions, songs) of what happened. Those of the re-runs go into files, (runs, songs) a region.
        """
        songs = len(self.market.songs)
        actual = np.full((len(self.market.regions), songs), np.nan)
        for region in range(len(self.market.regions)):
            shape = (RUNS_AT_ONCE * len(self.runs.blocks("audio")), songs)
            stored = np.lib.format.open_memmap(self._score_path(region), "w+", np.float32, shape)
            for some in _pieces(songs):
                stored[:, some], actual[region, some] = self._scores_of(region, some)
            stored.flush()
        return actual

    def _score_path(self, region: int) -> Path:
        return self.runs.folder / f"scores-{region}.npy"

    def _scores_of(self, region: int, songs: slice) -> tuple[np.ndarray, np.ndarray]:
        names = ("total", "charted", "missed")
        drawn = _one_number(*(self.runs.read("audio", name, region, songs) for name in names))
        happened = _one_number(*(getattr(self.truth, name)[0, region, songs] for name in names))
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
        actual = np.where(np.isfinite(happened), ndtri((below + 0.5) / (count + 1.0)) / spread, np.nan)
        return (score / spread).astype(np.float32), actual

    def _moments(self, artist: np.ndarray) -> tuple[float, float, float]:
        """Mean products of a score with fame in its own region, in another, and with the song's score in another."""
        regions = range(len(self.market.regions))

        def with_fame(one: int, two: int) -> np.float32:
            fame = self.runs.read("audio", "fame", two)
            return _mean_product(self._score_path(one), (row[artist] for row in fame))

        same = float(np.mean([with_fame(one, one) for one in regions]))
        pairs = [(one, two) for one, two in product(regions, regions) if one != two]
        if not pairs:
            return same, same * FAME**2 / (FAME**2 + FAME_REGION**2), 0.0
        other = np.mean([with_fame(one, two) for one, two in pairs])
        twin = np.mean(
            [_mean_product(self._score_path(one), np.load(self._score_path(two), mmap_mode="r")) for one, two in pairs]
        )
        return same, float(other), float(twin)

    def _asked(self, rows: pd.DataFrame) -> Iterator[tuple[int, np.ndarray]]:
        """Region by region, the songs (n,) that rows of `track_id, region` ask about."""
        song = pd.Series(self.market.song_of, self.market.tracks["track_id"]).loc[rows["track_id"]].to_numpy()
        region = pd.Index(self.market.regions).get_indexer(pd.Index(rows["region"]))
        for here in range(len(self.market.regions)):
            yield here, song[region == here]

    def table(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Predictive distributions of single numbers.

        Args:
            rows: `track_id, region` of the debuts to answer.

        Returns:
            `song_id, region, target, inputs, runs, mean, 0.1 … 0.9`, three targets and every kind of inputs a row;
            `runs` is in how many re-runs the song charted. Where fewer than MIN_RUNS did, the distribution is that of
            all songs which charted in the region.
        """
        tables = []
        for inputs, target, (here, songs) in product(self.inputs, TARGETS, self._asked(rows)):
            for some in _pieces(len(songs)):
                answers = self._answers(inputs, target, here, songs[some])
                answers["song_id"] = self.market.songs["song_id"].to_numpy()[songs[some]]
                tables.append(answers.assign(region=self.market.regions[here], target=target, inputs=inputs))
        columns = ["song_id", "region", "target", "inputs", "runs", "mean", *QUANTILE_NAMES]
        return pd.concat(tables, ignore_index=True)[columns]

    @property
    def inputs(self) -> list[str]:
        """What there are re-runs for."""
        return [inputs for inputs in ("audio", "audio+history") if self.runs.blocks(inputs)]

    def _charted(self, inputs: str, target: str, region: int, songs: np.ndarray | slice) -> np.ndarray:
        """(runs, songs) float32, NaN where off the chart."""
        charted = self.runs.read(inputs, "charted", region, songs)
        return np.where(charted, self.runs.read(inputs, target, region, songs), np.float32(np.nan))

    def _answers(self, inputs: str, target: str, region: int, songs: np.ndarray) -> pd.DataFrame:
        """Re-runs, mean and quantiles of the songs asked for."""
        mine = np.asfortranarray(self._charted(inputs, target, region, songs).astype(float))
        runs = np.isfinite(mine).sum(0)
        if (runs < MIN_RUNS).any():
            values = self._charted(inputs, target, region, slice(None))
            everyone = np.sort(values[np.isfinite(values)])
            evenly = everyone[np.linspace(0, len(everyone) - 1, len(mine)).astype(int)]
            mine[:, runs < MIN_RUNS] = evenly[:, None]
        quantiles = dict(zip(QUANTILE_NAMES, np.nanquantile(mine, QUANTILES, axis=0), strict=True))
        return pd.DataFrame({"runs": runs, "mean": np.nanmean(mine, 0)} | quantiles)

    def curve_tables(self, rows: pd.DataFrame) -> Iterator[pd.DataFrame]:
        """Predictive distributions of the chart-observed streams in each week of the horizon, week 0 the debut.

        Args:
            rows: `track_id, region` of the debuts to answer.

        Yields:
            `song_id, region, inputs, week, runs, mean, 0.1 … 0.9`, a table for every kind of inputs and region; mean
            and quantiles in streams as float32, 0 where the song is off the chart. `runs` as in `table`.
        """
        for inputs, (here, songs) in product(self.inputs, self._asked(rows)):
            if not len(songs):
                continue
            parts = [self._curve_answers(inputs, here, songs[some]) for some in _pieces(len(songs))]
            runs, values = (np.concatenate(part) for part in zip(*parts, strict=True))
            if (runs < MIN_RUNS).any():
                values[runs < MIN_RUNS] = self._anyones_curve(inputs, here)
            table = {
                "song_id": np.repeat(self.market.songs["song_id"].to_numpy()[songs], HORIZON),
                "region": self.market.regions[here],
                "inputs": inputs,
                "week": np.tile(np.arange(HORIZON, dtype=np.int16), len(songs)),
                "runs": np.repeat(runs.astype(np.int32), HORIZON),
            }
            flat = values.reshape(-1, values.shape[-1])
            yield pd.DataFrame(table | dict(zip(["mean", *QUANTILE_NAMES], flat.T, strict=True)))

    def _curve_answers(self, inputs: str, region: int, songs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(songs,) in how many re-runs each charted, and (songs, weeks, 1 + quantiles) mean and quantiles, float32."""
        charted = self.runs.read(inputs, "charted", region, songs)
        streams = self.runs.curves(inputs, region, songs)
        streams[~charted] = np.nan
        return charted.sum(0), _mean_and_quantiles(streams)

    def _anyones_curve(self, inputs: str, region: int) -> np.ndarray:
        """(weeks, 1 + quantiles) over all songs that charted in the region."""
        charted = self.runs.read(inputs, "charted", region)
        answers = []
        for week in range(HORIZON):
            streams = self.runs.curves(inputs, region, slice(None), slice(week, week + 1))
            answers.append(_mean_and_quantiles(streams[charted])[0])
        return np.stack(answers)


def _mean_and_quantiles(values: np.ndarray) -> np.ndarray:
    """(runs, …) with NaN → (…, 1 + quantiles) float32, quantiles interpolated between runs as numpy does by default."""
    values = np.sort(values, axis=0)  # NaN last
    count = np.isfinite(values).sum(0)
    mean = np.nansum(values, axis=0, dtype=float) / np.maximum(count, 1)
    answers = [mean]
    for quantile in QUANTILES:
        place = quantile * np.maximum(count - 1, 0)
        low = place.astype(int)
        high = np.minimum(low + 1, np.maximum(count - 1, 0))
        below, above = (np.take_along_axis(values, here[None], 0)[0].astype(float) for here in (low, high))
        answers.append(below + (place - low) * (above - below))
    return np.stack(answers, axis=-1).astype(np.float32)


def _pieces(count: int) -> list[slice]:
    """Slices of at most SONGS_AT_ONCE; never of one alone, whose sums numpy would round in another order."""
    edges = np.linspace(0, count, max(1, -(-count // SONGS_AT_ONCE)) + 1).astype(int)
    return [slice(int(start), int(stop)) for start, stop in pairwise(edges) if stop > start]


def _mean_product(path: Path, others: Iterable[np.ndarray]) -> np.float32:
    """Mean product of a file's rows with other rows, over the places where it is finite; one array in memory."""
    product = np.load(path)
    known = 0
    for row, other in zip(product, others, strict=True):
        row *= other
        missing = np.isnan(row)
        known += int(np.count_nonzero(~missing))
        row[missing] = 0
    return np.float32(product.sum() / known)


def _one_number(total: np.ndarray, charted: np.ndarray, missed: np.ndarray) -> np.ndarray:
    """Outcome of a song as one number: its total, less than any if it missed the chart, NaN if it does not count."""
    return np.where(charted, total, np.where(missed, _ABSENT, np.nan))


def _first_launch(market: Market) -> np.ndarray:
    launch = np.full((len(market.regions), len(market.songs)), WEEKS)
    for row in range(len(market.regions)):
        np.minimum.at(launch[row], market.song_of, market.launch[row])
    return launch
