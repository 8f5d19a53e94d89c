"""Generated whole cells: cytoplasm in fluorescence, relief in differential interference contrast."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_attnseg.core.camera import eight_bit
from napari_attnseg.core.shapes import border_distance, deepest, per_object, scatter, smooth_noise

if TYPE_CHECKING:
    import numpy.typing as npt

    Labels = npt.NDArray[np.int32]
    Field = npt.NDArray[np.float64]


def cytoplasm(
    shape: tuple[int, int] = (512, 512), seed: int = 0, *, diameter: float = 40.0, **options: float | str
) -> tuple[npt.NDArray[np.uint16], Labels]:
    """Return whole cells in fluorescence: (image uint16 (H, W), labels).

    Some are many times as bright as others, with thin dim margins, a bright or dark nucleus, granules; some
    are rounded up and shine.
    """
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    labels = _cells(shape, rng, diameter, options)
    count = int(labels.max()) + 1
    depth = _depth(labels, 0.06 * diameter)
    brightness = rng.lognormal(0, rng.uniform(0.1, 0.9), count)
    rounded = rng.random(count) < rng.choice([0.0, 0.15])
    margin = rng.uniform(0.08, 0.6)
    body = margin + (1 - margin) * depth ** rng.uniform(0.4, 1.3)
    body = np.where(rounded[labels], 2.5 * np.sqrt(depth), body)
    nucleus = np.clip((depth - rng.uniform(0.35, 0.65)) / 0.12, 0, 1) * (rng.random(count) < 0.9)[labels]
    body *= 1 + (rng.uniform(-0.75, 0.0) if rng.random() < 0.6 else rng.uniform(0, 1.5)) * nucleus
    body *= 1 + rng.uniform(0.03, 0.3) * smooth_noise(rng, shape, rng.uniform(1.2, 4))
    if rng.random() < 0.4:  # granules and vesicles around the nucleus
        body += rng.uniform(0.2, 1.0) * _grains(rng, shape, diameter) * (1 - nucleus) * depth
    scene = np.clip(body, 0, None) * brightness[labels] * (labels > 0)
    ground = rng.uniform(0.01, 0.12) * (1 + 0.4 * smooth_noise(rng, shape, 80))
    haze = rng.uniform(0, 0.15) * gaussian_filter(scene, 0.5 * diameter)
    clean = np.clip(gaussian_filter(scene, rng.uniform(0.5, 1.8)) + ground + haze, 0, None)
    photons = rng.uniform(60, 1500)
    noisy = rng.poisson(clean * photons) / photons + rng.normal(0, 0.01, shape)
    top = max(1.0, float(np.percentile(clean, 99.7)))
    return (np.clip(noisy / top, 0, 1.6) / 1.6 * 4095).astype(np.uint16), labels


def relief(
    shape: tuple[int, int] = (512, 512), seed: int = 0, *, diameter: float = 40.0, **options: float | str
) -> tuple[npt.NDArray[np.uint8], Labels]:
    """Return cells in differential interference contrast: (image uint8 (H, W), labels).

    Light on one side and dark on the other, as grey as the ground inside, with a nucleus and granules; the
    light falls off over the field.
    """
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    labels = _cells(shape, rng, diameter, options)
    depth, mask = _depth(labels, 0.06 * diameter), labels > 0
    tall = per_object(rng, labels, 0.25, 1.0)
    height = tall * depth ** rng.uniform(0.3, 1.0)
    height += tall * rng.uniform(-0.1, 0.35) * np.clip((depth - rng.uniform(0.4, 0.65)) / 0.1, 0, 1)
    height += rng.uniform(0.0, 0.25) * _grains(rng, shape, diameter) * np.clip(3 * depth, 0, 1) * mask
    height += rng.uniform(0, 0.02) * smooth_noise(rng, shape, rng.uniform(1.5, 6))
    debris = smooth_noise(rng, shape, rng.uniform(1.5, 4)) > rng.uniform(2.3, 3.5)
    height += rng.uniform(0, 0.3) * gaussian_filter(debris * 1.0, 1.0)
    turn = rng.uniform(0, 2 * np.pi)
    slope = np.gradient(gaussian_filter(height, rng.uniform(0.6, 1.5)))
    shear = slope[0] * np.sin(turn) + slope[1] * np.cos(turn)
    scene = 0.5 + rng.uniform(0.5, 2.5) * shear * (diameter / 24) ** 0.5
    scene += rng.uniform(-0.08, 0.08) * gaussian_filter(depth * mask, 1.0)
    y, x = np.mgrid[: shape[0], : shape[1]] / max(shape) - 0.5
    fall = rng.uniform(0, 2 * np.pi)
    scene += rng.uniform(0, 0.5) * (y * np.sin(fall) + x * np.cos(fall)) + 0.02 * smooth_noise(rng, shape, 70)
    scene += rng.normal(0, rng.uniform(0.004, 0.03), shape)
    return eight_bit(scene), labels


def _cells(
    shape: tuple[int, int], rng: np.random.Generator, diameter: float, options: dict[str, float | str]
) -> Labels:
    """Return spread cells that often touch, or in a third of the fields the shape that was asked for."""
    kind = "spread" if rng.random() < 0.65 else str(options.get("kind", "blob"))
    density, overlap = float(options.get("density", 0.3)), float(rng.uniform(0.1, 0.4))
    return scatter(
        shape,
        rng,
        diameter=diameter,
        density=density,
        kind=kind,
        overlap=overlap,
        clustered=0.7,
    )


def _depth(labels: Labels, smooth: float) -> Field:
    """Return how deep each pixel lies in its object, 0 outside to 1 in its middle, without ridges."""
    from scipy.ndimage import gaussian_filter

    inside = border_distance(labels)
    depth = gaussian_filter(inside / deepest(labels, inside), smooth)
    out: Field = depth * (labels > 0)
    return out


def _grains(rng: np.random.Generator, shape: tuple[int, int], diameter: float) -> Field:
    """Return round grains much smaller than a cell, 0 between them."""
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(rng.normal(size=shape), max(0.8, 0.03 * diameter))
    out: Field = np.clip(noise / (noise.std() + 1e-9) - rng.uniform(0.8, 1.6), 0, 1.5)
    return out
