"""The correction tools on a viewer without a window: keys, clicks, strokes, undo."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.utils.key_bindings import coerce_keybinding
from napari.utils.shortcuts import default_shortcuts

from napari_attnseg._napari import edits, marks, stroke
from napari_attnseg._napari.session import Session
from napari_attnseg._napari.tools import TOOLS, Tools
from napari_attnseg.core.edits import Edit
from napari_attnseg.errors import InputError


def plate(planes=0):
    labels = np.zeros((40, 60), dtype=np.int32)
    labels[8:20, 4:26] = 5
    labels[8:20, 26:34] = 7
    return np.stack([np.zeros_like(labels), labels, labels]) if planes else labels


class Bench:
    """A viewer with one Labels layer and the tools on it; ``said`` keeps what they say."""

    def __init__(self, data, **how) -> None:
        self.viewer = ViewerModel()
        self.layer = self.viewer.add_labels(data.copy(), **how)
        self.session = Session()
        self.tools = Tools(self.viewer, self.session)
        self.said: list[tuple[str, bool]] = []
        self.tools.said.connect(lambda text, error: self.said.append((text, error)))
        self.tools.set_layer(self.layer)
        self.tools.listen(True)

    def world(self, y, x):
        plane = edits.plane_shown(self.viewer, self.layer)
        return tuple(self.layer.data_to_world((*plane, y, x)))

    def drag(self, *points, button=1, modifiers=()):
        """Press at the first point, move over the others, let go."""
        event = SimpleNamespace(type="mouse_press", button=button, modifiers=modifiers)

        def at(point):
            event.position, event.pos = self.world(*point), np.array(point) * 4

        at(points[0])
        running = [call(self.viewer, event) for call in list(self.viewer.mouse_drag_callbacks)]
        running = [job for job in running if next(job, "end") != "end"]
        for kind, point in [("mouse_move", p) for p in points[1:]] + [("mouse_release", points[-1])]:
            event.type = kind
            at(point)
            for job in running:
                next(job, None)

    def key(self, name, hover=None):
        if hover is not None:
            self.viewer.cursor.position = self.world(*hover)
        self.layer.keymap[coerce_keybinding(name)](self.layer)


def test_no_key_is_one_of_naparis_own():
    from napari.components import _viewer_key_bindings as of_viewer
    from napari.layers.labels import _labels_key_bindings as of_labels

    names = {f"napari:{name}" for module in (of_viewer, of_labels) for name in vars(module)}
    napari = {key for action in names & set(default_shortcuts) for key in default_shortcuts[action]}
    assert coerce_keybinding("M") in napari  # new label
    assert coerce_keybinding("V") in napari  # visibility
    mine = [tool.key for tool in TOOLS.values()] + ["N", "Shift-N"]
    assert not {coerce_keybinding(key) for key in mine} & napari
    assert len(set(mine)) == len(mine)


@pytest.mark.parametrize(
    ("key", "change"),
    [("D", -264), ("G", 22 * 2 + 12), ("Shift-G", 200 - 264), ("H", 2)],
)
def test_a_key_acts_on_the_object_under_the_mouse_and_ctrl_z_takes_it_back(key, change):
    data = plate()
    data[12, 10:12] = 0
    if key != "H":
        data[12, 10:12] = 5
    bench = Bench(data)
    bench.key(key, hover=(10, 8))
    assert (bench.layer.data == 5).sum() - (data == 5).sum() == change
    assert bench.said[-1][1] is False
    bench.key("Control-Z")
    np.testing.assert_array_equal(bench.layer.data, data)


def test_a_key_over_the_background_says_so_and_writes_nothing():
    bench = Bench(plate())
    for place in ((1, 1), (-30, 5)):
        bench.key("D", hover=place)
        assert "no object" in bench.said[-1][0]
        assert bench.said[-1][1] is True
    np.testing.assert_array_equal(bench.layer.data, plate())


def test_merge_by_clicks_each_is_one_undo():
    data = plate()
    data[30:34, 4:8] = 9
    bench = Bench(data)
    bench.tools.arm("merge")
    bench.drag((10, 8))
    assert "object 5" in bench.tools.todo()
    bench.drag((10, 30))
    bench.drag((32, 6))
    assert set(np.unique(bench.layer.data)) == {0, 5}
    assert "share one id" in bench.said[-1][0]
    bench.layer.undo()
    assert set(np.unique(bench.layer.data)) == {0, 5, 9}
    bench.layer.undo()
    np.testing.assert_array_equal(bench.layer.data, data)
    bench.drag((10, 8))  # the first one again: begin anew
    bench.drag((32, 6))
    bench.drag((10, 30))
    assert set(np.unique(bench.layer.data)) == {0, 5, 9}
    assert (bench.layer.data[8:20, 26:34] == 9).all()


@pytest.mark.parametrize("how", [{}, {"scale": (0.5, 2.0), "rotate": 30, "translate": (3, -4)}])
def test_split_by_a_stroke_one_undo_and_the_line_goes(how):
    bench = Bench(plate(), **how)
    bench.tools.arm("split")
    assert stroke.find(bench.viewer) is not None
    assert not bench.layer.mouse_pan
    assert bench.viewer.layers.selection.active is bench.layer
    bench.drag((4, 12), (10, 12), (16, 12), (24, 12))
    assert (bench.layer.data[8:20, 4:12] == 8).all()
    assert (bench.layer.data[8:20, 13:26] == 5).all()
    assert len(stroke.find(bench.viewer).data) == 0
    bench.key("Control-Z")
    np.testing.assert_array_equal(bench.layer.data, plate())
    bench.key("Escape")
    assert stroke.find(bench.viewer) is None
    assert bench.layer.mouse_pan
    assert bench.tools.tool == ""
    bench.drag((4, 12), (24, 12))  # napari's own again
    np.testing.assert_array_equal(bench.layer.data, plate())


def test_a_stroke_beside_everything_is_said():
    bench = Bench(plate())
    bench.tools.arm("split")
    bench.drag((30, 4), (34, 20))
    assert "crosses no object" in bench.said[-1][0]
    bench.drag((10, 8))
    assert "too short" in bench.said[-1][0]
    np.testing.assert_array_equal(bench.layer.data, plate())


def test_only_the_shown_plane_of_a_stack_changes_and_new_ids_are_free():
    bench = Bench(plate(planes=3))
    bench.layer.features = {"index": [5, 7, 20], "confidence": [0.5, 0.6, 0.7]}
    bench.viewer.dims.set_current_step(0, 2)
    bench.tools.arm("split")
    bench.drag((4, 12), (24, 12))
    np.testing.assert_array_equal(bench.layer.data[:2], plate(planes=3)[:2])
    assert set(np.unique(bench.layer.data[2])) == {0, 5, 7, 21}  # 20 had features
    bench.viewer.dims.set_current_step(0, 1)
    bench.key("D", hover=(10, 8))
    assert not (bench.layer.data[1] == 5).any()
    assert (bench.layer.data[2] == 5).any()
    bench.key("Control-Z")
    bench.key("Control-Z")
    np.testing.assert_array_equal(bench.layer.data, plate(planes=3))


def test_accept_marks_unmarks_and_is_undone_in_order_with_paint():
    bench = Bench(plate())
    bench.layer.features = {"index": [5, 7], "confidence": [0.5, 0.6]}
    bench.key("A", hover=(10, 8))
    bench.key("D", hover=(10, 30))
    bench.key("A", hover=(10, 8))
    assert marks.checked(bench.layer) == set()
    bench.key("Control-Z")
    assert marks.checked(bench.layer) == {5}
    assert not (bench.layer.data == 7).any()
    bench.key("Control-Z")
    assert (bench.layer.data == 7).any()
    bench.key("Control-Z")
    assert marks.checked(bench.layer) == set()
    assert list(bench.layer.features["confidence"]) == [0.5, 0.6]


def test_paint_of_naparis_own_brush_is_undone_as_well():
    bench = Bench(plate())
    bench.key("A", hover=(10, 8))
    bench.layer.paint((35, 50), 3)
    bench.key("Control-Z")
    np.testing.assert_array_equal(bench.layer.data, plate())
    assert marks.checked(bench.layer) == {5}


def test_a_tool_ends_when_the_user_takes_another_of_napari():
    bench = Bench(plate())
    other = bench.viewer.add_image(np.zeros((40, 60)))
    bench.tools.arm("split")
    bench.layer.mode = "paint"
    assert bench.tools.tool == ""
    bench.tools.arm("delete")
    assert bench.layer.mode == "pan_zoom"
    bench.viewer.layers.selection.active = other
    assert bench.tools.tool == ""
    assert stroke.find(bench.viewer) is None


def test_keys_go_with_the_tab_and_the_users_own_stay():
    bench = Bench(plate())
    bench.tools.listen(False)
    assert not bench.layer.keymap
    assert len(bench.viewer.mouse_drag_callbacks) == len(ViewerModel().mouse_drag_callbacks)

    def mine(layer):
        """The user's own."""

    bench.layer.bind_key("S", mine)
    bench.tools.listen(True)
    assert set(TOOLS) - set(bench.tools.keys()) == {"split"}
    assert bench.layer.keymap[coerce_keybinding("S")] is mine
    bench.tools.listen(False)
    assert list(bench.layer.keymap.values()) == [mine]


