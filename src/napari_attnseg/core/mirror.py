"""Mirror images: what a network says of them, turned back and averaged with what it says of the image.

A network that is sure of what it sees says nearly the same of the mirror images.  Where it is unsure its
errors differ from one to the other, and the mean of four is better than each: test-time augmentation by
mirroring, as in nnU-Net (Isensee et al. 2021, doi:10.1038/s41592-020-01008-z).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_attnseg.core.size import settle_for, unsure
from napari_attnseg.records import DenseMaps

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from napari_attnseg.records import ModelCard

Axes = tuple[int, ...]  # of the plane, along which it is turned round: 0 is y, 1 is x

MIRRORS: tuple[Axes, ...] = ((0,), (1,), (0, 1))  # beside the image itself
_OFFSET = 3  # the place of the votes among the parts of maps


def mirrored(image: npt.NDArray[np.generic], axes: Axes) -> npt.NDArray[np.generic]:
    """Return a plane, (H, W) or (H, W, C), turned round along some axes; contiguous."""
    return np.ascontiguousarray(np.flip(image, axes))


class Mean:
    """The mean of the maps of an image and of mirror images of it.

    Parameters
    ----------
    first : DenseMaps
        Of the image itself.  It is not changed.
    """

    def __init__(self, first: DenseMaps) -> None:
        self._count = 1
        self._sums = [None if part is None else part.copy() for part in _parts(first)]

    def add(self, maps: DenseMaps, axes: Axes) -> None:
        """Add the maps of the image turned round along ``axes``."""
        self._count += 1
        for number, (total, part) in enumerate(zip(self._sums, _parts(maps), strict=True)):
            if total is None or part is None:
                continue
            back = np.flip(part, tuple(axis - 2 for axis in axes))
            if number == _OFFSET:
                for step in (0, 1):
                    if step in axes:
                        total[step] -= back[step]
                    else:
                        total[step] += back[step]
            else:
                total += back

    def maps(self) -> DenseMaps:
        """Return the mean; nothing can be added afterwards."""
        for total in self._sums:
            if total is not None:
                total /= np.float32(self._count)
        foreground, distance, size, offset, classes = self._sums
        assert foreground is not None
        assert distance is not None
        assert size is not None
        assert offset is not None
        return DenseMaps(foreground, distance, size, offset, classes)


def _parts(maps: DenseMaps) -> tuple[npt.NDArray[np.float32] | None, ...]:
    return maps.foreground, maps.distance, maps.size, maps.offset, maps.classes


def read_maps(
    card: ModelCard,
    image: npt.NDArray[np.generic],
    run: Callable[[npt.NDArray[np.generic], float], DenseMaps],
) -> tuple[float, DenseMaps]:
    """Return the zoom for an image and its maps at that zoom, as a run with the defaults has them.

    Parameters
    ----------
    image : ndarray, (H, W) or (H, W, C)
    run : callable
        ``run(image, zoom)`` returns the maps of an image, this or a mirror image, at a zoom.
    """
    zoom, maps = settle_for(card, lambda at: run(image, at))
    if not unsure(maps):
        return zoom, maps
    mean = Mean(maps)
    for axes in MIRRORS:
        mean.add(run(mirrored(image, axes), zoom), axes)
    return zoom, mean.maps()
