"""Follows the layers of the Attention tab: those that come, and what is to be cleared when some go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, Signal

from napari_attnseg._napari.layers import META
from napari_attnseg._qt.attention_jobs import once

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_attnseg._napari.curtain import Curtain
    from napari_attnseg._napari.explorer import Explorer


class AttentionLayers(QObject):  # type: ignore[misc]  # qtpy is untyped
    """Clears what belongs to an image that is gone; later, because napari is still removing.

    ``cleared`` says that it did so; ``unpinned`` carries the numbers of pins whose layers were removed.
    """

    cleared = Signal()
    unpinned = Signal(object)

    def __init__(self, viewer: ViewerModel, explorer: Explorer, curtain: Curtain, parent: QObject) -> None:
        super().__init__(parent)
        self._viewer, self._explorer, self._curtain = viewer, explorer, curtain
        self._gone: list[Any] = []
        self._pins: list[int] = []
        self._timer = once(self, 0, self._tidy)
        viewer.layers.events.inserted.connect(self._on_inserted)
        viewer.layers.events.removed.connect(self._on_removed)

    def release(self) -> None:
        """Let go of the layers."""
        self._viewer.layers.events.inserted.disconnect(self._on_inserted)
        self._viewer.layers.events.removed.disconnect(self._on_removed)
        self._timer.stop()

    def _on_inserted(self, event: Any) -> None:
        self._curtain.settle(event.value)

    def _on_removed(self, event: Any) -> None:
        layer = event.value
        if META not in layer.metadata:
            self._gone.append(layer)
        elif not self._explorer.laying:
            self._pins += [pin.number for pin in self._explorer.pins_of_layer(layer)]
        self._timer.start()

    def _tidy(self) -> None:
        gone, self._gone = [layer for layer in self._gone if layer not in self._viewer.layers], []
        for layer in gone:
            self._explorer.clear(layer)
        if gone:
            self.cleared.emit()
        if self._pins:
            numbers, self._pins = self._pins, []
            self.unpinned.emit(numbers)
            if not self._curtain.is_open:
                self._curtain.arrange()  # the rows of the other pins
