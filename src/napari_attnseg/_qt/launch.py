"""Opening napari with the dock, and the menu commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari.viewer import Viewer  # noqa: TC002 - napari reads the annotation to give the viewer

from napari_attnseg._napari.layers import unwrap
from napari_attnseg._napari.settings import PLUGIN

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from napari_attnseg._qt.dock import AttentionDock

WIDGET = "Attention Segmentation"


def open_dock(viewer: Viewer) -> AttentionDock:
    """Show the dock in a viewer, opening it if need be, and return it."""
    dock, widget = unwrap(viewer).window.add_plugin_dock_widget(PLUGIN, WIDGET)
    dock.show()
    dock.raise_()
    return widget  # type: ignore[no-any-return]


def segment_active(viewer: Viewer) -> None:
    """Segment the active image with what the panel says; opens the dock if need be.

    While the network is still loading, the run starts when it is there.
    """
    widget = open_dock(viewer)
    widget.run_when_ready()


def run(files: Sequence[Path]) -> None:
    """Open napari with files and the dock, and wait until the user closes it."""
    import napari

    viewer = napari.Viewer()
    if files:
        viewer.open([str(file) for file in files])
    open_dock(viewer)
    napari.run()
