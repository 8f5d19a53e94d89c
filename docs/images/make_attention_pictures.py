"""Write the pictures of ``docs/attention.md``: four stories told by the Attention tab.

Run it with a screen, or under ``xvfb-run -a -s "-screen 0 1600x1000x24"``:

    python docs/images/make_attention_pictures.py [FOLDER]

The places are found in the data, not chosen by hand: the nucleus with the most neighbours, the pair with the
longest border, the cell in the middle, and the object that overlaps least with the ground truth.
"""

from __future__ import annotations

import sys
from pathlib import Path

import napari
import numpy as np
from make_screenshots import HERE, open_tab, press, settle, shoot, wait  # sets up napari's settings
from napari.settings import get_settings
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QWidget

from napari_attnseg._qt.launch import open_dock

NO_KEY, SHIFT = Qt.KeyboardModifier.NoModifier, Qt.KeyboardModifier.ShiftModifier


class Story:
    """A sample that was run, in a window at the Attention tab."""

    def __init__(self, sample: str, theme: str) -> None:
        get_settings().appearance.theme = theme
        self.viewer = napari.Viewer()
        self.viewer.window.resize(1400, 900)
        self.viewer.open_sample("napari-attnseg", sample)
        self.dock = open_dock(self.viewer)
        wait(lambda: self.dock.segment.run_button.isEnabled())
        press(self.dock, "attnseg_run")
        self.idle()
        run = self.dock.session.state.run
        self.labels = run.shown.layer.data
        self.truth = self.viewer.layers[f"{run.image.name} · ground truth"].data
        run.shown.layer.contour = 2
        self.viewer.reset_view()
        open_tab(self.dock, "Attention")
        self.panel = self.dock.attention
        every = self.dock.window().findChildren(QWidget)
        self.canvas = next(w for w in every if "CanvasBackend" in type(w).__name__ and w.isVisible())

    def idle(self) -> None:
        """Wait for the jobs."""
        settle(0.3)
        wait(lambda: not self.dock.jobs.busy)

    def zoom(self, pixel: tuple[int, int], side: float) -> None:
        """Show about ``side`` pixels around a pixel."""
        self.viewer.scene.camera.center = pixel
        self.viewer.scene.camera.zoom = min(self.canvas.width(), self.canvas.height()) / side
        settle(0.3)

    def click(self, pixel: tuple[int, int], key: Qt.KeyboardModifier = NO_KEY) -> None:
        """Click a pixel of the image."""
        camera = self.viewer.scene.camera
        middle = np.array([self.canvas.height(), self.canvas.width()]) / 2
        at = middle + (np.array(pixel) - np.array(camera.center[-2:])) * camera.zoom
        QTest.mouseClick(self.canvas, Qt.MouseButton.LeftButton, key, QPoint(round(at[1]), round(at[0])))
        self.idle()

    def choose(self, name: str, value: str) -> None:
        """Choose an entry of one of the panel's boxes."""
        box = self.panel.findChild(QWidget, name)
        box.setCurrentIndex(box.findData(value))
        self.idle()

    def end(self, path: Path) -> None:
        """Write the picture and close."""
        shoot(self.viewer, path)
        self.viewer.close()
        settle()


def middle(labels: np.ndarray, label: int) -> tuple[int, int]:
    """Return the pixel of an object nearest to its middle."""
    pixels = np.argwhere(labels == label)
    y, x = pixels[((pixels - pixels.mean(axis=0)) ** 2).sum(axis=1).argmin()]
    return int(y), int(x)


def borders(labels: np.ndarray) -> dict[tuple[int, int], int]:
    """Return how many pixels wide the border of every touching pair is."""
    found: dict[tuple[int, int], int] = {}
    for a, b in ((labels[:-1], labels[1:]), (labels[:, :-1], labels[:, 1:])):
        touch = (a != b) & (a > 0) & (b > 0)
        for pair in np.sort(np.stack([a[touch], b[touch]], axis=1), axis=1):
            key = int(pair[0]), int(pair[1])
            found[key] = found.get(key, 0) + 1
    return found


def crowded(labels: np.ndarray, reach: int = 40) -> int:
    """Return the object with the most middles of others within ``reach`` pixels, off the edge."""
    ids = np.unique(labels[labels > 0])
    at = np.array([middle(labels, n) for n in ids])
    near = (np.hypot(*(at[:, None] - at[None]).transpose(2, 0, 1)) < reach).sum(axis=1)
    inside = ((at > 2 * reach) & (at < np.array(labels.shape) - 2 * reach)).all(axis=1)
    return int(ids[np.where(inside, near, 0).argmax()])


def worst(labels: np.ndarray, truth: np.ndarray) -> int:
    """Return the true object whose best partner overlaps least (intersection over union), off the edge."""
    scores = {}
    for n in np.unique(truth[truth > 0]):
        mine = truth == n
        y, x = np.nonzero(mine)
        if min(y.min(), x.min()) < 8 or y.max() > truth.shape[0] - 9 or x.max() > truth.shape[1] - 9:
            continue
        partners = np.unique(labels[mine & (labels > 0)])
        over = [(mine & (labels == p)).sum() / (mine | (labels == p)).sum() for p in partners]
        scores[int(n)] = max(over, default=0.0)
    return min(scores, key=scores.get)


def crowd(path: Path) -> None:
    """A nucleus in a crowd: what it looks at, through all blocks."""
    story = Story("fluorescence", "dark")
    pixel = middle(story.labels, crowded(story.labels))
    story.click(pixel)
    story.choose("attnseg_show", "rollout")
    story.end(path)


def touching_pair(path: Path) -> None:
    """A touching pair: who looks at whom, and which seed each chose."""
    story = Story("fluorescence", "dark")
    pairs = borders(story.labels)
    a, b = max(pairs, key=pairs.get)
    story.zoom(middle(story.labels, a), 140)
    story.choose("attnseg_show", "object")
    local = next(n for n, block in story.panel.form.tape.blocks.items() if block.kind != "global")
    story.choose("attnseg_block", local)
    story.click(middle(story.labels, a))
    story.click(middle(story.labels, b), SHIFT)
    story.end(path)


def phase_cell(path: Path) -> None:
    """A phase-contrast cell: two pinned places, in it and beside it, and what they have in common."""
    story = Story("phase", "light")
    ids = np.unique(story.labels[story.labels > 0])
    centre = np.array(story.labels.shape) / 2
    label = min(ids, key=lambda n: float(((np.array(middle(story.labels, n)) - centre) ** 2).sum()))
    inside = middle(story.labels, int(label))
    empty = np.argwhere(story.labels == 0)
    far = ((empty - np.array(inside)) ** 2).sum(axis=1)
    beside = empty[np.abs(far - 45**2).argmin()]
    story.click(inside)
    story.click(inside, SHIFT)
    story.click((int(beside[0]), int(beside[1])), SHIFT)
    story.end(path)


def failure(path: Path) -> None:
    """The object that overlaps least with the ground truth: where the readout was unsure."""
    story = Story("fluorescence", "light")
    pixel = middle(story.truth, worst(story.labels, story.truth))
    truth = next(layer for layer in story.viewer.layers if layer.name.endswith("ground truth"))
    truth.visible, truth.contour = True, 1
    story.zoom(pixel, 110)
    story.click(pixel)
    story.choose("attnseg_show", "uncertainty")
    story.end(path)


def main() -> None:
    """Write all pictures."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    folder.mkdir(parents=True, exist_ok=True)
    for tell in (crowd, touching_pair, phase_cell, failure):
        tell(folder / f"attention-{tell.__name__.replace('_', '-')}.png")


if __name__ == "__main__":
    main()
