"""Convolutions that add and rectify in the same pass over memory: on processors, without gradients.

PyTorch's compiler uses these operators of oneDNN; calling them needs no compiler.  They are no public
interface, so they are tried once on a small example; where they are missing, fail or differ, the plain
operations do the same.
"""

from __future__ import annotations

import functools
import platform
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    Plan = tuple[Any, Any, Any, Any]  # padding, stride, dilation, groups


def usable(x: Tensor) -> bool:
    """Tell whether :func:`convolve` may be called on ``x`` now."""
    if x.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    return x.dtype in (torch.float32, torch.bfloat16) and _works()


def convolve(conv: nn.Conv2d, x: Tensor, residual: Tensor | None = None, relu: bool = True) -> Tensor:
    """Return ``relu(conv(x) + residual)``; without a residual, or not rectified, where so asked.

    Parameters
    ----------
    conv : Conv2d
        With its padding in numbers; under autocast it runs in autocast's type.
    x : Tensor, (B, C, H, W)
    residual : Tensor or None, (B, C', H', W')
    relu : bool
    """
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    last = torch.channels_last
    x, weight = (t.to(dtype).contiguous(memory_format=last) for t in (x, conv.weight))
    bias = None if conv.bias is None else conv.bias.to(dtype)
    plan = (conv.padding, conv.stride, conv.dilation, conv.groups)
    with torch.autocast("cpu", enabled=False):
        try:
            return _pointwise(x, weight, bias, plan, residual, relu)
        except RuntimeError:  # a layout that they do not take, or no memory: then the next lines say so
            out = F.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)  # type: ignore[arg-type]
        out = out if residual is None else out + residual.to(dtype)
        return F.relu(out) if relu else out


def _pointwise(
    x: Tensor, weight: Tensor, bias: Tensor | None, plan: Plan, residual: Tensor | None, relu: bool
) -> Tensor:
    op = torch.ops.mkldnn._convolution_pointwise
    if residual is None:
        return cast("Tensor", op(x, weight, bias, *plan, "relu" if relu else "none", [], ""))
    rest: tuple[Any, ...] = ("add", 1.0, "relu" if relu else None, [], "")
    return cast("Tensor", op.binary(x, residual.to(x.dtype), weight, bias, *plan, *rest))


@functools.cache
def _works() -> bool:
    """Try the operators once against the plain operations."""
    if platform.machine().lower() not in ("x86_64", "amd64") or not torch.backends.mkldnn.is_available():
        return False
    x = (
        torch.linspace(-1, 1, 2 * 8 * 9 * 10)
        .reshape(2, 8, 9, 10)
        .contiguous(memory_format=torch.channels_last)
    )
    weight = (
        torch.linspace(-0.1, 0.1, 8 * 8 * 9).reshape(8, 8, 3, 3).contiguous(memory_format=torch.channels_last)
    )
    bias, plan = torch.linspace(-1, 1, 8), ([1, 1], [1, 1], [1, 1], 1)
    try:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            plain = F.conv2d(x, weight, bias, padding=1)
            one = _pointwise(x, weight, bias, plan, None, True)
            two = _pointwise(x, weight, bias, plan, x, True)
    except (AttributeError, RuntimeError, TypeError):
        return False
    return all(
        torch.allclose(fused, F.relu(long), atol=1e-5) for fused, long in ((one, plain), (two, plain + x))
    )
