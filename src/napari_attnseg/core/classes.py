"""Semantic classes: what a model's maps say, names and numbers, scores, and what is held out to judge.

A class label is a number per pixel, 0 is background; which pixels are known stands beside it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_attnseg.core.corrections import TOO_FEW, Split, near
from napari_attnseg.errors import TrainingDataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy.typing as npt

    from napari_attnseg.records import DenseMaps, ModelCard, Sample

    Labels = npt.NDArray[np.int32]
    Mask = npt.NDArray[np.bool_]

BACKGROUND = "background"  # the name of a number that teaches background
MOST = 32  # different numbers, above which labels look like objects
GUARD = 8  # pixels around what is held out that teach nothing
_CELL = 64  # side of the pieces into which a wide known area is cut, pixels
_FEWEST = 8  # areas, below which none is held out
_FIELDS = 4  # from this many images on, whole images are held out
_SHARE = 0.25  # of the areas or images that are held out
_SPECK = 10  # pixels of a class that an area must have to count for it


# -- names and numbers ----------------------------------------------------------------------------


def class_names(card: ModelCard) -> tuple[str, ...]:
    """Return the names of the classes that a model tells apart; () for one that knows objects only."""
    told = len(card.classes) > 1 or card.training.get("task") == "classes"
    return tuple(card.classes) if told else ()


def default_name(number: int) -> str:
    """Return the name of a class that nobody named."""
    return f"class {number}"


def numbered_names(count: int, given: Sequence[str] = ()) -> tuple[str, ...]:
    """Return names for the numbers 1..count: those given, "class n" for the others."""
    names = [str(name).strip() for name in given[:count]]
    names += [""] * (count - len(names))
    return tuple(name or default_name(n) for n, name in enumerate(names, start=1))


def look_alike(names: Iterable[str]) -> tuple[str, str] | None:
    """Return two names that differ only in upper and lower case, or None."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.lower(), name)
        if other != name:
            return other, name
    return None


def check_names(names: Iterable[str]) -> None:
    """Raise ``TrainingDataError`` where two names differ only in upper and lower case."""
    if (alike := look_alike(names)) is not None:
        raise TrainingDataError(
            f"The classes '{alike[0]}' and '{alike[1]}' differ only in upper and lower case.",
            "Give both the same name, or quite different ones.",
        )


def joined_names(known: Sequence[str], samples: Sequence[Sample]) -> tuple[str, ...]:
    """Return the classes of a new model: those of its parent, then the new ones that samples have pixels of.

    Raises
    ------
    TrainingDataError
        A sample has a number without a name, all are background, there are too many, two names differ only
        in case, or all known pixels are of one kind.
    """
    names = list(known)
    kinds: set[str] = set()
    for sample in samples:
        for number in np.unique(sample.labels[sample.known]):
            if number == 0:
                kinds.add(BACKGROUND)
                continue
            if not 1 <= number <= len(sample.classes):
                raise TrainingDataError(
                    f"The class number {number} in '{sample.name}' has no name.",
                    "Number the classes 1, 2, 3.",
                )
            name = sample.classes[number - 1]
            kinds.add(name.lower())
            if name not in names and name.lower() != BACKGROUND:
                names.append(name)
    if not names:
        raise TrainingDataError("The labels hold no class.", "Paint at least one class, or two.")
    check_names(names)
    if len(names) > MOST:
        raise TrainingDataError(
            f"The labels hold {len(names):,} classes, {MOST} are possible.", "Learn objects from them."
        )
    if len(kinds) < 2:
        raise TrainingDataError(
            "Only one class is known.", "Paint a second one, or say where background is known."
        )
    return tuple(names)


def renumbered(sample: Sample, names: Sequence[str]) -> Sample:
    """Return a sample whose numbers count in ``names``; one named "background" becomes 0."""
    table = np.zeros(len(sample.classes) + 1, dtype=np.int32)
    for number, name in enumerate(sample.classes, start=1):
        if name in names:
            table[number] = names.index(name) + 1
    inside = (sample.labels >= 0) & (sample.labels < len(table)) & sample.known
    labels = np.where(inside, table[np.where(inside, sample.labels, 0)], 0).astype(np.int32)
    return replace(sample, labels=labels, classes=tuple(names))


