from __future__ import annotations

import numpy as np
import pytest

from napari_attnseg.core import render


@pytest.mark.parametrize("shape", [(1, 1), (20, 30), (20, 30, 3), (20, 30, 2)])
def test_pictures_have_the_size_of_the_image(shape):
    plane = np.random.default_rng(0).random(shape)
    values = np.random.default_rng(1).random(shape[:2])
    for picture in (
        render.heat(values, plane, at=(0, 0)),
        render.overlay((values > 0.5).astype(np.int32), plane),
    ):
        assert picture.shape == (*shape[:2], 3)
        assert picture.dtype == np.uint8


def test_the_hottest_pixel_is_brightest():
    values = np.zeros((20, 20))
    values[5, 6] = 3.0
    picture = render.heat(values, np.zeros((20, 20))).sum(axis=-1)
    assert np.unravel_index(picture.argmax(), picture.shape) == (5, 6)


def test_only_objects_are_coloured():
    plane = np.random.default_rng(0).random((20, 20))
    labels = np.zeros((20, 20), dtype=np.int32)
    labels[5:10, 5:10] = 3
    picture = render.overlay(labels, plane)
    grey = picture.max(axis=-1) == picture.min(axis=-1)
    assert grey[labels == 0].all()
    assert not grey[labels > 0].any()


def test_outline_marks_both_sides_of_a_border():
    labels = np.array([[1, 1, 2, 2]])
    np.testing.assert_array_equal(render.outline(labels), [[False, True, True, False]])
