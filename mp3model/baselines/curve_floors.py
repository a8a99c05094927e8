"""Curves of past debuts in, forecasts that need no learning to speak of out: the floors any model of curves must beat.

Every floor is one curve a row, in units of the region's floor, and a rule that tells how totals spread around it: the
quantiles of the totals of training debuts whose curve stood about as high (`Spread`). All numbers here are in floor
units unless streams are named, and "remaining" is what lies after the observed periods.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd

from mp3model.evaluation.accuracy import LEVELS, CurveForecasts, path_quantiles
from mp3model.files import InputError
from mp3model.model.covariates import Covariates
from mp3model.tables.calendar import days_from_christmas
from mp3model.tables.curves import PERIOD_DAYS, curve_arrays, period_dates
from mp3model.tables.debuts import Debuts, with_cutoff
from mp3model.tables.folder import DatasetFolder
from mp3model.tables.history import LIFE_FEATURES, STATE_FEATURES

# Fewer rows than this have no quantiles worth the name: the next wider group answers.
LEAST_ROWS = 20
BINS = 20
# Lives of an artist that are looked through for one that has run its course.
_RELEASES = 64
_ROWS_AT_ONCE = 2048


@dataclass(frozen=True)
class Known:
    """What may be read of n debuts when their first `observed` periods are known.

    Attributes:
        rows: With `observed` and `cutoff`.
        seen: (n, observed) chart-observed streams over the floor, 0 below the chart, NaN unknown.
        floor: (n,) the region's unit of scale in the period before debut, streams.
        lowest: (n,) what the chart at the cut-off still shows, over the floor.
        region: (n,) codes, the last for a region that the covariates do not know.
    """

    rows: pd.DataFrame
    seen: np.ndarray
    floor: np.ndarray
    lowest: np.ndarray
    region: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)


def known_of(debuts: Debuts, covariates: Covariates, observed: int) -> Known:
    """Cuts debuts down to what is known of them after their first `observed` periods.

    Raises:
        InputError: `observed` leaves nothing to forecast, or a region has neither chart nor streams by the cut-off.
    """
    if not 0 <= observed < covariates.horizon:
        raise InputError(
            f"observed {observed} is not within 0 and {covariates.horizon - 1}, the last period before the end"
        )
    rows = with_cutoff(debuts.rows, observed, covariates.frequency)
    now = covariates.states.at(rows["region"], rows["cutoff"])
    if (now < 0).any():
        row = rows.iloc[int(np.flatnonzero(now < 0)[0])]
        raise InputError(
            f"region {row['region']} has no chart or streams on or before {pd.Timestamp(row['cutoff']).date()}, so its "
            "scale is unknown; leave the row out"
        )
    before = rows["debut"].to_numpy().astype("datetime64[D]") - PERIOD_DAYS[covariates.frequency]
    at_debut = covariates.states.at(rows["region"], np.minimum(before, rows["cutoff"].to_numpy()))
    floors = covariates.states.floor
    floor = floors[np.where(at_debut >= 0, at_debut, now)]
    lowest = 10 ** covariates.states.values[now, STATE_FEATURES.index("log_lowest")] * floors[now] / floor
    seen = debuts.curves.chart_observed()[:, :observed] / floor[:, None]
    return Known(rows, seen, floor, lowest, covariates.region_codes(rows["region"]))


def whole_curves(debuts: Debuts, known: Known) -> np.ndarray:
    """(n, H) chart-observed streams over the floor, for training rows only; NaN unknown."""
    return debuts.curves.chart_observed() / known.floor[:, None]


def log_sum(curve: np.ndarray) -> np.ndarray:
    """log10(1 + sum over periods): (n, periods) → (n,)."""
    return np.log10(1 + curve.sum(axis=1))


class Spread:
    """Nine quantiles of an outcome given one number a row: those of training rows with about the same number.

    Equal-count bins of the number, values that many rows share (a forecast of 0) in a bin of their own; linear
    between the bins' means, constant beyond them.
    """

    def __init__(self, number: np.ndarray, outcome: np.ndarray, bins: int = BINS) -> None:
        """Takes (n,) numbers and outcomes; rows with a NaN in either are left out.

        Raises:
            InputError: no row is left.
        """
        fine = np.isfinite(number) & np.isfinite(outcome)
        number, outcome = number[fine], outcome[fine]
        if not len(number):
            raise InputError("no training row has both a forecast and a known outcome; give more training debuts")
        edges = np.unique(np.quantile(number, np.linspace(0, 1, max(1, min(bins, len(number) // LEAST_ROWS)) + 1)))
        # To the left of an edge: whatever many rows share is an edge, and so ends its bin.
        place = np.searchsorted(edges, number, side="left")
        filled = np.unique(place)
        self.centre = np.array([number[place == one].mean() for one in filled])
        self.table = np.array([np.quantile(outcome[place == one], LEVELS) for one in filled])

    def __call__(self, number: np.ndarray) -> np.ndarray:
        """(n,) → (n, 9)."""
        return np.column_stack([np.interp(number, self.centre, column) for column in self.table.T])


class Groups:
    """Statistics of training rows by group, with a wider group where one has too few rows.

    Args:
        keys: Arrays of (n,) codes, narrow to wide; the widest of all, every row, is added.
        values: (n, columns).
        statistic: (rows, columns) → an array, the same shape for any number of rows.
    """

    def __init__(self, keys: list[np.ndarray], values: np.ndarray, statistic: Any) -> None:
        self.tables = []
        for key in keys:
            order = np.argsort(key, kind="stable")
            codes, starts, counts = np.unique(key[order], return_index=True, return_counts=True)
            enough = counts >= LEAST_ROWS
            found = [
                statistic(values[order[start : start + count]])
                for start, count in zip(starts[enough], counts[enough], strict=True)
            ]
            self.tables.append((codes[enough], found))
        self.all = np.asarray(statistic(values))

    def __call__(self, keys: list[np.ndarray]) -> np.ndarray:
        """Keys as in the constructor, of other rows → (n, …)."""
        found = np.broadcast_to(self.all, (len(keys[0]), *self.all.shape)).copy()
        for key, (codes, table) in zip(reversed(keys), reversed(self.tables), strict=True):
            place = pd.Index(codes).get_indexer(key)
            if len(table):
                found[place >= 0] = np.asarray(table)[place[place >= 0]]
        return found


@dataclass
class _Training:
    """Training debuts as the floors use them, at one number of observed periods."""

    known: Known
    curves: np.ndarray

    @classmethod
    def of(cls, debuts: Debuts, covariates: Covariates, observed: int) -> _Training:
        known = known_of(debuts, covariates, observed)
        return cls(known, whole_curves(debuts, known))

    def remaining(self) -> np.ndarray:
        """(n, H − observed)."""
        return self.curves[:, self.known.seen.shape[1] :]


def complete_debuts(debuts: Debuts) -> Debuts:
    """Only debuts whose whole curve is known."""
    complete = np.isfinite(debuts.curves.chart_observed()).all(axis=1)
    if not complete.any():
        raise InputError(f"none of the {len(complete)} training debuts has a known curve; a floor needs at least one")
    return debuts.chosen(complete)


def forecasts_of(
    known: Known,
    later: np.ndarray,
    quantiles: np.ndarray,
    rank0: np.ndarray | None = None,
    total: np.ndarray | None = None,
    length: np.ndarray | None = None,
    score: np.ndarray | None = None,
) -> CurveForecasts:
    """Forecasts in streams.

    Args:
        known: What was known of the rows.
        later: (n, H − observed) point forecast.
        quantiles: (n, 9) of log10(1 + the sum of later periods).
        rank0: (n,) used where nothing was observed.
        total: (n,) point forecast of the sum; None takes the sum of `later`.
        length: (n,) None counts the periods of `later` above 0.
        score: (n,) None takes the mean of the quantiles in log10(1 + streams), since the median of many is 0.
    """
    floor = known.floor[:, None]
    streams = np.maximum(10 ** np.sort(quantiles, axis=1) - 1, 0) * floor
    return CurveForecasts(
        curve=np.concatenate([np.nan_to_num(known.seen), later], axis=1) * floor,
        quantiles=streams,
        total=(later.sum(axis=1) if total is None else total) * known.floor,
        score=np.log10(1 + streams).mean(axis=1) if score is None else score,
        rank0=rank0 if known.seen.shape[1] == 0 else None,
        length=(later > 0).sum(axis=1).astype(float) if length is None else length,
    )


class _DebutRank:
    """Debut rank: the median in the region, or of all, given the level of the first period if there is one."""

    def __init__(self, training: _Training, ranks: np.ndarray, level: np.ndarray | None = None) -> None:
        fine = np.isfinite(ranks)
        self.groups = (
            Groups([training.known.region[fine]], ranks[fine, None], lambda part: np.median(part[:, 0]))
            if fine.any()
            else None
        )
        self.spread = Spread(level, ranks) if level is not None and fine.any() else None

    def __call__(self, known: Known, level: np.ndarray | None = None) -> np.ndarray | None:
        if self.groups is None:
            return None
        if self.spread is not None and level is not None:
            return self.spread(level)[:, 4]
        return self.groups([known.region])


class RegionClimate:
    """The median or mean curve of the region's training debuts, by month of debut if asked; totals as they spread.

    A group of fewer than 20 debuts is answered by its region, and a region of fewer by all training debuts.

    Args:
        statistic: Of each period; the point forecast of the total is the same statistic of the totals.
        by_month: One curve a region and calendar month.
    """

    def __init__(self, statistic: Literal["median", "mean"] = "median", by_month: bool = False) -> None:
        self.name = f"region × month {statistic}" if by_month else f"region {statistic}"
        self.statistic, self.by_month = statistic, by_month

    def fit(self, train: Debuts, validation: Debuts, covariates: Covariates) -> RegionClimate:
        """Takes the training split; validation is not used."""
        self.covariates = covariates
        train = complete_debuts(train)
        training = _Training.of(train, covariates, 0)
        keys, horizon = self._keys(training.known), training.curves.shape[1]
        self.curves = {
            observed: Groups(keys, training.curves[:, observed:], self._statistics) for observed in range(horizon)
        }
        self.rank = _DebutRank(training, train.curves.rank[:, 0])
        return self

    def _keys(self, known: Known) -> list[np.ndarray]:
        month = known.rows["debut"].dt.month.to_numpy()
        return [known.region * 12 + month - 1, known.region] if self.by_month else [known.region]

    def _statistics(self, later: np.ndarray) -> np.ndarray:
        """(rows, periods) → the curve, the total, the length and nine quantiles, in one row."""
        of, totals = np.median if self.statistic == "median" else np.mean, later.sum(axis=1)
        logs = np.log10(1 + totals)
        length = np.median((later > 0).sum(axis=1))
        return np.concatenate([of(later, axis=0), [of(totals), length], np.quantile(logs, LEVELS)])

    def forecast(self, debuts: Debuts, observed: int) -> CurveForecasts:
        """The remaining periods of the region's curve; what was seen of the song is not used."""
        known = known_of(debuts, self.covariates, observed)
        found = self.curves[observed](self._keys(known))
        later, total, length = found[:, :-11], found[:, -11], found[:, -10]
        return forecasts_of(known, later, found[:, -9:], self.rank(known), total, length)


