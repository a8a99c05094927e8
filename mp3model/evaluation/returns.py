"""A day in autumn and forecasts of songs that come back each December in; measures beside last year's weeks out.

The question of one day: of the songs that charted around last Christmas and have left since, which return, when, and
with how many streams? Most do not. What anybody can say without a model is that this year will be as last year.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mp3model.evaluation.accuracy import MINIMUM_CURVES, CurveForecasts, CurveTruth, curve_row_scores, path_quantiles
from mp3model.evaluation.bootstrap import Draws, interval_of_draws, mean_over_regions, rows_by_region
from mp3model.evaluation.curve_scores import POOLED_REPLICATES, known_draws, order_of
from mp3model.evaluation.ranking import spearman_replicates
from mp3model.files import InputError
from mp3model.tables.curves import charted_rows, curve_arrays, floors, period_dates
from mp3model.tables.debuts import running_rows
from mp3model.tables.folder import DatasetFolder
from mp3model.tables.history import same_period_last_year
from mp3model.tables.splits import first_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# A song of Christmas charted on a day this near to the last 25 December, and is no debut of that autumn.
DAYS_BEFORE, DAYS_AFTER = 21, 6
OLD_FOR = 300
MEASURES = ("wape", "crps_logfloor", "spearman", "spearman_pooled", "cov80")
LAST_YEAR, SCALED = "same weeks last year", "same weeks last year, scaled"


def christmas_returns(
    dataset: DatasetFolder, origin: Any, horizon: int | None = None, regions: list[str] | None = None
) -> pd.DataFrame:
    """Songs that charted around last Christmas and are not on the chart on a day: rows of `running_rows`.

    Args:
        dataset: With curves and charts.
        origin: A chart day; nothing after it decides which songs these are.
        horizon, regions: As for `running_rows`.

    Returns:
        Those off the chart at the origin that charted in the region from 21 days before to 6 days after the 25 December
        before it, and first charted there at least 300 days before it; `again` tells which of them charted around the
        25 December before that one too, and are songs of Christmas rather than last year's hits.

    Raises:
        InputError: If there is none.
    """
    assert dataset.curves is not None
    day = np.datetime64(origin, "D")
    year = day.astype("datetime64[Y]")
    last = christmas_of(year) if christmas_of(year) <= day else christmas_of(year - 1)
    # The weeks around Christmas must be among those of a year ago that the horizon meets, as they are from October on.
    rows = running_rows(dataset, day, horizon, regions)
    near = _charted_near(dataset, last).assign(near=True)
    began = first_rows(dataset)[["song_id", "region", "debut"]].rename(columns={"debut": "began"})
    found = rows.merge(near, on=["song_id", "region"], how="left").merge(began, on=["song_id", "region"], how="left")
    old = found["began"] <= pd.Timestamp(day) - pd.Timedelta(days=OLD_FOR)
    kept = (~found["on_chart"] & found["near"].notna() & old).to_numpy()
    if not kept.any():
        raise InputError(f"{dataset.path}: no song that charted near {last} is off the chart on {day} and older")
    before = _charted_near(dataset, christmas_of(last.astype("datetime64[Y]") - 1)).assign(again=True)
    rows = rows[kept].merge(before, on=["song_id", "region"], how="left")
    return rows.assign(again=rows["again"].notna()).reset_index(drop=True)


def christmas_of(year: np.datetime64) -> np.datetime64:
    """25 December of a year."""
    return (year.astype("datetime64[M]") + 11).astype("datetime64[D]") + 24


def _charted_near(dataset: DatasetFolder, christmas: np.datetime64) -> pd.DataFrame:
    """Songs and regions with a charted period that ends near a 25 December: `song_id, region`."""
    assert dataset.curves is not None
    dates = dataset.curves["date"].to_numpy().astype("datetime64[D]")
    near = (dates >= christmas - DAYS_BEFORE) & (dates <= christmas + DAYS_AFTER) & charted_rows(dataset)
    rows = dataset.curves[near].merge(dataset.tracks[["track_id", "song_id"]])
    return rows[["song_id", "region"]].drop_duplicates()


def last_year(dataset: DatasetFolder, rows: pd.DataFrame, horizon: int) -> np.ndarray:
    """Chart-observed streams of the same song and region in the same weeks of last year: (n, horizon), 0 if unknown.

    Args:
        dataset: With curves.
        rows: `song_id, region, debut, cutoff`.
        horizon: Periods.
    """
    first = same_period_last_year(rows["debut"].to_numpy(), dataset.frequency)
    streams = curve_arrays(dataset, rows.assign(debut=first), horizon).chart_observed()
    later = period_dates(first, horizon, dataset.frequency) > rows["cutoff"].to_numpy()[:, None]
    return np.where(later, 0.0, np.nan_to_num(streams))


def growth(dataset: DatasetFolder, rows: pd.DataFrame) -> np.ndarray:
    """The region's floor at the cut-off over that of a year before, 1 where either is unknown: (n,)."""
    lookup = floors(dataset.charts)
    now = lookup.floor(rows["region"], rows["cutoff"])
    then = lookup.floor(rows["region"], same_period_last_year(rows["cutoff"].to_numpy(), dataset.frequency))
    return np.nan_to_num(now / then, nan=1.0)


