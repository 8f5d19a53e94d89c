"""Write the screenshots of the documentation, in dark and light theme.

Run it with a screen, or under ``xvfb-run -a -s "-screen 0 1600x1000x24"``:

    python docs/images/make_screenshots.py [FOLDER]

Everything is done through the panel's own buttons and real mouse events, then the window is grabbed.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

os.environ["NAPARI_ATTNSEG_HOME"] = tempfile.mkdtemp()  # the model that is tuned here goes again
os.environ["NAPARI_CONFIG"] = str(Path(tempfile.mkdtemp()) / "settings.yaml")  # the user's stay as they are

import napari
import numpy as np
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QWidget

from napari_attnseg._qt.launch import open_dock
from napari_attnseg.store.images import write_png

HERE = Path(__file__).parent
SAMPLES = {"dark": "fluorescence", "light": "nuclear_stain"}


def wait(done, seconds: float = 300.0) -> None:
    """Keep the window alive until ``done()``."""
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            raise SystemExit("the window did not get there")
        QApplication.processEvents()
        time.sleep(0.01)


def settle(seconds: float = 0.6) -> None:
    """Let the window draw."""
    end = time.monotonic() + seconds
    wait(lambda: time.monotonic() > end)


def press(dock: QWidget, name: str) -> None:
    """Click a button of the dock with the mouse."""
    QTest.mouseClick(dock.findChild(QWidget, name), Qt.MouseButton.LeftButton)


def open_tab(dock: QWidget, title: str) -> None:
    """Bring a tab of the dock to the front."""
    titles = [dock.tabs.tabText(n) for n in range(dock.tabs.count())]
    dock.tabs.setCurrentIndex(titles.index(title))


def shoot(viewer: napari.Viewer, path: Path) -> None:
    """Write a picture of the whole window."""
    settle()
    write_png(path, viewer.screenshot(canvas_only=False, flash=False))


def correct_picture(viewer: napari.Viewer, dock: QWidget, path: Path) -> None:
    """Rank the objects and go to the second one; write a picture of the Correct tab."""
    open_tab(dock, "Correct")
    dock.correct.layer_box.setCurrentText(f"{dock.session.state.image.name} · attnseg labels")
    press(dock, "attnseg_rank")
    wait(lambda: not dock.jobs.busy)
    for _ in range(2):
        press(dock, "attnseg_rank_next")
    shoot(viewer, path)


def finetune_picture(viewer: napari.Viewer, dock: QWidget, path: Path) -> None:
    """Reshape ten objects, start a training; write a picture of the Fine-tune tab when scores are there."""
    labels = viewer.layers[f"{dock.session.state.image.name} · attnseg labels"]
    open_tab(dock, "Fine-tune")
    for label in [int(n) for n in np.unique(labels.data)[1:11]]:
        y, x = np.argwhere(labels.data == label)[-1]
        labels.brush_size = 5
        labels.paint((int(y), int(x)), label)
    wait(lambda: dock.finetune.start_button.isEnabled())
    press(dock, "attnseg_tune_start")
    wait(lambda: dock.finetune.run_box.curve.points()[1] > 0)
    settle(2.0)
    shoot(viewer, path)
    press(dock, "attnseg_tune_cancel")
    wait(lambda: dock.finetune.running is None and not dock.jobs.busy)


def paint_tissue(layer: napari.layers.Labels, image: np.ndarray) -> None:
    """Paint a few strokes of nuclei (1), brown stain (2) and the pale rest (3)."""
    from skimage.color import rgb2hed
    from skimage.filters import gaussian

    blue, _, brown = np.moveaxis(gaussian(rgb2hed(image), 4, channel_axis=-1), -1, 0)
    scaled = [(v - np.median(v)) / v.std() for v in (blue, brown)]
    layer.brush_size = 7
    pale = gaussian(image.min(axis=-1).astype(float), 6)
    scores = scaled[0] - scaled[1], scaled[1] - scaled[0], pale
    for number, score in enumerate(scores, start=1):
        score[:40] = score[-40:] = score[:, :40] = score[:, -40:] = -np.inf
        for _ in range(6):
            y, x = np.unravel_index(score.argmax(), score.shape)
            score[max(0, y - 60) : y + 60, max(0, x - 60) : x + 60] = -np.inf
            for step in (-3, 0, 3):
                layer.paint((int(y), int(x) + step), number)


def classes_picture(folder: Path) -> None:
    """Paint classes over a tissue section and name them; write a picture of the Fine-tune tab."""
    napari.settings.get_settings().appearance.theme = "dark"
    viewer = napari.Viewer()
    viewer.window.resize(1400, 900)
    viewer.open_sample("napari-attnseg", "tissue")
    dock = open_dock(viewer)
    wait(lambda: dock.segment.run_button.isEnabled())
    layer = viewer.add_labels(np.zeros((512, 512), np.int32), name="classes")
    open_tab(dock, "Fine-tune")
    panel = dock.finetune
    panel.task_box.setCurrentIndex(panel.task_box.findData("classes"))
    paint_tissue(layer, viewer.layers["tissue"].data)
    wait(lambda: panel.classes_box.table.rowCount() == 3)
    for row, name in enumerate(("nucleus", "brown stain", "background")):
        panel.classes_box.table.item(row, 1).setText(name)
    wait(lambda: panel.start_button.isEnabled())
    viewer.reset_view()
    shoot(viewer, folder / "finetune-classes.png")
    viewer.close()
    settle()


def theme_pictures(theme: str, folder: Path) -> None:
    """Open a sample, run, look at attention; write one picture of each tab."""
    napari.settings.get_settings().appearance.theme = theme
    viewer = napari.Viewer()
    viewer.window.resize(1400, 900)
    viewer.open_sample("napari-attnseg", SAMPLES[theme])
    dock = open_dock(viewer)
    wait(lambda: dock.segment.run_button.isEnabled())
    press(dock, "attnseg_run")
    wait(lambda: not dock.jobs.busy)
    viewer.reset_view()
    viewer.layers[f"{dock.session.state.image.name} · attnseg labels"].contour = 2
    viewer.layers[f"{dock.session.state.image.name} · attention"].visible = True
    shoot(viewer, folder / f"window-{theme}.png")
    open_tab(dock, "Attention")
    settle()
    every = dock.window().findChildren(QWidget)
    canvas = next(w for w in every if "CanvasBackend" in type(w).__name__ and w.isVisible())
    QTest.mouseClick(canvas, Qt.MouseButton.LeftButton, pos=canvas.rect().center())
    shoot(viewer, folder / f"attention-{theme}.png")
    open_tab(dock, "Models")
    shoot(viewer, folder / f"models-{theme}.png")
    correct_picture(viewer, dock, folder / f"correct-{theme}.png")
    finetune_picture(viewer, dock, folder / f"finetune-{theme}.png")
    viewer.close()
    settle()


def main() -> None:
    """Write all pictures."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    folder.mkdir(parents=True, exist_ok=True)
    for theme in SAMPLES:
        theme_pictures(theme, folder)
    classes_picture(folder)


if __name__ == "__main__":
    main()
