"""What a user does with the dock beyond the first run, on a fake engine."""

from __future__ import annotations

import time

import numpy as np
import pytest

from napari_attnseg.errors import EngineUnavailableError
from tests.fakes import blobs
from tests.qt.test_dock import press, run


def stack(viewer, count=3):
    image = np.stack([np.roll(blobs()[0], 5 * n, axis=0) for n in range(count)])
    return viewer.add_image(image, name="im", axis_labels=("t", "y", "x"))


@pytest.mark.parametrize("early", [False, True])
def test_another_device_can_be_tried_after_one_that_is_not_there(
    open_dock, qtbot, engine, monkeypatch, early
):
    def load(name, device):
        if device == "cuda":
            time.sleep(0.5 * early)  # the user chooses again before this one is known to fail
            raise EngineUnavailableError(
                "The device 'cuda' is not available on this computer.", "Take 'cpu'."
            )
        return engine

    monkeypatch.setattr("napari_attnseg._napari.notify.error", lambda err: None)
    monkeypatch.setattr("napari_attnseg.engine.load_engine", load)
    viewer, dock = open_dock(loaded=False, show=False)
    viewer.add_image(blobs()[0], name="im")
    device = dock.segment.device.widgets["device"]
    device.value = "cuda"
    dock.show()
    viewer.window._qt_window.show()
    if not early:
        qtbot.waitUntil(lambda: "not available" in dock.segment.reason_line.text())
    assert not dock.segment.run_button.isEnabled()
    device.value = "cpu"
    qtbot.waitUntil(dock.segment.run_button.isEnabled)
    assert dock.status.text() == "Ready on numpy"
    run(qtbot, dock)
    assert "im · attnseg labels" in viewer.layers


def test_the_line_under_run_follows_live_changes_restore_and_the_chosen_image(open_dock, qtbot):
    viewer, dock = open_dock()
    first = viewer.add_image(blobs()[0], name="im")
    line, form = dock.segment.result_line, dock.segment.readout.form
    run(qtbot, dock)
    assert line.text().startswith("12 objects")
    run(qtbot, dock, drop_edge=True, min_size=10_000)
    assert line.text().startswith("0 objects")
    form.widgets["min_size"].value = 5
    qtbot.waitUntil(lambda: line.text().startswith("12 objects"))
    form.widgets["min_size"].value = 10_000
    qtbot.waitUntil(lambda: line.text().startswith("0 objects"))
    press(qtbot, dock.segment.readout.restore_button)
    assert line.text().startswith("12 objects")
    viewer.add_image(blobs()[0], name="other")
    assert line.text() == ""
    viewer.layers.selection.active = first
    assert line.text().startswith("12 objects")


def test_fields_that_a_method_does_not_read_are_hidden(open_dock, qtbot):
    viewer, dock = open_dock()
    viewer.add_image(blobs()[0], name="im")
    method, form = dock.segment.method.widgets["method"], dock.segment.readout.form

    def visible():
        return {name for name, widget in form.widgets.items() if widget.native.isVisible()}

    assert visible() == set(form.widgets)
    method.value = "kmeans"
    assert visible() == {"min_size", "drop_edge", "fill_holes"}
    method.value = "slic"
    assert visible() == set()
    assert not dock.segment.readout.state_line.isVisible()
    method.value = "attention"
    assert visible() == set(form.widgets)
    assert dock.segment.readout.state_line.isVisible()


def test_selected_layers_stay_selected_for_another_run(open_dock, qtbot):
    viewer, dock = open_dock()
    both = {viewer.add_image(blobs()[0], name=name) for name in ("a", "b")}
    dock.segment.scope_box.setCurrentText("selected layers")
    viewer.layers.selection = both
    run(qtbot, dock)
    assert set(viewer.layers.selection) == both
    assert dock.segment.run_button.isEnabled()
    assert dock.segment.result_line.text().count("12 objects") == 2


