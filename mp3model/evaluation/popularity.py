"""Curves of streams by period, observed or sampled, in; the metrics that people ask about, one number a curve, out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mp3model.files import InputError

if TYPE_CHECKING:
    import pandas as pd

METRICS = (
    "debut",
    "max",
    "mean",
    "std",
    "length",
    "sum",
    "skewness",
    "kurtosis",
    "peak_week",
    "half_life",
    "debut_rank",
)
OffChart = Literal["observed", "zero-filled"]
_KEYS = ("track_id", "region", "sample")
# Sums and means of such numbers over any curve and any number of paths stay finite.
_MOST_STREAMS = 1e290


def popularity_metrics(
    curves: Any,
    off_chart: OffChart = "observed",
    lowest: Any = None,
    observed: int | None = None,
    debut_rank: Any = None,
) -> dict[str, np.ndarray]:
    """The popularity metrics of each curve, observed or a sampled path.

    With x the streams of a curve's n counted periods and m_j = Σ (x − mean)^j / n:

    * `debut`: streams of period 0; `max`: the largest; `sum`: all of them,
    * `mean`, `std` = √m2, `skewness` = m3 / m2^1.5, `kurtosis` = m4 / m2² (3 for a normal distribution); the last two
      are NaN where the counted periods do not differ,
    * `length`: periods on the chart,
    * `peak_week`, `half_life`: see the functions of the same name,
    * `debut_rank`: as given, NaN if it is not,
    * `remaining`, only if `observed` is given: the sum of the periods after the observed ones.

    The counted periods of `mean, std, skewness, kurtosis` are those on the chart ("observed", the default: off-chart
    periods are left out) or all known ones ("zero-filled": an off-chart period counts as 0). The other metrics are the
    same under both. The names and their order follow Lee and Lee (2018); the formulas are this package's own choice,
    since theirs are not public.

    Of a distribution over paths, take the metrics of each path and then `summarise_paths`: the metric of a mean curve
    is another number.

    Args:
        curves: (..., periods) streams, period 0 the debut; any leading axes (samples, songs, regions). 0 is off the
            chart; NaN is unknown and left out of every metric, so that with unknown periods `sum` is a lower bound.
        off_chart: "observed" or "zero-filled".
        lowest: smallest streams on the chart, broadcast against `curves`: a period below it is off the chart and
            counts as 0 everywhere. NaN or None: only 0 is off the chart.
        observed: periods known when the forecast was made.
        debut_rank: (...) rank of period 0, e.g. from `RankCurve.rank_of(curves[..., 0])`.

    Returns:
        Metric → (...) float64, in the order of `METRICS`, then `remaining`. A curve without a known period has NaN
        everywhere but in `length`, 0; one never on the chart has `max` and `sum` 0 and no peak.

    Raises:
        InputError: negative or infinite streams, no periods, an unknown `off_chart`, `observed` outside the curve.
    """
    streams = charted_streams(curves, lowest)
    if off_chart not in ("observed", "zero-filled"):
        raise InputError(f"off_chart {off_chart!r} is not known; use 'observed' or 'zero-filled'")
    known = ~np.isnan(streams)
    some = known.any(axis=-1)
    counted = streams > 0 if off_chart == "observed" else known
    metrics = {
        "debut": streams[..., 0],
        "max": np.where(some, np.where(known, streams, 0.0).max(axis=-1), np.nan),
        **_moments(streams, counted),
        "length": chart_weeks(streams),
        "sum": remaining(streams, 0),
        "peak_week": peak_week(streams),
        "half_life": half_life(streams)[0],
        "debut_rank": _ranks_given(debut_rank, streams.shape[:-1]),
    }
    metrics = {name: metrics[name] for name in METRICS}
    return metrics if observed is None else metrics | {"remaining": remaining(streams, observed)}


def charted_streams(curves: Any, lowest: Any = None) -> np.ndarray:
    """Streams as a chart shows them: (..., periods) → (..., periods), 0 where below `lowest`; NaN stays.

    Raises:
        InputError: negative or infinite streams, or no axis of periods.
    """
    streams = np.asarray(curves, dtype=float)
    if streams.ndim == 0 or streams.shape[-1] == 0:
        raise InputError(f"curves of shape {streams.shape} have no periods; give streams as (..., periods)")
    if np.any(streams < 0):
        raise InputError(f"streams of {float(np.nanmin(streams)):g} are negative; use 0 off the chart, NaN for unknown")
    if np.any(streams > _MOST_STREAMS):
        raise InputError(f"streams of {float(np.nanmax(streams)):g} are no number of streams; use NaN for unknown")
    return streams if lowest is None else np.where(streams < np.asarray(lowest, dtype=float), 0.0, streams)


def rank_scores(ranks: Any, size: int, known: Any = None) -> np.ndarray:
    """Ranks as scores that grow with popularity, for `popularity_metrics`: size + 1 − rank.

    Args:
        ranks: (..., periods), 1 the top; NaN or below `size` is off the chart and scores 0.
        size: ranks on the chart.
        known: bool, broadcast against `ranks`; where it is False the score is NaN, unknown.
    """
    ranks = np.asarray(ranks, dtype=float)
    if np.any(ranks < 1):
        raise InputError(f"rank {float(np.nanmin(ranks)):g} is above the top; ranks start at 1")
    scores = np.where(ranks <= size, size + 1 - ranks, 0.0)
    return scores if known is None else np.where(known, scores, np.nan)


def chart_weeks(curves: Any, lowest: Any = None) -> np.ndarray:
    """Periods on the chart: (..., periods) → (...); NaN if no period is known."""
    streams = charted_streams(curves, lowest)
    return np.where(np.isnan(streams).all(axis=-1), np.nan, (streams > 0).sum(axis=-1))


def peak_week(curves: Any, lowest: Any = None) -> np.ndarray:
    """The period of the most streams, 0 the debut and the first of several: (..., periods) → (...); NaN if no peak."""
    streams = np.nan_to_num(charted_streams(curves, lowest))
    return np.where(streams.max(axis=-1) > 0, streams.argmax(axis=-1), np.nan)


def half_life(curves: Any, lowest: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """Periods from the peak until streams are first known to be at most half of it; off the chart counts as fallen.

    Args:
        curves, lowest: as in `popularity_metrics`; unknown periods are passed over.

    Returns:
        (...) periods and (...) bool, whether they are censored: a curve that has not fallen by its last known period
        gets the least that its half-life can be, from the peak to the period after the last known one. That is more
        than any fall within the curve could give, so quantiles over paths keep their order. NaN if there is no peak.
    """
    streams = charted_streams(curves, lowest)
    period = np.arange(streams.shape[-1])
    peak = peak_week(streams)[..., None]
    height = np.nan_to_num(streams).max(axis=-1, keepdims=True)
    fallen = (period > peak) & (streams <= height / 2)
    last = np.where(np.isnan(streams), -1, period).max(axis=-1)
    censored = ~fallen.any(axis=-1)
    end = np.where(censored, last + 1, fallen.argmax(axis=-1))
    return end - peak[..., 0], censored & ~np.isnan(peak[..., 0])


def time_to_milestone(curves: Any, amount: float, lowest: Any = None) -> np.ndarray:
    """The first period by whose end the streams since debut have reached an amount.

    Args:
        curves, lowest: as in `popularity_metrics`; unknown periods add nothing.
        amount: streams, above 0.

    Returns:
        (...) periods, 0 the debut; NaN if the curve never gets there.
    """
    if not amount > 0:
        raise InputError(f"a milestone of {amount} streams is reached by nothing; give more than 0")
    reached = np.nan_to_num(charted_streams(curves, lowest)).cumsum(axis=-1) >= amount
    return np.where(reached.any(axis=-1), reached.argmax(axis=-1), np.nan)


def remaining(curves: Any, observed: int, lowest: Any = None) -> np.ndarray:
    """Streams after the first `observed` periods: (..., periods) → (...); NaN where periods are left, none known."""
    streams = charted_streams(curves, lowest)
    if not 0 <= observed <= streams.shape[-1]:
        raise InputError(f"observed {observed} is outside a curve of {streams.shape[-1]} periods")
    left = streams[..., observed:]
    unknown = np.isnan(left).all(axis=-1) & (left.shape[-1] > 0)
    return np.where(unknown, np.nan, np.nan_to_num(left).sum(axis=-1))


def probability_of_total(paths: Any, amount: float, axis: int = 0, lowest: Any = None) -> np.ndarray:
    """P(sum > amount): the share of sampled paths whose streams sum to more.

    Args:
        paths: (..., periods) with the samples on `axis`; paths without a known period are left out.
        amount: streams.
        axis: of the samples.
        lowest: as in `popularity_metrics`.

    Returns:
        The remaining leading axes; NaN where no path is known.
    """
    total = remaining(paths, 0, lowest)
    return _share(total > amount, ~np.isnan(total), _sample_axis(axis, np.ndim(paths)))


def probability_of_top(ranks: Any, top: int, axis: int = 0) -> np.ndarray:
    """P(enters the top N): the share of sampled rank paths whose best rank is at most N.

    Args:
        ranks: (..., periods) with the samples on `axis`, e.g. from `RankCurve.rank_of`; NaN is off the chart.
        top: N.
        axis: of the samples.

    Returns:
        The remaining leading axes.
    """
    best = np.where(np.isnan(ranks), np.inf, ranks).min(axis=-1)
    return _share(best <= top, np.ones(best.shape, bool), _sample_axis(axis, np.ndim(ranks)))


def percentile(values: Any, catalogue: Any) -> np.ndarray:
    """Place within a catalogue from 0 to 100: per cent of it that is lower, half of what is equal counted too.

    Args:
        values: any shape; NaN stays NaN.
        catalogue: the numbers of the songs to compare with; NaN are left out.

    Raises:
        InputError: the catalogue is empty.
    """
    values, ordered = np.asarray(values, dtype=float), np.ravel(np.asarray(catalogue, dtype=float))
    ordered = np.sort(ordered[~np.isnan(ordered)])
    if not len(ordered):
        raise InputError("the catalogue holds no number; a percentile needs at least one song to compare with")
    middle = (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")) / 2
    return np.where(np.isnan(values), np.nan, 100 * middle / len(ordered))


@dataclass(frozen=True)
class RankCurve:
    """Which rank an amount of streams had on one chart, a region's last before a cut-off; made by `fit`.

    Attributes:
        region: of the chart.
        date: its last day, ISO 8601.
        size: its lowest rank.
        rank: ranks in ascending order, those of equal streams as their mean.
        streams: of each, strictly descending.
    """

    region: str
    date: str
    size: int
    rank: tuple[float, ...]
    streams: tuple[float, ...]

    @classmethod
    def fit(cls, rows: pd.DataFrame) -> RankCurve:
        """From the rows of one chart: `region, date, rank, streams`; rows with an unknown rank or streams are left out.

        Raises:
            InputError: rows of several charts, or none with both rank and streams.
        """
        charts = rows[["region", "date"]].drop_duplicates()
        if len(charts) != 1:
            raise InputError(f"{len(charts)} charts given where a rank curve is of one; pick one region and date")
        region, day = str(charts["region"].iloc[0]), str(charts["date"].iloc[0])[:10]
        rank = rows["rank"].to_numpy(dtype=float, na_value=np.nan)
        streams = rows["streams"].to_numpy(dtype=float, na_value=np.nan)
        used = (rank >= 1) & (streams > 0)
        if not used.any():
            raise InputError(f"the chart of {region} on {day} has no row with both rank and streams")
        order = np.lexsort((-streams[used], rank[used]))
        rank = rank[used][order]
        # Charts are ranked by counts before late corrections: a rank never has more streams than the one above it.
        amounts, group = np.unique(np.minimum.accumulate(streams[used][order]), return_inverse=True)
        middle = np.bincount(group, rank) / np.bincount(group)
        points = (tuple(float(value) for value in values[::-1]) for values in (middle, amounts))
        return cls(region, day, int(rank.max()), *points)

    def rank_of(self, streams: Any, below: Literal["missing", "next"] = "missing") -> np.ndarray:
        """The rank that streams would have had, fractional: straight lines in log rank against log streams.

        Args:
            streams: any shape; NaN stays NaN.
            below: what streams below the chart's lowest get: "missing" NaN, "next" size + 1.

        Returns:
            Ranks in the shape of `streams`, never rising with streams; more than the top song has its rank.
        """
        if below not in ("missing", "next"):
            raise InputError(f"below {below!r} is not known; use 'missing' or 'next'")
        streams = np.asarray(streams, dtype=float)
        lowest = self.streams[-1]
        asked = np.log(np.maximum(np.nan_to_num(streams), lowest))
        rank = np.exp(np.interp(asked, np.log(self.streams[::-1]), np.log(self.rank[::-1])))
        rank = np.where(streams < lowest, np.nan if below == "missing" else self.size + 1, rank)
        return np.where(np.isnan(streams), np.nan, rank)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and text, as JSON holds."""
        return {
            "region": self.region,
            "date": self.date,
            "size": self.size,
            "rank": list(self.rank),
            "streams": list(self.streams),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> RankCurve:
        """The inverse of `to_dict`.

        Raises:
            InputError: a field is missing or the points are not those of a chart.
        """
        try:
            curve = cls(
                str(content["region"]),
                str(content["date"]),
                int(content["size"]),
                tuple(float(value) for value in content["rank"]),
                tuple(float(value) for value in content["streams"]),
            )
        except KeyError as error:
            raise InputError(f"a rank curve without {error}; write it by RankCurve.to_dict") from None
        if not curve.rank or len(curve.rank) != len(curve.streams) or np.any(np.diff(curve.streams) >= 0):
            raise InputError(
                f"the rank curve of {curve.region} on {curve.date} has {len(curve.rank)} ranks and "
                f"{len(curve.streams)} streams; give as many of each, streams descending"
            )
        return curve


def summarise_paths(metrics: Mapping[str, Any], axis: int = 0, index: pd.DataFrame | None = None) -> pd.DataFrame:
    """Distribution of each metric over sampled paths: its mean and its quantiles .1 to .9.

    Args:
        metrics: Metric → (...) one number a path, from `popularity_metrics`, all of one shape.
        axis: of the samples. Paths where a metric is NaN are left out of that metric.
        index: A row for each element of the remaining axes in their order, e.g. `track_id, region`. None numbers them:
            a column `axis_0`, … for each axis that remains.

    Returns:
        Long: the columns of `index`, `metric, mean, 0.1 … 0.9`; elements in order, each with all metrics. NaN where a
        metric is defined on no path.

    Raises:
        InputError: no metrics, shapes that differ, or an index of another length.
    """
    import pandas as pd

    from mp3model.evaluation.accuracy import QUANTILES, path_quantiles

    arrays = {name: np.asarray(values, dtype=float) for name, values in metrics.items()}
    shapes = {values.shape for values in arrays.values()}
    if len(shapes) != 1 or shapes == {()}:
        raise InputError(f"metrics of shapes {sorted(shapes)} cannot be summarised; give one number a path in each")
    moved = np.stack([np.moveaxis(values, axis, -1) for values in arrays.values()], axis=-2)
    elements, samples = moved.shape[:-2], moved.shape[-1]
    if index is None:
        places = np.indices(elements).reshape(len(elements), int(np.prod(elements)))
        index = pd.DataFrame({f"axis_{number}": place for number, place in enumerate(places)}, range(places.shape[1]))
    if len(index) != np.prod(elements):
        raise InputError(f"an index of {len(index)} rows for {np.prod(elements, dtype=int)} songs; give one row each")
    flat = moved.reshape(-1, samples)
    known = ~np.isnan(flat)
    count = known.sum(axis=1)
    mean = _divided(np.where(known, flat, 0.0).sum(axis=1), count)
    table = index.iloc[np.repeat(np.arange(len(index)), len(arrays))].reset_index(drop=True)
    table = table.assign(metric=np.tile(list(arrays), len(index)), mean=mean)
    return table.assign(**dict(zip(QUANTILES, path_quantiles(flat), strict=True)))


def popularity_table(
    frame: pd.DataFrame,
    off_chart: OffChart = "observed",
    gaps: Literal["unknown", "off the chart"] = "unknown",
    observed: int | None = None,
    rank_curves: Mapping[str, RankCurve] | None = None,
) -> pd.DataFrame:
    """`popularity_metrics` of a table of curves.

    Args:
        frame: `week` (or `day`) since debut and `streams`, a row a period; curves are told apart by those of
            `track_id, region, sample` that are there. A column `rank` gives the debut rank.
        off_chart, observed: as in `popularity_metrics`.
        gaps: What periods without a row are, up to the last of the table.
        rank_curves: Region → chart that gives the debut rank where the table has none.

    Returns:
        One row a curve in order of appearance: its `track_id, region, sample`, then a column a metric. For quantiles
        over samples give it to `summarise_table`.

    Raises:
        InputError: a missing column, a period before debut, a period given twice, an unknown `gaps`.
    """
    period_name = "day" if "day" in frame and "week" not in frame else "week"
    missing = [name for name in (period_name, "streams") if name not in frame]
    if missing or not len(frame):
        raise InputError(
            f"a table of {len(frame)} rows and columns {', '.join(map(str, frame))}; give rows of week and streams"
        )
    if gaps not in ("unknown", "off the chart"):
        raise InputError(f"gaps {gaps!r} is not known; use 'unknown' or 'off the chart'")
    keys = [name for name in _KEYS if name in frame]
    unnamed = frame[keys].isna().any(axis=1).to_numpy()
    if unnamed.any():
        raise InputError(f"row {int(unnamed.argmax())} of the table lacks one of {', '.join(keys)}")
    code = frame.groupby(keys, sort=False).ngroup().to_numpy() if keys else np.zeros(len(frame), int)
    period = _periods(frame[period_name], period_name)
    curves = np.full((code.max() + 1, period.max() + 1), 0.0 if gaps == "off the chart" else np.nan)
    _refuse_repeats(frame[keys], code * curves.shape[1] + period, period, period_name)
    curves[code, period] = frame["streams"].to_numpy(dtype=float, na_value=np.nan)
    first = np.unique(code, return_index=True)[1]
    table = frame.loc[:, keys].take(first).reset_index(drop=True)
    ranks = _debut_ranks(frame, table, code, period, curves[:, 0], rank_curves)
    return table.assign(**popularity_metrics(curves, off_chart, observed=observed, debut_rank=ranks))


def summarise_table(table: pd.DataFrame) -> pd.DataFrame:
    """Rows a sampled path, from `popularity_table`, in; `track_id, region, metric, mean, 0.1 … 0.9` out.

    Raises:
        InputError: no column `sample`, or curves with differing numbers of samples.
    """
    if "sample" not in table:
        raise InputError("a table without the column sample has no distribution to summarise; give sampled paths")
    keys = [name for name in _KEYS[:2] if name in table]
    order = table.groupby(keys, sort=False).ngroup().to_numpy() if keys else np.zeros(len(table), int)
    sizes = np.bincount(order)
    if len(set(sizes)) > 1:
        raise InputError(f"curves have between {sizes.min()} and {sizes.max()} samples; give as many of each")
    ordered = table.iloc[np.argsort(order, kind="stable")]
    shape = (len(sizes), int(sizes[0]))
    metrics = {name: ordered[name].to_numpy().reshape(shape) for name in (*METRICS, "remaining") if name in ordered}
    return summarise_paths(metrics, axis=1, index=ordered.loc[:, keys][:: shape[1]])


def _moments(streams: np.ndarray, counted: np.ndarray) -> dict[str, np.ndarray]:
    """Mean, standard deviation, skewness and kurtosis of the counted periods: (..., periods) each → (...)."""
    count = counted.sum(axis=-1)
    values = np.where(counted, streams, 0.0)
    mean = _divided(values.sum(axis=-1), count)
    away = np.where(counted, values - mean[..., None], 0.0)
    # In units of the largest, so that the fourth power neither overflows nor vanishes.
    unit = np.maximum(values.max(axis=-1), np.finfo(float).tiny)
    away = away / unit[..., None]
    second, third, fourth = (_divided((away**power).sum(axis=-1), count) for power in (2, 3, 4))
    # Rounding leaves equal values with a spread near, not at, zero.
    varies = second > 1e-24
    flat = np.where(varies, second, 1.0)
    return {
        "mean": mean,
        "std": np.where(varies | (count == 0), np.sqrt(second), 0.0) * unit,
        # Nor does a curve that is even about its mean come out at zero.
        "skewness": np.where(varies, np.where(np.abs(third) < 1e-12 * flat**1.5, 0.0, third) / flat**1.5, np.nan),
        "kurtosis": np.where(varies, fourth / flat**2, np.nan),
    }


def _divided(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)


def _ranks_given(ranks: Any, shape: tuple[int, ...]) -> np.ndarray:
    # None is NaN to numpy.
    return np.broadcast_to(np.asarray(ranks, dtype=float), shape).copy()


def _sample_axis(axis: int, dimensions: int) -> int:
    """`axis` of the paths as an axis of what is left once the periods, the last axis, are gone."""
    place = axis % dimensions
    if place == dimensions - 1:
        raise InputError(f"axis {axis} holds the periods; name the axis of the samples")
    return place


def _share(hits: np.ndarray, known: np.ndarray, axis: int) -> np.ndarray:
    return _divided((hits & known).sum(axis=axis), known.sum(axis=axis))


def _periods(values: pd.Series, name: str) -> np.ndarray:
    numbers = values.to_numpy(dtype=float, na_value=np.nan)
    wrong = ~((numbers >= 0) & (numbers == np.floor(numbers)))
    if wrong.any():
        raise InputError(f"{name} {numbers[wrong][0]:g} is no period; count whole periods from the debut, 0")
    return numbers.astype(int)


def _refuse_repeats(names: pd.DataFrame, cell: np.ndarray, period: np.ndarray, period_name: str) -> None:
    first = np.zeros(len(cell), bool)
    first[np.unique(cell, return_index=True)[1]] = True
    if not first.all():
        row = int(first.argmin())
        name = " ".join(str(value) for value in names.iloc[row]) or "the curve"
        raise InputError(f"{name} has {period_name} {period[row]} twice; give one row a period")


def _debut_ranks(
    frame: pd.DataFrame,
    table: pd.DataFrame,
    code: np.ndarray,
    period: np.ndarray,
    debut: np.ndarray,
    rank_curves: Mapping[str, RankCurve] | None,
) -> np.ndarray:
    """(curves,) ranks of period 0: those of the table, else by the region's chart, else NaN."""
    ranks = np.full(len(debut), np.nan)
    if "rank" in frame:
        first = period == 0
        ranks[code[first]] = frame["rank"].to_numpy(dtype=float, na_value=np.nan)[first]
    for region, curve in (rank_curves or {}).items() if "region" in table else ():
        asked = (table["region"] == region).to_numpy() & np.isnan(ranks)
        ranks[asked] = curve.rank_of(debut[asked])
    return ranks
