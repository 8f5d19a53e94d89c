"""Views in which no plane of Y and X is shown, and what they leave undefined."""

from __future__ import annotations

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_attnseg._napari.canvas import shows_planes, why_no_planes
from napari_attnseg._napari.layers import source_of
from napari_attnseg._napari.orders import why_unknown
from napari_attnseg._napari.watch import LayerWatch


@pytest.fixture
def viewer():
    viewer = ViewerModel()
    viewer.add_image(np.zeros((5, 20, 30)), name="stack", axis_labels=("t", "y", "x"))
    viewer.add_image(np.zeros((20, 30)), name="flat")
    return viewer


def test_a_view_of_other_axes_and_the_3d_view_show_no_planes(viewer):
    assert shows_planes(viewer)
    viewer.dims.order = (0, 2, 1)  # turned, but Y and X
    assert shows_planes(viewer)
    viewer.dims.order = (1, 0, 2)
    assert why_no_planes(viewer, "It is so") == "It is so in Y and X: bring the last two axes into view."
    viewer.dims.ndisplay = 3
    assert why_no_planes(viewer, "It is so") == "It is so in the 2-D view: press the 2-D/3-D button."


def test_what_is_shown_does_not_tell_the_field_nor_the_plane_of_a_stack_there(viewer):
    stack, flat = (source_of(viewer.layers[name]) for name in ("stack", "flat"))
    scopes = ("visible field", "current plane", "whole layer", "selected layers")
    assert not any(why_unknown(viewer, stack, scope) for scope in scopes)
    viewer.dims.order = (1, 0, 2)
    assert why_unknown(viewer, stack, "visible field").startswith("The visible field is known in Y and X:")
    assert why_unknown(viewer, stack, "current plane").startswith("The current plane is known in Y and X:")
    assert [scope for scope in scopes if why_unknown(viewer, flat, scope)] == ["visible field"]
    viewer.dims.ndisplay = 3
    assert [scope for scope in scopes if why_unknown(viewer, stack, scope)] == list(scopes[:2])


def test_turning_the_axes_is_told(viewer):
    watch, told = LayerWatch(viewer), []
    watch.moved.connect(lambda: told.append(viewer.dims.order))
    viewer.dims.order = (1, 0, 2)
    assert told[-1:] == [(1, 0, 2)]
    watch.close()
