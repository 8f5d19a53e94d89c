"""Generated photographs of things that lie on one another: stones, seeds, fruit, glass, coins.

The shapes are a *dead leaves* model: things of many sizes are thrown on one another, and each hides what
lies behind it (Lee, Mumford and Huang 2001, doi:10.1023/A:1011109015675).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_attnseg.core.camera import photographed
from napari_attnseg.core.shapes import (
    any_shape,
    border_distance,
    deepest,
    per_object,
    relabel,
    smooth_noise,
    tessellate,
)
from napari_attnseg.core.tidy import largest_pieces

if TYPE_CHECKING:
    import numpy.typing as npt

    Labels = npt.NDArray[np.int32]
    Field = npt.NDArray[np.float64]

_MOST = 600  # things thrown on one field
_SEEN = 0.2  # share of a thing that must be seen for it to be labelled
_SIZES = (0.4, 4.0)  # diameters of things, as multiples of the typical one


def pile(
    shape: tuple[int, int] = (512, 512), seed: int = 0, *, diameter: float = 24.0, **_other: float | str
) -> tuple[npt.NDArray[np.uint8], Labels]:
    """Return things that lie on one another: (image uint8 (H, W, 3), labels).

    Alike or of many sizes, colours and materials: dull or glossy, plain, veined or of two colours.  Some
    cover all of the field, others lie apart on sand, wood or cloth.  What is hidden for the most part is not
    labelled.
    """
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    cover = float(rng.choice([1.0, rng.uniform(0.3, 0.95), rng.uniform(0.05, 0.4)], p=[0.35, 0.4, 0.25]))
    things, share = leaves(shape, rng, diameter, cover, float(rng.choice([0.15, 0.35, 0.7])))
    inside = border_distance(things)
    round_by = float(rng.uniform(0.3, 1.0))  # 1: a ball; less: flat on top
    height = np.sqrt(np.clip(inside / (round_by * deepest(things, inside)), 0, 1))
    scene = np.where((things > 0)[..., None], _material(rng, things), _ground(rng, shape, diameter))
    scene *= _light(rng, things, height, diameter)[..., None]
    gloss = rng.uniform(0, 0.7) if rng.random() < 0.35 else 0.0
    scene += gloss * _highlights(rng, things, height)[..., None]
    scene *= 1 + rng.uniform(0, 0.25) * smooth_noise(rng, shape, 90)[..., None]
    scene = gaussian_filter(scene, (*[rng.uniform(0.4, 1.2)] * 2, 0))
    scene += rng.normal(0, rng.uniform(0.003, 0.03), (*shape, 3))
    labels = np.where((share >= _SEEN)[things], things, 0)
    return photographed(scene, rng), relabel(largest_pieces(labels))


def leaves(
    shape: tuple[int, int], rng: np.random.Generator, diameter: float, cover: float, spread: float
) -> tuple[Labels, npt.NDArray[np.float64]]:
    """Throw shapes on a field until they cover a share of it, those in front first.

    Parameters
    ----------
    diameter : float
        Typical one, pixels.
    cover : float
        Share of the field, 0..1.
    spread : float
        Standard deviation of the logarithm of the diameters.

    Returns
    -------
    tuple of ndarray
        Labels, (H, W) int32, 0 where nothing lies; and by label the share of the shape that is seen.
    """
    labels = np.zeros(shape, dtype=np.int32)
    shares, covered = [0.0], 0
    kinds = rng.choice(["blob", "ellipse", "shard", "rod"], int(rng.integers(1, 3)), p=[0.45, 0.25, 0.2, 0.1])
    for number in range(1, _MOST + 1):
        size = diameter * float(np.clip(rng.lognormal(0, spread), *_SIZES))
        mask = any_shape(rng, str(rng.choice(kinds)), size / 2)
        top, left = (int(rng.integers(n)) - m // 2 for n, m in zip(shape, mask.shape, strict=True))
        view = labels[max(top, 0) : top + mask.shape[0], max(left, 0) : left + mask.shape[1]]
        part = mask[max(-top, 0) :, max(-left, 0) :][: view.shape[0], : view.shape[1]]
        free = part & (view == 0)
        view[free] = number
        # what the frame cuts off is not hidden: a piece at the border counts like a whole thing
        shares.append(float(free.sum() / max(part.sum(), 1)))
        covered += int(free.sum())
        if covered >= cover * labels.size:
            break
    return labels, np.array(shares)


def _material(rng: np.random.Generator, things: Labels) -> Field:
    """Return the colours of things without light: (H, W, 3), each with a texture of its own."""
    first, second = _colours(rng, things), _colours(rng, things)
    shape, wide = things.shape, float(np.exp(rng.uniform(np.log(1.5), np.log(12))))
    fine = _own(rng, things, smooth_noise(rng, shape, rng.uniform(1, 3)))
    coarse = _own(rng, things, smooth_noise(rng, shape, 2 * wide))
    out = first * (1 + per_object(rng, things, 0, rng.uniform(0.02, 0.3)) * fine)[..., None]
    out *= (1 + per_object(rng, things, 0, rng.uniform(0.02, 0.25)) * coarse)[..., None]
    marked = rng.random(int(things.max()) + 1) < rng.choice([0.0, 0.3, 1.0], p=[0.45, 0.35, 0.2])
    turn = per_object(rng, things, 0, np.pi)
    y, x = np.mgrid[: shape[0], : shape[1]]
    across = (y * np.cos(turn) + x * np.sin(turn)) / wide + per_object(rng, things, 0, 6) + coarse
    swirl = 1 / (1 + np.exp(-rng.uniform(2, 8) * (np.sin(across) - rng.uniform(-0.5, 0.95))))
    out += (swirl * marked[things])[..., None] * (second - out)
    return out


def _colours(rng: np.random.Generator, things: Labels) -> Field:
    """Return a colour for every thing: alike, natural greys and browns, or each its own."""
    count = int(things.max()) + 1
    look = rng.choice(["alike", "natural", "own"], p=[0.35, 0.4, 0.25])
    if look == "natural":
        tint = rng.uniform([-0.05, -0.08, -0.2], [0.2, 0.08, 0.1], (count, 3)) * rng.uniform(0.3, 1)
        dark, light = sorted(rng.uniform(0.15, 0.95, 2))
        table = rng.uniform(dark, light, (count, 1)) * (1 + tint)
    elif look == "own":
        table = rng.uniform(0.05, 1, (count, 3))
    else:
        table = rng.uniform(0.1, 0.95, 3) * (1 + rng.normal(0, rng.uniform(0.03, 0.15), (count, 3)))
    out: Field = np.clip(table, 0.02, 1)[things]
    return out


def _own(rng: np.random.Generator, things: Labels, noise: Field) -> Field:
    """Return noise that does not go on from one thing to the next: each sees another part of it."""
    h, w = noise.shape
    count = int(things.max()) + 1
    dy, dx = rng.integers(h, size=count)[things], rng.integers(w, size=count)[things]
    y, x = np.mgrid[:h, :w]
    out: Field = noise[(y + dy) % h, (x + dx) % w]
    return out


def _light(rng: np.random.Generator, things: Labels, height: Field, diameter: float) -> Field:
    """Return how light each pixel is: lit from one side, darker at borders, in gaps and in shadows."""
    from scipy.ndimage import gaussian_filter, shift

    mask = things > 0
    light = 1 - rng.uniform(0, 0.5) * (1 - height) * mask
    turn = rng.uniform(0, 2 * np.pi)
    slope = np.gradient(gaussian_filter(height, max(0.7, 0.04 * diameter)))
    lit = 0.25 * diameter * (slope[0] * np.sin(turn) + slope[1] * np.cos(turn))
    light += rng.uniform(0, 0.35) * np.clip(lit, -1.2, 1.5) * mask
    away = np.array([-np.sin(turn), -np.cos(turn)]) * diameter * rng.uniform(0, 0.15)
    shadow = gaussian_filter(shift(mask.astype(float), away, order=0), max(1.0, 0.05 * diameter))
    light = np.where(mask, light, light * (1 - rng.uniform(0, 0.8) * shadow))
    gap = np.exp(-(border_distance(things) / max(1.0, 0.04 * diameter)))
    light *= 1 - rng.uniform(0, 0.5) * gap * mask
    out: Field = np.clip(light, 0.03, None)
    return out


def _highlights(rng: np.random.Generator, things: Labels, height: Field) -> Field:
    """Return the glare of a lamp on glossy things, 0..1."""
    from scipy.ndimage import gaussian_filter

    slope = np.gradient(gaussian_filter(height, 1.0))
    turn, steep = rng.uniform(0, 2 * np.pi), rng.uniform(0.02, 0.12)
    towards = slope[0] - steep * np.sin(turn), slope[1] - steep * np.cos(turn)
    out: Field = np.exp(-((np.hypot(*towards) / rng.uniform(0.008, 0.03)) ** 2)) * (things > 0)
    return out


def _ground(rng: np.random.Generator, shape: tuple[int, int], diameter: float) -> Field:
    """Return what things lie on: (H, W, 3)."""
    colour = rng.uniform(0.05, 0.95, 3)
    if rng.random() < 0.6:  # sand, soil, cloth: hardly coloured
        colour = colour.mean() * (1 + rng.uniform([-0.05, -0.1, -0.25], [0.2, 0.1, 0.05]))
    out: Field = colour + surface(rng, shape, diameter)[..., None]
    return np.clip(out, 0, None)


def surface(rng: np.random.Generator, shape: tuple[int, int], diameter: float) -> Field:
    """Return the texture of what objects lie on, around 0: cloudy, with stripes, or of small stones."""
    out: Field = rng.uniform(0.02, 0.1) * smooth_noise(rng, shape, rng.uniform(2, 10))
    look = rng.choice(3, p=[0.6, 0.2, 0.2])
    if look == 1:
        turn, wide = rng.uniform(0, np.pi), rng.uniform(4, 40)
        y, x = np.mgrid[: shape[0], : shape[1]]
        across = y * np.cos(turn) + x * np.sin(turn) + 0.5 * wide * smooth_noise(rng, shape, 4 * wide)
        out += rng.uniform(0.02, 0.12) * np.sin(2 * np.pi * across / wide)
    elif look == 2:
        stones = tessellate(shape, rng, max(4.0, diameter * rng.uniform(0.15, 0.4)), 0.9, rng.uniform(1, 1.6))
        out += per_object(rng, stones, -0.12, 0.12) - rng.uniform(0, 0.2) * (border_distance(stones) < 1)
    return out
