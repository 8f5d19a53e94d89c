"""``train --task classes`` and ``segment --task classes`` with the model it makes."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from napari_attnseg.cli import run as call_cli
from napari_attnseg.cli.train import _judged
from napari_attnseg.nn import course as courses
from napari_attnseg.nn.checkpoint import save_model
from napari_attnseg.nn.model import AttnSegNet
from napari_attnseg.nn.tune import FULL
from napari_attnseg.records import ModelCard
from napari_attnseg.store import models
from napari_attnseg.store.images import read_image, write_labels, write_tiff
from tests.fakes import blobs


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("NAPARI_ATTNSEG_HOME", str(tmp_path))
    tiny = replace(FULL, size=48, batch=2, replay=2, pool=4, scenes=2)
    monkeypatch.setattr(courses, "FULL", tiny)
    torch.manual_seed(0)
    card = ModelCard("tiny", "Tiny", {"widths": [32, 32, 32, 32], "depth": 1}, diameter=18.0)
    save_model(tmp_path / "models" / "tiny", AttnSegNet(widths=(32, 32, 32, 32), depth=1), card)
    return tmp_path


@pytest.fixture
def folders(tmp_path):
    """An image of discs, every second one of class 2."""
    image, labels = blobs()
    write_tiff(tmp_path / "images" / "a.tif", image)
    write_labels(tmp_path / "labels" / "a.tif", np.where(labels, 1 + labels % 2, 0).astype(np.int32))
    names = ("--images", tmp_path / "images", "--labels", tmp_path / "labels")
    return [*names, "--name", "mine", "--from", "tiny", "--task", "classes", "--steps", "2"]


def call(*arguments: object) -> int:
    return call_cli([str(a) for a in arguments])


def test_train_and_segment(folders, tmp_path, capsys):
    assert call("train", *folders, "--classes", "round,other", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["name"] == "mine"
    assert models.find("mine").card.classes == ("round", "other")
    image = tmp_path / "images" / "a.tif"
    out = tmp_path / "out"
    assert call("segment", image, "--model", "mine", "--task", "classes", "--out", out, "--json") == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["files"][0]["classes"] == ["round", "other"]
    assert "classes round, other in" in printed.err
    found = read_image(out / "a.tif", labels=True)
    assert found.shape_yx == blobs()[0].shape
    assert set(np.unique(found.data)) <= {0, 1, 2}
    assert call("segment", image, "--model", "mine", "--out", tmp_path / "objects") == 0
    capsys.readouterr()
    assert call("models", "show", "mine", "--json") == 0
    assert json.loads(capsys.readouterr().out)["classes"] == ["round", "other"]


def test_the_mean_before_and_after_is_over_the_classes_known_before():
    before = {"dice": 0.6, "per_class": {"a": 0.6, "b": None}}
    after = {"dice": 0.6, "per_class": {"a": 0.7, "b": 0.5}}
    assert _judged({"before": before, "after": after}) == (
        " Mean Dice of classes on held-out areas: 0.60 (a 0.70, b 0.50 (new))."
        " Of those known before: 0.60 before, 0.70 after."
    )
    none = {"dice": None, "per_class": {"a": None, "b": None}}
    assert "known before" not in _judged({"before": none, "after": after})


def test_only_what_is_painted_teaches_with_known_objects(folders, monkeypatch):
    kept = []
    monkeypatch.setattr(
        "napari_attnseg.engine.train_model", lambda samples, *_, **__: kept.extend(samples) or iter(())
    )
    assert call("train", *folders, "--known", "objects") == 0
    np.testing.assert_array_equal(kept[0].known, kept[0].labels > 0)
    assert kept[0].classes == ("class 1", "class 2")
    assert call("train", *folders, "--known", "objects", "--classes", ", other") == 0
    assert kept[1].classes == ("class 1", "other")


def test_what_cannot_be_is_one_sentence(folders, tmp_path, capsys):
    def refused(*arguments):
        assert call("train", *arguments) == 2
        text = capsys.readouterr().err
        assert "Traceback" not in text
        return text

    from_scratch = [a if a != "tiny" else "scratch" for a in folders]
    assert "cannot be learnt from scratch" in refused(*from_scratch)
    instances = [a if a != "classes" else "instances" for a in folders]
    assert "--classes is given without --task classes" in refused(*instances, "--classes", "a")
    alike = refused(*folders, "--classes", "Cell,cell")
    assert "'Cell' and 'cell' differ only in upper and lower case" in alike
    many = np.arange(96 * 128, dtype=np.int32).reshape(96, 128) // 4
    write_labels(tmp_path / "labels" / "a.tif", many)
    assert "hold 3,071 different numbers: these look like objects" in refused(*folders)
    write_labels(tmp_path / "labels" / "a.tif", np.zeros((96, 128), np.int32))
    assert "hold no class" in refused(*folders)
    assert not (tmp_path / "models" / "mine").exists()
