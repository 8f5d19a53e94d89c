"""Sections of the Attention tab: pinned queries, objects, display."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QSignalBlocker, Qt, Signal
from qtpy.QtGui import QColor, QIcon, QPixmap
from qtpy.QtWidgets import (
    QAbstractItemView,
    QCheckBox,
    QHBoxLayout,
    QListWidget,
    QListWidgetItem,
    QPushButton,
    QSpinBox,
)

from napari_attnseg._napari import overlay
from napari_attnseg._qt.attention_widgets import Section
from napari_attnseg._qt.params_form import add_row
from napari_attnseg._qt.widgets import form, note, set_note

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_attnseg._napari.explorer import Explorer
    from napari_attnseg.records import AttentionRow

_NUMBER = Qt.ItemDataRole.UserRole


def button(text: str, name: str, tooltip: str) -> QPushButton:
    """Return a push button."""
    made = QPushButton(text)
    made.setObjectName(name)
    made.setToolTip(tooltip)
    return made


class PinsSection(Section):
    """The pinned queries: which are shown, and how much they have in common."""

    def __init__(self, explorer: Explorer) -> None:
        super().__init__("Pinned queries", "attnseg_pins_section")
        self._explorer = explorer
        self.column.addWidget(
            note("Shift+click a place to pin it: it keeps a colour of its own while you ask elsewhere.")
        )
        self.list = QListWidget()
        self.list.setObjectName("attnseg_pins")
        self.list.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.column.addWidget(self.list)
        self.words = note(name="attnseg_pins_words")
        self.column.addWidget(self.words)
        self.remove_button = button("Remove", "attnseg_pins_remove", "Take the chosen pins away.")
        self.clear_button = button("Remove all", "attnseg_pins_clear", "Take all pins away.")
        row = QHBoxLayout()
        row.addWidget(self.remove_button)
        row.addWidget(self.clear_button)
        self.column.addLayout(row)
        self.list.itemChanged.connect(lambda _item: self.show_rows())
        self.list.itemSelectionChanged.connect(self._on_selection)
        self.remove_button.clicked.connect(lambda: self.remove(self._chosen()))
        self.clear_button.clicked.connect(lambda: self.remove([n for n, _ in self._items()]))
        self.refresh()

    @property
    def hidden(self) -> list[int]:
        """Numbers of the pins whose rows are switched off."""
        return [n for n, item in self._items() if item.checkState() != Qt.CheckState.Checked]

    def show_rows(self) -> None:
        """Show the rows of the pins that are ticked."""
        self._explorer.show_pins(self.hidden)
        self.refresh()

    def pin(self, pixel: tuple[int, int]) -> None:
        """Pin a place, or take the pin that is there away."""
        self._explorer.pin(pixel, self.hidden)
        self.refresh()
        self.open()

    def remove(self, numbers: Sequence[int]) -> None:
        """Take pins away."""
        self._explorer.unpin([pin for pin in self._explorer.pins() if pin.number in numbers], self.hidden)
        self.refresh()

    def refresh(self) -> None:
        """List the pins; those without a row belong to another plane or field."""
        pins, rows = self._explorer.pins(), self._explorer.pinned_rows()
        hidden, here = set(self.hidden), {pin.number for pin, _ in rows}
        with QSignalBlocker(self.list):
            self.list.clear()
            for pin in pins:
                where = f"{pin.number} · pixel {pin.pixel[0]}, {pin.pixel[1]}"
                item = QListWidgetItem(where if pin.number in here else f"{where} (another place or plane)")
                swatch = QPixmap(12, 12)
                swatch.fill(QColor(pin.colour))
                item.setIcon(QIcon(swatch))
                item.setData(_NUMBER, pin.number)
                item.setFlags(item.flags() | Qt.ItemFlag.ItemIsUserCheckable)
                on = pin.number not in hidden
                item.setCheckState(Qt.CheckState.Checked if on else Qt.CheckState.Unchecked)
                self.list.addItem(item)
        self.list.setVisible(bool(pins))
        if pins:
            self.list.setFixedHeight(min(self.list.sizeHintForRow(0) * len(pins) + 6, 112))
        self.button.setText(f"Pinned queries ({len(pins)})" if pins else "Pinned queries")
        self.clear_button.setVisible(bool(pins))
        self.remove_button.setVisible(bool(pins))
        set_note(self.words, common_words([(p.number, r) for p, r in rows if p.number not in self.hidden]))
        self._on_selection()

    def _items(self) -> list[tuple[int, QListWidgetItem]]:
        every = (self.list.item(n) for n in range(self.list.count()))
        return [(int(item.data(_NUMBER)), item) for item in every]

    def _chosen(self) -> list[int]:
        return [int(item.data(_NUMBER)) for item in self.list.selectedItems()]

    def _on_selection(self) -> None:
        some = bool(self._chosen())
        self.remove_button.setEnabled(some)
        self.remove_button.setToolTip("Take the chosen pins away." if some else "Choose a pin in the list.")


def common_words(rows: Sequence[tuple[int, AttentionRow]]) -> str:
    """Say how much attention the first pins have in common, pair by pair."""
    from napari_attnseg.core.attention_compare import compare_rows

    lines = [
        f"{a} and {b} share {compare_rows(one, two).overlap:.0%} of their attention."
        for n, (a, one) in enumerate(rows)
        for b, two in rows[n + 1 :]
    ]
    more = f"\n… and {len(lines) - 3} more pairs" if len(lines) > 3 else ""
    return "\n".join(lines[:3]) + more


class ObjectsSection(Section):
    """One object, or two, of the run's Labels layer."""

    changed = Signal()

    def __init__(self) -> None:
        super().__init__("Objects", "attnseg_objects_section")
        self.help = note(_OBJECTS_HELP, name="attnseg_objects_help")
        self.column.addWidget(self.help)
        layout = form()
        self.first = self._spin("attnseg_object", "Id of the object in the labels of the run.")
        self.second = self._spin("attnseg_second_object", "Id of another object.")
        add_row(layout, "Object", self.first)
        add_row(layout, "Second object", self.second)
        self.column.addLayout(layout)
        self.words = note(name="attnseg_object_words")
        self.column.addWidget(self.words)
        for spin in (self.first, self.second):
            spin.valueChanged.connect(lambda _value: self.changed.emit())

    def _spin(self, name: str, tooltip: str) -> QSpinBox:
        spin = QSpinBox()
        spin.setObjectName(name)
        spin.setToolTip(tooltip)
        spin.setSpecialValueText("none")
        spin.setRange(0, 2**31 - 1)
        spin.setKeyboardTracking(False)
        return spin

    def put(self, label: int, *, second: bool) -> None:
        """Choose an object; telling is left to the caller."""
        spin = self.second if second else self.first
        with QSignalBlocker(spin):
            spin.setValue(label)

    def forget(self) -> None:
        """Choose none."""
        for second in (False, True):
            self.put(0, second=second)
        set_note(self.words, "")

    def allow(self, why: str) -> bool:
        """Offer objects unless there is a reason not to; tell whether a choice was forgotten for it."""
        forgotten = bool(why) and any(self.values().values())
        if why:
            self.forget()
        for spin in (self.first, self.second):
            spin.setEnabled(not why)
        self.help.setText(why or _OBJECTS_HELP)
        return forgotten

    def values(self) -> dict[str, int]:
        """Return the fields of the question that are chosen here."""
        return {"label": self.first.value(), "second": self.second.value()}


