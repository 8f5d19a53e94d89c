"""The Attention tab: what a pixel or an object looks at, maps, a second model, and checks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QSignalBlocker
from qtpy.QtWidgets import QApplication, QVBoxLayout, QWidget

from napari_attnseg._napari import asking, overlay, views
from napari_attnseg._napari.canvas import shows_planes, why_no_planes
from napari_attnseg._napari.curtain import Curtain
from napari_attnseg._napari.explorer import Explorer
from napari_attnseg._napari.layers import plane_at
from napari_attnseg._napari.objects import decision_words, labels_plane, object_words, why_no_objects
from napari_attnseg._napari.question import (
    OBJECT,
    PIXEL,
    SURE,
    has_attention,
    hint_words,
    of_pixel,
    outside_field,
    same_run,
    widest_block,
)
from napari_attnseg._qt.attention_checks import CheckSection
from napari_attnseg._qt.attention_jobs import Asker, once
from napari_attnseg._qt.attention_layers import AttentionLayers
from napari_attnseg._qt.attention_models import ModelsSection
from napari_attnseg._qt.attention_mouse import MouseAsker
from napari_attnseg._qt.attention_sections import DisplaySection, ObjectsSection, PinsSection, button
from napari_attnseg._qt.attention_widgets import QuestionForm
from napari_attnseg._qt.job_bar import JobBar
from napari_attnseg._qt.widgets import MARGIN, note, set_note
from napari_attnseg.errors import AttnSegError

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_attnseg._napari.asking import Recorded
    from napari_attnseg._napari.session import Run, Session
    from napari_attnseg._qt.worker import Jobs
    from napari_attnseg.core.attention import AttentionTape
    from napari_attnseg.core.attention_maps import FieldMap
    from napari_attnseg.records import PlaneKey

_WORDS = 60  # milliseconds after which a hovered place is outlined and named: its row goes first
_SETTLE = 250  # milliseconds a plane is looked at before its attention is recorded


class AttentionPanel(QWidget):  # type: ignore[misc]  # qtpy is untyped
    """Asks the last run's attention: by the mouse while the tab is open, by its fields and buttons."""

    def __init__(self, viewer: ViewerModel, session: Session, jobs: Jobs) -> None:
        super().__init__()
        self._viewer, self._session = viewer, session
        self.explorer = Explorer(viewer, session)
        self.asker = Asker(jobs, self)
        self.mouse = MouseAsker(viewer, self.explorer, self)
        self.curtain = Curtain(viewer, session)
        self._layers = AttentionLayers(viewer, self.explorer, self.curtain, self)
        self._listening = False
        self._plane_timer = once(self, _SETTLE, self._elsewhere)
        self._words_timer = once(self, _WORDS, self._say_view)
        self._build(jobs)
        self._connect()
        self.refresh()

    def _build(self, jobs: Jobs) -> None:
        column = QVBoxLayout(self)
        column.setContentsMargins(MARGIN, MARGIN, MARGIN, MARGIN)
        column.setSpacing(6)
        self.hint = note(name="attnseg_attention_hint")
        self.form = QuestionForm()
        self.decision = note(name="attnseg_decision")
        self.caption = note(name="attnseg_caption")
        self.job_bar = JobBar(jobs, "attention")
        self.pins = PinsSection(self.explorer)
        self.objects = ObjectsSection()
        self.models = ModelsSection(self.explorer, self.asker)
        self.checks = CheckSection(self._session, self.explorer, self.asker)
        self.display = DisplaySection(self.explorer)
        self.copy_button = button("Copy as command", "attnseg_copy", _COPY_HELP)
        for widget in (
            self.hint, self.form, self.decision, self.caption, self.job_bar, self.pins, self.objects,
            self.models, self.checks, self.display, self.copy_button,
        ):  # fmt: skip
            column.addWidget(widget)
        column.addStretch(1)

    def _connect(self) -> None:
        self.form.changed.connect(self._on_form)
        self.form.followed.connect(self._on_followed)
        self.objects.changed.connect(self._on_objects)
        self.models.changed.connect(self.show_view)
        self.mouse.hovered.connect(self._on_hover)
        self.mouse.clicked.connect(self._on_click)
        self.mouse.taken.connect(self._on_taken)
        self.display.changed.connect(self.show_view)
        self.copy_button.clicked.connect(self.copy_command)
        self.asker.failed.connect(self._on_failed)
        self._session.changed.connect(self._on_session)
        self._layers.cleared.connect(self.refresh)
        self._layers.unpinned.connect(self.pins.remove)

    def release(self) -> None:
        """Let go of the session, the layers and the canvas."""
        self._session.changed.disconnect(self._on_session)
        self._layers.release()
        self.listen(False)
        self.asker.cancel()
        self._plane_timer.stop()
        self._words_timer.stop()

    def listen(self, on: bool) -> None:
        """Take the mouse over the canvas, or leave it."""
        self._listening = on
        self.mouse.listen(on)
        if on:
            self.models.fill(self._card_id())
            if self.explorer.view is None:
                self._ask()  # of an image that was chosen while another tab was in front
            self.on_moved()

    # -- keeping the panel right --------------------------------------------------------------------

    def refresh(self) -> None:
        """List what the tape of the run has and say what to do."""
        tape, run = self._tape, self.explorer.run
        why = why_no_objects(run) if run is not None else ""
        self.form.fill(tape, widest_block(tape) if tape is not None else "", why)
        if self.objects.allow(why):
            self.explorer.change(**self.objects.values())
        self.explorer.change(**self.form.values())
        shown = tape is not None
        for widget in (self.pins, self.objects, self.models, self.checks, self.display):
            widget.setVisible(shown)
        self.copy_button.setVisible(shown)
        self.pins.refresh()
        self.models.fill(self._card_id())
        if self.explorer.view is None:
            set_note(self.caption, "")
            set_note(self.decision, "")
            self.mouse.say_value()
        if self.curtain.is_open:
            self.curtain.arrange()
        self.checks.refresh()
        self.say()

    def say(self) -> None:
        """Say what can be done here and now."""
        run = self._session.state.run
        here = run is None or self.explorer.plane_now() == run.plane
        form, canvas = self.form, why_no_planes(self._viewer, "Attention is asked")
        set_note(self.hint, hint_words(run, here, form.what, form.follow_box.isChecked(), canvas))
        asked = of_pixel(self.explorer.question)
        self.copy_button.setEnabled(asked)
        self.copy_button.setToolTip(_COPY_HELP if asked else _NO_COPY)

    @property
    def _tape(self) -> AttentionTape | None:
        """The tape of the run as it was recorded."""
        run = self.explorer.run
        return run.tape if run is not None else None

    def _card_id(self) -> str | None:
        run = self.explorer.run
        return run.segmentation.card_id if run is not None and run.tape is not None else None

    def _on_session(self, new: Any, old: Any) -> None:
        if new.image is not old.image:
            self.explorer.change(pixel=None, label=0, second=0)
            self.objects.forget()
        before, now = old.run_of(new.image), new.run
        if new.image is not old.image or (now and now.tape) is not (before and before.tape):
            self.refresh()
            if new.image is not old.image and self._listening:
                self._ask()
        elif now is not before:
            self.checks.refresh()
            self.say()
            decides = self.explorer.question.block == "readout" or self.form.what == SURE
            if now is not None and before is not None and now.params is not before.params and decides:
                self._ask()  # a live change of the readout

    def on_moved(self) -> None:
        """Follow the viewer to another plane, once it stays there."""
        self.say()
        run = self.explorer.run
        asked = self._listening and has_attention(run) and self.explorer.view is not None
        if asked and run is not None and self.explorer.plane_now() != run.plane:
            self._plane_timer.start()

    def _elsewhere(self) -> bool:
        """Record the plane that is looked at where it is not the tape's; tell whether it was so."""
        run, plane = self.explorer.run, self.explorer.plane_now()
        if run is None or plane is None or plane == run.plane or not has_attention(run):
            return False
        if not shows_planes(self._viewer):
            return False  # no plane is looked at
        if self.explorer.question.label:
            self.explorer.change(label=0, second=0)  # ids of the plane before
        self._record(run, plane)
        return True

    # -- asking -------------------------------------------------------------------------------------

    def after_run(self, run: Run) -> None:
        """Record the tape of a finished run, then show what was received."""
        if not has_attention(run):
            self.refresh()
            self.curtain.arrange()
            return
        if run.image is self._session.state.image:
            self.explorer.change(pixel=None, label=0, second=0)
        self._record(run, run.plane)

    def _record(self, run: Run, plane: PlaneKey) -> None:
        engine, question, second = self._session.state.engine, self.explorer.question, self.models.model
        self.asker.start(
            lambda: asking.record(engine, run, plane, question, second),
            "Recording attention",
            lambda made: self._on_recorded(run, plane, made),
        )

    def _on_recorded(self, run: Run, plane: PlaneKey, made: Recorded) -> None:
        current = self._session.state.run_of(run.image)
        if current is None or not same_run(current, run):
            return  # the image is gone, or was run again
        self.explorer.change(pixel=made.question.pixel)
        self._session.change_run(current, tape=made.tape, plane=plane)
        if run.image is self._session.state.image:
            self.explorer.keep_other(made.tape, made.other)
            if made.made is not None:
                self.explorer.keep_map(made.tape, made.question, made.made)
            self._ask()
        elif made.made is not None and run.image in self._viewer.layers:  # another image was chosen
            view = views.map_view(made.tape, made.made)
            self.curtain.settle(overlay.show(self._viewer.layers, run.image, run.source, plane, view))

    def ask(self, world: tuple[float, ...], pin: bool = False) -> None:
        """Ask about the pixel or object at a world position; records a tape where none is kept."""
        run = self.explorer.run
        if run is None or not has_attention(run):
            return
        pixel, plane = self.explorer.pixel_at(world), plane_at(run.image, run.source, world)
        if pixel is None:
            set_note(self.hint, "That place lies outside the image.")
            return
        if why := outside_field(run, pixel):
            set_note(self.hint, why)
            return
        here = self.explorer.holds(pixel, plane)
        if self.form.what in (OBJECT, SURE) and here:
            self._choose_object(run, pixel, second=pin)
            return
        if pin and here:
            self.pins.pin(pixel)
            return
        if self.form.what not in (PIXEL, "rollout"):
            with QSignalBlocker(self.form):
                self.form.choose(PIXEL)
        self.explorer.change(pixel=pixel, label=0, second=0, **self.form.values())
        self.objects.forget()
        if here:
            self._ask()
        else:
            self._record(run, plane)

    def _choose_object(self, run: Run, pixel: tuple[int, int], *, second: bool) -> None:
        label = int(labels_plane(run)[pixel])
        if not label:
            set_note(self.hint, "There is no object at that pixel.")
            return
        self.objects.put(label, second=second)
        self.objects.open()
        self._on_objects()

    def _ask(self) -> None:
        """Answer the question as it is now; a map that is not there yet is made first."""
        run, tape = self.explorer.run, self.explorer.tape
        if run is None or tape is None or self._elsewhere():
            return
        if not self.explorer.needs_map:
            self.show_view()
            return
        engine, question = self._session.state.engine, self.explorer.question
        whole = question.what != PIXEL
        self.asker.start(
            lambda: asking.make_map(engine, run, tape, question, whole=whole),
            f"{views.TITLES.get(question.what, views.TITLES['received'])}",
            lambda made: self._on_map(run, question, made),
        )

    def _on_map(self, run: Run, question: Any, made: FieldMap) -> None:
        now = self.explorer.run
        if now is not None and now.tape is not None and now.tape is run.tape:
            self.explorer.keep_map(now.tape, question, made)
            if not self.explorer.needs_map:
                self.show_view()

    def show_view(self, *, words: bool = True) -> None:
        """Compute what is asked for (numpy, main thread) and show it; name it now or a moment later."""
        try:
            view = self.explorer.show(steady=not words)
        except AttnSegError as err:
            set_note(self.hint, str(err))
            return
        if view is None:
            self.say()
        elif words:
            self._say_view()
        elif not self._words_timer.isActive():
            self._words_timer.start()

    def _say_view(self) -> None:
        """Outline what is shown and name it, in all places that do."""
        if (view := self.explorer.view) is None or self.explorer.run is None:
            return
        self.explorer.show_outline()
        set_note(self.caption, self.explorer.caption(view))
        self._say_more()
        self.say()
        self.checks.refresh()
        self.display.refresh()
        self.mouse.say_value()

    def _say_more(self) -> None:
        """Say how the asked pixel was decided, and what two models have in common."""
        run, tape, q = self.explorer.run, self._tape, self.explorer.question
        pixel = q.pixel if q.what == PIXEL else None
        words = "" if run is None or tape is None or pixel is None else decision_words(run, tape, pixel)
        set_note(self.decision, words)
        self.models.say()

    # -- the mouse ----------------------------------------------------------------------------------

    def _on_hover(self, pixel: tuple[int, int]) -> None:
        self.explorer.change(pixel=pixel)
        self.show_view(words=False)

    def _on_click(self, world: tuple[float, ...], shift: bool) -> None:
        if not shift and self.form.what == PIXEL:
            self.form.follow_box.setChecked(False)  # hold this place
        self.ask(world, pin=shift)

    def _on_taken(self) -> None:
        set_note(self.hint, "A tool of the selected layer takes the click: choose pan/zoom first.")

    # -- the fields ---------------------------------------------------------------------------------

    def _on_form(self) -> None:
        self.explorer.change(**self.form.values())
        if self.explorer.tape is None:
            return
        if self.form.what in (OBJECT, SURE):
            self.objects.open()
        self.pins.show_rows()
        self._say_objects()
        self._ask()

    def _on_followed(self, on: bool) -> None:
        self.mouse.following = on
        self.say()

    def _on_objects(self) -> None:
        self.explorer.change(**self.objects.values())
        if self.objects.first.value() and self.form.what not in (OBJECT, SURE, "rollout"):
            with QSignalBlocker(self.form):
                self.form.choose(OBJECT)
            self.explorer.change(**self.form.values())
        self._ask()
        self._say_objects()

    def _say_objects(self) -> None:
        """Say what the chosen objects look at."""
        run, tape, q = self.explorer.run, self.explorer.tape, self.explorer.question
        if run is None or tape is None or not q.label:
            set_note(self.objects.words, "")
            return
        try:
            set_note(self.objects.words, object_words(run, tape, q))
        except AttnSegError as err:
            set_note(self.objects.words, str(err))

    def _on_failed(self, text: str) -> None:
        set_note(self.hint, text)

    def copy_command(self) -> None:
        """Copy the command that gives the same row."""
        run = self.explorer.run
        words = "" if run is None else asking.command(run, self.explorer.question)
        if words:
            QApplication.clipboard().setText(words)
            set_note(self.hint, f"Copied: {words}")


_COPY_HELP = "Copy the command that writes this attention row to files."
_NO_COPY = "Click a pixel first: the command writes what one pixel looks at."
