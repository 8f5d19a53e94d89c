"""Attention blocks: exact local windows, global with rotary positions, and the softmax gate.

All blocks take and return ``(B, H, W, C)`` and differ only in what a position may look at.  Every one
has learned *registers* (key/value slots that belong to no position), so that "looked at nothing" is a
share that can be shown.  Each fast path has an explicit twin, ``forward_explicit``, for tests.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_attnseg.nn.kept import Kept as Kept
from napari_attnseg.nn.local import TILE, attend_strips, usable

HEAD_DIM = 32
REGISTERS = 4
TRAINED_TOKENS = 256  # logits of global attention are scaled by log N / log of this
_MOST_KEYS = 4096  # positions, above which those of global attention share keys by 2 x 2
_ROPE_BASE = 100.0
_SHARPNESS = 8.0  # initial length of a query
_MAX_SHARPNESS = 20.0


def rotary_angles(shape: tuple[int, int], dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return cosine and sine, (H * W, dim / 2): the first half of the pairs turns with y, the other with x.

    Axial rotary positions (Heo et al. 2024, arXiv 2403.13298): no parameters, any size.
    """
    pairs = dim // 4
    freq = _ROPE_BASE ** (-torch.arange(pairs, device=device, dtype=torch.float32) / pairs)
    y = torch.arange(shape[0], device=device, dtype=torch.float32)[:, None] * freq
    x = torch.arange(shape[1], device=device, dtype=torch.float32)[:, None] * freq
    angles = torch.cat(
        [y[:, None].expand(-1, shape[1], -1), x[None].expand(shape[0], -1, -1)], dim=-1
    ).reshape(shape[0] * shape[1], 2 * pairs)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs of ``x`` (..., N, d) by the angles (N, d / 2)."""
    a, b = x.float().chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1).to(x.dtype)


class _QKV(nn.Module):
    """What local and global attention share: projections, registers, output."""

    def __init__(self, dim: int, registers: int = REGISTERS) -> None:
        super().__init__()
        if dim % HEAD_DIM:
            raise ValueError(f"dim {dim} must be a multiple of {HEAD_DIM}")
        self.heads = dim // HEAD_DIM
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.register_k = nn.Parameter(torch.randn(self.heads, registers, HEAD_DIM) * 0.5)
        self.register_v = nn.Parameter(torch.zeros(self.heads, registers, HEAD_DIM))
        self.log_sharpness = nn.Parameter(torch.full((self.heads, 1, 1), math.log(_SHARPNESS)))

    def register_keys(self) -> Tensor:
        """Return the registers' keys at unit length, (heads, R, d)."""
        return F.normalize(self.register_k, dim=-1)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Project (B, H, W, C) to q, k, v, each (B, heads, H * W, d) with contiguous d.

        Keys have unit length and queries the head's learned sharpness (cosine attention, Liu et al. 2022):
        without it the logits of a network this small grow until every row looks at a single position.
        """
        b, h, w, _ = x.shape
        qkv = self.qkv(x).reshape(b, h * w, 3, self.heads, HEAD_DIM).permute(2, 0, 3, 1, 4)
        q, k, v = (t.contiguous() for t in qkv)  # SDPA leaves its fast path otherwise
        sharpness = self.log_sharpness.exp().clamp(max=_MAX_SHARPNESS)
        q = (F.normalize(q.float(), dim=-1) * sharpness).to(v.dtype)
        return q, F.normalize(k.float(), dim=-1).to(v.dtype), v

    def output_mix(self) -> Tensor:
        """Return the output projection by heads, (C, heads, d)."""
        return self.proj.weight.unflatten(1, (self.heads, HEAD_DIM))

    def merge(self, out: Tensor, shape: tuple[int, int]) -> Tensor:
        """Bring (B, heads, H * W, d) back to (B, H, W, C) and project."""
        b = out.shape[0]
        return self.proj(out.transpose(1, 2).reshape(b, *shape, self.heads * HEAD_DIM))


class GlobalAttention(_QKV):
    """Every position attends to all positions and to the registers.

    ``A = softmax(s R(q) R(k)^T)``, ``F' = A v`` with rotary positions R, keys of unit length, queries of a
    learned one, and ``s = max(1, log N / log 256)``, which keeps the sharpness when the field grows.

    From 4,097 positions on, neighbours share a key: each of 2 x 2 positions has the mean of their keys, hence
    the same weight.  That is a quarter of the work, which grows with the square of the area.
    """

    kind = "global"

    def logit_scale(self, tokens: int) -> float:
        """Return the factor on ``q k^T`` for ``tokens`` positions."""
        return max(1.0, math.log(max(tokens, 2)) / math.log(TRAINED_TOKENS))

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries and keys, turned by their positions, and values."""
        q, k, v = self.split(x)
        cos, sin = rotary_angles((x.shape[1], x.shape[2]), HEAD_DIM, x.device)
        return rotate(q, cos, sin), rotate(k, cos, sin), v

    def forward(self, x: Tensor, tape: list[Kept] | None = None, pool: int = 1) -> Tensor:
        """Attend; ``pool`` > 1 averages keys over pool x pool positions, to save memory."""
        b, h, w, _ = x.shape
        q, k, v = self.project(x)
        pool, scale, mask = self.pooled(h * w, pool), self.logit_scale(h * w), None
        shared = _pool(k, (h, w), pool) if pool > 1 else k
        if tape is not None:
            keys = _unpool(shared, (h, w), pool) if pool > 1 else k
            kept = Kept(self.kind, q, keys, self.register_keys(), scale, (h, w))
            kept.v, kept.register_v, kept.mix = v, self.register_v, self.output_mix()
            tape.append(kept)
        if pool > 1:  # a key counts as often as there are positions that share it
            v = _pool(v, (h, w), pool)
            many = _sharers((h, w), pool, x.device).log()
            mask = F.pad(many, (0, self.register_k.shape[1])).to(q.dtype).view(1, 1, 1, -1)
        k = torch.cat([shared, self.register_keys().to(k.dtype).expand(b, -1, -1, -1)], dim=2)
        v = torch.cat([v, self.register_v.to(v.dtype).expand(b, -1, -1, -1)], dim=2)
        return self.merge(F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale), (h, w))

    def pooled(self, tokens: int, pool: int = 1) -> int:
        """Return over how many positions each way keys are averaged, ``pool`` or more."""
        return max(pool, 2 if tokens > _MOST_KEYS else 1)

    def forward_explicit(self, x: Tensor, pool: int = 1) -> Tensor:
        """Compute the same by a full softmax matrix."""
        b, h, w, _ = x.shape
        q, k, v = self.project(x)
        pool = self.pooled(h * w, pool)
        k = _unpool(_pool(k, (h, w), pool), (h, w), pool)
        k = torch.cat([k, self.register_keys().expand(b, -1, -1, -1)], dim=2)
        v = torch.cat([v, self.register_v.expand(b, -1, -1, -1)], dim=2)
        weights = torch.softmax(q @ k.transpose(-1, -2) * self.logit_scale(h * w), dim=-1)
        return self.merge(weights @ v, (h, w))


