"""Image layers to sources, results to Labels layers, without Qt."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image, Labels

from napari_attnseg._napari import layers as L
from napari_attnseg.core.axes import read_plane
from napari_attnseg.errors import InputError
from napari_attnseg.records import PlaneKey, Segmentation

TURN = np.array([[1, 0, 0], [0, 0.8, -0.6], [0, 0.6, 0.8]])


def odd_image(shape=(5, 20, 30), **kwargs) -> Image:
    """A scaled, shifted, turned, sheared stack with units."""
    return Image(
        np.zeros(shape),
        name="odd",
        scale=(2, 0.5, 0.25),
        translate=(1, 2, 3),
        rotate=TURN,
        shear=[0, 0, 0.1],
        affine=np.diag([1, 2, 2, 1]),
        units=("s", "um", "um"),
        axis_labels=("t", "y", "x"),
        **kwargs,
    )


def segmentation(labels, **kwargs) -> Segmentation:
    ids = np.unique(labels[labels > 0])
    features = {
        "index": ids,
        "confidence": np.full(len(ids), 0.9),
        "size": np.array([int((labels == n).sum()) for n in ids]),
    }
    return Segmentation(
        np.asarray(labels, dtype=np.int32), features, {"threshold": 0.5}, "base", "1.0", 0.1, **kwargs
    )


@pytest.mark.parametrize(
    ("shape", "kwargs", "axes"),
    [
        ((20, 30), {}, "YX"),
        ((20, 30, 3), {"rgb": True}, "YX"),
        ((9, 20, 30), {}, "ZYX"),
        ((3, 20, 30), {}, "CYX"),
        ((3, 20, 30), {"axis_labels": ("z", "y", "x")}, "ZYX"),
        ((9, 20, 30), {"axis_labels": ("Channel", "y", "x")}, "CYX"),
        ((9, 20, 30), {"units": ("s", "pixel", "pixel")}, "TYX"),
        ((9, 2, 20, 30), {}, "ZCYX"),
        ((9, 8, 20, 30), {}, "TZYX"),
        ((2, 2, 20, 30), {"axis_labels": ("t", "t", "y", "x")}, None),
    ],
)
def test_axes_are_guessed_from_names_units_and_sizes(shape, kwargs, axes):
    layer = Image(np.zeros(shape, np.uint8), **kwargs)
    guess = L.guess_axes(layer)
    assert guess == axes if axes else len(set(guess)) == len(shape)
    assert L.axes_choices(layer)[0] == guess
    assert L.source_of(layer).axes == guess


def test_a_multiscale_layer_gives_its_full_resolution():
    full = np.random.default_rng(0).random((64, 64))
    source = L.source_of(Image([full, full[::2, ::2]], multiscale=True))
    assert source.shape_yx == (64, 64)


@pytest.mark.parametrize(("shape", "axes"), [((4, 4), "CYX"), ((4, 4, 4), "YYX"), ((4, 4, 4), "ZCY")])
def test_axes_that_cannot_be_say_so(shape, axes):
    with pytest.raises(InputError) as error:
        L.source_of(Image(np.zeros(shape)), axes)
    assert axes in str(error.value)
    assert error.value.hint


def test_a_lazy_layer_is_not_computed():
    touched = []

    def block(block_info=None):
        touched.append(block_info[None]["array-location"])
        return np.zeros((1, 16, 16), np.uint8)

    chunks, meta = ((1,) * 6, (16, 16), (16, 16)), np.empty((0,) * 3)
    data = da.map_blocks(block, chunks=chunks, dtype=np.uint8, meta=meta)
    source = L.source_of(Image(data, contrast_limits=(0, 1)))
    touched.clear()
    read_plane(source, PlaneKey((4,)), (slice(0, 8), slice(0, 8)))
    assert touched == [[(4, 5), (0, 16), (0, 16)]]


def test_the_plane_looked_at_is_found_on_a_scaled_layer():
    viewer = ViewerModel()
    layer = viewer.add_image(np.zeros((5, 20, 30)), scale=(2, 0.5, 0.25), axis_labels=("t", "y", "x"))
    viewer.dims.set_current_step(0, 3)
    assert L.plane_at(layer, L.source_of(layer), viewer.dims.point) == PlaneKey((3,))


def test_the_visible_field_is_clipped_to_the_plane():
    layer = Image(np.zeros((100, 200)))
    layer.corner_pixels = np.array([[-5, 20], [40, 260]])
    assert L.visible_field(layer, (100, 200)) == (slice(0, 41), slice(20, 200))
    layer.corner_pixels = np.zeros((2, 2), int)  # nothing drawn yet
    assert L.visible_field(layer, (100, 200)) == (slice(0, 100), slice(0, 200))


def test_labels_lie_exactly_over_an_odd_image():
    image = odd_image()
    viewer = ViewerModel()
    viewer.add_layer(image)
    labels = np.zeros((5, 20, 30), np.int32)
    labels[2, 5:9, 5:9] = 4
    shown, swapped = L.show_result(viewer.layers, image, L.source_of(image), segmentation(labels))
    layer = shown.layer
    assert swapped is None
    assert layer.name == "odd · attnseg labels"
    assert layer.data.dtype == np.int32
    np.testing.assert_allclose(L.world_matrix(layer), L.world_matrix(image))
    np.testing.assert_allclose(layer.scale, image.scale)
    assert (layer.units, layer.axis_labels) == (image.units, image.axis_labels)
    for corner in ([0, 0, 0], [4, 19, 29], [2, 7, 3.5]):
        np.testing.assert_allclose(layer.data_to_world(corner), image.data_to_world(corner))
    assert list(layer.features["index"]) == [4]
    assert list(layer.features["size"]) == [16]
    about = layer.metadata["attnseg"]
    assert (about["model"], about["params"]) == ("base", {"threshold": 0.5})
    assert viewer.layers.index(layer) == viewer.layers.index(image) + 1


def test_labels_show_on_every_channel_of_a_multichannel_layer():
    viewer = ViewerModel()
    stack, names = np.zeros((4, 3, 20, 30)), ("t", "c", "y", "x")
    image = viewer.add_image(stack, scale=(1, 2, 0.5, 0.5), axis_labels=names)
    labels = np.zeros((4, 20, 30), np.int32)
    labels[1] = 7
    shown, _ = L.show_result(viewer.layers, image, L.source_of(image), segmentation(labels))
    for channel in range(3):
        world = image.data_to_world((1, channel, 10, 10))
        index = np.round(shown.layer.world_to_data(world)).astype(int)
        assert shown.layer.data[tuple(index)] == 7
    first = viewer.add_image(np.zeros((3, 20, 30)), scale=(1, 0.5, 0.5), axis_labels=("c", "y", "x"))
    shown, _ = L.show_result(viewer.layers, first, L.source_of(first), segmentation(labels[1]))
    assert shown.layer.data.shape == (20, 30)
    np.testing.assert_allclose(shown.layer.scale, (0.5, 0.5))


@pytest.fixture
def shown():
    viewer = ViewerModel()
    image = viewer.add_image(np.zeros((20, 30)), name="im")
    labels = np.zeros((20, 30), np.int32)
    labels[2:6, 2:6] = 1
    first, _ = L.show_result(viewer.layers, image, L.source_of(image), segmentation(labels))
    return viewer, image, first, labels


def test_running_again_swaps_an_untouched_layer_and_restore_brings_it_back(shown):
    viewer, image, first, labels = shown
    second, swapped = L.show_result(
        viewer.layers, image, L.source_of(image), segmentation(labels * 2), previous=first
    )
    assert swapped is first
    assert first.layer not in viewer.layers
    assert second.layer.name == "im · attnseg labels"
    assert L.restore(viewer.layers, second, first) is first
    assert [layer.name for layer in viewer.layers] == ["im", "im · attnseg labels"]
    assert viewer.layers[1] is first.layer
    assert first.layer.data.max() == 1


def test_a_name_that_the_user_gave_stays_and_ours_follows_the_image(shown):
    viewer, image, first, labels = shown
    result = segmentation(labels)
    image.name = "other"
    second, _ = L.show_result(viewer.layers, image, L.source_of(image), result, previous=first)
    assert second.layer.name == "other · attnseg labels"
    second.layer.name = "nuclei"
    third, _ = L.show_result(viewer.layers, image, L.source_of(image), result, previous=second)
    assert third.layer.name == "nuclei"


def test_an_edited_layer_is_never_touched(shown):
    viewer, image, first, labels = shown
    first.layer.paint((15, 20), 9)
    edited = first.layer.data.copy()
    second, swapped = L.show_result(
        viewer.layers, image, L.source_of(image), segmentation(labels * 2), previous=first
    )
    assert swapped is None
    assert first.layer in viewer.layers
    np.testing.assert_array_equal(first.layer.data, edited)
    assert second.layer.name == "im · attnseg labels [1]"


def test_a_layer_of_the_user_with_our_name_is_never_touched():
    viewer = ViewerModel()
    image = viewer.add_image(np.zeros((20, 30)), name="im")
    mine = viewer.add_labels(np.full((20, 30), 3), name="im · attnseg labels")
    result = segmentation(np.ones((20, 30), np.int32))
    shown, _ = L.show_result(viewer.layers, image, L.source_of(image), result)
    assert mine in viewer.layers
    assert (mine.data == 3).all()
    assert shown.layer.name == "im · attnseg labels [1]"


def test_restore_keeps_a_new_layer_that_was_edited(shown):
    viewer, image, first, labels = shown
    second, _ = L.show_result(viewer.layers, image, L.source_of(image), segmentation(labels), previous=first)
    second.layer.paint((15, 20), 9)
    L.restore(viewer.layers, second, first)
    assert second.layer in viewer.layers
    assert first.layer in viewer.layers


def test_rewriting_in_place_leaves_an_undo_that_works(shown):
    _, image, first, labels = shown
    first.layer.paint((15, 20), 9)
    first.layer.undo()
    assert not first.edited
    again = L.rewrite(first, segmentation(np.roll(labels, 3, axis=1)), L.source_of(image))
    kept = first.layer.data.copy()
    assert again.layer is first.layer
    first.layer.redo()  # the stroke belonged to labels that are gone
    first.layer.undo()
    np.testing.assert_array_equal(first.layer.data, kept)
    first.layer.paint((15, 20), 5)
    assert again.edited
    first.layer.undo()
    assert not again.edited


def test_our_own_layers_are_not_offered(shown):
    viewer, image, first, _ = shown
    over = viewer.add_image(np.zeros((2, 3)), metadata={"attnseg": {"kind": "attention"}})
    assert L.images(viewer.layers) == [image]
    assert L.is_ours(over)
    assert L.is_ours(first.layer)
    assert isinstance(first.layer, Labels)
