"""Label images of dividing cells: rods, filaments and cocci that lie side by side, as bacteria do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_attnseg.core.shapes import relabel

if TYPE_CHECKING:
    import numpy.typing as npt

    Labels = npt.NDArray[np.int32]

_TRIES = 8  # to place a cell beside another one, after which no more is placed there
_OVERLAP = 0.12  # share of a new cell that may lie on earlier ones


@dataclass(slots=True)
class Cell:
    """A capsule along an arc: centre (pixels), direction (radians), length of its axis, bend (1 / pixels)."""

    y: float
    x: float
    turn: float
    length: float
    bend: float


def grow(
    shape: tuple[int, int],
    rng: np.random.Generator,
    *,
    width: float = 8.0,
    aspect: float = 3.0,
    density: float = 0.4,
    order: float = 0.15,
    curved: float = 0.0,
    gap: float = 0.05,
    fill: float = 0.0,
) -> Labels:
    """Grow colonies: new cells lie beside or behind earlier ones and share their direction.

    Parameters
    ----------
    shape : tuple of int
        (H, W) pixels.
    width : float
        Of a cell, pixels.
    aspect : float
        Typical length over width, 1 or more; 1 gives cocci.
    density : float
        Share of the field to cover.
    order : float
        Deviation of a new cell's direction from that of its neighbour, radians.
    curved : float
        Typical bend of a cell over its length, radians.
    gap : float
        Between neighbours, in widths; below 0 they are pressed flat against each other.
    fill : float
        How far cells inside a colony grow into what is free between them, in widths.

    Returns
    -------
    ndarray, (H, W) int32
        Labels 1..n, 0 is background.
    """
    labels = np.zeros(shape, dtype=np.int32)
    near = np.full(shape, np.inf, dtype=np.float32)  # of each pixel, to the axis of its cell, in widths
    target, covered, count = density * shape[0] * shape[1], 0.0, 0
    cells: list[Cell] = []
    tries: list[int] = []
    founders = int(rng.integers(1, 5))
    for _ in range(40 + 8 * int(target / (width**2 * aspect))):
        growing = [n for n, left in enumerate(tries) if left]
        if len(cells) < founders or not growing:
            cell = _founder(rng, shape, width, aspect, curved)
        else:
            parent = growing[int(len(growing) * rng.random() ** 3)]  # mostly an early one: round colonies
            tries[parent] -= 1
            cell = _neighbour(rng, cells[parent], width, aspect, order, curved, gap)
        if written := _draw(labels, near, cell, width, 0.5 + fill, count + 1):
            count, covered = count + 1, covered + written
            cells.append(cell)
            tries.append(_TRIES)
        if covered >= target:
            break
    return relabel(np.where(_inside(near, width, fill), labels, 0))


def _inside(near: npt.NDArray[np.float32], width: float, fill: float) -> npt.NDArray[np.bool_]:
    """Return the pixels of cells that have grown by ``fill`` widths where others hem them in, (H, W)."""
    from scipy.ndimage import distance_transform_edt

    own: npt.NDArray[np.bool_] = near <= 0.5
    if not fill or not own.any():
        return own
    reach = max(1.0, fill * width)
    around = distance_transform_edt(~own) <= reach
    hemmed = distance_transform_edt(np.pad(around, 1, constant_values=True))[1:-1, 1:-1] > reach
    grown: npt.NDArray[np.bool_] = own | (hemmed & (near <= 0.5 + fill))
    return grown


def _length(rng: np.random.Generator, width: float, aspect: float) -> float:
    """Draw the length of a cell's axis: it doubles between two divisions."""
    return float(width * max(0.0, aspect * 2.0 ** rng.uniform(-0.5, 0.5) - 1))


def _bend(rng: np.random.Generator, length: float, width: float, curved: float) -> float:
    """Draw the bend of a cell, 1 / pixels; a short one is straight."""
    bend = float(rng.normal()) * curved / max(length, width)
    return float(np.clip(bend, -0.35 / width, 0.35 / width)) if length > 0.5 * width else 0.0


def _founder(
    rng: np.random.Generator, shape: tuple[int, int], width: float, aspect: float, curved: float
) -> Cell:
    length = _length(rng, width, aspect)
    y, x = rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
    return Cell(y, x, rng.uniform(0, np.pi), length, _bend(rng, length, width, curved))


def _neighbour(
    rng: np.random.Generator, old: Cell, width: float, aspect: float, order: float, curved: float, gap: float
) -> Cell:
    length = _length(rng, width, aspect)
    side = float(rng.choice([-1.0, 1.0]))
    along = np.array([np.cos(old.turn), np.sin(old.turn)])
    across = np.array([-along[1], along[0]])
    apart = width * (1 + gap * rng.uniform(0.3, 1.7))
    if old.length < width:  # a coccus has no side
        turn = rng.uniform(0, 2 * np.pi)
        step = apart * np.array([np.cos(turn), np.sin(turn)])
    elif rng.random() < 0.35:
        step = side * (0.5 * (old.length + length) + apart) * along
    else:
        step = side * apart * across + rng.uniform(-0.5, 0.5) * (old.length + length) * along
    turn = old.turn + rng.normal() * order
    bend = old.bend if rng.random() < 0.5 else _bend(rng, length, width, curved)
    return Cell(old.y + step[0], old.x + step[1], turn, length, bend)


def _draw(
    labels: Labels, near: npt.NDArray[np.float32], cell: Cell, width: float, reach: float, value: int
) -> int:
    """Note a cell up to ``reach`` widths from its axis, where it is nearer than others.

    Returns the pixels within half a width, 0 where it would hide too much of others and is left out.
    """
    half = int(np.ceil(cell.length / 2 + (reach + 0.5) * width)) + 1
    cy, cx = round(cell.y), round(cell.x)
    ys = slice(max(0, cy - half), min(labels.shape[0], cy + half + 1))
    xs = slice(max(0, cx - half), min(labels.shape[1], cx + half + 1))
    if ys.start >= ys.stop or xs.start >= xs.stop:
        return 0
    dy = np.arange(ys.start, ys.stop, dtype=np.float32)[:, None] - np.float32(cell.y)
    dx = np.arange(xs.start, xs.stop, dtype=np.float32)[None] - np.float32(cell.x)
    c, s = np.float32(np.cos(cell.turn)), np.float32(np.sin(cell.turn))
    u, v = dy * c + dx * s, dx * c - dy * s
    v = v + np.float32(cell.bend / 2) * (u * u - np.float32(cell.length**2 / 12))
    beyond = np.maximum(np.abs(u) - np.float32(cell.length / 2), 0)
    distance = np.hypot(beyond, v) / np.float32(width)
    pixels = int((distance <= 0.5).sum())
    taken = (distance <= 0.5) & (near[ys, xs] <= 0.5)
    if pixels < 8 or int(taken.sum()) > _OVERLAP * pixels:
        return 0
    mine = (distance <= reach) & (distance < near[ys, xs])
    labels[ys, xs][mine] = value
    near[ys, xs][mine] = distance[mine]
    return pixels
