"""Reading a model that tells classes apart: class numbers, the class of an object, also block by block."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from napari_attnseg.jobs import planes as reading
from napari_attnseg.jobs import segment as segmenting
from napari_attnseg.jobs.progress import drive
from napari_attnseg.params import SegmentParams
from napari_attnseg.records import ImageSource, Sample
from napari_attnseg.store.samples import read_sample, write_sample
from tests.fakes import FakeEngine, blobs

NAMES = ("dim", "bright")
BRIGHT = 185


class ClassEngine(FakeEngine):
    """What is very bright is of class 2, other foreground of class 1."""

    def __init__(self) -> None:
        super().__init__()
        self.card = replace(self.card, classes=NAMES)

    def maps(self, image, *, zoom=1.0, norm=None):
        maps = super().maps(image, zoom=zoom, norm=norm)
        bright = image > BRIGHT
        inside = maps.foreground
        chances = np.stack([1 - inside, inside * ~bright, inside * bright]).astype(np.float32)
        return replace(maps, classes=chances)


@pytest.fixture
def source() -> ImageSource:
    image, labels = blobs(shape=(96, 256))
    image[labels % 2 == 1] = BRIGHT - 5
    image[labels == 0] = 0
    return ImageSource(image, "YX")


def run(source, **values):
    params = SegmentParams(diameter=24, **values)
    found = drive(segmenting.segment(ClassEngine(), source, params))
    assert found is not None
    return found


def wanted(source) -> np.ndarray:
    return np.where(source.data > BRIGHT, 2, source.data > 100)


def test_class_numbers_and_their_names(source):
    found, encoded = run(source, task="classes")
    np.testing.assert_array_equal(found.labels, wanted(source))
    assert found.features["index"].tolist() == [1, 2]
    assert found.features["class"].tolist() == list(NAMES)
    again = segmenting.assemble(encoded, source, SegmentParams(task="classes", diameter=24, threshold=0.9))
    assert set(np.unique(again.labels)) == {0, 2}  # the threshold is the foreground's


def test_objects_have_a_class(source):
    found, _ = run(source)
    of = dict(zip(found.features["index"].tolist(), found.features["class"].tolist(), strict=True))
    truth = wanted(source)
    for label in np.unique(found.labels)[1:]:
        kind = np.bincount(truth[found.labels == label]).argmax()
        assert of[int(label)] == NAMES[kind - 1]
    assert set(of.values()) == set(NAMES)


@pytest.mark.parametrize("task", ["instances", "classes"])
def test_block_by_block_as_in_one_piece(source, task, monkeypatch):
    whole, _ = run(source, task=task)
    monkeypatch.setattr(reading, "BLOCK", 128)
    monkeypatch.setattr(segmenting, "KEPT_PIXELS", 0)
    blocks, encoded = run(source, task=task)
    assert encoded is None
    np.testing.assert_array_equal(blocks.labels > 0, whole.labels > 0)
    if task == "classes":
        np.testing.assert_array_equal(blocks.labels, whole.labels)
        assert blocks.features["class"].tolist() == list(NAMES)
        return
    where = {int(whole.labels[blocks.labels == n][0]): n for n in np.unique(blocks.labels)[1:]}
    kinds = whole.features["class"].tolist()
    assert [blocks.features["class"][where[n + 1] - 1] for n in range(len(kinds))] == kinds


def test_blocks_of_a_stack_with_an_empty_plane_keep_the_classes(source, monkeypatch):
    monkeypatch.setattr(reading, "BLOCK", 128)
    monkeypatch.setattr(segmenting, "KEPT_PIXELS", 0)
    image = np.asarray(source.data)
    for planes in ((image, np.zeros_like(image)), (np.zeros_like(image), image)):
        found, _ = run(ImageSource(np.stack(planes), "ZYX"))
        assert set(found.features["class"]) == set(NAMES)
        assert len(found.features["class"]) == len(found.features["index"]) == found.labels.max()


def test_a_sample_of_classes_is_kept_with_their_names(tmp_path):
    labels = np.array([[1, 2]], np.int32)
    sample = Sample(np.zeros((1, 1, 2), np.float32), labels, labels > 0, "a", classes=NAMES)
    write_sample(tmp_path / "a.npz", sample)
    assert read_sample(tmp_path / "a.npz").classes == NAMES
    write_sample(tmp_path / "b.npz", replace(sample, classes=()))
    assert read_sample(tmp_path / "b.npz").classes == ()
