"""Labels after the readout: one piece each, no holes, none too small."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_attnseg.params import ReadoutParams

    Labels = npt.NDArray[np.int32]


def tidy(labels: Labels, params: ReadoutParams) -> Labels:
    """Keep the largest piece of each object, fill holes, drop small ones and those at the edge, renumber."""
    labels = largest_pieces(labels)
    if params.fill_holes:
        labels = fill_holes(labels)
    inside = np.flatnonzero(labels != 0)  # the rest of the image is not looked at again
    owner = labels.ravel()[inside]
    keep = np.bincount(owner, minlength=int(labels.max(initial=0)) + 1) >= max(params.min_size, 1)
    if params.drop_edge:
        for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
            keep[edge] = False
    keep[0] = False
    out = np.zeros(labels.shape, dtype=np.int32)
    out.ravel()[inside] = np.where(keep, np.cumsum(keep), 0)[owner]
    return out


def largest_pieces(labels: Labels) -> Labels:
    """Set all but the largest 4-connected piece of every label to 0."""
    from skimage.measure import label

    inside = np.flatnonzero(labels != 0)
    value = labels.ravel()[inside]
    piece = label(labels, connectivity=1).ravel()[inside]
    size = np.bincount(piece, minlength=1)
    owner = np.zeros(len(size), dtype=np.int64)
    owner[piece] = value
    order = np.lexsort((size, owner))
    last = np.append(owner[order][1:] != owner[order][:-1], True)  # the largest piece of each owner
    keep = np.zeros(len(size), dtype=bool)
    keep[order[last]] = True
    out = np.zeros(labels.shape, dtype=np.int32)
    out.ravel()[inside] = np.where(keep[piece], value, 0)
    return out


def fill_holes(labels: Labels) -> Labels:
    """Fill background pieces that one single object encloses."""
    from skimage.measure import label

    if min(labels.shape) < 3:
        return labels
    ground = label(labels == 0, connectivity=1)
    closed = np.ones(int(ground.max(initial=0)) + 1, dtype=bool)
    closed[0] = False
    for edge in (ground[0], ground[-1], ground[:, 0], ground[:, -1]):
        closed[edge] = False
    at = np.flatnonzero(closed[ground])  # never at the border of the image
    if not len(at):
        return labels
    piece, flat = ground.ravel()[at], labels.ravel()
    low = np.full(len(closed), np.iinfo(np.int32).max, dtype=np.int64)
    high = np.zeros(len(closed), dtype=np.int64)
    for step in (-1, 1, -labels.shape[1], labels.shape[1]):
        owner = flat[at + step]
        np.minimum.at(low, piece[owner > 0], owner[owner > 0])
        np.maximum.at(high, piece[owner > 0], owner[owner > 0])
    out = flat.astype(np.int32)
    out[at] = np.where(low == high, high, 0)[piece]
    return out.reshape(labels.shape)
