"""Reading images of the usual file types, and writing results whole or not at all."""

from __future__ import annotations

import logging
import os
import shutil
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_attnseg.core.axes import check, guess_axes, looks_rgb
from napari_attnseg.errors import InputError, StoreError
from napari_attnseg.records import ImageSource

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import numpy.typing as npt

TIFF, PILLOW, ZARR = (".tif", ".tiff"), (".png", ".jpg", ".jpeg"), (".zarr",)
_LOG = logging.getLogger(__name__)
SUFFIXES = (*TIFF, *PILLOW, *ZARR)
EAGER_BYTES = 64 * 2**20  # smaller TIFFs are read at once, larger ones stay on disk


def check_path(path: Path) -> None:
    """Raise ``InputError`` unless ``path`` exists and has a readable file type."""
    if not path.exists():
        raise InputError(f"There is no file '{path}'.", "Check the spelling and the folder.")
    if path.is_dir() and path.suffix.lower() not in ZARR:
        raise InputError(f"'{path}' is a folder.", f"Name its images, such as '{path / '*.tif'}'.")
    if path.suffix.lower() not in SUFFIXES:
        kind = f"files of type '{path.suffix}'" if path.suffix else "files without a type"
        raise InputError(f"'{path}': {kind} cannot be read.", "Use TIFF, PNG, JPEG or zarr.")


def read_image(path: Path, *, labels: bool = False) -> ImageSource:
    """Open an image; large TIFFs and zarr arrays are read only where they are asked for.

    Parameters
    ----------
    path : Path
        TIFF (any number of axes, OME and ImageJ metadata), PNG, JPEG or zarr (array or OME-Zarr).
    labels : bool
        Take the numbers of a PNG with a palette, not their colours.

    Raises
    ------
    InputError
        Missing, of an unknown type, damaged, empty, or with samples that are no numbers.
    """
    check_path(path)
    suffix = path.suffix.lower()
    reader = _read_tiff if suffix in TIFF else _read_zarr
    try:
        source = _read_pillow(path, palette=not labels) if suffix in PILLOW else reader(path)
    except InputError:
        raise
    except MemoryError as err:
        raise InputError(f"'{path}' does not fit into memory.", "Convert it to zarr.") from err
    except Exception as err:  # decoders raise anything: all of it means "not readable"
        raise InputError(
            f"'{path}' could not be read ({_short(err)}).",
            "The file may be damaged or of another type than its name says.",
        ) from err
    check(source)
    return source


def _source(
    path: Path, data: Any, axes: str, rgb: bool, scale: tuple[float, ...] = (), units: tuple[str, ...] = ()
) -> ImageSource:
    return ImageSource(
        data, axes, rgb, path.stem, scale or (1.0,) * len(axes), units or ("pixel",) * len(axes)
    )


# --- TIFF -----------------------------------------------------------------------------------------


def _read_tiff(path: Path) -> ImageSource:
    import tifffile

    with tifffile.TiffFile(path) as tif:
        if not tif.series:
            raise InputError(f"'{path}' holds no image.", "Choose another file.")
        if len(tif.series) > 1:
            _LOG.warning("'%s' holds %d images of different kinds: the first is read.", path, len(tif.series))
        series = tif.series[0]
        axes, rgb = _tiff_axes(series.axes, series.shape)
        data = _tiff_data(path, series)
    return _source(path, data, axes, rgb)


class LazyTiff:
    """A TIFF that is read where it is indexed; the file is open only while it is read."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.path, self.shape, self.dtype, self.ndim = path, shape, dtype, len(shape)

    def __getitem__(self, index: Any) -> npt.NDArray[np.generic]:
        import tifffile
        import zarr

        with tifffile.TiffFile(self.path) as tif, tif.series[0].aszarr(level=0) as store:
            return np.asarray(zarr.open_array(store, mode="r")[index])


def _tiff_data(path: Path, series: Any) -> Any:
    import tifffile

    try:
        if series.nbytes <= EAGER_BYTES:
            return series.asarray()
        if series.dataoffset is not None:
            return tifffile.memmap(path, series=0, mode="r")
        lazy = LazyTiff(path, tuple(series.shape), series.dtype)
        lazy[(0,) * lazy.ndim]  # shows now whether it can be decoded
    except ValueError as err:  # a compression that needs the optional package imagecodecs
        if "imagecodecs" not in str(err):
            raise
        return _compressed(path, series)
    return lazy


def _compressed(path: Path, series: Any) -> npt.NDArray[np.generic]:
    """Read the pages through Pillow, which knows the common compressions."""
    from PIL import Image, ImageSequence

    try:
        with Image.open(path) as image:
            pages = [np.asarray(page) for page in ImageSequence.Iterator(image)]
        data = np.stack(pages) if len(pages) > 1 else pages[0]
        if data.shape != tuple(series.shape) or data.dtype != series.dtype:
            raise OSError("Pillow reads another shape or type")
    except OSError as pillow_err:
        raise InputError(
            f"'{path}' is compressed in a way that needs one more package.",
            "Install it with 'pip install imagecodecs'.",
        ) from pillow_err
    return data


def _tiff_axes(letters: str, shape: tuple[int, ...]) -> tuple[str, bool]:
    """Translate tifffile's axes: S (samples) becomes colour or C, Q and I (nameless) Z or T."""
    if len(letters) != len(shape):
        return guess_axes(shape)
    if set(letters[:-2]) <= set("QI") and letters[-2:] == "YX" and looks_rgb(shape):
        return guess_axes(shape)  # (Y, X, 3) saved without saying that it is colour
    rgb = letters.endswith("S") and shape[-1] in (3, 4)
    out = list(letters[:-1] if rgb else letters)
    for place in reversed(range(len(out))):
        if out[place] == "S":
            out[place] = "C" if "C" not in out else "W"
        elif out[place] in "QI":
            out[place] = next(a for a in "ZTPVWUR" if a not in out)
    if "Y" not in out or "X" not in out:
        return guess_axes(shape)
    return "".join(out), rgb


