"""``doctor``: a report to paste into a bug."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import click

from napari_attnseg import __version__
from napari_attnseg import engine as door
from napari_attnseg.cli.common import has_screen, json_option, report
from napari_attnseg.errors import AttnSegError

PACKAGES = (
    "torch", "napari", "numpy", "scipy", "scikit-image", "tifffile", "zarr", "dask",
    "PyQt6", "PySide6", "PyQt5", "superqt", "magicgui", "pydantic", "safetensors",
)  # fmt: skip


@click.command("doctor")
@json_option
def doctor_command(as_json: bool) -> None:
    """Report versions, device, screen and folders."""
    found = examine()
    lines = []
    for key, value in found.items():
        if isinstance(value, dict):
            lines += [f"{name:15} {text}" for name, text in value.items()]
        else:
            lines.append(f"{key:15} {', '.join(value) if isinstance(value, list) else value}")
    report(found, as_json, "\n".join(lines))


def examine() -> dict[str, Any]:
    """Return what a bug report needs; no part of it stops the others."""
    from napari_attnseg.store.models import list_models, models_folder

    try:
        devices = door.devices()
    except AttnSegError as err:
        devices = [str(err)]
    return {
        "napari-attnseg": __version__,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "processors": os.cpu_count() or 0,
        "packages": {name: _version(name) for name in PACKAGES},
        "devices": devices,
        "screen": _screen(),
        "models folder": str(models_folder()),
        "models": [card.id for card in list_models()] or ["none"],
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _screen() -> str:
    if not sys.platform.startswith("linux"):
        return platform.system()
    named = [
        f"{n}={os.environ[n]}" for n in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM") if n in os.environ
    ]
    return ", ".join(named) if has_screen() else "none"
