"""The Models tab: cards and buttons."""

from __future__ import annotations

import pytest
from qtpy.QtGui import QGuiApplication
from qtpy.QtWidgets import QFileDialog, QInputDialog, QMessageBox

from napari_attnseg._qt.dock import WIDTH
from napari_attnseg.store import exchange, models
from tests.qt.test_dock import press


@pytest.fixture
def panel(qtbot, tmp_path, monkeypatch):
    monkeypatch.setenv("NAPARI_ATTNSEG_HOME", str(tmp_path / "home"))
    exchange.import_model(exchange.export_model("base", tmp_path / "b.zip"), "mine")
    from napari_attnseg._qt.models_panel import ModelsPanel

    widget = ModelsPanel()
    qtbot.addWidget(widget)
    widget.show()
    return widget


def choose(panel, name):
    panel.fill(name)
    assert panel.card.id == name


def names():
    return [card.id for card in models.list_models()]


def test_cards_alone_and_side_by_side(panel):
    choose(panel, "base")
    assert "came with the installation" in panel.page.text()
    assert "MB" in panel.page.text()
    panel.other_box.setCurrentIndex(2)
    page = panel.page.text()
    assert "base" in page
    assert "mine" in page
    assert "your models folder" in page


def test_two_cards_fit_the_width_of_the_dock(panel):
    models.rename("mine", "a_model_with_a_rather_long_name_of_sixty_letters_for_the_leaves")
    choose(panel, "base")
    assert panel.box.currentText() == "base: nuclei and cells"
    panel.resize(WIDTH - 20, 900)  # a scroll bar and frames
    panel.other_box.setCurrentIndex(2)
    assert "long_name" in panel.page.text().replace("\u200b", "")
    assert panel.page.minimumSizeHint().width() <= panel.page.width() < WIDTH


def test_an_import_asks_for_a_name_where_its_own_is_taken(panel, qtbot, monkeypatch, tmp_path):
    out = exchange.export_model("mine", tmp_path / "sent.zip")
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: (str(out), ""))
    answers, asked = [("", False), ("base", True), ("other", True)], []

    def ask(_parent, _title, words, *, text):
        asked.append((words, text))
        return answers.pop(0)

    monkeypatch.setattr(QInputDialog, "getText", ask)
    for words in ("", "exists already", "'other' was imported"):
        press(qtbot, panel.buttons["import"])
        assert words in panel.line.text()
    assert asked[0] == ("A model named 'mine' exists already. Name of the new one:", "mine-2")
    assert names() == ["base", "mine", "other"]


def test_shipped_models_stay_and_the_buttons_say_so(panel):
    choose(panel, "base")
    for name in ("rename", "delete"):
        assert not panel.buttons[name].isEnabled()
        assert "came with the installation" in panel.buttons[name].toolTip()
    choose(panel, "mine")
    assert all(button.isEnabled() for button in panel.buttons.values())


def test_delete_asks_first(panel, qtbot, monkeypatch):
    choose(panel, "mine")
    answers = [QMessageBox.StandardButton.No, QMessageBox.StandardButton.Yes]
    asked = []
    monkeypatch.setattr(QMessageBox, "question", lambda *args: (asked.append(args[2]), answers.pop(0))[1])
    press(qtbot, panel.buttons["delete"])
    assert names() == ["base", "mine"]
    press(qtbot, panel.buttons["delete"])
    assert names() == ["base"]
    assert "'mine'" in asked[0]
    assert "deleted" in panel.line.text()
    assert panel.card.id == "base"


def test_rename_and_its_refusals(panel, qtbot, monkeypatch):
    choose(panel, "mine")
    for new, words in (("base", "exists already"), ("a/b", "cannot be named"), ("better", "'better' now")):
        monkeypatch.setattr(QInputDialog, "getText", lambda *_, new=new, **__: (new, True))
        press(qtbot, panel.buttons["rename"])
        assert words in panel.line.text()
    assert names() == ["base", "better"]
    assert panel.card.id == "better"


def test_export_import_copy_and_use(panel, qtbot, monkeypatch, tmp_path):
    choose(panel, "mine")
    out = tmp_path / "sent"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_, **__: (str(out), ""))
    press(qtbot, panel.buttons["export"])
    assert (tmp_path / "sent.zip").exists()
    press(qtbot, panel.buttons["export"])
    assert "exists already" in panel.line.text()
    models.remove("mine")
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: (str(tmp_path / "sent.zip"), ""))
    press(qtbot, panel.buttons["import"])
    assert names() == ["base", "mine"]
    assert panel.card.id == "mine"
    press(qtbot, panel.buttons["copy"])
    assert QGuiApplication.clipboard().text() == "napari-attnseg segment IMAGE.tif --model mine --out results"
    used = []
    panel.model_chosen.connect(used.append)
    press(qtbot, panel.buttons["use"])
    assert used == ["mine"]
