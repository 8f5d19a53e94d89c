"""The Fine-tune tab on a fake engine and a child process that only keeps the protocol."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from napari_attnseg._napari import tuning
from napari_attnseg._qt import finetune_panel
from napari_attnseg._qt.finetune_result import table
from napari_attnseg.jobs import child
from napari_attnseg.store import models, runs
from tests import fake_child
from tests.fakes import blobs
from tests.qt.test_dock import press, run

NAME = "im · attnseg labels"
_list_models = models.list_models


@pytest.fixture
def tune(tmp_path, monkeypatch, engine):
    """Let the tab start the fake child; returns the arguments it is given, to be changed."""
    monkeypatch.setenv("NAPARI_ATTNSEG_HOME", str(tmp_path))
    monkeypatch.setattr(
        "napari_attnseg.store.models.list_models",
        lambda: [engine.card, *(card for card in _list_models() if card.id != "base")],
    )
    args: list[str] = []

    def start(run: Path, *, resume: bool = False) -> child.Child:
        runs.clear_wishes(run)
        command = [sys.executable, fake_child.__file__, str(run), str(models.models_folder()), *args]
        child._mine[run] = subprocess.Popen(command)
        return child.Child(run, child._mine[run].pid)

    monkeypatch.setattr(finetune_panel.child, "start", start)
    yield args
    for left, process in list(child._mine.items()):
        process.kill()
        process.wait()
        del child._mine[left]


def open_tab(dock):
    names = [dock.tabs.tabText(n) for n in range(dock.tabs.count())]
    dock.tabs.setCurrentIndex(names.index("Fine-tune"))
    return dock.finetune


def correct(layer):
    """Add one object and erase one."""
    layer.paint((30, 30), 50)
    layer.data_setitem(np.nonzero(layer.data == 3), 0)


@pytest.fixture
def corrected(open_dock, qtbot, tune):
    """A viewer with a corrected run and the tab open, ready to start."""
    viewer, dock = open_dock()
    viewer.add_image(blobs()[0], name="im")
    run(qtbot, dock)
    panel = open_tab(dock)
    correct(viewer.layers[NAME])
    qtbot.waitUntil(panel.start_button.isEnabled)
    return viewer, dock, panel


def start(qtbot, panel):
    press(qtbot, panel.start_button)
    qtbot.waitUntil(lambda: panel.running is not None, timeout=20_000)


def test_from_corrections_to_an_accepted_model_and_back(corrected, qtbot, tune):
    viewer, dock, panel = corrected
    tune.extend(["--steps", "80"])
    labels = viewer.layers[NAME]
    assert "1 added, 1 removed" in panel.sources.tree.topLevelItem(0).text(0)
    assert panel.total_line.text().startswith("In all: 2 objects")
    assert panel.name_edit.text() == "base-tuned"
    assert "Not measured" in panel.cost_line.text()
    start(qtbot, panel)
    assert not panel.setup.isVisible()
    assert "is learning" in panel.reason()
    box = panel.run_box
    assert "im · fine-tuning preview" in viewer.layers  # made at Start, filled by the first validation
    preview = viewer.layers["im · fine-tuning preview"]
    qtbot.waitUntil(lambda: preview.data.any(), timeout=20_000)
    assert box.curve.points()[1] > 0
    press(qtbot, box.pause_button)
    assert box.pause_button.text() == "Go on"
    qtbot.wait(400)
    waiting = box.curve.points()
    qtbot.wait(400)
    assert box.curve.points() == waiting
    press(qtbot, box.pause_button)
    # meanwhile the layers are the user's
    labels.paint((62, 62), 70)
    labels.name = "mine"
    qtbot.waitUntil(lambda: panel.running is None, timeout=30_000)
    assert box.curve.points() == (80, 20)
    assert "im · fine-tuning preview" not in viewer.layers
    result = panel.after.result
    assert result.isVisible()
    for text in ("0.50", "0.75", "+0.25", "3 corrected objects"):
        assert text in result.table.text()
    # both models are compared on the image by themselves
    qtbot.waitUntil(lambda: not dock.jobs.busy, timeout=20_000)
    assert "im · after (base-tuned)" in viewer.layers
    assert "only before · green" in result.legend.text()
    assert result.legend.isVisible()
    assert not labels.visible
    press(qtbot, result.look_buttons["after"])
    assert viewer.layers["im · after (base-tuned)"].visible
    assert not viewer.layers["im · difference"].visible
    # accept, run again, undo
    press(qtbot, result.accept_button)
    assert labels.visible
    assert "im · difference" not in viewer.layers
    assert dock.segment.engine_key[0] == "base-tuned"
    assert not result.accept_button.isVisible()
    drawn = labels.data.copy()
    labels.data_setitem(np.nonzero(labels.data == 12), 0)
    labels.undo()
    press(qtbot, result.rerun_button)
    qtbot.waitUntil(lambda: not dock.jobs.busy and "pixels" in result.said_line.text(), timeout=20_000)
    assert (labels.data[drawn == 50] == 50).all()
    assert (labels.data[drawn == 70] == 70).all()
    assert not labels.data[blobs()[1] == 3].any()
    if (labels.data != drawn).any():
        labels.undo()
    np.testing.assert_array_equal(labels.data, drawn)
    assert panel.cost_line.text().startswith("Last time on this machine: 8 s and 0.5 GB")
    # roll back
    press(qtbot, result.back_button)
    assert dock.segment.engine_key[0] == "base"
    assert not (models.models_folder() / "base-tuned").exists()
    assert not result.isVisible()
    assert tuning.undecided() == []
    assert "chosen again" in panel.error_line.text()


def test_start_says_what_is_missing(open_dock, qtbot, tune):
    viewer, dock = open_dock()
    panel = open_tab(dock)

    def why(text):
        qtbot.waitUntil(lambda: text in panel.reason_line.text())
        assert not panel.start_button.isEnabled()
        assert panel.start_button.toolTip() == panel.reason_line.text()

    why("Segment an image")
    viewer.add_image(blobs()[0], name="im")
    dock.tabs.setCurrentIndex(0)
    run(qtbot, dock)
    open_tab(dock)
    labels = viewer.layers[NAME]
    why("Nothing is corrected")
    labels.paint((30, 30), 50)
    why("One object")
    labels.paint((62, 62), 51)
    qtbot.waitUntil(panel.start_button.isEnabled)
    panel.name_edit.setText("a/b")
    why("cannot be named")
    panel.name_edit.setText("base")
    why("exists already")
    panel.name_edit.setText("fine")
    assert panel.start_button.isEnabled()
    panel.sources.known_box.setCurrentIndex(1)
    why("Draw a region")
    box = np.array([[20, 20], [20, 120], [90, 120], [90, 20]])
    viewer.add_shapes([box], shape_type="rectangle")
    qtbot.waitUntil(panel.start_button.isEnabled)
    panel.sources.known_box.setCurrentIndex(2)
    why("as done")
    panel.sources.done_box.click()
    qtbot.waitUntil(panel.start_button.isEnabled)
    panel.sources.known_box.setCurrentIndex(0)
    labels.undo()
    labels.undo()
    why("Nothing is corrected")


def test_labels_without_a_prediction_are_asked_about(open_dock, qtbot, tune):
    viewer, dock = open_dock()
    viewer.add_image(blobs()[0], name="im")
    viewer.add_labels(blobs()[1], name="by hand")
    panel = open_tab(dock)
    tree = panel.sources.tree
    qtbot.waitUntil(lambda: tree.topLevelItemCount() == 1)
    item = tree.topLevelItem(0)
    assert "no prediction kept" in item.text(0)
    item.setCheckState(0, item.checkState(0).__class__.Checked)
    qtbot.waitUntil(lambda: "Other labels" in panel.reason_line.text())
    assert panel.sources.foreign_box.isVisible()
    assert not panel.sources.known_box.isVisible()
    panel.sources.foreign_box.setCurrentIndex(1)
    qtbot.waitUntil(panel.start_button.isEnabled)
    assert panel.total_line.text().startswith("In all: 12 objects")
    start(qtbot, panel)
    viewer.layers.clear()  # the samples are in the run folder
    qtbot.waitUntil(lambda: panel.running is None, timeout=30_000)
    assert panel.after.result.isVisible()
    assert not panel.after.result.compare_button.isEnabled()
    (sample,) = runs.read_samples(runs.runs_folder() / "base-tuned")
    assert len(np.unique(sample.labels)) == 13


@pytest.mark.parametrize("deaf", [False, True])
def test_cancel_ends_the_child_whether_it_listens_or_not(corrected, qtbot, tune, deaf):
    viewer, dock, panel = corrected
    tune.extend(["--steps", "2000", *(["--deaf"] if deaf else [])])
    start(qtbot, panel)
    qtbot.waitUntil(lambda: panel.run_box.bar.value() > 1, timeout=20_000)
    folder = panel.running
    begun = time.process_time()
    press(qtbot, panel.run_box.cancel_button)
    assert time.process_time() - begun < 0.5  # nothing waits on the main thread
    assert not panel.run_box.cancel_button.isEnabled()
    qtbot.waitUntil(lambda: not child.alive(folder), timeout=20_000)
    qtbot.waitUntil(lambda: panel.running is None, timeout=20_000)
    assert panel.setup.isVisible()
    if not deaf:
        assert panel.error_line.text() == "Cancelled: nothing is stored."
        assert not panel.waiting.isVisible()
        return
    assert panel.error_line.text().startswith("Cancelled.")
    assert "interrupted at step" in panel.waiting.line.text()
    tune[:] = ["--steps", str(runs.state(folder).step + 3)]
    press(qtbot, panel.waiting.go_on_button)
    qtbot.waitUntil(lambda: panel.running is None and panel.after.result.isVisible(), timeout=20_000)


def test_cancel_while_a_deaf_child_still_reads_stores_nothing(corrected, qtbot, tune):
    viewer, dock, panel = corrected
    tune.append("--reading")
    start(qtbot, panel)
    folder = panel.running
    qtbot.waitUntil(lambda: "learning" in panel.run_box.state_line.text(), timeout=20_000)
    begun = time.monotonic()
    press(qtbot, panel.run_box.cancel_button)
    qtbot.waitUntil(lambda: panel.running is None, timeout=20_000)
    assert time.monotonic() - begun < 10  # two seconds, and a busy machine
    assert not child.alive(folder)
    assert panel.error_line.text() == "Cancelled: nothing is stored."
    assert not panel.waiting.isVisible()  # there is nothing to go on from
    assert tuning.undecided() == []


def test_a_killed_child_leaves_the_window_alive(corrected, qtbot, tune):
    viewer, dock, panel = corrected
    tune.extend(["--steps", "2000"])
    start(qtbot, panel)
    qtbot.waitUntil(lambda: panel.run_box.bar.value() > 1, timeout=20_000)
    child.kill(panel.running)
    qtbot.waitUntil(lambda: panel.running is None, timeout=5_000)
    assert "interrupted" in panel.error_line.text()
    press(qtbot, panel.waiting.leave_button)
    assert runs.list_runs() == []
    assert panel.start_button.isEnabled()


def test_the_next_window_offers_what_was_finished_and_the_shelf(corrected, qtbot, tune, make_napari_viewer):
    from napari_attnseg._qt.dock import AttentionDock

    viewer, dock, panel = corrected
    tune.extend(["--steps", "200"])
    start(qtbot, panel)
    qtbot.waitUntil(lambda: panel.run_box.bar.value() > 1, timeout=20_000)
    other = make_napari_viewer(show=True)
    second = AttentionDock(other)
    other.window.add_dock_widget(second, name="Attention Segmentation")
    waiting = open_tab(second).waiting
    assert not waiting.isVisible()  # the first window has it
    viewer.window.remove_dock_widget(dock)
    assert child.alive(runs.runs_folder() / "base-tuned")
    second.finetune.listen(True)
    assert waiting.line.text() == "'base-tuned' is still learning."
    press(qtbot, waiting.look_button)
    assert second.finetune.running is not None
    assert not waiting.isVisible()
    qtbot.waitUntil(lambda: second.finetune.after.result.isVisible(), timeout=30_000)
    # another day: the samples are on the shelf
    third = second.finetune
    press(qtbot, third.after.result.accept_button)
    assert not third.after.result.rerun_button.isVisible()  # nothing is open here
    third.shelf.open_box.setChecked(True)
    qtbot.waitUntil(lambda: third.shelf.listed.count() == 1)
    item = third.shelf.listed.item(0)
    assert item.text().startswith("im\n")
    assert not third.start_button.isEnabled()
    item.setCheckState(item.checkState().__class__.Checked)
    assert third.total_line.text().startswith("In all: 1 object")
    third.shelf.listed.setCurrentItem(item)
    press(qtbot, third.shelf.forget_button)
    qtbot.waitUntil(lambda: third.shelf.chosen() == [])


@pytest.mark.parametrize("answer", ["go on", "stop", "stay"])
def test_closing_the_window_asks_about_a_training(corrected, qtbot, tune, monkeypatch, answer):
    from napari.settings import get_settings

    viewer, dock, panel = corrected
    get_settings().application.confirm_close_window = False
    tune.extend(["--steps", "2000"])
    asked = []
    monkeypatch.setattr(finetune_panel, "ask_on_close", lambda parent, name: asked.append(name) or answer)
    start(qtbot, panel)
    folder, window = panel.running, dock.window()
    qtbot.waitUntil(lambda: panel.run_box.bar.value() > 1, timeout=20_000)
    window.close() if answer == "stay" else viewer.close()
    assert asked == ["base-tuned"]
    if answer == "stay":
        assert window.isVisible()
    if answer == "stop":
        qtbot.waitUntil(lambda: not child.alive(folder))
    else:
        qtbot.wait(300)
        assert child.alive(folder)
        child.kill(folder)
    if answer == "stay":  # the window asks as long as it believes that something runs
        qtbot.waitUntil(lambda: panel.running is None)


def test_planes_of_a_stack_can_be_ticked(open_dock, qtbot, tune):
    viewer, dock = open_dock()
    viewer.add_image(np.stack([blobs()[0]] * 3), name="im", axis_labels=("t", "y", "x"))
    dock.segment.scope_box.setCurrentText("whole layer")
    run(qtbot, dock)
    panel, labels = open_tab(dock), viewer.layers[NAME]
    labels.paint((0, 30, 30), 90)
    labels.paint((2, 30, 30), 91)
    tree = panel.sources.tree
    qtbot.waitUntil(lambda: tree.topLevelItemCount() == 1 and tree.topLevelItem(0).childCount() == 2)
    top = tree.topLevelItem(0)
    assert [top.child(n).text(0).split(" ·")[0] for n in (0, 1)] == ["T 0: 1 added", "T 2: 1 added"]
    assert panel.start_button.isEnabled()
    top.child(0).setCheckState(0, top.checkState(0).__class__.Unchecked)
    assert [f.key.index for f in panel.sources.chosen()] == [(2,)]
    assert "One object" in panel.reason_line.text()
    labels.paint((2, 62, 62), 92)  # what is ticked stays so
    qtbot.waitUntil(panel.start_button.isEnabled)
    assert [f.key.index for f in panel.sources.chosen()] == [(2,)]
    panel.sources.known_box.setCurrentIndex(2)
    viewer.dims.set_current_step(0, 1)
    assert panel.sources.done_box.text() == "T 1 is done"
    panel.sources.done_box.click()
    qtbot.waitUntil(lambda: "T 1: 12 objects" in tree.topLevelItem(0).child(1).text(0))


@pytest.mark.parametrize(("closing", "said"), [(0, False), (60, True)])
def test_the_scores_say_whether_the_held_out_objects_taught_afterwards(closing, said):
    scores = {"ap50": 0.5, "pq": 0.4, "dice": 0.7, "objects": 5}
    result = {"before": scores, "after": scores, "steps": 120, "seconds": 40.0, "closing": closing}
    text = table("base", "new", result)
    assert "On 5 corrected objects that were held out" in text
    assert ("After these scores it learnt from them, too." in text) is said


@pytest.mark.parametrize("judged", [True, False])
@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_a_model_that_was_made_stricter_says_so(judged, shift):
    scores = {"ap50": 0.5, "pq": 0.4, "dice": 0.7, "objects": 5} if judged else None
    result = {"before": scores, "after": scores, "steps": 120, "seconds": 40.0, "shift": shift}
    assert ("so it was made stricter." in table("base", "new", result)) is (shift > 0)
