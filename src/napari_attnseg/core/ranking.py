"""What to correct next: which objects and fields the network is least sure of.

Three doubts, each 0..1, and a score that is high where any of them is:

- **margin**: a pixel's attention on its seed less that on the runner-up (another seed, or the background),
  times how far its foreground probability lies from a coin's; one less the mean over the object;
- **views**: one less the mean IoU with the object's best partner in flipped and turned views of the image;
- **novelty**: the share of all objects whose mean embedding lies nearer to a labelled object's than this
  one's (nearer to the mean of all objects, while nothing is labelled).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from napari_attnseg.core.metrics import overlaps
from napari_attnseg.core.postprocess import find_seeds
from napari_attnseg.params import THRESHOLD
from napari_attnseg.records import PlaneKey

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from napari_attnseg.records import DenseMaps

    Labels = npt.NDArray[np.int32]
    Floats = npt.NDArray[np.float32]

NOVELTY_SHARE = 0.25  # novelty alone cannot raise a score above this
_UNLIKE = ("unlike the other objects", "unlike what is labelled")  # by Doubts.labelled
_FAINT = 0.4  # share of the threshold from which an unlabelled place may be a missed object
_FIELD = 8  # side of a field, in object diameters


@dataclass(frozen=True, slots=True)
class Suspect:
    """An object, a place where one may be missing, or a field, and how much it wants a look.

    Attributes
    ----------
    kind : {"object", "missed", "field"}
    label : int
        Id of the object; 0 for the others.
    box : tuple of int
        (top, left, bottom, right) in pixels of the plane, the last two exclusive.
    score : float
        0..1, most suspect first.
    why : str
        The largest doubt, in words.
    plane : PlaneKey
    picture : ndarray or None, (h, w, 3) uint8
        A thumbnail.
    """

    kind: Literal["object", "missed", "field"]
    label: int
    box: tuple[int, int, int, int]
    score: float
    why: str
    plane: PlaneKey = field(default_factory=PlaneKey)
    picture: npt.NDArray[np.uint8] | None = None


@dataclass(frozen=True, slots=True)
class Doubts:
    """The doubts about the objects of one plane.

    Attributes
    ----------
    index : ndarray, (n,) int64
        Label ids, ascending.
    margin : ndarray, (n,) float32
    views, novelty : ndarray or None, (n,) float32
        None where they were not measured.
    labelled : bool
        Whether novelty was measured from labelled objects, not from the mean of all.
    """

    index: npt.NDArray[np.int64]
    margin: Floats
    views: Floats | None = None
    novelty: Floats | None = None
    labelled: bool = False

    @property
    def score(self) -> Floats:
        """The doubts joined: 1 - (1 - margin)(1 - views)(1 - novelty / 4)."""
        sure = 1 - self.margin
        if self.views is not None:
            sure = sure * (1 - self.views)
        if self.novelty is not None:
            sure = sure * (1 - NOVELTY_SHARE * self.novelty)
        return np.asarray(1 - sure, dtype=np.float32)

    def why(self, row: int) -> str:
        """Say what speaks most against an object."""
        words = [(float(self.margin[row]), "torn between seeds")]
        if self.views is not None:
            words.append((float(self.views[row]), "flipped views disagree"))
        if self.novelty is not None:
            words.append((NOVELTY_SHARE * float(self.novelty[row]), _UNLIKE[self.labelled]))
        return max(words)[1]


def ids_of(labels: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """Return the ids of a label image, ascending, without 0."""
    ids = np.unique(labels).astype(np.int64)
    found: npt.NDArray[np.int64] = ids[ids != 0]
    return found


def pixel_doubt(maps: DenseMaps, threshold: float = THRESHOLD, split: float = 0.0) -> Floats:
    """Return one less the readout's margin for every pixel, (H, W) float32, 0..1.

    Background pixels have no seed: theirs is the entropy-like ``1 - |2p - 1|`` of the foreground.  Seeds that
    the readout drops as parts of one object count here: their pixels are torn.
    """
    p = maps.foreground
    sure = np.abs(2 * p - 1)
    doubt = (1 - sure).astype(np.float32)
    seeds = find_seeds(maps, threshold, split, parts=True)
    ground = np.clip(1 - seeds.weight - seeds.runner_up, 0, 1)
    margin = np.clip(seeds.weight - np.maximum(seeds.runner_up, ground), 0, 1)
    flat = doubt.ravel()
    flat[seeds.pixels] = 1 - margin * sure.ravel()[seeds.pixels]
    return doubt


def mean_by_object(values: Floats, labels: npt.NDArray[np.integer], ids: npt.NDArray[np.int64]) -> Floats:
    """Return the mean of ``values``, (H, W) or (C, H, W), over every object: (n,) or (C, n) float32."""
    inside = np.flatnonzero(labels.ravel())
    row = np.searchsorted(ids, labels.ravel()[inside])
    count = np.maximum(sizes_of(labels, ids), 1)
    planes = values.reshape(-1, labels.size)
    means = np.stack([np.bincount(row, plane[inside], minlength=len(ids)) / count for plane in planes])
    return (means if values.ndim == 3 else means[0]).astype(np.float32)


def sizes_of(labels: npt.NDArray[np.integer], ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the number of pixels of every object; ``ids`` are all ids of the image or more, ascending."""
    row = np.searchsorted(ids, labels[labels != 0])
    size: npt.NDArray[np.int64] = np.bincount(row, minlength=len(ids)).astype(np.int64)
    return size


