"""Progress, time left and Cancel of the running job."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QHBoxLayout, QLabel, QProgressBar, QPushButton, QVBoxLayout, QWidget

if TYPE_CHECKING:
    from napari_attnseg._qt.worker import Jobs
    from napari_attnseg.records import Progress


def time_left(done: int, total: int, seconds: float) -> str:
    """Return the time left in words; "" while it cannot be known."""
    if total <= 0 or done <= 0 or seconds < 1.0:
        return ""
    left = seconds / done * (total - done)
    if left < 1:
        return "almost done"
    return f"{left:.0f} s left" if left < 90 else f"{left / 60:.0f} min left"


class JobBar(QWidget):  # type: ignore[misc]  # qtpy is untyped
    """Hidden while nothing runs; ``tab`` goes into the name of its button."""

    def __init__(self, jobs: Jobs, tab: str) -> None:
        super().__init__()
        self._jobs = jobs
        self._since = 0.0
        self._title = ""
        self.bar = QProgressBar(self)
        self.bar.setTextVisible(True)
        self.bar.setMinimumWidth(60)
        self.cancel = QPushButton("Cancel", self)
        self.cancel.setObjectName(f"attnseg_{tab}_cancel")
        self.cancel.setToolTip("Stop after the tile that is being worked on.")
        self.note = QLabel(self)
        self.note.setWordWrap(True)
        self.note.setAlignment(Qt.AlignmentFlag.AlignLeft)
        row = QHBoxLayout()
        row.addWidget(self.bar, 1)
        row.addWidget(self.cancel)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        column.addLayout(row)
        column.addWidget(self.note)
        self.cancel.clicked.connect(self._on_cancel)
        jobs.started.connect(self._on_started)
        jobs.progressed.connect(self._on_progress)
        jobs.finished.connect(self._on_finished)
        self.hide()

    def _on_started(self, title: str) -> None:
        self._since, self._title = time.monotonic(), title
        self.bar.setRange(0, 0)
        self.note.setText(title)
        self.cancel.setEnabled(True)
        self.show()

    def _on_progress(self, progress: Progress) -> None:
        self.bar.setRange(0, max(progress.total, 0))
        self.bar.setValue(progress.done)
        left = time_left(progress.done, progress.total, time.monotonic() - self._since)
        self.note.setText(" · ".join(part for part in (progress.note or self._title, left) if part))

    def _on_cancel(self) -> None:
        self.cancel.setEnabled(False)
        self.note.setText("Stopping after this tile…")
        self._jobs.cancel()

    def _on_finished(self, _outcome: str) -> None:
        self.hide()
