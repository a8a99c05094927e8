"""The catalogue beside a model: what is written comes back, neighbours are the nearest, halves are refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_model import write_model

from mp3model import Forecaster
from mp3model.files import InputError
from mp3model.model.modeling_mp3 import Audio
from mp3model.serving.comparables import Catalogue, embedding_of, write_catalogue

SONGS = ["a", "b", "c", "d"]


def rows(songs=SONGS, regions=("US", "GB")) -> pd.DataFrame:
    return pd.DataFrame(
        [(song, region, pd.Timestamp("2024-01-04")) for region in regions for song in songs],
        columns=["song_id", "region", "debut"],
    )


def written(folder, embeddings, held_out=None, **different):
    given = {"song_ids": SONGS, "titles": ["A", None, "C", "D"], "artists": list("wxyz")} | different
    streams = np.arange(1, 9)[:, None] * np.array([[100.0, 50.0, 0.0]])
    write_catalogue(folder, embeddings=embeddings, rows=rows(), streams=streams, held_out=held_out, **given)
    return Catalogue.read(folder)


def test_neighbours_are_the_nearest_in_standard_deviations_of_the_catalogue(tmp_path):
    embeddings = np.array([[0.0, 0], [1, 0], [0, 1000], [2, 2000]])
    catalogue = written(tmp_path, embeddings)
    found = catalogue.nearest(np.array([0.9, 0.0]), 3)
    assert found["song_id"].tolist() == ["b", "a", "c"]
    assert found["place"].tolist() == [1, 2, 3]
    spread = embeddings.std(axis=0)
    expected = np.sqrt(np.mean((np.array([0.9, 0]) / spread) ** 2))
    assert found["distance"][1] == pytest.approx(expected, rel=1e-5)
    assert found["artist"].tolist() == ["x", "w", "y"]
    assert found["title"].isna().tolist() == [True, False, False]
    assert len(catalogue.nearest(np.zeros(2), 9)) == 4


def test_true_curves_and_percentiles_are_those_given(tmp_path):
    catalogue = written(tmp_path, None)
    assert catalogue.curves(["b"], ["GB"])["streams"][0].tolist() == [600, 300, 0]
    assert catalogue.percentile_of(np.array([0.0, 151.0, 1e9]), "US").tolist() == [0, 25, 100]
    assert np.isnan(catalogue.percentile_of(np.array([1.0]), "DE")).all()
    assert len(catalogue.nearest(np.empty(0))) == 0


def test_songs_without_audio_are_nobodys_neighbours(tmp_path):
    catalogue = written(tmp_path, np.array([[0.0], [1], [np.nan], [5]]))
    assert catalogue.nearest(np.array([0.0]), 9)["song_id"].tolist() == ["a", "b", "d"]


def test_far_is_what_one_in_a_hundred_held_out_songs_exceeds(tmp_path):
    embeddings = np.array([[0.0], [1], [2], [3]])
    held_out = np.linspace(3, 4, 101)[:, None]
    catalogue = written(tmp_path, embeddings, held_out)
    assert catalogue.far == pytest.approx(0.99 / embeddings.std(), rel=1e-5)
    assert np.isnan(written(tmp_path, embeddings).far)


def test_a_catalogue_of_which_half_is_missing_damaged_or_new_is_refused(tmp_path):
    written(tmp_path / "one", np.zeros((4, 1)))
    written(tmp_path / "two", np.ones((4, 1)), titles=list("efgh"))
    (tmp_path / "one" / "catalogue.safetensors").write_bytes((tmp_path / "two" / "catalogue.safetensors").read_bytes())
    with pytest.raises(InputError, match="does not belong"):
        Catalogue.read(tmp_path / "one")
    (tmp_path / "one" / "catalogue.safetensors").write_bytes(b"no tensors")
    with pytest.raises(InputError, match="not a readable catalogue"):
        Catalogue.read(tmp_path / "one")
    (tmp_path / "two" / "catalogue.parquet").unlink()
    assert Catalogue.beside(tmp_path / "two")
    with pytest.raises(InputError, match="no such file"):
        Catalogue.read(tmp_path / "two")


@pytest.mark.parametrize(
    ("different", "message"),
    [
        ({"titles": ["A"]}, "as many of each"),
        ({"song_ids": ["a", "b", "c", "c"]}, "'c' is named twice"),
        ({"song_ids": ["a", "b", "c", "e"]}, "'d' has a curve but no name"),
    ],
)
def test_a_catalogue_that_does_not_fit_together_is_not_written(tmp_path, different, message):
    with pytest.raises(InputError, match=message):
        written(tmp_path, None, **different)
    assert not Catalogue.beside(tmp_path)


def test_an_embedding_holds_states_without_predictions_and_the_mean_patch():
    tokens = torch.arange(2 * 5 * 3.0).reshape(2, 5, 3)
    states = torch.tensor([[[1.0, 2, 3, 99], [3, 4, 5, 99]], [[0, 0, 0, 99], [0, 0, 0, 99]]])
    found = embedding_of(Audio(tokens, states))
    assert found.tolist() == [[2, 3, 4, 6, 7, 8], [0, 0, 0, 21, 22, 23]]


def test_a_forecast_shows_the_songs_most_alike_its_place_among_them_and_whether_it_is_far(tmp_path):
    folder = write_model(tmp_path / "model")
    forecaster = Forecaster.from_pretrained(folder, "cpu")
    length = forecaster.model.config.samples
    random = np.random.default_rng(0)
    noise = {name: random.normal(size=2 * length) * 0.05 * (1 + place) for place, name in enumerate(SONGS)}
    heard = {
        name: forecaster._hear(pd.DataFrame({"track_id": [name]}), [(clip, 16_000)])[2][0]
        for name, clip in noise.items()
    }
    embeddings = np.stack(list(heard.values()))
    streams = np.arange(1, 9)[:, None] * np.full((1, 12), 1e6)
    write_catalogue(folder, SONGS, SONGS, SONGS, embeddings, rows(), streams, embeddings + 1e-4)
    forecaster = Forecaster.from_pretrained(folder, "cpu")
    tracks = pd.DataFrame({"track_id": ["new", "mute"], "path": [(noise["c"], 16_000), None]})
    found = forecaster.forecast(tracks, ["GB", "DE"], "2026-12-04", samples=16)
    alike = found.comparables
    assert set(alike["track_id"]) == {"new"}
    assert set(alike["region"]) == {"GB"}
    first = alike[alike["place"] == 1]
    assert first["song_id"].unique().tolist() == ["c"]
    assert first["distance"].max() < 1e-3
    assert first["streams"].tolist() == [7e6] * 12
    assert str(first["date"].iloc[1])[:10] == "2024-01-11"
    place = found.percentiles.set_index(["track_id", "region"])["0.5"]
    assert 0 <= place["new", "GB"] <= 100
    assert np.isnan(place["new", "DE"])
    tone = np.sin(np.arange(2 * length) * 0.3)
    far = forecaster.forecast((tone, 16_000), ["GB"], "2026-12-04", samples=8).flags
    assert "unlike_training" in far["code"].tolist()
    assert "unlike_training" not in found.flags["code"].tolist()
