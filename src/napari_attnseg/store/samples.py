"""Training samples on disk, and the shelf: those of earlier runs, kept by content."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_attnseg.errors import CheckpointError
from napari_attnseg.records import Sample
from napari_attnseg.store import models
from napari_attnseg.store.files import write_atomic

if TYPE_CHECKING:
    from pathlib import Path


def write_sample(path: Path, sample: Sample) -> None:
    """Write a sample as npz without pickles, whole or not at all; ``StoreError`` if that fails.

    The file depends on nothing but the sample, so that equal samples have equal files.
    """
    meta = {"name": sample.name, "origin": list(sample.origin), "objects": list(sample.objects)}
    if sample.classes:
        meta["classes"] = list(sample.classes)
    arrays = {
        "image": np.asarray(sample.image, dtype=np.float32),
        "labels": np.asarray(sample.labels, dtype=np.int32),
        "known": np.asarray(sample.known, dtype=bool),
        "meta": np.array(json.dumps(meta)),
    }
    if sample.before is not None:
        arrays["before"] = np.asarray(sample.before, dtype=np.int32)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    write_atomic(path, buffer.getvalue())


def read_sample(path: Path) -> Sample:
    """Read what :func:`write_sample` wrote; ``CheckpointError`` where it is damaged."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            meta = json.loads(str(file["meta"]))
            return Sample(
                image=file["image"],
                labels=file["labels"],
                known=file["known"],
                name=str(meta["name"]),
                origin=(int(meta["origin"][0]), int(meta["origin"][1])),
                before=file.get("before", None),
                objects=tuple(int(i) for i in meta["objects"]),
                classes=tuple(str(n) for n in meta.get("classes", ())),
            )
    except (OSError, ValueError, KeyError, IndexError, TypeError, EOFError, zipfile.BadZipFile) as err:
        raise CheckpointError(f"The sample '{path.name}' cannot be read.", "Start a new run.") from err


def shelf_folder() -> Path:
    """Return the folder of the shelf (it may not exist yet)."""
    return models.home() / "shelf"


@dataclass(frozen=True, slots=True)
class Kept:
    """A sample on the shelf.

    Attributes
    ----------
    key : str
        Hash of its content.
    name : str
        Image and plane.
    created : float
        When it was first kept, seconds since 1970.
    objects : int
        Number of objects that it teaches.
    shape : tuple of int
        (H, W) pixels.
    path : Path
        Read it by :func:`read_sample`.
    classes : tuple of str
        Names of its classes; empty where it teaches objects.
    """

    key: str
    name: str
    created: float
    objects: int
    shape: tuple[int, int]
    path: Path
    classes: tuple[str, ...] = ()


def keep_on_shelf(path: Path) -> None:
    """Keep the sample of a file; one that is there already, and a shelf that cannot be written, are fine."""
    with suppress(OSError):
        data = path.read_bytes()
        target = shelf_folder() / f"{hashlib.sha256(data).hexdigest()[:20]}.npz"
        if target.exists():
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        shutil.copyfile(path, temporary)
        os.replace(temporary, target)


def shelf() -> list[Kept]:
    """Return the samples of earlier runs, newest first; those that cannot be read are left out."""
    from napari_attnseg.core.corrections import known_objects

    found = []
    for path in shelf_folder().glob("[!.]*.npz"):
        with suppress(CheckpointError, OSError):
            sample = read_sample(path)
            h, w = sample.labels.shape
            classes, made = sample.classes, path.stat().st_mtime
            count = 0 if classes else len(known_objects(sample))
            found.append(Kept(path.stem, sample.name, made, count, (h, w), path, classes))
    return sorted(found, key=lambda k: (-k.created, k.key))


def take_off_shelf(key: str) -> None:
    """Forget a sample of the shelf."""
    with suppress(OSError):
        (shelf_folder() / f"{key}.npz").unlink(missing_ok=True)
