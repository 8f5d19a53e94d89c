"""Train on given samples, from scratch or from a model, and store the result under a new name."""

from __future__ import annotations

import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from napari_attnseg.core.classes import class_names
from napari_attnseg.core.corrections import known_objects
from napari_attnseg.errors import ModelError, TrainingDataError
from napari_attnseg.nn.augment import prepare
from napari_attnseg.nn.border import find_shift, lower
from napari_attnseg.nn.checkpoint import save_model
from napari_attnseg.nn.class_course import ClassCourse, make_course
from napari_attnseg.nn.model import build_model
from napari_attnseg.nn.pool import usual_diameter
from napari_attnseg.nn.train import Recipe, fingerprint, train_steps
from napari_attnseg.records import ModelCard, TrainEvent
from napari_attnseg.store import models, runs

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from napari_attnseg.nn.course import Course
    from napari_attnseg.params import TrainParams
    from napari_attnseg.records import Sample, TrainStep
    from napari_attnseg.store.models import StoredModel

STRICTER = "The new model found more objects than you left, so it was made stricter."
_DEFAULT = {"architecture": "attnseg", "context": "local+global"}


def train_and_store(
    samples: Sequence[Sample],
    params: TrainParams,
    parent: StoredModel | None,
    started: float | None = None,
    *,
    run: Path | None = None,
    stop: Callable[[], bool] | None = None,
    preview: npt.NDArray[np.float32] | None = None,
    on_preview: Callable[[npt.NDArray[np.int32]], None] | None = None,
) -> Iterator[TrainStep | TrainEvent]:
    """See :func:`napari_attnseg.engine.train_model`.

    Until the end checkpoints lie in the run folder, without one in a folder of the training's own.
    """
    started = time.monotonic() if started is None else started
    target = models.models_folder() / params.name
    models.check_new(params.name, "Choose another name, or rename that model and resume the run.")
    _check_task(samples, params, parent)
    folder = runs.trainings_folder() / params.name if run is None else run
    if parent is None:
        yield from _from_scratch(samples, params, folder, target, started)
    else:
        course = make_course(
            samples, params, parent, folder, stop or (lambda: False), preview, started, on_preview
        )
        yield from _tuned(course, target, runs.run_id(run) if run is not None else "")
    if run is None:  # the checkpoints have done their work
        with suppress(OSError):
            for name in ("last.safetensors", "best.safetensors"):
                (folder / name).unlink(missing_ok=True)
            folder.rmdir()  # unless its lock is in it


def _check_task(samples: Sequence[Sample], params: TrainParams, parent: StoredModel | None) -> None:
    """Raise where samples, parent and task do not belong together, or nothing can be learnt."""
    if params.task == "classes":
        if parent is None:
            raise ModelError("Classes cannot be learnt from scratch.", "Start from 'base'.")
        if not all(s.classes for s in samples):
            raise TrainingDataError("Some samples hold objects, not classes.", "Learn one kind at a time.")
        return
    if any(s.classes for s in samples):
        raise TrainingDataError("Some samples hold classes, not objects.", "Learn one kind at a time.")
    if not any(s.labels[s.known].any() for s in samples) and not any(_erased(s) for s in samples):
        raise TrainingDataError("The labels hold no object.", "Label at least one object.")
    if parent is not None and class_names(parent.card):
        raise ModelError(
            f"'{parent.card.id}' tells classes apart: it can learn classes, not objects.",
            "Learn classes, or start from another model.",
        )


def _erased(sample: Sample) -> bool:
    """Tell whether a sample teaches that something is background."""
    return sample.before is not None and bool(sample.before[sample.known & (sample.labels == 0)].any())


def _tuned(course: Course, target: Path, run_id: str) -> Generator[TrainStep | TrainEvent, None, None]:
    """Tune, store the model (a cancelled run only if it improved), and say how it did."""
    training = course.run()
    with closing(training):
        yield from training
    improved = course.improved()
    result = {
        "before": course.before,
        "after": course.after,
        "reason": course.split.reason,
        "steps": course.taken,
        "closing": course.closing_steps,
        "seconds": round(course.seconds, 1),
        "cancelled": course.cancelled,
        "stored": improved or not course.cancelled,
        "task": course.params.task,
        "shift": 0.0,
    }
    if result["stored"]:
        weights = course.weights()
        if course.tuner.recipe.settle and not course.cancelled:
            yield TrainEvent("phase", {"note": "Comparing with the labels you left"})
            shift = _shift(course, weights)
            result["shift"], weights = shift, lower(weights, shift)
            if shift:
                yield TrainEvent("note", {"text": STRICTER})
        card = _tuned_card(course, result, run_id)
        yield TrainEvent("phase", {"note": "Storing the model"})
        model = build_model(**card.architecture)
        model.load_state_dict(weights)
        save_model(target, model, card)
    yield TrainEvent("result", result)


