"""The sound of a dataset's songs in, the field's audio systems as baselines of curves out.

Each learns log10(1 + total / floor) of a (song, region): KKBOX's networks have an output a region, the others are
fitted anew a region. Epochs and patience are a budget for a machine without a GPU (`QUICK`), the rest is as in each
system's own module. Rows of songs without audio, and of regions with fewer than five training rows, are answered by
`ScalarCurves`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import pandas as pd

from mp3model.baselines.autoenchorder import Autoenchorder
from mp3model.baselines.descriptors import NAMES as DESCRIPTORS
from mp3model.baselines.floors import MINIMUM_ROWS, RidgeOnMeanLogMel
from mp3model.baselines.hitmusicnet import ByRegion, HitMusicNet
from mp3model.baselines.kkbox import load_published, make_model
from mp3model.baselines.kkbox_training import Fitted, KKBOXBaseline
from mp3model.baselines.kkbox_training import fit as fit_kkbox
from mp3model.baselines.scalar_curves import TARGET, ScalarCurves, ScalarSystem, week_columns
from mp3model.baselines.song_sounds import SongSounds, described
from mp3model.baselines.spectrogram_cnn import QUANTILES as STANFORD_QUANTILES
from mp3model.baselines.spectrogram_cnn import SpectrogramCNN, search
from mp3model.files import InputError
from mp3model.tables.folder import DatasetFolder

# Epochs at most, and after how many without a better loss on validation training ends.
QUICK: dict[str, dict[str, int]] = {
    "kkbox": {"epochs": 40, "patience": 6},
    "stanford": {"epochs": 12, "patience": 3},
    "search": {"epochs": 6, "patience": 2},
}
# .25 and .65 of HitMusicNet's popularity scale from 0 to 100, here of the training rows.
HITMUSICNET_QUANTILES = (0.25, 0.65)


class _OfFrames(Protocol):
    """The systems that are fitted on frames: `KKBOXBaseline`, `ByRegion`."""

    def fit(self, train: pd.DataFrame, target: str = TARGET, validation: pd.DataFrame | None = None) -> Any: ...

    def predict(self, frame: pd.DataFrame) -> np.ndarray: ...


class Heard:
    """A system on the rows it can answer: those of songs with inputs, in regions with enough training rows.

    Args:
        songs: Names of the songs with inputs.
        system: Not yet fitted, on those inputs.
    """

    def __init__(self, songs: Sequence[str], system: _OfFrames) -> None:
        self.songs, self.system = pd.Index(songs), system

    def fit(self, train: pd.DataFrame, validation: pd.DataFrame | None) -> Heard:
        """Fits the rows that can be answered.

        Raises:
            InputError: none can.
        """
        train = train[train["song_id"].isin(self.songs)]
        counts = train["region"].value_counts()
        self.regions = set(counts.index[counts >= MINIMUM_ROWS])
        if not self.regions:
            raise InputError(
                f"no region has {MINIMUM_ROWS} training debuts of songs with inputs; give more songs audio or columns"
            )
        train = train[train["region"].isin(self.regions)].reset_index(drop=True)
        held = None
        if validation is not None:
            held = validation[self._answered(validation)].reset_index(drop=True)
        self.system.fit(train, TARGET, held if held is not None and len(held) else None)
        return self

    def _answered(self, frame: pd.DataFrame) -> np.ndarray:
        return (frame["song_id"].isin(self.songs) & frame["region"].isin(self.regions)).to_numpy()

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        """(n,) predictions, NaN of rows that cannot be answered."""
        answered = self._answered(frame)
        predicted = np.full(len(frame), np.nan)
        if answered.any():
            predicted[answered] = self.system.predict(frame[answered].reset_index(drop=True))
        return predicted

    def shares(self, frame: pd.DataFrame) -> np.ndarray | None:
        """(n, periods) of systems that predict whole curves, None of others; NaN of rows that cannot be answered."""
        if not isinstance(self.system, TrendHead):
            return None
        answered = self._answered(frame)
        shares = np.full((len(frame), self.system.periods), np.nan)
        if answered.any():
            shares[answered] = self.system.shares(frame[answered].reset_index(drop=True))
        return shares


class TrendHead:
    """KKBOX's trend head: the network's outputs are the curve itself, log10(1 + streams / floor), a region.

    The public code has 60 points, days; here there are as many as the horizon has periods.

    Args:
        songs: (n,) the songs that the mels describe, a row each.
        mel: (n, 128, frames) raw power.
        options: Of `kkbox_training.fit`.
    """

    def __init__(self, songs: Sequence[str], mel: np.ndarray, **options: Any) -> None:
        self.songs, self.mel, self.options = pd.Index(songs), mel, options

    def fit(self, train: pd.DataFrame, target: str = TARGET, validation: pd.DataFrame | None = None) -> TrendHead:
        """Fits the columns `week_*` of the frames; `target` is their sum, and not read."""
        self.columns, self.regions = week_columns(train), sorted(train["region"].unique())
        self.periods = len(self.columns)
        held = None if validation is None else self._rows(validation)
        model = make_model("M2", len(self.regions) * self.periods, int(self.options.get("seed", 0)))
        self.fitted: Fitted = fit_kkbox(model, *self._rows(train), validation=held, **self.options)
        return self

    def _rows(self, frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        table = frame.pivot_table(index="song_id", columns="region", values=self.columns)
        wanted = pd.MultiIndex.from_product([self.columns, self.regions])
        targets = table.reindex(columns=wanted).to_numpy(dtype=float)
        return self.mel[self.songs.get_indexer(table.index)], targets

    def _levels(self, frame: pd.DataFrame) -> np.ndarray:
        """(n, periods) streams over the floor."""
        songs = pd.Index(frame["song_id"].unique())
        values = self.fitted.predict(self.mel[self.songs.get_indexer(songs)])
        curves = values.reshape(len(songs), self.periods, len(self.regions))
        of_row = songs.get_indexer(frame["song_id"]), pd.Index(self.regions).get_indexer(frame["region"])
        return np.maximum(10.0 ** curves[of_row[0], :, of_row[1]].astype(float) - 1, 0.0)

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        """(n,) log10(1 + the curve's sum)."""
        return np.log10(1 + self._levels(frame).sum(axis=1))

    def shares(self, frame: pd.DataFrame) -> np.ndarray:
        """(n, periods) shares of the curve in its sum, equal where it is 0 throughout."""
        levels = self._levels(frame)
        total = levels.sum(axis=1, keepdims=True)
        return np.where(total > 0, levels / np.where(total > 0, total, 1.0), 1 / self.periods)


class Ridge:
    """A ridge regression a region on columns; a missing value becomes the mean of the training songs.

    Args:
        features: A row a song: index `song_id`; NaN where unknown. Songs without any are not answered.
    """

    def __init__(self, features: pd.DataFrame) -> None:
        self.features = features[features.notna().any(axis=1)]

    def fit(self, train: pd.DataFrame, target: str = TARGET, validation: pd.DataFrame | None = None) -> Ridge:
        """Fits the training rows; the penalty is chosen among them, validation is not used."""
        used = self.features[self.features.index.isin(train["song_id"])]
        known = used.columns[used.notna().any()]
        self.ridge = RidgeOnMeanLogMel(self.features[known].fillna(used[known].mean())).fit(train, target)
        return self

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        return self.ridge.predict(frame)


class Filled:
    """A system of `ByRegion` on columns with gaps, which become the mean of the training rows; an unknown column 0."""

    def __init__(self, system: Any) -> None:
        self.system = system

    def fit(self, inputs: np.ndarray, values: np.ndarray, validation: tuple[np.ndarray, np.ndarray] | None = None):
        known = np.isfinite(inputs)
        count = np.maximum(known.sum(axis=0), 1)
        self.usual = np.where(known, inputs, 0.0).sum(axis=0) / count
        held = None if validation is None else (self._whole(validation[0]), validation[1])
        self.system.fit(self._whole(inputs), values, held)
        return self

    def _whole(self, inputs: np.ndarray) -> np.ndarray:
        return np.where(np.isfinite(inputs), inputs, self.usual)

    def predict(self, inputs: np.ndarray) -> np.ndarray:
        return self.system.predict(self._whole(inputs))


class ExpectedOfClasses:
    """A network of three classes as a system of numbers: the classes' training means, by their probabilities.

    Args:
        make: Two thresholds in the target's unit → a network with `fit` and `probabilities`.
        quantiles: Of the training values, which are the thresholds.
        choose: Fits instead of `fit` where there is validation: (train, validation) → the fitted network.
    """

    def __init__(
        self,
        make: Callable[[tuple[float, float]], Any],
        quantiles: tuple[float, float],
        choose: Callable[[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]], Any] | None = None,
    ) -> None:
        self.make, self.quantiles, self.choose = make, quantiles, choose

    def fit(self, inputs: np.ndarray, values: np.ndarray, validation: tuple[np.ndarray, np.ndarray] | None = None):
        low, high = np.quantile(values, self.quantiles)
        # Rows that were never charted long share a total, and with it a threshold.
        thresholds = (float(low), float(max(high, np.nextafter(low, np.inf))))
        classes = np.searchsorted(thresholds, values, side="right")
        overall = values.mean()
        self.means = np.array(
            [values[classes == one].mean() if (classes == one).any() else overall for one in range(3)]
        )
        if self.choose is not None and validation is not None:
            self.network = self.choose((inputs, values), validation)
        else:
            self.network = self.make(thresholds).fit(inputs, values, validation)
        return self

    def predict(self, inputs: np.ndarray) -> np.ndarray:
        return self.network.probabilities(inputs) @ self.means


