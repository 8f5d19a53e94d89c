"""Planes too large, or too many, for their maps to be held: block by block, labels stitched."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_attnseg import __version__
from napari_attnseg.core.classes import class_features, class_names
from napari_attnseg.core.labels import clean_classes, edge_ids
from napari_attnseg.core.mirror import VIEWS
from napari_attnseg.core.size import estimate_diameter
from napari_attnseg.core.stitch import Stitcher
from napari_attnseg.core.tiles import HALO, plan_tiles
from napari_attnseg.jobs import planes as reading
from napari_attnseg.jobs.collect import Collector
from napari_attnseg.jobs.encode import (
    default_readout,
    encode_field,
    encode_plane,
    said_of_doubt,
    settle,
    tiles_of,
    token_step,
)
from napari_attnseg.records import Progress, Segmentation

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    import numpy.typing as npt

    from napari_attnseg.engine import Engine
    from napari_attnseg.jobs.planes import Plane
    from napari_attnseg.params import SegmentParams
    from napari_attnseg.records import DenseMaps, ImageSource, PlaneKey

    Labelled = tuple[npt.NDArray[np.int32], Mapping[str, npt.NDArray[np.generic]]]
    ReadOut = Callable[[DenseMaps, SegmentParams, str], Labelled]

_NOT_KEPT = "Too large to keep the network's output: run again to change the readout."


def segment_big(
    engine: Engine,
    source: ImageSource,
    params: SegmentParams,
    keys: Sequence[PlaneKey],
    field: tuple[slice, slice],
    read_out: ReadOut,
) -> Generator[Progress, None, Segmentation]:
    """Segment planes one after the other, keeping no maps; memory is one block and the labels.

    Parameters
    ----------
    read_out : callable
        ``read_out(maps, params, default)`` returns labels and features of one block.
    """
    out = Collector(source, field)
    diameters: list[float] = []
    doubted = 0
    for number, key in enumerate(keys):
        yield Progress(number, len(keys), f"Reading plane {number + 1} of {len(keys)}")
        plane = reading.open_plane(source, key, field, params.channel)
        labelled, diameter, unsure = yield from _plane(engine, plane, params, read_out)
        out.add(key, *labelled, unique=params.task == "instances")
        diameters.append(diameter)
        doubted += unsure
    return Segmentation(
        labels=out.labels,
        features=class_features(out.features(), class_names(engine.card), params.task, out.labels),
        params=params.model_dump(),
        card_id=engine.card.id,
        version=__version__,
        seconds=0.0,
        diameter=float(np.median(diameters)) if diameters else 0.0,
        notes=(*said_of_doubt(doubted, len(keys)), _NOT_KEPT),
    )


def _plane(
    engine: Engine, plane: Plane, params: SegmentParams, read_out: ReadOut
) -> Generator[Progress, None, tuple[Labelled, float, bool]]:
    """Return what was found in a plane, the diameter, and whether mirror images were looked at in doubt."""
    auto = params.mirror == "auto"
    default = default_readout(engine)
    settled = yield from settle(engine, plane, params)
    zoom = settled.zoom
    if not plane.big:
        maps, passes = yield from encode_plane(engine, plane, settled, params)
        diameter = params.diameter or estimate_diameter(maps) or 0.0
        return read_out(maps, params, default), diameter, auto and passes > 1
    overlap = max(HALO, round(4 * engine.card.diameter / zoom))  # room for a whole object beside a seam
    blocks = plan_tiles(plane.shape, reading.BLOCK, overlap, token_step(zoom))
    inner = params.model_copy(update={"drop_edge": False})  # a block's edge is not the image's
    stitcher = Stitcher(plane.shape)
    kept: list[tuple[int, Mapping[str, npt.NDArray[np.generic]]]] = []
    classes = np.zeros(plane.shape if params.task == "classes" else (0, 0), dtype=np.int32)
    sizes = [_count(block.read, params, zoom) for block in blocks]
    diameters, unsure = [], False
    for number, block in enumerate(blocks):
        maps, passes = yield from encode_field(
            engine, plane, block.read, zoom, params, sum(sizes[:number]), sum(sizes)
        )
        unsure |= auto and passes > 1
        labels, features = read_out(maps, inner, default)
        diameters.append(params.diameter or estimate_diameter(maps) or 0.0)
        del maps
        if params.task == "classes":
            classes[block.core] = labels[block.crop]
        else:
            kept.append((stitcher.add(block, labels), features))
    diameter = float(np.median([d for d in diameters if d] or [0.0]))
    if params.task == "classes":
        if params.drop_edge:
            classes = clean_classes(classes, min_size=0, drop_edge=True, fill_holes=False)
        return (classes, {}), diameter, unsure
    joined, new_id = stitcher.finish()
    return _finished(joined, new_id, kept, params), diameter, unsure


def _count(part: tuple[slice, slice], params: SegmentParams, zoom: float) -> int:
    """Return how many tiles a part has, its mirror images included where they may be wanted."""
    tiles = tiles_of((part[0].stop - part[0].start, part[1].stop - part[1].start), params, zoom)
    return len(tiles) * (1 if params.mirror == "never" else 1 + VIEWS)


def _finished(
    labels: npt.NDArray[np.int32],
    new_id: npt.NDArray[np.int64],
    kept: Sequence[tuple[int, Mapping[str, npt.NDArray[np.generic]]]],
    params: SegmentParams,
) -> Labelled:
    """Drop objects at the edge or too small, rename to 1..n, give each the mean confidence of its pieces.

    The class is that of the largest piece.
    """
    count = int(labels.max(initial=0))
    strips = [labels[y : y + 1024] for y in range(0, labels.shape[0], 1024)]  # no second plane
    area = np.zeros(count + 1, dtype=np.int64)
    for strip in strips:
        area += np.bincount(strip.ravel(), minlength=count + 1)
    wanted = area >= max(params.min_size, 1)
    wanted[0] = False
    if params.drop_edge:
        wanted[edge_ids(labels)] = False
    stay = np.flatnonzero(wanted)
    names = np.zeros(count + 1, dtype=np.int32)
    names[stay] = np.arange(1, len(stay) + 1)
    for strip in strips:
        strip[:] = names[strip]
    weight, total = np.zeros(count + 1), np.zeros(count + 1)
    largest, kind = np.zeros(count + 1), np.zeros(count + 1, dtype=np.int32)
    for offset, features in kept:
        index = new_id[np.asarray(features["index"], dtype=np.int64) + offset]
        size = np.asarray(features["size"], dtype=np.float64)
        np.add.at(weight, index, size)
        np.add.at(total, index, size * np.asarray(features["confidence"], dtype=np.float64))
        if "class" in features:
            order = np.argsort(size)  # of two pieces of one object the larger is written last
            order = order[size[order] > largest[index[order]]]
            largest[index[order]] = size[order]
            kind[index[order]] = np.asarray(features["class"])[order]
    confidence = (total / np.maximum(weight, 1.0))[stay].astype(np.float32)
    found: dict[str, npt.NDArray[np.generic]] = {
        "index": np.arange(1, len(stay) + 1, dtype=np.int32),
        "confidence": confidence,
        "size": area[stay],
    }
    told = any("class" in features for _, features in kept)
    return labels, {**found, "class": kind[stay]} if told else found
