"""Names of runs: which of them can be used again, and runs whose model got another name."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from napari_attnseg.errors import CheckpointError, StoreError
from napari_attnseg.store import models, runs
from napari_attnseg.store.files import not_written, write_atomic
from napari_attnseg.store.locks import held


def over(run: Path) -> bool:
    """Tell whether nothing of a run is waited for: it ended by itself or was cancelled, and left no model.

    So it is after *Cancel* and *Roll back*, and when the model was deleted or renamed.
    """
    try:
        folder = Path(runs.read_request(run).models_folder)
    except CheckpointError:
        return False
    return not (folder / run.name).exists() and runs.state(run).status in ("finished", "cancelled")


def put_aside(run: Path) -> Path:
    """Give the folder of a run another name, so that a new run can have its name; return the new folder.

    Raises
    ------
    StoreError
        The folder cannot be renamed.
    """
    number = 1
    while (aside := run.with_name(f"{run.name}.{number}")).exists():
        number += 1
    try:
        run.rename(aside)
    except OSError as err:
        raise not_written(f"The run '{run.name}' could not be put aside", err) from err
    return aside


def rename_model(old: str, new: str) -> None:
    """Rename a model, and let what was tuned or is to be tuned from it follow.

    Raises
    ------
    UnknownModelError, InputError, StoreError
        See :func:`napari_attnseg.store.models.rename`.
    """
    models.rename(old, new)
    follow(old, new)


def follow(old: str, new: str) -> None:
    """Let runs that start from a model go on from it under its new name; those that learn now know it."""
    root = runs.runs_folder()
    for state in runs.list_runs():
        run = root / state.name
        with suppress(OSError, ValueError, KeyError, StoreError):
            raw = json.loads((run / "request.json").read_text(encoding="utf-8"))
            if raw["parent"] == old and not held(run / "lock"):
                raw["parent"] = raw["params"]["start"] = new
                write_atomic(run / "request.json", json.dumps(raw, indent=1).encode())
