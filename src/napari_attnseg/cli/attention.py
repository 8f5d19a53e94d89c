"""``attention``: what one pixel attended to, as a TIFF and a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from napari_attnseg import engine as door
from napari_attnseg.cli.common import (
    FILE,
    check_files,
    check_out,
    json_option,
    params_options,
    progress_bar,
    report,
    say,
)
from napari_attnseg.errors import InputError
from napari_attnseg.params import SegmentParams, checked

if TYPE_CHECKING:
    from pathlib import Path

    from napari_attnseg.records import ImageSource, PlaneKey


@click.command("attention")
@click.argument("file", type=FILE)
@click.option("--at", required=True, nargs=2, type=int, metavar="Y X", help="Pixel: row and column from 0.")
@click.option(
    "--block",
    help="Attention block; 'models show' lists them, 'rollout' follows all of them back by values."
    "  [default: the first global one]",
)
@click.option("--head", default="mean", show_default=True, help="'mean', or the number of a head.")
@click.option("--value", is_flag=True, help="Weigh by the values: each token's share in what the block adds.")
@click.option(
    "--check", is_flag=True, help="Cover what the pixel attends to, run again, and say whether it matters."
)
@click.option("--plane", help="Which plane of a stack, such as '0' or '2,5'.  [default: the first]")
@click.option("--out", required=True, type=FILE, help="Folder for the results; made if needed.")
@params_options(["model", "diameter", "channel", "device", "tile", "mirror"])
@json_option
def attention_command(
    file: Path,
    at: tuple[int, int],
    block: str | None,
    head: str,
    value: bool,
    check: bool,
    plane: str | None,
    out: Path,
    as_json: bool,
    **values: Any,
) -> None:
    """Show what the pixel Y X of FILE attended to.

    Writes OUT/<name>_attention.tif (float32, image size, the weight of each token over its cell) and a heat
    map over the image as .png.  The numbers are those of the window.
    """
    from napari_attnseg.core import render
    from napari_attnseg.core.attention_maps import row_at
    from napari_attnseg.core.axes import read_plane
    from napari_attnseg.jobs.faithfulness import check_query
    from napari_attnseg.jobs.progress import drive
    from napari_attnseg.jobs.segment import encode, fits
    from napari_attnseg.jobs.tape import default_block, record_tape
    from napari_attnseg.store.images import check_ours, read_image, replacing, save_png, save_tiff, stem_of

    params = checked(SegmentParams, **values)
    check_files([file])
    tif, png = (out / f"{stem_of(file)}_attention{suffix}" for suffix in (".tif", ".png"))
    check_out(out, [file], [tif, png])
    for target in (tif, png):
        check_ours(target)
    source = read_image(file)
    key = _plane_key(source, plane)
    _check_pixel(source, at)
    engine = door.load_engine(params.model, params.device)
    with progress_bar() as show:
        encoded = None
        if block == "readout" and fits(source, 1):  # as in the window: of all that the labels are read from
            encoded = drive(encode(engine, source, params, planes=[key]), show)
        tape = drive(record_tape(engine, source, key, at, encoded, params), show)
        assert tape is not None  # nothing cancels this run
        row = row_at(tape, block or default_block(tape), at, head, value)
        verdict = None
        if check:
            job = check_query(engine, source, key, at, params, block=row.block, head=row.head, value=value)
            verdict = drive(job, show)
    painted = row.grid.paint(row.weights, source.shape_yx)
    picture = render.heat(painted, read_plane(source, key, None, params.channel), at=at)
    with replacing(tif) as part, replacing(png) as part_png:  # both or none
        save_tiff(part, painted)
        save_png(part_png, picture)
    say(f"{file}: block '{row.block}' ({row.kind}), {row.register_share:.1%} on the registers")
    result = {
        "file": str(file),
        "at": list(at),
        "model": params.model,
        "block": row.block,
        "kind": row.kind,
        "head": row.head,
        "value": row.value,
        "stride": row.grid.stride,
        "zoom": row.grid.zoom,
        "origin": list(row.grid.origin),
        "window": row.window,
        "register_share": row.register_share,
        "grid": list(row.grid.shape),
        "output": str(tif),
        "picture": str(png),
    }
    if verdict is not None:
        say(verdict.words)
        result["check"] = {**verdict.to_dict(), "words": verdict.words}
    report(result, as_json, f"{tif}\n{png}")


def _plane_key(source: ImageSource, text: str | None) -> PlaneKey:
    from napari_attnseg.core.axes import plane_keys
    from napari_attnseg.records import PlaneKey

    if text is None:
        if source.plane_shape and len(plane_keys(source)) > 1:
            say(f"A stack of {_planes_of(source)}: the first plane is taken (see --plane).")
        return plane_keys(source)[0]
    try:
        key = PlaneKey(tuple(int(part) for part in text.split(",")))
    except ValueError as err:
        raise InputError(f"'{text}' is no plane.", "Give whole numbers such as '0' or '2,5'.") from err
    if key not in plane_keys(source):
        many = f"The stack has {_planes_of(source)}, counted from 0."
        raise InputError(
            f"There is no plane {text}.", many if source.plane_shape else "It is no stack: leave --plane out."
        )
    return key


def _planes_of(source: ImageSource) -> str:
    """Return the size of a stack in words: "2 (T) x 5 (Z) planes"."""
    sizes = zip(source.plane_shape, source.plane_axes, strict=True)
    return " x ".join(f"{size} ({axis})" for size, axis in sizes) + " planes"


def _check_pixel(source: ImageSource, at: tuple[int, int]) -> None:
    h, w = source.shape_yx
    if not (0 <= at[0] < h and 0 <= at[1] < w):
        raise InputError(
            f"Pixel {at} lies outside the image.", f"Rows go from 0 to {h - 1}, columns from 0 to {w - 1}."
        )
