"""Names of trainings, and what Cancel leaves of one that was taken up again."""

from __future__ import annotations

import pytest

from napari_attnseg.jobs import child
from napari_attnseg.store import runs
from tests.qt.test_dock import press
from tests.qt.test_finetune import corrected, start, tune  # noqa: F401  # fixtures

RED = "d9483b"


@pytest.fixture
def named(corrected):  # noqa: F811
    """The tab, ready to start, with a name that the user typed."""
    panel = corrected[2]
    panel.name_edit.setText("t1")
    return panel


def ended(qtbot, panel):
    qtbot.waitUntil(lambda: panel.running is None, timeout=30_000)


def cancel(qtbot, panel):
    qtbot.waitUntil(lambda: panel.run_box.bar.value() > 1, timeout=20_000)
    press(qtbot, panel.run_box.cancel_button)
    ended(qtbot, panel)


def test_a_typed_name_is_free_again_after_cancel_and_after_roll_back(named, qtbot, tune):  # noqa: F811
    tune.extend(["--steps", "2000"])
    start(qtbot, named)
    cancel(qtbot, named)
    assert named.name_edit.text() == "t1"
    assert named.reason() == ""
    assert named.start_button.isEnabled()
    named.listen(True)  # as when the tab is shown again
    assert named.name_edit.text() == "t1"
    tune[:] = ["--steps", "4"]
    start(qtbot, named)
    ended(qtbot, named)
    assert named.after.result.isVisible()
    assert len(runs.read_samples(runs.runs_folder() / "t1.1")) == 1  # the first is put aside, not lost
    assert not named.waiting.isVisible()
    assert named.name_edit.text() == "t1-2"  # there is a model 't1'
    qtbot.waitUntil(lambda: not named._session.state.busy, timeout=20_000)
    press(qtbot, named.after.result.back_button)
    named.name_edit.setText("t1")
    assert named.reason() == ""
    start(qtbot, named)
    ended(qtbot, named)
    assert runs.state(runs.runs_folder() / "t1").status == "finished"


def killed(named, qtbot, tune):  # noqa: F811
    """Start a training and kill its child while it learns."""
    tune.extend(["--steps", "2000"])
    start(qtbot, named)
    qtbot.waitUntil(lambda: named.run_box.bar.value() > 1, timeout=20_000)
    child.kill(named.running)
    ended(qtbot, named)


def test_the_name_of_an_interrupted_training_is_kept_for_it(named, qtbot, tune):  # noqa: F811
    killed(named, qtbot, tune)
    assert named.name_edit.text() == "t1-2"
    assert named.start_button.isEnabled()
    named.name_edit.setText("t1")
    assert named.reason() == "A training named 't1' exists already. Choose another name."
    named.name_edit.setText("mine")
    assert named.waiting.go_on_button.isVisible()
    tune[:] = ["--steps", str(runs.state(runs.runs_folder() / "t1").step + 3)]
    press(qtbot, named.waiting.go_on_button)
    ended(qtbot, named)
    assert named.after.result.isVisible()
    assert named.name_edit.text() == "mine"  # another that the user typed stays


def test_cancelling_a_resumed_training_while_it_reads_is_no_trouble(named, qtbot, tune):  # noqa: F811
    killed(named, qtbot, tune)
    assert RED in named.error_line.styleSheet()
    tune[:] = ["--reading"]
    press(qtbot, named.waiting.go_on_button)
    qtbot.waitUntil(lambda: "learning" in named.run_box.state_line.text(), timeout=20_000)
    press(qtbot, named.run_box.cancel_button)
    ended(qtbot, named)
    assert named.error_line.text().startswith("Cancelled.")
    assert RED not in named.error_line.styleSheet()
    assert named.waiting.go_on_button.isVisible()  # what it had learnt before is still there
    press(qtbot, named.waiting.leave_button)
    assert runs.list_runs() == []


def test_a_training_cancelled_before_its_first_step_gives_its_name_back(named, qtbot, tune):  # noqa: F811
    tune.append("--reading")
    start(qtbot, named)
    qtbot.waitUntil(lambda: "learning" in named.run_box.state_line.text(), timeout=20_000)
    press(qtbot, named.run_box.cancel_button)
    ended(qtbot, named)
    assert named.error_line.text() == "Cancelled: nothing is stored."
    assert named.name_edit.text() == "t1"
    assert named.start_button.isEnabled()
