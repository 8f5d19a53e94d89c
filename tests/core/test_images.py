from __future__ import annotations

import errno

import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_attnseg.core.axes import read_plane
from napari_attnseg.errors import InputError, StoreError
from napari_attnseg.records import PlaneKey
from napari_attnseg.store import images, readers
from napari_attnseg.store.images import images_in, read_image, write_labels, write_png, write_tiff

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (30, 40)])
def test_plain_tiff(tmp_path, dtype, shape):
    data = (RNG.random(shape) * 100).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", data)
    source = read_image(tmp_path / "a.tif")
    assert (source.axes, source.rgb, source.name) == ("YX", False, "a")
    np.testing.assert_array_equal(read_plane(source, PlaneKey()), data)


@pytest.mark.parametrize(
    ("shape", "options", "axes", "rgb"),
    [
        ((5, 30, 40), {"metadata": {"axes": "TYX"}}, "TYX", False),
        ((5, 30, 40), {}, "ZYX", False),
        ((30, 40, 3), {"photometric": "rgb"}, "YX", True),
        ((30, 40, 4), {"photometric": "rgb"}, "YX", True),
        ((5, 30, 40, 3), {"photometric": "rgb"}, "ZYX", True),
        ((3, 30, 40), {"photometric": "minisblack", "planarconfig": "separate"}, "CYX", False),
        ((2, 3, 30, 40), {"imagej": True, "metadata": {"axes": "ZCYX"}}, "ZCYX", False),
    ],
)
def test_tiff_axes(tmp_path, shape, options, axes, rgb):
    data = RNG.integers(0, 255, shape, dtype=np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", data, **options)
    source = read_image(tmp_path / "a.tif")
    assert (source.axes, source.rgb) == (axes, rgb)
    np.testing.assert_array_equal(np.asarray(source.data), data)


def test_ome_tiff(tmp_path):
    data = RNG.integers(0, 9999, (2, 3, 30, 40), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.ome.tif", data, metadata={"axes": "TCYX"})
    source = read_image(tmp_path / "a.ome.tif")
    assert source.axes == "TCYX"
    np.testing.assert_array_equal(read_plane(source, PlaneKey((1,)), channel=2), data[1, 2])


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_large_tiffs_stay_on_disk(tmp_path, monkeypatch, compression):
    monkeypatch.setattr(readers, "EAGER_BYTES", 1000)
    data = RNG.integers(0, 9999, (4, 64, 80), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", data, compression=compression, photometric="minisblack")
    source = read_image(tmp_path / "a.tif")
    assert type(source.data) is not np.ndarray
    assert source.axes == "ZYX"
    np.testing.assert_array_equal(
        read_plane(source, PlaneKey((2,)), (slice(3, 9), slice(0, 80))), data[2, 3:9]
    )


def test_lzw_without_imagecodecs(tmp_path):
    data = RNG.integers(0, 60000, (30, 40), dtype=np.uint16)
    Image.fromarray(data).save(tmp_path / "a.tif", compression="tiff_lzw")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").data, data)


@pytest.mark.parametrize(
    ("mode", "name", "rgb", "dtype"),
    [
        ("L", "a.png", False, np.uint8),
        ("I;16", "a.png", False, np.uint16),
        ("1", "a.png", False, bool),
        ("LA", "a.png", False, np.uint8),
        ("P", "a.png", True, np.uint8),
        ("RGB", "a.png", True, np.uint8),
        ("RGBA", "a.png", True, np.uint8),
        ("L", "a.jpg", False, np.uint8),
        ("RGB", "a.JPEG", True, np.uint8),
        ("CMYK", "a.jpg", True, np.uint8),
    ],
)
def test_png_and_jpeg(tmp_path, mode, name, rgb, dtype):
    Image.new(mode, (40, 30)).save(tmp_path / name)
    source = read_image(tmp_path / name)
    assert (source.shape_yx, source.rgb, source.data.dtype) == ((30, 40), rgb, dtype)


def test_zarr_array_group_and_ome(tmp_path):
    import zarr

    data = RNG.integers(0, 255, (3, 20, 30), dtype=np.uint8)
    zarr.create_array(store=str(tmp_path / "a.zarr"), data=data, dimension_names=["t", "y", "x"])
    assert read_image(tmp_path / "a.zarr").axes == "TYX"
    group = zarr.create_group(store=str(tmp_path / "g.zarr"))
    group.create_array("only", data=data)
    np.testing.assert_array_equal(read_plane(read_image(tmp_path / "g.zarr"), PlaneKey((1,))), data[1])
    group.create_array("second", data=data)
    with pytest.raises(InputError, match="2 arrays"):
        read_image(tmp_path / "g.zarr")
    group.attrs["multiscales"] = [
        {
            "axes": [{"name": "c", "type": "channel"}, {"name": "y", "unit": "micrometer"}, {"name": "x"}],
            "datasets": [
                {"path": "only", "coordinateTransformations": [{"type": "scale", "scale": [1, 0.5, 0.5]}]}
            ],
        }
    ]
    source = read_image(tmp_path / "g.zarr")
    assert (source.axes, source.scale, source.units) == (
        "CYX",
        (1, 0.5, 0.5),
        ("pixel", "micrometer", "pixel"),
    )


@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.jpg", "a.zarr"])
def test_damaged_files_are_one_sentence(tmp_path, name):
    (tmp_path / name).write_bytes(b"II*\0 this is no image")
    with pytest.raises(InputError, match="could not be read|holds no (image|zarr array)") as caught:
        read_image(tmp_path / name)
    assert caught.value.hint
    assert "\n" not in caught.value.message


def test_cut_off_files(tmp_path):
    for name in ("a.tif", "a.png"):
        path = tmp_path / name
        write_tiff(path, np.zeros((200, 200))) if name == "a.tif" else Image.effect_noise((200, 200), 9).save(
            path
        )
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(InputError, match="could not be read"):
            read_image(path)


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(InputError, match="no file"):
        read_image(tmp_path / "a.tif")
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(InputError, match="'.txt'"):
        read_image(tmp_path / "a.txt")


@pytest.mark.parametrize("name", ["l.tif", "l.zarr"])
@pytest.mark.parametrize("shape", [(20, 30), (1, 1), (4, 20, 3), (2, 3, 20, 30)])
def test_labels_round_trip_and_replace(tmp_path, name, shape):
    target = tmp_path / "deep" / "folder" / name
    for labels in (np.zeros(shape, dtype=np.int32), RNG.integers(0, 99_999, shape).astype(np.int32)):
        write_labels(target, labels)
        source = read_image(target)
        assert not source.rgb
        assert source.data.dtype == np.int32
        np.testing.assert_array_equal(np.asarray(source.data[...]), labels)
    assert [p.name for p in target.parent.iterdir()] == [name]


@pytest.mark.parametrize("kind", ["tif", "zarr", "png"])
def test_a_full_disk_leaves_nothing_and_keeps_the_old_file(tmp_path, monkeypatch, kind):
    target = tmp_path / f"l.{kind}"
    old, new = np.full((8, 8), 3, dtype=np.int32), np.zeros((8, 8), dtype=np.int32)
    write = write_labels if kind != "png" else lambda path, data: write_png(path, data.astype(np.uint8))
    write(target, old)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    if kind == "tif":
        monkeypatch.setattr(tifffile.TiffWriter, "write", full)
    elif kind == "zarr":
        import zarr

        monkeypatch.setattr(zarr.Array, "__setitem__", full)
    else:
        monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(StoreError, match="No space left"):
        write(target, new)
    assert [p.name for p in tmp_path.iterdir()] == [target.name]
    np.testing.assert_array_equal(np.asarray(read_image(target).data[...]), old)


def test_a_bug_while_writing_leaves_nothing_either(tmp_path):
    with pytest.raises(ZeroDivisionError), images.replacing(tmp_path / "a.tif") as part:
        part.write_bytes(b"half")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="could not be"):
        write_labels(tmp_path / "file" / "l.tif", np.zeros((2, 2), dtype=np.int32))


def test_images_in_a_folder(tmp_path):
    for name in ("b.png", "a.tif", ".hidden.png", "notes.txt"):
        (tmp_path / name).write_text("")
    (tmp_path / "c.tif").mkdir()
    assert list(images_in(tmp_path)) == ["a", "b"]
    (tmp_path / "a.png").write_text("")
    with pytest.raises(InputError, match="same name"):
        images_in(tmp_path)
    with pytest.raises(InputError, match="no folder"):
        images_in(tmp_path / "none")


def test_images_of_other_kinds_in_a_tiff_are_mentioned(tmp_path, caplog):
    with tifffile.TiffWriter(tmp_path / "two.tif") as tif:
        tif.write(np.zeros((8, 9), dtype=np.uint8))
        tif.write(np.zeros((4, 5), dtype=np.uint8))
    assert read_image(tmp_path / "two.tif").shape_yx == (8, 9)
    assert "holds 2 images" in caplog.text


def test_labels_with_a_palette_are_read_as_numbers(tmp_path):
    numbers = np.arange(20, dtype=np.uint8).reshape(4, 5)
    picture = Image.fromarray(numbers).convert("P")
    picture.putpalette([0, 0, 0] + [255, 0, 0] * 19)
    picture.save(tmp_path / "l.png")
    assert read_image(tmp_path / "l.png").rgb
    found = read_image(tmp_path / "l.png", labels=True)
    assert not found.rgb
    np.testing.assert_array_equal(found.data, numbers)