class PreviousRelease:
    """The curve of the artist's previous release in the region, as far as known at the cut-off, in floor units.

    Taken is the artist's latest other song in the region whose horizon is over by the cut-off; else the latest such
    song in another region; else the region's median curve. Weeks already seen of the song itself do not change it.
    """

    name = "artist previous release"

    def fit(self, train: Debuts, validation: Debuts, covariates: Covariates) -> PreviousRelease:
        """Takes the training split; validation is not used.

        Raises:
            InputError: the covariates have no history.
        """
        if covariates.history is None:
            raise InputError("covariates without a history know no previous release; build them from a dataset")
        self.covariates = covariates
        self.climate = RegionClimate().fit(train, validation, covariates)
        train = complete_debuts(train)
        training = _Training.of(train, covariates, 0)
        previous, found = self._previous(training.known)
        self.spreads = {
            observed: Spread(log_sum(previous[found, observed:]), log_sum(training.curves[found, observed:]))
            if found.sum() >= LEAST_ROWS
            else None
            for observed in range(covariates.horizon)
        }
        self.rank = _DebutRank(training, train.curves.rank[:, 0], training.curves[:, 0])
        return self

    def _previous(self, known: Known) -> tuple[np.ndarray, np.ndarray]:
        """Curves (n, H) of previous releases, and for which rows there is one."""
        history, rows = self.covariates.history, known.rows
        assert history is not None
        horizon = self.covariates.horizon
        day = rows["cutoff"].to_numpy().astype("datetime64[D]").astype(np.int64)
        asked = (rows["artist"], rows["song_id"], rows["region"], day, _RELEASES)
        lives = np.concatenate([history.artist_here(*asked), history.artist_elsewhere(*asked)], axis=1)
        over = (lives >= 0) & (history.lives.debut[lives] + (horizon - 1) * history.days <= day[:, None])
        found = over.any(axis=1)
        chosen = np.where(found, lives[np.arange(len(lives)), over.argmax(axis=1)], 0)
        features = history.lives.features[chosen]
        horizon = min(horizon, features.shape[1])
        levels = features[:, :horizon, LIFE_FEATURES.index("last")]
        charted = features[:, :horizon, LIFE_FEATURES.index("on_chart")] > 0
        return np.where(charted & found[:, None], 10.0**levels, 0.0), found

    def forecast(self, debuts: Debuts, observed: int) -> CurveForecasts:
        """The previous release's curve from the first period not observed on."""
        known = known_of(debuts, self.covariates, observed)
        usual = self.climate.forecast(debuts, observed)
        previous, found = self._previous(known)
        spread = self.spreads[observed]
        if spread is None:
            return usual
        assert usual.quantiles is not None
        later = np.where(found[:, None], previous[:, observed:], usual.curve[:, observed:] / known.floor[:, None])
        usual_logs = np.log10(1 + usual.quantiles / known.floor[:, None])
        quantiles = np.where(found[:, None], spread(log_sum(previous[:, observed:])), usual_logs)
        first = later[:, 0] if observed == 0 else None
        return forecasts_of(known, later, quantiles, self.rank(known, first))


