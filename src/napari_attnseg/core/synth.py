"""Generated scenes with exact ground truth: samples for the viewer and part of the training recipe.

Objects are smooth random blobs, ellipses and rods placed with little overlap, or cells that share their
borders; optics are a Gaussian point-spread function, uneven light, shot and read noise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Image = npt.NDArray[np.generic]
    Labels = npt.NDArray[np.int32]


def _blob(rng: np.random.Generator, radius: float, aspect: float, rough: float) -> npt.NDArray[np.bool_]:
    """Return a mask of a random closed shape of about ``radius``, tightly cut."""
    reach = int(np.ceil(radius * max(aspect, 1) * 1.6)) + 2
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(np.float64)
    turn = rng.uniform(0, np.pi)
    u, v = y * np.cos(turn) + x * np.sin(turn), -y * np.sin(turn) + x * np.cos(turn)
    angle, dist = np.arctan2(v, u), np.hypot(u / np.sqrt(aspect), v * np.sqrt(aspect))
    edge = np.ones_like(angle)
    for k in range(2, 6):
        edge += rough / k * rng.normal() * np.cos(k * angle + rng.uniform(0, 2 * np.pi))
    mask: npt.NDArray[np.bool_] = dist <= radius * np.clip(edge, 0.55, 1.5)
    return mask


def _rod(rng: np.random.Generator, radius: float, length: float) -> npt.NDArray[np.bool_]:
    """Return a mask of a straight or gently bent capsule."""
    reach = int(np.ceil(length / 2 + radius)) + 2
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(np.float64)
    turn, bend = rng.uniform(0, np.pi), rng.normal() * 0.15 / max(length, 1)
    u, v = y * np.cos(turn) + x * np.sin(turn), -y * np.sin(turn) + x * np.cos(turn)
    v = v + bend * u**2
    along = np.maximum(np.abs(u) - length / 2, 0)
    mask: npt.NDArray[np.bool_] = np.hypot(along, v) <= radius
    return mask


def scatter(
    shape: tuple[int, int],
    seed: int | np.random.Generator,
    *,
    diameter: float = 24.0,
    density: float = 0.35,
    kind: str = "blob",
    overlap: float = 0.12,
    clustered: float = 0.5,
) -> Labels:
    """Place random objects until they cover ``density`` of the field.

    Parameters
    ----------
    shape : tuple of int
        (H, W) pixels.
    diameter : float
        Typical diameter, pixels; each object varies by about a third.
    kind : {"blob", "ellipse", "rod"}
    overlap : float
        Share of a new object that may be hidden by earlier ones.
    clustered : float
        Share of objects placed beside an earlier one.

    Returns
    -------
    ndarray, (H, W) int32
        Labels 1..n, 0 is background.
    """
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, dtype=np.int32)
    count, covered, target = 0, 0, density * shape[0] * shape[1]
    places: list[tuple[float, float, float]] = []
    for _ in range(4 * int(target / (0.78 * diameter**2) + 1) + 20):
        radius = diameter / 2 * float(np.clip(rng.lognormal(0, 0.22), 0.5, 1.8))
        if kind == "rod":
            mask = _rod(rng, max(radius * 0.55, 1.5), radius * rng.uniform(1.5, 5))
        else:
            rough = 0.0 if kind == "ellipse" else rng.uniform(0.05, 0.3)
            mask = _blob(rng, radius, float(rng.uniform(1, 2.0)), rough)
        if places and rng.random() < clustered:
            py, px, pr = places[rng.integers(len(places))]
            turn = rng.uniform(0, 2 * np.pi)
            cy, cx = py + (pr + radius) * np.sin(turn), px + (pr + radius) * np.cos(turn)
        else:
            cy, cx = rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
        covered += _stamp(labels, mask, round(cy), round(cx), count + 1, overlap)
        if labels[min(max(round(cy), 0), shape[0] - 1), min(max(round(cx), 0), shape[1] - 1)] == count + 1:
            count += 1
            places.append((cy, cx, radius))
        if covered >= target:
            break
    return relabel(labels)


def _stamp(labels: Labels, mask: npt.NDArray[np.bool_], cy: int, cx: int, value: int, overlap: float) -> int:
    """Write ``mask`` at a centre where free; return the pixels written (0 if it would hide too much)."""
    half = mask.shape[0] // 2
    y0, x0 = cy - half, cx - half
    ys = slice(max(0, y0), min(labels.shape[0], y0 + mask.shape[0]))
    xs = slice(max(0, x0), min(labels.shape[1], x0 + mask.shape[1]))
    if ys.start >= ys.stop or xs.start >= xs.stop:
        return 0
    part = mask[ys.start - y0 : ys.stop - y0, xs.start - x0 : xs.stop - x0]
    view = labels[ys, xs]
    free = part & (view == 0)
    centre_free = not (0 <= cy < labels.shape[0] and 0 <= cx < labels.shape[1]) or labels[cy, cx] == 0
    if not centre_free or free.sum() < (1 - overlap) * part.sum() or free.sum() < 6:
        return 0
    view[free] = value
    return int(free.sum())


def relabel(labels: npt.NDArray[np.integer]) -> Labels:
    """Return connected pieces renumbered 1..n (a piece cut off by another becomes its own object)."""
    from skimage.measure import label

    out: Labels = label(labels, connectivity=1).astype(np.int32)
    sizes = np.bincount(out.ravel())
    small = sizes < 6
    small[0] = False
    out[small[out]] = 0
    _, inverse = np.unique(np.append(out.ravel(), 0), return_inverse=True)
    return inverse[:-1].reshape(out.shape).astype(np.int32)


def _smooth(rng: np.random.Generator, shape: tuple[int, int], sigma: float) -> npt.NDArray[np.float64]:
    """Return smooth noise of zero mean and unit deviation."""
    from scipy.ndimage import zoom

    coarse = [max(2, int(np.ceil(n / max(sigma, 1)))) + 2 for n in shape]
    field = zoom(rng.normal(size=coarse), [n / c for n, c in zip(shape, coarse, strict=True)], order=2)
    field = field[: shape[0], : shape[1]]
    out: npt.NDArray[np.float64] = (field - field.mean()) / (field.std() + 1e-9)
    return out


def _per_object(rng: np.random.Generator, labels: Labels, low: float, high: float) -> npt.NDArray[np.float64]:
    table = rng.uniform(low, high, int(labels.max()) + 1)
    table[0] = 0
    return table[labels]


def _edges(labels: Labels) -> npt.NDArray[np.float64]:
    """Return the distance to the border inside each object (pixels), 0 outside."""
    from scipy.ndimage import distance_transform_edt

    border = np.zeros(labels.shape, dtype=bool)
    for axis in (0, 1):
        step = np.diff(labels, axis=axis) != 0
        first = [slice(None)] * 2
        first[axis] = slice(0, -1)
        second = [slice(None)] * 2
        second[axis] = slice(1, None)
        border[tuple(first)] |= step
        border[tuple(second)] |= step
    inside: npt.NDArray[np.float64] = distance_transform_edt(~border) * (labels > 0)
    return inside


def fluorescence(
    shape: tuple[int, int] = (512, 512), seed: int = 0, **options: float | str
) -> tuple[npt.NDArray[np.uint16], Labels]:
    """Return bright textured objects on a dark, uneven ground: (image uint16 (H, W), labels)."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    labels = scatter(shape, rng, **options)  # type: ignore[arg-type]
    depth = np.minimum(_edges(labels) / 4, 1)
    body = _per_object(rng, labels, 0.25, 1.0) * (0.7 + 0.3 * depth)
    body *= 1 + rng.uniform(0.05, 0.25) * _smooth(rng, shape, 3)
    if rng.random() < 0.3:  # membranes or rings brighter than the inside
        body *= np.where(_edges(labels) < 3, 1.0, rng.uniform(0.3, 0.8))
    ground = rng.uniform(0.02, 0.15) * (1 + 0.5 * _smooth(rng, shape, 80)) + 0.02 * _smooth(rng, shape, 12)
    clean = gaussian_filter(np.clip(body, 0, None) + ground, rng.uniform(0.6, 1.6))
    clean = np.clip(clean, 0, None)
    photons = rng.uniform(60, 1500)
    noisy = rng.poisson(clean * photons) / photons + rng.normal(0, 0.01, shape)
    return (np.clip(noisy, 0, 1.6) / 1.6 * 4095).astype(np.uint16), labels


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
    rim = np.exp(-_edges(labels) / rng.uniform(1, 3)) * mask
    inside = _per_object(rng, labels, -0.15, 0.15) * mask + rng.uniform(0.03, 0.12) * mask * _smooth(
        rng, shape, 2.5
    )
    scene = 0.5 + 0.04 * _smooth(rng, shape, 60) + 0.015 * _smooth(rng, shape, 3)
    scene += sign * (rng.uniform(0.3, 0.8) * halo - rng.uniform(0.1, 0.3) * rim) + inside
    scene = gaussian_filter(scene, rng.uniform(0.5, 1.0)) + rng.normal(0, rng.uniform(0.005, 0.03), shape)
    return (np.clip(scene, 0, 1) * 255).astype(np.uint8), labels


