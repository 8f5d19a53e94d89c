"""Fine-tuning in a run folder: what the child process of a window does, and ``train --run``."""

from __future__ import annotations

import logging
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_attnseg import engine as door
from napari_attnseg.errors import AttnSegError, CheckpointError, StoreError, UnknownModelError
from napari_attnseg.records import TrainEvent, TrainStep
from napari_attnseg.store import models, runs
from napari_attnseg.store.locks import take

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    import numpy as np
    import numpy.typing as npt

_LOG = logging.getLogger(__name__)
_NAP = 0.1  # seconds between two looks at the wishes of a paused run


def tune_run(run: Path, *, resume: bool = False) -> Generator[TrainEvent | TrainStep, None, dict[str, Any]]:
    """Do what a run folder asks for, and write all that is yielded to its ``progress.jsonl``.

    Parameters
    ----------
    run : Path
        From :func:`napari_attnseg.store.runs.create_run`.
    resume : bool
        Go on from the last checkpoint, where there is one.

    Returns
    -------
    dict
        The last line, of kind "end": ``status``, ``message``, ``hint``, ``model``.

    Raises
    ------
    StoreError
        Another process works on this run, or the folder cannot be written.
    CheckpointError
        It is no run folder.
    AttnSegError
        The training failed; the last line says so too.
    """
    run = run.resolve()
    request = runs.read_request(run)
    if Path(request.models_folder) != models.home() / "models":
        models.use_folder(Path(request.models_folder))
    with take(run / "lock"):
        if not resume:
            _check_new(run)
        _forget_old_wishes(run)
        runs.append_progress(run, {"kind": "start", "pid": os.getpid(), "resume": resume})
        try:
            end = yield from _guarded(run, request, resume)
        except AttnSegError as err:
            _end(run, "failed", err.message, err.hint)
            raise
        except Exception:
            _end(run, "failed", "The training stopped by an error of the program.", "See log.txt of the run.")
            raise
    return end


def _check_new(run: Path) -> None:
    if any(line.get("kind") == "start" for line in runs.tail(run)[0]):
        raise StoreError(
            f"The run '{run.name}' was started before.", "Go on with --resume, or make a run of another name."
        )


def _forget_old_wishes(run: Path) -> None:
    """Forget what an earlier process of the run was asked.

    :mod:`napari_attnseg.jobs.child` did so before it started this process, if it did: its output goes to the
    log of the run then, and what has been asked since is meant for it.
    """
    with suppress(OSError):  # no output, or no log
        if os.path.samestat(os.fstat(1), (run / "log.txt").stat()):
            return
    runs.clear_wishes(run)


def _guarded(
    run: Path, request: runs.Request, resume: bool
) -> Generator[TrainEvent | TrainStep, None, dict[str, Any]]:
    """Train, unless the model was stored before the last child could say so."""
    name = request.params.name
    if resume and _stored_already(run, name):
        return _end(run, "finished", f"The model '{name}' is ready.", model=name)
    _check_parent(request)
    params = request.params.model_copy(update={"resume": resume})
    samples = runs.read_samples(run)

    def stop() -> bool:
        return runs.wishes(run)[1]

    def on_preview(labels: npt.NDArray[np.int32]) -> None:
        runs.write_preview(run, labels)

    training = door.train_model(
        samples, params, started=time.monotonic(), run=run, stop=stop,
        preview=runs.read_preview(run), on_preview=on_preview,
    )  # fmt: skip
    result: dict[str, Any] = {}
    for event in training:
        if isinstance(event, TrainEvent) and event.kind == "result":
            result = dict(event.data)
            runs.write_result(run, result)
        else:
            runs.append_progress(run, line_of(event))
        yield event
        yield from _wait(run)
    if result and not result["stored"]:
        return _end(
            run, "cancelled", "Cancelled: nothing better than before was found, so nothing is stored."
        )
    if result and result["cancelled"]:
        message = f"Cancelled: the best so far is stored as '{name}'."
        return _end(run, "cancelled", message, model=name)
    return _end(run, "finished", f"The model '{name}' is ready.", model=name)


def _wait(run: Path) -> Iterator[TrainEvent]:
    """Wait while the run is paused and not cancelled."""
    if not runs.wishes(run)[0]:
        return
    event = TrainEvent("phase", {"note": "Paused"})
    runs.append_progress(run, line_of(event))
    yield event
    while runs.wishes(run) == (True, False):
        time.sleep(_NAP)
    event = TrainEvent("phase", {"note": "Learning"})
    runs.append_progress(run, line_of(event))
    yield event


def _stored_already(run: Path, name: str) -> bool:
    try:
        return models.find(name).card.training.get("run") == runs.run_id(run)
    except (UnknownModelError, CheckpointError):
        return False


def _check_parent(request: runs.Request) -> None:
    """Raise where the parent is gone or is another model than when the run was made."""
    if request.parent == "scratch":
        return
    if models.find(request.parent).card.sha256 != request.parent_sha256:
        raise CheckpointError(
            f"The model '{request.parent}' is not the one that this run was made for.", "Start a new run."
        )


def line_of(event: TrainEvent | TrainStep) -> dict[str, Any]:
    """Return a line of ``progress.jsonl``."""
    if isinstance(event, TrainEvent):
        return {"kind": event.kind, **event.data}
    line = {
        "kind": "step", "step": event.step, "total": event.total, "loss": round(event.loss, 5),
        "lr": event.lr, "seconds": round(event.seconds, 2),
        "left": round(event.seconds / max(event.step, 1) * max(event.total - event.step, 0), 1),
        "parts": {k: round(v, 5) for k, v in event.parts.items()},
    }  # fmt: skip
    return line if event.val is None else {**line, "val": event.val}


def _end(run: Path, status: str, message: str, hint: str = "", model: str | None = None) -> dict[str, Any]:
    line = {"kind": "end", "status": status, "message": message, "hint": hint, "model": model}
    try:
        runs.append_progress(run, line)
    except StoreError as err:  # the disk is full: the exit code and the log have to say it
        _LOG.error("%s", err)
    return line