def class_numbers(labels: npt.NDArray[Any], where: str) -> tuple[int, ...]:
    """Return the class numbers that a label image holds, without 0.

    Raises
    ------
    TrainingDataError
        There are too many different ones for classes, or negative ones.
    """
    values = np.unique(labels)
    values = values[values != 0]
    if len(values) > MOST or values.max(initial=0) > 1000:
        count = f"{len(values):,} different numbers" if len(values) > MOST else f"the number {values.max():,}"
        raise TrainingDataError(
            f"The labels '{where}' hold {count}: these look like objects, not classes.",
            f"Learn objects from them, or use the numbers 1 to {MOST}.",
        )
    if values.min(initial=0) < 0:
        raise TrainingDataError(f"The labels '{where}' hold negative numbers.", "Number the classes 1, 2, 3.")
    return tuple(int(v) for v in values)


# -- reading --------------------------------------------------------------------------------------


def class_map(maps: DenseMaps, threshold: float) -> Labels:
    """Return the class of every pixel, (H, W) int32: 0 where the foreground is not above ``threshold``."""
    inside = maps.foreground > threshold
    if maps.classes is None:
        return inside.astype(np.int32)
    return np.where(inside, 1 + maps.classes[1:].argmax(axis=0), 0).astype(np.int32)


def majority(labels: Labels, classes: npt.NDArray[np.float32]) -> npt.NDArray[np.int32]:
    """Return the class that most pixels of each object 1..n have, (n,) int32, counted from 1.

    Parameters
    ----------
    classes : ndarray, (K + 1, H, W) float32
        Chances, background first; the background does not count inside an object.
    """
    count, kinds = int(labels.max(initial=0)), len(classes) - 1
    best = classes[1:].argmax(axis=0)
    votes = np.bincount(labels.ravel() * kinds + best.ravel(), minlength=(count + 1) * kinds)
    found: npt.NDArray[np.int32] = (votes.reshape(count + 1, kinds)[1:].argmax(axis=1) + 1).astype(np.int32)
    return found


