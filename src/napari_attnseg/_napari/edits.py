"""Correcting a Labels layer: where the mouse is, what a run kept there, and writing what ctrl+z undoes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Labels

from napari_attnseg._napari.canvas import why_no_planes
from napari_attnseg._napari.classes import of_classes
from napari_attnseg._napari.layers import META, data_position
from napari_attnseg.core.edits import PlaneMaps
from napari_attnseg.errors import InputError
from napari_attnseg.records import PlaneKey

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from napari.components import ViewerModel

    from napari_attnseg._napari.session import Run, Session
    from napari_attnseg.core.edits import Edit

    Plane = tuple[int, ...]
    Box = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Spot:
    """A pixel of a Labels layer.

    Attributes
    ----------
    plane : tuple of int
        Index of all axes before Y and X.
    pixel : tuple of int
        (y, x).
    label : int
        The object there; 0 is background.
    """

    plane: Plane
    pixel: tuple[int, int]
    label: int


def labels_layers(layers: Sequence[Any]) -> list[Labels]:
    """Return the Labels layers that can be corrected, top first: none that only shows something."""
    return [
        layer
        for layer in reversed(layers)
        if isinstance(layer, Labels)
        and not layer.multiscale
        and layer.metadata.get(META, {}).get("kind", "labels") == "labels"
    ]


def why_not(viewer: ViewerModel, layer: Labels | None) -> str:
    """Return in one sentence why objects cannot be corrected as the layer is shown; "" if they can."""
    if layer is None:
        return "Run a segmentation, or add a Labels layer: its objects are corrected here."
    if of_classes(layer):
        return "Labels of classes have no single objects to correct: use napari's brush and fill."
    if why := not_writable(layer):
        return why
    if not layer.visible:
        return f"'{layer.name}' is hidden: show it first."
    if not layer.editable:
        return f"'{layer.name}' is locked: press the 2-D/3-D button, or make it editable."
    return why_no_planes(viewer, "Objects are corrected")


def not_writable(layer: Labels) -> str:
    """Return in one sentence why the layer's data cannot be written to; "" if they can."""
    data = layer.data
    lazy = getattr(data, "chunks", None) is not None and hasattr(data, "compute")  # dask: computed when read
    flags = getattr(data, "flags", None)
    if lazy or not hasattr(data, "__setitem__") or not getattr(flags, "writeable", True):
        return f"The data of '{layer.name}' cannot be written to: add a copy of it in memory as a layer."
    return ""


def plane_shown(viewer: ViewerModel, layer: Labels) -> Plane:
    """Return the plane of the layer that the viewer shows."""
    position = np.rint(data_position(layer, viewer.dims.point)[:-2]).astype(int)
    return tuple(int(np.clip(p, 0, n - 1)) for p, n in zip(position, layer.data.shape[:-2], strict=True))


def spot_at(viewer: ViewerModel, layer: Labels, world: Sequence[float]) -> Spot | None:
    """Return the pixel of the shown plane at a world position; None outside the layer."""
    y, x = (int(np.floor(p + 0.5)) for p in data_position(layer, world)[-2:])
    height, width = layer.data.shape[-2:]
    if not (0 <= y < height and 0 <= x < width):
        return None
    plane = plane_shown(viewer, layer)
    return Spot(plane, (y, x), int(np.asarray(layer.data[(*plane, y, x)])))


def plane_of(layer: Labels, plane: Plane) -> npt.NDArray[np.integer]:
    """Return the labels of a plane, (H, W); not to be written to."""
    return np.asarray(layer.data[plane])


def lies_in(labels: npt.NDArray[np.integer], label: int, box: Box) -> bool:
    """Tell whether an object has pixels in a box (top, left, bottom, right) of its plane."""
    top, left, bottom, right = box
    return bool((labels[top:bottom, left:right] == label).any())


def free_label(layer: Labels) -> int:
    """Return an id that no object of the layer has, nor had when its features were made."""
    known = layer.features.get("index", ())
    return int(max(int(np.max(np.asarray(layer.data), initial=0)), *(int(n) for n in known), 0)) + 1


def write(layer: Labels, plane: Plane, edit: Edit) -> None:
    """Write an edit into the layer as one step of its undo history.

    Raises
    ------
    InputError
        An id that the layer's data type cannot hold, or data that cannot be written.
    """
    if not len(edit.rows):
        return
    top = np.iinfo(layer.dtype).max
    if int(edit.values.max()) > top:
        raise InputError(
            f"'{layer.name}' holds ids up to {top} only.",
            "Right-click it in the layer list and convert its data type.",
        )
    where = (*(np.full(len(edit.rows), n) for n in plane), edit.rows, edit.columns)
    put(layer, where, edit.values.astype(layer.dtype))


def put(layer: Labels, where: tuple[npt.NDArray[np.integer], ...], values: npt.NDArray[np.integer]) -> None:
    """Set pixels as one step of the layer's history; what fails halfway is taken back.

    Raises
    ------
    InputError
        The layer takes no pixels.
    """
    before = np.array(layer.data[where])
    try:
        with layer.block_history():
            layer.data_setitem(where, values)
    except Exception as err:  # of napari, or of whatever array the layer holds
        layer._staged_history = []  # else napari adds it to the next step
        if not np.array_equal(layer.data[where], before):
            layer.data[where] = before
        raise InputError(
            f"'{layer.name}' could not be changed ({type(err).__name__}).", "Show the layer, and try again."
        ) from err


# -- what belongs to a labels layer --------------------------------------------------------------------


def run_of(session: Session, layer: Labels) -> Run | None:
    """Return the run that wrote the layer, while it is kept."""
    return next((run for run in session.state.runs if run.shown.layer is layer), None)


def key_of(axes: str, plane: Plane) -> PlaneKey:
    """Return the key of a plane of the image ``axes`` from its index in the labels layer over it."""
    channel = axes.find("C")
    return PlaneKey(tuple(plane if channel <= 0 else (*plane[:channel], *plane[channel + 1 :])))


def kept_at(session: Session, layer: Labels, plane: Plane) -> PlaneMaps | None:
    """Return what the run that wrote the layer kept of a plane; None where nothing is kept."""
    run = run_of(session, layer)
    if run is None or run.encoded is None:
        return None
    maps = run.encoded.maps.get(key_of(run.source.axes, plane))
    return None if maps is None else PlaneMaps(maps, run.encoded.field, run.params.threshold)
