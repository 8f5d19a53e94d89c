"""The mouse: what is a click, what a move, and what is left to napari."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_attnseg._napari.hover import CanvasMouse, Newest, StatusValue


class Heard:
    def __init__(self, viewer):
        self.moves, self.clicks, self.taken = [], [], 0
        self.mouse = CanvasMouse(viewer, self.moves.append, lambda *a: self.clicks.append(a), self._take)

    def _take(self):
        self.taken += 1


def event(kind="mouse_press", pos=(10, 10), button=1, modifiers=(), position=(3.0, 4.0)):
    return SimpleNamespace(type=kind, pos=pos, button=button, modifiers=modifiers, position=position)


def ours(callbacks):
    """napari keeps callbacks of its own in the same lists."""
    return [one for one in callbacks if isinstance(getattr(one, "__self__", None), CanvasMouse)]


def press(viewer, way=(), **about):
    """Press, move along ``way``, release."""
    now = event(**about)
    for callback in ours(viewer.mouse_drag_callbacks):
        steps = callback(viewer, now)
        next(steps)
        for pos in way:
            now.type, now.pos = "mouse_move", pos
            next(steps)
        now.type = "mouse_release"
        assert next(steps, "done") == "done"


def move(viewer, **about):
    for callback in ours(viewer.mouse_move_callbacks):
        callback(viewer, event("mouse_move", **about))


@pytest.fixture
def heard():
    viewer = ViewerModel()
    viewer.add_image(np.zeros((20, 20)))
    made = Heard(viewer)
    made.viewer = viewer
    made.mouse.listen(True)
    return made


def test_clicks_and_moves_are_told_with_their_place(heard):
    press(heard.viewer, way=[(11, 12)])
    press(heard.viewer, modifiers=[SimpleNamespace(name="Shift")], position=(5.0, 6.0))
    assert heard.clicks == [((3.0, 4.0), False), ((5.0, 6.0), True)]
    move(heard.viewer, position=(7.0, 8.0))
    assert heard.moves == [(7.0, 8.0)]


@pytest.mark.parametrize(
    "about",
    [
        {"way": [(12, 10), (30, 10), (10, 10)]},  # a drag that comes back
        {"button": 2},
        {"modifiers": [SimpleNamespace(name="Control")]},
        {"modifiers": [SimpleNamespace(name="Shift"), SimpleNamespace(name="Alt")]},
    ],
)
def test_drags_other_buttons_and_other_keys_stay_naparis(heard, about):
    press(heard.viewer, **about)
    assert heard.clicks == []
    assert heard.taken == 0


def test_a_tool_of_the_active_layer_keeps_the_mouse(heard):
    labels = heard.viewer.add_labels(np.zeros((20, 20), int))
    labels.mode = "paint"
    press(heard.viewer)
    move(heard.viewer)
    assert (heard.clicks, heard.moves, heard.taken) == ([], [], 1)
    labels.mode = "pan_zoom"
    press(heard.viewer)
    assert len(heard.clicks) == 1
    heard.viewer.dims.ndisplay = 3
    move(heard.viewer)
    assert heard.moves == []


def test_listening_ends_without_a_trace(heard):
    heard.mouse.listen(True)
    heard.mouse.listen(False)
    heard.mouse.listen(False)
    assert ours(heard.viewer.mouse_drag_callbacks) == []
    assert ours(heard.viewer.mouse_move_callbacks) == []


def test_only_the_newest_place_waits():
    newest = Newest()
    assert newest.take() is None
    assert newest.put((1.0, 1.0))
    assert not newest.put((2.0, 2.0))
    assert not newest.put((3.0, 3.0))
    assert newest.take() == (3.0, 3.0)
    assert newest.take() is None


def test_the_status_bar_gets_our_value_once():
    viewer = ViewerModel()
    words = ["attention 0.5"]
    status = StatusValue(viewer, lambda world: words[0])
    status.listen(True)
    viewer.status = {"coordinates": "[3, 4]: 7", "coords": "[3, 4]"}
    assert viewer.status["coordinates"] == "[3, 4]: 7 · attention 0.5"
    words[0] = ""
    viewer.status = {"coordinates": "[3, 5]: 7", "coords": "[3, 5]"}
    assert viewer.status["coordinates"] == "[3, 5]: 7"
    viewer.status = "Ready"
    assert viewer.status == "Ready"
    words[0] = "attention 0.5"
    status.refresh()
    assert viewer.status == "Ready"  # the mouse is not over the image
    status.listen(False)
    viewer.status = {"coordinates": "[3, 6]: 7", "coords": "[3, 6]"}
    assert viewer.status["coordinates"] == "[3, 6]: 7"


def test_another_view_changes_the_value_under_a_mouse_that_rests():
    viewer = ViewerModel()
    words = [""]
    status = StatusValue(viewer, lambda world: words[0])
    status.listen(True)
    viewer.status = {"coordinates": "[3, 4]: 7", "coords": "[3, 4]"}
    for words[0], shown in (("a 0.5", "[3, 4]: 7 · a 0.5"), ("b 2", "[3, 4]: 7 · b 2"), ("", "[3, 4]: 7")):
        status.refresh()
        assert viewer.status["coordinates"] == shown
    words[0] = "b 2"
    status.listen(False)
    status.refresh()
    assert viewer.status["coordinates"] == "[3, 4]: 7"
