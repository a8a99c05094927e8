"""A trained MP3 model and debuts in; calibrated paths, and what the model must remember to forecast alone, out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from scipy.special import ndtri
from tqdm import tqdm

from mp3model.audio.bank import AudioBank
from mp3model.baselines.boosted import Boosted
from mp3model.evaluation.accuracy import CurveForecasts
from mp3model.evaluation.calibration import CalibrationSet, PathCalibration
from mp3model.evaluation.forecasts import CurvePaths, RankCurves, debut_ranks
from mp3model.evaluation.pooling import best_weight, pooled_paths
from mp3model.files import InputError
from mp3model.model.covariates import Covariates
from mp3model.model.modeling_mp3 import Audio, MP3Model
from mp3model.model.sampling import chart_observed, sample_paths
from mp3model.tables.debuts import Debuts, evenly, with_cutoff
from mp3model.tables.folder import DatasetFolder
from mp3model.tables.history import History
from mp3model.training.curves import Hearing, audible_rows, whole_curve_batches

# Debuts that give two numbers a region, and those that give one weight in all.
CALIBRATION_ROWS, POOLING_ROWS = 8000, 3000
# Beside the model's weights, where it is pooled with boosted trees.
BOOSTED = "boosted.json.gz"


# Paths, and beside them `floor` and `threshold`; see `sample_paths`.
Raw = tuple[np.ndarray, dict[str, np.ndarray]]


class Companion(Protocol):
    """Another system, whose quantiles of the remaining total are pooled with the model's."""

    def forecast(self, debuts: Debuts, observed: int) -> CurveForecasts | None:
        """As of a baseline; None if it cannot say anything with so many observed periods."""
        ...


@dataclass
class PathForecaster:
    """Forecasts debuts of a dataset with one model.

    Attributes:
        model: In evaluation mode.
        covariates: What is known as of any day.
        hearing: The songs' audio, or None.
        accelerator: Of Accelerate; audio is heard by all processes together.
        samples: Paths a row.
        seed: Of the luck.
        full: Keep what lies below the chart instead of 0.
        absent: Groups of inputs to leave out.
        rank_curves: Each region's charts by date, for debut ranks; None leaves them unknown.
        companion: What the paths are pooled with, by the weights of the model's configuration; None is nothing.
        keep: Bytes of uncalibrated paths to keep, for when the same rows are asked about again.
    """

    model: MP3Model
    covariates: Covariates
    hearing: Hearing | None
    accelerator: Any
    samples: int = 256
    seed: int = 0
    full: bool = False
    absent: tuple[str, ...] = ()
    rank_curves: RankCurves | None = None
    companion: Companion | None = None
    keep: int = 0
    _heard: dict[tuple[str, ...], Audio | None] = field(default_factory=dict, repr=False)
    _drawn: dict[tuple[Any, ...], Raw] = field(default_factory=dict, repr=False)

    def with_model(self, model: MP3Model) -> PathForecaster:
        """The same with another model, which has heard and drawn nothing yet."""
        return replace(self, model=model, _heard={}, _drawn={})

    def audio(self, songs: Sequence[str]) -> Audio | None:
        """What the model hears of these songs; asked twice, it listens once."""
        if self.hearing is None or self.model.mp2 is None or "audio" in self.absent:
            return None
        key = tuple(songs)
        if key not in self._heard:
            self._heard[key] = self.hearing.listen(self.model, songs, self.accelerator)
        return self._heard[key]

    def raw(self, debuts: Debuts, rows: pd.DataFrame) -> Raw:
        """Paths in log10 of floor units before calibration, floors and thresholds, of rows `with_cutoff`."""
        if not self.keep:
            return self._draw(debuts, rows)
        names = pd.util.hash_pandas_object(rows[["track_id", "region", "observed", "cutoff"]], index=False)
        asked = (names.to_numpy().tobytes(), self.samples, self.seed, self.absent, tuple(self.model.config.shared_luck))
        if asked not in self._drawn:
            drawn = self._draw(debuts, rows)
            if sum(map(_size, [drawn, *self._drawn.values()])) > self.keep:
                return drawn
            self._drawn[asked] = drawn
        return self._drawn[asked]

    def _draw(self, debuts: Debuts, rows: pd.DataFrame) -> Raw:
        return sample_paths(
            self.model,
            self.covariates,
            rows,
            debuts.curves,
            self.samples,
            self.seed,
            self.model.config.shared_luck,
            self.audio(debuts.songs),
            audible_rows(debuts, self.hearing),
            debuts.descriptors,
            self.absent,
        )

    def paths(self, debuts: Debuts, observed: np.ndarray | int) -> CurvePaths:
        """Calibrated paths in streams of every debut with so many periods observed."""
        return self.of_rows(debuts, with_cutoff(debuts.rows, observed, self.covariates.frequency))

    def of_rows(self, debuts: Debuts, rows: pd.DataFrame) -> CurvePaths:
        """Calibrated paths in streams of rows with `observed` and `cutoff` of their own."""
        values, scale = self.raw(debuts, rows)
        # The map and the trees have learnt from debuts, which are known to be on the chart in their first period.
        running = self.covariates.running(rows)
        if self.model.config.calibration is not None:
            calibration = PathCalibration.from_dict(self.model.config.calibration)
            mapped = calibration.apply(values, scale["threshold"], rows["region"].tolist(), rows["observed"].to_numpy())
            values = np.where(running[:, None, None], values, mapped)
        told = (scale["floor"], scale["threshold"], rows, debuts.curves)
        streams = chart_observed(values, *told, self.full)
        weights = self.model.config.pool
        # Trees cannot tell an input that is left out from one that is empty.
        if self.companion is not None and weights and not self.absent:
            charted = chart_observed(values, *told, False) if self.full else streams
            pooled = charted.copy()
            if not running.all():
                debut = np.flatnonzero(~running)
                parts = (charted[debut], rows.iloc[debut], debuts.chosen(~running), self.companion, weights)
                pooled[debut] = pooled_rows(*parts, *(part[debut] for part in told[:2]))
            streams = scaled_as(streams, charted, pooled, rows["observed"].to_numpy()) if self.full else pooled
        ranks = np.full(streams.shape[:2], np.nan)
        if self.rank_curves is not None:
            ranks = debut_ranks(rows, streams, self.rank_curves, debuts.curves.rank[:, 0])
        return CurvePaths(rows, streams, self.covariates.frequency, ranks)