def _pool(x: Tensor, shape: tuple[int, int], factor: int) -> Tensor:
    b, heads, _, d = x.shape
    grid = x.reshape(b * heads, *shape, d).permute(0, 3, 1, 2)
    small = F.avg_pool2d(grid, factor, ceil_mode=True, count_include_pad=False)
    return small.flatten(2).transpose(1, 2).reshape(b, heads, -1, d).contiguous()


def _unpool(x: Tensor, shape: tuple[int, int], factor: int) -> Tensor:
    """Give every position what it shares, (B, heads, H * W, d)."""
    h, w = shape
    grid = x.unflatten(2, (-(-h // factor), -(-w // factor)))
    grid = grid.repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)
    return grid[:, :, :h, :w].flatten(2, 3)


def _sharers(shape: tuple[int, int], factor: int, device: torch.device) -> Tensor:
    """Return how many positions each block of factor x factor has, row by row: fewer at odd edges."""
    y, x = ((n - torch.arange(0.0, n, factor, device=device)).clamp(max=factor) for n in shape)
    return (y[:, None] * x).flatten()


class LocalAttention(_QKV):
    """Every position attends to the (2 radius + 1)^2 window around it (and to the registers).

    Exact neighbourhood attention with a learned relative-position bias (Hassani et al. 2023); at the
    border the window is cut, not shifted.  Query tiles of 8 x 8 read a halo of keys, so the memory is
    linear in the number of positions.
    """

    kind = "local"

    def __init__(self, dim: int, radius: int = 3, registers: int = REGISTERS) -> None:
        super().__init__(dim, registers)
        self.radius = radius
        self.bias = nn.Parameter(torch.zeros(self.heads, 2 * radius + 1, 2 * radius + 1))

    def forward(self, x: Tensor, tape: list[Kept] | None = None, pool: int = 1) -> Tensor:
        """Attend; ``pool`` is ignored (the memory is linear already)."""
        return self.gather(x, None, tape)[0]

    def gather(
        self, x: Tensor, carried: Tensor | None, tape: list[Kept] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Attend, and let the first head also gather values that every position carries.

        Parameters
        ----------
        x : Tensor, (B, H, W, C)
        carried : Tensor or None, (B, H, W, c), c < 32
            Registers carry zeros.

        Returns
        -------
        out : Tensor, (B, H, W, C)
        gathered : Tensor or None, (B, H, W, c) float32
            ``sum_j A_ij carried_j`` with the weights of the first head.
        """
        b, h, w, _ = x.shape
        q, k, v = self.split(x)
        if tape is not None:
            kept = Kept(self.kind, q, k, self.register_keys(), 1.0, (h, w), self.radius, self.bias)
            kept.v, kept.register_v, kept.mix = v, self.register_v, self.output_mix()
            tape.append(kept)
        if usable(x, self.bias):
            with torch.autocast("cpu", enabled=False):
                registers = self.register_keys(), self.register_v
                out, found = attend_strips((q, k, v), registers, self.bias, (h, w), carried)
            return self.merge(out.to(v.dtype), (h, w)), found
        qt = self._tiles(q, (h, w), halo=0)
        kt, vt = (self._tiles(t, (h, w), halo=self.radius) for t in (k, v))
        n = qt.shape[0]
        kt = torch.cat([kt, self.register_keys().to(kt.dtype).expand(n, -1, -1, -1)], dim=2)
        vt = torch.cat([vt, self.register_v.to(vt.dtype).expand(n, -1, -1, -1)], dim=2)
        mask = self._mask(h, w, x.device)
        both = mask.to(qt.dtype).repeat(b, 1, 1, 1)
        out = self._whole(F.scaled_dot_product_attention(qt, kt, vt, attn_mask=both, scale=1.0), b, (h, w))
        merged = self.merge(out, (h, w))
        if carried is None:
            return merged, None
        width = carried.shape[-1]
        flat = F.pad(carried.float(), (0, HEAD_DIM - width)).reshape(b, 1, h * w, HEAD_DIM)
        ct = F.pad(self._tiles(flat, (h, w), halo=self.radius), (0, 0, 0, self.register_k.shape[1]))
        with torch.autocast(x.device.type, enabled=False):  # positions in bf16 would be off by pixels
            found = F.scaled_dot_product_attention(
                qt[:, :1].float(),
                kt[:, :1].float(),
                ct,
                attn_mask=mask[:, :1].float().repeat(b, 1, 1, 1),
                scale=1.0,
            )
        return merged, self._whole(found, b, (h, w)).reshape(b, h, w, HEAD_DIM)[..., :width]

    def _whole(self, tiles: Tensor, b: int, shape: tuple[int, int]) -> Tensor:
        """Join (B * tiles, heads, 64, d) to (B, heads, H * W, d)."""
        h, w = shape
        rows, cols, heads = -(-h // TILE), -(-w // TILE), tiles.shape[1]
        out = tiles.reshape(b, rows, cols, heads, TILE, TILE, HEAD_DIM)
        out = out.permute(0, 3, 1, 4, 2, 5, 6).reshape(b, heads, rows * TILE, cols * TILE, HEAD_DIM)
        return out[:, :, :h, :w].reshape(b, heads, h * w, HEAD_DIM)

    def _tiles(self, x: Tensor, shape: tuple[int, int], halo: int) -> Tensor:
        """Cut (B, heads, H * W, d) into (B * tiles, heads, (8 + 2 halo)^2, d)."""
        b, heads, _, d = x.shape
        h, w = shape
        side = TILE + 2 * halo
        pad = (0, 0, halo, -w % TILE + halo, halo, -h % TILE + halo)
        grid = F.pad(x.reshape(b, heads, h, w, d), pad)
        grid = grid.unfold(2, side, TILE).unfold(3, side, TILE)  # (B, heads, rows, cols, d, side, side)
        grid = grid.permute(0, 2, 3, 1, 5, 6, 4)
        return grid.reshape(-1, heads, side * side, d)

    def _mask(self, h: int, w: int, device: torch.device) -> Tensor:
        """Return the additive mask, (tiles, heads, 64, keys + registers): bias inside, -inf outside."""
        r, side = self.radius, TILE + 2 * self.radius
        place = torch.arange(TILE, device=device)[:, None]
        offset = torch.arange(side, device=device)[None] - place  # (8, side), 0..2r inside the window
        inside = (offset >= 0) & (offset <= 2 * r)
        index = offset.clamp(0, 2 * r)
        bias = self.bias[:, index[:, None, :, None], index[None, :, None, :]]  # (heads, 8, 8, side, side)
        bias = bias.masked_fill(~(inside[:, None, :, None] & inside[None, :, None, :]), -torch.inf)
        valid_y, valid_x = (_valid(n, r, device) for n in (h, w))  # (rows, side), (cols, side)
        valid = valid_y[:, None, :, None] & valid_x[None, :, None, :]
        valid = valid.reshape(-1, 1, 1, side * side)
        mask = bias.reshape(1, self.heads, TILE * TILE, side * side)
        mask = mask.masked_fill(~valid, -torch.inf)
        return F.pad(mask, (0, self.register_k.shape[1]))  # registers: always open, no bias

    def forward_explicit(self, x: Tensor) -> Tensor:
        """Compute the same by a loop over positions."""
        b, h, w, _ = x.shape
        r = self.radius
        q, k, v = (t.reshape(b, self.heads, h, w, HEAD_DIM) for t in self.split(x))
        out = torch.empty_like(q)
        for y in range(h):
            for c in range(w):
                ys = slice(max(0, y - r), min(h, y + r + 1))
                xs = slice(max(0, c - r), min(w, c + r + 1))
                kk = k[:, :, ys, xs].reshape(b, self.heads, -1, HEAD_DIM)
                vv = v[:, :, ys, xs].reshape(b, self.heads, -1, HEAD_DIM)
                bias = self.bias[:, ys.start - y + r : ys.stop - y + r, xs.start - c + r : xs.stop - c + r]
                kk = torch.cat([kk, self.register_keys().expand(b, -1, -1, -1)], dim=2)
                vv = torch.cat([vv, self.register_v.expand(b, -1, -1, -1)], dim=2)
                logits = torch.einsum("bhd,bhnd->bhn", q[:, :, y, c], kk)
                logits = logits + F.pad(bias.reshape(1, self.heads, -1), (0, self.register_k.shape[1]))
                out[:, :, y, c] = torch.einsum("bhn,bhnd->bhd", logits.softmax(-1), vv)
        return self.merge(out.reshape(b, self.heads, h * w, HEAD_DIM), (h, w))


def _valid(n: int, r: int, device: torch.device) -> Tensor:
    """Tell which keys of every tile along one axis are real positions, (tiles, 8 + 2r) bool."""
    start = torch.arange(0, n, TILE, device=device)[:, None]
    pos = start + torch.arange(-r, TILE + r, device=device)[None]
    return (pos >= 0) & (pos < n)


class SoftmaxGate(nn.Module):
    """A softmax over positions gates the features: ``A = softmax(W F + b)``, ``F' = F + N (A * F)``.

    W maps C channels to one logit a head; a head gates C / heads channels.  The factor N (number of
    positions) keeps the scale when the field grows, and the registers' logits carry ``log N`` so that
    their share does too.  Returns ``N (A * F)``: the caller adds the residual.
    """

    kind = "global"

    def __init__(self, dim: int, registers: int = REGISTERS) -> None:
        super().__init__()
        self.heads = max(1, dim // HEAD_DIM)
        self.weight = nn.Linear(dim, self.heads)
        self.registers = nn.Parameter(torch.full((self.heads, registers), -3.0))

    def forward(self, x: Tensor, tape: list[Kept] | None = None, pool: int = 1) -> Tensor:
        """Gate (B, H, W, C); ``pool`` is ignored (the memory is linear already)."""
        b, h, w, c = x.shape
        logits = self.weight(x).float().reshape(b, h * w, self.heads).transpose(1, 2)
        registers = self.registers.float() + math.log(h * w)
        if tape is not None:
            ones = torch.ones_like(logits[..., None])
            kept = Kept(self.kind, ones, logits[..., None], registers[..., None], 1.0, (h, w))
            kept.v = x.reshape(b, h * w, self.heads, c // self.heads).transpose(1, 2)
            kept.register_v = kept.v.new_zeros(self.heads, registers.shape[1], c // self.heads)
            kept.mix = torch.eye(c, device=x.device).unflatten(1, (self.heads, c // self.heads))
            tape.append(kept)
        # log-sum-exp over positions and registers: no concatenation of the big map
        total = torch.logaddexp(logits.logsumexp(-1), registers.logsumexp(-1))
        gate = torch.exp(logits - total[..., None]) * (h * w)
        gate = gate.transpose(1, 2).reshape(b, h, w, self.heads, 1).to(x.dtype)
        return (gate * x.reshape(b, h, w, self.heads, c // self.heads)).reshape(b, h, w, c)

    def forward_explicit(self, x: Tensor) -> Tensor:
        """Compute the same by a softmax over the concatenated logits."""
        b, h, w, c = x.shape
        out = torch.empty_like(x)
        width = c // self.heads
        for i in range(b):
            flat = x[i].reshape(h * w, c)
            logits = flat @ self.weight.weight.T + self.weight.bias
            for head in range(self.heads):
                both = torch.cat([logits[:, head], self.registers[head] + math.log(h * w)])
                gate = both.softmax(0)[: h * w]
                part = slice(head * width, (head + 1) * width)
                out[i, :, :, part] = (h * w * gate[:, None] * flat[:, part]).reshape(h, w, width)
        return out


class ContextBlock(nn.Module):
    """A residual block around one attention: ``x + g A(norm x)``, then ``x + g FFN(norm x)``.

    The gains g start small, so that attention enters a convolutional network gently.

    Parameters
    ----------
    kind : {"local", "global", "gate"}
    dim : int
        Channels, a multiple of 32.
    """

    def __init__(self, kind: str, dim: int, radius: int = 3, expand: int = 2) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        if kind == "local":
            self.attention: nn.Module = LocalAttention(dim, radius)
        elif kind == "global":
            self.attention = GlobalAttention(dim)
        elif kind == "gate":
            self.attention = SoftmaxGate(dim)
        else:
            raise ValueError(f"unknown context block {kind!r}")
        self.gain1 = nn.Parameter(torch.full((dim,), 0.1))
        self.gain2 = nn.Parameter(torch.full((dim,), 0.1))
        self.ffn = nn.Sequential(nn.Linear(dim, expand * dim), nn.ReLU(), nn.Linear(expand * dim, dim))

    def forward(self, x: Tensor, tape: list[Kept] | None = None, pool: int = 1) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        t = x.permute(0, 2, 3, 1)
        return self._finish(t, self.attention(self.norm1(t), tape, pool), tape)

    def gather(self, x: Tensor, carried: Tensor, tape: list[Kept] | None = None) -> tuple[Tensor, Tensor]:
        """Map (B, C, H, W) to the same shape and gather carried values (B, c, H, W); local blocks only."""
        t = x.permute(0, 2, 3, 1)
        local = cast("LocalAttention", self.attention)
        out, found = local.gather(self.norm1(t), carried.permute(0, 2, 3, 1), tape)
        return self._finish(t, out, tape), cast("Tensor", found).permute(0, 3, 1, 2)

    def _finish(self, t: Tensor, out: Tensor, tape: list[Kept] | None) -> Tensor:
        if tape and tape[-1].mix is not None:
            tape[-1].mix = tape[-1].mix * self.gain1[:, None, None]
            if not isinstance(self.attention, SoftmaxGate):  # a gate brings nothing from elsewhere
                tape[-1].meet(t)
        t = t + self.gain1 * out
        t = t + self.gain2 * self.ffn(self.norm2(t))
        return t.permute(0, 3, 1, 2)
