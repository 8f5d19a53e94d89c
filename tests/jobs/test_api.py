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
