"""TokenGrid: the only owner of the change between pixels and attention tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

_MOST_PARTS = 1024  # along an axis


@dataclass(frozen=True, slots=True)
class TokenGrid:
    """A grid of square tokens over a field of an image plane.

    A field pixel ``p`` (counted from ``origin``) covers ``[p, p + 1)``; scaled by ``zoom`` it lies in
    the token ``floor((p + 0.5) * zoom / stride)``.

    Attributes
    ----------
    stride : int
        Token side in pixels of the resized field the network saw.
    zoom : float
        Factor by which the field was resized before the network.
    shape : tuple of int
        (gh, gw) tokens.
    origin : tuple of int
        (y, x) of the field's first pixel in the image plane.
    field : tuple of int
        (H, W) of the field in image pixels.
    """

    stride: int
    zoom: float
    shape: tuple[int, int]
    origin: tuple[int, int]
    field: tuple[int, int]

    @property
    def cell(self) -> float:
        """Side of a token in image pixels."""
        return self.stride / self.zoom

    def token_of(self, pixel: tuple[float, float]) -> tuple[int, int]:
        """Return the (row, column) token of an image pixel, clipped to the grid."""
        row, col = (int(np.floor((p - o + 0.5) / self.cell)) for p, o in zip(pixel, self.origin, strict=True))
        return min(max(row, 0), self.shape[0] - 1), min(max(col, 0), self.shape[1] - 1)

    def pixel_of(self, token: tuple[int, int]) -> tuple[float, float]:
        """Return the image position of a token's centre, pixels (centres at integers)."""
        y, x = (o + (t + 0.5) * self.cell - 0.5 for t, o in zip(token, self.origin, strict=True))
        return y, x

    def contains(self, pixel: tuple[float, float]) -> bool:
        """Tell whether an image pixel lies in the field."""
        return all(-0.5 <= p - o < n - 0.5 for p, o, n in zip(pixel, self.origin, self.field, strict=True))

    def affine(self, parts: int = 1) -> npt.NDArray[np.float64]:
        """Return the (3, 3) matrix from token indices to image pixels, for a layer of its own.

        With ``parts`` it is from the indices of cells that each are one of so many a side of a token.
        """
        side = self.cell / parts
        shift = [o + (side - 1) / 2 for o in self.origin]
        return np.array([[side, 0, shift[0]], [0, side, shift[1]], [0, 0, 1]], dtype=float)

    def parts(self, shape: tuple[int, int]) -> tuple[int, tuple[int, int]]:
        """Return into how many parts a side tokens are cut, so that what is drawn ends where a plane ends.

        Parameters
        ----------
        shape : tuple of int
            (H, W) of the plane.

        Returns
        -------
        int
            Parts a side: the fewest with which the last ones reach past the plane by no more than a pixel,
            or 1 / 256 of the plane; of those with up to 1024 parts along an axis the best where none does.
        tuple of int
            (rows, columns) of parts that lie in the plane.
        """
        best, over = (1, self.shape), np.inf
        room = [n - o for n, o in zip(shape, self.origin, strict=True)]
        for count in range(1, max(2, _MOST_PARTS // max(self.shape) + 1)):
            side = self.cell / count
            fits = [
                min(g * count, int(np.ceil(r / side - 1e-6))) for g, r in zip(self.shape, room, strict=True)
            ]
            past = max((f * side - r) / max(1.0, n / 256) for f, r, n in zip(fits, room, shape, strict=True))
            if past < over:
                best, over = (count, (fits[0], fits[1])), past
            if past <= 1:
                break
        return best

    def index_maps(
        self, extent: tuple[int, int] | None = None
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Return the token row of every field row (H,) and the token column of every field column (W,).

        ``extent`` (H, W) counts other rows and columns than the field's from its first pixel.
        """
        rows, cols = (
            np.minimum(((np.arange(n) + 0.5) / self.cell).astype(np.intp), g - 1)
            for n, g in zip(extent or self.field, self.shape, strict=True)
        )
        return rows, cols

    def paint(
        self, values: npt.NDArray[np.float32], shape: tuple[int, int], fill: float = 0.0
    ) -> npt.NDArray[np.float32]:
        """Repeat each token's value over its cell of an image plane.

        Where the field ends inside a cell, the cell is painted whole, as far as the plane goes.

        Parameters
        ----------
        values : ndarray, (gh, gw)
        shape : tuple of int
            (H, W) of the plane.
        fill : float
            Value outside the field.

        Returns
        -------
        ndarray, (H, W) float32
        """
        (y, x), (h, w) = self.origin, self._painted(shape)
        rows, cols = self.index_maps((h, w))
        out = np.full(shape, fill, dtype=np.float32)
        out[y : y + h, x : x + w] = values[np.ix_(rows, cols)]
        return out

    def _painted(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Return the height and width of the field, rounded up to whole cells inside the plane."""
        whole = (int(np.ceil(g * self.cell - 0.5)) for g in self.shape)
        h, w = (
            max(f, min(n, s - o)) for f, n, s, o in zip(self.field, whole, shape, self.origin, strict=True)
        )
        return h, w
