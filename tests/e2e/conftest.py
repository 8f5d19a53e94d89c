"""A real window, driven by mouse and keys through Qt."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QCheckBox, QComboBox, QTabBar, QWidget

from napari_attnseg.store.models import find

LEFT = Qt.MouseButton.LeftButton


class Window:
    """napari with the dock open.  Only its mouse and keys change anything."""

    def __init__(self, qtbot) -> None:
        import napari

        self.qtbot = qtbot
        self.viewer = napari.Viewer(show=True)
        self.viewer.window.resize(1400, 900)
        name = "napari-attnseg", "Attention Segmentation"
        dock, self.panel = self.viewer.window.add_plugin_dock_widget(*name)
        self.window = dock.window()

    def find(self, name: str) -> QWidget:
        return self.panel.findChild(QWidget, name)

    def wait(self, done, seconds: float = 120) -> None:
        self.qtbot.waitUntil(lambda: bool(done()), timeout=int(seconds * 1000))

    def click(self, name: str) -> None:
        widget = self.find(name)
        assert widget.isVisible()
        assert widget.isEnabled()
        pos = QPoint(9, widget.height() // 2) if isinstance(widget, QCheckBox) else widget.rect().center()
        QTest.mouseClick(widget, LEFT, pos=pos)

    def check(self, text: str) -> None:
        """Click the check box with this text."""
        (box,) = [b for b in self.panel.findChildren(QCheckBox) if b.text() == text]
        QTest.mouseClick(box, LEFT, pos=QPoint(9, box.height() // 2))

    def set_diameter(self, pixels: float) -> None:
        """Type the object diameter."""
        self.choose("attnseg_diameter_unit", "px")
        box = self.find("attnseg_diameter")
        box.selectAll()
        QTest.keyClicks(box, f"{pixels:.1f}")
        QTest.keyClick(box, Qt.Key.Key_Enter)

    def choose(self, name: str, text: str) -> None:
        """Choose an entry of a combo box by typing."""
        box = self.find(name)
        assert isinstance(box, QComboBox)
        box.setFocus()
        for _ in range(box.count()):
            QTest.keyClick(box, Qt.Key.Key_Up)
        while box.currentText() != text:
            before = box.currentIndex()
            QTest.keyClick(box, Qt.Key.Key_Down)
            assert box.currentIndex() != before, f"no entry {text!r}"

    def open_tab(self, text: str) -> None:
        bar = self.find("attnseg_tabs").findChild(QTabBar)
        (index,) = [n for n in range(bar.count()) if bar.tabText(n) == text]
        QTest.mouseClick(bar, LEFT, pos=bar.tabRect(index).center())

    def start(self) -> None:
        self.wait(lambda: self.find("attnseg_run").isEnabled())
        self.click("attnseg_run")

    def run(self, image: str) -> np.ndarray:
        """Press Run and return the labels when labels and overlay are there."""
        self.start()
        error = self.find("attnseg_error")
        self.wait(lambda: f"{image} · attention" in self.viewer.layers or error.text())
        assert error.text() == ""
        self.wait(lambda: self.find("attnseg_run").isEnabled())
        return self.viewer.layers[f"{image} · attnseg labels"].data

    def canvas(self) -> QWidget:
        every = self.window.findChildren(QWidget)
        (canvas,) = [w for w in every if "CanvasBackend" in type(w).__name__ and w.isVisible()]
        return canvas

    def place(self, y: float, x: float) -> QPoint:
        """Return where on the canvas an unscaled image has this pixel."""
        canvas, camera = self.canvas(), self.viewer.scene.camera
        middle = np.array([canvas.height(), canvas.width()]) / 2
        place = middle + (np.array([y, x]) - np.array(camera.center[-2:])) * camera.zoom
        return QPoint(round(place[1]), round(place[0]))

    def click_pixel(self, y: float, x: float, *, shift: bool = False) -> None:
        """Click the canvas where an unscaled image has this pixel."""
        keys = Qt.KeyboardModifier.ShiftModifier if shift else Qt.KeyboardModifier.NoModifier
        QTest.mouseClick(self.canvas(), LEFT, keys, pos=self.place(y, x))

    def move_to(self, y: float, x: float) -> None:
        """Move the mouse to where an unscaled image has this pixel."""
        QTest.mouseMove(self.canvas(), self.place(y, x))


@pytest.fixture
def open_window(qtbot):
    """Return a function that opens the window; it is closed after the test."""
    made: list[Window] = []

    def start() -> Window:
        made.append(Window(qtbot))
        return made[-1]

    yield start
    for window in made:
        window.viewer.close()
    QApplication.processEvents()


@pytest.fixture
def change_weights(tmp_path, monkeypatch):
    """Return a function that stores the base model under another name with some tensors changed."""
    from safetensors.numpy import load_file, save_file

    monkeypatch.setenv("NAPARI_ATTNSEG_HOME", str(tmp_path))

    def change(name: str, how) -> Path:
        stored = find("base")
        folder = tmp_path / "models" / name
        shutil.copytree(stored.weights.parent, folder)
        tensors = load_file(stored.weights)
        rng = np.random.default_rng(5)
        changed = {key: np.array(how(key, value, rng), order="C") for key, value in tensors.items()}
        save_file(changed, folder / "weights.safetensors")
        card = json.loads((folder / "card.json").read_text())
        (folder / "card.json").write_text(json.dumps(card | {"id": name, "name": name, "sha256": ""}))
        return folder / "weights.safetensors"

    return change
