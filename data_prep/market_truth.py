"""A market's songs in; the run that happened out: every week's streams, the charts that show some of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from data_prep.market_draw import Market, Unheard, draw_unheard, lasting_appeal
from data_prep.market_law import (
    ADVANTAGE,
    JUMP_RATE,
    JUMP_SIZE,
    LIFE,
    LUCK_HOLD,
    LUCK_WEEK,
    WARM_UP,
    WEEKS,
    christmas,
    random_for,
    season,
    size_of,
    week_end,
    week_of,
)

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
