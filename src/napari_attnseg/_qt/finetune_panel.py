"""The Fine-tune tab: from the user's corrections to a better model, without leaving the window."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QLineEdit, QPushButton, QVBoxLayout, QWidget

from napari_attnseg._napari import comparison, tuning
from napari_attnseg._napari.classes import parent_classes
from napari_attnseg._qt.finetune_after import AfterBox
from napari_attnseg._qt.finetune_classes import ClassesBox
from napari_attnseg._qt.finetune_run import RunBox, ask_on_close, duration, warmed
from napari_attnseg._qt.finetune_shelf import ShelfBox
from napari_attnseg._qt.finetune_sources import SourcesBox
from napari_attnseg._qt.finetune_waiting import WaitingBox
from napari_attnseg._qt.model_moves import moves
from napari_attnseg._qt.params_form import add_row
from napari_attnseg._qt.run_watch import another, watched_elsewhere
from napari_attnseg._qt.widgets import MARGIN, combo, form, heading, note, set_note
from napari_attnseg._qt.worker import Jobs
from napari_attnseg.core.classes import BACKGROUND
from napari_attnseg.errors import AttnSegError
from napari_attnseg.jobs import child
from napari_attnseg.params import TrainParams
from napari_attnseg.store import runs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from napari.components import ViewerModel

    from napari_attnseg._napari.session import Session
    from napari_attnseg._napari.tuning import Place, Started
    from napari_attnseg._napari.watch import LayerWatch

_TIERS = {"Quick: a minute or two": "quick", "Full: until it stops getting better": "full"}

_RED = "QLabel { color: #d9483b; }"
_TASKS = {"Objects": "instances", "Classes": "classes"}
_TASK_HELP = (
    "Objects: one number for each object, as in the result of a run. Classes: one number for each kind of "
    "pixel, painted in a Labels layer (1 nucleus, 2 cytoplasm…)."
)


class FinetunePanel(QWidget):  # type: ignore[misc]  # qtpy is untyped
    """What to learn from, Start, the run, and its result.

    ``model_chosen`` carries the name of a model that the Segment tab shall choose.

    Parameters
    ----------
    engine_key : callable
        Returns (model, device) of the Segment tab: the model to start from.
    """

    model_chosen = Signal(str)

    def __init__(
        self,
        viewer: ViewerModel,
        session: Session,
        jobs: Jobs,
        watch: LayerWatch,
        engine_key: Callable[[], tuple[str, str]],
    ) -> None:
        super().__init__()
        self._viewer, self._session, self._engine_key = viewer, session, engine_key
        self._place: Place | None = None
        self._suggested = ""
        self._preparer = Jobs(self)
        column = QVBoxLayout(self)
        column.setContentsMargins(MARGIN, MARGIN, MARGIN, MARGIN)
        column.setSpacing(6)
        self.waiting = WaitingBox()
        self.sources = SourcesBox(viewer, session, watch)
        self.classes_box = ClassesBox()
        self.classes_box.hide()
        self.shelf = ShelfBox()
        self.total_line = note(name="attnseg_tune_total")
        self.run_box = RunBox(viewer)
        self.after = AfterBox(viewer, session, jobs, self.sources, engine_key)
        self.error_line = note(name="attnseg_tune_error")
        for part in (self.waiting, self.error_line, self.run_box, self.after):
            column.addWidget(part)
        self.setup = QWidget()  # hidden while a run is shown
        inner = QVBoxLayout(self.setup)
        inner.setContentsMargins(0, 0, 0, 0)
        inner.setSpacing(6)
        self.next_heading = heading("Next training")  # sets it off from a result above
        inner.addWidget(self.next_heading)
        learn = form()
        self.task_box = combo("attnseg_task", _TASK_HELP)
        for text, value in _TASKS.items():
            self.task_box.addItem(text, value)
        add_row(learn, "Learn", self.task_box)
        inner.addLayout(learn)
        inner.addWidget(heading("Learn from"))
        for part in (self.sources, self.classes_box, self.shelf, self.total_line):
            inner.addWidget(part)
        inner.addWidget(heading("New model"))
        self._add_form(inner)
        column.addWidget(self.setup)
        column.addStretch(1)
        self._say("")
        self._connect()
        self.refresh()

    def _add_form(self, column: QVBoxLayout) -> None:
        layout = form()
        self.parent_line = note(name="attnseg_tune_parent")
        self.tier_box = combo("attnseg_tier", str(TrainParams.model_fields["tier"].description))
        for text, value in _TIERS.items():
            self.tier_box.addItem(text, value)
        self.name_edit = QLineEdit()
        self.name_edit.setObjectName("attnseg_tune_name")
        self.name_edit.setToolTip("Name of the new model. The model it starts from is never overwritten.")
        add_row(layout, "Starts from", self.parent_line)
        add_row(layout, "Training", self.tier_box)
        add_row(layout, "Name", self.name_edit)
        column.addLayout(layout)
        self.cost_line = note(name="attnseg_tune_cost")
        self.start_button = QPushButton("Start")
        self.start_button.setObjectName("attnseg_tune_start")
        self.start_button.setMinimumHeight(30)
        self.start_button.setStyleSheet("QPushButton { font-weight: bold; }")
        self.reason_line = note(name="attnseg_tune_reason")
        for part in (self.cost_line, self.start_button, self.reason_line):
            column.addWidget(part)

    def _connect(self) -> None:
        self.task_box.currentIndexChanged.connect(self._on_task)
        self.classes_box.changed.connect(self._on_names)
        self.sources.changed.connect(self._on_sources)
        self.shelf.changed.connect(self.refresh)
        self.tier_box.currentIndexChanged.connect(self._fill_cost)
        self.name_edit.textChanged.connect(self.refresh)
        self.start_button.clicked.connect(self.start)
        self.run_box.ended.connect(self._on_ended)
        self.after.model_chosen.connect(self._on_chosen)
        self.after.said.connect(self._say)
        self.waiting.look_asked.connect(self.look_at)
        self.waiting.go_on_asked.connect(self.go_on)
        self._preparer.failed.connect(self._on_failed)
        self._preparer.finished.connect(self.refresh)
        self._session.changed.connect(self._on_session)
        moves.moved.connect(self._on_moved)

    def release(self) -> None:
        """Let go of viewer and session; a child goes on."""
        self._session.changed.disconnect(self._on_session)
        moves.moved.disconnect(self._on_moved)
        self.after.release()
        self._preparer.cancel()
        self.sources.release()
        self.shelf.release()
        self.run_box.release()

    def listen(self, on: bool) -> None:
        """Keep the lists fresh while the tab is looked at."""
        self.sources.listen(on)
        if on:
            self._suggest()
            self.shelf.fill()
            self._fill_waiting()
            self._fill_cost()
            self.refresh()

    @property
    def running(self) -> Path | None:
        """The run that learns now."""
        return self.run_box.run

    def may_close(self) -> bool:
        """Ask what shall become of a running training when the window closes; False keeps it open."""
        if self.running is None:
            return True
        answer = ask_on_close(self, self.running.name)
        if answer == "stop":
            self.run_box.watch.stop_at_once()
        if answer != "stay":
            self.run_box.watch.leave()
        return answer != "stay"

    # -- keeping the panel right --------------------------------------------------------------------

    def params(self) -> TrainParams:
        """Return the parameters of the next run; ``ValueError`` for a name that is empty."""
        parent, device = self._engine_key()
        return TrainParams(
            name=self.name_edit.text().strip(), start=parent, tier=self.tier_box.currentData(), device=device,
            task=self.task_box.currentData(),
        )  # fmt: skip

    def objects(self) -> int:
        """Return how many objects would teach."""
        planes = sum(found.teaching for found in self.sources.chosen())
        return planes + sum(kept.objects for kept in self.shelf.chosen())

    def reason(self) -> str:
        """Return in one sentence why Start is disabled; "" when it is not."""
        if self.running is not None:
            return f"'{self.running.name}' is learning."
        if self._preparer.busy:
            return "The samples are being written…"
        if (other := another(self.running)) is not None:
            return f"'{other.name}' is learning in another window."
        classes = self.task_box.currentData() == "classes"
        if not classes and (told := parent_classes(self._engine_key()[0])):
            said = ", ".join(told)
            return f"The model tells classes apart ({said}): learn classes, or choose another model."
        why = self.sources.reason() if self.sources.chosen() or not self.shelf.chosen() else ""
        if classes:
            earlier = {name for kept in self.shelf.chosen() for name in kept.classes}
            why = why or self.classes_box.reason(earlier)
        else:
            why = why or tuning.few(self.objects())
        return why or tuning.name_trouble(self.name_edit.text().strip())

    def _on_task(self, *_: Any) -> None:
        task = self.task_box.currentData()
        self.classes_box.setVisible(task == "classes")
        self.sources.set_task(task)
        self.shelf.set_task(task)
        self._on_sources()

    def _on_sources(self) -> None:
        if self.task_box.currentData() == "classes":
            self.classes_box.fill(self.sources.chosen(), parent_classes(self._engine_key()[0]))
            self.sources.names = self.classes_box.names()
        self.refresh()

    def _on_names(self) -> None:
        self.sources.names = self.classes_box.names()
        self.refresh()

    def refresh(self, *_: Any) -> None:
        """Say what would be learnt from, and whether Start can be pressed."""
        self.parent_line.setText(self._engine_key()[0])
        chosen, earlier = self.sources.chosen(), self.shelf.chosen()
        pixels, count = sum(found.pixels for found in chosen), self.objects()
        planes = sum(1 for found in chosen if found.pixels) + len(earlier)
        kinds = len({name for _, name in self.classes_box.names() if name.lower() != BACKGROUND})
        what = f"{count} object{'' if count == 1 else 's'}"
        if self.task_box.currentData() == "classes":
            what = f"{kinds} class{'' if kinds == 1 else 'es'}" if kinds else ""
        parts = [
            what,
            f"{pixels:,} pixels" if pixels else "",
            f"{planes} plane{'' if planes == 1 else 's'}",
        ]
        set_note(self.total_line, f"In all: {', '.join(p for p in parts if p)}." if planes else "")
        self.setup.setVisible(self.running is None)
        self.next_heading.setVisible(self.after.run is not None)
        why = self.reason()
        self.start_button.setEnabled(not why)
        self.start_button.setToolTip(why or "Learn from what is ticked, in a process of its own.")
        set_note(self.reason_line, "" if self.running is not None else why)

    def _suggest(self, used: str = "") -> None:
        """Suggest a free name, unless the user wrote one; ``used`` is that of a run which ended."""
        text = self.name_edit.text()
        tuning.use_models_folder()
        if text in ("", self._suggested):
            self._suggested = tuning.suggest_name(self._engine_key()[0])
        elif text == used and tuning.name_trouble(used):
            self._suggested = tuning.free_name(used)
        else:
            return
        self.name_edit.setText(self._suggested)

    def _fill_cost(self, *_: Any) -> None:
        cost = tuning.remembered(self.tier_box.currentData(), self._engine_key()[1])
        if cost is None:
            self.cost_line.setText(
                "Not measured on this machine yet: the first steps tell time and memory; Cancel is at hand."
            )
        else:
            memory = f" and {cost.memory_mb / 1024:.1f} GB" if cost.memory_mb else ""
            self.cost_line.setText(f"Last time on this machine: {duration(cost.seconds)}{memory}.")

    def _fill_waiting(self) -> None:
        here = {self.running, self.after.run}
        self.waiting.fill(
            [
                state
                for state in tuning.undecided()
                if (run := runs.runs_folder() / state.name) not in here and not watched_elsewhere(run)
            ]
        )

    def _on_session(self, new: Any, old: Any) -> None:
        if new.engine_key != old.engine_key:
            self._suggest()
            self._on_sources()
        self.refresh()
        self.after.may_compare()

    def _on_moved(self, _old: str, _new: str) -> None:
        """Show from which model the next one starts: the Segment tab has followed a rename by now."""
        self._suggest()
        self._on_sources()

    def _on_failed(self, err: AttnSegError) -> None:
        self._say(str(err), wrong=True)
        self.refresh()

    def _say(self, text: str, wrong: bool = False) -> None:
        """Say one thing at the top, in red what went wrong."""
        self.error_line.setStyleSheet(_RED if wrong else "")
        set_note(self.error_line, text)

    def _on_chosen(self, name: str) -> None:
        self.model_chosen.emit(name)
        self._suggest()
        self.refresh()

    # -- learning -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Write the run folder in a thread, then start its child; nothing where :meth:`reason` objects."""
        if self.reason():
            self.refresh()
            return
        self._say("")
        self.after.clear()
        job = tuning.prepare(self.sources.chosen(), self.shelf.chosen(), self.sources.how(), self.params())
        self._preparer.start_job(warmed(job), "Writing samples", self._on_prepared)
        self.refresh()

    def _on_prepared(self, started: Started) -> None:
        self._place = started.place
        self._launch(started.run)

    def _launch(self, run: Path, *, resume: bool = False) -> None:
        try:
            child.start(run, resume=resume)
        except AttnSegError as err:
            self._on_failed(err)
            return
        self.run_box.follow(run, self._place)
        self.refresh()

    def look_at(self, name: str) -> None:
        """Take up a run of another day: follow it while it learns, else show its result."""
        run = runs.runs_folder() / name
        if self.running is not None:
            self._say(f"Wait for '{self.running.name}' first.", wrong=True)
            return
        self._place = None
        state = runs.state(run)
        if state.pid is not None:
            self.run_box.follow(run, None)
        else:
            self._on_ended(run, state.status)
        self.refresh()
        self._fill_waiting()

    def go_on(self, name: str) -> None:
        """Resume an interrupted run."""
        if self.running is None:
            self._place = None
            self._launch(runs.runs_folder() / name, resume=True)
        self._fill_waiting()

    def _on_ended(self, run: Path, status: str) -> None:
        comparison.remove(self._viewer.layers, ("preview",))
        lines = runs.tail(run)[0]
        end: dict[str, Any] = next((line for line in reversed(lines) if line.get("kind") == "end"), {})
        said = f"{end.get('message', '')} {end.get('hint', '')}".strip()
        begun = any(line.get("kind") == "step" for line in lines)
        ours = status == "interrupted" and runs.wishes(run)[1]  # ended by us: it did not hear the wish
        if ours and not begun:
            status = "cancelled"  # there is nothing to go on from
        self._say("")
        if status in ("finished", "cancelled") and tuning.model_made(run.name):
            headline = "Finished" if status == "finished" else "Cancelled; the best is kept"
            self.after.show_run(run, headline, self._place)
        elif ours and begun:
            self._say(f"Cancelled. What '{run.name}' had learnt before is kept: go on with it, or leave it.")
        elif status == "interrupted":
            self._say(f"The training of '{run.name}' was interrupted. Nothing is lost.", wrong=True)
        elif status == "failed":
            self._say(f"{said} The log: {run / 'log.txt'}", wrong=True)
        else:
            said = said or "Cancelled: nothing is stored."
            tuning.give_up(run, said)
            self._say(said)
        self._suggest(run.name)
        self._fill_cost()
        self._fill_waiting()
        self.refresh()