def photo(
    shape: tuple[int, int] = (512, 512), seed: int = 0, **options: float | str
) -> tuple[npt.NDArray[np.uint8], Labels]:
    """Return shaded coloured objects with shadows on a textured ground: (image uint8 (H, W, 3), labels)."""
    from scipy.ndimage import gaussian_filter, shift

    rng = np.random.default_rng(seed)
    labels = scatter(shape, rng, **{"overlap": 0.05, **options})  # type: ignore[arg-type]
    mask = labels > 0
    ground, body = rng.uniform(0.1, 0.95, 3), rng.uniform(0.1, 0.95, 3)
    if np.abs(ground - body).max() < 0.25:
        body = 1 - ground
    texture = rng.uniform(0.02, 0.1) * _smooth(rng, shape, rng.uniform(2, 10))
    scene = ground + (texture + 0.05 * _smooth(rng, shape, 70))[..., None]
    shadow = gaussian_filter(shift(mask.astype(float), rng.uniform(-5, 5, 2), order=0), 2.0)
    scene *= 1 - rng.uniform(0, 0.5) * shadow[..., None]
    hue = body + np.stack([_per_object(rng, labels, -0.12, 0.12) for _ in range(3)], axis=-1)
    dome = np.minimum(_edges(labels) / rng.uniform(3, 10), 1)
    hue = hue * (0.65 + 0.35 * dome[..., None]) + 0.06 * _smooth(rng, shape, 4)[..., None]
    scene = np.where(mask[..., None], hue, scene)
    scene = gaussian_filter(scene, (0.7, 0.7, 0)) + rng.normal(0, rng.uniform(0.005, 0.03), (*shape, 3))
    return (np.clip(scene, 0, 1) * 255).astype(np.uint8), labels


