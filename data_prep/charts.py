"""Chart exports of any known format in; a dataset folder with its report out.

    python -m data_prep.charts INPUT... --out DIR [--frequency W|D] [--test-from D --test-to D] [--nulls MODE]

INPUT are files, folders, zip and gz archives, mixed; each file is known by its content (see `data_prep.chart_formats`).
DIR gets the tables of a dataset folder and report.md, report.json, coverage.png: what was read, kept, merged and
rejected, and why; where files contradict each other; gaps; what leaks; what each way of treating gaps would change.

A period in which a chart is on hand but does not list a song is a null. --nulls says what it means:
  censored     the song had less streams than the chart's lowest (the default)
  unknown      nothing is known: the folder gets no charts table, and losses and totals mask the gap
  zero         0 streams are written for it
  interpolate  gaps of up to --longest-gap periods between two known values are filled; all others stay censored

Names of a distributor's columns: --columns date=Sales_Day,isrc=ISRC_Code,region=Shop_Country,streams=Qty
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.cluster import HELP
from mp3model.files import InputError, errors_in_one_line, flush, folder_beside, write_json, written_whole

if TYPE_CHECKING:
    import pandas as pd

    from data_prep.chart_formats.coded import Codes, SourceRows
    from data_prep.chart_merge import CodedCurves, Merged
    from mp3model.tables.folder import DatasetFolder

NULLS = ("censored", "unknown", "zero", "interpolate")
PERIODS = ("day", "week-start", "week-end")
REPORTS = ("report.md", "report.json", "coverage.png")


@dataclass
class Settings:
    """The command's options; see `--help`."""

    frequency: str | None = None
    test_from: str | None = None
    test_to: str | None = None
    nulls: str = "censored"
    longest_gap: int = 2
    horizon: int | None = None
    drop_leaky: bool = False
    merge_kinds: tuple[str, ...] = ("studio",)
    songs: Path | None = None
    columns: dict[str, str] = field(default_factory=dict)
    region: str | None = None
    periods: dict[str, str] = field(default_factory=dict)
    scheduler: str | None = None


