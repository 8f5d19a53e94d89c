"""What will be learnt from: corrected planes of the open layers, and what counts as known in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari.layers import Labels, Shapes
from qtpy.QtCore import QSignalBlocker, Qt, QTimer, Signal
from qtpy.QtWidgets import QCheckBox, QTreeWidget, QTreeWidgetItem, QVBoxLayout, QWidget

from napari_attnseg._napari.classes import class_pairs, holds_classes, scan_classes
from napari_attnseg._napari.corrections import Found, How, Pair, mark_done, outlines, pairs, scan
from napari_attnseg._napari.layers import plane_at
from napari_attnseg._qt.params_form import add_row, show_row
from napari_attnseg._qt.widgets import TICKS, combo, form, note, set_note, shortened
from napari_attnseg._qt.worker import Jobs
from napari_attnseg.core.axes import name_plane

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_attnseg._napari.session import Session
    from napari_attnseg._napari.watch import LayerWatch
    from napari_attnseg.params import Task

_CHOICES = (
    ("What I corrected", "objects"),
    ("Regions of a Shapes layer", "regions"),
    ("Planes ticked as done", "done"),
    ("Everything", "all"),
)
_HELP = (
    "Which pixels teach. What I corrected: objects that you drew, reshaped or erased, and a thin ring "
    "around them. Regions: all that lies in shapes you drew. Planes ticked as done, or everything: "
    "unlabelled pixels there are taken for background."
)
_CLASSES_HELP = (
    "Which pixels teach. What I painted: all numbers but 0; in labels of a run, what you changed. Regions: "
    "all that lies in shapes you drew. Planes ticked as done, or everything: 0 is background there."
)
_FOREIGN = (
    "These labels did not come from a run of this window (or were reloaded), so nothing tells what you "
    "corrected in them."
)
_DELAY = 400  # milliseconds in which edits are taken together
_ROLE = Qt.ItemDataRole.UserRole


class SourcesBox(QWidget):  # type: ignore[misc]  # qtpy is untyped
    """A list of image and labels pairs with what changed in each plane; ``changed`` says that it did."""

    changed = Signal()

    def __init__(self, viewer: ViewerModel, session: Session, watch: LayerWatch) -> None:
        super().__init__()
        self._viewer, self._session, self._watch = viewer, session, watch
        self._found: list[Found] = []
        self._pairs: list[Pair] = []
        self._ticks: dict[str, bool] = {}  # what the user ticked or not, by row
        self._heard: list[Any] = []  # layers whose edits are listened to
        self._shapes: list[Shapes] = []
        self._on = self._stale = False
        self.task: Task = "instances"
        self.names: tuple[tuple[int, str], ...] = ()  # of class numbers
        self._scanner = Jobs(self)
        self.tree = QTreeWidget()
        self.tree.setObjectName("attnseg_sources")
        self.tree.setHeaderHidden(True)
        self.tree.setStyleSheet(TICKS)
        self.tree.setWordWrap(True)
        self.tree.setToolTip("Tick what the model shall learn from.")
        self.empty_line = note(name="attnseg_sources_empty")
        layout = self._layout = form()
        self.known_box = _choice("attnseg_known", _HELP)
        self.shapes_box = combo("attnseg_regions", "Shapes layer whose areas are labelled completely.")
        self.foreign_line = note(_FOREIGN, name="attnseg_foreign_why")
        self.foreign_box = _choice("attnseg_foreign", _FOREIGN, ask=True)
        self.done_box = QCheckBox("The plane in view is done")
        self.done_box.setObjectName("attnseg_done")
        self.done_box.setToolTip("Every object of this plane is labelled: the rest of it is background.")
        add_row(layout, "Known", self.known_box)
        layout.addRow(self.foreign_line)
        add_row(layout, "Other labels", self.foreign_box)
        add_row(layout, "Regions", self.shapes_box)
        layout.addRow(self.done_box)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(6)
        column.addWidget(self.tree)
        column.addWidget(self.empty_line)
        column.addLayout(layout)
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_DELAY)
        self._timer.timeout.connect(self.rescan)
        self._connect()
        self._show_rows()

    def _connect(self) -> None:
        self.tree.itemChanged.connect(self._on_ticked)
        for box in (self.known_box, self.foreign_box, self.shapes_box):
            box.currentIndexChanged.connect(self._on_how)
        self.done_box.toggled.connect(self._on_done)
        self._watch.changed.connect(self._on_layers)
        self._watch.moved.connect(self._on_moved)
        self._session.changed.connect(self._on_session)
        self._scanner.finished.connect(self._on_scanned)

    def release(self) -> None:
        """Let go of session and layers."""
        self._scanner.cancel()
        self._timer.stop()
        self._on = False
        self._session.changed.disconnect(self._on_session)
        self._hear([])

    def listen(self, on: bool) -> None:
        """Compare layers while the tab is looked at, and leave them alone else."""
        self._on = on
        if on and not self._found:
            self.rescan()
        elif on:
            self._later()

    # -- what is chosen -----------------------------------------------------------------------------

    def how(self) -> How:
        """Return what counts as known."""
        layer = self.shapes()
        regions = outlines(layer) if layer is not None and "regions" in self._modes() else ()
        known = self.known_box.currentData()
        foreign = known if self.task == "classes" else self.foreign_box.currentData()
        return How(known, foreign, regions, self.task, self.names)

    def set_task(self, task: Task) -> None:
        """Learn objects or classes."""
        self.task = task
        classes = task == "classes"
        self.known_box.setItemText(0, "What I painted" if classes else _CHOICES[0][0])
        self.known_box.setToolTip(_CLASSES_HELP if classes else _HELP)
        self._found = []
        self._show_rows()
        self.rescan()

    def shapes(self) -> Shapes | None:
        """Return the chosen Shapes layer."""
        index = self.shapes_box.currentIndex()
        return self._shapes[index] if 0 <= index < len(self._shapes) else None

    def chosen(self) -> list[Found]:
        """Return the ticked planes."""
        return [found for found in self._found if self._ticked(found)]

    def pairs(self) -> list[Pair]:
        """Return the pairs with a ticked plane, and those whose prediction is kept."""
        ticked = {found.pair.key for found in self.chosen()}
        return [pair for pair in self._pairs if pair.kept is not None or pair.key in ticked]

    def reason(self) -> str:
        """Return why nothing can be learnt from what is ticked; "" where it can."""
        if not self._pairs and self.task == "classes":
            return "Add a Labels layer over an image and paint 1, 2, 3… in it, one number for each class."
        if not self._pairs:
            return "Segment an image and correct some objects, or add a Labels layer over an image."
        chosen = self.chosen()
        if any(self._foreign(found) for found in chosen) and not self.foreign_box.currentData():
            return "Say under 'Other labels' what is known in labels that did not come from a run."
        if chosen and "regions" in self._modes() and not self.how().regions:
            return "Draw a region in a Shapes layer (rectangle, ellipse or polygon)."
        if chosen and self._modes() == {"done"} and not any(found.done for found in chosen):
            return "Tick a plane as done first."
        return ""

    def _modes(self) -> set[str]:
        """Return what counts as known in the ticked rows."""
        modes = set()
        for found in self.chosen() or [f for f in self._found if f.pair.kept is not None]:
            box = self.foreign_box if self._foreign(found) else self.known_box
            modes.add(str(box.currentData()))
        return modes or {str(self.known_box.currentData())}

    def _foreign(self, found: Found) -> bool:
        """Tell whether the user is asked apart what is known there."""
        return self.task == "instances" and found.pair.kept is None

    def _ticked(self, found: Found) -> bool:
        mine = found.pair.kept is not None
        default = mine if self.task == "instances" else not found.trouble and bool(found.pixels or mine)
        return self._ticks.get(self._row(found), default)

    def _row(self, found: Found) -> str:
        return f"{self.task} {found.pair.key} {found.key.index}"

    # -- keeping the list right ---------------------------------------------------------------------

    def _later(self, event: Any = None) -> None:
        if self._on and not self._timer.isActive():
            self._timer.start()

    def _on_layers(self) -> None:
        self._later()

    def _on_session(self, new: Any, old: Any) -> None:
        if new.runs is not old.runs or new.image is not old.image:
            self._later()

    def _on_moved(self) -> None:
        self._fill_done()

    def _on_how(self, *_: Any) -> None:
        self._show_rows()
        self._later()
        self.changed.emit()

    def rescan(self) -> None:
        """Compare all layers with their predictions, in a thread."""
        if self._scanner.busy:
            self._stale = True
            return
        self._stale = False
        self._pairs = pairs(self._viewer.layers, self._session)
        if self.task == "classes":
            self._pairs = class_pairs(self._pairs)
        else:
            self._pairs = [pair for pair in self._pairs if not holds_classes(pair)]
        self._fill_shapes()
        self._hear([pair.labels for pair in self._pairs] + self._shapes)
        look = scan_classes if self.task == "classes" else scan
        self._scanner.start_job(look(self._pairs, self.how()), "Comparing", self._on_found)

    def _on_found(self, found: list[Found]) -> None:
        self._found = [one for one in found if one.pair.labels in self._viewer.layers]
        self._fill_tree()
        self._show_rows()
        self._fill_done()
        self.changed.emit()

    def _on_scanned(self, _outcome: str) -> None:
        if self._stale:
            self._later()

    def _hear(self, layers: list[Any]) -> None:
        """Listen to strokes (``paint``) and to undo and replaced data (``set_data``) of these layers."""
        for layer in [one for one in self._heard if one not in layers]:
            layer.events.set_data.disconnect(self._later)
            if isinstance(layer, Labels):
                layer.events.paint.disconnect(self._later)
        for layer in [one for one in layers if one not in self._heard]:
            layer.events.set_data.connect(self._later)
            if isinstance(layer, Labels):
                layer.events.paint.connect(self._later)
        self._heard = layers

    def _fill_tree(self) -> None:
        rows: dict[str, list[Found]] = {}
        for found in self._found:
            rows.setdefault(found.pair.key, []).append(found)
        with QSignalBlocker(self.tree):
            self.tree.clear()
            for planes in rows.values():
                self._add(planes)
            self.tree.expandAll()
        lines = sum(2 if len(planes) == 1 else 1 + len(planes) for planes in rows.values())
        self.tree.setFixedHeight(min((self.tree.fontMetrics().lineSpacing() + 2) * lines + 12, 220))
        self.tree.setVisible(bool(rows))
        self.tree.setRootIsDecorated(any(len(planes) > 1 for planes in rows.values()))

    def _add(self, planes: list[Found]) -> None:
        pair = planes[0].pair
        top = QTreeWidgetItem(self.tree)
        top.setToolTip(0, f"image: {pair.image.name}\nlabels: {pair.labels.name}")
        top.setText(0, shortened(pair.labels.name))
        if len(planes) == 1:
            where = name_plane(pair.source, planes[0].key)
            lead = f"{where}: " if where else ""
            top.setText(0, f"{shortened(pair.labels.name)}\n{lead}{words(planes[0], self.task)}")
            self._tick(top, planes[0])
            return
        top.setFlags(top.flags() | Qt.ItemFlag.ItemIsAutoTristate | Qt.ItemFlag.ItemIsUserCheckable)
        for found in planes:
            item = QTreeWidgetItem(top)
            item.setText(0, f"{name_plane(pair.source, found.key)}: {words(found, self.task)}")
            self._tick(item, found)

    def _tick(self, item: QTreeWidgetItem, found: Found) -> None:
        item.setData(0, _ROLE, self._row(found))
        item.setFlags(item.flags() | Qt.ItemFlag.ItemIsUserCheckable)
        on = Qt.CheckState.Checked if self._ticked(found) else Qt.CheckState.Unchecked
        item.setCheckState(0, on)

    def _on_ticked(self, item: QTreeWidgetItem, _column: int) -> None:
        row = item.data(0, _ROLE)
        if row is not None:
            self._ticks[row] = item.checkState(0) == Qt.CheckState.Checked
            self._show_rows()
            self.changed.emit()

    def _fill_shapes(self) -> None:
        before = self.shapes()
        self._shapes = [layer for layer in reversed(self._viewer.layers) if isinstance(layer, Shapes)]
        with QSignalBlocker(self.shapes_box):
            self.shapes_box.clear()
            self.shapes_box.addItems([layer.name for layer in self._shapes])
            if before in self._shapes:
                self.shapes_box.setCurrentIndex(self._shapes.index(before))

    def _show_rows(self) -> None:
        """Show the rows that count for what is ticked."""
        chosen = self.chosen()
        foreign = any(self._foreign(found) for found in chosen)
        own = not foreign or any(not self._foreign(found) for found in chosen)
        modes = self._modes()
        show_row(self._layout, self.known_box, own)
        show_row(self._layout, self.foreign_box, foreign)
        self.foreign_line.setVisible(foreign and not self.foreign_box.currentData())
        show_row(self._layout, self.shapes_box, "regions" in modes)
        self.done_box.setVisible("done" in modes)
        set_note(self.empty_line, "" if self._found else "No Labels layer lies over an image yet.")
        self.tree.setVisible(bool(self._found))

    # -- planes that are done -----------------------------------------------------------------------

    def _pair_in_view(self) -> Pair | None:
        """Return the pair of the active layer, or of the chosen image, or the first."""
        active, image = self._viewer.layers.selection.active, self._session.state.image
        for wanted in (active, image):
            for pair in self._pairs:
                if wanted is not None and wanted in (pair.labels, pair.image):
                    return pair
        return self._pairs[0] if self._pairs else None

    def _fill_done(self) -> None:
        pair = self._pair_in_view()
        self.done_box.setEnabled(pair is not None)
        if pair is None:
            return
        key = plane_at(pair.image, pair.source, self._viewer.dims.point)
        with QSignalBlocker(self.done_box):
            self.done_box.setChecked(pair.done(key))
        where = name_plane(pair.source, key)
        self.done_box.setText(f"{where} is done" if where else "This image is done")
        self.done_box.setToolTip(
            f"Every object of {pair.title(key)} is labelled: the rest of it is background."
        )

    def _on_done(self, on: bool) -> None:
        pair = self._pair_in_view()
        if pair is not None:
            mark_done(pair, plane_at(pair.image, pair.source, self._viewer.dims.point), on)
            self._later()


def words(found: Found, task: Task) -> str:
    """Say what a plane teaches: "3 added, 1 removed · 1,204 pixels"."""
    if task == "classes" and not found.numbers and not found.trouble:
        said = "nothing painted"
    elif task == "classes":
        said = found.trouble or f"{found.objects} class{'' if found.objects == 1 else 'es'}"
    elif found.pair.kept is None or not found.changes.count:
        one = f"{found.objects} object{'' if found.objects == 1 else 's'}"
        said = one if found.pixels else "nothing corrected"
        if found.pair.kept is None and not found.pixels:
            said = "no prediction kept" if not found.done else "done"
    else:
        said = found.changes.summary()
    parts = [said, f"{found.pixels:,} pixels" if found.pixels else "", "done" if found.done else ""]
    return " · ".join(part for part in parts if part)


def _choice(name: str, help_text: str, *, ask: bool = False) -> Any:
    box = combo(name, help_text)
    if ask:
        box.addItem("choose what is known…", "")
    for text, value in _CHOICES:
        box.addItem("All objects drawn" if ask and value == "objects" else text, value)
    return box
