"""The per-viewer state: replaced as a whole, told once, bounded in memory."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image, Labels

from napari_attnseg._napari.layers import source_of
from napari_attnseg._napari.session import Run, Session
from napari_attnseg._napari.shown import Shown
from napari_attnseg.params import SegmentParams
from napari_attnseg.records import DenseMaps, Encoded, PlaneKey, Segmentation


def run_on(image: Image) -> Run:
    plane = np.zeros((10, 10), np.float32)
    maps = DenseMaps(plane, plane, plane, np.zeros((2, 10, 10), np.float32))  # 2,000 bytes
    labels = np.zeros((10, 10), np.int32)
    field = slice(0, 10), slice(0, 10)
    encoded = Encoded({PlaneKey(): maps}, {}, {}, field, "base")
    result = Segmentation(labels, {}, {}, "base", "1", 0.0)
    shown = Shown(Labels(labels), labels)
    return Run(image, source_of(image), SegmentParams(), result, encoded, shown, None, PlaneKey())


def test_one_session_per_viewer():
    one, two = ViewerModel(), ViewerModel()
    assert Session.of(one) is Session.of(one)
    assert Session.of(one) is not Session.of(two)


def test_the_state_is_frozen_and_changes_are_told_once():
    session, seen = Session(), []
    session.changed.connect(lambda new, old: seen.append((new.busy, old.busy)))
    session.update(busy="Segmenting")
    session.update(busy=session.state.busy)
    assert seen == [("Segmenting", "")]
    with pytest.raises(dataclasses.FrozenInstanceError):
        session.state.busy = "x"  # type: ignore[misc]


def test_old_maps_go_when_the_limit_is_reached():
    session, images = Session(), [Image(np.zeros((10, 10))) for _ in range(3)]
    for image in images:
        session.put_run(run_on(image), limit=4500)
    assert [run.encoded is not None for run in session.state.runs] == [False, True, True]
    session.put_run(run_on(images[0]), limit=0)  # the newest stays live whatever the limit
    assert [run.encoded is not None for run in session.state.runs] == [False, False, True]
    assert session.state.runs[-1].image is images[0]


def test_the_run_whose_layer_was_replaced_is_kept_once_without_its_maps():
    session, image = Session(), Image(np.zeros((10, 10)))
    for n in range(3):
        old = session.state.run_of(image)
        made = dataclasses.replace(run_on(image), replaced=old.shown if old is not None else None)
        session.put_run(made, limit=10**6)
        if n == 0:
            assert session.state.runs[0].before is None
    (run,) = session.state.runs
    assert run.before == dataclasses.replace(old, encoded=None, replaced=None, before=None)
    session.put_run(run_on(image), limit=10**6)  # the layer before was edited: it stays where it is
    assert session.state.runs[0].before is None


def test_an_image_that_is_gone_is_forgotten():
    session, image = Session(), Image(np.zeros((10, 10)))
    session.put_run(run_on(image), limit=10**6)
    session.update(image=image)
    assert session.state.run is not None
    session.forget(image)
    assert session.state.run is None
    assert session.state.runs == ()
    assert session.state.image is None
