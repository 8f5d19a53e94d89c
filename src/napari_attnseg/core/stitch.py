"""Joining the labels of overlapping tiles: one object seen by two tiles becomes one object again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_attnseg.records import Tile

MIN_IOU = 0.25


class UnionFind:
    """Disjoint sets of the numbers 0..n-1; the smallest member stands for its set."""

    def __init__(self) -> None:
        self._parent: list[int] = []

    def grow(self, size: int) -> None:
        """Add singletons until there are ``size`` numbers."""
        self._parent.extend(range(len(self._parent), size))

    def find(self, item: int) -> int:
        """Return the member that stands for the set of ``item``."""
        parent = self._parent
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    def union(self, a: int, b: int) -> None:
        """Join the sets of ``a`` and ``b``."""
        a, b = self.find(a), self.find(b)
        self._parent[max(a, b)] = min(a, b)

    def roots(self) -> npt.NDArray[np.int64]:
        """Return the representative of every number, (n,)."""
        return np.array([self.find(i) for i in range(len(self._parent))], dtype=np.int64)


def same_objects(
    a: npt.NDArray[np.integer], b: npt.NDArray[np.integer], min_iou: float = MIN_IOU
) -> list[tuple[int, int]]:
    """Find which labels of ``a`` and ``b``, two views of the same pixels, are the same object.

    Two labels match when each is the other's largest partner and their intersection over union, within
    these pixels, is at least ``min_iou``.
    """
    both = (a != 0) & (b != 0)
    if not both.any():
        return []
    pairs, overlap = np.unique(np.stack([a[both], b[both]], axis=1), axis=0, return_counts=True)
    area_a, area_b = (
        dict(zip(*(v.tolist() for v in np.unique(x[x != 0], return_counts=True)), strict=True))
        for x in (a, b)
    )
    best_a: dict[int, tuple[int, int]] = {}
    best_b: dict[int, tuple[int, int]] = {}
    for (i, j), n in zip(pairs.tolist(), overlap.tolist(), strict=True):
        best_a[i] = max(best_a.get(i, (0, 0)), (n, -j))
        best_b[j] = max(best_b.get(j, (0, 0)), (n, -i))
    found = []
    for i, (n, negative) in best_a.items():
        j = -negative
        mutual = best_b[j][1] == -i
        if mutual and n / (area_a[i] + area_b[j] - n) >= min_iou:
            found.append((i, j))
    return found


class Stitcher:
    """Collects the label images of tiles into one plane.

    Each tile's labels cover what it read (core and halo); only the core is kept, and its halo is compared
    with the cores of the tiles before it.

    Parameters
    ----------
    shape : tuple of int
        (H, W) of the plane.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        self._canvas = np.zeros(shape, dtype=np.int32)
        self._sets = UnionFind()
        self._sets.grow(1)  # 0 is background
        self._count = 0
        self._done: list[Tile] = []

    def add(self, tile: Tile, labels: npt.NDArray[np.int32]) -> int:
        """Add the labels of ``tile.read``, ids 1..n; return the number added to its ids."""
        offset = self._count
        self._count += int(labels.max(initial=0))
        self._sets.grow(self._count + 1)
        for other in self._done:
            common = _common(tile.read, other.core)
            if common is None:
                continue
            here = tuple(
                slice(c.start - r.start, c.stop - r.start) for c, r in zip(common, tile.read, strict=True)
            )
            for old, new in same_objects(self._canvas[common], labels[here]):
                self._sets.union(old, new + offset)
        kept = labels[tile.crop]
        self._canvas[tile.core] = np.where(kept > 0, kept + np.int32(offset), 0)
        self._done.append(tile)
        return offset

    def finish(self) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
        """Return the joined labels, renamed to 1..n, and the new id of every id that was added.

        Returns
        -------
        labels : ndarray, (H, W) int32
        new_id : ndarray, (added + 1,) int64
            Index it by ``offset + id``; 0 for what no core kept.
        """
        roots = self._sets.roots()
        present = np.zeros(len(roots), dtype=bool)
        for row in self._canvas:
            present[roots[np.unique(row)]] = True
        present[0] = False
        names = np.zeros(len(roots), dtype=np.int64)
        names[present] = np.arange(1, int(present.sum()) + 1)
        new_id = names[roots]
        for y in range(0, self._canvas.shape[0], 1024):  # in strips: no second plane of int64
            strip = self._canvas[y : y + 1024]
            strip[:] = new_id[strip]
        return self._canvas, new_id


def _common(a: tuple[slice, slice], b: tuple[slice, slice]) -> tuple[slice, slice] | None:
    y, x = (slice(max(p.start, q.start), min(p.stop, q.stop)) for p, q in zip(a, b, strict=True))
    return (y, x) if y.start < y.stop and x.start < x.stop else None
