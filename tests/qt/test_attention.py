"""The Attention tab on a fake engine: by mouse and fields, with a second model, checks and planes."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication, QLabel

from napari_attnseg.core.attention import AttentionTape
from napari_attnseg.records import ModelCard
from tests.fakes import blobs
from tests.qt.conftest import SlowEngine
from tests.qt.test_dock import press, run

SECOND = ModelCard("tuned", "Tuned", {}, parent="base")


@pytest.fixture
def asked(open_dock, qtbot):
    """A viewer with a run on one image, at the Attention tab."""
    viewer, dock = open_dock()
    viewer.add_image(blobs()[0], name="im")
    run(qtbot, dock)
    qtbot.waitUntil(lambda: not dock.jobs.busy)
    tab_of(dock, "Attention")
    return viewer, dock, dock.attention


def tab_of(dock, name):
    """Open a tab."""
    (tab,) = [n for n in range(dock.tabs.count()) if dock.tabs.tabText(n) == name]
    dock.tabs.setCurrentIndex(tab)


def info(viewer, name="im · attention"):
    return viewer.layers[name].metadata["attnseg"]


def hover(panel, *world):
    """What a moved mouse does, without waiting for the timer."""
    panel.mouse._on_move(world)
    panel.mouse.hover()


def idle(qtbot, dock):
    qtbot.waitUntil(lambda: not dock.jobs.busy and dock.attention.asker._wish is None, timeout=20_000)


def test_after_a_run_what_was_received_is_shown_and_the_mouse_is_followed(asked, qtbot):
    viewer, _, panel = asked
    assert info(viewer)["show"] == "received"
    assert panel.form.what == "pixel"
    hover(panel, 40.0, 70.0)
    assert (info(viewer)["show"], info(viewer)["query"]) == ("row", [40, 70])
    hover(panel, 41.0, 71.0)  # the same token
    assert info(viewer)["query"] == [40, 70]
    hover(panel, -20.0, 5.0)  # outside
    assert info(viewer)["query"] == [40, 70]
    hover(panel, 90.0, 20.0)
    assert info(viewer)["query"] == [90, 20]
    qtbot.waitUntil(lambda: "Pixel 90, 20" in panel.caption.text())


def test_moves_between_two_answers_are_left_out(asked, qtbot, monkeypatch):
    viewer, _, panel = asked
    shown = []
    show = panel.explorer.show

    def counted(steady=False):
        shown.append(panel.explorer.question.pixel)
        return show(steady)

    monkeypatch.setattr(panel.explorer, "show", counted)
    for x in range(0, 128, 2):
        panel.mouse._on_move((40.0, float(x)))
    qtbot.waitUntil(lambda: bool(shown))
    qtbot.wait(50)
    assert shown == [(40, 126)]


def test_a_click_holds_the_place_and_the_box_follows_again(asked, qtbot):
    viewer, _, panel = asked
    panel._on_click((40.0, 70.0), False)
    assert not panel.form.follow_box.isChecked()
    hover(panel, 90.0, 20.0)
    assert info(viewer)["query"] == [40, 70]
    panel.form.follow_box.setChecked(True)
    hover(panel, 90.0, 20.0)
    assert info(viewer)["query"] == [90, 20]


def test_block_head_and_map_change_what_is_shown(asked, qtbot):
    viewer, dock, panel = asked
    panel.ask((40.0, 70.0))
    box = panel.form.block_box
    box.setCurrentIndex(box.findData("local1"))
    assert (info(viewer)["block"], info(viewer)["window"]) == ("local1", 2)
    panel.form.head_box.setCurrentIndex(2)
    assert info(viewer)["head"] == "1"
    assert "head 1" in panel.caption.text()
    panel.form.choose("distance")
    idle(qtbot, dock)
    assert info(viewer)["show"] == "distance"
    assert not panel.form.follow_box.isVisible()
    hover(panel, 90.0, 20.0)
    assert info(viewer)["show"] == "distance"  # a map stays when the mouse moves
    panel._on_click((90.0, 20.0), False)
    assert (panel.form.what, info(viewer)["query"]) == ("pixel", [90, 20])


def test_values_are_offered_only_where_a_block_has_them(asked):
    _, _, panel = asked
    assert not panel.form.value_box.isEnabled()
    assert "keeps no values" in panel.form.value_box.toolTip()


def test_pins_stay_while_the_mouse_moves_and_go_from_the_list(asked, qtbot):
    viewer, _, panel = asked
    panel._on_click((40.0, 70.0), True)
    panel._on_click((80.0, 20.0), True)
    assert panel.form.follow_box.isChecked()  # pinning does not hold
    assert panel.pins.button.text() == "Pinned queries (2)"
    assert "1 and 2 share" in panel.pins.words.text()
    before = viewer.layers["im · attention · pin 1"].data.copy()
    hover(panel, 90.0, 100.0)
    np.testing.assert_array_equal(viewer.layers["im · attention · pin 1"].data, before)
    panel.pins.list.item(0).setCheckState(Qt.CheckState.Unchecked)
    assert not viewer.layers["im · attention · pin 1"].visible
    panel.pins.list.item(1).setSelected(True)
    press(qtbot, panel.pins.remove_button)
    assert "im · attention · pin 2" not in viewer.layers
    assert len(viewer.layers["im · attention pins"].data) == 1
    viewer.layers.remove("im · attention pins")  # by hand: the pins are meant
    qtbot.waitUntil(lambda: panel.pins.list.count() == 0)
    assert [layer.name for layer in viewer.layers if "pin" in layer.name] == []


def test_objects_are_chosen_by_clicks_and_by_number(asked, qtbot):
    viewer, _, panel = asked
    labels = viewer.layers["im · attnseg labels"].data
    panel.form.choose("object")
    panel._on_click((16.0, 16.0), False)
    first = int(labels[16, 16])
    assert panel.objects.first.value() == first
    assert info(viewer)["show"] == "object"
    assert f"Object {first} looks at itself" in panel.objects.words.text()
    panel._on_click((16.0, 48.0), True)
    assert f"{first} → {int(labels[16, 48])}:" in panel.objects.words.text()
    panel.ask((0.0, 0.0))
    assert panel.hint.text() == "There is no object at that pixel."
    panel.objects.first.setValue(10_000)
    assert "no object 10000" in panel.objects.words.text()
    hover(panel, 90.0, 20.0)
    assert info(viewer)["show"] == "object"


@pytest.fixture
def two_models(engine, monkeypatch):
    """Two models: the second one's queries are three times as sharp."""

    class Sharp(SlowEngine):
        def tape(self, image, **kwargs):
            tape = super().tape(image, **kwargs)
            for block in tape.blocks.values():
                block.q = block.q * np.float16(3)
            return AttentionTape(tape.blocks, tape.zoom, "tuned")

    second = Sharp()
    second.card = SECOND
    monkeypatch.setattr(
        "napari_attnseg.engine.load_engine", lambda name, device: second if name == "tuned" else engine
    )
    monkeypatch.setattr("napari_attnseg.store.models.list_models", lambda: [engine.card, SECOND])
    return engine, second


