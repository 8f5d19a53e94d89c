"""The dock in a real viewer, on a fake engine."""

from __future__ import annotations

import numpy as np
import pytest
from qtpy.QtCore import Qt

from napari_attnseg._napari import circle
from napari_attnseg.errors import OutOfMemoryError
from tests.fakes import blobs

WATERSHED = {"readout": "watershed"}


def press(qtbot, widget):
    qtbot.mouseClick(widget, Qt.MouseButton.LeftButton)


def run(qtbot, dock, **values):
    dock.segment.readout.form.set_values({**WATERSHED, **values})
    press(qtbot, dock.segment.run_button)
    qtbot.waitUntil(lambda: not dock.jobs.busy, timeout=30_000)


def test_the_panel_follows_the_layers_and_says_why_run_is_disabled(open_dock, qtbot):
    viewer, dock = open_dock()
    panel = dock.segment
    assert not panel.run_button.isEnabled()
    assert "Open an image" in panel.reason_line.text()
    assert panel.run_button.toolTip() == panel.reason_line.text()
    assert "numpy" in dock.status.text()
    first = viewer.add_image(np.zeros((40, 50), np.uint16), name="first")
    second = viewer.add_image(np.zeros((40, 50, 3), np.uint8), name="second")
    box = panel.rows.image_box
    assert [box.itemText(n) for n in range(box.count())] == ["second", "first"]
    assert box.currentText() == "second"  # the active one
    assert "RGB" in panel.rows.line.text()
    assert panel.run_button.isEnabled()
    viewer.layers.selection.active = first
    assert box.currentText() == "first"
    assert panel.rows.line.text() == "40 x 50 px, uint16"
    first.name = "renamed"
    assert box.currentText() == "renamed"
    viewer.add_labels(np.zeros((40, 50), int))
    assert box.count() == 2
    viewer.layers.remove(first)
    assert box.currentText() == "second"
    viewer.layers.remove(second)
    assert not panel.run_button.isEnabled()
    viewer.add_image(np.zeros((6, 30, 30)), name="stack", axis_labels=("t", "y", "x"))
    axes = panel.rows.axes_box
    assert axes.currentText() == "TYX"
    axes.setCurrentText("CYX")
    assert "6 channels" in panel.rows.line.text()
    assert panel.rows.channel_box.count() == 7
    panel.scope_box.setCurrentText("visible field")
    viewer.dims.ndisplay = 3
    assert "2-D view" in panel.reason_line.text()
    assert "card" not in panel.model_box.toolTip()
    assert "Numbers only." in panel.model_box.toolTip()


def test_a_run_gives_labels_and_overlay_and_live_changes(open_dock, qtbot, engine):
    viewer, dock = open_dock()
    image, truth = blobs()
    layer = viewer.add_image(image, name="im", scale=(0.5, 0.5), units=("um", "um"))
    run(qtbot, dock)
    labels = viewer.layers["im · attnseg labels"]
    assert labels.data.max() == truth.max()
    np.testing.assert_allclose(labels.scale, layer.scale)
    assert "12 objects" in dock.segment.result_line.text()
    over = viewer.layers["im · attention"]
    assert over.metadata["attnseg"]["show"] == "received"
    assert "received" in dock.attention.caption.text()
    # live, without the network
    calls = len(engine.calls)
    form = dock.segment.readout.form
    form.widgets["min_size"].value = 10_000
    qtbot.waitUntil(lambda: labels.data.max() == 0)
    assert labels.metadata["attnseg"]["params"]["min_size"] == 10_000
    form.widgets["min_size"].value = 5
    qtbot.waitUntil(lambda: labels.data.max() == truth.max())
    assert len(engine.calls) == calls
    assert list(labels.features["index"]) == list(range(1, 13))
    # an edit closes the live controls, undo opens them
    labels.paint((2, 2), 99)
    qtbot.waitUntil(lambda: not form.widgets["threshold"].enabled)
    assert "You edited" in dock.segment.readout.state_line.text()
    form.widgets["min_size"].value = 10_000
    qtbot.wait(150)
    assert labels.data.max() == 99
    labels.undo()
    qtbot.waitUntil(lambda: form.widgets["threshold"].enabled)


