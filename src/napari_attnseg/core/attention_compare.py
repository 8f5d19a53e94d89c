"""The same query under two models (or blocks): two rows at one scale, and their difference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_attnseg.core.regrid import regrid

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_attnseg.records import AttentionRow


@dataclass(frozen=True, slots=True)
class RowPair:
    """Two rows of one query.

    Attributes
    ----------
    a, b : AttentionRow
        Each on its own grid.
    difference : ndarray, (gh, gw) float32
        ``b - a`` on the grid of ``a``: above 0 where the second attends more.
    limit : float
        Upper end of one colour scale for both, per token of ``a``; 0 is the lower end.
    b_limit : float
        The same density for ``b``'s tokens: differs from ``limit`` when its cells have another size.
    span : float
        The difference goes from ``-span`` to ``span``.
    overlap : float
        What both have in common, 0..1 (1: equal), registers included.
    """

    a: AttentionRow
    b: AttentionRow
    difference: npt.NDArray[np.float32]
    limit: float
    b_limit: float
    span: float
    overlap: float


def compare_rows(a: AttentionRow, b: AttentionRow) -> RowPair:
    """Put two rows side by side; the second is brought to the grid of the first, its mass kept."""
    there = regrid(b.weights, b.grid, a.grid)
    difference = there - a.weights
    common = float(np.minimum(there, a.weights).sum()) + min(a.register_share, b.register_share)
    area = (b.grid.cell / a.grid.cell) ** 2
    limit = max(float(a.weights.max()), float(b.weights.max()) / area, 1e-6)
    return RowPair(
        a, b, difference, limit, limit * area, max(float(np.abs(difference).max()), 1e-6), min(common, 1.0)
    )
