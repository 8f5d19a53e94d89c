"""The network up to its last attention block (``local8``), from checkpoint tensors alone: no code of ours.

Convolutions are PyTorch's functional ones; everything about attention is numpy and loops.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import load_file

DIM = 32  # of a head


class Plain:
    """A checkpoint and the little that is needed to follow it."""

    def __init__(self, path) -> None:
        self.t = load_file(path)

    def conv(self, name: str, x, stride: int = 1, relu: bool = True):
        """Convolution 3 x 3, batch normalisation, ReLU."""
        p = {key: torch.from_numpy(self.t[f"{name}.{key}"]) for key in ("0.weight", "1.weight", "1.bias")}
        mean, var = (torch.from_numpy(self.t[f"{name}.1.running_{key}"]) for key in ("mean", "var"))
        x = F.conv2d(x, p["0.weight"], stride=stride, padding=1)
        x = (x - mean[:, None, None]) / torch.sqrt(var[:, None, None] + 1e-5)
        x = x * p["1.weight"][:, None, None] + p["1.bias"][:, None, None]
        return torch.relu(x) if relu else x

    def stage(self, name: str, x):
        """A convolution of stride 2 and a residual block."""
        x = self.conv(f"{name}.0", x, stride=2)
        return torch.relu(x + self.conv(f"{name}.1.b", self.conv(f"{name}.1.a", x), relu=False))

    def norm(self, name: str, x):
        mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        return (x - mean) / np.sqrt(var + 1e-5) * self.t[f"{name}.weight"] + self.t[f"{name}.bias"]

    def linear(self, name: str, x):
        return x @ self.t[f"{name}.weight"].T + self.t[f"{name}.bias"]

    def qkv(self, block: str, x):
        """(H, W, C) to q, k, v of shape (heads, H * W, 32)."""
        both = self.linear(f"context.{block}.attention.qkv", self.norm(f"context.{block}.norm1", x))
        heads = x.shape[-1] // DIM
        q, k, v = both.reshape(-1, 3, heads, DIM).transpose(1, 2, 0, 3)
        sharp = np.minimum(np.exp(self.t[f"context.{block}.attention.log_sharpness"]), 20.0)
        return unit(q) * sharp, unit(k), v

    def finish(self, block: str, x, out):
        """Projection, gains and feed-forward around what the attention gave, (heads, N, 32)."""
        name = f"context.{block}"
        out = self.linear(f"{name}.attention.proj", out.transpose(1, 0, 2).reshape(*x.shape))
        x = x + self.t[f"{name}.gain1"] * out
        inner = np.maximum(self.linear(f"{name}.ffn.0", self.norm(f"{name}.norm2", x)), 0)
        return x + self.t[f"{name}.gain2"] * self.linear(f"{name}.ffn.2", inner)

    def local_row(self, block: str, x, token):
        """Return what a token attends to in its window, (gh, gw), and the registers' share; mean of heads."""
        h, w, _ = x.shape
        q, k, _ = (part.reshape(part.shape[0], h, w, DIM) for part in self.qkv(block, x))
        bias, rk = (self.t[f"context.{block}.attention.{key}"] for key in ("bias", "register_k"))
        r, (y, c) = bias.shape[-1] // 2, token
        total, share = np.zeros((h, w)), 0.0
        for head in range(q.shape[0]):
            logits = {}
            for i in range(max(0, y - r), min(h, y + r + 1)):
                for j in range(max(0, c - r), min(w, c + r + 1)):
                    logits[i, j] = k[head, i, j] @ q[head, y, c] + bias[head, i - y + r, j - c + r]
            for n, key in enumerate(unit(rk)[head]):
                logits["register", n] = key @ q[head, y, c]
            weights = softmax(np.array(list(logits.values())))
            for at, weight in zip(logits, weights, strict=True):
                if at[0] == "register":
                    share += weight / q.shape[0]
                else:
                    total[at] += weight / q.shape[0]
        return total, share

    def turned(self, x, shape):
        """Rotary positions: the first half of the pairs turns with y, the other with x."""
        y, c = np.divmod(np.arange(shape[0] * shape[1]), shape[1])
        speed = 100.0 ** (-np.arange(DIM // 4) / (DIM // 4))
        angle = np.concatenate([y[:, None] * speed, c[:, None] * speed], axis=1)
        a, b = x[..., : DIM // 2], x[..., DIM // 2 :]
        return np.concatenate(
            [a * np.cos(angle) - b * np.sin(angle), a * np.sin(angle) + b * np.cos(angle)], axis=-1
        )

    def global_rows(self, block: str, x):
        """Return q, k with positions, v, and the factor on q k."""
        h, w, _ = x.shape
        q, k, v = self.qkv(block, x)
        scale = max(1.0, math.log(h * w) / math.log(256))
        return self.turned(q, (h, w)), self.turned(k, (h, w)), v, scale

    def global_(self, block: str, x):
        q, k, v, scale = self.global_rows(block, x)
        name = f"context.{block}.attention"
        out = np.zeros_like(v)
        for head in range(q.shape[0]):
            keys = np.concatenate([k[head], unit(self.t[f"{name}.register_k"])[head]])
            values = np.concatenate([v[head], self.t[f"{name}.register_v"][head]])
            for n in range(q.shape[1]):
                out[head, n] = softmax(keys @ q[head, n] * scale) @ values
        return self.finish(block, x, out)

    def rows(self, image, pixel):
        """Return row and registers' share of a pixel for ``global16a`` and for ``local8``."""
        low, high = np.percentile(image.astype(np.float64), [1.0, 99.8])
        scaled = np.clip((image.astype(np.float32) - low) / (high - low), -0.2, 1.5).astype(np.float32)
        x = torch.from_numpy(scaled)[None, None].expand(1, 3, -1, -1)
        x = self.conv("stem.1", self.conv("stem.0", F.pixel_unshuffle(x, 2)))
        s8 = self.stage("enc8", self.stage("enc4", x))
        s16 = last(self.stage("enc16", s8))
        gh, gw, _ = s16.shape
        q, k, _, scale = self.global_rows("global16a", s16)
        total, share = np.zeros((gh, gw)), 0.0
        at = (pixel[0] // 16) * gw + pixel[1] // 16
        for head in range(q.shape[0]):
            registers = unit(self.t["context.global16a.attention.register_k"])[head]
            weights = softmax(np.concatenate([k[head], registers]) @ q[head, at] * scale)
            for n in range(gh * gw):
                total[n // gw, n % gw] += weights[n] / q.shape[0]
            share += weights[gh * gw :].sum() / q.shape[0]
        deep = torch.from_numpy(self.global_("global16a", s16).astype(np.float32)).permute(2, 0, 1)[None]
        small = F.conv2d(deep, *(torch.from_numpy(self.t[f"dec8.reduce.{k}"]) for k in ("weight", "bias")))
        big = small.repeat_interleave(2, 2).repeat_interleave(2, 3)[..., : s8.shape[2], : s8.shape[3]] + s8
        d8 = torch.relu(big + self.conv("dec8.refine.b", self.conv("dec8.refine.a", big), relu=False))
        local = self.local_row("local8", last(d8), (pixel[0] // 8, pixel[1] // 8))
        return {"global16a": (total, share), "local8": local}


def last(x):
    """(1, C, H, W) to (H, W, C) in double precision."""
    return x[0].permute(1, 2, 0).numpy().astype(np.float64)


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def unit(x):
    return x / np.sqrt((x**2).sum(-1, keepdims=True))
