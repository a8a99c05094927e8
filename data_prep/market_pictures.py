"""A simulated market in; `songs.png` (true, charted, foretold curves) and `clips.png` (what songs sound like) out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data_prep.synth import PROGRESSIONS, RHYTHMS
from mp3model.audio.bank import SAMPLE_RATE, AudioBank
from mp3model.files import written_whole
from mp3model.tables.folder import DatasetFolder

WEEKS_BEFORE, WEEKS_AFTER = 2, 18
_KEYS = ("C", "C♯", "D", "D♯", "E", "F", "F♯", "G", "G♯", "A", "A♯", "B")
_CLIPS = 3
_ZOOM_BARS = 2
_MELS = 128


def draw_songs(dataset: DatasetFolder, rows: pd.DataFrame) -> Path:
    """Draws ten songs in two regions: all their streams, what the charts show of them, the oracle's 80 % band.

    Args:
        dataset: a simulated market.
        rows: its debuts, `song_id, track_id, region, debut, split, total`.

    Returns:
        The picture's path.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    # The strongest taste apart makes the better pair: the first and last regions, as they are listed in the market.
    listed = dataset.info["market"]["regions"]
    pair = [listed[0], listed[-1]] if len(listed) > 1 else listed * 2
    songs = _ten(rows, pair)
    everything = _streams(dataset, songs)
    oracle = _oracle(dataset, songs)
    figure, axes = plt.subplots(4, 5, figsize=(20, 14), sharex=True)
    for number, song in enumerate(songs):
        for row, region in enumerate(pair):
            axis = axes[2 * (number // 5) + row, number % 5]
            _draw_song(axis, dataset, rows, everything, oracle, song, region)
    for axis in axes[:, 0]:
        axis.set_ylabel("streams a week")
    for axis in axes[-1]:
        axis.set_xlabel("weeks since the first debut")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncols=len(labels), fontsize=11)
    figure.tight_layout(rect=(0, 0, 1, 0.965))
    path = dataset.path / "songs.png"
    _save(figure, path)
    return path


def _ten(rows: pd.DataFrame, regions: list[str]) -> list[str]:
    """Up to ten songs that debuted in both regions, evenly over their totals; test songs first of all."""
    both = rows[rows["region"].isin(regions)].groupby("song_id")["region"].nunique() == len(set(regions))
    chosen = rows[rows["song_id"].isin(both.index[both])]
    if (chosen["split"] == "test").sum() >= 20:
        chosen = chosen[chosen["split"] == "test"]
    totals = chosen[chosen["region"] == regions[0]].sort_values("total")["song_id"].drop_duplicates()
    return list(totals.iloc[np.unique(np.linspace(0, len(totals) - 1, 10).astype(int))])


def _streams(dataset: DatasetFolder, songs: list[str]) -> pd.DataFrame:
    """All streams of the songs' versions together: `song_id, region, date, streams`."""
    versions = dataset.tracks.set_index("track_id")["song_id"]
    tracks = versions.index[versions.isin(songs)].tolist()
    streams = pd.read_parquet(dataset.path / "truth" / "curves.parquet", filters=[("track_id", "in", tracks)])
    streams = streams.assign(song_id=streams["track_id"].map(versions))
    return streams.groupby(["song_id", "region", "date"])["streams"].sum().reset_index()


def _oracle(dataset: DatasetFolder, songs: list[str]) -> pd.DataFrame | None:
    path = dataset.path / "truth" / "oracle_curves.parquet"
    if not path.exists():
        return None
    return pd.read_parquet(path, filters=[("song_id", "in", songs), ("inputs", "==", "audio+history")])


def _draw_song(
    axis: Any,
    dataset: DatasetFolder,
    rows: pd.DataFrame,
    everything: pd.DataFrame,
    oracle: pd.DataFrame | None,
    song: str,
    region: str,
) -> None:
    assert dataset.charts is not None
    assert dataset.curves is not None
    mine = rows[rows["song_id"] == song]
    debuts = mine.set_index("region")["debut"]
    start = debuts.min()

    def weeks(dates: pd.Series) -> pd.Series:
        return (dates - start).dt.days / 7

    charts = dataset.charts[dataset.charts["region"] == region].assign(week=lambda table: weeks(table["date"]))
    charts = charts[charts["week"].between(-WEEKS_BEFORE, WEEKS_AFTER)]
    bottom = charts["lowest"].min() / 30
    axis.step(charts["week"], charts["lowest"], where="mid", color="black", linewidth=1, label="lowest on the chart")
    if oracle is not None and region in debuts.index:
        told = oracle[(oracle["song_id"] == song) & (oracle["region"] == region)].sort_values("week")
        week = told["week"] + (debuts[region] - start).days / 7
        low, middle, high = (np.maximum(told[name], bottom) for name in ("0.1", "0.5", "0.9"))
        axis.fill_between(
            week,
            low,
            high,
            color="tab:blue",
            alpha=0.2,
            linewidth=0,
            label="oracle, 80 % of re-runs (bottom edge: off the chart)",
        )
        axis.plot(week, middle, color="tab:blue", linewidth=1, linestyle=":", label="oracle, median")
    true = everything[(everything["song_id"] == song) & (everything["region"] == region)]
    axis.plot(weeks(true["date"]), true["streams"], color="tab:orange", linewidth=1.6, label="true streams")
    tracks = dataset.tracks.loc[dataset.tracks["song_id"] == song, "track_id"]
    shown = dataset.curves[dataset.curves["track_id"].isin(tracks) & (dataset.curves["region"] == region)]
    shown = shown.groupby("date")["streams"].sum().reset_index()
    axis.plot(weeks(shown["date"]), shown["streams"], "o", color="tab:red", markersize=4, label="on the chart")
    title = dataset.tracks.set_index("song_id")["title"].loc[[song]].iloc[0]
    split = mine.loc[mine["region"] == region, "split"]
    axis.set_title(f"{title}, {region}" + (f" ({split.iloc[0]})" if len(split) else ""), fontsize=10)
    axis.set(yscale="log", xlim=(-WEEKS_BEFORE, WEEKS_AFTER), ylim=(bottom, None), xticks=range(0, WEEKS_AFTER + 1, 4))


def draw_clips(dataset: DatasetFolder) -> list[Path]:
    """Draws three clips, each whole as log-mel and two bars of it close up; nothing without audio.

    Returns:
        The picture's path, or nothing.
    """
    if dataset.previews is None:
        return []
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    bank = AudioBank(dataset.path)
    attributes = pd.read_parquet(dataset.path / "truth" / "attributes.parquet").set_index("song_id")
    tracks = dataset.tracks.set_index("track_id")
    figure, axes = plt.subplots(_CLIPS, 2, figsize=(20, 5 * _CLIPS), width_ratios=(3, 2))
    for (whole, close), position in zip(axes, _different(bank, attributes, tracks), strict=True):
        track = tracks.loc[bank.index["track_id"].iloc[position]]
        song = attributes.loc[track["song_id"]]
        clip = bank.read(position) / 32768
        _draw_whole(whole, clip)
        whole.set_title(f"{track['title']}: {_described(song)}", fontsize=10)
        _draw_close(close, clip, float(song["tempo"]))
    figure.tight_layout()
    path = dataset.path / "clips.png"
    _save(figure, path)
    return [path]


def _different(bank: AudioBank, attributes: pd.DataFrame, tracks: pd.DataFrame) -> list[int]:
    """Rows of three studio clips that differ: slow, middling and quick, of which one is sung and one is not."""
    song = bank.index["track_id"].map(tracks["song_id"])
    studio = bank.index["track_id"].str.endswith("a") & (bank.index["preview"] == 0)
    known = attributes.loc[song[studio]].assign(position=np.flatnonzero(studio)).sort_values("tempo")
    thirds = np.array_split(np.arange(len(known)), _CLIPS)
    wanted = [1, 0, 1]
    chosen = []
    for third, vocals in zip(thirds, wanted, strict=True):
        part = known.iloc[third]
        fitting = part[part["vocals"] == vocals]
        chosen.append(int((fitting if len(fitting) else part)["position"].iloc[0]))
    return chosen


def _described(song: pd.Series) -> str:
    degrees = {0: "I", 5: "IV", 7: "V"}
    chords = "-".join(degrees[root] for root in PROGRESSIONS[int(song["progression"])])
    chords = chords if song["mode"] else chords.lower()
    return (
        f"{song['tempo']:.0f} beats a minute, {_KEYS[int(song['key'])]} {'major' if song['mode'] else 'minor'}, "
        f"{RHYTHMS[int(song['rhythm'])]}, {chords}, {'sung' if song['vocals'] else 'played'}\n"
        f"brightness {song['brightness']:.2f}, percussion {song['percussion']:.2f}, contrast {song['contrast']:.2f}, "
        f"build {song['build']:.2f}{', sleigh bells' if song['sleigh'] else ''}"
    )


def _power(clip: np.ndarray, length: int, shift: int) -> np.ndarray:
    """(frames, length / 2 + 1) power spectrum with a Hann window."""
    frames = np.lib.stride_tricks.sliding_window_view(clip, length)[::shift]
    return np.abs(np.fft.rfft(frames * np.hanning(length))) ** 2


def _draw_whole(axis: Any, clip: np.ndarray) -> None:
    """Log-mel of 25 ms every 10 ms, as a model has it."""
    power = _power(clip, 512, 160)
    corners = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 8000 / 700), _MELS + 2) / 2595) - 1)
    frequency = np.fft.rfftfreq(512, 1 / SAMPLE_RATE)
    left, centre, right = (corners[first : first + _MELS, None] for first in range(3))
    filters = np.clip(np.minimum((frequency - left) / (centre - left), (right - frequency) / (right - centre)), 0, None)
    mel = 10 * np.log10(power @ filters.T + 1e-7)
    axis.imshow(
        mel.T,
        origin="lower",
        aspect="auto",
        extent=(0, len(clip) / SAMPLE_RATE, 0, _MELS),
        cmap="magma",
        vmin=np.percentile(mel, 5),
        vmax=np.percentile(mel, 99.8),
        interpolation="nearest",
    )
    shown = [100, 300, 1000, 3000, 7000]
    axis.set(xlabel="seconds", ylabel="Hz (log-mel)")
    axis.set_yticks(np.interp(shown, corners[1:-1], np.arange(_MELS) + 0.5), map(str, shown))


