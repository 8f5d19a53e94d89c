from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_attnseg.core.tiles import centre_window, plan_tiles, tile_at

PLANS = {
    "shape": st.tuples(st.integers(1, 700), st.integers(1, 700)),
    "tile": st.integers(64, 400),
    "halo": st.integers(0, 96),
    "align": st.sampled_from([1, 4, 16, 10.67, 2.5]),
}


@settings(max_examples=60, deadline=None)
@given(**PLANS)
def test_cores_partition_and_crops_fit(shape, tile, halo, align):
    written = np.zeros(shape, dtype=int)
    image = np.arange(shape[0] * shape[1]).reshape(shape)
    out = np.full(shape, -1)
    for t in plan_tiles(shape, tile, halo, align):
        assert all(
            0 <= r.start < r.stop <= n and r.stop - r.start <= tile
            for r, n in zip(t.read, shape, strict=True)
        )
        assert all(abs(r.start - align * round(r.start / align)) <= 0.5 for r in t.read)
        written[t.core] += 1
        out[t.core] = image[t.read][t.crop]
    assert (written == 1).all()
    np.testing.assert_array_equal(out, image)


@settings(max_examples=60, deadline=None)
@given(**PLANS)
def test_every_core_has_its_halo_or_the_border(shape, tile, halo, align):
    margin = int(min(halo, (tile - 1) // align // 4 * align)) - (align % 1 > 0)
    for t in plan_tiles(shape, tile, halo, align):
        for core, read, size in zip(t.core, t.read, shape, strict=True):
            assert read.start == 0 or core.start - read.start >= margin
            assert read.stop == size or read.stop - core.stop >= margin


@pytest.mark.parametrize(("tile", "align"), [(128, 16 / 0.42), (512, 16 / 0.074), (1024, 16 / 0.053)])
def test_tiles_of_few_coarse_tokens_see_something_around_them(tile, align):
    plans = plan_tiles((3000, 3000), tile, 1000, align)
    assert len(plans) > 4
    for t in plans:
        for core, read, size in zip(t.core, t.read, (3000, 3000), strict=True):
            assert read.start == 0 or read.start < core.start
            assert read.stop == size or read.stop > core.stop


def test_a_plane_that_fits_is_one_tile():
    (only,) = plan_tiles((1024, 300), 1024, 96)
    assert only.read == only.core == only.crop == (slice(0, 1024), slice(0, 300))


def test_tile_at_and_centre_window():
    tiles = plan_tiles((300, 500), 128, 16)
    for pixel in ((0, 0), (299, 499), (150, 250)):
        t = tile_at(tiles, pixel)
        assert all(c.start <= p < c.stop for c, p in zip(t.core, pixel, strict=True))
    with pytest.raises(LookupError):
        tile_at(tiles, (300, 0))
    assert centre_window((10, 100), 20) == (slice(0, 10), slice(40, 60))
