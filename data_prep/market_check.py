"""A simulated market in; how it compares with real charts out, as a table with tolerances and pictures."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from data_prep.market_law import HIDDEN_FROM_MEAN
from data_prep.market_pictures import draw_clips, draw_songs
from mp3model.files import InputError, written_whole
from mp3model.tables.curves import curve_arrays
from mp3model.tables.folder import DatasetFolder, read_dataset
from mp3model.tables.tracks import artist_keys


@dataclass(frozen=True)
class Statistic:
    """One line of the table: what the market has, what it should have, and how far off it may be."""

    name: str
    value: float
    aim: float
    tolerance: float

    @property
    def passed(self) -> bool:
        return bool(abs(self.value - self.aim) <= self.tolerance + 1e-9)


def check_market(path: str | os.PathLike[str]) -> str:
    """Measures a market, draws `market.png`, `songs.png` and `clips.png` into its folder and returns a table as text.

    Real values are those of Spotify's weekly charts (88,856 debuts by the project's definition); the lines on hearing
    and on the oracle are aims of the design. Small markets scatter: judge by 2,000 songs.

    Raises:
        InputError: the folder is no simulated market.
    """
    dataset = read_dataset(path)
    if "market" not in dataset.info or dataset.splits is None:
        raise InputError(f"{path}: is no simulated market; make one by python -m data_prep.market --out DIR")
    rows, curves = measured_rows(dataset)
    lines = [*real_statistics(dataset, rows, curves), *design_statistics(dataset, rows)]
    picture = dataset.path / "market.png"
    draw_market_picture(dataset, rows, curves, picture)
    pictures = [picture, draw_songs(dataset, rows), *draw_clips(dataset)]
    table = [f"{'statistic':<58}{'market':>9}{'aim':>9}{'± may':>8}  passed"]
    table += [
        f"{line.name:<58}{line.value:>9.3g}{line.aim:>9.3g}{line.tolerance:>8.2g}  {'yes' if line.passed else 'NO'}"
        for line in lines
    ]
    passed = sum(line.passed for line in lines)
    counts = rows.groupby("split")["song_id"].agg(["size", "nunique"])
    sizes = ", ".join(f"{split} {size} rows of {songs} songs" for split, size, songs in counts.itertuples())
    return "\n".join(
        [*table, f"{passed} of {len(lines)} within tolerance; {sizes}", f"pictures: {', '.join(map(str, pictures))}"]
    )


def measured_rows(dataset: DatasetFolder) -> tuple[pd.DataFrame, np.ndarray]:
    """Every kept debut with total, length, peak, artist and year; and (rows, horizon) its chart-observed streams."""
    assert dataset.splits is not None
    songs = dataset.tracks.set_index("track_id")["song_id"]
    artists = pd.Series(artist_keys(dataset.tracks).to_numpy(), dataset.tracks["track_id"])
    rows = dataset.splits.reset_index(drop=True)
    arrays = curve_arrays(dataset, rows)
    streams = arrays.chart_observed()
    rows = rows.assign(
        song_id=rows["track_id"].map(songs),
        artist=rows["track_id"].map(artists),
        year=rows["debut"].dt.year,
        total=streams.sum(1),
        debut_rank=arrays.rank[:, 0],
        length=(streams > 0).sum(1),
        peak=streams.argmax(1),
        floors=np.log10(streams.sum(1) / arrays.floor),
    )
    # What is left of a region's year: real correlations were measured within region-years.
    return rows.assign(rest=_within(rows["floors"], rows[["region", "year"]])), streams


def real_statistics(dataset: DatasetFolder, rows: pd.DataFrame, streams: np.ndarray) -> list[Statistic]:
    """What can be compared with real charts."""
    length, peak, long = rows["length"], rows["peak"], rows["length"] >= 8
    quartiles = np.percentile(length, [25, 50, 75])
    week_0 = [
        spearmanr(streams[part, 0], streams[part].sum(1))[0]
        for part in rows.groupby("region", observed=True).indices.values()
    ]
    return [
        Statistic("charted weeks of 12, lower quartile", quartiles[0], 1, 1),
        Statistic("charted weeks of 12, median", quartiles[1], 4, 1.5),
        Statistic("charted weeks of 12, upper quartile", quartiles[2], 12, 2),
        Statistic("share charted for one week", (length == 1).mean(), 0.31, 0.06),
        Statistic("share that peaks in week 0", (peak == 0).mean(), 0.65, 0.12),
        Statistic("share that peaks by week 4", (peak <= 4).mean(), 0.86, 0.05),
        Statistic("of 8 weeks or more, share that peaks in week 0", (peak[long] == 0).mean(), 0.33, 0.1),
        Statistic("of 8 weeks or more, share that peaks by week 4", (peak[long] <= 4).mean(), 0.64, 0.1),
        Statistic("log10 (total / floor), median", rows["floors"].median(), 0.8, 0.3),
        Statistic("log10 (total / floor), standard deviation", rows["floors"].std(), 0.6, 0.1),
        Statistic("Spearman of week 0 and total, mean over regions", float(np.mean(week_0)), 0.64, 0.12),
        Statistic("correlation of a song between two regions", _pair_correlation(rows, "song_id", False), 0.63, 0.1),
        Statistic("correlation of an artist's songs, one region", _pair_correlation(rows, "artist", True), 0.15, 0.07),
        Statistic(
            "correlation of an artist's songs, two regions", _pair_correlation(rows, "artist", False), 0.09, 0.07
        ),
        Statistic("variance of log total between regions", _share_between(np.log10(rows["total"]), rows), 0.65, 0.2),
        Statistic("the same after division by the floor", _share_between(rows["floors"], rows), 0.03, 0.03),
        Statistic("growth of the floor, % a year", _floor_growth(dataset), 10.5, 6),
    ]


def design_statistics(dataset: DatasetFolder, rows: pd.DataFrame) -> list[Statistic]:
    """What the design asks of hearing and of the oracle."""
    attributes = pd.read_parquet(dataset.path / "truth" / "attributes.parquet")
    songs = attributes[attributes["recorded"]]
    assert dataset.curves is not None
    charting = dataset.tracks.loc[dataset.tracks["track_id"].isin(dataset.curves["track_id"]), "song_id"]
    hidden = [
        songs[[f"audible_{region}_{name}" for name in HIDDEN_FROM_MEAN]].sum(axis=1).var()
        / songs[f"audible_{region}"].var()
        for region in dataset.regions
    ]
    lines = [
        Statistic("share of songs that chart somewhere", songs["song_id"].isin(charting).mean(), 0.85, 0.06),
        Statistic("audible variance that the mean spectrum does not show", float(np.mean(hidden)), 0.65, 0.15),
    ]
    oracle = dataset.path / "truth" / "oracle.parquet"
    if oracle.exists():
        scores = oracle_spearman(pd.read_parquet(oracle), rows)
        both, audio = scores["audio+history"], scores["audio"]
        lines += [
            Statistic("oracle's Spearman for totals, all rows", both["all"], 0.625, 0.075),
            Statistic("oracle's Spearman for totals, test rows", both["test"], 0.625, 0.075),
            Statistic("oracle's Spearman from audio alone, all rows", audio["all"], 0.6, 0.06),
            Statistic("what history is worth to it, all rows", both["all"] - audio["all"], 0.04, 0.04),
        ]
    return lines


def oracle_spearman(oracle: pd.DataFrame, rows: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Spearman of the oracle's median total with the truth, mean over regions, by inputs and split (and `all`)."""
    median = oracle[oracle["target"] == "total"].rename(columns={"0.5": "median"})
    joined = rows.merge(median[["song_id", "region", "inputs", "median"]], on=["song_id", "region"])
    scores: dict[str, dict[str, float]] = {}
    for inputs, part in joined.groupby("inputs"):
        splits = {"all": part} | dict(list(part.groupby("split")))
        scores[str(inputs)] = {
            str(split): float(np.mean([spearmanr(one["median"], one["total"])[0] for _, one in some.groupby("region")]))
            for split, some in splits.items()
        }
    return scores


