"""What ctrl+z and ctrl+shift+z take back and bring back, and what they say."""

from __future__ import annotations

import numpy as np
import pytest

from napari_attnseg._napari import marks
from tests.napari.test_tools import Bench, plate

UNDO, REDO = "Control-Z", "Control-Shift-Z"


def test_undo_and_redo_say_what_they_did():
    bench = Bench(plate())
    bench.key("D", hover=(10, 8))
    assert bench.said[-1] == ("Object 5 deleted.", False)
    bench.key(UNDO)
    assert bench.said[-1] == ("The last change is undone.", False)
    bench.key(REDO)
    assert bench.said[-1] == ("The change that was undone is back.", False)
    assert not (bench.layer.data == 5).any()
    bench.tools.undo()
    assert bench.said[-1] == ("The last change is undone.", False)
    np.testing.assert_array_equal(bench.layer.data, plate())
    bench.key(UNDO)
    assert bench.said[-1] == ("There is nothing to undo.", False)


@pytest.mark.parametrize(
    ("presses", "said"),
    [(1, "Undone: object 5 is not accepted."), (2, "Undone: object 5 is accepted again.")],
)
def test_undo_says_which_mark_it_took_back(presses, said):
    bench = Bench(plate())
    for _ in range(presses):
        bench.key("A", hover=(10, 8))
    bench.key(UNDO)
    assert bench.said[-1] == (said, False)


def test_a_mark_ends_what_can_be_redone_as_an_edit_does():
    bench = Bench(plate())
    bench.key("G", hover=(10, 8))
    bench.key(UNDO)
    bench.key("A")
    bench.key(UNDO)
    assert marks.checked(bench.layer) == set()
    bench.key(REDO)
    np.testing.assert_array_equal(bench.layer.data, plate())
    assert "nothing to redo" in bench.said[-1][0]


def test_an_edit_that_is_redone_and_older_marks_are_undone_in_their_order():
    bench = Bench(plate())
    bench.key("A", hover=(10, 8))
    bench.key("D", hover=(10, 30))
    bench.key(UNDO)
    bench.key(REDO)
    bench.key(UNDO)
    np.testing.assert_array_equal(bench.layer.data, plate())
    assert marks.checked(bench.layer) == {5}
    bench.key(UNDO)
    assert marks.checked(bench.layer) == set()


def test_the_keys_of_undo_and_redo_go_with_the_tab():
    bench = Bench(plate())
    bench.tools.listen(False)
    assert not bench.layer.keymap
