"""What was written into a Labels layer, so that a layer which the user edited is told from one of ours."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_attnseg._napari.marks import checked

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from napari.layers import Labels

Plane = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Shown:
    """A Labels layer of ours and what was written into it.

    A stack of many planes of which few were run stays cheap: only those planes, and the ones that were
    painted on since, are copied and compared; the others are never read.

    Attributes
    ----------
    layer : Labels
    written : ndarray, int32, the layer's shape
        A copy that nobody edits; where the layer differs, the user has been at work.
    planes : tuple of index or None
        The planes (index of all axes before Y, X) that are not empty; None is all of them.
    given : array
        The array that the layer was given; another one in its place is compared as a whole.
    painted : set of index
        Planes that were painted on, filled by the layer's events.
    """

    layer: Labels
    written: npt.NDArray[np.int32]
    planes: tuple[Plane, ...] | None = None
    given: Any = None
    painted: set[Plane] = field(default_factory=set)

    @property
    def edited(self) -> bool:
        """Whether the layer no longer holds what was written, or the user accepted objects in it."""
        if checked(self.layer):
            return True
        data = self.layer.data
        if self.planes is None or data is not self.given:
            return not np.array_equal(data, self.written)
        return any(not np.array_equal(data[p], self.written[p]) for p in {*self.planes, *self.painted})


def watched(layer: Labels, written: npt.NDArray[np.int32], planes: tuple[Plane, ...] | None) -> Shown:
    """Return the record of a fresh layer; from now on it notes the planes that are painted on."""
    painted: set[Plane] = set()
    shape = written.shape[:-2]

    def note(event: Any) -> None:
        for atom in event.value:  # of each change, what is first says where
            steps = (_steps(where, n) for where, n in zip(atom[0], shape, strict=False))
            painted.update(product(*steps))

    layer.events.paint.connect(note)
    return Shown(layer, written, planes, layer.data, painted)


def copy_planes(
    source: npt.NDArray[np.int32], planes: tuple[Plane, ...] | None, out: npt.NDArray[np.int32] | None = None
) -> npt.NDArray[np.int32]:
    """Copy labels, into ``out`` or a new array; planes that are not named are neither read nor written."""
    if out is None:
        out = np.zeros(source.shape, source.dtype)  # pages of a plane nobody writes take no memory
    for plane in [()] if planes is None else planes:
        out[plane] = source[plane]
    return out


def plane_indices(axes: str, keys: Sequence[Sequence[int]] | None) -> tuple[Plane, ...] | None:
    """Return where planes lie in a labels layer, whose channel axis inside the stack has one step."""
    if keys is None:
        return None
    channel = axes.find("C")
    if channel <= 0:
        return tuple(tuple(key) for key in keys)
    return tuple((*key[:channel], 0, *key[channel:]) for key in keys)


def _steps(where: Any, count: int) -> list[int]:
    if isinstance(where, slice):
        return list(range(*where.indices(count)))
    return [int(n) for n in np.unique(where)]
