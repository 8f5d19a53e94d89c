"""Cutting a plane into overlapping tiles, so that each pixel is written exactly once."""

from __future__ import annotations

import itertools

from napari_attnseg.records import Tile

TILE = 1024
HALO = 96
ALIGN = 16


def plan_tiles(shape: tuple[int, int], tile: int = TILE, halo: int = HALO, align: int = ALIGN) -> list[Tile]:
    """Plan the tiles of a plane, row by row.

    Parameters
    ----------
    shape : tuple of int
        (H, W) of the plane, pixels.
    tile : int
        Largest side that is read at once, pixels; a plane that fits is one tile.
    halo : int
        Context read around each core where there is image, pixels.  It is rounded up to ``align``, and
        cut where two halos would leave less than half of the tile for its core.
    align : int
        Tiles start at multiples of this (the coarsest stride of the network), so that a tile sees the
        same token grid as the whole plane.

    Returns
    -------
    list of Tile
        Their cores partition the plane; ``out[core] = f(x[read])[crop]``.
    """
    rows, cols = (_cut(n, max(tile, 4 * align), halo, align) for n in shape)
    return [
        Tile(
            read=(slice(r0, r1), slice(c0, c1)),
            crop=(slice(a0 - r0, a1 - r0), slice(b0 - c0, b1 - c0)),
            core=(slice(a0, a1), slice(b0, b1)),
        )
        for r0, r1, a0, a1 in rows
        for c0, c1, b0, b1 in cols
    ]


def _cut(size: int, tile: int, halo: int, align: int) -> list[tuple[int, int, int, int]]:
    """Return (read start, read stop, core start, core stop) along one axis."""
    if size <= tile:
        return [(0, size, 0, size)]
    cells, most = -(-size // align), tile // align
    margin = min(-(-halo // align), most // 4)
    count = -(-(cells - 2 * margin) // (most - 2 * margin))
    inner = cells - 2 * margin
    cuts = [0, *((margin + i * inner // count) * align for i in range(1, count)), size]
    pad = margin * align
    return [(max(0, a - pad), min(size, b + pad), a, b) for a, b in itertools.pairwise(cuts)]


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
