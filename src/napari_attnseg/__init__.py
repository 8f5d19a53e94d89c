"""napari-attnseg: segment with attention, see what the model attends to, correct, fine-tune.

Importing this package imports nothing heavy (no torch, Qt, napari or scikit-image): napari imports it
when the first command is used, and the command line must answer ``--help`` at once.  Public names are
resolved on first use (PEP 562).
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

try:
    __version__ = version("napari-attnseg")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0.0.0"

_LAZY = {
    "segment": "napari_attnseg.jobs.api",
    "load_engine": "napari_attnseg.engine",
    "list_models": "napari_attnseg.store.models",
}

__all__ = ["__version__", "list_models", "load_engine", "segment"]

if TYPE_CHECKING:
    from napari_attnseg.engine import load_engine
    from napari_attnseg.jobs.api import segment
    from napari_attnseg.store.models import list_models


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
