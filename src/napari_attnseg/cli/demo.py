"""``demo``: a real micrograph segmented, in a window or without one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import click

from napari_attnseg import engine as door
from napari_attnseg.cli.common import (
    FILE,
    check_out,
    has_screen,
    json_option,
    progress_bar,
    report,
    say,
    window_module,
)
from napari_attnseg.errors import AttnSegError, StoreError

VIRTUAL = "NAPARI_ATTNSEG_VIRTUAL_SCREEN"  # set for the child that runs under xvfb-run


@click.command("demo")
@click.option(
    "--out",
    type=FILE,
    default=Path("napari-attnseg-demo"),
    show_default=True,
    help="Folder for the results; made if needed.",
)
@click.option("--no-window", is_flag=True, help="Write the files without opening napari.")
@json_option
def demo_command(out: Path, no_window: bool, as_json: bool) -> int:
    """Segment a real micrograph and show it in napari.

    Writes image.tif, labels.tif, attention.png and overlay.png, and with a window screenshot.png.  Without a
    screen the window opens on a virtual one (xvfb-run) and closes again.
    """
    check_out(out)
    _check_foreign(out)
    if no_window:
        return _files_only(out, as_json)
    if not has_screen():
        return _under_xvfb(out, as_json)
    window_module("demo").run(out, keep_open=VIRTUAL not in os.environ)
    from napari_attnseg.jobs.demo import FILES, SCREENSHOT

    files = sorted(str(out / name) for name in (*FILES, SCREENSHOT))
    report({"out": str(out), "files": files}, as_json, "\n".join(files))
    return 0


def _check_foreign(out: Path) -> None:
    """Raise where files of the demo's names are somebody else's."""
    import numpy as np

    from napari_attnseg.core.demo import demo_image
    from napari_attnseg.jobs.demo import FILES, LABELS, SCREENSHOT
    from napari_attnseg.store.images import check_ours, read_image

    taken = [out / name for name in (*FILES, SCREENSHOT) if (out / name).exists()]
    if not taken:
        return
    try:
        ours = np.array_equal(np.asarray(read_image(out / FILES[0]).data), demo_image())
    except AttnSegError:
        ours = False
    if not ours:
        raise StoreError(f"'{taken[0]}' is there already and not of the demo.", "Choose another --out.")
    check_ours(out / LABELS)  # not where they were corrected and saved since


def _files_only(out: Path, as_json: bool) -> int:
    from napari_attnseg.jobs.demo import make_demo
    from napari_attnseg.jobs.progress import drive

    engine = door.load_engine()
    with progress_bar() as show:
        found = drive(make_demo(engine, out), show)
    assert found is not None  # nothing cancels this run
    say(f"{found['objects']} objects in {found['seconds']:.1f} s on {engine.device}")
    report(found, as_json, "\n".join(found["files"]))
    return 0


def _under_xvfb(out: Path, as_json: bool) -> int:
    """Run this command again on a virtual screen and return its exit code."""
    runner = shutil.which("xvfb-run")
    if runner is None or VIRTUAL in os.environ:
        raise AttnSegError(
            "There is no screen, and no xvfb-run to make a virtual one.",
            "Install it with 'sudo apt install xvfb', or add --no-window.",
        )
    say("No screen: the window opens on a virtual one.")
    command = [runner, "-a", "-s", "-screen 0 1600x1000x24", sys.executable, "-m", "napari_attnseg"]
    command += ["demo", "--out", str(out), *(["--json"] if as_json else [])]
    return subprocess.run(command, env={**os.environ, VIRTUAL: "1"}, check=False).returncode