def _within(values: pd.Series, groups: pd.DataFrame) -> pd.Series:
    return values - values.groupby([groups[name] for name in groups]).transform("mean")


def _pair_correlation(rows: pd.DataFrame, group: str, one_region: bool) -> float:
    """Mean product over pairs of rows that share `group`, by the variance; an artist's pairs are of different songs."""
    rest, region, song = rows["rest"].to_numpy(), pd.factorize(rows["region"])[0], pd.factorize(rows["song_id"])[0]
    products, pairs = 0.0, 0
    for index in rows.groupby(group).indices.values():
        alike = (region[index][:, None] == region[index]) == one_region
        if group != "song_id":
            alike &= song[index][:, None] != song[index]
        np.fill_diagonal(alike, False)
        products += float((rest[index][:, None] * rest[index])[alike].sum())
        pairs += int(alike.sum())
    return products / max(pairs, 1) / float(np.var(rest))


def _share_between(values: pd.Series, rows: pd.DataFrame) -> float:
    """Share of the variance that lies between regions, each region with the same weight."""
    groups = values.groupby(rows["region"])
    between, within = float(np.var(groups.mean())), float(groups.var().mean())
    return between / (between + within)


def _floor_growth(dataset: DatasetFolder) -> float:
    assert dataset.charts is not None
    growth = []
    for _, charts in dataset.charts.groupby("region"):
        years = (charts["date"] - charts["date"].min()).dt.days / 365.25
        growth.append(np.polyfit(years, np.log10(charts["floor"]), 1)[0])
    return float(100 * (10 ** np.mean(growth) - 1))


