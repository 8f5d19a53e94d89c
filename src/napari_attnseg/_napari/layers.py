"""napari layers to records and back: ``Image`` → ``ImageSource``; ``Segmentation`` → ``Labels``."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Labels
from napari.utils.transforms import CompositeAffine

from napari_attnseg._napari.shown import Shown, copy_planes, plane_indices, watched
from napari_attnseg.core.axes import check
from napari_attnseg.errors import InputError
from napari_attnseg.records import ImageSource, PlaneKey

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt
    from napari.components import LayerList

    from napari_attnseg.records import Segmentation

META = "attnseg"  # our key in ``layer.metadata``
_NAME = " · attnseg labels"  # behind the image's name
_LETTERS = {
    "t": "T", "time": "T", "frame": "T", "z": "Z", "depth": "Z", "slice": "Z", "plane": "Z",
    "c": "C", "ch": "C", "channel": "C", "channels": "C",
}  # fmt: skip


def unwrap(thing: Any) -> Any:
    """Return the object behind napari's public proxy, so that layers compare by identity."""
    return getattr(thing, "__wrapped__", thing)


def is_ours(layer: Any) -> bool:
    """Tell whether this plugin made the layer."""
    return META in layer.metadata


def images(layers: Sequence[Any]) -> list[Image]:
    """Return the image layers that can be segmented, top first."""
    return [layer for layer in reversed(layers) if isinstance(layer, Image) and not is_ours(layer)]


def guess_axes(layer: Image) -> str:
    """Return one letter per axis of the layer, by its axis labels and units, else by its shape.

    Y and X are the last two.  A leading axis without a name is a channel axis when it has 2 to 4 steps,
    otherwise planes.
    """
    extra = layer.ndim - 2
    if extra < 0:
        raise InputError(f"'{layer.name}' is not a plane image.", "Choose an image of at least two axes.")
    named = [_LETTERS.get(str(label).strip().lower(), "") for label in layer.axis_labels[:extra]]
    named = [name or ("T" if _is_time(unit) else "") for name, unit in zip(named, layer.units, strict=False)]
    sizes = [int(n) for n in _full(layer).shape[:extra]]
    small = [n for n in range(extra) if 2 <= sizes[n] <= 4 and not named[n]]
    if "C" not in named and small and len(small) < max(extra, 2):
        named[small[-1]] = "C"
    free = [letter for letter in "ZTPQRS" if letter not in named]
    for n in reversed(range(extra)):
        if not named[n] or named.count(named[n]) > 1:
            named[n] = free.pop(0)
    return "".join(named) + "YX"


def axes_choices(layer: Image) -> list[str]:
    """Return the readings of the layer's axes a user may choose from, the guess first."""
    extra, guess = layer.ndim - 2, guess_axes(layer)
    known = ["".join(p) + "YX" for p in permutations("TZC", extra)] if 1 <= extra <= 3 else []
    return [guess, *(k for k in sorted(known) if k != guess)]


def source_of(layer: Image, axes: str | None = None) -> ImageSource:
    """Return what a run needs to know of an image layer; nothing is computed or copied.

    Raises
    ------
    InputError
        The layer has no YX planes, is empty, or holds complex numbers.
    """
    data = _full(layer)
    axes = axes or guess_axes(layer)
    source = ImageSource(
        data=data,
        axes=axes,
        rgb=bool(layer.rgb),
        name=layer.name,
        scale=tuple(float(s) for s in layer.scale),
        units=tuple(str(u) for u in layer.units),
    )
    check(source)
    return source


