"""From corrections to a run folder: its name, its samples, its preview, and what became of earlier runs."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from napari_attnseg._napari import settings
from napari_attnseg._napari.classes import class_samples
from napari_attnseg._napari.corrections import samples
from napari_attnseg.core import normalize
from napari_attnseg.core.tiles import centre_window
from napari_attnseg.errors import AttnSegError, TrainingDataError
from napari_attnseg.jobs.planes import open_plane
from napari_attnseg.records import Progress
from napari_attnseg.store import models, run_names, runs
from napari_attnseg.store.files import write_atomic
from napari_attnseg.store.samples import read_sample, shelf

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from napari_attnseg._napari.corrections import Found, How
    from napari_attnseg.params import TrainParams
    from napari_attnseg.records import Sample
    from napari_attnseg.store.samples import Kept

Decision = Literal["accepted", "rolled back", "left"]
_PREVIEW = 512  # largest side of the preview field, pixels
_TINT = (0.2, 0.9, 0.5)  # of objects in thumbnails
_FEWEST = 2  # objects from which there is something to learn


@dataclass(frozen=True, slots=True)
class Place:
    """Where the preview field lies.

    Attributes
    ----------
    found : Found
        The plane.
    field : tuple of slice
        (Y, X) part of it.
    """

    found: Found
    field: tuple[slice, slice]


@dataclass(frozen=True, slots=True)
class Started:
    """A run folder that is ready to be run."""

    run: Path
    place: Place | None


@dataclass(frozen=True, slots=True)
class Shelved:
    """A sample of the shelf and its picture, (side, side, 3) uint8."""

    kept: Kept
    thumbnail: npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Cost:
    """What a run took on this machine."""

    seconds: float
    memory_mb: float
    name: str


def use_models_folder() -> None:
    """Take the models folder of the preferences, as every list of models does."""
    models.use_folder(settings.read().models)


def suggest_name(parent: str) -> str:
    """Return a name that is free for a model tuned from ``parent``: "base-tuned", "base-tuned-2"..."""
    return free_name(parent if parent.split("-tuned")[0] != parent else f"{parent}-tuned")


def free_name(wanted: str) -> str:
    """Return a name that is free: the one that is wanted, or it with a number: "mine-2", "mine-3"..."""
    stem, _, last = wanted.rpartition("-")
    stem = stem if stem and last.isdigit() else wanted
    names = (wanted, *(f"{stem}-{number}" for number in range(2, 1000)))
    return next((name for name in names if not name_trouble(name)), wanted)


def name_trouble(name: str) -> str:
    """Say why a model cannot be named so; "" where it can."""
    try:
        models.check_name(name)
        if run_names.over(runs.runs_folder() / name):
            models.check_new(name)
        else:
            runs.check_free(name)
    except AttnSegError as err:
        return str(err)
    return ""


def few(objects: int) -> str:
    """Say why that many objects are not enough; "" where they are."""
    if objects == 0:
        return "Nothing is corrected yet: draw, erase or reshape objects in the Labels layer."
    if objects < _FEWEST:
        return "One object is corrected; a model can learn from two or more."
    return ""


def remembered(tier: str, device: str = "auto") -> Cost | None:
    """Return what the latest finished run of a tier took on this machine; None where there was none."""
    for state in runs.list_runs():
        if state.status != "finished":
            continue
        run = runs.runs_folder() / state.name
        with suppress(AttnSegError):
            params = runs.read_request(run).params
            if params.tier != tier or params.device != device:
                continue
            lines, _ = runs.tail(run)
            estimate = [line for line in lines if line.get("kind") == "estimate"]
            steps = [line for line in lines if line.get("kind") == "step"]
            if estimate and steps:
                seconds = float(steps[-1].get("seconds", 0.0))
                return Cost(seconds, float(estimate[-1].get("memory_mb", 0.0)), state.name)
    return None


def prepare(
    chosen: Sequence[Found], earlier: Sequence[Kept], how: How, params: TrainParams
) -> Generator[Progress, None, Started]:
    """Cut the samples, read those of the shelf, and write the run folder.

    Raises
    ------
    TrainingDataError
        Nothing is known any more: the labels changed meanwhile.
    StoreError
        The name is taken, or the folder cannot be written.
    """
    cut = class_samples if how.task == "classes" else samples
    made = yield from cut(chosen, how)
    for number, kept in enumerate(earlier):
        yield Progress(number, len(earlier), f"Reading {kept.name}")
        made.append(read_sample(kept.path))
    if not made:
        raise TrainingDataError("Nothing in the ticked images is known.", "Correct some objects first.")
    place = preview_place(chosen[0]) if chosen else None
    yield Progress(1, 1, "Writing the run folder")
    before = runs.runs_folder() / params.name
    if run_names.over(before):
        decide(before, "left")
        run_names.put_aside(before)
    run = runs.create_run(params, made, preview=None if place is None else _preview_image(place))
    return Started(run, place)


def read_shelf(side: int) -> Generator[Progress, None, list[Shelved]]:
    """Read the samples of earlier runs with thumbnails of ``side`` pixels, newest first."""
    yield Progress(0, 0, "Reading the shelf")
    found = []
    for kept in shelf():
        with suppress(AttnSegError):
            found.append(Shelved(kept, thumbnail(read_sample(kept.path), side)))
        yield Progress(len(found), 0, "Reading the shelf")
    return found


def thumbnail(sample: Sample, side: int) -> npt.NDArray[np.uint8]:
    """Return a picture of what is known in a sample, its objects tinted, (side, side, 3) uint8."""
    at = np.nonzero(sample.known)
    box = [slice(int(a.min()), int(a.max()) + 1) for a in at] if at[0].size else [slice(None), slice(None)]
    image = np.clip(sample.image[:3, box[0], box[1]], 0, 1)
    labels = sample.labels[box[0], box[1]]
    rows, cols = (
        np.linspace(0, n - 1, max(1, round(side * n / max(labels.shape)))).astype(int) for n in labels.shape
    )
    grey = image if len(image) == 3 else np.repeat(image.mean(axis=0, keepdims=True), 3, axis=0)
    small = np.moveaxis(grey[:, rows][:, :, cols], 0, -1)
    inside = (labels[rows][:, cols] != 0)[..., None]
    tinted = np.where(inside, 0.65 * small + 0.35 * np.array(_TINT), small)
    out = np.zeros((side, side, 3), dtype=np.uint8)
    top, left = (side - len(rows)) // 2, (side - len(cols)) // 2
    out[top : top + len(rows), left : left + len(cols)] = np.round(255 * tinted)
    return out


def preview_place(found: Found) -> Place:
    """Return the field that is segmented again while the model learns: around what was corrected."""
    after = found.pair.after(found.key)
    before = found.pair.before(found.key, after)
    changed = after != 0 if before is None else after != before
    shape = after.shape
    if max(shape) <= _PREVIEW:
        return Place(found, (slice(0, shape[0]), slice(0, shape[1])))
    if not changed.any():
        y, x = centre_window((shape[0], shape[1]), _PREVIEW)
        return Place(found, (y, x))
    spans = []
    for middle, n in zip(np.argwhere(changed).mean(axis=0), shape, strict=True):
        side = min(_PREVIEW, n)
        start = int(np.clip(round(float(middle)) - side // 2, 0, n - side))
        spans.append(slice(start, start + side))
    return Place(found, (spans[0], spans[1]))


def _preview_image(place: Place) -> npt.NDArray[np.float32]:
    pair = place.found.pair
    plane = open_plane(pair.source, place.found.key, channel=pair.channel)
    return normalize.planes(plane.read(place.field), plane.norm)


# -- what became of a run ----------------------------------------------------------------------------


def decide(run: Path, decision: Decision) -> None:
    """Note what the user made of a run, so that it is not offered again."""
    with suppress(AttnSegError):
        if run.is_dir():
            write_atomic(run / "decision.json", json.dumps({"decision": decision}).encode())


def undecided() -> list[runs.RunState]:
    """Return the runs that wait for the user: running, interrupted, or finished and not looked at."""
    waiting = ("running", "paused", "interrupted", "finished")
    return [
        state
        for state in runs.list_runs()
        if state.status in waiting and not (runs.runs_folder() / state.name / "decision.json").exists()
    ]


def leave(state: runs.RunState) -> None:
    """Do not offer a run again: one that was interrupted is deleted, the model of a finished one stays."""
    run = runs.runs_folder() / state.name
    if state.status == "interrupted":
        with suppress(AttnSegError):
            runs.remove(run)
            return
    decide(run, "left")


def give_up(run: Path, said: str) -> None:
    """Note that a run was cancelled, whether or not its child could say so, and do not offer it again."""
    if runs.state(run).status in ("new", "interrupted"):
        with suppress(AttnSegError):
            runs.append_progress(run, {"kind": "end", "status": "cancelled", "message": said})
    decide(run, "left")


def model_made(name: str) -> bool:
    """Tell whether a run left a model."""
    use_models_folder()
    return (models.models_folder() / name / "card.json").exists()


def parent_of(run: Path) -> str:
    """Return the model that a run started from, by the name it has now."""
    with suppress(AttnSegError):
        if parent := models.find(run.name).card.parent:
            return parent
    return runs.read_request(run).parent


def roll_back(name: str) -> str:
    """Delete the model that a run made and return its parent's name, "base" where that is gone.

    Raises
    ------
    AttnSegError
        It is not there, or cannot be deleted.
    """
    use_models_folder()
    parent = models.find(name).card.parent
    models.remove(name)
    return parent if parent and models.exists(parent) else "base"