def convert(inputs: Sequence[Path], out: Path, settings: Settings) -> dict[str, Any]:
    """Reads the inputs and writes the dataset folder, whole or not at all.

    Args:
        inputs: files and folders.
        out: the folder; tables of an earlier run are replaced, an audio bank in it is kept.
        settings: the command's options.

    Returns:
        The content of `report.json`.

    Raises:
        InputError: an input cannot be read or understood; `out` is as it was.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; give --out another folder")
    from mp3model.tables.folder import OWN_FILES, replace_dataset

    with folder_beside(out) as beside:
        if (out / "previews.parquet").exists():
            shutil.copyfile(out / "previews.parquet", beside / "previews.parquet")
            flush(beside / "previews.parquet")
        report = _convert(inputs, out, beside, settings)
        replace_dataset(beside, out, (*OWN_FILES, *REPORTS))
    return report


def _convert(inputs: Sequence[Path], out: Path, folder: Path, settings: Settings) -> dict[str, Any]:
    from data_prep import chart_report
    from data_prep.chart_formats.coded import Codes, Options
    from data_prep.chart_formats.periods import resolve_fridays
    from data_prep.chart_formats.reading import read_all
    from data_prep.chart_merge import merge
    from data_prep.chart_tracks import track_table, with_songs
    from data_prep.leaks import without_columns

    tracks, regions = Codes(), Codes()
    options = Options(columns=settings.columns, region=settings.region, periods=settings.periods)
    sources, unread = read_all(inputs, out, tracks, regions, options, settings.scheduler)
    resolve_fridays(sources)
    frequency, used, left_out = _of_one_frequency(sources, settings.frequency)
    for source in left_out:
        source.coded, source.blocks = source.rows, []
    merged = merge([s for s in used if s.frequency], tracks, regions)
    details = track_table(used, tracks)
    table = with_songs(details.frame, merged.curves, used, tracks, settings.merge_kinds, settings.songs)
    targets = _totals(used, table, tracks) if not len(merged.curves) else None
    if not len(merged.curves) and targets is None:
        raise InputError(
            f"{', '.join(str(path) for path in inputs)}: no chart rows were kept of the {len(sources)} files that were "
            f"understood ({_reasons(sources)}); give charts with a date, a region, a track and its streams"
        )
    if settings.nulls != "unknown" and targets is None and merged.charts is None:
        merged.notes.append("no chart is on hand: every gap is unknown")
    info: dict[str, Any] = {
        "frequency": frequency,
        "horizon": settings.horizon,
        "nulls": settings.nulls,
        "sources": sorted(s.name for s in used),
    }
    splits, outcomes, effects = _debuts(merged, table, targets, info, folder, settings)
    dataset = _dataset(folder, info, table, merged, outcomes, splits)
    leaks, leak_text = _leaks(dataset)
    written = without_columns(table, leaks["leaky"]) if settings.drop_leaky else table
    _write(folder, written, merged, targets, splits, info, settings)
    report = chart_report.report(
        frequency=frequency,
        nulls=settings.nulls,
        used=used,
        left_out=left_out,
        unread=unread,
        merged=merged,
        tracks=table,
        conflicts=details.conflicts,
        splits=splits,
        effects=effects,
        leaks=leaks,
        dropped=leaks["leaky"] if settings.drop_leaky else [],
    )
    write_json(folder / "report.json", report)
    with written_whole(folder / "report.md") as temporary:
        temporary.write_text(chart_report.markdown(report, leak_text))
    chart_report.heat_map(merged, frequency, folder / "coverage.png")
    return report


def _of_one_frequency(sources: list[SourceRows], asked: str | None) -> tuple[str, list[SourceRows], list[SourceRows]]:
    """The frequency of the dataset, the sources it takes and those it leaves out: daily and weekly never mix."""
    present = {s.frequency for s in sources if s.frequency and s.rows}
    if asked and present and asked not in present:
        names = {"W": "weekly", "D": "daily"}
        having = ", ".join(s.name for s in sources if s.frequency and s.rows)[:200]
        raise InputError(f"--frequency {asked}: no {names[asked]} rows among {having}; leave the option out")
    frequency = asked or ("D" if present == {"D"} else "W")
    used = [s for s in sources if s.frequency in (frequency, None)]
    return frequency, used, [s for s in sources if s not in used]


def _reasons(sources: list[SourceRows]) -> str:
    counts = [f"{r.count} {reason}" for s in sources for reason, r in s.rejected.items()]
    return "; ".join(counts[:3]) or "all are track tables or empty"


def _totals(used: list[SourceRows], table: pd.DataFrame, tracks: Codes) -> pd.DataFrame | None:
    """Targets from totals pages, where nothing dated is on hand; of two pages the larger total counts."""
    import numpy as np
    import pandas as pd

    pages = [s.info for s in used if s.kind == "totals"]
    if not pages:
        return None
    rows = pd.concat(pages)
    rows["track_id"] = [tracks.texts[code] for code in rows.pop("track")]
    return rows.groupby(["track_id", "region"], as_index=False)["total"].max().assign(debut_rank=np.nan)


def _dataset(
    folder: Path,
    info: dict[str, Any],
    tracks: pd.DataFrame,
    merged: Merged,
    targets: pd.DataFrame | None,
    splits: pd.DataFrame,
) -> DatasetFolder:
    from mp3model.tables.folder import SCHEMAS, DatasetFolder
    from mp3model.tables.schema import validate

    tables = {"tracks": tracks, "charts": merged.charts, "targets": targets, "splits": splits}
    settled = {k: validate(t, SCHEMAS[k], folder / f"{k}.parquet") for k, t in tables.items() if t is not None}
    return DatasetFolder(path=folder, info=info, **settled)


def _debuts(
    merged: Merged,
    tracks: pd.DataFrame,
    targets: pd.DataFrame | None,
    info: dict[str, Any],
    folder: Path,
    settings: Settings,
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    """Splits; total and debut rank of each; what each way of treating nulls would change."""
    from data_prep.chart_report import null_effects
    from mp3model.tables.folder import SCHEMAS, DatasetFolder
    from mp3model.tables.schema import validate
    from mp3model.tables.splits import make_splits

    settled = {"tracks": validate(tracks, SCHEMAS["tracks"], folder / "tracks.parquet")}
    if targets is not None:
        settled["targets"] = validate(targets, SCHEMAS["targets"], folder / "targets.parquet")
        splits = make_splits(DatasetFolder(path=folder, info=info, **settled))
        return splits, targets, {}
    if merged.charts is not None:
        settled["charts"] = validate(merged.charts, SCHEMAS["charts"], folder / "charts.parquet")
        # A debut is a song's first charted row: no other row can change which debuts there are.
        from data_prep.chart_gaps import first_charted

        rows = first_charted(merged)
    else:
        rows = merged.curves.frame(slice(None))
    settled["curves"] = validate(rows, SCHEMAS["curves"], folder / "curves.parquet")
    dataset = DatasetFolder(path=folder, info=info, **settled)
    splits = make_splits(dataset, settings.test_from, settings.test_to)
    outcomes, effects = null_effects(merged, dataset, splits, settings.longest_gap)
    return splits, outcomes, effects


def _leaks(dataset: DatasetFolder) -> tuple[dict[str, Any], list[str]]:
    from data_prep.leaks import leak_lines, leak_report

    if dataset.splits is None or not len(dataset.splits):
        return {"columns": [], "leaky": []}, ["No debut is on hand: nothing can be measured."]
    report = leak_report(dataset)
    return report, leak_lines(report)


def _write(
    folder: Path,
    tracks: pd.DataFrame,
    merged: Merged,
    targets: pd.DataFrame | None,
    splits: pd.DataFrame,
    info: dict[str, Any],
    settings: Settings,
) -> None:
    from mp3model.tables.folder import write_dataset

    given: dict[str, Any] = {"tracks": tracks, "splits": splits, "info": info}
    if targets is not None:
        write_dataset(folder, targets=targets, **given)
        return
    charts = None if settings.nulls == "unknown" else merged.charts
    write_dataset(folder, curves=_filled(merged, tracks, info, settings).blocks(), charts=charts, **given)


def _filled(merged: Merged, tracks: pd.DataFrame, info: dict[str, Any], settings: Settings) -> CodedCurves:
    import pandas as pd

    from data_prep.chart_gaps import fill_gaps
    from mp3model.tables.folder import DEFAULT_HORIZON

    if settings.nulls not in ("zero", "interpolate"):
        return merged.curves
    songs = tracks.set_index("track_id")["song_id"].reindex(merged.curves.track_ids)
    horizon = info["horizon"] or DEFAULT_HORIZON[info["frequency"]]
    codes = pd.factorize(songs)[0]
    return fill_gaps(merged, codes, settings.nulls, info["frequency"], horizon, settings.longest_gap)


def _pairs(text: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(name and value for name, _, value in pairs):
        raise argparse.ArgumentTypeError(f"{text!r}: write it as name=value,name=value")
    return {name.strip(): value.strip() for name, _, value in pairs}


def _columns(text: str) -> dict[str, str]:
    pairs = _pairs(text)
    known = {"date", "isrc", "id", "region", "streams", "title", "artist"}
    unknown = sorted(set(pairs) - known)
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is no role; use {', '.join(sorted(known))}")
    return pairs


def _period(text: str) -> dict[str, str]:
    pairs = _pairs(text)
    for value in pairs.values():
        if value not in PERIODS:
            raise argparse.ArgumentTypeError(f"{value!r}: use {', '.join(PERIODS)}")
    return pairs


def _whole(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1")
    return int(text)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.charts", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("inputs", nargs="+", type=Path, metavar="INPUT", help="chart exports: files, folders, zip, gz")
    add("--out", type=Path, required=True, metavar="DIR", help="the dataset folder")
    add("--frequency", choices=("W", "D"), help="weeks or days, where the inputs have both (W); the rest is left out")
    add("--test-from", metavar="DATE", help="first day of the test debuts (default: the last fifth)")
    add("--test-to", metavar="DATE", help="last day of the test debuts (default: the last debut)")
    add("--nulls", choices=NULLS, default="censored", help="what a gap on a chart on hand means (censored)")
    add("--longest-gap", type=_whole, default=2, metavar="N", help="longest gap to interpolate, in periods (2)")
    add("--horizon", type=_whole, metavar="N", help="periods to forecast (12 weeks, 84 days)")
    add("--drop-leaky", action="store_true", help="write the folder without the columns that the leak report names")
    add("--merge", nargs="+", default=["studio"], metavar="KIND", help="kinds of versions that are one song (studio)")
    add("--songs", type=Path, metavar="FILE", help="track_id, song_id: songs of your own instead of data_prep.versions")
    add("--columns", type=_columns, default={}, metavar="ROLE=NAME,…", help="columns of a distributor's export")
    add("--region", help="region of files that name none")
    add("--scheduler", metavar="ADDRESS", help=f"read files on {HELP}")
    add(
        "--period",
        action="append",
        type=_period,
        default=[],
        metavar="NAME=P",
        help=f"dates of files with NAME in their name: {', '.join(PERIODS)}",
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command."""
    options = _arguments(arguments)
    with errors_in_one_line():
        region = options.region
        if region is not None:
            from data_prep.regions import region_code

            region = region_code(region)
            if region is None:
                raise InputError(f"--region {options.region!r} is no country that is known; use a code such as US")
        settings = Settings(
            frequency=options.frequency,
            test_from=options.test_from,
            test_to=options.test_to,
            nulls=options.nulls,
            longest_gap=options.longest_gap,
            horizon=options.horizon,
            drop_leaky=options.drop_leaky,
            merge_kinds=tuple(options.merge),
            songs=options.songs,
            columns=options.columns,
            region=region,
            periods={name: value for pair in options.period for name, value in pair.items()},
            scheduler=options.scheduler,
        )
        report = convert(options.inputs, options.out, settings)
    rows = report["rows"]
    print(
        f"{options.out}: {rows['read']:,} rows read = {rows['kept']:,} kept + {rows['merged']:,} merged + "
        f"{rows['rejected']:,} rejected + {rows['left_out']:,} left out; {report['tracks']['tracks']:,} tracks, "
        f"{sum(report['splits'].values()):,} debuts {report['splits']}; see report.md"
    )
    if report["leaks"]["leaky"]:
        leaky = ", ".join(report["leaks"]["leaky"])
        print(f"warning: gaps in {leaky} foretell the outcome; see report.md, --drop-leaky")
    return 0


if __name__ == "__main__":
    sys.exit(main())