class SeenWeeks:
    """Continues what was seen: the last period carried forward, a geometric decay, or mean ratios of the region.

    A forecast of less than the chart's lowest at the cut-off is 0, except when carried forward, where the last
    period already says so. Needs at least one observed period.

      * `carry-forward`: every later period equals the last.
      * `geometric decay`: the last period times rⁿ. log r is the mean of the song's own log ratios between charted
        periods and, with the weight of one of them, the region's mean; r is at most 1.
      * `mean ratio`: the sum of what was seen times the ratio of the region's training sums, period by period.
    """

    forms: ClassVar[tuple[str, ...]] = ("carry-forward", "geometric decay", "mean ratio")

    def __init__(self, form: Literal["carry-forward", "geometric decay", "mean ratio"] = "carry-forward") -> None:
        if form not in self.forms:
            raise InputError(f"form {form!r} is not known; use one of {', '.join(self.forms)}")
        self.name, self.form = form, form

    def fit(self, train: Debuts, validation: Debuts, covariates: Covariates) -> SeenWeeks:
        """Takes the region's ratios and the spread from the training split; validation is not used."""
        self.covariates = covariates
        train = complete_debuts(train)
        self.ratios: dict[int, Groups] = {}
        self.spreads: dict[int, Spread] = {}
        for observed in range(1, covariates.horizon):
            training = _Training.of(train, covariates, observed)
            self.ratios[observed] = self._ratios(training, observed)
            number = self._number(training.known, self._later(training.known, observed))
            self.spreads[observed] = Spread(number, log_sum(training.remaining()))
        return self

    def _ratios(self, training: _Training, observed: int) -> Groups:
        curves = training.curves
        if self.form == "mean ratio":

            def of_sums(part: np.ndarray) -> np.ndarray:
                return part[:, observed:].sum(axis=0) / max(part[:, :observed].sum(), 1e-9)

            return Groups([training.known.region], curves, of_sums)
        steps = curves[:, observed - 1 : observed + 1]
        both = (steps > 0).all(axis=1)
        logs = np.zeros(len(steps))
        logs[both] = np.log10(steps[both, 1] / steps[both, 0])
        if not both.any():
            return Groups([training.known.region], logs[:, None], np.mean)
        return Groups([training.known.region[both]], logs[both, None], np.mean)

    def _later(self, known: Known, observed: int) -> np.ndarray:
        """(n, H − observed)."""
        periods = self.covariates.horizon - observed
        seen = np.nan_to_num(known.seen)
        last = seen[:, -1:]
        usual = self.ratios[observed]([known.region])
        if self.form == "carry-forward":
            return np.repeat(last, periods, axis=1)
        if self.form == "mean ratio":
            later = seen.sum(axis=1, keepdims=True) * usual
        else:
            both = (seen[:, 1:] > 0) & (seen[:, :-1] > 0)
            steps = np.log10(np.where(both, seen[:, 1:], 1.0)) - np.log10(np.where(both, seen[:, :-1], 1.0))
            decay = np.minimum((steps.sum(axis=1) + usual) / (both.sum(axis=1) + 1), 0.0)
            later = last * 10 ** (decay[:, None] * np.arange(1, periods + 1))
        return np.where(later < known.lowest[:, None], 0.0, later)

    @staticmethod
    def _number(known: Known, later: np.ndarray) -> np.ndarray:
        """What tells forecasts apart where all is cut to 0: first the total, then the last period seen, then all."""
        seen = np.nan_to_num(known.seen)
        return log_sum(later) + 1e-3 * np.log10(1 + seen[:, -1]) + 1e-6 * log_sum(seen)

    def forecast(self, debuts: Debuts, observed: int) -> CurveForecasts | None:
        """Continues the observed periods; None where there are none."""
        if observed == 0:
            return None
        known = known_of(debuts, self.covariates, observed)
        later = self._later(known, observed)
        number = self._number(known, later)
        return forecasts_of(known, later, self.spreads[observed](number), score=later.sum(axis=1) * known.floor)


