"""How long the attention overlay takes to follow the mouse, in the real window.

Needs a screen, or ``xvfb-run -a -s "-screen 0 1600x1000x24"``:

    python tests/benchmarks/bench_hover.py [--size 1024] [--moves 40] [--json]

The mouse moves from token to token over a run's image.  For each move it measures

- ``row_ms``: computing the row and giving it to the layer, no drawing; for the block that follows the mouse,
  and under ``rows`` for every block, plain and by values, and for the rollout of a pixel through all of them;
- ``painted_ms``: from the mouse event to the frame that shows the row, the wait of the throttle included;
- ``bare_ms``: giving a layer of the same shape another array, to the frame that shows it, in the same run;
- ``ratio``: the median of ``painted`` over ``bare``, move by move;
- ``..._cpu_ms``, ``cpu_ratio``: the same in time of the processor, which other programs do not lengthen.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

os.environ["NAPARI_CONFIG"] = str(Path(tempfile.mkdtemp()) / "settings.yaml")  # the user's stay as they are

import napari
import numpy as np
from qtpy.QtCore import QPoint
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QWidget

from napari_attnseg._napari import overlay
from napari_attnseg._qt.launch import open_dock
from napari_attnseg.core.attention_maps import rollout_row
from napari_attnseg.core.synth import fluorescence


def wait(done, seconds: float = 600.0) -> None:
    """Keep the window alive until ``done()``."""
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            raise SystemExit("the window did not get there")
        QApplication.processEvents()


class Bench:
    """A window with a finished run, at the Attention tab."""

    def __init__(self, size: int, block: str | None) -> None:
        self.viewer = napari.Viewer()
        self.viewer.window.resize(1400, 900)
        image = self.viewer.add_image(fluorescence((size, size), 0)[0], name="image")
        self.dock = open_dock(self.viewer)
        wait(lambda: self.dock.segment.run_button.isEnabled())
        self.dock.segment.diameter.unit_box.setCurrentText("px")  # 24 px: the image is not resized
        self.dock.segment.run_button.click()
        wait(lambda: not self.dock.jobs.busy)
        names = [self.dock.tabs.tabText(n) for n in range(self.dock.tabs.count())]
        self.dock.tabs.setCurrentIndex(names.index("Attention"))
        self.panel = self.dock.attention
        box = self.panel.form.block_box
        if block is not None:
            box.setCurrentIndex(box.findData(block))
        every = self.dock.window().findChildren(QWidget)
        self.canvas = next(w for w in every if "CanvasBackend" in type(w).__name__ and w.isVisible())
        self.layer = overlay.find(self.viewer.layers, image)
        self.frames = 0
        self.canvas.frameSwapped.connect(self._on_frame)
        self.grid = self.dock.session.state.run.tape.block(box.currentData()).grid
        self.block = box.currentData()
        self.viewer.reset_view()
        for token in ((1, 1), (2, 2)):  # the first move only enters the canvas
            QTest.mouseMove(self.canvas, self.place(token))
            self.settle()

    def _on_frame(self) -> None:
        self.frames += 1

    def settle(self) -> None:
        """Let all frames that are due be drawn."""
        end = time.monotonic() + 0.15
        wait(lambda: time.monotonic() > end)

    def place(self, token: tuple[int, int]) -> QPoint:
        """Return where on the canvas a token lies."""
        camera = self.viewer.scene.camera
        middle = np.array([self.canvas.height(), self.canvas.width()]) / 2
        at = middle + (np.array(self.grid.pixel_of(token)) - np.array(camera.center[-2:])) * camera.zoom
        return QPoint(round(at[1]), round(at[0]))

    def hover(self, token: tuple[int, int]) -> tuple[float, float]:
        """Move the mouse to a token; return seconds, and those of the processor, to the frame of its row."""
        shown = [0]
        show = self.panel.explorer.show

        def counted(steady: bool = False):
            view = show(steady)
            shown[0] = self.frames + 1
            return view

        self.panel.explorer.show = counted
        where = self.place(token)
        start, used = time.perf_counter(), time.process_time()
        QTest.mouseMove(self.canvas, where)
        wait(lambda: shown[0] and self.frames >= shown[0], 60)
        took = time.perf_counter() - start, time.process_time() - used
        self.panel.explorer.show = show
        return took

    def bare(self, values: np.ndarray) -> tuple[float, float]:
        """Give the layer another array; return the seconds, and those of the processor, to its frame."""
        due = self.frames + 1
        start, used = time.perf_counter(), time.process_time()
        self.layer.data = values
        wait(lambda: self.frames >= due, 60)
        return time.perf_counter() - start, time.process_time() - used

    def row(self, make, layer, pixel: tuple[int, int]) -> tuple[float, float]:
        """Return the seconds, and those of the processor, to compute a row and give it to a layer."""
        start, used = time.perf_counter(), time.process_time()
        layer.data[...] = make(pixel).weights
        layer.refresh(thumbnail=False, highlight=False, extent=False)
        return time.perf_counter() - start, time.process_time() - used

    def pixel(self, token: tuple[int, int]) -> tuple[int, int]:
        """Return a pixel in the middle of a token."""
        y, x = (int(p) for p in self.grid.pixel_of(token))
        return y, x

    def every_row(self, tokens: list[tuple[int, int]]) -> dict[str, dict[str, float]]:
        """Time rows of every block and of the rollout, each in a visible layer of its own."""
        tape, found = self.dock.session.state.run.tape, {}
        makes = {}
        for name in tape.blocks:
            makes[name] = lambda pixel, name=name: tape.row(name, pixel)
            if tape.has_values(name):
                makes[f"{name}, by values"] = lambda pixel, name=name: tape.row(name, pixel, value=True)
        makes["rollout"] = lambda pixel: rollout_row(tape, pixel)
        for name, make in makes.items():
            first = make(self.pixel(tokens[0]))  # keys are promoted once
            layer = self.viewer.add_image(first.weights.copy(), name=name, contrast_limits=(0, 1))
            self.settle()
            taken = []
            for token in tokens:
                taken.append(self.row(make, layer, self.pixel(token)))
                self.settle()
            self.viewer.layers.remove(layer)
            wall, cpu = 1e3 * np.median(taken, axis=0)
            shape = first.weights.shape
            found[name] = {"tokens": shape[0] * shape[1], "ms": float(wall), "cpu_ms": float(cpu)}
        return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--moves", type=int, default=40)
    parser.add_argument("--block", default=None)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    bench = Bench(args.size, args.block)
    rng = np.random.default_rng(1)
    inside = np.array(bench.grid.shape)
    tokens = [tuple(int(t) for t in rng.integers(1, inside - 1)) for _ in range(args.moves + 3)]
    rows, painted, bare = [], [], []
    tape = bench.dock.session.state.run.tape
    for n, token in enumerate(tokens):
        bench.settle()
        one = bench.hover(token)
        bench.settle()
        two = bench.bare(np.roll(bench.layer.data, n + 1))
        bench.settle()
        three = bench.row(lambda pixel: tape.row(bench.block, pixel), bench.layer, bench.pixel(token))
        if n >= 3:  # the first ones compile shaders
            painted.append(one)
            bare.append(two)
            rows.append(three)
    painted_s, bare_s = np.array(painted), np.array(bare)  # (moves, 2)
    result = {
        "tokens": int(np.prod(bench.grid.shape)),
        "block": bench.block,
        "moves": args.moves,
    }
    rows_s = np.array(rows)
    for n, name in enumerate(("", "cpu_")):
        result[f"row_{name}ms"] = 1e3 * float(np.median(rows_s[:, n]))
        result[f"row_p95_{name}ms"] = 1e3 * float(np.percentile(rows_s[:, n], 95))
    for n, name in enumerate(("", "cpu_")):
        result[f"painted_{name}ms"] = 1e3 * float(np.median(painted_s[:, n]))
        result[f"bare_{name}ms"] = 1e3 * float(np.median(bare_s[:, n]))
        result[f"{name}ratio"] = float(np.median(painted_s[:, n] / bare_s[:, n]))
    result["rows"] = bench.every_row(tokens)
    bench.viewer.close()
    if args.json:
        print(json.dumps(result))
    else:
        for name, row in result.pop("rows").items():
            print(f"row of {name} ({row['tokens']} tokens): {row['ms']:.2f} ms, cpu {row['cpu_ms']:.2f} ms")
        for name, value in result.items():
            print(f"{name:12s} {value:.2f}" if isinstance(value, float) else f"{name:12s} {value}")


if __name__ == "__main__":
    main()
