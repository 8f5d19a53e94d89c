"""How large the objects are, read from the network's own size map, and the zoom that follows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from napari_attnseg.records import DenseMaps

COMFORT = (0.7, 3.0)  # diameters, as multiples of the canonical one, that need no zoom
AIM = (0.8, 1.6)  # what smaller and larger ones are brought to: no further than is good for them
ZOOM_LIMITS = (0.1, 4.0)
COARSE = 2.0**-1.5  # the zoom of a second look, for objects too large to be seen as such at their own scale
SURE = 0.9  # mean probability of the foreground from which on no second look is taken
GAIN = 0.03  # by how much the second look must be surer to count
_BELIEVED = (0.4, 3.0)  # diameters in the second look, as multiples of the canonical one, that count
_FULLEST = 0.8  # share of the image that the second look may call foreground: all of it says nothing of sizes
_FEWEST_PIXELS = 48  # side of an image in the second look, below which it is not taken


def estimate_diameter(maps: DenseMaps, threshold: float = 0.5) -> float | None:
    """Return the median object diameter in pixels, or None where nothing is in the foreground.

    Pixels are weighted by one over the predicted area, so that every object counts once.
    """
    inside = maps.foreground > threshold
    if int(inside.sum()) < 12:
        return None
    size = np.maximum(maps.size[inside], 1.0)
    order = np.argsort(size)
    weight = np.cumsum(1.0 / size[order] ** 2)
    return float(size[order][np.searchsorted(weight, weight[-1] / 2)])


def zoom_for(diameter: float, canonical: float) -> float:
    """Return the zoom for objects of ``diameter``: 1 while the network is at ease with it.

    Smaller objects are brought to the lower end of ``AIM``, larger ones to its upper end.  Factors are
    powers of the fourth root of 2, so that near-equal images get an equal zoom.
    """
    ratio = diameter / canonical
    if COMFORT[0] <= ratio <= COMFORT[1]:
        return 1.0
    aim = AIM[0] if ratio < COMFORT[0] else AIM[1]
    zoom = 2.0 ** (round(4 * np.log2(aim / ratio)) / 4)
    return float(np.clip(zoom, *ZOOM_LIMITS))


def sureness(maps: DenseMaps, threshold: float = 0.5) -> float:
    """Return the mean foreground probability of the foreground; 0 where there is none."""
    inside = maps.foreground > threshold
    return float(maps.foreground[inside].mean()) if inside.any() else 0.0


def zoom_search(
    canonical: float, threshold: float = 0.5
) -> Generator[float, DenseMaps, tuple[float, DenseMaps]]:
    """Search the zoom step by step: yields the zoom to run at, is sent the maps at that zoom.

    A caller that wants to stop between two runs of the network drives this itself; see
    :func:`settle_zoom` for the rule and the result.
    """
    zoom, maps = yield from _follow(1.0, (yield 1.0), canonical, threshold)
    sure = sureness(maps, threshold)
    seen = min(maps.foreground.shape) * COARSE
    if sure >= SURE or seen < _FEWEST_PIXELS or abs(np.log2(zoom / COARSE)) < 0.5:
        return zoom, maps
    coarse = yield COARSE
    diameter = estimate_diameter(coarse, threshold)
    fits = diameter is not None and _BELIEVED[0] <= diameter * COARSE / canonical <= _BELIEVED[1]
    full = float((coarse.foreground > threshold).mean()) > _FULLEST
    if not fits or full or sureness(coarse, threshold) <= sure + GAIN:
        return zoom, maps
    return (yield from _follow(COARSE, coarse, canonical, threshold))


def _follow(
    zoom: float, maps: DenseMaps, canonical: float, threshold: float
) -> Generator[float, DenseMaps, tuple[float, DenseMaps]]:
    """Go from one zoom to where the sizes seen there ask for, in two passes at most."""
    for number in range(2):
        diameter = estimate_diameter(maps, threshold)
        if diameter is None:
            break
        change = zoom_for(diameter * zoom, canonical)
        wanted = float(np.clip(zoom * change, *ZOOM_LIMITS))
        if wanted == zoom or (number and max(change, 1 / change) <= 1.5):
            break
        zoom = wanted
        maps = yield zoom
    return zoom, maps


def settle_zoom(
    run: Callable[[float], DenseMaps], canonical: float, threshold: float = 0.5
) -> tuple[float, DenseMaps]:
    """Find the zoom for an image whose object size is not known.

    The network runs at zoom 1 and reads the sizes it predicts; where they ask for another zoom it runs
    there, and once more if what it sees there asks for a further change of more than a factor 1.5.  Where
    it is unsure of the foreground that it found (objects of many times its own size look like texture to
    it), it takes a second look at zoom ``COARSE``; if that is surer by ``GAIN``, the search goes on there.

    Parameters
    ----------
    run : callable
        ``run(zoom)`` returns the maps of the image at that zoom.
    canonical : float
        The model's object diameter, pixels.

    Returns
    -------
    tuple of float and DenseMaps
        The zoom and the maps at that zoom.
    """
    search = zoom_search(canonical, threshold)
    zoom = next(search)
    while True:
        try:
            zoom = search.send(run(zoom))
        except StopIteration as stop:
            found: tuple[float, DenseMaps] = stop.value
            return found
