from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from napari_attnseg.core.mirror import MIRRORS, Mean, mirrored, read_maps
from napari_attnseg.records import DenseMaps, ModelCard

CARD = ModelCard("fake", "Fake", {})
NAMES = ("foreground", "distance", "size", "offset", "classes")


def random_maps(shape: tuple[int, int], classes: int = 0, seed: int = 0) -> DenseMaps:
    rng = np.random.default_rng(seed)
    planes = rng.random((5, *shape)).astype(np.float32)
    kinds = rng.random((classes, *shape)).astype(np.float32) if classes else None
    return DenseMaps(planes[0], planes[1], planes[2], planes[3:] - 0.5, kinds)


def seen_in(maps: DenseMaps, axes: tuple[int, ...]) -> DenseMaps:
    """What a network that treats all alike says of the mirror image."""
    found = {
        n: None if getattr(maps, n) is None else np.flip(getattr(maps, n), tuple(a - 2 for a in axes)).copy()
        for n in NAMES
    }
    for axis in axes:
        found["offset"][axis] *= -1
    return DenseMaps(**found)


@settings(max_examples=30, deadline=None)
@given(shape=st.tuples(st.integers(1, 9), st.integers(1, 9)), classes=st.sampled_from([0, 3]))
def test_a_network_that_treats_mirror_images_alike_gains_nothing(shape, classes):
    maps = random_maps(shape, classes)
    kept = {n: None if getattr(maps, n) is None else getattr(maps, n).copy() for n in NAMES}
    mean = Mean(maps)
    for axes in MIRRORS:
        mean.add(seen_in(maps, axes), axes)
    found = mean.maps()
    for name in NAMES:
        if kept[name] is None:
            assert getattr(found, name) is None
            continue
        np.testing.assert_allclose(getattr(found, name), kept[name], atol=1e-6)
        np.testing.assert_array_equal(getattr(maps, name), kept[name])  # the first is not written over
        assert getattr(found, name).dtype == np.float32


def test_the_mean_of_two_by_hand():
    zero = np.zeros((1, 2), np.float32)
    first = DenseMaps(
        np.array([[0.2, 0.8]], np.float32), zero, zero, np.array([[[1, 2]], [[3, 4]]], np.float32)
    )
    second = DenseMaps(
        np.array([[0.4, 0.6]], np.float32), zero, zero, np.array([[[5, 6]], [[7, 8]]], np.float32)
    )
    mean = Mean(first)
    mean.add(second, (1,))  # it is of the image with left and right exchanged
    found = mean.maps()
    np.testing.assert_allclose(found.foreground, [[0.4, 0.6]])
    np.testing.assert_allclose(found.offset, [[[3.5, 3.5]], [[-2.5, -1.5]]])


@given(
    image=hnp.arrays(np.uint8, st.sampled_from([(3, 5), (4, 4, 3)])),
    axes=st.sampled_from(MIRRORS),
)
def test_mirrored_twice_is_the_image(image, axes):
    once = mirrored(image, axes)
    assert once.flags.c_contiguous
    np.testing.assert_array_equal(mirrored(once, axes), image)
    np.testing.assert_array_equal(once[0, 0], image[-1 if 0 in axes else 0, -1 if 1 in axes else 0])


@pytest.mark.parametrize(("chance", "runs"), [(0.95, 1), (0.85, 4), (0.1, 1)])
def test_mirror_images_are_run_at_the_zoom_of_the_image_where_it_is_unsure(chance, runs):
    image = np.arange(48, dtype=np.float32).reshape(6, 8)
    seen = []

    def run(picture, zoom):
        seen.append((float(picture[0, 0]), zoom))
        size = np.full(picture.shape, 24, np.float32)
        flat = np.full(picture.shape, chance, np.float32)
        return DenseMaps(flat, np.zeros_like(flat), size, np.zeros((2, *flat.shape), np.float32))

    zoom, maps = read_maps(replace(CARD, diameter=24.0), image, run)
    assert [corner for corner, at in seen if at == zoom][-4:] == [0.0, 40.0, 7.0, 47.0][:runs]
    assert maps.foreground == pytest.approx(chance)
