"""Training: one flat loop that can be stopped at any moment and goes on where it was."""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from napari_attnseg.errors import CheckpointError, NumericalError, TrainingDataError
from napari_attnseg.nn import device as devices
from napari_attnseg.nn.augment import Batch, Prepared, make_batch
from napari_attnseg.nn.checkpoint import read_tensors, write_tensors
from napari_attnseg.nn.losses import attention_loss, dense_loss, vote_loss
from napari_attnseg.records import TrainStep

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from napari_attnseg.nn.attention import Kept
    from napari_attnseg.nn.model import ArticleNet, AttnSegNet
    from napari_attnseg.records import Sample


@dataclass(frozen=True, slots=True)
class Recipe:
    """How long and how a network learns.

    Attributes
    ----------
    steps, minutes : int or None, float or None
        Length: one of them.  With ``steps`` the result is the same for the same seed on a CPU, also
        across a resume; ``minutes`` counts wall time, start-up included.
    size : int
        Side of a crop, pixels, a multiple of 16.
    canonical : float
        Object diameter the network is centred on, pixels.
    save_every : float
        Seconds between checkpoints.
    calm : float
        The last share of the run in which only 3 of 10 crops have their intensities changed: blur and
        contrast changes teach borders that are too wide for images as they are.
    attention : float
        Weight of the loss that teaches single heads to attend to the query's object.
    fields : tuple of (int, int)
        Pairs of crops in a step and their side, of which every step draws one; empty: ``batch`` crops of
        ``size``.  Global attention that has only seen small crops extrapolates to the field of an image.
    frozen : bool
        Batch normalisation keeps its statistics: one or two large crops are no fair sample.
    """

    steps: int | None = None
    minutes: float | None = None
    seed: int = 0
    batch: int = 8
    size: int = 192
    lr: float = 2e-3
    weight_decay: float = 0.02
    warmup: int = 200
    ema: float = 0.999
    clip: float = 1.0
    canonical: float = 24.0
    save_every: float = 120.0
    calm: float = 0.0
    attention: float = 0.0
    fields: tuple[tuple[int, int], ...] = ()
    frozen: bool = False

    def crops(self, rng: np.random.Generator) -> tuple[int, int]:
        """Return how many crops a step takes and their side; the first that its generator draws."""
        return self.fields[int(rng.integers(len(self.fields)))] if self.fields else (self.batch, self.size)


class Ema:
    """An exponential moving average of weights and normalisation statistics.

    The decay grows with the step, ``min(decay, (1 + t) / (10 + t))``, so that short runs are not held
    back by their start.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state = {k: v.detach().clone() for k, v in model.state_dict().items()}

    def update(self, model: nn.Module, step: int) -> None:
        """Move towards the model."""
        keep = min(self.decay, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                self.state[name].lerp_(value.detach(), 1 - keep)
            else:
                self.state[name].copy_(value)


def _rate(recipe: Recipe, step: int, share: float) -> float:
    """Return the learning rate: linear warm-up, then a cosine to 1 % over the run's ``share`` 0..1."""
    warm = min(1.0, (step + 1) / recipe.warmup)
    return recipe.lr * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(share, 1.0))))


def _groups(model: nn.Module, decay: float) -> list[dict[str, Any]]:
    heavy = [p for p in model.parameters() if p.ndim >= 2]
    light = [p for p in model.parameters() if p.ndim < 2]
    return [{"params": heavy, "weight_decay": decay}, {"params": light, "weight_decay": 0.0}]


def save_state(
    path: Path, model: nn.Module, ema: Ema, optim: torch.optim.Optimizer, meta: dict[str, Any]
) -> None:
    """Write everything a resume needs: weights, their average, the optimiser's moments, the counters."""
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"ema.{k}": v for k, v in ema.state.items()}
    for n, moments in optim.state_dict()["state"].items():
        tensors |= {f"optim.{n}.{k}": torch.as_tensor(v) for k, v in moments.items()}
    write_tensors(path, tensors, meta)


