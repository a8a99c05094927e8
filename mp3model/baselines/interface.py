"""What every curve baseline is: debuts of the training split in, forecasts of other debuts out."""

from __future__ import annotations

from typing import Protocol

from mp3model.evaluation.accuracy import CurveForecasts
from mp3model.model.covariates import Covariates
from mp3model.tables.debuts import Debuts


class CurveBaseline(Protocol):
    """A system that forecasts curves; a new one is a class with these three in a file of its own.

    Attributes:
        name: What a report calls it.
    """

    name: str

    def fit(self, train: Debuts, validation: Debuts, covariates: Covariates) -> CurveBaseline:
        """Learns from the training split; the validation split may only choose among what was learnt.

        Args:
            train: Debuts to learn from, with their whole curves.
            validation: Later debuts, for early stopping and choices.
            covariates: What is known of any row as of a day; answers nothing from after it.
        """
        ...

    def forecast(self, debuts: Debuts, observed: int) -> CurveForecasts | None:
        """Forecasts with the first `observed` periods known, of each debut in its order; None if it cannot.

        The whole curves in `debuts` are there for the observed periods: nothing later may be read.
        """
        ...