def visible_field(layer: Image, shape_yx: tuple[int, int]) -> tuple[slice, slice]:
    """Return the part of the plane that the canvas shows; the whole plane before the first drawing."""
    corners = np.asarray(layer.corner_pixels, dtype=float)[:, -2:]
    if layer.multiscale:
        corners = corners * np.asarray(layer.downsample_factors[layer.data_level], dtype=float)[-2:]
    low = np.clip(np.floor(corners[0]), 0, np.array(shape_yx) - 1).astype(int)
    high = np.clip(np.ceil(corners[1]) + 1, 1, shape_yx).astype(int)
    if (high <= low).any() or not corners[1].any():
        return slice(0, shape_yx[0]), slice(0, shape_yx[1])
    return slice(int(low[0]), int(high[0])), slice(int(low[1]), int(high[1]))


def data_position(layer: Image, world: Sequence[float]) -> npt.NDArray[np.float64]:
    """Return a world position as (float) data coordinates of the layer, one per axis."""
    return np.asarray(layer.world_to_data(tuple(world)), dtype=float)[-layer.ndim :]


def plane_at(layer: Image, source: ImageSource, world: Sequence[float]) -> PlaneKey:
    """Return the plane of the layer that lies at a world position (such as ``viewer.dims.point``)."""
    position = data_position(layer, world)
    index = [
        int(np.clip(np.round(position[source.axes.index(a)]), 0, n - 1))
        for a, n in zip(source.plane_axes, source.plane_shape, strict=True)
    ]
    return PlaneKey(tuple(index))


def world_matrix(layer: Image) -> npt.NDArray[np.float64]:
    """Return the (n + 1, n + 1) matrix from data to world: scale, shear, rotation, shift and affine."""
    inner = CompositeAffine(
        scale=layer.scale, translate=layer.translate, rotate=layer.rotate, shear=layer.shear, ndim=layer.ndim
    )
    return np.asarray(layer.affine.affine_matrix @ inner.affine_matrix, dtype=float)


def labels_geometry(layer: Image, axes: str) -> dict[str, Any]:
    """Return the layer keywords that put labels without the channel axis exactly over the image.

    A leading channel axis is left out.  Further inside, one step of the labels spans all channels, so
    that the labels show whichever channel is looked at.
    """
    ndim, channel = layer.ndim, axes.find("C")
    scale, translate = np.array(layer.scale, dtype=float), np.array(layer.translate, dtype=float)
    if channel > 0:
        count = int(_full(layer).shape[channel])
        translate[channel] += scale[channel] * (count - 1) / 2
        scale[channel] *= count
    keep = np.arange(ndim)[1:] if channel == 0 else np.arange(ndim)
    shear, rotate = np.eye(ndim), np.asarray(layer.rotate, dtype=float)
    shear[np.triu_indices(ndim, 1)] = np.asarray(layer.shear, dtype=float)
    affine = np.asarray(layer.affine.affine_matrix, dtype=float)
    corner = np.append(keep, ndim)
    return {
        "scale": scale[keep],
        "translate": translate[keep],
        "rotate": rotate[np.ix_(keep, keep)],
        "shear": shear[np.ix_(keep, keep)],
        "affine": affine[np.ix_(corner, corner)],
        "units": tuple(layer.units[n] for n in keep),
        "axis_labels": tuple(layer.axis_labels[n] for n in keep),
    }


def show_result(
    layers: LayerList,
    image: Image,
    source: ImageSource,
    segmentation: Segmentation,
    previous: Shown | None = None,
    scope: Mapping[str, Any] | None = None,
) -> tuple[Shown, Shown | None]:
    """Put a segmentation on the canvas in a fresh Labels layer.

    The layer of the run before is swapped out when nobody edited it, and leaves a name that the user gave
    it; a layer that the user made or edited is never touched: the new one then takes a number behind its
    name.

    Returns
    -------
    tuple of Shown and (Shown or None)
        The new layer, and the one that was swapped out.
    """
    data = _with_channel_step(segmentation.labels, source.axes)
    planes = plane_indices(source.axes, (scope or {}).get("planes"))
    index, swapped, name = len(layers), None, f"{image.name}{_NAME}"
    if previous is not None and previous.layer in layers and not previous.edited:
        index, swapped = layers.index(previous.layer), previous
        of = previous.layer.metadata.get(META, {}).get("image", image.name)
        if not previous.layer.name.startswith(f"{of}{_NAME}"):
            name = previous.layer.name  # which the user gave it
        layers.remove(previous.layer)
    elif image in layers:
        index = layers.index(image) + 1
    layer = Labels(
        copy_planes(data, planes),
        name=name,
        features=_features(segmentation),
        metadata={META: {**_provenance(segmentation, source), **(scope or {})}},
        **labels_geometry(image, source.axes),
    )
    if swapped is not None:
        layer.opacity, layer.contour, layer.blending = (
            swapped.layer.opacity, swapped.layer.contour, swapped.layer.blending
        )  # fmt: skip
    layers.insert(index, layer)
    return watched(layer, data, planes), swapped


