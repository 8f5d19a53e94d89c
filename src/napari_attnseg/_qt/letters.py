"""Letters typed in a list or a box go to the canvas, whose keys the tools are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QEvent, QObject, Qt

if TYPE_CHECKING:
    from qtpy.QtWidgets import QWidget

_SHIFT, _CTRL = Qt.KeyboardModifier.ShiftModifier, Qt.KeyboardModifier.ControlModifier
_PLAIN = (Qt.KeyboardModifier.NoModifier, _SHIFT)


class LettersToCanvas(QObject):  # type: ignore[misc]  # qtpy is untyped
    """Keeps letters and ctrl+z from lists and boxes, which would search for them; arrows, space stay theirs.

    What a widget leaves goes to its parents, up to napari's dock, which hands it to the canvas.
    """

    def __init__(self, *widgets: QWidget) -> None:
        super().__init__(widgets[0])
        for widget in widgets:
            widget.installEventFilter(self)

    def eventFilter(self, _widget: QObject, event: QEvent) -> bool:  # Qt's name
        """Take letters away from the widget, and leave them to its parents."""
        if event.type() != QEvent.Type.KeyPress:
            return False
        letter = Qt.Key.Key_A <= event.key() <= Qt.Key.Key_Z and event.modifiers() in _PLAIN
        undo = event.key() == Qt.Key.Key_Z and event.modifiers() in (_CTRL, _CTRL | _SHIFT)
        if letter or undo:
            event.ignore()
        return letter or undo
