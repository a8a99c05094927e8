"""Coded rows whose dates are days or weeks in; the same with the frequency settled and weeks by their Thursday out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_prep.chart_formats.coded import DAY_BITS, REGION_BITS, Options, SourceRows
from mp3model.files import InputError

THURSDAY, FRIDAY = 3, 4
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_WEEKDAY_OF_EPOCH = 1  # 1980-01-01 was a Tuesday


def settle_period(rows: SourceRows, options: Options) -> None:
    """Settles frequency and the meaning of dates; weekly dates end up on the Thursday that ends their week.

    Raises:
        InputError: weekly dates fall on no known weekday, or nothing tells days from weeks.
    """
    told = next((period for pattern, period in options.periods.items() if pattern in rows.name), None)
    if told is not None:
        rows.frequency, rows.date_means = ("D", "day") if told == "day" else ("W", told)
    days = (
        np.unique(np.concatenate([np.unique(block[2]) for block in rows.blocks])) if rows.blocks else np.array([], int)
    )
    if not len(days):
        rows.frequency = None if rows.frequency == "?" else rows.frequency
        return
    weekdays = np.unique((days + _WEEKDAY_OF_EPOCH) % 7)
    if rows.frequency == "?":
        _guess_period(rows, days, weekdays)
    if rows.frequency == "D":
        if rows.kind == "chart" and len(days) > 2 and len(weekdays) == 1:
            rows.notes.append(f"daily values of {_WEEKDAYS[weekdays[0]]}s only: they are no weekly sums and stay daily")
        return
    shift = _shift_to_thursday(rows, weekdays, told is not None)
    if shift:
        for block in rows.blocks:
            block[2][:] += shift
        rows.notes.append(
            f"dates are the week's first day ({_WEEKDAYS[weekdays[0]]}): "
            f"moved by {shift:+d} days to the Thursday that ends it"
            if rows.date_means == "week-start"
            else f"dates on a {_WEEKDAYS[weekdays[0]]} moved by {shift:+d} days to the Thursday that ends the week"
        )


def _guess_period(rows: SourceRows, days: np.ndarray, weekdays: np.ndarray) -> None:
    if len(weekdays) > 1:
        rows.frequency = "D"
    elif len(days) > 1 and weekdays[0] == THURSDAY:
        rows.frequency, rows.date_means = "W", "week-end"
    elif rows.kind != "chart":
        rows.frequency = "D"
    elif len(days) > 1 and weekdays[0] == FRIDAY:
        # Weeks by their first day, or the Fridays of a daily chart: told apart by their size if a chart is at hand.
        rows.frequency, rows.date_means = "D", "fridays"
    else:
        raise InputError(
            f"{rows.name}: its dates ({len(days)}, all on a {_WEEKDAYS[weekdays[0]]}) do not tell whether it is daily "
            f"or weekly; give --period '{Path(rows.name).name}=day' (or =week-end, =week-start)"
        )


def _shift_to_thursday(rows: SourceRows, weekdays: np.ndarray, told: bool) -> int:
    if len(weekdays) > 1:
        names = ", ".join(_WEEKDAYS[day] for day in weekdays)
        raise InputError(
            f"{rows.name}: a weekly file with dates on {names}; weeks end on a Thursday: correct the dates, or give "
            f"--period '{Path(rows.name).name}=day' if its values are daily"
        )
    weekday = int(weekdays[0])
    if rows.date_means == "week-start":
        if weekday == FRIDAY:
            return 6
    elif weekday == THURSDAY:
        return 0
    if told:
        behind = weekday - THURSDAY if rows.date_means == "week-end" else weekday - FRIDAY
        return (6 if rows.date_means == "week-start" else 0) - ((behind + 3) % 7 - 3)
    wanted = "start on a Friday" if rows.date_means == "week-start" else "end on a Thursday"
    raise InputError(
        f"{rows.name}: a weekly file with dates on a {_WEEKDAYS[weekday]}, but weeks {wanted}; correct the dates, or "
        f"give --period '{Path(rows.name).name}=week-end' (or =week-start) to move them to the nearest chart week"
    )


def resolve_fridays(sources: Sequence[SourceRows]) -> None:
    """Tells Fridays of a daily chart from weeks by their first day, where a weekly chart of the same region is on hand.

    A week sums to about seven days: the ratio to the weekly chart's streams tells. Sources without one stay daily.
    """
    for source in sources:
        if source.date_means != "fridays":
            continue
        ratios = [_ratio(source, other) for other in sources if other.frequency == "W" and other.kind == "chart"]
        known = np.concatenate([*ratios, np.zeros(0)])
        if len(known) >= 20 and np.median(known) > 0.5:
            source.frequency, source.date_means = "W", "week-start"
            for block in source.blocks:
                block[2][:] += 6
            source.notes[:] = [
                f"dates on Fridays taken for the first days of weeks: streams are {np.median(known):.2f} of a weekly "
                "chart on hand; moved by +6 days to the Thursday that ends the week"
            ]
        elif len(known) >= 20:
            source.notes.append(f"streams are {np.median(known):.2f} of a weekly chart on hand, as single days are")


def _ratio(source: SourceRows, weekly: SourceRows) -> np.ndarray:
    """Streams of the source over those of the weekly chart whose first day is the source's."""

    def rows(of: SourceRows, shift: int) -> tuple[np.ndarray, np.ndarray]:
        regions = {int(r) for block in source.blocks for r in np.unique(block[1])}
        keys, streams = [], []
        for track, region, day, _, value in of.blocks:
            used = np.isin(region, list(regions))
            key = (track[used].astype(np.int64) << REGION_BITS) + region[used]
            keys.append((key << DAY_BITS) + day[used] + shift)
            streams.append(value[used])
        return np.concatenate(keys), np.concatenate(streams)

    own, reference = rows(source, 6), rows(weekly, 0)
    _, mine, theirs = np.intersect1d(own[0], reference[0], return_indices=True)
    return own[1][mine] / reference[1][theirs]
