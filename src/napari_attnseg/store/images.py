"""Reading images of the usual file types, and writing results whole or not at all."""

from __future__ import annotations

import os
import shutil
import stat
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_attnseg.core.axes import check, reason
from napari_attnseg.errors import AttnSegError, InputError, StoreError
from napari_attnseg.store.readers import any_size, read_pillow, read_tiff, read_zarr

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy.typing as npt

    from napari_attnseg.records import ImageSource

TIFF, JPEG, ZARR = (".tif", ".tiff"), (".jpg", ".jpeg"), (".zarr",)
_MADE_BY = "napari-attnseg"  # in the headers of what is written here
SUFFIXES = (*TIFF, ".png", *JPEG, *ZARR)


def is_zarr(path: Path) -> bool:
    """Tell whether a path is zarr by its name, or a folder of zarr such as one array inside a .zarr."""
    marks = ("zarr.json", ".zarray", ".zgroup")
    return path.suffix.lower() in ZARR or any(os.path.isfile(path / mark) for mark in marks)


def stem_of(path: Path) -> str:
    """Return the name of an image without its type: "cells" of cells.tif, "plate_a_0" of plate.zarr/a/0."""
    if path.suffix.lower() in SUFFIXES:
        return path.stem
    root = next((folder for folder in path.parents if folder.suffix.lower() in ZARR), None)
    if root is not None and is_zarr(path):
        return "_".join((root.stem, *path.relative_to(root).parts))
    return path.stem


def check_path(path: Path) -> None:
    """Raise ``InputError`` unless ``path`` exists and has a readable file type."""
    try:
        folder = stat.S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError) as err:
        raise InputError(f"There is no file '{path}'.", "Check the spelling and the folder.") from err
    except (OSError, ValueError) as err:
        raise InputError(
            f"'{path}' cannot be opened ({reason(err)}).", "Check the path and the rights of its folders."
        ) from err
    if folder:
        if not is_zarr(path):
            raise InputError(f"'{path}' is a folder.", f"Name its images, such as '{path / '*.tif'}'.")
    elif path.suffix.lower() not in SUFFIXES:
        kind = f"files of type '{path.suffix}'" if path.suffix else "files without a type"
        raise InputError(f"'{path}': {kind} cannot be read.", "Use TIFF, PNG, JPEG or zarr.")


def read_image(path: Path, *, labels: bool = False) -> ImageSource:
    """Open an image; large TIFFs and zarr arrays are read only where they are asked for.

    Parameters
    ----------
    path : Path
        TIFF (any number of axes, OME and ImageJ metadata), PNG, JPEG or zarr (array or OME-Zarr).
    labels : bool
        Take the numbers of a palette, not its colours, and refuse JPEG, which changes numbers.

    Raises
    ------
    InputError
        Missing, of an unknown type, damaged, empty, or with samples that are no numbers.  What is read later
        raises it then.
    """
    check_path(path)
    suffix = path.suffix.lower()
    if labels and suffix in JPEG:
        raise InputError(
            f"'{path}' is a JPEG, which does not keep the numbers of labels.", "Save labels as TIFF or PNG."
        )
    try:
        with _readable(path):
            if is_zarr(path):
                source = read_zarr(path)
            else:
                source = (read_tiff if suffix in TIFF else read_pillow)(path, palette=not labels)
    except MemoryError as err:
        raise InputError(f"'{path}' does not fit into memory.", "Convert it to zarr.") from err
    check(source)
    data = source.data if isinstance(source.data, np.ndarray) else OnDisk(path, source.data)
    return replace(source, data=data, name=stem_of(path))


class OnDisk:
    """Samples that are read where they are indexed; what cannot be read is an ``InputError`` then."""

    def __init__(self, path: Path, data: Any) -> None:
        self._path, self._data = path, data
        self.shape, self.dtype, self.ndim = data.shape, data.dtype, data.ndim

    def __getitem__(self, index: Any) -> npt.NDArray[np.generic]:
        with _readable(self._path):
            return np.asarray(self._data[index])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.asarray(self[...], dtype=dtype)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (AttnSegError, MemoryError):
        raise
    except Exception as err:  # decoders raise anything: all of it means "not readable"
        hint = "The file may be damaged or of another type than its name says."
        raise InputError(
            f"'{path}' could not be read ({reason(err)}).",
            "Check the rights of the file." if isinstance(err, PermissionError) else hint,
        ) from err


# --- writing --------------------------------------------------------------------------------------


def write_labels(path: Path, labels: npt.NDArray[np.int32], axes: str = "") -> None:
    """Write labels as int32 TIFF or zarr, by the suffix of ``path``.

    Parameters
    ----------
    path : Path
        An older file of that name is replaced once the new one is complete.
    labels : ndarray, (..., Y, X) int32
    axes : str, optional
        One letter per axis.

    Raises
    ------
    StoreError
        The disk is full or the folder cannot be written; nothing half-written is left.
    """
    axes = axes or "ZTPVWUR"[: labels.ndim - 2][::-1] + "YX"
    if path.suffix.lower() in ZARR:
        _write_zarr(path, labels.astype(np.int32, copy=False), axes)
    else:
        write_tiff(path, labels.astype(np.int32, copy=False), axes)


def write_tiff(path: Path, data: npt.NDArray[np.generic], axes: str = "YX") -> None:
    """Write a TIFF, zlib-compressed; ``axes`` may end with S (colours); errors: :func:`write_labels`."""
    with replacing(path) as part:
        save_tiff(part, data, axes)


def write_png(path: Path, picture: npt.NDArray[np.uint8]) -> None:
    """Write a PNG, (H, W) or (H, W, 3 or 4) uint8.  Errors as for :func:`write_labels`."""
    with replacing(path) as part:
        save_png(part, picture)


