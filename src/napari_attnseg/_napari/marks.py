"""Columns of a Labels layer's feature table: the objects that the user accepted, and scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from napari.layers import Labels

CHECKED = "checked"  # the column of accepted objects


def set_feature(layer: Labels, name: str, values: Mapping[int, Any], default: Any) -> None:
    """Set one column of the layer's features for some objects; rows are added where there are none.

    Other columns and rows stay; rows of objects that were deleted stay too, so that undo finds them.
    """
    table = layer.features.copy()
    if "index" not in table:
        table["index"] = np.arange(len(table))  # what napari takes without one
    missing = sorted(set(values) - {int(n) for n in table["index"]})
    if missing:
        table = table.reindex(range(len(table) + len(missing)))
        table.loc[len(table) - len(missing) :, "index"] = missing
        table["index"] = table["index"].astype(int)
    column = list(table[name]) if name in table else [default] * len(table)
    for row, label in enumerate(table["index"]):
        if int(label) in values:
            column[row] = values[int(label)]
        elif row >= len(table) - len(missing):
            column[row] = default
    table[name] = column
    if CHECKED in table:
        table[CHECKED] = [value is True or value == 1 for value in table[CHECKED]]
    layer.features = table


def checked(layer: Labels) -> set[int]:
    """Return the ids of the objects that the user accepted."""
    table = layer.features
    if CHECKED not in table or "index" not in table:
        return set()
    on = (table[CHECKED] == 1).to_numpy()
    return {int(label) for label in table["index"].to_numpy()[on]}


def set_checked(layer: Labels, labels: Iterable[int], on: bool) -> None:
    """Mark objects as accepted, or take the mark away."""
    set_feature(layer, CHECKED, dict.fromkeys(labels, on), default=False)
