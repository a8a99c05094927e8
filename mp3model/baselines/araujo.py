"""Chart histories in; whether a song is in the top N within the next month, by an SVM and by paths, and scores out.

Source: Araujo, Cristo and Giusti, Predicting Music Popularity on Streaming Platforms (SBCM 2019) and A Model for
Predicting Music Popularity on Streaming Platforms (RITA 27, 2020): a support vector machine with an RBF kernel on a
song's past in the ranking says whether it will be in Spotify's top 50. The features below, the penalty and the
observed and asked-for periods are ours, and so are the figures: theirs are of other data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mp3model.evaluation.bootstrap import Draws, divided, with_interval
from mp3model.evaluation.forecasts import CurvePaths, RankCurves
from mp3model.files import InputError
from mp3model.tables.curves import PERIOD_DAYS, CurveArrays
from mp3model.tables.debuts import Debuts, debut_rows, debuts_of, with_cutoff
from mp3model.tables.folder import DatasetFolder

TOP = 50
PENALTY = 1.0
# The time an SVM takes grows with the square of its rows.
MOST_ROWS = 6000
MEASURES = ("accuracy", "auc", "f1")
_MONTH_DAYS = 28


@dataclass(frozen=True)
class TopQuestion:
    """Is the song among the top ranks in any of the periods of the next month?

    Attributes:
        top: Ranks 1 to this.
        observed: Periods known, at least 1.
        month: Periods asked for after those.
    """

    top: int
    observed: int
    month: int

    def answers(self, curves: CurveArrays) -> tuple[np.ndarray, np.ndarray]:
        """What happened: (n,) bool, and (n,) bool whether all that the question reads is known."""
        asked = slice(self.observed, self.observed + self.month)
        ranks, streams = curves.rank[:, asked], curves.chart_observed()[:, : self.observed + self.month]
        # A rank may be unknown while the song was on the chart.
        known = np.isfinite(streams).all(axis=1) & (np.isfinite(ranks) | (streams[:, asked] == 0)).all(axis=1)
        return np.nan_to_num(ranks, nan=np.inf).min(axis=1) <= self.top, known

    def features(self, debuts: Debuts, regions: list[str]) -> np.ndarray:
        """(n, features) of the observed periods alone.

        A period: log10(1 + streams / floor) and the score of its rank, log2 of top over rank, −4 off the chart. Then
        the best and last score, their slope, the periods on the chart, and the region.
        """
        streams = debuts.curves.chart_observed()[:, : self.observed]
        floor = np.where(np.isfinite(debuts.curves.floor), debuts.curves.floor, 1.0)
        level = np.log10(1 + np.nan_to_num(streams) / floor[:, None])
        ranks = debuts.curves.rank[:, : self.observed]
        score = np.maximum(np.log2(self.top / np.where(np.isfinite(ranks), ranks, 16 * self.top)), -4)
        slope = (score[:, -1] - score[:, 0]) / max(self.observed - 1, 1)
        here = debuts.rows["region"].to_numpy()[:, None] == np.array(regions, dtype=object)
        summary = [score.max(axis=1), score[:, -1], slope, (np.nan_to_num(streams) > 0).sum(axis=1)]
        return np.concatenate([level, score, np.column_stack(summary), here], axis=1).astype(float)


def top_next_month(
    dataset: DatasetFolder,
    paths: CurvePaths | None = None,
    top: int = TOP,
    observed: int | None = None,
    split: str = "test",
    seed: int = 0,
    replicates: int = 200,
) -> dict[str, Any]:
    """Scores of the SVM, of paths if there are any, and of the majority class on the same rows.

    Args:
        dataset: With curves, ranks and splits; the SVM learns from the training split.
        paths: Of debuts of `split` with `observed` periods; P(in the top) is the share of paths whose rank, by the
            region's last chart before the cut-off, is in the top in any period asked for. Rows without paths are left
            out of all scores.
        top: Ranks.
        observed: Periods known; None takes a month of four weeks, or of 28 days.
        split: That is scored.
        seed: Of the rows that are drawn where there are more than 6,000, and of the bootstrap.
        replicates: Of the bootstrap over artists.

    Returns:
        `question` (top, observed, month), `n_rows, n_artists, share_in_top`, and by system (`majority`, `svm`, `paths`)
        `accuracy, auc, f1`, each with its 95 % interval `…_ci`; None where undefined. F1 is of being in the top.

    Raises:
        InputError: too short a horizon, no known row in a split, one class only in training, or paths with another
            number of observed periods.
    """
    month = _MONTH_DAYS // PERIOD_DAYS[dataset.frequency]
    question = TopQuestion(top, month if observed is None else observed, month)
    if question.observed < 1 or question.observed + month > dataset.horizon:
        raise InputError(
            f"{question.observed} observed periods and {month} asked for are not within the horizon of "
            f"{dataset.horizon}; give `observed` between 1 and {dataset.horizon - month}"
        )
    debuts = debuts_of(dataset, debut_rows(dataset), dataset.horizon)
    train, asked = (_known(debuts.of_split(name), question, name) for name in ("train", split))
    chance = None
    if paths is not None:
        chance = _chances(dataset, paths, asked.rows, question)
        asked, chance = asked.chosen(np.isfinite(chance)), chance[np.isfinite(chance)]
        if not len(asked.rows):
            raise InputError(f"no known {split} row has a path; give paths of the {split} split")
    true, often = question.answers(asked.curves)[0], question.answers(train.curves)[0].mean() >= 0.5
    systems = {
        "majority": np.full(len(true), 1.0 if often else -1.0),
        "svm": _svm(train, question, dataset.regions, seed)(asked),
    }
    if chance is not None:
        systems["paths"] = chance - 0.5
    artist = asked.rows["artist"].where(asked.rows["artist"].notna(), "song:" + asked.rows["song_id"].astype(str))
    weights = Draws(artist, replicates, seed).weights()
    found: dict[str, Any] = {
        "question": {"top": top, "observed": question.observed, "month": month},
        "n_rows": len(true),
        "n_artists": int(artist.nunique()),
        "share_in_top": float(true.mean()),
    }
    return found | {name: _scores(true, margin, weights) for name, margin in systems.items()}


def _known(debuts: Debuts, question: TopQuestion, split: str) -> Debuts:
    known = question.answers(debuts.curves)[1]
    if not known.any():
        raise InputError(f"none of the {len(known)} {split} debuts has known ranks; give charts with ranks")
    return debuts.chosen(known)


def _svm(train: Debuts, question: TopQuestion, regions: list[str], seed: int) -> Callable[[Debuts], np.ndarray]:
    """The fitted machine: debuts → (n,) margins, above 0 in the top."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    true = question.answers(train.curves)[0]
    if true.all() or not true.any():
        raise InputError(
            f"{int(true.sum())} of {len(true)} training rows are in the top {question.top} of the next month; "
            "name another top, so that there are both"
        )
    features = question.features(train, regions)
    if len(true) > MOST_ROWS:
        drawn = np.sort(np.random.default_rng(seed).permutation(len(true))[:MOST_ROWS])
        features, true = features[drawn], true[drawn]
    machine = make_pipeline(StandardScaler(), SVC(kernel="rbf", C=PENALTY, gamma="scale")).fit(features, true)
    return lambda debuts: machine.decision_function(question.features(debuts, regions))


