"""The correction tools on the canvas: clicks, strokes and keys become edits of a Labels layer."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from app_model.types import KeyCode, KeyMod
from napari.utils.key_bindings import coerce_keybinding
from psygnal import Signal

from napari_attnseg._napari import stroke
from napari_attnseg._napari.edits import (
    Spot,
    free_label,
    kept_at,
    lies_in,
    plane_of,
    plane_shown,
    spot_at,
    why_not,
    write,
)
from napari_attnseg._napari.layers import data_position
from napari_attnseg._napari.marks import checked
from napari_attnseg._napari.steps import Steps
from napari_attnseg.core import edits
from napari_attnseg.errors import AttnSegError, InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from napari.components import ViewerModel
    from napari.layers import Labels

    from napari_attnseg._napari.edits import Box
    from napari_attnseg._napari.session import Session

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Tool:
    """One correction: its button, its key on the layer, and what to do while it is chosen.

    Attributes
    ----------
    mode : bool
        The key chooses the tool, because it needs the mouse; other keys act on the object under it at once.
    """

    title: str
    key: str
    tip: str
    todo: str
    mode: bool = False


TOOLS = {
    "split": Tool(
        "Split", "S", "Cut an object along a stroke.", "Draw a line right across an object.", mode=True
    ),
    "merge": Tool(
        "Merge", "J", "Join objects by clicks.", "Click an object, then all that belong to it.", mode=True
    ),
    "delete": Tool("Delete", "D", "Take an object away.", "Click the objects to delete."),
    "grow": Tool("Grow", "G", "Add a pixel all around, on background only.", "Click an object to grow it."),
    "shrink": Tool("Shrink", "Shift-G", "Take a pixel off all around.", "Click an object to shrink it."),
    "fill": Tool("Fill holes", "H", "Fill the holes of an object.", "Click an object with holes."),
    "accept": Tool(
        "Accept", "A", "Mark an object as right; once more: unmark it.", "Click the objects that are right."
    ),
}  # fmt: skip
_OFF = "Choose a tool and click, or put the mouse on an object and press the key."
_ELSEWHERE = "Choose a tool and click. Keys work when '{}' is the selected layer."
_PLAIN = {"delete": edits.delete, "grow": edits.grow, "shrink": edits.shrink, "fill": edits.fill}
_UNDO = KeyMod.CtrlCmd | KeyCode.KeyZ
_REDO = KeyMod.CtrlCmd | KeyMod.Shift | KeyCode.KeyZ


class Tools:
    """Corrects one Labels layer while :meth:`listen` is on.

    ``said`` carries what was done or why not, and whether it is an error; ``armed`` the name of the chosen
    tool, "" for none; ``edited`` says that labels or marks changed.
    """

    said = Signal(str, bool)
    armed = Signal(str)
    edited = Signal()

    def __init__(self, viewer: ViewerModel, session: Session) -> None:
        self._viewer, self._session = viewer, session
        self._layer: Labels | None = None
        self._on = False
        self._tool = ""
        self._arming = False
        self._first = 0  # the object that others are merged into
        # what was brought into view (label 0: no object), its box, and where the mouse was
        self._pointed: tuple[Spot, Box | None, Any] | None = None
        self._steps = Steps()
        self._bound: list[Any] = []

    @property
    def layer(self) -> Labels | None:
        """The layer that is corrected."""
        return self._layer

    @property
    def tool(self) -> str:
        """The chosen tool, "" for none."""
        return self._tool

    def todo(self) -> str:
        """Return what the user can do now."""
        why = why_not(self._viewer, self._layer)
        if why or self._layer is None:
            return why
        if not self._tool:
            here = self._viewer.layers.selection.active is self._layer
            return _OFF if here else _ELSEWHERE.format(self._layer.name)
        if self._tool == "merge" and self._first:
            return f"Click what belongs to object {self._first}; click it again to begin anew. Esc ends."
        return f"{TOOLS[self._tool].todo} Esc ends."

    def set_layer(self, layer: Labels | None) -> None:
        """Correct another layer."""
        if layer is self._layer:
            return
        on = self._on
        self.listen(False)
        self._layer = layer
        self.point_away()
        self.listen(on)

    def listen(self, on: bool) -> None:
        """Take keys and clicks, or leave everything to napari."""
        if on == self._on:
            return
        self._on = on
        callbacks = self._viewer.mouse_drag_callbacks
        active = self._viewer.layers.selection.events.active
        if on:
            callbacks.append(self._on_mouse)
            active.connect(self._on_active)
        else:
            self.arm("")
            active.disconnect(self._on_active)
            if self._on_mouse in callbacks:
                callbacks.remove(self._on_mouse)
        if self._layer is not None:
            (self._bind if on else self._unbind)(self._layer)

    def _bind(self, layer: Labels) -> None:
        layer.events.paint.connect(self._on_paint)
        layer.events.mode.connect(self._on_mode)
        for name, tool in TOOLS.items():
            self._bind_key(layer, tool.key, self._presser(name))
        self._bind_key(layer, _UNDO, lambda _layer: self.undo(), ours=False)
        self._bind_key(layer, _REDO, lambda _layer: self.redo(), ours=False)

    def _bind_key(self, layer: Labels, key: Any, act: Callable[[Any], None], ours: bool = True) -> None:
        """Bind a key on this layer; one that napari's or the user's keys for Labels use is left alone."""
        binding = coerce_keybinding(key)
        if binding in layer.keymap or (ours and binding in type(layer).class_keymap):
            return
        layer.bind_key(key, act)
        self._bound.append(key)

    def _unbind(self, layer: Labels) -> None:
        layer.events.paint.disconnect(self._on_paint)
        layer.events.mode.disconnect(self._on_mode)
        for key in self._bound:
            layer.bind_key(key, None)
        self._bound = []

    def keys(self) -> dict[str, str]:
        """Return the key of every tool that has one on this layer now."""
        return {name: tool.key for name, tool in TOOLS.items() if tool.key in self._bound}

    # -- choosing a tool ----------------------------------------------------------------------------

    def arm(self, name: str) -> None:
        """Choose a tool, or none: ""."""
        layer = self._layer
        name = name if layer is not None and not why_not(self._viewer, layer) else ""
        if name == self._tool:
            return
        before, self._tool, self._first = self._tool, name, 0
        if layer is not None:
            self._arming = True
            try:
                self._prepare(layer, before)
            finally:
                self._arming = False
        self.armed.emit(name)

    def _prepare(self, layer: Labels, before: str) -> None:
        """Set mode, panning, Esc and the stroke's layer as the tool needs them."""
        if before == "split":
            stroke.remove(self._viewer)
        if self._tool == "split":
            stroke.prepare(self._viewer, layer)
        escape = coerce_keybinding("Escape")
        if self._tool:
            self._viewer.layers.selection.active = layer
            layer.mode = "pan_zoom"
            if escape not in layer.keymap:
                layer.bind_key("Escape", lambda _layer: self.arm(""))
        elif escape in layer.keymap:
            layer.bind_key("Escape", None)
        if str(layer.mode) == "pan_zoom":
            layer.mouse_pan = self._tool != "split"
            layer.cursor = "cross" if self._tool else "standard"

    def _on_mode(self, event: Any = None) -> None:
        if not self._arming:
            self.arm("")  # the user took one of napari's own tools

    def _on_active(self, event: Any = None) -> None:
        if not self._arming and self._viewer.layers.selection.active is not self._layer:
            self.arm("")

    # -- doing it -----------------------------------------------------------------------------------

    def _presser(self, name: str) -> Callable[[Any], None]:
        """Return the function for a tool's key; napari asks it for its name, which a partial has not."""

        def pressed(_layer: Any) -> None:
            self._on_key(name)

        return pressed

    def _on_key(self, name: str) -> None:
        if TOOLS[name].mode:
            self.arm("" if self._tool == name else name)
        elif self._layer is not None:
            self._try(lambda: self.act(name, self._meant()))

    def point_at(self, plane: tuple[int, ...], label: int, box: Box | None = None) -> None:
        """Let keys act on what was brought into view until the mouse moves.

        Parameters
        ----------
        label : int
            The object; 0 where there is none, so that keys act on nothing.
        box : tuple of int, optional
            (top, left, bottom, right) in which the object must still lie when a key is pressed.
        """
        self._pointed = Spot(plane, (0, 0), label), box, tuple(self._viewer.cursor.position)

    def point_away(self) -> None:
        """Let keys act on nothing until the mouse moves: where it was is no longer what is in view."""
        if self._pointed is not None:
            self._pointed = Spot((), (0, 0), 0), None, self._pointed[2]

    def _meant(self) -> Spot:
        """Return the object that was brought into view, else the one under the mouse."""
        mouse = tuple(self._viewer.cursor.position)
        if self._pointed is None or self._pointed[2] != mouse:
            self._pointed = None
            return self._spot(mouse)
        layer, (spot, box, _) = self._ready(), self._pointed
        if spot.label == 0:
            raise InputError("No object is chosen.", "Put the mouse on one.")
        if box is not None and not lies_in(plane_of(layer, spot.plane), spot.label, box):
            raise InputError(f"Object {spot.label} is not there any more.", "Go on, or rank again.")
        return spot

    def _try(self, do: Callable[[], str]) -> None:
        try:
            text, error = do(), False
        except AttnSegError as err:
            text, error = str(err), True
        except Exception as err:  # of whatever array the layer holds
            _log.warning("a correction failed", exc_info=err)
            text, error = f"This layer could not be corrected ({type(err).__name__}: {err}).", True
        self.said.emit(text, error)

    def _ready(self) -> Labels:
        """Return the layer; ``InputError`` where it cannot be corrected as it is shown."""
        why = why_not(self._viewer, self._layer)
        if why or self._layer is None:
            raise InputError(why)
        return self._layer

    def _spot(self, world: Any) -> Spot:
        spot = spot_at(self._viewer, self._ready(), world)
        if spot is None or spot.label == 0:
            raise InputError("There is no object here.", "Put the mouse on an object.")
        return spot

    def act(self, name: str, spot: Spot) -> str:
        """Do what a tool does with one object; return what was done.

        Raises
        ------
        InputError
            It cannot be done with this object.
        """
        layer = self._layer
        assert layer is not None
        plane = plane_of(layer, spot.plane)
        if name == "accept":
            return self.accept({spot.label}, spot.label not in checked(layer))
        if name == "merge":
            if self._first in (0, spot.label):
                self._first = spot.label if self._first == 0 else 0
                layer.selected_label = spot.label
                self.armed.emit(self._tool)
                return f"Object {spot.label} chosen." if self._first else "Begin anew."
            edit = edits.merge(plane, self._first, spot.label, kept_at(self._session, layer, spot.plane))
        else:
            edit = _PLAIN[name](plane, spot.label)
        write(layer, spot.plane, edit)
        return edit.text

    def accept(self, labels: set[int], on: bool = True) -> str:
        """Mark objects as checked, or take the mark away; return what was done."""
        assert self._layer is not None
        self._steps.mark(self._layer, labels, on)
        self.edited.emit()
        words = ", ".join(str(n) for n in sorted(labels))
        return f"Object {words} accepted." if on else f"Object {words} is no longer accepted."

    def undo(self) -> None:
        """Take back the last edit of the layer, ours or napari's, or the last accepted mark."""
        self._step(self._steps.undo)

    def redo(self) -> None:
        """Bring back the edit that was undone last."""
        self._step(self._steps.redo)

    def _step(self, do: Callable[[Labels], str]) -> None:
        layer = self._layer
        if layer is not None:
            self._try(lambda: do(layer))
            self.edited.emit()

    def cut(self, points: list[tuple[float, ...]]) -> str:
        """Split the object that a stroke runs over; ``points`` are world positions."""
        layer = self._ready()
        path = np.array([data_position(layer, point)[-2:] for point in points])
        plane = plane_shown(self._viewer, layer)
        labels = plane_of(layer, plane)
        label = _crossed(labels, path)
        edit = edits.split(labels, label, path, free_label(layer), kept_at(self._session, layer, plane))
        write(layer, plane, edit)
        return edit.text

    def _on_paint(self, event: Any = None) -> None:
        if self._layer is not None:
            self._steps.painted(self._layer)
        self.edited.emit()

    # -- the mouse ----------------------------------------------------------------------------------

    def _on_mouse(self, viewer: Any, event: Any) -> Generator[None, None, None]:
        """Take left clicks, and strokes for splitting, while a tool is chosen."""
        tool, layer = self._tool, self._layer
        if not tool or layer is None or event.button != 1 or event.modifiers:
            return
        start, moved = np.asarray(event.pos, dtype=float), 0.0
        points = [tuple(event.position)]
        yield
        while event.type == "mouse_move":
            moved = max(moved, float(np.abs(np.asarray(event.pos, dtype=float) - start).max()))
            points.append(tuple(event.position))
            if tool == "split":
                stroke.draw(self._viewer, layer, plane_shown(self._viewer, layer), points)
            yield
        if tool != self._tool:
            return  # Esc, or another tool, during the drag
        if tool == "split":
            stroke.draw(self._viewer, layer, (), [])
            self._try(lambda: self.cut(points))
        elif moved <= 3:
            self._try(lambda: self.act(tool, self._spot(points[0])))


def _crossed(labels: Any, path: Any) -> int:
    """Return the object that most of a (y, x) path lies on."""
    ends = np.ceil(np.abs(np.diff(path, axis=0)).max(axis=1, initial=0)).astype(int) + 1
    dense = [np.linspace(a, b, n + 1) for a, b, n in zip(path[:-1], path[1:], ends, strict=True)]
    where = np.rint(np.concatenate(dense)).astype(int) if dense else np.rint(path).astype(int)
    inside = ((where >= 0) & (where < labels.shape)).all(axis=1)
    found = labels[tuple(where[inside].T)]
    found = found[found != 0]
    if not len(found):
        raise InputError("The stroke crosses no object.", "Draw it right across an object.")
    ids, counts = np.unique(found, return_counts=True)
    return int(ids[counts.argmax()])
