"""Comparing a folder of predicted labels with a folder of true ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_attnseg.core.metrics import compare, pooled, scores
from napari_attnseg.errors import InputError
from napari_attnseg.records import Progress
from napari_attnseg.store.images import images_in, read_image

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable
    from pathlib import Path

    import numpy.typing as npt


def evaluate_folders(pred: Path, truth: Path) -> Generator[Progress, None, dict[str, Any]]:
    """Score predicted against true label images, paired by file stem.

    Parameters
    ----------
    pred, truth : Path
        Folders of label images; 0 is background.

    Returns
    -------
    dict
        ``n``, ``ap`` by IoU threshold, ``mean_ap``, ``f1``, ``pq``, ``dice`` over all images pooled, and
        ``per_image``: the same for each, with its ``name``.

    Raises
    ------
    InputError
        A folder is empty, a partner is missing on either side, or the shapes of a pair differ.
    """
    found, wanted = images_in(pred), images_in(truth)
    if not wanted:
        raise InputError(f"'{truth}' holds no label images.", "TIFF, PNG and zarr are read.")
    if missing := wanted.keys() - found.keys():
        raise InputError(f"'{pred}' has no labels for {_some(missing)}.", "Segment these images too.")
    if extra := found.keys() - wanted.keys():
        raise InputError(f"'{truth}' has no labels for {_some(extra)}.", "Take these files out.")
    counts, per_image = [], []
    for number, (name, path) in enumerate(wanted.items()):
        yield Progress(number, len(wanted), name)
        a, b = read_labels(found[name]), read_labels(path)
        if a.shape != b.shape:
            raise InputError(
                f"'{name}' has the shape {a.shape} in '{pred}' and {b.shape} in '{truth}'.",
                "The labels of a pair must have one shape.",
            )
        one = compare(a, b)
        counts.append(one)
        per_image.append({"name": name, **scores(one)})
    yield Progress(len(wanted), len(wanted), "Done")
    return {**pooled(counts), "per_image": per_image}


def read_labels(path: Path) -> npt.NDArray[np.generic]:
    """Return a label image of any number of axes; ``InputError`` for colours."""
    source = read_image(path, labels=True)
    if source.rgb:
        raise InputError(f"'{path}' is a colour image, not labels.", "Labels are one number per pixel.")
    return np.asarray(source.data[...])


def _some(names: Iterable[str]) -> str:
    listed = sorted(names)
    more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
    return ", ".join(f"'{n}'" for n in listed[:3]) + more
