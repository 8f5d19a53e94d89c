"""Corrections of single objects on one plane: pure functions from labels to the pixels that change.

Nothing here writes into the labels it is given: an :class:`Edit` says which pixels take which value, so
that the caller can write them as one undoable step.

**Split.**  A stroke cuts an object in two sides.  Where the network's maps are kept, each side gets a
seed (the median of its pixels' votes), all pixels attend to these seeds anew, and the border comes to lie
where the network sees it.  Where the votes contradict the stroke, or there are none, the stroke decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from napari_attnseg.errors import InputError
from napari_attnseg.params import THRESHOLD

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_attnseg.records import DenseMaps

    Labels = npt.NDArray[np.integer]
    Mask = npt.NDArray[np.bool_]
    Box = tuple[slice, slice]

AGREE = 0.8  # share of each side's pixels that must attend to their own side's seed
_SLIVER = 0.02  # pieces below this share of the object are no sides of their own
_BRIDGE = 3  # gaps of up to twice as many pixels are closed by a merge


@dataclass(frozen=True, slots=True)
class Edit:
    """Pixels of one plane that take new labels.

    Attributes
    ----------
    rows, columns : ndarray, (n,) int64
        Pixels of the plane.
    values : ndarray, (n,) int64
        Their new labels.
    text : str
        What was done, in a few words.
    """

    rows: npt.NDArray[np.int64]
    columns: npt.NDArray[np.int64]
    values: npt.NDArray[np.int64]
    text: str


@dataclass(frozen=True, slots=True)
class PlaneMaps:
    """What a run knows of the plane that is corrected.

    Attributes
    ----------
    maps : DenseMaps
        Of the size of ``field``.
    field : tuple of slice
        (Y, X) part of the plane that the maps cover.
    threshold : float
        Foreground probability of the run.
    """

    maps: DenseMaps
    field: Box
    threshold: float = THRESHOLD


def delete(labels: Labels, label: int) -> Edit:
    """Take an object away.

    Parameters
    ----------
    labels : ndarray, (H, W) integer
        0 is background.
    label : int

    Raises
    ------
    InputError
        There is no such object on the plane (so for all functions here).
    """
    mask, box = _object(labels, label)
    return _edit(mask, box, 0, f"Object {label} deleted.")


def grow(labels: Labels, label: int) -> Edit:
    """Add the background pixels that touch an object by a side; neighbours keep theirs."""
    from scipy.ndimage import binary_dilation

    mask, box = _object(labels, label, pad=1)
    more = binary_dilation(mask) & (labels[box] == 0)
    if not more.any():
        raise InputError(f"Object {label} has no background beside it to grow into.")
    return _edit(more, box, label, f"Object {label} grew by a pixel.")


def shrink(labels: Labels, label: int) -> Edit:
    """Take the outermost pixels of an object away; the image border does not count as its outside."""
    from scipy.ndimage import binary_erosion

    mask, box = _object(labels, label, pad=1)
    kept = binary_erosion(mask, border_value=1)
    if not kept.any():
        raise InputError(f"Object {label} is too thin to shrink.", "Delete it instead.")
    return _edit(mask & ~kept, box, 0, f"Object {label} shrank by a pixel.")


def fill(labels: Labels, label: int) -> Edit:
    """Fill the background holes inside an object; objects that lie in it stay."""
    from scipy.ndimage import binary_fill_holes

    mask, box = _object(labels, label)
    holes = binary_fill_holes(mask) & (labels[box] == 0)
    if not holes.any():
        raise InputError(f"Object {label} has no hole.")
    return _edit(holes, box, label, f"Holes of object {label} filled.")


def merge(labels: Labels, label: int, other: int, kept: PlaneMaps | None = None) -> Edit:
    """Give ``other`` the label ``label`` and close the gap between the two, background pixels only.

    With ``kept``, unlabelled pixels between them that the network calls foreground are taken in first.
    """
    from scipy.ndimage import label as pieces_of
    from skimage.morphology import convex_hull_image

    if label == other:
        raise InputError(f"Object {label} cannot be merged with itself.", "Click another object.")
    _object(labels, label)
    _object(labels, other)
    box = _box((labels == label) | (labels == other), labels.shape, pad=_BRIDGE + 1)
    window = labels[box]
    both, free = (window == label) | (window == other), window == 0
    joint = both.copy()
    if kept is not None:
        sure = _crop(kept, box, kept.maps.foreground, fill=0.0) > kept.threshold
        lots, _ = pieces_of(both | (sure & free & convex_hull_image(both)))
        joint = np.isin(lots, np.unique(lots[both]))
    if pieces_of(joint)[1] > 1:
        joint = _bridged(joint, free)
    apart = "" if pieces_of(joint)[1] == 1 else " They do not touch: they share one id now."
    return _edit(joint & (window != label), box, label, f"Object {other} merged into object {label}.{apart}")


def split(
    labels: Labels, label: int, stroke: npt.NDArray[np.floating], new: int, kept: PlaneMaps | None = None
) -> Edit:
    """Cut an object along a stroke.

    Parameters
    ----------
    labels : ndarray, (H, W) integer
    label : int
        The object.  Its largest part keeps this label.
    stroke : ndarray, (n, 2) float
        (y, x) points; ends inside the object are prolonged.
    new : int
        The label of the next part; further parts count on.
    kept : PlaneMaps, optional
        What the run left of this plane.

    Raises
    ------
    InputError
        The stroke does not cut the object.
    """
    mask, box = _object(labels, label, pad=1)
    corner = np.array([box[0].start, box[1].start])
    sides = _sides(mask, np.asarray(stroke, dtype=float) - corner)
    how = "along the stroke"
    if kept is not None:
        attended = _attended(sides, kept, box)
        if attended is None:
            how += " (the network sees one object here)"
        else:
            sides, how = attended, "where its pixels attend to different seeds"
    sizes = np.bincount(sides[mask])
    order = np.argsort(-sizes[1:], kind="stable") + 1
    value = np.zeros(len(sizes), dtype=np.int64)
    value[order] = [label, *range(new, new + len(order) - 1)]
    change = mask & (value[sides] != label)
    rows, columns = np.nonzero(change)
    return Edit(
        rows + corner[0],
        columns + corner[1],
        value[sides[change]],
        f"Object {label} split into {len(order)} {how}.",
    )


def _sides(mask: Mask, stroke: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    """Return the number (1..n) of the side of the stroke for every pixel of ``mask``, 0 outside it."""
    from scipy.ndimage import distance_transform_edt
    from scipy.ndimage import label as pieces_of

    pieces, count = pieces_of(mask & ~_barrier(mask, stroke))
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    enough = sizes >= max(3.0, _SLIVER * float(mask.sum()))
    enough[0] = False
    if enough.sum() < 2:
        raise InputError("The stroke does not cut the object in two.", "Draw it right across.")
    sides: npt.NDArray[np.intp] = np.where(enough, np.cumsum(enough), 0)[pieces]
    nearest = distance_transform_edt(sides == 0, return_distances=False, return_indices=True)
    return np.where(mask, sides[tuple(nearest)], 0)


def _barrier(mask: Mask, stroke: npt.NDArray[np.float64]) -> Mask:
    """Draw the stroke; an end inside the object goes on in its direction until it is out."""
    from skimage.draw import line

    points = np.rint(stroke).astype(int)
    points = points[np.append(True, (np.diff(points, axis=0) != 0).any(axis=1))]
    if len(points) < 2:
        raise InputError("The stroke is too short.", "Press, draw right across the object, and let go.")
    ends = [_way_out(mask, points[::-1]), points, _way_out(mask, points)]
    path = np.concatenate([ends[0][::-1], ends[1], ends[2]])
    barrier = np.zeros(mask.shape, dtype=bool)
    for a, b in pairwise(path):
        y, x = line(*a, *b)
        inside = (y >= 0) & (x >= 0) & (y < mask.shape[0]) & (x < mask.shape[1])
        barrier[y[inside], x[inside]] = True
    return barrier


def _way_out(mask: Mask, points: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """Return the points from the last one on, straight ahead, to the first outside the object."""
    last = points[-1]
    heading = (last - points[max(0, len(points) - 6)]).astype(float)
    heading /= max(float(np.abs(heading).max()), 1.0)
    steps = np.arange(1, sum(mask.shape) + 1)
    ahead = np.rint(last + steps[:, None] * heading).astype(int)
    within = ((ahead >= 0) & (ahead < mask.shape)).all(axis=1) & _at(mask, last)
    clipped = np.clip(ahead, 0, np.array(mask.shape) - 1)
    stays = within & mask[tuple(clipped.T)]
    count = int(np.argmin(stays)) if not stays.all() else len(steps)
    way: npt.NDArray[np.intp] = ahead[: count + 1] if _at(mask, last) else ahead[:0]
    return way


def _at(mask: Mask, point: npt.NDArray[np.intp]) -> bool:
    y, x = (int(p) for p in point)
    return 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1] and bool(mask[y, x])


def _attended(sides: npt.NDArray[np.intp], kept: PlaneMaps, box: Box) -> npt.NDArray[np.intp] | None:
    """Return the sides after all pixels attended to the sides' seeds; None where the votes disagree."""
    from scipy.ndimage import distance_transform_edt
    from scipy.ndimage import label as pieces_of

    count = int(sides.max())
    y, x = np.nonzero(sides)
    offset = _crop(kept, box, kept.maps.offset, fill=np.nan)
    vote = np.stack([y, x], axis=1) + offset[:, y, x].T
    if not np.isfinite(vote).all():
        return None  # a part of the object was not run
    drawn = sides[y, x]
    seeds = np.stack([np.median(vote[drawn == side], axis=0) for side in range(1, count + 1)])
    choice = ((vote[:, None] - seeds) ** 2).sum(axis=2).argmin(axis=1) + 1
    table = np.bincount(drawn * (count + 1) + choice, minlength=(count + 1) ** 2).reshape(count + 1, -1)
    own = np.diag(table)[1:]
    if (own < AGREE * table.sum(axis=1)[1:]).any() or (own < AGREE * table.sum(axis=0)[1:]).any():
        return None
    found = np.zeros_like(sides)
    for side in range(1, count + 1):  # stray pixels go to the side they lie in
        mine = np.zeros(sides.shape, dtype=bool)
        mine[y[choice == side], x[choice == side]] = True
        lots, _ = pieces_of(mine)
        sizes = np.bincount(lots.ravel())
        sizes[0] = 0
        found[lots == sizes.argmax()] = side
    nearest = distance_transform_edt(found == 0, return_distances=False, return_indices=True)
    settled: npt.NDArray[np.intp] = np.where(sides > 0, found[tuple(nearest)], 0)
    return settled


