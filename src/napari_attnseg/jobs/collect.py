"""Gathering the labels and features of several planes into one result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from napari_attnseg.records import ImageSource, PlaneKey


class Collector:
    """Labels of all planes of a source, filled one plane at a time.

    Parameters
    ----------
    source : ImageSource
    field : tuple of slice
        (Y, X) part of the planes that is filled; the rest stays 0.
    """

    def __init__(self, source: ImageSource, field: tuple[slice, slice]) -> None:
        self.labels: npt.NDArray[np.int32] = np.zeros((*source.plane_shape, *source.shape_yx), dtype=np.int32)
        self._field = field
        self._features: list[Mapping[str, npt.NDArray[np.generic]]] = []
        self._count = 0

    def add(
        self,
        key: PlaneKey,
        labels: npt.NDArray[np.int32],
        features: Mapping[str, npt.NDArray[np.generic]],
        *,
        unique: bool = True,
    ) -> None:
        """Put the labels of one plane; with ``unique`` their ids go on after those of earlier planes."""
        shift = self._count if unique else 0
        where: Any = (*key.index, *self._field)
        view = self.labels[where]
        np.add(labels, np.int32(shift), out=view, where=labels > 0)
        if features:
            self._features.append({**features, "index": np.asarray(features["index"]) + shift})
        self._count += int(labels.max(initial=0))

    def features(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return the features of all objects, in the order of their ids; {} where there are none."""
        if not self._features:
            return {}
        return {name: np.concatenate([f[name] for f in self._features]) for name in self._features[0]}
