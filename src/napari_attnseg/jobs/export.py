"""A model as a file for other programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_attnseg import engine as door
from napari_attnseg.errors import StoreError
from napari_attnseg.store.files import write_atomic

if TYPE_CHECKING:
    from pathlib import Path


def export_onnx(name: str, out: Path) -> Path:
    """Write a model as an ONNX file and return its path.

    Raises
    ------
    StoreError
        ``out`` exists, or cannot be written.
    ModelError, EngineError
        As :func:`napari_attnseg.engine.onnx_bytes`.
    """
    if out.exists():
        raise StoreError(f"'{out}' exists already.", "Choose another name: nothing is overwritten.")
    write_atomic(out, door.onnx_bytes(name))
    return out
