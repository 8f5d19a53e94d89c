from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest

from napari_attnseg.core.attention import AttentionTape
from napari_attnseg.core.grid import TokenGrid
from napari_attnseg.records import Normalisation
from napari_attnseg.store.cache import TapeCache, shared_cache, slim, tape_key
from tests.core.test_attention import block, with_own
from tests.core.test_attention_objects import scene, tape_of


def small(seed=0):
    one, two = with_own((5, 6), seed=seed)[0], block((5, 6), 2, seed=seed)
    one.spread, two.spread = 16.9, 6.5
    return AttentionTape({"global1": one, "local1": two}, 0.5, "m", 4.0)


def equal(a, b):
    assert list(a.blocks) == list(b.blocks)
    assert (a.zoom, a.model, a.spread) == (b.zoom, b.model, b.spread)
    for name in a.blocks:
        one, two = a.row(name, (40, 60)), b.row(name, (40, 60))
        np.testing.assert_array_equal(one.weights, two.weights)
        assert (one.kind, one.window, one.grid) == (two.kind, two.window, two.grid)
        assert a.blocks[name].spread == b.blocks[name].spread


def test_a_tape_comes_back_from_the_disk_as_it_was(tmp_path):
    tape = small()
    TapeCache(folder=tmp_path).put("k", tape)
    found = TapeCache(folder=tmp_path).get("k")
    equal(tape, found)
    one, two = (t.row("global1", (40, 60), value=True).weights for t in (tape, found))
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(tape.blocks["global1"].own, found.blocks["global1"].own)
    assert found.blocks["local1"].own is None
    assert not list(tmp_path.glob(".*"))  # no temporary file is left


def test_the_readout_is_kept_too(tmp_path):
    tape = tape_of(scene()[1])
    TapeCache(folder=tmp_path).put("k", tape)
    found = TapeCache(folder=tmp_path).get("k")
    for pixel in ((20, 20), (45, 60), (0, 0)):
        np.testing.assert_array_equal(found.row("readout", pixel).weights, tape.row("readout", pixel).weights)


def test_only_the_newest_is_whole_in_memory(tmp_path):
    cache = TapeCache(disk_bytes=0, folder=tmp_path)
    first, second = tape_of(scene()[1]), small(2)
    cache.put("first", first)
    cache.put("second", second)
    assert cache.get("first") is None  # not all of it is there
    kept = cache.get("first", "wide")  # stride 16
    assert list(kept.blocks) == ["wide"]
    np.testing.assert_array_equal(kept.row("wide", (20, 20)).weights, first.row("wide", (20, 20)).weights)
    assert cache.get("first", "near") is None  # stride 8
    assert cache.get("second") is second
    assert not tmp_path.exists() or not list(tmp_path.iterdir())


def test_memory_is_bounded_and_the_oldest_goes_first(tmp_path):
    size = small().nbytes
    cache = TapeCache(memory_bytes=int(2.5 * size), disk_bytes=0, folder=tmp_path)
    for name in "abc":
        cache.put(name, small())
    assert cache.nbytes <= 2.5 * size
    assert cache.get("a", "global1") is None
    assert cache.get("b", "global1") is not None
    cache.put("huge", tape_of(scene()[1]))
    assert cache.nbytes <= 2.5 * size


def test_the_disk_is_bounded_and_use_counts(tmp_path):
    cache = TapeCache(memory_bytes=0, folder=tmp_path)
    cache.put("a", small())
    size = (tmp_path / "a.npz").stat().st_size
    cache.disk_bytes = int(2.5 * size)
    cache.put("b", small())
    for name, when in (("a", 1000), ("b", 2000)):
        os.utime(tmp_path / f"{name}.npz", (when, when))
    assert cache.get("a") is not None  # read: now newer than b
    cache.put("c", small())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npz", "c.npz"]
    cache.disk_bytes = size // 2
    cache.put("d", small())
    assert not (tmp_path / "d.npz").exists()  # larger than the limit: not even tried


@pytest.mark.parametrize("harm", ["cut", "text", "format"])
def test_a_damaged_file_is_dropped(tmp_path, harm, monkeypatch):
    path = tmp_path / "k.npz"
    TapeCache(folder=tmp_path).put("k", small())
    if harm == "cut":
        path.write_bytes(path.read_bytes()[:200])
    elif harm == "text":
        path.write_text("no tape")
    else:
        monkeypatch.setattr("napari_attnseg.store.cache._FORMAT", 99)
    assert TapeCache(folder=tmp_path).get("k") is None
    assert not path.exists()


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "file").write_text("")
    cache = TapeCache(folder=tmp_path / "file")
    tape = small()
    cache.put("k", tape)
    assert cache.get("k") is tape


def test_the_key_tells_everything_apart():
    image = np.arange(600, dtype=np.uint16).reshape(20, 30)
    norm = Normalisation((0.0,), (1.0,))
    changed = image.copy()
    changed[3, 4] += 1
    keys = [
        tape_key(image, norm, 1.0, (0, 0), "w"),
        tape_key(changed, norm, 1.0, (0, 0), "w"),
        tape_key(image.reshape(30, 20), norm, 1.0, (0, 0), "w"),
        tape_key(image.view(np.int16), norm, 1.0, (0, 0), "w"),
        tape_key(image, replace(norm, high=(2.0,)), 1.0, (0, 0), "w"),
        tape_key(image, None, 1.0, (0, 0), "w"),
        tape_key(image, norm, 0.5, (0, 0), "w"),
        tape_key(image, norm, 1.0, (0, 1), "w"),
        tape_key(image, norm, 1.0, (0, 0), "v"),
    ]
    assert len(set(keys)) == len(keys)
    assert tape_key(np.asfortranarray(image), norm, 1.0, (0, 0), "w") == keys[0]


def test_slim_keeps_coarse_blocks_without_promoted_keys():
    tape = small()
    tape.row("global1", (40, 60))
    assert slim(tape).nbytes < tape.nbytes
    fine = block((5, 6))
    fine.grid = TokenGrid(8, 1.0, (5, 6), (0, 0), (40, 48))
    assert not slim(AttentionTape({"fine": fine})).blocks


def test_there_is_one_shared_cache():
    one = shared_cache(10, 20)
    assert shared_cache(30, 40) is one
    assert (one.memory_bytes, one.disk_bytes) == (30, 40)
