"""Generated scenes with exact ground truth: samples for the viewer and part of the training recipe.

Objects are smooth random blobs, ellipses, rods and spread cells with pulled-out corners, placed with
little overlap, or cells that share their borders; optics are a Gaussian point-spread function, uneven
light, shot and read noise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_attnseg.core.camera import eight_bit, photographed
from napari_attnseg.core.cells import cytoplasm, relief
from napari_attnseg.core.colonies import grow
from napari_attnseg.core.micrograph import micrograph
from napari_attnseg.core.pile import pile, surface
from napari_attnseg.core.shapes import border_distance, deepest, per_object, scatter, smooth_noise, tessellate
from napari_attnseg.core.tissue import stained

if TYPE_CHECKING:
    import numpy.typing as npt

    Image = npt.NDArray[np.generic]
    Labels = npt.NDArray[np.int32]


def fluorescence(
    shape: tuple[int, int] = (512, 512), seed: int = 0, **options: float | str
) -> tuple[npt.NDArray[np.uint16], Labels]:
    """Return bright textured objects on a dark, uneven ground: (image uint16 (H, W), labels).

    In a third of the scenes the sample is thick: objects above and below the plane of focus shine
    through, blurred; they are not labelled.
    """
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    labels = scatter(shape, rng, **options)  # type: ignore[arg-type]
    depth = np.minimum(border_distance(labels) / 4, 1)
    body = per_object(rng, labels, 0.25, 1.0) * (0.7 + 0.3 * depth)
    body *= 1 + rng.uniform(0.05, 0.25) * smooth_noise(rng, shape, 3)
    if rng.random() < 0.3:  # membranes or rings brighter than the inside
        body *= np.where(border_distance(labels) < 3, 1.0, rng.uniform(0.3, 0.8))
    ground = rng.uniform(0.02, 0.15) * (1 + 0.5 * smooth_noise(rng, shape, 80)) + 0.02 * smooth_noise(
        rng, shape, 12
    )
    clean = gaussian_filter(np.clip(body, 0, None) + ground, rng.uniform(0.6, 1.6))
    if rng.random() < 0.35:
        clean = clean + _out_of_focus(rng, shape, options)
    clean = np.clip(clean, 0, None)
    photons = rng.uniform(60, 1500)
    noisy = rng.poisson(clean * photons) / photons + rng.normal(0, 0.01, shape)
    return (np.clip(noisy, 0, 1.6) / 1.6 * 4095).astype(np.uint16), labels


def _out_of_focus(
    rng: np.random.Generator, shape: tuple[int, int], options: dict[str, float | str]
) -> npt.NDArray[np.float64]:
    """Return the light of objects out of focus, mostly in some places.

    They are blurred by 0.12 to 0.6 diameters, and by more than what is in focus.
    """
    from scipy.ndimage import gaussian_filter

    density = float(rng.uniform(0.2, 0.7))
    others = scatter(shape, rng, **{**options, "density": density})  # type: ignore[arg-type]
    diameter = float(options.get("diameter", 24.0))
    blurred = gaussian_filter(per_object(rng, others, 0.3, 1.0), max(3.0, diameter * rng.uniform(0.12, 0.6)))
    if rng.random() < 0.6:  # only a part of the sample is that thick
        blurred *= np.clip(0.5 + smooth_noise(rng, shape, 3 * diameter), 0, 1.5)
    light: npt.NDArray[np.float64] = blurred * rng.uniform(0.15, 0.7)
    return light


def phase_contrast(
    shape: tuple[int, int] = (512, 512), seed: int = 0, **options: float | str
) -> tuple[npt.NDArray[np.uint8], Labels]:
    """Return grey objects with bright halos and dark rims: (image uint8 (H, W), labels)."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    labels = scatter(shape, rng, **{"density": 0.25, **options})  # type: ignore[arg-type]
    mask = (labels > 0).astype(np.float64)
    sign = rng.choice([-1.0, 1.0])
    wide = rng.uniform(3, 7)
    halo = gaussian_filter(mask, wide) - gaussian_filter(mask, 1.0)
    rim = np.exp(-border_distance(labels) / rng.uniform(1, 3)) * mask
    inside = per_object(rng, labels, -0.15, 0.15) * mask + rng.uniform(0.03, 0.12) * mask * smooth_noise(
        rng, shape, 2.5
    )
    scene = 0.5 + 0.04 * smooth_noise(rng, shape, 60) + 0.015 * smooth_noise(rng, shape, 3)
    scene += sign * (rng.uniform(0.3, 0.8) * halo - rng.uniform(0.1, 0.3) * rim) + inside
    scene = gaussian_filter(scene, rng.uniform(0.5, 1.0)) + rng.normal(0, rng.uniform(0.005, 0.03), shape)
    return eight_bit(scene), labels


