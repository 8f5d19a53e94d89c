"""Pictures for files: a heat map or labels laid over an image, as (H, W, 3) uint8."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_attnseg.core import normalize

if TYPE_CHECKING:
    import numpy.typing as npt

# Nine stops of a black - violet - orange - light yellow map of even lightness.
_HEAT = np.array(
    [
        (0, 0, 4),
        (32, 12, 74),
        (87, 16, 110),
        (136, 34, 106),
        (187, 55, 84),
        (227, 89, 51),
        (249, 140, 10),
        (249, 201, 50),
        (252, 255, 164),
    ],
    dtype=np.float32,
)
_GOLDEN = 0.61803399


def grey_or_colour(plane: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
    """Return a plane (H, W) or (H, W, C) as (H, W, 3) float32 in 0..1; C other than 3 is averaged."""
    colour = plane.ndim == 3 and plane.shape[-1] == 3
    scaled = normalize.apply(plane, normalize.percentiles(plane, rgb=colour))
    scaled = np.clip(scaled, 0.0, 1.0)
    if colour:
        return scaled
    grey = scaled if scaled.ndim == 2 else scaled.mean(axis=-1)
    return np.repeat(grey[..., None], 3, axis=-1)


def heat(
    values: npt.NDArray[np.floating], plane: npt.NDArray[np.generic], at: tuple[int, int] | None = None
) -> npt.NDArray[np.uint8]:
    """Lay a heat map over an image; the largest value is brightest, levels are square roots.

    Parameters
    ----------
    values : ndarray, (H, W)
        Not negative.
    plane : ndarray, (H, W) or (H, W, C)
    at : tuple of int, optional
        A (y, x) pixel to mark with a cross.
    """
    top = float(values.max(initial=0.0))
    level = np.sqrt(np.clip(values / top, 0.0, 1.0)) if top > 0 else np.zeros(values.shape)
    stops, shades = np.arange(len(_HEAT)), np.linspace(0, len(_HEAT) - 1, 256)
    image = grey_or_colour(plane).mean(axis=-1) * np.float32(255)
    strength = (0.15 + 0.7 * level).astype(np.float32)
    shade = np.rint(255 * level).astype(np.uint8)
    out = np.empty((*values.shape, 3), dtype=np.uint8)
    for c in range(3):  # one colour after the other: pictures may be large
        table = np.interp(shades, stops, _HEAT[:, c]).astype(np.float32)
        out[..., c] = np.clip(image * (1 - strength) + table[shade] * strength, 0, 255)
    if at is not None:
        _cross(out, at)
    return out


def _cross(picture: npt.NDArray[np.uint8], at: tuple[int, int]) -> None:
    """Draw a small open cyan cross around a pixel, in place."""
    h, w = picture.shape[:2]
    for reach in (2, 3, 4, 5, 6):
        for dy, dx in ((reach, 0), (-reach, 0), (0, reach), (0, -reach)):
            y, x = at[0] + dy, at[1] + dx
            if 0 <= y < h and 0 <= x < w:
                picture[y, x] = (0, 255, 255)


def overlay(labels: npt.NDArray[np.int32], plane: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    """Lay coloured objects with a bright outline over an image.

    Parameters
    ----------
    labels : ndarray, (H, W) int32
    plane : ndarray, (H, W) or (H, W, C)
    """
    image = grey_or_colour(plane)
    hue = ((labels * _GOLDEN) % 1.0).astype(np.float32)
    inside = labels > 0
    alpha = np.where(inside & outline(labels), np.float32(0.95), np.float32(0.3) * inside)
    out = np.empty((*labels.shape, 3), dtype=np.uint8)
    for c, turn in enumerate((0, 4, 2)):  # one colour after the other: pictures may be large
        colour = np.clip(np.abs((hue * 6 + turn) % 6 - 3) - 1, 0, 1)
        out[..., c] = np.clip((image[..., c] * (1 - alpha) + colour * alpha) * 255, 0, 255)
    return out


def outline(labels: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    """Return where a pixel differs from a 4-neighbour."""
    out = np.zeros(labels.shape, dtype=bool)
    down, right = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    out[1:] |= down
    out[:-1] |= down
    out[:, 1:] |= right
    out[:, :-1] |= right
    return out
