"""Marks over the image: pinned queries as points, a window or a tile's field as an outline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Points, Vectors

from napari_attnseg._napari.layers import META, labels_geometry
from napari_attnseg._napari.overlay import add_on_top
from napari_attnseg._napari.views import brightest
from napari_attnseg.core.attention import window_box
from napari_attnseg.core.attention_maps import ROLLOUT

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from napari.components import LayerList
    from napari.layers import Image

    from napari_attnseg._napari.question import Question
    from napari_attnseg._napari.views import View
    from napari_attnseg.core.attention import AttentionTape
    from napari_attnseg.core.grid import TokenGrid
    from napari_attnseg.records import ImageSource, PlaneKey

    Box = tuple[float, float, float, float]

# told apart on dark and on bright images, and by most eyes that confuse red and green
COLOURS = ("#00a9e0", "#ff8c1a", "#d64fd6", "#2fbf4a", "#e8d21d", "#e8443a", "#8f7bff", "#b98a5e")
_LINE = "#00d0ff"
_SEEDS = 3  # of the readout, joined to the asked pixel by lines


@dataclass(frozen=True, slots=True)
class Pin:
    """A query that stays.

    Attributes
    ----------
    number : int
        From 1, shown beside the marker; also chooses the colour.
    pixel : tuple of int
        (y, x) in the image plane.
    plane : PlaneKey
    """

    number: int
    pixel: tuple[int, int]
    plane: PlaneKey

    @property
    def colour(self) -> str:
        """The colour of its marker and of its layer."""
        return COLOURS[(self.number - 1) % len(COLOURS)]


def find_mark(layers: Sequence[Any], image: Image, kind: str) -> Any:
    """Return the layer of marks of a kind ("pins" or "outline") that belongs to an image; None if none."""
    for layer in layers:
        about = layer.metadata.get(META, {})
        if about.get("kind") == kind and about.get("of") == str(image.unique_id):
            return layer
    return None


def place(source: ImageSource, plane: PlaneKey, pixels: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return (n, 2) pixels of a plane as (n, d) positions in a layer made by ``labels_geometry``."""
    axes = source.axes[1:] if source.axes.startswith("C") else source.axes
    at = dict(zip(source.plane_axes, plane.index, strict=True))
    out = np.zeros((len(pixels), len(axes)))
    for column, axis in enumerate(axes[:-2]):
        out[:, column] = at.get(axis, 0)
    out[:, -2:] = pixels
    return out


def show_pins(layers: LayerList, image: Image, source: ImageSource, pins: Sequence[Pin]) -> Points | None:
    """Show one marker per pin in a Points layer of ours; without pins the layer goes."""
    layer = find_mark(layers, image, "pins")
    if layer is not None:
        layers.remove(layer)  # a few markers: a fresh layer is simpler than one edited in place
    if not pins:
        return None
    data = np.concatenate([place(source, pin.plane, np.array([pin.pixel], dtype=float)) for pin in pins])
    colours = [pin.colour for pin in pins]
    layer = Points(
        data,
        name=f"{image.name} · attention pins",
        size=max(5.0, min(source.shape_yx) / 45),
        symbol="o",
        face_color="transparent",
        border_color=colours,
        border_width=0.18,
        text={
            "string": [str(pin.number) for pin in pins],
            "color": colours,
            "size": 12,
            "anchor": "upper_left",
            "translation": [0.0] * data.shape[1],
        },
        metadata={META: {"kind": "pins", "of": str(image.unique_id)}},
        **labels_geometry(image, source.axes),
    )
    layer.editable = False
    add_on_top(layers, layer)
    return layer