def draw_market_picture(dataset: DatasetFolder, rows: pd.DataFrame, streams: np.ndarray, path: Path) -> None:
    """Ten songs' whole curves in two regions, the spread of lengths and totals, and the floors."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    assert dataset.charts is not None
    figure, axes = plt.subplots(2, 3, figsize=(17, 9))
    everything = pd.read_parquet(dataset.path / "truth" / "curves.parquet")
    ten = rows.drop_duplicates("song_id").sample(min(10, rows["song_id"].nunique()), random_state=0)["track_id"]
    for axis, region in zip(axes[0], dataset.regions[-1:] + dataset.regions[:1], strict=False):
        charts = dataset.charts[dataset.charts["region"] == region]
        axis.semilogy(charts["date"], charts["lowest"], color="black", linewidth=1, label="lowest on the chart")
        for track in ten:
            curve = everything[(everything["track_id"] == track) & (everything["region"] == region)]
            axis.semilogy(curve["date"], curve["streams"], linewidth=0.9)
        axis.set(title=f"ten songs in {region}, also below the chart", ylabel="streams a week", ylim=(10, None))
        axis.legend(loc="lower right")
    for name, charts in dataset.charts.groupby("region"):
        axes[0, 2].semilogy(charts["date"], charts["floor"], label=str(name))
    axes[0, 2].set(title="floors")
    axes[0, 2].legend()
    for axis in axes[0]:
        axis.tick_params(axis="x", labelrotation=30)
    axes[1, 0].hist(rows["length"], bins=np.arange(0.5, 13.5), edgecolor="white")
    axes[1, 0].set(title="charted weeks of the first 12", xlabel="weeks", ylabel="debuts")
    axes[1, 1].hist(rows["floors"], bins=40)
    axes[1, 1].set(title="total in units of the floor", xlabel="log10", ylabel="debuts")
    top = np.maximum(streams.max(1, keepdims=True), 1)
    for kind, part in {"1 to 3": (1, 3), "4 to 7": (4, 7), "8 to 11": (8, 11), "12": (12, 12)}.items():
        chosen = rows["length"].between(*part).to_numpy()
        axes[1, 2].plot((streams / top)[chosen].mean(0), marker="o", label=f"charted {kind} weeks")
    axes[1, 2].set(title="mean curve by length", xlabel="week", ylabel="share of the peak")
    axes[1, 2].legend()
    figure.tight_layout()
    with written_whole(path) as temporary:
        figure.savefig(temporary, dpi=75)
    plt.close(figure)
