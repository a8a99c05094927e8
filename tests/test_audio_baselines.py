"""Audio systems on small charts: whole forecasts, nothing from the future, reasons where the data lack something."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import baseline_checks
import numpy as np
import pandas as pd
import pytest
import torch
from baseline_checks import (
    all_debuts,
    assert_forecasts_are_whole,
    assert_test_songs_teach_nothing,
    assert_the_future_moves_nothing,
    covariates_of,
    fitted,
    same,
)
from heard_charts import heard_charts
from small_charts import HORIZON, small_charts

from mp3model.audio.bank import AudioBank
from mp3model.baselines import audio_systems, song_sounds
from mp3model.baselines.audio_systems import ExpectedOfClasses, Filled, Heard, Ridge
from mp3model.baselines.curve_floors import RegionClimate, known_of
from mp3model.baselines.descriptors import descriptors
from mp3model.baselines.floors import RegionMean
from mp3model.baselines.kkbox import TAG_LOADINGS
from mp3model.baselines.registry import baseline_names, make_baseline, register, unavailable, unregister
from mp3model.baselines.scalar_curves import TARGET, ScalarCurves
from mp3model.baselines.song_sounds import SongSounds, described
from mp3model.files import InputError
from mp3model.tables.debuts import Debuts, debut_rows
from mp3model.tables.folder import DatasetFolder

FEW = {"epochs": 2}
NETS = {"epochs": 2, "autoencoder_epochs": 2}
# The heard systems, each with next to no training.
_MAKERS = {
    "probe": lambda dataset: audio_systems.probe(dataset),
    "descriptor ridge": lambda dataset: audio_systems.descriptor_ridge(dataset),
    "hitmusicnet": lambda dataset: audio_systems.hitmusicnet(dataset, options=NETS),
    "hitmusicnet classes": lambda dataset: audio_systems.hitmusicnet(dataset, classes=True, options=NETS),
    "autoen-chorder": lambda dataset: audio_systems.autoenchorder(dataset, FEW | {"sequence_epochs": 1}),
    "stanford 2": lambda dataset: audio_systems.stanford(dataset, 2, options={"epochs": 1}),
    "kkbox M1": lambda dataset: audio_systems.kkbox(dataset, "M1", options=FEW),
    "kkbox M2": lambda dataset: audio_systems.kkbox(dataset, "M2", options={"epochs": 1}),
    "kkbox siamese": lambda dataset: audio_systems.kkbox(dataset, "M1", siamese=True, options=FEW),
    "kkbox trend": lambda dataset: audio_systems.kkbox_trend(dataset, {"epochs": 1}),
}


def made(name: str):
    """A maker whose systems are fitted anew without half of the artists, not four times without a quarter."""

    def make(dataset: DatasetFolder) -> ScalarCurves:
        baseline = _MAKERS[name](dataset)
        baseline.folds = 2
        return baseline

    return make


MAKERS = {name: made(name) for name in _MAKERS}
QUICKEST = ("probe", "descriptor ridge", "hitmusicnet", "kkbox M1")
SLOWER = [pytest.param(name, marks=pytest.mark.slow) for name in MAKERS if name not in QUICKEST]


@pytest.fixture(scope="module")
def heard(tmp_path_factory) -> DatasetFolder:
    return heard_charts(tmp_path_factory.mktemp("heard"))


@pytest.fixture(autouse=True)
def on_heard_charts(heard: DatasetFolder, monkeypatch: pytest.MonkeyPatch):
    """The checks of leaks build their own datasets from the small charts: here, from those with audio."""
    monkeypatch.setattr(baseline_checks, "small_charts", lambda: heard)


@pytest.mark.parametrize("name", [*QUICKEST, *SLOWER])
def test_forecasts_are_whole_and_only_before_debut(name: str, heard: DatasetFolder):
    test = all_debuts().of_split("test")
    baseline = fitted(MAKERS[name](heard), heard)
    assert_forecasts_are_whole(baseline.forecast(test, 0), test, 0)
    assert baseline.forecast(test, 1) is None


@pytest.mark.parametrize("name", [*QUICKEST, *SLOWER])
def test_nothing_after_the_cut_off_moves_an_audio_system(name: str):
    assert_the_future_moves_nothing(MAKERS[name], 0)


@pytest.mark.parametrize("name", [*QUICKEST, *SLOWER])
def test_audio_systems_learn_nothing_from_test_songs(name: str):
    assert_test_songs_teach_nothing(MAKERS[name], 0)


def with_sounds_changed(dataset: DatasetFolder, folder: Path, split: str) -> DatasetFolder:
    """Sounds and x_ columns of a split's songs become others', those of all other songs stay."""
    rows = debut_rows(dataset)
    songs = set(rows.loc[rows["split"] == split, "song_id"])
    tracks = dataset.tracks.copy()
    chosen = tracks["song_id"].isin(songs)
    for name in [name for name in tracks if str(name).startswith("x_")]:
        tracks.loc[chosen, name] = 1e6
    from mp3model.audio.bank import write_index, write_shard

    bank, of_track = AudioBank(dataset.path), tracks.set_index("track_id")["song_id"]
    clips = [
        (row.track_id, row.preview, bank.read(place) // (7 if of_track[row.track_id] in songs else 1))
        for place, row in enumerate(bank.index.itertuples())
    ]
    index = write_shard(folder, 0, clips)
    write_index(folder, index)
    return replace(dataset, path=folder, tracks=tracks, previews=index)


@pytest.mark.parametrize("name", ["probe", "descriptor ridge", "hitmusicnet", "kkbox M1"])
def test_scalers_and_autoencoders_see_training_rows_only(name: str, heard: DatasetFolder, tmp_path: Path):
    debuts = all_debuts()
    answers = []
    for dataset in (heard, with_sounds_changed(heard, tmp_path, "test")):
        baseline = fitted(MAKERS[name](dataset), heard)
        answers.append(baseline.forecast(debuts.of_split("validation"), 0))
    assert same(answers[0], answers[1], 0)


class Known:
    """Predicts the song's own total, which it was told; NaN of songs it was not told."""

    def __init__(self, totals: pd.Series) -> None:
        self.totals = totals

    def fit(self, train: pd.DataFrame, validation: pd.DataFrame | None) -> Known:
        return self

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        return self.totals.reindex(pd.MultiIndex.from_frame(frame[["song_id", "region"]])).to_numpy()

    def shares(self, frame: pd.DataFrame) -> np.ndarray | None:
        return None


