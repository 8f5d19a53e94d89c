"""A training as it goes: progress, scores, curves, preview, Pause and Cancel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeVar

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QHBoxLayout, QMessageBox, QProgressBar, QPushButton, QVBoxLayout, QWidget

from napari_attnseg._napari.comparison import show_preview
from napari_attnseg._qt.curve import Curve
from napari_attnseg._qt.run_watch import RunWatch
from napari_attnseg._qt.widgets import note, set_note
from napari_attnseg.errors import AttnSegError
from napari_attnseg.store import runs

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from napari.components import ViewerModel

    from napari_attnseg._napari.tuning import Place
    from napari_attnseg.records import Progress

T = TypeVar("T")


class RunBox(QWidget):  # type: ignore[misc]  # qtpy is untyped
    """Hidden while nothing learns.  ``ended`` carries the run folder and how it ended."""

    ended = Signal(object, str)

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__()
        self._viewer = viewer
        self._place: Place | None = None
        self._last: Path | None = None
        self._cost = ""
        self._fresh = False  # a preview has come
        self.watch = RunWatch(self)
        self.bar = QProgressBar()
        self.bar.setObjectName("attnseg_tune_bar")
        self.pause_button = QPushButton("Pause")
        self.pause_button.setObjectName("attnseg_tune_pause")
        self.cancel_button = QPushButton("Cancel")
        self.cancel_button.setObjectName("attnseg_tune_cancel")
        self.cancel_button.setToolTip("Stop within two seconds. The best so far is kept if it improved.")
        self.state_line = note(name="attnseg_tune_state")
        self.score_line = note(name="attnseg_tune_scores")
        self.note_line = note(name="attnseg_tune_note")
        self.curve = Curve(viewer)
        row = QHBoxLayout()
        row.addWidget(self.bar, 1)
        row.addWidget(self.pause_button)
        row.addWidget(self.cancel_button)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        column.addLayout(row)
        for part in (self.state_line, self.score_line, self.note_line, self.curve):
            column.addWidget(part)
        self.watch.line.connect(self._on_line)
        self.watch.looked.connect(self._on_looked)
        self.watch.ended.connect(self._on_ended)
        self.pause_button.clicked.connect(self._on_pause)
        self.cancel_button.clicked.connect(self._on_cancel)
        self.hide()

    def release(self) -> None:
        """Stop looking; the child goes on."""
        self.watch.leave()
        self.curve.release()

    @property
    def run(self) -> Path | None:
        """The run that is followed."""
        return self.watch.run

    def follow(self, run: Path, place: Place | None) -> None:
        """Follow a run and show where it stands."""
        self._place, self._last, self._cost = place, run, ""
        self.curve.clear()
        self.bar.setRange(0, 0)
        set_note(self.score_line, "")
        set_note(self.note_line, "")
        self.pause_button.setText("Pause")
        self.pause_button.setEnabled(True)
        self.cancel_button.setEnabled(True)
        set_note(self.state_line, f"'{run.name}': starting…")
        self.show()
        if place is not None:
            show_preview(self._viewer.layers, place)
        self.watch.follow(run)
        self._say_pause()

    # -- what the child says ------------------------------------------------------------------------

    def _on_line(self, line: dict[str, Any]) -> None:
        tell = {
            "phase": self._on_phase, "estimate": self._on_estimate, "step": self._on_step,
            "val": self._on_val, "preview": self._on_preview, "note": self._on_note,
        }.get(str(line.get("kind")))  # fmt: skip
        if tell is not None:
            tell(line)

    def _on_phase(self, line: dict[str, Any]) -> None:
        self._say(f"{str(line.get('note', '')).lower()}…")

    def _on_estimate(self, line: dict[str, Any]) -> None:
        memory = float(line.get("memory_mb") or 0)
        self._cost = f"about {duration(float(line.get('seconds', 0)))} in all" + (
            f", {memory / 1024:.1f} GB" if memory else ""
        )

    def _on_step(self, line: dict[str, Any]) -> None:
        step, total = int(line.get("step", 0)), int(line.get("total", 0))
        self.bar.setRange(0, total)
        self.bar.setValue(step)
        self.curve.add_step(step, float(line.get("loss", 0.0)))
        left = f"{duration(float(line.get('left', 0)))} left at most"
        self._say(" · ".join(part for part in (f"step {step} of {total}", left, self._cost) if part))

    def _on_val(self, line: dict[str, Any]) -> None:
        best = ", kept so far" if line.get("best") else ""
        if "per_class" in line:
            dice = {name: float(d) for name, d in line["per_class"].items() if d is not None}
            scores = {"mean Dice": float(line["dice"]), **dice}
        else:
            scores = {"AP@.5": float(line["ap50"]), "Dice": float(line["dice"])}
        self.curve.add_scores(int(line["step"]), scores)
        said = ", ".join(f"{name} {score:.2f}" for name, score in scores.items())
        set_note(self.score_line, f"Held out: {said}{best}")

    def _on_preview(self, line: dict[str, Any]) -> None:
        self._fresh = True

    def _on_looked(self) -> None:
        """Draw once, however many lines came."""
        self.curve.draw()
        if self._fresh and self._place is not None and self.watch.run is not None:
            labels = runs.read_preview_labels(self.watch.run)
            if labels is not None:
                show_preview(self._viewer.layers, self._place, labels)
        self._fresh = False

    def _on_note(self, line: dict[str, Any]) -> None:
        set_note(self.note_line, str(line.get("text", "")))

    def _on_ended(self, status: str) -> None:
        self.hide()
        self.ended.emit(self._last, status)

    def _say(self, text: str) -> None:
        run = self.watch.run
        if run is not None:
            set_note(self.state_line, f"'{run.name}': {text}")

    # -- buttons ------------------------------------------------------------------------------------

    def _on_pause(self) -> None:
        try:
            self.watch.pause(not self.watch.paused)
        except AttnSegError as err:
            set_note(self.note_line, str(err))
        self._say_pause()

    def _say_pause(self) -> None:
        paused = self.watch.paused
        self.pause_button.setText("Go on" if paused else "Pause")
        self.pause_button.setToolTip(
            "Let it learn on." if paused else "Let it wait after this step; it keeps its memory."
        )

    def _on_cancel(self) -> None:
        self.cancel_button.setEnabled(False)
        self.pause_button.setEnabled(False)
        self._say("stopping…")
        try:
            self.watch.cancel()
        except AttnSegError as err:
            set_note(self.note_line, str(err))


def ask_on_close(parent: QWidget, name: str) -> Literal["go on", "stop", "stay"]:
    """Ask what a training shall do when the window closes."""
    box = QMessageBox(parent)
    box.setObjectName("attnseg_close_question")
    box.setWindowTitle("Fine-tuning")
    box.setText(f"'{name}' is still learning.")
    box.setInformativeText("If it goes on, its result is offered when you open the dock again.")
    go_on = box.addButton("Let it go on", QMessageBox.ButtonRole.AcceptRole)
    stop = box.addButton("Stop it", QMessageBox.ButtonRole.DestructiveRole)
    box.addButton("Keep the window open", QMessageBox.ButtonRole.RejectRole)
    box.setDefaultButton(go_on)
    box.exec()
    if box.clickedButton() is go_on:
        return "go on"
    return "stop" if box.clickedButton() is stop else "stay"


def warmed(job: Generator[Progress, None, T]) -> Generator[Progress, None, T]:
    """Run a job, and import what the curves need in its thread: the window would stand still for it."""
    import pyqtgraph  # type: ignore[import-untyped]  # noqa: F401

    return (yield from job)


def duration(seconds: float) -> str:
    """Return a time in words: "40 s", "3 min"."""
    return f"{max(seconds, 0):.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
