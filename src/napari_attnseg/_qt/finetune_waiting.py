"""Runs of other days that wait for the user: still learning, interrupted, or finished and not looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QHBoxLayout, QPushButton, QVBoxLayout, QWidget

from napari_attnseg._napari import tuning
from napari_attnseg._qt.widgets import note

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_attnseg.store import runs

_WORDS = {
    "running": "'{}' is still learning.",
    "paused": "'{}' is paused.",
    "interrupted": "The training of '{}' was interrupted at step {}.",
    "finished": "'{}' has finished learning.",
}


class WaitingBox(QWidget):  # type: ignore[misc]  # qtpy is untyped
    """Offers the newest of them; hidden when there is none."""

    look_asked = Signal(str)
    go_on_asked = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self._states: list[runs.RunState] = []
        self.line = note(name="attnseg_waiting")
        self.look_button = QPushButton("Look at it")
        self.look_button.setObjectName("attnseg_waiting_look")
        self.go_on_button = QPushButton("Go on")
        self.go_on_button.setObjectName("attnseg_waiting_go_on")
        self.go_on_button.setToolTip("Learn on from its last checkpoint.")
        self.leave_button = QPushButton("Leave it")
        self.leave_button.setObjectName("attnseg_waiting_leave")
        row = QHBoxLayout()
        for button in (self.look_button, self.go_on_button, self.leave_button):
            row.addWidget(button, 1)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        column.addWidget(self.line)
        column.addLayout(row)
        self.look_button.clicked.connect(lambda: self.look_asked.emit(self._states[0].name))
        self.go_on_button.clicked.connect(lambda: self.go_on_asked.emit(self._states[0].name))
        self.leave_button.clicked.connect(self._on_leave)
        self.hide()

    def fill(self, states: Sequence[runs.RunState]) -> None:
        """Offer the first of these runs."""
        self._states = list(states)
        self.setVisible(bool(states))
        if not states:
            return
        first = states[0]
        more = f" ({len(states) - 1} more)" if len(states) > 1 else ""
        self.line.setText(_WORDS[first.status].format(first.name, first.step) + more)
        interrupted = first.status == "interrupted"
        self.look_button.setVisible(not interrupted)
        self.go_on_button.setVisible(interrupted)
        living = first.status in ("running", "paused")
        self.leave_button.setVisible(not living)
        self.leave_button.setToolTip(
            "Delete the interrupted run; its samples stay on the shelf."
            if interrupted
            else "Keep the model, and do not ask again."
        )

    def _on_leave(self) -> None:
        first = self._states[0]
        tuning.leave(first)
        self.fill(self._states[1:])