def totals_of(debuts: Debuts) -> pd.Series:
    floor = known_of(debuts, covariates_of(small_charts()), 0).floor
    logs = np.log10(1 + debuts.curves.chart_observed().sum(axis=1) / floor)
    return pd.Series(logs, index=pd.MultiIndex.from_frame(debuts.rows[["song_id", "region"]]))


def test_a_system_that_knows_the_total_forecasts_it_and_its_order():
    debuts = all_debuts()
    test = debuts.of_split("test")
    test = test.chosen(np.isfinite(test.curves.chart_observed()).all(axis=1))
    forecasts = fitted(ScalarCurves("known", lambda: Known(totals_of(debuts)))).forecast(test, 0)
    true = test.curves.chart_observed()
    logs = np.log10(1 + true.sum(axis=1))
    # Bins of the spread are as wide as a fifth of the training rows.
    assert np.corrcoef(np.log10(1 + forecasts.total), logs)[0, 1] > 0.9
    assert np.corrcoef(forecasts.score, logs)[0, 1] > 0.95
    length = (true > 0).sum(axis=1)
    assert np.corrcoef(forecasts.length, length)[0, 1] > 0.7
    charted = forecasts.curve > 0
    assert 0.5 < charted.mean() < 1
    np.testing.assert_array_equal(np.diff(charted.astype(int), axis=1).max(axis=1) <= 0, True)


def test_rows_that_a_system_says_nothing_of_get_the_regions_quantiles():
    debuts = all_debuts()
    test = debuts.of_split("test")
    known = totals_of(debuts.of_split("train", "validation"))
    forecasts = fitted(ScalarCurves("known", lambda: Known(known))).forecast(test, 0)
    usual = fitted(RegionClimate()).forecast(test, 0)
    np.testing.assert_allclose(forecasts.quantiles, usual.quantiles, rtol=1e-9)


class Memory:
    """Remembers the training rows' totals by heart, and says 0 of others."""

    def fit(self, train: pd.DataFrame, validation: pd.DataFrame | None) -> Memory:
        self.totals = train.set_index(["song_id", "region"])[TARGET]
        return self

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        return self.totals.reindex(pd.MultiIndex.from_frame(frame[["song_id", "region"]])).fillna(0.0).to_numpy()

    def shares(self, frame: pd.DataFrame) -> np.ndarray | None:
        return None


