"""Starts the jobs of the Attention tab; while another job runs, the newest wish waits its turn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, QTimer, Signal

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from napari_attnseg._qt.worker import Jobs
    from napari_attnseg.errors import AttnSegError
    from napari_attnseg.records import Progress

    Make = Callable[[], Generator[Progress, None, Any]]


class Asker(QObject):  # type: ignore[misc]  # qtpy is untyped
    """At most one wish waits: a newer one takes its place, so that nothing piles up."""

    failed = Signal(str)
    changed = Signal()

    def __init__(self, jobs: Jobs, parent: QObject) -> None:
        super().__init__(parent)
        self._jobs = jobs
        self._wish: tuple[Make, str, Callable[[Any], None]] | None = None
        self._mine = False
        jobs.finished.connect(self._on_finished)
        jobs.failed.connect(self._on_failed)

    @property
    def running(self) -> bool:
        """Whether a job of this tab is running."""
        return self._mine

    def start(self, make: Make, title: str, on_result: Callable[[Any], None]) -> None:
        """Start the job that ``make`` returns, now or when the running one has ended."""
        if self._jobs.busy:
            self._wish = (make, title, on_result)
            return
        self._wish = None
        self._mine = True
        self._jobs.start_job(make(), title, on_result)
        self.changed.emit()

    def forget(self) -> None:
        """Give up the wish that waits."""
        self._wish = None

    def cancel(self) -> None:
        """Stop the running job if it is one of this tab, and give up the wish that waits."""
        self.forget()
        if self._mine:
            self._jobs.cancel()

    def _on_finished(self, _outcome: str) -> None:
        self._mine = False
        self.changed.emit()
        if self._wish is not None:
            QTimer.singleShot(0, self._next)  # what is done with the result comes first

    def _next(self) -> None:
        if self._wish is not None:
            self.start(*self._wish)

    def _on_failed(self, err: AttnSegError) -> None:
        if self._mine:
            self.failed.emit(str(err))


def once(parent: QObject, milliseconds: int, slot: Callable[[], object]) -> QTimer:
    """Return a timer that fires once after its start and goes with its parent."""
    timer = QTimer(parent)
    timer.setSingleShot(True)
    timer.setInterval(milliseconds)
    timer.timeout.connect(slot)
    return timer
