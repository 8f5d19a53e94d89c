"""Models that leave and arrive: as a zip file, or as a folder.

Either holds ``card.json`` and ``weights.safetensors`` and nothing that could run.  What arrives is checked
before anything is written: names in the archive, the card's schema, the hash and the layout of the weights.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import zipfile
import zlib
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from napari_attnseg.errors import CheckpointError, StoreError
from napari_attnseg.store import models
from napari_attnseg.store.files import not_written, write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari_attnseg.records import ModelCard

CARD, WEIGHTS = "card.json", "weights.safetensors"
_MOST = {CARD: 4 << 20, WEIGHTS: 4 << 30}  # bytes
_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip
_BROKEN = (  # all that a damaged archive may raise
    zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, RuntimeError, EOFError, ValueError,
    KeyError, struct.error, zlib.error,
)  # fmt: skip
_WHAT = "A model is a zip file or a folder with card.json and weights.safetensors in it."


def export_model(name: str, out: Path) -> Path:
    """Write a model to ``out``: a zip file, or a folder where the name has no ``.zip``.

    Returns
    -------
    Path
        What was written.

    Raises
    ------
    UnknownModelError
        There is no such model.
    StoreError
        ``out`` exists, or cannot be written.
    CheckpointError
        The model's files are damaged.
    """
    stored = models.find(name)
    if out.exists():
        raise StoreError(f"'{out}' exists already.", "Choose another name: nothing is overwritten.")
    weights = _read(stored.weights)
    _check_weights(name, stored.card, weights)
    # the hash is written even where the stored card has none: the import asks for it
    card = replace(stored.card, sha256=hashlib.sha256(weights).hexdigest())
    files = {CARD: json.dumps(card.to_json(), indent=1).encode(), WEIGHTS: weights}
    if out.suffix.lower() == ".zip":
        _write_zip(out, name, files)
    else:
        _write_folder(out, files)
    return out


def import_model(path: Path, name: str | None = None) -> ModelCard:
    """Take a model from a zip file or a folder into the models folder.

    Parameters
    ----------
    path : Path
    name : str, optional
        The new name; that of the card or folder when None.

    Raises
    ------
    StoreError
        It cannot be read or written, or the name is taken: nothing is ever overwritten.
    CheckpointError
        It is not a model, or is damaged.
    InputError
        The name cannot be a folder's.
    """
    found, card, weights = _open(path)
    name = name or found
    models.check_name(name)
    _check_weights(name, card, weights)
    models.check_new(name, "Rename that one first, or give another name.")
    card = replace(card, id=name, name=name if card.name == card.id else card.name)
    files = {CARD: json.dumps(card.to_json(), indent=1).encode(), WEIGHTS: weights}
    _write_folder(models.models_folder() / name, files)
    return models.find(name).card


def name_in(path: Path) -> str:
    """Return the name that a model has in a zip file or folder.

    Raises
    ------
    StoreError
        There is no such file, or it cannot be read.
    CheckpointError
        It is not a model.
    """
    path = _whole(path)
    if path.is_dir():
        return path.resolve().name
    with _archive(path) as archive:
        return _folder_in(archive, path).name or path.stem


def _whole(path: Path) -> Path:
    """Return the folder of a model where one of its files is given."""
    return path.parent if path.name in (CARD, WEIGHTS) and path.is_file() else path


def _open(path: Path) -> tuple[str, ModelCard, bytes]:
    """Return the name, the card and the weights that lie in a zip file or folder."""
    path = _whole(path)
    if path.is_dir():
        return path.resolve().name, models.parse_card(_read(path / CARD), path.name), _read(path / WEIGHTS)
    if not path.exists():
        raise StoreError(f"'{path}' does not exist.", "Check the spelling and the folder.")
    with _archive(path) as archive:
        folder = _folder_in(archive, path)
        inside = {key: archive.getinfo(str(folder / key)) for key in (CARD, WEIGHTS)}
        for key, info in inside.items():
            if info.file_size > _MOST[key]:
                raise CheckpointError(f"'{key}' in '{path.name}' is too large to be of a model.", _WHAT)
        name = folder.name or path.stem
        data = {key: archive.read(info) for key, info in inside.items()}
    return name, models.parse_card(data[CARD], name), data[WEIGHTS]


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip file; what is wrong with it is said in words."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except _BROKEN as err:
        raise CheckpointError(f"'{path.name}' is not a readable zip file.", _WHAT) from err
    except OSError as err:
        raise StoreError(f"'{path}' cannot be read: {err.strerror or err}.", _WHAT) from err


def _folder_in(archive: zipfile.ZipFile, path: Path) -> PurePosixPath:
    """Return the folder of the model in an archive; names that lead out of it are refused."""
    folders = []
    for info in archive.infolist():
        inner = PurePosixPath(info.filename)
        odd = inner.is_absolute() or ".." in inner.parts or "\\" in info.filename or ":" in info.filename
        link = (info.external_attr >> 16) & 0o170000 == 0o120000
        if odd or link:
            raise CheckpointError(f"'{path.name}' holds a name that leads out of it: refused.", _WHAT)
        if inner.name == CARD:
            folders.append(inner.parent)
    names = set(archive.namelist())
    folders = [folder for folder in folders if str(folder / WEIGHTS) in names]
    if len(folders) != 1:
        many = "more than one model" if folders else "no model"
        raise CheckpointError(f"'{path.name}' holds {many}.", _WHAT)
    return folders[0]


def _check_weights(name: str, card: ModelCard, weights: bytes) -> None:
    """Raise ``CheckpointError`` unless the weights are those of the card and plain safetensors."""
    if card.sha256 and hashlib.sha256(weights).hexdigest() != card.sha256:
        raise CheckpointError(
            f"The weights of '{name}' are damaged or not those of its card.", "Get the model again."
        )
    try:
        (size,) = struct.unpack("<Q", weights[:8])
        header: dict[str, Any] = json.loads(weights[8 : 8 + size]) if size <= len(weights) - 8 else {}
        header.pop("__metadata__", None)
        spans = sorted(_span(entry) for entry in header.values())
        ends = [0, *(stop for _, stop in spans)]
        sound = bool(spans) and [start for start, _ in spans] == ends[:-1]
        sound = sound and ends[-1] == len(weights) - 8 - size
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as err:
        raise CheckpointError(f"The weights of '{name}' are not safetensors.", _WHAT) from err
    if not sound:
        raise CheckpointError(f"The weights of '{name}' are not safetensors.", _WHAT)


def _span(entry: dict[str, Any]) -> tuple[int, int]:
    """Return where a tensor lies; ``ValueError`` where its size is not that of its shape."""
    start, stop = (int(n) for n in entry["data_offsets"])
    count = _BYTES[entry["dtype"]]
    for side in entry["shape"]:
        count *= int(side)
    if stop - start != count:
        raise ValueError(entry)
    return start, stop


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as err:
        raise StoreError(f"'{path.name}' cannot be read: {err.strerror or err}.", _WHAT) from err


def _write_zip(out: Path, name: str, files: dict[str, bytes]) -> None:
    from io import BytesIO

    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for key, data in files.items():
            archive.writestr(f"{name}/{key}", data)
    write_atomic(out, buffer.getvalue())


def _write_folder(folder: Path, files: dict[str, bytes]) -> None:
    """Write files into a new folder, which appears whole or not at all."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        for key, data in files.items():
            write_atomic(temporary / key, data)
        os.rename(temporary, folder)
    except OSError as err:
        raise not_written(f"'{folder}' could not be written", err) from err
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
