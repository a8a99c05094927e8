"""Debuts and what is known of them in, boosted-tree forecasts of their curves out: the baseline to beat.

LightGBM (Ke et al. 2017) on region state, artist history, other regions' weeks and the weeks seen; a model each for
nine quantiles of the remaining total, in log10(1 + total / floor), and either one for the median of every week
("weeks") or a weekly shape by which the total is shared out ("shape"). Among the features is the parametric curve that
a linear map of the same inputs gives: trees alone are poor at adding up many weak signs.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mp3model.baselines.curve_floors import BINS, Known, complete_debuts, forecasts_of, known_of, log_sum
from mp3model.baselines.parametric import ParametricCurve, log_uncut
from mp3model.evaluation.accuracy import LEVELS, CurveForecasts
from mp3model.files import InputError, written_whole
from mp3model.model.covariates import Covariates, only_observed
from mp3model.tables.curves import OBSERVED, UNKNOWN, taken
from mp3model.tables.debuts import Debuts, recency, with_cutoff
from mp3model.tables.history import BELOW_SHARE

GROUPS = ("state", "artist", "regions")
_BATCH = 8192
# Chosen on the validation half-year of the real weekly charts.
_PARAMETERS: dict[str, Any] = {
    "objective": "quantile",
    "learning_rate": 0.06,
    "bagging_fraction": 0.7,
    "bagging_freq": 1,
    "max_bin": 127,
    "cat_smooth": 20,
    "deterministic": True,
    "force_row_wise": True,
    "verbose": -1,
}
# Chosen on validation; smaller trees did better before debut on the test split, which is no reason to take them.
_LEAVES = 31


@dataclass(frozen=True)
class _Growth:
    """How trees grow for one number of observed periods.

    Attributes:
        feature_share: Of the features, drawn anew for each tree.
        random_cuts: Each feature is cut at one random place instead of the best one ("extremely randomised").
        half_life: Years after which a debut counts half.
    """

    feature_share: float
    random_cuts: bool
    half_life: float

    def parameters(self) -> dict[str, Any]:
        """LightGBM's."""
        return {"feature_fraction": self.feature_share, "extra_trees": self.random_cuts}


# Until a second period is seen many weak signs must be added up, and what a debut came to changes from year to year;
# later the last periods say nearly all. Chosen on validation of the real weekly charts, and on those of a year earlier.
_FEW_SEEN, _MORE_SEEN = _Growth(0.3, True, 0.5), _Growth(0.6, False, 1.0)


def _growth(observed: int) -> _Growth:
    return _FEW_SEEN if observed < 2 else _MORE_SEEN


_PATIENCE = 20
# A file of a few kilobytes can be packed so that it fills memory; 50 regions of charts give 25 MB.
_MOST_BYTES = 500_000_000


def features_of(debuts: Debuts, covariates: Covariates, observed: int, calendar: bool = False) -> np.ndarray:
    """What trees are given of n debuts as of the cut-off that `observed` sets.

    Args:
        debuts: Of their curves the first `observed` periods are read.
        covariates: Whose groups decide what else is told.
        observed: Periods known.
        calendar: Adds the calendar of the first period to forecast and of the one four later. On real charts it made
            forecasts of another year worse.

    Returns:
        (n, features) float32, NaN where unknown; the first column is the region's code.
    """
    parts = []
    rows = with_cutoff(debuts.rows, observed, covariates.frequency)
    for start in range(0, len(rows), _BATCH):
        at = np.arange(start, min(start + _BATCH, len(rows)))
        part = rows.iloc[at]
        batch = only_observed(covariates.gather(part, taken(debuts.curves, at)))
        columns = [batch["region"][:, None], batch["last_threshold"][:, None], batch["static"]]
        columns.append(_seen_features(batch, observed))
        if calendar:
            last = batch["calendar"].shape[1] - 1
            columns += [batch["calendar"][:, observed], batch["calendar"][:, min(observed + 4, last)]]
        parts.append(np.concatenate(columns, axis=1).astype(np.float32))
    return np.concatenate(parts)


