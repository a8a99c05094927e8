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

from mp3model.evaluation.accuracy import LEVELS, QUANTILES
from mp3model.evaluation.forecasts import PERIOD_NAMES, CurvePaths
from mp3model.evaluation.popularity import probability_of_top, probability_of_total, time_to_milestone
from mp3model.files import InputError, written_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TABLE_SUFFIXES = (".csv", ".parquet")
# What is answered where nothing is asked.
MILESTONES, TOPS = (1e5, 1e6, 1e7, 1e8), (1, 10, 50, 100)


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
        best_rank: (rows, paths) best rank in any period, infinity for a path never on the chart, NaN without a chart.
    """

    sampled: CurvePaths
    flags: pd.DataFrame
    comparables: pd.DataFrame
    percentiles: pd.DataFrame
    floors: np.ndarray
    lowest: np.ndarray
    best_rank: np.ndarray

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

    def chances(self, milestones: Sequence[float] = MILESTONES, tops: Sequence[int] = TOPS) -> pd.DataFrame:
        """What people ask beyond metrics: `track_id, region, question, amount, probability, 0.1 … 0.9`.

        * `sum_above`: P(sum > amount) within the curve,
        * `weeks_to` (`days_to`): the period, 0 the debut, by whose end the streams since debut reach the amount. A
          quantile is the first period by which that share of paths is there, NaN if so many never are; `probability`
          is the share that is there by the curve's end,
        * `top`: P(enters the top `amount`), by the region's last chart before the cut-off; NaN without a chart,
        * `percentile`: the total's place among those of the songs that the model learnt from, 0 to 100; only where the
          model has a catalogue.

        All of it given that the song charts.

        Args:
            milestones: Streams, each above 0.
            tops: Ranks, each at least 1.

        Raises:
            InputError: If an amount is none.
        """
        wrong = [amount for amount in (*milestones, *tops) if not amount > 0 or not np.isfinite(amount)]
        if wrong or any(top < 1 for top in tops):
            raise InputError(f"a milestone or top of {wrong[0] if wrong else min(tops):g}: give a number of at least 1")
        names = self.sampled.rows[["track_id", "region"]].reset_index(drop=True)
        nothing = dict.fromkeys(QUANTILES, np.nan)
        parts = []
        for amount in milestones:
            above = probability_of_total(self.sampled.streams, amount, axis=1)
            parts.append(names.assign(question="sum_above", amount=float(amount), probability=above, **nothing))
        for amount in milestones:
            when = np.nan_to_num(time_to_milestone(self.sampled.streams, amount), nan=np.inf)
            levels = np.quantile(when, LEVELS, axis=1, method="inverted_cdf")
            levels = np.where(np.isfinite(levels), levels, np.nan)
            question = f"{PERIOD_NAMES[self.sampled.frequency]}s_to"
            there = names.assign(question=question, amount=float(amount), probability=np.isfinite(when).mean(axis=1))
            parts.append(there.assign(**dict(zip(QUANTILES, levels, strict=True))))
        for top in tops:
            enters = probability_of_top(self.best_rank[..., None], top, axis=1)
            enters = np.where(np.isnan(self.best_rank).any(axis=1), np.nan, enters)
            parts.append(names.assign(question="top", amount=float(top), probability=enters, **nothing))
        if len(self.percentiles):
            place = self.percentiles[list(QUANTILES)].to_numpy(dtype=float).T
            about = names.assign(question="percentile", amount=np.nan, probability=np.nan)
            parts.append(about.assign(**dict(zip(QUANTILES, place, strict=True))))
        if not parts:
            return pd.DataFrame(columns=["track_id", "region", "question", "amount", "probability", *QUANTILES])
        return pd.concat(parts).sort_index(kind="stable").reset_index(drop=True)

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

    def _repr_html_(self) -> str:
        """What a notebook shows of it."""
        from mp3model.serving.notebook import forecast_html

        return forecast_html(self)

    def write(
        self,
        path: str | os.PathLike[str],
        plot: str | os.PathLike[str] | None = None,
        milestones: Sequence[float] = MILESTONES,
        tops: Sequence[int] = TOPS,
    ) -> list[Path]:
        """Writes the tables and pictures, all of them or none, and says where.

        `song.csv` gets `song.popularity.csv`, `song.chances.csv`, `song.paths.parquet` and `song.flags.csv` beside it,
        and `song.comparables.csv` where there is a catalogue. A picture of one of several tracks is `song-TRACK.png`.

        Args:
            path: Ends in .csv or .parquet, and so will the other tables; paths are always parquet.
            plot: Ends in .png.
            milestones, tops: Of `chances`.

        Raises:
            InputError: If a suffix is another, or a file cannot be written.
        """
        path = checked_suffix(path, TABLE_SUFFIXES, "output")
        tables = {
            path: self.curves,
            path.with_suffix(f".popularity{path.suffix}"): self.popularity,
            path.with_suffix(f".chances{path.suffix}"): self.chances(milestones, tops),
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

    def summary(self, milestones: Sequence[float] = (), tops: Sequence[int] = ()) -> str:
        """A few lines for a terminal: totals a region, what is asked of `chances`, the songs most alike, every flag."""
        total = self.popularity[self.popularity["metric"] == "sum"].reset_index(drop=True)
        dates = self.curves.groupby(["track_id", "region"], sort=False)["date"].agg(["min", "max"]).reset_index()
        places = self.percentiles["0.5"].to_numpy() if len(self.percentiles) else np.full(len(total), np.nan)
        asked = self.chances(milestones, tops)
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
                own = asked[(asked["track_id"] == track) & (asked["region"] == rows["region"][row])]
                lines += [f"  {'':{width}}  {answer}" for answer in _answers(own)]
            alike = songs_alike(self.comparables[self.comparables["track_id"] == track])
            if alike:
                lines.append(f"  like {alike}")
            lines += [f"  ! {note}" for note in notes_of(self.flags[self.flags["track_id"] == track])]
        return "\n".join(lines)


def notes_of(flags: pd.DataFrame) -> list[str]:
    """A line for each reason of one track's flags: `code in REGION, REGION: reason`."""
    grouped = flags.groupby(["code", "reason"], sort=False)["region"].agg(list).reset_index()
    lines = []
    for code, reason, regions in grouped.itertuples(index=False):
        where = f" in {', '.join(regions)}" if any(regions) else ""
        lines.append(f"{code}{where}: {reason}")
    return lines


