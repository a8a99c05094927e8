"""A dataset folder in; how well the gaps in its metadata alone foretell the outcome out, and the folder without them.

    python -m data_prep.leaks DIR [--threshold 0.02] [--json FILE]

Metadata joined from crawls of songs that did well are present for songs that did well. A model then learns from the
gap, not from the value: trees split on NaN by themselves, and a filled-in mean marks the row just as well. The gain is
gone on songs that nobody has crawled yet. So before any column becomes an input, its missing flag is put to the test:

  outcome    log total streams over the horizon, ranked within region and year of debut
  one flag   Spearman correlation of "is missing" with the outcome in each region and year, then their mean
  jointly    the same of a small boosted model that sees all flags, predicted for artists it was not fitted on

with 95 % intervals by a bootstrap over artists. A flag leaks where that interval, widened for the number of flags,
lies beyond the threshold on either side of zero. Flags are named one after another until those left predict nothing
jointly. The report speaks of gaps only: a value can leak too (popularity, chart counts), and must be judged by hand.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mp3model.files import InputError, errors_in_one_line, write_json

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from mp3model.tables.folder import DatasetFolder

# A fifth of the gain that made the check necessary; below it a flag adds nothing a test of 20,000 rows would show.
THRESHOLD = 0.02
SMALLEST_GROUP = 30
RESAMPLES = 200
FOLDS = 5
# The bootstrap keeps the predictions; a new sample would also fit new models. With gaps at random the joint value
# scatters 1.6 times as widely as the bootstrap says (40 made datasets of 900 tracks).
_REFIT = 1.6
_TEXTS = ("title", "artist", "isrc", "kind", "release_date", "release_latest")
_KEPT = ("track_id", "song_id")


@dataclass(frozen=True)
class _Rows:
    """Debuts in groups large enough to rank.

    Attributes:
        outcome: (rows,) centred rank of the total within its group, −0.5 to 0.5.
        group: (rows,) region and year, 0 … groups − 1.
        artist: (rows,) 0 … artists − 1.
        missing: columns that are missing in some rows and present in others → (rows,) bool.
        always: columns that are present in all rows or in none → share missing.
    """

    outcome: np.ndarray
    group: np.ndarray
    artist: np.ndarray
    missing: dict[str, np.ndarray]
    always: dict[str, float]


def leak_report(
    dataset: DatasetFolder, threshold: float = THRESHOLD, seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, Any]:
    """Measures what missing flags foretell; see the module's docstring for the definitions.

    Args:
        dataset: with splits, or targets, or curves to find debuts in.
        threshold: correlation that is still taken for nothing.
        seed: of the folds and the bootstrap.
        resamples: of the bootstrap.

    Returns:
        JSON-ready: `rows`, `groups`, `artists`, `threshold`; `columns`, a list of `column`, `missing` (share of the
        rows), and unless that is 0 or 1 `spearman` (negative: rows without the value do worse), `low`, `high`, `leaks`;
        `joint` of all flags and `rest` of those not named (`spearman`, `low`, `high`, `leaks`, or None without a flag);
        `leaky`, the names of the columns to leave out, strongest first.
    """
    rows = _rows(dataset)
    draws = _Bootstrap.of(rows, resamples, seed)
    measured = _measure_columns(rows, draws, threshold)
    leaky = [line["column"] for line in sorted(measured, key=lambda line: -abs(line["spearman"])) if line["leaks"]]
    joint = rest = _measure_jointly(rows, draws, list(rows.missing), threshold, seed)
    left = sorted((line for line in measured if not line["leaks"]), key=lambda line: -abs(line["spearman"]))
    if leaky:
        rest = _measure_jointly(rows, draws, [line["column"] for line in left], threshold, seed)
    while rest is not None and rest["leaks"]:
        leaky.append(left.pop(0)["column"])
        rest = _measure_jointly(rows, draws, [line["column"] for line in left], threshold, seed)
    constant = [{"column": name, "missing": share} for name, share in rows.always.items()]
    return {
        "rows": len(rows.outcome),
        "groups": int(rows.group.max(initial=-1)) + 1,
        "artists": int(rows.artist.max(initial=-1)) + 1,
        "threshold": threshold,
        "columns": [*measured, *constant],
        "joint": joint,
        "rest": rest,
        "leaky": leaky,
    }


def leak_lines(report: dict[str, Any]) -> list[str]:
    """The report as markdown: a verdict, then a table of the flags."""
    if not report["rows"]:
        return [f"Leak report: no region and year has {SMALLEST_GROUP} debuts, too few to tell what gaps foretell."]
    within = f"{report['rows']:,} debuts, {report['groups']} regions and years, {report['artists']:,} artists"
    limit = f"beyond ±{report['threshold']:g}"
    if report["leaky"]:
        names = ", ".join(f"`{name}`" for name in report["leaky"])
        verdict = (
            f"**WARNING: that a value is missing foretells the outcome** ({within}; Spearman {limit}): {names}. "
            "Leave these columns out of every input, or train and test only on rows that have them."
        )
    else:
        verdict = f"No gap in the metadata foretells the outcome ({within}; no Spearman {limit})."
    lines = [verdict, "", "| missing flag of | missing | Spearman | 95 % interval | leaks |", "|---|---|---|---|---|"]
    for line in report["columns"]:
        named = "yes" if line["column"] in report["leaky"] else "no"
        share = f"| `{line['column']}` | {line['missing']:.1%} |"
        lines.append(f"{share} {_shown(line)} | {named} |" if "spearman" in line else f"{share} – | – | no |")
    for name, key in (("all flags jointly", "joint"), ("the flags not named, jointly", "rest")):
        if report[key] is not None and (key == "joint" or report["leaky"]):
            lines.append(f"| {name} | | {_shown(report[key])} | {'yes' if report[key]['leaks'] else 'no'} |")
    return lines


def _shown(line: dict[str, Any]) -> str:
    return f"{line['spearman']:+.3f} | {line['low']:+.3f} to {line['high']:+.3f}"


def without_columns(tracks: pd.DataFrame, names: Iterable[str]) -> pd.DataFrame:
    """Takes columns out of a table of tracks; those that every table of tracks has stay and become missing.

    Raises:
        InputError: there is no such column, or it is the id of the track or the song.
    """
    from mp3model.tables.folder import SCHEMAS

    names = list(names)
    for name in names:
        if name not in tracks:
            raise InputError(f"tracks have no column {name!r} to leave out; there are {', '.join(tracks.columns)}")
        if name in _KEPT:
            raise InputError(f"column {name!r} cannot be left out: it says what a row is")
    columns = SCHEMAS["tracks"].columns
    blank = [name for name in names if name in columns and columns[name].required]
    emptied = tracks.assign(**{name: tracks[name].where(tracks[name].isna()) for name in blank})
    return emptied.drop(columns=[name for name in names if name not in blank])


def drop_leaky(dataset: DatasetFolder, report: dict[str, Any]) -> DatasetFolder:
    """The same dataset without the columns that `leak_report` names.

    Splits stay as they are: they were made with every release date on hand.
    """
    return replace(dataset, tracks=without_columns(dataset.tracks, report["leaky"]))


def _rows(dataset: DatasetFolder) -> _Rows:
    import pandas as pd

    from mp3model.tables.curves import log_streams, popularity_targets
    from mp3model.tables.schema import places
    from mp3model.tables.splits import find_debuts
    from mp3model.tables.tracks import artist_keys

    known = dataset.splits is not None or dataset.targets is not None
    rows = popularity_targets(dataset, None if known else find_debuts(dataset))
    rows = rows[rows["total"].notna()].reset_index(drop=True)
    year = rows["debut"].dt.year.fillna(0).astype(int)
    size = rows.groupby([rows["region"], year])["total"].transform("size")
    rows, year = rows[size >= SMALLEST_GROUP], year[size >= SMALLEST_GROUP]
    group = rows.groupby([rows["region"], year]).ngroup().to_numpy()
    ranked = pd.Series(log_streams(rows["total"])).groupby(group).rank(pct=True).to_numpy()
    outcome = ranked - pd.Series(ranked).groupby(group).transform("mean").to_numpy()
    place = places(rows["track_id"], dataset.tracks["track_id"])
    artist = pd.factorize(artist_keys(dataset.tracks).to_numpy()[place])[0]
    tested = [name for name in map(str, dataset.tracks) if name in _TEXTS or name.startswith("x_")]
    missing: dict[str, np.ndarray] = {}
    always: dict[str, float] = {}
    for name in tested:
        flag = dataset.tracks[name].isna().to_numpy()[place]
        if flag.any() and not flag.all():
            missing[name] = flag
        else:
            always[name] = float(flag.any())
    return _Rows(outcome, group, artist, missing, always)


@dataclass(frozen=True)
class _Bootstrap:
    """How often each artist is drawn: (resamples, artists) uint8; the rows of each group."""

    counts: np.ndarray
    members: list[np.ndarray]

    @classmethod
    def of(cls, rows: _Rows, resamples: int, seed: int) -> _Bootstrap:
        import numpy as np

        random = np.random.default_rng(seed)
        size = int(rows.artist.max(initial=-1)) + 1
        drawn = [np.bincount(random.integers(0, size, size), minlength=size).astype(np.uint8) for _ in range(resamples)]
        order = np.argsort(rows.group, kind="stable")
        members = np.split(order, np.flatnonzero(np.diff(rows.group[order])) + 1) if len(order) else []
        return cls(np.array(drawn), members)


def _mean_spearman(rows: _Rows, draws: _Bootstrap, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Spearman of each column with the outcome within each group, averaged; (rows, k) → (k,), standard errors (k,).

    A score that is constant in a group counts as 0 there: it foretells nothing. The resamples weigh the ranks of the
    full sample.
    """
    import numpy as np
    from scipy.stats import rankdata

    whole = np.ones((1, draws.counts.shape[1]), np.uint8)
    counts = np.concatenate([whole, draws.counts])
    total = np.zeros((len(counts), scores.shape[1]))
    for member in draws.members:
        x = rankdata(scores[member], axis=0) / len(member) - 0.5
        y = rows.outcome[member]
        weight = counts[:, rows.artist[member]].astype(float)
        weight /= np.maximum(weight.sum(axis=1, keepdims=True), 1)
        mean_x, mean_y = weight @ x, (weight @ y)[:, None]
        covariance = weight @ (x * y[:, None]) - mean_x * mean_y
        spread = (weight @ x**2 - mean_x**2) * ((weight @ y**2)[:, None] - mean_y**2)
        # Rounding leaves about 1e-18 where a score does not vary.
        total += np.where(spread > 1e-12, covariance / np.sqrt(np.maximum(spread, 1e-12)), 0.0)
    total /= len(draws.members)
    return total[0], total[1:].std(axis=0, ddof=1)


