"""A rolling pool of crops with what a teacher says of them: more images do not make a step longer.

Crop number ``c`` depends on (seed, c) only and lies at place ``c mod size``; so the pool at any step can
be made again, which is how a resumed run goes on as if nothing had happened.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from napari_attnseg.core import normalize, synth
from napari_attnseg.core.corrections import compare_labels, erased_objects, known_objects
from napari_attnseg.core.size import zoom_for
from napari_attnseg.nn import device as devices
from napari_attnseg.nn.augment import Batch, crop, jitter, prepare, unlabelled
from napari_attnseg.nn.model import Outputs
from napari_attnseg.records import Sample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy.typing as npt

    from napari_attnseg.nn.augment import Prepared
    from napari_attnseg.records import ModelCard

    Drawn = tuple[Batch, tuple[float, float]]
    Teach = Callable[[int, Tensor], Outputs]

_FEWEST = 8  # corrections, below which their kinds say nothing


@dataclass(slots=True)
class Group:
    """A few crops: their truth, what the network reads of them, and the teacher's outputs.

    Attributes
    ----------
    batch : Batch
    teacher : Outputs
    trust : Tensor, (B, 2)
        How far the teacher is believed where it says background and where it says foreground, 0..1.
    """

    batch: Batch
    teacher: Outputs
    trust: Tensor


def scale_of(rng: np.random.Generator, median: float, canonical: float) -> float:
    """Draw a scale: mostly the zoom that objects of this size ask for at first, within 0.4 octaves."""
    zoom = zoom_for(median, canonical)
    if rng.random() < 0.2:
        zoom = 1.0  # at which the object size is read first
    return float(np.clip(zoom * 2.0 ** rng.uniform(-0.4, 0.4), 5.0 / median, 160.0 / median))


@dataclass(slots=True)
class Source:
    """Where the crops come from.

    Attributes
    ----------
    items : list of Prepared
        With labels and known pixels.
    places : list of ndarray, (n, 2) float32
        Of each item, the (y, x) that crops are centred near: objects and erased areas.
    trust : list of tuple of float
        Of each item, how far the parent is believed (background, foreground), 0..1.
    medians : list of float
        Of each item, the median diameter of all its objects, pixels: those that were corrected are no fair
        sample, and the zoom at which the model will run follows from all.
    canonical : float
        Object diameter of the model, pixels.
    size : int
        Side of a crop, pixels.
    seed : int
    jitter : float
        Share of the crops whose intensities are changed.
    """

    items: list[Prepared]
    places: list[npt.NDArray[np.float32]]
    trust: list[tuple[float, float]]
    medians: list[float]
    canonical: float
    size: int
    seed: int
    jitter: float = 0.5

    def draw(self, number: int) -> Drawn:
        """Return crop ``number`` of the user's samples, and how far the parent is believed there."""
        rng = np.random.default_rng([self.seed, 1, number])
        share = np.array([min(len(p), 50) for p in self.places], dtype=np.float64)
        n = int(rng.choice(len(self.items), p=share / share.sum()))
        item, places = self.items[n], self.places[n]
        scale = scale_of(rng, self.medians[n], self.canonical)
        span = self.size / scale
        shape = np.array(item.image.shape[-2:], dtype=np.float64)
        at = places[rng.integers(len(places))] + rng.uniform(-0.35, 0.35, 2) * span
        margin = np.minimum(0.4 * span, shape / 2)
        centre: npt.NDArray[np.float32] = np.clip(at, margin, shape - margin).astype(np.float32)
        part = crop(item, self.size, rng, self.canonical, scale=scale, centre=centre)
        if rng.random() < self.jitter:
            part.image = jitter(part.image, rng, item.colour)
        return part, self.trust[n]

    def replay(self, number: int) -> Drawn:
        """Return generated crop ``number``: only the parent says what is in it."""
        rng = np.random.default_rng([self.seed, 2, number])
        scenes: list[Any] = list(synth.SCENES.values())
        image, _ = scenes[rng.integers(len(scenes))](
            (self.size, self.size),
            int(rng.integers(2**31)),
            diameter=float(np.exp(rng.uniform(np.log(7), np.log(80)))),
            density=float(rng.uniform(0.1, 0.5)),
            kind=str(rng.choice(["blob", "ellipse", "rod"])),
            clustered=float(rng.uniform(0.2, 0.9)),
        )
        item = unlabelled(normalize.planes(image))
        middle = np.full(2, self.size / 2 - 0.5, dtype=np.float32)
        return crop(item, self.size, rng, self.canonical, scale=1.0, centre=middle), (1.0, 1.0)


