"""One step of fine-tuning after the other: known pixels, a teacher's opinion, generated scenes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from napari_attnseg.errors import NumericalError
from napari_attnseg.nn import device as devices
from napari_attnseg.nn.adam import AdamW
from napari_attnseg.nn.checkpoint import load_weights, read_tensors
from napari_attnseg.nn.deltas import Deltas, trainable
from napari_attnseg.nn.losses import distillation_loss, masked_loss
from napari_attnseg.nn.model import Outputs, build_model, to_channels_last
from napari_attnseg.nn.pool import Pool, Source

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari_attnseg.nn.pool import Group
    from napari_attnseg.store.models import StoredModel


@dataclass(frozen=True, slots=True)
class Recipe:
    """How fine-tuning learns.

    Attributes
    ----------
    batch, replay : int
        Crops of the user's samples and generated ones in a step, even numbers.
    size : int
        Side of a crop, pixels.
    decay : float
        Pull to the parent.
    parent, old : float
        Weights of the teacher's opinion on unknown pixels of the samples, and of the parent's on generated
        scenes.
    sure : float
        How far from 0.5 a foreground probability of the teacher must be to count.
    renew : int
        Steps after which the average learnt so far becomes the teacher of the samples' new crops (Tarvainen
        and Valpola 2017, arXiv 1703.01780); until then, and always with 0, it is the parent.
    keep : float
        Foreground probability from which on the parent stays the teacher of an unknown pixel: an object that
        it was sure of and the user left.  A teacher that learns could forget it, and its pupil with it.
    blend : float
        How far the tuned weights lie on the way from the parent's to the learned ones, 0..1: on a part of the
        way a network keeps more of what it could and often does better on new images, too (Wortsman et al.
        2022, arXiv 2109.01903).
    closing : float
        Last share of the run, 0..1, in which what was held out for judging teaches, too.
    settle : bool
        Whether the end is made stricter where it finds more than the labels left hold; see
        :func:`napari_attnseg.nn.border.find_shift`.
    """

    batch: int = 2
    replay: int = 2
    size: int = 192
    lr: float = 2e-3
    decay: float = 1.0
    warmup: int = 10
    ema: float = 0.97
    clip: float = 1.0
    parent: float = 0.7
    old: float = 2.0
    sure: float = 0.3
    renew: int = 24
    keep: float = 0.8
    blend: float = 0.7
    closing: float = 0.5
    settle: bool = True
    pool: int = 48
    scenes: int = 24
    seed: int = 0


_TAUGHT = ("foreground", "distance", "size", "offset")  # the maps of a teacher that count

Rung = tuple[Recipe, torch.device, str]  # a way to learn, where, and what is said when it is taken

QUICK = Recipe()
FULL = Recipe(batch=6, lr=1e-3, blend=1.0, closing=0.0, settle=False)


def rungs(first: Recipe, device: torch.device) -> list[Rung]:
    """Return the ways to learn, the first one first, each with less memory on the device than that before."""
    name = "This computer" if device.type == "cpu" else "The GPU"
    small = replace(first, batch=2, pool=16, scenes=4)
    tiny = replace(small, size=first.size // 2)
    fewer = "learnt from at a time" if first.batch > small.batch else "kept ready"
    ways = [
        (first, device, ""),
        (small, device, f"{name} ran out of memory: fewer crops are {fewer}."),
        (tiny, device, f"{name} ran out of memory: crops were made smaller."),
    ]
    if device.type != "cpu":
        ways.append((first, torch.device("cpu"), f"{name} ran out of memory: the processor took over."))
    return ways


def build_network(parent: StoredModel) -> Any:
    """Return the network of a stored model with its weights, frozen and in evaluation mode."""
    model = build_model(**parent.card.architecture)
    load_weights(model, read_tensors(parent.weights, parent.card.sha256)[0])
    return to_channels_last(model).eval().requires_grad_(False)


class Tuner:
    """The state of a fine-tuning: differences to the parent, their average, the optimiser.

    Parameters
    ----------
    parent : module
        On ``device``, in evaluation mode; never changed.
    source : Source
        Of the samples.
    objects : float
        Share of known objects in the loss of the foreground, above 0 and below 1.
    """

    def __init__(
        self, parent: Any, source: Source, recipe: Recipe, device: torch.device, objects: float = 0.5
    ) -> None:
        self.parent, self.recipe, self.device, self.source = parent, recipe, device, source
        self.objects = objects
        self.deltas = Deltas(trainable(parent), ("head.embedding",)).to(device)
        self.optim = AdamW(dict(self.deltas.named_parameters()), recipe.decay)
        self.average = {k: v.detach().clone() for k, v in self.deltas.state_dict().items()}
        self.step, self.rate = 0, 0.0
        self.teachers: list[tuple[int, dict[str, Tensor]]] = []  # of crops in the pool, (step, differences)
        self.user = Pool(source.draw, self._teach, device, size=recipe.pool, each=2)
        self.scenes = Pool(source.replay, lambda _group, x: parent(x), device, size=recipe.scenes, each=2)
        self.filled = False

    def prepare(self) -> Iterator[None]:
        """Fill the pools where they are not; yields often, so that it can be left."""
        if not self.filled:
            yield from self.user.fill(self.step)
            yield from self.scenes.fill(self.step // 4)
            self.filled = True

    def advance(self, share: float = 0.0) -> tuple[float, dict[str, float]]:
        """Take one step; return the loss and its parts.

        Parameters
        ----------
        share : float
            How much of the run is over, 0..1: the learning rate falls with it.

        Raises
        ------
        NumericalError
            The loss stopped being finite.
        """
        for _ in self.prepare():
            pass
        self._renew()
        recipe = self.recipe
        rng = np.random.default_rng([recipe.seed, 3, self.step])
        picks = rng.choice(recipe.pool // 2, recipe.batch // 2, replace=False)
        own = self.user.take(picks)
        groups = [own]
        if recipe.replay:
            groups.append(self.scenes.take(rng.choice(recipe.scenes // 2, recipe.replay // 2, replace=False)))
        out = self._forward(groups)
        losses = self.losses(out, groups)
        loss = torch.stack(list(losses.values())).sum()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise NumericalError(
                f"The loss stopped being finite at step {self.step}.", "Look for odd images or labels."
            )
        self._learn(loss, share)
        self.step += 1
        self.user.roll()
        if self.step % 4 == 0:
            self.scenes.roll()
        return value, {k: float(v.detach()) for k, v in losses.items()}

    def losses(self, out: list[Outputs], groups: list[Group]) -> dict[str, Tensor]:
        """Return the weighted parts of the loss on the user's crops and on generated ones."""
        recipe, own = self.recipe, groups[0]
        losses = dict(masked_loss(out[0], own.batch, self.objects)[1])
        if recipe.parent:
            losses["parent"] = recipe.parent * distillation_loss(
                out[0], own.teacher, ~own.batch.known, recipe.sure, own.trust
            )
        if recipe.replay:
            everywhere = torch.ones_like(groups[1].batch.known)
            losses["old"] = recipe.old * distillation_loss(out[1], groups[1].teacher, everywhere)
        return losses

    def _rate(self, share: float) -> float:
        """Return the learning rate: a warm-up, then a cosine to 5 % over the run's ``share`` 0..1."""
        warm = min(1.0, (self.step + 1) / self.recipe.warmup)
        fall = 0.5 * (1 + math.cos(math.pi * min(max(share, 0.0), 1.0)))
        return self.recipe.lr * warm * (0.05 + 0.95 * fall)

    def _learn(self, loss: Tensor, share: float) -> None:
        recipe = self.recipe
        self.rate = self._rate(share)
        self.optim.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optim.step(self.rate, recipe.clip)
        keep = min(recipe.ema, (1 + self.step) / (10 + self.step))
        for name, value in self.deltas.state_dict().items():
            self.average[name].lerp_(value.detach(), 1 - keep)

    def _renew(self) -> None:
        """Make the average the teacher, every so many steps."""
        every, newest = self.recipe.renew, self.teachers[-1][0] if self.teachers else 0
        if every and self.step > newest and self.step % every == 0:
            self._appoint()

    def _appoint(self) -> None:
        """Make the average the teacher; those whose crops have left the pool go."""
        self.teachers.append((self.step, {k: v.clone() for k, v in self.average.items()}))
        oldest = self.step - len(self.user.groups)  # the step that the oldest group in the pool is of
        while len(self.teachers) > 1 and self.teachers[1][0] <= oldest:
            self.teachers.pop(0)

    def _teach(self, group: int, x: Tensor) -> Outputs:
        """Return what is taught of a group's crops.

        That is what the teacher says that was the newest when the group was drawn, and the parent where it
        is sure of an object.
        """
        first = cast("Outputs", self.parent(x))
        drawn = group - len(self.user.groups)  # by the step of that number; the first fill before all
        for step, state in reversed(self.teachers):
            if step <= drawn:
                weights = self.deltas.merged_with(state)
                later = cast("Outputs", torch.func.functional_call(self.parent, weights, (x,)))
                sure = torch.sigmoid(first.foreground).amax(1, keepdim=True) >= self.recipe.keep
                chosen = {n: torch.where(sure, getattr(first, n), getattr(later, n)) for n in _TAUGHT}
                return replace(later, **chosen)
        return first

    def turn(self, source: Source, step: int) -> None:
        """Draw the user's crops from another source after ``step`` steps: those in the pool run out."""
        before, first = self.source, (len(self.user.groups) + step) * self.user.each
        self.user.draw = lambda number: (source if number >= first else before).draw(number)

    def go_back(self, average: dict[str, Tensor]) -> None:
        """Go on from an earlier average of the differences, which teaches, too; the moments stay."""
        self.average = {k: average[k].to(self.device).clone() for k in self.average}
        self.deltas.load_state_dict(self.average)
        if self.recipe.renew:
            self._appoint()

    def _forward(self, groups: list[Group]) -> list[Outputs]:
        """Read all groups at once, which takes less time than one after the other; return each one's."""
        x = torch.cat([g.batch.image for g in groups]).contiguous(memory_format=torch.channels_last)
        with devices.autocast(self.device, training=True):
            out: Outputs = torch.func.functional_call(self.parent, self.deltas.merged(), (x,))
        maps = [getattr(out, n).split([len(g.batch.image) for g in groups]) for n in Outputs.__slots__]
        return [Outputs(*parts) for parts in zip(*maps, strict=True)]

    def tensors(self) -> dict[str, Tensor]:
        """Return all that :meth:`load` needs to go on."""
        out = {f"delta.{k}": v for k, v in self.deltas.state_dict().items()}
        out |= {f"average.{k}": v for k, v in self.average.items()}
        out |= {f"optim.{k}": v for k, v in self.optim.tensors().items()}
        for step, state in self.teachers:
            out |= {f"teacher.{step}.{k}": v for k, v in state.items()}
        return out

    def load(self, tensors: dict[str, Tensor], step: int) -> None:
        """Go on after ``step`` steps; ``KeyError`` or ``RuntimeError`` where the tensors do not fit."""
        own = self.deltas.state_dict()
        self.deltas.load_state_dict({k: tensors[f"delta.{k}"] for k in own})
        self.average = {k: tensors[f"average.{k}"].to(self.device).clone() for k in own}
        moments = {k.removeprefix("optim."): v for k, v in tensors.items() if k.startswith("optim.")}
        self.optim.load(moments, step)
        found = sorted({int(k.split(".")[1]) for k in tensors if k.startswith("teacher.")})
        self.teachers = [
            (at, {k: tensors[f"teacher.{at}.{k}"].to(self.device).clone() for k in own}) for at in found
        ]
        self.step, self.filled = step, False

    def state_dict(self) -> dict[str, Tensor]:
        """Return the parent's state with the average differences, as far as they are blended in, added."""
        merged = self.deltas.merged_with(self.average, self.recipe.blend)
        return {**{k: v.detach().clone() for k, v in self.parent.state_dict().items()}, **merged}
