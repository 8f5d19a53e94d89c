"""Corrections are found by comparing with what was predicted, and teach only what the user said."""

from __future__ import annotations

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Labels

from napari_attnseg._napari import corrections as C
from napari_attnseg._napari import layers as L
from napari_attnseg._napari import marks
from napari_attnseg._napari import rerun as R
from napari_attnseg._napari import tuning as T
from napari_attnseg._napari.comparison import Compared, show_comparison, show_preview
from napari_attnseg._napari.session import Run, Session
from napari_attnseg.jobs.progress import drive
from napari_attnseg.params import SegmentParams, TrainParams
from napari_attnseg.records import PlaneKey, Segmentation
from napari_attnseg.store import runs, samples
from tests.fakes import FakeEngine, blobs

IMAGE, TRUTH = blobs()


class Scene:
    """A viewer with a run on an image."""

    def __init__(self, image=IMAGE, labels=TRUTH, planes=None, **keywords) -> None:
        self.viewer = ViewerModel()
        self.session = Session.of(self.viewer)
        self.image = self.viewer.add_image(image, name="im", **keywords)
        self.run(labels, planes)

    def run(self, labels, planes=None):
        source = L.source_of(self.image)
        ids = np.unique(labels)[1:]
        features = {"index": ids, "confidence": np.ones(len(ids))}
        result = Segmentation(labels, features, {}, "base", "1", 0.1)
        before = self.session.state.run_of(self.image)
        scope = {"planes": planes, "field": None}
        shown, _ = L.show_result(
            self.viewer.layers, self.image, source, result, before and before.shown, scope
        )
        run = Run(self.image, source, SegmentParams(), result, None, shown, None, PlaneKey())
        self.session.put_run(run, 10**9)
        self.labels = shown.layer

    def pairs(self):
        return C.pairs(self.viewer.layers, self.session)

    def found(self, **how):
        return drive(C.scan(self.pairs(), C.How(**how)))

    def samples(self, **how):
        chosen = [f for f in self.found(**how) if f.pixels]
        return drive(C.samples(chosen, C.How(**how)))


def erase(layer, label, plane=()):
    where = np.nonzero(layer.data[plane] == label)
    layer.data_setitem((*(np.full(where[0].size, n) for n in plane), *where), 0)


def test_corrections_are_counted_and_survive_renaming_and_another_run():
    scene = Scene()
    (nothing,) = scene.found()
    assert nothing.teaching == nothing.pixels == 0
    first = scene.labels
    erase(first, 3)
    first.paint((30, 30), 50)
    first.name, scene.image.name = "mine", "renamed"
    scene.run(TRUTH)  # a second layer; the edited one stays
    assert scene.labels is not first
    by_layer = {f.pair.labels: f for f in scene.found()}
    assert by_layer[scene.labels].changes.count == 0
    changes = by_layer[first].changes
    assert (len(changes.added), len(changes.removed), len(changes.reshaped)) == (1, 1, 0)
    assert 0 < by_layer[first].pixels < first.data.size / 4


def test_labels_from_elsewhere_teach_nothing_until_the_user_says_what_is_known():
    viewer = ViewerModel()
    viewer.add_image(IMAGE, name="im")
    viewer.add_image(np.zeros((7, 9)), name="other")
    viewer.add_labels(TRUTH.astype(np.uint8), name="by hand")
    session = Session.of(viewer)
    (pair,) = C.pairs(viewer.layers, session)
    assert pair.image.name == "im"
    assert pair.kept is None
    (found,) = drive(C.scan([pair], C.How()))
    assert found.pixels == 0
    (found,) = drive(C.scan([pair], C.How(foreign="all")))
    assert found.pixels == IMAGE.size
    (found,) = drive(C.scan([pair], C.How(foreign="objects")))
    assert (TRUTH > 0).sum() < found.pixels < IMAGE.size
    assert found.objects == 12