def _size(raw: Raw) -> int:
    return raw[0].nbytes + sum(values.nbytes for values in raw[1].values())


def pooled_rows(
    streams: np.ndarray,
    rows: pd.DataFrame,
    debuts: Debuts,
    companion: Companion,
    weights: dict[str, float],
    floor: np.ndarray,
    threshold: np.ndarray,
) -> np.ndarray:
    """Chart-observed paths of rows pooled with a companion where it has a weight: (n, paths, periods).

    Args:
        streams: (n, paths, periods).
        rows: With `observed`, in the order of `debuts`.
        debuts: The same rows.
        companion: Asked once for each number of observed periods.
        weights: Observed periods → its weight.
        floor: (n,) streams.
        threshold: (n, paths, periods) the chart's lowest in log10 of floor units.
    """
    pooled = streams.copy()
    observed = rows["observed"].to_numpy()
    for text, weight in weights.items():
        kept = observed == int(text)
        if not kept.any() or not weight:
            continue
        given = companion.forecast(debuts.chosen(kept), int(text))
        if given is None or given.quantiles is None:
            continue
        scale = floor[kept]
        quantiles = np.log10(1 + given.quantiles / scale[:, None])
        lowest = lowest_streams(scale, threshold[kept])
        pooled[kept] = pooled_paths(streams[kept], int(text), quantiles, weight, scale, lowest)
    return pooled


def lowest_streams(floor: np.ndarray, threshold: np.ndarray) -> np.ndarray:
    """(n,) floors, (n, paths, periods) thresholds in log10 of them → streams."""
    return floor[:, None, None] * 10.0 ** threshold.astype(np.float64)