def _seen_features(batch: dict[str, np.ndarray], observed: int) -> np.ndarray:
    """Streams over the floor and over the chart's lowest, their last step, and what they came to."""
    if observed == 0:
        return np.zeros((len(batch["region"]), 0))
    value, state, threshold = (batch[name][:, :observed] for name in ("value", "state", "threshold"))
    charted, unknown = state == OBSERVED, state == UNKNOWN
    streams = np.where(charted, 10.0**value, 0.0)
    # Off the chart, half of its lowest stands in, as in the history of other lives.
    level = np.where(charted, value - threshold, np.log10(BELOW_SHARE))
    columns = [
        np.where(unknown, np.nan, np.log10(1 + streams)),
        np.where(unknown, np.nan, level),
        log_sum(streams)[:, None],
        charted.sum(axis=1)[:, None],
        (level.max(axis=1) - level[:, -1])[:, None],
        (level[:, -1:] - level[:, -2:-1]),
    ]
    return np.concatenate(columns, axis=1)


@dataclass
class _Fitted:
    """Models for one number of observed periods."""

    quantiles: list[Any]
    weeks: list[Any]
    shape: WeeklyShape | None
    length: Any
    rank: Any

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; boosters as LightGBM writes them."""
        return {
            "quantiles": [booster.model_to_string() for booster in self.quantiles],
            "weeks": [booster.model_to_string() for booster in self.weeks],
            "shape": None if self.shape is None else [self.shape.centre.tolist(), self.shape.shares.tolist()],
            "length": self.length.model_to_string(),
            "rank": None if self.rank is None else self.rank.model_to_string(),
        }

    @classmethod
    def from_dict(cls, told: dict[str, Any]) -> _Fitted:
        """The inverse of `to_dict`."""
        import lightgbm

        def booster(text: str) -> Any:
            return lightgbm.Booster(model_str=text)

        return cls(
            quantiles=[booster(text) for text in told["quantiles"]],
            weeks=[booster(text) for text in told["weeks"]],
            shape=None if told["shape"] is None else WeeklyShape.of(*told["shape"]),
            length=booster(told["length"]),
            rank=None if told["rank"] is None else booster(told["rank"]),
        )


class WeeklyShape:
    """Shares of the weeks in a total, which differ by its size: mean shares of training rows in equal-count bins."""

    def __init__(self, curves: np.ndarray) -> None:
        """Takes (n, periods) curves of training rows over the floor; those of 0 have no shape."""
        curves = curves[curves.sum(axis=1) > 0]
        self.periods = curves.shape[1]
        logs = log_sum(curves)
        parts = np.array_split(np.argsort(logs, kind="stable"), max(1, min(BINS, len(curves) // 30)))
        parts = [part for part in parts if len(part)]
        self.centre = np.array([logs[part].mean() for part in parts])
        self.shares = np.array([curves[part].sum(axis=0) / curves[part].sum() for part in parts])

    @classmethod
    def of(cls, centre: list[float], shares: list[list[float]]) -> WeeklyShape:
        """A shape that was learnt before: centres of the bins, and each bin's shares."""
        shape = cls.__new__(cls)
        shape.centre, shape.shares = np.array(centre), np.array(shares)
        shape.periods = shape.shares.shape[1]
        return shape

    def __call__(self, logs: np.ndarray) -> np.ndarray:
        """(n,) log10(1 + total) → (n, periods) shares that sum to 1."""
        if not len(self.centre):
            return np.full((len(logs), self.periods), 1 / self.periods)
        return np.column_stack([np.interp(logs, self.centre, column) for column in self.shares.T])


@dataclass(frozen=True)
class _Table:
    """Features of n debuts, and their dates where recent ones shall count more."""

    features: np.ndarray
    debut: np.ndarray | None

    def joined(self, other: _Table) -> _Table:
        """Both, one after the other."""
        assert self.debut is not None
        assert other.debut is not None
        return _Table(np.concatenate([self.features, other.features]), np.concatenate([self.debut, other.debut]))


