"""What the network learns about every object: its size, its seed and how deep a pixel lies in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class ObjectTable:
    """Per-object and per-pixel truth of a label image.

    Attributes
    ----------
    depth : ndarray, (H, W) float32
        Distance to the object's border over the largest such distance in it, 0..1.
    diameter : ndarray, (n + 1,) float32
        Equivalent diameter ``2 sqrt(area / pi)`` by label id, pixels; 0 for absent ids.
    seed : ndarray, (n + 1, 2) float32
        (y, x) of the seed by label id: the centroid where it lies well inside, else the inner pixel
        that is deepest and nearest to it.
    """

    depth: npt.NDArray[np.float32]
    diameter: npt.NDArray[np.float32]
    seed: npt.NDArray[np.float32]


def measure(labels: npt.NDArray[np.int32]) -> ObjectTable:
    """Measure every object of ``labels``, (H, W) int, 0 = background."""
    from scipy.ndimage import distance_transform_edt, find_objects

    count = int(labels.max(initial=0))
    depth = np.zeros(labels.shape, dtype=np.float32)
    diameter = np.zeros(count + 1, dtype=np.float32)
    seed = np.zeros((count + 1, 2), dtype=np.float32)
    for index, box in enumerate(find_objects(labels), start=1):
        if box is None:
            continue
        inside = labels[box] == index
        # the image border does not end an object: pad with "inside" there
        padding = [
            (1, 1 if s.stop < n else 0) if s.start > 0 else (0, 1 if s.stop < n else 0)
            for s, n in zip(box, labels.shape, strict=True)
        ]
        inner = tuple(slice(p[0], p[0] + s) for p, s in zip(padding, inside.shape, strict=True))
        edt = distance_transform_edt(np.pad(inside, padding))[inner].astype(np.float32)
        rel = edt / max(float(edt.max()), 1.0)
        depth[box][inside] = rel[inside]
        diameter[index] = 2 * np.sqrt(inside.sum() / np.pi)
        seed[index] = _seed(inside, rel, float(diameter[index])) + [s.start for s in box]
    return ObjectTable(depth, diameter, seed)


def _seed(
    inside: npt.NDArray[np.bool_], rel: npt.NDArray[np.float32], diameter: float
) -> npt.NDArray[np.float64]:
    points = np.argwhere(inside)
    centre: npt.NDArray[np.float64] = points.mean(axis=0)
    y, x = np.round(centre).astype(int)
    if inside[y, x] and rel[y, x] > 0.4:
        return centre
    away = np.hypot(*(points - centre).T) / max(diameter, 1.0)
    best: npt.NDArray[np.float64] = points[np.argmax(rel[inside] - away)].astype(np.float64)
    return best
