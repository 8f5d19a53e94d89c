"""The mouse over the canvas, for the Attention tab: newest place first, never a queue."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QObject, Signal

from napari_attnseg._napari.hover import CanvasMouse, Newest, StatusValue
from napari_attnseg._napari.layers import plane_at
from napari_attnseg._napari.question import PIXEL
from napari_attnseg._qt.attention_jobs import once

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_attnseg._napari.explorer import Explorer
    from napari_attnseg._napari.hover import World

_HOVER = 0  # milliseconds: moves that wait in the queue are taken together


class MouseAsker(QObject):  # type: ignore[misc]  # qtpy is untyped
    """Tells which place is asked about: ``hovered`` by moving, ``clicked`` (position, Shift) by a click.

    Moves between two answers are left out: only the newest counts.  A move inside the token that was
    asked about last is none.
    """

    hovered = Signal(object)  # pixel
    clicked = Signal(object, bool)  # world position, Shift
    taken = Signal()

    def __init__(self, viewer: ViewerModel, explorer: Explorer, parent: QObject) -> None:
        super().__init__(parent)
        self._explorer = explorer
        self._mouse = CanvasMouse(viewer, self._on_move, self.clicked.emit, self.taken.emit)
        self._status = StatusValue(viewer, self._value_words)
        self._newest = Newest()
        self.following = True
        self._timer = once(self, _HOVER, self.hover)

    def listen(self, on: bool) -> None:
        """Take the mouse over the canvas, or leave it."""
        self._mouse.listen(on)
        self._status.listen(on)
        if not on:
            self._timer.stop()
            self._newest.take()

    def say_value(self) -> None:
        """Say the value under the mouse anew: another view is shown."""
        self._status.refresh()

    def _on_move(self, world: World) -> None:
        if self.following and self._explorer.question.what == PIXEL and self._newest.put(world):
            self._timer.start()

    def hover(self) -> None:
        """Ask about the newest place under the mouse; places between are left out."""
        world, run = self._newest.take(), self._explorer.run
        if world is None or run is None or not self.following:
            return
        pixel = self._explorer.pixel_at(world)
        if pixel is None or not self._explorer.holds(pixel, plane_at(run.image, run.source, world)):
            return
        if not self._explorer.same_token(pixel):
            self.hovered.emit(pixel)

    def _value_words(self, world: World) -> str:
        """Return the overlay's value under the mouse, for the status bar."""
        view, run = self._explorer.view, self._explorer.run
        pixel = self._explorer.pixel_at(world)
        if view is None or run is None or pixel is None or not view.grid.contains(pixel):
            return ""
        return view.value_words(view.grid.token_of(pixel)) if self._explorer.plane_now() == run.plane else ""
