"""Every fast attention path agrees with its explicit twin, and the tape with both."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_attnseg.core.attention import QKBlock
from napari_attnseg.core.grid import TokenGrid
from napari_attnseg.nn import attention
from napari_attnseg.nn.attention import ContextBlock, GlobalAttention, Kept, LocalAttention, SoftmaxGate

SHAPES = [(1, 1), (1, 17), (5, 3), (8, 8), (9, 16), (13, 21)]


def wake(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Give every parameter a value that matters (biases and registers start at zero)."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return module


def block_of(kept: Kept) -> QKBlock:
    grid = TokenGrid(1, 1.0, kept.shape, (0, 0), kept.shape)
    arrays = [t.detach().numpy() for t in (kept.q[0], kept.k[0], kept.registers)]
    bias = None if kept.bias is None else kept.bias.detach().numpy()
    return QKBlock("b", kept.kind, kept.q.shape[1], grid, *arrays, kept.scale, kept.window, bias)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", [LocalAttention, GlobalAttention, SoftmaxGate])
def test_fast_equals_explicit(kind: type, shape: tuple[int, int]) -> None:
    module = wake(kind(64))
    x = torch.randn(2, *shape, 64)
    with torch.no_grad():
        torch.testing.assert_close(module(x), module.forward_explicit(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pool", [1, 2, 3, 4])
@pytest.mark.parametrize("shape", SHAPES)
def test_shared_keys_equal_the_explicit_softmax(shape: tuple[int, int], pool: int) -> None:
    """A key that positions share weighs as often as there are such positions, at odd edges, too."""
    module = wake(GlobalAttention(64))
    x = torch.randn(2, *shape, 64)
    with torch.no_grad():
        torch.testing.assert_close(
            module(x, None, pool), module.forward_explicit(x, pool), atol=1e-5, rtol=1e-5
        )


def test_big_fields_share_keys(monkeypatch) -> None:
    module = wake(GlobalAttention(32))
    assert [module.pooled(n) for n in (1, 4096, 4097, 16384)] == [1, 1, 2, 2]
    assert [module.pooled(n, 3) for n in (1, 4097)] == [3, 3]
    x, tape = torch.randn(1, 8, 10, 32), []
    with torch.no_grad():
        every = module(x)
        monkeypatch.setattr(attention, "_MOST_KEYS", 79)
        shared = module(x, tape)
        assert torch.equal(shared, module(x, None, 2))
    assert (shared - every).abs().max() > 1e-4
    blocks = tape[0].k.unflatten(2, (4, 2, 5, 2))  # the explorer's rows are those of the shared keys
    assert torch.equal(blocks[:, :, :, 0, :, 0], blocks[:, :, :, 1, :, 1])


@pytest.mark.parametrize("radius", [1, 3, 9])
@pytest.mark.parametrize("shape", SHAPES)
def test_strips_equal_tiles(shape: tuple[int, int], radius: int) -> None:
    """Without gradients local attention takes another way on a processor; batches, votes and borders too."""
    module = wake(LocalAttention(64, radius))
    with torch.no_grad():
        module.bias += torch.randn_like(module.bias)
    x, carried = torch.randn(2, *shape, 64), 100 * torch.randn(2, *shape, 3)
    plain, gathered = module.gather(x, carried)
    assert plain.requires_grad
    assert gathered is not None
    with torch.inference_mode():
        fast, found = module.gather(x, carried)
        alone, nothing = module.gather(x, None)
    assert nothing is None
    torch.testing.assert_close(fast, plain.detach(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(alone, fast)
    torch.testing.assert_close(found, gathered.detach(), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize(("kind", "pool"), [(LocalAttention, 1), (GlobalAttention, 1), (GlobalAttention, 2)])
def test_rows_of_the_tape_reproduce_the_output(kind: type, pool: int) -> None:
    module = wake(kind(64)).eval()
    x = torch.randn(1, 9, 11, 64)
    tape: list[Kept] = []
    with torch.no_grad():
        expected = module(x, tape, pool)
        _, _, v = module.split(x)
    block = block_of(tape[0])
    for y, c in [(0, 0), (8, 10), (4, 5), (0, 7)]:
        mixed = []
        for head in range(module.heads):
            weights, share = block.row((y, c), str(head))
            assert weights.sum() + share == pytest.approx(1, abs=1e-5)
            # the registers' own split over slots is not in the row: recompute it from the logits
            q = torch.from_numpy(block.q[head, y * 11 + c])
            slots = torch.softmax(tape[0].registers[head] @ q * block.scale, 0) * share
            mixed.append(torch.from_numpy(weights).reshape(-1) @ v[0, head] + slots @ module.register_v[head])
        with torch.no_grad():
            out = module.proj(torch.cat(mixed))
        torch.testing.assert_close(out, expected[0, y, c], atol=1e-5, rtol=1e-5)


def test_local_row_is_zero_outside_the_window() -> None:
    module = wake(LocalAttention(32, radius=2))
    tape: list[Kept] = []
    with torch.no_grad():
        module(torch.randn(1, 12, 12, 32), tape)
    weights, _ = block_of(tape[0]).row((6, 1), "mean")
    outside = np.ones((12, 12), bool)
    outside[4:9, 0:4] = False
    assert (weights[outside] == 0).all()
    assert (weights[~outside] > 0).all()


@pytest.mark.parametrize("kind", [LocalAttention, GlobalAttention])
def test_received_is_the_mean_of_all_rows(kind: type) -> None:
    module = wake(kind(32))
    tape: list[Kept] = []
    with torch.no_grad():
        module(torch.randn(1, 7, 10, 32), tape)
    block = block_of(tape[0])
    rows = sum(block.row((y, x), "mean")[0] for y in range(7) for x in range(10)) / 70
    received, sampled = block.received("mean")
    assert not sampled
    np.testing.assert_allclose(received, rows, atol=1e-6)


def test_gate_keeps_its_scale_when_the_field_doubles() -> None:
    gate = wake(SoftmaxGate(32))
    x = torch.randn(1, 6, 8, 32)
    with torch.no_grad():
        once, twice = gate(x), gate(torch.cat([x, x], dim=2))
    torch.testing.assert_close(twice[:, :, :8], once, atol=1e-5, rtol=1e-5)
    assert once.abs().max() > 0.1  # and the scale is not zero


def test_local_attention_is_equivariant_to_a_shift() -> None:
    module = wake(LocalAttention(32, radius=2))
    x = torch.randn(1, 24, 24, 32)
    with torch.no_grad():
        a, b = module(x), module(x.roll((5, 3), (1, 2)))
    inner = b[:, 5 + 2 : -2, 3 + 2 : -2]
    torch.testing.assert_close(inner, a.roll((5, 3), (1, 2))[:, 7:-2, 5:-2], atol=1e-5, rtol=1e-5)


def test_global_attention_sees_positions() -> None:
    """Without rotary positions a permutation of the input would only permute the output."""
    module = wake(GlobalAttention(32))
    x = torch.randn(1, 4, 4, 32)
    flipped = x.flip(2)
    with torch.no_grad():
        assert (module(flipped).flip(2) - module(x)).abs().max() > 1e-4


def test_pooled_keys_change_little_on_smooth_maps() -> None:
    module = wake(GlobalAttention(32))
    x = torch.nn.functional.interpolate(torch.randn(1, 32, 4, 4), (16, 16), mode="bilinear").permute(
        0, 2, 3, 1
    )
    with torch.no_grad():
        full, pooled = module(x), module(x, None, 2)
    assert pooled.shape == full.shape
    assert (pooled - full).abs().mean() < 0.1 * full.abs().mean()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("bias", [0.0, 39.0, 120.0])
def test_local_attention_without_gradients_bears_any_bias_and_type(bias: float, dtype: torch.dtype) -> None:
    module = wake(LocalAttention(32))
    with torch.no_grad():
        module.bias[0, 3, 4] = bias
    module.to(dtype)
    x, carried = torch.randn(1, 9, 11, 32).to(dtype), torch.randn(1, 9, 11, 2)
    out, found = module.gather(x, carried)
    with torch.no_grad():
        fast, gathered = module.gather(x, carried)
    assert fast.dtype == out.dtype == dtype
    tolerance = 0.05 if dtype == torch.bfloat16 else 1e-4
    torch.testing.assert_close(fast, out.detach(), atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(gathered, found.detach(), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("kind", ["local", "global", "gate"])
def test_context_block_trains(kind: str) -> None:
    block = ContextBlock(kind, 32)
    out = block(torch.randn(2, 32, 9, 7))
    out.square().mean().backward()
    assert out.shape == (2, 32, 9, 7)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in block.parameters())


def test_fully_masked_rows_of_sdpa_are_zero_not_nan() -> None:
    """The halo tiles rely on open registers; this pins what torch does where nothing is open."""
    q = torch.randn(1, 1, 2, 32)
    mask = torch.tensor([[0.0, 0.0], [-torch.inf, -torch.inf]])
    out = torch.nn.functional.scaled_dot_product_attention(q, q, q, attn_mask=mask)
    assert torch.isfinite(out[0, 0, 0]).all()
    assert (torch.nan_to_num(out[0, 0, 1]) == 0).all()


def test_memory_of_local_attention_is_linear() -> None:
    """The largest tensor that is made grows like the number of positions, not like its square."""
    module = LocalAttention(32)

    def largest(side: int) -> int:
        with torch.profiler.profile(profile_memory=True) as prof, torch.no_grad():
            module(torch.randn(1, side, side, 32))
        return max(e.cpu_memory_usage for e in prof.events())

    assert largest(64) < 5 * largest(32)  # four times the positions; a full matrix would need 16
