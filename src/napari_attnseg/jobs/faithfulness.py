"""Check one query: whether covering what a pixel attends to changes what the network says there."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from napari_attnseg.core import faithfulness as math
from napari_attnseg.core.attention_maps import row_at
from napari_attnseg.core.axes import check
from napari_attnseg.core.faithfulness import QueryCheck
from napari_attnseg.core.tiles import tile_at
from napari_attnseg.errors import InputError
from napari_attnseg.jobs.encode import tiles_of
from napari_attnseg.jobs.planes import open_plane
from napari_attnseg.jobs.tape import default_block, field_of, settled, tape_of
from napari_attnseg.records import Progress, Tile

if TYPE_CHECKING:
    from collections.abc import Generator

    import numpy.typing as npt

    from napari_attnseg.core.attention import AttentionTape
    from napari_attnseg.core.grid import TokenGrid
    from napari_attnseg.engine import Engine
    from napari_attnseg.params import SegmentParams
    from napari_attnseg.records import AttentionRow, Encoded, ImageSource, Normalisation, PlaneKey
    from napari_attnseg.store.cache import TapeCache

SIDE = 512  # larger fields are cut around the pixel, pixels of the resized image


def check_query(
    engine: Engine,
    source: ImageSource,
    plane: PlaneKey,
    pixel: tuple[int, int],
    params: SegmentParams,
    *,
    encoded: Encoded | None = None,
    block: str | None = None,
    head: str = "mean",
    value: bool = False,
    cells: int = 8,
    draws: int = 20,
    seed: int = 0,
    cache: TapeCache | None = None,
) -> Generator[Progress, None, QueryCheck]:
    """Cover the cells that a pixel attends to most, run again, and compare with random and nearest cells.

    The pixel's own cell is never covered.  A field of more than 512 pixels a side (of the resized image) is
    cut around the pixel and recorded anew, so that a check takes seconds.

    Parameters
    ----------
    encoded : Encoded or None
        Of the run, for its field, zoom and scaling.
    block : str or None
        The block whose row is checked, or "rollout" for all of them; the one shown first when None.
    cells : int
        How many cells are covered, at most a third of those there are.
    draws : int
        Draws of as many random cells.

    Raises
    ------
    InputError
        Unknown block or head, a pixel outside the field, or a row with nothing to cover.
    """
    yield Progress(0, draws + 3, "Reading the image")
    check(source)
    field = field_of(source, encoded)
    at = pixel[0] - field[0].start, pixel[1] - field[1].start
    opened = open_plane(source, plane, field, params.channel)
    if not all(0 <= p < n for p, n in zip(at, opened.shape, strict=True)):
        raise InputError(f"Pixel {tuple(pixel)} lies outside the field.", "Choose a pixel inside it.")
    zoom, norm = yield from settled(engine, opened, encoded, params)
    tile = _around(tile_at(tiles_of(opened.shape, params, zoom), at), at, zoom)
    yield Progress(0, draws + 3, "Recording attention")
    tape = tape_of(engine, opened, tile, zoom, norm, cache)
    row = row_at(tape, block or default_block(tape), pixel, head, value)
    trial = Trial(engine, opened.read(tile.read), zoom, norm, pixel, tape)
    grid, eligible = trial.eligible(row)
    count = min(cells, max(1, len(eligible) // 3))
    weights = math.on_cells(row, grid)
    chosen = math.top(weights, count, eligible)
    chosen = chosen[weights[chosen] > 1e-3 * weights.max()]  # the readout may attend to one cell only
    if not len(chosen):
        raise InputError(
            "This pixel attends to no cell but its own: there is nothing to cover.", "Check another pixel."
        )
    yield Progress(1, draws + 3, "Covering what it attends to")
    attended = trial.change(grid, chosen)
    yield Progress(2, draws + 3, "Covering the nearest cells")
    nearest = trial.change(grid, math.top(-math.distances(grid, pixel), len(chosen), eligible))
    rng, random = np.random.default_rng(seed), []
    for number in range(draws):
        yield Progress(3 + number, draws + 3, f"Covering random cells: {number + 1} of {draws}")
        random.append(trial.change(grid, rng.choice(eligible, len(chosen), replace=False)))
    return QueryCheck(
        row.block, row.head, row.value, row.query, attended, tuple(random), nearest,
        math.p_value(attended, random), float(weights[chosen].sum()), len(chosen), len(eligible),
        tuple((int(c) // grid.shape[1], int(c) % grid.shape[1]) for c in chosen), grid,
        row.window is not None,
    )  # fmt: skip


def _around(tile: Tile, at: tuple[int, int], zoom: float) -> Tile:
    """Cut a tile around a pixel to :data:`SIDE` pixels of the resized image, on its token grid."""
    side, read = round(SIDE / zoom), []
    for part, p in zip(tile.read, at, strict=True):
        if part.stop - part.start <= side:
            read.append(part)
            continue
        start = min(max(p - side // 2, part.start), part.stop - side)
        token = math.CELL / zoom
        start = part.start + round((start - part.start) // token * token)
        read.append(slice(start, start + side))
    return replace(tile, read=(read[0], read[1]))


class Trial:
    """One field of an image that is run again and again with parts of it covered.

    Parameters
    ----------
    image : ndarray, (H, W) or (H, W, 3)
        The field as the network is given it.
    pixel : tuple of int
        (y, x) in the plane.
    tape : AttentionTape
        Of the field.
    """

    def __init__(
        self,
        engine: Engine,
        image: npt.NDArray[np.generic],
        zoom: float,
        norm: Normalisation | None,
        pixel: tuple[int, int],
        tape: AttentionTape,
    ) -> None:
        self._engine, self._zoom, self._norm = engine, zoom, norm
        self._image = np.asarray(image, dtype=np.float32)  # as covered ones are: a fair comparison
        self.origin, self.field = tape.field
        self._at = pixel[0] - self.origin[0], pixel[1] - self.origin[1]
        self._pixel = pixel
        self._fills: dict[int, npt.NDArray[np.float32]] = {}
        self._before = self._logit(self._image)

    def _logit(self, image: npt.NDArray[np.float32]) -> float:
        return float(self._engine.outputs([image], zoom=self._zoom, norm=self._norm)[0, 0][self._at])

    def eligible(self, row: AttentionRow) -> tuple[TokenGrid, npt.NDArray[np.intp]]:
        """Return the cells of a row's block and which may be covered: all but the pixel's own.

        Of a local block only those of its window: any others would be too easy to beat.
        """
        grid = math.cells_of(row, self._zoom, self.origin, self.field)
        own = grid.token_of(self._pixel)
        may = np.ones(grid.shape, dtype=bool)
        if row.window is not None:
            reach = max(1, round(row.window * row.grid.cell / grid.cell))
            may[:] = False
            may[max(0, own[0] - reach) : own[0] + reach + 1, max(0, own[1] - reach) : own[1] + reach + 1] = (
                True
            )
        may[own] = False
        return grid, np.flatnonzero(may)

    def change(self, grid: TokenGrid, chosen: npt.NDArray[np.intp]) -> float:
        """Return how much covering cells changes the foreground logit at the pixel, absolute."""
        if grid.stride not in self._fills:
            self._fills[grid.stride] = math.fill_of(self._image, grid.cell)
        image = math.covered(self._image, self._fills[grid.stride], grid, chosen)
        return abs(self._logit(image) - self._before)