def disagreement(labels: npt.NDArray[np.integer], views: Sequence[Labels]) -> Floats:
    """Return one less the mean best IoU of every object over other segmentations of the same plane, (n,)."""
    ids = ids_of(labels)
    own = np.searchsorted(np.append(0, ids), labels).astype(np.int32)
    total = np.zeros(len(ids) + 1)
    for view in views:
        best = np.zeros(len(ids) + 1)
        rows, _, iou = overlaps(own, view, len(ids), int(view.max(initial=0)))
        np.maximum.at(best, rows, iou)
        total += best
    return (1 - total[1:] / max(len(views), 1)).astype(np.float32)


def novelty(embedding: Floats, references: Floats | None) -> Floats:
    """Return how unlike the labelled objects each one is, as a rank, 0..1.

    Parameters
    ----------
    embedding : ndarray, (C, n)
        Mean embeddings.
    references : ndarray or None, (C, m)
        Those of labelled objects; None takes the mean of all objects.
    """
    if embedding.shape[1] < 2:
        return np.zeros(embedding.shape[1], dtype=np.float32)
    if references is None or references.shape[1] == 0:
        references = embedding.mean(axis=1, keepdims=True)
    away = 1 - (_unit(embedding).T @ _unit(references)).max(axis=1)
    order = np.argsort(np.argsort(away, kind="stable"), kind="stable")
    return (order / (len(away) - 1)).astype(np.float32)


def _unit(vectors: Floats) -> Floats:
    length = np.linalg.norm(vectors, axis=0, keepdims=True)
    return np.asarray(vectors / np.maximum(length, 1e-9), dtype=np.float32)


def suspects(labels: npt.NDArray[np.integer], doubts: Doubts) -> list[Suspect]:
    """Return every object of a plane as a suspect, in the order of the ids."""
    from scipy.ndimage import find_objects

    rank = np.searchsorted(np.append(0, doubts.index), labels).astype(np.int32)
    score = doubts.score
    found = []
    for row, box in enumerate(find_objects(rank, max_label=len(doubts.index))):
        if box is not None:
            why = doubts.why(row)
            found.append(Suspect("object", int(doubts.index[row]), _bounds(box), float(score[row]), why))
    return found


def missed(
    maps: DenseMaps,
    labels: npt.NDArray[np.integer],
    views: Sequence[Labels] = (),
    threshold: float = THRESHOLD,
    min_size: int = 12,
) -> list[Suspect]:
    """Return unlabelled places that may be objects.

    Places that the network half sees (from ``0.4 threshold``), or that half of the views label; the score is
    the mean over the place of the larger of ``p / 2 threshold`` and the share of views.
    """
    from scipy.ndimage import binary_dilation, binary_opening, find_objects
    from scipy.ndimage import label as pieces_of

    signal = np.clip(maps.foreground / (2 * threshold), 0, 1)
    faint = maps.foreground > _FAINT * threshold
    if views:
        share = np.mean([view > 0 for view in views], axis=0, dtype=np.float32)
        signal = np.maximum(signal, share)
        faint |= share >= 0.5
    faint &= ~binary_dilation(labels != 0, iterations=2)  # not the rim of an object
    pieces, count = pieces_of(binary_opening(faint))
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    total = np.bincount(pieces.ravel(), signal.ravel(), minlength=count + 1)
    boxes = find_objects(pieces)
    return [
        Suspect("missed", 0, _bounds(box), float(total[n] / sizes[n]), "perhaps a missed object")
        for n, box in enumerate(boxes, start=1)
        if box is not None and sizes[n] >= max(min_size, 1)
    ]


def fields(shape: tuple[int, int], found: Sequence[Suspect], diameter: float) -> list[Suspect]:
    """Return the fields of a plane by the mean score of what lies in them, best to look at first.

    Fields are squares of about eight object diameters that tile the plane.
    """
    side = max(64.0, _FIELD * diameter)
    counts = [max(1, round(n / side)) for n in shape]
    edges = [np.linspace(0, n, c + 1).astype(int) for n, c in zip(shape, counts, strict=True)]
    scores: dict[tuple[int, int], list[float]] = {}
    for suspect in found:
        middle = (suspect.box[0] + suspect.box[2]) / 2, (suspect.box[1] + suspect.box[3]) / 2
        cell = tuple(
            int(np.clip(np.searchsorted(e, m, side="right") - 1, 0, len(e) - 2))
            for e, m in zip(edges, middle, strict=True)
        )
        scores.setdefault((cell[0], cell[1]), []).append(suspect.score)
    made = []
    for (row, column), values in scores.items():
        box = tuple(
            int(n) for n in (edges[0][row], edges[1][column], edges[0][row + 1], edges[1][column + 1])
        )
        many = f"{len(values)} object{'' if len(values) == 1 else 's'} or places in doubt"
        made.append(Suspect("field", 0, (box[0], box[1], box[2], box[3]), float(np.mean(values)), many))
    return ordered(made)


def ordered(found: Sequence[Suspect]) -> list[Suspect]:
    """Return suspects, the most suspect first; ties in the order they came."""
    return sorted(found, key=lambda suspect: -suspect.score)


def moved(suspect: Suspect, corner: tuple[int, int], plane: PlaneKey) -> Suspect:
    """Return a suspect of a field of view in coordinates of its whole plane."""
    top, left, bottom, right = suspect.box
    y, x = corner
    return replace(suspect, box=(top + y, left + x, bottom + y, right + x), plane=plane)


def _bounds(box: tuple[slice, ...]) -> tuple[int, int, int, int]:
    return box[0].start, box[1].start, box[0].stop, box[1].stop
