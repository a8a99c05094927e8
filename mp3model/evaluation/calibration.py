"""Point forecasts and what they missed on held-out songs in, distributions out."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mp3model.evaluation.accuracy import LEVELS, QUANTILES

# Below this a region's own quantiles of .1 and .9 would hang on two or three songs.
MINIMUM_ROWS = 20


def quantiles_of_rows(frame: pd.DataFrame, column: str = "true") -> dict[str, np.ndarray]:
    """Region → the nine quantiles of a column over its rows, or over all rows where the region has few.

    Args:
        frame: `region` and the column; rows without a value are left out.
        column: What is described.
    """
    known = frame[frame[column].notna()]
    pooled = np.quantile(known[column], LEVELS)
    return {
        str(region): np.quantile(rows[column], LEVELS) if len(rows) >= MINIMUM_ROWS else pooled
        for region, rows in known.groupby("region")
    } | {"": pooled}


def with_residual_quantiles(frame: pd.DataFrame, held_out: pd.DataFrame) -> pd.DataFrame:
    """Adds `0.1` … `0.9`: each prediction plus the quantiles of what the system missed on songs it did not learn from.

    Args:
        frame: `region, predicted`.
        held_out: `region, true, predicted` of the same system on other songs, neither learnt from nor asked about.
    """
    missed = quantiles_of_rows(held_out.assign(missed=held_out["true"] - held_out["predicted"]), "missed")
    return with_quantiles(frame, missed, frame["predicted"].to_numpy(dtype=float))


def with_quantiles(frame: pd.DataFrame, quantiles: dict[str, np.ndarray], centre: np.ndarray | float) -> pd.DataFrame:
    """Adds `0.1` … `0.9`: the quantiles of each row's region around `centre`."""
    rows = np.stack([quantiles.get(str(region), quantiles[""]) for region in frame["region"]])
    rows = rows + np.reshape(centre, (-1, 1))
    return frame.assign(**{name: rows[:, place] for place, name in enumerate(QUANTILES)})
