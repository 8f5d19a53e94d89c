"""The section of the Attention tab that looks at the same place with a second model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QSignalBlocker, Qt, Signal

from napari_attnseg._napari import asking, cards
from napari_attnseg._napari.question import BESIDE, DIFFERENCE, OTHER, THIS
from napari_attnseg._qt.attention_widgets import Section
from napari_attnseg._qt.params_form import add_row
from napari_attnseg._qt.widgets import combo, form, note, set_note

if TYPE_CHECKING:
    from napari_attnseg._napari.explorer import Explorer
    from napari_attnseg._qt.attention_jobs import Asker
    from napari_attnseg.core.attention import AttentionTape


class ModelsSection(Section):
    """The same query under a second model; ``changed`` says that another view is asked for."""

    changed = Signal()

    def __init__(self, explorer: Explorer, asker: Asker) -> None:
        super().__init__("Before and after: a second model", "attnseg_compare_section")
        self._explorer, self._asker = explorer, asker
        layout = form()
        self.model_box = combo("attnseg_second_model", "A second model to look at the same place with.")
        self.compare_box = combo("attnseg_compare", "Both are drawn to the same scale.")
        for text, key in (
            ("the run's model", THIS),
            ("second model", OTHER),
            ("second minus first", DIFFERENCE),
            ("side by side", BESIDE),
        ):
            self.compare_box.addItem(text, key)
        add_row(layout, "Second model", self.model_box)
        add_row(layout, "Show", self.compare_box)
        self.column.addLayout(layout)
        self.words = note(name="attnseg_compare_words")
        self.column.addWidget(self.words)
        self.model_box.currentIndexChanged.connect(self._on_model)
        self.compare_box.currentIndexChanged.connect(lambda _index: self._on_compare())
        self.fill(None)

    @property
    def model(self) -> str | None:
        """Id of the second model, None when there is none."""
        return self.model_box.currentData()  # type: ignore[no-any-return]

    @property
    def compare(self) -> str:
        """How the two are shown."""
        return str(self.compare_box.currentData()) if self.model else THIS

    def fill(self, first: str | None) -> None:
        """List the models but the one of the run."""
        before = self.model
        cards_ = [card for card in cards.available() if card.id != first] if first is not None else []
        with QSignalBlocker(self.model_box):
            self.model_box.clear()
            self.model_box.addItem("none", None)
            for card in cards_:
                self.model_box.addItem(cards.title(card), card.id)
                row = self.model_box.count() - 1
                self.model_box.setItemData(row, cards.html(card), Qt.ItemDataRole.ToolTipRole)
            self.model_box.setCurrentIndex(max(self.model_box.findData(before), 0))
        self.model_box.setEnabled(bool(cards_))
        self.compare_box.setEnabled(self.model is not None)
        self.compare_box.setToolTip(
            "Both are drawn to the same scale." if self.model else "Choose a second model first."
        )
        if first is not None and not cards_:
            set_note(self.words, "There is no second model yet: fine-tune one, or import one.")
        elif self.model is None:
            set_note(self.words, "")

    def _on_model(self, _index: int) -> None:
        on = self.model is not None
        self.compare_box.setEnabled(on)
        self.compare_box.setToolTip(
            "Both are drawn to the same scale." if on else "Choose a second model first."
        )
        with QSignalBlocker(self.compare_box):
            now = str(self.compare_box.currentData())
            self.compare_box.setCurrentIndex(
                (1 if now == THIS else self.compare_box.currentIndex()) if on else 0
            )
        self._record(self.model)

    def _on_compare(self) -> None:
        self._explorer.change(compare=self.compare)
        self.changed.emit()

    def _record(self, model: str | None) -> None:
        """Record the tape of the second model, or forget it."""
        run = self._explorer.run
        self._explorer.change(compare=self.compare)
        set_note(self.words, "")
        if run is None or run.tape is None:
            return
        tape = run.tape
        self._explorer.keep_other(tape, None)
        if model is None:
            self._asker.forget()
            self.changed.emit()
            return
        self._asker.start(
            lambda: asking.record_second(run, run.plane, tape, model),
            f"Recording attention of '{model}'",
            lambda other: self._on_other(tape, model, other),
        )

    def _on_other(self, tape: AttentionTape, model: str, other: AttentionTape) -> None:
        if self.model == model:
            self._explorer.keep_other(tape, other)
            self.changed.emit()

    def say(self) -> None:
        """Say what the two rows have in common."""
        if self._explorer.other is None or self.compare == THIS:
            return
        row = self._explorer.row()
        pair = None if row is None else self._explorer.pair(row)
        if pair is None:
            set_note(self.words, "Ask about a pixel or an object to compare the two models.")
        else:
            set_note(self.words, f"The two rows share {pair.overlap:.0%} of their attention.")
