"""mp3model: a song's audio, release date and artist in, one forecast of its streams a region out.

The names below are imported on first use, so that `import mp3model` and the command line's `--help` stay quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mp3model.audio.frontend import LogMel
    from mp3model.config import MP3Config
    from mp3model.evaluation.popularity import popularity_metrics
    from mp3model.model.modeling import MP2Model
    from mp3model.model.modeling_mp3 import MP3Model
    from mp3model.serving.forecaster import Forecaster

__version__ = "0.1.0"
__all__ = ["Forecaster", "LogMel", "MP2Model", "MP3Config", "MP3Model", "__version__", "popularity_metrics"]

_HOME = {
    "Forecaster": "mp3model.serving.forecaster",
    "LogMel": "mp3model.audio.frontend",
    "MP2Model": "mp3model.model.modeling",
    "MP3Config": "mp3model.config",
    "MP3Model": "mp3model.model.modeling_mp3",
    "popularity_metrics": "mp3model.evaluation.popularity",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'mp3model' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOME[name]), name)
