"""What an attention block leaves on the tape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(slots=True)
class Kept:
    """What a block leaves on the tape: q, k, v (B, heads, N, d), register keys and values (heads, R, d).

    ``mix`` (C, heads, d) is the output projection times the block's gain: ``mix[:, h] @ v`` is what a value
    adds to the features at weight 1.
    """

    kind: str
    q: Tensor
    k: Tensor
    registers: Tensor
    scale: float
    shape: tuple[int, int]
    window: int | None = None
    bias: Tensor | None = None
    v: Tensor | None = None
    register_v: Tensor | None = None
    mix: Tensor | None = None
    own: Tensor | None = None  # (N, 1 + heads), see core.attention.QKBlock
    votes: Tensor | None = None  # (B, 2, h, w): where each position's object has its seed, positions (y, x)

    def meet(self, features: Tensor) -> None:
        """Note how the features (B, h, w, C) that the block adds to lie to what their own values add."""
        if self.v is None or self.mix is None:
            return
        flat, mix = features[0].detach().float().flatten(0, 1), self.mix.detach().float()
        own = [(flat**2).sum(1)]
        own += [((flat @ mix[:, h]) * v.detach().float()).sum(1) for h, v in enumerate(self.v[0])]
        self.own = torch.stack(own, dim=1)

    def grams(self) -> tuple[Tensor, Tensor] | None:
        """Return the inner products of what the heads' values add, (N, heads, heads) and (R, heads, heads).

        The norm of ``sum_h a_h mix[:, h] v_h`` is ``sqrt(a^T G a)``: all that value-weighted rows need.
        """
        if self.v is None or self.register_v is None or self.mix is None:
            return None
        mix = self.mix.detach().float()
        return _gram(self.v[0].detach().float(), mix), _gram(self.register_v.detach().float(), mix)


def _gram(v: Tensor, mix: Tensor) -> Tensor:
    """Return (n, heads, heads) for values (heads, n, d); pair by pair, so that the memory stays linear."""
    heads, n, _ = v.shape
    out = v.new_empty(n, heads, heads)
    for g in range(heads):
        for h in range(g, heads):
            out[:, g, h] = out[:, h, g] = ((v[g] @ (mix[:, g].T @ mix[:, h])) * v[h]).sum(-1)
    return out
