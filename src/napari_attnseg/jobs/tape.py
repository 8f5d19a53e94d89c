"""Recording what the attention blocks looked at, for the tile around a pixel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_attnseg.core.axes import check, clip_field
from napari_attnseg.core.tiles import tile_at
from napari_attnseg.errors import InputError, ModelError
from napari_attnseg.jobs.encode import find_zoom, tiles_of
from napari_attnseg.jobs.planes import open_plane
from napari_attnseg.records import Progress

if TYPE_CHECKING:
    from collections.abc import Generator

    from napari_attnseg.core.attention import AttentionTape
    from napari_attnseg.engine import Engine
    from napari_attnseg.params import SegmentParams
    from napari_attnseg.records import Encoded, ImageSource, PlaneKey


def record_tape(
    engine: Engine,
    source: ImageSource,
    plane: PlaneKey,
    pixel: tuple[int, int] | None,
    encoded: Encoded | None,
    params: SegmentParams,
) -> Generator[Progress, None, AttentionTape]:
    """Record queries and keys where the run segmented a pixel.

    Parameters
    ----------
    plane : PlaneKey
    pixel : tuple of int or None
        (y, x) in the plane; the middle of the field when None.
    encoded : Encoded or None
        What the run left behind: its field, zoom and scaling are taken.  None, or a plane that was not
        run, measures them as a run would.
    params : SegmentParams
        Those of the run: channel, diameter and tile size count.

    Returns
    -------
    AttentionTape
        Of the whole field when it fits one tile, else of the tile whose core holds the pixel.

    Raises
    ------
    InputError
        The pixel lies outside the image or the field.
    """
    check(source)
    field = clip_field(source, encoded.field if encoded is not None else None)
    y, x = field
    if pixel is None:
        pixel = (y.start + y.stop) // 2, (x.start + x.stop) // 2
    if not (y.start <= pixel[0] < y.stop and x.start <= pixel[1] < x.stop):
        raise InputError(
            f"Pixel {tuple(int(p) for p in pixel)} lies outside the image.",
            f"Rows go from {y.start} to {y.stop - 1}, columns from {x.start} to {x.stop - 1}.",
        )
    yield Progress(0, 1, "Reading the image")
    opened = open_plane(source, plane, field, params.channel)
    if encoded is not None and plane in encoded.zoom:
        zoom, norm = encoded.zoom[plane], encoded.norms[plane]
    else:
        zoom, _ = yield from find_zoom(engine, opened, params, 0, 1)
        norm = opened.norm
    tile = tile_at(tiles_of(opened.shape, params, zoom), (pixel[0] - y.start, pixel[1] - x.start))
    a, b = tile.read
    yield Progress(0, 1, "Recording attention")
    return engine.tape(
        opened.read(tile.read), zoom=zoom, norm=norm, origin=(y.start + a.start, x.start + b.start)
    )


def default_block(tape: AttentionTape) -> str:
    """Return the name of the block that is shown first: the first global one, else the first."""
    if not tape.blocks:
        raise ModelError("This model has no attention block.", "Choose another model.")
    kinds = {name: block.kind for name, block in tape.blocks.items()}
    return next((name for name, kind in kinds.items() if kind == "global"), next(iter(kinds)))
