"""Forms made from ``params.py``: each pydantic field becomes a magicgui widget with its label and help."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from magicgui.widgets import CheckBox, ComboBox, FloatSlider, FloatSpinBox, SpinBox
from psygnal import Signal
from qtpy.QtWidgets import QFormLayout, QLabel, QSizePolicy

from napari_attnseg.params import SegmentParams

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic.fields import FieldInfo
    from qtpy.QtWidgets import QWidget


def bounds(info: FieldInfo) -> dict[str, Any]:
    """Return the bounds of a field: ``ge``, ``gt``, ``le``, ``lt`` as far as they are set."""
    found: dict[str, Any] = {}
    for constraint in info.metadata:
        for name in ("ge", "gt", "le", "lt"):
            value = getattr(constraint, name, None)
            if value is not None:
                found[name] = value
    return found


def make_widget(name: str, *, slider: bool = False) -> Any:
    """Return the magicgui widget for a field of ``SegmentParams``.

    Parameters
    ----------
    name : str
        A field of type bool, int, float or Literal.
    slider : bool
        A float with two bounds becomes a slider.
    """
    info = SegmentParams.model_fields[name]
    kind, limits = info.annotation, bounds(info)
    common = {"name": name, "label": info.title, "tooltip": info.description, "value": info.default}
    if get_origin(kind) is Literal:
        return ComboBox(choices=list(get_args(kind)), **common)
    if kind is bool:
        return CheckBox(**common)  # its label is the text beside the box
    low, high = limits.get("ge", limits.get("gt", 0)), limits.get("le", limits.get("lt", 10**6))
    if kind is int:
        return SpinBox(min=low, max=high, **common)
    if kind is float and slider:
        return FloatSlider(min=low, max=high, step=0.01, **common)
    if kind is float:
        return FloatSpinBox(min=max(low, 0.1) if "gt" in limits else low, max=high, step=1.0, **common)
    raise TypeError(f"no widget for the field '{name}' of type {kind}")


class ParamsForm:
    """Rows of a ``QFormLayout`` for some fields of ``SegmentParams``.

    Parameters
    ----------
    layout : QFormLayout
        Where the rows go.
    names : iterable of str
        Fields, in order.
    slider : bool
        Floats become sliders.
    """

    changed = Signal()

    def __init__(self, layout: QFormLayout, names: Iterable[str], *, slider: bool = False) -> None:
        self._layout = layout
        self.widgets: dict[str, Any] = {}
        self._captions: dict[str, QLabel] = {}  # of sliders: a row of their own
        for name in names:
            widget = make_widget(name, slider=slider)
            widget.changed.connect(self._emit)
            self.widgets[name] = widget
            if isinstance(widget, CheckBox):
                layout.addRow(widget.native)
            elif isinstance(widget, FloatSlider):
                self._captions[name] = add_wide_row(layout, widget.label, widget.native)
            else:
                add_row(layout, widget.label, widget.native)

    def _emit(self) -> None:
        self.changed.emit()

    def values(self) -> dict[str, Any]:
        """Return the value of every field."""
        return {name: widget.value for name, widget in self.widgets.items()}

    def set_values(self, values: dict[str, Any]) -> None:
        """Set the fields that are named, and tell once."""
        with_changed = False
        for name, widget in self.widgets.items():
            if name in values and widget.value != values[name]:
                with widget.changed.blocked():
                    widget.value = values[name]
                with_changed = True
        if with_changed:
            self.changed.emit()

    def restore_defaults(self) -> None:
        """Set every field to its default."""
        self.set_values({name: SegmentParams.model_fields[name].default for name in self.widgets})

    def set_enabled(self, on: bool, tooltip: str = "") -> None:
        """Enable or disable every field; a disabled one says why on hover."""
        for name, widget in self.widgets.items():
            widget.enabled = on
            widget.tooltip = SegmentParams.model_fields[name].description if on or not tooltip else tooltip

    def show_row(self, name: str, on: bool) -> None:
        """Show or hide a field with its label."""
        show_row(self._layout, self.widgets[name].native, on)
        if name in self._captions:
            self._captions[name].setVisible(on)


def add_row(layout: QFormLayout, label: str, field: QWidget) -> None:
    """Add a row whose field takes the width that is there, and whose label carries the field's help."""
    field.setSizePolicy(QSizePolicy.Policy.Expanding, field.sizePolicy().verticalPolicy())
    field.setMinimumWidth(60)
    text = QLabel(label)
    text.setToolTip(field.toolTip())
    text.setBuddy(field)
    layout.addRow(text, field)


def add_wide_row(layout: QFormLayout, label: str, field: QWidget) -> QLabel:
    """Add a field under its label, as wide as the form (a slider needs the room); return the label."""
    text = QLabel(label)
    text.setToolTip(field.toolTip())
    text.setBuddy(field)
    layout.addRow(text)
    layout.addRow(field)
    return text


def show_row(layout: QFormLayout, field: QWidget, on: bool) -> None:
    """Show or hide a row of a form."""
    field.setVisible(on)
    label = layout.labelForField(field)
    if label is not None:
        label.setVisible(on)