_OBJECTS_HELP = "Click an object; Shift+click a second one to see who looks at whom."


class DisplaySection(Section):
    """How the overlay is drawn."""

    changed = Signal()

    def __init__(self, explorer: Explorer) -> None:
        super().__init__("Display", "attnseg_display_section")
        self._explorer = explorer
        self.smooth_box = QCheckBox("Smooth between the cells")
        self.smooth_box.setObjectName("attnseg_smooth")
        self.smooth_box.setToolTip("Blends neighbouring cells. Nothing is known between them.")
        self.ink_box = QCheckBox("Dark colours, for bright images")
        self.ink_box.setObjectName("attnseg_ink")
        self.ink_box.setToolTip(
            "On: the more attention, the darker the colour.\n"
            "Off: the overlay adds light where attention goes.\n"
            "Chosen by the brightness of the image; what gets no attention keeps its own look either way."
        )
        self.scale_box = QCheckBox("Keep this scale for other places")
        self.scale_box.setObjectName("attnseg_keep_scale")
        self.scale_box.setToolTip(
            "On: the colours mean the same weight for every place you ask about.\n"
            "Off: the brightest colour is the largest weight of each place."
        )
        for box, slot in (
            (self.smooth_box, self._on_smooth),
            (self.ink_box, self._on_ink),
            (self.scale_box, self._on_keep),
        ):
            self.column.addWidget(box)
            box.toggled.connect(slot)

    def refresh(self) -> None:
        """Show in which colours the overlay is drawn."""
        layer = self._explorer.layer
        if layer is not None:
            with QSignalBlocker(self.ink_box):
                self.ink_box.setChecked(overlay.has_ink(layer))

    def _on_smooth(self, on: bool) -> None:
        self._explorer.set_smooth(on)

    def _on_ink(self, on: bool) -> None:
        if self._explorer.layer is not None:
            overlay.set_ink(self._explorer.layer, on)

    def _on_keep(self, on: bool) -> None:
        view = self._explorer.view
        self._explorer.fixed = view.limits if on and view is not None else None
        self.changed.emit()
