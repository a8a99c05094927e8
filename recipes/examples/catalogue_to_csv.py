"""A folder of songs in; one CSV out, a row a song and region, those with most streams first.

python recipes/examples/catalogue_to_csv.py FOLDER --model RUN/model --region US --region GB --output songs.csv
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from mp3model import Forecaster
from mp3model.files import InputError, errors_in_one_line
from mp3model.serving.result import write_table

if __name__ != "__main__":
    raise ImportError("recipes/examples/catalogue_to_csv.py is a script: run it with `python`")

SUFFIXES = {".mp3", ".m4a", ".aac", ".ogg", ".flac", ".wav", ".aiff"}
parser = argparse.ArgumentParser(description="Forecast all songs of a folder and rank them.")
parser.add_argument("folder", help="audio files")
parser.add_argument("--model", required=True, help="RUN/model of recipes/mp3.py")
parser.add_argument("--region", action="append", help="ISO 3166 code; repeat for more; none is all that are known")
parser.add_argument("--release", default="2026-12-04", help="YYYY-MM-DD, of all songs (2026-12-04)")
parser.add_argument("--output", default="songs.csv", help="CSV or parquet to write (songs.csv)")
arguments = parser.parse_args()

with errors_in_one_line():
    files = sorted(path for path in Path(arguments.folder).rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise InputError(f"{arguments.folder}: no audio file in it; give a folder of songs")
    forecaster = Forecaster.from_pretrained(arguments.model)
    forecast = forecaster.forecast(pd.DataFrame({"path": files}), arguments.region, arguments.release)

    # A metric a column: its median, and for the total the 80 % interval beside it.
    medians = forecast.popularity.pivot(index=["track_id", "region"], columns="metric", values="0.5")
    total = forecast.popularity.query("metric == 'sum'").set_index(["track_id", "region"])[["0.1", "0.9"]]
    chances = forecast.chances(milestones=[1e6], tops=[50]).query("question in ['sum_above', 'top']")
    chance = chances.pivot(index=["track_id", "region"], columns="question", values="probability")
    table = medians[["sum", "debut", "length", "debut_rank"]].join(total.rename(columns={"0.1": "low", "0.9": "high"}))
    table = table.join(chance.rename(columns={"sum_above": "chance of a million", "top": "chance of the top 50"}))
    flags = forecast.flags.groupby("track_id")["code"].agg(lambda codes: " ".join(sorted(set(codes))))
    table = table.reset_index().assign(flags=lambda rows: rows["track_id"].map(flags).fillna(""))
    table = table.sort_values(["region", "sum"], ascending=[True, False], ignore_index=True)
    write_table(table, arguments.output)

print(table.to_string(index=False, float_format=lambda value: f"{value:,.3g}"))
print(f"wrote {arguments.output}")
