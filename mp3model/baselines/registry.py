"""Names in, baselines of curves out; a module is imported when one of its baselines is asked for."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from mp3model.baselines.interface import CurveBaseline
from mp3model.files import InputError
from mp3model.tables.folder import DatasetFolder

Maker = Callable[[DatasetFolder], CurveBaseline]
_MAKERS: dict[str, Maker] = {}


def register(name: str, maker: Maker) -> None:
    """Adds a baseline, so that reports show it.

    Args:
        name: What it is asked for by.
        maker: Called with the dataset folder, gives one not yet fitted.

    Raises:
        InputError: the name is taken.
    """
    if name in _MAKERS:
        raise InputError(f"a baseline called {name!r} is registered already; choose another name")
    _MAKERS[name] = maker


def unregister(name: str) -> None:
    """Takes a baseline out again; nothing happens if there is none of that name."""
    _MAKERS.pop(name, None)


def baseline_names() -> list[str]:
    """Names of all baselines, in the order in which reports show them."""
    return list(_MAKERS)


def make_baseline(name: str, dataset: DatasetFolder) -> CurveBaseline:
    """A baseline that is not yet fitted.

    Raises:
        InputError: no baseline has this name.
    """
    if name not in _MAKERS:
        raise InputError(f"baseline {name!r} is not known; use one of {', '.join(_MAKERS)}")
    return _MAKERS[name](dataset)


def _of(module: str, kind: str, with_dataset: bool = False, **options: Any) -> Maker:
    """A maker that imports only when it is called."""

    def make(dataset: DatasetFolder) -> CurveBaseline:
        found = getattr(import_module(f"mp3model.baselines.{module}"), kind)
        return found(dataset, **options) if with_dataset else found(**options)

    return make


for _name, _maker in {
    "region median": _of("curve_floors", "RegionClimate"),
    "region mean": _of("curve_floors", "RegionClimate", statistic="mean"),
    "region × month": _of("curve_floors", "RegionClimate", by_month=True),
    "artist previous release": _of("curve_floors", "PreviousRelease"),
    "same weeks last year": _of("curve_floors", "SameWeeksLastYear", with_dataset=True),
    "carry-forward": _of("curve_floors", "SeenWeeks", form="carry-forward"),
    "geometric decay": _of("curve_floors", "SeenWeeks", form="geometric decay"),
    "mean ratio": _of("curve_floors", "SeenWeeks", form="mean ratio"),
    "gamma": _of("parametric", "ParametricCurve", shape="gamma"),
    "log-normal": _of("parametric", "ParametricCurve", shape="log-normal"),
    "bass": _of("parametric", "ParametricCurve", shape="bass"),
    "sir": _of("parametric", "ParametricCurve", shape="sir"),
    "boosted": _of("boosted", "Boosted"),
    "boosted shape": _of("boosted", "Boosted", form="shape"),
    "boosted refit": _of("boosted", "Boosted", refit=True),
    "boosted without regions": _of("boosted", "Boosted", groups=("state", "artist")),
}.items():
    register(_name, _maker)
