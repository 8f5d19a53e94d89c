"""Which axis of an image means what, and reading one plane without touching the rest."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_attnseg.errors import AttnSegError, InputError
from napari_attnseg.records import ImageSource, PlaneKey

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    Field = tuple[slice, slice]

_WORDS = {"T": "time point", "Z": "slice", "C": "channel"}
_STACK_LETTERS = "ZTPVWUR"  # names given, from the innermost axis outwards, to axes nobody named


def looks_rgb(shape: Sequence[int]) -> bool:
    """Tell whether an unnamed (..., H, W, 3 or 4) array is best read as colour.

    The last axis must be 3 or 4 and clearly shorter than the two before it.
    """
    return len(shape) >= 3 and shape[-1] in (3, 4) and min(shape[-3:-1]) > 4


def guess_axes(shape: Sequence[int]) -> tuple[str, bool]:
    """Return axes and whether a colour axis follows them, for an array without metadata.

    Leading axes become Z, then T, then other stack letters; channels are never guessed.
    """
    rgb = looks_rgb(shape)
    ndim = len(shape) - int(rgb)
    if ndim < 2:
        raise InputError(
            f"An array of shape {tuple(shape)} is not an image.", "At least the two axes Y and X are needed."
        )
    if ndim - 2 > len(_STACK_LETTERS):
        raise InputError(f"An image of {ndim} axes cannot be read.", "Take a part of it.")
    return _STACK_LETTERS[: ndim - 2][::-1] + "YX", rgb


def source_of(data: Any, name: str = "image", *, single: bool = False) -> ImageSource:
    """Return a bare array as an :class:`ImageSource`, axes guessed and checked.

    Parameters
    ----------
    single : bool
        It is one image and no stack: three axes of which the last is 3 or 4 are colour, however thin it is.
    """
    data = _array(data)
    axes, rgb = guess_axes(data.shape)
    if single and data.ndim == 3 and data.shape[-1] in (3, 4):
        axes, rgb = "YX", True
    source = ImageSource(data, axes, rgb, name, (1.0,) * len(axes), ("pixel",) * len(axes))
    check(source)
    return source


def _array(data: Any) -> Any:
    """Return an array that numpy knows the type of as it is, anything else as an array of numpy's."""
    with suppress(AttributeError, TypeError):
        if np.dtype(data.dtype) is not None and data.shape is not None:
            return data
    try:
        return np.asarray(data)
    except (TypeError, ValueError) as err:
        raise InputError("This is not an array of numbers.", "Give one of the shape (Y, X).") from err


def check(source: ImageSource) -> None:
    """Raise ``InputError`` unless the axes fit the data, it is not empty and its dtype is a number."""
    shape, axes = tuple(int(n) for n in source.data.shape), source.axes
    if len(set(axes)) != len(axes) or "Y" not in axes or "X" not in axes:
        raise InputError(f"The axes '{axes}' are not an image.", "Each axis may come once; Y and X must.")
    if len(shape) != len(axes) + int(source.rgb):
        raise InputError(f"The axes '{axes}' do not fit an array of shape {shape}.", "Name every axis.")
    if source.rgb and shape[-1] not in (3, 4):
        raise InputError(f"A colour image ends with 3 or 4 samples, not {shape[-1]}.", "Name that axis C.")
    if 0 in shape:
        raise InputError(f"The image '{source.name}' is empty: its shape is {shape}.", "Choose another one.")
    kind = np.dtype(source.data.dtype).kind
    if kind not in "biuf":
        raise InputError(
            f"Samples of type {source.data.dtype} cannot be segmented.",
            "Convert the image to an integer, float or bool type.",
        )


def plane_keys(source: ImageSource) -> list[PlaneKey]:
    """Return the key of every YX plane, last axis fastest."""
    return [PlaneKey(tuple(int(i) for i in index)) for index in np.ndindex(*source.plane_shape)]


def whole_field(source: ImageSource) -> Field:
    """Return the (Y, X) slices of a whole plane."""
    h, w = source.shape_yx
    return slice(0, h), slice(0, w)


