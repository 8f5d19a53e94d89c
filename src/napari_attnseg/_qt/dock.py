"""The dock widget "Attention Segmentation"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QEvent, QSize
from qtpy.QtWidgets import QLabel, QTabWidget, QVBoxLayout, QWidget

from napari_attnseg._napari.layers import unwrap
from napari_attnseg._napari.session import Session
from napari_attnseg._napari.watch import LayerWatch
from napari_attnseg._qt.attention_panel import AttentionPanel
from napari_attnseg._qt.correct_panel import CorrectPanel
from napari_attnseg._qt.finetune_panel import FinetunePanel
from napari_attnseg._qt.models_panel import ModelsPanel
from napari_attnseg._qt.segment_panel import SegmentPanel
from napari_attnseg._qt.widgets import scrolled
from napari_attnseg._qt.worker import Jobs
from napari_attnseg.jobs.warmup import warmup

if TYPE_CHECKING:
    import napari

    from napari_attnseg.engine import Engine
    from napari_attnseg.errors import AttnSegError
    from napari_attnseg.records import Progress

WIDTH = 372


class AttentionDock(QWidget):  # type: ignore[misc]  # qtpy is untyped
    """Tabs over one session; loads PyTorch and the model in a thread when it is first shown.

    Parameters
    ----------
    napari_viewer : napari.viewer.Viewer
        napari gives it by this name.
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self.setObjectName("attnseg_dock")
        self._viewer = unwrap(napari_viewer)
        self._released = False
        self._warmed = False
        self._run_pending = False
        self._loading_key: tuple[str, str] | None = None
        self._failed_key: tuple[str, str] | None = None  # of a load that went wrong
        self.session = Session.of(self._viewer)
        self.session.update(busy="", loading="" if self.session.state.engine is not None else _WAITING)
        self.jobs = Jobs(self)
        self._loader = Jobs(self)
        self._watch = LayerWatch(self._viewer)
        self.segment = SegmentPanel(self._viewer, self.session, self.jobs, self._watch)
        self.correct = CorrectPanel(self._viewer, self.session, self.jobs, self._watch)
        self.attention = AttentionPanel(self._viewer, self.session, self.jobs)
        self.finetune = FinetunePanel(
            self._viewer, self.session, self.jobs, self._watch, lambda: self.segment.engine_key
        )
        self.models = ModelsPanel()
        self.tabs = QTabWidget(self)
        self.tabs.setObjectName("attnseg_tabs")
        self.tabs.addTab(scrolled(self.segment), "Segment")
        self.tabs.addTab(scrolled(self.correct), "Correct")
        self.tabs.addTab(scrolled(self.finetune), "Fine-tune")
        self.tabs.addTab(scrolled(self.attention), "Attention")
        self.tabs.addTab(scrolled(self.models), "Models")
        self.status = QLabel(self)
        self.status.setObjectName("attnseg_status")
        self.status.setWordWrap(True)
        self.status.setContentsMargins(8, 2, 8, 4)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 4, 0, 0)
        column.setSpacing(0)
        column.addWidget(self.tabs, 1)
        column.addWidget(self.status)
        self.setMinimumWidth(300)
        self._connect()
        self._on_session(self.session.state, self.session.state)

    @property
    def layers(self) -> Any:
        """The viewer's layer list."""
        return self._viewer.layers

    def sizeHint(self) -> QSize:
        """Ask for a width at which nothing is cut off."""
        return QSize(WIDTH, 640)

    def _connect(self) -> None:
        self.tabs.currentChanged.connect(self._on_tab)
        self.segment.segmented.connect(self.attention.after_run)
        self.segment.engine_chosen.connect(self._on_engine_chosen)
        self._watch.moved.connect(self.attention.on_moved)
        self.jobs.started.connect(self._on_started)
        self.jobs.finished.connect(self._on_finished)
        self._loader.progressed.connect(self._on_loading)
        self._loader.failed.connect(self._on_load_failed)
        self._loader.finished.connect(self._on_engine_chosen)
        self.session.changed.connect(self._on_session)
        self.finetune.model_chosen.connect(self.segment.choose_model)
        self.models.model_chosen.connect(self.segment.choose_model)

    # -- loading the network ------------------------------------------------------------------------

    def showEvent(self, event: Any) -> None:
        """Start to load the network on the first show."""
        super().showEvent(event)
        self.window().installEventFilter(self)
        if not self._warmed and not self._released:
            self._warmed = True
            self._warm_up()
        self._on_tab(self.tabs.currentIndex())

    def hideEvent(self, event: Any) -> None:
        """Leave the canvas alone while the dock is hidden."""
        super().hideEvent(event)
        self.attention.listen(False)
        self.correct.listen(False)
        self.finetune.listen(False)

    def _warm_up(self) -> None:
        key = self.segment.engine_key
        if self.session.state.engine is not None or self.segment.model_box.count() == 0:
            self.session.update(loading="")
            return
        self._loading_key = key
        self._loader.start_job(warmup(*key), "Loading", lambda engine: self._on_loaded(key, engine))

    def _on_loading(self, progress: Progress) -> None:
        if self._loader.busy:
            self.session.update(loading=f"{progress.note}…")

    def _on_loaded(self, key: tuple[str, str], engine: Engine) -> None:
        self.segment.keep_engine(key, engine)
        if self._run_pending:
            self._run_pending = False
            self.segment.run()

    def _on_load_failed(self, err: AttnSegError) -> None:
        self._failed_key = self._loading_key
        self.session.update(loading=str(err))

    def _on_engine_chosen(self, _outcome: str = "") -> None:
        """Load again when another model or device is chosen after one that could not be loaded."""
        if self._failed_key not in (None, self.segment.engine_key) and not self._loader.busy:
            self._failed_key = None
            self._warm_up()

    def run_when_ready(self) -> None:
        """Press Run, now or as soon as the network is loaded."""
        self.tabs.setCurrentIndex(0)
        self._run_pending = self._loader.busy
        if not self._run_pending:
            self.segment.run()

    # -- keeping things right -----------------------------------------------------------------------

    def _on_started(self, title: str) -> None:
        self.session.update(busy=title)

    def _on_finished(self, _outcome: str) -> None:
        self.session.update(busy="")

    def _on_session(self, new: Any, old: Any) -> None:
        state = self.session.state
        if state.engine is not None and not state.loading:
            self.status.setText(f"Ready on {state.engine.device}")
        else:
            self.status.setText(state.loading or "No model is loaded.")

    def _on_tab(self, index: int) -> None:
        name = self.tabs.tabText(index)
        self.attention.curtain.draw(name == "Attention")
        self.attention.listen(self.isVisible() and name == "Attention")
        self.finetune.listen(self.isVisible() and name == "Fine-tune")
        self.correct.listen(self.isVisible() and name == "Correct")
        if name == "Models":
            self.models.fill()
        elif name == "Segment" and self._warmed:
            self.segment.fill_models()  # one may have been trained meanwhile

    # -- going away ---------------------------------------------------------------------------------

    def eventFilter(self, watched: Any, event: Any) -> bool:
        """Stop the running job when the window closes; ask about a training that goes on."""
        if event.type() == QEvent.Type.Close and watched is self.window():
            if not self.finetune.may_close():
                event.ignore()
                return True
            self._run_pending = False
            self.jobs.cancel()
            self._loader.cancel()
        return False

    def event(self, event: Any) -> bool:
        """Let go when napari takes the widget out of its dock (the dock's close button)."""
        if event.type() == QEvent.Type.ParentChange and self.parent() is None and self._warmed:
            self.release()
        return bool(super().event(event))

    def release(self) -> None:
        """Stop jobs and stop listening to viewer and session; the layers stay."""
        if self._released:
            return
        self._released = True
        self.jobs.cancel()
        self._loader.cancel()
        self.segment.release()
        self.attention.release()
        self.finetune.release()
        self.correct.release()
        self.session.changed.disconnect(self._on_session)
        self._watch.close()


_WAITING = "Loading PyTorch…"
