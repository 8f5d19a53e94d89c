"""How well a model does on corrections that it has not learnt from."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_attnseg.core.corrections import known_objects
from napari_attnseg.core.metrics import Counts, compare, scores
from napari_attnseg.core.mirror import read_maps
from napari_attnseg.core.postprocess import read_out
from napari_attnseg.core.size import settle_for
from napari_attnseg.params import ReadoutParams
from napari_attnseg.records import Normalisation

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from napari_attnseg.nn.engine import TorchEngine
    from napari_attnseg.records import DenseMaps, Sample

_PIXELS = 1_500_000  # in all: judging must not take longer than learning


def choose(held: Sequence[Sample]) -> list[Sample]:
    """Return as many of the held-out samples as can be judged quickly, at least one."""
    chosen: list[Sample] = []
    pixels = 0
    for sample in held:
        if chosen and pixels + sample.labels.size > _PIXELS:
            continue
        chosen.append(sample)
        pixels += sample.labels.size
    return chosen


def as_plane(image: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], Normalisation]:
    """Return a normalised field, (C, H, W) float32, as engines take it, and the scaling that keeps it."""
    channels = len(image)
    plane = image[0] if channels == 1 else np.moveaxis(image[:3], 0, -1) if channels >= 3 else image.mean(0)
    count = 3 if plane.ndim == 3 else 1
    return plane, Normalisation((0.0,) * count, (1.0,) * count)


def read_field(engine: TorchEngine, image: npt.NDArray[np.float32]) -> tuple[float, DenseMaps]:
    """Return zoom and maps of a normalised field, (C, H, W) float32, as a run of the window has them."""
    plane, norm = as_plane(image)
    return read_maps(engine.card, plane, lambda seen, zoom: engine.maps(seen, zoom=zoom, norm=norm))


def glance(engine: TorchEngine, image: npt.NDArray[np.float32]) -> DenseMaps:
    """Return the maps of a normalised field, (C, H, W) float32, without those of mirror images."""
    plane, norm = as_plane(image)
    return settle_for(engine.card, lambda zoom: engine.maps(plane, zoom=zoom, norm=norm))[1]


def predict(engine: TorchEngine, image: npt.NDArray[np.float32]) -> npt.NDArray[np.int32]:
    """Segment a normalised field, (C, H, W) float32; (H, W) int32.

    As a run of the window would but for the mirror images: judging must not take longer than learning.
    """
    return read_out(glance(engine, image), ReadoutParams())[0]


def count_objects(found: npt.NDArray[np.int32], sample: Sample) -> Counts:
    """Compare a prediction with the known objects of a sample; the rest of the field does not count.

    A predicted object counts where at least half of it is known, or where it is the best partner of a known
    object; foreground counts on known pixels only.
    """
    wanted = np.isin(sample.labels, known_objects(sample))
    truth = np.where(wanted, sample.labels, 0)
    size = np.bincount(found.ravel())
    known = np.bincount(found.ravel(), sample.known.ravel(), minlength=len(size))
    on_truth = np.bincount(found.ravel(), wanted.ravel(), minlength=len(size))
    counts_here = (known >= 0.5 * size) | (on_truth >= 0.25 * size)
    counts_here[0] = False
    inside = (found > 0) & sample.known
    counts = compare(np.where(counts_here[found], found, 0), truth)
    return replace(
        counts,
        pred_pixels=int(inside.sum()),
        truth_pixels=int(wanted.sum()),
        both_pixels=int((inside & wanted).sum()),
    )


def judge(engine: TorchEngine, held: Sequence[Sample]) -> Iterator[Counts]:
    """Yield the counts of one held-out sample after the other."""
    for sample in held:
        yield count_objects(predict(engine, sample.image), sample)


def summary(counts: Sequence[Counts]) -> dict[str, Any]:
    """Return pooled ``ap50``, ``mean_ap``, ``pq`` and ``dice``, and the number of objects."""
    total = counts[0]
    for one in counts[1:]:
        total = total + one
    found = scores(total)
    return {
        "ap50": round(found["ap"]["0.50"], 4),
        "mean_ap": round(found["mean_ap"], 4),
        "pq": round(found["pq"], 4),
        "dice": round(found["dice"], 4),
        "objects": total.truth,
    }


def rank(result: dict[str, Any]) -> float:
    """Return the number by which checkpoints are compared: AP@.5 and PQ, which is less coarse.

    For classes it is their mean Dice; one that the model does not know counts 0.
    """
    if "per_class" in result:
        each = result["per_class"].values()
        return sum(dice or 0.0 for dice in each) / max(len(each), 1)
    return 0.5 * (float(result["ap50"]) + float(result["pq"]))


def doubt(result: dict[str, Any]) -> float:
    """Return by how much two ranks may differ and say nothing; 0 for classes.

    One object: with few held out, a step that happens to do better by that would be kept long before the
    model has learnt what it can.
    """
    return 1.0 / max(int(result["objects"]), 1) if "objects" in result else 0.0
