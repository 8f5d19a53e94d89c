"""What follows a training, where layers come and go or take no pixels."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from napari_attnseg._napari.comparison import Compared
from napari_attnseg._qt.finetune_result import ResultBox, table
from napari_attnseg.errors import InputError
from tests.fakes import blobs
from tests.qt.test_dock import run
from tests.qt.test_finetune import open_tab, tune  # noqa: F401  # a fixture


def test_the_comparison_is_offered_as_soon_as_there_is_a_plane(open_dock, qtbot, tune):  # noqa: F811
    viewer, dock = open_dock()
    viewer.add_image(blobs()[0], name="im")
    panel = open_tab(dock)
    button = panel.after.result.compare_button
    panel.after.may_compare()
    assert "No corrected image" in button.toolTip()
    run(qtbot, dock)
    qtbot.waitUntil(button.isEnabled)
    assert "both models" in button.toolTip()


def test_a_layer_that_cannot_be_filled_does_not_stop_the_others(open_dock, tune, monkeypatch):  # noqa: F811
    viewer, dock = open_dock()
    panel, done = open_tab(dock), []
    layers = [viewer.add_labels(blobs()[1], name=name) for name in ("first", "second")]

    def fill(session, one):
        if one.pair.labels is layers[0]:
            raise InputError("'first' cannot be written to.")
        done.append(one.pair.labels)
        return 5

    monkeypatch.setattr("napari_attnseg._qt.finetune_after.apply", fill)
    made = [SimpleNamespace(pair=SimpleNamespace(labels=layer)) for layer in layers]
    panel.after._on_rerun(None, made)
    assert done == layers[1:]
    assert "'first' cannot be written to" in panel.error_line.text()
    assert panel.after.result.said_line.text().startswith("5 pixels")


def test_what_the_comparison_tells_stands_under_its_buttons_and_goes_with_it(qtbot):
    box = ResultBox()
    qtbot.addWidget(box)
    box.show()
    lines = box.legend, box.missed_line
    box.compared(Compared(None, blobs()[1], blobs()[1], legend="Red: 4 objects", missed="Of your 9 objects"))
    assert [line.text() for line in lines] == ["Red: 4 objects", "Of your 9 objects"]
    assert all(line.isVisible() for line in lines)
    box.compared(Compared(None, blobs()[1], blobs()[1], legend="Red: 0 objects"))
    assert not box.missed_line.isVisible()
    box.compared(None)
    assert not any(line.isVisible() for line in lines)


BEFORE = {"ap50": 1.0, "pq": 0.951, "dice": 0.9751, "objects": 5}


@pytest.mark.parametrize(
    ("after", "said"),
    [
        ({"pq": 0.92, "dice": 0.9651}, "worse than 'base'.</b> Roll it back"),
        ({"pq": 0.9501}, "no better than 'base'"),
        ({"pq": 0.92, "dice": 0.99}, ""),
        ({"pq": 0.96}, ""),
    ],
)
def test_a_model_that_did_not_get_better_says_so_and_what_to_do(after, said):
    text = table("base", "new", {"before": BEFORE, "after": {**BEFORE, **after}, "steps": 9, "seconds": 4.0})
    assert said in text
    assert ("held-out corrections the new model did" in text) is bool(said)


def test_the_differences_are_those_of_the_scores_that_are_shown():
    after = {"ap50": 0.994, "pq": 0.9449, "dice": 0.9651}  # -0.006, -0.0061, -0.01: 0.99, 0.94, 0.97
    text = table("base", "new", {"before": {**BEFORE, "dice": 0.9849}, "after": after})
    shown = text.split("</table>")[0]
    for title, numbers in (
        ("AP@.5", "1.00 0.99 -0.01"),
        ("PQ", "0.95 0.94 -0.01"),
        ("Dice", "0.98 0.97 -0.01"),
    ):
        for number in numbers.split():
            assert number in shown.split(title)[1].split("</tr>")[0]


@pytest.mark.parametrize(
    ("new", "fresh", "said"),
    [(0.7, None, "worse"), (0.8, None, "no better"), (0.9, None, ""), (0.7, 0.9, "worse"), (0.8, 0.9, "")],
)
def test_classes_that_did_not_get_better_say_so(new, fresh, said):
    before = {"per_class": {"nucleus": 0.8, "rim": None}, "dice": 0.8, "foreground": 0.9, "pixels": 40}
    after = {"per_class": {"nucleus": new, "rim": fresh}, "dice": new, "foreground": 0.9, "pixels": 40}
    text = table("base", "new", {"before": before, "after": after, "task": "classes"})
    assert (f"did {said} than 'base'" in text) if said else ("new model did" not in text)
