"""What a comparison of two models says of the objects on the plane."""

from __future__ import annotations

import numpy as np
import pytest

from napari_attnseg._napari.comparison import legend, missed
from tests.fakes import blobs

TRUTH = blobs()[1]
COUNT = int(TRUTH.max())


def without(*ids):
    return np.where(np.isin(TRUTH, ids), 0, TRUTH).astype(np.int32)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (without(1), without(2, 3), "Red: 2 objects only before · green: 1 only after"),
        (TRUTH, without(4), "Red: 1 object only before · green: 0 only after"),
        (without(*range(1, COUNT + 1)), TRUTH, f"Red: 0 objects only before · green: {COUNT} only after"),
    ],
)
def test_the_legend_counts_what_only_one_model_found(before, after, said):
    assert legend(before, after).startswith(said)


def test_a_model_that_misses_many_of_the_users_objects_is_told_of():
    lost = range(1, COUNT // 2 + 2)
    said = missed(TRUTH, TRUTH, without(*lost))
    assert f"Of your {COUNT} objects" in said
    assert f"before finds {COUNT}, the new one {COUNT - len(lost)}" in said
    assert "roll back" in said


def test_only_objects_that_the_user_left_count():
    erased = range(1, COUNT // 2 + 2)
    assert missed(without(*erased), TRUTH, without(*erased)) == ""


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_few_that_are_missed_are_no_warning(lost):
    assert missed(TRUTH, TRUTH, without(*range(1, lost + 1))) == ""


def test_three_of_the_last_few_are():
    few = without(*range(5, COUNT + 1))
    assert "finds 4, the new one 1" in missed(few, TRUTH, without(*range(2, COUNT + 1)))
    assert missed(few, TRUTH, without(*range(3, COUNT + 1))) == ""


def test_a_layer_of_another_shape_says_nothing():
    assert missed(TRUTH[:-1], TRUTH, without(*range(1, 10))) == ""
