"""Training rows in, predictions out: the floors that a model of sound must beat, the region's mean and a linear map."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from mp3model.files import InputError

MINIMUM_ROWS = 5
# Standardised features and tens to thousands of rows: from next to no penalty to next to nothing but the mean.
PENALTIES = np.logspace(-2, 6, 25)


class RegionMean:
    """Predicts the mean of the region's training rows."""

    def __init__(self) -> None:
        self.means: dict[str, float] = {}

    def fit(self, train: pd.DataFrame, target: str = "true") -> RegionMean:
        """Takes the means of `target` by `region`; rows with a NaN target are left out.

        Raises:
            InputError: no row is left.
        """
        known = train[train[target].notna()]
        if not len(known):
            raise InputError(f"none of the {len(train)} training rows has a {target}; a mean needs at least one")
        self.means = {str(region): float(mean) for region, mean in known.groupby("region")[target].mean().items()}
        return self

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        """(n,) predictions for the rows' `region`.

        Raises:
            InputError: a region without training rows.
        """
        _check_regions(frame, list(self.means))
        return frame["region"].map(self.means).to_numpy(dtype=float)


class RidgeOnMeanLogMel:
    """A ridge regression a region on the time-averaged log-mel bands of each song.

    Features are standardised by the songs trained on. The penalty of each region is chosen among `PENALTIES` by
    generalised (leave-one-out) cross-validation on its training rows (Golub, Heath and Wahba, 1979).
    """

    def __init__(self, features: pd.DataFrame) -> None:
        """Takes the features, one row a song: index `song_id`, d numeric columns (d = 128 for log-mel bands).

        Raises:
            InputError: a song twice, or a value that is not finite.
        """
        if features.index.has_duplicates:
            song = features.index[features.index.duplicated()][0]
            raise InputError(f"song {song!r} has two rows of features; give one a song")
        values = features.to_numpy(dtype=float)
        if not np.isfinite(values).all():
            song = features.index[~np.isfinite(values).all(axis=1)][0]
            raise InputError(f"song {song!r} has features that are not finite; leave songs without sound out")
        self.songs = features.index
        self.values = values
        self.models: dict[str, Any] = {}

    def fit(self, train: pd.DataFrame, target: str = "true") -> RidgeOnMeanLogMel:
        """Fits `target` on the features of `song_id`, a model a `region`; rows with a NaN target are left out.

        Raises:
            InputError: a region has fewer than five rows, or a song no features.
        """
        from sklearn.linear_model import RidgeCV

        known = train[train[target].notna()]
        positions = self._positions(known)
        used = self.values[np.unique(positions)]
        self.centre = used.mean(axis=0) if len(used) else np.zeros(self.values.shape[1])
        spread = used.std(axis=0) if len(used) else np.ones(self.values.shape[1])
        self.spread = np.where(spread > 0, spread, 1.0)
        self.models = {}
        for region in pd.unique(train["region"]):
            rows = (known["region"] == region).to_numpy()
            if rows.sum() < MINIMUM_ROWS:
                raise InputError(
                    f"region {region} has {rows.sum()} training rows with a {target}; a ridge needs {MINIMUM_ROWS}"
                )
            model = RidgeCV(alphas=PENALTIES)
            self.models[str(region)] = model.fit(self._standardised(positions[rows]), known[target].to_numpy()[rows])
        return self

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        """(n,) predictions for the rows' `song_id` and `region`.

        Raises:
            InputError: a region without training rows, or a song without features.
        """
        _check_regions(frame, list(self.models))
        positions = self._positions(frame)
        predicted = np.full(len(frame), np.nan)
        for region, model in self.models.items():
            rows = (frame["region"] == region).to_numpy()
            if rows.any():
                predicted[rows] = model.predict(self._standardised(positions[rows]))
        return predicted

    def _positions(self, frame: pd.DataFrame) -> np.ndarray:
        positions = self.songs.get_indexer(pd.Index(frame["song_id"]))
        if (positions < 0).any():
            song = frame["song_id"].iloc[int(np.flatnonzero(positions < 0)[0])]
            raise InputError(f"song {song!r} has no features; compute its mean log-mel, or leave its rows out")
        return positions

    def _standardised(self, positions: np.ndarray) -> np.ndarray:
        return (self.values[positions] - self.centre) / self.spread


def _check_regions(frame: pd.DataFrame, known: list[str]) -> None:
    unknown = sorted(set(frame["region"].astype(str)) - set(known))
    if unknown:
        names = ", ".join(sorted(known)) or "none"
        raise InputError(f"region {unknown[0]} had no training rows: leave its rows out; known are {names}")
