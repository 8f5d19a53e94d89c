"""Segmenting planes of an image: encode once (slow), read out as often as wanted (fast)."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from napari_attnseg import __version__
from napari_attnseg.core.axes import check, clip_field, plane_keys
from napari_attnseg.core.classes import class_features, class_map, majority
from napari_attnseg.core.labels import clean_classes
from napari_attnseg.core.postprocess import read_out
from napari_attnseg.core.size import estimate_diameter
from napari_attnseg.errors import ModelError
from napari_attnseg.jobs.bigimage import segment_big
from napari_attnseg.jobs.classic import segment_classic
from napari_attnseg.jobs.collect import Collector
from napari_attnseg.jobs.encode import encode, said_of_doubt
from napari_attnseg.jobs.planes import BLOCK
from napari_attnseg.records import DenseMaps, Encoded, Segmentation

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    import numpy.typing as npt

    from napari_attnseg.engine import Engine
    from napari_attnseg.params import SegmentParams
    from napari_attnseg.records import ImageSource, PlaneKey, Progress

__all__ = ["KEPT_PIXELS", "assemble", "encode", "needs_engine", "segment"]

KEPT_PIXELS = BLOCK * BLOCK  # above this many, over all planes, the maps are not kept


def needs_engine(params: SegmentParams) -> bool:
    """Tell whether a run needs the network: the attention method, or K-means on its features."""
    return params.method == "attention" or (params.method == "kmeans" and params.kmeans_on == "features")


def fits(source: ImageSource, planes: int, field: tuple[slice, slice] | None = None) -> bool:
    """Tell whether the maps of so many planes are kept by a run."""
    y, x = clip_field(source, field)
    return bool(planes * (y.stop - y.start) * (x.stop - x.start) <= KEPT_PIXELS)


def plane_labels(
    maps: DenseMaps, params: SegmentParams, default: str
) -> tuple[npt.NDArray[np.int32], Mapping[str, npt.NDArray[np.generic]]]:
    """Return labels (H, W) and per-object features of one plane; task "classes" has no features.

    Objects of a model with classes have the number of theirs in the feature ``class``.
    """
    if params.task == "classes":
        found = class_map(maps, params.threshold)
        return clean_classes(found, params.min_size, params.drop_edge, params.fill_holes), {}
    labels, features = read_out(maps, params, default)
    if maps.classes is None:
        return labels, features
    return labels, {**features, "class": majority(labels, maps.classes)}


def assemble(
    encoded: Encoded, source: ImageSource, params: SegmentParams, seconds: float = 0.0
) -> Segmentation:
    """Read objects out of what a run left behind.  Pure and fast: no network.

    Parameters
    ----------
    encoded : Encoded
        From :func:`encode`, for this source.
    seconds : float
        Time the encoding took; noted in the result.

    Returns
    -------
    Segmentation
        Labels of the shape of all planes, zero outside the field and the planes that were run; ids are
        unique across planes.
    """
    start = time.perf_counter()
    out = Collector(source, encoded.field)
    diameters = []
    for key, maps in encoded.maps.items():
        out.add(key, *plane_labels(maps, params, encoded.readout), unique=params.task == "instances")
        diameters.append(params.diameter or estimate_diameter(maps) or 0.0)
    return Segmentation(
        labels=out.labels,
        features=class_features(out.features(), encoded.classes, params.task, out.labels),
        params=params.model_dump(),
        card_id=encoded.card_id,
        version=__version__,
        seconds=seconds + time.perf_counter() - start,
        diameter=float(np.median(diameters)) if diameters else 0.0,
        notes=said_of_doubt(len(encoded.doubted), len(encoded.maps)),
    )


def segment(
    engine: Engine | None,
    source: ImageSource,
    params: SegmentParams,
    *,
    planes: Sequence[PlaneKey] | None = None,
    field: tuple[slice, slice] | None = None,
) -> Generator[Progress, None, tuple[Segmentation, Encoded | None]]:
    """Segment planes of an image by any method.

    Parameters
    ----------
    engine : Engine or None
        May be None where :func:`needs_engine` says no.
    planes : sequence of PlaneKey, optional
        All planes when None.
    field : tuple of slice, optional
        (Y, X) part of every plane; all of it when None.

    Returns
    -------
    Segmentation, Encoded or None
        ``Encoded`` allows another readout without the network; None for a classic method, and where more
        than 4096 x 4096 pixels in all were run (a note says so).
    """
    check(source)
    if engine is None and needs_engine(params):
        raise ModelError("This method needs a model.", "Load one, or take the method 'slic'.")
    start = time.perf_counter()
    field = clip_field(source, field)
    keys = list(plane_keys(source) if planes is None else planes)
    if engine is None or params.method != "attention":
        result = yield from segment_classic(engine, source, params, keys, field)
    else:
        if fits(source, len(keys), field):
            encoded = yield from encode(engine, source, params, planes=keys, field=field)
            result = assemble(encoded, source, params, time.perf_counter() - start)
            return replace(result, notes=(*result.notes, *_said_by(engine))), encoded
        result = yield from segment_big(engine, source, params, keys, field, plane_labels)
    notes = (*result.notes, *_said_by(engine))
    return replace(result, seconds=time.perf_counter() - start, notes=notes), None


def _said_by(engine: Engine | None) -> tuple[str, ...]:
    """Return what an engine gave up for lack of memory, one sentence each; engines may have no ``notes``."""
    return tuple(getattr(engine, "notes", ()))