def test_running_again_restore_and_edited_layers(open_dock, qtbot):
    viewer, dock = open_dock()
    viewer.add_image(blobs()[0], name="im")
    run(qtbot, dock)
    first = viewer.layers["im · attnseg labels"]
    restore = dock.segment.readout.restore_button
    assert not restore.isVisible()
    run(qtbot, dock, drop_edge=True)
    second = viewer.layers["im · attnseg labels"]
    assert second is not first
    assert first not in viewer.layers
    press(qtbot, restore)
    assert viewer.layers["im · attnseg labels"] is first
    assert second not in viewer.layers
    assert not restore.isVisible()
    first.paint((2, 2), 99)
    run(qtbot, dock)
    assert first.data.max() == 99
    assert "im · attnseg labels [1]" in viewer.layers


def test_classic_methods_run_in_the_same_panel_and_defaults_come_back(open_dock, qtbot):
    viewer, dock = open_dock()
    panel = dock.segment
    viewer.add_image(blobs()[0], name="im")
    mirror = panel.mirror.widgets["mirror"]
    assert mirror.native.isVisible()
    mirror.value = "always"
    assert panel.params().mirror == "always"
    panel.method.widgets["method"].value = "kmeans"
    assert not panel.model_box.isVisible()
    assert not mirror.native.isVisible()
    assert panel.classic.widgets["clusters"].native.isVisible()
    run(qtbot, dock)
    assert viewer.layers["im · attnseg labels"].metadata["attnseg"]["params"]["method"] == "kmeans"
    panel.method.widgets["method"].value = "slic"
    assert not panel.classic.widgets["clusters"].native.isVisible()
    run(qtbot, dock)
    assert viewer.layers["im · attnseg labels"].data.max() > 10
    press(qtbot, panel.defaults_button)
    assert panel.params().method == "attention"
    assert panel.params().readout == "auto"
    assert panel.params().mirror == "auto"


def test_the_diameter_in_the_layers_unit_and_its_circle(open_dock, qtbot):
    viewer, dock = open_dock()
    layer = viewer.add_image(blobs()[0], name="im", scale=(0.5, 0.5), units=("um", "um"))
    row = dock.segment.diameter
    assert [row.unit_box.itemText(n) for n in range(row.unit_box.count())] == ["auto", "px", "µm"]
    row.unit_box.setCurrentText("µm")
    row.spin.setValue(10)
    assert dock.segment.orders()[0].params.diameter == 20
    row.circle_button.click()
    drawn = circle.find(viewer)
    assert float(drawn.size[0]) == 20
    assert viewer.layers.selection.active is layer
    row.spin.setValue(12)
    assert float(circle.find(viewer).size[0]) == 24
    run(qtbot, dock)
    assert circle.find(viewer) is None


def test_the_visible_field_only(open_dock, qtbot):
    viewer, dock = open_dock()
    viewer.add_image(np.tile(blobs()[0], (4, 4)), name="im")
    viewer.scene.camera.zoom *= 3
    qtbot.wait(200)  # the canvas tells what it shows when it has drawn
    dock.segment.scope_box.setCurrentText("visible field")
    run(qtbot, dock)
    labels = viewer.layers["im · attnseg labels"]
    (y0, y1), (x0, x1) = labels.metadata["attnseg"]["field"]
    assert 0 < y0 < y1 < labels.data.shape[0]
    assert labels.data[y0:y1, x0:x1].any()
    outside = labels.data.copy()
    outside[y0:y1, x0:x1] = 0
    assert not outside.any()
    # a click outside the field is answered in words
    dock.attention.ask((0.0, 0.0))
    assert "outside the field" in dock.attention.hint.text()


