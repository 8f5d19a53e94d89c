"""Maps over the field as jobs: one tape, or all tiles of a plane put together."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from napari_attnseg.core import attention_maps as maps
from napari_attnseg.core.attention import AttentionTape
from napari_attnseg.core.grid import TokenGrid
from napari_attnseg.jobs.encode import tiles_of
from napari_attnseg.jobs.planes import open_plane
from napari_attnseg.jobs.tape import field_of, readout_of, settled, tape_of
from napari_attnseg.records import Progress

if TYPE_CHECKING:
    from collections.abc import Generator

    import numpy.typing as npt

    from napari_attnseg.core.attention_maps import FieldMap
    from napari_attnseg.engine import Engine
    from napari_attnseg.params import SegmentParams
    from napari_attnseg.records import Encoded, ImageSource, PlaneKey, Tile
    from napari_attnseg.store.cache import TapeCache

T = TypeVar("T")
_STEPS = 100


def _told(walk: Generator[float, None, T], note: str) -> Generator[Progress, None, T]:
    """Turn shares of 0..1 into progress."""
    try:
        while True:
            yield Progress(round(next(walk) * _STEPS), _STEPS, note)
    except StopIteration as stop:
        result: T = stop.value
        return result
    finally:
        walk.close()


def field_map(
    tape: AttentionTape,
    kind: str,
    block: str,
    head: str = "mean",
    spacing: tuple[float, float] = (1.0, 1.0),
    unit: str = "px",
) -> Generator[Progress, None, FieldMap]:
    """Compute a map of one block; see :func:`napari_attnseg.core.attention_maps.field_map`."""
    walk = maps.field_map(tape, kind, block, head, spacing, unit)
    return (yield from _told(walk, f"Map '{kind}' of {block}"))


def rollout(
    tape: AttentionTape,
    start: tuple[int, int] | npt.NDArray[np.bool_] | None = None,
    head: str = "mean",
    value: bool | None = None,
) -> Generator[Progress, None, FieldMap]:
    """Follow attention through all blocks; see :func:`napari_attnseg.core.attention_maps.rollout`."""
    return (yield from _told(maps.rollout(tape, start, head, value), "Following attention"))


def plane_map(
    engine: Engine,
    source: ImageSource,
    plane: PlaneKey,
    kind: str,
    block: str,
    head: str,
    encoded: Encoded | None,
    params: SegmentParams,
    cache: TapeCache | None = None,
    spacing: tuple[float, float] = (1.0, 1.0),
    unit: str = "px",
) -> Generator[Progress, None, FieldMap]:
    """Compute a map over all tiles of a field, each tile for itself, and put their cores together.

    Attention never crosses a tile; the map's note says so.  One tile is held at a time.

    Raises
    ------
    InputError
        As :func:`field_map`; or the image cannot be used.
    """
    yield Progress(0, 0, "Reading the image")
    field = field_of(source, encoded)
    readout = readout_of(encoded, plane, params) if encoded is not None else None
    if readout is not None and block == readout.name:
        whole = AttentionTape({block: readout}, encoded.zoom[plane] if encoded else 1.0, engine.card.id)
        return (yield from field_map(whole, kind, block, head, spacing, unit))
    opened = open_plane(source, plane, field, params.channel)
    zoom, norm = yield from settled(engine, opened, encoded, params)
    tiles = tiles_of(opened.shape, params, zoom)
    need = None if kind == "rollout" else block
    out: FieldMap | None = None
    for number, tile in enumerate(tiles):
        yield Progress(number, len(tiles), f"Tile {number + 1} of {len(tiles)}")
        tape = tape_of(engine, opened, tile, zoom, norm, cache, need)
        walk = field_map(tape, kind, block, head, spacing, unit)
        try:
            while True:
                next(walk)
                yield Progress(number, len(tiles), f"Tile {number + 1} of {len(tiles)}")
        except StopIteration as stop:
            found: FieldMap = stop.value
        if len(tiles) == 1:
            return found
        if out is None:
            out = _empty(found, field)
        _put(out, found, tile)
    assert out is not None
    return _finished(out, len(tiles))


def _empty(first: FieldMap, field: tuple[slice, slice]) -> FieldMap:
    """Return a map of the whole field in cells of the size of a tile's map."""
    y, x = field
    size = y.stop - y.start, x.stop - x.start
    shape = tuple(int(np.ceil(n / first.grid.cell - 1e-6)) for n in size)
    grid = TokenGrid(first.grid.stride, first.grid.zoom, (shape[0], shape[1]), (y.start, x.start), size)
    return replace(first, grid=grid, values=np.zeros(grid.shape, dtype=np.float32))


def _put(out: FieldMap, tile_map: FieldMap, tile: Tile) -> None:
    """Write the cells whose centres lie in the core of a tile."""
    index = []
    for axis in (0, 1):
        centre = (np.arange(out.grid.shape[axis]) + 0.5) * out.grid.cell  # pixels of the field
        centre = np.minimum(centre, out.grid.field[axis] - 0.5)
        inside = np.flatnonzero((centre >= tile.core[axis].start) & (centre < tile.core[axis].stop))
        start = tile_map.grid.origin[axis] - out.grid.origin[axis]
        theirs = ((centre[inside] - start) / tile_map.grid.cell).astype(np.intp)
        index.append((inside, theirs.clip(0, tile_map.grid.shape[axis] - 1)))
    (rows, their_rows), (cols, their_cols) = index
    out.values[np.ix_(rows, cols)] = tile_map.values[np.ix_(their_rows, their_cols)]


def _finished(out: FieldMap, tiles: int) -> FieldMap:
    low, high = out.limits
    if out.kind in ("received", "distance", "rollout"):
        low = float(out.values.min()) if out.kind == "received" else 0.0
        high = max(float(np.percentile(out.values, 99.5)), low + 1e-6)
    return replace(out, limits=(low, high), note=f"{out.note}; {tiles} tiles, each for itself")
