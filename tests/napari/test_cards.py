"""Cards in words; one that holds nonsense is left out, the others stay."""

from __future__ import annotations

import dataclasses

import pytest

from napari_attnseg._napari import cards
from napari_attnseg.records import ModelCard

GOOD = ModelCard("good", "Good <model>", {}, 20.0, description="For nuclei.", blocks=("global1",))


@pytest.mark.parametrize("wrong", [{"name": 5}, {"diameter": "big"}, {"classes": 3}, {"id": None}])
def test_a_card_with_a_wrong_type_does_not_hide_the_others(monkeypatch, wrong):
    bad = dataclasses.replace(GOOD, **wrong)
    monkeypatch.setattr("napari_attnseg.store.models.list_models", lambda: [bad, GOOD])
    assert cards.available() == [GOOD]


def test_a_card_is_shown_as_plain_text():
    page = cards.html(GOOD)
    assert "Good &lt;model&gt;" in page
    assert "objects of 20 px" in page
    assert "global1" in page


def test_a_list_names_a_model_as_messages_do():
    for name, said in (
        ("good", "good"),
        ("Good: nuclei", "good: nuclei"),
        ("Goods", "good: Goods"),
        ("Base: nuclei", "good: Base: nuclei"),
    ):
        assert cards.title(dataclasses.replace(GOOD, name=name)) == said


def test_two_cards_are_side_by_side_row_by_row(monkeypatch):
    other = dataclasses.replace(GOOD, id="n" * 40, description="", parent="good")
    page = cards.page(GOOD, other)
    assert "n" * 17 not in page  # it may be broken
    assert page.replace("\u200b", "").count("n" * 40) == 1
    assert page.index("About") < page.index("For nuclei.") < page.index("Works best at")
    assert "<td width='50%'>–</td><td width='50%'>good</td>" in page
    assert "other_\u200bleaves.\u200bof_" in cards.page(
        GOOD, dataclasses.replace(GOOD, id="other_leaves.of_june")
    )
    alone = cards.page(GOOD)
    assert "colspan" not in alone


def test_data_and_scores_are_one_line_each():
    training = {"data": [{"name": "dsb2018", "licence": "CC0"}, {"name": "own"}]}
    metrics = {"val": [{"dataset": "dsb2018", "kind": "fluo", "ap50": 0.8169, "n": 70, "pq": 0.7}]}
    rows = dict(cards.rows(dataclasses.replace(GOOD, training=training, metrics=metrics)))
    assert rows["Learnt from"] == "dsb2018 (CC0)\nown (licence not stated)"
    assert rows["Scores (AP@.5)"] == "0.82  dsb2018, fluo (70 images)"


def test_other_metrics_are_shown_in_a_few_words():
    rows = dict(cards.rows(dataclasses.replace(GOOD, metrics={"ap": 0.5})))
    assert rows["Scores (AP@.5)"] == "ap: 0.5"


def test_a_tuned_model_says_on_objects_of_which_size():
    assert "Tuned on" not in dict(cards.rows(GOOD))
    tuned = dataclasses.replace(GOOD, usual_diameter=26.4)
    assert dict(cards.rows(tuned))["Tuned on"] == "objects of about 26 px"