def test_the_spread_is_of_rows_a_system_was_not_fitted_on():
    train = all_debuts().of_split("train")
    train = train.chosen(np.isfinite(train.curves.chart_observed()).all(axis=1))
    forecasts = fitted(ScalarCurves("memory", Memory)).forecast(train, 0)
    floor = known_of(train, covariates_of(small_charts()), 0).floor
    logs = np.log10(1 + forecasts.quantiles / floor[:, None])
    # By heart it is exact on training rows; rows held out of its fit say that its number is worth nothing.
    np.testing.assert_allclose(logs, np.tile(logs[0], (len(logs), 1)), atol=1e-9)
    assert logs[0, 8] - logs[0, 0] > 0.5


def test_nothing_of_an_empty_validation_split_is_asked():
    debuts = all_debuts()
    none = debuts.of_split("nothing")
    baseline = ScalarCurves("memory", Memory).fit(debuts.of_split("train"), none, covariates_of(small_charts()))
    assert_forecasts_are_whole(baseline.forecast(debuts.of_split("test"), 0), debuts.of_split("test"), 0)


def test_an_informative_sound_beats_the_regions_median(heard: DatasetFolder):
    from mp3model.evaluation.curve_scores import score_curves
    from mp3model.evaluation.forecasts import truth_of

    debuts = all_debuts()
    test = debuts.of_split("validation", "test")
    truth = truth_of(test.rows, test.curves)
    ours, floor = (
        score_curves(truth, fitted(made, heard).forecast(test, 0), 0, replicates=0)["crps_logfloor"]
        for made in (audio_systems.descriptor_ridge(heard), make_baseline("region median", heard))
    )
    assert ours < 0.95 * floor


def test_songs_without_audio_or_in_regions_with_few_rows_are_not_answered():
    frame = pd.DataFrame(
        {"song_id": [f"s{n}" for n in range(12)] * 2, "region": ["US"] * 12 + ["GB"] * 12, TARGET: np.arange(24.0)}
    )
    train = frame[(frame["region"] == "US") | (frame.index % 4 == 0)].reset_index(drop=True)
    fitted_system = Heard([f"s{n}" for n in range(9)], RegionMeanOfFrames()).fit(train, None)
    predicted = fitted_system.predict(frame)
    assert np.isfinite(predicted[:9]).all()
    assert np.isnan(predicted[9:]).all()
    with pytest.raises(InputError, match="no region has 5 training debuts"):
        Heard(["s0"], RegionMeanOfFrames()).fit(train, None)


class RegionMeanOfFrames(RegionMean):
    def fit(self, train, target=TARGET, validation=None):
        return super().fit(train, target)


def test_gaps_in_columns_become_the_mean_of_the_training_rows_alone():
    rows = np.array([[1.0, np.nan], [3.0, 5.0]])

    class Seen:
        def fit(self, inputs, values, validation=None):
            self.inputs, self.held = inputs, validation[0]

        def predict(self, inputs):
            return inputs[:, 1]

    system = Seen()
    filled = Filled(system).fit(rows, np.zeros(2), (np.array([[np.nan, 100.0]]), np.zeros(1)))
    assert system.inputs.tolist() == [[1.0, 5.0], [3.0, 5.0]]
    assert system.held.tolist() == [[2.0, 100.0]]
    assert filled.predict(np.array([[0.0, np.nan]])).tolist() == [5.0]


def test_a_ridge_answers_songs_with_some_column_and_ignores_those_without_a_training_value():
    features = pd.DataFrame({"a": np.arange(20.0), "b": np.nan}, index=[f"s{n}" for n in range(20)])
    features.loc["s19", "a"] = np.nan
    frame = pd.DataFrame({"song_id": [f"s{n}" for n in range(15)], "region": "US", TARGET: np.arange(15.0)})
    ridge = Ridge(features.assign(b=np.where(np.arange(20) == 18, 1e9, np.nan))).fit(frame)
    assert "s19" not in ridge.features.index
    asked = pd.DataFrame({"song_id": ["s3", "s18"], "region": "US"})
    np.testing.assert_allclose(ridge.predict(asked), [3.0, 18.0], atol=0.1)
    # What other songs have in a column does not fill the gaps of those trained on.
    gaps = features.assign(b=[float(number % 3) if number % 2 else np.nan for number in range(20)])
    loud = gaps.assign(b=gaps["b"].where(np.arange(20) < 15, 1e9))
    np.testing.assert_array_equal(Ridge(gaps).fit(frame).predict(asked[:1]), Ridge(loud).fit(frame).predict(asked[:1]))
    even = pd.DataFrame({"song_id": ["s4"], "region": "US"})
    np.testing.assert_array_equal(Ridge(gaps).fit(frame).predict(even), Ridge(loud).fit(frame).predict(even))


