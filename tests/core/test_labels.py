from __future__ import annotations

import numpy as np

from napari_attnseg.core.labels import clean_classes, clean_regions, compact, edge_ids, remove


def test_compact_keeps_the_order_and_names_every_old_id():
    labels = np.array([[0, 7, 7], [-3, 0, 900]])
    out, ids = compact(labels)
    np.testing.assert_array_equal(out, [[0, 2, 2], [1, 0, 3]])
    np.testing.assert_array_equal(ids, [-3, 7, 900])
    assert out.dtype == np.int32


def test_compact_without_background_and_empty():
    out, ids = compact(np.array([[4, 4], [9, 4]]))
    np.testing.assert_array_equal(out, [[1, 1], [2, 1]])
    assert ids.tolist() == [4, 9]
    assert compact(np.zeros((0, 3), dtype=int))[0].shape == (0, 3)
    assert compact(np.zeros((2, 3), dtype=int))[1].size == 0


def test_edges_and_removal():
    labels = np.zeros((6, 6), dtype=np.int32)
    labels[0, 2], labels[3, 3], labels[5, 5] = 1, 2, 3
    assert edge_ids(labels).tolist() == [1, 3]
    assert np.unique(remove(labels, edge_ids(labels))).tolist() == [0, 2]


def test_clean_regions_fills_before_it_counts():
    labels = np.zeros((12, 12), dtype=np.int32)
    labels[2:7, 2:7] = 4
    labels[4, 4] = 0  # a hole
    labels[9, 9] = 6  # too small
    labels[0, 0:3] = 8  # at the edge
    out = clean_regions(labels, min_size=3, drop_edge=True, fill_holes=True)
    assert np.unique(out).tolist() == [0, 1]
    assert (out == 1).sum() == 25
    kept = clean_regions(labels, min_size=25, fill_holes=False)
    assert kept.max() == 0


def test_classes_keep_their_names_after_cleaning():
    classes = np.zeros((20, 20), dtype=np.int32)
    classes[2:10, 2:10] = 2
    classes[5, 5] = 0  # a hole
    classes[15, 15] = 1  # too small
    classes[12:, 2:9] = 3  # at the edge
    out = clean_classes(classes, min_size=5, drop_edge=False, fill_holes=True)
    assert out[5, 5] == 2
    assert out[15, 15] == 0
    assert set(np.unique(out)) == {0, 2, 3}
    assert set(np.unique(clean_classes(classes, min_size=0, drop_edge=True, fill_holes=False))) == {0, 1, 2}
