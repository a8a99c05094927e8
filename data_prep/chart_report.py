"""What a conversion of charts did in; its report out: JSON, Markdown and a heat map of what is on hand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data_prep.chart_formats.coded import DAY_BITS, EXAMPLES, SourceRows
from data_prep.chart_merge import KEPT, STATUSES, Merged, dates_of
from mp3model.files import written_whole
from mp3model.tables.curves import PERIOD_DAYS, curve_arrays
from mp3model.tables.folder import SPLITS, DatasetFolder
from mp3model.tables.splits import LONGEST_GAP

_SHOWN_FILES = 60
_SHOWN_PAIRS = 30


def report(
    *,
    frequency: str,
    nulls: str,
    used: Sequence[SourceRows],
    left_out: Sequence[SourceRows],
    unread: Sequence[tuple[str, str]],
    merged: Merged,
    tracks: pd.DataFrame,
    conflicts: dict[str, Any],
    splits: pd.DataFrame,
    effects: dict[str, Any],
    leaks: dict[str, Any],
    dropped: Sequence[str],
) -> dict[str, Any]:
    """All that happened, ready for JSON; numbers do not depend on when or where the command ran."""
    statuses = dict(zip([s.name + (s.frequency or "") for s in used if s.frequency], merged.statuses, strict=True))
    files = [_file(s, statuses.get(s.name + (s.frequency or "")), False) for s in used]
    files += [_file(s, None, True) for s in left_out]
    files.sort(key=lambda f: (f["name"], f["frequency"] or ""))
    rows = {
        "read": sum(f["read"] for f in files),
        "kept": sum(f["kept"] for f in files),
        "merged": sum(sum(f["merged"].values()) for f in files),
        "rejected": sum(r["count"] for f in files for r in f["rejected"].values()),
        "left_out": sum(f["left_out"] for f in files),
    }
    split_of = splits["split"].value_counts()
    coverage, gaps = _coverage(merged, frequency)
    return {
        "frequency": frequency,
        "nulls": nulls,
        "rows": rows,
        "reconciled": rows["read"] == sum(count for name, count in rows.items() if name != "read"),
        "files": files,
        "files_not_read": [{"name": name, "reason": reason} for name, reason in unread],
        "curves": len(merged.curves),
        "charts": 0 if merged.charts is None else len(merged.charts),
        "charts_with_missing_ranks": merged.holes,
        "ranks_dropped_without_chart": merged.unranked,
        "notes": merged.notes,
        "coverage": coverage,
        "gaps": gaps,
        "agreements": merged.pairs.to_dict("records"),
        "examples": merged.examples,
        "tracks": _track_counts(tracks),
        "conflicts": conflicts,
        "duplicate_ids": _duplicate_ids(tracks),
        "splits": {name: int(split_of.get(name, 0)) for name in SPLITS},
        "null_effects": effects,
        "leaks": leaks,
        "columns_dropped": list(dropped),
    }


def _file(source: SourceRows, statuses: np.ndarray | None, left_out: bool) -> dict[str, Any]:
    merged = {} if statuses is None else {STATUSES[i]: int(n) for i, n in enumerate(statuses) if i != KEPT and n}
    if source.summed:
        merged["summed with others of the day"] = source.summed
    kept = 0 if statuses is None else int(statuses[KEPT])
    if source.kind in ("tracks", "totals") and not left_out:
        kept = len(source.info)
    return {
        "name": source.name,
        "sha256": source.sha256,
        "format": source.format,
        "frequency": source.frequency,
        "read": source.read,
        "kept": kept,
        "merged": merged,
        "rejected": {
            reason: {"count": found.count, "examples": found.examples}
            for reason, found in sorted(source.rejected.items())
        },
        "left_out": source.coded if left_out else 0,
        "notes": source.notes,
    }


def _periods(merged: Merged) -> pd.DataFrame:
    """Region, date and rows of every period on hand; where there are no charts, of every date with rows."""
    if merged.charts is not None:
        return merged.charts[["region", "date", "size"]].rename(columns={"size": "rows"})
    key, count = np.unique(merged.curves.chart_key(), return_counts=True)
    return pd.DataFrame(
        {
            "region": merged.curves.region_names[key >> DAY_BITS],
            "date": dates_of(key & ((1 << DAY_BITS) - 1)),
            "rows": count,
        }
    )


def _coverage(merged: Merged, frequency: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    lines, gaps = [], []
    for region, rows in _periods(merged).sort_values(["region", "date"]).groupby("region"):
        date = rows["date"].to_numpy().astype("datetime64[D]")
        away = np.diff(date).astype(int)
        expected = int((date[-1] - date[0]).astype(int)) // PERIOD_DAYS[frequency] + 1
        breaks = np.flatnonzero(away > PERIOD_DAYS[frequency])
        lines.append(
            {
                "region": str(region),
                "first": str(date[0]),
                "last": str(date[-1]),
                "on_hand": len(rows),
                "expected": expected,
                "rows": int(rows["rows"].sum()),
                "median_size": float(rows["rows"].median()),
                "runs": int((away > LONGEST_GAP[frequency]).sum()) + 1,
            }
        )
        gaps += [
            {
                "region": str(region),
                "after": str(date[i]),
                "before": str(date[i + 1]),
                "missing": int(away[i]) // PERIOD_DAYS[frequency] - 1,
                "new_run": bool(away[i] > LONGEST_GAP[frequency]),
            }
            for i in breaks
        ]
    return lines, gaps


def _track_counts(tracks: pd.DataFrame) -> dict[str, Any]:
    present = {str(name): int(tracks[name].notna().sum()) for name in tracks if name not in ("track_id", "song_id")}
    kinds = {str(k): int(v) for k, v in tracks["kind"].value_counts().sort_index().items()} if "kind" in tracks else {}
    return {"tracks": len(tracks), "songs": int(tracks["song_id"].nunique()), "present": present, "kinds": kinds}


def _duplicate_ids(tracks: pd.DataFrame) -> dict[str, Any]:
    """Songs that several track ids share."""
    size = tracks.groupby("song_id").size()
    several = size[size > 1].sort_values(ascending=False, kind="stable").rename("size").to_frame()
    members = tracks[tracks["song_id"].isin(several.index[:EXAMPLES])].groupby("song_id")["track_id"]
    listed = {song: ", ".join(sorted(ids)[:5]) for song, ids in members}
    examples = [f"{several.loc[song, 'size']} ids: {listed[song]}" for song in several.index[:EXAMPLES]]
    return {"songs": len(several), "tracks": int(several["size"].sum()), "examples": examples}


# ---------------------------------------------------------------------------------------------------- null handling
def null_effects(
    merged: Merged, dataset: DatasetFolder, splits: pd.DataFrame, longest_gap: int
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """What each way of treating nulls does to the debuts' totals and lengths.

    Args:
        merged: curves and charts.
        dataset: tracks, charts and settings; its curves are not read.
        splits: the debuts.
        longest_gap: of interpolation, in periods.

    Returns:
        `track_id, region, total, debut_rank` of every debut as charts show it; for each way: debuts, debuts with a
        known total, sum and median of those totals (streams), mean and median length (periods with streams).
    """
    from dataclasses import replace

    horizon, curves = dataset.horizon, merged.curves
    found: dict[str, list[np.ndarray]] = {}
    outcomes = []
    position = {name: code for code, name in enumerate(curves.region_names)}
    for region, debuts in splits.groupby("region", sort=True):
        code = position[str(region)]
        # A region at a time: the arrays of all debuts at once would not fit into memory for millions of daily rows.
        wanted = _tracks_of_songs(dataset.tracks, debuts["track_id"], curves.track_ids)
        rows = np.flatnonzero((curves.region == code) & wanted[curves.track])
        part = replace(dataset, curves=curves.frame(rows), splits=None)
        arrays = curve_arrays(part, debuts, horizon + longest_gap)
        seen = arrays.chart_observed()
        for name, values in _by_mode(seen, arrays.streams, arrays.lowest, horizon, longest_gap).items():
            found.setdefault(name, []).append(values)
        total = seen[:, :horizon].sum(axis=1)
        outcomes.append(debuts[["track_id", "region"]].assign(total=total, debut_rank=arrays.rank[:, 0]))
    empty = splits[["track_id", "region"]].head(0).assign(total=0.0, debut_rank=0.0)
    return pd.concat([empty, *outcomes], ignore_index=True), {n: _summary(np.concatenate(v)) for n, v in found.items()}


def _tracks_of_songs(tracks: pd.DataFrame, chosen: pd.Series, track_ids: np.ndarray) -> np.ndarray:
    """Which of `track_ids` belong to a song of the chosen tracks: (track_ids,) bool."""
    songs = tracks.set_index("track_id")["song_id"]
    wanted = set(songs.loc[chosen])
    return songs.reindex(track_ids).isin(wanted).to_numpy()


def _by_mode(
    seen: np.ndarray, streams: np.ndarray, lowest: np.ndarray, horizon: int, longest_gap: int
) -> dict[str, np.ndarray]:
    """Total and length of each debut under each way: name → (debuts, 2), NaN where not known."""
    plain = np.where(np.isfinite(streams), streams, np.nan)

    def both(values: np.ndarray) -> np.ndarray:
        cut = values[:, :horizon]
        return np.column_stack([cut.sum(axis=1), np.where(np.isnan(cut).any(axis=1), np.nan, (cut > 0).sum(axis=1))])

    filled = _interpolated(plain, lowest, longest_gap)
    upper = np.where(np.isnan(plain) & np.isfinite(lowest), lowest, plain)
    censored = both(seen)
    return {
        "censored": np.column_stack([censored, upper[:, :horizon].sum(axis=1)]),
        "unknown": both(plain),
        "zero": censored,
        "interpolate": both(np.where(np.isnan(filled), seen, filled)),
    }


def _interpolated(streams: np.ndarray, lowest: np.ndarray, longest_gap: int) -> np.ndarray:
    """Gaps of at most `longest_gap` between two known values, as `fill_gaps` fills them: (debuts, periods)."""
    filled = streams.copy()
    known = np.isfinite(streams) & (streams > 0)
    count = streams.shape[1]
    for gap in range(1, longest_gap + 1):
        for start in range(count - gap - 1):
            inside = slice(start + 1, start + 1 + gap)
            at = known[:, start] & known[:, start + gap + 1] & np.isnan(streams[:, inside]).all(axis=1)
            left, right = np.log(streams[at, start]), np.log(streams[at, start + gap + 1])
            for step in range(1, gap + 1):
                value = np.exp(left + (right - left) * step / (gap + 1))
                cap = np.ceil(lowest[at, start + step]) - 1
                filled[at, start + step] = np.where(np.isfinite(cap), np.minimum(value, cap), value)
    return filled


def _summary(values: np.ndarray) -> dict[str, Any]:
    known = np.isfinite(values[:, 0])
    total, length = values[known, 0], values[known, 1]
    line: dict[str, Any] = {
        "debuts": len(values),
        "with_known_total": int(known.sum()),
        "total_sum": float(total.sum()),
        "total_median": float(np.median(total)) if len(total) else None,
        "length_mean": round(float(length.mean()), 4) if len(length) else None,
        "length_median": float(np.median(length)) if len(length) else None,
    }
    if values.shape[1] > 2:
        line["total_sum_at_most"] = float(np.nansum(values[:, 2]))
    return line


# ---------------------------------------------------------------------------------------------------------- writing
def markdown(report: dict[str, Any], leak_text: Sequence[str]) -> str:
    """The report for people."""
    rows = report["rows"]
    words = {"W": "weekly", "D": "daily"}
    lines = [
        "# Charts: what was read and what became of it",
        "",
        f"{rows['read']:,} rows read = {rows['kept']:,} kept + {rows['merged']:,} merged + "
        f"{rows['rejected']:,} rejected + {rows['left_out']:,} left out "
        f"({'reconciled' if report['reconciled'] else 'NOT RECONCILED'}).",
        f"The dataset is {words[report['frequency']]}; nulls are {report['nulls']}: "
        f"{report['curves']:,} curve rows, {report['charts']:,} charts, "
        f"{report['tracks']['tracks']:,} tracks of {report['tracks']['songs']:,} songs; "
        f"{report['charts_with_missing_ranks']:,} charts miss a rank above their last; "
        f"{report['ranks_dropped_without_chart']:,} ranks were dropped since their chart is not on hand.",
        *[f"- {note}" for note in report["notes"]],
        "",
        *_file_lines(report),
        *_agreement_lines(report),
        *_coverage_lines(report),
        *_track_lines(report),
        "## Debuts and splits",
        "",
        ", ".join(f"{name} {count:,}" for name, count in report["splits"].items()) + ".",
        "",
        *_null_lines(report),
        "## Leaks",
        "",
        *leak_text,
        "",
    ]
    if report["columns_dropped"]:
        lines += [f"Left out of the folder: {', '.join(report['columns_dropped'])}.", ""]
    return "\n".join(lines)


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    def cell(value: Any) -> str:
        text = f"{value:,}" if isinstance(value, int) else "" if value is None else str(value)
        return text.replace("|", "\\|").replace("\n", " ")

    body = ["| " + " | ".join(cell(v) for v in row) + " |" for row in rows]
    return ["| " + " | ".join(header) + " |", "|" + "---|" * len(header), *body, ""]


def _file_lines(report: dict[str, Any]) -> list[str]:
    files = report["files"]
    shown = [
        (
            f["name"],
            f["format"],
            f["frequency"],
            f["read"],
            f["kept"],
            sum(f["merged"].values()),
            sum(r["count"] for r in f["rejected"].values()),
            f["left_out"],
        )
        for f in files[:_SHOWN_FILES]
    ]
    lines = ["## Files", ""]
    lines += _table(("file", "format", "frequency", "read", "kept", "merged", "rejected", "left out"), shown)
    if len(files) > _SHOWN_FILES:
        lines += [f"{len(files) - _SHOWN_FILES:,} more files are in report.json.", ""]
    other = {"W": "daily", "D": "weekly"}[report["frequency"]]
    if any(f["left_out"] for f in files):
        lines += [f"Left out: {other} rows, which are another measure and are never mixed in; see --frequency.", ""]
    notes = [f"- {f['name']}: {note}" for f in files for note in f["notes"]]
    notes += [f"- {f['name']}: not read, {f['reason']}" for f in report["files_not_read"]]
    lines += [*notes[:_SHOWN_FILES], "", "### Rejected rows", ""]
    reasons = [
        (f["name"], reason, found["count"], " / ".join(found["examples"]))
        for f in files
        for reason, found in f["rejected"].items()
    ]
    if not reasons:
        return [*lines, "None.", ""]
    return lines + _table(("file", "reason", "rows", "examples"), reasons[:_SHOWN_FILES])


def _agreement_lines(report: dict[str, Any]) -> list[str]:
    lines = ["## Several sources for one chart", ""]
    pairs = report["agreements"]
    if pairs:
        total = {name: sum(pair[name] for pair in pairs) for name in ("agree", "differ")}
        lines += [f"{total['agree']:,} rows agree with the chosen source, {total['differ']:,} differ.", ""]
        ordered = sorted(pairs, key=lambda p: (-p["differ"], -p["agree"], p["source"], p["chosen"]))[:_SHOWN_PAIRS]
        header = ("source", "chosen (most complete)", "agree", "differ")
        lines += _table(header, [(p["source"], p["chosen"], p["agree"], p["differ"]) for p in ordered])
    else:
        lines += ["None.", ""]
    for status, examples in report["examples"].items():
        lines += [f"- {status}: {text}" for text in examples]
    return [*lines, ""]


def _coverage_lines(report: dict[str, Any]) -> list[str]:
    names = ("region", "first", "last", "on_hand", "expected", "rows", "median_size", "runs")
    lines = ["## Coverage", "", "![periods on hand by region and month](coverage.png)", ""]
    lines += _table([n.replace("_", " ") for n in names], [[c[n] for n in names] for c in report["coverage"]])
    gaps = report["gaps"]
    lines += [
        f"### Gaps ({len(gaps)})",
        "",
        "A gap that starts a new run hides what happened: first rows after it are no debuts.",
        "",
    ]
    longest = sorted(gaps, key=lambda g: (-g["missing"], g["region"], g["after"]))[:_SHOWN_FILES]
    header = ("region", "after", "before", "missing", "new run")
    return lines + _table(header, [(g["region"], g["after"], g["before"], g["missing"], g["new_run"]) for g in longest])


def _track_lines(report: dict[str, Any]) -> list[str]:
    tracks, double = report["tracks"], report["duplicate_ids"]
    lines = ["## Tracks", "", *_table(("column", "present"), tracks["present"].items())]
    lines += ["Kinds: " + ", ".join(f"{name} {count:,}" for name, count in tracks["kinds"].items()) + ".", ""]
    lines += [f"{double['songs']:,} songs have several track ids ({double['tracks']:,} in all).", ""]
    lines += [f"- {text}" for text in double["examples"]]
    for name, found in report["conflicts"].items():
        lines += [f"- {found['tracks']:,} tracks whose sources differ in {name}: " + "; ".join(found["examples"])]
    return [*lines, ""]


def _null_lines(report: dict[str, Any]) -> list[str]:
    effects = report["null_effects"]
    if not effects:
        return []
    names = ("debuts", "with_known_total", "total_sum", "total_median", "length_mean", "length_median")
    lines = ["## What a gap on a chart on hand means", ""]
    lines += _table(
        ["nulls", *(n.replace("_", " ") for n in names)],
        [[mode, *(_rounded(effects[mode][n]) for n in names)] for mode in effects],
    )
    most = effects["censored"].get("total_sum_at_most")
    lines += [
        "Debuts are first charted rows, which no way of filling gaps can move. Censored counts what charts show as "
        f"least and the chart's lowest as most ({_rounded(most)} streams in all); zero gives the same totals, but a "
        "loss that takes 0 for an observation.",
        "",
    ]
    return lines


def _rounded(value: Any) -> Any:
    return round(value) if isinstance(value, float) and abs(value) >= 100 else value


def heat_map(merged: Merged, frequency: str, file: Path) -> None:
    """Share of each month's periods on hand, by region; the same bytes for the same data."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    periods = _periods(merged)
    if not len(periods):
        return
    month = periods["date"].to_numpy().astype("datetime64[M]").astype(int)
    regions, names = pd.factorize(periods["region"], sort=True)
    first, count = month.min(), month.max() - month.min() + 1
    share = np.zeros((len(names), count))
    np.add.at(share, (regions, month - first), 1)
    starts = (np.datetime64(0, "M") + first + np.arange(count + 1)).astype("datetime64[D]").astype(int)
    # Days since 1970-01-01, itself a Thursday: whole weeks before each first of the month.
    ends = (starts - 1) // 7 if frequency == "W" else starts
    share /= np.maximum(np.diff(ends), 1)
    figure = Figure(figsize=(min(4 + count / 8, 24), 1.5 + len(names) / 6), dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = axes.imshow(share, aspect="auto", cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
    axes.set_yticks(range(len(names)), list(names), fontsize=7)
    labels = [str(np.datetime64(0, "M") + first + i) for i in range(count)]
    step = max(1, count // 12)
    axes.set_xticks(range(0, count, step), labels[::step], rotation=45, ha="right", fontsize=7)
    axes.set_title(f"{'Weekly' if frequency == 'W' else 'Daily'} charts on hand, share of each month", fontsize=9)
    figure.colorbar(image, ax=axes, fraction=0.03)
    figure.tight_layout()
    with written_whole(file) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
