"""Exact attention rows and column sums from kept queries and keys, in numpy.

A block keeps ``q`` and ``k`` (fp16 for storage); a row ``softmax(q_i k^T / sqrt(d) + position)`` is
computed when asked for, and no N x N matrix is ever held.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from napari_attnseg.errors import InputError
from napari_attnseg.records import AttentionRow
from napari_attnseg.registry import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from napari_attnseg.core.grid import TokenGrid

MAX_EXACT_TOKENS = 4096
_SAMPLED_QUERIES = 1024
_CHUNK = 256


class Block(Protocol):
    """What a tape keeps of one attention block."""

    name: str
    kind: str
    heads: int
    grid: TokenGrid
    window: int | None

    def row(self, pixel: tuple[int, int], head: str) -> tuple[npt.NDArray[np.float32], float]:
        """Return weights (gh, gw) and the register share for a pixel."""
        ...

    def received(self, head: str) -> tuple[npt.NDArray[np.float32], bool]:
        """Return the attention received by each token (gh, gw), mean over queries, and whether sampled."""
        ...


def softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the softmax over the last axis; ``-inf`` gets weight 0."""
    top = logits.max(axis=-1, keepdims=True)
    exp = np.exp(logits - top)
    out: npt.NDArray[np.float32] = exp / exp.sum(axis=-1, keepdims=True)
    return out


def heads_of(head: str, count: int) -> list[int]:
    """Return the head numbers meant by "mean" or "N"; ``InputError`` if there is no such head."""
    if head == "mean":
        return list(range(count))
    if not head.isdecimal() or int(head) >= count:
        raise InputError(
            f"There is no attention head '{head}'.", f"Take 'mean' or a number from 0 to {count - 1}."
        )
    return [int(head)]


@dataclass(slots=True)
class QKBlock:
    """A softmax block over tokens, global or limited to a window.

    Attributes
    ----------
    q, k : ndarray, (heads, N, d) float16
        Positions (rotary) are already applied.
    registers : ndarray, (heads, R, d) float16
        Keys of the learned registers.
    scale : float
        Multiplies ``q k^T``.
    window : int or None
        Half-width of the window in tokens; None for global attention.
    bias : ndarray or None, (heads, 2 window + 1, 2 window + 1) float32
        Relative-position bias of a local block.
    """

    name: str
    kind: str
    heads: int
    grid: TokenGrid
    q: npt.NDArray[np.float16]
    k: npt.NDArray[np.float16]
    registers: npt.NDArray[np.float16]
    scale: float
    window: int | None = None
    bias: npt.NDArray[np.float32] | None = None
    _k32: npt.NDArray[np.float32] | None = None

    def _keys(self) -> npt.NDArray[np.float32]:
        if self._k32 is None:  # fp16 products are 70 times slower in numpy: promote once
            self._k32 = np.ascontiguousarray(
                np.concatenate([self.k, self.registers], axis=1), dtype=np.float32
            )
        return self._k32

    def row(self, pixel: tuple[int, int], head: str) -> tuple[npt.NDArray[np.float32], float]:
        """Return weights (gh, gw) and the register share for a pixel."""
        token = self.grid.token_of(pixel)
        gh, gw = self.grid.shape
        chosen = heads_of(head, self.heads)
        if self.window is not None:
            return self._local_row(token, chosen)
        index = token[0] * gw + token[1]
        keys = self._keys()
        total = np.zeros(keys.shape[1], dtype=np.float32)
        for h in chosen:
            total += softmax(keys[h] @ self.q[h, index].astype(np.float32) * np.float32(self.scale))
        total /= len(chosen)
        return total[: gh * gw].reshape(gh, gw), float(total[gh * gw :].sum())

    def _local_row(self, token: tuple[int, int], chosen: list[int]) -> tuple[npt.NDArray[np.float32], float]:
        gh, gw = self.grid.shape
        r = self.window or 0
        (y0, y1), (x0, x1) = (
            (max(t - r, 0), min(t + r + 1, n)) for t, n in zip(token, (gh, gw), strict=True)
        )
        out = np.zeros((gh, gw), dtype=np.float32)
        share = 0.0
        for h in chosen:
            q = self.q[h, token[0] * gw + token[1]].astype(np.float32) * np.float32(self.scale)
            keys = self.k[h].reshape(gh, gw, -1)[y0:y1, x0:x1].astype(np.float32)
            logits = keys @ q
            if self.bias is not None:
                dy, dx = y0 - token[0] + r, x0 - token[1] + r
                logits = logits + self.bias[h, dy : dy + y1 - y0, dx : dx + x1 - x0]
            both = softmax(np.concatenate([logits.ravel(), self.registers[h].astype(np.float32) @ q]))
            out[y0:y1, x0:x1] += both[: logits.size].reshape(logits.shape)
            share += float(both[logits.size :].sum())
        return out / np.float32(len(chosen)), share / len(chosen)

    def received(self, head: str) -> tuple[npt.NDArray[np.float32], bool]:
        """Return the attention received by each token (gh, gw), and whether it was sampled."""
        gh, gw = self.grid.shape
        chosen = heads_of(head, self.heads)
        if self.window is not None:
            return self._local_received(chosen), False
        count = gh * gw
        sampled = count > MAX_EXACT_TOKENS
        queries = np.arange(count)
        if sampled:
            queries = np.random.default_rng(0).choice(count, _SAMPLED_QUERIES, replace=False)
        keys, total = self._keys(), np.zeros(count, dtype=np.float64)
        for h in chosen:
            for start in range(0, len(queries), _CHUNK):
                q = self.q[h, queries[start : start + _CHUNK]].astype(np.float32)
                total += softmax(q @ keys[h].T * np.float32(self.scale))[:, :count].sum(axis=0)
        mean = total / (len(queries) * len(chosen))
        return mean.reshape(gh, gw).astype(np.float32), sampled

    def _local_received(self, chosen: list[int]) -> npt.NDArray[np.float32]:
        """Sum the columns of a local block by shifting: memory linear in the number of tokens."""
        gh, gw = self.grid.shape
        r = self.window or 0
        shifts = [(dy, dx) for dy in range(-r, r + 1) for dx in range(-r, r + 1)]
        total = np.zeros((gh, gw), dtype=np.float64)
        for h in chosen:
            q = (self.q[h].astype(np.float32) * np.float32(self.scale)).reshape(gh, gw, -1)
            k = self.k[h].astype(np.float32).reshape(gh, gw, -1)
            logits = np.full((gh, gw, len(shifts)), -np.inf, dtype=np.float32)
            for n, (dy, dx) in enumerate(shifts):
                here, there = _overlap(gh, gw, dy, dx)
                bias = 0.0 if self.bias is None else self.bias[h, dy + r, dx + r]
                logits[(*here, n)] = np.einsum("yxd,yxd->yx", q[here], k[there]) + bias
            registers = q @ self.registers[h].astype(np.float32).T
            weights = softmax(np.concatenate([logits, registers], axis=-1))
            for n, (dy, dx) in enumerate(shifts):
                here, there = _overlap(gh, gw, dy, dx)
                total[there] += weights[(*here, n)]
        return (total / (gh * gw * len(chosen))).astype(np.float32)


