from __future__ import annotations

import numpy as np
import pytest

import napari_attnseg
from napari_attnseg.errors import InputError, UnknownModelError
from napari_attnseg.jobs import api
from napari_attnseg.jobs.progress import drive
from napari_attnseg.jobs.warmup import warmup
from tests.fakes import FakeEngine, blobs


@pytest.fixture
def loads(monkeypatch):
    made = []

    def load(name="base", device="auto"):
        made.append((name, device, FakeEngine()))
        return made[-1][2]

    monkeypatch.setattr("napari_attnseg.engine.load_engine", load)
    monkeypatch.setattr(api, "_engines", {})
    return made


def test_one_engine_is_kept(loads):
    image, truth = blobs()
    for _ in range(2):
        labels = napari_attnseg.segment(image)
        assert labels.dtype == np.int32
        assert ((labels > 0) == (truth > 0)).all()
    assert [m[:2] for m in loads] == [("base", "auto")]
    napari_attnseg.segment(image, model="other")
    assert loads[0][2].closed
    assert len(api._engines) == 1


def test_classic_methods_load_nothing(loads):
    image, _ = blobs()
    assert napari_attnseg.segment(image, method="slic").min() == 1
    assert napari_attnseg.segment(image, method="kmeans", task="classes").max() == 1
    assert not loads


def test_a_model_that_got_the_name_of_another_is_loaded(loads, monkeypatch):
    monkeypatch.setattr(api, "_version", lambda name: "first")
    image, _ = blobs()
    napari_attnseg.segment(image, model="mine")
    napari_attnseg.segment(image, model="mine")
    assert len(loads) == 1
    monkeypatch.setattr(api, "_version", lambda name: "second")
    napari_attnseg.segment(image, model="mine")
    assert len(loads) == 2
    assert loads[0][2].closed


def test_the_version_of_a_model_is_that_of_its_weights():
    assert len(api._version("base")) == 64
    assert api._version("none-of-that-name") == ""


@pytest.mark.parametrize("shape", [(3, 30, 3), (30, 4, 3), (1, 1, 4)])
def test_thin_colour_images_are_no_stacks(loads, shape):
    assert napari_attnseg.segment(np.zeros(shape, dtype=np.uint8), method="slic").shape == shape[:2]


def test_arrays_of_other_libraries_are_taken(loads):
    torch = pytest.importorskip("torch")
    assert napari_attnseg.segment(torch.rand(20, 30), method="slic").shape == (20, 30)


def test_lists_and_colours_are_taken(loads):
    assert napari_attnseg.segment([[0, 1], [1, 0]]).shape == (2, 2)
    assert napari_attnseg.segment(np.zeros((20, 30, 3), dtype=np.uint8)).shape == (20, 30)


@pytest.mark.parametrize(
    ("image", "options", "words"),
    [
        (np.zeros((4, 20, 30)), {}, "stack"),
        (np.zeros(5), {}, "not an image"),
        (np.zeros((5, 5)), {"diameter": 0.5}, "'diameter'"),
        (np.zeros((5, 5)), {"tile": 3}, "'tile'"),
        (np.zeros((5, 5)), {"method": "magic"}, "'method'"),
        (np.zeros((0, 5)), {}, "empty"),
        ([[1, 2], [3]], {}, "not an array"),
    ],
)
def test_bad_use_is_one_sentence(loads, image, options, words):
    with pytest.raises(InputError, match=words) as caught:
        napari_attnseg.segment(image, **options)
    assert caught.value.hint
    assert not loads


def test_an_unknown_model():
    with pytest.raises(UnknownModelError, match="no model 'nuclei-7'"):
        napari_attnseg.segment(np.zeros((5, 5)), model="nuclei-7")


def test_warmup_returns_the_engine_and_closes_it_when_cancelled(loads):
    engine = drive(warmup("base", "cpu"))
    assert engine is loads[0][2]
    assert not engine.closed
    job = warmup()
    next(job)
    next(job)
    job.close()
    assert loads[1][2].closed
