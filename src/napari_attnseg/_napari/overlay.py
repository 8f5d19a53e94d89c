"""Token values on the canvas: Image layers of one value per token, laid over the image by an affine.

Where tokens reach past the image they are cut into parts, and those outside are left away.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
from napari.layers import Image
from napari.utils.colormaps import Colormap

from napari_attnseg._napari.layers import META, world_matrix

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from napari.components import LayerList

    from napari_attnseg._napari.views import View
    from napari_attnseg.core.grid import TokenGrid
    from napari_attnseg.records import ImageSource, PlaneKey

# dark to bright, so that unattended places add nothing to the image under it
_COLOURS = ((0.0, 0.0, 0.0), (0.28, 0.05, 0.42), (0.85, 0.2, 0.28), (1.0, 0.68, 0.15), (1.0, 0.97, 0.8))
# for bright images: clear where no attention goes, then ever darker: light added there would be lost
_INKS = (
    (0.8, 1.0, 0.2, 0.0),
    (0.6, 0.9, 0.1, 0.5),
    (0.1, 0.7, 0.25, 0.75),
    (0.0, 0.45, 0.4, 0.9),
    (0.0, 0.15, 0.35, 1.0),
)
# below zero blue, above zero orange, nothing where both agree
_SIGNED = ((0.05, 0.45, 1.0, 1.0), (0.05, 0.45, 1.0, 0.0), (1.0, 0.5, 0.05, 0.0), (1.0, 0.5, 0.05, 1.0))
_OPACITY, _INK_OPACITY = 0.5, 0.8  # let the colours of the labels under it be told
_INK = "attnseg ink"
_BRIGHT = 0.3  # mean of the thumbnail above which an image is bright
# of each overlay: the values of its tokens, and how they are cut
_tokens: WeakKeyDictionary[Image, tuple[npt.NDArray[np.float32], int, tuple[int, int]]] = WeakKeyDictionary()
MAIN = "attention"  # the role of the overlay that follows the query


def find(layers: Sequence[Any], image: Image, role: str = MAIN) -> Image | None:
    """Return the overlay of an image in a role, if it is there.

    Roles are "attention" (what is asked now), "pin N" (a pinned query) and "other" (a second model).
    """
    for layer in layers:
        about = layer.metadata.get(META, {})
        ours = about.get("kind") == MAIN and about.get("of") == str(image.unique_id)
        if ours and about.get("role", MAIN) == role:
            return layer  # type: ignore[no-any-return]
    return None


def found(layers: Sequence[Any], image: Image) -> list[Image]:
    """Return all overlays of an image, whatever their role."""
    return [
        layer
        for layer in layers
        if layer.metadata.get(META, {}).get("kind") in (MAIN, "beside")
        and layer.metadata[META].get("of") == str(image.unique_id)
    ]


def show(
    layers: LayerList,
    image: Image,
    source: ImageSource,
    plane: PlaneKey,
    view: View,
    *,
    role: str = MAIN,
    colour: str | None = None,
    shift: float = 0.0,
) -> Image:
    """Show a view over its image: in the overlay that is there for the role, or in a new one.

    Parameters
    ----------
    colour : str or None
        One colour instead of the usual scale, clear where no attention goes.
    shift : float
        Pixels of the image by which the overlay is moved to the right, for showing side by side.
    """
    layer = find(layers, image, role)
    parts, shape = view.grid.parts(source.shape_yx)
    data = _cells(view.values, parts, shape, layer is not None and layer.interpolation2d != "nearest")
    data = data.reshape((1,) * (image.ndim - 2) + shape)
    affine = overlay_affine(image, source, plane, view.grid, shift, parts)
    name = f"{image.name} · attention" + ("" if role == MAIN else f" · {role}")
    if layer is None:
        layer = _new(image, data, name, affine, view)
        _dress(layer, image, view, colour)
        layer.colorbar.visible = role == MAIN
        add_on_top(layers, layer)
    else:
        _refill(layer, data, affine)
        if layer.name == layer.metadata[META].get("named"):  # the image was renamed, the overlay was not
            layer.name = name
        if view.signed != (layer.metadata[META].get("signed") is True):
            _dress(layer, image, view, colour)
    _tokens[layer] = view.values, parts, shape
    if colour is None and not view.signed and layer.gamma != view.gamma:
        layer.gamma = view.gamma
    if tuple(layer.contrast_limits) != view.limits:
        layer.contrast_limits_range = (min(0.0, view.limits[0]), max(1.0, view.limits[1]))
        layer.contrast_limits = view.limits
    layer.metadata[META] = {
        "kind": MAIN,
        "of": str(image.unique_id),
        "role": role,
        "named": layer.name,
        "plane": list(plane.index),
        "caption": view.caption,
        "signed": view.signed,
        **view.info,
    }
    return layer


def _cells(
    values: npt.NDArray[np.float32], parts: int, shape: tuple[int, int], smooth: bool
) -> npt.NDArray[np.float32]:
    """Return tokens cut into ``parts`` a side, the first ``shape`` of them, (rows, columns) float32.

    A part has its token's value, or one between those of the nearest tokens.
    """
    if parts == 1 or not smooth:
        return values.repeat(parts, axis=0).repeat(parts, axis=1)[: shape[0], : shape[1]]
    from scipy.ndimage import map_coordinates

    at = ((np.arange(count) + 0.5) / parts - 0.5 for count in shape)
    blended: npt.NDArray[np.float32] = map_coordinates(
        values, np.meshgrid(*at, indexing="ij"), order=1, mode="nearest"
    )
    return blended


def _new(image: Image, data: npt.NDArray[np.float32], name: str, affine: Any, view: View) -> Image:
    layer = Image(
        data.copy(),
        name=name,
        affine=affine,
        contrast_limits=view.limits,
        interpolation2d="nearest",
        opacity=_OPACITY,
        units=image.units,
        axis_labels=image.axis_labels,
        metadata={META: {"kind": MAIN, "of": str(image.unique_id)}},
    )
    layer.contrast_limits_range = (min(0.0, view.limits[0]), max(1.0, view.limits[1]))
    return layer


def _dress(layer: Image, image: Image, view: View, colour: str | None) -> None:
    """Give a layer the colours that fit what it shows and the image under it."""
    if view.signed:
        layer.colormap = Colormap(_SIGNED, controls=(0.0, 0.5, 0.5, 1.0), name="attnseg difference")
        layer.blending, layer.gamma, layer.opacity = "translucent", 1.0, 0.8
    elif colour is not None:
        layer.colormap = _single(colour)
        layer.blending, layer.gamma, layer.opacity = "translucent", 1.0, 0.8
    else:
        layer.opacity = _OPACITY if layer.metadata[META].get("signed") else layer.opacity
        set_ink(layer, is_bright(image))


def _single(colour: str) -> Colormap:
    rgb = tuple(int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5))
    # clear below a fifth of the largest weight: several of them lie over each other
    return Colormap(
        ((*rgb, 0.0), (*rgb, 0.0), (*rgb, 1.0)), controls=(0.0, 0.2, 1.0), name=f"attnseg {colour}"
    )


def _refill(layer: Image, data: npt.NDArray[np.float32], affine: npt.NDArray[np.float64]) -> None:
    """Write into the layer's array where the shape stays: half the time of a new array."""
    if layer.data.shape == data.shape:
        layer.data[...] = data
        moved = not np.array_equal(layer.affine.affine_matrix, affine)
        if moved:
            layer.affine = affine
        layer.refresh(thumbnail=False, highlight=False, extent=False)
    else:
        layer.data = data.copy()
        layer.affine = affine


