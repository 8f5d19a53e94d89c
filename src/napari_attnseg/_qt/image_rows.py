"""Rows that choose what is segmented: image layer, its axes and channel, and the object diameter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psygnal import Signal
from qtpy.QtCore import QSignalBlocker, Qt
from qtpy.QtWidgets import QCheckBox, QDoubleSpinBox, QHBoxLayout, QVBoxLayout, QWidget

from napari_attnseg._napari import circle
from napari_attnseg._napari.layers import axes_choices, source_of
from napari_attnseg._napari.units import METRES, SHORT
from napari_attnseg._qt.params_form import add_row, bounds, show_row
from napari_attnseg._qt.widgets import combo, note, set_note
from napari_attnseg.core.axes import describe
from napari_attnseg.errors import AttnSegError, InputError
from napari_attnseg.params import SegmentParams

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image
    from qtpy.QtWidgets import QFormLayout

    from napari_attnseg._napari.session import Session
    from napari_attnseg._napari.watch import LayerWatch
    from napari_attnseg.records import ImageSource


class ImageRows:
    """The image combo and what follows from it.  ``changed`` says that any of it did."""

    changed = Signal()

    def __init__(self, layout: QFormLayout, session: Session, watch: LayerWatch) -> None:
        self._layout, self._session, self._watch = layout, session, watch
        self._axes_of: dict[str, str] = {}  # what the user chose, by the layer's unique id
        self._listed: list[Image] = []
        self.error = ""
        self.image_box = combo("attnseg_image", "Image layer to segment.")
        self.line = note(name="attnseg_description")
        self.axes_box = combo("attnseg_axes", "What the axes of the layer mean; C is a channel axis.")
        self.channel_box = combo("attnseg_channel", str(SegmentParams.model_fields["channel"].description))
        add_row(layout, "Image", self.image_box)
        layout.addRow(self.line)
        add_row(layout, "Axes", self.axes_box)
        add_row(layout, "Channel", self.channel_box)
        self.image_box.currentIndexChanged.connect(self._on_picked)
        self.axes_box.currentTextChanged.connect(self._on_axes)
        self.channel_box.currentIndexChanged.connect(self._on_channel)
        watch.changed.connect(self.refresh)
        watch.activated.connect(self._on_activated)
        self.refresh()

    @property
    def image(self) -> Image | None:
        """The chosen layer."""
        return self._session.state.image

    @property
    def axes(self) -> str | None:
        """The chosen reading of its axes; None is the guess."""
        return None if self.image is None else self.axes_of(self.image)

    def axes_of(self, image: Image) -> str | None:
        """The chosen reading of any image's axes; None is the guess."""
        return self._axes_of.get(str(image.unique_id))

    @property
    def channel(self) -> int | None:
        """The chosen channel; None is all of them."""
        data = self.channel_box.currentData()
        return None if data is None else int(data)

    def source(self) -> ImageSource | None:
        """Return the chosen image as a source, or None when it cannot be used (see :attr:`error`)."""
        self.error = ""
        if self.image is None:
            return None
        try:
            return source_of(self.image, self.axes)
        except AttnSegError as err:
            self.error = str(err)
            return None

    def refresh(self) -> None:
        """List the layers anew; keep the choice, or take the active image."""
        self._listed = self._watch.images()
        chosen = self.image if self.image in self._listed else None
        if chosen is None:
            active = self._watch.active()
            chosen = active or (self._listed[0] if self._listed else None)
        with QSignalBlocker(self.image_box):
            self.image_box.clear()
            for layer in self._listed:
                self.image_box.addItem(layer.name)
                last = self.image_box.count() - 1
                self.image_box.setItemData(last, layer.name, Qt.ItemDataRole.ToolTipRole)
            self.image_box.setCurrentIndex(self._listed.index(chosen) if chosen is not None else -1)
        self._choose(chosen)

    def _on_picked(self, index: int) -> None:
        self._choose(self._listed[index] if 0 <= index < len(self._listed) else None)

    def _on_activated(self, layer: Image) -> None:
        if layer in self._listed:
            self.image_box.setCurrentIndex(self._listed.index(layer))

    def _choose(self, image: Image | None) -> None:
        self._session.update(image=image)
        self._fill_axes()
        self._fill_channels()
        self.changed.emit()

    def _on_axes(self, axes: str) -> None:
        if self.image is not None and axes:
            self._axes_of[str(self.image.unique_id)] = axes
            self._fill_channels()
            self.changed.emit()

    def _on_channel(self, _index: int) -> None:
        self.changed.emit()

    def _fill_axes(self) -> None:
        choices: list[str] = []
        if self.image is not None and self.image.ndim >= 2:
            choices = axes_choices(self.image)
        with QSignalBlocker(self.axes_box):
            self.axes_box.clear()
            self.axes_box.addItems(choices)
            if self.axes in choices:
                self.axes_box.setCurrentText(self.axes)
        show_row(self._layout, self.axes_box, len(choices) > 1)

    def _fill_channels(self) -> None:
        source = self.source()
        set_note(self.line, self.error or (describe(source) if source is not None else ""))
        count = source.channels if source is not None else 1
        before = self.channel
        with QSignalBlocker(self.channel_box):
            self.channel_box.clear()
            colour = source is not None and source.rgb
            self.channel_box.addItem("colour" if colour else "all (mean)", None)
            names = ("red", "green", "blue", "alpha") if colour else [f"{n}" for n in range(count)]
            for number in range(min(count, 3) if colour else count):
                self.channel_box.addItem(names[number], number)
            if before is not None and before < self.channel_box.count() - 1:
                self.channel_box.setCurrentIndex(before + 1)
        show_row(self._layout, self.channel_box, count > 1)


