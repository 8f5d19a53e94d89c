"""How large the objects are, read from the network's own maps, and the zoom that follows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_attnseg.core.postprocess import find_seeds

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    import numpy.typing as npt

    from napari_attnseg.records import DenseMaps, ModelCard

COMFORT = (0.7, 3.0)  # diameters, as multiples of the canonical one, that need no zoom
AIM = (0.8, 1.6)  # what smaller and larger ones are brought to: no further than is good for them
ZOOM_LIMITS = (0.05, 4.0)
COARSE = 2.0**-1.5  # the zoom of a second look, for objects too large to be seen as such at their own scale
SURE = 0.9  # mean probability of the foreground from which on no second look is taken
GAIN = 0.03  # by how much the second look must be surer to count
_BELIEVED = (0.4, 3.0)  # diameters in the second look, as multiples of the canonical one, that count
_CREDIBLE = 0.75  # sureness of a second look, below which it does not count
_NEAR = 0.5  # a zoom so near to that of the second look that none is taken
_SMALLEST_AREA = 100  # pixels of the image that a second look must call foreground
_FULLEST = 0.8  # share of the image that the second look may call foreground: all of it says nothing of sizes
FINE = 2.0  # the zoom of a look for crowds of small objects that were taken for large ones
_SURE_OF_CROWD, _AGREED_ON_CROWD = 0.8, 0.85  # sureness and agreement, below which a crowd does not count
_SHRUNK = 0.5  # diameter in a crowd, of that of what was taken for one object, pixels of the image
_MANY_IN_ONE = 2.0  # diameter, as a multiple of the canonical one, from which on a crowd is looked for
AGREED = 0.9  # agreement of the votes, below which neighbouring zooms are tried
STEADY = 0.97  # agreement of the votes, below which mirror images are looked at, however sure it is
BETTER = 0.03  # by how much the votes must agree better there
STEPS = (2.0**-0.5, 2.0**0.5)  # to the neighbouring zooms, the coarser first
ALIKE = 2.0**0.5  # factor from the usual diameter, up to which objects are taken for the usual ones
_FEWEST_PIXELS = 48  # side of an image in the second look, below which it is not taken
FAR = (2.0**-3.75, 2.0**-3)  # zooms of looks for objects that fill much of a photograph, the coarser first
_CLEAR = 0.95  # agreement of the votes in such a look, below which it does not count
_FEW = 20  # things found so far, above which none is taken: tissue is not one large object
_FEWEST_PIXELS_FAR = 32  # side of an image in it, below which it is not taken
_SOFT = (0.3, 0.7)  # probabilities of the foreground of what is neither inside nor outside
_CRISP = 0.9  # width of their band along a border, resized pixels, above which it is a glow


def estimate_diameter(maps: DenseMaps, threshold: float = 0.5) -> float | None:
    """Return the median object diameter in pixels, or None where nothing is in the foreground.

    Pixels are weighted by one over the predicted area, so that every object counts once.
    """
    return _diameter(maps.foreground, maps.size, threshold)


def _diameter(
    foreground: npt.NDArray[np.float32], sizes: npt.NDArray[np.float32], threshold: float
) -> float | None:
    """See :func:`estimate_diameter`; also of a part of the maps."""
    inside = foreground > threshold
    if int(inside.sum()) < 12:
        return None
    size = np.maximum(sizes[inside], 1.0)
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


def sureness(foreground: npt.NDArray[np.float32], threshold: float = 0.5) -> float:
    """Return the mean probability of the foreground of a map of probabilities; 0 where there is none."""
    inside = foreground > threshold
    return float(foreground[inside].mean()) if inside.any() else 0.0


def unsure(maps: DenseMaps, card: ModelCard) -> bool:
    """Tell whether a network found a foreground and is unsure of it, or of which pixels belong together.

    The latter only where objects are read out by votes.
    """
    sure = sureness(maps.foreground)
    if not sure or sure < SURE:
        return sure > 0
    votes = maps.classes is None and card.training.get("readout", "seeds") == "seeds"
    return votes and agreement(maps) < STEADY


def too_large(maps: DenseMaps, zoom: float, canonical: float) -> bool:
    """Tell whether objects look too large at a zoom: one blob there may be a crowd."""
    return (estimate_diameter(maps) or 0.0) * zoom > COMFORT[1] * canonical


def as_usual(maps: DenseMaps, zoom: float, card: ModelCard) -> bool:
    """Tell whether objects look like those that the model was tuned on, at the zoom at which it learnt."""
    usual = card.usual_diameter
    return usual is not None and zoom == zoom_for(usual, card.diameter) and _alike(maps, usual, 0.5, ALIKE)


def agreement(maps: DenseMaps) -> float:
    """Return how well the votes agree, 0..1: the mean attention of foreground pixels on their seed.

    Where objects have a size that the network does not see well, their pixels vote for many places.
    """
    weight = find_seeds(maps).weight
    return float(weight.mean()) if len(weight) else 0.0


def zoom_search(
    canonical: float, threshold: float = 0.5, usual: float | None = None
) -> Generator[float, DenseMaps, tuple[float, DenseMaps]]:
    """Search the zoom step by step: yields the zoom to run at, is sent the maps at that zoom.

    A caller that wants to stop between two runs of the network drives this itself; see
    :func:`settle_zoom` for the rule and the result.
    """
    first = yield 1.0
    if usual is not None and (found := (yield from _as_usual(first, canonical, threshold, usual))):
        return found
    zoom, maps = yield from _by_size(first, canonical, threshold)
    if far := (yield from _from_afar(zoom, maps, canonical, threshold)):
        return far
    if found := (yield from _crowd(first, zoom, maps, canonical, threshold)):
        zoom, maps = found
    if sureness(maps.foreground, threshold) >= SURE or estimate_diameter(maps, threshold) is None:
        return zoom, maps
    return (yield from _by_votes(zoom, maps, canonical, threshold))


def _as_usual(
    first: DenseMaps, canonical: float, threshold: float, usual: float
) -> Generator[float, DenseMaps, tuple[float, DenseMaps] | None]:
    """Take the zoom for the usual diameter where objects have that there and the network is unsure."""
    seen, zoom = first, zoom_for(usual, canonical)
    if zoom != 1:
        if not _alike(first, usual, threshold, 2 * ALIKE):  # sizes read at another zoom are less exact
            return None
        seen = yield zoom
    unsure = sureness(seen.foreground, threshold) < SURE
    return (zoom, seen) if unsure and _alike(seen, usual, threshold, ALIKE) else None


def _alike(maps: DenseMaps, usual: float, threshold: float, factor: float) -> bool:
    """Tell whether the objects have the usual diameter, within a factor."""
    found = estimate_diameter(maps, threshold)
    return found is not None and max(found / usual, usual / found) <= factor


def _by_size(
    first: DenseMaps, canonical: float, threshold: float
) -> Generator[float, DenseMaps, tuple[float, DenseMaps]]:
    """Go where the sizes ask for, from a second look where the first was unsure and that is surer."""
    zoom, maps = yield from _follow(1.0, first, canonical, threshold)
    seen = min(maps.foreground.shape) * COARSE
    if sureness(maps.foreground, threshold) >= SURE or seen < _FEWEST_PIXELS or zoom <= _NEAR:
        return zoom, maps
    coarse = yield COARSE
    if not _surer(coarse, maps, threshold) or not _plausible(coarse, COARSE, canonical, threshold):
        return zoom, maps
    found = yield from _follow(COARSE, coarse, canonical, threshold)
    return found if _surer(found[1], maps, threshold) else (COARSE, coarse)


def _from_afar(
    zoom: float, maps: DenseMaps, canonical: float, threshold: float
) -> Generator[float, DenseMaps, tuple[float, DenseMaps] | None]:
    """Look from afar where few things were found, or none, and the network is unsure of them."""
    if sureness(maps.foreground, threshold) >= SURE or _number(maps, threshold) > _FEW:
        return None
    for at in FAR:
        if at >= _NEAR * zoom or min(maps.foreground.shape) * at < _FEWEST_PIXELS_FAR:
            continue
        seen = yield at
        sure = sureness(seen.foreground, threshold) >= SURE
        clear = sure and _plausible(seen, at, canonical, threshold) and _softness(seen, at) <= _CRISP
        if clear and agreement(seen) >= _CLEAR:
            return (yield from _follow(at, seen, canonical, threshold))
    return None


def _crowd(
    first: DenseMaps, zoom: float, maps: DenseMaps, canonical: float, threshold: float
) -> Generator[float, DenseMaps, tuple[float, DenseMaps] | None]:
    """Look for crowds of small objects where large ones were found: at zoom 1, or closer.

    Closer only where the votes at zoom 1 did not agree; less is asked of them where large objects were seen
    at a coarser zoom.
    """

    def is_crowd(seen: DenseMaps, at: float) -> bool:
        """Tell whether a look shows many small objects where one large one was seen."""
        old, new = (estimate_diameter(m, threshold) or 0.0 for m in (maps, seen))
        if not COMFORT[0] <= new * at / canonical <= COMFORT[1] or new >= _SHRUNK * old:
            return False
        return sureness(seen.foreground, threshold) >= _SURE_OF_CROWD and agreement(seen) >= _AGREED_ON_CROWD

    if zoom < 1 and is_crowd(first, 1.0):
        return (yield from _follow(1.0, first, canonical, threshold))
    if zoom == 1 and (estimate_diameter(maps, threshold) or 0.0) < _MANY_IN_ONE * canonical:
        return None
    if zoom > 1 or agreement(first) >= (AGREED if zoom < 1 else STEADY):
        return None
    fine = yield FINE
    return (yield from _follow(FINE, fine, canonical, threshold)) if is_crowd(fine, FINE) else None


def _softness(maps: DenseMaps, zoom: float) -> float:
    """Return how wide the border between objects and ground is, pixels of the resized image.

    That of an object is about half a pixel wide, and that of uneven light one or more.
    """
    inside = maps.foreground > 0.5
    border = np.count_nonzero(inside[1:] != inside[:-1]) + np.count_nonzero(inside[:, 1:] != inside[:, :-1])
    between = np.count_nonzero((maps.foreground > _SOFT[0]) & (maps.foreground < _SOFT[1]))
    return between * zoom / max(int(border), 1)


def _number(maps: DenseMaps, threshold: float) -> float:
    """Return about how many objects there are, by their area and median diameter."""
    diameter = estimate_diameter(maps, threshold)
    area = int((maps.foreground > threshold).sum())
    return 0.0 if diameter is None else area / (np.pi / 4 * diameter**2)


def _by_votes(
    zoom: float, maps: DenseMaps, canonical: float, threshold: float
) -> Generator[float, DenseMaps, tuple[float, DenseMaps]]:
    """Go on to neighbouring zooms while the votes agree better there, in three passes at most.

    Not to one where objects look too large: pixels of what is one blob there agree, too.
    """
    agreed = agreement(maps)
    for step in STEPS:
        moved = False
        for _ in range(2):
            # the coarser side begins at zoom 1: small sizes may be specks of what was not understood
            wanted = float(np.clip((min(zoom, 1.0) if step < 1 else zoom) * step, *ZOOM_LIMITS))
            if agreed >= AGREED or wanted == zoom:
                break
            other = yield wanted
            found = agreement(other)
            if found < agreed + BETTER or too_large(other, wanted, canonical):
                break
            if step > 1 and _specks(maps, other, zoom, wanted, canonical, threshold):
                break
            zoom, maps, agreed, moved = wanted, other, found, True
        if moved:
            break
    return zoom, maps


def _surer(coarse: DenseMaps, fine: DenseMaps, threshold: float) -> bool:
    """Tell whether a look is sure, and surer than another; both are of windows around one centre."""
    both = coarse.foreground, fine.foreground
    shape = np.minimum(both[0].shape, both[1].shape)
    second, first = (sureness(_middle(p, shape), threshold) for p in both)
    return second > max(first + GAIN, _CREDIBLE)


def _middle(x: npt.NDArray[np.float32], shape: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Return the central part of a map, (h, w) pixels."""
    top, left = (np.array(x.shape) - shape) // 2
    return x[top : top + shape[0], left : left + shape[1]]