def _chances(dataset: DatasetFolder, paths: CurvePaths, rows: pd.DataFrame, question: TopQuestion) -> np.ndarray:
    """P(in the top) of each row; NaN of one without paths or without a chart before its cut-off."""
    other = paths.rows["observed"].to_numpy() != question.observed
    if other.any():
        found = int(paths.rows["observed"].to_numpy()[other][0])
        raise InputError(f"paths have {found} observed periods, the question {question.observed}; make them equal")
    names = ["track_id", "region"]
    place = pd.MultiIndex.from_frame(paths.rows[names]).get_indexer(pd.MultiIndex.from_frame(rows[names]))
    known, rank_curves = with_cutoff(rows, question.observed, dataset.frequency), RankCurves.of(dataset)
    chance = np.full(len(rows), np.nan)
    for row, (at, region, day) in enumerate(zip(place, known["region"], known["cutoff"], strict=True)):
        curve = rank_curves.at(str(region), day) if at >= 0 else None
        if curve is not None:
            later = paths.streams[at, :, question.observed : question.observed + question.month]
            # Ranks lie between whole numbers: 50.4 is the fiftieth.
            rank = curve.rank_of(later, below="next").min(axis=1)
            chance[row] = (rank < question.top + 0.5).mean()
    return chance


def _scores(true: np.ndarray, margin: np.ndarray, weights: np.ndarray) -> dict[str, Any]:
    """Measures by name and, as `…_ci`, their intervals; the first row of weights is the data as they are."""
    inside = margin > 0
    right = weights @ (inside == true)
    hits, named = weights @ (inside & true), weights @ inside.astype(float) + weights @ true.astype(float)
    drawn = weights.sum(axis=1)
    values = {
        "accuracy": divided(right, drawn),
        "auc": np.array([_auc(true, margin, row) for row in weights]),
        "f1": divided(2 * hits, named),
    }
    found: dict[str, Any] = {}
    for name in MEASURES:
        found |= with_interval(name, values[name])
    return found


def _auc(true: np.ndarray, margin: np.ndarray, weight: np.ndarray) -> float:
    """P(a row in the top has the larger margin than one outside), ties half; NaN without both."""
    _, level = np.unique(margin, return_inverse=True)
    inside, outside = (np.bincount(level, weight * kind, minlength=level.max() + 1) for kind in (true, ~true))
    pairs = inside.sum() * outside.sum()
    return float((inside * (np.cumsum(outside) - outside / 2)).sum() / pairs) if pairs > 0 else float("nan")
