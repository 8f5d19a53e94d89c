"""What to do when a device has no memory left: half the tile, pooled keys, then the processor."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from napari_attnseg.errors import OutOfMemoryError
from napari_attnseg.nn import device as devices

if TYPE_CHECKING:
    from collections.abc import Callable

    Forward = Callable[[Tensor, torch.device, int], Tensor]

HALO = 48  # pixels of context around a half tile
_POOLS = (2, 4)
# by CUDA and MPS, by the processor on Linux and macOS, by the processor on Windows, by cuBLAS
_SAID = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed")


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error of torch means that memory ran out (CUDA, MPS or processor)."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(said in text for said in _SAID)


@dataclass(slots=True)
class Ladder:
    """Runs a forward pass and steps down when memory runs out; remembers where it stands.

    Parameters
    ----------
    forward : callable
        ``forward(x, device, pool)`` maps (1, 3, H, W) on the CPU to maps (1, c, H, W) on the CPU.
    device : torch.device
        Where it is tried first.

    Attributes
    ----------
    notes : list of str
        What was given up, one sentence each, each said once.
    """

    forward: Forward
    device: torch.device
    step: int = 0
    notes: list[str] = field(default_factory=list)

    def run(self, x: Tensor) -> Tensor:
        """Return the maps of ``x``.

        Raises
        ------
        OutOfMemoryError
            Even the processor had not enough memory.
        """
        rungs = self._rungs()
        for step in range(self.step, len(rungs)):
            self.step = step
            note, attempt = rungs[step]
            if note and note not in self.notes:
                self.notes.append(note)
            try:
                return attempt(x)
            except (RuntimeError, MemoryError) as err:
                if not is_out_of_memory(err):
                    raise
            devices.release(self.device)  # outside the handler: the traceback holds the tensors
        self.step = 0
        raise OutOfMemoryError("There is not enough memory for this image.", "Choose a smaller tile size.")

    def _rungs(self) -> list[tuple[str, Callable[[Tensor], Tensor]]]:
        cpu = torch.device("cpu")
        name = {"cuda": "The GPU", "mps": "The GPU"}.get(self.device.type, "This computer")
        full = f"{name} ran out of memory"
        rungs: list[tuple[str, Callable[[Tensor], Tensor]]] = [
            ("", lambda x: self.forward(x, self.device, 1)),
            (f"{full}: tiles were halved.", lambda x: self._halved(x, self.device, 1)),
        ]
        for pool in _POOLS:
            note = f"{full}: tiles were halved and attention keys pooled {pool} x {pool}."
            rungs.append((note, lambda x, pool=pool: self._halved(x, self.device, pool)))  # type: ignore[misc]
        if self.device.type != "cpu":
            rungs.append((f"{full}: the processor took over.", lambda x: self.forward(x, cpu, 1)))
            rungs.append(
                (f"{full}: the processor took over in half tiles.", lambda x: self._halved(x, cpu, 2))
            )
        return rungs

    def _halved(self, x: Tensor, device: torch.device, pool: int) -> Tensor:
        """Run four overlapping quarters and put their inner parts together."""
        h, w = x.shape[-2:]
        out: Tensor | None = None
        for ys, yread in _halves(h):
            for xs, xread in _halves(w):
                part = self.forward(x[..., yread, xread], device, pool)
                if out is None:
                    out = part.new_empty((*part.shape[:-2], h, w))
                inner_y = slice(ys.start - yread.start, ys.stop - yread.start)
                inner_x = slice(xs.start - xread.start, xs.stop - xread.start)
                out[..., ys, xs] = part[..., inner_y, inner_x]
        assert out is not None
        return out


def _halves(n: int) -> list[tuple[slice, slice]]:
    """Return (kept, read) slices of the halves of an axis; one of each where it is short."""
    if n < 2 * HALO:
        return [(slice(0, n), slice(0, n))]
    middle = n // 2
    return [
        (slice(0, middle), slice(0, min(n, middle + HALO))),
        (slice(middle, n), slice(max(0, middle - HALO), n)),
    ]


def memory_mb() -> int:
    """Return the largest memory of this process so far, MiB; 0 where the system does not say."""
    try:
        import resource
        import sys
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / 2**20 if sys.platform == "darwin" else peak / 2**10)
