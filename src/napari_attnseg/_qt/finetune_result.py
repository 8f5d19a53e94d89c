"""After a training: did it help, how does it look, and what shall become of the new model."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QButtonGroup, QHBoxLayout, QPushButton, QVBoxLayout, QWidget

from napari_attnseg._qt.finetune_run import duration
from napari_attnseg._qt.widgets import heading, note, set_note
from napari_attnseg.core.classes import shared_dice
from napari_attnseg.core.corrections import TOO_FEW

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from napari_attnseg._napari.comparison import Compared

_CLOSING = " After these scores it learnt from them, too."
_STRICTER = " It found more objects than you left, so it was made stricter."
_LOOKS = {"before": "Before", "after": "After", "difference": "Difference", "labels": "Yours"}
_CELL = "<td style='padding-right:10px'>"
_SCORES = (("ap50", "AP@.5"), ("pq", "PQ"), ("dice", "Dice"))
_FEW_OBJECTS = "too few objects to judge by. From 8 corrected objects on, some are set aside and scored"
_FEW_AREAS = (
    "too little is painted to judge by. From 8 strokes or regions on, with each class in two or more, some "
    "are set aside and scored"
)


class ResultBox(QWidget):  # type: ignore[misc]  # qtpy is untyped
    """Scores before and after, and the buttons.  Hidden while there is nothing to decide."""

    compare_asked = Signal()
    look_asked = Signal(str)
    accepted = Signal()
    rolled_back = Signal()
    rerun_asked = Signal()
    closed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.name = ""
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(6)
        self.title = heading("")
        self.table = note(name="attnseg_tune_result")
        self.table.setTextFormat(Qt.TextFormat.RichText)
        self.compare_button = _button("Compare on the image", "attnseg_tune_compare")
        self.legend = note(name="attnseg_tune_legend")
        self.missed_line = note(name="attnseg_tune_missed")
        self.look_buttons = {name: _button(text, f"attnseg_look_{name}") for name, text in _LOOKS.items()}
        group = QButtonGroup(self)
        for name, button in self.look_buttons.items():
            button.setCheckable(True)
            group.addButton(button)
            button.clicked.connect(lambda _on=False, name=name: self.look_asked.emit(name))
        self.accept_button = _button("Accept", "attnseg_tune_accept")
        self.accept_button.setToolTip("Choose the new model in the Segment tab. The model before stays too.")
        self.back_button = _button("Roll back", "attnseg_tune_back")
        self.back_button.setToolTip("Delete the new model and choose the one before again.")
        self.rerun_line = note(name="attnseg_tune_ask")
        self.rerun_button = _button("Re-run open images", "attnseg_tune_rerun")
        self.later_button = _button("Not now", "attnseg_tune_later")
        self.said_line = note(name="attnseg_tune_said")
        column.addWidget(self.title)
        column.addWidget(self.table)
        column.addWidget(self.compare_button)
        column.addLayout(_row(*self.look_buttons.values()))
        column.addWidget(self.legend)
        column.addWidget(self.missed_line)
        column.addLayout(_row(self.accept_button, self.back_button))
        column.addWidget(self.said_line)
        column.addWidget(self.rerun_line)
        column.addLayout(_row(self.rerun_button, self.later_button))
        self.compare_button.clicked.connect(self.compare_asked)
        self.accept_button.clicked.connect(self.accepted)
        self.back_button.clicked.connect(self.rolled_back)
        self.rerun_button.clicked.connect(self.rerun_asked)
        self.later_button.clicked.connect(self.close_question)
        self.clear()

    def clear(self) -> None:
        """Show nothing."""
        self.name = ""
        self.hide()

    def show_result(self, name: str, parent: str, result: Mapping[str, Any], headline: str) -> None:
        """Show how a model did, and ask what shall become of it."""
        self.name = name
        self.title.setText(f"<b>{headline}</b>")
        self.table.setText(table(parent, name, result))
        self.compared(None)
        set_note(self.said_line, "")
        self.accept_button.setVisible(True)
        self.back_button.setText("Roll back")
        self.ask("")
        self.show()

    def can_compare(self, why_not: str) -> None:
        """Allow or forbid the comparison on the image, saying why."""
        self.compare_button.setEnabled(not why_not)
        self.compare_button.setToolTip(
            why_not or "Segment the corrected plane with both models: two Labels layers and their difference."
        )

    def compared(self, made: Compared | None) -> None:
        """Show what a comparison tells and the buttons that choose which of its layers is looked at."""
        for button in self.look_buttons.values():
            button.setVisible(made is not None)
        self.look_buttons["difference"].setChecked(True)
        set_note(self.legend, made.legend if made else "")
        set_note(self.missed_line, made.missed if made else "")

    def was_accepted(self, question: str) -> None:
        """Show that the model is chosen, and ask about the open images."""
        self.accept_button.setVisible(False)
        self.back_button.setText("Roll back after all")
        self.say(f"'{self.name}' is the chosen model now.")
        self.ask(question)

    def ask(self, question: str) -> None:
        """Ask whether open images are to be run again; "" asks nothing."""
        set_note(self.rerun_line, question)
        self.rerun_button.setVisible(bool(question))
        self.later_button.setVisible(bool(question))

    def close_question(self) -> None:
        """Leave the open images as they are."""
        self.ask("")

    def say(self, text: str) -> None:
        """Say one thing under the buttons."""
        set_note(self.said_line, text)


def table(parent: str, name: str, result: Mapping[str, Any]) -> str:
    """Return the scores before and after as a small table, or why there are none."""
    before, after = result.get("before"), result.get("after")
    took = f"{result.get('steps', 0)} steps, {duration(float(result.get('seconds') or 0))}."
    took += _STRICTER if result.get("shift") else ""
    if not before or not after:
        why = str(result.get("reason") or "nothing was held out")
        if why == TOO_FEW and result.get("task") == "classes":
            why = _FEW_AREAS
        elif why == TOO_FEW:
            why = _FEW_OBJECTS
        return f"<p>No scores: {why}. Look at both models on the image instead.</p><p>{took}</p>"
    if "per_class" in after:
        return _class_table(parent, name, before, after, took)
    shown = [(key, title) for key, title in _SCORES if key in before and key in after]
    gains = [_gain(before[key], after[key]) for key, _ in shown]
    rows = "".join(
        f"<tr>{_CELL}{title}</td>{_CELL}{before[key]:.2f}</td>{_CELL}<b>{after[key]:.2f}</b></td>"
        f"<td>{gain:+.2f}</td></tr>"
        for (key, title), gain in zip(shown, gains, strict=True)
    )
    count = int(after.get("objects", 0))
    return (
        f"<table><tr><td></td>{_CELL}{parent}</td>{_CELL}{name}</td><td></td></tr>{rows}</table>"
        f"{_warning(gains, parent)}"
        f"<p>On {count} corrected object{'' if count == 1 else 's'} that were held out; the best step was "
        f"chosen by them.{_CLOSING if result.get('closing') else ''} {took}</p>"
    )


def _class_table(
    parent: str, name: str, before: Mapping[str, Any], after: Mapping[str, Any], took: str
) -> str:
    """Return Dice of each class, the mean of those that both models know, and Dice of the foreground."""
    each = [(kind, before["per_class"].get(kind), dice) for kind, dice in after["per_class"].items()]
    fresh = any(old is None and new is not None for _, old, new in each)
    old, new = shared_dice(before, after) or (None, after["dice"])
    rows = [("mean of known classes" if fresh and old is not None else "mean Dice", _two(old), new)]
    rows += [(kind, "new" if old is None and new is not None else _two(old), new) for kind, old, new in each]
    rows.append(("any class", _two(before["foreground"]), after["foreground"]))
    lines = "".join(
        f"<tr>{_CELL}{escape(title)}</td>{_CELL}{old}</td>{_CELL}<b>{_two(new)}</b></td></tr>"
        for title, old, new in rows
    )
    gains = [] if old is None else [_gain(old, new)]
    if fresh and gains == [0]:  # no better at these, but it can do something new
        gains = []
    why = f" New: '{escape(parent)}' does not know the class." if fresh else ""
    return (
        f"<table><tr><td></td>{_CELL}{escape(parent)}</td>{_CELL}{escape(name)}</td></tr>{lines}</table>"
        f"{_warning(gains, parent)}"
        f"<p>Dice on {after['pixels']:,} pixels that were held out; the best step was chosen by them.{why} "
        f"{took}</p>"
    )


def _gain(before: float, after: float) -> float:
    """Return the difference of two scores as they are shown."""
    return round(round(after, 2) - round(before, 2), 2) + 0.0


def _warning(gains: Sequence[float], parent: str) -> str:
    """Return what to do about a model that did worse or no better than before; "" where a score rose."""
    if not gains or max(gains) > 0:
        return ""
    how = "worse" if min(gains) < 0 else "no better"
    return (
        f"<p><b>On the held-out corrections the new model did {how} than '{escape(parent)}'.</b> "
        "Roll it back, or compare both on the image before you accept it.</p>"
    )


def _two(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _button(text: str, name: str) -> QPushButton:
    button = QPushButton(text)
    button.setObjectName(name)
    return button


def _row(*buttons: QPushButton) -> QHBoxLayout:
    row = QHBoxLayout()
    row.setContentsMargins(0, 0, 0, 0)
    for button in buttons:
        row.addWidget(button, 1)
    return row
