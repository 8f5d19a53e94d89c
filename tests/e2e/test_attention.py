"""The attention explorer in a real window: hover, pins, planes, a second model, checks, closing."""

from __future__ import annotations

import json

import numpy as np
import pytest
from napari.settings import get_settings
from qtpy.QtCore import QThreadPool

from napari_attnseg.core.attention import AttentionTape
from napari_attnseg.jobs.crop_check import CheckLimits
from napari_attnseg.store.models import find

pytestmark = pytest.mark.e2e

IMAGE = "nuclei"
OVERLAY = f"{IMAGE} · attention"


@pytest.fixture
def asked(open_window):
    """A window with a run, at the Attention tab."""
    window = open_window()
    window.viewer.open_sample("napari-attnseg", "fluorescence")
    window.viewer.layers.remove(f"{IMAGE} · ground truth")
    window.run(IMAGE)
    window.open_tab("Attention")
    return window


def about(window, name=OVERLAY):
    return window.viewer.layers[name].metadata["attnseg"]


def tape(window) -> AttentionTape:
    return window.panel.session.state.run.tape


def hover(window, y, x):
    """Move the mouse there and wait for the answer."""
    window.move_to(y, x)
    window.wait(lambda: about(window)["show"] == "row", 10)
    grid = tape(window).block(about(window)["block"]).grid
    window.wait(lambda: grid.token_of(about(window)["query"]) == grid.token_of((y, x)), 10)
    return np.array(window.viewer.layers[OVERLAY].data)


def test_the_overlay_follows_the_mouse_and_pins_stay(asked):
    window = asked
    first = hover(window, 200, 120)
    np.testing.assert_array_equal(first, tape(window).row(about(window)["block"], (200, 120)).weights)
    second = hover(window, 40, 340)
    assert not np.array_equal(first, second)
    window.wait(lambda: "attention" in str(window.viewer.status), 10)  # its value is in the status bar
    window.click_pixel(200, 120, shift=True)
    window.wait(lambda: f"{OVERLAY} · pin 1" in window.viewer.layers, 10)
    window.click_pixel(320, 60, shift=True)
    window.wait(lambda: f"{OVERLAY} · pin 2" in window.viewer.layers, 10)
    pinned = window.viewer.layers[f"{OVERLAY} · pin 1"].data.copy()
    np.testing.assert_array_equal(pinned, first)
    assert len(window.viewer.layers[f"{OVERLAY} pins"].data) == 2
    hover(window, 100, 200)
    np.testing.assert_array_equal(window.viewer.layers[f"{OVERLAY} · pin 1"].data, pinned)
    # a click holds the place
    window.click_pixel(60, 60)
    window.wait(lambda: not window.find("attnseg_follow").isChecked(), 10)
    window.move_to(300, 300)
    window.qtbot.wait(200)
    assert about(window)["query"] == [60, 60]


def test_the_readout_decides_the_label_under_the_mouse(asked):
    window = asked
    labels = window.viewer.layers[f"{IMAGE} · attnseg labels"].data
    sizes = np.bincount(labels.ravel())
    label = int(sizes[1:].argmax()) + 1
    y, x = (int(p.mean()) for p in np.nonzero(labels == label))
    assert labels[y, x] == label
    window.click_pixel(y, x)
    window.wait(
        lambda: window.find("attnseg_decision").text().startswith(f"Decided for object {label} ("), 10
    )
    window.choose("attnseg_show", "object: what it looks at")
    window.click_pixel(y, x)
    window.wait(lambda: about(window)["show"] == "object", 10)
    words = window.find("attnseg_object_words").text()
    assert words.startswith(f"Object {label} looks at itself")
    assert f"Its {sizes[label]} pixels give their seed" in words


def test_deleting_the_image_clears_everything(asked):
    window = asked
    hover(window, 200, 120)
    window.click_pixel(200, 120, shift=True)
    window.wait(lambda: f"{OVERLAY} pins" in window.viewer.layers, 10)
    window.viewer.layers.selection = {window.viewer.layers[IMAGE]}
    window.viewer.layers.remove_selected()  # what the bin under the layer list does
    window.wait(lambda: [layer.name for layer in window.viewer.layers] == [f"{IMAGE} · attnseg labels"], 10)
    assert "Run the attention network" in window.find("attnseg_attention_hint").text()
    window.move_to(100, 100)
    window.qtbot.wait(100)
    assert len(window.viewer.layers) == 1


