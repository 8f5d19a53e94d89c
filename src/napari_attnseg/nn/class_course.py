"""The course of a fine-tuning that learns classes: what differs from learning objects."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from napari_attnseg.core.classes import (
    class_map,
    class_names,
    class_scores,
    count_classes,
    hold_out_areas,
    joined_names,
    renumbered,
)
from napari_attnseg.core.size import estimate_diameter
from napari_attnseg.errors import ModelError
from napari_attnseg.nn.augment import Prepared, prepare
from napari_attnseg.nn.classes import class_loss, grow, head_input, parent_loss, start_rows
from napari_attnseg.nn.course import Course
from napari_attnseg.nn.engine import TorchEngine, as_input
from napari_attnseg.nn.judge import as_plane, glance, read_field
from napari_attnseg.nn.limits import Stopped
from napari_attnseg.nn.pool import Source
from napari_attnseg.nn.tune import Tuner, build_network
from napari_attnseg.params import THRESHOLD
from napari_attnseg.records import Sample

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy.typing as npt
    from torch import Tensor

    from napari_attnseg.core.corrections import Split
    from napari_attnseg.nn.model import Outputs
    from napari_attnseg.nn.pool import Group
    from napari_attnseg.nn.tune import Recipe
    from napari_attnseg.params import TrainParams
    from napari_attnseg.records import DenseMaps
    from napari_attnseg.store.models import StoredModel

    Opinion = tuple[tuple[float, float], float]  # how far the parent is believed, and the diameter

_QUICK_CROPS: dict[str, Any] = {"batch": 6, "size": 128}
_PIXELS = 300  # of each class of a sample, by which the classes are told apart at first
_PLACES = 24  # of each class of a sample, that crops are centred near
_DOUBT = 0.2  # the parent's opinion never counts less than this


class ClassTuner(Tuner):
    """Takes the steps; ``old`` is the number of classes that the parent tells apart."""

    old = 0

    def losses(self, out: list[Outputs], groups: list[Group]) -> dict[str, Tensor]:
        """Return the classes' miss on known pixels and the distance to the parent elsewhere."""
        recipe, own = self.recipe, groups[0]
        batch = own.batch
        parts = {"classes": class_loss(out[0].foreground, batch.labels, batch.known)}
        if recipe.parent:
            miss = parent_loss(out[0], own.teacher, self.old, ~batch.known, recipe.sure, own.trust)
            parts["parent"] = recipe.parent * miss
        if recipe.replay:
            everywhere = torch.ones_like(groups[1].batch.known)
            parts["old"] = recipe.old * parent_loss(out[1], groups[1].teacher, self.old, everywhere)
        return parts