def _shift(course: Course, weights: dict[str, torch.Tensor]) -> float:
    """Return by how much tuned weights must call less foreground to agree with the labels."""
    return find_shift(course.engine_of(weights), course.samples, course.stop)


def _tuned_card(course: Course, result: dict[str, Any], run_id: str) -> ModelCard:
    params, parent, samples = course.params, course.parent.card, course.samples
    told = course.names if isinstance(course, ClassCourse) else ()
    objects = 0 if told else sum(len(known_objects(s)) for s in samples)
    words = "1 image" if len(samples) == 1 else f"{len(samples)} images"
    what = f"{objects} objects" if not told else f"{len(told)} class{'' if len(told) == 1 else 'es'}"
    scores = {}
    if result["before"] and result["after"]:
        scores = {
            "held_out": {
                "before": result["before"], "after": result["after"],
                "note": f"{'areas' if told else 'objects'} that were not learnt from; "
                "the best step was chosen by them"
                + ("; after these scores it learnt from them, too" if result["closing"] else ""),
            }
        }  # fmt: skip
    return ModelCard(
        id=params.name,
        name=params.name,
        architecture=course.architecture,
        diameter=parent.diameter,
        usual_diameter=usual_diameter(samples, parent),
        classes=told or parent.classes,
        parent=parent.id,
        licence=parent.licence,
        description=f"{parent.name}, tuned on {what} in {words}.",
        training={
            "images": len(samples),
            **({"task": "classes"} if told else {"objects": objects}),
            "tier": params.tier,
            "blend": course.tuner.recipe.blend,
            "seed": params.seed,
            "steps": result["steps"],
            **({"foreground_shift": -result["shift"]} if result["shift"] else {}),
            "minutes": round(course.seconds / 60, 2),
            "finished": time.strftime("%Y-%m-%d"),
            "parent_sha256": parent.sha256,
            "run": run_id,
            **({"readout": parent.training["readout"]} if "readout" in parent.training else {}),
        },
        metrics=scores,
    )


def _from_scratch(
    samples: Sequence[Sample], params: TrainParams, run: Path, target: Path, started: float
) -> Generator[TrainStep, None, None]:
    torch.manual_seed(params.seed)
    model = build_model(**_DEFAULT)
    items = [prepare(s) for s in samples]
    sizes = torch.cat([i.diameter[i.diameter > 0] for i in items])
    canonical = float(np.clip(float(sizes.median()), 12.0, 48.0)) if len(sizes) else 24.0
    recipe = Recipe(
        steps=params.steps,
        minutes=params.minutes,
        seed=params.seed,
        canonical=canonical,
        warmup=min(200, max(1, (params.steps or 10_000) // 10)),
    )
    last = None
    training = train_steps(
        model,
        items,
        recipe,
        device=params.device,
        checkpoint=run / "last.safetensors",
        resume=params.resume,
        started=started,
        identity={
            "seed": params.seed,
            "parent": "scratch",
            "number of steps": params.steps,  # it shapes the course of the learning rate
            "images": len(items),
            "samples": fingerprint(samples),
        },
    )
    with closing(training):  # an interrupted run saves its state
        for last in training:
            yield last
    card = ModelCard(
        id=params.name,
        name=params.name,
        architecture=dict(_DEFAULT),
        diameter=canonical,
        description=f"Trained on {len(samples)} images.",
        training={
            "images": len(samples),
            "objects": len(sizes),
            "seed": params.seed,
            "steps": last.step if last else 0,
            "minutes": round((last.seconds if last else 0) / 60, 2),
            "finished": time.strftime("%Y-%m-%d"),
        },
    )
    save_model(target, model, card)
