"""What to correct next, on layers: what is ranked, what is done, and bringing a place into view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from napari_attnseg._napari.classes import of_classes
from napari_attnseg._napari.corrections import Pair, pairs
from napari_attnseg._napari.edits import key_of, plane_shown, run_of
from napari_attnseg._napari.layers import META
from napari_attnseg._napari.marks import checked, set_feature
from napari_attnseg.core.axes import plane_keys
from napari_attnseg.errors import InputError
from napari_attnseg.jobs.rank import Ranking, rank
from napari_attnseg.jobs.warmup import warmup
from napari_attnseg.params import SegmentParams

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    import numpy.typing as npt
    from napari.components import ViewerModel
    from napari.layers import Labels

    from napari_attnseg._napari.kept import Kept
    from napari_attnseg._napari.session import Session
    from napari_attnseg.core.ranking import Suspect
    from napari_attnseg.engine import Engine
    from napari_attnseg.records import Encoded, PlaneKey, Progress

SCORE = "correct_next"  # the feature column of the scores
_ROOM = 4.0  # the view shows this many times the extent of an object
_LEAST = 90.0  # and at least so many pixels


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be ranked.

    Attributes
    ----------
    labels : mapping of PlaneKey to ndarray, (H, W)
        Copies of the planes as they were when the question was put.
    done : mapping of PlaneKey to set of int
        Objects that the user drew, corrected or accepted.
    kept : Kept or None
        What was predicted for the layer when the question was put.
    """

    pair: Pair
    params: SegmentParams
    labels: dict[PlaneKey, npt.NDArray[np.int32]]
    done: dict[PlaneKey, set[int]]
    encoded: Encoded | None
    kept: Kept | None = None


def pair_of(viewer: ViewerModel, session: Session, layer: Labels | None) -> Pair | None:
    """Return the Labels layer with the image it belongs to; None where no image fits."""
    return next((pair for pair in pairs(viewer.layers, session) if pair.labels is layer), None)


def why_not(viewer: ViewerModel, session: Session, layer: Labels | None) -> str:
    """Return in one sentence why the layer's objects cannot be ranked; "" if they can."""
    if layer is None:
        return "Run a segmentation, or add a Labels layer over an image."
    if pair_of(viewer, session, layer) is None:
        return f"No image of the size of '{layer.name}' is open."
    if of_classes(layer):
        return "Labels of classes have no single objects to rank."
    return ""


def question(viewer: ViewerModel, session: Session, layer: Labels, every_plane: bool, model: str) -> Question:
    """Return what is to be ranked, as the layers are now.

    Parameters
    ----------
    every_plane : bool
        All planes that hold labels; else the one that is shown.
    model : str
        For labels that no run of ours made.

    Raises
    ------
    InputError
        There is no image to the labels, or nothing is labelled there.
    """
    why, pair = why_not(viewer, session, layer), pair_of(viewer, session, layer)
    if why or pair is None:
        raise InputError(why)
    keys = plane_keys(pair.source) if every_plane else [key_of(pair.axes, plane_shown(viewer, layer))]
    labels = {key: pair.after(key) for key in keys}
    labels = {key: plane for key, plane in labels.items() if plane.any() or not every_plane}
    if not labels:
        raise InputError(f"'{layer.name}' holds no object.", "Run a segmentation first.")
    done = {key: done_ids(pair, key, plane) for key, plane in labels.items()}
    params = _params(pair, model)
    run = run_of(session, layer)
    return Question(pair, params, labels, done, run.encoded if run is not None else None, session.kept(layer))


def done_ids(pair: Pair, key: PlaneKey, labels: npt.NDArray[np.int32]) -> set[int]:
    """Return the objects of a plane that the user accepted, drew or reshaped."""
    before = pair.before(key, labels)
    corrected = () if before is None else pair.changes(before, labels).corrected
    return checked(pair.labels) | set(corrected)


def _stored_params(layer: Labels) -> dict[str, Any]:
    return dict(layer.metadata.get(META, {}).get("params", {}))


def _params(pair: Pair, model: str) -> SegmentParams:
    """Return the parameters of the run that made the labels, for the attention network."""
    values: dict[str, Any] = pair.kept.params.model_dump() if pair.kept else _stored_params(pair.labels)
    values = {"model": model, **values, "channel": pair.channel, "method": "attention", "task": "instances"}
    try:
        return SegmentParams(**values)
    except ValidationError:  # labels of another version
        return SegmentParams(model=model)


def ask(
    engine: Engine | None, asked: Question, thorough: bool
) -> Generator[Progress, None, tuple[Engine | None, Ranking]]:
    """Rank, loading the network first where it is needed and not there yet."""
    encoded = asked.encoded
    if engine is not None and encoded is not None and encoded.card_id != engine.card.id:
        encoded = None  # another model is loaded now: its opinion counts
    known = encoded is not None and all(key in encoded.maps for key in asked.labels)
    if engine is None and (thorough or not known):
        engine = yield from warmup(asked.params.model, asked.params.device)
    found = yield from rank(
        engine,
        asked.pair.source,
        asked.params,
        asked.labels,
        encoded=encoded,
        done=asked.done,
        thorough=thorough,
    )
    return engine, found


def show_scores(layer: Labels, ranking: Ranking) -> None:
    """Write the scores into the layer's features; objects that were not looked at keep theirs."""
    scores = {label: round(score, 3) for label, score in ranking.scores.items()}
    if scores:
        set_feature(layer, SCORE, scores, default=float("nan"))


def outdated(session: Session, asked: Question) -> bool:
    """Tell whether a run or another readout wrote the layer anew since the question: ids may mean others."""
    return session.kept(asked.pair.labels) is not asked.kept


def done_of(asked: Question, listed: Sequence[Suspect]) -> list[bool]:
    """Tell of every suspect whether the user changed or accepted what it points at since the question."""
    right = checked(asked.pair.labels)
    return [suspect.label in right or _changed(asked, suspect) for suspect in listed]


def _changed(asked: Question, suspect: Suspect) -> bool:
    pair, label = asked.pair, suspect.label
    if suspect.kind == "field":
        return False
    top, left, bottom, right = suspect.box
    window = slice(max(top - 1, 0), bottom + 1), slice(max(left - 1, 0), right + 1)
    then = asked.labels[suspect.plane][window]
    now = np.asarray(pair.labels.data[(*pair.index(suspect.plane), *window)])
    if label:
        return not np.array_equal(now == label, then == label)
    return not np.array_equal(now != 0, then != 0)


def go_to(viewer: ViewerModel, asked: Question, suspect: Suspect) -> None:
    """Bring a suspect into view: its plane, its place, large; its label becomes the chosen one."""
    layer = asked.pair.labels
    top, left, bottom, right = suspect.box
    middle = (*asked.pair.index(suspect.plane), (top + bottom - 1) / 2, (left + right - 1) / 2)
    world = np.zeros(viewer.dims.ndim)
    world[-layer.ndim :] = layer.data_to_world(middle)
    for axis in viewer.dims.not_displayed:
        if axis >= viewer.dims.ndim - layer.ndim:
            viewer.dims.set_point(axis, float(world[axis]))
    shown = [world[axis] for axis in viewer.dims.displayed]
    viewer.scene.camera.center = tuple(shown)
    least, room = (0.0, 1.1) if suspect.kind == "field" else (_LEAST, _ROOM)
    reach = max(room * max(bottom - top, right - left), least) * float(np.abs(layer.scale[-2:]).max())
    viewer.scene.camera.zoom = min(viewer.canvas.size) / reach
    viewer.layers.selection.active = layer
    if suspect.label:
        layer.selected_label = suspect.label
