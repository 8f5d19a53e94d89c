"""``launch``: napari with the dock."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from napari_attnseg.cli.common import FILE, has_screen, window_module
from napari_attnseg.errors import AttnSegError, InputError

if TYPE_CHECKING:
    from pathlib import Path


@click.command("launch")
@click.argument("files", nargs=-1, type=FILE)
def launch_command(files: tuple[Path, ...]) -> None:
    """Open napari with the Attention Segmentation dock, and FILES in it."""
    for path in files:
        if not path.exists():
            raise InputError(f"There is no file '{path}'.", "Check the spelling and the folder.")
    if not has_screen():
        raise AttnSegError(
            "There is no screen to open a window on.", "'segment' and 'demo --no-window' need none."
        )
    window_module("launch").run(list(files))