def _on(sounds: SongSounds, make: Callable[[], _OfFrames]) -> Callable[[], ScalarSystem]:
    return lambda: Heard(sounds.songs, make())


def kkbox(
    dataset: DatasetFolder,
    model: str,
    siamese: bool = False,
    kkbox: str | None = None,
    options: dict[str, Any] | None = None,
) -> ScalarCurves:
    """One of KKBOX's networks, or with `siamese` its CNN with the ranking loss.

    Args:
        dataset: With an audio bank.
        model: Of `kkbox.NAMES`.
        siamese: Adds the pairwise ranking loss.
        kkbox: Folder of the published weights, whose tagger M4 to M6 and "mandopop" need.
        options: Of `kkbox_training.fit`; None takes `QUICK`.
    """
    sounds, needed = SongSounds(dataset), make_model(model).inputs
    settings: dict[str, Any] = dict(QUICK["kkbox"] if options is None else options)

    def make() -> KKBOXBaseline:
        arrays = [sounds.stacked(str(kind), kkbox if kind == "tags" else None) for kind in needed]  # type: ignore[union-attr]
        return KKBOXBaseline(model, sounds.songs, arrays, siamese, **settings)

    name = "KKBOX siamese" if siamese else "Mandopop service" if model == "mandopop" else f"KKBOX {model}"
    return ScalarCurves(name, _on(sounds, make))


