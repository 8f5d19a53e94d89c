"""Paths that the system does not like, arrays inside a zarr, and labels that cannot be a JPEG."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr
from PIL import Image

from napari_attnseg.errors import InputError, StoreError
from napari_attnseg.store import models
from napari_attnseg.store.images import (
    check_folder,
    check_path,
    images_in,
    read_image,
    replacing,
    stem_of,
    write_tiff,
)

LONG = "x" * 300


@pytest.fixture
def odd(tmp_path, monkeypatch):
    """Give paths that cannot be looked at: too long, a circle of links, in a folder that is closed."""
    stat = Path.stat

    def refuse(self, **options):
        if "closed" in self.parent.parts:
            raise PermissionError(13, "Permission denied", str(self))
        return stat(self, **options)

    monkeypatch.setattr(Path, "stat", refuse)
    (tmp_path / "closed").mkdir()
    (tmp_path / "circle").symlink_to("circle")
    return {
        "long": tmp_path / LONG,
        "circle": tmp_path / "circle",
        "below the circle": tmp_path / "circle" / "a",
        "closed": tmp_path / "closed" / "a",
    }


KINDS = ["long", "circle", "below the circle", "closed"]


@pytest.mark.parametrize("kind", KINDS)
def test_images_at_odd_paths(odd, kind):
    path = odd[kind]
    for call in (check_path, read_image):
        with pytest.raises(InputError, match="cannot be opened") as caught:
            call(path)
        assert caught.value.hint
    if kind != "closed":  # there only Path.stat is refused
        with pytest.raises(InputError, match="cannot be opened"):
            images_in(path)


@pytest.mark.parametrize("kind", KINDS)
def test_results_at_odd_paths(odd, kind):
    with pytest.raises(StoreError, match="cannot be used") as caught:
        check_folder(odd[kind], "Choose another.")
    assert caught.value.hint == "Choose another."


def test_a_link_to_nowhere_is_in_the_way(tmp_path):
    (tmp_path / "out").symlink_to(tmp_path / "nowhere")
    with pytest.raises(StoreError, match="not a folder"):
        check_folder(tmp_path / "out" / "deeper", "")
    check_folder(tmp_path / "new" / "deeper", "")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]


@pytest.mark.parametrize("name", [f"{LONG}.tif", f"{LONG}/a.tif", f"{'x' * 250}.tif"])
def test_a_name_that_is_too_long_is_not_written(tmp_path, name):
    with pytest.raises(StoreError, match="could not be"), replacing(tmp_path / "new" / name) as part:
        part.write_bytes(b"")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_home_at_an_odd_path(odd, monkeypatch, kind):
    monkeypatch.setenv("NAPARI_ATTNSEG_HOME", str(odd[kind]))
    for call in (models.list_models, lambda: models.find("base"), lambda: models.exists("mine")):
        with pytest.raises(StoreError, match="cannot be opened") as caught:
            call()
        assert "NAPARI_ATTNSEG_HOME" in caught.value.hint
    with pytest.raises(StoreError, match="Nothing can be stored"):
        models.check_home()


def test_a_home_that_is_not_there_yet(tmp_path, monkeypatch):
    monkeypatch.setenv("NAPARI_ATTNSEG_HOME", str(tmp_path / "new"))
    assert [card.id for card in models.list_models()][:1] == ["base"]
    models.check_home()
    (tmp_path / "new").write_text("")
    assert models.find("base").shipped
    with pytest.raises(StoreError, match="Nothing can be stored"):
        models.check_home()


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_one_array_of_several(tmp_path, zarr_format):
    data = np.arange(2 * 20 * 30, dtype=np.uint16).reshape(2, 20, 30)
    group = zarr.create_group(store=str(tmp_path / "many.zarr"), zarr_format=zarr_format)
    group.create_array("b", data=data[1])
    group.create_group("deep").create_array("a.1", data=data[0])
    group.create_array("c", data=data[0])
    with pytest.raises(InputError, match="2 arrays") as caught:
        read_image(tmp_path / "many.zarr")
    named = caught.value.hint.split("'")[1]
    assert Path(named) == tmp_path / "many.zarr" / "b"
    source = read_image(Path(named))
    assert source.name == "many_b"
    np.testing.assert_array_equal(source.data[...], data[1])
    assert stem_of(tmp_path / "many.zarr" / "deep" / "a.1") == "many_deep_a.1"
    np.testing.assert_array_equal(read_image(tmp_path / "many.zarr" / "deep").data, data[0])


def test_names_of_images(tmp_path):
    assert stem_of(tmp_path / "a.b.tif") == "a.b"
    assert stem_of(tmp_path / "a.zarr") == "a"
    assert stem_of(tmp_path / "a.zarr" / "b.tif") == "b"
    (tmp_path / "a.zarr" / "plain").mkdir(parents=True)
    assert stem_of(tmp_path / "a.zarr" / "plain") == "plain"
    with pytest.raises(InputError, match="is a folder"):
        read_image(tmp_path / "a.zarr" / "plain")


def test_labels_are_no_jpeg(tmp_path):
    for name in ("a.jpg", "a.JPEG"):
        Image.new("L", (20, 30)).save(tmp_path / name)
        assert read_image(tmp_path / name).shape_yx == (30, 20)
        with pytest.raises(InputError, match="JPEG") as caught:
            read_image(tmp_path / name, labels=True)
        assert "PNG" in caught.value.hint


def test_a_file_without_the_right_to_read(tmp_path, monkeypatch):
    write_tiff(tmp_path / "a.tif", np.zeros((4, 5), dtype=np.uint8))

    def refuse(*args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tifffile.TiffFile", refuse)
    with pytest.raises(InputError, match="Permission denied") as caught:
        read_image(tmp_path / "a.tif")
    assert "rights" in caught.value.hint
