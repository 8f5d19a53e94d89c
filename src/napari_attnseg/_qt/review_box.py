"""The list "Correct this next": suspects with thumbnails, and going from one to the next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari.utils.key_bindings import coerce_keybinding
from qtpy.QtCore import QSignalBlocker, QSize, Qt
from qtpy.QtGui import QIcon, QImage, QKeySequence, QPixmap
from qtpy.QtWidgets import (
    QCheckBox,
    QHBoxLayout,
    QListWidget,
    QListWidgetItem,
    QPushButton,
    QShortcut,
    QVBoxLayout,
    QWidget,
)

from napari_attnseg._napari import review
from napari_attnseg._qt.job_bar import JobBar
from napari_attnseg._qt.letters import LettersToCanvas
from napari_attnseg._qt.widgets import combo, heading, note, set_note
from napari_attnseg.errors import AttnSegError
from napari_attnseg.jobs.rank import THUMBNAIL

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_attnseg._napari.review import Question
    from napari_attnseg._napari.session import Session
    from napari_attnseg._napari.tools import Tools
    from napari_attnseg._qt.worker import Jobs
    from napari_attnseg.core.ranking import Suspect
    from napari_attnseg.engine import Engine
    from napari_attnseg.jobs.rank import Ranking

SHOWN = 50  # entries of the list
_TODO = {
    "object": "Object {}: A if it is right, D to delete it; N goes on.",
    "missed": "Nothing is labelled here. Where an object is missing, press M (a new number) and paint it "
    "with napari's brush; N goes on.",
    "field": "Field at {}, {}: put the mouse on what is wrong and press a key; N goes on.",
}
_ANEW = "The labels were written anew since the ranking: rank again."
_KEYS = {"N": 1, "Shift-N": -1}


class ReviewBox(QWidget):  # type: ignore[misc]  # qtpy is untyped
    """Ranks the objects of the layer that is corrected, and leads from one to the next."""

    def __init__(self, viewer: ViewerModel, session: Session, jobs: Jobs, tools: Tools) -> None:
        super().__init__()
        self._viewer, self._session, self._jobs, self._tools = viewer, session, jobs, tools
        self._shown: Any = None  # the layer that the last words were about
        self._asked: Question | None = None
        self._ranking: Ranking | None = None
        self._entries: list[Suspect] = []
        self._done: list[bool] = []
        self._error = ""  # why the last ranking failed or does not hold
        self._running = False  # the running job is a ranking
        self._bound: list[str] = []
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(6)
        column.addWidget(heading("Correct this next"))
        self.kind_box = combo("attnseg_rank_kind", "List single objects, or whole fields of the image.")
        self.kind_box.addItems(["objects", "fields"])
        self.scope_box = combo("attnseg_rank_scope", "The plane that is shown, or every labelled plane.")
        self.scope_box.addItems(["this plane", "all planes"])
        self.views_box = QCheckBox("Compare flipped views too")
        self.views_box.setObjectName("attnseg_rank_views")
        self.views_box.setToolTip(
            "On: the network also sees the image flipped and turned; objects that it then draws otherwise,\n"
            "and those unlike what is labelled, come first. Off: only how sure the last run was; no wait."
        )
        self.views_box.setChecked(True)
        self.rank_button = QPushButton("Rank")
        self.rank_button.setObjectName("attnseg_rank")
        self.job_bar = JobBar(jobs, "review")
        self.line = note(name="attnseg_rank_line")
        self.list = _list()
        LettersToCanvas(self.list, self.kind_box, self.scope_box)
        column.addLayout(_row(self.kind_box, self.scope_box))
        column.addWidget(self.views_box)
        column.addWidget(self.rank_button)
        column.addWidget(self.job_bar)
        column.addWidget(self.line)
        column.addWidget(self.list, 1)
        self.back_button, self.next_button = _step("Previous  ⇧N", "back"), _step("Next  N", "next")
        column.addLayout(_row(self.back_button, self.next_button))
        self._connect()
        self._fill()
        self.refresh()

    def _connect(self) -> None:
        self.rank_button.clicked.connect(self.rank)
        self.kind_box.currentIndexChanged.connect(self._fill)
        self.list.currentRowChanged.connect(self._on_row)
        self.list.itemClicked.connect(lambda item: self._go(self.list.row(item)))
        self.back_button.clicked.connect(lambda: self.step(-1))
        self.next_button.clicked.connect(lambda: self.step(1))
        self._jobs.failed.connect(self._on_failed)
        self._jobs.finished.connect(self._on_finished)
        self._session.changed.connect(self.refresh)
        for key, way in _KEYS.items():
            shortcut = QShortcut(QKeySequence(key.replace("-", "+")), self)
            shortcut.setContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
            shortcut.activated.connect(lambda way=way: self.step(way))

    def release(self) -> None:
        """Let go of the session and of the layers."""
        self.listen(False)
        self._session.changed.disconnect(self.refresh)
        self._asked = self._ranking = self._shown = None
        self._entries, self._done = [], []

    def listen(self, on: bool) -> None:
        """Take the keys for the next and the previous suspect on the canvas, where they are free."""
        for key in self._bound:
            self._viewer.bind_key(key, None)
        self._bound = []
        if not on:
            return
        for key, way in _KEYS.items():
            binding = coerce_keybinding(key)
            if binding not in self._viewer.keymap and binding not in type(self._viewer).class_keymap:
                self._viewer.bind_key(key, lambda _viewer, way=way: self.step(way))
                self._bound.append(key)

    # -- ranking ------------------------------------------------------------------------------------

    def reason(self) -> str:
        """Return in one sentence why Rank is disabled; "" when it is not."""
        if busy := self._session.state.busy:
            return f"{busy}…"
        return review.why_not(self._viewer, self._session, self._tools.layer)

    def refresh(self, *_: Any) -> None:
        """Show whether the layer can be ranked; a list of another layer goes."""
        layer, reason = self._tools.layer, self.reason()
        if layer is not self._shown:
            self._shown, self._error = layer, ""
        if self._asked is not None and self._asked.pair.labels is not layer:
            self._drop("")
        elif self._asked is not None and review.outdated(self._session, self._asked):
            self._drop(_ANEW)
        self.rank_button.setEnabled(not reason)
        self.rank_button.setToolTip(reason or "List the objects that most want a correction.")
        self.scope_box.setVisible(layer is not None and layer.ndim > 2)
        self._say(reason)

    def _drop(self, why: str) -> None:
        """Empty the list, and say why."""
        self._asked = self._ranking = None
        self._error = why
        self._tools.point_away()
        self._tools.said.emit("", False)  # what to do with an object of the list
        self._fill()

    def _say(self, reason: str = "") -> None:
        if self._error:
            set_note(self.line, self._error)
        elif self._asked is not None and not self._session.state.busy:
            left = self._done.count(False)
            words = f"{left} of {len(self._entries)} to look at; the most doubtful comes first."
            set_note(self.line, words if self._entries else "Nothing is in doubt here.")
        else:
            set_note(self.line, "" if self._session.state.busy else reason)

    def rank(self) -> None:
        """Ask which objects want a correction."""
        layer = self._tools.layer
        if self.reason() or layer is None:
            self.refresh()
            return
        state = self._session.state
        model = state.engine.card.id if state.engine is not None else "base"
        every = self.scope_box.currentText() == "all planes"
        try:
            asked = review.question(self._viewer, self._session, layer, every, model)
        except AttnSegError as err:
            set_note(self.line, str(err))
            return
        self._running, self._error = True, ""
        job = review.ask(state.engine, asked, self.views_box.isChecked())
        self._jobs.start_job(job, "Ranking objects", lambda result: self._on_result(asked, *result))

    def _on_failed(self, err: AttnSegError) -> None:
        if self._running:
            self._error = str(err)
            self._say()

    def _on_finished(self, _outcome: str) -> None:
        self._running = False

    def _on_result(self, asked: Question, engine: Engine | None, ranking: Ranking) -> None:
        if asked.pair.labels not in self._viewer.layers:
            return  # removed in the last moment
        if engine is not None and self._session.state.engine is None:
            engine.close()  # the dock loads its own; this one was for the ranking only
        review.show_scores(asked.pair.labels, ranking)
        if asked.pair.labels is self._tools.layer:
            self._asked, self._ranking = asked, ranking
            self._fill()
            self.refresh()

    # -- the list -----------------------------------------------------------------------------------

    def _fill(self, *_: Any) -> None:
        """List what the last ranking found."""
        found = self._ranking
        fields = self.kind_box.currentText() == "fields"
        listed = () if found is None else found.fields if fields else found.suspects
        self._entries = list(listed[:SHOWN])
        with QSignalBlocker(self.list):
            self.list.clear()
            for suspect in self._entries:
                self.list.addItem(QListWidgetItem(_icon(suspect), ""))
            self.list.setCurrentRow(-1)
        self.mark()

    def mark(self) -> None:
        """Tick off what was corrected or accepted since the ranking."""
        self._done = [] if self._asked is None else review.done_of(self._asked, self._entries)
        for n, (suspect, done) in enumerate(zip(self._entries, self._done, strict=True)):
            self.list.item(n).setText(_words(suspect, done))
        for button in (self.back_button, self.next_button):
            button.setEnabled(bool(self._entries))
            button.setToolTip("" if self._entries else "Rank first.")
        self._say(self.reason())

    def step(self, way: int) -> None:
        """Go to the next suspect that is not done (+1), or the one before (-1); round at the ends."""
        count = len(self._entries)
        if not count:
            set_note(self.line, self.reason() or "Rank first: then N goes from one to the next.")
            return
        start = self.list.currentRow() if self.list.currentRow() >= 0 else (-1 if way > 0 else count)
        for n in range(1, count + 1):
            number = (start + way * n) % count
            if not self._done[number]:
                self.list.setCurrentRow(number)
                return
        set_note(self.line, "All of these are done: rank again for more.")

    def _on_row(self, row: int) -> None:
        if row >= 0:
            self._go(row)

    def _go(self, row: int) -> None:
        if self._asked is not None and self._asked.pair.labels in self._viewer.layers:
            suspect = self._entries[row]
            review.go_to(self._viewer, self._asked, suspect)
            self._tools.point_at(self._asked.pair.index(suspect.plane), suspect.label, suspect.box)
            place = suspect.box[:2] if suspect.kind == "field" else (suspect.label,)
            self._tools.said.emit(_TODO[suspect.kind].format(*place), False)


def _list() -> QListWidget:
    box = QListWidget()
    box.setObjectName("attnseg_rank_list")
    box.setIconSize(QSize(THUMBNAIL, THUMBNAIL))
    box.setMinimumHeight(3 * THUMBNAIL + 24)
    box.setWordWrap(True)
    box.setUniformItemSizes(False)
    box.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    return box


def _row(*widgets: QWidget) -> QHBoxLayout:
    row = QHBoxLayout()
    row.setSpacing(4)
    for widget in widgets:
        row.addWidget(widget, 1)
    return row


def _step(text: str, name: str) -> QPushButton:
    button = QPushButton(text)
    button.setObjectName(f"attnseg_rank_{name}")
    button.setFocusPolicy(Qt.FocusPolicy.NoFocus)
    return button


def _icon(suspect: Suspect) -> QIcon:
    """Return the thumbnail as an icon."""
    if suspect.picture is None:
        return QIcon()
    data = suspect.picture.tobytes()
    height, width = suspect.picture.shape[:2]
    image = QImage(data, width, height, 3 * width, QImage.Format.Format_RGB888)
    picture = QPixmap.fromImage(image.copy())
    icon = QIcon(picture)
    icon.addPixmap(picture, QIcon.Mode.Selected)  # without a tint
    return icon


def _words(suspect: Suspect, done: bool) -> str:
    """Return a suspect in two short lines."""
    top, left = suspect.box[:2]
    name = {
        "object": f"object {suspect.label}",
        "missed": "nothing labelled",
        "field": f"field at {top}, {left}",
    }
    plane = f" · plane {', '.join(str(n) for n in suspect.plane.index)}" if suspect.plane.index else ""
    lead = "✓ " if done else ""
    return f"{lead}{name[suspect.kind]}{plane}\n{suspect.score:.2f} · {suspect.why}"
