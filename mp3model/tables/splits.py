"""A dataset in, its debuts and their splits out: which rows train, validate and test, with no song on two sides."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pandas as pd

from mp3model.files import InputError
from mp3model.tables.curves import PERIOD_DAYS, charted_rows, period_dates
from mp3model.tables.folder import SCHEMAS, DatasetFolder, chart_positions
from mp3model.tables.schema import places, validate
from mp3model.tables.tracks import artist_keys

# Definitions of a debut, in days.
LONGEST_GAP = {"W": 14, "D": 3}
SETTLED_AFTER = 15
OLD_AFTER = 28

TEST_SHARE = 0.2
VALIDATION_MONTHS = 6
_BLOCK_ROWS = 100_000
ARTIST_SHARES = {"train": 0.70, "validation": 0.15, "test": 0.15}


def find_debuts(dataset: DatasetFolder) -> pd.DataFrame:
    """The first charted period of each song in each region, where it is known to be its debut.

    Versions of a song are merged within a region. A first period counts when
      * the chart before is on hand,
      * it lies at least 15 days after the start of a gap-free run of charts (weekly: a gap of more than 14 days
        starts a new run; daily: more than 3), since a first row after a gap may be an old song,
      * the charts of all periods of the horizon are on hand,
      * the song is not provably old: released, or charted in any region, more than 28 days before. A release date
        that is missing, or lies after the debut (a re-release), proves nothing; one known to the month or year only
        counts by its last possible day.

    Without a charts table, a region's charts are the dates on which it has any row.

    Args:
        dataset: with curves.

    Returns:
        `song_id, track_id, region, debut`, sorted by debut, region, song; `track_id` is the version that charted first,
        the better ranked of two on one date.

    Raises:
        InputError: the dataset has no curves.
    """
    first = first_rows(dataset)
    charts = dataset.charts if dataset.charts is not None else _dates_with_rows(dataset)
    earliest_anywhere = first.groupby("song_id")["debut"].transform("min")
    keep = _watched(first, charts, dataset.frequency, dataset.horizon) & ~_provably_old(
        first, earliest_anywhere, song_releases(dataset.tracks)
    )
    debuts = first[keep].sort_values(["debut", "region", "song_id"]).reset_index(drop=True)
    return debuts[["song_id", "track_id", "region", "debut"]]


def first_rows(dataset: DatasetFolder) -> pd.DataFrame:
    """First charted row of each song in each region: song_id, track_id, region, debut."""
    if dataset.curves is None:
        raise InputError(f"{dataset.path}: has no curves.parquet; debuts need dated rows")
    curves = dataset.curves[charted_rows(dataset)]
    track_codes, track_ids = pd.factorize(curves["track_id"])
    position = places(track_ids, dataset.tracks["track_id"])
    song_codes, song_ids = pd.factorize(dataset.tracks["song_id"])
    songs = song_codes[position][track_codes]
    region_codes, regions = pd.factorize(curves["region"])
    date = curves["date"].to_numpy()
    rank = curves["rank"].to_numpy(dtype=float, na_value=np.inf)
    more_streams_first = -np.nan_to_num(curves["streams"].to_numpy(), nan=0.0)
    # The track id comes last so that a full tie does not depend on the order of rows.
    order = np.lexsort((_ranked_text(track_ids)[track_codes], more_streams_first, rank, date, region_codes, songs))
    pair = (songs.astype(np.int64) * (len(regions) + 1) + region_codes)[order]
    chosen = order[np.flatnonzero(np.append(True, pair[1:] != pair[:-1]))] if len(order) else order
    return pd.DataFrame(
        {
            "song_id": pd.Series(song_ids[songs[chosen]]),
            "track_id": pd.Series(track_ids[track_codes[chosen]]),
            "region": pd.Series(regions[region_codes[chosen]]),
            "debut": date[chosen],
        }
    )


def _ranked_text(values: Any) -> np.ndarray:
    order = np.argsort(np.asarray(values, dtype=object), kind="stable")
    ranked = np.empty(len(order), np.int64)
    ranked[order] = np.arange(len(order))
    return ranked


def _dates_with_rows(dataset: DatasetFolder) -> pd.DataFrame:
    assert dataset.curves is not None
    return dataset.curves[["region", "date"]].drop_duplicates()


def _watched(first: pd.DataFrame, charts: pd.DataFrame, frequency: str, horizon: int) -> np.ndarray:
    """Charts on hand before, at and after the first period, well inside a gap-free run: (n,) bool."""
    if not len(first):
        return np.zeros(0, bool)
    charts = charts.sort_values(["region", "date"], kind="stable").reset_index(drop=True)
    date = charts["date"].to_numpy()
    region = pd.factorize(charts["region"])[0]
    gap = np.diff(date) > np.timedelta64(LONGEST_GAP[frequency], "D")
    new_run = np.append(True, (region[1:] != region[:-1]) | gap)
    run_start = date[np.flatnonzero(new_run)[np.cumsum(new_run) - 1]]

    watched = []
    # In blocks: the periods of a million daily first rows are 84 million dates.
    for start in range(0, len(first), _BLOCK_ROWS):
        rows = first.iloc[start : start + _BLOCK_ROWS]
        before = rows["debut"].to_numpy() - np.timedelta64(PERIOD_DAYS[frequency], "D")
        on_hand = chart_positions(charts, rows["region"], before) >= 0
        periods = chart_positions(charts, rows["region"], period_dates(rows["debut"], horizon, frequency))
        settled = rows["debut"].to_numpy() - run_start[periods[:, 0]] >= np.timedelta64(SETTLED_AFTER, "D")
        watched.append(on_hand & (periods >= 0).all(axis=1) & settled)
    return np.concatenate(watched)


def song_releases(tracks: pd.DataFrame) -> pd.DataFrame:
    """Per song: `release`, the earliest full date of any version, and `latest`, the earliest last possible day."""
    latest = tracks["release_date"]
    if "release_latest" in tracks:
        latest = latest.fillna(tracks["release_latest"])
    releases = pd.DataFrame({"song_id": tracks["song_id"], "release": tracks["release_date"], "latest": latest})
    return releases.groupby("song_id")[["release", "latest"]].min()


def _provably_old(first: pd.DataFrame, earliest_anywhere: pd.Series, releases: pd.DataFrame) -> np.ndarray:
    release = first["song_id"].map(releases["release"])
    latest = first["song_id"].map(releases["latest"])
    limit = first["debut"] - pd.Timedelta(days=OLD_AFTER)
    # A full date shortly before the debut is believed over another version's year.
    known = release <= first["debut"]
    old = (release < limit) | (~known & (latest < limit)) | (earliest_anywhere < limit)
    return old.to_numpy(dtype=bool)


def make_splits(dataset: DatasetFolder, test_from: Any = None, test_to: Any = None, seed: int = 0) -> pd.DataFrame:
    """Train, validation and test rows of a dataset; all versions of a song on one side.

    Dated data are split by time: test are the debuts from `test_from` to `test_to`; train are those whose last period
    ends before `test_from`, the last six months of them (by debut) validation; the rest, whose periods straddle a cut,
    is `none`. Where train spans less than a year, validation is its last quarter, or little would be left to train on.
    A song whose debuts in different regions fall on two sides follows its earliest one: validation rows of a train song
    join train, test rows of a song that trains or validates become `none`.

    Data without dates are split by artist: 70 % train, 15 % validation, 15 % test by a hash of the seed and the artist,
    so that adding tracks moves nobody. Artists who share a song stay together.

    Args:
        dataset: with curves, or with targets only.
        test_from: first day of the test debuts; None takes the date that comes closest to 20 % of the debuts up to
            `test_to` in test.
        test_to: last day of the test debuts; None takes the last debut.
        seed: for data without dates.

    Returns:
        `track_id, region, debut, split` of every kept debut (of every row of the targets), sorted by track and region.

    Raises:
        InputError: a date that cannot be read, or no debut in the test window.
    """
    if dataset.curves is None:
        splits = _split_by_artist(dataset, seed)
    else:
        splits = _split_by_time(dataset, _day(test_from, "test_from"), _day(test_to, "test_to"))
    schema = SCHEMAS["splits"]
    splits = splits[list(schema.columns)].sort_values(list(schema.key))
    return validate(splits, schema, dataset.path / "splits.parquet")


def _day(value: Any, name: str) -> pd.Timestamp | None:
    if value is None:
        return None
    try:
        return pd.Timestamp(value).normalize()
    except (ValueError, TypeError) as error:
        raise InputError(f"{name} {value!r} is no date; write it as 2020-01-31") from error


def _split_by_time(
    dataset: DatasetFolder, test_from: pd.Timestamp | None, test_to: pd.Timestamp | None
) -> pd.DataFrame:
    debuts = find_debuts(dataset)
    debut = debuts["debut"]
    if not len(debuts):
        return debuts.assign(split=None)
    test_to = debut.max() if test_to is None else test_to
    if test_from is None:
        until = debut[debut <= test_to]
        test_from = _cut_for_share(until) if len(until) else test_to
    test = ((debut >= test_from) & (debut <= test_to)).to_numpy()
    if not test.any():
        raise InputError(
            f"{dataset.path}: no debut lies in the test window {test_from.date()} to {test_to.date()}; "
            f"the {len(debuts)} debuts run from {debut.min().date()} to {debut.max().date()}"
        )
    last_end = period_dates(debut, dataset.horizon, dataset.frequency)[:, -1]
    train = last_end < test_from.to_datetime64()
    # Without a row that trains the start is NaT, which no debut reaches.
    validation = train & (debut >= _validation_start(debut[train])).to_numpy()
    split = np.select([test, validation, train], ["test", "validation", "train"], "none")
    return debuts.assign(split=_one_side(debuts["song_id"], split))


def _cut_for_share(debut: pd.Series) -> pd.Timestamp:
    dates, counts = np.unique(debut.to_numpy(), return_counts=True)
    share_from = counts[::-1].cumsum()[::-1] / counts.sum()
    return pd.Timestamp(dates[np.argmin(np.abs(share_from - TEST_SHARE))])


def _validation_start(train_debut: pd.Series) -> pd.Timestamp:
    first, last = train_debut.min(), train_debut.max()
    if last - first < pd.Timedelta(days=365):
        return last - (last - first) / 4
    return last - pd.DateOffset(months=VALIDATION_MONTHS) + pd.Timedelta(days=1)


def _one_side(song_id: pd.Series, split: np.ndarray) -> np.ndarray:
    """Rows of a song follow its first one in use, in order of debut; what time forbids there becomes `none`."""
    rows = pd.DataFrame({"song": song_id, "split": split})
    used = rows[rows["split"] != "none"].drop_duplicates("song")
    leading = song_id.map(used.set_index("song")["split"]).to_numpy()
    # Train and validation share the cut, so a row may move from one to the other; over the cut it may not.
    movable = (split == "validation") & (leading == "train")
    return np.select([split == leading, movable], [split, "train"], "none")


def _split_by_artist(dataset: DatasetFolder, seed: int) -> pd.DataFrame:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    assert dataset.targets is not None
    tracks = dataset.tracks
    songs, song_names = pd.factorize(tracks["song_id"])
    artists, artist_names = pd.factorize(artist_keys(tracks))
    size = len(song_names) + len(artist_names)
    links = coo_array((np.ones(len(tracks)), (songs, len(song_names) + artists)), shape=(size, size))
    group = connected_components(links, directed=False)[1]
    name = pd.Series(artist_names).groupby(group[len(song_names) :]).min()
    side = {key: _hashed_side(seed, text) for key, text in name.items()}
    by_track = pd.Series([side[g] for g in group[songs]], index=tracks["track_id"])
    rows = dataset.targets[["track_id", "region"]]
    return rows.assign(debut=None, split=rows["track_id"].map(by_track))


def _hashed_side(seed: int, artist: str) -> str:
    digest = hashlib.sha256(f"{seed}:{artist}".encode()).digest()
    draw = int.from_bytes(digest[:8], "big") / 2**64
    ends = np.cumsum(list(ARTIST_SHARES.values()))
    return list(ARTIST_SHARES)[np.searchsorted(ends[:-1], draw, "right")]