class _Trees:
    """Boosted trees on one table of features, which is binned once for all targets."""

    def __init__(
        self,
        train: _Table,
        validation: _Table,
        parameters: dict[str, Any],
        rounds: int,
        growth: _Growth,
        refit: bool,
    ) -> None:
        self.parameters, self.rounds, self.growth = parameters, rounds, growth
        self.train = self._dataset(train)
        self.validation = self._dataset(replace(validation, debut=None), reference=self.train)
        self.both = self._dataset(train.joined(validation)) if refit else None

    def _dataset(self, table: _Table, **options: Any) -> Any:
        import lightgbm

        weight = None if table.debut is None else recency(table.debut, self.growth.half_life)
        return lightgbm.Dataset(
            table.features,
            np.zeros(len(table.features)),
            weight=weight,
            categorical_feature=[0],
            params=self.parameters,
            free_raw_data=False,
            **options,
        ).construct()

    def fit(self, train: np.ndarray, validation: np.ndarray, level: float) -> Any:
        """A model of one quantile: targets of both splits → booster with the rounds that validation chose."""
        import lightgbm

        parameters = self.parameters | {"alpha": level}
        self.train.set_label(train)
        self.validation.set_label(validation)
        stop = lightgbm.early_stopping(_PATIENCE, verbose=False)
        booster = lightgbm.train(parameters, self.train, self.rounds, [self.validation], callbacks=[stop])
        rounds = booster.best_iteration
        if self.both is not None:
            self.both.set_label(np.concatenate([train, validation]))
            # As many more rounds as there are more rows.
            rounds = max(1, round(rounds * self.both.num_data() / self.train.num_data()))
            booster = lightgbm.train(parameters, self.both, rounds)
        # Only what forecasts need: a booster also holds on to its data.
        return lightgbm.Booster(model_str=booster.model_to_string(num_iteration=rounds))


