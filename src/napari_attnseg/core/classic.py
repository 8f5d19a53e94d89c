"""Classic segmentation for comparison: K-means clusters and SLIC superpixels, through libraries."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]

MAX_SAMPLES = 50_000
POSITION_WEIGHT = 0.5
_STARTS = 3
_CHUNK = 262_144


def with_position(values: Floats, weight: float = POSITION_WEIGHT) -> Floats:
    """Append (y, x), scaled so that the longer side runs over 0..``weight``, to (H, W, C) values.

    Returns
    -------
    ndarray, (H, W, C + 2) float32
    """
    h, w = values.shape[:2]
    unit = weight / max(h - 1, w - 1, 1)
    y, x = np.meshgrid(
        np.arange(h, dtype=np.float32) * unit, np.arange(w, dtype=np.float32) * unit, indexing="ij"
    )
    return np.concatenate([values, y[..., None], x[..., None]], axis=-1, dtype=np.float32)


def fit_clusters(samples: npt.NDArray[np.floating], clusters: int, seed: int = 0) -> Floats:
    """Fit K-means centres.

    Parameters
    ----------
    samples : ndarray, (N, C)
        More than ``MAX_SAMPLES`` rows are sampled at random.
    clusters : int
        Number of centres; fewer come back when there are fewer different samples.

    Returns
    -------
    ndarray, (K, C) float32
        The best of three k-means++ starts.
    """
    from scipy.cluster.vq import kmeans2

    rng = np.random.default_rng(seed)
    if len(samples) > MAX_SAMPLES:
        samples = samples[np.sort(rng.choice(len(samples), MAX_SAMPLES, replace=False))]
    data = np.asarray(samples, dtype=np.float64)
    best, best_cost = data[:1], np.inf
    for _ in range(_STARTS):
        start = _plus_plus(data, clusters, rng)
        with warnings.catch_warnings():  # an emptied cluster is dropped below, not news
            warnings.simplefilter("ignore", UserWarning)
            centres, index = kmeans2(data, start, minit="matrix", iter=30)
        cost = float(((data - centres[index]) ** 2).sum())
        if cost < best_cost:
            best, best_cost = centres[np.unique(index)], cost
    return best.astype(np.float32)


def _plus_plus(
    data: npt.NDArray[np.float64], clusters: int, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Choose k-means++ starting centres: each far from those before it."""
    centres = [data[rng.integers(len(data))]]
    nearest = ((data - centres[0]) ** 2).sum(axis=1)
    while len(centres) < clusters and nearest.sum() > 0:
        centres.append(data[rng.choice(len(data), p=nearest / nearest.sum())])
        nearest = np.minimum(nearest, ((data - centres[-1]) ** 2).sum(axis=1))
    return np.array(centres)


def assign(values: Floats, centres: Floats) -> npt.NDArray[np.int32]:
    """Return the index 0..K-1 of the nearest centre for every pixel of (H, W, C) values."""
    from scipy.cluster.vq import vq

    flat = values.reshape(-1, values.shape[-1])
    out = np.empty(len(flat), dtype=np.int32)
    for start in range(0, len(flat), _CHUNK):
        out[start : start + _CHUNK] = vq(flat[start : start + _CHUNK], centres, check_finite=False)[0]
    return out.reshape(values.shape[:2])


def as_classes(index: npt.NDArray[np.int32], intensity: Floats) -> npt.NDArray[np.int32]:
    """Rename clusters to classes: 0 is the one that covers most of the border, others by intensity.

    Parameters
    ----------
    index : ndarray, (H, W) int32
        Cluster numbers from 0.
    intensity : ndarray, (H, W)
        The grey image; class 1 is the darkest of the others.

    Returns
    -------
    ndarray, (H, W) int32
    """
    count = int(index.max()) + 1
    border = np.concatenate([index[0], index[-1], index[:, 0], index[:, -1]])
    background = int(np.bincount(border, minlength=count).argmax())
    area = np.bincount(index.ravel(), minlength=count)
    mean = np.bincount(index.ravel(), weights=intensity.ravel(), minlength=count) / np.maximum(area, 1)
    order = [int(i) for i in np.argsort(mean, kind="stable") if i != background and area[i]]
    names = np.zeros(count, dtype=np.int32)
    names[order] = np.arange(1, len(order) + 1)
    return names[index]


def regions(classes: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Return the connected regions (4-neighbours) of every class above 0, numbered from 1."""
    from scipy import ndimage

    out = np.zeros(classes.shape, dtype=np.int32)
    total = 0
    for value in np.unique(classes[classes > 0]):
        part, count = ndimage.label(classes == value)
        out[part > 0] = part[part > 0] + total
        total += int(count)
    return out


def superpixels(values: Floats, segments: int, compactness: float, colour: bool) -> npt.NDArray[np.int32]:
    """Return SLIC superpixels, numbered from 1.

    Parameters
    ----------
    values : ndarray, (H, W, C) float32
        Scaled to about 0..1.
    segments : int
        Approximate number wanted.
    compactness : float
        Higher gives squarer ones.
    colour : bool
        The three channels are red, green and blue: compare them in Lab.
    """
    from skimage.segmentation import slic

    h, w = values.shape[:2]
    if min(h, w) < 2:  # slic needs two pixels a side: equal runs along the thin image
        runs = np.arange(h * w) * min(segments, h * w) // (h * w)
        thin: npt.NDArray[np.int32] = (runs + 1).reshape(h, w).astype(np.int32)
        return thin
    use = np.clip(values, 0.0, 1.0)
    if not colour:
        use = use * 100.0  # the range of Lab lightness, so that compactness means the same
    labels = slic(
        use.astype(np.float64),
        n_segments=min(segments, h * w),
        compactness=compactness,
        start_label=1,
        convert2lab=colour,
        channel_axis=-1,
    )
    return np.asarray(labels, dtype=np.int32)


def mean_by_label(labels: npt.NDArray[np.int32], values: Floats) -> Floats:
    """Return the mean of (H, W, C) values over each label 1..n, (n, C) float32."""
    flat, n = labels.ravel(), int(labels.max())
    area = np.maximum(np.bincount(flat, minlength=n + 1)[1:], 1)
    sums = [
        np.bincount(flat, weights=values[..., c].ravel(), minlength=n + 1)[1:]
        for c in range(values.shape[-1])
    ]
    return (np.stack(sums, axis=-1) / area[:, None]).astype(np.float32)
