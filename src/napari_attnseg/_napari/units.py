"""Units of length of image layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_attnseg.records import ImageSource

METRES = {"nm": 1e-9, "µm": 1e-6, "mm": 1e-3, "cm": 1e-2, "m": 1.0}
SHORT = {"micrometer": "µm", "nanometer": "nm", "millimeter": "mm", "meter": "m", "centimeter": "cm"}


def spacing_of(source: ImageSource) -> tuple[tuple[float, float], str]:
    """Return the size (y, x) of a pixel and its unit; ((1, 1), "px") where the layer has no length."""
    units = [SHORT.get(unit, unit) for unit in source.units[-2:]]
    if len(units) < 2 or units[0] != units[1] or units[0] not in METRES:
        return (1.0, 1.0), "px"
    return (abs(float(source.scale[-2])), abs(float(source.scale[-1]))), units[0]
