"""Objects of a run, by their ids in its Labels layer, and what attention says about them in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_attnseg._napari.classes import of_classes
from napari_attnseg._napari.question import weighs
from napari_attnseg._napari.shown import plane_indices
from napari_attnseg.core.attention_objects import (
    DROPPED,
    assignment,
    mass_on,
    object_assignment,
    object_row,
    pair,
)
from napari_attnseg.core.seedblock import SeedBlock
from napari_attnseg.errors import InputError

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_attnseg._napari.question import Question
    from napari_attnseg._napari.session import Run
    from napari_attnseg.core.attention import AttentionTape
    from napari_attnseg.records import AttentionRow

_NAMES = {0: "background", DROPPED: "a seed that was dropped"}


def labels_plane(run: Run) -> npt.NDArray[np.int32]:
    """Return the plane of the run's Labels layer that its tape belongs to, (H, W), as it is now."""
    indices = plane_indices(run.source.axes, [run.plane.index])
    assert indices is not None
    return np.asarray(run.shown.layer.data[indices[0]])


def question_mask(run: Run, label: int) -> npt.NDArray[np.bool_]:
    """Return where an object lies in its plane, (H, W).

    Raises
    ------
    InputError
        There is no object of this id in the plane.
    """
    mask: npt.NDArray[np.bool_] = labels_plane(run) == label
    if not mask.any():
        raise InputError(f"There is no object {label} in this plane.", "Click an object on the canvas.")
    return mask


def why_no_objects(run: Run) -> str:
    """Return why single objects cannot be asked about; "" when they can."""
    return "Labels of classes have no single objects to ask about." if of_classes(run.shown.layer) else ""


def decided_by_attention(run: Run) -> bool:
    """Tell whether the labels of a run are those of attention to seeds: not a watershed's, nor classes."""
    if of_classes(run.shown.layer):
        return False
    readout: str = run.params.readout
    if readout == "auto" and run.encoded is not None:
        readout = run.encoded.readout
    return readout != "watershed"


def decision_words(run: Run, tape: AttentionTape, pixel: tuple[int, int]) -> str:
    """Say which object a pixel was given to and by how much; "" where attention did not decide."""
    block = tape.blocks.get("readout")
    if not isinstance(block, SeedBlock) or not block.grid.contains(pixel) or not decided_by_attention(run):
        return ""
    y, x = (p - o for p, o in zip(pixel, block.grid.origin, strict=True))
    weights, ground = block.weights(np.array([y * block.grid.shape[1] + x]))
    shares = np.append(weights[0], ground)
    first, *rest = np.argsort(-shares, kind="stable")[:2]
    labels = labels_plane(run)

    def name(slot: int) -> str:
        if slot == len(shares) - 1:
            return "background"
        at = np.rint(block.seeds.position[slot]).astype(int) + block.grid.origin
        label = int(labels[tuple(at)])
        return f"object {label}" if label else f"a seed at {at[0]}, {at[1]} that was dropped"

    second = f", then {name(rest[0])} ({shares[rest[0]]:.0%})" if rest and shares[rest[0]] >= 0.005 else ""
    return f"Decided for {name(first)} ({shares[first]:.0%}){second}."


def row_words(run: Run, row: AttentionRow, label: int) -> str:
    """Say how an object's attention splits into itself, other objects, background and registers."""
    labels = labels_plane(run)
    mine = labels == label
    own, others = mass_on(row, mine), mass_on(row, (labels > 0) & ~mine)
    rest = max(0.0, 1.0 - own - others - row.register_share)
    (y, x), (h, w) = row.grid.origin, row.grid.field
    area = float(mine[y : y + h, x : x + w].mean())
    times = f", {own / area:.1f} × its share of the area" if area > 0 else ""
    looked = "registers" if row.kind != "readout" else "background slot"
    return (
        f"Object {label} looks at itself {own:.0%}{times}; at other objects {others:.0%}; at background "
        f"{rest:.0%}; {looked} {row.register_share:.0%}."
    )


def assignment_words(run: Run, tape: AttentionTape, label: int) -> str:
    """Say which seed an object's pixels chose, how clearly, and what the runner-up was."""
    made = assignment(tape)
    found = object_assignment(made, labels_plane(run), label)
    if found.seed < 0:
        return f"Object {label} has no seed of its own: it was drawn or changed by hand."
    sy, sx = (round(float(p)) for p in made.seeds[found.seed])
    rivals = ", ".join(
        f"{_NAMES.get(other, f'object {other}')} ({share:.0%} of the pixels)"
        for other, share in found.runner_ups[:2]
    )
    least = f"{found.least[0]}, {found.least[1]}"
    return (
        f"Its {found.pixels} pixels give their seed at {sy}, {sx} {found.own_weight:.0%} of their attention; "
        f"margin to the runner-up {found.margin:.2f} on average, least {found.least_margin:.2f} at {least}. "
        f"Runner-up: {rivals or 'none'}."
    )


def pair_words(
    run: Run, tape: AttentionTape, block: str, head: str, value: bool, first: int, second: int
) -> str:
    """Say how much two objects attend to each other, beside what their areas would give."""
    a, b = question_mask(run, first), question_mask(run, second)
    made = pair(tape, block, a, b, head, value)

    def times(share: float, area: float) -> str:
        return f"{share:.1%} ({share / area:.1f} × its area)" if area > 0 else f"{share:.1%}"

    return (
        f"{first} → {second}: {times(made.a_to_b, made.area_b)}\n"
        f"{second} → {first}: {times(made.b_to_a, made.area_a)}\n"
        f"{first} → itself: {times(made.a_to_a, made.area_a)}\n"
        f"{second} → itself: {times(made.b_to_b, made.area_b)}"
    )


def object_words(run: Run, tape: AttentionTape, question: Question) -> str:
    """Say all that is known of the chosen objects: what they look at, their seed, each other.

    Raises
    ------
    InputError
        An object is not in this plane, or outside the field that was recorded.
    """
    q = question
    value = weighs(tape, q)
    mask = question_mask(run, q.label)
    parts = [row_words(run, object_row(tape, q.block, mask, q.head, value), q.label)]
    if "readout" in tape.blocks and decided_by_attention(run):
        parts.append(assignment_words(run, tape, q.label))
    if q.second:
        parts.append(pair_words(run, tape, q.block, q.head, value, q.label, q.second))
    return "\n\n".join(parts)