class DiameterRow:
    """Object diameter: automatic, in pixels, or in the layer's unit; with a circle to compare."""

    changed = Signal()

    def __init__(self, layout: QFormLayout, viewer: ViewerModel, rows: ImageRows) -> None:
        self._viewer, self._rows = viewer, rows
        info = SegmentParams.model_fields["diameter"]
        self._low, self._high = _limits(info)
        self.unit_box = combo("attnseg_diameter_unit", "How the object diameter is given.")
        self.unit_box.setMinimumContentsLength(4)
        self.spin = QDoubleSpinBox()
        self.spin.setObjectName("attnseg_diameter")
        self.spin.setDecimals(1)
        self.spin.setRange(self._low, self._high)
        self.spin.setValue(24.0)
        self.spin.setToolTip(str(info.description))
        self.circle_button = QCheckBox("Draw it as a circle")
        self.circle_button.setObjectName("attnseg_circle")
        self.circle_button.setToolTip("Draw a circle of this diameter on the image, to compare.")
        field = QWidget()
        column = QVBoxLayout(field)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        row = QHBoxLayout()
        row.setSpacing(4)
        row.addWidget(self.unit_box, 1)
        row.addWidget(self.spin, 2)
        column.addLayout(row)
        column.addWidget(self.circle_button)
        add_row(layout, info.title or "Diameter", field)
        self.field = field
        self._layout = layout
        self._drawn = self._drawing = False  # the circle; its layers come and go by our hand
        self.unit_box.currentIndexChanged.connect(self._on_changed)
        self.spin.valueChanged.connect(self._on_changed)
        self.circle_button.toggled.connect(self._on_changed)
        rows.changed.connect(self.refresh)
        self.refresh()

    def refresh(self) -> None:
        """Offer the unit of the chosen layer; a circle that the user removed stays away."""
        if self._drawing:
            return
        if self._drawn and circle.find(self._viewer) is None:
            with QSignalBlocker(self.circle_button):
                self.circle_button.setChecked(False)
        source = self._rows.source()
        unit = str(source.units[-1]) if source is not None and source.units else ""
        wanted = ["auto", "px", *([SHORT[unit]] if unit in SHORT else [])]
        if [self.unit_box.itemText(n) for n in range(self.unit_box.count())] != wanted:
            before = self.unit_box.currentText()
            with QSignalBlocker(self.unit_box):
                self.unit_box.clear()
                self.unit_box.addItems(wanted)
                self.unit_box.setCurrentText(before if before in wanted else "auto")
        self._on_changed()

    def restore_defaults(self) -> None:
        """Estimate the diameter again."""
        self.circle_button.setChecked(False)
        self.unit_box.setCurrentIndex(0)

    def pixels(self, source: ImageSource) -> float | None:
        """Return the diameter in pixels of an image; None is automatic.

        Raises
        ------
        InputError
            The diameter is given in a unit of length, and the image has none.
        """
        unit = self.unit_box.currentText()
        if unit == "auto":
            return None
        step = 1.0
        if unit != "px":
            own = SHORT.get(str(source.units[-1]) if source.units else "")
            if own is None:
                raise InputError(
                    f"'{source.name}' has no unit of length, so {self.spin.value():g} {unit} says nothing.",
                    "Give the object diameter in px, or 'auto'.",
                )
            step = float(source.scale[-1]) * METRES[own] / METRES[unit]
        return min(max(self.spin.value() / step, self._low), self._high)

    def hide_circle(self) -> None:
        """Take the circle away."""
        self.circle_button.setChecked(False)
        circle.remove(self._viewer)

    def show(self, on: bool) -> None:
        """Show or hide the row."""
        show_row(self._layout, self.field, on)

    def _on_changed(self, *_: Any) -> None:
        auto = self.unit_box.currentText() == "auto"
        if auto and self.circle_button.isChecked():
            self.circle_button.setChecked(False)  # comes back here
            return
        self.spin.setVisible(not auto)
        self.circle_button.setVisible(not auto)
        in_pixels = self.unit_box.currentText() in ("auto", "px")
        self.spin.setMinimum(self._low if in_pixels else 0.1)
        self._draw()
        self.changed.emit()

    def _draw(self) -> None:
        source, image = self._rows.source(), self._rows.image
        self._drawing = True  # the layer list tells of every step
        try:
            if not self.circle_button.isChecked() or source is None or image is None:
                circle.remove(self._viewer)
                self._drawn = False
            else:
                circle.draw(self._viewer, image, source, self.pixels(source) or 24.0)
                self._drawn = True
        finally:
            self._drawing = False


def _limits(info: Any) -> tuple[float, float]:
    found = bounds(info)
    return float(found.get("ge", 2.0)), float(found.get("le", 4096.0))
