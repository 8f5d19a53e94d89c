"""Reading TIFF, PNG, JPEG and zarr files: what their axes and colours mean.  Errors are the decoders' own."""

from __future__ import annotations

import logging
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_attnseg.core.axes import guess_axes, looks_rgb
from napari_attnseg.errors import InputError
from napari_attnseg.records import ImageSource

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import numpy.typing as npt

_LOG = logging.getLogger(__name__)
EAGER_BYTES = 64 * 2**20  # smaller TIFFs are read at once, larger ones stay on disk
_CUT_OFF = re.compile("invalid page offset|invalid offset to page|tag list of page|circular reference")
_TOO_SHORT = "ImageJ series metadata invalid"


def _source(
    path: Path, data: Any, axes: str, rgb: bool, scale: tuple[float, ...] = (), units: tuple[str, ...] = ()
) -> ImageSource:
    return ImageSource(
        data, axes, rgb, path.stem, scale or (1.0,) * len(axes), units or ("pixel",) * len(axes)
    )


# --- TIFF -----------------------------------------------------------------------------------------


def read_tiff(path: Path, *, palette: bool = True) -> ImageSource:
    """Read a TIFF, or open it where it is large.

    Colours of any kind become RGB.  With ``palette`` the colours of a palette are taken, not its numbers; but
    always the numbers of a file of ImageJ, whose palette is only how it shows intensities.
    """
    import tifffile

    with tifffile.TiffFile(path) as tif:
        series = _first_series(path, tif)
        page, letters, shape = series.keyframe, series.axes, tuple(series.shape)
        kind = getattr(page.photometric, "name", "")
        if kind in ("SEPARATED", "CIELAB", "ICCLAB", "ITULAB") or (
            kind == "YCBCR" and "JP" not in page.compression.name  # decoders of JPEG give RGB by themselves
        ):
            place = letters.index("S")
            shape = (*shape[:place], *shape[place + 1 :], 3)
            return _source(
                path, _as_rgb(path, shape, kind), *_tiff_axes(letters.replace("S", "") + "S", shape)
            )
        place = letters.find("S") if kind == "RGB" else -1
        if place >= 0 and shape[place] in (3, 4):  # colours one after the other: they go to the end
            letters = letters.replace("S", "") + "S"
        else:
            place = -1
        data = _tiff_data(path, series, place)
        if palette and kind == "PALETTE" and page.colormap is not None and not tif.is_imagej:
            table = page.colormap.T >> (8 if page.colormap.max() > 255 else 0)
            data, letters = table.astype(np.uint8)[data[...]], letters + "S"
    return _source(path, data, *_tiff_axes(letters, tuple(data.shape)))


def _first_series(path: Path, tif: Any) -> Any:
    with _complaints() as said:
        found = tif.series
    if not found:
        raise InputError(f"'{path}' holds no image.", "Choose another file.")
    # ImageJ keeps very large stacks behind one page: there the file is longer than what was found
    lost = any(_TOO_SHORT in text for text in said) and tif.filehandle.size > 2 * found[0].nbytes
    if lost or any(_CUT_OFF.search(text) for text in said):
        raise InputError(
            f"'{path}' is cut off or damaged: some of its planes cannot be found.", "Copy or save it again."
        )
    if len(found) > 1:
        _LOG.warning("'%s' holds %d images of different kinds: the first is read.", path, len(found))
    return found[0]


