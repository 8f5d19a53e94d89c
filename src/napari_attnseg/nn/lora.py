"""What fine-tuning changes: differences to the parent's weights, full or of low rank, merged at the end.

Decaying a difference is the L2 pull to the parent.  Only weights of the decoder and the heads (``quick``)
or of all layers (``full``) get one; statistics of batch normalisation never change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterable

ENCODER = ("stem.", "enc4.", "enc8.", "enc16.")


class Deltas(nn.Module):
    """Learned differences to the weights of a model.

    A matrix or a kernel (out, in, ...) of more than ``2 rank`` inputs and outputs gets ``B A`` of the given
    rank (Hu et al. 2021, arXiv 2106.09685), A random and B zero; all other weights, and all with ``rank``
    0, a full difference that starts at zero.

    Parameters
    ----------
    weights : dict of str to Tensor
        The parent's trainable weights.
    frozen : iterable of str
        Prefixes of weights that stay.
    rank : int
    seed : int
    """

    def __init__(
        self, weights: dict[str, Tensor], frozen: Iterable[str] = (), rank: int = 0, seed: int = 0
    ) -> None:
        super().__init__()
        self.base = {k: v for k, v in weights.items() if not k.startswith(tuple(frozen))}
        random = torch.Generator().manual_seed(seed)
        self.low, self.high, self.full = nn.ParameterDict(), nn.ParameterDict(), nn.ParameterDict()
        for name, value in self.base.items():
            key = name.replace(".", "/")
            rows, columns = len(value), value[0].numel() if value.ndim > 1 else 1
            if rank and value.ndim > 1 and min(rows, columns) > 2 * rank and not name.startswith("head."):
                a = torch.randn(rank, columns, generator=random) / columns**0.5
                self.low[key] = nn.Parameter(a.to(value.device))
                self.high[key] = nn.Parameter(torch.zeros(rows, rank, device=value.device))
            else:
                self.full[key] = nn.Parameter(torch.zeros_like(value, memory_format=torch.contiguous_format))

    def merged(self) -> dict[str, Tensor]:
        """Return the tuned weights by name, differentiable."""
        out = {}
        for name, value in self.base.items():
            key = name.replace(".", "/")
            if key in self.full:
                out[name] = value + self.full[key]
            else:
                out[name] = value + (self.high[key] @ self.low[key]).view_as(value)
        return out


def trainable(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of the weights (not the statistics) of a model by name."""
    return {k: v.detach().clone(memory_format=torch.contiguous_format) for k, v in model.named_parameters()}
