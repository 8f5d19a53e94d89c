"""The shelf: samples of earlier runs, to be learnt from again."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QSize, Qt, Signal
from qtpy.QtGui import QIcon, QImage, QPixmap
from qtpy.QtWidgets import QCheckBox, QListWidget, QListWidgetItem, QPushButton, QVBoxLayout, QWidget

from napari_attnseg._napari.tuning import read_shelf
from napari_attnseg._qt.widgets import TICKS, shortened
from napari_attnseg._qt.worker import Jobs
from napari_attnseg.store.samples import take_off_shelf

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from napari_attnseg._napari.tuning import Shelved
    from napari_attnseg.store.samples import Kept

_SIDE = 40  # of thumbnails, pixels
_ROLE = Qt.ItemDataRole.UserRole


class ShelfBox(QWidget):  # type: ignore[misc]  # qtpy is untyped
    """A list that is read when it is opened.  ``changed`` says that other samples are ticked."""

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._kept: dict[str, Kept] = {}
        self._ticked: set[str] = set()
        self._stale = False
        self._task = "instances"
        self._reader = Jobs(self)
        self.open_box = QCheckBox("Corrections of earlier days")
        self.open_box.setObjectName("attnseg_shelf_open")
        self.open_box.setToolTip("Samples of earlier runs on this computer: tick those that count again.")
        self.listed = QListWidget()
        self.listed.setObjectName("attnseg_shelf")
        self.listed.setStyleSheet(TICKS)
        self.listed.setIconSize(QSize(_SIDE, _SIDE))
        self.listed.setFixedHeight(140)
        self.forget_button = QPushButton("Forget the selected sample")
        self.forget_button.setObjectName("attnseg_shelf_forget")
        self.forget_button.setToolTip("Delete it from the shelf. Runs and models that learnt from it stay.")
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        for part in (self.open_box, self.listed, self.forget_button):
            column.addWidget(part)
        self.open_box.toggled.connect(self._on_open)
        self.listed.itemChanged.connect(self._on_ticked)
        self.listed.currentItemChanged.connect(self._on_selected)
        self.forget_button.clicked.connect(self._on_forget)
        self._reader.finished.connect(self._on_read)
        self._on_open(False)

    def release(self) -> None:
        """Stop reading."""
        self._reader.cancel()

    def set_task(self, task: str) -> None:
        """List the samples that teach objects, or those that teach classes."""
        self._task = task
        self.fill()

    def chosen(self) -> list[Kept]:
        """Return the ticked samples; none while the list is closed."""
        if not self.open_box.isChecked():
            return []
        return [kept for key, kept in self._kept.items() if key in self._ticked]

    def fill(self) -> None:
        """Read the shelf anew, in a thread."""
        if not self.open_box.isChecked():
            return
        self._stale = self._reader.busy
        if not self._stale:
            self._reader.start_job(read_shelf(_SIDE), "Reading the shelf", self._on_shelf)

    def _on_read(self, _outcome: str) -> None:
        if self._stale:
            self.fill()

    def _on_open(self, on: bool) -> None:
        self.listed.setVisible(on)
        self.forget_button.setVisible(on)
        self._on_selected()
        self.fill()
        self.changed.emit()

    def _on_shelf(self, found: list[Shelved]) -> None:
        found = [one for one in found if bool(one.kept.classes) == (self._task == "classes")]
        self._kept = {one.kept.key: one.kept for one in found}
        self._ticked &= self._kept.keys()
        self.listed.blockSignals(True)
        self.listed.clear()
        for one in found:
            kept = one.kept
            day = time.strftime("%Y-%m-%d", time.localtime(kept.created))
            count = f"{kept.objects} object{'' if kept.objects == 1 else 's'}"
            count = ", ".join(kept.classes) or count
            text = f"{shortened(kept.name or 'image')}\n{count} · {day}"
            item = QListWidgetItem(QIcon(_pixmap(one.thumbnail)), text)
            item.setToolTip(kept.name)
            item.setData(_ROLE, kept.key)
            item.setFlags(item.flags() | Qt.ItemFlag.ItemIsUserCheckable)
            item.setCheckState(Qt.CheckState.Checked if kept.key in self._ticked else Qt.CheckState.Unchecked)
            self.listed.addItem(item)
        if not found:
            empty = QListWidgetItem("Nothing yet: every run keeps its samples here.")
            empty.setFlags(Qt.ItemFlag.NoItemFlags)
            self.listed.addItem(empty)
        self.listed.blockSignals(False)
        self._on_selected()
        self.changed.emit()

    def _on_ticked(self, item: QListWidgetItem) -> None:
        key = item.data(_ROLE)
        if item.checkState() == Qt.CheckState.Checked:
            self._ticked.add(key)
        else:
            self._ticked.discard(key)
        self.changed.emit()

    def _on_selected(self, *_: Any) -> None:
        item = self.listed.currentItem()
        self.forget_button.setEnabled(item is not None and item.data(_ROLE) in self._kept)

    def _on_forget(self) -> None:
        item = self.listed.currentItem()
        if item is not None:
            take_off_shelf(item.data(_ROLE))
            self.fill()


def _pixmap(rgb: npt.NDArray[np.uint8]) -> QPixmap:
    height, width, _ = rgb.shape
    return QPixmap.fromImage(
        QImage(rgb.tobytes(), width, height, 3 * width, QImage.Format.Format_RGB888).copy()
    )