def rivals(dataset: DatasetFolder, rows: pd.DataFrame, horizon: int) -> dict[str, CurveForecasts]:
    """Last year's weeks in streams as they were, and times the growth of the region's floor."""
    streams = last_year(dataset, rows, horizon)
    scaled = streams * growth(dataset, rows)[:, None]
    return {
        name: CurveForecasts(curve, total=curve.sum(axis=1), length=(curve > 0).sum(axis=1))
        for name, curve in ((LAST_YEAR, streams), (SCALED, scaled))
    }


def returns_report(
    rows: pd.DataFrame,
    truth: CurveTruth,
    systems: Mapping[str, CurveForecasts],
    seed: int = 0,
    replicates: int = 1000,
) -> dict[str, Any]:
    """Measures of each system and of the first less each other one, with 95 % intervals by artist.

    `crps_logfloor` of a system without quantiles is the absolute error, which is the same score of a point.

    Args:
        rows: Of `christmas_returns`.
        truth: Of the same rows.
        systems: Name → forecasts.
        seed, replicates: Of the bootstrap.

    Returns:
        `n_rows, n_songs, n_artists, n_regions, returned` (share of rows that chart again within the horizon), and
        `systems` and `differences`: name → measure → value, low, high.
    """
    draws = known_draws(truth, 0, seed, replicates)
    samples = {name: _samples(truth, forecasts, draws) for name, forecasts in systems.items()}
    several = draws.artists() > 1
    leader = next(iter(systems))
    known = np.isfinite(truth.streams).all(axis=1)
    rows = rows[known]

    def told(values: Mapping[str, np.ndarray]) -> dict[str, Any]:
        return {name: asdict(interval_of_draws(values[name], several)) for name in MEASURES if name in values}

    return {
        "n_rows": int(known.sum()),
        "n_songs": int(rows["song_id"].nunique()),
        "n_artists": draws.artists(),
        "n_regions": int(rows["region"].nunique()),
        "returned": float((truth.streams[known] > 0).any(axis=1).mean()),
        "systems": {name: told(values) for name, values in samples.items()},
        "differences": {
            name: told({key: samples[leader][key] - values[key] for key in values if key in samples[leader]})
            for name, values in samples.items()
            if name != leader
        },
    }


def chosen(values: Any, rows: np.ndarray) -> Any:
    """Some rows of a `CurveTruth` or `CurveForecasts`: a mask (n,) over rows."""
    parts = {part.name: getattr(values, part.name) for part in fields(values)}
    return replace(values, **{name: part[rows] for name, part in parts.items() if part is not None})


