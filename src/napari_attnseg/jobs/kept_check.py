"""What was measured on each image of a check of a model, kept in files: a check that was stopped goes on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from napari_attnseg.store.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    Measured = dict[tuple[str, ...], list[float]]  # numbers by (map, variant, what)

SCHEMA_VERSION = 1


class KeptCheck:
    """One file an image; a file that was made with other settings, or of another model, counts as none.

    Parameters
    ----------
    folder : Path or None
        Made where it is not there; None keeps nothing.
    made_with : mapping
        All that decides the numbers besides the image, as plain JSON-able values.
    """

    def __init__(self, folder: Path | None, made_with: Mapping[str, Any]) -> None:
        self._folder = folder
        self._made_with = json.loads(json.dumps({**made_with, "schema_version": SCHEMA_VERSION}))

    def load(self, number: int, name: str) -> list[Measured] | None:
        """Return what was measured on an image: one record, or none without an object; None if not kept."""
        if self._folder is None:
            return None
        try:
            kept = json.loads(self._path(number).read_text(encoding="utf-8"))
            if kept["made_with"] != self._made_with or kept["image"] != name:
                return None
            return [{tuple(key): values for key, values in image} for image in kept["measured"]]
        except (OSError, ValueError, KeyError, TypeError):
            return None  # not there, or not ours: it is measured again

    def save(self, number: int, name: str, measured: list[Measured]) -> None:
        """Keep what was measured on an image.

        Raises
        ------
        StoreError
            The folder cannot be written.
        """
        if self._folder is None:
            return
        record = {
            "image": name,
            "made_with": self._made_with,
            "measured": [[[list(key), values] for key, values in image.items()] for image in measured],
        }
        write_atomic(self._path(number), json.dumps(record).encode())

    def _path(self, number: int) -> Path:
        assert self._folder is not None
        return self._folder / f"image_{number:04d}.json"
