"""A number of rows and a seed in, a made-up log of listens (user, time, recording, country) as CSV out.

    python tests/make_big_log.py FILE --rows 100000000
    python tests/make_big_log.py FILE --rows 100000000 --convert DIR     # then counts it, and prints time and memory

300,000 recordings are heard by 200,000 users in 60 countries over four years: each appears on some day, is heard most
in its first weeks, and a few are heard by almost everybody (Zipf). Recording ids are as long as MusicBrainz' own.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

COUNTRIES = [
    "US",
    "GB",
    "DE",
    "FR",
    "BR",
    "MX",
    "ES",
    "IT",
    "NL",
    "SE",
    "NO",
    "DK",
    "FI",
    "PL",
    "PT",
    "TR",
    "GR",
    "IE",
    "AT",
    "CH",
    "BE",
    "CZ",
    "HU",
    "RO",
    "BG",
    "SK",
    "JP",
    "KR",
    "TW",
    "HK",
    "SG",
    "MY",
    "PH",
    "ID",
    "TH",
    "VN",
    "IN",
    "AU",
    "NZ",
    "ZA",
    "AR",
    "CL",
    "CO",
    "PE",
    "EC",
    "BO",
    "PY",
    "UY",
    "CR",
    "PA",
    "GT",
    "HN",
    "SV",
    "NI",
    "DO",
    "EE",
    "LV",
    "LT",
    "LU",
    "IS",
    "CA",
]
BLOCK = 1_000_000
START = 1_451_606_400  # 2016-01-01, a Friday
DAYS = 4 * 365


def write_big_log(path: Path, rows: int, seed: int = 0, recordings: int = 300_000, users: int = 200_000) -> None:
    """Writes `rows` listens with a header, block by block."""
    rng = np.random.default_rng(seed)
    digits = rng.integers(0, 16, (recordings, 32)).astype(np.uint8)
    letters = np.frombuffer(b"0123456789abcdef", np.uint8)[digits]
    plain = letters.view("S32").ravel().astype(str)
    ids = pa.array([f"{t[:8]}-{t[8:12]}-{t[12:16]}-{t[16:20]}-{t[20:]}" for t in plain])
    born = rng.integers(0, DAYS, recordings)
    chance = 1 / np.arange(1, recordings + 1) ** 0.9
    edges = np.cumsum(rng.permutation(chance / chance.sum()))
    names = pa.array([f"user_{number:06d}" for number in range(users)])
    homes = rng.integers(0, len(COUNTRIES), users)
    countries = pa.array(COUNTRIES)
    schema = pa.schema([(name, pa.string()) for name in ("user", "time", "recording", "country")])
    with pa.OSFile(str(path), "wb") as sink, pa.csv.CSVWriter(sink, schema) as writer:
        for start in range(0, rows, BLOCK):
            count = min(BLOCK, rows - start)
            recording = np.minimum(np.searchsorted(edges, rng.random(count)), recordings - 1)
            age = rng.exponential(60, count).astype(np.int64)
            seconds = START + (born[recording] + age) % DAYS * 86_400 + rng.integers(0, 86_400, count)
            user = rng.integers(0, users, count)
            columns = [
                names.take(pa.array(user)),
                pa.array(seconds).cast(pa.string()),
                ids.take(pa.array(recording)),
                countries.take(pa.array(homes[user])),
            ]
            writer.write_table(pa.table(columns, schema=schema))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--rows", type=int, default=100_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--convert", type=Path, metavar="DIR", help="dataset folder to make of it in this process")
    options = parser.parse_args(arguments)
    if not options.file.exists():
        write_big_log(options.file, options.rows, options.seed)
    print(f"{options.file}: {options.file.stat().st_size / 1e9:.2f} GB")
    if options.convert:
        from data_prep.open_datasets import main as convert

        began = time.monotonic(), time.process_time()
        status = convert(["listens", str(options.file), "--out", str(options.convert)])
        if status:
            sys.exit(status)
        # Linux counts in kibibytes, macOS in bytes.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        taken, busy = time.monotonic() - began[0], time.process_time() - began[1]
        print(f"{taken:.0f} s ({busy:.0f} s of a core), at most {peak / 1e9:.2f} GB of memory")


if __name__ == "__main__":
    main()
