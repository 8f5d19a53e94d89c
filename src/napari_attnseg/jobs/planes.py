"""One plane (or the field of it that is wanted) as the network is given it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_attnseg.core import normalize
from napari_attnseg.core.axes import clip_field, read_plane
from napari_attnseg.core.tiles import centre_window

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_attnseg.records import ImageSource, Normalisation, PlaneKey

BLOCK = 4096  # planes of more pixels than its square are read and segmented block by block
_PATCH, _PATCHES = 256, 6


@dataclass(frozen=True, slots=True)
class Plane:
    """A field of one plane, read as a whole when it is small and piece by piece when it is big.

    Colour images stay (H, W, 3).  Other channels are scaled one by one and averaged to (H, W), so that
    the network never takes three stains for red, green and blue.

    Attributes
    ----------
    field : tuple of slice
        (Y, X) part of the plane.
    norm : Normalisation
        Scaling of what :meth:`read` returns, measured on the field.
    mix : Normalisation or None
        Scaling of the single channels before they are averaged.
    kept : ndarray or None
        The whole field, when it is small.
    """

    source: ImageSource
    key: PlaneKey
    field: tuple[slice, slice]
    channel: int | None
    norm: Normalisation
    mix: Normalisation | None
    kept: npt.NDArray[np.generic] | None

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the field, pixels."""
        y, x = self.field
        return y.stop - y.start, x.stop - x.start

    @property
    def big(self) -> bool:
        """Whether the field is too large to be held at once."""
        return self.kept is None

    def read(self, part: tuple[slice, slice] | None = None) -> npt.NDArray[np.generic]:
        """Return a part of the field, (h, w) or (h, w, 3); slices count from the field's first pixel."""
        if part is None:
            h, w = self.shape
            part = slice(0, h), slice(0, w)
        if self.kept is not None:
            return self.kept[part]
        return _mixed(_raw(self.source, self.key, self.field, self.channel, part), self.mix)


def open_plane(
    source: ImageSource,
    key: PlaneKey,
    field: tuple[slice, slice] | None = None,
    channel: int | None = None,
) -> Plane:
    """Open a field of a plane and measure its scaling.

    A field of more than 4096 x 4096 pixels is measured on 36 patches spread over it and not kept.
    """
    field = clip_field(source, field)
    shape = field[0].stop - field[0].start, field[1].stop - field[1].start
    big = shape[0] * shape[1] > BLOCK * BLOCK
    if big:
        raw = _patches(source, key, field, channel, shape)
    else:
        raw = _raw(source, key, field, channel, (slice(0, shape[0]), slice(0, shape[1])))
    stains = raw.ndim == 3 and not source.rgb
    mix = normalize.percentiles(raw) if stains else None
    image = _mixed(raw, mix)
    norm = normalize.percentiles(image, rgb=image.ndim == 3)
    return Plane(source, key, field, channel, norm, mix, None if big else image)


def _raw(
    source: ImageSource,
    key: PlaneKey,
    field: tuple[slice, slice],
    channel: int | None,
    part: tuple[slice, slice],
) -> npt.NDArray[np.generic]:
    y, x = (slice(f.start + p.start, f.start + p.stop) for f, p in zip(field, part, strict=True))
    return read_plane(source, key, (y, x), channel)


def _mixed(raw: npt.NDArray[np.generic], mix: Normalisation | None) -> npt.NDArray[np.generic]:
    if mix is None:
        return raw
    grey: npt.NDArray[np.float32] = normalize.apply(raw, mix).mean(axis=-1, dtype=np.float32)
    return grey


def _patches(
    source: ImageSource,
    key: PlaneKey,
    field: tuple[slice, slice],
    channel: int | None,
    shape: tuple[int, int],
) -> npt.NDArray[np.generic]:
    """Return patches spread evenly over the field, one below the other."""
    sizes = tuple(min(_PATCH, n) for n in shape)
    starts = [np.linspace(0, n - s, _PATCHES).astype(int).tolist() for n, s in zip(shape, sizes, strict=True)]
    return np.concatenate(
        [
            _raw(source, key, field, channel, (slice(y, y + sizes[0]), slice(x, x + sizes[1])))
            for y in starts[0]
            for x in starts[1]
        ]
    )


def centre(plane: Plane, side: int) -> tuple[slice, slice]:
    """Return the central window of the field of at most ``side`` pixels a side."""
    return centre_window(plane.shape, side)