def kkbox_trend(dataset: DatasetFolder, options: dict[str, Any] | None = None) -> ScalarCurves:
    """KKBOX's CNN with the trend head; arguments as in `kkbox`."""
    sounds, settings = SongSounds(dataset), dict(QUICK["kkbox"] if options is None else options)
    return ScalarCurves("KKBOX trend", _on(sounds, lambda: TrendHead(sounds.songs, sounds.stacked("mel"), **settings)))


def kkbox_published(dataset: DatasetFolder, kkbox: str, tags: bool = True) -> ScalarCurves:
    """The published weights as they are: their score, calibrated a region by a line through the training rows.

    Args:
        dataset: With an audio bank.
        kkbox: Folder of the published weights.
        tags: Both branches, mixed as the published script does; else the CNN branch alone, without the slow tagger.
    """
    sounds = SongSounds(dataset)

    def make() -> Ridge:
        published = load_published(kkbox)
        score = np.asarray(published.cnn_score(sounds.stacked("mel")))
        if tags:
            score = np.asarray(published.combined(score, published.tag_score(sounds.stacked("tags", kkbox))))
        return Ridge(pd.DataFrame({"score": score.astype(float)}, index=sounds.songs))

    return ScalarCurves("KKBOX published" if tags else "KKBOX published CNN", _on(sounds, make))


