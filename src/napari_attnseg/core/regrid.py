"""Bringing values from one token grid to another, and masks of pixels onto tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_attnseg.core.grid import TokenGrid

    Floats = npt.NDArray[np.float32]


def regrid(values: npt.NDArray[np.floating[Any]], a: TokenGrid, b: TokenGrid) -> Floats:
    """Share values of the cells of grid ``a`` among the cells of grid ``b`` by the area they have in common.

    What lies on ``b`` keeps its sum; what lies beside it is lost.

    Parameters
    ----------
    values : ndarray, (gh, gw)
        Amounts on ``a``, such as attention weights.

    Returns
    -------
    ndarray, (gh', gw') float32
        Amounts on ``b``.
    """
    if a == b:
        return np.asarray(values, dtype=np.float32)
    y, x = (_shares(a, b, axis) for axis in (0, 1))
    found: Floats = (y @ values @ x.T).astype(np.float32)
    return found


def _edges(grid: TokenGrid, axis: int) -> npt.NDArray[np.float64]:
    """Return the borders of the cells along an axis, cut at the end of the field, pixels."""
    edges = np.minimum(np.arange(grid.shape[axis] + 1) * grid.cell, grid.field[axis])
    return np.asarray(grid.origin[axis] + edges)


def _shares(a: TokenGrid, b: TokenGrid, axis: int) -> npt.NDArray[np.float64]:
    """Return which part of each cell of ``a`` lies in each cell of ``b``, (cells of b, cells of a)."""
    ours, theirs = _edges(a, axis), _edges(b, axis)
    low = np.maximum(ours[None, :-1], theirs[:-1, None])
    high = np.minimum(ours[None, 1:], theirs[1:, None])
    width = np.maximum(np.diff(ours), 1e-9)
    found: npt.NDArray[np.float64] = np.maximum(high - low, 0) / width
    return found


def counts(mask: npt.NDArray[np.bool_], grid: TokenGrid) -> npt.NDArray[np.int64]:
    """Return how many pixels of a plane's mask (H, W) lie in each token, (gh, gw)."""
    (y, x), (h, w) = grid.origin, grid.field
    ys, xs = np.nonzero(mask[y : y + h, x : x + w])
    rows, cols = grid.index_maps()
    flat = rows[ys] * grid.shape[1] + cols[xs]
    return np.bincount(flat, minlength=grid.shape[0] * grid.shape[1]).reshape(grid.shape)


def coverage(mask: npt.NDArray[np.bool_], grid: TokenGrid) -> Floats:
    """Return the share of each token's pixels that a plane's mask (H, W) covers, (gh, gw), 0..1."""
    rows, cols = grid.index_maps()
    size = np.outer(*(np.bincount(i, minlength=n) for i, n in zip((rows, cols), grid.shape, strict=True)))
    return (counts(mask, grid) / np.maximum(size, 1)).astype(np.float32)
