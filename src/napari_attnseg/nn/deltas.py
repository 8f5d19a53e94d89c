"""What fine-tuning changes: differences to the parent's weights, merged at the end.

Decaying a difference is the L2 pull to the parent (L2-SP, Li et al. 2018, arXiv 1802.01483).  Statistics of
batch normalisation never change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterable


class Deltas(nn.Module):
    """Learned differences to the weights of a model, zero at first.

    Parameters
    ----------
    weights : dict of str to Tensor
        The parent's trainable weights.
    frozen : iterable of str
        Prefixes of weights that stay.
    """

    def __init__(self, weights: dict[str, Tensor], frozen: Iterable[str] = ()) -> None:
        super().__init__()
        self.base = {k: v for k, v in weights.items() if not k.startswith(tuple(frozen))}
        self.added = nn.ParameterDict()
        for name, value in self.base.items():
            zero = torch.zeros_like(value, memory_format=torch.contiguous_format)
            self.added[name.replace(".", "/")] = nn.Parameter(zero)

    def merged(self) -> dict[str, Tensor]:
        """Return the tuned weights by name, differentiable."""
        return {name: value + self.added[name.replace(".", "/")] for name, value in self.base.items()}

    def merged_with(self, state: dict[str, Tensor], share: float = 1.0) -> dict[str, Tensor]:
        """Return the weights by name with a ``share`` of other differences, named as in the state, added."""
        return {
            name: value + share * state[f"added.{name.replace('.', '/')}"].to(value.device)
            for name, value in self.base.items()
        }


def trainable(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of the weights (not the statistics) of a model by name."""
    return {k: v.detach().clone(memory_format=torch.contiguous_format) for k, v in model.named_parameters()}
