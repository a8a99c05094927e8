"""Rows (song, region, debut, cut-off) in, what may be known of them out: arrays for a batch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from mp3model.tables.calendar import calendar_features
from mp3model.tables.curves import BELOW, OBSERVED, PERIOD_DAYS, UNKNOWN, CurveArrays, period_dates
from mp3model.tables.history import LIFE_FEATURES, STATE_FEATURES, History, RegionStates, same_period_last_year

# Groups of inputs a model may be given, each absent in use if the user has none of it.
GROUPS = ("state", "artist", "regions", "release", "past")
# Lives looked at: the song's in other regions and the artist's latest here (as tokens); and, as statistics alone, more
# of the artist's here, and the artist's elsewhere.
OTHER_REGIONS, ARTIST_TOKENS, ARTIST_HERE, ARTIST_ELSEWHERE = 48, 12, 24, 256
# What became of an artist's songs: the statistics of `_record`.
RECORD_FEATURES = 13
# Guests of a song whose own songs are looked at, and how many of these in other regions: statistics alone.
GUESTS, GUEST_ELSEWHERE = 3, 128
# A life that began no more periods ago is young.
_YOUNG = 8
OTHER_REGION_TOKEN, ARTIST_TOKEN = 0, 1
TOKEN_FEATURES = len(LIFE_FEATURES) + 3
# Of a song with a past: periods before its first one asked for, each by value, below and unknown; and of all of them
# peak, number, total, age, whether the last is on the chart, and by how much the region's floor grew in a year.
PAST_PERIODS, PAST_TOTALS = 8, 6
# Days that a song was out before its first period, the first day of each class.
DAYS_BEFORE = np.array([0, 1, 2, 4, 7, 14, 21, 28, 91, 365])
# Of a period that was: value, charted, below. Of the same period last year also in which share of all regions the song
# charted, then and a year before: what came back once, anywhere, comes back again.
PERIOD_FEATURES = 3
LAST_YEAR_FEATURES = PERIOD_FEATURES + 2
# Static features a group has.
STATIC_WIDTHS = {
    "artist": 27 + 2 * RECORD_FEATURES + 1 + 2 * RECORD_FEATURES,
    "regions": 12,
    "release": 8 + len(DAYS_BEFORE) + 7,
    "state": len(STATE_FEATURES),
    "past": PERIOD_FEATURES * PAST_PERIODS + PAST_TOTALS,
}


def static_width(groups: tuple[str, ...] | list[str]) -> int:
    """How many static features the groups have together."""
    return sum(STATIC_WIDTHS[group] for group in groups)


def _days(dates: Any) -> np.ndarray:
    return np.asarray(dates, dtype="datetime64[D]").astype(np.int64)


@dataclass
class Covariates:
    """Gathers what may be known of rows as of their cut-offs.

    Attributes:
        regions: The model's, in its order; others become the unknown region.
        frequency: `W` or `D`.
        horizon: Periods of a curve.
        groups: Of `GROUPS`.
        states: State of the regions by date, of the dataset or as stored with the model.
        history: Lives of other songs, or None where no dataset is on hand.
    """

    regions: list[str]
    frequency: str
    horizon: int
    groups: tuple[str, ...]
    states: RegionStates
    history: History | None = None
    _region_place: pd.Index = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._region_place = pd.Index(self.regions)

    def gather(self, rows: pd.DataFrame, curves: CurveArrays | None = None) -> dict[str, np.ndarray]:
        """Arrays of n rows.

        Args:
            rows: `song_id, artist` (its key), `region, debut, cutoff, observed`; with the artist group also `guests`
                (keys), with the release group `release_date`. `observed` periods from debut on may be read from
                `curves`.
            curves: The rows' curves over the horizon; None where nothing is observed.

        Returns:
            `region` (n,), `static` (n, S), `calendar` (n, H, C), `tokens` (n, M, F), `token_kind`, `token_region` and
            `token_known` (n, M), `floor` (n,) streams, `last_threshold` (n,), `observed` (n,), and of the curve, in
            log10 of floor units, `value`, `state` and `threshold` (n, H): all of the horizon, for training; what lies
            after the observed periods is masked by the decoder, or by `only_observed` before. With the past group
            also `before` (n, 1, `PERIOD_FEATURES`), `last_year` (n, H, `LAST_YEAR_FEATURES`) and `running` (n,) bool,
            see `Covariates.past`.

        Raises:
            InputError: If a region has no state on or before its cut-off, so that its scale is unknown.
        """
        cutoff = _days(rows["cutoff"])
        position = self.states.positions(rows)
        state = self.states.values[position]
        scale_day = np.minimum(cutoff, _days(rows["debut"]) - PERIOD_DAYS[self.frequency])
        at_debut = self.states.at(rows["region"], scale_day.astype("datetime64[D]"))
        # A region whose charts begin with this debut has its first floor at it, known from the first period on.
        floor = self.states.floor[np.where(at_debut >= 0, at_debut, position)]
        shift = np.log10(self.states.floor[position] / floor)
        lowest = state[:, STATE_FEATURES.index("log_lowest")] + shift
        batch = {
            "region": self.region_codes(rows["region"]),
            "observed": rows["observed"].to_numpy(dtype=np.int64),
            "floor": floor,
            "last_threshold": lowest.astype(np.float32),
            "calendar": calendar_features(
                period_dates(rows["debut"], self.horizon, self.frequency), rows["region"], self.frequency
            ),
        }
        past = None
        if "past" in self.groups:
            past, before, last_year, running = self.past(rows, floor)
            batch |= {"before": before, "last_year": last_year, "running": running}
        batch |= self._related(rows, cutoff, state, past)
        batch |= self._curve(curves, floor, len(rows))
        return batch

    def region_codes(self, regions: Any) -> np.ndarray:
        """Names → places among the model's regions, the last place + 1 for any other."""
        found = self._region_place.get_indexer(pd.Index(np.asarray(regions, dtype=object)))
        return np.where(found >= 0, found, len(self.regions)).astype(np.int64)

    def columns(self, group: str) -> slice:
        """Where a group lies among the static features."""
        start = static_width(self.groups[: self.groups.index(group)])
        return slice(start, start + static_width((group,)))

    def running(self, rows: pd.DataFrame) -> np.ndarray:
        """Which rows' songs had charted in the region before their first period asked for: (n,) bool.

        Nobody knows that these are on the chart in their first period, as it is known of debuts.
        """
        if self.history is None or "past" not in self.groups:
            return np.zeros(len(rows), bool)
        weeks = self.history.weeks
        return weeks.until(weeks.codes(rows["song_id"], rows["region"]), self._before(rows)).charted > 0

    def _before(self, rows: pd.DataFrame) -> np.ndarray:
        """The last day whose rows are past: before the first period asked for, and no later than the cut-off: (n,)."""
        return np.minimum(_days(rows["cutoff"]), _days(rows["debut"]) - PERIOD_DAYS[self.frequency])

    def past(self, rows: pd.DataFrame, floor: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """What each song did in the region before its first period asked for: all 0 for a debut, which has no past.

        Values are in log10 of the row's own floor, the one that its curve is measured in: what is told of last year and
        what is asked about this year then differ only by what the song did, and a forecast that repeats last year is
        the identity. How much the region has grown since is a number of its own.

        Args:
            rows: As for `gather`.
            floor: (n,) unit of scale, streams.

        Returns:
            Static features (n, `PERIOD_FEATURES` · `PAST_PERIODS` + `PAST_TOTALS`); of the period before the first one
            asked for value, charted and below (n, 1, `PERIOD_FEATURES`); of the same period a year earlier as each one
            asked for these, and which share of the regions with a chart charted the song then and another year earlier
            (n, H, `LAST_YEAR_FEATURES`), all 0 where that is unknown or after the cut-off; and which rows have a past,
            (n,) bool.
        """
        n, horizon = len(rows), self.horizon
        last_year = np.zeros((n, horizon, LAST_YEAR_FEATURES), np.float32)
        if self.history is None:
            nothing = np.zeros((n, 1, PERIOD_FEATURES), np.float32)
            return np.zeros((n, STATIC_WIDTHS["past"])), nothing, last_year, np.zeros(n, bool)
        weeks, period = self.history.weeks, PERIOD_DAYS[self.frequency]
        codes, until = weeks.codes(rows["song_id"], rows["region"]), self._before(rows)
        sums = weeks.until(codes, until)
        running = sums.charted > 0
        year_ago = same_period_last_year(period_dates(rows["debut"], horizon, self.frequency), self.frequency)
        asked = _days(year_ago)
        before = _days(rows["debut"])[:, None] - period * np.arange(1, PAST_PERIODS + 1)
        day = np.concatenate([before, asked], axis=1)
        # Most rows of a training batch are debuts: only the others are looked up.
        value, on_chart, below = (np.zeros(day.shape, np.float32) for _ in range(3))
        at = np.flatnonzero(running)
        value[at], on_chart[at], below[at] = _told(*weeks.at(codes[at], day[at]), floor[at], day[at] <= until[at, None])
        recent = np.stack([value, below, 1 - on_chart - below], axis=-1)[:, :PAST_PERIODS]
        totals = np.column_stack(
            [
                np.log10(np.nan_to_num(sums.peak, nan=0.0) / floor + 1e-3),
                np.log1p(sums.charted),
                np.log10(1 + sums.total / floor),
                np.log1p(np.maximum(until - sums.first, 0) / period),
                on_chart[:, 0],
                self._growth(rows, until, floor),
            ]
        )
        static = np.concatenate([recent.reshape(n, PERIOD_FEATURES * PAST_PERIODS), totals], axis=1) * running[:, None]
        told = np.stack([value, on_chart, below], axis=-1)
        last_year[..., :PERIOD_FEATURES] = told[:, PAST_PERIODS:]
        for years, days in enumerate((asked, _days(same_period_last_year(year_ago, self.frequency)))):
            known = days[at] <= until[at, None]
            last_year[at, :, PERIOD_FEATURES + years] = weeks.spread_at(codes[at], days[at]) * known
        return static, told[:, :1], last_year, running

    def _growth(self, rows: pd.DataFrame, until: np.ndarray, floor: np.ndarray) -> np.ndarray:
        """log10 of the floor over that of a year before, 0 where none was on hand then: (n,)."""
        year_ago = same_period_last_year(until.astype("datetime64[D]"), self.frequency)
        found = self.states.at(rows["region"], year_ago)
        return np.where(found >= 0, np.log10(floor / self.states.floor[found]), 0.0)

    def _related(
        self, rows: pd.DataFrame, cutoff: np.ndarray, state: np.ndarray, past: np.ndarray | None
    ) -> dict[str, np.ndarray]:
        n, debut = len(rows), _days(rows["debut"])
        period = PERIOD_DAYS[self.frequency]
        none = np.full((n, 1), -1)
        if self.history is None:
            others, here, elsewhere = none, none, none
        else:
            history, song, region, artist = self.history, rows["song_id"], rows["region"], rows["artist"]
            others = history.other_regions(song, region, cutoff, OTHER_REGIONS)
            here = history.artist_here(artist, song, region, cutoff, ARTIST_HERE)
            elsewhere = history.artist_elsewhere(artist, song, region, cutoff, ARTIST_ELSEWHERE)
        others = none if "regions" not in self.groups else others[:, : _longest(others)]
        here = none if "artist" not in self.groups else here[:, : _longest(here)]

        def features(lives: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            """Life features, and how many periods before this debut each life began."""
            if self.history is None or not len(self.history.lives.debut):
                return np.zeros((*lives.shape, len(LIFE_FEATURES)), np.float32), np.zeros(lives.shape)
            began = (debut[:, None] - self.history.lives.debut[lives]) / period
            return self.history.life_features(lives, cutoff), np.where(lives >= 0, began, 0)

        other_features, other_lead = features(others)
        here_features, here_lead = features(here)
        parts = {"state": state}
        if "artist" in self.groups:
            elsewhere_features = features(elsewhere)[0]
            parts["artist"] = np.concatenate(
                [
                    _summary(here_features, here >= 0),
                    _summary(here_features, (here >= 0) & (here_lead == 0))[:, :7],
                    _summary(elsewhere_features, elsewhere >= 0)[:, :8],
                    _record(here_features, here >= 0, self.horizon),
                    _record(elsewhere_features, elsewhere >= 0, self.horizon),
                    *self._guests(rows, cutoff),
                ],
                axis=1,
            )
        if "regions" in self.groups:
            parts["regions"] = _summary(other_features, others >= 0)
        if "release" in self.groups:
            parts["release"] = self._release(rows)
        if past is not None:
            parts["past"] = past
        here, here_features, here_lead = (part[:, :ARTIST_TOKENS] for part in (here, here_features, here_lead))
        token_features = np.concatenate(
            [_token_features(other_features, other_lead), _token_features(here_features, here_lead)], axis=1
        )
        lives = np.concatenate([others, here], axis=1)
        kind = np.concatenate([np.full(others.shape, OTHER_REGION_TOKEN), np.full(here.shape, ARTIST_TOKEN)], axis=1)
        token_region = np.full(lives.shape, len(self.regions))
        if self.history is not None and len(self.history.lives.regions):
            token_region = np.where(
                lives >= 0, self.region_codes(self.history.lives.regions)[self._life_region(lives)], token_region
            )
        return {
            "static": np.concatenate([parts[group] for group in self.groups], axis=1).astype(np.float32),
            "tokens": token_features,
            "token_kind": kind,
            "token_region": token_region.astype(np.int64),
            "token_known": lives >= 0,
        }

    def _guests(self, rows: pd.DataFrame, cutoff: np.ndarray) -> list[np.ndarray]:
        """What became of other songs by each row's guests: 0 without any. How many guests there are is not told.

        Returns:
            Their songs that came out the same day here, (n, 1); their records here and elsewhere, each
            (n, `RECORD_FEATURES`). Of several guests each number is the largest.
        """
        n, debut = len(rows), _days(rows["debut"])
        same_day, here_record, elsewhere_record = np.zeros((n, 1)), *np.zeros((2, n, RECORD_FEATURES))
        if self.history is None or not len(self.history.lives.debut):
            return [same_day, here_record, elsewhere_record]
        guests = rows["guests"].to_numpy()
        for place in range(GUESTS):
            at = np.flatnonzero([len(names) > place for names in guests])
            if not len(at):
                break
            names = np.array([guests[row][place] for row in at], dtype=object)
            asked = (names, rows["song_id"].to_numpy()[at], rows["region"].to_numpy()[at], cutoff[at])
            here, elsewhere = self.history.credited(*asked, GUEST_ELSEWHERE)
            here = here[:, :ARTIST_HERE]
            together = ((here >= 0) & (self.history.lives.debut[here] == debut[at, None])).sum(axis=1)
            same_day[at, 0] = np.maximum(same_day[at, 0], np.log1p(together))
            for record, lives in ((here_record, here), (elsewhere_record, elsewhere)):
                own = _record(self.history.life_features(lives, cutoff[at]), lives >= 0, self.horizon)
                record[at] = np.maximum(record[at], own) if place else own
        return [same_day, here_record, elsewhere_record]

    def _life_region(self, lives: np.ndarray) -> np.ndarray:
        assert self.history is not None
        return self.history.lives.region[lives]

    def _release(self, rows: pd.DataFrame) -> np.ndarray:
        """How long a song was out before and in its first period, as classes, and on which weekday it came out.

        A debut in the second week is one that did not chart in the first, and how much of that first week the song had
        hangs on its weekday.

        Returns:
            (n, 8 + classes of `DAYS_BEFORE` + 7): days of the first period on which it is out, the last class all of a
            week; days before it; the weekday from Monday. A song without a date is taken to have come out on the first
            day of its first period.
        """
        full, debut = PERIOD_DAYS[self.frequency], _days(rows["debut"])
        release = np.where(rows["release_date"].isna(), debut - full + 1, _days(rows["release_date"]))
        out = debut - release + 1
        within = np.where(out >= full, 7, np.clip(out, 0, 6))
        before = np.searchsorted(DAYS_BEFORE, np.clip(out - full, 0, None), side="right") - 1
        # Day 0, the first of January 1970, was a Thursday.
        weekday = (release + 3) % 7
        return np.concatenate([np.eye(8)[within], np.eye(len(DAYS_BEFORE))[before], np.eye(7)[weekday]], axis=1)

    def _curve(self, curves: CurveArrays | None, floor: np.ndarray, n: int) -> dict[str, np.ndarray]:
        shape = (n, self.horizon)
        if curves is None:
            return {
                "value": np.zeros(shape, np.float32),
                "state": np.full(shape, UNKNOWN, np.int64),
                "threshold": np.zeros(shape, np.float32),
            }
        lowest = np.where(np.isnan(curves.lowest), 1.0, curves.lowest)
        charted = (curves.state == OBSERVED) & (curves.streams > 0)
        below = (curves.state == BELOW) | ((curves.state == OBSERVED) & ~charted)
        threshold = np.log10(np.maximum(lowest, 1.0) / floor[:, None])
        # The lowest on a chart has exactly `lowest`; rounding must not put it below.
        # So little over a floor may round to 0, whose logarithm no model takes.
        shares = np.where(charted, curves.streams, 1.0) / floor[:, None]
        value = np.log10(np.maximum(shares, np.finfo(np.float32).tiny))
        return {
            "value": np.where(charted, value, 0).astype(np.float32),
            "state": np.where(charted, OBSERVED, np.where(below, BELOW, UNKNOWN)).astype(np.int64),
            "threshold": np.where(charted, np.minimum(threshold, value), threshold).astype(np.float32),
        }


def only_observed(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The batch without anything of its curves after the observed periods, as a forecast must not even hold it."""
    later = np.arange(batch["state"].shape[1]) >= batch["observed"][:, None]
    return batch | {
        "value": np.where(later, 0, batch["value"]).astype(np.float32),
        "state": np.where(later, UNKNOWN, batch["state"]),
        "threshold": np.where(later, batch["last_threshold"][:, None], batch["threshold"]).astype(np.float32),
    }


def _told(
    streams: np.ndarray, state: np.ndarray, floor: np.ndarray, known: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Streams and states of known periods → values in log10 of floor units, charted and below, 0 or 1: (n, periods)."""
    charted = known & (state == OBSERVED) & (streams > 0)
    below = known & ((state == BELOW) | ((state == OBSERVED) & ~charted))
    value = np.log10(np.where(charted, streams, 1.0) / floor[:, None])
    return np.where(charted, value, 0.0), charted.astype(np.float32), below.astype(np.float32)


def _longest(lives: np.ndarray) -> int:
    return max(1, int((lives >= 0).sum(axis=1).max(initial=0)))


def _summary(features: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Life features (n, M, F) → (n, 12): how many; means, maxima and the latest of them; 0 where there is none."""
    weight = known[..., None]
    count = known.sum(axis=1)
    mean = (features * weight).sum(axis=1) / np.maximum(count, 1)[:, None]
    at = {name: LIFE_FEATURES.index(name) for name in LIFE_FEATURES}
    largest = np.where(weight, features, -np.inf).max(axis=1, initial=-np.inf)
    largest = np.where(count[:, None] > 0, largest, 0)
    first = known.argmax(axis=1)
    latest = np.where(count[:, None] > 0, features[np.arange(len(features)), first], 0)
    columns = [
        np.log1p(count),
        mean[:, at["total"]],
        mean[:, at["debut"]],
        mean[:, at["last"]],
        mean[:, at["on_chart"]],
        largest[:, at["total"]],
        largest[:, at["last"]],
        latest[:, at["log_age"]],
        mean[:, at["length"]],
        latest[:, at["total"]],
        latest[:, at["debut"]],
        latest[:, at["last"]],
    ]
    return np.column_stack(columns).astype(np.float32)


def _record(features: np.ndarray, known: np.ndarray, horizon: int) -> np.ndarray:
    """What became of lives, latest first: (n, M, F) → (n, `RECORD_FEATURES`); 0 where there is none of a kind.

    Settled lives are those whose horizon is over: they alone say what a song comes to.
    """
    value = {name: features[..., place] for place, name in enumerate(LIFE_FEATURES)}
    age, length = np.expm1(value["log_age"]), np.expm1(value["length"])
    settled, young = known & (age > horizon - 1.5), known & (age < _YOUNG + 0.5)
    charting = known & (value["on_chart"] > 0.5)

    def mean(of: np.ndarray, kept: np.ndarray) -> np.ndarray:
        return (of * kept).sum(axis=1) / np.maximum(kept.sum(axis=1), 1)

    def largest(of: np.ndarray, kept: np.ndarray) -> np.ndarray:
        return np.where(kept.any(axis=1), np.where(kept, of, -np.inf).max(axis=1, initial=-np.inf), 0)

    first = np.arange(len(known)), settled.argmax(axis=1)
    columns = [
        np.log1p(known.sum(axis=1)),
        np.log1p(settled.sum(axis=1)),
        mean(value["total"], settled),
        largest(value["total"], settled),
        np.where(settled.any(axis=1), value["total"][first], 0),
        mean(value["debut"], known),
        largest(value["peak"], known),
        np.log1p(charting.sum(axis=1)),
        np.log10(1 + np.where(charting, 10.0 ** value["last"], 0).sum(axis=1)),
        np.where(known.any(axis=1), value["log_age"][:, 0], 0),
        mean(length, settled),
        mean(value["total"], settled & (age < 52)),
        mean(value["debut"], young),
    ]
    return np.column_stack(columns).astype(np.float32)


def _token_features(features: np.ndarray, lead: np.ndarray) -> np.ndarray:
    """(n, M, F) and leads in periods (n, M) → (n, M, TOKEN_FEATURES)."""
    signed = np.sign(lead) * np.log1p(np.abs(lead))
    extra = np.stack([signed, lead == 0, np.abs(lead) <= 1], axis=-1)
    return np.concatenate([features, extra], axis=-1).astype(np.float32)


def training_statistics(static: np.ndarray) -> dict[str, list[float]]:
    """Mean and standard deviation of static features over training rows; one that never varies is left at 1."""
    deviation = static.std(axis=0)
    return {"mean": static.mean(axis=0).tolist(), "std": np.where(deviation > 1e-6, deviation, 1).tolist()}
