"""Small pieces that all panels share."""

from __future__ import annotations

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QComboBox, QFormLayout, QFrame, QLabel, QScrollArea, QSizePolicy, QWidget

MARGIN = 8
_BOX = "width: 11px; height: 11px; border: 1px solid #8a8f98; border-radius: 2px;"
TICKS = (  # tick boxes of lists, which napari's themes leave without an outline
    f"QAbstractItemView::indicator {{ {_BOX} }}"
    "QAbstractItemView::indicator:checked { background: #4f7fe0; }"
    "QAbstractItemView::indicator:indeterminate { background: #8a8f98; }"
)


def note(text: str = "", *, name: str = "") -> QLabel:
    """Return a wrapping line of small text."""
    label = QLabel(text)
    label.setObjectName(name)
    label.setWordWrap(True)
    label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    label.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
    return label


def shortened(name: str, most: int = 36) -> str:
    """Return a name that fits one line: the middle of a long one is left out."""
    return name if len(name) <= most else f"{name[: most - 13]}…{name[-12:]}"


def set_note(label: QLabel, text: str) -> None:
    """Set a line of text; an empty one takes no room."""
    if label.text() != text:  # the same text again would lay the panel out again
        label.setText(text)
    label.setVisible(bool(text))


def combo(name: str, tooltip: str = "") -> QComboBox:
    """Return a combo box that never makes the dock wider, whatever the names in it."""
    box = QComboBox()
    box.setObjectName(name)
    box.setToolTip(tooltip)
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    box.setMinimumContentsLength(8)
    return box


def form(parent: QWidget | None = None) -> QFormLayout:
    """Return a form layout with left-aligned labels and fields as wide as there is room."""
    layout = QFormLayout(parent)
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setHorizontalSpacing(10)
    layout.setVerticalSpacing(6)
    layout.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
    layout.setRowWrapPolicy(QFormLayout.RowWrapPolicy.DontWrapRows)
    layout.setLabelAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
    return layout


def scrolled(widget: QWidget) -> QScrollArea:
    """Return the widget in an area that scrolls up and down only."""
    area = QScrollArea()
    area.setWidget(widget)
    area.setWidgetResizable(True)
    area.setFrameShape(QFrame.Shape.NoFrame)
    area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    return area


def heading(text: str) -> QLabel:
    """Return a bold line over a group of fields."""
    label = QLabel(f"<b>{text}</b>")
    label.setContentsMargins(0, 6, 0, 0)
    return label
