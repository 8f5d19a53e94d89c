"""The Models tab: which models there are, and their cards."""

from __future__ import annotations

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_attnseg._napari import cards
from napari_attnseg._qt.widgets import MARGIN, combo, note


class ModelsPanel(QWidget):  # type: ignore[misc]  # qtpy is untyped
    """A list of models and the card of the chosen one."""

    def __init__(self) -> None:
        super().__init__()
        column = QVBoxLayout(self)
        column.setContentsMargins(MARGIN, MARGIN, MARGIN, MARGIN)
        column.setSpacing(6)
        self.box = combo("attnseg_models", "Models of this installation and of your models folder.")
        self.page = note(name="attnseg_card")
        self.page.setTextFormat(Qt.TextFormat.RichText)
        self.page.setAlignment(Qt.AlignmentFlag.AlignTop)
        column.addWidget(self.box)
        column.addWidget(self.page)
        column.addStretch(1)
        self.box.currentIndexChanged.connect(self._on_chosen)
        self.fill()

    def fill(self) -> None:
        """List the models anew."""
        before = self.box.currentText()
        self.box.clear()
        for card in cards.available():
            self.box.addItem(card.name, card)
        self.box.setCurrentIndex(max(self.box.findText(before), 0) if self.box.count() else -1)
        if self.box.count() == 0:
            self.page.setText("There is no model yet.")

    def _on_chosen(self, _index: int) -> None:
        card = self.box.currentData()
        if card is not None:
            self.page.setText(cards.html(card))
