from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_attnseg.core.labels import compact
from napari_attnseg.core.stitch import Stitcher, UnionFind, same_objects
from napari_attnseg.core.tiles import plan_tiles


def discs(shape, count, rng, largest):
    """Label discs, each drawn only where it stays one connected piece of its own."""
    from scipy import ndimage

    y, x = np.indices(shape)
    image = np.zeros(shape, dtype=bool)
    for _ in range(count):
        cy, cx, r = rng.integers(shape[0]), rng.integers(shape[1]), rng.integers(1, largest)
        image |= (y - cy) ** 2 + (x - cx) ** 2 <= r**2
    return ndimage.label(image)[0].astype(np.int32)


def same_partition(a, b):
    """Tell whether two label images agree up to the names."""
    if not np.array_equal(a > 0, b > 0):
        return False
    pairs = np.unique(np.stack([a[a > 0], b[a > 0]]), axis=1)
    return len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    shape=st.tuples(st.integers(20, 260), st.integers(20, 260)),
    largest=st.integers(2, 60),
)
def test_stitched_tiles_equal_the_whole_up_to_names(seed, shape, largest):
    rng = np.random.default_rng(seed)
    truth = discs(shape, 12, rng, largest)
    stitcher = Stitcher(shape)
    for tile in plan_tiles(shape, 96, 16):
        part = compact(truth[tile.read])[0]
        names = np.concatenate([[0], rng.permutation(int(part.max(initial=0))) + 1]).astype(np.int32)
        stitcher.add(tile, names[part])
    labels, new_id = stitcher.finish()
    assert same_partition(labels, truth)
    assert set(np.unique(labels)) - {0} == set(range(1, int(truth.max(initial=0)) + 1))
    assert new_id[0] == 0


def test_new_id_leads_from_tile_ids_to_the_result():
    truth = np.zeros((64, 200), dtype=np.int32)
    truth[20:40, 10:190] = 1
    stitcher = Stitcher(truth.shape)
    tiles = plan_tiles(truth.shape, 96, 16)
    offsets = [stitcher.add(t, truth[t.read]) for t in tiles]
    labels, new_id = stitcher.finish()
    assert len(tiles) == 3
    assert [new_id[o + 1] for o in offsets] == [1, 1, 1]
    np.testing.assert_array_equal(labels, truth)


def test_a_neighbour_at_the_seam_is_not_swallowed():
    a = np.zeros((10, 10), dtype=np.int32)
    a[:, :7] = 5
    b = np.zeros((10, 10), dtype=np.int32)
    b[:, :6] = 1
    b[4:6, 6:] = 2  # overlaps the old object by two pixels only
    assert same_objects(a, b) == [(5, 1)]


def test_union_find_keeps_the_smallest():
    sets = UnionFind()
    sets.grow(6)
    sets.union(4, 2)
    sets.union(5, 4)
    assert sets.roots().tolist() == [0, 1, 2, 3, 2, 2]
