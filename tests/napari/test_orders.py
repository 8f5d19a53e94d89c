"""What a scope means, and running orders with the fake engine."""

from __future__ import annotations

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_attnseg._napari.orders import chosen_images, order_for, run_orders
from napari_attnseg.jobs.progress import drive
from napari_attnseg.params import SegmentParams
from napari_attnseg.records import PlaneKey
from tests.fakes import FakeEngine, blobs

PARAMS = SegmentParams(readout="watershed", diameter=24)


@pytest.fixture
def viewer():
    viewer = ViewerModel()
    image, _ = blobs()
    viewer.add_image(np.stack([image] * 5), name="stack", axis_labels=("t", "y", "x"))
    viewer.add_image(image, name="flat")
    viewer.dims.set_current_step(0, 2)
    return viewer


def test_scopes_choose_planes_and_field(viewer):
    stack = viewer.layers["stack"]
    whole = order_for(viewer, stack, None, PARAMS, "whole layer")
    assert (whole.planes, whole.field) == (None, None)
    plane = order_for(viewer, stack, None, PARAMS, "current plane")
    assert (plane.planes, plane.field) == ((PlaneKey((2,)),), None)
    stack.corner_pixels = np.array([[0, 10, 20], [0, 40, 60]])
    view = order_for(viewer, stack, None, PARAMS, "visible field")
    assert (view.planes, view.field) == ((PlaneKey((2,)),), (slice(10, 41), slice(20, 61)))
    viewer.layers.selection = set(viewer.layers)
    assert chosen_images(viewer, stack, "selected layers") == [viewer.layers["flat"], stack]
    assert chosen_images(viewer, stack, "whole layer") == [stack]


def test_the_current_plane_only_is_labelled(viewer):
    order = order_for(viewer, viewer.layers["stack"], None, PARAMS, "current plane")
    _, (outcome,) = drive(run_orders(FakeEngine(), [order]))
    filled = outcome.segmentation.labels.reshape(5, -1).any(axis=1)
    assert list(filled) == [False, False, True, False, False]


def test_ids_are_unique_across_planes_and_progress_spans_layers(viewer):
    orders = [order_for(viewer, layer, None, PARAMS, "whole layer") for layer in viewer.layers]
    steps = []
    engine = FakeEngine()
    back, outcomes = drive(run_orders(engine, orders), on_progress=steps.append)
    assert back is engine
    labels = outcomes[0].segmentation.labels
    assert len(np.unique(labels)) - 1 == 5 * 12
    shares = [s.done / s.total for s in steps if s.total]
    assert shares == sorted(shares)
    assert shares[-1] <= 1.0
    assert steps[0].note.startswith("stack: ")


def test_a_classic_method_needs_no_engine(viewer):
    params = SegmentParams(method="kmeans")
    order = order_for(viewer, viewer.layers["flat"], None, params, "whole layer")
    engine, (outcome,) = drive(run_orders(None, [order]))
    assert engine is None
    assert outcome.encoded is None
    assert outcome.segmentation.labels.max() >= 1