def restore(layers: LayerList, current: Shown, old: Shown) -> Shown:
    """Bring the swapped-out layer back; the current one goes unless the user edited it."""
    index = len(layers)
    if current.layer in layers:
        index = layers.index(current.layer)
        if not current.edited:
            layers.remove(current.layer)
    layers.insert(index, old.layer)
    return old


def rewrite(shown: Shown, segmentation: Segmentation, source: ImageSource) -> Shown:
    """Write another readout of the same run into its layer, in place.

    The caller has made sure that the layer is not edited.  The undo history is emptied, because its
    steps belong to labels that are gone.
    """
    layer, data = shown.layer, _with_channel_step(segmentation.labels, source.axes)
    mode = layer.mode
    layer.editable = False  # empties the undo history: the only public way
    layer.editable = True
    layer.mode = mode
    copy_planes(data, shown.planes, layer.data)
    layer.features = _features(segmentation)
    layer.metadata[META] = {**layer.metadata.get(META, {}), **_provenance(segmentation, source)}
    layer.refresh()
    return replace(shown, written=data)


def summary(layer: Labels) -> str:
    """Return in words what a run wrote into its layer: "52 objects · diameter 24 px · 0.5 s", and notes."""
    about = layer.metadata.get(META, {})
    count, of_classes = about.get("objects", 0), about.get("params", {}).get("task") == "classes"
    one, many = ("class", "classes") if of_classes else ("object", "objects")
    words = [f"{count:,} {one if count == 1 else many}"]
    if about.get("diameter"):
        words.append(f"diameter {about['diameter']:.0f} px")
    words.append(f"{about.get('seconds', 0.0):.1f} s")
    return "\n".join([" · ".join(words), *about.get("notes", ())])


def _full(layer: Image) -> Any:
    return layer.data[0] if layer.multiscale else layer.data


def _is_time(unit: Any) -> bool:
    return str(unit) in {"second", "millisecond", "microsecond", "minute", "hour", "day"}


def _with_channel_step(labels: npt.NDArray[np.int32], axes: str) -> npt.NDArray[np.int32]:
    """Return the labels with one step where a channel axis lies between other axes."""
    channel = axes.find("C")
    return np.expand_dims(labels, channel) if channel > 0 else labels


def _features(segmentation: Segmentation) -> dict[str, Any]:
    features = {name: np.asarray(values) for name, values in segmentation.features.items()}
    return features if "index" in features else {}


def _count(segmentation: Segmentation) -> int:
    if "pixels" in segmentation.features:  # of every class, counted by the run
        return int(np.count_nonzero(segmentation.features["pixels"]))
    if "index" in segmentation.features:
        return len(segmentation.features["index"])
    return int(segmentation.labels.max(initial=0))


def _provenance(segmentation: Segmentation, source: ImageSource) -> dict[str, Any]:
    return {
        "kind": "labels",
        "image": source.name,
        "axes": source.axes,
        "model": segmentation.card_id,
        "version": segmentation.version,
        "params": dict(segmentation.params),
        "objects": _count(segmentation),
        "diameter": segmentation.diameter,
        "seconds": segmentation.seconds,
        "notes": list(segmentation.notes),
    }
