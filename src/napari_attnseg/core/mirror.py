"""Mirror images: what a network says of them, turned back and averaged with what it says of the image.

A network that is sure of what it sees says nearly the same of the mirror images.  Where it is unsure its
errors differ from one to the other, and the mean of four is better than each: test-time augmentation by
mirroring, as in nnU-Net (Isensee et al. 2021, doi:10.1038/s41592-020-01008-z).

How much the objects of the single readings are like those of the mean tells how well the network sees
them, without a label: of neighbouring zooms that one is taken at which they are most alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_attnseg.core.metrics import compare, scores
from napari_attnseg.core.postprocess import read_out
from napari_attnseg.core.size import (
    STEPS,
    ZOOM_LIMITS,
    as_usual,
    by_width,
    estimate_diameter,
    settle_for,
    too_large,
    unsure,
)
from napari_attnseg.params import ReadoutParams
from napari_attnseg.records import DenseMaps

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    import numpy.typing as npt

    from napari_attnseg.records import ModelCard

Axes = tuple[int, ...]  # of the plane, along which it is turned round: 0 is y, 1 is x

MIRRORS: tuple[Axes, ...] = ((0,), (1,), (0, 1))  # beside the image itself
_OFFSET = 3  # the place of the votes among the parts of maps


@dataclass(frozen=True, slots=True)
class Look:
    """What a search wants to see: the image, turned round along ``axes``, at a zoom."""

    zoom: float
    axes: Axes = ()


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
    """Return foreground, distance, size, offset and classes; y and x are their last axes."""
    return maps.foreground, maps.distance, maps.size, maps.offset, maps.classes


def steady_zoom(
    card: ModelCard, zoom: float, maps: DenseMaps
) -> Generator[Look, DenseMaps, tuple[float, DenseMaps]]:
    """Search the zoom at which what a network says of mirror images is most alike, near one that was found.

    Where it sees objects well it draws them alike in the image and its mirror images.  So at the zoom, and
    at those beside it by a factor of the root of 2, objects are read out of each of the four and of their
    mean; that zoom is taken at which the mean AP .50 to .90 of the single ones against the mean is highest.
    Not one at which objects look too large: one blob in place of a crowd is easy to draw alike.  A tuned
    model stays at the zoom at which it learnt where objects are as usual.

    Long, thin objects are looked at at finer zooms first, as far as the votes agree as well there.

    Parameters
    ----------
    card : ModelCard
        Of the network.
    zoom : float
        That was found by the object size.
    maps : DenseMaps
        Of the image at that zoom.

    Yields
    ------
    Look
        To be sent the maps of.

    Returns
    -------
    tuple of float and DenseMaps
        The zoom, and the mean of the maps of the image and its mirror images there.
    """
    if as_usual(maps, zoom, card):
        mean, _ = yield from _mean(zoom, maps, measured=False)
        return zoom, mean
    zoom, maps = yield from _finer(card, zoom, maps)
    found, (mean, best) = zoom, (yield from _mean(zoom, maps))
    for step in STEPS:
        at = float(np.clip(zoom * step, *ZOOM_LIMITS))
        if at == zoom:
            continue
        first = yield Look(at)
        if estimate_diameter(first) is None or too_large(first, at, card.diameter):
            continue
        other, alike = yield from _mean(at, first)
        if alike > best:
            found, mean, best = at, other, alike
    return found, mean


def _finer(
    card: ModelCard, zoom: float, maps: DenseMaps
) -> Generator[Look, DenseMaps, tuple[float, DenseMaps]]:
    """Return the zoom for long, thin objects, and the maps there: those given where they are not thin."""
    search = by_width(zoom, maps, card.diameter)
    try:
        at = next(search)
        while True:
            at = search.send((yield Look(at)))
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]


def _mean(
    zoom: float, first: DenseMaps, measured: bool = True
) -> Generator[Look, DenseMaps, tuple[DenseMaps, float]]:
    """Return the mean over mirror images, and how much objects of the single ones are like its, 0..1."""
    mean, single = Mean(first), [_objects(first)] if measured else []
    for axes in MIRRORS:
        maps = yield Look(zoom, axes)
        mean.add(maps, axes)
        if measured:
            single.append(np.flip(_objects(maps), axes))
    found = mean.maps()
    objects = _objects(found) if measured else np.zeros(0)
    if not objects.any():  # nothing is like nothing, which tells nothing
        return found, 0.0
    return found, float(np.mean([scores(compare(one, objects))["mean_ap"] for one in single]))


def _objects(maps: DenseMaps) -> npt.NDArray[np.int32]:
    return read_out(maps, ReadoutParams())[0]


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
    if not unsure(maps, card):
        return zoom, maps
    search = steady_zoom(card, zoom, maps)
    look = next(search)
    while True:
        try:
            look = search.send(run(mirrored(image, look.axes), look.zoom))
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
