"""What follows a training: compare both models on the image, accept and run again, or roll back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_attnseg._napari import comparison, tuning
from napari_attnseg._napari.rerun import apply, rerun
from napari_attnseg._qt.finetune_result import ResultBox
from napari_attnseg._qt.job_bar import JobBar
from napari_attnseg._qt.model_moves import moves
from napari_attnseg.errors import AttnSegError
from napari_attnseg.store import runs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from napari.components import ViewerModel

    from napari_attnseg._napari.comparison import Compared, Comparison
    from napari_attnseg._napari.corrections import Pair
    from napari_attnseg._napari.rerun import Refill
    from napari_attnseg._napari.session import Session
    from napari_attnseg._napari.tuning import Place
    from napari_attnseg._qt.finetune_sources import SourcesBox
    from napari_attnseg._qt.worker import Jobs
    from napari_attnseg.engine import Engine
    from napari_attnseg.params import Task


class AfterBox(QWidget):  # type: ignore[misc]  # qtpy is untyped
    """The result of one run and what is done with it.

    ``model_chosen`` carries the name of a model that the Segment tab shall choose, ``said`` a sentence
    for the user and whether it tells of something that went wrong.
    """

    model_chosen = Signal(str)
    said = Signal(str, bool)

    def __init__(
        self,
        viewer: ViewerModel,
        session: Session,
        jobs: Jobs,
        sources: SourcesBox,
        engine_key: Callable[[], tuple[str, str]],
    ) -> None:
        super().__init__()
        self._viewer, self._session, self._jobs = viewer, session, jobs
        self._sources, self._engine_key = sources, engine_key
        self._place: Place | None = None
        self._task: Task = "instances"  # of the run
        self._mine = False  # a job of this box is running
        self._comparison: Comparison | None = None
        self.run: Path | None = None
        self.result = ResultBox()
        self.job_bar = JobBar(jobs, "tuned")
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self.result)
        column.addWidget(self.job_bar)
        self.result.compare_asked.connect(self.compare)
        self.result.look_asked.connect(self._on_look)
        self.result.accepted.connect(self.accept)
        self.result.rolled_back.connect(self.roll_back)
        self.result.rerun_asked.connect(self.rerun)
        sources.changed.connect(self.may_compare)
        moves.moved.connect(self._on_moved)
        jobs.failed.connect(self._on_failed)
        jobs.finished.connect(self._on_job_finished)

    def release(self) -> None:
        """Stop listening to what becomes of models."""
        moves.moved.disconnect(self._on_moved)

    def _on_moved(self, old: str, new: str) -> None:
        """Take the result of a model away that was deleted or renamed elsewhere."""
        if self.run is not None and self.run.name == old:
            tuning.decide(self.run, "left")
            self.clear()
            self.said.emit(f"'{old}' is '{new}' now." if new else f"'{old}' was deleted.", False)

    def clear(self) -> None:
        """Show nothing."""
        self.end_comparison()
        self.run = None
        self.result.clear()

    def show_run(self, run: Path, headline: str, place: Place | None) -> None:
        """Show the result of a run that made a model; compare on its image where that is open."""
        self.run, self._place = run, place
        request = runs.read_request(run)
        parent, self._task = tuning.parent_of(run), request.params.task
        self.result.show_result(run.name, parent, runs.read_result(run) or {}, f"{headline}: {run.name}")
        self.may_compare()
        if self._place is not None and not self._jobs.busy:
            self.compare()

    def may_compare(self) -> None:
        """Enable the buttons that need the engine, or say why not."""
        found = self._compared_plane()
        why = "" if found is not None else "No corrected image of it is open."
        self.result.can_compare("Wait for the running job." if self._jobs.busy else why)
        self.result.rerun_button.setEnabled(not self._jobs.busy)

    def _compared_plane(self) -> Any:
        if self._place is not None and self._place.found.pair.image in self._viewer.layers:
            return self._place.found
        return next((f for f in self._sources.chosen() if f.pair.image in self._viewer.layers), None)

    def _engine_of(self, name: str) -> Engine | None:
        state = self._session.state
        return state.engine if state.engine_key == (name, self._engine_key()[1]) else None

    def _do(self, job: Any, title: str, on_result: Callable[[Any], None]) -> None:
        if not self._jobs.busy:
            self._mine = True
            self._jobs.start_job(job, title, on_result)

    def compare(self) -> None:
        """Segment the corrected plane with both models and show where they differ."""
        found, run = self._compared_plane(), self.run
        if found is None or run is None:
            return
        parent = tuning.parent_of(run)
        job = comparison.compare_models(
            self._engine_of(parent), found, parent, run.name, self._engine_key()[1], self._task
        )
        self._do(job, "Comparing the models", lambda made: self._on_compared(made, (parent, run.name)))

    def _on_compared(self, made: Compared, names: tuple[str, str]) -> None:
        self.end_comparison()
        self._comparison = comparison.show_comparison(self._viewer.layers, made, names)
        self.result.compared(made if self._comparison is not None else None)

    def _on_look(self, which: str) -> None:
        if self._comparison is not None:
            self._comparison.look(which)

    def end_comparison(self) -> None:
        """Take the layers of the comparison away and show the rest again."""
        if self._comparison is not None:
            self._comparison.close()
        self._comparison = None
        self.result.compared(None)

    def accept(self) -> None:
        """Choose the new model, and offer to run it on the open images."""
        if self.run is None:
            return
        tuning.decide(self.run, "accepted")
        self.end_comparison()
        self.model_chosen.emit(self.run.name)
        count = len(self._filled())
        layers = "1 Labels layer" if count == 1 else f"{count} Labels layers"
        mine = "What you painted stays" if self._task == "classes" else "Objects you corrected stay"
        question = f"Fill {layers} anew with it? {mine}; ctrl+z takes it back."
        self.result.was_accepted(question if count else "")

    def roll_back(self) -> None:
        """Delete the new model and choose the one before."""
        if self.run is None:
            return
        try:
            parent = tuning.roll_back(self.run.name)
        except AttnSegError as err:
            self.said.emit(str(err), True)
            return
        tuning.decide(self.run, "rolled back")
        name = self.run.name
        self.clear()
        self.model_chosen.emit(parent)
        moves.moved.emit(name, "")
        self.said.emit(f"'{name}' is deleted; '{parent}' is chosen again.", False)

    def _filled(self) -> list[Pair]:
        """Return the pairs that a re-run fills: layers of what the run has learnt, objects or classes."""
        return self._sources.pairs() if self._sources.task == self._task else []

    def rerun(self) -> None:
        """Run the accepted model on the open images; what the user corrected stays."""
        if self.run is None:
            return
        listed, (_, device) = self._filled(), self._engine_key()
        if not listed:
            what = "Classes" if self._task == "classes" else "Objects"
            self.result.say(f"Nothing to fill: choose 'Learn: {what}' and tick Labels layers.")
            return
        name = self.run.name
        job = rerun(self._engine_of(name), listed, self._sources.how(), name, device)
        self._do(job, "Running the new model", lambda made: self._on_rerun(*made))

    def _on_rerun(self, engine: Engine | None, made: list[Refill]) -> None:
        if engine is not None and engine is not self._session.state.engine:
            engine.close()
        changed = 0
        for one in made:
            if one.pair.labels not in self._viewer.layers:
                continue
            try:
                changed += apply(self._session, one)
            except AttnSegError as err:  # the others can still be filled
                self.said.emit(str(err), True)
        self.result.ask("")
        self.result.say(f"{changed:,} pixels are new; ctrl+z in the layer takes them back.")
        self._sources.rescan()

    def _on_failed(self, err: AttnSegError) -> None:
        if self._mine:
            self.said.emit(str(err), True)

    def _on_job_finished(self, _outcome: str) -> None:
        self._mine = False
