"""The Attention tab on images that are run in tiles, and on those that have several levels."""

from __future__ import annotations

import numpy as np

from napari_attnseg.core.attention_maps import field_map
from napari_attnseg.jobs.progress import drive
from tests.fakes import blobs
from tests.qt.test_attention import hover, idle, info, tab_of
from tests.qt.test_dock import run


def test_maps_of_a_tiled_image_are_put_together_and_say_so(open_dock, qtbot):
    """Tiles of 128 pixels: a map covers them all, a row and a rollout stay inside the tile of their pixel."""
    viewer, dock = open_dock()
    viewer.add_image(blobs((192, 320))[0], name="im")
    dock.segment.diameter.unit_box.setCurrentText("px")  # 24: the image is not resized
    run(qtbot, dock)
    idle(qtbot, dock)
    tab_of(dock, "Attention")
    panel = dock.attention
    panel.form.choose("entropy")
    idle(qtbot, dock)
    layer = viewer.layers["im · attention"]
    assert layer.data.shape == (12, 20)
    assert np.isfinite(layer.data).all()
    assert (layer.data > 0).all()
    np.testing.assert_allclose(layer.extent.world, [[7.5, 7.5], [183.5, 311.5]])  # middles of the tokens
    assert "tiles, each for itself" in panel.caption.text()
    assert "Field:" not in panel.caption.text()
    tape = dock.session.state.run.tape
    (y, x), (h, w) = tape.field
    assert (h, w) < (192, 320)
    inside = drive(field_map(tape, "entropy", "global1")).values
    middle = y + h // 2, x + w // 2  # in the core of its own tile
    own = tape.block("global1").grid.token_of(middle)
    assert layer.data[middle[0] // 16, middle[1] // 16] == inside[own]
    for what in ("pixel", "rollout"):
        panel.form.choose(what)
        panel.ask((float(middle[0]), float(middle[1])))
        idle(qtbot, dock)
        words = f"Field: rows {y}–{y + h - 1}, columns {x}–{x + w - 1}; attention does not leave it."
        qtbot.waitUntil(lambda words=words: words in panel.caption.text())
        ends = viewer.layers["im · attention outline"].data.sum(axis=1)  # of the edges
        assert np.isclose(ends[:, 0].max(), y + h - 0.5)
        assert np.isclose(ends[:, 1].max(), x + w - 0.5)


def test_a_multiscale_image_is_asked_at_its_finest_level(open_dock, qtbot):
    viewer, dock = open_dock()
    full = blobs((96, 128))[0]
    viewer.add_image([full, full[::2, ::2], full[::4, ::4]], multiscale=True, name="im", scale=(2.0, 2.0))
    run(qtbot, dock)
    idle(qtbot, dock)
    tab_of(dock, "Attention")
    panel = dock.attention
    hover(panel, 80.0, 140.0)  # world: twice the pixel
    assert (info(viewer)["show"], info(viewer)["query"]) == ("row", [40, 70])
    qtbot.waitUntil(lambda: panel.caption.text().startswith("Pixel 40, 70 looks at"))
    layer = viewer.layers["im · attention"]
    row = dock.session.state.run.tape.row("global1", (40, 70))
    np.testing.assert_array_equal(layer.data, row.weights)
    side = 2.0 * row.grid.cell  # of a token in the world
    wanted = (np.array(row.grid.shape) - 1) * side  # from the middle of the first to that of the last
    np.testing.assert_allclose(np.diff(layer.extent.world, axis=0)[0], wanted)
    for kind in ("received", "rollout", "entropy"):
        panel.form.choose(kind)
        idle(qtbot, dock)
        assert info(viewer)["show"] == kind
        assert layer.data.shape == row.grid.shape
    assert "Field:" not in panel.caption.text()
