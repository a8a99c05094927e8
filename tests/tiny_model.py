"""A folder in; a tiny untrained MP3 model in it, with made-up charts, for tests of what is built on models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

REGIONS = ("US", "GB", "DE")
FLOORS = {"US": 800_000.0, "GB": 120_000.0, "DE": 150_000.0}
LAST_CHART = "2026-11-19"


def region_state(date: str, floor: float, lowest: float) -> dict[str, Any]:
    """What a model remembers of one region."""
    from mp3model.tables.history import STATE_FEATURES

    values = {
        "log_floor": np.log10(floor),
        "log_lowest": np.log10(lowest / floor),
        "log_size": np.log10(200),
        "mean_total": 0.9,
        "spread_total": 0.8,
        "mean_length": 0.4,
        "share_of_one": 0.3,
        "mean_debut": 0.15,
        "arrivals": 2.5,
    }
    return {"date": date, "floor": floor, "values": [float(values.get(name, 0.0)) for name in STATE_FEATURES]}


def write_model(folder: Path, **different: Any) -> Path:
    """Writes the model and gives its folder back; keyword arguments go into its configuration."""
    import torch

    from mp3model.config import MP3Config
    from mp3model.model.modeling_mp3 import MP3Model

    torch.manual_seed(0)
    ranks = {
        region: {
            "region": region,
            "date": LAST_CHART,
            "size": 200,
            "rank": [1.0, 10.0, 50.0, 200.0],
            "streams": [floor * 30, floor * 8, floor * 2.5, floor * 0.97],
        }
        for region, floor in FLOORS.items()
    }
    config = {
        "regions": list(REGIONS),
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "frames": 128,
        "decoder_width": 32,
        "decoder_layers": 1,
        "decoder_heads": 4,
        "horizon": 12,
        "region_states": {region: region_state(LAST_CHART, floor, 0.97 * floor) for region, floor in FLOORS.items()},
        "scales": FLOORS,
        "rank_curves": ranks,
        "shared_luck": [0.5, 0.2],
        "calibration": {"shift": {"": [0.02, 0.0]}, "spread": {"": [1.1, 1.0]}},
    } | different
    model = MP3Model(MP3Config(**config))
    with torch.no_grad():
        # Its own start gives every row the same forecast, which would hide what does not reach it.
        for member in model.members:
            member.head.project.weight.normal_(0, 0.1)
            member.context.mean.fill_(0.1)
    model.save_pretrained(folder)
    return folder


def charts_dataset(folder: Path, last: str = "2024-06-27", weeks: int = 40, more: pd.DataFrame | None = None) -> Path:
    """Writes a dataset of weekly charts of US and GB: 20 songs by 10 artists, one new a fortnight; and `more` rows."""
    from mp3model.tables.folder import write_dataset

    dates = pd.date_range(end=last, periods=weeks, freq="7D")
    random = np.random.default_rng(0)
    rows, songs = [], range(20)
    for song in songs:
        for region in ("US", "GB"):
            for age, date in enumerate(dates[2 * song :][:10]):
                streams = FLOORS[region] * 10 ** (1.2 - 0.1 * age + 0.1 * random.normal())
                rows.append((f"track-{song:02d}", region, date, streams, None))
    curves = pd.DataFrame(rows, columns=["track_id", "region", "date", "streams", "rank"])
    if more is not None:
        curves = pd.concat([curves, more], ignore_index=True)
    days = curves["date"].drop_duplicates().sort_values()
    charts = pd.DataFrame(
        [(region, day, FLOORS[region], 0.97 * FLOORS[region], 200) for region in ("US", "GB") for day in days],
        columns=["region", "date", "floor", "lowest", "size"],
    )
    if more is not None:
        charts.loc[charts["date"] > pd.Timestamp(last), ["floor", "lowest"]] *= 7.0
    names = curves["track_id"].drop_duplicates()
    number = names.str.removeprefix("track-").astype(int)
    tracks = pd.DataFrame(
        {
            "track_id": names,
            "song_id": names,
            "title": names,
            "artist": [f"Artist {value % 10}" for value in number],
            "isrc": None,
            "release_date": pd.NaT,
        }
    )
    write_dataset(folder, tracks=tracks, curves=curves, charts=charts, info={"frequency": "W", "sources": ["made"]})
    return folder
