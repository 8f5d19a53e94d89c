"""The Correct tab in a real viewer, on a fake engine."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from qtpy.QtCore import Qt

from napari_attnseg._napari import marks, stroke
from napari_attnseg._napari.classes import set_name
from tests.fakes import blobs
from tests.qt.test_dock import press, run
from tests.qt.test_use import stack


def open_correct(dock):
    titles = [dock.tabs.tabText(n) for n in range(dock.tabs.count())]
    dock.tabs.setCurrentIndex(titles.index("Correct"))
    return dock.correct


def ranked(open_dock, qtbot):
    """Return viewer, panel, list box and layer after a run whose objects were ranked with a real click."""
    viewer, dock = open_dock()
    viewer.add_image(blobs()[0], name="im")
    run(qtbot, dock)
    qtbot.waitUntil(lambda: not dock.jobs.busy)
    panel = open_correct(dock)
    press(qtbot, panel.review.rank_button)
    qtbot.waitUntil(lambda: not dock.jobs.busy and panel.review.list.count() > 0, timeout=30_000)
    return viewer, panel, panel.review.list, viewer.layers["im · attnseg labels"]


def click_entry(qtbot, box, row):
    place = box.visualItemRect(box.item(row)).center()
    qtbot.mouseClick(box.viewport(), Qt.MouseButton.LeftButton, pos=place)


def type_key(qtbot, viewer, key, *modifiers):
    """Send a key to the widget that has the focus in napari's window."""
    qtbot.keyClick(viewer.window._qt_window.focusWidget(), key, *modifiers)


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


def test_keys_work_in_the_list_after_a_click_on_an_entry_and_arrows_move_in_it(open_dock, qtbot):
    viewer, panel, box, layer = ranked(open_dock, qtbot)
    click_entry(qtbot, box, 0)
    window = viewer.window._qt_window
    assert window.focusWidget() is box
    labels = [suspect.label for suspect in panel.review._entries]
    for key in "ANAND":
        type_key(qtbot, viewer, getattr(Qt.Key, f"Key_{key}"))
    assert box.currentRow() == 2
    assert marks.checked(layer) == set(labels[:2])
    assert not (layer.data == labels[2]).any()
    assert window.focusWidget() is box
    type_key(qtbot, viewer, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert (layer.data == labels[2]).any()
    assert panel.said_line.text() == "The last change is undone."
    type_key(qtbot, viewer, Qt.Key.Key_Down)
    assert box.currentRow() == 3
    assert layer.selected_label == labels[3]
    type_key(qtbot, viewer, Qt.Key.Key_Up)
    type_key(qtbot, viewer, Qt.Key.Key_G, Qt.KeyboardModifier.ShiftModifier)
    assert f"Object {labels[2]} shrank" in panel.said_line.text()


def test_what_a_place_without_an_object_is_replaces_the_words_about_the_object_before(open_dock, qtbot):
    viewer, panel, box, layer = ranked(open_dock, qtbot)
    before = layer.data.copy()
    click_entry(qtbot, box, 0)
    first = panel.review._entries[0]
    assert panel.said_line.text().startswith(f"Object {first.label}: A if it is right")
    panel.review.kind_box.setFocus()
    panel.review.kind_box.setCurrentText("fields")
    type_key(qtbot, viewer, Qt.Key.Key_N)
    assert panel.said_line.text().startswith("Field at ")
    for key in (Qt.Key.Key_A, Qt.Key.Key_D):
        type_key(qtbot, viewer, key)
        assert "No object is chosen" in panel.said_line.text()
    assert panel.review.kind_box.currentText() == "fields"
    np.testing.assert_array_equal(layer.data, before)
    assert marks.checked(layer) == set()
    missed = replace(first, kind="missed", label=0)
    panel.review._entries[0] = missed
    panel.review._go(0)
    assert panel.said_line.text().startswith("Nothing is labelled here.")


def test_a_list_that_goes_takes_its_words_with_it(open_dock, qtbot):
    _, panel, box, _ = ranked(open_dock, qtbot)
    click_entry(qtbot, box, 0)
    panel.review._drop("The labels were written anew.")
    assert panel.said_line.text() == " "


def test_a_layer_picked_in_the_box_is_naparis_and_its_keys_work_with_the_box_in_focus(open_dock, qtbot):
    viewer, dock = open_dock()
    image = viewer.add_image(blobs()[0], name="im")
    first = viewer.add_labels(blobs()[1], name="first")
    viewer.add_labels(blobs()[1], name="dots")
    panel = open_correct(dock)
    viewer.layers.selection.active = image
    assert "Keys work when 'dots' is the selected layer." in panel.todo_line.text()
    panel.layer_box.setFocus()
    type_key(qtbot, viewer, Qt.Key.Key_Down)
    assert panel.tools.layer is first
    assert viewer.layers.selection.active is first
    assert "press the key" in panel.todo_line.text()
    viewer.cursor.position = (16.0, 16.0)
    type_key(qtbot, viewer, Qt.Key.Key_D)
    assert panel.tools.layer is first  # D does not look for "dots"
    assert not (first.data == 1).any()
    type_key(qtbot, viewer, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    np.testing.assert_array_equal(first.data, blobs()[1])


def test_classes_that_were_named_are_refused_when_the_tab_opens(open_dock):
    viewer, dock = open_dock()
    viewer.add_image(blobs()[0], name="im")
    layer = viewer.add_labels(blobs()[1], name="painted")
    panel = open_correct(dock)
    assert panel.buttons["delete"].isEnabled()
    assert panel.review.rank_button.isEnabled()
    dock.tabs.setCurrentIndex(0)
    set_name([layer], 1, "nucleus")
    open_correct(dock)
    assert "no single objects to correct" in panel.todo_line.text()
    assert not panel.buttons["delete"].isEnabled()
    assert "no single objects to rank" in panel.review.rank_button.toolTip()


def test_entries_with_long_names_differ_and_show_the_whole_name_on_hover(open_dock):
    viewer, dock = open_dock(loaded=False)
    panel = open_correct(dock)
    image = "2024-03-11_experiment_plate_A_well_07_field_{} · attnseg labels"
    names = [image.format(12), image.format(13), f"{'x' * 60}_tail_1", "short"]
    for name in names:
        viewer.add_labels(blobs()[1], name=name)
    box = panel.layer_box
    texts = [box.itemText(n) for n in reversed(range(box.count()))]
    assert texts == [
        "2024…_07_field_12 · attnseg labels",
        "2024…_07_field_13 · attnseg labels",
        f"{'x' * 21}…xxxxx_tail_1",
        "short",
    ]
    tips = [box.itemData(n, Qt.ItemDataRole.ToolTipRole) for n in reversed(range(box.count()))]
    assert tips == names
    viewer.layers.selection.active = viewer.layers[names[0]]
    assert names[0] in box.toolTip()


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
