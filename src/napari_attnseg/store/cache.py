"""Tapes that were recorded before: the last ones in memory, more on disk, both bounded.

A tape is found by what it was made of (pixels, scaling, zoom, place, weights), so a changed image never
finds a stale one.  In memory the newest tape is whole; of older ones only the coarse blocks stay, which are
small, and the rest comes back from the disk or is recorded again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
from collections import OrderedDict
from contextlib import suppress
from dataclasses import asdict, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_attnseg.core.attention import AttentionTape, QKBlock
from napari_attnseg.core.grid import TokenGrid
from napari_attnseg.core.postprocess import Seeds
from napari_attnseg.core.seedblock import SeedBlock
from napari_attnseg.store.models import home

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from napari_attnseg.core.attention import Block
    from napari_attnseg.records import Normalisation

_LOG = logging.getLogger(__name__)
COARSE = 16  # blocks of this stride or more are kept of every tape
_FORMAT = 5
MEMORY = 512 * 2**20
DISK = 2**30


def tape_key(
    pixels: npt.NDArray[np.generic],
    norm: Normalisation | None,
    zoom: float,
    origin: tuple[int, int],
    weights: str,
) -> str:
    """Return the name of a tape: a hash of all that decides it.

    Parameters
    ----------
    pixels : ndarray, (H, W) or (H, W, C)
        The field as the network is given it.
    weights : str
        sha256 of the model's weights.
    """
    digest = hashlib.blake2b(digest_size=16)
    about = [_FORMAT, str(pixels.dtype), pixels.shape, zoom, origin, weights, norm and asdict(norm)]
    digest.update(json.dumps(about).encode())
    digest.update(np.ascontiguousarray(pixels).view(np.uint8).data)
    return digest.hexdigest()


class TapeCache:
    """Keeps tapes by key.  Its methods may be called from any thread.

    Parameters
    ----------
    memory_bytes, disk_bytes : int
        Limits; 0 keeps nothing there.
    folder : Path or None
        Where the files lie; None takes ``cache/tapes`` in the folder of models and runs.
    """

    def __init__(
        self, memory_bytes: int = MEMORY, disk_bytes: int = DISK, folder: Path | None = None
    ) -> None:
        self.memory_bytes, self.disk_bytes = memory_bytes, disk_bytes
        self._folder = folder
        self._kept: OrderedDict[str, tuple[AttentionTape, bool]] = OrderedDict()  # tape, whole
        self._lock = threading.Lock()

    @property
    def folder(self) -> Path:
        """Where the files lie (it may not exist yet)."""
        return self._folder if self._folder is not None else home() / "cache" / "tapes"

    @property
    def nbytes(self) -> int:
        """Memory of the tapes that are held, bytes."""
        with self._lock:
            return sum(tape.nbytes for tape, _ in self._kept.values())

    def get(self, key: str, block: str | None = None) -> AttentionTape | None:
        """Return the tape of a key, or None.

        Parameters
        ----------
        block : str or None
            The block that is needed; None needs all of them.
        """
        with self._lock:
            if key in self._kept:
                tape, whole = self._kept[key]
                if whole or block in tape.blocks:
                    self._kept.move_to_end(key)
                    return tape
        read = _read(self.folder / f"{key}.npz")
        if read is not None:
            self._remember(key, read)
        return read

    def put(self, key: str, tape: AttentionTape) -> None:
        """Keep a tape in memory and on disk, and drop the oldest beyond the limits."""
        self._remember(key, tape)
        if tape.nbytes <= self.disk_bytes:
            _write(self.folder / f"{key}.npz", tape)
            self._trim()

    def _remember(self, key: str, tape: AttentionTape) -> None:
        with self._lock:
            for name, (other, whole) in self._kept.items():
                if whole and name != key:
                    self._kept[name] = slim(other), False
            self._kept[key] = tape, True
            self._kept.move_to_end(key)
            room = self.memory_bytes - sum(other.nbytes for other, _ in self._kept.values())
            while room < 0 and self._kept:
                _, (old, _) = self._kept.popitem(last=False)
                room += old.nbytes

    def _trim(self) -> None:
        """Remove the files that were not used for longest, beyond the limit."""
        try:
            files = [(f.stat().st_mtime, f.stat().st_size, f) for f in self.folder.glob("*.npz")]
        except OSError:  # another process tidies at the same time
            return
        room = self.disk_bytes - sum(size for _, size, _ in files)
        for _, size, file in sorted(files, key=lambda entry: entry[0]):
            if room >= 0:
                return
            with suppress(OSError):  # open in another process on Windows
                file.unlink(missing_ok=True)
            room += size


_shared: TapeCache | None = None


def shared_cache(memory_bytes: int = MEMORY, disk_bytes: int = DISK) -> TapeCache:
    """Return the cache of this process, with these limits from now on."""
    global _shared
    if _shared is None:
        _shared = TapeCache(memory_bytes, disk_bytes)
    _shared.memory_bytes, _shared.disk_bytes = memory_bytes, disk_bytes
    return _shared


def slim(tape: AttentionTape) -> AttentionTape:
    """Return a tape with its coarse blocks alone, without promoted keys."""
    kept: dict[str, Block] = {
        name: replace(block, _k32=None)
        for name, block in tape.blocks.items()
        if isinstance(block, QKBlock) and block.grid.stride >= COARSE
    }
    return replace(tape, blocks=kept)


def _write(path: Path, tape: AttentionTape) -> None:
    """Write a tape to a temporary file, then rename it; a full disk is logged, not raised."""
    arrays: dict[str, Any] = {}
    blocks = [_block_to(name, block, arrays) for name, block in tape.blocks.items()]
    header = {"format": _FORMAT, "blocks": blocks}
    header |= {"zoom": tape.zoom, "model": tape.model, "spread": tape.spread}
    arrays["header"] = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
    part = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            np.savez(file, **arrays)
        part.replace(path)
    except OSError as err:
        _LOG.warning("A tape could not be kept in '%s': %s", path.parent, err)
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _read(path: Path) -> AttentionTape | None:
    """Read a tape and mark it as used; a file that cannot be read is removed."""
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            header = json.loads(arrays["header"].tobytes())
            if header["format"] != _FORMAT:
                raise ValueError(f"format {header['format']}")
            blocks = {entry["name"]: _block_from(entry, arrays) for entry in header["blocks"]}
        os.utime(path)
    except Exception as err:  # whatever a damaged file raises, the tape can be recorded again
        _LOG.warning("The kept tape '%s' cannot be read and is dropped: %s", path.name, err)
        with suppress(OSError):
            path.unlink(missing_ok=True)
        return None
    return AttentionTape(blocks, float(header["zoom"]), str(header["model"]), float(header["spread"]))


_ARRAYS = ("q", "k", "registers", "bias", "gram", "register_gram", "own")


def _block_to(name: str, block: Block, arrays: dict[str, Any]) -> dict[str, Any]:
    about = {"name": name, "kind": block.kind, "heads": block.heads, "window": block.window}
    if isinstance(block, SeedBlock):
        kept = {f.name: getattr(block.seeds, f.name) for f in fields(Seeds)}
    elif isinstance(block, QKBlock):
        kept = {n: getattr(block, n) for n in _ARRAYS if getattr(block, n) is not None}
        about |= {"scale": block.scale, "spread": block.spread}
    else:
        raise TypeError(f"block '{name}' of type {type(block).__name__} cannot be stored")
    arrays |= {f"{name}/{n}": array for n, array in kept.items()}
    return {**about, "grid": asdict(block.grid)}


def _block_from(about: dict[str, Any], arrays: Any) -> Block:
    name, place = about["name"], about["grid"]
    sizes = {n: tuple(place[n]) for n in ("shape", "origin", "field")}
    grid = TokenGrid(int(place["stride"]), float(place["zoom"]), **sizes)
    kept = {n.split("/", 1)[1]: arrays[n] for n in arrays.files if n.startswith(f"{name}/")}
    if "scale" not in about:
        return SeedBlock(grid, Seeds(**kept), name, about["kind"], about["heads"])
    return QKBlock(
        name, about["kind"], about["heads"], grid, scale=about["scale"], window=about["window"],
        spread=about["spread"], **kept,
    )  # fmt: skip
