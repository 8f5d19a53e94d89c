"""The Correct tab in a real viewer, on a fake engine."""

from __future__ import annotations

import numpy as np
import pytest
from qtpy.QtCore import Qt

from napari_attnseg._napari import marks, stroke
from tests.fakes import blobs
from tests.qt.test_dock import press, run
from tests.qt.test_use import stack


def open_correct(dock):
    titles = [dock.tabs.tabText(n) for n in range(dock.tabs.count())]
    dock.tabs.setCurrentIndex(titles.index("Correct"))
    return dock.correct


def canvas_of(viewer):
    from qtpy.QtWidgets import QWidget

    every = viewer.window._qt_window.findChildren(QWidget)
    (found,) = [w for w in every if "CanvasBackend" in type(w).__name__ and w.isVisible()]
    return found


def test_the_tab_follows_the_labels_layers_and_says_why_not(open_dock, qtbot):
    viewer, dock = open_dock()
    panel = open_correct(dock)
    assert not panel.buttons["split"].isEnabled()
    assert "Run a segmentation" in panel.todo_line.text()
    assert panel.buttons["split"].toolTip() == panel.todo_line.text()
    assert not panel.review.rank_button.isEnabled()
    first = viewer.add_labels(blobs()[1], name="first")
    second = viewer.add_labels(blobs()[1], name="second")
    assert panel.layer_box.currentText() in ("first", "second")
    viewer.layers.selection.active = first
    assert panel.tools.layer is first
    assert panel.layer_box.currentText() == "first"
    panel.layer_box.setCurrentText("second")
    assert panel.tools.layer is second
    assert panel.buttons["split"].isEnabled()
    assert "No image of the size" in panel.review.rank_button.toolTip()
    viewer.add_image(blobs()[0], name="im")
    assert panel.review.rank_button.isEnabled()
    viewer.dims.ndisplay = 3
    qtbot.waitUntil(lambda: not panel.buttons["split"].isEnabled())
    viewer.dims.ndisplay = 2
    viewer.layers.remove(second)
    assert panel.tools.layer is first
    viewer.layers.remove(first)
    assert panel.tools.layer is None


def test_buttons_arm_tools_escape_and_leaving_the_tab_end_them(open_dock, qtbot):
    viewer, dock = open_dock()
    layer = viewer.add_labels(blobs()[1], name="l")
    panel = open_correct(dock)
    press(qtbot, panel.buttons["split"])
    assert panel.buttons["split"].isChecked()
    assert "right across" in panel.todo_line.text()
    press(qtbot, panel.buttons["merge"])
    assert not panel.buttons["split"].isChecked()
    assert stroke.find(viewer) is None
    press(qtbot, panel.buttons["merge"])
    assert panel.tools.tool == ""
    press(qtbot, panel.buttons["delete"])
    qtbot.keyClick(canvas_of(viewer), Qt.Key.Key_Escape)
    assert panel.tools.tool == ""
    press(qtbot, panel.buttons["split"])
    dock.tabs.setCurrentIndex(0)
    assert panel.tools.tool == ""
    assert stroke.find(viewer) is None
    assert not layer.keymap


