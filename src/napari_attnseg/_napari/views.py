"""What an overlay shows, and the words that say what it is."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from napari_attnseg.core.attention import AttentionTape, Block
    from napari_attnseg.core.attention_compare import RowPair
    from napari_attnseg.core.attention_maps import FieldMap
    from napari_attnseg.core.grid import TokenGrid
    from napari_attnseg.core.seedblock import Assignment
    from napari_attnseg.records import AttentionRow

TITLES = {
    "received": "Attention received",
    "entropy": "How spread the attention of each place is",
    "distance": "How far each place looks on average",
    "uncertainty": "How unsure the readout is",
    "rollout": "Rollout through all blocks",
}


@dataclass(frozen=True, slots=True)
class View:
    """What the overlay shows.

    Attributes
    ----------
    values : ndarray, (gh, gw) float32
        One value per token.
    grid : TokenGrid
    limits : tuple of float
        Values drawn darkest and brightest.
    caption : str
        Lines that name the query, block, head, token size, normalisation, and whether it is exact.
    info : mapping
        The same as plain values, kept in the layer's metadata.
    signed : bool
        Whether the values are differences, drawn in two colours.
    """

    values: npt.NDArray[np.float32]
    grid: TokenGrid
    limits: tuple[float, float]
    caption: str
    info: Mapping[str, Any] = field(default_factory=dict)
    signed: bool = False

    @property
    def gamma(self) -> float:
        """Weights fall off fast: below 1 the weaker ones can be seen.  1 for what is spread evenly."""
        return 0.6 if self.info.get("show") in ("row", "object", "received", "rollout") else 1.0

    def value_words(self, token: tuple[int, int]) -> str:
        """Say one value: "attention 0.0123 (12.6 × an even share)"."""
        value = float(self.values[token])
        if self.info.get("show") not in ("row", "object"):
            unit = str(self.info.get("unit", ""))
            return f"{self.info.get('show', 'attention')} {value:.3g}{' ' + unit if unit else ''}"
        if self.info.get("block_kind") == "readout":
            return f"attention {value:.3g}"
        even = value * _places(self)
        return f"attention {value:.3g} ({even:.1f} × an even share)"


def unasked(view: View) -> View:
    """Return a map that is shown while no pixel is chosen, and says so."""
    return replace(view, caption=f"No pixel is chosen yet. Until then:\n{view.caption}")


def row_view(tape: AttentionTape, row: AttentionRow, subject: str = "") -> View:
    """Return what a pixel, or an object on average, attended to.

    Parameters
    ----------
    subject : str
        Who looks; the pixel of the row when empty.
    """
    block = tape.block(row.block)
    info = _info(tape, block, row.head) | {
        "show": "row" if not subject else "object",
        "query": list(row.query),
        "register_share": row.register_share,
        "value": row.value,
        "sampled": False,
    }
    top = float(row.weights.max())
    who = subject or f"Pixel {row.query[0]}, {row.query[1]}"
    caption = "\n".join(
        (f"{who} looks at{_most(row)}", block_words(block, row.head), _share_words(row, block, top))
    )
    return View(row.weights, row.grid, limits(0.0, top), caption, info)


def map_view(tape: AttentionTape, made: FieldMap, start: str = "") -> View:
    """Return a map over the field: attention received, entropy, distance, uncertainty, rollout.

    Parameters
    ----------
    start : str
        Where a rollout starts, in words.
    """
    block = tape.blocks.get(made.block)
    info = {"show": made.kind, "sampled": not made.exact, "unit": made.unit, "value": False}
    if block is not None:
        info |= _info(tape, block, made.head)
        if made.kind == "received":
            info["register_share"] = float(np.clip(1.0 - made.values.sum(dtype=float), 0.0, 1.0))
    else:
        info |= {"block": made.block, "head": made.head, "model": tape.model}
    where = block_words(block, made.head) if block is not None else _token_words(made.grid)
    title = " ".join(part for part in (TITLES[made.kind], start) if part)
    lines = [title + (f" ({made.unit})" if made.unit else ""), where]
    registers = f"registers {info['register_share']:.0%} · " if "register_share" in info else ""
    lines.append(registers + made.note + _cut_words(made))
    return View(made.values, made.grid, limits(*made.limits), "\n".join(lines), info)


def _cut_words(made: FieldMap) -> str:
    """Say how many places of a map lie above what its brightest colour stands for."""
    top = limits(*made.limits)[1]
    above = int((made.values > top + 1e-6 * abs(top)).sum())  # beyond rounding
    places = f"{above} place{'' if above == 1 else 's'} above {made.limits[1]:.2g}"
    return f" · {places} {'is' if above == 1 else 'are'} drawn as that" if above else ""


def sureness_view(tape: AttentionTape, made: Assignment, mask: npt.NDArray[np.bool_], subject: str) -> View:
    """Return the margin of the readout over an object's pixels, 0 elsewhere.

    Parameters
    ----------
    mask : ndarray, (H, W) bool
        The object in its plane.
    """
    block = tape.block("readout")
    (y, x), (h, w) = made.origin, made.margin.shape
    values = np.where(mask[y : y + h, x : x + w], made.margin, 0.0).astype(np.float32)
    caption = (
        f"{subject}: how clearly its pixels chose their seed (best minus runner-up)\n"
        f"readout · one value per pixel · 1 = no doubt, near 0 = could have gone to the other · exact"
    )
    info = _info(tape, block, "mean") | {"show": "margin", "sampled": False, "value": False, "unit": ""}
    return View(values, block.grid, (0.0, 1.0), caption, info)


def difference_view(tape: AttentionTape, pair: RowPair, other: str) -> View:
    """Return the second model's row minus the first's."""
    block = tape.block(pair.a.block)
    info = _info(tape, block, pair.a.head) | {
        "show": "difference",
        "query": list(pair.a.query),
        "other": other,
        "sampled": False,
        "value": pair.a.value,
        "unit": "",
    }
    caption = (
        f"Pixel {pair.a.query[0]}, {pair.a.query[1]}: '{other}' minus '{tape.model}'\n"
        f"{block_words(block, pair.a.head)}\n"
        f"orange: '{other}' looks there more, blue: less · {pair.overlap:.0%} of the attention in common"
    )
    span = max(float(pair.span), 1e-6)
    return View(pair.difference, pair.a.grid, (-span, span), caption, info, signed=True)


def block_words(block: Block, head: str) -> str:
    """Name a block, what it sees, the head and the size of a token."""
    if block.kind == "readout":
        return f"{block.name} (pixels attend to seeds) · {_token_words(block.grid)}"
    side = 2 * (block.window or 0) + 1
    where = "whole field" if block.window is None else f"window of {side} × {side} tokens"
    heads = f"mean of {block.heads} heads" if head == "mean" else f"head {head}"
    return f"{block.name} ({where}) · {heads} · {_token_words(block.grid)}"


def field_words(grid: TokenGrid, shape_yx: tuple[int, int]) -> str:
    """Say which part of the plane was looked at in one piece; "" when it was the whole plane."""
    if tuple(grid.field) == tuple(shape_yx):
        return ""
    (y, x), (h, w) = grid.origin, grid.field
    return f"Field: rows {y}–{y + h - 1}, columns {x}–{x + w - 1}; attention does not leave it."


def brightest(view: View, count: int, least: float) -> list[tuple[float, float]]:
    """Return the image positions (y, x) of the largest values, those below ``least`` left out."""
    order = np.argsort(-view.values, axis=None)[:count]
    found = [divmod(int(n), view.values.shape[1]) for n in order if view.values.flat[n] >= least]
    return [view.grid.pixel_of(token) for token in found]


def limits(low: float, high: float) -> tuple[float, float]:
    """Return limits that a layer takes: the second above the first."""
    return (low, high) if high > low else (low, low + 1e-6)


def _token_words(grid: TokenGrid) -> str:
    return "tokens are pixels" if grid.cell == 1 else f"tokens of {grid.cell:.3g} px"


def _places(view: View) -> int:
    """Return over how many tokens an even row would spread: the window of a local block, else all."""
    window = view.info.get("window")
    return int(view.values.size) if window is None else (2 * int(window) + 1) ** 2


def _share_words(row: AttentionRow, block: Block, top: float) -> str:
    if block.kind == "readout":
        return f"all seeds and the background slot sum to 1 (background {row.register_share:.0%}) · exact"
    places = row.weights.size if row.window is None else (2 * row.window + 1) ** 2
    what = "what each place added, as shares" if row.value else "weights"
    return (
        f"{what} that sum to 1 with the registers ({row.register_share:.0%}) · brightest "
        f"{top * places:.1f} × an even share · exact"
    )


def _info(tape: AttentionTape, block: Block, head: str) -> dict[str, Any]:
    return {
        "block": block.name,
        "block_kind": block.kind,
        "head": head,
        "stride": block.grid.stride,
        "zoom": block.grid.zoom,
        "window": block.window,
        "model": tape.model,
    }


def _most(row: AttentionRow) -> str:
    """Name the place that gets half of the attention or more: it may be one pixel, hard to find by eye."""
    top = int(row.weights.argmax())
    share = float(row.weights.flat[top])
    if share < 0.5:
        return ":"
    where = divmod(top, row.weights.shape[1])
    y, x = (round(p) for p in row.grid.pixel_of(where))
    return f" {y}, {x} above all ({share:.0%})"


_FILLS, _ROOM = 0.25, 1.5  # of a scale that is kept; above the brightest place of a new one


def steadied(view: View, before: View | None) -> View:
    """Return a row on the scale of the row before while it fills a quarter of that; else with room above.

    A new scale draws the colour bar anew, which takes longer than the row.
    """
    same = ("show", "block", "head", "value", "model")
    if before is None or any(view.info.get(k) != before.info.get(k) for k in same):
        return view
    (low, high), top = before.limits, view.limits[1]
    if view.info.get("show") != "row" or low != view.limits[0]:
        return view
    return replace(view, limits=before.limits if _FILLS * high < top <= high else (low, _ROOM * top))
