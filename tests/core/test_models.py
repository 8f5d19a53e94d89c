"""The folder of models: cards that cannot be trusted, names, and where models are stored."""

from __future__ import annotations

import json

import pytest

from napari_attnseg.errors import CheckpointError, StoreError
from napari_attnseg.records import ModelCard
from napari_attnseg.store import models

GOOD = ModelCard("first", "First", {"architecture": "attnseg"}).to_json()


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("NAPARI_ATTNSEG_HOME", str(tmp_path))
    return tmp_path


def put(home, name, card):
    folder = home / "models" / name
    folder.mkdir(parents=True)
    (folder / "card.json").write_text(card if isinstance(card, str) else json.dumps(card))


def test_a_copied_folder_is_listed_by_its_own_name(home):
    put(home, "first", GOOD)
    put(home, "second", GOOD)
    assert [card.id for card in models.list_models() if card.name == "First"] == ["first", "second"]
    assert models.find("second").card.id == "second"


@pytest.mark.parametrize(
    "card",
    ["{", "[1, 2]", '{"schema_version": 1}']
    + [
        {**GOOD, key: value}
        for key, value in {
            "schema_version": "x", "diameter": "a", "architecture": "foo", "blocks": "b", "training": None,
        }.items()
    ]
    + [{**GOOD, "diameter": 0}, {**GOOD, "schema_version": 99}]
    + [{**GOOD, "usual_diameter": value} for value in ("wide", 0, -3.0, float("inf"), [20], True)],
)  # fmt: skip
def test_odd_cards_are_one_sentence_and_hide_no_other(home, card):
    put(home, "good", GOOD)
    put(home, "odd", card)
    listed = [found.id for found in models.list_models()]
    assert "good" in listed
    assert "odd" not in listed
    with pytest.raises(CheckpointError) as caught:
        models.find("odd")
    assert "'odd'" in caught.value.message
    assert caught.value.hint


def test_a_card_of_before_knows_no_usual_diameter_and_a_newer_one_keeps_it(home):
    put(home, "before", GOOD)
    put(home, "tuned", {**GOOD, "usual_diameter": 26.5})
    assert models.find("before").card.usual_diameter is None
    assert models.find("tuned").card.usual_diameter == 26.5


def test_a_home_that_cannot_be_written_is_said_at_once(tmp_path, monkeypatch):
    models.check_home()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NAPARI_ATTNSEG_HOME", str(tmp_path / "file"))
    with pytest.raises(StoreError, match="file"):
        models.check_home()
