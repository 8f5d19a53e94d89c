"""The main job in a real window: open a sample, Run, look at attention, cancel, close."""

from __future__ import annotations

import time

import numpy as np
import pytest
from napari.settings import get_settings
from qtpy.QtCore import QThreadPool

from napari_attnseg._napari.cards import title
from napari_attnseg.core.metrics import compare, scores
from napari_attnseg.store.models import find
from tests.e2e.plain import Plain

pytestmark = pytest.mark.e2e

IMAGE = "nuclei"


def open_sample(window):
    window.viewer.open_sample("napari-attnseg", "fluorescence")
    return window.viewer.layers[IMAGE].data, window.viewer.layers[f"{IMAGE} · ground truth"].data


def ap50(labels, truth) -> float:
    return scores(compare(labels, truth))["ap"]["0.50"]


def shown(window):
    """Return values and description of the overlay."""
    layer = window.viewer.layers[f"{IMAGE} · attention"]
    return np.array(layer.data), dict(layer.metadata["attnseg"])


def test_sample_run_labels_live(open_window):
    window = open_window()
    image, truth = open_sample(window)
    labels = window.run(IMAGE)
    assert labels.dtype == np.int32
    assert ap50(labels, truth) >= 0.7
    # live, after the run
    before = labels.copy()
    window.check("Drop objects at the edge")
    layer = window.viewer.layers[f"{IMAGE} · attnseg labels"]
    window.wait(lambda: layer.data[0].max() == 0 and layer.data[:, -1].max() == 0, 10)
    assert before[0].max() > 0
    assert layer.data.max() > 20


@pytest.mark.parametrize("block", ["global16a", "local8"])
def test_a_clicked_pixel_shows_what_the_checkpoint_says(open_window, block):
    window = open_window()
    image, _ = open_sample(window)
    window.set_diameter(24)  # no zoom, whatever size the network sees
    window.run(IMAGE)
    received, about = shown(window)
    assert about["show"] == "received"
    window.open_tab("Attention")
    window.choose("attnseg_block", block)
    window.click_pixel(200, 120)
    window.wait(lambda: shown(window)[1]["show"] == "row", 10)
    row, about = shown(window)
    assert about["query"] == [200, 120]
    assert not np.array_equal(row, received)
    assert "Pixel 200, 120" in window.find("attnseg_caption").text()
    # the painted cells, by a plain loop over checkpoint tensors
    assert about["zoom"] == 1.0
    weights, share = Plain(find("base").weights).rows(image, (200, 120))[block]
    np.testing.assert_allclose(row, weights, atol=0.02 * weights.max())
    assert np.corrcoef(row.ravel(), weights.ravel())[0, 1] > 0.999
    assert about["register_share"] == pytest.approx(share, abs=0.01)
    window.click_pixel(40, 340)
    window.wait(lambda: shown(window)[1]["query"] == [40, 340], 10)
    assert not np.array_equal(shown(window)[0], row)


def test_random_weights_do_not_segment(open_window, change_weights):
    def randomise(key, value, rng):
        if value.ndim < 2:
            return value
        return rng.normal(0, value.std(), value.shape).astype(value.dtype)

    change_weights("random", randomise)
    window = open_window()
    _, truth = open_sample(window)
    window.choose("attnseg_model", "random")
    labels = window.run(IMAGE)
    assert window.viewer.layers[f"{IMAGE} · attnseg labels"].metadata["attnseg"]["model"] == "random"
    assert ap50(labels, truth) < 0.2


def test_random_queries_and_keys_change_overlay_and_labels(open_window, change_weights):
    def randomise(key, value, rng):
        if not key.startswith("context.global16a.attention.qkv"):
            return value
        out = value.copy()
        n = 2 * len(value) // 3  # rows of q and k
        out[:n] = rng.normal(0, 3 * value.std(), out[:n].shape)
        return out

    change_weights("other-qk", randomise)
    window = open_window()
    open_sample(window)
    window.choose("attnseg_model", title(find("base").card))
    labels = window.run(IMAGE).copy()
    values, _ = shown(window)
    window.choose("attnseg_model", "other-qk")
    other = window.run(IMAGE)
    window.wait(lambda: shown(window)[1]["model"] == "other-qk", 30)
    assert not np.allclose(shown(window)[0], values, rtol=0.05)
    assert (other != labels).any()


def test_cancel_a_long_run(open_window):
    window = open_window()
    image, _ = open_sample(window)
    window.viewer.layers.clear()
    window.viewer.add_image(np.stack([image] * 60), name="long", axis_labels=("t", "y", "x"))
    window.choose("attnseg_scope", "whole layer")
    window.start()
    bar = window.find("attnseg_segment_cancel")
    window.wait(lambda: window.panel.segment.job_bar.bar.value() > 1)
    assert bar.isVisible()
    start = time.monotonic()
    window.click("attnseg_segment_cancel")
    window.wait(lambda: window.find("attnseg_run").isEnabled(), 30)
    assert time.monotonic() - start < 15  # one tile, on a slow machine
    assert [layer.name for layer in window.viewer.layers] == ["long"]
    assert window.find("attnseg_error").text() == ""


def test_close_the_window_during_a_run(open_window):
    window = open_window()
    image, _ = open_sample(window)
    window.viewer.add_image(np.stack([image] * 60), name="long", axis_labels=("t", "y", "x"))
    window.choose("attnseg_scope", "whole layer")
    window.start()
    window.wait(lambda: window.panel.segment.job_bar.bar.value() > 1)
    get_settings().application.confirm_close_window = False  # the question napari asks by default
    window.window.windowHandle().close()  # what the window manager's button sends
    window.wait(lambda: not window.window.isVisible(), 10)
    window.viewer.close()
    assert QThreadPool.globalInstance().waitForDone(30_000)
    window.qtbot.wait(200)  # late signals would fail the test here
