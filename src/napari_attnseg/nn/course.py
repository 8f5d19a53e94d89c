"""The course of a fine-tuning: trial steps, validation, early stop, checkpoints, less memory."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from napari_attnseg.core.corrections import Split, erased_objects, hold_out, known_objects
from napari_attnseg.errors import CheckpointError, OutOfMemoryError, TrainingDataError
from napari_attnseg.nn import device as devices
from napari_attnseg.nn.checkpoint import read_tensors, write_tensors
from napari_attnseg.nn.engine import TorchEngine
from napari_attnseg.nn.judge import choose, doubt, judge, predict, rank, summary
from napari_attnseg.nn.limits import Limits, Stand, Stopped, limits_of
from napari_attnseg.nn.memory import is_out_of_memory, memory_mb
from napari_attnseg.nn.model import build_model
from napari_attnseg.nn.pool import Source, make_source, object_share, usual_diameter
from napari_attnseg.nn.train import fingerprint, same_run
from napari_attnseg.nn.tune import FULL, QUICK, Recipe, Rung, Tuner, build_network, rungs
from napari_attnseg.records import TrainEvent, TrainStep

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt
    import torch

    from napari_attnseg.params import TrainParams
    from napari_attnseg.records import Sample
    from napari_attnseg.store.models import StoredModel

    Said = Generator[TrainEvent | TrainStep, None, None]

TRIAL = 3  # steps after which the length of the run is estimated
SAVE_EVERY = 10.0  # seconds between checkpoints
_KEPT = ("rung", "seconds", "before", "after", "best_step", "top", "stale", "seen", "turned", "closed")


@dataclass(slots=True)
class Course:
    """A fine-tuning from its samples to the tuned weights.

    Where something is held out and the recipe says so, the run has two parts: it learns from the rest and is
    judged by what was held out, which tells how well and how long it learns; then it goes on from the best
    step with everything, and the weights of its end are the result.

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

    Attributes
    ----------
    best_step : int
        The judged step that did best, 0 before the first.
    seen : int
        The last step after which it was looked whether to validate and to turn.
    turned : int
        The step after which what was held out teaches, too, 0 before.
    closed : bool
        That part went to its end, and its weights are the result.
    """

    samples: Sequence[Sample]
    params: TrainParams
    parent: StoredModel
    folder: Path
    stop: Callable[[], bool]
    preview: npt.NDArray[np.float32] | None
    started: float
    on_preview: Callable[[npt.NDArray[np.int32]], None] | None = None
    mark: str = field(init=False)  # tells the samples apart from all others
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
    seen: int = 0
    turned: int = 0
    closed: bool = False
    cancelled: bool = False
    saved: float = 0.0

    def __post_init__(self) -> None:
        self.mark = fingerprint(self.samples)
        self.split, corrections = self.divided()
        self.held = choose(self.split.held)
        self.limits = limits_of(self.params, corrections)
        self.device = devices.choose(self.params.device)
        if not any(s.known.any() for s in self.split.train):
            raise TrainingDataError("Nothing is known in the samples.", "Correct some objects first.")

    # -- what objects have of their own; a course of classes has others ----------------------------------

    def divided(self) -> tuple[Split, int]:
        """Return what is learnt from and judged by, and the number of corrections."""
        corrections = sum(len(known_objects(s)) + len(erased_objects(s)) for s in self.samples)
        return hold_out(self.samples, self.params.seed), corrections

    @property
    def architecture(self) -> dict[str, Any]:
        """How the tuned network is built."""
        return dict(self.parent.card.architecture)

    def make_tuner(self, recipe: Recipe, device: torch.device) -> Tuner:
        """Return what takes the steps."""
        source = self.make_source(self.split.train, recipe.size)
        return Tuner(self.network.to(device), source, recipe, device, object_share(self.samples))

    def make_source(self, samples: Sequence[Sample], size: int) -> Source:
        """Return where crops of the side ``size`` come from."""
        return make_source(list(samples), self.parent.card.diameter, size, self.params.seed)

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
        while True:
            if self.seen != self.tuner.step:  # a resumed run may have been cut off just before
                yield from self._look()
            if self._over() or self._asked():
                break
            loss, parts = yield from self._step()
            if self.cancelled:
                break
            step = self.tuner.step
            per_step = (self.seconds - start) / (step - first)
            total = max(self.limits.total(self._stand(), per_step), step)
            yield TrainStep(step, total, loss, self.tuner.rate, None, self.seconds, parts)
            if step - first == min(TRIAL, total - first):
                left = round(self._stand().wall + per_step * (total - step), 1)
                yield TrainEvent("estimate", {"seconds": left, "memory_mb": memory_mb(), "steps": total})
            if self._asked():
                break
            if time.monotonic() - self.saved > SAVE_EVERY:
                self._save()
        if self.turned and not self.cancelled:
            self.closed = self._holds()

    def _look(self) -> list[TrainEvent]:
        """Validate and begin the second part where it is time to; return what there is to say.

        All is done when the first of it is said: a run that is left there goes on as if it had not been.
        """
        said: list[TrainEvent] = []
        began = time.monotonic()
        step, turns = self.tuner.step, self.limits.turns(self._stand())
        if step % self.limits.every == 0 or turns or self._over():
            said += self._validate()
            turns = turns or self.limits.turns(self._stand())  # the validation may have been one too many
            if turns and not self._over() and not self.cancelled:
                self._turn()
                said.append(TrainEvent("phase", {"note": "Learning from what was held out, too"}))
        self.seen = step
        self.seconds += time.monotonic() - began
        if self.best_step == step:
            self._save()  # or a killed run could find better weights than it knows of
        return said

    def _step(self) -> Generator[TrainEvent, None, tuple[float, dict[str, float]]]:
        """Take one step, with less memory where it runs out."""
        while True:
            try:
                for _ in self.tuner.prepare():
                    if self._asked():
                        return math.nan, {}
                start = time.monotonic()  # a busy machine may prepare for longer than a run may learn
                found = self.tuner.advance(self.limits.share(self._stand()))
            except (RuntimeError, MemoryError) as err:
                if not is_out_of_memory(err):
                    raise
            else:
                self.seconds += time.monotonic() - start
                return found
            devices.release(self.device)  # outside the handler: the traceback holds the tensors
            yield TrainEvent("note", {"text": self._step_down()})

    def _validate(self) -> list[TrainEvent]:
        said: list[TrainEvent] = []
        if self.held and not self.turned:
            if (result := self._judged(self.tuner.state_dict())) is None:
                return said
            score = rank(result)
            rises = self.after is None or score > self.top
            self.top = score if rises else self.top
            better = rises or (score >= self.top - doubt(result) and score >= self._floor())
            said.append(TrainEvent("val", {"step": self.tuner.step, **result, "best": better}))
            self.stale = 0 if rises else self.stale + 1
            if better:
                self.after, self.best_step = result, self.tuner.step
                write_tensors(self.folder / "best.safetensors", self.tuner.average, {"step": self.best_step})
        if self.preview is not None and self.on_preview is not None:
            self.on_preview(self.predicted(self.engine_of(self.tuner.state_dict()), self.preview))
            said.append(TrainEvent("preview", {"step": self.tuner.step}))
        return said

    def _judged(self, state: dict[str, torch.Tensor], tuned: bool = True) -> dict[str, Any] | None:
        """Score weights on what was held out; None when cancelled meanwhile."""
        counts = []
        for one in self.counted(self.engine_of(state, tuned)):
            counts.append(one)
            if self._asked():
                return None
        return self.summed(counts, tuned)

    def _stand(self) -> Stand:
        closing = self.tuner.recipe.closing if self.held else 0.0
        wall = time.monotonic() - self.started  # of a run that goes on those before, too
        return Stand(self.tuner.step, self.seconds, wall, self.stale, self.turned, closing)

    def _over(self) -> bool:
        return self.limits.over(self._stand())

    def _turn(self) -> None:
        """Begin the second part at the best step."""
        self.turned = self.tuner.step
        if self.best_step < self.turned:
            self.tuner.go_back(read_tensors(self.folder / "best.safetensors")[0])
        self.tuner.turn(self.make_source(self.samples, self.tuner.recipe.size), self.turned)

    def _holds(self) -> bool:
        """Tell whether the end of the second part does as well as its beginning on what was held out.

        It has learnt from that by then, so only a failure can make it worse.
        """
        result = self._judged(self.tuner.state_dict())
        return result is not None and rank(result) >= self.top - doubt(result)

    def _asked(self) -> bool:
        self.cancelled = self.cancelled or self.stop()
        return self.cancelled

    # -- model, memory, files -------------------------------------------------------------------------

    def _build(self) -> None:
        self.network = self.start_network().to(self.device)
        self.tuner = self._tuner()

    def tier(self) -> Recipe:
        """Return how it learns while there is memory."""
        return FULL if self.params.tier == "full" else QUICK

    def _recipes(self) -> list[Rung]:
        return rungs(replace(self.tier(), seed=self.params.seed), self.device)

    def _tuner(self) -> Tuner:
        recipe, device, _ = self._recipes()[self.rung]
        tuner = self.make_tuner(recipe, device)
        if self.turned:
            tuner.turn(self.make_source(self.samples, recipe.size), self.turned)
        return tuner

    def _step_down(self) -> str:
        """Take the next rung of the ladder, keep what was learnt, and return what was given up."""
        self.rung += 1
        steps = self._recipes()
        if self.rung >= len(steps):
            raise OutOfMemoryError(
                "There is not enough memory to train.", "Close other programs, or correct in a smaller image."
            )
        tensors, step = self.tuner.tensors(), self.tuner.step
        self.tuner = self._tuner()
        self.tuner.load(tensors, step)
        return steps[self.rung][2]

    def parent_state(self) -> dict[str, torch.Tensor]:
        """Return the parent's weights and statistics."""
        return {k: v.detach().clone() for k, v in self.network.state_dict().items()}

    def engine_of(self, state: dict[str, torch.Tensor], tuned: bool = True) -> TorchEngine:
        """Return what segments with the parent's or with tuned weights."""
        model = build_model(**self.architecture)
        model.load_state_dict(state)
        card = self.parent.card
        usual = usual_diameter(self.samples, card) if tuned else card.usual_diameter
        return TorchEngine(replace(card, usual_diameter=usual), model, self.device)

    def weights(self) -> dict[str, torch.Tensor]:
        """Return the tuned weights: those at the end of the second part, else the best, else the last."""
        best = self.folder / "best.safetensors"
        if self.held and self.best_step and not self.closed and best.exists():
            self.tuner.go_back(read_tensors(best)[0])
        return {k: v.cpu() for k, v in self.tuner.state_dict().items()}

    @property
    def taken(self) -> int:
        """The number of steps behind the result: those that were gone back over do not count."""
        if not hasattr(self, "tuner"):
            return 0
        return self.best_step + self.closing_steps if self.closed else self.best_step or self.tuner.step

    @property
    def closing_steps(self) -> int:
        """How many of them also learnt from what was held out."""
        return self.tuner.step - self.turned if self.closed else 0

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
            "number of steps": self.params.steps,
            "parent": self.parent.card.sha256,
            "tier": self.params.tier,
            **{name: getattr(self.tuner.recipe, name) for name in ("blend", "closing", "renew")},
            "recipe": [getattr(self.tier(), name) for name in ("batch", "replay", "size", "keep")],
            "images": len(self.samples),
            "samples": self.mark,
        }

    def _save(self, done: bool = False) -> None:
        kept = {name: getattr(self, name) for name in _KEPT} | {"step": self.tuner.step, "done": done}
        meta = {**kept, "wall": self._stand().wall, "identity": self.identity()}
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
            for name in _KEPT:
                setattr(self, name, meta[name])
            self.rung = min(self.rung, len(self._recipes()) - 1)  # a machine may have fewer than that before
            if self.rung or self.turned:
                self.tuner = self._tuner()
            self.tuner.load(tensors, int(meta["step"]))
            self.started -= float(meta["wall"])
            return bool(meta["done"])
        except (KeyError, TypeError, ValueError, RuntimeError) as err:
            raise CheckpointError(
                f"'{path.name}' is not a checkpoint of this run.", "Start a new run under another name."
            ) from err
