"""Train on given samples, from scratch or from a model, and store the result under a new name."""

from __future__ import annotations

import shutil
import time
from contextlib import closing
from typing import TYPE_CHECKING

import numpy as np
import torch

from napari_attnseg.errors import StoreError, TrainingDataError
from napari_attnseg.nn.augment import prepare
from napari_attnseg.nn.checkpoint import load_weights, read_tensors, save_model
from napari_attnseg.nn.model import build_model
from napari_attnseg.nn.train import Recipe, train_steps
from napari_attnseg.records import ModelCard
from napari_attnseg.store import models

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from napari_attnseg.params import TrainParams
    from napari_attnseg.records import Sample, TrainStep
    from napari_attnseg.store.models import StoredModel

_DEFAULT = {"architecture": "attnseg", "context": "local+global"}
_TUNING_RATE = 3e-4


def train_and_store(
    samples: Sequence[Sample],
    params: TrainParams,
    parent: StoredModel | None,
    started: float | None = None,
) -> Iterator[TrainStep]:
    """See :func:`napari_attnseg.engine.train_model`; the checkpoint lies in the runs folder until the end."""
    started = time.monotonic() if started is None else started
    name, seed = params.name, params.seed
    target = models.models_folder() / name
    if target.exists() or name in {card.id for card in models.list_models()}:
        raise StoreError(f"A model named '{name}' exists already.", "Choose another name.")
    if not any(s.labels[s.known].any() for s in samples):
        raise TrainingDataError("The labels hold no object.", "Label at least one object.")
    torch.manual_seed(seed)
    model = build_model(**(parent.card.architecture if parent else _DEFAULT))
    if parent is not None:
        load_weights(model, read_tensors(parent.weights, parent.card.sha256)[0])
    items = [prepare(s) for s in samples]
    sizes = torch.cat([i.diameter[i.diameter > 0] for i in items])
    canonical = parent.card.diameter if parent else float(np.clip(float(sizes.median()), 12.0, 48.0))
    recipe = Recipe(
        steps=params.steps,
        minutes=params.minutes,
        seed=seed,
        canonical=canonical,
        lr=_TUNING_RATE if parent else 2e-3,
        warmup=min(50 if parent else 200, max(1, (params.steps or 10_000) // 10)),
    )
    run = models.home() / "runs" / name
    last = None
    training = train_steps(
        model,
        items,
        recipe,
        device=params.device,
        checkpoint=run / "last.safetensors",
        resume=params.resume,
        started=started,
        identity={"seed": seed, "parent": parent.card.id if parent else "scratch", "images": len(items)},
    )
    with closing(training):  # an interrupted run saves its state
        for last in training:
            yield last
    card = ModelCard(
        id=name,
        name=name,
        architecture=dict(parent.card.architecture) if parent else dict(_DEFAULT),
        diameter=canonical,
        parent=parent.card.id if parent else None,
        description=f"Trained on {len(samples)} images.",
        training={
            "images": len(samples),
            "objects": len(sizes),
            "seed": seed,
            "steps": last.step if last else 0,
            "minutes": round((last.seconds if last else 0) / 60, 2),
            "finished": time.strftime("%Y-%m-%d"),
        },
    )
    save_model(target, model, card)
    shutil.rmtree(run, ignore_errors=True)  # the checkpoint has done its work
