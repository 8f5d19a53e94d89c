"""Labels that are written anew: only when the user asked, and what was known of the old ones goes."""

from __future__ import annotations

import time

import numpy as np
import pytest
from qtpy.QtCore import Qt

from napari_attnseg._napari import circle
from napari_attnseg._napari.comparison import _layer as shown_only
from napari_attnseg._napari.corrections import pairs
from napari_attnseg.records import PlaneKey, Progress
from tests.fakes import blobs
from tests.qt.test_correct import canvas_of, open_correct
from tests.qt.test_dock import press, run

NAME = "im · attnseg labels"


def pause(seconds=0.4):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield Progress(0, 0, "Waiting")
        time.sleep(0.02)


def wait_for_job(qtbot, dock, **changes):
    """Run a job that has nothing to do with the labels; meanwhile the form is changed."""
    dock.jobs.start_job(pause(), "Waiting", lambda _: None)
    dock.segment.readout.form.set_values(changes)
    qtbot.waitUntil(lambda: not dock.jobs.busy)
    qtbot.wait(200)  # longer than the form waits before it writes


@pytest.fixture
def ran(open_dock, qtbot):
    """A viewer with one image that was run."""
    viewer, dock = open_dock()
    viewer.add_image(blobs()[0], name="im")
    run(qtbot, dock)
    return viewer, dock


def test_the_form_shows_what_the_chosen_image_was_read_out_with(ran, qtbot):
    viewer, dock = ran
    form, layer = dock.segment.readout.form, viewer.layers[NAME]
    before, objects = form.values(), layer.data.copy()
    viewer.add_image(blobs()[0], name="other")
    form.set_values({"min_size": 10_000})
    viewer.layers.selection.active = viewer.layers["im"]
    assert form.values() == before
    wait_for_job(qtbot, dock)
    np.testing.assert_array_equal(layer.data, objects)


def test_only_a_change_during_a_job_is_caught_up_with_after_it(ran, qtbot):
    viewer, dock = ran
    form, layer = dock.segment.readout.form, viewer.layers[NAME]
    objects = layer.data.copy()
    layer.paint((2, 2), 99)
    qtbot.waitUntil(lambda: "You edited" in dock.segment.readout.state_line.text())
    form.set_values({"min_size": 10_000})  # for the next run: this result stays as it is
    qtbot.wait(200)
    layer.undo()
    qtbot.waitUntil(lambda: "show at once" in dock.segment.readout.state_line.text())
    wait_for_job(qtbot, dock)
    np.testing.assert_array_equal(layer.data, objects)
    wait_for_job(qtbot, dock, min_size=9_000)
    qtbot.waitUntil(lambda: not layer.data.any())


def test_the_result_before_comes_back_with_its_run(ran, qtbot):
    viewer, dock = ran
    form, first = dock.segment.readout.form, dock.session.state.run
    run(qtbot, dock, min_size=10_000)
    assert dock.session.state.run.params.min_size == 10_000
    press(qtbot, dock.segment.readout.restore_button)
    now = dock.session.state.run
    assert now.shown is first.shown
    assert now.params == first.params
    assert now.segmentation is first.segmentation
    assert now.tape is first.tape
    assert form.values()["min_size"] == first.params.min_size


def test_a_ranking_of_labels_that_were_read_out_anew_goes(ran, qtbot):
    viewer, dock = ran
    layer, review = viewer.layers[NAME], open_correct(dock).review
    press(qtbot, review.rank_button)
    qtbot.waitUntil(lambda: not dock.jobs.busy and review.list.count() > 0, timeout=30_000)
    canvas = canvas_of(viewer)
    qtbot.keyClick(canvas, Qt.Key.Key_N)
    dock.segment.readout.form.set_values({"drop_edge": not dock.session.state.run.params.drop_edge})
    qtbot.waitUntil(lambda: review.list.count() == 0)
    assert "rank again" in review.line.text()
    objects = layer.data.copy()
    qtbot.keyClick(canvas, Qt.Key.Key_N)
    viewer.cursor.position = (-50.0, -50.0)
    qtbot.keyClick(canvas, Qt.Key.Key_D)
    np.testing.assert_array_equal(layer.data, objects)
    press(qtbot, review.rank_button)
    qtbot.waitUntil(lambda: not dock.jobs.busy and review.list.count() > 0, timeout=30_000)
    assert "to look at" in review.line.text()


def test_layers_of_a_training_neither_empty_the_ranking_nor_are_offered(ran, qtbot):
    viewer, dock = ran
    panel = open_correct(dock)
    press(qtbot, panel.review.rank_button)
    qtbot.waitUntil(lambda: not dock.jobs.busy and panel.review.list.count() > 0, timeout=30_000)
    count = panel.review.list.count()
    (pair,) = pairs(viewer.layers, dock.session)
    for kind in ("preview", "comparison", "difference"):
        viewer.layers.append(shown_only(pair, PlaneKey(()), kind, kind))  # becomes the active layer
    assert panel.review.list.count() == count
    assert [panel.layer_box.itemText(n) for n in range(panel.layer_box.count())] == [NAME]


def test_a_hidden_layer_is_not_taken_first_and_says_what_to_do(open_dock):
    viewer, dock = open_dock()
    panel = open_correct(dock)
    viewer.layers.selection.active = None
    first = viewer.add_labels(blobs()[1], name="first")
    second = viewer.add_labels(blobs()[1], name="second", visible=False)
    viewer.layers.selection.active = None
    panel.tools.set_layer(None)
    panel.refresh()
    assert panel.tools.layer is first
    viewer.layers.selection.active = second
    assert panel.todo_line.text() == "'second' is hidden: show it first."
    assert not panel.buttons["delete"].isEnabled()
    second.visible = True
    assert panel.buttons["delete"].isEnabled()
    second.visible = False
    assert not panel.buttons["delete"].isEnabled()


def test_a_circle_that_the_user_removes_stays_away(open_dock):
    viewer, dock = open_dock()
    first = viewer.add_image(blobs()[0], name="im")
    row = dock.segment.diameter
    row.unit_box.setCurrentText("px")
    row.circle_button.click()
    viewer.add_image(blobs()[0], name="other")  # the circle goes along
    assert row.circle_button.isChecked()
    assert len([layer for layer in viewer.layers if layer.name.startswith(circle.NAME)]) == 1
    viewer.layers.selection.active = first
    viewer.layers.remove(circle.find(viewer))
    assert circle.find(viewer) is None
    assert not row.circle_button.isChecked()
    row.circle_button.click()
    assert circle.find(viewer) is not None