def _bridged(joint: Mask, free: Mask) -> Mask:
    """Return the joint with the narrowest closing, over free pixels, that makes it one piece."""
    from scipy.ndimage import binary_closing
    from scipy.ndimage import label as pieces_of
    from skimage.morphology import disk

    for radius in range(1, _BRIDGE + 1):
        closed: Mask = joint | (binary_closing(joint, disk(radius)) & free)
        if pieces_of(closed)[1] == 1:
            return closed
    return joint


def _crop(kept: PlaneMaps, box: Box, values: npt.NDArray[np.float32], fill: float) -> npt.NDArray[np.float32]:
    """Return a map on the window ``box`` of the plane; ``fill`` where the run did not reach."""
    out = np.full((*values.shape[:-2], *(s.stop - s.start for s in box)), fill, dtype=np.float32)
    low = [max(b.start, f.start) for b, f in zip(box, kept.field, strict=True)]
    high = [min(b.stop, f.stop) for b, f in zip(box, kept.field, strict=True)]
    if low[0] < high[0] and low[1] < high[1]:
        spans = list(zip(low, high, strict=True))
        y, x = (slice(a - b.start, z - b.start) for (a, z), b in zip(spans, box, strict=True))
        v, u = (slice(a - f.start, z - f.start) for (a, z), f in zip(spans, kept.field, strict=True))
        out[..., y, x] = values[..., v, u]
    return out


def _object(labels: Labels, label: int, pad: int = 0) -> tuple[Mask, Box]:
    """Return the mask of an object in a window around it, and the window."""
    mask = labels == label
    if label == 0 or not mask.any():
        raise InputError("There is no object here.", "Put the mouse on an object.")
    box = _box(mask, labels.shape, pad)
    return mask[box], box


def _box(mask: Mask, shape: tuple[int, ...], pad: int) -> Box:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    y = slice(max(int(rows[0]) - pad, 0), min(int(rows[-1]) + 1 + pad, shape[0]))
    x = slice(max(int(columns[0]) - pad, 0), min(int(columns[-1]) + 1 + pad, shape[1]))
    return y, x


def _edit(mask: Mask, box: Box, value: int, text: str) -> Edit:
    rows, columns = np.nonzero(mask)
    return Edit(rows + box[0].start, columns + box[1].start, np.full(len(rows), value, np.int64), text)
