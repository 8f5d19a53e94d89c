"""One bad file among several, paths that the system does not like, and arrays inside a zarr."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from napari_attnseg import cli
from napari_attnseg.store.images import read_image, write_labels, write_tiff
from tests.fakes import FakeEngine, blobs

LONG = "x" * 300


@pytest.fixture
def image(tmp_path, monkeypatch):
    monkeypatch.setattr("napari_attnseg.engine.load_engine", lambda *_: FakeEngine())
    path = tmp_path / "cells.tif"
    write_tiff(path, blobs()[0])
    return path


def call(*arguments):
    return cli.run([str(a) for a in arguments])


def refused(capsys, code):
    captured = capsys.readouterr()
    assert (code, captured.out) == (2, "")
    lines = captured.err.strip().splitlines()
    assert [line.partition(":")[0] for line in lines] == ["Error", "Hint"]
    return captured.err


def damaged(path):
    zarr.create_array(store=str(path), data=np.stack([blobs()[0]] * 2), chunks=(1, 96, 128))
    (path / "c" / "1" / "0" / "0").write_bytes(b"garbage")
    return path


def test_a_damaged_chunk_fails_one_of_several_files(image, tmp_path, capsys):
    bad, out = damaged(tmp_path / "bad.zarr"), tmp_path / "out"
    assert call("segment", bad, image, "--out", out, "--json") == 3
    said = json.loads(capsys.readouterr().out)
    assert [one["input"] for one in said["failed"]] == [str(bad)]
    assert [p.name for p in out.iterdir()] == ["cells.tif"]
    assert "bad.zarr' could not be read" in refused(capsys, call("segment", bad, "--out", tmp_path / "o"))
    assert not (tmp_path / "o").exists()


def test_odd_paths_fail_one_by_one(image, tmp_path, capsys):
    (tmp_path / "circle.tif").symlink_to("circle.tif")
    odd, out = [tmp_path / f"{LONG}.tif", tmp_path / "circle.tif", tmp_path / "none.tif"], tmp_path / "out"
    assert call("segment", *odd, image, "--out", out) == 3
    assert [p.name for p in out.iterdir()] == ["cells.tif"]
    capsys.readouterr()
    for path in odd:
        refused(capsys, call("segment", path, "--out", tmp_path / "o"))


def test_a_file_that_may_not_be_read_fails_alone(image, tmp_path, monkeypatch, capsys):
    closed = tmp_path / "closed.tif"
    closed.write_bytes(b"")
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: "closed" not in str(path) and access(path, mode))
    assert call("segment", closed, image, "--out", tmp_path / "out") == 3
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["cells.tif"]
    assert "closed.tif" in capsys.readouterr().err


@pytest.mark.parametrize("name", [LONG, "circle", "circle/deeper", "nowhere"])
def test_an_out_that_cannot_be(image, tmp_path, capsys, name):
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "nowhere").symlink_to("gone")
    before = sorted(p.name for p in tmp_path.iterdir())
    assert "--out" in refused(capsys, call("segment", image, "--out", tmp_path / name))
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_a_home_that_cannot_be(tmp_path, monkeypatch, capsys):
    (tmp_path / "circle").symlink_to("circle")
    for name in (LONG, "circle"):
        monkeypatch.setenv("NAPARI_ATTNSEG_HOME", str(tmp_path / name))
        assert "NAPARI_ATTNSEG_HOME" in refused(capsys, call("models", "list"))


def test_arrays_inside_a_zarr(image, tmp_path, capsys):
    group = zarr.create_group(store=str(tmp_path / "many.zarr"))
    for name in "ab":
        group.create_array(name, data=blobs()[0])
    assert "many.zarr/a'" in refused(capsys, call("segment", tmp_path / "many.zarr", "--out", tmp_path / "o"))
    arrays = [tmp_path / "many.zarr" / name for name in "ab"]
    assert call("segment", *arrays, "--out", tmp_path / "out") == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["many_a.zarr", "many_b.zarr"]
    assert read_image(tmp_path / "out" / "many_a.zarr").shape_yx == (96, 128)


def test_labels_that_are_a_jpeg(tmp_path, capsys):
    for folder in ("pred", "truth"):
        (tmp_path / folder).mkdir()
    Image.new("L", (20, 30)).save(tmp_path / "pred" / "a.jpg")
    write_labels(tmp_path / "truth" / "a.tif", np.zeros((30, 20), dtype=np.int32))
    code = call("evaluate", "--pred", tmp_path / "pred", "--truth", tmp_path / "truth")
    assert "a.jpg" in refused(capsys, code)


def test_only_earlier_results_are_replaced(image, tmp_path, capsys):
    out = tmp_path / "out"
    foreign = np.arange(12, dtype=np.int32).reshape(3, 4)  # labels that were corrected and saved elsewhere
    out.mkdir()
    tifffile.imwrite(out / "cells.tif", foreign)
    said = refused(capsys, call("segment", image, "--out", out, "--method", "slic"))
    assert "cells.tif' is there already and is no result" in said
    np.testing.assert_array_equal(read_image(out / "cells.tif").data, foreign)
    (out / "cells.tif").unlink()
    for count in (40, 60):
        options = ["--out", out, "--method", "slic", "--segments", count]
        assert call("segment", image, *options) == 0
    assert read_image(out / "cells.tif", labels=True).data.dtype == np.int32


def test_a_group_of_arrays_is_not_replaced(image, tmp_path, capsys):
    array = zarr.create_array(str(tmp_path / "a.zarr"), shape=(40, 40), dtype="uint8")
    array[...] = blobs()[0][:40, :40] / 256
    group = zarr.open_group(str(tmp_path / "out" / "a.zarr"), mode="w")
    group.create_array("labels", data=np.ones((4, 4), np.int32))
    group.create_group("tables")
    command = ["segment", tmp_path / "a.zarr", "--method", "slic", "--out"]
    assert "a.zarr' is there already" in refused(capsys, call(*command, tmp_path / "out"))
    assert sorted(zarr.open_group(str(tmp_path / "out" / "a.zarr"), mode="r")) == ["labels", "tables"]
    for _ in range(2):  # its own it does replace
        assert call(*command, tmp_path / "own") == 0


def test_pictures_of_attention_that_are_not_its_own_are_left_alone(image, tmp_path, capsys):
    out = tmp_path / "out"
    for _ in range(2):
        assert call("attention", image, "--at", 5, 5, "--out", out) == 0
    capsys.readouterr()
    Image.new("L", (4, 4), 7).save(out / "cells_attention.png")
    said = refused(capsys, call("attention", image, "--at", 5, 5, "--out", out))
    assert "cells_attention.png' is there already" in said
    assert read_image(out / "cells_attention.png").shape_yx == (4, 4)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "not enough memory"),
        (OSError(5, "Input/output error", "cells.tif"), "cells.tif' cannot be used (Input/output error)"),
    ],
)
def test_a_file_that_the_system_gives_up_on_does_not_stop_the_others(
    image, tmp_path, capsys, monkeypatch, error, words
):
    from napari_attnseg.cli import segment as module

    real, other = module.segment_file, tmp_path / "second.tif"
    write_tiff(other, blobs()[0])

    def sometimes(engine, path, *rest):
        if path == image:
            raise error
        return real(engine, path, *rest)

    monkeypatch.setattr(module, "segment_file", sometimes)
    assert call("segment", image, other, "--out", tmp_path / "out", "--method", "slic", "--json") == 3
    said = json.loads(capsys.readouterr().out)
    assert [one["input"] for one in said["files"]] == [str(other)]
    assert words in said["failed"][0]["error"]
    assert "tile" not in said["failed"][0]["hint"]  # SLIC reads planes whole


def test_a_picture_larger_than_pillow_likes_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    Image.new("L", (40, 30), 9).save(tmp_path / "large.png")
    assert read_image(tmp_path / "large.png").shape_yx == (30, 40)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_attention_writes_both_files_or_none(image, tmp_path, capsys):
    out = tmp_path / "out"
    (out / "cells_attention.tif").mkdir(parents=True)
    assert "is a folder" in refused(capsys, call("attention", image, "--at", 5, 5, "--out", out))
    assert [path.name for path in out.iterdir()] == ["cells_attention.tif"]


def test_the_demo_replaces_its_own_files_only(image, tmp_path, capsys):
    out = tmp_path / "demo"
    write_tiff(out / "image.tif", blobs()[0])
    said = refused(capsys, call("demo", "--no-window", "--out", out))
    assert "image.tif' is there already and not of the demo" in said
    np.testing.assert_array_equal(read_image(out / "image.tif").data, blobs()[0])
    (out / "image.tif").rename(out / "mine.tif")
    for _ in range(2):
        assert call("demo", "--no-window", "--out", out) == 0
    assert (out / "mine.tif").exists()
    capsys.readouterr()
    corrected = np.array(read_image(out / "labels.tif", labels=True).data) + 1
    tifffile.imwrite(out / "labels.tif", corrected)  # by another program
    said = refused(capsys, call("demo", "--no-window", "--out", out))
    assert "labels.tif' is there already and is no result" in said
    np.testing.assert_array_equal(tifffile.imread(out / "labels.tif"), corrected)


@pytest.mark.parametrize(
    "command",
    [
        ("launch", LONG),
        ("models", "import", LONG),
        ("models", "export", "base", "--out", LONG),
        ("segment", LONG, "--out", "out"),
    ],
)
def test_a_name_that_is_too_long_is_one_sentence(image, tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    assert "File name too long" in refused(capsys, call(*command))
