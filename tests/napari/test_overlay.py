"""The overlay lies where its tokens are, whatever the image's geometry."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_attnseg._napari import overlay, pins, views
from napari_attnseg._napari.layers import source_of
from napari_attnseg.core.attention import AttentionTape
from napari_attnseg.core.grid import TokenGrid
from napari_attnseg.jobs.attention_maps import field_map
from napari_attnseg.jobs.progress import drive
from napari_attnseg.records import PlaneKey
from tests.fakes import FakeEngine
from tests.napari.test_layers import odd_image


def tape_of(field=(64, 96), origin=(0, 0), zoom=1.0):
    return FakeEngine().tape(np.zeros(field), zoom=zoom, origin=origin)


def received_view(tape: AttentionTape, block: str, head: str) -> views.View:
    return views.map_view(tape, drive(field_map(tape, "received", block, head)))


def row_view(tape: AttentionTape, block: str, head: str, pixel: tuple[int, int]) -> views.View:
    return views.row_view(tape, tape.row(block, pixel, head))


@pytest.mark.parametrize("zoom", [1.0, 0.5, 2.0])
def test_each_token_lies_over_its_pixels_on_an_odd_layer(zoom):
    viewer = ViewerModel()
    image = odd_image((5, 100, 120))
    viewer.add_layer(image)
    tape = tape_of(origin=(16, 8), zoom=zoom)
    view = received_view(tape, "global1", "mean")
    layer = overlay.show(viewer.layers, image, source_of(image), PlaneKey((3,)), view)
    grid = view.grid
    assert layer.name == "odd · attention"
    assert layer.data.shape == (1, *grid.shape)
    for pixel in [(16, 8), (40, 33), (79, 103), (57, 70)]:
        world = image.data_to_world((3, *pixel))
        token = layer.world_to_data(world)
        assert round(token[0], 6) == 0
        assert (round(token[1]), round(token[2])) == grid.token_of(pixel)
    assert abs(layer.world_to_data(image.data_to_world((2, 40, 33)))[0]) > 0.5  # only on its own plane
    assert (layer.units, layer.blending, layer.interpolation2d) == (image.units, "additive", "nearest")


def test_the_overlay_spans_all_channels():
    viewer = ViewerModel()
    image = viewer.add_image(np.zeros((2, 3, 64, 96)), axis_labels=("t", "c", "y", "x"))
    view = received_view(tape_of(), "local1", "1")
    layer = overlay.show(viewer.layers, image, source_of(image), PlaneKey((1,)), view)
    for channel in range(3):
        token = np.round(layer.world_to_data((1, channel, 20, 20))).astype(int)
        assert tuple(token) == (0, 0, *view.grid.token_of((20, 20)))


def test_the_same_layer_is_used_again_and_the_selection_stays():
    viewer = ViewerModel()
    image = viewer.add_image(np.zeros((64, 96)), name="im")
    tape, source = tape_of(), source_of(image)
    first = overlay.show(viewer.layers, image, source, PlaneKey(), received_view(tape, "global1", "mean"))
    before = first.data.copy()
    view = row_view(tape, "global1", "0", (10, 20))
    again = overlay.show(viewer.layers, image, source, PlaneKey(), view)
    assert again is first
    assert len(viewer.layers) == 2
    assert viewer.layers.selection.active is image
    assert not np.array_equal(again.data, before)
    np.testing.assert_array_equal(again.data, tape.row("global1", (10, 20), 0).weights)
    about = again.metadata["attnseg"]
    assert (about["show"], about["block"], about["head"], about["query"]) == ("row", "global1", "0", [10, 20])
    assert abs(again.data.sum() + about["register_share"] - 1) < 1e-3


def test_captions_name_block_head_stride_registers_and_sampling():
    tape = tape_of(zoom=0.5)
    text = row_view(tape, "local1", "1", (10, 20)).caption
    assert "local1" in text
    assert "head 1" in text
    assert "tokens of 32 px" in text
    assert "registers" in text
    assert "exact" in text
    big = tape_of(field=(1040, 1040))  # 65 x 65 tokens: more than 4,096
    view = received_view(big, "global1", "mean")
    assert "sample of 1,024 queries" in view.caption
    assert view.info["sampled"]
    assert "exact" in received_view(tape, "global1", "mean").caption


@pytest.mark.parametrize("level", [100, 240])  # phase contrast; a stained section
def test_a_bright_image_keeps_its_light_where_nothing_is_looked_at(level):
    viewer = ViewerModel()
    bright = viewer.add_image(np.full((64, 96, 3), level, np.uint8), rgb=True)
    view = received_view(tape_of(), "global1", "mean")
    layer = overlay.show(viewer.layers, bright, source_of(bright), PlaneKey(), view)
    assert overlay.has_ink(layer)
    assert layer.blending == "translucent"
    clear, *_, most = layer.colormap.map(np.linspace(0, 1, 9))
    assert clear[3] == 0  # nothing is put over the image there
    assert most[3] == 1
    assert most[:3].max() < 0.4  # dark, so that it shows
    shades = layer.colormap.map(np.linspace(0, 1, 9))
    assert (np.diff(shades[:, 3]) > 0).all()  # more attention covers more
    assert layer.opacity == 0.8
    assert tuple(layer.colorbar.box_color) == (1, 1, 1, 1)
    overlay.set_ink(layer, False)
    assert (layer.blending, layer.opacity, layer.colorbar.box_color) == ("additive", 0.5, None)
    layer.opacity = 0.3  # the user's
    overlay.set_ink(layer, True)
    assert layer.opacity == 0.3


def test_the_overlay_lets_the_labels_under_it_be_seen():
    viewer = ViewerModel()
    image = viewer.add_image(np.zeros((64, 96)), name="im")
    view = received_view(tape_of(), "global1", "mean")
    layer = overlay.show(viewer.layers, image, source_of(image), PlaneKey(), view)
    assert layer.opacity == 0.5
    layer.opacity = 0.9  # from here on it is the user's
    overlay.show(viewer.layers, image, source_of(image), PlaneKey(), view)
    assert layer.opacity == 0.9


def test_a_place_that_gets_most_of_the_attention_is_named():
    tape = tape_of()
    assert "above all" not in row_view(tape, "global1", "0", (10, 20)).caption
    block = tape.block("global1")
    keys = np.zeros_like(block.k)
    token = block.grid.token_of((40, 70))
    index = token[0] * block.grid.shape[1] + token[1]
    keys[:, index] = 100 * block.q[:, 0]
    block.k, block.registers, block._k32 = keys, np.zeros_like(block.registers), None
    y, x = (round(p) for p in block.grid.pixel_of(token))
    caption = row_view(tape, "global1", "0", (0, 0)).caption
    assert caption.startswith(f"Pixel 0, 0 looks at {y}, {x} above all (")


def test_the_layers_array_is_written_in_place_and_is_not_the_rows():
    viewer = ViewerModel()
    image = viewer.add_image(np.zeros((64, 96)), name="im")
    tape, source = tape_of(), source_of(image)
    first = row_view(tape, "global1", "0", (10, 20))
    layer = overlay.show(viewer.layers, image, source, PlaneKey(), first)
    array, before = layer.data, first.values.copy()
    overlay.show(viewer.layers, image, source, PlaneKey(), row_view(tape, "global1", "0", (60, 90)))
    assert layer.data is array
    np.testing.assert_array_equal(first.values, before)  # a view that is kept is not written into


def test_a_difference_has_two_colours_and_goes_back():
    viewer = ViewerModel()
    image = viewer.add_image(np.zeros((64, 96)), name="im")
    tape, source = tape_of(), source_of(image)
    plain = row_view(tape, "global1", "0", (10, 20))
    layer = overlay.show(viewer.layers, image, source, PlaneKey(), plain)
    signed = views.View(plain.values - 0.05, plain.grid, (-0.05, 0.05), "d", {"show": "difference"}, True)
    overlay.show(viewer.layers, image, source, PlaneKey(), signed)
    assert layer.colormap.name == "attnseg difference"
    assert tuple(layer.contrast_limits) == (-0.05, 0.05)
    low, middle, high = layer.colormap.map(np.array([0.0, 0.5, 1.0]))
    assert low[2] > low[0]
    assert high[0] > high[2]
    assert middle[3] == 0
    overlay.show(viewer.layers, image, source, PlaneKey(), plain)
    assert layer.colormap.name == "attnseg attention"
    assert layer.blending == "additive"


def test_side_by_side_is_moved_by_the_image_and_shares_its_data():
    viewer = ViewerModel()
    image = odd_image((5, 100, 120))
    viewer.add_layer(image)
    source, tape = source_of(image), tape_of(field=(100, 120))
    view = row_view(tape, "global1", "0", (10, 20))
    copy = overlay.show_beside(viewer.layers, image, 130, "again")
    layer = overlay.show(viewer.layers, image, source, PlaneKey((3,)), view, role="other", shift=130)
    assert np.shares_memory(copy.data, image.data)
    pixel = np.array([3, 40, 33])
    np.testing.assert_allclose(copy.data_to_world(pixel), image.data_to_world((3, 40, 163)), atol=1e-6)
    part = layer.world_to_data(copy.data_to_world(pixel))
    parts, _ = view.grid.parts((100, 120))
    assert (round(part[1]) // parts, round(part[2]) // parts) == view.grid.token_of((40, 33))
    overlay.remove(viewer.layers, image)
    assert list(viewer.layers) == [image]


def test_a_map_says_what_lies_above_its_colour_bar():
    made = drive(field_map(tape_of(field=(320, 320)), "received", "global1", "mean"))
    view = views.map_view(tape_of(field=(320, 320)), made)
    above = int((view.values > view.limits[1]).sum())
    assert above > 0
    assert f"{above} places above {view.limits[1]:.2g} are drawn as that" in view.caption
    top = float(np.sort(view.values.ravel())[-2])
    one = views.map_view(tape_of(field=(320, 320)), replace(made, limits=(made.limits[0], top)))
    assert one.caption.endswith(f" · 1 place above {top:.2g} is drawn as that")
    entropy = drive(field_map(tape_of(), "entropy", "global1", "mean"))
    assert "drawn as that" not in views.map_view(tape_of(), entropy).caption


@pytest.mark.parametrize("zoom", [1.0, 0.074, 0.37, 2.0])
def test_the_overlay_ends_where_the_image_ends(zoom):
    viewer = ViewerModel()
    image = viewer.add_image(np.zeros((517, 389), np.float32), name="im")
    shape = tuple(int(np.ceil(n * zoom / 16)) for n in (517, 389))
    grid = TokenGrid(16, zoom, shape, (0, 0), (517, 389))
    values = np.random.default_rng(0).random(shape, dtype=np.float32)
    view = views.View(values, grid, (0.0, 1.0), "words")
    layer = overlay.show(viewer.layers, image, source_of(image), PlaneKey(()), view)
    (top, left), (bottom, right) = (
        layer.data_to_world(np.array(c) - 0.5) for c in ((0, 0), layer.data.shape)
    )
    assert abs(top + 0.5) < 0.01
    assert abs(left + 0.5) < 0.01
    assert -0.01 < bottom - 516.5 <= 517 / 256
    assert -0.01 < right - 388.5 <= 517 / 256
    for pixel in ((0, 0), (100, 200), (515, 387), (300, 5)):
        part = np.round(layer.world_to_data(pixel)).astype(int)
        assert layer.data[tuple(part)] == values[grid.token_of(pixel)]


def test_cells_that_are_cut_blend_and_are_themselves_again():
    viewer = ViewerModel()
    image = viewer.add_image(np.zeros((40, 40), np.float32), name="im")
    values = np.arange(9, dtype=np.float32).reshape(3, 3)
    view = views.View(values, TokenGrid(16, 1.0, (3, 3), (0, 0), (40, 40)), (0.0, 9.0), "words")
    layer = overlay.show(viewer.layers, image, source_of(image), PlaneKey(()), view)
    sharp = np.repeat(np.repeat(values, 2, 0), 2, 1)[:5, :5]
    np.testing.assert_array_equal(layer.data, sharp)
    overlay.set_smooth(layer, True)
    np.testing.assert_allclose(layer.data[0], [0, 0.25, 0.75, 1.25, 1.75])
    np.testing.assert_allclose(layer.data[:, 0], [0, 0.75, 2.25, 3.75, 5.25])
    again = overlay.show(
        viewer.layers, image, source_of(image), PlaneKey(()), replace(view, values=values[::-1])
    )
    assert again is layer
    np.testing.assert_allclose(layer.data[:, 0], [6, 5.25, 3.75, 2.25, 0.75])
    overlay.set_smooth(layer, False)
    np.testing.assert_array_equal(layer.data, np.repeat(np.repeat(values[::-1], 2, 0), 2, 1)[:5, :5])


def test_a_token_at_the_edge_is_outlined_as_far_as_the_image_goes():
    viewer = ViewerModel()
    image = viewer.add_image(np.zeros((40, 40), np.float32), name="im")
    source, plane = source_of(image), PlaneKey(())
    marks = pins.show_outline(viewer.layers, image, source, plane, [(31.5, 31.5, 47.5, 47.5)])
    ends = marks.data[:, 0] + marks.data[:, 1]
    assert marks.data[:, 0].min() == 31.5
    assert ends.max() == 39.5
    image.name = "other"
    pins.show_outline(viewer.layers, image, source, plane, [(0.0, 0.0, 9.0, 9.0)])
    assert marks.name == "other · attention outline"
