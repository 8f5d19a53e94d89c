"""Edits are noticed, and a big stack of which one plane was run is neither copied nor compared as a whole."""

from __future__ import annotations

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_attnseg._napari import layers as L
from napari_attnseg._napari.shown import copy_planes, plane_indices
from tests.napari.test_layers import segmentation


class Counted(np.ndarray):
    """Counts the planes that are read."""

    def __getitem__(self, index):
        if self.ndim == 3:
            self.read.append(index)
        return super().__getitem__(index)


def stack_of_one_run(plane=3):
    viewer = ViewerModel()
    image = viewer.add_image(np.zeros((6, 20, 30)), name="im", axis_labels=("t", "y", "x"))
    labels = np.zeros((6, 20, 30), np.int32)
    labels[plane, 2:6, 2:6] = 1
    scope = {"planes": [[plane]], "scope": "current plane"}
    shown, _ = L.show_result(viewer.layers, image, L.source_of(image), segmentation(labels), scope=scope)
    return viewer, image, shown, labels


def test_only_the_planes_that_were_run_are_copied():
    labels = np.arange(60, dtype=np.int32).reshape(5, 3, 4).view(Counted)
    labels.read = []
    out = copy_planes(labels, ((1,), (4,)))
    assert labels.read == [(1,), (4,)]
    assert not out[[0, 2, 3]].any()
    np.testing.assert_array_equal(out[[1, 4]], np.asarray(labels)[[1, 4]])
    np.testing.assert_array_equal(copy_planes(np.asarray(labels), None), labels)


def test_planes_lie_beside_the_one_step_of_a_channel_axis():
    assert plane_indices("TCZYX", [[2, 5]]) == ((2, 0, 5),)
    assert plane_indices("CTYX", [[2]]) == ((2,),)
    assert plane_indices("YX", [[]]) == ((),)
    assert plane_indices("TYX", None) is None


@pytest.mark.parametrize("plane", [3, 0])
def test_a_stroke_on_any_plane_is_an_edit_and_undo_takes_it_back(plane):
    _, _, shown, _ = stack_of_one_run()
    assert shown.planes == ((3,),)
    assert not shown.edited
    shown.layer.paint((plane, 15, 20), 9)
    assert shown.edited
    shown.layer.undo()
    assert not shown.edited
    shown.layer.data_setitem((np.array([plane]), np.array([1]), np.array([1])), 4)
    assert shown.edited


def test_other_data_in_the_layer_is_an_edit():
    _, _, shown, labels = stack_of_one_run()
    shown.layer.data = labels.copy()
    assert not shown.edited
    other = labels.copy()
    other[5] = 2
    shown.layer.data = other
    assert shown.edited


def test_another_readout_is_written_into_the_planes_of_the_run_only():
    _, image, shown, labels = stack_of_one_run()
    again = L.rewrite(shown, segmentation(np.roll(labels, 3, axis=1)), L.source_of(image))
    assert again.planes == shown.planes
    assert not again.edited
    np.testing.assert_array_equal(shown.layer.data, np.roll(labels, 3, axis=1))


def test_the_summary_of_a_layer_counts_its_objects():
    _, image, shown, labels = stack_of_one_run()
    assert L.summary(shown.layer).startswith("1 object ·")
    labels[3, 10:14, 10:14] = 2
    L.rewrite(shown, segmentation(labels), L.source_of(image))
    assert L.summary(shown.layer).startswith("2 objects ·")