def scaled_as(full: np.ndarray, charted: np.ndarray, pooled: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Uncensored paths, each scaled as pooling has scaled what the chart shows of it: (n, paths, periods).

    A path that the chart shows nothing of, before or after, stays as it is.
    """
    later = np.arange(full.shape[2]) >= observed[:, None]
    before, after = ((paths * later[:, None]).sum(axis=2) for paths in (charted, pooled))
    factor = np.where((before > 0) & (after > 0), after / np.where(before > 0, before, 1.0), 1.0)
    return np.where(later[:, None], full * factor[:, :, None], full)


def pool_weights(
    forecaster: PathForecaster, companion: Companion, held_out: Debuts, observed: Sequence[int]
) -> dict[str, float]:
    """Chooses the companion's weight at each number of observed periods on songs that neither has learnt from."""
    # The rows that the map was fitted on, whose paths may be kept, and among them the few to be pooled.
    drawn = held_out.evenly(CALIBRATION_ROWS)
    few = evenly(len(drawn.rows), POOLING_ROWS)
    held_out = drawn.chosen(few)
    weights = {}
    for k in tqdm([k for k in observed if k < forecaster.model.config.horizon], desc="pooling", unit="forecast"):
        given = companion.forecast(held_out, k)
        if given is None or given.quantiles is None:
            continue
        scale = forecaster.raw(drawn, with_cutoff(drawn.rows, k, forecaster.covariates.frequency))[1]
        floor, threshold = scale["floor"][few], scale["threshold"][few]
        weights[str(k)] = best_weight(
            forecaster.paths(drawn, k).streams[few],
            k,
            np.log10(1 + given.quantiles / floor[:, None]),
            floor,
            lowest_streams(floor, threshold),
            held_out.curves.chart_observed(),
        )
    return weights


@dataclass(frozen=True)
class Alone:
    """What hearing asks of Accelerate, for a process that works by itself."""

    device: torch.device
    process_index: int = 0
    num_processes: int = 1


def forecaster_of(
    folder: str | Path, dataset: DatasetFolder, samples: int = 256, seed: int = 0, windows: int = 3, full: bool = False
) -> PathForecaster:
    """A saved model and a dataset that it may look into up to each cut-off.

    Args:
        folder: Of the model.
        dataset: With curves; with previews the model hears its songs.
        samples, seed, full: As for `PathForecaster`.
        windows: Windows a preview.

    Raises:
        InputError: If the folder holds no model, or model and dataset have periods of another length.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = saved_model(Path(folder)).eval().to(device)
    config = model.config
    if dataset.frequency != config.frequency:
        raise InputError(f"{dataset.path} has periods of {dataset.frequency}, the model of {config.frequency}")
    history = History(dataset, config.scales)
    covariates = Covariates(
        list(config.regions), config.frequency, config.horizon, tuple(config.covariates), history.states, history
    )
    hearing = None
    if model.mp2 is not None and dataset.previews is not None:
        hearing = Hearing(dataset, AudioBank(dataset.path), config.samples, windows)
    return PathForecaster(
        model,
        covariates,
        hearing,
        Alone(device),
        samples,
        seed,
        full,
        rank_curves=RankCurves.of(dataset),
        companion=companion_of(folder, config.pool, covariates),
    )


def saved_model(folder: Path) -> MP3Model:
    """The model that recipes/mp3.py saved in a folder.

    Raises:
        InputError: If there is none, or another kind, or it is damaged.
    """
    if not (folder / "config.json").is_file():
        inner = folder / "model"
        mend = f"; do you mean {inner}?" if (inner / "config.json").is_file() else "; give RUN/model of recipes/mp3.py"
        raise InputError(f"model {folder}: no config.json in it{mend}")
    try:
        kind = json.loads((folder / "config.json").read_text()).get("architectures") or ["MP3Model"]
        if kind[0] != "MP3Model":
            raise InputError(
                f"model {folder}: is an {kind[0]}, which forecasts no curves; train it on by recipes/mp3.py"
            )
        return MP3Model.from_pretrained(folder)
    except InputError:
        raise
    except (OSError, ValueError, TypeError, AttributeError, SafetensorError) as error:
        raise InputError(f"model {folder}: cannot be read ({' '.join(str(error).split())[:200]})") from error


def companion_of(folder: str | Path, weights: dict[str, float] | None, covariates: Covariates) -> Boosted | None:
    """The boosted trees that are stored with a model, if it is pooled with any.

    Raises:
        InputError: If their file is missing or damaged, or lightgbm is not installed.
    """
    if not weights or not any(weights.values()):
        return None
    path = Path(folder) / BOOSTED
    if not path.is_file():
        raise InputError(f"{path}: missing, though the model is pooled with boosted trees; copy the whole folder")
    return Boosted.load(path, covariates)


def fit_calibration(forecaster: PathForecaster, held_out: Debuts, observed: Sequence[int]) -> PathCalibration:
    """Fits the map of paths on songs that neither trained the model nor stopped its training."""
    sets = []
    held_out = held_out.evenly(CALIBRATION_ROWS)
    for k in tqdm([k for k in observed if k < forecaster.model.config.horizon], desc="calibration", unit="forecast"):
        rows = with_cutoff(held_out.rows, k, forecaster.covariates.frequency)
        values, scale = forecaster.raw(held_out, rows)
        remaining = held_out.curves.chart_observed()[:, k:].sum(axis=1) / scale["floor"]
        known = np.isfinite(remaining)
        sets.append(
            CalibrationSet(
                values[known],
                scale["threshold"][known],
                rows["region"].to_numpy()[known],
                rows["artist"].to_numpy()[known],
                k,
                remaining[known],
            )
        )
    return PathCalibration.fit(sets)


def shared_luck(forecaster: PathForecaster, held_out: Debuts) -> list[float]:
    """Correlation between regions of what the forecast at debut leaves to chance: in the first and in later periods.

    The mean product, over pairs of regions of one song, of the normal scores of the randomised PIT.
    """
    scores = []
    audio = forecaster.audio(held_out.songs)
    numbers = torch.Generator().manual_seed(forecaster.seed)
    for batch in whole_curve_batches(held_out, forecaster.covariates, 0, forecaster.model.device, forecaster.hearing):
        uniform = torch.rand(batch["state"].shape, generator=numbers).to(forecaster.model.device)
        scores.append(forecaster.model.probability_transform(batch, uniform, audio, forecaster.absent).cpu().numpy())
    normal = ndtri(np.concatenate(scores)) if scores else np.empty((0, 1))
    song = np.repeat(np.arange(len(held_out)), np.diff(held_out.starts))
    return [_pair_correlation(normal[:, :1], song), _pair_correlation(normal[:, 1:], song)]


def _pair_correlation(scores: np.ndarray, song: np.ndarray) -> float:
    """Mean product over pairs of rows of one song in the same column; 0 to 0.95, 0 where there is no pair."""
    products, pairs, squares, count = 0.0, 0.0, 0.0, 0
    for column in scores.T:
        known = np.isfinite(column)
        sums = np.bincount(song[known], column[known])
        own = np.bincount(song[known], column[known] ** 2)
        size = np.bincount(song[known])
        # Of all products within a song those of a row with itself are left out; each song counts as its rows less one.
        weight = np.divide(1.0, size, out=np.zeros(len(size)), where=size > 1)
        products += float(((sums**2 - own) * weight).sum())
        pairs += float((size * (size - 1) * weight).sum())
        squares += float((column[known] ** 2).sum())
        count += int(known.sum())
    if not pairs or not squares:
        return 0.0
    return float(np.clip(products / pairs / (squares / count), 0.0, 0.95))


def remember(model: MP3Model, dataset: DatasetFolder, covariates: Covariates) -> None:
    """Writes into the configuration what a forecast without the dataset needs: last floors, scales, rank curves."""
    regions = set(model.config.regions)
    model.config.region_states = {
        region: state for region, state in covariates.states.last().items() if region in regions
    }
    if covariates.history is not None:
        model.config.scales = {
            region: scale for region, scale in covariates.history.scales.items() if region in regions
        }
    model.config.rank_curves = RankCurves.of(dataset).last(sorted(regions))
