"""What each place speaks for at the attention blocks: a sign, which attention weights do not have."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from napari_attnseg.nn.attention import ContextBlock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import numpy as np
    import numpy.typing as npt
    from torch import nn

    from napari_attnseg.nn.attention import Kept

    Ends = dict[str, tuple[Tensor, Tensor]]  # features before and after the attention of a block


@contextmanager
def watched(model: nn.Module) -> Iterator[Ends]:
    """Catch the features before and after the attention of every block, (1, h, w, C), while a model runs."""
    before: dict[str, Tensor] = {}
    ends: Ends = {}

    def start(name: str, features: Tensor) -> None:
        before[name] = features

    def end(name: str, features: Tensor) -> None:
        ends[name] = before[name], features

    hooks = []
    for name, block in model.get_submodule("context").named_children():
        if isinstance(block, ContextBlock):
            for norm, keep in ((block.norm1, start), (block.norm2, end)):
                hooks.append(norm.register_forward_pre_hook(_teller(name, keep)))
    try:
        yield ends
    finally:
        for hook in hooks:
            hook.remove()


def _teller(name: str, keep: Callable[[str, Tensor], None]) -> Callable[[nn.Module, tuple[Tensor]], None]:
    return lambda _module, given: keep(name, given[0])


def spoken(ends: Ends, tape: Mapping[str, Kept], said: Tensor) -> dict[str, npt.NDArray[np.float32]]:
    """Return what each place at each block speaks for, with attention weights held still.

    What the place keeps, and what its value hands to all that attend to it, each less its mean over the
    field, along the slope of ``said`` by the features after the attention.

    Parameters
    ----------
    ends : dict
        Of :func:`watched`, of one image.
    tape : mapping of str to Kept
        Of the same run, for the values.
    said : Tensor
        A number that derives by the features.

    Returns
    -------
    dict of str to ndarray, (h, w) float32
        Above 0 a place holds ``said`` up; {} for a network without attention.
    """
    if not ends:
        return {}
    values = {name: kept.v for name in ends if (kept := tape.get(name)) is not None and kept.v is not None}
    wanted = [*(after for _, after in ends.values()), *values.values()]
    slopes = torch.autograd.grad(said, wanted, allow_unused=True)  # the values of a gate are not used as such
    by_value = dict(zip(values, slopes[len(ends) :], strict=True))
    found = {}
    for (name, (features, _)), slope in zip(ends.items(), slopes, strict=False):
        assert slope is not None
        total = ((features - features.mean(dim=(1, 2), keepdim=True)) * slope).sum(dim=-1)[0]
        if (handed := by_value.get(name)) is not None:
            value = values[name]  # (1, heads, h * w, d)
            own = value - value.mean(dim=2, keepdim=True)
            total = total + (own * handed).sum(dim=(1, 3))[0].reshape(total.shape)
        found[name] = total.detach().float().cpu().numpy()
    return found