def _plausible(coarse: DenseMaps, zoom: float, canonical: float, threshold: float) -> bool:
    """Tell whether the objects of a look at a coarse zoom have sizes that it can tell."""
    diameter, share = estimate_diameter(coarse, threshold), float((coarse.foreground > threshold).mean())
    if diameter is None or share > _FULLEST or share * coarse.foreground.size < _SMALLEST_AREA:
        return False
    return _BELIEVED[0] <= diameter * zoom / canonical <= _BELIEVED[1]


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
        seen = yield wanted
        if wanted > zoom and _specks(maps, seen, zoom, wanted, canonical, threshold):
            break
        zoom, maps = wanted, seen
    return zoom, maps


def _specks(
    before: DenseMaps, after: DenseMaps, zoom: float, at: float, canonical: float, threshold: float
) -> bool:
    """Tell whether what is found at a zoom ``at``, finer than ``zoom``, are specks of a texture.

    In the resized image objects grow by the factor between the zooms; specks are as small at every one.  Half
    of the factor, in logarithms, divides the two.  What has a size that the network is at ease with is no
    speck: a crowd of small objects may look like a large one at the coarser zoom.
    """
    # of a large plane a finer look may see less
    shape = np.minimum(before.foreground.shape, after.foreground.shape)
    old, new = (
        _diameter(_middle(m.foreground, shape), _middle(m.size, shape), threshold) for m in (before, after)
    )
    if new is None:
        return True
    return new * at < COMFORT[0] * canonical and old is not None and new * (at / zoom) ** 0.5 < old


