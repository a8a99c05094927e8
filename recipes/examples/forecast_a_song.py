"""One song in some regions: before release, and again once two weeks are known.

python recipes/examples/forecast_a_song.py song.mp3 --model RUN/model --region US --release 2026-12-04
"""

from __future__ import annotations

import argparse

import pandas as pd

from mp3model import Forecaster
from mp3model.files import errors_in_one_line
from mp3model.serving.result import readable

if __name__ != "__main__":
    raise ImportError("recipes/examples/forecast_a_song.py is a script: run it with `python`")

parser = argparse.ArgumentParser(description="Forecast one song before and after its first two weeks.")
parser.add_argument("audio", help="mp3, m4a, aac, ogg, flac, wav or aiff")
parser.add_argument("--model", required=True, help="RUN/model of recipes/mp3.py")
parser.add_argument("--region", default="US", help="ISO 3166 code (US)")
parser.add_argument("--release", default="2026-12-04", help="YYYY-MM-DD (2026-12-04)")
parser.add_argument("--plot", default="song.png", help="PNG to write (song.png)")
arguments = parser.parse_args()

with errors_in_one_line():
    forecaster = Forecaster.from_pretrained(arguments.model)
    before = forecaster.forecast(arguments.audio, [arguments.region], arguments.release)
    print(before.summary(milestones=[1e6], tops=[50]))

    # Two weeks later: suppose that it went as in the middle of the forecast, and half of that.
    first = before.curves["0.5"].iloc[0]
    observed = pd.DataFrame({"region": arguments.region, "week": [0, 1], "streams": [first, first / 2]})
    after = forecaster.forecast(arguments.audio, [arguments.region], arguments.release, observed)
    after.plot(arguments.plot)

for name, forecast in (("before release", before), ("after two weeks", after)):
    total = forecast.popularity.query("metric == 'sum'").iloc[0]
    print(f"{name}: {readable(total['0.5'])} streams (80 %: {readable(total['0.1'])} to {readable(total['0.9'])})")
print(f"wrote {arguments.plot}")