def adherent(
    shape: tuple[int, int] = (512, 512), seed: int = 0, **options: float | str
) -> tuple[npt.NDArray[np.uint8], Labels]:
    """Return cells spread on their ground in phase contrast: (image uint8 (H, W), labels).

    Inside about as grey as the ground, with granules and a nucleus; dark rims, bright halos outside; some
    cells rounded up and shining; specks on the ground that are no cells.
    """
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    kind = "spread" if rng.random() < 0.8 else str(options.get("kind", "blob"))
    labels = scatter(shape, rng, **{"density": 0.25, "overlap": 0.3, **options, "kind": kind})  # type: ignore[arg-type]
    inside, mask = border_distance(labels), (labels > 0).astype(np.float64)
    halo = np.clip(gaussian_filter(mask, rng.uniform(2, 6)) - 0.2 * mask, 0, 1)
    rim = np.exp(-inside / rng.uniform(0.7, 2.5)) * mask
    shining = per_object(rng, labels, -3.0, 1.0).clip(0) * np.clip(rim + 0.3, 0, 1)
    scene = (
        0.45 + rng.uniform(0.01, 0.06) * smooth_noise(rng, shape, 60) + 0.012 * smooth_noise(rng, shape, 3)
    )
    scene += rng.uniform(0.05, 0.7) * halo * (1 - mask) - rng.uniform(0.05, 0.35) * rim
    scene += per_object(rng, labels, -0.12, 0.12) * mask + 0.5 * shining
    scene += rng.uniform(0.01, 0.06) * mask * smooth_noise(rng, shape, 2.5) + _granules(rng, labels, inside)
    if rng.random() < 0.5:
        specks = smooth_noise(rng, shape, rng.uniform(2, 5)) > rng.uniform(2.0, 2.8)
        scene -= rng.uniform(-0.15, 0.3) * gaussian_filter(specks * (1 - mask), 1.0)
    scene = gaussian_filter(scene, rng.uniform(0.4, 1.0)) + rng.normal(0, rng.uniform(0.005, 0.03), shape)
    return eight_bit(scene), labels


