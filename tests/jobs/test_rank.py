"""Ranking as a job, on the fake engine."""

from __future__ import annotations

import numpy as np
import pytest

from napari_attnseg.errors import InputError, ModelError
from napari_attnseg.jobs.progress import drive
from napari_attnseg.jobs.rank import THUMBNAIL, VIEWS, rank
from napari_attnseg.jobs.segment import segment
from napari_attnseg.params import SegmentParams
from napari_attnseg.records import ImageSource, PlaneKey
from tests.fakes import FakeEngine, blobs

PARAMS = SegmentParams(diameter=24, readout="watershed")


def prepared(image, axes="YX"):
    engine, source = FakeEngine(), ImageSource(image, axes)
    result, encoded = drive(segment(engine, source, PARAMS))
    return engine, source, result.labels, encoded


def test_every_view_is_undone_by_its_way_back():
    image = np.arange(12).reshape(3, 4)
    for turn, back in VIEWS:
        assert not np.array_equal(turn(image), image)
        np.testing.assert_array_equal(back(turn(image)), image)


@pytest.mark.parametrize("thorough", [False, True])
def test_a_wrong_object_comes_first(thorough):
    image, _ = blobs()
    engine, source, labels, encoded = prepared(image)
    first, second = sorted(np.unique(labels))[1:3]
    labels[labels == second] = first  # two objects under one id
    steps = []
    found = drive(
        rank(engine, source, PARAMS, {PlaneKey(): labels}, encoded=encoded, thorough=thorough), steps.append
    )
    if thorough:  # the views see two
        assert found.suspects[0].label == first
        views = found.doubts[PlaneKey()].views
        assert views[0] >= 0.4
        assert (views[1:] < 0.2).all()
        assert steps[-1].done <= steps[-1].total
    assert set(found.scores) == set(np.unique(labels)) - {0}
    assert all(0 <= score <= 1 for score in found.scores.values())
    assert found.suspects[0].picture.shape == (THUMBNAIL, THUMBNAIL, 3)
    assert (found.suspects[0].picture == (255, 213, 74)).all(axis=-1).any()  # the outline
    assert [s.score for s in found.suspects] == sorted((s.score for s in found.suspects), reverse=True)
    assert found.fields


def test_the_margin_alone_needs_no_network():
    _, source, labels, encoded = prepared(blobs()[0])
    found = drive(rank(None, source, PARAMS, {PlaneKey(): labels}, encoded=encoded, thorough=False))
    assert len(found.scores) == 12
    with pytest.raises(ModelError, match="needed"):
        drive(rank(None, source, PARAMS, {PlaneKey(): labels}, thorough=False))
    with pytest.raises(ModelError, match="needed"):
        drive(rank(None, source, PARAMS, {PlaneKey(): labels}, encoded=encoded))


def test_labels_from_elsewhere_and_done_objects_over_planes():
    image, truth = blobs()
    engine, source = FakeEngine(), ImageSource(np.stack([image, image[::-1]]), "TYX")
    planes = {PlaneKey((0,)): truth, PlaneKey((1,)): np.where(truth > 0, truth + 50, 0)}
    done = {PlaneKey((0,)): {1, 2}}
    found = drive(rank(engine, source, PARAMS, planes, done=done))
    listed = {s.label for s in found.suspects if s.kind == "object"}
    assert listed == set(range(3, 13)) | set(range(51, 63))
    assert set(found.scores) == set(range(1, 13)) | set(range(51, 63))  # done ones have a score too
    assert {s.plane.index for s in found.suspects} == {(0,), (1,)}
    assert all(d.labelled for d in found.doubts.values())


def test_a_field_keeps_the_coordinates_of_its_plane():
    image, _ = blobs((200, 200))
    engine, source = FakeEngine(), ImageSource(image, "YX")
    field = slice(64, 200), slice(96, 200)
    result, encoded = drive(segment(engine, source, PARAMS, field=field))
    found = drive(rank(engine, source, PARAMS, {PlaneKey(): result.labels}, encoded=encoded))
    for suspect in found.suspects:
        if suspect.kind == "object":
            y, x = np.nonzero(result.labels == suspect.label)
            assert suspect.box == (y.min(), x.min(), y.max() + 1, x.max() + 1)


def test_what_cannot_be_ranked_is_said(monkeypatch):
    engine, source, labels, _ = prepared(blobs()[0])
    with pytest.raises(InputError, match="no plane"):
        drive(rank(engine, source, PARAMS, {}))
    monkeypatch.setattr("napari_attnseg.jobs.planes.BLOCK", 50)
    with pytest.raises(InputError, match="too large"):
        drive(rank(engine, source, PARAMS, {PlaneKey(): labels}))


def test_it_stops_when_asked_to():
    engine, source, labels, _ = prepared(blobs()[0])
    calls = len(engine.calls)
    assert drive(rank(engine, source, PARAMS, {PlaneKey(): labels}), cancelled=lambda: True) is None
    assert len(engine.calls) == calls
