"""Corrections by mouse, a real training in a child process, accept, run again, undo, roll back."""

from __future__ import annotations

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QTreeWidget

from napari_attnseg.core.metrics import compare
from napari_attnseg.store import models, runs

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

IMAGE = "photo"  # a sample in which the base misses half of the objects


def stroke(window, start, end) -> None:
    """Draw with the left button from pixel to pixel."""
    canvas = window.canvas()
    a, b = window.place(*start), window.place(*end)
    QTest.mousePress(canvas, Qt.MouseButton.LeftButton, pos=a)
    for part in np.linspace(0, 1, 6)[1:]:
        window.qtbot.wait(20)
        QTest.mouseMove(canvas, a + QPoint(round(part * (b - a).x()), round(part * (b - a).y())))
    window.qtbot.wait(20)
    QTest.mouseRelease(canvas, Qt.MouseButton.LeftButton, pos=b)
    window.qtbot.wait(50)


def worst(predicted, truth):
    """Return centre and diameter of the two real objects that were segmented worst, away from the border."""
    found = []
    for label in np.unique(truth)[1:]:
        inside = truth == label
        y, x = np.argwhere(inside).mean(axis=0)
        area = int(inside.sum())
        if area < 60 or not inside[round(y), round(x)] or min(y, x, *(np.array(truth.shape) - (y, x))) < 30:
            continue
        overlaps = np.bincount(predicted[inside])[1:]
        size = np.bincount(predicted.ravel())[1 : overlaps.size + 1]
        iou = max(overlaps / (size + area - overlaps), default=0.0)
        found.append((iou, y, x, 2 * np.sqrt(area / np.pi)))
    return sorted(found)[:2]


def matched(labels, truth) -> int:
    return int(compare(labels, truth).tp[0])


def test_correct_tune_accept_run_again_undo_roll_back(open_window, tmp_path, monkeypatch):
    monkeypatch.setenv("NAPARI_ATTNSEG_HOME", str(tmp_path))
    window = open_window()
    viewer = window.viewer
    viewer.open_sample("napari-attnseg", IMAGE)
    truth = viewer.layers[f"{IMAGE} · ground truth"].data.copy()
    viewer.layers.remove(f"{IMAGE} · ground truth")
    window.run(IMAGE)
    labels = viewer.layers[f"{IMAGE} · attnseg labels"]
    predicted = labels.data.copy()
    # two corrections with the mouse: the two worst objects are drawn anew, each with a dot of its size
    viewer.layers.selection.active = labels
    window.open_tab("Fine-tune")
    for number, (_, y, x, diameter) in enumerate(worst(predicted, truth)):
        labels.selected_label = int(predicted.max()) + 1 + number
        labels.brush_size, labels.mode = round(diameter), "paint"
        stroke(window, (y, x), (y + 1, x))
    labels.mode = "pan_zoom"
    corrected = labels.data.copy()
    drawn = corrected > predicted.max()
    assert len(np.unique(corrected[drawn])) == 2
    tree = window.find("attnseg_sources")
    assert isinstance(tree, QTreeWidget)
    window.wait(lambda: tree.topLevelItemCount() and "pixels" in tree.topLevelItem(0).text(0), 20)
    window.wait(lambda: window.find("attnseg_tune_start").isEnabled(), 20)
    # a real child; its length is the default of Quick
    window.click("attnseg_tune_start")
    panel = window.panel.finetune
    window.wait(lambda: panel.running is not None, 30)
    window.wait(lambda: panel.run_box.curve.points()[0] > 1, 120)
    assert window.find("attnseg_tune_pause").isVisible()
    window.wait(lambda: panel.running is None, 300)
    assert window.find("attnseg_tune_error").text() == ""
    assert runs.read_result(runs.runs_folder() / "base-tuned") is not None
    said = window.find("attnseg_tune_result").text()
    assert "held out" in said or "too few objects to judge" in said
    window.wait(lambda: f"{IMAGE} · difference" in viewer.layers, 120)
    window.wait(lambda: window.find("attnseg_tune_accept").isEnabled(), 60)
    window.click("attnseg_tune_accept")
    assert window.panel.segment.engine_key[0] == "base-tuned"
    window.wait(lambda: window.find("attnseg_tune_rerun").isEnabled(), 60)
    window.click("attnseg_tune_rerun")
    window.wait(lambda: "pixels" in window.find("attnseg_tune_said").text(), 120)
    filled = labels.data.copy()
    np.testing.assert_array_equal(filled[drawn], corrected[drawn])
    assert (filled != corrected).any()
    assert matched(filled, truth) > matched(predicted, truth)
    assert labels.metadata["attnseg"]["model"] == "base-tuned"
    # ctrl+z on the canvas
    viewer.layers.selection.active = labels
    canvas = window.canvas()
    canvas.setFocus()
    QTest.keyClick(canvas, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    window.wait(lambda: np.array_equal(labels.data, corrected), 10)
    window.click("attnseg_tune_back")
    assert window.panel.segment.engine_key[0] == "base"
    assert [card.id for card in models.list_models()] == ["base"]
    np.testing.assert_array_equal(labels.data, corrected)
