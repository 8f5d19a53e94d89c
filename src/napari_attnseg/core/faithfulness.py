"""Does attention tell what matters?  Covering cells of the image, rank correlations, deletion curves.

Attention weights say what entered a mean; whether it mattered is asked by covering parts of the image and
running again.  Two baselines need no model and stand beside every number: random cells, and the nearest.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_attnseg.core.grid import TokenGrid
from napari_attnseg.core.regrid import regrid

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from napari_attnseg.records import AttentionRow

    Floats = npt.NDArray[np.float32]
    Doubles = npt.NDArray[np.float64]
    Cells = npt.NDArray[np.intp]

CELL = 16  # side of a covered cell where tokens are smaller than _SMALLEST, pixels of the resized image
_SMALLEST = 8
LEVEL = 0.05  # of the one-sided test
UNIT = "change of the foreground logit"


def cell_grid(zoom: float, origin: tuple[int, int], field: tuple[int, int], stride: int = CELL) -> TokenGrid:
    """Return the cells of ``stride`` pixels of the resized image that tile a field."""
    shape = tuple(max(1, int(np.ceil((n - 0.5) * zoom / stride))) for n in field)
    return TokenGrid(stride, zoom, (shape[0], shape[1]), origin, field)


def cells_of(row: AttentionRow, zoom: float, origin: tuple[int, int], field: tuple[int, int]) -> TokenGrid:
    """Return the cells to cover for a row: its own tokens, or larger ones where those are tiny."""
    tiny = row.kind == "readout" or row.grid.stride < _SMALLEST
    return cell_grid(zoom, origin, field) if tiny else row.grid


def on_cells(row: AttentionRow, cells: TokenGrid) -> Doubles:
    """Return the weights of a row summed over cells, flat."""
    return regrid(row.weights, row.grid, cells).astype(np.float64).ravel()


def distances(cells: TokenGrid, pixel: tuple[float, float]) -> Doubles:
    """Return the distance of every cell's centre to a pixel, flat, pixels."""
    centres = np.array([cells.pixel_of((i, 0))[0] for i in range(cells.shape[0])])
    across = np.array([cells.pixel_of((0, i))[1] for i in range(cells.shape[1])])
    found: Doubles = np.hypot(centres[:, None] - pixel[0], across[None] - pixel[1]).ravel()
    return found


def fill_of(image: npt.NDArray[np.generic], side: float) -> Floats:
    """Return what covered cells show: the image blurred by a cell's side (its local mean), float32."""
    from scipy.ndimage import gaussian_filter

    sigma = (side, side) if image.ndim == 2 else (side, side, 0.0)
    found: Floats = gaussian_filter(np.asarray(image, dtype=np.float32), sigma, mode="nearest")
    return found


def covered(
    image: npt.NDArray[np.generic], fill: Floats, cells: TokenGrid, chosen: Cells | Sequence[int]
) -> Floats:
    """Return the image, float32, with some cells (flat numbers) replaced by the fill."""
    mask = np.zeros(cells.shape[0] * cells.shape[1], dtype=bool)
    mask[np.asarray(chosen, dtype=np.intp)] = True
    rows, cols = cells.index_maps()
    pixels = mask.reshape(cells.shape)[np.ix_(rows, cols)]
    out = np.array(image, dtype=np.float32)
    out[pixels] = fill[pixels]
    return out


def top(values: Doubles, count: int, eligible: Cells) -> Cells:
    """Return the ``count`` eligible cells of the highest value, highest first."""
    order = np.argsort(-values[eligible], kind="stable")
    return eligible[order[:count]]


def p_value(attended: float, random: Sequence[float]) -> float:
    """Return the one-sided p of a value among random draws: (1 + draws that reach it) / (1 + draws)."""
    reached = int((np.asarray(random) >= attended).sum())
    return (1 + reached) / (1 + len(random))


def spearman(a: Doubles, b: Doubles) -> float:
    """Return the rank correlation of two lists (ties share their mean rank); 0 where one is constant."""
    from scipy.stats import rankdata

    return _pearson(rankdata(a), rankdata(b))


def partial_spearman(a: Doubles, b: Doubles, given: Doubles) -> float:
    """Return the rank correlation of ``a`` and ``b`` once the ranks of ``given`` are taken out of both."""
    ab, ag, bg = spearman(a, b), spearman(a, given), spearman(b, given)
    rest = (1 - ag**2) * (1 - bg**2)
    return float((ab - ag * bg) / np.sqrt(rest)) if rest > 1e-9 else 0.0


def _pearson(a: Doubles, b: Doubles) -> float:
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum() / size) if size > 0 else 0.0


def area_under(fractions: Sequence[float], values: Sequence[float]) -> float:
    """Return the area under a curve by the trapezoid rule, over its width."""
    x, y = np.asarray(fractions, dtype=float), np.asarray(values, dtype=float)
    return float(((y[1:] + y[:-1]) / 2 * np.diff(x)).sum() / (x[-1] - x[0]))


@dataclass(frozen=True, slots=True)
class QueryCheck:
    """What covering the cells that a pixel attends to most did to that pixel.

    Attributes
    ----------
    attended, nearest : float
        Change of the foreground logit when the cells attended to most, or the nearest, are covered.
    random : tuple of float
        The same for random cells, as many each time.
    p_value : float
        One-sided: how often random cells do as much.
    share : float
        Share of the row (registers included in the whole) that lies on the covered cells.
    cells, eligible : int
        Cells covered, of how many that could be: those of the field, or of the local window; the pixel's
        own cell is left out.
    occluded : tuple of (int, int)
        (row, column) of the covered cells on ``grid``, the one attended to most first.
    """

    block: str
    head: str
    value: bool
    pixel: tuple[int, int]
    attended: float
    random: tuple[float, ...]
    nearest: float
    p_value: float
    share: float
    cells: int
    eligible: int
    occluded: tuple[tuple[int, int], ...]
    grid: TokenGrid
    local: bool = False
    unit: str = UNIT

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as plain JSON-able values."""
        return {**asdict(self), "verdict": self.verdict}

    @property
    def draws(self) -> int:
        """Number of random draws."""
        return len(self.random)

    @property
    def field(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """(y, x) of the first pixel and (H, W) of the field that was run."""
        return self.grid.origin, self.grid.field

    @property
    def verdict(self) -> str:
        """Say "yes" for more than random cells, "no" for not more than their mean, "unclear" between."""
        if self.p_value < LEVEL:
            return "yes"
        return "no" if self.attended <= float(np.mean(self.random)) else "unclear"

    @property
    def words(self) -> str:
        """The result in plain sentences."""
        mean, low, high = (float(f(self.random)) for f in (np.mean, np.min, np.max))
        where = "of its window" if self.local else "of the field"
        many = "the cell" if self.cells == 1 else f"the {self.cells} cells"
        told = {
            "yes": "It matters more than chance.",
            "no": "It does not matter more than chance: do not read this row as a reason.",
            "unclear": "It matters more than the mean of chance, but chance alone does as much at times.",
        }[self.verdict]
        near = (
            "The nearest cells do as much, so nearness alone explains it."
            if self.nearest >= self.attended
            else "That is more than the nearest cells do."
        )
        return (
            f"Covering {many} attended to most ({self.share:.0%} of the row) changed the foreground logit"
            f" here by {self.attended:.3g}; as many random cells {where} changed it by {mean:.3g}"
            f" ({low:.3g} to {high:.3g} in {self.draws} draws, p = {self.p_value:.2g}), the nearest by"
            f" {self.nearest:.3g}. {told} {near if self.verdict == 'yes' else ''}"
        ).strip()
