"""Leak report: gaps that follow the outcome are found and named, gaps at random are not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data_prep.leaks import drop_leaky, leak_lines, leak_report, main, without_columns
from mp3model.files import InputError
from mp3model.tables.folder import DatasetFolder, read_dataset, write_dataset

REGIONS = ("US", "GB", "FR")


def made(count: int = 900, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame, np.ndarray]:
    """Tracks by 300 artists and their totals in three regions, of very different size; the quality behind them."""
    random = np.random.default_rng(seed)
    names = [f"t{number:05d}" for number in range(count)]
    quality = random.normal(size=count) + np.repeat(random.normal(size=count // 3), 3)
    tracks = pd.DataFrame(
        {
            "track_id": names,
            "song_id": names,
            "title": "Song",
            "artist": [f"Artist {number // 3}" for number in range(count)],
            "isrc": None,
            "release_date": pd.Timestamp("2020-01-01"),
            "x_energy": random.normal(size=count),
            "x_tempo": random.normal(size=count),
            "x_key": random.normal(size=count),
        }
    )
    targets = pd.concat(
        pd.DataFrame({"track_id": names, "region": region, "total": 10 ** (3 + place + quality)})
        for place, region in enumerate(REGIONS)
    )
    return tracks, targets.assign(debut_rank=np.nan), quality


def dataset(tracks: pd.DataFrame, targets: pd.DataFrame) -> DatasetFolder:
    return DatasetFolder(path=Path("made"), info={"frequency": "W"}, tracks=tracks, targets=targets)


def with_gaps(tracks: pd.DataFrame, **gaps: np.ndarray) -> pd.DataFrame:
    return tracks.assign(**{name: tracks[name].where(~gap) for name, gap in gaps.items()})


@pytest.mark.parametrize("seed", range(5))
def test_gaps_at_random_raise_no_warning(seed: int):
    tracks, targets, _ = made(seed=seed)
    random = np.random.default_rng(100 + seed)
    names = ["x_energy", "x_tempo", "x_key", "release_date"]
    gaps = {name: random.random(len(tracks)) < share for name, share in zip(names, (0.1, 0.3, 0.5, 0.7), strict=True)}
    report = leak_report(dataset(with_gaps(tracks, **gaps), targets))
    assert report["leaky"] == []
    assert not report["joint"]["leaks"]
    assert not any("WARNING" in line for line in leak_lines(report))


def test_gaps_that_follow_the_outcome_are_named_and_no_others():
    tracks, targets, quality = made()
    random = np.random.default_rng(0)
    unloved = random.random(len(tracks)) < 1 / (1 + np.exp(quality))
    gaps = {"x_energy": unloved, "x_tempo": random.random(len(tracks)) < 0.5}
    report = leak_report(dataset(with_gaps(tracks, **gaps), targets))
    assert report["leaky"] == ["x_energy"]
    lines = {line["column"]: line for line in report["columns"]}
    assert lines["x_energy"]["spearman"] < -0.3
    assert lines["x_energy"]["low"] < lines["x_energy"]["spearman"] < lines["x_energy"]["high"]
    assert lines["x_energy"]["missing"] == pytest.approx(unloved.mean())
    assert report["joint"]["spearman"] > 0.3
    assert not report["rest"]["leaks"]
    assert lines["isrc"] == {"column": "isrc", "missing": 1.0}
    text = "\n".join(leak_lines(report))
    assert "**WARNING" in text
    assert "`x_energy`" in text.splitlines()[0]
    assert "`x_tempo`" not in text.splitlines()[0]


def test_the_correlation_is_that_of_ranks_within_each_region():
    from scipy.stats import spearmanr

    tracks, targets, quality = made()
    gap = quality + np.random.default_rng(1).normal(size=len(quality)) > 0
    report = leak_report(dataset(with_gaps(tracks, x_key=gap), targets))
    expected = spearmanr(gap, quality).statistic
    assert next(c for c in report["columns"] if c["column"] == "x_key")["spearman"] == pytest.approx(expected, abs=1e-6)
    assert (report["rows"], report["groups"], report["artists"]) == (2700, 3, 300)


def test_flags_that_tell_only_together_are_found():
    tracks, targets, quality = made(3000)
    random = np.random.default_rng(2)
    one = random.random(len(tracks)) < 0.5
    gaps = {"x_energy": one, "x_tempo": one ^ (quality > 0)}
    report = leak_report(dataset(with_gaps(tracks, **gaps), targets))
    assert not any(line.get("leaks") for line in report["columns"])
    assert report["joint"]["spearman"] > 0.5
    assert 0 < len(report["leaky"]) <= 2
    assert report["rest"] is None or not report["rest"]["leaks"]


def test_a_column_that_leaks_less_than_the_threshold_is_not_named():
    tracks, targets, quality = made()
    gap = np.random.default_rng(0).random(len(tracks)) < 1 / (1 + np.exp(quality))
    leaking = dataset(with_gaps(tracks, x_energy=gap), targets)
    assert leak_report(leaking, threshold=0.1)["leaky"] == ["x_energy"]
    assert leak_report(leaking, threshold=0.9)["leaky"] == []


def test_a_gap_common_to_an_artist_is_weighed_by_artists_not_by_rows():
    tracks, targets, _ = made()
    by_row = np.random.default_rng(3).random(len(tracks)) < 0.5
    by_artist = np.repeat(np.random.default_rng(4).random(len(tracks) // 3) < 0.5, 3)
    report = leak_report(dataset(with_gaps(tracks, x_energy=by_row, x_tempo=by_artist), targets))
    width = {c["column"]: c["high"] - c["low"] for c in report["columns"] if "low" in c}
    assert width["x_tempo"] > 1.2 * width["x_energy"]


def test_gaps_that_only_tell_artists_apart_raise_no_warning():
    tracks, targets, _ = made()
    random = np.random.default_rng(5)
    columns = {f"x_{number}": random.normal(size=len(tracks)) for number in range(12)}
    gaps = {name: np.repeat(random.random(len(tracks) // 3) < 0.5, 3) for name in columns}
    report = leak_report(dataset(with_gaps(tracks.assign(**columns), **gaps), targets))
    assert report["leaky"] == []
    assert report["joint"]["spearman"] < 0.1


def test_too_few_rows_give_no_verdict():
    tracks, targets, _ = made()
    report = leak_report(dataset(tracks, targets[targets["track_id"] < "t00020"]))
    assert (report["rows"], report["leaky"], report["joint"]) == (0, [], None)
    assert "too few" in leak_lines(report)[0]


def test_complete_metadata_have_nothing_to_report():
    tracks, targets, _ = made()
    report = leak_report(dataset(tracks, targets))
    assert report["joint"] is None
    assert "No gap" in leak_lines(report)[0]


def test_the_report_is_the_same_every_time():
    tracks, targets, quality = made()
    one = dataset(with_gaps(tracks, x_energy=quality > 1), targets)
    assert json.dumps(leak_report(one), allow_nan=False) == json.dumps(leak_report(one))


def test_columns_are_left_out_and_those_of_every_folder_become_missing(tmp_path: Path):
    tracks, targets, quality = made()
    leaking = dataset(with_gaps(tracks, x_energy=quality < 0, release_date=quality < 0), targets)
    report = leak_report(leaking)
    assert set(report["leaky"]) == {"x_energy", "release_date"}
    cleaned = drop_leaky(leaking, report)
    assert "x_energy" not in cleaned.tracks
    assert cleaned.tracks["release_date"].isna().all()
    assert leaking.tracks["release_date"].notna().any()
    assert leak_report(cleaned)["leaky"] == []
    write_dataset(tmp_path, tracks=cleaned.tracks, targets=targets, info={"frequency": "W"})
    assert "x_tempo" in read_dataset(tmp_path).tracks


def test_ids_and_unknown_columns_cannot_be_left_out():
    tracks, _, _ = made()
    with pytest.raises(InputError, match="'song_id' cannot be left out"):
        without_columns(tracks, ["song_id"])
    with pytest.raises(InputError, match="no column 'x_mood'"):
        without_columns(tracks, ["x_energy", "x_mood"])


def test_the_command_prints_and_writes_the_report(tmp_path: Path, capsys):
    tracks, targets, quality = made()
    leaking = with_gaps(tracks, x_energy=quality < 0)
    write_dataset(tmp_path / "data", tracks=leaking, targets=targets, info={"frequency": "W"})
    main([str(tmp_path / "data"), "--json", str(tmp_path / "leaks.json")])
    assert "WARNING" in capsys.readouterr().out
    assert json.loads((tmp_path / "leaks.json").read_text())["leaky"] == ["x_energy"]
    with pytest.raises(SystemExit):
        main([str(tmp_path / "nowhere")])
    assert "no such folder" in capsys.readouterr().err
