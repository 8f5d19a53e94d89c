from __future__ import annotations

import numpy as np
import pytest

from napari_attnseg.core.size import AIM, COMFORT, ZOOM_LIMITS, estimate_diameter, settle_zoom, zoom_for
from napari_attnseg.records import DenseMaps


def maps(size, foreground=1.0, shape=(32, 32)):
    flat = np.full(shape, 1.0, dtype=np.float32)
    return DenseMaps(flat * foreground, flat, flat * size, np.zeros((2, *shape), dtype=np.float32))


def test_every_object_counts_once():
    found = maps(1.0, shape=(100, 100))
    found.size[:50] = 40  # four objects of 40 px
    found.size[50:] = 10  # many of 10 px on the same area
    assert estimate_diameter(found) == 10


def test_an_empty_image_has_no_diameter():
    assert estimate_diameter(maps(20, foreground=0.1)) is None
    assert settle_zoom(lambda zoom: maps(20, foreground=0.1), 24)[0] == 1.0


@pytest.mark.parametrize("ratio", [1.01 * COMFORT[0], 1.0, 0.99 * COMFORT[1]])
def test_the_network_is_at_ease_near_its_size(ratio):
    assert zoom_for(24 * ratio, 24) == 1.0


@pytest.mark.parametrize("diameter", [3, 6, 10, 80, 150, 400])
def test_zoom_brings_objects_to_the_nearer_end(diameter):
    zoom = zoom_for(diameter, 24)
    if ZOOM_LIMITS[0] < zoom < ZOOM_LIMITS[1]:
        aim = AIM[0] if diameter < 24 else AIM[1]
        assert 0.91 <= diameter * zoom / (24 * aim) <= 1.1
        assert COMFORT[0] < diameter * zoom / 24 < COMFORT[1]


def test_zoom_is_limited():
    assert zoom_for(1e6, 24) == ZOOM_LIMITS[0]
    assert zoom_for(0.1, 24) == ZOOM_LIMITS[1]


def test_a_size_that_is_seen_right_settles_after_one_change():
    runs = []

    def run(zoom):
        runs.append(zoom)
        return maps(96)

    zoom, found = settle_zoom(run, 24)
    assert runs == [1.0, zoom]
    assert zoom == zoom_for(96, 24)
    assert found.size[0, 0] == 96


def test_a_size_that_is_seen_too_small_at_first_is_corrected_once():
    seen = {1.0: 80.0, zoom_for(80, 24): 220.0}
    runs = []

    def run(zoom):
        runs.append(zoom)
        return maps(seen.get(zoom, 220.0))

    assert settle_zoom(run, 24)[0] == zoom_for(220, 24)
    assert len(runs) == 3
