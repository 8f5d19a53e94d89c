"""How well predicted objects agree with the true ones: AP, F1, PQ and Dice, pooled over images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_attnseg.core.labels import compact
from napari_attnseg.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt

THRESHOLDS = tuple(round(0.5 + 0.05 * i, 2) for i in range(9))  # 0.50 ... 0.90


@dataclass(frozen=True, slots=True)
class Counts:
    """What one image, or several together, contributes to the scores.

    Attributes
    ----------
    tp : ndarray, (len(THRESHOLDS),) int64
        Matched pairs at each IoU threshold.
    iou_sum : float
        Sum of the IoU of the pairs matched at 0.5.
    pred, truth : int
        Number of objects.
    pred_pixels, truth_pixels, both_pixels : int
        Foreground pixels.
    """

    tp: npt.NDArray[np.int64]
    iou_sum: float
    pred: int
    truth: int
    pred_pixels: int
    truth_pixels: int
    both_pixels: int

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.tp + other.tp,
            self.iou_sum + other.iou_sum,
            self.pred + other.pred,
            self.truth + other.truth,
            self.pred_pixels + other.pred_pixels,
            self.truth_pixels + other.truth_pixels,
            self.both_pixels + other.both_pixels,
        )


def compare(pred: npt.NDArray[np.generic], truth: npt.NDArray[np.generic]) -> Counts:
    """Compare two label images of the same shape (any number of axes, 0 = background).

    Objects are paired one to one so that the summed IoU is largest (Hungarian matching), among pairs
    whose IoU is at least the threshold.
    """
    if pred.shape != truth.shape:
        raise InputError(
            f"The label images have the shapes {pred.shape} and {truth.shape}.", "They must be equal."
        )
    a, b = _labels(pred), _labels(truth)
    n, m = int(a.max(initial=0)), int(b.max(initial=0))
    rows, cols, iou = overlaps(a, b, n, m)
    tp = np.zeros(len(THRESHOLDS), dtype=np.int64)
    iou_sum = 0.0
    for t, threshold in enumerate(THRESHOLDS):
        matched = _matched(rows, cols, iou, threshold)
        tp[t] = len(matched)
        if t == 0:
            iou_sum = float(matched.sum())
    return Counts(tp, iou_sum, n, m, int((a > 0).sum()), int((b > 0).sum()), int(((a > 0) & (b > 0)).sum()))


def _labels(image: npt.NDArray[np.generic]) -> npt.NDArray[np.int32]:
    if image.dtype.kind == "f":
        if not np.array_equal(image, np.round(image)):  # NaN fails here too
            raise InputError("A label image must hold whole numbers.", "Save the labels as integers.")
        image = image.astype(np.int64)
    if image.dtype.kind not in "biu":
        raise InputError(f"Labels of type {image.dtype} cannot be compared.", "Save the labels as integers.")
    if image.dtype.kind == "b":
        image = image.astype(np.int32)
    return compact(image)[0]  # type: ignore[arg-type]


def overlaps(
    a: npt.NDArray[np.int32], b: npt.NDArray[np.int32], n: int, m: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return the labels (rows, cols) of every overlapping pair and its IoU."""
    area_a = np.bincount(a.ravel(), minlength=n + 1)
    area_b = np.bincount(b.ravel(), minlength=m + 1)
    codes, counts = np.unique(a.astype(np.int64).ravel() * (m + 1) + b.ravel(), return_counts=True)
    rows, cols = codes // (m + 1), codes % (m + 1)
    real = (rows > 0) & (cols > 0)
    rows, cols, counts = rows[real], cols[real], counts[real]
    return rows, cols, counts / (area_a[rows] + area_b[cols] - counts)


def id_overlaps(
    a: npt.NDArray[np.integer], b: npt.NDArray[np.integer]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return the ids (in a, in b) of every overlapping pair of objects and its IoU; 0 is background."""
    (first, ids), (second, others) = compact(a), compact(b)
    rows, cols, iou = overlaps(first, second, len(ids), len(others))
    return ids[rows - 1], others[cols - 1], iou


def _matched(
    rows: npt.NDArray[np.int64], cols: npt.NDArray[np.int64], iou: npt.NDArray[np.float64], threshold: float
) -> npt.NDArray[np.float64]:
    """Return the IoU of the matched pairs.

    A pair whose partners have no other candidate needs no matching; above 0.5 that is every pair.
    """
    ok = iou >= threshold
    rows, cols, iou = rows[ok], cols[ok], iou[ok]
    if rows.size == 0:
        return iou
    alone = (np.bincount(rows)[rows] == 1) & (np.bincount(cols)[cols] == 1)
    rest = ~alone
    if not rest.any():
        return iou
    from scipy.optimize import linear_sum_assignment

    r_ids, r = np.unique(rows[rest], return_inverse=True)
    c_ids, c = np.unique(cols[rest], return_inverse=True)
    table = np.zeros((len(r_ids), len(c_ids)))
    table[r, c] = iou[rest]
    picked = table[linear_sum_assignment(table, maximize=True)]
    return np.concatenate([iou[alone], picked[picked > 0]])


def scores(counts: Counts) -> dict[str, Any]:
    """Return ``ap`` per IoU threshold, ``mean_ap``, ``f1`` and ``pq`` at 0.5 and foreground ``dice``.

    AP = TP / (TP + FP + FN).  Where there is nothing to find and nothing was found, a score is 1.
    """
    union = counts.pred + counts.truth - counts.tp
    ap = [_ratio(float(tp), float(u)) for tp, u in zip(counts.tp, union, strict=True)]
    objects = counts.pred + counts.truth
    return {
        "ap": {f"{t:.2f}": value for t, value in zip(THRESHOLDS, ap, strict=True)},
        "mean_ap": float(np.mean(ap)),
        "f1": _ratio(2.0 * float(counts.tp[0]), objects),
        "pq": _ratio(counts.iou_sum, objects / 2),
        "dice": _ratio(2.0 * counts.both_pixels, counts.pred_pixels + counts.truth_pixels),
    }


def pooled(counts: Iterable[Counts]) -> dict[str, Any]:
    """Return :func:`scores` of all images taken together, with their number ``n``."""
    listed = list(counts)
    if not listed:
        raise InputError("There is nothing to evaluate.", "Give at least one pair of label images.")
    total = listed[0]
    for one in listed[1:]:
        total = total + one
    return {"n": len(listed), **scores(total)}


def _ratio(value: float, of: float) -> float:
    return value / of if of else 1.0
