"""A seed and a number of songs in; a dataset folder out: a simulated market with rendered audio and known truth.

    python -m data_prep.market --out DIR --songs N --seed S [--workers W]
    python -m data_prep.market --check DIR

No public data join recordings to curves, so what a model learns from sound is proved here. The folder is an ordinary
dataset folder; its subfolder `truth/` holds what no model may read: `attributes.parquet` (what each song is made of and
its audible appeal in each region, log10), `curves.parquet` (all streams, also below the charts) and `oracle.parquet`
(see `data_prep.market_oracle`).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from data_prep.market_oracle import RUNS_AT_ONCE, Fame, Oracle, Outcomes, rerun
from data_prep.market_truth import DEFAULT_REGIONS, HORIZON, TEST_FROM, Market, draw_market, random_for, truth
from data_prep.synth import render_previews
from mp3model.audio.bank import write_index, write_shard
from mp3model.files import InputError, written_whole
from mp3model.tables.folder import DatasetFolder, write_dataset
from mp3model.tables.splits import make_splits

SONGS_A_SHARD = 25
PREVIEWS = (0.35, 0.35, 0.2, 0.1)  # chances of one to four previews a track


def make_market(
    out: str | os.PathLike[str],
    songs: int = 480,
    seed: int = 0,
    workers: int | None = None,
    progress: bool = True,
    *,
    regions: Sequence[str] = DEFAULT_REGIONS,
    oracle_runs: int = 256,
    audio: bool = True,
) -> None:
    """Writes a simulated market; the same arguments give the same bytes, whatever the number of workers.

    Args:
        out: the dataset folder, made if absent.
        songs: how many songs with audio.
        seed: of everything.
        workers: processes; None takes one a core, and one alone for a small market.
        progress: show a bar on stderr.
        regions: ISO 3166 codes.
        oracle_runs: re-runs of the market behind `truth/oracle.parquet`, in blocks of 32; 0 leaves it out.
        audio: render the previews.

    Raises:
        InputError: too few songs, no region, or a folder with a dataset that is no simulated market.
    """
    if songs < 20:
        raise InputError(f"songs = {songs}: a market needs at least 20 to have a chart; give --songs 20 or more")
    if not regions or len(set(regions)) < len(regions):
        raise InputError(f"regions = {list(regions)}: give at least one region, each once")
    out = Path(out)
    _clear(out)
    plan = Plan(songs, seed, tuple(regions))
    market = _market(plan)
    splits = _write_tables(out, market)
    shards = -(-songs // SONGS_A_SHARD) if audio else 0
    blocks = -(-oracle_runs // RUNS_AT_ONCE)
    # A process takes about as long to start as 200 songs to render.
    workers = workers or min(os.cpu_count() or 1, 1 + songs // 200)
    from tqdm import tqdm

    with _pool(workers) as run, tqdm(total=shards + 2 * blocks, unit="task", disable=not progress) as bar:
        index = []
        for rows in run(_render_shard, [(plan, out, shard) for shard in range(shards)]):
            index.append(rows)
            bar.update()
        if index:
            write_index(out, pd.concat(index, ignore_index=True))
        if blocks:
            oracle = Oracle(market)
            fame = None
            for inputs in ("audio", "audio+history"):
                for result in run(_rerun, [(plan, inputs, block, fame) for block in range(blocks)]):
                    oracle.add(inputs, result)
                    bar.update()
                fame = oracle.fame_from_history()
            _write_parquet(oracle.table(splits), out / "truth" / "oracle.parquet")


class Plan(NamedTuple):
    """What decides a market; small enough to send to every worker, which then draws the market for itself."""

    songs: int
    seed: int
    regions: tuple[str, ...]


@lru_cache(maxsize=2)
def _market(plan: Plan) -> Market:
    return draw_market(*plan)


@contextmanager
def _pool(workers: int) -> Iterator[Callable[..., Iterator[Any]]]:
    """Yields a map that keeps the order of its tasks; one worker stays in this process."""
    if workers == 1:
        yield lambda task, arguments: (task(*each) for each in arguments)
        return
    # A forked copy of a process that has used torch or CUDA may hang, so each worker starts afresh.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield lambda task, arguments: pool.map(task, *zip(*arguments, strict=True))


def _render_shard(plan: Plan, folder: Path, shard: int) -> pd.DataFrame:
    """Renders all tracks of 25 songs into one shard and returns its index rows."""
    market = _market(plan)
    first, last = shard * SONGS_A_SHARD, min((shard + 1) * SONGS_A_SHARD, plan.songs)
    tracks = market.tracks[(market.tracks["song"] >= first) & (market.tracks["song"] < last)]
    return write_shard(folder, shard, _clips(market, tracks.sort_values("track_id")))


def _clips(market: Market, tracks: pd.DataFrame) -> Iterator[tuple[str, int, np.ndarray]]:
    for track_id, song, version in zip(tracks["track_id"], tracks["song"], tracks["version"], strict=True):
        attributes = market.songs.iloc[song].to_dict()
        arrangement = random_for(market.seed, "arrangement", song)
        take = random_for(market.seed, "take", track_id)
        count = 1 + int(take.choice(len(PREVIEWS), p=PREVIEWS))
        for number, clip in enumerate(render_previews(attributes, version, count, arrangement, take)):
            yield track_id, number, clip


def _rerun(plan: Plan, inputs: str, block: int, fame: Fame | None) -> tuple[Outcomes, np.ndarray]:
    return rerun(_market(plan), inputs, block, fame)


def _clear(out: Path) -> None:
    """Removes an older market, whose audio and oracle would not fit the new tables."""
    marker = out / "dataset.json"
    if not marker.exists():
        return
    try:
        is_market = "market" in json.loads(marker.read_text())
    except (ValueError, TypeError):
        is_market = False
    if not is_market:
        raise InputError(f"{out}: holds a dataset that is no simulated market; give another folder")
    old = [marker, out / "previews.parquet", out / "splits.parquet", *out.glob("audio-*.npy")]
    for file in [*old, *(out / "truth").glob("*.parquet")]:
        file.unlink(missing_ok=True)


def _write_tables(out: Path, market: Market) -> pd.DataFrame:
    """Writes all but the audio and the oracle; returns the splits."""
    streams, curves, charts = truth(market)
    tracks = _named(market)
    info = {
        "frequency": "W",
        "horizon": HORIZON,
        "sources": ["simulated market"],
        "market": {"songs": int(market.songs["recorded"].sum()), "seed": market.seed, "regions": list(market.regions)},
    }
    tables = {"tracks": tracks, "curves": curves, "charts": charts}
    splits = make_splits(DatasetFolder(out, info, **tables), test_from=TEST_FROM)
    write_dataset(out, **tables, splits=splits, info=info)
    attributes = market.songs.drop(columns="artist")
    for row, region in enumerate(market.regions):
        attributes[f"audible_{region}"] = market.audible[row]
        for name, parts in market.parts.items():
            attributes[f"audible_{region}_{name}"] = parts[row]
    _write_parquet(attributes, out / "truth" / "attributes.parquet")
    _write_parquet(streams, out / "truth" / "curves.parquet")
    return splits


def _named(market: Market) -> pd.DataFrame:
    """The tracks table: invented names, and codes under the prefix that ISO 3901 leaves to no country."""
    song = market.song_of
    random = random_for(market.seed, "names")
    titles = [" ".join(random.choice(words) for words in TITLE_WORDS) for _ in range(len(market.songs))]
    artists = [f"{random.choice(ARTIST_WORDS[0])} {random.choice(ARTIST_WORDS[1])}" for _ in range(market.artists)]
    seen: dict[str, int] = {}
    for number, name in enumerate(artists):
        seen[name] = seen.get(name, 0) + 1
        artists[number] = name if seen[name] == 1 else f"{name} {seen[name]}"
    version = market.tracks["version"].to_numpy()
    return pd.DataFrame(
        {
            "track_id": market.tracks["track_id"],
            "song_id": market.songs["song_id"].to_numpy()[song],
            "title": [
                f"{titles[s]} - {kind.capitalize()}" if kind else titles[s]
                for s, kind in zip(song, version, strict=True)
            ],
            "artist": [artists[market.songs["artist"].iloc[s]] for s in song],
            "isrc": [f"ZZM{market.seed % 1000:03d}{number:06d}" for number in range(len(song))],
            "release_date": market.tracks["release_day"].astype("datetime64[s]"),
        }
    )


TITLE_WORDS = (
    ("Golden", "Paper", "Slow", "Electric", "Quiet", "Distant", "Velvet", "Broken", "Summer", "Northern", "Crystal"),
    ("River", "Window", "Signal", "Garden", "Letter", "Mirror", "Engine", "Harbour", "Lantern", "Thunder", "Orchard"),
    ("Song", "Dance", "Dream", "Story", "Light", "Road", "Heart", "Line", "Sky", "Fever", "Parade"),
)
ARTIST_WORDS = (
    ("Ada", "Milo", "Noor", "Ines", "Theo", "Kaia", "Ravi", "Lena", "Otis", "Yuki", "Zora", "Hugo", "Cleo", "Enzo"),
    ("Marlow", "Vance", "Okoye", "Lindqvist", "Sato", "Moreira", "Castell", "Brandt", "Whitlock", "Duarte", "Finch"),
)


def _write_parquet(table: pd.DataFrame, path: Path) -> None:
    with written_whole(path) as temporary:
        table.to_parquet(temporary, index=False)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m data_prep.market", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, help="dataset folder to write")
    parser.add_argument("--songs", type=int, default=480)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, help="processes (default: one a core)")
    parser.add_argument("--regions", nargs="+", default=list(DEFAULT_REGIONS), metavar="CODE")
    parser.add_argument("--oracle-runs", type=int, default=256, help="re-runs behind the oracle; 0 leaves it out")
    parser.add_argument("--check", type=Path, metavar="DIR", help="compare a market's statistics with the real ones")
    given = parser.parse_args(arguments)
    if (given.out is None) == (given.check is None):
        parser.error("give either --out DIR, to make a market, or --check DIR, to examine one")
    try:
        if given.check is not None:
            from data_prep.market_check import check_market

            print(check_market(given.check))
        else:
            make_market(
                given.out, given.songs, given.seed, given.workers, regions=given.regions, oracle_runs=given.oracle_runs
            )
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
