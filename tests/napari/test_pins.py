"""Marks lie where their pixels are, whatever the image's geometry."""

from __future__ import annotations

import numpy as np
from napari.components import ViewerModel

from napari_attnseg._napari import pins
from napari_attnseg._napari.layers import source_of
from napari_attnseg.records import PlaneKey
from tests.napari.test_layers import odd_image


def test_markers_and_outlines_on_an_odd_layer():
    viewer = ViewerModel()
    image = odd_image((5, 100, 120))
    viewer.add_layer(image)
    source, plane = source_of(image), PlaneKey((3,))
    made = [pins.Pin(1, (40, 33), plane), pins.Pin(2, (10, 90), PlaneKey((1,)))]
    markers = pins.show_pins(viewer.layers, image, source, made)
    for pin, where in zip(made, markers.data, strict=True):
        np.testing.assert_allclose(
            markers.data_to_world(where), image.data_to_world((*pin.plane.index, *pin.pixel))
        )
    outline = pins.show_outline(
        viewer.layers, image, source, plane, [(3.5, 7.5, 19.5, 23.5)], [(5, 6, 50, 60)]
    )
    np.testing.assert_allclose(outline.data_to_world(outline.data[0, 0]), image.data_to_world((3, 3.5, 7.5)))
    np.testing.assert_array_equal(outline.data[:4, 1].sum(axis=0), 0)  # the sides close
    np.testing.assert_array_equal(outline.data[4], [[3, 5, 6], [0, 45, 54]])
    assert viewer.layers.selection.active is image


def test_marks_of_a_stack_with_channels_show_on_every_channel():
    for axes, labels in (((2, 3, 64, 96), "tcyx"), ((3, 2, 64, 96), "ctyx")):
        viewer = ViewerModel()
        image = viewer.add_image(np.zeros(axes), axis_labels=tuple(labels))
        source = source_of(image)
        markers = pins.show_pins(viewer.layers, image, source, [pins.Pin(1, (20, 30), PlaneKey((1,)))])
        for channel in range(3):
            viewer.dims.set_current_step(labels.index("c"), channel)
            viewer.dims.set_current_step(labels.index("t"), 1)
            assert len(markers._view_data) == 1
            viewer.dims.set_current_step(labels.index("t"), 0)
            assert len(markers._view_data) == 0


def test_marks_go_when_there_is_nothing_to_mark():
    viewer = ViewerModel()
    image = viewer.add_image(np.zeros((64, 96)), name="im")
    source = source_of(image)
    pins.show_pins(viewer.layers, image, source, [pins.Pin(1, (20, 30), PlaneKey())])
    first = pins.show_outline(viewer.layers, image, source, PlaneKey(), [(0, 0, 5, 5)])
    assert pins.show_outline(viewer.layers, image, source, PlaneKey(), [(0, 0, 8, 8)]) is first
    pins.show_pins(viewer.layers, image, source, [])
    pins.show_outline(viewer.layers, image, source, PlaneKey(), [])
    assert list(viewer.layers) == [image]


def test_colours_come_round():
    assert pins.Pin(1, (0, 0), PlaneKey()).colour != pins.Pin(2, (0, 0), PlaneKey()).colour
    assert (
        pins.Pin(1, (0, 0), PlaneKey()).colour == pins.Pin(len(pins.COLOURS) + 1, (0, 0), PlaneKey()).colour
    )
