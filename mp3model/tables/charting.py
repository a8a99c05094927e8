"""Released songs with audio in; whether each charts in each region within four weeks of its release out.

Songs that never chart have no curve, and yet they say as much of taste as those that do: learning from debuts alone
hides from a model what kept the others away.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from mp3model.config import CHARTED
from mp3model.tables.curves import PERIOD_DAYS
from mp3model.tables.folder import DatasetFolder
from mp3model.tables.schema import places
from mp3model.tables.splits import OLD_AFTER, first_rows, song_releases


def with_charted(targets: pd.DataFrame, dataset: DatasetFolder) -> pd.DataFrame:
    """Adds `charted` to MP2's targets, and the rows of songs that never charted.

    `charted` is 1 if any version of the song is on the region's chart within 28 days of its release and 0 if none is.
    It is missing where that is not on record: without a full release date, with a chart of those days missing, or for a
    song that charted before its release. A song keeps the side that its debuts are on. A song without a debut is on the
    side of its release: test from the day of the first test debut on, validation from that of the first validation
    debut on, else train. As with curves, what trains or validates must be known before the first test debut; later
    labels are missing.

    Args:
        targets: From `popularity_targets`, with a split.
        dataset: With curves, charts, splits and previews; only songs with previews are answered.

    Returns:
        The rows of `targets` with `charted`, then those of other regions and songs, which have only `song_id`,
        `region`, `split` and `charted`. Without charts, dated splits or release dates all of it is missing.
    """
    if dataset.curves is None or dataset.charts is None or dataset.splits is None or dataset.previews is None:
        return targets.assign(**{CHARTED: np.nan})
    release = _releases(dataset.tracks, dataset.previews)
    if not len(release) or not dataset.splits["debut"].notna().any():
        return targets.assign(**{CHARTED: np.nan})
    regions = dataset.regions
    first, charts, period = first_rows(dataset), dataset.charts, PERIOD_DAYS[dataset.frequency]
    charted = np.stack(
        [
            _charted_in(first[first["region"] == region], charts[charts["region"] == region], release, period)
            for region in regions
        ],
        axis=1,
    )
    side = _sides(dataset.splits, dataset.tracks, release)
    song, region = np.nonzero(~np.isnan(charted) & (side != "none")[:, None])
    labels = pd.DataFrame(
        {
            "song_id": release.index.to_numpy()[song],
            "region": np.asarray(regions, dtype=object)[region],
            "split": side[song],
            CHARTED: charted[song, region],
        }
    )
    # A song's debuts and its label meet where they are on one side; a debut on neither side keeps to itself.
    key = ["song_id", "region", "split"]
    labelled = targets.merge(labels, on=key, how="left")
    alone = labels[~pd.MultiIndex.from_frame(labels[key]).isin(pd.MultiIndex.from_frame(targets[key]))]
    return pd.concat([labelled, alone], ignore_index=True)


def _releases(tracks: pd.DataFrame, previews: pd.DataFrame) -> pd.Series:
    """song_id → earliest full release date of its versions, of songs with audio, sorted by name."""
    heard = places(tracks["track_id"], previews["track_id"].unique()) >= 0
    own = tracks[places(tracks["song_id"], tracks.loc[heard, "song_id"].unique()) >= 0]
    return song_releases(own)["release"].dropna().sort_index()


def _charted_in(first: pd.DataFrame, charts: pd.DataFrame, release: pd.Series, period: int) -> np.ndarray:
    """1, 0 or NaN (not on record) for each song in one region: (songs,).

    Args:
        first: Each song's first row there: `song_id, debut`.
        charts: That region's: `date`.
        release: As from `_releases`.
        period: Days of one.
    """
    begin = release.to_numpy()
    end = begin + np.timedelta64(OLD_AFTER, "D")
    dates = np.sort(charts["date"].to_numpy())
    complete = np.searchsorted(dates, end) - np.searchsorted(dates, begin) == OLD_AFTER // period
    debut = first.set_index("song_id")["debut"].reindex(release.index).to_numpy()
    # A comparison with NaT, where a song never charted, is false.
    return np.where(complete & ~(debut < begin), (debut < end).astype(float), np.nan)


def _sides(splits: pd.DataFrame, tracks: pd.DataFrame, release: pd.Series) -> np.ndarray:
    """Split of each song, `none` where its label is known too late for its side: (songs,)."""
    dated = splits[splits["debut"].notna() & (splits["split"] != "none")]
    starts = dated.groupby("split")["debut"].min()
    never = pd.Timestamp.max
    validation, test = starts.get("validation", never), starts.get("test", never)
    begin = release.to_numpy()
    known = release + pd.Timedelta(days=OLD_AFTER) < test
    by_date = np.select([begin >= test, begin >= validation], ["test", "validation"], "train")
    songs = tracks["song_id"].take(places(dated["track_id"], tracks["track_id"])).to_numpy()
    own = pd.Series(dated["split"].to_numpy(), index=songs)
    own = own[~own.index.duplicated()].reindex(release.index)
    side = own.where(own.notna(), by_date).to_numpy(dtype=object)
    return np.where((side == "test") | known, side, "none")
