"""A new prediction goes around the user's objects and never over them."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_attnseg.core.corrections import compare_labels
from napari_attnseg.core.merge import CHANGED, FOUND, LOST, difference, merge, territory


def plane(**boxes):
    """Return labels of (20, 40) from ``_3=(y0, y1, x0, x1)``."""
    out = np.zeros((20, 40), np.int32)
    for name, (y0, y1, x0, x1) in boxes.items():
        out[y0:y1, x0:x1] = int(name[1:])
    return out


BEFORE = plane(_1=(2, 8, 2, 8), _2=(2, 8, 12, 18), _3=(2, 8, 22, 28), _4=(12, 18, 2, 8))
AFTER = plane(_1=(2, 8, 2, 10), _3=(2, 8, 22, 28), _4=(12, 18, 2, 8), _9=(12, 18, 30, 36))  # 2 is erased


def test_the_users_ground_is_what_changed_and_what_it_was_made_from():
    mine = territory(BEFORE, AFTER, compare_labels(BEFORE, AFTER).kept)
    expected = np.zeros((20, 40), bool)
    expected[2:8, 2:10] = expected[2:8, 12:18] = expected[12:18, 30:36] = True
    np.testing.assert_array_equal(mine, expected)
    np.testing.assert_array_equal(territory(None, AFTER, ()), AFTER != 0)


def test_corrections_stay_and_the_rest_is_filled():
    new = plane(
        _1=(2, 8, 3, 9),  # over the reshaped 1: dropped
        _2=(2, 8, 12, 18),  # comes again where the user erased: dropped
        _3=(2, 9, 22, 28),  # a better 3: keeps its id
        _5=(10, 14, 14, 20),  # fresh
        _6=(13, 16, 26, 31),  # mostly beside 9: its rest stays
    )
    mine = territory(BEFORE, AFTER, compare_labels(BEFORE, AFTER).kept)
    merged = merge(AFTER, BEFORE, new, mine, top=9)
    out = merged.labels
    np.testing.assert_array_equal(out[mine], AFTER[mine])
    assert not out[2:8, 12:18].any()
    assert set(np.unique(out)) == {0, 1, 3, 9, 10, 11}
    assert (out[2:9, 22:28] == 3).all()
    assert not (out == 4).any()  # the new model does not see it, and the user left it alone
    assert merged.ids == {3: 3, 5: 10, 6: 11}
    assert (out == 11).sum() == 3 * 4
    # what the user corrected is still told from what was filled
    changes = compare_labels(merged.before, out)
    assert changes.corrected == (1, 9)
    assert changes.removed == (2,)
    assert changes.kept == (3, 10, 11)


def test_an_id_that_the_user_erased_is_not_given_again():
    before, after = plane(_7=(2, 8, 2, 8)), plane()
    merged = merge(after, before, plane(_1=(12, 18, 2, 8)), territory(before, after, ()), top=0)
    assert set(np.unique(merged.labels)) == {0, 8}


def test_a_piece_that_is_cut_in_two_keeps_its_larger_part():
    after = plane(_1=(0, 20, 20, 22))
    merged = merge(after, None, plane(_1=(5, 9, 10, 30)), territory(None, after, ()), top=1)
    assert (merged.labels[5:9, 10:20] == 2).all()
    assert not merged.labels[5:9, 22:30].any() or not merged.labels[5:9, 10:20].any()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_nothing_the_user_decided_is_ever_written(seed):
    rng = np.random.default_rng(seed)

    def scene():
        out = np.zeros((24, 24), np.int32)
        for label in range(1, int(rng.integers(1, 7))):
            y, x = rng.integers(0, 20, 2)
            out[y : y + int(rng.integers(1, 9)), x : x + int(rng.integers(1, 9))] = label
        return out

    before, after, new = scene(), scene(), scene()
    changes = compare_labels(before, after)
    mine = territory(before, after, changes.kept)
    merged = merge(after, before, new, mine, top=int(after.max()))
    np.testing.assert_array_equal(merged.labels[mine], after[mine])
    again = compare_labels(merged.before, merged.labels)
    assert set(again.corrected) == set(changes.corrected)
    assert len(again.removed) == len(changes.removed)


def test_the_difference_of_two_results():
    before = plane(_1=(2, 8, 2, 8), _2=(2, 8, 12, 18))
    after = plane(_5=(2, 8, 2, 9), _1=(12, 18, 30, 36))
    out = difference(before, after)
    assert (out[2:8, 8] == CHANGED).all()
    assert not out[2:8, 2:8].any()
    assert (out[2:8, 12:18] == LOST).all()
    assert (out[12:18, 30:36] == FOUND).all()
    assert not difference(before, before).any()