def make_source(samples: list[Sample], canonical: float, size: int, seed: int) -> Source:
    """Prepare samples: labels that are not known are taken out, places are objects and erased areas."""
    items, places, trust, medians = [], [], [], []
    for sample in samples:
        labels = np.where(sample.known, sample.labels, 0).astype(np.int32)
        item = prepare(Sample(sample.image, labels, sample.known))
        at = item.seed[item.diameter > 0].numpy()
        erased = sample.known & (labels == 0)
        if sample.before is not None:
            erased &= sample.before != 0
        if erased.any() and (sample.before is not None or not len(at)):
            spots = np.argwhere(erased).astype(np.float32)
            at = np.concatenate([at, spots[:: max(1, len(spots) // 8)][:8]])
        if len(at):
            items.append(item)
            places.append(at)
            trust.append(_trust(sample))
            medians.append(_median(sample) or canonical)
    return Source(items, places, trust, medians, canonical, size, seed)


def object_share(samples: Sequence[Sample]) -> float:
    """Return the share of known objects in the loss of the foreground, 0..0.5.

    A half, but no more than the share of the corrections that drew an object and did not erase one: a few
    drawn objects must not outweigh many that the user called none.  Fewer than 8 corrections say too little
    about that share.
    """
    drawn = sum(len(known_objects(s)) for s in samples)
    erased = sum(len(erased_objects(s)) for s in samples)
    few = drawn == 0 or drawn + erased < _FEWEST
    return 0.5 if few else min(0.5, drawn / (drawn + erased))


def usual_diameter(samples: Sequence[Sample], parent: ModelCard) -> float | None:
    """Return the median over samples of their median object diameters, pixels.

    Without objects, or with classes, which have no size, it is the parent's.
    """
    found = [size for sample in samples if not sample.classes and (size := _median(sample))]
    return float(np.median(found)) if found else parent.usual_diameter


def _median(sample: Sample) -> float:
    """Return the median diameter of all objects of a sample, pixels; 0 where there is none."""
    shown = sample.labels if sample.labels.any() or sample.before is None else sample.before
    area = np.bincount(shown.ravel())[1:]
    return float(np.median(2 * np.sqrt(area[area > 0] / np.pi))) if (area > 0).any() else 0.0


def _trust(sample: Sample) -> tuple[float, float]:
    """Return how far the parent is believed on unknown pixels (background, foreground), 0..1.

    By what the user left of its prediction: where most objects had to be added, its background says little;
    where most were removed, its foreground does.
    """
    if sample.before is None:
        return 1.0, 1.0
    changes = compare_labels(sample.before, sample.labels)
    kept = len(changes.kept)
    ground = (kept + 1) / (kept + len(changes.added) + 1)
    return ground, kept / max(kept + len(changes.removed), 1)


class Pool:
    """The newest ``size`` crops of an endless sequence, ``each`` new ones per :meth:`roll`.

    Parameters
    ----------
    draw : callable
        ``draw(number)`` returns a crop, (1, c, S, S).
    teach : callable
        ``teach(group, images)`` returns what the teacher of the group of that number says; (each, 3, S, S).
    size, each : int
        ``size`` is a multiple of ``each``.
    """

    def __init__(
        self,
        draw: Callable[[int], Drawn],
        teach: Teach,
        device: torch.device,
        *,
        size: int,
        each: int,
    ) -> None:
        self.draw, self.teach, self.device, self.each = draw, teach, device, each
        self.groups: list[Group | None] = [None] * (size // each)
        self.made = 0  # groups made so far

    def fill(self, rolled: int) -> Iterator[None]:
        """Make the pool as it is when :meth:`roll` was called ``rolled`` times since it was first full."""
        self.made = rolled
        for _ in self.groups:
            self.roll()
            yield

    def roll(self) -> None:
        """Replace the oldest group by new crops."""
        parts = [self.draw(self.made * self.each + n) for n in range(self.each)]
        self.groups[self.made % len(self.groups)] = self._group(parts)
        self.made += 1

    def take(self, picks: npt.NDArray[np.int64]) -> Group:
        """Return the groups of the given numbers as one, on the device."""
        chosen = [g for g in (self.groups[n] for n in picks) if g is not None]
        batch = Batch(*(torch.cat([getattr(g.batch, n) for g in chosen]) for n in Batch.__slots__))
        teacher = Outputs(
            *(torch.cat([getattr(g.teacher, n) for g in chosen]).float() for n in Outputs.__slots__)
        )
        trust = torch.cat([g.trust for g in chosen]).to(self.device)
        return Group(_to(batch, self.device), _to(teacher, self.device), trust)

    def _group(self, drawn: list[Drawn]) -> Group:
        parts = [part for part, _ in drawn]
        batch = Batch(*(torch.cat([getattr(p, n) for p in parts]) for n in Batch.__slots__))
        x = batch.image.to(self.device).contiguous(memory_format=torch.channels_last)
        with torch.no_grad(), devices.autocast(self.device, training=True):
            teacher = self.teach(self.made, x)
        small = Outputs(*(half(getattr(teacher, n)) for n in Outputs.__slots__))
        return Group(batch, small, torch.tensor([trust for _, trust in drawn]))


def half(x: Tensor) -> Tensor:
    """Return a tensor in half precision on the processor."""
    return x.detach().to(torch.float16).cpu()


def _to(x: Any, device: torch.device) -> Any:
    return type(x)(*(getattr(x, n).to(device, non_blocking=True) for n in type(x).__slots__))
