"""An engine in a few lines of numpy, for everything that is not about the network."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from napari_attnseg.core import normalize
from napari_attnseg.core.attention import AttentionTape, QKBlock
from napari_attnseg.core.grid import TokenGrid
from napari_attnseg.records import DenseMaps, ModelCard

DEPTH = 6  # how far the fake network looks, pixels


class FakeEngine:
    """Foreground is what is brighter than the middle; distance is the number of erosions, up to 6.

    It looks 6 pixels far, whatever the zoom.  ``calls`` keeps (shape, zoom) of every image it was given.
    """

    def __init__(self, diameter: float = 24.0, sees: float = 24.0) -> None:
        self.card = ModelCard(
            "fake", "Fake", {}, diameter, blocks=("local1", "global1"), training={"readout": "watershed"}
        )
        self.device = "numpy"
        self.sees = sees
        self.calls: list[tuple[tuple[int, ...], float]] = []
        self.closed = False

    def _grey(self, image, norm):
        scaled = normalize.apply(image, norm or normalize.percentiles(image, rgb=image.ndim == 3))
        return scaled if scaled.ndim == 2 else scaled.mean(axis=-1, dtype=np.float32)

    def maps(self, image, *, zoom=1.0, norm=None):
        self.calls.append((image.shape, zoom))
        grey = np.clip(self._grey(image, norm), 0, 1)
        inside = grey > 0.5
        distance = np.zeros(inside.shape, dtype=np.float32)
        for _ in range(DEPTH):
            distance += inside / DEPTH
            p = np.pad(inside, 1, mode="edge")
            inside = inside & p[:-2, 1:-1] & p[2:, 1:-1] & p[1:-1, :-2] & p[1:-1, 2:]
        size = np.full(grey.shape, self.sees, dtype=np.float32)
        return DenseMaps(grey, distance, size, np.zeros((2, *grey.shape), dtype=np.float32))

    def tape(self, image, *, zoom=1.0, norm=None, origin=(0, 0)):
        self.calls.append((image.shape, zoom))
        field = image.shape[0], image.shape[1]
        shape = tuple(int(np.ceil(n * zoom / 16)) for n in field)
        grid = TokenGrid(16, zoom, shape, origin, field)
        rng = np.random.default_rng(3)
        n = shape[0] * shape[1]
        q, k = (rng.normal(size=(2, n, 8)).astype(np.float16) for _ in range(2))
        registers = rng.normal(size=(2, 4, 8)).astype(np.float16)
        blocks = (
            QKBlock("local1", "local", 2, grid, q, k, registers, 8**-0.5, window=2),
            QKBlock("global1", "global", 2, grid, q, k, registers, 8**-0.5),
        )
        return AttentionTape({block.name: block for block in blocks}, zoom, self.card.id)

    def features(self, image, *, zoom=1.0, norm=None):
        grey = self._grey(image, norm)
        both = np.stack([grey, 1 - grey])
        return (both / np.maximum(np.linalg.norm(both, axis=0), 1e-6)).astype(np.float32)

    def outputs(self, images, *, zoom=1.0, norm=None):
        maps = [self.maps(image, zoom=zoom, norm=norm) for image in images]
        p = np.stack([np.clip(m.foreground, 0.01, 0.99) for m in maps])
        rest = [np.stack([m.distance for m in maps]), np.zeros_like(p), np.zeros_like(p), np.zeros_like(p)]
        return np.stack([np.log(p / (1 - p)), *rest], axis=1).astype(np.float32)

    def gradient(self, image, target, *, zoom=1.0, norm=None):
        grey = np.clip(self._grey(image, norm), 0.01, 0.99)
        slope = np.where((grey > 0.01) & (grey < 0.99), target / (grey * (1 - grey)), 0).astype(np.float32)
        return slope if image.ndim == 2 else np.repeat(slope[..., None] / 3, 3, axis=2)

    def evidence(self, image, target, *, zoom=1.0, norm=None):
        grid = self.tape(image, zoom=zoom, norm=norm).block("global1").grid
        slope = self.gradient(image, target, zoom=zoom, norm=norm)
        grey = self._grey(image, norm)
        moved = (slope if slope.ndim == 2 else slope.sum(axis=-1)) * (grey - grey.mean())
        rows, cols = grid.index_maps()
        flat = (rows[:, None] * grid.shape[1] + cols).ravel()
        count = grid.shape[0] * grid.shape[1]
        return {"global1": np.bincount(flat, moved.ravel(), count).reshape(grid.shape).astype(np.float32)}

    def save(self, folder: Path) -> ModelCard:
        return self.card

    def close(self) -> None:
        self.closed = True


def blobs(shape=(96, 128), step=32, radius=9, dtype=np.uint8):
    """Return bright discs on a dark ground and their labels."""
    y, x = np.indices(shape)
    labels = np.zeros(shape, dtype=np.int32)
    centres = [(a, b) for a in range(step // 2, shape[0], step) for b in range(step // 2, shape[1], step)]
    for number, (cy, cx) in enumerate(centres, start=1):
        labels[(y - cy) ** 2 + (x - cx) ** 2 <= radius**2] = number
    top = 1 if np.dtype(dtype).kind == "b" else 200
    return (top * (labels > 0)).astype(dtype), labels
