from __future__ import annotations

import numpy as np
import pytest

from napari_attnseg.core import attention
from napari_attnseg.core.attention import AttentionTape, QKBlock
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


def test_softmax_gives_nothing_to_minus_infinity():
    out = attention.softmax(np.array([[0.0, -np.inf, 0.0]], dtype=np.float32))
    np.testing.assert_allclose(out, [[0.5, 0, 0.5]])
