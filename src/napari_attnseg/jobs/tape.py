"""Recording what the attention blocks looked at, for the tile around a pixel."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from napari_attnseg.core.axes import check, clip_field
from napari_attnseg.core.grid import TokenGrid
from napari_attnseg.core.seedblock import SeedBlock, seed_block
from napari_attnseg.core.tiles import tile_at
from napari_attnseg.errors import InputError, ModelError
from napari_attnseg.jobs.encode import settle, tiles_of
from napari_attnseg.jobs.planes import open_plane
from napari_attnseg.records import Progress
from napari_attnseg.store.cache import tape_key

if TYPE_CHECKING:
    from collections.abc import Generator

    from napari_attnseg.core.attention import AttentionTape
    from napari_attnseg.engine import Engine
    from napari_attnseg.jobs.planes import Plane
    from napari_attnseg.params import ReadoutParams, SegmentParams
    from napari_attnseg.records import Encoded, ImageSource, Normalisation, PlaneKey, Tile
    from napari_attnseg.store.cache import TapeCache


def record_tape(
    engine: Engine,
    source: ImageSource,
    plane: PlaneKey,
    pixel: tuple[int, int] | None,
    encoded: Encoded | None,
    params: SegmentParams,
    cache: TapeCache | None = None,
    block: str | None = None,
) -> Generator[Progress, None, AttentionTape]:
    """Record queries and keys where the run segmented a pixel.

    Parameters
    ----------
    plane : PlaneKey
    pixel : tuple of int or None
        (y, x) in the plane; the middle of the field when None.
    encoded : Encoded or None
        What the run left behind: its field, zoom and scaling are taken, and its maps make the readout
        block.  None, or a plane that was not run, measures them as a run would.
    params : SegmentParams
        Those of the run: channel, diameter, tile size, threshold and split count.
    cache : TapeCache or None
        Where tapes are kept between calls.
    block : str or None
        The block that is needed; None needs all of them.

    Returns
    -------
    AttentionTape
        Of the whole field when it fits one tile, else of the tile whose core holds the pixel.

    Raises
    ------
    InputError
        The pixel lies outside the image or the field.
    """
    yield Progress(0, 1, "Reading the image")
    field = field_of(source, encoded)
    y, x = field
    if pixel is None:
        pixel = (y.start + y.stop) // 2, (x.start + x.stop) // 2
    if not (y.start <= pixel[0] < y.stop and x.start <= pixel[1] < x.stop):
        raise InputError(
            f"Pixel {tuple(int(p) for p in pixel)} lies outside the image.",
            f"Rows go from {y.start} to {y.stop - 1}, columns from {x.start} to {x.stop - 1}.",
        )
    opened = open_plane(source, plane, field, params.channel)
    zoom, norm = yield from settled(engine, opened, encoded, params)
    tile = tile_at(tiles_of(opened.shape, params, zoom), (pixel[0] - y.start, pixel[1] - x.start))
    yield Progress(0, 1, "Recording attention")
    tape = tape_of(engine, opened, tile, zoom, norm, cache, block)
    return with_readout(tape, encoded, plane, params)


def field_of(source: ImageSource, encoded: Encoded | None) -> tuple[slice, slice]:
    """Return the part of every plane that the run segmented; all of it without a run."""
    check(source)
    return clip_field(source, encoded.field if encoded is not None else None)


def settled(
    engine: Engine, opened: Plane, encoded: Encoded | None, params: SegmentParams
) -> Generator[Progress, None, tuple[float, Normalisation]]:
    """Return zoom and scaling of the run, or measure them as a run would."""
    if encoded is not None and opened.key in encoded.zoom:
        return encoded.zoom[opened.key], encoded.norms[opened.key]
    found = yield from settle(engine, opened, params, 0, 1)
    return found.zoom, opened.norm


def tape_of(
    engine: Engine,
    opened: Plane,
    tile: Tile,
    zoom: float,
    norm: Normalisation,
    cache: TapeCache | None = None,
    block: str | None = None,
) -> AttentionTape:
    """Return the tape of one tile, from the cache or from the network."""
    pixels = opened.read(tile.read)
    (y, x), (a, b) = opened.field, tile.read
    origin = y.start + a.start, x.start + b.start
    key = ""
    if cache is not None:
        key = tape_key(pixels, norm, zoom, origin, engine.card.sha256 or engine.card.id)
        kept = cache.get(key, block)
        if kept is not None:
            named = engine.card.id  # the model may have been renamed since
            return kept if kept.model == named else replace(kept, model=named)
    tape = engine.tape(pixels, zoom=zoom, norm=norm, origin=origin)
    if cache is not None:
        cache.put(key, tape)
    return tape


def readout_of(encoded: Encoded, plane: PlaneKey, params: ReadoutParams) -> SeedBlock | None:
    """Return the readout of a run as an attention block over the run's field; None without its maps.

    With the run's parameters it reproduces the labels exactly, unless they were read out by a watershed.
    """
    if plane not in encoded.maps:
        return None
    maps, (y, x) = encoded.maps[plane], encoded.field
    shape = maps.foreground.shape
    field = int(shape[0]), int(shape[1])
    return seed_block(maps, TokenGrid(1, 1.0, field, (y.start, x.start), field), params)


def with_readout(
    tape: AttentionTape, encoded: Encoded | None, plane: PlaneKey, params: ReadoutParams
) -> AttentionTape:
    """Return a tape whose readout block is that of the run; the tape itself when there is none to take."""
    block = readout_of(encoded, plane, params) if encoded is not None else None
    if block is None or "readout" not in tape.blocks:
        return tape
    return replace(tape, blocks={**tape.blocks, "readout": block})


def record_other(
    model: str,
    device: str,
    source: ImageSource,
    plane: PlaneKey,
    pixel: tuple[int, int] | None,
    encoded: Encoded | None,
    params: SegmentParams,
    cache: TapeCache | None = None,
) -> Generator[Progress, None, AttentionTape]:
    """Record the same place with another model, at the zoom and scaling of the run, for before and after.

    The readout block is that of the other model.

    Raises
    ------
    ModelError, InputError, EngineError
    """
    from napari_attnseg.engine import load_engine

    yield Progress(0, 1, f"Loading '{model}'")
    other = load_engine(model, device)
    try:
        ours = None if encoded is None else replace(encoded, maps={})
        return (yield from record_tape(other, source, plane, pixel, ours, params, cache))
    finally:
        other.close()


def default_block(tape: AttentionTape) -> str:
    """Return the name of the block that is shown first: the first global one, else the first."""
    if not tape.blocks:
        raise ModelError("This model has no attention block.", "Choose another model.")
    kinds = {name: block.kind for name, block in tape.blocks.items()}
    return next((name for name, kind in kinds.items() if kind == "global"), next(iter(kinds)))
