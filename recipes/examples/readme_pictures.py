"""The pictures of the README: a model of the simulated market, its market and its report in, PNG files out.

    python recipes/examples/readme_pictures.py --data runs/market-2000-0 --model RUN/model --report RUN/report.json

Only songs of the simulated market are drawn. The report is that of recipes/evaluate.py on its test split.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from mp3model import Forecaster
from mp3model.audio.bank import SAMPLE_RATE, AudioBank
from mp3model.files import InputError, errors_in_one_line
from mp3model.serving.attribution import attributions
from mp3model.serving.plots import (
    attribution_picture,
    augmentation_picture,
    calibration_picture,
    error_by_observed_picture,
    region_comparison,
    save,
)
from mp3model.tables.folder import read_dataset

if __name__ != "__main__":
    raise ImportError("recipes/examples/readme_pictures.py is a script: run it with `python`")

# A repository is no place for large pictures.
MOST_BYTES = 120_000
parser = argparse.ArgumentParser(description="Draw the pictures of the README.")
parser.add_argument("--data", required=True, help="dataset folder of the simulated market")
parser.add_argument("--model", required=True, help="RUN/model of recipes/mp3.py, trained on it")
parser.add_argument("--report", required=True, help="report.json of recipes/evaluate.py --model")
parser.add_argument("--output_dir", default=".github/pictures", help="folder to write to (.github/pictures)")
arguments = parser.parse_args()

with errors_in_one_line():
    dataset = read_dataset(arguments.data)
    if dataset.info.get("sources") != ["simulated market"]:
        raise InputError(f"--data {arguments.data}: is no simulated market; songs of others are not drawn")
    if dataset.splits is None or dataset.curves is None:
        raise InputError(f"--data {arguments.data}: has no splits or curves; render the market again")
    folder = Path(arguments.output_dir)
    bank = AudioBank(dataset.path)
    report = json.loads(Path(arguments.report).read_text())
    forecaster = Forecaster.from_pretrained(arguments.model)

    # The first test song that came out everywhere in one week and stayed for eight in the largest region.
    debuts = dataset.splits[dataset.splits["split"] == "test"]
    first = debuts.groupby("track_id")["debut"].agg(["size", "nunique"])
    everywhere = first.index[(first["size"] == len(forecaster.regions)) & (first["nunique"] == 1)]
    region = "US"
    lives = dataset.curves[dataset.curves["region"] == region].groupby("track_id")["streams"].count()
    track = next(name for name in everywhere if lives.get(name, 0) >= 8 and len(bank.previews_of(name)))
    debut = pd.Timestamp(debuts.loc[debuts["track_id"] == track, "debut"].iloc[0])
    clip = bank.read(int(bank.previews_of(track)[0]))

    # Two weeks are known in one region, nothing yet in the other: the fans show both.
    own = dataset.curves[(dataset.curves["track_id"] == track) & (dataset.curves["region"] == region)]
    observed = own.sort_values("date").head(2)[["region", "date", "streams"]]
    release = str((debut - pd.Timedelta(days=6)).date())
    options = {"release": release, "samples": 1024, "data": arguments.data}
    before = forecaster.forecast((clip, SAMPLE_RATE), forecaster.regions, track_id="new song", **options)
    after = forecaster.forecast((clip, SAMPLE_RATE), [region, "GB"], observed=observed, track_id="new song", **options)

    save(before.plot(), folder / "fan.png", 100)
    save(after.plot(), folder / "fan_after_two_weeks.png", 120)
    save(region_comparison(before), folder / "regions.png")
    save(error_by_observed_picture(report), folder / "error_by_observed.png", 100)
    save(calibration_picture(report), folder / "calibration.png", 80)
    effects = attributions(forecaster, (clip, SAMPLE_RATE), forecaster.regions[:2], release, data=arguments.data)
    save(attribution_picture(np.asarray(clip), effects), folder / "attribution.png", 90)
    length = int(10.24 * SAMPLE_RATE)
    augmentation_picture({f"simulated {track}": np.asarray(clip)[:length]}, folder / "augmentation.png")
for path in sorted(folder.glob("*.png")):
    if path.stat().st_size > MOST_BYTES:
        # Fewer colours than a spectrogram has are enough to see it.
        image = Image.open(path).convert("RGB")
        image.thumbnail((760, 760))
        image.quantize(96).save(path, optimize=True)
    print(f"{path} {path.stat().st_size / 1024:.0f} KB")
