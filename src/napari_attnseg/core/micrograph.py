"""Generated electron micrographs of tissue: cells large and small between dark membranes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_attnseg.core.camera import eight_bit
from napari_attnseg.core.shapes import border_distance, per_object, relabel, scatter, smooth_noise, tessellate

if TYPE_CHECKING:
    import numpy.typing as npt

    Labels = npt.NDArray[np.int32]
    Field = npt.NDArray[np.float64]


def micrograph(
    shape: tuple[int, int] = (512, 512), seed: int = 0, *, diameter: float = 40.0, **_other: float | str
) -> tuple[npt.NDArray[np.uint8], Labels]:
    """Return tissue in a transmission electron microscope: (image uint8 (H, W), labels).

    Thin cells fill the room between large ones.  Their membranes are dark, some cut obliquely and
    blurred; the cytoplasm is granular, with mitochondria and vesicles that are no objects.  What is
    labelled ends within the membranes.
    """
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    diameter = max(diameter, 14.0)  # smaller ones would be all membrane
    cells = profiles(shape, rng, diameter)
    inside = border_distance(cells)
    thick = max(1.0, diameter * rng.uniform(0.02, 0.09))
    dense = 1 + np.clip(smooth_noise(rng, shape, diameter) - rng.uniform(1.2, 2.0), 0, 1.5)  # synapses
    wall = np.exp(-((inside / (thick * dense)) ** 2))
    oblique = np.clip(smooth_noise(rng, shape, 1.5 * diameter) - rng.uniform(0.3, 1.5), 0, 1)
    wall += oblique * (0.8 * gaussian_filter(wall, 1.5 * thick) - wall)
    scene = 0.65 + per_object(rng, cells, *np.sort(rng.uniform(-0.18, 0.18, 2)))
    scene += _cytoplasm(rng, shape, diameter)
    scene += _mitochondria(rng, inside, diameter, thick)
    scene += (rng.uniform(0.05, 0.3) - scene) * np.clip(wall, 0, 1) * rng.uniform(0.6, 1.0)
    scene = gaussian_filter(scene, rng.uniform(0.4, 1.2)) + rng.normal(0, rng.uniform(0.01, 0.07), shape)
    scene = 0.5 + (scene - 0.5) * rng.uniform(0.6, 1.2) + 0.04 * smooth_noise(rng, shape, 100)
    labels = relabel(np.where(inside > thick * rng.uniform(0.2, 1.1), cells, 0))
    return eight_bit(scene), labels


def profiles(shape: tuple[int, int], rng: np.random.Generator, diameter: float) -> Labels:
    """Return cells that fill the field, (H, W) int32: large ones, and crowds of small ones between them.

    Parameters
    ----------
    diameter : float
        Of the small ones, about, pixels; the large ones are two to four times as wide.
    """
    from skimage.segmentation import expand_labels

    large = tessellate(shape, rng, diameter * rng.uniform(2, 4), 1.0, rng.uniform(1, 3))
    small = tessellate(shape, rng, diameter, 1.0, rng.uniform(1, 2.5))
    whole = rng.random(int(large.max()) + 1) < rng.uniform(0.1, 0.5)
    mixed = np.where(whole[large], large, large.max() + 1 + large * (int(small.max()) + 1) + small)
    labels = relabel(mixed)
    tiny = np.bincount(labels.ravel()) < 0.05 * diameter**2
    labels[tiny[labels]] = 0
    return relabel(expand_labels(labels, max(shape)))


def _cytoplasm(rng: np.random.Generator, shape: tuple[int, int], diameter: float) -> Field:
    """Return granules, clouds and crowds of vesicles, around 0."""
    from scipy.ndimage import gaussian_filter

    fine = rng.uniform(0.02, 0.18) * smooth_noise(rng, shape, rng.uniform(1.0, 2.5))
    clouds = rng.uniform(0.0, 0.07) * smooth_noise(rng, shape, max(2.0, 0.2 * diameter))
    dots = gaussian_filter(rng.normal(size=shape), max(0.8, 0.02 * diameter))
    crowd = np.clip(smooth_noise(rng, shape, 0.8 * diameter) - 0.5, 0, 1)
    vesicles = -rng.uniform(0.0, 0.35) * crowd * np.clip(dots / (dots.std() + 1e-9) - 0.8, 0, 1.5)
    out: Field = fine + clouds + vesicles
    return out


def _mitochondria(rng: np.random.Generator, inside: Field, diameter: float, thick: float) -> Field:
    """Return dark ellipses with stripes where they fit into the cells, 0 elsewhere."""
    found = scatter(
        inside.shape,
        rng,
        diameter=max(5.0, diameter * rng.uniform(0.3, 0.6)),
        density=rng.uniform(0.02, 0.25),
        kind="ellipse",
        overlap=0.0,
        clustered=0.2,
    )
    crosses = np.zeros(int(found.max()) + 1, dtype=bool)
    crosses[np.unique(found[inside < 1.5 * thick])] = True
    there = np.where(crosses[found], 0, found)
    depth, turn = border_distance(there), rng.uniform(0, np.pi)
    y, x = np.mgrid[: there.shape[0], : there.shape[1]]
    along = (y * np.cos(turn) + x * np.sin(turn)) * rng.uniform(0.6, 1.6) + smooth_noise(rng, there.shape, 12)
    body = per_object(rng, there, -0.35, -0.05) + rng.uniform(0, 0.12) * np.sin(along) * (there > 0)
    rim = -0.25 * np.exp(-((depth - 1) ** 2)) * (there > 0)
    out: Field = body + rim
    return out