def settle_zoom(
    run: Callable[[float], DenseMaps], canonical: float, threshold: float = 0.5, usual: float | None = None
) -> tuple[float, DenseMaps]:
    """Find the zoom for an image whose object size is not known.

    The network runs at zoom 1 and reads the sizes it predicts; where they ask for another zoom it runs
    there, and once more if what it sees there asks for a further change of more than a factor 1.5.  A finer
    zoom does not count where what is found is small still, and hardly larger than before: that is a
    texture.  Where it is unsure of the foreground that it found (objects of many times its own size look
    like texture to it), it takes a second look at zoom ``COARSE``; if that is surer by ``GAIN`` and sees
    objects of sizes that it can tell, the search goes on there, or ends there where going on leads to what
    is less sure.  Where that leads to a coarser zoom though the votes at zoom 1 did not agree, a crowd of
    small objects may have been taken for a large one: if they agree at zoom ``FINE``, the search goes on
    from there.
    Where it is unsure still and the votes of the pixels do not agree, neighbouring zooms are tried, and
    those taken at which they agree better.

    A model that was tuned has learnt at the zoom for the objects of its images.  Where objects look like
    those there and it is unsure, that zoom is taken and nothing else tried.

    Parameters
    ----------
    run : callable
        ``run(zoom)`` returns the maps of the image at that zoom.
    canonical : float
        The model's object diameter, pixels.
    usual : float or None
        Median object diameter of the images that it was tuned on, pixels.

    Returns
    -------
    tuple of float and DenseMaps
        The zoom and the maps at that zoom.
    """
    search = zoom_search(canonical, threshold, usual)
    zoom = next(search)
    while True:
        try:
            zoom = search.send(run(zoom))
        except StopIteration as stop:
            found: tuple[float, DenseMaps] = stop.value
            return found


def settle_for(card: ModelCard, run: Callable[[float], DenseMaps]) -> tuple[float, DenseMaps]:
    """Find the zoom for an image as a run of this model does; see :func:`settle_zoom`."""
    return settle_zoom(run, card.diameter, usual=card.usual_diameter)
