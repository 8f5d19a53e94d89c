from __future__ import annotations

import numpy as np
import pytest

from napari_attnseg.core.axes import (
    check,
    clip_field,
    describe,
    guess_axes,
    plane_keys,
    read_plane,
    source_of,
)
from napari_attnseg.errors import InputError
from napari_attnseg.records import ImageSource, PlaneKey


class Lazy:
    """An array that says which part of it was read."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.ndim = array, array.shape, array.dtype, array.ndim
        self.read = []

    def __getitem__(self, index):
        part = self.array[index]
        self.read.append(part.size)
        return part

    def __array__(self, dtype=None, copy=None):
        raise AssertionError("the whole array was asked for")


@pytest.mark.parametrize(
    ("shape", "axes", "rgb"),
    [
        ((5, 6), "YX", False),
        ((50, 60, 3), "YX", True),
        ((50, 60, 4), "YX", True),
        ((7, 50, 60), "ZYX", False),
        ((7, 50, 60, 3), "ZYX", True),
        ((2, 7, 50, 60), "TZYX", False),
        ((3, 3, 3), "ZYX", False),
    ],
)
def test_guess_axes(shape, axes, rgb):
    assert guess_axes(shape) == (axes, rgb)


@pytest.mark.parametrize("shape", [(), (5,)])
def test_too_few_axes_are_refused(shape):
    with pytest.raises(InputError, match="not an image"):
        guess_axes(shape)


def test_read_plane_takes_only_what_is_asked():
    array = np.arange(4 * 3 * 2 * 20 * 30).reshape(4, 3, 2, 20, 30)
    lazy = Lazy(array)
    source = ImageSource(lazy, "TZCYX")
    plane = read_plane(source, PlaneKey((2, 1)), (slice(5, 9), slice(10, 16)), channel=1)
    np.testing.assert_array_equal(plane, array[2, 1, 1, 5:9, 10:16])
    assert lazy.read == [4 * 6]
    both = read_plane(source, PlaneKey((0, 2)))
    np.testing.assert_array_equal(both, np.moveaxis(array[0, 2], 0, -1))


@pytest.mark.parametrize("axes", ["XYC", "CXY", "YCX", "XCY"])
def test_any_order_of_axes(axes):
    shape = {"Y": 5, "X": 7, "C": 2}
    array = np.random.default_rng(0).integers(0, 9, [shape[a] for a in axes])
    plane = read_plane(ImageSource(array, axes), PlaneKey())
    np.testing.assert_array_equal(plane, array.transpose([axes.index(a) for a in "YXC"]))


def test_alpha_is_left_out_unless_asked():
    array = np.random.default_rng(0).integers(0, 9, (8, 9, 4))
    source = ImageSource(array, "YX", rgb=True)
    np.testing.assert_array_equal(read_plane(source, PlaneKey()), array[..., :3])
    np.testing.assert_array_equal(read_plane(source, PlaneKey(), channel=3), array[..., 3])


def test_dask_and_zarr_planes_are_plain_arrays():
    dask = pytest.importorskip("dask.array")
    zarr = pytest.importorskip("zarr")
    array = np.random.default_rng(0).integers(0, 99, (3, 20, 30), dtype=np.uint16)
    for data in (dask.from_array(array, chunks=(1, 10, 10)), zarr.array(array, chunks=(1, 10, 10))):
        plane = read_plane(ImageSource(data, "ZYX"), PlaneKey((1,)), (slice(3, 8), slice(0, 30)))
        assert type(plane) is np.ndarray
        np.testing.assert_array_equal(plane, array[1, 3:8])


def test_missing_planes_channels_and_fields_are_refused():
    source = source_of(np.zeros((3, 20, 30)), "stack")
    with pytest.raises(InputError, match="no plane"):
        read_plane(source, PlaneKey((3,)))
    with pytest.raises(InputError, match="no plane"):
        read_plane(source, PlaneKey())
    with pytest.raises(InputError, match="no channel 1"):
        read_plane(source, PlaneKey((0,)), channel=1)
    with pytest.raises(InputError, match="outside"):
        read_plane(source, PlaneKey((0,)), (slice(25, 30), slice(0, 5)))


class Broken:
    """An array on a disk that is gone."""

    shape, dtype, ndim = (3, 20, 30), np.dtype(np.uint8), 3

    def __init__(self, err):
        self.err = err

    def __getitem__(self, index):
        raise self.err


@pytest.mark.parametrize(
    "err", [RuntimeError("no such\nchunk"), OSError(5, "Input/output error"), KeyError()]
)
def test_samples_that_cannot_be_read_are_one_sentence(err):
    with pytest.raises(InputError, match="'cells' could not be read") as caught:
        read_plane(source_of(Broken(err), "cells"), PlaneKey((1,)))
    assert "\n" not in caught.value.message
    assert caught.value.hint


def test_errors_that_are_clear_already_pass():
    for err in (InputError("Damaged."), MemoryError()):
        with pytest.raises(type(err)) as caught:
            read_plane(source_of(Broken(err)), PlaneKey((1,)))
        assert caught.value is err


def test_clip_field_cuts_to_the_plane():
    source = source_of(np.zeros((20, 30)))
    assert clip_field(source, (slice(5, 99), slice(None, 4))) == (slice(5, 20), slice(0, 4))


@pytest.mark.parametrize(
    ("data", "axes", "rgb", "words"),
    [
        (np.zeros((0, 5)), "YX", False, "empty"),
        (np.zeros((4, 5), dtype=complex), "YX", False, "complex128"),
        (np.zeros((4, 5), dtype=object), "YX", False, "object"),
        (np.zeros((4, 5)), "ZYX", False, "do not fit"),
        (np.zeros((4, 5, 6)), "CZX", False, "not an image"),
        (np.zeros((4, 5, 6)), "YX", True, "3 or 4 samples"),
        (np.zeros((4, 5, 6)), "YYX", False, "not an image"),
    ],
)
def test_check_says_what_is_wrong(data, axes, rgb, words):
    with pytest.raises(InputError, match=words) as caught:
        check(ImageSource(data, axes, rgb))
    assert caught.value.hint


def test_plane_keys_and_description():
    source = ImageSource(np.zeros((5, 1, 2, 512, 256), dtype=np.uint16), "TZCYX")
    assert len(plane_keys(source)) == 5
    assert plane_keys(source)[3] == PlaneKey((3, 0))
    assert describe(source) == "2 channels, 5 time points, 1 slice, 512 x 256 px, uint16"
    assert describe(source_of(np.zeros((50, 60, 4), dtype=np.uint8))) == "RGBA colour, 50 x 60 px, uint8"
