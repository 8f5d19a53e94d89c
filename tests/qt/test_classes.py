"""Learning classes in the Fine-tune tab, on a fake engine and a child that only keeps the protocol."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from napari.layers import Labels

from napari_attnseg._napari import classes, tuning
from napari_attnseg.params import SegmentParams
from napari_attnseg.store import runs
from napari_attnseg.store.samples import shelf
from tests.fakes import blobs
from tests.jobs.test_classes import ClassEngine
from tests.qt.test_dock import press, run
from tests.qt.test_finetune import open_tab, start, tune

__all__ = ["tune"]


@pytest.fixture
def painted(open_dock, qtbot, tune):
    """An image with two classes painted over it, and the tab set to learn classes."""
    viewer, dock = open_dock()
    image, objects = blobs()
    viewer.add_image(image, name="im")
    layer = viewer.add_labels(np.zeros(objects.shape, np.int32), name="classes")
    panel = open_tab(dock)
    panel.task_box.setCurrentIndex(panel.task_box.findData("classes"))
    for number, top in ((1, 10), (2, 40)):
        y, x = np.mgrid[top : top + 4, 10:20]
        layer.data_setitem((y.ravel(), x.ravel()), number)
    qtbot.waitUntil(lambda: panel.classes_box.table.rowCount() == 2)
    return viewer, dock, panel, layer


def name(panel, row: int, text: str) -> None:
    panel.classes_box.table.item(row, 1).setText(text)


def test_from_painted_classes_to_an_accepted_model(painted, engine, monkeypatch, qtbot, tune):
    viewer, dock, panel, layer = painted
    tune.extend(["--steps", "12"])
    table = panel.classes_box.table
    assert [table.item(0, n).text() for n in range(3)] == ["1", "class 1", "40"]
    assert panel.sources.tree.topLevelItem(0).text(0) == "classes\n2 classes · 80 pixels"
    assert panel.total_line.text() == "In all: 2 classes, 80 pixels, 1 plane."
    assert not panel.sources.foreign_box.isVisible()
    name(panel, 0, "nucleus")
    assert layer.metadata[classes.NAMES] == [[1, "nucleus"]]
    qtbot.waitUntil(panel.start_button.isEnabled)
    before = layer.data.copy()
    start(qtbot, panel)
    folder = panel.running
    (sample,) = runs.read_samples(folder)
    assert sample.classes == ("nucleus", "class 2")
    assert np.unique(sample.labels[sample.known]).tolist() == [1, 2]
    assert sample.known.sum() == 80
    assert runs.read_request(folder).params.task == "classes"
    qtbot.waitUntil(lambda: "nucleus" in panel.run_box.score_line.text(), timeout=20_000)
    qtbot.waitUntil(lambda: panel.running is None, timeout=30_000)
    result = panel.after.result
    for text in ("mean Dice", "nucleus", "0.60", "new", "–", "40 pixels"):
        assert text in result.table.text()
    qtbot.waitUntil(lambda: not dock.jobs.busy, timeout=20_000)
    assert "another class" in result.legend.text()
    told = ClassEngine()  # the new model
    told.card = replace(engine.card, id="base-tuned", classes=("nucleus", "class 2"))
    monkeypatch.setattr("napari_attnseg.engine.load_engine", lambda name, device: told)
    press(qtbot, result.accept_button)
    np.testing.assert_array_equal(layer.data, before)
    assert "What you painted stays" in result.rerun_line.text()
    # filling the layer: what was painted stays, one step takes it back
    qtbot.waitUntil(lambda: not dock.jobs.busy and result.rerun_button.isEnabled(), timeout=20_000)
    press(qtbot, result.rerun_button)
    qtbot.waitUntil(lambda: not dock.jobs.busy and "are new" in result.said_line.text(), timeout=20_000)
    np.testing.assert_array_equal(layer.data[before > 0], before[before > 0])
    assert np.count_nonzero(layer.data) > 1000
    layer.undo()
    np.testing.assert_array_equal(layer.data, before)
    # the sample is on the shelf, among those of classes only
    assert shelf()[0].classes == ("nucleus", "class 2")
    listed = panel.shelf.listed
    panel.shelf.open_box.setChecked(True)
    qtbot.waitUntil(lambda: listed.count() == 1 and "nucleus" in listed.item(0).text())
    panel.task_box.setCurrentIndex(0)
    qtbot.waitUntil(lambda: listed.count() == 1 and "Nothing yet" in listed.item(0).text())
    assert tuning.undecided() == []


def test_start_says_what_is_missing(painted, qtbot):
    viewer, dock, panel, layer = painted
    assert panel.reason() == ""

    def why(text):
        qtbot.waitUntil(lambda: text in panel.reason())
        panel.refresh()
        assert not panel.start_button.isEnabled()

    layer.data_setitem(np.nonzero(layer.data == 2), 0)
    why("Only one class is known")
    name(panel, 0, "background")
    why("No class is painted yet")
    name(panel, 0, "nucleus")
    known = panel.sources.known_box
    known.setCurrentIndex(known.findData("all"))  # where nothing is painted is background
    qtbot.waitUntil(lambda: panel.reason() == "")
    assert panel.classes_box.table.item(0, 1).text() == "background"
    layer.data_setitem((np.array([0]), np.array([0])), 3)
    qtbot.waitUntil(lambda: panel.classes_box.table.rowCount() == 3)
    name(panel, 2, "Nucleus")
    why("differ only in upper and lower case")
    name(panel, 2, "")  # an emptied cell goes back to a name
    assert panel.classes_box.table.item(2, 1).text() == "class 3"
    assert panel.reason() == ""
    layer.data = np.arange(layer.data.size, dtype=np.int32).reshape(layer.data.shape)
    tree = panel.sources.tree
    qtbot.waitUntil(lambda: "look like objects" in tree.topLevelItem(0).text(0))
    tree.topLevelItem(0).setCheckState(0, panel.sources.tree.topLevelItem(0).checkState(0).Checked)
    why("Untick it, or learn objects")


def test_objects_of_a_run_are_not_taken_for_classes(open_dock, qtbot, tune):
    viewer, dock = open_dock()
    viewer.add_image(blobs()[0], name="im")
    run(qtbot, dock)
    panel = open_tab(dock)
    panel.task_box.setCurrentIndex(1)
    qtbot.waitUntil(lambda: "Add a Labels layer" in panel.reason())


def test_a_model_with_classes_learns_classes_only(painted, monkeypatch, qtbot):
    viewer, dock, panel, layer = painted
    monkeypatch.setattr("napari_attnseg._qt.finetune_panel.parent_classes", lambda name: ("a", "b"))
    panel._on_sources()
    table = panel.classes_box.table
    assert [table.item(n, 1).text() for n in (0, 1)] == ["a", "b"]
    assert "tells apart: a, b" in panel.classes_box.hint_line.text()
    panel.task_box.setCurrentIndex(0)
    assert "learn classes, or choose another model" in panel.reason()


def test_results_have_the_colours_that_were_painted(open_dock):
    viewer, _ = open_dock(loaded=False)
    mine = viewer.add_labels(
        np.array([[0, 1, 2]]), name="mine", metadata={classes.NAMES: [[1, "b"], [2, "a"]]}
    )
    about = {"attnseg": {"params": SegmentParams(task="classes").model_dump()}}
    features = {"index": [1, 2], "class": ["a", "b"]}
    found = Labels(np.array([[0, 1, 2]]), metadata=about, features=features)
    classes.show_as_painted(found, viewer.layers)
    np.testing.assert_allclose(found.get_color(1), mine.get_color(2))
    np.testing.assert_allclose(found.get_color(2), mine.get_color(1))


def test_scores_of_a_parent_that_knew_some_classes_are_compared_on_those():
    from html import unescape

    from napari_attnseg._qt.finetune_result import table

    before = {"dice": 0.3, "per_class": {"a": 0.6, "b": None}, "foreground": 0.9, "pixels": 40}
    after = {"dice": 0.6, "per_class": {"a": 0.7, "b": 0.5}, "foreground": 0.9, "pixels": 40}
    text = unescape(table("base", "new", {"before": before, "after": after, "steps": 3, "task": "classes"}))
    cells = [line.split("</td>") for line in text.replace("<b>", "").replace("</b>", "").split("<tr>")]
    rows = {row[0].split(">")[-1]: [c.split(">")[-1] for c in row[1:3]] for row in cells if len(row) > 3}
    assert rows["mean of known classes"] == ["0.60", "0.70"]  # a mean with a 0 for b would flatter
    assert rows["b"] == ["new", "0.50"]
    assert "mean Dice" not in rows