def test_unlabelled_is_not_background():
    scene = Scene()
    scene.labels.paint((30, 30), 50)
    (sample,) = scene.samples()
    y, x = sample.origin
    assert sample.known[30 - y, 30 - x]
    known = np.zeros(IMAGE.shape, bool)
    h, w = sample.known.shape
    known[y : y + h, x : x + w] = sample.known
    far = np.hypot(*(np.indices(IMAGE.shape) - 30)) > 20
    assert not known[far].any()
    assert sample.image.shape == (1, h, w)
    assert sample.image.dtype == np.float32
    assert sample.name == "im"


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_regions_are_read_in_the_world(scale):
    scene = Scene(scale=(scale, scale))
    box = np.array([[20, 30], [20, 60], [50, 60], [50, 30]], float)
    shapes = scene.viewer.add_shapes([box * 0.1 * scale], shape_type="rectangle", scale=(10, 10))
    mask = C.region_mask(scene.pairs()[0], PlaneKey(), C.outlines(shapes))
    assert mask[22:48, 32:58].all()
    assert not mask[:19].any()
    assert not mask[:, 62:].any()
    (found,) = scene.found(pixels="regions", regions=C.outlines(shapes))
    assert 0 < found.pixels <= mask.sum()
    round_one = scene.viewer.add_shapes([box], shape_type="ellipse")
    (outline,) = C.outlines(round_one)
    assert np.hypot(*(outline - (35, 45)).T).max() <= 15.01
    assert C.outlines(scene.viewer.add_shapes([box[:2]], shape_type="line")) == ()


def stack(count=4):
    image, labels = np.stack([IMAGE] * count), np.stack([TRUTH + 12 * n * (TRUTH > 0) for n in range(count)])
    return Scene(image, labels.astype(np.int32), axis_labels=("t", "y", "x"))


def test_planes_of_a_stack_are_told_apart_and_ticked_as_done():
    scene = stack()
    erase(scene.labels, 13, (1,))
    scene.labels.paint((3, 30, 30), 99)
    assert [(f.key.index, f.changes.count) for f in scene.found()] == [((1,), 1), ((3,), 1)]
    assert [s.name for s in scene.samples()] == ["im, T 1", "im, T 3"]
    (pair,) = scene.pairs()
    C.mark_done(pair, PlaneKey((2,)), True)
    done = {f.key.index: f for f in scene.found(pixels="done")}
    assert {key: f.pixels for key, f in done.items()} == {(1,): 0, (2,): IMAGE.size, (3,): 0}
    assert done[2,].objects == 12
    C.mark_done(pair, PlaneKey((2,)), False)
    assert not any(f.done for f in scene.found(pixels="done"))


def test_regions_of_a_flat_shapes_layer_hold_for_every_plane_and_deep_ones_for_theirs():
    scene = stack()
    (pair,) = scene.pairs()
    flat = np.array([[10, 10], [10, 40], [40, 40], [40, 10]], float)
    deep = np.insert(flat, 0, 2, axis=1)
    viewer = scene.viewer
    for_all = C.outlines(viewer.add_shapes([flat], shape_type="polygon"))
    for_two = C.outlines(viewer.add_shapes([deep], shape_type="polygon", ndim=3))
    sizes = [
        [int(C.region_mask(pair, PlaneKey((n,)), o).sum()) for n in range(4)] for o in (for_all, for_two)
    ]
    assert min(sizes[0]) > 800
    assert sizes[1] == [0, 0, sizes[0][2], 0]


def test_channels_inside_a_stack_and_wide_planes_in_pieces(monkeypatch):
    image = np.stack([np.stack([IMAGE] * 2)] * 3)  # T, C, Y, X
    scene = Scene(image, np.stack([TRUTH] * 3), axis_labels=("t", "c", "y", "x"))
    assert scene.labels.data.shape == (3, 1, *IMAGE.shape)
    scene.labels.paint((2, 0, 30, 30), 99)
    (found,) = scene.found()
    assert found.key.index == (2,)
    (sample,) = scene.samples()
    assert sample.known.any()
    # one object at either end of the plane: cut into cells, every known pixel once
    monkeypatch.setattr(C, "_CELL", 40)
    scene = Scene()
    scene.labels.paint((30, 20), 60)
    scene.labels.paint((80, 100), 61)
    (whole,) = scene.found()
    parts = scene.samples()
    assert len(parts) > 1
    assert sum(int(s.known.sum()) for s in parts) == whole.pixels


def refill(scene, new, **how):
    (pair,) = [p for p in scene.pairs() if p.labels is scene.labels]
    order = R.order_of(pair, "tuned", "cpu")
    ids = np.unique(new)[1:]
    result = Segmentation(new, {"index": ids, "confidence": np.full(len(ids), 0.5)}, {}, "tuned", "1", 0.1)
    from napari_attnseg._napari.orders import Outcome

    return R._refill(pair, C.How(**how), Outcome(order, result, None))


