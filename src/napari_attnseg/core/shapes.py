"""Random label images: objects placed with little overlap, or cells that share their borders."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Labels = npt.NDArray[np.int32]


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], sigma: float) -> npt.NDArray[np.float64]:
    """Return smooth noise of zero mean and unit deviation."""
    from scipy.ndimage import zoom

    coarse = [max(2, int(np.ceil(n / max(sigma, 1)))) + 2 for n in shape]
    field = zoom(rng.normal(size=coarse), [n / c for n, c in zip(shape, coarse, strict=True)], order=2)
    field = field[: shape[0], : shape[1]]
    out: npt.NDArray[np.float64] = (field - field.mean()) / (field.std() + 1e-9)
    return out


def per_object(rng: np.random.Generator, labels: Labels, low: float, high: float) -> npt.NDArray[np.float64]:
    """Return one uniform draw for every object, at its pixels, and 0 outside."""
    table = rng.uniform(low, high, int(labels.max()) + 1)
    table[0] = 0
    return table[labels]


def border_distance(labels: Labels) -> npt.NDArray[np.float64]:
    """Return the distance to the border inside each object (pixels), 0 outside.

    The frame of the field is no border; one object that fills all of it is as deep as the field is wide.
    """
    from scipy.ndimage import distance_transform_edt
    from skimage.segmentation import find_boundaries

    border = find_boundaries(labels, connectivity=1, mode="thick")
    if not border.any():
        return np.where(labels > 0, float(min(labels.shape)), 0.0)
    inside: npt.NDArray[np.float64] = distance_transform_edt(~border) * (labels > 0)
    return inside


def deepest(labels: Labels, inside: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return at each pixel how deep its object is at most, by the distances inside it; at least 1 pixel."""
    table = np.ones(int(labels.max()) + 1)
    np.maximum.at(table, labels.ravel(), inside.ravel())
    return table[labels]


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


def _spread(rng: np.random.Generator, radius: float) -> npt.NDArray[np.bool_]:
    """Return a mask of a cell spread on its ground: 2 to 6 corners with hollow sides between them."""
    from scipy.ndimage import gaussian_filter
    from skimage.draw import polygon

    corners = int(rng.integers(2, 7))
    turns = np.sort(rng.uniform(0, 2 * np.pi, corners)) if corners > 3 else _even_turns(rng, corners)
    reach = radius * np.clip(rng.lognormal(0.15, 0.35, corners), 0.7, 2.6)
    after = np.append(turns[1:], turns[0] + 2 * np.pi)
    sides = radius * rng.uniform(0.4, 0.9, corners) * np.where(after - turns > np.pi, 0.8, 1.0)
    turns = np.stack([turns, (turns + after) / 2], axis=1).ravel()
    lengths = np.stack([reach, sides], axis=1).ravel()
    half = int(np.ceil(lengths.max())) + 3
    aspect, lean = np.sqrt(rng.uniform(1, 2.2)), rng.uniform(0, np.pi)
    u, v = lengths * np.cos(turns - lean) / aspect, lengths * np.sin(turns - lean)
    y, x = u * np.cos(lean) - v * np.sin(lean), u * np.sin(lean) + v * np.cos(lean)
    mask = np.zeros((2 * half + 1, 2 * half + 1))
    mask[polygon(y + half, x + half, mask.shape)] = 1
    rounded: npt.NDArray[np.bool_] = gaussian_filter(mask, max(0.6, 0.1 * radius)) > 0.45
    return rounded


def _shard(rng: np.random.Generator, radius: float) -> npt.NDArray[np.bool_]:
    """Return a mask of a stone with 4 to 8 straight sides and blunt corners."""
    from scipy.ndimage import gaussian_filter
    from skimage.draw import polygon

    turns = _even_turns(rng, int(rng.integers(4, 9)))
    reach = radius * rng.uniform(0.75, 1.3, len(turns))
    lean, aspect = rng.uniform(0, np.pi), np.sqrt(rng.uniform(1, 1.8))
    u, v = reach * np.cos(turns) * aspect, reach * np.sin(turns) / aspect
    y, x = u * np.cos(lean) - v * np.sin(lean), u * np.sin(lean) + v * np.cos(lean)
    half = int(np.ceil(max(np.abs(y).max(), np.abs(x).max()))) + 3
    mask = np.zeros((2 * half + 1, 2 * half + 1))
    mask[polygon(y + half, x + half, mask.shape)] = 1
    blunt: npt.NDArray[np.bool_] = gaussian_filter(mask, rng.uniform(0.03, 0.15) * radius + 0.4) > 0.5
    return blunt


def any_shape(rng: np.random.Generator, kind: str, radius: float) -> npt.NDArray[np.bool_]:
    """Return a mask of a random "blob", "ellipse", "rod", "spread" cell or "shard", about ``radius`` wide."""
    if kind == "rod":
        return _rod(rng, max(radius * 0.55, 1.5), radius * rng.uniform(1.5, 5))
    if kind == "spread":
        return _spread(rng, radius)
    if kind == "shard":
        return _shard(rng, radius)
    rough = 0.0 if kind == "ellipse" else rng.uniform(0.05, 0.3)
    return _blob(rng, radius, float(rng.uniform(1, 2.0)), rough)


def _even_turns(rng: np.random.Generator, corners: int) -> npt.NDArray[np.float64]:
    """Return that many angles about evenly around the circle."""
    even: npt.NDArray[np.float64] = (
        np.arange(corners) * 2 * np.pi / corners + rng.normal(0, 0.25, corners) + rng.uniform(0, 2 * np.pi)
    )
    return np.sort(even)


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
        Typical diameter, pixels; each object varies by about a third.  The hollow sides of spread cells
        leave them about two thirds of it (as a disc of equal area).
    kind : {"blob", "ellipse", "rod", "spread"}
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
        mask = any_shape(rng, kind, radius)
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
        y = y + 0.12 * diameter * scale * smooth_noise(rng, shape, diameter * scale)
        x = x + 0.12 * diameter * scale * smooth_noise(rng, shape, diameter * scale)
    turn = rng.uniform(0, np.pi)
    u, v = y * np.cos(turn) + x * np.sin(turn), -y * np.sin(turn) + x * np.cos(turn)
    points = np.stack([u / np.sqrt(aspect), v * np.sqrt(aspect)], axis=-1)
    low, high = points.min(axis=(0, 1)), points.max(axis=(0, 1))
    count = int(np.prod(high - low) / (0.78 * diameter**2)) + 2
    kept = apart(rng.uniform(low, high, (3 * count, 2)), 0.55 * diameter)[:count]
    _, nearest = cKDTree(kept).query(points)
    there = rng.random(len(kept)) < np.clip(density, 0.3, 1.0)
    return relabel(np.where(there[nearest], nearest + 1, 0).astype(np.int32))


def apart(points: npt.NDArray[np.float64], distance: float) -> npt.NDArray[np.float64]:
    """Return the points, (n, 2), that lie further than ``distance`` from all those kept before them."""
    from scipy.spatial import cKDTree

    near = np.sort(cKDTree(points).query_pairs(distance, output_type="ndarray"), axis=1)
    near = near[np.argsort(near[:, 0], kind="stable")]
    later = np.split(near[:, 1], np.searchsorted(near[:, 0], np.arange(1, len(points))))
    kept = np.ones(len(points), dtype=bool)
    for n, others in enumerate(later):
        if kept[n]:
            kept[others] = False
    return points[kept]