class ClassCourse(Course):
    """A fine-tuning whose labels are class numbers; see :class:`Course` for its parameters.

    The classes of the new model are those of the parent, by name, and the samples' new ones behind them.
    """

    known: tuple[str, ...]
    names: tuple[str, ...]
    opinions: list[Opinion]

    def divided(self) -> tuple[Split, int]:
        """Return what is learnt from and judged by, and a number for the length of the run."""
        self.known = class_names(self.parent.card)
        self.names = joined_names(self.known, self.samples)
        samples = [renumbered(s, self.names) for s in self.samples]
        return hold_out_areas(samples, self.params.seed), 4 * len(self.names) * len(samples)

    @property
    def architecture(self) -> dict[str, Any]:
        """How the tuned network is built."""
        return {**self.parent.card.architecture, "classes": len(self.names)}

    def start_network(self) -> Any:
        """Return the parent with a head for all classes; those of a parent of objects start at a quick fit.

        The parent reads every sample once: at the zoom at which the image will be run.
        """
        card, count = self.parent.card, len(self.names)
        network = build_network(self.parent).to(self.device)
        if not isinstance(getattr(getattr(network, "head", None), "dense", None), torch.nn.Conv2d):
            raise ModelError(
                f"'{card.id}' cannot learn classes: its network has no head that could grow.",
                "Choose a model that was tuned from 'base'.",
            )
        engine = TorchEngine(card, copy.deepcopy(network), self.device)
        zooms, self.opinions = [], []
        for sample in self.split.train:  # the maps of one sample at a time
            self._go_or_stop()
            zoom, maps = read_field(engine, sample.image)
            zooms.append(zoom)
            self.opinions.append(opinion(sample, maps, len(self.known), card.diameter))
        engine.close()
        grown = grow(network, card.architecture, len(self.known), count)
        if count > 1 and not self.known:
            start_rows(grown, *self._painted(network, zooms), count)
        return grown

    def _go_or_stop(self) -> None:
        """Raise ``Stopped`` where the run is cancelled, unless it goes on from what was learnt before."""
        if self._asked() and not (self.params.resume and (self.folder / "last.safetensors").exists()):
            raise Stopped

    def _painted(self, network: Any, zooms: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Return what the head reads at painted pixels, (n, d), and their classes, (n,): as many of each."""
        features, labels = [], []
        for sample, zoom in zip(self.split.train, zooms, strict=True):
            here = sample.known & (sample.labels > 0)
            if not here.any():
                continue
            self._go_or_stop()
            plane, norm = as_plane(sample.image)
            kept = head_input(network, as_input(plane, zoom, norm).to(self.device)).cpu()
            at = _even(sample.labels, here, _PIXELS)
            spots = torch.from_numpy((at + 0.5) * zoom / 2)  # the map lies at stride 2
            size = torch.tensor(kept.shape[-2:])
            y, x = spots.long().clamp(min=torch.zeros(2, dtype=torch.long), max=size - 1).unbind(1)
            features.append(kept[0, :, y, x].T)
            labels.append(torch.from_numpy(sample.labels[tuple(at.T)].astype(np.int64)))
        return torch.cat(features), torch.cat(labels)

    def tier(self) -> Recipe:
        """Return how it learns while there is memory: with the crops that classes were tried with."""
        first = super().tier()
        return first if self.params.tier == "full" else replace(first, **_QUICK_CROPS)

    def make_tuner(self, recipe: Recipe, device: torch.device) -> Tuner:
        """Return what takes the steps."""
        canonical = self.parent.card.diameter
        source = class_source(self.split.train, self.opinions, canonical, recipe.size, self.params.seed)
        # new rows of the head go with the features that they were learnt on, at the rate tried for them;
        # what is held out are some of very many pixels, so it is not missed; the parent teaches, because its
        # opinion of objects is what shall stay
        whole = replace(recipe, blend=1.0, lr=min(recipe.lr, 2e-3), closing=0.0, renew=0, settle=False)
        tuner = ClassTuner(self.network.to(device), source, whole, device)
        tuner.old = len(self.known)
        return tuner

    def counted(self, engine: TorchEngine) -> Iterator[npt.NDArray[np.int64]]:
        """Yield pixel counts of one held-out sample after the other."""
        for sample in self.held:
            yield count_classes(self.predicted(engine, sample.image), sample)

    def summed(self, counts: list[Any], tuned: bool) -> dict[str, Any]:
        """Return the scores of such counts; the parent has none for classes it does not know."""
        return class_scores(np.sum(counts, axis=0), self.names, None if tuned else self.known)

    def predicted(self, engine: TorchEngine, image: npt.NDArray[np.float32]) -> npt.NDArray[np.int32]:
        """Return the classes of a field, (H, W) int32."""
        return class_map(glance(engine, image), THRESHOLD)

    def identity(self) -> dict[str, Any]:
        """Return what must be the same for a run to go on."""
        return {**super().identity(), "classes": list(self.names)}


def make_course(
    samples: Sequence[Sample], params: TrainParams, parent: StoredModel, folder: Path, *more: Any
) -> Course:
    """Return the course that ``params.task`` asks for."""
    kind = ClassCourse if params.task == "classes" else Course
    return kind(samples, params, parent, folder, *more)


def _even(labels: npt.NDArray[np.int32], where: npt.NDArray[np.bool_], most: int) -> npt.NDArray[np.int64]:
    """Return up to ``most`` pixels of every kind, (n, 2), spread evenly; few ones come several times."""
    found = []
    for kind in np.unique(labels[where]):
        at = np.argwhere(where & (labels == kind))
        found.append(at[np.linspace(0, len(at) - 1, most).round().astype(int)])
    return np.concatenate(found)


def class_source(
    samples: Sequence[Sample],
    opinions: Sequence[Opinion],
    canonical: float,
    size: int,
    seed: int,
) -> Source:
    """Prepare samples: crops are centred near all classes alike.

    Parameters
    ----------
    opinions : sequence of Opinion
        Of each sample, as :func:`opinion` returns it.
    """
    items = [_prepared(sample) for sample in samples]
    places = [_places(sample) for sample in samples]
    trust, medians = [believed for believed, _ in opinions], [diameter for _, diameter in opinions]
    return Source(items, places, trust, medians, canonical, size, seed)


def opinion(sample: Sample, maps: DenseMaps, old: int, canonical: float) -> Opinion:
    """Return how far the parent is believed in a sample (background, classes), and its objects' diameter.

    Parameters
    ----------
    maps : DenseMaps
        What the parent says of the sample.
    old : int
        Number of the classes that the parent tells apart.
    canonical : float
        Diameter where it sees no object, pixels.
    """
    return _trust(sample, maps, old), estimate_diameter(maps) or canonical


def _prepared(sample: Sample) -> Prepared:
    """Return a sample whose labels are class numbers, which have neither depth nor seed nor size."""
    item = prepare(Sample(sample.image, np.zeros_like(sample.labels), sample.known))
    item.layers[0] = torch.from_numpy(np.where(sample.known, sample.labels, 0).astype(np.float32))
    count = len(sample.classes) + 1
    item.diameter, item.seed = torch.zeros(count), torch.zeros(count, 2)
    return item


def _places(sample: Sample) -> npt.NDArray[np.float32]:
    """Return pixels of every kind that is known, equally many of each."""
    return _even(sample.labels, sample.known, _PLACES).astype(np.float32)


def _trust(sample: Sample, maps: DenseMaps, old: int) -> tuple[float, float]:
    """Return how far the parent is believed on unknown pixels (background, classes), by the known ones."""
    said = class_map(maps, 0.5)
    truth = sample.labels
    right = said == truth if old else (said > 0) == (truth > 0)
    shares = []
    for side in (said == 0, said > 0):
        here = sample.known & side
        shares.append(max(_DOUBT, float(right[here].mean())) if here.any() else 1.0)
    return shares[0], shares[1]
