"""Jobs: wired before the start, one at a time, never silent about an error, always closed."""

from __future__ import annotations

import threading
import time

import pytest

from napari_attnseg._qt.worker import Jobs, JobWorker
from napari_attnseg.errors import AttnSegError, EngineError, InputError
from napari_attnseg.records import Progress


class Log:
    """What a ``Jobs`` said."""

    def __init__(self, jobs: Jobs) -> None:
        self.started, self.progress, self.finished, self.failed = [], [], [], []
        jobs.started.connect(self.started.append)
        jobs.progressed.connect(self.progress.append)
        jobs.finished.connect(self.finished.append)
        jobs.failed.connect(self.failed.append)


@pytest.fixture
def jobs(qapp):
    made = Jobs()
    yield made
    made.cancel()


@pytest.fixture
def shown(monkeypatch):
    """Errors shown to the user, and bugs given to napari."""
    seen = {"error": [], "bug": []}
    monkeypatch.setattr("napari_attnseg._napari.notify.error", seen["error"].append)
    monkeypatch.setattr("napari_attnseg._napari.notify.bug", seen["bug"].append)
    return seen


def counting(n, closed, fail=None, pause=0.0):
    try:
        for step in range(n):
            time.sleep(pause)
            yield Progress(step, n)
        if fail is not None:
            raise fail
        return "result"
    finally:
        closed.append(threading.current_thread())


def test_a_job_tells_progress_and_gives_its_result(jobs, qtbot, shown):
    log, closed, results = Log(jobs), [], []
    jobs.start_job(counting(3, closed), "Counting", results.append)
    assert jobs.busy
    qtbot.waitUntil(lambda: bool(log.finished))
    assert (log.started, log.finished, results) == (["Counting"], ["done"], ["result"])
    assert [p.done for p in log.progress] == [0, 1, 2]
    assert closed[0] is not threading.main_thread()
    assert not jobs.busy
    assert shown == {"error": [], "bug": []}


@pytest.mark.parametrize("steps", [0, 2])
def test_a_runtime_error_is_not_swallowed(jobs, qtbot, shown, steps):
    log, closed = Log(jobs), []
    job = counting(steps, closed, RuntimeError("shapes do not fit\nmore"))
    jobs.start_job(job, "x", lambda r: pytest.fail("no result expected"))
    qtbot.waitUntil(lambda: bool(log.finished))
    assert log.finished == ["failed"]
    (err,) = shown["error"]
    assert isinstance(err, EngineError)
    assert not isinstance(err, RuntimeError)
    assert err.message == "The run stopped: shapes do not fit."
    assert isinstance(err.__cause__, RuntimeError)
    assert log.failed == [err]
    assert closed
    assert not jobs.busy


def test_our_errors_are_shown_once_and_others_go_to_napari(jobs, qtbot, shown):
    log = Log(jobs)
    jobs.start_job(counting(1, [], InputError("Too thin.", "Take another.")), "x", print)
    qtbot.waitUntil(lambda: len(log.finished) == 1)
    assert [str(e) for e in shown["error"]] == ["Too thin. Take another."]
    jobs.start_job(counting(1, [], KeyError("a bug")), "x", print)
    qtbot.waitUntil(lambda: len(log.finished) == 2)
    assert [type(e) for e in shown["bug"]] == [KeyError]
    assert len(shown["error"]) == 1
    assert log.finished == ["failed", "failed"]
    assert isinstance(log.failed[1], AttnSegError)


def test_cancel_stops_at_the_next_step_and_closes_the_job(jobs, qtbot, shown):
    log, closed = Log(jobs), []
    jobs.start_job(counting(10_000, closed, pause=0.01), "x", lambda r: pytest.fail("cancelled"))
    qtbot.waitUntil(lambda: bool(log.progress))
    asked = time.monotonic()
    jobs.cancel()
    qtbot.waitUntil(lambda: bool(log.finished))
    assert time.monotonic() - asked < 1
    assert log.finished == ["cancelled"]
    assert closed
    assert shown == {"error": [], "bug": []}


def test_a_result_may_start_the_next_job(jobs, qtbot):
    log, results = Log(jobs), []

    def again(result):
        jobs.start_job(counting(5, [], pause=0.01), "second", results.append)

    jobs.start_job(counting(1, []), "first", again)
    qtbot.waitUntil(lambda: len(log.finished) == 2)
    assert log.started == ["first", "second"]
    assert log.finished == ["done", "done"]
    assert results == ["result"]


def test_two_jobs_at_once_are_refused(jobs, qtbot):
    log = Log(jobs)
    jobs.start_job(counting(3, [], pause=0.05), "x", lambda r: None)
    with pytest.raises(RuntimeError, match="running already"):
        jobs.start_job(counting(1, []), "y", lambda r: None)
    qtbot.waitUntil(lambda: bool(log.finished))


def test_a_window_that_goes_during_a_job_is_no_error(qapp, qtbot):
    jobs, closed, results = Jobs(), [], []
    log = Log(jobs)
    jobs.start_job(counting(500, closed, pause=0.01), "x", results.append)
    qtbot.waitUntil(lambda: bool(log.progress))
    jobs.cancel()
    jobs.deleteLater()
    del jobs
    qtbot.waitUntil(lambda: bool(closed))
    qtbot.wait(50)
    assert results == []


def test_a_job_may_outlive_the_window(qapp):
    """The program ends while a job, such as loading PyTorch, is between two steps."""
    from PyQt6 import sip

    closed = []

    def loading():
        try:
            yield Progress(0, 2)
            worker.quit()  # the window closes
            sip.delete(worker.signals)
            yield Progress(1, 2)
        finally:
            closed.append(True)

    worker = JobWorker(loading())
    worker.run()
    assert closed == [True]