def is_bright(image: Image) -> bool:
    """Tell whether much of what the layer shows is bright (phase contrast, a stained section)."""
    thumbnail = np.asarray(image.thumbnail, dtype=float)[..., :3].mean(axis=-1) / 255.0
    rows, cols = (np.flatnonzero(thumbnail.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return False
    shown = thumbnail[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]  # black around what is not square
    return float(shown.mean()) > _BRIGHT


def has_ink(layer: Image) -> bool:
    """Tell whether an overlay is drawn in the colours for bright images."""
    return str(layer.colormap.name) == _INK


def set_ink(layer: Image, on: bool) -> None:
    """Draw an overlay in dark colours that are clear where no attention goes, or add light where it goes.

    Either way the image keeps its own light where nothing is attended to.
    """
    layer.colormap = Colormap(_INKS, name=_INK) if on else Colormap(_COLOURS, name="attnseg attention")
    layer.blending = "translucent" if on else "additive"
    layer.colorbar.box_color = "white" if on else None  # the bar lies over what the colours are made for
    layer.colorbar.color = "black" if on else None
    if layer.opacity == (_OPACITY if on else _INK_OPACITY):  # another one is the user's
        layer.opacity = _INK_OPACITY if on else _OPACITY


def set_smooth(layer: Image, on: bool) -> None:
    """Blend between the cells, or show them as they are."""
    wanted = "linear" if on else "nearest"
    if layer.interpolation2d == wanted:  # setting it builds the shader anew
        return
    layer.interpolation2d = wanted
    values, parts, shape = _tokens[layer]
    if parts > 1:
        layer.data[...] = _cells(values, parts, shape, on).reshape(layer.data.shape)
        layer.refresh(extent=False)


def show_beside(layers: LayerList, image: Image, shift: float, name: str) -> Image:
    """Show the image once more, moved to the right by ``shift`` of its pixels; its data are not copied."""
    layer = next((old for old in found(layers, image) if old.metadata[META]["kind"] == "beside"), None)
    if layer is None:
        data, settings, _ = image.as_layer_data_tuple()
        settings |= {"metadata": {META: {"kind": "beside", "of": str(image.unique_id)}}, "name": name}
        layer = Image(data, **settings)
        selection = set(layers.selection)
        layers.insert(layers.index(image) + 1, layer)
        layers.selection = selection
    matrix = np.eye(image.ndim + 1)
    matrix[image.ndim - 1, image.ndim] = shift
    inner = world_matrix(image)
    own = np.linalg.solve(np.asarray(image.affine.affine_matrix, dtype=float), inner)
    layer.affine = inner @ matrix @ np.linalg.inv(own)
    return layer


def remove(layers: LayerList, image: Image, keep: Sequence[str] = ()) -> None:
    """Take the overlays of an image away, but for those in the roles to ``keep``."""
    for layer in found(layers, image):
        if layer.metadata[META].get("role", layer.metadata[META]["kind"]) not in keep:
            layers.remove(layer)


def overlay_affine(
    image: Image, source: ImageSource, plane: PlaneKey, grid: TokenGrid, shift: float = 0.0, parts: int = 1
) -> npt.NDArray[np.float64]:
    """Return the (n + 1, n + 1) matrix from the indices of tokens, or of parts of them, to the world.

    Along plane axes the overlay lies on the plane it was computed for; along a channel axis its one
    step spans all channels.
    """
    ndim = image.ndim
    inner = np.eye(ndim + 1)
    token = grid.affine(parts)
    inner[ndim - 2 : ndim, ndim - 2 : ndim] = token[:2, :2]
    inner[ndim - 2 : ndim, ndim] = token[:2, 2]
    inner[ndim - 1, ndim] += shift
    for axis, index in zip(source.plane_axes, plane.index, strict=True):
        inner[source.axes.index(axis), ndim] = index
    if "C" in source.axes:
        channel, count = source.axes.index("C"), source.channels
        inner[channel, channel], inner[channel, ndim] = count, (count - 1) / 2
    return world_matrix(image) @ inner


def add_on_top(layers: LayerList, layer: Any) -> None:
    """Put a layer on top; the user keeps working on the layers they chose."""
    selection = set(layers.selection)
    layers.append(layer)
    if selection:
        layers.selection = selection