def test_classes_answer_with_their_expected_total():
    class Certain:
        def __init__(self, thresholds):
            self.thresholds = thresholds

        def fit(self, inputs, values, validation=None):
            return self

        def probabilities(self, inputs):
            return np.eye(3)[inputs]

    values = np.arange(100.0)
    system = ExpectedOfClasses(Certain, (0.25, 0.65)).fit(np.zeros(100), values)
    low, high = system.network.thresholds
    np.testing.assert_allclose(
        system.predict(np.array([0, 1, 2])),
        [values[values < low].mean(), values[(values >= low) & (values < high)].mean(), values[values >= high].mean()],
    )
    # Many songs that were never charted share the lowest total.
    tied = ExpectedOfClasses(Certain, (0.25, 0.65)).fit(np.zeros(100), np.where(values < 80, 0.0, values))
    assert tied.network.thresholds[0] < tied.network.thresholds[1]
    assert np.isfinite(tied.predict(np.array([0, 1, 2]))).all()


def test_the_trend_head_forecasts_its_own_shape(heard: DatasetFolder):
    rising = np.linspace(0.2, 1.0, HORIZON)
    sounds = SongSounds(heard)
    frame = all_debuts().of_split("train").rows[["song_id", "region"]]
    frame = frame[frame["song_id"].isin(sounds.songs)].reset_index(drop=True)
    frame = frame.assign(**{f"week_{n}": value for n, value in enumerate(rising)}, true=1.0)
    head = audio_systems.TrendHead(sounds.songs, sounds.stacked("mel"), epochs=1).fit(frame)
    shares = head.shares(frame)
    np.testing.assert_allclose(shares.sum(axis=1), 1.0)
    expected = (10**rising - 1) / (10**rising - 1).sum()
    np.testing.assert_allclose(shares, np.broadcast_to(expected, shares.shape), atol=0.02)


@pytest.fixture
def told_tags(heard: DatasetFolder, monkeypatch: pytest.MonkeyPatch):
    """Loadings as the tagger gives them, without its two seconds a clip."""
    random = np.random.default_rng(0)
    told = {song: random.uniform(size=TAG_LOADINGS).astype(np.float32) for song in SongSounds(heard).songs}
    whole = SongSounds.stacked

    def stacked(self: SongSounds, kind: str, kkbox: str | None = None) -> np.ndarray:
        return np.stack([told[song] for song in self.songs]) if kind == "tags" else whole(self, kind, kkbox)

    monkeypatch.setattr(SongSounds, "stacked", stacked)


def test_tags_make_the_rest_of_kkbox(heard: DatasetFolder, told_tags: None):
    test = all_debuts().of_split("test")
    for model in ("M4", "M5"):
        baseline = audio_systems.kkbox(heard, model, kkbox="weights", options={"epochs": 1})
        baseline.folds = 2
        fitted(baseline, heard)
        assert_forecasts_are_whole(baseline.forecast(test, 0), test, 0)


@pytest.mark.parametrize("name", [pytest.param("kkbox published", marks=pytest.mark.slow), "kkbox published cnn"])
def test_a_published_score_is_calibrated_by_a_line(name: str, heard: DatasetFolder, told_tags: None):
    folder = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "kkbox"
    if not folder.is_dir():
        pytest.skip("no published weights beside the repository")
    baseline = fitted(make_baseline(name, heard, kkbox=str(folder)), heard)
    test = all_debuts().of_split("test")
    assert_forecasts_are_whole(baseline.forecast(test, 0), test, 0)
    scores = baseline.system.system.features
    assert scores.shape == (len(SongSounds(heard).songs), 1)
    frame = test.rows.assign(score=test.rows["song_id"].map(scores["score"]))
    for _, rows in frame[frame["score"].notna()].groupby("region"):
        line = np.polyfit(rows["score"], baseline.system.predict(rows), 1)
        np.testing.assert_allclose(np.polyval(line, rows["score"]), baseline.system.predict(rows), atol=1e-6)


def test_a_song_is_heard_once_by_its_earliest_track_with_audio(heard: DatasetFolder):
    sounds = SongSounds(heard)
    kept = set(debut_rows(heard)["song_id"])
    assert set(sounds.songs) <= kept
    assert len(kept) > len(sounds.songs)
    first = sounds.stacked("descriptors")
    assert SongSounds(heard).stacked("descriptors") is first
    bank = AudioBank(heard.path)
    assert "song-18" in sounds.songs
    of_song = heard.tracks["song_id"] == "song-18"
    live = of_song & heard.tracks["track_id"].str.endswith("live")
    assert (of_song.sum(), live.sum()) == (2, 1)
    for released, track in (("2030-01-01", "track-18"), ("2000-01-01", "track-18-live")):
        changed = heard.tracks["release_date"].where(~live, pd.Timestamp(released))
        one = SongSounds(replace(heard, tracks=heard.tracks.assign(release_date=changed)))
        found = one.stacked("descriptors")[one.songs.index("song-18")]
        np.testing.assert_array_equal(found, descriptors(bank.read(int(bank.previews_of(track)[0]))))
    song_sounds.forget()
    assert SongSounds(heard).stacked("descriptors") is not first


