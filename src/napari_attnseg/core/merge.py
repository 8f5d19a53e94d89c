"""Putting a new prediction beside objects that a user corrected, and showing what two results differ in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_attnseg.core.metrics import id_overlaps

if TYPE_CHECKING:
    import numpy.typing as npt

    Labels = npt.NDArray[np.int32]
    Mask = npt.NDArray[np.bool_]

LOST, FOUND, CHANGED = 1, 2, 3  # values of :func:`difference`
_SAME = 0.5  # intersection over union from which two objects are taken for one
_CUT = 0.5  # share of a new object that may lie on the user's ground before it is dropped


@dataclass(frozen=True, slots=True)
class Merged:
    """A new prediction around the user's objects.

    Attributes
    ----------
    labels : ndarray, (H, W) int32
        The user's objects with their ids and pixels, new objects elsewhere.
    before : ndarray, (H, W) int32
        What the merged plane is to be compared with from now on: the user's corrections stay corrections.
    ids : mapping of int to int
        Id in the new prediction to id in ``labels``, for the objects that were taken.
    """

    labels: Labels
    before: Labels
    ids: dict[int, int]


def territory(before: Labels | None, after: Labels, untouched: npt.ArrayLike) -> Mask:
    """Return where the user decided: corrected objects, and the ground of the objects they were made from.

    Parameters
    ----------
    before : ndarray, (H, W) int32, or None
        The prediction that was corrected; None where there was none, so that every object is the user's.
    after : ndarray, (H, W) int32
    untouched : array-like of int
        Ids in ``after`` of objects that are as they were predicted.
    """
    left = np.isin(after, np.asarray(untouched, dtype=np.int64))
    mine: Mask = (after != 0) & ~left
    if before is None:
        return mine
    changed = np.unique(before[(before != 0) & ~left])
    return mine | np.isin(before, changed[changed != 0])


def merge(current: Labels, before: Labels | None, new: Labels, decided: Mask, top: int) -> Merged:
    """Fill a plane with a new prediction; nothing inside ``decided`` is written to.

    Parameters
    ----------
    current : ndarray, (H, W) int32
        What the plane holds.
    before : ndarray, (H, W) int32, or None
        The prediction that was corrected.
    new : ndarray, (H, W) int32
        The new prediction.
    decided : ndarray, (H, W) bool
        See :func:`territory`.
    top : int
        Ids above it are free.  A new object takes the id of the object that it takes the place of.
    """
    if before is not None:
        top = max(top, int(before.max(initial=0)))
    inside = np.where(decided, 0, new).astype(np.int32)
    size = np.bincount(new.ravel(), minlength=1)
    left = np.bincount(inside.ravel(), minlength=size.size)
    whole = np.flatnonzero((left > _CUT * size) & (left > 0))
    names = _names(np.where(decided, 0, current), new, whole[whole != 0], top)
    filled = np.zeros_like(inside)
    for old, box in _boxes(inside):
        if old in names:
            piece = inside[box] == old
            if left[old] < size[old]:
                piece = _largest(piece)
            filled[box][piece] = names[old]
    labels = np.where(decided, current, filled).astype(np.int32)
    ground = np.zeros_like(filled) if before is None else before
    return Merged(labels, np.where(decided, ground, filled).astype(np.int32), names)


def merge_classes(
    current: Labels, before: Labels | None, new: Labels, decided: Mask, numbers: npt.ArrayLike
) -> Merged:
    """Fill a plane with classes; nothing inside ``decided`` is written to.

    Parameters
    ----------
    current, before, new, decided
        As for :func:`merge`.
    numbers : array-like of int
        The number in ``current`` of each class 1..n of ``new``.
    """
    table = np.array([0, *np.asarray(numbers, dtype=np.int32)], dtype=np.int32)
    filled = table[new]
    ground = np.zeros_like(filled) if before is None else before
    labels = np.where(decided, current, filled).astype(np.int32)
    return Merged(labels, np.where(decided, ground, filled).astype(np.int32), {})


def _names(current: Labels, new: Labels, ids: npt.NDArray[np.int64], top: int) -> dict[int, int]:
    """Return the id of each of ``ids``: that of the object it takes the place of, else a free one."""
    wanted = {int(i) for i in ids}
    names: dict[int, int] = {}
    rows, cols, iou = id_overlaps(current, new)
    for n in np.argsort(-iou):
        old, fresh = int(rows[n]), int(cols[n])
        if iou[n] >= _SAME and fresh in wanted and fresh not in names and old not in names.values():
            names[fresh] = old
    for fresh in sorted(wanted - names.keys()):
        top += 1
        names[fresh] = top
    return names


def common(before: npt.NDArray[np.integer], after: npt.NDArray[np.integer]) -> dict[int, int]:
    """Return the objects that two results, (H, W), both have: id in ``before`` to id in ``after``."""
    rows, cols, iou = id_overlaps(before, after)
    same = iou >= _SAME
    return dict(zip(rows[same].tolist(), cols[same].tolist(), strict=True))


def difference(before: Labels, after: Labels) -> Labels:
    """Return where two results differ, (H, W) int32.

    1 (:data:`LOST`): objects only before; 2 (:data:`FOUND`): objects only after; 3 (:data:`CHANGED`):
    pixels that changed hands in objects that both have.
    """
    partner = common(before, after)
    out = np.zeros(before.shape, dtype=np.int32)
    kept_before = np.isin(before, list(partner))
    kept_after = np.isin(after, list(partner.values()))
    top = int(before.max(initial=0)) + 1
    table = np.zeros(top, dtype=np.int64)
    for old, new in partner.items():
        table[old] = new
    named = table[before]
    out[(kept_before | kept_after) & (named != np.where(kept_after, after, 0))] = CHANGED
    out[(before != 0) & ~kept_before] = LOST
    out[(after != 0) & ~kept_after] = FOUND
    return out


def _boxes(labels: Labels) -> list[tuple[int, tuple[slice, slice]]]:
    from scipy.ndimage import find_objects

    found = enumerate(find_objects(labels), start=1)
    return [(n, (box[0], box[1])) for n, box in found if box is not None]


def _largest(piece: Mask) -> Mask:
    """Return the largest connected part."""
    from scipy.ndimage import label

    parts, count = label(piece)
    if count < 2:
        return piece
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    largest: Mask = parts == int(sizes.argmax())
    return largest
