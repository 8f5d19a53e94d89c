"""Cutting a plane into overlapping tiles, so that each pixel is written exactly once."""

from __future__ import annotations

import itertools
import math

from napari_attnseg.records import Tile

TILE = 2048
HALO = 96
ALIGN = 16


def plan_tiles(
    shape: tuple[int, int], tile: int = TILE, halo: int = HALO, align: float = ALIGN
) -> list[Tile]:
    """Plan the tiles of a plane, row by row.

    Parameters
    ----------
    shape : tuple of int
        (H, W) of the plane, pixels.
    tile : int
        Largest side that is read at once, pixels (at least 4 ``align``); a plane that fits is one tile.
    halo : int
        Context read around each core where there is image, pixels.  It is rounded up to ``align``, and
        cut where two halos would leave less than half of the tile for its core.
    align : float
        Tiles start at multiples of this, rounded to pixels: the coarsest stride of the network in image
        pixels, so that a tile sees the same token grid as the whole plane.

    Returns
    -------
    list of Tile
        Their cores partition the plane; ``out[core] = f(x[read])[crop]``.
    """
    rows, cols = (_cut(n, max(tile, math.ceil(4 * align)), halo, align) for n in shape)
    return [
        Tile(
            read=(slice(r0, r1), slice(c0, c1)),
            crop=(slice(a0 - r0, a1 - r0), slice(b0 - c0, b1 - c0)),
            core=(slice(a0, a1), slice(b0, b1)),
        )
        for r0, r1, a0, a1 in rows
        for c0, c1, b0, b1 in cols
    ]


def _cut(size: int, tile: int, halo: int, align: float) -> list[tuple[int, int, int, int]]:
    """Return (read start, read stop, core start, core stop) along one axis."""
    if size <= tile:
        return [(0, size, 0, size)]
    spare = 0 if float(align).is_integer() else 1  # rounding both ends may add a pixel
    cells, most = math.ceil(size / align), int((tile - spare) // align)
    margin = min(math.ceil(halo / align), max(1, most // 4))  # in four or three cells, one at each end
    inner = cells - 2 * margin
    count = -(-inner // (most - 2 * margin))
    cuts = [0, *(margin + i * inner // count for i in range(1, count)), cells]

    def pixel(cell: int) -> int:
        return min(size, round(cell * align))

    return [
        (pixel(max(0, a - margin)), pixel(min(cells, b + margin)), pixel(a), pixel(b))
        for a, b in itertools.pairwise(cuts)
    ]


def tile_at(tiles: list[Tile], pixel: tuple[int, int]) -> Tile:
    """Return the tile whose core holds a (y, x) pixel; ``LookupError`` outside the plane."""
    for tile in tiles:
        if all(part.start <= p < part.stop for part, p in zip(tile.core, pixel, strict=True)):
            return tile
    raise LookupError(f"no tile holds the pixel {pixel}")


def centre_window(shape: tuple[int, int], side: int) -> tuple[slice, slice]:
    """Return the central window of at most ``side`` pixels a side."""
    starts = [max(0, (n - side) // 2) for n in shape]
    y, x = (slice(s, s + min(side, n)) for s, n in zip(starts, shape, strict=True))
    return y, x
