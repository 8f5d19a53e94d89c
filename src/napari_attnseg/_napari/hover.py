"""The mouse over the canvas: where it is, and clicks that are no drags.  Nothing here computes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_attnseg._napari.canvas import shows_planes

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from napari.components import ViewerModel

    World = tuple[float, ...]

_STILL = 3  # a press that moves no further than this many screen pixels is a click


class Newest:
    """Holds the newest of the positions that came in since it was last asked: never a queue."""

    def __init__(self) -> None:
        self._held: World | None = None

    def put(self, world: World) -> bool:
        """Hold a position in place of an older one; tell whether none was waiting."""
        first, self._held = self._held is None, world
        return first

    def take(self) -> World | None:
        """Give the held position away; None when there is none."""
        held, self._held = self._held, None
        return held


class CanvasMouse:
    """Hears moves and left clicks on the canvas while it listens; all else stays napari's.

    Parameters
    ----------
    viewer : ViewerModel
    on_move : callable
        Gets the world position under a mouse that moves without a button.
    on_click : callable
        Gets the world position of a click, and whether Shift was held.
    on_taken : callable
        Called instead where a tool of the active layer takes the click.
    """

    def __init__(
        self,
        viewer: ViewerModel,
        on_move: Callable[[World], None],
        on_click: Callable[[World, bool], None],
        on_taken: Callable[[], None],
    ) -> None:
        self._viewer, self._tell_move, self._tell_click, self._tell_taken = (
            viewer, on_move, on_click, on_taken
        )  # fmt: skip
        self._listening = False

    def listen(self, on: bool) -> None:
        """Start to listen, or stop."""
        if on == self._listening:
            return
        self._listening = on
        for callbacks, mine in (
            (self._viewer.mouse_drag_callbacks, self._on_press),
            (self._viewer.mouse_move_callbacks, self._on_move),
        ):
            if on:
                callbacks.append(mine)
            elif mine in callbacks:
                callbacks.remove(mine)

    @property
    def free(self) -> bool:
        """Whether no tool of the active layer wants the mouse, and planes of Y and X are shown."""
        layer = self._viewer.layers.selection.active
        return shows_planes(self._viewer) and (layer is None or str(layer.mode) == "pan_zoom")

    def _on_move(self, _viewer: Any, event: Any) -> None:
        if self.free:
            self._tell_move(tuple(event.position))

    def _on_press(self, _viewer: Any, event: Any) -> Generator[None, None, None]:
        """Tell of a left click, plain or with Shift; a drag is none."""
        free = self.free
        start = np.asarray(event.pos, dtype=float)
        world = tuple(event.position)
        keys = {str(getattr(key, "name", key)) for key in event.modifiers}
        ours = event.button == 1 and keys <= {"Shift"} and shows_planes(self._viewer)
        yield
        moved = 0.0
        while event.type == "mouse_move":
            moved = max(moved, float(np.abs(np.asarray(event.pos, dtype=float) - start).max()))
            yield
        if not ours or moved > _STILL:
            return
        if free:
            self._tell_click(world, "Shift" in keys)
        else:
            self._tell_taken()


class StatusValue:
    """Adds a value to what napari says in its status bar about the place under the mouse.

    napari names the active layer's value only; the user keeps working on the image or its labels.

    Parameters
    ----------
    words : callable
        Gets the world position under the mouse and returns what to add; "" adds nothing.
    """

    def __init__(self, viewer: ViewerModel, words: Callable[[World], str]) -> None:
        self._viewer, self._words = viewer, words
        self._listening = False
        self._plain: dict[str, str] | None = None  # napari's words
        self._own: object = None  # what was set here: it comes back as an event of its own

    def refresh(self) -> None:
        """Say the value anew under a mouse that did not move: something else is shown there now."""
        if self._listening and self._plain is not None and self._viewer.status == self._own:
            self._add(self._plain)

    def listen(self, on: bool) -> None:
        """Start to add, or stop."""
        if on == self._listening:
            return
        self._listening = on
        if on:
            self._viewer.events.status.connect(self._on_status)
        else:
            self._viewer.events.status.disconnect(self._on_status)

    def _on_status(self, event: Any = None) -> None:
        status = self._viewer.status
        if status == self._own or not isinstance(status, dict) or not status.get("coordinates"):
            return
        self._add(status)

    def _add(self, plain: dict[str, str]) -> None:
        """Set napari's words with ours behind them."""
        words = self._words(tuple(self._viewer.cursor.position))
        end = f" · {words}" if words else ""
        self._plain, self._own = plain, {**plain, "coordinates": f"{plain['coordinates']}{end}"}
        if self._viewer.status != self._own:
            self._viewer.status = self._own
