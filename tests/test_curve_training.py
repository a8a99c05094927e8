"""Batches of debuts: who is observed how long, statistics, audio, and what a trained model remembers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from small_charts import DESCRIPTORS, HORIZON, REGIONS, future_changed, small_charts
from torch.utils.data import DataLoader

from mp3model import MP3Config, MP3Model
from mp3model.audio.bank import AudioBank
from mp3model.evaluation.forecasts import RankCurves
from mp3model.files import InputError
from mp3model.model.sampling import sample_paths
from mp3model.tables.curves import BELOW, OBSERVED, CurveArrays
from mp3model.tables.debuts import Debuts, debut_rows, debuts_of, with_cutoff
from mp3model.tables.folder import read_dataset
from mp3model.training.batches import EpochBatches, TrainingSet
from mp3model.training.curves import (
    OBSERVED_CHOICES,
    OBSERVED_WEIGHTS,
    CurveTrainingSet,
    Hearing,
    covariate_statistics,
    covariates_of,
    descriptor_table,
    halves,
    stored_covariates,
    whole_curve_batches,
)
from mp3model.training.forecasting import PathForecaster, fit_calibration, remember, shared_luck

GROUPS = ("state", "artist", "regions")
SAMPLES = 16_240


@pytest.fixture(scope="module")
def debuts() -> Debuts:
    return debuts_of(small_charts(), debut_rows(small_charts()), HORIZON)


@pytest.fixture(scope="module")
def covariates(debuts):
    return covariates_of(small_charts(), list(REGIONS), GROUPS, HORIZON, None)


@pytest.fixture(scope="module")
def accelerator() -> Any:
    from accelerate import Accelerator

    return Accelerator(cpu=True)


def model_of(**changes: Any) -> MP3Model:
    torch.manual_seed(0)
    model = MP3Model(
        MP3Config(
            **{
                "regions": list(REGIONS),
                "encoder": "none",
                "horizon": HORIZON,
                "components": 3,
                "decoder_width": 16,
                "decoder_layers": 1,
                "decoder_heads": 2,
                "covariates": list(GROUPS),
                "hidden_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "frames": 100,
                "patch_stride": [16, 16],
                "audio_segments": 2,
                **changes,
            }
        )
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def hearing(small_dataset) -> Hearing:
    """Audio of the first 48 songs by name; the others have none."""
    return Hearing(read_dataset(small_dataset), AudioBank(small_dataset), SAMPLES, 2)


def batches_of(dataset: CurveTrainingSet, workers: int, epoch: int = 0) -> list[dict]:
    batches = EpochBatches(len(dataset), 8, 0)
    batches.start(epoch)
    return list(DataLoader(dataset, sampler=batches, batch_size=None, num_workers=workers))


def test_batches_are_the_same_for_no_and_two_workers(debuts, covariates):
    dataset = CurveTrainingSet(debuts, covariates, 0, HORIZON)
    alone, helped = batches_of(dataset, 0), batches_of(dataset, 2)
    assert len(alone) == len(helped) > 5
    for first, second in zip(alone, helped, strict=True):
        assert first.keys() == second.keys() == {"rows"}
        for name, values in first["rows"].items():
            assert torch.equal(values, second["rows"][name]), name


def test_a_song_has_the_same_rows_beside_any_songs_in_any_order(debuts, covariates):
    dataset = CurveTrainingSet(debuts, covariates, 3, HORIZON)
    alone = dataset[[(2, 5)]]["rows"]
    beside = dataset[[(2, 9), (2, 5), (2, 1)]]["rows"]
    start = np.diff(debuts.starts)[9]
    rows = slice(start, start + np.diff(debuts.starts)[5])
    for name in ("observed", "region", "static", "value", "state", "threshold", "last_threshold", "calendar"):
        assert torch.equal(beside[name][rows], alone[name]), name


def test_how_many_periods_are_observed_follows_from_seed_epoch_song_and_region(debuts, covariates):
    def observed(seed: int, epoch: int, some: Debuts = debuts) -> dict[tuple[str, str], int]:
        dataset = CurveTrainingSet(some, covariates, seed, HORIZON)
        told = dataset[[(epoch, song) for song in range(len(some))]]["rows"]["observed"].tolist()
        return dict(zip(zip(some.rows["song_id"], some.rows["region"], strict=True), told, strict=True))

    first = observed(0, 0)
    assert first == observed(0, 0)
    fewer = observed(0, 0, debuts.of_split("test"))
    assert fewer == {key: first[key] for key in fewer}
    for other in (observed(0, 1), observed(1, 0)):
        assert 0.3 < np.mean([first[key] != other[key] for key in first]) < 1
    # Regions of one song are drawn apart.
    several = [song for song in debuts.songs if len({v for (name, _), v in first.items() if name == song}) > 1]
    assert len(several) > 20


def test_periods_are_observed_as_often_as_wanted_and_never_all(debuts, covariates):
    dataset = CurveTrainingSet(debuts, covariates, 0, HORIZON)
    told = np.concatenate(
        [dataset[[(epoch, song) for song in range(len(debuts))]]["rows"]["observed"].numpy() for epoch in range(25)]
    )
    allowed = [choice for choice in OBSERVED_CHOICES if choice < HORIZON]
    assert set(told) == set(allowed)
    weights = np.array(OBSERVED_WEIGHTS[: len(allowed)]) / sum(OBSERVED_WEIGHTS[: len(allowed)])
    np.testing.assert_allclose([(told == choice).mean() for choice in allowed], weights, atol=0.02)


def test_the_cutoff_of_a_row_is_that_of_its_observed_periods(debuts, covariates):
    rows = CurveTrainingSet(debuts, covariates, 0, HORIZON)[[(0, song) for song in range(len(debuts))]]["rows"]
    told = covariates.gather(with_cutoff(debuts.rows, rows["observed"].numpy(), "W"), debuts.curves)
    for name in ("static", "tokens", "last_threshold", "value"):
        np.testing.assert_array_equal(rows[name].numpy(), told[name])


def test_statistics_know_nothing_after_the_last_training_cutoff(debuts):
    train = debuts.of_split("train")
    until = (train.rows["debut"].max() + pd.Timedelta(weeks=HORIZON)).to_datetime64().astype("datetime64[D]")
    told = []
    for dataset in (small_charts(), future_changed(small_charts(), until, 1)):
        for data in (dataset, replace(dataset, charts=None)):
            covariates = covariates_of(data, list(REGIONS), GROUPS, HORIZON, until)
            told.append(covariate_statistics(covariates, train, "W"))
    for first, second in ((told[0], told[2]), (told[1], told[3])):
        np.testing.assert_allclose(first["mean"], second["mean"], atol=1e-6)
        np.testing.assert_allclose(first["std"], second["std"], atol=1e-6)
    assert (
        told[0]["mean"]
        != covariate_statistics(
            covariates_of(small_charts(), list(REGIONS), GROUPS, HORIZON, until), debuts.of_split("test"), "W"
        )["mean"]
    )


def test_descriptors_are_standardised_by_training_rows_and_nan_where_there_are_none(debuts):
    dataset, rows = small_charts(), debuts.rows
    values, statistics = descriptor_table(dataset, rows, DESCRIPTORS)
    train = (rows["split"] == "train").to_numpy()
    np.testing.assert_allclose(np.nanmean(values[train], axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(np.nanstd(values[train], axis=0), 1, atol=1e-9)
    tracks = dataset.tracks.set_index("track_id").loc[rows["track_id"], DESCRIPTORS[0]]
    assert np.array_equal(np.isnan(values[:, 0]), tracks.isna())
    again, same = descriptor_table(dataset, rows.iloc[:4], DESCRIPTORS, statistics)
    np.testing.assert_array_equal(again, values[:4])
    assert same == statistics
    wild = dataset.tracks.copy()
    later = ~wild["track_id"].isin(rows["track_id"][train])
    wild.loc[later, list(DESCRIPTORS)] *= 100
    assert descriptor_table(replace(dataset, tracks=wild), rows, DESCRIPTORS)[1] == statistics
    with pytest.raises(InputError, match="no column x_none"):
        descriptor_table(dataset, rows, ["x_none"])


def test_a_song_is_in_one_half_by_its_name_alone():
    songs = [f"song-{number}" for number in range(400)]
    told = halves(songs, 0)
    assert 0.4 < told.mean() < 0.6
    assert halves(songs[::-3], 0).tolist() == told[::-3].tolist()
    assert (halves(songs, 1) != told).any()
    assert halves([], 0).dtype == bool


def test_whole_curves_come_in_order_and_all_of_them(debuts, covariates):
    parts = list(whole_curve_batches(debuts, covariates, 2, torch.device("cpu"), rows_at_once=50))
    assert [len(part["region"]) for part in parts] == [50, 50, 50, len(debuts.rows) - 150]
    state = torch.cat([part["state"] for part in parts]).numpy()
    np.testing.assert_array_equal(state, debuts.curves.state)
    assert all((part["observed"] == 2).all() and (part["song"] == -1).all() for part in parts)


def test_clips_are_those_of_the_songs_that_have_audio(debuts, covariates, hearing):
    songs = hearing.songs_of(debuts.songs)
    places = hearing.places(debuts.songs)
    assert 0 < len(songs) < len(debuts)
    assert [debuts.songs[i] for i in np.flatnonzero(places >= 0)] == songs.song_ids
    clips = TrainingSet(songs, hearing.bank, songs.targets.astype(np.float32), SAMPLES, 0)
    dataset = CurveTrainingSet(debuts, covariates, 0, HORIZON, clips, places)
    silent = int(np.flatnonzero(places < 0)[0])
    loud = [int(place) for place in np.flatnonzero(places >= 0)[[4, 2]]]
    items = [(1, loud[0]), (1, silent), (1, loud[1])]
    found = dataset[items]
    counts = [len(debuts.of_songs([song])) for _, song in items]
    assert found["rows"]["song"].tolist() == [0] * counts[0] + [-1] * counts[1] + [1] * counts[2]
    for place, song in enumerate(loud):
        told = clips[1, songs.song_ids.index(debuts.songs[song])]
        assert torch.equal(found["clips"]["previews"][place], told["previews"])
        assert torch.equal(found["clips"]["draws"][place], told["draws"])
    assert dataset[[(1, silent)]].keys() == {"rows"}
    stored = CurveTrainingSet(debuts, covariates, 0, HORIZON, stored=places)
    told = stored[items]["rows"]["song"].tolist()
    assert told == [loud[0]] * counts[0] + [-1] * counts[1] + [loud[1]] * counts[2]


def test_a_song_is_heard_as_the_mean_of_its_windows_in_the_order_asked(hearing, accelerator):
    model = model_of(encoder="ast")
    asked = ["song-05", "nobody", "song-01"]
    with torch.inference_mode():
        audio = hearing.listen(model, asked, accelerator, batch_size=3)
        waves = [hearing.bank.read(int(clip)) for clip in hearing.songs_of(["song-05"]).clips[0]]
        starts = (0, 40_000 - SAMPLES)
        cut = torch.from_numpy(np.stack([wave[start : start + SAMPLES] for wave in waves for start in starts]))
        told = model.listen(waveforms=cut)
    assert audio.tokens.shape[0] == audio.states.shape[0] == 3
    torch.testing.assert_close(audio.tokens[0], told.tokens.mean(dim=0), rtol=0, atol=1e-4)
    torch.testing.assert_close(audio.states[0], told.states.mean(dim=0), rtol=0, atol=1e-4)
    assert not audio.tokens[1].any()
    alone = hearing.listen(model, ["song-01"], accelerator)
    torch.testing.assert_close(audio.tokens[2], alone.tokens[0], rtol=0, atol=1e-4)
    assert hearing.listen(model, ["nobody"], accelerator) is None


def test_paths_that_are_kept_are_drawn_once_a_question_and_anew_by_another_model(
    debuts, covariates, accelerator, monkeypatch
):
    some, drawn = debuts.evenly(9), []
    monkeypatch.setattr(
        "mp3model.training.forecasting.sample_paths", lambda *told: drawn.append(told) or sample_paths(*told)
    )
    careless = PathForecaster(model_of(), covariates, None, accelerator, 8)
    keeping, cramped = (PathForecaster(model_of(), covariates, None, accelerator, 8, keep=n) for n in (2**20, 100))
    for forecaster, times in ((careless, 2), (keeping, 1)):
        drawn.clear()
        first, again = (forecaster.paths(some, 2).streams for _ in range(2))
        np.testing.assert_array_equal(first, again)
        assert len(drawn) == times
    # Another question, other rows, other luck; and what does not fit is drawn each time.
    for forecaster, rows, observed in (
        (keeping, some, 1),
        (keeping, debuts.evenly(8), 2),
        (replace(keeping, seed=1), some, 2),
        (replace(keeping, absent=("artist",)), some, 2),
        (keeping.with_model(model_of(region_mode="embedding")), some, 2),
        (cramped, some, 2),
        (cramped, some, 2),
    ):
        drawn.clear()
        told = forecaster.paths(rows, observed).streams
        assert len(drawn) == 1
        np.testing.assert_array_equal(told, replace(forecaster, keep=0).paths(rows, observed).streams)


def test_a_forecaster_forecasts_with_audio_and_leaves_observed_periods(debuts, covariates, hearing, accelerator):
    some = debuts.of_kept_songs(np.arange(len(debuts)) % 9 == 0)
    forecaster = PathForecaster(
        model_of(encoder="ast"), covariates, hearing, accelerator, 32, rank_curves=RankCurves.of(small_charts())
    )
    paths = forecaster.paths(some, 2)
    assert paths.streams.shape == (len(some.rows), 32, HORIZON)
    known = some.curves.chart_observed()
    assert (paths.streams[:, :, :2] == known[:, None, :2]).all()
    assert (paths.debut_rank == some.curves.rank[:, :1]).all()
    deaf = replace(forecaster, absent=("audio",))
    audible = hearing.places(some.songs) >= 0
    change = np.log10(1 + deaf.paths(some, 2).streams) - np.log10(1 + paths.streams)
    moved = np.abs(change).max(axis=(1, 2)) > 2e-3
    assert audible.any()
    assert (moved == np.repeat(audible, np.diff(some.starts))).all()
    fresh = forecaster.paths(some, 0)
    assert (fresh.debut_rank >= 1).all()


def own_curves(model: MP3Model, covariates, debuts: Debuts, luck: tuple[float, float], seed: int) -> Debuts:
    """Debuts whose curves the model itself drew."""
    rows = with_cutoff(debuts.rows, 0, "W")
    values, scale = sample_paths(model, covariates, rows, None, 2, seed, luck)
    streams = scale["floor"][:, None] * 10.0 ** values[:, 0]
    threshold = scale["threshold"][:, 0]
    lowest = scale["floor"][:, None] * 10.0**threshold
    state = np.where(values[:, 0] < threshold, BELOW, OBSERVED).astype(np.int8)
    streams = np.where(state == OBSERVED, streams, np.nan)
    rank = np.full_like(streams, np.nan)
    curves = CurveArrays(streams, rank, state, lowest, debuts.curves.floor, state == OBSERVED)
    return replace(debuts, curves=curves)


@pytest.mark.parametrize("luck", [(0.0, 0.0), (0.7, 0.4)])
def test_the_luck_that_regions_share_is_found_again(debuts, covariates, accelerator, luck):
    model = model_of()
    with torch.no_grad():
        model.members[0].head.project.bias[3:6] += 1.0
    found = []
    for seed in range(6):
        made = own_curves(model, covariates, debuts, luck, seed)
        assert (made.curves.state == BELOW).mean() < 0.3
        found.append(shared_luck(PathForecaster(model, covariates, None, accelerator, seed=seed), made))
    assert np.mean(found, axis=0) == pytest.approx(luck, abs=0.12)


def test_no_pair_of_regions_shares_no_luck(debuts, covariates, accelerator):
    one = debuts.chosen((debuts.rows["region"] == "US").to_numpy())
    assert shared_luck(PathForecaster(model_of(), covariates, None, accelerator), one) == [0.0, 0.0]


def test_a_model_is_calibrated_on_what_it_drew_itself_by_hardly_anything(debuts, covariates, accelerator):
    model = model_of()
    forecaster = PathForecaster(model, covariates, None, accelerator, 64)
    made = own_curves(model, covariates, debuts, (0.0, 0.0), 50)
    found = fit_calibration(forecaster, made, [0, HORIZON])
    assert abs(found.shift[""][0]) <= 0.09
    assert 0.7 < found.spread[""][0] < 1.3
    # Nothing was asked after the debut, so nothing is changed there.
    assert found.observed == (0,)


def test_a_model_remembers_what_a_forecast_without_the_dataset_needs(covariates, tmp_path):
    dataset, model = small_charts(), model_of()
    remember(model, dataset, covariates)
    model.save_pretrained(tmp_path)
    config = MP3Model.from_pretrained(tmp_path).config
    assert set(config.region_states) == set(config.rank_curves) == set(config.scales) == set(REGIONS)
    stored = stored_covariates(config)
    last = dataset.charts.sort_values("date").groupby("region").last()
    rows = pd.DataFrame(
        {
            "song_id": "new",
            "artist": "new",
            "region": list(REGIONS),
            "debut": pd.Timestamp("2021-06-03"),
            "observed": 0,
            "cutoff": pd.Timestamp("2021-05-27"),
        }
    )
    batch = stored.gather(rows)
    np.testing.assert_allclose(batch["floor"], last.loc[list(REGIONS), "floor"])
    ranks = RankCurves.from_last(config.rank_curves)
    for region in REGIONS:
        assert ranks.at(region, "2021-05-27").to_dict() == RankCurves.of(dataset).at(region, None).to_dict()
