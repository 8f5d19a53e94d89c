"""The order in which ctrl+z takes back what was done to a layer: edits, ours or napari's, and marks."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from napari_attnseg._napari.marks import set_checked

if TYPE_CHECKING:
    from napari.layers import Labels

_MOST = 100  # marks that are kept; as many as napari keeps edits


@dataclass(frozen=True, slots=True)
class _Mark:
    """Objects that were marked or unmarked, and how many steps napari's history had then."""

    labels: frozenset[int]
    on: bool
    depth: int


class Steps:
    """Marks accepted objects so that they are taken back in their turn among the edits of a layer."""

    def __init__(self) -> None:
        self._marks: WeakKeyDictionary[Labels, deque[_Mark]] = WeakKeyDictionary()  # newest last

    def mark(self, layer: Labels, labels: set[int], on: bool) -> None:
        """Mark objects as accepted or not; as after an edit, what was undone before cannot be redone."""
        set_checked(layer, labels, on)
        layer._redo_history.clear()
        marks = self._marks.setdefault(layer, deque(maxlen=_MOST))
        marks.append(_Mark(frozenset(labels), on, len(layer._undo_history)))

    def painted(self, layer: Labels) -> None:
        """Note that an edit was added to the layer's history: every mark is older than it."""
        top = len(layer._undo_history) - 1
        marks = self._marks.get(layer, deque())
        for n, mark in enumerate(marks):
            marks[n] = replace(mark, depth=min(mark.depth, top))

    def undo(self, layer: Labels) -> str:
        """Take back the last edit or mark; return what was done."""
        marks = self._marks.get(layer)
        if marks and marks[-1].depth >= len(layer._undo_history):  # made after the last edit
            last = marks.pop()
            set_checked(layer, last.labels, on=not last.on)
            words = ", ".join(str(n) for n in sorted(last.labels))
            return f"Undone: object {words} is {'not accepted' if last.on else 'accepted again'}."
        if not layer._undo_history:
            return "There is nothing to undo."
        layer.undo()
        return "The last change is undone."

    def redo(self, layer: Labels) -> str:
        """Bring back the edit that was undone last; return what was done."""
        if not layer._redo_history:
            return "There is nothing to redo: only edits come back, not marks."
        layer.redo()
        return "The change that was undone is back."
