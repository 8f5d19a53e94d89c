"""What follows a training, where layers come and go or take no pixels."""

from __future__ import annotations

from types import SimpleNamespace

from napari_attnseg.errors import InputError
from tests.fakes import blobs
from tests.qt.test_dock import run
from tests.qt.test_finetune import open_tab, tune  # noqa: F401  # a fixture


def test_the_comparison_is_offered_as_soon_as_there_is_a_plane(open_dock, qtbot, tune):  # noqa: F811
    viewer, dock = open_dock()
    viewer.add_image(blobs()[0], name="im")
    panel = open_tab(dock)
    button = panel.after.result.compare_button
    panel.after.may_compare()
    assert "No corrected image" in button.toolTip()
    run(qtbot, dock)
    qtbot.waitUntil(button.isEnabled)
    assert "both models" in button.toolTip()


def test_a_layer_that_cannot_be_filled_does_not_stop_the_others(open_dock, tune, monkeypatch):  # noqa: F811
    viewer, dock = open_dock()
    panel, done = open_tab(dock), []
    layers = [viewer.add_labels(blobs()[1], name=name) for name in ("first", "second")]

    def fill(session, one):
        if one.pair.labels is layers[0]:
            raise InputError("'first' cannot be written to.")
        done.append(one.pair.labels)
        return 5

    monkeypatch.setattr("napari_attnseg._qt.finetune_after.apply", fill)
    made = [SimpleNamespace(pair=SimpleNamespace(labels=layer)) for layer in layers]
    panel.after._on_rerun(None, made)
    assert done == layers[1:]
    assert "'first' cannot be written to" in panel.error_line.text()
    assert panel.after.result.said_line.text().startswith("5 pixels")
