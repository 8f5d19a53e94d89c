"""``segment``: images in, label files out."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from napari_attnseg import engine as door
from napari_attnseg.cli.common import (
    FILE,
    FILES,
    check_files,
    check_out,
    json_option,
    params_options,
    progress_bar,
    report,
    say,
)
from napari_attnseg.errors import AttnSegError, InputError
from napari_attnseg.params import SegmentParams, checked

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from napari_attnseg.engine import Engine

SOME_FAILED, ALL_FAILED = 3, 2


@click.command("segment")
@click.argument("files", nargs=-1, required=True, type=FILES)
@click.option("--out", required=True, type=FILE, help="Folder for the labels; made if needed.")
@params_options()
@json_option
def segment_command(files: tuple[Path, ...], out: Path, as_json: bool, **values: Any) -> int:
    """Segment images: TIFF, PNG, JPEG or zarr FILES.

    Writes OUT/<name>.tif (a .zarr for a .zarr) with int32 labels of the same height and width.  Stacks
    keep their planes; channels are taken together unless --channel names one.
    """
    from napari_attnseg.jobs.segment import needs_engine
    from napari_attnseg.store.images import check_ours

    params = checked(SegmentParams, **values)
    paths = check_files(files)
    targets = {path: target_of(path, out) for path in paths}
    check_out(out, paths, targets.values())
    for target in targets.values():
        check_ours(target)
    engine = door.load_engine(params.model, params.device) if needs_engine(params) else None
    done: list[dict[str, Any]] = []
    failed: list[tuple[Path, AttnSegError]] = []
    for path, target in targets.items():
        try:
            with progress_bar() as show:
                done.append(segment_file(engine, path, target, params, show))
        except (AttnSegError, OSError, MemoryError) as error:
            err = _in_words(error, params)
            if len(paths) == 1:
                raise err from error
            failed.append((path, err))
            say(f"Failed: {path}: {err.message}\nHint: {err.hint}")
            continue
        count = done[-1]["objects"]
        what = f"{count} object{'' if count == 1 else 's'}"
        if params.task == "classes":
            what = f"classes {', '.join(done[-1].get('classes', ())) or '1'}"
        say(f"{path} -> {target}: {what} in {done[-1]['seconds']:.1f} s")
    report(
        {
            "method": params.method,
            "model": params.model if engine is not None else None,
            "device": engine.device if engine is not None else None,
            "files": done,
            "failed": [{"input": str(p), "error": e.message, "hint": e.hint} for p, e in failed],
        },
        as_json,
        "\n".join(one["output"] for one in done),
    )
    if failed:
        names = ", ".join(str(path) for path, _ in failed)
        say(f"Error: {len(failed)} of {len(paths)} files failed: {names}")
        return SOME_FAILED if done else ALL_FAILED
    return 0


def _in_words(error: AttnSegError | OSError | MemoryError, params: SegmentParams) -> AttnSegError:
    """Return an error of one file as one of ours: the others go on."""
    if isinstance(error, AttnSegError):
        return error
    if isinstance(error, MemoryError):
        smaller = "Take a smaller --tile" if params.method == "attention" else "Cut the image"
        return InputError("There is not enough memory for this image.", f"{smaller}, or close programs.")
    what = f"'{error.filename}' cannot be used" if error.filename else "This file cannot be used"
    return InputError(f"{what} ({error.strerror or error}).", "Check the path, its rights and the disk.")


def target_of(path: Path, out: Path) -> Path:
    """Return where the labels of a file go."""
    from napari_attnseg.store.images import is_zarr, stem_of

    return out / (stem_of(path) + (".zarr" if is_zarr(path) else ".tif"))


def segment_file(
    engine: Engine | None, path: Path, target: Path, params: SegmentParams, show: Callable[[Any], None]
) -> dict[str, Any]:
    """Segment one file, write its labels and return what to report."""
    from napari_attnseg.jobs.progress import drive
    from napari_attnseg.jobs.segment import segment as segment_job
    from napari_attnseg.store.images import read_image, write_labels

    start = time.perf_counter()
    source = read_image(path)
    found = drive(segment_job(engine, source, params), show)
    assert found is not None  # nothing cancels this run
    result = found[0]
    write_labels(target, result.labels, source.plane_axes + "YX")
    for note in result.notes:
        say(f"{path}: {note}")
    names = result.features["class"] if params.task == "classes" and "class" in result.features else None
    return {
        "input": str(path),
        "output": str(target),
        "shape": list(result.labels.shape),
        "objects": int(result.labels.max(initial=0)),
        **({} if names is None else {"classes": [str(name) for name in names]}),
        "diameter": round(result.diameter, 2),
        "seconds": round(time.perf_counter() - start, 3),
    }
