"""A model that learnt classes is run again: what was painted stays, the rest is filled in one step."""

from __future__ import annotations

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_attnseg._napari import classes as N
from napari_attnseg._napari import corrections as C
from napari_attnseg._napari import rerun as R
from napari_attnseg._napari.layers import show_result, source_of, summary
from napari_attnseg._napari.orders import Outcome
from napari_attnseg._napari.session import Session
from napari_attnseg.core.classes import class_features
from napari_attnseg.errors import InputError
from napari_attnseg.jobs.progress import drive
from napari_attnseg.params import SegmentParams
from napari_attnseg.records import Segmentation
from tests.fakes import FakeEngine, blobs
from tests.jobs.test_classes import ClassEngine

IMAGE, TRUTH = blobs()
MODEL = ("dim", "bright", "rim")
FOUND = np.where(TRUTH > 0, 1 + TRUTH % 2, 0).astype(np.int32)  # 1 dim, 2 bright; no rim
FOUND[-3:] = 3


class Painted:
    """An image, and strokes of two classes over it whose numbers are not those of the model."""

    def __init__(self) -> None:
        self.viewer = ViewerModel()
        self.viewer.add_image(IMAGE, name="im")
        self.session = Session.of(self.viewer)
        self.layer = self.viewer.add_labels(np.zeros(TRUTH.shape, np.int32), name="mine")
        self.how = C.How(task="classes", foreign="objects")
        N.set_name([self.layer], 1, "bright")
        N.set_name([self.layer], 4, "background")
        self.stroke(slice(2, 6), 1)
        self.stroke(slice(40, 44), 4)
        self.mine = self.layer.data.copy()

    def stroke(self, rows, number):
        y, x = np.mgrid[rows, 10:20]
        self.layer.data_setitem((y.ravel(), x.ravel()), number)

    def pairs(self):
        return N.class_pairs(C.pairs(self.viewer.layers, self.session))

    def known(self):
        (found,) = drive(N.scan_classes(self.pairs(), self.how))
        return dict(found.numbers)

    def refill(self, found=FOUND):
        (pair,) = self.pairs()
        features = class_features({}, MODEL, "classes", found)
        params = SegmentParams(task="classes").model_dump()
        order = R.order_of(pair, "tuned", "cpu", "classes")
        return R._refill(
            pair, self.how, Outcome(order, Segmentation(found, features, params, "tuned", "1", 0.1), None)
        )


def test_what_was_painted_stays_and_classes_keep_the_numbers_of_their_names():
    scene = Painted()
    before, steps = scene.known(), len(scene.layer._undo_history)
    assert before == {1: 40, 4: 40}
    made = scene.refill()
    assert made.params.task == "classes"
    changed = R.apply(scene.session, made)
    after, painted = scene.layer.data, scene.mine != 0
    np.testing.assert_array_equal(after[painted], scene.mine[painted])
    numbers = np.array([0, 2, 1, 3])  # dim: a free number; bright: the one of its name; rim: the next
    np.testing.assert_array_equal(after[~painted], numbers[FOUND][~painted])
    assert changed == np.count_nonzero(after != scene.mine)
    assert N.names_of(scene.layer) == {1: "bright", 2: "dim", 3: "rim", 4: "background"}
    assert scene.layer.features["class"].tolist() == ["bright", "dim", "rim", "background"]
    # the strokes are still what the user painted, and the layer still holds classes, not objects
    assert scene.known() == before
    (pair,) = scene.pairs()
    assert N.holds_classes(pair)
    # one step, and after it the strokes alone teach again
    assert len(scene.layer._undo_history) == steps + 1
    scene.layer.undo()
    np.testing.assert_array_equal(scene.layer.data, scene.mine)
    assert scene.known() == before
    # again, and over a correction of what was filled
    R.apply(scene.session, scene.refill())
    scene.stroke(slice(60, 64), 1)
    R.apply(scene.session, scene.refill(np.ones_like(FOUND)))
    assert (scene.layer.data[60:64, 10:20] == 1).all()
    assert (scene.layer.data[scene.mine == 4] == 4).all()
    assert (scene.layer.data[70:] == 2).all()


def test_many_re_runs_taken_back_leave_the_strokes_alone_to_teach():
    scene = Painted()
    before, steps = scene.known(), len(scene.layer._undo_history)
    for n in range(5):
        R.apply(scene.session, scene.refill(np.roll(FOUND, 7 * n, axis=1)))
        assert scene.known() == before
    while len(scene.layer._undo_history) > steps:
        scene.layer.undo()
    np.testing.assert_array_equal(scene.layer.data, scene.mine)
    assert scene.known() == before
    (pair,) = scene.pairs()
    assert len(pair.kept.versions) == 4


def test_what_is_painted_between_merge_and_write_stays():
    scene = Painted()
    made = scene.refill()
    scene.stroke(slice(70, 74), 4)
    R.apply(scene.session, made)
    assert (scene.layer.data[70:74, 10:20] == 4).all()
    assert (scene.layer.data[-3:, 30:] == 3).all()


def test_planes_that_are_known_are_left_alone():
    scene = Painted()
    scene.how = C.How(task="classes", pixels="all", foreign="all")
    assert R.apply(scene.session, scene.refill()) == 0
    np.testing.assert_array_equal(scene.layer.data, scene.mine)


def test_the_job_reads_classes_and_refuses_a_model_without():
    scene = Painted()
    engine = ClassEngine()
    _, (made,) = drive(R.rerun(engine, scene.pairs(), scene.how, "tuned", "cpu"))
    assert made.numbers == {2: "dim", 1: "bright"}
    assert R.apply(scene.session, made) > 0
    assert set(np.unique(scene.layer.data)) <= {0, 1, 2, 4}
    with pytest.raises(InputError, match="tells no classes apart"):
        drive(R.rerun(FakeEngine(), scene.pairs(), scene.how, "plain", "cpu"))


def test_the_summary_counts_classes_that_are_there_without_reading_the_labels():
    scene = Painted()
    features = class_features({}, MODEL, "classes", np.where(FOUND == 3, 0, FOUND))
    params = SegmentParams(task="classes").model_dump()
    source = source_of(scene.viewer.layers["im"])
    result = Segmentation(0 * FOUND, features, params, "tuned", "1", 0.1)  # the run has counted them
    shown, _ = show_result(scene.viewer.layers, scene.viewer.layers["im"], source, result)
    assert summary(shown.layer).startswith("2 classes")
