"""What is asked of a run's attention, the answer, and where it lies on the canvas.  No Qt, no threads.

Rows are computed here, in numpy; maps over the field come from a job: :meth:`Explorer.keep_map`.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from napari_attnseg._napari import overlay, pins, views
from napari_attnseg._napari.layers import META, data_position, plane_at
from napari_attnseg._napari.objects import question_mask
from napari_attnseg._napari.question import (
    BESIDE,
    DIFFERENCE,
    OBJECT,
    OTHER,
    PIXEL,
    SURE,
    THIS,
    Question,
    map_key,
    plane_words,
    weighs,
)
from napari_attnseg.core.attention_compare import compare_rows
from napari_attnseg.core.attention_objects import assignment, object_row
from napari_attnseg.errors import InputError
from napari_attnseg.jobs.tape import with_readout

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from napari.components import ViewerModel
    from napari.layers import Image

    from napari_attnseg._napari.pins import Pin
    from napari_attnseg._napari.session import Run, Session
    from napari_attnseg._napari.views import View
    from napari_attnseg.core.attention import AttentionTape
    from napari_attnseg.core.attention_compare import RowPair
    from napari_attnseg.core.attention_maps import FieldMap
    from napari_attnseg.records import AttentionRow, PlaneKey


class Explorer:
    """Answers questions about the last run on the chosen image and shows the answers."""

    def __init__(self, viewer: ViewerModel, session: Session) -> None:
        self._viewer, self._session = viewer, session
        self.question = Question()
        self.smooth = False
        self.fixed: tuple[float, float] | None = None
        self.laying = False  # while it removes layers of its own itself
        self._pins: WeakKeyDictionary[Image, tuple[Pin, ...]] = WeakKeyDictionary()
        self._map: tuple[AttentionTape, tuple[Any, ...], FieldMap] | None = None
        self._view: tuple[AttentionTape, View] | None = None
        self._other: tuple[AttentionTape, AttentionTape] | None = None  # of the run, of the second model
        self._synced: tuple[AttentionTape, Any, AttentionTape] | None = None

    # -- what there is ------------------------------------------------------------------------------

    @property
    def run(self) -> Run | None:
        """The last run on the chosen image, while that is in the viewer."""
        run = self._session.state.run
        return run if run is not None and run.image in self._viewer.layers else None

    @property
    def tape(self) -> AttentionTape | None:
        """The tape of the run; its readout is that of the run's parameters as they are now."""
        run = self.run
        if run is None or run.tape is None:
            return None
        if self.question.block != "readout" and self.question.what not in (SURE, "uncertainty"):
            return run.tape
        if self._synced is None or self._synced[0] is not run.tape or self._synced[1] is not run.params:
            fresh = run.tape
            if run.encoded is not None:
                fresh = with_readout(run.tape, run.encoded, run.plane, run.params)
            self._synced = (run.tape, run.params, fresh)
        return self._synced[2]

    @property
    def view(self) -> View | None:
        """What is shown of the run's tape; None when nothing was asked of it yet."""
        run = self.run
        return self._view[1] if self._view and run is not None and run.tape is self._view[0] else None

    @property
    def other(self) -> AttentionTape | None:
        """The tape of the second model for the same plane and field, if it was recorded."""
        run = self.run
        if self._other is None or run is None or run.tape is not self._other[0]:
            return None
        return self._other[1]

    def keep_other(self, mine: AttentionTape, other: AttentionTape | None) -> None:
        """Keep the tape of a second model beside the run's tape it was recorded for; None forgets it."""
        self._other = None if other is None else (mine, other)

    def keep_map(self, tape: AttentionTape, question: Question, made: FieldMap) -> None:
        """Keep a map over the field that a job has made from a tape for a question."""
        self._map = (tape, map_key(question), made)

    @property
    def current_map(self) -> FieldMap | None:
        """The kept map if it answers the question as it is now."""
        run = self.run
        if self._map is None or run is None or self._map[0] is not run.tape:
            return None
        return self._map[2] if self._map[1] == map_key(self.question) else None

    @property
    def needs_map(self) -> bool:
        """Whether the question needs a map that only a job can make."""
        q = self.question
        asks = q.what in views.TITLES or (q.what == PIXEL and q.pixel is None)
        return asks and bool(q.block) and self.tape is not None and self.current_map is None

    def change(self, **changes: Any) -> None:
        """Change the question."""
        self.question = replace(self.question, **changes)

    def plane_now(self) -> PlaneKey | None:
        """Return the plane of the run's image that the viewer is at."""
        run = self.run
        return None if run is None else plane_at(run.image, run.source, self._viewer.dims.point)

    def pixel_at(self, world: Sequence[float]) -> tuple[int, int] | None:
        """Return the pixel of the run's image at a world position; None outside the image."""
        run = self.run
        if run is None:
            return None
        position = data_position(run.image, world)
        y, x = (int(np.floor(p + 0.5)) for p in position[-2:])
        height, width = run.source.shape_yx
        return (y, x) if 0 <= y < height and 0 <= x < width else None

    def holds(self, pixel: tuple[int, int], plane: PlaneKey | None) -> bool:
        """Tell whether the kept tape covers a pixel of a plane."""
        run = self.run
        return (
            run is not None
            and run.tape is not None
            and plane == run.plane
            and run.tape.block(self.question.block).grid.contains(pixel)
        )

    def same_token(self, pixel: tuple[int, int]) -> bool:
        """Tell whether a pixel lies in the token that is asked about: its row is the same."""
        tape, before = self.tape, self.question.pixel
        if tape is None or before is None or self.view is None or self.question.what != PIXEL:
            return False
        if self.view.info.get("query") != list(before):
            return False
        grid = tape.block(self.question.block).grid
        return grid.token_of(pixel) == grid.token_of(before)

    # -- the answer ---------------------------------------------------------------------------------

    def row(self, tape: AttentionTape | None = None) -> AttentionRow | None:
        """Return what the asked pixel or object attended to; None where there is none to ask about."""
        run, q = self.run, self.question
        tape = tape if tape is not None else self.tape
        if run is None or tape is None:
            return None
        value = weighs(tape, q)
        if q.what == PIXEL and q.pixel is not None and tape.block(q.block).grid.contains(q.pixel):
            return tape.row(q.block, q.pixel, q.head, value)
        if q.what == OBJECT and q.label:
            return object_row(tape, q.block, question_mask(run, q.label), q.head, value)
        return None

    def answer(self) -> View | None:
        """Return what the question asks for; None when nothing can be shown (yet)."""
        run, tape, q = self.run, self.tape, self.question
        if run is None or tape is None or not q.block:
            return None
        if (made := self.current_map) is not None and (q.what != PIXEL or q.pixel is None):
            view = views.map_view(tape, made, self._start_words() if made.kind == "rollout" else "")
            return views.unasked(view) if q.what == PIXEL else view
        if q.what == SURE and q.label:
            subject = f"Object {q.label}"
            return views.sureness_view(tape, assignment(tape), question_mask(run, q.label), subject)
        row = self.row(tape)
        if row is None:
            return None
        subject = f"Object {q.label}, the mean of its pixels," if q.what == OBJECT else ""
        if q.compare != THIS and (pair := self.pair(row)) is not None:
            return self._compared(tape, pair, subject)
        return views.row_view(tape, row, subject)

    def _start_words(self) -> str:
        """Say where a rollout starts."""
        q = self.question
        if q.label:
            return f"from object {q.label}"
        return "from the whole field" if q.pixel is None else f"from pixel {q.pixel[0]}, {q.pixel[1]}"

    def pair(self, row: AttentionRow) -> RowPair | None:
        """Return the row beside that of the second model for the same question.

        Raises
        ------
        InputError
            The second model has no block of this name.
        """
        other = self.other
        if other is None:
            return None
        if self.question.block not in other.blocks:
            raise InputError(
                f"The model '{other.model}' has no block '{self.question.block}'.",
                f"It has {', '.join(other.blocks)}: choose one of them.",
            )
        second = self.row(other)
        return None if second is None else compare_rows(row, second)

    def _compared(self, tape: AttentionTape, pair: RowPair, subject: str) -> View:
        other = self.other
        assert other is not None
        if self.question.compare == DIFFERENCE:
            return views.difference_view(tape, pair, other.model)
        if self.question.compare == OTHER:
            return replace(views.row_view(other, pair.b, subject), limits=(0.0, pair.b_limit))
        return replace(views.row_view(tape, pair.a, subject), limits=(0.0, pair.limit))

    def caption(self, view: View) -> str:
        """Return the view's words with plane, field and model."""
        run, tape = self.run, self.tape
        if run is None or tape is None:
            return ""
        plane = plane_words(run)
        lines = [f"{plane} · {view.caption}" if plane else view.caption]
        if where := views.field_words(view.grid, run.source.shape_yx):
            lines.append(where)
        lines.append(f"Model '{view.info.get('model') or tape.model}'")
        return "\n".join(lines)

    # -- on the canvas ------------------------------------------------------------------------------

    def show(self, steady: bool = False) -> View | None:
        """Compute the answer and show it.

        Parameters
        ----------
        steady : bool
            The mouse goes on: keep the scale of before where it still fits, and leave the outline to
            :meth:`show_outline`, a moment later.
        """
        run, view = self.run, self.answer()
        if run is None or run.tape is None or view is None:
            return None
        view = views.steadied(view, self.view) if steady else view
        if self.fixed is not None and view.info.get("show") in ("row", "object"):
            view = replace(view, limits=self.fixed)
        self._view = run.tape, view
        layer = overlay.show(self._viewer.layers, run.image, run.source, run.plane, view)
        overlay.set_smooth(layer, self.smooth)
        self._show_beside(run, view)
        if not steady:
            self.show_outline()
        return view

    @property
    def layer(self) -> Image | None:
        """The overlay of the chosen image, if it is there."""
        run = self.run
        return None if run is None else overlay.find(self._viewer.layers, run.image)

    def set_smooth(self, on: bool) -> None:
        """Blend between the cells of all overlays, or show them as they are."""
        self.smooth = on
        run = self.run
        for layer in overlay.found(self._viewer.layers, run.image) if run is not None else []:
            if layer.metadata[META]["kind"] == overlay.MAIN:
                overlay.set_smooth(layer, on)

    def _show_beside(self, run: Run, view: View) -> None:
        """Show the second model's row on a second copy of the image, to the right of the first."""
        pair, other = None, self.other
        if self.question.compare == BESIDE and self.question.what in (PIXEL, OBJECT) and other is not None:
            row = self.row()
            pair = None if row is None else self.pair(row)
        if pair is None or other is None:
            overlay.remove(self._viewer.layers, run.image, keep=self._roles(run.image))
            return
        shift = run.source.shape_yx[1] * 1.04
        overlay.show_beside(self._viewer.layers, run.image, shift, f"{run.image.name} · again")
        second = replace(views.row_view(other, pair.b), limits=(0.0, pair.b_limit))
        layer = overlay.show(
            self._viewer.layers, run.image, run.source, run.plane, second, role=OTHER, shift=shift
        )
        overlay.set_smooth(layer, self.smooth)

    def _roles(self, image: Image) -> list[str]:
        return [overlay.MAIN, *(f"pin {pin.number}" for pin in self.pins(image))]

    def show_outline(self) -> None:
        """Outline what the view is about; see :func:`napari_attnseg._napari.pins.outline_of`."""
        run, view, tape = self.run, self.view, self.tape
        if run is None or view is None or tape is None:
            return
        boxes, lines = pins.outline_of(view, self.question, tape, run.source.shape_yx)
        pins.show_outline(self._viewer.layers, run.image, run.source, run.plane, boxes, lines)

    def clear(self, image: Image) -> None:
        """Take all that was shown for an image away: overlays, pins, outline."""
        with self._own_work():
            overlay.remove(self._viewer.layers, image)
            pins.clear(self._viewer.layers, image)
        self._pins.pop(image, None)

    # -- pins ---------------------------------------------------------------------------------------

    def pins(self, image: Image | None = None) -> tuple[Pin, ...]:
        """Return the pinned queries of an image, of the chosen one by default."""
        run = self.run
        image = image if image is not None else (run.image if run is not None else None)
        return () if image is None else self._pins.get(image, ())

    def pins_of_layer(self, layer: Any) -> list[Pin]:
        """Return the pins that a layer of ours shows: one row, or all markers."""
        run, about = self.run, layer.metadata.get(META, {})
        if run is None or about.get("of") != str(run.image.unique_id):
            return []
        every = about.get("kind") == "pins"
        return [pin for pin in self.pins() if every or about.get("role") == f"pin {pin.number}"]

    def pin(self, pixel: tuple[int, int], hidden: Sequence[int] = ()) -> Pin | None:
        """Pin a pixel of the tape's plane, or take the pin in the same token away."""
        run, tape = self.run, self.tape
        if run is None or tape is None or not tape.block(self.question.block).grid.contains(pixel):
            return None
        grid = tape.block(self.question.block).grid
        kept = self.pins()
        same = [p for p in kept if p.plane == run.plane and grid.token_of(p.pixel) == grid.token_of(pixel)]
        if same:
            self.unpin(same, hidden)
            return None
        number = next(n for n in range(1, len(kept) + 2) if n not in {p.number for p in kept})
        made = pins.Pin(number, pixel, run.plane)
        self._pins[run.image] = tuple(sorted((*kept, made), key=lambda p: p.number))
        self.show_pins(hidden)
        return made

    def unpin(self, gone: Sequence[Pin], hidden: Sequence[int] = ()) -> None:
        """Take pins and their layers away."""
        run = self.run
        if run is None:
            return
        self._pins[run.image] = tuple(p for p in self.pins() if p not in gone)
        with self._own_work():
            for pin in gone:
                layer = overlay.find(self._viewer.layers, run.image, f"pin {pin.number}")
                if layer is not None:
                    self._viewer.layers.remove(layer)
        self.show_pins(hidden)

    def pinned_rows(self) -> list[tuple[Pin, AttentionRow]]:
        """Return the rows of all pins that lie in the tape's field and plane."""
        run, tape, q = self.run, self.tape, self.question
        if run is None or tape is None or not q.block:
            return []
        grid, value = tape.block(q.block).grid, weighs(tape, q)
        here = [p for p in self.pins() if p.plane == run.plane and grid.contains(p.pixel)]
        return [(p, tape.row(q.block, p.pixel, q.head, value)) for p in here]

    def show_pins(self, hidden: Sequence[int] = ()) -> None:
        """Show markers and, unless hidden, rows, in one colour per pin and to one scale."""
        run, tape = self.run, self.tape
        if run is None or tape is None:
            return
        rows = self.pinned_rows()
        top = max((float(row.weights.max()) for _, row in rows), default=0.0)
        layers, plane = self._viewer.layers, run.plane
        for pin, row in rows:
            view = replace(views.row_view(tape, row), limits=views.limits(0.0, top))
            role = f"pin {pin.number}"
            layer = overlay.show(layers, run.image, run.source, plane, view, role=role, colour=pin.colour)
            overlay.set_smooth(layer, self.smooth)
            layer.visible = pin.number not in hidden
        with self._own_work():
            pins.show_pins(layers, run.image, run.source, self.pins())

    @contextmanager
    def _own_work(self) -> Iterator[None]:
        """Mark the removal of layers as ours: it is not the user who takes pins away."""
        self.laying = True
        try:
            yield
        finally:
            self.laying = False
