"""Masked losses of the dense heads.  Pixels that are not known carry no loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from napari_attnseg.nn.model import CANONICAL

if TYPE_CHECKING:
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
    parts = {
        "foreground": bce,
        "dice": dice,
        "depth": 2 * depth,
        "size": 0.5 * size,
        "offset": 3 * offset,
        "embedding": 0.1 * prototype_loss(out.embedding, batch.labels, batch.known),
    }
    return torch.stack(list(parts.values())).sum(), parts


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
