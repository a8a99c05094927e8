"""Sampled paths and what else a forecast says in; tables, a picture, files and a few lines for a terminal out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mp3model.evaluation.forecasts import CurvePaths
from mp3model.files import InputError, written_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TABLE_SUFFIXES = (".csv", ".parquet")


@dataclass(frozen=True)
class Forecast:
    """What will become of some songs in some regions, given that they chart there.

    Attributes:
        sampled: The paths all else is made of.
        flags: `track_id, region, code, reason`: why not to trust it; an empty region is everywhere.
        comparables: `track_id, region, place, song_id, title, artist, distance, week` (`day`), `date, streams`: the
            songs of the training data that sound most alike and their true curves; empty without a catalogue.
        percentiles: `track_id, region, mean, 0.1 … 0.9`: place of the chart-observed total among the catalogue's.
        floors: (rows,) streams, the regions' unit of scale.
        lowest: (rows,) streams at the end of the regions' charts.
    """

    sampled: CurvePaths
    flags: pd.DataFrame
    comparables: pd.DataFrame
    percentiles: pd.DataFrame
    floors: np.ndarray
    lowest: np.ndarray

    @cached_property
    def curves(self) -> pd.DataFrame:
        """`track_id, region, week` (`day`), `date, mean, 0.1 … 0.9`; observed periods as they were."""
        return self.sampled.curves()

    @cached_property
    def popularity(self) -> pd.DataFrame:
        """`track_id, region, metric, mean, 0.1 … 0.9`: each metric of each path, then over paths."""
        return self.sampled.popularity()

    @cached_property
    def paths(self) -> pd.DataFrame:
        """`track_id, region, week` (`day`), `sample, streams`."""
        return self.sampled.paths()

    def plot(self, path: str | os.PathLike[str] | None = None, track_id: str | None = None) -> Figure:
        """Fan charts of one track, a panel a region; also written to `path`, a PNG, if that is given.

        Raises:
            InputError: If there are several tracks and none is named, or one is named that is not there.
        """
        from mp3model.serving.plots import fan_charts

        tracks = self.sampled.rows["track_id"].unique().tolist()
        if track_id is None and len(tracks) > 1:
            raise InputError(f"a picture is of one track; name one of {', '.join(tracks[:6])}")
        chosen = tracks[0] if track_id is None else track_id
        if chosen not in tracks:
            raise InputError(f"track {chosen!r} is not in this forecast; it has {', '.join(tracks[:6])}")
        figure = fan_charts(self, chosen)
        if path is not None:
            with outputs([path]) as (temporary,):
                figure.savefig(temporary, format="png")
        return figure

    def write(self, path: str | os.PathLike[str], plot: str | os.PathLike[str] | None = None) -> list[Path]:
        """Writes the tables and pictures, all of them or none, and says where.

        `song.csv` gets `song.popularity.csv`, `song.paths.parquet` and `song.flags.csv` beside it, and
        `song.comparables.csv` where there is a catalogue. A picture of one of several tracks is `song-TRACK.png`.

        Args:
            path: Ends in .csv or .parquet, and so will the other tables; paths are always parquet.
            plot: Ends in .png.

        Raises:
            InputError: If a suffix is another, or a file cannot be written.
        """
        path = checked_suffix(path, TABLE_SUFFIXES, "output")
        tables = {
            path: self.curves,
            path.with_suffix(f".popularity{path.suffix}"): self.popularity,
            path.with_suffix(".paths.parquet"): self.paths,
            path.with_suffix(f".flags{path.suffix}"): self.flags,
        }
        if len(self.comparables):
            tables[path.with_suffix(f".comparables{path.suffix}")] = self.comparables
        tracks = self.sampled.rows["track_id"].unique().tolist()
        pictures = {}
        if plot is not None:
            plot = checked_suffix(plot, (".png",), "plot")
            names = [plot] if len(tracks) == 1 else [plot.with_stem(f"{plot.stem}-{track}") for track in tracks]
            pictures = dict(zip(names, tracks, strict=True))
        with outputs([*tables, *pictures]) as temporaries:
            for temporary, table in zip(temporaries, tables.values(), strict=False):
                _write(table, temporary)
            for temporary, track in zip(temporaries[len(tables) :], pictures.values(), strict=True):
                self.plot(track_id=track).savefig(temporary, format="png")
        return [*tables, *pictures]

    def summary(self) -> str:
        """A few lines for a terminal: totals a region, and every flag."""
        total = self.popularity[self.popularity["metric"] == "sum"].reset_index(drop=True)
        dates = self.curves.groupby(["track_id", "region"], sort=False)["date"].agg(["min", "max"]).reset_index()
        places = self.percentiles["0.5"].to_numpy() if len(self.percentiles) else np.full(len(total), np.nan)
        width = max(len(region) for region in total["region"])
        lines = []
        for track, rows in total.groupby("track_id", sort=False):
            lines.append(str(track))
            for row in rows.index.to_numpy():
                first, last = (str(dates[end][row])[:10] for end in ("min", "max"))
                observed = int(self.sampled.rows["observed"].iloc[row])
                seen = f", first {observed} observed" if observed else ""
                place = "" if np.isnan(places[row]) else f", above {places[row]:.0f} % of the catalogue"
                low, middle, high = (readable(float(rows[level][row])) for level in ("0.1", "0.5", "0.9"))
                lines.append(
                    f"  {rows['region'][row]:{width}}  {first} to {last}{seen}: {middle} streams "
                    f"(80 %: {low} to {high}){place}"
                )
            for _, flag in self.flags[self.flags["track_id"] == track].iterrows():
                where = f" in {flag['region']}" if flag["region"] else ""
                lines.append(f"  ! {flag['code']}{where}: {flag['reason']}")
        return "\n".join(lines)


def readable(number: float) -> str:
    """A number in three digits: 1234567 → 1.23 M."""
    for unit, name in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= 0.9995 * unit:
            return f"{number / unit:.3g}{name}"
    return f"{number:.3g}"


def write_table(table: pd.DataFrame, path: str | os.PathLike[str]) -> None:
    """Writes one table as CSV or parquet by its suffix, whole or not at all.

    Raises:
        InputError: If the suffix is another, or the file cannot be written.
    """
    with outputs([checked_suffix(path, TABLE_SUFFIXES, "output")]) as (temporary,):
        _write(table, temporary)


def _write(table: pd.DataFrame, path: Path) -> None:
    if path.suffix == ".csv":
        table.to_csv(path, index=False)
    else:
        table.to_parquet(path, index=False)


def checked_suffix(path: str | os.PathLike[str], suffixes: Sequence[str], what: str) -> Path:
    """The path, if it ends in one of the suffixes.

    Raises:
        InputError: If it does not.
    """
    if Path(path).suffix not in suffixes:
        raise InputError(f"{what} {path}: give a name that ends in {' or '.join(suffixes)}")
    return Path(path)


@contextmanager
def outputs(paths: Sequence[str | os.PathLike[str]]) -> Iterator[list[Path]]:
    """Temporary paths that all take their places at the end, or none if anything failed before.

    Raises:
        InputError: If one cannot be written.
    """
    try:
        with ExitStack() as stack:
            yield [stack.enter_context(written_whole(path)) for path in paths]
    except OSError as error:
        raise InputError(f"{paths[0]}: cannot be written ({error.strerror or error})") from error