def test_columns_of_a_song_are_the_means_of_its_tracks(heard: DatasetFolder):
    table = described(heard)
    of_song = heard.tracks[heard.tracks["song_id"] == "song-09"]
    assert len(of_song) == 2
    assert table.loc["song-09", "x_tempo"] == pytest.approx(of_song["x_tempo"].mean())
    assert described(replace(heard, tracks=heard.tracks.drop(columns=["x_tempo", "x_loudness"]))).shape[1] == 0


def test_what_the_data_do_not_allow_is_named_with_its_mend(heard: DatasetFolder):
    silent = replace(small_charts(), previews=None)
    bare = replace(silent, tracks=silent.tracks.drop(columns=["x_loudness", "x_tempo"]))
    assert "no audio bank" in unavailable("kkbox M2", silent)
    assert "no x_" in unavailable("probe", bare)
    assert unavailable("probe", silent) is None
    assert unavailable("kkbox M2", heard) is None
    assert "--kkbox" in unavailable("kkbox M4", heard)
    assert unavailable("kkbox M4", heard, kkbox="folder") is None
    assert unavailable("region median", bare) is None
    with pytest.raises(InputError, match=r"'stanford 4' cannot be fitted: .*no audio bank"):
        make_baseline("stanford 4", silent)
    with pytest.raises(InputError, match="'best' is not known"):
        unavailable("best", silent)


def test_every_name_makes_a_baseline_of_the_interface(heard: DatasetFolder):
    for name in baseline_names():
        if unavailable(name, heard, kkbox="folder") is None:
            baseline = make_baseline(name, heard, search=True, kkbox="folder")
            assert isinstance(baseline.name, str)
            assert callable(baseline.fit)
            assert callable(baseline.forecast)
    assert make_baseline("stanford 4", heard, search=True).name.endswith("(searched)")
    assert len(set(baseline_names())) == len(baseline_names()) >= 35


@pytest.mark.slow
def test_a_search_chooses_on_validation_alone():
    def searched(dataset: DatasetFolder) -> ScalarCurves:
        grid = {"rates": (1e-3,), "batches": (16,), "dropouts": (0.2, 0.6)}
        baseline = audio_systems.stanford(dataset, 6, search=True, options={"epochs": 1}, grid=grid)
        baseline.folds = 2
        return baseline

    assert_test_songs_teach_nothing(searched, 0)


def test_needs_and_settings_that_nobody_knows_are_refused():
    with pytest.raises(InputError, match="asks for 'video'"):
        register("films", lambda dataset: None, needs=["video"])
    with pytest.raises(InputError, match="asks for 'speed'"):
        register("films", lambda dataset: None, settings=["speed"])
    assert "films" not in baseline_names()


def test_a_registered_baseline_is_told_the_settings_it_asks_for(heard: DatasetFolder):
    told = {}

    def maker(dataset, search):
        told["search"] = search
        return make_baseline("region median", dataset)

    register("teller", maker, needs=["audio"], settings=["search"])
    try:
        make_baseline("teller", heard, search=True)
        assert told == {"search": True}
    finally:
        unregister("teller")


@pytest.mark.slow
def test_the_same_seed_gives_the_same_forecast(heard: DatasetFolder):
    test = all_debuts().of_split("test")
    torch.manual_seed(1)
    first = fitted(MAKERS["hitmusicnet"](heard), heard).forecast(test, 0)
    torch.manual_seed(2)
    assert same(first, fitted(MAKERS["hitmusicnet"](heard), heard).forecast(test, 0), 0)


def test_some_of_the_debuts_are_forecast_as_among_all(heard: DatasetFolder):
    test = all_debuts().of_split("test")
    baseline = fitted(audio_systems.descriptor_ridge(heard), heard)
    whole = baseline.forecast(test, 0)
    part = baseline.forecast(test.chosen(np.arange(len(test.rows)) % 2 == 1), 0)
    np.testing.assert_allclose(part.quantiles, whole.quantiles[1::2], rtol=1e-12)