def _draw_close(axis: Any, clip: np.ndarray, tempo: float) -> None:
    """The middle bars at 2.5 kHz and below, with semitones resolved and the beats marked."""
    beat = 60 / tempo
    middle = len(clip) / SAMPLE_RATE / 2
    start, stop = middle - 4 * _ZOOM_BARS * beat / 2, middle + 4 * _ZOOM_BARS * beat / 2
    some = clip[int(start * SAMPLE_RATE) : int(stop * SAMPLE_RATE)]
    power = 10 * np.log10(_power(np.pad(some, 1024), 2048, 80)[:, : 2048 * 2500 // SAMPLE_RATE] + 1e-4)
    axis.imshow(
        power.T,
        origin="lower",
        aspect="auto",
        extent=(start, stop, 0, 2500),
        cmap="magma",
        vmin=np.percentile(power, 20),
        vmax=np.percentile(power, 99.8),
        interpolation="nearest",
    )
    # Where in the bar a preview begins is not stored, so the first beat is put on the strongest onset.
    rise = np.maximum(np.diff(power, axis=0), 0).sum(1)
    first = start + (np.argmax(rise[: int(beat * SAMPLE_RATE / 80)]) + 1) * 80 / SAMPLE_RATE
    for when in np.arange(first, stop, beat):
        axis.axvline(when, color="white", linewidth=0.7, alpha=0.7)
    axis.set(
        xlim=(start, stop), xlabel="seconds", ylabel="Hz", title=f"{_ZOOM_BARS} bars of it; lines are a beat apart"
    )


def _save(figure: Any, path: Path) -> None:
    import matplotlib.pyplot as plt

    with written_whole(path) as temporary:
        figure.savefig(temporary, dpi=75)
    plt.close(figure)