def songs_alike(comparables: pd.DataFrame, most: int = 3) -> str:
    """Those of the `most` nearest songs of one track that charted in its regions, nearest first, in a few words."""
    songs = comparables[comparables["place"] <= most].drop_duplicates("song_id").sort_values("place", kind="stable")
    names = [
        " by ".join(str(name) for name in (title, artist) if isinstance(name, str)) or str(song)
        for title, artist, song in songs[["title", "artist", "song_id"]].itertuples(index=False)
    ]
    return "; ".join(names)


def _answers(chances: pd.DataFrame) -> list[str]:
    """What was asked of one row of a forecast, a line each."""
    lines = []
    for about in chances.to_dict("records"):
        question, share = about["question"], f"{100 * about['probability']:.0f} %"
        if question == "sum_above":
            lines.append(f"more than {readable(about['amount'])} streams: {share}")
        elif question == "top":
            known = not np.isnan(about["probability"])
            lines.append(f"enters the top {about['amount']:.0f}: {share if known else 'unknown, for want of a chart'}")
        elif question.endswith("_to"):
            period = question.removesuffix("s_to")
            low, middle, high = (_when(about[level], period) for level in ("0.1", "0.5", "0.9"))
            lines.append(f"reaches {readable(about['amount'])} streams: {middle} (80 %: {low} to {high})")
    return lines


def _when(value: float, period: str) -> str:
    return "never" if np.isnan(value) else f"{period} {value:.0f}"


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
    places = [Path(path) for path in paths]
    for place in places:
        if place.is_dir():
            raise InputError(f"{place}: cannot be written (it is a folder); name a file")
    with ExitStack() as stack:
        temporaries = []
        for place in places:
            try:
                temporaries.append(stack.enter_context(written_whole(place)))
            except OSError as error:
                raise InputError(f"{place}: cannot be written ({error.strerror or error})") from error
        try:
            yield temporaries
        except OSError as error:
            raise InputError(f"{places[0]}: cannot be written ({error.strerror or error})") from error
