"""Training from folders: pair images with labels, read and check them, hand them to the engine."""

from __future__ import annotations

import shutil
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from napari_attnseg import engine as door
from napari_attnseg.core import normalize
from napari_attnseg.core.axes import plane_keys, read_plane
from napari_attnseg.core.classes import class_names, class_numbers, numbered_names
from napari_attnseg.core.corrections import Changes, compare_labels, known_mask
from napari_attnseg.core.labels import compact
from napari_attnseg.errors import ModelError, StoreError, TrainingDataError
from napari_attnseg.jobs.planes import open_plane
from napari_attnseg.records import Progress, Sample, TrainEvent, TrainStep
from napari_attnseg.store import models, runs
from napari_attnseg.store.files import not_written
from napari_attnseg.store.images import images_in, read_image
from napari_attnseg.store.locks import take

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

    import numpy.typing as npt

    from napari_attnseg.params import Task, TrainParams


def train_folders(
    images: Path, labels: Path, params: TrainParams, masks: Path | None = None
) -> Generator[Progress | TrainStep | TrainEvent, None, int]:
    """Train a model on a folder of images and a folder of labels.

    Parameters
    ----------
    images, labels : Path
        Paired by file stem, whatever the type; images without labels are left out.
    params : TrainParams
        Name, start, tier, length (minutes count reading and start-up), known pixels, seed, device, resume.
    masks : Path or None
        Folder of masks, paired like the labels: pixels that are not 0 teach, besides ``params.known``.

    Yields
    ------
    Progress, then TrainStep and TrainEvent
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
        No pairs, a pair of different shapes, an image without a mask, or no objects at all.
    StoreError
        The name is taken, another process trains a model of that name, or the result could not be stored.
    """
    started = time.monotonic()
    models.check_name(params.name)
    models.check_home()
    models.check_new(params.name)  # said before the images are read
    if params.start == "scratch" and params.task == "classes":
        raise ModelError("Classes cannot be learnt from scratch.", "Start from 'base'.")
    if params.start != "scratch":
        models.find(params.start)  # an unknown name is said before the images are read
    with _locked(runs.trainings_folder() / params.name, params.resume):
        samples = yield from _read(images, labels, params, masks)
        yield from door.train_model(samples, params, started=started)
    return len(samples)


@contextmanager
def _locked(folder: Path, resume: bool) -> Iterator[None]:
    """Keep the folder of a training to this process; it stays where there is something to go on from.

    A training that was interrupted is not begun anew over what it has learnt.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise not_written(f"'{folder.name}' cannot be trained", err) from err
    lock = take(folder / "lock", wait=0.0)
    try:
        if not resume and (folder / "last.safetensors").exists():
            raise StoreError(
                f"A training of '{folder.name}' was interrupted and can go on.",
                f"Go on with --resume, take another name, or delete '{folder}'.",
            )
        yield
    finally:
        lock.close()
        if not (folder / "last.safetensors").exists():
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):  # there are others
                folder.parent.rmdir()


def _read(
    images: Path, labels: Path, params: TrainParams, masks: Path | None
) -> Generator[Progress, None, list[Sample]]:
    """Read the pairs of the two folders; return a sample for every plane."""
    samples: list[Sample] = []
    pairs = pair_by_stem(images, labels)
    mask_of = {} if masks is None else images_in(masks)
    for number, (image, label) in enumerate(pairs):
        yield Progress(number, len(pairs), f"Reading {image.name}")
        read = list(read_samples(image, label, params.task))
        if masks is not None:
            read = masked(read, mask_of.get(image.stem), image)
        samples.extend(with_known(read, params.known))
    if params.task == "classes":
        samples = with_names(samples, params)
    if not any(s.labels.any() for s in samples):
        what = "class" if params.task == "classes" else "object"
        raise TrainingDataError(f"The labels in '{labels}' hold no {what}.", "Draw some first.")
    return samples


def masked(samples: list[Sample], mask: Path | None, image: Path) -> list[Sample]:
    """Return samples that are known only where a mask is not 0; objects that the mask cuts are not known.

    Raises
    ------
    TrainingDataError
        There is no mask for the image, or it has another shape.
    """
    if mask is None:
        raise TrainingDataError(
            f"'{image.name}' has no mask of the same name.", "Give a mask for each image."
        )
    source = read_image(mask, labels=True)
    planes = [read_plane(source, key) != 0 for key in plane_keys(source)]
    if [p.shape for p in planes] != [s.labels.shape for s in samples]:
        raise TrainingDataError(
            f"The mask '{mask.name}' does not have the shape of '{image.name}'.",
            "Both must have the same planes, height and width.",
        )
    changes = Changes()
    return [
        replace(s, known=plane if s.classes else known_mask(None, s.labels, changes, "regions", plane))
        for s, plane in zip(samples, planes, strict=True)
    ]


def with_names(samples: list[Sample], params: TrainParams) -> list[Sample]:
    """Return samples of classes with the names of their numbers: those given, the parent's, or "class n"."""
    given = params.classes or class_names(models.find(params.start).card)
    count = max(len(s.classes) for s in samples)
    return [replace(s, classes=numbered_names(count, given)) for s in samples]


def with_known(samples: list[Sample], known: str) -> list[Sample]:
    """Return samples of which only the objects and a ring around them teach, when ``known`` is "objects".

    Of classes, only what is not 0 teaches then.
    """
    if known == "all":
        return samples
    return [
        replace(
            s,
            known=s.known
            & (s.labels != 0 if s.classes else known_mask(None, s.labels, compare_labels(None, s.labels))),
        )
        for s in samples
    ]


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


def read_samples(image: Path, labels: Path, task: Task = "instances") -> Iterator[Sample]:
    """Read one pair, one sample per plane; class numbers keep their values.

    Raises
    ------
    TrainingDataError
        The planes of the two files do not have one shape, the labels are in colour, or they look like
        objects where classes are asked for.
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
        channels_first = normalize.planes(plane.read(), plane.norm)
        drawn = read_plane(truth, key_truth)
        if drawn.dtype.kind == "f" and not np.array_equal(drawn, np.round(drawn)):  # NaN fails here too
            raise TrainingDataError(f"The labels '{labels}' are not whole numbers.", "Save them as integers.")
        objects: npt.NDArray[np.integer] = drawn.astype(np.int64)
        names: tuple[str, ...] = ()
        if task == "classes":
            names = numbered_names(max(class_numbers(objects, labels.name), default=1))
            ids = objects.astype(np.int32)
        else:
            ids = compact(objects)[0]
        name = " ".join([image.stem, *(str(i) for i in key_image.index)])
        known = np.ones(ids.shape, dtype=bool)
        yield Sample(np.ascontiguousarray(channels_first), ids, known, name, classes=names)
