"""Long, thin objects, which are read by their width: the zoom at which the lines between them are seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_attnseg.core.postprocess import find_seeds
from napari_attnseg.core.size import STEPS, ZOOM_LIMITS, agreement, too_large

if TYPE_CHECKING:
    from collections.abc import Generator

    import numpy.typing as npt

    from napari_attnseg.records import DenseMaps

_LONG = 1.8  # length over width, median of the objects, from which on they are read by their width
_WIDE = 20.0  # width, resized pixels, that such objects need


def by_width(
    zoom: float, maps: DenseMaps, canonical: float
) -> Generator[float, DenseMaps, tuple[float, DenseMaps]]:
    """Go on to finer zooms while objects are long and thin, in two passes at most.

    It yields the zoom to run at and is sent the maps at that zoom, as :func:`zoom_search` is.

    Rods side by side may have the area of round objects; the borders between them lie closer together.
    """
    for _ in range(2):
        length, width = elongation(maps)
        wanted = float(np.clip(zoom * STEPS[1], *ZOOM_LIMITS))
        if length < _LONG or width * zoom >= _WIDE or wanted == zoom:
            break
        finer = yield wanted
        if agreement(finer) < agreement(maps) or too_large(finer, wanted, canonical):
            break
        zoom, maps = wanted, finer
    return zoom, maps


def elongation(maps: DenseMaps) -> tuple[float, float]:
    """Return the median length over width of the objects, and their median width in pixels; 0 without any.

    Both are those of the ellipse with an object's second moments.
    """
    seeds = find_seeds(maps)
    count = len(seeds.position)
    area = np.bincount(seeds.best, minlength=count + 1)[:count]
    whole = area > 0
    if not whole.any():
        return 0.0, 0.0

    def mean(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        total = np.bincount(seeds.best, values, minlength=count + 1)[:count]
        return np.asarray(total[whole] / area[whole])

    y, x = (part.astype(np.float64) for part in np.divmod(seeds.pixels, maps.foreground.shape[1]))
    cy, cx = mean(y), mean(x)
    yy, xx, xy = mean(y * y) - cy**2, mean(x * x) - cx**2, mean(x * y) - cx * cy
    half, turn = (yy + xx) / 2 + 1 / 12, np.hypot((yy - xx) / 2, xy)  # 1 / 12: a pixel has a width, too
    short = np.maximum(half - turn, 1 / 12)
    return float(np.median(np.sqrt((half + turn) / short))), float(np.median(4 * np.sqrt(short)))
