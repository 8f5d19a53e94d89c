"""Questions about a run and their answers, on a fake tape with a real readout."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_attnseg._napari import asking, overlay, pins, views
from napari_attnseg._napari.explorer import Explorer
from napari_attnseg._napari.objects import decision_words, object_words
from napari_attnseg.core.attention import AttentionTape
from napari_attnseg.core.attention_objects import object_row
from napari_attnseg.errors import InputError
from napari_attnseg.jobs.progress import drive
from napari_attnseg.records import PlaneKey
from tests.fakes import blobs
from tests.napari.asked import explorer_on, finished


def image_of(viewer, shape=(96, 128), **kwargs):
    return viewer.add_image(blobs(shape)[0], name="im", **kwargs)


def test_a_pixel_shows_its_exact_row_with_its_token_outlined():
    viewer = ViewerModel()
    explorer = explorer_on(viewer, image_of(viewer), pixel=(40, 70), head="1")
    view = explorer.show()
    row = explorer.tape.row("global1", (40, 70), "1")
    np.testing.assert_array_equal(viewer.layers["im · attention"].data, row.weights)
    caption = explorer.caption(view)
    for part in (
        "Pixel 40, 70",
        "global1 (whole field)",
        "head 1",
        "tokens of 16 px",
        "sum to 1",
        "Model 'fake'",
    ):
        assert part in caption
    outline = viewer.layers["im · attention outline"].data
    assert outline.shape == (4, 2, 2)
    np.testing.assert_allclose(outline[:, 0].min(axis=0), [31.5, 63.5])
    np.testing.assert_allclose(outline[:, 0].max(axis=0), [47.5, 79.5])


def test_the_window_of_a_local_block_is_outlined_and_cut_at_the_border():
    viewer = ViewerModel()
    explorer = explorer_on(viewer, image_of(viewer), block="local1", pixel=(2, 70))
    explorer.show()
    corners = viewer.layers["im · attention outline"].data[4:, 0]
    np.testing.assert_allclose(corners.min(axis=0), [-0.5, 31.5])
    np.testing.assert_allclose(corners.max(axis=0), [47.5, 111.5])
    inside = viewer.layers["im · attention"].data > 0
    assert inside.sum() == 3 * 5


def test_only_another_token_is_another_question():
    viewer = ViewerModel()
    explorer = explorer_on(viewer, image_of(viewer), pixel=(40, 70))
    assert not explorer.same_token((40, 70))  # nothing is shown yet
    explorer.show()
    assert explorer.same_token((47, 64))
    assert not explorer.same_token((48, 64))


def test_the_readout_is_joined_to_its_seed_and_decides_the_label():
    viewer = ViewerModel()
    explorer = explorer_on(viewer, image_of(viewer), block="readout", pixel=(20, 52))
    run = explorer.run
    label = int(run.shown.layer.data[20, 52])
    view = explorer.show()
    seed = np.unravel_index(int(view.values.argmax()), view.values.shape)
    lines = viewer.layers["im · attention outline"].data
    start, way = lines[-1]
    np.testing.assert_array_equal(start, (20, 52))
    np.testing.assert_array_equal(start + way, seed)
    assert run.shown.layer.data[seed] == label
    assert decision_words(run, explorer.tape, (20, 52)).startswith(f"Decided for object {label} (")
    assert decision_words(run, explorer.tape, (0, 0)) == "Decided for background (100%)."
    by_watershed = replace(run, params=run.params.model_copy(update={"readout": "watershed"}))
    assert decision_words(by_watershed, explorer.tape, (20, 52)) == ""


def test_a_live_change_of_the_readout_changes_what_is_shown():
    viewer = ViewerModel()
    session, run = finished(viewer, image_of(viewer))
    explorer = Explorer(viewer, session)
    explorer.change(block="readout", pixel=(20, 52))
    assert explorer.show().values.max() > 0.5
    session.change_run(run, params=run.params.model_copy(update={"threshold": 0.99999}))
    before = explorer.tape
    session.change_run(session.state.run, params=run.params)
    assert explorer.tape is not before
    assert explorer.run.tape is run.tape  # what was recorded stays


def test_an_object_shows_the_mean_row_of_its_pixels_and_words_that_add_up():
    viewer = ViewerModel()
    explorer = explorer_on(viewer, image_of(viewer), what="object")
    run = explorer.run
    label = int(run.shown.layer.data[16, 48])
    explorer.change(label=label)
    view = explorer.show()
    mask = run.shown.layer.data == label
    np.testing.assert_allclose(
        viewer.layers["im · attention"].data, object_row(explorer.tape, "global1", mask).weights
    )
    assert view.caption.startswith(f"Object {label}, the mean of its pixels, looks at")
    words = object_words(run, explorer.tape, explorer.question)
    shares = [float(part.split("%")[0].split()[-1]) for part in words.splitlines()[0].split(";")]
    assert sum(shares) == pytest.approx(100, abs=2)
    assert f"Its {mask.sum()} pixels give their seed" in words
    explorer.change(second=label + 1)
    both = object_words(run, explorer.tape, explorer.question)
    assert f"{label} → {label + 1}:" in both
    assert f"{label + 1} → itself:" in both
    explorer.change(label=10_000)
    with pytest.raises(InputError, match="no object 10000"):
        explorer.show()


def test_how_clear_an_objects_pixels_are():
    viewer = ViewerModel()
    explorer = explorer_on(viewer, image_of(viewer), what="sureness")
    label = int(explorer.run.shown.layer.data[16, 48])
    explorer.change(label=label)
    view = explorer.show()
    mask = explorer.run.shown.layer.data == label
    assert view.values.shape == mask.shape
    assert not view.values[~mask].any()
    assert view.values[mask].min() > 0.5
    assert view.limits == (0.0, 1.0)


@pytest.mark.parametrize("what", ["received", "entropy", "distance", "uncertainty", "rollout"])
def test_maps_are_made_by_a_job_and_kept_for_their_question(what):
    viewer = ViewerModel()
    image = image_of(viewer, scale=(0.5, 0.5), units=("um", "um"))
    explorer = explorer_on(viewer, image, what=what)
    assert explorer.needs_map
    assert explorer.show() is None
    question = explorer.question
    made = drive(asking.make_map(None, explorer.run, explorer.tape, question))
    explorer.keep_map(explorer.run.tape, question, made)
    view = explorer.show()
    np.testing.assert_array_equal(viewer.layers["im · attention"].data, made.values)
    assert made.note in view.caption
    if what == "distance":
        assert made.unit == "µm"
        assert "(µm)" in view.caption
    if what == "rollout":
        assert "from the whole field" in view.caption
        explorer.change(pixel=(40, 70))
        assert explorer.needs_map
    explorer.change(what="received" if what != "received" else "entropy")
    assert explorer.needs_map


def test_pins_keep_their_marker_and_row_at_one_scale():
    viewer = ViewerModel()
    explorer = explorer_on(viewer, image_of(viewer), pixel=(10, 10))
    explorer.show()
    explorer.pin((40, 70))
    explorer.pin((80, 20))
    markers = viewer.layers["im · attention pins"]
    np.testing.assert_array_equal(markers.data, [[40, 70], [80, 20]])
    assert not markers.editable
    one, two = (viewer.layers[f"im · attention · pin {n}"] for n in (1, 2))
    assert tuple(one.contrast_limits) == tuple(two.contrast_limits)
    np.testing.assert_array_equal(two.data, explorer.tape.row("global1", (80, 20)).weights)
    before = two.data.copy()
    explorer.change(pixel=(90, 100))
    explorer.show()
    np.testing.assert_array_equal(two.data, before)
    explorer.change(head="1")
    explorer.show_pins(hidden=[1])
    assert not np.array_equal(two.data, before)
    assert not one.visible
    explorer.pin((41, 71))  # in the token of the first: taken away
    assert [pin.number for pin in explorer.pins()] == [2]
    explorer.pin((5, 5))
    assert [pin.number for pin in explorer.pins()] == [1, 2]
    explorer.unpin(explorer.pins())
    assert [layer.name for layer in viewer.layers if "pin" in layer.name] == []


def test_two_models_are_compared_at_one_scale():
    viewer = ViewerModel()
    explorer = explorer_on(viewer, image_of(viewer), pixel=(40, 70))
    mine = explorer.run.tape
    block = mine.block("global1")
    second = replace(block, q=block.q * np.float16(3), _k32=None)
    other = AttentionTape({"global1": second}, 1.0, "tuned")
    explorer.keep_other(mine, other)
    a, b = (tape.row("global1", (40, 70)) for tape in (mine, other))
    top = max(a.weights.max(), b.weights.max())
    layer = {}
    for how in ("this", "other", "difference", "beside"):
        explorer.change(compare=how)
        explorer.show()
        layer[how] = viewer.layers["im · attention"].data.copy()
        if how == "other":
            assert "Model 'tuned'" in explorer.caption(explorer.view)
        if how != "this":
            assert viewer.layers["im · attention"].contrast_limits[1] == pytest.approx(
                float(np.abs(b.weights - a.weights).max()) if how == "difference" else float(top)
            )
    np.testing.assert_array_equal(layer["other"], b.weights)
    np.testing.assert_allclose(layer["difference"], b.weights - a.weights, atol=1e-7)
    np.testing.assert_array_equal(layer["beside"], a.weights)
    np.testing.assert_array_equal(viewer.layers["im · attention · other"].data, b.weights)
    explorer.change(compare="this")
    explorer.show()
    assert "im · attention · other" not in viewer.layers
    assert "im · again" not in viewer.layers
    explorer.change(compare="other", block="local1")
    with pytest.raises(InputError, match="'tuned' has no block 'local1'"):
        explorer.show()


def test_clearing_takes_all_of_an_image_away_and_nothing_else():
    viewer = ViewerModel()
    image = image_of(viewer)
    explorer = explorer_on(viewer, image, block="local1", pixel=(40, 70))
    explorer.show()
    explorer.pin((80, 20))
    viewer.layers.remove(image)
    explorer.clear(image)
    assert [layer.name for layer in viewer.layers] == ["labels"]
    assert explorer.pins(image) == ()


def test_the_scale_can_be_kept_for_rows_only():
    viewer = ViewerModel()
    explorer = explorer_on(viewer, image_of(viewer), pixel=(40, 70))
    explorer.fixed = explorer.show().limits
    explorer.change(pixel=(90, 100))
    assert explorer.show().limits == explorer.fixed
    explorer.change(what="sureness", label=int(explorer.run.shown.layer.data[16, 48]))
    assert explorer.show().limits == (0.0, 1.0)


def test_a_stack_is_asked_on_the_tapes_plane():
    viewer = ViewerModel()
    truth = blobs()[1]
    image = viewer.add_image(np.stack([blobs()[0]] * 4), name="im", axis_labels=("t", "y", "x"))
    session, run = finished(viewer, image, PlaneKey((2,)), truth)
    explorer = Explorer(viewer, session)
    explorer.change(block="global1", pixel=(40, 70))
    viewer.dims.set_current_step(0, 2)
    assert explorer.plane_now() == PlaneKey((2,))
    assert explorer.holds((40, 70), PlaneKey((2,)))
    assert not explorer.holds((40, 70), PlaneKey((1,)))
    assert explorer.caption(explorer.show()).startswith("T 2 · Pixel 40, 70")
    explorer.pin((40, 70))
    np.testing.assert_array_equal(viewer.layers["im · attention pins"].data, [[2, 40, 70]])
    assert overlay.find(viewer.layers, image).data.shape == (1, 6, 8)
    assert explorer.pixel_at((2, 40.4, 69.6)) == (40, 70)
    assert explorer.pixel_at((2, -0.6, 3)) is None


def test_the_command_says_the_same(tmp_path):
    viewer = ViewerModel()
    explorer = explorer_on(viewer, image_of(viewer), pixel=(40, 70), head="1")
    words = asking.command(explorer.run, explorer.question)
    assert words == (
        "napari-attnseg attention FILE --at 40 70 --model fake --block global1 --head 1 --out attention"
    )
    explorer.change(what="rollout", value=True)
    words = asking.command(explorer.run, explorer.question)
    assert words == (
        "napari-attnseg attention FILE --at 40 70 --model fake --block rollout --head 1 --out attention"
    )
    explorer.change(label=2)  # from an object: the command knows pixels only
    assert asking.command(explorer.run, explorer.question) == ""
    explorer.change(what="received", label=0)
    assert asking.command(explorer.run, explorer.question) == ""


def test_the_command_reads_mirror_images_as_the_run_did():
    viewer = ViewerModel()
    explorer = explorer_on(viewer, image_of(viewer), pixel=(40, 70))
    run = replace(explorer.run, params=explorer.run.params.model_copy(update={"mirror": "never"}))
    words = asking.command(run, explorer.question)
    assert words.endswith("--mirror never --out attention")


def test_a_field_smaller_than_the_plane_is_named_and_outlined():
    viewer = ViewerModel()
    image = image_of(viewer, (96, 256))
    session, run = finished(viewer, image)
    grid = replace(run.tape.block("global1").grid, shape=(6, 8), origin=(0, 64), field=(96, 128))
    block = replace(run.tape.block("global1"), grid=grid, q=np.zeros((2, 48, 8), np.float16))
    block = replace(block, k=np.zeros((2, 48, 8), np.float16), _k32=None)
    session.change_run(run, tape=AttentionTape({"global1": block}, 1.0, "fake"))
    explorer = Explorer(viewer, session)
    explorer.change(block="global1", pixel=(40, 100))
    assert "columns 64–191; attention does not leave it" in explorer.caption(explorer.show())
    box = viewer.layers["im · attention outline"].data[4:, 0]
    np.testing.assert_allclose(box.min(axis=0), pins.field_box(grid)[:2])
    assert not explorer.holds((40, 20), run.plane)


def test_a_steady_scale_is_kept_while_the_row_fills_a_quarter_of_it():
    def view(top, **info):
        about = {"show": "row", "block": "a", "head": "mean", "value": False, "model": "m"} | info
        return views.View(np.zeros((2, 2), np.float32), None, (0.0, top), "", about)

    before = view(1.0)
    assert views.steadied(view(0.6), before).limits == (0.0, 1.0)
    assert views.steadied(view(0.3), before).limits == (0.0, 1.0)
    assert views.steadied(view(0.2), before).limits == pytest.approx((0.0, 0.3))  # too dark on that scale
    assert views.steadied(view(1.2), before).limits == pytest.approx((0.0, 1.8))  # nothing is cut off
    assert views.steadied(view(0.6, head="1"), before).limits == (0.0, 0.6)
    assert views.steadied(view(0.6), None).limits == (0.0, 0.6)
