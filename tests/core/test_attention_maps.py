"""Maps over the field against plain loops over explicit rows."""

from __future__ import annotations

import numpy as np
import pytest

from napari_attnseg.core import attention_maps as maps
from napari_attnseg.core.attention import AttentionTape
from napari_attnseg.core.grid import TokenGrid
from napari_attnseg.errors import InputError
from napari_attnseg.jobs.progress import drive
from tests.core.test_attention import block, parts_of, with_own
from tests.core.test_attention_objects import scene, tape_of


def rows_of(b, head):
    gh, gw = b.grid.shape
    flat = np.arange(gh * gw)
    weights, share = b.weights(flat, head)
    dense = np.stack([b.scatter(flat[i : i + 1], weights[i : i + 1]) for i in flat])
    return dense, share


def compute(tape, kind, name, **more):
    return drive(maps.field_map(tape, kind, name, **more))


@pytest.mark.parametrize("window", [None, 1])
@pytest.mark.parametrize("head", ["mean", "1"])
def test_received_entropy_and_distance(window, head):
    b = block((5, 6), window)
    tape = AttentionTape({"b": b})
    dense, share = rows_of(b, head)
    received = compute(tape, "received", "b", head=head)
    np.testing.assert_allclose(received.values.ravel(), dense.mean(axis=0), atol=1e-6)
    assert received.exact

    distance = compute(tape, "distance", "b", head=head, spacing=(2.0, 0.5), unit="µm")
    entropy = compute(tape, "entropy", "b", head=head)
    for i in range(30):
        y, x = divmod(i, 6)
        away = [np.hypot((j // 6 - y) * 32, (j % 6 - x) * 8) for j in range(30)]
        assert distance.values.flat[i] == pytest.approx(dense[i] @ away / dense[i].sum(), rel=1e-4)
        both = np.append(dense[i], share[i])
        options = (dense[i] > 0).sum() + 1
        nats = -(both[both > 0] * np.log(both[both > 0])).sum()
        assert entropy.values.flat[i] == pytest.approx(nats / np.log(options), rel=1e-4)
    assert distance.unit == "µm"
    assert entropy.limits == (0.0, 1.0)


def test_even_attention_has_entropy_one():
    b = block((4, 4), registers=1)
    b.q[:] = 0
    entropy = compute(AttentionTape({"b": b}), "entropy", "b")
    np.testing.assert_allclose(entropy.values, 1, atol=1e-5)


def test_many_tokens_are_asked_on_a_coarser_grid_and_the_note_says_so():
    b = block((70, 65))
    found = compute(AttentionTape({"b": b}), "entropy", "b", head="0")
    assert not found.exact
    assert "every 2nd position" in found.note
    assert found.grid.shape == found.values.shape == (35, 33)
    assert found.grid.stride == 2 * b.grid.stride
    at = b.grid.pixel_of((21, 31))  # asked for the cell whose centre token is (2 * 10 + 1, 2 * 15 + 1)
    assert found.grid.token_of(at) == (10, 15)
    weights, share = b.row((round(at[0]), round(at[1])), "0")
    both = np.append(weights.ravel(), share)
    wanted = -(both * np.log(both)).sum() / np.log(len(both))
    assert found.values[10, 15] == pytest.approx(wanted, rel=1e-4)


def chain():
    """Return a tape of a coarse global block and a fine local one over one field."""
    coarse = block((3, 4), seed=1)
    fine = block((6, 8), 1, seed=2)
    field = (48, 64)
    coarse.grid = TokenGrid(16, 1.0, (3, 4), (0, 0), field)
    fine.grid = TokenGrid(8, 1.0, (6, 8), (0, 0), field)
    return AttentionTape({"first": coarse, "second": fine})


def walked(mass, sigma):
    """Spread a mass (gh, gw) by a normal law over steps of whole tokens, reflected at the border."""
    steps = np.arange(-40, 41)
    chance = np.exp(-0.5 * (steps / sigma) ** 2)
    chance /= chance.sum()
    for axis in (0, 1):
        out = np.zeros_like(mass)
        n = mass.shape[axis]
        for at in range(n):
            for step, p in zip(steps, chance, strict=True):
                to = (at + step) % (2 * n)  # ... 1 0 | 0 1 2 ...
                to = to if to < n else 2 * n - 1 - to
                if axis == 0:
                    out[to] += p * mass[at]
                else:
                    out[:, to] += p * mass[:, at]
        mass = out
    return mass


def test_rollout_by_weights_is_the_product_of_the_matrices():
    tape = chain()
    a, lost_a = rows_of(tape.blocks["first"], "mean")
    b, lost_b = rows_of(tape.blocks["second"], "mean")
    start = np.zeros(48)
    start[2 * 8 + 5] = 1
    fine = 0.5 * start + 0.5 * start @ b
    coarse = fine.reshape(3, 2, 4, 2).sum(axis=(1, 3)).ravel()
    wanted = 0.5 * coarse + 0.5 * coarse @ a
    found = drive(maps.rollout(tape, (2 * 8 + 3, 5 * 8 + 1)))
    np.testing.assert_allclose(found.values.ravel(), wanted, atol=1e-6)
    assert found.block == "second → first"
    lost = 0.5 * (start @ lost_b) + 0.5 * (coarse @ lost_a)
    assert found.values.sum() + lost == pytest.approx(1, abs=1e-5)
    assert f"took {lost:.0%}" in found.note
    assert "by plain weights" in found.note
    assert "convolutions are left out" in found.note


def with_parts():
    """Return a chain whose blocks keep their parts, with convolutions around them, and the arrays behind."""
    coarse, fine = with_own((3, 4), seed=1), with_own((6, 8), 1, seed=2)
    tape = chain()
    for made, name, spread in ((coarse, "first", 20.0), (fine, "second", 6.0)):
        made[0].name, made[0].grid, made[0].spread = name, tape.blocks[name].grid, spread
    return AttentionTape({"first": coarse[0], "second": fine[0]}, spread=4.0), coarse, fine


@pytest.mark.parametrize("token", [(0, 0), (2, 5), (5, 7)])
@pytest.mark.parametrize("head", ["mean", "2"])
def test_rollout_by_values_follows_the_parts_and_the_convolutions(token, head):
    tape, coarse, fine = with_parts()
    start = np.zeros((6, 8))
    start[token] = 1
    mass, lost = walked(start, 4 / 8), 0.0
    for (b, added, features), stride in ((fine, 6 / 16), (coarse, 20 / 16)):
        gh, gw = b.grid.shape
        after = np.zeros((gh, gw))
        for n in range(gh * gw):
            here = divmod(n, gw)
            kept, others, left = parts_of(b, added, features, here, head)
            after[here] += mass[here] * kept
            after += mass[here] * others.reshape(gh, gw)
            lost += mass[here] * left
        if b is fine[0]:
            mass = walked(after, 6 / 8).reshape(3, 2, 4, 2).sum(axis=(1, 3))
        else:
            mass = walked(after, stride)
    row = maps.rollout_row(tape, (token[0] * 8 + 3, token[1] * 8 + 1), head)
    np.testing.assert_allclose(row.weights, mass, atol=2e-5)
    assert row.register_share == pytest.approx(lost, abs=1e-4)
    assert (row.block, row.kind, row.head, row.value) == ("rollout", "rollout", head, True)
    note = drive(maps.rollout(tape, (3, 4), head)).note
    assert "by values" in note
    assert f"spread it by {np.sqrt(20**2 + 6**2 + 4**2):.0f} px" in note


def test_a_row_at_a_place_is_of_a_block_or_of_all():
    tape = with_parts()[0]
    of_all = maps.row_at(tape, "rollout", (3, 4), "1")
    np.testing.assert_array_equal(of_all.weights, maps.rollout_row(tape, (3, 4), "1").weights)
    assert maps.row_at(tape, "first", (3, 4), "1", True).block == "first"
    for head in ("9", "x"):
        with pytest.raises(InputError, match="no attention head"):
            maps.row_at(tape, "rollout", (3, 4), head)
    with pytest.raises(InputError, match="outside the field"):
        maps.row_at(tape, "rollout", (300, 4))


def test_rollout_of_a_mask_is_the_mean_of_its_pixels():
    tape = chain()
    mask = np.zeros((48, 64), dtype=bool)
    mask[3, 4] = mask[40, 60] = True
    one, two = (drive(maps.rollout(tape, p)).values for p in ((3, 4), (40, 60)))
    np.testing.assert_allclose(drive(maps.rollout(tape, mask)).values, (one + two) / 2, atol=1e-6)
    everywhere = drive(maps.rollout(tape)).values
    assert everywhere.sum() == pytest.approx(compute(tape, "rollout", "first").values.sum())
    assert not np.allclose(everywhere, (one + two) / 2)


def test_rollout_goes_by_weights_where_a_block_keeps_no_parts():
    tape = with_parts()[0]
    half = AttentionTape({"first": tape.blocks["first"], "second": chain().blocks["second"]})
    assert maps.has_parts(tape)
    assert not maps.has_parts(half)
    assert not maps.has_parts(AttentionTape({"readout": readout()}))
    assert not maps.rollout_row(half, (3, 4)).value
    plain, weighed = (maps.rollout_row(tape, (3, 4), value=v) for v in (False, True))
    assert (plain.value, weighed.value) == (False, True)
    assert not np.allclose(plain.weights, weighed.weights)
    with pytest.raises(InputError, match="keeps no values"):
        drive(maps.rollout(half, (3, 4), value=True))


def readout():
    return tape_of(scene(wild=0.3)[1]).blocks["readout"]


def test_each_block_has_its_maps():
    tape = AttentionTape({**chain().blocks, "readout": readout()})
    assert maps.kinds_of(tape, "first") == ("received", "entropy", "distance", "rollout")
    assert maps.kinds_of(tape, "readout") == ("received", "distance", "uncertainty")
    assert set(maps.kinds_of(tape, "first") + maps.kinds_of(tape, "readout")) == set(maps.KINDS)
    alone = AttentionTape({"first": chain().blocks["first"]})
    assert "rollout" not in maps.kinds_of(alone, "first")
    with pytest.raises(InputError, match="no map 'entropie'") as caught:
        compute(tape, "entropie", "first")
    assert "entropy" in caught.value.hint
    with pytest.raises(InputError, match="no map 'entropy'"):
        compute(tape, "entropy", "readout")
    with pytest.raises(InputError, match="no attention blocks"):
        drive(maps.rollout(AttentionTape({"readout": readout()})))


def test_readout_maps():
    b = readout()
    tape = AttentionTape({"readout": b})
    unsure = compute(tape, "uncertainty", "readout")
    assert unsure.values.shape == b.grid.shape
    voting = np.zeros(b.grid.shape, dtype=bool)
    voting.ravel()[b.seeds.pixels] = True
    assert (unsure.values[~voting] == 0).all()
    assert ((unsure.values >= 0) & (unsure.values <= 1)).all()
    away = compute(tape, "distance", "readout", spacing=(2.0, 2.0))
    n = int(np.flatnonzero(b.seeds.best < len(b.seeds.position))[30])
    pixel, seed = b.seeds.pixels[n], b.seeds.position[b.seeds.best[n]]
    y, x = divmod(int(pixel), b.grid.shape[1])
    assert away.values[y, x] == pytest.approx(2 * np.hypot(y - seed[0], x - seed[1]), rel=1e-5)
