"""Maps over the field, made of exact rows chunk by chunk: entropy, distance, received, rollout.

Every function that takes long is a generator of the share that is done (0..1); the jobs of the same name
turn it into progress.  Memory is linear in the number of tokens: no N x N matrix is ever held.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_attnseg.core.attention import MAX_EXACT_TOKENS, QKBlock, heads_of
from napari_attnseg.core.regrid import counts, regrid
from napari_attnseg.core.seedblock import SeedBlock, assign
from napari_attnseg.errors import InputError
from napari_attnseg.records import AttentionRow
from napari_attnseg.registry import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Generator

    import numpy.typing as npt

    from napari_attnseg.core.attention import AttentionTape
    from napari_attnseg.core.grid import TokenGrid

    Floats = npt.NDArray[np.float32]
    Doubles = npt.NDArray[np.float64]

ROLLOUT = "rollout"  # stands for all blocks where a block is named
KINDS = ("received", "entropy", "distance", "uncertainty", ROLLOUT)


@dataclass(frozen=True, slots=True)
class FieldMap:
    """One value per token over the field.

    Attributes
    ----------
    values : ndarray, (gh, gw) float32
    grid : TokenGrid
    kind : str
        One of ``KINDS``.
    block, head : str
        Of which block; "mean" or a head's number.
    unit : str
        Of the values; "" for plain shares.
    limits : tuple of float
        Lowest and highest value of a colour scale that fits.
    exact : bool
        False when a sample of queries stands for all.
    note : str
        How it was made, for a caption.
    """

    values: Floats
    grid: TokenGrid
    kind: str
    block: str
    head: str
    unit: str
    limits: tuple[float, float]
    exact: bool
    note: str


def kinds_of(tape: AttentionTape, block: str) -> tuple[str, ...]:
    """Return the maps that make sense for a block."""
    if not isinstance(tape.block(block), QKBlock):
        return ("received", "distance", "uncertainty")
    rest = ("rollout",) if len(tape.network) > 1 else ()
    return ("received", "entropy", "distance", *rest)


def field_map(
    tape: AttentionTape,
    kind: str,
    block: str,
    head: str = "mean",
    spacing: tuple[float, float] = (1.0, 1.0),
    unit: str = "px",
) -> Generator[float, None, FieldMap]:
    """Compute a map of one block.

    Parameters
    ----------
    kind : {"received", "entropy", "distance", "uncertainty", "rollout"}
        Attention received, mean over queries; entropy of each token's row, 0 (one place) to 1 (evenly
        everywhere); mean distance of what it attends to; 1 - margin of the readout; :func:`rollout`.
    spacing : tuple of float
        Height and width of an image pixel in ``unit``, for distances.

    Raises
    ------
    InputError
        The block has no such map, or there is no such head.
    """
    kept = tape.block(block)
    if kind not in kinds_of(tape, block):
        raise InputError(
            f"There is no map '{kind}' of the block '{block}'.", did_you_mean(kind, kinds_of(tape, block))
        )
    if kind == "rollout":
        return (yield from rollout(tape, None, head))
    yield 0.0
    if kind == "received":
        values, sampled = kept.received(head)
        note = "from a sample of 1,024 queries" if sampled else "exact"
        return _finish((block, kept.grid), head, kind, values, note, exact=not sampled)
    if isinstance(kept, SeedBlock):
        return _readout_map(kept, kind, spacing, unit)
    assert isinstance(kept, QKBlock)
    grid, tokens = _query_grid(kept)
    total, done = np.empty(len(tokens)), 0
    for part in kept.chunks(tokens):
        weights, share = kept.weights(part, head)
        if kind == "entropy":
            total[done : done + len(part)] = _entropy(kept, part, weights, share)
        else:
            total[done : done + len(part)] = _distance(kept, part, weights, spacing)
        done += len(part)
        yield done / len(tokens)
    step = grid.stride // kept.grid.stride
    note = "exact" if step == 1 else f"every {_nth(step)} position in both directions"
    unit = unit if kind == "distance" else ""
    values = total.reshape(grid.shape).astype(np.float32)
    return _finish((block, grid), head, kind, values, note, exact=step == 1, unit=unit)


def _nth(n: int) -> str:
    return {2: "2nd", 3: "3rd"}.get(n, f"{n}th")


def _query_grid(block: QKBlock) -> tuple[TokenGrid, npt.NDArray[np.intp]]:
    """Return the queries to ask, flat, and their grid: coarser where all would be too many."""
    (gh, gw), step = block.grid.shape, 1
    if block.window is None and gh * gw > MAX_EXACT_TOKENS:
        step = math.ceil(math.sqrt(gh * gw / MAX_EXACT_TOKENS))
    rows, cols = (np.minimum(np.arange(-(-n // step)) * step + step // 2, n - 1) for n in block.grid.shape)
    grid = replace(block.grid, stride=block.grid.stride * step, shape=(len(rows), len(cols)))
    return grid, (rows[:, None] * gw + cols).ravel()


def _entropy(block: QKBlock, tokens: npt.NDArray[np.intp], weights: Floats, share: Floats) -> Doubles:
    """Return the entropy of rows over what they could attend to; the registers count as one place."""
    rows = np.concatenate([weights, share[:, None]], axis=1)
    nats = -(rows * np.log(np.maximum(rows, np.float32(1e-30)))).sum(axis=1, dtype=np.float64)
    places = block.places(tokens)
    options = weights.shape[1] if places is None else (places >= 0).sum(axis=1)
    found: Doubles = nats / np.log(np.asarray(options) + 1.0)
    return found


def _distance(
    block: QKBlock, tokens: npt.NDArray[np.intp], weights: Floats, spacing: tuple[float, float]
) -> Doubles:
    """Return the mean distance between a query and what it attends to in the image."""
    gh, gw = block.grid.shape
    y, x = np.divmod(tokens, gw)
    sy, sx = (np.float32(block.grid.cell * s) for s in spacing)
    if block.window is None:
        dy = (np.arange(gh) - y[:, None]).astype(np.float32) * sy
        dx = (np.arange(gw) - x[:, None]).astype(np.float32) * sx
    else:
        reach = np.arange(-block.window, block.window + 1, dtype=np.float32)
        dy, dx = (reach * sy)[None], (reach * sx)[None]
    away = np.sqrt(dy[:, :, None] ** 2 + dx[:, None, :] ** 2).reshape(len(dy), -1)
    total = weights.sum(axis=1, dtype=np.float64)
    found: Doubles = (weights * away).sum(axis=1, dtype=np.float64) / np.maximum(total, 1e-12)
    return found


def _readout_map(block: SeedBlock, kind: str, spacing: tuple[float, float], unit: str) -> FieldMap:
    """Return the uncertainty of the assignment, or how far pixels vote."""
    if kind == "uncertainty":
        note = "1 - margin between the first and the second choice of each pixel; 0 where none votes"
        return _finish((block.name, block.grid), "mean", kind, assign(block).uncertainty, note)
    seeds, (h, w) = block.seeds, block.grid.shape
    values = np.zeros(h * w)
    taken = seeds.best < len(seeds.position)
    pixels = seeds.pixels[taken]
    away = seeds.position[seeds.best[taken]] - np.stack(np.divmod(pixels, w), axis=1)
    values[pixels] = np.hypot(away[:, 0] * spacing[0], away[:, 1] * spacing[1])
    note = "distance of each pixel to its seed; 0 where none votes"
    return _finish((block.name, block.grid), "mean", kind, values.reshape(h, w), note, unit=unit)


def _finish(
    where: tuple[str, TokenGrid],
    head: str,
    kind: str,
    values: npt.NDArray[np.floating[Any]],
    note: str,
    *,
    exact: bool = True,
    unit: str = "",
) -> FieldMap:
    """Return the record of a map of the block and grid ``where``."""
    shown: Floats = values.astype(np.float32)
    low = float(shown.min()) if kind == "received" else 0.0
    most = 100.0 if kind == ROLLOUT else 99.5  # a few sinks would leave the rest of a map dark
    high = 1.0 if kind in ("entropy", "uncertainty") else float(np.percentile(shown, most))
    high = high if high > low else max(float(shown.max()), low + 1e-6)
    return FieldMap(shown, where[1], kind, where[0], head, unit, (low, high), exact, note)


def spread(
    block: QKBlock, mass: npt.NDArray[np.floating[Any]], head: str = "mean", value: bool = False
) -> Generator[float, None, tuple[Doubles, float]]:
    """Sum the rows of a block weighted by a mass on its queries (``mass @ A``).

    Parameters
    ----------
    mass : ndarray, (gh, gw)
        Rows with no mass are not computed.

    Returns
    -------
    tuple of ndarray and float
        The sum, (gh, gw) float64, and what went to the registers.
    """
    flat = np.asarray(mass, dtype=np.float64).ravel()
    queries = np.flatnonzero(flat)
    total, lost, done = np.zeros(flat.size), 0.0, 0
    for part in block.chunks(queries):
        weights, share = block.weights(part, head, value)
        total += block.scatter(part, weights, flat[part].astype(np.float32))
        lost += float(flat[part] @ share)
        done += len(part)
        yield done / max(len(queries), 1)
    return total.reshape(block.grid.shape), lost


def has_parts(tape: AttentionTape) -> bool:
    """Tell whether every block of the network keeps what a rollout by values needs."""
    return tape.exposed and all(getattr(tape.blocks[n], "own", None) is not None for n in tape.network)


def rollout(
    tape: AttentionTape,
    start: tuple[int, int] | npt.NDArray[np.bool_] | None = None,
    head: str = "mean",
    value: bool | None = None,
) -> Generator[float, None, FieldMap]:
    """Follow what a place is made of back through all blocks of the network, to the image.

    In every block, the last first, a share stays where it is and the rest goes where the block attends.  By
    values, the shares are those of :meth:`QKBlock.parts`; by plain weights half stays (Abnar and Zuidema
    2020).  Convolutions before and after a block spread it as a random walk would (:attr:`QKBlock.spread`).
    What registers take is lost and named in the note.  Skip connections are left out: it is a summary, not a
    measurement.

    Parameters
    ----------
    start : tuple of int, ndarray or None
        A pixel (y, x), a mask (H, W) of the plane, or the whole field.
    head : str
        "mean", or the number of a head; blocks with fewer heads take their mean.
    value : bool or None
        By values in every block, or by plain weights; None: by values where the tape has them.

    Raises
    ------
    InputError
        The network has no attention block, the start lies outside the field, or there is no such head.
    """
    order = tape.network[::-1]
    blocks = [block for name in order if isinstance(block := tape.blocks[name], QKBlock)]
    if not blocks:
        raise InputError("This network has no attention blocks to follow.", "Choose another model.")
    value = has_parts(tape) if value is None else value
    heads_of(head, max(block.heads for block in blocks))
    grid = blocks[0].grid
    mass, lost, stays, width = _start(grid, start), 0.0, [], tape.spread
    for number, block in enumerate(blocks):
        mass = regrid(blurred(mass, width / grid.stride), grid, block.grid).astype(np.float64)
        grid, width, whole = block.grid, block.spread, float(mass.sum())
        each = head if head == "mean" or int(head) < block.heads else "mean"
        walk = _through(block, mass, each, value)
        while True:
            try:
                yield (number + next(walk)) / len(blocks)
            except StopIteration as stop:
                mass, stayed, taken = stop.value
                break
        lost += taken
        stays.append(f"{stayed / max(whole, 1e-12):.0%} stays in {block.name}")
    mass = blurred(mass, width / grid.stride)
    how = f"by values: {', '.join(stays)}" if value else "by plain weights: half stays in each block"
    total = math.sqrt(tape.spread**2 + sum(block.spread**2 for block in blocks)) / tape.zoom
    blur = f"convolutions spread it by {total:.0f} px" if total else "convolutions are left out"
    note = f"{how}; {blur}; the registers took {lost:.0%}"
    return _finish((" → ".join(order), grid), head, "rollout", mass, note)


def _through(
    block: QKBlock, mass: Doubles, head: str, value: bool
) -> Generator[float, None, tuple[Doubles, float, float]]:
    """Take a mass from the outputs of a block to its inputs.

    Returns
    -------
    tuple of ndarray, float and float
        The mass, (gh, gw) float64, how much of it stayed where it was, and what the registers took.
    """
    if not value:
        moved, taken = yield from spread(block, mass, head)
        return (mass + moved) / 2, float(mass.sum()) / 2, taken / 2
    flat = mass.ravel()
    queries = np.flatnonzero(flat)
    total, stayed, lost, done = np.zeros(flat.size), 0.0, 0.0, 0
    for part in block.chunks(queries):
        stays, weights, share = block.parts(part, head)
        total += block.scatter(part, weights, flat[part].astype(np.float32))
        total[part] += flat[part] * stays
        stayed += float(flat[part] @ stays)
        lost += float(flat[part] @ share)
        done += len(part)
        yield done / max(len(queries), 1)
    return total.reshape(mass.shape), stayed, lost


def blurred(mass: Doubles, sigma: float) -> Doubles:
    """Spread a mass (gh, gw) as a normal random walk of ``sigma`` tokens does; the border reflects it."""
    from scipy.ndimage import gaussian_filter

    if sigma <= 0:
        return mass
    found: Doubles = gaussian_filter(mass, sigma, mode="reflect", truncate=6.0)
    return found


def rollout_row(
    tape: AttentionTape,
    start: tuple[int, int] | npt.NDArray[np.bool_],
    head: str = "mean",
    value: bool | None = None,
) -> AttentionRow:
    """Return the rollout of a pixel or a mask as a row: its weights and what the registers took sum to 1."""
    walk = rollout(tape, start, head, value)
    while True:
        try:
            next(walk)
        except StopIteration as stop:
            made: FieldMap = stop.value
            break
    lost = max(0.0, 1.0 - float(made.values.sum(dtype=np.float64)))
    query = start if isinstance(start, tuple) else (0, 0)
    used = has_parts(tape) if value is None else value
    return AttentionRow(made.values, lost, ROLLOUT, "rollout", made.head, query, made.grid, None, used)


def row_at(
    tape: AttentionTape, block: str, pixel: tuple[int, int], head: str = "mean", value: bool = False
) -> AttentionRow:
    """Return the row of a pixel in a block, or its rollout through all of them where ``ROLLOUT`` is named."""
    return rollout_row(tape, pixel, head) if block == ROLLOUT else tape.row(block, pixel, head, value)


def _start(grid: TokenGrid, start: tuple[int, int] | npt.NDArray[np.bool_] | None) -> Doubles:
    """Return a mass of 1 on the tokens of a pixel, a mask or the field."""
    mass = np.zeros(grid.shape)
    if start is None:
        mass[:] = 1 / mass.size
    elif isinstance(start, tuple):
        if not grid.contains(start):
            raise InputError(f"Pixel {start} lies outside the field that was recorded.", "Click inside it.")
        mass[grid.token_of(start)] = 1
    else:
        mass += counts(start, grid)
        if not mass.any():
            raise InputError("No pixel of the object lies in the field that was recorded.", "Choose another.")
        mass /= mass.sum()
    return mass
