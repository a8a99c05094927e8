"""A number of rows and a seed in, a made-up CSV in the shape of the full daily chart table out.

    python tests/make_big_chart.py FILE --rows 26000000

Every region charts 200 tracks a day, ranked; a few per cent of rows belong to the viral chart, and about one in a
hundred thousand has an unescaped quote, as in published copies. Titles, artists and ids are random words.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

HEADER = "title,rank,date,artist,url,region,chart,trend,streams\n"
REGIONS = [
    "Argentina",
    "Australia",
    "Austria",
    "Belgium",
    "Bolivia",
    "Brazil",
    "Bulgaria",
    "Canada",
    "Chile",
    "Colombia",
    "Costa Rica",
    "Czech Republic",
    "Denmark",
    "Dominican Republic",
    "Ecuador",
    "El Salvador",
    "Estonia",
    "Finland",
    "France",
    "Germany",
    "Global",
    "Greece",
    "Guatemala",
    "Honduras",
    "Hong Kong",
    "Hungary",
    "Iceland",
    "India",
    "Indonesia",
    "Ireland",
    "Israel",
    "Italy",
    "Japan",
    "Latvia",
    "Lithuania",
    "Luxembourg",
    "Malaysia",
    "Mexico",
    "Morocco",
    "Netherlands",
    "New Zealand",
    "Nicaragua",
    "Norway",
    "Panama",
    "Paraguay",
    "Peru",
    "Philippines",
    "Poland",
    "Portugal",
    "Romania",
    "Russia",
    "Saudi Arabia",
    "Singapore",
    "Slovakia",
    "South Africa",
    "South Korea",
    "Spain",
    "Sweden",
    "Switzerland",
    "Taiwan",
    "Thailand",
    "Turkey",
    "United Arab Emirates",
    "United Kingdom",
    "United States",
    "Uruguay",
    "Vietnam",
]
LETTERS = np.array(list("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"))


def write_big_chart(path: Path, rows: int, seed: int = 0, tracks: int = 160_000) -> int:
    """Writes about `rows` rows, day by day; returns how many of them are top-200 rows with all cells in place."""
    rng = np.random.default_rng(seed)
    ids = ["".join(part) for part in LETTERS[rng.integers(0, len(LETTERS), (tracks, 22))]]
    titles = [f'"Song, part {i}"' if i % 50 == 0 else f"Song number {i} of nobody" for i in range(tracks)]
    artists = [f"Artist {i % 9000}" if i % 3 else f'"Artist {i % 9000}, Guest {i % 700}"' for i in range(tracks)]
    tails = [f",{a},https://open.spotify.com/track/{i}," for a, i in zip(artists, ids, strict=True)]
    heads = [f"{title}," for title in titles]
    chart = rng.integers(0, tracks, (len(REGIONS), 200))
    good = written = 0
    day = np.datetime64("2017-01-01")
    with open(path, "w") as file:
        file.write(HEADER)
        while written < rows:
            for number, region in enumerate(REGIONS):
                # About six new tracks a day and region, in charts that hardly move.
                new = rng.integers(0, 200, 6)
                chart[number, new] = rng.integers(0, tracks, 6)
                listed = dict.fromkeys(chart[number].tolist())
                streams = (400_000 * (number + 1) / np.arange(1, 201) ** 0.7).astype(int)
                lines = [
                    f"{heads[t]}{rank},{day}{tails[t]}{region},top200,SAME_POSITION,{streams[rank - 1]}\n"
                    for rank, t in enumerate(listed, 1)
                ]
                good += len(lines)
                lines += [
                    f"{heads[t]}{rank},{day}{tails[t]}{region},viral50,MOVE_UP,\n"
                    for rank, t in enumerate(list(listed)[:8], 1)
                ]
                if number == 0 and int(day.astype(int)) % 7 == 0:
                    lines.append(f'Bailen (Remix),137,{day},"Nino ""El Gorila"", Two, Three, Four",https://x,\n')
                file.writelines(lines)
                written += len(lines)
            day += np.timedelta64(1, "D")
    return good


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--rows", type=int, default=26_000_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    print(write_big_chart(options.file, options.rows, options.seed), "rows of the top 200")


if __name__ == "__main__":
    main()
