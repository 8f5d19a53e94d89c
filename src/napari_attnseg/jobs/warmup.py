"""Loading torch and a model before they are needed, so that the first run starts at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_attnseg import engine as door
from napari_attnseg.records import Progress

if TYPE_CHECKING:
    from collections.abc import Generator

    from napari_attnseg.engine import Engine


def warmup(name: str = "base", device: str = "auto") -> Generator[Progress, None, Engine]:
    """Load a model (and torch, the first time) and return the engine.

    Closing the generator after it has loaded gives the engine's memory back.
    """
    note = "Loading the model" if door.torch_state() == "ready" else "Loading PyTorch and the model"
    yield Progress(0, 1, note)
    loaded = door.load_engine(name, device)
    try:
        yield Progress(1, 1, f"Ready on {loaded.device}")
    except GeneratorExit:
        loaded.close()
        raise
    return loaded
