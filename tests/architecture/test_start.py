"""napari starts and the dock is built without PyTorch; it is loaded only once the dock is shown."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CODE = """
import sys, time
import napari
from qtpy.QtWidgets import QApplication

viewer = napari.Viewer(show=False)
print("VIEWER", "napari_attnseg" in sys.modules, "torch" in sys.modules)
from napari_attnseg._qt.dock import AttentionDock
dock = AttentionDock(viewer)
QApplication.processEvents()
print("BUILT", "torch" in sys.modules)
dock.show()
end = time.monotonic() + 120
while time.monotonic() < end and (dock.session.state.engine is None):
    QApplication.processEvents()
    time.sleep(0.01)
print("SHOWN", "torch" in sys.modules, dock.session.state.engine is not None)
sys.stdout.flush()
dock.close()
dock.deleteLater()  # a widget without a parent that outlives the interpreter can crash PyQt's clean-up
QApplication.sendPostedEvents(dock, 52)  # QEvent.Type.DeferredDelete
viewer.close()
"""


@pytest.mark.skipif(
    sys.platform.startswith("linux") and not os.environ.get("DISPLAY"), reason="needs a screen (xvfb-run -a)"
)
def test_torch_is_loaded_when_the_dock_is_shown_and_not_before():
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, check=False, timeout=240
    )
    said = dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)
    assert said.get("VIEWER") == "False False", done.stderr[-3000:]
    assert said.get("BUILT") == "False", done.stderr[-3000:]
    assert said.get("SHOWN") == "True True", done.stderr[-3000:]
    assert done.returncode == 0, done.stderr[-3000:]