def test_a_second_model_and_a_run_with_it_recompute(asked, change_weights):
    def randomise(key, value, rng):
        if ".qkv." not in key and "to_q" not in key and "to_k" not in key and "attn" not in key:
            return value
        if value.ndim < 2:
            return value
        return rng.normal(0, value.std(), value.shape).astype(value.dtype)

    change_weights("other", randomise)
    window = asked
    window.open_tab("Segment")
    window.open_tab("Attention")
    window.click_pixel(200, 120)
    window.wait(lambda: about(window)["show"] == "row", 10)
    mine = window.viewer.layers[OVERLAY].data.copy()
    window.click("attnseg_compare_section")
    window.choose("attnseg_second_model", "other")
    window.wait(lambda: about(window)["model"] == "other", 60)
    theirs = window.viewer.layers[OVERLAY].data.copy()
    assert not np.allclose(theirs, mine, rtol=0.05)
    window.choose("attnseg_compare", "second minus first")
    window.wait(lambda: about(window)["show"] == "difference", 10)
    np.testing.assert_allclose(window.viewer.layers[OVERLAY].data, theirs - mine, atol=1e-6)
    window.choose("attnseg_second_model", "none")
    window.open_tab("Segment")
    window.choose("attnseg_model", "other")
    window.run(IMAGE)
    window.wait(lambda: about(window)["model"] == "other", 60)


def test_a_check_of_the_query_in_words(asked):
    window = asked
    window.click_pixel(200, 120)
    window.wait(lambda: about(window)["show"] == "row", 10)
    window.click("attnseg_check_section")
    window.click("attnseg_check_query")
    words = window.find("attnseg_check_words")
    window.wait(lambda: "random" in words.text())
    assert window.find("attnseg_check_plot").isVisible()
    assert not window.find("attnseg_attention_cancel").isVisible()


def test_a_check_of_the_model_is_saved_and_can_be_read(asked, tmp_path, monkeypatch):
    """By mouse, on a small crop of the open image; the report names its maps and says how it was measured."""
    monkeypatch.setenv("NAPARI_ATTNSEG_HOME", str(tmp_path))
    quick = CheckLimits(side=96, queries=6, objects=1, cells=3, draws=4, orders=1)
    monkeypatch.setattr("napari_attnseg.jobs.model_check.CheckLimits", lambda: quick)
    window = asked
    window.click("attnseg_check_section")
    window.wait(lambda: window.find("attnseg_check_model").isEnabled(), 10)
    window.click("attnseg_check_model")
    words = window.find("attnseg_check_model_words")
    window.wait(lambda: "Saved:" in words.text(), 240)
    assert words.text().startswith("Best map: ")
    assert window.find("attnseg_report").isVisible()
    (folder,) = (tmp_path / "reports").iterdir()
    assert sorted(p.name for p in folder.iterdir()) == ["faithfulness_base.json", "faithfulness_base.md"]
    assert f"{folder.name}/faithfulness_base.md" in words.text()
    made = json.loads((folder / "faithfulness_base.json").read_text())
    assert (made["model"], made["images"], made["sha256"]) == ("base", 1, find("base").card.sha256)
    scores = {(s["name"], s["variant"]): s for s in made["scores"]}
    assert {("rollout", "value"), ("nearness", ""), ("gradient", ""), ("influence", "")} <= set(scores)
    assert scores["rollout", "value"]["spearman"] > scores["random", ""]["spearman"]
    page = (folder / "faithfulness_base.md").read_text()
    assert "| rollout, value |" in page
    assert "one crop of 96 x 96 pixels" in page


def close(window):
    """Close the window by its frame; no job may outlive it, and no late signal may come."""
    get_settings().application.confirm_close_window = False
    window.window.windowHandle().close()
    window.wait(lambda: not window.window.isVisible(), 10)
    window.viewer.close()
    assert QThreadPool.globalInstance().waitForDone(60_000)
    window.qtbot.wait(200)  # late signals would fail the test here


def test_close_the_window_during_a_rollout(asked):
    window = asked
    window.choose("attnseg_show", "pixel: through all blocks (rollout)")
    assert window.panel.jobs.busy
    assert about(window)["show"] == "received"  # it is not there yet
    close(window)


def test_close_the_window_during_a_check(asked):
    window = asked
    window.click_pixel(200, 120)
    window.wait(lambda: about(window)["show"] == "row", 10)
    window.click("attnseg_check_section")
    window.click("attnseg_check_query")
    window.wait(lambda: window.panel.jobs.busy, 10)
    close(window)


def test_the_window_shows_the_blocks_of_the_card(asked):
    box = asked.find("attnseg_block")
    assert tuple(box.itemData(n) for n in range(box.count())) == find("base").card.blocks