# --- PNG, JPEG ------------------------------------------------------------------------------------


def _read_pillow(path: Path, *, palette: bool = True) -> ImageSource:
    from PIL import Image, UnidentifiedImageError

    try:
        opened = Image.open(path)
    except UnidentifiedImageError as err:  # its text would name the file a second time
        raise OSError("not a PNG or JPEG file") from err
    with opened as image:
        if image.mode in ("PA", "CMYK", "YCbCr", "LAB", "HSV") or (image.mode == "P" and palette):
            image = image.convert("RGBA" if "transparency" in image.info else "RGB")  # type: ignore[assignment]
        data = np.asarray(image)
    if data.ndim == 3 and data.shape[-1] == 2:  # grey and alpha
        data = data[..., 0]
    return _source(path, data, "YX", data.ndim == 3)


# --- zarr -----------------------------------------------------------------------------------------


def _read_zarr(path: Path) -> ImageSource:
    import zarr

    try:
        opened = zarr.open(str(path), mode="r")
    except FileNotFoundError as err:
        raise InputError(f"'{path}' holds no zarr array.", "Give a zarr array or an OME-Zarr image.") from err
    if isinstance(opened, zarr.Array):
        return _zarr_array(path, opened)
    attrs: Mapping[str, Any] = dict(opened.attrs)
    scales = attrs.get("ome", attrs).get("multiscales")
    if scales:
        return _ome_zarr(path, opened, scales[0])
    arrays = [item for _, item in opened.arrays()]
    if len(arrays) != 1:
        raise InputError(
            f"'{path}' holds {len(arrays)} arrays and does not say which is the image.",
            "Give the path of one array, or an OME-Zarr image.",
        )
    return _zarr_array(path, arrays[0])


def _zarr_array(path: Path, array: Any) -> ImageSource:
    names = getattr(array.metadata, "dimension_names", None) or ()
    letters = "".join(str(n or "?")[:1].upper() for n in names)
    if len(letters) == array.ndim and len(set(letters)) == len(letters) and {"Y", "X"} <= set(letters):
        return _source(path, array, letters, False)
    return _source(path, array, *guess_axes(array.shape))


def _ome_zarr(path: Path, group: Any, scales: Mapping[str, Any]) -> ImageSource:
    level = scales["datasets"][0]
    array = group[level["path"]]
    named = scales.get("axes") or "tczyx"[-array.ndim :]
    names = [a if isinstance(a, str) else a["name"] for a in named]
    axes = "".join(n[:1].upper() for n in names)
    units = tuple("pixel" if isinstance(a, str) else a.get("unit", "pixel") for a in named)
    scale = next(
        (
            tuple(float(v) for v in t["scale"])
            for t in level.get("coordinateTransformations", ())
            if t.get("type") == "scale"
        ),
        (),
    )
    return _source(path, array, axes, False, scale, units)


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
        metadata={"axes": axes},
        ome=False,
    )


def save_png(part: Path, picture: npt.NDArray[np.uint8]) -> None:
    """Write a PNG to a path that :func:`replacing` gave."""
    from PIL import Image

    Image.fromarray(picture).save(part, format="PNG")


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
        )
        array[...] = data


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path`` to write to; rename it to ``path`` on success.

    On any failure the temporary file or folder is removed, and the folders that were made for it; an
    ``OSError`` becomes a ``StoreError``.
    """
    made = [folder for folder in path.parents if not folder.exists()]
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
            f"'{path}' could not be written ({_short(err)}).",
            "Check the free space and the rights of the folder.",
        ) from err
    finally:
        _discard(part)
        for folder in made:
            with suppress(OSError):  # not empty: all went well, or others write there too
                folder.rmdir()


def make_folder(folder: Path) -> None:
    """Create a folder and its parents; ``StoreError`` where that is not possible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise StoreError(
            f"The folder '{folder}' could not be made ({_short(err)}).", "Choose another folder."
        ) from err


def _discard(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):  # what cannot be removed must not hide the first error
            path.unlink(missing_ok=True)


def _short(err: BaseException) -> str:
    text = getattr(err, "strerror", None) or str(err).strip().partition("\n")[0] or type(err).__name__
    return str(text)[:160].rstrip(".")


# --- folders --------------------------------------------------------------------------------------


def images_in(folder: Path) -> dict[str, Path]:
    """Return the readable image files of a folder by stem, sorted.

    Raises
    ------
    InputError
        No such folder, a file in its place, or two files of one stem.
    """
    if not folder.is_dir():
        if folder.exists():
            raise InputError(f"'{folder}' is a file, not a folder.", "Name the folder that it lies in.")
        raise InputError(f"There is no folder '{folder}'.", "Check the spelling.")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
            continue
        if path.is_dir() and path.suffix.lower() not in ZARR:
            continue
        if path.stem in found:
            raise InputError(
                f"'{found[path.stem].name}' and '{path.name}' in '{folder}' have the same name.",
                "Names must differ before the dot.",
            )
        found[path.stem] = path
    return found
