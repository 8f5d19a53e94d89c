"""What a user corrected in a label image, which pixels are known by it, and which are held out to judge.

Unlabelled is not background: a pixel teaches only where the user has said what it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from napari_attnseg.core.labels import compact
from napari_attnseg.core.metrics import id_overlaps
from napari_attnseg.errors import InputError
from napari_attnseg.records import Sample

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import numpy.typing as npt

    Labels = npt.NDArray[np.int32]
    Mask = npt.NDArray[np.bool_]

Known = Literal["objects", "all", "regions"]
MARGIN = 3  # pixels around a corrected object that are certainly not that object
CONTEXT = 96  # pixels of image kept around what is known
TOO_FEW = "too few to judge"
_SAME_OBJECT = 0.2  # from this IoU on, an object is a reshaped earlier one
_FEWEST = 8  # objects, below which none is held out
_SHARE = 0.25  # of the objects that are held out
_LARGEST_ID = 1_000_000  # of an object: tables by id, and float32, hold no larger ones well


@dataclass(frozen=True, slots=True)
class Changes:
    """What differs between a prediction and its corrected labels, by object.

    Attributes
    ----------
    added, reshaped, kept : tuple of int
        Ids in the corrected labels.
    removed : tuple of int
        Ids in the prediction.
    accepted : tuple of int
        Ids in the corrected labels of objects that are as predicted and that the user called right.
    replaced : tuple of int
        Ids in the prediction of the objects that were reshaped.
    """

    added: tuple[int, ...] = ()
    removed: tuple[int, ...] = ()
    reshaped: tuple[int, ...] = ()
    kept: tuple[int, ...] = ()
    accepted: tuple[int, ...] = ()
    replaced: tuple[int, ...] = ()

    @property
    def corrected(self) -> tuple[int, ...]:
        """Ids of the objects that the user drew, reshaped or accepted."""
        return tuple(sorted((*self.added, *self.reshaped, *self.accepted)))

    @property
    def count(self) -> int:
        """Number of corrections: objects added, removed, reshaped and accepted."""
        return len(self.added) + len(self.removed) + len(self.reshaped) + len(self.accepted)

    def summary(self) -> str:
        """Return the numbers in words: "3 added, 1 removed, 4 reshaped"."""
        parts = [(self.added, "added"), (self.removed, "removed"), (self.reshaped, "reshaped")]
        parts.append((self.accepted, "accepted"))
        return ", ".join(f"{len(ids)} {word}" for ids, word in parts if ids) or "nothing corrected"


def compare_labels(
    before: npt.NDArray[np.integer] | None, after: npt.NDArray[np.integer], checked: Collection[int] = ()
) -> Changes:
    """Compare corrected labels with the prediction they started from.

    Objects are compared by their pixels, not by their ids: an object is *kept* when a predicted one has
    exactly its pixels, *reshaped* when it is the best partner of a predicted one (IoU of 0.2 or more, one to
    one), else *added*; predicted objects without a partner are *removed*.

    Parameters
    ----------
    before : ndarray or None, (H, W) int
        The prediction; None where it is not known: every object is then *added*.
    after : ndarray, (H, W) int
        The corrected labels.
    checked : collection of int
        Ids in ``after`` that the user called right: those that would be *kept* are *accepted*.

    Raises
    ------
    InputError
        The shapes differ.
    """
    ids = np.unique(after)
    ids = ids[ids != 0]
    if before is None:
        return Changes(added=tuple(int(i) for i in ids))
    if before.shape != after.shape:
        raise InputError(
            f"The prediction has the shape {before.shape}, the labels have {after.shape}.",
            "Run the image again.",
        )
    old = np.unique(before)
    old = old[old != 0]
    partner = _partners(before, after)
    names = [int(i) for i in ids]
    same = [i for i in names if i in partner and partner[i][1] == 1.0]
    kept = tuple(i for i in same if i not in checked)
    accepted = tuple(i for i in same if i in checked)
    reshaped = tuple(i for i in names if i in partner and partner[i][1] != 1.0)
    added = tuple(i for i in names if i not in partner)
    taken = {one for one, _ in partner.values()}
    removed = tuple(int(i) for i in old if int(i) not in taken)
    replaced = tuple(sorted(partner[i][0] for i in reshaped))
    return Changes(added, removed, reshaped, kept, accepted, replaced)


def _partners(
    before: npt.NDArray[np.integer], after: npt.NDArray[np.integer]
) -> dict[int, tuple[int, float]]:
    """Return of each object in ``after`` that was a predicted one: which, and their IoU."""
    olds, news, iou = id_overlaps(before, after)
    partner: dict[int, tuple[int, float]] = {}
    taken: set[int] = set()
    for n in np.lexsort((news, olds, -iou)):
        one, other = int(olds[n]), int(news[n])
        if iou[n] >= _SAME_OBJECT and one not in taken and other not in partner:
            partner[other] = (one, float(iou[n]))
            taken.add(one)
    return partner


def known_mask(
    before: npt.NDArray[np.integer] | None,
    after: npt.NDArray[np.integer],
    changes: Changes,
    mode: Known = "objects",
    regions: Mask | None = None,
    margin: int = MARGIN,
) -> Mask:
    """Return where the labels may teach, (H, W) bool.

    Parameters
    ----------
    before, after : ndarray, (H, W) int
        The prediction (None where unknown) and the corrected labels.
    changes : Changes
        From :func:`compare_labels`.
    mode : {"objects", "all", "regions"}
        *objects*: the corrected objects, a ring of ``margin`` pixels around each as far as it is background
        or another corrected object, and what was erased, which is certain background.  *all*: every pixel.
        *regions*: the pixels of ``regions``, and objects only where they lie wholly inside it.
    regions : ndarray or None, (H, W) bool
        Where the user says that everything is labelled.
    margin : int
        Width of the ring, pixels.

    Raises
    ------
    InputError
        Mode "regions" without regions.
    """
    if mode == "all":
        return np.ones(after.shape, dtype=bool)
    if mode == "regions":
        if regions is None or regions.shape != after.shape:
            raise InputError("No region is drawn.", "Draw one in a Shapes layer, or choose other pixels.")
        cut = np.unique(after[~regions])
        whole: Mask = regions & ((after == 0) | ~np.isin(after, cut))
        return whole
    mine = np.isin(after, changes.corrected) if changes.corrected else np.zeros(after.shape, dtype=bool)
    known = mine | ((after == 0) & near(mine, margin))
    if before is not None:
        erased = (before != 0) & (after == 0)
        gone = np.isin(before, (*changes.removed, *changes.replaced))
        known = known | (erased & (gone | near(mine, margin)))
    return np.asarray(known, dtype=bool)


def near(mask: Mask, margin: int) -> Mask:
    """Return the pixels at most ``margin`` from ``mask`` (Euclidean), without scanning empty images."""
    from scipy.ndimage import distance_transform_edt

    if margin <= 0 or not mask.any():
        return mask
    near: Mask = distance_transform_edt(~mask) <= margin
    return near


def make_sample(
    image: npt.NDArray[np.float32],
    before: npt.NDArray[np.integer] | None,
    after: npt.NDArray[np.integer],
    *,
    mode: Known = "objects",
    regions: Mask | None = None,
    name: str = "",
    checked: Collection[int] = (),
) -> Sample | None:
    """Make the training sample of one corrected plane, cut to what is known and 96 pixels around it.

    Parameters
    ----------
    image : ndarray, (C, H, W) float32
        Normalised as a whole plane.
    name : str
        Image and plane.
    checked : collection of int
        Ids of objects that the user called right.

    Returns
    -------
    Sample or None
        None where nothing is known.  Ids above a million, or below zero, are numbered anew.
    """
    after, before, checked = _handy(after, before, checked)
    changes = compare_labels(before, after, checked)
    known = known_mask(before, after, changes, mode, regions)
    if not known.any():
        return None
    objects = changes.corrected if mode == "objects" else ()
    at = np.nonzero(known)
    box = tuple(
        slice(max(0, int(a.min()) - CONTEXT), min(n, int(a.max()) + 1 + CONTEXT))
        for a, n in zip(at, known.shape, strict=True)
    )
    return Sample(
        image=np.ascontiguousarray(image[(slice(None), *box)], dtype=np.float32),
        labels=after[box].astype(np.int32),
        known=known[box],
        name=name,
        origin=(box[0].start, box[1].start),
        before=None if before is None else before[box].astype(np.int32),
        objects=objects,
    )


def _handy(
    after: npt.NDArray[np.integer], before: npt.NDArray[np.integer] | None, checked: Collection[int]
) -> tuple[npt.NDArray[np.integer], npt.NDArray[np.integer] | None, Collection[int]]:
    """Number objects anew where their ids are too large for tables by id; equal ids stay equal."""
    planes = [plane for plane in (after, before) if plane is not None]
    if not any(plane.size and (plane.max() > _LARGEST_ID or plane.min() < 0) for plane in planes):
        return after, before, checked
    small, ids = compact(np.stack([plane.astype(np.int64) for plane in planes]))
    number = {int(old): new for new, old in enumerate(ids, 1)}
    renamed = tuple(number[i] for i in checked if i in number)
    return small[0], None if before is None else small[1], renamed


def known_objects(sample: Sample) -> tuple[int, ...]:
    """Return the ids of the objects that can teach: all their pixels are known, and they are listed."""
    known = np.unique(sample.labels[sample.known])
    cut = np.unique(sample.labels[~sample.known])
    whole = np.setdiff1d(known[known != 0], cut)
    if sample.objects:
        whole = np.intersect1d(whole, sample.objects)
    return tuple(int(i) for i in whole)


def erased_objects(sample: Sample) -> tuple[int, ...]:
    """Return the ids of the predicted objects that are gone with nothing in their place.

    All their pixels are known background; what a drawn object covers or gave up is told by that object.
    """
    if sample.before is None:
        return ()
    before = sample.before.ravel()
    size = np.bincount(before)
    ground = np.bincount(before, ((sample.labels == 0) & sample.known).ravel(), minlength=len(size))
    removed = compare_labels(sample.before, sample.labels).removed
    return tuple(i for i in removed if ground[i] == size[i])


@dataclass(frozen=True, slots=True)
class Split:
    """Samples to learn from and samples to judge by; without the latter ``reason`` says why.

    Attributes
    ----------
    train, held : tuple of Sample
        The same fields may stand in both, but no known pixel does.
    reason : str
        Empty, or "too few to judge".
    """

    train: tuple[Sample, ...]
    held: tuple[Sample, ...] = ()
    reason: str = ""


def hold_out(samples: Sequence[Sample], seed: int = 0, *, margin: int = MARGIN) -> Split:
    """Hold out about a quarter of the known objects, so that no pixel that they tell of teaches.

    Whole fields (samples of one ``name``) are held out when there are four or more; else objects, with
    the ring around them.  With fewer than 8 objects all of them teach and nothing can be judged.
    """
    listed = [(n, i) for n, s in enumerate(samples) for i in known_objects(s)]
    if len(listed) < _FEWEST:
        return Split(tuple(samples), (), TOO_FEW)
    rng = np.random.default_rng([seed, len(listed)])
    fields = sorted({s.name for s in samples if s.name and known_objects(s)})
    want = max(2, round(_SHARE * len(listed)))
    if len(fields) >= 4 and all(s.name for s in samples):
        return _by_field(samples, [fields[i] for i in rng.permutation(len(fields))], want)
    picked = {listed[i] for i in rng.permutation(len(listed))[:want]}
    zones = [_told_by(s, [i for m, i in picked if m == n], margin) for n, s in enumerate(samples)]
    train, held = [], []
    for n, sample in enumerate(samples):
        mine = tuple(sorted(i for m, i in picked if m == n))
        elsewhere = _seen_elsewhere(samples, zones, n)
        gone = {*mine, *(int(i) for i in np.unique(sample.labels[elsewhere]))}
        rest = tuple(i for i in known_objects(sample) if i not in gone)
        # an object that stays keeps its pixels where it touches the zone, and the zone loses them
        stays = np.isin(sample.labels, rest)
        zone = (zones[n] | elsewhere | np.isin(sample.labels, sorted(gone - {0}))) & ~stays
        train.append(replace(sample, known=sample.known & ~zone, objects=rest))
        if mine:
            held.append(replace(sample, known=sample.known & zones[n] & ~stays, objects=mine))
    return Split(tuple(s for s in train if s.known.any()), tuple(held))


def _told_by(sample: Sample, ids: list[int], margin: int) -> Mask:
    """Return where objects tell something, (H, W) bool: they, their rings, and what they gave up."""
    zone = near(np.isin(sample.labels, ids), margin)
    if sample.before is None or not ids:
        return zone
    partner = _partners(sample.before, sample.labels)
    was = [partner[i][0] for i in ids if i in partner]
    zone |= (sample.labels == 0) & np.isin(sample.before, was)
    return zone


def _seen_elsewhere(samples: Sequence[Sample], zones: list[Mask], n: int) -> Mask:
    """Return where sample ``n`` shows what another sample of its field holds out, (H, W) bool."""
    sample = samples[n]
    out = np.zeros(sample.labels.shape, dtype=bool)
    for m, other in enumerate(samples):
        if m == n or not sample.name or other.name != sample.name or not zones[m].any():
            continue
        shift = [b - a for a, b in zip(sample.origin, other.origin, strict=True)]
        mine = [
            slice(max(0, shift[axis]), min(out.shape[axis], shift[axis] + other.labels.shape[axis]))
            for axis in (0, 1)
        ]
        if any(s.start >= s.stop for s in mine):
            continue
        there = tuple(slice(s.start - d, s.stop - d) for s, d in zip(mine, shift, strict=True))
        out[tuple(mine)] |= zones[m][there]
    return out


def _by_field(samples: Sequence[Sample], fields: list[str], want: int) -> Split:
    """Hold out fields in the given order until ``want`` objects are reached; at least two stay."""
    held: set[str] = set()
    count = 0
    for name in fields[:-2]:
        if count >= want:
            break
        held.add(name)
        count += sum(len(known_objects(s)) for s in samples if s.name == name)
    return Split(tuple(s for s in samples if s.name not in held), tuple(s for s in samples if s.name in held))
