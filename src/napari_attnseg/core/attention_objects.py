"""What objects attend to: mean rows, who attends to whom, and which seed made which label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_attnseg.core.attention import QKBlock, heads_of, row_record, with_values
from napari_attnseg.core.attention_maps import spread
from napari_attnseg.core.regrid import counts, coverage
from napari_attnseg.core.seedblock import Assignment, SeedBlock, assign
from napari_attnseg.errors import InputError

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_attnseg.core.attention import AttentionTape, Block
    from napari_attnseg.records import AttentionRow

    Floats = npt.NDArray[np.float32]
    Mask = npt.NDArray[np.bool_]

DROPPED = -1  # stands for a seed that made no label: the object was dropped, or erased by hand


def object_row(
    tape: AttentionTape, block: str, mask: Mask, head: str = "mean", value: bool = False
) -> AttentionRow:
    """Return where the pixels of an object attend on average.

    Parameters
    ----------
    mask : ndarray, (H, W) bool
        The object in its plane; pixels outside the recorded field are left out.

    Returns
    -------
    AttentionRow
        Its ``query`` is the object's pixel nearest to its middle.

    Raises
    ------
    InputError
        No pixel of the object lies in the field; or an unknown block or head.
    """
    kept = tape.block(block)
    query = _middle(kept, mask)
    if isinstance(kept, SeedBlock):
        heads_of(head, 1)
        if value:
            with_values(kept)
        (y, x), (h, w) = kept.grid.origin, kept.grid.field
        flat = np.flatnonzero(mask[y : y + h, x : x + w])
        total, ground = np.zeros(len(kept.seeds.position)), 0.0
        step = max(1, 2**20 // max(len(total), 1))
        for start in range(0, len(flat), step):
            weights, rest = kept.weights(flat[start : start + step])
            total += weights.sum(axis=0, dtype=np.float64)
            ground += float(rest.sum())
        return row_record(kept, head, query, kept.on_grid(total / len(flat)), ground / len(flat), False)
    assert isinstance(kept, QKBlock)
    if value:
        with_values(kept)
    mass = counts(mask, kept.grid)
    walk = spread(kept, mass / mass.sum(), head, value)
    while True:
        try:
            next(walk)
        except StopIteration as stop:
            found, lost = stop.value
            return row_record(kept, head, query, found.astype(np.float32), lost, value)


def _middle(block: Block, mask: Mask) -> tuple[int, int]:
    (y, x), (h, w) = block.grid.origin, block.grid.field
    inside = np.argwhere(mask[y : y + h, x : x + w])
    if not len(inside):
        raise InputError(
            "No pixel of the object lies in the field that was recorded.",
            "Click on the object first: that records the field around it.",
        )
    near = inside[((inside - inside.mean(axis=0)) ** 2).sum(axis=1).argmin()]
    return int(near[0]) + y, int(near[1]) + x


def mass_on(row: AttentionRow, mask: Mask) -> float:
    """Return the share of a row that falls on a mask (H, W) of the plane.

    A token counts by the share of its pixels that the mask covers; a seed of the readout counts when it
    lies in the mask.
    """
    return float((row.weights * coverage(mask, row.grid)).sum(dtype=np.float64))


@dataclass(frozen=True, slots=True)
class Pair:
    """Who attends to whom, of two objects: shares of their mean rows, 0..1.

    Attributes
    ----------
    a_to_a, a_to_b, b_to_a, b_to_b : float
        Share of the first object's mean row on the second.
    area_a, area_b : float
        Share of the field each covers: what attention spread evenly would give.
    registers_a, registers_b : float
        What each leaves to the registers (the background, in the readout).
    """

    a_to_a: float
    a_to_b: float
    b_to_a: float
    b_to_b: float
    area_a: float
    area_b: float
    registers_a: float
    registers_b: float


def pair(
    tape: AttentionTape, block: str, mask_a: Mask, mask_b: Mask, head: str = "mean", value: bool = False
) -> Pair:
    """Return who attends to whom, of two objects given as masks (H, W) of the plane."""
    a, b = (object_row(tape, block, mask, head, value) for mask in (mask_a, mask_b))
    (y, x), (h, w) = a.grid.origin, a.grid.field
    area_a, area_b = (float(mask[y : y + h, x : x + w].mean()) for mask in (mask_a, mask_b))
    return Pair(
        mass_on(a, mask_a),
        mass_on(a, mask_b),
        mass_on(b, mask_a),
        mass_on(b, mask_b),
        area_a,
        area_b,
        a.register_share,
        b.register_share,
    )


def readout_of(tape: AttentionTape) -> SeedBlock:
    """Return the readout of a tape; ``InputError`` where there is none."""
    for block in tape.blocks.values():
        if isinstance(block, SeedBlock):
            return block
    raise InputError("This tape has no readout block.", "Run the model again.")


def assignment(tape: AttentionTape) -> Assignment:
    """Return the first and second choice of every pixel in the readout of a tape."""
    return assign(readout_of(tape))


def seed_labels(found: Assignment, labels: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Return which label of a plane each seed made, (n,) int32; 0 where it made none.

    A seed's label is the one that most of its pixels carry.

    Parameters
    ----------
    labels : ndarray, (H, W) int
        The plane of the Labels layer.
    """
    (y, x), (h, w) = found.origin, found.labels.shape
    here = labels[y : y + h, x : x + w]
    both = (found.labels > 0) & (here > 0)
    out = np.zeros(len(found.seeds), dtype=np.int32)
    if not both.any():
        return out
    pairs, votes = np.unique(np.stack([found.labels[both], here[both]], axis=1), axis=0, return_counts=True)
    for seed, label in pairs[np.argsort(votes, kind="stable")]:  # the most votes are written last
        out[seed - 1] = label
    return out


