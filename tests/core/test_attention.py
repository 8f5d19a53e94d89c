from __future__ import annotations

import numpy as np
import pytest

from napari_attnseg.core import attention
from napari_attnseg.core.attention import AttentionTape, QKBlock, window_box
from napari_attnseg.core.grid import TokenGrid
from napari_attnseg.errors import InputError

HEADS, D = 3, 8


def block(shape, window=None, registers=4, seed=0):
    rng = np.random.default_rng(seed)
    n = shape[0] * shape[1]
    grid = TokenGrid(16, 1.0, shape, (32, 48), (shape[0] * 16, shape[1] * 16))
    q, k = (rng.normal(size=(HEADS, n, D)).astype(np.float16) for _ in range(2))
    reg = rng.normal(size=(HEADS, registers, D)).astype(np.float16)
    bias = None
    if window is not None:
        bias = rng.normal(size=(HEADS, 2 * window + 1, 2 * window + 1)).astype(np.float32)
    kind = "global" if window is None else "local"
    return QKBlock("b", kind, HEADS, grid, q, k, reg, D**-0.5, window, bias)


def naive(b, token, head):
    """Return weights and register share of one head with plain loops."""
    gh, gw = b.grid.shape
    q = b.q[head, token[0] * gw + token[1]].astype(float)
    logits = {}
    for y in range(gh):
        for x in range(gw):
            dy, dx = y - token[0], x - token[1]
            if b.window is not None and max(abs(dy), abs(dx)) > b.window:
                continue
            logits[y, x] = float(q @ b.k[head, y * gw + x].astype(float)) * b.scale
            if b.bias is not None:
                logits[y, x] += float(b.bias[head, dy + b.window, dx + b.window])
    for r in range(b.registers.shape[1]):
        logits["r", r] = float(q @ b.registers[head, r].astype(float)) * b.scale
    total = sum(np.exp(v) for v in logits.values())
    out, share = np.zeros((gh, gw)), 0.0
    for place, value in logits.items():
        if place[0] == "r":
            share += np.exp(value) / total
        else:
            out[place] = np.exp(value) / total
    return out, share


@pytest.mark.parametrize("window", [None, 1, 2])
@pytest.mark.parametrize("token", [(0, 0), (2, 3), (4, 5), (0, 5)])
@pytest.mark.parametrize("head", ["0", "2", "mean"])
def test_rows_agree_with_plain_loops(window, token, head):
    b = block((5, 6), window)
    weights, share = b.row((32 + token[0] * 16 + 3, 48 + token[1] * 16 + 15), head)
    heads = range(HEADS) if head == "mean" else [int(head)]
    wanted = [naive(b, token, h) for h in heads]
    np.testing.assert_allclose(weights, np.mean([w for w, _ in wanted], axis=0), atol=1e-5)
    assert share == pytest.approx(np.mean([s for _, s in wanted]), abs=1e-5)
    assert weights.sum() + share == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("window", [None, 2])
def test_received_is_the_mean_of_all_rows(window):
    b = block((5, 6), window)
    rows = [naive(b, (y, x), 1)[0] for y in range(5) for x in range(6)]
    received, sampled = b.received("1")
    np.testing.assert_allclose(received, np.mean(rows, axis=0), atol=1e-5)
    assert not sampled


def test_large_grids_are_sampled_and_say_so():
    b = block((65, 64))
    received, sampled = b.received("0")
    assert sampled
    assert 0 < received.sum() < 1  # the registers have the rest
    again, _ = b.received("0")
    np.testing.assert_array_equal(received, again)


def test_local_weights_are_zero_outside_the_window():
    weights, _ = block((9, 9), 2).row((32 + 4 * 16, 48 + 4 * 16), "mean")
    inside = np.zeros((9, 9), dtype=bool)
    inside[2:7, 2:7] = True
    assert (weights[~inside] == 0).all()
    assert (weights[inside] > 0).all()


def test_a_tape_answers_and_refuses_in_words():
    tape = AttentionTape({"global1": block((5, 6))})
    row = tape.row("global1", (40, 60), 1)
    assert (row.kind, row.head, row.query, row.window) == ("global", "1", (40, 60), None)
    np.testing.assert_array_equal(np.asarray(row), row.weights)
    with pytest.raises(InputError, match="no attention block") as caught:
        tape.row("global", (40, 60))
    assert "global1" in caught.value.hint
    with pytest.raises(InputError, match="outside the field"):
        tape.row("global1", (0, 0))
    for head in ("3", "-1", "two"):
        with pytest.raises(InputError, match="head"):
            tape.row("global1", (40, 60), head)


def valued(shape, window=None, seed=0):
    """Return a block with values, and what the values of each head add, (heads, N + R, C)."""
    b = block(shape, window, seed=seed)
    rng = np.random.default_rng(seed + 1)
    count, registers = shape[0] * shape[1], b.registers.shape[1]
    added = rng.normal(size=(HEADS, count + registers, 5)).astype(np.float32)
    gram = np.einsum("gnc,hnc->ngh", added, added)
    b.gram, b.register_gram = gram[:count], gram[count:]
    return b, added


