"""From what the dense head says at stride 2 to maps in pixels: the short way, without gradients.

It writes the maps once and changes them in place; the long way over
:class:`napari_attnseg.nn.model.Outputs`, :func:`finish_outputs`, gives the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from napari_attnseg.nn.model import Outputs

CANONICAL = 32.0  # pixels; sizes are predicted as log2(diameter / CANONICAL)
_SIZES = (-6.0, 8.0)  # least and largest log2


def finish_dense(dense: Tensor, votes: Tensor | None, shape: tuple[int, int]) -> Tensor:
    """Return maps in pixels of the field that the network saw.

    Parameters
    ----------
    dense : Tensor, (B, 4 c, h, w)
        Of the head, at stride 2: logits, distance, size, offset (2).
    votes : Tensor or None, (B, 2, h', w') float32
        Seeds at stride 8, positions (y, x); they are added to the offsets.
    shape : tuple of int
        (H, W) of the field.

    Returns
    -------
    Tensor, (B, c, H, W) float32
        Logits as they are, distance 0..1, size and offset in pixels.
    """
    b, channels, h, w = dense.shape
    out = dense.new_empty((b, channels // 4, 2 * h, 2 * w), dtype=torch.float32)
    pixels = out.view(b, channels // 4, h, 2, w, 2)
    # both at once, order and type, would take more than twice as long
    pixels.copy_(dense.float().view(b, channels // 4, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3))
    out = out[..., : shape[0], : shape[1]]
    out[:, -4].sigmoid_()
    size = out[:, -3:-2].clamp_(*_SIZES).exp2_().mul_(CANONICAL)
    offset = out[:, -2:].mul_(size)
    if votes is not None:
        _add_votes(offset, votes)
    return out


def _add_votes(offset: Tensor, votes: Tensor) -> None:
    """Add the way from every pixel to its position's vote, in place: (B, 2, H, W) and (B, 2, h, w)."""
    h, w = offset.shape[-2:]
    y, x = (torch.arange(n, device=offset.device, dtype=torch.float32) for n in (h, w))
    seed = (8 * votes + 3.5).repeat_interleave(8, dim=3)[..., :w]
    seed[:, 1] -= x
    rows = h // 8
    offset[:, :, : 8 * rows].unflatten(2, (rows, 8)).add_(seed[:, :, :rows, None])
    if h % 8:
        offset[:, :, 8 * rows :].add_(seed[:, :, rows:])
    offset[:, 0].sub_(y[:, None])


def finish_outputs(out: Outputs) -> Tensor:
    """Return the maps of :func:`finish_dense` from raw outputs of any floating type."""
    logits, distance, size, offset = (t.float() for t in (out.foreground, out.distance, out.size, out.offset))
    size = torch.exp2(size.clamp(*_SIZES)) * CANONICAL
    return torch.cat([logits, torch.sigmoid(distance), size, offset * size], dim=1)
