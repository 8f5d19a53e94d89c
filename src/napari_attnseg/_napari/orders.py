"""From what the panel says to a run: which layers, planes and field, with which parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from napari_attnseg._napari.canvas import why_no_planes
from napari_attnseg._napari.layers import images, plane_at, source_of, visible_field
from napari_attnseg.jobs.segment import needs_engine, segment
from napari_attnseg.jobs.warmup import warmup
from napari_attnseg.records import Progress

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from napari.components import ViewerModel
    from napari.layers import Image

    from napari_attnseg.engine import Engine
    from napari_attnseg.params import SegmentParams
    from napari_attnseg.records import Encoded, ImageSource, PlaneKey, Segmentation

Scope = Literal["visible field", "current plane", "whole layer", "selected layers"]
SCOPES: tuple[Scope, ...] = ("visible field", "current plane", "whole layer", "selected layers")


@dataclass(frozen=True, slots=True)
class Order:
    """One image layer to be segmented.

    Attributes
    ----------
    planes : tuple of PlaneKey or None
        None is all of them.
    field : tuple of slice or None
        (Y, X) part of the planes; None is all of it.
    plane : PlaneKey
        The plane that is looked at now.
    """

    image: Image
    source: ImageSource
    params: SegmentParams
    planes: tuple[PlaneKey, ...] | None
    field: tuple[slice, slice] | None
    plane: PlaneKey
    scope: Scope


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the run of one order gave."""

    order: Order
    segmentation: Segmentation
    encoded: Encoded | None


def order_for(
    viewer: ViewerModel, image: Image, axes: str | None, params: SegmentParams, scope: Scope
) -> Order:
    """Return the order for one image layer as the viewer shows it now."""
    source = source_of(image, axes)
    plane = plane_at(image, source, viewer.dims.point)
    field = visible_field(image, source.shape_yx) if scope == "visible field" else None
    planes = (plane,) if scope in ("visible field", "current plane") else None
    return Order(image, source, params, planes, field, plane, scope)


def why_unknown(viewer: ViewerModel, source: ImageSource | None, scope: Scope) -> str:
    """Return why the canvas does not tell what a scope means; "" when it does.

    An image of one plane has a current plane in every view.
    """
    planes = source is not None and bool(source.plane_axes)
    if scope == "visible field" or (scope == "current plane" and planes):
        return why_no_planes(viewer, f"The {scope} is known")
    return ""


def chosen_images(viewer: ViewerModel, image: Image | None, scope: Scope) -> list[Image]:
    """Return the image layers a scope means."""
    if scope == "selected layers":
        return [layer for layer in images(viewer.layers) if layer in viewer.layers.selection]
    return [image] if image is not None else []


def run_orders(
    engine: Engine | None, orders: Sequence[Order]
) -> Generator[Progress, None, tuple[Engine | None, list[Outcome]]]:
    """Run every order, loading the network first when it is needed and not there yet."""
    first = orders[0].params
    if engine is None and needs_engine(first):
        engine = yield from warmup(first.model, first.device)
    outcomes = []
    for number, order in enumerate(orders):
        job = segment(engine, order.source, order.params, planes=order.planes, field=order.field)
        lead = f"{order.source.name}: " if len(orders) > 1 else ""
        result, encoded = yield from _named(job, lead, number, len(orders))
        outcomes.append(Outcome(order, result, encoded))
    return engine, outcomes


def _named(
    job: Generator[Progress, None, tuple[Segmentation, Encoded | None]], lead: str, number: int, count: int
) -> Generator[Progress, None, tuple[Segmentation, Encoded | None]]:
    """Pass progress on as a share of all layers, with the layer's name in front."""
    try:
        while True:
            step = next(job)
            total = step.total * count
            yield Progress(step.done + number * step.total, total, lead + step.note)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    finally:
        job.close()
