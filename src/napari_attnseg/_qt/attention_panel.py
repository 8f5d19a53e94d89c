"""The Attention tab: which block and head the overlay shows, and what a clicked pixel looks at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QSignalBlocker
from qtpy.QtWidgets import QCheckBox, QPushButton, QVBoxLayout, QWidget

from napari_attnseg._napari import overlay
from napari_attnseg._napari.layers import data_position, plane_at
from napari_attnseg._qt.params_form import add_row
from napari_attnseg._qt.widgets import MARGIN, combo, form, note, set_note
from napari_attnseg.jobs.tape import record_tape

if TYPE_CHECKING:
    from collections.abc import Generator

    from napari.components import ViewerModel

    from napari_attnseg._napari.session import Run, Session
    from napari_attnseg._qt.worker import Jobs
    from napari_attnseg.core.attention import AttentionTape
    from napari_attnseg.records import PlaneKey


class AttentionPanel(QWidget):  # type: ignore[misc]  # qtpy is untyped
    """Shows the attention of the last run as a layer; while it is open, a click asks for a pixel's row."""

    def __init__(self, viewer: ViewerModel, session: Session, jobs: Jobs) -> None:
        super().__init__()
        self._viewer, self._session, self._jobs = viewer, session, jobs
        self._pixel: tuple[int, int] | None = None
        self._listening = False
        column = QVBoxLayout(self)
        column.setContentsMargins(MARGIN, MARGIN, MARGIN, MARGIN)
        column.setSpacing(6)
        self.hint = note(name="attnseg_attention_hint")
        column.addWidget(self.hint)
        layout = form()
        column.addLayout(layout)
        self.block_box = combo("attnseg_block", "Attention block of the network, in network order.")
        self.head_box = combo("attnseg_head", "One attention head, or the mean of all.")
        add_row(layout, "Block", self.block_box)
        add_row(layout, "Head", self.head_box)
        self.received_button = QPushButton("Show attention received")
        self.received_button.setObjectName("attnseg_received")
        self.received_button.setToolTip("Show how much attention every position receives from all others.")
        column.addWidget(self.received_button)
        self.darken_box = QCheckBox("Darken what gets no attention")
        self.darken_box.setObjectName("attnseg_darken")
        self.darken_box.setToolTip(
            "On: the image is darkened where no attention goes; meant for bright images.\n"
            "Off: the overlay adds light where attention goes."
        )
        column.addWidget(self.darken_box)
        self.caption = note(name="attnseg_caption")
        column.addWidget(self.caption)
        self.legend = note(
            "Dark positions get little attention, bright ones much. Registers are learned slots that stand "
            "for 'nothing in particular'; their share is named above."
        )
        column.addWidget(self.legend)
        column.addStretch(1)
        self.block_box.currentIndexChanged.connect(self._on_block)
        self.head_box.currentIndexChanged.connect(self._on_head)
        self.received_button.clicked.connect(self.show_received)
        self.darken_box.toggled.connect(self._on_darken)
        session.changed.connect(self._on_session)
        self.refresh()

    def release(self) -> None:
        """Let go of the session and of the canvas."""
        self._session.changed.disconnect(self._on_session)
        self.listen(False)

    @property
    def tape(self) -> AttentionTape | None:
        """The tape of the last run on the chosen image."""
        run = self._session.state.run
        return run.tape if run is not None else None

    def refresh(self) -> None:
        """List blocks and heads of the tape and say what to do."""
        tape, run = self.tape, self._session.state.run
        names = list(tape.blocks) if tape is not None else []
        if [self.block_box.itemData(n) for n in range(self.block_box.count())] != names:
            with QSignalBlocker(self.block_box):
                before = self.block_box.currentData()
                self.block_box.clear()
                for name in names:
                    assert tape is not None
                    kind = tape.blocks[name].kind
                    self.block_box.addItem(name if kind in name else f"{name} ({kind})", name)
                self.block_box.setCurrentIndex(self._first_block(names, before))
            self._fill_heads()
        for widget in (self.block_box, self.head_box, self.darken_box):
            widget.setEnabled(tape is not None)
        self.received_button.setEnabled(_has_attention(run))
        self.legend.setVisible(tape is not None)
        self.say()
        if tape is None:
            set_note(self.caption, "")

    def say(self) -> None:
        """Say what can be done here and now; called also when the viewer goes to another plane."""
        run = self._session.state.run
        if run is None:
            text = "Run the attention network on an image; its attention is shown here after the run."
        elif not _has_attention(run):
            text = "The last run used a classic method, which has no attention."
        elif run.tape is not None and self._plane(run) == run.plane:
            text = "Click a pixel of the image to see what it looks at."
        else:
            lead = "" if run.tape is None else f"What is shown belongs to {plane_words(run)}. "
            text = f"{lead}Click a pixel, or press the button, to record the attention of this plane."
        set_note(self.hint, text)

    def _plane(self, run: Run) -> PlaneKey:
        """Return the plane that is looked at."""
        return plane_at(run.image, run.source, self._viewer.dims.point)

    def _first_block(self, names: list[str], before: str | None) -> int:
        """Return the block to start with: the one before, else the last global one, else the last."""
        if before in names:
            return names.index(before)
        return -1 if self.tape is None else _widest(self.tape, names)

    def _fill_heads(self) -> None:
        tape, block = self.tape, self.block_box.currentData()
        before = self.head_box.currentData()
        with QSignalBlocker(self.head_box):
            self.head_box.clear()
            if tape is None or block is None:
                return
            self.head_box.addItem("mean of all", "mean")
            for number in range(tape.blocks[block].heads):
                self.head_box.addItem(f"head {number}", str(number))
            self.head_box.setCurrentIndex(max(self.head_box.findData(before), 0))

    # -- showing ------------------------------------------------------------------------------------

    def after_run(self, run: Run) -> None:
        """Record the tape of a finished run, then show what was received."""
        engine = self._session.state.engine
        if engine is None or not _has_attention(run) or self._jobs.busy:
            self.refresh()
            return
        self._pixel = None
        self._record(run, run.plane, None)

    def _record(self, run: Run, plane: PlaneKey, pixel: tuple[int, int] | None) -> None:
        engine = self._session.state.engine
        assert engine is not None
        job: Generator[Any, None, AttentionTape] = record_tape(
            engine, run.source, plane, pixel, run.encoded, run.params
        )
        self._jobs.start_job(job, "Recording attention", lambda tape: self._on_tape(run, plane, pixel, tape))

    def _on_tape(self, run: Run, plane: PlaneKey, pixel: tuple[int, int] | None, tape: AttentionTape) -> None:
        current = self._session.state.run_of(run.image)
        if current is None or not _same_run(current, run):
            return  # the image is gone, or was run again
        self._pixel = pixel
        self._session.change_run(current, tape=tape, plane=plane)
        if run.image is self._session.state.image:
            self.refresh()
            self.show_view()
        else:  # another image was chosen meanwhile
            names = list(tape.blocks)
            self._lay(current, overlay.received_view(tape, names[_widest(tape, names)], "mean"), plane)

    def show_received(self) -> None:
        """Forget the clicked pixel and show the attention received, of the plane that is looked at."""
        run = self._session.state.run
        if run is None or run.image not in self._viewer.layers:
            return
        plane = self._plane(run)
        if run.tape is not None and plane == run.plane:
            self._pixel = None
            self.show_view()
        elif why := self._cannot_record(run, None):
            set_note(self.hint, why)
        elif not self._jobs.busy:
            self._record(run, plane, None)

    def show_view(self) -> None:
        """Compute what is asked for (numpy, main thread) and show it in the overlay layer."""
        run, tape = self._session.state.run, self.tape
        block, head = self.block_box.currentData(), self.head_box.currentData()
        if run is None or tape is None or block is None or head is None:
            return
        if run.image not in self._viewer.layers:
            return
        if self._pixel is None:
            view = overlay.received_view(tape, block, head)
        else:
            view = overlay.row_view(tape, block, head, self._pixel)
        layer = self._lay(run, view, run.plane)
        words = plane_words(run)
        set_note(self.caption, f"{words} · {view.caption}" if words else view.caption)
        self.say()
        with QSignalBlocker(self.darken_box):
            self.darken_box.setChecked(str(layer.blending) == "multiplicative")

    def _lay(self, run: Run, view: overlay.View, plane: PlaneKey) -> Any:
        return overlay.show(self._viewer.layers, run.image, run.source, plane, view)

    def ask(self, world: tuple[float, ...]) -> None:
        """Show what the pixel at a world position looks at; records a tape for it where none is kept."""
        run = self._session.state.run
        if run is None or run.image not in self._viewer.layers or not _has_attention(run):
            return
        position = data_position(run.image, world)
        pixel = int(np.floor(position[-2] + 0.5)), int(np.floor(position[-1] + 0.5))
        height, width = run.source.shape_yx
        if not (0 <= pixel[0] < height and 0 <= pixel[1] < width):
            set_note(self.hint, "That place lies outside the image.")
            return
        plane = plane_at(run.image, run.source, world)
        block = self.block_box.currentData()
        if run.tape is not None and plane == run.plane and run.tape.block(block).grid.contains(pixel):
            self._pixel = pixel
            self.show_view()
        elif why := self._cannot_record(run, pixel):
            set_note(self.hint, why)
        elif not self._jobs.busy:
            self._record(run, plane, pixel)

    def _cannot_record(self, run: Run, pixel: tuple[int, int] | None) -> str:
        """Return why a pixel (None: a plane) beyond the kept tape cannot be asked for; "" when it can."""
        engine = self._session.state.engine
        if engine is None or engine.card.id != run.segmentation.card_id:
            return "Another model is loaded now: run again to ask for other places."
        if run.encoded is not None and pixel is not None:
            field = run.encoded.field
            if not all(part.start <= p < part.stop for part, p in zip(field, pixel, strict=True)):
                return "That pixel lies outside the field that was segmented."
        return ""

    def _on_darken(self, on: bool) -> None:
        run = self._session.state.run
        layer = overlay.find(self._viewer.layers, run.image) if run is not None else None
        if layer is not None:
            overlay.set_darken(layer, on)

    def _on_block(self, _index: int) -> None:
        self._fill_heads()
        self.show_view()

    def _on_head(self, _index: int) -> None:
        self.show_view()

    def _on_session(self, new: Any, old: Any) -> None:
        if new.image is not old.image:
            self._pixel = None
        if new.image is not old.image or new.runs is not old.runs:
            self.refresh()

    # -- the canvas ---------------------------------------------------------------------------------

    def listen(self, on: bool) -> None:
        """Take clicks on the canvas, or stop taking them."""
        callbacks = self._viewer.mouse_drag_callbacks
        if on and not self._listening:
            callbacks.append(self._on_mouse)
        elif not on and self._listening and self._on_mouse in callbacks:
            callbacks.remove(self._on_mouse)
        self._listening = on

    def _on_mouse(self, viewer: Any, event: Any) -> Generator[None, None, None]:
        """Take a left click without a drag; drags, painting and other buttons stay napari's."""
        layer = self._viewer.layers.selection.active
        free = layer is None or str(layer.mode) == "pan_zoom"
        start = np.asarray(event.pos, dtype=float)
        world = tuple(event.position)
        plain = event.button == 1 and not event.modifiers and self._viewer.dims.ndisplay == 2
        yield
        moved = 0.0
        while event.type == "mouse_move":
            moved = max(moved, float(np.abs(np.asarray(event.pos, dtype=float) - start).max()))
            yield
        if plain and moved <= 3 and free:
            self.ask(world)
        elif plain and moved <= 3:
            set_note(self.hint, "A tool of the selected layer takes the click: choose pan/zoom first.")


def _same_run(now: Run, then: Run) -> bool:
    """Tell whether two states are of one run: live changes write into its layer, a new run makes its own."""
    return now.shown.layer is then.shown.layer


def _has_attention(run: Run | None) -> bool:
    return run is not None and run.segmentation.params.get("method") == "attention"


def _widest(tape: AttentionTape, names: list[str]) -> int:
    """Return the block to show first: the last global one, else the last."""
    wide = [n for n, name in enumerate(names) if tape.blocks[name].kind == "global"]
    return wide[-1] if wide else len(names) - 1


def plane_words(run: Run) -> str:
    """Name the plane that a run's tape belongs to: "T 3, Z 1"; "" where there is one plane only."""
    return ", ".join(f"{axis} {n}" for axis, n in zip(run.source.plane_axes, run.plane.index, strict=True))
