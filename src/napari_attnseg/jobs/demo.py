"""The demo without a window: segment the demo image and show what one pixel attended to."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_attnseg.core import render
from napari_attnseg.core.axes import source_of
from napari_attnseg.core.demo import demo_image
from napari_attnseg.jobs.segment import segment
from napari_attnseg.jobs.tape import default_block, record_tape
from napari_attnseg.params import SegmentParams
from napari_attnseg.records import PlaneKey, Progress
from napari_attnseg.store.images import replacing, save_png, save_tiff

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    import numpy.typing as npt

    from napari_attnseg.engine import Engine

LABELS = "labels.tif"
FILES = ("image.tif", LABELS, "attention.png", "overlay.png")
SCREENSHOT = "screenshot.png"  # of the window, beside them


def make_demo(
    engine: Engine, out: Path, params: SegmentParams | None = None
) -> Generator[Progress, None, dict[str, Any]]:
    """Segment the demo image and write ``FILES`` into ``out``.

    Returns
    -------
    dict
        ``out``, ``files``, ``objects``, ``seconds``, and the ``block`` and pixel (``at``) of the attention
        picture.
    """
    params = params or SegmentParams()
    image = demo_image()
    source = source_of(image, "demo")
    result, encoded = yield from segment(engine, source, params)
    pixel = sure_pixel(result.labels, result.features)
    tape = yield from record_tape(engine, source, PlaneKey(), pixel, encoded, params)
    block = default_block(tape)
    row = tape.row(block, pixel)
    yield Progress(1, 1, "Writing the files")
    heat = render.heat(row.grid.paint(row.weights, result.labels.shape), image, at=pixel)
    overlay = render.overlay(result.labels, image)
    with ExitStack() as stack:  # all of them or none
        parts = [stack.enter_context(replacing(out / name)) for name in FILES]
        save_tiff(parts[0], image)
        save_tiff(parts[1], result.labels)
        save_png(parts[2], heat)
        save_png(parts[3], overlay)
    return {
        "out": str(out),
        "files": [str(out / name) for name in FILES],
        "objects": int(result.labels.max(initial=0)),
        "seconds": round(result.seconds, 2),
        "block": block,
        "at": list(pixel),
    }


def sure_pixel(labels: npt.NDArray[np.int32], features: Any) -> tuple[int, int]:
    """Return a pixel inside the object of highest confidence; the middle where there is no object."""
    h, w = labels.shape
    if not labels.any():
        return h // 2, w // 2
    best = int(features["index"][int(np.argmax(features["confidence"]))])
    inside = np.argwhere(labels == best)
    y, x = inside[np.abs(inside - inside.mean(axis=0)).sum(axis=1).argmin()]
    return int(y), int(x)
