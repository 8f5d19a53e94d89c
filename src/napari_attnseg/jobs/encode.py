"""The slow part of a run: the network over the planes, tile by tile."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from napari_attnseg.core.axes import check, clip_field, plane_keys
from napari_attnseg.core.classes import class_names
from napari_attnseg.core.mirror import VIEWS, Mean, looks_at, mirrored, steady_zoom
from napari_attnseg.core.size import ZOOM_LIMITS, unsure, zoom_search
from napari_attnseg.core.tiles import ALIGN, HALO, TILE, plan_tiles
from napari_attnseg.jobs.planes import BLOCK, Plane, centre, open_plane
from napari_attnseg.records import DenseMaps, Encoded, Progress

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    import numpy.typing as npt

    from napari_attnseg.engine import Engine
    from napari_attnseg.params import SegmentParams
    from napari_attnseg.records import ImageSource, PlaneKey, Tile

    Window = tuple[slice, slice]

_SAMPLE = 1024  # side of the centre of a plane of several tiles, which its object size is read from


def tile_side(params: SegmentParams, zoom: float) -> int:
    """Return the side of a tile in image pixels: what the user set, else 2048 pixels of the resized image.

    Never more than 4096 pixels of the image, which its maps are in.
    """
    return params.tile if params.tile is not None else max(128, min(round(TILE / zoom), BLOCK))


def token_step(zoom: float) -> float:
    """Return the distance of possible tile starts, image pixels: a coarsest token of the resized image.

    Two or three tokens where only that is a whole number of pixels: then tiles see the tokens of the whole.
    """
    token = ALIGN / zoom
    whole = (round(m * token) for m in (1, 2, 3) if abs(m * token - round(m * token)) < 1e-6)
    return float(next(whole, token))


def tiles_of(shape: tuple[int, int], params: SegmentParams, zoom: float) -> list[Tile]:
    """Plan the tiles of a field; context is 96 pixels of the resized image, cut on its token grid."""
    return plan_tiles(shape, tile_side(params, zoom), round(HALO / zoom), token_step(zoom))


def find_zoom(
    engine: Engine, plane: Plane, params: SegmentParams, done: int = 0, total: int = 0
) -> Generator[Progress, None, tuple[float, DenseMaps | None]]:
    """Return the zoom for a plane by the object size, and its maps when the search ran over all of it.

    A diameter that the user named is taken as it is; else the network reads the object size from the
    plane, or from its centre when it is larger than a tile.
    """
    if params.diameter is not None:
        return _named(engine, params.diameter), None
    zoom, maps, _ = yield from _by_size(engine, plane, params, done, total)
    return zoom, maps if _in_one(plane, params, zoom) else None


def _named(engine: Engine, diameter: float) -> float:
    """Return the zoom for a diameter that the user named."""
    return float(np.clip(engine.card.diameter / diameter, *ZOOM_LIMITS))


def _by_size(
    engine: Engine, plane: Plane, params: SegmentParams, done: int, total: int
) -> Generator[Progress, None, tuple[float, DenseMaps, Window]]:
    """Return the zoom by the object size, and the maps there of the window that was looked at."""
    search = zoom_search(engine.card.diameter, usual=engine.card.usual_diameter)
    zoom = next(search)
    looked: dict[float, Window] = {}
    while True:
        yield Progress(done, total, f"Reading the object size at zoom {zoom:.2g}")
        small = _in_one(plane, params, zoom)
        looked[zoom] = centre(plane, max(plane.shape)) if small else _middle(plane, zoom)
        maps = engine.maps(plane.read(looked[zoom]), zoom=zoom, norm=plane.norm)
        try:
            zoom = search.send(maps)
        except StopIteration as stop:
            zoom, maps = stop.value
            return zoom, maps, looked[zoom]


@dataclass(frozen=True, slots=True)
class Settled:
    """What the search for the zoom of a plane found.

    Attributes
    ----------
    maps : DenseMaps or None
        Of the whole plane at that zoom, where the search saw all of it.
    final : bool
        They are those of the run: the network is sure of them, or they are the mean over mirror images.
    passes : int
        How many times the plane went through the network for them.
    """

    zoom: float
    maps: DenseMaps | None = None
    final: bool = False
    passes: int = 1


def settle(
    engine: Engine, plane: Plane, params: SegmentParams, done: int = 0, total: int = 0
) -> Generator[Progress, None, Settled]:
    """Find the zoom for a plane; where the network is unsure, near the one by the object size.

    See :func:`napari_attnseg.core.mirror.steady_zoom`.  Of planes of more than 1024 pixels a side, as they
    are resized, the centre is looked at.
    """
    if params.diameter is not None:
        return Settled(_named(engine, params.diameter))
    zoom, maps, window = yield from _by_size(engine, plane, params, done, total)
    whole = maps if _in_one(plane, params, zoom) else None
    if params.mirror == "never" or not unsure(maps, engine.card):
        return Settled(zoom, whole, final=whole is not None and params.mirror != "always")
    if whole is not None:
        window = _middle(plane, zoom)
        maps = _part(whole, window)
    pixels = plane.read(window)
    search = steady_zoom(engine.card, zoom, maps)
    look = next(search)
    while True:
        yield Progress(done, total, f"Looking at mirror images at zoom {look.zoom:.2g}")
        try:
            look = search.send(engine.maps(mirrored(pixels, look.axes), zoom=look.zoom, norm=plane.norm))
        except StopIteration as stop:
            steady, mean = stop.value
            if mean.foreground.shape == plane.shape and _in_one(plane, params, steady):
                return Settled(steady, mean, final=True, passes=1 + VIEWS)
            return Settled(steady, whole if steady == zoom else None)


def _in_one(plane: Plane, params: SegmentParams, zoom: float) -> bool:
    """Tell whether a plane is no larger than one tile at a zoom: its maps are then those of the run."""
    return max(plane.shape) <= tile_side(params, zoom)


def _middle(plane: Plane, zoom: float) -> Window:
    """Return the centre of a plane that its zoom is read from, 1024 pixels a side as it is resized.

    Whatever tile the user set: in a smaller part there may be too few objects to tell their size.
    """
    return centre(plane, min(BLOCK, max(128, round(_SAMPLE / zoom))))


def _part(maps: DenseMaps, window: Window) -> DenseMaps:
    at = (..., *window)
    classes = None if maps.classes is None else maps.classes[at]
    return DenseMaps(maps.foreground[at], maps.distance[at], maps.size[at], maps.offset[at], classes)


def encode_part(
    engine: Engine,
    plane: Plane,
    part: tuple[slice, slice],
    zoom: float,
    params: SegmentParams,
    done: int = 0,
    total: int = 0,
) -> Generator[Progress, None, DenseMaps]:
    """Return the maps of a part of a field, assembled from its tiles; one ``Progress`` before each."""
    y, x = part
    shape = y.stop - y.start, x.stop - x.start
    tiles = tiles_of(shape, params, zoom)
    out: DenseMaps | None = None
    for number, tile in enumerate(tiles):
        yield Progress(done + number, max(total, done + len(tiles)), f"Tile {number + 1} of {len(tiles)}")
        a, b = tile.read
        window = slice(y.start + a.start, y.start + a.stop), slice(x.start + b.start, x.start + b.stop)
        maps = engine.maps(plane.read(window), zoom=zoom, norm=plane.norm)
        if len(tiles) == 1:
            return maps
        if out is None:
            out = _empty(shape, 0 if maps.classes is None else len(maps.classes))
        _put(out, maps, tile)
    assert out is not None
    return out


def encode_field(
    engine: Engine,
    plane: Plane,
    part: tuple[slice, slice],
    zoom: float,
    params: SegmentParams,
    done: int = 0,
    total: int = 0,
    maps: DenseMaps | None = None,
) -> Generator[Progress, None, tuple[DenseMaps, int]]:
    """Return the maps of a part of a field, the mean of those of its mirror images where that is wanted.

    Parameters
    ----------
    maps : DenseMaps or None
        Of the part itself at that zoom, where they are known.

    Returns
    -------
    tuple of DenseMaps and int
        The maps, and how many times the part went through the network for them.
    """
    if maps is None:
        maps = yield from encode_part(engine, plane, part, zoom, params, done, total)
    if params.mirror == "never" or (params.mirror == "auto" and not unsure(maps, engine.card)):
        return maps, 1
    pixels = plane.read(part)
    mean = Mean()
    step = len(tiles_of((pixels.shape[0], pixels.shape[1]), params, zoom))
    for number, look in enumerate(looks_at(zoom), 1):
        other = shown(plane, mirrored(pixels, look.axes))
        whole = slice(0, other.shape[0]), slice(0, other.shape[1])
        job = encode_part(engine, other, whole, look.zoom, params, done + number * step, total)
        note = f"Mirror image {number} of {VIEWS}"
        mean.add((yield from noted(job, note, most=done + (number + 1) * step)), look.axes)
    return mean.maps(), 1 + VIEWS


def encode_plane(
    engine: Engine, plane: Plane, settled: Settled, params: SegmentParams, done: int = 0, total: int = 0
) -> Generator[Progress, None, tuple[DenseMaps, int]]:
    """Return what :func:`encode_field` does, for a whole plane and with what is known of it."""
    if settled.final and settled.maps is not None:
        return settled.maps, settled.passes
    part = slice(0, plane.shape[0]), slice(0, plane.shape[1])
    job = encode_field(engine, plane, part, settled.zoom, params, done, total, settled.maps)
    return (yield from job)


def shown(plane: Plane, image: npt.NDArray[np.generic]) -> Plane:
    """Return the plane as if its field were ``image``, with the scaling that it has."""
    return replace(plane, field=(slice(0, image.shape[0]), slice(0, image.shape[1])), kept=image)


def noted(
    job: Generator[Progress, None, DenseMaps],
    note: str,
    at: tuple[int, int] | None = None,
    most: int | None = None,
) -> Generator[Progress, None, DenseMaps]:
    """Pass a job's progress on with another note, and with ``at`` as if it stood still at (done, total).

    No more is said to be done than ``most``.
    """
    try:
        while True:
            step = next(job)
            done, total = at or (step.done, step.total)
            yield Progress(done if most is None else min(done, most), total, note)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    finally:
        job.close()


def _empty(shape: tuple[int, int], classes: int) -> DenseMaps:
    return DenseMaps(
        foreground=np.zeros(shape, dtype=np.float32),
        distance=np.zeros(shape, dtype=np.float32),
        size=np.zeros(shape, dtype=np.float32),
        offset=np.zeros((2, *shape), dtype=np.float32),
        classes=np.zeros((classes, *shape), dtype=np.float32) if classes else None,
    )


def _put(out: DenseMaps, maps: DenseMaps, tile: Tile) -> None:
    for name in ("foreground", "distance", "size", "offset", "classes"):
        whole, piece = getattr(out, name), getattr(maps, name)
        if whole is not None:
            whole[(..., *tile.core)] = piece[(..., *tile.crop)]


def default_readout(engine: Engine) -> str:
    """Return the readout that a model was made for."""
    return str(engine.card.training.get("readout", "seeds"))


def encode(
    engine: Engine,
    source: ImageSource,
    params: SegmentParams,
    *,
    planes: Sequence[PlaneKey] | None = None,
    field: tuple[slice, slice] | None = None,
) -> Generator[Progress, None, Encoded]:
    """Run the network over planes of an image.

    Parameters
    ----------
    planes : sequence of PlaneKey, optional
        All planes when None.
    field : tuple of slice, optional
        (Y, X) part of every plane; all of it when None.

    Yields
    ------
    Progress
        One per tile, of mirror images, too, and one per pass that reads the object size.

    Returns
    -------
    Encoded
        Maps of the size of ``field``, 20 bytes per pixel.

    Raises
    ------
    InputError
        The image, a plane, the channel or the field cannot be used.
    EngineError
        The network could not run.
    """
    check(source)
    field = clip_field(source, field)
    keys = list(plane_keys(source) if planes is None else planes)
    shape = field[0].stop - field[0].start, field[1].stop - field[1].start
    card = engine.card
    found = Encoded({}, {}, {}, field, card.id, default_readout(engine), class_names(card))
    maps, norms, zooms = dict(found.maps), dict(found.norms), dict(found.zoom)
    doubted: set[PlaneKey] = set()
    done = 0
    per_plane = len(tiles_of(shape, params, 1.0))
    for number, key in enumerate(keys):
        yield Progress(done, done + per_plane * (len(keys) - number), "Reading the image")
        plane = open_plane(source, key, field, params.channel)
        total = done + per_plane * (len(keys) - number)
        settled = yield from settle(engine, plane, params, done, total)
        per_plane = len(tiles_of(shape, params, settled.zoom))
        total = done + per_plane * (len(keys) - number)
        maps[key], passes = yield from encode_plane(engine, plane, settled, params, done, total)
        norms[key], zooms[key] = plane.norm, settled.zoom
        per_plane *= passes
        if params.mirror == "auto" and passes > 1:
            doubted.add(key)
        done += per_plane
        yield Progress(
            done, done + per_plane * (len(keys) - number - 1), f"Plane {number + 1} of {len(keys)}"
        )
    return replace(found, maps=maps, norms=norms, zoom=zooms, doubted=frozenset(doubted))


def said_of_doubt(doubted: int, planes: int) -> tuple[str, ...]:
    """Return a sentence where the network was unsure of some planes, and looked at mirror images."""
    if not doubted:
        return ()
    where = "this image" if planes == 1 else f"{doubted} of {planes} planes"
    return (f"The model is unsure of {where}: it looked at mirror images, too.",)