def test_keys_on_the_canvas_edit_and_undo(open_dock, qtbot):
    viewer, dock = open_dock()
    layer = viewer.add_labels(blobs()[1], name="l")
    panel = open_correct(dock)
    canvas = canvas_of(viewer)
    viewer.cursor.position = (16.0, 16.0)
    qtbot.keyClick(canvas, Qt.Key.Key_G)
    assert "grew" in panel.said_line.text()
    assert (layer.data == 1).sum() > (blobs()[1] == 1).sum()
    qtbot.keyClick(canvas, Qt.Key.Key_G, Qt.KeyboardModifier.ShiftModifier)
    assert "shrank" in panel.said_line.text()
    qtbot.keyClick(canvas, Qt.Key.Key_D)
    assert not (layer.data == 1).any()
    for _ in range(2):
        qtbot.keyClick(canvas, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    press(qtbot, panel.undo_button)
    np.testing.assert_array_equal(layer.data, blobs()[1])
    qtbot.keyClick(canvas, Qt.Key.Key_A)
    assert marks.checked(layer) == {1}


@pytest.mark.parametrize("views", [True, False])
def test_rank_lists_jumps_and_ticks_off(open_dock, qtbot, views):
    viewer, dock = open_dock()
    viewer.add_image(blobs()[0], name="im")
    run(qtbot, dock)
    qtbot.waitUntil(lambda: not dock.jobs.busy)
    panel = open_correct(dock)
    review, layer = panel.review, viewer.layers["im · attnseg labels"]
    assert panel.tools.layer is layer
    review.views_box.setChecked(views)
    assert not review.next_button.isEnabled()
    press(qtbot, review.rank_button)
    qtbot.waitUntil(lambda: not dock.jobs.busy and review.list.count() > 0, timeout=30_000)
    assert review.list.count() == 12
    assert "12 of 12" in review.line.text()
    assert layer.features["correct_next"].between(0, 1).all()
    assert not review.list.item(0).icon().isNull()
    before = tuple(viewer.scene.camera.center)
    canvas = canvas_of(viewer)
    qtbot.keyClick(canvas, Qt.Key.Key_N)
    first = review._entries[0]
    assert layer.selected_label == first.label
    assert tuple(viewer.scene.camera.center) != before
    y, x = viewer.scene.camera.center[-2:]
    assert first.box[0] <= y < first.box[2]
    assert first.box[1] <= x < first.box[3]
    qtbot.keyClick(canvas, Qt.Key.Key_A)  # acts on what was brought into view
    assert marks.checked(layer) == {first.label}
    assert review.list.item(0).text().startswith("✓")
    assert "11 of 12" in review.line.text()
    qtbot.keyClick(canvas, Qt.Key.Key_N)
    assert review.list.currentRow() == 1
    qtbot.keyClick(canvas, Qt.Key.Key_D)
    assert review.list.item(1).text().startswith("✓")
    qtbot.keyClick(canvas, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert not review.list.item(1).text().startswith("✓")
    review.kind_box.setCurrentText("fields")
    assert review.list.count() >= 1
    assert "field" in review.list.item(0).text()
    viewer.add_labels(blobs()[1], name="other")
    viewer.layers.selection.active = viewer.layers["other"]
    assert review.list.count() == 0  # of another layer


def test_a_suspect_on_another_plane_is_brought_into_view(open_dock, qtbot):
    viewer, dock = open_dock()
    stack(viewer)
    viewer.dims.set_current_step(0, 0)
    dock.segment.scope_box.setCurrentText("whole layer")
    run(qtbot, dock)
    qtbot.waitUntil(lambda: not dock.jobs.busy)
    review = open_correct(dock).review
    assert review.scope_box.isVisible()
    review.scope_box.setCurrentText("all planes")
    press(qtbot, review.rank_button)
    qtbot.waitUntil(lambda: not dock.jobs.busy and review.list.count() > 0, timeout=60_000)
    row = next(n for n, s in enumerate(review._entries) if s.plane.index == (2,) and s.label)
    review.list.setCurrentRow(row)
    assert viewer.dims.current_step[0] == 2
    label = review._entries[row].label
    assert (viewer.layers["im · attnseg labels"].data[2] == label).any()


def test_a_layer_that_goes_during_the_ranking_is_no_error(open_dock, qtbot, engine):
    viewer, dock = open_dock()
    viewer.add_image(np.tile(blobs()[0], (2, 2)), name="im")
    run(qtbot, dock)
    qtbot.waitUntil(lambda: not dock.jobs.busy)
    review = open_correct(dock).review
    engine.pause = 0.1
    press(qtbot, review.rank_button)
    assert not review.rank_button.isEnabled()
    viewer.layers.remove("im · attnseg labels")
    qtbot.waitUntil(lambda: not dock.jobs.busy, timeout=30_000)
    assert review.list.count() == 0


def test_closing_the_dock_lets_go_of_everything(open_dock, qtbot):
    viewer, dock = open_dock()
    layer = viewer.add_labels(blobs()[1], name="l")
    open_correct(dock)
    assert layer.keymap
    viewer.window.remove_dock_widget(dock)
    assert not layer.keymap
    assert not [key for key in viewer.keymap if str(key) in ("N", "Shift+N")]
    layer.paint((2, 2), 50)
    dock.close()


def test_why_a_ranking_failed_is_said_here(open_dock, qtbot, engine, monkeypatch):
    monkeypatch.setattr("napari_attnseg._napari.notify.error", lambda err: None)
    viewer, dock = open_dock()
    viewer.add_image(blobs()[0], name="im")
    run(qtbot, dock)
    qtbot.waitUntil(lambda: not dock.jobs.busy)
    review = open_correct(dock).review

    def fail(*args, **kwargs):
        raise MemoryError("Unable to allocate 9 GiB")

    engine.maps = fail
    press(qtbot, review.rank_button)
    qtbot.waitUntil(lambda: not dock.jobs.busy)
    assert "not enough memory" in review.line.text()
    assert review.list.count() == 0
