"""Classes: names and numbers, reading, scores by hand, and what is held out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_attnseg.core import classes as c
from napari_attnseg.core.corrections import TOO_FEW
from napari_attnseg.errors import TrainingDataError
from napari_attnseg.records import DenseMaps, ModelCard, Sample

TWO = ("nucleus", "cytoplasm")


def sample(labels, known=None, name="a", classes=TWO, origin=(0, 0)) -> Sample:
    labels = np.asarray(labels, np.int32)
    known = np.ones(labels.shape, bool) if known is None else np.asarray(known, bool)
    return Sample(np.zeros((1, *labels.shape), np.float32), labels, known, name, origin, classes=classes)


def maps(foreground, chances=None) -> DenseMaps:
    fg = np.asarray(foreground, np.float32)
    zero = np.zeros_like(fg)
    return DenseMaps(fg, zero, zero, np.stack([zero, zero]), chances)


def test_a_model_of_objects_knows_no_classes():
    assert c.class_names(ModelCard("a", "A", {})) == ()
    assert c.class_names(ModelCard("a", "A", {}, classes=TWO)) == TWO
    one = ModelCard("a", "A", {}, classes=("nucleus",), training={"task": "classes"})
    assert c.class_names(one) == ("nucleus",)


def test_names_are_given_or_numbered():
    assert c.numbered_names(3, ["nucleus", " "]) == ("nucleus", "class 2", "class 3")


def test_a_model_keeps_its_classes_and_gets_new_ones_behind_them():
    samples = [sample([[1, 2]], classes=("debris", "nucleus")), sample([[2]], classes=("x", "Background"))]
    assert c.joined_names(TWO, samples) == ("nucleus", "cytoplasm", "debris")
    with pytest.raises(TrainingDataError, match="number 3 in 'a' has no name"):
        c.joined_names((), [sample([[3]])])
    with pytest.raises(TrainingDataError, match="no class"):
        c.joined_names((), [sample([[0]])])
    with pytest.raises(TrainingDataError, match="Only one class is known"):
        c.joined_names((), [sample([[2, 2]])])
    assert c.joined_names((), [sample([[0, 2]])]) == ("cytoplasm",)
    many = tuple(f"kind {n}" for n in range(c.MOST + 1))
    with pytest.raises(TrainingDataError, match="33 classes"):
        c.joined_names((), [sample([list(range(1, c.MOST + 2))], classes=many)])


def test_numbers_follow_the_names_and_background_is_none():
    painted = sample([[1, 2, 3, 1]], [[1, 1, 1, 0]], classes=("b", "background", "a"))
    np.testing.assert_array_equal(c.renumbered(painted, ("a", "b")).labels, [[2, 0, 1, 0]])


def test_objects_are_told_from_classes():
    assert c.class_numbers(np.array([[0, 2, 7]]), "x") == (2, 7)
    for wrong in (np.arange(40), np.array([3000])):
        with pytest.raises(TrainingDataError, match="these look like objects"):
            c.class_numbers(wrong, "x")
    with pytest.raises(TrainingDataError, match="negative"):
        c.class_numbers(np.array([-1, 1]), "x")


def test_the_class_of_a_pixel_is_the_likeliest_where_there_is_foreground():
    chances = np.array([[[0.4, 0.9]], [[0.2, 0.1]], [[0.4, 0.0]]], np.float32)
    np.testing.assert_array_equal(c.class_map(maps([[0.6, 0.1]], chances), 0.5), [[2, 0]])
    np.testing.assert_array_equal(c.class_map(maps([[0.6, 0.1]]), 0.5), [[1, 0]])


def test_an_object_has_the_class_of_most_of_its_pixels():
    labels = np.array([[1, 1, 1, 2, 0]], np.int32)
    chances = np.zeros((3, 1, 5), np.float32)
    chances[1, 0] = [0.3, 0.3, 0.1, 0.1, 0.9]
    chances[2, 0] = [0.2, 0.2, 0.8, 0.6, 0.0]
    np.testing.assert_array_equal(c.majority(labels, chances), [1, 2])


def test_features_name_the_classes():
    labels = np.array([[[0, 2, 2]], [[2, 0, 0]]], np.int32)
    found = c.class_features({"index": np.array([1, 2]), "class": np.array([2, 1])}, TWO, "instances", labels)
    assert found["class"].tolist() == ["cytoplasm", "nucleus"]
    table = c.class_features({}, TWO, "classes", labels)
    assert (table["index"].tolist(), table["class"].tolist()) == ([1, 2], list(TWO))
    assert table["pixels"].tolist() == [0, 3]
    assert c.class_features({}, (), "classes", labels) == {}


def test_difference_of_class_maps():
    before, after = np.array([[0, 1, 1, 1]]), np.array([[1, 0, 2, 1]])
    np.testing.assert_array_equal(c.class_difference(before, after), [[2, 1, 3, 0]])
    np.testing.assert_array_equal(c.class_difference(before, after, told=False), [[2, 1, 0, 0]])


def test_scores_by_hand():
    truth = sample([[1, 1, 2, 0]], [[1, 1, 1, 1]])
    found = np.array([[1, 2, 2, 0]], np.int32)
    counts = c.count_classes(found, truth)
    np.testing.assert_array_equal(counts, [[3, 3, 3], [1, 2, 1], [2, 1, 1]])
    scores = c.class_scores(counts, TWO)
    assert scores["per_class"] == {"nucleus": 0.6667, "cytoplasm": 0.6667}
    assert (scores["dice"], scores["foreground"], scores["pixels"]) == (0.6667, 1.0, 3)
    # the parent knew one of the two: the other is no score, and nothing in the mean
    before = c.class_scores(counts, TWO, ("nucleus",))
    assert before["per_class"] == {"nucleus": 0.6667, "cytoplasm": None}
    assert before["dice"] == 0.6667
    assert c.shared_dice(before, {"per_class": {"nucleus": 0.9, "cytoplasm": 0.1}}) == (0.6667, 0.9)
    none = c.class_scores(counts, TWO, ("object",))
    assert none["dice"] is None
    assert c.shared_dice(none, scores) is None
    # unknown pixels do not count, and a class that is not there has no score
    part = c.class_scores(c.count_classes(found, sample([[1, 1, 2, 0]], [[1, 0, 0, 1]])), TWO)
    assert part["per_class"] == {"nucleus": 1.0, "cytoplasm": None}
    assert part["dice"] == 1.0


# -- what is held out -----------------------------------------------------------------------------------


def strokes(count: int, rng: np.random.Generator, side: int = 160, name: str = "a") -> Sample:
    labels = np.zeros((side, side), np.int32)
    for n in range(count):
        y, x = rng.integers(0, side - 12, 2)
        labels[y : y + 6, x : x + 10] = 1 + n % 2
    return sample(labels, labels > 0, name)


def pixels(split_part) -> set[tuple[str, int, int]]:
    return {
        (s.name, int(y) + s.origin[0], int(x) + s.origin[1])
        for s in split_part
        for y, x in np.argwhere(s.known)
    }


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 20), st.integers(1, 6), st.booleans(), st.booleans())
def test_nothing_that_is_held_out_teaches(seed, count, images, named, shelved):
    rng = np.random.default_rng(seed)
    samples = [strokes(count, rng, name=f"image {n}" if named else "a") for n in range(images)]
    if shelved:  # a part of the first field again, from another day
        first = samples[0]
        part = np.s_[40:, 20:]
        again = sample(first.labels[part], first.known[part], first.name, origin=(40, 20))
        samples.append(again)
    split = c.hold_out_areas(samples, seed)
    taught, judged = pixels(split.train), pixels(split.held)
    assert not taught & judged
    if not split.held:
        assert split.reason == TOO_FEW
        assert taught == pixels(samples)
        return
    assert split.reason == ""
    painted = {1, 2} if count > 1 else {1}
    for part in (split.train, split.held):  # every class on both sides
        assert {int(k) for s in part for k in np.unique(s.labels[s.known])} == painted
    near = {(n, y + dy, x + dx) for n, y, x in judged for dy, dx in ((0, 5), (5, 0), (0, -5), (-5, 0))}
    assert not near & taught


def test_few_strokes_are_not_judged():
    split = c.hold_out_areas([strokes(5, np.random.default_rng(0))])
    assert (split.reason, split.held) == (TOO_FEW, ())
    one_area = np.zeros((100, 300), np.int32)
    one_area[40:60, 10:30] = 1
    rare = sample(np.where(np.arange(300) > 150, 2, one_area), np.ones((100, 300), bool))
    assert c.hold_out_areas([rare]).reason == TOO_FEW  # class 1 lies in one cell only


def test_a_field_that_is_known_as_a_whole_is_cut_into_cells():
    labels = np.indices((256, 256)).sum(axis=0) // 7 % 3
    split = c.hold_out_areas([sample(labels)], 3)
    held = split.held[0].known
    assert 0.1 < held.mean() < 0.4
    assert split.train[0].known.mean() > 0.3


def test_from_four_images_on_whole_images_are_held_out():
    rng = np.random.default_rng(4)
    split = c.hold_out_areas([strokes(4, rng, name=f"i{n}") for n in range(8)])
    assert {s.name for s in split.train} & {s.name for s in split.held} == set()
    assert len(split.held) == 2
