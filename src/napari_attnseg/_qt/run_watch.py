"""Follows a run folder with a timer: what its child wrote, and that it ended.  Never waits for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QObject, QTimer, Signal

from napari_attnseg.jobs import child
from napari_attnseg.store import runs

if TYPE_CHECKING:
    from pathlib import Path

_EVERY = 200  # milliseconds between two looks
_GRACE = 1500  # milliseconds that a cancelled child has to end by itself

_watched: set[Path] = set()  # by any window of this process


def watched_elsewhere(run: Path) -> bool:
    """Tell whether another panel of this process follows the run."""
    return run in _watched


def another(than: Path | None) -> Path | None:
    """Return a run that some panel of this process follows, other than ``than``."""
    return next((run for run in _watched if run != than), None)


class RunWatch(QObject):  # type: ignore[misc]  # qtpy is untyped
    """One run at a time."""

    line = Signal(object)  # dict, one line of progress.jsonl
    looked = Signal()  # after the lines of one look
    ended = Signal(str)  # "finished", "cancelled", "failed" or "interrupted"

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.run: Path | None = None
        self._offset = 0
        self._timer = QTimer(self)
        self._timer.setInterval(_EVERY)
        self._timer.timeout.connect(self._look)
        self._deadline = QTimer(self)
        self._deadline.setSingleShot(True)
        self._deadline.setInterval(_GRACE)
        self._deadline.timeout.connect(self._on_deadline)

    @property
    def busy(self) -> bool:
        """Whether a run is followed."""
        return self.run is not None

    @property
    def paused(self) -> bool:
        """Whether the run was asked to wait."""
        return self.run is not None and runs.wishes(self.run)[0]

    def follow(self, run: Path) -> None:
        """Follow a run from its first line on."""
        self.leave()
        self.run, self._offset = run, 0
        _watched.add(run)
        self._timer.start()

    def leave(self) -> None:
        """Stop following; the child goes on."""
        self._timer.stop()
        self._deadline.stop()
        if self.run is not None:
            _watched.discard(self.run)
        self.run = None

    def pause(self, on: bool) -> None:
        """Ask the child to wait, or to go on; ``StoreError`` where it cannot be told."""
        if self.run is not None:
            (runs.pause if on else runs.unpause)(self.run)

    def cancel(self) -> None:
        """Ask the child to end, and end it when it has not within two seconds; never waits."""
        run = self.run
        if run is None:
            return
        try:
            runs.cancel(run)
        finally:
            self._deadline.start()

    def stop_at_once(self) -> None:
        """End the child when the window goes: it can be resumed from its last checkpoint."""
        if self.run is not None:
            child.kill(self.run)
            self.leave()

    def _on_deadline(self) -> None:
        if self.run is not None and child.alive(self.run):
            child.kill(self.run)

    def _look(self) -> None:
        run = self.run
        if run is None:
            return
        living = child.alive(run)  # asked first: what it wrote before it ended is read below
        lines, self._offset = runs.tail(run, self._offset)
        for one in lines:
            self.line.emit(one)
        if lines:
            self.looked.emit()
        if not living and self.run is run:
            status = runs.state(run).status
            self.leave()
            self.ended.emit(status if status in runs.ENDS else "interrupted")
