"""Run folders: the protocol between a window (or a shell) and the child process that fine-tunes.

    RUN/request.json        parameters, parent and the hash of its weights
    RUN/samples/NNN.npz     what is learnt from
    RUN/progress.jsonl      one JSON object a line, appended by the child
    RUN/last.safetensors    checkpoint to go on from; best.safetensors: the best so far
    RUN/result.json         scores before and after, on what was held out
    RUN/preview.npz         labels of the preview field
    RUN/log.txt             what the child printed
    RUN/lock                locked by the operating system while the child lives; holds its pid
    RUN/pause, RUN/cancel   wishes

A lock that the system frees when a process ends cannot go stale, whatever the clock does.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import time
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_attnseg.errors import CheckpointError, StoreError
from napari_attnseg.params import TrainParams
from napari_attnseg.store import models
from napari_attnseg.store.files import not_written, write_atomic
from napari_attnseg.store.locks import held, owner
from napari_attnseg.store.samples import keep_on_shelf, read_sample, write_sample

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

    from napari_attnseg.records import Sample

SCHEMA_VERSION = 1
ENDS = ("finished", "cancelled", "failed")
_NEW = ".new-"


@dataclass(frozen=True, slots=True)
class Request:
    """What a run was asked to do.

    Attributes
    ----------
    params : TrainParams
    parent, parent_sha256 : str
        The model to start from ("scratch": none) and the hash of its weights when the run was made.
    models_folder : str
        Where the window keeps its models; the child stores the result there.
    created : float
        Seconds since 1970.
    """

    params: TrainParams
    parent: str
    parent_sha256: str
    models_folder: str
    created: float


@dataclass(frozen=True, slots=True)
class RunState:
    """Where a run stands.

    Attributes
    ----------
    name : str
        Of the run and of the model it makes.
    status : str
        "new", "running", "paused", "interrupted", "finished", "cancelled" or "failed".
    pid : int or None
        Of the child, while it lives.
    step, total : int
    message : str
        How it ended, in words.
    created : float
        Seconds since 1970.
    """

    name: str
    status: str
    pid: int | None
    step: int
    total: int
    message: str
    created: float


def runs_folder() -> Path:
    """Return the folder of all runs (it may not exist yet)."""
    return models.home() / "runs"


def trainings_folder() -> Path:
    """Return the folder of the checkpoints of trainings that have no run folder (it may not exist yet)."""
    return models.home() / "trainings"


def create_run(
    params: TrainParams, samples: Sequence[Sample], *, preview: npt.NDArray[np.float32] | None = None
) -> Path:
    """Write a new run folder, whole or not at all, and put its samples on the shelf.

    Parameters
    ----------
    params : TrainParams
        ``params.name`` names the run and the model it will make.
    preview : ndarray or None, (C, H, W) float32
        A normalised field that the child segments again after every validation.

    Returns
    -------
    Path
        The run folder.

    Raises
    ------
    StoreError
        A run or a model of that name exists, or the folder cannot be written.
    UnknownModelError
        There is no such parent.
    """
    models.check_home()
    run = runs_folder() / params.name
    check_free(params.name)
    parent, digest = params.start, ""
    if parent != "scratch":
        digest = models.find(parent).card.sha256
    request = {
        "schema_version": SCHEMA_VERSION,
        "params": params.model_dump(),
        "parent": parent,
        "parent_sha256": digest,
        "models_folder": str(models.models_folder()),
        "created": time.time(),
    }
    temporary = run.with_name(f"{_NEW}{params.name}.{os.getpid()}")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        (temporary / "samples").mkdir(parents=True)
        for number, sample in enumerate(samples):
            path = temporary / "samples" / f"{number:03d}.npz"
            write_sample(path, sample)
        if preview is not None:
            np.savez(temporary / "preview_image.npz", image=np.asarray(preview, dtype=np.float32))
        write_atomic(temporary / "request.json", json.dumps(request, indent=1).encode())
        os.replace(temporary, run)
    except OSError as err:
        raise not_written(f"The run '{params.name}' could not be written", err) from err
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for path in sorted((run / "samples").glob("*.npz")):
        keep_on_shelf(path)
    return run


def check_free(name: str) -> None:
    """Raise ``StoreError`` where a run or a model of that name exists."""
    if (runs_folder() / name).exists():
        raise StoreError(f"A training named '{name}' exists already.", "Choose another name.")
    models.check_new(name)


def read_request(run: Path) -> Request:
    """Read ``request.json``.

    Raises
    ------
    CheckpointError
        There is none, it cannot be read, or a newer version wrote it.
    """
    try:
        raw = json.loads((run / "request.json").read_text(encoding="utf-8"))
        version = int(raw["schema_version"])
        if version > SCHEMA_VERSION:
            raise CheckpointError(
                f"The run '{run.name}' was made by a newer version of napari-attnseg.", "Update it."
            )
        params = TrainParams(**raw["params"])
        return Request(
            params, str(raw["parent"]), str(raw["parent_sha256"]), str(raw["models_folder"]),
            float(raw["created"]),
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise CheckpointError(
            f"'{run.name}' is not a run folder that can be read.", "Start a new run."
        ) from err


def run_id(run: Path) -> str:
    """Return what tells a run from all others, also of the same name; it stands in the card of its model."""
    return f"{run.name} {read_request(run).created:.6f}"


def read_samples(run: Path) -> list[Sample]:
    """Read the samples of a run; ``CheckpointError`` where one is damaged."""
    return [read_sample(path) for path in sorted((run / "samples").glob("*.npz"))]


def read_preview(run: Path) -> npt.NDArray[np.float32] | None:
    """Return the preview field, (C, H, W), or None where the run has none."""
    image = _read_array(run / "preview_image.npz", "image")
    return None if image is None else image.astype(np.float32, copy=False)


def write_preview(run: Path, labels: npt.NDArray[np.int32]) -> None:
    """Write the preview's labels, (H, W), whole or not at all."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, labels=labels)
    write_atomic(run / "preview.npz", buffer.getvalue())