def stanford(
    dataset: DatasetFolder,
    convolutions: int,
    colour: bool = False,
    search: bool = False,
    options: dict[str, Any] | None = None,
    grid: dict[str, Any] | None = None,
) -> ScalarCurves:
    """One of Stanford's networks: three classes of totals, and the total expected of their probabilities.

    Args:
        dataset: With an audio bank.
        convolutions: 2, 4 or 6.
        colour: RGB images.
        search: Rate, batch and dropout by macro-F1 on the validation songs, a region; where there are none, as stated.
        options: Of `SpectrogramCNN`; None takes `QUICK`.
        grid: `rates`, `batches` and `dropouts` of the search; None takes its own.
    """
    sounds = SongSounds(dataset)
    settings: dict[str, Any] = dict(QUICK["search" if search else "stanford"] if options is None else options)

    def classes() -> ExpectedOfClasses:
        return ExpectedOfClasses(
            lambda _: SpectrogramCNN(convolutions, **settings),
            STANFORD_QUANTILES,
            (lambda train, held: _searched(train, held, convolutions, settings | (grid or {}))) if search else None,
        )

    def make() -> ByRegion:
        return ByRegion(classes, sounds.songs, sounds.stacked("colour image" if colour else "image"))

    marks = ["RGB"] * colour + ["searched"] * search
    name = f"Stanford CNN, {convolutions} convolutions" + (f" ({', '.join(marks)})" if marks else "")
    return ScalarCurves(name, _on(sounds, make))


def _searched(
    train: tuple[np.ndarray, np.ndarray],
    held: tuple[np.ndarray, np.ndarray],
    convolutions: int,
    settings: dict[str, Any],
) -> SpectrogramCNN:
    return search(train, held, convolutions, **settings)[0]


def hitmusicnet(dataset: DatasetFolder, classes: bool = False, options: dict[str, Any] | None = None) -> ScalarCurves:
    """HitMusicNet on the 207 descriptors and the `x_*` columns: regression, or the total expected of three classes.

    Args:
        dataset: With an audio bank.
        classes: Three classes at the .25 and .65 quantiles of the training rows.
        options: Of `HitMusicNet`; None takes its own.
    """
    sounds, settings = SongSounds(dataset), dict(options or {})

    def system() -> Filled:
        if classes:
            return Filled(ExpectedOfClasses(lambda at: HitMusicNet(at, **settings), HITMUSICNET_QUANTILES))
        return Filled(HitMusicNet(**settings))

    def make() -> ByRegion:
        inputs = np.concatenate([sounds.stacked("descriptors"), sounds.columns()], axis=1)
        return ByRegion(system, sounds.songs, inputs)

    return ScalarCurves("HitMusicNet, three classes" if classes else "HitMusicNet", _on(sounds, make))


def autoenchorder(dataset: DatasetFolder, options: dict[str, Any] | None = None) -> ScalarCurves:
    """Autoen-chorder on the 207 descriptors and log-mel statistics of each 0.96 s; options of `Autoenchorder`."""
    sounds, settings = SongSounds(dataset), dict(options or {})

    def make() -> ByRegion:
        inputs = (sounds.stacked("descriptors"), sounds.of("frames"))
        return ByRegion(lambda: Autoenchorder(**settings), sounds.songs, inputs)

    return ScalarCurves("Autoen-chorder", _on(sounds, make))


def descriptor_ridge(dataset: DatasetFolder) -> ScalarCurves:
    """A ridge regression a region on the 207 descriptors of the sound."""
    sounds = SongSounds(dataset)

    def make() -> Ridge:
        values = sounds.stacked("descriptors").astype(float)
        return Ridge(pd.DataFrame(values, index=sounds.songs, columns=list(DESCRIPTORS)))

    return ScalarCurves("ridge on 207 descriptors", _on(sounds, make))


def probe(dataset: DatasetFolder) -> ScalarCurves:
    """A ridge regression a region on the `x_*` columns: descriptors of others, or a frozen embedding."""

    def make() -> Heard:
        ridge = Ridge(described(dataset))
        return Heard([str(song) for song in ridge.features.index], ridge)

    return ScalarCurves("probe of x_ columns", make)
