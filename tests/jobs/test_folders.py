"""Evaluation and training from folders."""

from __future__ import annotations

import time

import numpy as np
import pytest

from napari_attnseg.core.metrics import compare, scores
from napari_attnseg.errors import InputError, TrainingDataError, UnknownModelError
from napari_attnseg.jobs import train
from napari_attnseg.jobs.evaluate import evaluate_folders
from napari_attnseg.jobs.progress import drive
from napari_attnseg.params import TrainParams
from napari_attnseg.records import Progress, TrainStep
from napari_attnseg.store.images import write_labels, write_png, write_tiff
from tests.fakes import blobs


@pytest.fixture
def folders(tmp_path):
    pred, truth = tmp_path / "pred", tmp_path / "truth"
    image, labels = blobs()
    write_labels(truth / "a.tif", labels)
    write_png(truth / "b.png", labels.astype(np.uint8))
    half = np.where(labels > 6, 0, labels)
    write_labels(pred / "a.tif", half)
    write_labels(pred / "b.tif", labels)
    return pred, truth, labels, half


def test_labels_in_a_palette_or_as_whole_floats_count(folders, tmp_path):
    from PIL import Image

    pred, truth, labels, _ = folders
    Image.fromarray(labels.astype(np.uint8)).convert("P").save(truth / "b.png")
    write_tiff(pred / "b.tif", labels.astype(np.float32))
    assert drive(evaluate_folders(pred, truth))["per_image"][1]["mean_ap"] == 1.0
    write_tiff(tmp_path / "image.tif", blobs()[0])
    for path in (truth / "b.png", pred / "b.tif"):
        (sample,) = train.read_samples(tmp_path / "image.tif", path)
        assert sample.labels.max() == labels.max()


def test_evaluate_pools_over_images(folders):
    pred, truth, labels, half = folders
    out = drive(evaluate_folders(pred, truth))
    n = int(labels.max())
    assert out["n"] == 2
    assert out["ap"]["0.50"] == pytest.approx((6 + n) / (2 * n))
    assert [one["name"] for one in out["per_image"]] == ["a", "b"]
    assert {k: v for k, v in out["per_image"][0].items() if k != "name"} == scores(compare(half, labels))
    assert out["per_image"][1]["mean_ap"] == 1.0


@pytest.mark.parametrize("fault", ["missing", "extra", "shape", "colour", "empty", "no folder"])
def test_evaluate_names_what_is_wrong(folders, tmp_path, fault):
    pred, truth, labels, _ = folders
    words = {
        "missing": "no labels for 'b'",
        "extra": "no labels for 'c'",
        "shape": r"shape \(3, 3\)",
        "colour": "colour image",
        "empty": "no label images",
        "no folder": "no folder",
    }[fault]
    if fault == "missing":
        (pred / "b.tif").unlink()
    elif fault == "extra":
        write_labels(pred / "c.tif", labels)
    elif fault == "shape":
        write_labels(pred / "a.tif", np.zeros((3, 3), dtype=np.int32))
    elif fault == "colour":
        (pred / "b.tif").unlink()
        write_png(pred / "b.png", np.zeros((*labels.shape, 3), dtype=np.uint8))
    else:
        truth = tmp_path / "none"
        if fault == "empty":
            truth.mkdir()
    with pytest.raises(InputError, match=words) as caught:
        drive(evaluate_folders(pred, truth))
    assert caught.value.hint


@pytest.fixture
def data(tmp_path):
    image, labels = blobs(dtype=np.uint16)
    write_tiff(tmp_path / "images" / "a.tif", image)
    write_png(tmp_path / "images" / "b.png", np.repeat(image.astype(np.uint8)[..., None], 3, axis=-1))
    write_tiff(tmp_path / "images" / "s.tif", np.stack([image, image]), "TYX")
    write_tiff(tmp_path / "images" / "unlabelled.tif", image)
    for name in ("a", "b"):
        write_labels(tmp_path / "labels" / f"{name}.tif", labels * 7)
    write_labels(tmp_path / "labels" / "s.tif", np.stack([labels, labels]))
    return tmp_path / "images", tmp_path / "labels"


@pytest.fixture
def trained(monkeypatch):
    """Stands in for the network's training; keeps what it was given."""
    given = {}

    def train_model(samples, params, started=None):
        given.update(params.model_dump(), samples=list(samples), started=started)
        for step in range(1, 4):
            yield TrainStep(step, 3, 1 / step, 0.1)

    monkeypatch.setattr("napari_attnseg.engine.train_model", train_model)
    return given


def test_training_pairs_by_stem_and_reads_planes(data, trained):
    seen = []
    planes = drive(
        train.train_folders(*data, TrainParams(name="mine", start="scratch", steps=3, seed=5)), seen.append
    )
    assert planes == 4
    assert [type(s) for s in seen] == [Progress] * 3 + [TrainStep] * 3
    assert trained["seed"] == 5
    assert (trained["name"], trained["start"], trained["steps"]) == ("mine", "scratch", 3)
    samples = trained["samples"]
    assert [s.image.shape[0] for s in samples] == [1, 3, 1, 1]
    for sample in samples:
        assert sample.image.dtype == np.float32
        assert sample.labels.dtype == np.int32
        assert sample.labels.max() == 12  # renamed to 1..n
        assert sample.known.all()
        assert sample.image.shape[1:] == sample.labels.shape == sample.known.shape
        assert 0.9 < sample.image.max() <= 1.5


@pytest.mark.parametrize("fault", ["no pairs", "shape", "no objects", "colour", "float"])
def test_training_data_that_cannot_teach(data, trained, fault):
    images, labels = data
    for path in labels.iterdir():
        path.unlink()
    words = {
        "no pairs": "No image",
        "shape": "has the shape",
        "no objects": "no object",
        "colour": "channels",
        "float": "whole numbers",
    }[fault]
    if fault == "shape":
        write_labels(labels / "a.tif", np.zeros((5, 5), dtype=np.int32))
    elif fault == "no objects":
        write_labels(labels / "a.tif", np.zeros((96, 128), dtype=np.int32))
    elif fault == "colour":
        write_png(labels / "a.png", np.zeros((96, 128, 3), dtype=np.uint8))
    elif fault == "float":
        write_tiff(labels / "a.tif", np.full((96, 128), 0.5))
    with pytest.raises(TrainingDataError, match=words) as caught:
        drive(train.train_folders(images, labels, TrainParams(name="mine", start="scratch", steps=3)))
    assert caught.value.hint
    assert not trained


def test_an_unknown_start_is_said_before_anything_is_read(data, trained):
    seen = []
    with pytest.raises(UnknownModelError):
        drive(train.train_folders(*data, TrainParams(name="mine", start="nuclei-7", steps=3)), seen.append)
    assert not seen


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "scratch", "dot.", "a b", "x" * 65])
def test_names_that_are_no_folder(data, trained, name):
    with pytest.raises(InputError, match="cannot be named"):
        drive(train.train_folders(*data, TrainParams(name=name, start="scratch", steps=3)))
    assert not trained


def test_minutes_count_from_the_start_of_reading(data, trained):
    before = time.monotonic()
    drive(train.train_folders(*data, TrainParams(name="mine-2.b_c", start="scratch", minutes=1.5)))
    assert trained["minutes"] == 1.5
    assert before <= trained["started"] <= time.monotonic()
