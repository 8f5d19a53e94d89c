from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from napari_attnseg.core import attention_objects as objects
from napari_attnseg.core.attention import AttentionTape
from napari_attnseg.core.attention_compare import compare_rows
from napari_attnseg.core.grid import TokenGrid
from napari_attnseg.core.postprocess import REACH, SHARPNESS, find_seeds, tidy
from napari_attnseg.core.seedblock import SeedBlock
from napari_attnseg.errors import InputError
from napari_attnseg.params import SegmentParams
from napari_attnseg.records import DenseMaps
from tests.core.test_attention import block, valued

SHAPE = (60, 80)


def scene(wild=0.0):
    """Return labels of three discs, two of which touch, and dense maps that vote for their middles.

    A share ``wild`` of the pixels votes elsewhere.
    """
    y, x = np.indices(SHAPE)
    labels = np.zeros(SHAPE, dtype=np.int32)
    middles = [(20, 20), (20, 38), (45, 60)]
    for number, (cy, cx) in enumerate(middles, start=1):
        labels[((y - cy) ** 2 + (x - cx) ** 2 <= 100) & (labels == 0)] = number
    rng = np.random.default_rng(0)
    offset = np.zeros((2, *SHAPE), dtype=np.float32)
    for number, (cy, cx) in enumerate(middles, start=1):
        mine = labels == number
        offset[0][mine], offset[1][mine] = (cy - y)[mine], (cx - x)[mine]
    astray = rng.random(SHAPE) < wild
    offset[:, astray] += rng.uniform(-14, 14, size=(2, int(astray.sum()))).astype(np.float32)
    inside = (labels > 0).astype(np.float32)
    maps = DenseMaps(inside, inside, np.full(SHAPE, 20, dtype=np.float32), offset)
    return labels, maps


def tape_of(maps, **seeds):
    readout = SeedBlock(TokenGrid(1, 1.0, SHAPE, (0, 0), SHAPE), find_seeds(maps, **seeds))
    network = valued((4, 5))[0]
    network.grid = TokenGrid(16, 1.0, (4, 5), (0, 0), SHAPE)
    local = block((8, 10), 1)
    local.grid = TokenGrid(8, 1.0, (8, 10), (0, 0), SHAPE)
    return AttentionTape({"wide": network, "near": local, "readout": readout})


@pytest.mark.parametrize("name", ["wide", "near", "readout"])
def test_the_row_of_an_object_is_the_mean_over_its_pixels(name):
    labels, maps = scene(wild=0.2)
    tape = tape_of(maps)
    mask = labels == 1
    found = objects.object_row(tape, name, mask)
    rows = [tape.row(name, (int(y), int(x))) for y, x in np.argwhere(mask)]
    np.testing.assert_allclose(found.weights, np.mean([r.weights for r in rows], axis=0), atol=1e-5)
    assert found.register_share == pytest.approx(np.mean([r.register_share for r in rows]), abs=1e-5)
    assert mask[found.query]


def test_values_of_objects_and_objects_outside():
    labels, maps = scene()
    tape = tape_of(maps)
    plain, weighed = (objects.object_row(tape, "wide", labels == 1, value=v) for v in (False, True))
    assert weighed.value
    assert not np.allclose(plain.weights, weighed.weights)
    for name in ("near", "readout"):
        with pytest.raises(InputError, match="no values"):
            objects.object_row(tape, name, labels == 1, value=True)
    with pytest.raises(InputError, match="No pixel of the object"):
        objects.object_row(tape, "wide", labels == 9)


def test_who_attends_to_whom():
    labels, maps = scene(wild=0.2)
    tape = tape_of(maps)
    one, two = labels == 1, labels == 2
    found = objects.pair(tape, "wide", one, two)
    row = objects.object_row(tape, "wide", one)
    grid = tape.blocks["wide"].grid
    cover = np.zeros(grid.shape)
    for y, x in np.argwhere(two):
        cover[grid.token_of((int(y), int(x)))] += 1
    size = np.zeros(grid.shape)
    for y, x in np.ndindex(*SHAPE):
        size[grid.token_of((y, x))] += 1
    assert found.a_to_b == pytest.approx((row.weights * cover / size).sum(), abs=1e-5)
    assert found.area_b == pytest.approx(two.mean())
    readout = objects.pair(tape, "readout", one, two)
    assert readout.a_to_a > 0.8 > 0.1 > readout.a_to_b
    assert readout.a_to_a + readout.a_to_b + readout.registers_a <= 1 + 1e-5


@pytest.mark.parametrize("split", [-0.5, 0.0, 0.6])
def test_the_assignment_makes_the_labels_of_the_readout(split):
    from napari_attnseg.core.postprocess import read_out

    _, maps = scene(wild=0.3)
    params = SegmentParams(split=split, threshold=0.4)
    found = objects.assignment(tape_of(maps, threshold=0.4, split=split))
    np.testing.assert_array_equal(tidy(found.labels, params), read_out(maps, params)[0])


