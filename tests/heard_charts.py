"""A folder in; the small charts with an audio bank of short noise out, whose colour tells how large a song became."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from small_charts import small_charts

from mp3model.audio.bank import to_int16, write_index, write_shard
from mp3model.tables.folder import DatasetFolder

SECONDS = 2.0
# Every eleventh song has no audio.
SILENT = 11


def heard_charts(folder: Path) -> DatasetFolder:
    """Writes the bank and gives the dataset, whose other tables are in memory alone."""
    dataset = small_charts()
    assert dataset.curves is not None
    streams = dataset.curves.assign(
        song_id=dataset.curves["track_id"].map(dataset.tracks.set_index("track_id")["song_id"])
    )
    appeal = np.log10(streams.groupby("song_id")["streams"].max())
    generator = np.random.default_rng(0)
    clips = []
    for song, track in dataset.tracks[["song_id", "track_id"]].itertuples(index=False):
        colour = float(np.clip(0.2 + 0.15 * (appeal.get(song, 4.0) - 3.0), 0.0, 0.9))
        noise = generator.normal(size=int(SECONDS * 16_000))
        spectrum = np.fft.rfft(noise) * (np.arange(len(noise) // 2 + 1) + 1.0) ** -colour
        sound = np.fft.irfft(spectrum, len(noise))
        if int(song.removeprefix("song-")) % SILENT:
            clips.append((track, 0, to_int16(np.clip(0.1 * sound / sound.std(), -1, 1))))
    index = write_shard(folder, 0, clips)
    write_index(folder, index)
    return replace(dataset, path=folder, previews=index)
