from __future__ import annotations

import numpy as np
import pytest

from napari_attnseg.core.axes import source_of
from napari_attnseg.core.grid import TokenGrid
from napari_attnseg.jobs import attention_maps as jobs
from napari_attnseg.jobs.progress import drive
from napari_attnseg.jobs.segment import encode
from napari_attnseg.jobs.tape import record_tape, with_readout
from napari_attnseg.params import SegmentParams
from napari_attnseg.records import PlaneKey
from napari_attnseg.store.cache import TapeCache
from tests.fakes import FakeEngine, blobs

KEY = PlaneKey()


def plane_map(image, kind, block="global1", engine=None, cache=None, **params):
    engine = engine or FakeEngine()
    params = SegmentParams(diameter=24, **params)
    job = jobs.plane_map(engine, source_of(image), KEY, kind, block, "mean", None, params, cache)
    return drive(job)


def test_a_map_of_one_tile_is_the_map_of_its_tape():
    image = blobs()[0]
    tape = drive(record_tape(FakeEngine(), source_of(image), KEY, None, None, SegmentParams(diameter=24)))
    for kind in ("received", "entropy", "distance", "rollout"):
        one, steps = None, []
        one = drive(jobs.field_map(tape, kind, "global1"), steps.append)
        whole = plane_map(image, kind)
        np.testing.assert_array_equal(one.values, whole.values)
        assert steps
        assert all(0 <= s.done <= s.total for s in steps)
    np.testing.assert_array_equal(drive(jobs.rollout(tape)).values, whole.values)


def test_tiles_are_put_together_core_by_core(tmp_path):
    image = blobs((400, 500))[0]
    engine, cache = FakeEngine(), TapeCache(folder=tmp_path)
    found = plane_map(image, "received", engine=engine, cache=cache, tile=128)
    assert found.grid == TokenGrid(16, 1.0, (25, 32), (0, 0), (400, 500))
    assert found.values.shape == (25, 32)
    assert "each for itself" in found.note
    params = SegmentParams(diameter=24, tile=128)
    for pixel in ((3, 3), (200, 250), (399, 499), (130, 300)):
        tape = drive(record_tape(engine, source_of(image), KEY, pixel, None, params))
        part, _ = tape.received("global1")
        here = part[tape.block("global1").grid.token_of(pixel)]
        assert found.values[found.grid.token_of(pixel)] == here
    before = len(engine.calls)
    plane_map(image, "received", engine=engine, cache=cache, tile=128)
    assert len(engine.calls) == before  # all tapes were kept


def test_the_readout_of_a_run_is_mapped_as_a_whole():
    engine, source, params = (
        FakeEngine(),
        source_of(blobs((400, 500))[0]),
        SegmentParams(diameter=24, tile=128),
    )
    encoded = drive(encode(engine, source, params))
    calls = len(engine.calls)
    job = jobs.plane_map(engine, source, KEY, "uncertainty", "readout", "mean", encoded, params)
    found = drive(job)
    assert found.values.shape == (400, 500)
    assert len(engine.calls) == calls


@pytest.mark.parametrize("zoom_diameter", [17.0, 30.0])
def test_tiles_with_tokens_of_odd_size_leave_no_gap(zoom_diameter):
    found = plane_map_at(zoom_diameter)
    assert (found.values > 0).all()


def plane_map_at(diameter):
    engine, image = FakeEngine(), blobs((400, 500))[0]
    params = SegmentParams(diameter=diameter, tile=128)
    job = jobs.plane_map(engine, source_of(image), KEY, "distance", "global1", "mean", None, params)
    return drive(job)


def test_closing_a_job_ends_it():
    tape = drive(
        record_tape(FakeEngine(), source_of(blobs()[0]), KEY, None, None, SegmentParams(diameter=24))
    )
    job = jobs.field_map(with_readout(tape, None, KEY, SegmentParams()), "entropy", "global1")
    next(job)
    job.close()
    with pytest.raises(StopIteration):
        next(job)
