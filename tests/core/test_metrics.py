"""The scores against hand-computed cases and an independent implementation that tries every pairing."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_attnseg.core.metrics import THRESHOLDS, compare, pooled, scores
from napari_attnseg.errors import InputError


def brute(pred, truth, threshold):
    """Return (TP, FP, FN, summed IoU) by pixel sets and by trying every one-to-one pairing."""
    p = [set(zip(*np.where(pred == i), strict=True)) for i in set(pred.flat) - {0}]
    t = [set(zip(*np.where(truth == i), strict=True)) for i in set(truth.flat) - {0}]
    small, large = (p, t) if len(p) <= len(t) else (t, p)
    best = (0.0, 0)
    for order in permutations(range(len(large)), len(small)):
        ious = [len(a & large[j]) / len(a | large[j]) for a, j in zip(small, order, strict=True)]
        good = [i for i in ious if i >= threshold]
        best = max(best, (sum(good), len(good)))
    total, tp = best
    return tp, len(p) - tp, len(t) - tp, total


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 100_000), objects=st.integers(0, 4), noise=st.integers(0, 12))
def test_agrees_with_brute_force(seed, objects, noise):
    rng = np.random.default_rng(seed)
    truth = np.zeros((8, 9), dtype=np.int32)
    for i in range(objects):
        y, x = rng.integers(7), rng.integers(8)
        truth[y : y + rng.integers(1, 4), x : x + rng.integers(1, 4)] = 10 * i + 3
    pred = np.roll(truth, rng.integers(-1, 2), axis=int(rng.integers(2)))
    for _ in range(noise):
        pred[rng.integers(8), rng.integers(9)] = rng.choice([0, 3, 13, 99])
    found = compare(pred, truth)
    for n, threshold in enumerate(THRESHOLDS):
        tp, fp, fn, total = brute(pred, truth, threshold)
        assert found.tp[n] == tp
        assert found.pred - tp == fp
        assert found.truth - tp == fn
        if n == 0:
            assert found.iou_sum == pytest.approx(total)


def test_hand_computed_case():
    truth, pred = np.zeros((2, 20), dtype=int), np.zeros((2, 20), dtype=int)
    truth[0, 0:10] = 1  # found with IoU 8 / 10
    pred[0, 0:8] = 5
    truth[1, 0:4] = 2  # missed: IoU 1 / 4
    pred[1, 3:4] = 6
    truth[1, 10:16] = 3  # found exactly
    pred[1, 10:16] = 7
    out = scores(compare(pred, truth))
    assert list(out["ap"]) == ["0.50", "0.55", "0.60", "0.65", "0.70", "0.75", "0.80", "0.85", "0.90"]
    assert out["ap"]["0.50"] == pytest.approx(2 / 4)  # TP 2, FP 1, FN 1
    assert out["ap"]["0.80"] == pytest.approx(2 / 4)  # an IoU of exactly the threshold counts
    assert out["ap"]["0.85"] == pytest.approx(1 / 5)
    assert out["mean_ap"] == pytest.approx((7 * 0.5 + 2 * 0.2) / 9)
    assert out["f1"] == pytest.approx(4 / 6)
    assert out["pq"] == pytest.approx((0.8 + 1.0) / 3)
    assert out["dice"] == pytest.approx(2 * 15 / (15 + 20))


def test_ties_at_one_half_are_matched_one_to_one():
    truth = np.array([[1, 1, 0, 0], [2, 2, 0, 0]])
    pred = np.array([[5, 0, 0, 0], [5, 0, 0, 0]])  # IoU 1 / 3 with both
    assert compare(pred, truth).tp[0] == 0
    truth = np.array([[1, 2]])
    pred = np.array([[5, 5]])  # IoU exactly 1 / 2 with both: one pair only
    assert compare(pred, truth).tp[0] == 1


def test_pooling_weighs_by_objects_not_by_images():
    one = np.array([[1, 0, 0, 0]])
    three = np.array([[1, 2, 3, 0]])
    none = np.zeros_like(three)
    out = pooled([compare(one, one), compare(none, three)])
    assert out["n"] == 2
    assert out["ap"]["0.50"] == pytest.approx(1 / 4)
    assert out["dice"] == pytest.approx(2 / 5)


def test_nothing_to_find_is_perfect_and_something_is_not():
    empty, some = np.zeros((4, 4), dtype=int), np.eye(4, dtype=int)
    assert scores(compare(empty, empty))["mean_ap"] == 1.0
    assert scores(compare(some, empty))["ap"]["0.50"] == 0.0
    assert scores(compare(empty, some))["dice"] == 0.0


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64, np.uint64, np.float32])
def test_any_label_type(dtype):
    labels = np.array([[0, 1, 1], [2, 0, 200]]).astype(dtype)
    assert compare(labels, labels).tp.tolist() == [3] * 9


def test_bad_labels_are_refused():
    with pytest.raises(InputError, match="shapes"):
        compare(np.zeros((2, 2), int), np.zeros((2, 3), int))
    with pytest.raises(InputError, match="whole numbers"):
        compare(np.array([[0.5]]), np.array([[1.0]]))
    with pytest.raises(InputError, match="nothing"):
        pooled([])
