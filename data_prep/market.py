"""A seed and a number of songs in; a dataset folder out: a simulated market with rendered audio and known truth.

    python -m data_prep.market --out DIR --songs N --seed S [--workers W] [--no-audio] [--oracle-runs R]
    python -m data_prep.market --check DIR

No public data join recordings to curves, so what a model learns from sound is proved here. The folder is an ordinary
dataset folder; its subfolder `truth/` holds what no model may read: `attributes.parquet` (what each song is made of and
its audible appeal in each region, log10), `curves.parquet` (all streams, also below the charts, by track, region and
date), `oracle.parquet` and `oracle_curves.parquet` (what the best forecaster would say of totals, debut ranks, lengths
and of each week; see `data_prep.market_oracle`).

Markets of more than 4,000 songs share recordings: 2,000 of them are made, and songs that come out at about the same
time have the same one, with its attributes; `waveform` in `attributes.parquet` names the first of them. Dates, artists,
fame and luck are each song's own. Since sound is shared within days only, a split by time keeps it on one side, but for
the songs at a cut and those with sleigh bells. An artist's songs no longer resemble each other there.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from data_prep.market_draw import Market, draw_market
from data_prep.market_law import DEFAULT_REGIONS, HORIZON, TEST_FROM, random_for
from data_prep.market_oracle import RUNS_AT_ONCE, Fame, Oracle, rerun
from data_prep.market_truth import truth
from data_prep.synth import render_previews
from mp3model.audio.bank import write_index, write_shard
from mp3model.files import InputError, written_whole
from mp3model.tables.folder import DatasetFolder, write_dataset
from mp3model.tables.splits import make_splits

SONGS_A_SHARD = 25
PREVIEWS = (0.35, 0.35, 0.2, 0.1)  # chances of one to four previews a track
ROW_GROUP = 2**20  # rows of a parquet file that are written together
_SCRATCH = ".scratch-"


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
        oracle_runs: re-runs of the market behind `truth/oracle*.parquet`, in blocks of 32; 0 leaves them out. They
            pass through temporary files in `out`, about 120 kB a song for 256 re-runs.
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
    shards = -(-market.waveforms // SONGS_A_SHARD) if audio else 0
    blocks = -(-oracle_runs // RUNS_AT_ONCE)
    # A process takes about as long to start as 200 songs to render.
    workers = workers or min(os.cpu_count() or 1, 1 + songs // 200)
    from tqdm import tqdm

    with tqdm(total=shards + 2 * blocks, unit="task", disable=not progress) as bar, _scratch(out) as scratch:
        with _pool(workers) as run:
            index = []
            for rows in run(_render_shard, [(plan, out, shard) for shard in range(shards)]):
                index.append(rows)
                bar.update()
            if index:
                write_index(out, pd.concat(index, ignore_index=True))
            if blocks:
                oracle = Oracle(market, scratch)
                fame = None
                for inputs in ("audio", "audio+history"):
                    for _ in run(_rerun, [(plan, inputs, block, scratch, fame) for block in range(blocks)]):
                        bar.update()
                    # The last word of the audio-only re-runs is what they tell of fame.
                    fame = oracle.fame_from_history() if inputs == "audio" else None
        if blocks:
            # The workers have gone, and their memory with them.
            _write_parquet([oracle.table(splits)], out / "truth" / "oracle.parquet")
            _write_parquet(oracle.curve_tables(splits), out / "truth" / "oracle_curves.parquet")


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


@contextmanager
def _scratch(out: Path) -> Iterator[Path]:
    """A folder beside the data for what is too large for the memory; it is gone afterwards."""
    for left in out.glob(f"{_SCRATCH}*"):
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=out) as folder:
        yield Path(folder)


def _render_shard(plan: Plan, folder: Path, shard: int) -> pd.DataFrame:
    """Renders all tracks of 25 waveforms into one shard and returns the index rows of all tracks that have them."""
    market = _market(plan)
    first, last = shard * SONGS_A_SHARD, min((shard + 1) * SONGS_A_SHARD, market.waveforms)
    waveform = market.waveform_of[market.song_of]
    tracks = market.tracks.assign(waveform=waveform)[(waveform >= first) & (waveform < last)]
    # Songs before and after those with a recording have none.
    shared = [tracks["waveform"], tracks["version"]]
    rendered = tracks.sort_values("song").groupby(shared, sort=False).head(1).sort_values("track_id")
    index = write_shard(folder, shard, _clips(market, rendered))
    if len(rendered) == len(tracks):
        return index
    sounds = rendered[["track_id", "waveform", "version"]].rename(columns={"track_id": "rendered"})
    owners = tracks[["track_id", "waveform", "version"]].merge(sounds, on=["waveform", "version"])
    index = index.rename(columns={"track_id": "rendered"})
    return owners[["track_id", "rendered"]].merge(index, on="rendered").drop(columns="rendered")


def _clips(market: Market, tracks: pd.DataFrame) -> Iterator[tuple[str, int, np.ndarray]]:
    for track_id, song, version in zip(tracks["track_id"], tracks["song"], tracks["version"], strict=True):
        attributes = market.songs.iloc[song].to_dict()
        arrangement = random_for(market.seed, "arrangement", song)
        take = random_for(market.seed, "take", track_id)
        count = 1 + int(take.choice(len(PREVIEWS), p=PREVIEWS))
        for number, clip in enumerate(render_previews(attributes, version, count, arrangement, take)):
            yield track_id, number, clip


def _rerun(plan: Plan, inputs: str, block: int, folder: Path, fame: Fame | None) -> None:
    rerun(_market(plan), inputs, block, folder, fame)


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
    del tables, curves, tracks
    attributes = market.songs.drop(columns="artist")
    for row, region in enumerate(market.regions):
        attributes[f"audible_{region}"] = market.audible[row]
        for name, parts in market.parts.items():
            attributes[f"audible_{region}_{name}"] = parts[row]
    if market.waveforms < len(market.waveform_of[market.waveform_of >= 0]):
        first = np.flatnonzero(np.diff(market.waveform_of, prepend=-1) > 0)
        names = market.songs["song_id"].iloc[first[market.waveform_of]].reset_index(drop=True)
        attributes["waveform"] = names.where(market.waveform_of >= 0)
    _write_parquet([attributes], out / "truth" / "attributes.parquet")
    _write_parquet(streams.tables(ROW_GROUP // 16), out / "truth" / "curves.parquet")
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


def _write_parquet(tables: Iterable[pd.DataFrame], path: Path) -> None:
    """Writes tables of the same columns, at least one, as one; what is written together is in memory together."""
    import pyarrow
    import pyarrow.parquet

    with written_whole(path) as temporary, ExitStack() as stack:
        writer, group = None, []
        for table in tables:
            group.append(pyarrow.Table.from_pandas(table, preserve_index=False))
            if writer is None:
                writer = stack.enter_context(pyarrow.parquet.ParquetWriter(temporary, group[0].schema))
            if sum(map(len, group)) >= ROW_GROUP:
                writer.write_table(pyarrow.concat_tables(group), row_group_size=ROW_GROUP)
                group = []
        assert writer is not None
        if group:
            writer.write_table(pyarrow.concat_tables(group), row_group_size=ROW_GROUP)
    pyarrow.default_memory_pool().release_unused()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m data_prep.market", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, help="dataset folder to write")
    parser.add_argument("--songs", type=int, default=480)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, help="processes (default: one a core)")
    parser.add_argument("--regions", nargs="+", default=list(DEFAULT_REGIONS), metavar="CODE")
    parser.add_argument("--oracle-runs", type=int, default=256, help="re-runs behind the oracle; 0 leaves it out")
    parser.add_argument("--no-audio", action="store_true", help="tables alone, without recordings")
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
                given.out,
                given.songs,
                given.seed,
                given.workers,
                regions=given.regions,
                oracle_runs=given.oracle_runs,
                audio=not given.no_audio,
            )
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