def test_a_rerun_keeps_corrections_is_one_undo_and_the_corrections_still_count():
    scene = Scene()
    erase(scene.labels, 3)
    scene.labels.paint((30, 30), 50)
    mine = scene.labels.data.copy()
    steps = len(scene.labels._undo_history)
    new = np.roll(TRUTH, 3, axis=1)
    made = refill(scene, new)
    assert R.apply(scene.session, made) > 0
    after = scene.labels.data
    assert (after[mine == 50] == 50).all()
    assert not after[TRUTH == 3].any()
    assert (after != mine).any()
    assert len(scene.labels._undo_history) == steps + 1
    assert scene.labels.metadata["attnseg"]["model"] == "tuned"
    (found,) = scene.found()
    assert (len(found.changes.added), len(found.changes.removed), found.changes.reshaped) == (1, 1, ())
    table = scene.labels.features.set_index("index")
    assert table.loc[1, "confidence"] == 0.5  # of the new prediction, under the id that it took over
    scene.labels.undo()
    np.testing.assert_array_equal(scene.labels.data, mine)
    (found,) = scene.found()
    assert found.changes.count == 2  # compared with the prediction from before the re-run
    scene.labels.redo()
    assert scene.found()[0].changes.count == 2
    for shift in (4, 5, 6):  # versions are not kept without end, and the corrections last
        R.apply(scene.session, refill(scene, np.roll(TRUTH, shift, axis=1)))
    assert scene.found()[0].changes.count == 2
    assert len(scene.session.kept(scene.labels).versions) == 4  # the newest three, and the first


def test_a_rerun_writes_over_nothing_that_was_accepted():
    scene = Scene()
    marks.set_checked(scene.labels, [5], True)
    made = refill(scene, np.roll(TRUTH, 3, axis=1))
    marks.set_checked(scene.labels, [7], True)  # between merge and write
    assert R.apply(scene.session, made) > 0
    after = scene.labels.data
    for label in (5, 7):
        assert (after[label == TRUTH] == label).all()
    assert (after[TRUTH == 1] != 1).any()
    assert marks.checked(scene.labels) == {5, 7}
    assert scene.found()[0].changes.accepted == (5, 7)


def test_what_is_drawn_between_merge_and_write_is_kept_and_done_planes_stay():
    scene = stack(3)
    scene.labels.paint((0, 30, 30), 99)
    (pair,) = scene.pairs()
    C.mark_done(pair, PlaneKey((1,)), True)
    made = refill(scene, np.roll(scene.labels.data, 3, axis=2), pixels="done")
    scene.labels.paint((2, 62, 62), 77)
    before = scene.labels.data.copy()
    R.apply(scene.session, made)
    after = scene.labels.data
    assert (after[0][before[0] == 99] == 99).all()
    assert (after[2][before[2] == 77] == 77).all()
    np.testing.assert_array_equal(after[1], before[1])
    assert (after[0] != before[0]).any()
    for label in np.unique(after)[1:]:
        assert len(np.unique(np.nonzero(after == label)[0])) == 1  # ids are unique across planes


def test_foreign_labels_are_all_the_users_and_small_types_are_refused():
    viewer = ViewerModel()
    viewer.add_image(IMAGE, name="im")
    hand = np.where(TRUTH == 4, 255, 0).astype(np.uint8)
    layer = viewer.add_labels(hand.copy(), name="hand")
    session = Session.of(viewer)
    (pair,) = C.pairs(viewer.layers, session)
    result = Segmentation(TRUTH, {}, {}, "tuned", "1", 0.1)
    from napari_attnseg._napari.orders import Outcome

    made = R._refill(pair, C.How(foreign="objects"), Outcome(R.order_of(pair, "tuned", "cpu"), result, None))
    with pytest.raises(R.InputError, match="up to 255"):
        R.apply(session, made)
    np.testing.assert_array_equal(layer.data, hand)
    layer.data = hand.astype(np.int32)
    R.apply(session, made)
    assert (layer.data[hand == 255] == 255).all()
    assert len(np.unique(layer.data)) == 13
    (found,) = drive(C.scan(C.pairs(viewer.layers, session), C.How()))
    assert found.changes.corrected == (255,)
    layer.undo()  # what was filled is gone, and nobody erased it
    (found,) = drive(C.scan(C.pairs(viewer.layers, session), C.How()))
    assert (found.changes.corrected, found.changes.removed) == ((255,), ())


def test_the_job_runs_the_new_model_where_the_old_one_ran(monkeypatch):
    engine = FakeEngine()
    scene = Scene(
        np.stack([IMAGE] * 3), np.stack([TRUTH, 0 * TRUTH, 0 * TRUTH]), [[0]], axis_labels=("t", "y", "x")
    )
    erase(scene.labels, 1, (0,))
    loaded, made = drive(R.rerun(engine, scene.pairs(), C.How(), "tuned", "cpu"))
    assert loaded is engine
    assert list(made[0].planes) == [PlaneKey((0,))]
    R.apply(scene.session, made[0])
    assert not scene.labels.data[0][TRUTH == 1].any()