def test_other_buttons_modifiers_and_drags_are_left_to_napari():
    bench = Bench(plate())
    bench.tools.arm("delete")
    bench.drag((10, 8), button=2)
    bench.drag((10, 8), modifiers=("Shift",))
    bench.drag((10, 8), (12, 12))
    np.testing.assert_array_equal(bench.layer.data, plate())
    bench.drag((10, 8))
    assert not (bench.layer.data == 5).any()


def test_an_object_that_was_brought_into_view_is_meant_until_the_mouse_moves():
    bench = Bench(plate())
    bench.viewer.cursor.position = bench.world(10, 8)
    bench.tools.point_at((), 7)
    bench.key("D")
    assert set(np.unique(bench.layer.data)) == {0, 5}
    bench.layer.undo()
    bench.tools.point_at((), 7)
    bench.key("D", hover=(11, 8))
    assert set(np.unique(bench.layer.data)) == {0, 7}


def test_keys_act_on_nothing_while_a_place_without_an_object_is_in_view():
    bench = Bench(plate())
    bench.viewer.cursor.position = bench.world(10, 8)
    bench.tools.point_at((), 7)
    bench.tools.point_at((), 0)
    for key in ("D", "A"):
        bench.key(key)
        assert "No object is chosen" in bench.said[-1][0]
        assert bench.said[-1][1] is True
    np.testing.assert_array_equal(bench.layer.data, plate())
    assert marks.checked(bench.layer) == set()
    bench.key("D", hover=(10, 30))
    assert set(np.unique(bench.layer.data)) == {0, 5}