def clip_field(source: ImageSource, field: Field | None) -> Field:
    """Return ``field`` cut to the plane, with plain bounds; ``InputError`` if nothing is left."""
    if field is None:
        return whole_field(source)
    y, x = (slice(*part.indices(n)[:2]) for part, n in zip(field, source.shape_yx, strict=True))
    if y.stop <= y.start or x.stop <= x.start:
        raise InputError(
            "The field lies outside the image.", "Move the view over the image, or take all of it."
        )
    return y, x


def read_plane(
    source: ImageSource, key: PlaneKey, field: Field | None = None, channel: int | None = None
) -> npt.NDArray[np.generic]:
    """Read one plane, or a part of it; nothing else of a lazy array is computed.

    Parameters
    ----------
    source : ImageSource
    key : PlaneKey
        Index along ``source.plane_axes``.
    field : tuple of slice, optional
        (Y, X) part of the plane, pixels; all of it when None.
    channel : int, optional
        One channel (or colour), counted from 0; all of them when None.

    Returns
    -------
    ndarray, (H, W) or (H, W, C)
        C is 3 for a colour image: alpha is left out.  May be a view; do not write to it.

    Raises
    ------
    InputError
        A plane, field or channel that is not there, or samples that cannot be read.
    """
    _check_key(source, key, channel)
    y, x = clip_field(source, field)
    position = dict(zip(source.plane_axes, key.index, strict=True))
    index: list[int | slice] = []
    kept = ""
    for axis in source.axes:
        if axis in "YX":
            index.append(y if axis == "Y" else x)
            kept += axis
        elif axis == "C" and channel is None:
            index.append(slice(None))
            kept += axis
        else:
            index.append(int(channel or 0) if axis == "C" else position[axis])
    if source.rgb:
        index.append(slice(0, 3) if channel is None else int(channel))
        kept += "" if channel is not None else "C"
    plane = _samples(source, tuple(index))
    order = [kept.index(axis) for axis in "YXC" if axis in kept]
    plane = plane.transpose(order)
    return plane[..., 0] if plane.ndim == 3 and plane.shape[-1] == 1 else plane


def _samples(source: ImageSource, index: tuple[int | slice, ...]) -> npt.NDArray[np.generic]:
    try:
        return np.asarray(source.data[index])
    except (AttnSegError, MemoryError):
        raise
    except Exception as err:  # what lies behind a lazy array raises anything
        raise InputError(
            f"A part of '{source.name}' could not be read ({reason(err)}).",
            "The file behind it may be damaged or gone.",
        ) from err


def reason(err: BaseException) -> str:
    """Return what an error says, in one line without a full stop."""
    text = getattr(err, "strerror", None) or str(err).strip().partition("\n")[0] or type(err).__name__
    return str(text)[:160].rstrip(".")


def _check_key(source: ImageSource, key: PlaneKey, channel: int | None) -> None:
    shape = source.plane_shape
    if len(key.index) != len(shape) or any(not 0 <= i < n for i, n in zip(key.index, shape, strict=True)):
        raise InputError(
            f"There is no plane {key.index} in '{source.name}'.",
            f"It has {shape} planes along the axes '{source.plane_axes}'." if shape else "It has one plane.",
        )
    if channel is not None and not 0 <= channel < source.channels:
        raise InputError(
            f"There is no channel {channel} in '{source.name}'.",
            f"Take a number from 0 to {source.channels - 1}, or leave it empty."
            if source.channels > 1
            else "It has one channel: leave it empty.",
        )


def describe(source: ImageSource) -> str:
    """Say in one line what was understood: "2 channels, 5 time points, 512 x 512 px, uint16"."""
    parts = ["RGBA colour" if source.channels == 4 else "RGB colour"] if source.rgb else []
    for axis in sorted(source.axes, key="CTZ".find):
        if axis in "YX":
            continue
        count = int(source.data.shape[source.axes.index(axis)])
        word = _WORDS.get(axis, f"step along {axis}")
        plural = word.replace("step", "steps") if word.startswith("step ") else f"{word}s"
        parts.append(f"{count} {word if count == 1 else plural}")
    h, w = source.shape_yx
    return ", ".join([*parts, f"{h} x {w} px", str(np.dtype(source.data.dtype))])


def name_plane(source: ImageSource, key: PlaneKey) -> str:
    """Name a plane in words: "T 3, Z 1"; "" where there is one plane only."""
    return ", ".join(f"{axis} {n}" for axis, n in zip(source.plane_axes, key.index, strict=True))
