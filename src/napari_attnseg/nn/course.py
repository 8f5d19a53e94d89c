"""The course of a fine-tuning: trial steps, validation, early stop, checkpoints, less memory."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from napari_attnseg.core.corrections import Split, hold_out, known_objects
from napari_attnseg.errors import CheckpointError, OutOfMemoryError, TrainingDataError
from napari_attnseg.nn import device as devices
from napari_attnseg.nn.checkpoint import load_weights, read_tensors, write_tensors
from napari_attnseg.nn.engine import TorchEngine
from napari_attnseg.nn.judge import choose, doubt, judge, predict, rank, summary
from napari_attnseg.nn.memory import is_out_of_memory
from napari_attnseg.nn.model import build_model, to_channels_last
from napari_attnseg.nn.pool import make_source
from napari_attnseg.nn.train import same_run
from napari_attnseg.nn.tune import FULL, QUICK, Recipe, Tuner
from napari_attnseg.records import TrainEvent, TrainStep

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from napari_attnseg.params import TrainParams
    from napari_attnseg.records import Sample
    from napari_attnseg.store.models import StoredModel

    Said = Generator[TrainEvent | TrainStep, None, None]

TRIAL = 3  # steps after which the length of the run is estimated
SAVE_EVERY = 10.0  # seconds between checkpoints


@dataclass(frozen=True, slots=True)
class Limits:
    """When a run ends.

    Attributes
    ----------
    steps, seconds : int or None, float or None
        What was asked for; with neither, ``most`` steps or ``longest`` seconds at most.
    every, patience : int
        Steps between validations, and validations without a better one after which it stops.
    """

    steps: int | None
    seconds: float | None
    most: int
    longest: float
    every: int
    patience: int

    def total(self, per_step: float) -> int:
        """Return the number of steps that the run will take at ``per_step`` seconds a step."""
        if self.steps is not None:
            return self.steps
        seconds = self.longest if self.seconds is None else self.seconds
        steps = max(1, int(seconds / max(per_step, 1e-6)))
        return steps if self.seconds is not None else min(self.most, steps)


def limits_of(params: TrainParams, objects: int) -> Limits:
    """Return when a run of these parameters ends; a quick one is given more time for more objects."""
    seconds = None if params.minutes is None else 60 * params.minutes
    if params.tier == "full":
        return Limits(params.steps, seconds, most=3000, longest=1500.0, every=50, patience=8)
    longest = float(np.clip(20 + 5 * objects, 30, 120))
    return Limits(params.steps, seconds, most=300, longest=longest, every=20, patience=5)


class Stopped(Exception):
    """The run was cancelled before its first step."""


@dataclass(slots=True)
class Course:
    """A fine-tuning from its samples to the tuned weights.

    Parameters
    ----------
    samples : sequence of Sample
    params : TrainParams
    parent : StoredModel
    folder : Path
        Of the checkpoints.
    stop : callable
        Asked between steps; True ends the run with the best so far.
    preview : ndarray or None, (C, H, W) float32
        Segmented again after every validation.
    started : float
        ``time.monotonic()`` from which ``minutes`` count.
    """

    samples: Sequence[Sample]
    params: TrainParams
    parent: StoredModel
    folder: Path
    stop: Callable[[], bool]
    preview: npt.NDArray[np.float32] | None
    started: float
    on_preview: Callable[[npt.NDArray[np.int32]], None] | None = None
    split: Split = field(init=False)
    held: list[Sample] = field(init=False)
    limits: Limits = field(init=False)
    device: torch.device = field(init=False)
    network: Any = field(init=False)
    tuner: Tuner = field(init=False)
    rung: int = 0
    seconds: float = 0.0
    before: dict[str, Any] | None = None
    after: dict[str, Any] | None = None
    best_step: int = 0
    top: float = 0.0
    stale: int = 0
    cancelled: bool = False
    saved: float = 0.0

    def __post_init__(self) -> None:
        self.split, objects = self.divided()
        self.held = choose(self.split.held)
        self.limits = limits_of(self.params, objects)
        self.device = devices.choose(self.params.device)
        if not any(s.known.any() for s in self.split.train):
            raise TrainingDataError("Nothing is known in the samples.", "Correct some objects first.")

    # -- what objects have of their own; a course of classes has others ----------------------------------

    def divided(self) -> tuple[Split, int]:
        """Return what is learnt from and judged by, and the number of objects."""
        objects = sum(len(known_objects(s)) for s in self.samples)
        return hold_out(self.samples, self.params.seed), objects

    @property
    def architecture(self) -> dict[str, Any]:
        """How the tuned network is built."""
        return dict(self.parent.card.architecture)

    def make_tuner(self, recipe: Recipe, device: torch.device) -> Tuner:
        """Return what takes the steps."""
        source = make_source(list(self.split.train), self.parent.card.diameter, recipe.size, self.params.seed)
        return Tuner(self.network.to(device), source, recipe, device)

    def start_network(self) -> Any:
        """Return the network that is tuned, as it is before the first step."""
        return build_network(self.parent)

    def counted(self, engine: TorchEngine) -> Iterator[Any]:
        """Yield the counts of one held-out sample after the other."""
        return judge(engine, self.held)

    def summed(self, counts: list[Any], tuned: bool) -> dict[str, Any]:
        """Return the scores of such counts, of the parent or of tuned weights."""
        return summary(counts)

    def predicted(self, engine: TorchEngine, image: npt.NDArray[np.float32]) -> npt.NDArray[np.int32]:
        """Segment the preview field."""
        return predict(engine, image)

    # -- what a run is made of ------------------------------------------------------------------------

    def run(self) -> Said:
        """Train; afterwards :meth:`weights` has the result."""
        yield TrainEvent("phase", {"note": "Loading the model"})
        try:
            self._build()
        except Stopped:
            return
        finished = self._go_on() if self.params.resume else False
        if self.held and self.before is None and not finished:
            yield TrainEvent("phase", {"note": "Judging the model as it is"})
            self.before = self._judged(self.parent_state(), tuned=False)
        if not finished:
            yield TrainEvent("phase", {"note": "Learning"})
            try:
                yield from self._steps()
            except GeneratorExit:  # interrupted: nothing is lost
                self._save()
                raise
            self._save(done=True)

    def _steps(self) -> Said:
        first, start = self.tuner.step, self.seconds
        while not self._over() and not self._asked():
            loss, parts = yield from self._step()
            if self.cancelled:
                break
            step = self.tuner.step
            per_step = (self.seconds - start) / (step - first)
            total = max(self.limits.total(per_step), step)
            yield TrainStep(step, total, loss, self.tuner.rate, None, self.seconds, parts)
            if step - first == min(TRIAL, total - first):
                left = per_step * (total - step)
                yield TrainEvent(
                    "estimate",
                    {"seconds": round(self.seconds + left, 1), "memory_mb": memory_mb(), "steps": total},
                )
            if self._asked():
                break
            if step % self.limits.every == 0 or self._over():
                yield from self._validate()
            if time.monotonic() - self.saved > SAVE_EVERY:
                self._save()

    def _step(self) -> Generator[TrainEvent, None, tuple[float, dict[str, float]]]:
        """Take one step, with less memory where it runs out."""
        while True:
            start = time.monotonic()
            try:
                for _ in self.tuner.prepare():
                    if self._asked():
                        return math.nan, {}
                found = self.tuner.advance(self._share())
            except (RuntimeError, MemoryError) as err:
                if not is_out_of_memory(err):
                    raise
            else:
                self.seconds += time.monotonic() - start
                return found
            devices.release(self.device)  # outside the handler: the traceback holds the tensors
            yield TrainEvent("note", {"text": self._step_down()})

    def _validate(self) -> Said:
        if self.held:
            result = self._judged(self.tuner.state_dict())
            if result is None:
                return
            score = rank(result)
            rises = self.after is None or score > self.top
            self.top = score if rises else self.top
            better = rises or (score >= self.top - doubt(result) and score >= self._floor())
            yield TrainEvent("val", {"step": self.tuner.step, **result, "best": better})
            self.stale = 0 if rises else self.stale + 1
            if better:
                self.after, self.best_step = result, self.tuner.step
                write_tensors(self.folder / "best.safetensors", self.tuner.average, {"step": self.best_step})
        if self.preview is not None and self.on_preview is not None:
            self.on_preview(self.predicted(self._engine(self.tuner.state_dict()), self.preview))
            yield TrainEvent("preview", {"step": self.tuner.step})

    def _judged(self, state: dict[str, torch.Tensor], tuned: bool = True) -> dict[str, Any] | None:
        """Score weights on what was held out; None when cancelled meanwhile."""
        counts = []
        for one in self.counted(self._engine(state)):
            counts.append(one)
            if self._asked():
                return None
        return self.summed(counts, tuned)

    def _share(self) -> float:
        """Return how much of the run is over, 0..1; with ``steps`` it depends on nothing else."""
        step, limits = self.tuner.step, self.limits
        if limits.steps is not None:
            return step / limits.steps
        if limits.seconds is not None:
            return (time.monotonic() - self.started) / limits.seconds
        return max(step / limits.most, self.seconds / limits.longest)

    def _over(self) -> bool:
        step = self.tuner.step
        if self.limits.steps is not None:
            return step >= self.limits.steps
        if self.limits.seconds is not None:
            return step > 0 and time.monotonic() - self.started >= self.limits.seconds
        tired = bool(self.held) and self.stale >= self.limits.patience
        return tired or step >= self.limits.most or self.seconds >= self.limits.longest

    def _asked(self) -> bool:
        self.cancelled = self.cancelled or self.stop()
        return self.cancelled

    # -- model, memory, files -------------------------------------------------------------------------

    def _build(self) -> None:
        self.network = self.start_network().to(self.device)
        self.tuner = self._tuner()

    def _recipes(self) -> list[tuple[Recipe, torch.device, str]]:
        first = replace(FULL if self.params.tier == "full" else QUICK, seed=self.params.seed)
        name = "This computer" if self.device.type == "cpu" else "The GPU"
        small = replace(first, batch=2, pool=16, scenes=4)
        tiny = replace(small, size=first.size // 2)
        rungs = [
            (first, self.device, ""),
            (small, self.device, f"{name} ran out of memory: fewer crops are learnt from at a time."),
            (tiny, self.device, f"{name} ran out of memory: crops were made smaller."),
        ]
        if self.device.type != "cpu":
            rungs.append((first, torch.device("cpu"), f"{name} ran out of memory: the processor took over."))
        return rungs

    def _tuner(self) -> Tuner:
        recipe, device, _ = self._recipes()[self.rung]
        return self.make_tuner(recipe, device)

    def _step_down(self) -> str:
        """Take the next rung of the ladder, keep what was learnt, and return what was given up."""
        self.rung += 1
        rungs = self._recipes()
        if self.rung >= len(rungs):
            raise OutOfMemoryError(
                "There is not enough memory to train.", "Close other programs, or correct in a smaller image."
            )
        tensors = self.tuner.tensors()
        step = self.tuner.step
        self.tuner = self._tuner()
        self.tuner.load(tensors, step)
        return rungs[self.rung][2]

    def parent_state(self) -> dict[str, torch.Tensor]:
        """Return the parent's weights and statistics."""
        return {k: v.detach().clone() for k, v in self.network.state_dict().items()}

    def _engine(self, state: dict[str, torch.Tensor]) -> TorchEngine:
        model = build_model(**self.architecture)
        model.load_state_dict(state)
        return TorchEngine(self.parent.card, model, self.device)

    def weights(self) -> dict[str, torch.Tensor]:
        """Return the tuned weights: the best on what was held out, else the last average."""
        best = self.folder / "best.safetensors"
        if self.held and self.best_step and best.exists():
            self.tuner.average = read_tensors(best)[0]
        return {k: v.cpu() for k, v in self.tuner.state_dict().items()}

    @property
    def taken(self) -> int:
        """The number of steps so far."""
        return self.tuner.step if hasattr(self, "tuner") else 0

    def improved(self) -> bool:
        """Tell whether the best step did better on what was held out than the parent."""
        return bool(self.before and self.after) and rank(self.after or {}) > rank(self.before or {})

    def _floor(self) -> float:
        """Return the rank below which no later step replaces an earlier one: one that improved stays so."""
        return math.nextafter(rank(self.before), 1.0) if self.before and self.improved() else 0.0

    def identity(self) -> dict[str, Any]:
        """Return what must be the same for a run to go on."""
        return {
            "seed": self.params.seed,
            "parent": self.parent.card.sha256,
            "tier": self.params.tier,
            "blend": self.tuner.recipe.blend,
            "images": len(self.samples),
        }

    def _save(self, done: bool = False) -> None:
        kept = ("rung", "seconds", "before", "after", "best_step", "top", "stale")
        meta = {name: getattr(self, name) for name in kept}
        meta |= {"step": self.tuner.step, "done": done, "identity": self.identity()}
        write_tensors(self.folder / "last.safetensors", self.tuner.tensors(), meta)
        self.saved = time.monotonic()

    def _go_on(self) -> bool:
        """Go on from the checkpoint, if there is one; tell whether it was the last step already."""
        path = self.folder / "last.safetensors"
        if not path.exists():
            return False
        tensors, meta = read_tensors(path)
        same_run(meta.get("identity"), self.identity())
        try:
            for name in ("rung", "seconds", "before", "after", "best_step", "top", "stale"):
                setattr(self, name, meta[name])
            if self.rung:
                self.tuner = self._tuner()
            self.tuner.load(tensors, int(meta["step"]))
            return bool(meta["done"])
        except (KeyError, TypeError, ValueError, RuntimeError) as err:
            raise CheckpointError(
                f"'{path.name}' is not a checkpoint of this run.", "Start a new run under another name."
            ) from err


def build_network(parent: StoredModel) -> Any:
    """Return the network of a stored model with its weights, frozen and in evaluation mode."""
    model = build_model(**parent.card.architecture)
    load_weights(model, read_tensors(parent.weights, parent.card.sha256)[0])
    return to_channels_last(model).eval().requires_grad_(False)


def memory_mb() -> int:
    """Return the largest memory of this process so far, MiB; 0 where the system does not say."""
    try:
        import resource
        import sys
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / 2**20 if sys.platform == "darwin" else peak / 2**10)
