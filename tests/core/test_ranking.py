"""What to correct next: the three doubts, on hand-made cases."""

from __future__ import annotations

import numpy as np
import pytest

from napari_attnseg.core import ranking
from napari_attnseg.records import DenseMaps, PlaneKey


def two_objects(torn=False):
    """A sure object 3 and an object 8; with ``torn``, each pixel of 8 votes half way to a rival seed."""
    labels = np.zeros((40, 60), dtype=np.int32)
    labels[10:22, 8:20] = 3
    labels[10:22, 36:48] = 8
    y, x = np.indices(labels.shape).astype(np.float32)
    offset = np.zeros((2, *labels.shape), dtype=np.float32)
    for label, (cy, cx) in ((3, (15, 13)), (8, (15, 41))):
        here = labels == label
        offset[0][here], offset[1][here] = cy - y[here], cx - x[here]
    if torn:
        left, right = (labels == 8) & (x < 42), (labels == 8) & (x >= 42)
        offset[1][left], offset[1][right] = 39 - x[left], 44 - x[right]
        offset[1][(labels == 8) & (x == 41)] = 0.5
    size = np.full(labels.shape, 12, dtype=np.float32)
    foreground = np.where(labels > 0, 0.97, 0.02).astype(np.float32)
    return labels, DenseMaps(foreground, foreground, size, offset)


def margin(labels, maps):
    ids = ranking.ids_of(labels)
    return ranking.mean_by_object(ranking.pixel_doubt(maps), labels, ids)


def test_an_object_torn_between_seeds_has_a_small_margin():
    sure = margin(*two_objects())
    torn = margin(*two_objects(torn=True))
    assert (sure < 0.1).all()
    assert torn[0] == pytest.approx(sure[0], abs=1e-3)
    assert torn[1] > sure[1] + 0.02
    labels, maps = two_objects()
    faint = DenseMaps(np.where(labels == 8, 0.6, maps.foreground), maps.distance, maps.size, maps.offset)
    assert margin(labels, faint)[1] == pytest.approx(0.8, abs=0.05)


def test_disagreement_is_one_less_the_mean_best_iou():
    labels, _ = two_objects()
    same = np.where(labels == 3, 1, np.where(labels == 8, 2, 0)).astype(np.int32)
    half = same.copy()
    half[10:22, 42:48] = 3  # object 8 in two halves
    np.testing.assert_allclose(ranking.disagreement(labels, [same]), [0, 0])
    np.testing.assert_allclose(ranking.disagreement(labels, [same, half]), [0, 0.25])
    np.testing.assert_allclose(ranking.disagreement(labels, [np.zeros_like(same)]), [1, 1])


def test_novelty_is_a_rank_away_from_what_is_labelled():
    embedding = np.array([[1, 1, 0], [0, 0.2, 1]], dtype=np.float32)
    np.testing.assert_allclose(ranking.novelty(embedding, embedding[:, :1]), [0, 0.5, 1])
    np.testing.assert_allclose(ranking.novelty(embedding, embedding[:, 2:]), [1, 0.5, 0])
    assert ranking.novelty(embedding, None)[2] == 1  # farthest from the mean
    np.testing.assert_allclose(ranking.novelty(embedding[:, :1], None), [0])


def test_the_score_joins_the_doubts_and_says_which_is_largest():
    one = np.ones(2, dtype=np.float32)
    doubts = ranking.Doubts(np.array([3, 8]), 0.5 * one, np.array([0.0, 0.8], np.float32), one)
    np.testing.assert_allclose(doubts.score, [1 - 0.5 * 0.75, 1 - 0.5 * 0.2 * 0.75], rtol=1e-6)
    assert doubts.why(0) == "torn between seeds"
    assert doubts.why(1) == "flipped views disagree"
    assert (ranking.Doubts(doubts.index, doubts.margin).score == doubts.margin).all()


def test_suspects_have_the_box_of_their_object():
    labels, maps = two_objects()
    doubts = ranking.Doubts(ranking.ids_of(labels), margin(labels, maps))
    found = ranking.suspects(labels, doubts)
    assert [(s.label, s.box) for s in found] == [(3, (10, 8, 22, 20)), (8, (10, 36, 22, 48))]
    (moved,) = [ranking.moved(s, (100, 200), PlaneKey((2,))) for s in found[:1]]
    assert moved.box == (110, 208, 122, 220)
    assert moved.plane == PlaneKey((2,))


def test_unlabelled_places_that_the_network_or_the_views_see():
    labels, maps = two_objects()
    none = np.zeros_like(labels)
    gone = np.where(labels == 3, 3, 0)
    (missing,) = ranking.missed(maps, gone)
    assert missing.box == (10, 36, 22, 48)
    assert missing.score > 0.8
    assert len(ranking.missed(maps, none)) == 2
    assert ranking.missed(maps, labels) == []  # a rim is no object
    dark = DenseMaps(np.zeros_like(maps.foreground), maps.distance, maps.size, maps.offset)
    assert ranking.missed(dark, none) == []
    seen = ranking.missed(dark, none, [labels, labels, none])
    assert sorted(s.score for s in seen) == pytest.approx([2 / 3, 2 / 3])


def test_fields_are_ordered_by_the_mean_score_of_what_lies_in_them():
    def suspect(y, x, score):
        return ranking.Suspect("object", 1, (y, x, y + 10, x + 10), score, "")

    found = ranking.fields(
        (128, 256), [suspect(5, 5, 0.2), suspect(20, 30, 0.4), suspect(100, 200, 0.9)], diameter=16
    )
    assert [round(s.score, 3) for s in found] == [0.9, 0.3]
    assert found[0].box == (0, 128, 128, 256)
    assert "2 objects" in found[1].why
    assert ranking.fields((128, 256), [], 16) == []


def test_nothing_labelled_is_no_error():
    _, maps = two_objects()
    empty = np.zeros((40, 60), dtype=np.int32)
    assert len(margin(empty, maps)) == 0
    assert ranking.suspects(empty, ranking.Doubts(ranking.ids_of(empty), margin(empty, maps))) == []
    assert len(ranking.disagreement(empty, [empty])) == 0
