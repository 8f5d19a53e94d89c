"""The image of the demo: a real micrograph that scikit-image carries in its wheel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt


def demo_image() -> npt.NDArray[np.uint8]:
    """Return colon tissue with stained nuclei, (512, 512, 3) uint8; nothing is downloaded."""
    from skimage import data

    return np.asarray(data.immunohistochemistry())
