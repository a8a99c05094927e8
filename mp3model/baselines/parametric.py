"""Curves of past debuts in, curves of two-parameter families whose parameters follow from what is known, out.

A curve is log10 y(t) = a + s(t; θ) − s(½; θ) at the middle of each period, t = ½, 1½, …, in units of the region's
floor: `a` is the level of the first period and s one of `SHAPES`. Every training curve is fitted by least squares in
log space; a week below the chart costs only what the curve lies above the chart's lowest. The parameters are regressed
on covariates, and that regression is the prior from which a curve is fitted again once weeks of it are seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mp3model.baselines.curve_floors import Spread, complete_debuts, forecasts_of, known_of, log_sum, whole_curves
from mp3model.evaluation.accuracy import CurveForecasts
from mp3model.files import InputError
from mp3model.model.covariates import Covariates
from mp3model.tables.curves import BELOW, OBSERVED, taken
from mp3model.tables.debuts import Debuts, with_cutoff

PARAMETERS = 3
_BATCH = 8192
_ITERATIONS = 25
# Steps of the SIR equations a period.
_STEPS = 6
# Share of listeners infected as a song debuts.
_INFECTED = 0.02
# Spread of a week around its curve, log10, at first; it is estimated from the fits.
_FIRST_NOISE = 0.15
# Rates and widths are logarithms held within these bounds, so that no exponential overflows.
_BOUNDS = (-6.0, 4.0)


def gamma_shape(time: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """log10 of tᵇ · exp(−c t), b = `first`, c = exp(`second`): times (T,), parameters (n,) → (n, T)."""
    rate = np.exp(np.clip(second, *_BOUNDS))[:, None]
    return (first[:, None] * np.log(time) - rate * time) / np.log(10)


def log_normal_shape(time: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """log10 of the log-normal density with log median `first` and log spread `second`: → (n, T)."""
    width = np.exp(np.clip(second, -2.0, 3.0))[:, None]
    return (-np.log(time) - ((np.log(time) - first[:, None]) / width) ** 2 / 2) / np.log(10)


def bass_shape(time: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """log10 of the adoption density of Bass (1969), equation 9, with log innovation p and log imitation q: → (n, T)."""
    innovation = np.exp(np.clip(first, *_BOUNDS))[:, None]
    imitation = np.exp(np.clip(second, *_BOUNDS))[:, None]
    decay = (innovation + imitation) * time
    return (-decay - 2 * np.log1p(imitation / innovation * np.exp(-decay))) / np.log(10)


def sir_shape(time: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """log10 of those infected in the model of Kermack and McKendrick (1927), log rates β and γ: → (n, T).

    A fixed share of listeners is infected at t = 0. Integrated by exponential Euler steps, six a period, which keep
    both shares positive.
    """
    infection = np.exp(np.clip(first, *_BOUNDS))
    recovery = np.exp(np.clip(second, *_BOUNDS))
    susceptible, infected = np.full(len(first), 1 - _INFECTED), np.full(len(first), np.log(_INFECTED))
    wanted = np.rint(time * _STEPS).astype(int)
    levels = np.empty((len(first), len(time)))
    for step in range(int(wanted.max(initial=0)) + 1):
        levels[:, wanted == step] = infected[:, None]
        growth = (infection * susceptible - recovery) / _STEPS
        susceptible = susceptible * np.exp(-infection * np.exp(np.minimum(infected, 0)) / _STEPS)
        infected = infected + growth
    return levels / np.log(10)


SHAPES: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    "gamma": gamma_shape,
    "log-normal": log_normal_shape,
    "bass": bass_shape,
    "sir": sir_shape,
}
# Where fits start and what they are drawn to before anything is learnt: level, first, second; and how strongly.
_START = {
    "gamma": (0.3, 0.0, -1.5),
    "log-normal": (0.3, 0.5, 0.3),
    "bass": (0.3, -1.5, -1.5),
    "sir": (0.3, -1.0, -1.0),
}
_START_SPREAD = np.array([0.7, 1.0, 1.0])


@dataclass(frozen=True)
class Weeks:
    """What is known of n curves, in log10 of floor units.

    Attributes:
        value: (n, H) where charted.
        threshold: (n, H) the chart's lowest.
        charted, below: (n, H) bool; neither where unknown.
    """

    value: np.ndarray
    threshold: np.ndarray
    charted: np.ndarray
    below: np.ndarray

    def within(self, observed: int) -> Weeks:
        """Only the first periods."""
        early = np.arange(self.value.shape[1]) < observed
        return Weeks(self.value, self.threshold, self.charted & early, self.below & early)


@dataclass(frozen=True)
class Prior:
    """A normal distribution of the parameters: mean (n, 3), inverse covariance (3, 3), variance of a week."""

    mean: np.ndarray
    precision: np.ndarray
    noise: float


def curve_levels(shape: str, parameters: np.ndarray, horizon: int) -> np.ndarray:
    """log10 levels over the floor: (n, 3) level, first, second → (n, H)."""
    shape_at = SHAPES[shape](np.arange(horizon) + 0.5, parameters[:, 1], parameters[:, 2])
    return parameters[:, :1] + shape_at - shape_at[:, :1]


def fit_parameters(shape: str, weeks: Weeks, prior: Prior) -> np.ndarray:
    """Most probable parameters of each curve: n curves → (n, 3).

    Minimises Σ e² / noise + (φ − mean)ᵀ precision (φ − mean) by Levenberg-Marquardt steps, all curves at once; e is
    value − curve where charted, and where below the chart what the curve lies above the threshold.
    """
    horizon = weeks.value.shape[1]
    found = prior.mean.copy()
    damping = np.full(len(found), 1e-2)
    cost, errors = _cost(shape, weeks, prior, found)
    for _ in range(_ITERATIONS):
        levels = curve_levels(shape, found, horizon)
        slopes = np.stack(
            [
                (curve_levels(shape, found + 1e-4 * np.eye(PARAMETERS)[place], horizon) - levels) / 1e-4
                for place in range(PARAMETERS)
            ],
            axis=-1,
        )
        # Where an error is 0 because nothing is known, or the curve is below the threshold, it does not pull.
        slopes = slopes * (weeks.charted | (errors != 0))[..., None]
        normal = np.einsum("nhi,nhj->nij", slopes, slopes) / prior.noise + prior.precision
        pull = np.einsum("nhi,nh->ni", slopes, errors) / prior.noise - (found - prior.mean) @ prior.precision
        damped = normal + damping[:, None, None] * normal * np.eye(PARAMETERS)
        tried = found + np.linalg.solve(damped, pull[..., None])[..., 0]
        tried_cost, tried_errors = _cost(shape, weeks, prior, tried)
        better = tried_cost < cost
        found = np.where(better[:, None], tried, found)
        errors = np.where(better[:, None], tried_errors, errors)
        cost = np.where(better, tried_cost, cost)
        damping = np.clip(np.where(better, damping / 5, damping * 5), 1e-6, 1e6)
    return found


def _cost(shape: str, weeks: Weeks, prior: Prior, parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What is minimised (n,), and the errors (n, H)."""
    levels = curve_levels(shape, parameters, weeks.value.shape[1])
    errors = np.where(weeks.charted, weeks.value - levels, 0.0)
    errors = np.where(weeks.below, -np.maximum(levels - weeks.threshold, 0), errors)
    away = parameters - prior.mean
    return (errors**2).sum(axis=1) / prior.noise + np.einsum("ni,ij,nj->n", away, prior.precision, away), errors


