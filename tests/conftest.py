"""What several test files share: the shared data folder if there is one, and one small dataset made once."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest

# A busy machine is no fault of what is tested (pyproject.toml chooses this profile).
hypothesis.settings.register_profile("patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
# Under mutation testing one counterexample kills a mutant; searching for the smallest one would cost most of the time.
hypothesis.settings.register_profile(
    "mutation",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=25,
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
)

# Two test processes on two cores must not fight over them, and one thread is what the recipes run with.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"


@pytest.fixture(autouse=True)
def one_thread():
    """Thread counts change the order of sums, and with it the last digits that some tests compare."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_audio() -> Path:
    """Real clips beside the repository; tests that need them are skipped where they are absent."""
    folder = SHARED / "data" / "audio"
    if not folder.is_dir():
        pytest.skip("no real clips beside the repository")
    return folder


@pytest.fixture(scope="session")
def small_dataset(tmp_path_factory) -> Path:
    """48 songs by 16 artists, one to three previews each: noise whose colour tells total and debut rank."""
    import numpy as np
    import pandas as pd

    from mp3model.audio.bank import to_int16, write_index, write_shard
    from mp3model.tables.folder import read_dataset, write_dataset
    from mp3model.tables.splits import make_splits

    folder = tmp_path_factory.mktemp("small")
    generator = np.random.default_rng(0)
    names = [f"song-{number:02d}" for number in range(48)]
    colour = generator.uniform(0.0, 0.95, len(names))
    clips = []
    for number, name in enumerate(names):
        for preview in range(1 + number % 3):
            noise = generator.normal(size=40_000) * 0.1
            for place in range(1, len(noise)):
                noise[place] += colour[number] * noise[place - 1]
            clips.append((name, preview, to_int16(np.clip(noise / noise.std() * 0.1, -1, 1))))
    write_index(folder, write_shard(folder, 0, clips))
    tracks = pd.DataFrame(
        {
            "track_id": names,
            "song_id": names,
            "title": [name.title() for name in names],
            "artist": [f"Artist {number // 3}" for number in range(len(names))],
            "isrc": None,
            "release_date": pd.NaT,
        }
    )
    rows = [
        {
            "track_id": name,
            "region": region,
            "total": 10 ** (4 + sign * 2 * (colour[number] - 0.5) + size + 0.1 * generator.normal()),
            "debut_rank": None if number == 5 else int(100 - 90 * colour[number]),
        }
        for number, name in enumerate(names)
        for region, sign, size in (("US", 1, 1.0), ("GB", -1, 0.0))
        if not (number == 7 and region == "GB")
    ]
    write_dataset(folder, tracks=tracks, targets=pd.DataFrame(rows), info={"frequency": "W", "sources": ["made"]})
    dataset = read_dataset(folder)
    write_dataset(
        folder,
        tracks=dataset.tracks,
        targets=dataset.targets,
        splits=make_splits(dataset),
        info={"frequency": "W", "sources": ["made"]},
    )
    return folder
