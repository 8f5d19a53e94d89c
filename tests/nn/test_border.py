"""A tuned network is made stricter where it finds more than the user left."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from napari_attnseg.core.corrections import compare_labels, known_mask
from napari_attnseg.core.objects import measure
from napari_attnseg.nn.border import SHIFTS, count_left, find_shift, lower, lowered
from napari_attnseg.nn.model import build_model
from napari_attnseg.records import DenseMaps, ModelCard, Sample

SIDE, STEP = 192, 24


def discs(rows: range) -> np.ndarray:
    """Return discs of 16 pixels across, 8 in each of some rows of a grid."""
    y, x = np.mgrid[:SIDE, :SIDE]
    inside = np.hypot(y % STEP - 11.5, x % STEP - 11.5) <= 8
    number = (y // STEP) * 8 + x // STEP + 1
    return np.where(inside & np.isin(y // STEP, list(rows)), number, 0).astype(np.int32)


def engine_that_finds(sure: np.ndarray, unsure: np.ndarray, doubt: float = 0.82) -> SimpleNamespace:
    """Return an engine that finds some objects with .95 and others with ``doubt``."""
    both = np.maximum(sure, unsure)
    table = measure(both)
    foreground = np.where(sure > 0, 0.95, np.where(unsure > 0, doubt, 0.01)).astype(np.float32)
    at = np.stack(np.mgrid[:SIDE, :SIDE]).astype(np.float32)
    offset = (np.moveaxis(table.seed[both], -1, 0) - at) * (both > 0)
    maps = DenseMaps(foreground, table.depth, table.diameter[both], offset)
    return SimpleNamespace(maps=lambda *_a, **_k: maps, card=ModelCard("fake", "Fake", {}, diameter=24.0))


def corrected(before: np.ndarray, after: np.ndarray) -> Sample:
    changes = compare_labels(before, after)
    known = known_mask(before, after, changes)
    image = np.zeros((1, SIDE, SIDE), np.float32)
    return Sample(image, after, known, before=before, objects=changes.corrected)


def left() -> Sample:
    """Return what is left of six rows of which the user erased one disc and drew another."""
    found, drawn = discs(range(6)), discs(range(1))
    before = np.where(found == 1, 0, found)
    return corrected(before, np.where(found == 20, 0, np.where(drawn == 1, 1, found)))


def test_it_is_as_strict_as_the_labels_left_ask_for():
    sample, all_of_it = left(), discs(range(8))
    shown = discs(range(6))
    kept = np.where(shown == 20, 0, shown)
    others = np.where(kept > 0, 0, all_of_it)
    # an object is faint below .8, a logit of 1.39: one of 1.52 (.82) becomes so with .5, of 1.99 (.88) with 1
    assert find_shift(engine_that_finds(kept, others, 0.82), [sample]) == 0.5
    assert find_shift(engine_that_finds(kept, others, 0.88), [sample]) == 1.0
    assert find_shift(engine_that_finds(kept, others, 0.95), [sample]) == 0.0  # nothing tells them apart


@pytest.mark.parametrize(("count", "shift"), [(1, 0.0), (2, 0.5)])
def test_a_gain_of_one_object_changes_nothing(count, shift):
    """47 labels are left: a false object is .0208 of AP, less than 1 / 47."""
    shown = discs(range(6))
    kept = np.where(shown == 20, 0, shown)
    others = np.where((discs(range(8)) > 48) & (discs(range(8)) <= 48 + count), discs(range(8)), 0)
    assert find_shift(engine_that_finds(kept, others), [left()]) == shift


def test_where_it_finds_what_was_left_nothing_changes():
    shown = discs(range(6))
    kept = np.where(shown == 20, 0, shown)
    nothing = np.zeros_like(kept)
    sure = engine_that_finds(kept, nothing)
    assert [count_left(kept, left()).truth, count_left(kept, left()).pred] == [47, 47]
    assert find_shift(engine_that_finds(nothing, kept), [left()]) == 0.0  # stricter, all would be lost
    assert find_shift(sure, [left()], stop=lambda: True) == 0.0


def test_few_objects_do_not_tell():
    few, more = discs(range(2)), discs(range(8))
    before = np.where(few == 1, 0, few)
    sample = corrected(before, few)
    assert find_shift(engine_that_finds(few, np.where(few > 0, 0, more)), [sample]) == 0.0


def test_what_is_not_labelled_counts_only_where_most_was_left():
    """A user who adds more than there was has not looked at the rest."""
    before, after = discs(range(1)), discs(range(4))
    sample = corrected(before, after)
    found = np.maximum(after, discs(range(8)))
    assert count_left(found, sample).pred == 24  # those that were drawn, and nothing elsewhere
    before, after = discs(range(4)), discs(range(5))
    counts = count_left(found, corrected(before, after))
    assert (counts.pred, counts.truth) == (64, 40)


def test_without_a_kept_prediction_only_known_objects_count():
    sample = Sample(np.zeros((1, SIDE, SIDE), np.float32), discs(range(3)), discs(range(3)) > 0)
    counts = count_left(discs(range(8)), sample)
    assert (counts.pred, counts.truth) == (24, 24)


@pytest.mark.parametrize("shift", SHIFTS)
def test_weights_are_lowered_as_maps_are(shift: float):
    torch.manual_seed(0)
    model = build_model("attnseg", context="none", widths=(32, 32, 32, 32)).eval()
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        before = model(x)
        model.load_state_dict(lower(model.state_dict(), shift))
        after = model(x)
    torch.testing.assert_close(after.foreground, before.foreground - shift)
    for name in ("distance", "size", "offset", "embedding"):
        assert torch.equal(getattr(after, name), getattr(before, name))
    p, flat = (torch.sigmoid(o.foreground)[0, 0].numpy() for o in (before, after))
    maps = DenseMaps(p, p, p, np.stack([p, p]))
    np.testing.assert_allclose(lowered(maps, shift).foreground, flat, atol=1e-6)


def test_a_network_with_another_head_stays_as_it_is():
    weights = {"other.bias": torch.zeros(3)}
    assert lower(weights, 1.0) is weights
