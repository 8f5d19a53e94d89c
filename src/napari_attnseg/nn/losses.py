"""Masked losses of the dense heads.  Pixels that are not known carry no loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from napari_attnseg.nn.model import CANONICAL

if TYPE_CHECKING:
    from napari_attnseg.nn.attention import Kept
    from napari_attnseg.nn.augment import Batch
    from napari_attnseg.nn.model import Outputs

_TEMPERATURE = 0.1
_EMBEDDED_PIXELS = 2048


def border_weight(labels: Tensor) -> Tensor:
    """Return 1 in the open, 3 at object borders and 7 where two objects meet, (B, 1, H, W)."""
    x = labels.float()
    high = F.max_pool2d(x, 5, 1, 2)
    low = -F.max_pool2d(-torch.where(labels > 0, x, torch.full_like(x, 1e6)), 5, 1, 2)
    border = high != -F.max_pool2d(-x, 5, 1, 2)
    touching = (low < high) & (low > 0) & (low < 1e6)
    return 1 + 2 * border.float() + 4 * touching.float()


def _mean(x: Tensor, mask: Tensor) -> Tensor:
    return (x * mask).sum() / mask.sum().clamp_min(1.0)


def dense_loss(out: Outputs, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the total and its parts.

    Foreground: weighted binary cross-entropy + Dice; depth: L1; size: smooth L1 of log2 diameters;
    offset: smooth L1 of the vote's miss in object diameters; embedding: prototype contrast.
    """
    known, inside = batch.known.float(), ((batch.labels > 0) & batch.known).float()
    weight = border_weight(batch.labels) * known
    target = (batch.labels > 0).float()
    bce = _mean(F.binary_cross_entropy_with_logits(out.foreground, target, reduction="none"), weight)
    prob = torch.sigmoid(out.foreground) * known
    dice = 1 - (2 * (prob * target).sum() + 1) / (prob.sum() + (target * known).sum() + 1)
    parts = {"foreground": bce, "dice": dice, **_shape_parts(out, batch, weight, inside)}
    parts["embedding"] = 0.1 * prototype_loss(out.embedding, batch.labels, batch.known)
    return torch.stack(list(parts.values())).sum(), parts


def _shape_parts(out: Outputs, batch: Batch, weight: Tensor, inside: Tensor) -> dict[str, Tensor]:
    """Return the weighted misses of depth, size and votes."""
    depth = _mean((torch.sigmoid(out.distance) - batch.depth).abs(), weight)
    true_size = batch.size.clamp_min(1.0)
    size = _mean(
        F.smooth_l1_loss(out.size, torch.log2(true_size / CANONICAL), reduction="none", beta=0.1), inside
    )
    vote = out.offset * torch.exp2(out.size.detach()) * CANONICAL
    miss = (vote - batch.offset) / true_size
    offset = _mean(
        F.smooth_l1_loss(miss, torch.zeros_like(miss), reduction="none", beta=0.1).sum(1, keepdim=True),
        inside,
    )
    return {"depth": 2 * depth, "size": 0.5 * size, "offset": 3 * offset}


