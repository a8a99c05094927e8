"""A system that predicts one number a row in, a baseline of curves out: quantiles, a weekly curve, length and rank.

The number is log10(1 + total / floor), with the floor of the period before debut. What it says of the total is learnt
from rows the system was not fitted on: the validation split, which it may have chosen an epoch by, or training songs
left out in turn where that is small.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import pandas as pd

from mp3model.baselines.boosted import WeeklyShape
from mp3model.baselines.curve_floors import (
    LEAST_ROWS,
    Groups,
    Known,
    Spread,
    complete_debuts,
    forecasts_of,
    known_of,
    log_sum,
    whole_curves,
)
from mp3model.evaluation.accuracy import LEVELS, CurveForecasts
from mp3model.model.covariates import Covariates
from mp3model.tables.debuts import Debuts

TARGET = "true"
FOLDS = 4
# Of the rows a system was not fitted on, for nine quantiles in more than one bin.
_LEAST_HELD, _ROWS_A_BIN = 100, 60
_COLUMNS = ["song_id", "track_id", "artist", "region", "debut"]


class ScalarSystem(Protocol):
    """What `ScalarCurves` turns into curves.

    Frames have `song_id, track_id, artist, region, debut`; for fitting also `true`, log10(1 + total / floor), and
    `week_0` … log10(1 + streams / floor) of each period.
    """

    def fit(self, train: pd.DataFrame, validation: pd.DataFrame | None) -> ScalarSystem:
        """Fits new weights; validation may choose among them and is otherwise unseen."""
        ...

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        """(n,) predictions; NaN of a row the system knows nothing of, such as a song without audio."""
        ...

    def shares(self, frame: pd.DataFrame) -> np.ndarray | None:
        """(n, periods) shares in the total, NaN where `predict` is; None of systems that predict no curve."""
        ...


def week_columns(frame: pd.DataFrame) -> list[str]:
    """Names of the periods' columns, in their order."""
    return [str(name) for name in frame if str(name).startswith("week_")]


class ScalarCurves:
    """A scalar system as a row of the table, for forecasts before debut.

    Quantiles of the total are those of held-out rows with about the same prediction. The median total is spread over
    the periods as training totals of its size were, and cut to 0 where it falls below the chart's lowest; length and
    debut rank are the medians of such rows. Rows that the system says nothing of get their region's training quantiles.

    Args:
        name: What a report calls it.
        make: A new, unfitted system.
        folds: Parts of the training songs that are left out in turn where fewer than 100 validation rows are known.
    """

    def __init__(self, name: str, make: Callable[[], ScalarSystem], folds: int = FOLDS) -> None:
        self.name, self.make, self.folds = name, make, folds

    def fit(self, train: Debuts, validation: Debuts, covariates: Covariates) -> ScalarCurves:
        """Fits the system on the training split; validation stops it early and gives the spread.

        Raises:
            InputError: no training debut has a known curve, or the system's own reasons.
        """
        self.covariates = covariates
        train = complete_debuts(train)
        known = known_of(train, covariates, 0)
        curves = whole_curves(train, known)
        frame = _with_targets(known, curves)
        logs = frame[TARGET].to_numpy()
        held = self._held(validation)
        self.system = self.make().fit(frame, held)
        if held is not None and len(held) >= _LEAST_HELD:
            predicted, outcome = self.system.predict(held), held[TARGET].to_numpy()
        else:
            predicted, outcome = self._crossed(frame), logs
        self.spread = _spread(predicted, outcome)
        self.usual = Groups([known.region], logs[:, None], lambda part: np.quantile(part[:, 0], LEVELS))
        self.shape = WeeklyShape(curves)
        self.lengths = Spread(logs, (curves > 0).sum(axis=1).astype(float))
        ranks = train.curves.rank[:, 0]
        self.ranks = Spread(logs, ranks) if np.isfinite(ranks).any() else None
        return self

    def _held(self, validation: Debuts) -> pd.DataFrame | None:
        complete = np.isfinite(validation.curves.chart_observed()).all(axis=1)
        if not complete.any():
            return None
        validation = validation.chosen(complete)
        known = known_of(validation, self.covariates, 0)
        return _with_targets(known, whole_curves(validation, known))

    def _crossed(self, frame: pd.DataFrame) -> np.ndarray:
        """Predictions of each training row by a system that was fitted without its artist."""
        artist = frame["artist"].where(frame["artist"].notna(), "song:" + frame["song_id"].astype(str))
        codes, names = pd.factorize(artist, sort=True)
        fold = np.random.default_rng(0).permutation(len(names))[codes] % self.folds
        predicted = np.full(len(frame), np.nan)
        for part in np.unique(fold):
            out = fold == part
            if out.all():
                continue
            fitted = self.make().fit(frame[~out].reset_index(drop=True), None)
            predicted[out] = fitted.predict(frame[out].reset_index(drop=True))
        return predicted

    def forecast(self, debuts: Debuts, observed: int) -> CurveForecasts | None:
        """Forecasts before debut; None once a period has been observed, of which the system knows nothing."""
        if observed:
            return None
        known = known_of(debuts, self.covariates, 0)
        frame = known.rows[_COLUMNS].reset_index(drop=True)
        predicted = self.system.predict(frame)
        usual = self.usual([known.region])
        heard = np.isfinite(predicted)
        if self.spread is None:
            heard[:] = False
        quantiles = usual
        if self.spread is not None:
            quantiles = np.where(heard[:, None], self.spread(np.where(heard, predicted, 0.0)), usual)
        middle = quantiles[:, 4]
        shares, own = self.shape(middle), self.system.shares(frame)
        if own is not None:
            shares = np.where(heard[:, None], np.nan_to_num(own), shares)
        later = (10**middle - 1)[:, None] * shares
        return forecasts_of(
            known,
            np.where(later < known.lowest[:, None], 0.0, later),
            quantiles,
            rank0=None if self.ranks is None else self.ranks(middle)[:, 4],
            total=10**middle - 1,
            length=self.lengths(middle)[:, 4],
            # The system's own order: bins would make rows equal that it tells apart.
            score=np.maximum(np.where(heard, predicted, usual.mean(axis=1)) + np.log10(known.floor), 0.0),
        )


def _with_targets(known: Known, curves: np.ndarray) -> pd.DataFrame:
    weeks = {f"week_{period}": column for period, column in enumerate(np.log10(1 + curves).T)}
    return known.rows[_COLUMNS].reset_index(drop=True).assign(**{TARGET: log_sum(curves)}, **weeks)


def _spread(predicted: np.ndarray, outcome: np.ndarray) -> Spread | None:
    count = int(np.isfinite(predicted).sum())
    return Spread(predicted, outcome, max(1, count // _ROWS_A_BIN)) if count >= LEAST_ROWS else None
