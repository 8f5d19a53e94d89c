"""The plugin's page in napari's preferences (declared under ``configurations`` in ``napari.yaml``)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PLUGIN = "napari-attnseg"


@dataclass(frozen=True, slots=True)
class Settings:
    """What the user chose in the preferences.

    Attributes
    ----------
    device : str
        "auto", "cpu", "cuda" or "mps".
    tile : int or None
        Tile side in pixels; None chooses.
    models : Path or None
        Folder of the user's models; None is the standard one.
    cache_bytes : int
        How much of the network's results may be kept.
    tape_bytes, tape_disk_bytes : int
        How much recorded attention may be kept in memory and on disk.
    """

    device: str = "auto"
    tile: int | None = None
    models: Path | None = None
    cache_bytes: int = 2 * 1024**3
    tape_bytes: int = 1024**3 // 2
    tape_disk_bytes: int = 1024**3


def read() -> Settings:
    """Return the current settings; the defaults where napari does not know the plugin."""
    from napari.settings import get_plugin_settings

    try:
        kept = get_plugin_settings(PLUGIN)
    except KeyError:  # the plugin is disabled or was registered after napari read its manifests
        return Settings()
    size = int(kept.engine.tile_size)
    return Settings(
        device=str(kept.engine.device),
        tile=max(size, 128) if size else None,
        models=Path(kept.models.folder).expanduser() if kept.models.folder else None,
        cache_bytes=int(kept.cache.limit_gb * 1024**3),
        tape_bytes=int(kept.cache.tape_gb * 1024**3),
        tape_disk_bytes=int(kept.cache.tape_disk_gb * 1024**3),
    )
