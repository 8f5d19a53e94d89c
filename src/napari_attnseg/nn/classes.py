"""Several foreground classes: their chances, a head that grows, and the losses that teach them.

The head's first logit ``z`` is the foreground's, the others ``c`` share it out: class k has the chance
``sigmoid(z) * softmax(3 c)_k``.  So a model that learns classes keeps its foreground, and with it the
objects; the 3 lets rows that start at nothing learn faster than weights that are good already.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from napari_attnseg.core.classes import fit_softmax
from napari_attnseg.nn.losses import geometry_loss
from napari_attnseg.nn.model import build_model, to_channels_last

if TYPE_CHECKING:
    from collections.abc import Mapping

    from napari_attnseg.nn.model import Outputs

_GAIN = 3.0  # of the class logits
_LESS = 2.0  # that a new class starts below the mean of the old ones: it is never the best at first


def log_chances(logits: Tensor) -> Tensor:
    """Return the log chances of background and classes, (B, K + 1, H, W), of the head's logits.

    Parameters
    ----------
    logits : Tensor, (B, 1, H, W) or (B, 1 + K, H, W)
    """
    z, c = logits[:, :1], _GAIN * logits[:, 1:]
    inside = F.logsigmoid(z)
    inside = inside + torch.log_softmax(c, dim=1) if c.shape[1] else inside
    return torch.cat([F.logsigmoid(-z), inside], dim=1)


def chances(logits: Tensor) -> Tensor:
    """Return the chances of background and classes, (B, K + 1, H, W), of the head's logits."""
    inside = torch.sigmoid(logits[:, :1])
    return torch.cat([1 - inside, inside * torch.softmax(_GAIN * logits[:, 1:], dim=1)], dim=1)


def start_rows(model: Any, features: Tensor, labels: Tensor, count: int) -> Any:
    """Start the rows of the classes at a softmax regression, in place; return the network.

    Parameters
    ----------
    model : module
        From :func:`grow`, with ``count`` > 1 classes.
    features : Tensor, (n, d)
        What the dense head reads at painted pixels; see :func:`head_input`.
    labels : Tensor, (n,) int64
        1..count.
    """
    weights, bias = fit_softmax(features.numpy(), labels.numpy(), count)
    rows = slice(4, 4 + 4 * count)  # four pixels to a position, alike
    dense = model.head.dense
    with torch.no_grad():
        dense.weight[rows] = (
            torch.from_numpy(weights / _GAIN).repeat_interleave(4, dim=0)[..., None, None].to(dense.weight)
        )
        dense.bias[rows] = torch.from_numpy(bias / _GAIN).repeat_interleave(4).to(dense.bias)
    return model


def head_input(model: Any, x: Tensor) -> Tensor:
    """Return what the dense head reads of (1, 3, H, W), at stride 2: (1, d, H / 2, W / 2)."""
    kept: list[Tensor] = []
    hook = model.head.dense.register_forward_pre_hook(lambda _module, args: kept.append(args[0]))
    try:
        with torch.no_grad():
            model(x)
    finally:
        hook.remove()
    return kept[0].float()


def grow(model: Any, architecture: Mapping[str, Any], known: int, count: int) -> Any:
    """Return the network with a head for ``count`` classes; all other weights, and the foreground, stay.

    Parameters
    ----------
    architecture : mapping
        Of the model, as in its card.
    known : int
        How many of the classes, the first ones, the model tells apart; 0 for one that knows objects only.
        They keep their rows; without any, all classes start alike.
    """
    state = {k: v.clone() for k, v in model.state_dict().items()}
    for name in ("head.dense.weight", "head.dense.bias"):
        state[name] = _grown_rows(state[name], int(architecture.get("classes", 1)), known, count)
    grown = build_model(**{**architecture, "classes": count})
    grown.load_state_dict(state)
    return to_channels_last(grown).eval().requires_grad_(False)


def _grown_rows(rows: Tensor, had: int, known: int, count: int) -> Tensor:
    """Return weights or biases of the dense head, four rows per logit, with ``count`` classes."""
    split = rows.view(-1, 4, *rows.shape[1:])  # one entry per logit
    first, rest = split[:1], split[1 + (had if had > 1 else 0) :]
    if count == 1:
        return rows
    old = split[1 : 1 + had] if had > 1 else torch.zeros_like(split[:known])
    start = old.mean(dim=0, keepdim=True) if known else torch.zeros_like(first)
    if known and rows.ndim == 1:
        start = start - _LESS / _GAIN
    new = start.expand(count - known, *split.shape[1:])
    return torch.cat([first, old[:known], new, rest]).reshape(-1, *rows.shape[1:]).clone()


def class_loss(logits: Tensor, labels: Tensor, known: Tensor) -> Tensor:
    """Return the cross-entropy on known pixels: each kind that is there, background included, counts alike.

    Parameters
    ----------
    logits : Tensor, (B, 1 + K, H, W), or (B, 1, H, W) for one class
    labels : Tensor, (B, 1, H, W) int64
        0..K.
    known : Tensor, (B, 1, H, W) bool
    """
    miss = -log_chances(logits).gather(1, labels)
    means = [miss[known & (labels == kind)].mean() for kind in torch.unique(labels[known])]
    return torch.stack(means).mean() if means else 0.0 * logits.sum()


def parent_loss(
    out: Outputs, teacher: Outputs, old: int, where: Tensor, sure: float = 0.0, trust: Tensor | None = None
) -> Tensor:
    """Return how far the classes are from what the parent says, where it is confident and ``where`` holds.

    A parent that knows objects only says foreground or background: the chances of all classes together are
    compared with its foreground.  Distance, size and votes are held everywhere.

    Parameters
    ----------
    old : int
        Number of the classes, the first ones, that the parent tells apart.
    where : Tensor, (B, 1, H, W) bool
    sure : float
        A chance of the parent must be at least ``0.5 + sure`` to count.
    trust : Tensor or None, (B, 2)
        Weights of what it calls background and of its classes.
    """
    z = teacher.foreground[:, :1]
    # rows of new classes in the teacher are nobody's opinion
    said = log_chances(torch.cat([z, teacher.foreground[:, 1 : 1 + old]], dim=1))
    mine = log_chances(out.foreground if old else out.foreground[:, :1])[:, : 1 + max(old, 1)]
    prob = said.exp()
    inside = z > 0
    confident = where & (prob.amax(1, keepdim=True) >= 0.5 + sure)
    weight = confident.float()
    if trust is not None:
        ground, object_ = (t.view(-1, 1, 1, 1) for t in trust.unbind(1))
        weight = weight * torch.where(inside, object_, ground)
    apart = (prob * (said - mine)).sum(1, keepdim=True)
    classes = (apart * weight).sum() / confident.sum().clamp_min(1)
    all_ = torch.ones_like(where)
    return classes + geometry_loss(out, teacher, all_, inside, torch.ones_like(weight))
