"""A lock between processes that the operating system frees when its owner ends, however it ends."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, BinaryIO

from napari_attnseg.errors import StoreError
from napari_attnseg.store.files import not_written

if TYPE_CHECKING:
    from pathlib import Path

_FAR = 1 << 20  # the byte that Windows locks, beyond the pid, which stays readable


def _try(file: BinaryIO, *, shared: bool) -> bool:
    """Lock an open file without waiting; tell whether that worked."""
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(_FAR)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def take(path: Path, wait: float = 2.0) -> BinaryIO:
    """Lock ``path``, write this process's id into it and return the open file: closing it frees the lock.

    Parameters
    ----------
    wait : float
        Seconds to try; one who only looks whether it is locked holds it for a moment.

    Raises
    ------
    StoreError
        Another process holds it, or it cannot be written.
    """
    deadline = time.monotonic() + wait
    try:
        file = path.open("a+b")
        while not _try(file, shared=False):
            if time.monotonic() > deadline:
                file.close()
                raise StoreError(
                    f"'{path.parent.name}' is already running.", "Wait for it, or cancel it first."
                )
            time.sleep(0.02)
        file.truncate(0)
        file.write(str(os.getpid()).encode())
        file.flush()
    except OSError as err:
        raise not_written(f"'{path.parent.name}' cannot be locked", err) from err
    return file


def held(path: Path) -> bool:
    """Tell whether a living process holds the lock."""
    try:
        with path.open("rb") as file:
            return not _try(file, shared=True)
    except OSError:
        return False


def owner(path: Path) -> int | None:
    """Return the process id written in a lock file, or None."""
    with suppress(OSError, ValueError):
        return int(path.read_bytes())
    return None
