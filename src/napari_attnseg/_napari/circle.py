"""A circle of the chosen object diameter, drawn on the image to compare; a small layer that goes again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from napari.layers import Points

from napari_attnseg._napari.layers import META, data_position, visible_field

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image

    from napari_attnseg.records import ImageSource

NAME = "object diameter"


def find(viewer: ViewerModel) -> Points | None:
    """Return the circle's layer, if it is drawn."""
    for layer in viewer.layers:
        if isinstance(layer, Points) and layer.metadata.get(META, {}).get("kind") == "circle":
            return layer
    return None


def draw(viewer: ViewerModel, image: Image, source: ImageSource, diameter: float) -> Points:
    """Draw the circle in the middle of the view, or resize the one that is there.

    Parameters
    ----------
    diameter : float
        In pixels of the image.
    """
    layer = find(viewer)
    if layer is not None and layer.metadata[META]["of"] == str(image.unique_id):
        layer.size = diameter
        return layer
    remove(viewer)
    selection = set(viewer.layers.selection)
    position = np.round(data_position(image, viewer.dims.point))
    field = visible_field(image, source.shape_yx)
    position[-2:] = [(part.start + part.stop - 1) / 2 for part in field]
    layer = Points(
        position[None],
        name=NAME,
        size=diameter,
        face_color="transparent",
        border_color="#ffd54a",
        border_width=2 / max(diameter, 8.0),
        out_of_slice_display=False,
        metadata={META: {"kind": "circle", "of": str(image.unique_id)}},
        scale=image.scale,
        translate=image.translate,
        rotate=image.rotate,
        shear=image.shear,
        affine=image.affine,
        units=image.units,
        axis_labels=image.axis_labels,
    )
    viewer.layers.append(layer)
    if selection:
        viewer.layers.selection = selection
    return layer


def remove(viewer: ViewerModel) -> None:
    """Take the circle away."""
    layer = find(viewer)
    if layer is not None:
        viewer.layers.remove(layer)
