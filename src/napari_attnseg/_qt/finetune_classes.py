"""The classes that are learnt: their numbers, colours and names, which can be changed in place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QSignalBlocker, Qt, Signal
from qtpy.QtGui import QColor, QIcon, QPixmap
from qtpy.QtWidgets import QHeaderView, QTableWidget, QTableWidgetItem, QVBoxLayout, QWidget

from napari_attnseg._napari.classes import names_of, set_name
from napari_attnseg._qt.widgets import note, set_note
from napari_attnseg.core.classes import BACKGROUND, default_name, look_alike

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from napari_attnseg._napari.corrections import Found

_HELP = (
    "The classes painted in the ticked layers. Click a name to change it; one called 'background' teaches "
    "background. Names tell classes apart when a model learns on: the same name is the same class."
)
_SIDE, _MOST_ROWS = 12, 7


class ClassesBox(QWidget):  # type: ignore[misc]  # qtpy is untyped
    """A table of number, name and known pixels; ``changed`` says that a name was changed."""

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._found: list[Found] = []
        self._names: dict[int, str] = {}
        self._parent: tuple[str, ...] = ()
        self.table = QTableWidget(0, 3)
        self.table.setObjectName("attnseg_classes")
        self.table.setToolTip(_HELP)
        self.table.setHorizontalHeaderLabels(["Number", "Name", "Known pixels"])
        self.table.verticalHeader().hide()
        self.table.setSelectionMode(QTableWidget.SelectionMode.NoSelection)
        header = self.table.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header.setSectionResizeMode(1, QHeaderView.ResizeMode.Stretch)
        self.hint_line = note(name="attnseg_classes_hint")
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        column.addWidget(self.table)
        column.addWidget(self.hint_line)
        self.table.itemChanged.connect(self._on_item)

    def names(self) -> tuple[tuple[int, str], ...]:
        """Return number and name of every class in the table."""
        return tuple(sorted(self._names.items()))

    def fill(self, found: Sequence[Found], parent: Sequence[str]) -> None:
        """Show the classes of the ticked planes.

        Parameters
        ----------
        parent : sequence of str
            The classes that the model to start from tells apart: names of numbers that nobody named.
        """
        self._found, self._parent = list(found), tuple(parent)
        pixels: dict[int, int] = {}
        names: dict[int, str] = {}
        for one in self._found:
            for number, count in one.numbers:
                pixels[number] = pixels.get(number, 0) + count
            names = {**names_of(one.pair.labels), **names}
        listed = dict(enumerate(parent, start=1))
        numbers = [n for n in sorted(pixels) if n]
        self._names = {n: names.get(n) or listed.get(n) or default_name(n) for n in numbers}
        with QSignalBlocker(self.table):
            self.table.setRowCount(len(pixels))
            for row, number in enumerate(sorted(pixels)):
                self._fill_row(row, number, pixels[number])
        height = self.table.horizontalHeader().height() + 4
        height += sum(self.table.rowHeight(row) for row in range(min(len(pixels), _MOST_ROWS)))
        self.table.setFixedHeight(height)
        self.table.setVisible(bool(pixels))
        known = f"The model to start from tells apart: {', '.join(parent)}." if parent else ""
        set_note(self.hint_line, known)

    def _fill_row(self, row: int, number: int, pixels: int) -> None:
        first = QTableWidgetItem(str(number))
        first.setFlags(Qt.ItemFlag.ItemIsEnabled)
        name = QTableWidgetItem(self._names.get(number, BACKGROUND))
        name.setData(Qt.ItemDataRole.UserRole, number)
        if number == 0:
            name.setFlags(Qt.ItemFlag.ItemIsEnabled)
        else:
            first.setIcon(_swatch(self._colour(number)))
        last = QTableWidgetItem(f"{pixels:,}")
        last.setFlags(Qt.ItemFlag.ItemIsEnabled)
        last.setTextAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        for column, item in enumerate((first, name, last)):
            self.table.setItem(row, column, item)

    def _colour(self, number: int) -> Any:
        for one in self._found:
            if any(n == number for n, _ in one.numbers):
                return one.pair.labels.get_color(number)
        return None

    def _on_item(self, item: QTableWidgetItem) -> None:
        number = item.data(Qt.ItemDataRole.UserRole)
        if number is None:
            return
        name = item.text().strip() or default_name(number)
        with QSignalBlocker(self.table):
            item.setText(name)  # an emptied cell shows what the class is called now
        layers = {one.pair.labels for one in self._found if any(n == number for n, _ in one.numbers)}
        set_name(layers, number, name)
        self._names[number] = name
        self.changed.emit()

    def reason(self, earlier: Collection[str] = ()) -> str:
        """Return why nothing can be learnt from the ticked planes; "" where it can.

        Parameters
        ----------
        earlier : collection of str
            The classes of ticked samples of earlier runs; whether these know background is not asked.
        """
        trouble = next((one for one in self._found if one.trouble), None)
        if trouble is not None:
            return (
                f"'{trouble.pair.labels.name}' holds {trouble.trouble}. Untick it, or learn objects from it."
            )
        alike = look_alike([*self._parent, *earlier, *self._names.values()])
        if alike is not None:
            return f"'{alike[0]}' and '{alike[1]}' differ only in upper and lower case: give both one name."
        if earlier:
            return ""
        kinds = {name.lower() for name in self._names.values()}
        zero = any(number == 0 for one in self._found for number, _ in one.numbers)
        if not kinds - {BACKGROUND}:
            return "No class is painted yet: paint 1, 2, 3… in a Labels layer, one number for each class."
        if len(kinds | ({BACKGROUND} if zero else set())) < 2:
            return (
                "Only one class is known. Paint a second one, or say where background is known: "
                "in regions, or everywhere."
            )
        return ""


def _swatch(colour: Any) -> QIcon:
    pixmap = QPixmap(_SIDE, _SIDE)
    rgb = [int(255 * float(v)) for v in colour[:3]] if colour is not None else [128, 128, 128]
    pixmap.fill(QColor(*rgb))
    return QIcon(pixmap)
