"""Colours of all kinds, files that were cut off, and damage that shows only when a part is read."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from napari_attnseg.core.axes import read_plane
from napari_attnseg.errors import InputError
from napari_attnseg.jobs.evaluate import read_labels
from napari_attnseg.records import PlaneKey
from napari_attnseg.store import readers
from napari_attnseg.store.images import read_image

RNG = np.random.default_rng(0)
STACK = RNG.integers(0, 60_000, (10, 32, 40), dtype=np.uint16)
COLOURS = np.asarray(Image.effect_noise((10, 8), 90).resize((40, 32)).convert("RGB")) // (1, 2, 3)
COLOURS = COLOURS.astype(np.uint8)


def by_pillow(path, compression=None):
    first, *others = (Image.fromarray(plane) for plane in STACK)
    first.save(path, save_all=True, append_images=others, compression=compression)


WRITERS = {
    "ImageJ": lambda path: tifffile.imwrite(path, STACK, imagej=True, metadata={"axes": "ZYX"}),
    "OME": lambda path: tifffile.imwrite(path, STACK, ome=True, compression="zlib"),
    "shaped": lambda path: tifffile.imwrite(path, STACK, compression="zlib"),
    "pages": lambda path: tifffile.imwrite(path, STACK, compression="zlib", metadata=None),
    "Pillow": by_pillow,
    "Pillow, LZW": lambda path: by_pillow(path, "tiff_lzw"),
}


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("kind", WRITERS)
def test_a_stack_that_is_cut_off_is_refused(tmp_path, monkeypatch, capfd, kind, lazy):
    if lazy:
        monkeypatch.setattr(readers, "EAGER_BYTES", 100)
    path = tmp_path / "a.tif"
    WRITERS[kind](path)
    np.testing.assert_array_equal(np.asarray(read_image(path).data), STACK)
    whole = path.read_bytes()
    for part in (0.15, 0.4, 0.6, 0.85):
        path.write_bytes(whole[: int(len(whole) * part)])
        with pytest.raises(InputError, match=r"a\.tif' (is cut off|could not be read)") as caught:
            read_image(path)
        assert caught.value.hint
    assert "invalid page" not in capfd.readouterr().err


def without_chain(path):
    """Have a stack of ImageJ end after its first page, as ImageJ writes those of more than 4 GB."""
    with tifffile.TiffFile(path) as tif:
        page = tif.pages.first
        end = page.offset + tif.tiff.tagnosize + len(page.tags) * tif.tiff.tagsize
    data = bytearray(path.read_bytes())
    data[end : end + 4] = bytes(4)
    path.write_bytes(data)


def test_a_stack_of_one_page_that_is_cut_off(tmp_path):
    path = tmp_path / "a.tif"
    WRITERS["ImageJ"](path)
    without_chain(path)
    np.testing.assert_array_equal(read_image(path).data, STACK)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match="cut off"):
        read_image(path)


def test_one_plane_that_still_calls_itself_a_stack(tmp_path, caplog):
    said = "ImageJ=1.54f\nimages=10\nslices=10\n"
    tifffile.imwrite(tmp_path / "a.tif", STACK[0], description=said, metadata=None)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").data, STACK[0])
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_planar_colours_are_colours(tmp_path, monkeypatch, compression, lazy):
    if lazy:
        monkeypatch.setattr(readers, "EAGER_BYTES", 100)
    planes = np.stack([COLOURS, COLOURS[::-1]])
    planar = {"photometric": "rgb", "planarconfig": "separate", "compression": compression}
    tifffile.imwrite(tmp_path / "one.tif", np.moveaxis(COLOURS, -1, 0), **planar)
    tifffile.imwrite(tmp_path / "two.tif", np.moveaxis(planes, -1, 1), **planar)
    one, two = (read_image(tmp_path / name) for name in ("one.tif", "two.tif"))
    assert (one.axes, one.rgb, two.axes, two.rgb) == ("YX", True, "ZYX", True)
    np.testing.assert_array_equal(np.asarray(one.data), COLOURS)
    part = slice(2, 9), slice(3, 30)
    np.testing.assert_array_equal(read_plane(two, PlaneKey((1,)), part), planes[(1, *part)])
    np.testing.assert_array_equal(read_plane(two, PlaneKey((1,)), part, channel=2), planes[(1, *part, 2)])


def test_planar_samples_that_are_no_colours_stay_channels(tmp_path):
    data = np.moveaxis(COLOURS, -1, 0)
    tifffile.imwrite(tmp_path / "a.tif", data, photometric="minisblack", planarconfig="separate")
    source = read_image(tmp_path / "a.tif")
    assert (source.axes, source.rgb) == ("CYX", False)
    np.testing.assert_array_equal(source.data, data)


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_a_palette_gives_its_colours_and_labels_their_numbers(tmp_path, compression):
    picture = Image.fromarray(COLOURS).quantize(12)
    picture.save(tmp_path / "a.tif", compression=compression)
    picture.save(tmp_path / "a.png")
    source = read_image(tmp_path / "a.tif")
    assert (source.axes, source.rgb) == ("YX", True)
    np.testing.assert_array_equal(source.data, read_image(tmp_path / "a.png").data)
    labels = read_image(tmp_path / "a.tif", labels=True)
    assert not labels.rgb
    np.testing.assert_array_equal(labels.data, np.asarray(picture))


def test_a_palette_of_imagej_is_only_how_intensities_are_shown(tmp_path):
    green = np.zeros((3, 256), dtype=np.uint8)
    green[1] = np.arange(256)
    data = COLOURS[..., 0]
    tifffile.imwrite(tmp_path / "a.tif", data, photometric="palette", colormap=green.astype(np.uint16) * 257)
    assert read_image(tmp_path / "a.tif").rgb
    tifffile.imwrite(
        tmp_path / "ij.tif",
        data,
        photometric="palette",
        colormap=green.astype(np.uint16) * 257,
        description="ImageJ=1.54f\n",
        metadata=None,
    )
    source = read_image(tmp_path / "ij.tif")
    assert not source.rgb
    np.testing.assert_array_equal(source.data, data)


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize(("mode", "far"), [("CMYK", 0), ("YCbCr", 4)])
def test_other_colours_become_rgb(tmp_path, mode, far, compression):
    Image.fromarray(COLOURS).convert(mode).save(tmp_path / "a.tif", compression=compression)
    source = read_image(tmp_path / "a.tif")
    assert (source.axes, source.rgb, source.data.shape) == ("YX", True, COLOURS.shape)
    assert np.abs(np.asarray(source.data).astype(int) - COLOURS).max() <= far


def test_stacks_and_planes_of_inks(tmp_path):
    inks = np.asarray(Image.fromarray(COLOURS).convert("CMYK"))
    tifffile.imwrite(tmp_path / "s.tif", np.stack([inks, inks]), photometric="separated")
    tifffile.imwrite(
        tmp_path / "p.tif", np.moveaxis(inks, -1, 0), photometric="separated", planarconfig="separate"
    )
    stack, planar = read_image(tmp_path / "s.tif"), read_image(tmp_path / "p.tif")
    assert (stack.axes, planar.axes) == ("ZYX", "YX")
    np.testing.assert_array_equal(stack.data[1], COLOURS)
    np.testing.assert_array_equal(planar.data, COLOURS)


def test_colours_that_nobody_knows_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", COLOURS.astype(np.float32), photometric="cielab")
    with pytest.raises(InputError, match="colours of the kind CIELAB") as caught:
        read_image(tmp_path / "a.tif")
    assert "RGB" in caught.value.hint


def test_a_damaged_page_is_one_sentence_when_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "EAGER_BYTES", 100)
    path = tmp_path / "a.tif"
    WRITERS["pages"](path)
    with tifffile.TiffFile(path) as tif:
        place = tif.pages[5].dataoffsets[0]
    with path.open("r+b") as file:
        file.seek(place + 20)
        file.write(bytes(200))
    source = read_image(path)
    np.testing.assert_array_equal(read_plane(source, PlaneKey((4,))), STACK[4])
    with pytest.raises(InputError, match="a.tif' could not be read"):
        read_plane(source, PlaneKey((5,)))
    with pytest.raises(InputError, match="a.tif' could not be read"):
        read_labels(path)


def test_a_damaged_chunk_is_one_sentence_when_it_is_read(tmp_path):
    path = tmp_path / "a.zarr"
    zarr.create_array(store=str(path), data=STACK, chunks=(1, 32, 40))
    (path / "c" / "2" / "0" / "0").write_bytes(b"garbage")
    source = read_image(path)
    np.testing.assert_array_equal(read_plane(source, PlaneKey((1,))), STACK[1])
    with pytest.raises(InputError, match="a.zarr' could not be read") as caught:
        read_plane(source, PlaneKey((2,)))
    assert caught.value.hint
    assert "\n" not in caught.value.message
    with pytest.raises(InputError, match="a.zarr' could not be read"):
        read_labels(path)
