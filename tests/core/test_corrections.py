"""Corrections: what changed, what is known by it, and a held-out part that never leaks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_attnseg.core.corrections import (
    TOO_FEW,
    Changes,
    compare_labels,
    erased_objects,
    hold_out,
    known_mask,
    known_objects,
    make_sample,
)
from napari_attnseg.errors import InputError
from napari_attnseg.records import Sample


def squares(*boxes: tuple[int, int, int, int], shape=(40, 60)) -> np.ndarray:
    """Return labels 1..n, one per (y, x, height, width)."""
    out = np.zeros(shape, np.int32)
    for n, (y, x, h, w) in enumerate(boxes, start=1):
        out[y : y + h, x : x + w] = n
    return out


BEFORE = squares((2, 2, 8, 8), (2, 20, 8, 8), (2, 40, 8, 8), (20, 2, 8, 8))


def test_each_kind_of_change_is_told_apart():
    after = BEFORE.copy()
    after[BEFORE == 2] = 0  # removed
    after[4:12, 40:48] = 3  # grown by two rows
    after[30:36, 30:36] = 9  # drawn
    changes = compare_labels(BEFORE, after)
    assert changes == Changes(added=(9,), removed=(2,), reshaped=(3,), kept=(1, 4), replaced=(3,))
    assert changes.corrected == (3, 9)
    assert changes.count == 3
    assert changes.summary() == "1 added, 1 removed, 1 reshaped"


def test_other_ids_for_the_same_pixels_are_no_change():
    changes = compare_labels(BEFORE, np.where(BEFORE, BEFORE * 10 + 3, 0))
    assert changes.kept == (13, 23, 33, 43)
    assert changes.count == 0
    assert changes.summary() == "nothing corrected"


def test_a_split_reshapes_one_and_adds_one_and_a_merge_removes_one():
    split = BEFORE.copy()
    split[2:10, 2:5] = 7  # 3 of 8 columns
    assert compare_labels(BEFORE, split) == Changes(added=(7,), reshaped=(1,), kept=(2, 3, 4), replaced=(1,))
    merged = np.where(BEFORE == 2, 1, BEFORE)
    changes = compare_labels(BEFORE, merged)
    assert (len(changes.reshaped), len(changes.removed), changes.added) == (1, 1, ())


def test_without_a_prediction_every_object_is_new():
    assert compare_labels(None, BEFORE).added == (1, 2, 3, 4)
    with pytest.raises(InputError, match="shape"):
        compare_labels(BEFORE[:5], BEFORE)


def test_an_empty_image_has_no_changes():
    empty = np.zeros((5, 5), np.int32)
    assert compare_labels(empty, empty) == Changes()
    assert compare_labels(BEFORE, np.zeros_like(BEFORE)).removed == (1, 2, 3, 4)


@pytest.mark.parametrize("number", [1, 9])
def test_what_a_redrawn_object_gave_up_is_background_whatever_its_number(number):
    """8 columns become 3: the other 5 were erased, 2 of them within the ring; the next one stays unknown."""
    after = np.where(BEFORE == 1, 0, BEFORE)
    after[2:10, 2:5] = number
    changes = compare_labels(BEFORE, after)
    assert (changes.reshaped, changes.replaced) == ((number,), (1,))
    known = known_mask(BEFORE, after, changes, margin=2)
    assert known[2:10, 2:10].all()
    assert not known[2:10, 20:28].any()


def test_what_a_held_out_object_gave_up_does_not_teach():
    """Nine predicted squares of 12 columns, redrawn 4 columns wide: the other 8 go with their object."""
    boxes = [(2 + 14 * y, 2 + 16 * x, 10, 12) for y in range(3) for x in range(3)]
    before = squares(*boxes, shape=(44, 50))
    after = before.copy()
    for n, (y, x, h, w) in enumerate(boxes, start=1):
        after[y : y + h, x + 4 : x + w] = 0
        after[y : y + h, x : x + 4] = 20 + n
    sample = make_sample(np.zeros((1, 44, 50), np.float32), before, after, name="a")
    split = hold_out([sample], seed=0)
    (held,), (train,) = split.held, split.train
    assert len(held.objects) == 2
    for n in range(1, 10):
        gave_up = (sample.before == n) & (sample.labels == 0)
        mine = 20 + n in held.objects
        assert held.known[gave_up].all() == mine
        assert train.known[gave_up].any() != mine


@pytest.mark.parametrize(
    ("dtype", "ids"),
    [(np.uint32, (7, 3_000_000_000)), (np.int64, (2**32 + 5, 5)), (np.int32, (-4, 2**24 + 1))],
)
def test_objects_with_huge_ids_stay_apart_and_are_known(dtype, ids):
    before = squares((4, 4, 8, 8), shape=(40, 40)).astype(dtype)
    after = before.copy()
    after[20:28, 4:12], after[20:28, 12:20] = ids
    sample = make_sample(np.zeros((1, 40, 40), np.float32), before, after, checked=(1,))
    assert sample.labels[sample.labels != 0].min() > 0
    assert sample.labels.max() <= 3
    assert len(known_objects(sample)) == 3  # two were drawn, one was called right
    (one,), (other,) = (np.unique(sample.labels[20:28, x]) for x in (slice(4, 12), slice(12, 20)))
    assert one != other
    assert ((sample.labels > 0) == (after != 0)).all()


def test_erased_are_the_objects_with_nothing_in_their_place():
    image = np.zeros((1, *BEFORE.shape), np.float32)

    def erased(after, before=BEFORE, **values):
        sample = make_sample(image, before, after, **values)
        return erased_objects(sample) if sample is not None else None

    after = BEFORE.copy()
    after[BEFORE == 2] = 0  # erased
    after[BEFORE == 3] = 0
    after[3:6, 41:44] = 9  # a small one was drawn where the third was
    after[BEFORE == 4] = 0
    after[26:34, 2:10] = 10  # and one that covers an edge of the fourth
    assert erased(after) == (2,)
    assert erased(after, mode="all") == (2,)
    assert erased(after, before=None) == ()
    region = np.zeros(BEFORE.shape, bool)
    region[15:] = True
    assert erased(after, mode="regions", regions=region) == ()  # nobody said that there is nothing
    assert erased(np.zeros_like(BEFORE)) == (1, 2, 3, 4)


def test_known_are_the_corrected_object_its_ring_and_what_was_erased():
    after = BEFORE.copy()
    after[BEFORE == 2] = 0
    after[30:36, 30:36] = 9
    known = known_mask(BEFORE, after, compare_labels(BEFORE, after), margin=2)
    assert known[30:36, 30:36].all()
    assert known[28, 32]  # the ring
    assert not known[27, 32]
    assert known[BEFORE == 2].all()  # certain background
    assert not known[BEFORE == 1].any()  # untouched: the parent may be wrong there
    assert not known[15, 50]  # unlabelled is not background


def test_a_ring_stops_at_an_object_that_nobody_looked_at():
    before = squares((5, 5, 6, 6))
    after = before.copy()
    after[5:11, 11:17] = 2  # drawn beside it
    known = known_mask(before, after, compare_labels(before, after), margin=3)
    assert not known[before == 1].any()
    assert known[after == 2].all()


def test_what_was_cut_off_an_object_is_known():
    after = BEFORE.copy()
    after[2:10, 2:7] = 0  # more than the margin is cut away
    known = known_mask(BEFORE, after, compare_labels(BEFORE, after), margin=1)
    assert known[BEFORE == 1].all()


def test_regions_know_their_pixels_but_no_object_that_they_cut():
    regions = np.zeros(BEFORE.shape, bool)
    regions[:15, :24] = True  # all of object 1, half of object 2
    known = known_mask(BEFORE, BEFORE, Changes(), "regions", regions)
    assert known[BEFORE == 1].all()
    assert not known[BEFORE == 2].any()
    assert known[14, 14]
    assert not known[~regions].any()
    with pytest.raises(InputError, match="region"):
        known_mask(BEFORE, BEFORE, Changes(), "regions")
    assert known_mask(BEFORE, BEFORE, Changes(), "all").all()


def test_a_sample_is_cut_to_what_is_known():
    before = np.zeros((600, 500), np.int32)
    after = before.copy()
    after[300:310, 200:210] = 4
    image = np.arange(600 * 500, dtype=np.float32).reshape(1, 600, 500)
    sample = make_sample(image, before, after, name="a")
    assert sample is not None
    y, x = sample.origin
    assert sample.labels.shape == (10 + 2 * (3 + 96), 10 + 2 * (3 + 96))
    assert sample.image[0, 0, 0] == image[0, y, x]
    assert sample.objects == known_objects(sample) == (4,)
    assert make_sample(image, before, before) is None


def test_objects_with_unknown_pixels_do_not_teach():
    labels = squares((2, 2, 8, 8), (2, 20, 8, 8))
    known = np.ones(labels.shape, bool)
    known[2, 20] = False
    sample = Sample(np.zeros((1, *labels.shape), np.float32), labels, known)
    assert known_objects(sample) == (1,)


def sample_of(labels, name="", origin=(0, 0), objects=()):
    image = np.zeros((1, *labels.shape), np.float32)
    known = known_mask(None, labels, compare_labels(None, labels)) if objects else np.ones(labels.shape, bool)
    return Sample(image, labels, known, name, origin, None, objects)


@st.composite
def scenes(draw):
    """Random samples: some of one field that overlap, as when a field is corrected again on another day."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count = draw(st.integers(1, 6))
    out = []
    for _ in range(count):
        field = int(rng.integers(0, 3))
        world = np.random.default_rng(field)
        labels = np.zeros((90, 90), np.int32)
        for number in range(1, int(world.integers(2, 14))):
            y, x, h, w = world.integers(0, 80), world.integers(0, 80), *world.integers(3, 14, 2)
            labels[y : y + h, x : x + w] = number
        y, x = rng.integers(0, 30, 2)
        part = labels[y : y + 60, x : x + 60]
        named = draw(st.booleans())
        corrected = tuple(int(i) for i in np.unique(part) if i) if draw(st.booleans()) else ()
        out.append(sample_of(part, f"field {field}" if named else "", (int(y), int(x)), corrected))
    return out, draw(st.integers(0, 99))


