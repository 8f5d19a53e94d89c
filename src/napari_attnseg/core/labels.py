"""Small operations on label images; 0 is background."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Labels = npt.NDArray[np.int32]


def compact(labels: npt.NDArray[np.integer]) -> tuple[Labels, npt.NDArray[np.int64]]:
    """Rename labels to 1..n in the order of their ids.

    Returns
    -------
    labels : ndarray, same shape, int32
    ids : ndarray, (n,) int64
        The old id of each new label.
    """
    ids, inverse = np.unique(labels, return_inverse=True)
    inverse = inverse.reshape(labels.shape)
    has_background = ids.size > 0 and 0 in ids
    if has_background:  # negative ids are objects as well: put the background first
        zero = int(np.searchsorted(ids, 0))
        rank = np.arange(ids.size) + 1
        rank[zero] = 0
        rank[zero + 1 :] -= 1
        ids = np.delete(ids, zero)
    else:
        rank = np.arange(ids.size) + 1
    return rank[inverse].astype(np.int32), ids.astype(np.int64)


def edge_ids(labels: npt.NDArray[np.integer]) -> npt.NDArray[np.integer]:
    """Return the ids of the objects that touch the border of a (H, W) image."""
    if labels.size == 0:
        return np.empty(0, dtype=labels.dtype)
    border = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    ids = np.unique(border)
    touching: npt.NDArray[np.integer] = ids[ids != 0]
    return touching


def remove(labels: Labels, ids: npt.NDArray[np.integer]) -> Labels:
    """Return a copy without the objects ``ids``; the others keep their ids."""
    if len(ids) == 0:
        return labels.copy()
    out = labels.copy()
    out[np.isin(labels, ids)] = 0
    return out


def clean_regions(
    labels: Labels, *, min_size: int = 0, drop_edge: bool = False, fill_holes: bool = False
) -> Labels:
    """Apply the common clean-up to a (H, W) label image and rename to 1..n.

    Parameters
    ----------
    min_size : int
        Objects of fewer pixels are dropped (after filling).
    drop_edge : bool
        Drop objects that touch the image border.
    fill_holes : bool
        Fill background holes inside each object.
    """
    from scipy import ndimage

    out = labels.astype(np.int32, copy=True)
    if fill_holes:
        for label, box in enumerate(ndimage.find_objects(out), start=1):
            if box is not None:
                view = out[box]
                inside = ndimage.binary_fill_holes(view == label)
                view[inside & (view == 0)] = label
    sizes = np.bincount(out.ravel())
    gone = np.flatnonzero((sizes > 0) & (sizes < min_size))
    out = remove(out, gone[gone != 0])
    if drop_edge:
        out = remove(out, edge_ids(out))
    return compact(out)[0]


def clean_classes(
    classes: npt.NDArray[np.int32], min_size: int, drop_edge: bool, fill_holes: bool
) -> npt.NDArray[np.int32]:
    """Drop small regions of every class and those at the edge, and fill holes; (H, W) int32.

    See :func:`clean_regions`; a filled hole gets the class around it.
    """
    from napari_attnseg.core.classic import regions

    pieces = clean_regions(regions(classes), min_size=min_size, drop_edge=drop_edge, fill_holes=fill_holes)
    value = np.zeros(int(pieces.max(initial=0)) + 1, dtype=np.int32)
    known = classes > 0  # a filled hole has no class of its own: take it from the piece around it
    value[pieces[known]] = classes[known]
    value[0] = 0
    return value[pieces]
