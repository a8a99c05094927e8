"""Names in, baselines of curves out; a module is imported when one of its baselines is asked for.

A baseline says what it needs of the data and of the machine, so that a table of all can pass over those that cannot be:
`unavailable` gives the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from operator import attrgetter
from typing import Any

from mp3model.baselines.interface import CurveBaseline
from mp3model.files import InputError
from mp3model.tables.folder import DatasetFolder

Maker = Callable[..., CurveBaseline]
# What a maker may ask to be told beside the dataset.
SETTINGS = ("search", "kkbox")


@dataclass(frozen=True)
class _Entry:
    maker: Maker
    needs: tuple[str, ...]
    settings: tuple[str, ...]


_ENTRIES: dict[str, _Entry] = {}


def _no_audio(dataset: DatasetFolder, kkbox: str | None) -> str | None:
    if dataset.previews is not None:
        return None
    return f"{dataset.path} has no audio bank; build one with `python -m data_prep.build_bank`"


def _no_columns(dataset: DatasetFolder, kkbox: str | None) -> str | None:
    if any(str(name).startswith("x_") for name in dataset.tracks):
        return None
    return f"{dataset.path / 'tracks.parquet'} has no x_* column; add descriptors or an embedding"


def _no_weights(dataset: DatasetFolder, kkbox: str | None) -> str | None:
    return None if kkbox is not None else "the published KKBOX weights are not given; name their folder by --kkbox"


def _no_lightgbm(dataset: DatasetFolder, kkbox: str | None) -> str | None:
    return None if find_spec("lightgbm") else "lightgbm is not installed; pip install 'mp3model[boosted]'"


_NEEDS: dict[str, Callable[[DatasetFolder, str | None], str | None]] = {
    "audio": _no_audio,
    "columns": _no_columns,
    "kkbox": _no_weights,
    "lightgbm": _no_lightgbm,
}


def register(name: str, maker: Maker, needs: Sequence[str] = (), settings: Sequence[str] = ()) -> None:
    """Adds a baseline, so that reports show it.

    Args:
        name: What it is asked for by.
        maker: Called with the dataset folder, gives one not yet fitted.
        needs: Of `audio` (a bank), `columns` (`x_*` of the tracks), `kkbox` (the published weights), `lightgbm`.
        settings: Of `SETTINGS`, those of `make_baseline` that the maker takes by name.

    Raises:
        InputError: the name is taken, or a need or setting is not known.
    """
    if name in _ENTRIES:
        raise InputError(f"a baseline called {name!r} is registered already; choose another name")
    for asked, known in ((needs, tuple(_NEEDS)), (settings, SETTINGS)):
        for one in asked:
            if one not in known:
                raise InputError(f"baseline {name!r} asks for {one!r}, which is not known; use one of {known}")
    _ENTRIES[name] = _Entry(maker, tuple(needs), tuple(settings))


def unregister(name: str) -> None:
    """Takes a baseline out again; nothing happens if there is none of that name."""
    _ENTRIES.pop(name, None)


def baseline_names() -> list[str]:
    """Names of all baselines, in the order in which reports show them."""
    return list(_ENTRIES)


def unavailable(name: str, dataset: DatasetFolder, kkbox: str | None = None) -> str | None:
    """Why a baseline cannot be had of this dataset, in one line with the mend; None if it can.

    Args:
        name: Of `baseline_names`.
        dataset: To be fitted on.
        kkbox: Folder of the published KKBOX weights, if there is one.

    Raises:
        InputError: no baseline has this name.
    """
    reasons = (_NEEDS[need](dataset, kkbox) for need in _entry(name).needs)
    return next((reason for reason in reasons if reason is not None), None)


def make_baseline(name: str, dataset: DatasetFolder, search: bool = False, kkbox: str | None = None) -> CurveBaseline:
    """A baseline that is not yet fitted.

    Args:
        name: Of `baseline_names`.
        dataset: To be fitted on.
        search: Settings are chosen on validation by those that can.
        kkbox: Folder of the published KKBOX weights, if there is one.

    Raises:
        InputError: no baseline has this name, or it is unavailable.
    """
    entry, reason = _entry(name), unavailable(name, dataset, kkbox)
    if reason is not None:
        raise InputError(f"baseline {name!r} cannot be fitted: {reason}")
    told = {"search": search, "kkbox": kkbox}
    return entry.maker(dataset, **{setting: told[setting] for setting in entry.settings})


def _entry(name: str) -> _Entry:
    if name not in _ENTRIES:
        raise InputError(f"baseline {name!r} is not known; use one of {', '.join(_ENTRIES)}")
    return _ENTRIES[name]


def _of(module: str, kind: str, with_dataset: bool = False, **options: Any) -> Maker:
    """A maker that imports only when it is called."""

    def make(dataset: DatasetFolder, **told: Any) -> CurveBaseline:
        found = attrgetter(kind)(import_module(f"mp3model.baselines.{module}"))
        return found(dataset, **options, **told) if with_dataset else found(**options, **told)

    return make


for _name, _maker in {
    "region median": _of("curve_floors", "RegionClimate"),
    "region mean": _of("curve_floors", "RegionClimate", statistic="mean"),
    "region × month": _of("curve_floors", "RegionClimate", by_month=True),
    "artist previous release": _of("curve_floors", "PreviousRelease"),
    "nearest neighbours": _of("curve_floors", "NearestRows"),
    "same weeks last year": _of("curve_floors", "SameWeeksLastYear", with_dataset=True),
    "carry-forward": _of("curve_floors", "SeenWeeks", form="carry-forward"),
    "geometric decay": _of("curve_floors", "SeenWeeks", form="geometric decay"),
    "mean ratio": _of("curve_floors", "SeenWeeks", form="mean ratio"),
    "gamma": _of("parametric", "ParametricCurve", shape="gamma"),
    "log-normal": _of("parametric", "ParametricCurve", shape="log-normal"),
    "bass": _of("parametric", "ParametricCurve", shape="bass"),
    "sir": _of("parametric", "ParametricCurve", shape="sir"),
}.items():
    register(_name, _maker)

for _name, _maker in {
    "boosted": _of("boosted", "Boosted"),
    "boosted shape": _of("boosted", "Boosted", form="shape"),
    "boosted refit": _of("boosted", "Boosted", refit=True),
    "boosted both fits": _of("boosted", "AveragedBoosted.of_both_fits"),
    "boosted without regions": _of("boosted", "Boosted", groups=("state", "artist")),
}.items():
    register(_name, _maker, ["lightgbm"])

# Name → maker in `audio_systems`, its options, what it needs, what it is told.
_AUDIO_SYSTEMS: dict[str, tuple[str, dict[str, Any], list[str], list[str]]] = {
    "probe": ("probe", {}, ["columns"], []),
    "descriptor ridge": ("descriptor_ridge", {}, ["audio"], []),
    "hitmusicnet": ("hitmusicnet", {}, ["audio"], []),
    "hitmusicnet classes": ("hitmusicnet", {"classes": True}, ["audio"], []),
    "autoen-chorder": ("autoenchorder", {}, ["audio"], []),
    "stanford 2": ("stanford", {"convolutions": 2}, ["audio"], ["search"]),
    "stanford 4": ("stanford", {"convolutions": 4}, ["audio"], ["search"]),
    "stanford 6": ("stanford", {"convolutions": 6}, ["audio"], ["search"]),
    "stanford 4 rgb": ("stanford", {"convolutions": 4, "colour": True}, ["audio"], ["search"]),
    "kkbox M1": ("kkbox", {"model": "M1"}, ["audio"], []),
    "kkbox M2": ("kkbox", {"model": "M2"}, ["audio"], []),
    "kkbox M3": ("kkbox", {"model": "M3"}, ["audio"], []),
    "kkbox M4": ("kkbox", {"model": "M4"}, ["audio", "kkbox"], ["kkbox"]),
    "kkbox M5": ("kkbox", {"model": "M5"}, ["audio", "kkbox"], ["kkbox"]),
    "kkbox M6": ("kkbox", {"model": "M6"}, ["audio", "kkbox"], ["kkbox"]),
    "mandopop": ("kkbox", {"model": "mandopop"}, ["audio", "kkbox"], ["kkbox"]),
    "kkbox siamese": ("kkbox", {"model": "M2", "siamese": True}, ["audio"], []),
    "kkbox trend": ("kkbox_trend", {}, ["audio"], []),
    "kkbox published cnn": ("kkbox_published", {"tags": False}, ["audio", "kkbox"], ["kkbox"]),
    "kkbox published": ("kkbox_published", {}, ["audio", "kkbox"], ["kkbox"]),
}
for _name, (_kind, _options, _needs, _settings) in _AUDIO_SYSTEMS.items():
    register(_name, _of("audio_systems", _kind, with_dataset=True, **_options), _needs, _settings)
