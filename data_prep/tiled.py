"""A number of tracks in; a dataset folder as large as that out, whose audio is a few shards under many names.

    python -m data_prep.tiled --out DIR --tracks 100000

For trials of scale: 100,000 tracks of half a minute look to every reader like 96 GB of audio and take less than 1 GB
of disk, as every shard is a hard link to one of `DISTINCT`. Waveforms are tiled noises and tones; a track's totals
follow its pitch, so that there is something to learn. What such a folder cannot show is a disk slower than memory: its
shards share the system's cache.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mp3model.files import InputError, errors_in_one_line

if TYPE_CHECKING:
    import numpy as np

CLIPS_A_SHARD = 32
DISTINCT = 4
REGIONS = ("US", "GB")


def write_tiled(out: Path, tracks: int, seconds: float = 30.0, seed: int = 0) -> None:
    """Writes the folder: tracks, targets, splits and an audio bank with one preview a track.

    Args:
        out: made if absent; shards that are there are replaced.
        tracks: how many.
        seconds: length of each clip.
        seed: of waveforms and targets.
    """
    import numpy as np
    import pandas as pd

    from mp3model.audio.bank import shard_name, write_index, write_shard
    from mp3model.tables.folder import write_dataset

    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; give --out another folder")
    out.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    shards = -(-tracks // CLIPS_A_SHARD)
    pitch = np.exp(generator.uniform(np.log(110), np.log(1760), (DISTINCT, CLIPS_A_SHARD)))
    firsts = []
    for shard in range(min(shards, DISTINCT)):
        (out / shard_name(shard)).unlink(missing_ok=True)
        waves = [_tiled_wave(value, seconds, generator) for value in pitch[shard]]
        firsts.append(write_shard(out, shard, ((str(number), 0, wave) for number, wave in enumerate(waves))))
    for shard in range(DISTINCT, shards):
        path = out / shard_name(shard)
        path.unlink(missing_ok=True)
        os.link(out / shard_name(shard % DISTINCT), path)
    index = pd.concat([firsts[shard % DISTINCT].assign(shard=shard) for shard in range(shards)], ignore_index=True)
    index = index.iloc[:tracks].assign(track_id=[f"track-{number:08d}" for number in range(tracks)])
    write_index(out, index)
    places = np.arange(tracks)
    write_dataset(out, **_tables(pitch[places // CLIPS_A_SHARD % DISTINCT, places % CLIPS_A_SHARD], generator))


def _tiled_wave(pitch: float, seconds: float, generator: np.random.Generator) -> np.ndarray:
    import numpy as np

    from mp3model.audio.bank import SAMPLE_RATE, to_int16

    time = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    beat = np.exp(-8 * (time % 0.5)) * np.sin(2 * np.pi * pitch * time) + 0.05 * generator.normal(size=SAMPLE_RATE)
    return to_int16(0.3 * np.resize(beat, int(seconds * SAMPLE_RATE)))


def _tables(pitch: np.ndarray, generator: np.random.Generator) -> dict[str, Any]:
    import numpy as np
    import pandas as pd

    tracks = len(pitch)
    names = np.array([f"track-{number:08d}" for number in range(tracks)], dtype=object)
    log_total = 5 + np.log2(pitch / 440)[:, None] + 0.3 * generator.normal(size=(tracks, len(REGIONS)))
    rows = pd.DataFrame({"track_id": np.repeat(names, len(REGIONS)), "region": np.tile(np.array(REGIONS), tracks)})
    artist = [f"Artist {number // 4}" for number in range(tracks)]
    split = np.where(np.arange(tracks) % 10 < 8, "train", np.where(np.arange(tracks) % 10 < 9, "validation", "test"))
    about = {"track_id": names, "song_id": names, "title": names, "artist": artist, "isrc": None}
    rank = np.clip(200 - 30 * (log_total - 3), 1, 200).round()
    unknown = np.datetime64("NaT", "s")
    return {
        "tracks": pd.DataFrame(about).assign(release_date=unknown),
        "targets": rows.assign(total=(10**log_total).ravel(), debut_rank=rank.ravel().astype(int)),
        "splits": rows.assign(debut=unknown, split=np.repeat(split, len(REGIONS))),
        "info": {"frequency": "W", "sources": [f"tiled, {tracks} tracks"]},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.tiled",
        description=(__doc__ or "").split("\n\n", 1)[1],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the dataset folder")
    parser.add_argument("--tracks", type=int, default=100_000, help="how many (100000)")
    parser.add_argument("--seconds", type=float, default=30.0, help="length of each clip (30)")
    parser.add_argument("--seed", type=int, default=0, help="of waveforms and targets (0)")
    options = parser.parse_args(arguments)
    with errors_in_one_line():
        if options.tracks < 1 or options.seconds <= 0:
            raise InputError(f"--tracks {options.tracks} --seconds {options.seconds:g}: both must be above 0")
        write_tiled(options.out, options.tracks, options.seconds, options.seed)
    print(f"{options.out}: {options.tracks:,} tracks of {options.seconds:g} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
