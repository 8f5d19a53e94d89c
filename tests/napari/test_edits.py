"""Layers that take no edits, writes that fail, and the order in which ctrl+z takes edits and marks back."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Labels

from napari_attnseg._napari import corrections as C
from napari_attnseg._napari import edits, marks
from napari_attnseg._napari import rerun as R
from napari_attnseg._napari.classes import NAMES, name_filled
from napari_attnseg._napari.layers import META
from napari_attnseg.core.edits import Edit
from napari_attnseg.errors import InputError
from tests.napari.test_class_rerun import Painted
from tests.napari.test_tools import Bench, plate

ONE = np.array([0])


def read_only():
    labels = plate()
    labels.setflags(write=False)
    return labels


def classes():
    return {"metadata": {META: {"kind": "labels", "params": {"task": "classes"}}}}


def named(*names, **about):
    return {"metadata": {NAMES: [list(pair) for pair in names], **about}}


@pytest.mark.parametrize(
    ("data", "how", "why"),
    [
        (plate(), {"visible": False}, "is hidden: show it first"),
        (da.from_array(plate(), chunks=20), {}, "cannot be written to"),
        (read_only(), {}, "cannot be written to"),
        (plate(), classes(), "no single objects to correct"),
        (plate(), named((5, "nucleus")), "no single objects to correct"),
        (plate(), named((5, "class 5"), (7, "stroma")), "no single objects to correct"),
    ],
)
def test_layers_that_take_no_edits_say_why(data, how, why):
    viewer = ViewerModel()
    layer = viewer.add_labels(data, **how)
    assert why in edits.why_not(viewer, layer)
    bench = Bench(plate())
    bench.tools.set_layer(layer)
    bench.layer = layer
    bench.tools._viewer = viewer
    for pointed in (False, True):
        if pointed:
            bench.tools.point_at((), 5)  # brought into view
        bench.key("D", hover=None if pointed else (10, 8))
        assert why in bench.said[-1][0]
        assert bench.said[-1][1]
    np.testing.assert_array_equal(np.asarray(layer.data), plate())


def test_layers_whose_numbers_nobody_named_hold_objects():
    viewer = ViewerModel()
    emptied = viewer.add_labels(plate(), **named((5, "class 5")))
    assert edits.why_not(viewer, emptied) == ""
    objects = {META: {"kind": "labels", "params": {"task": "instances"}}}  # of a run that came after classes
    again = viewer.add_labels(plate(), **named((5, "nucleus"), **objects))
    assert edits.why_not(viewer, again) == ""
    name_filled(emptied, {5: "class 5", 7: "class 7"})
    assert "no single objects" in edits.why_not(viewer, emptied)


def test_a_hidden_layer_that_is_shown_again_can_be_corrected():
    bench = Bench(plate(), visible=False)
    bench.layer.visible = True
    bench.key("D", hover=(10, 8))
    assert not (bench.layer.data == 5).any()
    bench.key("Control-Z")
    np.testing.assert_array_equal(bench.layer.data, plate())


def test_a_write_that_fails_leaves_pixels_and_history_as_they_were():
    layer = Labels(plate(), visible=False)  # never drawn: napari fails after it has written
    with pytest.raises(InputError, match="could not be changed"):
        edits.write(layer, (), Edit(ONE + 9, ONE + 8, ONE, ""))
    np.testing.assert_array_equal(layer.data, plate())
    viewer = ViewerModel()
    viewer.layers.append(layer)
    layer.visible = True
    edits.write(layer, (), Edit(ONE, ONE, ONE + 3, ""))
    layer.undo()
    np.testing.assert_array_equal(layer.data, plate())


def test_what_an_array_raises_is_said(monkeypatch):
    bench = Bench(plate())

    def broken(*_):
        raise NotImplementedError("no such indexing")

    monkeypatch.setattr("napari_attnseg._napari.tools.spot_at", broken)
    bench.key("D", hover=(10, 8))
    assert bench.said[-1] == (
        "This layer could not be corrected (NotImplementedError: no such indexing).",
        True,
    )


def test_a_re_run_shows_a_hidden_layer_and_is_one_step():
    scene = Painted()
    made = scene.refill()
    (pair,) = scene.pairs()
    hidden = scene.viewer.add_labels(scene.mine.copy(), visible=False)
    made = R.Refill(
        C.Pair(pair.image, hidden, pair.axes), made.how, made.params, made.segmentation, made.field,
        made.planes, made.numbers,
    )  # fmt: skip
    assert R.apply(scene.session, made) > 0
    assert hidden.visible
    hidden.undo()
    np.testing.assert_array_equal(hidden.data, scene.mine)


def test_a_re_run_refuses_data_that_cannot_be_written():
    scene = Painted()
    made = scene.refill()
    scene.layer.data.setflags(write=False)
    with pytest.raises(InputError, match="cannot be written to"):
        R.apply(scene.session, made)
    np.testing.assert_array_equal(scene.layer.data, scene.mine)


def test_layers_that_only_show_something_are_not_corrected():
    viewer = ViewerModel()
    mine = viewer.add_labels(plate())
    ours = viewer.add_labels(plate(), metadata={META: {"kind": "labels"}})
    for kind in ("preview", "comparison", "difference"):
        viewer.add_labels(plate(), metadata={META: {"kind": kind}})
    assert edits.labels_layers(viewer.layers) == [ours, mine]


# -- ctrl+z ---------------------------------------------------------------------------------------


def test_undo_after_redo_takes_the_newer_edit_back_not_the_mark():
    bench = Bench(plate())
    bench.key("A", hover=(10, 8))
    bench.key("D", hover=(10, 30))
    bench.key("Control-Z")
    bench.layer.redo()
    assert not (bench.layer.data == 7).any()
    bench.key("Control-Z")
    np.testing.assert_array_equal(bench.layer.data, plate())
    assert marks.checked(bench.layer) == {5}
    bench.key("Control-Z")
    assert marks.checked(bench.layer) == set()


def test_a_mark_is_taken_back_after_a_look_at_another_tab_or_layer():
    bench = Bench(plate())
    bench.key("A", hover=(10, 8))
    bench.tools.listen(False)
    bench.layer.paint((35, 50), 3)  # with another tab open
    bench.tools.listen(True)
    bench.tools.set_layer(bench.viewer.add_labels(plate()))
    bench.tools.set_layer(bench.layer)
    bench.key("Control-Z")
    np.testing.assert_array_equal(bench.layer.data, plate())
    assert marks.checked(bench.layer) == {5}
    bench.key("Control-Z")
    assert marks.checked(bench.layer) == set()


def test_an_edit_after_a_step_that_napari_took_back_is_newer_than_the_mark():
    bench = Bench(plate())
    bench.layer.paint((35, 50), 3)
    bench.key("A", hover=(10, 8))
    bench.layer.undo()  # by napari's own key, in another tab
    bench.layer.paint((36, 50), 4)
    bench.key("Control-Z")
    np.testing.assert_array_equal(bench.layer.data, plate())
    assert marks.checked(bench.layer) == {5}


def test_an_object_that_left_its_box_is_not_acted_on():
    bench = Bench(plate())
    bench.viewer.cursor.position = bench.world(10, 8)
    bench.tools.point_at((), 7, (8, 26, 20, 34))
    bench.layer.data_setitem(np.nonzero(bench.layer.data == 7), 0)
    bench.layer.data_setitem((np.array([35]), np.array([50])), 7)  # the number is another object's now
    bench.key("D")
    assert "not there any more" in bench.said[-1][0]
    assert bench.layer.data[35, 50] == 7