def save_tiff(part: Path, data: npt.NDArray[np.generic], axes: str = "YX") -> None:
    """Write a TIFF to a path that :func:`replacing` gave: several files can then appear together."""
    import tifffile

    tifffile.imwrite(
        part,
        data,
        photometric="rgb" if axes.endswith("S") else "minisblack",
        compression="zlib",
        software=_MADE_BY,
        metadata={"axes": axes},
        ome=False,
    )


def save_png(part: Path, picture: npt.NDArray[np.uint8]) -> None:
    """Write a PNG to a path that :func:`replacing` gave."""
    from PIL import Image, PngImagePlugin

    about = PngImagePlugin.PngInfo()
    about.add_text("Software", _MADE_BY)
    Image.fromarray(picture).save(part, format="PNG", pnginfo=about)


def check_ours(path: Path) -> None:
    """Raise ``StoreError`` where something lies at a path that was not written here: it is not replaced.

    What is written here says so in its header, which other programs do not keep: labels that were corrected
    and saved elsewhere are somebody's own.
    """
    if path.suffix.lower() not in ZARR:
        check_no_folder(path)
    if os.path.lexists(path) and not _is_ours(path):
        raise StoreError(
            f"'{path}' is there already and is no result of a run.", "Move it, or choose another --out."
        )


def _is_ours(path: Path) -> bool:
    try:
        if path.suffix.lower() in ZARR:
            import zarr

            node = zarr.open(str(path), mode="r")
            return isinstance(node, zarr.Array) and node.attrs.get("software") == _MADE_BY
        if path.suffix.lower() in TIFF:
            import tifffile

            with tifffile.TiffFile(path) as file:
                return bool(file.pages.first.software == _MADE_BY)
        from PIL import Image

        with any_size(), Image.open(path) as picture:
            return bool(picture.info.get("Software") == _MADE_BY)
    except Exception:  # whatever cannot be opened is not ours
        return False


def _write_zarr(path: Path, data: npt.NDArray[np.generic], axes: str) -> None:
    import zarr

    chunks = tuple(min(n, 512) if a in "YX" else 1 for n, a in zip(data.shape, axes, strict=True))
    with replacing(path) as part:
        array = zarr.create_array(
            store=str(part),
            shape=data.shape,
            dtype=data.dtype,
            chunks=chunks,
            dimension_names=[a.lower() for a in axes],
            attributes={"software": _MADE_BY},
        )
        array[...] = data


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path`` to write to; rename it to ``path`` on success.

    On any failure the temporary file or folder is removed, and the folders that were made for it; an
    ``OSError`` becomes a ``StoreError``.
    """
    if path.suffix != ".zarr":
        check_no_folder(path)  # said before anything is written, also of several
    made = [folder for folder in path.parents if not os.path.exists(folder)]
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        make_folder(path.parent)
        yield part
        if part.is_dir() and path.is_dir():  # a folder cannot be replaced in one step
            old = path.with_name(f".{path.name}.{os.getpid()}.old")
            path.rename(old)
            part.rename(path)
            _discard(old)
        else:
            part.replace(path)
    except OSError as err:
        raise StoreError(
            f"'{path}' could not be written ({reason(err)}).",
            "Check the free space and the rights of the folder.",
        ) from err
    finally:
        _discard(part)
        for folder in made:
            with suppress(OSError):  # not empty: all went well, or others write there too
                folder.rmdir()


def check_no_folder(path: Path) -> None:
    """Raise ``StoreError`` where a folder lies in the place of a file."""
    if os.path.isdir(path):
        raise StoreError(f"'{path}' is a folder.", "Rename it, or choose another folder for the results.")


def make_folder(folder: Path) -> None:
    """Create a folder and its parents; ``StoreError`` where that is not possible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise StoreError(
            f"The folder '{folder}' could not be made ({reason(err)}).", "Choose another folder."
        ) from err


def check_folder(folder: Path, hint: str) -> None:
    """Raise ``StoreError`` unless ``folder`` can be written, or made where it is not there yet."""
    try:
        place = next(part for part in (folder, *folder.parents) if _is_there(part))
        if not place.is_dir():
            raise StoreError(f"'{place}' is a file, not a folder.", hint)
    except OSError as err:
        raise StoreError(f"The folder '{folder}' cannot be used ({reason(err)}).", hint) from err
    if not os.access(place, os.W_OK):
        raise StoreError(f"The folder '{place}' cannot be written.", hint)


def _is_there(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return path == path.parent or path.is_symlink()  # a link to nowhere is in the way
    return True


def _discard(path: Path) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):  # what cannot be removed must not hide the first error
            path.unlink(missing_ok=True)


# --- folders --------------------------------------------------------------------------------------


def images_in(folder: Path) -> dict[str, Path]:
    """Return the readable image files of a folder by stem, sorted.

    Raises
    ------
    InputError
        No such folder, a file in its place, or two files of one stem.
    """
    try:
        paths = sorted(folder.iterdir())
    except FileNotFoundError as err:
        raise InputError(f"There is no folder '{folder}'.", "Check the spelling.") from err
    except NotADirectoryError as err:
        raise InputError(f"'{folder}' is a file, not a folder.", "Name the folder that it lies in.") from err
    except OSError as err:
        raise InputError(
            f"The folder '{folder}' cannot be opened ({reason(err)}).", "Check the path and its rights."
        ) from err
    found: dict[str, Path] = {}
    for path in paths:
        if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
            continue
        if os.path.isdir(path) and path.suffix.lower() not in ZARR:
            continue
        if path.stem in found:
            raise InputError(
                f"'{found[path.stem].name}' and '{path.name}' in '{folder}' have the same name.",
                "Names must differ before the dot.",
            )
        found[path.stem] = path
    return found
