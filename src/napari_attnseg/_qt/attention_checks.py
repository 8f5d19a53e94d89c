"""The section of the Attention tab that checks whether what is shown matters."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import QUrl
from qtpy.QtGui import QDesktopServices
from qtpy.QtWidgets import QFileDialog, QHBoxLayout

from napari_attnseg._napari import asking
from napari_attnseg._napari.question import PIXEL, of_pixel
from napari_attnseg._qt.attention_sections import button
from napari_attnseg._qt.attention_widgets import CheckPlot, Section
from napari_attnseg._qt.widgets import combo, note, set_note

if TYPE_CHECKING:
    from napari_attnseg._napari.explorer import Explorer
    from napari_attnseg._napari.question import Question
    from napari_attnseg._napari.session import Session
    from napari_attnseg._qt.attention_jobs import Asker
    from napari_attnseg.core.faithfulness import QueryCheck
    from napari_attnseg.core.faithfulness_report import ModelReport


class CheckSection(Section):
    """Whether what is shown matters: for one query, and for a model on a set of images."""

    def __init__(self, session: Session, explorer: Explorer, asker: Asker) -> None:
        super().__init__("Can it be believed?", "attnseg_check_section")
        self._session, self._explorer, self._asker = session, explorer, asker
        self._checked: Question | None = None
        self._report: Path | None = None
        self.query_button = button("Check this query", "attnseg_check_query", _QUERY_HELP)
        self.column.addWidget(self.query_button)
        self.plot = CheckPlot()
        self.plot.setToolTip(_PLOT_HELP)
        self.column.addWidget(self.plot)
        self.plot.hide()
        self.query_words = note(name="attnseg_check_words")
        self.column.addWidget(self.query_words)
        set_note(self.query_words, "")
        self.model_button = button("Check this model", "attnseg_check_model", _MODEL_HELP)
        self.set_box = combo("attnseg_check_set", "On which images.")
        self.set_box.addItem("on the open images", False)
        self.set_box.addItem("on a folder…", True)
        row = QHBoxLayout()
        row.addWidget(self.model_button)
        row.addWidget(self.set_box, 1)
        self.column.addLayout(row)
        self.model_words = note(name="attnseg_check_model_words")
        self.column.addWidget(self.model_words)
        set_note(self.model_words, "")
        self.report_button = button("Open the report", "attnseg_report", "Open the saved report.")
        self.report_button.hide()
        self.column.addWidget(self.report_button)
        self.query_button.clicked.connect(self.check_query)
        self.model_button.clicked.connect(self._on_model)
        self.report_button.clicked.connect(self._open_report)

    def refresh(self) -> None:
        """Enable the buttons, or say why they are not; a result of another query goes."""
        busy = "Another job is running." if self._session.state.busy else ""
        for one, why, text in (
            (self.query_button, busy or self._why_no_query(), _QUERY_HELP),
            (self.model_button, busy or self._why_no_model(), _MODEL_HELP),
        ):
            one.setEnabled(not why)
            one.setToolTip(why or text)
        if self._checked is not None and self._checked != self._explorer.question:
            self._checked = None
            self.plot.hide()
            set_note(self.query_words, "")

    def _why_no_query(self) -> str:
        run, q = self._explorer.run, self._explorer.question
        if run is None or run.tape is None:
            return "Run the attention network first."
        if not of_pixel(q):
            return "Click a pixel first: the check is about one pixel."
        if q.what == PIXEL and q.block == "readout":
            return "The readout makes the labels exactly: there is nothing to check. Choose another block."
        return ""

    def _why_no_model(self) -> str:
        run = self._explorer.run
        if run is None or run.tape is None:
            return "Run the attention network first."
        return "" if run.tape.exposed else "This model does not expose its attention weights."

    def check_query(self) -> None:
        """Start the check of the asked pixel."""
        run, question, engine = self._explorer.run, self._explorer.question, self._session.state.engine
        if run is None or self._why_no_query():
            return
        self._asker.start(
            lambda: asking.check_pixel(engine, run, question),
            "Checking this query",
            lambda made: self._on_query(question, made),
        )

    def _on_query(self, question: Question, made: QueryCheck) -> None:
        if question != self._explorer.question:
            set_note(self.query_words, "Another place was asked about meanwhile: check again.")
            return
        self._checked = question
        self.plot.put(made.attended, made.nearest, made.random)
        self.plot.show()
        set_note(self.query_words, made.words)

    def _on_model(self) -> None:
        folder = None
        if self.set_box.currentData():
            chosen = QFileDialog.getExistingDirectory(self, "Images to check the model on")
            if not chosen:
                return
            folder = Path(chosen)
        self.check_model(folder)

    def check_model(self, folder: Path | None = None) -> None:
        """Start the check of the run's model on the images of a folder, or on the open ones that were run."""
        run, state = self._explorer.run, self._session.state
        if run is None or self._why_no_model():
            return
        runs = [one for one in state.runs if one.segmentation.card_id == run.segmentation.card_id]
        self._asker.start(
            lambda: asking.check_images(state.engine, run, runs, folder),
            "Checking this model",
            lambda made: self._on_report(*made),
        )

    def _on_report(self, report: ModelReport, path: Path) -> None:
        self._report = path
        set_note(self.model_words, f"{report.headline}\nSaved: {path.parent.name}/{path.name}")
        self.report_button.setToolTip(str(path))
        self.report_button.show()

    def _open_report(self) -> None:
        if self._report is not None:
            QDesktopServices.openUrl(QUrl.fromLocalFile(str(self._report)))


_QUERY_HELP = (
    "Hide the places this pixel attends to most, run again, and compare the change of its result with hiding "
    "as many random places."
)
_MODEL_HELP = (
    "Measure on several images whether attention names the places that matter, against gradient, distance "
    "and chance; saves a report."
)
_PLOT_HELP = (
    "How much the result at the query pixel changed. Grey dots: as many random places hidden, one dot per "
    "draw. Orange: the attended places. Blue: the nearest places."
)
