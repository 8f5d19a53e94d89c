"""From dense maps to objects: attention to seeds, or a watershed on the distance map.

**Seeds.**  A foreground pixel ``i`` votes for the place ``e_i`` of its object's seed.  Seeds ``s_j`` are
the peaks of the votes.  The pixel attends to them, and to a background slot, with

    A_ij = softmax_j(-k |e_i - s_j|^2 / D_i^2),    background logit  -k r^2

where ``D_i`` is the predicted diameter, ``k = 50`` (a miss of 0.1 diameters is one deviation) and
``r = 0.5``; it belongs to the seed it attends to most.  Votes are counted on the pixel grid, so ``e_i``
is rounded.

**Pieces.**  Pixels say how large their object is, so the pixels of a seed can be compared with it.  Two
seeds close together that have no more pixels than about one object are parts of one: that with fewer
pixels is dropped and its pixels attend anew.  A seed away from the image's border that has less than
about half of an object is a fragment: it is dropped and its pixels do not vote.  Both are relative to
what is usual in the image, where that is less than the pixels say.  Seeds that the border may have cut
are not compared with each other.

**Faint objects.**  An object whose pixels above the threshold are on average hardly above it is dropped:
their mean must be a third above the threshold, at most halfway from it to 1.

No step loops over objects in Python.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_attnseg.core.tidy import tidy
from napari_attnseg.params import THRESHOLD
from napari_attnseg.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from napari_attnseg.params import ReadoutParams
    from napari_attnseg.records import DenseMaps

    Labels = npt.NDArray[np.int32]
    Floats = npt.NDArray[np.float32]

SHARPNESS = 50.0  # k
REACH = 0.5  # r, in object diameters
_VOTE_SIGMA = 0.07  # blur of the votes, in object diameters
_SEED_HEIGHT = 0.2  # share of an object's pixels that must vote within one blur
_SEED_GAP = 0.3  # closer peaks (in diameters) are one seed
_WHOLE = 1.3  # seeds within reach are parts of one object if they have fewer pixels than so many of its size
_ENOUGH = 5  # fewer objects do not tell what is usual in an image: they may all be parts
_CLEAR = 4 / 3  # the mean foreground of an object must be so many times the threshold, else it is faint ...
_CLEAR_ENOUGH = 0.5  # ... but no more than this far from the threshold to 1
_FRAGMENT = 0.45  # a seed with fewer pixels than this share of such an object is none


@dataclass(frozen=True, slots=True)
class Seeds:
    """Seeds and who votes for them.

    Attributes
    ----------
    position : ndarray, (n, 2) float32
        (y, x) pixels.
    pixels : ndarray, (m,) int64
        Flat indices of the foreground pixels, without those of dropped fragments.
    vote : ndarray, (m, 2) float32
        Where each of them votes, pixels (rounded, inside the image).
    diameter : ndarray, (m,) float32
        Predicted object diameter at each of them, pixels.
    best, second : ndarray, (m,) int64
        The nearest and the second nearest seed of each; n where there is none.
    weight, runner_up : ndarray, (m,) float32
        Attention on them; with the background's they sum to at most 1.
    """

    position: Floats
    pixels: npt.NDArray[np.int64]
    vote: Floats
    diameter: Floats
    best: npt.NDArray[np.int64]
    second: npt.NDArray[np.int64]
    weight: Floats
    runner_up: Floats


def find_seeds(
    maps: DenseMaps, threshold: float = THRESHOLD, split: float = 0.0, *, parts: bool = False
) -> Seeds:
    """Collect the votes, find the seeds and let every foreground pixel attend to them.

    Parameters
    ----------
    threshold : float
        Foreground probability from which a pixel votes.
    split : float
        -1..1: above 0 finds more seeds, below 0 fewer.
    parts : bool
        Keep the seeds of parts of one object and of fragments, too.
    """
    h, w = maps.foreground.shape
    inside = maps.foreground > threshold
    pixels = np.flatnonzero(inside)
    y = np.repeat(np.arange(h), np.count_nonzero(inside, axis=1))  # cheaper than a division
    diameter = np.clip(maps.size.ravel()[pixels], 3.0, 2.0 * max(h, w))
    dy, dx = maps.offset.reshape(2, -1)[:, pixels]
    vote = np.empty((len(pixels), 2), dtype=np.float32)
    vote[:, 0] = np.clip(np.rint(y + dy), 0, h - 1)
    vote[:, 1] = np.clip(np.rint(pixels - y * w + dx), 0, w - 1)
    row, column = vote[:, 0].astype(np.int64), vote[:, 1].astype(np.int64)
    cell = row * w + column
    votes = _vote_map((h, w), column * h + row, diameter, maps.foreground.ravel()[pixels], split)
    position = _peaks(votes, maps.size, split)
    best, second, weight, runner = _attend(position, cell, diameter, w)
    if not parts:
        cut = np.zeros(len(position) + 1, dtype=bool)
        cut[best[np.searchsorted(pixels, _on_border(inside))]] = True
        part, fragment = _pieces(position, best, diameter, cut[:-1], split)
        if fragment.any():
            stays = ~np.append(fragment, False)[best]
            pixels, vote, diameter, cell = pixels[stays], vote[stays], diameter[stays], cell[stays]
            best, second, weight, runner = best[stays], second[stays], weight[stays], runner[stays]
        dropped = np.append(part | fragment, False)
        if dropped.any():  # only pixels that lost a choice, or whose choices are not told, attend anew
            again = np.flatnonzero(dropped[best] | dropped[second] | (best == len(part)))
            position = position[~dropped[:-1]]
            number = np.append(np.cumsum(~dropped[:-1]) - 1, len(position))
            best, second = number[best], number[second]
            fresh = _attend(position, cell[again], diameter[again], w)
            best[again], second[again], weight[again], runner[again] = fresh
    return Seeds(position, pixels, vote, diameter, best, second, weight, runner)


def _on_border(inside: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Return the flat indices of the true pixels in the first and last row and column."""
    h, w = inside.shape
    rows = [np.flatnonzero(inside[y]) + y * w for y in {0, h - 1}]
    columns = [np.flatnonzero(inside[:, x]) * w + x for x in {0, w - 1}]
    return np.concatenate([*rows, *columns])


