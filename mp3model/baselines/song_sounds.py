"""A dataset with an audio bank in; what the networks of sound take of each song out, a row a song.

A song is heard by one clip, the first preview of its earliest released track with audio. What was computed of a clip is
kept for the life of the process by the clip's digest, so that a table of many systems listens once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from mp3model.audio.bank import AudioBank
from mp3model.baselines.autoenchorder import frame_statistics
from mp3model.baselines.descriptors import descriptors
from mp3model.baselines.jynet import Tagger, load_tagger
from mp3model.baselines.kkbox_frontend import kkbox_mel
from mp3model.baselines.spectrogram_cnn import spectrogram_image
from mp3model.files import InputError
from mp3model.tables.folder import DatasetFolder

# Of a kind: arrays by digest; and stacks of them, whose rows these then are.
_FOUND: dict[tuple[str, str], np.ndarray] = {}
_STACKS: dict[tuple[str, ...], np.ndarray] = {}
_TAGGERS: dict[str, Tagger] = {}
_KINDS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mel": kkbox_mel,
    "image": spectrogram_image,
    "colour image": lambda samples: spectrogram_image(samples, colour=True),
    "descriptors": descriptors,
    "frames": frame_statistics,
}


def forget() -> None:
    """Drops what was kept of clips."""
    _FOUND.clear()
    _STACKS.clear()


@dataclass(frozen=True)
class SongSounds:
    """The sound of a dataset's songs.

    Attributes:
        dataset: With tracks and an audio bank; where it has splits, only songs with a kept debut are heard.
    """

    dataset: DatasetFolder

    @cached_property
    def bank(self) -> AudioBank:
        return AudioBank(self.dataset.path)

    @cached_property
    def clips(self) -> pd.Series:
        """Row of the bank of each song with audio: index `song_id`, sorted."""
        tracks = self.dataset.tracks
        if self.dataset.splits is not None:
            kept = tracks.loc[tracks["track_id"].isin(self.dataset.splits["track_id"]), "song_id"]
            tracks = tracks[tracks["song_id"].isin(kept)]
        ordered = tracks.sort_values(["song_id", "release_date", "track_id"], kind="stable")
        found: dict[str, int] = {}
        for song, track in zip(ordered["song_id"], ordered["track_id"], strict=True):
            clips = self.bank.previews_of(track)
            if song not in found and len(clips):
                found[str(song)] = int(clips[0])
        if not found:
            raise InputError(f"{self.dataset.path}: no song with a kept debut has a clip in the bank; build it anew")
        return pd.Series(found)

    @property
    def songs(self) -> list[str]:
        """Names of the songs with audio; every array here has their order."""
        return [str(song) for song in self.clips.index]

    def of(self, kind: str, kkbox: str | None = None) -> list[np.ndarray]:
        """An array a song.

        Args:
            kind: `mel`, `image`, `colour image`, `descriptors`, `frames` or `tags`.
            kkbox: Folder of the published KKBOX weights, for `tags`.
        """
        compute = self._tags(kkbox) if kind == "tags" else _KINDS[kind]
        keys = self._keys(kind, kkbox)
        for key, clip in zip(keys, self.clips, strict=True):
            if key not in _FOUND:
                _FOUND[key] = compute(self.bank.read(clip))
        return [_FOUND[key] for key in keys]

    def stacked(self, kind: str, kkbox: str | None = None) -> np.ndarray:
        """(songs, …), the same array at every call, which nobody may write; arguments as in `of`."""
        keys = self._keys(kind, kkbox)
        name = (keys[0][0], *(digest for _, digest in keys))
        if name not in _STACKS:
            stack = np.stack(self.of(kind, kkbox))
            stack.flags.writeable = False
            _STACKS[name] = stack
            # Mels of a catalogue are hundreds of megabytes: what was stacked is not kept twice.
            _FOUND.update(zip(keys, stack, strict=True))
        return _STACKS[name]

    def _keys(self, kind: str, kkbox: str | None) -> list[tuple[str, str]]:
        digests = self.bank.index["sha256"].to_numpy()
        return [(kind if kkbox is None else f"{kind} {kkbox}", str(digests[clip])) for clip in self.clips]

    def columns(self) -> np.ndarray:
        """(songs, columns) of `described`; perhaps no columns."""
        return described(self.dataset).reindex(self.songs).to_numpy(dtype=float)

    @staticmethod
    def _tags(kkbox: str | None) -> Callable[[np.ndarray], np.ndarray]:
        if kkbox is None:
            raise InputError("tags need the published KKBOX tagger; give the folder of its weights")
        if kkbox not in _TAGGERS:
            _TAGGERS[kkbox] = load_tagger(kkbox)
        return _TAGGERS[kkbox].loadings


def described(dataset: DatasetFolder) -> pd.DataFrame:
    """`x_*` columns by song, the means over its tracks: index `song_id`; NaN where no track has a value."""
    names = [name for name in dataset.tracks if str(name).startswith("x_")]
    return dataset.tracks.groupby("song_id", sort=True)[names].mean()
