"""The Segment tab: what to segment, how, Run, and the result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psygnal import Signal
from qtpy.QtCore import QSignalBlocker, Qt
from qtpy.QtWidgets import QHBoxLayout, QPushButton, QVBoxLayout, QWidget

from napari_attnseg._napari import cards, settings
from napari_attnseg._napari.classes import show_as_painted
from napari_attnseg._napari.layers import show_result, summary
from napari_attnseg._napari.orders import SCOPES, Scope, chosen_images, order_for, run_orders, why_unknown
from napari_attnseg._napari.session import Run
from napari_attnseg._qt.image_rows import DiameterRow, ImageRows
from napari_attnseg._qt.job_bar import JobBar
from napari_attnseg._qt.model_moves import moves
from napari_attnseg._qt.params_form import ParamsForm, add_row, show_row
from napari_attnseg._qt.readout_box import ReadoutBox
from napari_attnseg._qt.widgets import MARGIN, combo, form, note, set_note
from napari_attnseg.core.classes import class_names
from napari_attnseg.errors import AttnSegError
from napari_attnseg.jobs.segment import needs_engine
from napari_attnseg.params import SegmentParams

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_attnseg._napari.orders import Order, Outcome
    from napari_attnseg._napari.session import Session
    from napari_attnseg._napari.watch import LayerWatch
    from napari_attnseg._qt.worker import Jobs
    from napari_attnseg.engine import Engine

_SCOPE_HELP = (
    "visible field: what the canvas shows of this plane; current plane: all of it; whole layer: every "
    "plane; selected layers: every plane of every image layer selected in the layer list."
)


class SegmentPanel(QWidget):  # type: ignore[misc]  # qtpy is untyped
    """Builds orders from its forms and shows what comes back.

    ``segmented`` carries the ``Run`` of the chosen image after a run; ``engine_chosen`` says that another
    model or device was chosen.
    """

    segmented = Signal(object)
    engine_chosen = Signal()

    def __init__(self, viewer: ViewerModel, session: Session, jobs: Jobs, watch: LayerWatch) -> None:
        super().__init__()
        self._viewer, self._session, self._jobs, self._watch = viewer, session, jobs, watch
        column = QVBoxLayout(self)
        column.setContentsMargins(MARGIN, MARGIN, MARGIN, MARGIN)
        column.setSpacing(6)
        layout = self._layout = form()
        column.addLayout(layout)
        self.rows = ImageRows(layout, session, watch)
        self.method = ParamsForm(layout, ["method"])
        self.model_box = combo("attnseg_model", str(SegmentParams.model_fields["model"].description))
        add_row(layout, "Model", self.model_box)
        self.model_line = note(name="attnseg_model_said")
        layout.addRow(self.model_line)
        set_note(self.model_line, "")
        self.classic = ParamsForm(layout, ["task", "clusters", "kmeans_on", "segments", "compactness"])
        self.diameter = DiameterRow(layout, viewer, self.rows)
        self.scope_box = combo("attnseg_scope", _SCOPE_HELP)
        self.scope_box.addItems(SCOPES)
        self.scope_box.setCurrentText("current plane")
        add_row(layout, "Segment", self.scope_box)
        self.mirror = ParamsForm(layout, ["mirror"])
        self.device = ParamsForm(layout, ["device"])
        column.addLayout(self._run_row())
        self.job_bar = JobBar(jobs, "segment")
        column.addWidget(self.job_bar)
        self.reason_line = note(name="attnseg_reason")
        self.result_line = note(name="attnseg_result")
        self.error_line = note(name="attnseg_error")
        self.error_line.setStyleSheet("QLabel { color: #d9483b; }")
        for line in (self.reason_line, self.error_line, self.result_line):
            column.addWidget(line)
            set_note(line, "")
        self.readout = ReadoutBox(viewer, session, jobs)
        column.addWidget(self.readout)
        column.addStretch(1)
        self._connect()
        self.fill_models()
        self._set_device(settings.read().device)
        self.refresh()

    def _run_row(self) -> QHBoxLayout:
        self.run_button = QPushButton("Run")
        self.run_button.setObjectName("attnseg_run")
        self.run_button.setMinimumHeight(30)
        self.run_button.setStyleSheet("QPushButton { font-weight: bold; }")
        self.defaults_button = QPushButton("Restore defaults")
        self.defaults_button.setObjectName("attnseg_defaults")
        self.defaults_button.setToolTip("Set every field of this tab to its default.")
        row = QHBoxLayout()
        row.setContentsMargins(0, 6, 0, 0)
        row.addWidget(self.run_button, 1)
        row.addWidget(self.defaults_button)
        return row

    def _connect(self) -> None:
        self.rows.changed.connect(self.refresh)
        self.method.changed.connect(self.refresh)
        self.classic.changed.connect(self.refresh)
        self.device.changed.connect(self.engine_chosen.emit)
        self.model_box.currentIndexChanged.connect(self._on_chosen)
        moves.moved.connect(self._on_moved)
        self.scope_box.currentIndexChanged.connect(self.refresh)
        self.run_button.clicked.connect(self.run)
        self.defaults_button.clicked.connect(self.restore_defaults)
        self._session.changed.connect(self._on_session)
        self._jobs.failed.connect(self._on_failed)
        self._jobs.finished.connect(self._on_finished)
        self._watch.selected.connect(self.refresh)
        self._watch.moved.connect(self.refresh)
        self._watch.removed.connect(self._on_removed)

    def release(self) -> None:
        """Let go of everything that outlives the dock."""
        self._session.changed.disconnect(self._on_session)
        moves.moved.disconnect(self._on_moved)
        self.readout.release()
        self.diameter.hide_circle()

    # -- what the forms say -------------------------------------------------------------------------

    @property
    def scope(self) -> Scope:
        """The chosen scope."""
        return self.scope_box.currentText()  # type: ignore[no-any-return]

    @property
    def engine_key(self) -> tuple[str, str]:
        """Model and device asked for."""
        return str(self.model_box.currentData() or "base"), str(self.device.values()["device"])

    def params(self) -> SegmentParams:
        """Return the parameters of the next run, without the diameter (which depends on the layer)."""
        model, device = self.engine_key
        values = {
            **self.method.values(),
            **self.classic.values(),
            **self.mirror.values(),
            **self.readout.form.values(),
            "model": model,
            "device": device,
            "channel": self.rows.channel,
            "tile": settings.read().tile,
        }
        if not self._tells_classes:
            values["task"] = "instances"
        return SegmentParams(**values)

    def orders(self) -> list[Order]:
        """Return what Run would do now; ``InputError`` for a layer that cannot be segmented."""
        params, made = self.params(), []
        for image in chosen_images(self._viewer, self._session.state.image, self.scope):
            axes = self.rows.axes_of(image)
            order = order_for(self._viewer, image, axes, params, self.scope)
            diameter = self.diameter.pixels(order.source)
            channel = params.channel if (params.channel or 0) < order.source.channels else None
            own = params.model_copy(update={"diameter": diameter, "channel": channel})
            made.append(order_for(self._viewer, image, axes, own, self.scope))
        return made

    def reason(self) -> str:
        """Return in one sentence why Run is disabled; "" when it is not."""
        state = self._session.state
        if state.busy:
            return f"{state.busy}…"
        if state.image is None and self.scope != "selected layers":
            return "Open an image first: drop a file on the window, or take File > Open Sample."
        if self.scope == "selected layers":
            if not chosen_images(self._viewer, state.image, self.scope):
                return "Select one or more image layers in the layer list."
        elif self.rows.error:
            return self.rows.error
        elif why := why_unknown(self._viewer, self.rows.source(), self.scope):
            return why
        if needs_engine(self.params()):
            if self.model_box.count() == 0:
                return "There is no model: choose a classic method, or put one in the models folder."
            if state.loading:
                return state.loading
        return ""

    # -- keeping the panel right --------------------------------------------------------------------

    def fill_models(self, choose: str | None = None) -> None:
        """List the models there are; the card is shown on hover.

        ``choose`` is the name of the one to choose, else the one before.  Where that is gone "base" is
        chosen, or the first one, and a line says so.
        """
        before = choose or self.model_box.currentData()
        with QSignalBlocker(self.model_box):
            self.model_box.clear()
            for card in cards.available():
                self.model_box.addItem(cards.title(card), card.id)
                last = self.model_box.count() - 1
                self.model_box.setItemData(last, cards.html(card), Qt.ItemDataRole.ToolTipRole)
                self.model_box.setItemData(last, card, Qt.ItemDataRole.UserRole + 1)
            found = before is not None and self.model_box.findData(before) >= 0
            index = self.model_box.findData(before if found else "base")
            self.model_box.setCurrentIndex(max(index, 0) if self.model_box.count() else -1)
        if before is not None and not found and self.model_box.count():
            chosen = self.model_box.currentData()
            set_note(self.model_line, f"There is no model '{before}' any more: '{chosen}' is chosen.")
        self._on_model()

    def choose_model(self, name: str) -> None:
        """List the models anew and choose one of them."""
        self.fill_models(name)
        if self.model_box.currentData() == name:
            set_note(self.model_line, "")
            if self._tells_classes:
                self.classic.set_values({"task": "classes"})

    def _on_moved(self, old: str, new: str) -> None:
        """Follow a model that was renamed; what is loaded under the old name is not it any more."""
        self.fill_models(new if self.model_box.currentData() == old else None)
        key = self._session.state.engine_key
        if key is not None and key[0] == old:
            self._session.update(engine_key=None)

    @property
    def _tells_classes(self) -> bool:
        """Whether the chosen model tells classes apart."""
        card = self.model_box.currentData(Qt.ItemDataRole.UserRole + 1)
        return card is not None and bool(class_names(card))

    def refresh(self, *_: Any) -> None:
        """Show the rows that count for the method, and whether Run can be pressed."""
        values = {**self.method.values(), **self.classic.values()}
        method, network = values["method"], needs_engine(self.params())
        show_row(self._layout, self.model_box, network)
        self.mirror.show_row("mirror", method == "attention")
        self.device.show_row("device", network)
        self.diameter.show(method == "attention")
        self.classic.show_row("task", method == "attention" and self._tells_classes)
        for name in ("clusters", "kmeans_on"):
            self.classic.show_row(name, method == "kmeans")
        for name in ("segments", "compactness"):
            self.classic.show_row(name, method == "slic")
        self.readout.show_for(method)
        why = self.reason()
        self.run_button.setEnabled(not why)
        self.run_button.setToolTip(why or "Segment now. The result is a Labels layer.")
        set_note(self.reason_line, "" if self._session.state.busy else why)
        self.defaults_button.setEnabled(not self._session.state.busy)

    def restore_defaults(self) -> None:
        """Set every field to its default."""
        for part in (self.method, self.classic, self.mirror, self.device, self.readout.form):
            part.restore_defaults()
        self._set_device(settings.read().device)
        self.diameter.restore_defaults()
        self.rows.channel_box.setCurrentIndex(0)
        self.scope_box.setCurrentText("current plane")
        index = self.model_box.findData("base")
        self.model_box.setCurrentIndex(max(index, 0) if self.model_box.count() else -1)
        self.refresh()

    def _set_device(self, device: str) -> None:
        self.device.set_values({"device": device})

    def _on_chosen(self, *_: Any) -> None:
        set_note(self.model_line, "")
        self._on_model()

    def _on_model(self) -> None:
        card = self.model_box.currentData(Qt.ItemDataRole.UserRole + 1)
        if card is not None:
            self.model_box.setToolTip(cards.html(card))
        self.refresh()
        self.engine_chosen.emit()

    def _on_session(self, new: Any, old: Any) -> None:
        if new.image is not old.image:
            set_note(self.error_line, "")
        shown, before = (state.run.shown if state.run is not None else None for state in (new, old))
        if new.image is not old.image or (shown is not before and not self._several):
            set_note(self.result_line, "" if shown is None else summary(shown.layer))
        self.refresh()

    def _on_removed(self, layer: Any) -> None:
        """Forget the run of an image that is gone, and stop a job that works on it."""
        run = self._session.state.run_of(layer)
        if self._session.state.busy and layer in self._running:
            self._jobs.cancel()
        if run is not None or layer is self._session.state.image:
            self._session.forget(layer)
        self.readout.refresh()

    def _on_failed(self, err: AttnSegError) -> None:
        set_note(self.error_line, str(err))

    def _on_finished(self, _outcome: str) -> None:
        self._running = ()

    # -- running ------------------------------------------------------------------------------------

    _running: tuple[Any, ...] = ()
    _several = False  # results of several layers are coming in

    def run(self) -> None:
        """Start a run on what is chosen; does nothing where :meth:`reason` says why not."""
        if self.reason():
            self.refresh()
            return
        set_note(self.error_line, "")
        set_note(self.model_line, "")
        self.diameter.hide_circle()
        try:
            orders = self.orders()
        except AttnSegError as err:
            self._on_failed(err)
            return
        state, key = self._session.state, self.engine_key
        engine = state.engine if state.engine_key == key else None
        self._running = tuple(order.image for order in orders)
        name = orders[0].source.name if len(orders) == 1 else f"{len(orders)} layers"
        self._jobs.start_job(
            run_orders(engine, orders), f"Segmenting {name}", lambda result: self._on_result(key, *result)
        )

    def _on_result(self, key: tuple[str, str], engine: Engine | None, outcomes: list[Outcome]) -> None:
        if engine is not None and engine is not self._session.state.engine:
            self.keep_engine(key, engine)
        selection = set(self._viewer.layers.selection)
        self._several = len(outcomes) > 1
        for outcome in outcomes:
            self._show(outcome)
        first = self._session.state.run_of(outcomes[0].order.image)
        if self._several:
            self._viewer.layers.selection = selection & set(self._viewer.layers)  # for another run
            self._several = False
            set_note(self.result_line, self._summary(outcomes))
        if first is not None:
            self.segmented.emit(first)

    def keep_engine(self, key: tuple[str, str], engine: Engine) -> None:
        """Keep a loaded engine for the next runs, and give back the one before."""
        old = self._session.state.engine
        self._session.update(engine=engine, engine_key=key, loading="")
        if old is not None and old is not engine:
            old.close()

    def _show(self, outcome: Outcome) -> None:
        order = outcome.order
        if order.image not in self._viewer.layers:
            return  # removed in the last moment
        before = self._session.state.run_of(order.image)
        shown, replaced = show_result(
            self._viewer.layers,
            order.image,
            order.source,
            outcome.segmentation,
            before.shown if before is not None else None,
            {
                "scope": order.scope,
                "planes": None if order.planes is None else [list(key.index) for key in order.planes],
                "field": None if order.field is None else [[s.start, s.stop] for s in order.field],
            },
        )
        show_as_painted(shown.layer, self._viewer.layers)
        run = Run(
            image=order.image,
            source=order.source,
            params=order.params,
            segmentation=outcome.segmentation,
            encoded=outcome.encoded,
            shown=shown,
            replaced=replaced,
            plane=order.plane,
        )
        self._session.put_run(run, settings.read().cache_bytes)

    def _summary(self, outcomes: list[Outcome]) -> str:
        lines = []
        for order in (outcome.order for outcome in outcomes):
            run, axes = self._session.state.run_of(order.image), self.rows.axes_of(order.image)
            if run is not None:
                reading = f" (axes {axes})" if axes is not None else ""
                lines.append(f"{order.source.name}{reading}: {summary(run.shown.layer)}")
        return "\n".join(lines)
