"""How long the window stands still at most while a model is tuned, against the same use without.

Needs a screen, or ``xvfb-run -a -s "-screen 0 1600x1000x24"``:

    python tests/benchmarks/bench_stall.py [--size 1024] [--seconds 20] [--json]

The window segments a generated image, five objects are drawn anew, and a scripted user pans, zooms, paints
and changes tabs, eight times a second.  A timer of 5 ms notes when the event loop gets round to it; a stall
is the time between two of its ticks.  First ``seconds`` of use without training, then as many while the
child of a quick run learns (from its first step on; curve, scores and preview arrive meanwhile), then again
without.  The target: the longest stall grows by 100 ms at most.  What the script itself costs (redraws) is
in both.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

os.environ["NAPARI_CONFIG"] = str(Path(tempfile.mkdtemp()) / "settings.yaml")  # the user's stay as they are
os.environ["NAPARI_ATTNSEG_HOME"] = tempfile.mkdtemp()

import napari
import numpy as np
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication

from napari_attnseg._qt.launch import open_dock
from napari_attnseg.core.synth import fluorescence
from napari_attnseg.store import runs


def wait(done, seconds: float = 600.0, what: str = "the end of the job") -> None:
    """Keep the window alive until ``done()``."""
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            raise SystemExit(f"waited {seconds:.0f} s in vain for {what}")
        QApplication.processEvents()
        time.sleep(0.001)


class User:
    """A window with a finished run, and somebody who uses it."""

    def __init__(self, size: int) -> None:
        self.viewer = napari.Viewer()
        self.viewer.window.resize(1400, 900)
        picture, self.truth = fluorescence((size, size), 0)
        self.viewer.add_image(picture, name="image")
        self.dock = open_dock(self.viewer)
        wait(self.dock.segment.run_button.isEnabled)
        self.dock.segment.run_button.click()
        wait(lambda: not self.dock.jobs.busy)
        self.labels = self.viewer.layers["image · attnseg labels"]
        self.tabs = [self.dock.tabs.tabText(n) for n in range(self.dock.tabs.count())]
        self.panel = self.dock.finetune
        self.acts = 0
        self.ticks: list[float] = []
        self.clock = QTimer()
        self.clock.setInterval(5)
        self.clock.timeout.connect(lambda: self.ticks.append(time.perf_counter()))
        self.hand = QTimer()
        self.hand.setInterval(125)
        self.hand.timeout.connect(self.act)

    def correct(self, count: int = 5) -> None:
        """Draw some objects anew, each with a new label."""
        fresh = int(self.labels.data.max()) + 1
        for n, label in enumerate(np.unique(self.truth)[1 : count + 1]):
            self.labels.data_setitem(np.nonzero(self.truth == label), fresh + n)

    def act(self) -> None:
        """Do the next thing."""
        self.acts += 1
        camera, n = self.viewer.scene.camera, self.acts
        if n % 4 == 0:
            camera.center = (0.0, *(np.array(camera.center[-2:]) + 8 * (-1) ** (n // 4)))
        elif n % 4 == 1:
            camera.zoom *= 1.1 if n % 8 == 1 else 1 / 1.1
        elif n % 4 == 2:
            at = 40 + 8 * (n % 64)
            self.labels.paint((at, at), int(self.labels.data.max()))
        else:
            name = ("Fine-tune", "Segment")[n % 8 == 7]
            self.dock.tabs.setCurrentIndex(self.tabs.index(name))

    def stalls(self, seconds: float) -> np.ndarray:
        """Use the window; return the times between two ticks, s, longest first."""
        self.ticks.clear()
        self.clock.start()
        self.hand.start()
        end = time.monotonic() + seconds
        wait(lambda: time.monotonic() > end)
        self.hand.stop()
        self.clock.stop()
        return np.sort(np.diff(self.ticks))[::-1]

    def start(self) -> Path:
        """Start a quick run and wait for its first step."""
        self.dock.tabs.setCurrentIndex(self.tabs.index("Fine-tune"))
        wait(self.panel.start_button.isEnabled, 60, "Start")
        self.panel.start_button.click()
        wait(lambda: self.panel.running is not None, 60, "the run")
        run = self.panel.running
        wait(lambda: runs.state(run).step >= 1, 120, "the first step")
        return run


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    user = User(args.size)
    user.correct()
    user.stalls(5.0)  # the first uses compile shaders and build the tabs
    before = user.stalls(args.seconds)
    run = user.start()
    during = user.stalls(args.seconds)
    step = runs.state(run).step
    if runs.state(run).status != "running":
        raise SystemExit("the training ended before the measurement: ask for fewer --seconds")
    user.panel.run_box.cancel_button.click()
    wait(lambda: user.panel.running is None, 60, "the end of the run")
    after = user.stalls(args.seconds)
    result = {
        "without_ms": 1e3 * float(before[0]),
        "training_ms": 1e3 * float(during[0]),
        "after_ms": 1e3 * float(after[0]),
        "added_ms": 1e3 * float(during[0] - max(before[0], after[0])),
        "p99_without_ms": 1e3 * float(np.percentile(before, 99)),
        "p99_training_ms": 1e3 * float(np.percentile(during, 99)),
        "steps_meanwhile": step,
    }
    end = time.monotonic() + 3.0  # what runs in threads comes to its end
    wait(lambda: time.monotonic() > end)
    user.viewer.close()
    if args.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name:16s} {value:.1f}")


if __name__ == "__main__":
    main()