class NearestRows:
    """The curves of the training debuts in the region that were most like this one, in floor units.

    Likeness is the distance of what covariates tell as of the cut-off and of the logs of the observed periods, each
    standardised by the training rows and weighted by its absolute correlation with their remaining total. The curve,
    length and debut rank are the neighbours' medians, the quantiles those of their totals. A region with fewer training
    debuts than neighbours looks among all.

    Args:
        neighbours: Asked of each row.
        observed: Numbers of observed periods to learn for; others cannot be forecast.
    """

    name = "nearest neighbours"

    def __init__(self, neighbours: int = 50, observed: tuple[int, ...] = (0, 1, 2, 4)) -> None:
        if neighbours < 1:
            raise InputError(f"{neighbours} neighbours have no curve; ask for at least 1")
        self.neighbours, self.observed = neighbours, observed

    def fit(self, train: Debuts, validation: Debuts, covariates: Covariates) -> NearestRows:
        """Keeps the training rows; validation is not used."""
        self.covariates = covariates
        train = complete_debuts(train)
        self.places = {
            observed: self._learnt(train, observed) for observed in self.observed if observed < covariates.horizon
        }
        self.ranks = train.curves.rank[:, 0]
        return self

    def _learnt(self, train: Debuts, observed: int) -> _Places:
        training = _Training.of(train, self.covariates, observed)
        features = self._features(train, training.known)
        centre, width = features.mean(axis=0), np.maximum(features.std(axis=0), 1e-6)
        standard = (features - centre) / width
        total = log_sum(training.remaining())
        spread = total.std()
        weight = np.abs(standard.T @ (total - total.mean())) / (len(total) * spread) if spread > 0 else 1.0
        places = _Places(centre, width, weight * np.ones(features.shape[1]), training)
        places.points = places(features)
        return places

    def _features(self, debuts: Debuts, known: Known) -> np.ndarray:
        parts = [
            self.covariates.gather(known.rows.iloc[start : start + _ROWS_AT_ONCE])["static"]
            for start in range(0, len(known), _ROWS_AT_ONCE)
        ]
        static = np.concatenate(parts) if parts else np.zeros((0, 0))
        descriptors = np.zeros((len(known), 0)) if debuts.descriptors is None else np.nan_to_num(debuts.descriptors)
        return np.concatenate([static, np.log10(1 + np.nan_to_num(known.seen)), descriptors], axis=1).astype(float)

    def forecast(self, debuts: Debuts, observed: int) -> CurveForecasts | None:
        """The neighbours' remaining periods; None for an `observed` that was not learnt."""
        if observed not in self.places:
            return None
        known, places = known_of(debuts, self.covariates, observed), self.places[observed]
        asked, later_of = places(self._features(debuts, known)), places.training.remaining()
        n, periods = len(known), later_of.shape[1]
        later, quantiles, length, rank = np.empty((n, periods)), np.empty((n, 9)), np.empty(n), np.full(n, np.nan)
        for region in np.unique(known.region):
            pool = np.flatnonzero(places.training.known.region == region)
            if len(pool) < self.neighbours:
                pool = np.arange(len(later_of))
            for rows in np.array_split(np.flatnonzero(known.region == region), n // _ROWS_AT_ONCE + 1):
                near = pool[_nearest(asked[rows], places.points[pool], self.neighbours)]
                found = later_of[near]
                later[rows] = np.median(found, axis=1)
                quantiles[rows] = path_quantiles(np.log10(1 + found.sum(axis=2))).T
                length[rows] = np.median((found > 0).sum(axis=2), axis=1)
                rank[rows] = _median_known(self.ranks[near])
        return forecasts_of(
            known,
            later,
            quantiles,
            rank0=rank if np.isfinite(rank).all() else None,
            total=10 ** quantiles[:, 4] - 1,
            length=length,
        )


@dataclass
class _Places:
    """Training rows as points: how features become coordinates, and the rows' own."""

    centre: np.ndarray
    width: np.ndarray
    weight: np.ndarray
    training: _Training
    points: np.ndarray = field(init=False)

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """(n, features) → (n, features)."""
        # Beyond what training saw by far, one feature would drown the others.
        return np.clip((features - self.centre) / self.width, -4, 4) * self.weight


def _nearest(asked: np.ndarray, points: np.ndarray, count: int) -> np.ndarray:
    """(n, d), (m, d) → (n, ≤ count) positions of the nearest points; of equals, those that come first."""
    distance = (asked**2).sum(axis=1)[:, None] + (points**2).sum(axis=1) - 2 * asked @ points.T
    return np.argsort(distance, axis=1, kind="stable")[:, :count]


def _median_known(ranks: np.ndarray) -> np.ndarray:
    """(n, neighbours) → (n,) medians of the known ones; NaN where none is."""
    known = np.isfinite(ranks).any(axis=1)
    found = np.full(len(ranks), np.nan)
    found[known] = np.nanmedian(ranks[known], axis=1)
    return found


def streams_last_year(dataset: DatasetFolder, rows: pd.DataFrame, horizon: int) -> np.ndarray:
    """Chart-observed streams of the same song and region in the same periods of last year: (n, horizon).

    Periods are aligned by days from 25 December, to the nearest period: weeks lie 52 weeks before.

    Args:
        dataset: With curves.
        rows: `song_id, region, debut, cutoff`; `debut` is the first period asked for, which need not be the song's
            first on a chart.
        horizon: Periods.

    Returns:
        NaN where no chart is on hand, or where the period lies after the row's cut-off.
    """
    days = PERIOD_DAYS[dataset.frequency]
    start = rows["debut"].to_numpy().astype("datetime64[D]")
    # The nearest Christmas of this year, and the same distance from the one before it.
    christmas = start - days_from_christmas(start)
    previous = (christmas.astype("datetime64[Y]") - 1).astype("datetime64[M]") + 11
    back = (christmas - (previous.astype("datetime64[D]") + 24)).astype(np.int64)
    first = start - (np.rint(back / days) * days).astype("timedelta64[D]")
    arrays = curve_arrays(dataset, rows.assign(debut=first), horizon)
    later = period_dates(first, horizon, dataset.frequency) > rows["cutoff"].to_numpy()[:, None]
    return np.where(later, np.nan, arrays.chart_observed())


class SameWeeksLastYear:
    """What the song streamed in the region in the same weeks of last year, aligned to days before 25 December.

    For returns, such as songs of Christmas: their rows begin with the first week asked for. A song that was on no
    chart then, as any that never charted before, is answered by the region's median curve. Totals spread around the
    forecast as the region's totals do around their median (in log10), since first debuts have no last year to learn
    the spread from.

    Args:
        dataset: Where last year is looked up, up to each row's cut-off.
    """

    name = "same weeks last year"

    def __init__(self, dataset: DatasetFolder) -> None:
        self.dataset = dataset

    def fit(self, train: Debuts, validation: Debuts, covariates: Covariates) -> SameWeeksLastYear:
        """Takes the training split; validation is not used."""
        self.covariates = covariates
        self.climate = RegionClimate().fit(train, validation, covariates)
        return self

    def forecast(self, debuts: Debuts, observed: int) -> CurveForecasts:
        """Last year's streams where the song charted in any of these weeks."""
        known = known_of(debuts, self.covariates, observed)
        usual = self.climate.forecast(debuts, observed)
        assert usual.quantiles is not None
        past = streams_last_year(self.dataset, known.rows, self.covariates.horizon)[:, observed:]
        charted = np.nan_to_num(past).sum(axis=1) > 0
        floor = known.floor[:, None]
        later = np.where(charted[:, None], np.nan_to_num(past), usual.curve[:, observed:]) / floor
        logs = np.log10(1 + usual.quantiles / floor)
        quantiles = np.where(charted[:, None], np.maximum(log_sum(later)[:, None] + logs - logs[:, 4:5], 0), logs)
        return forecasts_of(known, later, quantiles, usual.rank0)
