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
    ZOOM_LIMITS,
    as_usual,
    estimate_diameter,
    settle_for,
    too_large,
    unsure,
)
from napari_attnseg.core.thin import by_width
from napari_attnseg.params import ReadoutParams
from napari_attnseg.records import DenseMaps

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    import numpy.typing as npt

    from napari_attnseg.records import ModelCard

Axes = tuple[int, ...]  # of the plane, along which it is turned round: 0 is y, 1 is x

# of the four mirror images two are seen a quarter of an octave finer than the zoom, two as much coarser
_UPRIGHT: tuple[Axes, ...] = ((), (1,))
_UPSIDE_DOWN: tuple[Axes, ...] = ((0,), (0, 1))
VIEWS = len(_UPRIGHT) + len(_UPSIDE_DOWN)
_STEPS = (0, -2, 2)  # from the zoom to those that are tried, in quarters of an octave
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
    """The mean of the maps of mirror images of an image, itself among them."""

    def __init__(self) -> None:
        self._count = 0
        self._sums: list[npt.NDArray[np.float32] | None] = []

    def __or__(self, other: Mean) -> Mean:
        """Return the mean of what is in either."""
        both = Mean()
        both._count = self._count + other._count
        pairs = zip(self._sums, other._sums, strict=True)
        both._sums = [None if a is None or b is None else a + b for a, b in pairs]
        return both

    def add(self, maps: DenseMaps, axes: Axes) -> None:
        """Add the maps of the image turned round along ``axes``; they are not changed."""
        if not self._count:
            self._sums = [None if part is None else np.zeros_like(part) for part in _parts(maps)]
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


def looks_at(zoom: float) -> tuple[Look, ...]:
    """Return what is looked at for the mean at a zoom: two mirror images beside it either way."""
    return (*_looks(zoom, 1), *_looks(zoom, -1))


def _looks(zoom: float, quarters: int) -> tuple[Look, ...]:
    """Return the looks at so many quarters of an octave from a zoom; an odd number."""
    at = float(np.clip(zoom * 2.0 ** (quarters / 4), *ZOOM_LIMITS))
    return tuple(Look(at, axes) for axes in (_UPRIGHT if quarters % 4 == 1 else _UPSIDE_DOWN))


def steady_zoom(
    card: ModelCard, zoom: float, maps: DenseMaps
) -> Generator[Look, DenseMaps, tuple[float, DenseMaps]]:
    """Search the zoom at which what a network says of mirror images is most alike, near one that was found.

    Where it sees objects well it draws them alike in the image and its mirror images, a little larger or
    smaller.  So for the zoom, and for those beside it by a factor of the root of 2, objects are read out of
    two mirror images at 2^1/4 of it, of two at 2^-1/4 of it, and of the mean of the four; that zoom is taken
    for which the mean AP .50 to .90 of the single ones against the mean is highest.
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
        The zoom, and the mean of the maps of its four looks.
    """
    if as_usual(maps, zoom, card):
        return zoom, (yield from _mean_at(zoom))
    zoom, maps = yield from _closer(card, zoom, maps)
    seen: dict[int, _Pair] = {}
    best, found = -1.0, (zoom, maps)
    for step in _STEPS:
        at = float(np.clip(zoom * 2.0 ** (step / 4), *ZOOM_LIMITS))
        if step and at == zoom:
            continue
        for quarters in (step - 1, step + 1):
            if quarters not in seen:
                seen[quarters] = yield from _pair(_looks(zoom, quarters))
        mean = (seen[step - 1].mean | seen[step + 1].mean).maps()
        if step and (estimate_diameter(mean) is None or too_large(mean, at, card.diameter)):
            continue
        alike = _alike((*seen[step - 1].objects, *seen[step + 1].objects), mean)
        if alike > best:
            best, found = alike, (at, mean)
        if step < 0:
            del seen[step - 1]  # nothing else needs it
    return found


@dataclass(frozen=True, slots=True)
class _Pair:
    """The sum of two looks at one zoom, and the objects of each, turned back."""

    mean: Mean
    objects: tuple[npt.NDArray[np.int32], ...]


def _pair(looks: tuple[Look, ...]) -> Generator[Look, DenseMaps, _Pair]:
    """Look and keep what the choice needs: the maps themselves are large."""
    mean, objects = Mean(), []
    for look in looks:
        maps = yield look
        mean.add(maps, look.axes)
        objects.append(_objects(maps, look.axes))
    return _Pair(mean, tuple(objects))


def _mean_at(zoom: float) -> Generator[Look, DenseMaps, DenseMaps]:
    """Return the mean of the looks at a zoom."""
    mean = Mean()
    for look in looks_at(zoom):
        mean.add((yield look), look.axes)
    return mean.maps()


def _closer(
    card: ModelCard, zoom: float, maps: DenseMaps
) -> Generator[Look, DenseMaps, tuple[float, DenseMaps]]:
    """Return the zoom for long, thin objects, and the maps there; what is given where they are not thin."""
    search = by_width(zoom, maps, card.diameter)
    try:
        at = next(search)
        while True:
            at = search.send((yield Look(at)))
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]


def _alike(singles: Sequence[npt.NDArray[np.int32]], mean: DenseMaps) -> float:
    """Return how much the objects of single looks are like those of their mean, 0..1."""
    objects = _objects(mean)
    if not objects.any():  # nothing is like nothing, which tells nothing
        return 0.0
    return float(np.mean([scores(compare(one, objects))["mean_ap"] for one in singles]))


def _objects(maps: DenseMaps, axes: Axes = ()) -> npt.NDArray[np.int32]:
    """Return the objects of maps of the image turned round along ``axes``, turned back."""
    return np.ascontiguousarray(np.flip(read_out(maps, ReadoutParams())[0], axes))


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