def test_a_second_model_looks_at_the_same_place(two_models, asked, qtbot):
    viewer, dock, panel = asked
    panel._on_click((40.0, 70.0), False)
    mine = viewer.layers["im · attention"].data.copy()
    models = panel.models
    assert not models.compare_box.isEnabled()
    models.model_box.setCurrentIndex(models.model_box.findData("tuned"))
    idle(qtbot, dock)
    assert models.compare == "other"
    assert info(viewer)["model"] == "tuned"
    assert not np.allclose(viewer.layers["im · attention"].data, mine)
    assert two_models[1].closed
    models.compare_box.setCurrentIndex(models.compare_box.findData("beside"))
    np.testing.assert_array_equal(viewer.layers["im · attention"].data, mine)
    limits = {tuple(viewer.layers[f"im · attention{end}"].contrast_limits) for end in ("", " · other")}
    assert len(limits) == 1
    assert "share" in models.words.text()
    models.model_box.setCurrentIndex(0)
    assert "im · attention · other" not in viewer.layers
    np.testing.assert_array_equal(viewer.layers["im · attention"].data, mine)


def test_running_with_another_model_recomputes(two_models, asked, qtbot):
    viewer, dock, panel = asked
    panel.ask((40.0, 70.0))
    assert info(viewer)["model"] == "base"
    before = viewer.layers["im · attention"].data.copy()
    box = dock.segment.model_box
    box.setCurrentIndex(box.findData("tuned"))
    run(qtbot, dock)
    idle(qtbot, dock)
    assert info(viewer)["model"] == "tuned"
    hover(panel, 40.0, 70.0)
    assert not np.allclose(viewer.layers["im · attention"].data, before)
    # asking beyond the tape of another run's model loads that model again
    box.setCurrentIndex(box.findData("base"))
    other = viewer.add_image(blobs()[0], name="other")
    run(qtbot, dock)
    idle(qtbot, dock)
    viewer.layers.selection.active = viewer.layers["im"]
    dock.session.change_run(dock.session.state.run, tape=None)
    panel.ask((40.0, 70.0))
    idle(qtbot, dock)
    assert info(viewer)["model"] == "tuned"
    assert other in viewer.layers