def in_the_world(sample: Sample, mask: np.ndarray) -> set[tuple[str, int, int]]:
    y, x = np.nonzero(mask)
    return {
        (sample.name, int(a) + sample.origin[0], int(b) + sample.origin[1]) for a, b in zip(y, x, strict=True)
    }


@settings(max_examples=120, deadline=None)
@given(scenes())
def test_what_is_held_out_never_teaches(case):
    samples, seed = case
    split = hold_out(samples, seed)
    count = sum(len(known_objects(s)) for s in samples)
    assert bool(split.held) != bool(split.reason)
    if split.reason:
        assert split.reason == TOO_FEW
        assert split.train == tuple(samples)
        return
    assert count >= 8
    held = [s for s in split.held if known_objects(s)]
    assert held
    assert any(known_objects(s) for s in split.train)
    for one in split.held:
        objects = np.isin(one.labels, known_objects(one))
        if one.name:  # the same place of the same field
            theirs = in_the_world(one, objects)
            for other in split.train:
                if other.name == one.name:
                    assert not theirs & in_the_world(other, other.known)
        else:
            for other in split.train:
                if other.image is one.image:
                    assert not (objects & other.known).any()
    again = hold_out(samples, seed)
    assert [s.objects for s in again.held] == [s.objects for s in split.held]


def test_whole_fields_are_held_out_where_there_are_enough():
    samples = [sample_of(BEFORE + 0, f"field {n}") for n in range(5)]
    split = hold_out(samples, 3)
    assert {s.name for s in split.train}.isdisjoint(s.name for s in split.held)
    assert len(split.train) + len(split.held) == 5
    assert 1 <= len(split.held) <= 3


def test_few_objects_all_teach():
    split = hold_out([sample_of(BEFORE)], 0)
    assert (len(split.train), split.held, split.reason) == (1, (), TOO_FEW)