def test_first_and_second_choice_of_every_pixel():
    _, maps = scene(wild=0.4)
    tape = tape_of(maps)
    b = tape.blocks["readout"]
    found = objects.assignment(tape)
    voted = np.zeros(SHAPE, dtype=bool)
    voted.ravel()[b.seeds.pixels] = True
    assert (found.runner_up[~voted] == -1).all()
    assert (found.margin[~voted] == 0).all()
    kinds = set()
    for n, pixel in enumerate(b.seeds.pixels):
        y, x = divmod(int(pixel), SHAPE[1])
        square = ((b.seeds.position - b.seeds.vote[n]) ** 2).sum(axis=1) / b.seeds.diameter[n] ** 2
        logits = np.append(-SHARPNESS * square, -SHARPNESS * REACH**2)
        weights = np.exp(logits - logits.max())
        weights /= weights.sum()
        first, second, third = np.argsort(-weights, kind="stable")[:3]
        names = [(s + 1) % len(weights) for s in (first, second)]
        assert found.margin[y, x] == pytest.approx(weights[first] - weights[second], abs=2e-3)
        apart = weights[first] - weights[second] > 1e-3 and weights[second] > 1.001 * weights[third]
        if apart and weights[second] > 1e-6:  # which of two equal ones comes second is nobody's business
            assert (found.labels[y, x], found.runner_up[y, x]) == tuple(names)
            kinds.add((names[0] == 0, names[1] == 0))
    assert len(kinds) >= 2  # seeds before the background, and seeds before seeds
    np.testing.assert_allclose(found.uncertainty[voted], 1 - found.margin[voted])


def test_seeds_are_named_by_the_users_labels():
    labels, maps = scene()
    found = objects.assignment(tape_of(maps))
    renamed = np.array([0, 70, 5, 33], dtype=np.int32)[labels]
    names = objects.seed_labels(found, renamed)
    for (y, x), name in zip(found.seeds.astype(int), names, strict=True):
        assert renamed[y, x] == name
    assert sorted(names) == [5, 33, 70]
    assert (objects.seed_labels(found, np.zeros_like(renamed)) == 0).all()


def test_how_sure_an_object_is():
    labels, maps = scene(wild=0.3)
    found = objects.assignment(tape_of(maps))
    one = objects.object_assignment(found, labels, 1)
    assert one.pixels == (labels == 1).sum()
    assert labels[one.least] == 1
    assert one.least_margin == found.margin[labels == 1].min() == found.margin[one.least]
    assert one.margin == pytest.approx(found.margin[labels == 1].mean())
    assert {name for name, _ in one.runner_ups} <= {0, 1, 2, 3}
    assert 0.9 < sum(share for _, share in one.runner_ups) <= 1.001
    y, x = found.seeds[one.seed].astype(int)
    assert labels[y, x] == 1
    with pytest.raises(InputError, match="Label 8"):
        objects.object_assignment(found, labels, 8)


def test_a_runner_up_without_a_label_is_not_the_background():
    labels, maps = scene(wild=0.3)
    found = objects.assignment(tape_of(maps))
    own = objects.object_assignment(found, labels, 1).seed + 1
    found = replace(found, labels=np.where(labels == 1, own, found.labels))  # no other seed won there
    before = dict(objects.object_assignment(found, labels, 1).runner_ups)
    after = dict(objects.object_assignment(found, np.where(labels == 2, 0, labels), 1).runner_ups)
    assert after[objects.DROPPED] == before[2] > 0
    assert after.get(0) == before.get(0)
    assert 2 not in after


def test_a_tape_without_a_readout_says_so():
    with pytest.raises(InputError, match="no readout"):
        objects.assignment(AttentionTape({"wide": block((3, 3))}))


def test_a_network_without_attention_exposes_none():
    readout = tape_of(scene()[1]).blocks["readout"]
    tape = AttentionTape({"readout": readout})
    assert not tape.exposed
    assert tape.field == ((0, 0), SHAPE)
    assert not tape.has_values("readout")


def test_two_rows_at_one_scale():
    _, maps = scene()
    tape, other = tape_of(maps), block((8, 10), seed=5)
    other.grid = TokenGrid(8, 1.0, (8, 10), (0, 0), SHAPE)
    a = tape.row("wide", (20, 20))
    b = AttentionTape({"wide": other}).row("wide", (20, 20))
    both = compare_rows(a, b)
    assert both.difference.shape == a.weights.shape
    assert both.difference.sum() == pytest.approx(b.weights.sum() - a.weights.sum(), abs=1e-5)
    assert both.b_limit == pytest.approx(both.limit / 4)  # its cells are four times smaller
    assert both.limit >= a.weights.max()
    assert both.b_limit >= b.weights.max() - 1e-7
    assert 0 < both.overlap < 1
    same = compare_rows(a, a)
    assert same.overlap == pytest.approx(1, abs=1e-5)
    assert np.abs(same.difference).max() == 0