def test_the_query_follows_the_plane(open_dock, qtbot):
    viewer, dock = open_dock()
    planes = np.stack([np.roll(blobs()[0], 5 * n, axis=0) for n in range(3)])
    viewer.add_image(planes, name="im", axis_labels=("t", "y", "x"))
    viewer.dims.set_current_step(0, 0)
    dock.segment.scope_box.setCurrentText("whole layer")
    run(qtbot, dock)
    idle(qtbot, dock)
    panel = dock.attention
    panel.listen(True)
    panel.ask((0.0, 40.0, 70.0))
    viewer.dims.set_current_step(0, 2)
    qtbot.waitUntil(lambda: info(viewer)["plane"] == [2], timeout=20_000)
    assert info(viewer)["query"] == [40, 70]
    assert panel.caption.text().startswith("T 2 · Pixel 40, 70")


def test_removing_the_image_clears_everything_of_it(asked, qtbot):
    viewer, dock, panel = asked
    panel.form.block_box.setCurrentIndex(panel.form.block_box.findData("local1"))
    panel.ask((40.0, 70.0))
    panel._on_click((80.0, 20.0), True)
    assert "im · attention outline" in viewer.layers
    viewer.layers.remove("im")
    qtbot.waitUntil(lambda: [layer.name for layer in viewer.layers] == ["im · attnseg labels"])
    assert panel.pins.list.count() == 0
    assert not panel.caption.isVisible()
    assert "Run the attention network" in panel.hint.text()
    viewer.add_image(blobs()[0], name="next")
    viewer.layers.clear()
    qtbot.wait(30)
    assert not panel.form.show_box.isEnabled()


def test_display_choices(asked):
    viewer, _, panel = asked
    panel.ask((40.0, 70.0))
    layer = viewer.layers["im · attention"]
    assert layer.interpolation2d == "nearest"
    assert layer.colorbar.visible
    panel.display.smooth_box.setChecked(True)
    hover(panel, 90.0, 20.0)
    assert layer.interpolation2d == "linear"
    limits = tuple(layer.contrast_limits)
    panel.display.scale_box.setChecked(True)
    hover(panel, 40.0, 70.0)
    assert tuple(layer.contrast_limits) == limits
    panel.display.ink_box.setChecked(True)
    assert layer.blending == "translucent"


def test_the_command_is_copied(asked):
    _, _, panel = asked
    panel.ask((40.0, 70.0))
    panel.copy_button.click()
    assert QApplication.clipboard().text().startswith("napari-attnseg attention FILE --at 40 70")


def test_a_check_shows_its_numbers_until_another_place_is_asked(asked, qtbot, monkeypatch):
    made = SimpleNamespace(attended=2.0, nearest=1.0, random=(0.1, 0.3, 0.2), words="It matters.")
    wanted = []

    def check(engine, source, plane, pixel, params, **about):
        wanted.append((pixel, about["block"], about["head"], about["value"]))
        yield from ()
        return made

    monkeypatch.setattr("napari_attnseg.jobs.faithfulness.check_query", check)
    _, dock, panel = asked
    checks = panel.checks
    assert not checks.query_button.isEnabled()
    assert "Click a pixel first" in checks.query_button.toolTip()
    panel._on_click((40.0, 70.0), False)
    checks.open()
    assert checks.query_button.isEnabled()
    press(qtbot, checks.query_button)
    idle(qtbot, dock)
    assert wanted == [((40, 70), "global1", "mean", False)]
    assert checks.query_words.text() == "It matters."
    assert checks.plot.isVisible()
    assert len(np.unique(np.array(_pixels(checks.plot)), axis=0)) > 3  # something is drawn
    panel._on_click((90.0, 20.0), False)
    assert not checks.plot.isVisible()
    assert checks.query_words.text() == ""


def _pixels(widget):
    image = widget.grab().toImage()
    return [
        image.pixelColor(x, y).getRgb() for x in range(0, image.width(), 2) for y in range(image.height())
    ]


def test_a_wish_during_a_job_waits_and_only_the_newest_is_done(asked, qtbot, engine):
    viewer, dock, panel = asked
    engine.pause = 0.05
    dock.segment.readout.form.set_values({"readout": "watershed"})
    big = viewer.add_image(np.tile(blobs()[0], (3, 3)), name="big")
    viewer.layers.selection.active = viewer.layers["im"]
    panel.form.choose("entropy")
    viewer.layers.selection.active = big
    press(qtbot, dock.segment.run_button)
    viewer.layers.selection.active = viewer.layers["im"]
    for kind in ("received", "distance"):
        panel.form.choose(kind)
    idle(qtbot, dock)
    assert info(viewer)["show"] == "distance"


def test_texts_fit_a_narrow_dock(asked, qtbot):
    viewer, dock, panel = asked
    for section in (panel.pins, panel.objects, panel.models, panel.checks, panel.display):
        section.open()
    panel._on_click((40.0, 70.0), True)
    dock.setFixedWidth(400)
    qtbot.wait(50)
    for label in panel.findChildren(QLabel):
        if label.isVisible() and not label.wordWrap():
            assert label.sizeHint().width() <= label.width() + 1, label.text()
    assert panel.minimumSizeHint().width() <= 372