@pytest.mark.parametrize("window", [None, 2])
@pytest.mark.parametrize("token", [(0, 0), (2, 3), (4, 5)])
@pytest.mark.parametrize("head", ["1", "mean"])
def test_value_rows_are_norms_of_what_is_added(window, token, head):
    b, added = valued((5, 6), window)
    weights, share = b.row((32 + token[0] * 16, 48 + token[1] * 16), head, value=True)
    heads = range(HEADS) if head == "mean" else [int(head)]
    sums = np.zeros((30 + 4, 5))
    for h in heads:
        q = b.q[h, token[0] * 6 + token[1]].astype(float)
        slots = np.exp(b.registers[h].astype(float) @ q * b.scale)
        row, left = naive(b, token, h)
        both = np.concatenate([row.ravel(), left * slots / slots.sum()])
        sums += both[:, None] * added[h]
    norms = np.linalg.norm(sums, axis=1)
    np.testing.assert_allclose(weights.ravel(), norms[:30] / norms.sum(), atol=1e-5)
    assert share == pytest.approx(norms[30:].sum() / norms.sum(), abs=1e-5)


def with_own(shape, window=None, seed=0):
    """Return a block that keeps its parts, what its values add, and the features it adds to, (N, C)."""
    b, added = valued(shape, window, seed)
    count = shape[0] * shape[1]
    features = np.random.default_rng(seed + 2).normal(size=(count, added.shape[2])).astype(np.float32)
    both = np.einsum("nc,hnc->nh", features, added[:, :count])
    b.own = np.concatenate([(features**2).sum(axis=1, keepdims=True), both], axis=1)
    return b, added, features


def parts_of(b, added, features, token, head):
    """Return what a token consists of, by plain loops: what stays, (N,) of the others, the registers."""
    gw = b.grid.shape[1]
    own = token[0] * gw + token[1]
    sums = np.zeros((added.shape[1], added.shape[2]))
    for h in range(HEADS) if head == "mean" else [int(head)]:
        slots = np.exp(b.registers[h].astype(float) @ b.q[h, own].astype(float) * b.scale)
        row, left = naive(b, token, h)
        sums += np.concatenate([row.ravel(), left * slots / slots.sum()])[:, None] * added[h]
    stays = np.linalg.norm(features[own] + sums[own])
    norms = np.linalg.norm(sums, axis=1)
    norms[own] = 0
    total = stays + norms.sum()
    count = len(features)
    return stays / total, norms[:count] / total, norms[count:].sum() / total


@pytest.mark.parametrize("window", [None, 2])
@pytest.mark.parametrize("head", ["1", "mean"])
def test_parts_are_norms_of_what_stays_and_of_what_comes(window, head):
    b, added, features = with_own((5, 6), window)
    stays, weights, share = b.parts(np.arange(30), head)
    np.testing.assert_allclose(stays + weights.sum(axis=1) + share, 1, atol=1e-5)
    for flat in (0, 5, 14, 29):
        kept, others, left = parts_of(b, added, features, divmod(flat, 6), head)
        assert stays[flat] == pytest.approx(kept, abs=1e-5)
        row = b.scatter(np.array([flat]), weights[flat : flat + 1])
        np.testing.assert_allclose(row, others, atol=1e-5)
        assert share[flat] == pytest.approx(left, abs=1e-5)
    with pytest.raises(InputError, match="keeps no values"):
        block((5, 6)).parts(np.array([0]), "mean")


def test_blocks_without_values_say_so():
    tape = AttentionTape({"plain": block((5, 6)), "valued": valued((5, 6))[0]})
    assert not tape.has_values("plain")
    assert tape.has_values("valued")
    assert tape.row("valued", (40, 60), value=True).value
    with pytest.raises(InputError, match="no values"):
        tape.row("plain", (40, 60), value=True)
    with pytest.raises(InputError, match="keeps no values"):
        block((5, 6)).weights(np.array([0]), "mean", value=True)


@pytest.mark.parametrize("window", [None, 2])
def test_many_rows_at_once_are_the_single_rows(window):
    b = block((5, 6), window)
    tokens = np.array([0, 7, 29])
    weights, share = b.weights(tokens, "mean")
    mass = np.array([0.2, 0.5, 0.3], dtype=np.float32)
    total = b.scatter(tokens, weights, mass).reshape(5, 6)
    rows = [b.row((32 + t // 6 * 16, 48 + t % 6 * 16), "mean") for t in tokens]
    wanted = sum(m * row for m, (row, _) in zip(mass, rows, strict=True))
    np.testing.assert_allclose(total, wanted, atol=1e-6)
    np.testing.assert_allclose(share, [s for _, s in rows], atol=1e-6)


def test_the_tape_knows_its_field_its_bytes_and_its_own_blocks():
    b = block((5, 6))
    tape = AttentionTape({"global1": b})
    assert tape.field == ((32, 48), (80, 96))
    assert tape.exposed
    assert tape.network == ("global1",)
    before = tape.nbytes
    assert before == b.q.nbytes + b.k.nbytes + b.registers.nbytes
    tape.row("global1", (40, 60))
    assert tape.nbytes > before  # promoted keys are counted


def test_the_outline_of_a_window_is_cut_at_the_border():
    assert window_box(block((5, 6)), (40, 60)) is None
    local = block((5, 6), 1)
    assert window_box(local, (32 + 2 * 16, 48 + 3 * 16)) == (32 + 15.5, 48 + 31.5, 32 + 63.5, 48 + 79.5)
    assert window_box(local, (32, 48)) == (31.5, 47.5, 32 + 31.5, 48 + 31.5)


def test_softmax_gives_nothing_to_minus_infinity():
    out = attention.softmax(np.array([[0.0, -np.inf, 0.0]], dtype=np.float32))
    np.testing.assert_allclose(out, [[0.5, 0, 0.5]])
