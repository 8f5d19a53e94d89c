"""The line that is drawn while an object is being split: a small layer that goes again with the tool."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from napari.layers import Vectors

from napari_attnseg._napari.layers import META, data_position

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari.components import ViewerModel
    from napari.layers import Labels


def find(viewer: ViewerModel) -> Vectors | None:
    """Return the stroke's layer, if it is there."""
    for layer in viewer.layers:
        if isinstance(layer, Vectors) and layer.metadata.get(META, {}).get("kind") == "stroke":
            return layer
    return None


def prepare(viewer: ViewerModel, labels: Labels) -> Vectors:
    """Put an empty stroke layer over a Labels layer; the selection stays as it is."""
    remove(viewer)
    selection = set(viewer.layers.selection)
    layer = Vectors(
        np.empty((0, 2, labels.ndim)),
        ndim=labels.ndim,
        name="split stroke",
        edge_color="#ffd54a",
        edge_width=1.0,
        vector_style="line",
        metadata={META: {"kind": "stroke"}},
        scale=labels.scale,
        translate=labels.translate,
        rotate=labels.rotate,
        shear=labels.shear,
        affine=labels.affine,
        units=labels.units,
        axis_labels=labels.axis_labels,
    )
    viewer.layers.append(layer)
    viewer.layers.selection = selection
    return layer


def draw(
    viewer: ViewerModel, labels: Labels, plane: tuple[int, ...], points: Sequence[tuple[float, ...]]
) -> None:
    """Show the stroke through world positions ``points``; none of them empties it."""
    layer = find(viewer)
    if layer is None:
        return
    path = [data_position(labels, point) for point in points]
    if len(path) < 2:
        layer.data = np.empty((0, 2, labels.ndim))
        return
    stops = np.array(path)
    stops[:, :-2] = plane
    layer.edge_width = 3.0 / max(float(viewer.scene.camera.zoom) * float(labels.scale[-1]), 1e-6)
    layer.data = np.stack([stops[:-1], np.diff(stops, axis=0)], axis=1)


def remove(viewer: ViewerModel) -> None:
    """Take the stroke's layer away."""
    layer = find(viewer)
    if layer is not None:
        viewer.layers.remove(layer)
