"""Sample data: real images of scikit-image's own wheel, and generated scenes with exact ground truth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    LayerData = tuple[Any, dict[str, Any], str]

SIDE = 384  # of generated images, pixels
FRAMES, SLICES = 8, 7


def tissue() -> list[LayerData]:
    """Return a stained tissue section, (512, 512, 3) uint8; its nuclei are about 12 pixels wide."""
    from napari_attnseg.core.demo import tissue_image

    return [(tissue_image(), {"name": "tissue", "rgb": True}, "image")]


def nuclear_stain() -> list[LayerData]:
    """Return the nuclear stain of the tissue section alone, (512, 512) uint8."""
    from napari_attnseg.core.demo import demo_image

    return [(demo_image(), {"name": "nuclear stain"}, "image")]


def cell() -> list[LayerData]:
    """Return one cell in quantitative phase, (660, 550) uint8."""
    from skimage import data

    return [(data.cell(), {"name": "cell"}, "image")]


def retina() -> list[LayerData]:
    """Return a photograph of the retina, (1411, 1411, 3) uint8."""
    from skimage import data

    return [(data.retina(), {"name": "retina", "rgb": True}, "image")]


def coins() -> list[LayerData]:
    """Return Greek coins on a dark ground, (303, 384) uint8."""
    from skimage import data

    return [(data.coins(), {"name": "coins"}, "image")]


def coffee() -> list[LayerData]:
    """Return a cup of coffee, (400, 600, 3) uint8."""
    from skimage import data

    return [(data.coffee(), {"name": "coffee", "rgb": True}, "image")]


def fluorescence() -> list[LayerData]:
    """Return generated fluorescent nuclei and their ground truth."""
    from napari_attnseg.core import synth

    return _with_truth("nuclei", *synth.fluorescence((SIDE, SIDE), 2))


def phase_contrast() -> list[LayerData]:
    """Return generated cells in phase contrast and their ground truth."""
    from napari_attnseg.core import synth

    return _with_truth("phase", *synth.phase_contrast((SIDE, SIDE), 1))


def photo() -> list[LayerData]:
    """Return a generated colour photograph of simple things and its ground truth."""
    from napari_attnseg.core import synth

    return _with_truth("photo", *synth.photo((SIDE, SIDE), 4), rgb=True)


def time_series() -> list[LayerData]:
    """Return nuclei that drift through the field, (T, Y, X), and their ground truth: ids follow an object."""
    images, labels = _drift(FRAMES)
    return _with_truth("nuclei over time", images, labels, axis_labels=("t", "y", "x"))


def z_stack() -> list[LayerData]:
    """Return nuclei in a z stack, sharp in the middle plane, with scale in micrometres, and ground truth.

    The ground truth of every plane is the outline in focus.
    """
    from scipy import ndimage

    images, labels = _drift(SLICES, step=0)
    middle = SLICES // 2
    blurred = [
        ndimage.gaussian_filter(plane.astype(np.float32), 0.6 * abs(z - middle)).astype(images.dtype)
        for z, plane in enumerate(images)
    ]
    return _with_truth(
        "nuclei in z",
        np.stack(blurred),
        labels,
        axis_labels=("z", "y", "x"),
        scale=(1.0, 0.5, 0.5),
        units=("um", "um", "um"),
    )


def _drift(count: int, step: int = 6) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.int32]]:
    """Return ``count`` windows of one large scene, each moved by ``step`` pixels and with its own noise."""
    from napari_attnseg.core import synth

    side, rng = 256, np.random.default_rng(8)
    scene, truth = synth.fluorescence((side + step * count, side + step * count), 8)
    noise = max(float(scene.std()) * 0.03, 1.0)
    images, labels = [], []
    for n in range(count):
        window = np.s_[n * step : n * step + side, n * step : n * step + side]
        noisy = scene[window] + rng.normal(0.0, noise, (side, side))
        images.append(np.clip(noisy, 0, np.iinfo(np.uint16).max).astype(np.uint16))
        labels.append(truth[window])
    return np.stack(images), np.stack(labels).astype(np.int32)


def _with_truth(
    name: str, image: npt.NDArray[Any], labels: npt.NDArray[np.int32], *, rgb: bool = False, **geometry: Any
) -> list[LayerData]:
    """Return the image layer and, above it and hidden, its ground truth."""
    return [
        (image, {"name": name, "rgb": rgb, **geometry}, "image"),
        (labels, {"name": f"{name} · ground truth", "visible": False, **geometry}, "labels"),
    ]
