"""The prediction that is kept for a Labels layer, so that the user's corrections can be told from it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from weakref import ref

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt
    from napari.layers import Image

    from napari_attnseg._napari.session import Run
    from napari_attnseg._napari.shown import Plane
    from napari_attnseg.params import SegmentParams

_VERSIONS = 3


@dataclass(frozen=True, slots=True)
class Kept:
    """What a model predicted for a Labels layer.

    A re-run writes into the layer and can be undone, so that there may be several versions; a plane is
    compared with the one that it resembles most.

    Attributes
    ----------
    image : weak reference to Image
        The layer that was segmented; it may be renamed, moved or gone.
    axes : str
        What its axes mean.
    params : SegmentParams
        Of the run.
    origin : ndarray, int32
        What the run wrote.
    versions : tuple of ndarray, int32, the layer's shape
        Newest first, the last one from before any re-run; nobody writes to them.
    """

    image: ref[Image]
    axes: str
    params: SegmentParams
    origin: npt.NDArray[np.int32]
    versions: tuple[npt.NDArray[np.int32], ...]

    @classmethod
    def of_run(cls, run: Run) -> Kept:
        """Return what a finished run leaves to be compared with; nothing is copied."""
        written = run.shown.written
        return cls(ref(run.image), run.source.axes, run.params, written, (written,))

    def before(self, index: Plane, after: npt.NDArray[np.integer]) -> npt.NDArray[np.int32] | None:
        """Return the predicted plane at ``index`` that ``after`` started from; None for another shape."""
        planes = [v[index] for v in self.versions if self._fits(v, index, after)]
        if len(planes) < 2:
            return planes[0] if planes else None
        return min(planes, key=lambda plane: int(np.count_nonzero(plane != after)))

    def _fits(self, version: npt.NDArray[np.int32], index: Plane, after: npt.NDArray[np.integer]) -> bool:
        inside = all(0 <= i < n for i, n in zip(index, version.shape, strict=False))
        return inside and version.shape[len(index) :] == after.shape

    def renewed(self, version: npt.NDArray[np.int32], params: SegmentParams) -> Kept:
        """Return this with a newer version in front."""
        every = (version, *self.versions)
        # the oldest stays for good: it is what all undone at once comes back to
        versions = every if len(every) <= _VERSIONS else (*every[:_VERSIONS], every[-1])
        return replace(self, params=params, versions=versions)