def _pieces(
    position: Floats,
    best: npt.NDArray[np.int64],
    diameter: Floats,
    cut: npt.NDArray[np.bool_],
    split: float,
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Tell which seeds are parts of the object of another seed, and which are fragments; (n,) each.

    ``cut``, (n,), are those with pixels at the border of the image.
    """
    from scipy.spatial import cKDTree

    count = len(position)
    part = np.zeros(count, dtype=bool)
    area = np.bincount(best, minlength=count + 1)[:count]
    if count < 2 or not area.any():
        return part, part
    size = np.bincount(best, diameter, minlength=count + 1)[:count] / np.maximum(area, 1)
    inner = ~cut & (area > 0)
    share = area / np.maximum(np.pi / 4 * size**2, 1)
    usual = min(1.0, _usual(share[inner], area[inner]))
    most = _WHOLE * (usual if np.count_nonzero(inner) >= _ENOUGH else 1.0) * 2.0 ** (-0.4 * split)
    gap = REACH * 2.0 ** (-0.5 * max(split, 0.0))  # beyond the reach no pixel would change over
    few = min(count, 6)
    found = cKDTree(position).query(position, k=few)
    distance, b = (np.asarray(x)[:, 1:].ravel() for x in found)  # the nearest of all is the seed itself
    a = np.repeat(np.arange(count), few - 1)
    near = (
        (distance < gap * np.minimum(size[a], size[b]))
        & (inner[a] | inner[b])
        & (area[a] > 0)
        & (area[b] > 0)
    )
    near &= area[a] + area[b] < most * np.pi / 4 * np.maximum(size[a], size[b]) ** 2
    a, b = a[near], b[near]
    first = (area[a] > area[b]) | ((area[a] == area[b]) & (a < b))
    won, lost = np.where(first, (a, b), (b, a))
    loses = np.zeros(count, dtype=bool)
    loses[lost] = True
    lasting = ~loses[won]  # a seed that is dropped itself takes no other's pixels
    part[lost[lasting]] = True
    joined = part.copy()
    joined[won[lasting]] = True
    return part, inner & ~joined & (share < _FRAGMENT * usual * 2.0 ** -max(split, 0.0))


def _usual(share: npt.NDArray[np.float64], area: npt.NDArray[np.int64]) -> float:
    """Return the share that half of the pixels exceed; 1 without objects."""
    if not len(share):
        return 1.0
    order = np.argsort(share)
    below = np.cumsum(area[order])
    return float(share[order][np.searchsorted(below, below[-1] / 2)])


def _vote_map(
    shape: tuple[int, int], turned: npt.NDArray[np.int64], diameter: Floats, prob: Floats, split: float
) -> Floats:
    """Return the blurred votes: about the share of an object's pixels that vote within one blur.

    Votes are blurred by an octave of object size at a time, so that large and small objects are treated
    alike.  ``turned`` are their places in the transposed image: a blur along columns costs up to five times
    as much as one along rows, a transposition hardly anything.
    """
    # no matrix products: idle BLAS threads would slow the network
    from scipy.ndimage import gaussian_filter1d

    total = np.zeros(shape, dtype=np.float32)
    if not len(turned):
        return total
    h, w = shape
    octave = np.floor(np.log2(diameter)).astype(np.int64)
    weight = prob / (np.pi / 4 * diameter**2)
    for step in range(int(octave.min()), int(octave.max()) + 1):  # at most a dozen
        mine = octave == step
        if not mine.any():
            continue
        sigma = max(0.7, _VOTE_SIGMA * 2.0 ** (step + 0.5) * 2.0 ** (-0.75 * split))
        share = weight[mine] * np.float32(2 * np.pi * sigma**2)
        counts = np.bincount(turned[mine], share, minlength=h * w).astype(np.float32).reshape(w, h)
        total += gaussian_filter1d(_turned(gaussian_filter1d(counts, sigma, truncate=3)), sigma, truncate=3)
    return total


def _turned(plane: Floats) -> Floats:
    """Return the transposed array in memory order; in strips, because whole columns do not fit the cache."""
    out = np.empty(plane.shape[::-1], dtype=plane.dtype)
    for start in range(0, len(plane), 32):
        out[:, start : start + 32] = plane[start : start + 32].T
    return out


def _peaks(votes: Floats, size: Floats, split: float) -> Floats:
    """Return the local maxima of the votes, without those near a higher one, (n, 2)."""
    from scipy.spatial import cKDTree

    height = _SEED_HEIGHT * 2.0 ** (-1.5 * split)
    where = _maxima(votes, height)
    if len(where) < 2:
        return where.astype(np.float32)
    value = votes[tuple(where.T)]
    gap = _SEED_GAP * 2.0 ** (-1.0 * split) * np.clip(size[tuple(where.T)], 3.0, None)
    # the smaller gap of a pair decides; those of a few very large seeds must not pair up all others
    large = gap > 4 * np.median(gap)
    pairs = cKDTree(where).query_pairs(float(gap[~large].max()), output_type="ndarray")
    if large.sum() > 1:
        more = cKDTree(where[large]).query_pairs(float(gap.max()), output_type="ndarray")
        pairs = np.concatenate([pairs, np.flatnonzero(large)[more]])
    a, b = pairs.T
    near = np.hypot(*(where[a] - where[b]).T) < np.minimum(gap[a], gap[b])
    a, b = a[near], b[near]
    keep = np.ones(len(where), dtype=bool)
    first = value[a] >= value[b]  # ties: the earlier one stays
    keep[np.where(first, b, a)] = False
    return where[keep].astype(np.float32)


def _maxima(votes: Floats, height: float) -> npt.NDArray[np.int64]:
    """Return the places above ``height`` that none of their 8 neighbours exceeds, (n, 2)."""
    wide = votes.shape[1] + 2
    flat = np.pad(votes, 1, constant_values=-np.inf).ravel()
    at = np.flatnonzero(flat > height)  # few: only they are compared
    for step in (-wide - 1, -wide, -wide + 1, -1, 1, wide - 1, wide, wide + 1):
        at = at[flat[at] >= flat[at + step]]
    return np.stack(np.divmod(at, wide), axis=1) - 1


def _attend(
    position: Floats, cell: npt.NDArray[np.int64], diameter: Floats, width: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Floats, Floats]:
    """Return best and second seed of every vote and the attention on them."""
    from scipy.spatial import cKDTree

    count = len(position)
    if not count or not len(cell):
        none = np.full(len(cell), count, dtype=np.int64)
        zero = np.zeros(len(cell), dtype=np.float32)
        return none, none.copy(), zero, zero.copy()
    number = np.zeros(int(cell.max()) + 1, dtype=np.int32)
    number[cell] = 1
    cells = np.flatnonzero(number)  # many pixels vote for one cell
    number[cells] = np.arange(len(cells))
    back = number[cell]
    points = np.stack(np.divmod(cells, width), axis=1)
    distance, index = (np.asarray(found) for found in cKDTree(position).query(points, k=2))
    tie = distance[:, 0] == distance[:, 1]  # of two equally near seeds the first in the list is the best
    index[tie] = np.sort(index[tie], axis=1)
    square = (-SHARPNESS * distance.T**2).astype(np.float32)
    shrink = 1 / diameter**2
    near, far = (np.take(s, back) * shrink for s in square)  # logits, at most 0; -inf without a second seed
    ground = np.float32(-SHARPNESS * REACH**2)
    best = np.where(near > ground, np.take(index[:, 0], back), count)
    near, far = np.exp(near), np.exp(far)
    total = near + far + np.exp(ground)
    return best, np.take(index[:, 1], back), near / total, far / total


def seeds_readout(maps: DenseMaps, params: ReadoutParams) -> tuple[Labels, Floats]:
    """Label by attention to seeds; return raw labels and per-pixel certainty, both (H, W)."""
    seeds = find_seeds(maps, params.threshold, params.split)
    labels = np.zeros(maps.foreground.size, dtype=np.int32)
    certainty = np.zeros(maps.foreground.size, dtype=np.float32)
    taken = seeds.best < len(seeds.position)
    labels[seeds.pixels[taken]] = seeds.best[taken] + 1
    certainty[seeds.pixels] = seeds.weight * maps.foreground.ravel()[seeds.pixels]
    shape = maps.foreground.shape
    return labels.reshape(shape), certainty.reshape(shape)


def watershed_readout(maps: DenseMaps, params: ReadoutParams) -> tuple[Labels, Floats]:
    """Label by a watershed on the distance map; return raw labels and per-pixel certainty."""
    from scipy.ndimage import gaussian_filter, label
    from skimage.morphology import reconstruction
    from skimage.segmentation import watershed

    inside = maps.foreground > params.threshold
    depth = gaussian_filter(maps.distance * inside, 0.7)
    h = np.float32(0.12 * 2.0 ** (-2.0 * params.split))
    domes = depth - reconstruction(np.maximum(depth - h, 0), depth).astype(np.float32)
    markers, _ = label((domes > 0.5 * h) & (depth > 0.2) & inside)
    labels: Labels = watershed(-depth, markers, mask=inside).astype(np.int32)
    return labels, maps.foreground * inside


def _clear(prob: Floats, owner: Labels, count: int, threshold: float) -> npt.NDArray[np.bool_]:
    """Tell which of the objects 1..count are not faint, (count,).

    Pixels at or below the threshold, as in filled holes, do not count; an object without others is not faint.
    """
    least = min(_CLEAR * threshold, threshold + _CLEAR_ENOUGH * (1 - threshold))
    above = np.where(prob > threshold, prob - np.float32(threshold), 0)
    total = np.bincount(owner, above, minlength=count + 1)[1:]
    pixels = np.bincount(owner, above > 0, minlength=count + 1)[1:]
    clear: npt.NDArray[np.bool_] = total >= (least - threshold) * pixels
    return clear


READOUTS: Registry[Callable[[DenseMaps, ReadoutParams], tuple[Labels, Floats]]] = Registry(
    "readout", "napari_attnseg.postprocessors"
)
READOUTS.add("seeds", seeds_readout)
READOUTS.add("watershed", watershed_readout)


def read_out(
    maps: DenseMaps, params: ReadoutParams, default: str = "seeds"
) -> tuple[Labels, dict[str, npt.NDArray[np.generic]]]:
    """Turn dense maps into objects.

    Parameters
    ----------
    maps : DenseMaps
        Of a whole plane or field, (H, W).
    params : ReadoutParams
        Threshold, smallest size, split or merge, edge and hole handling.
    default : str
        The readout meant by "auto".

    Returns
    -------
    labels : ndarray, (H, W) int32
        Objects 1..n, 0 is background; every object is one connected piece.  Faint ones are dropped, whatever
        the readout.
    features : dict of ndarray, (n,)
        ``index`` (label ids), ``confidence`` (mean over the object of foreground probability times the
        attention on its seed, 0..1) and ``size`` (pixels).

    Raises
    ------
    InputError
        Unknown readout.
    """
    name = default if params.readout == "auto" else params.readout
    labels, certainty = READOUTS.get(name)(maps, params)
    labels = tidy(labels, params)
    count = int(labels.max(initial=0))
    inside = np.flatnonzero(labels != 0)
    owner = labels.ravel()[inside]
    size = np.bincount(owner, minlength=count + 1)[1:]
    summed = np.bincount(owner, certainty.ravel()[inside], minlength=count + 1)[1:]
    confidence = np.clip(summed / np.maximum(size, 1), 0, 1).astype(np.float32)
    sure = _clear(maps.foreground.ravel()[inside], owner, count, params.threshold)
    sure &= confidence >= params.min_confidence
    if not sure.all():
        labels = np.append(0, np.where(sure, np.cumsum(sure), 0)).astype(np.int32)[labels]
    return labels, {
        "index": np.arange(1, int(sure.sum()) + 1),
        "confidence": confidence[sure],
        "size": size[sure],
    }