def _samples(truth: CurveTruth, forecasts: CurveForecasts, draws: Draws) -> dict[str, np.ndarray]:
    """`MEASURES` in every draw, the sample's own value first: the same as of `curve_draws`, without its slower ones."""
    scores = curve_row_scores(truth, forecasts, 0)
    known = np.isfinite(scores["true_streams"])
    true, error = scores["true_streams"][known, None], scores["absolute_error"][known, None]
    samples = {"wape": 100 * draws.ratios(error, true)[:, 0]}
    for name, source in (("crps_logfloor", "crps_logfloor"), ("crps_logfloor", "mae_logfloor"), ("cov80", "cov80")):
        if source in scores and name not in samples:
            values = scores[source][known, None]
            samples[name] = draws.ratios(np.nan_to_num(values), np.isfinite(values).astype(float))[:, 0]
    score = order_of(forecasts, 0)[known]
    region = pd.factorize(np.asarray(truth.region, dtype=object)[known], sort=True)[0]
    members = rows_by_region(region, MINIMUM_CURVES)
    parts = [spearman_replicates(true[at, 0], score[at], draws.weights(at)) for at in members]
    if parts:
        samples["spearman"] = mean_over_regions(parts, len(draws.counts))
    weights = draws.weights(replicates=POOLED_REPLICATES)
    samples["spearman_pooled"] = spearman_replicates(true[:, 0], score, weights)
    return samples


def returns_table(report: Mapping[str, Any]) -> str:
    """The report as text: a system a line, then the differences of the first to the others."""
    lines = [
        f"{report['n_rows']} rows of {report['n_songs']} songs by {report['n_artists']} artists in "
        f"{report['n_regions']} regions; {100 * report['returned']:.0f} % chart again",
        "",
        f"{'':38}" + "".join(f"{name:>28}" for name in MEASURES),
    ]
    leader = next(iter(report["systems"]))
    lines += [_line(name, values) for name, values in report["systems"].items()]
    lines += [_line(f"{leader} - {name}", values) for name, values in report["differences"].items()]
    return "\n".join(lines)


def _line(name: str, values: Mapping[str, Any]) -> str:
    return f"{name:38}" + "".join(f"{_cell(values.get(measure)):>28}" for measure in MEASURES)


def _cell(told: Mapping[str, Any] | None) -> str:
    if told is None or told["value"] is None:
        return "-"
    bounds = "" if told["low"] is None else f" [{told['low']:.3f}, {told['high']:.3f}]"
    return f"{told['value']:.3f}{bounds}"


def weekly_totals(truth: CurveTruth, paths: np.ndarray, rival: CurveForecasts) -> dict[str, list[float]]:
    """Streams of all rows together by week: what happened, what was forecast, and last year's.

    Args:
        truth: Of n rows.
        paths: (n, paths, H) streams; a path of the total is the sum of the rows' paths of one number, which share luck
            between regions but not between songs, so that the band is too narrow by what moves all songs together.
        rival: Last year's weeks.

    Returns:
        `truth, low, median, high` (.1, .5 and .9) and `last_year`, each of H values.
    """
    known = np.isfinite(truth.streams).all(axis=1)
    low, median, high = path_quantiles(paths[known].sum(axis=0), (0.1, 0.5, 0.9), axis=0)
    values = {"truth": truth.streams[known].sum(axis=0), "low": low, "median": median, "high": high}
    values["last_year"] = rival.curve[known].sum(axis=0)
    return {name: [float(value) for value in array] for name, array in values.items()}


def weekly_picture(totals: Mapping[str, list[float]], dates: np.ndarray, title: str) -> Figure:
    """Total streams by week: truth, the forecast's median and 80 % band, and last year's weeks.

    Args:
        totals: Of `weekly_totals`.
        dates: (H,) last day of each week.
        title: Above the picture.
    """
    from matplotlib.dates import DateFormatter
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.subplots()
    days = np.asarray(dates, dtype="datetime64[D]")
    scaled = {name: np.array(values) / 1e6 for name, values in totals.items()}
    axes.fill_between(days, scaled["low"], scaled["high"], color="#0072B2", alpha=0.25, label="MP3, 80 %")
    axes.plot(days, scaled["median"], color="#0072B2", marker="o", label="MP3, median")
    axes.plot(days, scaled["last_year"], color="#D55E00", marker="s", linestyle="--", label="same weeks last year")
    axes.plot(days, scaled["truth"], color="#000000", marker="D", label="what happened")
    axes.set(xlabel="week that ends on", ylabel="streams, millions", title=title, ylim=(0, None))
    axes.xaxis.set_major_formatter(DateFormatter("%-d %b"))
    axes.legend(frameon=False)
    return figure