@dataclass(frozen=True, slots=True)
class ObjectAssignment:
    """How sure the readout was of one object.

    Attributes
    ----------
    seed : int
        Number of the seed that most of the object's pixels attend to; -1 when none does.
    pixels : int
        Pixels of the object in the field.
    own_weight, margin : float
        Mean over them of the attention on that seed, and of the margin to the second choice, 0..1.
    least : tuple of int
        (y, x) of the pixel with the smallest margin, and that margin in ``least_margin``.
    runner_ups : tuple of (int, float)
        Labels that came second (0: the background, :data:`DROPPED`: seeds without a label) and for which
        share of the pixels, most first.
    """

    seed: int
    pixels: int
    own_weight: float
    margin: float
    least: tuple[int, int]
    least_margin: float
    runner_ups: tuple[tuple[int, float], ...]


def object_assignment(found: Assignment, labels: npt.NDArray[np.int32], label: int) -> ObjectAssignment:
    """Return how the pixels of one label chose their seed.

    Raises
    ------
    InputError
        The label has no pixel in the field.
    """
    (y, x), (h, w) = found.origin, found.labels.shape
    mine = labels[y : y + h, x : x + w] == label
    count = int(mine.sum())
    if not count:
        raise InputError(f"Label {label} has no pixel in the field.", "Choose a label that can be seen.")
    seeds = np.bincount(found.labels[mine], minlength=1)
    seeds[0] = 0
    own = int(seeds.argmax()) - 1 if seeds.any() else -1
    margin = np.where(mine, found.margin, np.inf)
    least = np.unravel_index(int(margin.argmin()), margin.shape)
    weight = np.where(found.labels == own + 1, found.weight, 0)[mine] if own >= 0 else np.zeros(count)
    second = found.runner_up[mine]
    given = seed_labels(found, labels)
    names = np.concatenate([[0], np.where(given > 0, given, DROPPED)])
    rivals, pixels = np.unique(names[second[second >= 0]], return_counts=True)
    order = np.argsort(-pixels, kind="stable")
    return ObjectAssignment(
        own,
        count,
        float(weight.mean()),
        float(found.margin[mine].mean()),
        (int(least[0]) + y, int(least[1]) + x),
        float(margin[least]),
        tuple((int(rivals[i]), float(pixels[i] / count)) for i in order),
    )