@pytest.mark.parametrize("elsewhere", [False, True])
def test_keys_act_on_nothing_after_the_list_is_gone_until_the_mouse_moves(elsewhere):
    bench = Bench(plate())
    bench.viewer.cursor.position = bench.world(10, 8)
    bench.tools.point_at((), 7)
    if elsewhere:
        bench.layer = bench.viewer.add_labels(plate())
        bench.tools.set_layer(bench.layer)
    else:
        bench.tools.point_away()
    bench.key("D")
    assert bench.said[-1][1] is True
    np.testing.assert_array_equal(bench.layer.data, plate())
    bench.key("D", hover=(11, 8))
    assert set(np.unique(bench.layer.data)) == {0, 7}
    bench.tools.point_away()  # the mouse has moved since: it says what is meant
    bench.key("D", hover=(11, 30))
    assert set(np.unique(bench.layer.data)) == {0}


def test_the_line_says_which_layer_must_be_selected_for_the_keys():
    bench = Bench(plate(), name="mine")
    assert "press the key" in bench.tools.todo()
    other = bench.viewer.add_image(np.zeros((40, 60)))
    assert "Keys work when 'mine' is the selected layer." in bench.tools.todo()
    bench.tools.arm("delete")  # selects it
    assert "Click the objects to delete" in bench.tools.todo()
    bench.viewer.layers.selection.active = other
    assert "Keys work when 'mine'" in bench.tools.todo()


def test_what_cannot_be_corrected_says_why():
    bench = Bench(plate(planes=3))
    assert edits.why_not(bench.viewer, None).startswith("Run a segmentation")
    bench.viewer.dims.ndisplay = 3
    assert "2-D" in edits.why_not(bench.viewer, bench.layer)
    bench.tools.arm("split")
    assert bench.tools.tool == ""
    bench.key("D")
    assert bench.said[-1][1] is True
    bench.viewer.dims.ndisplay = 2
    bench.viewer.dims.order = (1, 0, 2)
    assert "Y and X" in edits.why_not(bench.viewer, bench.layer)
    bench.viewer.dims.order = (0, 1, 2)
    assert edits.why_not(bench.viewer, bench.layer) == ""


def test_an_id_that_the_layer_cannot_hold_is_refused():
    layer = Bench((plate() * 36).astype(np.uint8)).layer  # the top id is 252
    one = np.array([0])
    edits.write(layer, (), Edit(one, one, np.array([255]), ""))
    with pytest.raises(InputError, match="255 only"):
        edits.write(layer, (), Edit(one, one, np.array([256]), ""))


def test_features_keep_their_columns_and_get_rows_for_new_objects():
    bench = Bench(plate())
    marks.set_feature(bench.layer, "correct_next", {5: 0.25}, float("nan"))
    bench.layer.features = {"index": [5], "name": ["a"]}
    marks.set_feature(bench.layer, "correct_next", {5: 0.25, 7: 0.5}, float("nan"))
    marks.set_checked(bench.layer, [7], on=True)
    table = bench.layer.features
    assert list(table["index"]) == [5, 7]
    assert list(table["correct_next"]) == [0.25, 0.5]
    assert table["name"][0] == "a"
    assert list(table["checked"]) == [False, True]
    assert marks.checked(bench.layer) == {7}
    marks.set_checked(bench.layer, [9], on=True)
    assert marks.checked(bench.layer) == {7, 9}


def test_accepted_objects_teach_and_keep_the_layer_from_being_rewritten():
    from napari_attnseg._napari.shown import watched
    from napari_attnseg.core.corrections import compare_labels, known_mask

    bench = Bench(plate())
    shown = watched(bench.layer, plate(), None)
    assert not shown.edited
    bench.key("A", hover=(10, 8))
    assert shown.edited
    changes = compare_labels(plate(), bench.layer.data, marks.checked(bench.layer))
    assert (changes.accepted, changes.kept, changes.corrected) == ((5,), (7,), (5,))
    assert changes.summary() == "1 accepted"
    known = known_mask(plate(), plate(), changes)
    assert known[plate() == 5].all()
    assert not known[plate() == 7].any()
    bench.key("Control-Z")
    assert not shown.edited
