"""A trained MP3 model, a song's sound and what else is known of it in; its forecast in the regions asked about out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from mp3model.baselines.boosted import Boosted
from mp3model.evaluation.accuracy import QUANTILES, path_quantiles
from mp3model.evaluation.calibration import PathCalibration
from mp3model.evaluation.forecasts import PERIOD_NAMES, CurvePaths, RankCurves, best_ranks, debut_ranks
from mp3model.files import InputError
from mp3model.model.covariates import Covariates
from mp3model.model.modeling_mp3 import Audio, MP3Model
from mp3model.model.sampling import chart_observed, sample_paths
from mp3model.serving.asked import WINDOWS, Heard, Sound, clip_of, lacking, rows_of, songs_of, windows_of, with_artist
from mp3model.serving.comparables import Catalogue, embedding_of
from mp3model.serving.observed import (
    Calendar,
    Source,
    curves_of,
    dataset_with,
    history_rows,
    observed_rows,
    read_table,
)
from mp3model.serving.result import Forecast
from mp3model.serving.trust import STALE_DAYS, Flag, flag_table, sound_flags
from mp3model.tables.curves import CurveArrays, period_dates, taken
from mp3model.tables.debuts import Debuts
from mp3model.tables.folder import DatasetFolder, read_dataset
from mp3model.tables.history import STATE_FEATURES, History, RegionStates, region_scales
from mp3model.tables.tracks import artist_key, artist_keys, guest_keys
from mp3model.training.curves import stored_covariates
from mp3model.training.forecasting import companion_of, pooled_rows, saved_model, scaled_as

WINDOWS_AT_ONCE = 8
NEAREST = 5
# More paths move no quantile by anything that can be seen, and fill the memory.
MOST_SAMPLES = 100_000
# Stands for "before any forecast" where a stored state is newer than the song.
_BEFORE_ALL = -1_000_000


@dataclass(frozen=True)
class _Known:
    """What is on hand beside the model: regions' states and charts, and lives of songs, None where none is known."""

    states: RegionStates
    rank_curves: RankCurves
    history: History | None


