"""Exact attention rows from kept queries and keys, in numpy.

A block keeps ``q`` and ``k`` (fp16 for storage); a row ``softmax(q_i k^T / sqrt(d) + position)`` is
computed when asked for, and no N x N matrix is ever held.  Maps over the field are made of the same rows,
chunk by chunk (:mod:`napari_attnseg.core.attention_maps`).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from napari_attnseg.errors import InputError
from napari_attnseg.records import AttentionRow
from napari_attnseg.registry import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy.typing as npt

    from napari_attnseg.core.grid import TokenGrid

    Floats = npt.NDArray[np.float32]
    Tokens = npt.NDArray[np.intp]

MAX_EXACT_TOKENS = 4096
_SAMPLED_QUERIES = 1024
_CHUNK = 2**21  # weights held at a time


class Block(Protocol):
    """What a tape keeps of one attention block."""

    name: str
    kind: str
    heads: int
    grid: TokenGrid
    window: int | None

    def row(self, pixel: tuple[int, int], head: str) -> tuple[Floats, float]:
        """Return weights (gh, gw) and the register share for a pixel."""
        ...

    def received(self, head: str) -> tuple[Floats, bool]:
        """Return the attention received by each token (gh, gw), mean over queries, and whether sampled."""
        ...


def softmax(logits: Floats) -> Floats:
    """Return the softmax over the last axis; ``-inf`` gets weight 0."""
    exp: Floats = logits - logits.max(axis=-1, keepdims=True)
    np.exp(exp, out=exp)
    exp /= exp.sum(axis=-1, keepdims=True)
    return exp


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
    gram, register_gram : ndarray or None, (N, heads, heads) and (R, heads, heads) float32
        Inner products of what the heads' values add to the features (``W_o v``); a few numbers a token are
        all that value-weighted rows need.
    own : ndarray or None, (N, 1 + heads) float32
        Of the features that the block adds to: their squared norm, and their inner products with what each
        head's value at the same place adds at weight 1.
    spread : float
        How far the convolutions before the block, from the image or the block before it, carry what they
        read: standard deviation along an axis, pixels of the resized image.
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
    bias: Floats | None = None
    gram: Floats | None = None
    register_gram: Floats | None = None
    own: Floats | None = None
    spread: float = 0.0
    _k32: Floats | None = None

    def row(self, pixel: tuple[int, int], head: str, value: bool = False) -> tuple[Floats, float]:
        """Return weights (gh, gw) and the register share for a pixel."""
        token = self.grid.token_of(pixel)
        flat = np.array([token[0] * self.grid.shape[1] + token[1]])
        weights, share = self.weights(flat, head, value)
        return self._on_grid(self.scatter(flat, weights)), float(share[0])

    def weights(self, tokens: Tokens, head: str, value: bool = False) -> tuple[Floats, Floats]:
        """Return the rows of some query tokens.

        Parameters
        ----------
        tokens : ndarray, (n,)
            Flat numbers of the query tokens.
        head : str
            "mean" or a head's number.
        value : bool
            Weigh by the values: the share of each key in ``sum |W_o sum_h a_h v_h|``.

        Returns
        -------
        weights : ndarray, (n, K) float32
            Over all tokens for a global block, over :meth:`places` for a local one (0 outside the field).
        registers : ndarray, (n,) float32
            What is left for the registers: a row and its register share sum to 1.
        """
        chosen = heads_of(head, self.heads)
        places = self.places(tokens)
        rows = [self._softmax(tokens, places, h) for h in chosen]
        if value:
            both = self._norms(rows, chosen, places)
            both /= np.maximum(both.sum(axis=1, keepdims=True), np.float32(1e-30))
        else:
            both = rows[0]
            for other in rows[1:]:
                both += other
            both /= np.float32(len(chosen))
        count = both.shape[1] - self.registers.shape[1]
        return both[:, :count], both[:, count:].sum(axis=1)

    def parts(self, tokens: Tokens, head: str) -> tuple[Floats, Floats, Floats]:
        """Return what the features of some tokens consist of after the block, as shares that sum to 1.

        By the norms of the parts (Kobayashi et al. 2021): what the place had and what its own value adds,
        what each other place adds, and what the registers add.

        Returns
        -------
        stays : ndarray, (n,) float32
        weights : ndarray, (n, K) float32
            As in :meth:`weights`; 0 at the token itself.
        registers : ndarray, (n,) float32
        """
        if self.own is None:
            raise InputError(
                f"The block '{self.name}' keeps no values.", "Show its plain attention weights instead."
            )
        chosen = heads_of(head, self.heads)
        places = self.places(tokens)
        rows = [self._softmax(tokens, places, h) for h in chosen]
        both = self._norms(rows, chosen, places)
        at = np.arange(len(tokens)), tokens if places is None else np.full(len(tokens), places.shape[1] // 2)
        stays = self.own[tokens, 0] + both[at] ** 2
        for row, h in zip(rows, chosen, strict=True):
            stays += 2 * row[at] * self.own[tokens, 1 + h]
        stays = np.sqrt(np.maximum(stays, 0))
        both[at] = 0
        total = np.maximum(stays + both.sum(axis=1), np.float32(1e-30))
        both /= total[:, None]
        count = both.shape[1] - self.registers.shape[1]
        return stays / total, both[:, :count], both[:, count:].sum(axis=1)

    def places(self, tokens: Tokens) -> Tokens | None:
        """Return the flat key tokens of each query's window, (n, K), -1 outside; None for all keys."""
        if self.window is None:
            return None
        gh, gw = self.grid.shape
        reach = np.arange(-self.window, self.window + 1)
        y, x = (part[:, None] + reach for part in np.divmod(tokens, gw))
        inside = ((y >= 0) & (y < gh))[:, :, None] & ((x >= 0) & (x < gw))[:, None, :]
        flat = np.where(inside, y[:, :, None] * gw + x[:, None, :], -1)
        return flat.reshape(len(tokens), -1)

    def _softmax(self, tokens: Tokens, places: Tokens | None, h: int) -> Floats:
        """Return the weights of one head over keys and registers, (n, K + R)."""
        q = self.q[h, tokens].astype(np.float32) * np.float32(self.scale)
        if places is None:
            return softmax(q @ self._keys()[h].T)
        keys = self.k[h, places.clip(0)].astype(np.float32)
        logits = np.matmul(keys, q[:, :, None])[..., 0]
        if self.bias is not None:
            logits += self.bias[h].ravel()
        logits[places < 0] = -np.inf
        return softmax(np.concatenate([logits, q @ self.registers[h].astype(np.float32).T], axis=1))

    def _keys(self) -> Floats:
        if self._k32 is None:  # fp16 products are 70 times slower in numpy: promote once
            self._k32 = np.ascontiguousarray(
                np.concatenate([self.k, self.registers], axis=1), dtype=np.float32
            )
        return self._k32

    def _norms(self, rows: list[Floats], chosen: list[int], places: Tokens | None) -> Floats:
        """Turn weights by head into ``|W_o sum_h a_h v_h|``, (n, K + R)."""
        if self.gram is None or self.register_gram is None:
            raise InputError(
                f"The block '{self.name}' keeps no values.", "Show its plain attention weights instead."
            )
        gram = self.gram[None] if places is None else self.gram[places.clip(0)]
        total = np.zeros_like(rows[0])
        keys = total.shape[1] - len(self.register_gram)
        for m, g in enumerate(chosen):
            for n, h in enumerate(chosen[m:], start=m):
                both = rows[m] * rows[n] * np.float32(1 if m == n else 2)
                total[:, :keys] += both[:, :keys] * gram[:, :, g, h]
                total[:, keys:] += both[:, keys:] * self.register_gram[:, g, h]
        np.sqrt(np.maximum(total, 0, out=total), out=total)
        return total

    def scatter(self, tokens: Tokens, weights: Floats, mass: Floats | None = None) -> npt.NDArray[np.float64]:
        """Return the sum of rows (n, K), weighted by ``mass`` (n,), over all tokens: (N,)."""
        if mass is not None:
            weights = weights * mass[:, None] if self.window is not None else mass[None] @ weights
        places = self.places(tokens)
        if places is None:
            return np.asarray(weights.sum(axis=0, dtype=np.float64))
        gh, gw = self.grid.shape
        total = np.bincount(places.ravel() + 1, weights.ravel().astype(float), minlength=gh * gw + 1)
        return np.asarray(total[1:], dtype=np.float64)

    def chunks(self, tokens: Tokens) -> Iterator[Tokens]:
        """Cut query tokens into pieces whose rows fit in a few megabytes."""
        wide = self.grid.shape[0] * self.grid.shape[1]
        if self.window is not None:
            wide = (2 * self.window + 1) ** 2 * self.k.shape[2]  # keys are gathered
        step = max(1, _CHUNK // (wide * self.heads))
        for start in range(0, len(tokens), step):
            yield tokens[start : start + step]

    def received(self, head: str) -> tuple[Floats, bool]:
        """Return the attention received by each token (gh, gw), and whether it was sampled."""
        count = self.grid.shape[0] * self.grid.shape[1]
        sampled = count > MAX_EXACT_TOKENS and self.window is None
        queries = np.arange(count)
        if sampled:
            queries = np.sort(np.random.default_rng(0).choice(count, _SAMPLED_QUERIES, replace=False))
        total = np.zeros(count)
        for part in self.chunks(queries):
            total += self.scatter(part, self.weights(part, head)[0])
        return self._on_grid(total / len(queries)), sampled

    def _on_grid(self, flat: npt.NDArray[np.float64]) -> Floats:
        return flat.reshape(self.grid.shape).astype(np.float32)


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
    spread : float
        As :attr:`QKBlock.spread`, of the convolutions after the last block.
    """

    blocks: Mapping[str, Block]
    zoom: float = 1.0
    model: str = ""
    spread: float = 0.0

    def block(self, name: str) -> Block:
        """Return a block; ``InputError`` with did-you-mean if unknown."""
        if name not in self.blocks:
            raise InputError(f"There is no attention block '{name}'.", did_you_mean(name, self.blocks))
        return self.blocks[name]

    @property
    def network(self) -> tuple[str, ...]:
        """Names of the blocks inside the network (the readout comes after it), in network order."""
        return tuple(name for name, block in self.blocks.items() if isinstance(block, QKBlock))

    @property
    def exposed(self) -> bool:
        """Whether the network has attention weights of its own to show."""
        return bool(self.network)

    @property
    def field(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """(y, x) of the first pixel and (H, W) of the field that was recorded, plane pixels."""
        grid = self.blocks[next(iter(self.network or self.blocks))].grid
        return grid.origin, grid.field

    @property
    def nbytes(self) -> int:
        """Memory of all arrays, bytes."""
        return sum(_nbytes(block) for block in self.blocks.values())

    def has_values(self, block: str) -> bool:
        """Tell whether rows of a block can be weighed by its values."""
        return getattr(self.block(block), "gram", None) is not None

    def row(
        self, block: str, pixel: tuple[int, int], head: str | int = "mean", value: bool = False
    ) -> AttentionRow:
        """Return what image pixel ``(y, x)`` attended to.

        Parameters
        ----------
        block : str
            Name of the block.
        pixel : tuple of int
            (y, x) in the image plane.
        head : str or int
            "mean" over heads, or a head's number.
        value : bool
            Weigh by the values: each token's share in what the block adds to the pixel's features.

        Raises
        ------
        InputError
            Unknown block or head, a pixel outside the recorded field, or a block without values.
        """
        kept = self.block(block)
        if not kept.grid.contains(pixel):
            raise InputError(
                f"Pixel {tuple(pixel)} lies outside the field that was recorded.",
                f"The field starts at {kept.grid.origin} and has {kept.grid.field} pixels.",
            )
        query = int(pixel[0]), int(pixel[1])
        if value:
            weights, share = with_values(kept).row(query, str(head), True)
        else:
            weights, share = kept.row(query, str(head))
        return row_record(kept, str(head), query, weights, share, value)

    def received(self, block: str, head: str | int = "mean") -> tuple[Floats, bool]:
        """Return the attention each token receives, mean over all queries, and whether it was sampled.

        Above 4,096 tokens a fixed random sample of 1,024 queries stands for all of a global block.
        """
        return self.block(block).received(str(head))


def with_values(block: Block) -> QKBlock:
    """Return a block whose rows can be weighed by values; ``InputError`` for the others."""
    if not isinstance(block, QKBlock) or block.gram is None:
        raise InputError(
            f"The block '{block.name}' has no values to weigh by.", "Show its plain attention weights."
        )
    return block


def row_record(
    block: Block, head: str, query: tuple[int, int], weights: Floats, share: float, value: bool
) -> AttentionRow:
    """Return a row with the words that belong to it."""
    return AttentionRow(weights, share, block.name, block.kind, head, query, block.grid, block.window, value)


def window_box(block: Block, pixel: tuple[int, int]) -> tuple[float, float, float, float] | None:
    """Return the outline (y0, x0, y1, x1) of a pixel's local window, None for a global block or the readout.

    In pixels of the plane with centres at integers: the first pixel's outer edge is at -0.5.
    """
    if block.window is None:
        return None
    grid, low, high = block.grid, [], []
    for t, o, n in zip(grid.token_of(pixel), grid.origin, grid.field, strict=True):
        low.append(o - 0.5 + max(0.0, (t - block.window) * grid.cell))
        high.append(o - 0.5 + min(float(n), (t + block.window + 1) * grid.cell))
    return low[0], low[1], high[0], high[1]


def _nbytes(kept: Any) -> int:
    if isinstance(kept, np.ndarray):
        return int(kept.nbytes)
    if is_dataclass(kept):
        return sum(_nbytes(getattr(kept, field.name)) for field in fields(kept))
    return 0
