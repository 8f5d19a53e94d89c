"""The classic methods as jobs: K-means on colours, positions or network features, and SLIC."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_attnseg import __version__
from napari_attnseg.core import classic, normalize
from napari_attnseg.core.labels import clean_regions
from napari_attnseg.jobs.collect import Collector
from napari_attnseg.jobs.encode import find_zoom, tiles_of
from napari_attnseg.jobs.planes import Plane, open_plane
from napari_attnseg.records import Progress, Segmentation

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    import numpy.typing as npt

    from napari_attnseg.engine import Engine
    from napari_attnseg.params import SegmentParams
    from napari_attnseg.records import ImageSource, PlaneKey, Tile


def segment_classic(
    engine: Engine | None,
    source: ImageSource,
    params: SegmentParams,
    keys: Sequence[PlaneKey],
    field: tuple[slice, slice],
) -> Generator[Progress, None, Segmentation]:
    """Segment planes without the network's heads.

    K-means: task "classes" gives the clusters, with the one that covers most of the border as 0;
    "instances" gives their connected regions.  SLIC: "instances" gives the superpixels; "classes" clusters
    their mean colours.
    """
    out = Collector(source, field)
    for number, key in enumerate(keys):
        yield Progress(number, len(keys), f"{params.method}: plane {number + 1} of {len(keys)}")
        plane = open_plane(source, key, field, params.channel)
        values = _colours(plane)
        if params.method == "slic":
            labels = _slic(values, params)
        else:
            if params.kmeans_on == "features" and engine is not None:
                index = yield from _feature_clusters(engine, plane, params)
            else:
                data = classic.with_position(values) if params.kmeans_on == "colour+position" else values
                centres = classic.fit_clusters(data.reshape(-1, data.shape[-1]), params.clusters)
                index = classic.assign(data, centres)
            labels = _objects(classic.as_classes(index, values.mean(axis=-1)), params)
        out.add(key, labels, {}, unique=params.task == "instances")
    yield Progress(len(keys), len(keys), "Done")
    return Segmentation(
        labels=out.labels,
        features={},
        params=params.model_dump(),
        card_id=engine.card.id if engine is not None and params.kmeans_on == "features" else "",
        version=__version__,
        seconds=0.0,
    )


def _colours(plane: Plane) -> npt.NDArray[np.float32]:
    scaled = normalize.apply(plane.read(), plane.norm)
    return scaled[..., None] if scaled.ndim == 2 else scaled


def _objects(classes: npt.NDArray[np.int32], params: SegmentParams) -> npt.NDArray[np.int32]:
    if params.task == "classes":
        return classes
    return clean_regions(
        classic.regions(classes),
        min_size=params.min_size,
        drop_edge=params.drop_edge,
        fill_holes=params.fill_holes,
    )


def _slic(values: npt.NDArray[np.float32], params: SegmentParams) -> npt.NDArray[np.int32]:
    labels = classic.superpixels(values, params.segments, params.compactness, values.shape[-1] == 3)
    if params.task == "instances":
        return labels
    means = classic.mean_by_label(labels, values)
    centres = classic.fit_clusters(means, params.clusters)
    index = classic.assign(means[None], centres)[0]
    return classic.as_classes(index[labels - 1], values.mean(axis=-1))


def _feature_clusters(
    engine: Engine, plane: Plane, params: SegmentParams
) -> Generator[Progress, None, npt.NDArray[np.int32]]:
    """Cluster the network's pixel features: one pass over the tiles to fit, one to assign."""
    zoom, _ = yield from find_zoom(engine, plane, params)
    tiles = tiles_of(plane.shape, params, zoom)
    share = max(1, classic.MAX_SAMPLES // len(tiles))
    rng = np.random.default_rng(0)
    samples, features = [], None
    for number, tile in enumerate(tiles):
        yield Progress(number, 2 * len(tiles), "Features")
        features = _features(engine, plane, tile, zoom)
        flat = features.reshape(-1, features.shape[-1])
        samples.append(flat[rng.choice(len(flat), min(share, len(flat)), replace=False)])
    centres = classic.fit_clusters(np.concatenate(samples), params.clusters)
    out = np.zeros(plane.shape, dtype=np.int32)
    for number, tile in enumerate(tiles):
        yield Progress(len(tiles) + number, 2 * len(tiles), "Clusters")
        if len(tiles) > 1 or features is None:  # one tile: its features are still here
            features = _features(engine, plane, tile, zoom)
        out[tile.core] = classic.assign(features, centres)
    return out


def _features(engine: Engine, plane: Plane, tile: Tile, zoom: float) -> npt.NDArray[np.float32]:
    """Return the features of a tile's core, (h, w, C)."""
    found = engine.features(plane.read(tile.read), zoom=zoom, norm=plane.norm)
    return np.ascontiguousarray(np.moveaxis(found[(slice(None), *tile.crop)], 0, -1))
