"""Where a tuned network draws the line between object and background, by the labels that the user left."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from napari_attnseg.core.corrections import compare_labels, known_objects
from napari_attnseg.core.metrics import Counts, compare, pooled
from napari_attnseg.core.postprocess import read_out
from napari_attnseg.nn.judge import choose, count_objects, read_field
from napari_attnseg.params import ReadoutParams

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt
    import torch

    from napari_attnseg.nn.engine import TorchEngine
    from napari_attnseg.records import DenseMaps, Sample

SHIFTS = (0.0, 0.5, 1.0)  # by which the logit of the foreground may be lowered
_FEWEST = 20  # objects, below which they do not tell
_BIAS = "head.dense.bias"


def find_shift(
    engine: TorchEngine, samples: Sequence[Sample], stop: Callable[[], bool] = lambda: False
) -> float:
    """Return by how much the foreground logit of a tuned network is to be lowered.

    In the loss the drawn objects weigh as much as all background around them, and what the parent was
    unsure of is left open; so a tuned network may call too much foreground where nobody corrected
    anything.  Logits can be adjusted for such a prior after training (Menon et al. 2021, arXiv
    2007.07314).  By how much, all labels of the corrected images tell: that shift is taken at which AP@.5
    with what the user drew *or left* is highest, if that gains more than one object.  Only lowering is
    tried: labels that nobody looked at hold false objects of the parent's, so they ask for too much
    foreground rather than for too little.  Never by more than 1: other images lose faint objects by it.

    Parameters
    ----------
    engine : TorchEngine
        Of the tuned weights.
    samples : sequence of Sample
        That were learnt from.
    stop : callable
        Asked between samples; True gives up.

    Returns
    -------
    float
        One of :data:`SHIFTS`; 0 where fewer than 20 objects are left or known, or when given up.
    """
    counts: list[list[Counts]] = [[] for _ in SHIFTS]
    for sample in choose(samples):
        if stop():
            return 0.0
        maps = read_field(engine, sample.image)[1]
        for kept, shift in zip(counts, SHIFTS, strict=True):
            kept.append(count_left(read_out(lowered(maps, shift), ReadoutParams())[0], sample))
    objects = sum(c.truth for c in counts[0])
    if objects < _FEWEST:
        return 0.0
    agreement = [float(pooled(kept)["ap"]["0.50"]) for kept in counts]
    best = int(np.argmax(agreement))  # the least of equals
    return SHIFTS[best] if agreement[best] > agreement[0] + 1 / objects else 0.0


def count_left(found: npt.NDArray[np.int32], sample: Sample) -> Counts:
    """Compare a prediction with the objects that were drawn and those that the user left as predicted.

    Corrected objects that may not teach, and what lies on them, do not count.  Where no prediction is
    kept, or more objects were added than left, what is not labelled may well be an object: then only what
    is known counts.
    """
    if sample.before is None:
        return count_objects(found, sample)
    changes = compare_labels(sample.before, sample.labels)
    if len(changes.kept) < len(changes.added):
        return count_objects(found, sample)
    here = np.isin(sample.labels, (*changes.kept, *known_objects(sample)))
    elsewhere = (sample.labels > 0) & ~here
    size = np.bincount(found.ravel())
    outside = np.bincount(found.ravel(), elsewhere.ravel(), minlength=len(size))
    counts_here = outside < 0.5 * np.maximum(size, 1)
    counts_here[0] = False
    return compare(np.where(counts_here[found], found, 0), np.where(here, sample.labels, 0))


def lowered(maps: DenseMaps, shift: float) -> DenseMaps:
    """Return maps whose foreground has a logit lower by ``shift``."""
    if not shift:
        return maps
    p = np.clip(maps.foreground.astype(np.float64), 1e-7, 1 - 1e-7)
    odds = p / (1 - p) * np.exp(-shift)
    return replace(maps, foreground=(odds / (1 + odds)).astype(np.float32))


def lower(weights: dict[str, torch.Tensor], shift: float) -> dict[str, torch.Tensor]:
    """Return weights of a network whose foreground logit is lower by ``shift``."""
    if not shift or _BIAS not in weights:  # another package's network may end in something else
        return weights
    bias = weights[_BIAS].clone()
    bias[:4] -= shift  # the four pixels of stride 2; foreground comes first
    return {**weights, _BIAS: bias}