def _granules(
    rng: np.random.Generator, labels: Labels, inside: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return dark and bright grains inside the objects, and a plain or darker nucleus in their middle."""
    from scipy.ndimage import gaussian_filter

    share = inside / deepest(labels, inside)
    noise = gaussian_filter(rng.normal(size=labels.shape), rng.uniform(0.7, 1.6))
    noise /= noise.std() + 1e-9
    grains = np.clip(noise - rng.uniform(0.8, 1.6), 0, 2) * (share > rng.uniform(0.05, 0.4))
    bright = np.clip(-noise - rng.uniform(1.4, 2.2), 0, 2) * (share > 0.3)
    core = share > rng.uniform(0.55, 0.8)
    out: npt.NDArray[np.float64] = np.where(core, rng.uniform(-0.12, 0.08), 0.0) * (labels > 0)
    out += rng.uniform(0, 0.4) * bright - rng.uniform(0.1, 0.4) * grains
    return out * (labels > 0)


def photo(
    shape: tuple[int, int] = (512, 512), seed: int = 0, **options: float | str
) -> tuple[npt.NDArray[np.uint8], Labels]:
    """Return shaded coloured objects with shadows on a textured ground: (image uint8 (H, W, 3), labels).

    Colours are bright or, in half of the scenes, natural; in many scenes the objects have markings or are lit
    from one side; the ground is cloudy, striped as wood or a gravel of small stones, which is not labelled.
    """
    from scipy.ndimage import gaussian_filter, shift

    rng = np.random.default_rng(seed)
    labels = scatter(shape, rng, **{"overlap": 0.05, **options})  # type: ignore[arg-type]
    mask, diameter = labels > 0, float(options.get("diameter", 24.0))
    ground, body = rng.uniform(0.1, 0.95, 3), rng.uniform(0.1, 0.95, 3)
    natural = rng.uniform(0.5, 1.0) if rng.random() < 0.5 else 0.0
    tint = rng.uniform([-0.05, -0.1, -0.25], [0.2, 0.1, 0.05])
    ground, body = (c + natural * (c.mean() + tint - c) for c in (ground, body))
    if np.abs(ground - body).max() < 0.25:
        body = np.where(ground > 0.5, ground - 0.35, ground + 0.35)
    scene = ground + surface(rng, shape, diameter)[..., None] + 0.05 * smooth_noise(rng, shape, 70)[..., None]
    shadow = gaussian_filter(shift(mask.astype(float), rng.uniform(-5, 5, 2), order=0), 2.0)
    scene *= 1 - rng.uniform(0, 0.5) * shadow[..., None]
    spread = rng.uniform(0.02, 0.12)
    hue = body + np.stack([per_object(rng, labels, -spread, spread) for _ in range(3)], axis=-1)
    inside = border_distance(labels)
    dome = np.minimum(inside / rng.uniform(3, 10), 1)
    light = 0.65 + 0.35 * dome
    if rng.random() < 0.6:  # lit from one side
        height = gaussian_filter(np.sqrt(np.minimum(inside / (0.5 * diameter), 1)), max(1.0, 0.05 * diameter))
        turn, slope = rng.uniform(0, 2 * np.pi), np.gradient(height)
        lit = diameter * (slope[0] * np.sin(turn) + slope[1] * np.cos(turn))
        light += rng.uniform(0.03, 0.2) * np.clip(lit, -2, 3)
    hue = hue * light[..., None] + 0.06 * smooth_noise(rng, shape, 4)[..., None]
    if rng.random() < 0.5:  # markings
        marks = smooth_noise(rng, shape, max(1.5, diameter * rng.uniform(0.08, 0.3)))
        hue += rng.uniform(0.05, 0.25) * np.clip(marks, -1.5, 1.5)[..., None] * rng.uniform(0.5, 1, 3)
    scene = np.where(mask[..., None], hue, scene)
    scene = gaussian_filter(scene, (0.7, 0.7, 0)) + rng.normal(0, rng.uniform(0.005, 0.03), (*shape, 3))
    return photographed(scene, rng), labels


def packed(
    shape: tuple[int, int] = (512, 512),
    seed: int = 0,
    *,
    diameter: float = 40.0,
    density: float = 0.8,
    **_other: float | str,
) -> tuple[npt.NDArray[np.uint8], Labels]:
    """Return cells that share borders: (image uint8 (H, W), labels).

    One of three looks is drawn: bright membranes (fluorescence), dark membranes with organelles (electron
    microscopy), or cytoplasm with a dim or bright nucleus.  Borders belong to the cells.
    """
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    labels = tessellate(shape, rng, diameter, density + 0.4, float(rng.uniform(1, 2.5)))
    inside, mask = border_distance(labels), labels > 0
    wall = np.exp(-((inside / rng.uniform(0.8, max(2.5, 0.12 * diameter))) ** 2)) * mask
    texture = smooth_noise(rng, shape, rng.uniform(1.2, 3))
    look = rng.integers(3)
    if look == 0:
        scene = 0.08 + rng.uniform(0, 0.2) * mask + wall * (0.7 + 0.2 * smooth_noise(rng, shape, 10))
    elif look == 1:
        scene = per_object(rng, labels, 0.55, 0.85) + np.where(mask, 0, rng.uniform(0.2, 0.9))
        dark = (smooth_noise(rng, shape, rng.uniform(3, 8)) > rng.uniform(1.5, 2.2)) & mask & (inside > 3)
        scene = scene * (1 - 0.75 * wall) - rng.uniform(0.1, 0.4) * gaussian_filter(dark * 1.0, 1)
        scene += rng.uniform(0.02, 0.12) * texture
    else:
        body = per_object(rng, labels, 0.35, 1.0) * (1 - np.exp(-inside / (0.12 * diameter + 1)) * 0.7)
        core = np.clip(inside / (0.28 * diameter) - 0.55, 0, 0.3) / 0.3
        scene = 0.05 + body * (1 + rng.uniform(-0.6, 0.6) * core) * (1 + rng.uniform(0.03, 0.2) * texture)
    scene = scene * (1 + 0.08 * smooth_noise(rng, shape, 80))
    scene = gaussian_filter(scene, rng.uniform(0.5, 1.4)) + rng.normal(0, rng.uniform(0.005, 0.06), shape)
    return eight_bit(scene), labels


def colony(
    shape: tuple[int, int] = (512, 512),
    seed: int = 0,
    *,
    diameter: float = 16.0,
    density: float = 0.4,
    **_other: float | str,
) -> tuple[npt.NDArray[np.uint8], Labels]:
    """Return bacteria in colonies: (image uint8 (H, W), labels).

    Rods, curved ones, filaments and cocci.  One of three looks is drawn: phase contrast (dark, or bright
    in the negative kind, with a halo that brightens the middle of a colony), bright-field (a dark and a
    bright rim, hardly any inside), or fluorescence of the cytoplasm or of the membrane.
    """
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    aspect = float(rng.choice([1.0, rng.uniform(2, 4), rng.uniform(4, 9)], p=[0.15, 0.65, 0.2]))
    width = max(3.5, diameter / (1.13 * np.sqrt(aspect)))
    pressed = rng.random() < 0.6  # cell to cell, with hardly anything between them
    labels = grow(
        shape,
        rng,
        width=width,
        aspect=aspect,
        density=density,
        order=rng.uniform(0.02, 0.4),
        curved=rng.choice([0.1, rng.uniform(0.2, 1.2)], p=[0.7, 0.3]),
        gap=rng.uniform(-0.12, 0.0) if pressed else rng.choice([rng.uniform(0, 0.15), rng.uniform(0.1, 0.6)]),
        fill=rng.uniform(0.1, 0.45) if pressed else 0.0,
    )
    mask = labels > 0
    # the thickness of a cell: round, or flat-topped with thin lines to its neighbours
    dome = np.clip((border_distance(labels) - rng.uniform(0, 0.6)) / (rng.uniform(0.15, 0.5) * width), 0, 1)
    body = np.sqrt(dome) * mask * per_object(rng, labels, rng.uniform(0.5, 0.95), 1.0)
    body *= 1 + rng.uniform(0.0, 0.15) * smooth_noise(rng, shape, max(1.0, 0.2 * width))
    look = rng.choice(3, p=[0.6, 0.15, 0.25])
    if look == 0:
        wide = width * float(np.exp(rng.uniform(np.log(0.6), np.log(5))))
        blurred = gaussian_filter(body, rng.uniform(0.4, max(1.1, 0.2 * width)))
        scene = blurred - rng.uniform(0.4, 1.0) * gaussian_filter(body, wide)
        scene *= -rng.uniform(0.35, 0.9) if rng.random() < 0.85 else rng.uniform(0.35, 0.9)
        scene += 0.5 + rng.uniform(0, 0.05) * smooth_noise(rng, shape, 60)
    elif look == 1:
        fine, coarse = (gaussian_filter(body, width * rng.uniform(*r)) for r in ((0.1, 0.2), (0.25, 0.5)))
        scene = 0.5 + rng.choice([-1.0, 1.0]) * rng.uniform(0.3, 1.2) * (fine - coarse)
    else:
        if rng.random() < 0.35:  # membranes
            body = mask * np.exp(-((border_distance(labels) / rng.uniform(1.0, 2.0)) ** 2)) + 0.2 * body
        body *= per_object(rng, labels, rng.uniform(0.3, 0.9), 1.0)
        scene = 0.05 + 0.8 * gaussian_filter(body, rng.uniform(0.6, 1.0 + 0.12 * width))
    dirt = smooth_noise(rng, shape, rng.uniform(1.5, 4)) > rng.uniform(2.5, 3.5)
    scene = scene + rng.uniform(-0.15, 0.15) * gaussian_filter(dirt * 1.0, 1.0)
    noise = rng.uniform(0.001, 0.01) if rng.random() < 0.5 else rng.uniform(0.003, 0.04)
    scene += 0.01 * smooth_noise(rng, shape, 3) + rng.normal(0, noise, shape)
    return eight_bit(scene), labels


SCENES = {
    "fluorescence": fluorescence,
    "phase_contrast": phase_contrast,
    "adherent": adherent,
    "photo": photo,
    "stained": stained,
    "packed": packed,
    "colony": colony,
    "micrograph": micrograph,
    "pile": pile,
    "cytoplasm": cytoplasm,
    "relief": relief,
}