class ParametricCurve:
    """One family of curves, its parameters regressed on region, region state, artist history and other regions.

    Training curves are fitted twice: first drawn weakly to a common start, then, by the mean, spread and noise that
    this gives, to what the regression says of each (one round of empirical Bayes). A forecast is the most probable
    curve, 0 where it lies below the chart's lowest at the cut-off; totals spread around its uncut total as those of
    training debuts did.

    Args:
        shape: One of `SHAPES`.
        penalty: Of the ridge regression on standardised features.
        observed: Numbers of observed periods to learn the spread for; others cannot be forecast.
    """

    def __init__(
        self,
        shape: Literal["gamma", "log-normal", "bass", "sir"] = "gamma",
        penalty: float = 10.0,
        observed: tuple[int, ...] = (0, 1, 2, 4),
    ) -> None:
        if shape not in SHAPES:
            raise InputError(f"shape {shape!r} is not known; use one of {', '.join(SHAPES)}")
        self.name, self.shape, self.penalty, self.observed = f"{shape} curve", shape, penalty, observed

    def fit(self, train: Debuts, validation: Debuts, covariates: Covariates) -> ParametricCurve:
        """Fits the training split; validation is not used."""
        self.covariates = covariates
        train = complete_debuts(train)
        features, weeks = self._gathered(train, 0)
        self.centre, self.width = features.mean(axis=0), np.maximum(features.std(axis=0), 1e-6)
        start = np.broadcast_to(np.array(_START[self.shape]), (len(features), PARAMETERS))
        prior = Prior(start, np.diag(_START_SPREAD**-2), _FIRST_NOISE**2)
        # The second fit starts from, and is drawn to, what covariates say.
        for _ in range(2):
            found = fit_parameters(self.shape, weeks, prior)
            self._regress(features, found)
            prior = self._learnt(features, found, weeks)
        self.precision, self.noise = prior.precision, prior.noise
        self.spreads = {
            observed: self._spread(train, observed) for observed in self.observed if observed < covariates.horizon
        }
        self.ranks = self._rank_spread(train)
        return self

    def _regress(self, features: np.ndarray, parameters: np.ndarray) -> None:
        design = self._design(features)
        penalty = np.full(design.shape[1], self.penalty)
        penalty[0] = 0.0
        self.weights = np.linalg.solve(design.T @ design + np.diag(penalty), design.T @ parameters)

    def _design(self, features: np.ndarray) -> np.ndarray:
        # Beyond what training saw by far, a linear map says nothing sensible.
        standard = np.clip((features - self.centre) / self.width, -4, 4)
        return np.concatenate([np.ones((len(features), 1)), standard], axis=1)

    def _learnt(self, features: np.ndarray, parameters: np.ndarray, weeks: Weeks) -> Prior:
        mean = self._design(features) @ self.weights
        covariance = np.cov((parameters - mean).T) + 1e-4 * np.eye(PARAMETERS)
        errors = (weeks.value - curve_levels(self.shape, parameters, weeks.value.shape[1]))[weeks.charted]
        # Three parameters leave that much less room for errors than there are weeks.
        room = max(weeks.charted.sum() - PARAMETERS * len(parameters), weeks.charted.sum() // 4, 1)
        return Prior(mean, np.linalg.inv(covariance), max(float((errors**2).sum() / room), 1e-3))

    def _gathered(self, debuts: Debuts, observed: int) -> tuple[np.ndarray, Weeks]:
        """Features as of the cut-off (n, features), and the curves as known then; all of them at 0, for training."""
        features, values, thresholds, states = [], [], [], []
        rows = with_cutoff(debuts.rows, observed, self.covariates.frequency)
        for start in range(0, len(rows), _BATCH):
            at = np.arange(start, min(start + _BATCH, len(rows)))
            batch = self.covariates.gather(rows.iloc[at], taken(debuts.curves, at))
            regions = np.eye(len(self.covariates.regions) + 1)[batch["region"]]
            features.append(np.concatenate([batch["static"], regions], axis=1))
            values.append(batch["value"])
            thresholds.append(batch["threshold"])
            states.append(batch["state"])
        state = np.concatenate(states)
        value, threshold = np.concatenate(values).astype(float), np.concatenate(thresholds).astype(float)
        return np.concatenate(features), Weeks(value, threshold, state == OBSERVED, state == BELOW)

    def levels(self, debuts: Debuts, observed: int) -> np.ndarray:
        """Most probable log10 levels given the covariates and the observed periods: (n, H)."""
        features, weeks = self._gathered(debuts, observed)
        mean = self._design(features) @ self.weights
        if observed:
            mean = fit_parameters(self.shape, weeks.within(observed), Prior(mean, self.precision, self.noise))
        return np.clip(curve_levels(self.shape, mean, self.covariates.horizon), -6, 6)

    def _spread(self, train: Debuts, observed: int) -> Spread:
        known = known_of(train, self.covariates, observed)
        later = whole_curves(train, known)[:, observed:]
        return Spread(log_uncut(self.levels(train, observed), observed), log_sum(later))

    def _rank_spread(self, train: Debuts) -> Any:
        ranks = train.curves.rank[:, 0]
        return Spread(self.levels(train, 0)[:, 0], ranks) if np.isfinite(ranks).any() else None

    def forecast(self, debuts: Debuts, observed: int) -> CurveForecasts | None:
        """The fitted curve from the first period not observed on; None for an `observed` that was not fitted."""
        if observed not in self.spreads:
            return None
        known = known_of(debuts, self.covariates, observed)
        levels = self.levels(debuts, observed)
        later = 10.0 ** levels[:, observed:]
        quantiles = self.spreads[observed](log_uncut(levels, observed))
        return forecasts_of(
            known,
            np.where(later < known.lowest[:, None], 0.0, later),
            quantiles,
            rank0=self.ranks(levels[:, 0])[:, 4] if self.ranks is not None else None,
            total=10 ** quantiles[:, 4] - 1,
        )

    def to_dict(self) -> dict[str, Any]:
        """What `levels` needs, as JSON values; the spreads of `forecast` are left out."""
        return {"shape": self.shape, "noise": self.noise} | {
            name: getattr(self, name).tolist() for name in ("centre", "width", "weights", "precision")
        }

    @classmethod
    def from_dict(cls, told: dict[str, Any]) -> ParametricCurve:
        """The inverse of `to_dict`: a curve that answers `levels` once it is given `covariates`."""
        curve = cls(told["shape"], observed=())
        curve.noise, curve.spreads = float(told["noise"]), {}
        for name in ("centre", "width", "weights", "precision"):
            setattr(curve, name, np.array(told[name]))
        return curve


def log_uncut(levels: np.ndarray, observed: int) -> np.ndarray:
    """log10 of the sum of later periods before anything is cut to 0: (n, H) → (n,)."""
    return np.log10((10.0 ** levels[:, observed:]).sum(axis=1))