def test_all_selected_layers_and_unique_ids(open_dock, qtbot):
    viewer, dock = open_dock()
    image, truth = blobs()
    viewer.add_image(np.stack([image] * 3), name="a", axis_labels=("t", "y", "x"))
    viewer.add_image(image, name="b")
    dock.segment.scope_box.setCurrentText("selected layers")
    viewer.layers.selection = set(viewer.layers)
    run(qtbot, dock)
    assert len(np.unique(viewer.layers["a · attnseg labels"].data)) - 1 == 3 * truth.max()
    assert viewer.layers["b · attnseg labels"].data.max() == truth.max()


@pytest.mark.parametrize("how", ["cancel", "remove", "close"])
def test_a_run_that_is_cut_short_is_no_error(open_dock, qtbot, engine, how):
    viewer, dock = open_dock()
    engine.pause = 0.05
    layer = viewer.add_image(np.tile(blobs()[0], (10, 8)), name="big")
    dock.segment.readout.form.set_values(WATERSHED)
    press(qtbot, dock.segment.run_button)
    bar = dock.segment.job_bar
    qtbot.waitUntil(lambda: len(engine.calls) > 2)
    assert bar.isVisible()
    assert not dock.segment.run_button.isEnabled()
    jobs = dock.jobs
    if how == "cancel":
        calls = len(engine.calls)
        press(qtbot, bar.cancel)
        qtbot.waitUntil(lambda: not jobs.busy)
        assert len(engine.calls) <= calls + 2
        assert not bar.isVisible()
        assert dock.segment.run_button.isEnabled()
    elif how == "remove":
        viewer.layers.remove(layer)
        qtbot.waitUntil(lambda: not jobs.busy)
        assert dock.session.state.image is None
    else:
        calls = len(engine.calls)
        viewer.close()
        qtbot.wait(400)
        assert len(engine.calls) <= calls + 3
        return
    assert [other.name for other in viewer.layers] == (["big"] if how == "cancel" else [])


def test_an_error_of_ours_is_said_in_the_panel(open_dock, qtbot, engine, monkeypatch):
    shown = []
    monkeypatch.setattr("napari_attnseg._napari.notify.error", shown.append)
    viewer, dock = open_dock()
    viewer.add_image(blobs()[0])

    def fail(*args, **kwargs):
        raise OutOfMemoryError("There is not enough memory.", "Choose a smaller tile.")

    engine.maps = fail
    run(qtbot, dock)
    assert dock.segment.error_line.text() == "There is not enough memory. Choose a smaller tile."
    assert dock.segment.error_line.isVisible()
    assert len(shown) == 1
    assert dock.segment.run_button.isEnabled()


def test_a_model_that_cannot_load_disables_the_network_only(open_dock, qtbot, monkeypatch):
    from napari_attnseg.errors import EngineUnavailableError

    def broken(name, device):
        raise EngineUnavailableError("PyTorch could not be imported.", "Install it.")

    monkeypatch.setattr("napari_attnseg._napari.notify.error", lambda err: None)
    monkeypatch.setattr("napari_attnseg.engine.load_engine", broken)
    viewer, dock = open_dock(loaded=False)
    qtbot.waitUntil(lambda: "could not be imported" in dock.status.text())
    viewer.add_image(blobs()[0], name="im")
    assert "Install it." in dock.segment.reason_line.text()
    dock.segment.method.widgets["method"].value = "slic"
    assert dock.segment.run_button.isEnabled()


def test_closing_the_dock_lets_go_of_the_viewer(open_dock, qtbot):
    viewer, dock = open_dock()
    dock.tabs.setCurrentIndex(1)
    before = len(viewer.mouse_drag_callbacks)
    viewer.window.remove_dock_widget(dock)
    viewer.add_image(blobs()[0])  # would raise in a slot of a dead panel
    assert dock.segment.rows.image_box.count() == 0
    assert len(viewer.mouse_drag_callbacks) == before - 1