def load_state(path: Path, model: nn.Module, ema: Ema, optim: torch.optim.Optimizer) -> dict[str, Any]:
    """Read what :func:`save_state` wrote and return the counters."""
    tensors, meta = read_tensors(path)
    parts: dict[str, dict[str, torch.Tensor]] = {"model": {}, "ema": {}, "optim": {}}
    for name, value in tensors.items():
        head, _, tail = name.partition(".")
        parts.setdefault(head, {})[tail] = value
    if "step" not in meta or parts["model"].keys() != model.state_dict().keys():
        raise CheckpointError(f"'{path.name}' is not a checkpoint of this training.", "Start it anew.")
    model.load_state_dict(parts["model"])
    ema.state = parts["ema"]
    parameters = [p for group in optim.param_groups for p in group["params"]]
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in parts["optim"].items():
        n, _, key = name.partition(".")
        moments.setdefault(int(n), {})[key] = _laid_out_like(parameters[int(n)], value)
    optim.load_state_dict({"state": moments, "param_groups": optim.state_dict()["param_groups"]})
    return meta


def _laid_out_like(parameter: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Return ``value`` with the strides of its parameter: the fused optimiser walks both as flat memory."""
    return torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value


def train_steps(
    model: AttnSegNet | ArticleNet,
    items: list[Prepared],
    recipe: Recipe,
    *,
    device: str = "auto",
    weights: npt.NDArray[np.float64] | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    fresh: Callable[[np.random.Generator, int], Prepared] | None = None,
    fresh_share: float = 0.0,
    started: float | None = None,
    identity: dict[str, Any] | None = None,
    watch: Callable[[int, dict[str, torch.Tensor]], None] = lambda _step, _average: None,
) -> Generator[TrainStep, None, None]:
    """Train ``model`` and yield after every step; at the end it holds the averaged weights.

    Every step draws from its own generator, seeded with (seed, step): that is the whole random state, so
    a resumed run repeats nothing and skips nothing.

    Parameters
    ----------
    items : list of Prepared
        Training images.
    weights : ndarray or None
        Probability of each item.
    checkpoint : Path or None
        Written every ``recipe.save_every`` seconds; read first when ``resume``.
    fresh, fresh_share
        Makes generated images for crops of a side; that share of the steps trains on newly generated ones.
    started : float or None
        ``time.monotonic()`` from which ``minutes`` count.
    identity : dict or None
        What must be the same for a resume (seed, parent, ...); kept in the checkpoint.
    watch : callable
        Called after every step with its number and the averaged weights (not to be changed).

    Raises
    ------
    TrainingDataError
        No image to learn from, or ``minutes`` were over before the first step.
    NumericalError
        The loss stopped being finite; the last checkpoint is kept.
    CheckpointError
        The checkpoint is unreadable, or of a run of another identity.
    """
    if not items and fresh is None:
        raise TrainingDataError("There is no image to learn from.", "Give at least one image with labels.")
    where = devices.choose(device)
    ema, optim = _begin(model, recipe, where)
    step, before = _where_it_was(checkpoint if resume else None, model, ema, optim, identity)
    start = saved = time.monotonic()
    start = (started if started is not None and not before else start) - before

    def save() -> None:
        if checkpoint is not None:
            meta = {"step": step, "seconds": time.monotonic() - start, "identity": identity}
            save_state(checkpoint, model, ema, optim, meta)

    while True:
        seconds = time.monotonic() - start
        share = step / recipe.steps if recipe.steps else seconds / (60 * (recipe.minutes or 1))
        if _over(recipe, step, share):
            break
        batch = _draw(items, weights, recipe, step, share, fresh, fresh_share)
        loss, parts, rate = _step(model, ema, optim, batch, recipe, where, step, share)
        step += 1
        watch(step, ema.state)
        if time.monotonic() - saved > recipe.save_every:
            saved = time.monotonic()
            save()
        total = recipe.steps or max(step, round(step / max(share, 1e-6)))
        try:
            yield TrainStep(step, total, loss, rate, None, time.monotonic() - start, parts)
        except GeneratorExit:  # interrupted or cancelled between two steps: nothing is lost
            save()
            raise
    save()
    model.load_state_dict(ema.state)
    model.eval()


def _over(recipe: Recipe, step: int, share: float) -> bool:
    """Tell whether a run is at its end; ``TrainingDataError`` where it has not begun: nothing is learnt."""
    if share >= 1 and step == 0:
        raise TrainingDataError(
            f"The time, {recipe.minutes or 1:g} min, was over before the first step.",
            "Give more: reading the images and starting count, too.",
        )
    return share >= 1


def _begin(model: nn.Module, recipe: Recipe, where: torch.device) -> tuple[Ema, torch.optim.Optimizer]:
    model.to(where).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    for part in model.modules() if recipe.frozen else ():
        if isinstance(part, nn.BatchNorm2d):
            part.eval()
    groups = _groups(model, recipe.weight_decay)
    return Ema(model, recipe.ema), torch.optim.AdamW(groups, lr=recipe.lr, fused=where.type != "mps")


def _where_it_was(
    path: Path | None,
    model: nn.Module,
    ema: Ema,
    optim: torch.optim.Optimizer,
    identity: dict[str, Any] | None,
) -> tuple[int, float]:
    """Load the checkpoint, if there is one to go on with; return its step and seconds."""
    if path is None or not path.exists():
        return 0, 0.0
    meta = load_state(path, model, ema, optim)
    same_run(meta.get("identity"), identity)
    return int(meta["step"]), float(meta["seconds"])


def same_run(before: dict[str, Any] | None, now: dict[str, Any] | None) -> None:
    """Raise ``CheckpointError`` where a run to go on with differs from the one asked for."""
    if before is None or now is None:
        return
    for name in {**before, **now}:
        if before.get(name) != now.get(name):
            what = f"had another {name}: {before.get(name)}, not {now.get(name)}"
            raise CheckpointError(
                f"The interrupted run {'learnt from other images or labels' if name == 'samples' else what}.",
                "Give the same, or start a new run under another name.",
            )


def fingerprint(samples: Sequence[Sample]) -> str:
    """Return what tells samples that are learnt from apart from all others: a hash of their pixels."""
    digest = hashlib.sha256()
    for sample in samples:
        for pixels in (sample.image, sample.labels, sample.known):
            digest.update(f"{pixels.dtype.str} {pixels.shape} ".encode())
            digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()[:20]


def _draw(
    items: list[Prepared],
    weights: npt.NDArray[np.float64] | None,
    recipe: Recipe,
    step: int,
    share: float,
    fresh: Callable[[np.random.Generator, int], Prepared] | None,
    fresh_share: float,
) -> Batch:
    """Draw a batch: up to two generated scenes give half of its crops, one crop is all of either."""
    rng = np.random.default_rng([recipe.seed, step])
    jittered = 1.0 if share < 1 - recipe.calm else 0.3
    count, size = recipe.crops(rng)
    real = count
    made: list[Prepared] = []
    if fresh is not None and (not items or rng.random() < fresh_share):
        real = count // 2 if items else 0
        made = [fresh(rng, size) for _ in range(min(2, count - real))]
    batches = []
    if real:
        batches.append(make_batch(items, weights, real, size, rng, recipe.canonical, jittered))
    if made:
        batches.append(make_batch(made, None, count - real, size, rng, recipe.canonical, jittered))
    if len(batches) == 1:
        return batches[0]
    return Batch(*(torch.cat([getattr(b, n) for b in batches]) for n in Batch.__slots__))


def _step(
    model: AttnSegNet | ArticleNet,
    ema: Ema,
    optim: torch.optim.Optimizer,
    batch: Batch,
    recipe: Recipe,
    where: torch.device,
    step: int,
    share: float,
) -> tuple[float, dict[str, float], float]:
    rate = _rate(recipe, step, share)
    for group in optim.param_groups:
        group["lr"] = rate
    batch = Batch(*(getattr(batch, n).to(where, non_blocking=True) for n in Batch.__slots__))
    with devices.autocast(where, training=True):
        tape: dict[str, Kept] | None = {} if recipe.attention else None
        out = model(batch.image.contiguous(memory_format=torch.channels_last), tape)
    loss, parts = dense_loss(out, batch)
    if tape:
        parts["attention"] = recipe.attention * attention_loss(tape, batch.labels, batch.known)
        parts["votes"] = vote_loss(tape, batch)
        loss = loss + parts["attention"] + parts["votes"]
    value = float(loss.detach())
    if not math.isfinite(value):
        raise NumericalError(
            f"The loss stopped being finite at step {step}.",
            "Lower the learning rate, or look for odd images.",
        )
    optim.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
    optim.step()
    ema.update(model, step)
    return value, {k: float(v.detach()) for k, v in parts.items()}, rate
