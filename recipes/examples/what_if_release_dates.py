"""One song and several release dates in; what each date would bring in each region, by the same luck, out.

python recipes/examples/what_if_release_dates.py song.mp3 --model RUN/model --from 2026-11-27 --weeks 8
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from mp3model import Forecaster
from mp3model.files import InputError, errors_in_one_line
from mp3model.serving.observed import parsed_date
from mp3model.serving.result import readable

if __name__ != "__main__":
    raise ImportError("recipes/examples/what_if_release_dates.py is a script: run it with `python`")

parser = argparse.ArgumentParser(description="Forecast one song for several release dates.")
parser.add_argument("audio", help="mp3, m4a, aac, ogg, flac, wav or aiff")
parser.add_argument("--model", required=True, help="RUN/model of recipes/mp3.py")
parser.add_argument("--region", action="append", help="ISO 3166 code; repeat for more; none is all that are known")
parser.add_argument("--from", dest="first", default="2026-11-27", help="first date, YYYY-MM-DD (2026-11-27)")
parser.add_argument("--weeks", type=int, default=8, help="dates, a week apart (8)")
arguments = parser.parse_args()

with errors_in_one_line():
    if not 1 <= arguments.weeks <= 200:
        raise InputError(f"--weeks {arguments.weeks}: give from 1 to 200")
    if not Path(arguments.audio).is_file():
        raise InputError(f"{arguments.audio}: no such file")
    dates = pd.date_range(str(parsed_date(arguments.first, "--from")), periods=arguments.weeks, freq="7D")
    forecaster = Forecaster.from_pretrained(arguments.model)
    # The same seed gives each date the same luck, so that what differs between two dates is the date.
    parts = []
    for date in dates:
        forecast = forecaster.forecast(arguments.audio, arguments.region, str(date.date()), seed=0)
        parts.append(forecast.popularity.query("metric == 'sum'").assign(release=date.date()))

totals = pd.concat(parts, ignore_index=True)
said = totals.assign(
    total=[
        f"{readable(middle)} ({readable(low)} to {readable(high)})"
        for low, middle, high in totals[["0.1", "0.5", "0.9"]].itertuples(index=False)
    ]
)
print(said.pivot(index="release", columns="region", values="total").to_string())
best = totals.loc[totals.groupby("region")["0.5"].idxmax()]
for region, date, middle in best[["region", "release", "0.5"]].itertuples(index=False):
    print(f"{region}: most on {date}, {readable(middle)}; the intervals are wider than most steps between dates")
