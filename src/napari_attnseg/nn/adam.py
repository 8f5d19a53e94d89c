"""AdamW in a few lines: making an optimiser of torch imports its compiler, which takes four seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Mapping

_BETAS = (0.9, 0.999)
_EPS = 1e-8


class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv 1711.05101).

    Parameters
    ----------
    parameters : dict of str to Tensor
        Changed in place by :meth:`step`.
    decay : float
        Weight decay of the matrices and kernels; vectors have none.
    """

    def __init__(self, parameters: Mapping[str, Tensor], decay: float) -> None:
        self.parameters, self.decay, self.count = dict(parameters), decay, 0
        self.mean = {k: torch.zeros_like(p) for k, p in self.parameters.items()}
        self.square = {k: torch.zeros_like(p) for k, p in self.parameters.items()}

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters.values():
            parameter.grad = None

    @torch.no_grad()
    def step(self, rate: float, clip: float) -> None:
        """Move the parameters by their gradients, scaled down to a total length of ``clip``."""
        names = [k for k, p in self.parameters.items() if p.grad is not None]
        if not names:
            return
        self.count += 1
        gradients = [g for k in names if (g := self.parameters[k].grad) is not None]
        length = torch.stack([g.norm() for g in gradients]).norm()
        scale = (clip / (length + 1e-6)).clamp(max=1.0)
        first, second = (1 - beta**self.count for beta in _BETAS)
        for name, gradient in zip(names, gradients, strict=True):
            parameter, mean, square = self.parameters[name], self.mean[name], self.square[name]
            gradient = gradient * scale
            mean.lerp_(gradient, 1 - _BETAS[0])
            square.mul_(_BETAS[1]).addcmul_(gradient, gradient, value=1 - _BETAS[1])
            if parameter.ndim > 1:
                parameter.mul_(1 - rate * self.decay)
            parameter.addcdiv_(mean, (square / second).sqrt_().add_(_EPS), value=-rate / first)

    def tensors(self) -> dict[str, Tensor]:
        """Return the moments by name."""
        out = {f"mean.{k}": v for k, v in self.mean.items()}
        return out | {f"square.{k}": v for k, v in self.square.items()}

    def load(self, tensors: Mapping[str, Tensor], count: int) -> None:
        """Go on after ``count`` steps; ``KeyError`` or ``RuntimeError`` where the tensors do not fit."""
        for name in self.parameters:
            self.mean[name].copy_(tensors[f"mean.{name}"])
            self.square[name].copy_(tensors[f"square.{name}"])
        self.count = count
