"""The Correct tab: tools for single objects, and what to correct next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QSignalBlocker, Qt
from qtpy.QtGui import QKeySequence
from qtpy.QtWidgets import QGridLayout, QPushButton, QShortcut, QVBoxLayout, QWidget

from napari_attnseg._napari.edits import labels_layers, why_not
from napari_attnseg._napari.tools import TOOLS, Tools
from napari_attnseg._qt.letters import LettersToCanvas
from napari_attnseg._qt.params_form import add_row
from napari_attnseg._qt.review_box import ReviewBox
from napari_attnseg._qt.widgets import MARGIN, combo, form, heading, note, set_note, shortened

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Labels

    from napari_attnseg._napari.session import Session
    from napari_attnseg._napari.watch import LayerWatch
    from napari_attnseg._qt.worker import Jobs

_COLUMNS = 3
_TIP = "Labels layer whose objects are corrected."
_MOST = 34  # letters of a name that the box has room for


class CorrectPanel(QWidget):  # type: ignore[misc]  # qtpy is untyped
    """Follows the active Labels layer; its keys and clicks work while the tab is open."""

    def __init__(self, viewer: ViewerModel, session: Session, jobs: Jobs, watch: LayerWatch) -> None:
        super().__init__()
        self._viewer, self._watch = viewer, watch
        self._listed: list[Labels] = []
        self._heard: Labels | None = None  # the layer whose visibility is listened to
        self.tools = Tools(viewer, session)
        column = QVBoxLayout(self)
        column.setContentsMargins(MARGIN, MARGIN, MARGIN, MARGIN)
        column.setSpacing(6)
        layout = form()
        column.addLayout(layout)
        self.layer_box = combo("attnseg_correct_layer", _TIP)
        LettersToCanvas(self.layer_box)
        add_row(layout, "Labels", self.layer_box)
        column.addWidget(heading("Tools"))
        column.addLayout(self._buttons())
        self.todo_line = note(name="attnseg_correct_todo")
        self.said_line = note(" ", name="attnseg_correct_said")
        column.addWidget(self.todo_line)
        column.addWidget(self.said_line)
        self.review = ReviewBox(viewer, session, jobs, self.tools)
        column.addWidget(self.review, 1)
        self._connect()
        self.refresh()

    def _buttons(self) -> QGridLayout:
        grid = QGridLayout()
        grid.setSpacing(4)
        self.buttons: dict[str, QPushButton] = {}
        for number, (name, tool) in enumerate(TOOLS.items()):
            button = QPushButton(f"{tool.title}  {_words(tool.key)}")
            button.setObjectName(f"attnseg_{name}")
            button.setCheckable(True)
            button.setFocusPolicy(Qt.FocusPolicy.NoFocus)  # keys stay with the canvas
            button.clicked.connect(lambda on, name=name: self.tools.arm(name if on else ""))
            grid.addWidget(button, *divmod(number, _COLUMNS))
            self.buttons[name] = button
        self.undo_button = QPushButton("Undo  Ctrl+Z")
        self.undo_button.setObjectName("attnseg_undo")
        self.undo_button.setToolTip("Take back the last change of this layer, whatever made it.")
        self.undo_button.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.undo_button.clicked.connect(self.tools.undo)
        grid.addWidget(self.undo_button, *divmod(len(TOOLS), _COLUMNS))
        return grid

    def _connect(self) -> None:
        self.layer_box.currentIndexChanged.connect(self._on_picked)
        self.tools.said.connect(self._on_said)
        self.tools.armed.connect(self.refresh_tools)
        self.tools.edited.connect(self.review.mark)
        self._watch.changed.connect(self.refresh)
        self._watch.moved.connect(self.refresh_tools)
        self._viewer.layers.selection.events.active.connect(self._on_active)
        escape = QShortcut(QKeySequence("Esc"), self)
        escape.setContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
        escape.activated.connect(lambda: self.tools.arm(""))

    def release(self) -> None:
        """Let go of the viewer, its layers and its canvas."""
        self.listen(False)
        self.tools.set_layer(None)
        self._hear(None)
        self._viewer.layers.selection.events.active.disconnect(self._on_active)
        self.review.release()

    def listen(self, on: bool) -> None:
        """Take keys and clicks on the canvas, or leave them to napari."""
        self.tools.listen(on)
        self.review.listen(on)
        if on:
            self.review.refresh()
        self.refresh_tools()

    # -- keeping the panel right --------------------------------------------------------------------

    def refresh(self, *_: Any) -> None:
        """List the Labels layers; the one that is corrected stays, else the topmost in view is taken."""
        self._listed = labels_layers(self._viewer.layers)
        current = self.tools.layer
        if current is None or current not in self._listed:
            in_view = [layer for layer in self._listed if layer.visible]
            current = next(iter(in_view or self._listed), None)
        with QSignalBlocker(self.layer_box):
            self.layer_box.clear()
            for n, layer in enumerate(self._listed):
                self.layer_box.addItem(_fitting(layer.name))
                self.layer_box.setItemData(n, layer.name, Qt.ItemDataRole.ToolTipRole)
            self.layer_box.setCurrentIndex(self._listed.index(current) if current is not None else -1)
        self._choose(current)

    def _choose(self, layer: Labels | None) -> None:
        if layer is not self.tools.layer:
            self.tools.set_layer(layer)
            self._on_said("", False)
        self.layer_box.setToolTip(_TIP if layer is None else f"{layer.name}\n{_TIP}")
        self._hear(layer)
        self.review.refresh()
        self.refresh_tools()

    def _hear(self, layer: Labels | None) -> None:
        """Follow what lets a layer be corrected or not."""
        if layer is self._heard:
            return
        for one, on in ((self._heard, False), (layer, True)):
            for event in () if one is None else (one.events.visible, one.events.editable):
                (event.connect if on else event.disconnect)(self.refresh_tools)
        self._heard = layer

    def _on_picked(self, index: int) -> None:
        if 0 <= index < len(self._listed):
            self._choose(self._listed[index])
            self._viewer.layers.selection.active = self._listed[index]  # its keys are napari's to hand out

    def _on_active(self, event: Any = None) -> None:
        active = self._viewer.layers.selection.active
        if active in self._listed and active is not self.tools.layer:
            self.layer_box.setCurrentIndex(self._listed.index(active))
        self.refresh_tools()

    def refresh_tools(self, *_: Any) -> None:
        """Show which tool is chosen, which can be, and what to do now."""
        why = why_not(self._viewer, self.tools.layer)
        keys = self.tools.keys()
        for name, button in self.buttons.items():
            tool = TOOLS[name]
            button.setEnabled(not why)
            button.setChecked(name == self.tools.tool)
            used = self.tools.layer is not None and self.isVisible() and name not in keys
            taken = f"\nThe key {tool.key} is used by a shortcut of yours." if used and not why else ""
            button.setToolTip(why or f"{tool.tip}{taken}")
        self.undo_button.setEnabled(self.tools.layer is not None)
        set_note(self.todo_line, self.tools.todo())

    def _on_said(self, text: str, error: bool) -> None:
        self.said_line.setStyleSheet("QLabel { color: #d9483b; }" if error else "")
        self.said_line.setText(text or " ")  # keeps its room: the list below stays where it is
        self.refresh_tools()


def _fitting(name: str) -> str:
    """Return a layer's name that fits the box: before " · labels" the middle of the image's is left out."""
    image, dot, what = name.rpartition(" · ")
    room = _MOST - len(dot + what)
    return shortened(image, room) + dot + what if dot and room > 13 else shortened(name, _MOST)


def _words(key: str) -> str:
    """Return a key as it is written on a button."""
    return key.replace("Shift-", "⇧")
