"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from napari_attnseg.errors import StoreError

if TYPE_CHECKING:
    from pathlib import Path


def not_written(what: str, err: OSError) -> StoreError:
    """Return the error to raise where the system refuses to write; ``what`` has no full stop."""
    return StoreError(f"{what}: {err.strerror or err}.", "Check the free space and the rights of the folder.")


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file under a temporary name, then rename it; ``StoreError`` if that fails.

    Nothing half-written stays, whatever ends it.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except BaseException as err:  # Ctrl+C, too
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(err, OSError):
            raise not_written(f"'{path.name}' could not be written", err) from err
        raise