def prototype_loss(embedding: Tensor, labels: Tensor, known: Tensor) -> Tensor:
    """Contrast pixels against region prototypes of the batch: ground, inside and border of each image.

    A prototype is the mean unit embedding of one region of one image; every pixel is classified among
    all prototypes of the batch (softmax of cosines over temperature 0.1).  A prototypical-network loss
    (Snell et al. 2017) that makes embeddings tell regions and textures apart.
    """
    labels = labels[..., ::2, ::2]
    known = known[..., ::2, ::2]
    edge = F.max_pool2d(labels.float(), 3, 1, 1) != -F.max_pool2d(-labels.float(), 3, 1, 1)
    region = torch.where(labels > 0, torch.where(edge, 2, 1), 0)
    region = region + 3 * torch.arange(len(labels), device=labels.device).view(-1, 1, 1, 1)
    e = F.normalize(embedding, dim=1).permute(0, 2, 3, 1).reshape(-1, embedding.shape[1])
    which, ok = region.flatten(), known.flatten()
    count = 3 * len(labels)
    weights = ok.float()
    sums = torch.zeros(count, e.shape[1], device=e.device).index_add(0, which, e * weights[:, None])
    present = torch.zeros(count, device=e.device).index_add(0, which, weights) > 0
    step = max(1, len(e) // _EMBEDDED_PIXELS)
    e, which, ok = e[::step], which[::step], ok[::step]
    logits = e @ F.normalize(sums, dim=1).T / _TEMPERATURE
    logits = logits.masked_fill(~present, -1e4)
    return _mean(F.cross_entropy(logits, which, reduction="none"), ok.float())


def attention_loss(tape: dict[str, Kept], labels: Tensor, known: Tensor) -> Tensor:
    """Teach the first head of every block to attend to the query's own object, the second to its class.

    For queries on objects: ``-log`` of the share of the attention, the query's own position aside, that
    lies on positions of the same object (first head) or on any object (second head, global blocks).  A
    position takes the label at its centre.  Supervised attention heads as in Strubell et al. 2018
    (arXiv 1804.08199), for objects.

    Parameters
    ----------
    tape : dict of str to Kept
        With gradients; only softmax blocks with queries and keys count.
    labels : Tensor, (B, 1, H, W) int64
    known : Tensor, (B, 1, H, W) bool
    """
    total, count = labels.new_zeros((), dtype=torch.float32), 0
    for kept in tape.values():
        if kept.q.shape[-1] == 1:  # a gate has no queries
            continue
        gh, gw = kept.shape
        at = [
            ((torch.arange(n, device=labels.device) + 0.5) * size / n).long().clamp(max=size - 1)
            for n, size in zip((gh, gw), labels.shape[-2:], strict=True)
        ]
        here = labels[:, 0][:, at[0]][:, :, at[1]].flatten(1)
        sure = known[:, 0][:, at[0]][:, :, at[1]].flatten(1)
        inside = (here > 0) & sure
        same = (here[:, :, None] == here[:, None]) & inside[:, :, None]
        targets = (
            [same]
            if kept.window is not None or kept.q.shape[1] < 2
            else [same, (inside[:, :, None] & inside[:, None])]
        )
        for head, target in enumerate(targets):
            weights = _rows(kept, head)
            own = torch.eye(gh * gw, dtype=torch.bool, device=labels.device)
            target = target & ~own
            if kept.window is not None:
                target = target & _within(kept.shape, kept.window, labels.device)
            mass = (weights[..., : gh * gw] * target).sum(-1)
            rest = 1 - weights[..., : gh * gw].diagonal(dim1=1, dim2=2)
            total = total - _mean(torch.log((mass + 1e-4) / (rest + 1e-4)), target.any(-1).float())
            count += 1
    return total / max(count, 1)


def vote_loss(tape: dict[str, Kept], batch: Batch) -> Tensor:
    """Return the miss of the consensus votes on objects, smooth L1 in object diameters."""
    total = batch.offset.new_zeros(())
    for kept in tape.values():
        if kept.votes is None:
            continue
        gh, gw = kept.shape
        stride = -(-batch.labels.shape[-1] // gw)
        at = slice(stride // 2, None, stride)  # the pixel after the centre of each position
        inside = ((batch.labels > 0) & batch.known)[..., at, at].float()
        place = torch.stack(
            torch.meshgrid(*(torch.arange(n, device=inside.device) for n in (gh, gw)), indexing="ij")
        )
        truth = place * stride + stride // 2 + batch.offset[..., at, at]
        seed = stride * kept.votes + (stride - 1) / 2
        miss = (seed - truth) / batch.size[..., at, at].clamp_min(1.0)
        pull = F.smooth_l1_loss(miss, torch.zeros_like(miss), reduction="none", beta=0.1)
        total = total + _mean(pull.sum(1, keepdim=True), inside)
    return total


def _rows(kept: Kept, head: int) -> Tensor:
    """Return the explicit softmax of one head, (B, N, N + R): for crops only."""
    q = kept.q[:, head].float() * kept.scale
    keys = torch.cat([kept.k[:, head].float(), kept.registers[head].float().expand(len(q), -1, -1)], dim=1)
    logits = q @ keys.transpose(1, 2)
    if kept.window is not None:
        near = _within(kept.shape, kept.window, q.device)
        n = near.shape[0]
        gw = kept.shape[1]
        y, x = torch.arange(n, device=q.device) // gw, torch.arange(n, device=q.device) % gw
        r = kept.window
        dy, dx = ((t[None] - t[:, None]).clamp(-r, r) + r for t in (y, x))
        bias = torch.zeros_like(near, dtype=torch.float32)
        if kept.bias is not None:
            bias = kept.bias[head].float()[dy, dx]
        logits = torch.cat([(logits[..., :n] + bias).masked_fill(~near, -torch.inf), logits[..., n:]], dim=-1)
    return torch.softmax(logits, dim=-1)


def _within(shape: tuple[int, int], radius: int, device: torch.device) -> Tensor:
    """Tell which positions lie in each other's window, (N, N) bool."""
    gw = shape[1]
    at = torch.arange(shape[0] * gw, device=device)
    y, x = at // gw, at % gw
    return ((y[None] - y[:, None]).abs() <= radius) & ((x[None] - x[:, None]).abs() <= radius)


def masked_loss(out: Outputs, batch: Batch, objects: float = 0.5) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss on known pixels alone, and its parts.

    Like :func:`dense_loss` without embedding and Dice, and with the foreground balanced: known objects
    carry a fixed share of it and known background the rest, however many pixels they have, because what a
    user corrects is no fair sample of either.  ``batch.labels`` is 0 at unknown pixels; a vote and a size
    count only inside known objects, so that both ends of a vote are known.

    Parameters
    ----------
    objects : float
        The share of known objects, above 0 and below 1; where a batch shows one of the two only, that one
        carries all.
    """
    known = batch.known.float()
    if float(known.sum()) == 0:
        maps = (out.foreground, out.distance, out.size, out.offset)
        return 0.0 * torch.stack([m.sum() for m in maps]).sum(), {}
    target = (batch.labels > 0).float()
    weight = border_weight(batch.labels) * known
    bce = F.binary_cross_entropy_with_logits(out.foreground, target, reduction="none")
    total, shares = weight.new_zeros(()), 0.0
    for side, share in ((target, objects), (1 - target, 1 - objects)):
        mass = (weight * side).sum()
        if float(mass) > 0:
            total = total + share * (bce * weight * side).sum() / mass.clamp_min(1.0)
            shares += share
    parts = {
        "foreground": total / shares,
        **_shape_parts(out, batch, weight, ((batch.labels > 0) & batch.known).float()),
    }
    return torch.stack(list(parts.values())).sum(), parts


def distillation_loss(
    out: Outputs, teacher: Outputs, where: Tensor, sure: float = 0.0, trust: Tensor | None = None
) -> Tensor:
    """Return how far the outputs are from the parent's, where it is confident.

    Parameters
    ----------
    where : Tensor, (B, 1, H, W) bool
        The pixels that count.
    sure : float
        Foreground probabilities between ``0.5 - sure`` and ``0.5 + sure`` do not count.
    trust : Tensor or None, (B, 2)
        Weights of what it calls background and foreground.
    """
    prob = torch.sigmoid(teacher.foreground)
    confident = where & ((prob - 0.5).abs().amax(1, keepdim=True) >= sure)
    inside = confident & (prob > 0.5)
    weight = confident.float()
    if trust is not None:
        ground, object_ = (t.view(-1, 1, 1, 1) for t in trust.unbind(1))
        weight = weight * torch.where(prob > 0.5, object_, ground)

    def mean(x: Tensor, mask: Tensor) -> Tensor:
        return (x * weight * mask).sum() / mask.sum().clamp_min(1.0)

    fg = F.binary_cross_entropy_with_logits(out.foreground, prob, reduction="none")
    fg = fg - F.binary_cross_entropy_with_logits(teacher.foreground, prob, reduction="none")
    return mean(fg, confident) + geometry_loss(out, teacher, confident, inside, weight)


def geometry_loss(out: Outputs, teacher: Outputs, where: Tensor, inside: Tensor, weight: Tensor) -> Tensor:
    """Return how far distance, size and votes are from the parent's.

    Parameters
    ----------
    where, inside : Tensor, (B, 1, H, W) bool
        Where the distance counts, and where size and votes do.
    weight : Tensor, (B, 1, H, W)
    """

    def mean(x: Tensor, mask: Tensor) -> Tensor:
        return (x * weight * mask).sum() / mask.sum().clamp_min(1.0)

    depth = (torch.sigmoid(out.distance) - torch.sigmoid(teacher.distance)).abs()
    size = F.smooth_l1_loss(out.size, teacher.size, reduction="none", beta=0.1)
    scale = torch.exp2((teacher.size - out.size).detach())
    miss = out.offset - teacher.offset * scale
    offset = F.smooth_l1_loss(miss, torch.zeros_like(miss), reduction="none", beta=0.1).sum(1, keepdim=True)
    parts = [2 * mean(depth, where), 0.5 * mean(size, inside), 3 * mean(offset, inside)]
    return torch.stack(parts).sum()
