"""A model that is renamed or deleted while docks have it chosen."""

from __future__ import annotations

from dataclasses import replace

import pytest
from qtpy.QtWidgets import QInputDialog, QMessageBox

from napari_attnseg._qt.dock import AttentionDock
from napari_attnseg._qt.model_moves import moves
from napari_attnseg.params import TrainParams
from napari_attnseg.store import models, runs
from tests import fake_child
from tests.fakes import blobs
from tests.jobs.test_runs import sample
from tests.qt.test_dock import press, run
from tests.qt.test_finetune import open_tab, tune  # noqa: F401  # a fixture


@pytest.fixture
def alpha(open_dock, tune):  # noqa: F811
    """A dock with the user's model 'alpha' chosen in the Segment tab."""
    fake_child.store(models.models_folder() / "alpha", "base")
    viewer, dock = open_dock()
    dock.segment.choose_model("alpha")
    assert dock.segment.engine_key[0] == "alpha"
    return viewer, dock


def show(dock, title):
    dock.tabs.setCurrentIndex([dock.tabs.tabText(n) for n in range(dock.tabs.count())].index(title))


def rename(qtbot, dock, monkeypatch, old, new):
    show(dock, "Models")
    dock.models.fill(old)
    monkeypatch.setattr(QInputDialog, "getText", lambda *_, **__: (new, True))
    press(qtbot, dock.models.buttons["rename"])
    assert dock.models.line.text() == f"'{old}' is '{new}' now."


def test_the_choice_follows_a_rename(alpha, qtbot, monkeypatch, engine):
    viewer, dock = alpha
    viewer.add_image(blobs()[0], name="im")
    dock.session.update(engine_key=dock.segment.engine_key)  # as if it was loaded
    waits = runs.create_run(TrainParams(name="waits", start="alpha"), [sample()])
    rename(qtbot, dock, monkeypatch, "alpha", "omega")
    panel = open_tab(dock)
    assert panel.parent_line.text() == "omega"
    assert panel.params().start == "omega"
    assert panel.name_edit.text() == "omega-tuned"
    assert runs.read_request(waits).parent == "omega"  # it can still go on
    assert runs.read_request(waits).params.start == "omega"
    show(dock, "Segment")
    assert dock.segment.model_box.currentText() == "omega"
    assert not dock.segment.model_line.isVisible()
    assert dock.session.state.engine_key is None  # what is loaded has the old name in its card
    loaded = []
    engine.card = replace(engine.card, id="omega")
    monkeypatch.setattr(
        "napari_attnseg.engine.load_engine", lambda name, device: loaded.append(name) or engine
    )
    run(qtbot, dock)
    assert loaded == ["omega"]


def test_a_second_dock_follows_and_one_that_is_closed_is_left_alone(
    alpha, qtbot, monkeypatch, make_napari_viewer
):
    _, dock = alpha
    other = make_napari_viewer(show=True)
    second = AttentionDock(other)
    other.window.add_dock_widget(second, name="Attention Segmentation")
    second.segment.choose_model("alpha")
    qtbot.waitUntil(second.isVisible)
    panel = open_tab(second)
    assert panel.parent_line.text() == "alpha"
    rename(qtbot, dock, monkeypatch, "alpha", "omega")
    assert panel.parent_line.text() == "omega"
    assert second.segment.engine_key[0] == "omega"
    other.window.remove_dock_widget(second)
    rename(qtbot, dock, monkeypatch, "omega", "last")
    assert second.segment.engine_key[0] == "omega"
    assert dock.segment.engine_key[0] == "last"


def test_a_chosen_model_that_was_deleted_is_missed_in_words(alpha, qtbot, monkeypatch):
    _, dock = alpha
    line = dock.segment.model_line
    show(dock, "Models")
    dock.models.fill("alpha")
    monkeypatch.setattr(QMessageBox, "question", lambda *_: QMessageBox.StandardButton.Yes)
    press(qtbot, dock.models.buttons["delete"])
    assert open_tab(dock).parent_line.text() == "base"
    show(dock, "Segment")
    assert line.isVisible()
    assert line.text() == "There is no model 'alpha' any more: 'base' is chosen."
    dock.segment.choose_model("base")
    assert not line.isVisible()


def test_a_model_whose_folder_vanished_is_missed_in_words(alpha):
    _, dock = alpha
    show(dock, "Models")
    models.remove("alpha")
    show(dock, "Segment")
    assert "no model 'alpha'" in dock.segment.model_line.text()


@pytest.mark.parametrize(("new", "said"), [("", "'mine' was deleted."), ("yours", "'mine' is 'yours' now.")])
def test_a_result_goes_with_the_name_of_its_model(alpha, qtbot, new, said):
    _, dock = alpha
    panel = open_tab(dock)
    folder = runs.create_run(TrainParams(name="mine", start="alpha"), [sample()])
    fake_child.store(models.models_folder() / "mine", "alpha")
    runs.append_progress(folder, {"kind": "end", "status": "finished"})
    panel.look_at("mine")
    assert panel.after.result.isVisible()
    moves.moved.emit("mine", new)
    assert not panel.after.result.isVisible()
    assert panel.error_line.text() == said
    assert (folder / "decision.json").exists()