def test_a_diameter_in_a_unit_that_the_layer_lacks_is_refused(open_dock, qtbot):
    viewer, dock = open_dock()
    scaled = {"scale": (0.5, 0.5), "units": ("um", "um")}
    first = viewer.add_image(blobs()[0], name="micro", **scaled)
    nano = viewer.add_image(blobs()[0], name="nano", scale=(500, 500), units=("nm", "nm"))
    viewer.layers.selection.active = first
    row = dock.segment.diameter
    row.unit_box.setCurrentText("µm")
    row.spin.setValue(10)
    dock.segment.scope_box.setCurrentText("selected layers")
    viewer.layers.selection = {first, nano}
    assert [order.params.diameter for order in dock.segment.orders()] == pytest.approx([20, 20])
    viewer.layers.selection = {first, viewer.add_image(blobs()[0], name="plain")}
    row.unit_box.setCurrentText("µm")
    viewer.layers.selection.active = first
    viewer.layers.selection = set(viewer.layers)
    row.unit_box.setCurrentText("µm")
    press(qtbot, dock.segment.run_button)
    assert "'plain' has no unit of length" in dock.segment.error_line.text()
    assert not dock.jobs.busy


def test_attention_of_another_plane_is_not_taken_for_this_one(open_dock, qtbot):
    viewer, dock = open_dock()
    stack(viewer)
    viewer.dims.set_current_step(0, 0)
    dock.segment.scope_box.setCurrentText("whole layer")
    run(qtbot, dock)
    panel, overlay = dock.attention, viewer.layers["im · attention"]
    qtbot.waitUntil(lambda: not dock.jobs.busy)
    assert panel.caption.text().startswith("T 0 ·")
    assert panel.hint.text().startswith("Move the mouse over the image")
    viewer.dims.set_current_step(0, 2)
    assert "belongs to T 0" in panel.hint.text()
    panel.form.choose("received")
    qtbot.waitUntil(lambda: not dock.jobs.busy)
    assert panel.caption.text().startswith("T 2 ·")
    assert overlay.metadata["attnseg"]["plane"] == [2]
    assert panel.hint.text().startswith("A map over the field")
    panel.ask((2.0, -30.0, 5.0))
    assert "outside the image" in panel.hint.text()


def test_attention_is_kept_when_another_image_is_chosen_during_the_run(open_dock, qtbot, engine):
    viewer, dock = open_dock()
    engine.pause = 0.05
    image = viewer.add_image(np.tile(blobs()[0], (3, 3)), name="first")
    dock.segment.readout.form.set_values({"readout": "watershed"})
    press(qtbot, dock.segment.run_button)
    qtbot.waitUntil(lambda: len(engine.calls) > 1)
    viewer.add_image(blobs()[0], name="second")
    image.name = "renamed"
    qtbot.waitUntil(lambda: "renamed · attention" in viewer.layers, timeout=30_000)
    assert "Run the attention network" in dock.attention.hint.text()
    viewer.layers.selection.active = image
    image.name = "again"
    dock.attention.form.choose("received")
    qtbot.waitUntil(lambda: "again · attention" in viewer.layers)


def test_too_little_memory_is_said_in_words(open_dock, qtbot, engine, monkeypatch):
    monkeypatch.setattr("napari_attnseg._napari.notify.error", lambda err: None)
    viewer, dock = open_dock()
    viewer.add_image(blobs()[0])

    def fail(*args, **kwargs):
        raise MemoryError("Unable to allocate 46.9 GiB")

    engine.maps = fail
    run(qtbot, dock)
    assert "not enough memory (Unable to allocate 46.9 GiB)" in dock.segment.error_line.text()


def test_a_live_change_belongs_to_its_run_and_another_run_does_not(open_dock, qtbot):
    from napari_attnseg._napari.question import same_run

    viewer, dock = open_dock()
    viewer.add_image(blobs()[0], name="im")
    run(qtbot, dock)
    first = dock.session.state.run
    dock.segment.readout.form.widgets["min_size"].value = 40
    qtbot.waitUntil(lambda: dock.session.state.run.params.min_size == 40)
    changed = dock.session.state.run
    assert same_run(changed, first)
    assert changed.segmentation.seconds == first.segmentation.seconds  # of the run, not of the change
    run(qtbot, dock)
    assert not same_run(dock.session.state.run, changed)
