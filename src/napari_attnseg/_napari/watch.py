"""Follows a viewer's image layers: one signal for "the list changed", one for "another one is active"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari.layers import Image
from psygnal import Signal

from napari_attnseg._napari.layers import images, is_ours

if TYPE_CHECKING:
    from napari.components import ViewerModel


class LayerWatch:
    """Tells about inserted, removed, reordered and renamed image layers until :meth:`close`.

    ``removed`` carries any layer that is gone; ``moved`` says that the planes looked at changed.
    """

    changed = Signal()
    activated = Signal(object)  # Image
    selected = Signal()
    removed = Signal(object)  # Layer
    moved = Signal()

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = viewer
        self._pairs = [
            (viewer.layers.events.inserted, self._on_inserted),
            (viewer.layers.events.removed, self._on_removed),
            (viewer.layers.events.reordered, self._tell),
            (viewer.layers.selection.events.active, self._on_active),
            (viewer.layers.selection.events.changed, self._on_selected),
            (viewer.dims.events.current_step, self._on_moved),
            (viewer.dims.events.ndisplay, self._on_moved),
            (viewer.dims.events.order, self._on_moved),
        ]
        for emitter, slot in self._pairs:
            emitter.connect(slot)
        for layer in viewer.layers:
            layer.events.name.connect(self._tell)

    def close(self) -> None:
        """Stop listening."""
        for emitter, slot in self._pairs:
            emitter.disconnect(slot)
        self._pairs = []
        for layer in self._viewer.layers:
            layer.events.name.disconnect(self._tell)

    def images(self) -> list[Image]:
        """Return the image layers that can be segmented, top first."""
        return images(self._viewer.layers)

    def active(self) -> Image | None:
        """Return the active layer if it is an image that can be segmented."""
        layer = self._viewer.layers.selection.active
        return layer if isinstance(layer, Image) and not is_ours(layer) else None

    def _on_inserted(self, event: Any) -> None:
        event.value.events.name.connect(self._tell)
        self._tell()

    def _on_removed(self, event: Any) -> None:
        event.value.events.name.disconnect(self._tell)
        self.removed.emit(event.value)
        self._tell()

    def _tell(self, event: Any = None) -> None:
        self.changed.emit()

    def _on_active(self, event: Any = None) -> None:
        if (layer := self.active()) is not None:
            self.activated.emit(layer)

    def _on_selected(self, event: Any = None) -> None:
        self.selected.emit()

    def _on_moved(self, event: Any = None) -> None:
        self.moved.emit()
