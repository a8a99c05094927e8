"""The songs a model learnt from, what it heard in them and their true curves, in; the ones most like a new song out.

A catalogue is two files beside a model: `catalogue.parquet`, a row a (song, region) with its title, artist, debut and
streams by period, and `catalogue.safetensors`, the songs' embeddings. It holds the user's own data: pass a model on
without it where those data may not be passed on; forecasts need none.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mp3model.evaluation.popularity import percentile
from mp3model.files import InputError, sha256_of, written_whole
from mp3model.model.modeling_mp3 import Audio

TABLE, TENSORS = "catalogue.parquet", "catalogue.safetensors"
FAR_QUANTILE = 0.99
_COLUMNS = ["song_id", "title", "artist", "region", "debut", "streams"]
_MEND = "write it again by mp3model.serving.comparables.write_catalogue, or remove both files"


def embedding_of(audio: Audio) -> Tensor:
    """What was heard of each song in one vector: (songs, 2 · width), the regions' mean state and the mean patch token.

    Args:
        audio: Of `MP3Model.listen`; the predictions behind each state are left out.
    """
    width = audio.tokens.shape[-1]
    # `listen` puts class and distillation tokens first, then the mean of all patches.
    return torch.cat([audio.states[..., :width].mean(dim=1), audio.tokens[:, 2]], dim=1)


def write_catalogue(
    folder: str | os.PathLike[str],
    song_ids: Sequence[str],
    titles: Sequence[str | None],
    artists: Sequence[str | None],
    embeddings: np.ndarray | None,
    rows: pd.DataFrame,
    streams: np.ndarray,
    held_out: np.ndarray | None = None,
) -> None:
    """Writes a model's catalogue; after a crash between its two files it is refused on reading.

    Args:
        folder: The model's.
        song_ids, titles, artists: (songs,) names; titles and artists may be missing.
        embeddings: (songs, width) of `embedding_of`, NaN for a song without audio; None where the model does not hear.
        rows: (curves,) `song_id, region, debut`.
        streams: (curves, periods) chart-observed streams, NaN where unknown.
        held_out: (other songs, width) embeddings of songs that the model did not learn from: the 99 % quantile of
            their distances to the nearest song of the catalogue tells what is far. None: nothing is called far.

    Raises:
        InputError: If lengths differ, a song is named twice, or a curve's song is not among `song_ids`.
    """
    folder, index = Path(folder), pd.Index(song_ids)
    values = np.empty((len(index), 0)) if embeddings is None else np.asarray(embeddings, dtype=np.float32)
    if not len(index) == len(titles) == len(artists) == len(values) or len(rows) != len(streams):
        raise InputError(
            f"{len(index)} songs with {len(titles)} titles, {len(artists)} artists and {len(values)} embeddings, "
            f"{len(rows)} curves with {len(streams)} rows of streams: give as many of each"
        )
    if index.has_duplicates:
        raise InputError(f"song {index[index.duplicated()][0]!r} is named twice; give each song once")
    place = index.get_indexer(pd.Index(rows["song_id"]))
    if (place < 0).any():
        raise InputError(f"song {rows['song_id'].iloc[int((place < 0).argmax())]!r} has a curve but no name; add it")
    table = pd.DataFrame(
        {
            "song_id": rows["song_id"].to_numpy(),
            "title": pd.Series(list(titles), dtype="str").to_numpy()[place],
            "artist": pd.Series(list(artists), dtype="str").to_numpy()[place],
            "region": rows["region"].to_numpy(),
            "debut": pd.to_datetime(rows["debut"].to_numpy()),
            "streams": list(np.asarray(streams, dtype=np.float32)),
        }
    )
    order = np.lexsort((rows["region"].to_numpy(dtype=object).astype(str), place))
    kept = np.unique(place)
    table, values = table.iloc[order].reset_index(drop=True), values[kept]
    heard = ~np.isnan(values).any(axis=1)
    spread = values[heard].std(axis=0) if heard.any() else np.ones(values.shape[1])
    tensors = {
        "embeddings": values.astype(np.float32),
        "spread": np.where(spread > 1e-6, spread, 1.0).astype(np.float32),
    }
    far = np.nan
    if held_out is not None and len(held_out) and heard.any():
        nearest = [_distances(tensors, np.asarray(one))[heard].min() for one in held_out]
        far = float(np.quantile(nearest, FAR_QUANTILE))
    _write(folder, table, tensors, far)


def _write(folder: Path, table: pd.DataFrame, tensors: dict[str, np.ndarray], far: float) -> None:
    from safetensors.numpy import save_file

    with written_whole(folder / TABLE) as first, written_whole(folder / TENSORS) as second:
        table.to_parquet(first, index=False)
        # A number a tensor: two entries of metadata are written in an order that differs from process to process.
        save_file(tensors | {"far": np.array([far])}, second, {"table": sha256_of(first)})


def _distances(tensors: dict[str, np.ndarray], embedding: np.ndarray) -> np.ndarray:
    """Root mean square difference in standard deviations of the catalogue: (songs,), NaN for a song without audio."""
    return np.sqrt(np.square((tensors["embeddings"] - embedding) / tensors["spread"]).mean(axis=1))


@dataclass(frozen=True)
class Catalogue:
    """The songs a model learnt from.

    Attributes:
        table: `song_id, title, artist, region, debut, streams`, a song's rows together.
        songs: (songs,) names, in the order of the embeddings.
        tensors: `embeddings` (songs, width) and their standard deviation, `spread` (width,).
        far: Distance to the nearest song that one in a hundred held-out songs exceeds; NaN where unknown.
    """

    table: pd.DataFrame
    songs: pd.Index
    tensors: dict[str, np.ndarray]
    far: float
    _totals: dict[tuple[str, int | None], np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    @staticmethod
    def beside(folder: str | os.PathLike[str]) -> bool:
        """Whether a model's folder has a catalogue, whole or not."""
        return (Path(folder) / TABLE).exists() or (Path(folder) / TENSORS).exists()

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> Catalogue:
        """What `write_catalogue` wrote.

        Raises:
            InputError: If a file is missing or damaged, or the two do not belong together.
        """
        from safetensors import SafetensorError, safe_open

        folder = Path(folder)
        for name in (TABLE, TENSORS):
            if not (folder / name).is_file():
                raise InputError(f"{folder / name}: no such file, so the catalogue beside it is not whole; {_MEND}")
        try:
            table = pd.read_parquet(folder / TABLE, columns=_COLUMNS)
        except (OSError, ValueError) as error:
            raise InputError(
                f"{folder / TABLE}: not a readable catalogue ({str(error).splitlines()[0]}); {_MEND}"
            ) from error
        try:
            with safe_open(folder / TENSORS, framework="numpy") as file:
                tensors = {name: file.get_tensor(name) for name in ("embeddings", "spread")}
                about = file.metadata() or {}
                # Models of before have it in the metadata.
                told = json.loads(about["far"]) if "far" in about else float(file.get_tensor("far")[0])
        except (SafetensorError, OSError) as error:
            raise InputError(f"{folder / TENSORS}: not a readable catalogue ({error}); {_MEND}") from error
        if about.get("table") != sha256_of(folder / TABLE):
            raise InputError(f"{folder / TENSORS}: does not belong to the {TABLE} beside it; {_MEND}")
        songs = pd.Index(table["song_id"].drop_duplicates())
        return cls(table, songs, tensors, np.nan if told is None else float(told))

    def nearest(self, embedding: np.ndarray, n: int = 5) -> pd.DataFrame:
        """The n songs that sound most alike: `place, song_id, title, artist, distance`, nearest first.

        Args:
            embedding: (width,) of `embedding_of`.
            n: How many; fewer where the catalogue has fewer with audio.

        Raises:
            InputError: If the embedding is of another width: the catalogue is another model's.
        """
        width = self.tensors["embeddings"].shape[1]
        if np.shape(embedding) != (width,):
            raise InputError(f"an embedding of shape {np.shape(embedding)} for a catalogue of width {width}; {_MEND}")
        distance = _distances(self.tensors, np.asarray(embedding)) if width else np.full(len(self.songs), np.nan)
        order = np.argsort(distance, kind="stable")[: min(n, int((~np.isnan(distance)).sum()))]
        about = self.table.drop_duplicates("song_id").set_index("song_id")
        found = about.loc[self.songs[order], ["title", "artist"]].reset_index()
        found.insert(0, "place", np.arange(1, len(order) + 1))
        return found.assign(distance=distance[order])

    def curves(self, song_ids: Sequence[str], regions: Sequence[str]) -> pd.DataFrame:
        """True curves of some songs in some regions: `song_id, region, debut, streams` (each an array of periods)."""
        rows = self.table[self.table["song_id"].isin(list(song_ids)) & self.table["region"].isin(list(regions))]
        return rows[["song_id", "region", "debut", "streams"]].reset_index(drop=True)

    def percentile_of(self, totals: np.ndarray, region: str, periods: int | None = None) -> np.ndarray:
        """Place of totals among those of the catalogue in a region, 0 to 100; NaN where it has none there.

        Args:
            totals: Streams, of any shape.
            region: Where.
            periods: Of the totals, from the debut on; None is the whole curve.
        """
        key = (region, periods)
        if key not in self._totals:
            rows = self.table[self.table["region"] == region]
            known = np.array([np.sum(curve[:periods]) for curve in rows["streams"]], dtype=float)
            self._totals[key] = known[~np.isnan(known)]
        known = self._totals[key]
        return percentile(totals, known) if len(known) else np.full(np.shape(totals), np.nan)
