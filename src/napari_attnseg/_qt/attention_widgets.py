"""Pieces of the Attention tab: a section that folds, the form of the question, a plot of a check."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QPointF, QRectF, QSignalBlocker, QSize, Qt, Signal
from qtpy.QtGui import QColor, QPainter, QPalette, QPen
from qtpy.QtWidgets import QCheckBox, QSizePolicy, QToolButton, QVBoxLayout, QWidget

from napari_attnseg._napari.question import OBJECT, PIXEL, SURE
from napari_attnseg._qt.params_form import add_row, show_row
from napari_attnseg._qt.widgets import combo, form

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_attnseg.core.attention import AttentionTape

SHOWS = {
    PIXEL: "pixel: what it looks at",
    "rollout": "pixel: through all blocks (rollout)",
    OBJECT: "object: what it looks at",
    SURE: "object: how clear its pixels are",
    "received": "map: attention received",
    "entropy": "map: how spread",
    "distance": "map: how far",
    "uncertainty": "map: unsure pixels",
}
_HELP = {
    PIXEL: "Move the mouse over the image, or click: what did this place attend to?",
    OBJECT: "Click an object: where do its pixels attend, on average?",
    SURE: "Click an object: how clearly did each of its pixels choose its seed over the runner-up?",
    "received": "How much attention every place receives, the mean over all queries.",
    "entropy": "For every place: 0 when it looks at one place only, 1 when it looks everywhere alike.",
    "distance": "For every place: how far away on average what it looks at is.",
    "uncertainty": "For every pixel: 1 minus the margin between its seed and the runner-up.",
    "rollout": "What the asked place is made of, followed back through all blocks and the convolutions "
    "between\nthem. Of all maps it agrees best with what matters. Without a place: from the whole field.",
}


class Section(QWidget):  # type: ignore[misc]  # qtpy is untyped
    """A title that shows or hides what is under it."""

    def __init__(self, title: str, name: str, *, opened: bool = False) -> None:
        super().__init__()
        self.button = QToolButton()
        self.button.setObjectName(name)
        self.button.setText(title)
        self.button.setCheckable(True)
        self.button.setChecked(opened)
        self.button.setAutoRaise(True)
        self.button.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.button.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.button.setStyleSheet("QToolButton { font-weight: bold; border: none; padding: 2px 0; }")
        self.body = QWidget()
        self.column = QVBoxLayout(self.body)
        self.column.setContentsMargins(4, 0, 0, 4)
        self.column.setSpacing(6)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.setSpacing(2)
        outer.addWidget(self.button)
        outer.addWidget(self.body)
        self.button.toggled.connect(self._on_toggled)
        self._on_toggled(opened)

    def open(self) -> None:
        """Show what is under the title."""
        self.button.setChecked(True)

    def _on_toggled(self, on: bool) -> None:
        self.button.setArrowType(Qt.ArrowType.DownArrow if on else Qt.ArrowType.RightArrow)
        self.body.setVisible(on)


class QuestionForm(QWidget):  # type: ignore[misc]
    """What to show, of which block and head.  ``changed`` says that any of it did."""

    changed = Signal()
    followed = Signal(bool)

    def __init__(self) -> None:
        super().__init__()
        self._layout = form(self)
        self.show_box = combo("attnseg_show", "What the overlay shows.")
        for key, text in SHOWS.items():
            self.show_box.addItem(text, key)
            self.show_box.setItemData(self.show_box.count() - 1, _HELP[key], Qt.ItemDataRole.ToolTipRole)
        self.block_box = combo("attnseg_block", "Attention block of the network, in network order.")
        self.head_box = combo("attnseg_head", "One attention head, or the mean of all.")
        self.value_box = combo("attnseg_value", _VALUE_HELP)
        self.value_box.addItem("weights as used", False)
        self.value_box.addItem("value-weighted", True)
        self.follow_box = QCheckBox("Follow the mouse")
        self.follow_box.setObjectName("attnseg_follow")
        self.follow_box.setChecked(True)
        self.follow_box.setToolTip(
            "On: the overlay shows what the place under the mouse looks at.\n"
            "A click holds one place (and ends following); Shift+click pins one."
        )
        for text, box in (
            ("Show", self.show_box),
            ("Block", self.block_box),
            ("Head", self.head_box),
            ("Weights", self.value_box),
        ):
            add_row(self._layout, text, box)
            box.currentIndexChanged.connect(self._on_changed)
        self._layout.addRow("", self.follow_box)
        self.follow_box.toggled.connect(self.followed.emit)
        self.tape: AttentionTape | None = None
        self._no_objects = ""

    @property
    def what(self) -> str:
        """What is chosen to be shown."""
        return str(self.show_box.currentData())

    def choose(self, what: str) -> None:
        """Choose what is shown."""
        self.show_box.setCurrentIndex(self.show_box.findData(what))

    def values(self) -> dict[str, Any]:
        """Return the fields of the question that are chosen here."""
        return {
            "what": self.what,
            "block": str(self.block_box.currentData() or ""),
            "head": str(self.head_box.currentData() or "mean"),
            "value": bool(self.value_box.currentData()),
        }

    def fill(self, tape: AttentionTape | None, widest: str, no_objects: str = "") -> None:
        """List the blocks of a tape; the block chosen before stays where it has one of that name.

        Parameters
        ----------
        widest : str
            The block to choose otherwise.
        no_objects : str
            Why objects cannot be asked about; "" when they can.
        """
        self.tape, self._no_objects = tape, no_objects
        names = list(tape.blocks) if tape is not None else []
        before = self.block_box.currentData()
        with QSignalBlocker(self.block_box):
            self.block_box.clear()
            for name in names:
                assert tape is not None
                kind = tape.blocks[name].kind
                self.block_box.addItem(name if kind in name else f"{name} ({kind})", name)
            self.block_box.setCurrentIndex(self.block_box.findData(before if before in names else widest))
        if no_objects and self.what in (OBJECT, SURE):
            with QSignalBlocker(self.show_box):
                self.choose(PIXEL)
        self.refresh()

    def refresh(self) -> None:
        """Offer what the chosen block has: its heads, its values, its maps."""
        tape, block = self.tape, self.block_box.currentData()
        before = self.head_box.currentData()
        with QSignalBlocker(self.head_box), QSignalBlocker(self.value_box):
            self.head_box.clear()
            if tape is not None and block is not None:
                self.head_box.addItem("mean of all", "mean")
                heads = tape.blocks[block].heads
                for number in range(heads if heads > 1 else 0):
                    self.head_box.addItem(f"head {number}", str(number))
                self.head_box.setCurrentIndex(max(self.head_box.findData(before), 0))
            weighs = tape is not None and block is not None and tape.has_values(block)
            self.value_box.setEnabled(weighs)
            self.value_box.setToolTip(_VALUE_HELP if weighs or tape is None else _NO_VALUES)
            if tape is not None and not weighs:
                self.value_box.setCurrentIndex(0)
        for box in (self.show_box, self.block_box, self.follow_box):
            box.setEnabled(tape is not None)
        self.head_box.setEnabled(self.head_box.count() > 1)
        self._offer_maps()
        show_row(self._layout, self.value_box, self.what in (PIXEL, OBJECT))
        show_row(self._layout, self.follow_box, self.what == PIXEL)
        fixed = self.what in (SURE, "uncertainty")
        show_row(self._layout, self.block_box, not fixed and self.what != "rollout")
        show_row(self._layout, self.head_box, not fixed)

    def _offer_maps(self) -> None:
        """Grey out the maps that the chosen block cannot have, and objects where there are none."""
        from napari_attnseg.core.attention_maps import KINDS, kinds_of

        block = self.block_box.currentData()
        if self.tape is None or block is None:
            return
        can = {*kinds_of(self.tape, block), "uncertainty"}
        if len(self.tape.network) > 1:
            can.add("rollout")
        model = self.show_box.model()
        for kind in KINDS:
            item = model.item(self.show_box.findData(kind))
            item.setEnabled(kind in can)
            item.setToolTip(_HELP[kind] if kind in can else "The chosen block has no such map.")
        for kind in (OBJECT, SURE):
            item = model.item(self.show_box.findData(kind))
            item.setEnabled(not self._no_objects)
            item.setToolTip(self._no_objects or _HELP[kind])

    def _on_changed(self, _index: int) -> None:
        if self.sender() is self.block_box or self.sender() is self.show_box:
            self.refresh()
        self.changed.emit()


_VALUE_HELP = (
    "Weights as used: the softmax weights that the network multiplied with.\n"
    "Value-weighted: what each place then added, |a · W · v|, as shares: a high weight on a small value adds "
    "little."
)
_NO_VALUES = "This block keeps no values: its weights are shown as they were used."


class CheckPlot(QWidget):  # type: ignore[misc]
    """One line of dots: what hiding random cells changed, against the attended and the nearest ones."""

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("attnseg_check_plot")
        self.setMinimumHeight(92)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self._attended = self._nearest = 0.0
        self._random: Sequence[float] = ()

    def sizeHint(self) -> QSize:
        """Ask for little height."""
        return QSize(240, 92)

    def put(self, attended: float, nearest: float, random: Sequence[float]) -> None:
        """Show other numbers."""
        self._attended, self._nearest, self._random = attended, nearest, tuple(random)
        self.update()

    def paintEvent(self, _event: Any) -> None:
        """Draw the axis, the dots and the two marks in the theme's colours."""
        if not self._random:
            return
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        ink = self.palette().color(QPalette.ColorRole.WindowText)
        both = (0.0, self._attended, self._nearest, *self._random)
        low, high = min(both), max(both)
        room = (high - low) or 1.0
        left, right, line = 10.0, self.width() - 10.0, 46.0

        def across(value: float) -> float:
            return left + (value - low) / room * (right - left)

        faint = QColor(ink)
        faint.setAlpha(110)
        painter.setPen(QPen(faint, 1))
        painter.drawLine(QPointF(left, line), QPointF(right, line))
        painter.drawLine(QPointF(across(0.0), line - 5), QPointF(across(0.0), line + 5))
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(faint)
        for n, value in enumerate(self._random):
            painter.drawEllipse(QPointF(across(value), line + (n % 3 - 1) * 5), 3.2, 3.2)
        self._mark(painter, across(self._nearest), line, _NEAREST, "nearest", 74.0)
        self._mark(painter, across(self._attended), line, _ATTENDED, "attended", 4.0)
        painter.setPen(ink)
        text = f"{low:.2g}", f"{high:.2g}"
        painter.drawText(QRectF(0, 56, self.width(), 18), Qt.AlignmentFlag.AlignLeft, text[0])
        painter.drawText(QRectF(0, 56, self.width(), 18), Qt.AlignmentFlag.AlignRight, text[1])
        painter.drawText(
            QRectF(0, 56, self.width(), 18), Qt.AlignmentFlag.AlignHCenter, "change at the pixel"
        )

    def _mark(self, painter: QPainter, x: float, line: float, colour: str, text: str, top: float) -> None:
        painter.setPen(QPen(QColor(colour), 3))
        painter.drawLine(QPointF(x, line - 13), QPointF(x, line + 13))
        width = 80.0
        box = QRectF(min(max(x - width / 2, 0.0), self.width() - width), top, width, 18)
        painter.drawText(box, Qt.AlignmentFlag.AlignCenter, text)


_ATTENDED, _NEAREST = "#ff8c1a", "#00a9e0"