@contextmanager
def _complaints() -> Iterator[list[str]]:
    """Collect what tifffile logs about pages that it leaves out, instead of showing it."""
    said: list[str] = []

    def keep(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if lost := bool(_CUT_OFF.search(text)) or _TOO_SHORT in text:
            said.append(text)
        return not lost

    log = logging.getLogger("tifffile")
    log.addFilter(keep)
    try:
        yield said
    finally:
        log.removeFilter(keep)


class LazyTiff:
    """A TIFF that is read where it is indexed; the file is open only while it is read.

    ``place`` is the axis of the colours in the file; here they are last.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], place: int = -1) -> None:
        sizes = list(shape)
        sizes.append(sizes.pop(place))
        self.path, self.shape, self.dtype, self.ndim = path, tuple(sizes), dtype, len(sizes)
        self._place = place

    def __getitem__(self, index: Any) -> npt.NDArray[np.generic]:
        import tifffile
        import zarr

        with tifffile.TiffFile(self.path) as tif, tif.series[0].aszarr(level=0) as store:
            array = zarr.open_array(store, mode="r")
            if self._place < 0:
                return np.asarray(array[index])
            *rest, colours = (slice(None),) * self.ndim if index is Ellipsis else index
            before, after = rest[: self._place], rest[self._place :]
            if not isinstance(colours, slice):
                return np.asarray(array[(*before, colours, *after)])
            chosen = range(self.shape[-1])[colours]
            return np.stack([np.asarray(array[(*before, one, *after)]) for one in chosen], axis=-1)


def _tiff_data(path: Path, series: Any, place: int) -> Any:
    """Return the samples with the axis ``place`` last."""
    import tifffile

    try:
        if series.nbytes <= EAGER_BYTES:
            return np.moveaxis(series.asarray(), place, -1)
        if series.dataoffset is not None:
            return np.moveaxis(tifffile.memmap(path, series=0, mode="r"), place, -1)
        lazy = LazyTiff(path, tuple(series.shape), series.dtype, place)
        lazy[(0,) * lazy.ndim]  # shows now whether it can be decoded
    except ValueError as err:  # a compression that needs the optional package imagecodecs
        if "imagecodecs" not in str(err):
            raise
        return _compressed(path, series, place)
    return lazy


def _compressed(path: Path, series: Any, place: int) -> npt.NDArray[np.generic]:
    """Read the pages through Pillow, which knows the common compressions and puts the colours last."""
    shape = list(series.shape)
    shape.append(shape.pop(place))
    try:
        return _by_pillow(path, tuple(shape), series.dtype)
    except OSError as err:
        raise InputError(
            f"'{path}' is compressed in a way that needs one more package.",
            "Install it with 'pip install imagecodecs'.",
        ) from err


def _as_rgb(path: Path, shape: tuple[int, ...], kind: str) -> npt.NDArray[np.generic]:
    """Read the pages through Pillow, which turns the common kinds of colour into RGB."""
    try:
        return _by_pillow(path, shape, np.dtype(np.uint8), "RGB")
    except (OSError, ValueError) as err:
        raise InputError(
            f"'{path}' has colours of the kind {kind}, which cannot be read.", "Save it as RGB."
        ) from err


def _by_pillow(
    path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], mode: str = ""
) -> npt.NDArray[np.generic]:
    from PIL import Image, ImageSequence

    with any_size(), Image.open(path) as image:
        pages = [np.asarray(page.convert(mode) if mode else page) for page in ImageSequence.Iterator(image)]
    data = np.stack(pages) if len(pages) > 1 else pages[0]
    if data.shape != shape or data.dtype != dtype:
        raise OSError("Pillow reads another shape or type")
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


@contextmanager
def any_size() -> Iterator[None]:
    """Let Pillow open images of any size: its limit is against files that nobody chose."""
    from PIL import Image

    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


# --- PNG, JPEG ------------------------------------------------------------------------------------


def read_pillow(path: Path, *, palette: bool = True) -> ImageSource:
    """Read a PNG or JPEG; without ``palette`` the numbers of a palette are taken, not its colours."""
    from PIL import Image, UnidentifiedImageError

    try:
        with any_size():
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


def read_zarr(path: Path) -> ImageSource:
    """Open a zarr array, a group of one array, or an OME-Zarr image."""
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
    arrays = dict(opened.arrays())
    if len(arrays) != 1:
        raise InputError(
            f"'{path}' holds {len(arrays)} arrays and does not say which is the image.",
            f"Give the path of one, such as '{path / min(arrays)}'."
            if arrays
            else "Give a zarr array or an OME-Zarr image.",
        )
    return _zarr_array(path, *arrays.values())


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
