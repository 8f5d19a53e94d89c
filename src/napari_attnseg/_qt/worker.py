"""Runs generator jobs in a thread: one at a time, wired before the start, never silent about an error."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from qtpy.compat import isalive
from qtpy.QtCore import QObject, Signal
from superqt.utils import GeneratorWorker

from napari_attnseg._napari import notify
from napari_attnseg.errors import AttnSegError, EngineError, OutOfMemoryError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from napari_attnseg.records import Progress

_log = logging.getLogger(__name__)


def _run(job: Generator[Progress, None, Any]) -> Generator[Progress, None, Any]:
    """Wrap a generator as the generator function that superqt asks for; closing it closes the job."""
    return (yield from job)


class JobWorker(GeneratorWorker):  # type: ignore[misc]  # superqt's generics are not exported
    """A worker that does not swallow ``RuntimeError`` and always closes its generator.

    superqt returns a ``RuntimeError`` of the job instead of raising it (it may stem from a Qt object
    deleted at shutdown) and then emits neither ``errored`` nor ``finished``.  Here it is raised as one
    of ours, unless the job was asked to stop.
    """

    def __init__(self, job: Generator[Progress, None, Any]) -> None:
        super().__init__(_run, job)

    def run(self) -> None:
        """Work and tell; called in the thread.  It may outlive Qt's objects when the program ends."""
        try:
            super().run()
        except RuntimeError:
            if isalive(self.signals):
                raise

    def work(self) -> Any:
        """Run the job to its end; called in the thread."""
        try:
            result = super().work()
            if isinstance(result, RuntimeError):
                if self.abort_requested:
                    return None
                raise EngineError(
                    f"The run stopped: {_first_line(result)}.", "Try a smaller tile or the CPU; see the log."
                ) from result
            return result
        except MemoryError as err:
            raise OutOfMemoryError(
                f"There is not enough memory ({_first_line(err)}).",
                "Close other images, or crop this one: the labels take 4 bytes per pixel of every plane.",
            ) from err
        finally:
            self._gen.close()


def _first_line(err: BaseException) -> str:
    lines = str(err).strip().splitlines()
    return (lines[0] if lines else type(err).__name__).rstrip(".")[:160]


class Jobs(QObject):  # type: ignore[misc]  # qtpy is untyped
    """The one place where jobs are started; at most one runs.

    Being a ``QObject``, it is disconnected from a running worker by Qt when the window goes.
    """

    started = Signal(str)  # title
    progressed = Signal(object)  # Progress
    finished = Signal(str)  # "done", "cancelled" or "failed"
    failed = Signal(object)  # AttnSegError

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._current: _Running | None = None

    @property
    def busy(self) -> bool:
        """Whether a job is running."""
        return self._current is not None

    def start_job(
        self, job: Generator[Progress, None, Any], title: str, on_result: Callable[[Any], None]
    ) -> None:
        """Start a job; ``on_result`` gets what it returns, on the main thread, unless it was cancelled.

        Raises
        ------
        RuntimeError
            Another job is running: the caller forgot to ask :attr:`busy`.
        """
        if self.busy:
            raise RuntimeError("a job is running already")
        self._current = _Running(self, job, on_result)
        self.started.emit(title)
        self._current.worker.start()

    def cancel(self) -> None:
        """Ask the running job to stop at its next step."""
        if self._current is not None:
            self._current.outcome = "cancelled"
            self._current.worker.quit()

    def end(self, running: _Running) -> None:
        """Free the place and tell; a second call for the same job does nothing."""
        if self._current is running:
            self._current = None
            self.finished.emit(running.outcome)


class _Running(QObject):  # type: ignore[misc]
    """One started job: its worker and the slots for that worker's signals."""

    def __init__(
        self, jobs: Jobs, job: Generator[Progress, None, Any], on_result: Callable[[Any], None]
    ) -> None:
        super().__init__(jobs)
        self._jobs, self._on_result = jobs, on_result
        self.outcome = "done"
        self.worker = JobWorker(job)
        self.worker.yielded.connect(self._yielded)
        self.worker.returned.connect(self._returned)
        self.worker.errored.connect(self._errored)
        self.worker.warned.connect(self._warned)
        self.worker.finished.connect(self._finished)  # type: ignore[arg-type]  # superqt says SigInst[None]

    def _yielded(self, progress: Progress) -> None:
        if self.outcome == "done":
            self._jobs.progressed.emit(progress)

    def _returned(self, result: Any) -> None:
        """Free the place first: what is done with the result may start the next job."""
        self._jobs.end(self)
        if self.outcome == "done":
            self._on_result(result)

    def _errored(self, err: Exception) -> None:
        if self.outcome == "cancelled" and isinstance(err, AttnSegError):
            return
        self.outcome = "failed"
        ours = isinstance(err, AttnSegError)
        if ours:
            _log.warning("%s", err, exc_info=err.__cause__)
        self._jobs.failed.emit(
            err if ours else AttnSegError("The run stopped because of a bug.", "See napari's message.")
        )
        self._jobs.end(self)
        (notify.error if ours else notify.bug)(err)  # type: ignore[arg-type]

    def _warned(self, warning: tuple[Any, ...]) -> None:
        _log.info("%s", warning[0])

    def _finished(self) -> None:
        self._jobs.end(self)
        self.deleteLater()
