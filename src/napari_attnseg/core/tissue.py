"""Generated sections of stained tissue: nuclei among much else that is stained."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_attnseg.core.camera import photographed
from napari_attnseg.core.shapes import border_distance, per_object, scatter, smooth_noise, tessellate

if TYPE_CHECKING:
    import numpy.typing as npt

    Labels = npt.NDArray[np.int32]
    Field = npt.NDArray[np.float64]

# optical densities (red, green, blue) of haematoxylin and of eosin (Ruifrok and Johnston 2001), and of
# eosin that has gone brown
_BLUE = np.array([0.65, 0.70, 0.29])
_PINK = np.array([0.07, 0.99, 0.11])
_BROWN = np.array([0.25, 0.62, 0.70])


def stained(
    shape: tuple[int, int] = (512, 512), seed: int = 0, **options: float | str
) -> tuple[npt.NDArray[np.uint8], Labels]:
    """Return dark bluish nuclei in pink tissue: (image uint8 (H, W, 3), labels).

    Nuclei are full and dark, or pale with a dark rim.  The tissue is cloudy, in bundles of fibres, or of
    cells with borders; in some scenes there are red blood cells, drops of fat and holes.  Only nuclei are
    labelled.
    """
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    labels = scatter(shape, rng, **{"density": 0.25, **options})  # type: ignore[arg-type]
    diameter = float(options.get("diameter", 24.0))
    nucleus = per_object(rng, labels, 0.45, 1.2) * (
        1 + rng.uniform(0.1, 0.35) * smooth_noise(rng, shape, 2.5)
    )
    if rng.random() < 0.5:  # open chromatin: the inside of many nuclei is paler than the rim
        pale = per_object(rng, labels, -0.5, 0.8).clip(0)
        nucleus *= 1 - pale * np.clip(border_distance(labels) / rng.uniform(1.5, 4) - 0.5, 0, 1)
    blue = _BLUE + rng.normal(0, 0.08, 3)
    pink = _PINK + rng.choice([0.0, rng.uniform(0, 1)], p=[0.6, 0.4]) * (_BROWN - _PINK)
    pink = 0.45 * pink + np.abs(rng.normal(0, 0.08, 3))
    tissue = _ground(rng, shape, diameter)
    haze = rng.uniform(0, 0.3) * np.clip(smooth_noise(rng, shape, rng.uniform(8, 30)), 0, 2)  # cytoplasm
    if rng.random() < 0.35:
        tissue = np.where(labels > 0, tissue, np.maximum(tissue, _red_cells(rng, shape, diameter)))
    if rng.random() < 0.35:
        open_, rim = _holes(rng, shape, diameter)
        tissue, haze = tissue * open_ + rim, haze * open_
    density = gaussian_filter(np.clip(nucleus, 0, None), rng.uniform(0.6, 1.3))[..., None] * blue
    tissue = gaussian_filter(np.clip(tissue, 0, None), rng.uniform(0.4, 1.0))
    density = density + tissue[..., None] * pink + haze[..., None] * blue
    scene = np.exp(-density * rng.uniform(0.7, 1.5)) * rng.uniform(0.85, 1.0)
    scene += rng.normal(0, rng.uniform(0.005, 0.03), (*shape, 3))
    return photographed(scene, rng), labels


def _ground(rng: np.random.Generator, shape: tuple[int, int], diameter: float) -> Field:
    """Return how much eosin there is: clouds, with fibres or cells in a part of the field or all of it."""
    clouds = 0.5 + 0.25 * smooth_noise(rng, shape, rng.uniform(5, 15)) + 0.15 * smooth_noise(rng, shape, 40)
    out: Field = np.clip(clouds, 0, None) * rng.uniform(0.2, 1.0)
    look = rng.choice(4, p=[0.35, 0.15, 0.25, 0.25])
    if look == 0:
        return out
    if look == 1:  # fine waves over it
        down = np.arange(shape[0])[:, None] * rng.uniform(0.2, 1)
        across = smooth_noise(rng, shape, 30) * rng.uniform(4, 20) + down
        out *= 0.75 + 0.45 * np.sin(across + rng.uniform(-1, 1) * np.arange(shape[1]))
        return out
    special = _bundles(rng, shape, diameter) if look == 2 else _cells(rng, shape, diameter)
    if rng.random() < 0.5:
        return special
    here = np.clip(0.5 + 2 * smooth_noise(rng, shape, 4 * diameter), 0, 1)
    return out + here * (special - out)


def _bundles(rng: np.random.Generator, shape: tuple[int, int], diameter: float) -> Field:
    """Return wavy bundles of collagen: long, of several widths, dark at their sides, with clefts between."""
    turn = rng.uniform(0, np.pi)
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float64)
    across = y * np.cos(turn) - x * np.sin(turn)
    across += diameter * rng.uniform(0.3, 1.5) * smooth_noise(rng, shape, diameter * rng.uniform(1, 5))
    out = np.full(shape, rng.uniform(0.3, 0.8))
    for width in diameter * rng.uniform(0.1, 1.2, 3):
        phase = 2 * np.pi * across / max(width, 2.5) + smooth_noise(rng, shape, 1.5 * diameter)
        here = np.clip(0.5 + smooth_noise(rng, shape, diameter), 0, 1)
        out += rng.uniform(0.05, 0.35) * np.sin(phase) * here
    clefts = np.clip(smooth_noise(rng, shape, diameter) - rng.uniform(0.8, 1.8), 0, 1)
    bundles: Field = np.clip(out, 0, None) * (1 - clefts)
    return bundles


def _cells(rng: np.random.Generator, shape: tuple[int, int], diameter: float) -> Field:
    """Return cytoplasm in cells of different shades, with pale or dark borders."""
    cells = tessellate(
        shape, rng, diameter * rng.uniform(1.3, 2.5), rng.uniform(0.6, 1.3), rng.uniform(1, 1.8)
    )
    border = np.exp(-border_distance(cells) / rng.uniform(0.8, 2.5)) * (cells > 0)
    body = per_object(rng, cells, *np.sort(rng.uniform(0.2, 1.4, 2)))
    grains = 1 + rng.uniform(0.05, 0.3) * smooth_noise(rng, shape, rng.uniform(1, 4))
    out: Field = body * grains + border * rng.uniform(-0.6, 0.5)
    return out


def _red_cells(rng: np.random.Generator, shape: tuple[int, int], diameter: float) -> Field:
    """Return red blood cells, full or pale in their middle, in a part of the field."""
    kind = "ellipse" if rng.random() < 0.7 else "blob"
    found = scatter(
        shape,
        rng,
        diameter=max(5.0, diameter * rng.uniform(0.4, 1.0)),
        density=rng.uniform(0.05, 0.45),
        kind=kind,
        clustered=0.7,
    )
    body = per_object(rng, found, 0.7, 1.8)
    if rng.random() < 0.4:
        body *= 1 - rng.uniform(0, 0.5) * np.clip(border_distance(found) / (0.15 * diameter + 1) - 0.5, 0, 1)
    here = smooth_noise(rng, shape, 3 * diameter) > rng.uniform(-0.7, 0.7)
    return body * here


def _holes(rng: np.random.Generator, shape: tuple[int, int], diameter: float) -> tuple[Field, Field]:
    """Return how much tissue is left, 0 in drops of fat and other holes, and their rims."""
    large = diameter * float(np.exp(rng.uniform(np.log(0.6), np.log(5))))
    found = scatter(shape, rng, diameter=large, density=rng.uniform(0.05, 0.5), kind="blob", overlap=0.3)
    depth = border_distance(found)
    rim = rng.uniform(0, 0.7) * np.exp(-depth / rng.uniform(0.8, 2.0)) * (found > 0)
    return 1 - np.clip(depth / 2, 0, 1), rim
