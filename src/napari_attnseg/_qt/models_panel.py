"""The Models tab: which models there are, their cards, and what can be done with them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from psygnal import Signal
from qtpy.QtCore import QSignalBlocker, Qt
from qtpy.QtGui import QGuiApplication
from qtpy.QtWidgets import (
    QFileDialog,
    QGridLayout,
    QInputDialog,
    QMessageBox,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_attnseg._napari import cards, tuning
from napari_attnseg._qt.model_moves import moves
from napari_attnseg._qt.params_form import add_row
from napari_attnseg._qt.widgets import MARGIN, combo, form, note, set_note
from napari_attnseg.errors import AttnSegError
from napari_attnseg.store import exchange, models, run_names

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_attnseg.records import ModelCard

_BUTTONS = {
    "use": ("Use", "Choose this model in the Segment tab."),
    "rename": ("Rename…", "Give this model another name."),
    "delete": ("Delete…", "Delete this model; you are asked first."),
    "export": ("Export…", "Save this model as one zip file, to send or to keep."),
    "import": ("Import…", "Take in a model that was exported: a zip file, or a folder's card.json."),
    "copy": ("Copy command", "Copy the command that segments files with this model."),
}


class ModelsPanel(QWidget):  # type: ignore[misc]  # qtpy is untyped
    """A list of models, the card of the chosen one or two side by side, and buttons.

    ``model_chosen`` carries the name of the model to use.
    """

    model_chosen = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        column = QVBoxLayout(self)
        column.setContentsMargins(MARGIN, MARGIN, MARGIN, MARGIN)
        column.setSpacing(6)
        layout = form()
        column.addLayout(layout)
        self.box = combo("attnseg_models", "Models of this installation and of your models folder.")
        self.other_box = combo("attnseg_models_other", "Show the card of a second model beside the first.")
        add_row(layout, "Model", self.box)
        add_row(layout, "Compare with", self.other_box)
        column.addLayout(self._grid())
        self.line = note(name="attnseg_models_line")
        self.page = note(name="attnseg_card")
        self.page.setTextFormat(Qt.TextFormat.RichText)
        self.page.setAlignment(Qt.AlignmentFlag.AlignTop)
        column.addWidget(self.line)
        column.addWidget(self.page)
        column.addStretch(1)
        self.box.currentIndexChanged.connect(self._on_chosen)
        self.other_box.currentIndexChanged.connect(self._show_page)
        set_note(self.line, "")
        self.fill()

    def _grid(self) -> QGridLayout:
        grid = QGridLayout()
        grid.setSpacing(4)
        self.buttons: dict[str, QPushButton] = {}
        for number, (name, (text, tip)) in enumerate(_BUTTONS.items()):
            button = QPushButton(text)
            button.setObjectName(f"attnseg_model_{name}")
            button.setToolTip(tip)
            button.clicked.connect(getattr(self, f"_{name}"))
            grid.addWidget(button, *divmod(number, 3))
            self.buttons[name] = button
        return grid

    @property
    def card(self) -> ModelCard | None:
        """The card of the chosen model."""
        return self.box.currentData()  # type: ignore[no-any-return]

    def fill(self, choose: str | None = None) -> None:
        """List the models anew; ``choose`` is the name of the one to show, else the one before."""
        before = choose if choose is not None else getattr(self.card, "id", "")
        compared = getattr(self.other_box.currentData(), "id", "")
        found = cards.available()
        with QSignalBlocker(self.box), QSignalBlocker(self.other_box):
            self.box.clear()
            self.other_box.clear()
            self.other_box.addItem("no other", None)
            for card in found:
                for box in (self.box, self.other_box):
                    box.addItem(cards.title(card), card)
            ids = [card.id for card in found]
            self.box.setCurrentIndex(ids.index(before) if before in ids else (0 if found else -1))
            self.other_box.setCurrentIndex(ids.index(compared) + 1 if compared in ids else 0)
        self._on_chosen()

    def _on_chosen(self, *_: Any) -> None:
        """Show the card, and which buttons can be pressed; those that cannot say why."""
        card = self.card
        own = card is not None and not _shipped(card)
        for name, button in self.buttons.items():
            why = ""
            if card is None and name != "import":
                why = "There is no model yet."
            elif not own and name in ("rename", "delete"):
                why = "This model came with the installation: it stays as it is."
            button.setEnabled(not why)
            button.setToolTip(why or _BUTTONS[name][1])
        self._show_page()

    def _show_page(self, *_: Any) -> None:
        card, other = self.card, self.other_box.currentData()
        if card is None:
            self.page.setText("There is no model yet: train one, or import one.")
        else:
            self.page.setText(cards.page(card, other if other is not None and other.id != card.id else None))

    # -- the buttons --------------------------------------------------------------------------------

    def _do(self, act: Callable[[], tuple[str, str | None]]) -> None:
        """Do something with the models folder; say what was done, or why not.

        ``act`` returns the words and the name of the model to show then, None for the one before.
        """
        colour, choose = "", None
        try:
            words, choose = act()
        except AttnSegError as err:
            words, colour = str(err), "QLabel { color: #d9483b; }"
        self.line.setStyleSheet(colour)
        set_note(self.line, words)
        self.fill(choose)

    def _use(self) -> None:
        if self.card is not None:
            self.model_chosen.emit(self.card.id)
            set_note(self.line, f"'{self.card.id}' is chosen in the Segment tab.")

    def _copy(self) -> None:
        if self.card is not None:
            QGuiApplication.clipboard().setText(cards.command(self.card))
            set_note(self.line, f"Copied: {cards.command(self.card)}")

    def _rename(self) -> None:
        card = self.card
        if card is None:
            return
        text, done = QInputDialog.getText(self, "Rename the model", "New name:", text=card.id)
        new = text.strip()
        if done and new != card.id:

            def rename() -> tuple[str, str | None]:
                run_names.rename_model(card.id, new)
                moves.moved.emit(card.id, new)
                return f"'{card.id}' is '{new}' now.", new

            self._do(rename)

    def _delete(self) -> None:
        card = self.card
        if card is None:
            return
        children = [other.id for other in cards.available() if other.parent == card.id]
        more = f"\n\nTuned from it, and kept: {', '.join(children)}." if children else ""
        answer = QMessageBox.question(
            self, "Delete the model", f"Delete '{card.id}' for good? It cannot be brought back.{more}"
        )
        if answer == QMessageBox.StandardButton.Yes:

            def delete() -> tuple[str, str | None]:
                models.remove(card.id)
                moves.moved.emit(card.id, "")
                return f"'{card.id}' was deleted.", None

            self._do(delete)

    def _export(self) -> None:
        card = self.card
        if card is None:
            return
        path, _ = QFileDialog.getSaveFileName(
            self, "Export the model", f"{card.id}.zip", "Model (*.zip)",
            options=QFileDialog.Option.DontConfirmOverwrite,
        )  # fmt: skip
        if path:
            out = Path(path) if path.lower().endswith(".zip") else Path(f"{path}.zip")
            self._do(lambda: (f"Saved as {exchange.export_model(card.id, out)}.", None))

    def _import(self) -> None:
        path, _ = QFileDialog.getOpenFileName(
            self, "Import a model", "", "Model (*.zip card.json);;All files (*)"
        )
        if path:
            self._do(lambda: self._take(Path(path)))

    def _take(self, path: Path) -> tuple[str, str | None]:
        """Take a model in; ask for another name where its own is taken."""
        name = exchange.name_in(path)
        if models.exists(name):
            words = f"A model named '{name}' exists already. Name of the new one:"
            text, done = QInputDialog.getText(self, "Import the model", words, text=tuning.free_name(name))
            if not done:
                return "", None
            name = text.strip()
        name = exchange.import_model(path, name).id
        return f"'{name}' was imported.", name


def _shipped(card: ModelCard) -> bool:
    try:
        return models.find(card.id).shipped
    except AttnSegError:
        return False
