"""How objects are read out: part of every run, and live on the result of the last one."""

from __future__ import annotations

import time
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QPushButton, QVBoxLayout, QWidget

from napari_attnseg._napari.layers import restore, rewrite
from napari_attnseg._qt.params_form import ParamsForm
from napari_attnseg._qt.widgets import form, heading, note, set_note
from napari_attnseg.jobs.segment import assemble
from napari_attnseg.params import ReadoutParams
from napari_attnseg.records import Progress

if TYPE_CHECKING:
    from collections.abc import Generator

    from napari.components import ViewerModel

    from napari_attnseg._napari.session import Run, Session
    from napari_attnseg._qt.worker import Jobs
    from napari_attnseg.params import SegmentParams
    from napari_attnseg.records import Segmentation

_QUICK = 0.15  # seconds that a readout may take on the main thread
_PIXELS_PER_SECOND = 1_000_000  # guess before the first readout
_OF_REGIONS = ("min_size", "drop_edge", "fill_holes")  # also count for regions of K-means
_LIVE = "Changes show at once; the network does not run again."
_DELAY = 60  # milliseconds in which moves of a slider are taken together


class ReadoutBox(QWidget):  # type: ignore[misc]  # qtpy is untyped
    """Sliders whose changes are read out at once from what the last run kept."""

    def __init__(self, viewer: ViewerModel, session: Session, jobs: Jobs) -> None:
        super().__init__()
        self._viewer, self._session, self._jobs = viewer, session, jobs
        self._watched: Any = None
        self._late: Any = None  # the layer of the run whose fields were changed while a job was running
        self._method = "attention"
        self._last_seconds: float | None = None
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        self._heading = heading("Objects")
        column.addWidget(self._heading)
        self.state_line = note(name="attnseg_live")
        column.addWidget(self.state_line)
        layout = form()
        column.addLayout(layout)
        self.form = ParamsForm(layout, ReadoutParams.model_fields, slider=True)
        self.restore_button = QPushButton("Bring back the result before")
        self.restore_button.setObjectName("attnseg_restore")
        self.restore_button.setToolTip("Put the Labels layer of the run before in the place of this one.")
        column.addWidget(self.restore_button)
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_DELAY)
        self._timer.timeout.connect(self._apply)
        self._edit_timer = QTimer(self)  # comparing a layer with what was written takes a moment
        self._edit_timer.setSingleShot(True)
        self._edit_timer.setInterval(_DELAY)
        self._edit_timer.timeout.connect(self.refresh)
        self.form.changed.connect(self._on_changed)
        self.restore_button.clicked.connect(self._on_restore)
        session.changed.connect(self._on_session)
        jobs.finished.connect(self._on_job_finished)
        self.refresh()

    def release(self) -> None:
        """Let go of the session and of the watched layer."""
        self._session.changed.disconnect(self._on_session)
        self._watch(None)

    def show_for(self, method: str) -> None:
        """Show the fields that count for a method: all for the network, few for K-means, none for SLIC."""
        for name in self.form.widgets:
            self.form.show_row(name, method == "attention" or (method == "kmeans" and name in _OF_REGIONS))
        self._heading.setVisible(method != "slic")
        self._method = method
        self._say(self.reason())

    def _say(self, why: str) -> None:
        set_note(self.state_line, "" if self._method == "slic" else why or _LIVE)

    def reason(self) -> str:
        """Return why changes are not live; "" when they are."""
        run = self._session.state.run
        if run is None:
            return "Taken by the next run; after it, changes show at once."
        if run.encoded is None:
            return "Taken by the next run: this result cannot be read out again."
        if run.shown.layer not in self._viewer.layers:
            return "Taken by the next run: the result layer was removed."
        if run.shown.edited:
            return "You edited the result, so it stays as it is. Run again for a fresh layer."
        return ""

    def refresh(self) -> None:
        """Say whether changes are live, and offer what can be brought back."""
        run, why = self._session.state.run, self.reason()
        edited = why.startswith("You edited")
        self.form.set_enabled(not edited, why)
        self._say(why)
        self.restore_button.setVisible(run is not None and run.replaced is not None)
        self.restore_button.setEnabled(not self._session.state.busy)
        self._watch(run.shown.layer if run is not None else None)

    def _watch(self, layer: Any) -> None:
        """Listen to edits of one layer: strokes come as ``paint``, undo only as ``set_data``."""
        if layer is self._watched:
            return
        if self._watched is not None:
            self._watched.events.paint.disconnect(self._on_edit)
            self._watched.events.set_data.disconnect(self._on_edit)
        if layer is not None:
            layer.events.paint.connect(self._on_edit)
            layer.events.set_data.connect(self._on_edit)
        self._watched = layer

    def _on_edit(self, event: Any = None) -> None:
        if not self._edit_timer.isActive():
            self._edit_timer.start()

    def _on_session(self, new: Any, old: Any) -> None:
        if new.image is not old.image:
            self._show_params()
        if new.image is not old.image or new.runs is not old.runs or new.busy != old.busy:
            self.refresh()

    def _show_params(self) -> None:
        """Show what the labels of the chosen image were read out with."""
        run = self._session.state.run
        if run is not None:
            self.form.set_values(run.params.model_dump())

    def _on_changed(self) -> None:
        if not self._timer.isActive():
            self._timer.start()

    def _on_job_finished(self, _outcome: str) -> None:
        """Catch up with changes that were made to this run while a job was running."""
        run, late, self._late = self._session.state.run, self._late, None
        if run is not None and run.shown.layer is late and not self.reason() and self._differs(run):
            self._on_changed()

    def _differs(self, run: Run) -> bool:
        return any(run.params.model_dump()[name] != value for name, value in self.form.values().items())

    def _apply(self) -> None:
        run = self._session.state.run
        if run is None or run.encoded is None or self.reason() or not self._differs(run):
            return
        if self._jobs.busy:
            self._late = run.shown.layer
            return
        params = run.params.model_copy(update=self.form.values())
        if self._seconds(run) <= _QUICK:
            start = time.perf_counter()
            self._write(run, params, _read(run, params))
            self._last_seconds = time.perf_counter() - start
        else:
            self._jobs.start_job(
                _read_job(run, params), "Reading out objects", lambda made: self._write(run, params, made)
            )

    def _seconds(self, run: Run) -> float:
        if self._last_seconds is not None:
            return self._last_seconds
        maps = run.encoded.maps.values() if run.encoded is not None else ()
        pixels = sum(int(np.prod(one.foreground.shape)) for one in maps)
        return pixels / _PIXELS_PER_SECOND

    def _write(self, run: Run, params: SegmentParams, made: Segmentation) -> None:
        if self._session.state.run is not run or self.reason():
            return  # edited, removed or run again meanwhile
        shown = rewrite(run.shown, made, run.source)
        self._session.change_run(run, shown=shown, params=params, segmentation=made)
        if self._differs(self._session.state.run):
            self._on_changed()

    def _on_restore(self) -> None:
        run = self._session.state.run
        if run is None or run.replaced is None:
            return
        old = run.before if run.before is not None else replace(run, encoded=None, replaced=None)
        old = replace(old, shown=restore(self._viewer.layers, run.shown, run.replaced))
        self._session.change_run(run, **{one.name: getattr(old, one.name) for one in fields(old)})
        self._show_params()


def _read(run: Run, params: SegmentParams) -> Segmentation:
    assert run.encoded is not None
    result = assemble(run.encoded, run.source, params)
    return replace(result, seconds=run.segmentation.seconds)  # of the run, not of its latest change


def _read_job(run: Run, params: SegmentParams) -> Generator[Progress, None, Segmentation]:
    yield Progress(0, 0, "Reading out objects")
    return _read(run, params)
