"""Whether the canvas shows planes of Y and X, as it does unless the user asks for another view."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari.components import ViewerModel


def shows_planes(viewer: ViewerModel) -> bool:
    """Tell whether the canvas shows Y and X, in 2-D."""
    return not why_no_planes(viewer, "")


def why_no_planes(viewer: ViewerModel, what: str) -> str:
    """Return why planes of Y and X are not shown, "" if they are.

    Parameters
    ----------
    what : str
        What needs them, to begin the sentence with: "Attention is asked".
    """
    dims = viewer.dims
    if dims.ndisplay != 2:
        return f"{what} in the 2-D view: press the 2-D/3-D button."
    if set(dims.order[-2:]) != {dims.ndim - 2, dims.ndim - 1}:
        return f"{what} in Y and X: bring the last two axes into view."
    return ""
