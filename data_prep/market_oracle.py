"""A market in; what the best possible forecaster of it would say out, from re-runs with all that is unheard redrawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from data_prep.market_truth import (
    DEBUT_WITHIN,
    HORIZON,
    WEEKS,
    Market,
    Unheard,
    Week,
    draw_unheard,
    lasting_appeal,
    random_for,
    simulate,
    week_end,
)

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
    start = np.full((len(market.regions), len(market.songs)), WEEKS)
    np.minimum.at(start.T, market.song_of, market.launch.T)
    absent = (first == NEVER) & whole(start, start + HORIZON)
    return (first != NEVER) & around & ~late, absent


def rerun(market: Market, variant: str, block: int, seed: int, fame: tuple | None = None) -> tuple[Outcomes, Unheard]:
    """One block of re-runs; its numbers depend on the market's seed, `variant`, `block` and `seed` alone.

    Args:
        fame: mean (songs, 1 + regions) and covariance root (songs, 1 + regions, 1 + regions) of what the history of
            each song's artist says about (fame, fame in each region); None draws it from the law of the market.
    """
    random = random_for(market.seed, "oracle", variant, seed, block)
    unheard = draw_unheard(market, RUNS_AT_ONCE, random)
    known = None
    if fame is not None:
        mean, root = fame
        noise = random.standard_normal((RUNS_AT_ONCE, *mean.shape), dtype=np.float32)
        draw = mean + np.einsum("sij,rsj->rsi", root, noise)
        known = np.swapaxes(draw[..., :1] + draw[..., 1:], 1, 2)
    appeal = lasting_appeal(market, unheard, known)
    return outcomes(market, unheard, random, appeal), unheard
