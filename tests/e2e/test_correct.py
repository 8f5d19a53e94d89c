"""Correcting in a real window, by mouse and keys: split with a stroke, undo, rank, go through the list."""

from __future__ import annotations

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QWidget

pytestmark = pytest.mark.e2e

IMAGE = "nuclei"
LEFT = Qt.MouseButton.LeftButton


def canvas_of(window) -> QWidget:
    every = window.window.findChildren(QWidget)
    (canvas,) = [w for w in every if "CanvasBackend" in type(w).__name__ and w.isVisible()]
    return canvas


def place(window, y: float, x: float) -> QPoint:
    """Return where the canvas shows a pixel of an unscaled image."""
    canvas, camera = canvas_of(window), window.viewer.scene.camera
    middle = np.array([canvas.height(), canvas.width()]) / 2
    spot = middle + (np.array([y, x]) - np.array(camera.center[-2:])) * camera.zoom
    return QPoint(round(spot[1]), round(spot[0]))


def stroke(window, start, stop, steps=12) -> None:
    """Draw a line on the canvas with the mouse."""
    canvas = canvas_of(window)
    points = [place(window, *point) for point in np.linspace(start, stop, steps)]
    QTest.mouseMove(canvas, points[0])
    QTest.mousePress(canvas, LEFT, pos=points[0])
    for point in points[1:]:
        QTest.mouseMove(canvas, point)
        window.qtbot.wait(10)
    QTest.mouseRelease(canvas, LEFT, pos=points[-1])


def hover(window, y, x) -> None:
    QTest.mouseMove(canvas_of(window), place(window, y, x))
    window.qtbot.wait(50)


def test_split_undo_rank_and_go_through(open_window):
    window = open_window()
    window.viewer.open_sample("napari-attnseg", "fluorescence")
    window.run(IMAGE)
    layer = window.viewer.layers[f"{IMAGE} · attnseg labels"]
    window.open_tab("Correct")
    window.viewer.layers.selection.active = layer
    before = layer.data.copy()
    target = int(np.bincount(before.ravel())[1:].argmax()) + 1
    y, x = (np.nonzero(before == target)[axis] for axis in (0, 1))
    middle = round(float(y.mean()))
    # a stroke right across the largest object, from side to side
    window.click("attnseg_split")
    stroke(window, (middle, x.min() - 3), (middle, x.max() + 3))
    said = window.find("attnseg_correct_said")
    window.wait(lambda: "split into 2" in said.text(), 10)
    parts = np.unique(layer.data[before == target])
    assert len(parts) == 2
    assert target in parts
    assert before.max() + 1 in parts
    np.testing.assert_array_equal(layer.data[before != target], before[before != target])
    canvas = canvas_of(window)
    QTest.keyClick(canvas, Qt.Key.Key_Escape)
    assert "split stroke" not in window.viewer.layers
    QTest.keyClick(canvas, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    np.testing.assert_array_equal(layer.data, before)
    # a key acts on what is under the mouse
    hover(window, *np.argwhere(before == target)[len(y) // 2])
    QTest.keyClick(canvas, Qt.Key.Key_D)
    window.wait(lambda: not (layer.data == target).any(), 10)
    QTest.keyClick(canvas, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    np.testing.assert_array_equal(layer.data, before)
    # the list
    window.click("attnseg_rank")
    listed = window.find("attnseg_rank_list")
    window.wait(lambda: listed.count() > 5 and not window.panel.jobs.busy)
    assert layer.features["correct_next"].between(0, 1).all()
    entries = window.panel.correct.review._entries
    assert [s.score for s in entries] == sorted((s.score for s in entries), reverse=True)
    first = next(n for n, s in enumerate(entries) if s.label)
    for _ in range(first + 1):
        QTest.keyClick(canvas, Qt.Key.Key_N)
    assert layer.selected_label == entries[first].label
    QTest.keyClick(canvas, Qt.Key.Key_A)
    assert layer.features.set_index("index")["checked"][entries[first].label]
    assert listed.item(first).text().startswith("✓")
