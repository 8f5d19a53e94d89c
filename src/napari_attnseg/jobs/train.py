"""Training from folders: pair images with labels, read and check them, hand them to the engine."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import numpy as np

from napari_attnseg import engine as door
from napari_attnseg.core import normalize
from napari_attnseg.core.axes import plane_keys, read_plane
from napari_attnseg.core.labels import compact
from napari_attnseg.errors import InputError, TrainingDataError
from napari_attnseg.jobs.planes import open_plane
from napari_attnseg.records import Progress, Sample, TrainStep
from napari_attnseg.store import models
from napari_attnseg.store.images import images_in, read_image

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

    import numpy.typing as npt

    from napari_attnseg.params import TrainParams


def train_folders(
    images: Path, labels: Path, params: TrainParams
) -> Generator[Progress | TrainStep, None, int]:
    """Train a model on a folder of images and a folder of labels; every pixel is taken as known.

    Parameters
    ----------
    images, labels : Path
        Paired by file stem, whatever the type; images without labels are left out.
    params : TrainParams
        Name, start, length (minutes count reading and start-up), seed, device, resume.

    Yields
    ------
    Progress, then TrainStep
        One per image read, then one per step.

    Returns
    -------
    int
        Number of planes learnt from.

    Raises
    ------
    InputError
        The name cannot be a folder's.
    TrainingDataError
        No pairs, a pair of different shapes, or no objects at all.
    StoreError
        The name is taken, or the result could not be stored.
    """
    started = time.monotonic()
    check_name(params.name)
    models.check_home()
    if params.start != "scratch":
        models.find(params.start)  # an unknown name is said before the images are read
    samples: list[Sample] = []
    pairs = pair_by_stem(images, labels)
    for number, (image, label) in enumerate(pairs):
        yield Progress(number, len(pairs), f"Reading {image.name}")
        samples.extend(read_samples(image, label))
    if not any(s.labels.any() for s in samples):
        raise TrainingDataError(f"The labels in '{labels}' hold no object.", "Draw some objects first.")
    yield from door.train_model(samples, params, started=started)
    return len(samples)


def check_name(name: str) -> None:
    """Raise ``InputError`` unless ``name`` can be the name of a model and its folder on every system."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name) or name.endswith(".") or name == "scratch":
        raise InputError(
            f"A model cannot be named '{name}'.",
            "Use up to 64 letters, digits, dots, dashes and underscores, beginning with a letter or digit.",
        )


def pair_by_stem(images: Path, labels: Path) -> list[tuple[Path, Path]]:
    """Return (image, labels) of equal file stem; ``TrainingDataError`` if there is none."""
    of_image, of_labels = images_in(images), images_in(labels)
    pairs = [(path, of_labels[stem]) for stem, path in of_image.items() if stem in of_labels]
    if not pairs:
        raise TrainingDataError(
            f"No image in '{images}' has labels of the same name in '{labels}'.",
            f"There are {len(of_image)} images and {len(of_labels)} label files; "
            "'cell1.tif' is paired with 'cell1.png'.",
        )
    return pairs


def read_samples(image: Path, labels: Path) -> Iterator[Sample]:
    """Read one pair, one sample per plane.

    Raises
    ------
    TrainingDataError
        The planes of the two files do not have one shape, or the labels are in colour.
    """
    source, truth = read_image(image), read_image(labels, labels=True)
    shapes = [(*s.plane_shape, *s.shape_yx) for s in (source, truth)]
    if truth.rgb or truth.channels > 1:
        raise TrainingDataError(
            f"'{labels}' has {truth.channels} channels.",
            "Labels are one number per pixel: 0, 1, 2 and so on.",
        )
    if shapes[0] != shapes[1]:
        raise TrainingDataError(
            f"'{image.name}' has the shape {shapes[0]}, its labels have {shapes[1]}.",
            "Both must have the same planes, height and width.",
        )
    for key_image, key_truth in zip(plane_keys(source), plane_keys(truth), strict=True):
        plane = open_plane(source, key_image)
        scaled = normalize.apply(plane.read(), plane.norm)
        channels_first = scaled[None] if scaled.ndim == 2 else np.moveaxis(scaled, -1, 0)
        drawn = read_plane(truth, key_truth)
        if drawn.dtype.kind == "f" and not np.array_equal(drawn, np.round(drawn)):  # NaN fails here too
            raise TrainingDataError(f"The labels '{labels}' are not whole numbers.", "Save them as integers.")
        objects: npt.NDArray[np.integer] = drawn.astype(np.int64)
        ids = compact(objects)[0]
        yield Sample(np.ascontiguousarray(channels_first), ids, np.ones(ids.shape, dtype=bool))
