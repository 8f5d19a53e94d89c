"""Correcting a Labels layer: where the mouse is, what a run kept there, and writing what ctrl+z undoes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Labels

from napari_attnseg._napari.layers import data_position
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
    """Return the Labels layers that can be corrected, top first."""
    return [layer for layer in reversed(layers) if isinstance(layer, Labels) and not layer.multiscale]


def why_not(viewer: ViewerModel, layer: Labels | None) -> str:
    """Return in one sentence why objects cannot be corrected as the layer is shown; "" if they can."""
    if layer is None:
        return "Run a segmentation, or add a Labels layer: its objects are corrected here."
    if not layer.editable:
        return f"'{layer.name}' is locked: press the 2-D/3-D button, or make it editable."
    if viewer.dims.ndisplay != 2:
        return "Objects are corrected in the 2-D view: press the 2-D/3-D button."
    if set(viewer.dims.order[-2:]) != {viewer.dims.ndim - 2, viewer.dims.ndim - 1}:
        return "Objects are corrected in Y and X: bring the last two axes into view."
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


def free_label(layer: Labels) -> int:
    """Return an id that no object of the layer has, nor had when its features were made."""
    known = layer.features.get("index", ())
    return int(max(int(np.asarray(layer.data.max())), *(int(n) for n in known), 0)) + 1


def write(layer: Labels, plane: Plane, edit: Edit) -> None:
    """Write an edit into the layer as one step of its undo history.

    Raises
    ------
    InputError
        An id that the layer's data type cannot hold.
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
    with layer.block_history():
        layer.data_setitem(where, edit.values.astype(layer.dtype))


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