def read_preview_labels(run: Path) -> npt.NDArray[np.int32] | None:
    """Return the labels of the preview field, (H, W), or None where there are none yet."""
    labels = _read_array(run / "preview.npz", "labels")
    return None if labels is None else labels.astype(np.int32, copy=False)


def _read_array(path: Path, name: str) -> npt.NDArray[Any] | None:
    """Return an array of a npz file, or None where it cannot be read."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            return np.asarray(file[name])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def append_progress(run: Path, line: dict[str, Any]) -> None:
    """Append one line to ``progress.jsonl``, after a line break where a killed child left half a line.

    Raises
    ------
    StoreError
        The disk is full, or the folder is gone.
    """
    path = run / "progress.jsonl"
    text = json.dumps(line, allow_nan=False, default=float).encode() + b"\n"
    try:
        with path.open("ab+") as file:
            size = file.seek(0, os.SEEK_END)
            if size:
                file.seek(size - 1)
                if file.read(1) != b"\n":
                    text = b"\n" + text
            file.write(text)
    except OSError as err:
        raise not_written(f"The progress of '{run.name}' could not be written", err) from err


def tail(run: Path, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
    """Return the whole lines of ``progress.jsonl`` from a byte offset on, and the next offset.

    A last line that is still being written waits for the next call; damaged lines are left out.
    """
    try:
        with (run / "progress.jsonl").open("rb") as file:
            file.seek(offset)
            data = file.read()
    except OSError:
        return [], offset
    end = data.rfind(b"\n") + 1
    lines = []
    for raw in data[:end].splitlines():
        with suppress(ValueError):
            line = json.loads(raw)
            if isinstance(line, dict):
                lines.append(line)
    return lines, offset + end


def write_result(run: Path, result: dict[str, Any]) -> None:
    """Write ``result.json``."""
    write_atomic(run / "result.json", json.dumps(result, indent=1, default=float).encode())


def read_result(run: Path) -> dict[str, Any] | None:
    """Return what :func:`write_result` wrote, or None."""
    try:
        found = json.loads((run / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def state(run: Path) -> RunState:
    """Return where a run stands, from its files alone."""
    lines, _ = tail(run)
    step = total = 0
    end: dict[str, Any] | None = None
    for line in lines:
        if line.get("kind") == "step":
            step, total = int(line.get("step", 0)), int(line.get("total", 0))
        end = line if line.get("kind") == "end" else (None if line.get("kind") == "start" else end)
    pid = owner(run / "lock") if held(run / "lock") else None
    try:
        created = read_request(run).created
    except CheckpointError:
        created = 0.0
    message = ""
    if pid is not None:
        status = "paused" if (run / "pause").exists() else "running"
    elif end is not None:
        status = str(end.get("status")) if end.get("status") in ENDS else "failed"
        message = f"{end.get('message', '')} {end.get('hint', '')}".strip()
    else:
        status = "interrupted" if lines else "new"
    return RunState(run.name, status, pid, step, total, message, created)


def pause(run: Path) -> None:
    """Ask the child to wait after its current step."""
    _wish(run / "pause")


def unpause(run: Path) -> None:
    """Let a paused child go on."""
    with suppress(FileNotFoundError):
        (run / "pause").unlink()


def cancel(run: Path) -> None:
    """Ask the child to stop after its current step."""
    _wish(run / "cancel")


def clear_wishes(run: Path) -> None:
    """Forget pause and cancel: a run that is taken up has been asked neither."""
    for name in ("pause", "cancel"):
        with suppress(FileNotFoundError):
            (run / name).unlink()


def wishes(run: Path) -> tuple[bool, bool]:
    """Return whether (pause, cancel) are asked for; a run folder that is gone counts as cancelled."""
    return (run / "pause").exists(), (run / "cancel").exists() or not run.is_dir()


def list_runs() -> list[RunState]:
    """Return the state of every run, newest first."""
    root = runs_folder()
    if not root.is_dir():
        return []
    found = [state(p) for p in root.iterdir() if p.is_dir() and (p / "request.json").exists()]
    return sorted((s for s in found if not s.name.startswith(".")), key=lambda s: -s.created)


def remove(run: Path) -> None:
    """Delete a run folder.

    Raises
    ------
    StoreError
        Its child is still running, or the folder cannot be deleted.
    """
    if held(run / "lock"):
        raise StoreError(f"The run '{run.name}' is still running.", "Cancel it first.")
    try:
        shutil.rmtree(run)
    except FileNotFoundError:
        return
    except OSError as err:
        raise StoreError(
            f"The run '{run.name}' could not be deleted: {err.strerror or err}.", "Delete its folder by hand."
        ) from err


def _wish(path: Path) -> None:
    try:
        path.touch()
    except OSError as err:
        raise not_written(f"'{path.parent.name}' cannot be told to {path.name}", err) from err