def fit_softmax(
    x: npt.NDArray[np.floating[Any]], classes: npt.NDArray[np.integer[Any]], count: int, steps: int = 200
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Fit a softmax regression by full-batch descent, all classes counting alike.

    Parameters
    ----------
    x : ndarray, (n, d)
        Features.
    classes : ndarray, (n,) int
        1..count.

    Returns
    -------
    ndarray, (count, d) and (count,)
        Weights and biases of the logits; 0 for a class that is not there.
    """
    mean, spread = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64) + 1e-6
    unit = (x - mean) / spread
    truth = np.eye(count)[classes - 1]
    there = truth.any(axis=0)
    share = (truth / np.maximum(truth.sum(axis=0), 1)).sum(axis=1, keepdims=True) / there.sum()
    weights, bias = np.zeros((x.shape[1], count)), np.where(there, 0.0, -30.0)
    pull = np.zeros_like(weights)
    for _ in range(steps):
        logits = unit @ weights + bias
        chance = np.exp(logits - logits.max(axis=1, keepdims=True))
        miss = share * (chance / chance.sum(axis=1, keepdims=True) - truth)
        pull = 0.9 * pull + unit.T @ miss + 1e-2 * weights
        weights -= 0.2 * pull
        bias -= 0.2 * miss.sum(axis=0)
    weights = weights / spread[:, None]
    return weights.T * there[:, None], np.where(there, bias - mean @ weights, 0.0)


def class_features(
    features: Mapping[str, npt.NDArray[np.generic]], names: Sequence[str], task: str, labels: Labels
) -> Mapping[str, npt.NDArray[np.generic]]:
    """Return the features of a result with the names of classes.

    Objects get the name of theirs in the column ``class``; class numbers get a row each, with the pixels
    that ``labels``, (..., Y, X) int32, have of them.  A model that knows objects only (no names) has neither.
    """
    if not names:
        return features
    if task == "classes":
        pixels = np.zeros(len(names) + 1, dtype=np.int64)
        for row in labels.reshape(-1, labels.shape[-1]):
            pixels += np.bincount(row, minlength=len(pixels))
        index = np.arange(1, len(names) + 1, dtype=np.int32)
        return {"index": index, "class": np.array(names), "pixels": pixels[1:]}
    if "class" not in features:
        return features
    return {**features, "class": np.array(("", *names))[np.asarray(features["class"], dtype=np.int64)]}


def class_difference(before: Labels, after: Labels, told: bool = True) -> Labels:
    """Return where two class maps differ: 1 class only before, 2 only after, 3 another class; int32.

    Parameters
    ----------
    told : bool
        Whether the model before told classes apart; if not, any class after is as good as its foreground.
    """
    out = np.zeros(before.shape, dtype=np.int32)
    out[(before != 0) & (after == 0)] = 1
    out[(before == 0) & (after != 0)] = 2
    if told:
        out[(before != 0) & (after != 0) & (before != after)] = 3
    return out


# -- scores ---------------------------------------------------------------------------------------


def count_classes(found: Labels, sample: Sample) -> npt.NDArray[np.int64]:
    """Return pixel counts on what is known, (K + 1, 3): found, true and both.

    Row 0 is the foreground (any class), row k is class k of ``sample.classes``.
    """
    guess, truth = found[sample.known], sample.labels[sample.known]
    rows = [(guess > 0, truth > 0)]
    rows += [(guess == k, truth == k) for k in range(1, len(sample.classes) + 1)]
    return np.array([(a.sum(), b.sum(), (a & b).sum()) for a, b in rows], dtype=np.int64)


def class_scores(
    counts: npt.NDArray[np.int64], names: Sequence[str], known: Sequence[str] | None = None
) -> dict[str, Any]:
    """Return Dice per class, their mean, and Dice of the foreground.

    Parameters
    ----------
    counts : ndarray, (K + 1, 3) int64
        Sums of :func:`count_classes`.
    known : sequence of str or None
        The classes that the model tells apart, all when None: others have no Dice and are not in the mean.

    Returns
    -------
    dict
        ``dice`` (mean over the classes that are there and known; None: the model knows none), ``per_class``
        (None: not there, or not known to the model), ``foreground`` and ``pixels``.
    """
    sums = counts[:, 0] + counts[:, 1]
    dice = np.divide(2.0 * counts[:, 2], sums, out=np.zeros(len(sums)), where=sums > 0)
    there = counts[1:, 1] > 0
    has = np.array([known is None or name in known for name in names], dtype=bool)
    mean = float(dice[1:][there & has].mean()) if (there & has).any() else 0.0
    return {
        "dice": round(mean, 4) if has.any() else None,
        "per_class": {
            name: round(float(d), 4) if t and h else None
            for name, d, t, h in zip(names, dice[1:], there, has, strict=True)
        },
        "foreground": round(float(dice[0]), 4),
        "pixels": int(counts[0, 1]),
    }


def shared_dice(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return the mean Dice before and after over the classes that both models know; None where there is none.

    Parameters
    ----------
    before, after : mapping
        Of :func:`class_scores`, on the same pixels.
    """
    each = [(before["per_class"].get(name), new) for name, new in after["per_class"].items()]
    both = [(old, new) for old, new in each if old is not None and new is not None]
    if not both:
        return None
    return sum(old for old, _ in both) / len(both), sum(new for _, new in both) / len(both)


# -- what is held out -------------------------------------------------------------------------------


def hold_out_areas(samples: Sequence[Sample], seed: int = 0) -> Split:
    """Hold out about a quarter of what is known, so that no pixel of it, or near it, teaches.

    From four images on, whole images (samples of one ``name``) are held out; else areas: what is painted in
    one stroke or lies in one region, wide ones cut into cells of 64 pixels.  Every class stays in what
    teaches and is in what is held out; where that cannot be, or with fewer than 8 areas, nothing is held out.
    """
    samples = [s for s in samples if s.known.any()]
    few = Split(tuple(samples), (), TOO_FEW)
    wanted = set().union(*(_kinds(s, s.known) for s in samples)) if samples else set()
    rng = np.random.default_rng([seed, len(samples)])
    fields = sorted({s.name for s in samples})
    if len(fields) >= _FIELDS and all(s.name for s in samples):
        kinds = [set().union(*(_kinds(s, s.known) for s in samples if s.name == f)) for f in fields]
        picked = {fields[n] for n in _choose(kinds, wanted, rng)}
        held = tuple(s for s in samples if s.name in picked)
        return Split(tuple(s for s in samples if s.name not in picked), held) if held else few
    maps = [_areas(s.known) for s in samples]
    listed = [(n, a) for n, areas in enumerate(maps) for a in range(1, int(areas.max(initial=0)) + 1)]
    if len(listed) < _FEWEST:
        return few
    kinds = [_kinds(samples[n], maps[n] == a) for n, a in listed]
    chosen = {listed[i] for i in _choose(kinds, wanted, rng)}
    zones = [np.isin(areas, [a for m, a in chosen if m == n]) for n, areas in enumerate(maps)]
    train, held_out = [], []
    for n, sample in enumerate(samples):
        gone = _guarded(samples, zones, n)
        train.append(replace(sample, known=sample.known & ~gone))
        if zones[n].any():
            held_out.append(replace(sample, known=sample.known & zones[n]))
    left = set().union(*(_kinds(s, s.known) for s in train))
    if not chosen or left != wanted:
        return few
    return Split(tuple(s for s in train if s.known.any()), tuple(held_out))


def _guarded(samples: Sequence[Sample], zones: Sequence[Mask], n: int) -> Mask:
    """Return where sample ``n`` shows what a sample of its field holds out, or is near it, (H, W) bool."""
    sample = samples[n]
    frame = np.pad(zones[n], GUARD)  # what lies just outside the sample is near, too
    for m, other in enumerate(samples):
        if m == n or not sample.name or other.name != sample.name:
            continue
        spots = np.argwhere(zones[m]) + np.subtract(other.origin, sample.origin) + GUARD
        inside = ((spots >= 0) & (spots < frame.shape)).all(axis=1)
        frame[tuple(spots[inside].T)] = True
    return near(frame, GUARD)[GUARD:-GUARD, GUARD:-GUARD]


def _kinds(sample: Sample, where: Mask) -> set[int]:
    """Return the classes of which there are more than a few pixels."""
    count = np.bincount(sample.labels[where])
    return {k for k in range(1, len(count)) if count[k] >= _SPECK}


def _areas(known: Mask) -> Labels:
    """Number the areas of a mask 1..n: connected parts, wide ones cut into cells."""
    from scipy import ndimage

    parts, _ = ndimage.label(known, structure=np.ones((3, 3)))
    boxes = ndimage.find_objects(parts)
    wide = [n for n, box in enumerate(boxes, start=1) if max(s.stop - s.start for s in box) > 2 * _CELL]
    y, x = np.indices(known.shape) // _CELL
    cell = np.where(np.isin(parts, wide), 1 + y * (x.max(initial=0) + 1) + x, 0)
    pairs = parts.astype(np.int64) * (int(cell.max(initial=0)) + 1) + cell
    areas = np.zeros(known.shape, dtype=np.int32)
    areas[known] = np.unique(pairs[known], return_inverse=True)[1].reshape(-1) + 1
    return areas


def _choose(kinds: Sequence[set[int]], wanted: set[int], rng: np.random.Generator) -> list[int]:
    """Choose about a quarter of some units that has and leaves every class; [] if that cannot be."""
    order = [int(n) for n in rng.permutation(len(kinds))]
    held: list[int] = []

    def may_go(n: int) -> bool:
        rest = set().union(*(k for m, k in enumerate(kinds) if m != n and m not in held), set())
        return n not in held and wanted <= rest

    for kind in sorted(wanted, key=lambda k: (sum(k in one for one in kinds), k)):
        if not any(kind in kinds[n] for n in held):
            found = next((n for n in order if kind in kinds[n] and may_go(n)), None)
            if found is None:
                return []
            held.append(found)
    for n in order:
        if len(held) < round(_SHARE * len(kinds)) and kinds[n] and may_go(n):
            held.append(n)
    return held
