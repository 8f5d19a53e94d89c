"""The child process that fine-tunes: started, watched and stopped through its run folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from napari_attnseg.errors import StoreError
from napari_attnseg.store import runs
from napari_attnseg.store.files import not_written
from napari_attnseg.store.locks import held, owner

if TYPE_CHECKING:
    from pathlib import Path

_POLL = 0.02  # seconds
_NICE = 10  # added to that of the window


@dataclass(frozen=True, slots=True)
class Child:
    """A started child: its run folder and its process id."""

    run: Path
    pid: int


_mine: dict[Path, subprocess.Popen[bytes]] = {}  # children of this process, to be waited for


def start(run: Path, *, resume: bool = False) -> Child:
    """Start the child of a run in a process group of its own; it outlives the window.

    Parameters
    ----------
    resume : bool
        Go on from the last checkpoint.

    Raises
    ------
    StoreError
        The run is running already, or its log cannot be written.
    """
    if alive(run):
        raise StoreError(f"'{run.name}' is already running.", "Wait for it, or cancel it first.")
    runs.clear_wishes(run)
    command = [sys.executable, "-m", "napari_attnseg", "train", "--run", str(run)]
    options: dict[str, Any] = {}
    if sys.platform == "win32":
        options["creationflags"] = (
            subprocess.CREATE_NEW_PROCESS_GROUP
            | subprocess.CREATE_NO_WINDOW
            | subprocess.BELOW_NORMAL_PRIORITY_CLASS
        )
    else:
        options["start_new_session"] = True
    try:
        with (run / "log.txt").open("ab") as log:
            _mine[run] = subprocess.Popen(
                [*command, "--resume"] if resume else command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
                **options,
            )
    except OSError as err:
        raise not_written(f"The training of '{run.name}' could not be started", err) from err
    pid = _mine[run].pid
    if sys.platform != "win32":
        with suppress(OSError):  # the window goes first
            os.setpriority(os.PRIO_PROCESS, pid, min(19, os.getpriority(os.PRIO_PROCESS, 0) + _NICE))
    return Child(run, pid)


def alive(run: Path) -> bool:
    """Tell whether the child of a run lives, whoever started it; never waits."""
    mine = _mine.get(run)
    if mine is not None:
        if mine.poll() is None:
            return True
        del _mine[run]
    return held(run / "lock")


def stop(run: Path, grace: float = 1.5) -> bool:
    """Ask the child to end, and kill it when it has not after ``grace`` seconds.

    Returns
    -------
    bool
        Whether it ended by itself.
    """
    if not alive(run):
        return True
    with suppress(StoreError):  # a full disk: it is killed then
        runs.cancel(run)
    if _gone(run, grace):
        return True
    kill(run)
    _gone(run, grace)
    return False


def kill(run: Path) -> None:
    """Kill the child of a run at once; nothing is lost but the steps since its last checkpoint."""
    mine = _mine.get(run)
    if mine is not None and mine.poll() is None:
        mine.kill()
        return
    pid = owner(run / "lock") if held(run / "lock") else None
    if pid is not None and pid != os.getpid():
        with suppress(OSError):
            os.kill(pid, signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)


def _gone(run: Path, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while alive(run):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL)
    return True
