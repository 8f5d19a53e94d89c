"""Corrections of single objects: which pixels change."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_attnseg.core import edits
from napari_attnseg.errors import InputError
from napari_attnseg.records import DenseMaps


def apply(labels, edit):
    out = labels.copy()
    out[edit.rows, edit.columns] = edit.values
    return out


def plate(shape=(30, 40)):
    """A bar 5 with a neighbour 7 to its right."""
    labels = np.zeros(shape, dtype=np.int32)
    labels[8:20, 4:26] = 5
    labels[8:20, 26:32] = 7
    return labels


def maps_of(shape, votes, foreground=1.0):
    """Maps whose pixels vote for the (y, x) that ``votes(y, x)`` returns."""
    y, x = np.indices(shape).astype(np.float32)
    to = np.stack(votes(y, x))
    ones = np.ones(shape, dtype=np.float32)
    return DenseMaps(foreground * ones, ones, 12 * ones, (to - np.stack([y, x])).astype(np.float32))


def kept(maps, origin=(0, 0)):
    h, w = maps.foreground.shape
    return edits.PlaneMaps(maps, (slice(origin[0], origin[0] + h), slice(origin[1], origin[1] + w)))


def test_delete_grow_shrink_fill_by_hand():
    labels = plate()
    assert not (apply(labels, edits.delete(labels, 5)) == 5).any()
    grown = apply(labels, edits.grow(labels, 5))
    assert (grown == 5).sum() == 12 * 22 + 2 * 22 + 12  # no corner, and nothing of the neighbour
    assert (grown == 7).sum() == (labels == 7).sum()
    shrunk = apply(labels, edits.shrink(labels, 5))
    assert (shrunk == 5).sum() == 10 * 20
    holed = labels.copy()
    holed[12:14, 10:12] = 0
    holed[16, 10] = 9  # an object in a hole stays
    filled = apply(holed, edits.fill(holed, 5))
    assert (filled[12:14, 10:12] == 5).all()
    assert filled[16, 10] == 9


def test_the_image_border_does_not_eat_an_object():
    labels = np.zeros((10, 10), dtype=np.int32)
    labels[:4, :4] = 1
    shrunk = apply(labels, edits.shrink(labels, 1))
    assert (shrunk == 1).sum() == 9
    assert shrunk[0, 0] == 1


@pytest.mark.parametrize(
    ("what", "label", "words"),
    [
        (edits.delete, 3, "no object"),
        (edits.delete, 0, "no object"),
        (edits.fill, 5, "no hole"),
    ],
)
def test_what_cannot_be_done_is_said(what, label, words):
    with pytest.raises(InputError, match=words):
        what(plate(), label)


def test_an_object_that_would_vanish_or_cannot_grow_is_left():
    labels = np.full((3, 6), 2, dtype=np.int32)
    labels[:, 2] = 1
    with pytest.raises(InputError, match="too thin"):
        edits.shrink(labels, 1)
    with pytest.raises(InputError, match="no background"):
        edits.grow(labels, 1)


def test_merge_closes_a_narrow_gap_and_leaves_a_wide_one():
    labels = plate()
    touching = apply(labels, edits.merge(labels, 5, 7))
    assert set(np.unique(touching)) == {0, 5}
    labels[:, 25:27] = 0  # two pixels apart
    near = edits.merge(labels, 7, 5)
    joined = apply(labels, near)
    assert set(np.unique(joined)) == {0, 7}
    assert (joined[9:19, 25:27] == 7).all()
    assert "share one id" not in near.text
    labels[:, 15:28] = 0
    far = edits.merge(labels, 7, 5)
    assert (apply(labels, far) == 7).sum() == (labels > 0).sum()
    assert "share one id" in far.text
    with pytest.raises(InputError, match="itself"):
        edits.merge(labels, 7, 7)


def test_merge_takes_what_the_network_calls_foreground_between_the_two():
    labels = plate()
    labels[:, 15:28] = 0
    maps = maps_of(labels.shape, lambda y, x: (y, x), foreground=0.0)
    maps.foreground[10:14, 15:28] = 0.9
    maps.foreground[24:28, 15:28] = 0.9  # not between them
    edit = edits.merge(labels, 5, 7, kept(maps))
    merged = apply(labels, edit)
    assert (merged[10:14, 15:28] == 5).all()
    assert (merged[20:] == 0).all()
    assert "share one id" not in edit.text


def test_split_along_a_stroke_that_ends_inside():
    labels = plate()
    for stroke in ([(4, 12), (24, 12)], [(12, 12), (15, 12)]):
        edit = edits.split(labels, 5, np.array(stroke, dtype=float), 8)
        out = apply(labels, edit)
        assert (out[8:20, 13:26] == 5).all()  # the larger part keeps the id
        assert (out[8:20, 4:12] == 8).all()
        assert set(np.unique(out[8:20, 12])) <= {5, 8}
        assert (out > 0).sum() == (labels > 0).sum()
        assert "along the stroke" in edit.text


def test_a_stroke_that_cuts_nothing_is_refused():
    labels = plate()
    for stroke, words in (([(2, 0), (2, 39)], "does not cut"), ([(12, 12), (12, 12)], "too short")):
        with pytest.raises(InputError, match=words):
            edits.split(labels, 5, np.array(stroke, dtype=float), 8)


def test_three_parts_get_three_ids():
    labels = np.zeros((30, 30), dtype=np.int32)
    labels[2:28, 2:28] = 1
    labels[6:28, 10:20] = 0  # a U upside down
    out = apply(labels, edits.split(labels, 1, np.array([(15.0, 0.0), (15.0, 29.0)]), 4))
    assert set(np.unique(out)) == {0, 1, 4, 5}


@pytest.mark.parametrize("origin", [(0, 0), (5, 2)])
def test_pixels_attend_to_the_seeds_of_both_sides(origin):
    labels = plate()
    maps = maps_of(
        (25, 30), lambda y, x: (y * 0 + 14 - origin[0], np.where(x + origin[1] < 13, 8, 20) - origin[1])
    )
    sloppy = np.array([(4.0, 12.0), (24.0, 16.0)])
    edit = edits.split(labels, 5, sloppy, 8, kept(maps, origin))
    out = apply(labels, edit)
    assert (out[8:20, 4:13] == 8).all()  # the network's border, not the stroke's
    assert (out[8:20, 13:26] == 5).all()
    assert "attend" in edit.text


def test_the_stroke_decides_where_the_network_sees_one_object_or_was_not_run():
    labels = plate()
    stroke = np.array([(4.0, 12.0), (24.0, 12.0)])
    plain = apply(labels, edits.split(labels, 5, stroke, 8))
    one = maps_of(labels.shape, lambda y, x: (y * 0 + 14, x * 0 + 15))
    edit = edits.split(labels, 5, stroke, 8, kept(one))
    np.testing.assert_array_equal(apply(labels, edit), plain)
    assert "one object" in edit.text
    part = maps_of((25, 10), lambda y, x: (y, x))
    np.testing.assert_array_equal(apply(labels, edits.split(labels, 5, stroke, 8, kept(part))), plain)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10_000),
    st.lists(st.tuples(st.integers(-3, 33), st.integers(-3, 33)), min_size=2, max_size=6),
)
def test_a_split_changes_nothing_but_its_object(seed, points):
    from scipy.ndimage import gaussian_filter, label

    field = gaussian_filter(np.random.default_rng(seed).normal(size=(30, 30)), 2.5)
    labels = label(field > 0.02)[0].astype(np.int32)
    top = int(labels.max())
    if top == 0:
        return
    target = int(np.bincount(labels.ravel())[1:].argmax()) + 1
    try:
        out = apply(labels, edits.split(labels, target, np.array(points, dtype=float), top + 1))
    except InputError:
        return
    same = labels != target
    np.testing.assert_array_equal(out[same], labels[same])
    parts = np.unique(out[~same])
    assert len(parts) >= 2
    assert target in parts
    assert set(parts) - {target} == set(range(top + 1, top + len(parts)))
    sizes = [(out == part).sum() for part in parts]
    assert (out == target).sum() == max(sizes)