def _measure_columns(rows: _Rows, draws: _Bootstrap, threshold: float) -> list[dict[str, Any]]:
    import numpy as np

    if not rows.missing:
        return []
    flags = np.column_stack(list(rows.missing.values())).astype(float)
    measured = _lines(*_mean_spearman(rows, draws, flags), threshold)
    shares = flags.mean(axis=0).tolist()
    return [
        {"column": name, "missing": share, **line}
        for name, share, line in zip(rows.missing, shares, measured, strict=True)
    ]


def _lines(value: np.ndarray, error: np.ndarray, threshold: float) -> list[dict[str, Any]]:
    from scipy.stats import norm

    # Bonferroni: of twenty flags that mean nothing, one would otherwise look as if it did.
    wide = float(norm.ppf(1 - 0.025 / len(value)))
    usual = float(norm.ppf(0.975))
    return [
        {
            "spearman": one,
            "low": one - usual * spread,
            "high": one + usual * spread,
            "leaks": abs(one) - wide * spread > threshold,
        }
        for one, spread in zip(value.tolist(), error.tolist(), strict=True)
    ]


def _measure_jointly(
    rows: _Rows, draws: _Bootstrap, names: Sequence[str], threshold: float, seed: int
) -> dict[str, Any] | None:
    import numpy as np
    from sklearn.ensemble import HistGradientBoostingRegressor

    artists = int(rows.artist.max(initial=-1)) + 1
    if not names or artists < FOLDS:
        return None
    # Descriptors of one crawl are missing together: one flag of each pattern is enough, and many times faster.
    flags = np.unique(np.column_stack([rows.missing[name] for name in names]), axis=1).astype(np.uint8)
    fold = (np.random.default_rng(seed).permutation(artists) % FOLDS)[rows.artist]
    predicted = np.zeros(len(rows.outcome))
    for held_out in range(FOLDS):
        fitted = fold != held_out
        model = HistGradientBoostingRegressor(
            max_iter=40, learning_rate=0.2, max_leaf_nodes=8, min_samples_leaf=50, early_stopping=False, random_state=0
        )
        model.fit(flags[fitted], rows.outcome[fitted])
        # The mean of the other folds is high where that of this one is low: left in, it would foretell backwards.
        predicted[~fitted] = model.predict(flags[~fitted]) - rows.outcome[fitted].mean()
    value, error = _mean_spearman(rows, draws, predicted[:, None])
    line = _lines(value, _REFIT * error, threshold)[0]
    # A model can be worse than nothing; only one that predicts has found a leak.
    return {**line, "leaks": line["leaks"] and line["spearman"] > 0}


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0], prog="python -m data_prep.leaks")
    parser.add_argument("dataset", type=Path, metavar="DIR", help="dataset folder")
    parser.add_argument("--threshold", type=float, default=THRESHOLD, help="correlation that is taken for nothing")
    parser.add_argument("--json", type=Path, help="also write the report here")
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> None:
    """The command; see the module's docstring."""
    arguments = _arguments(given)
    with errors_in_one_line():
        from mp3model.tables.folder import read_dataset

        report = leak_report(read_dataset(arguments.dataset), arguments.threshold)
        if arguments.json:
            write_json(arguments.json, report)
        print("\n".join(leak_lines(report)))


if __name__ == "__main__":
    main()