def stained(
    shape: tuple[int, int] = (512, 512), seed: int = 0, **options: float | str
) -> tuple[npt.NDArray[np.uint8], Labels]:
    """Return dark purple objects on pink, stroma-like tissue: (image uint8 (H, W, 3), labels)."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    labels = scatter(shape, rng, **{"density": 0.25, **options})  # type: ignore[arg-type]
    nucleus = _per_object(rng, labels, 0.45, 1.2) * (1 + rng.uniform(0.1, 0.35) * _smooth(rng, shape, 2.5))
    stroma = 0.5 + 0.25 * _smooth(rng, shape, rng.uniform(5, 15)) + 0.15 * _smooth(rng, shape, 40)
    stroma = np.clip(stroma, 0, None) * rng.uniform(0.2, 1.0)
    blue = np.array([0.65, 0.70, 0.29]) + rng.normal(0, 0.06, 3)  # optical densities of haematoxylin ...
    pink = np.array([0.07, 0.99, 0.11]) * 0.45 + np.abs(rng.normal(0, 0.05, 3))  # ... and of eosin
    density = gaussian_filter(np.clip(nucleus, 0, None), 0.8)[..., None] * blue + stroma[..., None] * pink
    scene = np.exp(-density * rng.uniform(0.8, 1.4)) * rng.uniform(0.85, 1.0) + rng.normal(
        0, 0.012, (*shape, 3)
    )
    return (np.clip(scene, 0, 1) * 255).astype(np.uint8), labels


def tessellate(
    shape: tuple[int, int], rng: np.random.Generator, diameter: float, density: float, aspect: float
) -> Labels:
    """Fill the field with cells that share their borders: a warped, stretched Voronoi partition.

    Parameters
    ----------
    diameter : float
        Typical cell diameter, pixels.
    density : float
        Share of the field that cells cover, 0..1; whole cells are left out.
    aspect : float
        Stretch of the cells along a random direction, 1 or more.

    Returns
    -------
    ndarray, (H, W) int32
        Labels 1..n, 0 where a cell was left out.
    """
    from scipy.spatial import cKDTree

    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float64)
    for scale in (2.0, 0.5):  # bent borders at two scales
        y = y + 0.12 * diameter * scale * _smooth(rng, shape, diameter * scale)
        x = x + 0.12 * diameter * scale * _smooth(rng, shape, diameter * scale)
    turn = rng.uniform(0, np.pi)
    u, v = y * np.cos(turn) + x * np.sin(turn), -y * np.sin(turn) + x * np.cos(turn)
    points = np.stack([u / np.sqrt(aspect), v * np.sqrt(aspect)], axis=-1)
    low, high = points.min(axis=(0, 1)), points.max(axis=(0, 1))
    count = int(np.prod(high - low) / (0.78 * diameter**2)) + 2
    seeds = rng.uniform(low, high, (3 * count, 2))
    kept = seeds[:1]
    for seed in seeds[1:]:  # no two seeds close together
        if len(kept) < count and ((kept - seed) ** 2).sum(axis=1).min() > (0.55 * diameter) ** 2:
            kept = np.concatenate([kept, seed[None]])
    _, nearest = cKDTree(kept).query(points)
    there = rng.random(len(kept)) < np.clip(density, 0.3, 1.0)
    return relabel(np.where(there[nearest], nearest + 1, 0).astype(np.int32))


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
    inside, mask = _edges(labels), labels > 0
    wall = np.exp(-((inside / rng.uniform(0.8, 2.5)) ** 2)) * mask
    texture = _smooth(rng, shape, rng.uniform(1.2, 3))
    look = rng.integers(3)
    if look == 0:
        scene = 0.08 + rng.uniform(0, 0.2) * mask + wall * (0.7 + 0.2 * _smooth(rng, shape, 10))
    elif look == 1:
        scene = _per_object(rng, labels, 0.55, 0.85) + np.where(mask, 0, rng.uniform(0.2, 0.9))
        dark = (_smooth(rng, shape, rng.uniform(3, 8)) > rng.uniform(1.5, 2.2)) & mask & (inside > 3)
        scene = scene * (1 - 0.75 * wall) - rng.uniform(0.1, 0.4) * gaussian_filter(dark * 1.0, 1)
        scene += rng.uniform(0.02, 0.12) * texture
    else:
        body = _per_object(rng, labels, 0.35, 1.0) * (1 - np.exp(-inside / (0.12 * diameter + 1)) * 0.7)
        core = np.clip(inside / (0.28 * diameter) - 0.55, 0, 0.3) / 0.3
        scene = 0.05 + body * (1 + rng.uniform(-0.6, 0.6) * core) * (1 + rng.uniform(0.03, 0.2) * texture)
    scene = scene * (1 + 0.08 * _smooth(rng, shape, 80))
    scene = gaussian_filter(scene, rng.uniform(0.5, 1.4)) + rng.normal(0, rng.uniform(0.005, 0.06), shape)
    return (np.clip(scene, 0, 1) * 255).astype(np.uint8), labels


SCENES = {
    "fluorescence": fluorescence,
    "phase_contrast": phase_contrast,
    "photo": photo,
    "stained": stained,
    "packed": packed,
}
