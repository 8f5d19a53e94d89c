"""Two classes painted with the mouse, a real training in a child process, accept, run: both are there."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from napari_attnseg.store import models
from tests.e2e.test_finetune import stroke

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

IMAGE = "nuclei"
STEPS = 25


def nuclei(truth, count=5):
    """Return the middles of the largest objects away from the border."""
    deep = ndimage.distance_transform_edt(truth > 0)
    deep[:30] = deep[-30:] = deep[:, :30] = deep[:, -30:] = 0
    peaks = ndimage.maximum_position(deep, truth, np.unique(truth)[1:])
    return sorted(peaks, key=lambda p: -deep[p])[:count]


def test_paint_two_classes_tune_accept_run(open_window, tmp_path, monkeypatch):
    monkeypatch.setenv("NAPARI_ATTNSEG_HOME", str(tmp_path))
    window = open_window()
    viewer = window.viewer
    viewer.open_sample("napari-attnseg", "fluorescence")
    truth = viewer.layers[f"{IMAGE} · ground truth"].data.copy()
    viewer.layers.remove(f"{IMAGE} · ground truth")
    labels = viewer.add_labels(np.zeros(truth.shape, np.int32), name="classes")
    panel = window.panel.finetune
    window.open_tab("Fine-tune")
    window.choose("attnseg_task", "Classes")
    assert not window.find("attnseg_tune_start").isEnabled()
    labels.brush_size, labels.mode = 6, "paint"
    ground = nuclei((truth == 0).astype(np.int32) * (1 + np.indices(truth.shape).sum(axis=0) // 150))
    for number, places in ((1, nuclei(truth)), (2, ground)):
        labels.selected_label = number
        for y, x in places:
            stroke(window, (y, x - 2), (y, x + 3))
    labels.mode = "pan_zoom"
    painted = labels.data.copy()
    assert set(np.unique(painted)) == {0, 1, 2}
    window.wait(lambda: panel.classes_box.table.rowCount() == 2, 20)
    panel.classes_box.table.item(0, 1).setText("nucleus")
    panel.classes_box.table.item(1, 1).setText("ground")
    wanted = panel.params
    monkeypatch.setattr(panel, "params", lambda: wanted().model_copy(update={"steps": STEPS}))
    window.wait(lambda: window.find("attnseg_tune_start").isEnabled(), 20)
    window.click("attnseg_tune_start")
    window.wait(lambda: panel.running is not None, 60)
    window.wait(lambda: panel.running is None, 500)
    assert window.find("attnseg_tune_error").text() == ""
    assert models.find("base-tuned").card.classes == ("nucleus", "ground")
    said = window.find("attnseg_tune_result").text()
    assert "mean Dice" in said or "too little is painted to judge" in said
    window.wait(lambda: window.find("attnseg_tune_accept").isEnabled() and not window.panel.jobs.busy, 200)
    window.click("attnseg_tune_accept")
    assert window.panel.segment.engine_key[0] == "base-tuned"
    assert window.panel.segment.params().task == "classes"
    np.testing.assert_array_equal(labels.data, painted)
    window.open_tab("Segment")
    found = window.run(IMAGE)
    result = viewer.layers[f"{IMAGE} · attnseg labels"]
    assert set(np.unique(found)) >= {1, 2}
    both = (found == 1) & (truth > 0)
    assert 2 * both.sum() / ((found == 1).sum() + (truth > 0).sum()) > 0.6
    assert result.features["class"].tolist() == ["nucleus", "ground"]
    np.testing.assert_allclose(result.get_color(1), labels.get_color(1))
    assert "class: nucleus" in str(result.get_status(nuclei(truth)[0], world=True))
    # the objects of such a model have their class
    window.panel.segment.classic.set_values({"task": "instances"})
    window.run(IMAGE)
    table = viewer.layers[f"{IMAGE} · attnseg labels"].features
    assert set(table["class"]) <= {"nucleus", "ground"}
    assert "nucleus" in set(table["class"])
    # the other tabs live with it
    for tab in ("Attention", "Correct", "Models", "Fine-tune"):
        window.open_tab(tab)
        window.qtbot.wait(300)
    assert window.find("attnseg_error").text() == ""
    assert "nucleus, ground" in panel.classes_box.hint_line.text()
