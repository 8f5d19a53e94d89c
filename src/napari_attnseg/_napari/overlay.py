"""The attention overlay: token values as an Image layer of their own, laid over the image by an affine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image
from napari.utils.colormaps import Colormap

from napari_attnseg._napari.layers import META, world_matrix

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt
    from napari.components import LayerList

    from napari_attnseg.core.attention import AttentionTape
    from napari_attnseg.core.grid import TokenGrid
    from napari_attnseg.records import AttentionRow, ImageSource, PlaneKey

# dark to bright, so that unattended places add nothing to the image under it
_COLOURS = ((0.0, 0.0, 0.0), (0.28, 0.05, 0.42), (0.85, 0.2, 0.28), (1.0, 0.68, 0.15), (1.0, 0.97, 0.8))
# for bright images: what is not looked at keeps a third of its light, what is looked at all of it
_SHADES = ((0.36, 0.32, 0.46), (0.6, 0.45, 0.58), (1.0, 0.78, 0.6), (1.0, 1.0, 1.0))
_OPACITY = 0.5  # lets the colours of the labels under it be told
_BRIGHT = 0.5  # mean of the thumbnail above which an image is bright


@dataclass(frozen=True, slots=True)
class View:
    """What the overlay shows.

    Attributes
    ----------
    values : ndarray, (gh, gw) float32
        One value per token.
    grid : TokenGrid
    limits : tuple of float
        Values drawn black and brightest.
    caption : str
        Names block, head, stride, register share, and whether the values are exact or sampled.
    info : mapping
        The same as plain values, kept in the layer's metadata.
    """

    values: npt.NDArray[np.float32]
    grid: TokenGrid
    limits: tuple[float, float]
    caption: str
    info: Mapping[str, Any]


def received_view(tape: AttentionTape, block: str, head: str) -> View:
    """Return how much attention every token received, mean over queries."""
    kept = tape.block(block)
    values, sampled = tape.received(block, head)
    share = float(np.clip(1.0 - values.sum(dtype=float), 0.0, 1.0))
    how = "sampled from 1,024 queries" if sampled else "exact"
    info = _info(tape, block, head) | {"show": "received", "register_share": share, "sampled": sampled}
    low, high = float(values.min()), float(np.percentile(values, 99.5))
    caption = f"Attention received · {_words(kept, head)} · registers {share:.0%} · {how}"
    return View(values, kept.grid, _limits(low, high), caption, info)


def row_view(tape: AttentionTape, block: str, head: str, pixel: tuple[int, int]) -> View:
    """Return what one pixel attended to."""
    row = tape.row(block, pixel, head)
    info = _info(tape, block, head) | {
        "show": "row",
        "query": list(pixel),
        "register_share": row.register_share,
        "sampled": False,
    }
    caption = (
        f"Pixel {pixel[0]}, {pixel[1]} looks at{_most(row)} · {_words(tape.block(block), head)} · "
        f"registers {row.register_share:.0%} · exact"
    )
    return View(row.weights, row.grid, _limits(0.0, float(row.weights.max())), caption, info)


def find(layers: Sequence[Any], image: Image) -> Image | None:
    """Return the overlay layer of an image, if it is there."""
    for layer in layers:
        about = layer.metadata.get(META, {})
        if about.get("kind") == "attention" and about.get("of") == str(image.unique_id):
            return layer  # type: ignore[no-any-return]
    return None


def show(layers: LayerList, image: Image, source: ImageSource, plane: PlaneKey, view: View) -> Image:
    """Show a view over its image: in the overlay layer that is there, or in a new one."""
    data = view.values.reshape((1,) * (image.ndim - 2) + view.values.shape)
    affine = overlay_affine(image, source, plane, view.grid)
    layer = find(layers, image)
    name = f"{image.name} · attention"
    if layer is None:
        selection = set(layers.selection)
        layer = Image(
            data,
            name=name,
            affine=affine,
            contrast_limits=view.limits,
            interpolation2d="nearest",
            opacity=_OPACITY,
            gamma=0.6,  # weights fall off fast: let the weaker ones be seen
            units=image.units,
            axis_labels=image.axis_labels,
            metadata={META: {"kind": "attention", "of": str(image.unique_id)}},
        )
        set_darken(layer, is_bright(image))
        layers.append(layer)
        if selection:  # the user keeps working on the layers they chose
            layers.selection = selection
    else:
        layer.data = data
        layer.affine = affine
        if layer.name == layer.metadata[META].get("named"):  # the image was renamed, the overlay was not
            layer.name = name
    layer.contrast_limits_range = (0.0, max(1.0, view.limits[1]))
    layer.contrast_limits = view.limits
    about = {
        "kind": "attention",
        "of": str(image.unique_id),
        "named": layer.name,
        "plane": list(plane.index),
        "caption": view.caption,
    }
    layer.metadata[META] = {**about, **view.info}
    return layer


def is_bright(image: Image) -> bool:
    """Tell whether most of what the layer shows is bright (a stained section): light added there is lost."""
    thumbnail = np.asarray(image.thumbnail, dtype=float) / 255.0
    shown = thumbnail[..., 3] > 0
    return bool(shown.any()) and float(thumbnail[..., :3][shown].mean()) > _BRIGHT


def set_darken(layer: Image, on: bool) -> None:
    """Let the overlay take light away where no attention goes, or add light where it goes."""
    colours, name = (_SHADES, "attnseg shade") if on else (_COLOURS, "attnseg attention")
    layer.colormap = Colormap(colours, name=name)
    layer.blending = "multiplicative" if on else "additive"


def overlay_affine(
    image: Image, source: ImageSource, plane: PlaneKey, grid: TokenGrid
) -> npt.NDArray[np.float64]:
    """Return the (n + 1, n + 1) matrix from token indices to the world.

    Along plane axes the overlay lies on the plane it was computed for; along a channel axis its one
    step spans all channels.
    """
    ndim = image.ndim
    inner = np.eye(ndim + 1)
    token = grid.affine()
    inner[ndim - 2 : ndim, ndim - 2 : ndim] = token[:2, :2]
    inner[ndim - 2 : ndim, ndim] = token[:2, 2]
    for axis, index in zip(source.plane_axes, plane.index, strict=True):
        inner[source.axes.index(axis), ndim] = index
    if "C" in source.axes:
        channel, count = source.axes.index("C"), source.channels
        inner[channel, channel], inner[channel, ndim] = count, (count - 1) / 2
    return world_matrix(image) @ inner


def _info(tape: AttentionTape, block: str, head: str) -> dict[str, Any]:
    kept = tape.block(block)
    return {
        "block": block,
        "block_kind": kept.kind,
        "head": head,
        "stride": kept.grid.stride,
        "zoom": kept.grid.zoom,
        "window": kept.window,
        "model": tape.model,
    }


def _most(row: AttentionRow) -> str:
    """Name the place that gets half of the attention or more: it may be one pixel, hard to find by eye."""
    top = int(row.weights.argmax())
    share = float(row.weights.flat[top])
    if share < 0.5:
        return ""
    where = divmod(top, row.weights.shape[1])
    y, x = (round(p) for p in row.grid.pixel_of(where))
    return f" {y}, {x} above all ({share:.0%})"


def _words(block: Any, head: str) -> str:
    side = 2 * (block.window or 0) + 1
    where = "whole field" if block.window is None else f"window of {side} x {side}"
    heads = "mean of heads" if head == "mean" else f"head {head}"
    return f"{block.name} ({where}) · {heads} · stride {block.grid.cell:.3g} px"


def _limits(low: float, high: float) -> tuple[float, float]:
    return (low, high) if high > low else (low, low + 1e-6)
