"""The demo: open napari on a real micrograph, segment it through the panel, show what was attended to."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from napari_attnseg._napari import overlay
from napari_attnseg._napari.settings import PLUGIN
from napari_attnseg._qt.launch import open_dock
from napari_attnseg.core import render
from napari_attnseg.errors import AttnSegError, EngineError
from napari_attnseg.jobs.demo import SCREENSHOT
from napari_attnseg.store.images import make_folder, write_labels, write_png, write_tiff

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from napari_attnseg._qt.dock import AttentionDock

_PATIENCE = 600.0  # seconds for loading and running, also on a slow machine


def run(out: Path, keep_open: bool) -> None:
    """Run the demo in a window and write what it shows.

    Parameters
    ----------
    out : Path
        Folder for ``image.tif``, ``labels.tif``, ``attention.png``, ``overlay.png`` (of the image's size)
        and ``screenshot.png`` (the window).
    keep_open : bool
        Leave the window open until the user closes it.

    Raises
    ------
    AttnSegError
        The network cannot be loaded or run, or ``out`` cannot be written.
    """
    import napari

    make_folder(out)
    viewer = napari.Viewer(show=True)
    try:
        viewer.open_sample(PLUGIN, "nuclear_stain")
        widget = open_dock(viewer)
        viewer.window.resize(1400, 900)
        _segment(widget)
        _write(out, widget)
        _show(out, viewer, widget)
        if keep_open:
            napari.run()
    finally:
        if not keep_open:
            viewer.close()


def _segment(widget: AttentionDock) -> None:
    """Press Run as a user would and wait for labels and overlay."""
    failures: list[AttnSegError] = []
    widget.jobs.failed.connect(failures.append)
    _wait(lambda: not widget.segment.reason() or not widget.session.state.loading.endswith("…"))
    if why := widget.segment.reason():
        raise EngineError(f"The demo cannot run: {why}")
    widget.segment.run_button.click()
    _wait(lambda: not widget.jobs.busy)
    if failures:
        raise failures[0]


def _wait(done: Callable[[], bool]) -> None:
    """Keep the window alive until ``done``."""
    from qtpy.QtWidgets import QApplication

    end = time.monotonic() + _PATIENCE
    while not done():
        if time.monotonic() > end:
            raise EngineError("The demo did not come to an end.", "Try 'napari-attnseg segment' on a file.")
        QApplication.processEvents()
        time.sleep(0.01)


def _write(out: Path, widget: AttentionDock) -> None:
    """Write the layers' data as files."""
    run_ = widget.session.state.run
    if run_ is None or run_.tape is None:
        raise EngineError("The demo got no result.", "Run 'napari-attnseg doctor' and report what it says.")
    image, labels = run_.source.data, run_.shown.layer.data
    layer = overlay.find(widget.layers, run_.image)
    if layer is None:
        raise EngineError("The demo got no overlay.", "Run 'napari-attnseg doctor' and report what it says.")
    grid = run_.tape.block(layer.metadata["attnseg"]["block"]).grid
    values = layer.data.reshape(grid.shape)
    painted = grid.paint(values, labels.shape)
    write_tiff(out / "image.tif", image, "YXS" if run_.source.rgb else "YX")
    write_labels(out / "labels.tif", labels)
    write_png(out / "attention.png", render.heat(painted, image))
    write_png(out / "overlay.png", render.overlay(labels, image))


def _show(out: Path, viewer: Any, widget: AttentionDock) -> None:
    """Show labels as outlines with the overlay over them; write the window as a picture."""
    run_ = widget.session.state.run
    if run_ is not None:
        run_.shown.layer.contour = 2
    titles = [widget.tabs.tabText(n) for n in range(widget.tabs.count())]
    widget.tabs.setCurrentIndex(titles.index("Attention"))  # the overlay is seen with its tab
    viewer.reset_view()
    _settle()
    write_png(out / SCREENSHOT, viewer.screenshot(canvas_only=False, flash=False))


def _settle(seconds: float = 0.5) -> None:
    """Let the window draw."""
    end = time.monotonic() + seconds
    _wait(lambda: time.monotonic() > end)
