"""What is asked of a run's attention, and what can be asked of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from napari_attnseg.core.attention_maps import ROLLOUT

if TYPE_CHECKING:
    from napari_attnseg._napari.session import Run
    from napari_attnseg.core.attention import AttentionTape

PIXEL, OBJECT, SURE = "pixel", "object", "sureness"
THIS, OTHER, DIFFERENCE, BESIDE = "this", "other", "difference", "beside"


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked.

    Attributes
    ----------
    what : str
        "pixel", "object", "sureness" (of an object's pixels), or a kind of map over the field.
    block, head : str
    value : bool
        Weights times the size of what they multiply.
    pixel : tuple of int or None
        (y, x) in the plane.
    label, second : int
        Objects, by their ids in the Labels layer of the run; 0 is none.
    compare : str
        With a second model: "this", "other", "difference" or "beside".
    """

    what: str = PIXEL
    block: str = ""
    head: str = "mean"
    value: bool = False
    pixel: tuple[int, int] | None = None
    label: int = 0
    second: int = 0
    compare: str = THIS


def of_pixel(question: Question) -> bool:
    """Tell whether the question is about what one pixel looked at: in a block, or through all of them."""
    if question.pixel is None:
        return False
    return question.what == PIXEL or (question.what == ROLLOUT and not question.label)


def map_kind(question: Question) -> str:
    """Return the map that a question needs: of a pixel that is not chosen yet, the attention received."""
    return "received" if question.what == PIXEL else question.what


def map_key(question: Question) -> tuple[Any, ...]:
    """Return what a map depends on, but for the tape."""
    kind = map_kind(question)
    if kind == ROLLOUT:
        return kind, question.head, question.pixel, question.label
    return kind, "readout" if kind == "uncertainty" else question.block, question.head


def weighs(tape: AttentionTape, question: Question) -> bool:
    """Tell whether weights are to be multiplied by values, and can be."""
    return question.value and tape.has_values(question.block)


def widest_block(tape: AttentionTape) -> str:
    """Return the block to show first: the last global one, else the last."""
    names = list(tape.blocks)
    wide = [name for name in names if tape.blocks[name].kind == "global"]
    return (wide or names)[-1]


def plane_words(run: Run) -> str:
    """Name the plane that a run's tape belongs to: "T 3, Z 1"; "" where there is one plane only."""
    return ", ".join(f"{axis} {n}" for axis, n in zip(run.source.plane_axes, run.plane.index, strict=True))


def has_attention(run: Run | None) -> bool:
    """Tell whether a run was made by the network."""
    return run is not None and run.segmentation.params.get("method") == "attention"


def same_run(now: Run, then: Run) -> bool:
    """Tell whether two states are of one run: live changes write into its layer, a new run makes its own."""
    return now.shown.layer is then.shown.layer


def outside_field(run: Run, pixel: tuple[int, int]) -> str:
    """Return why a pixel cannot be asked about; "" when it can."""
    if run.encoded is not None:
        field = run.encoded.field
        if not all(part.start <= p < part.stop for part, p in zip(field, pixel, strict=True)):
            return "That pixel lies outside the field that was segmented."
    return ""


def hint_words(run: Run | None, here: bool, what: str, following: bool, canvas: str = "") -> str:
    """Say what can be done now.

    Parameters
    ----------
    here : bool
        Whether the viewer is at the plane of the run's tape.
    what : str
        What is chosen to be shown.
    following : bool
        Whether the query follows the mouse.
    canvas : str
        Why nothing can be asked in what the canvas shows; "" when it can.
    """
    if run is None:
        return "Run the attention network on an image; its attention is shown here after the run."
    if not has_attention(run):
        return "The last run used a classic method, which has no attention."
    if canvas:
        return canvas
    if run.tape is None:
        return "Click a pixel of the image to record the attention of this plane."
    if not here:
        return f"What is shown belongs to {plane_words(run)}. Click a pixel to record this plane."
    if not run.tape.exposed:
        return "This model does not expose its attention weights: only its readout can be shown."
    if what == PIXEL:
        start = "Move the mouse over the image, or click it," if following else "Click a pixel of the image"
        return f"{start} to see what that place looks at. Shift+click pins it."
    if what == OBJECT:
        return "Click an object to see what it looks at."
    if what == SURE:
        return "Click an object to see how clearly its pixels chose their seed."
    if what == ROLLOUT:
        return "Click a pixel, or choose an object: its attention is followed back through all blocks."
    return "A map over the field. Click a pixel to see what that place looks at."
