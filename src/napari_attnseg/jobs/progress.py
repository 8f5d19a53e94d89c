"""Driving a job (a generator of ``Progress`` that returns its result) to its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

T = TypeVar("T")
P = TypeVar("P")


def drive(
    job: Generator[P, None, T],
    on_progress: Callable[[P], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> T | None:
    """Run a job in this thread.

    Parameters
    ----------
    job : generator
        Yields progress and returns its result; it is closed in any case.
    on_progress : callable, optional
        Is given what the job yields.
    cancelled : callable, optional
        Asked after every step; the job stops when it says True.

    Returns
    -------
    object or None
        The result, or None when cancelled.
    """
    try:
        while True:
            try:
                step = next(job)
            except StopIteration as stop:
                result: T = stop.value
                return result
            if on_progress is not None:
                on_progress(step)
            if cancelled is not None and cancelled():
                return None
    finally:
        job.close()