class Boosted:
    """LightGBM on what is known at the cut-off.

    Args:
        form: `weeks`, a model of the median of each week; `shape`, the median total times a weekly shape.
        groups: Of the covariates, as far as these have them: without `regions` the song's weeks in other regions are
            left out, without `artist` the artist's history.
        calendar: Also give the calendar (see `features_of`).
        refit: Validation chooses the rounds; then the models are fitted once more on training and validation.
        observed: Numbers of observed periods to fit for; no others can be forecast.
        rounds: At most, per model.
        leaf_rows: Least rows of a leaf; None takes 200, or a fiftieth of few training rows.
        seed, threads: Of LightGBM, which is told to be deterministic.
    """

    def __init__(
        self,
        form: Literal["weeks", "shape"] = "weeks",
        groups: tuple[str, ...] = GROUPS,
        calendar: bool = False,
        refit: bool = False,
        observed: tuple[int, ...] = (0, 1, 2, 4),
        rounds: int = 500,
        leaf_rows: int | None = None,
        seed: int = 0,
        threads: int = 1,
    ) -> None:
        if form not in ("weeks", "shape"):
            raise InputError(f"form {form!r} is not known; use 'weeks' or 'shape'")
        marks = [form, *(["no regions"] if "regions" not in groups else []), *(["refit"] if refit else [])]
        self.name = f"boosted ({', '.join(marks + ['calendar'] * calendar)})"
        self.form, self.groups, self.calendar, self.refit = form, groups, calendar, refit
        self.observed, self.rounds, self.leaf_rows = observed, rounds, leaf_rows
        self.seed, self.threads = seed, threads

    def fit(self, train: Debuts, validation: Debuts, covariates: Covariates) -> Boosted:
        """Fits all models; validation stops each of them early.

        Raises:
            InputError: a split has no debut whose whole curve is known, or lightgbm is not installed.
        """
        _check_installed()
        # Not `release`: whether a date is known depends on how the song did.
        groups = tuple(group for group in covariates.groups if group in self.groups)
        self.covariates = replace(covariates, groups=groups)
        train, validation = complete_debuts(train), complete_debuts(validation)
        self.curve = ParametricCurve("gamma", observed=()).fit(train, validation, self.covariates)
        self.models = {
            observed: self._fit_observed(train, validation, observed)
            for observed in self.observed
            if observed < covariates.horizon
        }
        return self

    def _fit_observed(self, train: Debuts, validation: Debuts, observed: int) -> _Fitted:
        leaf_rows, growth = self.leaf_rows or min(200, max(5, len(train.rows) // 50)), _growth(observed)
        parameters = (
            _PARAMETERS
            | growth.parameters()
            | {
                "num_leaves": _LEAVES,
                "min_data_in_leaf": leaf_rows,
                "seed": self.seed,
                "num_threads": self.threads,
            }
        )
        tables = [_Table(self._features(part, observed), part.rows["debut"].to_numpy()) for part in (train, validation)]
        trees = _Trees(tables[0], tables[1], parameters, self.rounds, growth, self.refit)
        of_train, of_validation = (
            _targets(part, known_of(part, self.covariates, observed)) for part in (train, validation)
        )

        def model(target: str, level: float = 0.5, week: int | None = None) -> Any:
            pair = [found[target] if week is None else found[target][:, week] for found in (of_train, of_validation)]
            return trees.fit(pair[0], pair[1], level)

        weeks = range(of_train["weeks"].shape[1]) if self.form == "weeks" else range(0)
        ranked = all(np.isfinite(found["rank0"]).all() for found in (of_train, of_validation))
        return _Fitted(
            quantiles=[model("total", level) for level in LEVELS],
            weeks=[model("weeks", week=week) for week in weeks],
            shape=WeeklyShape(10 ** of_train["weeks"] - 1) if self.form == "shape" else None,
            length=model("length"),
            rank=model("rank0") if observed == 0 and ranked else None,
        )

    def _features(self, debuts: Debuts, observed: int) -> np.ndarray:
        levels = self.curve.levels(debuts, observed)
        drawn = np.column_stack([log_uncut(levels, observed), levels[:, observed], levels[:, -1]])
        features = features_of(debuts, self.covariates, observed, self.calendar)
        return np.concatenate([features, drawn.astype(np.float32)], axis=1)

    def forecast(self, debuts: Debuts, observed: int) -> CurveForecasts | None:
        """Forecasts with the models for this many observed periods; None if none were fitted."""
        if observed not in self.models:
            return None
        fitted, features = self.models[observed], self._features(debuts, observed)
        known = known_of(debuts, self.covariates, observed)

        def answer(booster: Any) -> np.ndarray:
            return np.maximum(booster.predict(features, num_threads=self.threads), 0)

        quantiles = np.sort(np.column_stack([answer(booster) for booster in fitted.quantiles]), axis=1)
        # A total is 0 or no less than the chart's lowest, which quantiles fitted one by one do not know.
        least = BELOW_SHARE * known.lowest[:, None]
        quantiles = np.where(quantiles < np.log10(1 + least), 0.0, quantiles)
        if fitted.shape is None:
            later = np.column_stack([10 ** answer(booster) - 1 for booster in fitted.weeks])
        else:
            later = (10 ** quantiles[:, 4:5] - 1) * fitted.shape(quantiles[:, 4])
        return forecasts_of(
            known,
            np.where(later < least, 0.0, later),
            quantiles,
            rank0=None if fitted.rank is None else answer(fitted.rank),
            total=10 ** quantiles[:, 4] - 1,
            length=answer(fitted.length),
        )

    def save(self, path: Path) -> None:
        """Writes all it has learnt, without pickle: gzipped JSON in which boosters are LightGBM's text."""
        told = {
            "form": self.form,
            "groups": list(self.groups),
            "calendar": self.calendar,
            "refit": self.refit,
            "curve": self.curve.to_dict(),
            "models": {str(observed): fitted.to_dict() for observed, fitted in self.models.items()},
        }
        with written_whole(path) as part:
            part.write_bytes(gzip.compress(json.dumps(told).encode(), mtime=0))

    @classmethod
    def load(cls, path: Path, covariates: Covariates, threads: int = 1) -> Boosted:
        """Reads what `save` wrote, to forecast with what these covariates know.

        Raises:
            InputError: the file is damaged, or lightgbm is not installed.
        """
        _check_installed()
        import lightgbm

        try:
            with gzip.open(path) as packed:
                text = packed.read(_MOST_BYTES + 1)
            if len(text) > _MOST_BYTES:
                raise ValueError(f"more than {_MOST_BYTES} bytes once unpacked")
            told = json.loads(text)
            found = cls(
                told["form"], tuple(told["groups"]), told["calendar"], told["refit"], tuple(map(int, told["models"]))
            )
            found.threads = threads
            found.curve = ParametricCurve.from_dict(told["curve"])
            found.models = {int(observed): _Fitted.from_dict(each) for observed, each in told["models"].items()}
        except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError, lightgbm.basic.LightGBMError) as error:
            raise InputError(f"{path}: no whole boosted model ({error}); train it again with recipes/mp3.py") from error
        return found.with_covariates(covariates)

    def with_covariates(self, covariates: Covariates) -> Boosted:
        """The same models, told by other covariates, which must have the groups that these were fitted with."""
        found = copy(self)
        groups = tuple(group for group in covariates.groups if group in self.groups)
        found.covariates = replace(covariates, groups=groups)
        found.curve = copy(self.curve)
        found.curve.covariates = found.covariates
        return found


class AveragedBoosted:
    """Several `Boosted`, whose forecasts are averaged number by number in log10(1 + streams / floor).

    One that stops learning before the validation split, and one that is refitted with it, need not agree on how far
    the latest half-year is to be followed.

    Args:
        fits: Not yet fitted.
    """

    def __init__(self, fits: Sequence[Boosted]) -> None:
        self.name = " and ".join(each.name for each in fits)
        self.fits = list(fits)

    @classmethod
    def of_both_fits(cls) -> AveragedBoosted:
        """Trees that learn from training alone, and the same refitted with validation."""
        return cls([Boosted(), Boosted(refit=True)])

    def fit(self, train: Debuts, validation: Debuts, covariates: Covariates) -> AveragedBoosted:
        """Fits each, as `Boosted.fit`."""
        for each in self.fits:
            each.fit(train, validation, covariates)
        return self

    def forecast(self, debuts: Debuts, observed: int) -> CurveForecasts | None:
        """The mean of the forecasts of all; None if one has no models for this many observed periods."""
        parts = [each.forecast(debuts, observed) for each in self.fits]
        told = [part for part in parts if part is not None]
        if len(told) < len(parts):
            return None
        floor = known_of(debuts, self.fits[0].covariates, observed).floor

        def mean(name: str, in_log: bool = False) -> np.ndarray | None:
            values = [getattr(part, name) for part in told]
            if any(value is None for value in values):
                return None
            if not in_log:
                return np.mean(values, axis=0)
            unit = floor.reshape(-1, *[1] * (values[0].ndim - 1))
            return (10 ** np.mean([np.log10(1 + value / unit) for value in values], axis=0) - 1) * unit

        curve = mean("curve", in_log=True)
        assert curve is not None
        return CurveForecasts(
            curve=curve,
            quantiles=mean("quantiles", in_log=True),
            total=mean("total", in_log=True),
            score=mean("score"),
            rank0=mean("rank0"),
            length=mean("length"),
        )


def _targets(debuts: Debuts, known: Known) -> dict[str, np.ndarray]:
    """What is to be forecast of n rows: in log10(1 + streams / floor) `total` (n,) and `weeks` (n, later periods)."""
    later = debuts.curves.chart_observed()[:, known.seen.shape[1] :] / known.floor[:, None]
    return {
        "total": log_sum(later),
        "weeks": np.log10(1 + later),
        "length": (later > 0).sum(axis=1).astype(float),
        "rank0": debuts.curves.rank[:, 0],
    }


def _check_installed() -> None:
    try:
        import lightgbm  # noqa: F401
    except ImportError as error:
        raise InputError("the boosted baseline needs lightgbm; pip install 'mp3model[boosted]'") from error
