from __future__ import annotations

import numpy as np
import pytest

from napari_attnseg.core.attention import AttentionTape
from napari_attnseg.core.axes import source_of
from napari_attnseg.errors import InputError, ModelError
from napari_attnseg.jobs.progress import drive
from napari_attnseg.jobs.segment import encode
from napari_attnseg.jobs.tape import default_block, record_tape
from napari_attnseg.params import SegmentParams
from napari_attnseg.records import PlaneKey
from tests.fakes import FakeEngine, blobs


def record(image, pixel, params=None, field=None, run=True):
    engine, source = FakeEngine(), source_of(image)
    params = params or SegmentParams(diameter=24)
    encoded = drive(encode(engine, source, params, field=field)) if run else None
    tape = drive(record_tape(engine, source, PlaneKey(), pixel, encoded, params))
    return tape, engine


def test_a_plane_that_fits_is_recorded_whole():
    tape, _ = record(blobs()[0], (5, 7))
    grid = tape.block("global1").grid
    assert (grid.origin, grid.field) == ((0, 0), (96, 128))


def test_the_tile_whose_core_holds_the_pixel():
    image = blobs((400, 500))[0]
    for pixel in ((0, 0), (399, 499), (200, 250), (130, 3)):
        tape, engine = record(image, pixel, SegmentParams(diameter=24, tile=128))
        grid = tape.block("global1").grid
        assert grid.contains(pixel)
        assert engine.calls[-1][0] == grid.field
        margin = [min(p - o, o + n - 1 - p) for p, o, n in zip(pixel, grid.origin, grid.field, strict=True)]
        edge = [p < 32 or p >= s - 32 for p, s in zip(pixel, image.shape, strict=True)]
        assert all(m >= 32 or e for m, e in zip(margin, edge, strict=True))  # the halo lies around it


def test_a_field_keeps_its_place_in_the_plane():
    tape, _ = record(blobs((200, 200))[0], None, field=(slice(40, 100), slice(60, 160)))
    grid = tape.block("local1").grid
    assert (grid.origin, grid.field) == ((40, 60), (60, 100))
    with pytest.raises(InputError, match="outside"):
        record(blobs((200, 200))[0], (0, 0), field=(slice(40, 100), slice(60, 160)))


def test_zoom_is_that_of_the_run_and_found_when_there_was_none():
    params = SegmentParams(diameter=48)
    for run in (True, False):
        tape, engine = record(blobs()[0], (5, 7), params, run=run)
        assert tape.zoom == engine.calls[-1][1] == 0.5
    engine = FakeEngine(sees=96.0)
    job = record_tape(engine, source_of(blobs()[0]), PlaneKey(), None, None, SegmentParams())
    assert drive(job).zoom == 0.25


def test_weights_sum_to_one_over_the_painted_plane():
    tape, _ = record(blobs()[0], (50, 60))
    row = tape.row("global1", (50, 60))
    assert row.weights.sum() + row.register_share == pytest.approx(1, abs=1e-3)
    painted = row.grid.paint(row.weights, (96, 128))
    np.testing.assert_allclose(painted.sum() / 256, row.weights.sum(), rtol=1e-5)


@pytest.mark.parametrize("pixel", [(-1, 0), (96, 0), (0, 128)])
def test_pixels_outside_are_refused(pixel):
    with pytest.raises(InputError, match="outside the image") as caught:
        record(blobs()[0], pixel)
    assert "95" in caught.value.hint


def test_the_first_global_block_is_shown_first():
    tape, _ = record(blobs()[0], None)
    assert default_block(tape) == "global1"
    assert default_block(AttentionTape({"local1": tape.block("local1")})) == "local1"
    with pytest.raises(ModelError):
        default_block(AttentionTape({}))
