"""The images of the demo: a real micrograph that scikit-image carries in its wheel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt


def tissue_image() -> npt.NDArray[np.uint8]:
    """Return colon tissue, nuclei blue, a protein brown, (512, 512, 3) uint8; nothing is downloaded."""
    from skimage import data

    return np.asarray(data.immunohistochemistry())


def demo_image() -> npt.NDArray[np.uint8]:
    """Return the nuclear stain (haematoxylin) of :func:`tissue_image`, (512, 512) uint8, bright on dark.

    Colour deconvolution after Ruifrok and Johnston (2001), as scikit-image does it.
    """
    from skimage.color import rgb2hed

    stain = rgb2hed(tissue_image())[..., 0]
    low, high = np.percentile(stain, [0.5, 99.8])
    return np.asarray(np.clip((stain - low) / (high - low), 0, 1) * 255).astype(np.uint8)