def outline_of(
    view: View, question: Question, tape: AttentionTape, shape_yx: tuple[int, int]
) -> tuple[list[Box], list[Box]]:
    """Return what is to be outlined: the asked token, its window, and a field smaller than the plane.

    Returns
    -------
    boxes : list of (top, left, bottom, right)
    lines : list of (y, x, y, x)
        In the readout, from the asked pixel to its seeds.
    """
    boxes: list[Box] = []
    lines: list[Box] = []
    show, pixel = view.info.get("show"), question.pixel
    if show == ROLLOUT and pixel is not None and not question.label:
        boxes = [cell_box(view.grid, pixel)]
    if show in ("row", "difference") and pixel is not None:
        block = tape.block(question.block)
        if block.kind == "readout":
            lines = [(*pixel, *seed) for seed in brightest(view, _SEEDS, 0.01)]
            boxes = [(y - 1.5, x - 1.5, y + 1.5, x + 1.5) for *_, y, x in lines]
        else:
            window = window_box(block, pixel)
            boxes = [cell_box(view.grid, pixel), *([window] if window is not None else [])]
    if tuple(view.grid.field) != tuple(shape_yx):
        boxes.append(field_box(view.grid))
    return boxes, lines


def show_outline(
    layers: LayerList,
    image: Image,
    source: ImageSource,
    plane: PlaneKey,
    boxes: Sequence[Box],
    lines: Sequence[Box] = (),
) -> Vectors | None:
    """Draw boxes and lines in a Vectors layer of ours; without any the layer goes.

    Parameters
    ----------
    boxes : sequence of (top, left, bottom, right)
        Edges, in pixels.
    lines : sequence of (y, x, y, x)
        From where to where, in pixels.
    """
    layer = find_mark(layers, image, "outline")
    if not boxes and not lines:
        if layer is not None:
            layers.remove(layer)
        return None
    parts = [_edges(source, plane, _inside(box, source.shape_yx)) for box in boxes]
    for y0, x0, y1, x1 in lines:
        ends = place(source, plane, np.array([[y0, x0], [y1, x1]]))
        parts.append(np.stack([ends[:1], ends[1:] - ends[:1]], axis=1))
    data = np.concatenate(parts)
    name = f"{image.name} · attention outline"
    if layer is not None and layer.name == layer.metadata[META].get("named"):  # the image was renamed
        layer.name = name
        layer.metadata[META]["named"] = layer.name
    if layer is None:
        layer = Vectors(
            data,
            name=name,
            edge_color=_LINE,
            edge_width=max(0.6, min(source.shape_yx) / 400),
            vector_style="line",
            opacity=0.9,
            metadata={META: {"kind": "outline", "of": str(image.unique_id)}},
            **labels_geometry(image, source.axes),
        )
        add_on_top(layers, layer)
        layer.metadata[META]["named"] = layer.name
    elif layer.data.shape != data.shape:
        layer.data = data
    elif not np.array_equal(layer.data, data):
        layer.data[...] = data  # new data would have napari measure all layers and draw twice
        layer.refresh(thumbnail=False, highlight=False, extent=False)
    return layer


def _inside(box: Box, shape: tuple[int, int]) -> Box:
    """Return the part of a box that lies in a plane, (H, W) pixels."""
    low, high = -0.5, (shape[0] - 0.5, shape[1] - 0.5)
    top, left, bottom, right = box
    return max(top, low), max(left, low), min(bottom, high[0]), min(right, high[1])


def cell_box(grid: TokenGrid, pixel: tuple[int, int]) -> tuple[float, float, float, float]:
    """Return the token of a pixel as a box, in pixels."""
    y, x = grid.pixel_of(grid.token_of(pixel))
    half = grid.cell / 2
    return y - half, x - half, y + half, x + half


def field_box(grid: TokenGrid) -> tuple[float, float, float, float]:
    """Return the field of a grid as a box, in pixels."""
    (y, x), (h, w) = grid.origin, grid.field
    return y - 0.5, x - 0.5, y + h - 0.5, x + w - 0.5


def clear(layers: LayerList, image: Image) -> None:
    """Take all marks of an image away."""
    for kind in ("pins", "outline"):
        layer = find_mark(layers, image, kind)
        if layer is not None:
            layers.remove(layer)


def _edges(
    source: ImageSource, plane: PlaneKey, box: tuple[float, float, float, float]
) -> npt.NDArray[np.float64]:
    """Return the four sides of a box as (4, 2, d) vectors: start and way."""
    top, left, bottom, right = box
    corners = place(source, plane, np.array([[top, left], [top, right], [bottom, right], [bottom, left]]))
    return np.stack([corners, np.roll(corners, -1, axis=0) - corners], axis=1)