@dataclass
class Forecaster:
    """Forecasts songs with one model, from whatever is known of them.

    Attributes:
        model: In evaluation mode.
        catalogue: The songs it learnt from, or None.
        trees: Boosted trees that its paths are pooled with, or None.
    """

    model: MP3Model
    catalogue: Catalogue | None = None
    trees: Boosted | None = None
    _datasets: dict[str, DatasetFolder] = field(default_factory=dict, repr=False)
    _known_days: dict[tuple[str, ...], tuple[DatasetFolder, History, RankCurves]] = field(
        default_factory=dict, repr=False
    )

    @classmethod
    def from_pretrained(
        cls, path: str | os.PathLike[str], device: str | torch.device | None = None, precision: str = "fp32"
    ) -> Forecaster:
        """Reads RUN/model, and the catalogue beside it if there is one.

        Args:
            path: Folder that recipes/mp3.py wrote.
            device: None is the GPU where there is one.
            precision: `fp32`, or `bf16`: audio is heard in bfloat16, which is faster where the device multiplies
                such numbers; paths are drawn in float32 all the same.

        Raises:
            InputError: If it holds no whole MP3 model, or there is no such device or precision.
        """
        if precision not in ("fp32", "bf16"):
            raise InputError(f"precision {precision}: is none of fp32, bf16")
        model = saved_model(Path(path))
        if precision == "bf16" and model.mp2 is not None:
            model.mp2.encoder.compute_in(torch.bfloat16)
        chosen = device if device is not None else "cuda" if torch.cuda.is_available() else "cpu"
        catalogue = Catalogue.read(path) if Catalogue.beside(path) else None
        try:
            model = model.to(chosen)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).split(". ")[0].splitlines()[0]
            reason = reason if len(reason) < 80 else "no such kind of device"
            raise InputError(
                f"device {chosen}: cannot be used here ({reason}); leave it out for what there is"
            ) from error
        return cls(
            model.eval(), catalogue, companion_of(Path(path), model.config.pool, stored_covariates(model.config))
        )

    @property
    def regions(self) -> list[str]:
        """What can be asked about without a dataset."""
        stored = self.model.config.region_states or {}
        return [region for region in self.model.config.regions if region in stored]

    def forecast(
        self,
        audio: Sound | pd.DataFrame | None = None,
        regions: Sequence[str] | None = None,
        release: Any = None,
        observed: Source | None = None,
        samples: int = 256,
        history: Source | None = None,
        features: Source | None = None,
        data: str | os.PathLike[str] | None = None,
        *,
        artist: str | None = None,
        track_id: str | None = None,
        seed: int = 0,
        full: bool = False,
        horizon: int | None = None,
    ) -> Forecast:
        """Sample paths of a song, or of a catalogue, in some regions, given that it charts there.

        Period 0 of a region is the first observed one with streams; where none is observed, the one that holds the
        release, or, if something was observed elsewhere later than that, the next one to come. What is known up to the
        period before it, or up to the last observed one, is used, and nothing later.

        Args:
            audio: A path, a file's bytes, an (array, rate) pair, a `Heard`, or None; or a frame of tracks: `track_id`
                or `path`, and `song_id, artist, release_date` and `x_*` descriptors if known.
            regions: Of `regions`, or of the dataset's; None is all.
            release: `YYYY-MM-DD` or a date.
            observed: File or frame of observed periods, see `serving.observed.observed_rows`.
            samples: Paths, 1 to 100,000.
            history: File or frame of the artist's earlier songs, see `serving.observed.history_rows`.
            features: File or frame of `x_*` descriptors, with `track_id` where there are several tracks.
            data: Dataset folder, for the regions' floors and other songs as of the cut-off; None is what the model
                remembers of its training data.
            artist: Whose song it is, found in `data`.
            track_id: What the tables call it, and a track of `data` if it is one; None is the file's name, or "song".
            seed: Of the luck.
            full: Streams below the chart too, which the model guesses, instead of 0.
            horizon: Periods of the curve, from 1 to the model's; None is the model's. Metrics, chances and places in
                the catalogue are of as many periods.

        Raises:
            InputError: Names what is wrong with the input, in one line; also if every curve asked about is observed
                to its end, so that nothing is left to forecast.
        """
        if not 1 <= samples <= MOST_SAMPLES:
            raise InputError(f"samples {samples}: give from 1 to {MOST_SAMPLES} paths; 256 is usual")
        horizon = self.model.config.horizon if horizon is None else horizon
        if not 1 <= horizon <= self.model.config.horizon:
            raise InputError(f"horizon {horizon}: give from 1 to {self.model.config.horizon} periods, as the model has")
        base = None if data is None else self.dataset(data)
        songs, sounds = songs_of(audio, release, artist, track_id, base)
        asked, calendar = self._regions(regions, base), self._calendar(base)
        seen, left_out = self._observed(observed, songs, asked, calendar, base)
        earlier = None
        if history is not None:
            songs = with_artist(songs)
            earlier = history_rows(history, songs, calendar)
        rows = rows_of(songs, asked, seen, calendar, self.model.config.horizon)
        left_out += self._whole_flags(rows, observed, horizon)
        rows = rows.assign(absent=lacking(rows, songs, seen, earlier, base))
        known = self._known(base, songs, rows, seen, earlier)
        heard, places, embeddings, flags = self._hear(songs, sounds)
        descriptors, more = self._descriptors(features, audio, songs)
        flags += left_out + more + self._artist_flags(songs, earlier, base) + self._region_flags(rows, known.states)
        lowest = self._lowest(rows, known.states)
        curves = curves_of(rows, seen, lowest, self.model.config.horizon, calendar.frequency)
        covariates = self._covariates(known)
        values, scale = self._sampled(rows, covariates, curves, samples, seed, heard, places, descriptors)
        told = (scale["floor"], scale["threshold"], rows, curves)
        seen_by_charts = chart_observed(values, *told, False)
        charted = self._pooled(seen_by_charts, covariates, *told)
        streams = charted
        if full:
            streams = scaled_as(
                chart_observed(values, *told, True), seen_by_charts, charted, rows["observed"].to_numpy()
            )
        streams, charted = streams[:, :, :horizon], charted[:, :, :horizon]
        rows = rows.assign(observed=rows["observed"].clip(upper=horizon))
        ranks = debut_ranks(rows, streams, known.rank_curves, curves.rank[:, 0])
        sampled = CurvePaths(rows.drop(columns="absent"), streams, calendar.frequency, ranks)
        flags += self._distance_flags(songs, embeddings)
        return Forecast(
            sampled,
            flag_table(flags),
            self._comparables(songs, asked, embeddings),
            self._percentiles(rows, charted),
            scale["floor"],
            lowest,
            best_ranks(rows, streams, known.rank_curves, curves.rank[:, :horizon]),
        )

    def dataset(self, folder: str | os.PathLike[str]) -> DatasetFolder:
        """A dataset folder as `forecast` reads it, once.

        Raises:
            InputError: If it is none, or none that this model can use.
        """
        key = str(folder)
        if key not in self._datasets:
            dataset = read_dataset(folder)
            if dataset.curves is None:
                raise InputError(f"data {folder}: has no curves.parquet; a forecast needs dated rows")
            if dataset.frequency != self.model.config.frequency:
                raise InputError(
                    f"data {folder}: has periods {dataset.frequency}, the model learnt {self.model.config.frequency}"
                )
            self._datasets[key] = dataset
        return self._datasets[key]

    def _regions(self, regions: Sequence[str] | None, base: DatasetFolder | None) -> list[str]:
        known = self.regions if base is None else base.regions
        if not known:
            raise InputError("this model remembers no region, as it was not trained by recipes/mp3.py; give data")
        asked = known if regions is None else list(regions)
        unknown = [region for region in asked if region not in known]
        if unknown:
            near = str(unknown[0]).strip().upper()
            hint = f"; do you mean {near}?" if near in known else ""
            raise InputError(f"region {str(unknown[0]) or repr('')} is not known; known are {', '.join(known)}{hint}")
        if not asked or len(set(asked)) < len(asked):
            raise InputError(f"regions {', '.join(asked) or 'none'}: name each region once, and one at least")
        return asked

    def _calendar(self, base: DatasetFolder | None) -> Calendar:
        stored = self.model.config.region_states or {}
        ends = {region: np.datetime64(state["date"], "D") for region, state in stored.items()}
        if base is not None and base.curves is not None:
            # All weeks of a region end on one weekday, so any of its dates tells.
            first = base.curves.groupby("region")["date"].min()
            ends |= {str(region): np.datetime64(day, "D") for region, day in first.items()}
        return Calendar(self.model.config.frequency, ends)

    def _observed(
        self,
        observed: Source | None,
        songs: pd.DataFrame,
        asked: list[str],
        calendar: Calendar,
        base: DatasetFolder | None,
    ) -> tuple[pd.DataFrame, list[tuple[str, Flag]]]:
        """Rows of regions whose scale is known, and flags for the others."""
        if observed is None:
            return pd.DataFrame(columns=["track_id", "region", "date", "streams", "rank"]), []
        seen = observed_rows(observed, songs["track_id"].tolist(), asked, songs["release"].tolist(), calendar)
        known = self.regions if base is None else base.regions
        used = seen["region"].isin(known)
        flags = [
            (str(track), Flag("rows_left_out", f"observed periods in {region} are left out: its scale is not known"))
            for track, region in seen.loc[~used, ["track_id", "region"]].drop_duplicates().itertuples(index=False)
        ]
        return seen[used].reset_index(drop=True), flags

    def _known(
        self,
        base: DatasetFolder | None,
        songs: pd.DataFrame,
        rows: pd.DataFrame,
        seen: pd.DataFrame,
        earlier: tuple[pd.DataFrame, pd.DataFrame] | None,
    ) -> _Known:
        config = self.model.config
        own = songs[["track_id", "song_id", "title", "artist"]]
        tracks, told = own, seen
        if earlier is not None:
            about, lives = earlier
            tracks, told = pd.concat([own, about], ignore_index=True), pd.concat([seen, lives], ignore_index=True)
        told = told[told["date"] <= rows["cutoff"].max()]
        scales = config.scales or {}
        if base is None:
            states, lives_of = _in_time(RegionStates.from_last(config.region_states or {}), rows), None
            ranks = RankCurves.from_last(config.rank_curves or {})
        else:
            base, lives_of, ranks = self._as_of(base, rows)
            states, scales = lives_of.states, lives_of.scales
        # Rows below the chart tell of no life: alone they would be a dataset without a row.
        told = told[told["region"].isin(states.regions) & ((told["streams"] > 0) | told["rank"].notna())]
        if len(told):
            near = None if base is None else _related(base, rows)
            whole = dataset_with(near, tracks, told, states, config.frequency, config.horizon)
            lives_of = History(whole, scales)
        return _Known(states, ranks, lives_of)

    def _as_of(self, base: DatasetFolder, rows: pd.DataFrame) -> tuple[DatasetFolder, History, RankCurves]:
        """The dataset up to the last cut-off, its lives and its charts; asked about the same days again, at once."""
        first, last = rows["cutoff"].min(), rows["cutoff"].max()
        key = (str(base.path), str(first), str(last))
        if key not in self._known_days:
            cut = _cut(base, last)
            history = History(cut, region_scales(cut, first) | (self.model.config.scales or {}))
            # One is kept: those of real charts take hundreds of megabytes.
            self._known_days = {key: (cut, history, RankCurves.of(cut))}
        return self._known_days[key]

    def _hear(
        self, songs: pd.DataFrame, sounds: list[Sound | None]
    ) -> tuple[Audio | None, np.ndarray, np.ndarray | None, list[tuple[str, Flag]]]:
        """What the model hears, each song's place in it (−1 for none), embeddings, and flags on the sound."""
        hears, config = self.model.mp2 is not None, self.model.config
        tokens: list[torch.Tensor] = []
        states: list[torch.Tensor] = []
        flags: list[tuple[str, Flag]] = []
        places = np.full(len(songs), -1)
        silent = len(sounds) < 2 or isinstance(sounds[0], Heard)
        for row, sound in enumerate(tqdm(sounds, desc="listening", unit="song", disable=silent)):
            track = str(songs["track_id"][row])
            if sound is None:
                if hears:
                    flags.append(
                        (track, Flag("no_audio", "the song was not heard: only other things known of it count"))
                    )
                continue
            told = sound if isinstance(sound, Heard) else Heard(clip_of(sound, f"audio of {track}"))
            if told.clip is not None:
                flags += [(track, flag) for flag in sound_flags(told.clip, config.samples)]
            if not hears:
                flags.append((track, Flag("audio_unused", "this model does not hear: the audio changes nothing")))
                continue
            audio = self._listen(clip_of(told, f"audio of {track}")) if told.audio is None else told.audio
            places[row] = len(tokens)
            tokens.append(audio.tokens)
            states.append(audio.states)
        if not tokens:
            return None, places, None, flags
        audio = Audio(torch.stack(tokens), torch.stack(states))
        embeddings = np.full((len(songs), 2 * audio.tokens.shape[-1]), np.nan, np.float32)
        embeddings[places >= 0] = embedding_of(audio).float().cpu().numpy()
        return audio, places, embeddings, flags

    @torch.inference_mode()
    def _listen(self, clip: np.ndarray) -> Audio:
        """Mean over the windows of a clip (samples,) int16: tokens (tokens, width), states (regions, …)."""
        length = self.model.config.samples
        heard = [
            self.model.listen(waveforms=torch.from_numpy(part).to(self.model.device))
            for part in np.array_split(windows_of(clip, length), range(WINDOWS_AT_ONCE, WINDOWS, WINDOWS_AT_ONCE))
            if len(part)
        ]
        return Audio(
            torch.cat([audio.tokens for audio in heard]).mean(dim=0),
            torch.cat([audio.states for audio in heard]).mean(dim=0),
        )

    def _descriptors(
        self, features: Source | None, audio: Any, songs: pd.DataFrame
    ) -> tuple[np.ndarray | None, list[tuple[str, Flag]]]:
        """Standardised descriptors of each song, NaN where it has none, and flags; None if the model reads none."""
        names, tracks = self.model.config.descriptors, songs["track_id"].tolist()
        if self.model.config.encoder not in ("descriptors", "both"):
            if features is not None:
                raise InputError(f"features {_name(features)}: this model reads no descriptors; leave them out")
            return None, []
        if features is None and isinstance(audio, pd.DataFrame) and set(names) <= set(audio):
            features = audio[names].assign(track_id=tracks)
        if features is None:
            reason = f"the model reads descriptors ({', '.join(names[:4])}, …) and got none"
            return np.full((len(songs), len(names)), np.nan), [(track, Flag("no_features", reason)) for track in tracks]
        table, name = read_table(features, "features")
        missing = [column for column in names if column not in table]
        if missing:
            raise InputError(f"{name}: no column {missing[0]}; the model reads {', '.join(names)}")
        if "track_id" not in table:
            if len(table) != 1 or len(songs) != 1:
                raise InputError(f"{name}: {len(table)} rows for {len(songs)} songs and no column track_id")
            table = table.assign(track_id=tracks)
        values = table.drop_duplicates("track_id").set_index("track_id")[names].reindex(tracks)
        try:
            numbers = values.to_numpy(dtype=float)
        except ValueError as error:
            raise InputError(f"{name}: descriptors are numbers ({error})") from error
        statistics = self.model.config.descriptor_statistics or {}
        table_of = np.array([statistics.get(column, [0.0, 1.0]) for column in names])
        unknown = [
            (track, Flag("no_features", "the song has no descriptors, which the model reads"))
            for track, lacks in zip(tracks, np.isnan(numbers).any(axis=1), strict=True)
            if lacks
        ]
        return (numbers - table_of[:, 0]) / table_of[:, 1], unknown

    def _whole_flags(self, rows: pd.DataFrame, observed: Source | None, horizon: int) -> list[tuple[str, Flag]]:
        """Flags for curves that are observed to their end; refused where that is all of them."""
        whole = rows[rows["observed"] >= horizon]
        period = PERIOD_NAMES[self.model.config.frequency]
        if len(whole) and len(whole) == len(rows):
            raise InputError(
                f"observed {_name(observed)}: holds {horizon} {period}s or more of {whole['track_id'].iloc[0]} in "
                f"{whole['region'].iloc[0]}, as many as the curves have, so nothing is left to forecast; "
                "leave out the last ones, or take `mp3model metrics` of what happened"
            )
        reason = f"all {horizon} {period}s of the curve are observed: nothing of it is forecast"
        return [
            (str(track), Flag("nothing_left", reason, str(region)))
            for track, region in whole[["track_id", "region"]].itertuples(index=False)
        ]

    def _artist_flags(
        self,
        songs: pd.DataFrame,
        earlier: tuple[pd.DataFrame, pd.DataFrame] | None,
        base: DatasetFolder | None,
    ) -> list[tuple[str, Flag]]:
        """Flags for artists who were named, but of whom the dataset holds nothing."""
        named = songs[songs["artist"].notna()]
        if base is None or earlier is not None or named.empty:
            return []
        known = {*artist_keys(base.tracks), *guest_keys(base.tracks).explode()}
        return [
            (
                str(track),
                Flag("artist_unknown", f"no song by {artist} is in {base.path}: the forecast is as of a newcomer"),
            )
            for track, artist in named[["track_id", "artist"]].itertuples(index=False)
            if artist_key(artist) not in known
        ]

    def _region_flags(self, rows: pd.DataFrame, states: RegionStates) -> list[tuple[str, Flag]]:
        flags: list[tuple[str, Flag]] = []
        stored = self.model.config.region_states or {}
        at, cutoffs = states.at(rows["region"], rows["cutoff"]), rows["cutoff"].to_numpy().astype("datetime64[D]")
        for place, track, region, day in zip(at, rows["track_id"], rows["region"], cutoffs, strict=True):
            if region not in self.model.config.regions:
                reason = f"the model learnt nothing of {region}: it answers as for a region it does not know"
                flags.append((track, Flag("region_untrained", reason, region)))
            if place < 0:
                continue
            last = np.datetime64(int(states.day[place]), "D")
            if states.day[place] == _BEFORE_ALL:
                last = np.datetime64(stored[region]["date"], "D")
            behind = int((day - last).astype(int))
            if behind < 0:
                reason = f"the floors are from {last}, after the forecast's own date; a dataset has those of the time"
                flags.append((track, Flag("floors_later", reason, region)))
            elif behind > STALE_DAYS:
                reason = f"the floors are from {last}, {behind} days before the forecast's date: streaming has moved on"
                flags.append((track, Flag("floors_old", reason, region)))
        return flags

    def _lowest(self, rows: pd.DataFrame, states: RegionStates) -> np.ndarray:
        """Streams at the end of each row's last chart: (rows,)."""
        at = states.positions(rows)
        return states.floor[at] * 10 ** states.values[at, STATE_FEATURES.index("log_lowest")]

    def _sampled(
        self,
        rows: pd.DataFrame,
        covariates: Covariates,
        curves: CurveArrays,
        samples: int,
        seed: int,
        heard: Audio | None,
        places: np.ndarray,
        descriptors: np.ndarray | None,
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Calibrated paths in log10 of floor units, floors and thresholds; rows that lack the same go together."""
        config = self.model.config
        values = np.empty((len(rows), samples, config.horizon), np.float32)
        scale: dict[str, np.ndarray] = {"floor": np.empty(len(rows)), "threshold": np.empty_like(values)}
        for absent in rows["absent"].unique():
            at = np.flatnonzero((rows["absent"] == absent).to_numpy())
            song = rows["song"].to_numpy()[at]
            part, found = sample_paths(
                self.model,
                covariates,
                rows.iloc[at],
                taken(curves, at),
                samples,
                seed,
                config.shared_luck,
                heard,
                places[song],
                None if descriptors is None else descriptors[song],
                tuple(absent.split()),
            )
            values[at], scale["floor"][at], scale["threshold"][at] = part, found["floor"], found["threshold"]
        if config.calibration is not None:
            calibration = PathCalibration.from_dict(config.calibration)
            values = calibration.apply(values, scale["threshold"], rows["region"].tolist(), rows["observed"].to_numpy())
        return values, scale

    def _covariates(self, known: _Known) -> Covariates:
        config = self.model.config
        return Covariates(
            list(config.regions),
            config.frequency,
            config.horizon,
            tuple(config.covariates),
            known.states,
            known.history,
        )

    def _pooled(
        self,
        charted: np.ndarray,
        covariates: Covariates,
        floor: np.ndarray,
        threshold: np.ndarray,
        rows: pd.DataFrame,
        curves: CurveArrays,
    ) -> np.ndarray:
        """Chart-observed paths, pooled with the trees in rows that lack nothing: trees cannot leave an input out."""
        whole = np.flatnonzero((rows["absent"] == "").to_numpy())
        weights = self.model.config.pool
        if self.trees is None or weights is None or not len(whole):
            return charted
        part = rows.iloc[whole].reset_index(drop=True)
        pooled = charted.copy()
        pooled[whole] = pooled_rows(
            charted[whole],
            part,
            Debuts.of(part, taken(curves, whole)),
            self.trees.with_covariates(covariates),
            weights,
            floor[whole],
            threshold[whole],
        )
        return pooled

    def _distance_flags(self, songs: pd.DataFrame, embeddings: np.ndarray | None) -> list[tuple[str, Flag]]:
        if self.catalogue is None or embeddings is None or np.isnan(self.catalogue.far):
            return []
        flags: list[tuple[str, Flag]] = []
        for track, embedding in zip(songs["track_id"], embeddings, strict=True):
            nearest = self.catalogue.nearest(embedding, 1)["distance"]
            if len(nearest) and nearest[0] > self.catalogue.far:
                reason = (
                    f"the song sounds unlike all the model learnt from: the nearest is {nearest[0]:.2f} away, and "
                    f"only one in a hundred songs of the same kind exceeds {self.catalogue.far:.2f}"
                )
                flags.append((str(track), Flag("unlike_training", reason)))
        return flags

    def _comparables(self, songs: pd.DataFrame, regions: list[str], embeddings: np.ndarray | None) -> pd.DataFrame:
        period = PERIOD_NAMES[self.model.config.frequency]
        columns = ["track_id", "region", "place", "song_id", "title", "artist", "distance", period, "date", "streams"]
        parts = []
        for row, track in enumerate(songs["track_id"]):
            if self.catalogue is None or embeddings is None or np.isnan(embeddings[row]).any():
                continue
            near = self.catalogue.nearest(embeddings[row], NEAREST)
            curves = near.merge(self.catalogue.curves(near["song_id"].tolist(), regions), on="song_id")
            horizon = len(curves["streams"].iloc[0]) if len(curves) else 0
            dates = period_dates(curves["debut"], horizon, self.model.config.frequency)
            long = curves.loc[curves.index.repeat(horizon)].assign(
                track_id=track,
                **{period: np.tile(np.arange(horizon), len(curves))},
                date=dates.ravel(),
                streams=np.concatenate([*curves["streams"], []]),
            )
            parts.append(long[columns].sort_values(["region", "place", period], kind="stable"))
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)

    def _percentiles(self, rows: pd.DataFrame, streams: np.ndarray) -> pd.DataFrame:
        columns = ["track_id", "region", "mean", *QUANTILES]
        if self.catalogue is None:
            return pd.DataFrame(columns=columns)
        totals, periods = streams.sum(axis=2), streams.shape[2]
        place = np.stack(
            [
                self.catalogue.percentile_of(own, str(region), periods)
                for own, region in zip(totals, rows["region"], strict=True)
            ]
        )
        table = rows[["track_id", "region"]].reset_index(drop=True).assign(mean=place.mean(axis=1))
        return table.assign(**dict(zip(QUANTILES, path_quantiles(place), strict=True)))


def _name(source: Any) -> str:
    return "table" if isinstance(source, pd.DataFrame) else str(source)


def _in_time(states: RegionStates, rows: pd.DataFrame) -> RegionStates:
    """Stored states, of which those later than the forecast are moved before it: they are all there is."""
    first = int(rows["cutoff"].to_numpy().astype("datetime64[D]").astype(int).min())
    return replace(states, day=np.where(states.day > first, _BEFORE_ALL, states.day))


def _cut(base: DatasetFolder, day: Any) -> DatasetFolder:
    """The dataset without what is dated after a day."""
    assert base.curves is not None
    curves = base.curves[base.curves["date"] <= day].reset_index(drop=True)
    charts = None if base.charts is None else base.charts[base.charts["date"] <= day].reset_index(drop=True)
    return replace(base, curves=curves, charts=charts, splits=None, targets=None, previews=None)


def _related(base: DatasetFolder, rows: pd.DataFrame) -> DatasetFolder:
    """The dataset's songs that a history is asked about: those of the rows, and those that credit the same people."""
    assert base.curves is not None
    people = {*rows["artist"], *rows["guests"].explode().dropna()}
    artists, songs = artist_keys(base.tracks).isin(people), base.tracks["song_id"].isin(rows["song_id"])
    guests = guest_keys(base.tracks).map(lambda named: not people.isdisjoint(named))
    tracks = base.tracks[artists | guests | songs].reset_index(drop=True)
    curves = base.curves[base.curves["track_id"].isin(tracks["track_id"])].reset_index(drop=True)
    return replace(base, tracks=tracks, curves=curves)
