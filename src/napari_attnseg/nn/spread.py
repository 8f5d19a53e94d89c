"""How far the convolutions around the attention blocks carry what they read.

Attention is followed back exactly; between the blocks stand convolutions.  A 3 x 3 convolution is taken for
a step of a random walk that goes to each of its nine places alike, and of a residual block half is taken to
stay.  Variances add up along the way.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import nn

from napari_attnseg.nn.model import ArticleNet, AttnSegNet, ResBlock

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

AFTER = ""  # stands for what comes after the last block

Stage = tuple[nn.Module, int] | str  # a module and the stride it reads at, or the name of a block


def spreads(model: nn.Module) -> dict[str, float]:
    """Return the spread of the convolutions before every block, and after the last (``AFTER``).

    Returns
    -------
    dict of str to float
        Standard deviations along an axis, pixels of the input; empty for a network of another package.
    """
    found: dict[str, float] = {}
    total = 0.0
    for stage in _way(model):
        if isinstance(stage, str):
            found[stage], total = math.sqrt(total), 0.0
        else:
            total += _variance(*stage)
    if found:
        found[AFTER] = math.sqrt(total)
    return found


def _way(model: nn.Module) -> Iterator[Stage]:
    """Go from the image through the blocks to the maps; the short cuts of the decoder are left out."""
    if isinstance(model, ArticleNet):
        yield model.inward, 2
        yield from model.context
        yield model.outward, 2
    if isinstance(model, AttnSegNet):
        local = [name for name in model.context if name.startswith("local")]
        early = local if model.local_in == "encoder" else []
        yield model.stem, 2
        yield model.enc4, 2
        yield model.enc8, 4
        yield from early
        yield model.enc16, 8
        yield from (name for name in model.context if name not in local)
        yield model.dec8.refine, 8
        yield from (name for name in local if name not in early)
        yield model.dec4.refine, 4
        yield model.dec2.refine, 2


def _variance(module: nn.Module, stride: int) -> float:
    """Return the variance along an axis of what a module reads, which has ``stride``, pixels squared."""
    if isinstance(module, ResBlock):
        return _chain((module.a, module.b), stride) / 2
    if isinstance(module, nn.Conv2d):
        return (int(module.kernel_size[0]) ** 2 - 1) / 12 * stride**2
    return _chain(module.children(), stride)


def _chain(modules: Iterable[nn.Module], stride: int) -> float:
    total = 0.0
    for module in modules:
        total += _variance(module, stride)
        for part in module.modules():
            if isinstance(part, nn.Conv2d):
                stride *= int(part.stride[0])
    return total