# -- runs --------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("NAPARI_ATTNSEG_HOME", str(tmp_path))
    return tmp_path


def test_a_run_folder_from_ticked_planes_and_the_shelf(home):
    scene = Scene()
    scene.labels.paint((30, 30), 50)
    assert T.suggest_name("base") == "base-tuned"
    params = TrainParams(name="base-tuned")
    started = drive(T.prepare(scene.found(), [], C.How(), params))
    assert started.run == home / "runs" / "base-tuned"
    (sample,) = runs.read_samples(started.run)
    assert sample.known.any()
    assert started.place.field == (slice(0, 96), slice(0, 128))
    assert runs.read_preview(started.run).shape == (1, 96, 128)
    assert "exists already" in T.name_trouble("base-tuned")
    assert T.name_trouble("no/slash")
    assert T.suggest_name("base") == "base-tuned-2"
    assert T.suggest_name("base-tuned") == "base-tuned-2"
    (shelved,) = drive(T.read_shelf(32))
    assert shelved.thumbnail.shape == (32, 32, 3)
    assert shelved.thumbnail.any()
    again = drive(T.prepare([], samples.shelf(), C.How(), TrainParams(name="again")))
    assert again.place is None
    assert len(runs.read_samples(again.run)) == 1
    with pytest.raises(T.TrainingDataError):
        drive(T.prepare([], [], C.How(), TrainParams(name="nothing")))
    assert not (home / "runs" / "nothing").exists()


def test_what_waits_for_the_user_and_what_was_decided(home):
    scene = Scene()
    scene.labels.paint((30, 30), 50)
    run = drive(T.prepare(scene.found(), [], C.How(), TrainParams(name="a"))).run
    assert T.undecided() == []  # nothing ran yet
    runs.append_progress(run, {"kind": "step", "step": 3, "total": 9, "seconds": 1.0})
    (state,) = T.undecided()
    assert state.status == "interrupted"
    assert T.remembered("quick") is None
    runs.append_progress(run, {"kind": "estimate", "seconds": 9, "memory_mb": 700})
    runs.append_progress(run, {"kind": "step", "step": 9, "total": 9, "seconds": 8.0})
    runs.append_progress(run, {"kind": "end", "status": "finished"})
    assert [s.status for s in T.undecided()] == ["finished"]
    assert T.remembered("quick") == T.Cost(8.0, 700.0, "a")
    assert T.remembered("full") is None
    T.decide(run, "accepted")
    assert T.undecided() == []
    other = drive(T.prepare(scene.found(), [], C.How(), TrainParams(name="b"))).run
    runs.append_progress(other, {"kind": "start"})
    T.leave(T.undecided()[0])
    assert not other.exists()


def test_few_objects_are_said():
    assert "Nothing is corrected" in T.few(0)
    assert "One object" in T.few(1)
    assert T.few(2) == ""


def test_preview_and_comparison_layers_are_no_sources_and_go_again():
    scene = Scene(np.stack([IMAGE] * 2), np.stack([TRUTH] * 2), axis_labels=("t", "y", "x"), scale=(1, 2, 2))
    scene.labels.paint((1, 30, 30), 50)
    (found,) = scene.found()
    layers = scene.viewer.layers
    layers.selection.active = scene.labels
    place = T.preview_place(found)
    preview = show_preview(layers, place, TRUTH)
    assert layers.selection.active is scene.labels
    np.testing.assert_array_equal(preview.data[1], TRUTH)
    assert not preview.data[0].any()
    np.testing.assert_allclose(preview.scale, scene.image.scale)
    assert show_preview(layers, place, 2 * TRUTH) is preview
    assert preview.data.max() == 24
    made = show_comparison(layers, Compared(found, TRUTH, np.roll(TRUTH, 40, axis=1)), ("base", "tuned"))
    assert layers.selection.active is scene.labels
    assert [pair.labels for pair in scene.pairs()] == [scene.labels]
    visible = [layer.name for layer in layers if layer.visible]
    assert visible == ["im", "im · difference"]
    made.look("labels")
    assert scene.labels.visible
    assert not made.shown["difference"].visible
    made.close()
    assert [layer for layer in layers if isinstance(layer, Labels)] == [scene.labels, preview]
    assert preview.visible
    layers.remove(scene.image)
    assert show_preview(layers, place, TRUTH) is None
    assert show_comparison(layers, Compared(found, TRUTH, TRUTH), ("a", "b")) is None