def _overlap(gh: int, gw: int, dy: int, dx: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Return the slices of positions whose (dy, dx) neighbour exists, and of those neighbours."""
    here = slice(max(0, -dy), max(0, gh - max(0, dy))), slice(max(0, -dx), max(0, gw - max(0, dx)))
    there = slice(max(0, dy), max(0, gh + min(0, dy))), slice(max(0, dx), max(0, gw + min(0, dx)))
    return here, there


@dataclass(frozen=True, slots=True)
class AttentionTape:
    """Queries and keys of every attention block for one field of a plane.

    Attributes
    ----------
    blocks : mapping of str to Block
        By name, in network order.
    zoom : float
        Factor by which the field was resized before the network.
    model : str
        Card id.
    """

    blocks: Mapping[str, Block]
    zoom: float = 1.0
    model: str = ""

    def block(self, name: str) -> Block:
        """Return a block; ``InputError`` with did-you-mean if unknown."""
        if name not in self.blocks:
            raise InputError(f"There is no attention block '{name}'.", did_you_mean(name, self.blocks))
        return self.blocks[name]

    def row(self, block: str, pixel: tuple[int, int], head: str | int = "mean") -> AttentionRow:
        """Return what image pixel ``(y, x)`` attended to.

        Parameters
        ----------
        block : str
            Name of the block.
        pixel : tuple of int
            (y, x) in the image plane.
        head : str or int
            "mean" over heads, or a head's number.

        Raises
        ------
        InputError
            Unknown block or head, or a pixel outside the recorded field.
        """
        kept = self.block(block)
        if not kept.grid.contains(pixel):
            raise InputError(
                f"Pixel {tuple(pixel)} lies outside the field that was recorded.",
                f"The field starts at {kept.grid.origin} and has {kept.grid.field} pixels.",
            )
        weights, share = kept.row((int(pixel[0]), int(pixel[1])), str(head))
        return AttentionRow(
            weights=weights,
            register_share=share,
            block=kept.name,
            kind=kept.kind,
            head=str(head),
            query=(int(pixel[0]), int(pixel[1])),
            grid=kept.grid,
            window=kept.window,
        )

    def received(self, block: str, head: str | int = "mean") -> tuple[npt.NDArray[np.float32], bool]:
        """Return the attention each token receives, mean over all queries, and whether it was sampled.

        Above 4,096 tokens a fixed random sample of 1,024 queries stands for all of them.
        """
        return self.block(block).received(str(head))
