from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from napari_attnseg.core.attention import AttentionTape
from napari_attnseg.core.axes import source_of
from napari_attnseg.core.grid import TokenGrid
from napari_attnseg.core.postprocess import find_seeds
from napari_attnseg.core.seedblock import seed_block
from napari_attnseg.core.size import zoom_for
from napari_attnseg.errors import InputError, ModelError
from napari_attnseg.jobs.progress import drive
from napari_attnseg.jobs.segment import encode
from napari_attnseg.jobs.tape import default_block, readout_of, record_other, record_tape, with_readout
from napari_attnseg.params import SegmentParams
from napari_attnseg.records import PlaneKey
from napari_attnseg.store.cache import TapeCache
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
    assert drive(job).zoom == zoom_for(96, 24)


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


def test_the_readout_is_that_of_the_run():
    engine, source, params = FakeEngine(), source_of(split_votes()), SegmentParams(diameter=24, threshold=0.3)
    engine.tape = voting_tape(engine)
    encoded = drive(encode(engine, source, params))
    tape = drive(record_tape(engine, source, PlaneKey(), None, encoded, params))
    wanted = find_seeds(encoded.maps[PlaneKey()], 0.3, 0.0)
    np.testing.assert_array_equal(tape.block("readout").seeds.pixels, wanted.pixels)
    changed = with_readout(tape, encoded, PlaneKey(), SegmentParams(threshold=0.8))
    assert len(changed.block("readout").seeds.pixels) < len(wanted.pixels)
    assert changed.block("global1") is tape.block("global1")
    assert with_readout(tape, None, PlaneKey(), params) is tape
    assert readout_of(encoded, PlaneKey((7,)), params) is None


def split_votes():
    y, x = np.indices((96, 128))
    return (np.hypot(y - 48, x - 64) < 30) * np.linspace(100, 255, 128).astype(np.uint8)


def voting_tape(engine):
    plain = engine.tape

    def tape(image, *, zoom=1.0, norm=None, origin=(0, 0)):
        found = plain(image, zoom=zoom, norm=norm, origin=origin)
        grid = TokenGrid(1, 1.0, image.shape, origin, image.shape)
        maps = engine.maps(image, zoom=zoom, norm=norm)
        return AttentionTape({**found.blocks, "readout": seed_block(maps, grid)}, zoom, "fake")

    return tape


def test_a_kept_tape_needs_no_network(tmp_path):
    image, cache = blobs()[0].copy(), TapeCache(folder=tmp_path)
    engine, params = FakeEngine(), SegmentParams(diameter=24)
    engine.card = replace(engine.card, sha256="0123")

    def record():
        before = len(engine.calls)
        tape = drive(record_tape(engine, source_of(image), PlaneKey(), (5, 7), None, params, cache))
        return tape, len(engine.calls) - before

    first, ran = record()
    assert ran == 1
    again, ran = record()
    assert ran == 0
    assert again is first
    engine.card = replace(engine.card, id="renamed")
    again, ran = record()
    assert (again.model, ran) == ("renamed", 0)
    engine.card = replace(engine.card, id="fake")
    image[0, 0] ^= 255  # an edit in place is seen
    changed, ran = record()
    assert ran == 1
    assert changed is not first


def test_the_same_place_under_another_model(monkeypatch):
    other = FakeEngine(diameter=48)
    monkeypatch.setattr("napari_attnseg.engine.load_engine", lambda name, device: other)
    source, params = source_of(blobs()[0]), SegmentParams(diameter=24)
    encoded = drive(encode(FakeEngine(), source, params))
    tape = drive(record_other("tuned", "cpu", source, PlaneKey(), (5, 7), encoded, params))
    assert tape.zoom == 1.0  # that of the run, not what the other model would choose
    assert tape.block("global1").grid.origin == (0, 0)
    assert other.closed
