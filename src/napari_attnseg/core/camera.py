"""What a camera makes of a generated scene: eight bits a channel, and what JPEG leaves of them."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    import numpy.typing as npt

    Pixels = npt.NDArray[np.uint8]

_COMPRESSED = 0.4  # share of the scenes that are kept as JPEG
_QUALITY = (25, 92)  # of JPEG, 1..95: from blocks that can be seen to none


def eight_bit(scene: npt.NDArray[np.float64]) -> Pixels:
    """Return a scene of 0..1 as 0..255; what lies outside is cut off."""
    out: Pixels = (np.clip(scene, 0, 1) * 255).astype(np.uint8)
    return out


def photographed(scene: npt.NDArray[np.float64], rng: np.random.Generator) -> Pixels:
    """Return a scene of 0..1, (H, W) or (H, W, 3), as a file would keep it: often with the traces of JPEG."""
    pixels = eight_bit(scene)
    return jpeg(pixels, int(rng.integers(*_QUALITY))) if rng.random() < _COMPRESSED else pixels


def jpeg(pixels: Pixels, quality: int) -> Pixels:
    """Return an image, (H, W) or (H, W, 3), compressed and read again; ``quality`` is 1..95."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    with Image.open(file) as image:
        return np.array(image)
