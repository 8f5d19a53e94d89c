"""What the Attention tab shows when the tab, the image, the result or the view changes."""

from __future__ import annotations

import numpy as np

from napari_attnseg._napari.question import OBJECT, SURE
from tests.fakes import blobs
from tests.qt.test_attention import idle, info, tab_of
from tests.qt.test_dock import run


def test_the_overlay_is_seen_with_its_tab_and_not_over_a_result(open_dock, qtbot):
    viewer, dock = open_dock()
    viewer.add_image(blobs()[0], name="im")
    run(qtbot, dock)
    idle(qtbot, dock)
    overlay = viewer.layers["im · attention"]
    assert not overlay.visible
    assert viewer.layers["im · attnseg labels"].visible
    tab_of(dock, "Attention")
    assert overlay.visible
    tab_of(dock, "Segment")
    assert not overlay.visible
    viewer.layers.remove(overlay)
    run(qtbot, dock)
    idle(qtbot, dock)
    assert not viewer.layers["im · attention"].visible
    tab_of(dock, "Attention")
    assert viewer.layers["im · attention"].visible
    # a classic run: also with the tab in front
    dock.segment.method.set_values({"method": "kmeans"})
    dock.segment.run()
    idle(qtbot, dock)
    assert "has no attention" in dock.attention.hint.text()
    assert not viewer.layers["im · attention"].visible


def test_another_image_is_described_by_its_own_words(open_dock, qtbot):
    viewer, dock = open_dock()
    panel = dock.attention
    assert not panel.form.value_box.isEnabled()  # nothing was run
    first = viewer.add_image(blobs()[0], name="first")
    run(qtbot, dock)
    idle(qtbot, dock)
    second = viewer.add_image(np.flipud(blobs()[0]), name="second")
    run(qtbot, dock)
    idle(qtbot, dock)
    tab_of(dock, "Attention")
    assert not panel.copy_button.isEnabled()
    assert "Click a pixel first" in panel.copy_button.toolTip()
    panel.ask((40.0, 70.0))
    assert panel.copy_button.isEnabled()
    assert panel.caption.text().startswith("Pixel 40, 70")
    assert panel.mouse._value_words((40.0, 70.0)).startswith("attention ")
    viewer.layers.selection.active = first
    assert "Pixel" not in panel.caption.text()
    assert not panel.decision.isVisible()
    idle(qtbot, dock)
    assert info(viewer, "first · attention")["show"] == "received"
    assert "received" in panel.caption.text()
    assert panel.mouse._value_words((40.0, 70.0)).startswith("received ")
    third = viewer.add_image(blobs()[0], name="third")
    assert dock.session.state.image is third
    assert not panel.caption.isVisible()
    assert panel.mouse._value_words((40.0, 70.0)) == ""
    # chosen behind another tab: asked when this one is opened
    tab_of(dock, "Segment")
    viewer.layers.selection.active = second
    assert not panel.caption.text()
    tab_of(dock, "Attention")
    idle(qtbot, dock)
    assert "received" in panel.caption.text()


def test_labels_of_classes_are_not_taken_for_objects(open_dock, qtbot):
    viewer, dock = open_dock()
    viewer.add_image(blobs()[0], name="im")
    run(qtbot, dock)
    idle(qtbot, dock)
    tab_of(dock, "Attention")
    panel = dock.attention
    panel.form.choose(OBJECT)
    panel.ask((16.0, 16.0))
    assert panel.objects.first.value() > 0
    info(viewer, "im · attnseg labels")["params"]["task"] = "classes"
    panel.refresh()
    assert panel.form.what == "pixel"
    items = [panel.form.show_box.model().item(panel.form.show_box.findData(kind)) for kind in (OBJECT, SURE)]
    assert not any(item.isEnabled() for item in items)
    assert "no single objects" in items[0].toolTip()
    assert (panel.objects.first.value(), panel.explorer.question.label) == (0, 0)
    assert not panel.objects.first.isEnabled()
    assert "no single objects" in panel.objects.help.text()
    info(viewer, "im · attnseg labels")["params"]["task"] = "instances"
    panel.refresh()
    assert all(item.isEnabled() for item in items)
    assert panel.objects.first.isEnabled()


def test_views_that_show_no_plane_are_told_of(open_dock, qtbot):
    viewer, dock = open_dock()
    viewer.add_image(np.stack([blobs()[0]] * 3), name="im", axis_labels=("t", "y", "x"))
    run(qtbot, dock)
    idle(qtbot, dock)
    tab_of(dock, "Attention")
    panel, segment = dock.attention, dock.segment
    assert panel.hint.text().startswith("Move the mouse")
    viewer.dims.order = (1, 0, 2)
    assert panel.hint.text() == "Attention is asked in Y and X: bring the last two axes into view."
    assert segment.scope == "current plane"
    assert "in Y and X" in segment.reason_line.text()
    assert not segment.run_button.isEnabled()
    segment.scope_box.setCurrentText("whole layer")
    assert segment.run_button.isEnabled()
    viewer.dims.order = (0, 1, 2)
    viewer.dims.ndisplay = 3
    assert panel.hint.text() == "Attention is asked in the 2-D view: press the 2-D/3-D button."
    viewer.dims.ndisplay = 2
    assert panel.hint.text().startswith("Move the mouse")


def test_every_selected_layer_is_read_as_chosen(open_dock, qtbot, engine):
    viewer, dock = open_dock()
    panel = dock.segment
    stack = viewer.add_image(np.stack([blobs()[0]] * 3), name="stack")
    assert panel.rows.axes_box.currentText() == "CYX"
    panel.rows.axes_box.setCurrentText("ZYX")
    flat = viewer.add_image(blobs()[0], name="flat")
    panel.scope_box.setCurrentText("selected layers")
    viewer.layers.selection = {stack, flat}
    assert dock.session.state.image is flat
    assert {order.image: order.source.axes for order in panel.orders()} == {stack: "ZYX", flat: "YX"}
    run(qtbot, dock)
    idle(qtbot, dock)
    assert "stack (axes ZYX): " in panel.result_line.text()
    assert "flat: " in panel.result_line.text()
    # an image that was run is no concern of the next job
    engine.pause = 0.05
    stopped = []
    dock.jobs.finished.connect(stopped.append)
    dock.attention._record(dock.session.state.run_of(stack), dock.session.state.run_of(stack).plane)
    viewer.layers.remove(flat)
    idle(qtbot, dock)
    assert stopped == ["done"]
