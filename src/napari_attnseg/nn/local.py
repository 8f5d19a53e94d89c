"""Local attention on a processor, without gradients: a strip of query tiles at a time.

The logits are bounded (keys have unit length, queries at most ``_MAX_SHARPNESS``, :func:`usable` looks at
the bias), so their exponentials need no shift.  That lets the window be a factor, ``exp(bias)`` inside and 0
outside, one for all tiles, and the border of the image cost nothing: its padding carries neither value nor
weight.  With ``V' = [v, 1, c]``

    O = (exp(q k^T) * exp(bias)) V',    out = O_v / O_1,    gathered = O_c / O_1

A strip fits into the processor's cache; no matrix of all tiles is ever in memory.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

TILE = 8  # side of a query tile of local attention, positions
_MOST_BIAS = 40.0  # beyond it the exponentials could leave float32


def usable(x: Tensor, bias: Tensor) -> bool:
    """Tell whether :func:`attend_strips` may be called on ``x`` now, with biases that it can bear."""
    if x.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    return x.dtype != torch.float64 and bool(bias.max() <= _MOST_BIAS)


def attend_strips(
    qkv: tuple[Tensor, Tensor, Tensor],
    registers: tuple[Tensor, Tensor],
    bias: Tensor,
    shape: tuple[int, int],
    carried: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Attend to the window around every position and to the registers, in float32.

    Parameters
    ----------
    qkv : Tensors, (B, heads, H * W, d)
        Queries, keys and values; logits are ``q k^T + bias``.
    registers : Tensors, (heads, R, d)
        Their keys and values.
    bias : Tensor, (heads, 2r + 1, 2r + 1)
        By the key's place relative to the query.
    shape : tuple of int
        (H, W) positions.
    carried : Tensor or None, (B, H, W, c)
        More values, gathered with the weights of the first head; registers carry zeros.

    Returns
    -------
    out : Tensor, (B, heads, H * W, d) float32
    gathered : Tensor or None, (B, H, W, c) float32
    """
    (h, w), r = shape, bias.shape[1] // 2
    b, heads, _, d = qkv[0].shape
    q, k, v = (t.float().reshape(b * heads, h, w, d) for t in qkv)
    more = 1 if carried is None else 1 + carried.shape[-1]
    values = v.new_zeros(b, heads, h, w, d + more)
    values[..., :d] = v.reshape(b, heads, h, w, d)
    values[..., d] = 1
    if carried is not None:
        values[:, 0, ..., d + 1 :] = carried
    values = values.reshape(b * heads, h, w, d + more)

    rows, cols, side = -(-h // TILE), -(-w // TILE), TILE + 2 * r
    across = (0, 0, r, cols * TILE - w + r)
    window = _window(bias.float(), registers[0].shape[1])
    window = window.repeat(b, 1, 1)[:, None]  # (B * heads, 1, 64, keys)
    keys = _slots(registers[0], b, cols, side, 0)
    held = _slots(F.pad(registers[1], (0, 1), value=1.0), b, cols, side, more - 1)
    out = q.new_empty(b * heads, rows * TILE, cols * TILE, d + more)
    for row in range(rows):
        top = row * TILE
        _cut(keys, k, top - r, side, across)
        _cut(held, values, top - r, side, across)
        own = F.pad(q[:, top : top + TILE], (0, 0, 0, cols * TILE - w, 0, max(0, top + TILE - h)))
        own = own.unflatten(2, (cols, TILE)).transpose(1, 2).reshape(-1, TILE * TILE, d)
        weight = torch.bmm(own, keys.flatten(0, 1).transpose(1, 2)).exp_()
        weight.view(b * heads, cols, TILE * TILE, -1).mul_(window)
        found = torch.bmm(weight, held.flatten(0, 1))
        strip = out[:, top : top + TILE].unflatten(2, (cols, TILE)).transpose(1, 2)
        strip.copy_(found.view(b * heads, cols, TILE, TILE, d + more))
    out = out[:, :h, :w].reshape(b, heads, h * w, d + more)
    total = out[..., d : d + 1]
    gathered = None if carried is None else (out[:, 0, :, d + 1 :] / total[:, 0]).reshape(b, h, w, -1)
    return out[..., :d] / total, gathered


def _window(bias: Tensor, registers: int) -> Tensor:
    """Return ``exp(bias)`` inside the window, 0 outside, 1 for registers: (heads, 64, side^2 + R)."""
    r = bias.shape[1] // 2
    side = TILE + 2 * r
    offset = torch.arange(side, device=bias.device)[None] - torch.arange(TILE, device=bias.device)[:, None]
    inside = (offset >= 0) & (offset <= 2 * r)  # (8, side)
    at = offset.clamp(0, 2 * r)
    factor = bias.exp()[:, at[:, None, :, None], at[None, :, None, :]]  # (heads, 8, 8, side, side)
    factor = factor * (inside[:, None, :, None] & inside[None, :, None, :])
    return F.pad(factor.reshape(len(bias), TILE * TILE, side * side), (0, registers), value=1.0)


def _slots(registers: Tensor, b: int, cols: int, side: int, more: int) -> Tensor:
    """Return room for the keys of a strip, registers behind them: (B * heads, cols, side^2 + R, d)."""
    heads, count, d = registers.shape
    room = registers.new_zeros(b * heads, cols, side * side + count, d + more, dtype=torch.float32)
    room[:, :, side * side :, :d] = registers.float().repeat(b, 1, 1)[:, None]
    return room


def _cut(room: Tensor, x: Tensor, top: int, side: int, across: tuple[int, int, int, int]) -> None:
    """Fill ``room`` with what the tiles of a strip see of ``x``, (n, H, W, c), zeros beyond the border."""
    h = x.shape[1]
    seen = F.pad(x[:, max(top, 0) : top + side], (*across, max(-top, 0), max(top + side - h, 0)))
    tiles = seen.unfold(2, side, TILE).permute(0, 2, 1, 4, 3)  # (n, cols, side, side, c)
    room[:, :, : side * side].view(*tiles.shape).copy_(tiles)
