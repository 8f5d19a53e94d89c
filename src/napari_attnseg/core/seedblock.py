"""The instance readout as an attention block, and the assignment of pixels to seeds that made the labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_attnseg.core.attention import heads_of, softmax
from napari_attnseg.core.postprocess import REACH, SHARPNESS, find_seeds

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_attnseg.core.grid import TokenGrid
    from napari_attnseg.core.postprocess import Seeds
    from napari_attnseg.params import ReadoutParams
    from napari_attnseg.records import DenseMaps

    Floats = npt.NDArray[np.float32]
    Labels = npt.NDArray[np.int32]


@dataclass(slots=True)
class SeedBlock:
    """The instance readout as an attention block: what a pixel attends to are the seeds.

    The tokens are the pixels of the field; only seeds carry weight, and the background slot is the
    register.  See :class:`napari_attnseg.core.attention.Block`.
    """

    grid: TokenGrid
    seeds: Seeds
    name: str = "readout"
    kind: str = "readout"
    heads: int = 1
    window: int | None = None

    def weights(self, pixels: npt.NDArray[np.intp]) -> tuple[Floats, Floats]:
        """Return what flat pixels of the field attend to.

        Returns
        -------
        weights : ndarray, (n, seeds) float32
            0 for pixels below the foreground threshold and of dropped fragments: they do not vote.
        background : ndarray, (n,) float32
            The rest of each row.
        """
        seeds, count = self.seeds, len(self.seeds.position)
        out = np.zeros((len(pixels), count), dtype=np.float32)
        if not count or not len(seeds.pixels):
            return out, np.ones(len(pixels), dtype=np.float32)
        at = np.searchsorted(seeds.pixels, pixels).clip(max=len(seeds.pixels) - 1)
        votes = seeds.pixels[at] == pixels
        at = at[votes]
        square = ((seeds.position[None] - seeds.vote[at][:, None]) ** 2).sum(axis=2)
        logits = -SHARPNESS * square / seeds.diameter[at][:, None] ** 2
        ground = np.full((len(at), 1), -SHARPNESS * REACH**2, dtype=np.float32)
        out[votes] = softmax(np.concatenate([logits, ground], axis=1, dtype=np.float32))[:, :-1]
        return out, 1 - out.sum(axis=1)

    def on_grid(self, values: npt.NDArray[np.floating[Any]]) -> Floats:
        """Put one value per seed at the seeds' pixels, (gh, gw)."""
        out = np.zeros(self.grid.shape, dtype=np.float32)
        sy, sx = self.seeds.position.astype(np.int64).T
        out[sy, sx] = values
        return out

    def row(self, pixel: tuple[int, int], head: str) -> tuple[Floats, float]:
        """Return the weights of all seeds for a pixel; a background pixel attends to nothing."""
        heads_of(head, 1)
        y, x = self.grid.token_of(pixel)
        weights, ground = self.weights(np.array([y * self.grid.shape[1] + x]))
        return self.on_grid(weights[0]), float(ground[0])

    def received(self, head: str) -> tuple[Floats, bool]:
        """Return the attention each seed receives (best and second choices), mean over all pixels."""
        heads_of(head, 1)
        count = len(self.seeds.position)
        total = np.bincount(self.seeds.best, self.seeds.weight, minlength=count + 1)[:count]
        total = total + np.bincount(self.seeds.second, self.seeds.runner_up, minlength=count + 1)[:count]
        return self.on_grid(total / (self.grid.shape[0] * self.grid.shape[1])), False


def seed_block(maps: DenseMaps, grid: TokenGrid, params: ReadoutParams | None = None) -> SeedBlock:
    """Return the readout of dense maps as a block, with the threshold and split of ``params``."""
    seeds = find_seeds(maps) if params is None else find_seeds(maps, params.threshold, params.split)
    return SeedBlock(grid, seeds)


@dataclass(frozen=True, slots=True)
class Assignment:
    """Which seed every pixel of the field attended to most, and which came second.

    Attributes
    ----------
    labels : ndarray, (H, W) int32
        Number of the seed plus 1; 0 where the background won or the pixel did not vote.  After
        :func:`napari_attnseg.core.tidy.tidy` these are the labels of the run, but for faint objects, which
        :func:`napari_attnseg.core.postprocess.read_out` drops.
    runner_up : ndarray, (H, W) int32
        The same for the second choice; -1 where the pixel did not vote.
    weight, runner_weight, margin : ndarray, (H, W) float32
        Attention on the first and the second choice, and their difference, 0..1 (0 without a vote).
    seeds : ndarray, (n, 2) float32
        (y, x) of the seeds, pixels of the plane.
    origin : tuple of int
        (y, x) of the field's first pixel in the plane.
    """

    labels: Labels
    runner_up: Labels
    weight: Floats
    runner_weight: Floats
    margin: Floats
    seeds: Floats
    origin: tuple[int, int]

    @property
    def uncertainty(self) -> Floats:
        """1 - margin where a pixel voted, else 0."""
        found: Floats = np.where(self.runner_up >= 0, 1 - self.margin, 0).astype(np.float32)
        return found


def assign(block: SeedBlock) -> Assignment:
    """Return the choice of every pixel among its two nearest seeds and the background."""
    seeds, shape, count = block.seeds, block.grid.shape, len(block.seeds.position)
    number = np.stack([np.minimum(seeds.best, count), seeds.second, np.full(len(seeds.best), count)], axis=1)
    ground = np.maximum(1 - seeds.weight - seeds.runner_up, 0)
    weight = np.stack([seeds.weight, seeds.runner_up, ground], axis=1)
    # where the background won, `best` is no seed and its weight is that of the nearest seed: it came second
    lost = seeds.best >= count
    first = np.where(lost, 2, 0)
    rest = weight.copy()
    rest[np.arange(len(rest)), first] = -1.0
    second = np.where(lost, 0, rest.argmax(axis=1))
    names = np.where(number < count, number + 1, 0)
    names[lost, 0] = _nearest(block, lost) + 1

    at = np.arange(len(weight))
    one, two = weight[at, first], weight[at, second]

    def painted(values: npt.NDArray[Any], fill: float, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        out = np.full(shape[0] * shape[1], fill, dtype=dtype)
        out[seeds.pixels] = values
        return out.reshape(shape)

    return Assignment(
        painted(names[at, first], 0, np.int32),
        painted(names[at, second], -1, np.int32),
        painted(one, 0, np.float32),
        painted(two, 0, np.float32),
        painted(np.clip(one - two, 0, 1), 0, np.float32),
        seeds.position + np.asarray(block.grid.origin, dtype=np.float32),
        block.grid.origin,
    )


def _nearest(block: SeedBlock, which: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Return the seed with the most weight of some voting pixels (-1 where there are no seeds)."""
    chosen = np.flatnonzero(which)
    out = np.full(len(chosen), -1, dtype=np.int64)
    step = max(1, 2**20 // max(len(block.seeds.position), 1))
    for start in range(0, len(chosen) if len(block.seeds.position) else 0, step):
        part = chosen[start : start + step]
        gap = block.seeds.position[None] - block.seeds.vote[part][:, None]
        out[start : start + step] = (gap**2).sum(axis=2).argmin(axis=1)
    return out
